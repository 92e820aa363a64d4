//! Device memory of a stream: allocated and freed in stream order where the GPU has memory pools.

use super::driver::is_out_of_memory;
use super::stream::Stream;
use crate::error::{Error, Result};
use cudarc::driver::sys::CUdeviceptr;

impl Stream {
    /// Allocates device memory that work enqueued on this stream from now on may use. `bytes` is above 0.
    ///
    /// While a graph is captured, the memory holds zeros and is ready when the call returns: an allocation within the graph
    /// would be gone between two launches.
    pub(crate) fn alloc(&self, bytes: usize) -> Result<CUdeviceptr> {
        debug_assert!(bytes > 0, "allocations of nothing stay off the driver");
        if self.captures_here() {
            return self.alloc_beside(bytes);
        }
        let entered = self.enter()?;
        let mut address: CUdeviceptr = 0;
        let allocated = if self.context().has_pools() {
            // SAFETY: a context is current, `address` is writable, the stream is alive.
            unsafe { entered.mem_alloc_async(&mut address, bytes, self.raw()) }
        } else {
            // SAFETY: as above.
            unsafe { entered.mem_alloc(&mut address, bytes) }
        };
        match allocated {
            Ok(()) => Ok(address),
            Err(error) if is_out_of_memory(&error) => {
                Err(Error::OutOfMemory { device: self.name(), bytes: bytes as u64 })
            }
            Err(error) => Err(error),
        }
    }

    /// Allocates through another stream.
    fn alloc_beside(&self, bytes: usize) -> Result<CUdeviceptr> {
        let side = Self::new(self.context())?;
        let named = |error| match error {
            Error::OutOfMemory { bytes, .. } => Error::OutOfMemory { device: self.name(), bytes },
            error => error,
        };
        let address = side.alloc(bytes).map_err(named)?;
        // SAFETY: a context is current, and the allocation has this size.
        let cleared =
            side.enter().and_then(|entered| unsafe { entered.memset_d8_async(address, 0, bytes, side.raw()) });
        match cleared.and_then(|()| side.synchronize()) {
            Ok(()) => Ok(address),
            Err(error) => {
                side.free(address);
                Err(error)
            }
        }
    }

    /// Gives memory back behind everything that this stream was asked to do so far. All other uses must be ordered
    /// before that.
    ///
    /// Never panics and reports nothing: it runs in `Drop`. Memory that cannot be freed safely is leaked.
    pub(crate) fn free(&self, address: CUdeviceptr) {
        let Ok(entered) = self.enter() else { return };
        if self.context().has_pools() {
            // SAFETY: `address` came from `alloc` of the same context, is freed once, and the free takes its place in
            // the stream behind every use.
            let _ = unsafe { entered.mem_free_async(address, self.raw()) };
        } else if self.synchronize().is_ok() {
            // SAFETY: as above, and nothing enqueued is left that could use the memory.
            let _ = unsafe { entered.mem_free(address) };
        }
    }
}
