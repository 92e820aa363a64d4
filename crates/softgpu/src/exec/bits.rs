//! Bit manipulation: fields, counts, permutations, funnel shifts and three-input logic.

use super::lanes::{map1, map2, map3};
use super::{LANES, ops};

ops! {
    BREV_32 = |warp, _, inst, mask| map1(warp, inst, mask, u32::reverse_bits);
    BREV_64 = |warp, _, inst, mask| map1(warp, inst, mask, u64::reverse_bits);
    CLZ_32 = |warp, _, inst, mask| map1(warp, inst, mask, u32::leading_zeros);
    CLZ_64 = |warp, _, inst, mask| map1(warp, inst, mask, u64::leading_zeros);
    POPC_32 = |warp, _, inst, mask| map1(warp, inst, mask, u32::count_ones);
    POPC_64 = |warp, _, inst, mask| map1(warp, inst, mask, u64::count_ones);
    // `x` is 0, or one less than the width for `.shiftamt`.
    BFIND_U32 = |warp, _, inst, mask| { let x = inst.x; map1(warp, inst, mask, |a: u32| find(u64::from(a), x)) };
    BFIND_S32 = |warp, _, inst, mask| { let x = inst.x; map1(warp, inst, mask, |a: i32| find(u64::from((a ^ (a >> 31)) as u32), x)) };
    BFIND_U64 = |warp, _, inst, mask| { let x = inst.x; map1(warp, inst, mask, |a: u64| find(a, x)) };
    BFIND_S64 = |warp, _, inst, mask| { let x = inst.x; map1(warp, inst, mask, |a: i64| find((a ^ (a >> 63)) as u64, x)) };
    BFE_U32 = |warp, _, inst, mask| map3(warp, inst, mask, |a: u32, at: u32, n: u32| extract_unsigned(u64::from(a), at, n) as u32);
    BFE_U64 = |warp, _, inst, mask| map3(warp, inst, mask, |a: u64, at: u32, n: u32| extract_unsigned(a, at, n));
    BFE_S32 = |warp, _, inst, mask| map3(warp, inst, mask, |a: i32, at: u32, n: u32| extract_signed(i64::from(a), at, n) as i32);
    BFE_S64 = |warp, _, inst, mask| map3(warp, inst, mask, extract_signed);
    // The fourth operand, the length, stands in `m`.
    BFI_32 = |warp, _, inst, mask| {
        let lengths = *warp.r32(inst.m);
        let (from, into, at) = (*warp.r32(inst.a), *warp.r32(inst.b), *warp.r32(inst.c));
        let mut out = [0u32; LANES];
        for i in 0..LANES {
            out[i] = insert(u64::from(from[i]), u64::from(into[i]), at[i], lengths[i]) as u32;
        }
        warp.w32(inst.d, mask, &out);
    };
    BFI_64 = |warp, _, inst, mask| {
        let lengths = *warp.r32(inst.m);
        let (from, into, at) = (*warp.r64(inst.a), *warp.r64(inst.b), *warp.r32(inst.c));
        let mut out = [0u64; LANES];
        for i in 0..LANES {
            out[i] = insert(from[i], into[i], at[i], lengths[i]);
        }
        warp.w64(inst.d, mask, &out);
    };
    BMSK_CLAMP = |warp, _, inst, mask| map2(warp, inst, mask, |at: u32, n: u32| insert(u64::MAX, 0, at.min(32), n.min(32)) as u32);
    BMSK_WRAP = |warp, _, inst, mask| map2(warp, inst, mask, |at: u32, n: u32| insert(u64::MAX, 0, at & 31, n & 31) as u32);
    SZEXT_CLAMP_U32 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u32, n: u32| if n > 31 { a } else { a & ((1 << n) - 1) });
    SZEXT_CLAMP_S32 = |warp, _, inst, mask| map2(warp, inst, mask, extend_signed);
    SZEXT_WRAP_U32 = |warp, _, inst, mask| map2(warp, inst, mask, |a: u32, n: u32| a & ((1 << (n & 31)) - 1));
    SZEXT_WRAP_S32 = |warp, _, inst, mask| map2(warp, inst, mask, |a: i32, n: u32| extend_signed(a, n & 31));

    SHF_L_WRAP = |warp, _, inst, mask| map3(warp, inst, mask, |low: u32, high: u32, n: u32| funnel_left(low, high, n & 31));
    SHF_L_CLAMP = |warp, _, inst, mask| map3(warp, inst, mask, |low: u32, high: u32, n: u32| funnel_left(low, high, n.min(32)));
    SHF_R_WRAP = |warp, _, inst, mask| map3(warp, inst, mask, |low: u32, high: u32, n: u32| funnel_right(low, high, n & 31));
    SHF_R_CLAMP = |warp, _, inst, mask| map3(warp, inst, mask, |low: u32, high: u32, n: u32| funnel_right(low, high, n.min(32)));

    LOP3 = |warp, _, inst, mask| { let table = inst.x; map3(warp, inst, mask, |a: u32, b: u32, c: u32| lop3(a, b, c, table)) };
    PRMT = |warp, _, inst, mask| map3(warp, inst, mask, permute);
    PRMT_F4E = |warp, _, inst, mask| map3(warp, inst, mask, |a: u32, b: u32, s: u32| permute(a, b, 0x3210 + 0x1111 * (s & 3)));
    PRMT_B4E = |warp, _, inst, mask| map3(warp, inst, mask, |a: u32, b: u32, s: u32| permute(a, b, [0x5670, 0x6701, 0x7012, 0x0123][(s & 3) as usize]));
    PRMT_RC8 = |warp, _, inst, mask| map3(warp, inst, mask, |a: u32, b: u32, s: u32| permute(a, b, 0x1111 * (s & 3)));
    PRMT_ECL = |warp, _, inst, mask| map3(warp, inst, mask, |a: u32, b: u32, s: u32| permute(a, b, [0x3210, 0x3211, 0x3222, 0x3333][(s & 3) as usize]));
    PRMT_ECR = |warp, _, inst, mask| map3(warp, inst, mask, |a: u32, b: u32, s: u32| permute(a, b, [0x0000, 0x1110, 0x2210, 0x3210][(s & 3) as usize]));
    PRMT_RC16 = |warp, _, inst, mask| map3(warp, inst, mask, |a: u32, b: u32, s: u32| permute(a, b, [0x1010, 0x3232][(s & 1) as usize]));
}

/// The highest one bit; all ones when there is none; its distance from bit `from_top` when that is not 0.
#[inline(always)]
fn find(value: u64, from_top: u32) -> u32 {
    let position = 63u32.wrapping_sub(value.leading_zeros());
    if value == 0 {
        u32::MAX
    } else if from_top != 0 {
        from_top - position
    } else {
        position
    }
}

/// Bits `at .. at + n`, zeros above; position and length count modulo 256.
#[inline(always)]
fn extract_unsigned(value: u64, at: u32, n: u32) -> u64 {
    let (at, n) = (at & 0xff, n & 0xff);
    let shifted = value.checked_shr(at).unwrap_or(0);
    if n < 64 { shifted & ((1 << n) - 1) } else { shifted }
}

/// Bits `at .. at + n` with their highest bit copied above; past the end of the value the sign stands in.
/// A 32-bit value comes sign-extended, so its end needs no case of its own.
#[inline(always)]
fn extract_signed(value: i64, at: u32, n: u32) -> i64 {
    let (at, n) = (at & 0xff, n & 0xff);
    let shifted = value >> at.min(63);
    match n {
        0 => 0,
        1..=63 => shifted << (64 - n) >> (64 - n),
        _ => shifted,
    }
}

/// `into` with the low `n` bits of `from` at position `at`.
#[inline(always)]
fn insert(from: u64, into: u64, at: u32, n: u32) -> u64 {
    let (at, n) = (at & 0xff, n & 0xff);
    let ones = if n < 64 { (1 << n) - 1 } else { u64::MAX };
    let field = ones.checked_shl(at).unwrap_or(0);
    (into & !field) | (from.checked_shl(at).unwrap_or(0) & field)
}

/// The low `n` bits, sign-extended.
#[inline(always)]
fn extend_signed(value: i32, n: u32) -> i32 {
    match n {
        0 => 0,
        1..=31 => value << (32 - n) >> (32 - n),
        _ => value,
    }
}

/// The upper word of `high:low << n`, for n up to 32.
#[inline(always)]
fn funnel_left(low: u32, high: u32, n: u32) -> u32 {
    ((u64::from(high) << 32 | u64::from(low)) << n >> 32) as u32
}

/// The lower word of `high:low >> n`, for n up to 32.
#[inline(always)]
fn funnel_right(low: u32, high: u32, n: u32) -> u32 {
    ((u64::from(high) << 32 | u64::from(low)) >> n) as u32
}

/// Any function of three bits: bit `4a + 2b + c` of the table is the result.
#[inline(always)]
fn lop3(a: u32, b: u32, c: u32, table: u32) -> u32 {
    let mut out = 0;
    for row in 0..8 {
        let pick = |value: u32, bit: u32| if row & bit != 0 { value } else { !value };
        let on = 0u32.wrapping_sub(table >> row & 1);
        out |= pick(a, 4) & pick(b, 2) & pick(c, 1) & on;
    }
    out
}

/// Four bytes chosen from the eight of `b:a`; bit 3 of a selector spreads the chosen byte's sign instead.
#[inline(always)]
fn permute(a: u32, b: u32, selectors: u32) -> u32 {
    let bytes = u64::from(b) << 32 | u64::from(a);
    let mut out = 0;
    for place in 0..4 {
        let selector = selectors >> (4 * place);
        let byte = (bytes >> (8 * (selector & 7))) as u8;
        let spread = if byte & 0x80 != 0 { 0xff } else { 0 };
        let chosen = if selector & 8 != 0 { spread } else { byte };
        out |= u32::from(chosen) << (8 * place);
    }
    out
}
