//! The launches around a divergence over some of the classes.

use super::super::operand::Walk;
use super::super::params::{DivergencePickParams, DivergencePlaceParams};
use super::super::{KernelId, launch};
use super::{nll, shape};
use crate::dtype::Float;
use crate::error::Result;
use crate::plan::loss as plan;
use crate::shape::Rows;
use crate::tensor::{View, ViewMut};

fn bits<T: Float>() -> u32 {
    8 * T::DTYPE.size() as u32
}

/// The student's logits of the classes that `indices` name, of which there is at least one. `rows` are the student's; `indices` and
/// `chosen` are contiguous, of its shape with `k` in the place of the length of the dim.
pub(crate) fn divergence_pick<T: Float>(
    op: &'static str,
    student: &View<T>,
    rows: &Rows,
    indices: &View<i64>,
    mut chosen: ViewMut<T>,
) -> Result<()> {
    let mut strides = student.layout().strides().to_vec();
    let stride = strides.remove(rows.position);
    let sizes = student.shape().without(rows.position);
    let walk = Walk::new(sizes.dims(), &[&strides]);
    let elements = chosen.shape().elements();
    let params = DivergencePickParams {
        positions: walk.positions,
        student: walk.operand(0, student.address(), stride),
        indices: indices.address() as *const i64,
        chosen: chosen.address(op, "chosen logits")? as *mut _,
        length: rows.len,
        k: elements / rows.count(),
        inner: rows.inner,
    };
    let id = KernelId::DivergenceTopK { bits: bits::<T>(), backward: false };
    let blocks = shape(plan::chosen(elements), plan::COLLECT_THREADS);
    // SAFETY: the student is a borrowed view whose strides the parameters repeat, no index leads out of its row, and there are as
    // many indices and places as `k` says.
    unsafe { launch(student.device(), id, &blocks, &params) }
}

/// Zeros everywhere in `dstudent`, which is contiguous and has `rows`, but for the gradients of the classes that `indices` name:
/// `chosen`, both contiguous and of its shape with `k` in the place of the length of the dim. There is at least one of them.
pub(crate) fn divergence_place<T: Float>(
    op: &'static str,
    chosen: &View<T>,
    rows: &Rows,
    indices: &View<i64>,
    mut dstudent: ViewMut<T>,
) -> Result<()> {
    nll::zeros(op, chosen.device(), &mut dstudent)?;
    let count = chosen.shape().elements();
    let params = DivergencePlaceParams {
        indices: indices.address() as *const i64,
        chosen: chosen.address() as *const _,
        output: dstudent.address(op, "dstudent")? as *mut _,
        count,
        length: rows.len,
        k: count / rows.count(),
        inner: rows.inner,
    };
    let id = KernelId::DivergenceTopK { bits: bits::<T>(), backward: true };
    // SAFETY: there are `count` indices and gradients, no index leads out of its row, and the output holds the rows.
    unsafe { launch(chosen.device(), id, &shape(plan::chosen(count), plan::COLLECT_THREADS), &params) }
}
