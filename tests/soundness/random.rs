//! Random programs over several streams and the host, compared step by step with a model that knows no streams.

use crate::common::gpu::World;
use crate::common::random::Random;
use softgpu::ctl::types::Streams;
use std::collections::HashMap;
use sumexp::{Device, Error, Tensor};

const LEN: usize = 24;

/// A tensor, and the number of the contents it holds. Tensors that share memory have the same number.
struct Held {
    tensor: Tensor<u32>,
    contents: usize,
}

struct Program<'w> {
    world: &'w World,
    random: Random,
    devices: Vec<Device>,
    held: Vec<Held>,
    /// What the model says each memory holds, by number.
    contents: HashMap<usize, Vec<u32>>,
    next: usize,
    trace: Vec<String>,
}

impl<'w> Program<'w> {
    fn new(world: &'w World, seed: u64) -> Self {
        let devices = vec![Device::cpu(), world.device(), world.device(), world.device()];
        let random = Random::new(seed);
        Self { world, random, devices, held: vec![], contents: HashMap::new(), next: 0, trace: vec![] }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.random.below(bound)
    }

    fn any_device(&mut self) -> Device {
        let at = self.below(self.devices.len());
        self.devices[at].clone()
    }

    fn keep(&mut self, tensor: Tensor<u32>, values: Vec<u32>) {
        self.contents.insert(self.next, values);
        self.held.push(Held { tensor, contents: self.next });
        self.next += 1;
    }

    fn fresh_values(&mut self) -> Vec<u32> {
        (0..LEN).map(|_| self.random.bits() as u32).collect()
    }

    fn handles(&self, contents: usize) -> usize {
        self.held.iter().filter(|held| held.contents == contents).count()
    }

    /// What a write must answer: refused exactly if another tensor holds the memory.
    fn expect(&mut self, at: usize, result: Result<(), Error>, values: Vec<u32>) {
        let contents = self.held[at].contents;
        match (self.handles(contents), result) {
            (1, Ok(())) => drop(self.contents.insert(contents, values)),
            (handles, Err(Error::Shared { .. })) if handles > 1 => {}
            (handles, result) => panic!("{handles} handles, {result:?}\n{}", self.trace.join("\n")),
        }
    }

    fn step(&mut self) {
        let at = match self.held.len() {
            0 => None,
            len => Some(self.below(len)),
        };
        let choice = self.below(100);
        self.trace.push(format!("{choice} on {at:?}"));
        match (choice, at) {
            (0..12, _) | (_, None) => {
                let (device, values) = (self.any_device(), self.fresh_values());
                self.keep(Tensor::from_slice(&device, &[LEN], &values).unwrap(), values);
            }
            (12..32, Some(at)) => {
                // A copy on the same stream, usually still queued.
                let source = &self.held[at];
                let mut copy = Tensor::zeros(source.tensor.device(), &[LEN]).unwrap();
                copy.copy_from(&source.tensor).unwrap();
                let values = self.contents[&source.contents].clone();
                self.keep(copy, values);
            }
            (32..50, Some(at)) => {
                let device = self.any_device();
                let source = &self.held[at];
                let tensor = source.tensor.to_device(&device).unwrap();
                let shares = source.tensor.device().is_cpu() == device.is_cpu();
                let (contents, values) = (source.contents, self.contents[&source.contents].clone());
                match shares {
                    true => self.held.push(Held { tensor, contents }),
                    false => self.keep(tensor, values),
                }
            }
            (50..58, Some(at)) => {
                let values = self.fresh_values();
                let written = self.held[at].tensor.copy_from_slice(&values);
                self.expect(at, written, values);
            }
            (58..70, Some(at)) => {
                let mut to = self.held.swap_remove(at);
                let same = |held: &Held| held.tensor.device() == to.tensor.device();
                let from = self.held.iter().position(same).map(|from| &self.held[from]);
                let copied =
                    from.map(|from| (to.tensor.copy_from(&from.tensor), self.contents[&from.contents].clone()));
                self.held.push(to);
                if let Some((result, values)) = copied {
                    self.expect(self.held.len() - 1, result, values);
                }
            }
            (70..84, Some(at)) => drop(self.held.swap_remove(at)),
            (84..88, Some(at)) => {
                // Dropped by another thread.
                let held = self.held.swap_remove(at);
                std::thread::scope(|scope| scope.spawn(|| self.world.on_thread(|| drop(held))).join().unwrap());
            }
            (88..93, _) => {
                let at = 1 + self.below(self.devices.len() - 1);
                self.devices[at] = self.world.device();
            }
            (_, Some(at)) => self.look(at),
        }
        if self.held.len() > 40 {
            self.held.drain(..20);
        }
    }

    fn look(&self, at: usize) {
        let held = &self.held[at];
        assert_eq!(held.tensor.to_vec().unwrap(), self.contents[&held.contents], "\n{}", self.trace.join("\n"));
    }

    fn run(mut self, steps: usize) {
        for _ in 0..steps {
            self.step();
        }
        (0..self.held.len()).for_each(|at| self.look(at));
    }
}

/// 40 programs of 500 steps: enough to meet every pair of steps on every pair of devices many times.
fn programs(streams: Streams, first_seed: u64) {
    let world = World::with(streams);
    for seed in first_seed..first_seed + 40 {
        if let Some(gpu) = world.gpu() {
            gpu.seed(seed);
        }
        println!("seed {seed}"); // Shown when the test fails.
        Program::new(&world, seed).run(500);
        world.assert_clean();
    }
}

#[test]
fn streams_that_run_as_late_as_they_may() {
    programs(Streams::Late, 1000);
}

#[test]
fn streams_that_run_at_random_times() {
    programs(Streams::Seeded, 2000);
}
