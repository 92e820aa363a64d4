//! Merging attentions of the same queries over different keys.
//!
//! ```text
//! lse = ln(exp(lse_a) + exp(lse_b))      out = exp(lse_a - lse) * out_a + exp(lse_b - lse) * out_b
//! ```
//!
//! The result is the attention over both sets of keys. Merging is commutative and, up to rounding, associative, and a part
//! with lse -inf (which saw no key) is its identity, to the bit and whatever its `out` holds.

use super::super::{Operand, Output, Rows};
use super::head::{dot, round};
use crate::dtype::Float;

/// One part: out and the lse (natural logarithm) of its rows.
#[derive(Clone, Copy, Debug)]
pub struct Partial<'a, T> {
    /// Rows of features.
    pub out: Operand<'a, T>,
    /// One per row.
    pub lse: Operand<'a, f32>,
}

/// Where the two halves of a part, or of its gradient, go.
#[derive(Debug)]
pub struct Merged<'a, T> {
    /// Rows of features.
    pub out: Output<'a, T>,
    /// One per row.
    pub lse: Output<'a, f32>,
}

/// The lse of both and the weights of the two.
fn weights(a: f64, b: f64) -> (f64, f64, f64) {
    if empty(a) || empty(b) {
        let weight = |lse: f64| if empty(lse) { 0.0 } else { 1.0 };
        return (if empty(a) { b } else { a }, weight(a), weight(b));
    }
    let high = a.max(b);
    if a.is_nan() || b.is_nan() || high == f64::INFINITY {
        return (f64::NAN, f64::NAN, f64::NAN);
    }
    // 1 / (1 + exp(other - own)): nothing cancels, and the two add up to 1.
    let weight = |own: f64, other: f64| 1.0 / (1.0 + (other - own).exp());
    (high + (a.min(b) - high).exp().ln_1p(), weight(a, b), weight(b, a))
}

/// Whether a part saw no key: then nothing of it is looked at.
fn empty(lse: f64) -> bool {
    lse == f64::NEG_INFINITY
}

/// One row of two parts merged: the new out and lse. Two parts without keys give 0 and -inf.
pub fn merge(a: (&[f64], f64), b: (&[f64], f64)) -> (Vec<f64>, f64) {
    let (lse, weight_a, weight_b) = weights(a.1, b.1);
    let out = a.0.iter().zip(b.0).map(|(x, y)| match (empty(a.1), empty(b.1)) {
        (false, false) => weight_a * x + weight_b * y,
        (false, true) => *x,
        (true, false) => *y,
        (true, true) => 0.0,
    });
    (out.collect(), lse)
}

/// Gradients of [`merge`] for those of its result: `(dout_a, dlse_a)` and `(dout_b, dlse_b)`.
///
/// `dout_a = weight_a * dout` and `dlse_a = weight_a * dlse + weight_a * weight_b * dot(dout, out_a - out_b)`; the gradients
/// of a part without keys are 0.
pub fn merge_backward(
    a: (&[f64], f64),
    b: (&[f64], f64),
    dout: &[f64],
    dlse: f64,
) -> ((Vec<f64>, f64), (Vec<f64>, f64)) {
    let (_, weight_a, weight_b) = weights(a.1, b.1);
    let side = |own: (&[f64], f64), weight: f64, other: (&[f64], f64), rest: f64| {
        if empty(own.1) {
            return (vec![0.0; own.0.len()], 0.0);
        }
        // Where the other part is empty its out is not looked at; its weight is 0.
        let difference = if empty(other.1) { 0.0 } else { rest * (dot(dout, own.0) - dot(dout, other.0)) };
        (dout.iter().map(|d| weight * d).collect(), weight * (dlse + difference))
    };
    (side(a, weight_a, b, weight_b), side(b, weight_b, a, weight_a))
}

/// [`merge`] of every row; the lses are read and written at index 0 of the rows' dim.
pub fn merge_rows<T: Float>(rows: &Rows, a: Partial<T>, b: Partial<T>, merged: Merged<T>) {
    let both = |row: usize| {
        let (out_a, out_b) = (wide(rows, a.out, row), wide(rows, b.out, row));
        merge((&out_a, lse(rows, a.lse, row)), (&out_b, lse(rows, b.lse, row)))
    };
    merged.out.write_rows(rows, |row, out| round(&both(row).0, out));
    merged.lse.write_one_per_row(rows, |row| both(row).1 as f32);
}

/// [`merge_backward`] of every row. `gradient` is that of the merged part, `da` and `db` those of the two.
pub fn merge_rows_backward<T: Float>(
    rows: &Rows,
    a: Partial<T>,
    b: Partial<T>,
    gradient: Partial<T>,
    da: Merged<T>,
    db: Merged<T>,
) {
    let both = |row: usize| {
        let (out_a, out_b, dout) = (wide(rows, a.out, row), wide(rows, b.out, row), wide(rows, gradient.out, row));
        let (a, b) = ((&out_a[..], lse(rows, a.lse, row)), (&out_b[..], lse(rows, b.lse, row)));
        merge_backward(a, b, &dout, lse(rows, gradient.lse, row))
    };
    da.out.write_rows(rows, |row, out| round(&both(row).0.0, out));
    da.lse.write_one_per_row(rows, |row| both(row).0.1 as f32);
    db.out.write_rows(rows, |row, out| round(&both(row).1.0, out));
    db.lse.write_one_per_row(rows, |row| both(row).1.1 as f32);
}

fn wide<T: Float>(rows: &Rows, operand: Operand<T>, row: usize) -> Vec<f64> {
    operand.row(rows, row).map(Float::to_f64).collect()
}

fn lse(rows: &Rows, operand: Operand<f32>, row: usize) -> f64 {
    f64::from(operand.at(rows, row))
}
