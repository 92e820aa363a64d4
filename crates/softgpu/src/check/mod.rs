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

    /// A CTA barrier completed with these participants: one lane mask per warp.
    pub fn barrier(&mut self, _participants: &[u32]) {}

    /// `bar.warp.sync` (or an operation as strong) of the lanes `mask` of a warp.
    pub fn warp_sync(&mut self, _warp: u32, _mask: u32) {}
}
