//! The rules of stream capture: what becomes a node, what is refused with which code, and what a refusal does to the
//! capture.

mod program;

use cudarc::driver::{result, sys};
use program::{FILL, Kernel, check, load, open_recording};
use softgpu::ctl::Gpu;
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard};
use sys::CUstreamCaptureMode::{
    CU_STREAM_CAPTURE_MODE_GLOBAL as GLOBAL, CU_STREAM_CAPTURE_MODE_RELAXED as RELAXED,
    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL as THREAD_LOCAL,
};

/// The controls and this file's turn: a capture may forbid calls to every thread of the process.
fn turn() -> (Gpu, MutexGuard<'static, ()>) {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    (open_recording(), turn)
}

fn code(result: sys::CUresult) -> u32 {
    result as u32
}

fn stream(kind: result::stream::StreamKind) -> sys::CUstream {
    result::stream::create(kind).unwrap()
}

fn own_stream() -> sys::CUstream {
    stream(result::stream::StreamKind::NonBlocking)
}

fn begin(stream: sys::CUstream, mode: sys::CUstreamCaptureMode) -> u32 {
    // SAFETY: the stream is live.
    code(unsafe { sys::cuStreamBeginCapture_v2(stream, mode) })
}

/// The code of ending a capture, and its graph.
fn end(stream: sys::CUstream) -> (u32, sys::CUgraph) {
    let mut graph = null_mut();
    // SAFETY: the stream is live and the handle may be written.
    (code(unsafe { sys::cuStreamEndCapture(stream, &mut graph) }), graph)
}

fn nodes(graph: sys::CUgraph) -> usize {
    let mut count = 0;
    // SAFETY: the graph is live; without room for handles only the number is written.
    check(unsafe { sys::cuGraphGetNodes(graph, null_mut(), &mut count) }).unwrap();
    count
}

fn status(stream: sys::CUstream) -> u32 {
    let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
    // SAFETY: the stream is live and the status may be written.
    check(unsafe { sys::cuStreamIsCapturing(stream, &mut status) }).unwrap();
    status as u32
}

fn event() -> sys::CUevent {
    result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).unwrap()
}

fn fill(kernel: &Kernel, address: u64, value: f32, stream: sys::CUstream) -> u32 {
    let (mut out, mut n, mut value) = (address, 32u32, value);
    let arguments: &mut [*mut c_void] = &mut [(&raw mut out).cast(), (&raw mut n).cast(), (&raw mut value).cast()];
    kernel.launch(1, 32, stream, arguments).map_or_else(|error| error.0 as u32, |()| 0)
}

#[test]
fn work_becomes_nodes_and_does_not_run() {
    let (gpu, _turn) = turn();
    let stream = own_stream();
    let kernel = load(FILL, "fill").unwrap();
    // SAFETY: handles are live, sizes are those of what is allocated.
    unsafe {
        let memory = result::malloc_sync(128).unwrap();
        let pinned = result::malloc_host(128, 0).unwrap();
        gpu.take_launches();
        assert_eq!((begin(stream, GLOBAL), status(stream)), (0, 1));
        assert_eq!(fill(&kernel, memory, 1.0, stream), 0);
        check(sys::cuMemsetD8Async(memory, 0, 64, stream)).unwrap();
        check(sys::cuMemcpyDtoDAsync_v2(memory + 64, memory, 64, stream)).unwrap();
        check(sys::cuMemcpyDtoHAsync_v2(pinned, memory, 128, stream)).unwrap();
        check(sys::cuMemcpyHtoDAsync_v2(memory, pinned, 128, stream)).unwrap();
        let mut graph_info = null_mut();
        let (mut id, mut last, mut count) = (0, std::ptr::null(), 0);
        let mut state = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        let (graph_out, last_out, edges) = (&mut graph_info, &mut last, null_mut());
        let info = sys::cuStreamGetCaptureInfo_v3(stream, &mut state, &mut id, graph_out, last_out, edges, &mut count);
        check(info).unwrap();
        assert_eq!((state as u32, count), (1, 1));
        let latest = *last;
        let (ended, graph) = end(stream);
        assert_eq!((ended, nodes(graph), graph), (0, 5, graph_info));
        let mut handles = vec![null_mut(); 7];
        let mut room = handles.len();
        check(sys::cuGraphGetNodes(graph, handles.as_mut_ptr(), &mut room)).unwrap();
        assert_eq!((room, handles[4], handles[5]), (5, latest, null_mut()));
        let kinds: Vec<u32> = handles[..5]
            .iter()
            .map(|node| {
                let mut kind = sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_EMPTY;
                check(sys::cuGraphNodeGetType(*node, &mut kind)).unwrap();
                kind as u32
            })
            .collect();
        assert_eq!(kinds, [0, 2, 1, 1, 1]);
        assert_eq!(status(stream), 0);
        assert_eq!(gpu.take_launches().len(), 0, "nothing ran");
        check(sys::cuGraphDestroy(graph)).unwrap();
        assert_eq!(code(sys::cuGraphDestroy(graph)), 1);
        result::free_sync(memory).unwrap();
        result::free_host(pinned).unwrap();
        result::stream::destroy(stream).unwrap();
    }
}

#[test]
fn a_capture_begins_once_and_ends_where_it_began() {
    let (_gpu, _turn) = turn();
    assert_eq!(begin(null_mut(), RELAXED), 900, "the legacy default stream");
    let (one, two) = (own_stream(), own_stream());
    assert_eq!(end(one), (401, null_mut()), "not capturing");
    assert_eq!(begin(one, GLOBAL), 0);
    assert_eq!(begin(one, GLOBAL), 401, "capturing already");
    let fork = event();
    // SAFETY: the handles are live.
    unsafe {
        check(sys::cuEventRecord(fork, one)).unwrap();
        check(sys::cuStreamWaitEvent(two, fork, 0)).unwrap();
    }
    assert_eq!(status(two), 1, "the fork joins the capture");
    assert_eq!(end(two).0, 903);
    let there = one as usize;
    std::thread::spawn(move || {
        open_recording();
        assert_eq!(end(there as sys::CUstream).0, 908);
    })
    .join()
    .unwrap();
    let (ended, graph) = end(one);
    assert_eq!((ended, nodes(graph), status(two)), (0, 0, 0));
    assert_eq!(begin(one, RELAXED), 0);
    std::thread::spawn(move || {
        open_recording();
        let (ended, graph) = end(there as sys::CUstream);
        assert_eq!(ended, 0, "a relaxed capture may end on any thread");
        // SAFETY: the graph is live.
        check(unsafe { sys::cuGraphDestroy(graph) }).unwrap();
    })
    .join()
    .unwrap();
    // SAFETY: the handles are live.
    unsafe {
        check(sys::cuGraphDestroy(graph)).unwrap();
        result::event::destroy(fork).unwrap();
        [one, two].into_iter().for_each(|stream| result::stream::destroy(stream).unwrap());
    }
}

/// What a call answers while the stream captures, and what `cuStreamEndCapture` answers then.
fn during(mode: sys::CUstreamCaptureMode, call: impl FnOnce(sys::CUstream) -> u32) -> (u32, u32) {
    let stream = own_stream();
    assert_eq!(begin(stream, mode), 0);
    let refused = call(stream);
    let (ended, graph) = end(stream);
    assert_eq!(ended == 0, !graph.is_null());
    // SAFETY: the handles are live.
    unsafe {
        if !graph.is_null() {
            check(sys::cuGraphDestroy(graph)).unwrap();
        }
        assert_eq!(status(stream), 0, "out of capture either way");
        result::stream::destroy(stream).unwrap();
    }
    (refused, ended)
}

#[test]
fn what_waits_for_captured_work_is_refused_in_every_mode() {
    let (_gpu, _turn) = turn();
    for mode in [GLOBAL, THREAD_LOCAL, RELAXED] {
        // SAFETY: the handles are live.
        unsafe {
            assert_eq!(during(mode, |stream| code(sys::cuStreamSynchronize(stream))), (900, 901));
            assert_eq!(during(mode, |stream| code(sys::cuStreamQuery(stream))), (900, 901));
            assert_eq!(during(mode, |_| code(sys::cuCtxSynchronize())), (900, 901));
            let captured = event();
            let asked = |ask: unsafe fn(sys::CUevent) -> sys::CUresult| {
                during(mode, |stream| {
                    check(sys::cuEventRecord(captured, stream)).unwrap();
                    code(ask(captured))
                })
            };
            assert_eq!(asked(sys::cuEventQuery), (907, 901));
            assert_eq!(asked(sys::cuEventSynchronize), (907, 901));
            let other = own_stream();
            assert_eq!(code(sys::cuStreamWaitEvent(other, captured, 0)), 907, "the capture is over");
            check(sys::cuEventRecord(captured, other)).unwrap();
            check(sys::cuEventSynchronize(captured)).unwrap();
            result::stream::destroy(other).unwrap();
            result::event::destroy(captured).unwrap();
        }
    }
}

#[test]
fn pageable_copies_are_not_captured() {
    let (_gpu, _turn) = turn();
    // SAFETY: the slices have the sizes of the copies.
    unsafe {
        let memory = result::malloc_sync(64).unwrap();
        let mut host = [0u8; 64];
        let to = host.as_mut_ptr().cast::<c_void>();
        for mode in [GLOBAL, RELAXED] {
            assert_eq!(during(mode, |stream| code(sys::cuMemcpyHtoDAsync_v2(memory, to, 64, stream))), (900, 901));
            assert_eq!(during(mode, |stream| code(sys::cuMemcpyDtoHAsync_v2(to, memory, 64, stream))), (900, 901));
        }
        result::free_sync(memory).unwrap();
    }
}

#[test]
fn calls_that_no_capture_sees_follow_the_mode() {
    let (_gpu, _turn) = turn();
    // SAFETY: the handles are live, the results may be written.
    unsafe {
        let allocate = |_| {
            let mut address = 0;
            let answer = code(sys::cuMemAlloc_v2(&mut address, 64));
            if answer == 0 {
                // Within a relaxed capture this is allowed too.
                check(sys::cuMemFree_v2(address)).unwrap();
            }
            answer
        };
        let there = move || std::thread::spawn(move || (open_recording(), allocate(null_mut())).1).join().unwrap();
        assert_eq!(during(GLOBAL, allocate), (900, 901));
        assert_eq!(during(THREAD_LOCAL, allocate), (900, 901));
        assert_eq!(during(RELAXED, allocate), (0, 0));
        assert_eq!(during(GLOBAL, |_| there()), (900, 901), "another thread spoils a global capture");
        assert_eq!(during(THREAD_LOCAL, |_| there()), (0, 0));
        let other = own_stream();
        let done = event();
        for (mode, answers) in [(GLOBAL, (900, 901)), (RELAXED, (0, 0))] {
            assert_eq!(during(mode, |_| code(sys::cuStreamSynchronize(other))), answers);
            assert_eq!(during(mode, |_| code(sys::cuEventQuery(done))), answers);
            assert_eq!(during(mode, |_| load(FILL, "fill").map_or_else(|error| error.0 as u32, |_| 0)), answers);
            let mut pinned = null_mut();
            assert_eq!(during(mode, |_| code(sys::cuMemHostAlloc(&mut pinned, 64, 0))), answers);
            let memory = result::malloc_sync(4).unwrap();
            assert_eq!(during(mode, |_| code(sys::cuMemsetD8_v2(memory, 0, 4))), answers);
            result::free_sync(memory).unwrap();
        }
        // A thread may say that it knows what it does, and take that back.
        let mut mode = RELAXED;
        check(sys::cuThreadExchangeStreamCaptureMode(&mut mode)).unwrap();
        assert_eq!(mode, GLOBAL);
        assert_eq!(during(GLOBAL, allocate), (0, 0));
        check(sys::cuThreadExchangeStreamCaptureMode(&mut mode)).unwrap();
        assert_eq!(mode, RELAXED);
        assert_eq!(during(GLOBAL, allocate), (900, 901));
        result::stream::destroy(other).unwrap();
        result::event::destroy(done).unwrap();
    }
}

#[test]
fn the_legacy_stream_is_closed_while_a_blocking_stream_captures() {
    let (_gpu, _turn) = turn();
    let blocking = stream(result::stream::StreamKind::Default);
    let mut is = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
    // SAFETY: the handles are live, the slices have the sizes of the copies.
    unsafe {
        let memory = result::malloc_sync(8).unwrap();
        assert_eq!(begin(blocking, RELAXED), 0);
        assert_eq!(code(sys::cuStreamIsCapturing(null_mut(), &mut is)), 906, "asking does no harm");
        assert_eq!(status(blocking), 1);
        let mut host = [0u8; 8];
        assert_eq!(code(sys::cuMemcpyDtoH_v2(host.as_mut_ptr().cast(), memory, 8)), 906);
        assert_eq!(status(blocking), 2, "invalidated");
        assert_eq!(code(sys::cuMemsetD8Async(memory, 0, 8, blocking)), 901);
        assert_eq!(end(blocking), (901, null_mut()));
        assert_eq!(begin(blocking, RELAXED), 0);
        assert_eq!(code(sys::cuStreamSynchronize(null_mut())), 906);
        assert_eq!(end(blocking).0, 901);
        // A stream that the legacy stream is not ordered with does not mind.
        assert_eq!(during(RELAXED, |_| code(sys::cuMemsetD8Async(memory, 0, 8, null_mut()))), (0, 0));
        check(sys::cuMemsetD8Async(memory, 0, 8, blocking)).unwrap();
        result::stream::synchronize(blocking).unwrap();
        result::free_sync(memory).unwrap();
        result::stream::destroy(blocking).unwrap();
    }
}

#[test]
fn captures_do_not_mix_with_each_other_or_with_work_that_runs() {
    let (_gpu, _turn) = turn();
    let (one, two, plain) = (own_stream(), own_stream(), own_stream());
    let outside = event();
    // SAFETY: the handles are live.
    unsafe {
        check(sys::cuEventRecord(outside, plain)).unwrap();
        assert_eq!(during(RELAXED, |stream| code(sys::cuStreamWaitEvent(stream, outside, 0))), (905, 901));
        assert_eq!((begin(one, RELAXED), begin(two, RELAXED)), (0, 0));
        check(sys::cuEventRecord(outside, one)).unwrap();
        assert_eq!(code(sys::cuStreamWaitEvent(two, outside, 0)), 902);
        assert_eq!((end(one).0, end(two).0), (901, 901), "both are spoilt");
        assert_eq!(code(sys::cuStreamWaitEvent(null_mut(), outside, 0)), 907);
        result::event::destroy(outside).unwrap();
        [one, two, plain].into_iter().for_each(|stream| result::stream::destroy(stream).unwrap());
    }
}

#[test]
fn a_fork_must_be_joined() {
    let (_gpu, _turn) = turn();
    let (one, two) = (own_stream(), own_stream());
    let (fork, join) = (event(), event());
    // SAFETY: the handles are live, sizes are those of what is allocated.
    unsafe {
        let memory = result::malloc_sync(8).unwrap();
        for joined in [true, false] {
            assert_eq!(begin(one, GLOBAL), 0);
            check(sys::cuMemsetD8Async(memory, 1, 8, one)).unwrap();
            check(sys::cuEventRecord(fork, one)).unwrap();
            check(sys::cuStreamWaitEvent(two, fork, 0)).unwrap();
            check(sys::cuMemsetD8Async(memory, 2, 4, two)).unwrap();
            check(sys::cuMemsetD8Async(memory + 4, 3, 4, one)).unwrap();
            if joined {
                check(sys::cuEventRecord(join, two)).unwrap();
                check(sys::cuStreamWaitEvent(one, join, 0)).unwrap();
            }
            let (ended, graph) = end(one);
            assert_eq!(ended, if joined { 0 } else { 904 });
            assert_eq!((status(one), status(two)), (0, 0));
            if joined {
                assert_eq!(nodes(graph), 3);
                check(sys::cuGraphDestroy(graph)).unwrap();
            }
        }
        result::free_sync(memory).unwrap();
        [fork, join].into_iter().for_each(|event| result::event::destroy(event).unwrap());
        [one, two].into_iter().for_each(|stream| result::stream::destroy(stream).unwrap());
    }
}

#[test]
fn a_failing_call_on_the_capturing_stream_spoils_the_capture() {
    let (gpu, _turn) = turn();
    let kernel = load(FILL, "fill").unwrap();
    // SAFETY: the handles are live; what is wrong is refused.
    unsafe {
        let wrong_launch = |stream| {
            let (mut out, mut n, mut value) = (0u64, 0u32, 0f32);
            let arguments: &mut [*mut c_void] =
                &mut [(&raw mut out).cast(), (&raw mut n).cast(), (&raw mut value).cast()];
            kernel.launch(0, 32, stream, arguments).map_or_else(|error| error.0 as u32, |()| 0)
        };
        assert_eq!(during(RELAXED, wrong_launch), (1, 901));
        assert_eq!(during(RELAXED, |stream| code(sys::cuMemsetD8Async(0x1234, 0, 4, stream))), (1, 901));
        gpu.take_findings();
        let plain = result::malloc_sync(4).unwrap();
        assert_eq!(during(RELAXED, |stream| code(sys::cuMemFreeAsync(plain, stream))), (1, 901));
        assert_eq!(during(RELAXED, |stream| code(sys::cuStreamDestroy_v2(stream))), (900, 901));
        // A call that fails for a reason of its own beside the capture does not.
        assert_eq!(during(RELAXED, |_| code(sys::cuMemFree_v2(0x1234))), (1, 0));
        gpu.take_findings();
        result::free_sync(plain).unwrap();
    }
    assert_eq!(gpu.take_findings(), vec![]);
}
