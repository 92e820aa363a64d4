//! The bits of a row are its own: the same on every schedule, at any place in any batch, in any memory.

use sumexp::{Dim, SoftmaxOptions, Tensor};

use super::run::{named, run};
use crate::common::arrange::Arrangement::{Offset, Padded, Reversed};
use crate::common::cases::{Case, Fill};
use crate::common::device::soft;
use crate::common::family::{OPS, Op};
use crate::common::gpu::device;

/// Lengths that cover every kernel: rows of a group of lanes, of a block, split rows; columns of every form.
fn cases() -> Vec<Case> {
    let rows = [12, 100, 300, 1500, 5000, 20_000, 70_000].map(|len| Case::new(&[3, len], Fill::Ordinary));
    let columns = [5, 20, 100, 200, 500].map(|len| Case::new(&[2, len, 9], Fill::Ordinary).along(1));
    rows.into_iter().chain(columns).collect()
}

#[test]
fn every_schedule_gives_the_same_bits() {
    let Some(soft) = soft() else { return };
    let device = device();
    // Softmin and the gradient of logsumexp run the same kernels as these.
    let ops = [Op::Softmax, Op::LogSumExp, Op::SoftmaxBackward, Op::LogSoftmaxBackward];
    for case in cases() {
        for op in ops {
            soft.seed(0);
            let first = run::<f32>(op, &case, &device).bits();
            for seed in 1..=20 {
                soft.seed(seed);
                let again = run::<f32>(op, &case, &device).bits();
                assert!(again == first, "{} gives other bits on schedule {seed}", named::<f32>(op, &case, &device));
            }
        }
    }
    soft.seed(0);
}

/// Without a software GPU the hardware's own schedules are all there is.
#[test]
fn repeated_runs_give_the_same_bits() {
    let device = device();
    for case in cases() {
        for op in OPS {
            let first = run::<half::bf16>(op, &case, &device).bits();
            for _ in 0..3 {
                assert!(
                    run::<half::bf16>(op, &case, &device).bits() == first,
                    "{}",
                    named::<half::bf16>(op, &case, &device)
                );
            }
        }
    }
}

#[test]
fn memory_does_not_matter() {
    let device = device();
    for case in cases() {
        for op in OPS {
            let first = run::<f32>(op, &case, &device).bits();
            for input in [Offset(1), Offset(2), Reversed, Padded(1, 2), Padded(4, 4)] {
                let moved = case.clone().input(input).output(Offset(3));
                assert!(run::<f32>(op, &moved, &device).bits() == first, "{}", named::<f32>(op, &moved, &device));
            }
        }
    }
}

#[test]
fn a_row_alone_has_the_bits_it_has_in_a_batch() {
    let device = device();
    let options = SoftmaxOptions { temperature: 0.7, ..SoftmaxOptions::default() };
    for len in [12, 100, 300, 1500, 5000, 20_000, 70_000] {
        let rows = if len < 2000 { 9 } else { 3 };
        let x = Case::new(&[rows, len], Fill::Ordinary).logits::<f32>();
        let batch = Tensor::from_slice(&device, &[rows, len], &x).unwrap();
        let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        let y = bits(sumexp::softmax(&batch, Dim::LAST, &options).unwrap().to_vec().unwrap());
        let lse = bits(sumexp::logsumexp(&batch, Dim::LAST, &options).unwrap().to_vec().unwrap());
        for (row, lse) in lse.into_iter().enumerate() {
            let range = row * len..(row + 1) * len;
            let alone = Tensor::from_slice(&device, &[len], &x[range.clone()]).unwrap();
            let of_row = bits(sumexp::softmax(&alone, Dim::LAST, &options).unwrap().to_vec().unwrap());
            assert!(of_row == y[range], "row {row} of {rows} x {len}");
            let of_row = bits(sumexp::logsumexp(&alone, Dim::LAST, &options).unwrap().to_vec().unwrap());
            assert_eq!(of_row, [lse], "row {row} of {rows} x {len}");
        }
    }
}
