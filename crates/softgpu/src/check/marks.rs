//! Marks: accesses as they are remembered, and which of them are ordered before the one that looks.

use super::clocks::Clocks;
use super::engines::engine_of;
use super::far::{Across, Act};

/// One access, in 64 bits: step, thread and instruction. Zero is no access. The step stands above everything else, so
/// that comparing marks compares steps; a mark whose top bit is set is an index into a table.
pub(super) type Mark = u64;

pub(super) const TABLE: Mark = 1 << 63;
pub(super) const STEP_AT: u32 = 32;
const STRONG: Mark = 1 << 31;
/// Several lanes of the warp, of which the mark names one.
pub(super) const SEVERAL: Mark = 1 << 30;
const WARP_AT: u32 = 25;
pub(super) const LANE_AT: u32 = 20;
/// Two bits: the word is shared by this lane alone, by two lanes with a half each, or by four with a byte each.
pub(super) const SHARE_AT: u32 = 18;
pub(super) const SHARES: Mark = 3 << SHARE_AT;
/// Of that field: a plain write that strong ones followed.
pub(super) const COVERED: Mark = SHARES;
/// A load of data that are promised not to change while the kernel runs.
pub(super) const PROMISED: Mark = 1 << 17;
const PC: Mark = PROMISED - 1;
/// The bits that tell threads and kinds of access apart: all but step and instruction.
pub(super) const THREAD: Mark = (1 << STEP_AT) - 1 & !PC;

/// The mark of an engine's work, given by a lane of a warp at an instruction.
pub(super) fn engine_mark(step: u32, warp: u32, lane: u32, pc: u32) -> Mark {
    u64::from(step) << STEP_AT
        | u64::from(warp % 32) << WARP_AT
        | u64::from(lane % 32) << LANE_AT
        | u64::from(pc).min(PC)
}

/// Who accesses.
#[derive(Clone, Copy)]
pub(super) struct Who {
    pub(super) warp: u32,
    pub(super) lane: u32,
    pub(super) mark: Mark,
}

impl Who {
    #[inline(always)]
    pub(super) fn new(clocks: &Clocks, warp: u32, lane: u32, pc: u32, strong: bool) -> Who {
        let mark = u64::from(clocks.step(warp)) << STEP_AT
            | if strong { STRONG } else { 0 }
            | u64::from(warp % 32) << WARP_AT
            | u64::from(lane % 32) << LANE_AT
            | u64::from(pc).min(PC);
        Who { warp, lane, mark }
    }

    /// The thread so many lanes further on.
    #[inline(always)]
    pub(super) fn later_lane(self, lanes: u64) -> Who {
        Who { lane: self.lane + lanes as u32, mark: self.mark + (lanes << LANE_AT), ..self }
    }

    /// Reading data that are promised not to change.
    #[inline(always)]
    pub(super) fn promised(self) -> Who {
        Who { mark: self.mark | PROMISED, ..self }
    }

    #[inline(always)]
    pub(super) fn is_strong(&self) -> bool {
        self.mark & STRONG != 0
    }

    #[inline(always)]
    pub(super) fn is_promised(&self) -> bool {
        self.mark & PROMISED != 0
    }
}

/// The earlier party of a race.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clash {
    /// Its CTA, if it is another one.
    pub cta: Option<u64>,
    /// Its warp.
    pub warp: u32,
    /// Its lane, or one of several.
    pub lane: u32,
    /// Whether several lanes of the warp did the same.
    pub several: bool,
    /// Its instruction.
    pub pc: u32,
    /// Whether it wrote.
    pub wrote: bool,
    /// Whether one of the two took the data for unchangeable: then order is no help.
    pub promised: bool,
    /// Whether it was a copy or a product that works beside the threads.
    pub engine: bool,
}

pub(super) fn warp_of(mark: Mark) -> u32 {
    (mark >> WARP_AT) as u32 % 32
}

pub(super) fn lane_of(mark: Mark) -> u32 {
    (mark >> LANE_AT) as u32 % 32
}

fn is_engine(mark: Mark) -> bool {
    mark & TABLE == 0 && engine_of(step_of(mark)).is_some()
}

pub(super) fn step_of(mark: Mark) -> u32 {
    (mark >> STEP_AT) as u32
}

/// What is known of order by the CTA that accesses memory.
pub(super) struct View<'a> {
    pub(super) clocks: &'a Clocks,
    /// Order between CTAs, for device memory, and for the shared memory of clusters.
    pub(super) across: Option<&'a Across>,
    /// For shared memory of a cluster: whose it is.
    pub(super) home: Option<u64>,
    /// The word that is touched.
    pub(super) word: u64,
}

impl View<'_> {
    /// The first step of what is not over: of this launch, or for shared memory of this CTA.
    #[inline(always)]
    pub(super) fn first(&self) -> u32 {
        self.across.map_or(self.clocks.base() + 1, |across| across.old)
    }

    /// The first step of this launch.
    #[inline(always)]
    pub(super) fn old(&self) -> u32 {
        self.across.map_or(0, |across| across.old)
    }

    #[inline(always)]
    pub(super) fn glance(&self, warp: u32) -> Glance {
        let floor = self.clocks.floor(warp);
        // Marks of shared memory are the CTA's own, or of one before it.
        let from = if self.across.is_some() { self.clocks.from() } else { 0 };
        let (from, span) = if floor >= from { (u64::from(from), u64::from(floor - from)) } else { (NEVER, 0) };
        Glance { old: u64::from(self.old()), from, span }
    }

    /// Whether a mark was made in this launch.
    pub(super) fn is_new(&self, mark: Mark) -> bool {
        mark != 0 && step_of(mark) >= self.old()
    }

    /// Whether an access of the CTA is ordered before all lanes of a warp.
    pub(super) fn is_known(&self, mark: Mark, warp: u32) -> bool {
        mark & TABLE == 0
            && match engine_of(step_of(mark)) {
                Some((engine, count)) => self.knows_of(warp, engine, count),
                None => step_of(mark) <= self.clocks.whole(warp, warp_of(mark)),
            }
    }

    /// Whether it is a read of this launch of data that are promised not to change.
    #[inline(always)]
    pub(super) fn is_promise(&self, mark: Mark) -> bool {
        mark & (TABLE | PROMISED) == PROMISED && self.is_new(mark)
    }

    /// The other CTA of this launch that made a mark.
    pub(super) fn foreign(&self, mark: Mark) -> Option<u64> {
        let (step, across) = (step_of(mark), self.across?);
        if mark & TABLE != 0 || step < across.old || step >= self.clocks.from() {
            return None;
        }
        across.owner(step).filter(|cta| *cta != self.clocks.cta())
    }

    /// Whether an earlier access is ordered before this one, or cannot conflict with it.
    pub(super) fn settled(&self, mark: Mark, who: &Who) -> bool {
        let step = step_of(mark);
        if mark == 0 || mark & who.mark & STRONG != 0 || step < self.old() {
            return true;
        }
        let warp = warp_of(mark);
        if let (Some(cta), Some(across)) = (self.foreign(mark), self.across) {
            let word = (mark & STRONG != 0).then_some(self.word);
            let act = Act { warp, lane: (mark & SEVERAL == 0).then_some(lane_of(mark)), step, word };
            return self.clocks.far(who.warp).is_some_and(|far| across.orders(far, cta, act));
        }
        if let Some((engine, count)) = engine_of(step) {
            return mark & TABLE == 0 && self.knows_of(who.warp, engine, count);
        }
        let lane = lane_of(mark);
        self.clocks.orders(who.warp, warp, lane, mark & SEVERAL != 0, step)
            || warp == who.warp
                && (mark & SEVERAL == 0 && lane == who.lane || self.clocks.lane_knows(warp, who.lane, lane, step))
    }

    /// Whether a warp knows that an engine of the memory's CTA has done so much.
    fn knows_of(&self, warp: u32, engine: usize, count: u32) -> bool {
        match (self.home, self.across) {
            (Some(home), Some(across)) if home != self.clocks.cta() => {
                self.clocks.far(warp).is_some_and(|far| across.orders_engine(far, home, engine, count))
            }
            _ => count <= self.clocks.knows_of(warp, engine),
        }
    }

    pub(super) fn clash(&self, mark: Mark, wrote: bool, promised: bool) -> Clash {
        Clash {
            cta: self.foreign(mark).or(self.home.filter(|home| *home != self.clocks.cta() && is_engine(mark))),
            warp: warp_of(mark),
            lane: lane_of(mark),
            several: mark & SEVERAL != 0,
            pc: (mark & PC) as u32,
            wrote,
            promised,
            engine: is_engine(mark),
        }
    }
}

/// More than any step.
const NEVER: u64 = 1 << 40;

/// What is settled at a glance: steps of earlier launches, and a run of the CTA's own.
#[derive(Clone, Copy)]
pub(super) struct Glance {
    old: u64,
    from: u64,
    span: u64,
}

impl Glance {
    #[inline(always)]
    pub(super) fn settles(self, mark: Mark) -> bool {
        // Entries of tables have the top bit set and are never settled here.
        let step = mark >> STEP_AT;
        (step < self.old) | (step.wrapping_sub(self.from) <= self.span)
    }

    #[inline(always)]
    pub(super) fn settles_all(self, marks: &[Mark]) -> bool {
        marks.iter().fold(true, |all, mark| all & self.settles(*mark))
    }

    /// The same for what a write meets: a promise is broken even in order.
    #[inline(always)]
    pub(super) fn allows_write(self, mark: Mark) -> bool {
        self.settles(mark) & ((mark & PROMISED == 0) | (mark >> STEP_AT < self.old))
    }

    /// Nothing of this launch is settled: for those who rely on no write at all.
    #[inline(always)]
    pub(super) fn without_own(self) -> Glance {
        Glance { from: NEVER, span: 0, ..self }
    }
}

/// A write that is neither strong nor an entry of a table.
pub(super) fn is_plain(mark: Mark) -> bool {
    mark & (STRONG | TABLE) == 0
}

/// The part of a mark that is one byte's.
pub(super) fn share(mark: Mark, byte: u64) -> Mark {
    if mark & TABLE != 0 || mark & SHARES == COVERED {
        return mark;
    }
    let lane = match mark >> SHARE_AT & 3 {
        0 => 0,
        1 => byte / 2,
        _ => byte,
    };
    (mark & !SHARES) + (lane << LANE_AT)
}

/// Two unordered reads of one warp in one mark. A read that is not strong stays so: a strong write still races with it.
pub(super) fn merge(old: Mark, who: &Who) -> Mark {
    let same_lane = lane_of(old) == who.lane && old & SEVERAL == 0;
    let newest = (who.mark & !STRONG) | (old & who.mark & STRONG);
    if same_lane { newest } else { newest | SEVERAL }
}
