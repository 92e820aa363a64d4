//! Exact numbers and their rounding, written apart from the interpreter's own.
//!
//! A number is the sum of two f64, the second less than half a unit of the first: products of two f32 and their sums
//! with a third are exact in this form.

/// How a result is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Nearest,
    /// To nearest, ties away from zero.
    Away,
    Zero,
    Down,
    Up,
}

impl Mode {
    /// The mode of a modifier such as `rn` or `rzi`.
    pub fn parse(name: &str) -> Option<Mode> {
        Some(match name {
            "rn" | "rni" => Mode::Nearest,
            "rna" => Mode::Away,
            "rz" | "rzi" => Mode::Zero,
            "rm" | "rmi" => Mode::Down,
            "rp" | "rpi" => Mode::Up,
            _ => return None,
        })
    }
}

/// A binary format: bits of the significand, the exponent of the smallest normal number, that of the largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    pub precision: i32,
    pub lowest: i32,
    pub highest: i32,
}

pub const F32: Format = Format { precision: 24, lowest: -126, highest: 127 };
pub const F16: Format = Format { precision: 11, lowest: -14, highest: 15 };
pub const BF16: Format = Format { precision: 8, lowest: -126, highest: 127 };
pub const TF32: Format = Format { precision: 11, lowest: -126, highest: 127 };

impl Format {
    /// The largest finite number.
    pub fn max(self) -> f64 {
        (2.0 - 2f64.powi(1 - self.precision)) * 2f64.powi(self.highest)
    }

    /// The smallest normal number.
    pub fn least(self) -> f64 {
        2f64.powi(self.lowest)
    }
}

/// `a + b` without error.
pub fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let part = sum - a;
    (sum, (a - (sum - part)) + (b - part))
}

/// The exponent of the first bit of a positive number.
fn exponent(value: f64) -> i32 {
    let bits = (value.to_bits() >> 52 & 0x7ff) as i32;
    // No number here is as small as f64's subnormals.
    bits - 1023
}

/// Rounds `high + low`, which is not 0, to a format.
pub fn round((high, low): (f64, f64), format: Format, mode: Mode) -> f64 {
    let negative = high < 0.0;
    let (high, low) = if negative { (-high, -low) } else { (high, low) };
    let mode = match (mode, negative) {
        (Mode::Down, true) => Mode::Up,
        (Mode::Up, true) => Mode::Down,
        (mode, _) => mode,
    };
    let below_a_power = high.to_bits() << 12 == 0 && low < 0.0;
    let first = exponent(high) - i32::from(below_a_power);
    let unit = 2f64.powi(first.max(format.lowest) - (format.precision - 1));
    let scaled = high / unit;
    let mut floor = scaled.floor();
    let mut rest = scaled - floor;
    if rest == 0.0 && low < 0.0 {
        floor -= 1.0;
        rest = 1.0;
    }
    let exact = rest == 0.0 && low == 0.0;
    let half = rest.partial_cmp(&0.5).expect("a number").then(low.partial_cmp(&0.0).expect("a number"));
    let up = match mode {
        Mode::Nearest => half.is_gt() || half.is_eq() && floor % 2.0 == 1.0,
        Mode::Away => half.is_ge(),
        Mode::Up => !exact,
        Mode::Zero | Mode::Down => false,
    };
    let magnitude = (floor + f64::from(u8::from(up))) * unit;
    let magnitude = if magnitude <= format.max() {
        magnitude
    } else if matches!(mode, Mode::Zero | Mode::Down) {
        format.max()
    } else {
        f64::INFINITY
    };
    if negative { -magnitude } else { magnitude }
}

/// Rounds a sum of two parts, which may be 0, infinite or not a number.
pub fn round_sum(a: f64, b: f64, format: Format, mode: Mode) -> f64 {
    let (high, low) = two_sum(a, b);
    if !high.is_finite() {
        return a + b;
    }
    if high == 0.0 {
        // Zeros of one sign keep it; any other exact zero is positive, or negative when rounding down.
        let same = a == 0.0 && b == 0.0 && a.is_sign_negative() == b.is_sign_negative();
        return if same {
            a
        } else if mode == Mode::Down {
            -0.0
        } else {
            0.0
        };
    }
    round((high, low), format, mode)
}

/// Rounds one number that may be 0, infinite or not a number.
pub fn round_one(value: f64, format: Format, mode: Mode) -> f64 {
    if value == 0.0 || !value.is_finite() { value } else { round((value, 0.0), format, mode) }
}

#[test]
fn rounding_agrees_with_the_processor_where_it_rounds_too() {
    let mut state = 1u64;
    for _ in 0..20_000 {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(99);
        let value = f64::from_bits(state & 0x800f_ffff_ffff_ffff | (1023 - 160 + (state >> 40) % 320) << 52);
        assert_eq!(round_one(value, F32, Mode::Nearest), f64::from(value as f32), "{value:e}");
    }
    assert_eq!(round((1.0, -1e-30), F32, Mode::Down), 1.0 - 2f64.powi(-24));
    assert_eq!(round((1.0, -1e-30), F32, Mode::Nearest), 1.0);
    assert_eq!(round((-1.0, -1e-30), F32, Mode::Zero), -1.0);
    assert_eq!(round((-1.0, -1e-30), F32, Mode::Down), -1.0 - 2f64.powi(-23));
}
