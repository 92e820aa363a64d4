//! Memory of a GPU: who holds it, and what has to come before it is written or given back.

use super::stream::{Event, Stream};
use crate::error::{Error, Result};
use cudarc::driver::sys::CUdeviceptr;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Above this number of events left behind, those already reached are dropped.
const MANY_EVENTS: usize = 8;

/// An allocation of a GPU. Given back when its last holder calls [`CudaMemory::release`]; dropped without that, it leaks.
pub(crate) struct CudaMemory {
    address: CUdeviceptr,
    bytes: usize,
    uses: Mutex<Uses>,
}

/// Who may enqueue work on an allocation: a tensor, or a graph at each of its launches; each on one stream, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    Tensor(u64),
    Graph(u64),
}

impl Holder {
    fn stream(self) -> u64 {
        match self {
            Self::Tensor(stream) | Self::Graph(stream) => stream,
        }
    }
}

#[derive(Default)]
struct Uses {
    holders: Vec<Holder>,
    /// Left behind by streams that hold the allocation no more.
    events: Vec<Event>,
    /// Why a use could not be marked: from then on nothing is known to be behind it.
    lost: Option<Error>,
}

/// An allocation that nobody else may start to use while this exists.
pub(super) struct Claim<'a>(#[expect(dead_code, reason = "held, never read")] MutexGuard<'a, Uses>);

impl CudaMemory {
    /// An allocation that a tensor on `stream` holds. `bytes` is above 0.
    pub(crate) fn new(stream: &Stream, bytes: usize) -> Result<Arc<Self>> {
        let address = stream.alloc(bytes)?;
        let uses = Uses { holders: vec![Holder::Tensor(stream.number())], ..Uses::default() };
        Ok(Arc::new(Self { address, bytes, uses: Mutex::new(uses) }))
    }

    /// The address as a pointer, which the host must not follow.
    pub(crate) fn start(&self) -> *mut u8 {
        ptr::without_provenance_mut(self.address as usize)
    }

    pub(super) fn address(&self) -> CUdeviceptr {
        self.address
    }

    fn uses(&self) -> MutexGuard<'_, Uses> {
        // Every change under the lock is one push, one removal or one assignment.
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills the allocation with zeros.
    pub(crate) fn clear(self: &Arc<Self>, stream: &Stream) -> Result<()> {
        stream.note(self, true);
        // SAFETY: a context is current, and the allocation has this size.
        unsafe { stream.enter()?.memset_d8_async(self.address, 0, self.bytes, stream.raw()) }
    }

    /// How many holders there are that keep a tensor on `stream` from writing: other tensors, and graphs of other streams,
    /// whose launches this stream's work would not be ordered with.
    pub(crate) fn others(&self, stream: &Stream) -> usize {
        let in_the_way = |holder: &&Holder| match **holder {
            Holder::Tensor(_) => true,
            Holder::Graph(number) => number != stream.number(),
        };
        let count = self.uses().holders.iter().filter(in_the_way).count();
        // One of them is the tensor that asks.
        count.saturating_sub(1)
    }

    /// Adds a holder on the stream `to`, which first waits for what `from` was asked to do so far.
    pub(crate) fn share(&self, from: &Stream, to: &Stream) -> Result<()> {
        let (here, there) = (from.number(), to.number());
        let _open = if here == there { None } else { Some((from.hold(SHARING)?, to.hold(SHARING)?)) };
        // A launch of a graph that writes the allocation either comes before the event or finds the new holder.
        let mut uses = self.uses();
        if here != there {
            to.wait(&from.record()?)?;
        }
        uses.holders.push(Holder::Tensor(there));
        Ok(())
    }

    /// Adds a graph that is being captured. Taken back with [`CudaMemory::forget`].
    pub(super) fn add(&self, holder: Holder) {
        self.uses().holders.push(holder);
    }

    /// Takes away a holder that has enqueued nothing, while another one on its stream exists.
    pub(super) fn forget(&self, holder: Holder) {
        let mut uses = self.uses();
        if let Some(at) = uses.holders.iter().position(|known| *known == holder) {
            uses.holders.swap_remove(at);
        }
    }

    /// A copy on another GPU, ordered behind `from` and before what `to` is asked to do next.
    pub(crate) fn copy_to(&self, from: &Stream, to: &Stream) -> Result<Arc<Self>> {
        let _open = (from.hold(SHARING)?, to.hold(SHARING)?);
        let mut uses = self.uses();
        to.wait(&from.record()?)?;
        let copy = Self::new(to, self.bytes)?;
        let (from_context, to_context) = (from.context().raw(), to.context().raw());
        let copied = to.enter().and_then(|entered| {
            // SAFETY: both allocations have this size and belong to these contexts; the event below keeps the source from
            // being freed or written before the copy is done, and `copy` is freed in the order of `to`.
            unsafe {
                entered.memcpy_peer_async(copy.address, to_context, self.address, from_context, self.bytes, to.raw())
            }
        });
        uses.leave_event(to);
        match copied {
            Ok(()) => Ok(copy),
            Err(error) => {
                copy.release(to, Holder::Tensor(to.number()));
                Err(error)
            }
        }
    }

    /// Lets what `stream` is asked next run behind every use that was left behind.
    ///
    /// Work that is being captured does not run next: its graph does this at every launch.
    pub(crate) fn order_behind_uses(&self, stream: &Stream) -> Result<()> {
        let mut uses = self.uses();
        if stream.captures_here() { uses.check() } else { uses.order_behind(stream) }
    }

    /// Prepares the allocation for a graph that is about to write it on `stream`.
    pub(super) fn claim(&self, op: &'static str, stream: &Stream) -> Result<Claim<'_>> {
        let mut uses = self.uses();
        let others = uses.holders.iter().filter(|holder| holder.stream() != stream.number()).count();
        if others > 0 {
            return Err(Error::Shared { op, output: "a tensor that the graph writes", others });
        }
        uses.order_behind(stream)?;
        Ok(Claim(uses))
    }

    /// Takes away `holder`, whose work is on `stream`: the last one frees behind every use of the allocation. Called from
    /// `Drop`: leaks rather than fails.
    pub(crate) fn release(self: &Arc<Self>, stream: &Stream, holder: Holder) {
        // While the stream captures, nothing can be put behind its work: the graph takes the holder's place.
        let mut open = None;
        while open.is_none() && !stream.note(self, false) {
            open = stream.hold("giving memory back").ok();
        }
        let mut uses = self.uses();
        if let Some(at) = uses.holders.iter().position(|known| *known == holder) {
            uses.holders.swap_remove(at);
        }
        if uses.holders.is_empty() {
            if uses.order_behind(stream).is_ok() {
                stream.free(self.address);
            }
        } else if uses.holders.iter().all(|other| other.stream() != stream.number()) {
            uses.leave_event(stream);
        }
        // Else a holder on the same stream will do so, behind this one's work too.
    }
}

/// What the bridge between two streams is called where it is refused.
const SHARING: &str = "sharing memory with another stream";

impl Uses {
    /// Marks that `stream` may use the allocation until what it was asked so far is done.
    fn leave_event(&mut self, stream: &Stream) {
        // Without an event, waiting right now has the same effect.
        let event = stream.record().map(Some).or_else(|error| stream.synchronize().map(|()| None).map_err(|_| error));
        match event {
            Ok(event) => {
                if self.events.len() >= MANY_EVENTS {
                    self.events.retain(|event| !event.is_reached());
                }
                self.events.extend(event);
            }
            Err(error) => self.lost = Some(error),
        }
    }

    /// An error if a use could not be marked.
    fn check(&self) -> Result<()> {
        self.lost.clone().map_or(Ok(()), Err)
    }

    fn order_behind(&mut self, stream: &Stream) -> Result<()> {
        self.check()?;
        while let Some(event) = self.events.last() {
            stream.wait(event)?;
            self.events.pop();
        }
        Ok(())
    }
}
