//! The launches of the loss of log-probabilities.

use super::super::operand::Walk;
use super::super::params::{LossCollectParams, NllBackwardParams, NllForwardParams, NllZerosParams};
use super::super::{KernelId, launch};
use super::cross_entropy::CallTargets;
use super::{Reduce, Sums, finish, partial_sums, shape};
use crate::device::Device;
use crate::dtype::Float;
use crate::error::Result;
use crate::plan::loss as plan;
use crate::shape::{Layout, Rows, Shape};
use crate::tensor::{Tensor, View, ViewMut};
use std::ptr;

/// A call, checked: where there are rows there are classes, shapes agree, everything is on one GPU.
pub(crate) struct NllCall<'a, T> {
    pub(crate) op: &'static str,
    pub(crate) log_probabilities: View<'a, T>,
    pub(crate) targets: CallTargets<'a>,
    /// The class dim.
    pub(crate) rows: Rows,
    /// One number per class.
    pub(crate) class_weights: Option<View<'a, f32>>,
}

impl<T: Float> NllCall<'_, T> {
    fn device(&self) -> &Device {
        self.log_probabilities.device()
    }

    fn sizes(&self) -> Shape {
        self.log_probabilities.shape().without(self.rows.position)
    }

    /// The address of the class weights, or null, and the distance between two of them.
    fn class_weights(&self) -> (*const f32, u64) {
        match &self.class_weights {
            None => (ptr::null(), 0),
            Some(weights) => (weights.address() as *const f32, weights.layout().strides()[0]),
        }
    }

    /// Sums by chunks of the losses (of nothing if their address is 0) and of the weights, into `partials`. There is a row.
    fn collect(&self, losses: u64, partials: u64) -> Result<()> {
        let walk = Walk::new(self.sizes().dims(), &[self.targets.layout.strides()]);
        let (class_weights, class_weight_stride) = self.class_weights();
        let params = LossCollectParams {
            positions: walk.positions,
            targets: self.targets.params(&walk, 0, self.rows.len),
            losses: losses as *const f32,
            class_weights,
            class_weight_stride,
            partials: partials as *mut _,
        };
        let blocks = shape(plan::chunks(self.rows.count()), plan::COLLECT_THREADS);
        // SAFETY: the targets are a borrowed view whose strides the parameters repeat, each is compared with the number of
        // classes, of which there is a weight each; the callers have a loss per row and a `LossPartial` per chunk.
        unsafe { launch(self.device(), KernelId::LossCollect, &blocks, &params) }
    }
}

/// The losses, or what becomes of them. There may be no rows.
pub(crate) fn nll_forward<T: Float>(call: &NllCall<T>, reduce: Reduce, mut loss: ViewMut<f32>) -> Result<()> {
    let (op, device, rows) = (call.op, call.device(), call.rows.count());
    let loss = loss.address(op, "loss")?;
    // The losses of the rows are needed to add them up, even where nobody asked for them.
    let own = if reduce == Reduce::None { 0 } else { rows as usize };
    let mut own = Tensor::<f32>::unfilled(op, device, Shape::new(op, &[own])?)?;
    let losses = if reduce == Reduce::None { loss } else { own.view_mut().address(op, "losses")? };
    let chunks = plan::chunks(rows);
    let mut partials = partial_sums(op, device, chunks)?;
    let partials = partials.view_mut().address(op, "partial sums")?;
    if rows > 0 {
        let mut strides = call.log_probabilities.layout().strides().to_vec();
        let stride = strides.remove(call.rows.position);
        let walk = Walk::new(call.sizes().dims(), &[&strides, call.targets.layout.strides()]);
        let (class_weights, class_weight_stride) = call.class_weights();
        let params = NllForwardParams {
            positions: walk.positions,
            log_probabilities: walk.operand(0, call.log_probabilities.address(), stride),
            targets: call.targets.params(&walk, 1, call.rows.len),
            class_weights,
            class_weight_stride,
            losses: losses as *mut f32,
        };
        let blocks = shape(plan::nll(rows), plan::COLLECT_THREADS);
        // SAFETY: the operands are borrowed views whose strides the parameters repeat, a target is compared with the number of
        // classes before it is used as an index, and there is room for one loss per row.
        unsafe { launch(device, KernelId::NllForward { dtype: T::DTYPE }, &blocks, &params) }?;
        call.collect(losses, partials)?;
    }
    let loss = if reduce == Reduce::None { 0 } else { loss };
    // SAFETY: one `LossPartial` per chunk was written above, the loss (unless null) was checked to be one element, and the
    // divisor is a borrowed view of one.
    unsafe { finish(op, device, reduce, Sums { partials, chunks, classes: call.rows.len, loss, count: 0, weight: 0 }) }
}

/// Fills a contiguous gradient with zeros.
pub(super) fn zeros<T: Float>(op: &'static str, device: &Device, output: &mut ViewMut<T>) -> Result<()> {
    let bytes = output.shape().elements() * T::DTYPE.size() as u64;
    let blocks = shape(plan::nll(bytes.div_ceil(16)), plan::COLLECT_THREADS);
    let params = NllZerosParams { output: output.address(op, "gradient")? as *mut _, bytes };
    // SAFETY: the output is contiguous and of so many bytes.
    unsafe { launch(device, KernelId::NllZeros, &blocks, &params) }
}

/// Gradient of the log-probabilities, of which there is at least one. `upstream` has one element per row, if need be by strides
/// of 0.
pub(crate) fn nll_backward<T: Float>(
    call: &NllCall<T>,
    reduce: Reduce,
    upstream: (u64, &Layout),
    mut output: ViewMut<T>,
) -> Result<()> {
    let (op, device, rows) = (call.op, call.device(), call.rows.count());
    // A sum, which nobody asks for, and what the gradients are multiplied by.
    let mut numbers = Tensor::<f32>::unfilled(op, device, Shape::new(op, &[2])?)?;
    let numbers = numbers.view_mut().address(op, "numbers")?;
    let weight =
        if matches!(reduce, Reduce::Mean | Reduce::MeanOver(_)) { numbers + size_of::<f32>() as u64 } else { 0 };
    if weight != 0 {
        let chunks = plan::chunks(rows);
        let mut partials = partial_sums(op, device, chunks)?;
        let partials = partials.view_mut().address(op, "partial sums")?;
        call.collect(0, partials)?;
        let sums = Sums { partials, chunks, classes: call.rows.len, loss: numbers, count: 0, weight };
        // SAFETY: one `LossPartial` per chunk was written above, the two numbers are the elements of a tensor of two, and the
        // divisor is a borrowed view of one.
        unsafe { finish(op, device, reduce, sums) }?;
    }
    zeros(op, device, &mut output)?;
    let address = output.address(op, "gradient")?;
    let (upstream, upstream_layout) = upstream;
    let walk = Walk::new(call.sizes().dims(), &[call.targets.layout.strides(), upstream_layout.strides()]);
    let (class_weights, class_weight_stride) = call.class_weights();
    let params = NllBackwardParams {
        positions: walk.positions,
        targets: call.targets.params(&walk, 0, call.rows.len),
        class_weights,
        class_weight_stride,
        upstream: walk.operand(1, upstream, 0),
        weight: weight as *const f32,
        output: address as *mut _,
        inner: call.rows.inner,
    };
    let blocks = shape(plan::nll(rows), plan::COLLECT_THREADS);
    // SAFETY: as in the forward launch; the output was checked to be contiguous and of the shape of the log-probabilities.
    unsafe { launch(device, KernelId::NllBackward { dtype: T::DTYPE }, &blocks, &params) }
}
