//! Outputs, lse and weights, row by row.

use std::ops::Range;

use rayon::prelude::*;

use super::super::Output;
use super::Attention;
use super::head::{Head, add, round};
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
pub fn weights<T: Float, U: Float>(attention: &Attention<T, U>, rows: Range<usize>, mut out: Output<T>) {
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
                head.scores(*row).visible().for_each(|(key, _, weight)| weights[key] = T::from_f64(weight));
            });
            head.put(&slab, width, &mut out, |strides, i| {
                let (h, query) = head.place(wanted[i]);
                geometry.start(strides, b, h, first + query - rows.start)
            });
        }
    }
}
