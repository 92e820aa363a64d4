//! Errors: those a launch ends with, which stick to their context, and those that are injected. Everything that spoils
//! the context runs in a child process, as it would on a GPU.

mod program;

use cudarc::driver::{result, sys};
use program::{FILL, Kernel, check, load, open};
use softgpu::ctl::{Detector, Gpu, LeakKind};
use std::ffi::c_void;
use std::process::{Command, Output};

/// Which case a child process runs.
const CASE: &str = "TEST_CASE_OF_CHILD";

/// Runs `case` of this file in a process of its own, with more environment.
fn child(case: &str, environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", case, "--nocapture", "--test-threads=1"]).envs(environment.iter().copied());
    command.env(CASE, case).output().unwrap()
}

/// Whether this process is the child that runs `case`; the parent starts it and checks that it succeeds.
fn in_child(case: &str, environment: &[(&str, &str)]) -> bool {
    if std::env::var(CASE).is_ok_and(|running| running == case) {
        return true;
    }
    let output = child(case, environment);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
    false
}

fn fill(kernel: &Kernel, address: u64, count: u32) -> Result<(), result::DriverError> {
    let (mut out, mut n, mut value) = (address, count, 1f32);
    let arguments: &mut [*mut c_void] = &mut [(&raw mut out).cast(), (&raw mut n).cast(), (&raw mut value).cast()];
    kernel.launch(1, 64, std::ptr::null_mut(), arguments)
}

fn codes_of(result: Result<(), result::DriverError>) -> u32 {
    result.map_or_else(|error| error.0 as u32, |()| 0)
}

#[test]
fn a_bad_address_sticks_until_the_context_is_reset() {
    if !in_child("a_bad_address_sticks_until_the_context_is_reset", &[]) {
        return;
    }
    let gpu = open();
    let kernel = load(FILL, "fill").unwrap();
    // SAFETY: handles are live when they are used, and sizes those of the slices.
    unsafe {
        let memory = result::malloc_sync(4 * 33).unwrap();
        assert_eq!(codes_of(fill(&kernel, memory, 34)), 700);
        let finding = program::only(gpu.take_findings());
        assert_eq!(finding.detector, Detector::FAULT);
        let words = ["fill", "st.global.f32", "0 bytes past the end of allocation", "132 bytes", "lane 1"];
        let report = finding.to_string();
        assert!(words.iter().all(|word| report.contains(word)), "{report}");
        // Everything fails with it now, and what is freed is freed all the same.
        assert_eq!(result::malloc_sync(4).unwrap_err().0 as u32, 700);
        assert_eq!(result::ctx::synchronize().unwrap_err().0 as u32, 700);
        assert_eq!(result::free_sync(memory).unwrap_err().0 as u32, 700);
        assert_eq!(gpu.leaks().iter().filter(|leak| leak.kind == LeakKind::Memory).count(), 0);
        check(sys::cuDevicePrimaryCtxReset_v2(0)).unwrap();
        let memory = result::malloc_sync(4 * 33).unwrap();
        let kernel = load(FILL, "fill").unwrap();
        assert_eq!(codes_of(fill(&kernel, memory, 33)), 0);
    }
}

#[test]
fn a_late_launch_on_freed_memory_faults_and_names_itself() {
    if !in_child("a_late_launch_on_freed_memory_faults_and_names_itself", &[("SOFTGPU_STREAMS", "late")]) {
        return;
    }
    let gpu = open();
    gpu.findings_fail(false);
    let kernel = load(FILL, "fill").unwrap();
    // SAFETY: handles are live when they are used; that the memory is not is what this test is about.
    unsafe {
        let memory = result::malloc_sync(4 * 32).unwrap();
        assert_eq!(codes_of(fill(&kernel, memory, 32)), 0);
        result::free_sync(memory).unwrap();
        assert_eq!(result::ctx::synchronize().unwrap_err().0 as u32, 700);
    }
    let findings = gpu.take_findings();
    assert_eq!(findings.len(), 2, "{findings:#?}");
    assert_eq!(findings[0].detector, Detector::USE_AFTER_FREE);
    let words = ["cuMemFree_v2 releases allocation 1", "while cuLaunchKernel of fill"];
    assert!(words.iter().all(|word| findings[0].text.contains(word)), "{}", findings[0]);
    assert!(findings[1].text.contains("freed by cuMemFree_v2"), "{}", findings[1]);
    assert!(findings[1].submission.as_deref().is_some_and(|by| by.contains("cuLaunchKernel of fill")), "{findings:#?}");
}

#[test]
fn a_finding_fails_the_context() {
    if !in_child("a_finding_fails_the_context", &[]) {
        return;
    }
    open();
    // SAFETY: the slice has the size of the copy.
    unsafe {
        let memory = result::malloc_sync(16).unwrap();
        let mut host = [0u8; 16];
        assert_eq!(result::memcpy_dtoh_sync(&mut host, memory).unwrap_err().0 as u32, 719);
        assert_eq!(result::ctx::synchronize().unwrap_err().0 as u32, 719);
    }
}

#[test]
fn memory_runs_out_and_comes_back() {
    if !in_child("memory_runs_out_and_comes_back", &[("SOFTGPU_MEM", "1M")]) {
        return;
    }
    let gpu = open();
    // SAFETY: handles are live.
    unsafe {
        assert_eq!(result::mem_get_info().unwrap(), (1 << 20, 1 << 20));
        let most = result::malloc_sync(1 << 20).unwrap();
        assert_eq!(result::malloc_sync(1).unwrap_err().0 as u32, 2);
        assert!(gpu.last_error().contains("1 bytes requested, 1048576 of 1048576 in use"), "{}", gpu.last_error());
        result::free_sync(most).unwrap();
        gpu.streams(softgpu::ctl::Streams::Late);
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking).unwrap();
        let most = result::malloc_async(stream, 1 << 20).unwrap();
        result::free_async(most, stream).unwrap();
        // The release is pending; whoever needs the memory waits for it.
        result::malloc_async(stream, 1 << 20).unwrap();
        gpu.memory_limit(0, 2 << 20);
        result::malloc_async(stream, 1 << 20).unwrap();
    }
}

#[test]
fn switches_of_the_environment_reach_the_driver() {
    let environment = [
        ("SOFTGPU_FAIL", "cuMemAlloc_v2:2:OUT_OF_MEMORY"),
        ("SOFTGPU_DEVICE", "sm_80,sm_90"),
        ("SOFTGPU_STRICT_LOAD", "1"),
        ("SOFTGPU_SEED", "7"),
    ];
    if !in_child("switches_of_the_environment_reach_the_driver", &environment) {
        return;
    }
    open();
    assert_eq!(result::device::get_count().unwrap(), 2);
    let major = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR;
    // SAFETY: the devices exist; handles are live.
    unsafe {
        assert_eq!(result::device::get_attribute(0, major).unwrap(), 8);
        assert_eq!(result::device::get_attribute(1, major).unwrap(), 9);
        result::malloc_sync(4).unwrap();
        assert_eq!(result::malloc_sync(4).unwrap_err().0 as u32, 2);
        result::malloc_sync(4).unwrap();
    }
    let broken = FILL.replace("st.global.f32", "frobnicate.f32");
    assert_eq!(load(&broken, "fill").map(|_| ()).unwrap_err().0 as u32, 801, "at the load, not at the launch");
}

#[test]
fn what_a_released_context_had_left_is_told() {
    if !in_child("what_a_released_context_had_left_is_told", &[]) {
        return;
    }
    let gpu = open();
    // SAFETY: handles are live.
    unsafe {
        result::malloc_sync(48).unwrap();
        result::malloc_host(100, 0).unwrap();
        result::stream::create(result::stream::StreamKind::NonBlocking).unwrap();
        result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).unwrap();
        load(FILL, "fill").unwrap();
        let given_back = result::malloc_sync(8).unwrap();
        result::free_sync(given_back).unwrap();
        assert_eq!(gpu.leaks().len(), 5);
        check(sys::cuDevicePrimaryCtxRelease_v2(0)).unwrap();
    }
    let leaks = gpu.take_leaks_of_released_contexts();
    let kinds: Vec<LeakKind> = leaks.iter().map(|leak| leak.kind).collect();
    assert_eq!(kinds, [LeakKind::Memory, LeakKind::Pinned, LeakKind::Stream, LeakKind::Event, LeakKind::Module]);
    assert_eq!((leaks[0].order, leaks[0].bytes), (1, 48));
    // SAFETY: the call is refused.
    assert_eq!(unsafe { result::malloc_sync(4) }.unwrap_err().0 as u32, 709);
}

#[test]
fn objects_of_two_devices_do_not_mix() {
    if !in_child("objects_of_two_devices_do_not_mix", &[("SOFTGPU_DEVICE", "sm_90,sm_90")]) {
        return;
    }
    let gpu = open();
    let kernel = load(FILL, "fill").unwrap();
    let stream = result::stream::create(result::stream::StreamKind::NonBlocking).unwrap();
    let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).unwrap();
    // SAFETY: the devices exist; handles are live.
    unsafe {
        let second = result::primary_ctx::retain(result::device::get(1).unwrap()).unwrap();
        result::ctx::set_current(second).unwrap();
        let there = result::malloc_sync(128).unwrap();
        let own = result::stream::create(result::stream::StreamKind::NonBlocking).unwrap();
        assert_eq!(result::memset_d8_async(there, 0, 128, stream).unwrap_err().0 as u32, 400, "a stream of device 0");
        assert_eq!(result::event::record(event, own).unwrap_err().0 as u32, 400, "an event of device 0");
        assert_eq!(codes_of(fill(&kernel, there, 32)), 400, "a function of device 0");
        let first = result::primary_ctx::retain(0).unwrap();
        result::ctx::set_current(first).unwrap();
        // Memory of device 1 is none to a kernel on device 0.
        assert_eq!(codes_of(fill(&kernel, there, 32)), 700);
    }
    assert!(gpu.take_findings()[0].text.contains("device 1"));
}

/// One small program with everything in it; every handle it gets it gives back, whatever fails.
fn everything(gpu: &Gpu) -> Result<Vec<f32>, result::DriverError> {
    struct Cleanup(Vec<Box<dyn FnOnce()>>);
    impl Drop for Cleanup {
        fn drop(&mut self) {
            while let Some(step) = self.0.pop() {
                step();
            }
        }
    }
    /// What a careful program does when giving back fails: it tries once more.
    fn insist(release: impl Fn() -> Result<(), result::DriverError>) {
        if release().is_err() {
            release().expect("an injected failure happens once");
        }
    }
    let _ = gpu;
    let mut cleanup = Cleanup(Vec::new());
    // SAFETY: handles are live until their clean-up, sizes are those of the slices.
    unsafe {
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking)?;
        cleanup.0.push(Box::new(move || insist(|| result::stream::destroy(stream))));
        let (text, name) = (std::ffi::CString::new(FILL).unwrap(), std::ffi::CString::new("fill").unwrap());
        let module = result::module::load_data(text.as_ptr().cast())?;
        cleanup.0.push(Box::new(move || insist(|| result::module::unload(module))));
        let kernel = Kernel { module, function: result::module::get_function(module, name)? };
        let memory = result::malloc_async(stream, 4 * 64)?;
        cleanup.0.push(Box::new(move || {
            insist(|| result::free_async(memory, stream));
            insist(|| result::stream::synchronize(stream));
        }));
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT)?;
        cleanup.0.push(Box::new(move || insist(|| result::event::destroy(event))));
        let (mut out, mut n, mut value) = (memory, 64u32, 3f32);
        let arguments: &mut [*mut c_void] = &mut [(&raw mut out).cast(), (&raw mut n).cast(), (&raw mut value).cast()];
        kernel.launch(1, 64, stream, arguments)?;
        result::event::record(event, stream)?;
        result::event::synchronize(event)?;
        let mut host = vec![0f32; 64];
        result::memcpy_dtoh_async(&mut host, memory, stream)?;
        Ok(host)
    }
}

#[test]
fn every_call_can_fail_once_and_nothing_is_lost() {
    let gpu = open();
    let before = gpu.calls("*");
    assert_eq!(everything(&gpu).unwrap(), vec![3f32; 64]);
    let calls = gpu.calls("*") - before;
    assert!(calls > 10, "{calls}");
    for call in 1..=calls {
        gpu.fail("*", call, 999);
        let result = everything(&gpu);
        assert_eq!(gpu.failures_waiting(), 0, "call {call} of {calls}");
        if let Ok(host) = result {
            assert_eq!(host, vec![3f32; 64]);
        }
        assert_eq!(gpu.leaks(), vec![], "call {call}");
        assert_eq!(gpu.take_findings(), vec![], "call {call}");
    }
}

#[test]
fn a_failed_assertion_sticks_and_what_was_printed_is_shown() {
    if !in_child("a_failed_assertion_sticks_and_what_was_printed_is_shown", &[]) {
        return;
    }
    const CALLS: &str = include_str!("foreign/calls_sm80.ptx");
    let gpu = open();
    let (prints, asserts) = (load(CALLS, "prints").unwrap(), load(CALLS, "asserts").unwrap());
    // SAFETY: handles are live when they are used, and sizes those of the slices.
    unsafe {
        let (mut x, mut y) = (result::malloc_sync(128).unwrap(), result::malloc_sync(128).unwrap());
        let words: Vec<i32> = (0..32).collect();
        result::memcpy_htod_sync(x, &words).unwrap();
        let arguments: &mut [*mut c_void] = &mut [(&raw mut x).cast(), (&raw mut y).cast()];
        prints.launch(1, 32, std::ptr::null_mut(), arguments).unwrap();
        let line = |i: i32, place, letter| {
            let quarter = f64::from(i) * 0.25;
            format!("thread {i} of 32: {place} {quarter:5.2} 1.000000e-03 2.5 {letter} -{i} abcdef0123 %\n")
        };
        assert_eq!(gpu.take_printed(), line(1, "low", 'B') + &line(17, "high", 'R'));
        assert_eq!(gpu.take_printed(), "");
        assert_eq!(codes_of(asserts.launch(1, 32, std::ptr::null_mut(), arguments)), 710);
        let finding = program::only(gpu.take_findings());
        assert!(finding.to_string().contains("thread: [13,0,0] Assertion `x[i] != 13` failed."), "{finding}");
        assert_eq!(codes_of(prints.launch(1, 32, std::ptr::null_mut(), arguments)), 710);
    }
}
