//! No safe program has undefined behaviour: shown on a GPU that does everything as late as its rules allow.
//!
//! The software GPU runs each stream only when something must wait for it, fills freed memory with poison, never hands
//! out an address twice, and reports what touches memory that it must not touch. So what a program of this folder fails
//! to wait for shows on every run. `README.md` beside this file says which promise is shown where.

#[path = "../common/mod.rs"]
mod common;

mod drops;
mod faults;
mod programs;
mod random;
mod reports;
mod streams;
mod sweep;
mod transfers;
mod types;

use sumexp::{Device, Tensor};

const LEN: usize = 1000;

fn numbers(from: u32) -> Vec<u32> {
    (from..from + LEN as u32).collect()
}

fn upload(device: &Device, from: u32) -> Tensor<u32> {
    Tensor::from_slice(device, &[LEN], &numbers(from)).unwrap()
}

/// A tensor whose contents are still being copied when it is returned.
fn pending(device: &Device, from: u32) -> Tensor<u32> {
    let source = upload(device, from);
    let mut copy = Tensor::zeros(device, &[LEN]).unwrap();
    copy.copy_from(&source).unwrap();
    copy
}
