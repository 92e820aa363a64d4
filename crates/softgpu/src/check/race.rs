//! Races between the threads of one CTA, on shared memory and on device memory.

use super::cells::{Cells, Clash, Grain, Tables, Who};
use super::clocks::Clocks;
use super::{Detector, Finding};
use crate::exec::{Env, Warp};
use std::collections::HashMap;

/// Bytes of device memory whose marks are kept together.
const PAGE: u64 = 4096;

/// Happens-before between the threads of one CTA, and who touched what.
#[derive(Default)]
pub struct Order {
    clocks: Clocks,
    tables: Tables,
    shared: Cells,
    pages: Vec<Cells>,
    /// Pages of the current CTA by address. Pages of earlier CTAs are used again as they are: every mark in them is
    /// older than the CTA, and so settled.
    page_of: HashMap<u64, usize>,
    used: usize,
    last: (u64, usize),
}

impl Order {
    /// Nothing has happened yet among `warps` warps.
    pub fn new(warps: u32) -> Order {
        let mut order = Order::default();
        order.restart(warps);
        order
    }

    /// The next CTA of the launch.
    pub fn restart(&mut self, warps: u32) {
        if !self.clocks.restart(warps) {
            (self.tables, self.shared, self.pages) = (Tables::default(), Cells::default(), Vec::new());
        }
        self.page_of.clear();
        self.used = 0;
        self.last = (u64::MAX, 0);
    }

    /// Lanes of a warp arrive at a barrier, whether or not they wait there.
    pub fn arrive(&mut self, id: u32, warp: u32, _mask: u32) {
        self.clocks.arrive(id, warp);
    }

    /// A barrier is complete; `waiting` says which lanes waited there, one mask per warp.
    pub fn complete(&mut self, id: u32, waiting: &[u32]) {
        self.clocks.complete(id, waiting);
    }

    /// `bar.warp.sync` (or an operation as strong) of the lanes `mask` of a warp.
    pub fn warp_sync(&mut self, warp: u32, _mask: u32) {
        self.clocks.warp_sync(warp);
    }

    /// A warp's last threads exited.
    pub fn exit(&mut self, warp: u32) {
        self.clocks.exit(warp);
    }

    /// `membar` and `fence`.
    pub fn fence(&mut self, warp: u32) {
        self.clocks.fence(warp);
    }

    /// A strong store (volatile, relaxed, release or atomic) to the word at a generic address.
    pub(crate) fn strong_store(&mut self, warp: u32, word: u64, release: bool) {
        self.clocks.strong_store(warp, word, release);
    }

    /// A strong load of the word at a generic address.
    pub(crate) fn strong_load(&mut self, warp: u32, word: u64, acquire: bool) {
        self.clocks.strong_load(warp, word, acquire);
    }

    /// An access of shared memory. `write` is `None` for a read, else whether the bytes already hold the value.
    #[inline(always)]
    pub(crate) fn touch_shared(&mut self, by: By, at: u32, bytes: u32, write: Option<bool>) -> Option<Clash> {
        let who = Who::new(&self.clocks, by.warp, by.lane, by.pc, by.strong);
        self.shared.touch(&self.clocks, &mut self.tables, at as usize / 4, bytes, &who, write)
    }

    /// An access of shared memory by all lanes, `T` bytes each, one after the other. False, with nothing done, when
    /// lanes have to be looked at one by one.
    #[inline(always)]
    pub(crate) fn run_shared<const T: usize>(&mut self, by: By, at: u32, write: bool) -> bool {
        if !at.is_multiple_of(4) {
            return false;
        }
        let who = Who::new(&self.clocks, by.warp, 0, by.pc, by.strong);
        let floor = self.clocks.floor(by.warp);
        self.shared.run(at as usize / 4, 8 * T, grain::<T>(), floor, &who, write)
    }

    /// A read of four words of shared memory by four lanes `step` apart, or by these and others. False, with nothing
    /// done, when the words have to be looked at one by one.
    #[inline(always)]
    pub(crate) fn row_shared(&mut self, by: By, at: u32, step: u64, others: bool) -> bool {
        let who = Who::new(&self.clocks, by.warp, by.lane, by.pc, by.strong);
        self.shared.row(at as usize / 4, self.clocks.floor(by.warp), &who, step, others)
    }

    /// An access of consecutive words of shared memory by one lane. False, with nothing done, when they have to be
    /// looked at one by one.
    #[inline(always)]
    pub(crate) fn lane_shared(&mut self, by: By, at: u32, words: usize, write: bool) -> bool {
        let who = Who::new(&self.clocks, by.warp, by.lane, by.pc, by.strong);
        let floor = self.clocks.floor(by.warp);
        self.shared.run(at as usize / 4, words, Grain::Words(words), floor, &who, write)
    }

    /// Makes marks for so many words of shared memory.
    pub(crate) fn cover_shared(&mut self, words: usize) {
        if self.shared.words() < words {
            self.shared = Cells::new(words);
        }
    }

    /// An access of device memory.
    #[inline(always)]
    pub(crate) fn touch_global(&mut self, by: By, address: u64, bytes: u32, write: Option<bool>) -> Option<Clash> {
        let who = Who::new(&self.clocks, by.warp, by.lane, by.pc, by.strong);
        let page = self.page(address / PAGE);
        let i = (address % PAGE / 4) as usize;
        self.pages[page].touch(&self.clocks, &mut self.tables, i, bytes, &who, write)
    }

    /// An access of device memory by all lanes, `T` bytes each, one after the other.
    #[inline(always)]
    pub(crate) fn run_global<const T: usize>(&mut self, by: By, address: u64, write: bool) -> bool {
        if !address.is_multiple_of(4) {
            return false;
        }
        let who = Who::new(&self.clocks, by.warp, 0, by.pc, by.strong);
        let floor = self.clocks.floor(by.warp);
        let (mut at, end) = (address, address + 32 * T as u64);
        while at < end {
            // Elements are aligned, so none straddles two pages.
            let bytes = (PAGE - at % PAGE).min(end - at);
            let page = self.page(at / PAGE);
            let (first, words) = ((at % PAGE / 4) as usize, (bytes / 4) as usize);
            let who = who.later_lane((at - address) / T as u64);
            if !self.pages[page].run(first, words, grain::<T>(), floor, &who, write) {
                // Marks set so far are the lanes' own, which looking at them one by one sets again.
                return false;
            }
            at += bytes;
        }
        true
    }

    #[inline(always)]
    fn page(&mut self, number: u64) -> usize {
        if self.last.0 != number {
            self.last = (number, self.find_page(number));
        }
        self.last.1
    }

    #[inline(never)]
    fn find_page(&mut self, number: u64) -> usize {
        if let Some(&page) = self.page_of.get(&number) {
            return page;
        }
        if self.used == self.pages.len() {
            self.pages.push(Cells::new(PAGE as usize / 4));
        }
        self.page_of.insert(number, self.used);
        self.used += 1;
        self.used - 1
    }
}

/// How lanes of `T` bytes each share words.
#[inline(always)]
fn grain<const T: usize>() -> Grain {
    if T >= 4 { Grain::Words(T / 4) } else { Grain::Lanes(4 / T) }
}

/// Who accesses memory, and how.
#[derive(Clone, Copy)]
pub(crate) struct By {
    pub warp: u32,
    pub lane: u32,
    pub pc: u32,
    /// Volatile, relaxed, acquire, release or atomic.
    pub strong: bool,
}

/// Reports a race on the memory that `place` describes.
#[cold]
#[inline(never)]
pub(crate) fn report(env: &mut Env<'_>, warp: &Warp, lane: u32, race: Race, place: impl FnOnce(&Env<'_>) -> String) {
    let Race { detector, address, wrote, clash } = race;
    if env.seen(detector, Some(clash.pc)) {
        return;
    }
    let verb = |wrote| if wrote { "writes" } else { "reads" };
    let who = if clash.several {
        format!("lanes of warp {}, lane {} among them,", clash.warp, clash.lane)
    } else {
        format!("warp {} lane {}", clash.warp, clash.lane)
    };
    let (order, past) = if clash.warp == warp.index {
        ("warp barrier", if clash.wrote { "wrote" } else { "read" })
    } else {
        ("barrier", if clash.wrote { "wrote" } else { "read" })
    };
    let text = format!(
        "warp {} lane {lane} {} {}, which {who} {past} with no {order} between",
        warp.index,
        verb(wrote),
        place(env),
    );
    let other = env.kernel.describe(clash.pc, env.cta, clash.warp, clash.lane);
    let at = env.at(warp, lane);
    env.find(Finding { address: Some(address), other: Some(other), ..Finding::new(detector, at, text) });
}

/// Both parties of a race.
pub(crate) struct Race {
    pub detector: Detector,
    pub address: u64,
    /// Whether the later party writes.
    pub wrote: bool,
    /// The earlier party.
    pub clash: Clash,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(warps: u32) -> Order {
        let mut order = Order::new(warps);
        order.cover_shared(64);
        order
    }

    fn by(warp: u32, lane: u32) -> By {
        By { warp, lane, pc: 100 + warp, strong: false }
    }

    fn meet(order: &mut Order, warps: u32) {
        for warp in 0..warps {
            order.arrive(0, warp, u32::MAX);
        }
        order.complete(0, &vec![u32::MAX; warps as usize]);
    }

    const READ: Option<bool> = None;
    const WRITE: Option<bool> = Some(false);
    const WRITE_SAME: Option<bool> = Some(true);

    #[test]
    fn every_unordered_pair_with_a_write_in_it() {
        for (first, second, races) in [
            (READ, READ, false),
            (READ, WRITE, true),
            (WRITE, READ, true),
            (WRITE, WRITE, true),
            (WRITE, WRITE_SAME, false),
            (READ, WRITE_SAME, true),
        ] {
            for other in [by(1, 0), by(0, 5)] {
                let mut order = order(2);
                assert_eq!(order.touch_shared(by(0, 0), 8, 0xF, first), None);
                let clash = order.touch_shared(other, 8, 0xF, second);
                assert_eq!(clash.is_some(), races, "{first:?} then {second:?} by warp {}", other.warp);
                if let Some(clash) = clash {
                    assert_eq!((clash.warp, clash.lane, clash.pc, clash.wrote), (0, 0, 100, first.is_some()));
                }
                // Behind a barrier anybody may do as they like.
                meet(&mut order, 2);
                assert_eq!(order.touch_shared(by(1, 7), 8, 0xF, WRITE), None);
            }
        }
    }

    #[test]
    fn one_of_many_readers_is_enough() {
        let mut order = order(4);
        for warp in 0..4 {
            for lane in 0..32 {
                assert_eq!(order.touch_shared(by(warp, lane), 0, 0xF, READ), None);
            }
        }
        // Warps 0 and 1 meet; warp 2 has read and met nobody.
        order.arrive(1, 0, u32::MAX);
        order.arrive(1, 1, u32::MAX);
        order.complete(1, &[u32::MAX, u32::MAX, 0, 0]);
        let clash = order.touch_shared(by(0, 0), 0, 0xF, WRITE).unwrap();
        assert_eq!((clash.warp, clash.several, clash.wrote), (2, true, false));
    }

    #[test]
    fn narrow_runs_keep_their_lanes_apart() {
        // 32 lanes store two bytes each: words 0 to 15, lane 2 * i in the lower half of word i.
        let mut order = order(2);
        assert!(order.run_shared::<2>(by(0, 0), 0, true));
        assert_eq!(order.touch_shared(by(0, 6), 12, 0b0011, READ), None, "its own half");
        let clash = order.touch_shared(by(0, 6), 12, 0b1100, READ).unwrap();
        assert_eq!((clash.lane, clash.wrote), (7, true), "the upper half is the next lane's");
        let clash = order.touch_shared(by(1, 0), 20, 0xF, READ).unwrap();
        assert_eq!((clash.warp, clash.lane), (0, 10));
        // Bytes: lane 4 * i + j has byte j of word i.
        let mut order = self::order(2);
        assert!(order.run_shared::<1>(by(0, 0), 64, true));
        assert_eq!(order.touch_shared(by(0, 7), 68, 0b1000, WRITE), None);
        assert_eq!(order.touch_shared(by(0, 0), 68, 0b0100, WRITE).unwrap().lane, 6);
        // Behind a barrier the words are whole again, and runs settle at a glance.
        meet(&mut order, 2);
        assert_eq!(order.touch_shared(by(1, 3), 68, 0xF, READ), None);
        meet(&mut order, 2);
        assert!(order.run_shared::<4>(by(1, 0), 64, true));
    }

    #[test]
    fn wide_runs_name_the_lane_of_each_word() {
        let mut order = order(2);
        assert!(order.run_global::<16>(by(0, 0), 4096 - 128, true), "over a page boundary");
        for (word, lane) in [(0, 0), (3, 0), (4, 1), (40, 10), (127, 31)] {
            let clash = order.touch_global(by(1, 0), 4096 - 128 + 4 * word, 0xF, READ).unwrap();
            assert_eq!(clash.lane, lane, "word {word}");
        }
        assert!(!order.run_global::<16>(by(1, 0), 4096, false), "a race: lanes have to be looked at");
    }

    #[test]
    fn strong_accesses_do_not_race_with_each_other() {
        let strong = |warp| By { strong: true, ..by(warp, 0) };
        let mut order = order(2);
        assert_eq!(order.touch_shared(strong(0), 0, 0xF, WRITE), None);
        assert_eq!(order.touch_shared(strong(1), 0, 0xF, WRITE), None);
        assert!(order.touch_shared(by(0, 3), 0, 0xF, READ).is_some());
    }

    #[test]
    fn a_new_cta_starts_clean() {
        let mut order = order(2);
        assert_eq!(order.touch_shared(by(0, 0), 0, 0xF, WRITE), None);
        assert_eq!(order.touch_global(by(0, 0), 1 << 20, 0b0001, WRITE), None);
        order.restart(2);
        assert_eq!(order.touch_shared(by(1, 0), 0, 0xF, WRITE), None);
        assert_eq!(order.touch_global(by(1, 0), 1 << 20, 0b0001, WRITE), None);
    }
}
