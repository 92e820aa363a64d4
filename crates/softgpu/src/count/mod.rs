//! Counters: facts about a launch that depend on program, inputs and seed alone.

/// Counts by instruction while a launch runs.
#[derive(Default)]
pub struct Tally {
    /// Per instruction: how often a warp issued it, and for how many threads in all.
    pub issued: Vec<(u64, u64)>,
}

impl Tally {
    /// All zero, for a kernel of `instructions`.
    pub fn new(instructions: usize) -> Tally {
        Tally { issued: vec![(0, 0); instructions] }
    }

    /// One warp issued the instruction at `pc` for the lanes of `mask`.
    #[inline(always)]
    pub fn issue(&mut self, pc: usize, mask: u32) {
        let cell = &mut self.issued[pc];
        cell.0 += 1;
        cell.1 += u64::from(mask.count_ones());
    }
}

/// What a launch did, folded over its instructions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counters {
    /// Warp instructions.
    pub warp_instructions: u64,
    /// Thread instructions.
    pub thread_instructions: u64,
}

impl Counters {
    /// Folds the counts of one launch.
    pub fn fold(tally: &Tally, _kernel: &crate::ir::Kernel) -> Counters {
        let (w, t) = tally.issued.iter().fold((0, 0), |s, c| (s.0 + c.0, s.1 + c.1));
        Counters { warp_instructions: w, thread_instructions: t }
    }
}
