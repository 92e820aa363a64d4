//! What the launches say about random bits.

use super::super::operand::{Walk, absent};
use super::super::params::{Operand, RandomSource};
use crate::tensor::View;

/// Where the random bits of a call come from, checked: shapes fit, and views are where the logits are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bits<'a> {
    /// One seed and offset for the call.
    Call { seed: u64, offset: u64 },
    /// The same, as the two elements of a view.
    Device(View<'a, i64>),
    /// A seed per row.
    PerRow { seeds: View<'a, i64>, offset: u64 },
}

impl Bits<'_> {
    /// Strides along the dims that stay, for the walk; zeros where there is no operand per row.
    pub(super) fn strides(&self, dims: usize) -> Vec<u64> {
        match self {
            Self::PerRow { seeds, .. } => seeds.layout().strides().to_vec(),
            Self::Call { .. } | Self::Device(_) => vec![0; dims],
        }
    }

    /// The parameter block's description; the seeds are operand `number` of the walk.
    pub(super) fn source(&self, walk: &Walk, number: usize) -> RandomSource {
        let plain = RandomSource { call: absent(), seeds: absent(), seed: 0, offset: 0 };
        match *self {
            Self::Call { seed, offset } => RandomSource { seed, offset, ..plain },
            Self::Device(view) => {
                let [stride] = view.layout().strides() else { unreachable!("the view was checked to have one dim") };
                // Not a part of the walk: every row reads the same two.
                let call = Operand { data: view.address() as *const _, stride: *stride, ..absent() };
                RandomSource { call, ..plain }
            }
            Self::PerRow { seeds, offset } => {
                RandomSource { seeds: walk.operand(number, seeds.address(), 0), offset, ..plain }
            }
        }
    }
}
