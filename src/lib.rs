//! Hand-written CUDA kernels for everything that is a log-sum-exp in disguise.

mod dtype;
mod error;
mod mask;
pub mod plan;
pub mod reference;
mod shape;

pub use dtype::{DType, Element, Float, bf16, f16};
pub use error::{DeviceName, Error, Result};
pub use mask::Polarity;
pub use shape::{Dim, Layout, MAX_RANK, Rows, Runs, Shape};
