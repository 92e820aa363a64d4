//! Distillation of a student's logits towards a teacher's.

use crate::device;
use crate::header::*;
use crate::loss::loss;
use crate::options;
use crate::status::{Failure, enter};
use crate::tensor::{Operand, with_float};
use std::ffi::c_void;
use sumexp::{Direction, KlDivergence, distillation_loss_backward_into, distillation_loss_into};

/// The divergence that the header gives a number.
fn direction(op: &str, direction: i32) -> Result<Direction, Failure> {
    match direction {
        0 => Ok(Direction::Forward),
        1 => Ok(Direction::Reverse),
        2 => Ok(Direction::JensenShannon { beta: 0.5 }),
        _ => Err(Failure::new(
            SUMEXP_OPTION,
            format_args!("{op}: direction is {direction}, it must be 0 (forward), 1 (reverse) or 2 (Jensen-Shannon)"),
        )),
    }
}

/// Distillation; see the header.
///
/// # Safety
/// The tensors and the stream must be what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sumexp_distillation(
    student: *const DLTensor,
    teacher: *const DLTensor,
    dim: i32,
    temperature: f32,
    direction: i32,
    reduction: i32,
    loss: *const DLTensor,
    stream: *mut c_void,
) -> i32 {
    // SAFETY: the caller promises what the header says of tensors and the stream, which is what each call here asks.
    enter("distillation", |op| unsafe {
        let reduction = options::reduction(op, reduction)?;
        let options = KlDivergence {
            direction: self::direction(op, direction)?,
            temperature,
            reduction,
            ..KlDivergence::default()
        };
        let (student, teacher) = (Operand::new(op, "student", student)?, Operand::new(op, "teacher", teacher)?);
        let loss = self::loss(op, "loss", loss, reduction)?;
        let device = device::of(&student, &[&teacher, &loss], stream)?;
        with_float!(student, T => {
            let (teacher, loss) = (teacher.view::<T>(&device)?, loss.view_mut::<f32>(&device)?);
            let dim = student.dim(dim)?;
            Ok(distillation_loss_into(student.view::<T>(&device)?, teacher, dim, &options, loss)?)
        })
    })
}

/// Gradient of a distillation; see the header.
///
/// # Safety
/// The tensors and the stream must be what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sumexp_distillation_backward(
    student: *const DLTensor,
    teacher: *const DLTensor,
    dim: i32,
    temperature: f32,
    direction: i32,
    reduction: i32,
    dloss: *const DLTensor,
    dstudent: *const DLTensor,
    stream: *mut c_void,
) -> i32 {
    // SAFETY: the caller promises what the header says of tensors and the stream, which is what each call here asks.
    enter("distillation_backward", |op| unsafe {
        let reduction = options::reduction(op, reduction)?;
        let options = KlDivergence {
            direction: self::direction(op, direction)?,
            temperature,
            reduction,
            ..KlDivergence::default()
        };
        let (student, teacher) = (Operand::new(op, "student", student)?, Operand::new(op, "teacher", teacher)?);
        let dloss = self::loss(op, "dloss", dloss, reduction)?;
        let dstudent = Operand::new(op, "dstudent", dstudent)?;
        let device = device::of(&student, &[&teacher, &dloss, &dstudent], stream)?;
        with_float!(student, T => {
            let (teacher, dloss) = (teacher.view::<T>(&device)?, dloss.view::<f32>(&device)?);
            let (dim, dstudent) = (student.dim(dim)?, dstudent.view_mut::<T>(&device)?);
            Ok(distillation_loss_backward_into(student.view::<T>(&device)?, teacher, dim, dloss, &options, dstudent)?)
        })
    })
}
