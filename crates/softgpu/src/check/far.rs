//! Order between the CTAs of one launch.
//!
//! CTAs run in any order and at the same time, so nothing orders them but what they tell each other: a fence, then a
//! strong store or an atomic operation on a word; there a strong load or an atomic operation, then a fence or a barrier.
//! Each word that CTAs speak through has a log of what was handed over with it. What a warp knows of other CTAs is how
//! far it has read in which logs: most warps have read in none.

use super::clocks::{DONE, Vector, WARPS};
use std::collections::HashMap;

/// How far somebody has read in the log of each word; ascending by word.
pub(super) type Reach = Vec<(u64, u32)>;

/// What one strong store handed over.
struct Entry {
    /// The clock of the storing CTA at its warp's last fence.
    clock: Box<Vector>,
    /// What that warp knew of other CTAs at its last fence.
    reach: Reach,
    warp: u32,
    /// The warp's step when it last stored: its own accesses to the word, up to there, come with it.
    at: u32,
    /// Lanes of the warp that handed over what they did up to that step, where others of it did not.
    lanes: u32,
}

/// What was handed over through one word.
#[derive(Default)]
struct Log {
    entries: Vec<Entry>,
    by_cta: HashMap<u64, Vec<u32>>,
}

/// Steps of a launch and which CTA they belong to, and what CTAs told each other.
#[derive(Default)]
pub(super) struct Across {
    /// Steps below this one belong to earlier launches.
    pub(super) old: u32,
    /// The first step that nobody has.
    next: u32,
    /// Where runs of steps begin, and whose they are.
    segments: Vec<(u32, u64)>,
    logs: HashMap<u64, Log>,
}

/// What one warp has seen of other CTAs and made good by a fence or a barrier.
#[derive(Clone, Default)]
pub(super) struct Far {
    seen: Reach,
    known: Reach,
    /// What it knew at its last fence of device scope, and the clock of its CTA then.
    published: Reach,
    clock: Option<Box<Vector>>,
}

impl Across {
    /// A new launch: all that went before is ordered before it.
    pub(super) fn begin(&mut self) {
        // Step 0 is that of no access.
        self.next = self.next.max(1);
        self.old = self.next;
        self.segments.clear();
        self.logs.clear();
    }

    /// The steps that are left run out soon.
    pub(super) fn is_worn(&self) -> bool {
        self.next > super::clocks::LAST_STEP
    }

    /// A CTA begins or goes on; returns the first of the steps that are its own from now on.
    pub(super) fn enter(&mut self, cta: u64) -> u32 {
        if self.segments.last().is_none_or(|last| last.1 != cta) {
            self.segments.push((self.next, cta));
        }
        self.next
    }

    /// It ends or pauses, its last step being `last`.
    pub(super) fn leave(&mut self, last: u32) {
        self.next = self.next.max(last.saturating_add(1));
    }

    /// The CTA that a step of this launch belongs to.
    pub(super) fn owner(&self, step: u32) -> Option<u64> {
        let after = self.segments.partition_point(|(start, _)| *start <= step);
        after.checked_sub(1).map(|at| self.segments[at].1)
    }

    /// A warp stores to `word` what it had published at its last fence.
    pub(super) fn publish(&mut self, word: u64, cta: u64, warp: u32, at: u32, far: &Far) {
        let Some(clock) = &far.clock else { return };
        let log = self.logs.entry(key(word)).or_default();
        let own = log.by_cta.entry(cta).or_default();
        let last = own.last().map(|&last| &mut log.entries[last as usize]);
        if let Some(last) = last.filter(|e| e.warp == warp && e.clock == *clock && e.reach == far.published) {
            last.at = at;
            return;
        }
        own.push(log.entries.len() as u32);
        log.entries.push(Entry { clock: clock.clone(), reach: far.published.clone(), warp, at, lanes: 0 });
    }

    /// A warp has read what stands in the log of `word`; `acquire` when it counts at once.
    pub(super) fn observe(&self, word: u64, far: &mut Far, acquire: bool) {
        let Some(log) = self.logs.get(&key(word)) else { return };
        raise(&mut far.seen, key(word), log.entries.len() as u32);
        if acquire {
            self.learn(far);
        }
    }

    /// A fence or a barrier makes good what a warp has seen.
    pub(super) fn learn(&self, far: &mut Far) {
        let mut open: Reach = std::mem::take(&mut far.seen);
        while let Some((word, length)) = open.pop() {
            let before = far.known.iter().find(|known| known.0 == word).map_or(0, |known| known.1);
            if length <= before {
                continue;
            }
            raise(&mut far.known, word, length);
            // Order is transitive: what they knew is known.
            if let Some(log) = self.logs.get(&word) {
                let new = &log.entries[before as usize..length as usize];
                open.extend(new.iter().flat_map(|entry| entry.reach.iter().copied()));
            }
        }
    }

    /// A warp hands over what stands in a message to whoever learns of this word: what is known by then. Steps of the warp
    /// itself beyond its entry in the clock, up to `at`, were those of `lanes` alone.
    pub(super) fn tell(&mut self, word: u64, cta: u64, who: Teller, clock: &Vector, reach: Reach) -> Reach {
        let log = self.logs.entry(key(word)).or_default();
        log.by_cta.entry(cta).or_default().push(log.entries.len() as u32);
        let Teller { warp, lanes, at } = who;
        log.entries.push(Entry { clock: Box::new(*clock), reach: reach.clone(), warp, at, lanes });
        let mut all = Far { known: reach, ..Far::default() };
        raise(&mut all.known, key(word), log.entries.len() as u32);
        all.known
    }

    /// What a warp that knows as much as `far` was told by a CTA, the newest of each word first.
    fn told<'a>(&'a self, reach: &'a Reach, cta: u64) -> impl Iterator<Item = (u64, &'a Entry)> {
        reach.iter().flat_map(move |(word, length)| {
            let log = self.logs.get(word);
            let own = log.and_then(|log| log.by_cta.get(&cta)).map_or(&[][..], Vec::as_slice);
            let own = &own[..own.partition_point(|at| at < length)];
            own.iter().rev().filter_map(move |at| Some((*word, &log?.entries[*at as usize])))
        })
    }

    /// Whether an access of another CTA is ordered before what a warp does now that knows as much as `far`.
    pub(super) fn orders(&self, far: &Far, cta: u64, act: Act) -> bool {
        let Act { warp, lane, step, word } = act;
        let handed = |e: &Entry| {
            step <= e.clock[warp as usize % WARPS]
                || e.warp == warp && step <= e.at && lane.is_some_and(|lane| e.lanes >> lane & 1 != 0)
        };
        let own = |log: u64, e: &Entry| Some(log) == word.map(key) && e.warp == warp && step <= e.at;
        self.told(&far.known, cta).any(|(log, e)| handed(e) || own(log, e))
            || self.told(&far.seen, cta).any(|(log, e)| own(log, e))
    }

    /// Whether a warp that knows as much as `far` knows that an engine of another CTA has done so much.
    pub(super) fn orders_engine(&self, far: &Far, cta: u64, engine: usize, count: u32) -> bool {
        self.told(&far.known, cta).any(|(_, e)| e.clock[DONE + engine] >= count)
    }

    /// Whether it knows anything of a CTA.
    pub(super) fn heard(&self, far: &Far, cta: u64) -> bool {
        self.told(&far.known, cta).next().is_some()
    }
}

/// Who hands something over.
pub(super) struct Teller {
    pub(super) warp: u32,
    pub(super) lanes: u32,
    pub(super) at: u32,
}

/// An access of another CTA.
#[derive(Clone, Copy)]
pub(super) struct Act {
    pub(super) warp: u32,
    /// `None`: several lanes did the same.
    pub(super) lane: Option<u32>,
    pub(super) step: u32,
    /// The word, of a strong access.
    pub(super) word: Option<u64>,
}

impl Far {
    /// A fence of device scope: the next strong store hands over what is known now.
    pub(super) fn fence(&mut self, clock: &Vector) {
        self.published.clone_from(&self.known);
        self.clock = Some(Box::new(*clock));
    }

    /// Whether it has seen anything.
    pub(super) fn is_empty(&self) -> bool {
        self.seen.is_empty() && self.known.is_empty()
    }

    /// What it knows.
    pub(super) fn known(&self) -> &Reach {
        &self.known
    }

    /// Takes over what others know.
    pub(super) fn join(&mut self, reach: &Reach) {
        for (word, length) in reach {
            raise(&mut self.known, *word, *length);
        }
    }
}

/// Moves the mark in the log of `word` to `length`, if it is not there yet.
fn raise(reach: &mut Reach, word: u64, length: u32) {
    match reach.binary_search_by_key(&word, |known| known.0) {
        Ok(at) => reach[at].1 = reach[at].1.max(length),
        Err(at) => reach.insert(at, (word, length)),
    }
}

/// The two halves of a word of 64 bits are one.
fn key(word: u64) -> u64 {
    word & !7
}
