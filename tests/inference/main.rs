//! What is read off logits without a gradient, on every device.

#[path = "../common/mod.rs"]
mod common;

mod argmax;
mod confidence;
mod sample;
mod top_k;
