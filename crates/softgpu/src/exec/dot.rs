//! Dot products of packed bytes, and the search for the n-th one bit.

use super::lanes::map3;
use super::{Warp, ops};
use crate::ir::Inst;

/// Bits of `x` of a dot product.
pub mod flag {
    /// The elements of `a` are signed.
    pub const SIGNED_A: u32 = 1;
    /// The elements of `b` are signed.
    pub const SIGNED_B: u32 = 2;
    /// `dp2a.hi`: the upper two bytes of `b`.
    pub const HIGH: u32 = 4;
}

ops! {
    /// `dp4a`: four bytes of `a` times four of `b`, and `c`.
    DP4A = |warp, _, inst, mask| dot(warp, inst, mask, |a, b, x| {
        (0..4).map(|i| field(a, 8 * i, 8, x & flag::SIGNED_A != 0) * field(b, 8 * i, 8, x & flag::SIGNED_B != 0)).sum()
    });
    /// `dp2a`: two halves of `a` times two bytes of `b`, and `c`.
    DP2A = |warp, _, inst, mask| dot(warp, inst, mask, |a, b, x| {
        let b = if x & flag::HIGH != 0 { b >> 16 } else { b };
        (0..2).map(|i| field(a, 16 * i, 16, x & flag::SIGNED_A != 0) * field(b, 8 * i, 8, x & flag::SIGNED_B != 0)).sum()
    });
    /// `fns`
    FNS = |warp, _, inst, mask| map3(warp, inst, mask, nth);
}

/// Bits of a word as a number.
#[inline(always)]
fn field(word: u32, at: u32, bits: u32, signed: bool) -> i64 {
    let up = 64 - bits;
    let value = u64::from(word >> at) << up;
    if signed { value as i64 >> up } else { (value >> up) as i64 }
}

/// `c` plus a sum of products, modulo 2^32.
#[inline(always)]
fn dot(warp: &mut Warp, inst: &Inst, mask: u32, products: impl Fn(u32, u32, u32) -> i64) {
    let x = inst.x;
    map3(warp, inst, mask, |a: u32, b: u32, c: u32| (products(a, b, x) + i64::from(c)) as u32);
}

/// The position of the `|n|`-th one from `base` on, upwards or, for a negative `n`, downwards; all ones if there is none.
/// For 0 it is `base` itself, if that bit is one.
#[inline(always)]
fn nth(word: u32, base: u32, n: i32) -> u32 {
    if base > 31 {
        return u32::MAX;
    }
    if n == 0 {
        return if word >> base & 1 != 0 { base } else { u32::MAX };
    }
    let (mut left, mut at) = (n.unsigned_abs(), base as i32);
    while (0..32).contains(&at) {
        left -= word >> at & 1;
        if left == 0 {
            return at as u32;
        }
        at += n.signum();
    }
    u32::MAX
}
