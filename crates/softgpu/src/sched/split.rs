//! A warp as groups of lanes that stand at one instruction each.

use std::cmp::Reverse;

use super::random::Random;
use crate::exec::Warp;

/// Backward branches after which a group of lanes lets the others go first: a lane that spins must not keep the lane
/// it waits for from running.
pub const PATIENCE: u32 = 1024;

/// Why a split does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// It runs.
    None,
    /// A warp-wide operation names lanes that stand elsewhere.
    Members,
    /// An aligned barrier, and lanes of the warp stand elsewhere.
    Gather,
    /// Arrived at a barrier of the CTA.
    Barrier(u32),
}

/// Lanes at one instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    pub pc: u32,
    pub mask: u32,
    pub wait: Wait,
    /// Calls that have not returned, at most, of any of its lanes.
    pub depth: u32,
    /// Backward branches since it was last merged.
    pub trips: u32,
    /// Whether it touched memory while other lanes of the warp stood at an aligned barrier.
    pub passed: bool,
}

/// A warp and its splits, by ascending pc.
pub struct Running {
    pub warp: Warp,
    pub splits: Vec<Split>,
}

impl Running {
    pub fn new(warp: Warp) -> Running {
        Running { splits: Vec::new(), warp }
    }

    /// All lanes at the first instruction.
    pub fn start(&mut self) {
        self.warp.live = self.warp.lanes;
        let all = Split { pc: 0, mask: self.warp.lanes, wait: Wait::None, depth: 0, trips: 0, passed: false };
        self.splits.clear();
        self.splits.push(all);
    }

    /// The split to run next: of those that have spun least the one deepest in calls, which is to come back to the
    /// others, and of these the one with the lowest pc; or any.
    pub fn pick(&self, random: Option<&mut Random>) -> Option<usize> {
        let runnable = |n: &usize| self.splits[*n].wait == Wait::None;
        let mut all = (0..self.splits.len()).filter(runnable);
        match random {
            Some(random) if self.splits.len() > 1 => {
                let count = all.clone().count() as u64;
                if count == 0 { None } else { all.nth(random.below(count) as usize) }
            }
            _ => all
                .min_by_key(|n| (self.splits[*n].trips / PATIENCE, Reverse(self.splits[*n].depth), self.splits[*n].pc)),
        }
    }

    /// The nearest instruction ahead of split `n` where other lanes stand: there it stops, and they go on together.
    pub fn meeting(&self, n: usize) -> u32 {
        let from = self.splits[n].pc;
        let ahead = self.splits.iter().map(|s| s.pc).filter(|pc| *pc > from);
        ahead.min().unwrap_or(u32::MAX)
    }

    /// Brings the splits into order and joins those that stand together, unless they have arrived at a barrier.
    /// Joined lanes look again at what they waited for.
    pub fn settle(&mut self) {
        self.splits.retain(|s| s.mask != 0);
        self.splits.sort_by_key(|s| s.pc);
        self.splits.dedup_by(|b, a| {
            let joins = a.pc == b.pc && !matches!(a.wait, Wait::Barrier(_)) && !matches!(b.wait, Wait::Barrier(_));
            if joins {
                let mask = a.mask | b.mask;
                let (depth, passed) = (a.depth.max(b.depth), a.passed | b.passed);
                *a = Split { pc: a.pc, mask, wait: Wait::None, depth, trips: 0, passed };
            }
            joins
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(splits: &[(u32, u32, Wait)]) -> Running {
        let mut r = Running::new(Warp::new(0, u32::MAX, 4, 4, 0, 0));
        r.splits = splits
            .iter()
            .map(|(pc, mask, wait)| Split { pc: *pc, mask: *mask, wait: *wait, depth: 0, trips: 0, passed: false })
            .collect();
        r
    }

    #[test]
    fn equal_pcs_join_and_arrived_lanes_stay_apart() {
        let mut r = running(&[(9, 1, Wait::None), (5, 2, Wait::Members), (5, 4, Wait::None), (9, 8, Wait::Barrier(0))]);
        r.settle();
        let seen: Vec<_> = r.splits.iter().map(|s| (s.pc, s.mask, s.wait)).collect();
        assert_eq!(seen, [(5, 6, Wait::None), (9, 1, Wait::None), (9, 8, Wait::Barrier(0))]);
        assert_eq!(r.pick(None), Some(0));
        assert_eq!(r.meeting(0), 9);
    }

    #[test]
    fn a_spinning_split_lets_others_go_first() {
        let mut r = running(&[(5, 1, Wait::None), (9, 2, Wait::None)]);
        r.splits[0].trips = PATIENCE;
        assert_eq!(r.pick(None), Some(1));
    }
}
