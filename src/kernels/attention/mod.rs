//! The launches of attention: what the kernels of both directions are told about a call.

mod backward;
mod forward;
mod maps;
mod mask;
mod partial;
mod weights;

pub use backward::BiasInto;
pub(crate) use backward::{
    OperandGradients, PlannedBackward, Saved, Upstream, backward, backward_launches, planned_backward,
};
pub(crate) use forward::{Launches, Planned, Results, forward, launches, planned};
pub(crate) use maps::Packing;
pub(crate) use mask::Masking;
pub(crate) use partial::{Gradients, Merged, Part, merge, merge_backward};
pub(crate) use weights::weights;

use super::params::{
    ATTENTION_BF16, ATTENTION_F16, ATTENTION_F32, AttentionCall, AttentionMatrix, AttentionPairs, AttentionScores,
    AttentionSizes,
};
use super::{KernelId, LaunchShape};
use crate::dtype::{DType, Element, bf16, f16};
use crate::error::Result;
use crate::tensor::{Tensor, View};
use std::ffi::c_void;
use std::ptr;

/// A bias of `[B, Hq, Sq, Sk]`.
#[derive(Clone, Copy)]
pub(crate) enum Bias<'a> {
    F32(View<'a, f32>),
    F16(View<'a, f16>),
    BF16(View<'a, bf16>),
}

/// A checked forward call: with packed sequences B counts them in masks, bias and slopes, and Sq and Sk are any lengths there. Else: q `[B, Hq, Sq, D]`, k `[B, Hkv, Sk, D]`, v `[B, Hkv, Sk, Dv]` with neighbouring elements of rows, at least one
/// query, lengths of at most 2^30, head sizes from 1 to 256, Hq a multiple of Hkv.
pub(crate) struct Forward<'a, T> {
    pub(crate) q: View<'a, T>,
    pub(crate) k: View<'a, T>,
    pub(crate) v: View<'a, T>,
    pub(crate) masking: Masking<'a>,
    pub(crate) bias: Option<Bias<'a>>,
    /// The bias's own shape, 1 along the dims that it repeats along, if its gradient is wanted.
    pub(crate) bias_gradient: Option<[usize; 4]>,
    /// `[B, Hq]`, and whether the diagonal is that of the last query and key.
    pub(crate) slopes: Option<(View<'a, f32>, bool)>,
    pub(crate) scale: f32,
    pub(crate) cap: Option<f32>,
    /// Packed sequences: where each of them starts in the queries and in the keys, and behind the last one where it ends. Then B is 1
    /// in all shapes above.
    pub(crate) offsets: Option<(View<'a, i32>, View<'a, i32>)>,
}

/// A kernel and the shape of its launch.
#[derive(Clone, Copy)]
pub(crate) struct Launch {
    pub(crate) id: KernelId,
    pub(crate) shape: LaunchShape,
}

impl<T: Element> Forward<'_, T> {
    /// What makes scores more than products times a factor that the exponential can take over.
    fn scores_change(&self) -> Option<&'static str> {
        // A factor of 0 or below would turn hidden scores into visible ones, and an extreme one leaves the range of f32.
        let ordinary = (1e-30..1e30).contains(&self.scale);
        let reasons = [
            (!ordinary, "the scale is not above 0, or extreme"),
            (self.bias.is_some(), "a bias is added"),
            (self.slopes.is_some(), "slopes are subtracted"),
            (self.cap.is_some(), "scores are capped"),
        ];
        reasons.into_iter().find_map(|(holds, reason)| holds.then_some(reason))
    }

    /// What of masks and scores asks for the kernels that take any.
    pub(crate) fn general(&self) -> Option<&'static str> {
        let by_mask = self.masking.segments.is_some().then_some("segments hide single pairs");
        let by_bytes = self.masking.visible.is_some().then_some("bytes hide single pairs");
        self.scores_change().or(by_mask).or(by_bytes)
    }

    /// Number of packed sequences.
    pub(crate) fn sequences(&self) -> Option<u64> {
        self.offsets.as_ref().map(|(of_q, _)| of_q.dims()[0] as u64 - 1)
    }

    fn scores(&self) -> AttentionScores {
        let (change, slopes) = (self.scores_change().is_some(), self.slopes.as_ref());
        let log2_factor = std::f64::consts::LOG2_E * if change { 1.0 } else { f64::from(self.scale) };
        AttentionScores {
            bias: match &self.bias {
                None => NO_PAIRS,
                Some(Bias::F32(bias)) => pairs(bias),
                Some(Bias::F16(bias)) => pairs(bias),
                Some(Bias::BF16(bias)) => pairs(bias),
            },
            bias_type: match &self.bias {
                None | Some(Bias::F32(_)) => ATTENTION_F32.0,
                Some(Bias::F16(_)) => ATTENTION_F16.0,
                Some(Bias::BF16(_)) => ATTENTION_BF16.0,
            },
            change: u32::from(change),
            factor: if change { self.scale } else { 1.0 },
            log2_factor: log2_factor as f32,
            log2_factor_low: (log2_factor - f64::from(log2_factor as f32)) as f32,
            natural_factor: if change { 1.0 } else { self.scale },
            cap: self.cap.unwrap_or(0.0),
            slopes_bottom_right: slopes.map_or(0, |(_, bottom_right)| u32::from(*bottom_right)),
            slopes: slopes.map_or(ptr::null(), |(slopes, _)| slopes.address() as *const f32),
            slopes_batch: slopes.map_or(0, |(slopes, _)| slopes.layout().strides()[0]),
            slopes_head: slopes.map_or(0, |(slopes, _)| slopes.layout().strides()[1]),
        }
    }

    /// What the kernels of both directions take, and the memory behind its mask, which the kernels before fill. It may be dropped when
    /// the kernels that read it are in the queue.
    fn params(&self, op: &'static str) -> Result<(AttentionCall, Vec<Tensor<i32>>)> {
        let [batch, heads, queries, head_size] = four(self.q.dims());
        let [_, key_heads, keys, value_size] = four(self.v.dims());
        let batch = self.sequences().map_or(batch, |sequences| sequences as u32);
        let offsets = |view: Option<&View<i32>>| view.map_or(ptr::null(), |view| view.address() as *const i32);
        let (mask, memory) = self.masking.prepare(op, self.q.device())?;
        let call = AttentionCall {
            sizes: AttentionSizes { batch, heads, key_heads, queries, keys, head_size, value_size, reserved: 0 },
            q: matrix_of(&self.q),
            k: matrix_of(&self.k),
            v: matrix_of(&self.v),
            query_offsets: offsets(self.offsets.as_ref().map(|(of_q, _)| of_q)),
            key_offsets: offsets(self.offsets.as_ref().map(|(_, of_k)| of_k)),
            mask,
            scores: self.scores(),
        };
        Ok((call, memory))
    }
}

/// A matrix per batch entry and head: `lengths` and `strides` are those of the batch, the heads and the rows.
fn matrix<T: Element>(address: u64, lengths: &[usize], strides: &[u64]) -> AttentionMatrix {
    let bytes = size_of::<T>() as u64;
    let aligned = |(length, stride): (&usize, &u64)| *length == 1 || stride.wrapping_mul(bytes).is_multiple_of(16);
    let vectors = address.is_multiple_of(16) && lengths[..3].iter().zip(strides).all(aligned);
    AttentionMatrix {
        data: address as *const c_void,
        batch: strides[0],
        head: strides[1],
        row: strides[2],
        vectors: u32::from(vectors),
        reserved: 0,
    }
}

/// Rows `[B, H, S, D]`.
fn matrix_of<T: Element>(view: &View<T>) -> AttentionMatrix {
    matrix::<T>(view.address(), view.dims(), view.layout().strides())
}

fn pairs<T: Element>(view: &View<T>) -> AttentionPairs {
    let (s, dims) = (view.layout().strides(), view.dims());
    AttentionPairs {
        data: view.address() as *const c_void,
        batch: s[0],
        head: s[1],
        query: s[2],
        key: s[3],
        queries: dims[2] as u32,
        keys: dims[3] as u32,
    }
}

const NO_PAIRS: AttentionPairs =
    AttentionPairs { data: ptr::null(), batch: 0, head: 0, query: 0, key: 0, queries: 0, keys: 0 };

/// Dims that were checked to be four, and small.
fn four(dims: &[usize]) -> [u32; 4] {
    std::array::from_fn(|dim| dims[dim] as u32)
}

/// The kernels that exist for an element type.
pub(super) fn kernels(dtype: DType) -> impl Iterator<Item = KernelId> {
    let weights = [KernelId::AttentionWeights { dtype }];
    forward::kernels(dtype).chain(backward::kernels(dtype)).chain(partial::kernels(dtype)).chain(weights)
}

/// The kernels that exist for all of them.
pub(super) const OF_ALL_TYPES: [KernelId; 3] =
    [KernelId::AttentionMaskBits, KernelId::AttentionMaskSpans, KernelId::AttentionPack];
