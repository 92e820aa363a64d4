//! Gradients: of the queries row by row, of the keys and values key by key.
//!
//! With `dp_ij = dot(dout_i, v_j)` and `delta_i = sum_j p_ij dp_ij` (which is `dot(dout_i, out_i)`):
//!
//! ```text
//! ds_ij = p_ij * (dp_ij - delta_i + dlse_i)      du_ij = ds_ij * (1 - (s_ij / softcap)^2)
//! dq_i = scale * sum_j du_ij k_j     dk_j = scale * sum_i du_ij q_i     dv_j = sum_i p_ij dout_i     dbias_ij = du_ij
//! ```

use rayon::prelude::*;

use super::super::{Operand, Output, Sum};
use super::Attention;
use super::bias::{BiasGradient, BiasSums};
use super::head::{Head, Matrix, add, dot, round};
use crate::dtype::Float;
use crate::reference::row::State;

/// Where the gradients go. Each has the shape of its operand.
#[derive(Debug)]
pub struct Gradients<'a, T, U = T> {
    /// Gradient of the queries.
    pub dq: Output<'a, T>,
    /// Gradient of the keys, summed over the query heads that share them.
    pub dk: Output<'a, T>,
    /// Gradient of the values, summed likewise.
    pub dv: Output<'a, T>,
    /// Gradient of the bias, if it is wanted. There must be a bias then.
    pub dbias: Option<BiasGradient<'a, U>>,
}

/// What the gradients of a row's scores need beside the scores.
struct RowGradient {
    state: State,
    delta: Sum,
    dlse: f64,
}

/// A head in the backward pass: with what comes from upstream for its rows.
pub(super) struct Upstream<'a, T, U> {
    pub(super) head: Head<'a, T, U>,
    dout: Matrix,
    rows: Vec<RowGradient>,
}

impl<'a, T: Float, U: Float> Upstream<'a, T, U> {
    fn new(head: Head<'a, T, U>, dout: Matrix, dlse: Option<Operand<f32>>) -> Self {
        let row = |row: usize| {
            let scores = head.scores(row);
            let terms = scores.visible().map(|(key, _, weight)| weight * dot(dout.row(row), head.v.row(key)));
            let delta = Sum::of(terms);
            let dlse = dlse.map_or(0.0, |dlse| f64::from(dlse.data[head.query_start(dlse.strides, row)]));
            RowGradient { state: scores.state, delta, dlse }
        };
        let rows = (0..head.rows()).into_par_iter().map(row).collect();
        Upstream { head, dout, rows }
    }

    /// The weight of a pair and the gradient of its `u`; `None` if it is hidden.
    pub(super) fn pair(&self, row: usize, key: usize) -> Option<(f64, f64)> {
        let RowGradient { state, delta, dlse } = &self.rows[row];
        let score = self.head.score(row, key);
        if score.hidden() {
            return None;
        }
        let weight = state.probability(score.value, 1.0);
        let dp = dot(self.dout.row(row), self.head.v.row(key));
        Some((weight, weight * (delta.subtracted_from(dp) + dlse) * score.slope))
    }
}

/// Gradients of [`forward`](super::forward) for the gradients `dout` of its output and, if given, `dlse` of its lse (strides
/// as theirs).
///
/// The scores are computed anew from the operands, in float64, so rounded results of the forward pass have no influence.
pub fn backward<T: Float, U: Float>(
    attention: &Attention<T, U>,
    dout: Operand<T>,
    dlse: Option<Operand<f32>>,
    gradients: Gradients<T, U>,
) {
    let geometry = &attention.geometry;
    let (size, value_size, scale) = (geometry.head_size, geometry.value_size, attention.scale);
    let Gradients { mut dq, mut dk, mut dv, dbias } = gradients;
    let mut bias_sums = dbias.as_ref().map(|dbias| BiasSums::new(dbias.shape));
    for (b, key_head) in geometry.heads() {
        let head = Head::of(attention, b, key_head);
        let dout = head.gather_queries(dout, value_size);
        let upstream = Upstream::new(head, dout, dlse);
        let head = &upstream.head;

        let mut slab = vec![T::default(); head.rows() * size];
        slab.par_chunks_mut(size.max(1)).enumerate().for_each(|(row, dq)| {
            let mut sum = vec![0.0; size];
            for key in head.keys_of(row) {
                if let Some((_, du)) = upstream.pair(row, key) {
                    add(&mut sum, scale * du, head.k(key));
                }
            }
            round(&sum, dq);
        });
        head.put(&slab, size, &mut dq, |strides, row| head.query_start(strides, row));

        let keys = head.pattern.keys;
        let (mut dk_slab, mut dv_slab) = (vec![T::default(); keys * size], vec![T::default(); keys * value_size]);
        let of_key = |key: usize| {
            let (mut dk, mut dv) = (vec![0.0; size], vec![0.0; value_size]);
            for row in head.rows_of(key) {
                if let Some((weight, du)) = upstream.pair(row, key) {
                    add(&mut dk, scale * du, head.q(row));
                    add(&mut dv, weight, upstream.dout.row(row));
                }
            }
            (dk, dv)
        };
        dv_slab.par_chunks_mut(value_size).zip(dk_slab.par_chunks_mut(size)).enumerate().for_each(|(key, (dv, dk))| {
            let (dk_sum, dv_sum) = of_key(key);
            round(&dk_sum, dk);
            round(&dv_sum, dv);
        });
        head.put(&dk_slab, size, &mut dk, |strides, key| head.key_start(strides, key));
        head.put(&dv_slab, value_size, &mut dv, |strides, key| head.key_start(strides, key));

        if let Some(sums) = &mut bias_sums {
            sums.add(&upstream);
        }
    }
    if let (Some(dbias), Some(sums)) = (dbias, bias_sums) {
        sums.write(dbias);
    }
}
