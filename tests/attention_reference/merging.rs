//! Merging attentions over parts of the keys.

use crate::common::random::Random;
use crate::problem::{Problem, numbers, strides};
use sumexp::mask::{Align, Band};
use sumexp::reference::attention::{Merged, Partial, merge, merge_backward, merge_rows, merge_rows_backward};
use sumexp::reference::{Operand, Output, Rows};

const NOTHING: f64 = f64::NEG_INFINITY;

type Part = (Vec<f64>, f64);

fn merged(a: &Part, b: &Part) -> Part {
    merge((&a.0, a.1), (&b.0, b.1))
}

fn part(random: &mut Random) -> Part {
    let lse = if random.one_in(6) { NOTHING } else { random.normal() * [1.0, 30.0, 1000.0][random.below(3)] };
    (numbers(random, 3), lse)
}

#[track_caller]
fn close(got: &Part, want: &Part) {
    assert!(got.1 == want.1 || (got.1 - want.1).abs() <= 1e-12 * want.1.abs().max(1.0), "{got:?} and {want:?}");
    assert!(got.0.iter().zip(&want.0).all(|(x, y)| (x - y).abs() <= 1e-12), "{got:?} and {want:?}");
}

/// ln 1 and ln 3: weights 1/4 and 3/4.
#[test]
fn by_hand() {
    close(&merge((&[4.0], 0.0), (&[8.0], 3f64.ln())), &(vec![7.0], 4f64.ln()));
    // 1000 apart: no overflow, and the smaller one is gone.
    close(&merge((&[4.0], 2000.0), (&[8.0], 1000.0)), &(vec![4.0], 2000.0));
}

#[test]
fn associative_and_commutative() {
    let mut random = Random::new(1);
    for _ in 0..2000 {
        let (a, b, c) = (part(&mut random), part(&mut random), part(&mut random));
        close(&merged(&merged(&a, &b), &c), &merged(&a, &merged(&b, &c)));
        close(&merged(&a, &b), &merged(&b, &a));
    }
}

/// flash-attn 31920dda, 26d7d92f: (-inf) - (-inf) in the merge of parts that saw nothing.
#[test]
fn a_part_without_keys_is_the_identity() {
    let mut random = Random::new(2);
    // Not even NaN in such a part is looked at.
    let nothing = (vec![f64::NAN, f64::INFINITY, 0.0], NOTHING);
    for _ in 0..100 {
        let mut a = part(&mut random);
        a.0[0] = -0.0;
        let want = if a.1 == NOTHING { (vec![0.0; 3], NOTHING) } else { a.clone() };
        for got in [merged(&a, &nothing), merged(&nothing, &a)] {
            assert_eq!(got.1, want.1);
            assert!(got.0.iter().zip(&want.0).all(|(x, y)| x.to_bits() == y.to_bits()), "{got:?}, {want:?}");
        }
    }
    assert_eq!(merged(&nothing, &nothing), (vec![0.0; 3], NOTHING));
    let dout = [1.0, 2.0, 3.0];
    let a = (vec![5.0, 6.0, 7.0], 0.5);
    let (da, dnothing) = merge_backward((&a.0, a.1), (&nothing.0, nothing.1), &dout, 4.0);
    assert_eq!((da, dnothing), ((dout.to_vec(), 4.0), (vec![0.0; 3], 0.0)));
    let (da, db) = merge_backward((&nothing.0, NOTHING), (&nothing.0, NOTHING), &[f64::NAN; 3], f64::NAN);
    assert_eq!((da, db), ((vec![0.0; 3], 0.0), (vec![0.0; 3], 0.0)));
}

#[test]
fn a_nan_stays_in_sight() {
    for bad in [f64::NAN, f64::INFINITY] {
        let (out, lse) = merge((&[1.0], bad), (&[1.0], 0.0));
        assert!(out[0].is_nan() && lse.is_nan(), "{bad}: {out:?}, {lse}");
    }
    assert!(merge((&[f64::NAN], 0.0), (&[1.0], 0.0)).0[0].is_nan());
}

#[test]
fn gradients_are_the_limits_of_differences() {
    let mut random = Random::new(3);
    for _ in 0..50 {
        let sides: [Part; 2] = std::array::from_fn(|_| (numbers(&mut random, 3), random.normal()));
        let (dout, dlse) = (numbers(&mut random, 3), random.normal());
        let objective = |[a, b]: &[Part; 2]| {
            let (out, lse) = merged(a, b);
            out.iter().zip(&dout).map(|(x, d)| x * d).sum::<f64>() + lse * dlse
        };
        let (da, db) = merge_backward((&sides[0].0, sides[0].1), (&sides[1].0, sides[1].1), &dout, dlse);
        for (side, gradient) in [da, db].iter().enumerate() {
            for i in 0..4 {
                let at = |by: f64| {
                    let mut moved = sides.clone();
                    let part = &mut moved[side];
                    *if i < 3 { &mut part.0[i] } else { &mut part.1 } += by;
                    objective(&moved)
                };
                let want = (at(1e-5) - at(-1e-5)) / 2e-5;
                let got = if i < 3 { gradient.0[i] } else { gradient.1 };
                assert!((got - want).abs() < 1e-8, "side {side} [{i}]: {got:e} instead of {want:e}");
            }
        }
    }
}

/// The problem with the keys of `range` alone. Masks that depend on positions are the caller's.
fn with_keys(problem: &Problem, range: std::ops::Range<usize>) -> Problem {
    let rows = |x: &[f64], width: usize| -> Vec<f64> {
        let of_head = |head: &[f64]| head[range.start * width..range.end * width].to_vec();
        x.chunks(problem.keys * width).flat_map(of_head).collect()
    };
    let (k, v) = (rows(&problem.k, problem.size), rows(&problem.v, problem.value_size));
    Problem { k, v, keys: range.len(), ..problem.clone() }
}

fn wide(x: Vec<f32>) -> Vec<f64> {
    x.into_iter().map(f64::from).collect()
}

/// Attention over two parts of the keys, merged, is attention over all of them; and so are the gradients.
#[test]
fn split_keys_and_merge() {
    // A window that ends with part one for the first queries: their second part is empty.
    let (queries, keys, cut) = (6, 11, 7);
    let mut whole = Problem::new([2, 2, 1], [queries, keys], [4, 3], 5);
    whole.masks.bands = vec![Band { left: None, right: Some(3), align: Align::TopLeft }];
    let first = with_keys(&whole, 0..cut);
    let mut second = with_keys(&whole, cut..keys);
    second.masks.bands = Vec::new();
    // Key 7 of the whole is key 0 of the second part: query i sees what is left of i + 3 - 7.
    let bytes = (0..queries).flat_map(|i| (0..keys - cut).map(move |j| u8::from(j + cut <= i + 3))).collect();
    second.masks.bytes = Some((bytes, [1, 1, queries, keys - cut], sumexp::Polarity::Keep));

    let mut random = Random::new(6);
    let dout = numbers(&mut random, whole.out_shape().iter().product());
    let dlse = numbers(&mut random, whole.lse_shape().iter().product());
    let (out, lse) = whole.forward::<f32>();
    let [a, b] = [&first, &second].map(|part| part.forward::<f32>());
    assert!(b.1.contains(&f32::NEG_INFINITY) && b.1.iter().any(|lse| lse.is_finite()));

    // Through the strided form, which rounds to f32.
    let shape = whole.out_shape();
    let (rows, out_strides) = (Rows { shape: &shape, dim: 3 }, strides(shape));
    let lse_strides: Vec<u64> = strides(whole.lse_shape()).into_iter().chain([0]).collect();
    let mut got = (vec![f32::NAN; out.len()], vec![f32::NAN; lse.len()]);
    let view = |(out, lse): &(Vec<f32>, Vec<f32>), run: &mut dyn FnMut(Partial<f32>)| {
        run(Partial {
            out: Operand { data: out, strides: &out_strides },
            lse: Operand { data: lse, strides: &lse_strides },
        })
    };
    fn target<'a>((out, lse): &'a mut (Vec<f32>, Vec<f32>), strides: [&'a [u64]; 2]) -> Merged<'a, f32> {
        Merged { out: Output { data: out, strides: strides[0] }, lse: Output { data: lse, strides: strides[1] } }
    }
    let both = [&out_strides[..], &lse_strides[..]];
    view(&a, &mut |a| view(&b, &mut |b| merge_rows(&rows, a, b, target(&mut got, both))));
    let near = |got: &[f32], want: &[f32]| got.iter().zip(want).all(|(x, y)| x == y || (x - y).abs() < 1e-6);
    assert!(near(&got.0, &out), "{:?}\n{out:?}", got.0);
    assert!(near(&got.1, &lse), "{:?}\n{lse:?}", got.1);

    let upstream =
        (dout.iter().map(|x| *x as f32).collect::<Vec<_>>(), dlse.iter().map(|x| *x as f32).collect::<Vec<_>>());
    let (mut da, mut db) = (got.clone(), got.clone());
    view(&a, &mut |a| {
        view(&b, &mut |b| {
            view(&upstream, &mut |upstream| {
                merge_rows_backward(&rows, a, b, upstream, target(&mut da, both), target(&mut db, both));
            })
        })
    });
    let want = whole.backward::<f32>(&dout, Some(&dlse));
    let from_a = first.backward::<f32>(&wide(da.0), Some(&wide(da.1)));
    let from_b = second.backward::<f32>(&wide(db.0), Some(&wide(db.1)));
    let dq: Vec<f32> = from_a.dq.iter().zip(&from_b.dq).map(|(a, b)| a + b).collect();
    assert!(near(&dq, &want.dq), "{dq:?}\n{:?}", want.dq);
    for (a, b, want, width) in
        [(&from_a.dk, &from_b.dk, &want.dk, whole.size), (&from_a.dv, &from_b.dv, &want.dv, whole.value_size)]
    {
        let heads = a.chunks(cut * width).zip(b.chunks((keys - cut) * width));
        let joined: Vec<f32> = heads.flat_map(|(a, b)| [a, b].concat()).collect();
        assert!(near(&joined, want), "{joined:?}\n{want:?}");
    }
}
