//! What the checks find, and the order between threads that race detection needs.

use crate::launch::Where;

/// Something that hardware would not have noticed.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Which check found it.
    pub detector: Detector,
    /// What happened, in one sentence.
    pub text: String,
    /// Where.
    pub at: Where,
}

/// The checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Detector {
    /// A read of bytes that nobody wrote.
    Uninitialised,
    /// Two accesses of shared memory without order between them, one of them a write.
    SharedRace,
    /// A warp-wide operation that names or reads a lane that does not take part.
    InactiveLane,
    /// A barrier that not every thread reaches, or not together.
    BarrierDivergence,
    /// Every warp waits.
    Deadlock,
}

/// Happens-before between the threads of one CTA.
#[derive(Default)]
pub struct Order {}

impl Order {
    /// Nothing has happened yet among `warps` warps.
    pub fn new(_warps: u32) -> Order {
        Order {}
    }

    /// A CTA barrier completed with these participants: one lane mask per warp.
    pub fn barrier(&mut self, _participants: &[u32]) {}

    /// `bar.warp.sync` (or an operation as strong) of the lanes `mask` of a warp.
    pub fn warp_sync(&mut self, _warp: u32, _mask: u32) {}
}
