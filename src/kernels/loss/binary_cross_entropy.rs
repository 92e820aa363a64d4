//! The launches of binary cross-entropy.

use super::super::operand::{Elements, absent};
use super::super::params::{BinaryBackwardParams, BinaryForwardParams, Operand, SUMEXP_BINARY_UNIT};
use super::super::{KernelId, launch};
use super::{Reduce, Sums, finish, partial_sums, shape};
use crate::dtype::Float;
use crate::error::Result;
use crate::plan::loss as plan;
use crate::shape::Layout;
use crate::tensor::{View, ViewMut};
use std::ptr;

// What the kernels were compiled with is what the plans count with.
const _: () = assert!(SUMEXP_BINARY_UNIT as u64 == plan::BINARY_UNIT);

/// Logits, targets and weights of a call. Checked: shapes agree, everything is on one GPU.
pub(crate) struct BinaryCall<'a, T> {
    pub(crate) op: &'static str,
    pub(crate) logits: View<'a, T>,
    /// Of the shape of the logits.
    pub(crate) targets: View<'a, T>,
    /// Address of the weights, and their layout over the shape of the logits.
    pub(crate) weight: Option<(u64, Layout)>,
    /// As `weight`, of the event's happening.
    pub(crate) pos_weight: Option<(u64, Layout)>,
}

/// The elements of a call and what the parameter blocks say about its operands.
struct Operands {
    elements: Elements,
    logits: Operand,
    targets: Operand,
    weight: Operand,
    pos_weight: Operand,
    logit_units: u32,
    target_units: u32,
}

impl<T: Float> BinaryCall<'_, T> {
    /// `further` are the strides of an operand beyond those of the call; it has number 0.
    fn operands(&self, further: &[u64]) -> Operands {
        let weights = [&self.weight, &self.pos_weight];
        let mut strides = vec![further, self.logits.layout().strides(), self.targets.layout().strides()];
        strides.extend(weights.into_iter().flatten().map(|(_, layout)| layout.strides()));
        let elements = Elements::new(self.logits.dims(), &strides);
        let mut number = 2;
        let [weight, pos_weight] = weights.map(|weight| match weight {
            None => absent(),
            Some((address, _)) => {
                number += 1;
                elements.operand(number, *address)
            }
        });
        let units = |number, address| u32::from(elements.in_units(number, address, T::DTYPE.size(), plan::BINARY_UNIT));
        let [logits, targets] = [self.logits.address(), self.targets.address()];
        Operands {
            logits: elements.operand(1, logits),
            targets: elements.operand(2, targets),
            weight,
            pos_weight,
            logit_units: units(1, logits),
            target_units: units(2, targets),
            elements,
        }
    }
}

/// Whether every unit of a contiguous output is aligned.
fn aligned(address: u64, element: usize) -> u32 {
    u32::from(address.is_multiple_of(element as u64 * plan::BINARY_UNIT))
}

/// The losses, one per element or a single one. There may be no elements.
pub(crate) fn binary_cross_entropy_forward<T: Float>(
    call: &BinaryCall<T>,
    reduce: Reduce,
    mut loss: ViewMut<f32>,
) -> Result<()> {
    let (op, device, elements) = (call.op, call.logits.device(), call.logits.shape().elements());
    let apart = reduce == Reduce::None;
    let loss = loss.address(op, "loss")?;
    let chunks = plan::chunks(elements);
    let mut partials = partial_sums(op, device, if apart { 0 } else { chunks })?;
    let partials = partials.view_mut().address(op, "partial sums")?;
    if elements > 0 {
        let operands = call.operands(call.logits.layout().strides());
        let params = BinaryForwardParams {
            rows: operands.elements.rows(),
            logits: operands.logits,
            targets: operands.targets,
            weight: operands.weight,
            pos_weight: operands.pos_weight,
            losses: if apart { loss as *mut f32 } else { ptr::null_mut() },
            partials: if apart { ptr::null_mut() } else { partials as *mut _ },
            logit_units: operands.logit_units,
            target_units: operands.target_units,
            loss_units: aligned(loss, size_of::<f32>()),
            reserved: 0,
        };
        let id = KernelId::BinaryCrossEntropyForward { dtype: T::DTYPE };
        // SAFETY: logits, targets and weights are borrowed views whose strides the parameters repeat; the losses were checked to
        // be one per element and contiguous, or else there is one `LossPartial` per chunk of elements.
        unsafe { launch(device, id, &shape(plan::binary_chunks(elements), plan::COLLECT_THREADS), &params) }?;
    }
    if apart {
        return Ok(());
    }
    // SAFETY: one `LossPartial` per chunk was written above, the loss was checked to be one element, and the divisor
    // is a borrowed view of one.
    unsafe { finish(op, device, reduce, Sums { partials, chunks, classes: 0, loss, count: 0, weight: 0 }) }
}

/// The gradient of the logits, of which there is at least one. `upstream` has one element per loss, if need be by strides of 0.
pub(crate) fn binary_cross_entropy_backward<T: Float>(
    call: &BinaryCall<T>,
    upstream: (u64, &Layout),
    reduce: Reduce,
    mut dlogits: ViewMut<T>,
) -> Result<()> {
    let (address, layout) = upstream;
    let operands = call.operands(layout.strides());
    let output = dlogits.address(call.op, "dlogits")?;
    let elements = call.logits.shape().elements();
    let params = BinaryBackwardParams {
        rows: operands.elements.rows(),
        logits: operands.logits,
        targets: operands.targets,
        weight: operands.weight,
        pos_weight: operands.pos_weight,
        upstream: operands.elements.operand(0, address),
        output: output as *mut _,
        logit_units: operands.logit_units,
        target_units: operands.target_units,
        upstream_units: u32::from(operands.elements.in_units(0, address, size_of::<f32>(), plan::BINARY_UNIT)),
        output_units: aligned(output, T::DTYPE.size()),
        divisor: reduce.divisor(),
        scale: if reduce == Reduce::Mean { (1.0 / elements as f64) as f32 } else { 1.0 },
        reserved: 0,
    };
    let blocks = plan::binary_backward(elements);
    let id = KernelId::BinaryCrossEntropyBackward { dtype: T::DTYPE };
    // SAFETY: as in the forward launch; `upstream` has the layout that the parameters repeat, and `dlogits` was checked to be
    // contiguous and of the shape of the logits; the divisor is a borrowed view of one element.
    unsafe { launch(call.logits.device(), id, &shape(blocks, plan::COLLECT_THREADS), &params) }
}
