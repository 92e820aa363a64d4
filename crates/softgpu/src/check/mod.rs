//! What the checks find, and the order between threads that race detection needs.

pub(crate) mod bulk;
mod cells;
mod clocks;
pub(crate) mod cluster;
mod engines;
mod far;
mod marks;
mod once;
pub(crate) mod poll;
pub(crate) mod race;
mod report;
pub(crate) mod rows;
pub(crate) mod taint;

pub(crate) use engines::Message;
pub(crate) use once::{WriteOnce, bulk as watch_bulk, finish, store as watch_store};
pub(crate) use race::Global;
pub use race::Order;
pub use report::{Detector, Finding};
pub(crate) use report::{lanes, record};
pub use taint::Taint;
