//! The reference: every operation once more, naive and in float64.
//!
//! It is the oracle of the tests and what `Device::cpu()` runs. It shares nothing with the kernels or their plans, so that
//! both cannot make the same mistake, and it may be slow but not clever: a row is read into float64, one function of
//! [`row`] computes it with the formula of the documentation, and the result is rounded once to the output type.
//!
//! [`row`] works on slices of float64 and is what the oracle calls; [`softmax`] and [`cross_entropy`] wrap it for
//! strided operands and run the rows in parallel; [`attention`] does so with rows of scores. What concerns single elements
//! ([`sigmoid`]) does the same with [`Elements`].

pub mod argmax;
pub mod attention;
pub mod binary_cross_entropy;
pub mod confidence;
pub mod cross_entropy;
mod elements;
pub mod philox;
pub mod row;
mod rows;
pub mod sample;
pub mod sigmoid;
pub mod softmax;
mod sum;
pub mod top_k;

pub use elements::Elements;
pub use rows::{Operand, Output, Rows, Visible};
pub use sum::Sum;
