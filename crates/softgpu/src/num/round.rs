//! f32 and f64 operations in the four rounding modes, with PTX's NaNs, subnormal flushing and saturation.
//!
//! Round-to-nearest is the host's own arithmetic. The directed modes of f32 go through f64: a product of two f32 is
//! exact there, a sum is made exact by its error term ([`sum_odd`]), quotients and roots by the sign of their
//! remainder, and one directed step down to f32 rounds. The directed modes of f64 are done in integers ([`soft`]).

use super::soft::{self, F64};
use super::{NAN_F32, NAN_F64, Rounding};

/// Replaces any NaN by the one PTX's f32 operations return.
#[inline(always)]
pub fn canonical(value: f32) -> f32 {
    // Compared as an integer: with `is_nan` the optimiser, to which all NaNs are alike, drops the replacement.
    let bits = value.to_bits();
    f32::from_bits(if bits & 0x7fff_ffff > 0x7f80_0000 { NAN_F32 } else { bits })
}

/// `.ftz`: a subnormal becomes a zero of its sign.
#[inline(always)]
pub fn flush(value: f32) -> f32 {
    let bits = value.to_bits();
    f32::from_bits(if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits })
}

/// `.ftz` where it is asked for.
#[inline(always)]
pub fn flush_if(ftz: bool, value: f32) -> f32 {
    if ftz { flush(value) } else { value }
}

/// `.sat` for f32: clamped to 0..1, NaN and both zeros give +0.
#[inline(always)]
pub fn saturate(value: f32) -> f32 {
    let at_most_one = if value < 1.0 { value } else { 1.0 };
    if value > 0.0 { at_most_one } else { 0.0 }
}

/// `.sat` for f64.
#[inline(always)]
pub fn saturate_f64(value: f64) -> f64 {
    let at_most_one = if value < 1.0 { value } else { 1.0 };
    if value > 0.0 { at_most_one } else { 0.0 }
}

/// The nearest f64 to the sum, moved to the neighbour whose last bit is one when the sum is inexact. That bit then
/// stands for everything below, so a later rounding to f32 in any mode sees which side the exact sum lies on.
#[inline(always)]
pub fn sum_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    let b_part = sum - a;
    let a_part = sum - b_part;
    let error = (a - a_part) + (b - b_part);
    odd(sum, error)
}

/// `near` is the f64 nearest to some value, `error` has the sign of the value minus `near` (0 or NaN: leave it).
#[inline(always)]
fn odd(near: f64, error: f64) -> f64 {
    let bits = near.to_bits();
    let outward = (error > 0.0) == (near > 0.0);
    let moved = if outward { bits.wrapping_add(1) } else { bits.wrapping_sub(1) };
    let inexact = error < 0.0 || error > 0.0;
    f64::from_bits(if inexact && bits & 1 == 0 { moved } else { bits })
}

/// An f64 to f32 in any mode; exact inputs of a longer value must carry its sticky bit.
#[inline(always)]
pub fn narrow(value: f64, mode: Rounding) -> f32 {
    let near = value as f32;
    let back = near as f64;
    let bits = near.to_bits();
    let negative = bits >> 31 == 1;
    let (inward, outward) = (bits.wrapping_sub(1), bits.wrapping_add(1));
    let rounded = match mode {
        Rounding::Nearest => bits,
        Rounding::Zero if back.abs() > value.abs() => inward,
        Rounding::Down if back > value => {
            if negative {
                outward
            } else {
                inward
            }
        }
        Rounding::Up if back < value => {
            if negative {
                inward
            } else {
                outward
            }
        }
        _ => bits,
    };
    f32::from_bits(if value.is_nan() { NAN_F32 } else { rounded })
}

/// The sum of an exact f64 product (or widened f32) and an f32, rounded once.
#[inline(always)]
fn sum_f32(a: f64, b: f64, mode: Rounding) -> f32 {
    let sum = sum_odd(a, b);
    let both_positive_zero = a.to_bits() | b.to_bits() == 0;
    // Rounding down, an exact sum of zero is -0 unless both terms are +0.
    let sum = if mode == Rounding::Down && sum == 0.0 && !both_positive_zero { -0.0 } else { sum };
    narrow(sum, mode)
}

/// `a + b`.
#[inline(always)]
pub fn add_f32(a: f32, b: f32, mode: Rounding) -> f32 {
    match mode {
        Rounding::Nearest => canonical(a + b),
        _ => sum_f32(a as f64, b as f64, mode),
    }
}

/// `a * b`.
#[inline(always)]
pub fn mul_f32(a: f32, b: f32, mode: Rounding) -> f32 {
    match mode {
        Rounding::Nearest => canonical(a * b),
        _ => narrow(a as f64 * b as f64, mode),
    }
}

/// `a * b + c` with one rounding.
#[inline(always)]
pub fn fma_f32(a: f32, b: f32, c: f32, mode: Rounding) -> f32 {
    match mode {
        Rounding::Nearest => canonical(a.mul_add(b, c)),
        _ => sum_f32(a as f64 * b as f64, c as f64, mode),
    }
}

/// `a / b`.
#[inline(always)]
pub fn div_f32(a: f32, b: f32, mode: Rounding) -> f32 {
    if mode == Rounding::Nearest {
        return canonical(a / b);
    }
    let (a, b) = (a as f64, b as f64);
    let quotient = a / b;
    // The remainder is exact in one fused step: nothing here comes near f64's subnormals.
    let remainder = (-quotient).mul_add(b, a);
    let error = if b < 0.0 { -remainder } else { remainder };
    narrow(if quotient.is_finite() { odd(quotient, error) } else { quotient }, mode)
}

/// The square root of `a`.
#[inline(always)]
pub fn sqrt_f32(a: f32, mode: Rounding) -> f32 {
    if mode == Rounding::Nearest {
        return canonical(a.sqrt());
    }
    let a = a as f64;
    let root = a.sqrt();
    let remainder = (-root).mul_add(root, a);
    narrow(if root.is_finite() { odd(root, remainder) } else { root }, mode)
}

/// The NaN rule of f64 operations: the first operand that is a NaN, made quiet, else the default one.
#[inline(always)]
pub fn nan_f64(result: f64, operands: [f64; 3]) -> f64 {
    if !result.is_nan() {
        return result;
    }
    let quiet = |value: f64| f64::from_bits(value.to_bits() | 1 << 51);
    match operands {
        [a, _, _] if a.is_nan() => quiet(a),
        [_, b, _] if b.is_nan() => quiet(b),
        [_, _, c] if c.is_nan() => quiet(c),
        _ => f64::from_bits(NAN_F64),
    }
}

/// `a + b`.
#[inline(always)]
pub fn add_f64(a: f64, b: f64, mode: Rounding) -> f64 {
    let result = match mode {
        Rounding::Nearest => a + b,
        _ => f64::from_bits(soft::add(a.to_bits(), b.to_bits(), F64, mode)),
    };
    nan_f64(result, [a, b, 0.0])
}

/// `a * b`.
#[inline(always)]
pub fn mul_f64(a: f64, b: f64, mode: Rounding) -> f64 {
    let result = match mode {
        Rounding::Nearest => a * b,
        _ => f64::from_bits(soft::mul(a.to_bits(), b.to_bits(), F64, mode)),
    };
    nan_f64(result, [a, b, 0.0])
}

/// `a * b + c` with one rounding.
#[inline(always)]
pub fn fma_f64(a: f64, b: f64, c: f64, mode: Rounding) -> f64 {
    let result = match mode {
        Rounding::Nearest => a.mul_add(b, c),
        _ => f64::from_bits(soft::fma(a.to_bits(), b.to_bits(), c.to_bits(), F64, mode)),
    };
    nan_f64(result, [a, b, c])
}

/// `a / b`.
#[inline(always)]
pub fn div_f64(a: f64, b: f64, mode: Rounding) -> f64 {
    let result = match mode {
        Rounding::Nearest => a / b,
        _ => f64::from_bits(soft::div(a.to_bits(), b.to_bits(), F64, mode)),
    };
    nan_f64(result, [a, b, 0.0])
}

/// The square root of `a`.
#[inline(always)]
pub fn sqrt_f64(a: f64, mode: Rounding) -> f64 {
    let result = match mode {
        Rounding::Nearest => a.sqrt(),
        _ => f64::from_bits(soft::sqrt(a.to_bits(), F64, mode)),
    };
    nan_f64(result, [a, 0.0, 0.0])
}

/// Rounds to an integral value (`.rni`, `.rzi`, `.rmi`, `.rpi`).
#[inline(always)]
pub fn integral(value: f64, mode: Rounding) -> f64 {
    match mode {
        Rounding::Nearest => value.round_ties_even(),
        Rounding::Zero => value.trunc(),
        Rounding::Down => value.floor(),
        Rounding::Up => value.ceil(),
    }
}

/// [`integral`] for f32.
#[inline(always)]
pub fn integral_f32(value: f32, mode: Rounding) -> f32 {
    match mode {
        Rounding::Nearest => value.round_ties_even(),
        Rounding::Zero => value.trunc(),
        Rounding::Down => value.floor(),
        Rounding::Up => value.ceil(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::soft::F32;
    use super::*;

    /// Values on every edge of f32: zeros, subnormals, limits, ones and their neighbours, infinities, a NaN.
    const EDGES: [u32; 24] = [
        0,
        1,
        2,
        0x0040_0000,
        0x007f_ffff,
        0x0080_0000,
        0x0080_0001,
        0x00ff_ffff,
        0x1f80_0000,
        0x3300_0000,
        0x337f_ffff,
        0x3380_0000,
        0x3f00_0000,
        0x3f7f_ffff,
        0x3f80_0000,
        0x3f80_0001,
        0x4000_0000,
        0x4b7f_ffff,
        0x4b80_0000,
        0x5f80_0001,
        0x7f00_0000,
        0x7f7f_ffff,
        0x7f80_0000,
        0x7fc0_0000,
    ];

    fn edges() -> impl Iterator<Item = u32> + Clone {
        EDGES.into_iter().flat_map(|bits| [bits, bits | 0x8000_0000])
    }

    /// A generator with half of its values at edges of exponent or fraction.
    fn random() -> impl FnMut() -> u64 {
        let mut state = 0x2545_f491_4f6c_dd1du64;
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.wrapping_mul(0x9e37_79b9_7f4a_7c15)
        }
    }

    /// An f32 pattern whose exponent is often close to `near`'s, so that sums cancel and products meet the addend.
    fn neighbour(random: u64, near: u32) -> u32 {
        let spread = (random >> 40) as i32 % 27;
        let exponent = match random >> 62 {
            0 => (random >> 32) as i32 & 0xff,
            _ => ((near >> 23 & 0xff) as i32 + spread - 13).clamp(0, 254),
        };
        let fraction = match random >> 60 & 3 {
            0 => 0,
            1 => 0x7f_ffff,
            _ => random as u32 & 0x7f_ffff,
        };
        (random as u32 & 0x8000_0000) | (exponent as u32) << 23 | fraction
    }

    fn f(bits: u32) -> f32 {
        f32::from_bits(bits)
    }

    fn check2(
        name: &str,
        a: u32,
        b: u32,
        fast: fn(f32, f32, Rounding) -> f32,
        slow: fn(u64, u64, soft::Format, Rounding) -> u64,
    ) {
        for mode in Rounding::ALL {
            let expected = slow(a as u64, b as u64, F32, mode) as u32;
            assert_eq!(fast(f(a), f(b), mode).to_bits(), expected, "{name} {mode:?} {a:#010x} {b:#010x}");
        }
    }

    fn check3(a: u32, b: u32, c: u32) {
        for mode in Rounding::ALL {
            let expected = soft::fma(a as u64, b as u64, c as u64, F32, mode) as u32;
            assert_eq!(
                fma_f32(f(a), f(b), f(c), mode).to_bits(),
                expected,
                "fma {mode:?} {a:#010x} {b:#010x} {c:#010x}"
            );
        }
    }

    #[test]
    fn f32_operations_agree_with_integers_on_all_edges() {
        for a in edges() {
            for b in edges() {
                check2("add", a, b, add_f32, soft::add);
                check2("mul", a, b, mul_f32, soft::mul);
                check2("div", a, b, div_f32, soft::div);
                for c in edges() {
                    check3(a, b, c);
                }
            }
            for mode in Rounding::ALL {
                assert_eq!(
                    sqrt_f32(f(a), mode).to_bits(),
                    soft::sqrt(a as u64, F32, mode) as u32,
                    "sqrt {mode:?} {a:#x}"
                );
            }
        }
    }

    #[test]
    fn f32_operations_agree_with_integers_on_random_values() {
        let mut next = random();
        for _ in 0..150_000 {
            let a = next() as u32;
            let b = neighbour(next(), a);
            check2("add", a, b, add_f32, soft::add);
            check2("mul", a, b, mul_f32, soft::mul);
            check2("div", a, b, div_f32, soft::div);
            let product = (f(a) * f(b)).to_bits();
            check3(a, b, neighbour(next(), product));
            for mode in Rounding::ALL {
                assert_eq!(
                    sqrt_f32(f(a), mode).to_bits(),
                    soft::sqrt(a as u64, F32, mode) as u32,
                    "sqrt {mode:?} {a:#x}"
                );
            }
        }
    }

    /// The host's own f64 arithmetic rounds to nearest: it checks the integers in the format they are used for.
    #[test]
    fn integers_agree_with_the_host_in_f64() {
        let mut next = random();
        let mode = Rounding::Nearest;
        let check = |a: u64, b: u64, c: u64| {
            let (x, y, z) = (f64::from_bits(a), f64::from_bits(b), f64::from_bits(c));
            for (name, host, ours) in [
                ("add", x + y, soft::add(a, b, F64, mode)),
                ("mul", x * y, soft::mul(a, b, F64, mode)),
                ("div", x / y, soft::div(a, b, F64, mode)),
                ("fma", x.mul_add(y, z), soft::fma(a, b, c, F64, mode)),
                ("sqrt", x.sqrt(), soft::sqrt(a, F64, mode)),
            ] {
                let expected = if host.is_nan() { NAN_F64 } else { host.to_bits() };
                assert_eq!(ours, expected, "{name} {a:#018x} {b:#018x} {c:#018x}");
            }
        };
        for _ in 0..200_000 {
            let (a, r, s) = (next(), next(), next());
            // Close exponents half of the time; the addend close to the product.
            let b = if r & 1 == 0 { r } else { a & 0x7ff0 << 48 ^ r >> 12 };
            let product = (f64::from_bits(a) * f64::from_bits(b)).to_bits();
            let c =
                if s & 1 == 0 { s } else { (product & 0xfff0 << 48).wrapping_add((s >> 58) << 52) ^ 1 << 63 ^ s >> 12 };
            check(a, b, c);
        }
        let specials = [0, 1, 1 << 52, 0x3ff0 << 48, 0x7fef << 48 | 0xffff_ffff_ffff, 0x7ff0 << 48, 0x7ff8 << 48];
        let signed = specials.map(|bits: u64| [bits, bits | 1 << 63]).concat();
        for &a in &signed {
            for &b in &signed {
                for &c in &signed {
                    check(a, b, c);
                }
            }
        }
    }

    /// Directed results enclose the nearest one, touch only when exact, and are at most one step apart.
    #[test]
    fn directed_f64_results_enclose_the_exact_one() {
        let mut next = random();
        for _ in 0..100_000 {
            let (a, b, c) = (f64::from_bits(next()), f64::from_bits(next()), f64::from_bits(next()));
            for run in [
                |a: f64, b: f64, _: f64, m| add_f64(a, b, m),
                |a: f64, b: f64, _: f64, m| mul_f64(a, b, m),
                |a: f64, b: f64, _: f64, m| div_f64(a, b, m),
                |a: f64, b: f64, c: f64, m| fma_f64(a, b, c, m),
                |a: f64, _: f64, _: f64, m| sqrt_f64(a.abs(), m),
            ] {
                let [near, zero, down, up] = Rounding::ALL.map(|mode| run(a, b, c, mode));
                if near.is_nan() {
                    assert!(zero.is_nan() && down.is_nan() && up.is_nan());
                    continue;
                }
                assert!(down <= near && near <= up, "{down:e} {near:e} {up:e}");
                assert!(up == down || up == down.next_up(), "{down:e} {up:e}");
                assert_eq!(zero, if near.is_sign_negative() { up } else { down });
            }
        }
    }

    #[test]
    fn an_exact_zero_sum_is_minus_zero_only_when_rounding_down() {
        for (a, b) in [(1.5f32, -1.5f32), (0.0, -0.0), (-0.0, 0.0)] {
            for mode in Rounding::ALL {
                let expected = if mode == Rounding::Down { 0x8000_0000 } else { 0 };
                assert_eq!(add_f32(a, b, mode).to_bits(), expected, "{a} + {b} {mode:?}");
                assert_eq!(fma_f32(a, 1.0, b, mode).to_bits(), expected);
                assert_eq!(add_f64(a as f64, b as f64, mode).to_bits(), (expected as u64) << 32);
            }
        }
        assert_eq!(add_f32(0.0, 0.0, Rounding::Down).to_bits(), 0);
        assert_eq!(add_f32(-0.0, -0.0, Rounding::Up).to_bits(), 0x8000_0000);
    }

    #[test]
    fn overflow_stops_at_the_largest_finite_number_when_rounding_inward() {
        let cases = [
            (Rounding::Nearest, true, true),
            (Rounding::Zero, false, false),
            (Rounding::Down, false, true),
            (Rounding::Up, true, false),
        ];
        for (mode, positive, negative) in cases {
            let expected = |infinite| if infinite { f32::INFINITY } else { f32::MAX };
            assert_eq!(mul_f32(f32::MAX, 2.0, mode), expected(positive), "{mode:?}");
            assert_eq!(add_f32(-f32::MAX, -f32::MAX, mode), -expected(negative), "{mode:?}");
            assert_eq!(fma_f32(f32::MAX, 2.0, 1.0, mode), expected(positive), "{mode:?}");
        }
    }

    #[test]
    fn f64_nans_keep_the_first_payload_and_are_quiet() {
        let (first, second) = (f64::from_bits(0x7ff0_0000_0000_0123), f64::from_bits(0xfff8_0000_0000_0456));
        assert_eq!(add_f64(first, second, Rounding::Nearest).to_bits(), 0x7ff8_0000_0000_0123);
        assert_eq!(fma_f64(1.0, 2.0, second, Rounding::Zero).to_bits(), 0xfff8_0000_0000_0456);
        assert_eq!(sqrt_f64(-1.0, Rounding::Nearest).to_bits(), NAN_F64);
        assert_eq!(div_f64(0.0, 0.0, Rounding::Up).to_bits(), NAN_F64);
    }

    #[test]
    fn saturation_and_flushing() {
        for (value, expected) in [
            (f32::NAN, 0u32),
            (-0.0, 0),
            (-3.0, 0),
            (0.25, 0x3e80_0000),
            (7.0, 0x3f80_0000),
            (f32::INFINITY, 0x3f80_0000),
        ] {
            assert_eq!(saturate(value).to_bits(), expected, "{value}");
            assert_eq!(saturate_f64(value as f64) as f32, f(expected));
        }
        for (bits, expected) in
            [(1, 0), (0x807f_ffff, 0x8000_0000), (0x0080_0000, 0x0080_0000), (0x7fc0_0001, 0x7fc0_0001)]
        {
            assert_eq!(flush(f(bits)).to_bits(), expected);
        }
    }
}
