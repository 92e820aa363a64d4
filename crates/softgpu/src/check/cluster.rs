//! Order between the CTAs of a cluster, who reach each other's shared memory.
//!
//! Each CTA has clocks of its own. What they tell each other, at the cluster's barrier, by arriving at memory barriers and
//! through words of shared memory, goes the way that CTAs take through device memory: a word has a log, and a message says
//! how far its reader may read there.

use super::cells::Cells;
use super::clocks::{Clocks, Vector, WARPS, join};
use super::engines::Message;
use super::far::{Act, Teller};
use super::marks::View;
use super::race::{Global, Order};
use crate::mem::windows::{Window, classify};

/// Where the words of shared memory lie among those through which CTAs tell each other something.
const SHARED: u64 = 1 << 63;
/// Where each warp has one for what it hands over otherwise: whoever knows the newest of it knows all before.
const TOLD: u64 = 1 << 62;

/// How a CTA sees shared memory: its own, or in a cluster that of `home`.
#[inline(always)]
pub(super) fn private<'a>(clocks: &'a Clocks, global: &'a Global, home: Option<u64>, at: u32) -> View<'a> {
    match home {
        None => View { clocks, across: None, home, word: u64::from(at) },
        Some(cta) => View { clocks, across: Some(&global.across), home, word: word_in(cta, at) },
    }
}

/// The word at an offset of a CTA's shared memory.
fn word_in(cta: u64, at: u32) -> u64 {
    SHARED | cta << 24 | u64::from(at)
}

/// An access of a CTA to another one's shared memory.
#[derive(Clone, Copy)]
pub(crate) struct Visit {
    pub cta: u64,
    pub warp: u32,
    pub lane: u32,
    pub pc: u32,
    step: u32,
}

impl Order {
    /// From now on the CTA is one of a cluster.
    pub(crate) fn join_cluster(&mut self, cta: u64) {
        self.home = Some(cta);
    }

    /// Makes marks for so many words of shared memory.
    pub(crate) fn cover_shared(&mut self, words: usize) {
        if self.shared.words() < words {
            self.shared = if self.home.is_some() { Cells::common(words) } else { Cells::new(words) };
        }
    }

    /// What is known of shared memory, which goes with it to whoever visits.
    pub(crate) fn swap_memory(&mut self, other: &mut Order) {
        std::mem::swap(&mut self.shared, &mut other.shared);
        std::mem::swap(&mut self.tables, &mut other.tables);
        std::mem::swap(&mut self.home, &mut other.home);
    }

    /// Whether the shared memory looked at is another CTA's.
    pub(super) fn is_away(&self) -> bool {
        self.home.is_some_and(|home| home != self.clocks.cta())
    }

    /// The word of a generic address, as CTAs speak through it.
    #[inline(always)]
    pub(super) fn word_of(&self, address: u64) -> u64 {
        match (self.home, classify(address)) {
            (Some(home), Window::Shared(at)) => word_in(home, at),
            _ => address,
        }
    }

    /// A message of this CTA's as another one may take it over.
    pub(super) fn told(&mut self, warp: u32, lanes: u32, live: u32, message: Message) -> Message {
        let Message { mut clock, reach } = message;
        let (w, cta) = (warp as usize % WARPS, self.clocks.cta());
        let (at, whole) = (clock[w], lanes & live == live);
        if !whole {
            clock[w] = self.clocks.since[w];
        }
        let who = Teller { warp, lanes: if whole { 0 } else { lanes }, at };
        let reach = self.global.across.tell(TOLD | cta << 8 | u64::from(warp) << 3, cta, who, &clock, reach);
        Message { reach, ..Message::default() }
    }

    /// Lanes of a warp arrive at the barrier of the cluster: what they hand over to their own CTA, and to the others.
    pub(crate) fn arrive_in_cluster(&mut self, warp: u32, lanes: u32, live: u32) -> (Message, Message) {
        let own = self.clocks.release(warp, lanes, live, &self.global.across);
        let others = self.told(warp, lanes, live, own.clone());
        (own, others)
    }

    /// Lanes of a warp have waited at the barrier of the cluster.
    pub(crate) fn meet_in_cluster(&mut self, warp: u32, whole: bool, own: &Message, others: &Message) {
        if whole {
            self.clocks.meet(warp, &own.clock);
        }
        self.clocks.acquire(warp, own);
        self.clocks.acquire(warp, others);
    }

    /// A thread accesses the shared memory of CTA `cta`: whether anything told it that the CTA has begun, and what the end
    /// of the CTA has to be behind.
    pub(crate) fn visit(&self, cta: u64, warp: u32, lane: u32, pc: u32) -> (bool, Visit) {
        let heard = self.clocks.far(warp).is_some_and(|far| self.global.across.heard(far, cta));
        (heard, Visit { cta: self.clocks.cta(), warp, lane, pc, step: self.clocks.step(warp) })
    }

    /// Whether a warp knows what a lane of the CTA whose memory is looked at did in a step.
    pub(super) fn knows_away(&self, warp: u32, other: u32, lane: u32, step: u32) -> bool {
        let act = Act { warp: other, lane: Some(lane), step, word: None };
        self.home.zip(self.clocks.far(warp)).is_some_and(|(home, far)| self.global.across.orders(far, home, act))
    }

    /// Whether some thread of this CTA, all of whose threads have exited, did so behind a visit.
    pub(crate) fn is_behind_visit(&self, visit: &Visit) -> bool {
        let act = Act { warp: visit.warp, lane: Some(visit.lane), step: visit.step, word: None };
        (0..self.clocks.warps() as u32)
            .any(|warp| self.clocks.far(warp).is_some_and(|far| self.global.across.orders(far, visit.cta, act)))
    }
}

impl Clocks {
    /// All lanes of a warp have met each other and whoever handed this over.
    fn meet(&mut self, warp: u32, clock: &Vector) {
        let w = warp as usize % WARPS;
        self.since[w] = self.since[w].max(clock[w]);
        self.exceptions[w].heal(clock[w]);
        join(&mut self.clock[w], clock);
    }
}
