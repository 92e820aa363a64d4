//! Memory of a GPU, and the events that its streams leave behind.

use crate::device::{Event, Stream};
use crate::error::{Error, Result};
use cudarc::driver::sys::CUdeviceptr;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Above this number of events left behind, those already reached are dropped.
const MANY_EVENTS: usize = 8;

/// An allocation of a GPU. Given back by [`CudaMemory::free`]; dropped without it, it leaks.
pub(super) struct CudaMemory {
    address: CUdeviceptr,
    bytes: usize,
    uses: Mutex<Uses>,
}

/// Uses by streams whose handle on the allocation is gone.
#[derive(Default)]
struct Uses {
    events: Vec<Event>,
    /// Why a use could not be marked: from then on nothing is known to be behind it.
    lost: Option<Error>,
}

impl CudaMemory {
    /// `bytes` is above 0.
    pub(super) fn new(stream: &Stream, bytes: usize) -> Result<Self> {
        Ok(Self { address: stream.alloc(bytes)?, bytes, uses: Mutex::default() })
    }

    /// The address as a pointer, which the host must not follow.
    pub(super) fn start(&self) -> *mut u8 {
        ptr::without_provenance_mut(self.address as usize)
    }

    fn uses(&self) -> MutexGuard<'_, Uses> {
        // Every change under the lock is one push or one assignment.
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills the allocation with zeros.
    pub(super) fn clear(&self, stream: &Stream) -> Result<()> {
        // SAFETY: a context is current, and the allocation has this size.
        unsafe { stream.enter()?.memset_d8_async(self.address, 0, self.bytes, stream.raw()) }
    }

    /// A copy on another GPU, ordered behind `from` and before what `to` is asked to do next.
    pub(super) fn copy_to(&self, from: &Stream, to: &Stream) -> Result<Self> {
        to.wait(&from.record()?)?;
        let copy = Self::new(to, self.bytes)?;
        let (from_context, to_context) = (from.context().raw(), to.context().raw());
        let copied = to.enter().and_then(|entered| {
            // SAFETY: both allocations have this size and belong to these contexts; `leave_event` below keeps the source
            // from being freed or written before the copy is done, and `copy` is freed in the order of `to`.
            unsafe {
                entered.memcpy_peer_async(copy.address, to_context, self.address, from_context, self.bytes, to.raw())
            }
        });
        self.leave_event(to);
        match copied {
            Ok(()) => Ok(copy),
            Err(error) => {
                copy.free(to);
                Err(error)
            }
        }
    }

    /// Marks that `stream` may use the allocation until what it was asked so far is done.
    pub(super) fn leave_event(&self, stream: &Stream) {
        // Without an event, waiting right now has the same effect.
        let event = stream.record().map(Some).or_else(|error| stream.synchronize().map(|()| None).map_err(|_| error));
        let mut uses = self.uses();
        match event {
            Ok(event) => {
                if uses.events.len() >= MANY_EVENTS {
                    uses.events.retain(|event| !event.is_reached());
                }
                uses.events.extend(event);
            }
            Err(error) => uses.lost = Some(error),
        }
    }

    /// Lets what `stream` is asked next run behind every use that was left behind.
    pub(super) fn order_behind_uses(&self, stream: &Stream) -> Result<()> {
        let mut uses = self.uses();
        if let Some(error) = &uses.lost {
            return Err(error.clone());
        }
        while let Some(event) = uses.events.last() {
            stream.wait(event)?;
            uses.events.pop();
        }
        Ok(())
    }

    /// Gives the allocation back behind every use of it. Called from `Drop`: leaks rather than fails.
    pub(super) fn free(self, stream: &Stream) {
        if self.order_behind_uses(stream).is_ok() {
            stream.free(self.address);
        }
    }
}
