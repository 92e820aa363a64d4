//! Cross-entropy on class targets, from logits.

use super::super::check;
use super::reduction::Reduction;
use super::targets::{Targets, each};
use super::write;
use crate::device::Device;
use crate::dtype::{Element, Float};
use crate::error::{Error, Result};
use crate::kernels::loss::cross_entropy_forward as launch_forward;
use crate::kernels::loss::{Call, ClassTargets, Outputs, cross_entropy_backward as launch_backward};
use crate::reference::cross_entropy::{Batch, Index};
use crate::reference::{self, Operand, Output, Sum};
use crate::shape::{Dim, Layout, Rows, Shape};
use crate::tensor::{Lse, Tensor, View, ViewMut};

/// Options of [`cross_entropy`].
///
/// Made with the struct update syntax, so that an option that is added later does not touch the calls that do not use it:
/// ```
/// use sumexp::{CrossEntropy, Reduction};
/// let options = CrossEntropy { reduction: Reduction::Sum, ..CrossEntropy::default() };
/// # assert_eq!(options.ignore_index, Some(-100));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CrossEntropy {
    /// Rows with this target do not count: loss 0, gradient 0, and their logits are not looked at. It is compared before
    /// the target is taken for a class, and may be a class or not. `Some(-100)` by default.
    pub ignore_index: Option<i64>,
    /// Logits are divided by it; finite and above 0. 1 by default.
    pub temperature: f32,
    /// What becomes of the losses; their mean by default.
    pub reduction: Reduction,
}

impl Default for CrossEntropy {
    fn default() -> Self {
        Self { ignore_index: Some(-100), temperature: 1.0, reduction: Reduction::Mean }
    }
}

/// What [`cross_entropy`] returns.
#[derive(Debug)]
pub struct CrossEntropyOutput {
    /// In `f32`, whatever the logits are: one number of shape `[]`, or for [`Reduction::None`] one per row in the shape of
    /// the logits without the class dim.
    pub loss: Tensor<f32>,
    /// `ln(sum(exp(x / temperature)))` of every row that counts, 0 of the others; the logits' shape without the class dim.
    pub lse: Lse,
    /// How many rows count, of shape `[]`. A mean over 0 rows is 0, and this tells it from a perfect one.
    pub count: Tensor<i64>,
    /// For [`cross_entropy_backward`].
    pub saved: CrossEntropySaved,
}

/// What the gradient needs beside the logits: two numbers per row, and one for the batch.
///
/// The numbers are the row's largest logit and the sum of all other exponentials relative to it. With them the gradient at
/// a target is right at any margin, which it would not be with the lse alone: that one has rounded away what matters.
#[derive(Debug)]
pub struct CrossEntropySaved(Tensor<f32>);

impl CrossEntropySaved {
    /// The number of elements for so many rows.
    pub const fn elements(rows: usize) -> usize {
        2 * rows + 1
    }

    /// The numbers as they are: of shape `[2 * rows + 1]`.
    pub fn view(&self) -> View<'_, f32> {
        self.0.view()
    }
}

/// Where [`cross_entropy_into`] writes. Shapes are those of [`CrossEntropyOutput`], everything contiguous.
#[derive(Debug)]
pub struct CrossEntropyInto<'a> {
    /// See [`CrossEntropyOutput::loss`].
    pub loss: ViewMut<'a, f32>,
    /// See [`CrossEntropyOutput::lse`].
    pub lse: ViewMut<'a, f32>,
    /// See [`CrossEntropyOutput::count`].
    pub count: ViewMut<'a, i64>,
    /// [`CrossEntropySaved::elements`] numbers, for [`cross_entropy_backward_into`].
    pub saved: ViewMut<'a, f32>,
}

/// Cross-entropy of logits and class targets: `loss = ln(sum(exp(x / T))) - x[target] / T` along `dim`.
///
/// Takes logits, not probabilities: softmax and logarithm are part of it, and probabilities are never written.
///
/// | tensor | shape | type |
/// | --- | --- | --- |
/// | `logits` | any; `dim` is the class dim | f16, bf16, f32; any strides |
/// | `targets` | that of the logits without `dim` | i64, i32, u32; any strides |
/// | returned | see [`CrossEntropyOutput`] | f32 |
///
/// **Numerics.** A loss is `(max - x[target]) / T + ln(1 + others)`, a sum of two numbers that are never negative: for f32
/// logits it is within 4 units in the last place at any margin. The bits of a row depend on its values alone, and losses are
/// added up in the order of the rows, compensated: the same bits on every run. A logit of -inf is a hidden class; a hidden
/// target gives a loss of +inf. A NaN or +inf makes the loss of its row NaN.
///
/// **Bad targets.** On the host they are [`Error::Target`], and nothing is computed. On a GPU the row's loss is NaN and
/// its gradient 0, and the error is returned by [`Device::check`] or the next read of a tensor; nothing is read out of
/// bounds, and the device stays usable.
///
/// # Errors
/// [`Error::Dim`], [`Error::Temperature`]; [`Error::Shapes`] if the targets have another shape; [`Error::DifferentDevices`];
/// [`Error::NoClasses`] if there are rows but no classes; [`Error::Target`]; [`Error::OutOfMemory`], [`Error::Driver`].
///
/// ```
/// use sumexp::{CrossEntropy, Device, Dim, Tensor, cross_entropy, cross_entropy_backward};
/// let device = Device::cpu();
/// let logits = Tensor::from_slice(&device, &[2, 3], &[20.0f32, 0.0, -100.0, 1.0, 1.0, 1.0])?;
/// let targets = Tensor::from_slice(&device, &[2], &[0i64, 2])?;
/// let options = CrossEntropy::default();
/// let output = cross_entropy(&logits, Dim::LAST, &targets, &options)?;
/// assert_eq!(output.loss.to_vec()?, [(3f64.ln() + 2.0611536e-9) as f32 / 2.0]);
///
/// let one = Tensor::from_slice(&device, &[], &[1.0f32])?;
/// let dlogits = cross_entropy_backward(&logits, Dim::LAST, &targets, &output.saved, &one, &options)?;
/// assert_eq!(dlogits.to_vec()?[0], -2.0611536e-9 / 2.0);
/// # Ok::<(), sumexp::Error>(())
/// ```
///
/// Probabilities do not pass for logits:
/// ```compile_fail,E0277
/// # use sumexp::{CrossEntropy, Device, Dim, Probabilities, Tensor, cross_entropy};
/// let device = Device::cpu();
/// let p = Probabilities::from_tensor(Tensor::<f32>::zeros(&device, &[2, 3])?);
/// let targets = Tensor::<i64>::zeros(&device, &[2])?;
/// cross_entropy(&p, Dim::LAST, &targets, &CrossEntropy::default())?;
/// # Ok::<(), sumexp::Error>(())
/// ```
/// Nor do floating-point targets, or a dim that nobody named:
/// ```compile_fail,E0277
/// # use sumexp::{CrossEntropy, Device, Dim, Tensor, cross_entropy};
/// # let device = Device::cpu();
/// let logits = Tensor::<f32>::zeros(&device, &[2, 3])?;
/// let targets = Tensor::<f32>::zeros(&device, &[2])?;
/// cross_entropy(&logits, Dim::LAST, &targets, &CrossEntropy::default())?;
/// # Ok::<(), sumexp::Error>(())
/// ```
/// ```compile_fail,E0308
/// # use sumexp::{CrossEntropy, Device, Dim, Tensor, cross_entropy};
/// # let device = Device::cpu();
/// # let logits = Tensor::<f32>::zeros(&device, &[2, 3])?;
/// # let targets = Tensor::<i64>::zeros(&device, &[2])?;
/// cross_entropy(&logits, 1, &targets, &CrossEntropy::default())?;
/// # Ok::<(), sumexp::Error>(())
/// ```
pub fn cross_entropy<'a, 't, T: Float>(
    logits: impl Into<View<'a, T>>,
    dim: Dim,
    targets: impl Into<Targets<'t>>,
    options: &CrossEntropy,
) -> Result<CrossEntropyOutput> {
    let checked = Checked::new("cross_entropy", logits.into(), dim, targets.into(), options)?;
    let (op, device) = (checked.op, checked.logits.device());
    let mut loss = Tensor::unfilled(op, device, checked.loss_shape()?)?;
    let mut lse = Tensor::unfilled(op, device, checked.sizes)?;
    let mut count = Tensor::unfilled(op, device, checked.one_number()?)?;
    let mut saved = Tensor::unfilled(op, device, checked.saved_shape()?)?;
    let outputs = CrossEntropyInto {
        loss: loss.view_mut(),
        lse: lse.view_mut(),
        count: count.view_mut(),
        saved: saved.view_mut(),
    };
    checked.forward(outputs)?;
    Ok(CrossEntropyOutput { loss, lse: Lse::from_tensor(lse), count, saved: CrossEntropySaved(saved) })
}

/// [`cross_entropy`] into memory that the caller owns.
///
/// # Errors
/// As [`cross_entropy`]; [`Error::Shapes`], [`Error::NotContiguous`], [`Error::Overlap`], [`Error::Shared`] for an output
/// that cannot be written.
pub fn cross_entropy_into<'a, 't, T: Float>(
    logits: impl Into<View<'a, T>>,
    dim: Dim,
    targets: impl Into<Targets<'t>>,
    options: &CrossEntropy,
    outputs: CrossEntropyInto,
) -> Result<()> {
    Checked::new("cross_entropy", logits.into(), dim, targets.into(), options)?.forward(outputs)
}

/// Gradient of [`cross_entropy`] by the logits: `upstream * (p - onehot(target)) / T`, divided by the count for a mean.
///
/// Takes what the forward call took, what it saved, and the gradient of its loss, of the loss's shape and with any strides.
/// Rows that do not count, and rows with a bad target, get 0 whatever their upstream gradient is; so do hidden classes.
/// At a target that is the largest logit, `p - 1` is computed from the others: within 8 units in the last place at any margin.
///
/// # Errors
/// As [`cross_entropy`]; [`Error::Shapes`] if `saved` or `upstream` have other shapes than forward gave.
pub fn cross_entropy_backward<'a, 't, 'u, T: Float>(
    logits: impl Into<View<'a, T>>,
    dim: Dim,
    targets: impl Into<Targets<'t>>,
    saved: &CrossEntropySaved,
    upstream: impl Into<View<'u, f32>>,
    options: &CrossEntropy,
) -> Result<Tensor<T>> {
    let checked = Checked::new("cross_entropy_backward", logits.into(), dim, targets.into(), options)?;
    let mut dlogits = Tensor::unfilled(checked.op, checked.logits.device(), *checked.logits.shape())?;
    checked.backward(saved.view(), upstream.into(), dlogits.view_mut())?;
    Ok(dlogits)
}

/// [`cross_entropy_backward`] into memory that the caller owns; `saved` are the numbers that forward wrote.
///
/// # Errors
/// As [`cross_entropy_backward`]; [`Error::Shapes`], [`Error::NotContiguous`], [`Error::Overlap`], [`Error::Shared`] for an
/// output that cannot be written.
pub fn cross_entropy_backward_into<'a, 't, 's, 'u, 'o, T: Float>(
    logits: impl Into<View<'a, T>>,
    dim: Dim,
    targets: impl Into<Targets<'t>>,
    saved: impl Into<View<'s, f32>>,
    upstream: impl Into<View<'u, f32>>,
    options: &CrossEntropy,
    dlogits: impl Into<ViewMut<'o, T>>,
) -> Result<()> {
    let checked = Checked::new("cross_entropy_backward", logits.into(), dim, targets.into(), options)?;
    checked.backward(saved.into(), upstream.into(), dlogits.into())
}

/// A call whose logits, targets and options fit together.
struct Checked<'a, 't, T> {
    op: &'static str,
    logits: View<'a, T>,
    targets: Targets<'t>,
    options: CrossEntropy,
    rows: Rows,
    /// The shape of what there is one of per row.
    sizes: Shape,
}

impl<'a, 't, T: Float> Checked<'a, 't, T> {
    fn new(
        op: &'static str,
        logits: View<'a, T>,
        dim: Dim,
        targets: Targets<'t>,
        options: &CrossEntropy,
    ) -> Result<Self> {
        let rows = logits.shape().rows(op, dim)?;
        let sizes = logits.shape().without(rows.position);
        check::temperature(op, options.temperature)?;
        Device::same(op, ("logits", logits.device()), &[("targets", targets.device())])?;
        check::same_shape(op, ("targets", targets.shape()), ("logits without their class dim", &sizes))?;
        if rows.len == 0 && rows.count() > 0 {
            return Err(Error::NoClasses { op, shape: logits.dims().to_vec(), dim: rows.position });
        }
        Ok(Self { op, logits, targets, options: *options, rows, sizes })
    }

    fn loss_shape(&self) -> Result<Shape> {
        match self.options.reduction {
            Reduction::None => Ok(self.sizes),
            Reduction::Sum | Reduction::Mean => self.one_number(),
        }
    }

    fn one_number(&self) -> Result<Shape> {
        Shape::new(self.op, &[])
    }

    fn saved_shape(&self) -> Result<Shape> {
        Shape::new(self.op, &[CrossEntropySaved::elements(self.rows.count() as usize)])
    }

    fn call(&self) -> Call<'_, T> {
        let (address, layout, dtype) = (self.targets.address(), self.targets.layout(), self.targets.dtype());
        let targets = ClassTargets { address, layout, dtype, ignore_index: self.options.ignore_index };
        Call { op: self.op, logits: self.logits, targets, rows: self.rows, temperature: self.options.temperature }
    }

    fn inputs(&self) -> [(&'static str, std::ops::Range<u64>); 2] {
        [("logits", self.logits.addresses()), ("targets", self.targets.addresses())]
    }

    fn forward(&self, mut outputs: CrossEntropyInto) -> Result<()> {
        let (op, device, inputs) = (self.op, self.logits.device(), self.inputs());
        let devices = [
            ("loss", outputs.loss.device()),
            ("lse", outputs.lse.device()),
            ("count", outputs.count.device()),
            ("saved", outputs.saved.device()),
        ];
        Device::same(op, ("logits", device), &devices)?;
        outputs.loss.check_output(op, "loss", ("the loss", &self.loss_shape()?), &inputs)?;
        outputs.lse.check_output(op, "lse", ("logits without their class dim", &self.sizes), &inputs)?;
        outputs.count.check_output(op, "count", ("one number", &self.one_number()?), &inputs)?;
        outputs.saved.check_output(op, "saved", ("two numbers per row and one more", &self.saved_shape()?), &inputs)?;
        if device.is_cpu() {
            return each!(&self.targets, view => self.forward_on_host(view, &mut outputs));
        }
        let CrossEntropyInto { loss, lse, count, saved } = outputs;
        launch_forward(&self.call(), self.options.reduction.into(), Outputs { loss, lse, count, saved })
    }

    fn backward(&self, saved: View<f32>, upstream: View<f32>, mut dlogits: ViewMut<T>) -> Result<()> {
        let (op, device) = (self.op, self.logits.device());
        let devices = [("saved", saved.device()), ("upstream", upstream.device()), ("dlogits", dlogits.device())];
        Device::same(op, ("logits", device), &devices)?;
        check::same_shape(op, ("saved", saved.shape()), ("what forward saves", &self.saved_shape()?))?;
        check::same_shape(op, ("upstream", upstream.shape()), ("the loss", &self.loss_shape()?))?;
        if !saved.layout().is_contiguous() {
            let (shape, strides) = (saved.dims().to_vec(), saved.layout().strides().to_vec());
            return Err(Error::NotContiguous { op, output: "saved", shape, strides });
        }
        let [logits, targets] = self.inputs();
        let inputs = [logits, targets, ("saved", saved.addresses()), ("upstream", upstream.addresses())];
        dlogits.check_output(op, "dlogits", ("logits", self.logits.shape()), &inputs)?;
        if self.logits.shape().is_empty() {
            return Ok(());
        }
        // The one upstream gradient of a sum or a mean is that of every row.
        let upstream_layout = upstream.layout().broadcast(op, "upstream", &self.sizes)?;
        if device.is_cpu() {
            return each!(&self.targets, view => self.backward_on_host(view, upstream, &upstream_layout, &mut dlogits));
        }
        launch_backward(&self.call(), saved, (upstream.address(), &upstream_layout), dlogits)
    }

    /// The call as the reference takes it, and an error for the first bad target.
    fn on_host<'c, I: Element + Index>(&'c self, targets: &'c View<I>, strides: &'c [u64]) -> Result<Batch<'c, T, I>> {
        let batch = Batch {
            logits: Operand { data: on_host(&self.logits), strides: self.logits.layout().strides() },
            targets: Operand { data: on_host(targets), strides },
            ignore_index: self.options.ignore_index,
            tau: f64::from(self.options.temperature),
        };
        match batch.first_bad(&self.reference_rows()) {
            None => Ok(batch),
            Some((row, value)) => Err(Error::Target { op: self.op, row: row as u64, value, classes: self.rows.len }),
        }
    }

    fn reference_rows(&self) -> reference::Rows<'_> {
        reference::Rows { shape: self.logits.dims(), dim: self.rows.position }
    }

    /// Strides over the logits' shape of an operand that has one element per row.
    fn per_row(&self, layout: &Layout) -> Vec<u64> {
        let mut strides = layout.strides().to_vec();
        strides.insert(self.rows.position, 0);
        strides
    }

    fn forward_on_host<I: Element + Index>(&self, targets: &View<I>, outputs: &mut CrossEntropyInto) -> Result<()> {
        let (op, rows) = (self.op, self.reference_rows());
        let strides = self.per_row(targets.layout());
        let batch = self.on_host(targets, &strides)?;
        let results = batch.rows(&rows);
        let count = batch.count(&rows);
        let total = Sum::of(results.iter().map(|row| row.loss)).value();
        let mean = if count == 0 { 0.0 } else { total / count as f64 };
        let weight = if count == 0 { 0.0 } else { 1.0 / count as f64 };
        write(op, "lse", &mut outputs.lse, results.iter().map(|row| row.lse as f32))?;
        write(op, "count", &mut outputs.count, [count as i64])?;
        let state = results.iter().flat_map(|row| [row.state.max as f32, row.state.others as f32]);
        let (losses, weight) = match self.options.reduction {
            Reduction::None => (results.iter().map(|row| row.loss as f32).collect(), 1.0),
            Reduction::Sum => (vec![total as f32], 1.0),
            Reduction::Mean => (vec![mean as f32], weight),
        };
        write(op, "loss", &mut outputs.loss, losses)?;
        write(op, "saved", &mut outputs.saved, state.chain([weight as f32]))
    }

    fn backward_on_host<I: Element + Index>(
        &self,
        targets: &View<I>,
        upstream: View<f32>,
        upstream_layout: &Layout,
        dlogits: &mut ViewMut<T>,
    ) -> Result<()> {
        let rows = self.reference_rows();
        let strides = self.per_row(targets.layout());
        let batch = self.on_host(targets, &strides)?;
        let weight = match self.options.reduction {
            Reduction::None | Reduction::Sum => 1.0,
            Reduction::Mean => 1.0 / batch.count(&rows).max(1) as f64,
        };
        let strides = self.per_row(upstream_layout);
        let upstream = Operand { data: on_host(&upstream), strides: &strides };
        let strides = dlogits.layout().strides().to_vec();
        let data = dlogits.on_host(self.op, "dlogits")?.expect(ONE_DEVICE);
        let output = Output { data, strides: &strides };
        batch.backward(&rows, |row| f64::from(upstream.at(&rows, row)) * weight, output);
        Ok(())
    }
}

/// Why the operands and outputs of a call whose logits are on the host are there too.
const ONE_DEVICE: &str = "devices are compared before anything is computed";

fn on_host<'a, U: Element>(view: &View<'a, U>) -> &'a [U] {
    view.on_host().expect(ONE_DEVICE)
}
