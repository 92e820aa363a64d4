//! What is read off logits without a gradient, on every device.

#[path = "../common/mod.rs"]
mod common;

mod argmax;
mod calibration;
mod confidence;
mod frequencies;
mod gumbel;
mod sample;
mod top_k;

use common::arrange::Arrangement::{EveryOther, Offset, Padded, Repeated, Reversed};
use common::cases::{Case, Fill};

/// Rows that lie differently: at every alignment, with strides of every kind, repeated, along every dim of up to 8.
fn layouts() -> Vec<Case> {
    let ordinary = |dims: &[usize]| Case::new(dims, Fill::Ordinary);
    let mut cases = Vec::new();
    for offset in 0..16 {
        cases.extend([40, 72, 1032].map(|len| ordinary(&[3, len]).input(Offset(offset))));
    }
    for input in [Reversed, Padded(1, 6), Padded(8, 8), EveryOther] {
        cases.extend([&[4, 3, 24][..], &[2, 2, 1040], &[3, 130]].map(|dims| ordinary(dims).input(input)));
        cases.push(ordinary(&[3, 20, 6]).along(1).input(input));
    }
    cases.push(ordinary(&[3, 5, 8]).along(1).input(Repeated(2)));
    cases.push(ordinary(&[3, 40]).input(Repeated(1)));
    for dims in [&[6, 7, 5][..], &[3, 5, 2, 4, 3], &[2, 1, 3, 1, 2, 1, 2, 3]] {
        cases.extend((0..dims.len()).map(|dim| ordinary(dims).along(dim)));
    }
    cases
}
