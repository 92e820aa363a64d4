//! Things that hold each other, dropped in every order while work on them is queued.

use crate::common::gpu::{World, undisturbed};
use crate::{LEN, numbers, pending};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Barrier;
use sumexp::{Device, Dim, Graph, SoftmaxOptions, Tensor, softmax};

/// What a program holds. Dropped, it does what the type of its contents does.
enum Thing {
    Device(#[allow(dead_code)] Device),
    Tensor(Tensor<u32>),
    Graph(Graph),
}

impl Thing {
    /// Uses it: a tensor is read, a graph launched again.
    fn check(&self) {
        match self {
            Thing::Device(_) => {}
            Thing::Tensor(tensor) => assert_eq!(tensor.to_vec().unwrap(), numbers(1)),
            Thing::Graph(graph) => graph.launch().unwrap(),
        }
    }
}

/// A device, a second stream of its GPU, a tensor, one on that stream which shares its memory, and a graph that reads the
/// memory and was launched: all with work queued, and with kernels among it.
fn things(world: &World) -> Vec<Option<Thing>> {
    let first = world.device();
    let second = first.with_new_stream().unwrap();
    let x = pending(&first, 1);
    let shared = x.to_device(&second).unwrap();
    let mut copy = Tensor::zeros(&second, &[LEN]).unwrap();
    copy.copy_from(&shared).unwrap();
    let capture = |second: &Device| {
        let mut copy = Tensor::zeros(second, &[LEN])?;
        copy.copy_from(&shared)?;
        let logits = Tensor::<f32>::zeros(second, &[2, 4])?;
        softmax(&logits, Dim::LAST, &SoftmaxOptions::default())
    };
    let (graph, results) = undisturbed(|| Graph::capture(&second, capture)).unwrap();
    graph.launch().unwrap();
    // `copy` and `results` are gone when this returns: what reads and writes them is still queued.
    drop(results);
    [Thing::Device(first), Thing::Device(second), Thing::Tensor(x), Thing::Tensor(shared), Thing::Graph(graph)]
        .map(Some)
        .into()
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

/// Runs `drop_all` with fresh things for each of the orders.
fn in_every_order(drop_all: impl Fn(&World, Vec<Option<Thing>>, &[usize])) {
    let world = World::late();
    let orders = orders(things(&world).len());
    assert_eq!(orders.len(), 120);
    for order in orders {
        drop_all(&world, things(&world), &order);
        world.assert_clean();
    }
}

#[test]
fn one_after_the_other() {
    in_every_order(|_, mut things, order| order.iter().for_each(|&thing| things[thing] = None));
}

#[test]
fn what_is_left_after_each_drop_is_whole() {
    in_every_order(|_, mut things, order| {
        for &thing in order {
            things[thing] = None;
            things.iter().flatten().for_each(Thing::check);
        }
    });
}

#[test]
fn each_on_a_thread_of_its_own() {
    in_every_order(|world, mut things, order| {
        for &thing in order {
            let thing = things[thing].take();
            std::thread::scope(|scope| scope.spawn(|| world.on_thread(|| drop(thing))).join().unwrap());
        }
    });
}

#[test]
fn while_a_panic_unwinds() {
    in_every_order(|_, mut things, order| {
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            // A vector drops its elements from the first to the last.
            let _dropped: Vec<_> = order.iter().map(|&thing| things[thing].take()).collect();
            resume_unwind(Box::new("on purpose"))
        }));
        assert!(unwound.is_err());
    });
}

#[test]
fn all_at_the_same_time() {
    let world = &World::late();
    for _ in 0..40 {
        let things = things(world);
        let barrier = &Barrier::new(things.len());
        std::thread::scope(|scope| {
            for thing in things {
                scope.spawn(move || {
                    world.on_thread(|| {
                        barrier.wait();
                        drop(thing);
                    })
                });
            }
        });
        world.assert_clean();
    }
}

/// What a thread keeps in its locals is dropped when the thread is gone, after its own driver state may be.
#[test]
fn at_the_end_of_a_thread() {
    thread_local! {
        static KEPT: std::cell::RefCell<Vec<Option<Thing>>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    let world = &World::late();
    for _ in 0..20 {
        let made = things(world);
        let keep = || {
            KEPT.with_borrow(Vec::len);
            world.on_thread(|| KEPT.set(made));
        };
        std::thread::scope(|scope| scope.spawn(keep).join().unwrap());
    }
    world.assert_clean();
}
