//! Outputs, lse and weights, row by row.

use std::ops::Range;

use rayon::prelude::*;

use super::super::{Operand, Output};
use super::Attention;
use super::head::{Head, Scores, add, round};
use crate::dtype::Float;

/// Weights that are held back before they are put in their places.
const SLAB: usize = 1 << 20;

/// The output and the lse (natural logarithm) of every query. Both are written everywhere, also where nothing is visible.
pub fn forward<T: Float, U: Float>(attention: &Attention<T, U>, mut out: Output<T>, lse: Output<f32>) {
    let width = attention.geometry.value_size;
    for (b, key_head) in attention.geometry.heads() {
        let head = Head::of(attention, b, key_head);
        let mut slab = vec![T::default(); head.rows() * width];
        let mut sums = vec![0f32; head.rows()];
        slab.par_chunks_mut(width).zip(&mut sums).enumerate().for_each(|(row, (out, lse))| {
            let scores = head.scores(row);
            let mut sum = vec![0.0; width];
            scores.visible().for_each(|(key, _, weight)| add(&mut sum, weight, head.v.row(key)));
            round(&sum, out);
            *lse = scores.state.lse(1.0) as f32;
        });
        head.put(&slab, width, &mut out, |strides, row| head.query_start(strides, row));
        sums.iter().enumerate().for_each(|(row, sum)| lse.data[head.query_start(lse.strides, row)] = *sum);
    }
}

/// The weights of the queries in `rows`, which counts along the query dim of q (tokens of packed sequences).
///
/// `out` is [B, Hq, rows, Sk], or [rows, Hq, keys of the longest sequence] packed. Weights of hidden keys are 0, also in a
/// NaN row, and so are the entries behind the keys of a shorter sequence.
pub fn weights<T: Float, U: Float>(attention: &Attention<T, U>, rows: Range<usize>, out: Output<T>) {
    write_weights(attention, rows, out, |_, scores, put| {
        scores.visible().for_each(|(key, _, weight)| put(key, weight));
    });
}

/// As [`weights`], `exp(score - lse)` with an lse of each query (strides as that of [`forward`]): weights among other keys, if the lse
/// counts those. At most 1, which rounding the lse could exceed.
pub fn weights_from_lse<T: Float, U: Float>(
    attention: &Attention<T, U>,
    rows: Range<usize>,
    lse: Operand<f32>,
    out: Output<T>,
) {
    write_weights(attention, rows, out, |at, scores, put| {
        let lse = f64::from(lse.data[at(lse.strides)]);
        for (key, score, _) in scores.visible() {
            let weight = (score.value - lse).exp();
            put(key, if weight > 1.0 { 1.0 } else { weight });
        }
    });
}

/// Calls `row` for every row with where it begins, its scores, and what puts the weight of a key in its place.
fn write_weights<T: Float, U: Float>(
    attention: &Attention<T, U>,
    rows: Range<usize>,
    mut out: Output<T>,
    row_weights: impl Fn(&dyn Fn(&[u64]) -> usize, &Scores, &mut dyn FnMut(usize, f64)) + Sync,
) {
    let geometry = &attention.geometry;
    let width = (0..geometry.batch()).map(|b| geometry.keys(b).len()).max().unwrap_or(0);
    if width == 0 {
        return;
    }
    for (b, key_head) in geometry.heads() {
        let head = Head::of(attention, b, key_head);
        let first = geometry.queries(b).start;
        let wanted: Vec<usize> = (0..head.rows()).filter(|row| rows.contains(&(first + head.place(*row).1))).collect();
        for wanted in wanted.chunks((SLAB / width).max(1)) {
            let mut slab = vec![T::default(); wanted.len() * width];
            slab.par_chunks_mut(width).zip(wanted).for_each(|(weights, row)| {
                let start = |strides: &[u64]| head.query_start(strides, *row);
                row_weights(&start, &head.scores(*row), &mut |key, weight| weights[key] = T::from_f64(weight));
            });
            head.put(&slab, width, &mut out, |strides, i| {
                let (h, query) = head.place(wanted[i]);
                geometry.start(strides, b, h, first + query - rows.start)
            });
        }
    }
}
