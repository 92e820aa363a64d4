//! The devices that every case runs on: the host and the chosen GPU. Checks that only the software GPU can make are skipped
//! on a real one, through [`soft`].

use super::gpu::{Chosen, chosen, device};
use softgpu::ctl::Gpu;
use sumexp::Device;

/// The host, and a stream of its own on the chosen GPU.
pub fn devices() -> [Device; 2] {
    [Device::cpu(), device()]
}

/// The software GPU's own controls, of this thread; `None` on a real GPU.
pub fn soft() -> Option<Gpu> {
    match chosen() {
        Chosen::Cuda => None,
        Chosen::Soft => Some(softgpu::ctl::connect().expect("the software GPU is the driver of this process")),
    }
}

/// Fails with the report if the checks of the software GPU found anything in this thread's work.
#[track_caller]
pub fn assert_no_findings(case: &dyn std::fmt::Display) {
    if let Some(soft) = soft() {
        let findings = soft.take_findings();
        assert!(findings.is_empty(), "{case}: {}", findings.iter().map(|f| format!("\n{f}")).collect::<String>());
    }
}
