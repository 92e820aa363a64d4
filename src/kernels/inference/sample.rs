//! The launch of sample.

use super::super::operand::{Walk, temperature, unit_log2};
use super::super::params::SampleParams;
use super::super::{KernelId, LaunchShape, launch};
use super::{Bits, Input};
use crate::dtype::Float;
use crate::error::Result;
use crate::plan::sample::{one_log2, sample as plan};
use crate::tensor::ViewMut;
use std::ptr;

/// The options of a call, checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cuts {
    /// Finite and above 0.
    pub(crate) tau: f32,
    /// At least 1 and at most the length of a row.
    pub(crate) top_k: Option<usize>,
    /// Above 0, at most 1.
    pub(crate) top_p: f32,
    /// 0 to 1.
    pub(crate) min_p: f32,
}

/// Where the results go, all contiguous with one element per row.
pub(crate) struct SampleOutputs<'a> {
    pub(crate) ids: ViewMut<'a, i64>,
    pub(crate) valid: ViewMut<'a, u8>,
    pub(crate) log_probabilities: Option<ViewMut<'a, f32>>,
    pub(crate) kept_mass: Option<ViewMut<'a, f32>>,
}

/// An index of every row, drawn at random. Rows have at most [`crate::plan::sample::LONGEST`] elements.
pub(crate) fn sample<T: Float>(input: &Input<T>, cuts: &Cuts, bits: &Bits, mut outputs: SampleOutputs) -> Result<()> {
    let Input { op, x, rows } = input;
    let mut strides = x.layout().strides().to_vec();
    let along = strides.remove(rows.position);
    // The stride of a dim of length 1 is stored as 0, but any will do.
    let along = if rows.len == 1 { 1 } else { along };
    let sizes = input.sizes();
    let walk = Walk::new(sizes.dims(), &[&strides, &bits.strides(strides.len())]);
    let unit_log2 = unit_log2(rows.len, T::DTYPE.size());
    let unit_bytes = (T::DTYPE.size() as u64) << unit_log2;
    let units = along == 1 && walk.aligned(0, x.address(), T::DTYPE.size(), unit_bytes);
    let one_log2 = one_log2(rows.len);
    let optional = |output: &mut Option<ViewMut<f32>>, name| match output {
        Some(output) => Ok(output.address(op, name)? as *mut f32),
        None => Ok(ptr::null_mut()),
    };
    let params = SampleParams {
        positions: walk.positions,
        input: walk.operand(0, x.address(), along),
        random: bits.source(&walk, 1),
        tau: temperature(cuts.tau),
        ids: outputs.ids.address(op, "ids")? as *mut i64,
        log_probabilities: optional(&mut outputs.log_probabilities, "log_probabilities")?,
        kept_masses: optional(&mut outputs.kept_mass, "kept_mass")?,
        valid: outputs.valid.address(op, "valid")? as *mut u8,
        min_p_margin: f64::from(cuts.tau) * f64::from(cuts.min_p).ln(),
        // Exact from 2^-40 on; below, a threshold so close to 0 that the largest entry passes it alone.
        top_p_share: if cuts.top_p < 1.0 { ((f64::from(cuts.top_p) * 2f64.powi(64)) as u64).max(1) } else { 0 },
        top_k: cuts.top_k.unwrap_or(0) as u32,
        length: rows.len as u32,
        one: 2f32.powi(one_log2 as i32),
        one_log2,
        spread: cuts.tau,
        unit_log2,
        input_units: u32::from(units),
        reserved: 0,
    };
    let plan = plan(rows.count(), rows.len, T::DTYPE);
    let shape = LaunchShape { grid: [plan.blocks, 1, 1], block: [plan.piece.threads(), 1, 1], shared: 0 };
    let id = KernelId::Sample { dtype: T::DTYPE, piece: plan.piece };
    // SAFETY: `x` and what `bits` borrows are views whose strides the parameters repeat, checked to have the shapes that the
    // kernel reads, and each output was checked to hold one element per row, which is what the kernel writes.
    unsafe { launch(x.device(), id, &shape, &params) }
}
