//! What the tests share: the comparator, reproducible inputs, case tables.
#![allow(dead_code)] // Every test file is a program of its own and uses a part of this.

pub mod compare;
pub mod random;
