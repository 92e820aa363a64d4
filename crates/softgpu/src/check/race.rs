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
