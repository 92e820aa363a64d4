//! softmax and log-softmax.

use crate::mask::{Mask, with_mask};
use crate::memory::{Operand, Output, Place, with_float};
use crate::op::{Custom, Op};
use candle_core::shape::Dim;
use candle_core::{Error, Result, Shape, Tensor};

/// Options of [`softmax`] and [`log_softmax`].
#[derive(Clone, Debug)]
pub struct SoftmaxOptions {
    /// Logits are divided by it; finite and above 0. 1 if not said otherwise.
    pub temperature: f32,
    /// Which logits take part; all if not said otherwise.
    pub mask: Option<Mask>,
}

impl Default for SoftmaxOptions {
    fn default() -> Self {
        Self { temperature: 1.0, mask: None }
    }
}

/// Probabilities along `dim`, as [`sumexp::softmax`]: of the shape and type of `x`, which is f16, bf16 or f32 of any strides.
///
/// Hidden logits, by the mask or because they are -inf, get probability 0 and gradient 0; a row with nothing visible is 0.
///
/// # Errors
/// Those of [`sumexp::softmax`]; another type of `x` or of the mask; a mask on another device.
///
/// ```
/// use candle_core::{Device, Var};
/// use sumexp_candle::{SoftmaxOptions, softmax};
/// let x = Var::new(&[0f32, 0.0, f32::NEG_INFINITY], &Device::Cpu)?;
/// let y = softmax(&x, 0, &SoftmaxOptions::default())?;
/// assert_eq!(y.to_vec1::<f32>()?, [0.5, 0.5, 0.0]);
/// let gradients = y.get(0)?.backward()?;
/// assert_eq!(gradients.get(&x).unwrap().to_vec1::<f32>()?, [0.25, -0.25, 0.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn softmax(x: &Tensor, dim: impl Dim, options: &SoftmaxOptions) -> Result<Tensor> {
    let dim = dim.to_index(x.shape(), "softmax")?;
    x.apply_op1(Custom(Forward::<false> { dim, options: options.clone() }))
}

/// Logarithms of probabilities along `dim`, as [`sumexp::log_softmax`]. See [`softmax`]; hidden logits get -inf.
///
/// # Errors
/// As [`softmax`].
///
/// ```
/// use candle_core::{Device, Tensor};
/// use sumexp_candle::{SoftmaxOptions, log_softmax};
/// let x = Tensor::new(&[3f32, 3.0], &Device::Cpu)?;
/// let y = log_softmax(&x, 0, &SoftmaxOptions::default())?;
/// assert_eq!(y.to_vec1::<f32>()?, [-2f32.ln(); 2]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn log_softmax(x: &Tensor, dim: impl Dim, options: &SoftmaxOptions) -> Result<Tensor> {
    let dim = dim.to_index(x.shape(), "log_softmax")?;
    x.apply_op1(Custom(Forward::<true> { dim, options: options.clone() }))
}

struct Forward<const LOG: bool> {
    dim: usize,
    options: SoftmaxOptions,
}

impl<const LOG: bool> Op<1> for Forward<LOG> {
    const NAME: &'static str = if LOG { "log_softmax" } else { "softmax" };

    fn forward<P: Place>(&self, place: &P, [x]: [Operand<'_, P>; 1]) -> Result<(P::Memory, Shape)> {
        let dim = sumexp::Dim::front(self.dim);
        with_mask(Self::NAME, place, self.options.mask.as_ref(), |mask| {
            let options = sumexp::SoftmaxOptions { temperature: self.options.temperature, mask };
            with_float!(Self::NAME, x.dtype(), T => {
                let (x, mut y) = (x.view::<T>(place)?, Output::<P, T>::new(place, x.dims())?);
                let result = match LOG {
                    true => sumexp::log_softmax_into(x.view, dim, &options, y.view_mut(place)?),
                    false => sumexp::softmax_into(x.view, dim, &options, y.view_mut(place)?),
                };
                result.map_err(Error::wrap)?;
                Ok(y.finish(place))
            })
        })
    }

    fn backward(&self, _: [&Tensor; 1], y: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 1]> {
        let backward = Backward::<LOG> { dim: self.dim, temperature: self.options.temperature };
        Ok([Some(y.apply_op2_no_bwd(dy, &Custom(backward))?)])
    }
}

/// From the result and its gradient.
struct Backward<const LOG: bool> {
    dim: usize,
    temperature: f32,
}

impl<const LOG: bool> Op<2> for Backward<LOG> {
    const NAME: &'static str = if LOG { "log_softmax_backward" } else { "softmax_backward" };

    fn forward<P: Place>(&self, place: &P, [y, dy]: [Operand<'_, P>; 2]) -> Result<(P::Memory, Shape)> {
        // What was hidden is 0 in the result: the mask is not needed again.
        let options = sumexp::SoftmaxOptions { temperature: self.temperature, ..Default::default() };
        let dim = sumexp::Dim::front(self.dim);
        with_float!(Self::NAME, y.dtype(), T => {
            let mut dx = Output::<P, T>::new(place, y.dims())?;
            let (y, dy) = (y.view::<T>(place)?, dy.view::<T>(place)?);
            let result = match LOG {
                true => sumexp::log_softmax_backward_into(y.view, dy.view, dim, &options, dx.view_mut(place)?),
                false => sumexp::softmax_backward_into(y.view, dy.view, dim, &options, dx.view_mut(place)?),
            };
            result.map_err(Error::wrap)?;
            Ok(dx.finish(place))
        })
    }
}
