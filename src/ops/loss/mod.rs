//! Losses: from logits straight to a number per row and its gradient. Probabilities are never written.

mod cross_entropy;
mod targets;

pub use cross_entropy::{
    CrossEntropy, CrossEntropyInto, CrossEntropyOutput, CrossEntropySaved, Reduction, cross_entropy,
    cross_entropy_backward, cross_entropy_backward_into, cross_entropy_into,
};
pub use targets::Targets;
