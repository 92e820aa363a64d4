//! The index of the largest entry: the rule on one row, and the loop over strided operands.

use super::{Operand, Output, Rows};
use crate::dtype::Float;

/// The index of the largest entry, the first of equal ones. A NaN is larger than any number, and -0 equals +0. Of a row without
/// entries 0.
pub fn argmax(x: &[f64]) -> usize {
    match x.iter().position(|v| v.is_nan()) {
        Some(first) => first,
        None => {
            let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            x.iter().position(|v| *v == max).unwrap_or(0)
        }
    }
}

/// [`argmax`] of every row.
pub fn rows<T: Float>(rows: &Rows, x: Operand<T>, indices: Output<i64>) {
    indices.write_one_per_row(rows, |row| {
        let x: Vec<f64> = x.row(rows, row).map(Float::to_f64).collect();
        argmax(&x) as i64
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_nan_and_zeros() {
        let hidden = f64::NEG_INFINITY;
        assert_eq!(argmax(&[1.0, 3.0, 3.0, 2.0]), 1);
        assert_eq!(argmax(&[1.0, f64::NAN, f64::INFINITY, f64::NAN]), 1);
        assert_eq!(argmax(&[-1.0, -0.0, 0.0]), 1);
        assert_eq!(argmax(&[hidden, hidden]), 0);
        assert_eq!(argmax(&[hidden, -1e300]), 1);
    }
}
