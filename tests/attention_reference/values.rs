//! Values of the reference against dense float64 arithmetic, over masks, options, shapes and types.

use crate::common::attention::dense::dense;
use crate::common::attention::problem::{Masks, Problem, numbers};
use crate::common::compare::{Exact, Format, Tolerance, assert_right};
use crate::common::random::Random;
use sumexp::mask::{Align, Band};
use sumexp::{Polarity, bf16, f16};

/// One rounding of a value that float64 arithmetic has to 13 digits.
pub const ROUNDED: Tolerance = Tolerance { ulps: 0.5001, floor: 1e-13 };

/// Queries and keys.
const LENGTHS: [[usize; 2]; 12] =
    [[1, 1], [1, 7], [7, 1], [5, 9], [9, 5], [0, 4], [4, 0], [0, 0], [33, 17], [17, 40], [3, 3], [64, 64]];

/// Masks of every kind and some of their combinations, by name.
pub fn masks(problem: &Problem, random: &mut Random) -> Vec<(&'static str, Masks)> {
    let Problem { batch, query_heads, queries, keys, .. } = *problem;
    let none = Masks::default();
    let band = |left, right, align| Masks { bands: vec![Band { left, right, align }], ..Masks::default() };
    let ids = |random: &mut Random, n: usize| -> Vec<i32> {
        (0..batch)
            .flat_map(|_| {
                let step = 1 + random.below(n + 1);
                (0..n).map(move |i| (i / step) as i32)
            })
            .collect()
    };
    let bytes = |random: &mut Random, shape: [usize; 4], polarity| {
        let data = (0..shape.iter().product()).map(|_| random.below(3) as u8).collect();
        Masks { bytes: Some((data, shape, polarity)), ..Masks::default() }
    };
    let lengths =
        Masks { lengths: Some((0..batch).map(|_| random.below(keys + 3) as i32 - 1).collect()), ..Masks::default() };
    let segments = Masks { segments: Some((ids(random, queries), ids(random, keys))), ..Masks::default() };
    let all = Masks {
        bands: vec![Band::causal(Align::BottomRight), Band { left: Some(9), right: None, align: Align::TopLeft }],
        lengths: lengths.lengths.clone(),
        segments: segments.segments.clone(),
        bytes: bytes(random, [batch, 1, queries, keys], Polarity::Keep).bytes,
    };
    vec![
        ("none", none),
        ("causal, top left", band(None, Some(0), Align::TopLeft)),
        ("causal, bottom right", band(None, Some(0), Align::BottomRight)),
        ("window, top left", band(Some(2), Some(1), Align::TopLeft)),
        ("window, bottom right", band(Some(0), Some(3), Align::BottomRight)),
        ("left only", band(Some(1), None, Align::BottomRight)),
        ("key lengths", lengths),
        ("segments", segments),
        ("bytes of pairs", bytes(random, [1, 1, queries, keys], Polarity::Keep)),
        ("bytes of heads", bytes(random, [batch, query_heads, queries, keys], Polarity::Hide)),
        ("bytes of keys", bytes(random, [batch, 1, 1, keys], Polarity::Hide)),
        ("everything", all),
    ]
}

/// A random choice of bias, ALiBi and softcap; `i` walks through all of them.
pub fn extras(mut problem: Problem, i: usize, random: &mut Random) -> Problem {
    let Problem { batch: b, query_heads: h, queries: q, keys: k, .. } = problem;
    let shape = match i % 7 {
        0 | 1 => None,
        2 => Some([1, 1, q, k]),
        3 => Some([b, h, q, k]),
        4 => Some([1, h, 1, k]),
        5 => Some([b, 1, q, 1]),
        _ => Some([1, h, 1, 1]),
    };
    problem.bias = shape.map(|shape| {
        let mut values = numbers(random, shape.iter().product());
        for value in &mut values {
            if random.one_in(9) {
                *value = f64::NEG_INFINITY;
            }
        }
        (values, shape)
    });
    let align = if random.one_in(2) { Align::TopLeft } else { Align::BottomRight };
    problem.alibi = (i % 3 == 1).then(|| ((0..h).map(|h| 0.5f32.powi(h as i32 + 1)).collect(), align));
    problem.softcap = (i % 4 == 2).then_some(1.5);
    problem
}

/// All problems of the table with their names.
pub fn table() -> Vec<(String, Problem)> {
    let mut random = Random::new(17);
    let mut table = Vec::new();
    for (n, lengths) in LENGTHS.into_iter().enumerate() {
        let heads = [[2, 2, 2], [1, 4, 2], [2, 3, 1], [3, 1, 1]][n % 4];
        let sizes = [[4, 4], [1, 3], [8, 2], [5, 5]][n % 4];
        let plain = Problem::new(heads, lengths, sizes, n as u64);
        for (name, masks) in masks(&plain, &mut random) {
            let i = table.len();
            let problem = extras(Problem { masks, ..plain.clone() }, i, &mut random);
            let bias = problem.bias.as_ref().map(|(_, shape)| shape);
            let text = format!(
                "{heads:?} heads, {lengths:?} positions, {sizes:?} features, {name}, bias {bias:?}, ALiBi {:?}, softcap {:?}",
                problem.alibi, problem.softcap
            );
            table.push((text, problem));
        }
    }
    table
}

fn check<T: Format>() {
    for (case, problem) in table() {
        let want = dense(&problem);
        let (out, lse) = problem.forward::<T>();
        assert_right(&format!("{case}: out"), &out, &Exact::plain(want.out), ROUNDED);
        assert_right(&format!("{case}: lse"), &lse, &Exact::plain(want.lse), ROUNDED);
        assert_right(&format!("{case}: weights"), &problem.weights::<T>(), &Exact::plain(want.weights), ROUNDED);
    }
}

#[test]
fn f32_values() {
    check::<f32>();
}

#[test]
fn f16_values() {
    check::<f16>();
}

#[test]
fn bf16_values() {
    check::<bf16>();
}

/// The table reaches what it is for: hidden rows, rows that see everything, and rows in between.
#[test]
fn the_table_has_rows_of_all_kinds() {
    let mut counts = [0; 3];
    for (_, problem) in table() {
        for row in dense(&problem).weights.chunks(problem.keys.max(1)) {
            let visible = row.iter().filter(|w| **w > 0.0).count();
            counts[if visible == 0 {
                0
            } else if visible == row.len() {
                1
            } else {
                2
            }] += 1;
        }
    }
    assert!(counts.iter().all(|n| *n > 500), "{counts:?}");
}
