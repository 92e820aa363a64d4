//! Sampling: the definition on one row, with a sort, and the loop over strided operands.

use super::philox::{Source, bits};
use super::row::State;
use super::{Operand, Rows, Sum};
use crate::dtype::Float;
use rayon::prelude::*;

/// What leaves entries out, in this order.
#[derive(Clone, Copy, Debug)]
pub struct Cuts {
    /// The temperature, finite and above 0.
    pub tau: f64,
    /// The largest entries that stay; all of them without.
    pub top_k: Option<usize>,
    /// The part of the probability, of what `top_k` left, that the largest entries must reach together; 1 keeps all.
    pub top_p: f64,
    /// The least probability, as a part of the largest one; 0 keeps all.
    pub min_p: f64,
}

/// What was drawn of one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// The index.
    pub id: usize,
    /// ln of the probability with which it is drawn.
    pub log_probability: f64,
    /// The part of the softmax that the cuts left.
    pub kept_mass: f64,
}

/// exp((x - max) / tau); 0 for a hidden entry.
fn weight(x: f64, max: f64, tau: f64) -> f64 {
    ((x - max) / tau).exp()
}

/// The smallest entry that stays. Equal entries stay or go together. The row has a finite maximum, and nothing in it is NaN.
pub fn threshold(x: &[f64], cuts: &Cuts) -> f64 {
    let mut sorted: Vec<f64> = x.iter().copied().filter(|v| *v > f64::NEG_INFINITY).collect();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let max = sorted[0];
    if let Some(k) = cuts.top_k.filter(|k| *k < sorted.len()) {
        let last = sorted[k - 1];
        sorted.retain(|v| *v >= last);
    }
    if cuts.top_p < 1.0 {
        let wanted = cuts.top_p * Sum::of(sorted.iter().map(|v| weight(*v, max, cuts.tau))).value();
        let mut reached = Sum::default();
        let last = sorted.iter().copied().find(|v| {
            reached = reached.plus(weight(*v, max, cuts.tau));
            reached.value() >= wanted
        });
        // With all of them, rounding alone may leave the sum short.
        let last = last.unwrap_or(f64::NEG_INFINITY);
        sorted.retain(|v| *v >= last);
    }
    let least = max + cuts.tau * cuts.min_p.ln();
    sorted.into_iter().rev().find(|v| *v >= least).unwrap_or(max)
}

/// Draws an index of a row with 64 random bits, read as `u` = `bits` / 2^64: the first kept one for which the weights of kept
/// entries up to it add up to more than `u` times the weight of all that are kept. Nothing if the row holds a NaN or +inf, or
/// nothing visible.
pub fn sample(x: &[f64], cuts: &Cuts, bits: u64) -> Option<Draw> {
    let state = State::of(x, cuts.tau);
    if !state.max.is_finite() {
        return None;
    }
    let least = threshold(x, cuts);
    let kept = |v: f64| if v >= least { weight(v, state.max, cuts.tau) } else { 0.0 };
    let mass = Sum::of(x.iter().map(|v| kept(*v))).value();
    let target = bits as f64 * 2f64.powi(-64) * mass;
    let mut reached = Sum::default();
    let found = x.iter().position(|v| {
        reached = reached.plus(kept(*v));
        kept(*v) > 0.0 && reached.value() > target
    });
    // The largest fraction may round to 1.
    let id = found.or_else(|| x.iter().rposition(|v| kept(*v) > 0.0))?;
    let kept_mass = mass / (1.0 + state.others);
    Some(Draw { id, log_probability: (x[id] - state.max) / cuts.tau - mass.ln(), kept_mass: kept_mass.min(1.0) })
}

/// [`sample`] of every row, in parallel.
pub fn rows<T: Float>(rows: &Rows, x: Operand<T>, cuts: &Cuts, source: Source) -> Vec<Option<Draw>> {
    let of_row = |row| {
        let (seed, offset, index) = source.of_row(row);
        sample(&x.row(rows, row).map(Float::to_f64).collect::<Vec<_>>(), cuts, bits(seed, offset, index))
    };
    (0..rows.count()).into_par_iter().with_min_len(16).map(of_row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Cuts = Cuts { tau: 1.0, top_k: None, top_p: 1.0, min_p: 0.0 };

    /// ln of 4, 1, 2, 1 eighths, a hidden entry in front.
    fn eighths() -> [f64; 5] {
        [f64::NEG_INFINITY, 4f64.ln(), 0.0, 2f64.ln(), 0.0]
    }

    #[test]
    fn thresholds_by_hand() {
        let (x, ln2) = (eighths(), 2f64.ln());
        let of = |cuts: Cuts| threshold(&x, &cuts);
        assert_eq!(of(NONE), 0.0);
        assert_eq!(of(Cuts { top_k: Some(1), ..NONE }), 2.0 * ln2);
        assert_eq!(of(Cuts { top_k: Some(3), ..NONE }), 0.0, "the fourth is equal to the third");
        assert_eq!(of(Cuts { top_k: Some(5), ..NONE }), 0.0, "what is hidden stays hidden");
        assert_eq!(of(Cuts { top_p: 0.49, ..NONE }), 2.0 * ln2);
        assert_eq!(of(Cuts { top_p: 0.51, ..NONE }), ln2);
        assert_eq!(of(Cuts { top_p: 0.76, ..NONE }), 0.0);
        assert_eq!(of(Cuts { top_k: Some(2), top_p: 0.66, ..NONE }), 2.0 * ln2, "two thirds of what top-k left");
        assert_eq!(of(Cuts { min_p: 0.49, ..NONE }), ln2);
        assert_eq!(of(Cuts { min_p: 0.51, ..NONE }), 2.0 * ln2);
        assert_eq!(of(Cuts { min_p: 1.0, ..NONE }), 2.0 * ln2);
        assert_eq!(of(Cuts { tau: 2.0, min_p: 0.51, ..NONE }), ln2);
    }

    #[test]
    fn draws_by_hand() {
        let id = |cuts: &Cuts, eighths_of: f64| {
            sample(&eighths(), cuts, (eighths_of / 8.0 * 2f64.powi(64)) as u64).map(|draw| draw.id)
        };
        for (u, want) in [(0.0, 1), (3.99, 1), (4.01, 2), (4.99, 2), (5.01, 3), (6.99, 3), (7.01, 4), (8.0, 4)] {
            assert_eq!(id(&NONE, u), Some(want), "{u}");
        }
        let two = Cuts { top_k: Some(2), ..NONE };
        for (u, want) in [(0.0, 1), (5.3, 1), (5.4, 3), (8.0, 3)] {
            assert_eq!(id(&two, u), Some(want), "{u}");
        }
        let draw = sample(&eighths(), &two, u64::MAX).expect("something is visible");
        assert!((draw.log_probability - (1f64 / 3.0).ln()).abs() < 1e-15 && (draw.kept_mass - 0.75).abs() < 1e-15);
    }

    #[test]
    fn rows_without_anything_to_draw() {
        let hidden = f64::NEG_INFINITY;
        for x in [[hidden, hidden], [f64::NAN, 0.0], [0.0, f64::INFINITY], [f64::NAN, hidden]] {
            assert_eq!(sample(&x, &NONE, 7), None);
        }
        assert_eq!(sample(&[hidden, -1e300], &NONE, u64::MAX).map(|draw| draw.id), Some(1));
        assert_eq!(sample(&[0.0, -1e300], &NONE, u64::MAX).map(|draw| draw.id), Some(0), "a probability of 0");
    }
}
