//! From layouts to what the parameter blocks say about memory: positions, operands, the temperature.

use super::params::{ElementRows, Operand, Positions, SUMEXP_POSITION_RANK, Temperature};
use std::ffi::c_void;
use std::ptr;

const RANK: usize = SUMEXP_POSITION_RANK as usize;

/// The rows of a call and how to find them in each operand.
pub(super) struct Walk {
    pub(super) positions: Positions,
    /// Per operand, its strides along the dims of `positions`.
    strides: Vec<[u64; RANK]>,
}

impl Walk {
    /// `sizes` are the lengths of the dims that stay, none of them 0; each operand gives its strides along them. Neighbouring
    /// dims become one where every operand allows it, so that kernels divide less.
    pub(super) fn new(sizes: &[usize], operands: &[&[u64]]) -> Self {
        Self::from_merged(merge(sizes, operands), operands.len())
    }

    fn from_merged(mut merged: Vec<(u64, Vec<u64>)>, operands: usize) -> Self {
        debug_assert!(merged.len() <= RANK);
        if merged.is_empty() {
            merged.push((1, vec![0; operands]));
        }
        let mut positions = Positions { count: 1, sizes: [1; RANK], rank: merged.len() as u32, reserved: 0 };
        let mut strides = vec![[0; RANK]; operands];
        for (dim, (size, here)) in merged.into_iter().enumerate() {
            positions.count *= size;
            positions.sizes[dim] = size;
            here.into_iter().zip(&mut strides).for_each(|(stride, operand)| operand[dim] = stride);
        }
        Self { positions, strides }
    }

    /// The parameter block's description of an operand, numbered as in [`Walk::new`]. `stride` is that along a row.
    pub(super) fn operand(&self, number: usize, address: u64, stride: u64) -> Operand {
        Operand { data: address as *const c_void, strides: self.strides[number], stride }
    }

    /// Whether `bytes` bytes from any row on, in steps of as many, are aligned to `bytes`.
    pub(super) fn aligned(&self, number: usize, address: u64, element: usize, bytes: u64) -> bool {
        let used = &self.strides[number][..self.positions.rank as usize];
        address.is_multiple_of(bytes) && used.iter().all(|stride| stride.wrapping_mul(element as u64) % bytes == 0)
    }

    /// Length and stride of the fastest dim.
    pub(super) fn last_dim(&self, number: usize) -> (u64, u64) {
        let last = self.positions.rank as usize - 1;
        (self.positions.sizes[last], self.strides[number][last])
    }

    /// As [`Walk::aligned`], from every `bytes` bytes of the fastest dim on: its own stride does not matter.
    pub(super) fn aligned_but_last(&self, number: usize, address: u64, element: usize, bytes: u64) -> bool {
        let used = &self.strides[number][..self.positions.rank as usize - 1];
        address.is_multiple_of(bytes) && used.iter().all(|stride| stride.wrapping_mul(element as u64) % bytes == 0)
    }
}

/// The dims as (length, stride per operand), slowest first, without those of length 1. Neighbouring dims become one where every
/// operand allows it. `sizes` holds no 0.
fn merge(sizes: &[usize], operands: &[&[u64]]) -> Vec<(u64, Vec<u64>)> {
    debug_assert!(!sizes.contains(&0));
    let mut merged: Vec<(u64, Vec<u64>)> = Vec::with_capacity(sizes.len());
    for (dim, &size) in sizes.iter().enumerate().filter(|(_, size)| **size > 1) {
        let size = size as u64;
        let here: Vec<u64> = operands.iter().map(|strides| strides[dim]).collect();
        match merged.last_mut() {
            Some((outer_size, outer))
                if outer.iter().zip(&here).all(|(outer, here)| here.checked_mul(size) == Some(*outer)) =>
            {
                (*outer_size, *outer) = (*outer_size * size, here);
            }
            _ => merged.push((size, here)),
        }
    }
    merged
}

/// The elements of an operation on single elements: all dims of the shape, of which the fastest run is the row.
pub(super) struct Elements {
    walk: Walk,
    length: u64,
    /// Per operand, its stride along a row.
    strides: Vec<u64>,
}

impl Elements {
    /// As [`Walk::new`], with every dim of the shape.
    pub(super) fn new(shape: &[usize], operands: &[&[u64]]) -> Self {
        let mut merged = merge(shape, operands);
        // A single element is a row of 1, whose stride does not matter.
        let (length, strides) = merged.pop().unwrap_or_else(|| (1, vec![1; operands.len()]));
        Self { walk: Walk::from_merged(merged, operands.len()), length, strides }
    }

    /// The parameter block's description of the rows.
    pub(super) fn rows(&self) -> ElementRows {
        ElementRows { positions: self.walk.positions, length: self.length }
    }

    /// The parameter block's description of an operand.
    pub(super) fn operand(&self, number: usize, address: u64) -> Operand {
        self.walk.operand(number, address, self.strides[number])
    }

    /// Whether every complete unit of `count` elements (of `element` bytes) is aligned and contiguous in an operand.
    pub(super) fn in_units(&self, number: usize, address: u64, element: usize, count: u64) -> bool {
        let bytes = element as u64 * count;
        self.strides[number] == 1
            && self.walk.aligned(number, address, element, bytes)
            && (self.walk.positions.count == 1 || self.length.is_multiple_of(count))
    }
}

/// An operand that is not there.
pub(super) fn absent() -> Operand {
    Operand { data: ptr::null(), strides: [0; RANK], stride: 0 }
}

/// log2 of the elements that are moved together: the largest power of two that divides the row and fits in 16 bytes.
pub(super) fn unit_log2(length: u64, element: usize) -> u32 {
    length.trailing_zeros().min((16 / element).trailing_zeros())
}

/// The factors of `(x - max) / tau`, see `Temperature` in `kernels/params.h`. `tau` is finite and above 0.
pub(super) fn temperature(tau: f32) -> Temperature {
    let tau = f64::from(tau);
    let exponent = tau.log2().floor() as i32;
    // A large tau is taken from the logits before they are subtracted, a tiny one from the difference.
    let pre = 2f64.powi(-exponent.clamp(0, 126));
    let post = 2f64.powi((-exponent).clamp(0, 96));
    let split = |factor: f64| {
        let high = factor as f32;
        (high, (factor - f64::from(high)) as f32)
    };
    let (log2_high, log2_low) = split(std::f64::consts::LOG2_E / (tau * pre * post));
    let (natural_high, natural_low) = split(1.0 / (tau * pre * post));
    Temperature { pre: pre as f32, post: post as f32, log2_high, log2_low, natural_high, natural_low }
}

/// 1 / tau as a product of two floats: the inverse of a subnormal tau alone would overflow.
pub(super) fn inverse_temperature(tau: f32) -> (f32, f32) {
    let inverse = 1.0 / f64::from(tau);
    let rest = if inverse > f64::from(f32::MAX) / 2.0 { 2f64.powi(30) } else { 1.0 };
    ((inverse / rest) as f32, rest as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dims_that_continue_each_other_become_one() {
        let walk = Walk::new(&[2, 3, 1, 4], &[&[12, 4, 0, 1], &[3, 1, 0, 0]]);
        assert_eq!((walk.positions.rank, walk.positions.count), (2, 24));
        assert_eq!(walk.positions.sizes[..2], [6, 4]);
        assert_eq!(walk.operand(0, 0, 1).strides[..2], [4, 1]);
        assert_eq!(walk.operand(1, 0, 1).strides[..2], [1, 0]);
    }

    #[test]
    fn no_dims_are_one_position() {
        let walk = Walk::new(&[], &[&[]]);
        assert_eq!((walk.positions.rank, walk.positions.count, walk.positions.sizes[0]), (1, 1, 1));
    }

    #[test]
    fn elements_are_cut_into_the_longest_runs() {
        let all = Elements::new(&[2, 3, 4], &[&[12, 4, 1], &[12, 4, 1]]);
        assert_eq!((all.rows().positions.count, all.length), (1, 24));
        assert!(all.in_units(0, 256, 4, 4) && !all.in_units(0, 260, 4, 4));
        let repeated = Elements::new(&[2, 3, 4], &[&[12, 4, 1], &[0, 0, 1]]);
        assert_eq!((repeated.rows().positions.count, repeated.length), (6, 4));
        assert!(repeated.in_units(1, 256, 4, 4) && !repeated.in_units(1, 256, 2, 8));
        assert_eq!(Elements::new(&[1, 1], &[&[0, 0]]).length, 1);
        let eight = [2; 8];
        let reversed = Elements::new(&eight, &[&[1, 2, 4, 8, 16, 32, 64, 128]]);
        assert_eq!((reversed.rows().positions.rank, reversed.length, reversed.strides[0]), (7, 2, 128));
    }

    #[test]
    fn alignment_is_that_of_every_row() {
        let walk = Walk::new(&[4, 2], &[&[100, 8], &[64, 8]]);
        assert!(!walk.aligned(0, 256, 2, 16) && walk.aligned(0, 256, 2, 8));
        assert!(walk.aligned(1, 256, 2, 16) && !walk.aligned(1, 258, 2, 16));
    }

    #[test]
    fn temperature_factors_multiply_to_the_inverse_of_tau() {
        for tau in [f32::from_bits(1), 1e-40, f32::MIN_POSITIVE, 1e-5, 0.3, 1.0, 2.0, 7.0, 1e20, f32::MAX] {
            let t = temperature(tau);
            assert!([t.pre, t.post, t.log2_high, t.natural_high].iter().all(|f| f.is_normal()), "{tau:e}: {t:?}");
            let product =
                |high: f32, low: f32| (f64::from(high) + f64::from(low)) * f64::from(t.pre) * f64::from(t.post);
            let error = |got: f64, want: f64| ((got - want) / want).abs();
            let inverse = 1.0 / f64::from(tau);
            assert!(error(product(t.natural_high, t.natural_low), inverse) < 1e-14, "{tau:e}");
            assert!(error(product(t.log2_high, t.log2_low), std::f64::consts::LOG2_E * inverse) < 1e-14, "{tau:e}");
            let (scale, rest) = inverse_temperature(tau);
            assert!(error(f64::from(scale) * f64::from(rest), inverse) < 1e-6 && scale.is_finite(), "{tau:e}");
        }
    }
}
