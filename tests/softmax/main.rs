//! The softmax family on every device.

#[path = "../common/mod.rs"]
mod common;

mod accuracy;
mod bits;
mod counters;
mod errors;
mod known_bugs;
mod rounds;
mod run;
mod values;
