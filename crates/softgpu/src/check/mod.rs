//! What the checks find, and the order between threads that race detection needs.

mod cells;
mod clocks;
pub(crate) mod race;
mod report;

pub use race::Order;
pub use report::{Detector, Finding};
pub(crate) use report::{lanes, record};
