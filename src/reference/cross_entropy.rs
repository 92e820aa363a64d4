//! Cross-entropy on class targets: the formulae on one row, and the loop over strided operands.

use crate::dtype::Float;

use super::row::State;
use super::{Operand, Output, Rows};
use rayon::prelude::*;

/// What the target of a row says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The row's class.
    Class(usize),
    /// The row does not count: loss 0, gradient 0.
    Ignored,
    /// Neither a class nor the ignored value: loss NaN, gradient 0.
    Bad(i64),
}

impl Target {
    /// Reads a target. The ignored value is looked at first: it may lie inside or outside the classes.
    pub fn of(value: i64, classes: usize, ignore_index: Option<i64>) -> Target {
        match usize::try_from(value) {
            _ if Some(value) == ignore_index => Target::Ignored,
            Ok(class) if class < classes => Target::Class(class),
            _ => Target::Bad(value),
        }
    }
}

/// An integer type that targets may have.
pub trait Index: Copy + Send + Sync {
    /// The value, exactly.
    fn to_i64(self) -> i64;
}

impl Index for i64 {
    fn to_i64(self) -> i64 {
        self
    }
}

impl Index for i32 {
    fn to_i64(self) -> i64 {
        i64::from(self)
    }
}

impl Index for u32 {
    fn to_i64(self) -> i64 {
        i64::from(self)
    }
}

/// `-ln(p[target])` of one row: `(max - x[target]) / tau + ln(1 + others)`, a sum of two terms that are never negative.
///
/// +inf if the target is hidden; NaN if the row holds a NaN or +inf.
pub fn loss(x: &[f64], target: usize, tau: f64) -> f64 {
    -State::of(x, tau).log_probability(x[target], tau)
}

/// Gradient of [`loss`] by the logits: `(p - onehot) / tau`. A row with nothing visible has gradient 0.
///
/// At a target that is the largest entry, `p - 1` is `-others / (1 + others)`: right at any margin.
pub fn loss_backward(x: &[f64], target: usize, tau: f64) -> Vec<f64> {
    let state = State::of(x, tau);
    let gradient = |(i, v): (usize, &f64)| {
        let slope = if state.is_empty() {
            0.0
        } else if i != target {
            state.probability(*v, tau)
        } else if *v == state.max {
            -state.others / (1.0 + state.others)
        } else {
            state.probability(*v, tau) - 1.0
        };
        slope / tau
    };
    x.iter().enumerate().map(gradient).collect()
}

/// What the forward operation gives for one row, in float64.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowLoss {
    /// The loss: 0 for a row that does not count, NaN for a bad target.
    pub loss: f64,
    /// `ln(sum(exp(x / tau)))`; 0 for a row that does not count, NaN for a bad target.
    pub lse: f64,
    /// What the gradient needs beside the logits; zeros for rows that are not read.
    pub state: State,
}

/// Logits and targets of a call. The shape is that of the logits; targets and losses have one entry per row.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a, T, I> {
    /// The logits.
    pub logits: Operand<'a, T>,
    /// The targets.
    pub targets: Operand<'a, I>,
    /// Rows with this target do not count.
    pub ignore_index: Option<i64>,
    /// The temperature.
    pub tau: f64,
}

impl<T: Float, I: Index> Batch<'_, T, I> {
    fn target(&self, rows: &Rows, row: usize) -> Target {
        Target::of(self.targets.at(rows, row).to_i64(), rows.len(), self.ignore_index)
    }

    fn row(&self, rows: &Rows, row: usize) -> Vec<f64> {
        self.logits.row(rows, row).map(Float::to_f64).collect()
    }

    /// The first row whose target is bad, and that target.
    pub fn first_bad(&self, rows: &Rows) -> Option<(usize, i64)> {
        (0..rows.count()).find_map(|row| match self.target(rows, row) {
            Target::Bad(value) => Some((row, value)),
            _ => None,
        })
    }

    /// How many targets are not ignored.
    pub fn count(&self, rows: &Rows) -> usize {
        (0..rows.count()).filter(|row| self.target(rows, *row) != Target::Ignored).count()
    }

    /// What forward gives for every row, in parallel.
    pub fn rows(&self, rows: &Rows) -> Vec<RowLoss> {
        (0..rows.count()).into_par_iter().with_min_len(16).map(|row| self.loss_of(rows, row)).collect()
    }

    fn loss_of(&self, rows: &Rows, row: usize) -> RowLoss {
        match self.target(rows, row) {
            Target::Class(class) => {
                let x = self.row(rows, row);
                let state = State::of(&x, self.tau);
                RowLoss { loss: -state.log_probability(x[class], self.tau), lse: state.lse(self.tau), state }
            }
            Target::Ignored => RowLoss { loss: 0.0, lse: 0.0, state: State { max: 0.0, others: 0.0 } },
            Target::Bad(_) => RowLoss { loss: f64::NAN, lse: f64::NAN, state: State { max: 0.0, others: 0.0 } },
        }
    }

    /// Gradient by the logits, where `upstream(row)` is the gradient by that row's loss.
    /// Rows that do not count, and rows with a bad target, get 0 whatever `upstream` is there.
    pub fn backward(&self, rows: &Rows, upstream: impl Fn(usize) -> f64 + Sync, dlogits: Output<T>) {
        dlogits.write_rows(rows, |row, out| match self.target(rows, row) {
            Target::Class(class) => {
                let upstream = upstream(row);
                let slopes = loss_backward(&self.row(rows, row), class, self.tau);
                let gradient = |slope: f64| if slope == 0.0 { 0.0 } else { slope * upstream };
                slopes.into_iter().zip(out).for_each(|(slope, out)| *out = T::from_f64(gradient(slope)));
            }
            Target::Ignored | Target::Bad(_) => out.fill(T::from_f64(0.0)),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ignored_value_wins_over_the_classes() {
        assert_eq!(Target::of(2, 3, None), Target::Class(2));
        assert_eq!(Target::of(2, 3, Some(2)), Target::Ignored);
        assert_eq!(Target::of(255, 3, Some(255)), Target::Ignored);
        assert_eq!(Target::of(-100, 3, Some(-100)), Target::Ignored);
        assert_eq!(Target::of(3, 3, Some(-100)), Target::Bad(3));
        assert_eq!(Target::of(-1, 3, None), Target::Bad(-1));
        assert_eq!(Target::of(i64::MIN, 3, None), Target::Bad(i64::MIN));
    }

    #[test]
    fn accurate_at_every_margin() {
        // exp(-20) = 2.0611536224385579e-9; ln(1 + exp(-20)) and exp(-20) / (1 + exp(-20)) agree with it to 9 digits.
        let relative = |got: f64, want: f64| ((got - want) / want).abs();
        assert!(relative(loss(&[20.0, 0.0], 0, 1.0), 2.0611536203143e-9) < 1e-13);
        let gradient = loss_backward(&[20.0, 0.0], 0, 1.0);
        assert!(relative(gradient[0], -2.061153618190204e-9) < 1e-13);
        assert!(relative(gradient[1], 2.061153618190204e-9) < 1e-13);
        assert!(relative(loss(&[80.0, 0.0], 0, 1.0), (-80f64).exp()) < 1e-13);
        assert_eq!(loss(&[0.0, 1e30], 0, 1.0), 1e30);
    }

    #[test]
    fn hidden_targets_and_hidden_rows() {
        let hidden = f64::NEG_INFINITY;
        assert_eq!(loss(&[hidden, 1.0], 0, 1.0), f64::INFINITY);
        assert_eq!(loss_backward(&[hidden, 1.0], 0, 1.0), [-1.0, 1.0]);
        assert_eq!(loss(&[hidden, hidden], 0, 1.0), f64::INFINITY);
        assert_eq!(loss_backward(&[hidden, hidden], 0, 1.0), [0.0, 0.0]);
        assert!(loss(&[1.0, f64::NAN], 0, 1.0).is_nan());
        assert!(loss_backward(&[f64::INFINITY, 1.0], 0, 1.0).iter().all(|g| g.is_nan()));
    }
}
