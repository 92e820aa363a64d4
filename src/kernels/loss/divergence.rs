//! The launches of the divergence of two rows of logits.

use super::super::operand::{Walk, absent, inverse_temperature, temperature, unit_log2};
use super::super::params::{
    DIVERGENCE_FORWARD, DIVERGENCE_JENSEN_SHANNON, DIVERGENCE_REVERSE, DivergenceBackwardParams,
    DivergenceForwardParams, LossCollectParams, TARGETS_NONE, Targets,
};
use super::super::{KernelId, launch};
use super::{Reduce, Sums, finish, partial_sums, shape};
use crate::dtype::Float;
use crate::error::Result;
use crate::plan::loss as plan;
use crate::shape::{Layout, Rows, Shape};
use crate::tensor::{Tensor, View, ViewMut};
use std::ptr;

/// Which divergence of the probabilities of the teacher and the student.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Divergence {
    /// KL(teacher || student).
    Forward,
    /// KL(student || teacher).
    Reverse,
    /// Both, of either and their mixture with this much of the teacher.
    JensenShannon(f32),
}

impl Divergence {
    fn kind(self) -> u32 {
        match self {
            Self::Forward => DIVERGENCE_FORWARD.0,
            Self::Reverse => DIVERGENCE_REVERSE.0,
            Self::JensenShannon(_) => DIVERGENCE_JENSEN_SHANNON.0,
        }
    }

    /// beta and 1 - beta; not read for the others.
    fn shares(self) -> (f32, f32) {
        match self {
            Self::Forward | Self::Reverse => (0.0, 0.0),
            Self::JensenShannon(beta) => (beta, (1.0 - f64::from(beta)) as f32),
        }
    }
}

/// A call, checked: where there are rows they have elements, shapes agree, everything is on one GPU.
pub(crate) struct DivergenceCall<'a, T> {
    pub(crate) op: &'static str,
    pub(crate) student: View<'a, T>,
    /// Of the shape of the student.
    pub(crate) teacher: View<'a, T>,
    pub(crate) rows: Rows,
    pub(crate) divergence: Divergence,
    pub(crate) temperature: f32,
    /// What every loss is multiplied by.
    pub(crate) factor: f64,
}

/// An operand's strides without those along its rows, and the one along them.
fn strides<T: Float>(view: &View<T>, rows: &Rows) -> (Vec<u64>, u64) {
    let mut strides = view.layout().strides().to_vec();
    let stride = strides.remove(rows.position);
    // The stride of a dim of length 1 is stored as 0, but any will do: let it not stand in the way of vector loads.
    (strides, if rows.len == 1 { 1 } else { stride })
}

/// Whether units of operand `number` of `walk` may be loaded whole.
fn in_units<T: Float>(walk: &Walk, number: usize, view: &View<T>, stride: u64, unit_log2: u32) -> u32 {
    let bytes = (T::DTYPE.size() as u64) << unit_log2;
    u32::from(stride == 1 && walk.aligned(number, view.address(), T::DTYPE.size(), bytes))
}

/// The losses, or what becomes of them. There may be no rows.
pub(crate) fn divergence_forward<T: Float>(
    call: &DivergenceCall<T>,
    reduce: Reduce,
    mut loss: ViewMut<f32>,
) -> Result<()> {
    let (op, device, rows) = (call.op, call.student.device(), call.rows.count());
    let loss = loss.address(op, "loss")?;
    if reduce == Reduce::None {
        return if rows == 0 { Ok(()) } else { each_row(call, loss) };
    }
    let mut losses = Tensor::<f32>::unfilled(op, device, Shape::new(op, &[rows as usize])?)?;
    let losses = losses.view_mut().address(op, "losses")?;
    let chunks = plan::chunks(rows);
    let mut partials = partial_sums(op, device, chunks)?;
    let partials = partials.view_mut().address(op, "partial sums")?;
    if rows > 0 {
        each_row(call, losses)?;
        let targets =
            Targets { operand: absent(), classes: 1, ignore_index: 0, has_ignore_index: 0, type_: TARGETS_NONE.0 };
        let params = LossCollectParams {
            positions: Walk::new(&[rows as usize], &[]).positions,
            targets,
            losses: losses as *const f32,
            class_weights: ptr::null(),
            class_weight_stride: 0,
            partials: partials as *mut _,
        };
        // SAFETY: one loss per row was written above; `partials` holds one `LossPartial` per chunk of rows.
        unsafe { launch(device, KernelId::LossCollect, &shape(chunks, plan::COLLECT_THREADS), &params) }?;
    }
    // SAFETY: one `LossPartial` per chunk was written above, the loss was checked to be one element, and the divisor is a
    // borrowed view of one.
    unsafe { finish(op, device, reduce, Sums { partials, chunks, classes: 0, loss, count: 0, weight: 0 }) }
}

/// The loss of every row, of which there is at least one, to this address.
fn each_row<T: Float>(call: &DivergenceCall<T>, losses: u64) -> Result<()> {
    // KL(student || teacher) is that of the two in the other order.
    let (first, second) = match call.divergence {
        Divergence::Reverse => (call.student, call.teacher),
        Divergence::Forward | Divergence::JensenShannon(_) => (call.teacher, call.student),
    };
    let ((first_strides, first_stride), (second_strides, second_stride)) =
        (strides(&first, &call.rows), strides(&second, &call.rows));
    let sizes = call.student.shape().without(call.rows.position);
    let walk = Walk::new(sizes.dims(), &[&first_strides, &second_strides]);
    let unit_log2 = unit_log2(call.rows.len, T::DTYPE.size());
    let (piece, blocks) = plan::divergence(call.rows.len, call.rows.count(), T::DTYPE);
    let (beta, one_minus_beta) = call.divergence.shares();
    let params = DivergenceForwardParams {
        positions: walk.positions,
        first: walk.operand(0, first.address(), first_stride),
        second: walk.operand(1, second.address(), second_stride),
        losses: losses as *mut f32,
        factor: call.factor,
        length: call.rows.len,
        unit_log2,
        first_units: in_units(&walk, 0, &first, first_stride, unit_log2),
        second_units: in_units(&walk, 1, &second, second_stride, unit_log2),
        kind: match call.divergence {
            Divergence::Reverse => DIVERGENCE_FORWARD.0,
            other => other.kind(),
        },
        temperature: temperature(call.temperature),
        beta,
        one_minus_beta,
    };
    let id = KernelId::DivergenceForward { dtype: T::DTYPE, piece };
    // SAFETY: the operands are borrowed views whose strides the parameters repeat, and the caller has room for a loss per row.
    unsafe { launch(call.student.device(), id, &shape(blocks, piece.threads()), &params) }
}

/// Gradient of the student's logits, of which there is at least one. `upstream` has one element per row, if need be by strides
/// of 0.
pub(crate) fn divergence_backward<T: Float>(
    call: &DivergenceCall<T>,
    reduce: Reduce,
    upstream: (u64, &Layout),
    mut dstudent: ViewMut<T>,
) -> Result<()> {
    let ((student_strides, student_stride), (teacher_strides, teacher_stride)) =
        (strides(&call.student, &call.rows), strides(&call.teacher, &call.rows));
    let (upstream, upstream_layout) = upstream;
    let sizes = call.student.shape().without(call.rows.position);
    let walk = Walk::new(sizes.dims(), &[&student_strides, &teacher_strides, upstream_layout.strides()]);
    let (rows, bytes) = (call.rows.count(), T::DTYPE.size());
    let unit_log2 = unit_log2(call.rows.len, bytes);
    let (piece, blocks) = plan::divergence(call.rows.len, rows, T::DTYPE);
    let output = dstudent.address(call.op, "dstudent")?;
    let (beta, one_minus_beta) = call.divergence.shares();
    let (inverse, scale_rest) = inverse_temperature(call.temperature);
    let of_direction = if let Divergence::JensenShannon(_) = call.divergence { f64::from(one_minus_beta) } else { 1.0 };
    let of_mean = if reduce == Reduce::Mean { 1.0 / rows as f64 } else { 1.0 };
    let params = DivergenceBackwardParams {
        positions: walk.positions,
        student: walk.operand(0, call.student.address(), student_stride),
        teacher: walk.operand(1, call.teacher.address(), teacher_stride),
        upstream: walk.operand(2, upstream, 0),
        divisor: reduce.divisor(),
        output: output as *mut _,
        inner: call.rows.inner,
        length: call.rows.len,
        unit_log2,
        student_units: in_units(&walk, 0, &call.student, student_stride, unit_log2),
        teacher_units: in_units(&walk, 1, &call.teacher, teacher_stride, unit_log2),
        // Units divide the length of a row, so all rows of a contiguous output are aligned if the first is.
        output_units: u32::from(output % ((bytes as u64) << unit_log2) == 0),
        kind: call.divergence.kind(),
        beta,
        one_minus_beta,
        temperature: temperature(call.temperature),
        scale: (f64::from(inverse) * call.factor * of_direction * of_mean) as f32,
        scale_rest,
    };
    let id = KernelId::DivergenceBackward { dtype: T::DTYPE, piece };
    // SAFETY: the operands are borrowed views whose strides the parameters repeat, the divisor is one of a single element, and
    // `dstudent` was checked to be contiguous and of the shape of the student.
    unsafe { launch(call.student.device(), id, &shape(blocks, piece.threads()), &params) }
}
