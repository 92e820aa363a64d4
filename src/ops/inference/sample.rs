//! Drawing an index of every row.

use super::Checked;
use super::random::{Random, addresses, on_host};
use crate::device::Device;
use crate::dtype::{Element, Float};
use crate::error::{Error, Result};
use crate::kernels::inference::{Bits, Cuts, SampleOutputs, sample as launch};
use crate::ops::check;
use crate::ops::common::write;
use crate::plan::sample::LONGEST;
use crate::reference::sample as cpu;
use crate::shape::Dim;
use crate::tensor::{Tensor, View, ViewMut};

/// Options of [`sample`]. Without any, an index is drawn with the probabilities of the softmax.
///
/// Cuts apply in this order, as in HuggingFace's `generate`: the temperature, `top_k`, `top_p` of what is left, `min_p`. Each is a
/// threshold on the logits: entries equal to the last one that stays all stay.
///
/// ```
/// use sumexp::SampleOptions;
/// let nucleus = SampleOptions { temperature: 0.8, top_p: 0.95, ..SampleOptions::default() };
/// # let _ = nucleus;
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleOptions {
    /// Logits are divided by it; finite and above 0. 1 if not said otherwise.
    pub temperature: f32,
    /// So many of the largest entries stay, and with them all that equal the last; 1 to the length of a row. Off if not said
    /// otherwise.
    pub top_k: Option<usize>,
    /// The fewest largest entries stay whose probabilities, out of what `top_k` left, add up to this; above 0, at most 1. 1 (off) if
    /// not said otherwise.
    pub top_p: f32,
    /// Entries stay that are at least so many times as probable as the most probable one; 0 to 1. 0 (off) if not said otherwise.
    pub min_p: f32,
}

impl Default for SampleOptions {
    fn default() -> Self {
        Self { temperature: 1.0, top_k: None, top_p: 1.0, min_p: 0.0 }
    }
}

/// What [`sample`] returns. Each has the shape of the logits without the dim.
#[derive(Debug)]
pub struct Samples {
    /// The index drawn; 0 in an invalid row.
    pub ids: Tensor<i64>,
    /// The natural logarithm of the probability with which it was drawn: after the cuts, renormalised. NaN in an invalid row.
    pub log_probabilities: Tensor<f32>,
    /// 1; or 0 for a row that holds a NaN or +inf, or nothing visible.
    pub valid: Tensor<u8>,
    /// The probability of all that the cuts left, 0 to 1, exactly 1 if they left everything. In the whole softmax, the id drawn has the log-probability
    /// `log_probabilities + ln(kept_mass)`. 0 in an invalid row.
    pub kept_mass: Tensor<f32>,
}

/// Where [`sample_into`] writes. Shapes are those of [`Samples`], everything contiguous.
#[derive(Debug)]
pub struct SampleInto<'a> {
    /// See [`Samples::ids`].
    pub ids: ViewMut<'a, i64>,
    /// See [`Samples::valid`].
    pub valid: ViewMut<'a, u8>,
    /// See [`Samples::log_probabilities`].
    pub log_probabilities: Option<ViewMut<'a, f32>>,
    /// See [`Samples::kept_mass`].
    pub kept_mass: Option<ViewMut<'a, f32>>,
}

/// Draws an index of every row along `dim` with the probabilities of its softmax, after the cuts of the options. Nothing is sorted,
/// and no probabilities are written.
///
/// # Shapes
/// | tensor | shape | type |
/// |---|---|---|
/// | `x` | any, any strides | f16, bf16, f32 |
/// | `ids` | that of `x` without `dim` | i64 |
/// | `log_probabilities`, `kept_mass` | that of `x` without `dim` | f32 |
/// | `valid` | that of `x` without `dim` | u8 |
///
/// # Definition
/// An entry weighs `exp((x - max) / temperature)`, rounded to a multiple of 2^-s, `s` = 62 less the number of bits of the row's
/// length (46 for 50 257 classes), and sums of weights are exact. With `bits` the first 64 random bits of the row (words 0 and 1 of Philox's
/// four, the lower half first; see [`Random`]), the id is the first kept one, in the order of the row, for which the weights of
/// kept entries up to it add up to more than `bits / 2^64` times the weight of all kept ones. So each entry is drawn with its share of
/// the weight to within 2^-64; a hidden entry, or one whose weight rounds to 0, never is. On the host, weights are float64: the same
/// bits draw the same id unless they fall within rounding of the border between two.
///
/// # Numerics
/// Weights as [`softmax`](crate::softmax) computes them, to about 2^-18 of each for 16-bit logits and 2^-22 for f32. `log_probabilities`
/// within 2^-21 of the exact value plus 2^-21 of its size; `kept_mass` within 2^-17 of its size. The id and every number of a row depend on
/// its logits and its random bits alone: not on the rows beside it, on alignment or on strides.
///
/// A row with a NaN or +inf, or with nothing visible, is invalid, and only it.
///
/// # Speed
/// Without cuts a row is read twice; top-k and top-p read rows that do not fit in registers (8192 elements of f32, 16 384 of
/// 16-bit types) about three times more. Rows along another dim than the last are read element by element.
///
/// # Errors
/// [`Error::Dim`], [`Error::Temperature`]; [`Error::Option`] for `top_k` 0, `top_p` outside (0, 1] and `min_p` outside [0, 1];
/// [`Error::TooMany`] for `top_k` above the length of a row and for rows of more than 2^31 elements; [`Error::NoClasses`] if there are rows but
/// no elements along `dim`; [`Error::Shapes`] and [`Error::DifferentDevices`] for the views of [`Random`];
/// [`Error::OutOfMemory`], [`Error::Driver`].
///
/// ```
/// use sumexp::{Device, Dim, Random, SampleOptions, Tensor, sample};
/// let x = Tensor::from_slice(&Device::cpu(), &[2, 3], &[9.0f32, 0.0, 9.0, f32::NAN, 0.0, 0.0])?;
/// let options = SampleOptions { top_k: Some(2), ..SampleOptions::default() };
/// let drawn = sample(&x, Dim::LAST, &options, Random::Seed { seed: 1, offset: 0 })?;
/// assert_eq!(drawn.valid.to_vec()?, [1, 0]);
/// assert!([0, 2].contains(&drawn.ids.to_vec()?[0]));
/// assert_eq!(drawn.log_probabilities.to_vec()?[0], 0.5f32.ln());
/// # Ok::<(), sumexp::Error>(())
/// ```
pub fn sample<'a, T: Float>(
    x: impl Into<View<'a, T>>,
    dim: Dim,
    options: &SampleOptions,
    random: Random,
) -> Result<Samples> {
    let call = Call::new(x.into(), dim, options, random)?;
    let (device, sizes) = (call.checked.x.device(), call.checked.sizes);
    let mut samples = Samples {
        ids: Tensor::unfilled(SAMPLE, device, sizes)?,
        log_probabilities: Tensor::unfilled(SAMPLE, device, sizes)?,
        valid: Tensor::unfilled(SAMPLE, device, sizes)?,
        kept_mass: Tensor::unfilled(SAMPLE, device, sizes)?,
    };
    call.run(SampleInto {
        ids: samples.ids.view_mut(),
        valid: samples.valid.view_mut(),
        log_probabilities: Some(samples.log_probabilities.view_mut()),
        kept_mass: Some(samples.kept_mass.view_mut()),
    })?;
    Ok(samples)
}

/// [`sample`] into memory of the caller.
///
/// # Errors
/// As [`sample`]; also [`Error::Shapes`], [`Error::NotContiguous`], [`Error::Overlap`], [`Error::Shared`] and
/// [`Error::DifferentDevices`] for an output.
pub fn sample_into<'a, T: Float>(
    x: impl Into<View<'a, T>>,
    dim: Dim,
    options: &SampleOptions,
    random: Random,
    outputs: SampleInto,
) -> Result<()> {
    let call = Call::new(x.into(), dim, options, random)?;
    call.check_output("ids", Some(&outputs.ids))?;
    call.check_output("valid", Some(&outputs.valid))?;
    call.check_output("log_probabilities", outputs.log_probabilities.as_ref())?;
    call.check_output("kept_mass", outputs.kept_mass.as_ref())?;
    call.run(outputs)
}

const SAMPLE: &str = "sample";

/// A checked call.
struct Call<'a, T> {
    checked: Checked<'a, T>,
    cuts: Cuts,
    bits: Bits<'a>,
}

impl<'a, T: Float> Call<'a, T> {
    fn new(x: View<'a, T>, dim: Dim, options: &SampleOptions, random: Random<'a>) -> Result<Self> {
        let checked = Checked::new(SAMPLE, x, dim)?;
        let SampleOptions { temperature, top_k, top_p, min_p } = *options;
        check::temperature(SAMPLE, temperature)?;
        let refuse = |option, value, wanted| Err(Error::Option { op: SAMPLE, option, value, wanted });
        if top_k == Some(0) {
            return refuse("top_k", 0.0, "at least 1");
        }
        // NaN is in no range.
        if !(top_p > 0.0 && top_p <= 1.0) {
            return refuse("top_p", f64::from(top_p), "above 0 and at most 1");
        }
        if !(0.0..=1.0).contains(&min_p) {
            return refuse("min_p", f64::from(min_p), "from 0 to 1");
        }
        let too_many = |option, value, max| Err(Error::TooMany { op: SAMPLE, option, value, max });
        let classes = checked.rows.len;
        if let Some(k) = top_k.filter(|k| *k as u64 > classes) {
            return too_many("top_k", k as u64, classes);
        }
        if classes > LONGEST {
            return too_many("the number of classes", classes, LONGEST);
        }
        let bits = random.check(SAMPLE, checked.x.device(), &checked.sizes)?;
        Ok(Self { checked, cuts: Cuts { tau: temperature, top_k, top_p, min_p }, bits })
    }

    fn check_output<E: Element>(&self, name: &'static str, output: Option<&ViewMut<E>>) -> Result<()> {
        let Some(output) = output else { return Ok(()) };
        let inputs: Vec<_> = [("x", self.checked.x.addresses())].into_iter().chain(addresses(&self.bits)).collect();
        output.check_output(SAMPLE, name, ("x without its dim", &self.checked.sizes), &inputs)?;
        Device::same(SAMPLE, ("x", self.checked.x.device()), &[(name, output.device())])
    }

    fn run(&self, outputs: SampleInto) -> Result<()> {
        let SampleInto { mut ids, mut valid, mut log_probabilities, mut kept_mass } = outputs;
        if self.checked.rows.count() == 0 {
            return Ok(());
        }
        let Some((rows, x)) = self.checked.on_host() else {
            let outputs = SampleOutputs { ids, valid, log_probabilities, kept_mass };
            return launch(&self.checked.input(), &self.cuts, &self.bits, outputs);
        };
        let Cuts { tau, top_k, top_p, min_p } = self.cuts;
        let cuts = cpu::Cuts { tau: f64::from(tau), top_k, top_p: f64::from(top_p), min_p: f64::from(min_p) };
        let mut seeds = Vec::new();
        let draws = cpu::rows(&rows, x, &cuts, on_host(&self.bits, &mut seeds)?);
        let each = || draws.iter().copied();
        write(SAMPLE, "ids", &mut ids, each().map(|draw| draw.map_or(0, |draw| draw.id as i64)))?;
        write(SAMPLE, "valid", &mut valid, each().map(|draw| u8::from(draw.is_some())))?;
        if let Some(output) = &mut log_probabilities {
            let values = each().map(|draw| draw.map_or(f32::NAN, |draw| draw.log_probability as f32));
            write(SAMPLE, "log_probabilities", output, values)?;
        }
        if let Some(output) = &mut kept_mass {
            write(SAMPLE, "kept_mass", output, each().map(|draw| draw.map_or(0.0, |draw| draw.kept_mass as f32)))?;
        }
        Ok(())
    }
}
