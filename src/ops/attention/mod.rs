//! Attention: `softmax(scale * q k^T + bias) v`, without a matrix of scores in memory.
//!
//! ```
//! use sumexp::attention::{Attention, forward};
//! use sumexp::mask::Align;
//! use sumexp::{Device, Mask, Tensor};
//!
//! // One sequence, one head, two positions of one element each; position 0 sees itself alone.
//! let device = Device::cpu();
//! let x = |values: [f32; 2]| Tensor::from_slice(&device, &[1, 1, 2, 1], &values);
//! let (q, k, v) = (x([1.0, 1.0])?, x([0.0, 3f32.ln()])?, x([4.0, 8.0])?);
//! let options = Attention { mask: Mask::Causal(Align::TopLeft), ..Attention::default() };
//! let output = forward(&q, &k, &v, &options)?;
//! assert_eq!(output.out.to_vec()?, [4.0, 7.0]);
//! assert_eq!(output.lse.to_vec()?, [0.0, 4f32.ln()]);
//! # Ok::<(), sumexp::Error>(())
//! ```
//!
//! # Shapes
//! | tensor | shape | packed sequences | type |
//! |---|---|---|---|
//! | q | `[B, Hq, Sq, D]` | `[Tq, Hq, D]` | f16, bf16, f32 |
//! | k | `[B, Hkv, Sk, D]` | `[Tk, Hkv, D]` | as q |
//! | v | `[B, Hkv, Sk, Dv]` | `[Tk, Hkv, Dv]` | as q |
//! | out | `[B, Hq, Sq, Dv]` | `[Tq, Hq, Dv]` | as q |
//! | lse | `[B, Hq, Sq]` | `[Tq, Hq]` | f32 |
//!
//! Hq is a multiple of Hkv: query head h attends to key head `h / (Hq / Hkv)`, so grouped-query and multi-query attention need no
//! copies of keys. Head sizes D and Dv are from 1 to 256, each its own, and none is rounded up by the caller. Strides are any, as long as
//! the last dim is contiguous: `[B, S, H, D]` comes in by [`View::permute`](crate::View::permute), and parts of one packed
//! q-k-v tensor by [`View::slice`](crate::View::slice).
//!
//! # What is hidden
//! A [`Mask`](crate::Mask) hides keys from queries, and so does a bias of -inf. Hidden keys never influence a query, whatever bits they
//! and their values hold. A query that sees nothing has out 0, lse -inf and gradients of 0. A visible score of NaN or +inf makes its own
//! query NaN, no other.
//!
//! # Numerics
//! f16 and bf16 multiply on tensor cores and add up in f32; f32 is split into three TF32 products, so its accuracy is that of f32, not
//! of TF32. Errors are at most those of a computation that rounds every intermediate result to the element type. The bits of a query depend on
//! its own row, its keys and the options alone: not on the batch, other sequences, strides, or the schedule of the GPU. Hopper has kernels of
//! its own, whose bits are others than those of GPUs before and after it.

mod backward;
mod bias;
mod check;
mod explain;
mod forward;
mod host;
mod options;
mod packed;
mod partial;
mod weights;

pub use backward::{
    AttentionGradients, GradientsInto, Upstream, backward, backward_into, backward_packed, backward_packed_into,
};
pub use bias::BiasGradient;
pub use explain::{ExplainedKernel, ExplainedPass, Explanation, RejectedPlan, explain, explain_packed};
pub use forward::{AttentionInto, AttentionOutput, forward, forward_into};
pub use options::{Alibi, Attention, Bias};
pub use packed::{Offsets, PackedOffsets, forward_packed, forward_packed_into};
pub use partial::{
    Partial, PartialGradient, PartialGradientInto, merge, merge_backward, merge_backward_into, merge_into,
};
pub use weights::{weights, weights_into};

pub use crate::kernels::attention::BiasInto;
pub use crate::plan::attention::TileCounts;

/// Longest sequence.
const MAX_LENGTH: usize = 1 << 30;
/// Largest head size.
const MAX_HEAD: usize = 256;
