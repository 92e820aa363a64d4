//! One key head of one sequence with the query heads that share it: its operands as float64, and the scores of its rows.

use std::ops::Range;

use rayon::prelude::*;

use super::super::{Operand, Output};
use super::Attention;
use crate::dtype::{Element, Float};
use crate::mask::Pattern;
use crate::reference::row::State;

/// Rows of equal width as float64.
pub(super) struct Matrix {
    data: Vec<f64>,
    width: usize,
}

impl Matrix {
    pub(super) fn row(&self, i: usize) -> &[f64] {
        &self.data[i * self.width..][..self.width]
    }
}

/// A key head and its query heads. Row `g * queries + i` is query i of the group's head g.
pub(super) struct Head<'a, T, U> {
    attention: &'a Attention<'a, T, U>,
    pub(super) pattern: Pattern<'a>,
    pub(super) b: usize,
    key_head: usize,
    first_query: usize,
    first_key: usize,
    q: Matrix,
    k: Matrix,
    pub(super) v: Matrix,
}

/// The score of a visible pair.
#[derive(Clone, Copy)]
pub(super) struct Score {
    /// -inf if the pair is hidden.
    pub(super) value: f64,
    /// Its derivative by what the softcap is applied to.
    pub(super) slope: f64,
}

impl Score {
    const HIDDEN: Score = Score { value: f64::NEG_INFINITY, slope: 0.0 };

    pub(super) fn hidden(&self) -> bool {
        self.value == f64::NEG_INFINITY
    }
}

/// The scores of a row: of the keys in `keys`, outside of which all are hidden.
pub(super) struct Scores {
    pub(super) keys: Range<usize>,
    scores: Vec<Score>,
    pub(super) state: State,
}

impl Scores {
    /// The visible keys with their scores and weights.
    pub(super) fn visible(&self) -> impl Iterator<Item = (usize, Score, f64)> {
        let pairs = self.keys.clone().zip(&self.scores).filter(|(_, score)| !score.hidden());
        pairs.map(|(key, score)| (key, *score, self.state.probability(score.value, 1.0)))
    }
}

impl<'a, T: Float, U: Float> Head<'a, T, U> {
    pub(super) fn of(attention: &'a Attention<'a, T, U>, b: usize, key_head: usize) -> Self {
        let geometry = &attention.geometry;
        let (queries, keys) = (geometry.queries(b), geometry.keys(b));
        let mut head = Head {
            attention,
            pattern: Pattern { queries: queries.len(), keys: keys.len(), rules: attention.mask },
            b,
            key_head,
            first_query: queries.start,
            first_key: keys.start,
            q: Matrix { data: Vec::new(), width: 0 },
            k: Matrix { data: Vec::new(), width: 0 },
            v: Matrix { data: Vec::new(), width: 0 },
        };
        head.q = head.gather_queries(attention.q, geometry.head_size);
        head.k = head.gather_keys(attention.k, geometry.head_size);
        head.v = head.gather_keys(attention.v, geometry.value_size);
        head
    }

    /// The number of rows: queries times heads.
    pub(super) fn rows(&self) -> usize {
        self.pattern.queries * self.attention.geometry.group()
    }

    /// The query head and the query of a row.
    pub(super) fn place(&self, row: usize) -> (usize, usize) {
        let (g, query) = (row / self.pattern.queries, row % self.pattern.queries);
        (self.key_head * self.attention.geometry.group() + g, query)
    }

    /// Rows of an operand of queries.
    pub(super) fn gather_queries(&self, operand: Operand<T>, width: usize) -> Matrix {
        self.gather(operand, self.rows(), width, |row| self.query_start(operand.strides, row))
    }

    fn gather_keys(&self, operand: Operand<T>, width: usize) -> Matrix {
        self.gather(operand, self.pattern.keys, width, |key| self.key_start(operand.strides, key))
    }

    fn gather(&self, x: Operand<T>, rows: usize, width: usize, start: impl Fn(usize) -> usize + Sync) -> Matrix {
        let step = self.attention.geometry.step(x.strides);
        let mut data = vec![0.0; rows * width];
        data.par_chunks_mut(width.max(1)).enumerate().for_each(|(row, entries)| {
            let start = start(row);
            entries.iter_mut().enumerate().for_each(|(d, entry)| *entry = x.data[start + d * step].to_f64());
        });
        Matrix { data, width }
    }

    /// Where a row begins in an operand of queries, or its one entry in an lse.
    pub(super) fn query_start(&self, strides: &[u64], row: usize) -> usize {
        let (h, query) = self.place(row);
        self.attention.geometry.start(strides, self.b, h, self.first_query + query)
    }

    /// Where a key's row begins in an operand of keys.
    pub(super) fn key_start(&self, strides: &[u64], key: usize) -> usize {
        self.attention.geometry.start(strides, self.b, self.key_head, self.first_key + key)
    }

    /// The keys outside of which all are hidden from a row.
    pub(super) fn keys_of(&self, row: usize) -> Range<usize> {
        let (_, query) = self.place(row);
        self.pattern.key_range(self.b, query..query + 1)
    }

    /// The rows outside of which a key is hidden, head by head.
    pub(super) fn rows_of(&self, key: usize) -> impl Iterator<Item = usize> {
        let queries = self.pattern.query_range(self.b, key..key + 1);
        let heads = 0..self.attention.geometry.group();
        let first = |g| g * self.pattern.queries;
        heads.flat_map(move |g| first(g) + queries.start..first(g) + queries.end)
    }

    pub(super) fn q(&self, row: usize) -> &[f64] {
        self.q.row(row)
    }

    pub(super) fn k(&self, key: usize) -> &[f64] {
        self.k.row(key)
    }

    /// The score of a pair. What is hidden is not looked at.
    pub(super) fn score(&self, row: usize, key: usize) -> Score {
        let a = self.attention;
        let (h, query) = self.place(row);
        if !self.pattern.visible(self.b, h, query, key) {
            return Score::HIDDEN;
        }
        let mut u = 0.0;
        if let Some(bias) = a.bias {
            let index = [self.b, h, query, key];
            u = bias.data[index.iter().zip(bias.strides).map(|(i, stride)| i * *stride as usize).sum::<usize>()]
                .to_f64();
            // It hides even where the dot product is NaN.
            if u == f64::NEG_INFINITY {
                return Score::HIDDEN;
            }
        }
        if let Some(alibi) = a.alibi {
            let slope =
                alibi.slopes.data[self.b * alibi.slopes.strides[0] as usize + h * alibi.slopes.strides[1] as usize];
            let own = query as i128 + alibi.align.shift(self.pattern.queries, self.pattern.keys);
            u -= f64::from(slope) * (own - key as i128).unsigned_abs() as f64;
        }
        u += a.scale * dot(self.q.row(row), self.k.row(key));
        match a.softcap {
            None => Score { value: u, slope: 1.0 },
            // The derivative of tanh is 1 - tanh^2, written so that it keeps its digits where tanh is almost 1.
            Some(cap) => Score { value: cap * (u / cap).tanh(), slope: (u / cap).cosh().powi(-2) },
        }
    }

    /// All scores of a row.
    pub(super) fn scores(&self, row: usize) -> Scores {
        let keys = self.keys_of(row);
        let scores: Vec<Score> = keys.clone().map(|key| self.score(row, key)).collect();
        let values: Vec<f64> = scores.iter().map(|score| score.value).collect();
        Scores { keys, scores, state: State::of(&values, 1.0) }
    }

    /// Puts the rows of a slab, of so many entries each, into an output.
    pub(super) fn put<E: Element>(
        &self,
        slab: &[E],
        width: usize,
        out: &mut Output<E>,
        start: impl Fn(&[u64], usize) -> usize,
    ) {
        let step = self.attention.geometry.step(out.strides);
        for (row, entries) in slab.chunks(width.max(1)).enumerate() {
            let start = start(out.strides, row);
            entries.iter().enumerate().for_each(|(d, entry)| out.data[start + d * step] = *entry);
        }
    }
}

/// The sum of the products.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Adds a multiple of a row.
pub(super) fn add(sum: &mut [f64], factor: f64, row: &[f64]) {
    sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += factor * x);
}

/// Rounds sums to the type of an output.
pub(super) fn round<T: Float>(sums: &[f64], out: &mut [T]) {
    sums.iter().zip(out).for_each(|(sum, out)| *out = T::from_f64(*sum));
}
