//! Binary cross-entropy: values against the reference, weights, memory, bits, what is counted.

use std::fmt;

use sumexp::reference::Sum;
use sumexp::reference::binary_cross_entropy::Event;
use sumexp::{
    BinaryCrossEntropy, CrossEntropy, Device, Dim, Reduction, Tensor, bf16, binary_cross_entropy_with_logits as bce,
    binary_cross_entropy_with_logits_backward as bce_backward,
    binary_cross_entropy_with_logits_backward_into as bce_backward_into,
    binary_cross_entropy_with_logits_into as bce_into, cross_entropy, f16,
};

use crate::common::arrange::Arrangement::{self, EveryOther, Offset, Padded, Repeated, Reversed};
use crate::common::arrange::Operand;
use crate::common::compare::{Exact, Format, Tolerance, assert_right, assert_same_bits, faults};
use crate::common::device::{assert_no_findings, devices, soft};
use crate::common::gpu::device as gpu;
use crate::common::guard::Guarded;
use crate::common::random::Random;

/// One batch. Weights have the shape given here, which broadcasts to that of the logits.
#[derive(Clone, Debug)]
struct Batch {
    dims: Vec<usize>,
    input: Arrangement,
    output: usize,
    reduction: Reduction<'static>,
    weight: Option<Vec<usize>>,
    pos_weight: Option<Vec<usize>>,
    /// Whether targets are only 0 and 1.
    hard: bool,
    seed: u64,
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "binary cross-entropy {self:?}")
    }
}

impl Batch {
    fn new(dims: &[usize]) -> Batch {
        let dims = dims.to_vec();
        let seed = dims.iter().fold(5, |seed, len| seed * 31 + *len as u64);
        let (input, reduction) = (Offset(0), Reduction::None);
        Batch { dims, input, output: 0, reduction, weight: None, pos_weight: None, hard: true, seed }
    }

    fn elements(&self) -> usize {
        self.dims.iter().product()
    }

    /// Values that are the same along a dim that is repeated in memory.
    fn values<T: Format>(&self, salt: u64, mut draw: impl FnMut(&mut Random) -> f64) -> Vec<T> {
        let mut random = Random::new(self.seed ^ salt);
        let values: Vec<T> = (0..self.elements()).map(|_| T::from_f64(draw(&mut random))).collect();
        let Repeated(dim) = self.input else { return values };
        let inner: usize = self.dims[dim + 1..].iter().product();
        let len = self.dims[dim];
        (0..values.len()).map(|i| values[i / (inner * len) * (inner * len) + i % inner]).collect()
    }

    fn logits<T: Format>(&self) -> Vec<T> {
        self.values(1, |random| random.normal() * [0.1, 1.0, 10.0, 30.0][random.below(4)])
    }

    fn targets<T: Format>(&self) -> Vec<T> {
        let hard = self.hard;
        self.values(
            2,
            |random| if hard { random.below(2) as f64 } else { [0.0, 0.25, random.unit(), 1.0][random.below(4)] },
        )
    }

    fn upstream(&self) -> Vec<f32> {
        let mut random = Random::new(self.seed ^ 3);
        let many = if matches!(self.reduction, Reduction::None) { self.elements() } else { 1 };
        (0..many).map(|_| random.normal() as f32).collect()
    }

    /// A weight of its own shape: a quarter of them 0.
    fn weights(&self, shape: &Option<Vec<usize>>, salt: u64) -> Option<Vec<f32>> {
        let mut random = Random::new(self.seed ^ salt);
        let draw = |_| if random.one_in(4) { 0.0 } else { random.between(0.1, 20.0) as f32 };
        shape.as_ref().map(|shape| (0..shape.iter().product()).map(draw).collect())
    }

    /// The weight of every element.
    fn spread(&self, shape: &Option<Vec<usize>>, salt: u64) -> Vec<f64> {
        let Some(weights) = self.weights(shape, salt) else { return vec![1.0; self.elements()] };
        let (shape, rank) = (shape.as_ref().unwrap(), self.dims.len());
        let place = |element: usize| {
            let (mut rest, mut place, mut stride) = (element, 0, 1);
            for k in (0..rank).rev() {
                let index = rest % self.dims[k];
                rest /= self.dims[k];
                if k + shape.len() >= rank {
                    let len = shape[k + shape.len() - rank];
                    place += index % len * stride;
                    stride *= len;
                }
            }
            place
        };
        (0..self.elements()).map(|element| f64::from(weights[place(element)])).collect()
    }

    fn events<T: Format>(&self) -> Vec<(f64, Event)> {
        let weights = self.spread(&self.weight, 11).into_iter().zip(self.spread(&self.pos_weight, 12));
        let both = self.logits::<T>().into_iter().zip(self.targets::<T>());
        both.zip(weights)
            .map(|((x, t), (weight, pos_weight))| (x.to_f64(), Event { target: t.to_f64(), weight, pos_weight }))
            .collect()
    }

    fn want_loss<T: Format>(&self) -> Vec<Exact> {
        let losses: Vec<f64> = self.events::<T>().into_iter().map(|(x, event)| event.loss(x)).collect();
        let sum = Sum::of(losses.iter().copied()).value();
        Exact::plain(match self.reduction {
            Reduction::None => losses,
            Reduction::Sum => vec![sum],
            Reduction::Mean => vec![sum / self.elements().max(1) as f64],
            Reduction::MeanOver(divisor) => vec![sum / f64::from(divisor.to_vec().expect("one number")[0])],
        })
    }

    fn want_gradient<T: Format>(&self) -> Vec<Exact> {
        let upstream = self.upstream();
        let scale = if matches!(self.reduction, Reduction::Mean) { 1.0 / self.elements() as f64 } else { 1.0 };
        let gradient = |(i, (x, event)): (usize, (f64, Event))| {
            let (up, down) = event.slopes(x, f64::from(upstream[i % upstream.len()]) * scale);
            // The comparator grants 2 units in the last place of f32 of the term: 8 where both are there.
            let term = if up == 0.0 || down == 0.0 { 0.0 } else { up.abs().max(down.abs()) };
            Exact { value: up - down, term: term * 4.0 }
        };
        self.events::<T>().into_iter().enumerate().map(gradient).collect()
    }
}

/// Loss and gradient of a batch, between guards.
fn run<T: Format>(device: &Device, batch: &Batch) -> (Vec<f32>, Vec<T>) {
    let Batch { dims, input, output, reduction, weight, pos_weight, .. } = batch;
    let nan = T::from_f64(f64::NAN);
    let logits = Operand::new(device, *input, dims, &batch.logits::<T>(), nan);
    let targets = Operand::new(device, *input, dims, &batch.targets::<T>(), nan);
    let weights = |shape: &Option<Vec<usize>>, salt| {
        let values = batch.weights(shape, salt)?;
        Some(Operand::new(device, Offset(1), shape.as_ref()?, &values, f32::NAN))
    };
    let (weight, pos_weight) = (weights(weight, 11), weights(pos_weight, 12));
    let options = BinaryCrossEntropy {
        weight: weight.as_ref().map(Operand::view),
        pos_weight: pos_weight.as_ref().map(Operand::view),
        reduction: *reduction,
    };
    let fail = |error| -> ! { panic!("{batch} {} on {device:?}: {error}", T::DTYPE) };
    let loss_dims: &[usize] = if matches!(reduction, Reduction::None) { dims } else { &[] };
    let mut loss = Guarded::new(device, loss_dims, *output, -7.25f32);
    bce_into(logits.view(), targets.view(), &options, loss.view_mut()).unwrap_or_else(|error| fail(error));
    let upstream = match reduction {
        Reduction::None if !dims.is_empty() => Operand::new(device, *input, dims, &batch.upstream(), f32::NAN),
        _ => Operand::new(device, Offset(1), loss_dims, &batch.upstream(), f32::NAN),
    };
    let mut dlogits = Guarded::new(device, dims, *output, T::from_f64(-7.25));
    bce_backward_into(logits.view(), targets.view(), upstream.view(), &options, dlogits.view_mut())
        .unwrap_or_else(|error| fail(error));
    let got = (loss.read(batch), dlogits.read(batch));
    assert_no_findings(batch);
    got
}

/// f32 logits have losses within 4 units in the last place, and two more per weight; others are weighed by the hardware's exp2.
fn loss_tolerance<T: Format>(batch: &Batch) -> Tolerance {
    let weights = [&batch.weight, &batch.pos_weight].into_iter().flatten().count() as f64;
    let ulps = if T::DIGITS == <f32 as Format>::DIGITS { 4.0 + 2.0 * weights } else { 64.0 };
    Tolerance { ulps, ..f32::FORWARD }
}

fn check<T: Format>(batch: &Batch) {
    for device in devices() {
        let (loss, dlogits) = run::<T>(&device, batch);
        let named = format!("{batch} {} on {device:?}", T::DTYPE);
        assert_right(&named, &loss, &batch.want_loss::<T>(), loss_tolerance::<T>(batch));
        let tolerance = Tolerance { floor: T::BACKWARD.floor * 64.0, ..T::BACKWARD };
        assert_right(&named, &dlogits, &batch.want_gradient::<T>(), tolerance);
    }
}

fn check_all_types(batch: &Batch) {
    check::<f32>(batch);
    check::<f16>(batch);
    check::<bf16>(batch);
}

const REDUCTIONS: [Reduction; 3] = [Reduction::None, Reduction::Sum, Reduction::Mean];

#[test]
fn lengths_reductions_and_targets() {
    for len in (1..=9).chain([100, 1023, 4095, 4096, 4097, 10_000]) {
        for reduction in REDUCTIONS {
            check_all_types(&Batch { reduction, ..Batch::new(&[len]) });
            check_all_types(&Batch { reduction, hard: false, ..Batch::new(&[len]) });
        }
    }
}

#[test]
fn weights_of_every_shape() {
    let dims = [3, 5, 12];
    let shapes = [vec![], vec![1], vec![12], vec![5, 1], vec![5, 12], vec![3, 1, 1], vec![3, 1, 12], dims.to_vec()];
    for (i, shape) in shapes.iter().enumerate() {
        for reduction in REDUCTIONS {
            let other = shapes[(i + 3) % shapes.len()].clone();
            let batch = Batch { reduction, hard: i % 2 == 0, ..Batch::new(&dims) };
            check_all_types(&Batch { weight: Some(shape.clone()), ..batch.clone() });
            check_all_types(&Batch { pos_weight: Some(shape.clone()), ..batch.clone() });
            check_all_types(&Batch { weight: Some(shape.clone()), pos_weight: Some(other), ..batch });
        }
    }
}

#[test]
fn memory_of_every_form() {
    for offset in 0..9 {
        let batch = Batch { input: Offset(offset), output: (offset * 3 + 1) % 9, ..Batch::new(&[3, 44]) };
        check_all_types(&batch);
        check_all_types(&Batch { reduction: Reduction::Mean, weight: Some(vec![44]), ..batch });
    }
    for input in [Reversed, Padded(1, 6), Padded(8, 8), EveryOther] {
        for reduction in REDUCTIONS {
            check_all_types(&Batch { input, reduction, ..Batch::new(&[4, 3, 24]) });
        }
    }
    for input in [Reversed, Padded(2, 1)] {
        check_all_types(&Batch { input, pos_weight: Some(vec![2; 5]), ..Batch::new(&[2; 8]) });
    }
    check_all_types(&Batch::new(&[]));
    for dim in 0..2 {
        check_all_types(&Batch { input: Repeated(dim), reduction: Reduction::Sum, ..Batch::new(&[5, 16]) });
    }
}

/// The same bits from any memory, from an element alone, and in any schedule.
#[test]
fn only_values_matter() {
    let batch = Batch { weight: Some(vec![48]), hard: false, ..Batch::new(&[150, 48]) };
    for reduction in [Reduction::None, Reduction::Mean] {
        let batch = Batch { reduction, ..batch.clone() };
        let (loss, dlogits) = run::<bf16>(&gpu(), &batch);
        for input in [Offset(1), Reversed, Padded(3, 0), EveryOther] {
            let (other_loss, other_dlogits) = run::<bf16>(&gpu(), &Batch { input, output: 5, ..batch.clone() });
            assert_same_bits(&batch, &other_loss, &loss);
            assert_same_bits(&batch, &other_dlogits, &dlogits);
        }
        if let Some(soft) = soft() {
            for seed in 1..=10 {
                soft.seed(seed);
                let (other_loss, other_dlogits) = run::<bf16>(&gpu(), &batch);
                assert_same_bits(&format!("{batch} seed {seed}"), &other_loss, &loss);
                assert_same_bits(&format!("{batch} seed {seed}"), &other_dlogits, &dlogits);
            }
            soft.seed(0);
        }
    }
}

/// Certain targets on the right side of infinite logits cost nothing, and a weight of 0 hides whatever is there.
#[test]
fn infinite_logits_and_hidden_elements() {
    let inf = f32::INFINITY;
    for device in devices() {
        let place = |values: &[f32]| Tensor::from_slice(&device, &[values.len()], values).unwrap();
        let (x, t) = (place(&[inf, -inf, inf, -inf, f32::NAN, 0.0]), place(&[1.0, 0.0, 0.0, 0.5, 1.0, f32::NAN]));
        let weight = place(&[1.0, 2.0, 3.0, 4.0, 0.0, 0.0]);
        let options =
            BinaryCrossEntropy { weight: Some(weight.view()), reduction: Reduction::None, ..Default::default() };
        assert_eq!(bce(&x, &t, &options).unwrap().to_vec().unwrap(), [0.0, 0.0, inf, inf, 0.0, 0.0]);
        let dx = bce_backward(&x, &t, &place(&[1.0; 6]), &options).unwrap().to_vec().unwrap();
        assert_eq!(dx, [0.0, 0.0, 3.0, -2.0, 0.0, 0.0]);
        let unweighted = BinaryCrossEntropy { weight: None, ..options };
        let loss = bce(&x, &t, &unweighted).unwrap().to_vec().unwrap();
        assert!(loss[4].is_nan() && loss[5].is_nan() && loss[..2] == [0.0, 0.0], "{loss:?}");
        let sum = BinaryCrossEntropy { reduction: Reduction::Sum, ..options };
        assert_eq!(bce(&x, &t, &sum).unwrap().to_vec().unwrap(), [inf]);
    }
}

#[test]
fn nothing_has_mean_0() {
    for device in devices() {
        let x = Tensor::<f32>::zeros(&device, &[0, 3]).unwrap();
        for (reduction, want) in [(Reduction::None, vec![]), (Reduction::Sum, vec![0.0]), (Reduction::Mean, vec![0.0])]
        {
            let options = BinaryCrossEntropy { reduction, ..Default::default() };
            assert_eq!(bce(&x, &x, &options).unwrap().to_vec().unwrap(), want);
        }
        let one = Tensor::from_slice(&device, &[], &[1.0f32]).unwrap();
        assert_eq!(bce_backward(&x, &x, &one, &BinaryCrossEntropy::default()).unwrap().dims(), [0, 3]);
    }
}

/// A mean over more elements than 16 bits can count, in 16 bits.
#[test]
fn a_mean_over_many_elements() {
    for device in devices() {
        let x = Tensor::from_slice(&device, &[300_000], &vec![f16::from_f32(2.0); 300_000]).unwrap();
        let t = Tensor::from_slice(&device, &[300_000], &vec![f16::from_f32(0.0); 300_000]).unwrap();
        let mean = bce(&x, &t, &BinaryCrossEntropy::default()).unwrap().to_vec().unwrap()[0];
        assert!((f64::from(mean) / 2.126_928_011_042_972_5 - 1.0).abs() < 2e-6, "{mean}");
    }
}

/// One event is two classes, the logit of one of which is 0.
#[test]
fn is_the_cross_entropy_of_two_classes() {
    for device in devices() {
        let x: Vec<f32> = (-60..=60).map(|i| i as f32 / 2.0).collect();
        let pairs: Vec<f32> = x.iter().flat_map(|x| [*x, 0.0]).collect();
        for class in [0i64, 1] {
            let logits = Tensor::from_slice(&device, &[121, 2], &pairs).unwrap();
            let targets = Tensor::from_slice(&device, &[121], &[class; 121]).unwrap();
            let each = CrossEntropy { reduction: Reduction::None, ..CrossEntropy::default() };
            let want = cross_entropy(&logits, Dim::LAST, &targets, &each).unwrap().loss.to_vec().unwrap();
            let happens = Tensor::from_slice(&device, &[121], &[1.0 - class as f32; 121]).unwrap();
            let each = BinaryCrossEntropy { reduction: Reduction::None, ..Default::default() };
            let got = bce(&Tensor::from_slice(&device, &[121], &x).unwrap(), &happens, &each).unwrap();
            let want = Exact::plain(want.into_iter().map(f64::from));
            assert_right(&class, &got.to_vec().unwrap(), &want, Tolerance { ulps: 8.0, ..f32::FORWARD });
        }
    }
}

/// Each logit and target is read once, in whole sectors; losses that are added up are never written.
#[test]
fn counters() {
    fn of<T: Format>() {
        let Some(soft) = soft() else { return };
        let device = gpu();
        let batch = Batch::new(&[8, 4096]);
        let x = Tensor::from_slice(&device, &batch.dims, &batch.logits::<T>()).unwrap();
        let t = Tensor::from_slice(&device, &batch.dims, &batch.targets::<T>()).unwrap();
        let options = BinaryCrossEntropy::default();
        bce(&x, &t, &options).unwrap();
        let one = Tensor::from_slice(&device, &[], &[1.0f32]).unwrap();
        bce_backward(&x, &t, &one, &options).unwrap();
        device.synchronize().unwrap();
        let bytes = (batch.elements() * size_of::<T>()) as u64;
        for (direction, written) in [("forward", 8 * 40), ("backward", bytes)] {
            let counters = soft.counters(&format!("binary_cross_entropy_{direction}_{}", T::DTYPE)).expect("launched");
            assert_eq!(counters.global_stores.bytes, written, "{direction}");
            assert_eq!(counters.local_bytes, 0);
            assert_eq!(counters.shared.wavefronts, counters.shared.minimum, "{direction}: bank conflicts");
            if direction == "forward" {
                assert_eq!(counters.global_loads.bytes, 2 * bytes);
                assert_eq!(counters.global_loads.sectors, counters.global_loads.minimum);
            }
        }
    }
    of::<f32>();
    of::<f16>();
    of::<bf16>();
}

#[test]
fn lazy_answers_are_rejected() {
    let batch = Batch { weight: Some(vec![40]), pos_weight: Some(vec![6, 1]), ..Batch::new(&[6, 40]) };
    let without = |batch: &Batch, weight| Batch {
        weight: batch.weight.clone().filter(|_| weight),
        pos_weight: None,
        ..batch.clone()
    };
    let (want, tolerance) = (batch.want_loss::<f32>(), loss_tolerance::<f32>(&batch));
    let gradient = batch.want_gradient::<f32>();
    for (name, other) in [
        ("no pos_weight", without(&batch, true)),
        ("no weights", without(&batch, false)),
        ("other targets", Batch { hard: false, ..batch.clone() }),
    ] {
        let (loss, dlogits) = run::<f32>(&Device::cpu(), &other);
        assert!(faults(&loss, &want, tolerance).len() > 20, "{name} passes for right");
        assert!(faults(&dlogits, &gradient, f32::BACKWARD).len() > 20, "{name} passes for right");
    }
    assert!(faults(&[0.0f32; 240], &want, tolerance).len() > 100);
}

/// A mean over a number on the device is the sum divided by it, forward and backward; over 0 it is 0.
#[test]
fn a_mean_over_a_given_number() {
    for device in devices() {
        let x = Tensor::from_slice(&device, &[3], &[0.5f32, -1.0, 2.0]).unwrap();
        let t = Tensor::from_slice(&device, &[3], &[1.0f32, 0.0, 0.25]).unwrap();
        let one = Tensor::from_slice(&device, &[], &[1.0f32]).unwrap();
        let gives = |reduction| {
            let options = BinaryCrossEntropy { reduction, ..BinaryCrossEntropy::default() };
            let loss = bce(&x, &t, &options).unwrap().to_vec().unwrap()[0];
            (loss, bce_backward(&x, &t, &one, &options).unwrap().to_vec().unwrap())
        };
        let (sum, of_sum) = gives(Reduction::Sum);
        let four = Tensor::from_slice(&device, &[], &[4.0f32]).unwrap();
        let quarter: Vec<f32> = of_sum.iter().map(|g| g / 4.0).collect();
        assert_eq!(gives(Reduction::MeanOver(four.view())), (sum / 4.0, quarter), "on {device:?}");
        let nothing = Tensor::<f32>::zeros(&device, &[]).unwrap();
        assert_eq!(gives(Reduction::MeanOver(nothing.view())), (0.0, vec![0.0; 3]), "on {device:?}");
        let many = Tensor::<f32>::zeros(&device, &[1]).unwrap();
        let options = BinaryCrossEntropy { reduction: Reduction::MeanOver(many.view()), ..Default::default() };
        assert!(matches!(bce(&x, &t, &options), Err(sumexp::Error::Shapes { left: "the divisor", .. })));
    }
}
