//! Reads of shared memory by lines of 16 bytes, as `ldmatrix` and runs of lanes make them. Matrices are read by many warps
//! between two barriers: each warp has a mark of its own for each line, so that reading costs the same whoever read it
//! before, and a write compares with the newest of them.

use super::marks::{Clash, Glance, LANE_AT, Mark, SEVERAL, SHARE_AT, SHARES, STEP_AT, THREAD, View, Who, step_of};

/// Words of a line.
pub(super) const LINE: usize = 4;

/// Which lanes the words of a line belong to, the first of them being that of the mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lanes {
    /// All four to one.
    One,
    /// Each to the next.
    Four,
    /// Two to each of two.
    Two,
    /// Each to one eight lanes further on, and to another lane besides: columns of a matrix that is transposed.
    Columns,
}

impl Lanes {
    /// In the place where other marks say which part of a word is meant: rows are read in whole words.
    fn code(self) -> Mark {
        (self as u64) << SHARE_AT | if self == Lanes::Columns { SEVERAL } else { 0 }
    }
}

/// The mark of one word, of the mark of its line.
fn of_word(mark: Mark, word: usize) -> Mark {
    let word = word as u64;
    let lanes = match mark >> SHARE_AT & 3 {
        0 => 0,
        1 => word,
        2 => word / 2,
        _ => 8 * word,
    };
    (mark & !SHARES) + (lanes << LANE_AT)
}

/// Who read which lines.
#[derive(Default)]
pub(super) struct Rows {
    warps: usize,
    /// Marks of each line: one for each warp, and one for each warpgroup's products.
    readers: usize,
    /// By line, then by reader.
    marks: Vec<Mark>,
    /// The step of the newest mark of each line, where marks have it.
    newest: Vec<Mark>,
}

impl Rows {
    /// A warp reads a line of a memory of `words` words. False, with nothing done, when other lanes of it read the line and
    /// nothing ordered the two since: words have to be looked at one by one then.
    #[inline(always)]
    pub(super) fn read(&mut self, view: &View<'_>, words: usize, line: usize, who: &Who, lanes: Lanes) -> bool {
        if self.warps != view.clocks.warps() || self.newest.len() * LINE < words {
            self.resize(view.clocks.warps(), words.div_ceil(LINE));
        }
        let mark = who.mark | lanes.code();
        let slot = &mut self.marks[line * self.readers + who.warp as usize];
        if (*slot ^ mark) & THREAD != 0 && step_of(*slot) > view.clocks.knows(who.warp, who.warp) {
            return false;
        }
        *slot = mark;
        self.newest[line] = self.newest[line].max(mark >> STEP_AT << STEP_AT);
        true
    }

    #[cold]
    fn resize(&mut self, warps: usize, lines: usize) {
        self.warps = warps;
        self.readers = warps + warps.div_ceil(4);
        self.newest = vec![0; lines];
        self.marks = vec![0; lines * self.readers];
    }

    /// The products of a warpgroup read a line of a memory of `words` words.
    #[inline(always)]
    pub(super) fn product(&mut self, view: &View<'_>, words: usize, line: usize, group: u32, mark: Mark) {
        if self.warps != view.clocks.warps() || self.newest.len() * LINE < words {
            self.resize(view.clocks.warps(), words.div_ceil(LINE));
        }
        self.marks[line * self.readers + self.warps + group as usize] = mark;
        self.newest[line] = self.newest[line].max(mark >> STEP_AT << STEP_AT);
    }

    /// Forgets who read some lines: whoever wrote them since is ordered behind all of it.
    pub(super) fn forget(&mut self, lines: std::ops::Range<usize>) {
        if lines.end <= self.newest.len() {
            self.marks[lines.start * self.readers..lines.end * self.readers].fill(0);
            self.newest[lines].fill(0);
        }
    }

    /// Forgets everything: steps begin anew.
    pub(super) fn clear(&mut self) {
        self.marks.fill(0);
        self.newest.fill(0);
    }

    /// Whether every read of the lines of some words is settled at a glance.
    #[inline(always)]
    pub(super) fn settled(&self, glance: Glance, words: std::ops::Range<usize>) -> bool {
        self.newest.is_empty() || glance.settles_all(&self.newest[words.start / LINE..words.end.div_ceil(LINE)])
    }

    /// A read of a word that is not ordered before a write of it.
    pub(super) fn clash(&self, view: &View<'_>, word: usize, who: &Who) -> Option<Clash> {
        let line = word / LINE;
        let marks = self.marks.get(line * self.readers..(line + 1) * self.readers)?;
        let open = marks.iter().map(|mark| if *mark == 0 { 0 } else { of_word(*mark, word % LINE) });
        open.into_iter().find(|mark| !view.settled(*mark, who)).map(|mark| view.clash(mark, false, false))
    }
}

#[cfg(test)]
mod tests {
    use super::super::race::{By, Global, Order};
    use super::Lanes::{Columns, Four, One};

    const WRITE: Option<bool> = Some(false);

    fn order() -> Order {
        let mut order = Order::default();
        order.restart(4, 0);
        order.enter(Global::begin());
        order.cover_shared(256);
        order
    }

    fn by(warp: u32, lane: u32) -> By {
        By { warp, lane, pc: 100 + warp, strong: false }
    }

    fn meet(order: &mut Order, warps: std::ops::Range<u32>) {
        let waiting: Vec<u32> = (0..4).map(|warp| if warps.contains(&warp) { u32::MAX } else { 0 }).collect();
        warps.for_each(|warp| order.arrive(0, warp, u32::MAX));
        order.complete(0, &waiting);
    }

    #[test]
    fn a_write_meets_the_reads_of_every_warp() {
        let mut order = order();
        for warp in 0..3 {
            assert!(order.row_shared(by(warp, 8), 32, Four));
        }
        let clash = order.touch_shared(by(3, 0), 40, 0xF, WRITE).expect("a race");
        assert_eq!((clash.warp, clash.lane, clash.pc, clash.wrote, clash.several), (0, 10, 100, false, false));
        // The line beside it was not read.
        assert_eq!(order.touch_shared(by(3, 0), 48, 0xF, WRITE), None);
        // Two of the readers meet the writer: the third is still open.
        meet(&mut order, 1..4);
        let clash = order.touch_shared(by(3, 0), 32, 0x1, WRITE).expect("a race");
        assert_eq!((clash.warp, clash.lane), (0, 8));
        meet(&mut order, 0..4);
        assert_eq!(order.touch_shared(by(3, 0), 36, 0xF, WRITE), None);
    }

    #[test]
    fn lanes_may_write_what_they_alone_read() {
        let mut order = order();
        assert!(order.row_shared(by(0, 4), 16, Four));
        assert_eq!(order.touch_shared(by(0, 5), 20, 0xF, WRITE), None);
        let clash = order.touch_shared(by(0, 5), 24, 0xF, WRITE).expect("a race between lanes");
        assert_eq!((clash.warp, clash.lane, clash.several), (0, 6, false));
        assert!(order.row_shared(by(1, 3), 64, Columns));
        let clash = order.touch_shared(by(1, 19), 72, 0xF, WRITE).expect("another lane read it too");
        assert_eq!((clash.lane, clash.several), (19, true));
    }

    #[test]
    fn other_lanes_of_the_warp_are_kept_apart() {
        let mut order = order();
        assert!(order.row_shared(by(0, 4), 16, Four));
        assert!(order.row_shared(by(0, 4), 16, Four), "the same lanes again");
        assert!(!order.row_shared(by(0, 4), 16, One), "in this way the lanes are others");
        order.warp_sync(0, u32::MAX);
        assert!(order.row_shared(by(0, 4), 16, One));
        assert_eq!(order.touch_shared(by(0, 4), 28, 0xF, WRITE), None);
    }

    #[test]
    fn runs_that_several_warps_read_are_lines() {
        for second in 1..3 {
            let mut order = order();
            for warp in 0..=second {
                assert!(order.run_shared::<8>(by(warp, 0), 0, false), "warp {warp}");
            }
            let clash = order.touch_shared(by(3, 0), 4 * 19, 0xF, WRITE).expect("a race");
            assert!(clash.warp <= second && clash.lane == 9, "{clash:?}");
            assert!(!order.run_shared::<4>(by(3, 0), 0, true), "a run of writes is looked at one by one");
            meet(&mut order, 0..4);
            assert!(order.run_shared::<4>(by(3, 0), 0, true));
            assert!(order.touch_shared(by(2, 0), 0, 0xF, None).is_some(), "it was written");
        }
    }

    #[test]
    fn a_write_that_is_open_is_seen_by_words() {
        let mut order = order();
        assert_eq!(order.touch_shared(by(1, 0), 24, 0xF, WRITE), None);
        assert!(!order.row_shared(by(0, 0), 16, Four));
        // It is enough to have met the one who wrote.
        meet(&mut order, 0..2);
        assert!(order.row_shared(by(0, 0), 16, Four));
        assert!(!order.row_shared(by(2, 0), 16, Four));
    }
}
