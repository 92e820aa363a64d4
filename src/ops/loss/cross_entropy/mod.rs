//! Cross-entropy, from logits.

mod checked;
mod fused;
mod options;
mod outputs;

pub use fused::{
    cross_entropy_gradient, cross_entropy_gradient_into, cross_entropy_in_place, cross_entropy_with_gradient,
    cross_entropy_with_gradient_into,
};
pub use options::{
    CrossEntropy, CrossEntropyInto, CrossEntropyOutput, CrossEntropySaved, TokenStatistics, TokenStatisticsInto,
};

use super::targets::Targets;
use crate::dtype::Float;
use crate::error::Result;
use crate::shape::Dim;
use crate::tensor::{Tensor, View, ViewMut};
use checked::Checked;
use outputs::Owned;

/// Cross-entropy of logits along `dim`: `loss = sum(q * (lse - x / T)) + z * lse^2`, `lse = ln(sum(exp(x / T)))`, `z` the
/// [`CrossEntropy::z_loss`].
///
/// `q` is what the target says of each class, with the [`CrossEntropy::class_weights`] `w` and the [`CrossEntropy::label_smoothing`]
/// `e` of PyTorch's `cross_entropy`: for a target that is a class `q = w * ((1 - e) * onehot(target) + e / classes)`, for
/// probabilities `t` it is `q = w * ((1 - e) * t + e / classes)`. With neither, the loss is `lse - x[target] / T`. A mean divides by
/// the sum of `w[target]` over the rows that count, for probabilities by the number of rows, and is 0 if that is 0.
///
/// Takes logits, not probabilities: softmax and logarithm are part of it, and probabilities are never written.
///
/// | tensor | shape | type |
/// | --- | --- | --- |
/// | `logits` | any; `dim` is the class dim | f16, bf16, f32; any strides |
/// | `targets` | classes: that of the logits without `dim` | i64, i32, u32; any strides |
/// | | probabilities: that of the logits | f16, bf16, f32; any strides |
/// | class weights | `[classes]` | f32; any strides |
/// | returned | see [`CrossEntropyOutput`] | f32 |
///
/// **Numerics.** `lse - x[target] / T` is `(max - x[target]) / T + ln(1 + others)`, a sum of two numbers that are never negative:
/// for f32 logits a loss is within 4 units in the last place at any margin (two more with a class weight; a z-loss is within 4 of
/// `z * (|max / T| + ln(1 + others))^2`). Where every class has a share it is `sum(q * (max - x) / T) + sum(q) * ln(1 + others)`, terms
/// that are never negative either: within 4 as well. The bits of a row depend on its values alone, and losses are
/// added up in the order of the rows, compensated: the same bits on every run. A logit of -inf is a hidden class; a hidden
/// class with `q > 0` gives a loss of +inf (and a finite gradient), one with `q = 0` costs nothing. A row whose `q` are all 0 costs
/// nothing, whatever it holds. A NaN or +inf makes the loss of its row NaN.
///
/// **Bad targets.** On the host they are [`Error::Target`](crate::Error::Target), and nothing is computed. On a GPU the row's loss is NaN and
/// its gradient 0, and the error is returned by [`Device::check`](crate::Device::check) or the next read of a tensor; nothing is read out of
/// bounds, and the device stays usable.
///
/// # Errors
/// [`Error::Dim`](crate::Error::Dim), [`Error::Temperature`](crate::Error::Temperature), [`Error::Option`](crate::Error::Option); [`Error::Shapes`](crate::Error::Shapes) if the targets, the class weights or the divisor of
/// [`Reduction::MeanOver`](crate::Reduction::MeanOver) have another shape; [`Error::DifferentDevices`](crate::Error::DifferentDevices);
/// [`Error::NoClasses`](crate::Error::NoClasses) if there are rows but no classes; [`Error::Target`](crate::Error::Target); [`Error::OutOfMemory`](crate::Error::OutOfMemory), [`Error::Driver`](crate::Error::Driver).
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
    let mut owned = Owned::new(&checked)?;
    checked.forward(owned.views())?;
    Ok(owned.finish())
}

/// [`cross_entropy`] into memory that the caller owns.
///
/// # Errors
/// As [`cross_entropy`]; [`Error::Shapes`](crate::Error::Shapes), [`Error::NotContiguous`](crate::Error::NotContiguous), [`Error::Overlap`](crate::Error::Overlap), [`Error::Shared`](crate::Error::Shared) for an output
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

/// Gradient of [`cross_entropy`] by the logits: `upstream / T * (p * (sum(q) + 2 * z * lse) - q)`, divided by what the mean divides by.
///
/// Takes what the forward call took, what it saved, and the gradient of its loss, of the loss's shape and with any strides.
/// Rows that do not count, and rows with a bad target, get 0 whatever their upstream gradient is; so do hidden classes.
/// At a target that is the largest logit, `p - 1` is computed from the others: within 8 units in the last place at any margin.
/// Shares of other classes and a z-loss have slopes of their own, and where `p * (sum(q) + 2 * z * lse)` and `q` cancel the result is
/// within 8 f32 units of the larger one. f16 and bf16 are within 0.51 units of their own, and 2^-20 of what cancels.
///
/// # Errors
/// As [`cross_entropy`]; [`Error::Shapes`](crate::Error::Shapes) if `saved` or `upstream` have other shapes than forward gave.
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
/// As [`cross_entropy_backward`]; [`Error::Shapes`](crate::Error::Shapes), [`Error::NotContiguous`](crate::Error::NotContiguous), [`Error::Overlap`](crate::Error::Overlap), [`Error::Shared`](crate::Error::Shared) for an
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
