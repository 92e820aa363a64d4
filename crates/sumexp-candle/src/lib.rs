//! sumexp for programs that compute with candle.
//!
#![doc = include_str!("../README.md")]

mod attention;
mod binary_cross_entropy;
mod cross_entropy;
#[cfg(feature = "cuda")]
mod cuda;
mod mask;
mod memory;
mod op;
mod reduction;
mod sample;
mod softmax;

pub use attention::{Alibi, Attention, attention_weights, scaled_dot_product_attention};
pub use binary_cross_entropy::{BinaryCrossEntropy, bce_with_logits};
pub use cross_entropy::{CrossEntropy, CrossEntropyOutput, Targets, TokenStatistics, cross_entropy};
pub use mask::{Align, Mask};
pub use reduction::Reduction;
pub use sample::{Random, Samples, sample};
pub use softmax::{SoftmaxOptions, log_softmax, softmax};
pub use sumexp::SampleOptions;

/// Whether a kernel met bad data on a GPU since the last look, such as a target that is no class. Waits for the device only if a
/// kernel that can report was launched in between; a report is returned once. On the host operations report directly.
///
/// candle's `Device::new_cuda` computes on the default stream of the calling thread: ask on the thread that called the operation.
///
/// # Errors
/// [`sumexp::Error::Target`] with the lowest such row, as its text; a failure of the driver.
pub fn check(device: &candle_core::Device) -> candle_core::Result<()> {
    match device {
        #[cfg(feature = "cuda")]
        candle_core::Device::Cuda(device) => cuda::Gpu::new(device)?.check(),
        _ => Ok(()),
    }
}
