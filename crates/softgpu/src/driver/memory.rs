//! Device memory: allocation, release, and what an address belongs to.

use super::call::{Call, Out, entry};
use super::capture;
use super::code::{Code, Result};
use super::queue;
use super::state::{self, DeviceId, Guard, Origin, State, context_handle};
use super::work::Work;
use crate::ctl::types::{Detector, Finding};
use crate::mem::{MemoryFaultKind, Poison};
use std::ffi::c_void;

/// Takes memory of a device; waits for pending releases before it gives up.
fn take(call: &Call, state: Guard, device: DeviceId, bytes: u64) -> Result<(Guard, u64)> {
    if bytes == 0 {
        return Err(call.invalid("an allocation of 0 bytes"));
    }
    let poison = Poison::of_seed(call.thread.inner().settings.seed);
    drop(state);
    if let Ok(base) = state::space().alloc(bytes, device.0, poison) {
        return Ok((state::lock(), base));
    }
    let state = state::lock();
    let everything = state.everything(device);
    drop(queue::drive_all(state, &everything));
    match state::space().alloc(bytes, device.0, poison) {
        Ok(base) => Ok((state::lock(), base)),
        Err(error) => Err(call.refuse(Code::OUT_OF_MEMORY, &error.to_string())),
    }
}

fn origin(call: &Call, device: DeviceId, bytes: u64) -> Origin {
    let thread = call.thread.name().to_string();
    Origin { bytes, by: call.name, thread, device, ordered: None, freeing: None, module: false, graph: false }
}

/// Takes stream-ordered memory of a pool.
pub fn take_ordered(call: &Call, out: &Out<u64>, bytes: usize, pool: Option<u64>, stream: u64) -> Result {
    let (mut state, device) = call.context()?;
    out.check(call)?;
    let stream = capture::stream_for_work(call, &mut state, device, stream)?;
    let pool = pool.unwrap_or(state.device(device).current_pool);
    let of_pool = super::pool::lookup(call, &state, pool)?.device;
    if of_pool != device {
        let text = format!("the pool belongs to device {}, the stream to device {}", of_pool.0, device.0);
        return Err(call.invalid(&text));
    }
    if state.streams[&stream].capture.is_some() {
        let address = capture::allocate(call, &mut state, stream, device, bytes as u64)?;
        return out.set(call, address);
    }
    let (mut state, base) = take(call, state, device, bytes as u64)?;
    let position = state.submit(call, stream, Work::Ready { address: base });
    let origin = Origin { ordered: Some((stream, position, pool)), ..origin(call, device, bytes as u64) };
    state.add_allocation(base, origin);
    out.set(call, base)?;
    queue::settle(call, state, stream, position)
}

/// The allocation that begins at an address and may be freed by the program. Anything else is a finding.
fn freeable(call: &Call, state: &State, address: u64) -> Result<Origin> {
    let described = || state::describe(address);
    let text = match state.allocations.get(&address) {
        Some(origin) if origin.module => format!("{}: {} is a variable of a module", call.name, described()),
        Some(Origin { freeing: Some(freeing), .. }) => {
            format!("{}: double free of {}, which {freeing} frees", call.name, described())
        }
        Some(origin) => return Ok(origin.clone()),
        None => format!("{}: no live allocation begins at {address:#x}: {}", call.name, described()),
    };
    refuse_memory(call, Detector::USE_AFTER_FREE, text)
}

/// Reports a range that the call should not have been given; the context stays usable, as on hardware.
fn refuse_memory<T>(call: &Call, detector: Detector, text: String) -> Result<T> {
    call.thread.report(Finding { detector, text: text.clone(), at: None, submission: None });
    call.thread.set_last_error(text);
    Err(Code::INVALID_VALUE)
}

/// An error unless the range lies in one live allocation.
pub fn check_range(call: &Call, state: &State, address: u64, bytes: u64) -> Result {
    if let Some((base, origin)) = state.origin(address)
        && bytes <= origin.bytes - (address - base)
    {
        return Ok(());
    }
    let Err(fault) = state::space().first_uninitialised(address, bytes) else {
        return Err(call.invalid(&format!("{bytes} bytes at {address:#x} are no memory of a program")));
    };
    let detector =
        if fault.kind == MemoryFaultKind::Freed { Detector::USE_AFTER_FREE } else { Detector::OUT_OF_BOUNDS };
    refuse_memory(call, detector, format!("{}: {fault}", call.name))
}

entry! {
    fn cuMemAlloc_v2(call, out: Out<u64>, bytes: usize) {
        let (mut state, device) = call.context()?;
        capture::check_unsafe(call, &mut state)?;
        out.check(call)?;
        let (mut state, base) = take(call, state, device, bytes as u64)?;
        state.add_allocation(base, origin(call, device, bytes as u64));
        out.set(call, base)
    }

    fn cuMemAllocAsync(call, out: Out<u64>, bytes: usize, stream: u64) {
        take_ordered(call, &out, bytes, None, stream)
    }

    fn cuMemAllocFromPoolAsync(call, out: Out<u64>, bytes: usize, pool: u64, stream: u64) {
        take_ordered(call, &out, bytes, Some(pool), stream)
    }

    /// Does not wait for pending work: whoever relies on that is reported.
    fn cuMemFree_v2(call, address: u64) {
        let (mut state, _, sticky) = call.faulted_context()?;
        capture::check_unsafe(call, &mut state)?;
        let origin = freeable(call, &state, address)?;
        state.check_release(call, address, origin.bytes, None, call.name);
        state.remove_allocation(address);
        drop(state);
        if let Err(error) = state::space().free(address, call.name) {
            return Err(call.invalid(&error.to_string()));
        }
        sticky.map_or(Ok(()), Err)
    }

    /// An operation of the stream: the memory lives until the stream gets there.
    fn cuMemFreeAsync(call, address: u64, stream: u64) {
        let (mut state, device, sticky) = call.faulted_context()?;
        let stream = capture::stream_for_work(call, &mut state, device, stream)?;
        if state.streams[&stream].capture.is_some() {
            let captured = capture::release(call, &mut state, stream, address);
            return sticky.map_or(captured, Err);
        }
        let origin = freeable(call, &state, address)?;
        if origin.ordered.is_none() {
            return Err(call.invalid(&format!("memory of {} is freed with cuMemFree_v2", origin.by)));
        }
        let position = state.submit(call, stream, Work::Release { address });
        let (clock, label) = (state.clock_of(stream), state.last_label(stream));
        state.check_release(call, address, origin.bytes, Some(&clock), &label);
        if let Some(origin) = state.allocations.get_mut(&address) {
            origin.freeing = Some(label);
        }
        let settled = queue::settle(call, state, stream, position);
        sticky.map_or(settled, Err)
    }

    fn cuMemGetInfo_v2(call, free: Out<usize>, total: Out<usize>) {
        let (_state, device) = call.context()?;
        let (used, limit) = state::space().usage(device.0);
        free.set(call, (limit - used.min(limit)) as usize)?;
        total.set(call, limit as usize)
    }

    fn cuMemGetAddressRange_v2(call, base: Out<u64>, bytes: Out<usize>, address: u64) {
        let (state, _) = call.context()?;
        let Some((start, origin)) = state.origin(address) else {
            return Err(call.refuse(Code::NOT_FOUND, &format!("{address:#x}: {}", state::space().describe(address))));
        };
        base.set_if_wanted(start);
        bytes.set_if_wanted(origin.bytes as usize);
        Ok(())
    }

    fn cuPointerGetAttribute(call, out: *mut c_void, attribute: u32, address: u64) {
        let state = call.state()?;
        if out.is_null() {
            return Err(call.invalid("a pointer for the result is null"));
        }
        let (device, base, bytes, on_host, pool) = if let Some((base, origin)) = state.origin(address) {
            (origin.device, base, origin.bytes, false, origin.ordered.map_or(0, |(_, _, pool)| pool))
        } else {
            match state.host_block(address as usize) {
                Some((base, block)) if !block.freed => (block.device, base as u64, block.bytes as u64, true, 0),
                _ => return Err(call.invalid(&format!("{address:#x}: {}", state::space().describe(address)))),
            }
        };
        // How many bytes an answer has depends on the attribute.
        let (value, size) = match attribute {
            1 => (context_handle(device), 8),
            2 => (if on_host { 1 } else { 2 }, 4),
            3 => (address, 8),
            4 if on_host => (address, 8),
            8 => (0, 4),
            9 => (u64::from(device.0), 4),
            11 => (base, 8),
            12 => (bytes, 8),
            13 => (1, 4),
            17 => (pool, 8),
            other => return Err(call.invalid(&format!("pointer attribute {other} has no answer for {address:#x}"))),
        };
        // SAFETY: not null, checked above; the entry's contract gives it the size of the attribute, which is `size`.
        unsafe { out.cast::<u8>().copy_from_nonoverlapping(value.to_le_bytes().as_ptr(), size) };
        Ok(())
    }
}
