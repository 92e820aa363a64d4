//! The backward operations of the softmax family.

use super::super::check;
use super::super::common::operand;
use super::{SoftmaxOptions, check_logits, check_mask, host_logits, inputs};
use crate::device::Device;
use crate::dtype::Float;
use crate::error::Result;
use crate::kernels::softmax::{self as kernels, Forward, Results, softmax_forward};
use crate::reference::{self, softmax as cpu};
use crate::shape::Dim;
use crate::tensor::{LogProbabilities, Probabilities, Tensor, View, ViewMut};

/// Gradient of the logits of a [`softmax`](super::softmax) from its result `y` and the gradient `dy` of that result:
/// `dx[i] = y[i] * (dy[i] - sum(dy[j] * y[j])) / tau`.
///
/// # Shapes
/// | tensor | shape | type |
/// |---|---|---|
/// | `y` | any | f16, bf16, f32 |
/// | `dy` | as `y`, any strides | as `y` |
/// | result | as `y` | as `y` |
///
/// `dim` and `options` are those of the forward operation. Which entries were hidden is read from `y`.
///
/// # Numerics
/// The sum and the difference keep their rounding errors, so that nothing is lost where they cancel: f32 within 8 units in
/// the last place, f16 and bf16 within 0.51, whose sums are good to 2^-50 of their largest term. Where `y` is 0 the gradient
/// is exactly 0, whatever `dy` holds.
///
/// # Errors
/// [`Error::Dim`](crate::Error::Dim), [`Error::Temperature`](crate::Error::Temperature), [`Error::Shapes`](crate::Error::Shapes),
/// [`Error::Broadcast`](crate::Error::Broadcast), [`Error::DifferentDevices`](crate::Error::DifferentDevices),
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory), [`Error::Driver`](crate::Error::Driver).
///
/// ```
/// use sumexp::{Device, Dim, SoftmaxOptions, Tensor, softmax, softmax_backward};
/// let device = Device::cpu();
/// let x = Tensor::from_slice(&device, &[2], &[0.0f32, 0.0])?;
/// let dy = Tensor::from_slice(&device, &[2], &[1.0f32, 0.0])?;
/// let options = SoftmaxOptions::default();
/// let y = softmax(&x, Dim::LAST, &options)?;
/// assert_eq!(softmax_backward(&y, &dy, Dim::LAST, &options)?.to_vec()?, [0.25, -0.25]);
/// # Ok::<(), sumexp::Error>(())
/// ```
pub fn softmax_backward<'a, T: Float>(
    y: &'a Probabilities<T>,
    dy: impl Into<View<'a, T>>,
    dim: Dim,
    options: &SoftmaxOptions<'a>,
) -> Result<Tensor<T>> {
    Call::new("softmax_backward", y.view_values(), dy, dim, options, Kind::LINEAR)?.allocate()
}

/// [`softmax_backward`] from any view of probabilities into memory of the caller.
///
/// # Errors
/// As [`softmax_backward`]; for `dx` as [`softmax_into`](super::softmax_into).
pub fn softmax_backward_into<'a, 'x, T: Float>(
    y: impl Into<View<'a, T>>,
    dy: impl Into<View<'a, T>>,
    dim: Dim,
    options: &SoftmaxOptions<'a>,
    dx: impl Into<ViewMut<'x, T>>,
) -> Result<()> {
    Call::new("softmax_backward", y, dy, dim, options, Kind::LINEAR)?.write(dx.into())
}

/// Gradient of the logits of a [`softmin`](super::softmin): [`softmax_backward`] with the other sign.
///
/// # Errors
/// As [`softmax_backward`].
pub fn softmin_backward<'a, T: Float>(
    y: &'a Probabilities<T>,
    dy: impl Into<View<'a, T>>,
    dim: Dim,
    options: &SoftmaxOptions<'a>,
) -> Result<Tensor<T>> {
    Call::new("softmin_backward", y.view_values(), dy, dim, options, Kind::NEGATED)?.allocate()
}

/// [`softmin_backward`] from any view of probabilities into memory of the caller.
///
/// # Errors
/// As [`softmax_backward_into`].
pub fn softmin_backward_into<'a, 'x, T: Float>(
    y: impl Into<View<'a, T>>,
    dy: impl Into<View<'a, T>>,
    dim: Dim,
    options: &SoftmaxOptions<'a>,
    dx: impl Into<ViewMut<'x, T>>,
) -> Result<()> {
    Call::new("softmin_backward", y, dy, dim, options, Kind::NEGATED)?.write(dx.into())
}

/// Gradient of the logits of a [`log_softmax`](super::log_softmax) from its result `y` and the gradient `dy` of that result:
/// `dx[i] = (dy[i] - exp(y[i]) * sum(dy[j])) / tau`.
///
/// Shapes and errors are those of [`softmax_backward`].
///
/// # Numerics
/// f32 within 8 units in the last place: the exponential keeps its rounding error too. f16 and bf16 within 0.51 plus 2^-21 of
/// the larger of `|dy[i]|` and `|exp(y[i]) * sum(dy[j])|`, divided by tau, which shows only where these two cancel: their
/// exponential is the hardware's. Nothing cancels at a confident winner, whose `exp(y) - 1` is computed as such: `y` near 0
/// gives a gradient as small as it must be, and exactly 0 for `y = 0` and `dy = sum(dy[j])`. An `exp(y[i])` below 2^-126 is
/// taken for 0. Where `y` is -inf the gradient is exactly 0, whatever `dy` holds.
///
/// # Errors
/// As [`softmax_backward`].
///
/// ```
/// use sumexp::{Device, Dim, SoftmaxOptions, Tensor, log_softmax, log_softmax_backward};
/// let device = Device::cpu();
/// let x = Tensor::from_slice(&device, &[2], &[0.0f32, 0.0])?;
/// let dy = Tensor::from_slice(&device, &[2], &[1.0f32, 0.0])?;
/// let options = SoftmaxOptions::default();
/// let y = log_softmax(&x, Dim::LAST, &options)?;
/// let dx = log_softmax_backward(&y, &dy, Dim::LAST, &options)?.to_vec()?;
/// assert!((dx[0] - 0.5).abs() < 1e-7 && (dx[1] + 0.5).abs() < 1e-7);
/// # Ok::<(), sumexp::Error>(())
/// ```
pub fn log_softmax_backward<'a, T: Float>(
    y: &'a LogProbabilities<T>,
    dy: impl Into<View<'a, T>>,
    dim: Dim,
    options: &SoftmaxOptions<'a>,
) -> Result<Tensor<T>> {
    Call::new("log_softmax_backward", y.view_values(), dy, dim, options, Kind::LOG)?.allocate()
}

/// [`log_softmax_backward`] from any view of log-probabilities into memory of the caller.
///
/// # Errors
/// As [`softmax_backward_into`].
pub fn log_softmax_backward_into<'a, 'x, T: Float>(
    y: impl Into<View<'a, T>>,
    dy: impl Into<View<'a, T>>,
    dim: Dim,
    options: &SoftmaxOptions<'a>,
    dx: impl Into<ViewMut<'x, T>>,
) -> Result<()> {
    Call::new("log_softmax_backward", y, dy, dim, options, Kind::LOG)?.write(dx.into())
}

/// Gradient of the logits of a [`logsumexp`](super::logsumexp) from the logits and the gradient `dlse` of its result:
/// `dx[i] = softmax(x)[i] * dlse / tau`.
///
/// The probabilities are computed anew, which costs no more traffic than `exp(x / tau - lse)` would for rows that fit in a
/// block, and is exact where the rounding of a large lse would show in every digit.
///
/// # Shapes
/// | tensor | shape | type |
/// |---|---|---|
/// | `x` | any, any strides | f16, bf16, f32 |
/// | `dlse` | as `x` without `dim`, any strides | f32 |
/// | result | as `x` | as `x` |
///
/// # Numerics
/// f32 within 8 units in the last place, f16 and bf16 within 0.51. Hidden entries get exactly 0, whatever `dlse` holds.
///
/// # Errors
/// As [`softmax_backward`].
///
/// ```
/// use sumexp::{Device, Dim, SoftmaxOptions, Tensor, logsumexp_backward};
/// let device = Device::cpu();
/// let x = Tensor::from_slice(&device, &[1, 2], &[5.0f32, 5.0])?;
/// let dlse = Tensor::from_slice(&device, &[1], &[3.0f32])?;
/// let dx = logsumexp_backward(&x, &dlse, Dim::LAST, &SoftmaxOptions::default())?;
/// assert_eq!(dx.to_vec()?, [1.5, 1.5]);
/// # Ok::<(), sumexp::Error>(())
/// ```
pub fn logsumexp_backward<'a, T: Float>(
    x: impl Into<View<'a, T>>,
    dlse: impl Into<View<'a, f32>>,
    dim: Dim,
    options: &SoftmaxOptions<'a>,
) -> Result<Tensor<T>> {
    let call = LseCall::new(x.into(), dlse.into(), dim, options)?;
    let mut dx = Tensor::unfilled(LSE_BACKWARD, call.logits.x.device(), *call.logits.x.shape())?;
    call.run(dx.view_mut())?;
    Ok(dx)
}

/// [`logsumexp_backward`] into memory of the caller.
///
/// # Errors
/// As [`softmax_backward_into`].
pub fn logsumexp_backward_into<'a, 'x, T: Float>(
    x: impl Into<View<'a, T>>,
    dlse: impl Into<View<'a, f32>>,
    dim: Dim,
    options: &SoftmaxOptions<'a>,
    dx: impl Into<ViewMut<'x, T>>,
) -> Result<()> {
    let call = LseCall::new(x.into(), dlse.into(), dim, options)?;
    let dx = dx.into();
    let mut inputs = inputs(&call.logits);
    inputs.push(("dlse", call.dlse.addresses()));
    dx.check_output(LSE_BACKWARD, "dx", ("x", call.logits.x.shape()), &inputs)?;
    Device::same(LSE_BACKWARD, ("x", call.logits.x.device()), &[("dx", dx.device())])?;
    call.run(dx)
}

/// Which forward operation a gradient belongs to.
#[derive(Clone, Copy)]
struct Kind {
    log: bool,
    negate: bool,
}

impl Kind {
    const LINEAR: Self = Self { log: false, negate: false };
    const NEGATED: Self = Self { log: false, negate: true };
    const LOG: Self = Self { log: true, negate: false };
}

/// A checked call of a gradient that is computed from the forward operation's result.
struct Call<'a, T> {
    op: &'static str,
    results: Results<'a, T>,
}

impl<'a, T: Float> Call<'a, T> {
    fn new(
        op: &'static str,
        y: impl Into<View<'a, T>>,
        dy: impl Into<View<'a, T>>,
        dim: Dim,
        options: &SoftmaxOptions<'a>,
        Kind { log, negate }: Kind,
    ) -> Result<Self> {
        let (y, dy) = (y.into(), dy.into());
        let rows = y.shape().rows(op, dim)?;
        check::temperature(op, options.temperature)?;
        check::same_shape(op, ("y", y.shape()), ("dy", dy.shape()))?;
        Device::same(op, ("y", y.device()), &[("dy", dy.device())])?;
        // The result says itself what was hidden; a mask that cannot be that of the forward operation is still an error.
        check_mask(op, ("y", y.device(), y.shape()), options)?;
        Ok(Self { op, results: Results { y, dy, log, negate, rows, temperature: options.temperature } })
    }

    fn allocate(&self) -> Result<Tensor<T>> {
        let mut dx = Tensor::unfilled(self.op, self.results.y.device(), *self.results.y.shape())?;
        self.run(dx.view_mut())?;
        Ok(dx)
    }

    fn write(&self, dx: ViewMut<T>) -> Result<()> {
        let Results { y, dy, .. } = &self.results;
        dx.check_output(self.op, "dx", ("y", y.shape()), &[("y", y.addresses()), ("dy", dy.addresses())])?;
        Device::same(self.op, ("y", y.device()), &[("dx", dx.device())])?;
        self.run(dx)
    }

    fn run(&self, mut dx: ViewMut<T>) -> Result<()> {
        if dx.shape().is_empty() {
            return Ok(());
        }
        let Results { y, dy, log, negate, rows, temperature } = &self.results;
        let rows = reference::Rows { shape: y.dims(), dim: rows.position };
        let Some(y) = operand(y) else {
            return kernels::softmax_backward(self.op, &self.results, dx);
        };
        let dy = operand(dy).expect("dy is where y is");
        let tau = f64::from(*temperature);
        let strides = dx.layout().strides().to_vec();
        let data = dx.on_host(self.op, "dx")?.expect("dx is where y is");
        let dx = reference::Output { data, strides: &strides };
        match log {
            true => cpu::log_softmax_backward(&rows, y, dy, tau, dx),
            false => cpu::softmax_backward(&rows, y, dy, *negate, tau, dx),
        }
        Ok(())
    }
}

const LSE_BACKWARD: &str = "logsumexp_backward";

/// A checked call of the gradient of logsumexp.
struct LseCall<'a, T> {
    logits: kernels::Logits<'a, T>,
    dlse: View<'a, f32>,
}

impl<'a, T: Float> LseCall<'a, T> {
    fn new(x: View<'a, T>, dlse: View<'a, f32>, dim: Dim, options: &SoftmaxOptions<'a>) -> Result<Self> {
        let logits = check_logits(LSE_BACKWARD, x, dim, options, false)?;
        let rows_shape = x.shape().without(logits.rows.position);
        check::same_shape(LSE_BACKWARD, ("dlse", dlse.shape()), ("x without its dim", &rows_shape))?;
        Device::same(LSE_BACKWARD, ("x", x.device()), &[("dlse", dlse.device())])?;
        Ok(Self { logits, dlse })
    }

    fn run(&self, mut dx: ViewMut<T>) -> Result<()> {
        if dx.shape().is_empty() {
            return Ok(());
        }
        let logits = &self.logits;
        let Some(host) = host_logits(logits) else {
            return softmax_forward(LSE_BACKWARD, logits, Forward::LseGradient(self.dlse), dx);
        };
        let rows = reference::Rows { shape: logits.x.dims(), dim: logits.rows.position };
        let mut dlse_strides = self.dlse.layout().strides().to_vec();
        dlse_strides.insert(logits.rows.position, 0);
        let strides = dx.layout().strides().to_vec();
        let data = dx.on_host(LSE_BACKWARD, "dx")?.expect("dx is where x is");
        let dlse = self.dlse.on_host().expect("dlse is where x is");
        let dlse = reference::Operand { data: dlse, strides: &dlse_strides };
        cpu::logsumexp_backward(&rows, &host, dlse, reference::Output { data, strides: &strides });
        Ok(())
    }
}
