//! What holds for cross-entropy whatever the numbers are, and what other libraries got wrong.

use sumexp::{
    CrossEntropy, CrossEntropyOutput, Device, Dim, Error, Probabilities, Reduction, Result, SoftmaxOptions, Targets,
    Tensor, View, bf16, cross_entropy, cross_entropy_backward, f16, log_softmax,
};

use crate::common::compare::{Exact, Format, Tolerance, assert_right};
use crate::common::device::devices;
use crate::common::gpu::device as gpu;
use crate::common::random::Random;

fn tensor<T: Format>(device: &Device, dims: &[usize], values: &[f64]) -> Tensor<T> {
    let values: Vec<T> = values.iter().map(|x| T::from_f64(*x)).collect();
    Tensor::from_slice(device, dims, &values).unwrap()
}

fn normal(count: usize, seed: u64) -> Vec<f64> {
    let mut random = Random::new(seed);
    (0..count).map(|_| f64::from(3.0 * random.normal() as f32)).collect()
}

fn apart<'a>() -> CrossEntropy<'a> {
    CrossEntropy { reduction: Reduction::None, ..CrossEntropy::default() }
}

fn gradient<'a, T: Format>(
    x: &Tensor<T>,
    to: impl Into<Targets<'a>> + Copy,
    upstream: View<f32>,
    options: &CrossEntropy,
) -> Result<(CrossEntropyOutput, Vec<f64>)> {
    let output = cross_entropy(x, Dim::LAST, to, options)?;
    let dx = cross_entropy_backward(x, Dim::LAST, to, &output.saved, upstream, options)?;
    Ok((output, dx.to_vec()?.into_iter().map(T::to_f64).collect()))
}

/// PyTorch's definition, step by step in float64: log-softmax, the weighted nll of the target and the smoothed rest, and a mean
/// that divides by the weights of the targets.
#[test]
fn the_definition_of_weights_and_smoothing() {
    let (rows, classes, eps) = (6, 5, 0.25f64);
    let (x, weights) = (normal(rows * classes, 1), [0.5f32, 2.0, 1.0, 0.25, 3.0]);
    let to = [4i64, 0, -100, 3, 3, 1];
    let (mut total, mut divisor) = (0.0, 0.0);
    for (row, target) in to.iter().enumerate().filter(|(_, target)| **target >= 0) {
        let x = &x[row * classes..][..classes];
        let lse = x.iter().map(|x| x.exp()).sum::<f64>().ln();
        let (target, weight) = (*target as usize, |class: usize| f64::from(weights[class]));
        let nll = weight(target) * (lse - x[target]);
        let smooth: f64 = (0..classes).map(|class| weight(class) * (lse - x[class])).sum();
        total += (1.0 - eps) * nll + eps / classes as f64 * smooth;
        divisor += weight(target);
    }
    for device in devices() {
        let w = Tensor::from_slice(&device, &[classes], &weights).unwrap();
        let options =
            CrossEntropy { class_weights: Some(w.view()), label_smoothing: eps as f32, ..CrossEntropy::default() };
        let to = Tensor::from_slice(&device, &[rows], &to).unwrap();
        let loss = cross_entropy(&tensor::<f32>(&device, &[rows, classes], &x), Dim::LAST, &to, &options).unwrap().loss;
        assert_right(&"PyTorch's definition", &loss.to_vec().unwrap(), &Exact::plain([total / divisor]), f32::FORWARD);
    }
}

/// The loss is the nll of log-softmax; it does not change when all logits do; and probabilities of one class are that class.
#[test]
fn nll_shifts_and_one_hot() {
    for device in devices() {
        for classes in [3, 40, 700, 5000] {
            let values = normal(4 * classes, 7);
            let to: Vec<i64> = (0..4).map(|row| (row * 31 % classes) as i64).collect();
            let mut one_hot = vec![0.0; 4 * classes];
            to.iter().enumerate().for_each(|(row, class)| one_hot[row * classes + *class as usize] = 1.0);
            // Shifted by a whole number of few digits, logits of few digits stay exact.
            let coarse: Vec<f64> = values.iter().map(|x| (x * 1024.0).round() / 1024.0).collect();
            let shifted: Vec<f64> = coarse.iter().map(|x| x + 512.0).collect();
            let x = tensor::<f32>(&device, &[4, classes], &coarse);
            let to = Tensor::from_slice(&device, &[4], &to).unwrap();
            let loss = |x: &Tensor<f32>| cross_entropy(x, Dim::LAST, &to, &apart()).unwrap().loss.to_vec().unwrap();
            let plain = loss(&x);
            assert_eq!(plain, loss(&tensor(&device, &[4, classes], &shifted)), "{classes} classes on {device:?}");
            let log = log_softmax(&x, Dim::LAST, &SoftmaxOptions::default()).unwrap().to_vec().unwrap();
            let classes_of = to.to_vec().unwrap();
            let nll: Vec<f64> = (0..4).map(|row| -f64::from(log[row * classes + classes_of[row] as usize])).collect();
            let close = Tolerance { ulps: 8.0, ..f32::FORWARD };
            assert_right(&"nll", &plain, &Exact::plain(nll), close);

            let p = Probabilities::from_tensor(tensor::<f32>(&device, &[4, classes], &one_hot));
            let ones = Tensor::from_slice(&device, &[4], &[1.0f32; 4]).unwrap();
            let (output, by_p) = gradient(&x, &p, ones.view(), &apart()).unwrap();
            let (_, by_class) = gradient(&x, &to, ones.view(), &apart()).unwrap();
            let want = plain.iter().map(|loss| f64::from(*loss));
            assert_right(&"one hot", &output.loss.to_vec().unwrap(), &Exact::plain(want), close);
            let worst = by_p.iter().zip(&by_class).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(worst < 1e-6, "{worst} on {device:?}");
        }
    }
}

/// Smoothing mixes the loss with that of even targets.
#[test]
fn smoothing_is_a_mixture() {
    for device in devices() {
        for classes in [4, 100, 3000] {
            let x = tensor::<f32>(&device, &[3, classes], &normal(3 * classes, 2));
            let to = Tensor::from_slice(&device, &[3], &[0i64, 1, 2]).unwrap();
            let even = tensor::<f32>(&device, &[3, classes], &vec![1.0; 3 * classes]);
            let of = |output: CrossEntropyOutput| output.loss.to_vec().unwrap();
            let classes_only = of(cross_entropy(&x, Dim::LAST, &to, &apart()).unwrap());
            let all = of(cross_entropy(&x, Dim::LAST, Targets::probabilities(&even), &apart()).unwrap());
            let smooth = CrossEntropy { label_smoothing: 0.25, ..apart() };
            let got = of(cross_entropy(&x, Dim::LAST, &to, &smooth).unwrap());
            let mix = |(a, b): (&f32, &f32)| 0.75 * f64::from(*a) + 0.25 * f64::from(*b) / classes as f64;
            let want = Exact::plain(classes_only.iter().zip(&all).map(mix));
            assert_right(&classes, &got, &want, Tolerance { ulps: 8.0, ..f32::FORWARD });
        }
    }
}

/// Every option's gradient is the slope of its loss, by central differences.
#[test]
fn gradients_are_slopes() {
    let (classes, step) = (5usize, 2f64.powi(-7));
    let values = normal(2 * classes, 11);
    for device in devices() {
        let weights = Tensor::from_slice(&device, &[classes], &[0.5f32, 2.0, 1.0, 0.25, 3.0]).unwrap();
        let t = tensor::<f32>(&device, &[2, classes], &[0.1, 0.2, 0.3, 0.4, 0.0, 1.0, 0.0, 0.5, 0.0, 0.0]);
        let to = Tensor::from_slice(&device, &[2], &[3i64, 0]).unwrap();
        let (classes_, probabilities) = (Targets::from(&to), Targets::probabilities(&t));
        let one = Tensor::from_slice(&device, &[], &[1.0f32]).unwrap();
        for (targets, label_smoothing, z_loss) in
            [(classes_, 0.0, 0.3), (classes_, 0.2, 0.0), (classes_, 0.2, 0.3), (probabilities, 0.1, 0.3)]
        {
            let options = CrossEntropy {
                label_smoothing,
                z_loss,
                class_weights: Some(weights.view()),
                temperature: 1.5,
                reduction: Reduction::Sum,
                ..CrossEntropy::default()
            };
            let (_, slopes) =
                gradient(&tensor::<f32>(&device, &[2, classes], &values), targets, one.view(), &options).unwrap();
            let loss = |values: &[f64]| {
                let x = tensor::<f32>(&device, &[2, classes], values);
                f64::from(cross_entropy(&x, Dim::LAST, targets, &options).unwrap().loss.to_vec().unwrap()[0])
            };
            for (i, slope) in slopes.iter().enumerate() {
                let moved = |by: f64| -> Vec<f64> {
                    values.iter().enumerate().map(|(k, x)| if k == i { x + by } else { *x }).collect()
                };
                let limit = (loss(&moved(step)) - loss(&moved(-step))) / (2.0 * step);
                assert!((limit - slope).abs() < 3e-3, "{i}: {limit} and {slope} on {device:?}");
            }
        }
    }
}

/// Hidden classes: a share of one costs infinitely much and its gradient is finite; a probability of 0 there costs nothing.
#[test]
fn hidden_classes() {
    for device in devices() {
        let hidden = f64::NEG_INFINITY;
        let x = tensor::<f32>(&device, &[1, 3], &[0.0, 0.0, hidden]);
        let to = Tensor::from_slice(&device, &[1], &[0i64]).unwrap();
        let one = Tensor::from_slice(&device, &[1], &[1.0f32]).unwrap();
        let smooth = CrossEntropy { label_smoothing: 0.3, ..apart() };
        let (output, dx) = gradient(&x, &to, one.view(), &smooth).unwrap();
        assert_eq!(output.loss.to_vec().unwrap(), [f32::INFINITY], "on {device:?}");
        assert!(dx.iter().zip([-0.3, 0.4, -0.1]).all(|(a, b)| (a - b).abs() < 1e-6), "{dx:?} on {device:?}");
        let t = tensor::<f32>(&device, &[1, 3], &[0.5, 0.5, 0.0]);
        let (output, dx) = gradient(&x, Targets::probabilities(&t), one.view(), &apart()).unwrap();
        assert_eq!((output.loss.to_vec().unwrap()[0], dx[2]), (2f32.ln(), 0.0), "on {device:?}");
    }
}

/// pytorch#73205, tinygrad#3570: smoothing counted ignored rows. pytorch#69339, #72056: weights, smoothing and an ignored -1 read
/// weight[-1]. pytorch#70348: with everything ignored the mean was NaN.
#[test]
fn ignored_rows_contribute_nothing() {
    for device in devices() {
        let x = tensor::<f32>(&device, &[10, 2], &normal(20, 3));
        let weights = Tensor::from_slice(&device, &[2], &[1.0f32, 16.0]).unwrap();
        let options = CrossEntropy {
            ignore_index: Some(-1),
            label_smoothing: 0.2,
            z_loss: 0.1,
            class_weights: Some(weights.view()),
            ..CrossEntropy::default()
        };
        let one = Tensor::from_slice(&device, &[], &[1.0f32]).unwrap();
        let mut classes = vec![-1i64; 10];
        let all_ignored = Tensor::from_slice(&device, &[10], &classes).unwrap();
        let (output, dx) = gradient(&x, &all_ignored, one.view(), &options).unwrap();
        assert_eq!((output.loss.to_vec().unwrap(), output.count.to_vec().unwrap()), (vec![0.0], vec![0]));
        assert!(dx.iter().all(|g| *g == 0.0));
        (classes[4], classes[7]) = (1, 0);
        let to = Tensor::from_slice(&device, &[10], &classes).unwrap();
        let (output, dx) = gradient(&x, &to, one.view(), &options).unwrap();
        let rows = [4usize, 7];
        let part: Vec<f64> = rows.iter().flat_map(|row| normal(20, 3)[row * 2..][..2].to_vec()).collect();
        let two = Tensor::from_slice(&device, &[2], &[1i64, 0]).unwrap();
        let (alone, alone_dx) = gradient(&tensor::<f32>(&device, &[2, 2], &part), &two, one.view(), &options).unwrap();
        assert_eq!(output.loss.to_vec().unwrap(), alone.loss.to_vec().unwrap(), "on {device:?}");
        for (place, row) in rows.into_iter().enumerate() {
            assert_eq!(dx[row * 2..][..2], alone_dx[place * 2..][..2], "on {device:?}");
        }
    }
}

/// Liger#1329: the gradient at a sure target was rounded before 1 was subtracted from it, in bf16.
#[test]
fn a_sure_target_in_bf16() {
    for device in devices() {
        for p in [0.9f64, 0.99, 0.999] {
            let classes = 32_000;
            let mut x = vec![0.0; classes];
            // exp(x) / (exp(x) + classes - 1) = p
            x[17] = bf16::from_f64((p / (1.0 - p) * (classes - 1) as f64).ln()).to_f64();
            let exact = (classes - 1) as f64 / (x[17].exp() + (classes - 1) as f64);
            let to = Tensor::from_slice(&device, &[1], &[17i64]).unwrap();
            let one = Tensor::from_slice(&device, &[1], &[1.0f32]).unwrap();
            let (_, dx) = gradient(&tensor::<bf16>(&device, &[1, classes], &x), &to, one.view(), &apart()).unwrap();
            assert!((dx[17] / -exact - 1.0).abs() < 2f64.powi(-8), "{} and {} on {device:?}", dx[17], -exact);
        }
    }
}

/// TE#2139: the upstream gradient was forgotten. Liger#421, #680, #1298: every row had that of the first. pytorch#71550: an upstream
/// gradient that is expanded was refused.
#[test]
fn upstream_gradients_of_rows() {
    for device in devices() {
        for classes in [3, 700] {
            let x = tensor::<f32>(&device, &[3, classes], &normal(3 * classes, 5));
            let to = Tensor::from_slice(&device, &[3], &[0i64, 1, 2]).unwrap();
            for options in [apart(), CrossEntropy { label_smoothing: 0.1, ..apart() }] {
                let of = |g: &[f32]| {
                    let g = Tensor::from_slice(&device, &[g.len()], g).unwrap();
                    gradient(&x, &to, g.view().expand(&[3]).unwrap(), &options).unwrap().1
                };
                let (ones, scaled) = (of(&[1.0]), of(&[1.0, -2.0, 0.5]));
                for (i, g) in [1.0, -2.0, 0.5].into_iter().enumerate() {
                    let rows = ones[i * classes..][..classes].iter().zip(&scaled[i * classes..][..classes]);
                    assert!(rows.into_iter().all(|(one, scaled)| one * g == *scaled), "row {i} on {device:?}");
                }
            }
        }
    }
}

/// pytorch#61523, #29429, #85791: a mean over many rows of f16 overflowed.
#[test]
fn a_mean_over_a_million_half_rows() {
    let device = gpu();
    let rows = 1_000_000;
    let x = Tensor::<f16>::zeros(&device, &[rows, 4]).unwrap();
    let to = Tensor::<i32>::zeros(&device, &[rows]).unwrap();
    let output = cross_entropy(&x, Dim::LAST, &to, &CrossEntropy::default()).unwrap();
    assert_eq!((output.loss.to_vec().unwrap(), output.count.to_vec().unwrap()), (vec![4f32.ln()], vec![1_000_000]));
}

#[test]
fn what_probabilities_and_smoothing_refuse() {
    for device in devices() {
        let x = Tensor::<f32>::zeros(&device, &[2, 3]).unwrap();
        let to = Tensor::<i64>::zeros(&device, &[2]).unwrap();
        let p = Tensor::<f16>::zeros(&device, &[2, 3]).unwrap();
        let refused = |result: Result<CrossEntropyOutput>, text: &str| {
            assert_eq!(result.unwrap_err().to_string(), format!("cross_entropy: {text}"), "on {device:?}");
        };
        for (label_smoothing, shown) in [(-0.1f32, "-0.1"), (1.5, "1.5"), (f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
            let options = CrossEntropy { label_smoothing, ..CrossEntropy::default() };
            let Err(Error::Option { op: "cross_entropy", option: "label_smoothing", value, .. }) =
                cross_entropy(&x, Dim::LAST, &to, &options)
            else {
                panic!("label smoothing of {shown} was taken");
            };
            assert!(value == f64::from(label_smoothing) || value.is_nan() && label_smoothing.is_nan());
        }
        let options = CrossEntropy { ignore_index: Some(1), ..CrossEntropy::default() };
        let text = "ignore_index is 1, it must be below 0, or none, with targets that are probabilities";
        refused(cross_entropy(&x, Dim::LAST, Targets::probabilities(&p), &options), text);
        let short = Tensor::<f32>::zeros(&device, &[2]).unwrap();
        let text = "shapes differ: [2] in targets, [2, 3] in logits";
        refused(cross_entropy(&x, Dim::LAST, Targets::probabilities(&short), &CrossEntropy::default()), text);
        let other = if device.is_cpu() { gpu() } else { Device::cpu() };
        let there = Tensor::<f32>::zeros(&other, &[2, 3]).unwrap();
        let result = cross_entropy(&x, Dim::LAST, Targets::probabilities(&there), &CrossEntropy::default());
        assert!(matches!(result, Err(Error::DifferentDevices { right: "targets", .. })), "{result:?}");
    }
}
