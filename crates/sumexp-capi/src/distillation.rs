//! Distillation of a student's logits towards a teacher's.

use crate::header::*;
use crate::status::unsupported;
use std::ffi::c_void;

/// Distillation; see the header.
///
/// # Safety
/// The tensors and the stream must be what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sumexp_distillation(
    _student: *const DLTensor,
    _teacher: *const DLTensor,
    _dim: i32,
    _temperature: f32,
    _direction: i32,
    _reduction: i32,
    _loss: *const DLTensor,
    _stream: *mut c_void,
) -> i32 {
    unsupported("distillation")
}

/// Gradient of a distillation; see the header.
///
/// # Safety
/// The tensors and the stream must be what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sumexp_distillation_backward(
    _student: *const DLTensor,
    _teacher: *const DLTensor,
    _dim: i32,
    _temperature: f32,
    _direction: i32,
    _reduction: i32,
    _dloss: *const DLTensor,
    _dstudent: *const DLTensor,
    _stream: *mut c_void,
) -> i32 {
    unsupported("distillation_backward")
}
