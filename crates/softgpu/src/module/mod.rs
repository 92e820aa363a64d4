//! Module images: PTX text and fatbins to kernels and variables.
