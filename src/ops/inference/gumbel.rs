//! Softmax with Gumbel noise.

use super::Checked;
use super::random::{Random, addresses, on_host};
use crate::device::Device;
use crate::dtype::Float;
use crate::error::{Error, Result};
use crate::kernels::inference::{Bits, GumbelOutputs, gumbel_softmax as launch};
use crate::ops::check;
use crate::plan::sample::LONGEST;
use crate::reference::{Output, gumbel as cpu};
use crate::shape::Dim;
use crate::tensor::{Probabilities, Tensor, View, ViewMut};

/// Options of [`gumbel_softmax`].
///
/// ```
/// use sumexp::GumbelOptions;
/// let straight_through = GumbelOptions { temperature: 0.5, hard: true };
/// assert!(!GumbelOptions::default().hard);
/// # let _ = straight_through;
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GumbelOptions {
    /// Logits with their noise are divided by it: the closer to 0, the closer to one-hot. Finite and above 0; 1 if not said
    /// otherwise.
    pub temperature: f32,
    /// Whether the one-hot rows of the largest entries are wanted too. Not if not said otherwise.
    pub hard: bool,
}

impl Default for GumbelOptions {
    fn default() -> Self {
        Self { temperature: 1.0, hard: false }
    }
}

/// What [`gumbel_softmax`] returns. Everything has the shape of the logits.
#[derive(Debug)]
pub struct GumbelSoftmax<T: Float> {
    /// `softmax((x + g) / temperature)`.
    pub probabilities: Probabilities<T>,
    /// 1 at the largest `x + g` of each row (of equal ones the first) and 0 elsewhere, if `hard` asked for it.
    pub one_hot: Option<Tensor<T>>,
}

/// Where [`gumbel_softmax_into`] writes. Everything has the shape of the logits and is contiguous.
#[derive(Debug)]
pub struct GumbelInto<'a, T: Float> {
    /// See [`GumbelSoftmax::probabilities`].
    pub probabilities: ViewMut<'a, T>,
    /// See [`GumbelSoftmax::one_hot`]; must be there if and only if `hard` asks for it.
    pub one_hot: Option<ViewMut<'a, T>>,
}

/// Softmax along `dim` of logits with Gumbel noise on them: `y = softmax((x + g) / temperature)` with `g = -ln(-ln(u))`.
///
/// The largest `x + g` of a row is at index `i` with the probability that the softmax of `x` gives `i`, so `one_hot` is a sample,
/// and `y` one that has a gradient: with the noise held fixed, it is [`softmax_backward`](crate::softmax_backward) of
/// `probabilities` at the same temperature. For the straight-through estimator, `one_hot` goes forward, and the upstream gradient
/// of `one_hot` is given to that same function.
///
/// # Shapes
/// | tensor | shape | type |
/// |---|---|---|
/// | `x` | any, any strides | f16, bf16, f32 |
/// | `probabilities`, `one_hot` | as `x` | as `x` |
///
/// # Definition
/// Element `i` of a row has `u = (word + 1/2) / 2^32`, with word `i % 4` of the four Philox words whose number [`Random`] says.
/// So `u` is never 0 or 1, nothing is clipped, and `g` lies between -3.14 and 22.88.
///
/// # Numerics
/// `g` is good to a few units in the last place of f32 at both ends, and `x - max(x) + g` is rounded to f32 for all types; 16-bit
/// results are rounded once more, at the end. That makes `y` good to about `(1 + (spread + 23) / temperature) * 2^-22` of its
/// size, where `spread` is how far below the largest logit of the row its own lies. -inf hides: such an entry gets 0, and a row
/// with nothing visible is 0. A NaN or +inf makes its row NaN, in `one_hot` too. The bits of a row depend on its logits and its
/// random bits alone.
///
/// # Speed
/// Rows of up to 8192 elements are read once, longer ones four times. The noise costs more than the softmax: ten rounds of Philox
/// for every four elements, and two logarithms for each.
///
/// # Errors
/// [`Error::Dim`], [`Error::Temperature`]; [`Error::TooMany`] for rows of more than 2^31 elements; [`Error::Shapes`] and
/// [`Error::DifferentDevices`] for the views of [`Random`]; [`Error::OutOfMemory`], [`Error::Driver`].
///
/// ```
/// use sumexp::{Device, Dim, GumbelOptions, Random, SoftmaxOptions, Tensor, gumbel_softmax, softmax_backward};
/// let x = Tensor::from_slice(&Device::cpu(), &[1, 3], &[1.0f32, 2.0, 3.0])?;
/// let options = GumbelOptions { temperature: 0.5, hard: true };
/// let drawn = gumbel_softmax(&x, Dim::LAST, &options, Random::Seed { seed: 3, offset: 0 })?;
/// assert_eq!(drawn.one_hot.expect("asked for").to_vec()?.iter().sum::<f32>(), 1.0);
/// let upstream = Tensor::from_slice(&Device::cpu(), &[1, 3], &[1.0f32, 0.0, 0.0])?;
/// let same = SoftmaxOptions { temperature: 0.5, ..SoftmaxOptions::default() };
/// let dx = softmax_backward(&drawn.probabilities, &upstream, Dim::LAST, &same)?;
/// # let _ = dx;
/// # Ok::<(), sumexp::Error>(())
/// ```
pub fn gumbel_softmax<'a, T: Float>(
    x: impl Into<View<'a, T>>,
    dim: Dim,
    options: &GumbelOptions,
    random: Random,
) -> Result<GumbelSoftmax<T>> {
    let call = Call::new(x.into(), dim, options, random)?;
    let output = || Tensor::unfilled(GUMBEL, call.checked.x.device(), *call.checked.x.shape());
    let mut probabilities = output()?;
    let mut one_hot = if options.hard { Some(output()?) } else { None };
    call.run(GumbelInto { probabilities: probabilities.view_mut(), one_hot: one_hot.as_mut().map(Tensor::view_mut) })?;
    Ok(GumbelSoftmax { probabilities: Probabilities::from_tensor(probabilities), one_hot })
}

/// [`gumbel_softmax`] into memory of the caller.
///
/// # Errors
/// As [`gumbel_softmax`]; [`Error::Option`] if `hard` and the outputs do not agree; also [`Error::Shapes`],
/// [`Error::NotContiguous`], [`Error::Overlap`], [`Error::Shared`] and [`Error::DifferentDevices`] for an output.
pub fn gumbel_softmax_into<'a, T: Float>(
    x: impl Into<View<'a, T>>,
    dim: Dim,
    options: &GumbelOptions,
    random: Random,
    outputs: GumbelInto<T>,
) -> Result<()> {
    let call = Call::new(x.into(), dim, options, random)?;
    if options.hard != outputs.one_hot.is_some() {
        let wanted = "1 with an output for one_hot, and 0 without";
        return Err(Error::Option { op: GUMBEL, option: "hard", value: f64::from(u8::from(options.hard)), wanted });
    }
    call.check_output("probabilities", Some(&outputs.probabilities))?;
    call.check_output("one_hot", outputs.one_hot.as_ref())?;
    call.run(outputs)
}

const GUMBEL: &str = "gumbel_softmax";

/// A checked call.
struct Call<'a, T> {
    checked: Checked<'a, T>,
    tau: f32,
    bits: Bits<'a>,
}

impl<'a, T: Float> Call<'a, T> {
    fn new(x: View<'a, T>, dim: Dim, options: &GumbelOptions, random: Random<'a>) -> Result<Self> {
        let checked = Checked::new(GUMBEL, x, dim)?;
        check::temperature(GUMBEL, options.temperature)?;
        if checked.rows.len > LONGEST {
            let (option, value) = ("the number of classes", checked.rows.len);
            return Err(Error::TooMany { op: GUMBEL, option, value, max: LONGEST });
        }
        let bits = random.check(GUMBEL, checked.x.device(), &checked.sizes)?;
        Ok(Self { checked, tau: options.temperature, bits })
    }

    fn check_output(&self, name: &'static str, output: Option<&ViewMut<T>>) -> Result<()> {
        let Some(output) = output else { return Ok(()) };
        let x = &self.checked.x;
        let inputs: Vec<_> = [("x", x.addresses())].into_iter().chain(addresses(&self.bits)).collect();
        output.check_output(GUMBEL, name, ("x", x.shape()), &inputs)?;
        Device::same(GUMBEL, ("x", x.device()), &[(name, output.device())])
    }

    fn run(&self, outputs: GumbelInto<T>) -> Result<()> {
        let GumbelInto { mut probabilities, mut one_hot } = outputs;
        if self.checked.x.shape().is_empty() {
            return Ok(());
        }
        let Some((rows, x)) = self.checked.on_host() else {
            return launch(&self.checked.input(), self.tau, &self.bits, GumbelOutputs { probabilities, one_hot });
        };
        let mut seeds = Vec::new();
        let source = on_host(&self.bits, &mut seeds)?;
        let fill = |output: &mut ViewMut<T>, name, hard| -> Result<()> {
            let layout = *output.layout();
            let data = output.on_host(GUMBEL, name)?.expect("outputs are where x is");
            cpu::rows(&rows, x, f64::from(self.tau), source, hard, Output { data, strides: layout.strides() });
            Ok(())
        };
        fill(&mut probabilities, "probabilities", false)?;
        one_hot.as_mut().map_or(Ok(()), |output| fill(output, "one_hot", true))
    }
}
