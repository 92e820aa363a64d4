//! Cross-entropy under every combination of its options, against the reference in float64.

use std::fmt;

use sumexp::reference::cross_entropy::Terms;
use sumexp::reference::{Sum, row};
use sumexp::{
    CrossEntropy, CrossEntropyInto, CrossEntropySaved, Device, Dim, Error, Reduction, Tensor, bf16,
    cross_entropy_backward_into, cross_entropy_into, f16,
};

use crate::common::arrange::{Arrangement, Operand};
use crate::common::cases::{Case, Fill};
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

/// A call.
#[derive(Clone, Debug)]
pub struct Call {
    pub case: Case,
    /// One per row; -100 is ignored.
    pub targets: Vec<i64>,
    pub weights: Option<Vec<f32>>,
    pub z_loss: f32,
    pub how: How,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weights = self.weights.is_some();
        write!(f, "cross_entropy {}, weights {weights}, z_loss {}, {:?}", self.case, self.z_loss, self.how)
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
        Call { case, targets, weights: None, z_loss: 0.0, how: How::Apart }
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

/// Forward and backward between guards; weights and upstream gradients lie apart in memory.
pub fn run<T: Format>(device: &Device, call: &Call) -> Got<T> {
    let (case, sizes) = (&call.case, call.sizes());
    let dim = Dim::front(case.dim);
    let logits = Operand::new(device, case.input, &case.dims, &case.logits::<T>(), T::from_f64(f64::NAN));
    let targets = Operand::new(device, Arrangement::Offset(1), &sizes, &call.targets, 1 << 40);
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
    };
    let fail = |error: Error| -> ! { panic!("{call} on {device:?}: {error}") };
    cross_entropy_into(logits.view(), dim, targets.view(), &options, outputs).unwrap_or_else(|e| fail(e));
    let upstream = Operand::new(device, Arrangement::Offset(1), &call.loss_dims(), &call.upstream(), f32::NAN);
    let state = saved.view_mut();
    let result = cross_entropy_backward_into(
        logits.view(),
        dim,
        targets.view(),
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
    let terms = Terms { tau, label_smoothing: 0.0, class_weights: weights.as_deref(), z_loss };
    let rows = exact_rows::<T>(case, false);
    let counted = || rows.iter().zip(&call.targets).enumerate().filter(|(_, (_, target))| **target != -100);
    let mut losses = vec![Exact::default(); rows.len()];
    for (row, (x, target)) in counted() {
        let state = row::State::of(x, tau);
        // Where max / tau and ln(1 + others) cancel, the square of their difference is as good as they are.
        let term = z_loss * (state.max.abs() / tau + state.others.ln_1p()) * 2.0 * state.lse(tau).abs();
        let value = terms.loss(x, &terms.of_class(*target as usize, x.len()));
        losses[row] = Exact { value, term: if term.is_finite() { term } else { 0.0 } };
    }
    let divisor = match call.how {
        How::Apart | How::Sum => 1.0,
        How::Mean => Sum::of(counted().map(|(_, (_, target))| terms.weight(*target as usize))).value(),
        How::Over(divisor) => f64::from(divisor),
    };
    let scale = if divisor == 0.0 { 0.0 } else { 1.0 / divisor };
    let upstream = call.upstream();
    let places: Vec<Vec<usize>> = case.row_places().collect();
    let mut dlogits = vec![Exact::default(); case.rows() * case.len()];
    for (row, (x, target)) in counted() {
        let g = f64::from(upstream[row % upstream.len()]) * scale;
        let shares = terms.of_class(*target as usize, x.len());
        let state = row::State::of(x, tau);
        let slopes = terms.loss_backward(x, &shares);
        for (class, slope) in slopes.into_iter().enumerate() {
            let p = state.probability(x[class], tau);
            let along_lse = if z_loss == 0.0 { 0.0 } else { 2.0 * z_loss * state.lse(tau) * p };
            // p less 1 is as good as the others are, but for its sum with the slope of the z-loss.
            let term = if z_loss == 0.0 { 0.0 } else { along_lse.abs().max(shares[class] * (1.0 - p)) };
            let term = term * g.abs() / tau;
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
    let ulps = if T::DIGITS == 24 { 6.0 } else { 64.0 };
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
        assert_eq!(got.count, call.targets.iter().filter(|t| **t != -100).count() as i64, "{}", named("count"));
        assert_right(&named("loss"), &got.loss, &want.loss, loss_tolerance::<T>(call));
        assert_right(&named("dlogits"), &got.dlogits, &want.dlogits, gradient_tolerance::<T>(call));
    }
}

pub fn check_all_types(call: &Call) {
    check::<f32>(call);
    check::<f16>(call);
    check::<bf16>(call);
}

/// Every combination of weights, z-loss and reduction, along the last dim and along another.
#[test]
fn every_combination() {
    for (dims, dim) in [(vec![9, 5], 1), (vec![3, 40], 1), (vec![2, 700], 1), (vec![2, 19, 6], 1)] {
        for how in [How::Apart, How::Sum, How::Mean, How::Over(2.5), How::Over(0.0)] {
            for z_loss in [0.0, 1e-4, 0.5] {
                for weighted in [false, true] {
                    let call = Call::new(Case::new(&dims, Fill::Ordinary).along(dim).tau(0.75));
                    let call = Call { how, z_loss, ..call };
                    check_all_types(&if weighted { call.weighted() } else { call });
                }
            }
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
