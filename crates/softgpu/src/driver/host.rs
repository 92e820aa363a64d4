//! Pinned host memory: copies to and from it are truly asynchronous, so the driver must know it.

use super::call::{Call, In, Out, entry};
use super::capture;
use super::code::Code;
use super::queue;
use super::state::{self, DeviceId, State};
use crate::ctl::types::Detector;
use std::ffi::c_void;

/// Alignment of a block.
const PAGE: usize = 4096;
/// What freed blocks hold.
const FREED: u8 = 0xDD;

/// A block of pinned memory.
pub struct HostBlock {
    /// The device whose context it was made in.
    pub device: DeviceId,
    /// Bytes asked for.
    pub bytes: usize,
    /// Which pinned allocation it is, counted from 1.
    pub order: u64,
    /// Flags it was made with.
    pub flags: u32,
    /// The thread that made it, in words.
    pub thread: String,
    /// It was freed. Its pages stay mapped, so that a copy that lands late hits poison and not another object.
    pub freed: bool,
}

impl State {
    /// The block that holds an address, freed or not.
    pub fn host_block(&self, address: usize) -> Option<(usize, &HostBlock)> {
        let (&base, block) = self.host.range(..=address).next_back()?;
        (address - base < block.bytes.max(1)).then_some((base, block))
    }

    /// Whether a range of host memory is pinned and live.
    pub fn is_pinned(&self, address: usize, bytes: usize) -> bool {
        self.host_block(address).is_some_and(|(base, block)| {
            !block.freed && address - base <= block.bytes && bytes <= block.bytes - (address - base)
        })
    }
}

/// What is wrong with a range of host memory that an operation is about to use, if it was pinned and is not any more.
pub fn freed_use(address: usize, bytes: usize) -> Option<String> {
    let state = state::lock();
    let (base, block) = state.host_block(address)?;
    block.freed.then(|| {
        let offset = address - base;
        let HostBlock { bytes: size, order, .. } = block;
        format!("{bytes} bytes at offset {offset} of pinned block {order} of {size} bytes, which was freed before the copy ran")
    })
}

fn allocate(call: &Call, out: &Out<*mut c_void>, bytes: usize, flags: u32) -> super::code::Result {
    let (mut state, device) = call.context()?;
    capture::check_unsafe(call, &mut state)?;
    out.check(call)?;
    // Flags: portable, device-mapped, write-combined. Mapping is what every block of a unified address space has.
    if flags & !7 != 0 {
        return Err(
            call.invalid(&format!("flags {flags:#x} name something other than portable, mapped, write-combined"))
        );
    }
    if bytes == 0 {
        return Err(call.invalid("a block of 0 bytes"));
    }
    let order = 1 + state.host.len() as u64;
    let Some(rounded) = bytes.checked_next_multiple_of(PAGE) else {
        return Err(call.refuse(Code::OUT_OF_MEMORY, &format!("{bytes} bytes of pinned memory")));
    };
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new anonymous mapping touches no existing memory.
    let base =
        unsafe { libc::mmap(std::ptr::null_mut(), rounded, libc::PROT_READ | libc::PROT_WRITE, anonymous, -1, 0) };
    if base == libc::MAP_FAILED {
        return Err(call.refuse(Code::OUT_OF_MEMORY, &format!("{bytes} bytes of pinned memory")));
    }
    // SAFETY: the mapping has `rounded` >= bytes bytes and nobody else knows it yet.
    unsafe { base.cast::<u8>().write_bytes(call.thread.inner().settings.poison(), bytes) };
    let block = HostBlock { device, bytes, order, flags, thread: call.thread.name().to_string(), freed: false };
    state.host.insert(base as usize, block);
    out.set(call, base)
}

entry! {
    fn cuMemHostAlloc(call, out: Out<*mut c_void>, bytes: usize, flags: u32) {
        allocate(call, &out, bytes, flags)
    }

    fn cuMemAllocHost_v2(call, out: Out<*mut c_void>, bytes: usize) {
        allocate(call, &out, bytes, 0)
    }

    fn cuMemFreeHost(call, address: *mut c_void) {
        let (mut state, _, sticky) = call.faulted_context()?;
        capture::check_unsafe(call, &mut state)?;
        let base = address as usize;
        match state.host.get_mut(&base) {
            Some(block) if !block.freed => {
                block.freed = true;
                // SAFETY: the block is mapped for the life of the process and holds `bytes` bytes.
                unsafe { address.cast::<u8>().write_bytes(FREED, block.bytes) };
            }
            Some(block) => {
                let text = format!("cuMemFreeHost: double free of pinned block {} of {} bytes", block.order, block.bytes);
                state.report(call, Detector::PINNED_MEMORY, text);
                return Err(Code::INVALID_VALUE);
            }
            None => return Err(call.invalid(&format!("no pinned block begins at {address:p}"))),
        }
        sticky.map_or(Ok(()), Err)
    }

    fn cuMemHostGetFlags(call, out: Out<u32>, address: In<c_void>) {
        let (state, _) = call.context()?;
        match state.host_block(address.raw() as usize) {
            Some((_, block)) if !block.freed => out.set(call, block.flags),
            _ => Err(call.invalid("the address is not pinned memory")),
        }
    }

    fn cuLaunchHostFunc(call, stream: u64, function: Option<unsafe extern "C" fn(*mut c_void)>, data: *mut c_void) {
        let (mut state, device) = call.context()?;
        let stream = capture::stream_for_work(call, &mut state, device, stream)?;
        let Some(function) = function else { return Err(call.invalid("the function is null")) };
        let work = super::work::Work::Host { function, data: super::call::HostPointer(data) };
        let position = state.submit(call, stream, work);
        queue::settle(call, state, stream, position)
    }
}
