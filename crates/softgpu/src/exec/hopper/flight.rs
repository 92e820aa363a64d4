//! Copies under way: what was started and has not happened yet.
//!
//! A copy into shared memory lands when nobody can go on without it, at the latest; one out of shared memory reads its
//! source at the wait for that and writes at the wait for all of it, or when its block has ended. Under other seeds than 0
//! each may happen at any moment before.

use super::super::access::Access;
use super::super::{Env, LANES, Warp, copies};
use super::tile::{Place, Segment, Tile};
use super::{cluster, mbarrier, tile};
use crate::check::race::By;
use crate::check::{Detector, Finding, Message};
use crate::launch::code;
use crate::sched::Random;
use std::collections::BTreeMap;

/// The group of a copy that is not committed yet.
pub(super) const OPEN: u32 = u32::MAX;

/// The copies of a CTA.
#[derive(Default)]
pub(crate) struct Flights {
    /// In the order of their start.
    queue: Vec<Flight>,
    /// Groups that each thread has committed, by warp and lane.
    committed: BTreeMap<(u32, u32), u32>,
}

/// One copy, and who started it.
pub(super) struct Flight {
    pub(super) cta: [u32; 3],
    pub(super) warp: u32,
    pub(super) lane: u32,
    pub(super) pc: u32,
    pub(super) job: Job,
}

/// What is to happen.
pub(super) enum Job {
    /// Bytes come to shared memory.
    Load {
        to: u32,
        bytes: u32,
        swizzle: tile::Swizzle,
        /// Address of the memory barrier that counts them.
        barrier: u32,
        from: Source,
        /// What the thread hands over to those who wait.
        given: Box<Message>,
    },
    /// Bytes go from shared memory to device memory, or are added to what is there.
    Store {
        from: u32,
        bytes: u32,
        swizzle: tile::Swizzle,
        to: Place,
        reduce: Option<tile::Reduction>,
        group: u32,
        /// What was read, once it was.
        read: Option<Tile>,
        /// Whether the thread has waited until it was read.
        waited: bool,
        /// Whether it was written.
        written: bool,
    },
    /// An arrival behind the copies of the older kind that the thread had started by then.
    Arrive { barrier: u32, before: u64, given: Box<Message> },
}

/// Where bytes for shared memory come from.
pub(super) enum Source {
    /// From device memory, and what that held at the start.
    Memory(Place, Tile),
    /// From an offset in the shared memory of the CTA of a rank.
    Shared(u32, u32),
    /// From a thread.
    Value(Tile),
}

impl Flights {
    /// The copy that owns a byte of shared memory: its CTA, warp, lane and instruction; `writes` if it writes there.
    pub(crate) fn owner(&self, at: u32, any: bool) -> Option<([u32; 3], u32, u32, u32, bool)> {
        self.queue.iter().find_map(|flight| {
            let (range, writes) = match &flight.job {
                Job::Load { to, bytes, .. } => (*to..*to + *bytes, true),
                Job::Store { from, bytes, waited: false, .. } if any => (*from..*from + *bytes, false),
                _ => return None,
            };
            range.contains(&at).then_some((flight.cta, flight.warp, flight.lane, flight.pc, writes))
        })
    }

    /// The copy that reads a byte of the shared memory of the CTA of a rank: its CTA, warp, lane and instruction.
    pub(super) fn reader(&self, rank: u32, at: u32) -> Option<([u32; 3], u32, u32, u32)> {
        self.queue.iter().find_map(|flight| match &flight.job {
            Job::Load { from: Source::Shared(owner, from), bytes, .. }
                if *owner == rank && (*from..from + bytes).contains(&at) =>
            {
                Some((flight.cta, flight.warp, flight.lane, flight.pc))
            }
            _ => None,
        })
    }

    /// Whether bytes of device memory are still to be written.
    #[inline(always)]
    pub(crate) fn any_store(&self) -> bool {
        !self.queue.is_empty() && self.queue.iter().any(|flight| matches!(flight.job, Job::Store { .. }))
    }

    pub(super) fn start(&mut self, flight: Flight) {
        self.queue.push(flight);
    }

    pub(super) fn commit(&mut self, warp: u32, lane: u32) {
        let number = self.committed.entry((warp, lane)).or_insert(0);
        for flight in self.queue.iter_mut().filter(|flight| (flight.warp, flight.lane) == (warp, lane)) {
            if let Job::Store { group, .. } = &mut flight.job
                && *group == OPEN
            {
                *group = *number;
            }
        }
        *number += 1;
    }
}

/// Reports an access to device memory to which a copy goes that nobody has waited for.
#[cold]
#[inline(never)]
pub(crate) fn check_target(warp: &Warp, env: &mut Env<'_>, access: &Access, bytes: u64, verb: &str) {
    let hit = |lane: &usize| {
        let address = access.address[*lane];
        let stores = env.beside.flights.queue.iter().filter_map(|flight| match &flight.job {
            Job::Store { to, .. } => Some((flight, to)),
            _ => None,
        });
        let overlaps = |s: &Segment| address < s.address + u64::from(s.bytes) && s.address < address + bytes;
        let mut meeting = stores.filter(|(_, to)| to.segments.iter().any(overlaps));
        meeting.next().map(|(flight, _)| (*lane, flight.warp, flight.lane, flight.pc))
    };
    let Some((lane, by, by_lane, pc)) = access.lanes().find_map(|lane| hit(&lane)) else { return };
    if env.seen(Detector::AsyncCopy, Some(pc)) {
        return;
    }
    let address = access.address[lane];
    let text = format!(
        "{verb} {bytes} bytes at {address:#x}, to which warp {by} lane {by_lane} copies in bulk and has not waited for \
         (cp.async.bulk.wait_group without .read), {}",
        env.launch.memory.describe(address)
    );
    let other = Some(env.kernel.describe(pc, env.cta, by, by_lane));
    let finding = Finding::new(Detector::AsyncCopy, env.at(warp, lane as u32), text);
    env.find(Finding { address: Some(address), other, ..finding });
}

/// A thread's arrival at a memory barrier, when the copies that it has started are done.
pub(super) fn arrive_later(warp: &Warp, env: &mut Env<'_>, lane: u32, at: u32) {
    let given = Box::new(env.order.release(warp.index, 1 << lane, warp.live));
    let job = Job::Arrive { barrier: at, before: env.copies.started(), given };
    env.beside.flights.start(Flight { cta: env.cta, warp: warp.index, lane, pc: env.pc, job });
}

/// Nobody can go on: something must happen now. False if nothing is under way that anybody could wait for.
pub(crate) fn force(env: &mut Env<'_>) -> bool {
    let polled = &env.beside.barriers.polled;
    let queue = &env.beside.flights.queue;
    let counts = |flight: &&Flight| matches!(&flight.job, Job::Load { .. } | Job::Arrive { .. });
    let waited = |flight: &&Flight| match &flight.job {
        Job::Load { barrier, .. } | Job::Arrive { barrier, .. } => polled.contains(barrier),
        Job::Store { .. } => false,
    };
    // The last that was started, of those somebody waits for: whoever relies on the order of copies shall see.
    let at = queue.iter().rposition(|f| waited(&f)).or_else(|| queue.iter().rposition(|f| counts(&f)));
    let Some(at) = at else { return false };
    let flight = env.beside.flights.queue.remove(at);
    land(env, flight);
    true
}

/// Under other seeds than 0: some copies happen now.
pub(crate) fn drift(env: &mut Env<'_>) {
    if env.launch.settings.seed == 0 || env.beside.flights.queue.is_empty() {
        return;
    }
    let mut random = Random::new(env.launch.settings.seed ^ env.clock << 1);
    let mut at = 0;
    while at < env.beside.flights.queue.len() {
        if random.below(4) != 0 {
            at += 1;
            continue;
        }
        let mut flight = env.beside.flights.queue.remove(at);
        if !matches!(flight.job, Job::Store { .. }) {
            land(env, flight);
            continue;
        }
        // What nobody has waited for stays, done or not.
        match &mut flight.job {
            Job::Store { to, reduce, read: Some(tile), group, written: written @ false, .. } if *group != OPEN => {
                tile.put(env, to, *reduce);
                *written = true;
            }
            _ => read(env, &mut flight),
        }
        env.beside.flights.queue.insert(at, flight);
        at += 1;
    }
}

/// A thread waits until at most `but` of its groups have not `written`, or have not been read.
pub(super) fn wait(warp: &Warp, env: &mut Env<'_>, lane: u32, but: u32, written: bool) {
    let groups = env.beside.flights.committed.get(&(warp.index, lane)).copied().unwrap_or(0);
    let mut queue = std::mem::take(&mut env.beside.flights.queue);
    let mut left = Vec::with_capacity(queue.len());
    for mut flight in queue.drain(..) {
        let over = (flight.warp, flight.lane) == (warp.index, lane)
            && matches!(&flight.job, Job::Store { group, .. } if *group != OPEN && group.saturating_add(but) < groups);
        if !over {
            left.push(flight);
            continue;
        }
        read(env, &mut flight);
        if let Job::Store { from, bytes, waited: waited @ false, .. } = &mut flight.job {
            *waited = true;
            if env.launch.settings.checks.race {
                // From now on it is as if the thread itself had read.
                env.shared.set_reading(*from, *bytes, false);
                let by = By { warp: flight.warp, lane: flight.lane, pc: flight.pc, strong: false };
                super::bulk::note_read(env, by, *from, *bytes);
            }
        }
        if written {
            let (at, pc) = (flight.pc, env.pc);
            env.pc = at;
            write(env, warp, flight);
            env.pc = pc;
        } else {
            left.push(flight);
        }
    }
    left.append(&mut env.beside.flights.queue);
    env.beside.flights.queue = left;
}

/// A copy out of shared memory reads its source.
fn read(env: &mut Env<'_>, flight: &mut Flight) {
    if let Job::Store { from, bytes, swizzle, read: read @ None, .. } = &mut flight.job {
        *read = Some(Tile::of_shared(&env.shared, *from, *bytes, *swizzle));
    }
}

/// A copy out of shared memory that was read writes its target; races are looked for in the name of a thread that waits.
fn write(env: &mut Env<'_>, warp: &Warp, flight: Flight) {
    let Job::Store { to, reduce, read: Some(tile), written, .. } = flight.job else { return };
    if env.launch.settings.checks.race {
        let by = By { warp: flight.warp, lane: flight.lane, pc: flight.pc, strong: reduce.is_some() };
        tile::touch(warp, env, by, &to, Some(false));
    }
    if !written {
        tile.put(env, &to, reduce);
    }
}

/// What must happen, happens.
fn land(env: &mut Env<'_>, mut flight: Flight) {
    read(env, &mut flight);
    let by = By { warp: flight.warp, lane: flight.lane, pc: flight.pc, strong: false };
    match flight.job {
        Job::Load { to, bytes, swizzle, barrier, from, given } => {
            let race = env.launch.settings.checks.race;
            let now = match from {
                Source::Memory(place, seen) => {
                    let now = Tile::of_memory(env, &place, bytes);
                    if race && now.bytes != seen.bytes {
                        source_changed(env, flight.cta, &by, &place);
                    }
                    now
                }
                Source::Shared(rank, at) => {
                    let theirs = cluster::memory(env, rank);
                    if race {
                        theirs.set_reading(at, bytes, false);
                    }
                    Tile::of_shared(theirs, at, bytes, tile::Swizzle::default())
                }
                Source::Value(tile) => tile,
            };
            if race {
                env.shared.set_pending(to, bytes, false);
            }
            now.to_shared(&mut env.shared, to, swizzle);
            let message = match env.launch.settings.checks.race {
                true => env.order.landed(by, to, bytes, mbarrier::number(env, barrier), &given),
                false => *given,
            };
            mbarrier::complete(env, barrier, bytes, Some(&message));
        }
        Job::Store { to, reduce, read: Some(tile), written: false, .. } => tile.put(env, &to, reduce),
        Job::Store { .. } => {}
        Job::Arrive { barrier, before, given } => {
            let mut message = *given;
            for (to, bytes) in copies::finish(env, flight.warp, flight.lane, before) {
                if env.launch.settings.checks.race {
                    message = env.order.landed(by, to, bytes, mbarrier::number(env, barrier), &message);
                }
            }
            if let Err(why) = mbarrier::arrive_for(env, barrier, &message) {
                let text = format!("an arrival for copies at {}: {why}", env.shared.name(barrier));
                misused(env, &by, text);
            }
        }
    }
}

fn source_changed(env: &mut Env<'_>, cta: [u32; 3], by: &By, from: &Place) {
    let address = from.address();
    let text = format!(
        "the source of a copy in bulk changed before the copy had come, at {address:#x}, {}",
        env.launch.memory.describe(address)
    );
    let at = env.kernel.describe(by.pc, cta, by.warp, by.lane);
    env.find(Finding { address: Some(address), ..Finding::new(Detector::AsyncCopy, at, text) });
}

fn misused(env: &mut Env<'_>, by: &By, text: String) {
    let at = env.kernel.describe(by.pc, env.cta, by.warp, by.lane);
    env.find(Finding::new(Detector::MemoryBarrier, at.clone(), text.clone()));
    if env.fault.is_none() {
        env.fault = Some(crate::launch::Fault { code: code::LAUNCH_FAILED, text, at: Some(at) });
    }
}

/// All threads of the CTA have exited: what was read is written; what still uses shared memory is reported.
pub(crate) fn end(env: &mut Env<'_>) {
    for flight in std::mem::take(&mut env.beside.flights.queue) {
        let what = match &flight.job {
            Job::Load { .. } => "while a copy in bulk into its shared memory is under way",
            Job::Store { waited: false, .. } => {
                "while a copy in bulk still reads its shared memory (cp.async.bulk.wait_group.read 0 waits for that)"
            }
            _ => {
                land(env, flight);
                continue;
            }
        };
        if env.launch.settings.checks.race && !env.seen_at(Detector::AsyncCopy, flight.pc, None) {
            let at = env.kernel.describe(flight.pc, flight.cta, flight.warp, flight.lane);
            env.find(Finding::new(Detector::AsyncCopy, at, format!("the block ends {what}")));
        }
        land(env, flight);
    }
}

const _: () = assert!(LANES == 32, "a thread is a warp and a lane");
