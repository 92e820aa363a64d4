//! The launches of the backward kernels.

use super::{Forward, Launch, four, matrix};
use crate::dtype::{DType, Float};
use crate::error::Result;
use crate::kernels::params::{AttentionBackwardParams, AttentionMatrix, AttentionRow, AttentionVector};
use crate::kernels::{KernelId, LaunchShape, launch};
use crate::plan::attention as plan;
use crate::shape::Shape;
use crate::tensor::{Tensor, View, ViewMut};
use std::ptr;

/// Results of the forward call.
pub(crate) struct Saved<'a, T> {
    /// `[B, Hq, Sq, Dv]` with contiguous rows.
    pub(crate) out: View<'a, T>,
    /// `[B, Hq, Sq]`
    pub(crate) lse: View<'a, f32>,
}

/// Gradients of these results.
pub(crate) struct Upstream<'a, T> {
    pub(crate) dout: View<'a, T>,
    pub(crate) dlse: Option<View<'a, f32>>,
}

/// Where gradients go. Each has the shape of its operand before packed sequences got a batch: dims by `dims`.
pub(crate) struct OperandGradients<'a, T> {
    pub(crate) dq: ViewMut<'a, T>,
    pub(crate) dk: ViewMut<'a, T>,
    pub(crate) dv: ViewMut<'a, T>,
    /// Which dims are those of the batch, the heads and the rows. Packed gradients have no batch.
    pub(crate) dims: [Option<usize>; 3],
}

/// One number per query `[B, Hq, Sq]`.
fn vector(view: Option<&View<f32>>) -> AttentionVector {
    match view {
        None => AttentionVector { data: ptr::null(), batch: 0, head: 0, row: 0 },
        Some(view) => {
            let s = view.layout().strides();
            AttentionVector { data: view.address() as *const f32, batch: s[0], head: s[1], row: s[2] }
        }
    }
}

/// An operand of rows `[B, Hq, Sq, Dv]`.
fn rows<T: Float>(view: &View<T>) -> AttentionMatrix {
    matrix::<T>(view.address(), view.dims(), view.layout().strides())
}

/// An output with so many batch entries, heads and rows.
fn output<T: Float>(
    op: &'static str,
    name: &'static str,
    view: &mut ViewMut<T>,
    dims: [Option<usize>; 3],
    like: &View<T>,
) -> Result<AttentionMatrix> {
    let address = view.address(op, name)?;
    let strides = dims.map(|dim| dim.map_or(0, |dim| view.layout().strides()[dim]));
    Ok(matrix::<T>(address, like.dims(), &strides))
}

/// The plan of a backward call.
pub(crate) fn planned_backward<T: Float>(call: &Forward<T>) -> plan::Backward {
    let [batch, heads, queries, head_size] = four(call.q.dims()).map(u64::from);
    let [_, key_heads, keys, value_size] = four(call.v.dims()).map(u64::from);
    let size = plan::Size { batch, heads, queries, head_size, value_size };
    plan::backward(&size, keys, key_heads, call.sequences(), T::DTYPE, call.general().is_some())
}

/// The launches of a plan, in order, with what those that have tiles do.
pub(crate) fn backward_launches(plan: &plan::Backward, dtype: DType) -> Vec<(Launch, Option<plan::Sweep>)> {
    let shape = LaunchShape { grid: [plan.rows_blocks, 1, 1], block: [plan::ROWS_THREADS, 1, 1], shared: 0 };
    let rows = Launch { id: KernelId::AttentionBackwardRows { dtype }, shape };
    let of_sweep = |sweep: &plan::Sweep| {
        let plan::Sweep { part, tiles, .. } = *sweep;
        let grid = plan::grid(sweep.blocks);
        let id = KernelId::AttentionBackward { dtype, head: tiles.head, part, general: plan.general };
        let shape = LaunchShape { grid, block: [tiles.threads(), 1, 1], shared: sweep.shared };
        (Launch { id, shape }, Some(*sweep))
    };
    let sweeps = plan.sweeps.iter().filter(|sweep| sweep.blocks > 0).map(of_sweep);
    (plan.rows_blocks > 0).then_some((rows, None)).into_iter().chain(sweeps).collect()
}

/// Enqueues a backward call. Without queries the gradients of keys and values are 0, and without keys those of queries.
pub(crate) fn backward<T: Float>(
    op: &'static str,
    call: &Forward<T>,
    saved: &Saved<T>,
    upstream: &Upstream<T>,
    mut gradients: OperandGradients<T>,
) -> Result<()> {
    let (dtype, device) = (T::DTYPE, call.q.device());
    let plan = planned_backward(call);
    let known = Shape::new(op, &[call.q.dims()[0], call.q.dims()[1], call.q.dims()[2], 4])?;
    let mut known = Tensor::<f32>::unfilled(op, device, known)?;
    let dims = gradients.dims;
    let tiles = |queries: bool| {
        let own = plan.sweeps.iter().find(|sweep| (sweep.part == plan::Part::Queries) == queries);
        own.map_or(0, |sweep| sweep.row_tiles as u32)
    };
    let (of_call, _memory) = call.params(op)?;
    let params = AttentionBackwardParams {
        call: of_call,
        out: rows(&saved.out),
        lse: vector(Some(&saved.lse)),
        dout: rows(&upstream.dout),
        dlse: vector(upstream.dlse.as_ref()),
        rows: known.view_mut().address(op, "the workspace")? as *mut AttentionRow,
        dq: output(op, "dq", &mut gradients.dq, dims, &call.q)?,
        dk: output(op, "dk", &mut gradients.dk, dims, &call.k)?,
        dv: output(op, "dv", &mut gradients.dv, dims, &call.v)?,
        query_tiles: tiles(true),
        key_tiles: tiles(false),
        scale: call.scale,
        reserved: 0,
    };
    for (Launch { id, shape }, _) in backward_launches(&plan, dtype) {
        // SAFETY: `call`, `saved` and `upstream` hold borrowed views on one device, checked to have the shapes named above; the
        // parameters repeat their strides. The gradients are borrowed for writing and have the shapes of their operands. The workspace has
        // an `AttentionRow` for every query; the launch that comes first fills it for the others.
        unsafe { launch(device, id, &shape, &params) }?;
    }
    Ok(())
}

/// The kernels that exist for an element type.
pub(super) fn kernels(dtype: DType) -> impl Iterator<Item = KernelId> {
    let heads = plan::backward_tiles(dtype, plan::Part::Queries).map(|tiles| tiles.head);
    let of_head = move |head| plan::parts(dtype, head).iter().map(move |part| (head, *part));
    let both =
        move |(head, part)| [false, true].map(|general| KernelId::AttentionBackward { dtype, head, part, general });
    heads.into_iter().flat_map(of_head).flat_map(both).chain([KernelId::AttentionBackwardRows { dtype }])
}
