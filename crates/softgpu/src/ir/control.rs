//! What the scheduler does itself: branches, exits and barriers.

use super::Call;

/// A [`super::Kind::Control`] instruction, named by its `x`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// To an instruction.
    Branch {
        /// Its index.
        target: u32,
    },
    /// `brx.idx`: to the instruction that slot `a` chooses.
    Table {
        /// Their indices.
        targets: Vec<u32>,
    },
    /// A call of a device function.
    Call(Call),
    /// `ret` of a device function.
    Return,
    /// `exit`, and `ret` of a kernel.
    Exit,
    /// `trap`: ends the launch with an error.
    Trap,
    /// `nanosleep`: lets others run.
    Yield,
    /// A barrier of the CTA: its number in slot `a`.
    Barrier(Barrier),
}

/// A barrier of the CTA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Barrier {
    /// What arriving means.
    pub action: BarrierAction,
    /// Whether all lanes of the warp must arrive together (`bar`, `barrier.aligned`).
    pub aligned: bool,
    /// Whether slot `b` gives the number of threads that take part; else all threads of the CTA do.
    pub counted: bool,
    /// For reductions: whether the predicate `c` is negated.
    pub negate: bool,
}

/// What arriving at a barrier means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarrierAction {
    /// Wait for the others.
    Sync,
    /// Count as arrived and go on.
    Arrive,
    /// Wait; predicate `d` becomes true if `c` is true for all.
    And,
    /// Wait; predicate `d` becomes true if `c` is true for any.
    Or,
    /// Wait; slot `d` becomes the number of threads for which `c` is true.
    Popc,
}
