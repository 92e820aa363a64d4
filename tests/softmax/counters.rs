//! What the kernels ask of memory, counted by the software GPU: whole sectors, no bank conflicts, no local memory.

use sumexp::{Dim, Element, Float, SoftmaxOptions, Tensor};

use crate::common::device::soft;
use crate::common::gpu::device;

/// A shape and the dim along which it is reduced.
struct Shape(&'static [usize], usize);

/// Every kernel of the ladders, forward and backward, for either size of elements: all rows aligned, all rungs filled and
/// partly filled; then columns of every form, and rows that are split.
const SHAPES: [Shape; 18] = [
    Shape(&[70, 32], 1),
    Shape(&[33, 64], 1),
    Shape(&[33, 96], 1),
    Shape(&[9, 256], 1),
    Shape(&[9, 512], 1),
    Shape(&[5, 1024], 1),
    Shape(&[5, 2048], 1),
    Shape(&[3, 4096], 1),
    Shape(&[3, 8192], 1),
    Shape(&[2, 16_384], 1),
    Shape(&[2, 32_768], 1),
    Shape(&[2, 65_536], 1),
    Shape(&[1, 131_072], 1),
    Shape(&[3, 8, 1024], 1),
    Shape(&[2, 24, 256], 1),
    Shape(&[2, 100, 128], 1),
    Shape(&[2, 200, 64], 1),
    Shape(&[1000, 64], 0),
];

/// Values with several maxima, so that every branch of the row kernels runs.
fn logits<T: Float>(shape: &[usize]) -> Tensor<T> {
    let count: usize = shape.iter().product();
    let values: Vec<T> = (0..count).map(|i| T::from_f64(((i * 7919) % 113) as f64 / 8.0)).collect();
    Tensor::from_slice(&device(), shape, &values).expect("the software GPU has room for it")
}

fn whole_sectors_and_no_conflicts<T: Float + Element>() {
    let Some(soft) = soft() else { return };
    for Shape(shape, dim) in SHAPES {
        let x = logits::<T>(shape);
        let (dim, options) = (Dim::front(dim), SoftmaxOptions::default());
        let y = sumexp::softmax(&x, dim, &options).expect("a legal call");
        let log_y = sumexp::log_softmax(&x, dim, &options).expect("a legal call");
        sumexp::softmax_backward(&y, &x, dim, &options).expect("a legal call");
        sumexp::log_softmax_backward(&log_y, &x, dim, &options).expect("a legal call");
        x.device().synchronize().expect("no finding");

        let launches = soft.take_launches();
        let kernels: std::collections::BTreeSet<String> = launches.into_iter().map(|launch| launch.kernel).collect();
        assert!(kernels.len() >= 2, "forward and backward are different kernels: {kernels:?}");
        let elements: usize = shape.iter().product();
        for kernel in kernels {
            let counters = soft.counters(&kernel).expect("it was just launched");
            let case = format!("{kernel} on {shape:?}");
            // With `--nocapture` this is the table of instructions per element.
            println!(
                "{case}: {:.1} PTX instructions per element, {} wavefronts of shared memory, loads {:.2}, stores {:.2}",
                counters.thread_instructions as f64 / (elements as u64 * counters.launches) as f64,
                counters.shared.wavefronts,
                counters.global_loads.ratio(),
                counters.global_stores.ratio(),
            );
            assert!(counters.global_loads.bytes > 0 && counters.global_stores.bytes > 0, "{case}: nothing was counted");
            assert_eq!(counters.global_loads.sectors, counters.global_loads.minimum, "{case}: sectors loaded");
            assert_eq!(counters.global_stores.sectors, counters.global_stores.minimum, "{case}: sectors stored");
            let conflicts: Vec<_> = counters.lines.iter().filter(|line| line.shared.bank_conflicts() > 0).collect();
            assert!(conflicts.is_empty(), "{case}: bank conflicts at {conflicts:#?}");
            assert_eq!(counters.local_bytes, 0, "{case}: local memory");
        }
        soft.reset_counters();
    }
}

#[test]
fn f32_kernels_move_whole_sectors_without_bank_conflicts() {
    whole_sectors_and_no_conflicts::<f32>();
}

#[test]
fn f16_kernels_move_whole_sectors_without_bank_conflicts() {
    whole_sectors_and_no_conflicts::<half::f16>();
}

#[test]
fn bf16_kernels_move_whole_sectors_without_bank_conflicts() {
    whole_sectors_and_no_conflicts::<half::bf16>();
}

/// A sum of sectors hides a kernel that reads everything twice, so the bytes are counted too: each element is read once
/// (twice by split rows, three times by columns too long for registers) and written once.
#[test]
fn each_element_moves_as_often_as_planned() {
    let Some(soft) = soft() else { return };
    for (shape, dim, reads) in [
        (vec![9, 512], 1, 1),
        (vec![2, 32_768], 1, 1),
        (vec![1, 131_072], 1, 2),
        (vec![2, 200, 64], 1, 1),
        (vec![1000, 64], 0, 3),
    ] {
        let x = logits::<f32>(&shape);
        sumexp::softmax(&x, Dim::front(dim), &SoftmaxOptions::default()).expect("a legal call");
        x.device().synchronize().expect("no finding");
        let (mut read, mut written) = (0, 0);
        let kernels: std::collections::BTreeSet<_> =
            soft.take_launches().into_iter().map(|launch| launch.kernel).collect();
        for kernel in kernels {
            let counters = soft.counters(&kernel).expect("it was just launched");
            // What is not a logit: the states of slices, 8 bytes each, less than a hundredth of the row.
            read += counters.global_loads.bytes;
            written += counters.global_stores.bytes;
        }
        let bytes = 4 * shape.iter().product::<usize>() as u64;
        assert_eq!((read + bytes / 50) / bytes, reads, "{shape:?} along dim {dim}: {read} bytes read of {bytes}");
        assert!(read < reads * bytes + bytes / 20, "{shape:?}: {read} bytes read of {bytes}");
        assert!(written >= bytes && written < bytes + bytes / 50, "{shape:?}: {written} bytes written of {bytes}");
        soft.reset_counters();
    }
}
