//! Branches, exits and barrier arrivals.

use super::barrier::{Arrival, Barriers};
use super::split::{Split, Wait};
use super::step::Step;
use crate::check::{Detector, lanes};
use crate::exec::{Env, LANES, Warp};
use crate::ir::{Barrier, Control, Inst};
use crate::launch::code;

/// Runs control instruction `inst` of split `n` for the lanes `mask`; the split's other lanes go on behind it.
#[allow(clippy::too_many_arguments)]
pub fn run(
    warp: &mut Warp,
    splits: &mut Vec<Split>,
    n: usize,
    inst: &Inst,
    control: &Control,
    mask: u32,
    env: &mut Env<'_>,
    barriers: &mut Barriers,
) -> Step {
    let pc = splits[n].pc;
    let rest = splits[n].mask & !mask;
    // An instruction that has to wait for other lanes is issued when they have come.
    let waits = matches!(control, Control::Barrier(barrier) if barrier.aligned && mask != 0 && mask != warp.live);
    if !waits {
        env.tally.issue(pc as usize, mask);
    }
    if mask == 0 {
        splits[n].pc = pc + 1;
        return Step::Choose;
    }
    if rest != 0 {
        // Lanes whose guard is off part from the others here.
        let other = Split { pc: pc + 1, mask: rest, ..splits[n] };
        splits[n].mask = mask;
        splits.push(other);
    }
    match control {
        Control::Branch { target } => {
            env.tally.divergent_branches += u64::from(rest != 0 && *target != pc + 1);
            jump(&mut splits[n], *target);
        }
        Control::Table { targets } => return table(warp, splits, n, inst, targets, env),
        Control::Call(call) => return super::call::call(warp, splits, n, inst, call, env),
        Control::Return => return super::call::ret(warp, splits, n, env),
        Control::Exit => exit(warp, splits, n, env, barriers),
        Control::Trap => {
            let text = format!("trap in {}", lanes(mask));
            env.fault(warp, mask.trailing_zeros(), code::LAUNCH_FAILED, text);
        }
        Control::Yield => {
            splits[n].pc = pc + 1;
            splits[n].trips = splits[n].trips.saturating_add(super::split::PATIENCE);
            return Step::Over;
        }
        Control::Barrier(_) if waits => splits[n].wait = Wait::Gather,
        Control::Barrier(barrier) => arrive(warp, splits, n, inst, *barrier, env, barriers),
    }
    if env.fault.is_some() { Step::Fault } else { Step::Choose }
}

fn jump(split: &mut Split, target: u32) {
    if target <= split.pc {
        split.trips = split.trips.saturating_add(1);
    }
    split.pc = target;
}

/// `brx.idx`: lanes with equal indices stay together.
fn table(warp: &Warp, splits: &mut Vec<Split>, n: usize, inst: &Inst, targets: &[u32], env: &mut Env<'_>) -> Step {
    let index = *warp.r32(inst.a);
    let here = splits[n];
    let mut left = here.mask;
    while left != 0 {
        let lane = left.trailing_zeros();
        let chosen = index[lane as usize];
        let group = (0..LANES).filter(|l| left >> l & 1 != 0 && index[*l] == chosen).fold(0, |g, l| g | 1 << l);
        let Some(target) = targets.get(chosen as usize) else {
            let text = format!("branch index {chosen} of a table of {} targets", targets.len());
            env.fault(warp, lane, code::LAUNCH_FAILED, text);
            return Step::Fault;
        };
        let mut split = Split { mask: group, ..here };
        jump(&mut split, *target);
        splits.push(split);
        left &= !group;
    }
    splits[n].mask = 0;
    env.tally.divergent_branches += u64::from(splits.last().is_some_and(|s| s.mask != here.mask));
    Step::Choose
}

fn exit(warp: &mut Warp, splits: &mut [Split], n: usize, env: &mut Env<'_>, barriers: &mut Barriers) {
    let gone = splits[n];
    if let Some(waiting) = splits.iter().find(|s| s.wait == Wait::Gather && gone.passed) {
        // They ran past the barrier and did something there: this is no early exit.
        env.pc = waiting.pc;
        let text = format!(
            "{} wait at a barrier that {} of the same warp went past to their exit",
            lanes(waiting.mask),
            lanes(gone.mask)
        );
        env.stop(Detector::BarrierDivergence, warp, waiting.mask.trailing_zeros(), text);
    }
    warp.live &= !gone.mask;
    warp.taint.exit(gone.mask);
    env.spins.change();
    if warp.live == 0 {
        env.order.exit(warp.index);
    }
    splits[n].mask = 0;
    barriers.exit(warp.index as usize, gone.mask);
    env.cluster.exit(warp.index, gone.mask);
    for split in splits.iter_mut().filter(|s| matches!(s.wait, Wait::Members | Wait::Gather)) {
        split.wait = Wait::None;
    }
}

fn arrive(
    warp: &Warp,
    splits: &mut [Split],
    n: usize,
    inst: &Inst,
    barrier: Barrier,
    env: &mut Env<'_>,
    barriers: &mut Barriers,
) {
    let mask = splits[n].mask;
    let lane = mask.trailing_zeros();
    let same = |slot: u16| {
        let values = warp.r32(slot);
        let first = values[lane as usize];
        (0..LANES).all(|l| mask >> l & 1 == 0 || values[l] == first).then_some(first)
    };
    let (Some(id), Some(expected)) = (same(inst.a), if barrier.counted { same(inst.b).map(Some) } else { Some(None) })
    else {
        let text = "lanes of one warp name different barriers, or different numbers of threads".to_string();
        env.stop(Detector::BarrierDivergence, warp, lane, text);
        return;
    };
    let truth = if barrier.negate { !warp.p(inst.c) } else { warp.p(inst.c) };
    let arrival = Arrival { id, expected, warp: warp.index as usize, mask, truth };
    if let Err(text) = barriers.arrive(&arrival, barrier) {
        env.stop(Detector::BarrierDivergence, warp, lane, text);
        return;
    }
    env.order.arrive(id, warp.index, mask);
    if barrier.action == crate::ir::BarrierAction::Arrive {
        splits[n].pc += 1;
    } else {
        splits[n].wait = Wait::Barrier(id);
    }
}
