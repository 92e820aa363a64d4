//! What tests of attention share: problems as numbers, the table of cases, and a naive computation in the same type.

pub mod cases;
pub mod problem;
pub mod same_dtype;
