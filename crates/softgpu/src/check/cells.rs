//! What is remembered of each word: who wrote it last, and who read it since.

use super::clocks::WARPS;
use super::marks::{
    COVERED, Clash, Glance, LANE_AT, Mark, PROMISED, SEVERAL, SHARE_AT, SHARES, STEP_AT, TABLE, THREAD, View, Who,
    is_plain, merge, share, step_of, warp_of,
};
use super::rows::{LINE, Lanes, Rows};

/// Marks of a run of words.
#[derive(Default)]
pub(super) struct Cells {
    /// Reads by whole lines, of a CTA's own memory.
    pub(super) rows: Rows,
    /// The last write; or, with the top bit set, the number of a [`Tables::bytes`] entry for the four bytes.
    pub(super) write: Vec<Mark>,
    /// The read since; or, with the top bit set, the number of a [`Tables::readers`] entry.
    pub(super) read: Vec<Mark>,
    /// For device memory: a read since by another CTA than that of `read`; or, marked [`COVERED`], an earlier plain
    /// write that only strong ones of its CTA followed.
    pub(super) other: Vec<Mark>,
    /// The launch (by its first step) that last had something in `other`.
    other_in: u32,
    /// The newest step of any mark, by run of [`RUN`] words: memory that was not touched yet needs no look at marks.
    pub(super) newest: Vec<u32>,
    /// Whether some mark is an entry of a table.
    pub(super) tabled: bool,
    /// Whether some mark is an engine's.
    pub(super) engines: bool,
}

/// Words of a run that has one entry in `newest`.
pub(super) const RUN: usize = 32;

/// What does not fit into a mark.
#[derive(Default)]
pub(super) struct Tables {
    /// Reads of one word by several warps, one mark per warp.
    readers: Vec<[Mark; WARPS]>,
    pub(super) free_readers: Vec<u32>,
    /// Write and read marks of the bytes of a word.
    pub(super) bytes: Vec<[Marks; 4]>,
    pub(super) free_bytes: Vec<u32>,
}

/// The last write, the read since, and what else still matters (see [`Cells::other`]).
#[derive(Clone, Copy, Default)]
pub(super) struct Marks {
    pub(super) write: Mark,
    pub(super) read: Mark,
    other: Mark,
}

impl Cells {
    /// For a CTA's own memory.
    pub(super) fn new(words: usize) -> Cells {
        Cells { write: vec![0; words], read: vec![0; words], newest: vec![0; words.div_ceil(RUN)], ..Cells::default() }
    }

    /// For memory that all CTAs share.
    pub(super) fn common(words: usize) -> Cells {
        Cells { other: vec![0; words], ..Cells::new(words) }
    }

    pub(super) fn words(&self) -> usize {
        self.write.len()
    }

    /// Whether some word may have been read by two CTAs of this launch.
    #[inline(always)]
    fn has_other(&self, view: &View<'_>) -> bool {
        !self.other.is_empty() && self.other_in == view.old() && self.other_in != 0
    }

    /// Reads or writes of a run of words by consecutive lanes, the first of them `who`. False, with no mark lost,
    /// unless every earlier access is settled at a glance.
    #[inline(always)]
    pub(super) fn run(
        &mut self,
        view: &View<'_>,
        first: usize,
        words: usize,
        grain: Grain,
        who: &Who,
        write: bool,
    ) -> bool {
        let run = first..first + words;
        if !self.untouched(view, run.clone(), who) && !self.allows(view, run.clone(), grain, who, write) {
            return !write && self.run_of_rows(view, run, grain, who);
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

    /// Whether nobody touched a run of words yet, in this launch or, for shared memory, in this CTA; from now on
    /// somebody has.
    #[inline(always)]
    fn untouched(&mut self, view: &View<'_>, run: std::ops::Range<usize>, who: &Who) -> bool {
        let (first, now) = (view.first(), step_of(who.mark));
        let mut untouched = !self.tabled;
        for newest in &mut self.newest[run.start / RUN..run.end.div_ceil(RUN)] {
            untouched &= *newest < first;
            *newest = now.max(*newest);
        }
        untouched
    }

    /// Whether everything that was done to a run of words is settled at a glance, or was done by the same lanes.
    #[inline(always)]
    fn allows(&mut self, view: &View<'_>, run: std::ops::Range<usize>, grain: Grain, who: &Who, write: bool) -> bool {
        let glance = view.glance(who.warp);
        let own = Own { glance, from: u64::from(view.clocks.from()), mark: who.mark, grain };
        let (writes, reads) = (&self.write[run.clone()], &self.read[run.clone()]);
        if who.is_promised() {
            // A write of this launch breaks the promise, ordered or not.
            if !glance.without_own().settles_all(writes) {
                return false;
            }
        } else if !glance.settles_all(writes) && !own.all(writes) {
            return false;
        }
        if write && !self.rows.settled(glance, run.clone()) {
            return false;
        }
        let clear = reads.iter().fold(true, |all, mark| all & glance.allows_write(*mark));
        if !write {
            // A plain read may not take the place of a promise.
            let clear = clear || who.is_promised() && glance.settles_all(reads);
            return clear || own.all(reads) || self.set_aside(view, glance, run, who);
        }
        (clear || own.all(reads)) && (!self.has_other(view) || glance.settles_all(&self.other[run]))
    }

    /// Keeps the reads of other CTAs before one of this CTA takes their place. False unless all others are settled.
    fn set_aside(&mut self, view: &View<'_>, glance: Glance, run: std::ops::Range<usize>, who: &Who) -> bool {
        if self.other.is_empty() {
            return false;
        }
        let (old, from) = (u64::from(view.old()), u64::from(view.clocks.from()));
        let foreign = |mark: Mark| (mark >> STEP_AT >= old) & (mark >> STEP_AT < from);
        let reads = &self.read[run.clone()];
        let keeps = |mark: Mark| who.is_promised() | !view.is_promise(mark);
        if !reads.iter().fold(true, |all, mark| all & (glance.settles(*mark) | foreign(*mark)) & keeps(*mark)) {
            return false;
        }
        for (other, read) in self.other[run.clone()].iter_mut().zip(reads) {
            *other = if foreign(*read) & (*other & SHARES != COVERED) { *read } else { *other };
        }
        self.other_in = view.old();
        true
    }

    /// Reads of a line of a CTA's own memory. False, with nothing done, unless every earlier write is ordered before.
    #[inline(always)]
    pub(super) fn row(&mut self, view: &View<'_>, first: usize, who: &Who, lanes: Lanes) -> bool {
        let run = first..first + LINE;
        let writes = &self.write[run.clone()];
        if !view.glance(who.warp).settles_all(writes) && !writes.iter().all(|mark| view.is_known(*mark, who.warp)) {
            return false;
        }
        self.untouched(view, run, who);
        self.rows.read(view, self.write.len(), first / LINE, who, lanes)
    }

    /// Reads of a run of words that other warps read too. False when they have to be looked at one by one; lines that
    /// were noted until then do no harm, since it is the same lanes that look again.
    fn run_of_rows(&mut self, view: &View<'_>, run: std::ops::Range<usize>, grain: Grain, who: &Who) -> bool {
        let (lanes, per_line) = match grain {
            Grain::Words(1) => (Lanes::Four, 4),
            Grain::Words(2) => (Lanes::Two, 2),
            Grain::Words(4) => (Lanes::One, 1),
            _ => return false,
        };
        if !self.other.is_empty() || !run.start.is_multiple_of(LINE) || !run.len().is_multiple_of(LINE) {
            return false;
        }
        let first = |line: usize| (run.start + LINE * line, who.later_lane((per_line * line) as u64));
        (0..run.len() / LINE).map(first).all(|(word, who)| self.row(view, word, &who, lanes))
    }

    /// An access of the bytes `bytes` of word `i`. A write that stores what the word holds already (`same`) does not
    /// race with another write.
    #[inline(always)]
    pub(super) fn touch(
        &mut self,
        view: &View<'_>,
        tables: &mut Tables,
        i: usize,
        bytes: u32,
        who: &Who,
        write: Option<bool>,
    ) -> Option<Clash> {
        let newest = &mut self.newest[i / RUN];
        *newest = step_of(who.mark).max(*newest);
        let glance = view.glance(who.warp);
        let easy = if write.is_some() {
            // A plain write under a strong one is kept.
            let covers = who.is_strong() && view.across.is_some() && view.is_new(self.write[i]);
            glance.settles(self.write[i]) & glance.allows_write(self.read[i])
                && !covers
                && !self.has_other(view)
                && self.rows.settled(glance, i..i + 1)
        } else {
            glance.settles(self.write[i]) & glance.allows_write(self.read[i]) && !who.is_promised()
        };
        if bytes == 0xF && easy {
            let to = if write.is_some() { &mut self.write[i] } else { &mut self.read[i] };
            *to = who.mark;
            return None;
        }
        let line = if write.is_some() { self.rows.clash(view, i, who) } else { None };
        self.touch_slowly(view, tables, i, bytes, who, write).or(line)
    }

    #[inline(never)]
    pub(super) fn touch_slowly(
        &mut self,
        view: &View<'_>,
        tables: &mut Tables,
        i: usize,
        bytes: u32,
        who: &Who,
        write: Option<bool>,
    ) -> Option<Clash> {
        self.tidy(view, tables, i, who);
        let (mut none, common) = (0, !self.other.is_empty());
        if common && !self.has_other(view) {
            // What stands there is of an earlier launch.
            self.other[i] = 0;
        }
        if self.write[i] & TABLE == 0 {
            let shared = |mark: Mark| mark & TABLE == 0 && mark & SHARES != 0;
            if bytes == 0xF && !shared(self.write[i]) && !shared(self.read[i]) {
                let other = if common { &mut self.other[i] } else { &mut none };
                let mut marks = Marks { write: self.write[i], read: self.read[i], other: *other };
                let found = tables.access(view, &mut marks, who, write);
                (self.write[i], self.read[i], *other) = (marks.write, marks.read, marks.other);
                self.tabled |= marks.read & TABLE != 0;
                self.note_other(view, marks.other);
                return found;
            }
            let other = if common { self.other[i] } else { 0 };
            let entry = tables.split(Marks { write: self.write[i], read: self.read[i], other });
            self.write[i] = TABLE | u64::from(entry);
            self.read[i] = 0;
            self.tabled = true;
        }
        let entry = self.write[i] as u32;
        let mut first = None;
        for byte in (0..4).filter(|byte| bytes >> byte & 1 != 0) {
            let mut marks = tables.bytes[entry as usize][byte];
            first = first.or(tables.access(view, &mut marks, who, write));
            tables.bytes[entry as usize][byte] = marks;
        }
        if bytes == 0xF && write.is_some() {
            // All four bytes agree again.
            let Marks { write, read, .. } = tables.bytes[entry as usize][0];
            (self.write[i], self.read[i]) = (write, read);
            if common {
                self.other[i] = 0;
            }
            tables.free_bytes.push(entry);
        }
        first
    }

    /// Everything marked here is over: gives back the entries of tables.
    pub(super) fn recycle(&mut self, tables: &mut Tables) {
        if std::mem::take(&mut self.engines) {
            return self.start_over(tables);
        }
        if !std::mem::take(&mut self.tabled) {
            return;
        }
        for (write, read) in self.write.iter_mut().zip(&mut self.read) {
            if *write & TABLE != 0 {
                tables.free_bytes.push(*write as u32);
                for marks in tables.bytes[*write as u32 as usize] {
                    if marks.read & TABLE != 0 {
                        tables.free_readers.push(marks.read as u32);
                    }
                }
                *write = 0;
            }
            if *read & TABLE != 0 {
                tables.free_readers.push(*read as u32);
                *read = 0;
            }
        }
    }

    /// The last write of a word in this launch (for shared memory: of this CTA).
    pub(super) fn last_write(&self, view: &View<'_>, tables: &Tables, i: usize) -> Option<Clash> {
        let mark = match *self.write.get(i)? {
            mark if mark & TABLE != 0 => tables.bytes[mark as u32 as usize].iter().map(|m| m.write).max()?,
            mark => mark,
        };
        let known = if view.across.is_some() { view.is_new(mark) } else { step_of(mark) > view.clocks.base() };
        known.then(|| view.clash(mark, true, false))
    }

    /// From now on somebody has to look at `other`.
    fn note_other(&mut self, view: &View<'_>, other: Mark) {
        if other != 0 && !self.has_other(view) {
            // What the other words have there is of an earlier launch.
            self.other_in = view.old();
        }
    }

    /// Forgets the bytes of a word where all of it is settled, so that the next one to look sees one mark again.
    fn tidy(&mut self, view: &View<'_>, tables: &mut Tables, i: usize, who: &Who) {
        if self.write[i] & TABLE == 0 {
            return;
        }
        let entry = self.write[i] as u32;
        let glance = view.glance(who.warp);
        let settled = |m: &Marks| [m.write, m.read, m.other].into_iter().all(|mark| glance.settles(mark));
        if tables.bytes[entry as usize].iter().all(settled) {
            (self.write[i], self.read[i]) = (0, 0);
            tables.free_bytes.push(entry);
        }
    }
}

/// What the lanes of a run did themselves.
struct Own {
    glance: Glance,
    /// Steps from here on are the CTA's own.
    from: u64,
    /// The mark of the first lane.
    mark: Mark,
    grain: Grain,
}

impl Own {
    /// Whether each mark is settled, or that of the very lane (by the same kind of access) that comes again.
    #[inline(always)]
    fn all(&self, marks: &[Mark]) -> bool {
        let mine = |word: usize| match self.grain {
            Grain::Words(per_lane) => self.mark + (((word / per_lane) as u64) << LANE_AT),
            Grain::Lanes(2) => (self.mark | 1 << SHARE_AT) + ((2 * word as u64) << LANE_AT),
            Grain::Lanes(per_word) => (self.mark | 2 << SHARE_AT) + (((per_word * word) as u64) << LANE_AT),
        };
        marks.iter().enumerate().fold(true, |all, (word, mark)| {
            let same = ((mark ^ mine(word)) & THREAD == 0) & (mark & TABLE == 0) & (mark >> STEP_AT >= self.from);
            // A promise is kept by reading again, and is among the bits compared.
            all & (same | (self.glance.settles(*mark) & (mark & PROMISED == 0)))
        })
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

impl Tables {
    /// One access of what marks stand for.
    fn access(&mut self, view: &View<'_>, marks: &mut Marks, who: &Who, write: Option<bool>) -> Option<Clash> {
        let mut found = None;
        if write != Some(true) && !view.settled(marks.write, who) {
            found = Some(view.clash(marks.write, true, false));
        }
        let covered = marks.other & SHARES == COVERED;
        if write != Some(true) && covered && !view.settled(marks.other, who) {
            found = found.or(Some(view.clash(marks.other, true, false)));
        }
        if write.is_none() {
            if who.is_promised() && view.is_new(marks.write) {
                found = found.or(Some(view.clash(marks.write, true, true)));
            }
            self.add_reader(view, marks, who);
            return found;
        }
        for read in [marks.read, if covered { 0 } else { marks.other }] {
            let readers = match read & TABLE {
                0 => std::slice::from_ref(&read),
                _ => &self.readers[read as u32 as usize][..view.clocks.warps()],
            };
            let promised = |mark: Mark| view.is_promise(mark);
            let open = readers.iter().find(|mark| !view.settled(**mark, who) || promised(**mark));
            found = found.or(open.map(|mark| view.clash(*mark, false, promised(*mark))));
        }
        if marks.read & TABLE != 0 {
            self.free_readers.push(marks.read as u32);
        }
        let own = |mark: Mark| view.is_new(mark) && view.foreign(mark).is_none();
        let other = match view.across {
            Some(_) if who.is_strong() && covered && own(marks.other) => marks.other,
            Some(_) if who.is_strong() && is_plain(marks.write) && own(marks.write) => marks.write | COVERED,
            _ => 0,
        };
        *marks = Marks { write: who.mark, read: 0, other };
        found
    }

    fn add_reader(&mut self, view: &View<'_>, marks: &mut Marks, who: &Who) {
        let clocks = view.clocks;
        let r = &mut marks.read;
        // Shared memory has no readers of other CTAs.
        if *r & TABLE != 0 && view.across.is_some() {
            let readers = &self.readers[*r as u32 as usize];
            let newest = readers.iter().copied().max_by_key(|mark| (view.is_promise(*mark), *mark)).unwrap_or(0);
            if view.foreign(newest).is_some() || step_of(newest) < view.old() {
                // Of the threads of another CTA one stands for all.
                self.free_readers.push(*r as u32);
                *r = newest | SEVERAL;
            }
        }
        if *r & TABLE == 0 {
            if view.is_promise(*r) && !who.is_promised() {
                // Whoever writes the word breaks the promise, whatever else was read.
                return;
            }
            if view.foreign(*r).is_some() {
                if marks.other & SHARES != COVERED {
                    marks.other = *r;
                }
                *r = who.mark;
                return;
            }
            let known = step_of(*r) < view.old() || step_of(*r) <= clocks.knows(who.warp, warp_of(*r));
            if *r == 0 || known {
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
        let known = step_of(*slot) <= clocks.knows(who.warp, who.warp);
        if view.is_promise(*slot) && !who.is_promised() {
            return;
        }
        *slot = if *slot == 0 || known { who.mark } else { merge(*slot, who) };
    }

    /// An entry for four bytes that share what a whole word had.
    fn split(&mut self, whole: Marks) -> u32 {
        let part = |byte| Marks {
            write: share(whole.write, byte),
            read: share(whole.read, byte),
            other: share(whole.other, byte),
        };
        let mut parts = [0, 1, 2, 3].map(part);
        if whole.read & TABLE != 0 {
            // Each byte gets readers of its own.
            for part in parts.iter_mut().skip(1) {
                let copy = self.readers[whole.read as u32 as usize];
                self.readers.push(copy);
                part.read = TABLE | (self.readers.len() as u64 - 1);
            }
        }
        match self.free_bytes.pop() {
            Some(entry) => {
                self.bytes[entry as usize] = parts;
                entry
            }
            None => {
                self.bytes.push(parts);
                self.bytes.len() as u32 - 1
            }
        }
    }
}
