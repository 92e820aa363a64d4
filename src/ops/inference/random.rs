//! Where random bits come from: a seed and an offset, on the host or on the device, or one seed per row.

use crate::device::Device;
use crate::error::{Error, Result};
use crate::kernels::inference::Bits;
use crate::reference::philox::Source;
use crate::shape::Shape;
use crate::tensor::View;
use std::ops::Range;

/// Random bits for one call, made by Philox4x32-10 from a seed and a counter and from nothing else: the same call gives the same
/// bits on every machine, and nothing is kept between calls. A seed is the generator's key. The counter's lower 64 bits are the
/// offset, its upper 64 say for whom the bits are:
///
/// | | key | upper half of the counter |
/// |---|---|---|
/// | [`Random::Seed`], [`Random::Device`], in `sample` | the seed | number of the row |
/// | the same, in `gumbel_softmax` | the seed | number of the row * ceil(length / 4) + index in the row / 4 |
/// | [`Random::PerRow`], in `sample` | the row's seed | 0 |
/// | the same, in `gumbel_softmax` | the row's seed | index in the row / 4 |
///
/// Rows are numbered row-major over the other dims. Calls that must be independent take other offsets (0, 1, 2 ...) or other seeds;
/// `sample` and `gumbel_softmax` are two such calls.
///
/// ```
/// use sumexp::{Device, Dim, Random, SampleOptions, Tensor, sample};
/// let x = Tensor::from_slice(&Device::cpu(), &[3, 2], &[0.0f32; 6])?;
/// let draw = |random| sample(&x, Dim::LAST, &SampleOptions::default(), random)?.ids.to_vec();
/// let (first, second) = (draw(Random::Seed { seed: 7, offset: 0 })?, draw(Random::Seed { seed: 7, offset: 1 })?);
/// let state = Tensor::from_slice(&Device::cpu(), &[2], &[7i64, 1])?;
/// assert_eq!(draw(Random::Device(state.view()))?, second);
/// let seeds = Tensor::from_slice(&Device::cpu(), &[3], &[5i64, 6, 5])?;
/// let own = draw(Random::PerRow { seeds: seeds.view(), offset: 0 })?;
/// assert_eq!(own[0], own[2]);
/// # let _ = first;
/// # Ok::<(), sumexp::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub enum Random<'a> {
    /// One seed for the call. Rows draw independently, each by its number in the batch.
    Seed {
        /// Any number.
        seed: u64,
        /// Any number; another one for each call with the same seed.
        offset: u64,
    },
    /// Shape `[2]`: the seed and the offset, as the bits of unsigned numbers. The kernel reads them when it runs, so that a
    /// captured graph draws anew each time if they are written in between.
    Device(View<'a, i64>),
    /// A seed for each row: what a row draws depends neither on its place in the batch nor on the rest of it.
    PerRow {
        /// The shape of the logits without the dim; the bits of unsigned numbers.
        seeds: View<'a, i64>,
        /// Any number; another one for each call with the same seeds.
        offset: u64,
    },
}

impl<'a> Random<'a> {
    /// Refuses views of another shape, or elsewhere than `x`. `sizes` is the shape of what there is one of per row.
    pub(super) fn check(self, op: &'static str, device: &Device, sizes: &Shape) -> Result<Bits<'a>> {
        let (view, name, like, shape) = match &self {
            Self::Seed { seed, offset } => return Ok(Bits::Call { seed: *seed, offset: *offset }),
            Self::Device(view) => (view, "the random state", "a seed and an offset", &Shape::new(op, &[2])?),
            Self::PerRow { seeds, .. } => (seeds, "seeds", "x without its dim", sizes),
        };
        if view.shape() != shape {
            let (left_shape, right_shape) = (view.dims().to_vec(), shape.dims().to_vec());
            return Err(Error::Shapes { op, left: name, left_shape, right: like, right_shape });
        }
        Device::same(op, ("x", device), &[(name, view.device())])?;
        Ok(match self {
            Self::Seed { seed, offset } => Bits::Call { seed, offset },
            Self::Device(view) => Bits::Device(view),
            Self::PerRow { seeds, offset } => Bits::PerRow { seeds, offset },
        })
    }
}

/// What an output must not overlap.
pub(super) fn addresses(bits: &Bits) -> Option<(&'static str, Range<u64>)> {
    match bits {
        Bits::Call { .. } => None,
        Bits::Device(view) => Some(("the random state", view.addresses())),
        Bits::PerRow { seeds, .. } => Some(("seeds", seeds.addresses())),
    }
}

/// The same for the reference, which is given the seeds of the rows in `kept`.
pub(super) fn on_host<'a>(bits: &Bits, kept: &'a mut Vec<i64>) -> Result<Source<'a>> {
    Ok(match bits {
        Bits::Call { seed, offset } => Source::Call { seed: *seed, offset: *offset },
        Bits::Device(view) => {
            *kept = view.to_vec()?;
            Source::Call { seed: kept[0] as u64, offset: kept[1] as u64 }
        }
        Bits::PerRow { seeds, offset } => {
            *kept = seeds.to_vec()?;
            Source::PerRow { seeds: kept, offset: *offset }
        }
    })
}
