//! Losses: from logits straight to a number per row and its gradient. Probabilities are never written.

mod binary_cross_entropy;
mod cross_entropy;
mod reduction;
mod targets;

pub use binary_cross_entropy::{
    BinaryCrossEntropy, binary_cross_entropy_with_logits, binary_cross_entropy_with_logits_backward,
    binary_cross_entropy_with_logits_backward_into, binary_cross_entropy_with_logits_into,
};
pub use cross_entropy::{
    CrossEntropy, CrossEntropyInto, CrossEntropyOutput, CrossEntropySaved, cross_entropy, cross_entropy_backward,
    cross_entropy_backward_into, cross_entropy_gradient, cross_entropy_gradient_into, cross_entropy_in_place,
    cross_entropy_into, cross_entropy_with_gradient, cross_entropy_with_gradient_into,
};
pub use reduction::Reduction;
pub use targets::Targets;

use super::common::write;
