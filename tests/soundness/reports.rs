//! Reports of bad data while several threads launch and look.

use crate::common::gpu::{World, undisturbed};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use sumexp::{CrossEntropy, Device, Dim, Error, Graph, Tensor, cross_entropy};

/// Whether a look at the device's reports finds one.
fn look(device: &Device) -> bool {
    match device.check() {
        Ok(()) => false,
        Err(Error::Target { value: 7, classes: 3, .. }) => true,
        // While the other thread captures.
        Err(Error::Capturing { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

/// One thread launches what reports and looks, the other looks all the time: one of them hears of every launch.
#[test]
fn no_report_is_lost_between_two_threads() {
    const LAUNCHES: usize = 400;
    let world = &World::late();
    let device = &world.device();
    let (heard, looks, done) = (&AtomicUsize::new(0), &AtomicUsize::new(0), &AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(move || {
            world.on_thread(|| {
                while !done.load(Ordering::Acquire) {
                    heard.fetch_add(usize::from(look(device)), Ordering::AcqRel);
                    looks.fetch_add(1, Ordering::AcqRel);
                }
            })
        });
        let x = Tensor::<f32>::zeros(device, &[1, 3]).unwrap();
        let bad = Tensor::from_slice(device, &[1], &[7i64]).unwrap();
        let options = CrossEntropy::default();
        // The capture waits for looks that are under way, and looks are refused meanwhile.
        let capture = |_: &Device| cross_entropy(&x, Dim::LAST, &bad, &options);
        let (graph, _) = undisturbed(|| Graph::capture(device, capture)).unwrap();
        for launch in 1..=LAUNCHES {
            match launch % 2 {
                0 => drop(cross_entropy(&x, Dim::LAST, &bad, &options).unwrap()),
                _ => graph.launch().unwrap(),
            }
            heard.fetch_add(usize::from(look(device)), Ordering::AcqRel);
            // A look of the other thread that began before ours may still be on its way.
            let before = looks.load(Ordering::Acquire);
            while looks.load(Ordering::Acquire) < before + 2 {
                thread::yield_now();
            }
            let heard = heard.load(Ordering::Acquire);
            if heard != launch {
                done.store(true, Ordering::Release);
            }
            assert_eq!(heard, launch, "reports of as many launches");
        }
        done.store(true, Ordering::Release);
    });
}

/// Two threads launch what reports and look after each launch: a report may stand for both, but none goes unheard.
#[test]
fn a_look_after_a_bad_launch_is_never_too_late() {
    let world = &World::late();
    let device = &world.device();
    let heard = &AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(move || {
                world.on_thread(|| {
                    let x = Tensor::<f32>::zeros(device, &[1, 3]).unwrap();
                    let bad = Tensor::from_slice(device, &[1], &[7i64]).unwrap();
                    for _ in 0..200 {
                        drop(cross_entropy(&x, Dim::LAST, &bad, &CrossEntropy::default()).unwrap());
                        heard.fetch_add(usize::from(look(device)), Ordering::AcqRel);
                    }
                })
            });
        }
    });
    assert!((200..=400).contains(&heard.load(Ordering::Acquire)), "{heard:?}");
    assert!(!look(device), "nothing is left to hear");
}
