//! The softmax family on strided operands: what the CPU device runs.
//!
//! All operands of a call have the shape of `rows`, if need be by strides of 0; a per-row operand (an lse and its gradient)
//! is read and written at index 0 of the dim. Checks are the caller's: shapes agree, `tau` is finite and above 0.

use crate::dtype::Float;

use super::{Operand, Output, Rows, Visible, row};

/// Which function of the logits, and how they are read.
#[derive(Clone, Copy, Debug)]
pub struct Logits<'a, T> {
    /// The logits.
    pub x: Operand<'a, T>,
    /// Entries that take part; all of them without a mask.
    pub visible: Option<Visible<'a>>,
    /// Whether the logits are negated (softmin). +inf then hides.
    pub negate: bool,
    /// The temperature.
    pub tau: f64,
}

impl<T: Float> Logits<'_, T> {
    /// One row in float64, hidden entries as -inf. What a mask hides is never looked at.
    fn row(&self, rows: &Rows, row: usize) -> Vec<f64> {
        let sign = if self.negate { -1.0 } else { 1.0 };
        let values = self.x.row(rows, row).map(|x| sign * x.to_f64());
        match self.visible {
            None => values.collect(),
            Some(mask) => {
                let shown = mask.bits.row(rows, row).map(|bit| mask.polarity.visible(bit));
                values.zip(shown).map(|(x, shown)| if shown { x } else { f64::NEG_INFINITY }).collect()
            }
        }
    }
}

/// Softmax along the rows.
pub fn softmax<T: Float>(rows: &Rows, logits: &Logits<T>, y: Output<T>) {
    y.write_rows(rows, |row, out| round(row::softmax(&logits.row(rows, row), logits.tau), out));
}

/// Log-softmax along the rows.
pub fn log_softmax<T: Float>(rows: &Rows, logits: &Logits<T>, y: Output<T>) {
    y.write_rows(rows, |row, out| round(row::log_softmax(&logits.row(rows, row), logits.tau), out));
}

/// `ln(sum(exp(x / tau)))` of every row.
pub fn logsumexp<T: Float>(rows: &Rows, logits: &Logits<T>, lse: Output<f32>) {
    lse.write_one_per_row(rows, |row| row::logsumexp(&logits.row(rows, row), logits.tau) as f32);
}

/// Gradient of [`softmax`] from its result.
///
/// `negate` is that of the forward call: the gradient of softmin has the other sign.
pub fn softmax_backward<T: Float>(rows: &Rows, y: Operand<T>, dy: Operand<T>, negate: bool, tau: f64, dx: Output<T>) {
    let signed_tau = if negate { -tau } else { tau };
    dx.write_rows(rows, |row, out| {
        round(row::softmax_backward(&wide(rows, y, row), &wide(rows, dy, row), signed_tau), out)
    });
}

/// Gradient of [`log_softmax`] from its result.
pub fn log_softmax_backward<T: Float>(rows: &Rows, y: Operand<T>, dy: Operand<T>, tau: f64, dx: Output<T>) {
    dx.write_rows(rows, |row, out| {
        round(row::log_softmax_backward(&wide(rows, y, row), &wide(rows, dy, row), tau), out)
    });
}

/// Gradient of [`logsumexp`] from the logits.
pub fn logsumexp_backward<T: Float>(rows: &Rows, logits: &Logits<T>, dlse: Operand<f32>, dx: Output<T>) {
    dx.write_rows(rows, |row, out| {
        let dlse = f64::from(dlse.at(rows, row));
        let dlse = if logits.negate { -dlse } else { dlse };
        round(row::logsumexp_backward(&logits.row(rows, row), dlse, logits.tau), out);
    });
}

fn wide<T: Float>(rows: &Rows, operand: Operand<T>, row: usize) -> Vec<f64> {
    operand.row(rows, row).map(Float::to_f64).collect()
}

fn round<T: Float>(exact: Vec<f64>, out: &mut [T]) {
    exact.into_iter().zip(out).for_each(|(x, out)| *out = T::from_f64(x));
}
