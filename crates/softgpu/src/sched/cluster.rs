//! A cluster: its CTAs in turn, none of which can end the work of the others by waiting for them.

use super::cta::{Body, Cta, Slice, coordinates};
use super::random::Random;
use crate::exec::Env;
use crate::exec::hopper::cluster::Cluster as Together;
use crate::launch::Launch;

/// Instructions of a CTA's turn beside others of its cluster: more than it takes to see that it only polls.
const TURN: u64 = 1 << 14;
/// Longest turn of other schedules than the plain one, after the first.
const LONGEST_RANDOM_TURN: u64 = 512;

/// A cluster that has started; most have one CTA.
pub struct Cluster {
    ctas: Vec<Cta>,
    together: Together,
}

impl Cluster {
    /// The cluster of this number. `body` gives what a CTA needs.
    pub fn new(launch: &Launch, number: u64, mut body: impl FnMut() -> Body) -> Cluster {
        let [x, y, _] = launch.grid.map(u64::from);
        let size: u64 = launch.cluster.iter().map(|n| u64::from(*n)).product();
        let first = coordinates(number, std::array::from_fn(|axis| launch.grid[axis] / launch.cluster[axis]));
        let ctas: Vec<Cta> = (0..size)
            .map(|rank| {
                let beside = coordinates(rank, launch.cluster);
                let at: [u32; 3] = std::array::from_fn(|axis| first[axis] * launch.cluster[axis] + beside[axis]);
                let index = u64::from(at[0]) + x * (u64::from(at[1]) + y * u64::from(at[2]));
                Cta::new(launch, at, index, body())
            })
            .collect();
        let warps: Vec<u32> = ctas[0].warps.iter().map(|running| running.warp.lanes).collect();
        let together = Together::new(ctas.iter().map(|cta| cta.index).collect(), &warps);
        Cluster { ctas, together }
    }

    /// The number of the cluster that CTA `index` belongs to.
    pub fn of_cta(launch: &Launch, index: u64) -> u64 {
        let at = coordinates(index, launch.grid);
        let [x, y, z] = std::array::from_fn(|axis| u64::from(at[axis] / launch.cluster[axis]));
        let [w, h, _] = std::array::from_fn(|axis| u64::from(launch.grid[axis] / launch.cluster[axis]));
        x + w * (y + h * z)
    }

    /// What the next cluster can use.
    pub fn into_bodies(self) -> impl Iterator<Item = Body> {
        self.ctas.into_iter().map(Cta::into_body)
    }

    /// Runs until `env.clock` reaches `until`.
    pub fn run(&mut self, env: &mut Env<'_>, random: Option<&mut Random>, until: u64) -> Slice {
        std::mem::swap(&mut env.cluster, &mut self.together);
        let slice = match self.ctas.as_mut_slice() {
            [cta] => cta.run(env, random, until),
            ctas => {
                for (cta, seat) in ctas.iter_mut().zip(&mut env.cluster.seats) {
                    std::mem::swap(&mut cta.own, seat);
                }
                let slice = in_turn(ctas, env, random, until);
                for (cta, seat) in ctas.iter_mut().zip(&mut env.cluster.seats) {
                    std::mem::swap(&mut cta.own, seat);
                }
                slice
            }
        };
        std::mem::swap(&mut env.cluster, &mut self.together);
        slice
    }

    /// Nobody in any cluster will ever go on: says what this one polls.
    pub fn hang(&mut self, env: &mut Env<'_>, resident: usize, unstarted: u64) {
        std::mem::swap(&mut env.cluster, &mut self.together);
        if let Some(cta) = self.ctas.iter_mut().find(|cta| !cta.is_done()) {
            cta.hang(env, resident, unstarted);
        }
        std::mem::swap(&mut env.cluster, &mut self.together);
    }

    /// A CTA that has not ended.
    pub fn unfinished(&self) -> Option<&Cta> {
        self.ctas.iter().find(|cta| !cta.is_done())
    }
}

fn in_turn(ctas: &mut [Cta], env: &mut Env<'_>, mut random: Option<&mut Random>, until: u64) -> Slice {
    let mut turns: Vec<usize> = (0..ctas.len()).collect();
    // How often memory had changed when a CTA was last seen to do nothing but poll: until it changes again it has no more
    // to do.
    let mut idle: Vec<Option<u64>> = vec![None; ctas.len()];
    let mut first = true;
    loop {
        if let Some(random) = random.as_deref_mut() {
            random.shuffle(&mut turns);
        }
        for rank in turns.iter().copied() {
            if ctas[rank].is_done() {
                continue;
            }
            let long = first || env.clock.is_multiple_of(8);
            let turn = random.as_deref_mut().filter(|_| !long).map_or(TURN, |r| 1 + r.below(LONGEST_RANDOM_TURN));
            std::mem::swap(&mut ctas[rank].own, &mut env.cluster.seats[rank]);
            env.cluster.enter(rank);
            let slice = ctas[rank].run(env, random.as_deref_mut(), until.min(env.clock + turn));
            std::mem::swap(&mut ctas[rank].own, &mut env.cluster.seats[rank]);
            match slice {
                Slice::Fault => return Slice::Fault,
                Slice::Polls => idle[rank] = Some(env.spins.changes),
                Slice::Done | Slice::Over => {}
            }
        }
        first = false;
        if ctas.iter().all(Cta::is_done) {
            return Slice::Done;
        }
        if env.clock >= until {
            return Slice::Over;
        }
        let changes = Some(env.spins.changes);
        if ctas.iter().zip(&idle).all(|(cta, idle)| cta.is_done() || *idle == changes) {
            return Slice::Polls;
        }
    }
}
