//! How far results are from the exact values, over many random rows of mixed magnitude: margins to 80, logits to 1e30.
//!
//! `SUMEXP_TEST_ROWS` sets the number of rows per operation and element type (`make accuracy` takes a million); the suite
//! takes fewer. The largest differences are printed with `--nocapture`.

use sumexp::{Device, f16};

use super::run::{Got, named, run, tolerance, tolerance_per_row};
use crate::common::cases::{Case, Fill};
use crate::common::compare::{CANCELLED, Exact, Format, Tolerance, assert_right, error};
use crate::common::device::devices;
use crate::common::family::{OPS, Op, want};

/// Lengths of the random rows. Most are short: there a single term decides, and none averages out.
const LENGTHS: [usize; 6] = [2, 3, 5, 16, 50, 200];

/// Rows of one call.
const CALL: usize = 2000;

fn rows() -> usize {
    let set = std::env::var("SUMEXP_TEST_ROWS");
    set.map_or(12_000, |rows| rows.parse().expect("SUMEXP_TEST_ROWS is a number"))
}

/// Checks all rows and returns the largest difference in units in the last place, of those that are not below the floor.
fn worst<T: Format>(op: Op, device: &Device) -> f64 {
    let (mut done, mut worst) = (0, 0f64);
    for seed in 0.. {
        let len = LENGTHS[seed as usize % LENGTHS.len()];
        let case = Case { seed, ..Case::new(&[CALL, len], Fill::Mixed) };
        let want = want::<T>(&case, op);
        worst = worst.max(match run::<T>(op, &case, device) {
            Got::Elements(got) => largest(&named::<T>(op, &case, device), &got, &want, tolerance::<T>(op, &case)),
            Got::PerRow(got) => largest(&named::<T>(op, &case, device), &got, &want, tolerance_per_row::<T>(op, &case)),
        });
        done += CALL;
        if done >= rows() {
            break;
        }
    }
    worst
}

fn largest<T: Format>(named: &dyn std::fmt::Display, got: &[T], want: &[Exact], tolerance: Tolerance) -> f64 {
    assert_right(named, got, want, tolerance);
    // What cancels to where the terms' last digits show is measured by its terms, not by units of the result.
    let plain = got.iter().zip(want).filter(|(_, want)| CANCELLED * want.term <= 0.01 * T::ulp(want.value));
    plain.map(|(got, want)| error(*got, want.value, tolerance.floor)).fold(0.0, f64::max)
}

fn measure<T: Format>() {
    for device in devices() {
        for op in OPS {
            let worst = worst::<T>(op, &device);
            println!("{op} {} on {}: {worst:.3} ULP over {} rows", T::DTYPE, device.name(), rows());
            // Every lse is a difference, and differences are left out.
            assert!(worst > 0.0 || op == Op::LogSumExp, "{op}: every row was exact, so nothing was measured");
        }
    }
}

#[test]
fn f32_rows() {
    measure::<f32>();
}

#[test]
fn f16_rows() {
    measure::<f16>();
}

#[test]
fn bf16_rows() {
    measure::<sumexp::bf16>();
}
