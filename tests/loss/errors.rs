//! Bad input of the losses: a typed error of one sentence, on the host before anything is computed.

use sumexp::{
    BinaryCrossEntropy, CrossEntropy, CrossEntropyInto, CrossEntropySaved, Device, Dim, Error, Reduction, Tensor,
    binary_cross_entropy_with_logits as bce, binary_cross_entropy_with_logits_backward as bce_backward,
    binary_cross_entropy_with_logits_into as bce_into, cross_entropy, cross_entropy_backward, cross_entropy_into,
};

use crate::common::device::devices;
use crate::common::gpu::device as gpu;

fn floats(device: &Device, dims: &[usize]) -> Tensor<f32> {
    Tensor::zeros(device, dims).unwrap()
}

fn targets(device: &Device, dims: &[usize]) -> Tensor<i64> {
    Tensor::zeros(device, dims).unwrap()
}

#[track_caller]
fn refused<V: std::fmt::Debug>(result: Result<V, Error>, text: &str) {
    assert_eq!(result.expect_err("bad input was accepted").to_string(), text);
}

#[test]
fn shapes_dims_and_temperatures() {
    for device in devices() {
        let (logits, to, options) = (floats(&device, &[4, 3]), targets(&device, &[4]), CrossEntropy::default());
        refused(
            cross_entropy(&logits, Dim::front(2), &to, &options),
            "cross_entropy: dim front(2) is out of range for shape [4, 3]",
        );
        refused(
            cross_entropy(&floats(&device, &[]), Dim::LAST, &to, &options),
            "cross_entropy: dim back(0) is out of range for shape []",
        );
        refused(
            cross_entropy(&logits, Dim::front(0), &to, &options),
            "cross_entropy: shapes differ: [4] in targets, [3] in logits without their class dim",
        );
        refused(
            cross_entropy(&logits, Dim::LAST, &targets(&device, &[4, 1]), &options),
            "cross_entropy: shapes differ: [4, 1] in targets, [4] in logits without their class dim",
        );
        refused(
            cross_entropy(&floats(&device, &[4, 0]), Dim::LAST, &to, &options),
            "cross_entropy: logits of shape [4, 0] have rows but no classes along dim 1",
        );
        for temperature in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            refused(
                cross_entropy(&logits, Dim::LAST, &to, &CrossEntropy { temperature, ..options }),
                &format!("cross_entropy: temperature is {temperature}, it must be finite and above 0"),
            );
        }
    }
}

#[test]
fn what_backward_is_given() {
    for device in devices() {
        let (logits, to, options) = (floats(&device, &[4, 3]), targets(&device, &[4]), CrossEntropy::default());
        let saved = cross_entropy(&logits, Dim::LAST, &to, &options).unwrap().saved;
        let other =
            cross_entropy(&floats(&device, &[2, 3]), Dim::LAST, &targets(&device, &[2]), &options).unwrap().saved;
        let one = floats(&device, &[]);
        refused(
            cross_entropy_backward(&logits, Dim::LAST, &to, &other, &one, &options),
            "cross_entropy_backward: shapes differ: [9] in saved, [17] in what forward saves",
        );
        refused(
            cross_entropy_backward(&logits, Dim::LAST, &to, &saved, &floats(&device, &[4]), &options),
            "cross_entropy_backward: shapes differ: [4] in upstream, [] in the loss",
        );
        let each = CrossEntropy { reduction: Reduction::None, ..options };
        refused(
            cross_entropy_backward(&logits, Dim::LAST, &to, &saved, &one, &each),
            "cross_entropy_backward: shapes differ: [] in upstream, [4] in the loss",
        );
        // One number repeated is as good as many.
        let view = one.view().expand(&[4]).unwrap();
        cross_entropy_backward(&logits, Dim::LAST, &to, &saved, view, &each).unwrap();
    }
}

#[test]
fn outputs_that_cannot_be_written() {
    for device in devices() {
        let (logits, to, options) = (floats(&device, &[4, 3]), targets(&device, &[4]), CrossEntropy::default());
        let mut loss = floats(&device, &[2]);
        let mut lse = floats(&device, &[4]);
        let mut count = Tensor::<i64>::zeros(&device, &[]).unwrap();
        let mut saved = floats(&device, &[CrossEntropySaved::elements(4)]);
        let outputs = CrossEntropyInto {
            loss: loss.view_mut(),
            lse: lse.view_mut(),
            count: count.view_mut(),
            saved: saved.view_mut(),
        };
        refused(
            cross_entropy_into(&logits, Dim::LAST, &to, &options, outputs),
            "cross_entropy: shapes differ: [2] in loss, [] in the loss",
        );
    }
}

#[test]
fn two_devices() {
    let (cpu, gpu) = (Device::cpu(), gpu());
    let result = cross_entropy(&floats(&cpu, &[4, 3]), Dim::LAST, &targets(&gpu, &[4]), &CrossEntropy::default());
    let Err(Error::DifferentDevices { op: "cross_entropy", left: "logits", right: "targets", .. }) = result else {
        panic!("{result:?}");
    };
}

/// On the host a bad target is refused at once; on a GPU the row is NaN, its gradient 0, and the error comes with the next
/// look. Nothing is read out of bounds, other rows are right, and the device goes on.
#[test]
fn bad_targets() {
    for device in devices() {
        for bad in [3i64, -1, -99, i64::MAX, i64::MIN, 1 << 32] {
            let logits = Tensor::from_slice(&device, &[4, 3], &[0.0f32; 12]).unwrap();
            let to = Tensor::from_slice(&device, &[4], &[0, bad, 2, bad]).unwrap();
            let each = CrossEntropy { reduction: Reduction::None, ..CrossEntropy::default() };
            let text = format!("cross_entropy: target {bad} in row 1 is not a class: there are 3 classes");
            let result = cross_entropy(&logits, Dim::LAST, &to, &each);
            if device.is_cpu() {
                refused(result, &text);
                continue;
            }
            let out = result.unwrap();
            let upstream = Tensor::from_slice(&device, &[4], &[1f32; 4]).unwrap();
            let dlogits = cross_entropy_backward(&logits, Dim::LAST, &to, &out.saved, &upstream, &each).unwrap();
            refused(device.check(), &text);
            device.check().expect("a report is made once");

            let ln3 = 3f32.ln();
            let loss = out.loss.to_vec().unwrap();
            assert!(loss[1].is_nan() && loss[3].is_nan(), "{loss:?}");
            assert!([loss[0], loss[2]].iter().all(|x| (x - ln3).abs() < 1e-6), "{loss:?}");
            let dlogits = dlogits.to_vec().unwrap();
            assert_eq!([&dlogits[3..6], &dlogits[9..]].concat(), [0.0; 6]);
            assert!((dlogits[0] + 2.0 / 3.0).abs() < 1e-6, "{dlogits:?}");
            assert_eq!(out.count.to_vec().unwrap(), [4]);

            for reduction in [Reduction::Sum, Reduction::Mean] {
                let options = CrossEntropy { reduction, ..each };
                let out = cross_entropy(&logits, Dim::LAST, &to, &options).unwrap();
                refused(out.loss.to_vec(), &text);
                assert!(out.loss.to_vec().unwrap()[0].is_nan());
            }
        }
    }
}

/// Of many bad targets, over several blocks of the kernel that looks for them, the first is reported.
#[test]
fn the_first_bad_target_is_reported() {
    let device = gpu();
    let mut to = vec![0i64; 10_000];
    to[9_000] = 77;
    to[4_500] = -5;
    to[4_499] = 66;
    let logits = floats(&device, &[10_000, 2]);
    let to = Tensor::from_slice(&device, &[10_000], &to).unwrap();
    cross_entropy(&logits, Dim::LAST, &to, &CrossEntropy::default()).unwrap();
    refused(device.check(), "cross_entropy: target 66 in row 4499 is not a class: there are 2 classes");
}

#[test]
fn binary_operands_that_do_not_fit() {
    for device in devices() {
        let (x, other, one) = (floats(&device, &[2, 3]), floats(&device, &[3, 2]), floats(&device, &[]));
        let options = BinaryCrossEntropy::default();
        let op = "binary_cross_entropy_with_logits";
        refused(bce(&x, &other, &options), &format!("{op}: shapes differ: [3, 2] in targets, [2, 3] in logits"));
        for (weight, pos_weight, name) in
            [(Some(other.view()), None, "weight"), (None, Some(other.view()), "pos_weight")]
        {
            let options = BinaryCrossEntropy { weight, pos_weight, ..options };
            refused(bce(&x, &x, &options), &format!("{op}: {name} of shape [3, 2] does not broadcast to [2, 3]"));
        }
        let text = format!("{op}_backward: shapes differ: [2, 3] in upstream, [] in the loss");
        refused(bce_backward(&x, &x, &x, &options), &text);
        let each = BinaryCrossEntropy { reduction: Reduction::None, ..options };
        let text = format!("{op}_backward: shapes differ: [] in upstream, [2, 3] in the loss");
        refused(bce_backward(&x, &x, &one, &each), &text);
        let mut loss = floats(&device, &[2]);
        let text = format!("{op}: shapes differ: [2] in loss, [] in the loss");
        refused(bce_into(&x, &x, &options, &mut loss), &text);
        let mut wide = floats(&device, &[2, 4]);
        let part = wide.view_mut().slice(Dim::LAST, 0..3).unwrap();
        let result = bce_into(&x, &x, &each, part);
        assert!(matches!(result, Err(Error::NotContiguous { output: "loss", .. })), "{result:?}");
    }
    let (here, there) = (floats(&Device::cpu(), &[2, 3]), floats(&gpu(), &[2, 3]));
    let options = BinaryCrossEntropy { weight: Some(there.view()), ..BinaryCrossEntropy::default() };
    for result in [bce(&here, &there, &BinaryCrossEntropy::default()), bce(&here, &here, &options)] {
        assert!(matches!(result, Err(Error::DifferentDevices { .. })), "{result:?}");
    }
}
