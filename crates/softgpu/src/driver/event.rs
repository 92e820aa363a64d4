//! Events: positions in streams.

use super::call::{Call, Out, entry};
use super::code::{Code, Result};
use super::queue::{self, Answer, Clock, StreamId};
use super::state::{DeviceId, HandleKind, State};
use super::work::Work;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// Flag of an event that cannot be timed.
const DISABLE_TIMING: u32 = 2;
/// Blocking wait, no timing; sharing between processes is not implemented.
const KNOWN_FLAGS: u32 = 3;

/// One event.
pub struct Event {
    /// The device it belongs to.
    pub device: DeviceId,
    timed: bool,
    /// Which event it is, for reports.
    pub order: u64,
    /// The thread that made it, in words.
    pub thread: String,
    /// Its latest record.
    pub recorded: Option<Recorded>,
}

/// One record of an event.
#[derive(Clone)]
pub struct Recorded {
    /// The stream.
    pub stream: StreamId,
    /// The position in it.
    pub position: u64,
    /// All that came before.
    pub clock: Clock,
    time: Arc<OnceLock<Instant>>,
}

/// The event of a handle.
pub fn lookup<'s>(call: &Call, state: &'s State, handle: u64) -> Result<&'s Event> {
    let unknown = || call.refuse(Code::INVALID_HANDLE, &format!("{handle:#x} is no event, or was destroyed"));
    state.events.get(&handle).ok_or_else(unknown)
}

/// Milliseconds between two events, as the host's clock saw them: no statement about a GPU.
fn elapsed(call: &Call, out: &Out<f32>, start: u64, end: u64) -> Result {
    let (state, _) = call.context()?;
    out.check(call)?;
    let mut times = Vec::new();
    for handle in [start, end] {
        let event = lookup(call, &state, handle)?;
        if !event.timed {
            return Err(call.refuse(Code::INVALID_HANDLE, "the event was made with timing disabled"));
        }
        let Some(recorded) = &event.recorded else {
            return Err(call.refuse(Code::INVALID_HANDLE, "the event was never recorded"));
        };
        match recorded.time.get() {
            Some(time) => times.push(*time),
            None => return Err(Code::NOT_READY),
        }
    }
    let milliseconds = |from: Instant, to: Instant| to.duration_since(from).as_secs_f64() * 1e3;
    let forward = milliseconds(times[0], times[1]);
    out.set(call, if forward > 0.0 { forward } else { -milliseconds(times[1], times[0]) } as f32)
}

fn record(call: &Call, handle: u64, stream: u64) -> Result {
    let (mut state, device) = call.context()?;
    let stream = super::stream::resolve(call, &mut state, device, stream)?;
    let of_event = lookup(call, &state, handle)?.device;
    if of_event != device {
        let text = format!("the event belongs to device {}, the stream to device {}", of_event.0, device.0);
        return Err(call.refuse(Code::INVALID_HANDLE, &text));
    }
    let time = Arc::new(OnceLock::new());
    let position = state.submit(call, stream, Work::Record { time: time.clone() });
    let clock = state.clock_of(stream);
    if let Some(event) = state.events.get_mut(&handle) {
        event.recorded = Some(Recorded { stream, position, clock, time });
    }
    queue::settle(call, state, stream, position)
}

entry! {
    fn cuEventCreate(call, out: Out<u64>, flags: u32) {
        let (mut state, device) = call.context()?;
        out.check(call)?;
        if flags & !KNOWN_FLAGS != 0 {
            return Err(call.invalid(&format!("event flags {flags:#x}: events are not shared between processes")));
        }
        let handle = state.new_handle(HandleKind::Event);
        let order = state.new_order();
        let thread = call.thread.name().to_string();
        let event = Event { device, timed: flags & DISABLE_TIMING == 0, order, thread, recorded: None };
        state.events.insert(handle, event);
        out.set(call, handle)
    }

    fn cuEventDestroy_v2(call, handle: u64) {
        let (mut state, _, sticky) = call.faulted_context()?;
        lookup(call, &state, handle)?;
        // A record that has not run yet keeps what it needs.
        state.events.remove(&handle);
        sticky.map_or(Ok(()), Err)
    }

    fn cuEventRecord(call, handle: u64, stream: u64) {
        record(call, handle, stream)
    }

    fn cuEventRecordWithFlags(call, handle: u64, stream: u64, flags: u32) {
        if flags != 0 {
            return Err(call.invalid(&format!("record flags {flags:#x}: only 0 is implemented")));
        }
        record(call, handle, stream)
    }

    fn cuEventSynchronize(call, handle: u64) {
        let (state, device) = call.context()?;
        let recorded = lookup(call, &state, handle)?.recorded.clone();
        let Some(recorded) = recorded else { return Ok(()) };
        let mut state = queue::drive(state, recorded.stream, recorded.position);
        state.verdict(device)
    }

    fn cuEventQuery(call, handle: u64) {
        let (mut state, device) = call.context()?;
        let recorded = lookup(call, &state, handle)?.recorded.clone();
        let Some(recorded) = recorded else { return Ok(()) };
        match state.ask(recorded.stream, recorded.position) {
            Answer::Done => {}
            Answer::NotYet => return Err(Code::NOT_READY),
            Answer::RunNow => state = queue::drive(state, recorded.stream, recorded.position),
        }
        state.verdict(device)
    }

    fn cuEventElapsedTime(call, out: Out<f32>, start: u64, end: u64) {
        elapsed(call, &out, start, end)
    }

    fn cuEventElapsedTime_v2(call, out: Out<f32>, start: u64, end: u64) {
        elapsed(call, &out, start, end)
    }
}
