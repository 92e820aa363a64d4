//! The comparator of the other tests, tested first: it must reject what is wrong and accept what is right.

mod common;

use common::compare::{Exact, Format, Tolerance, assert_right, assert_same_bits, error, faults};
use sumexp::{bf16, f16};

const NAN: f32 = f32::NAN;
const INF: f32 = f32::INFINITY;
const LOOSE: Tolerance = Tolerance { ulps: 4.0, floor: 1e-6 };

fn exact(values: &[f32]) -> Vec<Exact> {
    Exact::plain(values.iter().map(|v| f64::from(*v)))
}

#[test]
fn rejects_what_is_wrong() {
    for (got, want) in [
        ([NAN, NAN], [0.1, 0.2]),
        ([0.0, 0.0], [0.1, 0.2]),
        ([-0.1, -0.2], [0.1, 0.2]),
        ([0.2, 0.1], [0.1, 0.2]),
        ([0.1, 0.1], [0.1, 0.2]),
        ([0.1, 0.2001], [0.1, 0.2]),
        ([INF, 0.2], [0.1, 0.2]),
        ([1.0, 0.2], [INF, 0.2]),
        ([-INF, 0.2], [INF, 0.2]),
        ([NAN, 0.2], [INF, 0.2]),
        ([0.0, 0.2], [NAN, 0.2]),
        ([INF, 0.2], [NAN, 0.2]),
        ([0.1, NAN], [0.1, -INF]),
        ([f32::MAX, 0.2], [INF, 0.2]),
        ([0.1, 0.0], [0.1, -INF]),
    ] {
        assert!(!faults(&got, &exact(&want), LOOSE).is_empty(), "{got:?} passed for {want:?}");
    }
}

#[test]
fn accepts_what_is_right() {
    for same in [[0.1, 0.2], [NAN, -INF], [INF, 1e-30], [0.0, -0.0], [f32::MAX, f32::MIN_POSITIVE]] {
        assert!(faults(&same, &exact(&same), LOOSE).is_empty(), "{same:?} is not itself");
    }
    assert!(faults::<f32>(&[], &[], LOOSE).is_empty());
    assert!(faults(&[0.0f32], &exact(&[1e-7]), LOOSE).is_empty(), "a difference below the floor");
}

#[test]
#[should_panic(expected = "different lengths")]
fn refuses_different_lengths() {
    faults(&[0.0f32], &exact(&[0.0, 0.0]), LOOSE);
}

#[test]
fn positions_are_reported() {
    assert_eq!(faults(&[1.0f32, 3.0, 3.0, NAN], &exact(&[1.0, 2.0, 3.0, 4.0]), LOOSE), [1, 3]);
}

#[test]
fn units_in_the_last_place() {
    assert_eq!(f32::ulp(1.0), f64::from(f32::EPSILON));
    assert_eq!(f32::ulp(0.99), f64::from(f32::EPSILON) / 2.0);
    assert_eq!(f32::ulp(-2.0), 2.0 * f64::from(f32::EPSILON));
    assert_eq!(f32::ulp(1e-45), f64::from(f32::from_bits(1)));
    assert_eq!(f32::ulp(0.0), f64::from(f32::from_bits(1)));
    assert_eq!(f16::ulp(1.5), f16::EPSILON.to_f64());
    assert_eq!(f16::ulp(1e-7), f16::from_bits(1).to_f64());
    assert_eq!(bf16::ulp(1.5), bf16::EPSILON.to_f64());
    // The next number after 1 is exactly 1 ULP away, and half-way to it is 0.5 ULP.
    assert_eq!(error(1f32.next_up(), 1.0, 0.0), 1.0);
    assert_eq!(error(f16::ONE, 1.0 + f16::EPSILON.to_f64() / 2.0, 0.0), 0.5);
}

#[test]
fn one_rounding_passes_and_two_do_not() {
    let tolerance = f16::FORWARD;
    let want = 1.0 + 0.52 * f16::EPSILON.to_f64();
    assert!(faults(&[f16::from_f64(want)], &Exact::plain([want]), tolerance).is_empty());
    assert!(!faults(&[f16::ONE], &Exact::plain([want]), tolerance).is_empty(), "the wrong neighbour passed");
}

/// 1 - (1 - 2^-20) in f32: the last bits of the terms are allowed for, not more.
#[test]
fn what_cancels_is_measured_by_its_terms() {
    let want = |term| [Exact { value: 2f64.powi(-20), term }];
    let off = 2f32.powi(-20) + 2f32.powi(-23);
    assert!(faults(&[off], &want(1.0), f32::BACKWARD).is_empty());
    assert!(!faults(&[off], &want(0.0), f32::BACKWARD).is_empty());
    assert!(!faults(&[2f32.powi(-20) + 2f32.powi(-21)], &want(1.0), f32::BACKWARD).is_empty());
    assert!(!faults(&[f32::NAN], &want(1.0), f32::BACKWARD).is_empty());
}

#[test]
fn beyond_the_largest_number_of_the_format() {
    assert_eq!(error(f16::INFINITY, 65520.0, 0.0), 0.0, "65520 rounds to infinity in f16");
    assert_eq!(error(f16::INFINITY, 65519.0, 0.0), f64::INFINITY);
    assert_eq!(error(f16::NEG_INFINITY, 1e6, 0.0), f64::INFINITY, "the wrong sign");
    assert_eq!(error(f16::MAX, f64::INFINITY, 0.0), f64::INFINITY);
}

#[test]
#[should_panic(expected = "seed 7: 1 of 2 outside Tolerance { ulps: 4.0, floor: 1e-6 }\n  [1] got 0e0, want 2.5e-1")]
fn the_message_says_where_and_by_how_much() {
    assert_right(&"softmax f32 [2] seed 7", &[0.75f32, 0.0], &exact(&[0.75, 0.25]), LOOSE);
}

#[test]
#[should_panic(expected = "bits differ first at [1]: 00000000 and 80000000")]
fn bits_are_compared_as_bits() {
    assert_same_bits(&"zeros", &[NAN, 0.0], &[NAN, -0.0]);
}
