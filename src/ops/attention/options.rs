//! What a call of attention may ask for.

use crate::dtype::{DType, bf16, f16};
use crate::mask::Align;
use crate::tensor::{Mask, Tensor, View};

/// Options of attention. A backward operation takes those of its forward operation.
///
/// The score of query i and key j, in this order, and what becomes of it:
///
/// ```text
/// u = scale * dot(q_i, k_j) + bias_ij - slope * |position_i - j|        s = softcap * tanh(u / softcap), or u without a softcap
/// weight_ij = exp(s_ij) / sum of exp(s) over the keys that the mask shows to query i
/// ```
///
/// ```
/// use sumexp::Mask;
/// use sumexp::attention::Attention;
/// use sumexp::mask::Align;
/// let causal = Attention { mask: Mask::Causal(Align::BottomRight), ..Attention::default() };
/// let capped = Attention { softcap: Some(50.0), scale: Some(0.125), ..causal };
/// assert!(Attention::default().scale.is_none(), "1 / sqrt(D)");
/// # let _ = capped;
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Attention<'a> {
    /// What products of queries and keys are multiplied with: any finite number, 0 and below included. `1 / sqrt(D)` if not said
    /// otherwise, for rows of D elements in q and k.
    pub scale: Option<f32>,
    /// Which keys each query sees; all if not said otherwise.
    pub mask: Mask<'a>,
    /// Added to the scaled products, itself not scaled. -inf hides.
    pub bias: Option<Bias<'a>>,
    /// Whether a backward operation also gives [`AttentionGradients::dbias`](super::AttentionGradients::dbias). There must be a bias then.
    /// Not by default.
    pub bias_gradient: bool,
    /// A bias by distance, for models without position embeddings.
    pub alibi: Option<Alibi<'a>>,
    /// Scores are squeezed into `-softcap..softcap` before the mask. Finite and above 0.
    pub softcap: Option<f32>,
}

/// An additive bias, of any floating-point type, whatever that of q, k and v. It broadcasts to `[B, Hq, Sq, Sk]`.
///
/// ```
/// use sumexp::attention::{Attention, Bias};
/// use sumexp::{Device, Tensor, f16};
/// let bias = Tensor::<f16>::zeros(&Device::cpu(), &[8, 1, 77])?;
/// let options = Attention { bias: Some(Bias::from(&bias)), ..Attention::default() };
/// assert!(matches!(options.bias, Some(Bias::F16(_))));
/// # Ok::<(), sumexp::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub enum Bias<'a> {
    /// In f32.
    F32(View<'a, f32>),
    /// In f16.
    F16(View<'a, f16>),
    /// In bf16.
    BF16(View<'a, bf16>),
}

impl Bias<'_> {
    /// Its own dims.
    pub fn dims(&self) -> &[usize] {
        match self {
            Self::F32(view) => view.dims(),
            Self::F16(view) => view.dims(),
            Self::BF16(view) => view.dims(),
        }
    }

    /// Its type.
    pub fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::F16(_) => DType::F16,
            Self::BF16(_) => DType::BF16,
        }
    }
}

macro_rules! bias_from {
    ($($variant:ident($element:ty)),*) => {$(
        impl<'a> From<View<'a, $element>> for Bias<'a> {
            fn from(view: View<'a, $element>) -> Self {
                Self::$variant(view)
            }
        }

        impl<'a> From<&'a Tensor<$element>> for Bias<'a> {
            fn from(tensor: &'a Tensor<$element>) -> Self {
                Self::$variant(tensor.view())
            }
        }
    )*};
}

bias_from!(F32(f32), F16(f16), BF16(bf16));

/// Attention with linear biases (Press, Smith and Lewis, arXiv 2108.12409): `slope * |position of the query - position of the key|` is
/// subtracted from each score.
///
/// The distance counts on both sides, as in FlashAttention; under a causal mask that is the paper's form. [`Alibi::slopes`] of a
/// power of two of heads are `2^(-8 (h + 1) / heads)` there.
#[derive(Clone, Copy, Debug)]
pub struct Alibi<'a> {
    /// One per head: `[Hq]`, or what broadcasts to `[B, Hq]`.
    pub slopes: View<'a, f32>,
    /// At which key each query stands, as for masks.
    pub align: Align,
}
