//! Loads and stores of device memory, 32 lanes at a time.
//!
//! One check of the whole range settles the usual access: the instruction's last allocation holds it. Only when that
//! fails, or the allocation is made of pages, is each lane looked at by itself.

use super::access::{Access, Raw, flags, lanes_of};
use super::hopper::flight;
use super::shared::{bytes, two_lanes};
use super::warp::LANES;
use super::{Env, Warp};
use crate::check::race::{self, By, Clash, Race};
use crate::check::taint::{self, Read};
use crate::check::{Detector, lanes, watch_store};
use crate::ir::Inst;
use crate::launch::{Launch, code};
use crate::mem::block::Block;
use crate::mem::windows::Window;
use crate::mem::{Allocation, MemoryFaultKind};

/// The allocation that holds the whole access, by way of the instruction's hint.
#[inline(always)]
fn whole<'l, const T: usize>(env: &mut Env<'l>, access: &Access) -> Option<&'l Allocation> {
    let launch: &'l Launch = env.launch;
    let span = access.span::<T>()?;
    let hint = &mut env.tally.hint[env.pc as usize];
    if let Some(allocation) = launch.memory.get(*hint as usize)
        && allocation.contains(access.min, span)
    {
        return (!allocation.is_freed()).then_some(allocation);
    }
    let (index, allocation) = launch.memory.at_or_before(access.min)?;
    *hint = index as u32;
    (allocation.contains(access.min, span) && !allocation.is_freed()).then_some(allocation)
}

/// The allocation that holds one lane's element.
fn one<const T: usize>(launch: &Launch, address: u64) -> Option<&Allocation> {
    let (_, allocation) = launch.memory.at_or_before(address)?;
    (allocation.contains(address, T as u64) && !allocation.is_freed()).then_some(allocation)
}

/// Faults unless every lane's address is a multiple of the width and lies inside some live allocation.
#[cold]
#[inline(never)]
pub(super) fn check_lanes<const T: usize>(warp: &Warp, env: &mut Env<'_>, access: &Access, verb: &str) -> bool {
    let launch = env.launch;
    for lane in access.lanes() {
        let address = access.address[lane];
        if !address.is_multiple_of(T as u64) {
            let place = launch.memory.describe(address);
            let text = format!("misaligned: {verb} {T} bytes at {address:#x}, not a multiple of {T} ({place})");
            env.fault(warp, lane as u32, code::MISALIGNED, text);
            return false;
        }
        if one::<T>(launch, address).is_none() {
            let fault = launch.memory.fault(address, T as u64);
            let kind = match fault.kind {
                MemoryFaultKind::Null => "null pointer",
                MemoryFaultKind::Freed => "use after free",
                _ => "out of bounds",
            };
            let bad = access.lanes().filter(|&lane| one::<T>(launch, access.address[lane]).is_none());
            let bad = lanes(bad.fold(0, |mask, lane| mask | 1 << lane));
            let text = format!("{kind}: {verb} {T} bytes at {address:#x}: {} ({bad} of the warp)", fault.place);
            env.fault(warp, lane as u32, code::ILLEGAL_ADDRESS, text);
            return false;
        }
    }
    true
}

/// Loads `T` bytes per lane; `None` after a fault.
#[inline(always)]
pub(super) fn load<const T: usize, const W: usize>(
    warp: &Warp,
    env: &mut Env<'_>,
    inst: &Inst,
    access: &Access,
) -> Option<Raw<W>> {
    if env.launch.settings.checks.race && env.beside.flights.any_store() {
        flight::check_target(warp, env, access, T as u64, "load of");
    }
    if access.bits & (T as u64 - 1) == 0
        && let Some(allocation) = whole::<T>(env, access)
        && let Some(block) = allocation.dense()
    {
        env.tally.global_load::<T>(env.pc, access);
        if env.launch.settings.checks.init {
            let offset = (access.min - allocation.base()) as usize;
            let span = (access.max - access.min) as usize + T;
            // Lanes far apart are checked one by one.
            if span > 64 * T || !block.all_valid(offset, span) {
                check_init::<T>(warp, env, access);
            }
        }
        read_marks::<T, W>(warp, env, inst, access);
        return Some(gather::<T, W>(block, allocation.base(), access));
    }
    if !check_lanes::<T>(warp, env, access, "load of") {
        return None;
    }
    env.tally.global_load::<T>(env.pc, access);
    if env.launch.settings.checks.init {
        check_init::<T>(warp, env, access);
    }
    read_marks::<T, W>(warp, env, inst, access);
    Some(load_lanes::<T, W>(env.launch, access))
}

/// Looks for races of a load with stores of the same CTA, and remembers who read.
#[inline(always)]
fn read_marks<const T: usize, const W: usize>(warp: &Warp, env: &mut Env<'_>, inst: &Inst, access: &Access) {
    if !env.launch.settings.checks.race {
        return;
    }
    let promised = inst.c & flags::READ_ONLY != 0;
    let strong = inst.c & flags::STRONG != 0;
    let by = By { warp: warp.index, lane: 0, pc: env.pc, strong };
    if !strong && access.consecutive && env.order.run_global::<T>(by, access.min, false, promised) {
        return;
    }
    let mask = if access.min == access.max { two_lanes(access.mask) } else { access.mask };
    for i in lanes_of(mask) {
        let address = access.address[i];
        for k in 0..W as u64 {
            let (by, at, bytes) = (By { lane: i as u32, ..by }, address + 4 * k, bytes::<T>(address as u32));
            if promised {
                let clash = env.order.touch_promised(by, at, bytes);
                note(warp, env, by, at, None, clash);
            } else {
                touch(warp, env, by, at, bytes, None);
            }
        }
        if strong {
            env.order.strong_load(warp.index, address & !3, inst.c & flags::ACQUIRE != 0);
        }
    }
}

/// One lane touches one word of device memory.
#[inline(always)]
pub(super) fn touch(warp: &Warp, env: &mut Env<'_>, by: By, address: u64, bytes: u32, write: Option<bool>) {
    let clash = env.order.touch_global(by, address, bytes, write);
    note(warp, env, by, address, write, clash);
}

/// Reports the race of an access, if there is one.
#[inline(always)]
fn note(warp: &Warp, env: &mut Env<'_>, by: By, address: u64, write: Option<bool>, clash: Option<Clash>) {
    if let Some(clash) = clash {
        let race = Race { detector: Detector::GlobalRace, address, wrote: write.is_some(), clash };
        race::report(env, warp, by.lane, race, |env| env.launch.memory.describe(address));
    }
}

/// Words of a block for each lane; the whole access lies inside.
#[inline(always)]
fn gather<const T: usize, const W: usize>(block: &Block, base: u64, access: &Access) -> Raw<W> {
    let mut raw = [[0; LANES]; W];
    let words = block.words();
    if access.consecutive && T >= 4 {
        let from = (access.min - base) as usize / 4;
        let words = &words[from..from + LANES * W];
        for i in 0..LANES {
            for k in 0..W {
                raw[k][i] = words[i * W + k].load(std::sync::atomic::Ordering::Relaxed);
            }
        }
        return raw;
    }
    // Lanes that are off repeat an address that is on: reading for them is harmless.
    for i in 0..LANES {
        let offset = (access.address[i] - base) as usize;
        for k in 0..W {
            let word = words[offset / 4 + k].load(std::sync::atomic::Ordering::Relaxed);
            raw[k][i] = narrow::<T>(word, offset);
        }
    }
    raw
}

/// The bytes of a narrow element, moved to the low end of its word.
#[inline(always)]
pub(super) fn narrow<const T: usize>(word: u32, offset: usize) -> u32 {
    match T {
        1 => word >> (offset % 4 * 8) & 0xFF,
        2 => word >> (offset % 4 * 8) & 0xFFFF,
        _ => word,
    }
}

#[inline(never)]
fn load_lanes<const T: usize, const W: usize>(launch: &Launch, access: &Access) -> Raw<W> {
    let mut raw = [[0; LANES]; W];
    for i in access.lanes() {
        let address = access.address[i];
        if let Some(allocation) = one::<T>(launch, address) {
            let mut bytes = [0; 32];
            allocation.read(address - allocation.base(), &mut bytes[..T]);
            for k in 0..W {
                raw[k][i] = u32::from_le_bytes([bytes[4 * k], bytes[4 * k + 1], bytes[4 * k + 2], bytes[4 * k + 3]]);
            }
        }
    }
    raw
}

/// Notes which lanes read bytes nobody wrote.
#[cold]
#[inline(never)]
pub(super) fn check_init<const T: usize>(warp: &Warp, env: &mut Env<'_>, access: &Access) {
    let mut missing = [0u32; LANES];
    let mut first = None;
    for lane in access.lanes() {
        let Some(allocation) = one::<T>(env.launch, access.address[lane]) else { continue };
        let offset = access.address[lane] - allocation.base();
        if let Some(at) = allocation.first_invalid(offset, T as u64) {
            first.get_or_insert(allocation.base() + at);
            let is_missing = |byte: &u64| allocation.first_invalid(offset + byte, 1).is_some();
            missing[lane] = (0..T as u64).filter(is_missing).fold(0, |all, byte| all | 1 << byte);
        }
    }
    if let Some(address) = first {
        taint::met(warp, env, missing, Read { window: Window::Global, address, bytes: T });
    }
}

/// Stores `T` bytes per lane.
#[inline(always)]
pub(super) fn store<const T: usize, const W: usize>(
    warp: &Warp,
    env: &mut Env<'_>,
    inst: &Inst,
    access: &Access,
    raw: &Raw<W>,
) {
    if env.launch.settings.checks.race && env.beside.flights.any_store() {
        flight::check_target(warp, env, access, T as u64, "store of");
    }
    if warp.taint.any() {
        taint::published(warp, env, access.mask);
    }
    if !warp.polls.any() || access.lanes().any(|lane| changes::<T, W>(env, access, raw, lane)) {
        env.spins.change();
    }
    if env.watch.is_some() {
        watch_store::<T>(warp, env, access, |env, lane| changes::<T, W>(env, access, raw, lane));
    }
    if access.bits & (T as u64 - 1) == 0
        && let Some(allocation) = whole::<T>(env, access)
        && let Some(block) = allocation.dense()
    {
        env.tally.global_store::<T>(env.pc, access);
        if !write_marks::<T>(warp, env, inst, access) {
            return store_lanes::<T, W>(warp, env, inst, access, raw);
        }
        put::<T, W>(block, allocation.base(), access, raw);
        return;
    }
    if !check_lanes::<T>(warp, env, access, "store of") {
        return;
    }
    env.tally.global_store::<T>(env.pc, access);
    store_lanes::<T, W>(warp, env, inst, access, raw);
}

/// Whether a lane's store changes memory.
#[cold]
#[inline(never)]
fn changes<const T: usize, const W: usize>(env: &Env<'_>, access: &Access, raw: &Raw<W>, lane: usize) -> bool {
    let Some(allocation) = one::<T>(env.launch, access.address[lane]) else { return true };
    let mut old = [0; 32];
    allocation.read(access.address[lane] - allocation.base(), &mut old[..T]);
    (0..T).any(|i| old[i] != raw[i / 4][lane].to_le_bytes()[i % 4])
}

/// Whether the store needs no look at single lanes for races; the marks are set then.
#[inline(always)]
fn write_marks<const T: usize>(warp: &Warp, env: &mut Env<'_>, inst: &Inst, access: &Access) -> bool {
    if !env.launch.settings.checks.race {
        return true;
    }
    if inst.c & flags::STRONG != 0 || !access.consecutive {
        return false;
    }
    env.order.run_global::<T>(By { warp: warp.index, lane: 0, pc: env.pc, strong: false }, access.min, true, false)
}

/// Stores into a block that holds the whole access.
#[inline(always)]
fn put<const T: usize, const W: usize>(block: &Block, base: u64, access: &Access, raw: &Raw<W>) {
    // Narrow stores of neighbouring lanes are joined into whole words, and valid bits into whole masks: each would
    // else be a locked operation.
    let mut word = Joined { at: usize::MAX, value: 0, bytes: 0 };
    let (mut valid_at, mut valid) = (usize::MAX, 0u32);
    for i in access.lanes() {
        let offset = (access.address[i] - base) as usize;
        if T >= 4 {
            for k in 0..W {
                block.store(offset + 4 * k, raw[k][i], 0xF);
            }
        } else {
            if word.at != offset / 4 {
                word.flush(block);
                word.at = offset / 4;
            }
            let (bytes, shift) = (((1 << T) - 1) << (offset % 4), offset % 4 * 8);
            let keep = !crate::mem::block::spread(bytes);
            word.value = word.value & keep | (raw[0][i] << shift) & !keep;
            word.bytes |= bytes;
        }
        if valid_at != offset / 32 {
            if valid_at != usize::MAX {
                block.or_valid(valid_at, valid);
            }
            (valid_at, valid) = (offset / 32, 0);
        }
        valid |= (u32::MAX >> (32 - T)) << (offset % 32);
    }
    word.flush(block);
    if valid_at != usize::MAX {
        block.or_valid(valid_at, valid);
    }
}

/// Bytes for one word, gathered from neighbouring lanes.
struct Joined {
    at: usize,
    value: u32,
    bytes: u32,
}

impl Joined {
    #[inline(always)]
    fn flush(&mut self, block: &Block) {
        if self.bytes != 0 {
            block.store(4 * self.at, self.value, self.bytes);
        }
        self.bytes = 0;
    }
}

/// Stores lane by lane, in their order, and looks for races before each.
#[inline(never)]
fn store_lanes<const T: usize, const W: usize>(
    warp: &Warp,
    env: &mut Env<'_>,
    inst: &Inst,
    access: &Access,
    raw: &Raw<W>,
) {
    let launch = env.launch;
    let (race, strong) = (launch.settings.checks.race, inst.c & flags::STRONG != 0);
    for i in access.lanes() {
        let address = access.address[i];
        let Some(allocation) = one::<T>(launch, address) else { continue };
        let offset = address - allocation.base();
        if race && strong {
            env.order.strong_store(warp.index, address & !3, inst.c & flags::RELEASE != 0);
        }
        let mut data = [0; 32];
        for k in 0..W {
            data[4 * k..4 * k + 4].copy_from_slice(&raw[k][i].to_le_bytes());
        }
        if race {
            let mut old = [0; 32];
            allocation.read(offset, &mut old[..T]);
            let by = By { warp: warp.index, lane: i as u32, pc: env.pc, strong };
            for k in 0..W {
                let word = 4 * k..(4 * k + 4).min(T);
                let same = old[word.clone()] == data[word];
                touch(warp, env, by, address + 4 * k as u64, bytes::<T>(address as u32), Some(same));
            }
        }
        allocation.write(offset, &data[..T]);
    }
}

/// `discard`: the bytes count as never written, for everybody.
#[inline(never)]
pub(super) fn discard(warp: &Warp, env: &mut Env<'_>, inst: &Inst, mask: u32) {
    const BYTES: u64 = 128;
    let access = Access::new::<1>(warp, inst, mask);
    for lane in access.lanes() {
        let address = access.address[lane];
        let found = env.launch.memory.at_or_before(address).map(|(_, allocation)| allocation);
        let Some(allocation) = found.filter(|a| a.contains(address, BYTES) && !a.is_freed()) else {
            let text =
                format!("out of bounds: discard of 128 bytes at {address:#x}: {}", env.launch.memory.describe(address));
            return env.fault(warp, lane as u32, code::ILLEGAL_ADDRESS, text);
        };
        if !address.is_multiple_of(BYTES) {
            let text = format!("misaligned: discard of 128 bytes at {address:#x}");
            return env.fault(warp, lane as u32, code::MISALIGNED, text);
        }
        if env.launch.settings.checks.race {
            let by = By { warp: warp.index, lane: lane as u32, pc: env.pc, strong: false };
            for word in 0..BYTES / 4 {
                touch(warp, env, by, address + 4 * word, 0xF, Some(false));
            }
        }
        let poison = u32::from_ne_bytes([env.launch.settings.poison(); 4]);
        allocation.fill(address - allocation.base(), poison, BYTES);
        allocation.set_invalid(address - allocation.base(), BYTES);
    }
}
