//! One CTA: its warps in turn, its barriers, and what to say when nothing moves.

use super::barrier::{Barriers, Completion};
use super::fill::{fill, fill_cta};
use super::random::Random;
use super::split::{Running, Wait};
use super::step::Turn;
use crate::check::{Detector, Order, poll};
use crate::exec::hopper::cluster::Seat;
use crate::exec::hopper::{self, flight, product};
use crate::exec::{Env, LANES, Warp};
use crate::ir::{BarrierAction, Control};
use crate::launch::Launch;
use crate::mem::Shared;

/// Instructions of a warp's turn in the plain schedule: enough that turns cost nothing, few enough that a warp that
/// polls for another one does not poll for long.
const TURN: u64 = 1 << 14;
/// Longest turn of other schedules.
const LONGEST_RANDOM_TURN: u64 = 64;

/// A CTA that has started.
pub struct Cta {
    pub coordinates: [u32; 3],
    pub index: u64,
    pub warps: Vec<Running>,
    /// What it has besides its warps; while it runs the environment has it.
    pub(super) own: Seat,
    barriers: Barriers,
}

/// What a CTA that has ended hands on to the next one: made once, not once per CTA.
pub struct Body {
    warps: Vec<Running>,
    shared: Shared,
    order: Order,
}

/// How a CTA's slice ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slice {
    /// Every thread has exited.
    Done,
    /// It could go on.
    Over,
    /// It polls for what others do: every warp of it spins or waits.
    Polls,
    /// The launch ends.
    Fault,
}

impl Body {
    /// For a CTA of a launch.
    pub fn new(launch: &Launch) -> Body {
        Body {
            warps: new_warps(launch),
            shared: Shared::new(&launch.kernel.shared, launch.dynamic_shared, launch.settings.poison()),
            order: Order::default(),
        }
    }
}

/// Warps for a launch, constants filled in.
fn new_warps(launch: &Launch) -> Vec<Running> {
    let kernel = &*launch.kernel;
    let threads: u32 = launch.block.iter().product();
    (0..threads.div_ceil(LANES as u32))
        .map(|index| {
            let here = threads - index * LANES as u32;
            let lanes = if here >= LANES as u32 { u32::MAX } else { (1 << here) - 1 };
            let (slots, preds) = (kernel.slots, kernel.preds);
            let mut warp = Warp::new(
                index,
                lanes,
                slots,
                preds,
                kernel.routines[0].frame.bytes as usize,
                launch.settings.poison(),
            );
            fill(&mut warp, kernel, launch);
            Running::new(warp)
        })
        .collect()
}

impl Cta {
    pub fn new(launch: &Launch, coordinates: [u32; 3], index: u64, body: Body) -> Cta {
        let kernel = &*launch.kernel;
        let Body { mut warps, mut shared, mut order } = body;
        shared.reset();
        if launch.cluster != [1; 3] {
            order.join_cluster(index);
        }
        order.restart(warps.len() as u32, index);
        let poison = launch.settings.poison();
        for running in &mut warps {
            running.warp.reset(&kernel.poisoned, poison);
            if launch.settings.checks.init && !launch.settings.strict_init {
                let lanes = running.warp.lanes;
                running.warp.taint.restart(kernel, lanes);
            }
            fill_cta(&mut running.warp, kernel, launch, coordinates);
            running.warp.products.restart();
            product::watch(&mut running.warp, &kernel.products);
            running.start();
        }
        Cta {
            coordinates,
            index,
            own: Seat { shared, order, ..Seat::default() },
            barriers: Barriers::new(warps.iter().map(|r| r.warp.lanes).collect()),
            warps,
        }
    }

    /// Whether all of its threads have exited.
    pub fn is_done(&self) -> bool {
        self.warps.iter().all(|running| running.splits.is_empty())
    }

    /// What the next CTA can use.
    pub fn into_body(self) -> Body {
        Body { warps: self.warps, shared: self.own.shared, order: self.own.order }
    }

    /// Runs until `env.clock` reaches `until`.
    pub fn run(&mut self, env: &mut Env<'_>, random: Option<&mut Random>, until: u64) -> Slice {
        self.swap(env);
        env.order.enter(std::mem::take(&mut env.global));
        (env.cta, env.cta_index) = (self.coordinates, self.index);
        let slice = self.rounds(env, random, until);
        env.global = env.order.leave();
        self.swap(env);
        slice
    }

    /// Nobody in any CTA will ever go on: says what this one polls.
    pub fn hang(&mut self, env: &mut Env<'_>, resident: usize, unstarted: u64) {
        self.swap(env);
        env.order.enter(std::mem::take(&mut env.global));
        (env.cta, env.cta_index) = (self.coordinates, self.index);
        poll::hang(env, self.warps.iter().map(|running| &running.warp), resident, unstarted);
        env.global = env.order.leave();
        self.swap(env);
    }

    /// Puts the CTA's own memory and order into the environment, or back.
    fn swap(&mut self, env: &mut Env<'_>) {
        std::mem::swap(&mut self.own.shared, &mut env.shared);
        std::mem::swap(&mut self.own.copies, &mut env.copies);
        std::mem::swap(&mut self.own.beside, &mut env.beside);
        std::mem::swap(&mut self.own.order, &mut env.order);
    }

    fn rounds(&mut self, env: &mut Env<'_>, mut random: Option<&mut Random>, until: u64) -> Slice {
        let mut turns: Vec<usize> = (0..self.warps.len()).collect();
        loop {
            if let Some(random) = random.as_deref_mut() {
                random.shuffle(&mut turns);
            }
            let (mut moved, mut done) = (false, 0);
            let (changes, mut spins, mut works) = (env.spins.changes, false, false);
            for n in &turns {
                let turn = random.as_deref_mut().map_or(TURN, |r| 1 + r.below(LONGEST_RANDOM_TURN));
                let (from, limit) = (env.clock, until.min(env.clock + turn));
                let ended = self.warps[*n].run(env, &mut self.barriers, random.as_deref_mut(), limit);
                moved |= env.clock != from;
                let spun = self.warps[*n].warp.polls.turn(from, env.clock);
                works |= ended == Turn::Over && !spun;
                spins |= ended == Turn::Over && spun;
                match ended {
                    Turn::Fault => return Slice::Fault,
                    Turn::Done => done += 1,
                    Turn::Over => moved = true,
                    Turn::Blocked => {}
                }
                while let Some(completion) = self.barriers.complete() {
                    self.wake(&completion, env);
                    moved = true;
                }
            }
            if done == self.warps.len() {
                hopper::end(env);
                return if env.fault.is_none() { Slice::Done } else { Slice::Fault };
            }
            // What works beside the threads comes as late as it may: when nobody goes on without it.
            if !moved && !flight::force(env) {
                self.stuck(env);
                return Slice::Fault;
            }
            if spins && !works && env.spins.changes == changes && !flight::force(env) {
                return Slice::Polls;
            }
            if env.fault.is_some() {
                return Slice::Fault;
            }
            if env.clock >= until {
                return Slice::Over;
            }
        }
    }

    /// A barrier is complete: its waiting lanes take the result of a reduction and go on.
    fn wake(&mut self, completion: &Completion, env: &mut Env<'_>) {
        env.spins.change();
        env.order.complete(completion.id, &completion.waiting);
        for running in &mut self.warps {
            if completion.waiting[running.warp.index as usize] == 0 {
                continue;
            }
            for split in running.splits.iter_mut().filter(|s| s.wait == Wait::Barrier(completion.id)) {
                let inst = &env.kernel.insts[split.pc as usize];
                if let Control::Barrier(barrier) = &env.kernel.controls[inst.x as usize] {
                    let (truth, voters) = (completion.truth, completion.voters);
                    let all = |yes: bool| if yes { u32::MAX } else { 0 };
                    match barrier.action {
                        BarrierAction::Popc => running.warp.w32(inst.d, split.mask, &[truth; LANES]),
                        BarrierAction::And => running.warp.wp(inst.d, split.mask, all(truth == voters)),
                        BarrierAction::Or => running.warp.wp(inst.d, split.mask, all(truth != 0)),
                        BarrierAction::Sync | BarrierAction::Arrive => {}
                    }
                }
                split.pc += 1;
                split.wait = Wait::None;
            }
            running.settle();
        }
    }

    /// Nobody can run: says where everybody stands.
    fn stuck(&self, env: &mut Env<'_>) {
        let waiting: Vec<&Running> = self.warps.iter().filter(|r| !r.splits.is_empty()).collect();
        let Some(first) = waiting.first() else { return };
        let mut text = String::from("every warp waits");
        // A report of thirty-two warps helps nobody.
        for running in waiting.iter().take(8) {
            text += &format!("; warp {}: {}", running.warp.index, running.describe(env));
            for split in &running.splits {
                if let Wait::Barrier(id) = split.wait {
                    text += &format!(", barrier {id}: {}", self.barriers.describe(id));
                }
            }
        }
        let gather = |r: &&&Running| r.splits.iter().any(|s| s.wait == Wait::Gather);
        let (detector, at) = match waiting.iter().find(gather) {
            Some(divergent) => (Detector::BarrierDivergence, *divergent),
            None => (Detector::Deadlock, *first),
        };
        env.pc = at.splits[0].pc;
        env.stop(detector, &at.warp, at.splits[0].mask.trailing_zeros(), text);
    }
}

/// Coordinates of the CTA with this number, x fastest.
pub fn coordinates(index: u64, grid: [u32; 3]) -> [u32; 3] {
    let [x, y] = [u64::from(grid[0]), u64::from(grid[1])];
    [(index % x) as u32, (index / x % y) as u32, (index / x / y) as u32]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctas_are_numbered_x_first() {
        assert_eq!(coordinates(0, [3, 2, 4]), [0, 0, 0]);
        assert_eq!(coordinates(5, [3, 2, 4]), [2, 1, 0]);
        assert_eq!(coordinates(23, [3, 2, 4]), [2, 1, 3]);
    }
}
