//! Random programs in which one driver call fails, for every call and several codes: every other result is right, nothing
//! is used after it was freed or freed twice, nothing is left behind, nothing hangs, and the devices go on.
//!
//! A call that fails has no effect here, as most failures of a driver have none. `make soundness` fails every call with
//! every code; an ordinary run takes every n-th.

use super::faults::GIVING_BACK;
use crate::common::gpu::World;
use crate::common::random::Random;
use crate::random::lane::{Lane, Letters};
use crate::random::step::Step;
use crate::random::{devices, number};
use softgpu::ctl::Gpu;
use std::process::abort;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use sumexp::Device;

const PROGRAMS: u64 = 50;
const STEPS: usize = 24;
/// Of all faults, an ordinary run causes one in so many; `SUMEXP_SOUNDNESS_EVERY=1` causes all.
const FEWER: u64 = 61;

/// Out of memory, invalid value, launch failed, unknown.
const CODES: [u32; 4] = [2, 1, 719, 999];

/// Every driver function that a program may call when its devices are open and its kernels loaded.
const CALLS: [&str; 19] = [
    "cuCtxPushCurrent_v2",
    "cuCtxPopCurrent_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamIsCapturing",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
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
    "cuMemcpyPeerAsync",
    "cuLaunchKernel",
];

/// Ends the process if nothing happens for two minutes: a test that hangs must say so.
struct Watchdog(Arc<AtomicU64>);

impl Watchdog {
    fn new() -> Self {
        let progress = Arc::new(AtomicU64::new(0));
        let seen = Arc::downgrade(&progress);
        std::thread::spawn(move || {
            let mut last = u64::MAX;
            while let Some(progress) = seen.upgrade() {
                let now = progress.load(Ordering::Relaxed);
                drop(progress);
                if now == last {
                    eprintln!("fault {now} of the sweep hangs");
                    abort();
                }
                last = now;
                std::thread::sleep(Duration::from_secs(120));
            }
        });
        Self(progress)
    }

    fn tick(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A program that runs again and again.
struct Subject<'w> {
    world: &'w World,
    gpu: &'w Gpu,
    seed: u64,
    steps: Vec<Step>,
}

impl<'w> Subject<'w> {
    fn new(world: &'w World, gpu: &'w Gpu, seed: u64) -> Self {
        let mut steps = Step::program(&mut Random::new(seed), 1, STEPS);
        // Graphs have fault tests of their own: what their failures may leave behind is another list.
        steps.retain(|step| !matches!(step, Step::Capture { .. }));
        Self { world, gpu, seed, steps }
    }

    /// Runs it on these devices to its end, whatever fails; the number of errors that it was told.
    fn run(&self, devices: &[Device], tolerant: bool) -> u64 {
        let mut lane = Lane::new(devices, &Letters::default(), true, tolerant);
        for &step in &self.steps {
            lane.step(step);
        }
        lane.finish();
        lane.errors as u64
    }

    /// Runs it without a fault and counts what it calls.
    fn calls(&self) -> Vec<(&'static str, u64)> {
        let devices = devices(self.world);
        let count = || CALLS.map(|entry| self.gpu.calls(entry));
        // Kernels are loaded by a first run.
        self.run(&devices, false);
        let devices = self::devices(self.world);
        let (all, before) = (self.gpu.calls("*"), count());
        self.run(&devices, false);
        let counts = CALLS.into_iter().zip(count().into_iter().zip(before).map(|(now, then)| now - then));
        let counts: Vec<_> = counts.collect();
        let sum: u64 = counts.iter().map(|(_, count)| count).sum();
        assert_eq!(sum, self.gpu.calls("*") - all, "a driver function is missing from the list");
        counts
    }

    /// Runs it with what `inject` asks to fail, and looks for damage. The numbers of errors that it was
    /// told, and of failures that did not happen.
    fn run_faulty(&self, inject: impl FnOnce(&Gpu), what: &dyn std::fmt::Debug) -> (u64, u64) {
        let devices = devices(self.world);
        inject(self.gpu);
        let errors = self.run(&devices, true);
        let waiting = self.gpu.failures_waiting();
        self.gpu.clear_failures();
        // Reports that nobody heard because hearing failed. Afterwards the devices are as good as new.
        devices.iter().for_each(|device| drop(device.check()));
        self.run(&devices, false);
        drop(devices);
        self.world.settle();
        let findings = self.gpu.take_findings();
        assert!(findings.is_empty(), "program {}, {what:?}: {}", self.seed, findings[0]);
        (errors, waiting)
    }
}

#[test]
fn any_driver_call_of_any_program_fails_once() {
    let world = World::late();
    let Some(gpu) = world.gpu() else { return println!("skipped: a real GPU does not fail on request") };
    let step = number("SUMEXP_SOUNDNESS_EVERY", FEWER);
    let watchdog = Watchdog::new();
    let (mut possible, mut faults, mut told) = (0, 0, 0);
    let mut left_behind = world.leaks().len();
    for seed in 1..=PROGRAMS {
        let subject = Subject::new(&world, gpu, seed);
        for (entry, count) in subject.calls() {
            for (nth, code) in (1..=count).flat_map(|nth| CODES.map(|code| (nth, code))) {
                possible += 1;
                if possible % step != 0 {
                    continue;
                }
                let what = (entry, nth, code);
                let (errors, waiting) = subject.run_faulty(|gpu| gpu.fail(entry, nth, code), &what);
                assert_eq!(waiting, 0, "{what:?} never happened in program {seed}");
                told += errors;
                let leaks = world.leaks();
                let allowed = left_behind + usize::from(GIVING_BACK.contains(&entry));
                assert!(leaks.len() <= allowed, "program {seed}, {what:?}: {}", leaks.join("\n"));
                left_behind = leaks.len();
                faults += 1;
                watchdog.tick();
            }
        }
    }
    println!("{faults} faults in {PROGRAMS} programs, {told} errors returned");
    assert!(faults >= possible / FEWER && 4 * told > faults, "{told} errors for {faults} faults of {possible}");
}

#[test]
fn everything_fails_from_some_call_of_a_program_on() {
    let world = World::late();
    let Some(gpu) = world.gpu() else { return println!("skipped: a real GPU does not fail on request") };
    let watchdog = Watchdog::new();
    for seed in 1..=PROGRAMS {
        let subject = Subject::new(&world, gpu, seed);
        let calls: u64 = subject.calls().iter().map(|(_, count)| count).sum();
        for first in (1..=calls).step_by(1 + calls as usize / 4) {
            // More than a program can make, so that nothing works again before it ends.
            let code = CODES[(seed % 4) as usize];
            let inject = |gpu: &Gpu| (first..3 * calls).for_each(|nth| gpu.fail("*", nth, code));
            subject.run_faulty(inject, &("from call", first, "on", code));
            watchdog.tick();
        }
    }
}
