//! What the checks find, and the order between threads that race detection needs.

mod report;

pub use report::{Detector, Finding};
pub(crate) use report::{lanes, record};

/// Happens-before between the threads of one CTA.
#[derive(Default)]
pub struct Order {}

impl Order {
    /// Nothing has happened yet among `warps` warps.
    pub fn new(_warps: u32) -> Order {
        Order {}
    }

    /// Lanes `mask` of a warp arrive at a barrier of the CTA: what they did before is released into it.
    pub fn arrive(&mut self, _barrier: u32, _warp: u32, _mask: u32) {}

    /// A barrier completes: the waiting lanes, one mask per warp, acquire what was released into it.
    pub fn complete(&mut self, _barrier: u32, _waiting: &[u32]) {}

    /// `bar.warp.sync` (or an operation as strong) of the lanes `mask` of a warp.
    pub fn warp_sync(&mut self, _warp: u32, _mask: u32) {}
}
