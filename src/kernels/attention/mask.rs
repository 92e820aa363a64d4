//! Which keys take part: bands as they are, and what kernels find out about bytes and segments before attention starts.

use super::{Launch, pairs};
use crate::device::Device;
use crate::error::Result;
use crate::kernels::params::{
    ATTENTION_CELL_KEYS, ATTENTION_CELL_QUERIES, AttentionBand, AttentionBits, AttentionMask, AttentionMaskBitsParams,
    AttentionMaskSpansParams, AttentionSegments, AttentionSpan,
};
use crate::kernels::{KernelId, LaunchShape, launch};
use crate::mask::{Align, Band, Polarity};
use crate::plan::attention as plan;
use crate::shape::Shape;
use crate::tensor::{Tensor, View};
use std::ops::Range;
use std::ptr;

/// What stands for no limit of a band.
const UNLIMITED: i64 = 1 << 40;

/// Every key.
pub(super) const EVERYTHING: AttentionBand = AttentionBand { first: -UNLIMITED, last: UNLIMITED };

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
    pub(crate) bands: Vec<Band>,
    /// `[B]`
    pub(crate) key_lengths: Option<View<'a, i32>>,
    /// `[B, Sq]` and `[B, Sk]`
    pub(crate) segments: Option<(View<'a, i32>, View<'a, i32>)>,
    /// `[B, Hq, Sq, Sk]`
    pub(crate) visible: Option<(View<'a, u8>, Polarity)>,
}

impl Masking<'_> {
    /// The mask as kernels take it, and the memory that it points to. Enqueues the kernels that fill it.
    pub(super) fn prepare(&self, op: &'static str, device: &Device) -> Result<(AttentionMask, Vec<Tensor<i32>>)> {
        let mut memory = Vec::new();
        let visible = match &self.visible {
            None => NO_BITS,
            Some((bytes, polarity)) => bits(op, device, bytes, *polarity, &mut memory)?,
        };
        let mut segments = |view: Option<&View<i32>>| match view {
            None => Ok(NO_SEGMENTS),
            Some(view) => segments(op, device, view, &mut memory),
        };
        let lengths = self.key_lengths.as_ref();
        let mask = AttentionMask {
            top_left: bands(&self.bands, Align::TopLeft),
            bottom_right: bands(&self.bands, Align::BottomRight),
            key_lengths: lengths.map_or(ptr::null(), |lengths| lengths.address() as *const i32),
            key_lengths_stride: lengths.map_or(0, |lengths| lengths.layout().strides()[0]),
            query_segments: segments(self.segments.as_ref().map(|(of_q, _)| of_q))?,
            key_segments: segments(self.segments.as_ref().map(|(_, of_k)| of_k))?,
            visible,
            first_key: 0,
            reserved: 0,
        };
        Ok((mask, memory))
    }

    /// What [`Masking::prepare`] enqueues.
    pub(crate) fn launches(&self) -> Vec<Launch> {
        let of_bytes = self.visible.iter().filter_map(|(bytes, _)| Some(Packing::of(bytes)?.launch()));
        let both = self.segments.iter().flat_map(|(of_q, of_k)| [of_q, of_k]);
        of_bytes.chain(both.filter_map(|view| Some(spans(view)?.2))).collect()
    }

    /// Bytes of the memory that it takes.
    pub(crate) fn workspace(&self) -> u64 {
        let of_bytes = self.visible.iter().filter_map(|(bytes, _)| Packing::of(bytes)).map(|packing| {
            let [batch, heads, queries, _] = packing.own;
            batch * heads * (queries * packing.row + packing.cell_rows * packing.cell_row)
        });
        let both = self.segments.iter().flat_map(|(of_q, of_k)| [of_q, of_k]);
        let of_segments = both.filter_map(spans).map(|(batch, cells, _)| batch * cells * 2);
        4 * of_bytes.chain(of_segments).sum::<usize>() as u64
    }

    /// The keys that any of so many queries sees by the bands.
    pub(super) fn keys(&self, queries: u64, keys: u64) -> Range<u64> {
        let (queries, keys) = (i128::from(queries), i128::from(keys));
        let lower = |limit: i64| i128::from(limit) + keys - queries;
        let (top_left, bottom_right) = (bands(&self.bands, Align::TopLeft), bands(&self.bands, Align::BottomRight));
        let first = i128::from(top_left.first).max(lower(bottom_right.first));
        let last = i128::from(top_left.last).min(lower(bottom_right.last));
        let end = (last + queries).clamp(0, keys);
        first.clamp(0, end) as u64..end as u64
    }
}

/// What is packed of the bytes of a mask `[B, Hq, Sq, Sk]`: once where they repeat.
struct Packing {
    /// Batch entries, heads, queries and keys.
    own: [usize; 4],
    cell_rows: usize,
    /// Words of a row of bits, and of a row of cells.
    row: usize,
    cell_row: usize,
}

impl Packing {
    /// `None` without any byte.
    fn of(bytes: &View<u8>) -> Option<Self> {
        let (dims, strides) = (bytes.dims(), bytes.layout().strides());
        let own = |dim: usize| if strides[dim] == 0 { 1 } else { dims[dim] };
        let own = [own(0), own(1), own(2), dims[3]];
        let [.., queries, keys] = own;
        // Rows of whole vectors of 16 bytes; two words for 32 cells.
        let (row, cell_row) = (keys.div_ceil(128) * 4, keys.div_ceil(32 * ATTENTION_CELL_KEYS.0 as usize) * 2);
        let cell_rows = queries.div_ceil(ATTENTION_CELL_QUERIES.0 as usize);
        (!bytes.shape().is_empty()).then_some(Self { own, cell_rows, row, cell_row })
    }

    fn launch(&self) -> Launch {
        let items = self.own[0] as u64 * self.own[1] as u64 * self.cell_rows as u64 * (self.cell_row as u64 / 2);
        Launch { id: KernelId::AttentionMaskBits, shape: shape(items) }
    }
}

/// A warp per item.
fn shape(items: u64) -> LaunchShape {
    let (blocks, threads) = plan::warps(items);
    LaunchShape { grid: [blocks, 1, 1], block: [threads, 1, 1], shared: 0 }
}

/// Packs the bytes of a mask.
fn bits(
    op: &'static str,
    device: &Device,
    bytes: &View<u8>,
    polarity: Polarity,
    memory: &mut Vec<Tensor<i32>>,
) -> Result<AttentionBits> {
    let (dims, strides) = (bytes.dims(), bytes.layout().strides());
    // A mask without any byte hides all that is longer.
    let Some(packing) = Packing::of(bytes) else {
        return Ok(AttentionBits { bits: ptr::dangling(), ..NO_BITS });
    };
    let Packing { own: [batch, heads, queries, keys], cell_rows, row, cell_row } = packing;
    let mut words = |rows: usize, row: usize| -> Result<*const u32> {
        let mut words = Tensor::<i32>::unfilled(op, device, Shape::new(op, &[batch * heads, rows, row])?)?;
        let address = words.view_mut().address(op, "the packed mask")?;
        memory.push(words);
        Ok(address as *const u32)
    };
    let stride = |dim: usize, stride: usize| if strides[dim] == 0 { 0 } else { stride as u64 };
    let out = AttentionBits {
        bits: words(queries, row)?,
        bits_batch: stride(0, heads * queries * row),
        bits_head: stride(1, queries * row),
        bits_query: stride(2, row),
        cells: words(cell_rows, cell_row)?,
        cells_batch: stride(0, heads * cell_rows * cell_row),
        cells_head: stride(1, cell_rows * cell_row),
        cells_row: stride(2, cell_row),
        queries: dims[2] as u32,
        keys: keys as u32,
    };
    let aligned = |dim: usize| dims[dim] == 1 || strides[dim].is_multiple_of(16);
    let vectors = strides[3] == 1 && bytes.address().is_multiple_of(16) && [0, 1, 2].into_iter().all(aligned);
    let params = AttentionMaskBitsParams {
        bytes: pairs(bytes),
        hide: u32::from(polarity == Polarity::Hide),
        vectors: u32::from(vectors),
        batch: batch as u32,
        heads: heads as u32,
        queries: queries as u32,
        keys: keys as u32,
        out,
    };
    let Launch { id, shape } = packing.launch();
    // SAFETY: `bytes` is a borrowed view on this device, and the parameters repeat its dims and strides; `memory` has a row of bits for
    // every row of it that does not repeat, a row of cells for 32 of them, and its owner keeps it until its readers are in the queue.
    unsafe { launch(device, id, &shape, &params) }?;
    Ok(out)
}

/// How many batch entries of segments `[B, S]` there are to look at, how many cells each has, and the launch that does it. `None` without
/// any segment.
fn spans(view: &View<i32>) -> Option<(usize, usize, Launch)> {
    let (dims, strides) = (view.dims(), view.layout().strides());
    let batch = if strides[0] == 0 { 1 } else { dims[0] };
    let cells = dims[1].div_ceil(ATTENTION_CELL_KEYS.0 as usize);
    let shape = shape(batch as u64 * dims[1].div_ceil(32) as u64);
    (!view.shape().is_empty()).then_some((batch, cells, Launch { id: KernelId::AttentionMaskSpans, shape }))
}

/// The segments of positions `[B, S]`, and the spans of cells of them.
fn segments(
    op: &'static str,
    device: &Device,
    view: &View<i32>,
    memory: &mut Vec<Tensor<i32>>,
) -> Result<AttentionSegments> {
    let (dims, strides) = (view.dims(), view.layout().strides());
    let Some((batch, cells, Launch { id, shape })) = spans(view) else {
        return Ok(AttentionSegments { data: ptr::dangling(), ..NO_SEGMENTS });
    };
    let mut spans = Tensor::<i32>::unfilled(op, device, Shape::new(op, &[batch, cells, 2])?)?;
    let segments = AttentionSegments {
        data: view.address() as *const i32,
        batch: strides[0],
        position: strides[1],
        spans: spans.view_mut().address(op, "the spans of segments")? as *const AttentionSpan,
        spans_batch: if strides[0] == 0 { 0 } else { cells as u64 },
        positions: dims[1] as u32,
        reserved: 0,
    };
    memory.push(spans);
    let params = AttentionMaskSpansParams { segments, batch: batch as u32, reserved: 0 };
    // SAFETY: `view` is a borrowed view on this device, and the parameters repeat its dims and strides; `memory` has a span for every
    // cell of each batch entry that does not repeat, and its owner keeps it until its readers are in the queue.
    unsafe { launch(device, id, &shape, &params) }?;
    Ok(segments)
}

const _: () = {
    let cell = plan::CELL;
    assert!(ATTENTION_CELL_QUERIES.0 as u64 == cell[0] && ATTENTION_CELL_KEYS.0 as u64 == cell[1]);
};

const NO_BITS: AttentionBits = AttentionBits {
    bits: ptr::null(),
    bits_batch: 0,
    bits_head: 0,
    bits_query: 0,
    cells: ptr::null(),
    cells_batch: 0,
    cells_head: 0,
    cells_row: 0,
    queries: 0,
    keys: 0,
};
const NO_SEGMENTS: AttentionSegments = AttentionSegments {
    data: ptr::null(),
    batch: 0,
    position: 0,
    spans: ptr::null(),
    spans_batch: 0,
    positions: 0,
    reserved: 0,
};
