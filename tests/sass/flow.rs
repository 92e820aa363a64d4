//! Which instructions of a kernel go round together: blocks, loops, and the way through a loop that does the most work.

use crate::listing::{Function, Instruction};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Instructions that are entered at the first and left behind the last.
struct Block {
    code: Range<usize>,
    next: Vec<usize>,
}

/// The blocks of a kernel that can be reached, each behind those that lead to it but for the way back of a loop.
pub struct Flow<'a> {
    code: &'a [Instruction<'a>],
    blocks: Vec<Block>,
}

/// A loop: the block that every way round goes through, all blocks of those ways, and which of these belong to loops inside.
pub struct Loop {
    head: usize,
    blocks: BTreeSet<usize>,
    inside: BTreeSet<usize>,
}

/// The labels a jump leads to, and whether it may be passed; `None` for other instructions. A call is a jump that may be passed.
fn jump<'a>(instruction: &Instruction<'a>) -> Option<(Vec<&'a str>, bool)> {
    let operands = instruction.operands;
    let label = || operands.rsplit_once("`(").map(|(_, label)| label.trim_end_matches(')')).into_iter().collect();
    match instruction.name() {
        // `BRA.DIV UR4, `(.L_x_9)` has its condition in front of the label.
        "BRA" | "JMP" => Some((label(), instruction.guarded || operands.contains(','))),
        "CALL" => Some((label(), true)),
        "BRX" | "BRXU" | "JMX" | "JMXU" => {
            let known = operands.split_once("BRANCH_TARGETS ").map(|(_, labels)| labels.trim_end_matches("\"*)"));
            let labels = known.unwrap_or_else(|| panic!("it is not known where {instruction:?} leads"));
            Some((labels.split(',').collect(), instruction.guarded))
        }
        "EXIT" | "RET" | "KILL" | "BPT" => Some((Vec::new(), instruction.guarded)),
        _ => None,
    }
}

impl<'a> Flow<'a> {
    pub fn of(function: &'a Function<'a>) -> Flow<'a> {
        let code = &function.code[..];
        // Subroutines that several kernels share stand elsewhere.
        let targets = |labels: Vec<&'a str>| labels.into_iter().filter_map(|label| function.labels.get(label).copied());
        let mut starts = BTreeSet::from([0]);
        for (at, instruction) in code.iter().enumerate() {
            if let Some((labels, _)) = jump(instruction) {
                starts.extend(targets(labels));
                starts.insert(at + 1);
            }
        }
        starts.retain(|start| *start < code.len());
        let starts: Vec<usize> = starts.into_iter().collect();
        let block_at = |at: usize| starts.binary_search(&at).ok();
        let ends = starts.iter().skip(1).copied().chain([code.len()]);
        let blocks: Vec<Block> = starts
            .iter()
            .zip(ends)
            .map(|(start, end)| {
                let (labels, passes) = jump(&code[end - 1]).unwrap_or((Vec::new(), true));
                let next = targets(labels).chain(passes.then_some(end)).filter_map(block_at);
                Block { code: *start..end, next: next.collect::<BTreeSet<usize>>().into_iter().collect() }
            })
            .collect();
        Flow { code, blocks: sorted(blocks) }
    }

    /// The block that comes before this one on every way to it, nearest first, per block; the first one's is itself.
    fn dominators(&self) -> Vec<usize> {
        let mut before = vec![Vec::new(); self.blocks.len()];
        for (at, block) in self.blocks.iter().enumerate() {
            block.next.iter().for_each(|next| before[*next].push(at));
        }
        let mut nearest: Vec<Option<usize>> = vec![None; self.blocks.len()];
        nearest[0] = Some(0);
        loop {
            let mut changed = false;
            for at in 1..self.blocks.len() {
                let known = before[at].iter().copied().filter(|block| nearest[*block].is_some());
                let common = known.reduce(|mut a, mut b| {
                    // A dominator has the smaller number.
                    while a != b {
                        let later = if a > b { &mut a } else { &mut b };
                        *later = nearest[*later].expect("it is known");
                    }
                    a
                });
                changed |= common != nearest[at];
                nearest[at] = common;
            }
            if !changed {
                return nearest.into_iter().map(|block| block.expect("every block can be reached")).collect();
            }
        }
    }

    /// Every loop, those around others first. Jumps back into code that can be reached around their target, as those of paths
    /// that the compiler put aside, make no loop.
    pub fn loops(&self) -> Vec<Loop> {
        let nearest = self.dominators();
        let dominates = |head: usize, mut at: usize| {
            while at > head {
                at = nearest[at];
            }
            at == head
        };
        let mut before = vec![Vec::new(); self.blocks.len()];
        let mut loops: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for (at, block) in self.blocks.iter().enumerate() {
            block.next.iter().for_each(|next| before[*next].push(at));
        }
        for (at, block) in self.blocks.iter().enumerate() {
            for head in block.next.iter().filter(|head| dominates(**head, at)) {
                let body = loops.entry(*head).or_insert_with(|| BTreeSet::from([*head]));
                let mut found = vec![at];
                while let Some(at) = found.pop() {
                    if body.insert(at) {
                        found.extend(&before[at]);
                    }
                }
            }
        }
        let inside = |head: &usize, blocks: &BTreeSet<usize>| {
            let inner = loops.iter().filter(|(other, _)| *other != head && blocks.contains(other));
            inner.flat_map(|(_, blocks)| blocks.iter().copied()).collect()
        };
        let whole = |(head, blocks): (&usize, &BTreeSet<usize>)| Loop {
            head: *head,
            blocks: blocks.clone(),
            inside: inside(head, blocks),
        };
        let mut all: Vec<Loop> = loops.iter().map(whole).collect();
        all.sort_by_key(|l| (Reverse(l.blocks.len()), l.head));
        all
    }

    /// The instructions of the way round a loop that weighs most, without those of loops inside. `weight` is of one instruction;
    /// weights are added and compared number by number.
    pub fn heaviest<const N: usize>(
        &self,
        of: &Loop,
        weight: impl Fn(&Instruction) -> [i64; N],
    ) -> Vec<Instruction<'a>> {
        let add = |a: [i64; N], b: [i64; N]| std::array::from_fn(|i| a[i] + b[i]);
        let own = |at: usize| if of.inside.contains(&at) { &[] } else { &self.code[self.blocks[at].code.clone()] };
        // By block: the weight of the best way from the head to its end, and the block before it on that way.
        let mut best: BTreeMap<usize, ([i64; N], usize)> = BTreeMap::from([(of.head, ([0; N], of.head))]);
        for at in &of.blocks {
            let before = of.blocks.range(..at).filter(|from| self.blocks[**from].next.contains(at));
            let before = before.filter_map(|from| best.get(from).map(|(weight, _)| (*weight, *from))).max();
            if let Some((weight_before, from)) = before.or_else(|| best.get(at).copied()) {
                best.insert(*at, (own(*at).iter().map(&weight).fold(weight_before, add), from));
            }
        }
        let goes_back = |at: &&usize| self.blocks[**at].next.contains(&of.head);
        let mut at = *of.blocks.iter().filter(goes_back).max_by_key(|at| best.get(at)).expect("a loop goes back");
        let mut way = vec![at];
        while at != of.head {
            at = best[&at].1;
            way.push(at);
        }
        way.iter().rev().flat_map(|at| own(*at)).copied().collect()
    }
}

/// The blocks that can be reached from the first, each behind those that lead to it but for ways back.
fn sorted(blocks: Vec<Block>) -> Vec<Block> {
    let mut seen = vec![false; blocks.len()];
    let (mut order, mut open) = (Vec::new(), vec![(0, 0)]);
    if blocks.is_empty() {
        return blocks;
    }
    seen[0] = true;
    while let Some((at, taken)) = open.last_mut() {
        let Some(next) = blocks[*at].next.get(*taken).copied() else {
            order.push(*at);
            open.pop();
            continue;
        };
        *taken += 1;
        if !seen[next] {
            seen[next] = true;
            open.push((next, 0));
        }
    }
    order.reverse();
    let number: BTreeMap<usize, usize> = order.iter().enumerate().map(|(number, at)| (*at, number)).collect();
    let mut blocks: Vec<Option<Block>> = blocks.into_iter().map(Some).collect();
    order
        .iter()
        .map(|at| {
            let block = blocks[*at].take().expect("each is in the order once");
            Block { next: block.next.iter().map(|next| number[next]).collect(), ..block }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listing::snippet;

    /// What the ways round all loops consist of, where an `HMMA` weighs more than any number of other instructions and of those
    /// the fewest are best.
    fn ways(text: &str) -> Vec<String> {
        let function = snippet(text);
        let flow = Flow::of(&function);
        let weight = |i: &Instruction| [i64::from(i.name() == "HMMA"), -1];
        let way = |l: &Loop| flow.heaviest(l, weight).iter().map(|i| i.name()).collect::<Vec<_>>().join(" ");
        flow.loops().iter().map(way).collect()
    }

    #[test]
    fn a_loop_goes_round_its_head() {
        assert_eq!(ways("MOV R1, R2\n.L_x_0:\nFADD R1, R1, R2\n@P0 BRA `(.L_x_0)\nEXIT"), ["FADD BRA"]);
        assert!(ways("FADD R1, R1, R2\n@P0 BRA `(.L_x_0)\nFMUL R1, R1, R2\n.L_x_0:\nEXIT").is_empty());
        // Two ways back, and a loop that never ends.
        let text = ".L_x_0:\nFADD R1, R1, R2\n@P0 BRA `(.L_x_0)\nFMUL R1, R1, R2\nHMMA.16816.F32 R0, R4, R8, R0\nBRA `(.L_x_0)";
        assert_eq!(ways(text), ["FADD BRA FMUL HMMA BRA"]);
    }

    #[test]
    fn the_way_with_the_most_work_is_taken() {
        let text = "
            .L_x_0:
            ISETP.NE.AND P0, PT, R1, RZ, PT
            @P0 BRA `(.L_x_1)
            FADD R1, R1, R2
            HMMA.16816.F32 R0, R4, R8, R0
            BRA `(.L_x_2)
            .L_x_1:
            MOV R1, R2
            .L_x_2:
            @P1 BRA `(.L_x_3)
            FMUL R1, R1, R2
            FMUL R1, R1, R2
            .L_x_3:
            @P2 BRA `(.L_x_0)
            EXIT";
        assert_eq!(ways(text), ["ISETP BRA FADD HMMA BRA BRA BRA"]);
    }

    #[test]
    fn a_loop_inside_is_one_of_its_own() {
        let text = "
            .L_x_0:
            LDG.E R4, [R2.64]
            .L_x_1:
            HMMA.16816.F32 R0, R4, R8, R0
            @P0 BRA `(.L_x_1)
            STG.E [R2.64], R0
            @P1 BRA `(.L_x_0)
            EXIT";
        assert_eq!(ways(text), ["LDG STG BRA", "HMMA BRA"]);
    }

    #[test]
    fn a_jump_back_from_aside_is_no_loop() {
        // .L_x_2 stands behind the end and returns into the middle; nothing goes round.
        let text = "
            BRA.DIV UR4, `(.L_x_2)
            SHFL.BFLY PT, R4, R4, 0x1, 0x1f
            .L_x_1:
            FADD R1, R1, R2
            EXIT
            .L_x_2:
            WARPSYNC.COLLECTIVE R4, `(.L_x_3)
            .L_x_3:
            BRA `(.L_x_1)";
        assert!(ways(text).is_empty());
    }

    #[test]
    fn a_switch_leads_to_all_its_cases() {
        let text = "
            .L_x_0:
            BRXU UR8 -0xa70 (*\"BRANCH_TARGETS .L_x_1,.L_x_2\"*)
            .L_x_1:
            FADD R1, R1, R2
            BRA `(.L_x_3)
            .L_x_2:
            HMMA.16816.F32 R0, R4, R8, R0
            .L_x_3:
            CALL.REL.NOINC `($__internal_0_$__cuda_sm20_div_u64)
            @P0 CALL.REL.NOINC `(.L_x_4)
            BRA `(.L_x_0)
            .L_x_4:
            EXIT";
        assert_eq!(ways(text), ["BRXU HMMA CALL CALL BRA"]);
    }
}
