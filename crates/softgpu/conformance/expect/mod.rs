//! What a form must compute: definitions of the PTX manual in wide integers and exact numbers, sharing no code with the
//! interpreter. Approximate functions are held to the error that the manual allows.

mod bits;
mod convert;
mod float;
pub mod half;
mod int;
mod pred;
pub mod round;

use super::form::Form;

/// What a register must hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Expect {
    /// These bits.
    Bits(u64),
    /// An f32 at most `error` away from a value.
    Near { value: f64, error: f64 },
    /// An f64 at most `error` away from a value, its lower 32 bits zeros if it is `cut`.
    Coarse { value: f64, error: f64, cut: bool },
    /// Two f16 (or bf16) in this order, lower first, of which `count` are there.
    Halves { values: [f64; 2], error: [f64; 2], count: usize, bf16: bool },
    /// The manual leaves it open.
    Free,
}

/// What the destinations must hold for a row of inputs. `None`: nothing is known of this form.
pub fn expect(form: &Form, row: &[u64]) -> Option<Vec<Expect>> {
    let x = form.values(row);
    if let Some(all) = pred::expect(form, &x) {
        return Some(all);
    }
    let one = convert::expect(form, &x)
        .or_else(|| half::expect(form, &x))
        .or_else(|| float::expect(form, &x))
        .or_else(|| int::expect(form, &x).map(Expect::Bits))
        .or_else(|| bits::expect(form, &x).map(Expect::Bits));
    one.map(|one| vec![one])
}

impl Expect {
    /// Whether a register holds it.
    pub fn holds(self, got: u64) -> bool {
        match self {
            Expect::Bits(bits) => bits == got,
            Expect::Near { value, error } => near(f64::from(f32::from_bits(got as u32)), value, error),
            Expect::Coarse { value, error, cut } => {
                near(f64::from_bits(got), value, error) && (!cut || got as u32 == 0)
            }
            Expect::Halves { values, error, count, bf16 } => {
                (0..count).all(|i| near(half_of(got, i, bf16), values[i], error[i]))
            }
            Expect::Free => true,
        }
    }

    /// Whether two devices may both be right: where a result is approximate they may be twice its error apart.
    pub fn agree(self, ours: u64, theirs: u64) -> bool {
        let single = |bits: u64| f64::from(f32::from_bits(bits as u32));
        match self {
            Expect::Bits(_) => ours == theirs,
            Expect::Near { error, .. } => near(single(ours), single(theirs), 2.0 * error),
            Expect::Coarse { error, .. } => near(f64::from_bits(ours), f64::from_bits(theirs), 2.0 * error),
            Expect::Halves { error, count, bf16, .. } => {
                (0..count).all(|i| near(half_of(ours, i, bf16), half_of(theirs, i, bf16), 2.0 * error[i]))
            }
            Expect::Free => true,
        }
    }
}

/// One of the halves of a register.
fn half_of(bits: u64, i: usize, bf16: bool) -> f64 {
    let bits = bits >> (16 * i) & 0xffff;
    if bf16 { half::bf16(bits) } else { half::f16(bits) }
}

fn near(got: f64, value: f64, error: f64) -> bool {
    if value.is_nan() { got.is_nan() } else { got == value || (got - value).abs() <= error }
}

/// Bits and sign of an integer type.
pub fn integer(name: &str) -> Option<(u32, bool)> {
    let bits = name.get(1..)?.parse().ok()?;
    match name.as_bytes()[0] {
        b'u' | b'b' => Some((bits, false)),
        b's' => Some((bits, true)),
        _ => None,
    }
}

/// The low bits of a value as a number.
pub fn number(value: u64, bits: u32, signed: bool) -> i128 {
    let low = i128::from(value) & ((1i128 << bits) - 1);
    if signed && low >> (bits - 1) == 1 { low - (1i128 << bits) } else { low }
}

/// A number in so many bits.
pub fn wrap(value: i128, bits: u32) -> u64 {
    (value & ((1i128 << bits) - 1)) as u64
}

/// The nearest number that so many bits can hold.
pub fn clamp(value: i128, bits: u32, signed: bool) -> i128 {
    let (low, high) =
        if signed { (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1) } else { (0, (1i128 << bits) - 1) };
    value.clamp(low, high)
}
