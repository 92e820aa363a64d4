//! The executable form of a kernel, and the way from PTX statements to it.

pub(crate) mod decode;
mod inst;
mod kernel;

pub use inst::{Class, Inst, Kind};
pub use kernel::{Fill, Kernel, Param, SharedLayout, SharedVariable, Source, Special, Unsupported};
