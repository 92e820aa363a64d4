//! Small cases worked out by hand.

use crate::problem::{Masks, Problem};
use sumexp::mask::{Align, Band};

/// Panics unless each value is the nearest `f32` to the exact one, or its neighbour.
#[track_caller]
fn near(got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    let right = got.iter().zip(want).all(|(got, want)| (f64::from(*got) - want).abs() <= 1.2e-7 * want.abs());
    assert!(right, "{got:?} instead of {want:?}");
}

/// One query of one feature, keys `k` and values `v`.
fn one_query(q: f64, k: &[f64], v: &[f64]) -> Problem {
    let mut problem = Problem::single(1, k.len(), 1, 0);
    (problem.q, problem.k, problem.v, problem.scale) = (vec![q], k.to_vec(), v.to_vec(), 1.0);
    problem
}

/// Scores 0 and ln 3 (as f32 has it): weights 1/4 and 3/4.
#[test]
fn a_quarter_and_three_quarters() {
    let ln3 = f64::from(3f32.ln());
    let problem = one_query(1.0, &[0.0, ln3], &[4.0, 8.0]);
    let (out, lse) = problem.forward::<f32>();
    near(&out, &[7.0]);
    near(&lse, &[4f64.ln()]);
    near(&problem.weights::<f32>(), &[0.25, 0.75]);
    // dp = v = (4, 8) and delta = 7: ds = (1/4 * -3, 3/4 * 1).
    let got = problem.backward::<f32>(&[1.0], None);
    near(&got.dq, &[0.75 * ln3]);
    near(&got.dk, &[-0.75, 0.75]);
    near(&got.dv, &[0.25, 0.75]);
    // dlse adds 2 * (1/4, 3/4).
    let got = problem.backward::<f32>(&[1.0], Some(&[2.0]));
    near(&got.dq, &[2.25 * ln3]);
    near(&got.dk, &[-0.25, 2.25]);
    near(&got.dv, &[0.25, 0.75]);
}

/// A bias that hides the first key of three; the others have weights 1/3 and 2/3. It is not scaled, and its gradient is ds.
#[test]
fn a_bias_by_hand() {
    let mut problem = one_query(0.0, &[5.0, 5.0, 5.0], &[100.0, 3.0, 6.0]);
    problem.scale = 0.125;
    problem.bias = Some((vec![f64::NEG_INFINITY, 0.0, f64::from(2f32.ln())], [1, 1, 1, 3]));
    let (out, lse) = problem.forward::<f32>();
    near(&out, &[5.0]);
    near(&lse, &[3f64.ln()]);
    // dp = (3, 6), delta = 5.
    let got = problem.backward::<f32>(&[1.0], None);
    near(&got.dbias, &[0.0, -2.0 / 3.0, 2.0 / 3.0]);
    near(&got.dv, &[0.0, 1.0 / 3.0, 2.0 / 3.0]);
    // 5 * (-2/3) + 5 * 2/3, in float64.
    assert!(got.dq[0].abs() < 1e-15, "{:?}", got.dq);
}

/// With softcap 1 a score of atanh(1/2) becomes 1/2, and the derivative there is 3/4.
#[test]
fn a_softcap_by_hand() {
    let u = f64::from(0.5f32.atanh());
    let mut problem = one_query(1.0, &[0.0, u], &[0.0, 1.0]);
    problem.softcap = Some(1.0);
    let weight = 1.0 / (1.0 + (-0.5f64).exp());
    let (out, lse) = problem.forward::<f32>();
    near(&out, &[weight]);
    near(&lse, &[(1.0 + 0.5f64.exp()).ln()]);
    let ds = weight * (1.0 - weight);
    let got = problem.backward::<f32>(&[1.0], None);
    near(&got.dk, &[-ds, 0.75 * ds]);
    near(&got.dq, &[0.75 * ds * u]);
}

/// The cap bounds what bias and products add up to, and a mask comes after it: hidden is hidden.
#[test]
fn a_softcap_comes_after_the_bias_and_before_the_mask() {
    let mut problem = one_query(0.0, &[0.0, 0.0, 0.0], &[1.0, 0.0, 64.0]);
    problem.bias = Some((vec![1e30, -1e30, 0.0], [1, 1, 1, 3]));
    problem.softcap = Some(2.0);
    problem.masks = Masks { lengths: Some(vec![2]), ..Masks::default() };
    let (out, lse) = problem.forward::<f32>();
    near(&out, &[1.0 / (1.0 + (-4f64).exp())]);
    near(&lse, &[2.0 + (-4f64).exp().ln_1p()]);
}

/// Slope ln 2: a key further away counts half. The query stands at the last key, or at the first.
#[test]
fn alibi_by_hand() {
    let problem = one_query(0.0, &[1.0, 2.0, 3.0], &[7.0, 14.0, 28.0]);
    let run = |align| Problem { alibi: Some((vec![2f32.ln()], align)), ..problem.clone() }.forward::<f32>();
    let (out, lse) = run(Align::BottomRight);
    near(&out, &[21.0]);
    near(&lse, &[1.75f64.ln()]);
    let (out, lse) = run(Align::TopLeft);
    near(&out, &[12.0]);
    near(&lse, &[1.75f64.ln()]);
    // Keys before and behind: the distance counts, not its sign.
    let mut middle = Problem::single(3, 3, 1, 0);
    (middle.q, middle.v) = (vec![0.0; 3], vec![1.0, 0.0, 0.0]);
    middle.alibi = Some((vec![2f32.ln()], Align::BottomRight));
    near(&middle.forward::<f32>().0, &[4.0 / 7.0, 0.25, 1.0 / 7.0]);
}

/// Two key heads for four query heads, all scores equal: means of the values, and gradients shared out.
#[test]
fn grouped_heads_by_hand() {
    let mut problem = Problem::new([1, 4, 2], [1, 2], [1, 1], 0);
    problem.q = vec![0.0; 4];
    problem.v = vec![1.0, 3.0, 10.0, 30.0];
    let (out, lse) = problem.forward::<f32>();
    near(&out, &[2.0, 2.0, 20.0, 20.0]);
    near(&lse, &[2f64.ln(); 4]);
    let got = problem.backward::<f32>(&[1.0, 2.0, 4.0, 8.0], None);
    near(&got.dv, &[1.5, 1.5, 6.0, 6.0]);
    assert!(got.dk.iter().all(|dk| *dk == 0.0), "{:?}", got.dk);
}

/// Three queries, two keys, causal: aligned at the end, the first query sees nothing.
#[test]
fn causal_rows_by_hand() {
    let mut problem = Problem::single(3, 2, 1, 0);
    problem.q = vec![0.0; 3];
    problem.v = vec![2.0, 6.0];
    problem.masks.bands = vec![Band::causal(Align::BottomRight)];
    let (out, lse) = problem.forward::<f32>();
    near(&out, &[0.0, 2.0, 4.0]);
    assert_eq!(lse, [f32::NEG_INFINITY, 0.0, 2f32.ln()]);
    assert_eq!(problem.weights::<f32>(), [0.0, 0.0, 1.0, 0.0, 0.5, 0.5]);
    let got = problem.backward::<f32>(&[f64::NAN, 1.0, 1.0], Some(&[f64::NAN, 0.0, 0.0]));
    near(&got.dv, &[1.5, 0.5]);
    assert_eq!(got.dq[0], 0.0);
    problem.masks.bands = vec![Band::causal(Align::TopLeft)];
    near(&problem.forward::<f32>().0, &[2.0, 4.0, 4.0]);
}
