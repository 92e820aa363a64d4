//! Control of the software GPU from tests: settings, findings, counters.
//!
//! A test program that links this crate and also loads its shared library holds two copies of it, with two sets of
//! statics. The driver lives in the loaded one; [`connect`] therefore goes through exported `softgpu_*` symbols.

pub mod abi;
mod client;
pub mod env;
pub mod export;
mod install;
mod schedules;
pub mod types;
mod words;

pub use client::{ConnectError, Gpu, Profile, connect};
pub use install::{InstallError, install};
pub use schedules::Difference;
pub use types::{Detector, Finding, LaunchRecord, Leak, LeakKind, Streams};
