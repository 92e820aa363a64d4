//! The launches of the losses, and of the kernel that adds losses up.

mod binary_cross_entropy;
mod cross_entropy;
mod divergence;
mod divergence_top_k;
mod fused;
mod nll;

pub(crate) use binary_cross_entropy::{BinaryCall, binary_cross_entropy_backward, binary_cross_entropy_forward};
pub(crate) use cross_entropy::{
    Call, CallTargets, Outputs, STATE, Statistics, cross_entropy_backward, cross_entropy_forward,
};
pub(crate) use divergence::{Divergence, DivergenceCall, divergence_backward, divergence_forward};
pub(crate) use divergence_top_k::{divergence_pick, divergence_place};
pub(crate) use fused::{Destination, cross_entropy_fused};
pub(crate) use nll::{NllCall, nll_backward, nll_forward};

use super::params::{
    ErrorRecord, LossFinishParams, LossPartial, REDUCTION_MEAN, REDUCTION_MEAN_OVER, REDUCTION_NONE, REDUCTION_SUM,
    SUMEXP_LOSS_CHUNK, SUMEXP_LOSS_THREADS,
};
use super::{KernelId, LaunchShape, launch};
use crate::device::Device;
use crate::error::Result;
use crate::plan::loss as plan;
use crate::shape::Shape;
use crate::tensor::Tensor;
use std::ptr;

// What the kernels were compiled with is what the plans count with.
const _: () = {
    assert!(SUMEXP_LOSS_CHUNK as u64 == plan::CHUNK);
    assert!(SUMEXP_LOSS_THREADS == plan::COLLECT_THREADS);
    assert!(size_of::<LossPartial>() == PARTIAL * size_of::<i64>());
};

/// Size of a `LossPartial` in elements of the scratch tensor that holds them.
const PARTIAL: usize = 5;

/// What happens to the losses of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reduce {
    /// They stay apart.
    None,
    /// They are added up.
    Sum,
    /// They are added up and divided by how many count.
    Mean,
    /// They are added up and divided by the one f32 at this address.
    MeanOver(u64),
}

impl Reduce {
    /// The address of the divisor, or null.
    fn divisor(self) -> *const f32 {
        if let Self::MeanOver(address) = self { address as *const f32 } else { ptr::null() }
    }
}

fn shape(blocks: u64, threads: u32) -> LaunchShape {
    LaunchShape { grid: [blocks, 1, 1], block: [threads, 1, 1], shared: 0 }
}

/// Memory for one `LossPartial` per chunk.
fn partial_sums(op: &'static str, device: &Device, chunks: u64) -> Result<Tensor<i64>> {
    Tensor::unfilled(op, device, Shape::new(op, &[chunks as usize, PARTIAL])?)
}

/// What `loss_finish` reads and writes, by address; 0 for what nobody asks for.
struct Sums {
    partials: u64,
    chunks: u64,
    /// For the report of a bad target.
    classes: u64,
    loss: u64,
    count: u64,
    weight: u64,
}

/// Adds the chunks up in order.
///
/// # Safety
/// `partials` must hold one `LossPartial` per chunk, the divisor of `reduce` one f32, and each of the other addresses that is not 0 one element that may be
/// written: all on `device`, and as [`launch`] says.
unsafe fn finish(op: &'static str, device: &Device, reduce: Reduce, sums: Sums) -> Result<()> {
    let Some(slot) = device.error_slot(op)? else { return Ok(()) };
    let params = LossFinishParams {
        partials: sums.partials as *const _,
        chunks: sums.chunks,
        classes: sums.classes,
        divisor: reduce.divisor(),
        loss: sums.loss as *mut f32,
        count: sums.count as *mut i64,
        weight: sums.weight as *mut f32,
        record: slot.address as *mut ErrorRecord,
        op: slot.op,
        reduction: match reduce {
            Reduce::None => REDUCTION_NONE.0,
            Reduce::Sum => REDUCTION_SUM.0,
            Reduce::Mean => REDUCTION_MEAN.0,
            Reduce::MeanOver(_) => REDUCTION_MEAN_OVER.0,
        },
    };
    // SAFETY: the caller vouches for the addresses; the record belongs to the stream of `device`.
    unsafe { launch(device, KernelId::LossFinish, &shape(1, plan::COLLECT_THREADS), &params) }
}
