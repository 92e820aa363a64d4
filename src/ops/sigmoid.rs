//! sigmoid and log-sigmoid, forward and backward: probabilities of events that are independent of each other.

use super::check;
use super::common::operand;
use crate::device::Device;
use crate::dtype::Float;
use crate::error::Result;
use crate::kernels::sigmoid::{Sigmoid, sigmoid as launch};
use crate::reference::{Elements, sigmoid as cpu};
use crate::tensor::{Tensor, View, ViewMut};

/// `y = 1 / (1 + exp(-x))` of every element.
///
/// # Shapes
/// | tensor | shape | type |
/// |---|---|---|
/// | `x` | any, any strides | f16, bf16, f32 |
/// | result | as `x` | as `x` |
///
/// # Numerics
/// Computed from `exp(-|x|)` and rounded once: f32 within 4 units in the last place on either side, also where the result is
/// tiny; f16 and bf16 within 0.51. -inf gives 0, +inf gives 1, NaN gives NaN.
///
/// # Errors
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory), [`Error::Driver`](crate::Error::Driver).
///
/// ```
/// use sumexp::{Device, Tensor, sigmoid};
/// let x = Tensor::from_slice(&Device::cpu(), &[3], &[0.0f32, -30.0, f32::INFINITY])?;
/// assert_eq!(sigmoid(&x)?.to_vec()?, [0.5, 9.357623e-14, 1.0]);
/// # Ok::<(), sumexp::Error>(())
/// ```
pub fn sigmoid<'a, T: Float>(x: impl Into<View<'a, T>>) -> Result<Tensor<T>> {
    Call { op: "sigmoid", x: x.into(), what: Sigmoid::Forward { log: false } }.allocate()
}

/// [`sigmoid`] into memory of the caller.
///
/// # Errors
/// As [`sigmoid`]; also [`Error::Shapes`](crate::Error::Shapes), [`Error::NotContiguous`](crate::Error::NotContiguous),
/// [`Error::Overlap`](crate::Error::Overlap), [`Error::Shared`](crate::Error::Shared) and
/// [`Error::DifferentDevices`](crate::Error::DifferentDevices) for `y`.
pub fn sigmoid_into<'a, 'y, T: Float>(x: impl Into<View<'a, T>>, y: impl Into<ViewMut<'y, T>>) -> Result<()> {
    Call { op: "sigmoid", x: x.into(), what: Sigmoid::Forward { log: false } }.write(y.into())
}

/// `y = ln(sigmoid(x)) = -ln(1 + exp(-x))` of every element.
///
/// Shapes, numerics and errors are those of [`sigmoid`]; -inf gives -inf, +inf gives 0.
///
/// # Errors
/// As [`sigmoid`].
///
/// ```
/// use sumexp::{Device, Tensor, log_sigmoid};
/// let x = Tensor::from_slice(&Device::cpu(), &[2], &[-1000.0f32, 30.0])?;
/// assert_eq!(log_sigmoid(&x)?.to_vec()?, [-1000.0, -9.357623e-14]);
/// # Ok::<(), sumexp::Error>(())
/// ```
pub fn log_sigmoid<'a, T: Float>(x: impl Into<View<'a, T>>) -> Result<Tensor<T>> {
    Call { op: "log_sigmoid", x: x.into(), what: Sigmoid::Forward { log: true } }.allocate()
}

/// [`log_sigmoid`] into memory of the caller.
///
/// # Errors
/// As [`sigmoid_into`].
pub fn log_sigmoid_into<'a, 'y, T: Float>(x: impl Into<View<'a, T>>, y: impl Into<ViewMut<'y, T>>) -> Result<()> {
    Call { op: "log_sigmoid", x: x.into(), what: Sigmoid::Forward { log: true } }.write(y.into())
}

/// Gradient of [`sigmoid`] by its argument: `dx = dy * sigmoid(x) * sigmoid(-x)`.
///
/// Takes the argument `x`, not the result: a result that was rounded to 1 has forgotten how far from 1 it was.
///
/// # Shapes
/// | tensor | shape | type |
/// |---|---|---|
/// | `x` | any, any strides | f16, bf16, f32 |
/// | `dy` | as `x`, any strides | as `x` |
/// | result | as `x` | as `x` |
///
/// # Numerics
/// f32 within 8 units in the last place, f16 and bf16 within 0.51. `exp(-|x|)` below 2^-149 counts as 0, whatever `dy` is.
///
/// # Errors
/// As [`sigmoid`]; [`Error::Shapes`](crate::Error::Shapes), [`Error::DifferentDevices`](crate::Error::DifferentDevices).
pub fn sigmoid_backward<'a, 'd, T: Float>(x: impl Into<View<'a, T>>, dy: impl Into<View<'d, T>>) -> Result<Tensor<T>> {
    let dy = dy.into();
    Call { op: "sigmoid_backward", x: x.into(), what: Sigmoid::Backward { log: false, dy } }.allocate()
}

/// [`sigmoid_backward`] into memory of the caller.
///
/// # Errors
/// As [`sigmoid_into`].
pub fn sigmoid_backward_into<'a, 'd, 'x, T: Float>(
    x: impl Into<View<'a, T>>,
    dy: impl Into<View<'d, T>>,
    dx: impl Into<ViewMut<'x, T>>,
) -> Result<()> {
    let dy = dy.into();
    Call { op: "sigmoid_backward", x: x.into(), what: Sigmoid::Backward { log: false, dy } }.write(dx.into())
}

/// Gradient of [`log_sigmoid`] by its argument: `dx = dy * sigmoid(-x)`.
///
/// Shapes, numerics and errors are those of [`sigmoid_backward`].
///
/// # Errors
/// As [`sigmoid_backward`].
pub fn log_sigmoid_backward<'a, 'd, T: Float>(
    x: impl Into<View<'a, T>>,
    dy: impl Into<View<'d, T>>,
) -> Result<Tensor<T>> {
    let dy = dy.into();
    Call { op: "log_sigmoid_backward", x: x.into(), what: Sigmoid::Backward { log: true, dy } }.allocate()
}

/// [`log_sigmoid_backward`] into memory of the caller.
///
/// # Errors
/// As [`sigmoid_into`].
pub fn log_sigmoid_backward_into<'a, 'd, 'x, T: Float>(
    x: impl Into<View<'a, T>>,
    dy: impl Into<View<'d, T>>,
    dx: impl Into<ViewMut<'x, T>>,
) -> Result<()> {
    let dy = dy.into();
    Call { op: "log_sigmoid_backward", x: x.into(), what: Sigmoid::Backward { log: true, dy } }.write(dx.into())
}

/// One call. The lifetime is the shorter of those of `x` and `dy`.
struct Call<'a, T> {
    op: &'static str,
    x: View<'a, T>,
    what: Sigmoid<'a, T>,
}

impl<T: Float> Call<'_, T> {
    /// Refuses a gradient that does not go with `x`.
    fn check(&self) -> Result<()> {
        let Sigmoid::Backward { dy, .. } = &self.what else { return Ok(()) };
        check::same_shape(self.op, ("x", self.x.shape()), ("dy", dy.shape()))?;
        Device::same(self.op, ("x", self.x.device()), &[("dy", dy.device())])
    }

    fn allocate(&self) -> Result<Tensor<T>> {
        self.check()?;
        let mut output = Tensor::unfilled(self.op, self.x.device(), *self.x.shape())?;
        self.run(output.view_mut())?;
        Ok(output)
    }

    fn write(&self, output: ViewMut<T>) -> Result<()> {
        self.check()?;
        let mut inputs = vec![("x", self.x.addresses())];
        if let Sigmoid::Backward { dy, .. } = &self.what {
            inputs.push(("dy", dy.addresses()));
        }
        output.check_output(self.op, "the output", ("x", self.x.shape()), &inputs)?;
        Device::same(self.op, ("x", self.x.device()), &[("the output", output.device())])?;
        self.run(output)
    }

    fn run(&self, mut output: ViewMut<T>) -> Result<()> {
        if self.x.shape().is_empty() {
            return Ok(());
        }
        let Some(x) = operand(&self.x) else { return launch(self.op, self.x, self.what, output) };
        let elements = Elements { shape: self.x.dims() };
        let output = output.on_host(self.op, "the output")?.expect("the output is where x is");
        match &self.what {
            Sigmoid::Forward { log: false } => cpu::forward(&elements, x, cpu::sigmoid, output),
            Sigmoid::Forward { log: true } => cpu::forward(&elements, x, cpu::log_sigmoid, output),
            Sigmoid::Backward { log, dy } => {
                let slope = if *log { cpu::log_sigmoid_slope } else { cpu::sigmoid_slope };
                cpu::backward(&elements, x, operand(dy).expect("dy is where x is"), slope, output);
            }
        }
        Ok(())
    }
}
