//! The only launches of the crate: from an operation's numbers to a kernel in the queue.
//!
//! Each operation has one file here. It picks a [`KernelId`], fills the parameter block (a struct that `kernels/params.h`
//! defines once for both languages) with every field named, and calls the one launch function.

pub(crate) mod attention;
mod id;
pub(crate) mod inference;
mod launch;
pub(crate) mod loss;
mod operand;
mod registry;
pub(crate) mod sigmoid;
pub(crate) mod softmax;

pub use id::{KernelId, SoftmaxForm};
pub(crate) use launch::{LaunchShape, launch};

use crate::device::ErrorRecord;
use std::mem::offset_of;

/// The parameter blocks, read from `kernels/params.h` when the crate is built.
#[allow(missing_docs, non_camel_case_types, non_snake_case, non_upper_case_globals, dead_code, clippy::all)]
pub(crate) mod params {
    include!(concat!(env!("OUT_DIR"), "/params.rs"));
}

// The record of bad data is also read by the host, one floor below: both descriptions must agree.
const _: () = {
    assert!(size_of::<params::ErrorRecord>() == size_of::<ErrorRecord>());
    assert!(offset_of!(params::ErrorRecord, op) == offset_of!(ErrorRecord, op));
    assert!(offset_of!(params::ErrorRecord, row) == offset_of!(ErrorRecord, row));
    assert!(offset_of!(params::ErrorRecord, value) == offset_of!(ErrorRecord, value));
    assert!(offset_of!(params::ErrorRecord, limit) == offset_of!(ErrorRecord, limit));
};

mod images {
    include!(concat!(env!("OUT_DIR"), "/images.rs"));
}

/// The compiled kernel files: name of the file without its extension, and the image (a fatbin of machine code and PTX).
pub fn images() -> &'static [(&'static str, &'static [u8])] {
    images::IMAGES
}
