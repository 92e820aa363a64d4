//! The scheduler: which CTA, which warp and which lanes run next, and for how long.
//!
//! Seed 0 is the plain schedule: CTAs in ascending order, warps in turn, each until it blocks, diverged lanes at the
//! lowest pc first. Other seeds draw all of that from a generator: any of them is a schedule that hardware may take.

mod barrier;
mod call;
mod cluster;
mod control;
mod cta;
mod fill;
mod grid;
mod random;
mod split;
mod step;

pub(crate) use cta::coordinates;
pub use grid::run;
pub(crate) use random::Random;
