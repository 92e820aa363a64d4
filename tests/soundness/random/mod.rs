//! Random programs over several streams, two GPUs, the host and several threads, compared with a model that knows no
//! streams.
//!
//! `SUMEXP_SOUNDNESS_PROGRAMS` says how many, `SUMEXP_SOUNDNESS_SEED` the first seed; `make soundness` runs 100 000. A
//! failure prints its seed and the program; with the seed and one program it runs again.

pub mod lane;
pub mod model;
pub mod step;

use crate::common::gpu::World;
use crate::common::random::Random;
use lane::{Lane, Letters};
use softgpu::ctl::types::Streams;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Instant;
use step::Step;
use sumexp::Device;

/// Programs of an ordinary test run.
const FEW: u64 = 600;
/// Programs that one process runs: the software GPU remembers every allocation that it ever made.
const MANY: u64 = 5000;
/// Steps of a program with one lane, and of each lane of a program with several.
const STEPS: usize = 40;
const STEPS_OF_LANE: usize = 20;
const LANES: usize = 3;

type Job = Box<dyn FnOnce(&World) + Send>;

/// A thread that lives as long as the test and does what it is told: programs go from thread to thread.
struct Worker {
    jobs: Sender<Job>,
    done: Receiver<()>,
}

impl Worker {
    fn new() -> Self {
        let (jobs, todo) = channel::<Job>();
        let (finished, done) = channel();
        thread::spawn(move || {
            let world = World::late();
            for job in todo {
                job(&world);
                finished.send(()).unwrap();
            }
        });
        Self { jobs, done }
    }

    fn start(&self, job: Job) {
        self.jobs.send(job).expect("the worker lives");
    }

    fn wait(&self) {
        self.done.recv().expect("a step failed on its thread, see above");
    }

    /// Runs something that gives a result, on this thread.
    fn ask<R: Send + 'static>(&self, job: impl FnOnce(&World) -> R + Send + 'static) -> R {
        let (answer, result) = channel();
        self.start(Box::new(move |world| answer.send(job(world)).unwrap()));
        self.wait();
        result.recv().unwrap()
    }
}

/// Prints a program when it fails.
struct Report<'a> {
    seed: u64,
    steps: &'a [Vec<Step>],
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("SUMEXP_SOUNDNESS_SEED={} SUMEXP_SOUNDNESS_PROGRAMS=1 runs this program again:", self.seed);
            for (lane, steps) in self.steps.iter().enumerate() {
                steps.iter().for_each(|step| eprintln!("  lane {lane}: {step:?}"));
            }
        }
    }
}

/// The host, three streams of the first GPU of which one is adopted from another, and one of the second GPU.
pub fn devices(world: &World) -> Vec<Device> {
    let owner = world.device();
    // SAFETY: the caller keeps all of these until nothing made with them is left, and a vector drops the last one last.
    let adopted = unsafe { Device::from_stream(0, owner.raw_stream().unwrap()) }.unwrap();
    [Device::cpu(), adopted, world.device()].into_iter().chain(world.second_device()).chain([owner]).collect()
}

fn switch(world: &World, streams: Streams, seed: u64) {
    if let Some(gpu) = world.gpu() {
        gpu.streams(streams);
        gpu.seed(seed);
    }
}

/// The programs of a seed: of four, two run in one thread, one hops from thread to thread, and one has several lanes. One
/// of three runs its streams at random times, the others as late as they may.
fn program(world: &World, workers: &[Worker], seed: u64) {
    let mut random = Random::new(seed);
    let streams = if seed.is_multiple_of(3) { Streams::Seeded } else { Streams::Late };
    switch(world, streams, seed);
    let devices = devices(world);
    let letters = Letters::default();
    let lanes = if seed % 4 == 3 { LANES } else { 1 };
    let length = if lanes == 1 { STEPS } else { STEPS_OF_LANE };
    let steps: Vec<Vec<Step>> = (0..lanes).map(|_| Step::program(&mut random, lanes, length)).collect();
    let report = Report { seed, steps: &steps };
    let hops = seed % 4 == 2;
    if hops || lanes > 1 {
        workers.iter().for_each(|worker| worker.ask(move |world| switch(world, streams, seed)));
    }
    if lanes > 1 {
        let running: Vec<_> = workers.iter().zip(&steps).collect();
        for (worker, steps) in &running {
            let (mut lane, steps) = (Lane::new(&devices, &letters, false, false), (*steps).clone());
            worker.start(Box::new(move |_| {
                for step in steps {
                    lane.step(step);
                }
                lane.finish();
            }));
        }
        running.iter().for_each(|(worker, _)| worker.wait());
    } else {
        let mut lane = Lane::new(&devices, &letters, true, false);
        for &step in &steps[0] {
            if hops && random.one_in(2) {
                lane = workers[random.below(workers.len())].ask(move |_| {
                    lane.step(step);
                    lane
                });
            } else {
                lane.step(step);
            }
        }
        lane.finish();
    }
    drop((letters, devices));
    if hops || lanes > 1 {
        workers.iter().for_each(|worker| worker.ask(World::assert_clean));
    }
    world.assert_clean();
    drop(report);
}

pub fn number(name: &str, default: u64) -> u64 {
    let parse = |text: String| text.parse().unwrap_or_else(|_| panic!("{name} is a number, not `{text}`"));
    std::env::var(name).map_or(default, parse)
}

#[test]
fn programs_of_many_streams_give_what_one_step_after_the_other_gives() {
    const NAME: &str = "random::programs_of_many_streams_give_what_one_step_after_the_other_gives";
    let (first, programs) = (number("SUMEXP_SOUNDNESS_SEED", 1), number("SUMEXP_SOUNDNESS_PROGRAMS", FEW));
    let start = Instant::now();
    if programs <= MANY {
        let world = World::late();
        let workers: Vec<Worker> = (0..LANES).map(|_| Worker::new()).collect();
        (first..first + programs).for_each(|seed| program(&world, &workers, seed));
    } else {
        // As many processes at a time as there are cores: threads of one process would wait for each other's work.
        let batches: Vec<u64> = (first..first + programs).step_by(MANY as usize).collect();
        let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
        let next = &std::sync::atomic::AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..cores {
                scope.spawn(|| {
                    while let Some(from) = batches.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                        let count = MANY.min(first + programs - from);
                        let child = std::process::Command::new(std::env::current_exe().unwrap())
                            .args(["--exact", NAME, "--nocapture"])
                            .env("SUMEXP_SOUNDNESS_SEED", from.to_string())
                            .env("SUMEXP_SOUNDNESS_PROGRAMS", count.to_string())
                            .status()
                            .unwrap();
                        assert!(child.success(), "of the programs from seed {from} on");
                    }
                });
            }
        });
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{programs} programs from seed {first} on: {:.0} per second", programs as f64 / seconds);
}
