//! Bugs that other libraries had in attention, on every device: each names where it was found. Their forms for the reference
//! alone are in `attention_reference`.

use crate::common::attention::cases::Layout;
use crate::common::attention::dense::{Dense, dense, gradients, sees, terms};
use crate::common::attention::on_device::{OnDevice, Results};
use crate::common::attention::problem::{Gradient, Masks, Problem, upstream};
use crate::common::attention::same_dtype::attention;
use crate::common::compare::{Format, assert_same_bits};
use crate::common::device::assert_no_findings;
use crate::devices;
use sumexp::mask::{Align, Band};
use sumexp::{Polarity, bf16, f16};

const HIDDEN: f64 = f64::NEG_INFINITY;

/// Runs problems in one call on each device, in both directions: right up to a few roundings, and 0 and -inf where nothing is
/// visible. Returns what the GPU gave of the first.
#[track_caller]
fn check<T: Format>(problems: &[Problem], layout: Layout) -> (Vec<f64>, Vec<f32>) {
    let mut first = None;
    for device in devices() {
        let of: Vec<Upstream> = problems.iter().map(|problem| upstream(problem, 7)).collect();
        let results = OnDevice::<T>::new(&device, problems.to_vec(), layout).both(&of);
        assert_no_findings(&"a known bug");
        for ((problem, of), Results { out, lse, gradient }) in problems.iter().zip(&of).zip(&results) {
            let want = dense(problem);
            let size = want.out.iter().fold(0.0f64, |size, x| size.max(x.abs()));
            let bound = 2.0 * T::ulp(size).max(2e-6 * size);
            for (i, (got, want)) in out.iter().zip(&want.out).enumerate() {
                assert!((got.to_f64() - want).abs() <= bound, "{}: out[{i}] is {got:?}, not {want}", T::DTYPE);
            }
            for (i, (got, want)) in lse.iter().zip(&want.lse).enumerate() {
                let right = f64::from(*got) == *want || (f64::from(*got) - want).abs() <= 2e-6 * (1.0 + want.abs());
                assert!(right, "{}: lse[{i}] is {got}, not {want}", T::DTYPE);
                let of_row = &out[i * problem.value_size..][..problem.value_size];
                assert!(*want != HIDDEN || of_row.iter().all(|x| x.to_f64().to_bits() == 0), "{i}: {of_row:?}");
            }
            check_gradient(problem, of, &want, gradient);
        }
        let Results { out, lse, .. } = results.into_iter().next().expect("one result per problem");
        first = Some((out.iter().map(|x| x.to_f64()).collect(), lse));
    }
    first.expect("two devices")
}

/// Gradients of the results of a problem.
type Upstream = (Vec<f64>, Vec<f64>);

/// As right as that of the naive computation, up to a few roundings of the terms and to what an f32 can say of an lse, from which
/// weights are computed again; 0 where nothing is visible.
#[track_caller]
fn check_gradient<T: Format>(problem: &Problem, of: &Upstream, want: &Dense, got: &Gradient<T>) {
    let exact = gradients(problem, want, of);
    let naive = attention::<T>(problem, Some(of), |b, h, i, j| sees(problem, b, h, i, j)).gradient;
    let [of_q, of_k, of_v] = terms(problem, of);
    let lse = want.lse.iter().filter(|lse| lse.is_finite()).fold(0.0f64, |largest, lse| largest.max(lse.abs()));
    for (name, got, naive, want, terms) in [
        ("dq", &got.dq, naive.dq, exact.dq, of_q),
        ("dk", &got.dk, naive.dk, exact.dk, of_k),
        ("dv", &got.dv, naive.dv, exact.dv, of_v),
    ] {
        assert_eq!(got.len(), want.len(), "{name}");
        let error = |(got, want): (&T, &f64)| (got.to_f64() - want).abs();
        let theirs = naive.iter().zip(&want).map(error).fold(0.0, f64::max);
        let size = want.iter().fold(terms, |size, x| size.max(x.abs()));
        let bound = 2.0 * theirs + 2.0 * T::ulp(terms) + f64::from(f32::EPSILON) * lse * size;
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert!(error((got, want)) <= bound, "{}: {name}[{i}] is {got:?}, not {want}; {theirs:e}", T::DTYPE);
        }
    }
    let zeros = |rows: &[T]| rows.iter().all(|x| x.to_f64() == 0.0);
    for (i, lse) in want.lse.iter().enumerate() {
        let dq = &got.dq[i * problem.size..][..problem.size];
        assert!(*lse != HIDDEN || zeros(dq), "query {i} sees nothing: {dq:?}");
    }
}

/// In all types.
#[track_caller]
fn everywhere(problem: &Problem) -> (Vec<f64>, Vec<f32>) {
    check::<f16>(std::slice::from_ref(problem), Layout::HeadsFirst);
    check::<bf16>(std::slice::from_ref(problem), Layout::HeadsFirst);
    check::<f32>(std::slice::from_ref(problem), Layout::HeadsFirst)
}

fn bytes(problem: &Problem, shown: impl Fn(usize, usize) -> bool) -> Masks {
    let pairs = (0..problem.queries * problem.keys).map(|i| u8::from(shown(i / problem.keys, i % problem.keys)));
    Masks { bytes: Some((pairs.collect(), [1, 1, problem.queries, problem.keys], Polarity::Keep)), ..Masks::default() }
}

fn bias(problem: &mut Problem, value: impl Fn(usize, usize) -> f64) {
    let pairs = (0..problem.queries * problem.keys).map(|i| value(i / problem.keys, i % problem.keys));
    problem.bias = Some((pairs.collect(), [1, 1, problem.queries, problem.keys]));
}

/// pytorch#103963, #41508: rows that the mask hides whole became 0/0, and their gradients NaN. pytorch#31829, jax#6811, optax#1762: so was
/// the gradient of the lse of nothing.
#[test]
fn hidden_rows_among_others() {
    let mut problem = Problem::single(8, 8, 8, 1);
    problem.masks = bytes(&problem, |i, _| i < 4);
    let (_, lse) = everywhere(&problem);
    assert!(lse[4..].iter().all(|x| *x == f32::NEG_INFINITY) && lse[..4].iter().all(|x| x.is_finite()));
    let mut problem = Problem::single(4, 4, 1, 2);
    problem.masks = bytes(&problem, |i, j| i != 2 && j <= i);
    everywhere(&problem);
}

/// flash-attn 31920dda, 26d7d92f: partial results that are all empty gave (-inf) - (-inf) where they were put together.
#[test]
fn splits_of_which_some_or_all_see_nothing() {
    for shown in [0..0, 1..2, 1030..1031, 2400..2500, 0..2500] {
        let mut problem = Problem::single(1, 2500, 32, 3);
        problem.masks = bytes(&problem, |_, j| shown.contains(&j));
        everywhere(&problem);
    }
    let mut problem = Problem::new([2, 1, 1], [1, 2500], [32, 32], 4);
    problem.masks.lengths = Some(vec![0, 1100]);
    everywhere(&problem);
}

/// flashinfer#4267, #4450: with -5e4 standing for "hidden", rows of smaller scores gave 0. candle ece4c69a6: a maximum that begins
/// at 0.
#[test]
fn very_negative_scores_are_visible() {
    let mut problem = Problem::single(3, 5, 64, 3);
    (problem.q, problem.k, problem.scale) = (vec![40.0; 192], vec![-40.0; 320], 1.0);
    let (out, lse) = everywhere(&problem);
    assert_eq!(lse[0], (-64.0f64 * 1600.0 + 5f64.ln()) as f32);
    let mean = |d: usize| problem.v.chunks(64).map(|v| v[d]).sum::<f64>() / 5.0;
    assert!((0..64).all(|d| (out[d] - mean(d)).abs() < 1e-6));
}

/// flashinfer#4451, #4452: more queries than keys, aligned at the end, and ragged rows of one key. flashinfer 480d1ae00: rows whose keys
/// would end below 0 were not written. ggml 0851f65a: a negative end of a loop.
#[test]
fn more_queries_than_keys() {
    let mut problem = Problem::single(70, 33, 8, 4);
    problem.masks.bands = vec![Band::causal(Align::BottomRight)];
    let (_, lse) = everywhere(&problem);
    assert!(lse[..37].iter().all(|x| *x == f32::NEG_INFINITY) && lse[37..].iter().all(|x| x.is_finite()));
    let mut problem = Problem::single(300, 10, 8, 5);
    problem.masks.bands = vec![Band::causal(Align::BottomRight)];
    everywhere(&problem);
}

/// flashinfer#1178: a row whose first 64 scores are hidden. xformers 540fcbfd, 63d7f30b: a bias of -inf on the first 200.
#[test]
fn rows_that_begin_hidden() {
    let mut problem = Problem::single(2, 100, 4, 6);
    problem.masks = bytes(&problem, |_, j| j >= 64);
    everywhere(&problem);
    let mut problem = Problem::single(3, 300, 4, 7);
    bias(&mut problem, |_, j| if j < 200 { HIDDEN } else { 0.25 });
    everywhere(&problem);
    bias(&mut problem, |_, _| HIDDEN);
    let (_, lse) = everywhere(&problem);
    assert!(lse.iter().all(|x| *x == f32::NEG_INFINITY));
}

/// pytorch#127055: a band of -inf bias, so that whole tiles are hidden; and the same band as a window.
#[test]
fn a_band_of_bias() {
    let mut problem = Problem::single(600, 600, 8, 8);
    bias(&mut problem, |i, j| if j > i || j + 10 < i { HIDDEN } else { 0.0 });
    let (_, of_bias) = check::<bf16>(std::slice::from_ref(&problem), Layout::HeadsFirst);
    problem.bias = None;
    problem.masks.bands = vec![Band { left: Some(10), right: Some(0), align: Align::TopLeft }];
    let (_, of_window) = check::<bf16>(std::slice::from_ref(&problem), Layout::HeadsFirst);
    assert!(of_bias.iter().zip(&of_window).all(|(x, y)| (x - y).abs() < 2e-6));
}

/// pytorch#110213, #109517: the most negative finite number was taken for hidden, or overflowed. apex 31cbdd15: so was -10000.
#[test]
fn the_most_negative_numbers_are_visible() {
    let mut problem = Problem::single(2, 441, 4, 9);
    problem.q.fill(0.0);
    bias(&mut problem, |i, j| if i == 0 || j < 128 { f64::from(f32::MIN) } else { 0.0 });
    let (_, lse) = check::<f32>(std::slice::from_ref(&problem), Layout::HeadsFirst);
    assert_eq!((lse[0], lse[1]), (f32::MIN, 313f32.ln()));
    let mut problem = Problem::single(2, 4, 1, 10);
    (problem.q, problem.k, problem.scale) = (vec![100.0; 2], vec![-100.0; 4], 1.0);
    everywhere(&problem);
    problem.masks = bytes(&problem, |_, _| false);
    everywhere(&problem);
}

/// candle e020e8a42, 46928bced; burn fcc8dacdf, cubecl 477dc3bfe, ggml a118c51a: mask and causal together are both, once, and a row that
/// they empty together is empty.
#[test]
fn a_mask_and_causal() {
    for len in [5, 48, 200] {
        let mut problem = Problem::single(len, len, 4, 11);
        problem.masks = bytes(&problem, |_, j| j != 0);
        problem.masks.bands = vec![Band::causal(Align::TopLeft)];
        let once = everywhere(&problem);
        assert!(once.1[0] == f32::NEG_INFINITY && once.1[1..].iter().all(|x| x.is_finite()));
        problem.masks.bands = vec![Band::causal(Align::TopLeft); 2];
        assert_eq!(everywhere(&problem), once);
    }
}

/// pytorch#101967: NaN in a hidden key and inf in a hidden value leaked, by NaN + -inf and by 0 * inf.
#[test]
fn hidden_keys_and_values_do_not_leak() {
    fn of<T: Format>() {
        let mut problem = Problem::single(5, 40, 8, 12);
        problem.masks = bytes(&problem, |_, j| j < 30);
        let mut planted = problem.clone();
        planted.k[30 * 8..].fill(f64::NAN);
        planted.v[30 * 8..].fill(f64::NAN);
        planted.v[33 * 8..].fill(f64::INFINITY);
        let upstream = upstream(&problem, 8);
        for device in devices() {
            let run = |problem: &Problem| {
                let Results { out, lse, gradient: Gradient { dq, dk, dv, .. } } =
                    OnDevice::<T>::new(&device, vec![problem.clone()], Layout::HeadsFirst)
                        .both(std::slice::from_ref(&upstream))
                        .remove(0);
                assert!(dk[30 * 8..].iter().chain(&dv[30 * 8..]).all(|x| x.to_f64() == 0.0));
                ([out, dq, dk, dv].concat(), lse)
            };
            let ((got, got_lse), (want, want_lse)) = (run(&planted), run(&problem));
            assert_same_bits(&"planted", &got, &want);
            assert_same_bits(&"planted", &got_lse, &want_lse);
            assert_no_findings(&"planted");
        }
    }
    of::<f16>();
    of::<bf16>();
    of::<f32>();
}

/// jax a282d586b6, f0392a1535: gradients of hidden entries were NaN or not 0. Scores 36 and 10000, where 10000 is hidden.
#[test]
fn gradients_of_hidden_scores() {
    let mut problem = Problem::single(1, 2, 1, 14);
    (problem.q, problem.k, problem.scale) = (vec![1.0], vec![36.0, 10_000.0], 1.0);
    problem.masks.lengths = Some(vec![1]);
    assert_eq!(everywhere(&problem).1[0], 36.0);
    for device in devices() {
        // A single visible key: without a gradient of the lse nothing moves but its value.
        let on = OnDevice::<f32>::new(&device, vec![problem.clone()], Layout::HeadsFirst);
        let Gradient { dq, dk, dv, .. } = on.both(&[(vec![1.0], vec![0.0])]).remove(0).gradient;
        assert_eq!((dq, dk, dv), (vec![0.0], vec![0.0; 2], vec![1.0, 0.0]));
    }
}

/// flash-attn a4f148b6: keys beyond the end in the backward pass made dq NaN: odd lengths, large scores.
#[test]
fn backward_of_odd_lengths_and_large_scores() {
    for (n, len) in [1, 2, 5, 17, 128].into_iter().enumerate() {
        for size in [16, 32, 64] {
            let mut problem = Problem::single(len, len, size, 19 + n as u64);
            // Numbers that every type still holds exactly.
            problem.q.iter_mut().for_each(|x| *x *= 4.0);
            problem.k.iter_mut().for_each(|x| *x *= 4.0);
            everywhere(&problem);
        }
    }
}

/// pytorch#6864: a score of +inf makes its row NaN, and no other.
#[test]
fn an_infinite_score() {
    let mut problem = Problem::single(3, 70, 2, 13);
    let (out, lse) = everywhere(&problem);
    bias(&mut problem, |i, j| if (i, j) == (1, 66) { f64::INFINITY } else { 0.0 });
    for device in devices() {
        let on = OnDevice::<f32>::new(&device, vec![problem.clone()], Layout::HeadsFirst);
        let Results { out: got, lse: got_lse, gradient } = on.both(&[upstream(&problem, 9)]).remove(0);
        assert!(got[2..4].iter().all(|x| x.is_nan()) && got_lse[1].is_nan());
        for i in [0, 1, 4, 5] {
            assert!((f64::from(got[i]) - out[i]).abs() < 1e-6 && (got_lse[i / 2] - lse[i / 2]).abs() < 1e-6);
            assert!(gradient.dq[i].is_finite());
        }
        assert_no_findings(&"an infinite score");
    }
}

/// jax 099f0a1708, xformers 1328ba7c: a window or causal flag without another mask was ignored. ggml 6a92a50f: no mask with as many
/// queries as keys was taken for causal. flashinfer 7f33b2084: keys beyond the end counted.
#[test]
fn a_band_alone_counts_and_none_is_none() {
    let mut problem = Problem::single(128, 128, 4, 16);
    problem.q.fill(0.0);
    let seen = |problem: &Problem| everywhere(problem).1.iter().map(|lse| lse.exp().round() as usize).sum::<usize>();
    assert_eq!(seen(&problem), 128 * 128);
    problem.masks.bands = vec![Band { left: Some(1), right: Some(1), align: Align::TopLeft }];
    assert_eq!(seen(&problem), 3 * 128 - 2);
    problem.masks.bands = vec![Band::causal(Align::TopLeft)];
    assert_eq!(seen(&problem), 128 * 129 / 2);
    for keys in [16, 64, 65] {
        let mut problem = Problem::single(2, keys, 8, 17);
        problem.q.fill(0.0);
        assert_eq!(everywhere(&problem).1[0], (keys as f32).ln());
    }
}

/// Packed sequences of these lengths.
fn packed(lengths: &[[usize; 2]], band: Option<Band>) {
    let problem = |(n, lengths): (usize, &[usize; 2])| {
        let mut problem = Problem::new([1, 2, 1], *lengths, [16, 16], 20 + n as u64);
        problem.masks.bands.extend(band);
        problem
    };
    let problems: Vec<Problem> = lengths.iter().enumerate().map(problem).collect();
    check::<f16>(&problems, Layout::Packed);
    check::<f32>(&problems, Layout::Packed);
}

/// flash-attn c65b5106, b46c5875: far more queries than keys, and a sequence without queries. flash-attn a3a257c7: one without keys wrote
/// into its neighbour. flash-attn fec3a6a1, flashinfer 3b01face1, #4531: several empty ones hung. flashinfer#4451: one key each.
#[test]
fn packed_sequences_of_uneven_lengths() {
    let causal = Some(Band::causal(Align::BottomRight));
    packed(&[[76, 1], [34, 1], [146, 1]], causal);
    packed(&[[0, 3], [256, 140], [256, 5]], None);
    packed(&[[2, 3], [4, 0], [2, 3]], None);
    packed(&[[3, 0], [0, 0], [0, 7], [5, 0], [1, 1], [0, 0]], causal);
    packed(&[[3, 1], [1, 1], [5, 1]], causal);
    packed(&[[0, 0], [0, 0]], None);
}

/// flash-attn 03cd0651, 484b9813; flashinfer 3b01face1: no keys, no queries, neither, no batch: a defined result that ends.
#[test]
fn no_keys_or_no_queries() {
    for (heads, lengths) in [([2, 2, 1], [3, 0]), ([2, 2, 1], [0, 3]), ([2, 2, 1], [0, 0]), ([0, 2, 1], [3, 4])] {
        everywhere(&Problem::new(heads, lengths, [4, 5], 22));
    }
}

/// cudnn-frontend#1072, #628, #160; pytorch#196678: one query, half of the keys padding, a very negative lse.
#[test]
fn a_very_negative_lse() {
    let mut problem = Problem::new([1, 2, 2], [1, 128], [64, 64], 28);
    (problem.q, problem.k, problem.scale) = (vec![8.0; 128], vec![-8.0; 128 * 128], 1.0);
    problem.masks.lengths = Some(vec![64]);
    assert_eq!(everywhere(&problem).1[0], (-4096.0 + 64f64.ln()) as f32);
}

/// ggml d935d466: a score far above all others in the last tile. ggml 17746: sums beyond the largest f16 on the way.
#[test]
fn a_spike_at_the_end_and_values_near_the_largest() {
    let mut problem = Problem::single(2, 200, 16, 31);
    problem.k[199 * 16..].fill(31.0);
    problem.q.fill(3.0);
    everywhere(&problem);
    let mut problem = Problem::single(2, 200, 16, 32);
    problem.v.fill(60_000.0);
    assert!(check::<f16>(std::slice::from_ref(&problem), Layout::HeadsFirst).0.iter().all(|x| *x == 60_000.0));
}

/// pytorch's large-value test: bfloat16 tensors of 133120 everywhere have scores of 1.4e11, and inf - inf came out.
#[test]
fn huge_equal_scores() {
    let mut problem = Problem::single(4, 5, 64, 30);
    [&mut problem.q, &mut problem.k, &mut problem.v].into_iter().for_each(|x| x.fill(133_120.0));
    check::<bf16>(std::slice::from_ref(&problem), Layout::HeadsFirst);
}

/// flash-attn 2dc1b205, eeca63a7, ea38d3d2: a head size of 16 had half the threads outside of shared memory. flash-attn 6998e0ec,
/// bba578d4, 052015a4; pytorch PR #82272; flashinfer 287bb64a3, 065795ea4: the last tile was read past the end. llm.c#776: rows shorter than a
/// warp. tt-metal#53208: a number of heads that is no multiple of anything, and rows behind the last whole group left out. Every access
/// is checked against its own allocation.
#[test]
fn small_heads_and_ends_of_tiles() {
    for size in [1, 2, 3, 16, 17, 31, 33] {
        for lengths in [[1, 1], [17, 31], [65, 129]] {
            everywhere(&Problem::new([1, 2, 1], lengths, [size, size], 33));
        }
    }
    everywhere(&Problem::new([1, 59, 59], [3, 5], [8, 8], 34));
    everywhere(&Problem::new([3, 59, 1], [2, 9], [8, 5], 35));
}
