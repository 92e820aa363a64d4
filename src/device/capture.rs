//! The gate of a stream: either any thread enqueues work, or one thread captures a graph.
//!
//! The driver lets every thread push work into a capturing stream, and takes all of it into the graph. So each call that
//! concerns a stream passes this gate: while a graph is captured only the capturing thread may pass, and only with work
//! that a graph can hold. What the work uses is noted here, for the graph to keep alive.

use super::memory::{CudaMemory, Holder};
use super::stream::Stream;
use cudarc::driver::sys::CUdeviceptr;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

/// See the module.
#[derive(Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    /// Signalled when nobody is inside any more.
    empty: Condvar,
    /// Whether there is a capture: read without the lock by those whom it does not concern.
    capturing: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Calls under way that are not captured.
    inside: usize,
    capture: Option<Capture>,
}

struct Capture {
    /// Who may pass; nobody if the driver could not be brought to end the capture.
    thread: Option<ThreadId>,
    log: Log,
}

/// What a capture has seen.
#[derive(Default)]
pub(super) struct Log {
    /// The memory that the graph uses, by address.
    pub(super) used: BTreeMap<CUdeviceptr, Used>,
    /// Whether a kernel of the graph may report bad data.
    pub(super) reports: bool,
}

/// Memory that a graph uses.
pub(super) struct Used {
    pub(super) memory: Arc<CudaMemory>,
    pub(super) written: bool,
}

/// Nobody begins a capture while this exists.
pub(crate) struct Pass<'a>(&'a Gate);

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.inside -= 1;
        if state.inside == 0 {
            self.0.empty.notify_all();
        }
    }
}

/// A graph is being captured, by another thread or with work that cannot be part of it.
pub(super) struct Closed;

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a call that no graph can hold.
    pub(super) fn pass(&self) -> Result<Pass<'_>, Closed> {
        let mut state = self.state();
        if state.capture.is_some() {
            return Err(Closed);
        }
        state.inside += 1;
        Ok(Pass(self))
    }

    /// For work that a graph can hold: `None` on the thread that captures one.
    pub(super) fn pass_or_join(&self) -> Result<Option<Pass<'_>>, Closed> {
        match self.captures_here() {
            true => Ok(None),
            false => self.pass().map(Some),
        }
    }

    /// Whether the calling thread captures.
    pub(super) fn captures_here(&self) -> bool {
        if !self.capturing.load(Ordering::Acquire) {
            return false;
        }
        let state = self.state();
        state.capture.as_ref().is_some_and(|capture| capture.thread == Some(thread::current().id()))
    }

    /// Waits until no call is under way, and closes the gate to all other threads.
    pub(super) fn close(&self) -> Result<(), Closed> {
        let mut state = self.state();
        while state.inside > 0 {
            state = self.empty.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.capture.is_some() {
            return Err(Closed);
        }
        state.capture = Some(Capture { thread: Some(thread::current().id()), log: Log::default() });
        self.capturing.store(true, Ordering::Release);
        Ok(())
    }

    /// Opens the gate and gives what was noted.
    pub(super) fn open(&self) -> Log {
        let mut state = self.state();
        self.capturing.store(false, Ordering::Release);
        state.capture.take().map(|capture| capture.log).unwrap_or_default()
    }

    /// Closes the gate for all: the driver could not be brought to end the capture, so any work would be lost in it. What the
    /// capture used stays with it.
    pub(super) fn lock_up(&self) {
        if let Some(capture) = &mut self.state().capture {
            capture.thread = None;
        }
    }

    /// Whether [`Gate::lock_up`] was called.
    pub(super) fn is_locked_up(&self) -> bool {
        self.state().capture.as_ref().is_some_and(|capture| capture.thread.is_none())
    }

    /// Notes that kernels of the graph may report bad data.
    pub(super) fn note_reports(&self) {
        if let Some(capture) = &mut self.state().capture {
            capture.log.reports = true;
        }
    }

    /// Makes memory the graph's too, if there is a capture, and answers whether there is.
    ///
    /// Used where work is captured, and by holders that go while there is a capture, on any thread.
    pub(super) fn note(&self, stream: &Stream, memory: &Arc<CudaMemory>, written: bool) -> bool {
        if !self.capturing.load(Ordering::Acquire) {
            return false;
        }
        let holder = Holder::Graph(stream.number());
        // Before the gate is locked: holders lock theirs while they ask the gate.
        memory.add(holder);
        let mut state = self.state();
        let known = match &mut state.capture {
            None => None,
            Some(capture) => {
                let mut known = true;
                let used = capture.log.used.entry(memory.address()).or_insert_with(|| {
                    known = false;
                    Used { memory: Arc::clone(memory), written }
                });
                used.written |= written;
                Some(known)
            }
        };
        drop(state);
        if known != Some(false) {
            memory.forget(holder);
        }
        known.is_some()
    }
}
