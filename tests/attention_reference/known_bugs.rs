//! Bugs that other libraries had in attention, as cases: each names where it was found.

use crate::common::attention::dense::dense;
use crate::common::attention::problem::{Gradient, Masks, Problem, upstream};
use crate::common::compare::{Exact, assert_right, assert_same_bits};
use crate::laws::{assert_same, results};
use crate::packed::Packed;
use crate::values::ROUNDED;
use sumexp::mask::{Align, Band, Offsets, Pattern, Rule};
use sumexp::{Polarity, bf16, f16};

const HIDDEN: f64 = f64::NEG_INFINITY;

/// Forward, weights and gradients are finite (an lse may be -inf), and the forward pass agrees with dense arithmetic.
#[track_caller]
fn check(problem: &Problem) -> (Vec<f32>, Vec<f32>, Gradient<f32>) {
    let (out, lse) = problem.forward::<f32>();
    let want = dense(problem);
    assert_right(&"out", &out, &Exact::plain(want.out), ROUNDED);
    assert_right(&"lse", &lse, &Exact::plain(want.lse), ROUNDED);
    let (dout, dlse) = upstream(problem, 1);
    let gradient = problem.backward::<f32>(&dout, Some(&dlse));
    let Gradient { dq, dk, dv, dbias } = &gradient;
    assert!([dq, dk, dv, dbias].iter().all(|x| x.iter().all(|x| x.is_finite())), "{gradient:?}");
    (out, lse, gradient)
}

fn bytes(problem: &Problem, shown: impl Fn(usize, usize) -> bool) -> Masks {
    let pairs = (0..problem.queries * problem.keys).map(|i| u8::from(shown(i / problem.keys, i % problem.keys)));
    Masks { bytes: Some((pairs.collect(), [1, 1, problem.queries, problem.keys], Polarity::Keep)), ..Masks::default() }
}

fn bias(problem: &mut Problem, value: impl Fn(usize, usize) -> f64) {
    let pairs = (0..problem.queries * problem.keys).map(|i| value(i / problem.keys, i % problem.keys));
    problem.bias = Some((pairs.collect(), [1, 1, problem.queries, problem.keys]));
}

/// pytorch#103963, #41508: rows that the mask hides whole became 0/0, and their gradients NaN.
#[test]
fn hidden_rows_among_others() {
    let mut problem = Problem::single(8, 8, 8, 1);
    problem.masks = bytes(&problem, |i, _| i < 4);
    let (out, lse, gradient) = check(&problem);
    assert!(out[32..].iter().chain(&gradient.dq[32..]).all(|x| x.to_bits() == 0));
    assert!(lse[4..].iter().all(|x| *x == f32::NEG_INFINITY) && lse[..4].iter().all(|x| x.is_finite()));
    // E = 1, H = 1, L = 4, one such row.
    let mut problem = Problem::single(4, 4, 1, 2);
    problem.masks = bytes(&problem, |i, j| i != 2 && j <= i);
    check(&problem);
}

/// flashinfer#4267, #4450: with -5e4 standing for "hidden", rows of smaller scores gave 0.
#[test]
fn very_negative_scores_are_visible() {
    let mut problem = Problem::single(3, 5, 64, 3);
    (problem.q, problem.k, problem.scale) = (vec![40.0; 192], vec![-40.0; 320], 1.0);
    let (out, lse, _) = check(&problem);
    assert_eq!(lse[0], (-64.0f64 * 1600.0 + 5f64.ln()) as f32);
    let mean = |d: usize| problem.v.chunks(64).map(|v| v[d]).sum::<f64>() / 5.0;
    assert!((0..64).all(|d| (f64::from(out[d]) - mean(d)).abs() < 1e-6));
}

/// flashinfer#4451, #4452: more queries than keys, aligned at the end: NaN in the rows that see nothing.
#[test]
fn more_queries_than_keys() {
    let mut problem = Problem::single(70, 33, 8, 4);
    problem.masks.bands = vec![Band::causal(Align::BottomRight)];
    let (out, lse, gradient) = check(&problem);
    assert!(out[..37 * 8].iter().chain(&gradient.dq[..37 * 8]).all(|x| *x == 0.0));
    assert!(lse[..37].iter().all(|x| *x == f32::NEG_INFINITY) && lse[37..].iter().all(|x| x.is_finite()));
    Packed::new(&[[3, 1], [1, 1], [5, 1]], [2, 2], [4, 4], 5).check();
}

/// flashinfer#1178: a row whose first 64 scores are hidden.
#[test]
fn a_row_that_begins_hidden() {
    let mut problem = Problem::single(2, 100, 4, 6);
    problem.masks = bytes(&problem, |_, j| j >= 64);
    check(&problem);
    assert!(problem.weights::<f32>()[..64].iter().all(|w| *w == 0.0));
}

/// xformers 540fcbfd, 63d7f30b: a bias of -inf on the first keys gave exp(-inf - -inf).
#[test]
fn a_bias_that_begins_hidden() {
    let mut problem = Problem::single(3, 300, 4, 7);
    bias(&mut problem, |_, j| if j < 200 { HIDDEN } else { 0.25 });
    let (.., gradient) = check(&problem);
    assert!((0..600).filter(|i| i % 300 < 200).all(|i| gradient.dbias[i].to_bits() == 0));
}

/// pytorch#127055: a band of -inf bias, so that whole tiles are hidden.
#[test]
fn a_band_of_bias() {
    let mut problem = Problem::single(600, 600, 8, 8);
    bias(&mut problem, |i, j| if j > i || j + 10 < i { HIDDEN } else { 0.0 });
    let with_bias = results(&problem, &upstream(&problem, 2));
    check(&problem);
    // The same pairs as a window: the same bits.
    let mut window = problem.clone();
    window.bias = Some((vec![0.0], [1, 1, 1, 1]));
    window.masks.bands = vec![Band { left: Some(10), right: Some(0), align: Align::TopLeft }];
    let mut with_window = results(&window, &upstream(&problem, 2));
    with_window.gradient.dbias = with_bias.gradient.dbias.clone();
    assert_same("band", &with_bias, &with_window);
}

/// pytorch#110213, #109517: the most negative finite number was taken for hidden, or overflowed.
#[test]
fn the_most_negative_bias_is_visible() {
    let mut problem = Problem::single(2, 441, 4, 9);
    let lowest = f64::from(f32::MIN);
    bias(&mut problem, |i, j| if i == 0 || j < 128 { lowest } else { 0.0 });
    check(&problem);
    let weights = problem.weights::<f32>();
    // Beside 3.4e38 the products vanish: row 0 is level. Row 1 has all its weight on the others.
    problem.q.fill(0.0);
    assert!(problem.weights::<f32>()[..441].iter().all(|w| *w == (1.0 / 441.0) as f32));
    assert!(weights[441..441 + 128].iter().all(|w| *w == 0.0) && weights[441 + 128..].iter().all(|w| *w > 0.0));
}

/// apex 31cbdd15: a mask of all hidden was detected by max == -10000, and leaked 1/Sk; a score may well be -10000.
#[test]
fn all_hidden_is_no_value() {
    let mut problem = Problem::single(2, 4, 1, 10);
    (problem.q, problem.k, problem.scale) = (vec![100.0; 2], vec![-100.0; 4], 1.0);
    assert_eq!(problem.weights::<f32>(), [0.25; 8]);
    problem.masks = bytes(&problem, |_, _| false);
    assert_eq!(problem.weights::<f32>(), [0.0; 8]);
    check(&problem);
}

/// candle e020e8a42, 46928bced; burn fcc8dacdf, cubecl 477dc3bfe, ggml a118c51a: mask and causal together are both, once, and a
/// row that they empty together is empty.
#[test]
fn a_mask_and_causal() {
    let mut problem = Problem::single(5, 5, 4, 11);
    problem.masks = bytes(&problem, |_, j| j != 0);
    problem.masks.bands = vec![Band::causal(Align::TopLeft)];
    let (_, lse, _) = check(&problem);
    assert!(lse[0] == f32::NEG_INFINITY && lse[1..].iter().all(|x| x.is_finite()));
    let twice = Problem {
        masks: Masks { bands: vec![Band::causal(Align::TopLeft); 2], ..problem.masks.clone() },
        ..problem.clone()
    };
    let upstream = upstream(&problem, 3);
    assert_same("twice", &results(&twice, &upstream), &results(&problem, &upstream));
}

/// ggml 0851f65a: where everything is hidden, the end of the keys came out as -256.
#[test]
fn the_range_of_no_keys_is_empty() {
    let rules = [Rule::Band(Band::causal(Align::BottomRight))];
    let pattern = Pattern { queries: 600, keys: 10, rules: &rules };
    assert_eq!((pattern.key_range(0, 0..590), pattern.key_range(0, 0..591)), (0..0, 0..1));
    let mut problem = Problem::single(3, 40, 2, 12);
    bias(&mut problem, |_, _| HIDDEN);
    let (out, lse, gradient) = check(&problem);
    assert!(out.iter().chain(&gradient.dv).chain(&gradient.dbias).all(|x| x.to_bits() == 0));
    assert!(lse.iter().all(|x| *x == f32::NEG_INFINITY));
}

/// pytorch#101967: NaN in a hidden key and inf in a hidden value leaked, by NaN + -inf and by 0 * inf.
#[test]
fn hidden_keys_and_values_do_not_leak() {
    let mut problem = Problem::single(16, 40, 8, 13);
    problem.masks.lengths = Some(vec![30]);
    let upstream = upstream(&problem, 4);
    let want = results(&problem, &upstream);
    problem.k[30 * 8..].fill(f64::NAN);
    problem.v[33 * 8..].fill(f64::INFINITY);
    let got = results(&problem, &upstream);
    assert_same("planted", &got, &want);
    assert!(got.gradient.dk[30 * 8..].iter().chain(&got.gradient.dv[30 * 8..]).all(|x| x.to_bits() == 0));
}

/// jax a282d586b6, f0392a1535: gradients of hidden entries were NaN or not 0. Scores 36 and 10000, where 10000 is hidden.
#[test]
fn gradients_of_hidden_scores() {
    let mut problem = Problem::single(1, 2, 1, 14);
    (problem.q, problem.k, problem.scale) = (vec![1.0], vec![36.0, 10_000.0], 1.0);
    problem.masks.lengths = Some(vec![1]);
    let (out, lse, gradient) = check(&problem);
    assert_eq!((f64::from(out[0]), lse[0]), (problem.v[0], 36.0));
    assert_eq!(gradient.dk[1].to_bits(), 0);
    // A single visible key: all that moves is the lse.
    let dout_only = problem.backward::<f32>(&[1.0], None);
    assert_eq!((dout_only.dq[0], dout_only.dk[0], dout_only.dv[0]), (0.0, 0.0, 1.0));
}

/// pytorch#31829, jax#6811, optax#1762: the gradient of the lse of nothing was NaN.
#[test]
fn the_gradient_of_the_lse_of_nothing() {
    let mut problem = Problem::single(2, 2, 2, 15);
    bias(&mut problem, |_, _| HIDDEN);
    let Gradient { dq, dk, dv, dbias } = problem.backward::<f32>(&[0.0; 4], Some(&[1.0, f64::NAN]));
    assert!([dq, dk, dv, dbias].concat().iter().all(|x| x.to_bits() == 0));
}

/// jax 099f0a1708, xformers 1328ba7c: a window or causal flag without another mask was ignored. ggml 6a92a50f: no mask with as
/// many queries as keys was taken for causal.
#[test]
fn a_band_alone_counts_and_none_is_none() {
    let mut problem = Problem::single(128, 128, 4, 16);
    let visible = |problem: &Problem| problem.weights::<f32>().iter().filter(|w| **w > 0.0).count();
    assert_eq!(visible(&problem), 128 * 128);
    problem.masks.bands = vec![Band { left: Some(1), right: Some(1), align: Align::TopLeft }];
    assert_eq!(visible(&problem), 3 * 128 - 2);
    problem.masks.bands = vec![Band::causal(Align::TopLeft)];
    assert_eq!(visible(&problem), 128 * 129 / 2);
    check(&problem);
}

/// flashinfer 7f33b2084: the last tile was not masked where it reaches beyond the keys: means came out 16 times too small.
#[test]
fn a_mean_of_few_keys() {
    for keys in [16, 64, 65] {
        let mut problem = Problem::single(2, keys, 8, 17);
        problem.q.fill(0.0);
        let (out, lse, _) = check(&problem);
        let mean = problem.v.chunks(8).map(|v| v[0]).sum::<f64>() / keys as f64;
        assert!((f64::from(out[0]) - mean).abs() < 1e-7 && lse[0] == (keys as f64).ln() as f32);
    }
}

/// flashinfer 480d1ae00: rows whose keys would end below 0 were not written at all.
#[test]
fn rows_before_the_keys_are_written() {
    let mut problem = Problem::single(9, 2, 3, 18);
    problem.masks.bands = vec![Band::causal(Align::BottomRight)];
    // `forward` fills its outputs with NaN beforehand.
    let (out, lse) = problem.forward::<f32>();
    assert!(out[..21].iter().all(|x| x.to_bits() == 0) && lse[..7].iter().all(|x| *x == f32::NEG_INFINITY));
    check(&problem);
}

/// flash-attn a4f148b6: keys beyond the end in the backward pass made dq NaN: odd lengths, large scores.
#[test]
fn backward_of_odd_lengths_and_large_scores() {
    for (n, len) in [1, 2, 5, 17, 128].into_iter().enumerate() {
        for size in [16, 32, 64] {
            let mut problem = Problem::single(len, len, size, 19 + n as u64);
            problem.q.iter_mut().for_each(|x| *x *= 5.0);
            problem.k.iter_mut().for_each(|x| *x *= 3.0);
            check(&problem);
        }
    }
}

/// flash-attn c65b5106, b46c5875: packed sequences with far more queries than keys, and one without queries.
#[test]
fn packed_sequences_of_uneven_lengths() {
    let mut packed = Packed::new(&[[76, 1], [34, 1], [146, 1]], [1, 1], [2, 2], 20);
    packed.bands = vec![Band::causal(Align::BottomRight)];
    let results = packed.check();
    assert!(results.out.iter().chain(&results.gradient.dk).all(|x| x.is_finite()));
    let packed = Packed::new(&[[0, 3], [40, 4], [40, 5]], [2, 1], [2, 2], 21);
    let results = packed.check();
    let of_nobody = &results.gradient.dk[..3 * 2];
    assert!(of_nobody.iter().all(|x| x.to_bits() == 0), "{of_nobody:?}");
}

/// flash-attn 03cd0651, 484b9813; flashinfer 3b01face1: no keys, no queries, neither: a defined result that ends.
#[test]
fn no_keys_or_no_queries() {
    let (out, lse, gradient) = check(&Problem::new([2, 2, 1], [3, 0], [4, 5], 22));
    assert!(out.len() == 60 && out.iter().chain(&gradient.dq).all(|x| x.to_bits() == 0));
    assert!(lse.len() == 12 && lse.iter().all(|x| *x == f32::NEG_INFINITY));
    let (out, _, gradient) = check(&Problem::new([2, 2, 1], [0, 3], [4, 5], 23));
    assert!(out.is_empty() && gradient.dk.iter().chain(&gradient.dv).all(|x| x.to_bits() == 0));
    check(&Problem::new([2, 2, 1], [0, 0], [4, 5], 24));
    check(&Problem::new([0, 2, 1], [3, 4], [4, 5], 25));
    check(&Problem::new([2, 0, 0], [3, 4], [4, 5], 26));
}

/// flash-attn a3a257c7: a sequence without keys wrote into its neighbour.
#[test]
fn a_sequence_without_keys_between_others() {
    let packed = Packed::new(&[[2, 3], [4, 0], [2, 3]], [2, 2], [3, 3], 27);
    let results = packed.check();
    assert!(results.out[2 * 6..6 * 6].iter().all(|x| x.to_bits() == 0));
    let k = Offsets::new(&[0, 3, 3, 6], 6).unwrap();
    assert_eq!([k.range(0), k.range(1), k.range(2)], [0..3, 3..3, 3..6]);
}

/// cudnn-frontend#1072, #628, #160; pytorch#196678: with a very negative lse, padding scored 0 overflowed in exp(0 - lse).
#[test]
fn a_very_negative_lse() {
    let mut problem = Problem::new([1, 2, 2], [1, 128], [64, 64], 28);
    (problem.q, problem.k, problem.scale) = (vec![8.0; 128], vec![-8.0; 128 * 128], 1.0);
    problem.masks.lengths = Some(vec![64]);
    let (_, lse, _) = check(&problem);
    assert_eq!(lse[0], (-4096.0 + 64f64.ln()) as f32);
    let gradient = problem.backward::<bf16>(&vec![1.0; 128], None);
    assert!(gradient.dv[..64 * 64].iter().all(|x| *x == bf16::from_f64(1.0 / 64.0)));
    assert!(gradient.dv[64 * 64..128 * 64].iter().all(|x| x.to_bits() == 0));
}

/// pytorch#6864: a score of +inf makes its row NaN, and no other.
#[test]
fn an_infinite_score() {
    let mut problem = Problem::single(3, 3, 1, 29);
    (problem.q, problem.k, problem.scale) = (vec![1.0; 3], vec![1.0, 2.0, 0.5], 1.0);
    let (want, want_lse) = problem.forward::<f32>();
    problem.q[1] = f64::INFINITY;
    let (got, lse) = problem.forward::<f32>();
    assert!(got[1].is_nan() && lse[1].is_nan());
    for row in [0, 2] {
        assert_same_bits(&"out", &got[row..=row], &want[row..=row]);
        assert_same_bits(&"lse", &lse[row..=row], &want_lse[row..=row]);
    }
}

/// pytorch's large-value test: bfloat16 tensors of 133120 everywhere have scores of 1.4e11, and inf - inf came out.
#[test]
fn huge_equal_scores() {
    let mut problem = Problem::single(4, 5, 64, 30);
    [&mut problem.q, &mut problem.k, &mut problem.v].into_iter().for_each(|x| x.fill(133_120.0));
    let (out, lse) = problem.forward::<bf16>();
    assert!(out.iter().all(|x| *x == bf16::from_f64(133_120.0)) && lse.iter().all(|x| *x == lse[0]));
    assert_eq!(f64::from(lse[0]), 133_120.0f64.powi(2) * 8.0);
    let Gradient { dq, dk, dv, .. } = problem.backward::<bf16>(&vec![1.0; 256], None);
    assert!(dq.iter().chain(&dk).chain(&dv).all(|x| x.is_finite()));
}

/// ggml 17746, 17875: sums of values near the largest f16 overflowed before they were divided.
#[test]
fn values_near_the_largest_f16() {
    let mut problem = Problem::single(2, 300, 8, 31);
    problem.q.fill(0.0);
    problem.v.fill(60_000.0);
    assert!(problem.forward::<f16>().0.iter().all(|x| *x == f16::from_f64(60_000.0)));
}
