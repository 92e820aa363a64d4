//! Loss of log-probabilities on class targets.

use super::super::check;
use super::super::common::operand;
use super::reduction::Reduction;
use super::targets::Targets;
use crate::device::Device;
use crate::dtype::{Element, Float};
use crate::error::{Error, Result};
use crate::kernels::loss::{CallTargets, NllCall, nll_backward as launch_backward, nll_forward as launch_forward};
use crate::reference::cross_entropy::Index;
use crate::reference::nll::Classified;
use crate::reference::{self, Operand, Output};
use crate::shape::{Dim, Layout, Rows, Shape};
use crate::tensor::{LogProbabilities, Tensor, View, ViewMut};
use std::ops::Range;

/// Options of [`nll_loss`].
///
/// ```
/// use sumexp::{NllLoss, Reduction};
/// let options = NllLoss { reduction: Reduction::Sum, ..NllLoss::default() };
/// # assert_eq!(options.ignore_index, Some(-100));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct NllLoss<'a> {
    /// Rows with this target do not count: loss 0, gradient 0. It is compared before the target is taken for a class, and may be a
    /// class or not. `Some(-100)` by default.
    pub ignore_index: Option<i64>,
    /// What the loss of a row is multiplied by, depending on its target: one number per class, shape `[classes]`, any strides. A row
    /// whose target weighs 0 costs nothing, whatever its log-probability is. 1 if not given.
    pub class_weights: Option<View<'a, f32>>,
    /// What becomes of the losses; by default their sum over the sum of the weights of the targets that count, 0 if that is 0.
    pub reduction: Reduction<'a>,
}

impl Default for NllLoss<'_> {
    fn default() -> Self {
        Self { ignore_index: Some(-100), class_weights: None, reduction: Reduction::Mean }
    }
}

/// Negative log-likelihood of class targets: `loss = -weight[target] * log_probabilities[target]` along `dim`.
///
/// Together with [`log_softmax`](crate::log_softmax) it is [`cross_entropy`](crate::cross_entropy), which needs no memory for the
/// log-probabilities and keeps more digits: use that one where the log-probabilities are not needed for something else.
///
/// | tensor | shape | type |
/// | --- | --- | --- |
/// | `log_probabilities` | any; `dim` is the class dim | f16, bf16, f32 |
/// | `targets` | that without `dim` | i64, i32, u32; any strides. Probabilities are no targets here |
/// | loss | `[]`; for [`Reduction::None`] that of the targets | f32 |
///
/// **Numerics.** A loss is one product, rounded once; losses are added up in the order of the rows, compensated. A hidden class
/// (-inf) as target costs +inf. Only the element at the target is read: a NaN elsewhere in the row does not show.
///
/// **Bad targets.** As for [`cross_entropy`](crate::cross_entropy): on the host [`Error::Target`]; on a GPU the row's loss is NaN, its
/// gradient 0, and the error comes at the next [`Device::check`] or read.
///
/// # Errors
/// [`Error::Dim`]; [`Error::Option`] for [`Targets::Probabilities`]; [`Error::Shapes`] for targets or class weights of another shape; [`Error::NoClasses`] if there are rows but no
/// classes; [`Error::Target`], [`Error::DifferentDevices`], [`Error::OutOfMemory`], [`Error::Driver`].
///
/// ```
/// use sumexp::{Device, Dim, NllLoss, SoftmaxOptions, Tensor, log_softmax, nll_loss};
/// let device = Device::cpu();
/// let logits = Tensor::from_slice(&device, &[2, 2], &[0.0f32, 0.0, 0.0, 3f32.ln()])?;
/// let log = log_softmax(&logits, Dim::LAST, &SoftmaxOptions::default())?;
/// let targets = Tensor::from_slice(&device, &[2], &[0i64, 1])?;
/// let loss = nll_loss(&log, Dim::LAST, &targets, &NllLoss::default())?;
/// assert!((loss.to_vec()?[0] - (2f32.ln() + (4f32 / 3.0).ln()) / 2.0).abs() < 1e-7);
/// # Ok::<(), sumexp::Error>(())
/// ```
///
/// Logits do not pass for log-probabilities, nor probabilities for targets:
/// ```compile_fail,E0308
/// # use sumexp::{Device, Dim, NllLoss, Tensor, nll_loss};
/// # let device = Device::cpu();
/// let logits = Tensor::<f32>::zeros(&device, &[2, 3])?;
/// let targets = Tensor::<i64>::zeros(&device, &[2])?;
/// nll_loss(&logits, Dim::LAST, &targets, &NllLoss::default())?;
/// # Ok::<(), sumexp::Error>(())
/// ```
/// ```compile_fail,E0277
/// # use sumexp::{Device, Dim, LogProbabilities, NllLoss, Tensor, nll_loss};
/// # let device = Device::cpu();
/// let log = LogProbabilities::from_tensor(Tensor::<f32>::zeros(&device, &[2, 3])?);
/// let targets = Tensor::<f32>::zeros(&device, &[2, 3])?;
/// nll_loss(&log, Dim::LAST, &targets, &NllLoss::default())?;
/// # Ok::<(), sumexp::Error>(())
/// ```
pub fn nll_loss<'t, T: Float>(
    log_probabilities: &LogProbabilities<T>,
    dim: Dim,
    targets: impl Into<Targets<'t>>,
    options: &NllLoss,
) -> Result<Tensor<f32>> {
    let checked = Checked::new("nll_loss", log_probabilities, dim, targets.into(), options)?;
    let mut loss = Tensor::unfilled(checked.op, checked.log_probabilities.device(), checked.loss_shape()?)?;
    checked.forward(loss.view_mut())?;
    Ok(loss)
}

/// [`nll_loss`] into memory that the caller owns.
///
/// # Errors
/// As [`nll_loss`]; [`Error::NotContiguous`], [`Error::Overlap`], [`Error::Shared`] for an output that cannot be written.
pub fn nll_loss_into<'t, 'l, T: Float>(
    log_probabilities: &LogProbabilities<T>,
    dim: Dim,
    targets: impl Into<Targets<'t>>,
    options: &NllLoss,
    loss: impl Into<ViewMut<'l, f32>>,
) -> Result<()> {
    let checked = Checked::new("nll_loss", log_probabilities, dim, targets.into(), options)?;
    let loss = loss.into();
    Device::same(checked.op, ("log_probabilities", log_probabilities.device()), &[("loss", loss.device())])?;
    loss.check_output(checked.op, "loss", ("the loss", &checked.loss_shape()?), &checked.inputs())?;
    checked.forward(loss)
}

/// Gradient of [`nll_loss`] by the log-probabilities: `-upstream * weight[target]` at the target (over what a mean divides by), 0
/// elsewhere.
///
/// Takes what the forward call took, of whose log-probabilities only the shape matters, and the gradient of its loss, of the
/// loss's shape and with any strides. f32 is within 2 units in the last place, f16 and bf16 within 0.51.
/// [`log_softmax_backward`](crate::log_softmax_backward) turns it into the gradient by the logits.
///
/// # Errors
/// As [`nll_loss`]; [`Error::Shapes`] if `upstream` has another shape than the loss.
///
/// ```
/// use sumexp::{Device, Dim, LogProbabilities, NllLoss, Tensor, nll_loss_backward};
/// let device = Device::cpu();
/// let log = LogProbabilities::from_tensor(Tensor::<f32>::zeros(&device, &[2, 3])?);
/// let targets = Tensor::from_slice(&device, &[2], &[2u32, 0])?;
/// let one = Tensor::from_slice(&device, &[], &[1.0f32])?;
/// let gradient = nll_loss_backward(&log, Dim::LAST, &targets, &one, &NllLoss::default())?;
/// assert_eq!(gradient.to_vec()?, [0.0, 0.0, -0.5, -0.5, 0.0, 0.0]);
/// # Ok::<(), sumexp::Error>(())
/// ```
pub fn nll_loss_backward<'t, 'u, T: Float>(
    log_probabilities: &LogProbabilities<T>,
    dim: Dim,
    targets: impl Into<Targets<'t>>,
    upstream: impl Into<View<'u, f32>>,
    options: &NllLoss,
) -> Result<Tensor<T>> {
    let checked = Checked::new("nll_loss_backward", log_probabilities, dim, targets.into(), options)?;
    let upstream = upstream.into();
    let layout = checked.upstream(&upstream)?;
    let mut gradient = Tensor::unfilled(checked.op, log_probabilities.device(), *log_probabilities.shape())?;
    checked.backward(upstream, &layout, gradient.view_mut())?;
    Ok(gradient)
}

/// [`nll_loss_backward`] into memory that the caller owns.
///
/// # Errors
/// As [`nll_loss_backward`]; [`Error::NotContiguous`], [`Error::Overlap`], [`Error::Shared`] for an output that cannot be written.
pub fn nll_loss_backward_into<'t, 'u, 'o, T: Float>(
    log_probabilities: &LogProbabilities<T>,
    dim: Dim,
    targets: impl Into<Targets<'t>>,
    upstream: impl Into<View<'u, f32>>,
    options: &NllLoss,
    gradient: impl Into<ViewMut<'o, T>>,
) -> Result<()> {
    let checked = Checked::new("nll_loss_backward", log_probabilities, dim, targets.into(), options)?;
    let (upstream, gradient) = (upstream.into(), gradient.into());
    let layout = checked.upstream(&upstream)?;
    Device::same(checked.op, ("log_probabilities", log_probabilities.device()), &[("gradient", gradient.device())])?;
    let mut inputs = checked.inputs();
    inputs.push(("upstream", upstream.addresses()));
    gradient.check_output(checked.op, "gradient", ("log_probabilities", log_probabilities.shape()), &inputs)?;
    checked.backward(upstream, &layout, gradient)
}

/// A call whose operands and options fit together.
struct Checked<'a, T> {
    op: &'static str,
    log_probabilities: View<'a, T>,
    targets: Targets<'a>,
    options: NllLoss<'a>,
    rows: Rows,
    /// The shape of what there is one of per row.
    sizes: Shape,
}

impl<'a, T: Float> Checked<'a, T> {
    fn new(
        op: &'static str,
        log_probabilities: &'a LogProbabilities<T>,
        dim: Dim,
        targets: Targets<'a>,
        options: &NllLoss<'a>,
    ) -> Result<Self> {
        let log_probabilities = log_probabilities.view_values();
        let name = ("log_probabilities", log_probabilities.device());
        let rows = log_probabilities.shape().rows(op, dim)?;
        let sizes = log_probabilities.shape().without(rows.position);
        if let Targets::Probabilities(_) = targets {
            let (option, wanted) = ("the number of probabilities per target", "0, as targets are classes here");
            return Err(Error::Option { op, option, value: rows.len as f64, wanted });
        }
        Device::same(op, name, &[("targets", targets.device())])?;
        let without = ("log_probabilities without their class dim", &sizes);
        check::same_shape(op, ("targets", targets.shape()), without)?;
        if let Some(weights) = &options.class_weights {
            let per_class = Shape::new(op, &[rows.len as usize])?;
            check::same_shape(op, ("class_weights", weights.shape()), ("one number per class", &per_class))?;
            Device::same(op, name, &[("class_weights", weights.device())])?;
        }
        options.reduction.check(op, name)?;
        if rows.len == 0 && rows.count() > 0 {
            return Err(Error::NoClasses { op, shape: log_probabilities.dims().to_vec(), dim: rows.position });
        }
        Ok(Self { op, log_probabilities, targets, options: *options, rows, sizes })
    }

    fn loss_shape(&self) -> Result<Shape> {
        self.options.reduction.loss_shape(self.op, &self.sizes)
    }

    fn inputs(&self) -> Vec<(&'static str, Range<u64>)> {
        let mut inputs =
            vec![("log_probabilities", self.log_probabilities.addresses()), ("targets", self.targets.addresses())];
        inputs.extend(self.options.class_weights.map(|weights| ("class_weights", weights.addresses())));
        inputs.extend(self.options.reduction.input());
        inputs
    }

    /// The layout of the gradient of the loss over the rows: the one of a sum or a mean is that of every row.
    fn upstream(&self, upstream: &View<f32>) -> Result<Layout> {
        check::same_shape(self.op, ("upstream", upstream.shape()), ("the loss", &self.loss_shape()?))?;
        let name = ("log_probabilities", self.log_probabilities.device());
        Device::same(self.op, name, &[("upstream", upstream.device())])?;
        upstream.layout().broadcast(self.op, "upstream", &self.sizes)
    }

    fn call(&self) -> NllCall<'_, T> {
        let (address, layout, dtype) = (self.targets.address(), self.targets.layout(), self.targets.dtype());
        NllCall {
            op: self.op,
            log_probabilities: self.log_probabilities,
            targets: CallTargets { address, layout, dtype, ignore_index: self.options.ignore_index },
            rows: self.rows,
            class_weights: self.options.class_weights,
        }
    }

    fn reference_rows(&self) -> reference::Rows<'_> {
        reference::Rows { shape: self.log_probabilities.dims(), dim: self.rows.position }
    }

    /// Strides over the shape of the log-probabilities of an operand that has one element per row.
    fn per_row(&self, layout: &Layout) -> Vec<u64> {
        let mut strides = layout.strides().to_vec();
        strides.insert(self.rows.position, 0);
        strides
    }

    /// Gives `act` the call as the reference takes it, all of it on the host; an error for the first bad target.
    fn on_host(&self, act: impl FnOnce(&Classified<T>) -> Result<()>) -> Result<()> {
        let rows = self.reference_rows();
        let strides = self.per_row(self.targets.layout());
        let targets = match &self.targets {
            Targets::I64(view) => values(view, &strides, &rows),
            Targets::I32(view) => values(view, &strides, &rows),
            Targets::U32(view) => values(view, &strides, &rows),
            Targets::Probabilities(_) => unreachable!("refused before anything is computed"),
        };
        let weights: Option<Vec<f64>> = self.options.class_weights.map(|weights| {
            let (data, step) = (weights.on_host().expect(ONE_DEVICE), weights.layout().strides()[0]);
            (0..self.rows.len).map(|class| f64::from(data[(class * step) as usize])).collect()
        });
        let classified = Classified {
            log_probabilities: operand(&self.log_probabilities).expect(ONE_DEVICE),
            targets: &targets,
            ignore_index: self.options.ignore_index,
            class_weights: weights.as_deref(),
        };
        match classified.first_bad(&rows) {
            None => act(&classified),
            Some((row, value)) => Err(Error::Target { op: self.op, row: row as u64, value, classes: self.rows.len }),
        }
    }

    fn forward(&self, mut loss: ViewMut<f32>) -> Result<()> {
        let (rows, reduction) = (self.reference_rows(), &self.options.reduction);
        if !self.log_probabilities.device().is_cpu() {
            return launch_forward(&self.call(), (*reduction).into(), loss);
        }
        self.on_host(|call| reduction.write_on_host(self.op, &mut loss, &call.losses(&rows), call.counted(&rows)))
    }

    fn backward(&self, upstream: View<f32>, layout: &Layout, mut gradient: ViewMut<T>) -> Result<()> {
        if self.log_probabilities.shape().is_empty() {
            return Ok(());
        }
        let Some(data) = upstream.on_host() else {
            let (reduce, upstream) = (self.options.reduction.into(), (upstream.address(), layout));
            return launch_backward(&self.call(), reduce, upstream, gradient);
        };
        let (rows, strides) = (self.reference_rows(), self.per_row(layout));
        let upstream = Operand { data, strides: &strides };
        let strides = gradient.layout().strides().to_vec();
        let data = gradient.on_host(self.op, "gradient")?.expect(ONE_DEVICE);
        self.on_host(|call| {
            let scale = self.options.reduction.scale_on_host(call.counted(&rows));
            let output = Output { data, strides: &strides };
            call.backward(&rows, |row| f64::from(upstream.at(&rows, row)) * scale, output);
            Ok(())
        })
    }
}

/// The targets of all rows.
fn values<I: Element + Index>(view: &View<I>, strides: &[u64], rows: &reference::Rows) -> Vec<i64> {
    let targets = Operand { data: view.on_host().expect(ONE_DEVICE), strides };
    (0..rows.count()).map(|row| targets.at(rows, row).to_i64()).collect()
}

/// Why the operands and outputs of a call whose log-probabilities are on the host are there too.
const ONE_DEVICE: &str = "devices are compared before anything is computed";
