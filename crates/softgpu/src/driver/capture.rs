//! Stream capture: work pushed into a capturing stream becomes nodes of a graph, with its parameters copied, and does
//! not run.
//!
//! What cannot be part of a graph is refused. Most such refusals invalidate the capture, as on hardware: from then on
//! its streams refuse everything (901) until `cuStreamEndCapture` takes them out of capture, without a graph.

use super::call::{Call, In, Out, entry};
use super::code::{Code, Result};
use super::graph::{Graph, Node, NodeWork};
use super::queue::StreamId;
use super::state::{self, DeviceId, HandleKind, Origin, State};
use super::stream;
use super::work::Work;
use crate::mem::Poison;
use std::collections::BTreeSet;

/// `CU_STREAM_CAPTURE_MODE_*`: which calls beside the capture are taken for mistakes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Calls that no capture sees are refused on every thread.
    #[default]
    Global = 0,
    /// They are refused on the capturing thread.
    ThreadLocal = 1,
    /// They are allowed.
    Relaxed = 2,
}

impl Mode {
    fn from_number(number: u32) -> Option<Mode> {
        [Mode::Global, Mode::ThreadLocal, Mode::Relaxed].into_iter().find(|mode| *mode as u32 == number)
    }
}

/// A capture that was begun and not ended.
pub struct Capture {
    origin: StreamId,
    mode: Mode,
    /// Number of the host thread that began it.
    thread: u64,
    /// The graph that grows.
    graph: u64,
    /// Why it will give no graph.
    invalid: Option<String>,
    /// Addresses that its nodes allocate and have not freed.
    allocated: BTreeSet<u64>,
}

/// A stream's part in a capture.
pub struct Joined {
    /// Which capture.
    pub capture: u64,
    /// The nodes that the stream's next one comes after.
    after: BTreeSet<usize>,
    /// Their handles, as last handed out.
    handed_out: Vec<u64>,
}

/// What an event recorded in a capturing stream stands for.
#[derive(Clone)]
pub struct Captured {
    /// Which capture; it may have ended.
    pub capture: u64,
    after: BTreeSet<usize>,
}

/// `CU_STREAM_CAPTURE_STATUS_*`.
const NONE: u32 = 0;
const ACTIVE: u32 = 1;
const INVALIDATED: u32 = 2;

impl State {
    /// Whether a capture fills a graph.
    pub fn is_capturing_into(&self, graph: u64) -> bool {
        self.captures.values().any(|capture| capture.graph == graph)
    }

    /// Takes the result away from a capture. The first reason stays.
    pub fn invalidate(&mut self, capture: u64, why: &str) {
        if let Some(capture) = self.captures.get_mut(&capture) {
            capture.invalid.get_or_insert_with(|| why.to_string());
        }
    }

    /// The captures that work in the legacy default stream would depend on.
    fn behind_legacy(&self, device: DeviceId) -> BTreeSet<u64> {
        let blocking = self.streams.values().filter(|stream| stream.device == device && stream.blocking);
        blocking.filter_map(|stream| stream.capture.as_ref()).map(|joined| joined.capture).collect()
    }

    /// The capture of an event, if that has not ended.
    fn open_capture(&self, captured: &Captured) -> Option<u64> {
        self.captures.contains_key(&captured.capture).then_some(captured.capture)
    }

    /// Puts a node behind what its stream has captured so far.
    pub fn add_node(&mut self, call: &Call, id: StreamId, work: NodeWork) {
        let handle = self.new_handle(HandleKind::Node);
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let (device, Some(joined)) = (stream.device, &mut stream.capture) else { return };
        let Some(capture) = self.captures.get(&joined.capture) else { return };
        let Some(graph) = self.graphs.get_mut(&capture.graph) else { return };
        let after = joined.after.iter().copied().collect();
        joined.after = BTreeSet::from([graph.nodes.len()]);
        graph.nodes.push(Node { handle, by: call.name, device, work, after });
    }

    /// Takes the streams of a capture out of it, and gives back what it was.
    fn finish(&mut self, id: u64) -> Option<Capture> {
        let capture = self.captures.remove(&id)?;
        for stream in self.streams.values_mut() {
            if stream.capture.as_ref().is_some_and(|joined| joined.capture == id) {
                stream.capture = None;
            }
        }
        // Until a launch there is only the address.
        for address in &capture.allocated {
            self.allocations.remove(address);
        }
        Some(capture)
    }

    /// Ends the captures of a device whose context goes.
    pub fn drop_captures(&mut self, device: DeviceId) {
        let of_device = |capture: &Capture| self.graphs.get(&capture.graph).is_none_or(|graph| graph.device == device);
        let gone: Vec<u64> =
            self.captures.iter().filter(|(_, capture)| of_device(capture)).map(|(id, _)| *id).collect();
        for id in gone {
            self.finish(id);
        }
    }
}

/// The stream of a handle, for work that is pushed into it.
pub fn stream_for_work(call: &Call, state: &mut State, device: DeviceId, handle: u64) -> Result<StreamId> {
    let id = stream::resolve(call, state, device, handle)?;
    check_legacy(call, state, device, id)?;
    let Some(joined) = &state.streams[&id].capture else { return Ok(id) };
    // Whatever is wrong with the call from here on spoils the capture.
    call.touch(joined.capture);
    check_valid(call, state, joined.capture)?;
    Ok(id)
}

/// The stream of a handle, for a call that asks about its progress or waits for it.
pub fn stream_to_wait_for(call: &Call, state: &mut State, device: DeviceId, handle: u64) -> Result<StreamId> {
    let id = stream::resolve(call, state, device, handle)?;
    check_legacy(call, state, device, id)?;
    if let Some(joined) = &state.streams[&id].capture {
        call.touch(joined.capture);
        check_valid(call, state, joined.capture)?;
        return Err(call.refuse(Code::STREAM_CAPTURE_UNSUPPORTED, "the stream is capturing, so nothing of it runs"));
    }
    check_unsafe(call, state)?;
    Ok(id)
}

fn check_valid(call: &Call, state: &State, capture: u64) -> Result {
    match state.captures.get(&capture).and_then(|capture| capture.invalid.as_ref()) {
        None => Ok(()),
        Some(why) => {
            let text = format!("the stream's capture was invalidated: {why}");
            Err(call.refuse(Code::STREAM_CAPTURE_INVALIDATED, &text))
        }
    }
}

/// Refuses the legacy default stream while a stream that it is ordered with captures, and spoils those captures.
fn check_legacy(call: &Call, state: &mut State, device: DeviceId, id: StreamId) -> Result {
    if id != state.device(device).legacy {
        return Ok(());
    }
    let captures = state.behind_legacy(device);
    if captures.is_empty() {
        return Ok(());
    }
    let text = "the legacy default stream would depend on a blocking stream that is capturing";
    captures.into_iter().for_each(|capture| state.invalidate(capture, &format!("{}: {text}", call.name)));
    Err(call.refuse(Code::STREAM_CAPTURE_IMPLICIT, text))
}

/// Refuses a call that does its work beside every stream, so that no capture sees it, where the mode of a capture or of
/// the thread asks for that; the captures concerned are spoilt.
pub fn check_unsafe(call: &Call, state: &mut State) -> Result {
    let own_mode = call.thread.inner().capture_mode;
    let number = call.thread.number;
    let forbids = |capture: &Capture| match own_mode {
        Mode::Relaxed => false,
        _ if capture.thread == number => capture.mode != Mode::Relaxed,
        Mode::ThreadLocal => false,
        Mode::Global => capture.mode == Mode::Global,
    };
    let concerned: Vec<u64> =
        state.captures.iter().filter(|(_, capture)| forbids(capture)).map(|(id, _)| *id).collect();
    if concerned.is_empty() {
        return Ok(());
    }
    let text = "no capture sees this call, and one that is under way forbids such calls on this thread";
    concerned.into_iter().for_each(|capture| state.invalidate(capture, &format!("{}: {text}", call.name)));
    Err(call.refuse(Code::STREAM_CAPTURE_UNSUPPORTED, text))
}

/// Refuses a wait for the whole context while one of its streams captures.
pub fn check_context(call: &Call, state: &mut State, device: DeviceId) -> Result {
    let of_device = state.streams.values().filter(|stream| stream.device == device);
    let captures: BTreeSet<u64> =
        of_device.filter_map(|stream| stream.capture.as_ref()).map(|joined| joined.capture).collect();
    if captures.is_empty() {
        return check_unsafe(call, state);
    }
    let text = "a stream of the context is capturing";
    captures.into_iter().for_each(|capture| state.invalidate(capture, &format!("{}: {text}", call.name)));
    Err(call.refuse(Code::STREAM_CAPTURE_UNSUPPORTED, text))
}

/// Refuses to ask about, or wait for, an event that stands for captured work.
pub fn check_event(call: &Call, state: &mut State, captured: Option<&Captured>) -> Result {
    let Some(captured) = captured else { return check_unsafe(call, state) };
    let text = "the event was last recorded in a capturing stream, so nothing of it runs";
    state.invalidate(captured.capture, &format!("{}: {text}", call.name));
    Err(call.refuse(Code::CAPTURED_EVENT, text))
}

/// What an event recorded now in a stream stands for, if the stream is capturing.
pub fn point_of(state: &State, id: StreamId) -> Option<Captured> {
    let joined = state.streams[&id].capture.as_ref()?;
    Some(Captured { capture: joined.capture, after: joined.after.clone() })
}

/// Lets a stream wait for an event where at least one of them belongs to a capture; `false` where none does.
pub fn wait(call: &Call, state: &mut State, id: StreamId, captured: Option<&Captured>) -> Result<bool> {
    let own = state.streams[&id].capture.as_ref().map(|joined| joined.capture);
    let Some(captured) = captured else {
        return match own {
            None => Ok(false),
            Some(_) => {
                let text = "a capturing stream cannot wait for work outside its capture";
                Err(call.refuse(Code::STREAM_CAPTURE_ISOLATION, text))
            }
        };
    };
    let Some(capture) = state.open_capture(captured) else {
        return Err(call.refuse(Code::CAPTURED_EVENT, "the event was last recorded in a capture that has ended"));
    };
    match own {
        Some(own) if own != capture => {
            state.invalidate(capture, &format!("{}: another capture was to wait for it", call.name));
            let text = "the stream and the event belong to different captures";
            return Err(call.refuse(Code::STREAM_CAPTURE_MERGE, text));
        }
        Some(_) => {}
        None => {
            call.touch(capture);
            check_valid(call, state, capture)?;
        }
    }
    if let Some(stream) = state.streams.get_mut(&id) {
        let fresh = Joined { capture, after: BTreeSet::new(), handed_out: Vec::new() };
        stream.capture.get_or_insert(fresh).after.extend(&captured.after);
    }
    Ok(true)
}

/// Captures an allocation: the graph has its address from now on, and its memory at every launch.
pub fn allocate(call: &Call, state: &mut State, id: StreamId, device: DeviceId, bytes: u64) -> Result<u64> {
    if bytes == 0 {
        return Err(call.invalid("an allocation of 0 bytes"));
    }
    let reserved = state::space().alloc(bytes, device.0, Poison::of_seed(0));
    let address = reserved.map_err(|error| call.refuse(Code::OUT_OF_MEMORY, &error.to_string()))?;
    // Known to be live: it was made just now.
    let _ = state::space().free(address, "its capture, which only took the address");
    let thread = call.thread.name().to_string();
    let origin =
        Origin { bytes, by: call.name, thread, device, ordered: None, freeing: None, module: false, graph: true };
    state.add_allocation(address, origin);
    state.add_node(call, id, NodeWork::Alloc { address, bytes });
    if let Some(capture) = state.streams[&id].capture.as_ref().and_then(|own| state.captures.get_mut(&own.capture)) {
        capture.allocated.insert(address);
    }
    Ok(address)
}

/// Captures the release of what a graph allocates.
pub fn release(call: &Call, state: &mut State, id: StreamId, address: u64) -> Result {
    if !state.allocations.get(&address).is_some_and(|origin| origin.graph) {
        return Err(call.invalid(&format!("{address:#x} was not allocated by a graph, so none can free it")));
    }
    state.add_node(call, id, NodeWork::Free { address });
    let capture = state.streams[&id].capture.as_ref().and_then(|own| state.captures.get_mut(&own.capture));
    if capture.is_some_and(|capture| capture.allocated.remove(&address)) {
        state.allocations.remove(&address);
    }
    Ok(())
}

/// The node that stands for an operation of a stream.
pub fn node_of(work: Work) -> NodeWork {
    NodeWork::Work(work)
}

/// Status of a stream and its part in a capture.
fn look<'s>(call: &Call, state: &'s mut State, device: DeviceId, handle: u64) -> Result<(u32, Option<&'s mut Joined>)> {
    let id = stream::resolve(call, state, device, handle)?;
    if id == state.device(device).legacy && !state.behind_legacy(device).is_empty() {
        return Err(call.refuse(Code::STREAM_CAPTURE_IMPLICIT, "a blocking stream is capturing"));
    }
    let State { streams, captures, .. } = state;
    let joined = streams.get_mut(&id).and_then(|stream| stream.capture.as_mut());
    let status = match joined.as_ref().and_then(|joined| captures.get(&joined.capture)) {
        None => NONE,
        Some(Capture { invalid: None, .. }) => ACTIVE,
        Some(_) => INVALIDATED,
    };
    Ok((status, joined))
}

/// What `cuStreamGetCaptureInfo` answers, through as many pointers as its version has.
struct Info {
    status: Out<u32>,
    id: Out<u64>,
    graph: Out<u64>,
    nodes: Out<*const u64>,
    count: Out<usize>,
}

fn info(call: &Call, handle: u64, out: &Info) -> Result {
    let (mut state, device) = call.context()?;
    let (status, joined) = look(call, &mut state, device, handle)?;
    let own = joined.map(|joined| joined.capture);
    out.status.set(call, status)?;
    let (Some(own), ACTIVE) = (own, status) else { return Ok(()) };
    out.id.set_if_wanted(own);
    let graph = state.captures[&own].graph;
    out.graph.set_if_wanted(graph);
    let id = stream::resolve(call, &mut state, device, handle)?;
    let State { streams, graphs, .. } = &mut *state;
    let joined = streams.get_mut(&id).and_then(|stream| stream.capture.as_mut());
    if let (Some(joined), Some(graph)) = (joined, graphs.get(&graph)) {
        joined.handed_out = joined.after.iter().map(|index| graph.nodes[*index].handle).collect();
        out.nodes.set_if_wanted(joined.handed_out.as_ptr());
        out.count.set_if_wanted(joined.handed_out.len());
    }
    Ok(())
}

/// An answer that an older version of an entry cannot give.
fn nowhere<T>() -> Out<T> {
    // SAFETY: null is always allowed.
    unsafe { Out::at(0) }
}

entry! {
    fn cuStreamBeginCapture_v2(call, handle: u64, mode: u32) {
        let (mut state, device) = call.context()?;
        let id = stream::resolve(call, &mut state, device, handle)?;
        let Some(mode) = Mode::from_number(mode) else {
            return Err(call.invalid(&format!("capture mode {mode} is not known")));
        };
        if id == state.device(device).legacy {
            let text = "the legacy default stream cannot capture";
            return Err(call.refuse(Code::STREAM_CAPTURE_UNSUPPORTED, text));
        }
        if state.streams[&id].capture.is_some() {
            return Err(call.refuse(Code::ILLEGAL_STATE, "the stream is capturing already"));
        }
        let graph = state.new_handle(HandleKind::Graph);
        let made = Graph::new(call, &mut state, device);
        state.graphs.insert(graph, made);
        let capture = state.new_order();
        let (thread, allocated) = (call.thread.number, BTreeSet::new());
        state.captures.insert(capture, Capture { origin: id, mode, thread, graph, invalid: None, allocated });
        if let Some(stream) = state.streams.get_mut(&id) {
            stream.capture = Some(Joined { capture, after: BTreeSet::new(), handed_out: Vec::new() });
        }
        Ok(())
    }

    fn cuStreamEndCapture(call, handle: u64, out: Out<u64>) {
        let (mut state, device) = call.context()?;
        out.check(call)?;
        let id = stream::resolve(call, &mut state, device, handle)?;
        let Some(joined) = &state.streams[&id].capture else {
            return Err(call.refuse(Code::ILLEGAL_STATE, "the stream is not capturing"));
        };
        let (number, after) = (joined.capture, joined.after.clone());
        let capture = &state.captures[&number];
        if capture.origin != id {
            let text = "the capture began in another stream and must end there";
            return Err(call.refuse(Code::STREAM_CAPTURE_UNMATCHED, text));
        }
        if capture.mode != Mode::Relaxed && capture.thread != call.thread.number {
            return Err(call.refuse(Code::STREAM_CAPTURE_WRONG_THREAD, "the capture began on another thread"));
        }
        let Some(capture) = state.finish(number) else { return Err(Code::UNKNOWN) };
        let unjoined = state.graphs.get(&capture.graph).and_then(|graph| graph.first_outside(&after));
        if capture.invalid.is_none() && unjoined.is_none() {
            return out.set(call, capture.graph);
        }
        state.graphs.remove(&capture.graph);
        out.set(call, 0)?;
        Err(match (capture.invalid, unjoined) {
            (None, Some(node)) => {
                let text = format!("nothing joins {node} back to the stream in which the capture began");
                call.refuse(Code::STREAM_CAPTURE_UNJOINED, &text)
            }
            (why, _) => {
                let text = format!("the capture was invalidated: {}", why.unwrap_or_default());
                call.refuse(Code::STREAM_CAPTURE_INVALIDATED, &text)
            }
        })
    }

    fn cuStreamIsCapturing(call, handle: u64, out: Out<u32>) {
        let (mut state, device) = call.context()?;
        let (status, _) = look(call, &mut state, device, handle)?;
        out.set(call, status)
    }

    fn cuStreamGetCaptureInfo(call, handle: u64, status: Out<u32>, id: Out<u64>) {
        info(call, handle, &Info { status, id, graph: nowhere(), nodes: nowhere(), count: nowhere() })
    }

    fn cuStreamGetCaptureInfo_v2(
        call, handle: u64, status: Out<u32>, id: Out<u64>, graph: Out<u64>, nodes: Out<*const u64>, count: Out<usize>
    ) {
        info(call, handle, &Info { status, id, graph, nodes, count })
    }

    /// No edge here has data of its own.
    fn cuStreamGetCaptureInfo_v3(
        call, handle: u64, status: Out<u32>, id: Out<u64>, graph: Out<u64>, nodes: Out<*const u64>,
        edges: Out<*const u8>, count: Out<usize>
    ) {
        edges.set_if_wanted(std::ptr::null());
        info(call, handle, &Info { status, id, graph, nodes, count })
    }

    /// The mode given becomes the thread's, and the one it had is given back.
    fn cuThreadExchangeStreamCaptureMode(call, mode: In<u32>) {
        let wanted = mode.get(call)?;
        let Some(wanted) = Mode::from_number(wanted) else {
            return Err(call.invalid(&format!("capture mode {wanted} is not known")));
        };
        let before = std::mem::replace(&mut call.thread.inner().capture_mode, wanted);
        // SAFETY: the entry's contract says that the pointer is valid for writing too; it was found not to be null.
        unsafe { Out::at(mode.raw() as usize) }.set(call, before as u32)
    }
}
