//! How far results are from the exact values, over many random rows of mixed magnitude: margins to 80, logits to 1e30.
//!
//! `SUMEXP_TEST_ROWS` sets the number of rows per operation and element type (`make accuracy` takes a million); the suite
//! takes fewer. The largest differences are printed with `--nocapture`.

use sumexp::{Device, Dim, LogProbabilities, SoftmaxOptions, Tensor, f16, log_softmax_backward};

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

/// A winner of this batch has a log-probability of -0.248, which a sum of weights in f32 gets wrong by 4.15 units.
#[test]
fn the_sum_of_weights_keeps_what_f32_would_round() {
    let case = Case { seed: 454, ..Case::new(&[CALL, 50], Fill::Mixed) };
    let want = want::<f32>(&case, Op::LogSoftmax);
    for device in devices() {
        let named = named::<f32>(Op::LogSoftmax, &case, &device);
        let Got::Elements(got) = run::<f32>(Op::LogSoftmax, &case, &device) else { panic!("{named}: one per row") };
        assert_right(&named, &got, &want, Tolerance { ulps: 3.0, ..f32::FORWARD });
    }
}

/// The gradient of a confident winner is `-expm1(y)`: with no allowance for what cancels, down to exactly 0.
fn confident_winners<T: Format>() {
    let winners: Vec<f64> = (0..=24).map(|k| -2f64.powi(-k)).chain([-0.0, 0.0]).collect();
    let y: Vec<T> = winners.iter().flat_map(|y| [T::from_f64(*y), T::from_f64(-60.0)]).collect();
    let dy: Vec<T> = winners.iter().flat_map(|_| [T::from_f64(1.0), T::from_f64(0.0)]).collect();
    let want: Vec<f64> = winners.iter().flat_map(|y| [-y.exp_m1(), -(-60f64).exp()]).collect();
    for device in devices() {
        let tensor = |values: &[T]| Tensor::from_slice(&device, &[winners.len(), 2], values).expect("there is room");
        let y = LogProbabilities::from_tensor(tensor(&y));
        let dx = log_softmax_backward(&y, &tensor(&dy), Dim::LAST, &SoftmaxOptions::default()).expect("a legal call");
        let named = format!("confident winners, {} on {}", T::DTYPE, device.name());
        assert_right(&named, &dx.to_vec().expect("no finding"), &Exact::plain(want.iter().copied()), T::BACKWARD);
    }
}

#[test]
fn a_confident_winner_has_a_gradient_as_small_as_it_must_be() {
    confident_winners::<f32>();
    confident_winners::<f16>();
    confident_winners::<sumexp::bf16>();
}
