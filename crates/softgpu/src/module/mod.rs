//! Module images: what `cuModuleLoadData` is given, and how it becomes kernels and variables.

pub mod fatbin;
pub mod image;
pub mod load;
