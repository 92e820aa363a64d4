//! Memory of the host.

use crate::error::{DeviceName, Error, Result};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

/// A cache line, and more than any element needs.
const ALIGN: usize = 64;

/// Zeroed, aligned bytes of the host.
pub(super) struct HostMemory {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the bytes are plain memory owned by this value. Who may write them when is decided by `Buffer`.
unsafe impl Send for HostMemory {}
// SAFETY: as above.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    /// `bytes` is above 0.
    pub(super) fn zeroed(bytes: usize) -> Result<Self> {
        let exhausted = Error::OutOfMemory { device: DeviceName::Cpu, bytes: bytes as u64 };
        let Ok(layout) = Layout::from_size_align(bytes, ALIGN) else { return Err(exhausted) };
        debug_assert!(bytes > 0);
        // SAFETY: `layout` has a size above 0, which `Buffer::unfilled` checks.
        match NonNull::new(unsafe { alloc_zeroed(layout) }) {
            Some(start) => Ok(Self { start, layout }),
            None => Err(exhausted),
        }
    }

    pub(super) fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with this layout, and freed only here.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}
