//! Cross-entropy: values against the reference, bits, special rows, ignored rows.

use std::fmt;

use sumexp::reference::cross_entropy as reference;
use sumexp::reference::{Sum, row};
use sumexp::{
    CrossEntropy, CrossEntropyInto, CrossEntropySaved, Device, Dim, Error, Reduction, Targets, Tensor, bf16,
    cross_entropy, cross_entropy_backward, cross_entropy_backward_into, cross_entropy_into, f16,
};

use crate::common::arrange::{Arrangement, Operand};
use crate::common::cases::{Case, Fill, SPECIAL_ROWS};
use crate::common::compare::{Exact, Format, Tolerance, assert_right, assert_same_bits, faults};
use crate::common::device::{assert_no_findings, devices, soft};
use crate::common::gpu::device as gpu;
use crate::common::guard::Guarded;
use crate::common::random::Random;

/// A batch: the logits of a [`Case`], and a target for each of its rows.
#[derive(Clone)]
struct Batch {
    case: Case,
    targets: Vec<i64>,
    /// The integer type of the targets.
    kind: Kind,
    ignore_index: Option<i64>,
    reduction: Reduction<'static>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    I64,
    I32,
    U32,
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Batch { case, kind, ignore_index, reduction, .. } = self;
        write!(f, "cross_entropy {case}, {kind:?} targets, ignoring {ignore_index:?}, {reduction:?}")
    }
}

impl Batch {
    /// Random targets: every eighth row ignored, every second one its winner or a close second.
    fn new(case: Case) -> Batch {
        let mut random = Random::new(case.seed ^ 0x7a);
        let rows: Vec<Vec<f64>> = crate::common::family::exact_rows::<f32>(&case, false);
        let target = |row: &Vec<f64>| {
            let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let winner = row.iter().position(|x| *x == max).unwrap_or(0);
            match random.below(8) {
                0 => -100,
                1..4 => winner as i64,
                _ => random.below(row.len()) as i64,
            }
        };
        let targets = rows.iter().map(target).collect();
        Batch { case, targets, kind: Kind::I64, ignore_index: Some(-100), reduction: Reduction::None }
    }

    fn reduction(self, reduction: Reduction<'static>) -> Batch {
        Batch { reduction, ..self }
    }

    /// Targets of a type without negative numbers are ignored by the largest one.
    fn kind(mut self, kind: Kind) -> Batch {
        if kind == Kind::U32 {
            let ignored = i64::from(u32::MAX);
            self.targets.iter_mut().filter(|target| **target < 0).for_each(|target| *target = ignored);
            self.ignore_index = Some(ignored);
        }
        Batch { kind, ..self }
    }

    fn options(&self) -> CrossEntropy<'static> {
        CrossEntropy {
            ignore_index: self.ignore_index,
            temperature: self.case.tau,
            reduction: self.reduction,
            ..CrossEntropy::default()
        }
    }

    /// The shape of the logits without the class dim.
    fn sizes(&self) -> Vec<usize> {
        let mut sizes = self.case.dims.clone();
        sizes.remove(self.case.dim);
        sizes
    }

    fn counts(&self, row: usize) -> bool {
        Some(self.targets[row]) != self.ignore_index
    }

    fn count(&self) -> usize {
        (0..self.targets.len()).filter(|row| self.counts(*row)).count()
    }
}

/// What a call gave.
struct Got<T> {
    loss: Vec<f32>,
    lse: Vec<f32>,
    count: Vec<i64>,
    dlogits: Vec<T>,
}

/// Targets of the batch's type on a device, in an arrangement of their own.
enum OnDevice {
    I64(Operand<i64>),
    I32(Operand<i32>),
    U32(Operand<u32>),
}

impl OnDevice {
    /// Around the targets lies a number that is no class: a wrong stride shows.
    fn new(device: &Device, batch: &Batch) -> OnDevice {
        let sizes = batch.sizes();
        let arrangement = match batch.case.input {
            _ if sizes.is_empty() => Arrangement::Offset(3),
            Arrangement::Offset(n) => Arrangement::Offset(n),
            Arrangement::Repeated(_) => Arrangement::Offset(0),
            other => other,
        };
        let (to, sizes) = (&batch.targets, &sizes);
        match batch.kind {
            Kind::I64 => OnDevice::I64(Operand::new(device, arrangement, sizes, to, 1 << 40)),
            Kind::I32 => {
                let to: Vec<i32> = to.iter().map(|t| *t as i32).collect();
                OnDevice::I32(Operand::new(device, arrangement, sizes, &to, -7))
            }
            Kind::U32 => {
                let to: Vec<u32> = to.iter().map(|t| *t as u32).collect();
                OnDevice::U32(Operand::new(device, arrangement, sizes, &to, 1 << 31))
            }
        }
    }

    fn view(&self) -> Targets<'_> {
        match self {
            OnDevice::I64(operand) => operand.view().into(),
            OnDevice::I32(operand) => operand.view().into(),
            OnDevice::U32(operand) => operand.view().into(),
        }
    }
}

/// Upstream gradients of a batch's loss: one per row, or a single one.
fn upstream(batch: &Batch) -> Vec<f32> {
    let mut random = Random::new(batch.case.seed ^ 0x99);
    let many = if matches!(batch.reduction, Reduction::None) { batch.targets.len() } else { 1 };
    (0..many).map(|_| random.normal() as f32).collect()
}

/// Forward and backward between guards.
fn run<T: Format>(device: &Device, batch: &Batch) -> Got<T> {
    let case = &batch.case;
    let dim = Dim::front(case.dim);
    let logits = Operand::new(device, case.input, &case.dims, &case.logits::<T>(), T::from_f64(f64::NAN));
    let targets = OnDevice::new(device, batch);
    let sizes = batch.sizes();
    let loss_dims: &[usize] = if matches!(batch.reduction, Reduction::None) { &sizes } else { &[] };
    let mut loss = Guarded::new(device, loss_dims, 1, -7.25);
    let mut lse = Guarded::new(device, &sizes, 3, -7.25);
    let mut count = Guarded::new(device, &[], 1, -7);
    let mut saved = Guarded::new(device, &[CrossEntropySaved::elements(case.rows())], 1, -7.25);
    let offset = if let Arrangement::Offset(n) = case.output { n } else { 0 };
    let mut dlogits = Guarded::new(device, &case.dims, offset, T::from_f64(-7.25));
    let options = batch.options();
    let outputs = CrossEntropyInto {
        loss: loss.view_mut(),
        lse: lse.view_mut(),
        count: count.view_mut(),
        saved: saved.view_mut(),
    };
    let fail = |error: Error| -> ! { panic!("{} on {device:?}: {error}", batch) };
    cross_entropy_into(logits.view(), dim, targets.view(), &options, outputs).unwrap_or_else(|e| fail(e));

    let arrangement = if loss_dims.is_empty() { Arrangement::Offset(1) } else { Arrangement::EveryOther };
    let upstream = Operand::new(device, arrangement, loss_dims, &upstream(batch), f32::NAN);
    cross_entropy_backward_into(
        logits.view(),
        dim,
        targets.view(),
        saved.view_mut().as_view(),
        upstream.view(),
        &options,
        dlogits.view_mut(),
    )
    .unwrap_or_else(|e| fail(e));
    let got =
        Got { loss: loss.read(batch), lse: lse.read(batch), count: count.read(batch), dlogits: dlogits.read(batch) };
    assert_no_findings(batch);
    got
}

/// What the batch must give.
struct Want {
    losses: Vec<f64>,
    loss: Vec<Exact>,
    lse: Vec<Exact>,
    dlogits: Vec<Exact>,
}

fn want<T: Format>(batch: &Batch) -> Want {
    let case = &batch.case;
    let tau = f64::from(case.tau);
    let rows = crate::common::family::exact_rows::<T>(case, false);
    let loss = |(row, x): (usize, &Vec<f64>)| {
        if batch.counts(row) { reference::loss(x, batch.targets[row] as usize, tau) } else { 0.0 }
    };
    let losses: Vec<f64> = rows.iter().enumerate().map(loss).collect();
    let lse = |(row, x): (usize, &Vec<f64>)| {
        if !batch.counts(row) {
            return Exact::default();
        }
        let state = row::State::of(x, tau);
        let term = state.max.abs() / tau;
        Exact { value: state.lse(tau), term: if term.is_finite() { term } else { 0.0 } }
    };
    let total = Sum::of(losses.iter().copied()).value();
    let count = batch.count().max(1) as f64;
    let loss = match batch.reduction {
        Reduction::None => losses.clone(),
        Reduction::Sum => vec![total],
        Reduction::Mean => vec![total / count],
        Reduction::MeanOver(divisor) => vec![total / f64::from(divisor.to_vec().expect("one number")[0])],
    };
    let weight = if matches!(batch.reduction, Reduction::Mean) { 1.0 / count } else { 1.0 };
    let upstream = upstream(batch);
    let mut dlogits = vec![0.0; case.rows() * case.len()];
    for (row, places) in case.row_places().enumerate().filter(|(row, _)| batch.counts(*row)) {
        let g = f64::from(upstream[row % upstream.len()]) * weight;
        let slopes = reference::loss_backward(&rows[row], batch.targets[row] as usize, tau);
        places.iter().zip(slopes).for_each(|(place, slope)| dlogits[*place] = slope * g);
    }
    let lse = rows.iter().enumerate().map(lse).collect();
    Want { losses, loss: Exact::plain(loss), lse, dlogits: Exact::plain(dlogits) }
}

/// Losses are float32 whatever the logits are. For 16-bit logits each exponential is good to some units in the last place of
/// float32, a thousand times finer than the logits themselves. Every exponential below the smallest normal float32 may be
/// taken for 0, and there are as many as classes.
fn loss_tolerance<T: Format>(batch: &Batch) -> Tolerance {
    let ulps = if T::DIGITS == 24 { f32::FORWARD.ulps } else { 64.0 };
    Tolerance { ulps, floor: f32::FORWARD.floor * batch.case.len() as f64 }
}

/// The gradient is such a sum of exponentials times `upstream / tau`.
fn gradient_tolerance<T: Format>(batch: &Batch) -> Tolerance {
    let largest = upstream(batch).into_iter().fold(f64::from(batch.case.tau), |max, g| max.max(f64::from(g.abs())));
    let floor = loss_tolerance::<T>(batch).floor * largest / f64::from(batch.case.tau);
    Tolerance { floor: floor.max(T::BACKWARD.floor), ..T::BACKWARD }
}

fn check<T: Format>(batch: &Batch) {
    let want = want::<T>(batch);
    for device in devices() {
        let got = run::<T>(&device, batch);
        let named = |what: &str| format!("{} on {device:?}: {what} of {batch}", std::any::type_name::<T>());
        assert_eq!(got.count, [batch.count() as i64], "{}", named("count"));
        assert_right(&named("loss"), &got.loss, &want.loss, loss_tolerance::<T>(batch));
        assert_right(&named("lse"), &got.lse, &want.lse, loss_tolerance::<T>(batch));
        assert_right(&named("dlogits"), &got.dlogits, &want.dlogits, gradient_tolerance::<T>(batch));
    }
}

fn check_all_types(batch: &Batch) {
    check::<f32>(batch);
    check::<f16>(batch);
    check::<bf16>(batch);
}

#[test]
fn special_rows() {
    for classes in [3, 33, 600, 4100] {
        check_all_types(&Batch::new(Case::new(&[SPECIAL_ROWS.len() + 3, classes], Fill::Special)));
    }
}

/// Every kernel at its longest row, one element to either side, and odd lengths in between.
#[test]
fn lengths() {
    for classes in [1, 2, 3, 7, 8, 31, 32, 33, 63, 64, 65, 100, 511, 512, 513, 1023, 1024, 1025] {
        check_all_types(&Batch::new(Case::new(&[7, classes], Fill::Ordinary)));
    }
    for classes in [4095, 4096, 4097, 8191, 8192, 8193, 16_384, 16_388, 50_257] {
        check_all_types(&Batch::new(Case::new(&[3, classes], Fill::Ordinary)));
    }
}

#[test]
fn a_large_vocabulary() {
    check::<f32>(&Batch::new(Case::new(&[2, 262_144], Fill::Ordinary)));
    check::<bf16>(&Batch::new(Case::new(&[2, 262_144], Fill::Mixed)));
}

#[test]
fn alignment_and_strides() {
    for offset in 0..16 {
        let case = Case::new(&[5, 72], Fill::Ordinary).input(Arrangement::Offset(offset));
        check_all_types(&Batch::new(case.output(Arrangement::Offset(offset * 3 % 16))));
    }
    for input in [Arrangement::Reversed, Arrangement::Padded(1, 6), Arrangement::Padded(8, 8), Arrangement::EveryOther]
    {
        for classes in [5, 64, 1040] {
            check_all_types(&Batch::new(Case::new(&[2, 3, classes], Fill::Ordinary).input(input)));
        }
    }
    check_all_types(&Batch::new(Case::new(&[3, 1, 40], Fill::Ordinary).input(Arrangement::Repeated(0))));
    check_all_types(&Batch::new(Case::new(&[3, 4], Fill::Ordinary).input(Arrangement::Repeated(1))));
}

#[test]
fn any_class_dim() {
    for dims in [vec![19, 6, 7], vec![2, 33, 5], vec![2, 3, 17], vec![3, 21, 2, 2], vec![600, 3]] {
        for dim in 0..dims.len() {
            check_all_types(&Batch::new(Case::new(&dims, Fill::Ordinary).along(dim)));
            check_all_types(&Batch::new(Case::new(&dims, Fill::Mixed).along(dim).input(Arrangement::Reversed)));
        }
    }
    check_all_types(&Batch::new(Case::new(&[40], Fill::Ordinary)));
}

#[test]
fn reductions_and_target_types() {
    for reduction in [Reduction::None, Reduction::Sum, Reduction::Mean] {
        for kind in [Kind::I64, Kind::I32, Kind::U32] {
            check_all_types(&Batch::new(Case::new(&[4, 5, 9], Fill::Ordinary)).reduction(reduction).kind(kind));
        }
        // More rows than a block of the collecting kernel adds up.
        check::<f16>(&Batch::new(Case::new(&[9000, 4], Fill::Ordinary)).reduction(reduction));
    }
}

#[test]
fn temperatures() {
    for tau in [1e-40, 1e-5, 0.07, 0.5, 2.0, 30.0, 1e20, f32::MAX] {
        check_all_types(&Batch::new(Case::new(&[6, 50], Fill::Ordinary).tau(tau)));
    }
}

/// Margins to 80 and logits to 1e30 (6e4 in f16), as target and as any other class.
#[test]
fn every_margin() {
    for classes in [2, 3, 10, 100, 1000] {
        check_all_types(&Batch::new(Case::new(&[400, classes], Fill::Mixed)));
    }
}

/// Losses of f32 logits at margins where `lse - x[target]` would round to 0.
#[test]
fn margins_that_cancel() {
    for (margin, loss, slope) in [(17.0f32, 4.139_937_6e-8, -4.139_937_4e-8), (20.0, 2.061_153_6e-9, -2.061_153_6e-9)] {
        for device in devices() {
            let logits = Tensor::from_slice(&device, &[1, 2], &[margin, 0.0]).unwrap();
            let targets = Tensor::from_slice(&device, &[1], &[0i32]).unwrap();
            let one = Tensor::from_slice(&device, &[], &[1f32]).unwrap();
            let options = CrossEntropy::default();
            let out = cross_entropy(&logits, Dim::LAST, &targets, &options).unwrap();
            let dlogits = cross_entropy_backward(&logits, Dim::LAST, &targets, &out.saved, &one, &options).unwrap();
            let near = |got: f32, want: f64| (f64::from(got) / want - 1.0).abs() < 1e-6;
            assert!(near(out.loss.to_vec().unwrap()[0], loss), "{:?} on {device:?}", out.loss.to_vec());
            assert!(near(dlogits.to_vec().unwrap()[0], slope), "{:?} on {device:?}", dlogits.to_vec());
        }
    }
}

/// The sum of 70 000 losses is past the largest f16.
#[test]
fn a_mean_over_many_half_rows() {
    let batch = Batch::new(Case::new(&[70_000, 4], Fill::Constant(0.0)));
    let all = Batch { targets: vec![2; 70_000], ..batch }.reduction(Reduction::Mean);
    for device in devices() {
        let got = run::<f16>(&device, &all);
        assert_right(&all, &got.loss, &Exact::plain([4f64.ln()]), f32::FORWARD);
    }
}

#[test]
fn nothing_counts() {
    for reduction in [Reduction::None, Reduction::Sum, Reduction::Mean] {
        let batch = Batch::new(Case::new(&[3, 5], Fill::Special)).reduction(reduction);
        let ignored = Batch { targets: vec![-100; 3], ..batch };
        for device in devices() {
            let got = run::<f32>(&device, &ignored);
            assert!(got.loss.iter().chain(&got.lse).all(|x| *x == 0.0), "{:?} {:?}", got.loss, got.lse);
            assert_eq!(got.count, [0]);
            assert!(got.dlogits.iter().all(|x| x.to_bits() == 0), "{:?}", got.dlogits);
        }
    }
}

#[test]
fn no_rows() {
    for device in devices() {
        let logits = Tensor::<f32>::zeros(&device, &[0, 5]).unwrap();
        let targets = Tensor::<i64>::zeros(&device, &[0]).unwrap();
        for reduction in [Reduction::None, Reduction::Sum, Reduction::Mean] {
            let options = CrossEntropy { reduction, ..CrossEntropy::default() };
            let out = cross_entropy(&logits, Dim::LAST, &targets, &options).unwrap();
            assert_eq!(out.count.to_vec().unwrap(), [0]);
            assert!(out.loss.to_vec().unwrap().iter().all(|loss| *loss == 0.0));
            let upstream = Tensor::<f32>::zeros(&device, out.loss.dims()).unwrap();
            let dlogits =
                cross_entropy_backward(&logits, Dim::LAST, &targets, &out.saved, &upstream, &options).unwrap();
            assert_eq!(dlogits.dims(), [0, 5]);
        }
    }
}

/// The ignored value may be a class, and may lie far outside the classes.
#[test]
fn ignored_values() {
    for ignore_index in [Some(2), Some(255), Some(i64::MIN), None] {
        let batch = Batch::new(Case::new(&[6, 4], Fill::Ordinary));
        let other = ignore_index.unwrap_or(3);
        check_all_types(&Batch { targets: vec![0, 1, other, 0, 3, other], ignore_index, ..batch });
    }
}

/// A kernel that ignores its targets, forgets the upstream gradient or skips the last row must fail the comparison.
#[test]
fn lazy_answers_are_rejected() {
    let mut rejected = 0;
    for dims in [[7, 3], [7, 33], [3, 1025]] {
        let batch = Batch::new(Case::new(&dims, Fill::Ordinary));
        let batch = Batch { targets: batch.targets.iter().map(|t| (*t).max(0)).collect(), ..batch };
        let want = want::<f32>(&batch);
        let last = want.losses.len() - 1;
        let exact: Vec<f32> = want.losses.iter().map(|x| *x as f32).collect();
        let mut missing = exact.clone();
        missing[last] = 0.0;
        let uniform = vec![(dims[1] as f32).ln(); last + 1];
        for (name, lazy) in [("zeros", vec![0.0; last + 1]), ("ln(classes)", uniform), ("last row missing", missing)] {
            assert!(!faults(&lazy, &want.loss, loss_tolerance::<f32>(&batch)).is_empty(), "{name} passed for {batch}");
            rejected += 1;
        }
        let gradient: Vec<f32> = want.dlogits.iter().map(|x| x.value as f32).collect();
        let upstream = upstream(&batch);
        let per_row = |f: &dyn Fn(usize, usize, f32) -> f32| -> Vec<f32> {
            (0..gradient.len()).map(|i| f(i / dims[1], i % dims[1], gradient[i])).collect()
        };
        let target = |row: usize| batch.targets[row] as usize;
        for (name, lazy) in [
            ("upstream forgotten", per_row(&|row, _, g| g / upstream[row])),
            ("upstream of row 0", per_row(&|row, _, g| g / upstream[row] * upstream[0])),
            ("onehot forgotten", per_row(&|row, i, g| if i == target(row) { g + upstream[row] } else { g })),
            ("last row missing", per_row(&|row, _, g| if row == last { 0.0 } else { g })),
        ] {
            assert!(!faults(&lazy, &want.dlogits, f32::BACKWARD).is_empty(), "{name} passed for {batch}");
            rejected += 1;
        }
        let mean = exact.iter().sum::<f32>() / exact.len() as f32;
        let sum = Exact::plain([want.losses.iter().sum::<f64>()]);
        assert!(!faults(&[mean], &sum, loss_tolerance::<f32>(&batch)).is_empty(), "a mean passed for a sum");
    }
    assert_eq!(rejected, 21);
}

/// The bits of a row are its own: in any batch, at any place, in any memory, on any schedule.
#[test]
fn the_same_bits_alone_in_a_batch_and_on_every_schedule() {
    let device = gpu();
    for classes in [10, 100, 700, 5000, 40_000] {
        let batch = Batch::new(Case::new(&[5, classes], Fill::Ordinary));
        let whole = run::<f32>(&device, &batch);
        for arrangement in [Arrangement::Offset(1), Arrangement::Reversed, Arrangement::Padded(3, 2)] {
            let moved = Batch { case: batch.case.clone().input(arrangement), ..batch.clone() };
            let got = run::<f32>(&device, &moved);
            assert_same_bits(&moved, &got.loss, &whole.loss);
            assert_same_bits(&moved, &got.dlogits, &whole.dlogits);
        }
        let logits = batch.case.logits::<f32>();
        for row in 0..5 {
            let alone = Tensor::from_slice(&device, &[classes], &logits[row * classes..][..classes]).unwrap();
            let target = Tensor::from_slice(&device, &[], &batch.targets[row..=row]).unwrap();
            let out = cross_entropy(&alone, Dim::LAST, &target, &batch.options()).unwrap();
            assert_same_bits(&batch, &out.loss.to_vec().unwrap(), &whole.loss[row..=row]);
        }
    }
    let Some(soft) = soft() else { return };
    for classes in [10, 700, 5000] {
        let batch = Batch::new(Case::new(&[5, classes], Fill::Ordinary)).reduction(Reduction::Mean);
        let first = run::<f32>(&device, &batch);
        for seed in 1..=20 {
            soft.seed(seed);
            let got = run::<f32>(&device, &batch);
            assert_same_bits(&format!("schedule {seed} of {batch}"), &got.loss, &first.loss);
            assert_same_bits(&format!("schedule {seed} of {batch}"), &got.dlogits, &first.dlogits);
        }
        soft.seed(0);
    }
}
