//! Streams as a program sees them.

use super::call::{Call, Out, entry};
use super::capture;
use super::code::{Code, Result};
use super::event;
use super::graph::NodeWork;
use super::queue::{self, Answer, Made, StreamId};
use super::state::{DeviceId, State, context_handle};

/// Flag of a stream that the legacy default stream does not wait for.
const NON_BLOCKING: u32 = 1;
/// Most urgent priority; 0 is the least.
const GREATEST_PRIORITY: i32 = -5;
/// Handles that are not objects: the legacy and the per-thread default stream.
const LEGACY: u64 = 1;
const PER_THREAD: u64 = 2;

/// The stream that a handle names for the calling thread, which must belong to the device of the current context.
pub fn resolve(call: &Call, state: &mut State, device: DeviceId, handle: u64) -> Result<StreamId> {
    let id = match handle {
        0 | LEGACY => return Ok(state.device(device).legacy),
        PER_THREAD => return Ok(per_thread(call, state, device)),
        handle => StreamId(handle),
    };
    let is_default =
        state.device(device).legacy == id || state.device(device).per_thread.values().any(|own| *own == id);
    match state.streams.get(&id) {
        Some(stream) if stream.destroyed || is_default => {
            Err(call.refuse(Code::INVALID_HANDLE, &format!("stream {handle:#x} was destroyed")))
        }
        Some(stream) if stream.device != device => {
            let text = format!(
                "stream {handle:#x} belongs to device {}, the current context to device {}",
                stream.device.0, device.0
            );
            Err(call.refuse(Code::INVALID_HANDLE, &text))
        }
        Some(_) => Ok(id),
        None => Err(call.refuse(Code::INVALID_HANDLE, &format!("{handle:#x} is no stream, or was destroyed"))),
    }
}

/// Handle 2 names another stream on each thread.
fn per_thread(call: &Call, state: &mut State, device: DeviceId) -> StreamId {
    if let Some(id) = state.device(device).per_thread.get(&call.thread.number) {
        return *id;
    }
    let name = format!("the default stream of {}", call.thread.name());
    let id = state.new_stream(device, true, 0, Made::by_default(name));
    state.device_mut(device).per_thread.insert(call.thread.number, id);
    id
}

fn create(call: &Call, out: &Out<u64>, flags: u32, priority: i32) -> Result {
    let (mut state, device) = call.context()?;
    out.check(call)?;
    if flags & !NON_BLOCKING != 0 {
        return Err(call.invalid(&format!("stream flags {flags:#x}: only CU_STREAM_NON_BLOCKING is known")));
    }
    let order = state.new_order();
    let made = Made { name: format!("stream {order}"), order, thread: call.thread.name().to_string() };
    let blocking = flags & NON_BLOCKING == 0;
    let id = state.new_stream(device, blocking, priority.clamp(GREATEST_PRIORITY, 0), made);
    out.set(call, id.0)
}

entry! {
    fn cuStreamCreate(call, out: Out<u64>, flags: u32) {
        create(call, &out, flags, 0)
    }

    fn cuStreamCreateWithPriority(call, out: Out<u64>, flags: u32, priority: i32) {
        create(call, &out, flags, priority)
    }

    /// The handle is gone at once; the work in it still runs.
    fn cuStreamDestroy_v2(call, handle: u64) {
        let (mut state, device, sticky) = call.faulted_context()?;
        let id = resolve(call, &mut state, device, handle)?;
        if handle <= PER_THREAD {
            return Err(call.refuse(Code::INVALID_HANDLE, "a default stream cannot be destroyed"));
        }
        if let Some(joined) = &state.streams[&id].capture {
            call.touch(joined.capture);
            return Err(call.refuse(Code::STREAM_CAPTURE_UNSUPPORTED, "the stream is capturing"));
        }
        state.retire(id);
        sticky.map_or(Ok(()), Err)
    }

    fn cuStreamSynchronize(call, handle: u64) {
        let (mut state, device) = call.context()?;
        let id = capture::stream_to_wait_for(call, &mut state, device, handle)?;
        let positions = state.all_of(id);
        let mut state = queue::drive_all(state, &positions);
        state.verdict(device)
    }

    fn cuStreamQuery(call, handle: u64) {
        let (mut state, device) = call.context()?;
        let id = capture::stream_to_wait_for(call, &mut state, device, handle)?;
        for (id, position) in state.all_of(id) {
            match state.ask(id, position) {
                Answer::Done => {}
                Answer::NotYet => return Err(Code::NOT_READY),
                Answer::RunNow => state = queue::drive(state, id, position),
            }
        }
        state.verdict(device)
    }

    /// Waits for the latest record of the event at the time of this call; later records do not matter.
    fn cuStreamWaitEvent(call, handle: u64, event: u64, flags: u32) {
        let (mut state, device) = call.context()?;
        let id = capture::stream_for_work(call, &mut state, device, handle)?;
        let (recorded, captured) = event::latest(call, &state, event)?;
        match flags {
            0 => {}
            event::EXTERNAL if state.streams[&id].capture.is_some() => {
                state.add_node(call, id, NodeWork::Wait { event });
                return Ok(());
            }
            event::EXTERNAL => return Err(call.invalid("only a capturing stream waits for an external event")),
            _ => return Err(call.invalid(&format!("wait flags {flags:#x}: only CU_EVENT_WAIT_EXTERNAL is known"))),
        }
        if capture::wait(call, &mut state, id, captured.as_ref())? {
            return Ok(());
        }
        // An event that was never recorded is complete.
        let Some(recorded) = recorded else { return Ok(()) };
        let after = [(recorded.stream, recorded.position)];
        let position = state.submit_after(call, id, super::work::Work::Marker, &after, &recorded.clock);
        queue::settle(call, state, id, position)
    }

    fn cuStreamGetPriority(call, handle: u64, out: Out<i32>) {
        let (mut state, device) = call.context()?;
        let id = resolve(call, &mut state, device, handle)?;
        out.set(call, state.streams[&id].priority)
    }

    fn cuStreamGetFlags(call, handle: u64, out: Out<u32>) {
        let (mut state, device) = call.context()?;
        let id = resolve(call, &mut state, device, handle)?;
        out.set(call, u32::from(!state.streams[&id].blocking))
    }

    /// A stream knows its context, whichever is current.
    fn cuStreamGetCtx(call, handle: u64, out: Out<u64>) {
        let (mut state, current) = call.context()?;
        let own = state.streams.get(&StreamId(handle)).map_or(current, |stream| stream.device);
        resolve(call, &mut state, own, handle)?;
        out.set(call, context_handle(own))
    }

    fn cuStreamGetDevice(call, handle: u64, out: Out<i32>) {
        let (mut state, device) = call.context()?;
        resolve(call, &mut state, device, handle)?;
        out.set(call, device.0 as i32)
    }

    fn cuCtxGetStreamPriorityRange(call, least: Out<i32>, greatest: Out<i32>) {
        let (_state, _) = call.context()?;
        least.set_if_wanted(0);
        greatest.set_if_wanted(GREATEST_PRIORITY);
        Ok(())
    }
}
