//! One value of any arithmetic type as any other: every form of `cvt` with one source, in scalar code.
//!
//! The conversions that kernels use in their inner loops have lane loops of their own; this is the rest, and the
//! oracle those loops are tested against.

use super::Rounding;
use super::round::integral;
use super::soft::{self, BF16, F16, F32, F64, Format, Value, unpack};

/// An arithmetic type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Number {
    U8,
    S8,
    U16,
    S16,
    U32,
    S32,
    U64,
    S64,
    F16,
    Bf16,
    F32,
    F64,
}

impl Number {
    /// All of them, in declaration order.
    pub const ALL: [Number; 12] = [
        Number::U8,
        Number::S8,
        Number::U16,
        Number::S16,
        Number::U32,
        Number::S32,
        Number::U64,
        Number::S64,
        Number::F16,
        Number::Bf16,
        Number::F32,
        Number::F64,
    ];

    /// Width in bits.
    pub const fn bits(self) -> u32 {
        match self {
            Number::U8 | Number::S8 => 8,
            Number::U16 | Number::S16 | Number::F16 | Number::Bf16 => 16,
            Number::U32 | Number::S32 | Number::F32 => 32,
            Number::U64 | Number::S64 | Number::F64 => 64,
        }
    }

    /// Whether the type is a signed integer.
    pub const fn is_signed(self) -> bool {
        matches!(self, Number::S8 | Number::S16 | Number::S32 | Number::S64)
    }

    /// The format of a floating-point type.
    pub const fn format(self) -> Option<Format> {
        match self {
            Number::F16 => Some(F16),
            Number::Bf16 => Some(BF16),
            Number::F32 => Some(F32),
            Number::F64 => Some(F64),
            _ => None,
        }
    }

    /// The smallest and the largest integer of an integer type.
    const fn range(self) -> (i128, i128) {
        let bits = self.bits();
        if self.is_signed() { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
    }

    /// The integer in the low bits of a register.
    const fn integer(self, register: u64) -> i128 {
        let unused = 128 - self.bits();
        if self.is_signed() {
            ((register as i128) << unused) >> unused
        } else {
            (((register as u128) << unused) >> unused) as i128
        }
    }
}

/// One form of `cvt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conversion {
    /// The source.
    pub from: Number,
    /// The result.
    pub to: Number,
    /// `.rn` and its kin, or `.rni` and its kin.
    pub rounding: Rounding,
    /// Whether a floating-point result is first rounded to an integral value (`.rni` to a float type).
    pub integral: bool,
    /// Subnormal f32 operands and results become zeros.
    pub ftz: bool,
    /// Integers are clamped to the range of the result, floats to 0..1.
    pub sat: bool,
    /// A negative floating-point result becomes +0.
    pub relu: bool,
    /// An overflowing result becomes the largest finite number of its sign.
    pub satfinite: bool,
}

impl Conversion {
    /// Round to nearest, no modifiers.
    pub const fn plain(from: Number, to: Number) -> Conversion {
        let rounding = Rounding::Nearest;
        Conversion { from, to, rounding, integral: false, ftz: false, sat: false, relu: false, satfinite: false }
    }

    /// Packed into 32 bits, for an instruction.
    pub fn pack(self) -> u32 {
        let flags = [self.integral, self.ftz, self.sat, self.relu, self.satfinite];
        let flags = flags.iter().rev().fold(0, |bits, &flag| bits << 1 | u32::from(flag));
        self.from as u32 | (self.to as u32) << 4 | (self.rounding as u32) << 8 | flags << 10
    }

    /// Back from [`Conversion::pack`].
    pub fn unpack(bits: u32) -> Conversion {
        let flag = |n: u32| bits >> (10 + n) & 1 == 1;
        Conversion {
            from: Number::ALL[(bits & 15) as usize],
            to: Number::ALL[(bits >> 4 & 15) as usize],
            rounding: Rounding::ALL[(bits >> 8 & 3) as usize],
            integral: flag(0),
            ftz: flag(1),
            sat: flag(2),
            relu: flag(3),
            satfinite: flag(4),
        }
    }

    /// The result for a source register. A register wider than the result gets the sign of a signed integer above it,
    /// else zeros: `register_bits` is its width.
    pub fn apply(self, register: u64, register_bits: u32) -> u64 {
        let ones = |bits: u32| u64::MAX >> (64 - bits);
        let source = register & ones(self.from.bits());
        let source = if self.ftz && self.from == Number::F32 { flush(source) } else { source };
        let result = match (self.from.format(), self.to.format()) {
            (None, None) => {
                let value = self.from.integer(source);
                let (low, high) = self.to.range();
                (if self.sat { value.clamp(low, high) } else { value }) as u64
            }
            (Some(from), None) => self.float_to_integer(source, from),
            (None, Some(to)) => {
                let value = self.from.integer(source);
                let rounded = soft::from_integer(value < 0, value.unsigned_abs() as u64, to, self.rounding);
                self.finish(rounded, to)
            }
            (Some(from), Some(to)) => self.finish(self.float_to_float(source, from, to), to),
        };
        let extended = if self.to.is_signed() { self.to.integer(result) as u64 } else { result & ones(self.to.bits()) };
        extended & ones(register_bits)
    }

    /// Out of range: the nearest end of the range. NaN: 0, or the top bit where f64 or a 64-bit integer is involved.
    fn float_to_integer(self, source: u64, from: Format) -> u64 {
        let value = to_f64(source, from);
        if value.is_nan() {
            let top = from == F64 || self.to.bits() == 64;
            return if top { 1 << (self.to.bits() - 1) } else { 0 };
        }
        let (low, high) = self.to.range();
        // The cast saturates at the ends of i128, far outside of every type.
        (integral(value, self.rounding) as i128).clamp(low, high) as u64
    }

    fn float_to_float(self, source: u64, from: Format, to: Format) -> u64 {
        if self.integral {
            let value = to_f64(source, from);
            return soft::convert(integral(value, self.rounding).to_bits(), F64, to, Rounding::Nearest);
        }
        match (unpack(source, from), to) {
            // f64 keeps payloads, so a NaN that is widened or copied keeps its own, made quiet.
            (Value::Nan, F64) => {
                let fraction = source & ((1 << from.fraction) - 1);
                let sign = source >> (from.bits - 1) << 63;
                sign | 0x7ff8_0000_0000_0000 | fraction << (52 - from.fraction)
            }
            _ => soft::convert(source, from, to, self.rounding),
        }
    }

    /// `.ftz`, `.sat`, `.relu` and `.satfinite` of a floating-point result.
    fn finish(self, result: u64, to: Format) -> u64 {
        let result = if self.ftz && to == F32 { flush(result) } else { result };
        let sign = 1u64 << (to.bits - 1);
        let magnitude = result & (sign - 1);
        let (negative, nan) = (result & sign != 0, magnitude > to.infinity());
        if self.sat {
            let one = soft::from_integer(false, 1, to, Rounding::Nearest);
            return if nan || negative { 0 } else { magnitude.min(one) };
        }
        if self.relu && negative && !nan {
            return 0;
        }
        if self.satfinite && magnitude == to.infinity() {
            return result - 1;
        }
        result
    }
}

/// A subnormal f32 pattern as a zero of its sign.
fn flush(bits: u64) -> u64 {
    if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits }
}

/// The exact value of a pattern of any format.
fn to_f64(bits: u64, from: Format) -> f64 {
    f64::from_bits(soft::convert(bits, from, F64, Rounding::Nearest))
}

/// f32 to tf32 (19 bits, left in the upper bits of the word); `nearest_away` is `.rna`.
pub fn to_tf32(bits: u32, mode: Rounding, nearest_away: bool, relu: bool, satfinite: bool) -> u32 {
    const TF32: Format = Format { bits: 19, fraction: 10 };
    let magnitude = bits & 0x7fff_ffff;
    if magnitude > 0x7f80_0000 {
        return super::NAN_F32;
    }
    let rounded = match nearest_away {
        // Ties go away from zero: half a unit is added, and what lies below a unit is dropped.
        true if magnitude < 0x7f80_0000 => bits.wrapping_add(0x1000) & !0x1fff,
        true => bits,
        false => (soft::convert(u64::from(bits), F32, TF32, mode) as u32) << 13,
    };
    if relu && rounded >> 31 == 1 {
        0
    } else if satfinite && rounded & 0x7fff_ffff == 0x7f80_0000 {
        rounded - 0x2000
    } else {
        rounded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_survives_packing() {
        for from in Number::ALL {
            for to in Number::ALL {
                for (i, rounding) in Rounding::ALL.into_iter().enumerate() {
                    let flag = |n: usize| (i + from as usize + to as usize) >> n & 1 == 1;
                    let form = Conversion {
                        from,
                        to,
                        rounding,
                        integral: flag(0),
                        ftz: flag(1),
                        sat: flag(2),
                        relu: flag(3),
                        satfinite: flag(4),
                    };
                    assert_eq!(Conversion::unpack(form.pack()), form);
                }
            }
        }
    }

    #[test]
    fn no_input_panics() {
        let inputs = [
            0,
            1,
            0x7f,
            0x80,
            0xff,
            0x7c00,
            0x7c01,
            0x7f80,
            0x8000,
            0xfc00,
            0xffff,
            0x7f80_0000,
            0x7fc0_0000,
            1 << 31,
            u64::from(u32::MAX),
            0x7ff0 << 48,
            0x7ff8 << 48,
            1 << 63,
            u64::MAX,
        ];
        for from in Number::ALL {
            for to in Number::ALL {
                for rounding in Rounding::ALL {
                    for flags in 0..32u32 {
                        let packed = Conversion { rounding, ..Conversion::plain(from, to) }.pack() | flags << 10;
                        for input in inputs {
                            let result = Conversion::unpack(packed).apply(input, to.bits().max(16));
                            assert!(to.bits() == 64 || result >> to.bits().max(16) == 0);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn tf32_rounds_in_its_own_ways() {
        let half_unit = 0x3f80_1000;
        assert_eq!(to_tf32(half_unit, Rounding::Nearest, true, false, false), 0x3f80_2000);
        assert_eq!(to_tf32(half_unit, Rounding::Nearest, false, false, false), 0x3f80_0000);
        assert_eq!(to_tf32(0x3f80_3000, Rounding::Nearest, false, false, false), 0x3f80_4000);
        assert_eq!(to_tf32(0xbf80_1fff, Rounding::Zero, false, false, false), 0xbf80_0000);
        assert_eq!(to_tf32(0xbf80_1fff, Rounding::Zero, false, true, false), 0);
        assert_eq!(to_tf32(0x7f7f_ffff, Rounding::Nearest, true, false, false), 0x7f80_0000);
        assert_eq!(to_tf32(0x7f7f_ffff, Rounding::Nearest, true, false, true), 0x7f7f_e000);
        assert_eq!(to_tf32(0xff80_0000, Rounding::Nearest, true, false, false), 0xff80_0000);
        assert_eq!(to_tf32(0x7f80_0001, Rounding::Nearest, true, true, false), 0x7fff_ffff);
    }
}
