//! What the kernels of cross-entropy and of nll_loss ask of memory, counted by the software GPU: whole sectors, each element once,
//! no bank conflicts, no local memory.

use sumexp::{
    CrossEntropy, Dim, LogProbabilities, NllLoss, Reduction, Targets, Tensor, bf16, cross_entropy,
    cross_entropy_backward, nll_loss, nll_loss_backward,
};

use crate::common::cases::{Case, Fill};
use crate::common::compare::Format;
use crate::common::device::soft;
use crate::common::gpu::device as gpu;

/// What a row has to be compared with.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Classes,
    Smoothed,
    Probabilities,
}

/// One class per row or column, and probabilities of the elements' own type.
fn cross_entropies<T: Format>(case: &Case, kind: Kind) {
    let Some(soft) = soft() else { return };
    let device = gpu();
    let x = Tensor::from_slice(&device, &case.dims, &case.logits::<T>()).unwrap();
    let mut per_row = case.dims.clone();
    per_row.remove(case.dim);
    let classes: Vec<i64> = (0..case.rows()).map(|row| (row * 7 % case.len()) as i64).collect();
    let classes = Tensor::from_slice(&device, &per_row, &classes).unwrap();
    let even = vec![T::from_f64(1.0 / case.len() as f64); case.rows() * case.len()];
    let even = Tensor::from_slice(&device, &case.dims, &even).unwrap();
    let targets = if kind == Kind::Probabilities { Targets::probabilities(&even) } else { Targets::from(&classes) };
    let smoothing = if kind == Kind::Smoothed { 0.1 } else { 0.0 };
    let options = CrossEntropy { label_smoothing: smoothing, reduction: Reduction::None, ..CrossEntropy::default() };
    let upstream = Tensor::from_slice(&device, &per_row, &vec![1f32; case.rows()]).unwrap();
    let dim = Dim::front(case.dim);
    let out = cross_entropy(&x, dim, targets, &options).unwrap();
    cross_entropy_backward(&x, dim, targets, &out.saved, &upstream, &options).unwrap();
    device.synchronize().unwrap();

    let launches = soft.take_launches();
    let launches: Vec<_> = launches.iter().filter(|launch| launch.kernel.starts_with("cross_entropy")).collect();
    assert!(launches.len() >= 2, "forward and backward are different kernels: {launches:?}");
    let rows = case.rows() as u64;
    let elements = (case.rows() * case.len() * size_of::<T>()) as u64;
    let read = if kind == Kind::Probabilities { 2 * elements } else { elements };
    for launch in launches {
        let kernel = &launch.kernel;
        let counters = soft.counters(kernel).expect("it was just launched");
        let name = format!("{kernel}, {kind:?}, {case}");
        let (sectors, minimum) = (counters.global_loads.sectors, counters.global_loads.minimum);
        println!(
            "{name}: {:.1} PTX instructions per element, {:.3} times read, sectors {:.3}, stores {:.3}",
            counters.thread_instructions as f64 / (case.rows() * case.len()) as f64,
            (32 * sectors) as f64 / read as f64,
            counters.global_loads.ratio(),
            counters.global_stores.ratio(),
        );
        // Beside the operands every warp reads, of its rows, the targets, what was saved, and the upstream gradient; forward, a
        // target's logit may lie in a sector of its own. Of the longest rows and columns here a second look would be more.
        let warps = launch.grid.iter().chain(&launch.block).map(|&n| u64::from(n)).product::<u64>() / 32;
        let beside = match (kernel.contains("columns"), kernel.contains("backward")) {
            (false, false) => rows + 2 * warps,
            (false, true) => rows + 7 * warps,
            (true, false) => rows + 8 * warps,
            (true, true) => 29 * warps,
        };
        assert!((read / 32..=read / 32 + beside).contains(&sectors), "{name}: {sectors} sectors for {read} bytes");
        assert!(sectors <= minimum + rows, "{name}: {sectors} sectors for {minimum}");
        if kernel.contains("backward") {
            assert_eq!(counters.global_stores.bytes, elements, "{name}: each gradient once");
            assert_eq!(counters.global_stores.sectors, counters.global_stores.minimum, "{name}: sectors stored");
        } else {
            assert!(counters.global_stores.bytes <= 64 * rows, "{name}: no element is written");
        }
        assert_eq!(counters.shared.wavefronts, counters.shared.minimum, "{name}: bank conflicts");
        assert_eq!(counters.local_bytes, 0, "{name}: local memory");
    }
    soft.reset_counters();
}

/// Rows of a few lanes, of a warp, of a block.
#[test]
fn rows_are_read_once() {
    for kind in [Kind::Classes, Kind::Smoothed, Kind::Probabilities] {
        for (rows, classes) in [(70, 32), (9, 256), (5, 2048), (2, 8192)] {
            let case = Case::new(&[rows, classes], Fill::Ordinary);
            cross_entropies::<f32>(&case, kind);
            cross_entropies::<bf16>(&case, kind);
        }
    }
}

/// Columns side by side are read by lanes side by side.
#[test]
fn columns_are_read_once() {
    for kind in [Kind::Classes, Kind::Smoothed, Kind::Probabilities] {
        for dims in [[2, 5, 256], [1, 200, 512]] {
            let case = Case::new(&dims, Fill::Ordinary).along(1);
            cross_entropies::<f32>(&case, kind);
            cross_entropies::<bf16>(&case, kind);
        }
    }
}

/// nll_loss looks at one element per row, and its gradient at none: zeros are written once, and one element per row again.
#[test]
fn nll_reads_one_element_per_row() {
    fn of<T: Format>(dims: &[usize], dim: usize) {
        let Some(soft) = soft() else { return };
        let (device, case) = (gpu(), Case::new(dims, Fill::Ordinary).along(dim));
        let log = LogProbabilities::from_tensor(Tensor::from_slice(&device, dims, &case.logits::<T>()).unwrap());
        let mut per_row = dims.to_vec();
        let classes = per_row.remove(dim);
        let rows = case.rows();
        let targets: Vec<i64> = (0..rows).map(|row| (row * 7 % classes) as i64).collect();
        let targets = Tensor::from_slice(&device, &per_row, &targets).unwrap();
        let upstream = Tensor::from_slice(&device, &per_row, &vec![1f32; rows]).unwrap();
        let options = NllLoss { reduction: Reduction::None, ..NllLoss::default() };
        nll_loss(&log, Dim::front(dim), &targets, &options).unwrap();
        nll_loss_backward(&log, Dim::front(dim), &targets, &upstream, &options).unwrap();
        device.synchronize().unwrap();
        let width = size_of::<T>();
        let expected = [
            ("nll_forward", rows * (8 + width), rows * 4),
            ("nll_backward", rows * (8 + 4), rows * width),
            ("nll_zeros", 0, rows * classes * width),
        ];
        for (name, loaded, stored) in expected {
            let symbol = if name == "nll_zeros" { name.to_string() } else { format!("{name}_{}", T::DTYPE) };
            let counters = soft.counters(&symbol).expect("it was just launched");
            let moved = (counters.global_loads.bytes, counters.global_stores.bytes);
            assert_eq!(moved, (loaded as u64, stored as u64), "{symbol} on {dims:?}");
            assert_eq!(counters.local_bytes, 0, "{symbol}");
            if name == "nll_zeros" {
                assert_eq!(counters.global_stores.sectors, counters.global_stores.minimum, "{symbol} on {dims:?}");
            }
        }
        soft.reset_counters();
    }
    for (dims, dim) in [(&[100usize, 64][..], 1), (&[3, 40, 50], 1)] {
        of::<f32>(dims, dim);
        of::<bf16>(dims, dim);
    }
}
