//! What is remembered of each word: who wrote it last, and who read it since.

use super::clocks::{Clocks, WARPS};

/// One access, in 64 bits: step, thread and instruction. Zero is no access. The step stands above everything else, so
/// that comparing marks compares steps; a mark whose top bit is set is an index into a table.
pub(super) type Mark = u64;

const TABLE: Mark = 1 << 63;
const STEP_AT: u32 = 32;
const STRONG: Mark = 1 << 31;
/// Several lanes of the warp, of which the mark names one.
const SEVERAL: Mark = 1 << 30;
const WARP_AT: u32 = 25;
const LANE_AT: u32 = 20;
/// Two bits: the word is shared by this lane alone, by two lanes with a half each, or by four with a byte each.
const SHARE_AT: u32 = 18;
const SHARES: Mark = 3 << SHARE_AT;
const PC: Mark = (1 << SHARE_AT) - 1;

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
}

impl Who {
    /// The thread so many lanes further on.
    #[inline(always)]
    pub(super) fn later_lane(self, lanes: u64) -> Who {
        Who { lane: self.lane + lanes as u32, mark: self.mark + (lanes << LANE_AT), ..self }
    }
}

/// The earlier party of a race.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clash {
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
}

fn clash(mark: Mark, wrote: bool) -> Clash {
    Clash { warp: warp_of(mark), lane: lane_of(mark), several: mark & SEVERAL != 0, pc: (mark & PC) as u32, wrote }
}

fn warp_of(mark: Mark) -> u32 {
    (mark >> WARP_AT) as u32 % 32
}

fn lane_of(mark: Mark) -> u32 {
    (mark >> LANE_AT) as u32 % 32
}

/// Whether an earlier access is ordered before this one, or cannot conflict with it.
fn settled(clocks: &Clocks, mark: Mark, who: &Who) -> bool {
    if mark == 0 || mark & who.mark & STRONG != 0 {
        return true;
    }
    let (step, warp) = ((mark >> STEP_AT) as u32, warp_of(mark));
    step <= clocks.knows(who.warp, warp) || warp == who.warp && mark & SEVERAL == 0 && lane_of(mark) == who.lane
}

/// Marks of a run of words.
#[derive(Default)]
pub(super) struct Cells {
    /// The last write; or, with the top bit set, the number of a [`Tables::bytes`] entry for the four bytes.
    write: Vec<Mark>,
    /// The read since; or, with the top bit set, the number of a [`Tables::readers`] entry.
    read: Vec<Mark>,
}

/// What does not fit into a mark.
#[derive(Default)]
pub(super) struct Tables {
    /// Reads of one word by several warps, one mark per warp.
    readers: Vec<[Mark; WARPS]>,
    free_readers: Vec<u32>,
    /// Write and read marks of the bytes of a word.
    bytes: Vec<[(Mark, Mark); 4]>,
    free_bytes: Vec<u32>,
}

impl Cells {
    pub(super) fn new(words: usize) -> Cells {
        Cells { write: vec![0; words], read: vec![0; words] }
    }

    pub(super) fn words(&self) -> usize {
        self.write.len()
    }

    /// Reads or writes of a run of words by consecutive lanes, the first of them `who`. False, with nothing done,
    /// unless every earlier access is settled at a glance.
    #[inline(always)]
    pub(super) fn run(&mut self, first: usize, words: usize, grain: Grain, floor: u32, who: &Who, write: bool) -> bool {
        let run = first..first + words;
        if !below(&self.write[run.clone()], floor) || !below(&self.read[run.clone()], floor) {
            return false;
        }
        let marks = if write { &mut self.write[run] } else { &mut self.read[run] };
        match grain {
            Grain::Words(per_lane) => {
                for (lane, marks) in marks.chunks_exact_mut(per_lane).enumerate() {
                    marks.fill(who.mark + ((lane as u64) << LANE_AT));
                }
            }
            Grain::Lanes(per_word) => {
                let share = if per_word == 2 { 1 } else { 2 } << SHARE_AT;
                for (word, mark) in marks.iter_mut().enumerate() {
                    *mark = who.mark | share;
                    *mark += ((word * per_word) as u64) << LANE_AT;
                }
            }
        }
        true
    }

    /// Reads of four words by four lanes `step` apart, or by these and `others` of the warp. False, with nothing done,
    /// unless every earlier write is settled at a glance.
    #[inline(always)]
    pub(super) fn row(&mut self, first: usize, floor: u32, who: &Who, step: u64, others: bool) -> bool {
        let run = first..first + 4;
        if !below(&self.write[run.clone()], floor) || !below(&self.read[run.clone()], floor) {
            return false;
        }
        let mark = who.mark | if others { SEVERAL } else { 0 };
        for (word, read) in self.read[run].iter_mut().enumerate() {
            *read = mark + (word as u64 * step << LANE_AT);
        }
        true
    }

    /// An access of the bytes `bytes` of word `i`. A write that stores what the word holds already (`same`) does not
    /// race with another write.
    #[inline(always)]
    pub(super) fn touch(
        &mut self,
        clocks: &Clocks,
        tables: &mut Tables,
        i: usize,
        bytes: u32,
        who: &Who,
        write: Option<bool>,
    ) -> Option<Clash> {
        let newest = self.write[i].max(self.read[i]);
        if bytes == 0xF && (newest >> STEP_AT) as u32 <= clocks.floor(who.warp) {
            let to = if write.is_some() { &mut self.write[i] } else { &mut self.read[i] };
            *to = who.mark;
            return None;
        }
        self.touch_slowly(clocks, tables, i, bytes, who, write)
    }

    #[inline(never)]
    fn touch_slowly(
        &mut self,
        clocks: &Clocks,
        tables: &mut Tables,
        i: usize,
        bytes: u32,
        who: &Who,
        write: Option<bool>,
    ) -> Option<Clash> {
        self.tidy(clocks, tables, i, who);
        if self.write[i] & TABLE == 0 {
            let shared = |mark: Mark| mark & TABLE == 0 && mark & SHARES != 0;
            if bytes == 0xF && !shared(self.write[i]) && !shared(self.read[i]) {
                return tables.access(clocks, &mut self.write[i], &mut self.read[i], who, write);
            }
            let pair = (self.write[i], self.read[i]);
            self.write[i] = TABLE | u64::from(tables.split(pair));
            self.read[i] = 0;
        }
        let entry = self.write[i] as u32;
        let mut first = None;
        for byte in (0..4).filter(|byte| bytes >> byte & 1 != 0) {
            let (mut w, mut r) = tables.bytes[entry as usize][byte];
            first = first.or(tables.access(clocks, &mut w, &mut r, who, write));
            tables.bytes[entry as usize][byte] = (w, r);
        }
        if bytes == 0xF && write.is_some() {
            // All four bytes agree again.
            (self.write[i], self.read[i]) = tables.bytes[entry as usize][0];
            tables.free_bytes.push(entry);
        }
        first
    }
}

impl Cells {
    /// Forgets the bytes of a word where all of it is settled, so that the next one to look sees one mark again.
    fn tidy(&mut self, clocks: &Clocks, tables: &mut Tables, i: usize, who: &Who) {
        if self.write[i] & TABLE == 0 {
            return;
        }
        let entry = self.write[i] as u32;
        let floor = u64::from(clocks.floor(who.warp));
        if tables.bytes[entry as usize].iter().all(|(w, r)| w >> STEP_AT <= floor && r >> STEP_AT <= floor) {
            (self.write[i], self.read[i]) = (0, 0);
            tables.free_bytes.push(entry);
        }
    }
}

/// How lanes and words of a run relate.
#[derive(Clone, Copy)]
pub(super) enum Grain {
    /// So many words for each lane.
    Words(usize),
    /// So many lanes, two or four, for each word.
    Lanes(usize),
}

#[inline(always)]
fn below(marks: &[Mark], floor: u32) -> bool {
    // Table entries have the top bit set and are never below.
    marks.iter().fold(0, |newest, &mark| newest.max(mark)) >> STEP_AT <= u64::from(floor)
}

impl Tables {
    /// One access of what a pair of marks stands for.
    fn access(&mut self, clocks: &Clocks, w: &mut Mark, r: &mut Mark, who: &Who, write: Option<bool>) -> Option<Clash> {
        let mut found = None;
        if write != Some(true) && !settled(clocks, *w, who) {
            found = Some(clash(*w, true));
        }
        if write.is_none() {
            self.add_reader(clocks, r, who);
            return found;
        }
        if *r & TABLE != 0 {
            let entry = *r as u32;
            let readers = &self.readers[entry as usize];
            let open = readers.iter().find(|&&mark| !settled(clocks, mark, who));
            found = found.or(open.map(|&mark| clash(mark, false)));
            self.free_readers.push(entry);
        } else if !settled(clocks, *r, who) {
            found = found.or(Some(clash(*r, false)));
        }
        (*w, *r) = (who.mark, 0);
        found
    }

    fn add_reader(&mut self, clocks: &Clocks, r: &mut Mark, who: &Who) {
        if *r & TABLE == 0 {
            let step_known = (*r >> STEP_AT) as u32 <= clocks.knows(who.warp, warp_of(*r));
            if *r == 0 || step_known {
                *r = who.mark;
            } else if warp_of(*r) == who.warp {
                *r = merge(*r, who);
            } else {
                let entry = match self.free_readers.pop() {
                    Some(entry) => entry,
                    None => {
                        self.readers.push([0; WARPS]);
                        self.readers.len() as u32 - 1
                    }
                };
                let readers = &mut self.readers[entry as usize];
                *readers = [0; WARPS];
                readers[warp_of(*r) as usize] = *r;
                readers[who.warp as usize % WARPS] = who.mark;
                *r = TABLE | u64::from(entry);
            }
            return;
        }
        let slot = &mut self.readers[*r as u32 as usize][who.warp as usize % WARPS];
        let known = (*slot >> STEP_AT) as u32 <= clocks.knows(who.warp, who.warp);
        *slot = if *slot == 0 || known { who.mark } else { merge(*slot, who) };
    }

    /// An entry for four bytes that share what a whole word had.
    fn split(&mut self, (w, r): (Mark, Mark)) -> u32 {
        let mut pairs = [0, 1, 2, 3].map(|byte| (share(w, byte), share(r, byte)));
        if r & TABLE != 0 {
            // Each byte gets readers of its own.
            for pair in pairs.iter_mut().skip(1) {
                let copy = self.readers[r as u32 as usize];
                self.readers.push(copy);
                pair.1 = TABLE | (self.readers.len() as u64 - 1);
            }
        }
        match self.free_bytes.pop() {
            Some(entry) => {
                self.bytes[entry as usize] = pairs;
                entry
            }
            None => {
                self.bytes.push(pairs);
                self.bytes.len() as u32 - 1
            }
        }
    }
}

/// The part of a mark that is one byte's.
fn share(mark: Mark, byte: u64) -> Mark {
    if mark & TABLE != 0 {
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
fn merge(old: Mark, who: &Who) -> Mark {
    let same_lane = lane_of(old) == who.lane && old & SEVERAL == 0;
    let newest = (who.mark & !STRONG) | (old & who.mark & STRONG);
    if same_lane { newest } else { newest | SEVERAL }
}
