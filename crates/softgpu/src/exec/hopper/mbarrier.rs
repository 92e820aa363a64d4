//! Memory barriers (`mbarrier`): objects of 64 bits in shared memory that count arrivals and bytes.
//!
//! A phase is over when every expected arrival has come and every expected byte was copied. Arriving hands over what the
//! thread did before; a successful wait takes over what was handed over in the phase that it waited for. What the object
//! holds stands in shared memory, so that a store into it is noticed, and beside it in a table.

use super::super::access::{Access, lanes_of};
use super::super::warp::LANES;
use super::super::{Env, Warp, ops, shared};
use super::{cluster, flight, shared_addresses};
use crate::check::race::By;
use crate::check::{Detector, Finding, Message, poll};
use crate::ir::Inst;
use crate::mem::windows;
use std::collections::BTreeMap;

/// The most arrivals and, either way, the most bytes that a phase can count.
const MOST: u32 = (1 << 20) - 1;

/// Bits of the field `y`.
pub mod form {
    /// `.relaxed`: orders nothing.
    pub const RELAXED: u32 = 1 << 0;
    /// `.expect_tx`: operand `b` is a number of bytes, and the arrivals are one.
    pub const EXPECT: u32 = 1 << 1;
    /// `.noComplete`
    pub const NO_COMPLETE: u32 = 1 << 2;
    /// `mbarrier.arrive_drop`
    pub const DROP: u32 = 1 << 3;
    /// `.parity`: operand `b` is the parity of a phase, of 32 bits; else a state.
    pub const PARITY: u32 = 1 << 4;
}

ops! {
    /// `mbarrier.init`: `a` and `x` address, `b` the arrivals expected.
    INIT = |warp, env, inst, mask| init(warp, env, inst, mask);
    /// `mbarrier.inval`
    INVAL = |warp, env, inst, mask| each(warp, env, inst, mask, Some(false), |warp, env, lane, at| {
        if known(warp, env, lane, at) {
            env.beside.barriers.list.remove(&at);
        }
    });
    /// `mbarrier.expect_tx` of `b` bytes.
    EXPECT = |warp, env, inst, mask| {
        let bytes = *warp.r32(inst.b);
        anywhere(warp, env, inst, mask, |warp, env, mask| strong(warp, env, inst, mask, |warp, env, lane, at| {
            if known(warp, env, lane, at) {
                expect(warp, env, lane, at, bytes[lane as usize]);
            }
        }));
    };
    /// `mbarrier.complete_tx` of `b` bytes.
    COMPLETE = |warp, env, inst, mask| {
        let bytes = *warp.r32(inst.b);
        anywhere(warp, env, inst, mask, |warp, env, mask| strong(warp, env, inst, mask, |warp, env, lane, at| {
            if known(warp, env, lane, at) {
                complete(env, at, bytes[lane as usize], None);
            }
        }));
    };
    /// `mbarrier.arrive` and `arrive_drop`: `d` the state before, `b` arrivals or bytes, `y` from [`form`].
    ARRIVE = |warp, env, inst, mask| {
        anywhere(warp, env, inst, mask, |warp, env, mask| arrive(warp, env, inst, mask));
    };
    /// `cp.async.mbarrier.arrive`
    ARRIVE_OF_COPIES = |warp, env, inst, mask| arrive_of_copies(warp, env, inst, mask);
    /// `mbarrier.test_wait` and `try_wait`: predicate `d` whether phase `b` is over.
    TEST = |warp, env, inst, mask| test(warp, env, inst, mask);
    /// `mbarrier.pending_count`: arrivals that were missing in state `a`.
    PENDING = |warp, _, inst, mask| {
        let count = warp.r64(inst.a).map(|state| state as u32 & MOST);
        warp.w32(inst.d, mask, &count);
    };
    /// `fence.proxy.async`, and `fence.mbarrier_init` where `x` is 1.
    FENCE = |warp, env, inst, mask| {
        for barrier in env.beside.barriers.list.values_mut() {
            barrier.visible |= barrier.warp == warp.index && mask >> barrier.lane & 1 != 0;
        }
        if inst.x == 0 {
            env.order.fence_proxy(warp.index, mask, warp.live);
        } else {
            env.order.fence(warp.index, true);
        }
    };
}

/// The memory barriers of a CTA, by address.
#[derive(Default)]
pub(crate) struct Barriers {
    pub(super) list: BTreeMap<u32, Barrier>,
    made: u32,
    /// Where somebody waited in vain since something was last done.
    pub(super) polled: Vec<u32>,
}

/// One of them.
pub(super) struct Barrier {
    pub(super) number: u32,
    expected: u32,
    pending: u32,
    bytes: i64,
    phase: u64,
    /// What was handed over in this phase, and in the one before.
    arriving: Message,
    over: Message,
    /// Who made it, where and in which step.
    warp: u32,
    lane: u32,
    pc: u32,
    step: u32,
    /// Whether its making was fenced for what works beside the threads.
    pub(super) visible: bool,
}

impl Barrier {
    /// What stands in shared memory.
    fn word(&self) -> u64 {
        let bytes = (self.bytes as u64 & 0x7F_FFFF) << 40;
        u64::from(self.pending) | u64::from(self.expected) << 20 | bytes | (self.phase & 1) << 63
    }

    /// Ends the phase if nothing is missing.
    fn settle(&mut self) {
        if self.pending == 0 && self.bytes == 0 {
            self.phase += 1;
            self.pending = self.expected;
            self.over = std::mem::take(&mut self.arriving);
        }
    }

    fn describe(&self) -> String {
        let Barrier { phase, pending, expected, bytes, .. } = self;
        format!("in phase {phase}, with {pending} of {expected} arrivals and {bytes} bytes missing")
    }
}

impl Barriers {
    /// What is missing at the barrier at an address, in words.
    pub(crate) fn describe(&self, at: u32) -> Option<String> {
        self.list.get(&at).map(Barrier::describe)
    }
}

/// For the lanes of each CTA in whose memory objects lie, there.
fn anywhere(
    warp: &mut Warp,
    env: &mut Env<'_>,
    inst: &Inst,
    mask: u32,
    mut f: impl FnMut(&mut Warp, &mut Env<'_>, u32),
) {
    if env.cluster.size() == 1 {
        return f(warp, env, mask);
    }
    let access = Access::new::<1>(warp, inst, mask);
    let ranks = access.address.map(|at| env.cluster.place(at & u64::from(u32::MAX)).0);
    let mut left = mask;
    while left != 0 {
        let first = left.trailing_zeros();
        let rank = ranks[first as usize];
        let there = lanes_of(left).filter(|lane| ranks[*lane] == rank).fold(0, |all, lane| all | 1 << lane);
        left &= !there;
        let Some(away) = cluster::enter(warp, env, first, rank) else { return };
        f(warp, env, there);
        cluster::leave(env, away);
        if env.fault.is_some() {
            return;
        }
    }
}

/// For each lane: the address checked, the object touched for race detection, then `f`.
fn each(
    warp: &mut Warp,
    env: &mut Env<'_>,
    inst: &Inst,
    mask: u32,
    write: Option<bool>,
    mut f: impl FnMut(&mut Warp, &mut Env<'_>, u32, u32),
) {
    run(warp, env, inst, mask, false, write, &mut f);
}

/// The same for operations that are atomic.
fn strong(
    warp: &mut Warp,
    env: &mut Env<'_>,
    inst: &Inst,
    mask: u32,
    mut f: impl FnMut(&mut Warp, &mut Env<'_>, u32, u32),
) {
    run(warp, env, inst, mask, true, Some(false), &mut f);
}

fn run(
    warp: &mut Warp,
    env: &mut Env<'_>,
    inst: &Inst,
    mask: u32,
    strong: bool,
    write: Option<bool>,
    f: &mut dyn FnMut(&mut Warp, &mut Env<'_>, u32, u32),
) {
    let Some(address) = shared_addresses(warp, env, inst, mask) else { return };
    let access = Access::of::<8>(address, mask);
    let Some(good) = shared::inside::<8>(warp, env, &access, "memory barrier operation on") else { return };
    env.order.cover_shared(env.shared.len_words());
    for lane in lanes_of(good) {
        let at = access.address[lane] as u32;
        if env.launch.settings.checks.race {
            let by = By { warp: warp.index, lane: lane as u32, pc: env.pc, strong };
            for word in [at, at + 4] {
                shared::touch(warp, env, by, word, 0xF, write);
            }
        }
        f(warp, env, lane as u32, at);
        if env.fault.is_some() {
            return;
        }
        put(env, at);
    }
}

/// Writes what an object holds into shared memory.
fn put(env: &mut Env<'_>, at: u32) {
    if let Some(barrier) = env.beside.barriers.list.get(&at) {
        let word = barrier.word();
        env.shared.store(at, word as u32, 0xF);
        env.shared.store(at + 4, (word >> 32) as u32, 0xF);
    }
}

/// Whether an object is there and unharmed; else ends the launch.
fn known(warp: &Warp, env: &mut Env<'_>, lane: u32, at: u32) -> bool {
    let held = u64::from(env.shared.load(at)) | u64::from(env.shared.load(at + 4)) << 32;
    let text = match env.beside.barriers.list.get(&at) {
        None => "where no mbarrier was initialised",
        Some(barrier) if barrier.word() != held => "where an mbarrier was overwritten by other stores",
        Some(&Barrier { warp: by, lane: by_lane, pc, step, .. }) => {
            let race = env.launch.settings.checks.race;
            if race && !env.order.is_behind((warp.index, lane), (by, by_lane, step)) {
                early(warp, env, lane, at, (by, by_lane, pc));
            }
            return true;
        }
    };
    let text = format!("{} {text}", env.shared.name(at));
    env.stop(Detector::MemoryBarrier, warp, lane, text);
    false
}

/// An object is used by a thread that nothing orders behind its initialisation.
#[cold]
fn early(warp: &Warp, env: &mut Env<'_>, lane: u32, at: u32, (by, by_lane, pc): (u32, u32, u32)) {
    if env.seen(Detector::SharedRace, Some(pc)) {
        return;
    }
    let text = format!(
        "warp {} lane {lane} uses the mbarrier at {}, which warp {by} lane {by_lane} initialised with no barrier between",
        warp.index,
        env.shared.name(at)
    );
    let other = Some(env.kernel.describe(pc, env.cta, by, by_lane));
    let finding = Finding::new(Detector::SharedRace, env.at(warp, lane), text);
    env.find(Finding { address: Some(u64::from(at)), other, ..finding });
}

fn init(warp: &mut Warp, env: &mut Env<'_>, inst: &Inst, mask: u32) {
    let count = *warp.r32(inst.b);
    each(warp, env, inst, mask, Some(false), |warp, env, lane, at| {
        let expected = count[lane as usize];
        if expected == 0 || expected > MOST {
            let text = format!("an mbarrier for {expected} arrivals, where 1 to {MOST} are allowed");
            return env.stop(Detector::MemoryBarrier, warp, lane, text);
        }
        let barriers = &mut env.beside.barriers;
        let number = barriers.list.get(&at).map_or(barriers.made, |old| old.number);
        barriers.made = barriers.made.max(number + 1);
        let barrier = Barrier {
            number,
            expected,
            pending: expected,
            bytes: 0,
            phase: 0,
            arriving: Message::default(),
            over: Message::default(),
            warp: warp.index,
            lane,
            pc: env.pc,
            step: env.order.step(warp.index),
            visible: false,
        };
        if let Some(old) = barriers.list.insert(at, barrier) {
            let text = format!(
                "{}: an mbarrier is initialised again, {}, without mbarrier.inval before",
                env.shared.name(at),
                old.describe()
            );
            env.stop(Detector::MemoryBarrier, warp, lane, text);
        }
    });
}

fn expect(warp: &Warp, env: &mut Env<'_>, lane: u32, at: u32, bytes: u32) {
    let Some(barrier) = env.beside.barriers.list.get_mut(&at) else { return };
    barrier.bytes += i64::from(bytes);
    if barrier.bytes > i64::from(MOST) {
        let text = format!("{}: {} bytes expected, more than an mbarrier counts", env.shared.name(at), barrier.bytes);
        env.stop(Detector::MemoryBarrier, warp, lane, text);
    }
}

/// Bytes have come, and what came with them.
pub(super) fn complete(env: &mut Env<'_>, at: u32, bytes: u32, message: Option<&Message>) {
    let Some(barrier) = env.beside.barriers.list.get_mut(&at) else { return };
    if let Some(message) = message {
        barrier.arriving.join(message);
    }
    barrier.bytes -= i64::from(bytes);
    barrier.settle();
    env.spins.change();
    env.beside.barriers.polled.clear();
    put(env, at);
}

fn arrive(warp: &mut Warp, env: &mut Env<'_>, inst: &Inst, mask: u32) {
    let has = |bit: u32| inst.y & bit != 0;
    let operand = *warp.r32(inst.b);
    let message = if has(form::RELAXED) || mask == 0 {
        Message::default()
    } else {
        env.order.release(warp.index, mask, warp.live)
    };
    let mut before = [0; LANES];
    strong(warp, env, inst, mask, |warp, env, lane, at| {
        let (count, bytes) = match has(form::EXPECT) {
            true => (1, operand[lane as usize]),
            false => (operand[lane as usize], 0),
        };
        if !known(warp, env, lane, at) {
            return;
        }
        if has(form::EXPECT) {
            expect(warp, env, lane, at, bytes);
        }
        before[lane as usize] = arrivals(warp, env, lane, at, count, inst.y, &message);
    });
    warp.w64(inst.d, mask, &before);
}

/// Counts arrivals at a barrier that is there; returns its state before.
fn arrivals(warp: &Warp, env: &mut Env<'_>, lane: u32, at: u32, count: u32, form: u32, message: &Message) -> u64 {
    let Some(barrier) = env.beside.barriers.list.get_mut(&at) else { return 0 };
    let before = barrier.word();
    let wrong = if count == 0 || count > barrier.pending {
        format!("{count} arrivals at an mbarrier {}", barrier.describe())
    } else if form & form::NO_COMPLETE != 0 && count == barrier.pending {
        format!("an arrival that must not complete its phase, at an mbarrier {}", barrier.describe())
    } else {
        if form & form::DROP != 0 {
            barrier.expected -= count;
        }
        barrier.pending -= count;
        barrier.arriving.join(message);
        barrier.settle();
        env.spins.change();
        env.beside.barriers.polled.clear();
        return before;
    };
    let text = format!("{}: {wrong}", env.shared.name(at));
    env.stop(Detector::MemoryBarrier, warp, lane, text);
    before
}

/// `cp.async.mbarrier.arrive`: an arrival when the copies that the thread has started are done; `y` is 1 for `.noinc`,
/// else the barrier waits for it besides those that it expects.
fn arrive_of_copies(warp: &mut Warp, env: &mut Env<'_>, inst: &Inst, mask: u32) {
    strong(warp, env, inst, mask, |warp, env, lane, at| {
        if !known(warp, env, lane, at) {
            return;
        }
        if let Some(barrier) = env.beside.barriers.list.get_mut(&at).filter(|_| inst.y == 0) {
            barrier.pending += 1;
        }
        flight::arrive_later(warp, env, lane, at);
    });
    flight::drift(env);
}

/// An arrival by what works beside the threads, if the barrier is still there.
pub(super) fn arrive_for(env: &mut Env<'_>, at: u32, message: &Message) -> Result<(), String> {
    let Some(barrier) = env.beside.barriers.list.get_mut(&at) else {
        return Err("there is no mbarrier any more".to_string());
    };
    if barrier.pending == 0 {
        return Err(format!("the mbarrier is {}", barrier.describe()));
    }
    barrier.pending -= 1;
    complete(env, at, 0, Some(message));
    Ok(())
}

/// The number of the barrier at an address.
pub(super) fn number(env: &Env<'_>, at: u32) -> u32 {
    env.beside.barriers.list.get(&at).map_or(0, |barrier| barrier.number)
}

fn test(warp: &mut Warp, env: &mut Env<'_>, inst: &Inst, mask: u32) {
    flight::drift(env);
    let parity: [u64; LANES] = match inst.y & form::PARITY {
        0 => warp.r64(inst.b).map(|state| state >> 63),
        _ => warp.r32(inst.b).map(u64::from),
    };
    let (mut over, mut first) = (0, None);
    each_test(warp, env, inst, mask, |warp, env, lane, at| {
        if parity[lane as usize] > 1 {
            let text = format!("the parity {} of a phase, where 0 or 1 is expected", parity[lane as usize]);
            return env.stop(Detector::MemoryBarrier, warp, lane, text);
        }
        if !known(warp, env, lane, at) {
            return;
        }
        let Some(barrier) = env.beside.barriers.list.get(&at) else { return };
        if barrier.phase & 1 != parity[lane as usize] {
            over |= 1 << lane;
            if inst.y & form::RELAXED == 0 && first != Some(at) {
                env.order.acquire(warp.index, &barrier.over);
            }
            first = Some(at);
        } else if !env.beside.barriers.polled.contains(&at) {
            env.beside.barriers.polled.push(at);
        }
    });
    warp.wp(inst.d, mask, over);
    if over & mask != mask
        && env.fault.is_none()
        && let Some(address) = shared_addresses(warp, env, inst, mask & !over)
    {
        let access = Access::of::<8>(address, mask & !over);
        poll::waited(warp, env, &access, windows::SHARED, 8);
    }
}

/// For each lane that waits: a strong read.
fn each_test(
    warp: &mut Warp,
    env: &mut Env<'_>,
    inst: &Inst,
    mask: u32,
    mut f: impl FnMut(&mut Warp, &mut Env<'_>, u32, u32),
) {
    run(warp, env, inst, mask, true, None, &mut f);
}

/// A copy is to be completed by the barrier at an address: its number. `None` with the reason reported.
pub(super) fn for_copy(warp: &Warp, env: &mut Env<'_>, lane: u32, at: u64) -> Option<u32> {
    let access = Access::of::<8>([at; LANES], 1 << lane);
    shared::inside::<8>(warp, env, &access, "memory barrier operation on")?;
    let at = at as u32;
    if !known(warp, env, lane, at) {
        return None;
    }
    let barrier = env.beside.barriers.list.get_mut(&at)?;
    let (number, visible) = (barrier.number, std::mem::replace(&mut barrier.visible, true));
    if !visible {
        let text = format!(
            "{}: an mbarrier that a copy completes, and nothing has made its initialisation visible to copies \
             (fence.mbarrier_init or fence.proxy.async, by the thread that initialised it)",
            env.shared.name(at)
        );
        env.find(Finding::new(Detector::ProxyFence, env.at(warp, lane), text));
    }
    Some(number)
}
