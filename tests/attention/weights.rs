//! The weights themselves: against the host, against the output they belong to, and what must never show in them.

use crate::common::device::{assert_no_findings, soft};
use crate::common::random::Random;
use crate::common::sparse::Far;
use crate::{device, devices};
use softgpu::ctl::Gpu;
use std::ops::Range;
use sumexp::attention::{Alibi, Attention, PackedOffsets, forward, forward_packed, merge, weights, weights_into};
use sumexp::mask::Align;
use sumexp::{DType, Device, Dim, Float, Lse, Mask, Tensor, View, bf16, f16, keep};

/// Batch entries, heads, heads of keys, queries, keys, head size.
type Sizes = [usize; 6];

fn normal<T: Float>(device: &Device, dims: &[usize], seed: u64) -> Tensor<T> {
    let mut random = Random::new(seed);
    let values: Vec<T> = (0..dims.iter().product()).map(|_| T::from_f64(random.normal())).collect();
    Tensor::from_slice(device, dims, &values).unwrap()
}

fn wide<T: Float>(x: &Tensor<T>) -> Vec<f64> {
    x.to_vec().unwrap().iter().map(|x| x.to_f64()).collect()
}

/// What one call gives.
struct Answer {
    weights: Vec<f64>,
    /// The sums of the values by these weights, and what the forward operation says they are.
    products: Vec<f64>,
    out: Vec<f64>,
    lse: Vec<f64>,
}

/// The weights of one problem on a device, with one of six sets of options.
fn on<T: Float>(device: &Device, sizes: Sizes, kind: usize) -> Answer {
    let [batch, heads, key_heads, queries, keys, size] = sizes;
    let q = normal::<T>(device, &[batch, heads, queries, size], 1);
    let k = normal::<T>(device, &[batch, key_heads, keys, size], 2);
    let v = normal::<T>(device, &[batch, key_heads, keys, 3], 3);
    let mut random = Random::new(5);
    let bytes: Vec<u8> = (0..queries * keys).map(|_| u8::from(!random.one_in(3))).collect();
    let bytes = Tensor::from_slice(device, &[queries, keys], &bytes).unwrap();
    let ids = |length: usize| -> Vec<i32> { (0..length).map(|i| (i / 9) as i32).collect() };
    let of_q = Tensor::from_slice(device, &[queries], &ids(queries)).unwrap();
    let of_k = Tensor::from_slice(device, &[keys], &ids(keys)).unwrap();
    let lengths: Vec<i32> = (0..batch as i32).map(|b| keys as i32 - 4 * b).collect();
    let lengths = Tensor::from_slice(device, &[batch], &lengths).unwrap();
    let mut bias: Vec<f32> = (0..heads * keys).map(|_| random.normal() as f32).collect();
    bias.iter_mut().step_by(6).for_each(|x| *x = f32::NEG_INFINITY);
    let bias = Tensor::from_slice(device, &[heads, 1, keys], &bias).unwrap();
    let slopes: Vec<f32> = (0..heads).map(|h| 0.5 / (h + 1) as f32).collect();
    let slopes = Tensor::from_slice(device, &[heads], &slopes).unwrap();
    let masks = [Mask::Causal(Align::BottomRight), Mask::KeyLengths(lengths.view()), keep(&bytes).into()];
    let plain = Attention::default();
    let options = [
        plain,
        Attention { mask: masks[0], ..plain },
        Attention { mask: Mask::All(&masks), ..plain },
        Attention { mask: Mask::Segments { q: of_q.view(), k: of_k.view() }, scale: Some(-0.3), ..plain },
        Attention { bias: Some((&bias).into()), softcap: Some(2.5), ..plain },
        Attention { alibi: Some(Alibi { slopes: slopes.view(), align: Align::BottomRight }), mask: masks[0], ..plain },
    ][kind];
    let output = forward(&q, &k, &v, &options).unwrap();
    let all = wide(&weights(&q, &k, &output.lse, 0..queries, &options).unwrap());
    // Some of the rows are the same rows.
    let rows = queries / 3..queries - queries / 4;
    let some = wide(&weights(&q, &k, &output.lse, rows.clone(), &options).unwrap());
    for head in 0..batch * heads {
        let want = &all[(head * queries + rows.start) * keys..][..rows.len() * keys];
        assert!(&some[head * rows.len() * keys..][..want.len()] == want, "{device:?} {sizes:?} {kind} {rows:?}");
    }
    let v = wide(&v);
    let products = (0..all.len() / keys).flat_map(|row| {
        let head = row / queries;
        let of_head = head / heads * key_heads + head % heads / (heads / key_heads);
        let (all, v) = (&all, &v);
        let value = move |key: usize, d: usize| all[row * keys + key] * v[(of_head * keys + key) * 3 + d];
        (0..3).map(move |d| (0..keys).map(|key| value(key, d)).sum::<f64>())
    });
    let products = products.collect();
    let lse = output.lse.to_vec().unwrap().into_iter().map(f64::from).collect();
    Answer { weights: all, products, out: wide(&output.out), lse }
}

/// `rounding` is the relative error of one rounding to the type of the weights.
fn every<T: Float>(rounding: f64) {
    for sizes in [
        [1, 1, 1, 1, 1, 1],
        [2, 4, 2, 5, 33, 8],
        [1, 2, 1, 70, 129, 64],
        [2, 1, 1, 130, 70, 65],
        [1, 1, 1, 3, 1100, 200],
    ] {
        for kind in 0..6 {
            let [host, gpu] = devices().map(|device| on::<T>(&device, sizes, kind));
            let (what, keys) = (format!("{} {sizes:?} {kind}", T::DTYPE), sizes[4]);
            for answer in [&host, &gpu] {
                for (row, weights) in answer.weights.chunks(keys).enumerate() {
                    let sum: f64 = weights.iter().sum();
                    let error = (rounding + 4e-6) * (keys as f64).sqrt();
                    let nothing = answer.lse[row] == f64::NEG_INFINITY;
                    assert!(if nothing { sum == 0.0 } else { (sum - 1.0).abs() <= error }, "{what} {row}: {sum}");
                }
                for (product, out) in answer.products.iter().zip(&answer.out) {
                    assert!((product - out).abs() <= 12.0 * rounding + 2e-5, "{what}: {product} is not {out}");
                }
            }
            for (i, (got, want)) in gpu.weights.iter().zip(&host.weights).enumerate() {
                // The bound of the documentation; both were rounded, and numbers below the normal ones are multiples of the smallest.
                let smallest = if T::DTYPE == DType::F16 { f64::powi(2.0, -24) } else { f32::MIN_POSITIVE.into() };
                let lse = host.lse[i / keys];
                let of_scores = (4.0 + lse.abs() + (want.ln() + lse).abs()) / f64::from(1 << 22);
                let error = if *want == 0.0 { 0.0 } else { (of_scores + 2.0 * rounding) * want };
                assert!((got - want).abs() <= error + smallest, "{what} {i}: {got} instead of {want}");
            }
        }
    }
    assert_no_findings(&"weights");
}

#[test]
fn f16_weights() {
    every::<f16>(1.0 / 2048.0);
}

#[test]
fn bf16_weights() {
    every::<bf16>(1.0 / 256.0);
}

#[test]
fn f32_weights() {
    every::<f32>(1.0 / 16_777_216.0);
}

/// Hidden keys may hold anything, and a row that sees NaN or infinity is NaN where it sees.
#[test]
fn what_is_hidden_weighs_nothing() {
    for device in devices() {
        let (queries, keys, size) = (40, 40, 16);
        let options = Attention { mask: Mask::Causal(Align::TopLeft), ..Attention::default() };
        let mut q = wide(&normal::<f16>(&device, &[queries * size], 1));
        let mut k = wide(&normal::<f16>(&device, &[keys * size], 2));
        q[7 * size] = f64::NAN;
        k[39 * size..].fill(f64::INFINITY);
        let upload = |x: &[f64]| {
            let x: Vec<f16> = x.iter().map(|x| f16::from_f64(*x)).collect();
            Tensor::from_slice(&device, &[1, 1, x.len() / size, size], &x).unwrap()
        };
        let (q, k) = (upload(&q), upload(&k));
        let lse = forward(&q, &k, &k, &options).unwrap().lse;
        let weights = wide(&weights(&q, &k, &lse, 0..queries, &options).unwrap());
        for (i, row) in weights.chunks(keys).enumerate() {
            assert!(row[i + 1..].iter().all(|w| w.to_bits() == 0), "{device:?} {i}");
            let special = i == 7 || i == 39;
            assert_eq!(row[..=i].iter().all(|w| w.is_nan()), special, "{device:?} {i}");
            assert!(special || (row.iter().sum::<f64>() - 1.0).abs() < 4e-3, "{device:?} {i}");
        }
    }
}

/// Every schedule, odd addresses, and rows far apart give the same bits.
#[test]
fn weights_have_their_own_bits() {
    let device = device();
    let (q, k) = (normal::<bf16>(&device, &[1, 2, 70, 80], 1), normal::<bf16>(&device, &[1, 1, 150, 80], 2));
    let options = Attention { softcap: Some(3.0), ..Attention::default() };
    let lse = forward(&q, &k, &k, &options).unwrap().lse;
    let bits = |x: &Tensor<bf16>| x.to_vec().unwrap().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let first = bits(&weights(&q, &k, &lse, 0..70, &options).unwrap());
    if let Some(soft) = soft() {
        for seed in 1..=20 {
            soft.seed(seed);
            assert!(bits(&weights(&q, &k, &lse, 0..70, &options).unwrap()) == first, "schedule {seed}");
        }
        soft.seed(0);
        let far = Far::new(&soft, &device, &[2, 70, 80], &q.to_vec().unwrap());
        let far = far.view().reshape(&[1, 2, 70, 80]).unwrap();
        assert!(bits(&weights(far, &k, &lse, 0..70, &options).unwrap()) == first, "far apart");
    }
    // Into a part of wider rows, at an odd place.
    let mut around = Tensor::<bf16>::zeros(&device, &[1, 2, 70, 153]).unwrap();
    let part = around.view_mut().slice(Dim::LAST, 1..151).unwrap();
    weights_into(&q, &k, lse.view_values(), 0..70, &options, part).unwrap();
    let around = bits(&around);
    for (row, want) in around.chunks(153).zip(first.chunks(150)) {
        assert!(row[0] == 0 && row[1..151] == *want && row[151..] == [0, 0]);
    }
    assert_no_findings(&"bits");
}

/// With the lse of a merge, the weights of a part of the keys among all of them.
#[test]
fn weights_of_a_part_among_all_keys() {
    for device in devices() {
        let (q, k) = (normal::<f32>(&device, &[1, 1, 4, 8], 1), normal::<f32>(&device, &[1, 1, 10, 8], 2));
        let options = Attention::default();
        let part = |keys| k.view().slice(Dim::front(2), keys).unwrap();
        let whole = forward(&q, &k, &k, &options).unwrap();
        let all = wide(&weights(&q, &k, &whole.lse, 0..4, &options).unwrap());
        let first = forward(&q, part(0..6), part(0..6), &options).unwrap();
        let last = forward(&q, part(6..10), part(6..10), &options).unwrap();
        let lse: Lse = merge(&first, &last).unwrap().lse;
        let of_last = wide(&weights(&q, part(6..10), &lse, 0..4, &options).unwrap());
        for row in 0..4 {
            for key in 0..4 {
                assert!((of_last[row * 4 + key] - all[row * 10 + 6 + key]).abs() < 1e-6, "{device:?} {row} {key}");
            }
        }
    }
}

/// One of many packed sequences as a batch of its own.
fn one<'a>(x: &'a Tensor<f32>, tokens: &Range<usize>) -> View<'a, f32> {
    let part = x.view().slice(Dim::front(0), tokens.clone()).unwrap().permute(&[1, 0, 2]).unwrap();
    let [heads, length, size] = *part.dims() else { unreachable!() };
    part.expand(&[1, heads, length, size]).unwrap()
}

#[test]
fn weights_of_a_packed_sequence() {
    for device in devices() {
        let (q, k) = (normal::<f32>(&device, &[30, 4, 8], 1), normal::<f32>(&device, &[40, 2, 8], 2));
        let of_q = PackedOffsets::from_lengths(&device, &[7, 23]).unwrap();
        let of_k = PackedOffsets::from_lengths(&device, &[11, 29]).unwrap();
        let options = Attention { mask: Mask::Causal(Align::BottomRight), ..Attention::default() };
        let output = forward_packed(&q, &k, &k, &of_q, &of_k, &options).unwrap();
        for (queries, keys) in [(0..7, 0..11), (7..30, 11..40)] {
            let lse = output.lse.view_values().slice(Dim::front(0), queries.clone()).unwrap();
            let lse = lse.permute(&[1, 0]).unwrap().expand(&[1, 4, queries.len()]).unwrap();
            let mut weights = Tensor::<f32>::zeros(&device, &[1, 4, queries.len(), keys.len()]).unwrap();
            let rows = 0..queries.len();
            weights_into(one(&q, &queries), one(&k, &keys), lse, rows.clone(), &options, weights.view_mut()).unwrap();
            let (weights, k, out) = (wide(&weights), wide(&k), wide(&output.out));
            for (head, query) in (0..4).flat_map(|head| rows.clone().map(move |query| (head, query))) {
                let weights = &weights[(head * rows.len() + query) * keys.len()..][..keys.len()];
                for d in 0..8 {
                    let value = |(j, w): (usize, &f64)| w * k[((keys.start + j) * 2 + head / 2) * 8 + d];
                    let sum: f64 = weights.iter().enumerate().map(value).sum();
                    let want = out[((queries.start + query) * 4 + head) * 8 + d];
                    assert!((sum - want).abs() < 1e-5, "{device:?} {head} {query} {d}: {sum} is not {want}");
                }
            }
        }
    }
    assert_no_findings(&"a packed sequence");
}

/// Every weight is written once, in whole sectors; queries are read once for 16 tiles of keys, keys once per tile of queries.
#[test]
fn weights_are_bound_by_what_they_write() {
    fn counted<T: Float>(soft: &Gpu, tile: usize, keys_of_block: usize) {
        let (device, length, size) = (device(), 512, 128);
        let (q, k) = (normal::<T>(&device, &[1, 1, length, size], 1), normal::<T>(&device, &[1, 1, length, size], 2));
        let options = Attention::default();
        let lse = forward(&q, &k, &k, &options).unwrap().lse;
        soft.reset_counters();
        weights(&q, &k, &lse, 0..length, &options).unwrap();
        let kernel = format!("attention_weights_{}", T::DTYPE);
        let counters = soft.counters(&kernel).expect("it was launched");
        let (loads, stores) = (&counters.global_loads, &counters.global_stores);
        let bytes = T::DTYPE.size();
        assert_eq!((stores.bytes, stores.sectors), ((length * length * bytes) as u64, stores.minimum), "{kernel}");
        let rows = (length / keys_of_block.min(length) + length / tile) * length * size * bytes;
        // The lse of a row is read by the four lanes that share it, once per tile of keys.
        let lse = 4 * length * (length / (keys_of_block / 16)) * 4;
        assert_eq!(loads.bytes, (rows + lse) as u64, "{kernel}");
        assert_eq!(counters.local_bytes, 0, "{kernel}");
        let in_tiles = |statement: &str| statement.starts_with("ldmatrix") || statement.starts_with("cp.async");
        let conflicts =
            counters.lines.iter().filter(|line| line.shared.bank_conflicts() > 0 && in_tiles(&line.statement));
        assert_eq!(conflicts.count(), 0, "{kernel}");
    }
    let Some(soft) = soft() else { return };
    counted::<f16>(&soft, 128, 1024);
    counted::<bf16>(&soft, 128, 1024);
    counted::<f32>(&soft, 64, 512);
    assert_no_findings(&"counters");
}

#[test]
fn weights_that_cannot_be() {
    #[track_caller]
    fn refused<V: std::fmt::Debug>(result: sumexp::Result<V>, text: &str) {
        assert_eq!(result.expect_err("bad input was accepted").to_string(), text);
    }
    for device in devices() {
        let zeros = |dims: &[usize]| Tensor::<f32>::zeros(&device, dims).unwrap();
        let (q, k, options) = (zeros(&[1, 2, 3, 4]), zeros(&[1, 1, 5, 4]), Attention::default());
        let lse = Lse::from_tensor(zeros(&[1, 2, 3]));
        refused(weights(&q, &k, &lse, 2..4, &options), "attention_weights: range 2..4 does not fit dim 2 of length 3");
        let short = Lse::from_tensor(zeros(&[1, 2, 2]));
        refused(
            weights(&q, &k, &short, 0..1, &options),
            "attention_weights: shapes differ: [1, 2, 2] in lse, [1, 2, 3] in the queries",
        );
        assert_eq!(weights(&q, &k, &lse, 1..1, &options).unwrap().dims(), [1, 2, 0, 5]);
        let none = zeros(&[1, 1, 0, 4]);
        assert_eq!(weights(&q, &none, &lse, 0..3, &options).unwrap().dims(), [1, 2, 3, 0]);
    }
}
