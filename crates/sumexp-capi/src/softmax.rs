//! softmax, log-softmax and logsumexp, forward and backward.

use crate::device;
use crate::header::*;
use crate::status::{Failure, enter};
use crate::tensor::{Operand, with_float};
use std::ffi::c_void;
use std::iter::once;
use sumexp::{
    Device, Mask, SoftmaxOptions, keep, log_softmax_backward_into, log_softmax_into, logsumexp_backward_into,
    logsumexp_into, softmax_backward_into, softmax_into,
};

/// The options of the softmax family.
///
/// # Safety
/// As [`Operand::view`] for the mask.
unsafe fn options<'a>(
    temperature: f32,
    mask: Option<&Operand>,
    device: &'a Device,
) -> Result<SoftmaxOptions<'a>, Failure> {
    let mask = match mask {
        None => Mask::None,
        // SAFETY: the caller makes the same promise.
        Some(mask) => Mask::Visible(keep(unsafe { mask.view::<u8>(device) }?)),
    };
    Ok(SoftmaxOptions { temperature, mask })
}

macro_rules! forward {
    ($(#[$doc:meta])* $name:ident, $op:literal, $into:ident, $output:ident $(, $element:ty)?) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// The tensors and the stream must be what the header says.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            x: *const DLTensor,
            dim: i32,
            temperature: f32,
            keep: *const DLTensor,
            $output: *const DLTensor,
            stream: *mut c_void,
        ) -> i32 {
            // SAFETY: the caller promises what the header says of tensors and the stream, which is what each call here asks.
            enter($op, |op| unsafe {
                let x = Operand::new(op, "x", x)?;
                let keep = Operand::optional(op, "keep", keep)?;
                let output = Operand::new(op, stringify!($output), $output)?;
                let device = device::of(&x, &keep.iter().chain(once(&output)).collect::<Vec<_>>(), stream)?;
                let options = options(temperature, keep.as_ref(), &device)?;
                with_float!(x, T => {
                    let output = output.view_mut::<forward!(T $($element)?)>(&device)?;
                    Ok($into(x.view::<T>(&device)?, x.dim(dim)?, &options, output)?)
                })
            })
        }
    };
    ($T:ident) => { $T };
    ($T:ident $element:ty) => { $element };
}

forward! {
    /// Probabilities along a dim; see the header.
    sumexp_softmax, "softmax", softmax_into, y
}
forward! {
    /// Logarithms of probabilities along a dim; see the header.
    sumexp_log_softmax, "log_softmax", log_softmax_into, y
}
forward! {
    /// Logarithms of sums of exponentials along a dim; see the header.
    sumexp_logsumexp, "logsumexp", logsumexp_into, lse, f32
}

macro_rules! backward {
    ($(#[$doc:meta])* $name:ident, $op:literal, $into:ident) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// The tensors and the stream must be what the header says.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            y: *const DLTensor,
            dy: *const DLTensor,
            dim: i32,
            temperature: f32,
            dx: *const DLTensor,
            stream: *mut c_void,
        ) -> i32 {
            // SAFETY: the caller promises what the header says of tensors and the stream, which is what each call here asks.
            enter($op, |op| unsafe {
                let (y, dy) = (Operand::new(op, "y", y)?, Operand::new(op, "dy", dy)?);
                let dx = Operand::new(op, "dx", dx)?;
                let device = device::of(&y, &[&dy, &dx], stream)?;
                let options = SoftmaxOptions { temperature, ..SoftmaxOptions::default() };
                with_float!(y, T => {
                    let (dy, dx) = (dy.view::<T>(&device)?, dx.view_mut::<T>(&device)?);
                    Ok($into(y.view::<T>(&device)?, dy, y.dim(dim)?, &options, dx)?)
                })
            })
        }
    };
}

backward! {
    /// Gradient of a softmax; see the header.
    sumexp_softmax_backward, "softmax_backward", softmax_backward_into
}
backward! {
    /// Gradient of a log-softmax; see the header.
    sumexp_log_softmax_backward, "log_softmax_backward", log_softmax_backward_into
}

/// Gradient of a logsumexp; see the header.
///
/// # Safety
/// The tensors and the stream must be what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sumexp_logsumexp_backward(
    x: *const DLTensor,
    lse: *const DLTensor,
    dlse: *const DLTensor,
    dim: i32,
    temperature: f32,
    keep: *const DLTensor,
    dx: *const DLTensor,
    stream: *mut c_void,
) -> i32 {
    // SAFETY: the caller promises what the header says of tensors and the stream, which is what each call here asks.
    enter("logsumexp_backward", |op| unsafe {
        let x = Operand::new(op, "x", x)?;
        let (lse, dlse) = (Operand::new(op, "lse", lse)?, Operand::new(op, "dlse", dlse)?);
        let keep = Operand::optional(op, "keep", keep)?;
        let dx = Operand::new(op, "dx", dx)?;
        let rest: Vec<&Operand> = [&lse, &dlse, &dx].into_iter().chain(&keep).collect();
        let device = device::of(&x, &rest, stream)?;
        lse.view::<f32>(&device)?;
        lse.per_row_of(&x, dim)?;
        Operand::apart(&[&dx, &lse])?;
        let options = options(temperature, keep.as_ref(), &device)?;
        with_float!(x, T => {
            let (dlse, dx) = (dlse.view::<f32>(&device)?, dx.view_mut::<T>(&device)?);
            Ok(logsumexp_backward_into(x.view::<T>(&device)?, dlse, x.dim(dim)?, &options, dx)?)
        })
    })
}
