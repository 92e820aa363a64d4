//! The reference attention: against dense float64 arithmetic written once more here, values worked out by hand, finite
//! differences, laws, and bugs that other libraries had.

#[path = "../common/mod.rs"]
mod common;

mod case_table;
mod golden;
mod gradients;
mod known_bugs;
mod laws;
mod layouts;
mod merging;
mod packed;
mod values;
