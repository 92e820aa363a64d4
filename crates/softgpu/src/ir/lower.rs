//! Statements to a kernel: two passes of the decoders with liveness between them.

use super::cfg::blocks;
use super::decode::{FAMILIES, FIRST_FREE, Lower, RegInfo, Reject};
use super::layout::{Layout, Signature, layout};
use super::live::{Access, Liveness, liveness};
use super::slots::{Storage, assign, storage};
use super::text::Text;
use super::{Flows, Inst, Kernel, Unsupported, flow};
use crate::ptx::{Function, Module, Statement};

impl Kernel {
    /// Lowers the kernel `name`. `wide` asks for the AVX2 build of the operations, where the processor has it.
    pub fn lower(module: &Module, name: &str, wide: bool) -> Result<Kernel, Unsupported> {
        let whole = |why: String| Unsupported {
            kernel: name.to_string(),
            place: String::from("the whole kernel"),
            statement: String::new(),
            why,
        };
        let function = module.kernel(name).ok_or_else(|| whole("no such kernel".into()))?;
        if !function.defined {
            return Err(whole("it has no body".into()));
        }
        if function.cluster.is_some() {
            return Err(whole("thread-block clusters are not implemented".into()));
        }
        let Layout { symbols, signature } = layout(module, function).map_err(whole)?;
        let mut lower = Lower {
            // In the first pass every register has the same slot; it is not 0, so that guards are seen to be guards.
            regs: function.regs.iter().map(|ty| RegInfo { ty: *ty, slot: FIRST_FREE }).collect(),
            tables: &function.tables,
            symbols: &symbols,
            uses: Vec::new(),
            addresses: Vec::new(),
            defs: Vec::new(),
            fills: Default::default(),
            next_fill: usize::from(FIRST_FREE),
            pool: Vec::new(),
            controls: Vec::new(),
            wide,
            target: module.target.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0),
        };
        let refuse = |statement: &Statement, reject: Reject| Unsupported {
            kernel: name.to_string(),
            place: module.place(function, statement),
            statement: module.text(statement).split_whitespace().collect::<Vec<_>>().join(" "),
            why: reject.0,
        };

        // First pass: which registers are read and written, where control goes, which constants there are.
        let mut accesses = Vec::with_capacity(function.statements.len() + 1);
        let (insts, _) = pass(function, &mut lower, |access| accesses.push(access)).map_err(|(s, r)| refuse(s, r))?;
        let Liveness { spans, undefined } = liveness(&blocks(&insts, &lower.controls), &accesses, function.regs.len());
        let assignment = assign(&function.regs, &spans);

        // Slots: two that take unwanted results, constants, pairs, singles.
        let pairs_from = lower.next_fill;
        let singles_from = pairs_from + 2 * assignment.pairs;
        let slots = singles_from + assignment.singles;
        let preds = usize::from(FIRST_FREE) + assignment.preds;
        if slots.max(preds) > usize::from(u16::MAX) {
            return Err(whole(format!("{slots} register slots, more than 65535")));
        }
        for (info, number) in lower.regs.iter_mut().zip(&assignment.number) {
            info.slot = match storage(info.ty) {
                Storage::Pred => usize::from(FIRST_FREE) + number,
                Storage::Single => singles_from + number,
                Storage::Pair => pairs_from + 2 * number,
            } as u16;
        }

        let mut poisoned = Vec::new();
        for reg in &undefined {
            let RegInfo { ty, slot } = lower.regs[*reg as usize];
            match storage(ty) {
                Storage::Pred => {}
                Storage::Single => poisoned.push(slot),
                Storage::Pair => poisoned.extend([slot, slot + 1]),
            }
        }

        let undefined = undefined.iter().map(|reg| flow::of(lower.regs[*reg as usize])).collect();

        // Second pass: the same decoders, now with slots.
        lower.pool.clear();
        lower.controls.clear();
        let (insts, flows) = pass(function, &mut lower, |_| ()).map_err(|(s, r)| refuse(s, r))?;
        debug_assert_eq!(lower.next_fill, pairs_from);
        let mut fills: Vec<_> = lower.fills.iter().map(|(fill, slot)| (*slot, *fill)).collect();
        fills.sort_by_key(|(slot, _)| *slot);
        let Signature { params, param_bytes, shared, local_bytes } = signature;
        Ok(Kernel {
            name: name.to_string(),
            params,
            param_bytes,
            insts,
            pool: lower.pool,
            controls: lower.controls,
            fills,
            poisoned,
            undefined,
            flows,
            slots,
            preds,
            shared,
            local_bytes,
            max_threads: function.max_threads,
            required_threads: function.required_threads,
            text: Text::new(module, function),
        })
    }
}

/// Decodes every statement and adds the exit that falling off the end is.
fn pass<'f>(
    function: &'f Function,
    lower: &mut Lower<'_>,
    mut accessed: impl FnMut(Access),
) -> Result<(Vec<Inst>, Flows), (&'f Statement, Reject)> {
    let mut insts = Vec::with_capacity(function.statements.len() + 1);
    let mut flows = Flows::default();
    for statement in &function.statements {
        let inst = decode(statement, lower).map_err(|reject| (statement, reject))?;
        // The guard is the last that is asked for, and no source of results.
        let uses = &lower.uses[..lower.uses.len() - usize::from(statement.guard.is_some())];
        flows.push(statement, &inst, &lower.regs, (uses, &lower.addresses, &lower.defs));
        insts.push(inst);
        lower.addresses.clear();
        accessed(Access {
            uses: lower.uses.drain(..).map(|r| r.0).collect(),
            defs: lower.defs.drain(..).map(|r| r.0).collect(),
            guarded: statement.guard.is_some(),
        });
    }
    insts.push(lower.exit());
    accessed(Access::default());
    Ok((insts, flows))
}

fn decode(statement: &Statement, lower: &mut Lower<'_>) -> Result<Inst, Reject> {
    if statement.opcode.starts_with('.') {
        return Err(Reject(format!("unknown directive {}", statement.opcode)));
    }
    let decoded = FAMILIES.iter().find_map(|family| family(statement, lower));
    let mut inst = decoded.unwrap_or_else(|| Err(Reject(format!("unknown opcode {}", statement.op()))))?;
    if let Some(guard) = statement.guard {
        let (pred, _) = lower.src_pred(&crate::ptx::Operand::Reg(guard.pred))?;
        inst.guard = pred;
        inst.negate = guard.negate;
    }
    Ok(inst)
}
