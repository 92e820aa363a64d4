//! Which registers each instruction reads and writes, for the check that follows undefined values.
//!
//! Decoders know nothing of this: it is put together from the registers they ask for, and the opcode tells how results
//! depend on sources. An opcode without a rule of its own works lane by lane.

use super::decode::RegInfo;
use super::slots::{Storage, storage};
use super::{Inst, Kind};
use crate::ptx::{Reg, Statement, Type};

/// A register as undefined values are followed: a pair counts as its first slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A slot, or the first of a pair.
    Slot(u16),
    /// A predicate.
    Pred(u16),
    /// The carry of `add.cc` and its kin.
    Carry,
}

/// How the results of an instruction depend on what it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Results of a lane depend on all sources of the same lane.
    Lanes,
    /// `mov`: bytes go where they go; of values one after the other, or to results one after the other.
    Copy {
        /// All of them together.
        bytes: u16,
    },
    /// `selp`: on the predicate and on the chosen source.
    Select,
    /// Logic of predicates: a false operand of `and` and a true one of `or` settle the result alone.
    Logic {
        /// Whether it is `and`; else `or`.
        and: bool,
    },
    /// `setp` with a third operand, which settles the result as in [`Rule::Logic`].
    Compare,
    /// `shfl`: on the source of another lane.
    Shuffle,
    /// Results of every lane depend on the sources of all: votes, matches, reductions, `mma`.
    Together,
    /// `wgmma`: as [`Rule::Together`]; the last values, as many as results, count only where the predicate `d` says so.
    Product,
    /// Matrices from or to memory: the first lanes give addresses, and results of every lane depend on all rows.
    Rows,
    /// Results come from memory, and only the operation knows whether they are defined.
    Load,
    /// Values go to memory: the operation looks at them.
    Store,
    /// Values go to memory, and results come from it.
    Atomic,
    /// Every source decides where control goes, or who waits for whom.
    Decide,
}

#[derive(Clone, Copy)]
struct Flow {
    rule: Rule,
    /// Where its places begin: values read, then addresses, then results.
    start: u32,
    values: u16,
    addresses: u16,
    results: u16,
}

/// The flow of every instruction of a kernel.
#[derive(Clone, Default)]
pub struct Flows {
    each: Vec<Flow>,
    places: Vec<Place>,
}

impl Flows {
    /// The next instruction. `addresses` says which of `uses` are parts of addresses.
    pub(super) fn push(
        &mut self,
        statement: &Statement,
        inst: &Inst,
        regs: &[RegInfo],
        (uses, addresses, defs): (&[Reg], &[usize], &[Reg]),
    ) {
        let place = |reg: &Reg| of(regs[reg.0 as usize]);
        let start = self.places.len() as u32;
        let carries = |op: &str| matches!(op, "addc" | "subc" | "madc");
        let is_address = |at: &usize| addresses.contains(at);
        self.places.extend((0..uses.len()).filter(|at| !is_address(at)).map(|at| place(&uses[at])));
        if carries(statement.op()) {
            self.places.push(Place::Carry);
        }
        let values = self.places.len() as u32 - start;
        self.places.extend((0..uses.len()).filter(is_address).map(|at| place(&uses[at])));
        let addressed = self.places.len() as u32 - start - values;
        self.places.extend(defs.iter().map(place));
        if statement.has("cc") {
            self.places.push(Place::Carry);
        }
        let results = self.places.len() as u32 - start - values - addressed;
        let rule = rule(statement, inst);
        let [values, addresses, results] = [values, addressed, results].map(|n| n as u16);
        self.each.push(Flow { rule, start, values, addresses, results });
    }

    /// The end of a function, which reads and writes nothing.
    pub(super) fn end(&mut self) {
        let start = self.places.len() as u32;
        self.each.push(Flow { rule: Rule::Lanes, start, values: 0, addresses: 0, results: 0 });
    }

    /// How results of instruction `pc` depend on what it reads.
    pub fn rule(&self, pc: u32) -> Rule {
        self.each.get(pc as usize).map_or(Rule::Lanes, |flow| flow.rule)
    }

    /// Registers read as values; not the guard.
    pub fn values(&self, pc: u32) -> &[Place] {
        self.range(pc, |flow| (0, flow.values))
    }

    /// Registers that are parts of addresses.
    pub fn addresses(&self, pc: u32) -> &[Place] {
        self.range(pc, |flow| (flow.values, flow.addresses))
    }

    /// Registers written.
    pub fn results(&self, pc: u32) -> &[Place] {
        self.range(pc, |flow| (flow.values + flow.addresses, flow.results))
    }

    /// Whether an instruction is a product of a warpgroup.
    pub fn is_product(&self, pc: u32) -> bool {
        self.rule(pc) == Rule::Product
    }

    /// The slots of 32 bits that products of warpgroups read or write; ascending.
    pub(super) fn products(&self) -> Vec<u16> {
        let products = (0..self.each.len() as u32).filter(|pc| self.is_product(*pc));
        let held = |pc: u32| {
            let (values, results) = (self.values(pc), self.results(pc));
            let others = values.len() - results.len();
            // A predicate and two descriptors, read when the product is issued; or four registers behind at most two others.
            let factors = if others >= 4 { &values[others - 4..others] } else { &[] };
            factors.iter().chain(results)
        };
        let slot = |place: &Place| if let Place::Slot(slot) = place { Some(*slot) } else { None };
        let mut slots: Vec<u16> = products.flat_map(|pc| held(pc).filter_map(slot).collect::<Vec<_>>()).collect();
        slots.sort_unstable();
        slots.dedup();
        slots
    }

    fn range(&self, pc: u32, part: impl Fn(&Flow) -> (u16, u16)) -> &[Place] {
        let Some(flow) = self.each.get(pc as usize) else { return &[] };
        let (skip, count) = part(flow);
        let start = flow.start as usize + usize::from(skip);
        &self.places[start..start + usize::from(count)]
    }
}

/// The place of a register.
fn of(info: RegInfo) -> Place {
    match storage(info.ty) {
        Storage::Pred => Place::Pred(info.slot),
        Storage::Single | Storage::Pair => Place::Slot(info.slot),
    }
}

/// Whether a statement is a product of a warpgroup.
pub(super) fn is_product(statement: &Statement) -> bool {
    statement.op() == "wgmma" && statement.has("mma_async")
}

/// A conversion between integers keeps the low bytes: padding that was moved beside a value is cut off again.
fn convert(statement: &Statement) -> Rule {
    let types: Vec<Type> = statement.modifiers().filter_map(Type::parse).collect();
    let integer = |ty: Type| !ty.is_float() && ty != Type::Pred;
    match types[..] {
        // A sign that is extended makes the upper bytes depend on the lower ones.
        [to, from] if integer(to) && integer(from) && !(to.bits() > from.bits() && from.is_signed()) => {
            let bytes = to.bytes().min(from.bytes()) as u16;
            if statement.has("sat") { Rule::Lanes } else { Rule::Copy { bytes } }
        }
        _ => Rule::Lanes,
    }
}

fn rule(statement: &Statement, inst: &Inst) -> Rule {
    let effect = inst.kind == Kind::Effect;
    match statement.op() {
        "mov" => match statement.last_type() {
            Some(ty) if ty != Type::Pred => Rule::Copy { bytes: ty.bytes() as u16 },
            _ => Rule::Lanes,
        },
        "cvt" => convert(statement),
        "selp" => Rule::Select,
        "and" | "or" if statement.has(Type::Pred.name()) => Rule::Logic { and: statement.op() == "and" },
        "setp" | "set" => Rule::Compare,
        "shfl" => Rule::Shuffle,
        "vote" | "match" | "redux" | "mma" | "movmatrix" => Rule::Together,
        "wgmma" if is_product(statement) => Rule::Product,
        "ldmatrix" | "stmatrix" => Rule::Rows,
        "ld" | "ldu" if effect => Rule::Load,
        "st" if effect => Rule::Store,
        "atom" | "red" => Rule::Atomic,
        "bra" | "brx" | "call" | "bar" | "barrier" => Rule::Decide,
        _ => Rule::Lanes,
    }
}
