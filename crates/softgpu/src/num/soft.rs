//! Floating point in integers: every operation exact up to its one rounding, for any format of up to 64 bits.
//!
//! Slow and obvious. It is the oracle that the fast paths are tested against, and the implementation where speed does
//! not matter: f64 in directed modes, and conversions between formats.

use super::Rounding;

/// A binary interchange format: its width and the number of its fraction bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// All bits, the sign included.
    pub bits: u32,
    /// Bits of the fraction; the leading one is not stored.
    pub fraction: u32,
}

/// IEEE half precision.
pub const F16: Format = Format { bits: 16, fraction: 10 };
/// The upper half of an f32.
pub const BF16: Format = Format { bits: 16, fraction: 7 };
/// IEEE single precision.
pub const F32: Format = Format { bits: 32, fraction: 23 };
/// IEEE double precision.
pub const F64: Format = Format { bits: 64, fraction: 52 };

impl Format {
    const fn bias(self) -> i32 {
        (1 << (self.bits - self.fraction - 2)) - 1
    }
    /// The pattern of +infinity: exponent all ones, fraction zero.
    pub const fn infinity(self) -> u64 {
        (2 * self.bias() as u64 + 1) << self.fraction
    }
    /// The NaN an operation of this format makes when no operand is one.
    pub const fn nan(self) -> u64 {
        match self.bits {
            64 => super::NAN_F64,
            bits => (1 << (bits - 1)) - 1,
        }
    }
    const fn sign(self, negative: bool) -> u64 {
        (negative as u64) << (self.bits - 1)
    }
}

/// What a pattern stands for. A finite value is `significand * 2^exponent`; zero has significand 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// Any NaN.
    Nan,
    /// An infinity of the given sign.
    Infinite {
        /// The sign bit.
        negative: bool,
    },
    /// A finite number, zeros and subnormals included.
    Finite {
        /// The sign bit, also of a zero.
        negative: bool,
        /// The integer significand.
        significand: u128,
        /// The weight of its lowest bit, as a power of two.
        exponent: i32,
    },
}
use Value::{Finite, Infinite, Nan};

/// Takes a pattern apart.
pub fn unpack(bits: u64, format: Format) -> Value {
    let negative = bits >> (format.bits - 1) & 1 == 1;
    let fraction = bits & ((1 << format.fraction) - 1);
    let biased = (bits & (format.sign(true) - 1)) >> format.fraction;
    if biased == format.infinity() >> format.fraction {
        return if fraction == 0 { Infinite { negative } } else { Nan };
    }
    let significand = (fraction | u64::from(biased != 0) << format.fraction) as u128;
    Finite { negative, significand, exponent: biased.max(1) as i32 - format.bias() - format.fraction as i32 }
}

/// Rounds `significand * 2^exponent` to a format; `sticky` says that the true value is a little larger in magnitude.
/// A significand of zero gives a zero of the given sign.
pub fn round(negative: bool, significand: u128, exponent: i32, sticky: bool, format: Format, mode: Rounding) -> u64 {
    if significand == 0 {
        return format.sign(negative);
    }
    let width = 128 - significand.leading_zeros() as i32;
    let smallest = 1 - format.bias() - format.fraction as i32;
    let unit = (exponent + width - 1 - format.fraction as i32).max(smallest);
    let drop = unit - exponent;
    // The kept bits, the first dropped bit, and whether anything lies below that.
    let (mut kept, half, rest) = match drop {
        ..=0 => ((significand << -drop) as u64, false, sticky),
        1..=127 => {
            let below = significand & ((1 << (drop - 1)) - 1);
            ((significand >> drop) as u64, significand >> (drop - 1) & 1 == 1, below != 0 || sticky)
        }
        128 => (0, significand >> 127 == 1, significand << 1 != 0 || sticky),
        _ => (0, false, true),
    };
    kept += u64::from(match mode {
        Rounding::Nearest => half && (rest || kept & 1 == 1),
        Rounding::Zero => false,
        Rounding::Down => negative && (half || rest),
        Rounding::Up => !negative && (half || rest),
    });
    // Adding (not or-ing) lets a carry out of the fraction run into the exponent.
    let magnitude = kept + (((unit - smallest) as u64) << format.fraction);
    if magnitude < format.infinity() {
        return format.sign(negative) | magnitude;
    }
    let away = match mode {
        Rounding::Nearest => true,
        Rounding::Zero => false,
        Rounding::Down => negative,
        Rounding::Up => !negative,
    };
    format.sign(negative) | (format.infinity() - u64::from(!away))
}

/// The integer `negative ? -magnitude : magnitude` in a format.
pub fn from_integer(negative: bool, magnitude: u64, format: Format, mode: Rounding) -> u64 {
    round(negative && magnitude != 0, magnitude as u128, 0, false, format, mode)
}

/// A pattern of one format in another. A NaN becomes the target's canonical one.
pub fn convert(bits: u64, from: Format, to: Format, mode: Rounding) -> u64 {
    match unpack(bits, from) {
        Nan => to.nan(),
        Infinite { negative } => to.sign(negative) | to.infinity(),
        Finite { negative, significand, exponent } => round(negative, significand, exponent, false, to, mode),
    }
}

/// `a * b`.
pub fn mul(a: u64, b: u64, format: Format, mode: Rounding) -> u64 {
    match (unpack(a, format), unpack(b, format)) {
        (
            Finite { negative: na, significand: sa, exponent: ea },
            Finite { negative: nb, significand: sb, exponent: eb },
        ) => round(na != nb, sa * sb, ea + eb, false, format, mode),
        (Nan, _) | (_, Nan) => format.nan(),
        (Infinite { negative }, other) | (other, Infinite { negative }) => match other {
            Finite { significand: 0, .. } => format.nan(),
            Finite { negative: n, .. } | Infinite { negative: n } => format.sign(n != negative) | format.infinity(),
            Nan => format.nan(),
        },
    }
}

/// `a + b`, rounded once.
pub fn add(a: u64, b: u64, format: Format, mode: Rounding) -> u64 {
    let one = (format.bias() as u64) << format.fraction;
    fma(a, one, b, format, mode)
}

/// `a * b + c`, rounded once.
pub fn fma(a: u64, b: u64, c: u64, format: Format, mode: Rounding) -> u64 {
    let (
        Finite { negative: na, significand: sa, exponent: ea },
        Finite { negative: nb, significand: sb, exponent: eb },
        Finite { negative: nc, significand: sc, exponent: ec },
    ) = (unpack(a, format), unpack(b, format), unpack(c, format))
    else {
        // The product is an infinity, a NaN or some finite number; in the last case c decides.
        let product = match (unpack(a, format), unpack(b, format)) {
            (Finite { .. }, Finite { .. }) => 0,
            _ => mul(a, b, format, mode),
        };
        return match (unpack(product, format), unpack(c, format)) {
            (Nan, _) | (_, Nan) => format.nan(),
            (Infinite { negative: p }, Infinite { negative: q }) if p != q => format.nan(),
            (_, Infinite { negative }) => format.sign(negative) | format.infinity(),
            _ => product,
        };
    };
    let (np, sp, ep) = (na != nb, sa * sb, ea + eb);
    if sp == 0 && sc == 0 {
        return format.sign(if np == nc { np } else { mode == Rounding::Down });
    }
    if sc == 0 {
        return round(np, sp, ep, false, format, mode);
    }
    if sp == 0 {
        return c;
    }
    // Both at the left of a 127-bit frame (one bit for the carry); the smaller one moves right and leaves a sticky
    // bit behind. Bits are lost only when the two are at least two places apart, so no cancellation can reach them.
    let frame = |significand: u128, exponent: i32| {
        let shift = significand.leading_zeros() as i32 - 1;
        (significand << shift, exponent - shift)
    };
    let ((sp, ep), (sc, ec)) = (frame(sp, ep), frame(sc, ec));
    let (negative_large, large, exponent, negative_small, small, distance) =
        if (ep, sp) >= (ec, sc) { (np, sp, ep, nc, sc, ep - ec) } else { (nc, sc, ec, np, sp, ec - ep) };
    let (small, lost) = match distance {
        0 => (small, false),
        1..=127 => (small >> distance, small & ((1 << distance) - 1) != 0),
        _ => (0, true),
    };
    if negative_large == negative_small {
        return round(negative_large, large + small, exponent, lost, format, mode);
    }
    // A lost tail makes the true difference a little smaller: one unit less, and a little more than that.
    let difference = large - small - u128::from(lost);
    if difference == 0 && !lost {
        return format.sign(mode == Rounding::Down);
    }
    round(negative_large, difference, exponent, lost, format, mode)
}

/// `a / b`.
pub fn div(a: u64, b: u64, format: Format, mode: Rounding) -> u64 {
    match (unpack(a, format), unpack(b, format)) {
        (Nan, _) | (_, Nan) | (Infinite { .. }, Infinite { .. }) => format.nan(),
        (Infinite { negative: na }, Finite { negative: nb, .. }) => format.sign(na != nb) | format.infinity(),
        (Finite { negative: na, .. }, Infinite { negative: nb }) => format.sign(na != nb),
        (Finite { significand: 0, .. }, Finite { significand: 0, .. }) => format.nan(),
        (Finite { negative: na, .. }, Finite { negative: nb, significand: 0, .. }) => {
            format.sign(na != nb) | format.infinity()
        }
        (
            Finite { negative: na, significand: sa, exponent: ea },
            Finite { negative: nb, significand: sb, exponent: eb },
        ) => {
            // The dividend moved to the top leaves a quotient of at least 64 bits.
            let shift = sa.leading_zeros().min(127);
            let dividend = sa << shift;
            round(na != nb, dividend / sb, ea - eb - shift as i32, dividend % sb != 0, format, mode)
        }
    }
}

/// The square root of `a`.
pub fn sqrt(a: u64, format: Format, mode: Rounding) -> u64 {
    match unpack(a, format) {
        Finite { significand: 0, .. } => a,
        Infinite { negative: false } => a,
        Nan | Infinite { .. } | Finite { negative: true, .. } => format.nan(),
        Finite { significand, exponent, .. } => {
            // An even exponent, and as many bits as fit: a root of 63 or 64 bits.
            let shift = significand.leading_zeros() as i32;
            let shift = shift - (exponent - shift).rem_euclid(2);
            let radicand = significand << shift;
            let root = radicand.isqrt();
            round(false, root, (exponent - shift) / 2, root * root != radicand, format, mode)
        }
    }
}
