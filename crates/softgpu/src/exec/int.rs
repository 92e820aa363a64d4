//! Integer arithmetic, logic, shifts and moves.
//!
//! Values of 16 bits are zero-extended in their lane; the `Lane` types `u16` and `i16` see to that. No input panics the
//! host: arithmetic wraps, shift counts are compared with the width, and division by zero has a defined result.

use super::lanes::{Raw, map1, map2, map3};
use super::{LANES, Warp, ops};
use crate::ir::Inst;

ops! {
    ADD_16 = |warp, _, inst, mask| map2(warp, inst, mask, u16::wrapping_add);
    ADD_32 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u32, b: u32| a.wrapping_add(b));
    ADD_64 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u64, b: u64| a.wrapping_add(b));
    ADD_SAT_S32 = |warp, _, inst, mask| map2(warp, inst, mask, |a: i32, b: i32| a.saturating_add(b));
    ADD_16X2 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u32, b: u32| halves(a, b, u16::wrapping_add));
    SUB_16 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u16, b: u16| a.wrapping_sub(b));
    SUB_32 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u32, b: u32| a.wrapping_sub(b));
    SUB_64 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u64, b: u64| a.wrapping_sub(b));
    SUB_SAT_S32 = |warp, _, inst, mask| map2(warp, inst, mask, |a: i32, b: i32| a.saturating_sub(b));

    MUL_LO_16 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u16, b: u16| a.wrapping_mul(b));
    MUL_LO_32 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u32, b: u32| a.wrapping_mul(b));
    MUL_LO_64 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u64, b: u64| a.wrapping_mul(b));
    MUL_HI_U16 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u16, b: u16| (u32::from(a) * u32::from(b) >> 16) as u16);
    MUL_HI_S16 = |warp, _, inst, mask| map2(warp, inst, mask, |a: i16, b: i16| (i32::from(a) * i32::from(b) >> 16) as i16);
    MUL_HI_U32 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u32, b: u32| (wide_u32(a, b) >> 32) as u32);
    MUL_HI_S32 = |warp, _, inst, mask| map2(warp, inst, mask, |a: i32, b: i32| (wide_s32(a, b) >> 32) as i32);
    MUL_HI_U64 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u64, b: u64| (u128::from(a) * u128::from(b) >> 64) as u64);
    MUL_HI_S64 = |warp, _, inst, mask| map2(warp, inst, mask, |a: i64, b: i64| (i128::from(a) * i128::from(b) >> 64) as i64);
    MUL_WIDE_U16 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u16, b: u16| u32::from(a) * u32::from(b));
    MUL_WIDE_S16 = |warp, _, inst, mask| map2(warp, inst, mask, |a: i16, b: i16| i32::from(a) * i32::from(b));
    MUL_WIDE_U32 = |warp, _, inst, mask| map2(warp, inst, mask, wide_u32);
    MUL_WIDE_S32 = |warp, _, inst, mask| map2(warp, inst, mask, wide_s32);

    MAD_LO_16 = |warp, _, inst, mask| map3(warp, inst, mask, |a: u16, b: u16, c: u16| a.wrapping_mul(b).wrapping_add(c));
    MAD_LO_32 = |warp, _, inst, mask| map3(warp, inst, mask, |a: u32, b: u32, c: u32| a.wrapping_mul(b).wrapping_add(c));
    MAD_LO_64 = |warp, _, inst, mask| map3(warp, inst, mask, |a: u64, b: u64, c: u64| a.wrapping_mul(b).wrapping_add(c));
    MAD_HI_U32 = |warp, _, inst, mask| map3(warp, inst, mask, |a: u32, b: u32, c: u32| ((wide_u32(a, b) >> 32) as u32).wrapping_add(c));
    MAD_HI_S32 = |warp, _, inst, mask| map3(warp, inst, mask, |a: i32, b: i32, c: i32| ((wide_s32(a, b) >> 32) as i32).wrapping_add(c));
    MAD_HI_U64 = |warp, _, inst, mask| map3(warp, inst, mask, |a: u64, b: u64, c: u64| ((u128::from(a) * u128::from(b) >> 64) as u64).wrapping_add(c));
    MAD_HI_S64 = |warp, _, inst, mask| map3(warp, inst, mask, |a: i64, b: i64, c: i64| ((i128::from(a) * i128::from(b) >> 64) as i64).wrapping_add(c));
    MAD_WIDE_U16 = |warp, _, inst, mask| map3(warp, inst, mask, |a: u16, b: u16, c: u32| (u32::from(a) * u32::from(b)).wrapping_add(c));
    MAD_WIDE_S16 = |warp, _, inst, mask| map3(warp, inst, mask, |a: i16, b: i16, c: i32| (i32::from(a) * i32::from(b)).wrapping_add(c));
    MAD_WIDE_U32 = |warp, _, inst, mask| map3(warp, inst, mask, |a: u32, b: u32, c: u64| wide_u32(a, b).wrapping_add(c));
    MAD_WIDE_S32 = |warp, _, inst, mask| map3(warp, inst, mask, |a: i32, b: i32, c: i64| wide_s32(a, b).wrapping_add(c));

    // 24 bits of each factor; the upper part of their product begins at bit 16.
    MUL24_LO_U32 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u32, b: u32| product_24(a, b) as u32);
    MUL24_LO_S32 = |warp, _, inst, mask| map2(warp, inst, mask, |a: i32, b: i32| product_s24(a, b) as i32);
    MUL24_HI_U32 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u32, b: u32| (product_24(a, b) >> 16) as u32);
    MUL24_HI_S32 = |warp, _, inst, mask| map2(warp, inst, mask, |a: i32, b: i32| (product_s24(a, b) >> 16) as i32);
    MAD24_LO_U32 = |warp, _, inst, mask| map3(warp, inst, mask, |a: u32, b: u32, c: u32| (product_24(a, b) as u32).wrapping_add(c));
    MAD24_LO_S32 = |warp, _, inst, mask| map3(warp, inst, mask, |a: i32, b: i32, c: i32| (product_s24(a, b) as i32).wrapping_add(c));
    MAD24_HI_U32 = |warp, _, inst, mask| map3(warp, inst, mask, |a: u32, b: u32, c: u32| ((product_24(a, b) >> 16) as u32).wrapping_add(c));
    MAD24_HI_S32 = |warp, _, inst, mask| map3(warp, inst, mask, |a: i32, b: i32, c: i32| ((product_s24(a, b) >> 16) as i32).wrapping_add(c));
    MAD24_HI_SAT_S32 = |warp, _, inst, mask| map3(warp, inst, mask, |a: i32, b: i32, c: i32| ((product_s24(a, b) >> 16) as i32).saturating_add(c));
    MAD_HI_SAT_S32 = |warp, _, inst, mask| map3(warp, inst, mask, |a: i32, b: i32, c: i32| ((wide_s32(a, b) >> 32) as i32).saturating_add(c));

    // Division by zero: all ones, and the remainder is the dividend, as unsigned hardware division leaves them.
    DIV_U16 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u16, b: u16| a.checked_div(b).unwrap_or(u16::MAX));
    DIV_S16 = |warp, _, inst, mask| map2(warp, inst, mask, |a: i16, b: i16| if b == 0 { -1 } else { a.wrapping_div(b) });
    DIV_U32 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u32, b: u32| a.checked_div(b).unwrap_or(u32::MAX));
    DIV_S32 = |warp, _, inst, mask| map2(warp, inst, mask, |a: i32, b: i32| if b == 0 { -1 } else { a.wrapping_div(b) });
    DIV_U64 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u64, b: u64| a.checked_div(b).unwrap_or(u64::MAX));
    DIV_S64 = |warp, _, inst, mask| map2(warp, inst, mask, |a: i64, b: i64| if b == 0 { -1 } else { a.wrapping_div(b) });
    REM_U16 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u16, b: u16| a.checked_rem(b).unwrap_or(a));
    REM_S16 = |warp, _, inst, mask| map2(warp, inst, mask, |a: i16, b: i16| if b == 0 { a } else { a.wrapping_rem(b) });
    REM_U32 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u32, b: u32| a.checked_rem(b).unwrap_or(a));
    REM_S32 = |warp, _, inst, mask| map2(warp, inst, mask, |a: i32, b: i32| if b == 0 { a } else { a.wrapping_rem(b) });
    REM_U64 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u64, b: u64| a.checked_rem(b).unwrap_or(a));
    REM_S64 = |warp, _, inst, mask| map2(warp, inst, mask, |a: i64, b: i64| if b == 0 { a } else { a.wrapping_rem(b) });

    NEG_16 = |warp, _, inst, mask| map1(warp, inst, mask, i16::wrapping_neg);
    NEG_32 = |warp, _, inst, mask| map1(warp, inst, mask, i32::wrapping_neg);
    NEG_64 = |warp, _, inst, mask| map1(warp, inst, mask, i64::wrapping_neg);
    ABS_16 = |warp, _, inst, mask| map1(warp, inst, mask, i16::wrapping_abs);
    ABS_32 = |warp, _, inst, mask| map1(warp, inst, mask, i32::wrapping_abs);
    ABS_64 = |warp, _, inst, mask| map1(warp, inst, mask, i64::wrapping_abs);
    MIN_U16 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u16, b: u16| a.min(b));
    MIN_S16 = |warp, _, inst, mask| map2(warp, inst, mask, |a: i16, b: i16| a.min(b));
    MIN_U32 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u32, b: u32| a.min(b));
    MIN_S32 = |warp, _, inst, mask| map2(warp, inst, mask, |a: i32, b: i32| a.min(b));
    MIN_U64 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u64, b: u64| a.min(b));
    MIN_S64 = |warp, _, inst, mask| map2(warp, inst, mask, |a: i64, b: i64| a.min(b));
    MAX_U16 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u16, b: u16| a.max(b));
    MAX_S16 = |warp, _, inst, mask| map2(warp, inst, mask, |a: i16, b: i16| a.max(b));
    MAX_U32 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u32, b: u32| a.max(b));
    MAX_S32 = |warp, _, inst, mask| map2(warp, inst, mask, |a: i32, b: i32| a.max(b));
    MAX_U64 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u64, b: u64| a.max(b));
    MAX_S64 = |warp, _, inst, mask| map2(warp, inst, mask, |a: i64, b: i64| a.max(b));
    MIN_RELU_S32 = |warp, _, inst, mask| map2(warp, inst, mask, |a: i32, b: i32| a.min(b).max(0));
    MAX_RELU_S32 = |warp, _, inst, mask| map2(warp, inst, mask, |a: i32, b: i32| a.max(b).max(0));
    MIN_U16X2 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u32, b: u32| halves(a, b, u16::min));
    MAX_U16X2 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u32, b: u32| halves(a, b, u16::max));
    MIN_S16X2 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u32, b: u32| halves(a, b, |x, y| (x as i16).min(y as i16) as u16));
    MAX_S16X2 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u32, b: u32| halves(a, b, |x, y| (x as i16).max(y as i16) as u16));
    SAD_U16 = |warp, _, inst, mask| map3(warp, inst, mask, |a: u16, b: u16, c: u16| c.wrapping_add(a.abs_diff(b)));
    SAD_S16 = |warp, _, inst, mask| map3(warp, inst, mask, |a: i16, b: i16, c: u16| c.wrapping_add(a.abs_diff(b)));
    SAD_U32 = |warp, _, inst, mask| map3(warp, inst, mask, |a: u32, b: u32, c: u32| c.wrapping_add(a.abs_diff(b)));
    SAD_S32 = |warp, _, inst, mask| map3(warp, inst, mask, |a: i32, b: i32, c: u32| c.wrapping_add(a.abs_diff(b)));
    SAD_U64 = |warp, _, inst, mask| map3(warp, inst, mask, |a: u64, b: u64, c: u64| c.wrapping_add(a.abs_diff(b)));
    SAD_S64 = |warp, _, inst, mask| map3(warp, inst, mask, |a: i64, b: i64, c: u64| c.wrapping_add(a.abs_diff(b)));

    AND_32 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u32, b: u32| a & b);
    AND_64 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u64, b: u64| a & b);
    OR_32 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u32, b: u32| a | b);
    OR_64 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u64, b: u64| a | b);
    XOR_32 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u32, b: u32| a ^ b);
    XOR_64 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u64, b: u64| a ^ b);
    NOT_16 = |warp, _, inst, mask| map1(warp, inst, mask, |a: u16| !a);
    NOT_32 = |warp, _, inst, mask| map1(warp, inst, mask, |a: u32| !a);
    NOT_64 = |warp, _, inst, mask| map1(warp, inst, mask, |a: u64| !a);
    CNOT_16 = |warp, _, inst, mask| map1(warp, inst, mask, |a: u16| u16::from(a == 0));
    CNOT_32 = |warp, _, inst, mask| map1(warp, inst, mask, |a: u32| u32::from(a == 0));
    CNOT_64 = |warp, _, inst, mask| map1(warp, inst, mask, |a: u64| u64::from(a == 0));

    // Shift counts are 32 bits wide whatever the type; at or beyond the width nothing (or only the sign) is left.
    SHL_16 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u16, n: u32| a.checked_shl(n).unwrap_or(0));
    SHL_32 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u32, n: u32| a.checked_shl(n).unwrap_or(0));
    SHL_64 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u64, n: u32| a.checked_shl(n).unwrap_or(0));
    SHR_U16 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u16, n: u32| a.checked_shr(n).unwrap_or(0));
    SHR_U32 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u32, n: u32| a.checked_shr(n).unwrap_or(0));
    SHR_U64 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u64, n: u32| a.checked_shr(n).unwrap_or(0));
    SHR_S16 = |warp, _, inst, mask| map2(warp, inst, mask, |a: i16, n: u32| a >> n.min(15));
    SHR_S32 = |warp, _, inst, mask| map2(warp, inst, mask, |a: i32, n: u32| a >> n.min(31));
    SHR_S64 = |warp, _, inst, mask| map2(warp, inst, mask, |a: i64, n: u32| a >> n.min(63));

    // Extended precision: `x` bit 0 takes the carry in, bit 1 keeps the carry out.
    ADD_CARRY_32 = |warp, _, inst, mask| with_carry(warp, inst, mask, |a: u32, b: u32, c: bool| {
        let ((sum, first), carry) = (a.overflowing_add(b), u32::from(c));
        (sum.wrapping_add(carry), first | sum.overflowing_add(carry).1)
    });
    ADD_CARRY_64 = |warp, _, inst, mask| with_carry(warp, inst, mask, |a: u64, b: u64, c: bool| {
        let ((sum, first), carry) = (a.overflowing_add(b), u64::from(c));
        (sum.wrapping_add(carry), first | sum.overflowing_add(carry).1)
    });
    SUB_BORROW_32 = |warp, _, inst, mask| with_carry(warp, inst, mask, |a: u32, b: u32, c: bool| {
        let ((difference, first), borrow) = (a.overflowing_sub(b), u32::from(c));
        (difference.wrapping_sub(borrow), first | difference.overflowing_sub(borrow).1)
    });
    SUB_BORROW_64 = |warp, _, inst, mask| with_carry(warp, inst, mask, |a: u64, b: u64, c: bool| {
        let ((difference, first), borrow) = (a.overflowing_sub(b), u64::from(c));
        (difference.wrapping_sub(borrow), first | difference.overflowing_sub(borrow).1)
    });

    MOV_32 = |warp, _, inst, mask| map1(warp, inst, mask, |a: u32| a);
    MOV_64 = |warp, _, inst, mask| map1(warp, inst, mask, |a: u64| a);
    PACK_16X2 = |warp, _, inst, mask| map2(warp, inst, mask, |low: u16, high: u16| u32::from(low) | u32::from(high) << 16);
    PACK_32X2 = |warp, _, inst, mask| map2(warp, inst, mask, |low: u32, high: u32| u64::from(low) | u64::from(high) << 32);
    UNPACK_16X2 = |warp, _, inst, mask| {
        let all = *warp.r32(inst.a);
        let (mut low, mut high) = ([0; LANES], [0; LANES]);
        for i in 0..LANES {
            (low[i], high[i]) = (all[i] & 0xffff, all[i] >> 16);
        }
        warp.w32(inst.d, mask, &low);
        warp.w32(inst.m, mask, &high);
    };
    UNPACK_32X2 = |warp, _, inst, mask| {
        let all = *warp.r64(inst.a);
        let (mut low, mut high) = ([0; LANES], [0; LANES]);
        for i in 0..LANES {
            (low[i], high[i]) = (all[i] as u32, (all[i] >> 32) as u32);
        }
        warp.w32(inst.d, mask, &low);
        warp.w32(inst.m, mask, &high);
    };
    /// Any other `mov d, {a, b, ...}`: `x` is the list in the pool, `y` its length and the width of a part.
    PACK_32 = |warp, env, inst, mask| pack::<u32>(warp, &env.kernel.pool, inst, mask);
    PACK_64 = |warp, env, inst, mask| pack::<u64>(warp, &env.kernel.pool, inst, mask);
    UNPACK_32 = |warp, env, inst, mask| unpack::<u32>(warp, &env.kernel.pool, inst, mask);
    UNPACK_64 = |warp, env, inst, mask| unpack::<u64>(warp, &env.kernel.pool, inst, mask);
}

/// A sum or difference with the carry of earlier instructions, and of later ones.
#[inline(always)]
fn with_carry<T: Raw>(warp: &mut Warp, inst: &Inst, mask: u32, f: impl Fn(T, T, bool) -> (T, bool)) {
    let carry_in = if inst.x & 1 != 0 { warp.carry } else { 0 };
    let (a, b) = (T::read(warp, inst.a), T::read(warp, inst.b));
    let (mut out, mut carry_out) = ([T::default(); LANES], 0u32);
    for i in 0..LANES {
        let (value, carry) = f(a[i], b[i], carry_in >> i & 1 == 1);
        out[i] = value;
        carry_out |= u32::from(carry) << i;
    }
    T::write(warp, inst.d, mask, &out);
    if inst.x & 2 != 0 {
        warp.carry = (carry_out & mask) | (warp.carry & !mask);
    }
}

/// The product of the low 24 bits.
#[inline(always)]
fn product_24(a: u32, b: u32) -> u64 {
    wide_u32(a & 0xff_ffff, b & 0xff_ffff)
}

/// The product of the low 24 bits, of which the highest is a sign.
#[inline(always)]
fn product_s24(a: i32, b: i32) -> i64 {
    wide_s32(a << 8 >> 8, b << 8 >> 8)
}

/// The full product of two unsigned words.
#[inline(always)]
fn wide_u32(a: u32, b: u32) -> u64 {
    u64::from(a) * u64::from(b)
}

/// The full product of two signed words.
#[inline(always)]
fn wide_s32(a: i32, b: i32) -> i64 {
    i64::from(a) * i64::from(b)
}

/// Both halves of two packed words.
#[inline(always)]
fn halves(a: u32, b: u32, f: impl Fn(u16, u16) -> u16) -> u32 {
    u32::from(f(a as u16, b as u16)) | u32::from(f((a >> 16) as u16, (b >> 16) as u16)) << 16
}

/// A list operand in `y`: its length and the width of one part.
pub fn list_shape(count: u32, part_bits: u32) -> u32 {
    count | part_bits << 8
}

/// A part's mask; parts are 8, 16 or 32 bits.
#[inline(always)]
fn part(y: u32) -> (u32, u64) {
    let bits = y >> 8;
    (bits, (1u64 << bits) - 1)
}

#[inline(always)]
fn pack<T: Raw + Narrow>(warp: &mut Warp, pool: &[u16], inst: &Inst, mask: u32) {
    let (bits, keep) = part(inst.y);
    let mut out = [0u64; LANES];
    for (place, &slot) in pool[inst.x as usize..][..(inst.y & 0xff) as usize].iter().enumerate() {
        let from = warp.r32(slot);
        for i in 0..LANES {
            out[i] |= (u64::from(from[i]) & keep) << (place as u32 * bits);
        }
    }
    T::write(warp, inst.d, mask, &out.map(T::narrow));
}

#[inline(always)]
fn unpack<T: Raw + Into<u64>>(warp: &mut Warp, pool: &[u16], inst: &Inst, mask: u32) {
    let (bits, keep) = part(inst.y);
    let all = *T::read(warp, inst.a);
    for (place, &slot) in pool[inst.x as usize..][..(inst.y & 0xff) as usize].iter().enumerate() {
        warp.w32(slot, mask, &all.map(|value| (value.into() >> (place as u32 * bits) & keep) as u32));
    }
}

/// Back from the widest type.
trait Narrow {
    fn narrow(value: u64) -> Self;
}

impl Narrow for u32 {
    #[inline(always)]
    fn narrow(value: u64) -> u32 {
        value as u32
    }
}

impl Narrow for u64 {
    #[inline(always)]
    fn narrow(value: u64) -> u64 {
        value
    }
}
