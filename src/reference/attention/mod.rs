//! Scaled-dot-product attention on strided operands, forward and backward, in float64.
//!
//! The score of query i and key j of a head, in this order:
//!
//! ```text
//! u = scale * dot(q_i, k_j) + bias_ij - slope * |position_i - j|        bias, then ALiBi; neither is scaled
//! s = softcap * tanh(u / softcap)                                       u itself without a softcap
//! ```
//!
//! and with the visible keys of i, by the mask:
//!
//! ```text
//! lse_i = ln(sum_j exp(s_ij))      p_ij = exp(s_ij - lse_i)      out_i = sum_j p_ij v_j
//! ```
//!
//! - A key is hidden from a query by the mask, by a bias of -inf, and by a score of -inf (which a softcap above 0 makes
//!   finite). Hidden keys have weight 0 and gradient 0 and are skipped, not multiplied by 0: it does not matter what bits
//!   they hold, also where the row is NaN for another reason.
//! - A query that sees nothing has out 0 and lse -inf, and its gradients are 0, whatever `dout` and `dlse` hold.
//! - A visible score of NaN or +inf makes that row NaN, and only it.
//! - Query head h attends to key head `h / (query_heads / key_heads)`: grouped-query attention.
//! - ALiBi is the one of the libraries (FlashAttention's): the distance, not its sign, counts, and slopes are given per head.
//!   Under a causal mask it equals `slope * (j - position_i)`.
//!
//! Every row, and in the backward pass every key, is computed by itself in a fixed order, so the bits do not depend on the
//! threads. Nothing is stored for each pair: memory beside the operands is linear in the lengths.
//!
//! Two forms: batches of equal lengths, with q [B, Hq, Sq, D], k [B, Hkv, Sk, D], v [B, Hkv, Sk, Dv], out [B, Hq, Sq, Dv] and
//! lse [B, Hq, Sq]; and packed sequences, with q [Tq, Hq, D], k [Tk, Hkv, D], v [Tk, Hkv, Dv], out [Tq, Hq, Dv] and lse
//! [Tq, Hq]. Masks, bias and ALiBi of packed sequences go by the positions and lengths inside each one.
//!
//! Checks are the caller's: operands reach as far as the geometry, query heads are a multiple of key heads, `Dv` is at least 1,
//! scale, slopes and softcap are finite, the softcap above 0.
//!
//! ```
//! use sumexp::mask::{Align, Band, Rule};
//! use sumexp::reference::attention::{Attention, Geometry, Sequences, forward};
//! use sumexp::reference::{Operand, Output};
//!
//! // One head of size 1: two queries, two keys.
//! let strides = &[2, 2, 1, 1];
//! let (mut out, mut lse) = ([0f32; 2], [0f32; 2]);
//! let attention = Attention::<f32> {
//!     geometry: Geometry {
//!         sequences: Sequences::Batched { batch: 1, queries: 2, keys: 2 },
//!         query_heads: 1,
//!         key_heads: 1,
//!         head_size: 1,
//!         value_size: 1,
//!     },
//!     q: Operand { data: &[1.0, 1.0], strides },
//!     k: Operand { data: &[0.0, 3f32.ln()], strides },
//!     v: Operand { data: &[4.0, 8.0], strides },
//!     scale: 1.0,
//!     bias: None,
//!     alibi: None,
//!     softcap: None,
//!     mask: &[Rule::Band(Band::causal(Align::TopLeft))],
//! };
//! forward(&attention, Output { data: &mut out, strides }, Output { data: &mut lse, strides: &[2, 2, 1] });
//! // Query 0 sees key 0 alone; query 1 sees them with weights 1/4 and 3/4.
//! assert_eq!((out, lse), ([4.0, 7.0], [0.0, 4f32.ln()]));
//! ```

mod backward;
mod bias;
mod forward;
mod geometry;
mod head;
mod merge;

pub use backward::{Gradients, backward};
pub use bias::BiasGradient;
pub use forward::{forward, weights, weights_from_lse};
pub use geometry::{Geometry, Sequences};
pub use merge::{Merged, Partial, merge, merge_backward, merge_rows, merge_rows_backward};

use super::Operand;
use crate::mask::{Align, Rule};

/// Everything that the scores and values of an attention are computed from.
///
/// `U` is the type of the bias; where there is none, any.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a, T, U = T> {
    /// How many of everything.
    pub geometry: Geometry<'a>,
    /// Queries: [B, Hq, Sq, D], or [Tq, Hq, D] packed.
    pub q: Operand<'a, T>,
    /// Keys: [B, Hkv, Sk, D], or [Tk, Hkv, D] packed.
    pub k: Operand<'a, T>,
    /// Values: [B, Hkv, Sk, Dv], or [Tk, Hkv, Dv] packed.
    pub v: Operand<'a, T>,
    /// Factor of the dot products; usually `1 / sqrt(D)`.
    pub scale: f64,
    /// Added to the scaled dot products. Strides by batch, query head, query and key, 0 where it is broadcast.
    pub bias: Option<Operand<'a, U>>,
    /// A bias by distance.
    pub alibi: Option<Alibi<'a>>,
    /// Scores are squeezed into `-softcap..softcap`.
    pub softcap: Option<f64>,
    /// Which pairs take part: those that no rule hides. Heads are query heads.
    pub mask: &'a [Rule<'a>],
}

/// Attention with linear biases: `-slope * |position of the query - position of the key|`.
#[derive(Clone, Copy, Debug)]
pub struct Alibi<'a> {
    /// One slope per head. Strides by batch and query head.
    pub slopes: Operand<'a, f32>,
    /// At which key each query stands. The field's convention is [`Align::BottomRight`].
    pub align: Align,
}
