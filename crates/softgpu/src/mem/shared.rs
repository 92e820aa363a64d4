//! Shared memory of one CTA.

use crate::ir::SharedLayout;

/// Shared memory of one CTA.
#[derive(Default)]
pub struct Shared {}

impl Shared {
    /// Fresh shared memory: `layout` gives the static arrays, `dynamic` the bytes behind them.
    pub fn new(_layout: &SharedLayout, _dynamic: u32, _poison: u8) -> Shared {
        Shared {}
    }
}
