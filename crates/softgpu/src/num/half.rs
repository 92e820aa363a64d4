//! f16 and bf16 as 16-bit patterns, to and from f32.
//!
//! Both widen exactly. Narrowing from f32 rounds once; narrowing a result that was computed in f64 must go through
//! [`narrow_odd`], or it would round twice.

use super::{NAN_BF16, NAN_F16, NAN_F32};

/// The f32 of an f16 pattern: exact, a NaN becomes the canonical one.
#[inline(always)]
pub fn f16_to_f32(half: u16) -> f32 {
    let sign = (half as u32 & 0x8000) << 16;
    let magnitude = (half as u32 & 0x7fff) << 13;
    // Read with f32's bias the exponent is 112 too small. The product repairs it exactly, for subnormals too.
    let scaled = f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23);
    let special = magnitude >= 0x7c00 << 13;
    let infinite = if magnitude == 0x7c00 << 13 { sign | 0x7f80_0000 } else { NAN_F32 };
    f32::from_bits(if special { infinite } else { scaled.to_bits() | sign })
}

/// The f16 pattern nearest to an f32 (ties to even); a NaN becomes 0x7fff.
#[inline(always)]
pub fn f16_from_f32(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16) & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    // Normal result: shift the bias, then add just under half a unit plus the lowest kept bit. A carry runs into the
    // exponent, and past the largest finite number into the pattern of infinity.
    let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0xfff + ((magnitude >> 13) & 1)) >> 13;
    // Subnormal result: adding 1/2 makes the f32 adder round at 2^-24, f16's smallest step.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let finite = if magnitude < 113 << 23 { subnormal } else { normal };
    let pattern = if magnitude >= 0x4780_0000 { 0x7c00 } else { finite };
    if magnitude > 0x7f80_0000 { NAN_F16 } else { (sign | pattern) as u16 }
}

/// The f32 of a bf16 pattern: the same bits with 16 zeros below, a NaN's payload included.
#[inline(always)]
pub fn bf16_to_f32(half: u16) -> f32 {
    f32::from_bits((half as u32) << 16)
}

/// The bf16 pattern nearest to an f32 (ties to even); a NaN becomes 0x7fff.
#[inline(always)]
pub fn bf16_from_f32(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    if bits & 0x7fff_ffff > 0x7f80_0000 { NAN_BF16 } else { rounded as u16 }
}

/// Narrows an f64 to f32 so that a later rounding to f16 or bf16 sees every bit it needs: an inexact result is the
/// neighbour whose last bit is one. A magnitude beyond f32 becomes the largest finite f32, which overflows next.
#[inline(always)]
pub fn narrow_odd(value: f64) -> f32 {
    let near = value as f32;
    let back = near as f64;
    let bits = near.to_bits();
    // The neighbour between zero and the value, when `near` was rounded away from zero.
    let toward_zero = if back.abs() > value.abs() { bits.wrapping_sub(1) } else { bits };
    let inexact = back != value && !value.is_nan();
    f32::from_bits(if inexact { toward_zero | 1 } else { bits })
}

#[cfg(test)]
mod tests {
    use super::super::Rounding;
    use super::super::soft::{self, BF16, F16, F32, Format, Value, convert, unpack};
    use super::*;

    fn exact(bits: u64, format: Format) -> f64 {
        match unpack(bits, format) {
            Value::Finite { negative, significand, exponent } => {
                let magnitude = significand as f64 * (exponent as f64).exp2();
                if negative { -magnitude } else { magnitude }
            }
            Value::Infinite { negative } => f64::INFINITY.copysign(if negative { -1.0 } else { 1.0 }),
            Value::Nan => f64::NAN,
        }
    }

    #[test]
    fn every_f16_widens_exactly_and_comes_back() {
        for half in 0..=u16::MAX {
            let wide = f16_to_f32(half);
            let expected = exact(half as u64, F16);
            if expected.is_nan() {
                assert_eq!(wide.to_bits(), NAN_F32, "{half:#06x}");
                assert_eq!(f16_from_f32(wide), NAN_F16);
            } else {
                assert_eq!((wide as f64).to_bits(), expected.to_bits(), "{half:#06x}");
                assert_eq!(f16_from_f32(wide), half);
            }
        }
    }

    #[test]
    fn every_bf16_widens_exactly_and_comes_back() {
        for half in 0..=u16::MAX {
            let wide = bf16_to_f32(half);
            assert_eq!(wide.to_bits(), (half as u32) << 16);
            let expected = if wide.is_nan() { NAN_BF16 } else { half };
            assert_eq!(bf16_from_f32(wide), expected, "{half:#06x}");
        }
    }

    fn check_narrowing(bits: u32) {
        let value = f32::from_bits(bits);
        for (format, got) in [(F16, f16_from_f32(value)), (BF16, bf16_from_f32(value))] {
            let expected = convert(bits as u64, F32, format, Rounding::Nearest) as u16;
            assert_eq!(got, expected, "{value:e} ({bits:#010x}) to {format:?}");
        }
    }

    /// Every pattern of both formats, every midpoint between two neighbours, and one f32 step to either side of each.
    #[test]
    fn narrowing_agrees_with_integer_rounding_at_every_midpoint() {
        for half in 0..0x7c00u16 {
            let low = f16_to_f32(half);
            let high = if half == 0x7bff { 65536.0 } else { f16_to_f32(half + 1) };
            let centres =
                [low.to_bits(), ((low + high) / 2.0).to_bits(), (half as u32) << 17, (half as u32) << 17 | 0x8000];
            for centre in centres {
                for bits in [centre.wrapping_sub(1), centre, centre + 1] {
                    check_narrowing(bits);
                    check_narrowing(bits ^ 0x8000_0000);
                }
            }
        }
    }

    #[test]
    fn narrowing_agrees_with_integer_rounding_over_all_exponents() {
        for i in 0..1u32 << 20 {
            check_narrowing(i.wrapping_mul(0x9e37_79b1));
            check_narrowing(i << 12 | (i & 0xfff));
        }
    }

    #[test]
    fn narrowing_to_odd_then_rounding_equals_one_rounding() {
        let mut state = 1u64;
        for _ in 0..200_000 {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            // An exponent anywhere in the range of bf16, a fraction close to a midpoint in half of the cases.
            let exponent = 1023 - 150 + (state >> 55) % 290;
            let fraction = if state & 1 == 0 {
                state >> 12
            } else {
                (state >> 12 & !0x3ff_ffff_ffff) | 1 << 44 | (state >> 33 & 1)
            };
            let bits = (state & 2) << 62 | exponent << 52 | (fraction & ((1 << 52) - 1));
            let narrow = narrow_odd(f64::from_bits(bits));
            for (format, got) in [(F16, f16_from_f32(narrow)), (BF16, bf16_from_f32(narrow))] {
                assert_eq!(
                    got as u64,
                    convert(bits, soft::F64, format, Rounding::Nearest),
                    "{bits:#018x} to {format:?}"
                );
            }
        }
        assert!(narrow_odd(f64::NAN).is_nan());
        assert_eq!(narrow_odd(f64::INFINITY), f32::INFINITY);
    }
}
