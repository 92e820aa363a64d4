//! Targets that nobody chose with care, and vocabularies of any size.

use sumexp::{CrossEntropy, Device, Dim, Error, Reduction, Targets, Tensor, cross_entropy, f16};

use crate::common::device::assert_no_findings;
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

/// Vectors of targets that a run takes. `SUMEXP_HOSTILE_TARGETS` asks for more: `make hostile-targets` takes a million.
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
