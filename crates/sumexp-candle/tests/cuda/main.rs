//! The operations on candle's GPUs: values, and what keeps memory and streams in order. `make candle-cuda` runs this on the
//! software GPU, which finds what a GPU hides: memory given back too early, and work of streams that nothing puts in order.

#[path = "../common/mod.rs"]
mod common;
mod driver;
mod handling;
mod ops;
mod world;
