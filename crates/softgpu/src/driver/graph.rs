//! Graphs: work with its parameters, and what comes before what; and executable graphs, which put it into a stream
//! again and again.

use super::call::{Call, In, Out, entry};
use super::capture;
use super::code::{Code, Result};
use super::queue::{self, Clock, StreamId};
use super::state::{DeviceId, Guard, HandleKind, Origin, State};
use super::work::Work;
use crate::ctl::types::Detector;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A graph.
pub struct Graph {
    /// The device of the context it was made in.
    pub device: DeviceId,
    /// Its nodes; each comes after others that stand before it.
    pub nodes: Vec<Node>,
    /// Which graph it is, for reports.
    pub order: u64,
    /// The thread that made it, in words.
    pub thread: String,
}

/// One node.
#[derive(Clone)]
pub struct Node {
    /// Its handle.
    pub handle: u64,
    /// The entry that was captured.
    pub by: &'static str,
    /// The device it runs on.
    pub device: DeviceId,
    /// What it does.
    pub work: NodeWork,
    /// Indices of the nodes it comes after.
    pub after: Vec<usize>,
}

/// What a node does at every launch.
#[derive(Clone)]
pub enum NodeWork {
    /// A kernel, a copy, a fill or a function of the program, with its parameters as they were.
    Work(Work),
    /// Makes the graph's own memory live.
    Alloc {
        /// Its address, the same at every launch.
        address: u64,
        /// Its length.
        bytes: u64,
    },
    /// Releases such memory.
    Free {
        /// Its address.
        address: u64,
    },
    /// Records an event that the program sees.
    Record {
        /// Its handle.
        event: u64,
    },
    /// Waits for the latest record of an event, as of the launch.
    Wait {
        /// Its handle.
        event: u64,
    },
}

/// An executable graph.
pub struct Exec {
    /// The device of the context it was made in.
    pub device: DeviceId,
    nodes: Arc<[Node]>,
    /// The graph it was made from.
    graph: u64,
    graph_order: u64,
    auto_free: bool,
    /// Which executable graph it is, for reports.
    pub order: u64,
    /// The thread that made it, in words.
    pub thread: String,
    /// Where its latest launch ends: the next one comes after it, in whatever stream.
    last: Option<(StreamId, u64, Clock)>,
}

/// `CUDA_GRAPH_INSTANTIATE_FLAG_*`.
const AUTO_FREE_ON_LAUNCH: u64 = 1;
const DEVICE_LAUNCH: u64 = 4;
const USE_NODE_PRIORITY: u64 = 8;

impl Graph {
    /// A graph without nodes.
    pub fn new(call: &Call, state: &mut State, device: DeviceId) -> Graph {
        let (order, thread) = (state.new_order(), call.thread.name().to_string());
        Graph { device, nodes: Vec::new(), order, thread }
    }

    /// The first node, in words, that is neither among `ends` nor comes before one of them.
    pub fn first_outside(&self, ends: &BTreeSet<usize>) -> Option<String> {
        let mut inside: BTreeSet<usize> = ends.clone();
        // What a node comes after stands before it.
        for index in (0..self.nodes.len()).rev() {
            if inside.contains(&index) {
                inside.extend(&self.nodes[index].after);
            }
        }
        (0..self.nodes.len()).find(|index| !inside.contains(index)).map(|index| self.nodes[index].name(index))
    }
}

impl Exec {
    /// The executable graph in words.
    pub fn name(&self) -> String {
        format!("executable graph {} of graph {}", self.order, self.graph_order)
    }
}

impl Node {
    /// The node in words: `node 2 (cuLaunchKernel of softmax)`.
    fn name(&self, index: usize) -> String {
        let subject = match &self.work {
            NodeWork::Work(work) => work.subject(),
            _ => String::new(),
        };
        format!("node {index} ({}{subject})", self.by)
    }

    /// `CU_GRAPH_NODE_TYPE_*`.
    fn kind(&self) -> u32 {
        match &self.work {
            NodeWork::Work(Work::Kernel(_)) => 0,
            NodeWork::Work(Work::ToDevice { .. } | Work::ToHost { .. } | Work::Copy { .. }) => 1,
            NodeWork::Work(Work::Fill { .. }) => 2,
            NodeWork::Work(Work::Host { .. }) => 3,
            NodeWork::Work(_) => 5,
            NodeWork::Wait { .. } => 6,
            NodeWork::Record { .. } => 7,
            NodeWork::Alloc { .. } => 10,
            NodeWork::Free { .. } => 11,
        }
    }
}

/// The addresses that the nodes allocate.
fn allocated(nodes: &[Node]) -> impl Iterator<Item = u64> + '_ {
    nodes.iter().filter_map(|node| match node.work {
        NodeWork::Alloc { address, .. } => Some(address),
        _ => None,
    })
}

/// An order in which the nodes may run: that of capture, or with a seed any that the edges allow.
fn schedule(call: &Call, nodes: &[Node]) -> Vec<usize> {
    if call.thread.inner().settings.seed == 0 {
        return (0..nodes.len()).collect();
    }
    let mut open: Vec<usize> = (0..nodes.len()).collect();
    let mut order: Vec<usize> = Vec::new();
    while !open.is_empty() {
        let ready = |index: &usize| nodes[*index].after.iter().all(|before| order.contains(before));
        let ready: Vec<usize> = open.iter().copied().filter(ready).collect();
        let chosen = ready[call.thread.random(ready.len() as u64) as usize];
        open.retain(|index| *index != chosen);
        order.push(chosen);
    }
    order
}

fn lookup<'s>(call: &Call, state: &'s State, handle: u64) -> Result<&'s Graph> {
    let unknown = || call.invalid(&format!("{handle:#x} is no graph, or was destroyed"));
    state.graphs.get(&handle).ok_or_else(unknown)
}

fn executable<'s>(call: &Call, state: &'s State, handle: u64) -> Result<&'s Exec> {
    let unknown = || call.invalid(&format!("{handle:#x} is no executable graph, or was destroyed"));
    state.execs.get(&handle).ok_or_else(unknown)
}

fn instantiate(call: &Call, out: &Out<u64>, handle: u64, flags: u64) -> Result {
    let (mut state, device) = call.context()?;
    out.check(call)?;
    if flags & DEVICE_LAUNCH != 0 {
        return Err(call.unsupported(Code::NOT_SUPPORTED, "launches of graphs from the device are not implemented"));
    }
    if flags & !(AUTO_FREE_ON_LAUNCH | USE_NODE_PRIORITY) != 0 {
        return Err(call.invalid(&format!("instantiation flags {flags:#x} are not known")));
    }
    let graph = lookup(call, &state, handle)?;
    let (nodes, graph_order): (Arc<[Node]>, u64) = (graph.nodes.clone().into(), graph.order);
    let has_memory = nodes.iter().any(|node| matches!(node.work, NodeWork::Alloc { .. } | NodeWork::Free { .. }));
    if has_memory && state.execs.values().any(|exec| exec.graph == handle) {
        let text = "a graph that allocates or frees memory has one executable graph at a time";
        return Err(call.invalid(text));
    }
    let (order, thread) = (state.new_order(), call.thread.name().to_string());
    let auto_free = flags & AUTO_FREE_ON_LAUNCH != 0;
    let exec = Exec { device, nodes, graph: handle, graph_order, auto_free, order, thread, last: None };
    let handle = state.new_handle(HandleKind::Exec);
    state.execs.insert(handle, exec);
    out.set(call, handle)
}

/// One launch under way.
struct Launch<'a> {
    call: &'a Call,
    stream: StreamId,
    device: DeviceId,
    /// Which graph it is, in words.
    graph: String,
}

impl Launch<'_> {
    /// Puts one node into the stream.
    fn submit(&self, state: &mut State, index: usize, node: &Node) -> Result {
        let Launch { call, stream, device, graph } = self;
        let name = format!("{} of {graph}, launched by {}", node.name(index), call.name);
        match &node.work {
            NodeWork::Work(Work::Kernel(kernel)) => {
                if !kernel.is_loaded(state) {
                    let text = format!("{name}: its module was unloaded");
                    state.report(call, Detector::USE_AFTER_FREE, text);
                    return Err(Code::INVALID_HANDLE);
                }
                let settings = call.thread.inner().settings.clone();
                state.submit_named(call, *stream, node.device, Work::Kernel(kernel.again(settings)), &name);
            }
            NodeWork::Work(work) => {
                state.submit_named(call, *stream, node.device, work.clone(), &name);
            }
            NodeWork::Alloc { address, bytes } => {
                let poison = crate::mem::Poison::of_seed(call.thread.inner().settings.seed);
                let work = Work::Revive { address: *address, poison };
                let position = state.submit_named(call, *stream, node.device, work, &name);
                let thread = call.thread.name().to_string();
                let origin = Origin {
                    bytes: *bytes,
                    by: call.name,
                    thread,
                    device: node.device,
                    ordered: Some((*stream, position, 0)),
                    freeing: None,
                    module: false,
                    graph: true,
                };
                state.add_allocation(*address, origin);
            }
            NodeWork::Free { address } => self.free(state, *address, &name)?,
            NodeWork::Record { event } => {
                super::event::record_in(call, state, *device, *event, *stream)?;
            }
            NodeWork::Wait { event } => {
                if let Some(recorded) = super::event::lookup(call, state, *event)?.recorded.clone() {
                    let after = [(recorded.stream, recorded.position)];
                    state.submit_after(call, *stream, Work::Marker, &after, &recorded.clock);
                }
            }
        }
        Ok(())
    }

    /// Releases memory of a graph.
    fn free(&self, state: &mut State, address: u64, name: &str) -> Result {
        let Launch { call, stream, device, .. } = self;
        let live = state.allocations.get(&address).filter(|origin| origin.freeing.is_none());
        let Some(bytes) = live.map(|origin| origin.bytes) else {
            let text = format!("{name} frees {}, which is not live", super::state::describe(address));
            state.report(call, Detector::USE_AFTER_FREE, text);
            return Err(Code::INVALID_VALUE);
        };
        state.submit_named(call, *stream, *device, Work::Release { address }, name);
        let (clock, label) = (state.clock_of(*stream), state.last_label(*stream));
        state.check_release(call, address, bytes, Some(&clock), &label);
        if let Some(origin) = state.allocations.get_mut(&address) {
            origin.freeing = Some(label);
        }
        Ok(())
    }
}

fn launch(call: &Call, mut state: Guard, device: DeviceId, handle: u64, stream: StreamId) -> Result {
    let exec = executable(call, &state, handle)?;
    let (nodes, last, auto_free) = (exec.nodes.clone(), exec.last.clone(), exec.auto_free);
    let graph = format!("graph {}", exec.graph_order);
    let launch = Launch { call, stream, device, graph };
    if let Some((on, position, clock)) = &last {
        state.submit_after(call, stream, Work::Marker, &[(*on, *position)], clock);
    }
    let live = |state: &State, address| state.allocations.get(&address).is_some_and(|origin| origin.freeing.is_none());
    for address in allocated(&nodes).filter(|address| live(&state, *address)).collect::<Vec<u64>>() {
        if !auto_free {
            let text = format!("{} of its last launch was not freed", super::state::describe(address));
            return Err(call.invalid(&text));
        }
        launch.free(&mut state, address, call.name)?;
    }
    for index in schedule(call, &nodes) {
        launch.submit(&mut state, index, &nodes[index])?;
    }
    let position = state.submit(call, stream, Work::Marker);
    let end = (stream, position, state.clock_of(stream));
    if let Some(exec) = state.execs.get_mut(&handle) {
        exec.last = Some(end);
    }
    queue::settle(call, state, stream, position)
}

entry! {
    fn cuGraphCreate(call, out: Out<u64>, flags: u32) {
        let (mut state, device) = call.context()?;
        out.check(call)?;
        if flags != 0 {
            return Err(call.invalid(&format!("graph flags are {flags}, must be 0")));
        }
        let graph = Graph::new(call, &mut state, device);
        let handle = state.new_handle(HandleKind::Graph);
        state.graphs.insert(handle, graph);
        out.set(call, handle)
    }

    /// Executable graphs made from it stay.
    fn cuGraphDestroy(call, handle: u64) {
        let mut state = call.state()?;
        lookup(call, &state, handle)?;
        if state.is_capturing_into(handle) {
            return Err(call.invalid("a capture into the graph is under way"));
        }
        state.graphs.remove(&handle);
        Ok(())
    }

    /// Answers the number of nodes, and as many handles as there is room for.
    fn cuGraphGetNodes(call, handle: u64, out: Out<u64>, count: In<usize>) {
        let state = call.state()?;
        let graph = lookup(call, &state, handle)?;
        let room = count.get(call)?;
        // SAFETY: the entry's contract says that the number may be written too; it was found not to be null.
        let count = unsafe { Out::at(count.raw() as usize) };
        if out.is_wanted() {
            for index in 0..room {
                out.set_at(call, index, graph.nodes.get(index).map_or(0, |node| node.handle))?;
            }
            return count.set(call, room.min(graph.nodes.len()));
        }
        count.set(call, graph.nodes.len())
    }

    fn cuGraphNodeGetType(call, node: u64, out: Out<u32>) {
        let state = call.state()?;
        let found = state.graphs.values().flat_map(|graph| &graph.nodes).find(|known| known.handle == node);
        match found {
            Some(found) => out.set(call, found.kind()),
            None => Err(call.invalid(&format!("{node:#x} is no node of a graph"))),
        }
    }

    fn cuGraphInstantiateWithFlags(call, out: Out<u64>, graph: u64, flags: u64) {
        instantiate(call, &out, graph, flags)
    }

    /// The former versions of the entry: nothing fails here that the log could tell more about.
    fn cuGraphInstantiate_v2(
        call, out: Out<u64>, graph: u64, failed: Out<u64>, log: Out<std::ffi::c_char>, room: usize
    ) {
        failed.set_if_wanted(0);
        if room > 0 {
            log.set_if_wanted(0);
        }
        instantiate(call, &out, graph, 0)
    }

    fn cuGraphInstantiate(
        call, out: Out<u64>, graph: u64, failed: Out<u64>, log: Out<std::ffi::c_char>, room: usize
    ) {
        failed.set_if_wanted(0);
        if room > 0 {
            log.set_if_wanted(0);
        }
        instantiate(call, &out, graph, 0)
    }

    fn cuGraphLaunch(call, exec: u64, stream: u64) {
        let (mut state, device) = call.context()?;
        let stream = capture::stream_for_work(call, &mut state, device, stream)?;
        if state.streams[&stream].capture.is_some() {
            executable(call, &state, exec)?;
            return Err(call.unsupported(Code::NOT_SUPPORTED, "graphs within graphs are not implemented"));
        }
        launch(call, state, device, exec, stream)
    }

    /// There is nothing to upload.
    fn cuGraphUpload(call, exec: u64, stream: u64) {
        let (mut state, device) = call.context()?;
        capture::stream_for_work(call, &mut state, device, stream)?;
        executable(call, &state, exec)?;
        Ok(())
    }

    /// Launches that are under way finish.
    fn cuGraphExecDestroy(call, exec: u64) {
        let mut state = call.state()?;
        executable(call, &state, exec)?;
        state.execs.remove(&exec);
        Ok(())
    }
}
