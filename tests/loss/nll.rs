//! Loss of log-probabilities: values by hand and against the reference, the law that makes it cross-entropy, bad targets, errors.

use sumexp::{
    CrossEntropy, Device, Dim, Error, LogProbabilities, NllLoss, Reduction, SoftmaxOptions, Targets, Tensor, View,
    bf16, cross_entropy, cross_entropy_backward, f16, log_softmax, log_softmax_backward, nll_loss, nll_loss_backward,
    nll_loss_backward_into, nll_loss_into,
};

use crate::common::arrange::{Arrangement, Operand};
use crate::common::cases::{Case, Fill};
use crate::common::compare::{Format, Tolerance, error};
use crate::common::device::{assert_no_findings, devices, soft};
use crate::common::gpu::device as gpu;
use crate::common::guard::Guarded;
use crate::common::random::Random;
use crate::common::sparse::{Far, put, zeros};

/// Class weights of a call, one of them 0.
fn weights(classes: usize) -> Vec<f32> {
    (0..classes).map(|class| (class * 3 % 7) as f32 / 4.0).collect()
}

/// Every fifth one ignored.
fn targets(rows: usize, classes: usize, ignored: i64) -> Vec<i64> {
    let mut random = Random::new(rows as u64);
    (0..rows).map(|row| if row % 5 == 3 { ignored } else { random.below(classes) as i64 }).collect()
}

/// One call, between guards, against its definition. `at`: where targets and outputs begin.
fn check<T: Format>(case: &Case, reduction: &str, weighted: bool, at: usize) {
    let (rows, classes, dim) = (case.rows(), case.len(), Dim::front(case.dim));
    let mut sizes = case.dims.clone();
    sizes.remove(case.dim);
    let (y, to, w) = (case.logits::<T>(), targets(rows, classes, -100), weights(classes));
    let loss_dims = if reduction == "None" { sizes.clone() } else { vec![] };
    let mut random = Random::new(4);
    let g: Vec<f32> = (0..loss_dims.iter().product::<usize>()).map(|_| random.normal() as f32).collect();
    let of = |row: usize| if weighted { f64::from(w[to[row] as usize]) } else { 1.0 };
    let counts: Vec<usize> = (0..rows).filter(|row| to[*row] >= 0).collect();
    let divisor = match reduction {
        "Mean" => counts.iter().map(|row| of(*row)).sum(),
        "MeanOver" => 5.0,
        _ => 1.0,
    };
    let places: Vec<Vec<usize>> = case.row_places().collect();
    let (mut losses, mut slopes) = (vec![0.0; rows], vec![0.0; rows * classes]);
    for &row in counts.iter().filter(|row| of(**row) != 0.0) {
        let place = places[row][to[row] as usize];
        losses[row] = -of(row) * y[place].to_f64();
        slopes[place] = -of(row) * f64::from(g[row % g.len()]) / divisor;
    }
    if reduction != "None" {
        losses = vec![if divisor == 0.0 { 0.0 } else { losses.iter().sum::<f64>() / divisor }];
    }
    for device in devices() {
        let name = format!("{} {reduction} weighted {weighted} at {at} {case} on {device:?}", T::DTYPE);
        let log = LogProbabilities::from_tensor(Tensor::from_slice(&device, &case.dims, &y).unwrap());
        let arrangement = if sizes.is_empty() { Arrangement::Offset(at) } else { Arrangement::EveryOther };
        let to = Operand::new(&device, arrangement, &sizes, &to, 1 << 40);
        let w = Operand::new(&device, Arrangement::EveryOther, &[classes], &w, f32::NAN);
        let arrangement = if loss_dims.is_empty() { Arrangement::Offset(1) } else { Arrangement::EveryOther };
        let g = Operand::new(&device, arrangement, &loss_dims, &g, f32::NAN);
        let five = Tensor::from_slice(&device, &[], &[5f32]).unwrap();
        let reduction = match reduction {
            "None" => Reduction::None,
            "Sum" => Reduction::Sum,
            "Mean" => Reduction::Mean,
            _ => Reduction::MeanOver(five.view()),
        };
        let options = NllLoss { class_weights: weighted.then(|| w.view()), reduction, ..NllLoss::default() };
        let mut loss = Guarded::new(&device, &loss_dims, at, -7.25);
        let mut slope = Guarded::new(&device, &case.dims, at, T::from_f64(-7.25));
        nll_loss_into(&log, dim, to.view(), &options, loss.view_mut()).unwrap();
        nll_loss_backward_into(&log, dim, to.view(), g.view(), &options, slope.view_mut()).unwrap();
        let Tolerance { ulps, floor } = T::BACKWARD;
        for (got, want) in loss.read(&name).into_iter().zip(&losses) {
            assert!(error(got, *want, 0.0) <= 4.0, "{name}: loss {got}, want {want}");
        }
        for (got, want) in slope.read(&name).into_iter().zip(&slopes) {
            assert!(error(got, *want, floor) <= ulps.min(2.0), "{name}: gradient {got:?}, want {want}");
        }
        assert_no_findings(&name);
    }
}

#[test]
fn values() {
    for reduction in ["None", "Sum", "Mean", "MeanOver"] {
        for weighted in [false, true] {
            for dims in [vec![7, 5], vec![4, 3, 9], vec![1, 1], vec![40], vec![600, 33]] {
                for dim in 0..dims.len() {
                    let case = Case::new(&dims, Fill::Ordinary).along(dim);
                    check::<f32>(&case, reduction, weighted, 1);
                    check::<f16>(&case, reduction, weighted, 3);
                    check::<bf16>(&case, reduction, weighted, 0);
                }
            }
        }
    }
    // More rows than a block of any kernel takes, and outputs at every alignment.
    check::<f16>(&Case::new(&[9000, 4], Fill::Ordinary), "Mean", true, 5);
    (0..9).for_each(|at| check::<bf16>(&Case::new(&[3, 11], Fill::Ordinary), "Sum", false, at));
}

/// nll_loss(log_softmax(x)) is cross_entropy(x), and so are the gradients.
#[test]
fn with_log_softmax_it_is_cross_entropy() {
    for device in devices() {
        let (rows, classes) = (20, 50);
        let x = Case::new(&[rows, classes], Fill::Ordinary).logits::<f32>();
        let x = Tensor::from_slice(&device, &[rows, classes], &x).unwrap();
        let to = Tensor::from_slice(&device, &[rows], &targets(rows, classes, -100)).unwrap();
        let w = Tensor::from_slice(&device, &[classes], &weights(classes)).unwrap();
        let one = Tensor::from_slice(&device, &[], &[1f32]).unwrap();
        for class_weights in [None, Some(w.view())] {
            let options = CrossEntropy { class_weights, ..CrossEntropy::default() };
            let whole = cross_entropy(&x, Dim::LAST, &to, &options).unwrap();
            let dx = cross_entropy_backward(&x, Dim::LAST, &to, &whole.saved, &one, &options).unwrap();
            let options = NllLoss { class_weights, ..NllLoss::default() };
            let log = log_softmax(&x, Dim::LAST, &SoftmaxOptions::default()).unwrap();
            let loss = nll_loss(&log, Dim::LAST, &to, &options).unwrap();
            let near = |a: f32, b: f32| (a - b).abs() <= 1e-6 * b.abs().max(1e-2);
            assert!(near(loss.to_vec().unwrap()[0], whole.loss.to_vec().unwrap()[0]));
            let dlog = nll_loss_backward(&log, Dim::LAST, &to, &one, &options).unwrap();
            let composed = log_softmax_backward(&log, &dlog, Dim::LAST, &SoftmaxOptions::default()).unwrap();
            for (composed, dx) in composed.to_vec().unwrap().into_iter().zip(dx.to_vec().unwrap()) {
                assert!(near(composed, dx), "{composed} and {dx} on {device:?}");
            }
        }
    }
}

/// The bits of losses and gradients on 20 schedules, of rows by any reduction and along any dim; and of a row alone.
#[test]
fn every_schedule_and_every_batch_give_the_same_bits() {
    let device = gpu();
    for (dims, dim) in [(&[700usize, 9][..], 1), (&[3, 40, 50], 1), (&[5, 3000], 0)] {
        let case = Case::new(dims, Fill::Ordinary).along(dim);
        let mut per_row = dims.to_vec();
        let classes = per_row.remove(dim);
        let log = Tensor::from_slice(&device, dims, &case.logits::<f32>()).unwrap();
        let log = LogProbabilities::from_tensor(log);
        let to = targets(case.rows(), classes, -100);
        let to_all = Tensor::from_slice(&device, &per_row, &to).unwrap();
        let w = Tensor::from_slice(&device, &[classes], &weights(classes)).unwrap();
        let run = |reduction| {
            let options = NllLoss { class_weights: Some(w.view()), reduction, ..NllLoss::default() };
            let loss = nll_loss(&log, Dim::front(dim), &to_all, &options).unwrap();
            let g: Vec<f32> = (0..loss.elements()).map(|i| 0.3 + i as f32).collect();
            let g = Tensor::from_slice(&device, loss.dims(), &g).unwrap();
            let slopes = nll_loss_backward(&log, Dim::front(dim), &to_all, &g, &options).unwrap();
            [loss.to_vec().unwrap(), slopes.to_vec().unwrap()]
                .map(|x| x.into_iter().map(f32::to_bits).collect::<Vec<_>>())
        };
        let each = run(Reduction::None);
        if let Some(soft) = soft() {
            for reduction in [Reduction::None, Reduction::Sum, Reduction::Mean] {
                soft.seed(0);
                let first = run(reduction);
                for seed in 1..=20 {
                    soft.seed(seed);
                    assert!(run(reduction) == first, "schedule {seed} of {case}, {reduction:?}");
                }
            }
            soft.seed(0);
        }
        // A row by itself.
        let x = case.logits::<f32>();
        for (row, place) in case.row_places().enumerate().step_by(7) {
            let place: Vec<usize> = place;
            let alone: Vec<f32> = place.iter().map(|at| x[*at]).collect();
            let alone = LogProbabilities::from_tensor(Tensor::from_slice(&device, &[1, classes], &alone).unwrap());
            let target = Tensor::from_slice(&device, &[1], &to[row..=row]).unwrap();
            let options = NllLoss { class_weights: Some(w.view()), reduction: Reduction::None, ..NllLoss::default() };
            let loss = nll_loss(&alone, Dim::LAST, &target, &options).unwrap().to_vec().unwrap();
            assert_eq!(loss[0].to_bits(), each[0][row], "row {row} of {case}");
        }
    }
}

#[test]
fn hidden_targets_and_all_types_of_targets() {
    for device in devices() {
        let hidden = f32::NEG_INFINITY;
        let y = [hidden, -1.0, -2.0, f32::NAN, -0.5, hidden];
        let log = LogProbabilities::from_tensor(Tensor::from_slice(&device, &[3, 2], &y).unwrap());
        let none = NllLoss { reduction: Reduction::None, ..NllLoss::default() };
        let [a, b] = [[0i64, 0, 0], [1, 0, 0]].map(|to| Tensor::from_slice(&device, &[3], &to).unwrap());
        assert_eq!(nll_loss(&log, Dim::LAST, &a, &none).unwrap().to_vec().unwrap(), [f32::INFINITY, 2.0, 0.5]);
        assert_eq!(nll_loss(&log, Dim::LAST, &b, &none).unwrap().to_vec().unwrap(), [1.0, 2.0, 0.5]);
        let (c, d) = (
            Tensor::from_slice(&device, &[3], &[1i32, 0, 0]).unwrap(),
            Tensor::from_slice(&device, &[3], &[1u32, 0, 0]).unwrap(),
        );
        for to in [Targets::from(&c), Targets::from(&d)] {
            assert_eq!(nll_loss(&log, Dim::LAST, to, &none).unwrap().to_vec().unwrap(), [1.0, 2.0, 0.5]);
        }
        // A weight of 0 looks at nothing; nothing that counts is a mean of 0.
        let zero = Tensor::<f32>::zeros(&device, &[2]).unwrap();
        let options = NllLoss { class_weights: Some(zero.view()), ..NllLoss::default() };
        assert_eq!(nll_loss(&log, Dim::LAST, &a, &options).unwrap().to_vec().unwrap(), [0.0]);
        let one = Tensor::from_slice(&device, &[], &[1f32]).unwrap();
        let slopes = nll_loss_backward(&log, Dim::LAST, &a, &one, &options).unwrap().to_vec().unwrap();
        assert!(slopes.iter().all(|slope| *slope == 0.0));
        let (no_rows, no_targets) =
            (Tensor::<f32>::zeros(&device, &[0, 4]).unwrap(), Tensor::<i64>::zeros(&device, &[0]));
        let loss =
            nll_loss(&LogProbabilities::from_tensor(no_rows), Dim::LAST, &no_targets.unwrap(), &NllLoss::default());
        assert_eq!(loss.unwrap().to_vec().unwrap(), [0.0]);
    }
}

/// NaN and gradient 0 on a GPU, and one report; an error at once on the host.
#[test]
fn bad_targets() {
    for device in devices() {
        let log = LogProbabilities::from_tensor(Tensor::<f32>::zeros(&device, &[4, 3]).unwrap());
        let to = Tensor::from_slice(&device, &[4], &[0i64, 3, -1, 2]).unwrap();
        let bad = |op| Error::Target { op, row: 1, value: 3, classes: 3 };
        let none = NllLoss { reduction: Reduction::None, ..NllLoss::default() };
        let result = nll_loss(&log, Dim::LAST, &to, &none);
        if device.is_cpu() {
            assert_eq!(result.unwrap_err(), bad("nll_loss"));
            let one = Tensor::from_slice(&device, &[], &[1f32]).unwrap();
            let result = nll_loss_backward(&log, Dim::LAST, &to, &one, &NllLoss::default());
            assert_eq!(result.unwrap_err(), bad("nll_loss_backward"));
            continue;
        }
        assert_eq!(device.check().unwrap_err(), bad("nll_loss"));
        let loss = result.unwrap().to_vec().unwrap();
        assert!(loss[0] == 0.0 && loss[1].is_nan() && loss[2].is_nan() && loss[3] == 0.0, "{loss:?}");
        let one = Tensor::from_slice(&device, &[], &[1f32]).unwrap();
        let slopes = nll_loss_backward(&log, Dim::LAST, &to, &one, &NllLoss::default()).unwrap();
        // A mean counts its targets again, and says so.
        assert_eq!(device.check().unwrap_err(), bad("nll_loss_backward"));
        let slopes = slopes.to_vec().unwrap();
        // Bad targets are counted, as cross-entropy does.
        assert_eq!(slopes, [-0.25, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -0.25]);
    }
}

#[track_caller]
fn refused<V: std::fmt::Debug>(result: Result<V, Error>, text: &str) {
    assert_eq!(result.expect_err("bad input was accepted").to_string(), text);
}

#[test]
fn what_is_refused() {
    let plain = NllLoss::default();
    for device in devices() {
        let floats = |dims: &[usize]| Tensor::<f32>::zeros(&device, dims).unwrap();
        let log = |dims: &[usize]| LogProbabilities::from_tensor(floats(dims));
        let to = |dims: &[usize]| Tensor::<i64>::zeros(&device, dims).unwrap();
        let out_of_range = "nll_loss: dim front(2) is out of range for shape [4, 3]";
        refused(nll_loss(&log(&[4, 3]), Dim::front(2), &to(&[4]), &plain), out_of_range);
        let text = "nll_loss: shapes differ: [3] in targets, [4] in log_probabilities without their class dim";
        refused(nll_loss(&log(&[4, 3]), Dim::LAST, &to(&[3]), &plain), text);
        let text = "nll_loss: logits of shape [4, 0] have rows but no classes along dim 1";
        refused(nll_loss(&log(&[4, 0]), Dim::LAST, &to(&[4]), &plain), text);
        let spread = floats(&[4, 3]);
        let text = "nll_loss: the number of probabilities per target is 3, it must be 0, as targets are classes here";
        refused(nll_loss(&log(&[4, 3]), Dim::LAST, Targets::probabilities(&spread), &plain), text);
        let four = floats(&[4]);
        let options = NllLoss { class_weights: Some(four.view()), ..plain };
        let text = "nll_loss: shapes differ: [4] in class_weights, [3] in one number per class";
        refused(nll_loss(&log(&[4, 3]), Dim::LAST, &to(&[4]), &options), text);
        let options = NllLoss { reduction: Reduction::MeanOver(four.view()), ..plain };
        let text = "nll_loss: shapes differ: [4] in the divisor, [] in one number";
        refused(nll_loss(&log(&[4, 3]), Dim::LAST, &to(&[4]), &options), text);
        let text = "nll_loss_backward: shapes differ: [4] in upstream, [] in the loss";
        refused(nll_loss_backward(&log(&[4, 3]), Dim::LAST, &to(&[4]), &four, &plain), text);
        let text = "nll_loss: shapes differ: [4] in loss, [] in the loss";
        refused(nll_loss_into(&log(&[4, 3]), Dim::LAST, &to(&[4]), &plain, &mut floats(&[4])), text);
    }
    let here = LogProbabilities::from_tensor(Tensor::<f32>::zeros(&Device::cpu(), &[2, 3]).unwrap());
    let result = nll_loss(&here, Dim::LAST, &Tensor::<i64>::zeros(&gpu(), &[2]).unwrap(), &plain);
    assert!(matches!(result, Err(Error::DifferentDevices { .. })), "{result:?}");
}

/// Rows of a block far behind its first, at offsets beyond 2^32 elements; targets and upstream gradients far apart.
#[test]
fn far_offsets() {
    let Some(soft) = soft() else { return };
    let (device, grid, classes) = (gpu(), 1usize << 24, 300);
    let rows = grid + 9;
    let mut y = zeros::<f16>(&soft, &device, &[rows, classes]);
    put(&mut y, rows * classes - 1, &[f16::from_f32(-3.5)]);
    let last = Tensor::from_slice(&device, &[1], &[classes as i64 - 1]).unwrap();
    let to = last.view().expand(&[rows]).unwrap();
    let none = NllLoss { reduction: Reduction::None, ..NllLoss::default() };
    soft.checks(softgpu::launch::Checks { init: false, ..softgpu::launch::Checks::ALL });
    soft.only_ctas(Some(&[0]));
    let y = LogProbabilities::from_tensor(y);
    let loss = nll_loss(&y, Dim::LAST, to, &none).unwrap();
    let one = Tensor::from_slice(&device, &[1], &[2f32]).unwrap();
    let mut slopes = zeros::<f16>(&soft, &device, &[rows, classes]);
    let g: View<'_, f32> = one.view().expand(&[rows]).unwrap();
    nll_loss_backward_into(&y, Dim::LAST, to, g, &none, slopes.view_mut()).unwrap();
    device.synchronize().unwrap();
    soft.only_ctas(None);
    soft.checks(softgpu::launch::Checks::ALL);
    assert_eq!(loss.view().slice(Dim::LAST, rows - 1..rows).unwrap().to_vec().unwrap(), [3.5]);
    let row = slopes.view().slice(Dim::front(0), rows - 1..rows).unwrap().to_vec().unwrap();
    assert_eq!((row[classes - 2].to_f32(), row[classes - 1].to_f32()), (0.0, -2.0));
    let far = Far::new(&soft, &device, &[3, 1], &[7i64, 0, 9]);
    let log: Vec<f32> = (0..30).map(|i| -(i as f32)).collect();
    let log = LogProbabilities::from_tensor(Tensor::from_slice(&device, &[3, 10, 1], &log).unwrap());
    let loss = nll_loss(&log, Dim::front(1), far.view(), &none).unwrap();
    assert_eq!(loss.to_vec().unwrap(), [7.0, 10.0, 29.0]);
    assert_no_findings(&"far offsets");
}
