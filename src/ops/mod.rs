//! Operations: check, allocate, launch.

pub mod loss;
