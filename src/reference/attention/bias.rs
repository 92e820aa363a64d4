//! The gradient of the bias: the scores' gradients, summed over the dims along which the bias is broadcast.

use rayon::prelude::*;

use super::super::{Output, Sum};
use super::backward::Upstream;
use crate::dtype::Float;

/// Where the gradient of the bias goes.
#[derive(Debug)]
pub struct BiasGradient<'a, U> {
    /// Strides by batch, query head, query and key.
    pub output: Output<'a, U>,
    /// The bias's own shape: 1 along the dims where it is broadcast.
    pub shape: [usize; 4],
}

/// The sums on the way: by batch, head, key and query, so that threads can share a head key by key.
pub(super) struct BiasSums {
    shape: [usize; 4],
    sums: Vec<Sum>,
}

impl BiasSums {
    pub(super) fn new(shape: [usize; 4]) -> Self {
        BiasSums { shape, sums: vec![Sum::default(); shape.iter().product()] }
    }

    /// Adds a head's pairs, always in the same order: heads one by one, and within one each sum by queries or keys.
    pub(super) fn add<T: Float, U: Float>(&mut self, upstream: &Upstream<T, U>) {
        let head = &upstream.head;
        let [_, _, queries, keys] = self.shape;
        if self.sums.is_empty() || head.pattern.queries == 0 {
            return;
        }
        for first in (0..head.rows()).step_by(head.pattern.queries) {
            let (h, _) = head.place(first);
            let place = own(head.b, self.shape[0]) * self.shape[1] + own(h, self.shape[1]);
            let sums = &mut self.sums[place * keys * queries..][..keys * queries];
            let gradient = |query: usize, key: usize| upstream.pair(first + query, key).map(|(_, du)| du);
            if keys > 1 {
                sums.par_chunks_mut(queries).take(head.pattern.keys).enumerate().for_each(|(key, sums)| {
                    for query in head.pattern.query_range(head.b, key..key + 1) {
                        let sum = &mut sums[own(query, queries)];
                        *sum = gradient(query, key).map_or(*sum, |du| sum.plus(du));
                    }
                });
            } else {
                let of_row = |query: usize| Sum::of(head.keys_of(first + query).filter_map(|key| gradient(query, key)));
                let rows: Vec<Sum> = (0..head.pattern.queries).into_par_iter().map(of_row).collect();
                for (query, row) in rows.iter().enumerate() {
                    let sum = &mut sums[own(query, queries)];
                    *sum = sum.plus(row.value());
                }
            }
        }
    }

    /// Rounds the sums into their places.
    pub(super) fn write<U: Float>(self, gradient: BiasGradient<U>) {
        let [_, heads, queries, keys] = self.shape;
        let BiasGradient { output: Output { data, strides }, .. } = gradient;
        for (i, sum) in self.sums.iter().enumerate() {
            let index = [i / (queries * keys * heads), i / (queries * keys) % heads, i % queries, i / queries % keys];
            let place: usize = index.iter().zip(strides).map(|(i, stride)| i * *stride as usize).sum();
            data[place] = U::from_f64(sum.value());
        }
    }
}

/// The index in a dim of this length that a pair's index stands for.
fn own(i: usize, len: usize) -> usize {
    if len == 1 { 0 } else { i }
}
