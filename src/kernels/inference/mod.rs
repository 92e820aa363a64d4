//! The launches of what is read off logits without a gradient.

mod argmax;
mod confidence;
mod random;
mod sample;
mod top_k;

pub(crate) use argmax::argmax;
pub(crate) use confidence::{ConfidenceOutputs, confidence};
pub(crate) use random::Bits;
pub(crate) use sample::{Cuts, SampleOutputs, sample};
pub(crate) use top_k::top_k;

use super::LaunchShape;
use super::operand::{Walk, unit_log2};
use super::params::{Operand, Positions};
use crate::dtype::Float;
use crate::plan::inference::Plan;
use crate::shape::{Rows, Shape};
use crate::tensor::View;

/// The rows of a call, checked: at least one, of at least one element, on a GPU.
pub(crate) struct Input<'a, T> {
    pub(crate) op: &'static str,
    pub(crate) x: View<'a, T>,
    pub(crate) rows: Rows,
}

/// What every parameter block says about the rows.
struct Described {
    positions: Positions,
    input: Operand,
    unit_log2: u32,
    /// Whether whole units may be loaded at once (0 or 1).
    input_units: u32,
}

impl<T: Float> Input<'_, T> {
    /// The shape of what there is one of per row.
    fn sizes(&self) -> Shape {
        self.x.shape().without(self.rows.position)
    }

    fn described(&self) -> Described {
        let mut strides = self.x.layout().strides().to_vec();
        let along = strides.remove(self.rows.position);
        // The stride of a dim of length 1 is stored as 0, but any will do: let it not stand in the way of vector loads.
        let along = if self.rows.len == 1 { 1 } else { along };
        let walk = Walk::new(self.sizes().dims(), &[&strides]);
        let unit_log2 = unit_log2(self.rows.len, T::DTYPE.size());
        let bytes = (T::DTYPE.size() as u64) << unit_log2;
        let units = along == 1 && walk.aligned(0, self.x.address(), T::DTYPE.size(), bytes);
        let input = walk.operand(0, self.x.address(), along);
        Described { positions: walk.positions, input, unit_log2, input_units: u32::from(units) }
    }
}

/// The launch of a plan. `slot_bytes` is what the collectives of the column kernel need per slot.
fn shape(plan: Plan, slot_bytes: u64) -> LaunchShape {
    match plan {
        Plan::Rows { piece, blocks } => LaunchShape { grid: [blocks, 1, 1], block: [piece.threads(), 1, 1], shared: 0 },
        Plan::Columns { width, height, blocks, slots } => {
            LaunchShape { grid: [blocks, 1, 1], block: [width, height, 1], shared: slots * slot_bytes }
        }
    }
}
