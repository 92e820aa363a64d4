//! The C interface of sumexp. What it promises stands in `include/sumexp.h`, function by function; this crate holds it to that.
//!
//! Every function has the same walk: [`status::enter`] catches panics and keeps the message of a failure; [`tensor::Operand`]
//! checks what a `DLTensor` says and becomes a view of it; [`device`] finds the device of the operands; the rest is one call of
//! sumexp's public interface, whose checks and errors apply.
//!
//! Structs, codes and the functions' types come from the header itself, which `build.rs` reads.

mod attention;
mod device;
#[allow(missing_docs, non_camel_case_types, non_upper_case_globals, non_snake_case, clippy::all, rustdoc::all)]
mod header {
    //! `sumexp.h`, as Rust.
    include!(concat!(env!("OUT_DIR"), "/header.rs"));
}
mod inference;
mod loss;
mod options;
mod signatures;
mod softmax;
mod status;
mod tensor;

pub use attention::{sumexp_attention_backward, sumexp_attention_forward};
pub use device::{sumexp_check, sumexp_forget_stream};
pub use header::*;
pub use inference::{sumexp_argmax, sumexp_confidence, sumexp_sample};
pub use loss::{
    sumexp_bce_with_logits, sumexp_bce_with_logits_backward, sumexp_cross_entropy, sumexp_cross_entropy_backward,
    sumexp_distillation, sumexp_distillation_backward,
};
pub use options::{sumexp_attention_options_init, sumexp_cross_entropy_options_init, sumexp_sample_options_init};
pub use softmax::{
    sumexp_log_softmax, sumexp_log_softmax_backward, sumexp_logsumexp, sumexp_logsumexp_backward, sumexp_softmax,
    sumexp_softmax_backward,
};
pub use status::{sumexp_last_error, sumexp_version};
