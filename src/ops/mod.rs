//! The operations: each checks its arguments, allocates what it returns, and enqueues its work.
//!
//! After the check nobody looks at shapes again. An error about an argument comes before anything is allocated, launched or
//! written. On a GPU the call returns when the work is in the queue; the host waits only where it copies a result.

pub mod attention;
mod check;
mod common;
pub mod inference;
pub mod loss;
pub mod sigmoid;
pub mod softmax;
