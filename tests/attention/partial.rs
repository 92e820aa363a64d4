//! Merging attentions over different keys: the whole from its parts, the identity, the order, what a part without keys holds, and the
//! gradients.

use crate::common::device::{assert_no_findings, soft};
use crate::common::random::Random;
use crate::common::sparse::Far;
use crate::{device, devices};
use sumexp::attention::{
    Attention, AttentionInto, AttentionOutput, Partial, PartialGradientInto, forward, merge, merge_backward,
    merge_backward_into, merge_into,
};
use sumexp::reference::attention as exact;
use sumexp::{Device, Dim, Float, Lse, Tensor, bf16, f16};

fn normal<T: Float>(device: &Device, dims: &[usize], seed: u64) -> Tensor<T> {
    let mut random = Random::new(seed);
    let values: Vec<T> = (0..dims.iter().product()).map(|_| T::from_f64(random.normal())).collect();
    Tensor::from_slice(device, dims, &values).unwrap()
}

fn part<T: Float>(device: &Device, dims: &[usize], out: &[T], lse: &[f32]) -> AttentionOutput<T> {
    let out = Tensor::from_slice(device, dims, out).unwrap();
    let lse = Tensor::from_slice(device, &dims[..dims.len() - 1], lse).unwrap();
    AttentionOutput { out, lse: Lse::from_tensor(lse) }
}

/// Bits of rows and lse; every NaN is the same.
fn bits<T: Float>(output: &AttentionOutput<T>) -> (Vec<u64>, Vec<u32>) {
    let rows = output.out.to_vec().unwrap();
    let out = rows.iter().map(|x| if x.to_f64().is_nan() { u64::MAX } else { x.to_f64().to_bits() });
    (out.collect(), output.lse.to_vec().unwrap().iter().map(|x| x.to_bits()).collect())
}

fn any_split<T: Float>(tolerance: f64) {
    for device in devices() {
        let (queries, keys, size) = (5, 40, 24);
        let q = normal::<T>(&device, &[2, 2, queries, size], 1);
        let (k, v) = (normal::<T>(&device, &[2, 1, keys, size], 2), normal::<T>(&device, &[2, 1, keys, size], 3));
        let options = Attention { scale: Some(0.5), ..Attention::default() };
        let whole = forward(&q, &k, &v, &options).unwrap();
        let mut random = Random::new(4);
        for parts in 1..6 {
            let mut ends: Vec<usize> = (1..parts).map(|_| random.below(keys + 1)).chain([0, keys]).collect();
            ends.sort_unstable();
            let of_keys = |i: usize| {
                let range = |x: &Tensor<T>| x.view().slice(Dim::front(2), ends[i]..ends[i + 1]).unwrap().to_vec();
                let dims = [2, 1, ends[i + 1] - ends[i], size];
                [range(&k), range(&v)].map(|x| Tensor::from_slice(&device, &dims, &x.unwrap()).unwrap())
            };
            let mut parts: Vec<AttentionOutput<T>> = (0..parts)
                .map(|i| {
                    let [k, v] = of_keys(i);
                    forward(&q, &k, &v, &options).unwrap()
                })
                .collect();
            // In any order: neighbours need not meet.
            while parts.len() > 1 {
                let a = parts.swap_remove(random.below(parts.len()));
                let b = parts.swap_remove(random.below(parts.len()));
                parts.push(merge(&a, &b).unwrap());
            }
            let differ = |a: Vec<f64>, b: Vec<f64>| a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            let wide = |x: &Tensor<T>| x.to_vec().unwrap().iter().map(|x| x.to_f64()).collect::<Vec<_>>();
            let lse = |x: &Lse| x.to_vec().unwrap().iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
            let of_out = differ(wide(&parts[0].out), wide(&whole.out));
            assert!(of_out <= tolerance, "{device:?} {} {ends:?}: {of_out}", T::DTYPE);
            let of_lse = differ(lse(&parts[0].lse), lse(&whole.lse));
            assert!(of_lse < 4e-6, "{device:?} {} {ends:?}: {of_lse}", T::DTYPE);
        }
    }
    assert_no_findings(&"any split");
}

#[test]
fn any_split_of_the_keys_gives_the_whole() {
    any_split::<f32>(2e-6);
    any_split::<f16>(4e-3);
    any_split::<bf16>(3e-2);
}

#[test]
fn a_part_without_keys_is_the_identity_to_the_bit() {
    for device in devices() {
        let dims = [2, 3, 5];
        let mut random = Random::new(7);
        let mut out: Vec<f16> = (0..30).map(|_| f16::from_f64(random.normal())).collect();
        // Whatever the other part holds; negative zeros and infinities stay what they are.
        (out[0], out[7], out[13]) = (f16::NEG_ZERO, f16::INFINITY, f16::NAN);
        let some = part(&device, &dims, &out, &[1.5, -90.0, 0.0, 3e38, -0.0, f32::NEG_INFINITY]);
        let nothing = AttentionOutput::<f16>::empty(&device, &dims).unwrap();
        let junk = part(&device, &dims, &[f16::NAN; 30], &[f32::NEG_INFINITY; 6]);
        for nothing in [&nothing, &junk] {
            for merged in [merge(&some, nothing).unwrap(), merge(nothing, &some).unwrap()] {
                let (mut want, lse) = bits(&some);
                // The last row of neither part saw a key.
                want[25..].fill(0);
                assert_eq!(bits(&merged), (want, lse), "{device:?}");
            }
        }
        let merged = merge(&junk, &nothing).unwrap();
        assert_eq!(bits(&merged), bits(&nothing));
    }
}

/// Rows of every kind of lse: near, far, equal, huge, hidden, NaN.
const LSES: [(f32, f32); 14] = [
    (0.0, 0.0),
    (1.0, 1.25),
    (-3.0, 9.0),
    (50.0, -40.0),
    (1e30, 1e30),
    (1e30, 3e29),
    (-1e-20, 1e-20),
    (80.0, 90.5),
    (-200.0, -200.5),
    (f32::NEG_INFINITY, 3.0),
    (3.0, f32::NEG_INFINITY),
    (f32::NEG_INFINITY, f32::NEG_INFINITY),
    (f32::NAN, 1.0),
    (1.0, f32::INFINITY),
];

fn table<T: Float>(device: &Device, size: usize) -> [AttentionOutput<T>; 2] {
    let mut random = Random::new(size as u64);
    let mut of = |lse: [f32; 14]| {
        let out: Vec<T> = (0..14 * size).map(|_| T::from_f64(random.normal())).collect();
        part(device, &[7, 2, size], &out, &lse)
    };
    [of(LSES.map(|(a, _)| a)), of(LSES.map(|(_, b)| b))]
}

fn close<T: Float>(got: &[T], want: &[f64], tolerance: f64, what: &str) {
    for (i, (got, want)) in got.iter().map(|x| x.to_f64()).zip(want).enumerate() {
        let near = got == *want || (got - want).abs() <= tolerance * (1.0 + want.abs());
        assert!(near || got.is_nan() && want.is_nan(), "{what} {i}: {got} instead of {want}");
    }
}

fn against_the_formula<T: Float>() {
    // Two roundings of weights and one of the element type.
    let tolerance = 2f64.powi(-21) + if T::DTYPE.size() == 2 { T::from_f64(1.0 + 0.004).to_f64() - 0.995 } else { 0.0 };
    for device in devices() {
        for size in [1, 8, 33, 256, 300] {
            let [a, b] = table::<T>(&device, size);
            let merged = merge(&a, &b).unwrap();
            assert!(bits(&merged) == bits(&merge(&b, &a).unwrap()), "the order of two parts does not matter");
            let dout = normal::<T>(&device, &[7, 2, size], 5);
            let dlse = normal::<f32>(&device, &[7, 2], 6);
            let [da, db] = merge_backward(&a, &b, &dout, Some(dlse.view())).unwrap();
            let wide = |x: &Tensor<T>| x.to_vec().unwrap().iter().map(|x| x.to_f64()).collect::<Vec<_>>();
            let lse = |x: &Lse| x.to_vec().unwrap().iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
            let (out_a, out_b, wide_dout) = (wide(&a.out), wide(&b.out), wide(&dout));
            let dlse = dlse.to_vec().unwrap();
            for row in 0..14 {
                let of = |x: &[f64]| x[row * size..][..size].to_vec();
                let (a_row, b_row) = (of(&out_a), of(&out_b));
                let (a_lse, b_lse) = (lse(&a.lse)[row], lse(&b.lse)[row]);
                let (want, of_lse) = exact::merge((&a_row, a_lse), (&b_row, b_lse));
                let got = |x: &Tensor<T>| x.to_vec().unwrap()[row * size..][..size].to_vec();
                let what = format!("{device:?} {} row {row} of {size}", T::DTYPE);
                close(&got(&merged.out), &want, tolerance, &what);
                close(&[merged.lse.to_vec().unwrap()[row]], &[of_lse], 2f64.powi(-22), &what);
                let ((want_a, lse_a), (want_b, lse_b)) =
                    exact::merge_backward((&a_row, a_lse), (&b_row, b_lse), &of(&wide_dout), f64::from(dlse[row]));
                close(&got(&da.dout), &want_a, tolerance, &what);
                close(&got(&db.dout), &want_b, tolerance, &what);
                // A dot product of so many terms.
                let of_dot = 2f64.powi(-20) * (1.0 + size as f64).sqrt();
                close(&[da.dlse.to_vec().unwrap()[row]], &[lse_a], of_dot, &what);
                close(&[db.dlse.to_vec().unwrap()[row]], &[lse_b], of_dot, &what);
            }
        }
    }
    assert_no_findings(&"against the formula");
}

#[test]
fn every_row_against_the_formula() {
    against_the_formula::<f32>();
    against_the_formula::<f16>();
    against_the_formula::<bf16>();
}

/// The formula of the gradients, against differences of the merge itself.
#[test]
fn gradients_are_slopes() {
    let (a, b) = (([0.3, -1.2, 2.0], 0.4), ([1.1, 0.2, -0.7], -0.5));
    let (dout, dlse) = ([0.9, -0.4, 0.25], 1.7);
    let value = |a: ([f64; 3], f64), b: ([f64; 3], f64)| {
        let (out, lse) = exact::merge((&a.0, a.1), (&b.0, b.1));
        out.iter().zip(dout).map(|(x, d)| x * d).sum::<f64>() + lse * dlse
    };
    let slope = |f: &dyn Fn(f64) -> f64| (f(1e-5) - f(-1e-5)) / 2e-5;
    for device in devices() {
        let on = |(out, lse): ([f64; 3], f64)| part(&device, &[1, 3], &out.map(|x| x as f32), &[lse as f32]);
        let d = Tensor::from_slice(&device, &[1, 3], &dout.map(|x| x as f32)).unwrap();
        let dl = Tensor::from_slice(&device, &[1], &[dlse as f32]).unwrap();
        let [da, db] = merge_backward(&on(a), &on(b), &d, Some(dl.view())).unwrap();
        let step = |(mut out, lse): ([f64; 3], f64), i: usize, h: f64| {
            out[i] += h;
            (out, lse)
        };
        let want_a: Vec<f64> = (0..3).map(|i| slope(&|h| value(step(a, i, h), b))).collect();
        let want_b: Vec<f64> = (0..3).map(|i| slope(&|h| value(a, step(b, i, h)))).collect();
        close(&da.dout.to_vec().unwrap(), &want_a, 1e-6, "dout of a");
        close(&db.dout.to_vec().unwrap(), &want_b, 1e-6, "dout of b");
        close(&da.dlse.to_vec().unwrap(), &[slope(&|h| value((a.0, a.1 + h), b))], 1e-6, "dlse of a");
        close(&db.dlse.to_vec().unwrap(), &[slope(&|h| value(a, (b.0, b.1 + h)))], 1e-6, "dlse of b");
        // Without a gradient of the lse.
        let [da, _] = merge_backward(&on(a), &on(b), &d, None).unwrap();
        let only_out = |a: ([f64; 3], f64)| value(a, b) - dlse * exact::merge((&a.0, a.1), (&b.0, b.1)).1;
        close(&da.dlse.to_vec().unwrap(), &[slope(&|h| only_out((a.0, a.1 + h)))], 1e-6, "dlse of a alone");
    }
}

/// Bits of a row are its own: alone, in any layout, under any schedule.
#[test]
fn rows_have_their_own_bits() {
    let device = device();
    let [a, b] = table::<f16>(&device, 40);
    let (dout, dlse) = (normal::<f16>(&device, &[7, 2, 40], 5), normal::<f32>(&device, &[7, 2], 6));
    let all = || {
        let [da, db] = merge_backward(&a, &b, &dout, Some(dlse.view())).unwrap();
        let [da, db] = [da, db].map(|d| AttentionOutput { out: d.dout, lse: Lse::from_tensor(d.dlse) });
        (bits(&merge(&a, &b).unwrap()), bits(&da), bits(&db))
    };
    let first = all();
    if let Some(soft) = soft() {
        for seed in 1..=20 {
            soft.seed(seed);
            assert!(all() == first, "schedule {seed}");
        }
        soft.seed(0);
    }
    // Heads and positions exchanged, without a copy.
    let turned = |x: &AttentionOutput<f16>| {
        let out = x.out.to_vec().unwrap();
        let lse = x.lse.to_vec().unwrap();
        let at = |i: usize| (i % 7) * 2 + i / 7;
        let rows: Vec<f16> = (0..14).flat_map(|i| out[at(i) * 40..][..40].to_vec()).collect();
        let numbers: Vec<f32> = (0..14).map(|i| lse[at(i)]).collect();
        part(&device, &[2, 7, 40], &rows, &numbers)
    };
    let (ta, tb) = (turned(&a), turned(&b));
    fn strided(x: &AttentionOutput<f16>) -> Partial<'_, f16> {
        let out = x.out.view().permute(&[1, 0, 2]).unwrap();
        Partial::from_values(out, x.lse.view_values().permute(&[1, 0]).unwrap())
    }
    assert!(bits(&merge(strided(&ta), strided(&tb)).unwrap()) == first.0);
    for row in 0..7 {
        let one =
            |x: &'_ Tensor<f16>| -> Vec<f16> { x.view().slice(Dim::front(0), row..row + 1).unwrap().to_vec().unwrap() };
        let of_lse = |x: &Lse| x.view_values().slice(Dim::front(0), row..row + 1).unwrap().to_vec().unwrap();
        let alone = |x: &AttentionOutput<f16>| part(&device, &[1, 2, 40], &one(&x.out), &of_lse(&x.lse));
        let (out, lse) = bits(&merge(&alone(&a), &alone(&b)).unwrap());
        assert!(out == first.0.0[row * 80..][..80] && lse == first.0.1[row * 2..][..2], "row {row}");
    }
    assert_no_findings(&"rows");
}

/// Rows whose offsets do not fit in 32 bits.
#[test]
fn rows_far_apart() {
    let Some(soft) = soft() else { return };
    let device = device();
    let values: Vec<f32> = (0..12).map(|i| i as f32 / 4.0).collect();
    let (out, lse) = (Far::new(&soft, &device, &[3, 4], &values), Far::new(&soft, &device, &[3, 1], &[0.5, -1.0, 2.0]));
    let numbers = lse.view().reshape(&[3]).unwrap();
    let far = Partial::from_values(out.view(), numbers);
    let near = part(&device, &[3, 4], &values, &[0.5, -1.0, 2.0]);
    let other = part(&device, &[3, 4], &[1.0; 12], &[0.0; 3]);
    assert_eq!(bits(&merge(far, &other).unwrap()), bits(&merge(&near, &other).unwrap()));
    let [a, _] = merge_backward(far, &other, out.view(), Some(numbers)).unwrap();
    let dlse = near.lse.view_values();
    let [want, _] = merge_backward(&near, &other, &near.out, Some(dlse)).unwrap();
    assert_eq!(
        (a.dout.to_vec().unwrap(), a.dlse.to_vec().unwrap()),
        (want.dout.to_vec().unwrap(), want.dlse.to_vec().unwrap())
    );
    assert_no_findings(&"far apart");
}

#[test]
fn empty_parts_and_the_callers_memory() {
    for device in devices() {
        let none = AttentionOutput::<f32>::empty(&device, &[0, 3]).unwrap();
        assert!(merge(&none, &none).unwrap().out.to_vec().unwrap().is_empty());
        let flat = part::<f32>(&device, &[2, 0], &[], &[0.0, 0.0]);
        assert_eq!(merge(&flat, &flat).unwrap().lse.to_vec().unwrap(), [2f32.ln(); 2]);
        let [a, b] = table::<f32>(&device, 5);
        let (want, mut got) = (merge(&a, &b).unwrap(), AttentionOutput::<f32>::empty(&device, &[7, 2, 5]).unwrap());
        merge_into(&a, &b, AttentionInto { out: got.out.view_mut(), lse: None }).unwrap();
        assert_eq!(bits(&got).0, bits(&want).0);
        let dout = normal::<f32>(&device, &[7, 2, 5], 5);
        let [da, db] = merge_backward(&a, &b, &dout, None).unwrap();
        let zeros = |dims: &[usize]| Tensor::<f32>::zeros(&device, dims).unwrap();
        let (mut a_out, mut a_lse, mut b_out, mut b_lse) =
            (zeros(&[7, 2, 5]), zeros(&[7, 2]), zeros(&[7, 2, 5]), zeros(&[7, 2]));
        let into = [
            PartialGradientInto { dout: a_out.view_mut(), dlse: a_lse.view_mut() },
            PartialGradientInto { dout: b_out.view_mut(), dlse: b_lse.view_mut() },
        ];
        merge_backward_into(&a, &b, &dout, None, into).unwrap();
        let bits = |x: &Tensor<f32>| x.to_vec().unwrap().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        for (got, want) in [(a_out, da.dout), (a_lse, da.dlse), (b_out, db.dout), (b_lse, db.dlse)] {
            assert_eq!(bits(&got), bits(&want));
        }
    }
}

#[test]
fn parts_that_do_not_fit() {
    #[track_caller]
    fn refused<V: std::fmt::Debug>(result: sumexp::Result<V>, text: &str) {
        assert_eq!(result.expect_err("bad input was accepted").to_string(), text);
    }
    for device in devices() {
        let of = |dims: &[usize]| AttentionOutput::<f32>::empty(&device, dims).unwrap();
        let (a, wide) = (of(&[2, 3]), of(&[2, 4]));
        refused(merge(&a, &wide), "attention_merge: shapes differ: [2, 3] in out of a, [2, 4] in out of b");
        let mixed = Partial::new(&a.out, &wide.lse);
        assert!(merge(&a, mixed).is_ok());
        let other = of(&[3, 3]);
        let mixed = Partial::new(&a.out, &other.lse);
        refused(merge(&a, mixed), "attention_merge: shapes differ: [3] in lse of b, [2] in the rows of out of b");
        let number = Tensor::<f32>::zeros(&device, &[]).unwrap();
        let scalar = Partial::from_values(&number, number.view());
        refused(
            merge(scalar, scalar),
            "attention_merge: out of a must have the dims [.., head size], but has shape []",
        );
        refused(
            merge_backward(&a, &a, &wide.out, None),
            "attention_merge_backward: shapes differ: [2, 4] in dout, [2, 3] in out of a",
        );
        let mut twice = Tensor::<f32>::zeros(&device, &[2, 4]).unwrap();
        let narrow = twice.view_mut().slice(Dim::LAST, 0..3).unwrap();
        refused(
            merge_into(&a, &a, AttentionInto { out: narrow, lse: None }),
            "attention_merge: out must be contiguous, but has shape [2, 3] with strides [4, 1]",
        );
    }
}
