//! Checks that several operations make.

use crate::error::{Error, Result};
use crate::shape::Shape;

/// Refuses two operands of different shapes.
pub(super) fn same_shape(op: &'static str, left: (&'static str, &Shape), right: (&'static str, &Shape)) -> Result<()> {
    if left.1 == right.1 {
        return Ok(());
    }
    let (left_shape, right_shape) = (left.1.dims().to_vec(), right.1.dims().to_vec());
    Err(Error::Shapes { op, left: left.0, left_shape, right: right.0, right_shape })
}

/// Refuses a temperature that is not finite and above 0.
pub(super) fn temperature(op: &'static str, temperature: f32) -> Result<()> {
    if temperature.is_finite() && temperature > 0.0 { Ok(()) } else { Err(Error::Temperature { op, temperature }) }
}
