//! Targets that nobody chose with care, and what the kernels ask of memory.

use sumexp::{CrossEntropy, Device, Dim, Error, Float, Reduction, Targets, Tensor, bf16, cross_entropy, f16};

use crate::common::device::{assert_no_findings, soft};
use crate::common::gpu::device as gpu;
use crate::common::random::Random;

const CORNERS: [i64; 14] = [
    i64::MIN,
    i64::MIN + 1,
    i32::MIN as i64,
    -100,
    -1,
    0,
    1,
    i32::MAX as i64,
    u32::MAX as i64,
    1 << 32,
    (1 << 32) + 1,
    1 << 62,
    i64::MAX - 1,
    i64::MAX,
];

/// Vectors of targets that a run takes, each of a row of its own batch dim. `SUMEXP_HOSTILE_TARGETS` asks for more.
fn vectors() -> usize {
    let asked = std::env::var("SUMEXP_HOSTILE_TARGETS").ok();
    asked.map_or(20_000, |count| count.parse().expect("SUMEXP_HOSTILE_TARGETS is a number"))
}

/// Random bytes, corners of the type, the neighbourhood of the classes, and classes.
fn targets(random: &mut Random, count: usize, classes: i64) -> Vec<i64> {
    let draw = |_| match random.below(4) {
        0 => random.bits() as i64,
        1 => CORNERS[random.below(CORNERS.len())],
        2 => classes - 2 + random.below(4) as i64,
        _ => random.below(classes as usize) as i64,
    };
    (0..count).map(draw).collect()
}

/// A launch takes 4096 vectors of 3 targets. Rows with a class have the loss of equal logits, ignored ones 0 and bad ones NaN; the
/// record holds the first bad one; and the device takes the next call.
#[test]
fn hostile_targets() {
    let device = gpu();
    let mut random = Random::new(94);
    let (together, classes) = (4096 * 3, 3i64);
    let logits = Tensor::<f16>::zeros(&device, &[together, classes as usize]).unwrap();
    let across = Tensor::<f16>::zeros(&device, &[classes as usize, together]).unwrap();
    for launch in 0..vectors().div_ceil(4096) {
        let values = targets(&mut random, together, classes);
        // As i32 and u32 the same bits are other numbers.
        let (kind, ignored) = (launch % 3, [-100, i64::MIN, 5][random.below(3)]);
        let seen: Vec<i64> = match kind {
            0 => values,
            1 => values.iter().map(|value| i64::from(*value as i32)).collect(),
            _ => values.iter().map(|value| i64::from(*value as u32)).collect(),
        };
        let options = CrossEntropy {
            ignore_index: Some(ignored),
            reduction: Reduction::None,
            // Every other launch takes the kernels in which every class has a share.
            label_smoothing: if launch % 2 == 0 { 0.0 } else { 0.5 },
            ..CrossEntropy::default()
        };
        let run = |targets: Targets| {
            if launch % 4 < 2 {
                cross_entropy(&logits, Dim::LAST, targets, &options)
            } else {
                cross_entropy(&across, Dim::front(0), targets, &options)
            }
        };
        let output = match kind {
            0 => run((&Tensor::from_slice(&device, &[together], &seen).unwrap()).into()),
            1 => {
                let narrow: Vec<i32> = seen.iter().map(|value| *value as i32).collect();
                run((&Tensor::from_slice(&device, &[together], &narrow).unwrap()).into())
            }
            _ => {
                let narrow: Vec<u32> = seen.iter().map(|value| *value as u32).collect();
                run((&Tensor::from_slice(&device, &[together], &narrow).unwrap()).into())
            }
        };
        let output = output.expect("a legal call");
        let first = seen.iter().position(|value| *value != ignored && !(0..classes).contains(value));
        match (device.check(), first) {
            (Err(Error::Target { op: "cross_entropy", row, value, classes: 3 }), Some(first)) => {
                assert_eq!((row, value), (first as u64, seen[first]), "launch {launch}");
            }
            (result, first) => assert!(result.is_ok() && first.is_none(), "launch {launch}: {result:?}, {first:?}"),
        }
        let losses = output.loss.to_vec().expect("the device is alive");
        for (row, (loss, value)) in losses.into_iter().zip(&seen).enumerate() {
            let right = if *value == ignored {
                loss == 0.0
            } else if (0..classes).contains(value) {
                (loss - 3f32.ln()).abs() < 1e-6
            } else {
                loss.is_nan()
            };
            assert!(right, "launch {launch}, row {row}: target {value} gave {loss}");
        }
    }
    assert_no_findings(&"hostile targets");
}

/// Aligned rows and classes across memory: what is read once is read in whole sectors, and nothing goes to local memory.
fn whole_sectors<T: Float>() {
    let Some(soft) = soft() else { return };
    let device = gpu();
    let rows = [[64, 32], [32, 256], [8, 4096], [2, 32_768]];
    // [positions, classes], with a smoothed target or not; then 19 classes across a picture.
    for (dims, dim, smooth) in rows
        .iter()
        .flat_map(|dims| [(&dims[..], 1, false), (&dims[..], 1, true)])
        .chain([(&[2, 19, 64, 64][..], 1, false), (&[2, 19, 64, 64][..], 1, true)])
    {
        let elements: usize = dims.iter().product();
        let values: Vec<T> = (0..elements).map(|i| T::from_f64(((i * 7919) % 113) as f64 / 8.0)).collect();
        let x = Tensor::from_slice(&device, dims, &values).unwrap();
        let mut sizes = dims.to_vec();
        sizes.remove(dim);
        let count = elements / dims[dim];
        let to = Tensor::<i64>::zeros(&device, &sizes).unwrap();
        let options = CrossEntropy {
            label_smoothing: if smooth { 0.1 } else { 0.0 },
            reduction: Reduction::None,
            ..CrossEntropy::default()
        };
        device.synchronize().unwrap();
        soft.reset_counters();
        soft.take_launches();
        cross_entropy(&x, Dim::front(dim), &to, &options).unwrap();
        device.synchronize().unwrap();
        let launches = soft.take_launches();
        let kernel = launches.iter().find(|launch| launch.kernel.contains("forward")).expect("launched").kernel.clone();
        let counters = soft.counters(&kernel).expect("launched");
        let row_sectors = (elements * T::DTYPE.size() / 32) as u64;
        let read = counters.global_loads.sectors as f64 / row_sectors as f64;
        println!("{kernel} {dims:?}: {read:.3} of the sectors that the logits fill");
        assert_eq!(
            counters.global_loads.sectors, counters.global_loads.minimum,
            "{kernel} on {dims:?}: sectors loaded"
        );
        // Every warp of a row reads the target beside it, and perhaps the target's logit.
        let warps = if dims[dim] <= 512 { 1 } else { 32 };
        assert!(
            counters.global_loads.sectors <= row_sectors + 2 * warps * count as u64,
            "{kernel} on {dims:?}: {read}"
        );
        assert_eq!(counters.local_bytes, 0, "{kernel} on {dims:?}: local memory");
        assert_eq!(counters.shared.wavefronts, counters.shared.minimum, "{kernel} on {dims:?}: bank conflicts");
    }
}

#[test]
fn f32_rows_are_read_in_whole_sectors() {
    whole_sectors::<f32>();
}

#[test]
fn half_rows_are_read_in_whole_sectors() {
    whole_sectors::<f16>();
    whole_sectors::<bf16>();
}

/// A vocabulary that no power of two divides, beside one that is.
#[test]
fn vocabularies() {
    for device in [Device::cpu(), gpu()] {
        for classes in [262_144usize, 300_001] {
            let mut x = vec![0.0f32; classes];
            x[classes - 1] = 20.0;
            let logits = Tensor::from_slice(&device, &[1, classes], &x).unwrap();
            let to = Tensor::from_slice(&device, &[1], &[classes as i64 - 1]).unwrap();
            let options = CrossEntropy { statistics: true, label_smoothing: 0.5, ..CrossEntropy::default() };
            let output = cross_entropy(&logits, Dim::LAST, &to, &options).unwrap();
            let others = (classes - 1) as f64 * (-20f64).exp();
            let want = others.ln_1p() + 0.5 * 20.0 * (classes - 1) as f64 / classes as f64;
            let loss = f64::from(output.loss.to_vec().unwrap()[0]);
            assert!((loss / want - 1.0).abs() < 3e-7, "{loss} and {want} on {device:?}");
            let statistics = output.statistics.unwrap();
            assert_eq!(statistics.argmax.to_vec().unwrap(), [classes as i64 - 1]);
            assert_eq!(statistics.rank.to_vec().unwrap(), [0]);
            let nll = f64::from(statistics.nll.to_vec().unwrap()[0]);
            assert!((nll / others.ln_1p() - 1.0).abs() < 3e-7, "{nll} on {device:?}");
        }
    }
}
