//! Statements to a kernel: two passes of the decoders with liveness between them.

use std::collections::HashMap;

use super::cfg::blocks;
use super::decode::{FAMILIES, FIRST_FREE, Lower, RegInfo, Reject, Scene};
use super::flow::is_product;
use super::layout::{Signature, layout};
use super::live::{Access, Liveness, Span, liveness};
use super::reach::Reach;
use super::routine::{Routine, Undefined};
use super::slots::{Assignment, Storage, assign, storage};
use super::text::Text;
use super::{Control, Flows, Inst, Kernel, Source, Unsupported};
use crate::exec::hopper::product;
use crate::ptx::{Function, Module, Statement, Type};

/// What the first pass learns of a function.
struct Needs {
    assignment: Assignment,
    /// Registers that some path reads before it writes them.
    undefined: Vec<u32>,
}

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
        let reach = Reach::of(module, function);
        let layout = layout(module, &reach).map_err(whole)?;
        let refuse = |(function, statement, reject): (&Function, &Statement, Reject)| Unsupported {
            kernel: name.to_string(),
            place: module.place(function, statement),
            statement: module.text(statement).split_whitespace().collect::<Vec<_>>().join(" "),
            why: reject.0,
        };
        let nothing = HashMap::new();
        let target = module.target.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0);
        let mut lower = Lower::new(Scene::module(&layout.symbols, &nothing, &reach), wide, target);
        let mut flows = Flows::default();

        // First pass: which registers are read and written, where control goes, which constants there are.
        let mut needs = Vec::with_capacity(reach.functions.len());
        for (number, function) in reach.functions.iter().enumerate() {
            lower.scene.enter(number, function, &layout.own[number]);
            // Every register has the same slot; it is not 0, so that guards are seen to be guards.
            lower.regs = function.regs.iter().map(|ty| RegInfo { ty: *ty, slot: FIRST_FREE }).collect();
            let mut accesses = Vec::with_capacity(function.statements.len() + 1);
            let insts = pass(function, &mut lower, &mut flows, |access| accesses.push(access)).map_err(refuse)?;
            let graph = blocks(&insts, &lower.controls);
            let Liveness { mut spans, undefined } = liveness(&graph, &accesses, function.regs.len());
            lone(function, &accesses, &mut spans);
            needs.push(Needs { assignment: assign(&function.regs, &spans), undefined });
        }

        // Slots: two that take unwanted results, constants, then pairs and singles of each function.
        let (constants, mut slots, mut preds) = (lower.next_fill, lower.next_fill, usize::from(FIRST_FREE));
        let mut routines = Vec::with_capacity(needs.len());
        let mut registers = Vec::with_capacity(needs.len());
        for ((needs, function), frame) in needs.iter().zip(&reach.functions).zip(layout.frames) {
            let Assignment { number, pairs, singles, preds: own_preds } = &needs.assignment;
            let (first, first_single, first_pred) = (slots, slots + 2 * pairs, preds);
            slots = first_single + singles;
            preds += own_preds;
            if slots.max(preds) > usize::from(u16::MAX) {
                return Err(whole(format!("{slots} register slots, more than 65535")));
            }
            let info = |(ty, number): (&Type, &usize)| {
                let slot = match storage(*ty) {
                    Storage::Pred => first_pred + number,
                    Storage::Single => first_single + number,
                    Storage::Pair => first + 2 * number,
                };
                RegInfo { ty: *ty, slot: slot as u16 }
            };
            let own: Vec<RegInfo> = function.regs.iter().zip(number).map(info).collect();
            let mut undefined = Undefined::default();
            for reg in &needs.undefined {
                let RegInfo { ty, slot } = own[*reg as usize];
                match storage(ty) {
                    Storage::Pred => undefined.preds.push(slot),
                    Storage::Single => undefined.singles.push(slot),
                    Storage::Pair => undefined.pairs.push(slot),
                }
            }
            routines.push(Routine {
                name: function.name.clone(),
                index: module.functions.iter().position(|f| std::ptr::eq(f, *function)).unwrap_or_default() as u32,
                entry: 0,
                frame,
                pairs: first as u16..first_single as u16,
                singles: first_single as u16..slots as u16,
                preds: first_pred as u16..preds as u16,
                undefined,
                addresses: Vec::new(),
            });
            registers.push(own);
        }

        // Second pass: the same decoders, now with slots.
        lower.pool.clear();
        lower.controls.clear();
        flows = Flows::default();
        let mut insts = Vec::new();
        let mut text = Text::default();
        for ((number, function), own) in reach.functions.iter().enumerate().zip(registers) {
            lower.scene.enter(number, function, &layout.own[number]);
            lower.regs = own;
            let (entry, mine) = (insts.len() as u32, lower.controls.len());
            insts.extend(pass(function, &mut lower, &mut flows, |_| ()).map_err(refuse)?);
            lower.controls[mine..].iter_mut().for_each(|control| relocate(control, entry));
            text.add(module, function, number == 0);
            routines[number].entry = entry;
        }
        debug_assert_eq!(lower.next_fill, constants);
        let products = flows.products();
        product::watched(&mut insts, &flows, &products);
        let mut fills: Vec<_> = lower.fills.iter().map(|(fill, slot)| (*slot, *fill)).collect();
        fills.sort_by_key(|(slot, _)| *slot);
        for (slot, fill) in &fills {
            if let Source::Frame { routine, offset } = fill.source {
                routines[routine as usize].addresses.push((*slot, offset, fill.pair));
            }
        }
        let Undefined { singles, pairs, .. } = &routines[0].undefined;
        let poisoned = pairs.iter().flat_map(|slot| [*slot, slot + 1]).chain(singles.iter().copied()).collect();
        let undefined = routines[0].undefined.places().collect();
        let Signature { params, param_bytes, shared, local_bytes } = layout.signature;
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
            products,
            flows,
            slots,
            preds,
            shared,
            local_bytes,
            routines,
            max_threads: function.max_threads,
            required_threads: function.required_threads,
            cluster: function.cluster.filter(|sizes| *sizes != [0; 3]),
            text,
        })
    }
}

/// Registers of products of warpgroups share their slots with no others: a product under way holds them beyond the last
/// statement that names them.
fn lone(function: &Function, accesses: &[Access], spans: &mut [Option<Span>]) {
    let products = function.statements.iter().zip(accesses).filter(|(statement, _)| is_product(statement));
    for reg in products.flat_map(|(_, access)| access.uses.iter().chain(&access.defs)) {
        spans[*reg as usize] = Some(Span { start: 0, end: accesses.len() as u32 });
    }
}

/// Targets are counted from the start of their function: now from that of the kernel.
fn relocate(control: &mut Control, entry: u32) {
    match control {
        Control::Branch { target } => *target += entry,
        Control::Table { targets } => targets.iter_mut().for_each(|target| *target += entry),
        _ => {}
    }
}

/// Decodes every statement and adds the return that falling off the end is.
fn pass<'f>(
    function: &'f Function,
    lower: &mut Lower<'_>,
    flows: &mut Flows,
    mut accessed: impl FnMut(Access),
) -> Result<Vec<Inst>, (&'f Function, &'f Statement, Reject)> {
    let mut insts = Vec::with_capacity(function.statements.len() + 1);
    for statement in &function.statements {
        let inst = decode(statement, lower).map_err(|reject| (function, statement, reject))?;
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
    insts.push(lower.end());
    flows.end();
    accessed(Access::default());
    Ok(insts)
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
