//! Comparisons, predicate logic and selection.

use super::lanes::{Raw, map3, test2};
use super::{LANES, Warp, ops};
use crate::ir::Inst;
use crate::num::half::{bf16_to_f32, f16_to_f32};
use crate::num::round::flush;

/// `y` of a comparison: what becomes of the raw test before it is written.
pub mod flag {
    /// The test is inverted: `ne` is not `eq`, `geu` is not `lt`.
    pub const NOT: u32 = 1;
    /// The third operand is inverted.
    pub const NOT_C: u32 = 2;
    /// Combined with the third operand by or.
    pub const OR: u32 = 4;
    /// Combined with the third operand by exclusive or. Neither: by and.
    pub const XOR: u32 = 8;
    /// f32: subnormal operands count as zero.
    pub const FTZ: u32 = 16;
    /// `set`: a register is written, with the pattern in `x` where the comparison holds and 0 elsewhere.
    pub const SET: u32 = 32;
}

ops! {
    SETP_EQ_16 = |warp, _, inst, mask| { let t = test2(warp, inst, |a: u16, b: u16| a == b); finish(warp, inst, mask, t) };
    SETP_EQ_32 = |warp, _, inst, mask| { let t = test2(warp, inst, |a: u32, b: u32| a == b); finish(warp, inst, mask, t) };
    SETP_EQ_64 = |warp, _, inst, mask| { let t = test2(warp, inst, |a: u64, b: u64| a == b); finish(warp, inst, mask, t) };
    SETP_LT_U16 = |warp, _, inst, mask| { let t = test2(warp, inst, |a: u16, b: u16| a < b); finish(warp, inst, mask, t) };
    SETP_LT_S16 = |warp, _, inst, mask| { let t = test2(warp, inst, |a: i16, b: i16| a < b); finish(warp, inst, mask, t) };
    SETP_LT_U32 = |warp, _, inst, mask| { let t = test2(warp, inst, |a: u32, b: u32| a < b); finish(warp, inst, mask, t) };
    SETP_LT_S32 = |warp, _, inst, mask| { let t = test2(warp, inst, |a: i32, b: i32| a < b); finish(warp, inst, mask, t) };
    SETP_LT_U64 = |warp, _, inst, mask| { let t = test2(warp, inst, |a: u64, b: u64| a < b); finish(warp, inst, mask, t) };
    SETP_LT_S64 = |warp, _, inst, mask| { let t = test2(warp, inst, |a: i64, b: i64| a < b); finish(warp, inst, mask, t) };

    // Floating point: every comparison is one of these five, inverted or with its operands exchanged.
    SETP_EQ_F32 = |warp, _, inst, mask| { let t = test_f32(warp, inst, |a, b| a == b); finish(warp, inst, mask, t) };
    SETP_NE_F32 = |warp, _, inst, mask| { let t = test_f32(warp, inst, |a, b| a < b || a > b); finish(warp, inst, mask, t) };
    SETP_LT_F32 = |warp, _, inst, mask| { let t = test_f32(warp, inst, |a, b| a < b); finish(warp, inst, mask, t) };
    SETP_LE_F32 = |warp, _, inst, mask| { let t = test_f32(warp, inst, |a, b| a <= b); finish(warp, inst, mask, t) };
    SETP_NUM_F32 = |warp, _, inst, mask| { let t = test_f32(warp, inst, ordered); finish(warp, inst, mask, t) };
    SETP_EQ_F64 = |warp, _, inst, mask| { let t = test2(warp, inst, |a: f64, b: f64| a == b); finish(warp, inst, mask, t) };
    SETP_NE_F64 = |warp, _, inst, mask| { let t = test2(warp, inst, |a: f64, b: f64| a < b || a > b); finish(warp, inst, mask, t) };
    SETP_LT_F64 = |warp, _, inst, mask| { let t = test2(warp, inst, |a: f64, b: f64| a < b); finish(warp, inst, mask, t) };
    SETP_LE_F64 = |warp, _, inst, mask| { let t = test2(warp, inst, |a: f64, b: f64| a <= b); finish(warp, inst, mask, t) };
    SETP_NUM_F64 = |warp, _, inst, mask| { let t = test2(warp, inst, |a: f64, b: f64| !a.is_nan() && !b.is_nan()); finish(warp, inst, mask, t) };
    SETP_EQ_F16 = |warp, _, inst, mask| { let t = test_half(warp, inst, f16_to_f32, |a, b| a == b); finish(warp, inst, mask, t) };
    SETP_NE_F16 = |warp, _, inst, mask| { let t = test_half(warp, inst, f16_to_f32, |a, b| a < b || a > b); finish(warp, inst, mask, t) };
    SETP_LT_F16 = |warp, _, inst, mask| { let t = test_half(warp, inst, f16_to_f32, |a, b| a < b); finish(warp, inst, mask, t) };
    SETP_LE_F16 = |warp, _, inst, mask| { let t = test_half(warp, inst, f16_to_f32, |a, b| a <= b); finish(warp, inst, mask, t) };
    SETP_NUM_F16 = |warp, _, inst, mask| { let t = test_half(warp, inst, f16_to_f32, ordered); finish(warp, inst, mask, t) };
    SETP_EQ_BF16 = |warp, _, inst, mask| { let t = test_half(warp, inst, bf16_to_f32, |a, b| a == b); finish(warp, inst, mask, t) };
    SETP_NE_BF16 = |warp, _, inst, mask| { let t = test_half(warp, inst, bf16_to_f32, |a, b| a < b || a > b); finish(warp, inst, mask, t) };
    SETP_LT_BF16 = |warp, _, inst, mask| { let t = test_half(warp, inst, bf16_to_f32, |a, b| a < b); finish(warp, inst, mask, t) };
    SETP_LE_BF16 = |warp, _, inst, mask| { let t = test_half(warp, inst, bf16_to_f32, |a, b| a <= b); finish(warp, inst, mask, t) };
    SETP_NUM_BF16 = |warp, _, inst, mask| { let t = test_half(warp, inst, bf16_to_f32, ordered); finish(warp, inst, mask, t) };

    // Predicates: `x` says which sources are inverted.
    PRED_AND = |warp, _, inst, mask| { let (a, b) = pair(warp, inst); warp.wp(inst.d, mask, a & b) };
    PRED_OR = |warp, _, inst, mask| { let (a, b) = pair(warp, inst); warp.wp(inst.d, mask, a | b) };
    PRED_XOR = |warp, _, inst, mask| { let (a, b) = pair(warp, inst); warp.wp(inst.d, mask, a ^ b) };
    PRED_MOV = |warp, _, inst, mask| { let (a, _) = pair(warp, inst); warp.wp(inst.d, mask, a) };

    // The predicate stands in `c`, inverted when `x` is all ones.
    SELP_32 = |warp, _, inst, mask| select::<u32>(warp, inst, mask);
    SELP_64 = |warp, _, inst, mask| select::<u64>(warp, inst, mask);
    SLCT_32_S32 = |warp, _, inst, mask| map3(warp, inst, mask, |a: u32, b: u32, c: i32| if c >= 0 { a } else { b });
    SLCT_64_S32 = |warp, _, inst, mask| map3(warp, inst, mask, |a: u64, b: u64, c: i32| if c >= 0 { a } else { b });
    SLCT_32_F32 = |warp, _, inst, mask| {
        let ftz = inst.y & flag::FTZ != 0;
        map3(warp, inst, mask, |a: u32, b: u32, c: f32| if zero_or_above(c, ftz) { a } else { b })
    };
    SLCT_64_F32 = |warp, _, inst, mask| {
        let ftz = inst.y & flag::FTZ != 0;
        map3(warp, inst, mask, |a: u64, b: u64, c: f32| if zero_or_above(c, ftz) { a } else { b })
    };

    // Packed halves: `x` holds the comparison; the results of both halves go to two predicates, or to one word.
    SETP_F16X2 = |warp, _, inst, mask| compare_packed(warp, inst, mask, f16_to_f32);
    SETP_BF16X2 = |warp, _, inst, mask| compare_packed(warp, inst, mask, bf16_to_f32);

    TESTP_FINITE_F32 = |warp, _, inst, mask| { let t = classify_f32(warp, inst, |m| m < 0x7f80_0000); finish(warp, inst, mask, t) };
    TESTP_INFINITE_F32 = |warp, _, inst, mask| { let t = classify_f32(warp, inst, |m| m == 0x7f80_0000); finish(warp, inst, mask, t) };
    TESTP_NAN_F32 = |warp, _, inst, mask| { let t = classify_f32(warp, inst, |m| m > 0x7f80_0000); finish(warp, inst, mask, t) };
    // Zeros count as normal.
    TESTP_NORMAL_F32 = |warp, _, inst, mask| { let t = classify_f32(warp, inst, |m| m == 0 || (0x0080_0000..0x7f80_0000).contains(&m)); finish(warp, inst, mask, t) };
    TESTP_SUBNORMAL_F32 = |warp, _, inst, mask| { let t = classify_f32(warp, inst, |m| (1..0x0080_0000).contains(&m)); finish(warp, inst, mask, t) };
    TESTP_FINITE_F64 = |warp, _, inst, mask| { let t = classify_f64(warp, inst, |m| m < INFINITY_F64); finish(warp, inst, mask, t) };
    TESTP_INFINITE_F64 = |warp, _, inst, mask| { let t = classify_f64(warp, inst, |m| m == INFINITY_F64); finish(warp, inst, mask, t) };
    TESTP_NAN_F64 = |warp, _, inst, mask| { let t = classify_f64(warp, inst, |m| m > INFINITY_F64); finish(warp, inst, mask, t) };
    TESTP_NORMAL_F64 = |warp, _, inst, mask| { let t = classify_f64(warp, inst, |m| m == 0 || (1 << 52..INFINITY_F64).contains(&m)); finish(warp, inst, mask, t) };
    TESTP_SUBNORMAL_F64 = |warp, _, inst, mask| { let t = classify_f64(warp, inst, |m| (1..1 << 52).contains(&m)); finish(warp, inst, mask, t) };
}

const INFINITY_F64: u64 = 0x7ff0_0000_0000_0000;

/// Neither is a NaN.
#[inline(always)]
fn ordered(a: f32, b: f32) -> bool {
    !a.is_nan() && !b.is_nan()
}

/// All ones for a set flag: lane loops mask with it rather than branch.
#[inline(always)]
fn spread(flags: u32, flag: u32) -> u32 {
    if flags & flag != 0 { u32::MAX } else { 0 }
}

/// The raw test combined with the third operand.
#[inline(always)]
fn combine(warp: &Warp, inst: &Inst, test: u32) -> u32 {
    let c = warp.p(inst.c) ^ spread(inst.y, flag::NOT_C);
    if inst.y & flag::OR != 0 {
        test | c
    } else if inst.y & flag::XOR != 0 {
        test ^ c
    } else {
        test & c
    }
}

/// Writes a comparison: to `d` as `set`, or to the predicate `d` and, with the test inverted, to the predicate `m`.
#[inline(always)]
fn finish(warp: &mut Warp, inst: &Inst, mask: u32, test: u32) {
    let test = test ^ spread(inst.y, flag::NOT);
    let (p, q) = (combine(warp, inst, test), combine(warp, inst, !test));
    if inst.y & flag::SET != 0 {
        let mut out = [0u32; LANES];
        for i in 0..LANES {
            out[i] = 0u32.wrapping_sub(p >> i & 1) & inst.x;
        }
        warp.w32(inst.d, mask, &out);
    } else {
        warp.wp(inst.m, mask, q);
        warp.wp(inst.d, mask, p);
    }
}

/// A test of f32, flushing subnormals where asked to.
#[inline(always)]
fn test_f32(warp: &Warp, inst: &Inst, f: impl Fn(f32, f32) -> bool) -> u32 {
    if inst.y & flag::FTZ == 0 {
        return test2(warp, inst, f);
    }
    test2(warp, inst, |a: f32, b: f32| f(flush(a), flush(b)))
}

/// A test of halves, which widen exactly.
#[inline(always)]
fn test_half(warp: &Warp, inst: &Inst, widen: impl Fn(u16) -> f32, f: impl Fn(f32, f32) -> bool) -> u32 {
    test2(warp, inst, |a: u16, b: u16| f(widen(a), widen(b)))
}

/// Comparisons of packed halves, by number in the low bits of `x`: the five that the others are made of.
pub const PACKED: [&str; 5] = ["eq", "ne", "lt", "le", "num"];

#[inline(always)]
fn compare_packed(warp: &mut Warp, inst: &Inst, mask: u32, widen: impl Fn(u16) -> f32) {
    let (a, b) = (*warp.r32(inst.a), *warp.r32(inst.b));
    let mut tests = [0u32; 2];
    for (half, bits) in tests.iter_mut().enumerate() {
        for i in 0..LANES {
            let (x, y) = (widen((a[i] >> (16 * half)) as u16), widen((b[i] >> (16 * half)) as u16));
            let holds = match inst.x & 7 {
                0 => x == y,
                1 => x < y || x > y,
                2 => x < y,
                3 => x <= y,
                _ => ordered(x, y),
            };
            *bits |= u32::from(holds) << i;
        }
        *bits = combine(warp, inst, *bits ^ spread(inst.y, flag::NOT));
    }
    if inst.y & flag::SET != 0 {
        let one = inst.x >> 16;
        let mut out = [0u32; LANES];
        for i in 0..LANES {
            out[i] = (tests[0] >> i & 1) * one | (tests[1] >> i & 1) * one << 16;
        }
        warp.w32(inst.d, mask, &out);
    } else {
        warp.wp(inst.m, mask, tests[1]);
        warp.wp(inst.d, mask, tests[0]);
    }
}

/// A test of the magnitude's bits.
#[inline(always)]
fn classify_f32(warp: &Warp, inst: &Inst, f: impl Fn(u32) -> bool) -> u32 {
    test2(warp, inst, |a: u32, _: u32| f(a & 0x7fff_ffff))
}

#[inline(always)]
fn classify_f64(warp: &Warp, inst: &Inst, f: impl Fn(u64) -> bool) -> u32 {
    test2(warp, inst, |a: u64, _: u64| f(a & (u64::MAX >> 1)))
}

/// Both predicate sources, inverted as bits 0 and 1 of `x` say.
#[inline(always)]
fn pair(warp: &Warp, inst: &Inst) -> (u32, u32) {
    (warp.p(inst.a) ^ spread(inst.x, 1), warp.p(inst.b) ^ spread(inst.x, 2))
}

#[inline(always)]
fn select<T: Raw>(warp: &mut Warp, inst: &Inst, mask: u32) {
    let bits = warp.p(inst.c) ^ inst.x;
    let (a, b) = (*T::read(warp, inst.a), *T::read(warp, inst.b));
    T::write(warp, inst.d, mask & bits, &a);
    T::write(warp, inst.d, mask & !bits, &b);
}

/// `slct`'s condition: -0 counts as zero, a NaN does not hold.
#[inline(always)]
fn zero_or_above(c: f32, ftz: bool) -> bool {
    (if ftz { flush(c) } else { c }) >= 0.0
}
