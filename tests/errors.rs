//! Bad arguments: the error they give, and its text, word for word.

use sumexp::interop::{view_from_raw, view_mut_from_raw};
use sumexp::{Device, DeviceName, Dim, Error, Shape, Tensor};

static CPU: Device = Device::cpu();

/// Asserts that a call was refused, and with which words.
#[track_caller]
fn refused<T>(result: Result<T, Error>, text: &str) {
    match result {
        Ok(_) => panic!("was accepted, expected: {text}"),
        Err(error) => assert_eq!(error.to_string(), text),
    }
}

fn tensor(dims: &[usize]) -> Tensor<f32> {
    Tensor::zeros(&CPU, dims).unwrap()
}

#[test]
fn shapes_that_cannot_exist() {
    let nine = [1; 9];
    refused(Tensor::<f32>::zeros(&CPU, &nine), "Tensor::zeros: 9 dims were given, at most 8 are possible");
    refused(Shape::new("softmax", &nine), "softmax: 9 dims were given, at most 8 are possible");
    // The length of this tensor in bytes is 8 modulo 2^64.
    refused(
        Tensor::<f64>::zeros(&CPU, &[(1 << 61) + 1]),
        "Tensor::zeros: shape [2305843009213693953] of f64 elements needs more than 9223372036854775807 bytes",
    );
    refused(
        Tensor::<u8>::zeros(&CPU, &[1 << 32, 1 << 32]),
        "Tensor::zeros: shape [4294967296, 4294967296] of u8 elements needs more than 9223372036854775807 bytes",
    );
    // No elements, but strides that would overflow.
    refused(
        Tensor::<u8>::zeros(&CPU, &[0, 1 << 40, 1 << 40]),
        "Tensor::zeros: shape [0, 1099511627776, 1099511627776] of u8 elements needs more than 9223372036854775807 bytes",
    );
    assert!(Tensor::<f64>::zeros(&CPU, &[0, 1 << 62]).unwrap().to_vec().unwrap().is_empty());
}

#[test]
fn an_allocation_that_no_machine_has() {
    refused(
        Tensor::<u8>::zeros(&CPU, &[1 << 62]),
        "cpu is out of memory: an allocation of 4611686018427387904 bytes failed",
    );
}

#[test]
fn slices_of_another_length() {
    refused(
        Tensor::from_slice(&CPU, &[2, 3], &[1.0f32; 5]),
        "Tensor::from_slice: shape [2, 3] holds 6 elements, 5 were given",
    );
    refused(
        tensor(&[2]).copy_from_slice(&[1.0; 3]),
        "Tensor::copy_from_slice: shape [2] holds 2 elements, 3 were given",
    );
    refused(tensor(&[]).copy_from_slice(&[]), "Tensor::copy_from_slice: shape [] holds 1 elements, 0 were given");
}

#[test]
fn dims_that_are_not_there() {
    let x = tensor(&[2, 3]);
    refused(x.view().slice(Dim::front(2), 0..1), "View::slice: dim front(2) is out of range for shape [2, 3]");
    refused(
        x.view().transpose(Dim::LAST, Dim::back(2)),
        "View::transpose: dim back(2) is out of range for shape [2, 3]",
    );
    refused(tensor(&[]).view().slice(Dim::LAST, 0..0), "View::slice: dim back(0) is out of range for shape []");
    refused(
        x.view().slice(Dim::back(usize::MAX), 0..1),
        "View::slice: dim back(18446744073709551615) is out of range for shape [2, 3]",
    );
}

#[test]
#[allow(clippy::reversed_empty_ranges)] // The point of one of them.
fn ranges_that_do_not_fit() {
    let mut x = tensor(&[2, 3]);
    refused(x.view().slice(Dim::LAST, 2..4), "View::slice: range 2..4 does not fit dim 1 of length 3");
    refused(x.view().slice(Dim::LAST, 2..1), "View::slice: range 2..1 does not fit dim 1 of length 3");
    refused(x.view_mut().slice(Dim::front(0), 3..3), "ViewMut::slice: range 3..3 does not fit dim 0 of length 2");
}

#[test]
fn lists_that_are_no_permutation() {
    let x = tensor(&[2, 3]);
    for (order, text) in [
        (&[0usize, 0][..], "View::permute: [0, 0] is not a permutation of the 2 dims of the tensor"),
        (&[0], "View::permute: [0] is not a permutation of the 2 dims of the tensor"),
        (&[0, 1, 2], "View::permute: [0, 1, 2] is not a permutation of the 2 dims of the tensor"),
        (&[1, 2], "View::permute: [1, 2] is not a permutation of the 2 dims of the tensor"),
    ] {
        refused(x.view().permute(order), text);
    }
}

#[test]
fn shapes_that_do_not_match() {
    let mut x = tensor(&[2, 3]);
    refused(x.view().expand(&[3]), "View::expand: the view of shape [2, 3] does not broadcast to [3]");
    refused(x.view().expand(&[4, 3]), "View::expand: the view of shape [2, 3] does not broadcast to [4, 3]");
    refused(x.view().expand(&[2, 0]), "View::expand: the view of shape [2, 3] does not broadcast to [2, 0]");
    refused(x.view().reshape(&[7]), "View::reshape: shape [2, 3] holds 6 elements, [7] holds 7");
    refused(x.view_mut().reshape(&[]), "ViewMut::reshape: shape [2, 3] holds 6 elements, [] holds 1");
    refused(
        x.view().transpose(Dim::front(0), Dim::front(1)).unwrap().reshape(&[6]),
        "View::reshape: shape [3, 2] with strides [1, 3] cannot become [6] without a copy",
    );
    refused(x.reshape(&[5]), "Tensor::reshape: shape [2, 3] holds 6 elements, [5] holds 5");
}

#[test]
fn raw_memory_that_a_view_must_not_reach() {
    let memory = [0.0f32; 6];
    let address = memory.as_ptr().expose_provenance() as u64;
    // SAFETY: `memory` holds six elements and outlives the views; each call below is refused, or reads nothing.
    let raw = |address, available, dims: &[usize], strides: &[i64]| unsafe {
        view_from_raw::<f32>(&CPU, address, available, dims, strides)
    };
    refused(raw(address, 6, &[2, 3], &[3]), "view_from_raw: 1 strides were given for 2 dims");
    refused(
        raw(address, 6, &[2, 3], &[3, -1]),
        "view_from_raw: stride -1 of dim 1 is negative; strides are at least 0",
    );
    refused(
        raw(address, 6, &[2, 3], &[4, 1]),
        "view_from_raw: shape [2, 3] with strides [4, 1] reaches element 6, the memory holds 6",
    );
    refused(
        raw(address, 6, &[3, 3], &[i64::MAX, 1]),
        "view_from_raw: shape [3, 3] with strides [9223372036854775807, 1] reaches element 18446744073709551615, \
         the memory holds 6",
    );
    let odd = raw(address + 2, 5, &[1], &[1]);
    refused(odd, &format!("view_from_raw: address {:#x} is not a multiple of 4, the size of a f32", address + 2));
    refused(raw(0, 5, &[1], &[1]), "view_from_raw: address 0x0 is not a multiple of 4, the size of a f32");
    refused(
        raw(address, u64::MAX, &[2], &[1 << 62]),
        "view_from_raw: shape [2] of f32 elements needs more than 9223372036854775807 bytes",
    );
    assert!(raw(0, 0, &[0], &[1]).unwrap().to_vec().unwrap().is_empty(), "nothing may lie nowhere");
    // SAFETY: refused.
    let writable = unsafe { view_mut_from_raw::<f32>(&CPU, address, 1, &[2], &[1]) };
    refused(writable, "view_mut_from_raw: shape [2] with strides [1] reaches element 1, the memory holds 1");
}

#[test]
fn memory_that_two_tensors_hold_is_not_written() {
    let mut x = tensor(&[2]);
    let mut other = x.to_device(&Device::cpu()).unwrap();
    let text = |op| {
        format!("{op}: the tensor shares its memory with 1 other tensor(s) made by to_device and cannot be written")
    };
    refused(x.copy_from_slice(&[1.0; 2]), &text("Tensor::copy_from_slice"));
    refused(other.copy_from_slice(&[1.0; 2]), &text("Tensor::copy_from_slice"));
    drop(other);
    x.copy_from_slice(&[1.0; 2]).unwrap();
    assert_eq!(x.to_vec().unwrap(), [1.0; 2]);
}

/// Errors that need a GPU, or that the operations give, as texts.
#[test]
fn every_other_text() {
    let cuda = |stream| DeviceName::Cuda { ordinal: 1, stream };
    for (error, text) in [
        (
            Error::Shapes {
                op: "softmax_backward",
                left: "dy",
                left_shape: vec![2, 4],
                right: "y",
                right_shape: vec![2, 3],
            },
            "softmax_backward: shapes differ: [2, 4] in dy, [2, 3] in y",
        ),
        (
            Error::NotContiguous { op: "softmax", output: "y", shape: vec![3, 2], strides: vec![1, 3] },
            "softmax: y must be contiguous, but has shape [3, 2] with strides [1, 3]",
        ),
        (
            Error::Overlap {
                op: "softmax",
                output: "y",
                input: "x",
                output_start: 256,
                output_end: 512,
                input_start: 0,
                input_end: 257,
            },
            "softmax: y overlaps x: bytes 0x100..0x200 and 0x0..0x101",
        ),
        (
            Error::DifferentDevices {
                op: "softmax",
                left: "x",
                left_device: cuda(0),
                right: "mask",
                right_device: DeviceName::Cpu,
            },
            "softmax: devices differ: x is on cuda:1 (stream 0), mask is on cpu; use to_device",
        ),
        (
            Error::Temperature { op: "softmax", temperature: -1.0 },
            "softmax: temperature is -1, it must be finite and above 0",
        ),
        (
            Error::Option { op: "sample", option: "top_p", value: 1.5, wanted: "above 0 and at most 1" },
            "sample: top_p is 1.5, it must be above 0 and at most 1",
        ),
        (
            Error::NoMinimum { op: "fit_temperature", reason: "no row counts" },
            "fit_temperature: the loss has no minimum: no row counts",
        ),
        (
            Error::Offsets {
                op: "attention",
                operand: "the offsets of q",
                reason: "they end at 9, there are 8 rows".into(),
            },
            "attention: the offsets of q: they end at 9, there are 8 rows",
        ),
        (Error::TooMany { op: "top_k", option: "k", value: 9, max: 8 }, "top_k: k is 9, at most 8 is possible"),
        (
            Error::Target { op: "cross_entropy", row: 7, value: -4, classes: 19 },
            "cross_entropy: target -4 in row 7 is not a class: there are 19 classes",
        ),
        (
            Error::NoDriver { tried: "libcuda.so, libcuda.so.1" },
            "no CUDA driver: none of libcuda.so, libcuda.so.1 could be loaded; install the NVIDIA driver, \
             put libcuda on the library path, or use Device::cpu()",
        ),
        (
            Error::DriverTooOld { function: "cuFuncGetParamInfo" },
            "the CUDA driver has no cuFuncGetParamInfo; a driver for CUDA 12.4 or newer is needed",
        ),
        (Error::NoSuchDevice { ordinal: 3, count: 1 }, "there is no GPU 3: the driver offers 1"),
        (
            Error::OutOfMemory { device: cuda(2), bytes: 1 << 40 },
            "cuda:1 (stream 2) is out of memory: an allocation of 1099511627776 bytes failed",
        ),
        (Error::Driver { call: "cuLaunchKernel", code: 700 }, "cuLaunchKernel failed: illegal address (700)"),
        (Error::Driver { call: "cuInit", code: 918 }, "cuInit failed: CUDA error (918)"),
        (
            Error::PerThreadStream,
            "the per-thread default stream cannot be adopted: its handle means another stream on every thread",
        ),
        (Error::ForeignContext { ordinal: 0 }, "the stream to adopt does not belong to the primary context of GPU 0"),
        (
            Error::NoImage { symbol: "k".into(), image: "softmax" },
            "kernel k: this build of the crate holds no image named softmax",
        ),
        (
            Error::KernelParams { symbol: "k".into(), wanted: 80, found: 72 },
            "kernel k: its image takes 72 bytes of parameters, this program passes 80",
        ),
        (
            Error::Launch { symbol: "k".into(), what: "grid.y", value: 65536, max: 65535 },
            "kernel k: grid.y is 65536, at most 65535 is possible",
        ),
        (
            Error::Capability { ordinal: 0, found: (7, 5), needed: (8, 0) },
            "GPU 0 has compute capability 7.5, at least 8.0 is needed",
        ),
    ] {
        assert_eq!(error.to_string(), text);
    }
}

/// Whatever the machine has, asking for a GPU is answered, not panicked about.
#[test]
fn a_gpu_that_is_not_there_is_an_error() {
    match Device::cuda(9_999) {
        Err(Error::NoDriver { .. }) => {}
        Err(Error::NoSuchDevice { ordinal: 9_999, count }) => assert!(count < 9_999),
        Err(Error::Driver { call: "cuInit", .. }) => {} // A driver library without a working GPU.
        other => panic!("{other:?}"),
    }
}
