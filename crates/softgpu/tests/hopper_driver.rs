//! The same kernels by way of the driver: which device takes them, what it says of their clusters, and what they compute.

mod program;

use cudarc::driver::{result, sys};
use program::{check, load, open_recording};
use softgpu::ctl::Profile;
use std::ffi::c_void;

const CLUSTER: &str = include_str!("hopper/cluster.ptx");

#[test]
fn clusters_run_where_there_are_any() {
    use sys::CUfunction_attribute as Attribute;
    let gpu = open_recording();
    gpu.profile(Some(Profile::Sm80));
    assert!(load(CLUSTER, "normalise").is_err(), "a device of 8.0 has no PTX for sm_90a");
    gpu.profile(Some(Profile::Sm90));
    let kernel = load(CLUSTER, "normalise").unwrap();
    let attribute = |number| {
        let mut value = -1;
        // SAFETY: the function is live, and there is room for the value.
        check(unsafe { sys::cuFuncGetAttribute(&mut value, number, kernel.function) }).unwrap();
        value
    };
    assert_eq!(attribute(Attribute::CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH), 4);
    assert_eq!(attribute(Attribute::CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_HEIGHT), 1);
    assert_eq!(attribute(Attribute::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED), 0);
    let x: Vec<f32> = (0..512).map(|i| (i % 5 + 1) as f32).collect();
    let mut y = vec![0f32; 512];
    // SAFETY: handles are live, slices have the sizes of the copies, the arguments are those of the kernel.
    unsafe {
        let (mut from, mut to) = (result::malloc_sync(2048).unwrap(), result::malloc_sync(2048).unwrap());
        result::memcpy_htod_sync(from, &x).unwrap();
        let stream = std::ptr::null_mut();
        let mut launch = |grid| {
            let arguments: &mut [*mut c_void] = &mut [(&raw mut from).cast(), (&raw mut to).cast()];
            kernel.launch(grid, 64, stream, arguments).map_err(|error| error.0 as u32)
        };
        assert_eq!((launch(8), launch(6)), (Ok(()), Err(1)), "6 blocks are no clusters of 4");
        result::memcpy_dtoh_sync(&mut y, to).unwrap();
        result::free_sync(from).unwrap();
        result::free_sync(to).unwrap();
    }
    assert!(gpu.take_findings().is_empty());
    for (i, y) in y.into_iter().enumerate() {
        let sum: f32 = x[i / 256 * 256..][..256].iter().sum();
        assert_eq!(y, x[i] / sum, "element {i}");
    }
    gpu.profile(None);
}
