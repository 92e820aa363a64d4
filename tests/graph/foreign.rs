//! Graphs that the owner of an adopted stream captures with the driver, unknown to this crate.

use super::{Device, Dim, Error, LEN, ROWS, Reduction, Tensor, late, upload};
use cudarc::driver::result::{ctx, device, graph, init, primary_ctx, stream};
use cudarc::driver::sys::{CUgraphExec, CUgraphInstantiate_flags_enum, CUstream, CUstreamCaptureMode};
use std::mem;
use sumexp::{CrossEntropy, CrossEntropyInto, CrossEntropySaved, Result, cross_entropy_into};

/// What `work` enqueues on the stream, as the driver's own graph, and what it returned.
fn capture<R>(raw: CUstream, work: impl FnOnce() -> R) -> (Option<CUgraphExec>, R) {
    init().unwrap();
    // SAFETY: the handles are the driver's own and alive; the context is kept for the process by the library.
    unsafe {
        ctx::set_current(primary_ctx::retain(device::get(0).unwrap()).unwrap()).unwrap();
        stream::begin_capture(raw, CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED).unwrap();
        let result = work();
        let captured = stream::end_capture(raw).unwrap();
        let none: CUgraphInstantiate_flags_enum = mem::zeroed();
        let exec = graph::instantiate(captured, none).ok();
        graph::destroy(captured).unwrap();
        primary_ctx::release(device::get(0).unwrap()).unwrap();
        (exec, result)
    }
}

#[test]
fn bad_targets_of_a_foreign_graph_are_reported_at_every_launch() {
    let (world, _turn) = late();
    let owner = world.device();
    let raw = owner.raw_stream().unwrap();
    // SAFETY: `owner` outlives the adopted device and its work.
    let device = unsafe { Device::from_stream(0, raw) }.unwrap();
    let logits = upload(&device, 1);
    let targets = Tensor::from_slice(&device, &[ROWS], &[0i64, LEN as i64, 1]).unwrap();
    let mut loss = Tensor::<f32>::zeros(&device, &[ROWS]).unwrap();
    let mut lse = Tensor::<f32>::zeros(&device, &[ROWS]).unwrap();
    let mut count = Tensor::<i64>::zeros(&device, &[]).unwrap();
    let mut saved = Tensor::<f32>::zeros(&device, &[CrossEntropySaved::elements(ROWS)]).unwrap();
    let options = CrossEntropy { reduction: Reduction::None, ..CrossEntropy::default() };
    let mut enqueue = || -> Result<()> {
        let outputs = CrossEntropyInto {
            loss: loss.view_mut(),
            lse: lse.view_mut(),
            count: count.view_mut(),
            saved: saved.view_mut(),
        };
        cross_entropy_into(&logits, Dim::LAST, &targets, &options, outputs)
    };

    // A record made now would be the graph's: refused.
    let (exec, refused) = capture(raw, &mut enqueue);
    assert!(matches!(refused, Err(Error::Capturing { .. })), "{refused:?}");
    if let Some(empty) = exec {
        // SAFETY: it was never launched.
        unsafe { graph::exec_destroy(empty) }.unwrap();
    }

    device.synchronize().unwrap();
    let (exec, captured) = capture(raw, &mut enqueue);
    captured.unwrap();
    let exec = exec.expect("the graph is whole");
    // The first look has nothing to see, and forgets that a launch was announced.
    device.synchronize().unwrap();
    for launch in 0..3 {
        // SAFETY: graph and stream are alive, and so is the memory that was captured.
        unsafe { graph::launch(exec, raw) }.unwrap();
        let report = device.synchronize();
        let expected = Error::Target { op: "cross_entropy", row: 1, value: LEN as i64, classes: LEN as u64 };
        assert_eq!(report, Err(expected), "launch {launch}");
        device.synchronize().unwrap();
    }
    let losses = loss.to_vec().unwrap();
    assert!(losses[1].is_nan() && !losses[0].is_nan() && !losses[2].is_nan());
    // SAFETY: its launches are done.
    unsafe { graph::exec_destroy(exec) }.unwrap();
    drop((logits, targets, loss, lse, count, saved, device, owner));
    world.assert_clean();
}
