//! Every gradient of the reference against central differences of dense float64 arithmetic.

use crate::common::attention::dense::dense;
use crate::common::attention::problem::{Problem, numbers};
use crate::common::random::Random;
use crate::values::{extras, masks};

/// What the gradients are of: a fixed linear function of out and lse.
fn objective(problem: &Problem, dout: &[f64], dlse: Option<&[f64]>) -> f64 {
    let result = dense(problem);
    let sum =
        |x: &[f64], dx: &[f64]| -> f64 { x.iter().zip(dx).filter(|(x, _)| x.is_finite()).map(|(x, dx)| x * dx).sum() };
    sum(&result.out, dout) + dlse.map_or(0.0, |dlse| sum(&result.lse, dlse))
}

/// Compares `got` with the differences along the operand that `operand` finds in a problem.
fn check_operand(
    case: &str,
    problem: &Problem,
    upstream: (&[f64], Option<&[f64]>),
    got: &[f32],
    operand: impl Fn(&mut Problem) -> &mut [f64],
) {
    const STEP: f64 = 1e-4;
    let mut moved = problem.clone();
    assert_eq!(got.len(), operand(&mut moved).len(), "{case}");
    for (i, got) in got.iter().enumerate() {
        let here = operand(&mut moved)[i];
        if here == f64::NEG_INFINITY {
            assert_eq!(*got, 0.0, "{case} [{i}] is hidden");
            continue;
        }
        let mut at = |x: f64| {
            operand(&mut moved)[i] = x;
            objective(&moved, upstream.0, upstream.1)
        };
        let want = (at(here + STEP) - at(here - STEP)) / (2.0 * STEP);
        at(here);
        let allowed = 1e-6 * (1.0 + want.abs());
        assert!((f64::from(*got) - want).abs() <= allowed, "{case} [{i}]: got {got:e}, want {want:e}");
    }
}

fn check(case: &str, problem: &Problem, random: &mut Random, with_dlse: bool) {
    let dout = numbers(random, problem.out_shape().iter().product());
    let dlse = with_dlse.then(|| numbers(random, problem.lse_shape().iter().product()));
    let got = problem.backward::<f32>(&dout, dlse.as_deref());
    let upstream = (&dout[..], dlse.as_deref());
    check_operand(&format!("{case}: dq"), problem, upstream, &got.dq, |p| &mut p.q);
    check_operand(&format!("{case}: dk"), problem, upstream, &got.dk, |p| &mut p.k);
    check_operand(&format!("{case}: dv"), problem, upstream, &got.dv, |p| &mut p.v);
    if problem.bias.is_some() {
        check_operand(&format!("{case}: dbias"), problem, upstream, &got.dbias, |p| &mut p.bias.as_mut().unwrap().0);
    }
}

#[test]
fn gradients_are_the_limits_of_differences() {
    let mut random = Random::new(3);
    for (n, (heads, lengths, sizes)) in
        [([2, 2, 1], [3, 4], [2, 3]), ([1, 4, 2], [4, 3], [1, 2]), ([2, 1, 1], [5, 5], [3, 1])].into_iter().enumerate()
    {
        let plain = Problem::new(heads, lengths, sizes, 100 + n as u64);
        for (m, (name, masks)) in masks(&plain, &mut random).into_iter().enumerate() {
            // All bias shapes, with and without softcap, ALiBi and dlse, come by over the three sizes.
            let problem = extras(Problem { masks, ..plain.clone() }, 5 * n + m, &mut random);
            check(&format!("{heads:?} {lengths:?} {sizes:?} {name}"), &problem, &mut random, m % 2 == 0);
        }
    }
}

/// Each option by itself, so that a failure names it.
#[test]
fn gradients_of_each_option() {
    let mut random = Random::new(4);
    let plain = Problem::new([2, 4, 2], [3, 4], [2, 2], 9);
    for shape in [[2, 4, 3, 4], [1, 4, 3, 4], [2, 1, 3, 4], [1, 1, 1, 4], [1, 1, 3, 1], [2, 1, 1, 1], [1, 1, 1, 1]] {
        let bias = Some((numbers(&mut random, shape.iter().product()), shape));
        // Without dlse the gradients of a row's scores add up to 0, and nothing would show in a bias of rows.
        check(&format!("bias {shape:?}"), &Problem { bias, ..plain.clone() }, &mut random, true);
    }
    for softcap in [0.25, 1.0, 50.0] {
        check(&format!("softcap {softcap}"), &Problem { softcap: Some(softcap), ..plain.clone() }, &mut random, true);
    }
    for align in [sumexp::mask::Align::TopLeft, sumexp::mask::Align::BottomRight] {
        let alibi = Some((vec![0.5, 0.25, 2.0, 0.0], align));
        check(&format!("ALiBi {align:?}"), &Problem { alibi, ..plain.clone() }, &mut random, false);
    }
    check("negative scale", &Problem { scale: -0.75, ..plain.clone() }, &mut random, true);
    check("dlse", &plain, &mut random, true);
}

/// The gradients of a row's scores add up to the gradient of its lse: a shift of all scores moves the lse alone.
#[test]
fn a_bias_of_rows_gets_the_gradient_of_the_lse() {
    let mut random = Random::new(8);
    let mut problem = Problem::new([2, 2, 2], [4, 6], [3, 3], 21);
    problem.bias = Some((numbers(&mut random, 16), [2, 2, 4, 1]));
    let dout = numbers(&mut random, problem.out_shape().iter().product());
    let dlse = numbers(&mut random, 16);
    let got = problem.backward::<f32>(&dout, Some(&dlse)).dbias;
    for (got, want) in got.iter().zip(&dlse) {
        assert!((f64::from(*got) - want).abs() < 1e-6, "{got:e} instead of {want:e}");
    }
    let without = problem.backward::<f32>(&dout, None).dbias;
    assert!(without.iter().all(|g| g.abs() < 1e-13), "{without:?}");
}
