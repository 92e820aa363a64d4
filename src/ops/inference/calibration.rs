//! Calibration: whether probabilities mean what they say, and the temperature that makes them.

use super::{ConfidenceOptions, argmax, confidence};
use crate::device::Device;
use crate::dtype::Float;
use crate::error::{Error, Result};
use crate::ops::check;
use crate::ops::loss::{CrossEntropy, Reduction, Targets, cross_entropy};
use crate::shape::Dim;
use crate::tensor::View;

/// Options of [`fit_temperature`].
///
/// ```
/// # use sumexp::FitTemperature;
/// assert_eq!(FitTemperature::default().ignore_index, Some(-100));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FitTemperature {
    /// Rows with this target do not count. `Some(-100)` by default.
    pub ignore_index: Option<i64>,
}

impl Default for FitTemperature {
    fn default() -> Self {
        Self { ignore_index: Some(-100) }
    }
}

/// Options of [`expected_calibration_error`].
///
/// ```
/// use sumexp::CalibrationOptions;
/// let calibrated = CalibrationOptions { temperature: 1.7, ..CalibrationOptions::default() };
/// # assert_eq!(calibrated.bins, 15);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CalibrationOptions {
    /// Bins of equal width between 0 and 1; from 1 to 65536, 15 by default.
    pub bins: usize,
    /// Logits are divided by it; finite and above 0. 1 by default.
    pub temperature: f32,
    /// Rows with this target do not count. `Some(-100)` by default.
    pub ignore_index: Option<i64>,
}

impl Default for CalibrationOptions {
    fn default() -> Self {
        Self { bins: 15, temperature: 1.0, ignore_index: Some(-100) }
    }
}

/// The rows whose confidence is above `i / bins` and at most `(i + 1) / bins`, for bin `i`. All 0 if there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CalibrationBin {
    /// How many rows.
    pub count: u64,
    /// The mean of their confidences.
    pub confidence: f64,
    /// Which part of them has the target as the largest logit.
    pub accuracy: f64,
}

/// What [`expected_calibration_error`] returns.
#[derive(Clone, Debug, PartialEq)]
pub struct CalibrationError {
    /// The mean over all rows that count of `|accuracy - confidence|` of their bins: 0 if every bin is right as often as it says.
    pub ece: f64,
    /// The bins, lowest confidence first: what a reliability diagram shows.
    pub bins: Vec<CalibrationBin>,
}

/// The temperature at which the mean cross-entropy of the rows is smallest: temperature scaling, fitted on held-out data.
///
/// Dividing all logits by one number changes no prediction, only how sure it claims to be (Guo et al., "On Calibration of Modern
/// Neural Networks", 2017).
///
/// # Shapes
/// | tensor | shape | type |
/// |---|---|---|
/// | `logits` | any, any strides; `dim` is the class dim | f16, bf16, f32 |
/// | `targets` | that of the logits without `dim`, any strides | i64, i32, u32 |
///
/// # Numerics
/// With `T` the temperature, the derivative of a row's loss by `ln(T)` is the entropy of its probabilities less the loss itself, and
/// the mean of that changes its sign once, since the loss is convex in `1 / T`. The change is bracketed from `T = 1` on, between 2^-15 and
/// 2^15, and found to 2^-20 of itself, as far as losses and entropies in f32 can tell: where T is many times the spread of the logits,
/// to about `(T / spread)^2 * 2^-22`. Where any temperature is as good as another the answer is 1.
///
/// **Reads back.** Each of some 10 to 20 steps reads the logits once on their device and copies two numbers per row to the host, which
/// adds them up in float64: the call waits for its device, and cannot be captured in a graph.
///
/// # Errors
/// [`Error::NoMinimum`] if no row counts; if the loss only falls towards a temperature of 0 (no target is below the largest logit of
/// its row) or towards an infinite one (the targets' logits are no better than the average logit); if it is not finite (a NaN, +inf or
/// hidden target). [`Error::Dim`], [`Error::Shapes`], [`Error::NoClasses`], [`Error::DifferentDevices`]; [`Error::Target`] for a target
/// that is no class; [`Error::OutOfMemory`], [`Error::Driver`].
///
/// ```
/// use sumexp::{Device, Dim, FitTemperature, Tensor, fit_temperature};
/// // Always the same claim of e^2 : 1, right three times out of four: the odds should be 3 : 1.
/// let logits = Tensor::from_slice(&Device::cpu(), &[4, 2], &[2.0f32, 0.0].repeat(4))?;
/// let targets = Tensor::from_slice(&Device::cpu(), &[4], &[0i64, 0, 1, 0])?;
/// let temperature = fit_temperature(&logits, Dim::LAST, &targets, &FitTemperature::default())?;
/// assert!((temperature - 2.0 / 3f32.ln()).abs() < 1e-5);
/// # Ok::<(), sumexp::Error>(())
/// ```
pub fn fit_temperature<'a, 't, T: Float>(
    logits: impl Into<View<'a, T>>,
    dim: Dim,
    targets: impl Into<Targets<'t>>,
    options: &FitTemperature,
) -> Result<f32> {
    let (logits, targets, ignore_index) = (logits.into(), targets.into(), options.ignore_index);
    let classes = checked_targets(FIT, &logits, dim, &targets, ignore_index)?;
    let losses = Losses { logits, dim, targets, ignore_index };
    let none = |reason| Err(Error::NoMinimum { op: FIT, reason });
    if classes.iter().all(|class| Some(*class) == ignore_index) {
        return none("no row counts");
    }
    // Log2 of the temperature, and there the derivative of the loss by it.
    let (mut at, mut slope) = (0.0, 0.0);
    let (mut below, mut above) = (None, None);
    while below.is_none() || above.is_none() {
        let here = losses.slope(at)?;
        match here {
            Slope::NotFinite => return none("it is NaN or infinite"),
            Slope::Falls(by) => below = Some((at, -by)),
            Slope::Rises(by) => above = Some((at, by)),
            Slope::Flat => return Ok(at.exp2() as f32),
            Slope::AllRight => {}
        }
        slope = here.sign();
        let next = at - slope * (at.abs() + 1.0);
        if next.abs() > WIDEST {
            break;
        }
        at = next;
    }
    let (Some(below), Some(above)) = (below, above) else {
        return none(match slope > 0.0 {
            true => "it only falls towards a temperature of 0: no target is below the largest logit of its row",
            false => "it only falls towards an infinite temperature: the targets are no better than the average logit",
        });
    };
    losses.minimum(below, above).map(|at| at.exp2() as f32)
}

/// The expected calibration error: how far confidences are from how often they are right, and the bins of a reliability diagram.
///
/// A row's prediction is the class of its largest logit ([`argmax`](crate::argmax)), its confidence the probability of that class
/// ([`confidence`](crate::confidence)). Rows are put into bins of equal width by their confidence (Naeini et al., 2015; Guo et al., 2017).
///
/// # Shapes
/// | tensor | shape | type |
/// |---|---|---|
/// | `logits` | any, any strides; `dim` is the class dim | f16, bf16, f32 |
/// | `targets` | that of the logits without `dim`, any strides | i64, i32, u32 |
///
/// # Numerics
/// Confidences are within 4 units in the last place of f32 (64 for 16-bit logits); they are added up as integers, exactly, so the order
/// of the rows does not matter. The means are in float64. A row that holds a NaN or +inf has no confidence: it is in no bin, and makes
/// `ece` NaN. If no row counts it is 0.
///
/// **Reads back.** The call copies two numbers per row to the host and waits for its device; it cannot be captured in a graph.
///
/// # Errors
/// [`Error::Dim`], [`Error::Shapes`], [`Error::Temperature`], [`Error::NoClasses`], [`Error::DifferentDevices`]; [`Error::Option`] without
/// bins, [`Error::TooMany`] with more than 65536; [`Error::Target`] for a target that is no class; [`Error::OutOfMemory`],
/// [`Error::Driver`].
///
/// ```
/// use sumexp::{CalibrationOptions, Device, Dim, Tensor, expected_calibration_error};
/// // Four claims of 3 : 1, all of them right.
/// let logits = Tensor::from_slice(&Device::cpu(), &[4, 2], &[3f32.ln(), 0.0].repeat(4))?;
/// let targets = Tensor::from_slice(&Device::cpu(), &[4], &[0i64; 4])?;
/// let error = expected_calibration_error(&logits, Dim::LAST, &targets, &CalibrationOptions::default())?;
/// assert_eq!(error.ece, 0.25);
/// assert_eq!((error.bins[11].count, error.bins[11].accuracy), (4, 1.0));
/// # Ok::<(), sumexp::Error>(())
/// ```
pub fn expected_calibration_error<'a, 't, T: Float>(
    logits: impl Into<View<'a, T>>,
    dim: Dim,
    targets: impl Into<Targets<'t>>,
    options: &CalibrationOptions,
) -> Result<CalibrationError> {
    let (logits, targets) = (logits.into(), targets.into());
    check::temperature(ECE, options.temperature)?;
    match options.bins {
        0 => return Err(Error::Option { op: ECE, option: "bins", value: 0.0, wanted: "at least 1" }),
        bins if bins as u64 > MOST_BINS => {
            return Err(Error::TooMany { op: ECE, option: "bins", value: bins as u64, max: MOST_BINS });
        }
        _ => {}
    }
    let targets = checked_targets(ECE, &logits, dim, &targets, options.ignore_index)?;
    let sure = confidence(logits, dim, &ConfidenceOptions { temperature: options.temperature })?;
    let (confidences, predictions) = (sure.confidence.to_vec()?, argmax(logits, dim)?.to_vec()?);
    let mut sums = vec![Sums::default(); options.bins];
    let (mut rows, mut unbinned) = (0, 0);
    for ((target, confidence), prediction) in targets.into_iter().zip(confidences).zip(predictions) {
        if Some(target) == options.ignore_index {
            continue;
        }
        rows += 1;
        match confidence.is_nan() {
            true => unbinned += 1,
            false => sums[bin(confidence, options.bins)].add(confidence, prediction == target),
        }
    }
    let bins: Vec<CalibrationBin> = sums.iter().map(Sums::bin).collect();
    let gaps = bins.iter().map(|bin| bin.count as f64 * (bin.accuracy - bin.confidence).abs());
    let ece = match (rows, unbinned) {
        (0, _) => 0.0,
        (_, 0) => gaps.sum::<f64>() / rows as f64,
        _ => f64::NAN,
    };
    Ok(CalibrationError { ece, bins })
}

const FIT: &str = "fit_temperature";
const ECE: &str = "expected_calibration_error";

/// Log2 of the largest temperature that is tried, and of the inverse of the smallest.
const WIDEST: f64 = 15.0;

/// Distance in log2 at which two temperatures are one.
const NARROWEST: f64 = 1.0 / (1 << 20) as f64;

const MOST_BINS: u64 = 1 << 16;

/// The targets on the host, after a look at shapes, devices and every one of them.
fn checked_targets<T: Float>(
    op: &'static str,
    logits: &View<T>,
    dim: Dim,
    targets: &Targets,
    ignore_index: Option<i64>,
) -> Result<Vec<i64>> {
    let rows = logits.shape().rows(op, dim)?;
    let sizes = logits.shape().without(rows.position);
    Device::same(op, ("logits", logits.device()), &[("targets", targets.device())])?;
    check::same_shape(op, ("targets", targets.shape()), ("logits without their class dim", &sizes))?;
    if rows.len == 0 && rows.count() > 0 {
        return Err(Error::NoClasses { op, shape: logits.dims().to_vec(), dim: rows.position });
    }
    let targets = match targets {
        Targets::I64(view) => view.to_vec()?,
        Targets::I32(view) => view.to_vec()?.into_iter().map(i64::from).collect(),
        Targets::U32(view) => view.to_vec()?.into_iter().map(i64::from).collect(),
        Targets::Probabilities(_) => {
            let (left_shape, right_shape) = (targets.shape().dims().to_vec(), sizes.dims().to_vec());
            let (left, right) = ("targets that are probabilities", "one class per row");
            return Err(Error::Shapes { op, left, left_shape, right, right_shape });
        }
    };
    let is_class = |value: i64| u64::try_from(value).is_ok_and(|value| value < rows.len);
    match targets.iter().position(|value| Some(*value) != ignore_index && !is_class(*value)) {
        None => Ok(targets),
        Some(row) => Err(Error::Target { op, row: row as u64, value: targets[row], classes: rows.len }),
    }
}

/// The bin of a confidence: bin `i` ends with `(i + 1) / bins`, which belongs to it.
fn bin(confidence: f32, bins: usize) -> usize {
    // 24 bits times 17 are exact in float64.
    let end = (f64::from(confidence) * bins as f64).ceil() as usize;
    end.clamp(1, bins) - 1
}

/// What a bin is made of.
#[derive(Clone, Copy, Default)]
struct Sums {
    count: u64,
    /// The confidences in units of 2^-60: integers, whose sum depends on no order.
    confidence: u128,
    right: u64,
}

impl Sums {
    const UNIT: f64 = (1u64 << 60) as f64;

    fn add(&mut self, confidence: f32, right: bool) {
        self.count += 1;
        self.confidence += (f64::from(confidence) * Self::UNIT) as u128;
        self.right += u64::from(right);
    }

    fn bin(&self) -> CalibrationBin {
        if self.count == 0 {
            return CalibrationBin::default();
        }
        let count = self.count as f64;
        let confidence = self.confidence as f64 / Self::UNIT / count;
        CalibrationBin { count: self.count, confidence, accuracy: self.right as f64 / count }
    }
}

/// How the mean loss changes with the logarithm of the temperature.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Slope {
    /// By so much, above 0.
    Falls(f64),
    /// By so much, above 0.
    Rises(f64),
    /// Not at all.
    Flat,
    /// Every loss is 0, as far as f32 can tell: it rises, but nobody sees how fast.
    AllRight,
    NotFinite,
}

impl Slope {
    fn sign(self) -> f64 {
        if matches!(self, Self::Falls(_)) { -1.0 } else { 1.0 }
    }
}

/// Logits and targets whose loss is asked for at one temperature after another.
struct Losses<'a, 't, T> {
    logits: View<'a, T>,
    dim: Dim,
    targets: Targets<'t>,
    ignore_index: Option<i64>,
}

impl<T: Float> Losses<'_, '_, T> {
    /// The derivative of the loss by log2 of the temperature, but for a positive factor: the sum of entropy less loss.
    fn slope(&self, log2: f64) -> Result<Slope> {
        let options = CrossEntropy {
            ignore_index: self.ignore_index,
            temperature: log2.exp2() as f32,
            reduction: Reduction::None,
            statistics: true,
            ..CrossEntropy::default()
        };
        let output = cross_entropy(self.logits, self.dim, self.targets, &options)?;
        let entropies = output.statistics.expect("they were asked for").entropy.to_vec()?;
        // Rows that do not count have neither loss nor entropy.
        let (mut total, mut slope) = (0.0, 0.0);
        for (loss, entropy) in output.loss.to_vec()?.into_iter().zip(entropies) {
            total += f64::from(loss);
            slope += f64::from(entropy) - f64::from(loss);
        }
        Ok(match slope {
            _ if !slope.is_finite() => Slope::NotFinite,
            _ if total == 0.0 => Slope::AllRight,
            slope if slope > 0.0 => Slope::Rises(slope),
            slope if slope < 0.0 => Slope::Falls(-slope),
            _ => Slope::Flat,
        })
    }

    /// Log2 of the temperature between two where the loss falls and where it rises: their places and derivatives. Regula falsi, where
    /// the derivative of an end that stays counts half, and every third step a bisection, so that no shape of the loss makes it slow.
    fn minimum(&self, (mut below, mut falls): (f64, f64), (mut above, mut rises): (f64, f64)) -> Result<f64> {
        for step in 1.. {
            let middle = 0.5 * (below + above);
            if above - below <= NARROWEST {
                return Ok(middle);
            }
            let crossing = below + (above - below) * (falls / (falls - rises));
            // A step away from the ends, so that the bracket narrows also where an end is as good as the zero.
            let inside = crossing.clamp(below + 0.25 * NARROWEST, above - 0.25 * NARROWEST);
            let at = if step % 3 == 0 { middle } else { inside };
            match self.slope(at)? {
                Slope::Falls(by) => (below, falls, rises) = (at, -by, 0.5 * rises),
                Slope::Rises(by) => (above, rises, falls) = (at, by, 0.5 * falls),
                Slope::Flat => return Ok(at),
                Slope::AllRight | Slope::NotFinite => {
                    return Err(Error::NoMinimum { op: FIT, reason: "it is NaN or infinite" });
                }
            }
        }
        unreachable!("every third step halves the bracket")
    }
}
