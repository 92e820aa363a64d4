//! Borrowed memory: a range of bytes of one device, for reading or for writing.

use crate::device::{CudaMemory, Device, Stream};
use crate::dtype::Element;
use crate::error::{DeviceName, Error, Result};
use cudarc::driver::sys::CUdeviceptr;
use std::ops::Range;
use std::sync::Arc;
use std::{ptr, slice};

/// Host memory through which uploads go, in bytes.
///
/// The driver may still read the source of a copy after an error. A caller's slice cannot be kept from being freed then;
/// our own staging memory can (see [`Stream::settle`]).
const STAGING: usize = 16 << 20;

/// Why memory that is not on the host has a stream.
const NOT_ON_HOST: &str = "a device is the host, or a stream of a GPU";

/// Bytes of one device, for reading.
#[derive(Clone, Copy)]
pub(crate) struct Span<'a> {
    device: &'a Device,
    start: *mut u8,
    bytes: usize,
    /// The allocation, if it is this crate's and on a GPU.
    memory: Option<&'a Arc<CudaMemory>>,
}

// SAFETY: a span is a shared borrow of memory of plain elements, like `&[u8]`.
unsafe impl Send for Span<'_> {}
// SAFETY: as above.
unsafe impl Sync for Span<'_> {}

impl<'a> Span<'a> {
    /// `start` is valid for `bytes` bytes on `device` for `'a`. Only [`super::Buffer`] and [`Span::foreign`] call this.
    pub(super) fn of(device: &'a Device, start: *mut u8, bytes: usize, memory: Option<&'a Arc<CudaMemory>>) -> Self {
        Self { device, start, bytes, memory }
    }

    /// Memory that this crate did not allocate.
    ///
    /// # Safety
    /// For `'a`, and until work that is enqueued on `device` meanwhile is done, `start` must be valid for reading `bytes`
    /// initialised bytes on `device`, aligned for the elements it is used as, and not be written. Work that is captured is
    /// done when its graph is dropped and the last launch of it is done.
    pub(crate) unsafe fn foreign(device: &'a Device, start: *mut u8, bytes: usize) -> Self {
        Self { device, start, bytes, memory: None }
    }

    pub(crate) fn device(&self) -> &'a Device {
        self.device
    }

    /// The bytes `range` of this span.
    pub(crate) fn part(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.bytes, "a view lies in its memory");
        Self { start: self.start.wrapping_add(range.start), bytes: range.len(), ..*self }
    }

    /// The addresses covered.
    pub(crate) fn addresses(&self) -> Range<u64> {
        let start = self.start.addr() as u64;
        start..start + self.bytes as u64
    }

    /// The address of the first byte, for a kernel that is enqueued next and reads, or for another library.
    pub(crate) fn address(&self) -> CUdeviceptr {
        if let (Some(memory), Some(stream)) = (self.memory, self.device.stream()) {
            stream.note(memory, false);
        }
        self.start.expose_provenance() as CUdeviceptr
    }

    /// The elements, if they are on the host.
    pub(crate) fn on_host<T: Element>(&self) -> Option<&'a [T]> {
        if !self.device.is_cpu() {
            return None;
        }
        let len = self.bytes / size_of::<T>();
        if len == 0 {
            return Some(&[]);
        }
        debug_assert!(self.start.cast::<T>().is_aligned());
        // SAFETY: `of` and `foreign` promise bytes that are valid, initialised and unwritten for 'a; owned memory is
        // aligned to 64 bytes and cut at multiples of the element, foreign memory was checked; every bit pattern is an
        // element.
        Some(unsafe { slice::from_raw_parts(self.start.cast(), len) })
    }

    /// Copies the elements to the host and waits for them. On a GPU also reports what kernels recorded.
    pub(crate) fn read<T: Element>(&self) -> Result<Vec<T>> {
        let len = self.bytes / size_of::<T>();
        let mut elements = Vec::new();
        if elements.try_reserve_exact(len).is_err() {
            return Err(Error::OutOfMemory { device: DeviceName::Cpu, bytes: self.bytes as u64 });
        }
        match self.on_host() {
            Some(here) => elements.extend_from_slice(here),
            None if len == 0 => {}
            None => {
                let stream = self.device.stream().expect(NOT_ON_HOST);
                elements = self.download(stream, elements, len)?;
                stream.recorder().check(stream)?;
            }
        }
        Ok(elements)
    }

    /// Fills `elements`, whose capacity is at least `len`.
    fn download<T: Element>(&self, stream: &Stream, mut elements: Vec<T>, len: usize) -> Result<Vec<T>> {
        let bytes = len * size_of::<T>();
        let _open = stream.hold("a copy to the host")?;
        let to = elements.as_mut_ptr().cast();
        // SAFETY: a context is current; the source holds `bytes` bytes; the vector has room for them and is neither used
        // nor freed before `settle` has waited for the copy.
        let copied = unsafe { stream.enter()?.memcpy_dtoh_async(to, self.address(), bytes, stream.raw()) };
        let mut elements = stream.settle(copied, elements)?;
        // SAFETY: the copy wrote `len` elements, and every bit pattern is an element.
        unsafe { elements.set_len(len) };
        Ok(elements)
    }
}

/// Bytes of one device, for writing.
pub(crate) struct SpanMut<'a> {
    span: Span<'a>,
    /// So many other handles stand in the way.
    others: usize,
}

// SAFETY: a `SpanMut` is an exclusive borrow of memory of plain elements, like `&mut [u8]`.
unsafe impl Send for SpanMut<'_> {}
// SAFETY: through a shared reference it can only be read.
unsafe impl Sync for SpanMut<'_> {}

impl<'a> SpanMut<'a> {
    /// As [`Span::of`], for a buffer that is borrowed mutably and has so many handles besides.
    pub(super) fn of(
        device: &'a Device,
        start: *mut u8,
        bytes: usize,
        memory: Option<&'a Arc<CudaMemory>>,
        others: usize,
    ) -> Self {
        Self { span: Span::of(device, start, bytes, memory), others }
    }

    /// Memory that this crate did not allocate.
    ///
    /// # Safety
    /// As [`Span::foreign`], but valid for writing too, and neither read nor written by anyone else.
    pub(crate) unsafe fn foreign(device: &'a Device, start: *mut u8, bytes: usize) -> Self {
        // SAFETY: the caller promises more than that.
        Self { span: unsafe { Span::foreign(device, start, bytes) }, others: 0 }
    }

    pub(crate) fn device(&self) -> &'a Device {
        self.span.device
    }

    /// The same memory, for reading while this borrow lasts.
    pub(crate) fn as_span(&self) -> Span<'_> {
        self.span
    }

    /// The same memory for a shorter time.
    pub(crate) fn reborrow(&mut self) -> SpanMut<'_> {
        SpanMut { ..*self }
    }

    /// The bytes `range` of this span.
    pub(crate) fn part(self, range: Range<usize>) -> Self {
        Self { span: self.span.part(range), ..self }
    }

    /// Makes the memory ready for work that is enqueued next and writes it.
    fn prepare(&mut self, op: &'static str, output: &'static str) -> Result<()> {
        let others = self.others;
        if others > 0 {
            return Err(Error::Shared { op, output, others });
        }
        if let (Some(memory), Some(stream)) = (self.span.memory, self.span.device.stream()) {
            memory.order_behind_uses(stream)?;
            stream.note(memory, true);
        }
        Ok(())
    }

    /// The address of the first byte, for a kernel that is enqueued next and writes.
    pub(crate) fn address(&mut self, op: &'static str, output: &'static str) -> Result<CUdeviceptr> {
        self.prepare(op, output)?;
        Ok(self.as_span().address())
    }

    /// The elements, if they are on the host.
    pub(crate) fn on_host<T: Element>(&mut self, op: &'static str, output: &'static str) -> Result<Option<&mut [T]>> {
        self.prepare(op, output)?;
        if !self.span.device.is_cpu() {
            return Ok(None);
        }
        let len = self.span.bytes / size_of::<T>();
        if len == 0 {
            return Ok(Some(&mut []));
        }
        debug_assert!(self.span.start.cast::<T>().is_aligned());
        // SAFETY: as for `Span::on_host`; `prepare` refused memory with other handles, and `&mut self` excludes every
        // other borrow of this one.
        Ok(Some(unsafe { slice::from_raw_parts_mut(self.span.start.cast(), len) }))
    }

    /// Overwrites the memory with that of another span of the same device and size.
    pub(crate) fn copy_from<T: Element>(&mut self, op: &'static str, output: &'static str, from: &Span) -> Result<()> {
        assert_eq!(self.span.bytes, from.bytes, "shapes are compared where the tensors are given");
        assert!(self.span.device == from.device, "devices are compared where the tensors are given");
        if let (Some(here), Some(there)) = (self.on_host::<T>(op, output)?, from.on_host()) {
            here.copy_from_slice(there);
            return Ok(());
        }
        if self.span.bytes == 0 {
            return Ok(());
        }
        let (to, stream) = (self.as_span().address(), self.span.device.stream().expect(NOT_ON_HOST));
        // SAFETY: a context is current, and both sides hold `bytes` bytes of this device; `on_host` above let the stream
        // wait for what may still use the destination, and whatever frees either side does so in the order of this stream
        // or behind it.
        unsafe { stream.enter()?.memcpy_dtod_async(to, from.address(), self.span.bytes, stream.raw()) }
    }

    /// Overwrites the memory with `elements`, of which there are exactly as many as fit. The slice is free afterwards.
    pub(crate) fn upload<T: Element>(&mut self, op: &'static str, output: &'static str, elements: &[T]) -> Result<()> {
        assert_eq!(self.span.bytes, size_of_val(elements), "lengths are checked where the elements are given");
        let _open = self.span.device.hold("a copy from the host")?;
        if let Some(here) = self.on_host(op, output)? {
            here.copy_from_slice(elements);
            return Ok(());
        }
        let stream = self.span.device.stream().expect(NOT_ON_HOST);
        // SAFETY: elements have no padding, so each of their bytes is initialised.
        let bytes = unsafe { slice::from_raw_parts(ptr::from_ref(elements).cast::<u8>(), self.span.bytes) };
        let mut to = self.as_span().address();
        let mut staging = Vec::with_capacity(STAGING.min(bytes.len()));
        for chunk in bytes.chunks(STAGING) {
            staging.clear();
            staging.extend_from_slice(chunk);
            // SAFETY: a context is current; the destination has room for all chunks; `staging` is neither changed nor
            // freed before `settle` has waited for the copy.
            let copied =
                unsafe { stream.enter()?.memcpy_htod_async(to, staging.as_ptr().cast(), chunk.len(), stream.raw()) };
            staging = stream.settle(copied, staging)?;
            to += chunk.len() as CUdeviceptr;
        }
        Ok(())
    }
}
