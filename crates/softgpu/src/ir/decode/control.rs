//! Branches, exits, barriers, fences, and moves from clocks.

use super::{Decoded, Lower, Mods, Reject, operands};
use crate::exec::{self, ops};
use crate::ir::{Barrier, BarrierAction, Class, Control, Inst, Kind};
use crate::ptx::{Operand, Statement, Type};

ops! {
    /// `%clock`, `%clock64`, `%globaltimer`: instructions issued so far, which only ever grows.
    CLOCK_32 = |warp, env, inst, mask| {
        let now = [env.clock as u32; exec::LANES];
        warp.w32(inst.d, mask, &now)
    };
    /// The same in 64 bits.
    CLOCK_64 = |warp, env, inst, mask| {
        let now = [env.clock; exec::LANES];
        warp.w64(inst.d, mask, &now)
    };
    /// `bar.warp.sync`: orders the memory accesses of the lanes that take part.
    WARP_SYNC = |warp, env, _, mask| env.order.warp_sync(warp.index, mask | !warp.live);
    /// Memory is sequentially consistent here, so a fence changes no value: it orders accesses for race detection.
    /// `x` is 1 where it reaches no further than the CTA.
    FENCE = |warp, env, inst, _| env.order.fence(warp.index, inst.x == 0);
}

/// Decodes a statement of this family.
pub fn decode(stmt: &Statement, lower: &mut Lower<'_>) -> Option<Decoded> {
    Some(match stmt.op() {
        "bra" => branch(stmt, lower),
        "brx" => table(stmt, lower),
        "exit" => plain(stmt, lower, Control::Exit),
        // Without a debugger a breakpoint ends the launch as a trap does.
        "trap" | "brkpt" => plain(stmt, lower, Control::Trap),
        "nanosleep" => nanosleep(stmt, lower),
        "bar" | "barrier" if stmt.has("warp") => warp_sync(stmt, lower),
        "bar" | "barrier" => barrier(stmt, lower),
        "membar" => membar(stmt, lower),
        "fence" if stmt.has("proxy") || stmt.has("mbarrier_init") => return None,
        "fence" => fence(stmt, lower),
        "mov" => clock(stmt, lower)?,
        _ => return None,
    })
}

fn branch(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    mods.eat("uni");
    mods.done()?;
    let [target] = operands(stmt)?;
    let Operand::Label(target) = *target else { return Err("a branch to something other than a label".into()) };
    Ok(lower.control(Control::Branch { target }, Class::Control))
}

fn table(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    if !mods.eat("idx") {
        return Err("brx without .idx".into());
    }
    mods.eat("uni");
    mods.done()?;
    let [index, table] = operands(stmt)?;
    let Operand::Table(table) = *table else { return Err("an operand that is not a list of targets".into()) };
    let targets = lower.scene.tables.get(table as usize).cloned().ok_or("an unknown list of targets")?;
    let a = lower.src(index, Type::U32)?;
    Ok(Inst { a, ..lower.control(Control::Table { targets }, Class::Control) })
}

fn plain(stmt: &Statement, lower: &mut Lower<'_>, control: Control) -> Decoded {
    Mods::new(stmt).done()?;
    let [] = operands(stmt)?;
    Ok(lower.control(control, Class::Control))
}

fn nanosleep(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    mods.ty()?;
    mods.done()?;
    let [time] = operands(stmt)?;
    let a = lower.src(time, Type::U32)?;
    Ok(Inst { a, ..lower.control(Control::Yield, Class::Control) })
}

fn warp_sync(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    if !(mods.eat("warp") && mods.eat("sync")) {
        return Err("a warp barrier other than bar.warp.sync".into());
    }
    mods.done()?;
    let [members] = operands(stmt)?;
    let m = lower.src(members, Type::B32)?;
    Ok(Inst { m, kind: Kind::Sync, ..lower.inst(&WARP_SYNC, Class::Barrier) })
}

/// `bar{.cta}.{sync,arrive,red.op.type}` is aligned; `barrier{.cta}` is so only with `.aligned`.
fn barrier(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    mods.eat("cta");
    if mods.eat("cluster") {
        return super::hopper::cluster_barrier(stmt, mods, lower);
    }
    let verb = mods.one_of(&["sync", "arrive", "red"]).ok_or("a barrier that neither syncs, arrives nor reduces")?;
    let mut aligned = stmt.op() == "bar" || mods.eat("aligned");
    let action = match (verb, mods.peek()) {
        ("sync", _) => BarrierAction::Sync,
        ("arrive", _) => BarrierAction::Arrive,
        (_, Some("popc")) => BarrierAction::Popc,
        (_, Some("and")) => BarrierAction::And,
        (_, Some("or")) => BarrierAction::Or,
        _ => return Err("a barrier reduction other than .popc, .and, .or".into()),
    };
    let reduces = verb == "red";
    if reduces {
        mods.take();
        aligned |= stmt.op() == "barrier" && mods.eat("aligned");
        let ty = mods.ty()?;
        if ty != (if action == BarrierAction::Popc { Type::U32 } else { Type::Pred }) {
            return Err(super::reject_type(ty));
        }
    }
    mods.done()?;
    let mut rest = stmt.operands.as_slice();
    let mut d = 0;
    if let (true, [first, others @ ..]) = (reduces, rest) {
        d = match action {
            BarrierAction::Popc => lower.dst(first, Type::U32)?,
            _ => lower.dst_pred(first)?,
        };
        rest = others;
    }
    let (mut c, mut negate) = (0, false);
    if let (true, [others @ .., last]) = (reduces, rest) {
        (c, negate) = lower.src_pred(last)?;
        rest = others;
    }
    let (id, count) = match rest {
        [id] => (id, None),
        [id, count] => (id, Some(count)),
        _ => return Err(Reject(format!("{} operands of a barrier", stmt.operands.len()))),
    };
    if action == BarrierAction::Arrive && count.is_none() {
        return Err("an arrival without a number of threads".into());
    }
    let a = lower.src(id, Type::U32)?;
    let b = count.map(|count| lower.src(count, Type::U32)).transpose()?.unwrap_or(0);
    let control = Control::Barrier(Barrier { action, aligned, counted: count.is_some(), negate });
    Ok(Inst { d, a, b, c, ..lower.control(control, Class::Barrier) })
}

fn membar(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    let level = mods.one_of(&["cta", "gl", "sys"]).ok_or("a membar of an unknown level")?;
    mods.done()?;
    let [] = operands(stmt)?;
    Ok(Inst { x: u32::from(level == "cta"), ..lower.inst(&FENCE, Class::Barrier) })
}

fn fence(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    // Without a kind it is `.acq_rel`.
    mods.one_of(&["sc", "acq_rel", "acquire", "release"]);
    if mods.peek() == Some("cluster") {
        lower.needs(90)?;
    }
    let scope = mods.one_of(&["cta", "cluster", "gpu", "sys"]).ok_or("a fence of an unknown kind or scope")?;
    mods.done()?;
    let [] = operands(stmt)?;
    Ok(Inst { x: u32::from(scope == "cta"), ..lower.inst(&FENCE, Class::Barrier) })
}

/// `mov` from a register that changes while the warp runs; other moves belong to another family.
fn clock(stmt: &Statement, lower: &mut Lower<'_>) -> Option<Decoded> {
    let [d, Operand::Special(name)] = stmt.operands.as_slice() else { return None };
    let (op, bits) = match name.as_str() {
        "%clock" | "%globaltimer_lo" => (&CLOCK_32, 32),
        "%clock64" | "%globaltimer" => (&CLOCK_64, 64),
        _ => return None,
    };
    Some((|| {
        let mut mods = Mods::new(stmt);
        let ty = mods.ty()?;
        mods.done()?;
        if ty.bits() != bits {
            return Err(super::reject_type(ty));
        }
        Ok(Inst { d: lower.dst(d, ty)?, ..lower.inst(op, Class::Int) })
    })())
}
