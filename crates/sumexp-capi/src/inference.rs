//! What is asked of logits without a gradient.

use crate::device;
use crate::header::*;
use crate::options;
use crate::status::{Failure, enter};
use crate::tensor::{Operand, with_float};
use std::ffi::c_void;
use sumexp::{
    ConfidenceInto, ConfidenceOptions, Random, SampleInto, SampleOptions, argmax_into, confidence_into, sample_into,
};

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
    x: *const DLTensor,
    options: *const sumexp_sample_options,
    ids: *const DLTensor,
    valid: *const DLTensor,
    stream: *mut c_void,
) -> i32 {
    // SAFETY: the caller promises what the header says of tensors, options and the stream, which is what each call here asks.
    enter("sample", |op| unsafe {
        let sumexp_sample_options { temperature, top_k, top_p, min_p, seed, offset, .. } = options::read(op, options)?;
        let top_k = usize::try_from(top_k).map_err(|_| {
            Failure::new(SUMEXP_OPTION, format_args!("{op}: top_k is {top_k}, it must be at least 0 (0 = all)"))
        })?;
        let options = SampleOptions { temperature, top_k: (top_k > 0).then_some(top_k), top_p, min_p };
        let x = Operand::new(op, "x", x)?;
        let (ids, valid) = (Operand::new(op, "ids", ids)?, Operand::new(op, "valid", valid)?);
        let device = device::of(&x, &[&ids, &valid], stream)?;
        Operand::apart(&[&ids, &valid])?;
        let outputs = SampleInto {
            ids: ids.view_mut(&device)?,
            valid: valid.view_mut(&device)?,
            log_probabilities: None,
            kept_mass: None,
        };
        with_float!(x, T => {
            Ok(sample_into(x.view::<T>(&device)?, x.dim(-1)?, &options, Random::Seed { seed, offset }, outputs)?)
        })
    })
}
