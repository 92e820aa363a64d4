//! `cvt`: between integers, floating-point types and packed halves.

use super::lanes::{Lane, map1, map2, map3};
use super::{Warp, ops};
use crate::ir::Inst;
use crate::num::Rounding;
use crate::num::convert::{Conversion, Number, to_tf32};
use crate::num::half::{bf16_from_f32, bf16_to_f32, f16_from_f32, f16_to_f32};
use crate::num::round::{canonical, integral_f32};

/// `y` of the operations that look at it.
pub mod flag {
    /// The source register has 64 bits.
    pub const WIDE_SOURCE: u32 = 1 << 8;
    /// tf32: ties away from zero.
    pub const AWAY: u32 = 1 << 9;
}

/// `x` and `y` of an integer conversion without saturation into a register of `register_bits`: the bits of the source
/// that are kept and whether the highest of them is a sign, and the bits of the register that may be ones.
pub fn extension(from: Number, to: Number, register_bits: u32) -> (u32, u32) {
    let narrower = if from.bits() < to.bits() { from } else { to };
    (narrower.bits() | u32::from(narrower.is_signed()) << 8, if to.is_signed() { register_bits } else { to.bits() })
}

/// The value of the low bits, its sign spread, cut to the register.
#[inline(always)]
fn extend(value: u64, x: u32, register: u64) -> u64 {
    let (bits, signed) = (x & 0xff, x >> 8 & 1);
    let ones = u64::MAX >> (64 - bits);
    let low = value & ones;
    let negative = low >> (bits - 1) & u64::from(signed);
    (low | 0u64.wrapping_sub(negative) & !ones) & register
}

/// The mask of a register of `y & 0xff` bits.
#[inline(always)]
fn register(y: u32) -> u64 {
    u64::MAX >> (64 - (y & 0xff))
}

/// f32 to a 32-bit integer, the mode settled outside the loop; casts saturate and make NaN 0.
#[inline(always)]
fn to_integer<D: Lane>(warp: &mut Warp, inst: &Inst, mask: u32, cast: impl Fn(f32) -> D) {
    match Conversion::unpack(inst.x).rounding {
        Rounding::Nearest => map1(warp, inst, mask, |a: f32| cast(integral_f32(a, Rounding::Nearest))),
        Rounding::Zero => map1(warp, inst, mask, cast),
        Rounding::Down => map1(warp, inst, mask, |a: f32| cast(integral_f32(a, Rounding::Down))),
        Rounding::Up => map1(warp, inst, mask, |a: f32| cast(integral_f32(a, Rounding::Up))),
    }
}

ops! {
    EXTEND_32 = |warp, _, inst, mask| { let r = register(inst.y); map1(warp, inst, mask, |a: u32| extend(u64::from(a), inst.x, r) as u32) };
    EXTEND_64 = |warp, _, inst, mask| { let r = register(inst.y); map1(warp, inst, mask, |a: u64| extend(a, inst.x, r)) };
    EXTEND_32_TO_64 = |warp, _, inst, mask| { let r = register(inst.y); map1(warp, inst, mask, |a: u32| extend(u64::from(a), inst.x, r)) };
    EXTEND_64_TO_32 = |warp, _, inst, mask| { let r = register(inst.y); map1(warp, inst, mask, |a: u64| extend(a, inst.x, r) as u32) };
    S32_TO_S64 = |warp, _, inst, mask| map1(warp, inst, mask, |a: i32| i64::from(a));
    U32_TO_U64 = |warp, _, inst, mask| map1(warp, inst, mask, |a: u32| u64::from(a));
    U64_TO_U32 = |warp, _, inst, mask| map1(warp, inst, mask, |a: u64| a as u32);

    F32_TO_S32 = |warp, _, inst, mask| to_integer(warp, inst, mask, |a| a as i32);
    F32_TO_U32 = |warp, _, inst, mask| to_integer(warp, inst, mask, |a| a as u32);
    S32_TO_F32 = |warp, _, inst, mask| map1(warp, inst, mask, |a: i32| a as f32);
    U32_TO_F32 = |warp, _, inst, mask| map1(warp, inst, mask, |a: u32| a as f32);
    S64_TO_F32 = |warp, _, inst, mask| map1(warp, inst, mask, |a: i64| a as f32);
    U64_TO_F32 = |warp, _, inst, mask| map1(warp, inst, mask, |a: u64| a as f32);
    S32_TO_F64 = |warp, _, inst, mask| map1(warp, inst, mask, |a: i32| f64::from(a));
    U32_TO_F64 = |warp, _, inst, mask| map1(warp, inst, mask, |a: u32| f64::from(a));

    F16_TO_F32 = |warp, _, inst, mask| map1(warp, inst, mask, f16_to_f32);
    BF16_TO_F32 = |warp, _, inst, mask| map1(warp, inst, mask, bf16_to_f32);
    F32_TO_F16 = |warp, _, inst, mask| map1(warp, inst, mask, f16_from_f32);
    F32_TO_BF16 = |warp, _, inst, mask| map1(warp, inst, mask, bf16_from_f32);
    F32_TO_F64 = |warp, _, inst, mask| map1(warp, inst, mask, |a: f32| f64::from(a));
    F64_TO_F32 = |warp, _, inst, mask| map1(warp, inst, mask, |a: f64| canonical(a as f32));

    // The first source goes to the upper half.
    F32_TO_F16X2 = |warp, _, inst, mask| map2(warp, inst, mask, |high: f32, low: f32| join(f16_from_f32(high), f16_from_f32(low)));
    F32_TO_BF16X2 = |warp, _, inst, mask| map2(warp, inst, mask, |high: f32, low: f32| join(bf16_from_f32(high), bf16_from_f32(low)));
    /// Two f32 to packed halves in any other form: `x` is the conversion of one of them.
    PACK_ANY = |warp, _, inst, mask| {
        let form = Conversion::unpack(inst.x);
        let one = |bits: u32| form.apply(u64::from(bits), 16) as u16;
        map2(warp, inst, mask, |high: u32, low: u32| join(one(high), one(low)));
    };
    F32_TO_TF32 = |warp, _, inst, mask| {
        let (form, away) = (Conversion::unpack(inst.x), inst.y & flag::AWAY != 0);
        map1(warp, inst, mask, |a: u32| to_tf32(a, form.rounding, away, form.relu, form.satfinite));
    };
    /// `cvt.pack`: two saturated integers, and the low bits of `c` above them for 8-bit results.
    PACK_INTEGERS = |warp, _, inst, mask| {
        let form = Conversion::unpack(inst.x);
        let bits = form.to.bits();
        let one = |a: u32| Conversion { sat: true, ..form }.apply(u64::from(a), 32) as u32 & (u32::MAX >> (32 - bits));
        map3(warp, inst, mask, |a: u32, b: u32, c: u32| one(b) | one(a) << bits | c.checked_shl(2 * bits).unwrap_or(0));
    };
    /// Every other form, one lane at a time.
    ANY = |warp, _, inst, mask| any(warp, inst, mask);
}

#[inline(always)]
fn join(high: u16, low: u16) -> u32 {
    u32::from(high) << 16 | u32::from(low)
}

/// Not inlined: it is the same code in both builds.
fn any(warp: &mut Warp, inst: &Inst, mask: u32) {
    let form = Conversion::unpack(inst.x);
    let register_bits = inst.y & 0xff;
    let mut values = if inst.y & flag::WIDE_SOURCE != 0 { *warp.r64(inst.a) } else { warp.r32(inst.a).map(u64::from) };
    for value in &mut values {
        *value = form.apply(*value, register_bits);
    }
    if register_bits == 64 {
        warp.w64(inst.d, mask, &values);
    } else {
        warp.w32(inst.d, mask, &values.map(|value| value as u32));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extension_agrees_with_the_scalar_conversion() {
        let integers = &Number::ALL[..8];
        let inputs =
            [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 63, u64::MAX];
        for &from in integers {
            for &to in integers {
                for bits in [16, 32, 64].into_iter().filter(|&bits| bits >= to.bits()) {
                    let (x, y) = extension(from, to, bits);
                    for input in inputs {
                        let expected = Conversion::plain(from, to).apply(input, bits);
                        assert_eq!(extend(input, x, register(y)), expected, "{from:?} {to:?} {bits} {input:#x}");
                    }
                }
            }
        }
    }
}
