//! Driver calls that fail while a graph is captured, made, launched and given back.

use super::{LEN, ROWS, late, numbers, plain};
use sumexp::{
    CrossEntropy, CrossEntropyInto, CrossEntropySaved, Device, Dim, Error, Graph, Result, Tensor, cross_entropy_into,
    softmax,
};

/// Everything about graphs once: memory made, shared and dropped before, during and after a capture, and two launches.
fn program(device: &Device, other: &Device) -> Result<Vec<Vec<f32>>> {
    let mut x = Tensor::from_slice(device, &[ROWS, LEN], &numbers(1))?;
    let targets = Tensor::from_slice(device, &[ROWS], &[0i64, 1, 2])?;
    let dropped = Tensor::from_slice(device, &[ROWS, LEN], &numbers(1))?;
    let mut loss = Tensor::zeros(device, &[])?;
    let (graph, y) = Graph::capture(device, |device| {
        let mut own = Tensor::zeros(device, &[ROWS, LEN])?;
        own.copy_from(&dropped)?;
        drop(dropped);
        let (mut lse, mut count) = (Tensor::zeros(device, &[ROWS])?, Tensor::zeros(device, &[])?);
        let mut saved = Tensor::zeros(device, &[CrossEntropySaved::elements(ROWS)])?;
        let outputs = CrossEntropyInto {
            loss: loss.view_mut(),
            lse: lse.view_mut(),
            count: count.view_mut(),
            saved: saved.view_mut(),
            statistics: None,
        };
        cross_entropy_into(&x, Dim::LAST, &targets, &CrossEntropy::default(), outputs)?;
        softmax(&x, Dim::LAST, &plain())
    })?;
    drop(targets);
    graph.launch()?;
    drop(y.to_device(other)?);
    x.copy_from_slice(&numbers(2))?;
    graph.launch()?;
    drop((graph, x));
    Ok(vec![y.to_vec()?, loss.to_vec()?])
}

/// Calls without which something cannot be given back safely, or at all: their failure may leave that one thing behind.
const GIVING_BACK: [&str; 7] = [
    "cuCtxPushCurrent_v2",
    "cuStreamDestroy_v2",
    "cuEventDestroy_v2",
    "cuMemFreeAsync",
    "cuStreamWaitEvent",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
];

/// Every driver function that the program calls.
const CALLS: [&str; 20] = [
    "cuCtxPushCurrent_v2",
    "cuCtxPopCurrent_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "cuEventCreate",
    "cuEventRecord",
    "cuEventDestroy_v2",
    "cuMemAllocAsync",
    "cuMemFreeAsync",
    "cuMemsetD8Async",
    "cuMemcpyHtoDAsync_v2",
    "cuLaunchKernel",
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
];

#[test]
fn each_driver_call_fails_once() {
    let (world, _turn) = late();
    let Some(gpu) = world.gpu() else { return println!("skipped: a real GPU does not fail on request") };
    let (device, other) = (world.device(), world.device());
    let right = program(&device, &other).unwrap();
    world.settle();
    let mut left_behind = world.leaks().len();
    for entry in CALLS {
        let before = gpu.calls(entry);
        program(&device, &other).unwrap();
        let calls = gpu.calls(entry) - before;
        assert!(calls > 0, "the program never calls {entry}");
        for nth in 1..=calls {
            gpu.fail(entry, nth, 999);
            match program(&device, &other) {
                Ok(values) => assert_eq!(values, right, "{entry} {nth}"),
                Err(error) => assert_eq!(error, Error::Driver { call: entry, code: 999 }, "{entry} {nth}"),
            }
            gpu.clear_failures();
            world.settle();
            world.assert_no_findings();
            let leaks = world.leaks();
            let allowed = usize::from(GIVING_BACK.contains(&entry));
            assert!(leaks.len() <= left_behind + allowed, "{entry} {nth} left behind:\n{}", leaks.join("\n"));
            left_behind = leaks.len();
        }
    }
    assert_eq!(program(&device, &other).unwrap(), right, "and the devices are as good as new");
}

#[test]
fn everything_fails_from_some_call_on() {
    let (world, _turn) = late();
    let Some(gpu) = world.gpu() else { return println!("skipped: a real GPU does not fail on request") };
    let (device, other) = (world.device(), world.device());
    let right = program(&device, &other).unwrap();
    let before = gpu.calls("*");
    program(&device, &other).unwrap();
    let calls = gpu.calls("*") - before;
    for first in (1..=calls).step_by(3) {
        // A device whose capture cannot be ended any more is lost: each round has its own.
        let (device, other) = (world.device(), world.device());
        for nth in first..=calls {
            gpu.fail("*", nth, 999);
        }
        let result = program(&device, &other);
        gpu.clear_failures();
        if let Ok(values) = result {
            assert_eq!(values, right, "from call {first} on");
        }
        drop((device, other));
        world.settle();
        world.assert_no_findings();
    }
    assert_eq!(program(&device, &other).unwrap(), right);
}
