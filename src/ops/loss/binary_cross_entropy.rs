//! Binary cross-entropy of logits: one event per element, each of which happens or does not.

use super::super::check;
use super::super::common::{operand, repeated};
use super::reduction::Reduction;
use crate::device::Device;
use crate::dtype::Float;
use crate::error::Result;
use crate::kernels::loss::{
    BinaryCall, binary_cross_entropy_backward as launch_backward, binary_cross_entropy_forward as launch_forward,
};
use crate::reference::Elements;
use crate::reference::binary_cross_entropy::Events;
use crate::shape::{Layout, Shape};
use crate::tensor::{Tensor, View, ViewMut};
use std::ops::Range;

/// Options of [`binary_cross_entropy_with_logits`].
///
/// ```
/// use sumexp::{BinaryCrossEntropy, Device, Tensor};
/// let rare = Tensor::from_slice(&Device::cpu(), &[3], &[1.0f32, 20.0, 4.0])?;
/// let options = BinaryCrossEntropy { pos_weight: Some(rare.view()), ..BinaryCrossEntropy::default() };
/// # let _ = options;
/// # Ok::<(), sumexp::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct BinaryCrossEntropy<'a> {
    /// What the loss of an element is multiplied by; broadcasts to the shape of the logits. A weight of 0 leaves the element out,
    /// whatever its logit and target are. 1 if not given.
    pub weight: Option<View<'a, f32>>,
    /// What the part of the loss in which the event happens is multiplied by; broadcasts to the shape of the logits, usually from
    /// one number per class. 1 if not given.
    pub pos_weight: Option<View<'a, f32>>,
    /// What becomes of the losses; their mean over all elements by default.
    pub reduction: Reduction<'a>,
}

/// Binary cross-entropy of logits and the probabilities of events:
/// `loss = weight * (t * pos_weight * ln(1 + exp(-x)) + (1 - t) * ln(1 + exp(x)))` of every element.
///
/// | tensor | shape | type |
/// | --- | --- | --- |
/// | `logits` | any, any strides | f16, bf16, f32 |
/// | `targets` | as `logits`, any strides; from 0 to 1 | as `logits` |
/// | `weight`, `pos_weight` | broadcast to `logits` | f32 |
/// | loss | `[]`; for [`Reduction::None`] as `logits` | f32 |
///
/// **Numerics.** The loss is a sum of two numbers that are never negative: for f32 logits it is within 4 units in the last place
/// (two more for each of the weights), for 16-bit logits within 64. Losses are added up in the order of the elements, compensated:
/// the same bits on every run. An infinite logit on the side of a certain target costs 0. Targets outside of 0 to 1 are taken as they
/// are. A NaN makes its own loss NaN, unless its weight is 0.
///
/// A mean divides by the number of all elements, whatever their weights are, and is 0 if there are none
/// ([`Reduction::MeanOver`] divides by another number).
///
/// # Errors
/// [`Error::Shapes`](crate::Error::Shapes), [`Error::Broadcast`](crate::Error::Broadcast),
/// [`Error::DifferentDevices`](crate::Error::DifferentDevices), [`Error::OutOfMemory`](crate::Error::OutOfMemory),
/// [`Error::Driver`](crate::Error::Driver).
///
/// ```
/// use sumexp::{BinaryCrossEntropy, Device, Tensor, binary_cross_entropy_with_logits as bce};
/// let device = Device::cpu();
/// let logits = Tensor::from_slice(&device, &[3], &[40.0f32, 0.0, f32::NEG_INFINITY])?;
/// let targets = Tensor::from_slice(&device, &[3], &[1.0f32, 0.5, 0.0])?;
/// let loss = bce(&logits, &targets, &BinaryCrossEntropy::default())?;
/// assert_eq!(loss.to_vec()?, [2f32.ln() / 3.0]);
/// # Ok::<(), sumexp::Error>(())
/// ```
pub fn binary_cross_entropy_with_logits<'a, 't, T: Float>(
    logits: impl Into<View<'a, T>>,
    targets: impl Into<View<'t, T>>,
    options: &BinaryCrossEntropy,
) -> Result<Tensor<f32>> {
    let checked = Checked::new(FORWARD, logits.into(), targets.into(), options)?;
    let mut loss = Tensor::unfilled(FORWARD, checked.logits.device(), checked.loss_shape()?)?;
    checked.forward(loss.view_mut())?;
    Ok(loss)
}

/// [`binary_cross_entropy_with_logits`] into memory of the caller.
///
/// # Errors
/// As [`binary_cross_entropy_with_logits`]; also [`Error::NotContiguous`](crate::Error::NotContiguous),
/// [`Error::Overlap`](crate::Error::Overlap) and [`Error::Shared`](crate::Error::Shared) for the loss.
pub fn binary_cross_entropy_with_logits_into<'a, 't, 'l, T: Float>(
    logits: impl Into<View<'a, T>>,
    targets: impl Into<View<'t, T>>,
    options: &BinaryCrossEntropy,
    loss: impl Into<ViewMut<'l, f32>>,
) -> Result<()> {
    let (checked, loss) = (Checked::new(FORWARD, logits.into(), targets.into(), options)?, loss.into());
    loss.check_output(FORWARD, "loss", ("the loss", &checked.loss_shape()?), &checked.inputs())?;
    Device::same(FORWARD, ("logits", checked.logits.device()), &[("loss", loss.device())])?;
    checked.forward(loss)
}

/// Gradient of [`binary_cross_entropy_with_logits`] by the logits:
/// `upstream * weight * ((1 - t) * sigmoid(x) - t * pos_weight * sigmoid(-x))`, divided by the number of elements for a mean.
///
/// Takes what the forward call took and the gradient of its loss, of the loss's shape and with any strides. For targets of 0 and 1
/// f32 is within 8 units in the last place; for others the two terms may cancel, and it is within 8 units of the larger one. f16 and
/// bf16 are within 0.51 (for other targets, and 2^-20 of the larger term). `exp(-|x|)` below 2^-149 counts as 0.
///
/// # Errors
/// As [`binary_cross_entropy_with_logits`].
pub fn binary_cross_entropy_with_logits_backward<'a, 't, 'u, T: Float>(
    logits: impl Into<View<'a, T>>,
    targets: impl Into<View<'t, T>>,
    upstream: impl Into<View<'u, f32>>,
    options: &BinaryCrossEntropy,
) -> Result<Tensor<T>> {
    let checked = Checked::new(BACKWARD, logits.into(), targets.into(), options)?;
    let (upstream, layout) = checked.upstream(upstream.into())?;
    let mut dlogits = Tensor::unfilled(BACKWARD, checked.logits.device(), *checked.logits.shape())?;
    checked.backward(upstream, &layout, dlogits.view_mut())?;
    Ok(dlogits)
}

/// [`binary_cross_entropy_with_logits_backward`] into memory of the caller.
///
/// # Errors
/// As [`binary_cross_entropy_with_logits_into`].
pub fn binary_cross_entropy_with_logits_backward_into<'a, 't, 'u, 'o, T: Float>(
    logits: impl Into<View<'a, T>>,
    targets: impl Into<View<'t, T>>,
    upstream: impl Into<View<'u, f32>>,
    options: &BinaryCrossEntropy,
    dlogits: impl Into<ViewMut<'o, T>>,
) -> Result<()> {
    let (checked, dlogits) = (Checked::new(BACKWARD, logits.into(), targets.into(), options)?, dlogits.into());
    let (upstream, layout) = checked.upstream(upstream.into())?;
    let mut inputs = checked.inputs();
    inputs.push(("upstream", upstream.addresses()));
    dlogits.check_output(BACKWARD, "dlogits", ("logits", checked.logits.shape()), &inputs)?;
    Device::same(BACKWARD, ("logits", checked.logits.device()), &[("dlogits", dlogits.device())])?;
    checked.backward(upstream, &layout, dlogits)
}

const FORWARD: &str = "binary_cross_entropy_with_logits";
const BACKWARD: &str = "binary_cross_entropy_with_logits_backward";

/// A call whose operands fit together.
struct Checked<'a, T> {
    op: &'static str,
    logits: View<'a, T>,
    targets: View<'a, T>,
    weight: Option<(View<'a, f32>, Layout)>,
    pos_weight: Option<(View<'a, f32>, Layout)>,
    reduction: Reduction<'a>,
}

impl<'a, T: Float> Checked<'a, T> {
    fn new(
        op: &'static str,
        logits: View<'a, T>,
        targets: View<'a, T>,
        options: &BinaryCrossEntropy<'a>,
    ) -> Result<Self> {
        check::same_shape(op, ("targets", targets.shape()), ("logits", logits.shape()))?;
        Device::same(op, ("logits", logits.device()), &[("targets", targets.device())])?;
        let weight = |name, weight: Option<View<'a, f32>>| match weight {
            None => Ok(None),
            Some(view) => {
                let layout = view.layout().broadcast(op, name, logits.shape())?;
                Device::same(op, ("logits", logits.device()), &[(name, view.device())])?;
                Ok(Some((view, layout)))
            }
        };
        options.reduction.check(op, ("logits", logits.device()))?;
        let (weight, pos_weight) = (weight("weight", options.weight)?, weight("pos_weight", options.pos_weight)?);
        Ok(Self { op, logits, targets, weight, pos_weight, reduction: options.reduction })
    }

    fn loss_shape(&self) -> Result<Shape> {
        self.reduction.loss_shape(self.op, self.logits.shape())
    }

    /// The gradient of the loss, checked, and its layout over the shape of the logits.
    fn upstream<'u>(&self, upstream: View<'u, f32>) -> Result<(View<'u, f32>, Layout)> {
        check::same_shape(self.op, ("upstream", upstream.shape()), ("the loss", &self.loss_shape()?))?;
        Device::same(self.op, ("logits", self.logits.device()), &[("upstream", upstream.device())])?;
        let layout = upstream.layout().broadcast(self.op, "upstream", self.logits.shape())?;
        Ok((upstream, layout))
    }

    fn inputs(&self) -> Vec<(&'static str, Range<u64>)> {
        let mut inputs = vec![("logits", self.logits.addresses()), ("targets", self.targets.addresses())];
        let weights = [("weight", &self.weight), ("pos_weight", &self.pos_weight)];
        inputs.extend(weights.into_iter().filter_map(|(name, weight)| Some((name, weight.as_ref()?.0.addresses()))));
        inputs.extend(self.reduction.input());
        inputs
    }

    fn call(&self) -> BinaryCall<'_, T> {
        let weight =
            |weight: &Option<(View<f32>, Layout)>| weight.as_ref().map(|(view, layout)| (view.address(), *layout));
        BinaryCall {
            op: self.op,
            logits: self.logits,
            targets: self.targets,
            weight: weight(&self.weight),
            pos_weight: weight(&self.pos_weight),
        }
    }

    /// The call as the reference takes it; none if it is not on the host.
    fn on_host(&self) -> Option<Events<'_, T>> {
        Some(Events {
            logits: operand(&self.logits)?,
            targets: operand(&self.targets)?,
            weight: match &self.weight {
                None => None,
                Some((view, layout)) => Some(repeated(view, layout)?),
            },
            pos_weight: match &self.pos_weight {
                None => None,
                Some((view, layout)) => Some(repeated(view, layout)?),
            },
        })
    }

    fn elements(&self) -> Elements<'_> {
        Elements { shape: self.logits.dims() }
    }

    fn forward(&self, mut loss: ViewMut<f32>) -> Result<()> {
        let Some(events) = self.on_host() else { return launch_forward(&self.call(), self.reduction.into(), loss) };
        let losses = events.losses(&self.elements());
        self.reduction.write_on_host(self.op, &mut loss, &losses, losses.len() as f64)
    }

    fn backward(&self, upstream: View<f32>, layout: &Layout, mut dlogits: ViewMut<T>) -> Result<()> {
        let elements = self.logits.shape().elements();
        if elements == 0 {
            return Ok(());
        }
        let (Some(events), Some(on_host)) = (self.on_host(), repeated(&upstream, layout)) else {
            return launch_backward(&self.call(), (upstream.address(), layout), self.reduction.into(), dlogits);
        };
        let dlogits = dlogits.on_host(self.op, "dlogits")?.expect("dlogits are where the logits are");
        events.backward(&self.elements(), on_host, self.reduction.scale_on_host(elements as f64), dlogits);
        Ok(())
    }
}
