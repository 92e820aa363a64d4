//! The forward operations of the softmax family.

use super::{SoftmaxOptions, check_logits, host_logits, inputs};
use crate::device::Device;
use crate::dtype::{Element, Float};
use crate::error::Result;
use crate::kernels::softmax::{Forward, Logits, softmax_forward};
use crate::reference::{self, softmax as cpu};
use crate::shape::{Dim, Shape};
use crate::tensor::{LogProbabilities, Lse, Probabilities, Tensor, View, ViewMut};

/// Probabilities along `dim`: `y[i] = exp((x[i] - max) / tau) / sum(exp((x[j] - max) / tau))`.
///
/// # Shapes
/// | tensor | shape | type |
/// |---|---|---|
/// | `x` | any, any strides | f16, bf16, f32 |
/// | mask | broadcasts to `x` | u8 |
/// | result | as `x` | as `x` |
///
/// # Numerics
/// Exponentials in f32, their sum in f64, rounded once: f32 within 4 units in the last place, f16 and bf16 within 0.51. Hidden entries (by the
/// mask, or -inf) get exactly 0; a row with nothing visible is 0. A visible NaN or +inf makes its row NaN, and only its row.
/// The bits of a row do not depend on the rows beside it, on alignment or on strides.
///
/// # Errors
/// [`Error::Dim`](crate::Error::Dim), [`Error::Temperature`](crate::Error::Temperature),
/// [`Error::Broadcast`](crate::Error::Broadcast) and [`Error::DifferentDevices`](crate::Error::DifferentDevices) for the mask,
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory), [`Error::Driver`](crate::Error::Driver).
///
/// ```
/// use sumexp::{Device, Dim, SoftmaxOptions, Tensor, hide, softmax};
/// let device = Device::cpu();
/// let x = Tensor::from_slice(&device, &[2, 3], &[0.0f32, 0.0, 9.0, 1.0, 1.0, 1.0])?;
/// let padding = Tensor::from_slice(&device, &[3], &[0u8, 0, 1])?;
/// let options = SoftmaxOptions { mask: hide(&padding).into(), ..SoftmaxOptions::default() };
/// let y = softmax(&x, Dim::LAST, &options)?;
/// assert_eq!(y.to_vec()?, [0.5, 0.5, 0.0, 0.5, 0.5, 0.0]);
/// # Ok::<(), sumexp::Error>(())
/// ```
///
/// The dim is never a bare integer, and logits are never the result of another softmax:
/// ```compile_fail,E0308
/// # use sumexp::{Device, Dim, SoftmaxOptions, Tensor, softmax};
/// # let x = Tensor::from_slice(&Device::cpu(), &[1], &[0.0f32])?;
/// softmax(&x, 1, &SoftmaxOptions::default())?;
/// # Ok::<(), sumexp::Error>(())
/// ```
/// ```compile_fail,E0277
/// # use sumexp::{Device, Dim, SoftmaxOptions, Tensor, softmax};
/// # let x = Tensor::from_slice(&Device::cpu(), &[1], &[0.0f32])?;
/// let y = softmax(&x, Dim::LAST, &SoftmaxOptions::default())?;
/// softmax(&y, Dim::LAST, &SoftmaxOptions::default())?;
/// # Ok::<(), sumexp::Error>(())
/// ```
pub fn softmax<'a, T: Float>(
    x: impl Into<View<'a, T>>,
    dim: Dim,
    options: &SoftmaxOptions<'a>,
) -> Result<Probabilities<T>> {
    let call = Call::new("softmax", x, dim, options, false)?;
    Ok(Probabilities::from_tensor(call.allocate(Forward::Probabilities, cpu::softmax)?))
}

/// [`softmax`] into memory of the caller.
///
/// # Errors
/// As [`softmax`]; also [`Error::Shapes`](crate::Error::Shapes), [`Error::NotContiguous`](crate::Error::NotContiguous),
/// [`Error::Overlap`](crate::Error::Overlap), [`Error::Shared`](crate::Error::Shared) and
/// [`Error::DifferentDevices`](crate::Error::DifferentDevices) for `y`.
pub fn softmax_into<'a, 'y, T: Float>(
    x: impl Into<View<'a, T>>,
    dim: Dim,
    options: &SoftmaxOptions<'a>,
    y: impl Into<ViewMut<'y, T>>,
) -> Result<()> {
    Call::new("softmax", x, dim, options, false)?.write(Forward::Probabilities, cpu::softmax, y.into())
}

/// Probabilities of the negated logits along `dim`: `softmax(-x)`. Here a logit of +inf hides.
///
/// Shapes, numerics and errors are those of [`softmax`].
///
/// ```
/// use sumexp::{Device, Dim, SoftmaxOptions, Tensor, softmin};
/// let costs = Tensor::from_slice(&Device::cpu(), &[3], &[2.0f32, 2.0, f32::INFINITY])?;
/// assert_eq!(softmin(&costs, Dim::LAST, &SoftmaxOptions::default())?.to_vec()?, [0.5, 0.5, 0.0]);
/// # Ok::<(), sumexp::Error>(())
/// ```
///
/// # Errors
/// As [`softmax`].
pub fn softmin<'a, T: Float>(
    x: impl Into<View<'a, T>>,
    dim: Dim,
    options: &SoftmaxOptions<'a>,
) -> Result<Probabilities<T>> {
    let call = Call::new("softmin", x, dim, options, true)?;
    Ok(Probabilities::from_tensor(call.allocate(Forward::Probabilities, cpu::softmax)?))
}

/// [`softmin`] into memory of the caller.
///
/// # Errors
/// As [`softmax_into`].
pub fn softmin_into<'a, 'y, T: Float>(
    x: impl Into<View<'a, T>>,
    dim: Dim,
    options: &SoftmaxOptions<'a>,
    y: impl Into<ViewMut<'y, T>>,
) -> Result<()> {
    Call::new("softmin", x, dim, options, true)?.write(Forward::Probabilities, cpu::softmax, y.into())
}

/// Natural logarithms of the probabilities along `dim`: `y[i] = (x[i] - max) / tau - ln(sum(exp((x[j] - max) / tau)))`.
///
/// Shapes and errors are those of [`softmax`].
///
/// # Numerics
/// As [`softmax`]; hidden entries get -inf, and a row with nothing visible is -inf.
/// The logarithm of a winner's probability is right in its last digits at any margin: the sum of the others is kept apart and never added to 1.
///
/// # Errors
/// As [`softmax`].
///
/// ```
/// use sumexp::{Device, Dim, SoftmaxOptions, Tensor, log_softmax};
/// let x = Tensor::from_slice(&Device::cpu(), &[2], &[20.0f32, 0.0])?;
/// let y = log_softmax(&x, Dim::LAST, &SoftmaxOptions::default())?.to_vec()?;
/// assert!((y[0] + 2.0611537e-9).abs() < 1e-15);
/// # Ok::<(), sumexp::Error>(())
/// ```
pub fn log_softmax<'a, T: Float>(
    x: impl Into<View<'a, T>>,
    dim: Dim,
    options: &SoftmaxOptions<'a>,
) -> Result<LogProbabilities<T>> {
    let call = Call::new("log_softmax", x, dim, options, false)?;
    Ok(LogProbabilities::from_tensor(call.allocate(Forward::LogProbabilities, cpu::log_softmax)?))
}

/// [`log_softmax`] into memory of the caller.
///
/// # Errors
/// As [`softmax_into`].
pub fn log_softmax_into<'a, 'y, T: Float>(
    x: impl Into<View<'a, T>>,
    dim: Dim,
    options: &SoftmaxOptions<'a>,
    y: impl Into<ViewMut<'y, T>>,
) -> Result<()> {
    Call::new("log_softmax", x, dim, options, false)?.write(Forward::LogProbabilities, cpu::log_softmax, y.into())
}

/// `ln(sum(exp(x[i] / tau)))` along `dim`, always in f32.
///
/// # Shapes
/// | tensor | shape | type |
/// |---|---|---|
/// | `x` | any, any strides | f16, bf16, f32 |
/// | mask | broadcasts to `x` | u8 |
/// | result | as `x` without `dim` | f32 |
///
/// # Numerics
/// Accumulates in f32 whatever the logits are. `max / tau` and `ln(sum)` are added, and may cancel: for f32 logits the result
/// is within 4 units in the last place of the larger of the two, for 16-bit logits within 64. A row with nothing visible, or
/// of length 0, gives -inf; a visible NaN or +inf gives NaN.
///
/// # Errors
/// As [`softmax`].
///
/// ```
/// use sumexp::{Device, Dim, SoftmaxOptions, Tensor, logsumexp};
/// let x = Tensor::from_slice(&Device::cpu(), &[2, 2], &[1000.0f32, 1000.0, f32::NEG_INFINITY, 3.0])?;
/// let lse = logsumexp(&x, Dim::LAST, &SoftmaxOptions::default())?;
/// assert_eq!(lse.to_vec()?, [1000.0 + 2f32.ln(), 3.0]);
/// # Ok::<(), sumexp::Error>(())
/// ```
pub fn logsumexp<'a, T: Float>(x: impl Into<View<'a, T>>, dim: Dim, options: &SoftmaxOptions<'a>) -> Result<Lse> {
    let call = Call::new("logsumexp", x, dim, options, false)?;
    Ok(Lse::from_tensor(call.allocate(Forward::Lse, cpu::logsumexp)?))
}

/// [`logsumexp`] into memory of the caller.
///
/// # Errors
/// As [`softmax_into`].
pub fn logsumexp_into<'a, 'y, T: Float>(
    x: impl Into<View<'a, T>>,
    dim: Dim,
    options: &SoftmaxOptions<'a>,
    lse: impl Into<ViewMut<'y, f32>>,
) -> Result<()> {
    Call::new("logsumexp", x, dim, options, false)?.write(Forward::Lse, cpu::logsumexp, lse.into())
}

/// A checked call.
struct Call<'a, T> {
    op: &'static str,
    logits: Logits<'a, T>,
}

impl<'a, T: Float> Call<'a, T> {
    fn new(
        op: &'static str,
        x: impl Into<View<'a, T>>,
        dim: Dim,
        options: &SoftmaxOptions<'a>,
        negate: bool,
    ) -> Result<Self> {
        Ok(Self { op, logits: check_logits(op, x.into(), dim, options, negate)? })
    }

    /// The shape of the result, and what to call the operand it follows.
    fn result_shape(&self, forward: Forward) -> (&'static str, Shape) {
        match forward {
            Forward::Lse => ("x without its dim", self.logits.x.shape().without(self.logits.rows.position)),
            _ => ("x", *self.logits.x.shape()),
        }
    }

    /// Runs `forward` (on the host `reference`) into a new tensor.
    fn allocate<U: Element>(&self, forward: Forward, reference: Reference<T, U>) -> Result<Tensor<U>> {
        let (_, shape) = self.result_shape(forward);
        let mut result = Tensor::unfilled(self.op, self.logits.x.device(), shape)?;
        self.run(forward, reference, result.view_mut())?;
        Ok(result)
    }

    /// Checks an output of the caller and runs `forward` into it.
    fn write<U: Element>(&self, forward: Forward, reference: Reference<T, U>, output: ViewMut<U>) -> Result<()> {
        let (like, shape) = self.result_shape(forward);
        output.check_output(self.op, "the output", (like, &shape), &inputs(&self.logits))?;
        Device::same(self.op, ("x", self.logits.x.device()), &[("the output", output.device())])?;
        self.run(forward, reference, output)
    }

    fn run<U: Element>(&self, forward: Forward, reference: Reference<T, U>, mut output: ViewMut<U>) -> Result<()> {
        // An lse of rows without elements is -inf: there is something to write although there is nothing to read.
        if output.shape().is_empty() {
            return Ok(());
        }
        let Some(logits) = host_logits(&self.logits) else {
            return softmax_forward(self.op, &self.logits, forward, output);
        };
        let shape = self.logits.x.shape();
        let rows = reference::Rows { shape: shape.dims(), dim: self.logits.rows.position };
        let mut strides = output.layout().strides().to_vec();
        if matches!(forward, Forward::Lse) {
            strides.insert(self.logits.rows.position, 0);
        }
        let data = output.on_host(self.op, "the output")?.expect("the output is where x is");
        reference(&rows, &logits, reference::Output { data, strides: &strides });
        Ok(())
    }
}

/// A forward operation of the reference.
type Reference<T, U> = fn(&reference::Rows, &cpu::Logits<T>, reference::Output<U>);
