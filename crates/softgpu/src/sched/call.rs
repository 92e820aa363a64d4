//! Calls of device functions and returns from them.
//!
//! A call gives each lane a frame behind that of its caller, passes the arguments and goes to the function's first
//! instruction. Lanes that call different functions part, and so do lanes that return to different places; lanes that
//! stand at one instruction go on together, whoever called them.

use std::rc::Rc;

use super::split::Split;
use super::step::Step;
use crate::check::lanes;
use crate::exec::access::lanes_of;
use crate::exec::frames::{Activation, Kept, MOST_CALLS};
use crate::exec::{Env, Warp};
use crate::ir::{Call, Control, Inst, Kernel, Routine};
use crate::launch::code;
use crate::mem::windows;

/// Runs a call of split `n`, whose guard held for all of its lanes.
pub fn call(warp: &mut Warp, splits: &mut Vec<Split>, n: usize, inst: &Inst, call: &Call, env: &mut Env<'_>) -> Step {
    let here = splits[n];
    if let Some(callee) = call.callee {
        enter(warp, here, callee, call, env);
        let entry = env.kernel.routines[callee as usize].entry;
        splits[n] = Split { pc: entry, depth: here.depth + 1, ..here };
        return if env.fault.is_some() { Step::Fault } else { Step::Choose };
    }
    let addresses = *warp.r64(inst.a);
    let mut left = here.mask;
    while left != 0 {
        let lane = left.trailing_zeros() as usize;
        let chosen = addresses[lane];
        let group = lanes_of(left).filter(|l| addresses[*l] == chosen).fold(0, |group, l| group | 1 << l);
        let callee = match pointed_at(env.kernel, chosen, call) {
            Ok(callee) => callee,
            Err((code, text)) => {
                env.fault(warp, lane as u32, code, format!("{text} ({})", lanes(group)));
                return Step::Fault;
            }
        };
        enter(warp, Split { mask: group, ..here }, callee, call, env);
        if env.fault.is_some() {
            return Step::Fault;
        }
        let entry = env.kernel.routines[callee as usize].entry;
        splits.push(Split { pc: entry, mask: group, depth: here.depth + 1, ..here });
        left &= !group;
    }
    splits[n].mask = 0;
    env.tally.divergent_branches += u64::from(splits.last().is_some_and(|s| s.mask != here.mask));
    Step::Choose
}

/// The function at a code address, if it takes what the call passes.
fn pointed_at(kernel: &Kernel, address: u64, call: &Call) -> Result<u32, (u32, String)> {
    let index = address.wrapping_sub(windows::CODE) / windows::CODE_STEP;
    let whole = address.is_multiple_of(windows::CODE_STEP);
    let found = kernel.routines.iter().skip(1).position(|r| whole && u64::from(r.index) == index);
    let Some(found) = found else {
        return Err((code::INVALID_PC, format!("call of {address:#x}, which is not the address of a device function")));
    };
    let routine = &kernel.routines[found + 1];
    let frame = &routine.frame;
    let sizes = frame.params.iter().chain(&frame.results).map(|variable| variable.size);
    let passed = call.arguments.iter().chain(&call.results).map(|piece| piece.bytes);
    if frame.params.len() != call.arguments.len() || !sizes.eq(passed) {
        let text = format!("call of {} through a pointer to functions with other parameters or results", routine.name);
        return Err((code::LAUNCH_FAILED, text));
    }
    Ok(found as u32 + 1)
}

/// Gives the lanes of a split their activations.
fn enter(warp: &mut Warp, here: Split, callee: u32, call: &Call, env: &mut Env<'_>) {
    let kernel = env.kernel;
    let poison = env.launch.settings.poison();
    let (from, to) = (&kernel.routines[call.caller as usize], &kernel.routines[callee as usize]);
    let kept = call.recurs.then(|| Rc::new(keep(warp, from)));
    for lane in lanes_of(here.mask) {
        let caller = warp.frames.base(lane);
        let base = caller + from.frame.bytes;
        if warp.frames.of(lane).len() == MOST_CALLS || !warp.local.reach(base as usize + to.frame.bytes as usize) {
            let (depth, name) = (warp.frames.of(lane).len(), &to.name);
            let text = format!("stack overflow: call of {name} inside of {depth} others, {base} bytes into the stack");
            return env.fault(warp, lane as u32, code::STACK, text);
        }
        warp.local.undefine(lane, base, to.frame.bytes, poison);
        for (piece, variable) in call.arguments.iter().zip(&to.frame.params) {
            warp.local.copy(lane, caller + piece.at, base + variable.offset, piece.bytes);
        }
        warp.frames.push(lane, Activation { routine: callee, base, from: here.pc, kept: kept.clone() });
    }
    warp.undefine(&to.undefined, here.mask, poison);
    let settings = &env.launch.settings;
    if settings.checks.init && !settings.strict_init {
        warp.taint.enter(kernel, to.undefined.places(), here.mask);
    }
    addresses(warp, to, here.mask);
}

/// Fills the slots that hold addresses in the frame of the function where the lanes stand.
fn addresses(warp: &mut Warp, routine: &Routine, mask: u32) {
    for (slot, offset, pair) in &routine.addresses {
        for lane in lanes_of(mask) {
            let address = warp.frames.base(lane).wrapping_add(*offset);
            if *pair {
                warp.r64_mut(*slot)[lane] = u64::from(address);
            } else {
                warp.r32_mut(*slot)[lane] = address;
            }
        }
    }
}

fn keep(warp: &Warp, routine: &Routine) -> Kept {
    Kept {
        pairs: routine.pairs.clone().step_by(2).map(|slot| *warp.r64(slot)).collect(),
        singles: routine.singles.clone().map(|slot| *warp.r32(slot)).collect(),
        preds: routine.preds.clone().map(|pred| warp.p(pred)).collect(),
        taint: warp.taint.keep(routine.places()),
    }
}

/// Runs a return of split `n`: its lanes go where each was called from.
pub fn ret(warp: &mut Warp, splits: &mut Vec<Split>, n: usize, env: &mut Env<'_>) -> Step {
    let here = splits[n];
    let mut left = here.mask;
    while left != 0 {
        let from = warp.frames.of(left.trailing_zeros() as usize).last().map(|activation| activation.from);
        let same = |l: &usize| warp.frames.of(*l).last().map(|activation| activation.from) == from;
        let group = lanes_of(left).filter(same).fold(0, |group, l| group | 1 << l);
        left &= !group;
        let Some(from) = from else { continue };
        let Control::Call(call) = &env.kernel.controls[env.kernel.insts[from as usize].x as usize] else { continue };
        leave(warp, group, call, env.kernel);
        let depth = lanes_of(group).map(|l| warp.frames.of(l).len() as u32).max().unwrap_or(0);
        splits.push(Split { pc: from + 1, mask: group, depth, ..here });
    }
    splits[n].mask = 0;
    Step::Choose
}

/// Ends the current activation of each lane of a group that the same call made.
fn leave(warp: &mut Warp, group: u32, call: &Call, kernel: &Kernel) {
    let caller = &kernel.routines[call.caller as usize];
    let mut restored = 0;
    for lane in lanes_of(group) {
        let Some(Activation { routine, base, kept, .. }) = warp.frames.pop(lane) else { continue };
        let to = warp.frames.base(lane);
        for (piece, variable) in call.results.iter().zip(&kernel.routines[routine as usize].frame.results) {
            warp.local.copy(lane, base + variable.offset, to + piece.at, piece.bytes);
        }
        let Some(kept) = kept else { continue };
        restored |= 1 << lane;
        for (slot, value) in caller.pairs.clone().step_by(2).zip(&kept.pairs) {
            warp.r64_mut(slot)[lane] = value[lane];
        }
        for (slot, value) in caller.singles.clone().zip(&kept.singles) {
            warp.r32_mut(slot)[lane] = value[lane];
        }
        for (pred, value) in caller.preds.clone().zip(&kept.preds) {
            warp.wp(pred, 1 << lane, *value);
        }
        warp.taint.back(kernel, caller.places(), &kept.taint, lane);
    }
    if restored != 0 && call.caller != 0 {
        addresses(warp, caller, restored);
    }
}
