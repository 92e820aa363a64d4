//! The launch of confidence.

use super::super::operand::temperature;
use super::super::params::ConfidenceParams;
use super::super::{KernelId, launch};
use super::{Input, shape};
use crate::dtype::Float;
use crate::error::Result;
use crate::plan::inference::{Plan, plan};
use crate::tensor::ViewMut;

/// A maximum; and two sums, a count and the two largest logits.
const SLOT_BYTES: u64 = 4 + 28;

/// Where the results go, all contiguous with one element per row.
pub(crate) struct ConfidenceOutputs<'a> {
    pub(crate) confidence: ViewMut<'a, f32>,
    pub(crate) margin: ViewMut<'a, f32>,
    pub(crate) entropy: ViewMut<'a, f32>,
}

/// Confidence, margin and entropy of every row. `tau` is finite and above 0.
pub(crate) fn confidence<T: Float>(input: &Input<T>, tau: f32, mut outputs: ConfidenceOutputs) -> Result<()> {
    let described = input.described();
    let params = ConfidenceParams {
        positions: described.positions,
        input: described.input,
        confidence: outputs.confidence.address(input.op, "confidence")? as *mut f32,
        margin: outputs.margin.address(input.op, "margin")? as *mut f32,
        entropy: outputs.entropy.address(input.op, "entropy")? as *mut f32,
        length: input.rows.len,
        unit_log2: described.unit_log2,
        input_units: described.input_units,
        temperature: temperature(tau),
    };
    let (dtype, plan) = (T::DTYPE, plan(&input.rows, T::DTYPE));
    let id = match plan {
        Plan::Rows { piece, .. } => KernelId::Confidence { dtype, piece },
        Plan::Columns { .. } => KernelId::ConfidenceColumns { dtype },
    };
    // SAFETY: `x` is a borrowed view whose strides the parameters repeat, and each output was checked to hold one element per
    // row, which is what the kernel writes.
    unsafe { launch(input.x.device(), id, &shape(plan, SLOT_BYTES), &params) }
}
