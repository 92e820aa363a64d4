//! Every driver call fails once: an error or a right result comes back, and nothing is lost, reused too early or left.

use crate::common::gpu::World;
use sumexp::{Device, Dim, Error, SoftmaxOptions, Tensor, softmax};

const LEN: usize = 64;
/// `CUDA_ERROR_UNKNOWN`: no code of this crate gives it a meaning.
const UNKNOWN: u32 = 999;

/// Every driver function that the crate calls once a device exists.
const CALLS: [&str; 17] = [
    "cuCtxPushCurrent_v2",
    "cuCtxPopCurrent_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "cuStreamGetCtx",
    "cuEventCreate",
    "cuEventRecord",
    "cuEventQuery",
    "cuEventDestroy_v2",
    "cuMemAllocAsync",
    "cuMemFreeAsync",
    "cuMemsetD8Async",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyDtoDAsync_v2",
];

/// Calls without which something cannot be given back safely, or at all: their failure may leave that one thing behind.
pub const GIVING_BACK: [&str; 5] =
    ["cuCtxPushCurrent_v2", "cuStreamDestroy_v2", "cuEventDestroy_v2", "cuMemFreeAsync", "cuStreamWaitEvent"];

fn numbers(from: u32) -> Vec<u32> {
    (from..from + LEN as u32).collect()
}

/// Uses everything once: three streams, of which one is adopted; sharing, writing after sharing, and drops in between.
fn program(device: &Device) -> Result<Vec<Vec<u32>>, Error> {
    let other = device.with_new_stream()?;
    // SAFETY: `other` outlives the adopted device and everything made with it.
    let adopted = unsafe { Device::from_stream(0, other.raw_stream().unwrap()) }?;
    let x = Tensor::from_slice(device, &[LEN], &numbers(1))?;
    let mut y = Tensor::zeros(device, &[LEN])?;
    y.copy_from(&x)?;
    // So many readers come and go that the events they leave are sorted out.
    for _ in 0..10 {
        let seen = y.to_device(&other)?;
        let mut copy = Tensor::zeros(&other, &[LEN])?;
        copy.copy_from(&seen)?;
    }
    let seen = y.to_device(&adopted)?;
    let mut copy = Tensor::zeros(&adopted, &[LEN])?;
    copy.copy_from(&seen)?;
    drop(seen);
    y.copy_from_slice(&numbers(100))?;
    let taken = x.to_device(&other)?;
    drop(x);
    Ok(vec![copy.to_vec()?, y.to_vec()?, taken.to_vec()?])
}

fn right() -> Vec<Vec<u32>> {
    vec![numbers(1), numbers(100), numbers(1)]
}

/// Fails call `nth` of `entry` with `code`; `None` if the program makes fewer calls.
fn fail_once(world: &World, device: &Device, entry: &str, nth: u64, code: u32) -> Option<Result<Vec<Vec<u32>>, Error>> {
    let gpu = world.gpu()?;
    gpu.fail(entry, nth, code);
    let result = program(device);
    let fired = gpu.failures_waiting() == 0;
    gpu.clear_failures();
    if let Ok(values) = &result {
        assert_eq!(*values, right(), "{entry} {nth}");
    }
    world.settle();
    world.assert_no_findings();
    fired.then_some(result)
}

#[test]
fn each_call_of_each_driver_function_fails_once() {
    let world = World::late();
    let device = world.device();
    let mut left_behind = world.leaks().len();
    let mut faults = 0;
    for entry in CALLS {
        let mut nth = 1;
        while let Some(result) = fail_once(&world, &device, entry, nth, UNKNOWN) {
            if let Err(error) = result {
                assert_eq!(error, Error::Driver { call: entry, code: UNKNOWN });
            }
            let leaks = world.leaks();
            let allowed = usize::from(GIVING_BACK.contains(&entry));
            assert!(leaks.len() <= left_behind + allowed, "{entry} {nth} left behind:\n{}", leaks.join("\n"));
            left_behind = leaks.len();
            nth += 1;
        }
        faults += nth - 1;
        assert!(world.gpu().is_none() || nth > 1, "the program never calls {entry}");
    }
    println!("{faults} faults");
    // And the device is as good as new.
    assert_eq!(program(&device).unwrap(), right());
    world.settle();
    assert_eq!(world.leaks().len(), left_behind);
    world.assert_no_findings();
}

#[test]
fn everything_fails_from_some_call_on() {
    let world = World::late();
    let Some(gpu) = world.gpu() else { return println!("skipped: a real GPU does not fail on request") };
    let device = world.device();
    let before = gpu.calls("*");
    assert_eq!(program(&device).unwrap(), right());
    let calls = gpu.calls("*") - before;
    assert!(calls > 100, "{calls} calls");
    for first in 1..=calls {
        for nth in first..=calls {
            gpu.fail("*", nth, UNKNOWN);
        }
        let result = program(&device);
        gpu.clear_failures();
        // The last calls give things back: their failures are not the program's.
        if let Ok(values) = result {
            assert_eq!(values, right(), "from call {first} on");
        }
        world.settle();
        world.assert_no_findings();
    }
    assert_eq!(program(&device).unwrap(), right());
}

#[test]
fn memory_that_runs_out_is_named() {
    /// `CUDA_ERROR_OUT_OF_MEMORY`.
    const OUT_OF_MEMORY: u32 = 2;
    let world = World::late();
    let device = world.device();
    let live = world.leaks();
    let mut nth = 1;
    while let Some(result) = fail_once(&world, &device, "cuMemAllocAsync", nth, OUT_OF_MEMORY) {
        match result {
            Err(Error::OutOfMemory { bytes, .. }) => assert_eq!(bytes, 4 * LEN as u64),
            other => panic!("{other:?}"),
        }
        assert_eq!(world.leaks(), live);
        nth += 1;
    }
    assert!(world.gpu().is_none() || nth > 12, "{nth}");
}

/// The smallest thing that loads an image and launches.
fn kernel(device: &Device) -> Result<Vec<f32>, Error> {
    let x = Tensor::<f32>::zeros(device, &[4])?;
    softmax(&x, Dim::LAST, &SoftmaxOptions::default())?.to_vec()
}

/// Contexts are made and kernels loaded once per process, so each of these faults has a process of its own.
#[test]
fn a_device_that_cannot_be_opened_can_be_opened_later() {
    const CHILD: &str = "SUMEXP_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let world = crate::common::gpu::chosen();
        assert_eq!(world, crate::common::gpu::Chosen::Soft);
        let failed = Device::cuda(0).and_then(|device| kernel(&device)).unwrap_err();
        let device = Device::cuda(0).unwrap();
        assert_eq!(program(&device).unwrap(), right());
        assert_eq!(kernel(&device).unwrap(), [0.25; 4]);
        return println!("refused with: {failed}");
    }
    if crate::common::gpu::chosen() == crate::common::gpu::Chosen::Cuda {
        return println!("skipped: a real GPU does not fail on request");
    }
    for (call, count) in [
        ("cuInit", 1),
        ("cuDeviceGetCount", 1),
        ("cuDeviceGet", 1),
        ("cuDeviceGetAttribute", 8),
        ("cuDeviceGetDefaultMemPool", 1),
        ("cuMemPoolSetAttribute", 1),
        ("cuDeviceGetName", 1),
        ("cuDevicePrimaryCtxRetain", 1),
        ("cuCtxPushCurrent_v2", 1),
        ("cuStreamCreate", 1),
        ("cuModuleLoadData", 1),
        ("cuModuleGetFunction", 1),
        ("cuFuncGetAttribute", 2),
        ("cuFuncSetAttribute", 1),
        ("cuFuncGetParamInfo", 1),
        ("cuLaunchKernel", 1),
    ] {
        for nth in 1..=count {
            let child = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "faults::a_device_that_cannot_be_opened_can_be_opened_later", "--nocapture"])
                .env(CHILD, "1")
                .env("SOFTGPU_FAIL", format!("{call}:{nth}:{UNKNOWN}"))
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&child.stdout).into_owned() + &String::from_utf8_lossy(&child.stderr);
            assert!(child.status.success(), "{call} {nth}:\n{text}");
            let want = format!("refused with: {call} failed: unknown error (999)");
            assert!(text.contains(&want), "{call} {nth}: expected `{want}` in:\n{text}");
        }
    }
}
