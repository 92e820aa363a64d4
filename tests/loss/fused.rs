//! Cross-entropy together with its gradient: the very bits of the two calls one after the other, whatever lies where.

use std::fmt::Display;

use sumexp::{
    CrossEntropy, CrossEntropyInto, CrossEntropyOutput, CrossEntropySaved, Device, Dim, Error, Probabilities,
    Reduction, Targets, Tensor, View, bf16, cross_entropy, cross_entropy_backward, cross_entropy_gradient,
    cross_entropy_gradient_into, cross_entropy_in_place, cross_entropy_with_gradient, cross_entropy_with_gradient_into,
    f16,
};

use crate::common::arrange::Arrangement::{EveryOther, Offset, Padded, Repeated, Reversed};
use crate::common::arrange::Operand;
use crate::common::cases::{Case, Fill};
use crate::common::compare::Format;
use crate::common::device::{assert_no_findings, devices, soft};
use crate::common::gpu::device as gpu;
use crate::common::guard::Guarded;
use crate::common::random::Random;

/// Everything that a call gives, as bits.
#[derive(PartialEq)]
struct Bits {
    /// With them, entropy, argmax and rank of every row.
    statistics: Vec<i64>,
    loss: Vec<u32>,
    lse: Vec<u32>,
    count: Vec<i64>,
    saved: Vec<u32>,
    dlogits: Vec<u32>,
}

fn bits<T: Format>(output: &CrossEntropyOutput, dlogits: &[T]) -> Bits {
    // Any NaN is as good as another.
    let of = |values: Vec<f32>| values.into_iter().map(|v| if v.is_nan() { f32::NAN } else { v }.to_bits()).collect();
    let statistics = output.statistics.iter().flat_map(|of_rows| {
        let entropies = of_rows.entropy.to_vec().unwrap().into_iter();
        let entropies = entropies.map(|v| i64::from(if v.is_nan() { f32::NAN } else { v }.to_bits()));
        let correct = of_rows.correct.to_vec().unwrap().into_iter().map(i64::from);
        let integers = [of_rows.argmax.to_vec().unwrap(), of_rows.rank.to_vec().unwrap()];
        entropies.chain(correct).chain(integers.into_iter().flatten()).collect::<Vec<i64>>()
    });
    Bits {
        statistics: statistics.collect(),
        loss: of(output.loss.to_vec().unwrap()),
        lse: of(output.lse.to_vec().unwrap()),
        count: output.count.to_vec().unwrap(),
        saved: of(output.saved.view().to_vec().unwrap()),
        dlogits: of(dlogits.iter().map(|v| v.to_f64() as f32).collect()),
    }
}

#[track_caller]
fn same(case: &dyn Display, what: &str, got: &Bits, want: &Bits) {
    assert_eq!(got.loss, want.loss, "{case}: loss {what}");
    assert_eq!(got.statistics, want.statistics, "{case}: statistics {what}");
    assert_eq!(got.lse, want.lse, "{case}: lse {what}");
    assert_eq!(got.count, want.count, "{case}: count {what}");
    assert!(got.saved == want.saved, "{case}: saved state {what}");
    let differs = got.dlogits.iter().zip(&want.dlogits).position(|(got, want)| got != want);
    assert_eq!(differs, None, "{case}: first gradient that differs {what}");
}

/// Targets: winners, others, ignored ones, and where they may be, bad ones.
fn targets(case: &Case, bad: bool) -> Vec<i64> {
    let mut random = Random::new(case.seed ^ 0x5e);
    let mut target = || match random.below(8) {
        0 => -100,
        1 if bad => case.len() as i64 + 3,
        _ => random.below(case.len()) as i64,
    };
    (0..case.rows()).map(|_| target()).collect()
}

/// All forms of the call against the two calls, on one device.
#[track_caller]
fn check_on<T: Format>(device: &Device, case: &Case, options: &CrossEntropy, with_upstream: bool) {
    let sizes: Vec<usize> = case.dims.iter().enumerate().filter(|(d, _)| *d != case.dim).map(|(_, n)| *n).collect();
    let to = Tensor::from_slice(device, &sizes, &targets(case, !device.is_cpu())).unwrap();
    check_targets::<T>(device, case, &sizes, (&to).into(), options, with_upstream);
}

/// The same with targets that are probabilities: some of them 0, or of another type than the logits.
#[track_caller]
fn check_probabilities<T: Format>(case: &Case, options: &CrossEntropy, with_upstream: bool) {
    let mut random = Random::new(case.seed ^ 0x77);
    let shares: Vec<f64> =
        (0..case.dims.iter().product()).map(|_| if random.one_in(3) { 0.0 } else { random.normal().abs() }).collect();
    let sizes: Vec<usize> = case.dims.iter().enumerate().filter(|(d, _)| *d != case.dim).map(|(_, n)| *n).collect();
    for device in devices() {
        fn tensor<P: Format>(device: &Device, case: &Case, shares: &[f64]) -> Probabilities<P> {
            let shares: Vec<P> = shares.iter().map(|p| P::from_f64(*p)).collect();
            Probabilities::from_tensor(Tensor::from_slice(device, &case.dims, &shares).unwrap())
        }
        let own = tensor::<T>(&device, case, &shares);
        check_targets::<T>(&device, case, &sizes, (&own).into(), options, with_upstream);
        let other = tensor::<f32>(&device, case, &shares);
        check_targets::<T>(&device, case, &sizes, (&other).into(), options, with_upstream);
    }
}

#[track_caller]
fn check_targets<T: Format>(
    device: &Device,
    case: &Case,
    sizes: &[usize],
    to: Targets<'_>,
    options: &CrossEntropy,
    with_upstream: bool,
) {
    let values = case.logits::<T>();
    let x = Operand::new(device, case.input, &case.dims, &values, T::from_f64(f64::NAN));
    let dim = Dim::front(case.dim);
    let apart = matches!(options.reduction, Reduction::None);
    let shape: &[usize] = if apart { sizes } else { &[] };
    let upstream = Tensor::from_slice(device, &[1], &[if with_upstream { 0.75f32 } else { 1.0 }]).unwrap();
    let upstream = if apart { upstream.view().expand(shape).unwrap() } else { upstream.view().reshape(&[]).unwrap() };
    let given = with_upstream.then_some(upstream);

    let output = cross_entropy(x.view(), dim, to, options).unwrap();
    let dlogits = cross_entropy_backward(x.view(), dim, to, &output.saved, upstream, options).unwrap();
    let _ = device.check();
    let want = bits(&output, &dlogits.to_vec().unwrap());

    let (output, dlogits) = cross_entropy_with_gradient(x.view(), dim, to, given, options).unwrap();
    let _ = device.check();
    same(case, "of both in one", &bits(&output, &dlogits.to_vec().unwrap()), &want);

    let contiguous = Tensor::from_slice(device, &case.dims, &values).unwrap();
    let (output, dlogits) = cross_entropy_in_place(contiguous, dim, to, given, options).unwrap();
    let _ = device.check();
    same(case, "in place", &bits(&output, &dlogits.to_vec().unwrap()), &want);

    let mut guarded = Guarded::new(device, &case.dims, 1, T::from_f64(7.0));
    cross_entropy_gradient_into(x.view(), dim, to, upstream, options, guarded.view_mut()).unwrap();
    let _ = device.check();
    assert!(bits(&output, &guarded.read(case)).dlogits == want.dlogits, "{case}: gradient alone");
    assert_no_findings(case);
}

#[track_caller]
fn check<T: Format>(case: &Case, options: &CrossEntropy, with_upstream: bool) {
    devices().iter().for_each(|device| check_on::<T>(device, case, options, with_upstream));
}

fn all_types(case: &Case, options: &CrossEntropy, with_upstream: bool) {
    check::<f32>(case, options, with_upstream);
    check::<f16>(case, options, with_upstream);
    check::<bf16>(case, options, with_upstream);
}

/// Every rung, and rows of several pieces: of two, of as many as stay on a multiprocessor, of more.
#[test]
fn lengths() {
    for len in [1, 2, 7, 32, 33, 64, 65, 500, 512, 1000, 1025, 4096, 5000, 8192] {
        all_types(&Case::new(&[5, len], Fill::Mixed), &CrossEntropy::default(), true);
    }
    for len in [16_384, 16_385, 40_000] {
        check::<f32>(&Case::new(&[2, len], Fill::Mixed), &CrossEntropy::default(), true);
    }
    check::<bf16>(&Case::new(&[2, 128_256], Fill::Ordinary), &CrossEntropy::default(), false);
    check::<bf16>(&Case::new(&[2, 50_257], Fill::Ordinary), &CrossEntropy::default(), false);
    check::<f32>(&Case::new(&[2, 100_004], Fill::Ordinary), &CrossEntropy::default(), true);
}

#[test]
fn special_rows() {
    for dims in [&[13, 20][..], &[13, 300], &[13, 5000]] {
        all_types(&Case::new(dims, Fill::Special), &CrossEntropy::default(), true);
    }
}

#[test]
fn memory_of_every_form() {
    for input in [Offset(1), Offset(3), Padded(3, 2), EveryOther, Reversed, Repeated(0)] {
        for len in [20, 96, 1030] {
            let case = Case::new(&[4, len], Fill::Ordinary).input(input);
            all_types(&case, &CrossEntropy::default(), true);
        }
    }
    for dim in 0..3 {
        all_types(&Case::new(&[6, 7, 5], Fill::Ordinary).along(dim), &CrossEntropy::default(), true);
    }
}

#[test]
fn options() {
    for device in devices() {
        let weights: Vec<f32> = (0..50).map(|class| [0.0, 1.0, 0.25, 3.0][class % 4]).collect();
        let weights = Tensor::from_slice(&device, &[50], &weights).unwrap();
        let seven = Tensor::from_slice(&device, &[], &[7.0f32]).unwrap();
        for reduction in [Reduction::None, Reduction::Sum, Reduction::Mean, Reduction::MeanOver(seven.view())] {
            for (class_weights, z_loss) in
                [(None, 0.0), (Some(weights.view()), 0.0), (None, 1e-3), (Some(weights.view()), 1e-3)]
            {
                for with_upstream in [false, true] {
                    let options =
                        CrossEntropy { reduction, class_weights, z_loss, temperature: 0.7, ..CrossEntropy::default() };
                    let case = Case::new(&[9, 50], Fill::Ordinary);
                    check_on::<f32>(&device, &case, &options, with_upstream);
                    check_on::<f16>(&device, &case, &options, with_upstream);
                }
            }
        }
    }
}

/// Smoothing, probabilities, statistics, and all of them together: every rung, and rows of several pieces.
#[test]
fn shares_of_every_class_and_statistics() {
    let plain = CrossEntropy::default();
    let smooth = CrossEntropy { label_smoothing: 0.1, temperature: 0.7, ..plain };
    let described = CrossEntropy { statistics: true, ..plain };
    let both = CrossEntropy { statistics: true, z_loss: 1e-3, reduction: Reduction::None, ..smooth };
    for len in [1, 7, 32, 33, 64, 65, 500, 512, 1025, 4096, 4097, 8193] {
        for options in [&smooth, &described, &both] {
            check::<f32>(&Case::new(&[5, len], Fill::Mixed), options, true);
            check::<bf16>(&Case::new(&[5, len], Fill::Special), options, false);
        }
        check_probabilities::<f32>(&Case::new(&[3, len], Fill::Mixed), &plain, true);
        check_probabilities::<f16>(&Case::new(&[3, len], Fill::Ordinary), &smooth, false);
    }
    // More than stays on a multiprocessor.
    check::<bf16>(&Case::new(&[2, 128_256], Fill::Ordinary), &smooth, false);
    check::<f32>(&Case::new(&[1, 70_001], Fill::Ordinary), &both, true);
    check_probabilities::<f16>(&Case::new(&[1, 50_257], Fill::Ordinary), &plain, true);
    for input in [Offset(1), Padded(3, 2), EveryOther, Reversed] {
        check::<f16>(&Case::new(&[4, 96], Fill::Ordinary).input(input), &both, true);
        check_probabilities::<f32>(&Case::new(&[4, 96], Fill::Ordinary).input(input), &smooth, true);
    }
    for dim in 0..3 {
        check::<f32>(&Case::new(&[6, 7, 5], Fill::Ordinary).along(dim), &both, true);
        check_probabilities::<bf16>(&Case::new(&[6, 7, 5], Fill::Ordinary).along(dim), &smooth, true);
    }
}

/// In place means in place: the tensor that comes back is the one that was given.
#[test]
fn the_logits_are_the_gradient() {
    let device = gpu();
    let x = Tensor::<f32>::zeros(&device, &[4, 300]).unwrap();
    let to = Tensor::<i64>::zeros(&device, &[4]).unwrap();
    let address = sumexp::interop::raw_address(&x.view());
    let (_, dlogits) = cross_entropy_in_place(x, Dim::LAST, &to, None, &CrossEntropy::default()).unwrap();
    assert_eq!(sumexp::interop::raw_address(&dlogits.view()), address);
    assert_eq!(dlogits.to_vec().unwrap()[1], 1.0 / 300.0 / 4.0);
    let options = CrossEntropy { label_smoothing: 0.1, statistics: true, ..CrossEntropy::default() };
    let (output, dlogits) = cross_entropy_in_place(dlogits, Dim::LAST, &to, None, &options).unwrap();
    assert_eq!(sumexp::interop::raw_address(&dlogits.view()), address);
    assert_eq!(output.statistics.unwrap().argmax.to_vec().unwrap(), [1; 4]);

    let x = Tensor::<f32>::zeros(&device, &[4, 300]).unwrap();
    let other = x.to_device(&device.with_new_stream().unwrap()).unwrap();
    let refused = cross_entropy_in_place(x, Dim::LAST, &to, None, &CrossEntropy::default());
    assert!(matches!(refused, Err(Error::Shared { .. })), "{refused:?}");
    drop(other);
}

/// A row that fits is read once, and its gradient written once; a longer one is read again in part.
#[test]
fn traffic() {
    let Some(soft) = soft() else { return };
    let device = gpu();
    let smooth = [(512usize, true, "32x4", 1.0), (8192, true, "512x2", 1.0), (98_304, true, "512x2", 1.0)];
    for (len, dense, rung, reads) in [
        (8192usize, false, "256x4", 1.0),
        (32_768, false, "1024x4", 1.0),
        (98_304, false, "1024x4", 1.0),
        (196_608, false, "1024x4", 4.0 / 3.0),
    ]
    .into_iter()
    .chain(smooth)
    {
        let of = if dense { "_dense" } else { "" };
        let moved = || {
            soft.counters(&format!("cross_entropy_fused{of}_bf16_{rung}")).map_or((0, 0), |counters| {
                assert_eq!(counters.shared.wavefronts, counters.shared.minimum, "{len}: bank conflicts");
                (counters.global_loads.bytes, counters.global_stores.bytes)
            })
        };
        let before = moved();
        let x = Tensor::<bf16>::zeros(&device, &[3, len]).unwrap();
        let to = Tensor::<i64>::zeros(&device, &[3]).unwrap();
        let label_smoothing = if dense { 0.1 } else { 0.0 };
        let options = CrossEntropy { label_smoothing, reduction: Reduction::Sum, ..CrossEntropy::default() };
        let (_, dlogits) = cross_entropy_in_place(x, Dim::LAST, &to, None, &options).unwrap();
        device.synchronize().unwrap();
        let (after, rows) = (moved(), (3 * len * 2) as f64);
        let (loads, stores) = ((after.0 - before.0) as f64 / rows, (after.1 - before.1) as f64 / rows);
        // On top come targets and their logits, which every lane asks for, and the numbers of the rows.
        assert!(loads >= reads && loads < reads + 0.35, "{len}: read {loads} times");
        assert!((1.0..1.1).contains(&stores), "{len}: written {stores} times");
        assert_eq!(dlogits.dims(), [3, len]);
    }
}

#[test]
fn errors() {
    for device in devices() {
        let x = Tensor::<f32>::zeros(&device, &[3, 4]).unwrap();
        let to = Tensor::<i64>::zeros(&device, &[3]).unwrap();
        let wrong = Tensor::<f32>::zeros(&device, &[2]).unwrap();
        let options = CrossEntropy::default();
        let call = |upstream: Option<View<f32>>| {
            cross_entropy_with_gradient(&x, Dim::LAST, &to, upstream, &options).map(|_| ())
        };
        assert!(matches!(call(Some(wrong.view())), Err(Error::Shapes { right: "the loss", .. })));
        assert!(matches!(cross_entropy_gradient(&x, Dim::LAST, &to, &wrong, &options), Err(Error::Shapes { .. })));
        let other = if device.is_cpu() { gpu() } else { Device::cpu() };
        let elsewhere = Tensor::<f32>::zeros(&other, &[]).unwrap();
        assert!(matches!(call(Some(elsewhere.view())), Err(Error::DifferentDevices { .. })));
        let mut outputs = (
            Tensor::<f32>::zeros(&device, &[]).unwrap(),
            Tensor::<f32>::zeros(&device, &[3]).unwrap(),
            Tensor::<i64>::zeros(&device, &[]).unwrap(),
            Tensor::<f32>::zeros(&device, &[CrossEntropySaved::elements(3)]).unwrap(),
        );
        let mut dlogits = Tensor::<f32>::zeros(&device, &[4, 3]).unwrap();
        let into = CrossEntropyInto {
            loss: outputs.0.view_mut(),
            lse: outputs.1.view_mut(),
            count: outputs.2.view_mut(),
            saved: outputs.3.view_mut(),
            statistics: None,
        };
        let refused = cross_entropy_with_gradient_into(&x, Dim::LAST, &to, None, &options, into, &mut dlogits);
        assert!(matches!(refused, Err(Error::Shapes { left: "dlogits", .. })), "{refused:?}");
    }
}

/// No rows: a loss of 0, and a gradient without elements.
#[test]
fn no_rows() {
    for device in devices() {
        let x = Tensor::<f16>::zeros(&device, &[0, 5]).unwrap();
        let to = Tensor::<i64>::zeros(&device, &[0]).unwrap();
        let (output, dlogits) = cross_entropy_in_place(x, Dim::LAST, &to, None, &CrossEntropy::default()).unwrap();
        assert_eq!((output.loss.to_vec().unwrap(), output.count.to_vec().unwrap()), (vec![0.0], vec![0]));
        assert_eq!(dlogits.dims(), [0, 5]);
    }
}
