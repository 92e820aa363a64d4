//! Memory that other libraries allocated: raw pointers in, raw pointers out; DLPack; and files of tensors.

pub mod dlpack;
#[cfg(feature = "safetensors")]
pub mod safetensors;

use crate::device::Device;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::memory::{Span, SpanMut};
use crate::shape::{Layout, MAX_BYTES, Shape};
use crate::tensor::{View, ViewMut};

/// A view, for reading, of memory that this crate did not allocate.
///
/// `address` is that of the element with index 0: a device address for a GPU, a pointer for the host. `strides` are in
/// elements; those of dims of length 1 are ignored. `available` is the number of elements that the memory holds from
/// `address` on; strides that reach further are refused. No element is touched here.
///
/// # Safety
/// For `'a`, and afterwards until the work that was enqueued meanwhile on `device` with this view is done: the memory
/// must hold `available` elements from `address` on, initialised (on a GPU: by work ordered before), accessible to
/// `device`, and not be written or freed. Work that a [`Graph`](crate::Graph) captures is done when the graph is dropped
/// and its last launch is done.
///
/// # Errors
/// [`Error::Misaligned`], [`Error::StrideCount`], [`Error::NegativeStride`], [`Error::OutOfBounds`], [`Error::Rank`],
/// [`Error::TooLarge`].
pub unsafe fn view_from_raw<'a, T: Element>(
    device: &'a Device,
    address: u64,
    available: u64,
    dims: &[usize],
    strides: &[i64],
) -> Result<View<'a, T>> {
    let (start, bytes, layout) = check::<T>("view_from_raw", address, available, dims, strides)?;
    // SAFETY: the caller vouches for the memory; `check` proved that its start is aligned and its size possible.
    Ok(View::from_parts(unsafe { Span::foreign(device, start, bytes) }, layout))
}

/// A view, for writing, of memory that this crate did not allocate. See [`view_from_raw`].
///
/// # Safety
/// As [`view_from_raw`], but the memory must be valid for writing, and nobody else may read or write it. It need not be
/// initialised on a GPU; on the host it must be.
///
/// # Errors
/// As [`view_from_raw`].
pub unsafe fn view_mut_from_raw<'a, T: Element>(
    device: &'a Device,
    address: u64,
    available: u64,
    dims: &[usize],
    strides: &[i64],
) -> Result<ViewMut<'a, T>> {
    let (start, bytes, layout) = check::<T>("view_mut_from_raw", address, available, dims, strides)?;
    // SAFETY: as above.
    Ok(ViewMut::from_parts(unsafe { SpanMut::foreign(device, start, bytes) }, layout))
}

/// The address of the element with index 0, for work enqueued by other libraries on the view's stream. Null-sized views
/// give an address that must not be used.
pub fn raw_address<T: Element>(view: &View<'_, T>) -> u64 {
    view.address()
}

/// The address of the element with index 0, for work that other libraries enqueue next on the view's stream and that
/// writes.
///
/// # Errors
/// [`Error::Shared`] if a tensor on another stream holds the memory too; [`Error::Driver`].
pub fn raw_address_mut<T: Element>(view: &mut ViewMut<'_, T>) -> Result<u64> {
    view.address("raw_address_mut", "the view")
}

fn check<T: Element>(
    op: &'static str,
    address: u64,
    available: u64,
    dims: &[usize],
    strides: &[i64],
) -> Result<(*mut u8, usize, Layout)> {
    let shape = Shape::new(op, dims)?;
    let layout = Layout::strided(op, shape, strides, available)?;
    let (dtype, align) = (T::DTYPE.name(), T::DTYPE.size());
    let too_large = Error::TooLarge { op, shape: dims.to_vec(), dtype, max: MAX_BYTES };
    let bytes = layout.span().checked_mul(align as u64).filter(|&bytes| bytes <= MAX_BYTES);
    let bytes = bytes.filter(|&bytes| address.checked_add(bytes).is_some()).ok_or(too_large)?;
    if bytes > 0 && (!address.is_multiple_of(align as u64) || address == 0) {
        return Err(Error::Misaligned { op, address, align, dtype });
    }
    // The pointer may come from any allocation of the process: its provenance was exposed by whoever made it an integer.
    Ok((std::ptr::with_exposed_provenance_mut(address as usize), bytes as usize, layout))
}
