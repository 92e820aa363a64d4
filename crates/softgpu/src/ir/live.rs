//! Liveness: for each register the span of instructions over which its value may still be needed.

use super::cfg::Block;

/// What one instruction does to registers (by number).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Registers read.
    pub uses: Vec<u32>,
    /// Registers written.
    pub defs: Vec<u32>,
    /// Whether the write may leave some lanes alone although they run: then what was there before is still needed.
    pub guarded: bool,
}

/// First and last instruction at which a register must keep its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First.
    pub start: u32,
    /// Last, inclusive.
    pub end: u32,
}

struct Bits(Vec<u64>);

impl Bits {
    fn new(n: usize) -> Bits {
        Bits(vec![0; n.div_ceil(64)])
    }
    fn set(&mut self, i: u32) {
        self.0[i as usize / 64] |= 1 << (i % 64);
    }
    fn has(&self, i: u32) -> bool {
        self.0[i as usize / 64] >> (i % 64) & 1 == 1
    }
    fn each(&self) -> impl Iterator<Item = u32> {
        self.0.iter().enumerate().flat_map(|(w, bits)| {
            let mut left = *bits;
            std::iter::from_fn(move || {
                (left != 0).then(|| {
                    let i = left.trailing_zeros();
                    left &= left - 1;
                    w as u32 * 64 + i
                })
            })
        })
    }
}

/// What liveness says about the registers of a kernel.
#[derive(Debug, PartialEq, Eq)]
pub struct Liveness {
    /// The span of every register; `None` for one that no instruction names.
    pub spans: Vec<Option<Span>>,
    /// Registers that some path reads before it writes them.
    pub undefined: Vec<u32>,
}

/// Solves liveness.
///
/// A span is the hull of all positions where the register is live, so two registers whose spans do not meet can share
/// a slot on every path. Text order alone is not enough: a value made in the first trip of a loop and read in all of
/// them is live around the back edge, over positions before its only definition.
pub fn liveness(blocks: &[Block], accesses: &[Access], registers: usize) -> Liveness {
    let mut spans: Vec<Option<Span>> = vec![None; registers];
    let mut extend = |reg: u32, at: usize| {
        let at = at as u32;
        let span = spans[reg as usize].get_or_insert(Span { start: at, end: at });
        span.start = span.start.min(at);
        span.end = span.end.max(at);
    };
    // Upward-exposed reads and complete writes of each block.
    let mut reads: Vec<Bits> = Vec::with_capacity(blocks.len());
    let mut writes: Vec<Bits> = Vec::with_capacity(blocks.len());
    for block in blocks {
        let (mut read, mut written) = (Bits::new(registers), Bits::new(registers));
        for at in block.range.clone() {
            let access = &accesses[at];
            let kept = if access.guarded { access.defs.as_slice() } else { &[] };
            for reg in access.uses.iter().chain(kept) {
                extend(*reg, at);
                if !written.has(*reg) {
                    read.set(*reg);
                }
            }
            for reg in &access.defs {
                extend(*reg, at);
                if !access.guarded {
                    written.set(*reg);
                }
            }
        }
        reads.push(read);
        writes.push(written);
    }
    let (live_in, live_out) = flow(blocks, &reads, &writes, registers);
    for (n, block) in blocks.iter().enumerate() {
        for reg in live_in[n].each() {
            extend(reg, block.range.start);
        }
        for reg in live_out[n].each() {
            extend(reg, block.range.end - 1);
        }
    }
    Liveness { spans, undefined: live_in.first().map_or_else(Vec::new, |bits| bits.each().collect()) }
}

/// The classic backward dataflow, to its fixed point.
fn flow(blocks: &[Block], reads: &[Bits], writes: &[Bits], registers: usize) -> (Vec<Bits>, Vec<Bits>) {
    let fresh = || blocks.iter().map(|_| Bits::new(registers)).collect::<Vec<_>>();
    let (mut live_in, mut live_out) = (fresh(), fresh());
    let mut changed = true;
    while changed {
        changed = false;
        for n in (0..blocks.len()).rev() {
            for word in 0..live_out[n].0.len() {
                let out = blocks[n].next.iter().fold(0, |bits, next| bits | live_in[*next].0[word]);
                let new = reads[n].0[word] | (out & !writes[n].0[word]);
                changed |= new != live_in[n].0[word];
                live_out[n].0[word] = out;
                live_in[n].0[word] = new;
            }
        }
    }
    (live_in, live_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(uses: &[u32], defs: &[u32]) -> Access {
        Access { uses: uses.to_vec(), defs: defs.to_vec(), guarded: false }
    }

    /// ```text
    /// 0: loop head, writes 1        1: branch around 2       2: writes 0 (only definition, first trip)
    /// 3: reads 0 and 1, back to 0   4: end
    /// ```
    #[test]
    fn a_value_made_in_a_branch_of_a_loop_lives_around_the_loop() {
        let blocks = [
            Block { range: 0..2, next: vec![2, 1] },
            Block { range: 2..3, next: vec![2] },
            Block { range: 3..4, next: vec![0, 3] },
            Block { range: 4..5, next: vec![] },
        ];
        let accesses = [access(&[], &[1]), access(&[], &[]), access(&[], &[0]), access(&[0, 1], &[]), access(&[], &[])];
        let Liveness { spans, undefined } = liveness(&blocks, &accesses, 3);
        // The first trip may skip the definition, as far as the graph says.
        assert_eq!(undefined, [0]);
        assert_eq!(spans[0], Some(Span { start: 0, end: 3 }));
        assert_eq!(spans[1], Some(Span { start: 0, end: 3 }));
        assert_eq!(spans[2], None);
    }

    #[test]
    fn a_guarded_write_keeps_what_was_there() {
        let blocks = [Block { range: 0..4, next: vec![] }];
        let mut accesses = [access(&[], &[0]), access(&[], &[1]), access(&[], &[0]), access(&[0], &[])];
        let plain = liveness(&blocks, &accesses, 2);
        assert_eq!((plain.spans[1], plain.undefined), (Some(Span { start: 1, end: 1 }), vec![]));
        accesses[2].guarded = true;
        assert_eq!(liveness(&blocks, &accesses, 2).spans[0], Some(Span { start: 0, end: 3 }));
        accesses[0].guarded = true;
        assert_eq!(liveness(&blocks, &accesses, 2).undefined, [0]);
    }
}
