//! Happens-before between the threads of one CTA, as vector clocks of its warps.
//!
//! Each warp counts its own steps; a step ends where it publishes what it did (a barrier, a fence). `clock[w][v]` is
//! the last step of warp `v` that is ordered before what warp `w` does now. Two lanes of one warp are ordered by warp
//! barriers alone: running in lockstep orders nothing.

use super::engines::{ENGINES, Exceptions, FIRST_OF_ENGINES, Message};
use super::far::{Across, Far};
use crate::exec::LANES;
use crate::mem::windows::{Window, classify};
use std::collections::HashMap;

/// Warps of a CTA, at most.
pub(super) const WARPS: usize = 32;
/// A launch that begins beyond this step begins anew.
pub(super) const LAST_STEP: u32 = 1 << 29;
/// The last step there is. What comes later counts as ordered: it may hide a race, and never invents one.
const END: u32 = FIRST_OF_ENGINES - 1;
/// Where a clock has what engines have done, and behind it the steps of each warp up to which a proxy fence stands between
/// what the warp wrote and what the owner of the clock does now.
pub(super) const DONE: usize = WARPS;
pub(super) const FENCED: usize = DONE + ENGINES;

/// A vector clock: one step per warp, what each engine has done, and which steps of each warp are fenced.
pub(super) type Vector = [u32; FENCED + WARPS];
/// Of each warp, or of each lane of one warp, a step.
pub(super) type Steps = [u32; WARPS];

/// The clocks of one CTA.
pub(super) struct Clocks {
    warps: usize,
    cta: u64,
    /// Its steps come after this one.
    base: u32,
    /// The first of the steps that are the CTA's own since it last began or went on.
    from: u32,
    pub(super) clock: Box<[Vector; WARPS]>,
    /// Per warp, its last step that is ordered before all lanes of the same warp.
    pub(super) since: Steps,
    /// Per warp, a step up to which everything by anybody is ordered: the common case is settled by one comparison.
    floor: Steps,
    /// Per warp in which some lanes met without the others: the step up to which each lane (second) is ordered before
    /// each lane (first).
    pub(super) lanes: Vec<Option<Box<[Steps; LANES]>>>,
    exited: u32,
    /// What a strong store of the warp hands over: its clock at its last fence.
    published: Box<[Option<Vector>; WARPS]>,
    /// What strong loads of the warp have seen and its next fence makes good.
    seen: Box<[Vector; WARPS]>,
    /// What the last strong stores to a word handed over.
    words: HashMap<u64, Vector>,
    /// What arrived at each barrier without waiting there.
    arrived: HashMap<u32, Message>,
    /// What each warp has seen of other CTAs.
    pub(super) far: Vec<Far>,
    /// What engines have done so far.
    pub(super) done: [u32; ENGINES],
    /// What lanes of a warp did that others of it have not released with it.
    pub(super) exceptions: Vec<Exceptions>,
}

impl Default for Clocks {
    fn default() -> Clocks {
        let mut clocks = Clocks {
            warps: 0,
            cta: 0,
            base: 0,
            from: 0,
            clock: Box::new([[0; FENCED + WARPS]; WARPS]),
            since: [0; WARPS],
            floor: [0; WARPS],
            lanes: Vec::new(),
            exited: 0,
            published: Box::new([None; WARPS]),
            seen: Box::new([[0; FENCED + WARPS]; WARPS]),
            words: HashMap::new(),
            arrived: HashMap::new(),
            far: Vec::new(),
            done: [0; ENGINES],
            exceptions: Vec::new(),
        };
        clocks.restart(0, 0, 0);
        clocks
    }
}

impl Clocks {
    /// A new CTA whose steps begin behind `base`: all that went before in it is ordered before it.
    pub(super) fn restart(&mut self, warps: u32, cta: u64, base: u32) {
        self.warps = (warps as usize).min(WARPS);
        self.cta = cta;
        (self.base, self.from) = (base, base);
        for (w, clock) in self.clock.iter_mut().enumerate().take(self.warps) {
            clock[..WARPS].fill(base);
            clock[DONE..FENCED].fill(0);
            clock[FENCED..].fill(base);
            clock[w] = base + 1;
        }
        self.since = [base; WARPS];
        self.floor = [base; WARPS];
        self.exited = 0;
        self.published[..self.warps].fill(None);
        self.seen[..self.warps].fill([0; FENCED + WARPS]);
        self.done = [0; ENGINES];
        self.exceptions.clear();
        self.exceptions.resize_with(self.warps, Exceptions::default);
        self.words.clear();
        self.arrived.clear();
        self.lanes.clear();
        self.lanes.resize_with(self.warps, || None);
        self.far.clear();
        self.far.resize_with(self.warps, Far::default);
    }

    /// The CTA goes on after others had steps up to `from`.
    pub(super) fn resume(&mut self, from: u32) {
        self.from = from;
    }

    /// The CTA.
    pub(super) fn cta(&self) -> u64 {
        self.cta
    }

    /// Its steps come after this one.
    pub(super) fn base(&self) -> u32 {
        self.base
    }

    /// The first of the steps that are surely its own.
    #[inline(always)]
    pub(super) fn from(&self) -> u32 {
        self.from
    }

    /// The last step of any of its warps.
    pub(super) fn last(&self) -> u32 {
        self.clock.iter().enumerate().take(self.warps).map(|(w, clock)| clock[w]).max().unwrap_or(self.from)
    }

    /// A warp's next step.
    pub(super) fn advance(&mut self, w: usize) {
        self.clock[w][w] = (self.clock[w][w] + 1).max(self.from.saturating_add(1)).min(END);
    }

    /// What a warp has seen of other CTAs.
    pub(super) fn far(&self, warp: u32) -> Option<&Far> {
        self.far.get(warp as usize).filter(|far| !far.is_empty())
    }

    /// Warps of the CTA.
    #[inline(always)]
    pub(super) fn warps(&self) -> usize {
        self.warps
    }

    /// The step a warp is in.
    #[inline(always)]
    pub(super) fn step(&self, warp: u32) -> u32 {
        self.clock[warp as usize % WARPS][warp as usize % WARPS]
    }

    /// Steps up to this one are ordered before whatever the warp does now.
    #[inline(always)]
    pub(super) fn floor(&self, warp: u32) -> u32 {
        self.floor[warp as usize % WARPS]
    }

    /// The last step of warp `other` that is ordered before what `warp` does now.
    pub(super) fn knows(&self, warp: u32, other: u32) -> u32 {
        let (warp, other) = (warp as usize % WARPS, other as usize % WARPS);
        if warp == other { self.since[warp] } else { self.clock[warp][other] }
    }

    /// The same, counting only what all of its lanes have handed over.
    pub(super) fn whole(&self, warp: u32, other: u32) -> u32 {
        let known = self.knows(warp, other);
        self.exceptions.get(other as usize).map_or(known, |exceptions| exceptions.whole(known))
    }

    /// Whether what a lane of warp `other`, or several of its lanes, did in a step is ordered before what `warp` does.
    pub(super) fn orders(&self, warp: u32, other: u32, lane: u32, several: bool, step: u32) -> bool {
        let known = self.knows(warp, other);
        step <= known
            && (warp == other
                || self.exceptions.get(other as usize).is_none_or(|exceptions| {
                    if several { step <= exceptions.whole(known) } else { exceptions.allow(known, lane, step) }
                }))
    }

    /// Lanes of a warp arrive at a barrier, whether or not they wait there.
    pub(super) fn arrive(&mut self, id: u32, warp: u32, across: &Across) {
        let w = warp as usize % WARPS;
        let arrived = self.arrived.entry(id).or_default();
        join(&mut arrived.clock, &self.clock[w]);
        if let Some(far) = self.far.get_mut(w).filter(|far| !far.is_empty()) {
            // A barrier is as good as a fence for what its threads have seen: the last-block pattern relies on it.
            across.learn(far);
            arrived.reach(far.known());
        }
        self.advance(w);
    }

    /// A barrier is complete; `waiting` says which lanes waited there, one mask per warp.
    pub(super) fn complete(&mut self, id: u32, waiting: &[u32]) {
        let Message { clock: mut joined, reach } = self.arrived.remove(&id).unwrap_or_default();
        for w in (0..self.warps).filter(|w| self.exited >> w & 1 != 0) {
            // A warp that has exited counts as arrived: barriers do not wait for it because it is done.
            join(&mut joined, &self.clock[w]);
        }
        for w in (0..self.warps).filter(|w| waiting.get(*w).is_some_and(|mask| *mask != 0)) {
            // Its own entry is the step in which it arrived, or an earlier one of a warp that knew less.
            self.since[w] = self.since[w].max(joined[w]);
            self.exceptions[w].heal(joined[w]);
            self.learn(w, &joined);
            if let Some(far) = self.far.get_mut(w).filter(|_| !reach.is_empty()) {
                far.join(&reach);
            }
        }
    }

    /// The lanes `mask` of a warp met at a warp barrier; a lane that is not there any more counts as having met them.
    pub(super) fn warp_sync(&mut self, warp: u32, mask: u32) {
        let w = warp as usize % WARPS;
        let now = self.clock[w][w];
        if mask == u32::MAX {
            self.since[w] = now;
            self.exceptions[w].heal(now);
        } else if let Some(lanes) = self.lanes.get_mut(w) {
            let lanes: &mut [Steps; LANES] = lanes.get_or_insert_with(|| Box::new([[0; LANES]; LANES]));
            let met = || (0..LANES).filter(|lane| mask >> lane & 1 != 0);
            let mut joined = [0; LANES];
            for lane in met() {
                join(&mut joined, &lanes[lane]);
                joined[lane] = now;
            }
            met().for_each(|lane| lanes[lane] = joined);
        }
        self.advance(w);
        self.settle(w);
    }

    /// Whether step `step` of lane `other` of a warp is ordered before what lane `lane` of it does now.
    pub(super) fn lane_knows(&self, warp: u32, lane: u32, other: u32, step: u32) -> bool {
        let lanes = self.lanes.get(warp as usize).and_then(Option::as_ref);
        lanes.is_some_and(|lanes| step <= lanes[lane as usize % LANES][other as usize % LANES])
    }

    /// All threads of a warp have exited.
    pub(super) fn exit(&mut self, warp: u32) {
        self.exited |= 1 << (warp % 32);
    }

    /// A fence: what came before is handed over by the next strong store, and what strong loads saw is made good.
    pub(super) fn fence(&mut self, warp: u32, device: bool, across: &Across) {
        let w = warp as usize % WARPS;
        let seen = self.seen[w];
        self.learn(w, &seen);
        self.published[w] = Some(self.clock[w]);
        if let (true, Some(far)) = (device, self.far.get_mut(w)) {
            across.learn(far);
            far.fence(&self.clock[w]);
        }
        self.advance(w);
    }

    /// A strong store to a word; `release` when the store itself orders what came before.
    pub(super) fn strong_store(&mut self, warp: u32, word: u64, release: bool, across: &mut Across) {
        if release {
            self.fence(warp, true, across);
        }
        let w = warp as usize % WARPS;
        if let Some(published) = &self.published[w] {
            join(self.words.entry(word).or_insert([0; FENCED + WARPS]), published);
        }
        if let (Some(far), Window::Global) = (self.far.get(w), classify(word)) {
            across.publish(word, self.cta, warp, self.clock[w][w], far);
        }
    }

    /// A strong load of a word; `acquire` when the load itself orders what comes after.
    pub(super) fn strong_load(&mut self, warp: u32, word: u64, acquire: bool, across: &Across) {
        if let Some(far) = self.far.get_mut(warp as usize % WARPS) {
            across.observe(word, far, acquire);
        }
        let Some(vector) = self.words.get(&word).copied() else { return };
        let w = warp as usize % WARPS;
        if acquire {
            self.learn(w, &vector);
        } else {
            join(&mut self.seen[w], &vector);
        }
    }

    pub(super) fn learn(&mut self, w: usize, vector: &Vector) {
        // Others know at most what this warp published: its own step does not grow by what it learns.
        join(&mut self.clock[w], vector);
        self.settle(w);
    }

    fn settle(&mut self, w: usize) {
        let others = self.clock[w].iter().enumerate().take(self.warps).filter(|(v, _)| *v != w);
        let whole = |(v, &step): (usize, &u32)| self.exceptions[v].whole(step);
        self.floor[w] = others.map(whole).fold(self.since[w], u32::min);
    }
}

pub(super) fn join<const N: usize>(to: &mut [u32; N], from: &[u32; N]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = (*to).max(*from);
    }
}

const _: () = assert!(LANES == 32, "lane numbers take five bits of a mark");

#[cfg(test)]
mod tests {
    use super::*;

    fn ordered(clocks: &Clocks, step: u32, by: u32, before: u32) -> bool {
        step <= clocks.knows(before, by)
    }

    fn meet(clocks: &mut Clocks, id: u32, waiting: &[u32]) {
        for warp in (0..waiting.len()).filter(|w| waiting[*w] != 0) {
            clocks.arrive(id, warp as u32, &Across::default());
        }
        clocks.complete(id, waiting);
    }

    #[test]
    fn barriers_order_their_participants_and_nobody_else() {
        let mut clocks = Clocks::default();
        clocks.restart(3, 0, 0);
        let (zero, two) = (clocks.step(0), clocks.step(2));
        assert!(!ordered(&clocks, zero, 0, 1));
        meet(&mut clocks, 1, &[u32::MAX, u32::MAX, 0]);
        assert!(ordered(&clocks, zero, 0, 1));
        assert!(!ordered(&clocks, zero, 0, 2));
        assert!(!ordered(&clocks, two, 2, 0));
        assert!(clocks.step(0) > zero);
        assert!(!ordered(&clocks, clocks.step(0), 0, 1), "what comes after the barrier is not ordered by it");
        // Order is transitive.
        meet(&mut clocks, 2, &[0, u32::MAX, u32::MAX]);
        assert!(ordered(&clocks, zero, 0, 2));
    }

    #[test]
    fn an_arrival_releases_and_does_not_acquire() {
        let mut clocks = Clocks::default();
        clocks.restart(2, 0, 0);
        let (zero, one) = (clocks.step(0), clocks.step(1));
        clocks.arrive(3, 0, &Across::default());
        let later = clocks.step(0);
        meet(&mut clocks, 3, &[0, u32::MAX]);
        assert!(ordered(&clocks, zero, 0, 1));
        assert!(!ordered(&clocks, later, 0, 1));
        assert!(!ordered(&clocks, one, 1, 0));
    }

    #[test]
    fn fences_hand_over_through_a_strong_word() {
        let mut clocks = Clocks::default();
        clocks.restart(2, 0, 0);
        let before = clocks.step(0);
        clocks.fence(0, true, &Across::default());
        let after = clocks.step(0);
        clocks.strong_store(0, 64, false, &mut Across::default());
        clocks.strong_load(1, 64, false, &Across::default());
        assert!(!ordered(&clocks, before, 0, 1), "the reader has no fence yet");
        clocks.fence(1, true, &Across::default());
        assert!(ordered(&clocks, before, 0, 1));
        assert!(!ordered(&clocks, after, 0, 1));
    }

    #[test]
    fn acquire_and_release_need_no_fence() {
        let mut clocks = Clocks::default();
        clocks.restart(2, 0, 0);
        let before = clocks.step(0);
        clocks.strong_store(0, 64, true, &mut Across::default());
        clocks.strong_load(1, 64, true, &Across::default());
        assert!(ordered(&clocks, before, 0, 1));
        assert!(!ordered(&clocks, clocks.step(0), 0, 1));
    }

    #[test]
    fn an_exited_warp_is_ordered_before_later_barriers() {
        let mut clocks = Clocks::default();
        clocks.restart(2, 0, 0);
        let zero = clocks.step(0);
        clocks.exit(0);
        meet(&mut clocks, 0, &[0, u32::MAX]);
        assert!(ordered(&clocks, zero, 0, 1));
    }

    #[test]
    fn a_new_cta_is_ordered_after_everything() {
        let mut clocks = Clocks::default();
        clocks.restart(2, 0, 0);
        meet(&mut clocks, 0, &[1, 1]);
        let (zero, one) = (clocks.step(0), clocks.step(1));
        clocks.restart(2, 1, clocks.last());
        for w in 0..2 {
            assert!(zero.max(one) <= clocks.floor(w));
            assert!(clocks.step(w) > clocks.floor(w));
        }
    }
}
