//! Masks of every kind, biases, slopes, caps, hidden values, layouts.

use crate::common::device::assert_no_findings;
use crate::common::random::Random;
use crate::naive::{Problem, rounded};
use crate::{CAUSAL, compare, compare_biased, device, everything, problem, results, run, window};
use sumexp::attention::{Alibi, Attention, AttentionInto, forward, forward_into};
use sumexp::mask::Align;
use sumexp::{Dim, Error, Float, Mask, Tensor, bf16, f16, hide, keep};

fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..count).map(|_| u8::from(!random.one_in(3)) * 7).collect()
}

fn masks<T: Float>() {
    let device = device();
    for [queries, keys, head] in [[129, 140, 64], [70, 33, 128], [33, 200, 32], [20, 90, 192]] {
        let p = problem::<T>(5, [2, 2, 1, queries, keys, head, head], 1.0);
        let lengths = [keys as i32 - 5, 3];
        let of_keys = Tensor::from_slice(&device, &[2], &lengths).unwrap();
        let both = [Mask::KeyLengths(of_keys.view()), CAUSAL];
        let mask = Mask::All(&both);
        let diagonal = keys as i64 - queries as i64;
        compare::<T>(&p, &Attention { mask, ..Attention::default() }, &|b, _, i, j| {
            (j as i32) < lengths[b] && j as i64 <= i as i64 + diagonal
        });

        let all = bytes(8, 2 * 2 * queries * keys);
        let tensor = Tensor::from_slice(&device, &[2, 2, queries, keys], &all).unwrap();
        let at = |b: usize, h: usize, i: usize, j: usize| all[((b * 2 + h) * queries + i) * keys + j] != 0;
        for kept in [true, false] {
            let mask = Mask::Visible(if kept { keep(&tensor) } else { hide(&tensor) });
            compare::<T>(&p, &Attention { mask, ..Attention::default() }, &|b, h, i, j| at(b, h, i, j) == kept);
        }
        let row = tensor.view().slice(Dim::front(0), 0..1).unwrap().slice(Dim::front(2), 0..1).unwrap();
        let mask = Mask::Visible(keep(row));
        compare::<T>(&p, &Attention { mask, ..Attention::default() }, &|_, h, _, j| at(0, h, 0, j));

        let segment = |i: usize| (i / 20) as i32;
        let ids = |length: usize| -> Vec<i32> { (0..length).map(segment).collect() };
        let of_q = Tensor::from_slice(&device, &[queries], &ids(queries)).unwrap();
        let of_k = Tensor::from_slice(&device, &[keys], &ids(keys)).unwrap();
        let mask = Mask::Segments { q: of_q.view(), k: of_k.view() };
        compare::<T>(&p, &Attention { mask, ..Attention::default() }, &|_, _, i, j| segment(i) == segment(j));
    }
}

#[test]
fn f16_masks() {
    masks::<f16>();
}

#[test]
fn bf16_masks() {
    masks::<bf16>();
}

#[test]
fn f32_masks() {
    masks::<f32>();
}

fn scores<T: Float>() {
    let device = device();
    for [queries, keys, head] in [[129, 140, 64], [20, 90, 128]] {
        let mut p = problem::<T>(6, [2, 2, 1, queries, keys, head, head], 1.0);
        let mut random = Random::new(1);
        let mut values: Vec<f32> = (0..2 * queries * keys).map(|_| random.normal() as f32).collect();
        values.iter_mut().step_by(7).for_each(|x| *x = f32::NEG_INFINITY);
        let tensor = Tensor::from_slice(&device, &[2, 1, queries, keys], &values).unwrap();
        let at = |b: usize, _: usize, i: usize, j: usize| f64::from(values[(b * queries + i) * keys + j]);
        let options = Attention { bias: Some((&tensor).into()), ..Attention::default() };
        compare_biased::<T>(&p, &options, &everything, &at);
        let halves: Vec<f16> = values.iter().map(|x| f16::from_f32(*x)).collect();
        let tensor = Tensor::from_slice(&device, &[2, 1, queries, keys], &halves).unwrap();
        let of_halves = |b: usize, _: usize, i: usize, j: usize| halves[(b * queries + i) * keys + j].to_f64();
        let options = Attention { bias: Some((&tensor).into()), ..Attention::default() };
        compare_biased::<T>(&p, &options, &everything, &of_halves);

        let slopes = Tensor::from_slice(&device, &[2], &[0.25f32, 0.0625]).unwrap();
        let alibi = Some(Alibi { slopes: slopes.view(), align: Align::BottomRight });
        let options = Attention { alibi, mask: CAUSAL, ..Attention::default() };
        let diagonal = keys as i64 - queries as i64;
        compare_biased::<T>(&p, &options, &|_, _, i, j| j as i64 <= i as i64 + diagonal, &|_, h, i, j| {
            -[0.25, 0.0625][h] * (i as i64 + diagonal - j as i64).abs() as f64
        });

        for scale in [-0.5, 0.0, 1e-30] {
            p.scale = f64::from(scale as f32);
            let options = Attention { scale: Some(scale as f32), ..Attention::default() };
            compare::<T>(&p, &options, &everything);
        }
        p.scale = 1.0;
        p.cap = Some(2.0);
        let options = Attention { scale: Some(1.0), softcap: Some(2.0), ..Attention::default() };
        compare::<T>(&p, &options, &everything);
    }
}

#[test]
fn f16_scores() {
    scores::<f16>();
}

#[test]
fn bf16_scores() {
    scores::<bf16>();
}

#[test]
fn f32_scores() {
    scores::<f32>();
}

fn same_bits(left: &[f64], right: &[f64], what: &str) {
    let bits = |x: &[f64]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert!(
        bits(left) == bits(right),
        "{what}: {:?}",
        left.iter().zip(right).position(|(a, b)| a.to_bits() != b.to_bits())
    );
}

/// Keys that a query does not see may hold anything: the same bits as if they held 0.
fn hidden<T: Float>() {
    let device = device();
    for [queries, keys, head] in [[70, 150, 64], [150, 70, 32], [40, 90, 128], [40, 90, 256]] {
        let p = problem::<T>(7, [2, 1, 1, queries, keys, head, head], 1.0);
        // Behind the length of batch entry 1, in front of the window, and behind the diagonal.
        let lengths = Tensor::from_slice(&device, &[2], &[keys as i32, keys as i32 / 2]).unwrap();
        let all = bytes(3, keys);
        let visible = Tensor::from_slice(&device, &[keys], &all).unwrap();
        let length = Mask::KeyLengths(lengths.view());
        let both = [length, keep(&visible).into()];
        for (mask, hidden_at) in [
            (length, Box::new(|b: usize, j: usize| b == 1 && j >= keys / 2) as Box<dyn Fn(usize, usize) -> bool>),
            (Mask::All(&both), Box::new(|b: usize, j: usize| b == 1 && j >= keys / 2 || all[j] == 0)),
            (Mask::Causal(Align::TopLeft), Box::new(move |_, j| j >= queries)),
            (
                Mask::Window { left: Some(10), right: None, align: Align::BottomRight },
                Box::new(move |_, j: usize| j + queries + 10 < keys),
            ),
        ] {
            let options = Attention { mask, ..Attention::default() };
            let with = |special: &[f64]| {
                let mut p = p.clone();
                for b in 0..2 {
                    for j in (0..keys).filter(|j| hidden_at(b, *j)) {
                        for d in 0..head {
                            let special = special[(j + d) % special.len()];
                            p.k[(b * keys + j) * head + d] = special;
                            p.v[(b * keys + j) * head + d] = special;
                        }
                    }
                }
                run::<T>(&p, &options)
            };
            let zeros = with(&[0.0]);
            for special in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                let got = with(&[special, 1.0, special]);
                same_bits(&got.0, &zeros.0, "out");
                same_bits(&got.1, &zeros.1, "lse");
            }
        }
    }
}

#[test]
fn f16_hidden_values() {
    hidden::<f16>();
}

#[test]
fn bf16_hidden_values() {
    hidden::<bf16>();
}

#[test]
fn f32_hidden_values() {
    hidden::<f32>();
}

/// A special value of v reaches those that see its key, in its column, and nobody else.
fn seen<T: Float>() {
    for [queries, keys, head] in [[70, 70, 64], [40, 90, 128], [150, 150, 32]] {
        for (special, at) in [(f64::NAN, 33), (f64::INFINITY, 33), (f64::NEG_INFINITY, 20)] {
            let mut p = problem::<T>(4, [1, 1, 1, queries, keys, head, head], 1.0);
            let options = Attention { mask: CAUSAL, ..Attention::default() };
            let (ordinary, _) = run::<T>(&p, &options);
            p.v[at * head + 5] = special;
            let (got, _) = run::<T>(&p, &options);
            for i in 0..queries {
                for d in 0..head {
                    let (got, ordinary) = (got[i * head + d], ordinary[i * head + d]);
                    if d == 5 && at as i64 <= i as i64 + keys as i64 - queries as i64 {
                        assert!(got == special || got.is_nan() && special.is_nan(), "{i} {d}: {got}");
                    } else {
                        assert_eq!(got.to_bits(), ordinary.to_bits(), "{i} {d}");
                    }
                }
            }
        }
    }
}

#[test]
fn special_values_are_seen() {
    seen::<f16>();
    seen::<bf16>();
    seen::<f32>();
}

/// [B, S, H, D] in one tensor with q, k and v side by side, and rows at odd addresses, where others loaded whole vectors all the same
/// (pytorch#36485, onednn#3501, ORT#14475).
fn layouts<T: Float>() {
    let device = device();
    let (b, h, s, d) = (2, 3, 75, 40);
    let p = problem::<T>(11, [b, h, h, s, s, d, d], 1.0);
    let options = Attention { mask: window(30, 0), ..Attention::default() };
    let want = run::<T>(&p, &options);
    for (row, offset) in [(3 * d, 0), (3 * d + 8, 8), (3 * d + 1, 0), (3 * d + 1, 3)] {
        let mut packed = vec![T::from_f64(f64::NAN); b * s * h * row + offset];
        for (part, x) in [&p.q, &p.k, &p.v].into_iter().enumerate() {
            for (i, x) in x.iter().enumerate() {
                let (bi, hi, si, di) = (i / (h * s * d), i / (s * d) % h, i / d % s, i % d);
                packed[offset + ((bi * s + si) * h + hi) * row + part * d + di] = T::from_f64(*x);
            }
        }
        let tensor = Tensor::from_slice(&device, &[packed.len()], &packed).unwrap();
        let whole = tensor.view().slice(Dim::LAST, offset..packed.len()).unwrap().reshape(&[b, s, h, row]).unwrap();
        let part = |k: usize| whole.slice(Dim::LAST, k * d..(k + 1) * d).unwrap().permute(&[0, 2, 1, 3]).unwrap();
        let got = results(&part(0), &part(1), &part(2), &options);
        same_bits(&got.0, &want.0, "out");
        same_bits(&got.1, &want.1, "lse");
    }
}

#[test]
fn any_layout_gives_the_same_bits() {
    layouts::<f16>();
    layouts::<bf16>();
    layouts::<f32>();
}

/// A query's bits do not depend on the batch, on other queries behind it, or on keys it does not see.
#[test]
fn rows_do_not_depend_on_each_other() {
    fn rows<T: Float>() {
        let p = problem::<T>(12, [3, 2, 1, 140, 140, 64, 64], 1.0);
        let options = Attention { mask: CAUSAL, ..Attention::default() };
        let (all, lse) = run::<T>(&p, &options);
        for length in [1, 17, 64, 65, 129, 139] {
            let one = Problem {
                batch: 1,
                heads: 1,
                queries: length,
                keys: length,
                q: p.q[3 * 140 * 64..][..length * 64].to_vec(),
                k: p.k[140 * 64..][..length * 64].to_vec(),
                v: p.v[140 * 64..][..length * 64].to_vec(),
                ..p.clone()
            };
            let (out, of_one) = run::<T>(&one, &options);
            same_bits(&out, &all[3 * 140 * 64..][..length * 64], "out");
            same_bits(&of_one, &lse[3 * 140..][..length], "lse");
        }
    }
    rows::<f16>();
    rows::<bf16>();
    rows::<f32>();
}

#[test]
fn nothing_to_see() {
    let device = device();
    let p = problem::<f16>(13, [2, 2, 1, 70, 9, 64, 64], 1.0);
    let lengths = Tensor::from_slice(&device, &[2], &[-3, 0]).unwrap();
    let mask = Mask::KeyLengths(lengths.view());
    let (out, lse) = run::<f16>(&p, &Attention { mask, ..Attention::default() });
    assert!(out.iter().all(|x| x.to_bits() == 0) && lse.iter().all(|x| *x == f64::NEG_INFINITY));
    let q = Tensor::<f16>::zeros(&device, &[1, 1, 5, 8]).unwrap();
    let k = Tensor::<f16>::zeros(&device, &[1, 1, 0, 8]).unwrap();
    let output = forward(&q, &k, &k, &Attention::default()).unwrap();
    assert!(output.out.to_vec().unwrap().iter().all(|x| x.to_bits() == 0));
    assert!(output.lse.to_vec().unwrap().iter().all(|x| *x == f32::NEG_INFINITY));
    assert!(forward(&k, &q, &q, &Attention::default()).unwrap().out.to_vec().unwrap().is_empty());
    assert_no_findings(&"nothing to see");
}

/// A NaN or +inf score makes its own row NaN.
#[test]
fn special_scores() {
    let mut p = problem::<bf16>(14, [1, 1, 1, 40, 80, 64, 64], 1.0);
    let (ordinary, _) = run::<bf16>(&p, &Attention::default());
    p.q[3 * 64] = f64::NAN;
    p.q[17 * 64] = f64::INFINITY;
    let (got, lse) = run::<bf16>(&p, &Attention::default());
    for i in 0..40 {
        for d in 0..64 {
            let (got, ordinary) = (got[i * 64 + d], ordinary[i * 64 + d]);
            assert!(if [3, 17].contains(&i) { got.is_nan() } else { got.to_bits() == ordinary.to_bits() }, "{i} {d}");
        }
        assert_eq!(lse[i].is_nan(), [3, 17].contains(&i));
    }
    assert_eq!(rounded::<bf16>(1.0), 1.0);
}

/// Rows whose elements are not neighbours, sizes of 0 and shapes that do not go together are refused; results may be the caller's.
#[test]
fn arguments_are_checked() {
    for device in [sumexp::Device::cpu(), device()] {
        let zeros = |dims: &[usize]| Tensor::<f16>::zeros(&device, dims).unwrap();
        let (q, k) = (zeros(&[1, 4, 5, 8]), zeros(&[1, 2, 6, 8]));
        let options = Attention::default();
        let across = zeros(&[1, 4, 8, 5]);
        let view = across.view().permute(&[0, 1, 3, 2]).unwrap();
        assert!(matches!(
            forward(view, &k, &k, &options),
            Err(Error::NotContiguous { output: "the last dim of q", .. })
        ));
        for (other, v) in [([1, 3, 6, 8], [1, 3, 6, 8]), ([2, 2, 6, 8], [2, 2, 6, 8]), ([1, 2, 6, 9], [1, 2, 6, 8])] {
            assert!(matches!(forward(&q, &zeros(&other), &zeros(&v), &options), Err(Error::Sizes { .. })), "{other:?}");
        }
        let wide = zeros(&[1, 2, 6, 257]);
        assert!(matches!(forward(&q, &k, &wide, &options), Err(Error::TooMany { value: 257, max: 256, .. })));
        assert!(matches!(forward(&q, &k, &zeros(&[1, 2, 6, 0]), &options), Err(Error::Option { .. })));
        for scale in [f32::NAN, f32::INFINITY] {
            let bad = Attention { scale: Some(scale), ..options };
            assert!(matches!(forward(&q, &k, &k, &bad), Err(Error::Option { option: "scale", .. })));
            let bad = Attention { softcap: Some(-scale.abs()), ..options };
            assert!(matches!(forward(&q, &k, &k, &bad), Err(Error::Option { option: "softcap", .. })));
        }
        let mut out = zeros(&[1, 4, 5, 8]);
        forward_into(&q, &k, &k, &options, AttentionInto { out: out.view_mut(), lse: None }).unwrap();
        assert!(out.to_vec().unwrap().iter().all(|x| x.to_f32() == 0.0));
        let mut wide = zeros(&[1, 4, 5, 9]);
        let into = AttentionInto { out: wide.view_mut(), lse: None };
        assert!(matches!(forward_into(&q, &k, &k, &options, into), Err(Error::Shapes { .. })));
    }
}
