//! What becomes of the losses of a batch.

use crate::memory::{Input, Place, Side};
use candle_core::{Result, Tensor};

/// What becomes of the losses of a batch, as [`sumexp::Reduction`].
#[derive(Clone, Debug, Default)]
pub enum Reduction {
    /// They stay apart: one per row, or per element.
    None,
    /// Their sum.
    Sum,
    /// Their sum, divided by how many count; 0 if that is 0.
    #[default]
    Mean,
    /// Their sum, divided by this number: an f32 of shape `[]` on the device of the logits.
    MeanOver(Tensor),
}

impl Reduction {
    /// The same without the graph that the divisor comes from.
    pub(crate) fn detached(&self) -> Self {
        if let Self::MeanOver(divisor) = self { Self::MeanOver(divisor.detach()) } else { self.clone() }
    }

    /// The divisor, held for reading.
    pub(crate) fn side(&self) -> Option<Side<'_>> {
        if let Self::MeanOver(divisor) = self { Some(Side::new("the divisor", divisor)) } else { None }
    }

    /// The reduction as sumexp takes it, with the divisor that [`Reduction::side`] holds.
    pub(crate) fn of<'a, P: Place>(&self, divisor: Option<&Input<'a, f32, P>>) -> sumexp::Reduction<'a> {
        match (self, divisor) {
            (Self::None, _) => sumexp::Reduction::None,
            (Self::Sum, _) => sumexp::Reduction::Sum,
            (Self::MeanOver(_), Some(divisor)) => sumexp::Reduction::MeanOver(divisor.view),
            _ => sumexp::Reduction::Mean,
        }
    }

    /// The shape of the result, if losses that stay apart have this one.
    pub(crate) fn dims(&self, apart: &[usize]) -> Vec<usize> {
        if matches!(self, Self::None) { apart.to_vec() } else { Vec::new() }
    }
}

/// A view of a tensor that may be missing.
pub(crate) fn optional<'b, T: crate::memory::Scalar, P: Place>(
    op: &'static str,
    place: &'b P,
    side: &'b Option<Side<'_>>,
) -> Result<Option<Input<'b, T, P>>> {
    side.as_ref().map(|side| side.view::<T, P>(op, place)).transpose()
}
