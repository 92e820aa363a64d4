//! What the tests share: the comparator, reproducible inputs, case tables.
#![allow(dead_code)] // Every test file is a program of its own and uses a part of this.

pub mod arrange;
pub mod attention;
pub mod cases;
pub mod compare;
pub mod device;
pub mod family;
pub mod gpu;
pub mod guard;
pub mod random;
pub mod sparse;
