//! The launch of the kernel that writes the weights of attention.

use super::{Forward, four, matrix};
use crate::dtype::Float;
use crate::error::Result;
use crate::kernels::params::{ATTENTION_WEIGHTS_TILES, AttentionWeightsParams};
use crate::kernels::{KernelId, LaunchShape, launch};
use crate::plan::attention as plan;
use crate::tensor::{View, ViewMut};
use std::ops::Range;

/// Enqueues the weights of the queries in `rows` into `[B, Hq, rows, Sk]`, which has an element. The call is not packed; `lse` is `[B, Hq, Sq]`.
pub(crate) fn weights<T: Float>(
    op: &'static str,
    call: &Forward<T>,
    lse: &View<f32>,
    rows: Range<usize>,
    mut out: ViewMut<T>,
) -> Result<()> {
    let [batch, heads, _, head_size] = four(call.q.dims());
    let [_, _, keys, _] = four(call.k.dims());
    let plan = plan::weights(rows.len() as u64, keys.into(), head_size.into(), T::DTYPE);
    let lengths = [batch as usize, heads as usize, rows.len()];
    let address = out.address(op, "the weights")?;
    let lse_strides = lse.layout().strides();
    let (of_call, _memory) = call.params(op)?;
    let params = AttentionWeightsParams {
        call: of_call,
        out: matrix::<T>(address, &lengths, out.layout().strides()),
        lse: lse.address() as *const f32,
        lse_batch: lse_strides[0],
        lse_head: lse_strides[1],
        lse_row: lse_strides[2],
        first_query: rows.start as u32,
        queries: rows.len() as u32,
        query_tiles: plan.query_tiles as u32,
        key_spans: plan.key_spans as u32,
    };
    let items = u64::from(batch) * u64::from(heads) * plan.query_tiles * plan.key_spans;
    let shape = LaunchShape { grid: plan::grid(items), block: [plan.tiles.threads(), 1, 1], shared: plan.shared };
    // SAFETY: `call` holds borrowed views on one device, checked to have the shapes of a call; the parameters repeat their strides. `rows`
    // were checked to be queries of it, `lse` to have one number per query, and `out` to have a row for each of `rows`.
    unsafe { launch(call.q.device(), KernelId::AttentionWeights { dtype: T::DTYPE }, &shape, &params) }
}

const _: () = assert!(ATTENTION_WEIGHTS_TILES.0 as u64 == plan::WEIGHTS_TILES);
