//! Running one warp until it blocks, ends or its turn is over.

use super::barrier::Barriers;
use super::control;
use super::random::Random;
use super::split::{PATIENCE, Running, Split, Wait};
use crate::check::{Detector, Finding, lanes, taint};
use crate::exec::hopper::product;
use crate::exec::{Env, LANES, Warp};
use crate::ir::{Control, Inst, Kind};

/// How a warp's turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It could go on.
    Over,
    /// Every split waits.
    Blocked,
    /// Every lane has exited.
    Done,
    /// The launch ends.
    Fault,
}

/// What happened to the split that ran.
pub enum Step {
    /// It met other lanes, branched apart or blocked: choose again.
    Choose,
    /// The turn is over.
    Over,
    /// The launch ends.
    Fault,
}

impl Running {
    /// Runs until `env.clock` reaches `until`, or something happens.
    pub fn run(
        &mut self,
        env: &mut Env<'_>,
        barriers: &mut Barriers,
        mut random: Option<&mut Random>,
        until: u64,
    ) -> Turn {
        loop {
            let Some(n) = self.pick(random.as_deref_mut()) else {
                return if self.splits.is_empty() { Turn::Done } else { self.blocked(env) };
            };
            // A schedule may also pass lanes by that it could have joined.
            let joins = random.as_deref_mut().is_none_or(|r| self.splits.len() == 1 || r.below(8) != 0);
            let stop = if joins { self.meeting(n) } else { u32::MAX };
            match self.run_split(n, stop, env, barriers, until) {
                Step::Choose => self.settle(),
                Step::Over => {
                    self.settle();
                    return Turn::Over;
                }
                Step::Fault => return Turn::Fault,
            }
            if env.clock >= until {
                return Turn::Over;
            }
        }
    }

    fn run_split(&mut self, n: usize, stop: u32, env: &mut Env<'_>, barriers: &mut Barriers, until: u64) -> Step {
        let kernel = env.kernel;
        let Running { warp, splits } = self;
        let Split { mut pc, mask: all, .. } = splits[n];
        loop {
            if pc == stop {
                splits[n].pc = pc;
                return Step::Choose;
            }
            if env.clock >= until {
                splits[n].pc = pc;
                return Step::Over;
            }
            env.clock += 1;
            let inst = &kernel.insts[pc as usize];
            let guard = warp.p(inst.guard);
            let mask = all & if inst.negate { !guard } else { guard };
            if warp.taint.any() {
                env.pc = pc;
                // Warp-wide operations are looked at when they run.
                taint::step(warp, env, inst, all, if inst.kind == Kind::Sync { 0 } else { mask });
            }
            if inst.watched && mask != 0 {
                product::step(warp, env, pc);
            }
            match inst.kind {
                Kind::Plain => {
                    env.tally.issue(pc as usize, mask);
                    if mask != 0 {
                        // SAFETY: `run` was chosen by `Op::pick`, which gives the wide build only to processors that
                        // have its features.
                        unsafe { (inst.run)(warp, env, inst, mask) };
                    }
                    pc += 1;
                }
                Kind::Effect => {
                    env.tally.issue(pc as usize, mask);
                    if mask != 0 {
                        env.pc = pc;
                        // SAFETY: as above.
                        unsafe { (inst.run)(warp, env, inst, mask) };
                        if env.fault.is_some() {
                            return Step::Fault;
                        }
                        if env.undefined.is_some() {
                            taint::arrive(warp, env, inst, mask);
                        }
                        if std::mem::take(&mut env.again) {
                            // It waits, and looks again when others have run.
                            env.spins.pause = false;
                            splits[n].pc = pc;
                            splits[n].trips = splits[n].trips.saturating_add(PATIENCE);
                            return Step::Over;
                        }
                        if std::mem::take(&mut env.spins.pause) {
                            // It polls: others first.
                            splits[n].pc = pc + 1;
                            splits[n].trips = splits[n].trips.saturating_add(PATIENCE);
                            return Step::Over;
                        }
                        if splits.len() > 1 && splits.iter().any(|s| s.wait == Wait::Gather) {
                            splits[n].passed = true;
                        }
                    }
                    pc += 1;
                }
                Kind::Sync => {
                    env.pc = pc;
                    splits[n].pc = pc;
                    if mask != 0 && !together(warp, splits, n, inst, mask, env) {
                        return if env.fault.is_some() { Step::Fault } else { Step::Choose };
                    }
                    if std::mem::take(&mut env.again) {
                        env.spins.pause = false;
                        return Step::Over;
                    }
                    env.tally.issue(pc as usize, mask);
                    pc += 1;
                }
                Kind::Control => {
                    env.pc = pc;
                    let control = &kernel.controls[inst.x as usize];
                    // The common case, all lanes together, stays in this loop.
                    if let (Control::Branch { target }, true) = (control, mask == all || mask == 0) {
                        let next = if mask == 0 { pc + 1 } else { *target };
                        let alone = splits.len() == 1;
                        if next > pc || alone {
                            env.tally.issue(pc as usize, mask);
                            pc = next;
                            if !alone && next > stop {
                                splits[n].pc = pc;
                                return Step::Choose;
                            }
                            continue;
                        }
                    }
                    splits[n].pc = pc;
                    return control::run(warp, splits, n, inst, control, mask, env, barriers);
                }
            }
        }
    }

    /// No split can run. If nothing outside the warp can change that, says so.
    fn blocked(&self, env: &mut Env<'_>) -> Turn {
        if self.splits.iter().any(|s| matches!(s.wait, Wait::Barrier(_))) {
            return Turn::Blocked;
        }
        let first = self.splits.iter().find(|s| s.wait == Wait::Gather).unwrap_or(&self.splits[0]);
        env.pc = first.pc;
        let stands = self.describe(env);
        let (detector, what) = if first.wait == Wait::Gather {
            (Detector::BarrierDivergence, "a barrier that must be reached by all lanes of the warp together")
        } else {
            (Detector::Deadlock, "lanes that wait for each other at different instructions")
        };
        env.stop(detector, &self.warp, first.mask.trailing_zeros(), format!("{what}: {stands}"));
        Turn::Fault
    }

    /// Where the lanes of the warp stand, in words.
    pub fn describe(&self, env: &Env<'_>) -> String {
        let stand = |s: &Split| {
            let at = env.kernel.describe(s.pc, env.cta, self.warp.index, 0);
            format!("{} at {} `{}` (pc {})", lanes(s.mask), at.place, at.statement, s.pc)
        };
        self.splits.iter().map(stand).collect::<Vec<_>>().join("; ")
    }
}

/// Runs a warp-wide operation for the lanes `mask` of split `n`. False: named lanes stand elsewhere, or a fault.
fn together(warp: &mut Warp, splits: &mut [Split], n: usize, inst: &Inst, mask: u32, env: &mut Env<'_>) -> bool {
    let members = *warp.r32(inst.m);
    if mask == warp.live && members == [mask; LANES] {
        return run_together(warp, env, inst, mask);
    }
    let on = |lane: usize| mask >> lane & 1 != 0;
    let named = (0..LANES).filter(|l| on(*l)).fold(0, |named, l| named | members[l]) & warp.live;
    if named & !splits[n].mask != 0 {
        splits[n].wait = Wait::Members;
        return false;
    }
    let lane = mask.trailing_zeros();
    if named & !mask != 0 {
        let text = format!("the member mask names {}, which the guard keeps from taking part", lanes(named & !mask));
        env.find(Finding::new(Detector::InactiveLane, env.at(warp, lane), text));
    }
    let strangers = (0..LANES).filter(|l| on(*l) && members[*l] >> l & 1 == 0).fold(0, |s, l| s | 1 << l);
    if strangers != 0 {
        let text = format!("{} take part without being in the member mask", lanes(strangers));
        env.find(Finding::new(Detector::InactiveLane, env.at(warp, lane), text));
    }
    let mut left = mask;
    while left != 0 {
        let mine = members[left.trailing_zeros() as usize];
        let group = (0..LANES).filter(|l| left >> l & 1 != 0 && members[*l] == mine).fold(0, |g, l| g | 1 << l);
        if !run_together(warp, env, inst, group) {
            return false;
        }
        left &= !group;
    }
    true
}

/// Runs a warp-wide operation for one group of lanes. False: a fault.
fn run_together(warp: &mut Warp, env: &mut Env<'_>, inst: &Inst, group: u32) -> bool {
    if warp.taint.any() {
        taint::step(warp, env, inst, 0, group);
    }
    // SAFETY: as in `run_split`.
    unsafe { (inst.run)(warp, env, inst, group) };
    if env.undefined.is_some() {
        taint::arrive(warp, env, inst, group);
    }
    env.fault.is_none()
}
