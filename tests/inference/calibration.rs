//! fit_temperature and expected_calibration_error: closed forms, minima that are found otherwise, hand-computed bins.

use sumexp::{
    CalibrationOptions, Device, Dim, Error, FitTemperature, Targets, Tensor, bf16, expected_calibration_error as ece,
    f16, fit_temperature as fit,
};

use crate::common::compare::Format;
use crate::common::device::{assert_no_findings, devices};
use crate::common::gpu::device as gpu;
use crate::common::random::Random;

const DEFAULT: FitTemperature = FitTemperature { ignore_index: Some(-100) };

/// Logits with a known temperature: targets are drawn from the softmax of the logits over it.
struct Drawn {
    classes: usize,
    logits: Vec<f32>,
    targets: Vec<i64>,
}

impl Drawn {
    fn new(rows: usize, classes: usize, temperature: f64, seed: u64) -> Drawn {
        let mut random = Random::new(seed);
        // Multiples of 1/64 are exact in every type.
        let logits: Vec<f32> = (0..rows * classes).map(|_| (random.normal() * 128.0).round() as f32 / 64.0).collect();
        let draw = |x: &[f32]| {
            let weights: Vec<f64> = x.iter().map(|x| (f64::from(*x) / temperature).exp()).collect();
            let mut left = random.unit() * weights.iter().sum::<f64>();
            let at = weights.iter().position(|w| {
                left -= w;
                left < 0.0
            });
            at.unwrap_or(0) as i64
        };
        let targets = logits.chunks(classes).map(draw).collect();
        Drawn { classes, logits, targets }
    }

    fn rows(&self) -> usize {
        self.targets.len()
    }

    fn tensors<T: Format>(&self, device: &Device) -> (Tensor<T>, Tensor<i64>) {
        let x: Vec<T> = self.logits.iter().map(|x| T::from_f64(f64::from(*x))).collect();
        let logits = Tensor::from_slice(device, &[self.rows(), self.classes], &x).unwrap();
        (logits, Tensor::from_slice(device, &[self.rows()], &self.targets).unwrap())
    }

    /// The mean loss at a temperature, in float64 from its definition.
    fn loss(&self, temperature: f64) -> f64 {
        let loss = |(x, target): (&[f32], &i64)| {
            let total: f64 = x.iter().map(|x| (f64::from(*x) / temperature).exp()).sum();
            total.ln() - f64::from(x[*target as usize]) / temperature
        };
        self.logits.chunks(self.classes).zip(&self.targets).map(loss).sum::<f64>() / self.rows() as f64
    }
}

/// A claim of e^a : 1 that is right q times out of 1 is calibrated by the temperature a / ln(q / (1 - q)).
#[test]
fn closed_form() {
    for (gap, right, of) in [(2.0f32, 3, 4), (0.25, 9, 10), (30.0, 60, 100), (5.0, 60, 100), (0.5, 999, 1000)] {
        let logits: Vec<f32> = [gap, 0.0].repeat(of);
        let targets: Vec<i64> = (0..of).map(|row| i64::from(row >= right)).collect();
        let odds = right as f64 / (of - right) as f64;
        let want = f64::from(gap) / odds.ln();
        for device in devices() {
            let x = Tensor::from_slice(&device, &[of, 2], &logits).unwrap();
            let to = Tensor::from_slice(&device, &[of], &targets).unwrap();
            let got = f64::from(fit(&x, Dim::LAST, &to, &DEFAULT).unwrap());
            assert!((got / want - 1.0).abs() < 4e-6, "{gap} {right}/{of}: {got}, want {want}");
        }
    }
}

/// What is found is a minimum of the loss as it is defined, near the temperature that the targets were drawn at.
#[test]
fn a_minimum_of_the_loss() {
    fn check<T: Format>(tolerance: f64) {
        for (temperature, seed) in [(0.3, 1), (1.0, 2), (2.5, 3), (7.0, 4)] {
            let drawn = Drawn::new(500, 5, temperature, seed);
            for device in devices() {
                let (logits, targets) = drawn.tensors::<T>(&device);
                let got = f64::from(fit(&logits, Dim::LAST, &targets, &DEFAULT).unwrap());
                assert!((got / temperature).ln().abs() < 0.4, "{got} was drawn at {temperature}");
                let here = drawn.loss(got);
                for factor in [1.0 - tolerance, 1.0 + tolerance] {
                    let beside = drawn.loss(got * factor);
                    assert!(beside > here, "{} at {got} is {here}, at {factor} of it {beside}", T::DTYPE);
                }
                assert_no_findings(&"fit_temperature");
            }
        }
    }
    check::<f32>(1e-4);
    check::<f16>(1e-3);
    check::<bf16>(1e-3);
}

/// A factor of the logits is one of the temperature; a shift of rows, their order and ignored rows do not matter.
#[test]
fn laws_of_the_temperature() {
    let drawn = Drawn::new(600, 4, 1.5, 7);
    for device in devices() {
        let (logits, targets) = drawn.tensors::<f32>(&device);
        let plain = fit(&logits, Dim::LAST, &targets, &DEFAULT).unwrap();
        let close = |got: f32, what: &str| assert!((got / plain - 1.0).abs() < 1e-5, "{what}: {got} and {plain}");
        let changed = |change: &dyn Fn(usize, f32) -> f32| {
            let x: Vec<f32> = drawn.logits.iter().enumerate().map(|(i, x)| change(i, *x)).collect();
            fit(&Tensor::from_slice(&device, &[600, 4], &x).unwrap(), Dim::LAST, &targets, &DEFAULT).unwrap()
        };
        close(changed(&|_, x| x * 8.0) / 8.0, "eight times the logits");
        close(changed(&|i, x| x + (i / 4 % 16) as f32), "shifted rows");

        let turned: Vec<f32> = drawn.logits.chunks(4).rev().flatten().copied().collect();
        let turned = Tensor::from_slice(&device, &[600, 4], &turned).unwrap();
        let backwards: Vec<u32> = drawn.targets.iter().rev().map(|to| *to as u32).collect();
        let backwards = Tensor::from_slice(&device, &[600], &backwards).unwrap();
        close(fit(&turned, Dim::LAST, &backwards, &DEFAULT).unwrap(), "rows in another order, targets in u32");

        // The same rows along another dim, among others that do not count: one of them is NaN.
        let mut columns = vec![f32::NAN; 4 * 1200];
        drawn.logits.iter().enumerate().for_each(|(i, x)| columns[i % 4 * 1200 + i / 4 * 2] = *x);
        let columns = Tensor::from_slice(&device, &[4, 1200], &columns).unwrap();
        let some: Vec<i32> = drawn.targets.iter().flat_map(|to| [*to as i32, 77]).collect();
        let some = Tensor::from_slice(&device, &[1200], &some).unwrap();
        let options = FitTemperature { ignore_index: Some(77) };
        close(fit(&columns, Dim::front(0), &some, &options).unwrap(), "columns, some ignored");
    }
}

#[test]
fn losses_without_a_minimum() {
    for device in devices() {
        let of = |rows: usize, logits: &[f32], targets: &[i64]| {
            let x = Tensor::from_slice(&device, &[rows, 2], logits).unwrap();
            let to = Tensor::from_slice(&device, &[rows], targets).unwrap();
            fit(&x, Dim::LAST, &to, &DEFAULT)
        };
        let refused = |result: Result<f32, Error>, reason: &str| match result {
            Err(Error::NoMinimum { op: "fit_temperature", reason: found }) => {
                assert!(found.starts_with(reason), "{found} is not {reason}");
            }
            other => panic!("{other:?} is not {reason}"),
        };
        refused(of(2, &[1.0, 0.0, 0.0, 1.0], &[-100, -100]), "no row counts");
        refused(of(0, &[], &[]), "no row counts");
        refused(of(2, &[1.0, 0.0, 0.0, 1.0], &[0, 1]), "it only falls towards a temperature of 0");
        // So sure that every loss is 0 in f32.
        refused(of(2, &[900.0, 0.0, 0.0, 900.0], &[0, 1]), "it only falls towards a temperature of 0");
        refused(of(2, &[1.0, 0.0, 0.0, 1.0], &[1, 0]), "it only falls towards an infinite temperature");
        refused(of(2, &[f32::NAN, 0.0, 0.0, 1.0], &[1, 1]), "it is NaN or infinite");
        refused(of(2, &[f32::NEG_INFINITY, 0.0, 0.0, 1.0], &[0, 1]), "it is NaN or infinite");
        // Nothing depends on the temperature.
        assert_eq!(of(2, &[3.0, 3.0, 5.0, 5.0], &[0, 1]), Ok(1.0));
    }
}

fn refused<V: std::fmt::Debug>(result: Result<V, Error>, text: &str) {
    assert_eq!(result.expect_err("bad input was accepted").to_string(), text);
}

#[test]
fn what_is_refused() {
    for device in devices() {
        let x = Tensor::<f32>::zeros(&device, &[3, 2]).unwrap();
        let (to, two) = (Tensor::<i64>::zeros(&device, &[3]).unwrap(), Tensor::<i64>::zeros(&device, &[2]).unwrap());
        let options = CalibrationOptions::default();
        refused(
            fit(&x, Dim::front(2), &to, &DEFAULT),
            "fit_temperature: dim front(2) is out of range for shape [3, 2]",
        );
        let shapes = "shapes differ: [2] in targets, [3] in logits without their class dim";
        refused(fit(&x, Dim::LAST, &two, &DEFAULT), &format!("fit_temperature: {shapes}"));
        refused(ece(&x, Dim::LAST, &two, &options), &format!("expected_calibration_error: {shapes}"));
        let three = Tensor::<f32>::zeros(&device, &[3]).unwrap();
        let probabilities = || Targets::probabilities(&three);
        let shapes = "shapes differ: [3] in targets that are probabilities, [3] in one class per row";
        refused(fit(&x, Dim::LAST, probabilities(), &DEFAULT), &format!("fit_temperature: {shapes}"));
        refused(ece(&x, Dim::LAST, probabilities(), &options), &format!("expected_calibration_error: {shapes}"));
        let empty = Tensor::<f32>::zeros(&device, &[3, 0]).unwrap();
        let classes = "logits of shape [3, 0] have rows but no classes along dim 1";
        refused(fit(&empty, Dim::LAST, &to, &DEFAULT), &format!("fit_temperature: {classes}"));
        refused(ece(&empty, Dim::LAST, &to, &options), &format!("expected_calibration_error: {classes}"));
        refused(
            ece(&x, Dim::LAST, &to, &CalibrationOptions { temperature: 0.0, ..options }),
            "expected_calibration_error: temperature is 0, it must be finite and above 0",
        );
        refused(
            ece(&x, Dim::LAST, &to, &CalibrationOptions { bins: 0, ..options }),
            "expected_calibration_error: bins is 0, it must be at least 1",
        );
        refused(
            ece(&x, Dim::LAST, &to, &CalibrationOptions { bins: 65_537, ..options }),
            "expected_calibration_error: bins is 65537, at most 65536 is possible",
        );
        for bad in [2i64, -1, i64::MIN] {
            let to = Tensor::from_slice(&device, &[3], &[0, bad, -100]).unwrap();
            let target = |op: &'static str| Error::Target { op, row: 1, value: bad, classes: 2 };
            assert_eq!(ece(&x, Dim::LAST, &to, &options), Err(target("expected_calibration_error")));
            assert_eq!(fit(&x, Dim::LAST, &to, &DEFAULT), Err(target("fit_temperature")));
        }
    }
    let (here, there) =
        (Tensor::<f32>::zeros(&Device::cpu(), &[3, 2]).unwrap(), Tensor::<i64>::zeros(&gpu(), &[3]).unwrap());
    for error in [
        fit(&here, Dim::LAST, &there, &DEFAULT).unwrap_err(),
        ece(&here, Dim::LAST, &there, &CalibrationOptions::default()).unwrap_err(),
    ] {
        assert!(matches!(error, Error::DifferentDevices { left: "logits", right: "targets", .. }), "{error}");
    }
}

/// Two classes with probability p of the first.
fn claim(p: f64) -> [f32; 2] {
    [(p / (1.0 - p)).ln() as f32, 0.0]
}

/// Six rows in four bins: 0.6 wrong and right, 0.7 and 0.74 right; 0.9 right and wrong; one row does not count.
#[test]
fn bins_by_hand() {
    let claims = [0.6, 0.6, 0.7, 0.74, 0.9, 0.9, 0.99];
    let logits: Vec<f32> = claims.into_iter().flat_map(claim).collect();
    let targets = [1i64, 0, 0, 0, 0, 1, -100];
    for device in devices() {
        let x = Tensor::from_slice(&device, &[7, 2], &logits).unwrap();
        let to = Tensor::from_slice(&device, &[7], &targets).unwrap();
        let got = ece(&x, Dim::LAST, &to, &CalibrationOptions { bins: 4, ..CalibrationOptions::default() }).unwrap();
        let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-7, "{got} is not {want}");
        assert_eq!(got.bins.iter().map(|bin| bin.count).collect::<Vec<_>>(), [0, 0, 4, 2]);
        assert_eq!((got.bins[2].accuracy, got.bins[3].accuracy), (0.75, 0.5));
        close(got.bins[2].confidence, 2.64 / 4.0);
        close(got.bins[3].confidence, 0.9);
        close(got.ece, (4.0 * (0.75 - 2.64 / 4.0) + 2.0 * (0.9 - 0.5)) / 6.0);

        let one = ece(&x, Dim::LAST, &to, &CalibrationOptions { bins: 1, ..CalibrationOptions::default() }).unwrap();
        close(one.ece, (4.44f64 / 6.0 - 4.0 / 6.0).abs());
        assert_eq!(one.bins[0].count, 6);
    }
}

/// A bin ends with its upper edge, and holds it: confidences of exactly 1/2, 3/4 and 1.
#[test]
fn edges_of_bins() {
    for device in devices() {
        let hidden = f32::NEG_INFINITY;
        let x = Tensor::from_slice(
            &device,
            &[3, 4],
            &[0.0f32, 0.0, hidden, hidden, 0.0, 0.0, 0.0, 0.0, 5.0, hidden, hidden, hidden],
        );
        let to = Tensor::from_slice(&device, &[3], &[0i64, 3, 0]).unwrap();
        let options = CalibrationOptions { bins: 4, ..CalibrationOptions::default() };
        let got = ece(&x.unwrap(), Dim::LAST, &to, &options).unwrap();
        let counts: Vec<u64> = got.bins.iter().map(|bin| bin.count).collect();
        assert_eq!(counts, [1, 1, 0, 1]);
        assert_eq!(got.ece, (0.25 + 0.5 + 0.0) / 3.0);
    }
}

/// The order of the rows does not matter, to the last bit; nor do the dim and the type of the targets.
#[test]
fn laws_of_the_error() {
    let drawn = Drawn::new(500, 3, 1.0, 5);
    let options = CalibrationOptions { temperature: 0.4, ..CalibrationOptions::default() };
    for device in devices() {
        let (logits, targets) = drawn.tensors::<f16>(&device);
        let plain = ece(&logits, Dim::LAST, &targets, &options).unwrap();
        assert_eq!(plain.bins.iter().map(|bin| bin.count).sum::<u64>(), 500);
        let mut order: Vec<usize> = (0..500).collect();
        let mut random = Random::new(1);
        (1..500).rev().for_each(|i| order.swap(i, random.below(i + 1)));
        let x: Vec<f16> = (0..3)
            .flat_map(|c| order.iter().map(move |row| (row, c)))
            .map(|(row, c)| f16::from_f32(drawn.logits[row * 3 + c]))
            .collect();
        let to: Vec<i32> = order.iter().map(|row| drawn.targets[*row] as i32).collect();
        let (x, to) =
            (Tensor::from_slice(&device, &[3, 500], &x).unwrap(), Tensor::from_slice(&device, &[500], &to).unwrap());
        assert_eq!(ece(&x, Dim::front(0), &to, &options).unwrap(), plain);

        // What was drawn at temperature 1 is calibrated there, and too sure at 0.4.
        let honest = ece(&logits, Dim::LAST, &targets, &CalibrationOptions::default()).unwrap();
        assert!(honest.ece < 0.06 && plain.ece > 0.1, "{} and {}", honest.ece, plain.ece);
    }
}

#[test]
fn rows_without_a_confidence() {
    for device in devices() {
        let x = Tensor::from_slice(&device, &[2, 2], &[f32::NAN, 0.0, 1.0, 0.0]).unwrap();
        let of = |targets: &[i64]| {
            let to = Tensor::from_slice(&device, &[2], targets).unwrap();
            ece(&x, Dim::LAST, &to, &CalibrationOptions::default()).unwrap()
        };
        let got = of(&[0, 0]);
        assert!(got.ece.is_nan() && got.bins.iter().map(|bin| bin.count).sum::<u64>() == 1);
        assert!(of(&[-100, 0]).ece > 0.2);
        let nothing = of(&[-100, -100]);
        assert!(nothing.ece == 0.0 && nothing.bins.iter().all(|bin| bin.count == 0));
    }
}
