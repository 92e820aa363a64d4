//! The launch of argmax.

use super::super::params::ArgmaxParams;
use super::super::{KernelId, launch};
use super::{Input, shape};
use crate::dtype::Float;
use crate::error::Result;
use crate::plan::inference::{Plan, plan};
use crate::tensor::ViewMut;

/// A value and an index of 64 bits.
const SLOT_BYTES: u64 = 12;

/// The index of the largest element of every row. `indices` is contiguous and holds one element per row.
pub(crate) fn argmax<T: Float>(input: &Input<T>, mut indices: ViewMut<i64>) -> Result<()> {
    let described = input.described();
    let params = ArgmaxParams {
        positions: described.positions,
        input: described.input,
        indices: indices.address(input.op, "the output")? as *mut i64,
        length: input.rows.len,
        unit_log2: described.unit_log2,
        input_units: described.input_units,
    };
    let (dtype, plan) = (T::DTYPE, plan(&input.rows, T::DTYPE));
    let id = match plan {
        Plan::Rows { piece, .. } => KernelId::Argmax { dtype, piece },
        Plan::Columns { .. } => KernelId::ArgmaxColumns { dtype },
    };
    // SAFETY: `x` is a borrowed view whose strides the parameters repeat, and the output was checked to hold one element per
    // row, which is what the kernel writes.
    unsafe { launch(input.x.device(), id, &shape(plan, SLOT_BYTES), &params) }
}
