//! Hand-written CUDA kernels for everything that is a log-sum-exp in disguise.

pub mod reference;
