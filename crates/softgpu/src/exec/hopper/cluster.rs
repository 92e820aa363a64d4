//! Clusters: CTAs that run together, meet at a barrier and reach each other's shared memory.
//!
//! An address in the shared memory of a CTA of the cluster has the CTA's rank, and one more, above its offset; without
//! that it lies in the CTA's own. Whoever accesses another CTA's memory visits it: for so long its memory, with all that
//! is known of it, stands in the place of the own.

use super::super::access::Access;
use super::super::copies::Copies;
use super::super::mma::whole_warp;
use super::super::{Env, LANES, Warp, ops};
use super::Beside;
use crate::check::cluster::Visit;
use crate::check::{Detector, Finding, Message, Order, lanes, poll};
use crate::ir::Inst;
use crate::launch::code;
use crate::mem::Shared;
use crate::mem::windows::{self, Window};
use std::collections::HashMap;

/// Where the rank stands in an address.
pub const RANK_AT: u32 = 24;
/// What a warp polls that waits at the barrier of the cluster: no address.
pub(crate) const BARRIER: u64 = 1 << 61;

/// Bits of the field `y` of the barrier's instructions.
pub mod form {
    /// All lanes of the warp together.
    pub const ALIGNED: u32 = 1 << 0;
    /// Orders nothing.
    pub const RELAXED: u32 = 1 << 1;
}

ops! {
    /// `mapa`: `d` is address `a` in the CTA of rank `b`; of 64 bits and generic where `y` is 1.
    MAP = |warp, env, inst, mask| map(warp, env, inst, mask);
    /// `getctarank`: `d` is the rank of the CTA in whose shared memory address `a` lies; `y` as above.
    RANK = |warp, env, inst, mask| {
        let own = env.cluster.rank;
        let rank = |at: u32| match at >> RANK_AT {
            0 => own,
            rank => rank - 1,
        };
        let ranks = match inst.y {
            0 => warp.r32(inst.a).map(rank),
            _ => warp.r64(inst.a).map(|at| rank(at as u32)),
        };
        warp.w32(inst.d, mask, &ranks);
    };
    /// `barrier.cluster.arrive`; `y` from [`form`].
    ARRIVE = |warp, env, inst, mask| arrive(warp, env, inst, mask);
    /// `barrier.cluster.wait`
    WAIT = |warp, env, inst, mask| wait(warp, env, inst, mask);
}

/// What a CTA has besides its warps.
#[derive(Default)]
pub struct Seat {
    pub(crate) shared: Shared,
    pub(crate) copies: Copies,
    pub(crate) beside: Beside,
    pub(crate) order: Order,
}

/// The cluster of the CTA that runs.
#[derive(Default)]
pub struct Cluster {
    /// The rank of that CTA.
    pub(crate) rank: u32,
    /// The rank of the one whose memory stands in its place.
    here: u32,
    /// The number of each CTA.
    ctas: Vec<u64>,
    /// The others' memory, by rank.
    pub(crate) seats: Vec<Seat>,
    /// CTAs all of whose threads have exited.
    gone: u32,
    /// Who accessed the memory of each CTA, by rank: the last time of each warp of another CTA.
    visits: Vec<HashMap<(u64, u32), Visit>>,
    barrier: Barrier,
}

/// The barrier of a cluster.
#[derive(Default)]
struct Barrier {
    /// Lanes that have not exited, by rank and warp.
    live: Vec<Vec<u32>>,
    /// Those that have arrived.
    arrived: Vec<Vec<u32>>,
    /// Those that have arrived and not waited since.
    open: Vec<Vec<u32>>,
    /// What was handed over within each CTA, and to the others.
    own: Vec<Message>,
    others: Message,
    /// The same when the barrier was last complete.
    over: (Vec<Message>, Message),
}

impl Cluster {
    /// A cluster of CTAs of these numbers, each with warps of these lanes.
    pub fn new(ctas: Vec<u64>, warps: &[u32]) -> Cluster {
        let size = ctas.len();
        let nobody = vec![vec![0; warps.len()]; size];
        let barrier = Barrier {
            live: vec![warps.to_vec(); size],
            arrived: nobody.clone(),
            open: nobody,
            own: vec![Message::default(); size],
            ..Barrier::default()
        };
        let seats = (0..size).map(|_| Seat::default()).collect();
        let visits = vec![HashMap::new(); size];
        Cluster { rank: 0, here: 0, ctas, seats, gone: 0, visits, barrier }
    }

    /// The CTA of this rank runs.
    pub(crate) fn enter(&mut self, rank: usize) {
        (self.rank, self.here) = (rank as u32, rank as u32);
    }

    /// Lanes of a warp have exited.
    pub(crate) fn exit(&mut self, warp: u32, mask: u32) {
        let live = self.barrier.live.get_mut(self.rank as usize).and_then(|live| live.get_mut(warp as usize));
        if let Some(live) = live {
            *live &= !mask;
        }
        self.barrier.settle();
    }

    /// How many CTAs it has.
    pub(crate) fn size(&self) -> u32 {
        self.ctas.len() as u32
    }

    /// The rank of the CTA in whose memory an address lies, and the offset there.
    pub(crate) fn place(&self, at: u64) -> (u32, u64) {
        let rank = (at >> RANK_AT).checked_sub(1).map_or(self.rank, |rank| rank.min(u64::from(u32::MAX)) as u32);
        (rank, at & ((1 << RANK_AT) - 1))
    }

    /// The copy to another CTA that reads a byte of the memory that is looked at: its CTA, warp, lane and instruction.
    pub(crate) fn reader(&self, at: u32) -> Option<([u32; 3], u32, u32, u32)> {
        self.seats.iter().find_map(|seat| seat.beside.flights.reader(self.here, at))
    }

    /// The offset of an address in the memory that is looked at; `None` if it lies in another CTA's.
    pub(crate) fn offset(&self, at: u64) -> Option<u64> {
        let rank = at >> RANK_AT;
        (rank == 0 || rank == u64::from(self.here) + 1).then_some(at & ((1 << RANK_AT) - 1))
    }

    /// What its barrier waits for, in words.
    pub(crate) fn describe(&self) -> String {
        let Barrier { live, arrived, .. } = &self.barrier;
        let missing: Vec<String> = (0..live.len())
            .filter_map(|rank| {
                let warps = live[rank].iter().zip(&arrived[rank]).filter(|(live, arrived)| **live & !**arrived != 0);
                let count = warps.count();
                (count != 0).then(|| format!("{count} warps of CTA {}", self.ctas[rank]))
            })
            .collect();
        format!("the barrier of its cluster, where {} have not arrived", missing.join(", "))
    }
}

impl Barrier {
    /// Starts over if everybody has arrived.
    fn settle(&mut self) {
        let missing = |(live, arrived): (&Vec<u32>, &Vec<u32>)| live.iter().zip(arrived).any(|(l, a)| l & !a != 0);
        let any = self.arrived.iter().flatten().any(|mask| *mask != 0);
        if !any || self.live.iter().zip(&self.arrived).any(missing) {
            return;
        }
        self.arrived.iter_mut().flatten().for_each(|mask| *mask = 0);
        let own = vec![Message::default(); self.own.len()];
        self.over = (std::mem::replace(&mut self.own, own), std::mem::take(&mut self.others));
    }
}

fn map(warp: &mut Warp, env: &mut Env<'_>, inst: &Inst, mask: u32) {
    let (rank, size) = (*warp.r32(inst.b), env.cluster.ctas.len());
    if let Some(lane) = (0..LANES).find(|lane| mask >> lane & 1 != 0 && rank[*lane] as usize >= size) {
        let text = format!("mapa to rank {} of a cluster of {size}", rank[lane]);
        return env.fault(warp, lane as u32, code::ILLEGAL_ADDRESS, text);
    }
    let place = |at: u32, rank: u32| at & ((1 << RANK_AT) - 1) | (rank + 1) << RANK_AT;
    if inst.y == 0 {
        let mut to = *warp.r32(inst.a);
        to.iter_mut().zip(rank).for_each(|(at, rank)| *at = place(*at, rank));
        return warp.w32(inst.d, mask, &to);
    }
    let mut to = *warp.r64(inst.a);
    for lane in 0..LANES {
        if let (Window::Shared(at), true) = (windows::classify(to[lane]), mask >> lane & 1 != 0) {
            to[lane] = windows::SHARED + u64::from(place(at, rank[lane]));
        } else if mask >> lane & 1 != 0 {
            let text = format!("mapa of {:#x}, which is no address in shared memory", to[lane]);
            return env.fault(warp, lane as u32, code::ILLEGAL_ADDRESS, text);
        }
    }
    warp.w64(inst.d, mask, &to);
}

fn arrive(warp: &mut Warp, env: &mut Env<'_>, inst: &Inst, mask: u32) {
    if inst.y & form::ALIGNED != 0 && mask != warp.live {
        whole_warp(warp, env, mask | !warp.live);
    }
    let (rank, w) = (env.cluster.rank as usize, warp.index as usize);
    let again = env.cluster.barrier.open[rank][w] & mask;
    if again != 0 {
        let text = format!("{} arrive at the barrier of the cluster again, and have not waited since", lanes(again));
        return env.stop(Detector::BarrierDivergence, warp, again.trailing_zeros(), text);
    }
    let messages = match inst.y & form::RELAXED {
        0 => env.order.arrive_in_cluster(warp.index, mask, warp.live),
        _ => Default::default(),
    };
    let barrier = &mut env.cluster.barrier;
    barrier.arrived[rank][w] |= mask;
    barrier.open[rank][w] |= mask;
    barrier.own[rank].join(&messages.0);
    barrier.others.join(&messages.1);
    barrier.settle();
    env.spins.change();
}

fn wait(warp: &mut Warp, env: &mut Env<'_>, inst: &Inst, mask: u32) {
    if inst.y & form::ALIGNED != 0 && mask != warp.live {
        whole_warp(warp, env, mask | !warp.live);
    }
    let (rank, w) = (env.cluster.rank as usize, warp.index as usize);
    let barrier = &mut env.cluster.barrier;
    let early = mask & !barrier.open[rank][w];
    if early != 0 {
        let text = format!("{} wait at the barrier of the cluster without having arrived", lanes(early));
        return env.stop(Detector::BarrierDivergence, warp, early.trailing_zeros(), text);
    }
    if barrier.arrived[rank][w] & mask != 0 {
        env.again = true;
        let access = Access::of::<4>([0; LANES], mask);
        return poll::waited(warp, env, &access, BARRIER, 4);
    }
    barrier.open[rank][w] &= !mask;
    if inst.y & form::RELAXED == 0 {
        let (own, others) = (&barrier.over.0[rank], &barrier.over.1);
        env.order.meet_in_cluster(warp.index, mask == warp.live, own, others);
    }
}

/// Does something in the shared memory of the CTA of a rank, in the name of a lane. `None` after a fault.
pub(crate) fn at<R>(
    warp: &Warp,
    env: &mut Env<'_>,
    lane: u32,
    rank: u32,
    f: impl FnOnce(&mut Env<'_>) -> R,
) -> Option<R> {
    let away = enter(warp, env, lane, rank)?;
    let result = f(env);
    leave(env, away);
    Some(result)
}

/// Who visits: the rank that it comes from, and if that is another one its own memory's place.
pub(super) struct Away(Option<(u32, Seat)>);

/// From now on the memory of the CTA of a rank stands in the place of the own, in the name of a lane. `None` after a fault.
pub(super) fn enter(warp: &Warp, env: &mut Env<'_>, lane: u32, rank: u32) -> Option<Away> {
    if rank == env.cluster.here {
        return Some(Away(None));
    }
    let Some(cta) = env.cluster.ctas.get(rank as usize).copied() else {
        let text = format!("an access to CTA {rank} of a cluster of {}", env.cluster.ctas.len());
        env.fault(warp, lane, code::ILLEGAL_ADDRESS, text);
        return None;
    };
    if env.cluster.gone >> rank & 1 != 0 {
        let text = format!("accesses the shared memory of CTA {cta}, all of whose threads have exited");
        env.stop(Detector::SharedBounds, warp, lane, text);
        return None;
    }
    if env.launch.settings.checks.race {
        let (heard, visit) = env.order.visit(cta, warp.index, lane, env.pc);
        env.cluster.visits[rank as usize].insert((visit.cta, visit.warp), visit);
        if !heard && !env.seen(Detector::SharedRace, None) {
            let text = format!(
                "accesses the shared memory of CTA {cta}, and nothing tells that it has begun (barrier.cluster)"
            );
            let finding = Finding::new(Detector::SharedRace, env.at(warp, lane), text);
            env.find(finding);
        }
    }
    let mut seat = std::mem::take(&mut env.cluster.seats[rank as usize]);
    swap(env, &mut seat);
    Some(Away(Some((std::mem::replace(&mut env.cluster.here, rank), seat))))
}

/// Everything is in its place again.
pub(super) fn leave(env: &mut Env<'_>, away: Away) {
    let Some((own, mut seat)) = away.0 else { return };
    swap(env, &mut seat);
    let rank = std::mem::replace(&mut env.cluster.here, own);
    env.cluster.seats[rank as usize] = seat;
}

/// The shared memory of the CTA of a rank.
pub(super) fn memory<'e>(env: &'e mut Env<'_>, rank: u32) -> &'e mut Shared {
    if rank == env.cluster.here { &mut env.shared } else { &mut env.cluster.seats[rank as usize].shared }
}

/// The memory of another CTA comes to the place of the own, or back.
fn swap(env: &mut Env<'_>, seat: &mut Seat) {
    std::mem::swap(&mut env.shared, &mut seat.shared);
    std::mem::swap(&mut env.copies, &mut seat.copies);
    std::mem::swap(&mut env.beside, &mut seat.beside);
    env.order.swap_memory(&mut seat.order);
}

/// All threads of a CTA have exited: nobody may reach its memory any more, and whoever did must be known to be done.
pub(super) fn end(env: &mut Env<'_>) {
    let rank = env.cluster.rank;
    env.cluster.gone |= 1 << rank;
    for visit in std::mem::take(&mut env.cluster.visits[rank as usize]).into_values() {
        if env.order.is_behind_visit(&visit) || env.seen_at(Detector::SharedRace, visit.pc, None) {
            continue;
        }
        let cta = env.cluster.ctas[rank as usize];
        let text = format!(
            "accesses the shared memory of CTA {cta}, and nothing keeps that from exiting before (barrier.cluster)"
        );
        let at = crate::sched::coordinates(visit.cta, env.launch.grid);
        let at = env.kernel.describe(visit.pc, at, visit.warp, visit.lane);
        env.find(Finding::new(Detector::SharedRace, at, text));
    }
}
