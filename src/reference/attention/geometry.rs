//! How many of everything there are, and where it lies.

use std::ops::Range;

use crate::mask::Offsets;

/// How sequences share the operands.
#[derive(Clone, Copy, Debug)]
pub enum Sequences<'a> {
    /// Equal lengths, each in a batch of its own: operands are by batch, head, position and feature.
    Batched {
        /// Number of sequences.
        batch: usize,
        /// Queries of each.
        queries: usize,
        /// Keys of each.
        keys: usize,
    },
    /// One behind the other: operands are by token, head and feature. Both have the same number of sequences.
    Packed {
        /// Where each sequence's queries are.
        queries: Offsets<'a>,
        /// Where each sequence's keys are.
        keys: Offsets<'a>,
    },
}

/// The sizes of an attention.
#[derive(Clone, Copy, Debug)]
pub struct Geometry<'a> {
    /// The sequences.
    pub sequences: Sequences<'a>,
    /// Heads of q, out and lse: a multiple of `key_heads`.
    pub query_heads: usize,
    /// Heads of k and v.
    pub key_heads: usize,
    /// Features of q and k.
    pub head_size: usize,
    /// Features of v and out; at least 1.
    pub value_size: usize,
}

impl Geometry<'_> {
    /// The number of sequences.
    pub fn batch(&self) -> usize {
        match self.sequences {
            Sequences::Batched { batch, .. } => batch,
            Sequences::Packed { queries, .. } => queries.sequences(),
        }
    }

    /// Query heads that share a key head; 0 without heads.
    pub fn group(&self) -> usize {
        self.query_heads.checked_div(self.key_heads).unwrap_or(0)
    }

    /// Where a sequence's queries are in the query dim of operands.
    pub(super) fn queries(&self, b: usize) -> Range<usize> {
        match self.sequences {
            Sequences::Batched { queries, .. } => 0..queries,
            Sequences::Packed { queries, .. } => queries.range(b),
        }
    }

    /// Where a sequence's keys are in the key dim of operands.
    pub(super) fn keys(&self, b: usize) -> Range<usize> {
        match self.sequences {
            Sequences::Batched { keys, .. } => 0..keys,
            Sequences::Packed { keys, .. } => keys.range(b),
        }
    }

    /// The first entry of a row (its only one, of an lse) in an operand with these strides. `row` counts along the operand's
    /// query or key dim.
    pub(super) fn start(&self, strides: &[u64], b: usize, head: usize, row: usize) -> usize {
        let at = |n: usize, i: usize| i * strides[n] as usize;
        match self.sequences {
            Sequences::Batched { .. } => at(0, b) + at(1, head) + at(2, row),
            Sequences::Packed { .. } => at(0, row) + at(1, head),
        }
    }

    /// The stride of the features, the last of all dims.
    pub(super) fn step(&self, strides: &[u64]) -> usize {
        match self.sequences {
            Sequences::Batched { .. } => strides[3] as usize,
            Sequences::Packed { .. } => strides[2] as usize,
        }
    }

    /// All (sequence, key head), in the order in which sums over them are taken.
    pub(super) fn heads(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let heads = self.key_heads;
        (0..self.batch()).flat_map(move |b| (0..heads).map(move |head| (b, head)))
    }
}
