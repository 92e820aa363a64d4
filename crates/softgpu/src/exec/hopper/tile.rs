//! What a copy in bulk moves: bytes in the order of the box, where they lie in device memory, and how shared memory
//! permutes them.

use super::super::atom::{self, Action};
use super::super::{Env, Warp};
use crate::check::race::{self, By, Race};
use crate::check::{Detector, Finding, watch_bulk};
use crate::launch::code;
use crate::mem::{Allocation, MemoryFaultKind, Shared};
use crate::ptx::Type;

/// Bytes that lie together in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where they stand in the tile.
    pub at: u32,
    /// Their address.
    pub address: u64,
    /// How many they are.
    pub bytes: u32,
}

/// Where the bytes of a tile lie in device memory, and what stands for those that lie nowhere.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// What there is of it.
    pub segments: Vec<Segment>,
    /// The bits of an element outside of the tensor: zero or a NaN, as often as they fit into 32 bits.
    pub fill: u32,
}

impl Place {
    /// Bytes that all lie together.
    pub fn linear(address: u64, bytes: u32) -> Place {
        Place { segments: vec![Segment { at: 0, address, bytes }], fill: 0 }
    }

    /// Its first address.
    pub fn address(&self) -> u64 {
        self.segments.first().map_or(0, |segment| segment.address)
    }

    /// Faults unless all of it lies in live allocations.
    pub fn check(&self, warp: &Warp, env: &mut Env<'_>, lane: u32) -> bool {
        let memory = &env.launch.memory;
        let bad = self.segments.iter().find(|s| whole(env, s).is_none());
        let Some(Segment { address, bytes, .. }) = bad else { return true };
        let fault = memory.fault(*address, u64::from(*bytes));
        let kind = match fault.kind {
            MemoryFaultKind::Null => "null pointer",
            MemoryFaultKind::Freed => "use after free",
            _ => "out of bounds",
        };
        let text = format!("{kind}: copy in bulk of {bytes} bytes at {address:#x}: {}", fault.place);
        env.fault(warp, lane, code::ILLEGAL_ADDRESS, text);
        false
    }
}

/// The allocation that holds a segment.
fn whole<'e>(env: &'e Env<'_>, segment: &Segment) -> Option<&'e Allocation> {
    let (_, allocation) = env.launch.memory.at_or_before(segment.address)?;
    (allocation.contains(segment.address, u64::from(segment.bytes)) && !allocation.is_freed()).then_some(allocation)
}

/// How the 16-byte units of a tile are permuted in shared memory: bits of the address from 4 on, combined with those from
/// 7 on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swizzle {
    /// The bits from 4 on that change: 0, 0x10, 0x30 or 0x70.
    pub mask: u32,
}

impl Swizzle {
    /// Of a span of 0 (none), 32, 64 or 128 bytes.
    pub fn of_span(span: u32) -> Swizzle {
        Swizzle { mask: span.saturating_sub(16) & 0x70 }
    }

    /// Bytes in which units change places.
    pub fn span(self) -> u32 {
        if self.mask == 0 { 0 } else { self.mask + 16 }
    }

    /// Where the unit that would lie at an address lies.
    #[inline(always)]
    pub fn of(self, at: u32) -> u32 {
        at ^ (at >> 3 & self.mask)
    }
}

/// What is done with what stands in device memory.
#[derive(Clone, Copy, Debug)]
pub struct Reduction {
    /// The operation.
    pub action: Action,
    /// Of elements of this type.
    pub ty: Type,
}

/// The bytes of a box, in its own order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tile {
    pub(super) bytes: Vec<u8>,
    /// Which of them nobody wrote; empty if there are none.
    missing: Vec<bool>,
}

impl Tile {
    /// What device memory holds, `bytes` bytes with those that lie outside.
    pub(super) fn of_memory(env: &Env<'_>, place: &Place, bytes: u32) -> Tile {
        let inside: u64 = place.segments.iter().map(|segment| u64::from(segment.bytes)).sum();
        let mut tile = Tile { bytes: vec![0; bytes as usize], missing: Vec::new() };
        if inside != u64::from(bytes) && place.fill != 0 {
            for (i, byte) in tile.bytes.iter_mut().enumerate() {
                *byte = place.fill.to_le_bytes()[i % 4];
            }
        }
        for segment in &place.segments {
            let Some(allocation) = whole(env, segment) else { continue };
            let (from, count) = (segment.address - allocation.base(), u64::from(segment.bytes));
            let at = segment.at as usize;
            allocation.read(from, &mut tile.bytes[at..at + segment.bytes as usize]);
            if env.launch.settings.checks.init && allocation.first_invalid(from, count).is_some() {
                tile.missing.resize(bytes as usize, false);
                for run in allocation.invalid_runs(from, count) {
                    tile.missing[at + run.start as usize..at + run.end as usize].fill(true);
                }
            }
        }
        tile
    }

    /// What a thread gives.
    pub(super) fn of_bytes(bytes: Vec<u8>) -> Tile {
        Tile { bytes, missing: Vec::new() }
    }

    /// What shared memory holds.
    pub(super) fn of_shared(shared: &Shared, from: u32, bytes: u32, swizzle: Swizzle) -> Tile {
        let mut tile = Tile { bytes: Vec::with_capacity(bytes as usize), missing: Vec::new() };
        for at in (from..from + bytes).step_by(16) {
            for word in shared.words_from(swizzle.of(at), 4) {
                tile.bytes.extend_from_slice(&word.to_le_bytes());
            }
        }
        tile
    }

    /// Comes to shared memory.
    pub(super) fn to_shared(&self, shared: &mut Shared, to: u32, swizzle: Swizzle) {
        for (i, unit) in self.bytes.chunks_exact(4).enumerate() {
            let at = to + 4 * i as u32;
            let at = swizzle.of(at & !0xF) | at & 0xF;
            shared.store(at, u32::from_le_bytes([unit[0], unit[1], unit[2], unit[3]]), 0xF);
            if let Some(missing) = self.missing.get(4 * i..4 * i + 4) {
                let bits =
                    missing.iter().enumerate().fold(0, |bits, (byte, missing)| bits | u32::from(*missing) << byte);
                shared.invalidate(at, bits);
            }
        }
    }

    /// Comes to device memory.
    pub(super) fn put(&self, env: &mut Env<'_>, place: &Place, reduce: Option<Reduction>) {
        env.spins.change();
        for segment in &place.segments {
            let Some(allocation) = whole(env, segment) else { continue };
            let from = segment.address - allocation.base();
            let bytes = &self.bytes[segment.at as usize..(segment.at + segment.bytes) as usize];
            match reduce {
                None => allocation.write(from, bytes),
                Some(reduction) => {
                    let mut held = vec![0; bytes.len()];
                    allocation.read(from, &mut held);
                    reduction.apply(&mut held, bytes);
                    allocation.write(from, &held);
                }
            }
        }
    }
}

impl Reduction {
    /// Combines elements of `held` with those of `with`.
    fn apply(self, held: &mut [u8], with: &[u8]) {
        let size = self.ty.bytes() as usize;
        for (held, with) in held.chunks_exact_mut(size).zip(with.chunks_exact(size)) {
            let value = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |all, byte| all << 8 | u64::from(*byte));
            let new = atom::apply(self.action, self.ty, value(held), value(with), value(with));
            held.copy_from_slice(&new.to_le_bytes()[..size]);
        }
    }
}

/// A thread's copy reads or writes device memory: looks for races, and remembers.
pub(super) fn touch(warp: &Warp, env: &mut Env<'_>, by: By, place: &Place, write: Option<bool>) {
    for Segment { address, bytes, .. } in &place.segments {
        if let Some((address, clash)) = env.order.touch_bulk(by, *address, *bytes, write) {
            let pc = std::mem::replace(&mut env.pc, by.pc);
            let race = Race { detector: Detector::GlobalRace, address, wrote: write.is_some(), clash };
            race::report(env, warp, by.lane, race, |env| env.launch.memory.describe(address));
            env.pc = pc;
        }
    }
}

/// A copy is going to write this: counts, and compares with the outputs that are watched; what is added to must be there.
pub(super) fn announce(warp: &Warp, env: &mut Env<'_>, lane: u32, place: &Place, reduce: bool) {
    for Segment { address, bytes, .. } in place.segments.iter().copied() {
        if env.watch.is_some() && !reduce {
            watch_bulk(warp, env, lane, address, u64::from(bytes));
        }
        env.tally.bulk_store(env.pc, address, bytes);
        let missing = whole(env, &Segment { at: 0, address, bytes })
            .and_then(|allocation| allocation.first_invalid(address - allocation.base(), u64::from(bytes)));
        if let (true, true, Some(_)) = (reduce, env.launch.settings.checks.init, missing)
            && !env.seen(Detector::Uninitialised, None)
        {
            let place = env.launch.memory.describe(address);
            let text = format!("a reduction in bulk of {bytes} bytes at {address:#x} that nobody wrote, {place}");
            let at = env.at(warp, lane);
            env.find(Finding { address: Some(address), ..Finding::new(Detector::Uninitialised, at, text) });
        }
    }
}
