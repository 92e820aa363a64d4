//! Attention: part of the interface, not of this version.

use crate::header::*;
use crate::status::unsupported;
use std::ffi::c_void;

/// Attention; see the header.
///
/// # Safety
/// Nothing is read or written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sumexp_attention_forward(
    _q: *const DLTensor,
    _k: *const DLTensor,
    _v: *const DLTensor,
    _options: *const sumexp_attention_options,
    _out: *const DLTensor,
    _lse: *const DLTensor,
    _weights: *const DLTensor,
    _stream: *mut c_void,
) -> i32 {
    unsupported("attention_forward")
}

/// Gradient of attention; see the header.
///
/// # Safety
/// Nothing is read or written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sumexp_attention_backward(
    _q: *const DLTensor,
    _k: *const DLTensor,
    _v: *const DLTensor,
    _out: *const DLTensor,
    _lse: *const DLTensor,
    _dout: *const DLTensor,
    _dlse: *const DLTensor,
    _options: *const sumexp_attention_options,
    _dq: *const DLTensor,
    _dk: *const DLTensor,
    _dv: *const DLTensor,
    _dbias: *const DLTensor,
    _stream: *mut c_void,
) -> i32 {
    unsupported("attention_backward")
}
