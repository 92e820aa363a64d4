//! The launch of the forward kernels.

use super::maps::{Packing, map};
use super::mask::EVERYTHING;
use super::{Forward, Launch, four, matrix};
use crate::device::Device;
use crate::dtype::{DType, Float};
use crate::error::Result;
use crate::kernels::params::{
    ATTENTION_SPLIT_KEYS, AttentionCall, AttentionForwardParams, AttentionForwardSm90aParams, AttentionState,
};
use crate::kernels::{KernelId, LaunchShape, images, launch};
use crate::plan::attention::{self as plan, Kind};
use crate::shape::Shape;
use crate::tensor::{Tensor, ViewMut};
use std::ops::Range;

/// Where the results of a forward call go.
pub(crate) struct Results<'a, T> {
    /// Rows of Dv elements.
    pub(crate) out: ViewMut<'a, T>,
    pub(crate) lse: Option<ViewMut<'a, f32>>,
    /// Which dims of either are those of the batch, the heads and the rows. Packed results have no batch.
    pub(crate) dims: [Option<usize>; 3],
}

impl<T> Results<'_, T> {
    /// Strides of the batch, the heads and the rows of a layout.
    fn strides(&self, strides: &[u64]) -> [u64; 3] {
        self.dims.map(|dim| dim.map_or(0, |dim| strides[dim]))
    }
}

/// A call with one query as one with a query for every head that shares its keys: they see the same of them, so a block that has read
/// a key serves all. `keys` are those that the query sees.
fn share_keys(params: &mut AttentionForwardParams, keys: &Range<u64>) {
    let call = &mut params.call;
    let group = call.sizes.heads / call.sizes.key_heads;
    (call.sizes.heads, call.sizes.queries) = (call.sizes.key_heads, group);
    for matrix in [&mut call.q, &mut params.out] {
        (matrix.row, matrix.head) = (matrix.head, matrix.head * u64::from(group));
    }
    (params.lse_row, params.lse_head) = (params.lse_head, params.lse_head * u64::from(group));
    // Bands go by the number of a query.
    (call.mask.top_left, call.mask.bottom_right) = (EVERYTHING, EVERYTHING);
    (call.mask.first_key, call.sizes.keys) = (keys.start as u32, keys.end as u32);
}

/// How a forward call is launched.
pub(crate) struct Planned {
    pub(crate) plan: plan::Forward,
    /// The number of heads that are taken for queries of one, or why they are not.
    pub(crate) sharing: std::result::Result<u64, &'static str>,
    /// The keys that any query sees by the bands.
    pub(crate) seen: Range<u64>,
    /// Why the kernels of compute capability 9.0 cannot run on this device, if they cannot.
    pub(crate) portable: Option<&'static str>,
    /// How q, k and v are packed first, those that are.
    pub(crate) packings: [Option<Packing>; 3],
}

/// Why a kernel of compute capability 9.0 cannot run on a device.
pub(super) fn portable(device: &Device, id: KernelId) -> Option<&'static str> {
    if device.capabilities().is_none_or(|caps| caps.compute_capability != (9, 0)) {
        return Some("it needs a GPU of compute capability 9.0");
    }
    let compiled = images().iter().any(|(name, _)| *name == id.image());
    (!compiled).then_some("the library was built without kernels for compute capability 9.0")
}

/// The plan of a forward call. Its own lengths say how it is split, whoever shares a block.
pub(crate) fn planned<T: Float>(call: &Forward<T>) -> Planned {
    let [batch, heads, queries, head_size] = four(call.q.dims()).map(u64::from);
    let [_, key_heads, keys, value_size] = four(call.v.dims()).map(u64::from);
    let (seen, general) = (call.masking.keys(queries, keys), call.general().is_some());
    let sharing = plan::share(heads, key_heads, queries, call.offsets.is_some(), general);
    let group = sharing.unwrap_or(1);
    let size = plan::Size { batch, heads: heads / group, queries: queries * group, head_size, value_size };
    let id = KernelId::AttentionForward { dtype: T::DTYPE, head: plan::SM90A[0].head, kind: Kind::Sm90a };
    let portable = portable(call.q.device(), id);
    let plan = plan::forward(
        &size,
        seen.clone(),
        call.sequences(),
        T::DTYPE,
        plan::Kinds { general, sm90a: portable.is_none() },
    );
    let packing = |view| if plan.kind == Kind::Sm90a { Packing::of(view) } else { None };
    let packings = [&call.q, &call.k, &call.v].map(packing);
    Planned { plan, sharing, seen, portable, packings }
}

/// The launches of a plan behind those that pack operands, in their order.
pub(crate) struct Launches {
    pub(crate) first: Launch,
    pub(crate) merge: Option<Launch>,
}

/// The launches of a plan for results of so many rows.
pub(crate) fn launches(planned: &Planned, rows: u64, dtype: DType) -> Launches {
    let plan = &planned.plan;
    let shape = LaunchShape { grid: plan::grid(plan.blocks), block: [plan.threads(), 1, 1], shared: plan.shared };
    let id = KernelId::AttentionForward { dtype, head: plan.tiles.head, kind: plan.kind };
    let (blocks, threads) = plan::warps(rows);
    let merge = LaunchShape { grid: [blocks, 1, 1], block: [threads, 1, 1], shared: 0 };
    let merge = Launch { id: KernelId::AttentionMerge { dtype }, shape: merge };
    Launches { first: Launch { id, shape }, merge: (plan.splits > 1).then_some(merge) }
}

/// Enqueues a forward call.
pub(crate) fn forward<T: Float>(op: &'static str, call: &Forward<T>, mut results: Results<T>) -> Result<()> {
    let (dtype, device) = (T::DTYPE, call.q.device());
    let [batch, heads, queries, _] = four(call.q.dims());
    let [_, _, _, value_size] = four(call.v.dims());
    let planned = planned(call);
    let Planned { plan, sharing, seen, packings, .. } = &planned;
    let rows = [batch, heads, queries].map(|length| length as usize);
    let workspace = |elements: usize| -> Result<Option<Tensor<f32>>> {
        let dims = [plan.splits as usize, rows[0] * rows[1] * rows[2], elements];
        (plan.splits > 1).then(|| Tensor::unfilled(op, device, Shape::new(op, &dims)?)).transpose()
    };
    let (mut outputs, mut states) = (workspace(value_size as usize)?, workspace(2)?);
    let address = |tensor: &mut Option<Tensor<f32>>| {
        tensor.as_mut().map_or(Ok(0), |tensor| tensor.view_mut().address(op, "the workspace"))
    };
    let out_address = results.out.address(op, "out")?;
    let out_strides = results.strides(results.out.layout().strides());
    let (lse_address, lse_strides) = match &mut results.lse {
        None => (0, vec![0; 3]),
        Some(lse) => (lse.address(op, "lse")?, lse.layout().strides().to_vec()),
    };
    let lse_strides = results.strides(&lse_strides);
    let (of_call, _memory) = call.params(op)?;
    let mut params = AttentionForwardParams {
        call: of_call,
        out: matrix::<T>(out_address, &rows, &out_strides),
        lse: lse_address as *mut f32,
        lse_batch: lse_strides[0],
        lse_head: lse_strides[1],
        lse_row: lse_strides[2],
        query_tiles: plan.query_tiles as u32,
        splits: plan.splits as u32,
        split_from: plan.split_from as u32,
        reserved: 0,
        split_outputs: address(&mut outputs)? as *mut f32,
        split_states: address(&mut states)? as *mut AttentionState,
    };
    let mut packed = Vec::new();
    let call_params = &mut params.call;
    let operands = [(&mut call_params.q, &call.q), (&mut call_params.k, &call.k), (&mut call_params.v, &call.v)];
    for ((matrix, view), packing) in operands.into_iter().zip(packings) {
        if let Some(packing) = packing {
            let (memory, moved) = packing.run(op, view, matrix)?;
            packed.push(memory);
            *matrix = moved;
        }
    }
    if sharing.is_ok() {
        share_keys(&mut params, seen);
    }
    let all = rows.iter().map(|length| *length as u64).product();
    let Launches { first, merge, .. } = launches(&planned, all, dtype);
    // SAFETY: `call` holds borrowed views on one device, checked to have the shapes named above; the parameters repeat their strides.
    // `out` and `lse` are borrowed for writing and have the shapes of the results; the workspaces have a row for every split and
    // query, and the kernel that merges them runs behind the one that fills them. What was packed has the shape of what it was.
    unsafe {
        match plan.kind {
            Kind::Sm90a => launch(device, first.id, &first.shape, &with_maps(device, dtype, params, &plan.tiles)?),
            Kind::Bands | Kind::General => launch(device, first.id, &first.shape, &params),
        }?;
        merge.map_or(Ok(()), |merge| launch(device, merge.id, &merge.shape, &params))
    }
}

/// The parameters with maps of the operands that they name.
fn with_maps(
    device: &Device,
    dtype: DType,
    forward: AttentionForwardParams,
    tiles: &plan::Tiles,
) -> Result<AttentionForwardSm90aParams> {
    let AttentionCall { sizes, q, k, v, query_offsets, .. } = &forward.call;
    // Packed sequences are one batch entry.
    let batch = if query_offsets.is_null() { sizes.batch } else { 1 };
    Ok(AttentionForwardSm90aParams {
        q_map: map(device, dtype, q, [batch, sizes.heads, sizes.queries, sizes.head_size], tiles.queries())?,
        k_map: map(device, dtype, k, [batch, sizes.key_heads, sizes.keys, sizes.head_size], tiles.keys)?,
        v_map: map(device, dtype, v, [batch, sizes.key_heads, sizes.keys, sizes.value_size], tiles.keys)?,
        forward,
    })
}

const _: () = assert!(ATTENTION_SPLIT_KEYS.0 as u64 == plan::SPLIT_KEYS);

/// The kernels that exist for an element type.
pub(super) fn kernels(dtype: DType) -> impl Iterator<Item = KernelId> {
    let table = if dtype.size() == 4 { plan::WIDE } else { plan::NARROW };
    let merge = [KernelId::AttentionMerge { dtype }];
    let both = move |head| [Kind::Bands, Kind::General].map(|kind| KernelId::AttentionForward { dtype, head, kind });
    let sm90a = plan::SM90A.into_iter().filter(move |_| dtype.size() == 2);
    let sm90a = sm90a.map(move |tiles| KernelId::AttentionForward { dtype, head: tiles.head, kind: Kind::Sm90a });
    table.into_iter().flat_map(move |tiles| both(tiles.head)).chain(sm90a).chain(merge)
}
