//! The sixteen named barriers of a CTA.

use crate::exec::LANES;
use crate::ir::{Barrier, BarrierAction};

/// Named barriers of a CTA.
pub const BARRIERS: usize = 16;

/// One barrier between two completions.
#[derive(Clone, Debug, Default)]
struct Phase {
    /// Lanes that arrived, by warp.
    arrived: Vec<u32>,
    /// Lanes that wait, by warp: those that arrived without `bar.arrive`.
    waiting: Vec<u32>,
    /// Threads counted, as the ISA counts them: a whole warp for an aligned arrival.
    count: u32,
    /// Threads expected; `None`: all that have not exited.
    expected: Option<u32>,
    /// What the first arrival asked for.
    action: Option<BarrierAction>,
    /// Threads whose predicate was true.
    truth: u32,
    /// Threads that gave a predicate.
    voters: u32,
}

/// All barriers of a CTA, and who is alive.
pub struct Barriers {
    phases: Vec<Phase>,
    /// Lanes that have not exited, by warp.
    pub live: Vec<u32>,
    /// Whether a barrier may have become complete.
    pub changed: bool,
}

/// An arrival.
pub struct Arrival {
    pub id: u32,
    pub expected: Option<u32>,
    pub warp: usize,
    pub mask: u32,
    /// Lanes whose predicate is true.
    pub truth: u32,
}

/// A completed barrier.
pub struct Completion {
    pub id: u32,
    /// Lanes to wake, by warp.
    pub waiting: Vec<u32>,
    /// The result of a reduction: true threads and voters.
    pub truth: u32,
    pub voters: u32,
}

impl Barriers {
    pub fn new(live: Vec<u32>) -> Barriers {
        Barriers { phases: vec![Phase::default(); BARRIERS], live, changed: false }
    }

    /// Takes an arrival, or says in one sentence why it is an error.
    pub fn arrive(&mut self, arrival: &Arrival, barrier: Barrier) -> Result<(), String> {
        let Arrival { id, expected, warp, mask, truth } = *arrival;
        let warps = self.live.len();
        let phase = self.phases.get_mut(id as usize).ok_or_else(|| format!("barrier {id}: a CTA has {BARRIERS}"))?;
        if let Some(n) = expected.filter(|n| n % LANES as u32 != 0 || *n == 0) {
            return Err(format!("barrier {id} for {n} threads, which is not a multiple of the warp size"));
        }
        let kind = |a| if a == BarrierAction::Arrive { BarrierAction::Sync } else { a };
        if let Some(first) = phase.action {
            if phase.expected != expected {
                let show = |n: Option<u32>| n.map_or_else(|| "all".into(), |n| n.to_string());
                let (was, now) = (show(phase.expected), show(expected));
                return Err(format!("barrier {id} is in use for {was} threads, and this arrival says {now}"));
            }
            if kind(first) != kind(barrier.action) {
                return Err(format!(
                    "barrier {id} is in use for {first:?}, and this arrival asks for {:?}",
                    barrier.action
                ));
            }
        } else {
            phase.action = Some(barrier.action);
            phase.expected = expected;
            phase.arrived.resize(warps, 0);
            phase.waiting.resize(warps, 0);
        }
        phase.arrived[warp] |= mask;
        if barrier.action != BarrierAction::Arrive {
            phase.waiting[warp] |= mask;
        }
        phase.count += if barrier.aligned { LANES as u32 } else { mask.count_ones() };
        if let Some(n) = expected.filter(|n| phase.count > *n) {
            return Err(format!("barrier {id} for {n} threads has {} arrivals", phase.count));
        }
        phase.truth += (truth & mask).count_ones();
        phase.voters += mask.count_ones();
        self.changed = true;
        Ok(())
    }

    /// Lanes of a warp have exited.
    pub fn exit(&mut self, warp: usize, mask: u32) {
        self.live[warp] &= !mask;
        self.changed = true;
    }

    /// The next barrier that is complete; it starts over.
    pub fn complete(&mut self) -> Option<Completion> {
        if !self.changed {
            return None;
        }
        let live = &self.live;
        let id = self.phases.iter().position(|phase| {
            phase.action.is_some()
                && match phase.expected {
                    Some(n) => phase.count == n,
                    None => phase.arrived.iter().zip(live).all(|(arrived, live)| live & !arrived == 0),
                }
        });
        let Some(id) = id else {
            self.changed = false;
            return None;
        };
        let phase = std::mem::take(&mut self.phases[id]);
        Some(Completion { id: id as u32, waiting: phase.waiting, truth: phase.truth, voters: phase.voters })
    }

    /// What barrier `id` waits for, in words.
    pub fn describe(&self, id: u32) -> String {
        let Some(phase) = self.phases.get(id as usize) else { return String::new() };
        match phase.expected {
            Some(n) => format!("{} of {n} threads have arrived", phase.count),
            None => {
                let missing = phase.arrived.iter().zip(&self.live).filter(|(a, l)| *l & !*a != 0).count();
                format!("{missing} of {} warps have not arrived", self.live.len())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYNC: Barrier = Barrier { action: BarrierAction::Sync, aligned: true, counted: false, negate: false };

    fn at(id: u32, expected: Option<u32>, warp: usize, mask: u32) -> Arrival {
        Arrival { id, expected, warp, mask, truth: 0 }
    }

    #[test]
    fn exited_lanes_do_not_count() {
        let mut b = Barriers::new(vec![u32::MAX, 0xFFFF]);
        b.arrive(&at(0, None, 0, u32::MAX), SYNC).unwrap();
        assert!(b.complete().is_none());
        b.exit(1, 0xFFFF);
        assert_eq!(b.complete().unwrap().waiting, [u32::MAX, 0]);
        assert!(b.complete().is_none());
    }

    #[test]
    fn named_counts() {
        let mut b = Barriers::new(vec![u32::MAX; 4]);
        let arrive = Barrier { action: BarrierAction::Arrive, counted: true, ..SYNC };
        b.arrive(&at(1, Some(64), 2, u32::MAX), arrive).unwrap();
        assert!(b.complete().is_none());
        b.arrive(&at(1, Some(64), 0, u32::MAX), SYNC).unwrap();
        assert_eq!(b.complete().unwrap().waiting, [u32::MAX, 0, 0, 0]);
        assert!(b.arrive(&at(16, None, 0, 1), SYNC).is_err());
        assert!(b.arrive(&at(2, Some(33), 0, 1), SYNC).is_err());
        b.arrive(&at(3, Some(64), 0, u32::MAX), SYNC).unwrap();
        assert!(b.arrive(&at(3, Some(96), 1, u32::MAX), SYNC).is_err());
        let red = Barrier { action: BarrierAction::Or, ..SYNC };
        assert!(b.arrive(&at(3, Some(64), 1, u32::MAX), red).is_err());
    }
}
