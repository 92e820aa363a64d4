//! f16 and bf16 arithmetic, single and packed. Each half is rounded on its own.
//!
//! Halves are widened, computed and rounded once. In f16, f32 has enough bits (at least 2p + 2) that sums and products
//! rounded twice equal those rounded once. Products of bf16 may be subnormal in f32, and no width is enough for a
//! fused multiply-add, so those are exact in f64 up to a sticky bit.

use super::float::{max_f32, min_f32};
use super::lanes::{map1, map2, map3};
use super::{LANES, Warp, ops};
use crate::ir::Inst;
use crate::num::half::{bf16_from_f32, bf16_to_f32, f16_from_f32, f16_to_f32, narrow_odd};
use crate::num::round::{saturate, sum_odd};
use crate::num::{NAN_F16, approx};

/// `x` of a half operation.
pub mod flag {
    /// f16: subnormal operands and results become zeros.
    pub const FTZ: u32 = 1;
    /// The result is clamped to 0..1.
    pub const SAT: u32 = 2;
    /// A negative result becomes +0.
    pub const RELU: u32 = 4;
    /// min, max: a NaN operand gives NaN.
    pub const NAN: u32 = 8;
    /// min, max: of the magnitudes, with the exclusive or of the signs.
    pub const XOR_SIGN: u32 = 16;
}

/// A 16-bit format.
trait Format {
    /// Bits of the exponent, all ones; also the pattern of infinity.
    const INFINITY: u16;
    fn widen(half: u16) -> f32;
    fn narrow(value: f32) -> u16;
}

struct F16;
struct Bf16;

impl Format for F16 {
    const INFINITY: u16 = 0x7c00;
    #[inline(always)]
    fn widen(half: u16) -> f32 {
        f16_to_f32(half)
    }
    #[inline(always)]
    fn narrow(value: f32) -> u16 {
        f16_from_f32(value)
    }
}

impl Format for Bf16 {
    const INFINITY: u16 = 0x7f80;
    #[inline(always)]
    fn widen(half: u16) -> f32 {
        bf16_to_f32(half)
    }
    #[inline(always)]
    fn narrow(value: f32) -> u16 {
        bf16_from_f32(value)
    }
}

/// `a + b`.
#[inline(always)]
fn add<F: Format>(a: u16, b: u16) -> u16 {
    F::narrow(F::widen(a) + F::widen(b))
}

/// `a - b`.
#[inline(always)]
fn sub<F: Format>(a: u16, b: u16) -> u16 {
    F::narrow(F::widen(a) - F::widen(b))
}

/// `a * b`.
#[inline(always)]
fn mul<F: Format>(a: u16, b: u16) -> u16 {
    F::narrow(narrow_odd(f64::from(F::widen(a)) * f64::from(F::widen(b))))
}

/// `a * b + c` with one rounding.
#[inline(always)]
fn fma<F: Format>(a: u16, b: u16, c: u16) -> u16 {
    let product = f64::from(F::widen(a)) * f64::from(F::widen(b));
    F::narrow(narrow_odd(sum_odd(product, f64::from(F::widen(c)))))
}

/// The smaller number; [`extremum`] sees to NaN.
#[inline(always)]
fn min<F: Format>(a: u16, b: u16) -> u16 {
    F::narrow(min_f32(F::widen(a), F::widen(b)))
}

/// The larger number.
#[inline(always)]
fn max<F: Format>(a: u16, b: u16) -> u16 {
    F::narrow(max_f32(F::widen(a), F::widen(b)))
}

/// `.ftz` of an operand or result.
#[inline(always)]
fn flush<F: Format>(x: u32, half: u16) -> u16 {
    if x & flag::FTZ != 0 && half & F::INFINITY == 0 { half & 0x8000 } else { half }
}

/// `.ftz`, `.sat` and `.relu` of a result.
#[inline(always)]
fn result<F: Format>(x: u32, half: u16) -> u16 {
    let half = flush::<F>(x, half);
    let magnitude = half & 0x7fff;
    if x & flag::SAT != 0 {
        F::narrow(saturate(F::widen(half)))
    } else if x & flag::RELU != 0 && half >= 0x8000 && magnitude <= F::INFINITY {
        0
    } else {
        half
    }
}

/// min or max with its modifiers.
#[inline(always)]
fn extremum<F: Format>(x: u32, a: u16, b: u16, f: impl Fn(u16, u16) -> u16) -> u16 {
    let (sign, keep) = if x & flag::XOR_SIGN != 0 { ((a ^ b) & 0x8000, 0x7fff) } else { (0, 0xffff) };
    let (a, b) = (flush::<F>(x, a & keep), flush::<F>(x, b & keep));
    let nan = |half: u16| half & 0x7fff > F::INFINITY;
    if if x & flag::NAN != 0 { nan(a) || nan(b) } else { nan(a) && nan(b) } {
        return NAN_F16;
    }
    f(a, b) | sign
}

/// A function of both halves of packed words: the low halves of all lanes, then the high ones, since a loop that does
/// both at once is not vectorised.
#[inline(always)]
fn both<const N: usize>(warp: &mut Warp, inst: &Inst, mask: u32, f: impl Fn([u16; N]) -> u16) {
    let mut out = [0u32; LANES];
    let sources: [&[u32; LANES]; N] = std::array::from_fn(|n| warp.r32([inst.a, inst.b, inst.c][n]));
    for shift in [0, 16] {
        for i in 0..LANES {
            let mut halves = [0u16; N];
            for (half, source) in halves.iter_mut().zip(sources) {
                *half = (source[i] >> shift) as u16;
            }
            out[i] |= u32::from(f(halves)) << shift;
        }
    }
    warp.w32(inst.d, mask, &out);
}

/// Two operands, the plain form in a loop of its own.
#[inline(always)]
fn binary<F: Format>(warp: &mut Warp, inst: &Inst, mask: u32, f: impl Fn(u16, u16) -> u16) {
    let x = inst.x;
    if x == 0 {
        map2(warp, inst, mask, f);
    } else {
        map2(warp, inst, mask, |a: u16, b: u16| result::<F>(x, f(flush::<F>(x, a), flush::<F>(x, b))));
    }
}

#[inline(always)]
fn binary_packed<F: Format>(warp: &mut Warp, inst: &Inst, mask: u32, f: impl Fn(u16, u16) -> u16) {
    let x = inst.x;
    if x == 0 {
        both(warp, inst, mask, |[a, b]| f(a, b));
    } else {
        both(warp, inst, mask, |[a, b]| result::<F>(x, f(flush::<F>(x, a), flush::<F>(x, b))));
    }
}

#[inline(always)]
fn ternary<F: Format>(warp: &mut Warp, inst: &Inst, mask: u32) {
    let x = inst.x;
    if x == 0 {
        map3(warp, inst, mask, fma::<F>);
    } else {
        let full = |a, b, c| result::<F>(x, fma::<F>(flush::<F>(x, a), flush::<F>(x, b), flush::<F>(x, c)));
        map3(warp, inst, mask, full);
    }
}

#[inline(always)]
fn ternary_packed<F: Format>(warp: &mut Warp, inst: &Inst, mask: u32) {
    let x = inst.x;
    if x == 0 {
        both(warp, inst, mask, |[a, b, c]| fma::<F>(a, b, c));
    } else {
        let full = |[a, b, c]: [u16; 3]| result::<F>(x, fma::<F>(flush::<F>(x, a), flush::<F>(x, b), flush::<F>(x, c)));
        both(warp, inst, mask, full);
    }
}

#[inline(always)]
fn chosen<F: Format>(warp: &mut Warp, inst: &Inst, mask: u32, f: impl Fn(u16, u16) -> u16) {
    let x = inst.x;
    map2(warp, inst, mask, |a: u16, b: u16| extremum::<F>(x, a, b, &f));
}

#[inline(always)]
fn chosen_packed<F: Format>(warp: &mut Warp, inst: &Inst, mask: u32, f: impl Fn(u16, u16) -> u16) {
    let x = inst.x;
    both(warp, inst, mask, |[a, b]| extremum::<F>(x, a, b, &f));
}

/// abs and neg, which change sign bits alone.
#[inline(always)]
fn signs<F: Format>(warp: &mut Warp, inst: &Inst, mask: u32, f: impl Fn(u16) -> u16) {
    let x = inst.x;
    both(warp, inst, mask, |[a]| f(flush::<F>(x, a)));
}

ops! {
    ADD_F16 = |warp, _, inst, mask| binary::<F16>(warp, inst, mask, add::<F16>);
    SUB_F16 = |warp, _, inst, mask| binary::<F16>(warp, inst, mask, sub::<F16>);
    MUL_F16 = |warp, _, inst, mask| binary::<F16>(warp, inst, mask, mul::<F16>);
    FMA_F16 = |warp, _, inst, mask| ternary::<F16>(warp, inst, mask);
    MIN_F16 = |warp, _, inst, mask| chosen::<F16>(warp, inst, mask, min::<F16>);
    MAX_F16 = |warp, _, inst, mask| chosen::<F16>(warp, inst, mask, max::<F16>);
    ADD_F16X2 = |warp, _, inst, mask| binary_packed::<F16>(warp, inst, mask, add::<F16>);
    SUB_F16X2 = |warp, _, inst, mask| binary_packed::<F16>(warp, inst, mask, sub::<F16>);
    MUL_F16X2 = |warp, _, inst, mask| binary_packed::<F16>(warp, inst, mask, mul::<F16>);
    FMA_F16X2 = |warp, _, inst, mask| ternary_packed::<F16>(warp, inst, mask);
    MIN_F16X2 = |warp, _, inst, mask| chosen_packed::<F16>(warp, inst, mask, min::<F16>);
    MAX_F16X2 = |warp, _, inst, mask| chosen_packed::<F16>(warp, inst, mask, max::<F16>);
    ADD_BF16 = |warp, _, inst, mask| binary::<Bf16>(warp, inst, mask, add::<Bf16>);
    SUB_BF16 = |warp, _, inst, mask| binary::<Bf16>(warp, inst, mask, sub::<Bf16>);
    MUL_BF16 = |warp, _, inst, mask| binary::<Bf16>(warp, inst, mask, mul::<Bf16>);
    FMA_BF16 = |warp, _, inst, mask| ternary::<Bf16>(warp, inst, mask);
    MIN_BF16 = |warp, _, inst, mask| chosen::<Bf16>(warp, inst, mask, min::<Bf16>);
    MAX_BF16 = |warp, _, inst, mask| chosen::<Bf16>(warp, inst, mask, max::<Bf16>);
    ADD_BF16X2 = |warp, _, inst, mask| binary_packed::<Bf16>(warp, inst, mask, add::<Bf16>);
    SUB_BF16X2 = |warp, _, inst, mask| binary_packed::<Bf16>(warp, inst, mask, sub::<Bf16>);
    MUL_BF16X2 = |warp, _, inst, mask| binary_packed::<Bf16>(warp, inst, mask, mul::<Bf16>);
    FMA_BF16X2 = |warp, _, inst, mask| ternary_packed::<Bf16>(warp, inst, mask);
    MIN_BF16X2 = |warp, _, inst, mask| chosen_packed::<Bf16>(warp, inst, mask, min::<Bf16>);
    MAX_BF16X2 = |warp, _, inst, mask| chosen_packed::<Bf16>(warp, inst, mask, max::<Bf16>);
    // Signs are in the same place in both formats; a single half has zeros above it, and gets them back.
    ABS_HALF = |warp, _, inst, mask| signs::<F16>(warp, inst, mask, |a| a & 0x7fff);
    NEG_HALF = |warp, _, inst, mask| map1(warp, inst, mask, |a: u16| flush::<F16>(inst.x, a) ^ 0x8000);
    NEG_HALF_X2 = |warp, _, inst, mask| signs::<F16>(warp, inst, mask, |a| a ^ 0x8000);
    EX2_F16 = |warp, _, inst, mask| map1(warp, inst, mask, approx::ex2_f16);
    EX2_F16X2 = |warp, _, inst, mask| both(warp, inst, mask, |[a]| approx::ex2_f16(a));
    EX2_BF16 = |warp, _, inst, mask| map1(warp, inst, mask, approx::ex2_bf16);
    EX2_BF16X2 = |warp, _, inst, mask| both(warp, inst, mask, |[a]| approx::ex2_bf16(a));
    TANH_F16 = |warp, _, inst, mask| map1(warp, inst, mask, approx::tanh_f16);
    TANH_F16X2 = |warp, _, inst, mask| both(warp, inst, mask, |[a]| approx::tanh_f16(a));
    TANH_BF16 = |warp, _, inst, mask| map1(warp, inst, mask, approx::tanh_bf16);
    TANH_BF16X2 = |warp, _, inst, mask| both(warp, inst, mask, |[a]| approx::tanh_bf16(a));
}
