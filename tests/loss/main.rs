//! Losses on every device.

#[path = "../common/mod.rs"]
mod common;

mod binary_cross_entropy;
mod counters;
mod cross_entropy;
mod divergence;
mod divergence_laws;
mod divergence_top_k;
mod errors;
mod fused;
mod hostile;
mod laws;
mod nll;
mod options;
mod rounds;
mod statistics;
