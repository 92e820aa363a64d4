//! The CUDA driver API as C symbols.
//!
//! A program loads this crate's shared library as `libcuda.so` and calls it as it would call NVIDIA's. Every entry goes
//! through [`call::enter`]; what it touches is in [`state`]; work goes through the queues of [`queue`] and is done by
//! [`work`]. Entries that do not exist here answer 801 and say so on stderr ([`unsupported`]).

#![allow(non_snake_case)]

pub mod call;
pub mod capture;
pub mod code;
pub mod context;
pub mod copy;
pub mod device;
pub mod event;
pub mod function;
pub mod graph;
pub mod host;
pub mod inject;
pub mod launch;
pub mod leak;
pub mod lookup;
pub mod memory;
pub mod occupancy;
pub mod pool;
pub mod profile;
pub mod queue;
pub mod state;
pub mod stream;
pub mod tensor;
pub mod thread;
pub mod unsupported;
pub mod work;
