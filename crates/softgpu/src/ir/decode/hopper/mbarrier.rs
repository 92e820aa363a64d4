//! Decoding of `mbarrier`, of arrivals by copies, and of the fences that copies ask for.

use super::super::{Decoded, Lower, Mods, Reject, operands};
use super::{generic, offset};
use crate::exec::Op;
use crate::exec::access::flags;
use crate::exec::hopper::GENERIC;
use crate::exec::hopper::mbarrier::{self as ops, form};
use crate::ir::{Class, Inst, Kind};
use crate::ptx::{Operand, Statement, Type};

/// `mbarrier.*`
pub fn barrier(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    match mods.take() {
        Some("init") => {
            let generic = space(&mut mods, false)?;
            let [to, count] = operands(stmt)?;
            let b = lower.src(count, Type::U32)?;
            object(lower, &ops::INIT, to, generic, |inst| inst.b = b)
        }
        Some("inval") => {
            let generic = space(&mut mods, false)?;
            let [at] = operands(stmt)?;
            object(lower, &ops::INVAL, at, generic, |_| ())
        }
        Some(name @ ("expect_tx" | "complete_tx")) => {
            lower.needs(90)?;
            mods.eat("relaxed");
            scope(&mut mods);
            let generic = space(&mut mods, true)?;
            let [at, bytes] = operands(stmt)?;
            let b = lower.src(bytes, Type::U32)?;
            let op = if name == "expect_tx" { &ops::EXPECT } else { &ops::COMPLETE };
            object(lower, op, at, generic, |inst| inst.b = b)
        }
        Some("arrive") => arrive(stmt, mods, lower, 0),
        Some("arrive_drop") => arrive(stmt, mods, lower, form::DROP),
        Some("test_wait") => wait(stmt, mods, lower),
        Some("try_wait") => {
            lower.needs(90)?;
            wait(stmt, mods, lower)
        }
        Some("pending_count") => {
            last(mods)?;
            let [d, state] = operands(stmt)?;
            let (d, a) = (lower.dst(d, Type::U32)?, lower.src(state, Type::B64)?);
            Ok(Inst { d, a, ..lower.inst(&ops::PENDING, Class::Int) })
        }
        other => Err(Reject(format!("mbarrier.{} is not implemented", other.unwrap_or("?")))),
    }
}

fn scope(mods: &mut Mods<'_>) {
    mods.one_of(&["cta", "cluster"]);
}

/// The type, and nothing behind it.
fn last(mut mods: Mods<'_>) -> Result<(), Reject> {
    let ty = mods.ty()?;
    if ty != Type::B64 {
        return Err(super::super::reject_type(ty));
    }
    mods.done()
}

/// The space and all that follows.
fn space(mods: &mut Mods<'_>, anywhere: bool) -> Result<bool, Reject> {
    let generic = generic(mods, anywhere)?;
    last(std::mem::replace(mods, Mods::none()))?;
    Ok(generic)
}

/// An operation on the object at an address.
fn object(lower: &mut Lower<'_>, op: &Op, at: &Operand, generic: bool, fill: impl FnOnce(&mut Inst)) -> Decoded {
    let addr = lower.address(at)?;
    let c = if addr.wide { flags::WIDE } else { 0 } | if generic { GENERIC } else { 0 };
    let inst = lower.inst(op, Class::Barrier);
    let mut inst = Inst { a: addr.slot, x: offset(addr)?, c, kind: Kind::Effect, ..inst };
    fill(&mut inst);
    Ok(inst)
}

/// `mbarrier.arrive{_drop}{.expect_tx|.noComplete}{.release|.relaxed}{.scope}{.space}.b64 state|_, [a]{, count|bytes}`.
fn arrive(stmt: &Statement, mut mods: Mods<'_>, lower: &mut Lower<'_>, mut y: u32) -> Decoded {
    if mods.eat("expect_tx") {
        lower.needs(90)?;
        y |= form::EXPECT;
    } else if mods.eat("noComplete") {
        y |= form::NO_COMPLETE;
    }
    y |= if mods.one_of(&["release", "relaxed"]) == Some("relaxed") { form::RELAXED } else { 0 };
    scope(&mut mods);
    let generic = space(&mut mods, true)?;
    let one = Operand::Int(1);
    let (state, at, count) = match stmt.operands.as_slice() {
        [state, at] if y & (form::EXPECT | form::NO_COMPLETE) == 0 => (state, at, &one),
        [state, at, count] => (state, at, count),
        _ => return Err(Reject(format!("{} operands of an arrival", stmt.operands.len()))),
    };
    let b = lower.src(count, Type::U32)?;
    let d = lower.dst(state, Type::B64)?;
    object(lower, &ops::ARRIVE, at, generic, |inst| (inst.b, inst.d, inst.y) = (b, d, y))
}

/// `mbarrier.{test,try}_wait{.parity}{.acquire|.relaxed}{.scope}{.space}.b64 p, [a], state|parity{, time}`.
fn wait(stmt: &Statement, mut mods: Mods<'_>, lower: &mut Lower<'_>) -> Decoded {
    let mut y = if mods.eat("parity") { form::PARITY } else { 0 };
    y |= if mods.one_of(&["acquire", "relaxed"]) == Some("relaxed") { form::RELAXED } else { 0 };
    scope(&mut mods);
    let generic = space(&mut mods, false)?;
    let (over, at, phase, time) = match stmt.operands.as_slice() {
        [over, at, phase] => (over, at, phase, None),
        [over, at, phase, time] if stmt.has("try_wait") => (over, at, phase, Some(time)),
        _ => return Err(Reject(format!("{} operands of a wait", stmt.operands.len()))),
    };
    if let Some(time) = time {
        lower.src(time, Type::U32)?;
    }
    let b = lower.src(phase, if y & form::PARITY != 0 { Type::U32 } else { Type::B64 })?;
    let d = lower.dst_pred(over)?;
    object(lower, &ops::TEST, at, generic, |inst| (inst.b, inst.d, inst.y) = (b, d, y))
}

/// `cp.async.mbarrier.arrive{.noinc}{.shared{::cta}}.b64 [a]`.
pub fn arrive_of_copies(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    if !(mods.eat("async") && mods.eat("mbarrier") && mods.eat("arrive")) {
        return Err("cp.async.mbarrier.arrive is expected".into());
    }
    let y = u32::from(mods.eat("noinc"));
    let generic = space(&mut mods, false)?;
    let [at] = operands(stmt)?;
    object(lower, &ops::ARRIVE_OF_COPIES, at, generic, |inst| inst.y = y)
}

/// `fence.proxy.async{.space}` and `fence.mbarrier_init.release.cluster`.
pub fn fence(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    lower.needs(90)?;
    let init = mods.eat("mbarrier_init");
    if init {
        if !(mods.eat("release") && mods.eat("cluster")) {
            return Err(".release.cluster is expected".into());
        }
    } else {
        if !mods.eat("proxy") {
            return Err("an unknown kind of fence".into());
        }
        if !mods.eat("async") {
            return Err(Reject(format!("fence.proxy.{} is not implemented", mods.peek().unwrap_or("?"))));
        }
        mods.one_of(&["global", "shared::cta", "shared::cluster"]);
    }
    mods.done()?;
    let [] = operands(stmt)?;
    Ok(Inst { x: u32::from(init), kind: Kind::Effect, ..lower.inst(&ops::FENCE, Class::Barrier) })
}
