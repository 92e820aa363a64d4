//! The launch of gumbel_softmax.

use super::super::operand::{Walk, temperature, unit_log2};
use super::super::params::GumbelParams;
use super::super::{KernelId, LaunchShape, launch};
use super::{Bits, Input};
use crate::dtype::Float;
use crate::error::Result;
use crate::plan::sample::gumbel as plan;
use crate::tensor::ViewMut;
use std::ffi::c_void;
use std::ptr;

/// Where the results go, all contiguous with the shape of the logits.
pub(crate) struct GumbelOutputs<'a, T> {
    pub(crate) probabilities: ViewMut<'a, T>,
    pub(crate) one_hot: Option<ViewMut<'a, T>>,
}

/// The softmax of every row with noise on it. `tau` is finite and above 0; rows have at most [`crate::plan::sample::LONGEST`]
/// elements.
pub(crate) fn gumbel_softmax<T: Float>(
    input: &Input<T>,
    tau: f32,
    bits: &Bits,
    mut outputs: GumbelOutputs<T>,
) -> Result<()> {
    let Input { op, x, rows } = input;
    // The stride of a dim of length 1 is stored as 0, but any will do.
    let split = |strides: &[u64]| {
        let mut strides = strides.to_vec();
        let along = strides.remove(rows.position);
        (strides, if rows.len == 1 { 1 } else { along })
    };
    let (x_strides, x_along) = split(x.layout().strides());
    let (y_strides, y_along) = split(outputs.probabilities.layout().strides());
    let sizes = input.sizes();
    let walk = Walk::new(sizes.dims(), &[&x_strides, &y_strides, &bits.strides(x_strides.len())]);
    let unit_log2 = unit_log2(rows.len, T::DTYPE.size());
    let unit_bytes = (T::DTYPE.size() as u64) << unit_log2;
    let units =
        |number, address, along| u32::from(along == 1 && walk.aligned(number, address, T::DTYPE.size(), unit_bytes));
    let probabilities = outputs.probabilities.address(op, "probabilities")?;
    let one_hot = match &mut outputs.one_hot {
        Some(one_hot) => Some(one_hot.address(op, "one_hot")?),
        None => None,
    };
    let params = GumbelParams {
        positions: walk.positions,
        input: walk.operand(0, x.address(), x_along),
        random: bits.source(&walk, 2),
        tau: temperature(tau),
        probabilities: probabilities as *mut c_void,
        one_hot: one_hot.map_or(ptr::null_mut(), |address| address as *mut c_void),
        output_strides: walk.operand(1, 0, 0).strides,
        output_stride: y_along,
        length: rows.len as u32,
        unit_log2,
        input_units: units(0, x.address(), x_along),
        probability_units: units(1, probabilities, y_along),
        one_hot_units: one_hot.map_or(0, |address| units(1, address, y_along)),
        reserved: 0,
    };
    let plan = plan(rows.count(), rows.len, T::DTYPE);
    let lanes = plan.piece.lanes;
    let shape = LaunchShape { grid: [plan.blocks, 1, 1], block: [plan.piece.threads(), 1, 1], shared: 0 };
    // SAFETY: `x` and what `bits` borrows are views whose strides the parameters repeat, checked to have the shapes that the
    // kernel reads; each output was checked to be contiguous with the shape of `x`, whose elements the kernel writes.
    unsafe { launch(x.device(), KernelId::GumbelSoftmax { dtype: T::DTYPE, lanes }, &shape, &params) }
}
