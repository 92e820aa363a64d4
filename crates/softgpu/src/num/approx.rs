//! The `.approx` operations.
//!
//! Each is computed in f64 and rounded once, so it is within 0.501 units of the last place where hardware is within
//! one or two: no test may ask for equality with a GPU. Special values are those of the PTX tables.
//! [`ex2`] and [`lg2`] are polynomials without branches, since softmax spends its time there and a lane loop must
//! vectorise them; they use no fused multiply-add, so the AVX2 and the portable build return the same bits.

use super::round::{canonical, flush, flush_if};
use super::{NAN_F32, NAN_F64, half};

/// `ex2.approx`: 2 to the power of `x`.
#[inline(always)]
pub fn ex2(x: f32, ftz: bool) -> f32 {
    flush_if(ftz, canonical(exp2_f64(x) as f32))
}

/// 2^x in f64 to about 40 bits; any finite input, and infinities (which are clamped to where f32 is 0 or infinite).
#[inline(always)]
fn exp2_f64(x: f32) -> f64 {
    let clamped = if x < -200.0 {
        -200.0
    } else if x > 200.0 {
        200.0
    } else {
        x as f64
    };
    // Adding 1.5 * 2^52 rounds to an integer, which then stands in the low bits.
    const MAGIC: f64 = 6_755_399_441_055_744.0;
    let shifted = clamped + MAGIC;
    let t = (clamped - (shifted - MAGIC)) * std::f64::consts::LN_2;
    // e^t for |t| <= ln(2)/2: the series to t^10, whose next term is below 2^-42.
    let mut p = 1.0 / 3_628_800.0;
    for factorial in [362_880.0, 40_320.0, 5_040.0, 720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0] {
        p = p * t + 1.0 / factorial;
    }
    let scale = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    if x.is_nan() { f64::NAN } else { p * scale }
}

/// `lg2.approx`: the binary logarithm.
#[inline(always)]
pub fn lg2(x: f32, ftz: bool) -> f32 {
    let x = flush_if(ftz, x);
    let finite = log2_f64(x) as f32;
    let special = if x == 0.0 {
        f32::NEG_INFINITY
    } else if x == f32::INFINITY {
        f32::INFINITY
    } else {
        f32::from_bits(NAN_F32)
    };
    if x > 0.0 && x < f32::INFINITY { flush_if(ftz, finite) } else { special }
}

/// The binary logarithm of a positive finite f32 in f64, with a small relative error also near 1.
#[inline(always)]
fn log2_f64(x: f32) -> f64 {
    let bits = (x as f64).to_bits();
    // x = m * 2^e with m between sqrt(1/2) and sqrt(2), so that x near 1 has e = 0.
    const SQRT_HALF: u64 = 0x3fe6_a09e_667f_3bcd;
    let offset = bits.wrapping_sub(SQRT_HALF);
    let e = (offset as i64 >> 52) as i32 as f64;
    let m = f64::from_bits(bits.wrapping_sub(offset & 0xfff0_0000_0000_0000));
    // ln(m) = 2 atanh(s); |s| <= 0.172, the first neglected term is below 2^-48 of the sum.
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let mut p = 1.0 / 17.0;
    for odd in [15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        p = p * z + 1.0 / odd;
    }
    e + p * s * (2.0 * std::f64::consts::LOG2_E)
}

/// `rcp.approx`: one over `x`.
#[inline(always)]
pub fn rcp(x: f32, ftz: bool) -> f32 {
    flush_if(ftz, canonical(1.0 / flush_if(ftz, x)))
}

/// `sqrt.approx`.
#[inline(always)]
pub fn sqrt(x: f32, ftz: bool) -> f32 {
    canonical(flush_if(ftz, x).sqrt())
}

/// `rsqrt.approx`: one over the square root; minus infinity for -0.
#[inline(always)]
pub fn rsqrt(x: f32, ftz: bool) -> f32 {
    canonical((1.0 / (flush_if(ftz, x) as f64).sqrt()) as f32)
}

/// `div.approx`: `a` times the reciprocal of `b`, which is 0 for |b| above 2^126 and overflows for the smallest `b`.
#[inline(always)]
pub fn div(a: f32, b: f32, ftz: bool) -> f32 {
    let (a, b) = (flush_if(ftz, a), flush_if(ftz, b));
    let in_range = b.abs() >= f32::MIN_POSITIVE && b.abs() <= f32::from_bits((127 + 126) << 23);
    let quotient = if in_range { a / b } else { a * flush(1.0 / b) };
    flush_if(ftz, canonical(quotient))
}

/// `div.full`: within two units over the full range; here rounded to nearest.
#[inline(always)]
pub fn div_full(a: f32, b: f32, ftz: bool) -> f32 {
    flush_if(ftz, canonical(flush_if(ftz, a) / flush_if(ftz, b)))
}

/// `sin.approx`; NaN for an infinity.
pub fn sin(x: f32, ftz: bool) -> f32 {
    flush_if(ftz, canonical((flush_if(ftz, x) as f64).sin() as f32))
}

/// `cos.approx`; NaN for an infinity.
pub fn cos(x: f32, ftz: bool) -> f32 {
    flush_if(ftz, canonical((flush_if(ftz, x) as f64).cos() as f32))
}

/// `tanh.approx`.
pub fn tanh(x: f32) -> f32 {
    canonical((x as f64).tanh() as f32)
}

/// `ex2.approx.f16`: no flushing.
#[inline(always)]
pub fn ex2_f16(x: u16) -> u16 {
    half::f16_from_f32(half::narrow_odd(exp2_f64(half::f16_to_f32(x))))
}

/// `ex2.approx.ftz.bf16`: subnormal results are flushed.
#[inline(always)]
pub fn ex2_bf16(x: u16) -> u16 {
    half::bf16_from_f32(flush(half::narrow_odd(exp2_f64(half::bf16_to_f32(x)))))
}

/// `tanh.approx.f16`.
pub fn tanh_f16(x: u16) -> u16 {
    half::f16_from_f32(half::narrow_odd((half::f16_to_f32(x) as f64).tanh()))
}

/// `tanh.approx.bf16`.
pub fn tanh_bf16(x: u16) -> u16 {
    half::bf16_from_f32(half::narrow_odd((half::bf16_to_f32(x) as f64).tanh()))
}

/// `rcp.approx.ftz.f64`: reads and writes only the upper 32 bits; subnormals are zero on both sides.
pub fn rcp_f64(x: f64) -> f64 {
    let upper = x.to_bits() & 0xffff_ffff_0000_0000;
    approx_f64(upper, |value| 1.0 / value)
}

/// `rsqrt.approx.ftz.f64`: as [`rcp_f64`].
pub fn rsqrt_f64(x: f64) -> f64 {
    let upper = x.to_bits() & 0xffff_ffff_0000_0000;
    approx_f64(upper, |value| 1.0 / value.sqrt())
}

/// `rsqrt.approx.f64`, over the full range.
pub fn rsqrt_full_f64(x: f64) -> f64 {
    let result = 1.0 / x.sqrt();
    if result.is_nan() { f64::from_bits(NAN_F64) } else { result }
}

fn approx_f64(upper: u64, function: fn(f64) -> f64) -> f64 {
    const EXPONENT: u64 = 0x7ff0_0000_0000_0000;
    let flush = |bits: u64| if bits & EXPONENT == 0 { bits & 1 << 63 } else { bits };
    let result = function(f64::from_bits(flush(upper)));
    if result.is_nan() {
        return f64::from_bits((NAN_F32 as u64) << 32);
    }
    f64::from_bits(flush(result.to_bits() & 0xffff_ffff_0000_0000))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAN: u32 = NAN_F32;
    const INF: u32 = 0x7f80_0000;
    const MINUS: u32 = 0x8000_0000;

    /// The distance from an exact value in units of the last place of the f32 nearest to it.
    fn ulps(got: f32, exact: f64) -> f64 {
        let exponent = (exact.abs().to_bits() >> 52) as i32 - 1023;
        let unit = (exponent.max(-126) as f64 - 23.0).exp2();
        (got as f64 - exact).abs() / unit
    }

    fn sweep(function: fn(f32, bool) -> f32, exact: fn(f64) -> f64, low: u32, high: u32) {
        let mut worst = 0.0f64;
        for step in 0..300_000u64 {
            let bits = low + ((high - low) as u64 * step / 300_000) as u32;
            for x in [f32::from_bits(bits), -f32::from_bits(bits)] {
                let expected = exact(x as f64);
                if expected.is_finite() && expected.abs() < f32::MAX as f64 {
                    worst = worst.max(ulps(function(x, false), expected));
                }
            }
        }
        assert!(worst <= 0.5001, "worst error {worst} ulp");
    }

    #[test]
    fn errors_stay_near_half_a_unit() {
        sweep(ex2, f64::exp2, 0x3000_0000, 150f32.to_bits());
        sweep(lg2, f64::log2, 1, 0x7f7f_ffff);
        sweep(lg2, f64::log2, 0.9f32.to_bits(), 1.1f32.to_bits());
        sweep(rcp, |x| 1.0 / x, 1, 0x7f7f_ffff);
        sweep(rsqrt, |x| 1.0 / x.sqrt(), 1, 0x7f7f_ffff);
        sweep(sqrt, f64::sqrt, 1, 0x7f7f_ffff);
        sweep(sin, f64::sin, 1, 100f32.to_bits());
        sweep(cos, f64::cos, 1, 100f32.to_bits());
    }

    /// Exact where the exact result is an f32: all powers of two.
    #[test]
    fn powers_of_two_are_exact_both_ways() {
        for n in -149..128 {
            let power = (n as f64).exp2() as f32;
            assert_eq!(ex2(n as f32, false), power);
            assert_eq!(lg2(power, false), n as f32);
        }
        assert_eq!(ex2(-149.5, false).to_bits(), 1);
        assert_eq!(ex2(-150.5, false).to_bits(), 0);
        assert_eq!(ex2(128.0, false).to_bits(), INF);
    }

    fn table(name: &str, function: fn(f32, bool) -> f32, rows: &[(u32, u32, u32)]) {
        for &(input, plain, flushed) in rows {
            for (ftz, expected) in [(false, plain), (true, flushed)] {
                let got = function(f32::from_bits(input), ftz).to_bits();
                assert_eq!(got, expected, "{name}(ftz {ftz}) of {input:#010x}: {got:#010x} for {expected:#010x}");
            }
        }
    }

    /// Input, result, result with .ftz. The values of normal numbers are exact ones.
    #[test]
    fn special_values_are_those_of_the_ptx_tables() {
        const ONE: u32 = 0x3f80_0000;
        // 2^-130 as a subnormal, and 2^130 does not exist.
        const SUB: u32 = 1 << 19;
        table(
            "ex2",
            ex2,
            &[
                (INF | MINUS, 0, 0),
                (MINUS, ONE, ONE),
                (0, ONE, ONE),
                (SUB, ONE, ONE),
                (INF, INF, INF),
                (NAN, NAN, NAN),
                (0xffc0_0001, NAN, NAN),
                (0xc302_0000, SUB, 0),
                (0x7f7f_ffff, INF, INF),
                (0xff7f_ffff, 0, 0),
            ],
        );
        table(
            "lg2",
            lg2,
            &[
                (INF | MINUS, NAN, NAN),
                (0xbf80_0000, NAN, NAN),
                (MINUS, INF | MINUS, INF | MINUS),
                (0, INF | MINUS, INF | MINUS),
                (SUB, 0xc302_0000, INF | MINUS),
                (SUB | MINUS, NAN, INF | MINUS),
                (ONE, 0, 0),
                (INF, INF, INF),
                (NAN, NAN, NAN),
            ],
        );
        table(
            "rcp",
            rcp,
            &[
                (INF | MINUS, MINUS, MINUS),
                (MINUS, INF | MINUS, INF | MINUS),
                (0, INF, INF),
                (SUB, INF, INF),
                (SUB | MINUS, INF | MINUS, INF | MINUS),
                (INF, 0, 0),
                (NAN, NAN, NAN),
                (0x7f00_0000, 1 << 22, 0),
                (1 << 22, 0x7f00_0000, INF),
            ],
        );
        table(
            "sqrt",
            sqrt,
            &[
                (INF | MINUS, NAN, NAN),
                (0xbf80_0000, NAN, NAN),
                (MINUS, MINUS, MINUS),
                (0, 0, 0),
                (SUB, 0x1f00_0000, 0),
                (SUB | MINUS, NAN, MINUS),
                (INF, INF, INF),
                (NAN, NAN, NAN),
            ],
        );
        table(
            "rsqrt",
            rsqrt,
            &[
                (INF | MINUS, NAN, NAN),
                (0xbf80_0000, NAN, NAN),
                (MINUS, INF | MINUS, INF | MINUS),
                (0, INF, INF),
                (SUB, 0x6000_0000, INF),
                (SUB | MINUS, NAN, INF | MINUS),
                (INF, 0, 0),
                (NAN, NAN, NAN),
            ],
        );
        table(
            "sin",
            sin,
            &[
                (INF | MINUS, NAN, NAN),
                (INF, NAN, NAN),
                (MINUS, MINUS, MINUS),
                (0, 0, 0),
                (SUB, SUB, 0),
                (NAN, NAN, NAN),
            ],
        );
        table(
            "cos",
            cos,
            &[
                (INF | MINUS, NAN, NAN),
                (INF, NAN, NAN),
                (MINUS, ONE, ONE),
                (0, ONE, ONE),
                (SUB, ONE, ONE),
                (NAN, NAN, NAN),
            ],
        );
        let whole = |x, _| tanh(x);
        table(
            "tanh",
            whole,
            &[
                (INF | MINUS, ONE | MINUS, ONE | MINUS),
                (INF, ONE, ONE),
                (MINUS, MINUS, MINUS),
                (0, 0, 0),
                (SUB, SUB, SUB),
                (NAN, NAN, NAN),
            ],
        );
    }

    #[test]
    fn division_by_very_large_numbers_gives_zero_or_nan() {
        let huge = f32::from_bits(0x7e80_0001);
        for (a, b, expected) in [
            (1.0, 2.0f32.powi(126), 2.0f32.powi(-126).to_bits()),
            (f32::MAX, huge, 0),
            (f32::MAX, -huge, MINUS),
            (f32::INFINITY, huge, NAN),
            (1.0, f32::INFINITY, 0),
            (1.0, 0.0, INF),
            (-1.0, 0.0, INF | MINUS),
            (0.0, 0.0, NAN),
            (6.0, 3.0, 2.0f32.to_bits()),
        ] {
            assert_eq!(div(a, b, false).to_bits(), expected, "{a:e} / {b:e}");
        }
        assert_eq!(div_full(f32::MAX, huge, false), f32::MAX / huge);
        assert_eq!(div_full(1.0, f32::from_bits(5), true), f32::INFINITY);
    }

    #[test]
    fn every_half_exponential_and_tangent_is_rounded_once() {
        for x in 0..=u16::MAX {
            let value = half::f16_to_f32(x);
            let (ex2, tanh) = (half::f16_to_f32(ex2_f16(x)), half::f16_to_f32(tanh_f16(x)));
            if value.is_nan() {
                assert_eq!((ex2_f16(x), tanh_f16(x), ex2_bf16(x | 0x7fff)), (0x7fff, 0x7fff, 0x7fff));
                continue;
            }
            for (got, exact) in [(ex2, (value as f64).exp2()), (tanh, (value as f64).tanh())] {
                let exponent = (exact.abs().to_bits() >> 52) as i32 - 1023;
                let unit = (exponent.max(-14) as f64 - 10.0).exp2();
                assert!(got.is_infinite() == (exact >= 65520.0), "{value}");
                assert!(got.is_infinite() || (got as f64 - exact).abs() <= 0.5001 * unit, "{value}: {got} for {exact}");
            }
        }
        assert_eq!(ex2_bf16(half::bf16_from_f32(-127.0)), 0);
        assert_eq!(ex2_bf16(half::bf16_from_f32(-126.0)), 0x0080);
        assert_eq!((ex2_bf16(0xff80), ex2_bf16(0x7f80), ex2_f16(0xfc00), ex2_f16(0x7c00)), (0, 0x7f80, 0, 0x7c00));
        assert_eq!((tanh_bf16(0x7f80), tanh_bf16(0xff80), tanh_bf16(0x8000)), (0x3f80, 0xbf80, 0x8000));
    }

    #[test]
    fn double_reciprocals_use_the_upper_word_only() {
        let rows: [(u64, u64); 6] = [
            (0x7ff0 << 48, 0),
            (0xfff0 << 48, 1 << 63),
            (0, 0x7ff0 << 48),
            (0x800f_ffff_ffff_ffff, 0xfff0 << 48),
            (0x7ff8_0000_0000_0001, 0x7fff_ffff_0000_0000),
            (0x4000_0000_ffff_ffff, 0x3fe0 << 48),
        ];
        for (input, expected) in rows {
            assert_eq!(rcp_f64(f64::from_bits(input)).to_bits(), expected, "{input:#x}");
        }
        assert_eq!(rsqrt_f64(4.0), 0.5);
        assert_eq!(rsqrt_f64(-0.0), f64::NEG_INFINITY);
        assert_eq!(rsqrt_f64(-1.0).to_bits(), 0x7fff_ffff_0000_0000);
        assert_eq!(rsqrt_f64(f64::INFINITY).to_bits(), 0);
    }
}
