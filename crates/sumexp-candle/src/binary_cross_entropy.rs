//! Binary cross-entropy of logits.

use crate::memory::{Operand, Output, Place, Side, with_float};
use crate::op::{Custom, Op};
use crate::reduction::{Reduction, optional};
use candle_core::{Error, Result, Shape, Tensor};

/// Options of [`bce_with_logits`], as [`sumexp::BinaryCrossEntropy`].
#[derive(Clone, Debug, Default)]
pub struct BinaryCrossEntropy {
    /// What the loss of an element is multiplied by: f32, broadcasts to the shape of the logits. 1 if not given.
    pub weight: Option<Tensor>,
    /// What the part of the loss in which the event happens is multiplied by: f32, broadcasts to the shape of the logits. 1 if not
    /// given.
    pub pos_weight: Option<Tensor>,
    /// What becomes of the losses; their mean over all elements by default.
    pub reduction: Reduction,
}

/// Binary cross-entropy of logits and the probabilities of events, as [`sumexp::binary_cross_entropy_with_logits`]: f32 of shape
/// `[]`, or of the shape of the logits for [`Reduction::None`].
///
/// `logits` and `targets` are f16, bf16 or f32, of one shape and type, with any strides. Losses and gradients stay right at any
/// logit. The gradient goes to the logits alone: targets and weights are taken as constants.
///
/// # Errors
/// Those of [`sumexp::binary_cross_entropy_with_logits`]; another type of an operand; operands on several devices.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use sumexp_candle::{BinaryCrossEntropy, bce_with_logits};
/// let x = Var::new(&[100f32, -100.0], &Device::Cpu)?;
/// let targets = Tensor::new(&[0f32, 1.0], &Device::Cpu)?;
/// let loss = bce_with_logits(&x, &targets, &BinaryCrossEntropy::default())?;
/// assert_eq!(loss.to_scalar::<f32>()?, 100.0);
/// assert_eq!(loss.backward()?.get(&x).unwrap().to_vec1::<f32>()?, [0.5, -0.5]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn bce_with_logits(logits: &Tensor, targets: &Tensor, options: &BinaryCrossEntropy) -> Result<Tensor> {
    logits.apply_op2(&targets.detach(), Custom(Forward { options: detached(options) }))
}

/// The options without the graphs that their tensors come from.
fn detached(options: &BinaryCrossEntropy) -> BinaryCrossEntropy {
    BinaryCrossEntropy {
        weight: options.weight.as_ref().map(Tensor::detach),
        pos_weight: options.pos_weight.as_ref().map(Tensor::detach),
        reduction: options.reduction.detached(),
    }
}

struct Forward {
    options: BinaryCrossEntropy,
}

impl Op<2> for Forward {
    const NAME: &'static str = "bce_with_logits";

    fn forward<P: Place>(&self, place: &P, [x, targets]: [Operand<'_, P>; 2]) -> Result<(P::Memory, Shape)> {
        with_options(Self::NAME, place, &self.options, |options| {
            let mut loss = Output::<P, f32>::new(place, &self.options.reduction.dims(x.dims()))?;
            with_float!(Self::NAME, x.dtype(), T => {
                let (x, targets) = (x.view::<T>(place)?, targets.view::<T>(place)?);
                sumexp::binary_cross_entropy_with_logits_into(x.view, targets.view, options, loss.view_mut(place)?)
                    .map_err(Error::wrap)
            })?;
            Ok(loss.finish(place))
        })
    }

    fn backward(&self, [x, targets]: [&Tensor; 2], _: &Tensor, upstream: &Tensor) -> Result<[Option<Tensor>; 2]> {
        let backward = Custom(Backward { options: self.options.clone() });
        Ok([Some(x.apply_op3_no_bwd(targets, upstream, &backward)?), None])
    }
}

/// From the logits, the targets and the gradient of the loss.
struct Backward {
    options: BinaryCrossEntropy,
}

impl Op<3> for Backward {
    const NAME: &'static str = "bce_with_logits_backward";

    fn forward<P: Place>(&self, place: &P, inputs: [Operand<'_, P>; 3]) -> Result<(P::Memory, Shape)> {
        let [x, targets, upstream] = inputs;
        with_options(Self::NAME, place, &self.options, |options| {
            let upstream = upstream.view::<f32>(place)?;
            with_float!(Self::NAME, x.dtype(), T => {
                let mut dx = Output::<P, T>::new(place, x.dims())?;
                let (x, targets) = (x.view::<T>(place)?, targets.view::<T>(place)?);
                sumexp::binary_cross_entropy_with_logits_backward_into(
                    x.view, targets.view, upstream.view, options, dx.view_mut(place)?,
                ).map_err(Error::wrap)?;
                Ok(dx.finish(place))
            })
        })
    }
}

/// Runs a call with the options as sumexp takes them.
fn with_options<P: Place, R>(
    op: &'static str,
    place: &P,
    options: &BinaryCrossEntropy,
    call: impl FnOnce(&sumexp::BinaryCrossEntropy) -> Result<R>,
) -> Result<R> {
    let weight = Side::optional("weight", options.weight.as_ref());
    let pos_weight = Side::optional("pos_weight", options.pos_weight.as_ref());
    let divisor = options.reduction.side();
    let weight = optional::<f32, P>(op, place, &weight)?;
    let pos_weight = optional::<f32, P>(op, place, &pos_weight)?;
    let divisor = optional::<f32, P>(op, place, &divisor)?;
    call(&sumexp::BinaryCrossEntropy {
        weight: weight.as_ref().map(|input| input.view),
        pos_weight: pos_weight.as_ref().map(|input| input.view),
        reduction: options.reduction.of(divisor.as_ref()),
    })
}
