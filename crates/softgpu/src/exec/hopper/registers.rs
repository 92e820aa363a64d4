//! `setmaxnreg`: warpgroups that give registers to each other.
//!
//! How many registers a kernel starts with is the assembler's choice: here it is what its launch bounds leave to a thread.

use super::super::mma::whole_warp;
use super::super::{Env, Warp, ops};
use super::product::GROUP;
use crate::check::{Detector, Finding};
use crate::ir::Inst;

/// Registers of a multiprocessor.
const ALL: u32 = 65_536;
/// The most registers that a thread starts with.
const MOST: u32 = 255;

ops! {
    /// `setmaxnreg`: to `x`; up where `y` is 1.
    SET = |warp, env, inst, mask| set(warp, env, inst, mask);
}

/// The registers of a CTA's warps, once one of them has changed theirs.
#[derive(Default)]
pub(crate) struct Registers {
    /// Of each warp that changed them: how many its threads have, and where.
    warps: Vec<Option<(u32, u32)>>,
}

/// Registers of each thread at the start.
fn start(env: &Env<'_>) -> Option<u32> {
    let [x, y, z] = env.kernel.required_threads.or(env.kernel.max_threads)?;
    let threads = (x * y * z).max(1).next_multiple_of(32);
    Some((ALL / threads).min(MOST) & !7)
}

fn set(warp: &mut Warp, env: &mut Env<'_>, inst: &Inst, mask: u32) {
    whole_warp(warp, env, mask);
    let (to, up) = (inst.x, inst.y == 1);
    let Some(start) = start(env) else {
        return find(warp, env, "setmaxnreg in a kernel without launch bounds: the assembler ignores it".into());
    };
    let warps = &mut env.beside.registers.warps;
    warps.resize(env.launch.block.iter().product::<u32>().div_ceil(32) as usize, None);
    let here = &mut warps[warp.index as usize];
    let before = here.map_or(start, |(registers, _)| registers);
    *here = Some((to, env.pc));
    if up && to < before || !up && to > before {
        let way = if up { "up" } else { "down" };
        find(warp, env, format!("setmaxnreg {way} to {to} registers, of {before}"));
    }
}

fn find(warp: &Warp, env: &mut Env<'_>, text: String) {
    if !env.seen(Detector::Product, None) {
        let at = env.at(warp, 0);
        env.find(Finding::new(Detector::Product, at, text));
    }
}

/// All threads of the CTA have exited: whether there were registers for all of them, and warpgroups agreed.
pub(super) fn end(env: &mut Env<'_>) {
    let Registers { warps } = std::mem::take(&mut env.beside.registers);
    let Some(start) = start(env).filter(|_| !warps.is_empty()) else { return };
    let of = |warp: &Option<(u32, u32)>| warp.map_or(start, |(registers, _)| registers);
    let (asked, all) = (warps.iter().map(of).sum::<u32>(), start * warps.len() as u32);
    let most = warps.iter().enumerate().filter_map(|(n, warp)| warp.map(|(r, pc)| (r, n as u32, pc))).max();
    let Some((_, n, pc)) = most else { return };
    let text = if asked > all {
        format!(
            "the warps ask for {} registers for each of 32 threads, and the block has {}: on a GPU setmaxnreg waits for ever",
            asked, all
        )
    } else if warps.chunks(GROUP as usize).any(|group| group.iter().any(|warp| of(warp) != of(&group[0]))) {
        "the warps of a warpgroup do not execute the same setmaxnreg".to_string()
    } else {
        return;
    };
    if !env.seen_at(Detector::Product, pc, None) {
        let at = env.kernel.describe(pc, env.cta, n, 0);
        env.find(Finding::new(Detector::Product, at, text));
    }
}
