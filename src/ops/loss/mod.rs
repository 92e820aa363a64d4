//! Losses: from logits straight to a number per row and its gradient. Probabilities are never written.

mod binary_cross_entropy;
mod cross_entropy;
mod divergence;
mod nll;
mod reduction;
mod targets;

pub use binary_cross_entropy::{
    BinaryCrossEntropy, binary_cross_entropy_with_logits, binary_cross_entropy_with_logits_backward,
    binary_cross_entropy_with_logits_backward_into, binary_cross_entropy_with_logits_into,
};
pub use cross_entropy::{
    CrossEntropy, CrossEntropyInto, CrossEntropyOutput, CrossEntropySaved, TokenStatistics, TokenStatisticsInto,
    cross_entropy, cross_entropy_backward, cross_entropy_backward_into, cross_entropy_gradient,
    cross_entropy_gradient_into, cross_entropy_in_place, cross_entropy_into, cross_entropy_with_gradient,
    cross_entropy_with_gradient_into,
};
pub use divergence::{
    Direction, KlDivergence, distillation_loss, distillation_loss_backward, distillation_loss_backward_into,
    distillation_loss_into, kl_div, kl_div_backward, kl_div_backward_into, kl_div_into,
};
pub use nll::{NllLoss, nll_loss, nll_loss_backward, nll_loss_backward_into, nll_loss_into};
pub use reduction::Reduction;
pub use targets::{ProbabilityTargets, Targets};

use super::common::write;
