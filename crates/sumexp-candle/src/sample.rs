//! Drawing an index of every row.

use crate::memory::{Input, Operand, Output, Place, Side, with_float};
use crate::op::{Custom, Op};
use candle_core::shape::Dim;
use candle_core::{Error, Result, Shape, Tensor};
use std::sync::OnceLock;
use sumexp::SampleOptions;

/// Random bits for one call, as [`sumexp::Random`].
#[derive(Clone, Debug)]
pub enum Random {
    /// One seed for the call. Rows draw independently, each by its number in the batch.
    Seed {
        /// Any number.
        seed: u64,
        /// Any number; another one for each call with the same seed.
        offset: u64,
    },
    /// i64 of shape `[2]`, on the device of the logits: the seed and the offset.
    Device(Tensor),
    /// A seed for each row: what a row draws does not depend on its place in the batch.
    PerRow {
        /// i64 of the shape of the logits without the dim, on their device.
        seeds: Tensor,
        /// Any number; another one for each call with the same seeds.
        offset: u64,
    },
}

/// What [`sample`] returns. Each has the shape of the logits without the dim; see [`sumexp::Samples`].
#[derive(Clone, Debug)]
pub struct Samples {
    /// i64: the index drawn; 0 in an invalid row.
    pub ids: Tensor,
    /// f32: the logarithm of the probability with which it was drawn.
    pub log_probabilities: Tensor,
    /// u8: 1; or 0 for a row that holds a NaN or +inf, or nothing visible.
    pub valid: Tensor,
    /// f32: the probability of all that the cuts left.
    pub kept_mass: Tensor,
}

/// Draws an index of every row along `dim` with the probabilities of its softmax, after the cuts of the options, as
/// [`sumexp::sample`]. No gradient goes through it.
///
/// # Errors
/// Those of [`sumexp::sample`]; another type of an operand; operands on several devices.
///
/// ```
/// use candle_core::{D, Device, Tensor};
/// use sumexp_candle::{Random, SampleOptions, sample};
/// let logits = Tensor::new(&[[9f32, 0.0, 9.0], [f32::NAN, 0.0, 0.0]], &Device::Cpu)?;
/// let options = SampleOptions { top_k: Some(2), ..SampleOptions::default() };
/// let drawn = sample(&logits, D::Minus1, &options, &Random::Seed { seed: 1, offset: 0 })?;
/// assert_eq!(drawn.valid.to_vec1::<u8>()?, [1, 0]);
/// assert!([0, 2].contains(&drawn.ids.to_vec1::<i64>()?[0]));
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn sample(x: &Tensor, dim: impl Dim, options: &SampleOptions, random: &Random) -> Result<Samples> {
    let dim = dim.to_index(x.shape(), "sample")?;
    let draw = Custom(Draw { dim, options: *options, random, beside: OnceLock::new() });
    let ids = x.apply_op1_no_bwd(&draw)?;
    match draw.0.beside.into_inner() {
        Some([log_probabilities, valid, kept_mass]) => Ok(Samples { ids, log_probabilities, valid, kept_mass }),
        None => candle_core::bail!("sample: candle did not run the operation"),
    }
}

struct Draw<'r> {
    dim: usize,
    options: SampleOptions,
    random: &'r Random,
    /// Log-probabilities, valid, kept mass.
    beside: OnceLock<[Tensor; 3]>,
}

impl Op<1> for Draw<'_> {
    const NAME: &'static str = "sample";

    fn forward<P: Place>(&self, place: &P, [x]: [Operand<'_, P>; 1]) -> Result<(P::Memory, Shape)> {
        let mut rows = x.dims().to_vec();
        rows.remove(self.dim);
        let mut ids = Output::<P, i64>::new(place, &rows)?;
        let mut log_probabilities = Output::<P, f32>::new(place, &rows)?;
        let mut valid = Output::<P, u8>::new(place, &rows)?;
        let mut kept_mass = Output::<P, f32>::new(place, &rows)?;
        let side = match self.random {
            Random::Seed { .. } => None,
            Random::Device(state) => Some(Side::new("the random state", state)),
            Random::PerRow { seeds, .. } => Some(Side::new("seeds", seeds)),
        };
        let bits: Option<Input<i64, P>> = side.as_ref().map(|side| side.view(Self::NAME, place)).transpose()?;
        let random = match (self.random, &bits) {
            (Random::Device(_), Some(state)) => sumexp::Random::Device(state.view),
            (Random::PerRow { offset, .. }, Some(seeds)) => {
                sumexp::Random::PerRow { seeds: seeds.view, offset: *offset }
            }
            (Random::Seed { seed, offset }, _) => sumexp::Random::Seed { seed: *seed, offset: *offset },
            (_, None) => candle_core::bail!("sample: the seeds are missing"),
        };
        let outputs = sumexp::SampleInto {
            ids: ids.view_mut(place)?,
            valid: valid.view_mut(place)?,
            log_probabilities: Some(log_probabilities.view_mut(place)?),
            kept_mass: Some(kept_mass.view_mut(place)?),
        };
        with_float!(Self::NAME, x.dtype(), T => {
            let x = x.view::<T>(place)?;
            sumexp::sample_into(x.view, sumexp::Dim::front(self.dim), &self.options, random, outputs).map_err(Error::wrap)
        })?;
        let _ = self.beside.set([log_probabilities.tensor(place), valid.tensor(place), kept_mass.tensor(place)]);
        Ok(ids.finish(place))
    }
}
