//! Hand-written CUDA kernels for everything that is a log-sum-exp in disguise: softmax, log-softmax, logsumexp, sigmoid,
//! cross-entropy, distillation and their relatives, forward and backward, fused [`attention`], sampling and calibration, in f16,
//! bf16 and f32, on tensors that no safe program can misuse.
//!
//! ```
//! use sumexp::{CrossEntropy, Device, Dim, SoftmaxOptions, Tensor, cross_entropy, softmax};
//!
//! let device = Device::cuda(0).unwrap_or(Device::cpu());
//! let logits = Tensor::from_slice(&device, &[2, 3], &[1.0f32, 2.0, 3.0, 0.0, 0.0, 9.0])?;
//! let targets = Tensor::from_slice(&device, &[2], &[2i64, 0])?;
//!
//! let p = softmax(&logits, Dim::LAST, &SoftmaxOptions::default())?;
//! assert!((p.to_vec()?[2] - 0.665_240_94).abs() < 1e-6);
//!
//! let loss = cross_entropy(&logits, Dim::LAST, &targets, &CrossEntropy::default())?.loss;
//! assert!((loss.to_vec()?[0] - 4.703_926_6).abs() < 1e-5);
//! # Ok::<(), sumexp::Error>(())
//! ```
//!
//! # What to know
//!
//! - **A [`Device`] is the host, or one GPU and one in-order stream on it.** Operations are enqueued and return; the host
//!   waits where it reads, in [`Tensor::to_vec`]. Everything works without a GPU: [`Device::cpu`] runs the float64
//!   reference, with the same checks and the same errors.
//! - **[`Tensor`]s own memory, [`View`]s borrow it.** A view is any slice, permutation or expansion of a tensor, without a
//!   copy, and every operation takes views of any strides. Results are contiguous.
//! - **Every operation exists twice**: `softmax` allocates its result, `softmax_into` writes where the caller says.
//! - **-inf hides, and so does a [`Mask`].** Hidden entries get probability 0 and gradient 0, whatever bits they hold. A row
//!   with nothing visible is all 0, and its lse is -inf: never NaN. A visible NaN or +inf makes its own row NaN, no other.
//! - **Types tell results apart.** [`Probabilities`], [`LogProbabilities`] and [`Lse`] do not pass for logits: softmax before
//!   cross-entropy does not compile. A dim is a [`Dim`], never a bare number.
//! - **The same bits every time.** A row's result depends on that row alone: not on the batch around it, its alignment, its
//!   strides, or the schedule of the GPU. Sums are accumulated in f32, in f64 where that would show, and rounded once.
//! - **Errors are values.** A bad argument is an [`Error`] before anything is launched or written; bad data that a kernel
//!   meets, such as a target that is no class, is one at the next [`Device::check`] or host copy. Nothing panics.
//! - **Attention never has its scores in memory**, whatever hides keys: [`attention::forward`] takes every [`Mask`], packed
//!   sequences, grouped heads and few queries of many keys, and [`attention::explain`] says what will run and what it skips.
//! - **Work that repeats can be captured** in a [`Graph`] and launched again and again, with changed contents.
//!
//! # Memory and streams
//!
//! A tensor may be dropped while its device still works on it, from any thread, before or after its device: the memory is
//! given back behind that work. Tensors of two streams do not mix ([`Error::DifferentDevices`]); [`Tensor::to_device`] is
//! the bridge, free of copies on one GPU. Memory of other libraries comes in through [`interop`], their streams through
//! [`Device::from_stream`]; both are `unsafe`, and nothing else is.

mod device;
mod dtype;
mod error;
pub mod interop;
pub mod kernels;
pub mod mask;
mod memory;
mod ops;
pub mod plan;
pub mod reference;
mod shape;
mod tensor;

pub use device::{Device, Graph};
pub use dtype::{DType, Element, Float, bf16, f16};
pub use error::{DeviceName, Error, Result};
pub use mask::Polarity;
pub use ops::attention;
pub use ops::inference::{
    CalibrationBin, CalibrationError, CalibrationOptions, Confidence, ConfidenceInto, ConfidenceOptions,
    FitTemperature, GumbelInto, GumbelOptions, GumbelSoftmax, Random, SampleInto, SampleOptions, Samples, TopK,
    TopKInto, argmax, argmax_into, confidence, confidence_into, expected_calibration_error, fit_temperature,
    gumbel_softmax, gumbel_softmax_into, sample, sample_into, top_k, top_k_into,
};
pub use ops::loss::{
    BinaryCrossEntropy, CrossEntropy, CrossEntropyInto, CrossEntropyOutput, CrossEntropySaved, Direction, KlDivergence,
    NllLoss, ProbabilityTargets, Reduction, Targets, TokenStatistics, TokenStatisticsInto,
    binary_cross_entropy_with_logits, binary_cross_entropy_with_logits_backward,
    binary_cross_entropy_with_logits_backward_into, binary_cross_entropy_with_logits_into, cross_entropy,
    cross_entropy_backward, cross_entropy_backward_into, cross_entropy_gradient, cross_entropy_gradient_into,
    cross_entropy_in_place, cross_entropy_into, cross_entropy_with_gradient, cross_entropy_with_gradient_into,
    distillation_loss, distillation_loss_backward, distillation_loss_backward_into, distillation_loss_into, kl_div,
    kl_div_backward, kl_div_backward_into, kl_div_into, nll_loss, nll_loss_backward, nll_loss_backward_into,
    nll_loss_into,
};
pub use ops::sigmoid::{
    log_sigmoid, log_sigmoid_backward, log_sigmoid_backward_into, log_sigmoid_into, sigmoid, sigmoid_backward,
    sigmoid_backward_into, sigmoid_into,
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
