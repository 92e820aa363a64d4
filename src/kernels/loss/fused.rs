//! The launches of cross-entropy together with its gradient.

use super::super::operand::{absent, inverse_temperature};
use super::super::params::CrossEntropyFusedParams;
use super::super::{KernelId, LaunchShape, launch};
use super::cross_entropy::{PerRow, collect, reduced};
use super::{Call, Outputs, Reduce, Sums, finish, partial_sums};
use crate::dtype::Float;
use crate::error::Result;
use crate::plan::loss as plan;
use crate::shape::Layout;
use crate::tensor::{View, ViewMut};
use std::marker::PhantomData;

/// Where the gradient goes: to memory of its own, or over the logits. Contiguous, of the shape of the logits.
pub(crate) struct Destination<'a, T> {
    address: u64,
    memory: PhantomData<&'a mut T>,
}

impl<'a, T: Float> Destination<'a, T> {
    /// A view that does not overlap the logits.
    pub(crate) fn beside(op: &'static str, dlogits: &'a mut ViewMut<'_, T>) -> Result<Self> {
        Ok(Self { address: dlogits.address(op, "dlogits")?, memory: PhantomData })
    }

    /// The logits themselves, which must be contiguous. The view of them is for the call that writes there, and nothing else.
    pub(crate) fn over(op: &'static str, logits: &'a mut ViewMut<'_, T>) -> Result<(View<'a, T>, Self)> {
        let address = logits.address(op, "logits")?;
        Ok((logits.as_view(), Self { address, memory: PhantomData }))
    }
}

/// Losses, lse, count, saved state and the gradient of the logits by one kernel that reads a row once where it fits on a
/// multiprocessor. The class dim must be the last one. `upstream` has one element per row, if need be by strides of 0, or is 1.
pub(crate) fn cross_entropy_fused<T: Float>(
    call: &Call<T>,
    reduce: Reduce,
    outputs: Outputs,
    upstream: Option<(u64, &Layout)>,
    dlogits: Destination<T>,
) -> Result<()> {
    debug_assert_eq!(call.rows.inner, 1, "classes along the last dim");
    reduced(call, reduce, outputs, |per_row| {
        let weight = weight(call, reduce, per_row)?;
        let device = call.device();
        let (logit_strides, stride) = call.logit_strides();
        let walk = call.walk_with(&logit_strides, upstream);
        let forward = call.forward_params(&walk, stride, per_row);
        let caps = device.capabilities().expect("the logits are on a GPU");
        let dense = call.dense() || !per_row.statistics.nll.is_null();
        let plan = plan::fused(call.rows.len, call.rows.count(), T::DTYPE, dense, &caps);
        let (scale, scale_rest) = inverse_temperature(call.temperature);
        let params = CrossEntropyFusedParams {
            forward,
            upstream: upstream.map_or_else(absent, |(address, _)| walk.operand(2, address, 0)),
            weight: weight as *const f32,
            output: dlogits.address as *mut _,
            stashed: plan.stashed,
            // Units divide the length of a row, so all rows of a contiguous output are aligned if the first is.
            output_units: u32::from(dlogits.address.is_multiple_of((T::DTYPE.size() as u64) << forward.unit_log2)),
            scale,
            scale_rest,
        };
        let id = KernelId::CrossEntropyFused { dtype: T::DTYPE, dense, piece: plan.piece };
        let shape = LaunchShape { grid: [plan.blocks, 1, 1], block: [plan.piece.threads(), 1, 1], shared: plan.shared };
        // SAFETY: operands and outputs as in the launch of the forward kernel; `upstream` has the layout that the parameters
        // repeat; the destination is as many elements as the logits are, and either these very elements, of which the kernel
        // reads each row before it writes it, or apart from them. `stashed` pieces are what `shared` has room for.
        unsafe { launch(device, id, &shape, &params) }
    })
}

/// The address of what every upstream gradient is multiplied by, or null for 1. The kernel needs it before the losses are
/// added up, so the targets are counted first.
fn weight<T: Float>(call: &Call<T>, reduce: Reduce, per_row: PerRow) -> Result<u64> {
    let (op, device, rows) = (call.op, call.device(), call.rows.count());
    let chunks = match reduce {
        Reduce::None | Reduce::Sum => return Ok(0),
        Reduce::Mean => plan::chunks(rows),
        Reduce::MeanOver(_) => 0,
    };
    let mut partials = partial_sums(op, device, chunks)?;
    let partials = partials.view_mut().address(op, "partial sums")?;
    if chunks > 0 {
        // SAFETY: no losses are read, and `partials` holds one `LossPartial` per chunk of rows.
        unsafe { collect(call, 0, partials) }?;
    }
    let weight = per_row.weight(rows);
    let sums = Sums { partials, chunks, classes: call.rows.len, loss: 0, count: 0, weight };
    // SAFETY: `partials` as above; `weight` is the last element of `saved`, and the divisor a borrowed view of one element.
    unsafe { finish(op, device, reduce, sums) }?;
    Ok(weight)
}
