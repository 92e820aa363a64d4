//! The CUDA driver API as C symbols.
