//! The launch of attention.

use super::params::{
    ATTENTION_BF16, ATTENTION_F16, ATTENTION_F32, ATTENTION_SPLIT_KEYS, AttentionBand, AttentionForwardParams,
    AttentionMask, AttentionMatrix, AttentionPairs, AttentionPositions, AttentionSizes, AttentionState,
};
use super::{KernelId, LaunchShape, launch};
use crate::dtype::{DType, Element, Float, bf16, f16};
use crate::error::Result;
use crate::mask::{Align, Band, Polarity};
use crate::plan::attention as plan;
use crate::shape::Shape;
use crate::tensor::{Tensor, View, ViewMut};
use std::ffi::c_void;
use std::ops::Range;
use std::ptr;

/// What stands for no limit of a band.
const UNLIMITED: i64 = 1 << 40;

/// Every key.
const EVERYTHING: AttentionBand = AttentionBand { first: -UNLIMITED, last: UNLIMITED };

/// What all bands with this alignment leave.
fn bands(all: &[Band], align: Align) -> AttentionBand {
    let limit = |distance: Option<u64>| distance.map_or(UNLIMITED, |distance| distance.min(UNLIMITED as u64) as i64);
    let own = || all.iter().filter(|band| band.align == align);
    AttentionBand {
        first: own().map(|band| -limit(band.left)).max().unwrap_or(-UNLIMITED),
        last: own().map(|band| limit(band.right)).min().unwrap_or(UNLIMITED),
    }
}

/// Which keys take part.
pub(crate) struct Masking<'a> {
    pub(crate) bands: &'a [Band],
    /// `[B]`
    pub(crate) key_lengths: Option<View<'a, i32>>,
    /// `[B, Sq]` and `[B, Sk]`
    pub(crate) segments: Option<(View<'a, i32>, View<'a, i32>)>,
    /// `[B, Hq, Sq, Sk]`
    pub(crate) visible: Option<(View<'a, u8>, Polarity)>,
}

/// A bias of `[B, Hq, Sq, Sk]`.
#[derive(Clone, Copy)]
pub(crate) enum Bias<'a> {
    F32(View<'a, f32>),
    F16(View<'a, f16>),
    BF16(View<'a, bf16>),
}

/// A checked forward call: with packed sequences B counts them in masks, bias and slopes, and Sq and Sk are any lengths there. Else: q `[B, Hq, Sq, D]`, k `[B, Hkv, Sk, D]`, v `[B, Hkv, Sk, Dv]` with neighbouring elements of rows, at least one
/// query, lengths of at most 2^30, head sizes from 1 to 256, Hq a multiple of Hkv.
pub(crate) struct Forward<'a, T> {
    pub(crate) q: View<'a, T>,
    pub(crate) k: View<'a, T>,
    pub(crate) v: View<'a, T>,
    pub(crate) masking: Masking<'a>,
    pub(crate) bias: Option<Bias<'a>>,
    /// `[B, Hq]`, and whether the diagonal is that of the last query and key.
    pub(crate) slopes: Option<(View<'a, f32>, bool)>,
    pub(crate) scale: f32,
    pub(crate) cap: Option<f32>,
    /// Packed sequences: where each of them starts in the queries and in the keys, and behind the last one where it ends. Then B is 1
    /// in all shapes above.
    pub(crate) offsets: Option<(View<'a, i32>, View<'a, i32>)>,
}

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

/// Rows `[B, H, S, D]` as the kernels take them.
fn matrix<T: Element>(view: &View<T>) -> AttentionMatrix {
    let strides = view.layout().strides();
    AttentionMatrix { data: view.address() as *const c_void, batch: strides[0], head: strides[1], row: strides[2] }
}

/// Whether 16 bytes from any row on, in steps of as many, are aligned.
fn vectors<T: Element>(address: u64, dims: &[usize], strides: &[u64]) -> u32 {
    let bytes = size_of::<T>() as u64;
    let aligned = |(dim, stride): (&usize, &u64)| *dim == 1 || stride.wrapping_mul(bytes).is_multiple_of(16);
    u32::from(address.is_multiple_of(16) && dims[..3].iter().zip(strides).all(aligned))
}

fn pairs<T: Element>(view: &View<T>) -> AttentionPairs {
    let (s, dims) = (view.layout().strides(), view.dims());
    AttentionPairs {
        data: view.address() as *const c_void,
        batch: s[0],
        head: s[1],
        query: s[2],
        key: s[3],
        queries: dims[2] as u32,
        keys: dims[3] as u32,
    }
}

fn positions(view: &View<i32>) -> AttentionPositions {
    let s = view.layout().strides();
    let positions = view.dims()[1] as u32;
    AttentionPositions { data: view.address() as *const i32, batch: s[0], position: s[1], positions, reserved: 0 }
}

const NO_PAIRS: AttentionPairs =
    AttentionPairs { data: ptr::null(), batch: 0, head: 0, query: 0, key: 0, queries: 0, keys: 0 };
const NO_POSITIONS: AttentionPositions =
    AttentionPositions { data: ptr::null(), batch: 0, position: 0, positions: 0, reserved: 0 };

impl Masking<'_> {
    fn params(&self) -> AttentionMask {
        let segments = self.segments.as_ref();
        AttentionMask {
            top_left: bands(self.bands, Align::TopLeft),
            bottom_right: bands(self.bands, Align::BottomRight),
            key_lengths: self.key_lengths.as_ref().map_or(ptr::null(), |lengths| lengths.address() as *const i32),
            key_lengths_stride: self.key_lengths.as_ref().map_or(0, |lengths| lengths.layout().strides()[0]),
            query_segments: segments.map_or(NO_POSITIONS, |(of_q, _)| positions(of_q)),
            key_segments: segments.map_or(NO_POSITIONS, |(_, of_k)| positions(of_k)),
            bytes: self.visible.as_ref().map_or(NO_PAIRS, |(bytes, _)| pairs(bytes)),
            bytes_hide: u32::from(self.visible.as_ref().is_some_and(|(_, polarity)| *polarity == Polarity::Hide)),
            first_key: 0,
        }
    }
}

impl Masking<'_> {
    /// The keys that any of so many queries sees by the bands.
    fn keys(&self, queries: u32, keys: u32) -> Range<u64> {
        let (queries, keys) = (i128::from(queries), i128::from(keys));
        let lower = |limit: i64| i128::from(limit) + keys - queries;
        let (top_left, bottom_right) = (bands(self.bands, Align::TopLeft), bands(self.bands, Align::BottomRight));
        let first = i128::from(top_left.first).max(lower(bottom_right.first));
        let last = i128::from(top_left.last).min(lower(bottom_right.last));
        let end = (last + queries).clamp(0, keys);
        first.clamp(0, end) as u64..end as u64
    }
}

/// A call with one query as one with a query for every head that shares its keys: they see the same of them, so a block that has read
/// a key serves all. `keys` are those that the query sees.
fn share_keys(params: &mut AttentionForwardParams, keys: &Range<u64>) {
    let sizes = &mut params.sizes;
    let group = sizes.heads / sizes.key_heads;
    (sizes.heads, sizes.queries) = (sizes.key_heads, group);
    for matrix in [&mut params.q, &mut params.out] {
        (matrix.row, matrix.head) = (matrix.head, matrix.head * u64::from(group));
    }
    (params.lse_row, params.lse_head) = (params.lse_head, params.lse_head * u64::from(group));
    // Bands go by the number of a query.
    (params.mask.top_left, params.mask.bottom_right) = (EVERYTHING, EVERYTHING);
    (params.mask.first_key, params.sizes.keys) = (keys.start as u32, keys.end as u32);
}

impl<T> Forward<'_, T> {
    /// Whether scores are more than products times a factor that the exponential can take over.
    fn scores_change(&self) -> bool {
        // A factor of 0 or below would turn hidden scores into visible ones, and an extreme one leaves the range of f32.
        let ordinary = (1e-30..1e30).contains(&self.scale);
        !ordinary || self.bias.is_some() || self.slopes.is_some() || self.cap.is_some()
    }

    fn general(&self) -> bool {
        self.scores_change() || self.masking.segments.is_some() || self.masking.visible.is_some()
    }
}

/// Enqueues a forward call.
pub(crate) fn forward<T: Float>(op: &'static str, call: &Forward<T>, mut results: Results<T>) -> Result<()> {
    let (q, k, v) = (&call.q, &call.k, &call.v);
    let (dtype, device) = (T::DTYPE, q.device());
    let [batch, heads, queries, head_size] = four(q.dims());
    let [_, key_heads, keys, value_size] = four(v.dims());
    // The lengths of a call say how it is split, whoever shares a block.
    let seen = call.masking.keys(queries, keys);
    let sequences = call.offsets.as_ref().map(|(of_q, _)| of_q.dims()[0] as u64 - 1);
    let shared = queries == 1 && heads > key_heads && sequences.is_none() && !call.general();
    let group = u64::from(if shared { heads / key_heads } else { 1 });
    let size = plan::Size {
        batch: batch.into(),
        heads: u64::from(heads) / group,
        queries: u64::from(queries) * group,
        head_size: head_size.into(),
        value_size: value_size.into(),
    };
    let plan = plan::forward(&size, seen.clone(), sequences, dtype, call.general());
    let rows = [batch, heads, queries].map(|length| length as usize);
    let workspace = |elements: usize| -> Result<Option<Tensor<f32>>> {
        let dims = [plan.splits as usize, rows[0] * rows[1] * rows[2], elements];
        (plan.splits > 1).then(|| Tensor::unfilled(op, device, Shape::new(op, &dims)?)).transpose()
    };
    let (mut outputs, mut states) = (workspace(value_size as usize)?, workspace(2)?);
    let address = |tensor: &mut Option<Tensor<f32>>| {
        tensor.as_mut().map_or(Ok(0), |tensor| tensor.view_mut().address(op, "the workspace"))
    };
    let (change, slopes) = (call.scores_change(), call.slopes.as_ref());
    let log2_e = std::f64::consts::LOG2_E;
    let out_address = results.out.address(op, "out")?;
    let out_strides = results.strides(results.out.layout().strides());
    let (lse_address, lse_strides) = match &mut results.lse {
        None => (0, vec![0; 3]),
        Some(lse) => (lse.address(op, "lse")?, lse.layout().strides().to_vec()),
    };
    let lse_strides = results.strides(&lse_strides);
    let in_vectors = |view: &View<T>| vectors::<T>(view.address(), view.dims(), view.layout().strides());
    let offsets = |view: Option<&View<i32>>| view.map_or(ptr::null(), |view| view.address() as *const i32);
    let mut params = AttentionForwardParams {
        sizes: AttentionSizes {
            batch: sequences.map_or(batch, |sequences| sequences as u32),
            heads,
            key_heads,
            queries,
            keys,
            head_size,
            value_size,
            query_tiles: plan.query_tiles as u32,
        },
        q: matrix(q),
        k: matrix(k),
        v: matrix(v),
        out: AttentionMatrix {
            data: out_address as *const c_void,
            batch: out_strides[0],
            head: out_strides[1],
            row: out_strides[2],
        },
        lse: lse_address as *mut f32,
        lse_batch: lse_strides[0],
        lse_head: lse_strides[1],
        lse_row: lse_strides[2],
        query_offsets: offsets(call.offsets.as_ref().map(|(of_q, _)| of_q)),
        key_offsets: offsets(call.offsets.as_ref().map(|(_, of_k)| of_k)),
        splits: plan.splits as u32,
        split_from: plan.split_from as u32,
        split_outputs: address(&mut outputs)? as *mut f32,
        split_states: address(&mut states)? as *mut AttentionState,
        mask: call.masking.params(),
        bias: match &call.bias {
            None => NO_PAIRS,
            Some(Bias::F32(bias)) => pairs(bias),
            Some(Bias::F16(bias)) => pairs(bias),
            Some(Bias::BF16(bias)) => pairs(bias),
        },
        bias_type: match &call.bias {
            None | Some(Bias::F32(_)) => ATTENTION_F32.0,
            Some(Bias::F16(_)) => ATTENTION_F16.0,
            Some(Bias::BF16(_)) => ATTENTION_BF16.0,
        },
        q_vectors: in_vectors(q),
        k_vectors: in_vectors(k),
        v_vectors: in_vectors(v),
        out_vectors: vectors::<T>(out_address, &rows, &out_strides),
        score_factor: if change { call.scale } else { 1.0 },
        log2_factor: if change { log2_e as f32 } else { (log2_e * f64::from(call.scale)) as f32 },
        natural_factor: if change { 1.0 } else { call.scale },
        cap: call.cap.unwrap_or(0.0),
        scores_change: u32::from(change),
        slopes: slopes.map_or(ptr::null(), |(slopes, _)| slopes.address() as *const f32),
        slopes_batch: slopes.map_or(0, |(slopes, _)| slopes.layout().strides()[0]),
        slopes_head: slopes.map_or(0, |(slopes, _)| slopes.layout().strides()[1]),
        slopes_bottom_right: slopes.map_or(0, |(_, bottom_right)| u32::from(*bottom_right)),
        reserved: 0,
    };
    if shared {
        share_keys(&mut params, &seen);
    }
    let shape = LaunchShape { grid: [plan.blocks, 1, 1], block: [plan.tiles.threads(), 1, 1], shared: plan.shared };
    let id = KernelId::AttentionForward { dtype, head: plan.tiles.head, general: plan.general };
    // SAFETY: `call` holds borrowed views on one device, checked to have the shapes named above; the parameters repeat their strides.
    // `out` and `lse` are borrowed for writing and have the shapes of the results; the workspaces have a row for every split and query.
    unsafe { launch(device, id, &shape, &params) }?;
    if plan.splits == 1 {
        return Ok(());
    }
    let (blocks, threads) = plan::merge(rows.iter().map(|length| *length as u64).product());
    let shape = LaunchShape { grid: [blocks, 1, 1], block: [threads, 1, 1], shared: 0 };
    // SAFETY: as above; the workspaces were filled by the launch before.
    unsafe { launch(device, KernelId::AttentionMerge { dtype }, &shape, &params) }
}

const _: () = assert!(ATTENTION_SPLIT_KEYS.0 as u64 == plan::SPLIT_KEYS);

/// Dims that were checked to be four, and small.
fn four(dims: &[usize]) -> [u32; 4] {
    std::array::from_fn(|dim| dims[dim] as u32)
}

/// The kernels that exist for an element type.
pub(super) fn kernels(dtype: DType) -> impl Iterator<Item = KernelId> {
    let table = if dtype.size() == 4 { plan::WIDE } else { plan::NARROW };
    let merge = [KernelId::AttentionMerge { dtype }];
    let both = move |head| [false, true].map(|general| KernelId::AttentionForward { dtype, head, general });
    table.into_iter().flat_map(move |tiles| both(tiles.head)).chain(merge)
}
