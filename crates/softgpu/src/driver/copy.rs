//! Copies and fills.

use super::call::{Call, HostPointer, entry};
use super::capture;
use super::code::{Code, Result};
use super::memory::check_range;
use super::queue::{self, StreamId};
use super::state::{Guard, context_of_handle};
use super::work::{Source, Work};
use crate::ctl::types::Streams;
use std::ffi::c_void;

/// When a call comes back, seen from the host.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Return {
    /// As soon as the stream's mode allows.
    Submitted,
    /// When the operation is done.
    Done,
}

/// Where a call puts its work.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Queue {
    /// The stream of a handle.
    Stream(u64),
    /// The legacy default stream, in an entry that names no stream: no capture sees it.
    Unnamed,
}

/// The state, and the stream that a call puts its work into.
fn begin(call: &Call, queue: Queue) -> Result<(Guard, StreamId)> {
    let (mut state, device) = call.context()?;
    let handle = match queue {
        Queue::Stream(handle) => handle,
        Queue::Unnamed => {
            capture::check_unsafe(call, &mut state)?;
            0
        }
    };
    let stream = capture::stream_for_work(call, &mut state, device, handle)?;
    Ok((state, stream))
}

/// Enqueues work and comes back when it may.
fn enqueue(call: &Call, mut state: Guard, stream: StreamId, work: Work, back: Return) -> Result {
    let position = state.submit(call, stream, work);
    if back == Return::Done {
        state = queue::drive(state, stream, position);
    }
    queue::settle(call, state, stream, position)
}

/// Host memory, or an error.
fn host(call: &Call, address: *mut c_void) -> Result<HostPointer> {
    if address.is_null() { Err(call.invalid("the host pointer is null")) } else { Ok(HostPointer(address)) }
}

/// Refuses to capture a copy of pageable memory: it would be staged now, or waited for.
fn check_pageable(call: &Call, state: &Guard, stream: StreamId, pinned: bool) -> Result {
    if pinned || state.streams[&stream].capture.is_none() {
        return Ok(());
    }
    let text = "the stream is capturing, and the host memory is not pinned";
    Err(call.refuse(Code::STREAM_CAPTURE_UNSUPPORTED, text))
}

fn to_device(call: &Call, to: u64, from: *const c_void, bytes: usize, queue: Queue, back: Return) -> Result {
    let (state, stream) = begin(call, queue)?;
    if bytes == 0 {
        return Ok(());
    }
    let from = host(call, from.cast_mut())?;
    check_range(call, &state, to, bytes as u64)?;
    let pinned = state.is_pinned(from.0 as usize, bytes);
    check_pageable(call, &state, stream, pinned)?;
    let stays = pinned || call.thread.inner().streams == Streams::Sync;
    let source = if stays || back == Return::Done {
        Source::Pinned(from, bytes as u64)
    } else {
        // SAFETY: the program says that `bytes` bytes are at `from` during this call.
        Source::Staged(unsafe { std::slice::from_raw_parts(from.0.cast::<u8>(), bytes) }.to_vec())
    };
    enqueue(call, state, stream, Work::ToDevice { to, from: source }, back)
}

fn to_host(call: &Call, to: *mut c_void, from: u64, bytes: usize, queue: Queue, back: Return) -> Result {
    let (state, stream) = begin(call, queue)?;
    if bytes == 0 {
        return Ok(());
    }
    let to = host(call, to)?;
    check_range(call, &state, from, bytes as u64)?;
    // A copy to pageable memory is complete when the call returns; programs rely on it.
    let pinned = state.is_pinned(to.0 as usize, bytes);
    check_pageable(call, &state, stream, pinned)?;
    let back = if pinned { back } else { Return::Done };
    enqueue(call, state, stream, Work::ToHost { to, from, bytes: bytes as u64 }, back)
}

fn on_device(call: &Call, to: u64, from: u64, bytes: usize, queue: Queue) -> Result {
    let (state, stream) = begin(call, queue)?;
    if bytes == 0 {
        return Ok(());
    }
    check_range(call, &state, from, bytes as u64)?;
    check_range(call, &state, to, bytes as u64)?;
    enqueue(call, state, stream, Work::Copy { to, from, bytes: bytes as u64 }, Return::Submitted)
}

/// A copy whose direction follows from the addresses.
fn by_address(call: &Call, to: u64, from: u64, bytes: usize, queue: Queue, back: Return) -> Result {
    let (to_is_device, from_is_device) = {
        let (state, _) = call.context()?;
        (state.origin(to).is_some(), state.origin(from).is_some())
    };
    match (to_is_device, from_is_device) {
        (true, true) => on_device(call, to, from, bytes, queue),
        (true, false) => to_device(call, to, from as *const c_void, bytes, queue, back),
        (false, true) => to_host(call, to as *mut c_void, from, bytes, queue, back),
        (false, false) => Err(call.invalid(&format!("neither {to:#x} nor {from:#x} is live device memory"))),
    }
}

fn fill(call: &Call, to: u64, value: u32, width: usize, count: usize, queue: Queue) -> Result {
    let (state, stream) = begin(call, queue)?;
    if count == 0 {
        return Ok(());
    }
    if !to.is_multiple_of(width as u64) {
        return Err(call.invalid(&format!("{to:#x} is not a multiple of {width}")));
    }
    let Some(bytes) = (count as u64).checked_mul(width as u64) else {
        return Err(call.invalid(&format!("{count} elements of {width} bytes are more than any memory")));
    };
    check_range(call, &state, to, bytes)?;
    let work = Work::Fill { to, pattern: value.to_le_bytes(), width, count: count as u64 };
    enqueue(call, state, stream, work, Return::Submitted)
}

/// Refuses memory that does not belong to the context it is said to belong to.
fn check_peers(call: &Call, peers: &[(u64, u64)]) -> Result {
    for (address, context) in peers {
        let (state, _) = call.context()?;
        let owner = state.origin(*address).map(|(_, origin)| origin.device);
        if owner.is_some() && owner != context_of_handle(*context) {
            let text = format!("{address:#x} does not belong to the context {context:#x}");
            return Err(call.refuse(Code::INVALID_VALUE, &text));
        }
    }
    Ok(())
}

entry! {
    fn cuMemcpyHtoDAsync_v2(call, to: u64, from: *const c_void, bytes: usize, stream: u64) {
        to_device(call, to, from, bytes, Queue::Stream(stream), Return::Submitted)
    }

    fn cuMemcpyDtoHAsync_v2(call, to: *mut c_void, from: u64, bytes: usize, stream: u64) {
        to_host(call, to, from, bytes, Queue::Stream(stream), Return::Submitted)
    }

    fn cuMemcpyDtoDAsync_v2(call, to: u64, from: u64, bytes: usize, stream: u64) {
        on_device(call, to, from, bytes, Queue::Stream(stream))
    }

    fn cuMemcpyAsync(call, to: u64, from: u64, bytes: usize, stream: u64) {
        by_address(call, to, from, bytes, Queue::Stream(stream), Return::Submitted)
    }

    fn cuMemcpyHtoD_v2(call, to: u64, from: *const c_void, bytes: usize) {
        to_device(call, to, from, bytes, Queue::Unnamed, Return::Done)
    }

    fn cuMemcpyDtoH_v2(call, to: *mut c_void, from: u64, bytes: usize) {
        to_host(call, to, from, bytes, Queue::Unnamed, Return::Done)
    }

    /// Within the device even this form does not wait: the host sees nothing of it.
    fn cuMemcpyDtoD_v2(call, to: u64, from: u64, bytes: usize) {
        on_device(call, to, from, bytes, Queue::Unnamed)
    }

    fn cuMemcpy(call, to: u64, from: u64, bytes: usize) {
        by_address(call, to, from, bytes, Queue::Unnamed, Return::Done)
    }

    fn cuMemcpyPeer(call, to: u64, to_context: u64, from: u64, from_context: u64, bytes: usize) {
        check_peers(call, &[(to, to_context), (from, from_context)])?;
        on_device(call, to, from, bytes, Queue::Unnamed)
    }

    fn cuMemcpyPeerAsync(call, to: u64, to_context: u64, from: u64, from_context: u64, bytes: usize, stream: u64) {
        check_peers(call, &[(to, to_context), (from, from_context)])?;
        on_device(call, to, from, bytes, Queue::Stream(stream))
    }

    fn cuMemsetD8Async(call, to: u64, value: u8, count: usize, stream: u64) {
        fill(call, to, value.into(), 1, count, Queue::Stream(stream))
    }

    fn cuMemsetD16Async(call, to: u64, value: u16, count: usize, stream: u64) {
        fill(call, to, value.into(), 2, count, Queue::Stream(stream))
    }

    fn cuMemsetD32Async(call, to: u64, value: u32, count: usize, stream: u64) {
        fill(call, to, value, 4, count, Queue::Stream(stream))
    }

    fn cuMemsetD8_v2(call, to: u64, value: u8, count: usize) {
        fill(call, to, value.into(), 1, count, Queue::Unnamed)
    }

    fn cuMemsetD16_v2(call, to: u64, value: u16, count: usize) {
        fill(call, to, value.into(), 2, count, Queue::Unnamed)
    }

    fn cuMemsetD32_v2(call, to: u64, value: u32, count: usize) {
        fill(call, to, value, 4, count, Queue::Unnamed)
    }
}
