//! How sure a softmax is, without the softmax.

use super::Checked;
use crate::dtype::Float;
use crate::error::Result;
use crate::kernels::inference::{ConfidenceOutputs, confidence as launch};
use crate::ops::check;
use crate::ops::common::write;
use crate::reference::confidence as cpu;
use crate::shape::Dim;
use crate::tensor::{Tensor, View, ViewMut};

/// Options of [`confidence`].
///
/// ```
/// use sumexp::ConfidenceOptions;
/// let calibrated = ConfidenceOptions { temperature: 1.7, ..ConfidenceOptions::default() };
/// # assert_eq!(ConfidenceOptions::default().temperature, 1.0);
/// # let _ = calibrated;
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConfidenceOptions {
    /// Logits are divided by it; finite and above 0. 1 if not said otherwise.
    pub temperature: f32,
}

impl Default for ConfidenceOptions {
    fn default() -> Self {
        Self { temperature: 1.0 }
    }
}

/// What [`confidence`] returns. Each has the shape of the logits without the dim.
#[derive(Debug)]
pub struct Confidence {
    /// The largest probability, from 1 / (length of a row) to 1.
    pub confidence: Tensor<f32>,
    /// The largest probability less the second largest, from 0 to 1. Two equal largest logits give 0.
    pub margin: Tensor<f32>,
    /// The entropy of the probabilities in nats, from 0 to ln(length of a row).
    pub entropy: Tensor<f32>,
}

/// Where [`confidence_into`] writes. Shapes are those of [`Confidence`], everything contiguous.
#[derive(Debug)]
pub struct ConfidenceInto<'a> {
    /// See [`Confidence::confidence`].
    pub confidence: ViewMut<'a, f32>,
    /// See [`Confidence::margin`].
    pub margin: ViewMut<'a, f32>,
    /// See [`Confidence::entropy`].
    pub entropy: ViewMut<'a, f32>,
}

/// How sure the softmax along `dim` is: its largest probability, the margin to the second, and its entropy, from one look at the
/// logits. The probabilities are never written.
///
/// # Shapes
/// | tensor | shape | type |
/// |---|---|---|
/// | `x` | any, any strides | f16, bf16, f32 |
/// | each result | that of `x` without `dim` | f32 |
///
/// # Numerics
/// With `w = exp((x - max) / T)` and `s` their sum, the confidence is `1 / s`, the margin
/// `(1 - exp((second - max) / T)) / s`, and the entropy `ln(s) + sum(w * (max - x) / T) / s`. None of them is a difference of
/// what rounding has touched: for f32 logits each is within 4 units in the last place, also where the margin or the entropy is
/// nearly 0; for 16-bit logits, whose exponentials are the hardware's, within 64 (the entropy within 200: that of a row whose
/// second logit is 80 below the first is as rough as one exponential).
///
/// A logit of -inf is hidden. A row with nothing visible gives 0, 0 and 0: no class can be relied on. A NaN or +inf makes the
/// numbers of its row NaN. The bits of a row do not depend on the rows beside it, on alignment or on strides.
///
/// # Errors
/// [`Error::Dim`](crate::Error::Dim), [`Error::Temperature`](crate::Error::Temperature);
/// [`Error::NoClasses`](crate::Error::NoClasses) if there are rows but no elements along `dim`;
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory), [`Error::Driver`](crate::Error::Driver).
///
/// ```
/// use sumexp::{ConfidenceOptions, Device, Dim, Tensor, confidence};
/// let x = Tensor::from_slice(&Device::cpu(), &[2, 2], &[0.0f32, 3f32.ln(), 5.0, 5.0])?;
/// let sure = confidence(&x, Dim::LAST, &ConfidenceOptions::default())?;
/// assert_eq!(sure.confidence.to_vec()?, [0.75, 0.5]);
/// assert_eq!(sure.margin.to_vec()?, [0.5, 0.0]);
/// assert_eq!(sure.entropy.to_vec()?[1], 2f32.ln());
/// # Ok::<(), sumexp::Error>(())
/// ```
pub fn confidence<'a, T: Float>(
    x: impl Into<View<'a, T>>,
    dim: Dim,
    options: &ConfidenceOptions,
) -> Result<Confidence> {
    let checked = Checked::new(CONFIDENCE, x.into(), dim)?.not_empty()?;
    check::temperature(CONFIDENCE, options.temperature)?;
    let number = || Tensor::unfilled(CONFIDENCE, checked.x.device(), checked.sizes);
    let mut results = Confidence { confidence: number()?, margin: number()?, entropy: number()? };
    let outputs = ConfidenceInto {
        confidence: results.confidence.view_mut(),
        margin: results.margin.view_mut(),
        entropy: results.entropy.view_mut(),
    };
    run(&checked, options, outputs)?;
    Ok(results)
}

/// [`confidence`] into memory of the caller.
///
/// # Errors
/// As [`confidence`]; also [`Error::Shapes`](crate::Error::Shapes), [`Error::NotContiguous`](crate::Error::NotContiguous),
/// [`Error::Overlap`](crate::Error::Overlap), [`Error::Shared`](crate::Error::Shared) and
/// [`Error::DifferentDevices`](crate::Error::DifferentDevices) for an output.
pub fn confidence_into<'a, T: Float>(
    x: impl Into<View<'a, T>>,
    dim: Dim,
    options: &ConfidenceOptions,
    outputs: ConfidenceInto,
) -> Result<()> {
    let checked = Checked::new(CONFIDENCE, x.into(), dim)?.not_empty()?;
    check::temperature(CONFIDENCE, options.temperature)?;
    let like = ("x without its dim", &checked.sizes);
    checked.check_output("confidence", &outputs.confidence, like)?;
    checked.check_output("margin", &outputs.margin, like)?;
    checked.check_output("entropy", &outputs.entropy, like)?;
    run(&checked, options, outputs)
}

const CONFIDENCE: &str = "confidence";

fn run<T: Float>(checked: &Checked<T>, options: &ConfidenceOptions, outputs: ConfidenceInto) -> Result<()> {
    if checked.rows.count() == 0 {
        return Ok(());
    }
    let ConfidenceInto { mut confidence, mut margin, mut entropy } = outputs;
    let Some((rows, x)) = checked.on_host() else {
        let outputs = ConfidenceOutputs { confidence, margin, entropy };
        return launch(&checked.input(), options.temperature, outputs);
    };
    let results = cpu::rows(&rows, x, f64::from(options.temperature));
    write(CONFIDENCE, "confidence", &mut confidence, results.iter().map(|row| row.confidence as f32))?;
    write(CONFIDENCE, "margin", &mut margin, results.iter().map(|row| row.margin as f32))?;
    write(CONFIDENCE, "entropy", &mut entropy, results.iter().map(|row| row.entropy as f32))
}
