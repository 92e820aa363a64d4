//! Laws that the float64 reference obeys, on random rows. It is the oracle of every other test, so it is held to what
//! the functions mean, not to another implementation.

mod common;

use common::random::Random;
use sumexp::reference::{Sum, cross_entropy, row};

const HIDDEN: f64 = f64::NEG_INFINITY;

/// Rows of many lengths and magnitudes; every third has hidden entries.
fn rows() -> impl Iterator<Item = (String, Vec<f64>, Random)> {
    (0..200u64).map(|seed| {
        let mut random = Random::new(seed);
        let len = [1, 2, 3, 7, 32, 33, 100, 1000][random.below(8)];
        let scale = [0.1, 1.0, 10.0, 300.0][random.below(4)];
        let mut x: Vec<f64> = (0..len).map(|_| random.normal() * scale).collect();
        if seed % 3 == 0 {
            for x in &mut x[1..] {
                if random.one_in(4) {
                    *x = HIDDEN;
                }
            }
        }
        (format!("seed {seed}, {len} entries of scale {scale}"), x, random)
    })
}

fn normals(random: &mut Random, len: usize) -> Vec<f64> {
    (0..len).map(|_| random.normal()).collect()
}

#[track_caller]
fn close(case: &str, got: f64, want: f64, allowed: f64) {
    assert!((got - want).abs() <= allowed, "{case}: got {got:e}, want {want:e} within {allowed:e}");
}

#[test]
fn probabilities_sum_to_one_and_are_none_where_hidden() {
    for (case, x, _) in rows() {
        let y = row::softmax(&x, 0.7);
        close(&case, Sum::of(y.iter().copied()).value(), 1.0, 1e-14);
        for (x, y) in x.iter().zip(&y) {
            assert!(*y >= 0.0 && (*x != HIDDEN || *y == 0.0), "{case}: {y:e} at {x}");
        }
    }
}

#[test]
fn a_shift_of_the_row_shifts_the_lse_only() {
    for (case, x, mut random) in rows() {
        // A power of two times an integer, and entries rounded to a grid, so that the shifted row is exact.
        let shift = random.between(-1e6, 1e6).round();
        let x: Vec<f64> = x.iter().map(|v| (v * 1024.0).round() / 1024.0).collect();
        let shifted: Vec<f64> = x.iter().map(|v| v + shift).collect();
        assert_eq!(row::softmax(&shifted, 1.0), row::softmax(&x, 1.0), "{case}, shift {shift}");
        assert_eq!(row::log_softmax(&shifted, 1.0), row::log_softmax(&x, 1.0), "{case}, shift {shift}");
        let (got, want) = (row::logsumexp(&shifted, 1.0), row::logsumexp(&x, 1.0) + shift);
        close(&case, got, want, 1e-15 * (want.abs() + shift.abs()));
    }
}

#[test]
fn order_is_kept() {
    for (case, x, mut random) in rows() {
        let (y, log) = (row::softmax(&x, 2.0), row::log_softmax(&x, 2.0));
        for _ in 0..20 {
            let (i, k) = (random.below(x.len()), random.below(x.len()));
            let kept = |a: f64, b: f64| if x[i] <= x[k] { a <= b } else { a >= b };
            assert!(kept(y[i], y[k]) && kept(log[i], log[k]), "{case}: entries {i} and {k} changed places");
        }
    }
}

#[test]
fn softmax_is_the_exponential_of_log_softmax() {
    for (case, x, _) in rows() {
        for tau in [0.25, 1.0, 30.0] {
            for (y, log) in row::softmax(&x, tau).iter().zip(row::log_softmax(&x, tau)) {
                // An error in the exponent is a relative error of the power.
                close(&case, log.exp(), *y, y * 1e-15 * (4.0 + log.abs().min(800.0)) + 1e-307);
            }
        }
    }
}

#[test]
fn log_softmax_is_the_distance_to_the_lse() {
    for (case, x, _) in rows() {
        let lse = row::logsumexp(&x, 1.0);
        for (x, log) in x.iter().zip(row::log_softmax(&x, 1.0)).filter(|(x, _)| **x != HIDDEN) {
            close(&case, log, x - lse, 1e-15 * (x.abs() + lse.abs()));
        }
    }
}

#[test]
fn a_temperature_divides_the_logits() {
    for (case, x, _) in rows() {
        // A power of two: the division is exact.
        let divided: Vec<f64> = x.iter().map(|v| v / 8.0).collect();
        assert_eq!(row::softmax(&x, 8.0), row::softmax(&divided, 1.0), "{case}");
        assert_eq!(row::log_softmax(&x, 8.0), row::log_softmax(&divided, 1.0), "{case}");
        assert_eq!(row::logsumexp(&x, 8.0), row::logsumexp(&divided, 1.0), "{case}");
    }
}

#[test]
fn a_temperature_to_zero_selects_and_to_infinity_levels() {
    for (case, x, _) in rows() {
        let max = x.iter().copied().fold(HIDDEN, f64::max);
        let cold = row::softmax(&x, 1e-300);
        let hot = row::softmax(&x, 1e300);
        let visible = x.iter().filter(|v| **v != HIDDEN).count() as f64;
        for i in 0..x.len() {
            assert_eq!(cold[i], f64::from(u8::from(x[i] == max)), "{case} [{i}]: not the argmax");
            close(&case, hot[i], if x[i] == HIDDEN { 0.0 } else { 1.0 / visible }, 1e-15);
        }
    }
}

/// The gradient as the explicit Jacobian `(diag(p) - p p^T) / tau` times `dy`, entry by entry.
#[test]
fn softmax_backward_is_the_jacobian_times_dy() {
    for (case, x, mut random) in rows() {
        let (p, dy, tau) = (row::softmax(&x, 0.5), normals(&mut random, x.len()), 0.5);
        let got = row::softmax_backward(&p, &dy, tau);
        for i in 0..x.len() {
            let terms = (0..x.len()).map(|k| (if i == k { p[i] - p[i] * p[i] } else { -p[i] * p[k] }) / tau * dy[k]);
            close(&format!("{case} [{i}]"), got[i], Sum::of(terms).value(), 1e-14 * p[i] + 1e-300);
        }
        // Columns of the Jacobian sum to 0.
        close(&case, Sum::of(got).value(), 0.0, 1e-13);
    }
}

#[test]
fn log_softmax_backward_is_the_jacobian_times_dy() {
    for (case, x, mut random) in rows() {
        let (log, dy, tau) = (row::log_softmax(&x, 2.0), normals(&mut random, x.len()), 2.0);
        let got = row::log_softmax_backward(&log, &dy, tau);
        let visible: Vec<usize> = (0..x.len()).filter(|i| x[*i] != HIDDEN).collect();
        for i in 0..x.len() {
            let entry = |k: usize| (f64::from(u8::from(i == k)) - log[i].exp()) / tau * dy[k];
            let want = if visible.contains(&i) { Sum::of(visible.iter().map(|k| entry(*k))).value() } else { 0.0 };
            close(&format!("{case} [{i}]"), got[i], want, 1e-13);
        }
    }
}

/// Central differences of `sum(dy * f(x))` along every visible entry of short rows.
fn check_against_differences(f: impl Fn(&[f64]) -> Vec<f64>, gradient: impl Fn(&[f64], &[f64]) -> Vec<f64>) {
    for (case, x, mut random) in rows().filter(|(_, x, _)| x.len() <= 33) {
        let x: Vec<f64> = x.iter().map(|v| v.clamp(-8.0, 8.0) + if *v == HIDDEN { HIDDEN } else { 0.0 }).collect();
        let dy = normals(&mut random, f(&x).len());
        let got = gradient(&x, &dy);
        let dot =
            |x: &[f64]| Sum::of(f(x).iter().zip(&dy).filter(|(y, _)| y.is_finite()).map(|(y, dy)| y * dy)).value();
        for i in 0..x.len() {
            if x[i] == HIDDEN {
                assert_eq!(got[i], 0.0, "{case} [{i}] is hidden");
                continue;
            }
            let step = 1e-5;
            let moved = |by: f64| {
                let mut moved = x.clone();
                moved[i] += by;
                dot(&moved)
            };
            close(&format!("{case} [{i}]"), got[i], (moved(step) - moved(-step)) / (2.0 * step), 1e-8);
        }
    }
}

#[test]
fn gradients_are_the_limits_of_differences() {
    let tau = 0.8;
    check_against_differences(|x| row::softmax(x, tau), |x, dy| row::softmax_backward(&row::softmax(x, tau), dy, tau));
    check_against_differences(
        |x| row::log_softmax(x, tau),
        |x, dy| row::log_softmax_backward(&row::log_softmax(x, tau), dy, tau),
    );
    check_against_differences(|x| vec![row::logsumexp(x, tau)], |x, dy| row::logsumexp_backward(x, dy[0], tau));
    // Entry 0 is never hidden.
    check_against_differences(
        |x| vec![cross_entropy::loss(x, 0, tau)],
        |x, dy| cross_entropy::loss_backward(x, 0, tau).iter().map(|slope| slope * dy[0]).collect(),
    );
}

#[test]
fn a_loss_is_a_log_probability_and_its_gradient_sums_to_zero() {
    for (case, x, mut random) in rows() {
        let target = random.below(x.len());
        assert_eq!(cross_entropy::loss(&x, target, 3.0), -row::log_softmax(&x, 3.0)[target], "{case}");
        if x[target] != HIDDEN {
            close(&case, Sum::of(cross_entropy::loss_backward(&x, target, 3.0)).value(), 0.0, 1e-14);
        }
    }
}

#[test]
fn rows_without_anything_visible() {
    for len in [1, 2, 33] {
        let x = vec![HIDDEN; len];
        assert_eq!(row::softmax(&x, 1.0), vec![0.0; len]);
        assert_eq!(row::log_softmax(&x, 1.0), x);
        assert_eq!(row::logsumexp(&x, 1.0), HIDDEN);
        let dy = vec![f64::NAN; len];
        assert_eq!(row::softmax_backward(&vec![0.0; len], &dy, 1.0), vec![0.0; len]);
        assert_eq!(row::log_softmax_backward(&x, &dy, 1.0), vec![0.0; len]);
        assert_eq!(row::logsumexp_backward(&x, f64::NAN, 1.0), vec![0.0; len]);
    }
    assert_eq!(row::logsumexp(&[], 1.0), HIDDEN);
}

#[test]
fn a_nan_or_plus_infinity_makes_the_whole_row_nan() {
    for bad in [f64::NAN, f64::INFINITY] {
        for at in 0..3 {
            let mut x = [1.0, HIDDEN, 2.0];
            x[at] = bad;
            assert!(row::softmax(&x, 1.0).iter().all(|y| y.is_nan()), "{x:?}");
            assert!(row::log_softmax(&x, 1.0).iter().all(|y| y.is_nan()), "{x:?}");
            assert!(row::logsumexp(&x, 1.0).is_nan(), "{x:?}");
            assert!(row::logsumexp_backward(&x, 1.0, 1.0).iter().all(|y| y.is_nan()), "{x:?}");
        }
    }
}

/// What a mask hides has no influence: neither on the others, nor through its own upstream gradient.
#[test]
fn hidden_upstream_gradients_do_not_leak() {
    let y = row::softmax(&[1.0, HIDDEN, 2.0], 1.0);
    let log = row::log_softmax(&[1.0, HIDDEN, 2.0], 1.0);
    for leak in [f64::NAN, f64::INFINITY, 1e300] {
        assert_eq!(
            row::softmax_backward(&y, &[0.5, leak, 0.25], 1.0),
            row::softmax_backward(&y, &[0.5, 0.0, 0.25], 1.0)
        );
        let (got, want) = (
            row::log_softmax_backward(&log, &[0.5, leak, 0.25], 1.0),
            row::log_softmax_backward(&log, &[0.5, 0.0, 0.25], 1.0),
        );
        assert_eq!(got, want);
    }
}
