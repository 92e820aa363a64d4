//! Events: positions in streams.

use super::call::{Call, Out, entry};
use super::capture::{self, Captured};
use super::code::{Code, Result};
use super::graph::NodeWork;
use super::queue::{self, Answer, Clock, StreamId};
use super::state::{DeviceId, HandleKind, State};
use super::work::Work;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// Flag of an event that cannot be timed.
const DISABLE_TIMING: u32 = 2;
/// Blocking wait, no timing; sharing between processes is not implemented.
const KNOWN_FLAGS: u32 = 3;

/// `CU_EVENT_RECORD_EXTERNAL`, `CU_EVENT_WAIT_EXTERNAL`: in a capture, a node for an event that others see.
pub const EXTERNAL: u32 = 1;

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
    /// What it stands for, if it was last recorded in a capturing stream.
    pub captured: Option<Captured>,
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

/// The latest record of an event: in a stream, or in a capture.
pub fn latest(call: &Call, state: &State, handle: u64) -> Result<(Option<Recorded>, Option<Captured>)> {
    let event = lookup(call, state, handle)?;
    Ok((event.recorded.clone(), event.captured.clone()))
}

/// Milliseconds between two events, as the host's clock saw them: no statement about a GPU.
fn elapsed(call: &Call, out: &Out<f32>, start: u64, end: u64) -> Result {
    let (state, _) = call.context()?;
    out.check(call)?;
    let mut times = Vec::new();
    for handle in [start, end] {
        let event = lookup(call, &state, handle)?;
        if event.captured.is_some() {
            let text = "the event was last recorded in a capturing stream, so it has no time";
            return Err(call.refuse(Code::CAPTURED_EVENT, text));
        }
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

fn record(call: &Call, handle: u64, stream: u64, external: bool) -> Result {
    let (mut state, device) = call.context()?;
    let stream = capture::stream_for_work(call, &mut state, device, stream)?;
    let of_event = lookup(call, &state, handle)?.device;
    if of_event != device {
        let text = format!("the event belongs to device {}, the stream to device {}", of_event.0, device.0);
        return Err(call.refuse(Code::INVALID_HANDLE, &text));
    }
    match (capture::point_of(&state, stream), external) {
        (Some(_), true) => {
            state.add_node(call, stream, NodeWork::Record { event: handle });
            Ok(())
        }
        (Some(point), false) => {
            if let Some(event) = state.events.get_mut(&handle) {
                (event.recorded, event.captured) = (None, Some(point));
            }
            Ok(())
        }
        (None, true) => Err(call.invalid("only a capturing stream records an external event")),
        (None, false) => {
            let position = record_in(call, &mut state, device, handle, stream)?;
            queue::settle(call, state, stream, position)
        }
    }
}

/// Records an event at the end of a stream that is not capturing.
pub fn record_in(call: &Call, state: &mut State, device: DeviceId, handle: u64, stream: StreamId) -> Result<u64> {
    if lookup(call, state, handle)?.device != device {
        return Err(call.refuse(Code::INVALID_HANDLE, "the event belongs to another device"));
    }
    let time = Arc::new(OnceLock::new());
    let position = state.submit(call, stream, Work::Record { time: time.clone() });
    let clock = state.clock_of(stream);
    if let Some(event) = state.events.get_mut(&handle) {
        event.recorded = Some(Recorded { stream, position, clock, time });
        event.captured = None;
    }
    Ok(position)
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
        let event = Event { device, timed: flags & DISABLE_TIMING == 0, order, thread, recorded: None, captured: None };
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
        record(call, handle, stream, false)
    }

    fn cuEventRecordWithFlags(call, handle: u64, stream: u64, flags: u32) {
        if flags & !EXTERNAL != 0 {
            return Err(call.invalid(&format!("record flags {flags:#x}: only CU_EVENT_RECORD_EXTERNAL is known")));
        }
        record(call, handle, stream, flags & EXTERNAL != 0)
    }

    fn cuEventSynchronize(call, handle: u64) {
        let (mut state, device) = call.context()?;
        let (recorded, captured) = latest(call, &state, handle)?;
        capture::check_event(call, &mut state, captured.as_ref())?;
        let Some(recorded) = recorded else { return Ok(()) };
        let mut state = queue::drive(state, recorded.stream, recorded.position);
        state.verdict(device)
    }

    fn cuEventQuery(call, handle: u64) {
        let (mut state, device) = call.context()?;
        let (recorded, captured) = latest(call, &state, handle)?;
        capture::check_event(call, &mut state, captured.as_ref())?;
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
