//! Graphs: what is captured runs at every launch on the memory of the capture, whatever was dropped meanwhile; what a graph
//! cannot hold is refused before the driver sees it; and nothing that fails leaves anything behind.

#[path = "../common/mod.rs"]
mod common;

mod faults;
mod foreign;

use common::gpu::World;
use softgpu::ctl::types::Streams;
use std::sync::{Mutex, MutexGuard, PoisonError};
use sumexp::{
    CrossEntropy, Device, Dim, Error, Graph, Reduction, Result, SoftmaxOptions, Tensor, cross_entropy,
    cross_entropy_backward, softmax, softmax_into,
};

const ROWS: usize = 3;
const LEN: usize = 40;

/// One test at a time: to check that nothing is left a test waits for the whole GPU, which spoils captures under way.
fn world(streams: Streams) -> (World, MutexGuard<'static, ()>) {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    (World::with(streams), turn)
}

fn late() -> (World, MutexGuard<'static, ()>) {
    world(Streams::Late)
}

fn numbers(from: u32) -> Vec<f32> {
    (0..ROWS * LEN).map(|i| ((i as u32 * 37 + from * 11) % 29) as f32 / 3.0).collect()
}

fn upload(device: &Device, from: u32) -> Tensor<f32> {
    Tensor::from_slice(device, &[ROWS, LEN], &numbers(from)).unwrap()
}

fn plain() -> SoftmaxOptions<'static> {
    SoftmaxOptions::default()
}

/// The same without a graph.
fn directly(device: &Device, from: u32) -> Vec<f32> {
    softmax(&upload(device, from), Dim::LAST, &plain()).unwrap().to_vec().unwrap()
}

#[test]
fn launches_see_what_tensors_hold_then() {
    for (streams, seeds) in [(Streams::Sync, 1), (Streams::Late, 1), (Streams::Seeded, 20)] {
        let (world, _turn) = world(streams);
        for seed in 0..seeds {
            if let Some(gpu) = world.gpu() {
                gpu.seed(seed);
            }
            let device = world.device();
            let mut x = upload(&device, 1);
            let mut y = Tensor::zeros(&device, &[ROWS, LEN]).unwrap();
            let (graph, z) = Graph::capture(&device, |_| {
                softmax_into(&x, Dim::LAST, &plain(), &mut y)?;
                softmax(&y, Dim::LAST, &plain())
            })
            .unwrap();
            assert_eq!(y.to_vec().unwrap(), vec![0.0; ROWS * LEN], "nothing ran");
            assert_eq!(z.to_vec().unwrap(), vec![0.0; ROWS * LEN], "new memory holds zeros");
            for from in [2, 3, 2] {
                x.copy_from_slice(&numbers(from)).unwrap();
                graph.launch().unwrap();
                let want = directly(&device, from);
                assert_eq!(y.to_vec().unwrap(), want);
                let again = Tensor::from_slice(&device, &[ROWS, LEN], &want).unwrap();
                let again = softmax(&again, Dim::LAST, &plain()).unwrap();
                assert_eq!(z.to_vec().unwrap(), again.to_vec().unwrap());
            }
            // Between launches its tensors are like any other.
            y.copy_from_slice(&numbers(5)).unwrap();
            graph.launch().unwrap();
            graph.launch().unwrap();
            assert_eq!(y.to_vec().unwrap(), directly(&device, 2));
            assert_eq!(graph.device(), device);
            drop((x, y, z, graph, device));
            world.assert_clean();
        }
    }
}

#[test]
fn a_tensor_of_zeros_is_zero_at_every_launch() {
    let (world, _turn) = late();
    let device = world.device();
    let x = upload(&device, 1);
    let (graph, mut y) = Graph::capture(&device, |device| {
        let mut y = Tensor::zeros(device, &[ROWS, LEN])?;
        softmax_into(
            x.view().slice(Dim::front(0), 0..1)?,
            Dim::LAST,
            &plain(),
            y.view_mut().slice(Dim::front(0), 0..1)?,
        )?;
        Ok(y)
    })
    .unwrap();
    for _ in 0..2 {
        graph.launch().unwrap();
        let values = y.to_vec().unwrap();
        assert_eq!((&values[..LEN], &values[LEN..]), (&directly(&device, 1)[..LEN], &[0.0; (ROWS - 1) * LEN][..]));
        y.copy_from_slice(&numbers(9)).unwrap();
    }
    drop((x, y, graph, device));
    world.assert_clean();
}

/// Every order in which a graph and what it uses can be dropped, with a launch before each drop as long as there is a graph.
#[test]
fn any_order_of_drops() {
    let (world, _turn) = late();
    for order in orders(5) {
        let device = world.device();
        let other = world.device();
        let x = upload(&device, 1);
        let seen = x.to_device(&other).unwrap();
        let (graph, y) = Graph::capture(&device, |_| softmax(&x, Dim::LAST, &plain())).unwrap();
        let want = directly(&device, 1);
        let (mut device, mut x, mut seen, mut graph, mut y) = (Some(device), Some(x), Some(seen), Some(graph), Some(y));
        for thing in order {
            if let Some(graph) = &graph {
                graph.launch().unwrap();
            }
            match thing {
                0 => device = None,
                1 => x = None,
                2 => seen = None,
                3 => graph = None,
                _ => {
                    if let Some(y) = y.take() {
                        assert_eq!(y.to_vec().unwrap(), want);
                    }
                }
            }
        }
        drop(other);
        assert!(device.is_none() && x.is_none() && seen.is_none() && graph.is_none());
        world.assert_clean();
    }
}

/// All orders of `0..len`.
fn orders(len: usize) -> Vec<Vec<usize>> {
    (0..len).fold(vec![vec![]], |all, next| {
        let longer = |order: Vec<usize>| {
            (0..=order.len()).map(move |at| {
                let mut order = order.clone();
                order.insert(at, next);
                order
            })
        };
        all.into_iter().flat_map(longer).collect()
    })
}

#[test]
fn what_is_dropped_during_the_capture_lives_as_long_as_the_graph() {
    let (world, _turn) = late();
    let device = world.device();
    let (x, unused) = (upload(&device, 4), upload(&device, 5));
    let mut y = Tensor::zeros(&device, &[ROWS, LEN]).unwrap();
    let world_here = &world;
    let (graph, ()) = Graph::capture(&device, |device| {
        let copy = softmax(&x, Dim::LAST, &plain())?.into_tensor();
        softmax_into(&copy, Dim::LAST, &plain(), &mut y)?;
        drop((x, copy, unused));
        // From another thread too.
        let made = Tensor::<f32>::zeros(device, &[LEN])?;
        std::thread::scope(|scope| scope.spawn(|| world_here.on_thread(|| drop(made))).join().unwrap());
        Ok(())
    })
    .unwrap();
    // Fresh memory must not be what the graph still uses.
    let fresh: Vec<_> = (0..8).map(|from| upload(&device, from)).collect();
    graph.launch().unwrap();
    let first = Tensor::from_slice(&device, &[ROWS, LEN], &directly(&device, 4)).unwrap();
    assert_eq!(y.to_vec().unwrap(), softmax(&first, Dim::LAST, &plain()).unwrap().to_vec().unwrap());
    drop((fresh, first, y, device));
    graph.launch().unwrap();
    drop(graph);
    world.assert_clean();
}

#[test]
fn a_launch_waits_for_readers_on_other_streams_and_is_refused_while_there_are_any() {
    let (world, _turn) = late();
    let (device, other) = (world.device(), world.device());
    let mut x = upload(&device, 1);
    let (graph, y) = Graph::capture(&device, |_| softmax(&x, Dim::LAST, &plain())).unwrap();
    let y = y.into_tensor();
    graph.launch().unwrap();
    x.copy_from_slice(&numbers(2)).unwrap();
    let seen = y.to_device(&other).unwrap();
    let mut copy = Tensor::zeros(&other, &[ROWS, LEN]).unwrap();
    copy.copy_from(&seen).unwrap();
    let refused = graph.launch().unwrap_err();
    assert!(matches!(refused, Error::Shared { op: "Graph::launch", others: 1, .. }), "{refused}");
    drop(seen);
    // The copy is still queued, and must come first.
    graph.launch().unwrap();
    assert_eq!(y.to_vec().unwrap(), directly(&device, 2));
    assert_eq!(copy.to_vec().unwrap(), directly(&device, 1));
    // What a graph only reads may be read anywhere.
    let seen = x.to_device(&other).unwrap();
    graph.launch().unwrap();
    drop((graph, seen, x, y, copy, device, other));
    world.assert_clean();
}

#[test]
fn a_launch_waits_for_readers_that_went_before_the_capture() {
    let (world, _turn) = late();
    let (device, other) = (world.device(), world.device());
    let x = upload(&device, 1);
    let mut y = upload(&device, 6);
    let mut copy = Tensor::zeros(&other, &[ROWS, LEN]).unwrap();
    copy.copy_from(&y.to_device(&other).unwrap()).unwrap();
    let (graph, ()) = Graph::capture(&device, |_| softmax_into(&x, Dim::LAST, &plain(), &mut y)).unwrap();
    graph.launch().unwrap();
    assert_eq!(y.to_vec().unwrap(), directly(&device, 1));
    assert_eq!(copy.to_vec().unwrap(), numbers(6));
    drop((graph, x, y, copy, device, other));
    world.assert_clean();
}

#[test]
fn memory_of_a_graph_is_written_on_its_own_stream_only() {
    let (world, _turn) = late();
    let (device, other) = (world.device(), world.device());
    let x = upload(&device, 1);
    let (graph, y) = Graph::capture(&device, |_| softmax(&x, Dim::LAST, &plain())).unwrap();
    let mut moved = x.to_device(&other).unwrap();
    drop(x);
    let refused = moved.copy_from_slice(&numbers(2)).unwrap_err();
    assert!(matches!(refused, Error::Shared { others: 1, .. }), "{refused}");
    graph.launch().unwrap();
    assert_eq!(y.to_vec().unwrap(), directly(&device, 1));
    // A graph of another stream that reads what this one writes is in the way of its launches.
    let there = y.to_device(&other).unwrap();
    let (reader, z) = Graph::capture(&other, |_| softmax(there.view_values(), Dim::LAST, &plain())).unwrap();
    drop(there);
    assert!(matches!(graph.launch().unwrap_err(), Error::Shared { others: 1, .. }));
    reader.launch().unwrap();
    drop(reader);
    graph.launch().unwrap();
    drop((y, z, graph, device));
    moved.copy_from_slice(&numbers(2)).unwrap();
    assert_eq!(moved.to_vec().unwrap(), numbers(2));
    drop((moved, other));
    world.assert_clean();
}

#[test]
fn what_a_graph_cannot_hold_is_refused_and_the_capture_goes_on() {
    let (world, _turn) = late();
    let (device, other) = (world.device(), world.device());
    let (x, elsewhere) = (upload(&device, 1), upload(&other, 1));
    let mut target = upload(&device, 2);
    let (first, _) = Graph::capture(&device, |_| softmax(&x, Dim::LAST, &plain())).unwrap();
    let calls = |world: &World| ["cuMemcpyDtoHAsync_v2", "cuMemcpyHtoDAsync_v2"].map(|entry| world.calls(entry));
    let world_here = &world;
    let (graph, y) = Graph::capture(&device, |device| {
        let before = calls(world_here);
        let refused: [(&str, Result<()>); 10] = [
            ("a copy to the host", x.to_vec().map(drop)),
            ("a copy to the host", x.view().slice(Dim::LAST, 1..2)?.to_vec().map(drop)),
            ("a copy from the host", Tensor::from_slice(device, &[1], &[1.0f32]).map(drop)),
            ("a copy from the host", target.copy_from_slice(&numbers(3))),
            ("waiting for the device", device.synchronize()),
            ("sharing memory with another stream", x.to_device(&other).map(drop)),
            ("sharing memory with another stream", elsewhere.to_device(device).map(drop)),
            ("timing", device.time(|| Ok(())).map(drop)),
            ("launching a graph", first.launch()),
            ("capturing a graph", Graph::capture(device, |_| Ok(())).map(drop)),
        ];
        assert_eq!(calls(world_here), before, "the driver saw none of it");
        for (what, refused) in refused {
            assert_eq!(refused.unwrap_err(), Error::Capturing { what, device: device.name() });
        }
        // The host and other streams go on as ever.
        elsewhere.to_vec()?;
        assert_eq!(device.clone(), *device);
        softmax(&x, Dim::LAST, &plain())
    })
    .unwrap();
    graph.launch().unwrap();
    assert_eq!(y.to_vec().unwrap(), directly(&device, 1));
    assert_eq!(target.to_vec().unwrap(), numbers(2));
    drop((first, graph, x, y, target, elsewhere, device, other));
    world.assert_clean();
}

#[test]
fn other_threads_are_kept_out_of_a_capture() {
    let (world, _turn) = late();
    let device = world.device();
    let x = upload(&device, 1);
    // Before, at the beginning of, and at the end of the capture, and behind it.
    let [ready, enter, leave, over] = &[(); 4].map(|()| std::sync::Barrier::new(2));
    let (world_here, here) = (&world, &device);
    let (graph, y) = std::thread::scope(|scope| {
        let busy = scope.spawn(move || {
            world_here.on_thread(|| {
                let mut own = upload(here, 7);
                ready.wait();
                enter.wait();
                let refused = [
                    softmax(&own, Dim::LAST, &plain()).map(drop),
                    own.copy_from_slice(&numbers(8)),
                    Tensor::<f32>::zeros(here, &[4]).map(drop),
                    Graph::capture(here, |_| Ok(())).map(drop),
                    own.to_vec().map(drop),
                ];
                leave.wait();
                over.wait();
                (refused, own.to_vec().unwrap())
            })
        });
        ready.wait();
        let captured = Graph::capture(here, |_| {
            enter.wait();
            leave.wait();
            softmax(&x, Dim::LAST, &plain())
        });
        over.wait();
        let (refused, own) = busy.join().unwrap();
        for refused in refused {
            assert!(matches!(refused.unwrap_err(), Error::Capturing { .. }));
        }
        assert_eq!(own, numbers(7));
        captured.unwrap()
    });
    // Launched from many threads, each in turn.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| world_here.on_thread(|| graph.launch().unwrap()));
        }
    });
    assert_eq!(y.to_vec().unwrap(), directly(&device, 1));
    if let Some(gpu) = world.gpu() {
        gpu.take_launches();
    }
    drop((graph, x, y, device));
    world.assert_clean();
}

#[test]
fn an_error_or_a_panic_ends_the_capture() {
    let (world, _turn) = late();
    let device = world.device();
    let x = upload(&device, 1);
    let wrong = Tensor::<f32>::zeros(&device, &[ROWS + 1, LEN]).unwrap();
    let mut kept = None;
    let failed = Graph::capture(&device, |device| {
        kept = Some(softmax(&x, Dim::LAST, &plain())?);
        let mut y = Tensor::zeros(device, &[ROWS, LEN])?;
        softmax_into(&wrong, Dim::LAST, &plain(), &mut y)
    });
    assert!(matches!(failed.unwrap_err(), Error::Shapes { .. }));
    // Work that was captured and never launched has not run.
    assert_eq!(kept.take().unwrap().to_vec().unwrap(), vec![0.0; ROWS * LEN]);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        Graph::capture(&device, |_| {
            softmax(&x, Dim::LAST, &plain())?;
            if x.elements() > 0 {
                panic!("on purpose: the capture ends while this unwinds");
            }
            Ok(())
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(directly(&device, 3), directly(&world.device(), 3));
    let (graph, y) = Graph::capture(&device, |_| softmax(&x, Dim::LAST, &plain())).unwrap();
    graph.launch().unwrap();
    assert_eq!(y.to_vec().unwrap(), directly(&device, 1));
    drop((graph, x, y, wrong, device));
    world.assert_clean();
}

#[test]
fn hostile_targets_of_a_launch_are_reported_and_do_no_harm() {
    let (world, _turn) = late();
    let device = world.device();
    let logits = upload(&device, 1);
    let mut targets = Tensor::from_slice(&device, &[ROWS], &[0i64, 1, 2]).unwrap();
    let one = Tensor::from_slice(&device, &[ROWS], &[1.0f32; ROWS]).unwrap();
    let options = CrossEntropy { reduction: Reduction::None, ..CrossEntropy::default() };
    let (graph, (output, dlogits)) = Graph::capture(&device, |_| {
        let output = cross_entropy(&logits, Dim::LAST, &targets, &options)?;
        let dlogits = cross_entropy_backward(&logits, Dim::LAST, &targets, &output.saved, &one, &options)?;
        Ok((output, dlogits))
    })
    .unwrap();
    for value in [-1, LEN as i64, i64::MAX, i64::MIN, 1 << 40] {
        targets.copy_from_slice(&[5, value, 7]).unwrap();
        graph.launch().unwrap();
        let classes = LEN as u64;
        match output.loss.to_vec().unwrap_err() {
            Error::Target { row: 1, value: found, classes: of, .. } => assert_eq!((found, of), (value, classes)),
            other => panic!("{other}"),
        }
        // Told once, and told again by the next launch.
        let loss = output.loss.to_vec().unwrap();
        assert_eq!(loss.iter().map(|loss| loss.is_nan()).collect::<Vec<_>>(), [false, true, false]);
        assert_eq!(dlogits.to_vec().unwrap()[LEN..2 * LEN], [0.0; LEN]);
        graph.launch().unwrap();
        assert!(matches!(device.check().unwrap_err(), Error::Target { row: 1, .. }));
        targets.copy_from_slice(&[5, 6, 7]).unwrap();
        graph.launch().unwrap();
        device.check().unwrap();
        let direct = cross_entropy(&logits, Dim::LAST, &targets, &options).unwrap();
        assert_eq!(output.loss.to_vec().unwrap(), direct.loss.to_vec().unwrap());
    }
    // A report that nobody looked at survives a launch without fault.
    targets.copy_from_slice(&[-5, 0, 0]).unwrap();
    graph.launch().unwrap();
    targets.copy_from_slice(&[5, 0, 0]).unwrap();
    graph.launch().unwrap();
    assert!(matches!(device.check().unwrap_err(), Error::Target { row: 0, value: -5, .. }));
    drop((graph, output, dlogits, logits, targets, one, device));
    world.assert_clean();
}

#[test]
fn what_cannot_capture_says_so() {
    let (world, _turn) = late();
    let refused = Graph::capture(&Device::cpu(), |_| Ok(())).map(drop).unwrap_err();
    assert_eq!(refused, Error::NoGraphs);
    // SAFETY: the null stream lives as long as the context.
    let legacy = unsafe { Device::from_stream(0, std::ptr::null_mut()) }.unwrap();
    let refused = Graph::capture(&legacy, |_| Ok(())).map(drop).unwrap_err();
    assert_eq!(refused, Error::Driver { call: "cuStreamBeginCapture_v2", code: 900 });
    assert_eq!(directly(&legacy, 1), directly(&world.device(), 1), "and the device is as good as before");
    let device = world.device();
    let (graph, ()) = Graph::capture(&device, |_| Ok(())).unwrap();
    graph.launch().unwrap();
    drop((graph, legacy, device));
    world.assert_clean();
}
