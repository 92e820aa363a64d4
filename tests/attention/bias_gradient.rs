//! The gradient of the bias: of every shape that a bias broadcasts from, of every type, of packed sequences, and what is refused. The case
//! table (`gradients`) has it with every mask and layout.

use crate::common::device::{assert_no_findings, soft};
use crate::common::random::Random;
use crate::{device, devices, largest_error};
use sumexp::attention::{
    Attention, AttentionGradients, Bias, BiasGradient, BiasInto, GradientsInto, PackedOffsets, backward, backward_into,
    backward_packed, forward, forward_packed,
};
use sumexp::mask::Align;
use sumexp::{DType, Device, Element, Error, Float, Mask, Tensor, bf16, f16};

const BATCH: usize = 2;
const HEADS: usize = 4;
const QUERIES: usize = 70;
const KEYS: usize = 150;

/// A tensor of normal numbers.
fn random<T: Float>(device: &Device, dims: &[usize], seed: u64) -> Tensor<T> {
    let mut random = Random::new(seed);
    let values: Vec<T> = (0..dims.iter().product()).map(|_| T::from_f64(random.normal())).collect();
    Tensor::from_slice(device, dims, &values).unwrap()
}

fn numbers(gradient: &BiasGradient) -> Vec<f64> {
    fn wide<T: Float>(tensor: &Tensor<T>) -> Vec<f64> {
        tensor.to_vec().unwrap().into_iter().map(|x| x.to_f64()).collect()
    }
    match gradient {
        BiasGradient::F32(tensor) => wide(tensor),
        BiasGradient::F16(tensor) => wide(tensor),
        BiasGradient::BF16(tensor) => wide(tensor),
    }
}

fn gradients<T: Float>(device: &Device, bias: Bias, softcap: Option<f32>) -> AttentionGradients<T> {
    let (q, dout) = (random(device, &[BATCH, HEADS, QUERIES, 24], 1), random(device, &[BATCH, HEADS, QUERIES, 40], 2));
    let (k, v) = (random(device, &[BATCH, 2, KEYS, 24], 3), random(device, &[BATCH, 2, KEYS, 40], 4));
    let mask = Mask::Causal(Align::BottomRight);
    let options = Attention { bias: Some(bias), bias_gradient: true, mask, softcap, ..Attention::default() };
    let saved = forward::<T>(&q, &k, &v, &options).unwrap();
    let gradients = backward::<T>(&q, &k, &v, &saved, &dout, &options).unwrap();
    assert_no_findings(&"the gradient of a bias");
    gradients
}

/// Of every shape, in the bias's own type, as the host has it; and the sum of what a full bias gets.
#[test]
fn every_shape_is_the_sum_of_the_full_one() {
    let full = [BATCH, HEADS, QUERIES, KEYS];
    for repeated in 0..16 {
        let dims: [usize; 4] = std::array::from_fn(|dim| if repeated >> dim & 1 == 1 { 1 } else { full[dim] });
        let sums = |of_all: &[f64]| {
            let mut sums = vec![0.0; dims.iter().product()];
            for (i, x) in of_all.iter().enumerate() {
                let index = [i / (KEYS * QUERIES * HEADS), i / (KEYS * QUERIES) % HEADS, i / KEYS % QUERIES, i % KEYS];
                sums[(0..4).fold(0, |at, dim| at * dims[dim] + index[dim] % dims[dim])] += x;
            }
            sums
        };
        // Not even the shape's leading ones need to be there.
        let own = &dims[dims.iter().take_while(|len| **len == 1).count()..];
        let small = random::<f32>(&Device::cpu(), own, 9);
        let expanded = small.view().expand(&full).unwrap();
        let softcap = (repeated % 3 == 0).then_some(4.0);
        let exact = gradients::<f32>(&Device::cpu(), expanded.into(), softcap).dbias.unwrap();
        let want = sums(&numbers(&exact));
        let size = want.iter().fold(0.0f64, |size, x| size.max(x.abs()));
        for device in devices() {
            let bias = small.to_device(&device).unwrap();
            let got = gradients::<f32>(&device, (&bias).into(), softcap).dbias.unwrap();
            assert_eq!(got.f32().expect("the bias's type").dims(), own);
            let error = largest_error(&numbers(&got), &want);
            // Roundings of out come from every query.
            assert!(error <= 1e-5 * size.max(1.0), "{own:?} on {}: {error:.1e} of {size:.1e}", device.description());
        }
    }
}

fn of_type<B: Float>(wanted: DType, tolerance: f64)
where
    for<'a> Bias<'a>: From<&'a Tensor<B>>,
{
    let bias = random::<B>(&Device::cpu(), &[HEADS, QUERIES, KEYS], 5);
    let want = numbers(&gradients::<bf16>(&Device::cpu(), (&bias).into(), None).dbias.unwrap());
    let size = want.iter().fold(0.0f64, |size, x| size.max(x.abs()));
    let bias = bias.to_device(&device()).unwrap();
    let got = gradients::<bf16>(&device(), (&bias).into(), None).dbias.unwrap();
    let types = [got.f32().map(|_| DType::F32), got.f16().map(|_| DType::F16), got.bf16().map(|_| DType::BF16)];
    assert_eq!(types.into_iter().flatten().collect::<Vec<_>>(), [wanted]);
    let error = largest_error(&numbers(&got), &want);
    assert!(error <= tolerance * size, "{wanted}: {error:.1e} of {size:.1e}");
}

/// Whatever the type of q, k and v.
#[test]
fn every_type() {
    // The last two round the result; what is off in all comes from roundings of out in bf16.
    of_type::<f32>(DType::F32, 6e-3);
    of_type::<f16>(DType::F16, 6e-3);
    of_type::<bf16>(DType::BF16, 1e-2);
}

/// Each bias has its numbers from those of the sequence it belongs to, and what lies behind its end gets 0.
#[test]
fn packed_sequences() {
    let lengths = [[5, 9], [0, 4], [70, 33], [3, 0], [64, 130]];
    let (longest, most) = (72, 131);
    for dims in
        [[5, HEADS, longest, most], [1, HEADS, longest, most], [5, 1, 1, most], [1, HEADS, longest, 1], [1, 1, 1, 1]]
    {
        let on = |device: &Device| {
            let offsets =
                [0, 1].map(|side| PackedOffsets::from_lengths(device, &lengths.map(|length| length[side])).unwrap());
            let [of_q, of_k] = &offsets;
            let q = random::<f32>(device, &[of_q.tokens(), HEADS, 32], 1);
            let k = random::<f32>(device, &[of_k.tokens(), 2, 32], 2);
            let dout = random::<f32>(device, &[of_q.tokens(), HEADS, 32], 3);
            let bias = random::<f32>(device, &dims, 4);
            let options = Attention { bias: Some((&bias).into()), bias_gradient: true, ..Attention::default() };
            let saved = forward_packed(&q, &k, &k, of_q, of_k, &options).unwrap();
            let gradients = backward_packed(&q, &k, &k, of_q, of_k, &saved, &dout, &options).unwrap();
            assert_no_findings(&"packed biases");
            numbers(&gradients.dbias.unwrap())
        };
        let (got, want) = (on(&device()), on(&Device::cpu()));
        let error = largest_error(&got, &want);
        assert!(error <= 2e-5, "{dims:?}: {error:.1e}");
        assert!(dims[2] == 1 || got[got.len() - 1] == 0.0 || dims[3] == 1);
    }
}

/// Nothing depends on the order in which warps run.
#[test]
fn every_schedule_gives_the_same_bits() {
    let Some(soft) = soft() else { return };
    let device = device();
    for dims in [vec![HEADS, QUERIES, KEYS], vec![BATCH, 1, 1, KEYS], vec![1]] {
        let bias = random::<f16>(&device, &dims, 6);
        let bits = |seed| {
            soft.seed(seed);
            numbers(&gradients::<bf16>(&device, (&bias).into(), None).dbias.unwrap())
        };
        let first = bits(0);
        assert!((1..=20).all(|seed| bits(seed) == first), "{dims:?}");
    }
    soft.seed(0);
}

/// A gradient of 0 where there are no pairs.
#[test]
fn without_queries_or_keys() {
    for (device, [queries, keys]) in
        devices().into_iter().flat_map(|device| [[0, 5], [5, 0]].map(|of| (device.clone(), of)))
    {
        let (q, k) = (random::<f32>(&device, &[1, 2, queries, 8], 1), random::<f32>(&device, &[1, 2, keys, 8], 2));
        let bias = random::<f32>(&device, &[2, 1, 1], 3);
        let options = Attention { bias: Some((&bias).into()), bias_gradient: true, ..Attention::default() };
        let saved = forward(&q, &k, &k, &options).unwrap();
        let dout = random::<f32>(&device, &[1, 2, queries, 8], 4);
        let gradients = backward(&q, &k, &k, &saved, &dout, &options).unwrap();
        assert_eq!(numbers(&gradients.dbias.unwrap()), [0.0; 2]);
    }
}

#[test]
fn what_is_refused() {
    fn refused(result: Result<(), Error>, text: &str) {
        assert_eq!(result.expect_err("accepted").to_string(), text);
    }
    for device in devices() {
        let x = random::<f32>(&device, &[1, 2, 5, 8], 1);
        let bias = random::<f32>(&device, &[2, 5, 5], 2);
        let (with, without) = (Attention { bias: Some((&bias).into()), ..Attention::default() }, Attention::default());
        let saved = forward(&x, &x, &x, &with).unwrap();
        let asked = Attention { bias_gradient: true, ..without };
        let text = "attention: bias_gradient is 1, it must be false without a bias";
        refused(forward(&x, &x, &x, &asked).map(|_| ()), text);
        let into = |options: &Attention, dbias: BiasInto| {
            let [mut dq, mut dk, mut dv] = [0, 1, 2].map(|_| Tensor::<f32>::zeros(&device, &[1, 2, 5, 8]).unwrap());
            let (dq, dk, dv) = (dq.view_mut(), dk.view_mut(), dv.view_mut());
            let gradients = GradientsInto { dq, dk, dv, dbias: Some(dbias) };
            backward_into(&x, &x, &x, &saved, &x, options, gradients)
        };
        fn zeros<T: Element>(device: &Device, dims: &[usize]) -> Tensor<T> {
            Tensor::zeros(device, dims).unwrap()
        }
        let text = "attention_backward: bias_gradient is 1, it must be false without a bias";
        refused(into(&without, (&mut zeros::<f32>(&device, &[2, 5, 5])).into()), text);
        let text = "attention_backward: the bias is f32, dbias is bf16";
        refused(into(&with, (&mut zeros::<bf16>(&device, &[2, 5, 5])).into()), text);
        let text = "attention_backward: shapes differ: [2, 5, 6] in dbias, [2, 5, 5] in the bias";
        refused(into(&with, (&mut zeros::<f32>(&device, &[2, 5, 6])).into()), text);
        let mut wide = zeros::<f32>(&device, &[2, 5, 10]);
        let part = wide.view_mut().slice(sumexp::Dim::LAST, 0..5).unwrap();
        assert!(matches!(into(&with, part.into()), Err(Error::NotContiguous { .. })));
        let elsewhere = if device.is_cpu() { crate::device() } else { Device::cpu() };
        assert!(matches!(
            into(&with, (&mut zeros::<f32>(&elsewhere, &[2, 5, 5])).into()),
            Err(Error::DifferentDevices { .. })
        ));
        into(&with, (&mut zeros::<f32>(&device, &[2, 5, 5])).into()).unwrap();
    }
}

/// A bias of -1e9 at every pair, and nothing else in the scores: every key has 1/n of the weight, though f32 has no lse between -1e9 and
/// 64 more. So the gradient is `(dout_i . v_j - mean_j(dout_i . v_j)) / n`.
#[test]
fn an_lse_that_cannot_be_told_from_the_bias() {
    fn of<T: Float>(tolerance: f64) {
        const SIZE: usize = 32;
        let (v, dout) = (
            random::<T>(&Device::cpu(), &[1, 1, KEYS, SIZE], 31),
            random::<T>(&Device::cpu(), &[1, 1, QUERIES, SIZE], 32),
        );
        let values = |x: &Tensor<T>| x.to_vec().unwrap().into_iter().map(T::to_f64).collect::<Vec<f64>>();
        let (of_v, of_dout) = (values(&v), values(&dout));
        let mut want = Vec::new();
        for dout in of_dout.chunks(SIZE) {
            let products = of_v.chunks(SIZE).map(|v| v.iter().zip(dout).map(|(v, d)| v * d).sum::<f64>());
            let products: Vec<f64> = products.collect();
            let mean = products.iter().sum::<f64>() / KEYS as f64;
            want.extend(products.iter().map(|product| (product - mean) / KEYS as f64));
        }
        let size = want.iter().fold(0.0f64, |size, x| size.max(x.abs()));
        for device in devices() {
            let on = |x: &Tensor<T>| x.to_device(&device).unwrap();
            let (v, dout) = (on(&v), on(&dout));
            let q = Tensor::<T>::zeros(&device, &[1, 1, QUERIES, SIZE]).unwrap();
            let k = Tensor::<T>::zeros(&device, &[1, 1, KEYS, SIZE]).unwrap();
            let bias = Tensor::from_slice(&device, &[QUERIES, KEYS], &vec![-1e9f32; QUERIES * KEYS]).unwrap();
            let options = Attention { bias: Some((&bias).into()), bias_gradient: true, ..Attention::default() };
            let saved = forward(&q, &k, &v, &options).unwrap();
            let gradients = backward(&q, &k, &v, &saved, &dout, &options).unwrap();
            let error = largest_error(&numbers(&gradients.dbias.unwrap()), &want);
            assert!(error <= tolerance * size, "{} on {}: {error:.1e} of {size:.1e}", T::DTYPE, device.description());
            assert_no_findings(&"an lse without digits");
        }
    }
    // The output is rounded to the element type, and delta is made of it.
    of::<f32>(1e-5);
    of::<f16>(2e-3);
    of::<bf16>(2e-2);
}

/// A key that no query sees, but that a row behind the last query would: whatever it holds, a bias of keys gets nothing from it.
#[test]
fn keys_behind_the_last_query_add_nothing() {
    fn of<T: Float>() {
        let device = device();
        let with = |x: Tensor<T>| {
            let mut values = x.to_vec().unwrap();
            values[QUERIES * 24..(QUERIES + 1) * 24].fill(T::from_f64(f64::INFINITY));
            Tensor::from_slice(&device, &[1, 1, KEYS, 24], &values).unwrap()
        };
        let plain = |length, seed| random::<T>(&device, &[1, 1, length, 24], seed);
        let (q, dout, bias) = (plain(QUERIES, 41), plain(QUERIES, 42), random::<f32>(&device, &[KEYS], 43));
        let mask = Mask::Causal(Align::TopLeft);
        let options = Attention { bias: Some((&bias).into()), bias_gradient: true, mask, ..Attention::default() };
        let gradient = |k: &Tensor<T>, v: &Tensor<T>| {
            let saved = forward(&q, k, v, &options).unwrap();
            numbers(&backward(&q, k, v, &saved, &dout, &options).unwrap().dbias.unwrap())
        };
        let got = gradient(&with(plain(KEYS, 44)), &with(plain(KEYS, 45)));
        assert!(got.iter().all(|x| x.is_finite()) && got[QUERIES..].iter().all(|x| *x == 0.0), "{got:?}");
        assert_eq!(got, gradient(&plain(KEYS, 44), &plain(KEYS, 45)));
        assert_no_findings(&"infinite keys that nobody sees");
    }
    of::<f32>();
    of::<f16>();
}
