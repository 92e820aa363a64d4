//! The comparator: which results are wrong, and a message that can be acted on.

use sumexp::Float;

/// A floating-point format, as far as the comparator needs it.
pub trait Format: Float {
    /// Bits of the significand, the leading 1 included.
    const DIGITS: i32;
    /// Exponent of the smallest normal number.
    const MIN_EXPONENT: i32;
    /// What the result of a forward operation may differ from the exact value.
    const FORWARD: Tolerance;
    /// What a gradient may differ from the exact value.
    const BACKWARD: Tolerance;

    /// The distance between the two numbers of this format around `x`.
    fn ulp(x: f64) -> f64 {
        let exponent = if x == 0.0 { Self::MIN_EXPONENT } else { exponent(x).max(Self::MIN_EXPONENT) };
        2f64.powi(exponent - (Self::DIGITS - 1))
    }
}

/// The exponent of a finite number other than 0: `2^e <= |x| < 2^(e+1)`; -1023 for what is subnormal in float64.
fn exponent(x: f64) -> i32 {
    ((x.to_bits() >> 52) & 0x7ff) as i32 - 1023
}

/// The largest allowed difference: so many units in the last place of the exact value, or `floor` where that is more.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    pub ulps: f64,
    pub floor: f64,
}

/// What a result must be.
#[derive(Clone, Debug, Default)]
pub struct Exact {
    /// The value, in float64.
    pub value: f64,
    /// The larger of two terms whose difference the value is; 0 where nothing cancels. An f32 computation cannot be better
    /// than some units in the last place of that term, whatever the units of the value are.
    pub term: f64,
}

impl Exact {
    /// A value that is no difference.
    pub fn plain(values: impl IntoIterator<Item = f64>) -> Vec<Exact> {
        values.into_iter().map(|value| Exact { value, term: 0.0 }).collect()
    }
}

/// Of a cancelling term, so much may be lost before the result is rounded: 2 units in the last place of float32.
pub const CANCELLED: f64 = 2.0 * f32::EPSILON as f64;

/// Below the smallest normal float32 a kernel may flush to 0.
const FLOOR: f64 = f32::MIN_POSITIVE as f64;

impl Format for f32 {
    const DIGITS: i32 = 24;
    const MIN_EXPONENT: i32 = -126;
    const FORWARD: Tolerance = Tolerance { ulps: 4.0, floor: FLOOR };
    const BACKWARD: Tolerance = Tolerance { ulps: 8.0, floor: FLOOR };
}

impl Format for sumexp::f16 {
    const DIGITS: i32 = 11;
    const MIN_EXPONENT: i32 = -14;
    const FORWARD: Tolerance = Tolerance { ulps: 0.51, floor: 0.0 };
    const BACKWARD: Tolerance = Tolerance { ulps: 0.51, floor: 0.0 };
}

impl Format for sumexp::bf16 {
    const DIGITS: i32 = 8;
    const MIN_EXPONENT: i32 = -126;
    const FORWARD: Tolerance = Tolerance { ulps: 0.51, floor: FLOOR };
    const BACKWARD: Tolerance = Tolerance { ulps: 0.51, floor: FLOOR };
}

/// How far `got` is from `want` in units in the last place, where the difference exceeds the floor; 0 elsewhere.
///
/// Infinity if exactly one of them is NaN, or if one is infinite and the other is not what it rounds to.
pub fn error<T: Format>(got: T, want: f64, floor: f64) -> f64 {
    let got = got.to_f64();
    if got.is_nan() || want.is_nan() {
        return if got.is_nan() && want.is_nan() { 0.0 } else { f64::INFINITY };
    }
    if got.is_infinite() || want.is_infinite() {
        // A finite exact value may lie beyond the largest number of the format.
        return if got == want || got == T::from_f64(want).to_f64() { 0.0 } else { f64::INFINITY };
    }
    let difference = (got - want).abs();
    if difference <= floor { 0.0 } else { difference / T::ulp(want) }
}

/// Positions where `got` is not `want`.
pub fn faults<T: Format>(got: &[T], want: &[Exact], tolerance: Tolerance) -> Vec<usize> {
    assert_eq!(got.len(), want.len(), "different lengths are not comparable");
    // Written so that a NaN would fail.
    let right = |got: T, want: &Exact| {
        let lost = CANCELLED * want.term;
        error(got, want.value, tolerance.floor.max(lost)) <= tolerance.ulps + lost / T::ulp(want.value)
    };
    (0..want.len()).filter(|i| !right(got[*i], &want[*i])).collect()
}

/// Panics unless `got` is `want` at every position. `case` says how to repeat the call.
#[track_caller]
pub fn assert_right<T: Format>(case: &dyn std::fmt::Display, got: &[T], want: &[Exact], tolerance: Tolerance) {
    let wrong = faults(got, want, tolerance);
    if wrong.is_empty() {
        return;
    }
    let mut text = format!("{case}: {} of {} outside {tolerance:?}", wrong.len(), want.len());
    for i in wrong.iter().take(5) {
        let ulps = error(got[*i], want[*i].value, tolerance.floor);
        text += &format!("\n  [{i}] got {:e}, want {:e}, {ulps:.2} ULP", got[*i].to_f64(), want[*i].value);
    }
    panic!("{text}");
}

/// Panics unless both hold the same bits, NaNs included.
#[track_caller]
pub fn assert_same_bits<T: Float>(case: &dyn std::fmt::Display, got: &[T], want: &[T]) {
    assert_eq!(got.len(), want.len(), "{case}: different lengths");
    let bits = |x: T| x.to_f32().to_bits();
    if let Some(i) = (0..want.len()).find(|i| bits(got[*i]) != bits(want[*i])) {
        panic!("{case}: bits differ first at [{i}]: {:08x} and {:08x}", bits(got[i]), bits(want[i]));
    }
}
