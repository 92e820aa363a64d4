//! Order with what works beside the threads: copies that a memory barrier completes, the tensor units of warpgroups, and
//! the fences between the two proxies; and memory barriers, at which a part of a warp may arrive.
//!
//! An engine counts what it has done. A mark that it makes has a step of its own, above those of all warps: the engine
//! and its count. A thread knows of it when the count has come to its clock, by the wait that the engine's work asks for
//! or from somebody who waited. There are engines for eight warpgroups and for 24 memory barriers; beyond that two
//! barriers share one, and waiting for either is taken for waiting for both.

use super::clocks::{Clocks, DONE, FENCED, Steps, Vector, WARPS, join};
use super::far::{Across, Far, Reach};
use std::collections::VecDeque;

/// Engines of a CTA: first those of warpgroups, then those of memory barriers.
pub(super) const ENGINES: usize = 32;
const GROUPS: usize = 8;
/// Steps from here on are an engine's.
pub(super) const FIRST_OF_ENGINES: u32 = 1 << 30;
const COUNT_BITS: u32 = 25;
/// How many things are remembered that only a part of a warp has done.
const REMEMBERED: usize = 64;

/// The engine of a warpgroup's products.
pub(super) fn of_group(group: u32) -> usize {
    group as usize % GROUPS
}

/// The engine of the copies that a memory barrier completes, by its number in the CTA.
pub(super) fn of_barrier(number: u32) -> usize {
    GROUPS + number as usize % (ENGINES - GROUPS)
}

/// The step of an engine's work.
pub(super) fn engine_step(engine: usize, count: u32) -> u32 {
    FIRST_OF_ENGINES | (engine as u32) << COUNT_BITS | count.min((1 << COUNT_BITS) - 1)
}

/// The engine of a step, and its count; `None` for the step of a warp.
#[inline(always)]
pub(super) fn engine_of(step: u32) -> Option<(usize, u32)> {
    (step >= FIRST_OF_ENGINES).then(|| {
        let engine = (step & !FIRST_OF_ENGINES) >> COUNT_BITS;
        (engine as usize % ENGINES, step & ((1 << COUNT_BITS) - 1))
    })
}

/// What an arrival at a barrier hands over to whoever waits there.
#[derive(Clone)]
pub(crate) struct Message {
    pub(super) clock: Vector,
    pub(super) reach: Reach,
}

impl Default for Message {
    fn default() -> Message {
        Message { clock: [0; FENCED + WARPS], reach: Reach::new() }
    }
}

impl Message {
    /// Adds another arrival's.
    pub(crate) fn join(&mut self, other: &Message) {
        join(&mut self.clock, &other.clock);
        self.reach(&other.reach);
    }

    /// Adds what an arriving thread knows of other CTAs.
    pub(super) fn reach(&mut self, reach: &Reach) {
        if reach.is_empty() {
            return;
        }
        let mut all = Far::default();
        all.join(&self.reach);
        all.join(reach);
        self.reach.clone_from(all.known());
    }
}

/// What some lanes released while others of their warp, in the same steps, did not.
#[derive(Clone, Default)]
pub(super) struct Exceptions {
    list: VecDeque<Exception>,
    /// Proxy fences of a part of the warp: which lanes, and in which step.
    fences: VecDeque<(u32, u32)>,
}

#[derive(Clone)]
struct Exception {
    /// Steps after this one, up to `to`.
    from: u32,
    to: u32,
    /// The lanes that did not release; and those of them that did so since.
    missing: u32,
    /// Of each lane, the step of the warp with which its own part is handed over.
    healed: Steps,
    /// The last of these.
    whole: u32,
}

impl Exceptions {
    /// All lanes of the warp have met, in this step or before.
    pub(super) fn heal(&mut self, now: u32) {
        self.heal_lanes(u32::MAX, now);
    }

    fn heal_lanes(&mut self, lanes: u32, now: u32) {
        for exception in self.list.iter_mut().filter(|exception| exception.whole == u32::MAX) {
            for (lane, healed) in exception.healed.iter_mut().enumerate() {
                if lanes >> lane & 1 != 0 && *healed == u32::MAX {
                    *healed = now;
                }
            }
            exception.whole = exception.healed.iter().copied().max().unwrap_or(0);
        }
    }

    fn add(&mut self, from: u32, to: u32, missing: u32) {
        if let Some(last) = self.list.back_mut().filter(|last| last.missing == missing && last.from == from) {
            // An elected lane that arrives again and again.
            last.to = to;
            for (lane, healed) in last.healed.iter_mut().enumerate() {
                *healed = if missing >> lane & 1 != 0 { u32::MAX } else { 0 };
            }
            last.whole = u32::MAX;
            return;
        }
        let healed = std::array::from_fn(|lane| if missing >> lane & 1 != 0 { u32::MAX } else { 0 });
        if self.list.len() == REMEMBERED {
            self.list.pop_front();
        }
        self.list.push_back(Exception { from, to, missing, healed, whole: u32::MAX });
    }

    /// The last step up to which all lanes are ordered before somebody who knows `known`.
    #[inline(always)]
    pub(super) fn whole(&self, known: u32) -> u32 {
        let open = self.list.iter().filter(|exception| known < exception.whole);
        open.map(|exception| exception.from).fold(known, u32::min)
    }

    /// Whether what a lane did in a step is ordered before somebody who knows `known`, a later step.
    #[inline(always)]
    pub(super) fn allow(&self, known: u32, lane: u32, step: u32) -> bool {
        let hides = |e: &Exception| step > e.from && step <= e.to && known < e.healed[lane as usize % WARPS];
        !self.list.iter().any(hides)
    }
}

impl Clocks {
    /// Lanes of a warp arrive at a memory barrier: what they hand over.
    pub(super) fn release(&mut self, warp: u32, lanes: u32, live: u32, across: &Across) -> Message {
        let w = warp as usize % WARPS;
        let now = self.clock[w][w];
        if lanes & live == live {
            self.exceptions[w].heal(now);
        } else {
            self.exceptions[w].heal_lanes(lanes, now);
            self.exceptions[w].add(self.since[w], now, live & !lanes);
        }
        let mut message = Message { clock: self.clock[w], reach: Reach::new() };
        if let Some(far) = self.far.get_mut(w).filter(|far| !far.is_empty()) {
            across.learn(far);
            message.reach(far.known());
        }
        self.advance(w);
        message
    }

    /// A warp has waited for those who handed this over.
    pub(super) fn acquire(&mut self, warp: u32, message: &Message) {
        let w = warp as usize % WARPS;
        self.learn(w, &message.clock);
        if let Some(far) = self.far.get_mut(w).filter(|_| !message.reach.is_empty()) {
            far.join(&message.reach);
        }
    }

    /// An engine has done something: the step of it.
    pub(super) fn work(&mut self, engine: usize) -> u32 {
        self.done[engine] += 1;
        engine_step(engine, self.done[engine])
    }

    /// What an engine's last work hands over, with what was handed over to it when the work was given.
    pub(super) fn worked(&self, engine: usize, given: &Message) -> Message {
        let mut message = given.clone();
        message.clock[DONE + engine] = self.done[engine];
        message
    }

    /// A warp has waited until an engine had done so much.
    pub(super) fn waited(&mut self, warp: u32, engine: usize, count: u32) {
        let known = &mut self.clock[warp as usize % WARPS][DONE + engine];
        *known = count.max(*known);
    }

    /// What a warp knows of an engine.
    pub(super) fn knows_of(&self, warp: u32, engine: usize) -> u32 {
        self.clock[warp as usize % WARPS][DONE + engine]
    }

    /// A fence between the generic and the asynchronous proxy, by some lanes of a warp.
    pub(super) fn fence_proxy(&mut self, warp: u32, lanes: u32, live: u32) {
        let w = warp as usize % WARPS;
        let (now, whole) = (self.clock[w][w], lanes & live == live);
        for v in 0..self.warps() {
            let step = if v == w && !whole { self.since[w] } else { self.clock[w][v] };
            let fenced = &mut self.clock[w][FENCED + v];
            *fenced = step.max(*fenced);
        }
        if !whole {
            let fences = &mut self.exceptions[w].fences;
            if fences.len() == REMEMBERED {
                fences.pop_front();
            }
            fences.push_back((lanes, now));
        }
        self.advance(w);
    }

    /// Whether a proxy fence stands between what a lane of a warp did in a step and what `reader` does now.
    pub(super) fn is_fenced(&self, reader: u32, warp: u32, lane: u32, step: u32) -> bool {
        let (r, w) = (reader as usize % WARPS, warp as usize % WARPS);
        let known = if r == w { u32::MAX } else { self.clock[r][w] };
        step <= self.clock[r][FENCED + w]
            || self.exceptions.get(w).is_some_and(|warp| {
                warp.fences.iter().any(|(lanes, at)| lanes >> lane & 1 != 0 && step <= *at && *at <= known)
            })
    }
}
