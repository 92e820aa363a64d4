//! What is read off logits without a gradient, on every device.

#[path = "../common/mod.rs"]
mod common;

mod argmax;
mod calibration;
mod confidence;
mod frequencies;
mod gumbel;
mod sample;
mod top_k;
