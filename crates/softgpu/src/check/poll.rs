//! Polling: warps that load one word again and again while memory does not change.
//!
//! A warp spins when it repeats a volatile, ordered or atomic access that changed nothing, on the same addresses, and
//! nobody stored anything else since. It then lets others run; when everybody spins or waits and no further CTA can
//! start, nothing will ever change.

use super::{Detector, Finding};
use crate::exec::access::Access;
use crate::exec::hopper::{cluster, wgmma};
use crate::exec::{Env, Warp};
use crate::mem::windows::{Window, classify};

/// Addresses that a spinning loop may alternate between.
const WORDS: usize = 4;
/// Instructions between two repetitions that still belong to one loop.
const LOOP: u64 = 256;
/// Repeated loads that a barrier asked again counts for.
const BARRIER_WEIGHT: u64 = 16;

/// What one warp polls.
#[derive(Clone, Debug, Default)]
pub struct Polls {
    recent: [Poll; WORDS],
    next: usize,
    /// The poll that was repeated last, and when.
    last: Option<(Poll, u64)>,
    /// Instructions of the warp since then, up to the beginning of its turn.
    quiet: u64,
    /// Whether it ever polled.
    any: bool,
}

/// A load that may be repeated.
#[derive(Clone, Copy, Debug, Default)]
struct Poll {
    pc: u32,
    lane: u32,
    bytes: u32,
    /// Generic addresses of the lowest and the highest lane.
    span: (u64, u64),
    /// How often memory had changed by then.
    changes: u64,
}

/// What a launch knows of polling.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spins {
    /// Stores and atomic operations that changed memory; of warps that do not poll, all of them.
    pub(crate) changes: u64,
    /// Repetitions since the last of these.
    pub(crate) repeated: u64,
    /// The running warp has just repeated a poll.
    pub(crate) pause: bool,
}

impl Spins {
    /// Something happened that others may wait for.
    #[inline(always)]
    pub(crate) fn change(&mut self) {
        self.changes += 1;
        self.repeated = 0;
    }
}

impl Polls {
    /// A new CTA.
    pub(crate) fn restart(&mut self) {
        if self.any {
            *self = Polls::default();
        }
    }

    /// Whether it ever polled: its stores are looked at then.
    #[inline(always)]
    pub(crate) fn any(&self) -> bool {
        self.any
    }

    /// Whether the warp spins, its turn having lasted from `start` to `now`.
    pub(crate) fn turn(&mut self, start: u64, now: u64) -> bool {
        let Some((_, at)) = self.last else { return false };
        self.quiet = if at >= start { now - at } else { self.quiet.saturating_add(now - start) };
        self.quiet <= LOOP
    }
}

/// A barrier that is not complete. Nobody asks one as often as memory before giving up: each repetition counts for several.
#[cold]
pub(crate) fn waited(warp: &mut Warp, env: &mut Env<'_>, access: &Access, window: u64, bytes: usize) {
    let repeated = env.spins.repeated;
    polled(warp, env, access, window, bytes);
    env.spins.repeated += (env.spins.repeated - repeated) * (BARRIER_WEIGHT - 1);
}

/// A load or an atomic operation that changed nothing.
#[cold]
pub(crate) fn polled(warp: &mut Warp, env: &mut Env<'_>, access: &Access, window: u64, bytes: usize) {
    let span = (access.min | window, access.max | window);
    let (lane, changes) = (access.mask.trailing_zeros(), env.spins.changes);
    let poll = Poll { pc: env.pc, lane, bytes: bytes as u32, span, changes };
    let polls = &mut warp.polls;
    polls.any = true;
    match polls.recent.iter_mut().find(|old| old.pc == poll.pc && old.span == span && old.bytes == poll.bytes) {
        Some(old) => {
            if old.changes == changes {
                polls.last = Some((poll, env.clock));
                env.spins.repeated += 1;
                env.spins.pause = true;
            }
            *old = poll;
        }
        None => {
            polls.recent[polls.next % WORDS] = poll;
            polls.next += 1;
        }
    }
}

/// Ends a launch in which everybody polls and nothing changes: `unstarted` CTAs wait for those that run.
pub(crate) fn hang<'w>(env: &mut Env<'_>, warps: impl Iterator<Item = &'w Warp>, resident: usize, unstarted: u64) {
    let Some((warp, poll)) = warps.filter_map(|warp| Some((warp, warp.polls.last?.0))).next() else { return };
    env.pc = poll.pc;
    // Warps that wait for others of their warpgroup: that says more than what they poll.
    wgmma::end(env);
    let (address, _) = poll.span;
    if address == cluster::BARRIER {
        let text = format!("hang: warp {} waits at {}", warp.index, env.cluster.describe());
        return env.stop(Detector::Deadlock, warp, warp.live.trailing_zeros(), text);
    }
    let (place, value) = match classify(address) {
        Window::Shared(at) => (env.shared.name(at), env.shared.load(at)),
        _ => {
            let mut word = [0; 4];
            if let Some((_, allocation)) = env.launch.memory.at_or_before(address) {
                allocation.read((address & !3) - allocation.base(), &mut word);
            }
            (env.launch.memory.describe(address), u32::from_le_bytes(word))
        }
    };
    let writer = match env.order.last_writer(address) {
        Some((cta, by)) => {
            let cta = crate::sched::coordinates(cta, env.launch.grid);
            let at = env.kernel.describe(by.pc, cta, by.warp, by.lane);
            format!("last written by {at}")
        }
        None if env.launch.settings.checks.race => "written before this launch, if at all".to_string(),
        None => "its writer is known only with checks for races".to_string(),
    };
    let Poll { bytes, lane, .. } = poll;
    let room = match unstarted {
        0 => String::new(),
        n => format!("; {resident} CTAs are resident, all that the device holds, and {n} wait for one of them to end"),
    };
    let held = match classify(address) {
        Window::Shared(at) => env.beside.barriers.describe(at).map(|barrier| format!("an mbarrier {barrier}")),
        _ => None,
    };
    let held = held.unwrap_or_else(|| format!("whose word is {value:#x}, {writer}"));
    let text = format!(
        "hang: every warp polls or waits and memory does not change; warp {} polls {bytes} bytes at {address:#x}, {place}, \
         {held}{room}",
        warp.index
    );
    let at = env.at(warp, lane);
    env.find(Finding { address: Some(address), ..Finding::new(Detector::Deadlock, at, text.clone()) });
    env.fault(warp, lane, crate::launch::code::TIMEOUT, text);
}
