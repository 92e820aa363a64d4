//! Streams that run as late as CUDA's ordering allows, under the safe layer of unmodified bindings: a correct program is
//! clean, and programs whose mistake a GPU usually hides are caught.

mod program;

use cudarc::driver::{CudaContext, CudaStream, HostSlice, result, sys};
use program::{FILL, check, load, only, open_recording};
use softgpu::ctl::{Detector, Gpu, Streams};
use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard};

/// The controls, a context of the safe layer, and this file's turn: tests share the context, and one that synchronises
/// it would run the pending work of another.
fn late() -> (Gpu, Arc<CudaContext>, MutexGuard<'static, ()>) {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let gpu = open_recording();
    gpu.streams(Streams::Late);
    let context = CudaContext::new(0).unwrap();
    (gpu, context, turn)
}

fn numbers(from: f32) -> Vec<f32> {
    (0..256).map(|i| from + i as f32).collect()
}

#[test]
fn two_streams_that_wait_for_each_other_are_clean() {
    for mode in [Streams::Sync, Streams::Late, Streams::Seeded] {
        for seed in 0..20 {
            let (gpu, context, _turn) = late();
            gpu.streams(mode);
            gpu.seed(seed);
            let (one, two) = (context.new_stream().unwrap(), context.new_stream().unwrap());
            let mut a = one.clone_htod(&numbers(1.0)).unwrap();
            let mut b = two.alloc_zeros::<f32>(256).unwrap();
            two.memcpy_dtod(&a, &mut b).unwrap();
            one.memcpy_htod(&numbers(1000.0), &mut a).unwrap();
            let c = two.clone_dtod(&a).unwrap();
            assert_eq!(one.clone_dtoh(&b).unwrap(), numbers(1.0));
            assert_eq!(two.clone_dtoh(&c).unwrap(), numbers(1000.0));
            drop((a, b, c));
            context.synchronize().unwrap();
            assert_eq!(gpu.take_findings(), vec![], "{mode:?}, seed {seed}");
        }
    }
}

#[test]
fn work_of_a_late_stream_runs_when_something_waits() {
    let (gpu, context, _turn) = late();
    let stream = context.new_stream().unwrap();
    let kernel = load(FILL, "fill").unwrap();
    let memory = stream.alloc_zeros::<f32>(32).unwrap();
    let address = {
        use cudarc::driver::DevicePtr;
        memory.device_ptr(&stream).0
    };
    let (mut out, mut n, mut value) = (address, 32u32, 1f32);
    let arguments: &mut [*mut c_void] = &mut [(&raw mut out).cast(), (&raw mut n).cast(), (&raw mut value).cast()];
    kernel.launch(1, 32, stream.cu_stream(), arguments).unwrap();
    assert_eq!(gpu.take_launches().len(), 0, "nothing waits yet");
    // SAFETY: the handles are live.
    unsafe {
        assert_eq!(sys::cuStreamQuery(stream.cu_stream()), sys::CUresult::CUDA_ERROR_NOT_READY);
        // Asking again and again comes to an end, as it does on hardware.
        let mut asked = 0;
        while sys::cuStreamQuery(stream.cu_stream()) == sys::CUresult::CUDA_ERROR_NOT_READY {
            asked += 1;
            assert!(asked < 100);
        }
    }
    assert_eq!(gpu.take_launches().len(), 1);
    assert_eq!(gpu.take_findings(), vec![]);
}

#[test]
fn an_event_forces_exactly_what_was_recorded() {
    let (gpu, context, _turn) = late();
    let (one, two) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let kernel = load(FILL, "fill").unwrap();
    let memory = one.alloc_zeros::<f32>(32).unwrap();
    let address = {
        use cudarc::driver::DevicePtr;
        memory.device_ptr(&one).0
    };
    let launch = |value: f32| {
        let (mut out, mut n, mut value) = (address, 32u32, value);
        let arguments: &mut [*mut c_void] = &mut [(&raw mut out).cast(), (&raw mut n).cast(), (&raw mut value).cast()];
        kernel.launch(1, 32, one.cu_stream(), arguments).unwrap();
    };
    launch(1.0);
    let event = one.record_event(None).unwrap();
    launch(2.0);
    two.wait(&event).unwrap();
    // Recording again does not move a wait that was asked for before.
    event.record(&one).unwrap();
    two.synchronize().unwrap();
    assert_eq!(gpu.take_launches().len(), 1);
    one.synchronize().unwrap();
    assert_eq!(gpu.take_launches().len(), 1);
    assert_eq!(gpu.take_findings(), vec![]);
}

#[test]
fn the_legacy_stream_orders_blocking_streams_and_no_others() {
    let (gpu, _context, _turn) = late();
    // SAFETY: handles and sizes are those of what is made here.
    unsafe {
        let blocking = result::stream::create(result::stream::StreamKind::Default).unwrap();
        let free = result::stream::create(result::stream::StreamKind::NonBlocking).unwrap();
        let memory = result::malloc_sync(8).unwrap();
        let mut pinned = result::malloc_host(8, 0).unwrap().cast::<u32>();
        for (stream, at) in [(blocking, memory), (free, memory + 4)] {
            check(sys::cuMemsetD32Async(at, 7, 1, stream)).unwrap();
        }
        let mut host = [0u32; 2];
        gpu.checks(softgpu::launch::Checks::NONE);
        // A blocking copy in the legacy stream comes after the blocking stream's work, and not after the other's.
        result::memcpy_dtoh_sync(&mut host, memory).unwrap();
        assert_eq!(host, [7, u32::MAX], "{:?}", gpu.take_findings());
        result::stream::synchronize(free).unwrap();
        result::memcpy_dtoh_sync(&mut host, memory).unwrap();
        assert_eq!(host, [7, 7]);
        check(sys::cuMemcpyDtoHAsync_v2(pinned.cast(), memory, 8, std::ptr::null_mut())).unwrap();
        // Work submitted to a blocking stream later comes after the legacy stream's.
        check(sys::cuMemsetD32Async(memory, 9, 1, blocking)).unwrap();
        result::stream::synchronize(blocking).unwrap();
        assert_eq!(pinned.read(), 7);
        result::free_host(pinned.cast()).unwrap();
        pinned = std::ptr::null_mut();
        assert!(pinned.is_null());
        result::free_sync(memory).unwrap();
        result::stream::destroy(blocking).unwrap();
        result::stream::destroy(free).unwrap();
    }
    gpu.take_findings();
}

#[test]
fn a_stream_dropped_with_work_pending_leaves_a_read_stale() {
    let (gpu, context, _turn) = late();
    let default = context.default_stream();
    let mut memory = default.alloc_zeros::<f32>(256).unwrap();
    default.synchronize().unwrap();
    let stream = context.new_stream().unwrap();
    stream.memcpy_htod(&numbers(1.0), &mut memory).unwrap();
    drop(stream);
    // The safe layer believes that there is one stream, and lets the read go ahead of the copy.
    assert_eq!(default.clone_dtoh(&memory).unwrap(), vec![0f32; 256]);
    context.synchronize().unwrap();
    assert_eq!(default.clone_dtoh(&memory).unwrap(), numbers(1.0));
    drop(memory);
    gpu.take_findings();
}

#[test]
fn memory_freed_after_its_stream_was_dropped_is_found() {
    let (gpu, context, _turn) = late();
    let default = context.default_stream();
    let mut memory = default.alloc_zeros::<f32>(256).unwrap();
    default.synchronize().unwrap();
    let stream = context.new_stream().unwrap();
    stream.memcpy_htod(&numbers(1.0), &mut memory).unwrap();
    drop(stream);
    drop(memory);
    let finding = only(gpu.take_findings());
    assert_eq!(finding.detector, Detector::USE_AFTER_FREE);
    assert!(finding.text.contains("cuMemFreeAsync") && finding.text.contains("cuMemcpyHtoDAsync_v2"), "{finding}");
    context.synchronize().unwrap();
    assert_eq!(gpu.take_findings(), vec![], "said once");
}

#[test]
fn two_context_objects_of_one_device_do_not_order_each_other() {
    let (gpu, context, _turn) = late();
    let other = CudaContext::new(0).unwrap();
    assert_eq!(context, other);
    let default = context.default_stream();
    let mut memory = default.alloc_zeros::<f32>(256).unwrap();
    default.synchronize().unwrap();
    let stream = other.new_stream().unwrap();
    stream.memcpy_htod(&numbers(1.0), &mut memory).unwrap();
    assert_eq!(default.clone_dtoh(&memory).unwrap(), vec![0f32; 256], "the read went ahead of the copy");
    drop(memory);
    assert_eq!(only(gpu.take_findings()).detector, Detector::USE_AFTER_FREE);
    context.synchronize().unwrap();
}

#[test]
fn a_length_whose_bytes_overflow_is_found() {
    let (gpu, context, _turn) = late();
    gpu.streams(Streams::Sync);
    let stream = context.new_stream().unwrap();
    let bytes = 8usize.wrapping_mul((1 << 61) + 1);
    assert_eq!(bytes, 8);
    // What an unchecked product leads to: 8 bytes of memory under a slice of 2^61 + 1 elements, and a copy of two.
    // SAFETY: the host slice has the size of the copy.
    unsafe {
        let memory = result::malloc_async(stream.cu_stream(), bytes).unwrap();
        assert!(result::memcpy_htod_async(memory, &[1f64, 2.0], stream.cu_stream()).is_err());
        let finding = only(gpu.take_findings());
        assert_eq!(finding.detector, Detector::OUT_OF_BOUNDS);
        assert!(finding.text.contains("the last 8 of 16 bytes lie past"), "{finding}");
        result::free_async(memory, stream.cu_stream()).unwrap();
    }
}

#[test]
fn pinned_memory_is_read_and_written_late() {
    let (gpu, context, _turn) = late();
    let stream = context.new_stream().unwrap();
    let memory = stream.clone_htod(&numbers(5.0)).unwrap();
    stream.synchronize().unwrap();
    // SAFETY: every element is written before it is read.
    let mut pinned = unsafe { context.alloc_pinned::<f32>(256) }.unwrap();
    pinned.as_mut_slice().unwrap().fill(0.0);
    stream.memcpy_dtoh(&memory, pinned.as_mut_slice().unwrap()).unwrap();
    let before = pinned.as_slice().unwrap().to_vec();
    assert_eq!(before, vec![0f32; 256], "the copy has not landed");
    stream.synchronize().unwrap();
    assert_eq!(pinned.as_slice().unwrap(), numbers(5.0));
    // A source that is overwritten while its copy is pending.
    let mut target = stream.alloc_zeros::<f32>(256).unwrap();
    stream.memcpy_htod(pinned.as_slice().unwrap(), &mut target).unwrap();
    pinned.as_mut_slice().unwrap().fill(-1.0);
    assert_eq!(stream.clone_dtoh(&target).unwrap(), vec![-1f32; 256]);
    assert_eq!(gpu.take_findings(), vec![]);
}

#[test]
fn pinned_memory_dropped_before_its_copy_lands_is_found() {
    let (gpu, context, _turn) = late();
    let stream = context.new_stream().unwrap();
    let memory = stream.clone_htod(&numbers(5.0)).unwrap();
    stream.synchronize().unwrap();
    // SAFETY: never read.
    let mut pinned = unsafe { context.alloc_pinned::<f32>(256) }.unwrap();
    stream.memcpy_dtoh(&memory, pinned.as_mut_slice().unwrap()).unwrap();
    drop(pinned);
    stream.synchronize().unwrap();
    let finding = only(gpu.take_findings());
    assert_eq!(finding.detector, Detector::PINNED_MEMORY);
    assert!(finding.submission.as_deref().is_some_and(|by| by.contains("cuMemcpyDtoHAsync_v2")), "{finding:?}");
}

#[test]
fn waits_skipped_after_a_failed_record_are_found() {
    let (gpu, context, _turn) = late();
    let stream = context.new_stream().unwrap();
    let other = context.new_stream().unwrap();
    let mut memory = stream.alloc_zeros::<f32>(256).unwrap();
    stream.synchronize().unwrap();
    other.memcpy_htod(&numbers(1.0), &mut memory).unwrap();
    gpu.fail("cuEventRecord", 1, 999);
    let _ = context.new_event(None).unwrap().record(&other);
    // The record of a copy fails behind the program's back; its error is stored, and the next drop skips its waits.
    let _ = other.memcpy_htod(&numbers(2.0), &mut memory);
    gpu.fail("cuEventRecord", 1, 999);
    let _ = other.memcpy_htod(&numbers(3.0), &mut memory);
    drop(memory);
    let findings = gpu.take_findings();
    assert!(findings.iter().any(|finding| finding.detector == Detector::USE_AFTER_FREE), "{findings:?}");
    gpu.clear_failures();
    context.synchronize().ok();
    gpu.take_findings();
}

#[test]
fn a_per_thread_stream_is_another_one_on_another_thread() {
    let (gpu, context, _turn) = late();
    let mine = context.per_thread_stream();
    let mut memory = mine.alloc_zeros::<f32>(256).unwrap();
    mine.synchronize().unwrap();
    mine.memcpy_htod(&numbers(1.0), &mut memory).unwrap();
    let (stream, view): (Arc<CudaStream>, _) = (mine.clone(), &memory);
    let seen = std::thread::scope(|scope| {
        scope
            .spawn(move || {
                let gpu = open_recording();
                gpu.streams(Streams::Late);
                stream.clone_dtoh(view).unwrap()
            })
            .join()
            .unwrap()
    });
    assert_eq!(seen, vec![0f32; 256], "the value moved to the other thread, its work did not");
    mine.synchronize().unwrap();
    assert_eq!(mine.clone_dtoh(&memory).unwrap(), numbers(1.0));
    gpu.take_findings();
}

#[test]
fn memory_used_before_its_allocation_is_ordered_is_found() {
    let (gpu, context, _turn) = late();
    let (one, two) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    // SAFETY: handles are live; the missing order is what this test is about.
    unsafe {
        let memory = result::malloc_async(one.cu_stream(), 64).unwrap();
        result::memset_d8_async(memory, 1, 64, two.cu_stream()).unwrap();
        assert_eq!(only(gpu.take_findings()).detector, Detector::STREAM_ORDER);
        result::stream::synchronize(two.cu_stream()).unwrap();
        result::free_async(memory, one.cu_stream()).unwrap();
        result::memset_d8_async(memory, 2, 64, one.cu_stream()).unwrap();
        let finding = only(gpu.take_findings());
        assert_eq!(finding.detector, Detector::USE_AFTER_FREE);
        one.synchronize().unwrap();
        assert_eq!(gpu.take_findings(), vec![], "said once");
    }
}

#[test]
fn host_functions_run_in_order_and_may_not_call_the_driver() {
    let (gpu, context, _turn) = late();
    let stream = context.new_stream().unwrap();
    unsafe extern "C" fn note(data: *mut c_void) {
        let mut count = 0;
        // SAFETY: `data` is the number below, which outlives the stream's work.
        unsafe { *data.cast::<u32>() += 1 + 10 * sys::cuDeviceGetCount(&mut count) as u32 };
    }
    let mut calls = 0u32;
    for _ in 0..2 {
        // SAFETY: the number outlives the stream's work, which is waited for below.
        let code = unsafe { sys::cuLaunchHostFunc(stream.cu_stream(), Some(note), (&raw mut calls).cast()) };
        check(code).unwrap();
    }
    stream.synchronize().unwrap();
    assert_eq!(calls, 2 * (1 + 10 * sys::CUresult::CUDA_ERROR_NOT_PERMITTED as u32));
    assert_eq!(gpu.take_findings(), vec![]);
}

#[test]
fn launches_of_many_threads_run_beside_each_other() {
    let (_gpu, _context, _turn) = late();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                let gpu = open_recording();
                gpu.streams(if thread % 2 == 0 { Streams::Late } else { Streams::Sync });
                let context = CudaContext::new(0).unwrap();
                let stream = context.new_stream().unwrap();
                for round in 0..50 {
                    let from = (thread * 1000 + round) as f32;
                    let copy = stream.clone_htod(&numbers(from)).unwrap();
                    assert_eq!(stream.clone_dtoh(&copy).unwrap(), numbers(from));
                }
                assert_eq!(gpu.take_findings(), vec![]);
            });
        }
    });
}

/// The bindings' own host slices: what makes a copy asynchronous is the memory, not the type.
#[test]
fn pageable_memory_is_staged_at_the_call() {
    let (gpu, context, _turn) = late();
    let stream = context.new_stream().unwrap();
    let mut host = numbers(1.0);
    assert_eq!(HostSlice::<f32>::len(&host), 256);
    let memory = stream.clone_htod(&host).unwrap();
    host.fill(-1.0);
    assert_eq!(stream.clone_dtoh(&memory).unwrap(), numbers(1.0));
    assert_eq!(gpu.take_findings(), vec![]);
}
