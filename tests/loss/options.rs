//! Cross-entropy under every combination of its options, against the reference in float64.

use std::fmt;

use sumexp::reference::cross_entropy::Terms;
use sumexp::reference::{Sum, row};
use sumexp::{
    CrossEntropy, CrossEntropyInto, CrossEntropySaved, Device, Dim, Error, Float, Reduction, Targets, Tensor, bf16,
    cross_entropy_backward_into, cross_entropy_into, f16,
};

use crate::common::arrange::{Arrangement, Operand};
use crate::common::cases::{Case, Fill, SPECIAL_ROWS};
use crate::common::compare::{Exact, Format, Tolerance, assert_right};
use crate::common::device::{assert_no_findings, devices};
use crate::common::family::exact_rows;
use crate::common::guard::Guarded;
use crate::common::random::Random;

/// What becomes of the losses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum How {
    Apart,
    Sum,
    Mean,
    Over(f32),
}

/// What the targets are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum To {
    Classes,
    /// Probabilities of every class.
    F32,
    F16,
    BF16,
}

/// A call.
#[derive(Clone, Debug)]
pub struct Call {
    pub case: Case,
    /// One per row; -100 is ignored.
    pub targets: Vec<i64>,
    pub weights: Option<Vec<f32>>,
    pub z_loss: f32,
    pub smoothing: f32,
    pub to: To,
    pub how: How,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weights = self.weights.is_some();
        write!(
            f,
            "cross_entropy {}, weights {weights}, z_loss {}, smoothing {}, ",
            self.case, self.z_loss, self.smoothing
        )?;
        write!(f, "{:?}, {:?}", self.to, self.how)
    }
}

impl Call {
    /// Random targets: every sixth row ignored, every other one its winner.
    pub fn new(case: Case) -> Call {
        let mut random = Random::new(case.seed ^ 0x51);
        let target = |row: &Vec<f64>| {
            let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            match random.below(6) {
                0 => -100,
                1..4 => row.iter().position(|x| *x == max).unwrap_or(0) as i64,
                _ => random.below(row.len()) as i64,
            }
        };
        let targets = exact_rows::<f32>(&case, false).iter().map(target).collect();
        Call { case, targets, weights: None, z_loss: 0.0, smoothing: 0.0, to: To::Classes, how: How::Apart }
    }

    /// Weights from 0.1 to 3, and one of 0.
    pub fn weighted(self) -> Call {
        let mut random = Random::new(self.case.seed ^ 0x3e);
        let weights = (0..self.case.len()).map(|class| if class == 1 { 0.0 } else { random.between(0.1, 3.0) as f32 });
        Call { weights: Some(weights.collect()), ..self }
    }

    pub fn sizes(&self) -> Vec<usize> {
        let mut sizes = self.case.dims.clone();
        sizes.remove(self.case.dim);
        sizes
    }

    /// Probabilities of all classes in row-major order, as exact values of the type. In every second row a few classes have all.
    fn probabilities<P: Format>(&self) -> Vec<P> {
        let mut random = Random::new(self.case.seed ^ 0x70);
        let mut t = vec![P::default(); self.case.rows() * self.case.len()];
        for (row, places) in self.case.row_places().enumerate() {
            let mut values: Vec<f64> = places.iter().map(|_| random.unit()).collect();
            if row % 2 == 1 {
                let keep = 1 + random.below(3);
                values.iter_mut().for_each(|v| {
                    if !random.one_in(keep) {
                        *v = 0.0
                    }
                });
                values[random.below(places.len())] = 1.0;
            }
            let total: f64 = values.iter().sum();
            places.iter().zip(values).for_each(|(place, v)| t[*place] = P::from_f64(v / total));
        }
        t
    }

    /// What is spread over the classes of each row by the options; none if the row does not count.
    fn shares(&self, terms: &Terms) -> Vec<Option<Vec<f64>>> {
        let len = self.case.len();
        let of = |t: Vec<f64>| {
            let of_row = |places: Vec<usize>| places.into_iter().map(|place| t[place]).collect::<Vec<_>>().into_iter();
            self.case.row_places().map(|places| Some(terms.of_probabilities(of_row(places)))).collect()
        };
        match self.to {
            To::Classes => {
                let of_class = |target: &i64| (*target != -100).then(|| terms.of_class(*target as usize, len));
                self.targets.iter().map(of_class).collect()
            }
            To::F32 => of(self.probabilities::<f32>().into_iter().map(Float::to_f64).collect()),
            To::F16 => of(self.probabilities::<f16>().into_iter().map(Float::to_f64).collect()),
            To::BF16 => of(self.probabilities::<bf16>().into_iter().map(Float::to_f64).collect()),
        }
    }

    fn count(&self) -> usize {
        if self.to == To::Classes { self.targets.iter().filter(|t| **t != -100).count() } else { self.case.rows() }
    }

    fn loss_dims(&self) -> Vec<usize> {
        if self.how == How::Apart { self.sizes() } else { Vec::new() }
    }

    fn upstream(&self) -> Vec<f32> {
        let mut random = Random::new(self.case.seed ^ 0x99);
        (0..self.loss_dims().iter().product()).map(|_| random.normal() as f32).collect()
    }
}

/// What a call gave.
pub struct Got<T> {
    pub loss: Vec<f32>,
    pub count: i64,
    pub dlogits: Vec<T>,
}

/// The probabilities of a call, beside numbers that would show.
fn of_classes<P: Format>(device: &Device, call: &Call) -> Operand<P> {
    Operand::new(device, call.case.input, &call.case.dims, &call.probabilities::<P>(), P::from_f64(0.5))
}

/// Forward and backward between guards; weights and upstream gradients lie apart in memory.
pub fn run<T: Format>(device: &Device, call: &Call) -> Got<T> {
    let (case, sizes) = (&call.case, call.sizes());
    let dim = Dim::front(case.dim);
    let logits = Operand::new(device, case.input, &case.dims, &case.logits::<T>(), T::from_f64(f64::NAN));
    let classes = Operand::new(device, Arrangement::Offset(1), &sizes, &call.targets, 1 << 40);
    let of_f32 = (call.to == To::F32).then(|| of_classes::<f32>(device, call));
    let of_f16 = (call.to == To::F16).then(|| of_classes::<f16>(device, call));
    let of_bf16 = (call.to == To::BF16).then(|| of_classes::<bf16>(device, call));
    let targets = || match (&of_f32, &of_f16, &of_bf16) {
        (Some(operand), ..) => Targets::probabilities(operand.view()),
        (_, Some(operand), _) => Targets::probabilities(operand.view()),
        (.., Some(operand)) => Targets::probabilities(operand.view()),
        _ => classes.view().into(),
    };
    let weights = call
        .weights
        .as_ref()
        .map(|weights| Operand::new(device, Arrangement::EveryOther, &[case.len()], weights, f32::NAN));
    let divisor = if let How::Over(divisor) = call.how { divisor } else { f32::NAN };
    let divisor = Operand::new(device, Arrangement::Offset(1), &[], &[divisor], f32::NAN);
    let reduction = match call.how {
        How::Apart => Reduction::None,
        How::Sum => Reduction::Sum,
        How::Mean => Reduction::Mean,
        How::Over(_) => Reduction::MeanOver(divisor.view()),
    };
    let options = CrossEntropy {
        class_weights: weights.as_ref().map(Operand::view),
        z_loss: call.z_loss,
        label_smoothing: call.smoothing,
        temperature: case.tau,
        reduction,
        ..CrossEntropy::default()
    };
    let mut loss = Guarded::new(device, &call.loss_dims(), 1, -7.25);
    let mut lse = Guarded::new(device, &sizes, 3, -7.25);
    let mut count = Guarded::new(device, &[], 1, -7);
    let mut saved = Guarded::new(device, &[CrossEntropySaved::elements(case.rows())], 1, -7.25);
    let mut dlogits = Guarded::new(device, &case.dims, 1, T::from_f64(-7.25));
    let outputs = CrossEntropyInto {
        loss: loss.view_mut(),
        lse: lse.view_mut(),
        count: count.view_mut(),
        saved: saved.view_mut(),
        statistics: None,
    };
    let fail = |error: Error| -> ! { panic!("{call} on {device:?}: {error}") };
    cross_entropy_into(logits.view(), dim, targets(), &options, outputs).unwrap_or_else(|e| fail(e));
    let upstream = Operand::new(device, Arrangement::Offset(1), &call.loss_dims(), &call.upstream(), f32::NAN);
    let state = saved.view_mut();
    let result = cross_entropy_backward_into(
        logits.view(),
        dim,
        targets(),
        state.as_view(),
        upstream.view(),
        &options,
        dlogits.view_mut(),
    );
    result.unwrap_or_else(|e| fail(e));
    lse.read(call);
    let (loss, count) = (loss.read(call), count.read(call)[0]);
    let got = Got { loss, count, dlogits: dlogits.read(call) };
    assert_no_findings(call);
    got
}

/// What a call must give, with the largest of the terms that each number is made of.
struct Want {
    loss: Vec<Exact>,
    dlogits: Vec<Exact>,
}

fn want<T: Format>(call: &Call) -> Want {
    let (case, tau) = (&call.case, f64::from(call.case.tau));
    let weights: Option<Vec<f64>> = call.weights.as_ref().map(|all| all.iter().map(|w| f64::from(*w)).collect());
    let z_loss = f64::from(call.z_loss);
    let terms = Terms { tau, label_smoothing: f64::from(call.smoothing), class_weights: weights.as_deref(), z_loss };
    let rows = exact_rows::<T>(case, false);
    let all_shares = call.shares(&terms);
    let counted =
        || all_shares.iter().enumerate().filter_map(|(row, shares)| Some((row, &rows[row], shares.as_ref()?)));
    let mut losses = vec![Exact::default(); rows.len()];
    for (row, x, shares) in counted() {
        let state = row::State::of(x, tau);
        // Where max / tau and ln(1 + others) cancel, the square of their difference is as good as they are.
        let term = z_loss * (state.max.abs() / tau + state.others.ln_1p()) * 2.0 * state.lse(tau).abs();
        let value = terms.loss(x, shares);
        losses[row] = Exact { value, term: if term.is_finite() { term } else { 0.0 } };
    }
    let divisor = match call.how {
        How::Apart | How::Sum => 1.0,
        How::Mean if call.to == To::Classes => {
            Sum::of(counted().map(|(row, ..)| terms.weight(call.targets[row] as usize))).value()
        }
        How::Mean => case.rows() as f64,
        How::Over(divisor) => f64::from(divisor),
    };
    let scale = if divisor == 0.0 { 0.0 } else { 1.0 / divisor };
    let upstream = call.upstream();
    let places: Vec<Vec<usize>> = case.row_places().collect();
    let mut dlogits = vec![Exact::default(); case.rows() * case.len()];
    for (row, x, shares) in counted() {
        let g = f64::from(upstream[row % upstream.len()]) * scale;
        let state = row::State::of(x, tau);
        let slopes = terms.loss_backward(x, shares);
        let total = Sum::of(shares.iter().copied()).value();
        let alone = call.to == To::Classes && call.smoothing == 0.0;
        for (class, slope) in slopes.into_iter().enumerate() {
            let p = state.probability(x[class], tau);
            let along_lse = if z_loss == 0.0 { 0.0 } else { 2.0 * z_loss * state.lse(tau) * p };
            // p less 1 is as good as the others are, but for its sum with the slopes of other shares and of the z-loss.
            let term = match (alone, z_loss == 0.0) {
                (true, true) => 0.0,
                (true, false) => along_lse.abs().max(shares[class] * (1.0 - p)),
                (false, _) => along_lse.abs().max(shares[class]).max(p * total),
            };
            let term = 4.0 * term * g.abs() / tau;
            dlogits[places[row][class]] = Exact { value: slope * g, term: if term.is_finite() { term } else { 0.0 } };
        }
    }
    let loss = match call.how {
        How::Apart => losses,
        _ => {
            let total = Sum::of(losses.iter().map(|loss| loss.value)).value() * scale;
            let term = losses.iter().map(|loss| loss.term).sum::<f64>() * scale.abs();
            vec![Exact { value: total, term: if term.is_finite() { term } else { 0.0 } }]
        }
    };
    Want { loss, dlogits }
}

/// For 16-bit logits each exponential is good to some units in the last place of float32, a thousand times finer than the logits.
fn loss_tolerance<T: Format>(call: &Call) -> Tolerance {
    let ulps = if T::DIGITS == 24 { 4.0 } else { 64.0 };
    Tolerance { ulps, floor: f32::FORWARD.floor * call.case.len() as f64 * 4.0 }
}

fn gradient_tolerance<T: Format>(call: &Call) -> Tolerance {
    let largest = call.upstream().into_iter().fold(1.0, |max, g| f64::max(max, g.abs().into()));
    let floor = loss_tolerance::<T>(call).floor * largest * 4.0 / f64::from(call.case.tau).min(1.0);
    Tolerance { floor: floor.max(T::BACKWARD.floor), ..T::BACKWARD }
}

pub fn check<T: Format>(call: &Call) {
    let want = want::<T>(call);
    for device in devices() {
        let got = run::<T>(&device, call);
        let named = |what: &str| format!("{} on {device:?}: {what} of {call}", std::any::type_name::<T>());
        assert_eq!(got.count, call.count() as i64, "{}", named("count"));
        assert_right(&named("loss"), &got.loss, &want.loss, loss_tolerance::<T>(call));
        assert_right(&named("dlogits"), &got.dlogits, &want.dlogits, gradient_tolerance::<T>(call));
    }
}

pub fn check_all_types(call: &Call) {
    check::<f32>(call);
    check::<f16>(call);
    check::<bf16>(call);
}

/// Every combination of targets, smoothing, weights, z-loss and reduction.
#[test]
fn every_combination() {
    for call in combinations(Case::new(&[7, 5], Fill::Ordinary).tau(0.75)) {
        check_all_types(&call);
    }
}

/// A fifth of the combinations, another one for every kernel.
#[test]
fn combinations_of_every_kernel() {
    let shapes = [(vec![3, 40], 1), (vec![2, 700], 1), (vec![2, 19, 6], 1), (vec![300, 2], 0), (vec![1, 4200], 1)];
    for (number, (dims, dim)) in shapes.into_iter().enumerate() {
        for call in combinations(Case::new(&dims, Fill::Ordinary).along(dim).tau(0.75)).skip(number).step_by(5) {
            check_all_types(&call);
        }
    }
}

fn combinations(case: Case) -> impl Iterator<Item = Call> {
    let mut calls = Vec::new();
    let plain = Call::new(case);
    for how in [How::Apart, How::Sum, How::Mean, How::Over(2.5), How::Over(0.0)] {
        for to in [To::Classes, To::F32, To::F16, To::BF16] {
            for (smoothing, z_loss) in [(0.0, 0.0), (0.0, 0.5), (0.1, 0.0), (0.3, 1e-4), (1.0, 0.0)] {
                let call = Call { how, to, smoothing, z_loss, ..plain.clone() };
                calls.extend([call.clone(), call.weighted()]);
            }
        }
    }
    // 7 and 200 have no common divisor: neighbours in this order differ in everything.
    let count = calls.len();
    (0..count).map(move |i| calls[i * 7 % count].clone())
}

/// Every dense kernel at its longest row, one element to either side, and rows of many pieces.
#[test]
fn lengths_with_shares() {
    for classes in [1, 2, 31, 32, 33, 63, 64, 65, 512, 513, 1024, 1025, 4095, 4096, 4097, 8193, 20_011] {
        for to in [To::Classes, To::F32, To::F16] {
            let call = Call::new(Case::new(&[3, classes], Fill::Ordinary));
            check_all_types(&Call { smoothing: 0.2, to, ..call }.weighted());
        }
    }
}

#[test]
fn alignment_and_strides_with_shares() {
    let arrangements = [0, 1, 2, 4].map(Arrangement::Offset).into_iter();
    for input in arrangements.chain([Arrangement::Reversed, Arrangement::Padded(1, 6), Arrangement::EveryOther]) {
        for to in [To::Classes, To::F32, To::F16, To::BF16] {
            for classes in [5, 64, 1040] {
                let call = Call::new(Case::new(&[2, 2, classes], Fill::Ordinary).input(input));
                let call = Call { smoothing: 0.1, to, ..call }.weighted();
                check::<f32>(&call);
                check::<f16>(&call);
            }
        }
    }
}

/// Margins to 80 and logits to 1e30, temperatures from subnormal to huge; hidden classes, NaN and infinities.
#[test]
fn every_margin_with_shares() {
    for (smoothing, to) in [(0.0, To::F32), (0.1, To::Classes), (1e-3, To::F32)] {
        for classes in [2, 10, 100, 1000] {
            let call = Call::new(Case::new(&[60, classes], Fill::Mixed));
            check_all_types(&Call { smoothing, to, ..call });
        }
        for tau in [1e-40, 0.07, 30.0, f32::MAX] {
            check_all_types(&Call { smoothing, to, ..Call::new(Case::new(&[6, 50], Fill::Ordinary).tau(tau)) });
        }
        for classes in [3, 33, 600, 4100] {
            let call = Call::new(Case::new(&[SPECIAL_ROWS.len() + 3, classes], Fill::Special));
            check_all_types(&Call { smoothing, to, ..call });
        }
    }
}

/// With weights of 0 only, a mean is 0 and so are its gradients, whatever the rows hold.
#[test]
fn weights_that_add_up_to_0() {
    for device in devices() {
        let call = Call::new(Case::new(&[20, 4], Fill::Special));
        let call = Call { weights: Some(vec![0.0; 4]), how: How::Mean, ..call };
        let got = run::<f32>(&device, &call);
        assert_eq!(got.loss, [0.0], "on {device:?}");
        assert!(got.dlogits.iter().all(|g| g.to_bits() == 0), "{:?} on {device:?}", got.dlogits);
        assert_eq!(got.count, call.targets.iter().filter(|t| **t != -100).count() as i64);
    }
}

/// The divisor is read when the kernels run: a NaN is no number to divide by.
#[test]
fn a_divisor_that_is_no_number() {
    for device in devices() {
        let call = Call { how: How::Over(f32::NAN), ..Call::new(Case::new(&[3, 4], Fill::Ordinary)) };
        assert!(run::<f32>(&device, &call).loss[0].is_nan(), "on {device:?}");
    }
}

#[test]
fn options_that_are_refused() {
    for device in devices() {
        let (logits, to) =
            (Tensor::<f32>::zeros(&device, &[4, 3]).unwrap(), Tensor::<i64>::zeros(&device, &[4]).unwrap());
        let refused = |options: CrossEntropy, text: &str| {
            let forward = sumexp::cross_entropy(&logits, Dim::LAST, &to, &options).err().map(|e| e.to_string());
            assert_eq!(forward.as_deref(), Some(format!("cross_entropy: {text}").as_str()), "on {device:?}");
        };
        let plain = CrossEntropy::default;
        for (z_loss, shown) in [(-0.5, "-0.5"), (f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
            let text = format!("z_loss is {shown}, it must be finite and at least 0");
            refused(CrossEntropy { z_loss, ..plain() }, &text);
        }
        let (two, none) = (Tensor::<f32>::zeros(&device, &[2]).unwrap(), Tensor::<f32>::zeros(&device, &[]).unwrap());
        let short = "shapes differ: [2] in class_weights, [3] in one number per class";
        refused(CrossEntropy { class_weights: Some(two.view()), ..plain() }, short);
        let scalar = "shapes differ: [] in class_weights, [3] in one number per class";
        refused(CrossEntropy { class_weights: Some(none.view()), ..plain() }, scalar);
        let many = "shapes differ: [2] in the divisor, [] in one number";
        refused(CrossEntropy { reduction: Reduction::MeanOver(two.view()), ..plain() }, many);
        let other = if device.is_cpu() { crate::common::gpu::device() } else { Device::cpu() };
        let (there, one) = (Tensor::<f32>::zeros(&other, &[3]).unwrap(), Tensor::<f32>::zeros(&other, &[]).unwrap());
        for options in [
            CrossEntropy { class_weights: Some(there.view()), ..plain() },
            CrossEntropy { reduction: Reduction::MeanOver(one.view()), ..plain() },
        ] {
            let result = sumexp::cross_entropy(&logits, Dim::LAST, &to, &options);
            assert!(matches!(result, Err(Error::DifferentDevices { op: "cross_entropy", .. })), "{result:?}");
        }
    }
}
