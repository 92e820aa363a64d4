//! What tests of attention share: problems as numbers, the table of cases, dense float64 arithmetic, a naive computation in the
//! same type, and problems on devices.

pub mod cases;
pub mod dense;
pub mod on_device;
pub mod plant;
pub mod problem;
pub mod same_dtype;
