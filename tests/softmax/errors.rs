//! Bad input of the softmax family: a typed error of one sentence with both values, before anything is launched or written.

use sumexp::{
    Device, Dim, Error, LogProbabilities, Mask, Probabilities, SoftmaxOptions, Tensor, hide, keep, log_softmax,
    log_softmax_backward, logsumexp, logsumexp_backward, softmax, softmax_backward, softmax_into, softmin,
    softmin_backward,
};

use crate::common::device::{devices, soft};
use crate::common::gpu::device as gpu;

fn floats(device: &Device, dims: &[usize]) -> Tensor<f32> {
    Tensor::zeros(device, dims).unwrap()
}

#[track_caller]
fn refused<V: std::fmt::Debug>(result: Result<V, Error>, text: &str) {
    assert_eq!(result.expect_err("bad input was accepted").to_string(), text);
}

/// Calls every forward operation.
fn every(x: &Tensor<f32>, dim: Dim, options: &SoftmaxOptions) -> Vec<(&'static str, Option<Error>)> {
    vec![
        ("softmax", softmax(x, dim, options).err()),
        ("softmin", softmin(x, dim, options).err()),
        ("log_softmax", log_softmax(x, dim, options).err()),
        ("logsumexp", logsumexp(x, dim, options).err()),
    ]
}

/// Calls every backward operation on results of the shape of `x`.
fn every_backward(
    x: &Tensor<f32>,
    dy: &Tensor<f32>,
    dim: Dim,
    options: &SoftmaxOptions,
) -> Vec<(&'static str, Option<Error>)> {
    let zeros = || floats(x.device(), x.dims());
    let (p, log) = (Probabilities::from_tensor(zeros()), LogProbabilities::from_tensor(zeros()));
    vec![
        ("softmax_backward", softmax_backward(&p, dy, dim, options).err()),
        ("softmin_backward", softmin_backward(&p, dy, dim, options).err()),
        ("log_softmax_backward", log_softmax_backward(&log, dy, dim, options).err()),
    ]
}

#[track_caller]
fn all_refused(results: Vec<(&'static str, Option<Error>)>, text: &str) {
    for (op, error) in results {
        let error = error.unwrap_or_else(|| panic!("{op} accepted bad input"));
        assert_eq!(error.to_string(), format!("{op}: {text}"));
    }
}

#[test]
fn dims() {
    for device in devices() {
        let (x, options) = (floats(&device, &[2, 3]), SoftmaxOptions::default());
        all_refused(every(&x, Dim::front(2), &options), "dim front(2) is out of range for shape [2, 3]");
        all_refused(every(&x, Dim::back(2), &options), "dim back(2) is out of range for shape [2, 3]");
        all_refused(every(&floats(&device, &[]), Dim::LAST, &options), "dim back(0) is out of range for shape []");
        all_refused(every_backward(&x, &x, Dim::front(7), &options), "dim front(7) is out of range for shape [2, 3]");
        refused(
            logsumexp_backward(&x, &floats(&device, &[2]), Dim::front(2), &options),
            "logsumexp_backward: dim front(2) is out of range for shape [2, 3]",
        );
    }
}

#[test]
fn temperatures() {
    for device in devices() {
        let x = floats(&device, &[2, 3]);
        for temperature in [0.0, -0.0, -1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let options = SoftmaxOptions { temperature, ..SoftmaxOptions::default() };
            let text = format!("temperature is {temperature}, it must be finite and above 0");
            all_refused(every(&x, Dim::LAST, &options), &text);
            all_refused(every_backward(&x, &x, Dim::LAST, &options), &text);
            refused(
                logsumexp_backward(&x, &floats(&device, &[2]), Dim::LAST, &options),
                &format!("logsumexp_backward: {text}"),
            );
        }
    }
}

#[test]
fn masks_that_do_not_broadcast() {
    for device in devices() {
        let x = floats(&device, &[2, 3]);
        for dims in [vec![2], vec![3, 3], vec![2, 1, 3], vec![0], vec![2, 2]] {
            let bytes = Tensor::<u8>::zeros(&device, &dims).unwrap();
            for mask in [keep(&bytes), hide(&bytes)] {
                let options = SoftmaxOptions { mask: Mask::Visible(mask), ..SoftmaxOptions::default() };
                let text = format!("the mask of shape {dims:?} does not broadcast to [2, 3]");
                all_refused(every(&x, Dim::LAST, &options), &text);
            }
        }
    }
}

#[test]
fn shapes_that_differ() {
    for device in devices() {
        let (x, other, options) = (floats(&device, &[2, 3]), floats(&device, &[3, 2]), SoftmaxOptions::default());
        let p = Probabilities::from_tensor(floats(&device, &[2, 3]));
        let error = softmax_backward(&p, &other, Dim::LAST, &options).unwrap_err().to_string();
        assert!(error.contains("[2, 3]") && error.contains("[3, 2]") && error.contains("dy"), "{error}");
        let error = logsumexp_backward(&x, &other, Dim::LAST, &options).unwrap_err().to_string();
        assert!(error.contains("[2]") && error.contains("[3, 2]") && error.contains("dlse"), "{error}");
        let mut y = floats(&device, &[6]);
        let error = softmax_into(&x, Dim::LAST, &options, &mut y).unwrap_err().to_string();
        assert!(error.contains("[6]") && error.contains("[2, 3]"), "{error}");
    }
}

#[test]
fn outputs_that_are_not_contiguous() {
    for device in devices() {
        let (x, options) = (floats(&device, &[2, 3]), SoftmaxOptions::default());
        let mut y = floats(&device, &[2, 4]);
        let part = y.view_mut().slice(Dim::LAST, 0..3).unwrap();
        let result = softmax_into(&x, Dim::LAST, &options, part);
        assert!(matches!(result, Err(Error::NotContiguous { op: "softmax", .. })), "{result:?}");
        assert_eq!(y.to_vec().unwrap(), [0.0; 8]);
    }
}

#[test]
fn two_devices() {
    let (cpu, gpu, options) = (Device::cpu(), gpu(), SoftmaxOptions::default());
    let bytes = Tensor::<u8>::zeros(&cpu, &[3]).unwrap();
    let masked = SoftmaxOptions { mask: Mask::Visible(keep(&bytes)), ..options };
    let p = Probabilities::from_tensor(floats(&gpu, &[2, 3]));
    let mut y = floats(&cpu, &[2, 3]);
    for result in [
        softmax(&floats(&gpu, &[2, 3]), Dim::LAST, &masked).map(|_| ()),
        softmax_backward(&p, &floats(&cpu, &[2, 3]), Dim::LAST, &options).map(|_| ()),
        softmax_into(&floats(&gpu, &[2, 3]), Dim::LAST, &options, &mut y),
        softmax(&floats(&gpu.with_new_stream().unwrap(), &[2, 3]), Dim::LAST, &SoftmaxOptions { ..masked }).map(|_| ()),
    ] {
        assert!(matches!(result, Err(Error::DifferentDevices { .. })), "{result:?}");
    }
}

/// A refused call has launched nothing.
#[test]
fn nothing_is_launched() {
    let Some(soft) = soft() else { return };
    let device = gpu();
    let x = floats(&device, &[2, 3]);
    let before = soft.calls("cuLaunchKernel");
    let options = SoftmaxOptions { temperature: 0.0, ..SoftmaxOptions::default() };
    every(&x, Dim::LAST, &options);
    every(&x, Dim::front(9), &SoftmaxOptions::default());
    every(&floats(&device, &[0, 3]), Dim::LAST, &SoftmaxOptions::default());
    assert_eq!(soft.calls("cuLaunchKernel"), before);
    softmax(&x, Dim::LAST, &SoftmaxOptions::default()).unwrap();
    assert_eq!(soft.calls("cuLaunchKernel"), before + 1, "a call that is not refused launches");
}
