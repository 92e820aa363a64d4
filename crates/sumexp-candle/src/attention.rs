//! Scaled dot-product attention.

use crate::mask::{Align, Mask, with_mask};
use crate::memory::{Operand, Output, Place, Scalar, Side, with_float};
use crate::op::{Custom, Op};
use crate::reduction::optional;
use candle_core::{Error, Result, Shape, Tensor};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use sumexp::Float;

/// Options of [`scaled_dot_product_attention`], as [`sumexp::attention::Attention`], which has the formula.
#[derive(Clone, Debug, Default)]
pub struct Attention {
    /// What products of queries and keys are multiplied with. `1 / sqrt(D)` if not given.
    pub scale: Option<f32>,
    /// Which keys each query sees; all if not given.
    pub mask: Option<Mask>,
    /// Added to the scaled products: f16, bf16 or f32, broadcasts to `[B, Hq, Sq, Sk]`. -inf hides. If it is part of
    /// a graph it gets a gradient; q is copied once then.
    pub bias: Option<Tensor>,
    /// A bias by distance.
    pub alibi: Option<Alibi>,
    /// Scores are squeezed into `-softcap..softcap` before the mask. Finite and above 0.
    pub softcap: Option<f32>,
}

/// `slope * |position of the query - position of the key|` is subtracted from each score, as [`sumexp::attention::Alibi`].
#[derive(Clone, Debug)]
pub struct Alibi {
    /// One per head: f32 `[Hq]`, or what broadcasts to `[B, Hq]`. A constant.
    pub slopes: Tensor,
    /// At which key each query stands.
    pub align: Align,
}

/// `softmax(scale * q k^T + bias) v`, as [`sumexp::attention::forward`]: the matrix of scores is never in memory, neither here nor in
/// the gradient.
///
/// | tensor | shape | type |
/// |---|---|---|
/// | q | `[B, Hq, Sq, D]` | f16, bf16, f32 |
/// | k | `[B, Hkv, Sk, D]` | as q |
/// | v | `[B, Hkv, Sk, Dv]` | as q |
/// | result | `[B, Hq, Sq, Dv]` | as q |
///
/// Hq is a multiple of Hkv; D and Dv are up to 256. Strides are any as long as the last dim is contiguous, so `[B, S, H, D]` comes in by
/// `transpose(1, 2)` and parts of one q-k-v tensor by `narrow`, without a copy; a tensor whose last dim is not contiguous is copied
/// first. A query that sees no key has 0, and gradient 0.
///
/// # Errors
/// Those of [`sumexp::attention::forward`]; another type of an operand; operands on several devices.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use sumexp_candle::{Align, Attention, Mask, scaled_dot_product_attention};
/// let x = |values: [f32; 2]| Var::from_slice(&values, (1, 1, 2, 1), &Device::Cpu);
/// let (q, k, v) = (x([1.0, 1.0])?, x([0.0, 3f32.ln()])?, x([4.0, 8.0])?);
/// let options = Attention { mask: Some(Mask::Causal(Align::TopLeft)), ..Attention::default() };
/// let y = scaled_dot_product_attention(&q, &k, &v, &options)?;
/// assert_eq!(y.flatten_all()?.to_vec1::<f32>()?, [4.0, 7.0]);
/// let gradients = y.sum_all()?.backward()?;
/// assert_eq!(gradients.get(&v).unwrap().flatten_all()?.to_vec1::<f32>()?, [1.25, 0.75]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn scaled_dot_product_attention(q: &Tensor, k: &Tensor, v: &Tensor, options: &Attention) -> Result<Tensor> {
    let tracked = options.bias.as_ref().filter(|bias| bias.track_op());
    let call =
        Call { options: detached(options), of_bias: tracked.is_some(), lse: OnceLock::new(), dbias: Mutex::new(None) };
    let (call, mut q) = (Arc::new(call), with_whole_rows(q)?);
    if let Some(bias) = tracked {
        // candle's operations have three operands. The fourth comes in by way of q, as a 0 whose gradient is taken after that of q.
        let nothing = Tensor::zeros(1, q.dtype(), q.device())?;
        q = q.broadcast_add(&nothing.apply_op2(bias, Custom(OfBias(call.clone())))?)?;
    }
    q.apply_op3(&with_whole_rows(k)?, &with_whole_rows(v)?, Custom(Forward(call)))
}

/// The weights themselves, `[B, Hq, Sq, Sk]`, for a picture of them; see [`sumexp::attention::weights`]. They are in memory whole, a
/// forward operation is run for their sums, and no gradient goes through them.
///
/// # Errors
/// As [`scaled_dot_product_attention`].
///
/// ```
/// use candle_core::{Device, Tensor};
/// use sumexp_candle::{Attention, attention_weights};
/// let q = Tensor::new(&[[[[0f32], [1.0]]]], &Device::Cpu)?;
/// let weights = attention_weights(&q, &q, &Attention::default())?;
/// assert_eq!(weights.flatten_all()?.to_vec1::<f32>()?[..2], [0.5, 0.5]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn attention_weights(q: &Tensor, k: &Tensor, options: &Attention) -> Result<Tensor> {
    with_whole_rows(q)?.apply_op2_no_bwd(&with_whole_rows(k)?, &Custom(Weights(detached(options))))
}

/// The tensor, copied only if its last dim is not contiguous.
fn with_whole_rows(x: &Tensor) -> Result<Tensor> {
    match (x.dims().last(), x.stride().last()) {
        (Some(2..), Some(step)) if *step != 1 => x.contiguous(),
        _ => Ok(x.clone()),
    }
}

/// The options without the graphs that their tensors come from.
fn detached(options: &Attention) -> Attention {
    let alibi = options.alibi.as_ref().map(|alibi| Alibi { slopes: alibi.slopes.detach(), align: alibi.align });
    Attention { bias: options.bias.as_ref().map(Tensor::detach), alibi, ..options.clone() }
}

/// Runs a call with the options as sumexp takes them.
fn with_options<P: Place, R>(
    op: &'static str,
    place: &P,
    options: &Attention,
    call: impl FnOnce(&sumexp::attention::Attention) -> Result<R>,
) -> Result<R> {
    with_mask(op, place, options.mask.as_ref(), |mask| {
        let slopes = Side::optional("slopes", options.alibi.as_ref().map(|alibi| &alibi.slopes));
        let slopes = optional::<f32, P>(op, place, &slopes)?;
        let alibi = slopes.as_ref().zip(options.alibi.as_ref());
        let alibi = alibi.map(|(slopes, alibi)| sumexp::attention::Alibi { slopes: slopes.view, align: alibi.align });
        let (scale, softcap) = (options.scale, options.softcap);
        let bare = sumexp::attention::Attention { scale, mask, alibi, softcap, ..Default::default() };
        let Some(bias) = Side::optional("the bias", options.bias.as_ref()) else { return call(&bare) };
        with_float!(op, bias.dtype(), T => {
            let bias = bias.view::<T, P>(op, place)?;
            call(&sumexp::attention::Attention { bias: Some(bias.view.into()), ..bare })
        })
    })
}

/// A call: what it takes beside q, k and v, and what it gives beside its results.
struct Call {
    options: Attention,
    /// Whether the bias has a gradient.
    of_bias: bool,
    lse: OnceLock<Tensor>,
    /// From the gradient of the result until that of the bias is asked for.
    dbias: Mutex<Option<Tensor>>,
}

/// From a 0 and the bias the 0, whose gradient stands for that of the bias.
struct OfBias(Arc<Call>);

impl Op<2> for OfBias {
    const NAME: &'static str = "scaled_dot_product_attention_bias";

    fn forward<P: Place>(&self, place: &P, [nothing, _]: [Operand<'_, P>; 2]) -> Result<(P::Memory, Shape)> {
        with_float!(Self::NAME, nothing.dtype(), T => {
            let (nothing, mut result) = (nothing.view::<T>(place)?, Output::<P, T>::new(place, &[1])?);
            // Of a single number it is 0.
            let options = sumexp::SoftmaxOptions::default();
            sumexp::log_softmax_into(nothing.view, sumexp::Dim::LAST, &options, result.view_mut(place)?).map_err(Error::wrap)?;
            Ok(result.finish(place))
        })
    }

    fn backward(&self, _: [&Tensor; 2], _: &Tensor, _: &Tensor) -> Result<[Option<Tensor>; 2]> {
        match self.0.dbias.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(dbias) => Ok([None, Some(dbias)]),
            None => candle_core::bail!(
                "scaled_dot_product_attention: candle wants the gradient of the bias before that of q"
            ),
        }
    }
}

struct Forward(Arc<Call>);

impl Op<3> for Forward {
    const NAME: &'static str = "scaled_dot_product_attention";

    fn forward<P: Place>(&self, place: &P, operands: [Operand<'_, P>; 3]) -> Result<(P::Memory, Shape)> {
        with_float!(Self::NAME, operands[0].dtype(), T => {
            let (out, lse) = forward::<T, P>(Self::NAME, place, operands, &self.0.options)?;
            // A call runs once.
            let _ = self.0.lse.set(lse.tensor(place));
            Ok(out.finish(place))
        })
    }

    fn backward(&self, [q, k, v]: [&Tensor; 3], out: &Tensor, dout: &Tensor) -> Result<[Option<Tensor>; 3]> {
        let backward = Custom(Backward {
            call: self.0.clone(),
            out: out.detach(),
            dout: with_whole_rows(&dout.detach())?,
            beside: OnceLock::new(),
        });
        let dq = q.detach().apply_op3_no_bwd(&k.detach(), &v.detach(), &backward)?;
        match backward.0.beside.into_inner() {
            Some([dk, dv]) => Ok([Some(dq), Some(dk), Some(dv)]),
            None => candle_core::bail!("scaled_dot_product_attention: candle did not run the gradient"),
        }
    }
}

/// Out, and the lse of its queries.
fn forward<T: Scalar + Float, P: Place>(
    op: &'static str,
    place: &P,
    [q, k, v]: [Operand<'_, P>; 3],
    options: &Attention,
) -> Result<(Output<P, T>, Output<P, f32>)> {
    // Operands of other ranks are refused by sumexp, whatever memory there is for results.
    let mut dims = q.dims().to_vec();
    let mut lse = Output::<P, f32>::new(place, &dims[..dims.len().saturating_sub(1)])?;
    if let (Some(last), Some(size)) = (dims.last_mut(), v.dims().last()) {
        *last = *size;
    }
    let mut out = Output::<P, T>::new(place, &dims)?;
    with_options(op, place, options, |options| {
        let (q, k, v) = (q.view::<T>(place)?, k.view::<T>(place)?, v.view::<T>(place)?);
        let into = sumexp::attention::AttentionInto { out: out.view_mut(place)?, lse: Some(lse.view_mut(place)?) };
        sumexp::attention::forward_into(q.view, k.view, v.view, options, into).map_err(Error::wrap)
    })?;
    Ok((out, lse))
}

/// From q, k, v and what forward left. The result is dq.
struct Backward {
    call: Arc<Call>,
    out: Tensor,
    dout: Tensor,
    /// dk, dv.
    beside: OnceLock<[Tensor; 2]>,
}

impl Op<3> for Backward {
    const NAME: &'static str = "scaled_dot_product_attention_backward";

    fn forward<P: Place>(&self, place: &P, [q, k, v]: [Operand<'_, P>; 3]) -> Result<(P::Memory, Shape)> {
        let Some(lse) = self.call.lse.get() else {
            candle_core::bail!("scaled_dot_product_attention: the gradient comes before the result");
        };
        let (out, dout, lse) =
            (Side::new("the result", &self.out), Side::new("its gradient", &self.dout), Side::new("lse", lse));
        let bias = self.call.options.bias.as_ref();
        with_float!(Self::NAME, q.dtype(), T => {
            let mut dq = Output::<P, T>::new(place, q.dims())?;
            let mut dk = Output::<P, T>::new(place, k.dims())?;
            let mut dv = Output::<P, T>::new(place, v.dims())?;
            let mut run = |dbias: Option<sumexp::attention::BiasInto>| {
                with_options(Self::NAME, place, &self.call.options, |options| {
                    let (q, k, v) = (q.view::<T>(place)?, k.view::<T>(place)?, v.view::<T>(place)?);
                    let (out, dout) = (out.view::<T, P>(Self::NAME, place)?, dout.view::<T, P>(Self::NAME, place)?);
                    let lse = lse.view::<f32, P>(Self::NAME, place)?;
                    let saved = sumexp::attention::Partial::from_values(out.view, lse.view);
                    let (dq, dk, dv) = (dq.view_mut(place)?, dk.view_mut(place)?, dv.view_mut(place)?);
                    let gradients = sumexp::attention::GradientsInto { dq, dk, dv, dbias };
                    sumexp::attention::backward_into(q.view, k.view, v.view, saved, dout.view, options, gradients)
                        .map_err(Error::wrap)
                })
            };
            match bias.filter(|_| self.call.of_bias) {
                None => run(None)?,
                Some(bias) => with_float!(Self::NAME, bias.dtype(), B => {
                    let mut dbias = Output::<P, B>::new(place, bias.dims())?;
                    run(Some(dbias.view_mut(place)?.into()))?;
                    *self.call.dbias.lock().unwrap_or_else(PoisonError::into_inner) = Some(dbias.tensor(place));
                    Ok(())
                })?,
            }
            let _ = self.beside.set([dk.tensor(place), dv.tensor(place)]);
            Ok(dq.finish(place))
        })
    }
}

struct Weights(Attention);

impl Op<2> for Weights {
    const NAME: &'static str = "attention_weights";

    fn forward<P: Place>(&self, place: &P, [q, k]: [Operand<'_, P>; 2]) -> Result<(P::Memory, Shape)> {
        let ([batch, heads, queries, _], [_, _, keys, _]) = (q.dims(), k.dims()) else {
            candle_core::bail!("{}: q and k are [B, H, S, D], not {:?} and {:?}", Self::NAME, q.dims(), k.dims());
        };
        with_float!(Self::NAME, q.dtype(), T => {
            // Any values will do for the sums: the keys are at hand.
            let (_, mut lse) = forward::<T, P>(Self::NAME, place, [q, k, k], &self.0)?;
            let lse = lse.view_mut(place)?;
            let mut weights = Output::<P, T>::new(place, &[*batch, *heads, *queries, *keys])?;
            with_options(Self::NAME, place, &self.0, |options| {
                let (q, k, weights) = (q.view::<T>(place)?, k.view::<T>(place)?, weights.view_mut(place)?);
                sumexp::attention::weights_into(q.view, k.view, lse.as_view(), 0..*queries, options, weights)
                    .map_err(Error::wrap)
            })?;
            Ok(weights.finish(place))
        })
    }
}
