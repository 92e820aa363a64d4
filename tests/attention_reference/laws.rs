//! Laws of attention on random problems.

use crate::common::attention::dense::sees;
use crate::common::attention::plant::plant;
use crate::common::attention::problem::{Gradient, Masks, Problem, numbers, upstream};
use crate::common::compare::assert_same_bits;
use crate::common::random::Random;
use crate::values::table;
use sumexp::Polarity;

/// Everything that the reference computes of a problem.
pub struct Results {
    pub out: Vec<f32>,
    pub lse: Vec<f32>,
    pub weights: Vec<f32>,
    pub gradient: Gradient<f32>,
}

pub fn results(problem: &Problem, (dout, dlse): &(Vec<f64>, Vec<f64>)) -> Results {
    let (out, lse) = problem.forward();
    Results { out, lse, weights: problem.weights(), gradient: problem.backward(dout, Some(dlse)) }
}

#[track_caller]
pub fn assert_same(case: &str, got: &Results, want: &Results) {
    let same = |what: &str, got: &[f32], want: &[f32]| assert_same_bits(&format!("{case}: {what}"), got, want);
    same("out", &got.out, &want.out);
    same("lse", &got.lse, &want.lse);
    same("weights", &got.weights, &want.weights);
    same("dq", &got.gradient.dq, &want.gradient.dq);
    same("dk", &got.gradient.dk, &want.gradient.dk);
    same("dv", &got.gradient.dv, &want.gradient.dv);
    same("dbias", &got.gradient.dbias, &want.gradient.dbias);
}

/// Every mask is the set of pairs that it shows, whatever it is written as.
#[test]
fn a_mask_is_its_bytes() {
    for (case, problem) in table() {
        let shape = [problem.batch, problem.query_heads, problem.queries, problem.keys];
        let mut data = Vec::new();
        for (b, h) in (0..shape[0]).flat_map(|b| (0..shape[1]).map(move |h| (b, h))) {
            data.extend((0..shape[2] * shape[3]).map(|i| u8::from(sees(&problem, b, h, i / shape[3], i % shape[3]))));
        }
        let masks = Masks { bytes: Some((data, shape, Polarity::Keep)), ..Masks::default() };
        let as_bytes = Problem { masks, ..problem.clone() };
        let upstream = upstream(&problem, 1);
        assert_same(&case, &results(&as_bytes, &upstream), &results(&problem, &upstream));
    }
}

/// Shared key heads are key heads that are repeated; their gradients are the sums over the repetitions.
#[test]
fn grouped_heads_are_repeated_heads() {
    let grouped = Problem::new([2, 6, 2], [5, 7], [3, 4], 31);
    let repeat = |x: &[f64], width: usize| -> Vec<f64> {
        x.chunks(grouped.keys * width).flat_map(|head| head.repeat(3)).collect()
    };
    let repeated = Problem { key_heads: 6, k: repeat(&grouped.k, 3), v: repeat(&grouped.v, 4), ..grouped.clone() };
    let upstream = upstream(&grouped, 2);
    let (got, want) = (results(&grouped, &upstream), results(&repeated, &upstream));
    assert_same_bits(&"out", &got.out, &want.out);
    assert_same_bits(&"lse", &got.lse, &want.lse);
    assert_same_bits(&"dq", &got.gradient.dq, &want.gradient.dq);
    let summed = |x: &[f32], width: usize| -> Vec<f64> {
        let head = grouped.keys * width;
        let sum = |group: &[f32]| -> Vec<f64> {
            (0..head).map(|i| group.chunks(head).map(|repeated| f64::from(repeated[i])).sum()).collect()
        };
        x.chunks(3 * head).flat_map(sum).collect()
    };
    for (got, want) in
        [(&got.gradient.dk, summed(&want.gradient.dk, 3)), (&got.gradient.dv, summed(&want.gradient.dv, 4))]
    {
        assert!(got.iter().zip(&want).all(|(got, want)| (f64::from(*got) - want).abs() < 1e-6));
    }
}

#[test]
fn the_order_of_keys_does_not_matter() {
    let mut random = Random::new(11);
    let mut problem = Problem::new([1, 2, 2], [6, 9], [4, 2], 32);
    let bytes: Vec<u8> = (0..54).map(|_| random.below(2) as u8).collect();
    problem.masks.bytes = Some((bytes, [1, 1, 6, 9], Polarity::Keep));
    problem.bias = Some((numbers(&mut random, 9), [1, 1, 1, 9]));
    let mut order: Vec<usize> = (0..9).collect();
    (1..9).for_each(|i| order.swap(i, random.below(i + 1)));
    fn permuted<T: Copy>(x: &[T], order: &[usize], width: usize) -> Vec<T> {
        let of_head =
            |head: &[T]| -> Vec<T> { order.iter().flat_map(|j| head[j * width..][..width].to_vec()).collect() };
        x.chunks(order.len() * width).flat_map(of_head).collect()
    }
    let mut moved = problem.clone();
    (moved.k, moved.v) = (permuted(&problem.k, &order, 4), permuted(&problem.v, &order, 2));
    let (bytes, ..) = moved.masks.bytes.as_mut().unwrap();
    *bytes = permuted(bytes, &order, 1);
    let (bias, _) = moved.bias.as_mut().unwrap();
    *bias = permuted(bias, &order, 1);
    let upstream = upstream(&problem, 3);
    let (got, want) = (results(&moved, &upstream), results(&problem, &upstream));
    // Sums in another order: apart from f32 rounding they are the same.
    let near = |what: &str, got: &[f32], want: &[f32]| {
        assert!(got.iter().zip(want).all(|(x, y)| x == y || (x - y).abs() < 1e-6), "{what}: {got:?}\n{want:?}");
    };
    near("out", &got.out, &want.out);
    near("lse", &got.lse, &want.lse);
    near("dq", &got.gradient.dq, &want.gradient.dq);
    near("weights", &got.weights, &permuted(&want.weights, &order, 1));
    near("dk", &got.gradient.dk, &permuted(&want.gradient.dk, &order, 4));
    near("dv", &got.gradient.dv, &permuted(&want.gradient.dv, &order, 2));
    near("dbias", &got.gradient.dbias, &permuted(&want.gradient.dbias, &order, 1));
}

#[test]
fn a_bias_of_rows_shifts_the_lse_only() {
    let mut problem = Problem::new([1, 2, 1], [3, 5], [4, 4], 33);
    let (out, lse) = problem.forward::<f32>();
    problem.bias = Some((vec![64.0, -32.0, 7.0], [1, 1, 3, 1]));
    let (moved, moved_lse) = problem.forward::<f32>();
    assert!(out.iter().zip(&moved).all(|(x, y)| (x - y).abs() < 1e-6));
    let shifts = [64.0, -32.0, 7.0].into_iter().cycle();
    assert!(lse.iter().zip(&moved_lse).zip(shifts).all(|((x, y), shift)| (y - x - shift).abs() < 1e-5));
}

/// An output lies between the smallest and the largest value that its row sees, and equal values come out.
#[test]
fn an_output_is_a_mean_of_values() {
    for (case, problem) in table() {
        let rows = problem.weights::<f32>();
        for row in rows.chunks(problem.keys.max(1)) {
            let sum: f64 = row.iter().map(|w| f64::from(*w)).sum();
            assert!(sum == 0.0 || (sum - 1.0).abs() < 1e-5, "{case}: {row:?}");
        }
        let level = Problem { v: vec![3.0; problem.v.len()], ..problem.clone() };
        assert!(level.forward::<f32>().0.iter().all(|x| *x == 0.0 || *x == 3.0), "{case}");
    }
}

/// A row that sees nothing: 0, -inf, and no gradient, whatever all its operands and upstream gradients hold.
#[test]
fn rows_without_visible_keys() {
    let mut problem = Problem::new([2, 2, 1], [4, 5], [3, 2], 34);
    problem.masks.lengths = Some(vec![0, 0]);
    for x in [&mut problem.q, &mut problem.k, &mut problem.v] {
        x.fill(f64::NAN);
    }
    problem.bias = Some((vec![f64::NAN; 20], [1, 1, 4, 5]));
    let nan = |len| vec![f64::NAN; len];
    let got = results(&problem, &(nan(32), nan(16)));
    assert!(got.lse.iter().all(|x| *x == f32::NEG_INFINITY));
    let Gradient { dq, dk, dv, dbias } = got.gradient;
    for x in [got.out, got.weights, dq, dk, dv, dbias].concat() {
        assert_eq!(x.to_bits(), 0, "{x}");
    }
}

#[test]
fn what_hides_may_hold_anything() {
    let mut planted_somewhere = 0;
    for (case, problem) in table() {
        let clean = upstream(&problem, 5);
        let want = results(&problem, &clean);
        for hostile in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let (planted, dirty) = plant(&problem, &clean, hostile);
            planted_somewhere += usize::from([&planted.q, &planted.k].iter().any(|x| x.contains(&hostile)));
            // -inf is a hidden bias: its place is not looked at either.
            assert_same(&format!("{case}, {hostile}"), &results(&planted, &dirty), &want);
        }
    }
    assert!(planted_somewhere > 100, "{planted_somewhere}");
}

/// A NaN in a key reaches the rows that see it and no bit of the others.
#[test]
fn a_visible_nan_stays_in_its_rows() {
    let mut problem = Problem::new([1, 2, 1], [6, 6], [3, 2], 35);
    problem.masks.bands = vec![sumexp::mask::Band::causal(sumexp::mask::Align::TopLeft)];
    let upstream = upstream(&problem, 6);
    let want = results(&problem, &upstream);
    for (bad, in_key) in [(f64::NAN, true), (f64::NAN, false), (f64::INFINITY, false)] {
        let mut bent = problem.clone();
        if in_key {
            bent.k[3 * 3 + 1] = bad
        } else {
            bent.v[3 * 2 + 1] = bad
        }
        let got = results(&bent, &upstream);
        for row in 0..12 {
            let sees = row % 6 >= 3;
            assert_eq!(got.out[row * 2 + 1].is_finite(), !sees, "row {row}: {:?}", got.out);
            assert_eq!(got.lse[row].is_nan(), sees && in_key, "row {row}");
            assert_eq!(got.gradient.dq[row * 3].is_nan(), sees, "row {row}: {:?}", got.gradient.dq);
            if !sees {
                assert_same_bits(&"out", &got.out[row * 2..][..2], &want.out[row * 2..][..2]);
                assert_same_bits(&"dq", &got.gradient.dq[row * 3..][..3], &want.gradient.dq[row * 3..][..3]);
            }
        }
        // Hidden weights are 0 also in rows that are NaN, so the keys behind see a gradient of their own rows alone.
        assert_eq!(got.weights[3 * 6 + 5], 0.0);
    }
}

/// The bits of a sequence are its own: not those of its batch, nor of how many threads there are.
#[test]
fn bits_do_not_depend_on_batch_or_threads() {
    for (case, problem) in table().into_iter().filter(|(_, problem)| problem.bias.is_none()) {
        let clean = upstream(&problem, 7);
        let want = results(&problem, &clean);
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_same(&case, &pool.install(|| results(&problem, &clean)), &want);
        }
        let last = problem.batch - 1;
        let part = |x: &[f64]| x[x.len() / problem.batch * last..].to_vec();
        let mut alone = problem.clone();
        (alone.batch, alone.q, alone.k, alone.v) = (1, part(&problem.q), part(&problem.k), part(&problem.v));
        let masks = &mut alone.masks;
        if let Some(lengths) = &mut masks.lengths {
            *lengths = vec![lengths[last]];
        }
        if let Some((q, k)) = &mut masks.segments {
            (*q, *k) = (q[q.len() / problem.batch * last..].to_vec(), k[k.len() / problem.batch * last..].to_vec());
        }
        if let Some((bytes, shape, _)) = masks.bytes.as_mut().filter(|(_, shape, _)| shape[0] > 1) {
            *bytes = bytes[bytes.len() / shape[0] * last..].to_vec();
            shape[0] = 1;
        }
        let got = results(&alone, &(part(&clean.0), part(&clean.1)));
        let tail = |x: &[f32], of: &[f32]| x[x.len() - of.len()..].to_vec();
        let expected = Results {
            out: tail(&want.out, &got.out),
            lse: tail(&want.lse, &got.lse),
            weights: tail(&want.weights, &got.weights),
            gradient: Gradient {
                dq: tail(&want.gradient.dq, &got.gradient.dq),
                dk: tail(&want.gradient.dk, &got.gradient.dk),
                dv: tail(&want.gradient.dv, &got.gradient.dv),
                dbias: Vec::new(),
            },
        };
        assert_same(&format!("{case}, alone"), &got, &expected);
    }
}

/// 16-bit results are the same float64 values, rounded once.
#[test]
fn gradients_of_16_bits_are_rounded_once() {
    let problem = Problem::new([1, 2, 1], [4, 6], [3, 3], 36);
    let (dout, dlse) = upstream(&problem, 8);
    let exact = problem.backward::<f32>(&dout, Some(&dlse));
    let narrow = problem.backward::<sumexp::f16>(&dout, Some(&dlse));
    for (exact, narrow) in [(exact.dq, narrow.dq), (exact.dk, narrow.dk), (exact.dv, narrow.dv)] {
        for (exact, narrow) in exact.iter().zip(narrow) {
            let relative = (f64::from(*exact) - narrow.to_f64()).abs() / f64::from(exact.abs()).max(1e-3);
            assert!(relative <= 2f64.powi(-11) * 1.001, "{narrow:?} of {exact:e}");
        }
    }
}
