//! One in-order stream of a GPU, and events that order one stream after another.

use super::capture::{Gate, Pass};
use super::context::{Context, Entered as Current};
use super::driver::Driver;
use super::graph;
use super::memory::CudaMemory;
use super::record::Recorder;
use crate::error::{DeviceName, Error, Result};
use cudarc::driver::sys::{CUcontext, CUevent, CUstream};
use std::mem;
use std::ops::Deref;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// `CU_STREAM_NON_BLOCKING`: no implicit order with the legacy default stream.
const NON_BLOCKING: u32 = 1;
/// `CU_STREAM_PER_THREAD`: a handle that names another stream on every thread.
const PER_THREAD: usize = 2;
/// `CU_EVENT_DISABLE_TIMING`.
const DISABLE_TIMING: u32 = 2;

/// A stream. Everything enqueued on it runs in the order of the calls.
pub(crate) struct Stream {
    context: &'static Context,
    raw: CUstream,
    /// Made here, so destroyed here; an adopted stream belongs to somebody else.
    owned: bool,
    number: u64,
    recorder: Recorder,
    gate: Gate,
}

// SAFETY: a stream handle other than the per-thread one, which `adopt` refuses, means the same stream on every thread,
// and the driver locks its queue.
unsafe impl Send for Stream {}
// SAFETY: as above; recorder and gate have their own locks.
unsafe impl Sync for Stream {}

impl Stream {
    pub(crate) fn new(context: &'static Context) -> Result<Self> {
        let mut raw: CUstream = ptr::null_mut();
        // SAFETY: a context is current, and `raw` is writable.
        unsafe { context.enter()?.stream_create(&mut raw, NON_BLOCKING) }?;
        Ok(Self::from_parts(context, raw, true))
    }

    /// Takes a stream of somebody else.
    ///
    /// # Safety
    /// `raw` must be a stream handle that stays valid until the last work on it that was enqueued here is done and this
    /// value is dropped.
    pub(crate) unsafe fn adopt(context: &'static Context, raw: CUstream) -> Result<Self> {
        if raw.addr() == PER_THREAD {
            return Err(Error::PerThreadStream);
        }
        let mut owner: CUcontext = ptr::null_mut();
        // SAFETY: a context is current, `owner` is writable, and the caller vouches for the stream.
        unsafe { context.enter()?.stream_get_ctx(raw, &mut owner) }?;
        if owner != context.raw() {
            return Err(Error::ForeignContext { ordinal: context.ordinal() });
        }
        Ok(Self::from_parts(context, raw, false))
    }

    fn from_parts(context: &'static Context, raw: CUstream, owned: bool) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        Self { context, raw, owned, number, recorder: Recorder::default(), gate: Gate::default() }
    }

    pub(crate) fn context(&self) -> &'static Context {
        self.context
    }

    pub(crate) fn raw(&self) -> CUstream {
        self.raw
    }

    pub(crate) fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    pub(crate) fn name(&self) -> DeviceName {
        DeviceName::Cuda { ordinal: self.context.ordinal(), stream: self.number }
    }

    /// Whether this crate made the stream.
    pub(super) fn is_ours(&self) -> bool {
        self.owned
    }

    /// Whether the driver takes what is enqueued into a graph, whoever captures it.
    pub(super) fn is_captured(&self) -> Result<bool> {
        let mut status = 0;
        // SAFETY: a context is current, the stream is alive as long as `self`, and `status` is writable.
        unsafe { self.enter()?.is_capturing(self.raw, &mut status) }?;
        Ok(status != graph::NOT_CAPTURING)
    }

    /// Tells streams apart over the life of the process.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The error for something that is refused during a capture.
    pub(super) fn closed(&self, what: &'static str) -> Error {
        Error::Capturing { what, device: self.name() }
    }

    /// For calls that enqueue work. While a graph is captured, only its own thread gets through: what it enqueues becomes
    /// part of the graph.
    pub(crate) fn enter(&self) -> Result<Entered<'_>> {
        let pass = self.gate.pass_or_join().map_err(|_| self.closed("work of another thread"))?;
        Ok(Entered { current: self.context.enter()?, _pass: pass })
    }

    /// For calls that cannot be part of a graph, together with those that follow while the guard lives.
    pub(crate) fn hold(&self, what: &'static str) -> Result<Pass<'_>> {
        self.gate.pass().map_err(|_| self.closed(what))
    }

    /// Whether the calling thread captures a graph on this stream.
    pub(crate) fn captures_here(&self) -> bool {
        self.gate.captures_here()
    }

    /// During a capture: makes memory the graph's too. Answers whether there is a capture.
    pub(crate) fn note(&self, memory: &Arc<CudaMemory>, written: bool) -> bool {
        self.gate.note(self, memory, written)
    }

    /// Waits until everything enqueued so far is done.
    pub(crate) fn synchronize(&self) -> Result<()> {
        let _open = self.hold("waiting for the device")?;
        // SAFETY: a context is current, and the stream is alive as long as `self`.
        unsafe { self.enter()?.stream_synchronize(self.raw) }
    }

    /// Waits, and gives `in_flight`, which the stream may be reading or writing, back only if the wait succeeded.
    ///
    /// `enqueued` is the result of the call that named the memory to the driver: even one that failed may have started
    /// a transfer. If waiting fails too, the memory is leaked, because freeing it could let a transfer hit its successor.
    pub(crate) fn settle<M>(&self, enqueued: Result<()>, in_flight: M) -> Result<M> {
        match self.synchronize() {
            Ok(()) => enqueued.map(|()| in_flight),
            Err(error) => {
                mem::forget(in_flight);
                Err(enqueued.err().unwrap_or(error))
            }
        }
    }

    /// Marks this point of the stream.
    pub(crate) fn record(&self) -> Result<Event> {
        self.record_with("waiting for this stream", DISABLE_TIMING)
    }

    /// Marks this point of the stream and the time at which it is reached.
    pub(crate) fn record_time(&self) -> Result<Event> {
        self.record_with("timing", 0)
    }

    fn record_with(&self, what: &'static str, flags: u32) -> Result<Event> {
        let _open = self.hold(what)?;
        let entered = self.enter()?;
        let mut raw: CUevent = ptr::null_mut();
        // SAFETY: a context is current, and `raw` is writable.
        unsafe { entered.event_create(&mut raw, flags) }?;
        let event = Event { context: self.context, raw };
        // SAFETY: event and stream are alive and of the same context.
        unsafe { entered.event_record(event.raw, self.raw) }?;
        Ok(event)
    }

    /// Lets everything enqueued from now on run after `event`, which may belong to another stream or GPU.
    pub(crate) fn wait(&self, event: &Event) -> Result<()> {
        let _open = self.hold("waiting for another stream")?;
        // SAFETY: a context is current; stream and event are alive.
        unsafe { self.enter()?.stream_wait_event(self.raw, event.raw, 0) }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        graph::end_if_locked_up(self);
        self.recorder.release(self);
        if self.owned
            && let Ok(entered) = self.enter()
        {
            // Work in the queue still runs to its end: destroying a stream only gives up the handle. A failure leaks it.
            // SAFETY: we made the stream, and this is the last use of the handle.
            let _ = unsafe { entered.stream_destroy(self.raw) };
        }
    }
}

/// A context is current on this thread, and the gate of a stream was passed.
pub(crate) struct Entered<'a> {
    current: Current,
    _pass: Option<Pass<'a>>,
}

impl Deref for Entered<'_> {
    type Target = Driver;

    fn deref(&self) -> &Driver {
        &self.current
    }
}

/// A point of a stream. It is recorded once and never moved to another point.
pub(crate) struct Event {
    context: &'static Context,
    raw: CUevent,
}

// SAFETY: an event handle may be used from any thread; the driver locks its state.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// Whether the point is known to be reached.
    pub(crate) fn is_reached(&self) -> bool {
        // SAFETY: a context is current, and the event is alive as long as `self`.
        self.context.enter().is_ok_and(|entered| unsafe { entered.event_query(self.raw) }.is_ok())
    }

    /// Waits for this point and gives the time since `start`; both from [`Stream::record_time`] of the same GPU.
    pub(crate) fn elapsed_since(&self, start: &Event) -> Result<Duration> {
        let entered = self.context.enter()?;
        let mut milliseconds = 0.0_f32;
        // SAFETY: a context is current, and the event is alive as long as `self`.
        unsafe { entered.event_synchronize(self.raw) }?;
        // SAFETY: both events are alive, and `milliseconds` is writable.
        unsafe { entered.event_elapsed_time(&mut milliseconds, start.raw, self.raw) }?;
        Ok(Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) / 1e3))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Ok(entered) = self.context.enter() {
            // Waits already enqueued keep working: the driver releases the event when it is reached.
            // SAFETY: this is the last use of the handle. A failure leaks the event.
            let _ = unsafe { entered.event_destroy(self.raw) };
        }
    }
}
