//! Buffers: memory of one device, freed only after everything that uses it.
//!
//! A buffer is one handle on an allocation. [`Buffer::share`] makes another handle for another stream of the same GPU;
//! an allocation may be written only while it has a single handle. Four rules make this safe without tracking single
//! reads and writes:
//! - a new handle's stream first waits for what the old handle's stream was asked to do so far;
//! - a handle that is dropped while other streams have one leaves an event behind; whoever writes or frees the allocation
//!   lets its stream wait for all of them;
//! - the last handle frees in the order of its stream;
//! - a graph has a handle on all that it uses. It stands in the way of writers on other streams only, and its launches are
//!   writers themselves: they are refused while other streams have a handle on what they write.
//!
//! Where such an event cannot be made or awaited, the allocation is never written or freed again: it leaks.

mod host;
mod span;

pub(crate) use span::{Span, SpanMut};

use crate::device::{CudaMemory, Device, Holder};
use crate::dtype::Element;
use crate::error::Result;
use host::HostMemory;
use std::sync::Arc;

/// A handle on memory of one device.
pub(crate) struct Buffer {
    device: Device,
    bytes: usize,
    memory: Memory,
}

enum Memory {
    /// Nothing was allocated: no driver ever sees an empty buffer.
    Empty,
    Host(Arc<HostMemory>),
    Cuda(Arc<CudaMemory>),
}

impl Buffer {
    /// Memory that an operation will fill: whatever bytes it holds on a GPU, zeros on the host.
    pub(crate) fn unfilled(device: &Device, bytes: usize) -> Result<Self> {
        let memory = match device.stream() {
            _ if bytes == 0 => Memory::Empty,
            None => Memory::Host(Arc::new(HostMemory::zeroed(bytes)?)),
            Some(stream) => Memory::Cuda(CudaMemory::new(stream, bytes)?),
        };
        Ok(Self { device: device.clone(), bytes, memory })
    }

    /// Memory of zeros.
    pub(crate) fn zeroed(device: &Device, bytes: usize) -> Result<Self> {
        let buffer = Self::unfilled(device, bytes)?;
        if let (Memory::Cuda(memory), Some(stream)) = (&buffer.memory, device.stream()) {
            memory.clear(stream)?;
        }
        Ok(buffer)
    }

    /// A copy of host elements. The slice is free when the call returns.
    pub(crate) fn of_slice<T: Element>(device: &Device, elements: &[T]) -> Result<Self> {
        let _open = device.hold("a copy from the host")?;
        let mut buffer = Self::unfilled(device, size_of_val(elements))?;
        buffer.span_mut().upload("Tensor::from_slice", "the tensor", elements)?;
        Ok(buffer)
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// The memory, for reading.
    pub(crate) fn span(&self) -> Span<'_> {
        let memory = match &self.memory {
            Memory::Cuda(memory) => Some(memory),
            Memory::Empty | Memory::Host(_) => None,
        };
        Span::of(&self.device, self.start(), self.bytes, memory)
    }

    /// The memory, for writing; refused where it is used if the allocation has other handles.
    pub(crate) fn span_mut(&mut self) -> SpanMut<'_> {
        let start = self.start();
        let (memory, others) = match (&mut self.memory, self.device.stream()) {
            (Memory::Cuda(memory), Some(stream)) => {
                let others = memory.others(stream);
                (Some(&*memory), others)
            }
            // `get_mut` also makes what dropped handles did to the allocation visible here. Another thread may be dropping
            // its handle meanwhile.
            (Memory::Host(memory), _) => match Arc::get_mut(memory).is_some() {
                true => (None, 0),
                false => (None, Arc::strong_count(memory).saturating_sub(1).max(1)),
            },
            _ => (None, 0),
        };
        SpanMut::of(&self.device, start, self.bytes, memory, others)
    }

    fn start(&self) -> *mut u8 {
        match &self.memory {
            Memory::Empty => std::ptr::null_mut(),
            Memory::Host(memory) => memory.start(),
            Memory::Cuda(memory) => memory.start(),
        }
    }

    /// The same contents on another device: the same allocation if that is another stream of the same GPU, a copy if not.
    pub(crate) fn share(&self, device: &Device) -> Result<Self> {
        let memory = match (&self.memory, self.device.stream(), device.stream()) {
            (Memory::Empty, ..) => Memory::Empty,
            (Memory::Host(memory), _, None) => Memory::Host(Arc::clone(memory)),
            (Memory::Cuda(memory), Some(from), Some(to)) if from.context().ordinal() == to.context().ordinal() => {
                memory.share(from, to)?;
                Memory::Cuda(Arc::clone(memory))
            }
            (Memory::Cuda(memory), Some(from), Some(to)) => Memory::Cuda(memory.copy_to(from, to)?),
            (_, _, _) => return Self::of_slice(device, &self.span().read::<u8>()?),
        };
        Ok(Self { device: device.clone(), bytes: self.bytes, memory })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Memory::Cuda(memory) = std::mem::replace(&mut self.memory, Memory::Empty) else { return };
        if let Some(stream) = self.device.stream() {
            memory.release(stream, Holder::Tensor(stream.number()));
        }
    }
}
