//! Loss of log-probabilities on class targets.

use super::cross_entropy::Target;
use super::{Operand, Output, Rows};
use crate::dtype::Float;

/// Log-probabilities and targets of a call.
#[derive(Clone, Copy, Debug)]
pub struct Classified<'a, T> {
    /// The log-probabilities.
    pub log_probabilities: Operand<'a, T>,
    /// The target of every row.
    pub targets: &'a [i64],
    /// Rows with this target do not count.
    pub ignore_index: Option<i64>,
    /// One number per class; all 1 if not given.
    pub class_weights: Option<&'a [f64]>,
}

impl<T: Float> Classified<'_, T> {
    fn target(&self, rows: &Rows, row: usize) -> Target {
        Target::of(self.targets[row], rows.len(), self.ignore_index)
    }

    fn weight(&self, class: usize) -> f64 {
        self.class_weights.map_or(1.0, |weights| weights[class])
    }

    /// The first row whose target is bad, and that target.
    pub fn first_bad(&self, rows: &Rows) -> Option<(usize, i64)> {
        (0..rows.count()).find_map(|row| match self.target(rows, row) {
            Target::Bad(value) => Some((row, value)),
            _ => None,
        })
    }

    /// What a mean divides by: the weights of the targets that count.
    pub fn counted(&self, rows: &Rows) -> f64 {
        let weight = |row| match self.target(rows, row) {
            Target::Class(class) => self.weight(class),
            Target::Ignored | Target::Bad(_) => 0.0,
        };
        (0..rows.count()).map(weight).sum()
    }

    /// The loss of every row: `-w * y[target]`; 0 where the weight is 0, whatever the log-probability is.
    pub fn losses(&self, rows: &Rows) -> Vec<f64> {
        let loss = |row| match self.target(rows, row) {
            Target::Class(class) if self.weight(class) == 0.0 => 0.0,
            Target::Class(class) => {
                let y = self.log_probabilities.row(rows, row).nth(class).expect("targets are compared first");
                -self.weight(class) * y.to_f64()
            }
            Target::Ignored => 0.0,
            Target::Bad(_) => f64::NAN,
        };
        (0..rows.count()).map(loss).collect()
    }

    /// Gradient by the log-probabilities, where `upstream(row)` is the gradient by that row's loss.
    pub fn backward(&self, rows: &Rows, upstream: impl Fn(usize) -> f64 + Sync, output: Output<T>) {
        output.write_rows(rows, |row, out| {
            out.fill(T::from_f64(0.0));
            if let Target::Class(class) = self.target(rows, row) {
                let weight = self.weight(class);
                out[class] = T::from_f64(if weight == 0.0 { 0.0 } else { -weight * upstream(row) });
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let (rows, y) = (Rows { shape: &[3, 2], dim: 1 }, [-1.0f32, -2.0, f32::NEG_INFINITY, 0.0, -3.0, -4.0]);
        let log_probabilities = Operand { data: &y, strides: &[2, 1] };
        let classified = Classified {
            log_probabilities,
            targets: &[1, 0, -100],
            ignore_index: Some(-100),
            class_weights: Some(&[0.0, 3.0]),
        };
        assert_eq!(classified.losses(&rows), [6.0, 0.0, 0.0]);
        assert_eq!(classified.counted(&rows), 3.0);
        assert_eq!(Classified { class_weights: None, ..classified }.losses(&rows), [2.0, f64::INFINITY, 0.0]);
        assert_eq!(Classified { ignore_index: None, ..classified }.first_bad(&rows), Some((2, -100)));
        let mut slopes = [9f32; 6];
        classified.backward(&rows, |_| 2.0, Output { data: &mut slopes, strides: &[2, 1] });
        assert_eq!(slopes, [0.0, -6.0, 0.0, 0.0, 0.0, 0.0]);
    }
}
