//! Hand-written CUDA kernels for everything that is a log-sum-exp in disguise.

mod device;
mod dtype;
mod error;
pub mod interop;
pub mod kernels;
mod mask;
mod memory;
mod ops;
pub mod plan;
pub mod reference;
mod shape;
mod tensor;

pub use device::Device;
pub use dtype::{DType, Element, Float, bf16, f16};
pub use error::{DeviceName, Error, Result};
pub use mask::Polarity;
pub use ops::loss::{
    CrossEntropy, CrossEntropyInto, CrossEntropyOutput, CrossEntropySaved, Reduction, Targets, cross_entropy,
    cross_entropy_backward, cross_entropy_backward_into, cross_entropy_into,
};
pub use ops::softmax::{
    SoftmaxOptions, log_softmax, log_softmax_backward, log_softmax_backward_into, log_softmax_into, logsumexp,
    logsumexp_backward, logsumexp_backward_into, logsumexp_into, softmax, softmax_backward, softmax_backward_into,
    softmax_into, softmin, softmin_backward, softmin_backward_into, softmin_into,
};
pub use shape::{Dim, Layout, MAX_RANK, Rows, Runs, Shape};
pub use tensor::{BoolTensor, LogProbabilities, Lse, Mask, Probabilities, Tensor, View, ViewMut, hide, keep};

/// Runs the example of the README with the other examples.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
