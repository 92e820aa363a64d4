//! Losses on every device.

#[path = "../common/mod.rs"]
mod common;

mod cross_entropy;
mod errors;
mod rounds;
