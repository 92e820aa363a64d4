//! The case table and the naive computation in the same type, which tests of attention on devices stand on.

use std::collections::HashSet;

use crate::common::attention::cases::{Layout, Mask, VALUES, choices, contradict, pairs, table};
use crate::common::attention::dense::{dense, gradients, sees};
use crate::common::attention::problem::{Gradient, upstream};
use crate::common::attention::same_dtype::attention;
use crate::values;
use sumexp::{Float, bf16, f16};

#[test]
fn the_table_has_every_pair() {
    let choices = choices();
    assert!(choices.len() >= 600, "{}", choices.len());
    let covered: HashSet<_> = choices.iter().flat_map(pairs).collect();
    let values = |n: usize| (0..VALUES[n]).map(move |value| (n, value));
    let mut wanted = 0;
    for (m, n) in (0..8).flat_map(|m| (m + 1..8).map(move |n| (m, n))) {
        for (a, b) in values(m).flat_map(|a| values(n).map(move |b| (a, b))).filter(|(a, b)| !contradict(*a, *b)) {
            wanted += 1;
            assert!(covered.contains(&(a, b)), "no case with property {} = {} and {} = {}", a.0, a.1, b.0, b.1);
        }
    }
    assert_eq!(covered.len(), wanted, "a case has two properties that contradict each other");
    let triples: HashSet<_> = choices.iter().map(|choice| (choice[0], choice[4], choice[5])).collect();
    assert_eq!(triples.len(), 3 * 12 * 12, "dtypes, queries and keys in all combinations");
}

#[test]
fn every_case_is_what_it_says() {
    let table = table();
    let (mut hidden, mut full, mut rows) = (0, 0, 0);
    for case in &table {
        let problem = case.problem();
        assert_eq!((problem.queries, problem.keys), (case.queries, case.keys), "{case}");
        assert!(problem.query_heads % problem.key_heads == 0 && problem.q.iter().all(|x| x.is_finite()), "{case}");
        let shareable = case.queries == case.keys && case.sizes[0] == case.sizes[1];
        assert!(case.layout != Layout::OneBuffer || shareable, "{case}");
        if case.layout == Layout::Packed {
            let sequences = case.sequences();
            assert!(sequences.iter().any(|p| p.queries == 0) && sequences.iter().any(|p| p.keys == 0), "{case}");
            assert!(sequences.iter().all(|p| p.bias.is_none() && p.masks.bytes.is_none()), "{case}");
            assert!(sequences.iter().all(|p| p.query_heads == problem.query_heads), "{case}");
        }
        for i in 0..problem.queries {
            let seen = (0..problem.keys).filter(|j| sees(&problem, 0, 0, i, *j)).count();
            (hidden, full, rows) = (hidden + u32::from(seen == 0), full + u32::from(seen == problem.keys), rows + 1);
        }
        let masks = &problem.masks;
        let rules = masks.bands.len()
            + [masks.lengths.is_some(), masks.segments.is_some(), masks.bytes.is_some()]
                .map(usize::from)
                .iter()
                .sum::<usize>();
        let wanted = match case.mask {
            Mask::None => 0,
            Mask::CausalKeyLengths | Mask::CausalBytes => 2,
            _ => 1,
        };
        assert_eq!(rules, wanted, "{case}");
    }
    assert!(hidden > rows / 50 && full > rows / 50 && hidden + full < rows / 2, "{hidden} and {full} of {rows}");
}

/// The largest difference.
fn distance<T: Float>(got: &[T], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    got.iter()
        .zip(want)
        .map(|(got, want)| if got.to_f64() == *want { 0.0 } else { (got.to_f64() - want).abs() })
        .fold(0.0, f64::max)
}

/// The naive computation is right, as far as its type goes, and never better than the reference.
fn check<T: Float>(epsilon: f64) {
    let mut largest = 0f64;
    for (case, problem) in values::table() {
        let upstream = upstream(&problem, 9);
        let naive = attention::<T>(&problem, Some(&upstream), |b, h, i, j| sees(&problem, b, h, i, j));
        let want = dense(&problem);
        let (out, _) = problem.forward::<T>();
        let (of_naive, of_ours) = (distance(&naive.out, &want.out), distance(&out, &want.out));
        assert!(of_ours <= of_naive + 1e-12, "{case}: {of_ours:e} against {of_naive:e}");
        assert!(of_naive <= 64.0 * epsilon, "{case}: {of_naive:e}");
        largest = largest.max(of_naive);
        assert!(distance(&naive.lse, &want.lse) <= 64.0 * epsilon, "{case}: {:?} {:?}", naive.lse, want.lse);
        let exact = gradients(&problem, &want, &upstream);
        let Gradient { dq, dk, dv, dbias } = problem.backward::<f32>(&upstream.0, Some(&upstream.1));
        let of_ours = [dq, dk, dv, dbias];
        let Gradient { dq, dk, dv, dbias } = naive.gradient;
        let wants = [("dq", exact.dq), ("dk", exact.dk), ("dv", exact.dv), ("dbias", exact.dbias)];
        for (((name, want), got), of_naive) in wants.into_iter().zip(of_ours).zip([dq, dk, dv, dbias]) {
            let size = want.iter().fold(1f64, |size, x| size.max(x.abs()));
            let (ours, naive) = (distance(&got, &want), distance(&of_naive, &want));
            assert!(
                ours <= 1e-7 * size && naive <= 256.0 * epsilon * size,
                "{case}: {name} {ours:e} {naive:e} of {size}"
            );
        }
    }
    // Were it exact, it would be no bound for anything.
    assert!(largest > 0.25 * epsilon, "{largest:e}");
}

#[test]
fn naive_f16() {
    check::<f16>(2f64.powi(-10));
}

#[test]
fn naive_bf16() {
    check::<bf16>(2f64.powi(-7));
}

#[test]
fn naive_f32() {
    check::<f32>(2f64.powi(-23));
}
