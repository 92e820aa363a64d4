//! Graphs: replays use parameters as they were captured and memory as it is, run in every order that the edges allow,
//! and are found out when what they use is gone.

mod program;

use cudarc::driver::{result, sys};
use program::{ADD, FILL, Kernel, check, load, only, open_recording};
use softgpu::ctl::{Detector, Gpu, LeakKind, Streams};
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, Ordering};

fn stream() -> sys::CUstream {
    result::stream::create(result::stream::StreamKind::NonBlocking).unwrap()
}

fn event() -> sys::CUevent {
    result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).unwrap()
}

/// Captures what `work` does on a stream of its own.
///
/// Relaxed: the tests of this file run side by side.
fn capture(work: impl FnOnce(sys::CUstream)) -> sys::CUgraph {
    let stream = stream();
    let mut graph = null_mut();
    // SAFETY: the stream is live and the handle may be written.
    unsafe {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        check(sys::cuStreamBeginCapture_v2(stream, mode)).unwrap();
        work(stream);
        check(sys::cuStreamEndCapture(stream, &mut graph)).unwrap();
        result::stream::destroy(stream).unwrap();
    }
    graph
}

fn instantiate(graph: sys::CUgraph, flags: u64) -> Result<sys::CUgraphExec, sys::CUresult> {
    let mut exec = null_mut();
    // SAFETY: the graph is live and the handle may be written.
    check(unsafe { sys::cuGraphInstantiateWithFlags(&mut exec, graph, flags) }).map(|()| exec)
}

/// The executable form alone.
fn executable(work: impl FnOnce(sys::CUstream)) -> sys::CUgraphExec {
    let graph = capture(work);
    let exec = instantiate(graph, 0).unwrap();
    // SAFETY: the graph is live; what was made from it stays.
    check(unsafe { sys::cuGraphDestroy(graph) }).unwrap();
    exec
}

fn launch(exec: sys::CUgraphExec, stream: sys::CUstream) -> u32 {
    // SAFETY: each test passes live handles, or none on purpose.
    unsafe { sys::cuGraphLaunch(exec, stream) as u32 }
}

fn fill(kernel: &Kernel, address: u64, value: f32, stream: sys::CUstream) {
    let (mut out, mut n, mut value) = (address, 32u32, value);
    let arguments: &mut [*mut c_void] = &mut [(&raw mut out).cast(), (&raw mut n).cast(), (&raw mut value).cast()];
    kernel.launch(1, 32, stream, arguments).unwrap();
    // What the arguments point to is copied at the call.
    (out, n, value) = (1, 2, 3.0);
    assert!(out > 0 && n > 0 && value > 0.0);
}

fn floats(address: u64, stream: sys::CUstream) -> [f32; 32] {
    let mut host = [0f32; 32];
    // SAFETY: the slice has the size of the copy.
    unsafe { result::memcpy_dtoh_async(&mut host, address, stream) }.unwrap();
    host
}

/// Every way of running streams, with schedules.
fn worlds(gpu: &Gpu, mut test: impl FnMut()) {
    for (streams, seeds) in [(Streams::Sync, 1), (Streams::Late, 1), (Streams::Seeded, 20)] {
        for seed in 0..seeds {
            gpu.streams(streams);
            gpu.seed(seed);
            test();
        }
    }
    gpu.streams(Streams::Sync);
    gpu.seed(0);
}

#[test]
fn replays_use_parameters_as_captured_and_memory_as_it_is() {
    let gpu = open_recording();
    let add = load(ADD, "add").unwrap();
    worlds(&gpu, || {
        let stream = stream();
        // SAFETY: handles are live, sizes are those of the slices.
        unsafe {
            let (x, y) = (result::malloc_sync(128).unwrap(), result::malloc_sync(128).unwrap());
            let exec = executable(|stream| {
                let (mut out, mut input) = (y, x);
                add.launch(1, 32, stream, &mut [(&raw mut out).cast(), (&raw mut input).cast()]).unwrap();
            });
            for round in 1..4 {
                result::memcpy_htod_async(x, &[round as f32; 32], stream).unwrap();
                assert_eq!(launch(exec, stream), 0);
                assert_eq!(floats(y, stream)[0], round as f32 + 1.5 + 1.0);
            }
            check(sys::cuGraphExecDestroy(exec)).unwrap();
            assert_eq!(launch(exec, stream), 1, "gone");
            result::free_sync(x).unwrap();
            result::free_sync(y).unwrap();
            result::stream::destroy(stream).unwrap();
        }
        assert_eq!(gpu.take_findings(), vec![]);
    });
}

#[test]
fn a_launch_is_late_and_outlives_its_executable_graph() {
    let gpu = open_recording();
    gpu.streams(Streams::Late);
    let kernel = load(FILL, "fill").unwrap();
    let stream = stream();
    // SAFETY: handles are live.
    unsafe {
        let memory = result::malloc_sync(128).unwrap();
        let exec = executable(|stream| fill(&kernel, memory, 2.0, stream));
        assert_eq!(launch(exec, stream), 0);
        check(sys::cuGraphExecDestroy(exec)).unwrap();
        assert_eq!(gpu.take_launches().len(), 0, "nothing waits yet");
        assert_eq!(floats(memory, stream), [2.0; 32]);
        assert_eq!(gpu.take_launches().len(), 1);
        result::free_sync(memory).unwrap();
        result::stream::destroy(stream).unwrap();
    }
    assert_eq!(gpu.take_findings(), vec![]);
}

#[test]
fn launches_of_one_executable_graph_wait_for_each_other() {
    let gpu = open_recording();
    gpu.streams(Streams::Late);
    let kernel = load(FILL, "fill").unwrap();
    let (one, two) = (stream(), stream());
    // SAFETY: handles are live.
    unsafe {
        let memory = result::malloc_sync(128).unwrap();
        let exec = executable(|stream| fill(&kernel, memory, 2.0, stream));
        assert_eq!((launch(exec, one), launch(exec, two)), (0, 0));
        result::stream::synchronize(two).unwrap();
        assert_eq!(gpu.take_launches().len(), 2, "the first was forced by the second, in another stream");
        check(sys::cuGraphExecDestroy(exec)).unwrap();
        result::free_sync(memory).unwrap();
        [one, two].into_iter().for_each(|stream| result::stream::destroy(stream).unwrap());
    }
    assert_eq!(gpu.take_findings(), vec![]);
}

#[test]
fn branches_run_in_any_order_and_edges_hold() {
    let gpu = open_recording();
    let kernel = load(FILL, "fill").unwrap();
    let (stream, side) = (stream(), stream());
    let (fork, join) = (event(), event());
    // SAFETY: handles are live, sizes are those of what is allocated.
    unsafe {
        let memory = result::malloc_sync(128).unwrap();
        let unordered = |work: &dyn Fn(sys::CUstream)| {
            executable(|stream| {
                fill(&kernel, memory, 1.0, stream);
                check(sys::cuEventRecord(fork, stream)).unwrap();
                check(sys::cuStreamWaitEvent(side, fork, 0)).unwrap();
                fill(&kernel, memory, 2.0, side);
                check(sys::cuEventRecord(join, side)).unwrap();
                work(stream);
                check(sys::cuStreamWaitEvent(stream, join, 0)).unwrap();
                check(sys::cuMemsetD8Async(memory, 0, 4, stream)).unwrap();
            })
        };
        let exec = unordered(&|stream| fill(&kernel, memory, 3.0, stream));
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..32 {
            gpu.seed(seed);
            assert_eq!(launch(exec, stream), 0);
            let values = floats(memory, stream);
            assert_eq!(values[0], 0.0, "the join comes last");
            seen.insert(values[1] as u32);
        }
        assert_eq!(seen.into_iter().collect::<Vec<u32>>(), [2, 3], "the branches are not ordered");
        gpu.seed(0);
        check(sys::cuGraphExecDestroy(exec)).unwrap();
        result::free_sync(memory).unwrap();
        [fork, join].into_iter().for_each(|event| result::event::destroy(event).unwrap());
        [stream, side].into_iter().for_each(|stream| result::stream::destroy(stream).unwrap());
    }
    assert_eq!(gpu.take_findings(), vec![]);
}

#[test]
fn a_replay_on_freed_memory_is_found_with_its_node() {
    let gpu = open_recording();
    let stream = stream();
    // SAFETY: handles are live; that the memory is not is what this test is about.
    unsafe {
        let (memory, kept) = (result::malloc_sync(128).unwrap(), result::malloc_sync(128).unwrap());
        let exec = executable(|stream| {
            check(sys::cuMemsetD8Async(kept, 1, 128, stream)).unwrap();
            check(sys::cuMemcpyDtoDAsync_v2(memory, kept, 128, stream)).unwrap();
        });
        assert_eq!(launch(exec, stream), 0);
        assert_eq!(gpu.take_findings(), vec![]);
        result::free_sync(memory).unwrap();
        launch(exec, stream);
        let finding = only(gpu.take_findings());
        assert_eq!(finding.detector, Detector::USE_AFTER_FREE);
        let by = finding.submission.clone().unwrap_or_default();
        assert!(by.contains("node 1 (cuMemcpyDtoDAsync_v2) of graph") && by.contains("cuGraphLaunch"), "{finding}");
        assert!(finding.text.contains("freed by cuMemFree_v2"), "{finding}");
        check(sys::cuGraphExecDestroy(exec)).unwrap();
        result::free_sync(kept).unwrap();
        result::stream::destroy(stream).unwrap();
    }
}

#[test]
fn a_replay_of_an_unloaded_module_is_found() {
    let gpu = open_recording();
    let kernel = load(FILL, "fill").unwrap();
    let stream = stream();
    // SAFETY: handles are live; that the module is not is what this test is about.
    unsafe {
        let memory = result::malloc_sync(128).unwrap();
        let exec = executable(|stream| fill(&kernel, memory, 2.0, stream));
        result::module::unload(kernel.module).unwrap();
        assert_eq!(launch(exec, stream), 400);
        let finding = only(gpu.take_findings());
        assert!(finding.text.contains("node 0 (cuLaunchKernel of fill)"), "{finding}");
        assert!(finding.text.contains("its module was unloaded"), "{finding}");
        check(sys::cuGraphExecDestroy(exec)).unwrap();
        result::free_sync(memory).unwrap();
        result::stream::destroy(stream).unwrap();
    }
}

#[test]
fn memory_of_a_graph_keeps_its_address_and_nothing_else() {
    let gpu = open_recording();
    worlds(&gpu, || {
        let stream = stream();
        // SAFETY: handles are live, sizes are those of what is allocated.
        unsafe {
            let result = result::malloc_sync(64).unwrap();
            let mut inner = 0;
            let exec = executable(|stream| {
                inner = result::malloc_async(stream, 64).unwrap();
                check(sys::cuMemsetD8Async(inner, 7, 64, stream)).unwrap();
                check(sys::cuMemcpyDtoDAsync_v2(result, inner, 64, stream)).unwrap();
                result::free_async(inner, stream).unwrap();
            });
            let mut host = [0u8; 64];
            assert_eq!(result::memcpy_dtoh_sync(&mut host, inner).unwrap_err().0 as u32, 1, "not live outside");
            assert_eq!(only(gpu.take_findings()).detector, Detector::USE_AFTER_FREE);
            for _ in 0..3 {
                assert_eq!(launch(exec, stream), 0);
                result::stream::synchronize(stream).unwrap();
                result::memcpy_dtoh_sync(&mut host, result).unwrap();
                assert_eq!(host, [7; 64]);
            }
            assert!(result::memcpy_dtoh_sync(&mut host, inner).is_err());
            assert_eq!(only(gpu.take_findings()).detector, Detector::USE_AFTER_FREE);
            check(sys::cuGraphExecDestroy(exec)).unwrap();
            result::free_sync(result).unwrap();
            result::stream::destroy(stream).unwrap();
        }
    });
    let memory = gpu.leaks().into_iter().filter(|leak| leak.kind == LeakKind::Memory);
    assert_eq!(memory.collect::<Vec<_>>(), vec![]);
}

#[test]
fn memory_that_a_graph_leaves_live_is_freed_before_the_next_launch() {
    let gpu = open_recording();
    let stream = stream();
    // SAFETY: handles are live, sizes are those of what is allocated.
    unsafe {
        let mut inner = 0;
        let graph = capture(|stream| {
            inner = result::malloc_async(stream, 64).unwrap();
            check(sys::cuMemsetD8Async(inner, 7, 64, stream)).unwrap();
        });
        let exec = instantiate(graph, 0).unwrap();
        let second = instantiate(graph, 0);
        assert_eq!(second.unwrap_err() as u32, 1, "one at a time, since the address is one");
        assert_eq!(launch(exec, stream), 0);
        let mut host = [0u8; 64];
        result::memcpy_dtoh_async(&mut host, inner, stream).unwrap();
        assert_eq!(host, [7; 64], "live after the launch");
        assert_eq!(launch(exec, stream), 1);
        assert!(gpu.last_error().contains("was not freed"), "{}", gpu.last_error());
        result::free_async(inner, stream).unwrap();
        assert_eq!(launch(exec, stream), 0);
        result::free_sync(inner).unwrap();
        check(sys::cuGraphExecDestroy(exec)).unwrap();
        const AUTO_FREE_ON_LAUNCH: u64 = 1;
        let exec = instantiate(graph, AUTO_FREE_ON_LAUNCH).unwrap();
        assert_eq!((launch(exec, stream), launch(exec, stream)), (0, 0));
        result::free_async(inner, stream).unwrap();
        check(sys::cuGraphExecDestroy(exec)).unwrap();
        check(sys::cuGraphDestroy(graph)).unwrap();
        result::stream::destroy(stream).unwrap();
    }
    assert_eq!(gpu.take_findings(), vec![]);
}

#[test]
fn pinned_memory_is_read_at_every_launch_and_must_live() {
    let gpu = open_recording();
    let stream = stream();
    // SAFETY: handles are live; the pinned block is written between launches only.
    unsafe {
        let pinned = result::malloc_host(4, 0).unwrap().cast::<u32>();
        let memory = result::malloc_sync(4).unwrap();
        let exec = executable(|stream| {
            check(sys::cuMemcpyHtoDAsync_v2(memory, pinned.cast(), 4, stream)).unwrap();
        });
        for value in [5u32, 6] {
            pinned.write(value);
            assert_eq!(launch(exec, stream), 0);
            let mut host = [0u32];
            result::memcpy_dtoh_async(&mut host, memory, stream).unwrap();
            assert_eq!(host, [value]);
        }
        result::free_host(pinned.cast()).unwrap();
        launch(exec, stream);
        assert_eq!(only(gpu.take_findings()).detector, Detector::PINNED_MEMORY);
        check(sys::cuGraphExecDestroy(exec)).unwrap();
        result::free_sync(memory).unwrap();
        result::stream::destroy(stream).unwrap();
    }
}

#[test]
fn host_functions_and_external_events_are_nodes() {
    static CALLED: AtomicU32 = AtomicU32::new(0);
    unsafe extern "C" fn count(_: *mut c_void) {
        CALLED.fetch_add(1, Ordering::Relaxed);
    }
    let gpu = open_recording();
    gpu.streams(Streams::Late);
    let (one, two) = (stream(), stream());
    let (start, done) = (event(), event());
    const EXTERNAL: u32 = 1;
    // SAFETY: handles are live, the function takes no argument.
    unsafe {
        assert_eq!(sys::cuEventRecordWithFlags(done, one, EXTERNAL) as u32, 1, "in a capture only");
        assert_eq!(sys::cuStreamWaitEvent(one, start, EXTERNAL) as u32, 1);
        let exec = executable(|stream| {
            check(sys::cuStreamWaitEvent(stream, start, EXTERNAL)).unwrap();
            check(sys::cuLaunchHostFunc(stream, Some(count), null_mut())).unwrap();
            check(sys::cuEventRecordWithFlags(done, stream, EXTERNAL)).unwrap();
        });
        for round in 1..4 {
            check(sys::cuEventRecord(start, two)).unwrap();
            assert_eq!(launch(exec, one), 0);
            assert_eq!(CALLED.load(Ordering::Relaxed), round - 1);
            check(sys::cuEventSynchronize(done)).unwrap();
            assert_eq!(CALLED.load(Ordering::Relaxed), round);
        }
        check(sys::cuGraphExecDestroy(exec)).unwrap();
        [start, done].into_iter().for_each(|event| result::event::destroy(event).unwrap());
        [one, two].into_iter().for_each(|stream| result::stream::destroy(stream).unwrap());
    }
    assert_eq!(gpu.take_findings(), vec![]);
}

#[test]
fn what_is_left_of_graphs_is_told() {
    let gpu = open_recording();
    let mut empty = null_mut();
    // SAFETY: handles are live and may be written.
    unsafe {
        check(sys::cuGraphCreate(&mut empty, 0)).unwrap();
        let exec = instantiate(empty, 0).unwrap();
        let stream = stream();
        check(sys::cuGraphUpload(exec, stream)).unwrap();
        assert_eq!(launch(exec, stream), 0, "nothing to do is done");
        result::stream::destroy(stream).unwrap();
        let kinds: Vec<LeakKind> = gpu.leaks().iter().map(|leak| leak.kind).collect();
        assert_eq!(kinds, [LeakKind::Graph, LeakKind::Exec]);
        check(sys::cuGraphDestroy(empty)).unwrap();
        check(sys::cuGraphExecDestroy(exec)).unwrap();
    }
    assert_eq!(gpu.leaks(), vec![]);
}
