//! The only launches of the crate: from an operation's numbers to a kernel in the queue.
//!
//! Each operation has one file here. It picks a [`KernelId`], fills the parameter block (a struct that `kernels/params.h`
//! defines once for both languages) with every field named, and calls the one launch function.

mod id;
mod launch;
mod registry;

pub use id::KernelId;
pub(crate) use launch::{LaunchShape, launch};

/// The parameter blocks, read from `kernels/params.h` when the crate is built.
#[allow(missing_docs, non_camel_case_types, non_snake_case, non_upper_case_globals, dead_code, clippy::all)]
pub(crate) mod params {
    include!(concat!(env!("OUT_DIR"), "/params.rs"));
}

mod images {
    include!(concat!(env!("OUT_DIR"), "/images.rs"));
}

/// The compiled kernel files: name of the file without its extension, and the image (a fatbin of machine code and PTX).
pub fn images() -> &'static [(&'static str, &'static [u8])] {
    images::IMAGES
}
