//! Products of warpgroups under way: which registers they hold, and what the warps of a warpgroup have in common.
//!
//! A product is computed when it is issued, and its sums come to registers at the wait for its group. Until then they are
//! poison, and whoever touches them, or changes the factors in registers, is reported. So is a product that uses
//! registers which something else used since the last `wgmma.fence`.

use super::super::warp::LANES;
use super::super::{Env, Warp};
use crate::check::{Detector, Finding};
use crate::ir::{Inst, Place};
use std::collections::{BTreeMap, VecDeque};

/// Warps of a warpgroup.
pub(super) const GROUP: u32 = 4;

/// What a register has to do with products.
#[derive(Clone, Copy, Default)]
struct Register {
    /// The group (from 1) of the last product that writes it, or reads it as a factor, if that is under way.
    sums: u32,
    factor: u32,
    /// The product that does so.
    pc: u32,
    /// Whether something else used it since the last fence.
    used: bool,
    /// Columns of the last product that wrote it since the last fence.
    columns: u16,
}

/// Products of one warp.
#[derive(Default)]
pub struct Products {
    registers: BTreeMap<u16, Register>,
    /// The sums of products under way.
    values: BTreeMap<u16, [u32; LANES]>,
    /// Groups that were committed, and those that were waited for.
    committed: u32,
    done: u32,
    fenced: bool,
    /// How many products it has issued.
    issued: u64,
    /// How many it had issued at the commit of each group that it has not waited for.
    at_commit: VecDeque<u64>,
}

impl Products {
    /// A new CTA.
    pub(crate) fn restart(&mut self) {
        if self.issued != 0 || !self.registers.is_empty() {
            *self = Products::default();
        }
    }

    /// The group of the next product: what a wait for it will have seen.
    pub(super) fn group(&self) -> u32 {
        self.committed + 1
    }

    /// What a register holds, or will hold.
    pub(super) fn value<'w>(&'w self, warp: &'w Warp, slot: u16) -> &'w [u32; LANES] {
        self.values.get(&slot).unwrap_or_else(|| warp.r32(slot))
    }
}

/// A product as all warps of a warpgroup must issue it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Issued {
    pub(super) pc: u32,
    /// Descriptors; 0 for a factor in registers.
    pub(super) factors: [u64; 2],
    pub(super) adds: bool,
}

/// The products of a warpgroup that not all of its warps have issued.
#[derive(Default)]
pub(crate) struct Common {
    list: VecDeque<Issued>,
    /// How many were issued by all and are not in the list any more.
    before: u64,
    /// How many each warp has issued.
    each: [u64; GROUP as usize],
}

impl Common {
    /// Products that some warp has issued and others have not: the first of them, and the warps that did.
    pub(super) fn unequal(&self) -> Option<(u32, Vec<usize>)> {
        let least = self.each.iter().min()?;
        let ahead: Vec<usize> = (0..GROUP as usize).filter(|warp| self.each[*warp] > *least).collect();
        let first = self.list.get((least - self.before) as usize)?;
        (!ahead.is_empty()).then_some((first.pc, ahead))
    }
}

fn find(warp: &Warp, env: &mut Env<'_>, other: Option<u32>, text: String) {
    if env.seen(Detector::Product, other) {
        return;
    }
    let other = other.map(|pc| env.kernel.describe(pc, env.cta, warp.index, 0));
    let finding = Finding::new(Detector::Product, env.at(warp, 0), text);
    env.find(Finding { other, ..finding });
}

/// Before another instruction than a product runs that names registers of products.
#[cold]
#[inline(never)]
pub(crate) fn step(warp: &mut Warp, env: &mut Env<'_>, pc: u32) {
    env.pc = pc;
    let flows = &env.kernel.flows;
    let places = |list: &[Place]| {
        let slot = |place: &Place| if let Place::Slot(slot) = place { Some(*slot) } else { None };
        list.iter().filter_map(slot).collect::<Vec<u16>>()
    };
    let (mut read, written) = (places(flows.values(pc)), places(flows.results(pc)));
    read.extend(places(flows.addresses(pc)));
    let mut products = std::mem::take(&mut warp.products);
    for (slots, writes) in [(&read, false), (&written, true)] {
        for slot in slots {
            let Some(register) = products.registers.get_mut(slot) else { continue };
            register.used = true;
            if register.sums > products.done {
                let verb = if writes { "writes" } else { "reads" };
                let text =
                    format!("{verb} a register to which a product under way brings its sum: wgmma.wait_group first");
                let by = register.pc;
                find(warp, env, Some(by), text);
            } else if writes && register.factor > products.done {
                let by = register.pc;
                let text = "writes a register that a product under way reads: wgmma.wait_group first".to_string();
                find(warp, env, Some(by), text);
            }
        }
    }
    warp.products = products;
}

/// A product is issued: compares it with that of the other warps, and looks at its registers.
pub(super) fn issue(warp: &mut Warp, env: &mut Env<'_>, product: Issued, sums: &[u16], factors: &[u16], columns: u16) {
    common(warp, env, product);
    let mut products = std::mem::take(&mut warp.products);
    if !products.fenced {
        find(warp, env, None, "the first product of a warp, with no wgmma.fence before it".to_string());
        products.fenced = true;
    }
    let (group, done) = (products.committed + 1, products.done);
    for slot in factors {
        let register = products.registers.entry(*slot).or_default();
        let old = std::mem::replace(register, Register { factor: group, pc: product.pc, used: false, ..*register });
        if old.sums > done {
            let text = "a factor in registers is the sum of a product under way: wgmma.wait_group first".to_string();
            find(warp, env, Some(old.pc), text);
        } else if old.used {
            find(warp, env, None, "a factor in registers was used since the last wgmma.fence".to_string());
        }
    }
    for slot in sums {
        let register = products.registers.entry(*slot).or_default();
        let new = Register { sums: group, factor: register.factor, pc: product.pc, used: false, columns };
        let old = std::mem::replace(register, new);
        if old.factor > done {
            let text = "brings a sum to a register that a product under way reads: wgmma.wait_group first".to_string();
            find(warp, env, Some(old.pc), text);
        } else if old.used {
            find(warp, env, None, "a register of the sums was used since the last wgmma.fence".to_string());
        } else if old.columns != 0 && old.columns != columns {
            let text =
                "a register of the sums belongs to products of another shape since the last wgmma.fence".to_string();
            find(warp, env, Some(old.pc), text);
        }
    }
    products.issued += 1;
    warp.products = products;
}

/// All registers that products use, in a kernel: nothing has fenced them when the warp starts.
pub(crate) fn watch(warp: &mut Warp, slots: &[u16]) {
    for slot in slots {
        warp.products.registers.insert(*slot, Register { used: true, ..Register::default() });
    }
}

/// The sums of a product that was issued: they come at the wait, and until then the registers hold poison.
pub(super) fn keep(warp: &mut Warp, slot: u16, value: [u32; LANES], poison: u8) {
    warp.products.values.insert(slot, value);
    *warp.r32_mut(slot) = [u32::from_ne_bytes([poison; 4]); LANES];
}

fn common(warp: &Warp, env: &mut Env<'_>, product: Issued) {
    let group = (warp.index / GROUP) as usize;
    let groups = &mut env.beside.products;
    if groups.len() <= group {
        groups.resize_with(group + 1, Common::default);
    }
    let common = &mut groups[group];
    let member = (warp.index % GROUP) as usize;
    let at = (common.each[member] - common.before) as usize;
    common.each[member] += 1;
    let first = match common.list.get(at) {
        Some(first) => *first,
        None => {
            common.list.push_back(product);
            return;
        }
    };
    if common.each.iter().all(|count| *count > common.before) {
        common.list.pop_front();
        common.before += 1;
    }
    if first != product {
        let text = if first.pc != product.pc {
            "the warps of a warpgroup issue different products, and not one together".to_string()
        } else {
            format!(
                "the warps of a warpgroup issue a product with different descriptors: {:x?} and {:x?}",
                first.factors, product.factors
            )
        };
        find(warp, env, Some(first.pc), text);
    }
}

/// `wgmma.fence`
pub(super) fn fence(warp: &mut Warp) {
    warp.products.fenced = true;
    for register in warp.products.registers.values_mut() {
        (register.used, register.columns) = (false, 0);
    }
}

/// `wgmma.commit_group`
pub(super) fn commit(warp: &mut Warp) {
    warp.products.committed += 1;
    let issued = warp.products.issued;
    warp.products.at_commit.push_back(issued);
}

/// `wgmma.wait_group`: all but the last `but` groups. False, with nothing done, as long as other warps of the warpgroup
/// have not issued their part.
pub(super) fn wait(warp: &mut Warp, env: &mut Env<'_>, but: u32) -> bool {
    let products = &mut warp.products;
    let done = products.done.max(products.committed.saturating_sub(but));
    let over = (done - products.done) as usize;
    if let Some(last) = over.checked_sub(1).and_then(|last| products.at_commit.get(last))
        && let Some(common) = env.beside.products.get((warp.index / GROUP) as usize)
        && common.each.iter().any(|issued| issued < last)
    {
        return false;
    }
    products.at_commit.drain(..over);
    products.done = done;
    env.order.products_done(warp.index, done);
    let registers = &products.registers;
    let over = |slot: &u16| registers.get(slot).is_none_or(|register| register.sums <= done);
    let (come, left) = std::mem::take(&mut products.values).into_iter().partition(|(slot, _)| over(slot));
    products.values = left;
    let come: BTreeMap<u16, [u32; LANES]> = come;
    for (slot, value) in come {
        *warp.r32_mut(slot) = value;
    }
    true
}

/// The instructions that name registers of products, and all of those registers.
pub(crate) fn watched(insts: &mut [Inst], flows: &crate::ir::Flows, slots: &[u16]) {
    for (pc, inst) in insts.iter_mut().enumerate() {
        let pc = pc as u32;
        let names = |places: &[Place]| places.iter().any(|p| matches!(p, Place::Slot(slot) if slots.contains(slot)));
        let any = names(flows.values(pc)) || names(flows.results(pc)) || names(flows.addresses(pc));
        inst.watched = any && !flows.is_product(pc);
    }
}
