//! Basic blocks of a kernel.

use std::ops::Range;

use super::{Control, Inst, Kind};

/// A maximal run of instructions that is entered only at its start and left only at its end.
#[derive(Debug, PartialEq, Eq)]
pub struct Block {
    /// Its instructions.
    pub range: Range<usize>,
    /// Numbers of the blocks that may follow.
    pub next: Vec<usize>,
}

/// Where control may go after instruction `at`: the targets, and whether it may fall through.
pub fn successors<'a>(inst: &Inst, controls: &'a [Control]) -> (&'a [u32], bool) {
    if inst.kind != Kind::Control {
        return (&[], true);
    }
    let guarded = inst.guard != super::decode::TRUE_PRED || inst.negate;
    match &controls[inst.x as usize] {
        Control::Branch { target } => (std::slice::from_ref(target), guarded),
        Control::Table { targets } => (targets, guarded),
        Control::Exit | Control::Return => (&[], guarded),
        // A trap ends the launch; code behind it is reached by other lanes only.
        Control::Trap => (&[], guarded),
        Control::Barrier(_) | Control::Yield | Control::Call(_) => (&[], true),
    }
}

/// The blocks in text order. `insts` ends with an unguarded exit, and every target lies inside.
pub fn blocks(insts: &[Inst], controls: &[Control]) -> Vec<Block> {
    let mut leader = vec![false; insts.len() + 1];
    leader[0] = true;
    for (at, inst) in insts.iter().enumerate() {
        let (targets, falls) = successors(inst, controls);
        for target in targets {
            leader[*target as usize] = true;
        }
        if !targets.is_empty() || !falls {
            leader[at + 1] = true;
        }
    }
    let starts: Vec<usize> = (0..insts.len()).filter(|at| leader[*at]).collect();
    let block_of = |at: usize| starts.partition_point(|s| *s <= at) - 1;
    starts
        .iter()
        .enumerate()
        .map(|(n, start)| {
            let end = starts.get(n + 1).copied().unwrap_or(insts.len());
            let (targets, falls) = successors(&insts[end - 1], controls);
            let mut next: Vec<usize> = targets.iter().map(|t| block_of(*t as usize)).collect();
            if falls && end < insts.len() {
                next.push(n + 1);
            }
            Block { range: *start..end, next }
        })
        .collect()
}
