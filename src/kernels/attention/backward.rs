//! The launches of the backward kernels.

use super::forward::portable;
use super::maps::{Packing, map};
use super::{Forward, Launch, NO_PAIRS, four, matrix};
use crate::device::Device;
use crate::dtype::{DType, Float, bf16, f16};
use crate::error::Result;
use crate::kernels::params::{
    AttentionBackwardParams, AttentionBackwardSm90aParams, AttentionCall, AttentionMatrix, AttentionPairs,
    AttentionRow, AttentionVector,
};
use crate::kernels::{KernelId, LaunchShape, launch};
use crate::plan::attention::{self as plan, Kind};
use crate::shape::Shape;
use crate::tensor::{Tensor, View, ViewMut};
use std::ffi::c_void;
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
    /// Contiguous, if it is wanted.
    pub(crate) dbias: Option<BiasInto<'a>>,
    /// Which dims are those of the batch, the heads and the rows. Packed gradients have no batch.
    pub(crate) dims: [Option<usize>; 3],
}

/// Where the gradient of a bias goes: contiguous memory of the bias's own type and shape.
#[derive(Debug)]
pub enum BiasInto<'o> {
    /// In f32.
    F32(ViewMut<'o, f32>),
    /// In f16.
    F16(ViewMut<'o, f16>),
    /// In bf16.
    BF16(ViewMut<'o, bf16>),
}

impl BiasInto<'_> {
    /// Its type.
    pub fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::F16(_) => DType::F16,
            Self::BF16(_) => DType::BF16,
        }
    }
}

/// The gradient of a bias of its own shape, row-major.
fn bias_gradient(op: &'static str, into: &mut Option<BiasInto>, shape: Option<[usize; 4]>) -> Result<AttentionPairs> {
    let (Some(into), Some([_, heads, queries, keys])) = (into, shape) else { return Ok(NO_PAIRS) };
    let address = match into {
        BiasInto::F32(view) => view.address(op, "dbias"),
        BiasInto::F16(view) => view.address(op, "dbias"),
        BiasInto::BF16(view) => view.address(op, "dbias"),
    }?;
    Ok(AttentionPairs {
        data: address as *const c_void,
        batch: (heads * queries * keys) as u64,
        head: (queries * keys) as u64,
        query: keys as u64,
        key: 1,
        queries: queries as u32,
        keys: keys as u32,
    })
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

/// How a backward call is launched.
pub(crate) struct PlannedBackward {
    pub(crate) plan: plan::Backward,
    /// Why the kernels of compute capability 9.0 cannot run on this device, if they cannot.
    pub(crate) portable: Option<&'static str>,
    /// How q, k, v and dout are packed first, those that are.
    pub(crate) packings: [Option<Packing>; 4],
}

/// How a backward call is launched. Without `dout`, as if it were contiguous.
pub(crate) fn planned_backward<T: Float>(call: &Forward<T>, dout: Option<&View<T>>) -> PlannedBackward {
    let [batch, heads, queries, head_size] = four(call.q.dims()).map(u64::from);
    let [_, key_heads, keys, value_size] = four(call.v.dims()).map(u64::from);
    let size = plan::Size { batch, heads, queries, head_size, value_size };
    let bias = call.bias_gradient.map(|shape| shape.map(|length| length as u64));
    let (part, head) = (plan::Part::Queries, plan::SM90A_QUERIES[0].head);
    let id = KernelId::AttentionBackward { dtype: T::DTYPE, head, part, kind: Kind::Sm90a };
    let portable = portable(call.q.device(), id);
    let kinds = plan::Kinds { general: call.general().is_some(), sm90a: portable.is_none() };
    let plan = plan::backward(&size, keys, key_heads, call.sequences(), T::DTYPE, kinds, bias);
    let mut packings = [None; 4];
    if plan.sweeps.iter().any(|sweep| sweep.kind == Kind::Sm90a) {
        let of_dout = match dout {
            Some(dout) => Packing::of(dout),
            None => Packing::of_contiguous([batch, heads, queries, value_size]),
        };
        packings = [Packing::of(&call.q), Packing::of(&call.k), Packing::of(&call.v), of_dout];
    }
    PlannedBackward { plan, portable, packings }
}

/// The launches of a plan behind those that pack operands, in order, with what those that have tiles do.
pub(crate) fn backward_launches(plan: &plan::Backward, dtype: DType) -> Vec<(Launch, Option<plan::Sweep>)> {
    let shape = LaunchShape { grid: [plan.rows_blocks, 1, 1], block: [plan::ROWS_THREADS, 1, 1], shared: 0 };
    let rows = Launch { id: KernelId::AttentionBackwardRows { dtype }, shape };
    let of_sweep = |sweep: &plan::Sweep| {
        let plan::Sweep { part, kind, tiles, .. } = *sweep;
        let grid = plan::grid(sweep.blocks);
        let id = KernelId::AttentionBackward { dtype, head: tiles.head, part, kind };
        let shape = LaunchShape { grid, block: [sweep.threads(), 1, 1], shared: sweep.shared };
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
    let PlannedBackward { plan, packings, .. } = planned_backward(call, Some(&upstream.dout));
    let known = Shape::new(op, &[call.q.dims()[0], call.q.dims()[1], call.q.dims()[2], 4])?;
    let mut known = Tensor::<f32>::unfilled(op, device, known)?;
    let dims = gradients.dims;
    let tiles = |queries: bool| {
        // Those of the sweeps over keys are the same for keys and for values.
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
        dbias: bias_gradient(op, &mut gradients.dbias, call.bias_gradient)?,
        dbias_batch: call.bias_gradient.map_or(0, |[batch, ..]| batch as u32),
        dbias_heads: call.bias_gradient.map_or(0, |[_, heads, ..]| heads as u32),
        query_tiles: tiles(true),
        key_tiles: tiles(false),
        scale: call.scale,
        reserved: 0,
    };
    let (mut moved, mut packed) = ([params.call.q, params.call.k, params.call.v, params.dout], Vec::new());
    let views = [&call.q, &call.k, &call.v, &upstream.dout];
    for ((matrix, view), packing) in moved.iter_mut().zip(views).zip(packings) {
        if let Some(packing) = packing {
            let (memory, to) = packing.run(op, view, matrix)?;
            packed.push(memory);
            *matrix = to;
        }
    }
    for (Launch { id, shape }, sweep) in backward_launches(&plan, dtype) {
        // SAFETY: `call`, `saved` and `upstream` hold borrowed views on one device, checked to have the shapes named above; the
        // parameters repeat their strides. The gradients are borrowed for writing and have the shapes of their operands, that of the bias
        // its own shape and type. The workspace has
        // an `AttentionRow` for every query; the launch that comes first fills it for the others. What was packed has the shape of what it
        // was.
        unsafe {
            match sweep {
                Some(sweep) if sweep.kind == Kind::Sm90a => {
                    launch(device, id, &shape, &with_maps(device, dtype, &params, moved, &sweep)?)
                }
                _ => launch(device, id, &shape, &params),
            }
        }?;
    }
    Ok(())
}

/// The parameters for q, k, v and dout as they lie now, with maps of them in tiles of rows and of columns.
fn with_maps(
    device: &Device,
    dtype: DType,
    backward: &AttentionBackwardParams,
    [q, k, v, dout]: [AttentionMatrix; 4],
    sweep: &plan::Sweep,
) -> Result<AttentionBackwardSm90aParams> {
    let backward = AttentionBackwardParams { call: AttentionCall { q, k, v, ..backward.call }, dout, ..*backward };
    let sizes = &backward.call.sizes;
    // Packed sequences are one batch entry.
    let batch = if backward.call.query_offsets.is_null() { sizes.batch } else { 1 };
    let (rows, columns) = (sweep.tiles.rows(), sweep.tiles.columns);
    let (of_queries, of_keys) = if sweep.part == plan::Part::Queries { (rows, columns) } else { (columns, rows) };
    let queries = |matrix, length| map(device, dtype, matrix, [batch, sizes.heads, sizes.queries, length], of_queries);
    let keys = |matrix, length| map(device, dtype, matrix, [batch, sizes.key_heads, sizes.keys, length], of_keys);
    Ok(AttentionBackwardSm90aParams {
        q_map: queries(&q, sizes.head_size)?,
        k_map: keys(&k, sizes.head_size)?,
        v_map: keys(&v, sizes.value_size)?,
        dout_map: queries(&dout, sizes.value_size)?,
        backward,
    })
}

/// The kernels that exist for an element type.
pub(super) fn kernels(dtype: DType) -> impl Iterator<Item = KernelId> {
    let heads = plan::backward_tiles(dtype, plan::Part::Queries).map(|tiles| tiles.head);
    let of_head = move |head| plan::parts(dtype, head).iter().map(move |part| (head, *part));
    let both = move |(head, part)| {
        [Kind::Bands, Kind::General].map(|kind| KernelId::AttentionBackward { dtype, head, part, kind })
    };
    // A bias always asks for the kernels that take any.
    let kind = Kind::General;
    let of_bias = move |head| KernelId::AttentionBackward { dtype, head, part: plan::Part::Bias, kind };
    let of_operands = heads.into_iter().flat_map(of_head).flat_map(both);
    let sm90a = plan::SM90A_QUERIES.into_iter().filter(move |_| dtype.size() == 2).flat_map(move |tiles| {
        let (head, kind) = (tiles.head, Kind::Sm90a);
        [plan::Part::Queries, plan::Part::KeysAndValues].map(|part| KernelId::AttentionBackward {
            dtype,
            head,
            part,
            kind,
        })
    });
    of_operands.chain(sm90a).chain(heads.map(of_bias)).chain([KernelId::AttentionBackwardRows { dtype }])
}
