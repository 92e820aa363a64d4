//! The launch of sigmoid, log-sigmoid and their gradients.

use super::operand::{Elements, absent};
use super::params::{LOG_SIGMOID, LOG_SIGMOID_GRADIENT, SIGMOID, SIGMOID_GRADIENT, SigmoidParams};
use super::{KernelId, LaunchShape, launch};
use crate::dtype::Float;
use crate::error::Result;
use crate::plan::elementwise as plan;
use crate::tensor::{View, ViewMut};

/// What is computed.
#[derive(Clone, Copy)]
pub(crate) enum Sigmoid<'a, T> {
    /// sigmoid, or its logarithm
    Forward { log: bool },
    /// The gradient of either, given that of its result, which has the shape of the arguments.
    Backward { log: bool, dy: View<'a, T> },
}

/// Writes the result for `x`, of which there is at least one element, into `output`, which was checked to be contiguous and of
/// the shape of `x`.
pub(crate) fn sigmoid<T: Float>(op: &'static str, x: View<T>, what: Sigmoid<T>, mut output: ViewMut<T>) -> Result<()> {
    let dy = match &what {
        Sigmoid::Forward { .. } => None,
        Sigmoid::Backward { dy, .. } => Some(dy),
    };
    let (dtype, device) = (T::DTYPE, x.device());
    let (element, unit) = (dtype.size(), plan::unit(dtype));
    let mut operands = vec![x.layout().strides()];
    operands.extend(dy.iter().map(|dy| dy.layout().strides()));
    let elements = Elements::new(x.dims(), &operands);
    let units = |number, address| u32::from(elements.in_units(number, address, element, unit));
    let address = output.address(op, "the output")?;
    let params = SigmoidParams {
        rows: elements.rows(),
        input: elements.operand(0, x.address()),
        upstream: dy.map_or_else(absent, |dy| elements.operand(1, dy.address())),
        output: address as *mut _,
        kind: match what {
            Sigmoid::Forward { log: false } => SIGMOID.0,
            Sigmoid::Forward { log: true } => LOG_SIGMOID.0,
            Sigmoid::Backward { log: false, .. } => SIGMOID_GRADIENT.0,
            Sigmoid::Backward { log: true, .. } => LOG_SIGMOID_GRADIENT.0,
        },
        input_units: units(0, x.address()),
        upstream_units: dy.map_or(0, |dy| units(1, dy.address())),
        output_units: u32::from(address % (element as u64 * unit) == 0),
    };
    let blocks = plan::blocks(x.shape().elements(), dtype);
    let shape = LaunchShape { grid: [blocks, 1, 1], block: [plan::THREADS, 1, 1], shared: 0 };
    // SAFETY: `x` and `dy` are borrowed views of one shape whose strides the parameters repeat, and the output was checked to be
    // contiguous and of that shape.
    unsafe { launch(device, KernelId::Sigmoid { dtype }, &shape, &params) }
}
