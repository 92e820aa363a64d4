//! Bugs that other libraries had, as cases: each names where it was found, and what is right is worked out by hand.

use crate::common::device::{assert_no_findings, devices};
use sumexp::{
    Device, Dim, Error, Float, Mask, SoftmaxOptions, Tensor, bf16, f16, hide, log_softmax, logsumexp,
    logsumexp_backward, softmax, softmax_backward,
};

const INF: f32 = f32::INFINITY;

fn options<'a>() -> SoftmaxOptions<'a> {
    SoftmaxOptions::default()
}

fn row<T: Float>(device: &Device, values: impl IntoIterator<Item = f32>) -> Tensor<T> {
    let values: Vec<T> = values.into_iter().map(|v| T::from_f64(f64::from(v))).collect();
    Tensor::from_slice(device, &[1, values.len()], &values).unwrap()
}

fn floats<T: Float>(values: Vec<T>) -> Vec<f64> {
    values.into_iter().map(T::to_f64).collect()
}

#[track_caller]
fn near(got: f64, want: f64, relative: f64) {
    assert!(((got - want) / want).abs() <= relative, "{got} instead of {want}");
}

/// flashinfer#1178: a slice of a row that is hidden whole made the row NaN.
#[test]
fn a_hidden_beginning() {
    for device in devices() {
        for (hidden, visible) in [(64, 64), (1000, 1), (70_000, 4)] {
            let x = row::<f32>(&device, (0..hidden + visible).map(|i| if i < hidden { -INF } else { 2.0 }));
            let p = softmax(&x, Dim::LAST, &options()).unwrap().to_vec().unwrap();
            assert!(p[..hidden].iter().all(|p| *p == 0.0), "{hidden} on {device:?}");
            assert!(p[hidden..].iter().all(|p| *p == 1.0 / visible as f32), "{hidden} on {device:?}");
        }
    }
}

/// pytorch#110213, #109517: rows of the most negative finite number were taken for hidden ones, or overflowed.
#[test]
fn the_most_negative_number_is_visible() {
    for device in devices() {
        let x = row::<f32>(&device, [f32::MIN; 441]);
        let p = softmax(&x, Dim::LAST, &options()).unwrap().to_vec().unwrap();
        assert!(p.iter().all(|p| *p == (1.0 / 441.0) as f32), "{device:?}: {p:?}");
        let x = row::<f32>(&device, (0..441).map(|i| if i < 128 { f32::MIN } else { 0.0 }));
        let p = softmax(&x, Dim::LAST, &options()).unwrap().to_vec().unwrap();
        assert!(p[..128].iter().all(|p| *p == 0.0) && p[128..].iter().all(|p| *p == (1.0 / 313.0) as f32));
    }
}

/// jax a282d586b6, f0392a1535: the gradient at masked entries was NaN or not 0.
#[test]
fn gradients_of_masked_entries() {
    for device in devices() {
        let x = row::<f32>(&device, [36.0, 10_000.0, 35.0]);
        let mask = Tensor::from_slice(&device, &[1, 3], &[0u8, 1, 0]).unwrap();
        let masked = SoftmaxOptions { mask: Mask::Visible(hide(&mask)), ..options() };
        let p = softmax(&x, Dim::LAST, &masked).unwrap();
        let values = p.to_vec().unwrap();
        near(f64::from(values[0]), 1.0 / (1.0 + (-1f64).exp()), 1e-6);
        assert_eq!(values[1], 0.0);
        let dy = row::<f32>(&device, [1.0, f32::NAN, 0.0]);
        let dx = softmax_backward(&p, &dy, Dim::LAST, &masked).unwrap().to_vec().unwrap();
        assert!(dx[1] == 0.0 && dx[0] > 0.0 && (dx[0] + dx[2]).abs() < 1e-7, "{device:?}: {dx:?}");
    }
}

/// pytorch#31829, jax#6811, optax#1762: the gradient of the logsumexp of nothing was NaN.
#[test]
fn the_gradient_of_nothing() {
    for device in devices() {
        let x = row::<f32>(&device, [-INF, -INF]);
        assert_eq!(logsumexp(&x, Dim::LAST, &options()).unwrap().to_vec().unwrap(), [-INF]);
        let one = Tensor::from_slice(&device, &[1], &[1.0f32]).unwrap();
        let dx = logsumexp_backward(&x, &one, Dim::LAST, &options()).unwrap();
        assert_eq!(dx.to_vec().unwrap(), [0.0, 0.0]);
    }
}

/// pytorch#6864: one logit of +inf makes its own row NaN, and only it.
#[test]
fn an_infinite_logit() {
    for device in devices() {
        let x = Tensor::from_slice(&device, &[3, 3], &[0.0, 1.0, 2.0, 0.0, INF, 1.0, 5.0, 5.0, 5.0f32]).unwrap();
        let p = softmax(&x, Dim::LAST, &options()).unwrap().to_vec().unwrap();
        assert!(p[3..6].iter().all(|p| p.is_nan()), "{device:?}: {p:?}");
        assert_eq!(p[6..], [(1.0 / 3.0) as f32; 3]);
        near(f64::from(p[2]), 1.0 / (1.0 + (-1f64).exp() + (-2f64).exp()), 1e-6);
    }
}

/// PyTorch's log_softmax and logsumexp of 70 000 zeros in f16 are infinite: the sum is past 65 504. tinygrad baa6148066: so is
/// the count alone.
#[test]
fn more_terms_than_the_largest_half() {
    for device in devices() {
        let x = row::<f16>(&device, [0.0; 70_000]);
        let lse = logsumexp(&x, Dim::LAST, &options()).unwrap().to_vec().unwrap();
        near(f64::from(lse[0]), 70_000f64.ln(), 1e-7);
        let log = log_softmax(&x, Dim::LAST, &options()).unwrap().to_vec().unwrap();
        assert!(log.iter().all(|y| *y == f16::from_f64(-70_000f64.ln())), "{device:?}: {:?}", log[0]);
    }
}

/// executorch#20089: a sum in bf16 stops growing at 256.
#[test]
fn a_sum_past_what_bf16_counts_to() {
    for device in devices() {
        let x = row::<bf16>(&device, [0.0; 512]);
        let p = softmax(&x, Dim::LAST, &options()).unwrap().to_vec().unwrap();
        assert!(p.iter().all(|p| p.to_f64() == 1.0 / 512.0), "{device:?}");
    }
}

/// ggml d935d466: where results below the normal numbers were flushed in one place and not in another, one large logit in the
/// last part of a row gave garbage.
#[test]
fn a_spike_at_the_end() {
    for device in devices() {
        for len in [33, 1000, 9000] {
            let x = row::<f32>(&device, (0..len).map(|i| if i == len - 1 { 100.0 } else { 0.0 }));
            let p = floats(softmax(&x, Dim::LAST, &options()).unwrap().to_vec().unwrap());
            assert_eq!(p[len - 1], 1.0, "{len} on {device:?}");
            // exp(-100) is below the normal numbers of f32: within their spacing.
            assert!(
                p[..len - 1].iter().all(|p| (p - (-100f64).exp()).abs() <= 1.5e-45),
                "{len} on {device:?}: {}",
                p[0]
            );
        }
    }
}

/// candle bd80078ac, oneflow 9b49046e13: exponentials of the logits themselves overflow.
#[test]
fn large_logits() {
    for device in devices() {
        let x = row::<f32>(&device, [1000.0, 999.0, 1001.0]);
        let lse = logsumexp(&x, Dim::LAST, &options()).unwrap().to_vec().unwrap();
        near(f64::from(lse[0]), 1001.0 + (1.0 + (-1f64).exp() + (-2f64).exp()).ln(), 1e-7);
    }
}

/// candle ece4c69a6: a maximum that begins at 0 lets rows of negative logits underflow.
#[test]
fn nothing_but_negative_logits() {
    for device in devices() {
        for len in [7, 300, 5000] {
            let x = row::<f32>(&device, vec![-1000.0; len]);
            let p = softmax(&x, Dim::LAST, &options()).unwrap().to_vec().unwrap();
            assert!(p.iter().all(|p| (p * len as f32 - 1.0).abs() < 2e-7), "{len} on {device:?}");
            let lse = logsumexp(&x, Dim::LAST, &options()).unwrap().to_vec().unwrap();
            near(f64::from(lse[0]), -1000.0 + (len as f64).ln(), 1e-7);
        }
    }
}

/// Scores of large attention tests in bf16: the square of 133 120 times 64. Infinity minus infinity must not happen.
#[test]
fn scores_of_ten_to_the_eleven() {
    let score = 133_120f32 * 133_120.0 * 64.0 / 8.0;
    for device in devices() {
        let p = softmax(&row::<f32>(&device, [score; 40]), Dim::LAST, &options()).unwrap().to_vec().unwrap();
        assert!(p.iter().all(|p| *p == 1.0 / 40.0), "{device:?}: {p:?}");
        let p = softmax(&row::<bf16>(&device, [score; 40]), Dim::LAST, &options()).unwrap().to_vec().unwrap();
        assert!(p.iter().all(|p| *p == bf16::from_f64(1.0 / 40.0)), "{device:?}: {p:?}");
    }
}

/// vllm#890, onnxruntime-genai#1211: a tiny temperature made x / tau infinite and every later request fail; 0 and less divided
/// by 0 or turned the order round.
#[test]
fn tiny_temperatures() {
    for device in devices() {
        let x = row::<f16>(&device, [50.0, 49.0, 50.0, -INF]);
        let cold = SoftmaxOptions { temperature: 1e-5, ..options() };
        assert_eq!(floats(softmax(&x, Dim::LAST, &cold).unwrap().to_vec().unwrap()), [0.5, 0.0, 0.5, 0.0]);
        for temperature in [0.0, -1.0, f32::NAN, INF] {
            let refused = softmax(&x, Dim::LAST, &SoftmaxOptions { temperature, ..options() });
            assert!(matches!(refused, Err(Error::Temperature { .. })), "{temperature} on {device:?}");
        }
        assert!(softmax(&x, Dim::LAST, &options()).is_ok());
        device.check().unwrap();
        assert_no_findings(&"tiny temperatures");
    }
}

/// flash-attn c2006099: whether a mask was there chose between two exponentials, so the same row came out in two ways.
#[test]
fn a_mask_that_hides_nothing_changes_nothing() {
    for device in devices() {
        let x = row::<f32>(&device, (0..777).map(|i| (i as f32 * 0.37).sin() * 9.0));
        let bits = |mask| -> Vec<u32> {
            let p = softmax(&x, Dim::LAST, &SoftmaxOptions { mask, ..options() }).unwrap().to_vec().unwrap();
            p.into_iter().map(f32::to_bits).collect()
        };
        let none = Tensor::from_slice(&device, &[1, 777], &[0u8; 777]).unwrap();
        assert_eq!(bits(Mask::Visible(hide(&none))), bits(Mask::None), "{device:?}");
    }
}
