//! What a program has not given back.

use super::state::{self, DeviceId, State};
use crate::ctl::types::{Leak, LeakKind};

/// Everything that is live in a device's context.
pub fn of_device(state: &State, device: DeviceId) -> Vec<Leak> {
    let mut leaks = Vec::new();
    let mut add = |kind, order, bytes, made_by: &str, what: String| {
        leaks.push(Leak { kind, order, bytes, made_by: made_by.to_string(), what });
    };
    let allocations = state.allocations.iter().filter(|(_, origin)| origin.device == device && !origin.module);
    for (base, origin) in allocations {
        // Released, though its stream has not got there yet; or of a capture, which only has the address.
        if origin.freeing.is_none() && (!origin.graph || origin.ordered.is_some()) {
            let order = state::space().owner(*base).map_or(0, |info| info.order);
            let what = format!("{} of {}", state::describe(*base), origin.by);
            add(LeakKind::Memory, order, origin.bytes, &origin.thread, what);
        }
    }
    for block in state.host.values().filter(|block| block.device == device && !block.freed) {
        let what = format!("pinned block {} of {} bytes", block.order, block.bytes);
        add(LeakKind::Pinned, block.order, block.bytes as u64, &block.thread, what);
    }
    let defaults =
        |id| state.device(device).legacy == id || state.device(device).per_thread.values().any(|own| *own == id);
    for (id, stream) in state.streams.iter().filter(|(_, stream)| stream.device == device && !stream.destroyed) {
        if !defaults(*id) {
            add(LeakKind::Stream, stream.order, 0, &stream.thread, stream.name.clone());
        }
    }
    for event in state.events.values().filter(|event| event.device == device) {
        add(LeakKind::Event, event.order, 0, &event.thread, format!("event {}", event.order));
    }
    for module in state.modules.values().filter(|module| module.device == device) {
        let what = format!("module {} ({})", module.order, module.origin);
        add(LeakKind::Module, module.order, 0, &module.thread, what);
    }
    for graph in state.graphs.values().filter(|graph| graph.device == device) {
        let what = format!("graph {} of {} nodes", graph.order, graph.nodes.len());
        add(LeakKind::Graph, graph.order, 0, &graph.thread, what);
    }
    for exec in state.execs.values().filter(|exec| exec.device == device) {
        add(LeakKind::Exec, exec.order, 0, &exec.thread, exec.name());
    }
    leaks.sort_by_key(|leak| (leak.kind, leak.order));
    leaks
}
