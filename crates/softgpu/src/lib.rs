//! A software GPU: runs PTX kernels behind the CUDA driver API, and checks every access.

pub mod mem;
