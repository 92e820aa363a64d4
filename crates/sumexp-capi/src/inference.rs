//! What is asked of logits without a gradient.

use crate::device;
use crate::header::*;
use crate::status::{enter, unsupported};
use crate::tensor::{Operand, with_float};
use std::ffi::c_void;
use sumexp::{ConfidenceInto, ConfidenceOptions, argmax_into, confidence_into};

/// The position of the largest element; see the header.
///
/// # Safety
/// The tensors and the stream must be what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sumexp_argmax(
    x: *const DLTensor,
    dim: i32,
    index: *const DLTensor,
    stream: *mut c_void,
) -> i32 {
    // SAFETY: the caller promises what the header says of tensors and the stream, which is what each call here asks.
    enter("argmax", |op| unsafe {
        let (x, index) = (Operand::new(op, "x", x)?, Operand::new(op, "index", index)?);
        let device = device::of(&x, &[&index], stream)?;
        with_float!(x, T => {
            Ok(argmax_into(x.view::<T>(&device)?, x.dim(dim)?, index.view_mut::<i64>(&device)?)?)
        })
    })
}

/// How sure a softmax is; see the header.
///
/// # Safety
/// The tensors and the stream must be what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sumexp_confidence(
    x: *const DLTensor,
    dim: i32,
    confidence: *const DLTensor,
    margin: *const DLTensor,
    entropy: *const DLTensor,
    stream: *mut c_void,
) -> i32 {
    // SAFETY: the caller promises what the header says of tensors and the stream, which is what each call here asks.
    enter("confidence", |op| unsafe {
        let x = Operand::new(op, "x", x)?;
        let confidence = Operand::new(op, "confidence", confidence)?;
        let (margin, entropy) = (Operand::new(op, "margin", margin)?, Operand::new(op, "entropy", entropy)?);
        let device = device::of(&x, &[&confidence, &margin, &entropy], stream)?;
        Operand::apart(&[&confidence, &margin, &entropy])?;
        let outputs = ConfidenceInto {
            confidence: confidence.view_mut(&device)?,
            margin: margin.view_mut(&device)?,
            entropy: entropy.view_mut(&device)?,
        };
        with_float!(x, T => {
            Ok(confidence_into(x.view::<T>(&device)?, x.dim(dim)?, &ConfidenceOptions::default(), outputs)?)
        })
    })
}

/// Draws one class per row; see the header.
///
/// # Safety
/// The tensors, the options and the stream must be what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sumexp_sample(
    _x: *const DLTensor,
    _options: *const sumexp_sample_options,
    _ids: *const DLTensor,
    _valid: *const DLTensor,
    _stream: *mut c_void,
) -> i32 {
    unsupported("sample")
}
