//! Rounding from float64, at every value of the 16-bit types and at every midpoint between two of them.

use sumexp::{DType, Element, Float, bf16, f16};

/// All finite values of a 16-bit type from 0 upwards, in order; `top` is where rounding leaves for infinity.
fn check<T: Float>(from_bits: fn(u16) -> T, bits: fn(T) -> u16, infinity: u16) {
    let signed = |value: f64, sign: f64| bits(T::from_f64(value * sign)) & 0x7fff;
    for low in 0..infinity {
        let value = from_bits(low).to_f64();
        assert_eq!(bits(T::from_f64(value)), low);
        // The upper neighbour of the largest finite value is infinity; its midpoint is where it would be with more range.
        let step =
            if low + 1 < infinity { from_bits(low + 1).to_f64() - value } else { value - from_bits(low - 1).to_f64() };
        let middle = value + step / 2.0;
        let even = low + (low & 1);
        // 2^-30 of a step: a rounding to f32 on the way would lose it.
        let nudge = step * 2f64.powi(-30);
        for sign in [1.0, -1.0] {
            assert_eq!(signed(middle, sign), even, "{middle:e} is a tie above {low:#06x}");
            assert_eq!(signed(middle - nudge, sign), low, "just below the tie {middle:e}");
            assert_eq!(signed(middle + nudge, sign), low + 1, "just above the tie {middle:e}");
        }
    }
    assert!(T::from_f64(f64::NAN).to_f64().is_nan());
    for huge in [f64::MAX, f64::INFINITY] {
        assert_eq!(T::from_f64(huge).to_f64(), f64::INFINITY);
        assert_eq!(T::from_f64(-huge).to_f64(), f64::NEG_INFINITY);
    }
    assert_eq!(bits(T::from_f64(-f64::MIN_POSITIVE)), 0x8000);
}

#[test]
fn f16_rounds_once() {
    check(f16::from_bits, f16::to_bits, f16::INFINITY.to_bits());
}

#[test]
fn bf16_rounds_once() {
    check(bf16::from_bits, bf16::to_bits, bf16::INFINITY.to_bits());
}

#[test]
fn types_and_their_names_agree() {
    fn same<T: Element>(dtype: DType, name: &str) {
        assert_eq!((T::DTYPE, dtype.size(), dtype.to_string().as_str()), (dtype, size_of::<T>(), name));
    }
    same::<f16>(DType::F16, "f16");
    same::<bf16>(DType::BF16, "bf16");
    same::<f32>(DType::F32, "f32");
    same::<f64>(DType::F64, "f64");
    same::<i32>(DType::I32, "i32");
    same::<i64>(DType::I64, "i64");
    same::<u32>(DType::U32, "u32");
    same::<u8>(DType::U8, "u8");
}
