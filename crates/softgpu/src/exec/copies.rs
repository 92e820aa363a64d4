//! `cp.async`: copies from device to shared memory that a thread starts, and waits for later.
//!
//! A copy happens at the wait that covers it, as late as it may; under other seeds than 0 also at any moment before.
//! Until that wait its bytes belong to nobody: whoever touches them is reported, and so is a source that changed in
//! between. The wait makes them the waiting thread's own; others need a barrier, as after any store.

use super::access::{Access, element, flags, lanes_of};
use super::warp::LANES;
use super::{Env, Warp, global, ops, shared};
use crate::check::race::By;
use crate::check::{Detector, Finding, lanes};
use crate::ir::Inst;
use crate::launch::code;
use crate::mem::{Allocation, MemoryFaultKind};
use crate::sched::Random;

/// Bit of the field `c`: the predicate `d` is negated.
pub const NEGATED: u16 = flags::SIGNED;
/// The group of a copy that is not committed yet.
const OPEN: u32 = u32::MAX;

ops! {
    /// `cp.async`: `a` and `x` destination, `b` and `y` source, `m` the bytes to read of it, predicate `d` to ignore it.
    COPY = |warp, env, inst, mask| match element(inst) {
        4 => start::<4>(warp, env, inst, mask),
        8 => start::<8>(warp, env, inst, mask),
        _ => start::<16>(warp, env, inst, mask),
    };
    /// `cp.async.commit_group`
    COMMIT = |warp, env, _, mask| {
        drift(env);
        env.copies.commit(warp.index, mask);
    };
    /// `cp.async.wait_group`: all but the last `x` groups.
    WAIT = |warp, env, inst, mask| wait(warp, env, mask, inst.x);
    /// `cp.async.wait_all`
    WAIT_ALL = |warp, env, _, mask| {
        env.copies.commit(warp.index, mask);
        wait(warp, env, mask, 0);
    };
}

/// Copies that the threads of a CTA have started and not waited for.
#[derive(Default)]
pub struct Copies {
    /// In the order of their start.
    queue: Vec<Started>,
    /// Instructions that have started some.
    started: u64,
    /// Groups that each thread has committed, by warp.
    committed: Vec<[u32; LANES]>,
}

/// One instruction's copies.
struct Started {
    /// How many were started before.
    number: u64,
    warp: u32,
    pc: u32,
    bytes: u32,
    /// Lanes that have not waited.
    open: u32,
    /// Lanes whose bytes are in shared memory already.
    landed: u32,
    /// The group of each lane's copy, or [`OPEN`].
    group: [u32; LANES],
    to: [u32; LANES],
    from: [u64; LANES],
    /// Bytes to read; zeros follow.
    length: [u8; LANES],
    /// What the source held at the start.
    seen: [[u32; 4]; LANES],
    /// One bit for each byte: whether somebody wrote it.
    valid: [u16; LANES],
}

impl Copies {
    fn committed(&mut self, warp: u32) -> &mut [u32; LANES] {
        let warp = warp as usize;
        if self.committed.len() <= warp {
            self.committed.resize(warp + 1, [0; LANES]);
        }
        &mut self.committed[warp]
    }

    fn commit(&mut self, warp: u32, mask: u32) {
        let groups = *self.committed(warp);
        for copy in self.queue.iter_mut().filter(|copy| copy.warp == warp) {
            for lane in lanes_of(copy.open & mask) {
                if copy.group[lane] == OPEN {
                    copy.group[lane] = groups[lane];
                }
            }
        }
        for lane in lanes_of(mask) {
            self.committed(warp)[lane] += 1;
        }
    }

    /// How many instructions have started copies.
    pub(super) fn started(&self) -> u64 {
        self.started
    }

    /// The copy that a word of shared memory waits for: its warp, lane and instruction.
    pub(super) fn owner(&self, at: u32) -> Option<(u32, u32, u32)> {
        self.queue.iter().find_map(|copy| {
            let hit = |lane: &usize| (copy.to[*lane]..copy.to[*lane] + copy.bytes).contains(&at);
            lanes_of(copy.open).find(hit).map(|lane| (copy.warp, lane as u32, copy.pc))
        })
    }
}

fn start<const T: usize>(warp: &mut Warp, env: &mut Env<'_>, inst: &Inst, mask: u32) {
    if mask == 0 {
        return;
    }
    drift(env);
    let to = Access::new::<T>(warp, inst, mask);
    let Some(mask) = shared::inside::<T>(warp, env, &to, "asynchronous copy of") else { return };
    let ignored = if inst.c & NEGATED != 0 { !warp.p(inst.d) } else { warp.p(inst.d) };
    let mut length = *warp.r32(inst.m);
    let mut reads = 0;
    for lane in lanes_of(mask) {
        if length[lane] as usize > T {
            let text = format!("{} bytes to read for a copy of {T}", length[lane]);
            env.stop(Detector::AsyncCopy, warp, lane as u32, text);
            return;
        }
        length[lane] = if ignored >> lane & 1 != 0 { 0 } else { length[lane] };
        reads |= u32::from(length[lane] != 0) << lane;
    }
    let mut copy = Started {
        number: env.copies.started,
        warp: warp.index,
        pc: env.pc,
        bytes: T as u32,
        open: mask,
        landed: 0,
        group: [OPEN; LANES],
        to: to.address.map(|at| at as u32),
        from: [0; LANES],
        length: length.map(|bytes| bytes as u8),
        seen: [[0; 4]; LANES],
        valid: [u16::MAX; LANES],
    };
    if reads != 0 {
        let source = Inst { a: inst.b, x: inst.y, c: flags::WIDE, ..*inst };
        let from = Access::new::<T>(warp, &source, reads);
        copy.from = from.address;
        if !read_source::<T>(warp, env, &mut copy, &from) {
            return;
        }
    }
    env.tally.shared::<T>(env.pc, &to, mask);
    if env.launch.settings.checks.race {
        for lane in lanes_of(mask) {
            mark_written(warp, env, &copy, lane);
            env.shared.set_pending(copy.to[lane], T as u32, true);
        }
    }
    env.copies.started += 1;
    env.copies.queue.push(copy);
    drift(env);
}

/// Checks and reads the source. False after a fault.
fn read_source<const T: usize>(warp: &Warp, env: &mut Env<'_>, copy: &mut Started, from: &Access) -> bool {
    let launch = env.launch;
    let checks = launch.settings.checks;
    let mut last: Option<&Allocation> = None;
    for lane in from.lanes() {
        let (address, count) = (from.address[lane], u64::from(copy.length[lane]));
        if !address.is_multiple_of(T as u64) {
            let place = launch.memory.describe(address);
            let text = format!("misaligned: asynchronous copy from {address:#x}, not a multiple of {T} ({place})");
            env.fault(warp, lane as u32, code::MISALIGNED, text);
            return false;
        }
        if !last.is_some_and(|allocation| allocation.contains(address, count)) {
            let found = launch.memory.at_or_before(address).map(|(_, allocation)| allocation);
            last = found.filter(|allocation| allocation.contains(address, count) && !allocation.is_freed());
        }
        let Some(allocation) = last else {
            let fault = launch.memory.fault(address, count);
            let kind = match fault.kind {
                MemoryFaultKind::Null => "null pointer",
                MemoryFaultKind::Freed => "use after free",
                _ => "out of bounds",
            };
            let text = format!("{kind}: asynchronous copy of {count} bytes at {address:#x}: {}", fault.place);
            env.fault(warp, lane as u32, code::ILLEGAL_ADDRESS, text);
            return false;
        };
        if checks.race {
            copy.seen[lane] = source_words(allocation, address, copy.length[lane]);
        }
        if checks.init && allocation.first_invalid(address - allocation.base(), count).is_some() {
            // Copying bytes that nobody wrote is no mistake; reading them afterwards is.
            for run in allocation.invalid_runs(address - allocation.base(), count) {
                copy.valid[lane] &= run.fold(u16::MAX, |valid, byte| valid & !(1 << byte));
            }
        }
    }
    env.tally.global_load::<T>(env.pc, from);
    if checks.race {
        let by = By { warp: warp.index, lane: 0, pc: env.pc, strong: false };
        if !(from.consecutive && env.order.run_global::<T>(by, from.min, false, false)) {
            for lane in from.lanes() {
                for word in 0..u64::from(copy.length[lane]).div_ceil(4) {
                    let bytes = if 4 * word + 4 > u64::from(copy.length[lane]) { copy.length[lane] % 4 } else { 4 };
                    let by = By { lane: lane as u32, ..by };
                    global::touch(warp, env, by, from.address[lane] + 4 * word, (1 << bytes) - 1, None);
                }
            }
        }
    }
    true
}

/// The first `length` bytes at an address that the allocation holds, and zeros.
fn source_words(allocation: &Allocation, address: u64, length: u8) -> [u32; 4] {
    if let (Some(block), 16) = (allocation.dense(), length) {
        let at = (address - allocation.base()) as usize;
        return [0, 4, 8, 12].map(|i| block.load(at + i));
    }
    let mut bytes = [0; 16];
    allocation.read(address - allocation.base(), &mut bytes[..usize::from(length)]);
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    words
}

/// What the source of a lane holds now.
fn source_now(env: &Env<'_>, copy: &Started, lane: usize) -> [u32; 4] {
    match env.launch.memory.at_or_before(copy.from[lane]) {
        Some((_, allocation)) if copy.length[lane] != 0 => source_words(allocation, copy.from[lane], copy.length[lane]),
        _ => [0; 4],
    }
}

/// The destination of a lane is written, for race detection: at the start of the copy and at the wait for it.
fn mark_written(warp: &Warp, env: &mut Env<'_>, copy: &Started, lane: usize) {
    env.order.cover_shared(env.shared.len_words());
    let by = By { warp: warp.index, lane: lane as u32, pc: env.pc, strong: false };
    let (at, words) = (copy.to[lane], copy.bytes / 4);
    if env.order.lane_shared(by, at, words as usize, true) {
        return;
    }
    for word in 0..words {
        shared::touch(warp, env, by, at + 4 * word, 0xF, Some(false));
    }
}

/// Puts the bytes of some lanes into shared memory.
fn land(env: &mut Env<'_>, copy: &mut Started, mask: u32) {
    for lane in lanes_of(mask & !copy.landed) {
        let words = source_now(env, copy, lane);
        for word in 0..copy.bytes / 4 {
            let valid = u32::from(copy.valid[lane] >> (4 * word)) & 0xF;
            let at = copy.to[lane] + 4 * word;
            env.shared.store(at, words[word as usize], 0xF);
            env.shared.set_valid(at, valid as u8);
        }
    }
    copy.landed |= mask;
}

/// Under other seeds than 0: some copies happen now.
fn drift(env: &mut Env<'_>) {
    if env.launch.settings.seed == 0 || env.copies.queue.is_empty() {
        return;
    }
    let mut random = Random::new(env.launch.settings.seed ^ env.clock << 1);
    let mut queue = std::mem::take(&mut env.copies.queue);
    for copy in &mut queue {
        // Lanes of one instruction need not be served together.
        let now = match random.below(4) {
            0 => copy.open,
            1 => copy.open & random.bits() as u32,
            _ => 0,
        };
        land(env, copy, now & !copy.landed);
    }
    env.copies.queue = queue;
}

fn wait(warp: &mut Warp, env: &mut Env<'_>, mask: u32, but: u32) {
    drift(env);
    let groups = *env.copies.committed(warp.index);
    let mut queue = std::mem::take(&mut env.copies.queue);
    for copy in queue.iter_mut().filter(|copy| copy.warp == warp.index) {
        let over = |lane: &usize| copy.group[*lane] != OPEN && copy.group[*lane].saturating_add(but) < groups[*lane];
        let done = lanes_of(copy.open & mask).filter(over).fold(0, |done, lane| done | 1 << lane);
        if done == 0 {
            continue;
        }
        land(env, copy, done);
        copy.open &= !done;
        if env.launch.settings.checks.race {
            let changed = lanes_of(done).filter(|&lane| source_now(env, copy, lane) != copy.seen[lane]);
            let changed = changed.fold(0, |changed, lane| changed | 1 << lane);
            if changed != 0 {
                source_changed(warp, env, copy, changed);
            }
            // The write that may race is the copy's, and a report is to name its instruction.
            let here = std::mem::replace(&mut env.pc, copy.pc);
            for lane in lanes_of(done) {
                env.shared.set_pending(copy.to[lane], copy.bytes, false);
                mark_written(warp, env, copy, lane);
            }
            env.pc = here;
        }
    }
    queue.retain(|copy| copy.open != 0);
    env.copies.queue = queue;
}

/// The copies of a thread that were started before the instruction number `before` happen, and are over: where they went.
pub(super) fn finish(env: &mut Env<'_>, warp: u32, lane: u32, before: u64) -> Vec<(u32, u32)> {
    let mut queue = std::mem::take(&mut env.copies.queue);
    let mut done = Vec::new();
    for copy in queue.iter_mut().filter(|copy| copy.warp == warp && copy.number < before && copy.open >> lane & 1 != 0)
    {
        land(env, copy, 1 << lane);
        copy.open &= !(1 << lane);
        done.push((copy.to[lane as usize % LANES], copy.bytes));
        if env.launch.settings.checks.race {
            env.shared.set_pending(copy.to[lane as usize % LANES], copy.bytes, false);
        }
    }
    queue.retain(|copy| copy.open != 0);
    env.copies.queue = queue;
    done
}

#[cold]
fn source_changed(warp: &Warp, env: &mut Env<'_>, copy: &Started, changed: u32) {
    if env.seen(Detector::AsyncCopy, Some(copy.pc)) {
        return;
    }
    let lane = changed.trailing_zeros();
    let address = copy.from[lane as usize % LANES];
    let text = format!(
        "the source of a copy changed between its start and this wait, at {address:#x}, {} ({} of the warp)",
        env.launch.memory.describe(address),
        lanes(changed)
    );
    let other = Some(env.kernel.describe(copy.pc, env.cta, copy.warp, lane));
    let finding = Finding::new(Detector::AsyncCopy, env.at(warp, lane), text);
    env.find(Finding { address: Some(address), other, ..finding });
}
