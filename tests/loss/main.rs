//! Losses on every device.

#[path = "../common/mod.rs"]
mod common;

mod binary_cross_entropy;
mod cross_entropy;
mod errors;
mod fused;
mod options;
mod rounds;
