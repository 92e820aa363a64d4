//! The largest entries in order: the rule on one row, and the loop over strided operands.

use super::{Operand, Output, Rows};
use crate::dtype::Float;
use rayon::prelude::*;
use std::cmp::Ordering;

/// The indices of the `k` largest entries, largest first, of equal ones the first first. A NaN is larger than any number, and all NaNs
/// are equal; -0 equals +0.
pub fn top_k(x: &[f64], k: usize) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..x.len()).collect();
    // A stable sort leaves equal entries in their order.
    indices.sort_by(|a, b| match (x[*a].is_nan(), x[*b].is_nan()) {
        (false, false) => x[*b].partial_cmp(&x[*a]).unwrap_or(Ordering::Equal),
        (a, b) => b.cmp(&a),
    });
    indices.truncate(k);
    indices
}

/// [`top_k`] of every row; `values` and `indices` have `k` entries along the dim.
pub fn rows<T: Float>(rows: &Rows, x: Operand<T>, k: usize, values: Output<T>, indices: Output<i64>) {
    let of_row = |row| {
        let x: Vec<f64> = x.row(rows, row).map(Float::to_f64).collect();
        top_k(&x, k)
    };
    let winners: Vec<Vec<usize>> = (0..rows.count()).into_par_iter().with_min_len(16).map(of_row).collect();
    let mut shape = rows.shape.to_vec();
    shape[rows.dim] = k;
    let results = Rows { shape: &shape, dim: rows.dim };
    values.write_rows(&results, |row, out| {
        let x: Vec<T> = x.row(rows, row).collect();
        out.iter_mut().zip(&winners[row]).for_each(|(out, index)| *out = x[*index]);
    });
    indices.write_rows(&results, |row, out| {
        out.iter_mut().zip(&winners[row]).for_each(|(out, index)| *out = *index as i64);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_nan_and_zeros() {
        let x = [1.0, f64::NAN, -0.0, 3.0, 0.0, -f64::NAN, 3.0, f64::INFINITY, f64::NEG_INFINITY];
        assert_eq!(top_k(&x, 9), [1, 5, 7, 3, 6, 0, 2, 4, 8]);
        assert_eq!(top_k(&x, 4), [1, 5, 7, 3]);
        assert_eq!(top_k(&x, 0), [0usize; 0]);
    }
}
