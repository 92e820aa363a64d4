//! sigmoid and log-sigmoid on every device: values, memory, errors, what is counted.

mod common;

use common::arrange::Arrangement::{self, EveryOther, Offset, Padded, Repeated, Reversed};
use common::arrange::Operand;
use common::compare::{Exact, Format, assert_right, faults};
use common::device::{assert_no_findings, devices, soft};
use common::gpu::device as gpu;
use common::guard::Guarded;
use common::random::Random;
use common::sparse::Far;
use sumexp::reference::sigmoid as reference;
use sumexp::{
    Device, Dim, Error, Tensor, bf16, f16, log_sigmoid, log_sigmoid_backward, log_sigmoid_backward_into,
    log_sigmoid_into, sigmoid, sigmoid_backward, sigmoid_backward_into, sigmoid_into,
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    Sigmoid,
    LogSigmoid,
    SigmoidBackward,
    LogSigmoidBackward,
}

const OPS: [Op; 4] = [Op::Sigmoid, Op::LogSigmoid, Op::SigmoidBackward, Op::LogSigmoidBackward];

impl Op {
    fn is_backward(self) -> bool {
        matches!(self, Op::SigmoidBackward | Op::LogSigmoidBackward)
    }

    fn exact(self, x: f64, dy: f64) -> f64 {
        match self {
            Op::Sigmoid => reference::sigmoid(x),
            Op::LogSigmoid => reference::log_sigmoid(x),
            Op::SigmoidBackward => reference::sigmoid_slope(x) * dy,
            Op::LogSigmoidBackward => reference::log_sigmoid_slope(x) * dy,
        }
    }

    fn want<T: Format>(self, x: &[T], dy: &[T]) -> Vec<Exact> {
        Exact::plain(x.iter().zip(dy).map(|(x, dy)| self.exact(x.to_f64(), dy.to_f64())))
    }
}

/// Where operands and result lie.
struct Place<'a> {
    dims: &'a [usize],
    input: Arrangement,
    output: usize,
}

impl Place<'_> {
    fn contiguous(dims: &[usize]) -> Place<'_> {
        Place { dims, input: Offset(0), output: 0 }
    }
}

/// Runs an operation between guards. Around the operands lies NaN.
fn run<T: Format>(op: Op, device: &Device, place: &Place, x: &[T], dy: &[T]) -> Vec<T> {
    let nan = T::from_f64(f64::NAN);
    let x = Operand::new(device, place.input, place.dims, x, nan);
    let dy = Operand::new(device, place.input, place.dims, dy, nan);
    let mut y = Guarded::new(device, place.dims, place.output, T::from_f64(-7.25));
    let result = match op {
        Op::Sigmoid => sigmoid_into(x.view(), y.view_mut()),
        Op::LogSigmoid => log_sigmoid_into(x.view(), y.view_mut()),
        Op::SigmoidBackward => sigmoid_backward_into(x.view(), dy.view(), y.view_mut()),
        Op::LogSigmoidBackward => log_sigmoid_backward_into(x.view(), dy.view(), y.view_mut()),
    };
    let case = format!("{op:?} {} {:?} {} on {device:?}", T::DTYPE, place.dims, place.input);
    result.unwrap_or_else(|error| panic!("{case}: {error}"));
    let y = y.read(&case);
    assert_no_findings(&case);
    y
}

fn check<T: Format>(place: &Place, x: &[T], dy: &[T]) {
    for op in OPS {
        let tolerance = if op.is_backward() { T::BACKWARD } else { T::FORWARD };
        for device in devices() {
            let got = run(op, &device, place, x, dy);
            let case = format!("{op:?} {} {:?} {} on {device:?}", T::DTYPE, place.dims, place.input);
            assert_right(&case, &got, &op.want(x, dy), tolerance);
        }
    }
}

/// Normal numbers of several sizes; where a dim is repeated, the same along it.
fn random<T: Format>(place: &Place, seed: u64) -> Vec<T> {
    let mut random = Random::new(seed);
    let elements: usize = place.dims.iter().product();
    let mut number = || T::from_f64(random.normal() * [0.1, 1.0, 8.0, 30.0][random.below(4)]);
    let values: Vec<T> = (0..elements).map(|_| number()).collect();
    let Repeated(dim) = place.input else { return values };
    let inner: usize = place.dims[dim + 1..].iter().product();
    let len = place.dims[dim];
    (0..elements).map(|i| values[i / (inner * len) * (inner * len) + i % inner]).collect()
}

fn check_all_types(place: &Place) {
    check::<f32>(place, &random(place, 1), &random(place, 2));
    check::<f16>(place, &random(place, 3), &random(place, 4));
    check::<bf16>(place, &random(place, 5), &random(place, 6));
}

/// Every 16-bit argument there is, and as many gradients.
#[test]
fn every_argument_of_16_bits() {
    fn all<T: Format>(of_bits: fn(u16) -> T) {
        let x: Vec<T> = (0..=u16::MAX).map(of_bits).collect();
        // Finite gradients: 0 times infinity would only be NaN against NaN.
        let mut random = Random::new(7);
        let dy: Vec<T> = x.iter().map(|_| T::from_f64(random.normal())).collect();
        check(&Place::contiguous(&[256, 256]), &x, &dy);
    }
    all(f16::from_bits);
    all(bf16::from_bits);
}

/// f32 arguments of every exponent and sign, NaN and infinities included.
#[test]
fn f32_arguments_of_every_size() {
    let x: Vec<f32> = (0..=u32::MAX).step_by(65_521).map(f32::from_bits).collect();
    let mut random = Random::new(8);
    let dy: Vec<f32> = x.iter().map(|_| random.normal() as f32).collect();
    check(&Place::contiguous(&[x.len()]), &x, &dy);
    // Where results change most, with gradients that bring back what is below the normal numbers.
    let x: Vec<f32> = (0..1 << 16).map(|_| random.between(-103.0, 103.0) as f32).collect();
    let dy: Vec<f32> = x.iter().map(|_| (random.normal() * 10f64.powi(random.below(60) as i32 - 30)) as f32).collect();
    check(&Place::contiguous(&[x.len()]), &x, &dy);
}

#[test]
fn limits() {
    for device in devices() {
        let x = Tensor::from_slice(&device, &[4], &[f32::NEG_INFINITY, f32::INFINITY, -0.0, 1e30]).unwrap();
        let dy = Tensor::from_slice(&device, &[4], &[2.0f32; 4]).unwrap();
        assert_eq!(sigmoid(&x).unwrap().to_vec().unwrap(), [0.0, 1.0, 0.5, 1.0]);
        let log = log_sigmoid(&x).unwrap().to_vec().unwrap();
        assert_eq!(log, [f32::NEG_INFINITY, 0.0, -std::f32::consts::LN_2, 0.0]);
        assert_eq!(sigmoid_backward(&x, &dy).unwrap().to_vec().unwrap(), [0.0, 0.0, 0.5, 0.0]);
        assert_eq!(log_sigmoid_backward(&x, &dy).unwrap().to_vec().unwrap(), [2.0, 0.0, 1.0, 0.0]);
    }
}

/// Every length that ends in another part of a unit, at every alignment of operands and results.
#[test]
fn lengths_and_alignment() {
    for len in (1..=20).chain([255, 2047, 2048, 2049, 5000]) {
        check_all_types(&Place::contiguous(&[len]));
    }
    for offset in 0..9 {
        check_all_types(&Place { dims: &[3, 40], input: Offset(offset), output: offset * 5 % 16 });
        check_all_types(&Place { dims: &[77], input: Offset(offset), output: (offset + 1) % 9 });
    }
}

#[test]
fn strides() {
    for input in [Reversed, Padded(1, 6), Padded(8, 8), EveryOther] {
        for dims in [vec![4, 3, 24], vec![2, 3, 5, 7], vec![130], vec![2; 8]] {
            // A part of every other element would need a ninth dim.
            if dims.len() < 8 || input != EveryOther {
                check_all_types(&Place { dims: &dims, input, output: 0 });
            }
        }
    }
    for dim in 0..3 {
        check_all_types(&Place { dims: &[3, 5, 16], input: Repeated(dim), output: 0 });
    }
    check_all_types(&Place { dims: &[], input: Offset(1), output: 0 });
}

/// The gradient of a sum: one number for all elements.
#[test]
fn a_gradient_that_is_repeated() {
    for device in devices() {
        let x = Tensor::from_slice(&device, &[2, 3], &[0.0f32, 1.0, -1.0, 5.0, -5.0, 0.5]).unwrap();
        let one = Tensor::from_slice(&device, &[], &[1.0f32]).unwrap();
        let repeated = one.view().expand(&[2, 3]).unwrap();
        let ones = Tensor::from_slice(&device, &[2, 3], &[1.0f32; 6]).unwrap();
        let got = sigmoid_backward(&x, repeated).unwrap().to_vec().unwrap();
        assert_eq!(got, sigmoid_backward(&x, &ones).unwrap().to_vec().unwrap());
        assert_eq!(got[0], 0.25);
    }
}

/// Strides and alignment do not change a bit.
#[test]
fn memory_does_not_matter() {
    let dims = [5, 48];
    let x: Vec<bf16> = random(&Place::contiguous(&dims), 11);
    let dy: Vec<bf16> = random(&Place::contiguous(&dims), 12);
    for op in OPS {
        let want = run(op, &gpu(), &Place::contiguous(&dims), &x, &dy);
        for input in [Offset(1), Offset(8), Reversed, Padded(3, 0), EveryOther] {
            assert_eq!(run(op, &gpu(), &Place { dims: &dims, input, output: 3 }, &x, &dy), want, "{op:?} {input}");
        }
    }
}

#[test]
fn sums_to_one_and_is_the_exponential_of_its_logarithm() {
    for device in devices() {
        let values: Vec<f32> = (-200..=200).map(|i| i as f32 / 8.0).collect();
        let x = Tensor::from_slice(&device, &[401], &values).unwrap();
        let p = sigmoid(&x).unwrap().to_vec().unwrap();
        let log = log_sigmoid(&x).unwrap().to_vec().unwrap();
        for i in 0..401 {
            assert!((p[i] + p[400 - i] - 1.0).abs() <= f32::EPSILON, "at {}", values[i]);
            assert!((log[i].exp() / p[i] - 1.0).abs() <= 4e-6, "at {}", values[i]);
        }
    }
}

/// Answers of a broken kernel do not pass for right.
#[test]
fn lazy_answers_are_rejected() {
    let place = Place::contiguous(&[40]);
    let (x, dy): (Vec<f32>, Vec<f32>) = (random(&place, 1), random(&place, 2));
    for op in OPS {
        let want = op.want(&x, &dy);
        let mut late = run(op, &Device::cpu(), &place, &x, &dy);
        late.rotate_right(1);
        for (name, lazy) in [("zeros", vec![0.0; 40]), ("x", x.clone()), ("dy", dy.clone()), ("one late", late)] {
            assert!(faults(&lazy, &want, f32::BACKWARD).len() > 10, "{op:?}: {name} passes for right");
        }
        for other in OPS.into_iter().filter(|other| *other != op) {
            let wrong = run(other, &Device::cpu(), &place, &x, &dy);
            assert!(faults(&wrong, &want, f32::BACKWARD).len() > 10, "{other:?} passes for {op:?}");
        }
    }
}

#[test]
fn empty_tensors() {
    for device in devices() {
        let x = Tensor::<f32>::zeros(&device, &[3, 0]).unwrap();
        assert!(sigmoid(&x).unwrap().to_vec().unwrap().is_empty());
        assert_eq!(log_sigmoid_backward(&x, &x).unwrap().dims(), [3, 0]);
    }
}

#[test]
fn bad_input_is_refused_before_anything_is_launched() {
    let launches = || soft().map_or(0, |soft| soft.calls("cuLaunchKernel"));
    for device in devices() {
        let zeros = |dims: &[usize]| Tensor::<f32>::zeros(&device, dims).unwrap();
        let (x, mut y, before) = (zeros(&[2, 3]), zeros(&[3, 2]), launches());
        let text = |result: Result<(), Error>| result.expect_err("bad input was accepted").to_string();
        let shapes = "sigmoid: shapes differ: [3, 2] in the output, [2, 3] in x";
        assert_eq!(text(sigmoid_into(&x, &mut y)), shapes);
        let shapes = "sigmoid_backward: shapes differ: [2, 3] in x, [3, 2] in dy";
        assert_eq!(text(sigmoid_backward(&x, &y).map(|_| ())), shapes);
        let part = y.view_mut().slice(Dim::LAST, 0..1).unwrap();
        let result = log_sigmoid_into(x.view().slice(Dim::front(0), 0..1).unwrap().reshape(&[3, 1]).unwrap(), part);
        assert!(matches!(result, Err(Error::NotContiguous { op: "log_sigmoid", .. })), "{result:?}");
        let elsewhere = Tensor::<f32>::zeros(&Device::cpu(), &[2, 3]).unwrap();
        if !device.is_cpu() {
            let result = log_sigmoid_backward(&x, &elsewhere);
            assert!(matches!(result, Err(Error::DifferentDevices { .. })), "{result:?}");
            let mut elsewhere = elsewhere;
            let result = sigmoid_into(&x, &mut elsewhere);
            assert!(matches!(result, Err(Error::DifferentDevices { .. })), "{result:?}");
        }
        assert_eq!(launches(), before);
    }
}

/// Whole sectors, each element once.
#[test]
fn counters() {
    fn of<T: Format>(kernel: &str) {
        let Some(soft) = soft() else { return };
        let (device, elements) = (gpu(), 8192);
        let place = Place::contiguous(&[64, 128]);
        let x = Tensor::from_slice(&device, place.dims, &random::<T>(&place, 1)).unwrap();
        for backward in [false, true] {
            let result = if backward { sigmoid_backward(&x, &x) } else { log_sigmoid(&x) };
            result.unwrap();
            device.synchronize().unwrap();
            let counters = soft.counters(kernel).expect("it was just launched");
            let bytes = (elements * size_of::<T>()) as u64;
            assert_eq!(counters.global_loads.bytes, bytes * if backward { 2 } else { 1 });
            assert_eq!(counters.global_stores.bytes, bytes);
            assert_eq!(counters.global_loads.sectors, counters.global_loads.minimum);
            assert_eq!(counters.global_stores.sectors, counters.global_stores.minimum);
            assert_eq!(counters.local_bytes, 0);
            soft.reset_counters();
        }
    }
    of::<f32>("sigmoid_f32");
    of::<f16>("sigmoid_f16");
    of::<bf16>("sigmoid_bf16");
}

/// Operands beyond 2^32 elements give the bits of operands side by side.
#[test]
fn operands_far_apart() {
    let Some(soft) = soft() else { return };
    let (device, dims) = (gpu(), [3, 40]);
    let (x, dy) = (random::<f16>(&Place::contiguous(&dims), 1), random::<f16>(&Place::contiguous(&dims), 2));
    let (far_x, far_dy) = (Far::new(&soft, &device, &dims, &x), Far::new(&soft, &device, &dims, &dy));
    for op in [Op::SigmoidBackward, Op::LogSigmoidBackward] {
        let got = match op {
            Op::SigmoidBackward => sigmoid_backward(far_x.view(), far_dy.view()),
            _ => log_sigmoid_backward(far_x.view(), far_dy.view()),
        };
        let want = run(op, &device, &Place::contiguous(&dims), &x, &dy);
        assert_eq!(got.and_then(|dx| dx.to_vec()).unwrap(), want, "{op:?}");
    }
    assert_no_findings(&"operands far apart");
}

/// Offsets past 2^32 elements, and more units than a grid has threads: block 0 has the first units and, 32 rounds later, the last.
#[test]
fn past_every_limit() {
    let Some(soft) = soft() else { return };
    let device = gpu();
    let (rows, len) = (4_206_629, 1021);
    let values: Vec<f16> = (0..len).map(|i| f16::from_f32((i as f32 - 500.0) / 50.0)).collect();
    let one = Tensor::from_slice(&device, &[1, len], &values).unwrap();
    let alone = sigmoid(&one).unwrap().to_vec().unwrap();
    let repeated = one.view().expand(&[rows, len]).unwrap();
    soft.only_ctas(Some(&[0]));
    let y = sigmoid(repeated).unwrap();
    device.synchronize().unwrap();
    soft.only_ctas(None);
    let elements = rows * len;
    assert!(elements > 1 << 32 && elements - (1 << 32) < 2048, "the last elements are those of block 0");
    let flat = y.reshape(&[elements]).unwrap();
    for range in [0..2048, 1 << 32..elements] {
        let got = flat.view().slice(Dim::LAST, range.clone()).unwrap().to_vec().unwrap();
        let want: Vec<f16> = range.clone().map(|i| alone[i % len]).collect();
        assert_eq!(got, want, "{range:?}");
    }
    assert_no_findings(&"a large tensor");
}
