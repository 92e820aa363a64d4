//! Cross-entropy together with its gradient.

use super::super::super::check;
use super::super::targets::Targets;
use super::checked::Checked;
use super::options::{CrossEntropy, CrossEntropyInto, CrossEntropyOutput};
use super::outputs::Owned;
use crate::device::Device;
use crate::dtype::Float;
use crate::error::Result;
use crate::kernels::loss::{Destination, cross_entropy_backward as launch_backward, cross_entropy_fused as launch};
use crate::shape::{Dim, Layout};
use crate::tensor::{Tensor, View, ViewMut};

/// [`cross_entropy`](crate::cross_entropy) and the gradient of its logits in one go.
///
/// Takes what [`cross_entropy`](crate::cross_entropy) takes, and the gradient of the loss as
/// [`cross_entropy_backward`](crate::cross_entropy_backward) does (none is 1; the scale of a loss that is scaled is one). Losses have
/// the bits that [`cross_entropy`](crate::cross_entropy) gives them; numerics, bad targets and errors are as there.
///
/// **Memory.** Where classes lie along the last dim, a row stays on the multiprocessor between its loss and its gradient: its logits
/// are read once, with every option. Of rows of more than 192 KiB (256 KiB on Hopper; with label smoothing, probability targets or
/// statistics 176 KiB and 240 KiB) a part is read twice. Targets that are probabilities are always read twice: keeping them as well
/// would leave less room for logits. Classes along another dim go through two kernels, each of which reads the logits: a thread has a
/// row to itself there, and cannot keep it.
///
/// # Errors
/// As [`cross_entropy`](crate::cross_entropy) and [`cross_entropy_backward`](crate::cross_entropy_backward).
///
/// ```
/// use sumexp::{CrossEntropy, Device, Dim, Tensor, cross_entropy_with_gradient};
/// let device = Device::cpu();
/// let logits = Tensor::from_slice(&device, &[2, 2], &[0.0f32, 0.0, 3.0, 3.0])?;
/// let targets = Tensor::from_slice(&device, &[2], &[0i64, 1])?;
/// let (output, dlogits) =
///     cross_entropy_with_gradient(&logits, Dim::LAST, &targets, None, &CrossEntropy::default())?;
/// assert_eq!(output.loss.to_vec()?, [2f32.ln()]);
/// assert_eq!(dlogits.to_vec()?, [-0.25, 0.25, 0.25, -0.25]);
/// # Ok::<(), sumexp::Error>(())
/// ```
pub fn cross_entropy_with_gradient<'a, 't, 'u, T: Float>(
    logits: impl Into<View<'a, T>>,
    dim: Dim,
    targets: impl Into<Targets<'t>>,
    upstream: Option<View<'u, f32>>,
    options: &CrossEntropy,
) -> Result<(CrossEntropyOutput, Tensor<T>)> {
    let call = Call::new(WITH_GRADIENT, logits.into(), dim, targets.into(), upstream, options)?;
    let mut owned = Owned::new(&call.checked)?;
    let mut dlogits = Tensor::unfilled(WITH_GRADIENT, call.checked.logits.device(), *call.checked.logits.shape())?;
    call.run(owned.views(), dlogits.view_mut())?;
    Ok((owned.finish(), dlogits))
}

/// [`cross_entropy_with_gradient`] into memory that the caller owns.
///
/// # Errors
/// As [`cross_entropy_with_gradient`]; [`Error::Shapes`](crate::Error::Shapes), [`Error::NotContiguous`](crate::Error::NotContiguous),
/// [`Error::Overlap`](crate::Error::Overlap), [`Error::Shared`](crate::Error::Shared) for an output that cannot be written.
pub fn cross_entropy_with_gradient_into<'a, 't, 'u, 'o, T: Float>(
    logits: impl Into<View<'a, T>>,
    dim: Dim,
    targets: impl Into<Targets<'t>>,
    upstream: Option<View<'u, f32>>,
    options: &CrossEntropy,
    outputs: CrossEntropyInto,
    dlogits: impl Into<ViewMut<'o, T>>,
) -> Result<()> {
    let call = Call::new(WITH_GRADIENT, logits.into(), dim, targets.into(), upstream, options)?;
    let dlogits = dlogits.into();
    call.checked.check_outputs(&outputs)?;
    call.check_gradient(&dlogits)?;
    call.run(outputs, dlogits)
}

/// [`cross_entropy_with_gradient`] whose gradient takes the place of the logits: it needs no memory of the size of the logits.
///
/// The tensor returned is the one given on a GPU and with classes along the last dim. Else it is a new one, and the logits are dropped.
///
/// # Errors
/// As [`cross_entropy_with_gradient`]; [`Error::Shared`](crate::Error::Shared) if a tensor on another stream holds the logits' memory.
/// The logits are dropped also then.
///
/// ```
/// use sumexp::{CrossEntropy, Device, Dim, Tensor, cross_entropy_in_place};
/// let device = Device::cpu();
/// let logits = Tensor::from_slice(&device, &[1, 2], &[0.0f32, 0.0])?;
/// let targets = Tensor::from_slice(&device, &[1], &[1i64])?;
/// let (_, dlogits) = cross_entropy_in_place(logits, Dim::LAST, &targets, None, &CrossEntropy::default())?;
/// assert_eq!(dlogits.to_vec()?, [0.5, -0.5]);
/// # Ok::<(), sumexp::Error>(())
/// ```
pub fn cross_entropy_in_place<'t, 'u, T: Float>(
    mut logits: Tensor<T>,
    dim: Dim,
    targets: impl Into<Targets<'t>>,
    upstream: Option<View<'u, f32>>,
    options: &CrossEntropy,
) -> Result<(CrossEntropyOutput, Tensor<T>)> {
    let op = "cross_entropy_in_place";
    let targets = targets.into();
    if !Call::new(op, logits.view(), dim, targets, upstream, options)?.fuses() {
        return cross_entropy_with_gradient(&logits, dim, targets, upstream, options);
    }
    let mut exclusive = logits.view_mut();
    let (read, destination) = Destination::over(op, &mut exclusive)?;
    let call = Call::new(op, read, dim, targets, upstream, options)?;
    let mut owned = Owned::new(&call.checked)?;
    call.launch(owned.views(), destination)?;
    Ok((owned.finish(), logits))
}

/// Gradient of [`cross_entropy`](crate::cross_entropy) from what the forward call took, without what it saved.
///
/// It costs as much as [`cross_entropy_with_gradient`], whose loss is left out.
///
/// # Errors
/// As [`cross_entropy_with_gradient_into`].
pub fn cross_entropy_gradient_into<'a, 't, 'u, 'o, T: Float>(
    logits: impl Into<View<'a, T>>,
    dim: Dim,
    targets: impl Into<Targets<'t>>,
    upstream: impl Into<View<'u, f32>>,
    options: &CrossEntropy,
    dlogits: impl Into<ViewMut<'o, T>>,
) -> Result<()> {
    let upstream = Some(upstream.into());
    let call = Call::new("cross_entropy_gradient", logits.into(), dim, targets.into(), upstream, options)?;
    let dlogits = dlogits.into();
    call.check_gradient(&dlogits)?;
    let mut owned = Owned::new(&call.checked)?;
    call.run(owned.views(), dlogits)
}

/// [`cross_entropy_gradient_into`] that allocates its result.
///
/// # Errors
/// As [`cross_entropy_with_gradient`].
pub fn cross_entropy_gradient<'a, 't, 'u, T: Float>(
    logits: impl Into<View<'a, T>>,
    dim: Dim,
    targets: impl Into<Targets<'t>>,
    upstream: impl Into<View<'u, f32>>,
    options: &CrossEntropy,
) -> Result<Tensor<T>> {
    let (op, upstream) = ("cross_entropy_gradient", Some(upstream.into()));
    let call = Call::new(op, logits.into(), dim, targets.into(), upstream, options)?;
    let mut owned = Owned::new(&call.checked)?;
    let mut dlogits = Tensor::unfilled(op, call.checked.logits.device(), *call.checked.logits.shape())?;
    call.run(owned.views(), dlogits.view_mut())?;
    Ok(dlogits)
}

const WITH_GRADIENT: &str = "cross_entropy_with_gradient";

/// A call and the gradient of its loss, which fit together.
struct Call<'a, T> {
    checked: Checked<'a, T>,
    /// With its layout over the shape of what there is one of per row.
    upstream: Option<(View<'a, f32>, Layout)>,
}

impl<'a, T: Float> Call<'a, T> {
    fn new(
        op: &'static str,
        logits: View<'a, T>,
        dim: Dim,
        targets: Targets<'a>,
        upstream: Option<View<'a, f32>>,
        options: &CrossEntropy<'a>,
    ) -> Result<Self> {
        let checked = Checked::new(op, logits, dim, targets, options)?;
        let upstream = match upstream {
            None => None,
            Some(upstream) => {
                check::same_shape(op, ("upstream", upstream.shape()), ("the loss", &checked.loss_shape()?))?;
                Device::same(op, ("logits", logits.device()), &[("upstream", upstream.device())])?;
                Some((upstream, upstream.layout().broadcast(op, "upstream", &checked.sizes)?))
            }
        };
        Ok(Self { checked, upstream })
    }

    fn check_gradient(&self, dlogits: &ViewMut<T>) -> Result<()> {
        let (op, logits) = (self.checked.op, &self.checked.logits);
        let mut inputs = self.checked.inputs();
        inputs.extend(self.upstream.as_ref().map(|(upstream, _)| ("upstream", upstream.addresses())));
        dlogits.check_output(op, "dlogits", ("logits", logits.shape()), &inputs)?;
        Device::same(op, ("logits", logits.device()), &[("dlogits", dlogits.device())])
    }

    /// Whether there is one kernel for both.
    fn fuses(&self) -> bool {
        self.checked.rows.inner == 1 && !self.checked.logits.device().is_cpu()
    }

    fn run(&self, mut outputs: CrossEntropyInto, mut dlogits: ViewMut<T>) -> Result<()> {
        let op = self.checked.op;
        if self.fuses() {
            return self.launch(outputs, Destination::beside(op, &mut dlogits)?);
        }
        self.checked.forward(outputs.reborrow())?;
        if self.checked.logits.shape().is_empty() {
            return Ok(());
        }
        if !self.checked.logits.device().is_cpu() {
            return launch_backward(&self.checked.call(), outputs.saved.as_view(), self.upstream(), dlogits);
        }
        let one = Tensor::from_slice(self.checked.logits.device(), &[], &[1.0f32])?;
        let upstream = match &self.upstream {
            Some((upstream, _)) => *upstream,
            None => one.view().expand(self.checked.loss_shape()?.dims())?,
        };
        self.checked.backward(outputs.saved.as_view(), upstream, dlogits)
    }

    fn launch(&self, outputs: CrossEntropyInto, dlogits: Destination<T>) -> Result<()> {
        launch(&self.checked.call(), self.checked.options.reduction.into(), outputs.into(), self.upstream(), dlogits)
    }

    fn upstream(&self) -> Option<(u64, &Layout)> {
        self.upstream.as_ref().map(|(upstream, layout)| (upstream.address(), layout))
    }
}
