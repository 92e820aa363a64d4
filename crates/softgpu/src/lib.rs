//! A software GPU: runs PTX kernels behind the CUDA driver API, and checks every access.
//!
//! PTX text becomes statements ([`ptx`]), statements become fixed-size instructions over register slots ([`ir`]), and
//! warps of 32 lanes execute those one operation at a time. [`launch::run`] is the whole path of one kernel launch;
//! the driver API is a layer above it.

// Lane loops index several arrays by the lane; bit fields read better without parentheses around every shift; and an
// ordered `a < b || a > b` is not `a != b`, which is true of NaN.
#![allow(clippy::needless_range_loop, clippy::precedence, clippy::double_comparisons)]

pub mod check;
pub mod count;
pub mod ctl;
pub mod driver;
pub(crate) mod exec;
pub mod ir;
pub mod launch;
pub mod mem;
pub mod module;
pub mod num;
pub mod ptx;
pub(crate) mod sched;

pub use ctl::{InstallError, install};
