//! Primary contexts, one per device, and which of them is current on a thread.

use super::call::{Call, Out, entry};
use super::capture;
use super::code::{Code, Result};
use super::device;
use super::leak;
use super::queue;
use super::state::{self, DeviceId, Guard, context_handle, context_of_handle};
use std::collections::HashMap;

/// `CU_LIMIT_STACK_SIZE`, `CU_LIMIT_PRINTF_FIFO_SIZE`, `CU_LIMIT_MALLOC_HEAP_SIZE`, with what a fresh context has.
const LIMITS: [(u32, usize); 3] = [(0, 1024), (1, 1 << 20), (2, 8 << 20)];

/// The device of a context handle that is live.
fn lookup(call: &Call, state: &Guard, handle: u64) -> Result<DeviceId> {
    let device = context_of_handle(handle).filter(|device| state.has_device(*device));
    let Some(device) = device else {
        return Err(call.refuse(Code::INVALID_CONTEXT, &format!("{handle:#x} is no context")));
    };
    if state.device(device).retained == 0 {
        return Err(
            call.refuse(Code::CONTEXT_IS_DESTROYED, &format!("the context of device {} was released", device.0))
        );
    }
    Ok(device)
}

fn release(call: &Call, ordinal: i32) -> Result {
    let mut state = call.state()?;
    let device = device::lookup(call, &state, ordinal)?;
    if state.device(device).retained == 0 {
        return Err(call.refuse(Code::INVALID_CONTEXT, &format!("the context of device {ordinal} is not retained")));
    }
    if state.device(device).retained == 1 {
        state = destroy(call, state, device);
    }
    state.device_mut(device).retained -= 1;
    Ok(())
}

/// Finishes all work, reports what was left behind, and frees it.
fn destroy(call: &Call, mut state: Guard, device: DeviceId) -> Guard {
    state.drop_captures(device);
    let everything = state.everything(device);
    state = queue::drive_all(state, &everything);
    // After a failed launch a program cannot free anything any more: what is left then is no leak.
    if state.device(device).sticky.is_none() {
        for leak in leak::of_device(&state, device) {
            call.thread.report_leak(&leak);
        }
    }
    let gone: Vec<u64> =
        state.allocations.iter().filter(|(_, origin)| origin.device == device).map(|(base, _)| *base).collect();
    for base in gone {
        state.remove_allocation(base);
        // Known to be live: it was in the table.
        let _ = state::space().free(base, "the release of its context");
    }
    state.modules.retain(|_, module| module.device != device);
    state.functions.retain(|_, function| function.device != device);
    state.events.retain(|_, event| event.device != device);
    state.graphs.retain(|_, graph| graph.device != device);
    state.execs.retain(|_, exec| exec.device != device);
    let (default_pool, legacy) = (state.device(device).default_pool, state.device(device).legacy);
    state.pools.retain(|handle, pool| pool.device != device || *handle == default_pool);
    state.streams.retain(|id, stream| stream.device != device || *id == legacy);
    let device = state.device_mut(device);
    device.sticky = None;
    device.once = None;
    device.per_thread.clear();
    device.current_pool = default_pool;
    device.limits = HashMap::new();
    device.cache_config = 0;
    state
}

entry! {
    fn cuDevicePrimaryCtxRetain(call, out: Out<u64>, ordinal: i32) {
        let mut state = call.state()?;
        let device = device::lookup(call, &state, ordinal)?;
        out.check(call)?;
        state.device_mut(device).retained += 1;
        out.set(call, context_handle(device))
    }

    fn cuDevicePrimaryCtxRelease_v2(call, ordinal: i32) {
        release(call, ordinal)
    }

    fn cuDevicePrimaryCtxRelease(call, ordinal: i32) {
        release(call, ordinal)
    }

    /// Destroys the context whoever retains it: the way out of a sticky error.
    fn cuDevicePrimaryCtxReset_v2(call, ordinal: i32) {
        let state = call.state()?;
        let device = device::lookup(call, &state, ordinal)?;
        drop(destroy(call, state, device));
        Ok(())
    }

    fn cuDevicePrimaryCtxGetState(call, ordinal: i32, flags: Out<u32>, active: Out<i32>) {
        let state = call.state()?;
        let device = device::lookup(call, &state, ordinal)?;
        flags.set_if_wanted(state.device(device).flags);
        active.set_if_wanted(i32::from(state.device(device).retained > 0));
        Ok(())
    }

    fn cuDevicePrimaryCtxSetFlags_v2(call, ordinal: i32, flags: u32) {
        let mut state = call.state()?;
        let device = device::lookup(call, &state, ordinal)?;
        state.device_mut(device).flags = flags;
        Ok(())
    }

    fn cuCtxGetCurrent(call, out: Out<u64>) {
        let _state = call.state()?;
        out.set(call, call.thread.current_context().map_or(0, context_handle))
    }

    fn cuCtxSetCurrent(call, handle: u64) {
        let state = call.state()?;
        let device = if handle == 0 { None } else { Some(lookup(call, &state, handle)?) };
        call.thread.set_context(device);
        Ok(())
    }

    fn cuCtxPushCurrent_v2(call, handle: u64) {
        let state = call.state()?;
        let device = lookup(call, &state, handle)?;
        call.thread.push_context(device);
        Ok(())
    }

    fn cuCtxPopCurrent_v2(call, out: Out<u64>) {
        let _state = call.state()?;
        match call.thread.pop_context() {
            Some(device) => {
                out.set_if_wanted(context_handle(device));
                Ok(())
            }
            None => Err(call.refuse(Code::INVALID_CONTEXT, "no context is current on this thread")),
        }
    }

    fn cuCtxGetDevice(call, out: Out<i32>) {
        let (_state, device) = call.context()?;
        out.set(call, device.0 as i32)
    }

    fn cuCtxGetApiVersion(call, handle: u64, out: Out<u32>) {
        let state = call.state()?;
        if handle != 0 {
            lookup(call, &state, handle)?;
        }
        out.set(call, 3020)
    }

    fn cuCtxGetFlags(call, out: Out<u32>) {
        let (state, device) = call.context()?;
        out.set(call, state.device(device).flags)
    }

    fn cuCtxSetFlags(call, flags: u32) {
        let (mut state, device) = call.context()?;
        state.device_mut(device).flags = flags;
        Ok(())
    }

    fn cuCtxSynchronize(call) {
        let (mut state, device) = call.context()?;
        capture::check_context(call, &mut state, device)?;
        let everything = state.everything(device);
        let mut state = queue::drive_all(state, &everything);
        state.verdict(device)
    }

    fn cuCtxGetLimit(call, out: Out<usize>, limit: u32) {
        let (state, device) = call.context()?;
        let fresh = LIMITS.iter().find(|(known, _)| *known == limit);
        match fresh {
            Some((_, fresh)) => out.set(call, state.device(device).limits.get(&limit).copied().unwrap_or(*fresh)),
            None => Err(call.refuse(Code::UNSUPPORTED_LIMIT, &format!("limit {limit} is not known"))),
        }
    }

    fn cuCtxSetLimit(call, limit: u32, value: usize) {
        let (mut state, device) = call.context()?;
        if LIMITS.iter().all(|(known, _)| *known != limit) {
            return Err(call.refuse(Code::UNSUPPORTED_LIMIT, &format!("limit {limit} is not known")));
        }
        state.device_mut(device).limits.insert(limit, value);
        Ok(())
    }

    fn cuCtxGetCacheConfig(call, out: Out<u32>) {
        let (state, device) = call.context()?;
        out.set(call, state.device(device).cache_config)
    }

    /// A preference: remembered, without effect.
    fn cuCtxSetCacheConfig(call, config: u32) {
        let (mut state, device) = call.context()?;
        if config > 3 {
            return Err(call.invalid(&format!("cache preference {config} is not known")));
        }
        state.device_mut(device).cache_config = config;
        Ok(())
    }
}
