//! Races between the threads of one CTA, on shared memory and on device memory.

use super::cells::{Cells, Grain, Tables};
use super::clocks::Clocks;
use super::cluster::private;
use super::far::Across;
pub(crate) use super::marks::Clash;
use super::marks::{View, Who};
pub(crate) use super::rows::Lanes;
use super::{Detector, Finding};
use crate::exec::{Env, Warp};
use crate::mem::windows::{Window, classify};
use crate::sched::coordinates;
use std::cell::RefCell;
use std::collections::HashMap;

/// Bytes of device memory whose marks are kept together.
pub(super) const PAGE: u64 = 4096;
/// Pages that a host thread keeps between launches.
const KEPT_PAGES: usize = 1024;
/// Pages that are found without asking the map.
const RECENT: usize = 64;

/// Who touched device memory, in one launch. Pages of marks are used again as they are: every mark of an earlier
/// launch is older than this one, and so settled.
#[derive(Default)]
pub(crate) struct Global {
    pub(super) across: Across,
    tables: Tables,
    pub(super) pages: Vec<Cells>,
    page_of: HashMap<u64, u32>,
    recent: Vec<(u64, u32)>,
}

thread_local! {
    static KEPT: RefCell<Option<Global>> = const { RefCell::new(None) };
}

impl Global {
    /// For a new launch.
    pub(crate) fn begin() -> Global {
        let mut global = KEPT.take().filter(|kept| !kept.across.is_worn()).unwrap_or_default();
        global.across.begin();
        global.page_of.clear();
        global.recent.clear();
        global
    }

    /// The launch has ended: the next one of this host thread uses its pages.
    pub(crate) fn end(self) {
        if self.pages.len() <= KEPT_PAGES {
            KEPT.set(Some(self));
        }
    }

    #[inline(always)]
    pub(super) fn page(&mut self, number: u64) -> usize {
        match self.recent.get(number as usize % RECENT) {
            Some(recent) if recent.0 == number => recent.1 as usize,
            _ => self.find_page(number),
        }
    }

    #[inline(never)]
    fn find_page(&mut self, number: u64) -> usize {
        let next = self.page_of.len();
        let page = *self.page_of.entry(number).or_insert(next as u32);
        if page as usize == self.pages.len() {
            self.pages.push(Cells::common(PAGE as usize / 4));
        } else if page as usize == next {
            // It was another launch's.
            self.pages[next].recycle(&mut self.tables);
        }
        if self.recent.is_empty() {
            self.recent.resize(RECENT, (u64::MAX, 0));
        }
        self.recent[number as usize % RECENT] = (number, page);
        page as usize
    }
}

/// Happens-before between the threads of one CTA, and who touched what.
#[derive(Default)]
pub struct Order {
    pub(super) clocks: Clocks,
    pub(super) tables: Tables,
    pub(super) shared: Cells,
    /// Warps and number of a CTA that has not begun.
    waiting: Option<(u32, u64)>,
    /// Device memory; only the CTA that runs has it.
    pub(super) global: Global,
    /// In a cluster: the CTA whose shared memory is looked at.
    pub(super) home: Option<u64>,
}

impl Order {
    /// The next CTA of the launch, which begins when it first [enters](Order::enter).
    pub(crate) fn restart(&mut self, warps: u32, cta: u64) {
        self.waiting = Some((warps, cta));
    }

    /// The CTA begins or goes on, and takes over what is known of device memory.
    pub(crate) fn enter(&mut self, global: Global) {
        self.global = global;
        let cta = self.waiting.map_or(self.clocks.cta(), |waiting| waiting.1);
        let from = self.global.across.enter(cta);
        match self.waiting.take() {
            Some((warps, cta)) => {
                self.clocks.restart(warps, cta, from);
                match self.home {
                    // Steps of other CTAs of the launch may stand there.
                    Some(_) => self.shared.start_over(&mut self.tables),
                    None => self.shared.recycle(&mut self.tables),
                }
            }
            None => self.clocks.resume(from),
        }
    }

    /// It ends or pauses.
    pub(crate) fn leave(&mut self) -> Global {
        let mut global = std::mem::take(&mut self.global);
        global.across.leave(self.clocks.last());
        global
    }

    /// Lanes of a warp arrive at a barrier, whether or not they wait there.
    pub fn arrive(&mut self, id: u32, warp: u32, _mask: u32) {
        self.clocks.arrive(id, warp, &self.global.across);
    }

    /// A barrier is complete; `waiting` says which lanes waited there, one mask per warp.
    pub fn complete(&mut self, id: u32, waiting: &[u32]) {
        self.clocks.complete(id, waiting);
    }

    /// `bar.warp.sync` of the lanes `mask` of a warp, those that are not there any more included.
    pub fn warp_sync(&mut self, warp: u32, mask: u32) {
        self.clocks.warp_sync(warp, mask);
    }

    /// A warp's last threads exited.
    pub fn exit(&mut self, warp: u32) {
        self.clocks.exit(warp);
    }

    /// `membar` and `fence`; `device` unless they reach no further than the CTA.
    pub fn fence(&mut self, warp: u32, device: bool) {
        self.clocks.fence(warp, device, &self.global.across);
    }

    /// A strong store (volatile, relaxed, release or atomic) to the word at a generic address.
    pub(crate) fn strong_store(&mut self, warp: u32, word: u64, release: bool) {
        let word = self.word_of(word);
        self.clocks.strong_store(warp, word, release, &mut self.global.across);
    }

    /// A strong load of the word at a generic address.
    pub(crate) fn strong_load(&mut self, warp: u32, word: u64, acquire: bool) {
        let word = self.word_of(word);
        self.clocks.strong_load(warp, word, acquire, &self.global.across);
    }

    /// An access of shared memory. `write` is `None` for a read, else whether the bytes already hold the value.
    #[inline(always)]
    pub(crate) fn touch_shared(&mut self, by: By, at: u32, bytes: u32, write: Option<bool>) -> Option<Clash> {
        let who = Who::new(&self.clocks, by.warp, by.lane, by.pc, by.strong);
        let view = private(&self.clocks, &self.global, self.home, at);
        self.shared.touch(&view, &mut self.tables, at as usize / 4, bytes, &who, write)
    }

    /// An access of shared memory by all lanes, `T` bytes each, one after the other. False, with nothing done, when
    /// lanes have to be looked at one by one.
    #[inline(always)]
    pub(crate) fn run_shared<const T: usize>(&mut self, by: By, at: u32, write: bool) -> bool {
        if !at.is_multiple_of(4) {
            return false;
        }
        let who = Who::new(&self.clocks, by.warp, 0, by.pc, by.strong);
        let view = private(&self.clocks, &self.global, self.home, at);
        self.shared.run(&view, at as usize / 4, 8 * T, grain::<T>(), &who, write)
    }

    /// A read of 16 bytes of shared memory by some lanes of a warp. False, with nothing done, when the words have to be
    /// looked at one by one.
    #[inline(always)]
    pub(crate) fn row_shared(&mut self, by: By, at: u32, lanes: Lanes) -> bool {
        if self.home.is_some() {
            return false;
        }
        let who = Who::new(&self.clocks, by.warp, by.lane, by.pc, by.strong);
        let view = private(&self.clocks, &self.global, None, at);
        self.shared.row(&view, at as usize / 4, &who, lanes)
    }

    /// An access of consecutive words of shared memory by one lane. False, with nothing done, when they have to be
    /// looked at one by one.
    #[inline(always)]
    pub(crate) fn lane_shared(&mut self, by: By, at: u32, words: usize, write: bool) -> bool {
        let who = Who::new(&self.clocks, by.warp, by.lane, by.pc, by.strong);
        let view = private(&self.clocks, &self.global, self.home, at);
        self.shared.run(&view, at as usize / 4, words, Grain::Words(words), &who, write)
    }

    /// An access of device memory.
    #[inline(always)]
    pub(crate) fn touch_global(&mut self, by: By, address: u64, bytes: u32, write: Option<bool>) -> Option<Clash> {
        let who = Who::new(&self.clocks, by.warp, by.lane, by.pc, by.strong);
        self.touch_by(who, address, bytes, write)
    }

    /// Who wrote the word at a generic address last in this launch, if somebody did and races are looked for.
    pub(crate) fn last_writer(&self, address: u64) -> Option<(u64, Clash)> {
        let (cells, tables, across, at) = match classify(address) {
            Window::Shared(at) => (&self.shared, &self.tables, self.home.map(|_| &self.global.across), at / 4),
            _ => {
                let page = *self.global.page_of.get(&(address / PAGE))? as usize;
                let at = (address % PAGE / 4) as u32;
                (self.global.pages.get(page)?, &self.global.tables, Some(&self.global.across), at)
            }
        };
        let view = View { clocks: &self.clocks, across, home: None, word: address & !3 };
        let clash = cells.last_write(&view, tables, at as usize)?;
        Some((clash.cta.unwrap_or(self.clocks.cta()), clash))
    }

    /// A read of data that are promised not to change.
    #[inline(always)]
    pub(crate) fn touch_promised(&mut self, by: By, address: u64, bytes: u32) -> Option<Clash> {
        let who = Who::new(&self.clocks, by.warp, by.lane, by.pc, by.strong);
        self.touch_by(who.promised(), address, bytes, None)
    }

    #[inline(always)]
    fn touch_by(&mut self, who: Who, address: u64, bytes: u32, write: Option<bool>) -> Option<Clash> {
        let page = self.global.page(address / PAGE);
        let i = (address % PAGE / 4) as usize;
        let Global { across, tables, pages, .. } = &mut self.global;
        let view = View { clocks: &self.clocks, across: Some(across), home: None, word: address & !3 };
        pages[page].touch(&view, tables, i, bytes, &who, write)
    }

    /// An access of device memory by all lanes, `T` bytes each, one after the other; `promised` for a read of data that
    /// are promised not to change.
    #[inline(always)]
    pub(crate) fn run_global<const T: usize>(&mut self, by: By, address: u64, write: bool, promised: bool) -> bool {
        if !address.is_multiple_of(4) {
            return false;
        }
        let who = Who::new(&self.clocks, by.warp, 0, by.pc, by.strong);
        let who = if promised { who.promised() } else { who };
        let (mut at, end) = (address, address + 32 * T as u64);
        while at < end {
            // Elements are aligned, so none straddles two pages.
            let bytes = (PAGE - at % PAGE).min(end - at);
            let page = self.global.page(at / PAGE);
            let (first, words) = ((at % PAGE / 4) as usize, (bytes / 4) as usize);
            let who = who.later_lane((at - address) / T as u64);
            let view = View { clocks: &self.clocks, across: Some(&self.global.across), home: None, word: at };
            if !self.global.pages[page].run(&view, first, words, grain::<T>(), &who, write) {
                // Marks set so far are the lanes' own, which looking at them one by one sets again.
                return false;
            }
            at += bytes;
        }
        true
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
    let verb = if wrote { "writes" } else { "reads" };
    let past = if clash.wrote { "wrote" } else { "read" };
    let cta = clash.cta.map_or(env.cta, |cta| coordinates(cta, env.launch.grid));
    let away =
        if clash.cta.is_some() { format!(" of CTA ({}, {}, {})", cta[0], cta[1], cta[2]) } else { String::new() };
    let who = if clash.several {
        format!("lanes of warp {}{away}, lane {} among them,", clash.warp, clash.lane)
    } else {
        format!("warp {} lane {}{away}", clash.warp, clash.lane)
    };
    let order = if clash.promised {
        "in the same launch, one of them as data that never change (.nc or .const)"
    } else if clash.engine {
        "asynchronously, and nothing that the two have in common waits for that"
    } else if clash.cta.is_some() {
        "with nothing between that orders the two CTAs"
    } else if clash.warp == warp.index {
        "with no warp barrier between"
    } else {
        "with no barrier between"
    };
    let text = format!("warp {} lane {lane} {verb} {}, which {who} {past} {order}", warp.index, place(env));
    let other = env.kernel.describe(clash.pc, cta, clash.warp, clash.lane);
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
        let mut order = Order::default();
        order.restart(warps, 0);
        order.enter(Global::begin());
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

    /// Another CTA goes on in the place of the one that ran.
    fn next(order: &mut Order, cta: u64) {
        let global = order.leave();
        order.restart(2, cta);
        order.enter(global);
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
        assert!(order.run_global::<16>(by(0, 0), 4096 - 128, true, false), "over a page boundary");
        for (word, lane) in [(0, 0), (3, 0), (4, 1), (40, 10), (127, 31)] {
            let clash = order.touch_global(by(1, 0), 4096 - 128 + 4 * word, 0xF, READ).unwrap();
            assert_eq!(clash.lane, lane, "word {word}");
        }
        assert!(!order.run_global::<16>(by(1, 0), 4096, false, false), "a race: lanes have to be looked at");
    }

    #[test]
    fn the_same_lanes_may_come_again() {
        for promised in [false, true] {
            let mut order = order(2);
            assert!(order.run_global::<4>(by(0, 0), 4096, false, promised));
            assert!(order.run_global::<4>(by(0, 0), 4096, false, promised), "the same lanes read the same words");
            assert_eq!(order.run_global::<4>(by(0, 0), 4096, true, false), !promised, "and write them");
        }
        let mut order = order(2);
        assert!(order.run_global::<4>(by(0, 0), 4096, true, false));
        assert!(order.run_global::<4>(by(0, 0), 4096, true, false));
        assert!(order.run_global::<4>(by(0, 0), 4096, false, false), "they read what they wrote");
        assert!(!order.run_global::<4>(by(1, 0), 4096, false, false), "another warp does not");
        assert!(!order.run_global::<4>(by(0, 0), 4100, false, false), "nor do the lanes beside them");
        assert!(!order.run_global::<4>(by(0, 0), 4096, false, true), "nor may they promise that it never changes");
    }

    #[test]
    fn a_promise_outlives_plain_reads() {
        for other in [false, true] {
            let mut order = order(2);
            assert!(order.run_global::<4>(by(0, 0), 4096, false, true));
            if other {
                next(&mut order, 1);
            }
            for warp in [0, 1] {
                meet(&mut order, 2);
                assert!(!order.run_global::<4>(by(warp, 0), 4096, false, false), "a run would take its place");
                assert_eq!(order.touch_global(by(warp, 5), 4096, 0xF, READ), None);
            }
            meet(&mut order, 2);
            let clash = order.touch_global(by(0, 0), 4096, 0xF, WRITE).expect("a broken promise");
            assert!(clash.promised && clash.pc == 100 && clash.lane == 0, "{clash:?}");
            assert!(order.touch_global(by(1, 0), 4096 + 36, 0x1, WRITE).is_some_and(|clash| clash.promised));
        }
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
        next(&mut order, 1);
        assert_eq!(order.touch_shared(by(1, 0), 0, 0xF, WRITE), None);
        assert!(order.touch_global(by(1, 0), 1 << 20, 0b0001, WRITE).is_some(), "device memory is common to all CTAs");
        order.leave().end();
        // The next launch has nothing to do with it.
        order.restart(2, 0);
        order.enter(Global::begin());
        assert_eq!(order.touch_global(by(1, 0), 1 << 20, 0b0001, WRITE), None);
    }
}
