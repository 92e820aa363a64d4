//! How sure a softmax is: the formulae on one row, and the loop over strided operands.

use super::row::State;
use super::{Operand, Rows, Sum};
use crate::dtype::Float;
use rayon::prelude::*;

/// How sure the softmax of one row is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowConfidence {
    /// The largest probability.
    pub confidence: f64,
    /// What it is ahead of the second largest.
    pub margin: f64,
    /// `-sum(p * ln(p))`.
    pub entropy: f64,
}

/// Confidence, margin and entropy of a row: all 0 if nothing is visible, all NaN if it holds a NaN or +inf.
///
/// With `w = exp((x - max) / tau)` and `sum = 1 + others` of them, the entropy is `ln(sum) + sum(w * (max - x) / tau) / sum`,
/// and the margin `(1 - exp((second - max) / tau)) / sum`: sums of what is never negative.
pub fn confidence(x: &[f64], tau: f64) -> RowConfidence {
    let state = State::of(x, tau);
    if state.is_empty() {
        return RowConfidence { confidence: 0.0, margin: 0.0, entropy: 0.0 };
    }
    if state.max.is_nan() {
        return RowConfidence { confidence: f64::NAN, margin: f64::NAN, entropy: f64::NAN };
    }
    let mut sorted = x.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let behind = sorted.get(1).map_or(f64::NEG_INFINITY, |second| (second - state.max) / tau);
    let total = 1.0 + state.others;
    let terms = x.iter().filter(|v| **v != f64::NEG_INFINITY).map(|v| (state.max - v) / tau);
    // So far below that its weight is 0, an entry adds nothing, also where the distance is infinite.
    let terms = terms.map(|below| if (-below).exp() == 0.0 { 0.0 } else { (-below).exp() * below });
    RowConfidence {
        confidence: 1.0 / total,
        margin: -behind.exp_m1() / total,
        entropy: state.others.ln_1p() + Sum::of(terms).value() / total,
    }
}

/// [`confidence`] of every row, in parallel.
pub fn rows<T: Float>(rows: &Rows, x: Operand<T>, tau: f64) -> Vec<RowConfidence> {
    let of_row = |row| confidence(&x.row(rows, row).map(Float::to_f64).collect::<Vec<_>>(), tau);
    (0..rows.count()).into_par_iter().with_min_len(16).map(of_row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let two = confidence(&[0.0, 3f64.ln()], 1.0);
        let close = |got: f64, want: f64| (got - want).abs() < 1e-15;
        assert!(close(two.confidence, 0.75) && close(two.margin, 0.5));
        assert!(close(two.entropy, 2.0 * 2f64.ln() - 0.75 * 3f64.ln()));
        let equal = confidence(&[7.0; 4], 0.1);
        assert_eq!((equal.confidence, equal.margin, equal.entropy), (0.25, 0.0, 4f64.ln()));
        let alone = confidence(&[-3.0], 1.0);
        assert_eq!((alone.confidence, alone.margin, alone.entropy), (1.0, 1.0, 0.0));
    }

    #[test]
    fn hidden_and_bad_rows() {
        let hidden = f64::NEG_INFINITY;
        let nothing = confidence(&[hidden, hidden], 1.0);
        assert_eq!((nothing.confidence, nothing.margin, nothing.entropy), (0.0, 0.0, 0.0));
        let one = confidence(&[hidden, 2.0, hidden], 1.0);
        assert_eq!((one.confidence, one.margin, one.entropy), (1.0, 1.0, 0.0));
        for bad in [f64::NAN, f64::INFINITY] {
            let row = confidence(&[0.0, bad], 1.0);
            assert!(row.confidence.is_nan() && row.margin.is_nan() && row.entropy.is_nan());
        }
    }

    #[test]
    fn sure_and_torn_rows_keep_their_digits() {
        // p = 1 / (1 + e), entropy = ln(1 + e) + 40 e / (1 + e) with e = exp(-40).
        let e = (-40f64).exp();
        let sure = confidence(&[40.0, 0.0], 1.0);
        assert!((sure.entropy / (41.0 * e) - 1.0).abs() < 1e-14);
        let torn = confidence(&[1e-9, 0.0], 1.0);
        assert!((torn.margin / 0.5e-9 - 1.0).abs() < 1e-8);
    }
}
