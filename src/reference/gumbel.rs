//! Gumbel-softmax: the definition on one row, and the loop over strided operands.

use super::philox::{Source, words};
use super::row::{State, softmax};
use super::{Operand, Output, Rows};
use crate::dtype::Float;

/// The noise of a random word: `-ln(-ln(u))` with `u = (word + 1/2) / 2^32`.
pub fn noise(word: u32) -> f64 {
    // Near 1, ln(u) is that of 1 less what is missing, which is exact.
    let half = |word: u32| (f64::from(word) + 0.5) * 2f64.powi(-32);
    let log = if word >> 31 == 0 { half(word).ln() } else { (-half(!word)).ln_1p() };
    -(-log).ln()
}

/// The noise of element `i` of a row of `len` elements: word `i % 4` of the words number `row * ceil(len / 4) + i / 4`.
pub fn noise_at(seed: u64, offset: u64, row: u64, len: usize, i: usize) -> f64 {
    let number = row.wrapping_mul(len.div_ceil(4) as u64).wrapping_add(i as u64 / 4);
    noise(words(seed, offset, number)[i % 4])
}

/// A row with noise on it: `x - max + g`, as f32 holds it if `x` is finite.
pub fn perturbed(x: &[f64], noise: impl Fn(usize) -> f64) -> Vec<f64> {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let shift = if max == f64::NEG_INFINITY { 0.0 } else { max };
    x.iter().enumerate().map(|(i, x)| x - shift + noise(i)).collect()
}

/// 1 at the first largest entry, 0 elsewhere; all 0 if nothing is visible, all NaN if the row has a NaN or +inf.
pub fn one_hot(z: &[f64]) -> Vec<f64> {
    let max = State::of(z, 1.0).max;
    let first = z.iter().position(|v| *v == max && max > f64::NEG_INFINITY);
    let zero = if max.is_nan() { f64::NAN } else { 0.0 };
    (0..z.len()).map(|i| if Some(i) == first { 1.0 } else { zero }).collect()
}

/// The softmax of every row with noise on it, or the one-hot row of its largest.
pub fn rows<T: Float>(rows: &Rows, x: Operand<T>, tau: f64, source: Source, hard: bool, y: Output<T>) {
    y.write_rows(rows, |row, out| {
        let (seed, offset, number) = source.of_row(row);
        let x: Vec<f64> = x.row(rows, row).map(Float::to_f64).collect();
        let z = perturbed(&x, |i| noise_at(seed, offset, number, x.len(), i));
        let exact = if hard { one_hot(&z) } else { softmax(&z, tau) };
        exact.into_iter().zip(out).for_each(|(value, out)| *out = T::from_f64(value));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_at_both_ends() {
        // -ln(2^-33) = 33 ln 2, and -ln(1 - 2^-33) is 2^-33 to 10 digits.
        let ln2 = std::f64::consts::LN_2;
        assert!((noise(0) + (33.0 * ln2).ln()).abs() < 1e-14);
        assert!((noise(u32::MAX) - 33.0 * ln2).abs() < 1e-9);
        let (below, above) = (noise((1 << 31) - 1), noise(1 << 31));
        assert!(below < above && above - below < 1e-8 && (above + ln2.ln()).abs() < 1e-8);
        assert!((1..100).all(|i| noise(i << 25) > noise((i << 25) - 1)), "it grows with the word");
    }

    #[test]
    fn one_hot_rows() {
        let hidden = f64::NEG_INFINITY;
        assert_eq!(one_hot(&[1.0, 3.0, hidden, 3.0]), [0.0, 1.0, 0.0, 0.0]);
        assert_eq!(one_hot(&[hidden, hidden]), [0.0, 0.0]);
        assert!(one_hot(&[1.0, f64::NAN]).iter().all(|v| v.is_nan()));
    }
}
