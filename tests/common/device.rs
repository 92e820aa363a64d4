//! Which devices the tests run on: always the host, and one GPU, chosen by `SUMEXP_TEST_DEVICE`.
//!
//! `soft` (or nothing) is the software GPU, which every machine has; `cuda` is GPU 0 of the machine's driver. The same tests
//! run on both. Checks that only the software GPU can make are skipped on a real one, through [`soft`].

use softgpu::ctl::Gpu;
use sumexp::Device;

fn is_soft() -> bool {
    match std::env::var("SUMEXP_TEST_DEVICE").as_deref() {
        Err(_) | Ok("soft") => true,
        Ok("cuda") => false,
        Ok(other) => panic!("SUMEXP_TEST_DEVICE is {other}, it must be soft or cuda"),
    }
}

/// The GPU under test, on a stream of its own: bad data that one test reports is not another test's error.
pub fn gpu() -> Device {
    if is_soft() {
        softgpu::ctl::install().expect("the software GPU is built with the tests");
    }
    Device::cuda(0).and_then(|device| device.with_new_stream()).expect("there is a GPU")
}

/// The host and the GPU under test.
pub fn devices() -> [Device; 2] {
    [Device::cpu(), gpu()]
}

/// The software GPU's own controls, of this thread; `None` on a real GPU.
pub fn soft() -> Option<Gpu> {
    is_soft().then(|| {
        gpu();
        softgpu::ctl::connect().expect("the software GPU is the driver of this process")
    })
}

/// Fails with the report if the checks of the software GPU found anything in this thread's work.
#[track_caller]
pub fn assert_no_findings(case: &dyn std::fmt::Display) {
    if let Some(soft) = soft() {
        let findings = soft.take_findings();
        assert!(findings.is_empty(), "{case}: {}", findings.iter().map(|f| format!("\n{f}")).collect::<String>());
    }
}
