//! Programs that other GPU libraries get wrong: memory dropped under queued work, streams that outrun each other.
//!
//! The software GPU runs each stream as late as the driver's rules allow, never hands out an address twice and reports
//! any use of freed memory, so what a program fails to wait for shows every time. Kernels are not needed here: copies
//! between tensors are queued work too.

use crate::common::gpu::World;
use crate::{LEN, numbers, pending, upload};
use sumexp::{Device, Dim, Error, Tensor};

#[test]
fn work_is_seen_through_another_stream_after_its_own_is_dropped() {
    let world = World::late();
    let (first, second) = (world.device(), world.device());
    let made = pending(&first, 1);
    drop(first);
    let seen = made.to_device(&second).unwrap();
    assert_eq!(seen.to_vec().unwrap(), numbers(1));
    drop(made);
    assert_eq!(seen.to_vec().unwrap(), numbers(1));
    drop((seen, second));
    world.assert_clean();
}

#[test]
fn memory_outlives_queued_work_after_its_stream_and_itself_are_dropped() {
    let world = World::late();
    let (first, second) = (world.device(), world.device());
    let made = pending(&first, 1);
    let seen = made.to_device(&second).unwrap();
    let mut copy = Tensor::zeros(&second, &[LEN]).unwrap();
    copy.copy_from(&seen).unwrap();
    drop(made);
    drop(first);
    drop(seen);
    // Fresh memory of another stream must not be what `made` had while `copy` still needs it.
    let other = world.device();
    let fresh: Vec<_> = (0..8).map(|from| pending(&other, 7000 * from)).collect();
    assert_eq!(copy.to_vec().unwrap(), numbers(1));
    drop((fresh, copy, second, other));
    world.assert_clean();
}

#[test]
fn two_readers_on_their_own_streams_are_both_awaited_by_a_writer() {
    let world = World::late();
    let (writer, left, right) = (world.device(), world.device(), world.device());
    let mut x = pending(&writer, 1);
    let copies = [&left, &right].map(|device| {
        let seen = x.to_device(device).unwrap();
        let mut copy = Tensor::zeros(device, &[LEN]).unwrap();
        copy.copy_from(&seen).unwrap();
        copy
    });
    x.copy_from_slice(&numbers(500)).unwrap();
    assert_eq!(copies.map(|copy| copy.to_vec().unwrap()), [numbers(1), numbers(1)]);
    assert_eq!(x.to_vec().unwrap(), numbers(500));
    drop((x, writer, left, right));
    world.assert_clean();
}

#[test]
fn a_crowd_of_readers_that_came_and_went_is_awaited_by_a_writer() {
    let world = World::late();
    let (writer, reader) = (world.device(), world.device());
    let mut x = pending(&writer, 1);
    let copies: Vec<_> = (0..30)
        .map(|_| {
            let seen = x.to_device(&reader).unwrap();
            let mut copy = Tensor::zeros(&reader, &[LEN]).unwrap();
            copy.copy_from(&seen).unwrap();
            copy
        })
        .collect();
    x.copy_from_slice(&numbers(500)).unwrap();
    assert!(copies.iter().all(|copy| copy.to_vec().unwrap() == numbers(1)));
    drop((copies, x, writer, reader));
    world.assert_clean();
}

#[test]
fn the_stream_that_allocated_is_awaited_by_a_writer_that_took_over() {
    let world = World::late();
    let (first, second) = (world.device(), world.device());
    let made = pending(&first, 1);
    let mut copy = Tensor::zeros(&first, &[LEN]).unwrap();
    let mut taken = made.to_device(&second).unwrap();
    copy.copy_from(&made).unwrap();
    // The read of `made` above is still queued, and enqueued behind the point for which `second` waits.
    drop(made);
    let replacement = pending(&second, 300);
    taken.copy_from(&replacement).unwrap();
    assert_eq!(taken.to_vec().unwrap(), numbers(300));
    assert_eq!(copy.to_vec().unwrap(), numbers(1));
    drop((taken, replacement, copy, first, second));
    world.assert_clean();
}

#[test]
fn memory_that_two_streams_hold_is_not_written_by_either() {
    let world = World::late();
    let (first, second) = (world.device(), world.device());
    let mut x = pending(&first, 1);
    let mut y = x.to_device(&second).unwrap();
    for shared in [&mut x, &mut y] {
        let refused = shared.copy_from_slice(&numbers(2)).unwrap_err();
        assert!(matches!(refused, Error::Shared { others: 1, .. }), "{refused}");
    }
    assert_eq!((x.to_vec().unwrap(), y.to_vec().unwrap()), (numbers(1), numbers(1)));
    drop(x);
    y.copy_from_slice(&numbers(2)).unwrap();
    assert_eq!(y.to_vec().unwrap(), numbers(2));
    drop((y, first, second));
    world.assert_clean();
}

#[test]
fn tensors_are_made_used_and_dropped_on_different_threads() {
    let world = &World::late();
    let device = world.device();
    let made = std::thread::scope(|scope| scope.spawn(|| world.on_thread(|| pending(&device, 1))).join().unwrap());
    let other = world.device();
    let (seen, copy) = std::thread::scope(|scope| {
        let work = || {
            let seen = made.to_device(&other).unwrap();
            let mut copy = Tensor::zeros(&other, &[LEN]).unwrap();
            copy.copy_from(&seen).unwrap();
            (seen, copy)
        };
        scope.spawn(move || world.on_thread(work)).join().unwrap()
    });
    std::thread::scope(|scope| {
        scope.spawn(|| world.on_thread(|| drop(made)));
        scope.spawn(|| world.on_thread(|| drop(seen)));
    });
    assert_eq!(copy.to_vec().unwrap(), numbers(1));
    drop((copy, device, other));
    world.assert_clean();
}

#[test]
fn a_thread_that_panics_leaves_nothing_behind() {
    let world = &World::late();
    let device = world.device();
    let panicked = std::thread::scope(|scope| {
        let work = || {
            let x = pending(&device, 1);
            let other = device.with_new_stream().unwrap();
            let _shared = x.to_device(&other).unwrap();
            panic!("on purpose: the drops of this thread run while it unwinds");
        };
        scope.spawn(move || world.on_thread(work)).join()
    });
    assert!(panicked.is_err());
    device.synchronize().unwrap();
    assert_eq!(pending(&device, 5).to_vec().unwrap(), numbers(5));
    drop(device);
    world.assert_clean();
}

#[test]
fn views_are_read_where_they_point() {
    let world = World::late();
    let device = world.device();
    let x = pending(&device, 0).reshape(&[10, 100]).unwrap();
    let part = x.view().slice(Dim::front(0), 3..5).unwrap().transpose(Dim::front(0), Dim::LAST).unwrap();
    let want: Vec<u32> = (0..100).flat_map(|column| [300 + column, 400 + column]).collect();
    assert_eq!(part.to_vec().unwrap(), want);
    let repeated = x.view().slice(Dim::LAST, 7..8).unwrap().expand(&[2, 10, 3]).unwrap();
    let want: Vec<u32> = (0..2).flat_map(|_| (0..10).flat_map(|row| [100 * row + 7; 3])).collect();
    assert_eq!(repeated.to_vec().unwrap(), want);
    drop((x, device));
    world.assert_clean();
}

#[test]
fn nothing_of_no_elements_reaches_the_driver() {
    let world = World::late();
    let device = world.device();
    let before = world.calls("*");
    let mut x = Tensor::<f32>::zeros(&device, &[3, 0]).unwrap();
    let y = Tensor::<f32>::from_slice(&device, &[0], &[]).unwrap();
    x.copy_from_slice(&[]).unwrap();
    x.copy_from(&Tensor::zeros(&device, &[3, 0]).unwrap()).unwrap();
    assert!(x.to_vec().unwrap().is_empty() && y.to_device(&Device::cpu()).unwrap().to_vec().unwrap().is_empty());
    assert!(x.view().reshape(&[0, 8]).unwrap().to_vec().unwrap().is_empty());
    drop((x, y));
    assert_eq!(world.calls("*"), before);
    drop(device);
    world.assert_clean();
}

#[test]
fn a_gpu_without_room_says_so_and_goes_on() {
    let world = World::late();
    let device = world.device();
    let bytes = 1u64 << 46;
    match Tensor::<u8>::zeros(&device, &[bytes as usize]) {
        Err(Error::OutOfMemory { bytes: asked, device: name }) => assert_eq!((asked, name), (bytes, device.name())),
        other => panic!("{other:?}"),
    }
    assert_eq!(pending(&device, 5).to_vec().unwrap(), numbers(5));
    drop(device);
    world.assert_clean();
}

#[test]
fn adopted_streams_are_ordered_and_never_destroyed() {
    let world = World::late();
    let owner = world.device();
    // SAFETY: `owner` outlives everything made with the adopted device.
    let adopted = unsafe { Device::from_stream(0, owner.raw_stream().unwrap()) }.unwrap();
    assert_ne!(adopted, owner, "an adopted stream is a device of its own");
    let x = pending(&adopted, 1);
    let seen = x.to_device(&owner).unwrap();
    drop((x, adopted));
    assert_eq!(seen.to_vec().unwrap(), numbers(1));
    assert_eq!(pending(&owner, 9).to_vec().unwrap(), numbers(9));
    drop((seen, owner));
    // SAFETY: handle 2 is always valid; it is refused because it means another stream on every thread.
    let refused = unsafe { Device::from_stream(0, std::ptr::without_provenance_mut(2)) };
    assert_eq!(refused.unwrap_err(), Error::PerThreadStream);
    // SAFETY: the null stream lives as long as the context.
    let legacy = unsafe { Device::from_stream(0, std::ptr::null_mut()) }.unwrap();
    let x = pending(&legacy, 3);
    let other = world.device();
    assert_eq!(x.to_device(&other).unwrap().to_vec().unwrap(), numbers(3));
    drop((x, legacy, other));
    world.assert_clean();
}

#[test]
fn operands_on_two_streams_are_refused() {
    let world = World::late();
    let (first, second) = (world.device(), world.device());
    let (mut x, y) = (upload(&first, 1), upload(&second, 2));
    let refused = x.copy_from(&y).unwrap_err();
    let want = format!(
        "Tensor::copy_from: devices differ: the tensor is on {first}, the source is on {second}; use to_device"
    );
    assert_eq!(refused.to_string(), want);
    assert_eq!(first.clone(), first);
    assert_eq!(Device::cuda(0).unwrap(), Device::cuda(0).unwrap());
    drop((x, y, first, second));
    world.assert_clean();
}

#[test]
fn tensors_go_from_one_gpu_to_another() {
    let world = World::late();
    let Some(there) = world.second_device() else { return println!("skipped: the machine has one GPU") };
    let here = world.device();
    let mut x = pending(&here, 1);
    let y = x.to_device(&there).unwrap();
    // The copy reads `x` while it is queued: neither a writer nor a drop may come before it.
    x.copy_from_slice(&numbers(50)).unwrap();
    let z = x.to_device(&there).unwrap();
    drop((x, here));
    assert_eq!((y.to_vec().unwrap(), z.to_vec().unwrap()), (numbers(1), numbers(50)));
    // SAFETY: refused.
    let refused = unsafe { Device::from_stream(0, there.raw_stream().unwrap()) };
    assert_eq!(refused.unwrap_err(), Error::ForeignContext { ordinal: 0 });
    drop((y, z, there));
    world.assert_clean();
}
