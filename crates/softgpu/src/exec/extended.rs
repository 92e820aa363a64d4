//! Products with a carry: the links of products of many words.

use super::lanes::Raw;
use super::ops;
use super::warp::{LANES, Warp};
use crate::ir::Inst;

ops! {
    /// `mad.lo.cc.u32`, `madc.lo{.cc}.u32`: `x` bit 0 takes the carry in, bit 1 keeps the carry out.
    MAD_LO_CARRY_32 = |warp, _, inst, mask| mad(warp, inst, mask, |a: u32, b: u32, c: u32, carry: bool| {
        let ((sum, first), carry) = (a.wrapping_mul(b).overflowing_add(c), u32::from(carry));
        (sum.wrapping_add(carry), first | sum.overflowing_add(carry).1)
    });
    /// `mad.hi.cc.u32`, `madc.hi{.cc}.u32`.
    MAD_HI_CARRY_32 = |warp, _, inst, mask| mad(warp, inst, mask, |a: u32, b: u32, c: u32, carry: bool| {
        let high = (u64::from(a) * u64::from(b) >> 32) as u32;
        let ((sum, first), carry) = (high.overflowing_add(c), u32::from(carry));
        (sum.wrapping_add(carry), first | sum.overflowing_add(carry).1)
    });
    /// `mad.lo.cc.u64`, `madc.lo{.cc}.u64`.
    MAD_LO_CARRY_64 = |warp, _, inst, mask| mad(warp, inst, mask, |a: u64, b: u64, c: u64, carry: bool| {
        let ((sum, first), carry) = (a.wrapping_mul(b).overflowing_add(c), u64::from(carry));
        (sum.wrapping_add(carry), first | sum.overflowing_add(carry).1)
    });
    /// `mad.hi.cc.u64`, `madc.hi{.cc}.u64`.
    MAD_HI_CARRY_64 = |warp, _, inst, mask| mad(warp, inst, mask, |a: u64, b: u64, c: u64, carry: bool| {
        let high = (u128::from(a) * u128::from(b) >> 64) as u64;
        let ((sum, first), carry) = (high.overflowing_add(c), u64::from(carry));
        (sum.wrapping_add(carry), first | sum.overflowing_add(carry).1)
    });
}

#[inline(always)]
fn mad<T: Raw>(warp: &mut Warp, inst: &Inst, mask: u32, f: impl Fn(T, T, T, bool) -> (T, bool)) {
    let carry_in = if inst.x & 1 != 0 { warp.carry } else { 0 };
    let (a, b, c) = (T::read(warp, inst.a), T::read(warp, inst.b), T::read(warp, inst.c));
    let (mut out, mut carry_out) = ([T::default(); LANES], 0u32);
    for i in 0..LANES {
        let (value, carry) = f(a[i], b[i], c[i], carry_in >> i & 1 == 1);
        out[i] = value;
        carry_out |= u32::from(carry) << i;
    }
    T::write(warp, inst.d, mask, &out);
    if inst.x & 2 != 0 {
        warp.carry = (carry_out & mask) | (warp.carry & !mask);
    }
}
