//! Divergence of a student's probabilities from a teacher's, from the logits of both.

mod checked;

use super::reduction::Reduction;
use crate::dtype::Float;
use crate::error::Result;
use crate::shape::Dim;
use crate::tensor::{Tensor, View, ViewMut};
use checked::Checked;

/// Which divergence of the teacher's probabilities `t` and the student's `s`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Direction {
    /// `KL(t || s) = sum(t * ln(t / s))`: the student must cover whatever the teacher does. Hinton et al. 2015.
    #[default]
    Forward,
    /// `KL(s || t) = sum(s * ln(s / t))`: the student may do nothing that the teacher would not. Gu et al. 2023 (MiniLLM).
    Reverse,
    /// `beta * KL(t || m) + (1 - beta) * KL(s || m)` with `m = beta * t + (1 - beta) * s`: generalised Jensen-Shannon, finite
    /// whatever either hides. Agarwal et al. 2023 (on-policy distillation).
    JensenShannon {
        /// The teacher's share of the mixture, above 0 and below 1. Divided by it, the divergence approaches `Forward` for a
        /// small one; divided by `1 - beta`, `Reverse` for one near 1.
        beta: f32,
    },
}

/// Options of [`kl_div`] and [`distillation_loss`].
///
/// ```
/// use sumexp::{Direction, KlDivergence};
/// let options = KlDivergence { direction: Direction::Reverse, temperature: 2.0, ..KlDivergence::default() };
/// # let _ = options;
/// ```
#[derive(Clone, Copy, Debug)]
pub struct KlDivergence<'a> {
    /// Which divergence; [`Direction::Forward`] by default.
    pub direction: Direction,
    /// What the logits of both are divided by; finite and above 0. 1 by default.
    pub temperature: f32,
    /// Only the teacher's so many largest logits of every row count, those that [`top_k`](crate::top_k) finds: both rows are what they
    /// say of these classes alone, as if everything else were hidden from both, and the gradient is 0 elsewhere. 1 to 1024 and no more
    /// than there are classes; none by default.
    pub top_k: Option<usize>,
    /// What becomes of the losses of the rows; by default their mean over all rows (which PyTorch calls `batchmean`).
    pub reduction: Reduction<'a>,
}

impl Default for KlDivergence<'_> {
    fn default() -> Self {
        Self { direction: Direction::Forward, temperature: 1.0, top_k: None, reduction: Reduction::Mean }
    }
}

/// Divergence of a student's probabilities from a teacher's along `dim`, from the **logits** of both: see [`Direction`].
///
/// | tensor | shape | type |
/// | --- | --- | --- |
/// | `student`, `teacher` | any, the same; any strides each | f16, bf16, f32 |
/// | loss | `[]`; for [`Reduction::None`] that of the logits without `dim` | f32 |
///
/// Softmax and logarithm are part of it, in one kernel that writes nothing else and reads every logit once, twice where a row has
/// more than 8192 elements (16384 of 16 bits).
///
/// **Numerics.** A loss is a sum of terms `p * ln(p / q) - p + q`, none of which is negative: it is never negative itself, 0
/// exactly for equal logits, and keeps its digits where the two nearly agree. For f32 logits it is within 8 units in the last place
/// or 2^-46, whichever is more; for 16-bit logits within 32 or 2^-42. Probabilities that underflow keep their part in logarithms:
/// logits may be as far apart as they like. Terms below 2^-126 may be taken for 0, which shows where the temperature is above 1e15
/// or so. The bits of a row depend on its values alone, and losses are added up in the order of the rows, compensated.
///
/// **Hidden entries.** What a distribution hides (-inf) has no term of its own. Where the one in front shows something that the
/// other one hides, the divergence is +inf; Jensen-Shannon stays finite. A row in front with nothing visible gives 0. A NaN
/// or +inf in either row makes that row's loss NaN.
///
/// A mean divides by the number of rows.
///
/// **The teacher's top k.** With [`KlDivergence::top_k`], `p` and `q` are the two softmax over the same `k` classes, each with a sum
/// of 1: every [`Direction`] has its meaning there. What the student says of other classes has no influence, NaN included; a
/// NaN of the teacher is among its largest. The teacher is read as [`top_k`](crate::top_k) reads it, of the student only those
/// elements, and the memory that the call takes for itself is `12 * k` bytes per row (16 for f32).
///
/// # Errors
/// [`Error::Dim`](crate::Error::Dim), [`Error::Temperature`](crate::Error::Temperature); [`Error::Shapes`](crate::Error::Shapes) if the two shapes differ; [`Error::Option`](crate::Error::Option) for `beta`, and for a `top_k`
/// of 0; [`Error::TooMany`](crate::Error::TooMany) if it is more than 1024 or than there are classes, or if these are 2^32 or more; [`Error::NoClasses`](crate::Error::NoClasses) if there are rows without elements; [`Error::DifferentDevices`](crate::Error::DifferentDevices), [`Error::OutOfMemory`](crate::Error::OutOfMemory), [`Error::Driver`](crate::Error::Driver).
///
/// ```
/// use sumexp::{Device, Dim, KlDivergence, Tensor, kl_div};
/// let device = Device::cpu();
/// let student = Tensor::from_slice(&device, &[2, 2], &[0.0f32, 0.0, 5.0, -5.0])?;
/// let teacher = Tensor::from_slice(&device, &[2, 2], &[3f32.ln(), 0.0, 7.0, -3.0])?;
/// // Three quarters and one against two halves; two rows that differ by a constant.
/// let want = 0.75 * 1.5f32.ln() + 0.25 * 0.5f32.ln();
/// let loss = kl_div(&student, &teacher, Dim::LAST, &KlDivergence::default())?;
/// assert!((loss.to_vec()?[0] - want / 2.0).abs() < 1e-7);
/// # Ok::<(), sumexp::Error>(())
/// ```
///
/// Probabilities do not pass for logits:
/// ```compile_fail,E0277
/// # use sumexp::{Device, Dim, KlDivergence, LogProbabilities, Tensor, kl_div};
/// # let device = Device::cpu();
/// let student = Tensor::<f32>::zeros(&device, &[2, 3])?;
/// let teacher = LogProbabilities::from_tensor(Tensor::<f32>::zeros(&device, &[2, 3])?);
/// kl_div(&student, &teacher, Dim::LAST, &KlDivergence::default())?;
/// # Ok::<(), sumexp::Error>(())
/// ```
pub fn kl_div<'a, 't, T: Float>(
    student: impl Into<View<'a, T>>,
    teacher: impl Into<View<'t, T>>,
    dim: Dim,
    options: &KlDivergence,
) -> Result<Tensor<f32>> {
    Checked::new("kl_div", student.into(), teacher.into(), dim, options, 1.0)?.allocate_loss()
}

/// [`kl_div`] into memory that the caller owns.
///
/// # Errors
/// As [`kl_div`]; [`Error::NotContiguous`](crate::Error::NotContiguous), [`Error::Overlap`](crate::Error::Overlap), [`Error::Shared`](crate::Error::Shared) for an output that cannot be written.
pub fn kl_div_into<'a, 't, 'l, T: Float>(
    student: impl Into<View<'a, T>>,
    teacher: impl Into<View<'t, T>>,
    dim: Dim,
    options: &KlDivergence,
    loss: impl Into<ViewMut<'l, f32>>,
) -> Result<()> {
    Checked::new("kl_div", student.into(), teacher.into(), dim, options, 1.0)?.forward_into(loss.into())
}

/// Gradient of [`kl_div`] by the student's logits; the teacher is a constant.
///
/// | direction | gradient, times `upstream / temperature` |
/// | --- | --- |
/// | [`Direction::Forward`] | `s - t` |
/// | [`Direction::Reverse`] | `s * (l - sum(s * l))`, `l = ln(s / t)` |
/// | [`Direction::JensenShannon`] | `(1 - beta) * s * (l - sum(s * l))`, `l = ln(s / m)` |
///
/// Takes what the forward call took and the gradient of its loss, of the loss's shape and with any strides. Everything comes from the
/// logits again, in one kernel that reads each of them once (rows of more than 8192 elements, 16384 of 16 bits, two or three times).
///
/// Each gradient is a difference: f32 is within 8 units in the last place of it and 2^-21 of the larger term (`s`, `t`; `s * |l|`,
/// `s * sum(s * |l|)`), f16 and bf16 within 0.51 and 2^-19 of that; `l` is right to 2^-48 at best, and an `s` below 2^-126 has fewer
/// digits. What is not among the teacher's [`KlDivergence::top_k`] gets 0; the call then takes one more element of memory for each
/// that is. What the student hides gets 0, and so does a whole row whose
/// teacher shows nothing (forward). Where the reverse divergence is infinite there is no gradient: what the student shows gets NaN.
///
/// # Errors
/// As [`kl_div`]; [`Error::Shapes`](crate::Error::Shapes) if `upstream` has another shape than the loss.
///
/// ```
/// use sumexp::{Device, Dim, KlDivergence, Tensor, kl_div_backward};
/// let device = Device::cpu();
/// let student = Tensor::from_slice(&device, &[2], &[0.0f32, 0.0])?;
/// let teacher = Tensor::from_slice(&device, &[2], &[3f32.ln(), 0.0])?;
/// let one = Tensor::from_slice(&device, &[], &[1.0f32])?;
/// let dstudent = kl_div_backward(&student, &teacher, Dim::LAST, &one, &KlDivergence::default())?.to_vec()?;
/// assert!((dstudent[0] + 0.25).abs() < 1e-7 && (dstudent[1] - 0.25).abs() < 1e-7);
/// # Ok::<(), sumexp::Error>(())
/// ```
pub fn kl_div_backward<'a, 't, 'u, T: Float>(
    student: impl Into<View<'a, T>>,
    teacher: impl Into<View<'t, T>>,
    dim: Dim,
    upstream: impl Into<View<'u, f32>>,
    options: &KlDivergence,
) -> Result<Tensor<T>> {
    Checked::new("kl_div_backward", student.into(), teacher.into(), dim, options, 1.0)?
        .allocate_gradient(upstream.into())
}

/// [`kl_div_backward`] into memory that the caller owns.
///
/// # Errors
/// As [`kl_div_backward`]; [`Error::NotContiguous`](crate::Error::NotContiguous), [`Error::Overlap`](crate::Error::Overlap), [`Error::Shared`](crate::Error::Shared) for an output that cannot be written.
pub fn kl_div_backward_into<'a, 't, 'u, 'o, T: Float>(
    student: impl Into<View<'a, T>>,
    teacher: impl Into<View<'t, T>>,
    dim: Dim,
    upstream: impl Into<View<'u, f32>>,
    options: &KlDivergence,
    dstudent: impl Into<ViewMut<'o, T>>,
) -> Result<()> {
    Checked::new("kl_div_backward", student.into(), teacher.into(), dim, options, 1.0)?
        .backward_into(upstream.into(), dstudent.into())
}

/// [`kl_div`] times the square of the temperature, which keeps gradients of the same size at every temperature (Hinton et al. 2015).
///
/// Everything else is as there. For a large temperature it approaches `sum(((x_t - mean) - (x_s - mean))^2) / (2 * classes)`
/// (times `beta * (1 - beta)` for Jensen-Shannon).
///
/// # Errors
/// As [`kl_div`].
///
/// ```
/// use sumexp::{Device, Dim, KlDivergence, Tensor, distillation_loss, kl_div};
/// let device = Device::cpu();
/// let student = Tensor::from_slice(&device, &[3], &[0.5f32, -1.0, 2.0])?;
/// let teacher = Tensor::from_slice(&device, &[3], &[1.0f32, 0.0, 3.5])?;
/// let options = KlDivergence { temperature: 2.0, ..KlDivergence::default() };
/// let loss = distillation_loss(&student, &teacher, Dim::LAST, &options)?.to_vec()?[0];
/// assert_eq!(loss, 4.0 * kl_div(&student, &teacher, Dim::LAST, &options)?.to_vec()?[0]);
/// # Ok::<(), sumexp::Error>(())
/// ```
pub fn distillation_loss<'a, 't, T: Float>(
    student: impl Into<View<'a, T>>,
    teacher: impl Into<View<'t, T>>,
    dim: Dim,
    options: &KlDivergence,
) -> Result<Tensor<f32>> {
    Checked::new("distillation_loss", student.into(), teacher.into(), dim, options, squared(options))?.allocate_loss()
}

/// [`distillation_loss`] into memory that the caller owns.
///
/// # Errors
/// As [`kl_div_into`].
pub fn distillation_loss_into<'a, 't, 'l, T: Float>(
    student: impl Into<View<'a, T>>,
    teacher: impl Into<View<'t, T>>,
    dim: Dim,
    options: &KlDivergence,
    loss: impl Into<ViewMut<'l, f32>>,
) -> Result<()> {
    let checked = Checked::new("distillation_loss", student.into(), teacher.into(), dim, options, squared(options))?;
    checked.forward_into(loss.into())
}

/// Gradient of [`distillation_loss`] by the student's logits: [`kl_div_backward`] times the square of the temperature.
///
/// # Errors
/// As [`kl_div_backward`].
pub fn distillation_loss_backward<'a, 't, 'u, T: Float>(
    student: impl Into<View<'a, T>>,
    teacher: impl Into<View<'t, T>>,
    dim: Dim,
    upstream: impl Into<View<'u, f32>>,
    options: &KlDivergence,
) -> Result<Tensor<T>> {
    let op = "distillation_loss_backward";
    Checked::new(op, student.into(), teacher.into(), dim, options, squared(options))?.allocate_gradient(upstream.into())
}

/// [`distillation_loss_backward`] into memory that the caller owns.
///
/// # Errors
/// As [`kl_div_backward_into`].
pub fn distillation_loss_backward_into<'a, 't, 'u, 'o, T: Float>(
    student: impl Into<View<'a, T>>,
    teacher: impl Into<View<'t, T>>,
    dim: Dim,
    upstream: impl Into<View<'u, f32>>,
    options: &KlDivergence,
    dstudent: impl Into<ViewMut<'o, T>>,
) -> Result<()> {
    let op = "distillation_loss_backward";
    let checked = Checked::new(op, student.into(), teacher.into(), dim, options, squared(options))?;
    checked.backward_into(upstream.into(), dstudent.into())
}

fn squared(options: &KlDivergence) -> f64 {
    f64::from(options.temperature) * f64::from(options.temperature)
}
