//! One rounding from float64 to the output type.
//!
//! A conversion through float32 rounds twice: a value just above a half-way point of f16 can first fall onto that point
//! and then to the wrong side. Rounding to odd on the way (the last bit remembers that something was cut off) keeps the
//! second rounding right, because float32 has more than two bits more than either 16-bit type.

/// `x` in float32, rounded to the neighbour whose last bit is 1 unless `x` is a float32 already.
///
/// A result of this function rounds to f16 or bf16 exactly as `x` itself would.
pub fn to_odd_f32(x: f64) -> f32 {
    let nearest = x as f32;
    if f64::from(nearest) == x || x.is_nan() || nearest.to_bits() & 1 == 1 {
        return nearest;
    }
    // The last bit is 0 and `x` lies strictly between two float32: the other one of them is odd.
    // From infinity the step inwards is the largest finite number, which is odd and still rounds to infinity in 16 bits.
    if f64::from(nearest) < x { nearest.next_up() } else { nearest.next_down() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    #[test]
    fn ties_are_not_made_by_the_way_through_float32() {
        // Half-way between two neighbours plus a little that float32 cannot hold: must round up, not to even.
        let above = |half_way: f64| half_way + half_way * 1e-12;
        let below = |half_way: f64| half_way - half_way * 1e-12;
        let f16_tie = 1.0 + 2f64.powi(-11);
        assert_eq!(f16::from_f32(to_odd_f32(above(f16_tie))).to_f64(), 1.0 + 2f64.powi(-10));
        assert_eq!(f16::from_f32(to_odd_f32(f16_tie)).to_f64(), 1.0);
        assert_eq!(f16::from_f32(to_odd_f32(below(f16_tie))).to_f64(), 1.0);
        let bf16_tie = 1.0 + 3.0 * 2f64.powi(-8);
        assert_eq!(bf16::from_f32(to_odd_f32(below(bf16_tie))).to_f64(), 1.0 + 2f64.powi(-7));
        assert_eq!(bf16::from_f32(to_odd_f32(bf16_tie)).to_f64(), 1.0 + 4.0 * 2f64.powi(-8));
        assert_eq!(f16::from_f32(to_odd_f32(-above(f16_tie))).to_f64(), -1.0 - 2f64.powi(-10));
    }

    #[test]
    fn special_values_and_the_ends_of_the_range() {
        assert!(to_odd_f32(f64::NAN).is_nan());
        assert_eq!(to_odd_f32(f64::INFINITY), f32::INFINITY);
        assert_eq!(to_odd_f32(-0.0).to_bits(), (-0.0f32).to_bits());
        assert_eq!(to_odd_f32(1e-60), f32::from_bits(1));
        assert_eq!(f16::from_f32(to_odd_f32(1e300)), f16::INFINITY);
        assert_eq!(f16::from_f32(to_odd_f32(65519.999)).to_f64(), 65504.0);
        assert_eq!(f16::from_f32(to_odd_f32(2f64.powi(-25) * (1.0 + 1e-12))).to_bits(), 1);
        assert_eq!(f16::from_f32(to_odd_f32(2f64.powi(-25))).to_bits(), 0);
    }
}
