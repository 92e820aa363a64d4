//! The launch of top-k.

use super::super::params::{SUMEXP_TOP_K_MOST, TopKParams};
use super::super::{KernelId, LaunchShape, launch};
use super::Input;
use crate::dtype::Float;
use crate::error::Result;
use crate::plan::inference as plan;
use crate::tensor::ViewMut;

// What the kernel has room for is what the plan promises.
const _: () = assert!(SUMEXP_TOP_K_MOST as u64 == plan::TOP_K_MOST);

/// The `k` largest elements of every row and their indices: at least 1, at most as many as the row has and as the plan allows; rows
/// are shorter than 2^32. Outputs are contiguous and have the shape of the input with `k` in the place of its length.
pub(crate) fn top_k<T: Float>(
    input: &Input<T>,
    k: u64,
    mut values: ViewMut<T>,
    mut indices: ViewMut<i64>,
) -> Result<()> {
    let described = input.described();
    let index_bits = u64::BITS - (input.rows.len - 1).leading_zeros();
    let params = TopKParams {
        positions: described.positions,
        input: described.input,
        values: values.address(input.op, "values")? as *mut _,
        indices: indices.address(input.op, "indices")? as *mut i64,
        length: input.rows.len,
        inner: input.rows.inner,
        k: k as u32,
        index_bytes: index_bits.div_ceil(8).max(1),
        unit_log2: described.unit_log2,
        input_units: described.input_units,
    };
    let (piece, blocks) = plan::top_k(&input.rows, T::DTYPE);
    let shape = LaunchShape { grid: [blocks, 1, 1], block: [piece.threads(), 1, 1], shared: 0 };
    let id = KernelId::TopK { dtype: T::DTYPE, piece };
    // SAFETY: `x` is a borrowed view whose strides the parameters repeat, the indices that the kernel reads again are those of
    // elements it met, and both outputs were checked to hold `k` elements per row, which is what it writes.
    unsafe { launch(input.x.device(), id, &shape, &params) }
}
