//! Values against the float64 reference.

use sumexp::Polarity::{Hide, Keep};
use sumexp::{Device, Dim, SoftmaxOptions, Tensor, f16};

use super::run::{check, check_all_types};
use crate::common::arrange::Arrangement::{EveryOther, Offset, Padded, Repeated, Reversed};
use crate::common::cases::{Case, Fill, SPECIAL_ROWS};
use crate::common::compare::faults;
use crate::common::device::devices;
use crate::common::family::{OPS, Op, lazy_answers, want};

/// NaN, infinities and hidden rows beside ordinary ones, in every kernel.
#[test]
fn special_rows() {
    for len in [1, 3, 17, 33, 150, 700, 2100] {
        check_all_types(&Case::new(&[SPECIAL_ROWS.len() + 3, len], Fill::Special));
    }
    for (len, inner) in [(3, 5), (20, 3), (40, 2), (150, 2), (300, 2)] {
        let case = Case::new(&[SPECIAL_ROWS.len() / inner + 2, len, inner], Fill::Special).along(1);
        check_all_types(&case);
    }
}

/// Short rows in every length: every unit of vector loads, every tail.
#[test]
fn short_rows() {
    for len in (1..=40).chain([63, 64, 65, 95, 100, 127, 128, 129, 255, 256, 257]) {
        check_all_types(&Case::new(&[5, len], Fill::Ordinary));
    }
}

/// Every rung of the plan at its longest row, and one element to either side.
#[test]
fn rungs() {
    use sumexp::plan::softmax::{BACKWARD, FORWARD};
    let mut lengths: Vec<u64> = Vec::new();
    for rung in FORWARD.iter().chain(&BACKWARD) {
        for size in [4, 2] {
            let longest = u64::from(rung.piece.lanes * rung.piece.vectors) * 16 / size;
            lengths.extend([longest - 1, longest, longest + 1]);
        }
    }
    lengths.sort_unstable();
    lengths.dedup();
    for len in lengths {
        let rows = if len < 2000 { 6 } else { 2 };
        check_all_types(&Case::new(&[rows, len as usize], Fill::Ordinary));
    }
}

/// Rows that no block holds.
#[test]
fn split_rows() {
    check::<f32>(&Case::new(&[2, 100_003], Fill::Ordinary));
    check::<f16>(&Case::new(&[2, 140_000], Fill::Mixed));
    check::<sumexp::bf16>(&Case::new(&[SPECIAL_ROWS.len() + 1, 65_537], Fill::Special));
}

/// Every alignment of logits and results, and lengths that end in every part of a vector.
#[test]
fn alignment() {
    for offset in 0..16 {
        for len in [40, 72, 1032] {
            let case = Case::new(&[3, len], Fill::Ordinary);
            check_all_types(&case.input(Offset(offset)).output(Offset(offset * 5 % 16)));
        }
    }
}

#[test]
fn strides() {
    for input in [Reversed, Padded(1, 6), Padded(8, 8), EveryOther] {
        for dims in [vec![4, 3, 24], vec![2, 2, 1040], vec![3, 130]] {
            check_all_types(&Case::new(&dims, Fill::Ordinary).input(input));
        }
        check_all_types(&Case::new(&[3, 20, 6], Fill::Ordinary).along(1).input(input));
    }
    check_all_types(&Case::new(&[3, 2, 40], Fill::Ordinary).input(Repeated(0)));
    check_all_types(&Case::new(&[3, 5, 8], Fill::Ordinary).along(1).input(Repeated(2)));
    check_all_types(&Case::new(&[3, 40], Fill::Ordinary).input(Repeated(1)));
}

/// Every dim, at lengths around those at which the column kernels change their form.
#[test]
fn any_dim() {
    for dims in [vec![6, 7, 5], vec![2, 33, 64], vec![9, 2, 8], vec![3, 5, 2, 4, 3], vec![2, 1, 3, 1, 2, 1, 2, 3]] {
        for dim in 0..dims.len() {
            check_all_types(&Case::new(&dims, Fill::Ordinary).along(dim));
        }
    }
    for len in [1, 7, 8, 9, 31, 32, 33, 127, 128, 129, 256, 257, 600] {
        for inner in [3, 8, 40] {
            check_all_types(&Case::new(&[2, len, inner], Fill::Ordinary).along(1));
        }
    }
    check_all_types(&Case::new(&[2, 40, 24], Fill::Mixed).along(1).input(Offset(3)).output(Offset(5)));
}

/// Masks of every shape that broadcasts, kept and hidden, in every kernel and memory.
#[test]
fn masks() {
    for dims in [vec![4, 3, 20], vec![2, 3, 130], vec![2, 2, 2100]] {
        let last = dims[2];
        let shapes = [
            dims.clone(),
            vec![3, last],
            vec![last],
            vec![1],
            vec![dims[0], 1, last],
            vec![dims[0], 1, 1],
            vec![1, 3.min(dims[1]), 1],
            vec![1, 1, last],
        ];
        for (i, shape) in
            shapes.into_iter().filter(|shape| shape.len() < 2 || shape[shape.len() - 2] <= dims[1]).enumerate()
        {
            let broadcasts = shape.iter().rev().zip(dims.iter().rev()).all(|(m, d)| *m == 1 || m == d);
            if !broadcasts {
                continue;
            }
            let polarity = if i % 2 == 0 { Keep } else { Hide };
            let arrangement = [Offset(0), Offset(3), EveryOther, Padded(1, 2)][i % 4];
            check_all_types(&Case::new(&dims, Fill::Ordinary).mask(polarity, &shape, arrangement));
            check_all_types(&Case::new(&dims, Fill::Special).mask(polarity, &shape, arrangement).along(1));
        }
    }
    let aligned = Case::new(&[8, 512], Fill::Special);
    check_all_types(&aligned.clone().mask(Keep, &[8, 512], Offset(0)));
    check_all_types(&aligned.mask(Hide, &[512], Offset(0)).input(Offset(1)));
}

#[test]
fn temperatures() {
    for tau in [1e-40, 1e-5, 0.07, 0.5, 2.0, 30.0, 1e20, f32::MAX] {
        check_all_types(&Case::new(&[6, 50], Fill::Ordinary).tau(tau));
        check_all_types(&Case::new(&[2, 12, 6], Fill::Mixed).along(1).tau(tau));
    }
}

/// The largest and smallest finite logits, and rows without any difference.
#[test]
fn equal_and_extreme_rows() {
    for value in [0.0, -1000.0, 1000.0, 6e4, -6e4] {
        check_all_types(&Case::new(&[2, 70], Fill::Constant(value)));
    }
    for value in [88e3, f64::from(f32::MAX), -f64::from(f32::MAX)] {
        check::<f32>(&Case::new(&[2, 70], Fill::Constant(value)));
    }
    // As many terms as pass the largest f16.
    check::<f16>(&Case::new(&[1, 70_000], Fill::Constant(0.0)));
}

#[test]
fn empty_tensors_and_single_elements() {
    for device in devices() {
        for dims in [[0, 5], [5, 0], [0, 0]] {
            let x = Tensor::<f32>::zeros(&device, &dims).unwrap();
            let y = sumexp::softmax(&x, Dim::LAST, &SoftmaxOptions::default()).unwrap();
            assert!(y.to_vec().unwrap().is_empty());
            let lse = sumexp::logsumexp(&x, Dim::LAST, &SoftmaxOptions::default()).unwrap();
            assert_eq!(lse.to_vec().unwrap(), vec![f32::NEG_INFINITY; dims[0]], "{dims:?} on {device:?}");
        }
    }
    check_all_types(&Case::new(&[1], Fill::Ordinary));
    check_all_types(&Case::new(&[40], Fill::Ordinary));
}

/// More rows than a grid has blocks along y or z.
#[test]
fn many_rows() {
    check::<f16>(&Case::new(&[70_000, 3], Fill::Ordinary));
    check::<f16>(&Case::new(&[66_000, 2, 2], Fill::Ordinary).along(1));
}

/// The owned results are what the `_into` forms write.
#[test]
fn owned_forms() {
    let options = SoftmaxOptions { temperature: 0.5, ..SoftmaxOptions::default() };
    for device in devices() {
        let owned = |values: &[f32]| Tensor::from_slice(&device, &[2, 3], values).unwrap();
        let x = owned(&[1.0, 2.0, 4.0, 0.0, 0.0, -1.0]);
        let dy = owned(&[1.0, 0.0, 0.0, 0.5, -1.0, 2.0]);
        let mut into = owned(&[0.0; 6]);
        let y = sumexp::softmax(&x, Dim::LAST, &options).unwrap();
        sumexp::softmax_into(&x, Dim::LAST, &options, &mut into).unwrap();
        assert_eq!(y.to_vec().unwrap(), into.to_vec().unwrap());
        let dx = sumexp::softmax_backward(&y, &dy, Dim::LAST, &options).unwrap();
        sumexp::softmax_backward_into(y.view_values(), &dy, Dim::LAST, &options, &mut into).unwrap();
        assert_eq!(dx.to_vec().unwrap(), into.to_vec().unwrap());
        let log = sumexp::log_softmax(&x, Dim::LAST, &options).unwrap();
        sumexp::log_softmax_into(&x, Dim::LAST, &options, &mut into).unwrap();
        assert_eq!(log.to_vec().unwrap(), into.to_vec().unwrap());
        let dx = sumexp::log_softmax_backward(&log, &dy, Dim::LAST, &options).unwrap();
        sumexp::log_softmax_backward_into(log.view_values(), &dy, Dim::LAST, &options, &mut into).unwrap();
        assert_eq!(dx.to_vec().unwrap(), into.to_vec().unwrap());
        let minus = owned(&[-1.0, -2.0, -4.0, 0.0, 0.0, 1.0]);
        let min = sumexp::softmin(&minus, Dim::LAST, &options).unwrap();
        assert_eq!(min.to_vec().unwrap(), y.to_vec().unwrap());
        let dx = sumexp::softmin_backward(&min, &dy, Dim::LAST, &options).unwrap();
        sumexp::softmin_backward_into(min.view_values(), &dy, Dim::LAST, &options, &mut into).unwrap();
        assert_eq!(dx.to_vec().unwrap(), into.to_vec().unwrap());
        let dlse = Tensor::from_slice(&device, &[2], &[1.0f32, -2.0]).unwrap();
        let dx = sumexp::logsumexp_backward(&x, &dlse, Dim::LAST, &options).unwrap();
        sumexp::logsumexp_backward_into(&x, &dlse, Dim::LAST, &options, &mut into).unwrap();
        assert_eq!(dx.to_vec().unwrap(), into.to_vec().unwrap());
    }
}

/// Why a lazy answer is right for a case: then the case cannot tell.
fn exempt(case: &Case, op: Op, lazy: &str) -> Option<&'static str> {
    match (op, lazy) {
        (Op::Softmax | Op::Softmin | Op::LogSoftmax, "uniform") if case.len() == 1 => Some("one entry: probability 1"),
        (Op::LogSoftmax, "zeros" | "last row missing") if case.len() == 1 => Some("one entry: log-probability 0"),
        (Op::SoftmaxBackward | Op::SoftminBackward | Op::LogSoftmaxBackward, "zeros" | "last row missing")
            if case.len() == 1 =>
        {
            Some("one entry: the result does not depend on it")
        }
        (Op::LogSumExpBackward, "dlse / len") if case.len() == 1 => Some("one entry: probability 1"),
        (Op::Softmax, "along the wrong dim") if case.dims == [1, 1] => Some("one element: every dim is the same"),
        _ => None,
    }
}

/// On every kind of case, what a broken kernel might give must not pass for right.
#[test]
fn lazy_answers_are_rejected() {
    let (mut rejected, mut exempted) = (0, 0);
    let cases = [
        Case::new(&[4, 1], Fill::Ordinary),
        Case::new(&[4, 3], Fill::Ordinary),
        Case::new(&[4, 33], Fill::Ordinary).tau(0.5),
        Case::new(&[16, 40], Fill::Special),
        Case::new(&[3, 2100], Fill::Ordinary).mask(Keep, &[2100], Offset(0)),
        Case::new(&[4, 20, 6], Fill::Ordinary).along(1).mask(Hide, &[4, 20, 1], Offset(0)),
        Case::new(&[2, 70_000], Fill::Ordinary),
    ];
    for case in &cases {
        for op in OPS {
            let want = want::<f32>(case, op);
            for (name, lazy) in lazy_answers::<f32>(case, op) {
                if exempt(case, op, name).is_some() {
                    exempted += 1;
                    continue;
                }
                let noticed = !faults(&lazy, &want, op.tolerance::<f32>()).is_empty();
                assert!(noticed, "{op} {case}: {name} passes for right");
                rejected += 1;
            }
        }
    }
    assert_eq!((rejected, exempted), (266, 12));
}

/// The host is a device like any other.
#[test]
fn the_host_needs_no_gpu() {
    let x = Tensor::from_slice(&Device::cpu(), &[1, 2], &[0.0f32, 0.0]).unwrap();
    assert_eq!(sumexp::softmax(&x, Dim::LAST, &SoftmaxOptions::default()).unwrap().to_vec().unwrap(), [0.5, 0.5]);
}
