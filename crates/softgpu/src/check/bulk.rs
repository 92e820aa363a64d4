//! What copies and products that work beside the threads read and write, for race detection.

use super::cells::{Cells, Grain, RUN, Tables};
use super::cluster::private;
use super::engines::{Message, engine_of, engine_step, of_barrier, of_group};
use super::marks::{Clash, Mark, TABLE, View, Who, engine_mark, lane_of, step_of, warp_of};
use super::race::{By, Order, PAGE};
use super::rows::LINE;

/// What is wrong with the asynchronous use of a word.
pub(crate) enum Open {
    /// Nothing orders it behind this access.
    Race(Clash),
    /// It is ordered behind this write, and no proxy fence stands between.
    Unfenced(Clash),
}

impl Cells {
    /// A write of whole lines of a CTA's own memory that an engine is to do: the first word that it may not write yet.
    fn claim(
        &mut self,
        view: &View<'_>,
        tables: &mut Tables,
        words: std::ops::Range<usize>,
        who: &Who,
    ) -> Option<(usize, Clash)> {
        let glance = view.glance(who.warp);
        let (writes, reads) = (&self.write[words.clone()], &self.read[words.clone()]);
        let easy = glance.settles_all(writes)
            && reads.iter().fold(true, |all, mark| all & glance.allows_write(*mark))
            && self.rows.settled(glance, words.clone());
        let mut found = None;
        if !easy {
            for word in words.clone() {
                let line = self.rows.clash(view, word, who);
                let clash = self.touch_slowly(view, tables, word, 0xF, who, Some(false)).or(line);
                found = found.or(clash.map(|clash| (word, clash)));
            }
        }
        self.stamp(tables, words, who.mark);
        found
    }

    /// These words were written by whoever made the mark, and by nobody since.
    fn stamp(&mut self, tables: &mut Tables, words: std::ops::Range<usize>, mark: Mark) {
        if self.tabled {
            for i in words.clone() {
                self.give_back(tables, i);
            }
        }
        self.engines |= engine_of(step_of(mark)).is_some();
        for newest in &mut self.newest[words.start / RUN..words.end.div_ceil(RUN)] {
            *newest = step_of(mark).max(*newest);
        }
        if words.start.is_multiple_of(LINE) && words.end.is_multiple_of(LINE) {
            self.rows.forget(words.start / LINE..words.end / LINE);
        }
        self.write[words.clone()].fill(mark);
        self.read[words].fill(0);
    }

    /// Gives back what a word has in tables.
    fn give_back(&self, tables: &mut Tables, i: usize) {
        if self.write[i] & TABLE != 0 {
            tables.free_bytes.push(self.write[i] as u32);
            for marks in tables.bytes[self.write[i] as u32 as usize] {
                if marks.read & TABLE != 0 {
                    tables.free_readers.push(marks.read as u32);
                }
            }
        }
        if self.read[i] & TABLE != 0 {
            tables.free_readers.push(self.read[i] as u32);
        }
    }

    /// A new CTA behind one whose engines made marks: their steps are above all that it will have.
    pub(super) fn start_over(&mut self, tables: &mut Tables) {
        self.recycle(tables);
        self.write.fill(0);
        self.read.fill(0);
        self.other.fill(0);
        self.newest.fill(0);
        self.rows.clear();
    }

    /// What stands against an engine's reading a run of words for a warp.
    fn readable(
        &self,
        view: &View<'_>,
        tables: &Tables,
        words: impl Iterator<Item = usize>,
        who: &Who,
    ) -> Option<(usize, Open)> {
        let mut last = 0;
        for word in words {
            let mark = self.write[word];
            if mark == last {
                continue;
            }
            last = mark;
            let marks = match mark & TABLE {
                0 => [mark; 4],
                _ => tables.bytes[mark as u32 as usize].map(|marks| marks.write),
            };
            for mark in marks {
                if mark == 0 || step_of(mark) <= view.clocks.base() {
                    continue;
                }
                if !view.settled(mark, who) {
                    return Some((word, Open::Race(view.clash(mark, true, false))));
                }
                let of_engine = engine_of(step_of(mark)).is_some();
                // How far another CTA's fences reach is not looked at.
                let fenced = of_engine || view.foreign(mark).is_some();
                if !fenced && !view.clocks.is_fenced(who.warp, warp_of(mark), lane_of(mark), step_of(mark)) {
                    return Some((word, Open::Unfenced(view.clash(mark, true, false))));
                }
            }
        }
        None
    }
}

/// The words of a range of bytes.
fn words(at: u32, bytes: u32) -> std::ops::Range<usize> {
    at as usize / 4..(at + bytes).div_ceil(4) as usize
}

impl Order {
    /// A thread starts a copy into shared memory: the first word that somebody may still use.
    pub(crate) fn claim_shared(&mut self, by: By, at: u32, bytes: u32) -> Option<(u32, Clash)> {
        let who = Who::new(&self.clocks, by.warp, by.lane, by.pc, false);
        let view = private(&self.clocks, &self.global, self.home, at);
        let found = self.shared.claim(&view, &mut self.tables, words(at, bytes), &who);
        found.map(|(word, clash)| (4 * word as u32, clash))
    }

    /// A copy that memory barrier number `barrier` completes has come to shared memory; what it hands over besides what
    /// was handed over to it.
    pub(crate) fn landed(&mut self, by: By, at: u32, bytes: u32, barrier: u32, given: &Message) -> Message {
        let engine = of_barrier(barrier);
        let step = self.clocks.work(engine);
        let mark = engine_mark(step, by.warp, by.lane, by.pc);
        self.shared.stamp(&mut self.tables, words(at, bytes), mark);
        self.clocks.worked(engine, given)
    }

    /// A thread's copy reads or writes device memory: the first word at which it races.
    pub(crate) fn touch_bulk(&mut self, by: By, address: u64, bytes: u32, write: Option<bool>) -> Option<(u64, Clash)> {
        let end = address + u64::from(bytes);
        let (mut at, mut found) = (address, None);
        while at < end {
            let piece = (PAGE - at % PAGE).min(end - at);
            let words = piece / 4;
            let easy = !by.strong && at.is_multiple_of(4) && words > 0 && {
                let page = self.global.page(at / PAGE);
                let who = Who::new(&self.clocks, by.warp, by.lane, by.pc, false);
                let view = View { clocks: &self.clocks, across: Some(&self.global.across), home: None, word: at };
                let (first, words, write) = ((at % PAGE / 4) as usize, words as usize, write.is_some());
                self.global.pages[page].run(&view, first, words, Grain::Words(words), &who, write)
            };
            let mut next = if easy { at + 4 * words } else { at };
            while next < at + piece {
                let count = (4 - next % 4).min(at + piece - next);
                let mask = ((1 << count) - 1) << (next % 4);
                let clash = self.touch_global(by, next & !3, mask as u32, write);
                found = found.or(clash.map(|clash| (next & !3, clash)));
                next += count;
            }
            at += piece;
        }
        found
    }

    /// What stands against reading shared memory through the asynchronous proxy.
    pub(crate) fn readable_shared(&self, by: By, at: u32, bytes: u32) -> Option<(u32, Open)> {
        let who = Who::new(&self.clocks, by.warp, by.lane, by.pc, false);
        let view = private(&self.clocks, &self.global, self.home, at);
        let found = self.shared.readable(&view, &self.tables, words(at, bytes), &who);
        found.map(|(word, open)| (4 * word as u32, open))
    }

    /// The same for units of 16 bytes.
    pub(crate) fn readable_units(&self, by: By, units: &[u32]) -> Option<(u32, Open)> {
        let who = Who::new(&self.clocks, by.warp, by.lane, by.pc, false);
        let view = private(&self.clocks, &self.global, self.home, 0);
        let words = units.iter().flat_map(|at| *at as usize / 4..*at as usize / 4 + LINE);
        let found = self.shared.readable(&view, &self.tables, words, &who);
        found.map(|(word, open)| (4 * word as u32, open))
    }

    /// The products of a warpgroup that it will have waited for with its group number `count` read 16 bytes.
    #[inline(always)]
    pub(crate) fn product_shared(&mut self, by: By, at: u32, count: u32) {
        let group = by.warp / 4;
        let mark = engine_mark(engine_step(of_group(group), count), by.warp, by.lane, by.pc);
        let view = private(&self.clocks, &self.global, self.home, at);
        let total = self.shared.words();
        self.shared.engines = true;
        self.shared.newest[at as usize / 4 / RUN] = step_of(mark).max(self.shared.newest[at as usize / 4 / RUN]);
        self.shared.rows.product(&view, total, at as usize / 4 / LINE, group, mark);
    }

    /// A warp has waited for the products of its warpgroup up to group number `count`.
    pub(crate) fn products_done(&mut self, warp: u32, count: u32) {
        self.clocks.waited(warp, of_group(warp / 4), count);
    }

    /// The step that a warp is in.
    pub(crate) fn step(&self, warp: u32) -> u32 {
        self.clocks.step(warp)
    }

    /// Whether a thread (warp, lane) is ordered behind what another (warp, lane) of the CTA whose memory is looked at did
    /// in a step.
    pub(crate) fn is_behind(&self, (warp, lane): (u32, u32), (other, other_lane, step): (u32, u32, u32)) -> bool {
        if self.is_away() {
            return self.knows_away(warp, other, other_lane, step);
        }
        self.clocks.orders(warp, other, other_lane, false, step)
            || warp == other && (lane == other_lane || self.clocks.lane_knows(warp, lane, other_lane, step))
    }

    /// Lanes of a warp arrive at a memory barrier: what they hand over to whoever waits there.
    pub(crate) fn release(&mut self, warp: u32, lanes: u32, live: u32) -> Message {
        let message = self.clocks.release(warp, lanes, live, &self.global.across);
        if self.is_away() { self.told(warp, lanes, live, message) } else { message }
    }

    /// A warp has waited for those who handed this over.
    pub(crate) fn acquire(&mut self, warp: u32, message: &Message) {
        self.clocks.acquire(warp, message);
    }

    /// A fence between the generic and the asynchronous proxy, by some lanes of a warp.
    pub(crate) fn fence_proxy(&mut self, warp: u32, lanes: u32, live: u32) {
        self.clocks.fence_proxy(warp, lanes, live);
    }
}
