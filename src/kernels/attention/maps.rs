//! Operands as tensor maps describe them: copies of tiles start at multiples of 16 bytes. Rows that lie otherwise are packed first.

use super::{Launch, four, matrix, matrix_of};
use crate::device::Device;
use crate::dtype::{DType, Element};
use crate::error::Result;
use crate::kernels::params::{AttentionMap, AttentionMatrix, AttentionPackParams};
use crate::kernels::{KernelId, LaunchShape, launch};
use crate::plan::attention as plan;
use crate::shape::Shape;
use crate::tensor::{Tensor, View};
use std::ffi::c_void;
use std::ptr;

/// Columns of a box: 128 bytes, within which chunks change places.
const BOX_COLUMNS: u32 = 64;
/// `CU_TENSOR_MAP_DATA_TYPE_FLOAT16` and `CU_TENSOR_MAP_DATA_TYPE_BFLOAT16`.
const FLOAT16: u32 = 6;
const BFLOAT16: u32 = 9;
/// `CU_TENSOR_MAP_SWIZZLE_128B`.
const SWIZZLE_128B: u32 = 3;
/// `CU_TENSOR_MAP_L2_PROMOTION_L2_256B`.
const PROMOTION_256B: u32 = 3;
/// Strides of a map are less than so many bytes.
const MAX_STRIDE: u64 = 1 << 40;

/// Batch entries, heads and rows of which a map holds one each if they repeat.
fn distinct<T: Element>(view: &View<T>) -> [u64; 3] {
    let (lengths, strides) = (four(view.dims()), view.layout().strides());
    std::array::from_fn(|dim| if strides[dim] == 0 && dim < 2 { 1 } else { u64::from(lengths[dim]) })
}

/// Whether a map can describe an operand as it lies.
fn fits<T: Element>(view: &View<T>) -> bool {
    let (own, strides) = (matrix_of(view), view.layout().strides());
    let short = |stride: u64| stride.checked_mul(size_of::<T>() as u64).is_some_and(|bytes| bytes < MAX_STRIDE);
    own.vectors == 1 && (own.row != 0 || view.dims()[2] == 1) && strides[..3].iter().all(|stride| short(*stride))
}

/// An operand that is packed: batch entries, heads and rows, and elements of a row with and without padding.
#[derive(Clone, Copy)]
pub(crate) struct Packing {
    lengths: [u64; 3],
    length: u64,
    padded: u64,
}

impl Packing {
    /// What has to be packed of an operand, if it has elements.
    pub(super) fn of<T: Element>(view: &View<T>) -> Option<Self> {
        let packing = Self::new(distinct(view), view.dims()[3] as u64);
        (!fits(view) && !packing.lengths.contains(&0)).then_some(packing)
    }

    /// The same of an operand of these lengths that is contiguous.
    pub(super) fn of_contiguous(lengths: [u64; 4]) -> Option<Self> {
        let [lengths @ .., length] = lengths;
        (!length.is_multiple_of(8) && !lengths.contains(&0)).then(|| Self::new(lengths, length))
    }

    fn new(lengths: [u64; 3], length: u64) -> Self {
        Self { lengths, length, padded: length.next_multiple_of(8) }
    }

    fn rows(&self) -> u64 {
        self.lengths.iter().product()
    }

    /// Bytes of the packed operand.
    pub(crate) fn bytes(&self) -> u64 {
        self.rows() * self.padded * 2
    }

    pub(crate) fn launch(&self) -> Launch {
        let (blocks, threads) = plan::pack(self.rows() * self.padded / 8);
        let shape = LaunchShape { grid: [blocks, 1, 1], block: [threads, 1, 1], shared: 0 };
        Launch { id: KernelId::AttentionPack, shape }
    }

    /// Enqueues the kernel that packs.
    pub(super) fn run<T: Element>(
        &self,
        op: &'static str,
        view: &View<T>,
        from: &AttentionMatrix,
    ) -> Result<(Tensor<T>, AttentionMatrix)> {
        let [batch, heads, rows] = self.lengths;
        let shape = Shape::new(op, &[batch as usize, heads as usize, rows as usize, self.padded as usize])?;
        let mut packed = Tensor::unfilled(op, view.device(), shape)?;
        let to = packed.view_mut().address(op, "the workspace")?;
        let params = AttentionPackParams {
            from: *from,
            to: to as *mut c_void,
            batch: batch as u32,
            heads: heads as u32,
            rows: rows as u32,
            length: self.length as u32,
        };
        let Launch { id, shape } = self.launch();
        // SAFETY: the view is borrowed and `from` repeats its address and strides; the lengths are its own, or 1 where it repeats. The
        // workspace has room for as many rows of `padded` elements.
        unsafe { launch(view.device(), id, &shape, &params) }?;
        // What repeats goes on repeating.
        let steps = [(from.batch, heads * rows * self.padded), (from.head, rows * self.padded)];
        let [batch, head] = steps.map(|(old, new)| if old == 0 { 0 } else { new });
        let lengths = self.lengths.map(|length| length as usize);
        Ok((packed, matrix::<T>(to, &lengths, &[batch, head, self.padded])))
    }
}

/// The map of a matrix per batch entry and head, with rows of `length` elements, in boxes of so many rows.
pub(super) fn map(
    device: &Device,
    dtype: DType,
    of: &AttentionMatrix,
    [batch, heads, rows, length]: [u32; 4],
    box_rows: u32,
) -> Result<AttentionMap> {
    let mut map = AttentionMap { words: [0; 16] };
    // Without rows nothing is copied.
    let Some(stream) = device.stream().filter(|_| rows > 0) else { return Ok(map) };
    let one = |length: u32, stride: u64| if stride == 0 { 1 } else { u64::from(length) };
    let lengths = [u64::from(length), u64::from(rows), one(heads, of.head), one(batch, of.batch)];
    // Those of dims with one entry count for nothing.
    let bytes = |length: u64, stride: u64| if length == 1 { 16 } else { stride * dtype.size() as u64 };
    let strides = [bytes(lengths[1], of.row), bytes(lengths[2], of.head), bytes(lengths[3], of.batch)];
    let (boxes, steps) = ([BOX_COLUMNS, box_rows, 1, 1], [1; 4]);
    let kind = if dtype == DType::F16 { FLOAT16 } else { BFLOAT16 };
    // SAFETY: a context is current; the map is writable and aligned, and the arrays have as many entries as dims (strides one less). What
    // the map describes is looked at by those who launch kernels with it.
    unsafe {
        stream.enter()?.tensor_map_encode_tiled(
            ptr::from_mut(&mut map).cast(),
            kind,
            4,
            of.data.cast_mut(),
            lengths.as_ptr(),
            strides.as_ptr(),
            boxes.as_ptr(),
            steps.as_ptr(),
            0,
            SWIZZLE_128B,
            PROMOTION_256B,
            0,
        )
    }?;
    Ok(map)
}
