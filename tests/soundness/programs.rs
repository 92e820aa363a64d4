//! Eleven programs that break the streams, slices and graphs of a widely used safe CUDA wrapper (cudarc 0.19.10): stale
//! data, memory used after it was freed, sizes that wrap. Here each is written as this crate allows it, or the nearest
//! program that it allows, and must be right while every stream runs as late as it may.

use crate::common::gpu::{World, undisturbed};
use crate::{LEN, numbers, pending};
use sumexp::{Device, Error, Graph, Tensor};

/// The control: two live streams. Across them a tensor goes by `to_device`, and nothing else compiles or is accepted.
#[test]
fn p0_two_streams_that_stay_alive() {
    let world = World::late();
    let (first, second) = (world.device(), world.device());
    let x = pending(&first, 1);
    let y = x.to_device(&second).unwrap();
    let mut z = Tensor::zeros(&second, &[LEN]).unwrap();
    assert!(matches!(z.copy_from(&x), Err(Error::DifferentDevices { .. })), "not without `to_device`");
    z.copy_from(&y).unwrap();
    assert_eq!((z.to_vec().unwrap(), x.to_vec().unwrap()), (numbers(1), numbers(1)));
    drop((x, y, z, first, second));
    world.assert_clean();
}

/// A copy on a stream, the stream's only handle dropped, a read elsewhere. A tensor keeps its stream.
#[test]
fn p1_the_stream_is_dropped_before_its_copy_is_read() {
    let world = World::late();
    let main = world.device();
    let side = main.with_new_stream().unwrap();
    let (x, y) = (pending(&side, 1), pending(&side, 2));
    drop(side);
    assert_eq!(x.to_device(&main).unwrap().to_vec().unwrap(), numbers(1));
    assert_eq!(y.to_vec().unwrap(), numbers(2));
    drop((x, y, main));
    world.assert_clean();
}

/// A copy on a stream, then stream and memory dropped while it is queued. The memory is given back behind the copy.
#[test]
fn p2_stream_and_memory_are_dropped_under_a_queued_copy() {
    let world = World::late();
    let main = world.device();
    let side = main.with_new_stream().unwrap();
    let source = pending(&side, 1);
    let mut copy = Tensor::zeros(&side, &[LEN]).unwrap();
    copy.copy_from(&source).unwrap();
    drop(side);
    drop(source);
    let fresh: Vec<_> = (0..8).map(|from| pending(&main, 1000 * from)).collect();
    drop(copy);
    for (from, fresh) in (0..8).zip(&fresh) {
        assert_eq!(fresh.to_vec().unwrap(), numbers(1000 * from));
    }
    drop((fresh, main));
    world.assert_clean();
}

/// The GPU opened twice, a stream from one handle and memory from the other: read. What counts is the stream itself, not
/// the object through which it was reached.
#[test]
fn p3_handles_of_one_gpu_that_know_nothing_of_each_other_read() {
    let world = World::late();
    let (one, two) = (Device::cuda(0).unwrap(), Device::cuda(0).unwrap());
    assert_eq!(one, two, "one default stream per GPU");
    let side = one.with_new_stream().unwrap();
    // SAFETY: `side` outlives the second name of its stream, and all that was made with it.
    let again = unsafe { Device::from_stream(0, side.raw_stream().unwrap()) }.unwrap();
    let made = pending(&side, 1);
    drop(one);
    assert_eq!(made.to_device(&two).unwrap().to_vec().unwrap(), numbers(1));
    let other = pending(&again, 2);
    assert_eq!(other.to_device(&side).unwrap().to_vec().unwrap(), numbers(2));
    drop((made, other, two, again, side));
    world.assert_clean();
}

/// The same, but the memory is dropped instead of read.
#[test]
fn p4_handles_of_one_gpu_that_know_nothing_of_each_other_drop() {
    let world = World::late();
    let side = Device::cuda(0).unwrap().with_new_stream().unwrap();
    // SAFETY: `side` outlives the second name of its stream, and all that was made with it.
    let again = unsafe { Device::from_stream(0, side.raw_stream().unwrap()) }.unwrap();
    let made = pending(&Device::cuda(0).unwrap(), 1);
    let copies = [&side, &again].map(|device| {
        let seen = made.to_device(device).unwrap();
        let mut copy = Tensor::zeros(device, &[LEN]).unwrap();
        copy.copy_from(&seen).unwrap();
        copy
    });
    drop(made);
    assert!(copies.iter().all(|copy| copy.to_vec().unwrap() == numbers(1)));
    drop((copies, again, side));
    world.assert_clean();
}

/// Sizes whose product wraps around: refused before anything is allocated, by the same error on every device.
#[test]
fn p5_sizes_that_wrap_around() {
    let world = World::late();
    let gpu = world.device();
    let before = world.calls("cuMemAllocAsync");
    for device in [&gpu, &Device::cpu()] {
        for dims in [&[(1usize << 61) + 1][..], &[1 << 31, 1 << 31], &[usize::MAX, 2], &[1 << 60], &[0, usize::MAX, 2]]
        {
            let refused = Tensor::<f64>::zeros(device, dims).unwrap_err();
            assert!(matches!(refused, Error::TooLarge { .. }), "{dims:?}: {refused}");
            let refused = Tensor::<f64>::from_slice(device, dims, &[0.0]).unwrap_err();
            assert!(matches!(refused, Error::TooLarge { .. }), "{dims:?}: {refused}");
        }
        let small = Tensor::<u8>::zeros(device, &[1]).unwrap();
        // As many elements as a slice may have, all of them the same one.
        let huge = small.view().expand(&[1 << 31, (1 << 32) - 1]).unwrap();
        assert_eq!((huge.layout().span(), huge.shape().elements()), (1, ((1 << 32) - 1) << 31));
        assert!(matches!(small.view().expand(&[1 << 31, 1 << 32]), Err(Error::TooLarge { .. })));
    }
    assert_eq!(world.calls("cuMemAllocAsync"), before + u64::from(world.gpu().is_some()), "that of `small`");
    drop(gpu);
    world.assert_clean();
}

/// A copy into host memory that is read before it is done. There is no transfer that returns before the host's memory is
/// its caller's again: neither one to the host nor one from it.
#[test]
fn p6_host_memory_is_used_as_soon_as_a_transfer_returns() {
    let world = World::late();
    let device = world.device();
    let mut host = numbers(1);
    let mut x = Tensor::from_slice(&device, &[LEN], &host).unwrap();
    host.fill(0);
    assert_eq!(x.to_vec().unwrap(), numbers(1));
    host.copy_from_slice(&numbers(2));
    x.copy_from_slice(&host).unwrap();
    host.fill(0);
    assert_eq!(x.to_vec().unwrap(), numbers(2));
    assert_eq!(pending(&device, 3).to_vec().unwrap(), numbers(3));
    drop((x, device));
    world.assert_clean();
}

/// The same, but the host's memory is freed, and what the allocator hands out next must keep its contents.
#[test]
fn p7_host_memory_is_freed_as_soon_as_a_transfer_returns() {
    let world = World::late();
    let device = world.device();
    let x = Tensor::from_slice(&device, &[LEN], &numbers(1)).unwrap();
    let copies: Vec<_> = (0..20)
        .map(|from| {
            drop(x.to_vec().unwrap());
            let made = Tensor::from_slice(&device, &[LEN], &numbers(from)).unwrap();
            (made, vec![from; LEN])
        })
        .collect();
    for (from, (made, host)) in (0..20).zip(&copies) {
        assert_eq!(made.to_vec().unwrap(), numbers(from));
        assert!(host.iter().all(|&value| value == from), "a transfer wrote memory that was not its own");
    }
    drop((copies, x, device));
    world.assert_clean();
}

/// An event cannot be recorded, then memory that another stream reads is dropped: the drop waits instead, and if it cannot
/// wait either, the memory is never given back.
#[test]
fn p8_a_failed_event_before_memory_is_dropped() {
    let world = World::late();
    let Some(gpu) = world.gpu() else { return println!("skipped: a real GPU does not fail on request") };
    for waits_fail in [false, true] {
        let (first, second) = (world.device(), world.device());
        let x = pending(&first, 1);
        let y = x.to_device(&second).unwrap();
        let mut z = Tensor::zeros(&second, &[LEN]).unwrap();
        z.copy_from(&y).unwrap();
        let waits = gpu.calls("cuStreamSynchronize");
        gpu.fail("cuEventRecord", 1, 999);
        if waits_fail {
            gpu.fail("cuStreamSynchronize", 1, 999);
        }
        drop(y);
        assert_eq!((gpu.failures_waiting(), gpu.calls("cuStreamSynchronize")), (0, waits + 1));
        drop(x);
        assert_eq!(z.to_vec().unwrap(), numbers(1));
        drop((z, first, second));
        world.settle();
        world.assert_no_findings();
        let leaks = world.leaks();
        assert_eq!(leaks.len(), usize::from(waits_fail), "{leaks:?}");
        assert!(leaks.iter().all(|leak| leak.contains(&format!("{} bytes", 4 * LEN))), "{leaks:?}");
    }
}

/// Work is captured in a graph, what it uses is dropped, and the graph is launched. The graph has its share in everything.
#[test]
fn p9_memory_is_dropped_between_capture_and_launch() {
    let world = World::late();
    let device = world.device();
    let source = pending(&device, 1);
    let mut copy = Tensor::zeros(&device, &[LEN]).unwrap();
    let capture = |device: &Device| {
        copy.copy_from(&source)?;
        let mut again = Tensor::zeros(device, &[LEN])?;
        again.copy_from(&copy)?;
        Ok(again)
    };
    let (graph, again) = undisturbed(|| Graph::capture(&device, capture)).unwrap();
    drop((source, copy));
    let fresh: Vec<_> = (0..8).map(|from| pending(&device, 1000 * from)).collect();
    graph.launch().unwrap();
    graph.launch().unwrap();
    drop(graph);
    assert_eq!(again.to_vec().unwrap(), numbers(1));
    assert!((0..8).zip(&fresh).all(|(from, fresh)| fresh.to_vec().unwrap() == numbers(1000 * from)));
    drop((again, fresh, device));
    world.assert_clean();
}

/// A handle that names another stream on every thread is not accepted; a device means the same stream on all of them.
#[test]
fn p10_one_device_on_two_threads() {
    let world = &World::late();
    // SAFETY: handle 2 is always valid.
    let refused = unsafe { Device::from_stream(0, std::ptr::without_provenance_mut(2)) };
    assert_eq!(refused.unwrap_err(), Error::PerThreadStream);
    let device = world.device();
    let x = std::thread::scope(|scope| scope.spawn(|| world.on_thread(|| pending(&device, 1))).join().unwrap());
    // Enqueued here, behind what the other thread enqueued.
    let mut y = Tensor::zeros(&device, &[LEN]).unwrap();
    y.copy_from(&x).unwrap();
    drop(x);
    assert_eq!(y.to_vec().unwrap(), numbers(1));
    drop((y, device));
    world.assert_clean();
}
