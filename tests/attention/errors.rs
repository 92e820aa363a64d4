//! Bad input of attention: one sentence each that names the operands and both values, on every device, and nothing written.

use crate::common::device::{assert_no_findings, soft};
use crate::devices;
use sumexp::attention::{
    Alibi, Attention, AttentionInto, Bias, Offsets, PackedOffsets, explain, forward, forward_into, forward_packed,
    forward_packed_into, weights, weights_into,
};
use sumexp::mask::Align;
use sumexp::{Device, Dim, Error, Mask, Result, Tensor, View, f16, hide, keep};

fn zeros(device: &Device, dims: &[usize]) -> Tensor<f16> {
    Tensor::zeros(device, dims).unwrap()
}

fn ints(device: &Device, values: &[i32]) -> Tensor<i32> {
    Tensor::from_slice(device, &[values.len()], values).unwrap()
}

#[track_caller]
fn refused<V>(result: Result<V>, text: &str) {
    match result {
        Ok(_) => panic!("accepted instead of: {text}"),
        Err(error) => assert_eq!(error.to_string(), text),
    }
}

/// Refuses operands of these shapes, in the forward operation and in what explains it.
#[track_caller]
fn shapes(q: &[usize], k: &[usize], v: &[usize], text: &str) {
    for device in devices() {
        let (q, k, v) = (zeros(&device, q), zeros(&device, k), zeros(&device, v));
        refused(forward(&q, &k, &v, &Attention::default()), &format!("attention: {text}"));
        refused(explain(&q, &k, &v, &Attention::default()), &format!("attention_explain: {text}"));
    }
}

/// Refuses options for q [2, 4, 5, 8] and k [2, 2, 7, 8].
#[track_caller]
fn options(make: impl for<'a> Fn(&'a World) -> Attention<'a>, text: &str) {
    for device in devices() {
        let world = World::new(&device);
        let (q, k) = (zeros(&device, &[2, 4, 5, 8]), zeros(&device, &[2, 2, 7, 8]));
        refused(forward(&q, &k, &k, &make(&world)), &format!("attention: {text}"));
    }
}

/// What options of a bad call refer to.
struct World {
    bytes: Tensor<u8>,
    three: Tensor<i32>,
    pairs: Tensor<i32>,
    bias: Tensor<f16>,
    slopes: Tensor<f32>,
    elsewhere: Tensor<u8>,
}

impl World {
    fn new(device: &Device) -> Self {
        let other = if device.is_cpu() { crate::device() } else { Device::cpu() };
        Self {
            bytes: Tensor::zeros(device, &[5, 6]).unwrap(),
            three: ints(device, &[1, 2, 3]),
            pairs: Tensor::zeros(device, &[2, 5]).unwrap(),
            bias: zeros(device, &[3, 1, 7]),
            slopes: Tensor::zeros(device, &[3]).unwrap(),
            elsewhere: Tensor::zeros(&other, &[5, 7]).unwrap(),
        }
    }
}

#[test]
fn ranks() {
    let k = &[1, 2, 7, 8];
    let wanted = "must have the dims [batch, heads, queries, head size], but has shape";
    shapes(&[4, 5, 8], k, k, &format!("q {wanted} [4, 5, 8]"));
    let wanted = "must have the dims [batch, heads, keys, head size], but has shape";
    shapes(k, &[1, 1, 2, 7, 8], k, &format!("k {wanted} [1, 1, 2, 7, 8]"));
    shapes(k, k, &[], &format!("v {wanted} []"));
}

#[test]
fn batches() {
    shapes(&[1, 2, 5, 8], &[2, 2, 7, 8], &[2, 2, 7, 8], "batch sizes differ: 1 in q, 2 in k");
    shapes(&[2, 2, 5, 8], &[2, 2, 7, 8], &[3, 2, 7, 8], "batch sizes differ: 2 in k, 3 in v");
}

#[test]
fn heads() {
    let rule = "heads of q must be a multiple of those of k";
    shapes(&[1, 4, 5, 8], &[1, 3, 7, 8], &[1, 3, 7, 8], &format!("{rule}: 4 in q, 3 in k"));
    shapes(&[1, 2, 5, 8], &[1, 4, 7, 8], &[1, 4, 7, 8], &format!("{rule}: 2 in q, 4 in k"));
    shapes(&[1, 2, 5, 8], &[1, 0, 7, 8], &[1, 0, 7, 8], &format!("{rule}: 2 in q, 0 in k"));
    shapes(&[1, 4, 5, 8], &[1, 2, 7, 8], &[1, 4, 7, 8], "heads differ: 2 in k, 4 in v");
}

#[test]
fn lengths() {
    shapes(&[1, 2, 5, 8], &[1, 2, 7, 8], &[1, 2, 6, 8], "lengths differ: 7 in k, 6 in v");
}

#[test]
fn head_sizes() {
    shapes(&[1, 2, 5, 64], &[1, 2, 7, 128], &[1, 2, 7, 64], "head sizes differ: 64 in q, 128 in k");
    let wide = &[1, 1, 2, 257];
    shapes(wide, wide, &[1, 1, 2, 8], "the head size of q is 257, at most 256 is possible");
    shapes(&[1, 1, 2, 8], &[1, 1, 2, 8], wide, "the head size of v is 257, at most 256 is possible");
    let none = &[1, 1, 2, 0];
    shapes(none, none, &[1, 1, 2, 8], "the head size of q is 0, it must be at least 1");
    shapes(&[1, 1, 2, 8], &[1, 1, 2, 8], none, "the head size of v is 0, it must be at least 1");
}

/// Lengths beyond 2^30: of views that repeat one row.
#[test]
fn too_many() {
    for device in devices() {
        let one = zeros(&device, &[1, 1, 1, 8]);
        let (many, most) = ((1 << 30) + 1, "at most 1073741824 is possible");
        let repeated = |dim: usize| {
            let mut dims = [1, 1, 1, 8];
            dims[dim] = many;
            one.view().expand(&dims).unwrap()
        };
        let plain = Attention::default();
        let long = repeated(2);
        refused(forward(long, &one, &one, &plain), &format!("attention: the number of queries is {many}, {most}"));
        refused(forward(&one, long, long, &plain), &format!("attention: the number of keys is {many}, {most}"));
        let of_all = repeated(0);
        let text = format!("attention: the number of batch entries is {many}, {most}");
        refused(forward(of_all, of_all, of_all, &plain), &text);
        refused(forward(repeated(1), &one, &one, &plain), &format!("attention: the number of heads is {many}, {most}"));
    }
}

#[test]
fn rows_with_gaps() {
    for device in devices() {
        let (wide, x) = (zeros(&device, &[1, 1, 8, 3]), zeros(&device, &[1, 1, 3, 8]));
        let across = wide.view().permute(&[0, 1, 3, 2]).unwrap();
        let plain = Attention::default();
        for (name, [q, k, v]) in [
            ("q", [across, x.view(), x.view()]),
            ("k", [x.view(), across, x.view()]),
            ("v", [x.view(), x.view(), across]),
        ] {
            let text = "must be contiguous, but has shape [1, 1, 3, 8] with strides [0, 0, 1, 3]";
            refused(forward(q, k, v, &plain), &format!("attention: the last dim of {name} {text}"));
        }
        let one = zeros(&device, &[1, 1, 1, 1]);
        let repeated = one.view().expand(&[1, 1, 3, 8]).unwrap();
        let text = "must be contiguous, but has shape [1, 1, 3, 8] with strides [0, 0, 0, 0]";
        refused(forward(&x, repeated, &x, &plain), &format!("attention: the last dim of k {text}"));
        // A row of one element has no gaps.
        let narrow = wide.view().slice(Dim::LAST, 1..2).unwrap();
        forward(narrow, narrow, narrow, &plain).unwrap();
    }
    assert_no_findings(&"gaps");
}

#[test]
fn operands_elsewhere() {
    let [host, gpu] = devices();
    let (here, there) = (zeros(&host, &[1, 1, 2, 8]), zeros(&gpu, &[1, 1, 2, 8]));
    let plain = Attention::default();
    let error = forward(&here, &there, &here, &plain).unwrap_err().to_string();
    assert!(error.starts_with("attention: devices differ: q is on cpu, k is on cuda:"), "{error}");
    let error = forward(&here, &here, &there, &plain).unwrap_err().to_string();
    assert!(error.starts_with("attention: devices differ: q is on cpu, v is on cuda:"), "{error}");
    for device in [&host, &gpu] {
        let (world, q) = (World::new(device), zeros(device, &[1, 1, 5, 8]));
        let k = zeros(device, &[1, 1, 7, 8]);
        let mask = keep(&world.elsewhere).into();
        let error = forward(&q, &k, &k, &Attention { mask, ..plain }).unwrap_err();
        assert!(matches!(error, Error::DifferentDevices { right: "the Visible mask", .. }), "{error}");
    }
}

#[test]
fn masks_that_do_not_broadcast() {
    let target = "does not broadcast to [2, 4, 5, 7]";
    let plain = Attention::default;
    options(
        |world| Attention { mask: keep(&world.bytes).into(), ..plain() },
        &format!("the Visible mask of shape [5, 6] {target}"),
    );
    options(
        |world| Attention { mask: hide(&world.bytes).into(), ..plain() },
        &format!("the Visible mask of shape [5, 6] {target}"),
    );
    options(
        |world| Attention { mask: Mask::KeyLengths(world.three.view()), ..plain() },
        "the KeyLengths mask of shape [3] does not broadcast to [2]",
    );
    options(
        |world| Attention { mask: Mask::KeyLengths(world.pairs.view()), ..plain() },
        "the KeyLengths mask of shape [2, 5] does not broadcast to [2]",
    );
}

#[test]
fn segments_of_another_length() {
    fn segments<'a>(q: View<'a, i32>, k: View<'a, i32>) -> Attention<'a> {
        Attention { mask: Mask::Segments { q, k }, ..Attention::default() }
    }
    options(
        |world| segments(world.three.view(), world.pairs.view()),
        "the Segments mask of q of shape [3] does not broadcast to [2, 5]",
    );
    options(
        |world| segments(world.pairs.view(), world.pairs.view()),
        "the Segments mask of k of shape [2, 5] does not broadcast to [2, 7]",
    );
}

#[test]
fn masks_that_occur_twice() {
    for device in devices() {
        let world = World::new(&device);
        let (q, k) = (zeros(&device, &[2, 4, 5, 8]), zeros(&device, &[2, 2, 7, 8]));
        let lengths = ints(&device, &[1, 2]);
        let (of_q, of_k) = (ints(&device, &[0; 5]), ints(&device, &[0; 7]));
        let bytes: Tensor<u8> = Tensor::zeros(&device, &[7]).unwrap();
        for (mask, text) in [
            (Mask::KeyLengths(lengths.view()), "KeyLengths occurs twice"),
            (Mask::Segments { q: of_q.view(), k: of_k.view() }, "Segments occurs twice"),
            (keep(&bytes).into(), "Visible occurs twice; combine the bytes"),
        ] {
            let twice = [Mask::Causal(Align::TopLeft), mask, mask];
            let options = Attention { mask: Mask::All(&twice), ..Attention::default() };
            refused(forward(&q, &k, &k, &options), &format!("attention: All mask: {text}"));
            // Bands are one band together, however many there are.
            let bands = [Mask::Causal(Align::TopLeft), mask, Mask::Causal(Align::BottomRight)];
            let options = Attention { mask: Mask::All(&bands), ..Attention::default() };
            forward(&q, &k, &k, &options).unwrap();
        }
        drop(world);
    }
    assert_no_findings(&"bands");
}

#[test]
fn biases_and_slopes() {
    options(
        |world| Attention { bias: Some((&world.bias).into()), ..Attention::default() },
        "the bias of shape [3, 1, 7] does not broadcast to [2, 4, 5, 7]",
    );
    options(
        |world| {
            let alibi = Some(Alibi { slopes: world.slopes.view(), align: Align::TopLeft });
            Attention { alibi, ..Attention::default() }
        },
        "the ALiBi vector of shape [3] does not broadcast to [2, 4]",
    );
    // Any float type is a bias, whatever that of q; no other type makes one (tests/compile_fail/attention.rs).
    for device in devices() {
        let q = zeros(&device, &[1, 1, 2, 8]);
        let (full, half) = (Tensor::<f32>::zeros(&device, &[2]).unwrap(), zeros(&device, &[2]));
        for bias in [Bias::from(&full), Bias::from(&half)] {
            forward(&q, &q, &q, &Attention { bias: Some(bias), ..Attention::default() }).unwrap();
        }
    }
    assert_no_findings(&"biases");
}

#[test]
fn scales_and_caps() {
    for (scale, text) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        options(
            |_| Attention { scale: Some(scale), ..Attention::default() },
            &format!("scale is {text}, it must be finite"),
        );
    }
    for (cap, text) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (0.0, "0"), (-0.0, "-0"), (-2.5, "-2.5")] {
        options(
            |_| Attention { softcap: Some(cap), ..Attention::default() },
            &format!("softcap is {text}, it must be finite and above 0"),
        );
    }
}

/// Offsets on the host are checked; those on a GPU are held against their tensors by kernels, which never leave them.
#[test]
fn offsets() {
    let text = |which: &str, reason: &str| format!("attention_packed: the offsets of {which}: {reason}");
    let device = Device::cpu();
    let (q, k) = (zeros(&device, &[8, 2, 4]), zeros(&device, &[6, 1, 4]));
    let good = [ints(&device, &[0, 3, 8]), ints(&device, &[0, 6, 6])];
    let plain = Attention::default();
    forward_packed(&q, &k, &k, &good[0], &good[1], &plain).unwrap();
    for (bad, reason) in [
        (&[0, 5, 4, 8][..], "sequence 1 ends at 4, before its begin at 5"),
        (&[1, 3, 8], "the first offset is 1, not 0"),
        (&[-1, 3, 8], "the first offset is -1, not 0"),
        (&[0, -3, 8], "sequence 0 ends at -3, before its begin at 0"),
        (&[0, 3, 9], "the last offset is 9, but there are 8 tokens"),
        (&[0, 3, 7], "the last offset is 7, but there are 8 tokens"),
        (&[], "no offsets: a batch of n sequences has n + 1"),
    ] {
        let bad = ints(&device, bad);
        refused(forward_packed(&q, &k, &k, &bad, &good[1], &plain), &text("q", reason));
    }
    let long = ints(&device, &[0, 3, 7]);
    let reason = "the last offset is 7, but there are 6 tokens";
    refused(forward_packed(&q, &k, &k, &good[0], &long, &plain), &text("k", reason));
    let one = ints(&device, &[0, 6]);
    refused(
        forward_packed(&q, &k, &k, &good[0], &one, &plain),
        "attention_packed: numbers of sequences differ: 2 in the offsets of q, 1 in the offsets of k",
    );
    let wide = Tensor::<i32>::zeros(&device, &[1, 3]).unwrap();
    let rank = "must have the dims [sequences + 1], but has shape [1, 3]";
    refused(forward_packed(&q, &k, &k, &wide, &one, &plain), &format!("attention_packed: the offsets of q {rank}"));
    let apart = ints(&device, &[0, 9, 3, 9, 8, 9]);
    let every_other: View<i32> = apart.view().reshape(&[3, 2]).unwrap().slice(Dim::LAST, 0..1).unwrap();
    refused(
        forward_packed(&q, &k, &k, Offsets::from(every_other.reshape(&[3]).unwrap()), &good[1], &plain),
        "attention_packed: the offsets of q must be contiguous, but has shape [3] with strides [2]",
    );
    refused(
        PackedOffsets::from_offsets(&device, &[0, 3, 2]),
        "PackedOffsets: the offsets: sequence 1 ends at 2, before its begin at 3",
    );
    refused(PackedOffsets::from_offsets(&device, &[2, 3]), "PackedOffsets: the offsets: the first offset is 2, not 0");
    refused(
        PackedOffsets::from_lengths(&device, &[1 << 31]),
        "PackedOffsets: an offset is 2147483648, at most 2147483647 is possible",
    );
}

#[test]
fn packed_shapes() {
    for device in devices() {
        let offsets = PackedOffsets::from_lengths(&device, &[5]).unwrap();
        let (q, plain) = (zeros(&device, &[5, 4, 8]), Attention::default());
        let k = zeros(&device, &[5, 3, 8]);
        refused(
            forward_packed(&q, &k, &k, &offsets, &offsets, &plain),
            "attention_packed: heads of q must be a multiple of those of k: 4 in q, 3 in k",
        );
        let batched = zeros(&device, &[1, 4, 5, 8]);
        refused(
            forward_packed(&batched, &q, &q, &offsets, &offsets, &plain),
            "attention_packed: q must have the dims [tokens, heads, head size], but has shape [1, 4, 5, 8]",
        );
        let lengths = ints(&device, &[1, 2]);
        let options = Attention { mask: Mask::KeyLengths(lengths.view()), ..plain };
        refused(
            forward_packed(&q, &q, &q, &offsets, &offsets, &options),
            "attention_packed: the KeyLengths mask of shape [2] does not broadcast to [1]",
        );
    }
}

/// Where results go: their shapes, strides and places.
#[test]
fn results() {
    for device in devices() {
        let (q, k) = (zeros(&device, &[1, 2, 5, 8]), zeros(&device, &[1, 2, 7, 8]));
        let (plain, v) = (Attention::default(), zeros(&device, &[1, 2, 7, 6]));
        let mut out = zeros(&device, &[1, 2, 5, 8]);
        let into = AttentionInto { out: out.view_mut(), lse: None };
        refused(
            forward_into(&q, &k, &v, &plain, into),
            "attention: shapes differ: [1, 2, 5, 8] in out, [1, 2, 5, 6] in the queries and values",
        );
        let mut across = zeros(&device, &[1, 2, 6, 5]);
        let into = AttentionInto { out: across.view_mut().permute(&[0, 1, 3, 2]).unwrap(), lse: None };
        refused(
            forward_into(&q, &k, &v, &plain, into),
            "attention: the last dim of out must be contiguous, but has shape [1, 2, 5, 6] with strides [0, 30, 1, 5]",
        );
        let mut lse = Tensor::<f32>::zeros(&device, &[1, 2, 6]).unwrap();
        let mut out = zeros(&device, &[1, 2, 5, 6]);
        let into = AttentionInto { out: out.view_mut(), lse: Some(lse.view_mut()) };
        refused(
            forward_into(&q, &k, &v, &plain, into),
            "attention: shapes differ: [1, 2, 6] in lse, [1, 2, 5] in the queries",
        );
        let offsets = (PackedOffsets::from_lengths(&device, &[5]).unwrap(), zeros(&device, &[5, 2, 8]));
        let into = AttentionInto { out: out.view_mut(), lse: None };
        refused(
            forward_packed_into(&offsets.1, &offsets.1, &offsets.1, &offsets.0, &offsets.0, &plain, into),
            "attention_packed: shapes differ: [1, 2, 5, 6] in out, [5, 2, 8] in the queries and values",
        );
        // Nothing was written by any of them.
        assert!(out.to_vec().unwrap().iter().all(|x| x.to_bits() == 0));
        let output = forward(&q, &k, &k, &plain).unwrap();
        let mut narrow = zeros(&device, &[1, 2, 5, 6]);
        refused(
            weights_into(&q, &k, output.lse.view_values(), 0..5, &plain, narrow.view_mut()),
            "attention_weights: shapes differ: [1, 2, 5, 6] in the weights, [1, 2, 5, 7] in the rows and keys",
        );
    }
    assert_no_findings(&"results");
}

/// Without queries or without keys there is a result, and nothing that is not there is asked for.
#[test]
fn nothing_is_no_mistake() {
    for device in devices() {
        let plain = Attention::default();
        let q = zeros(&device, &[2, 4, 5, 8]);
        let none = zeros(&device, &[2, 2, 0, 8]);
        let output = forward(&q, &none, &none, &plain).unwrap();
        assert!(output.out.to_vec().unwrap().iter().all(|x| x.to_bits() == 0));
        assert!(output.lse.to_vec().unwrap().iter().all(|x| *x == f32::NEG_INFINITY));
        assert_eq!(weights(&q, &none, &output.lse, 0..5, &plain).unwrap().dims(), [2, 4, 5, 0]);
        let launches = soft().map(|soft| soft.take_launches().len());
        for (queries, keys) in
            [([2, 4, 0, 8], [2, 2, 7, 8]), ([0, 4, 5, 8], [0, 2, 7, 8]), ([2, 0, 5, 8], [2, 0, 7, 8])]
        {
            let (q, k) = (zeros(&device, &queries), zeros(&device, &keys));
            let Ok(output) = forward(&q, &k, &k, &plain) else {
                panic!("{queries:?} {keys:?}: {}", forward(&q, &k, &k, &plain).unwrap_err());
            };
            assert!(output.out.to_vec().unwrap().is_empty() && output.lse.to_vec().unwrap().is_empty());
            assert_eq!(output.out.dims(), queries);
        }
        let offsets = PackedOffsets::from_lengths(&device, &[]).unwrap();
        let nobody = zeros(&device, &[0, 4, 8]);
        assert!(
            forward_packed(&nobody, &nobody, &nobody, &offsets, &offsets, &plain)
                .unwrap()
                .out
                .to_vec()
                .unwrap()
                .is_empty()
        );
        assert!(launches.is_none() || soft().is_some_and(|soft| soft.take_launches().is_empty()));
    }
    assert_no_findings(&"nothing");
}
