//! Decoding of shuffles, votes, matches and warp reductions.

use super::lower::SINK_PRED;
use super::{Decoded, Lower, Mods, Reject, operands, reject_type};
use crate::exec::collective as ops;
use crate::ir::{Class, Inst, Kind};
use crate::ptx::{Operand, Statement, Type};

/// Decodes a statement of this family.
pub fn decode(stmt: &Statement, lower: &mut Lower<'_>) -> Option<Decoded> {
    Some(match stmt.op() {
        "shfl" => shuffle(stmt, lower),
        "vote" => vote(stmt, lower),
        "match" => matching(stmt, lower),
        "redux" => redux(stmt, lower),
        "activemask" => active_mask(stmt, lower),
        "elect" => elect(stmt, lower),
        _ => return None,
    })
}

/// The `.sync` that every one of them has; the forms without it are gone from the language.
fn sync(mods: &mut Mods<'_>) -> Result<(), Reject> {
    if mods.eat("sync") { Ok(()) } else { Err("a warp operation without .sync".into()) }
}

/// A result and, after a bar, a predicate.
fn result(lower: &mut Lower<'_>, operand: &Operand) -> Result<(u16, u32), Reject> {
    match operand {
        Operand::Pair(value, pred) => Ok((lower.dst(value, Type::B32)?, u32::from(lower.dst_pred(pred)?))),
        value => Ok((lower.dst(value, Type::B32)?, u32::from(SINK_PRED))),
    }
}

fn shuffle(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    sync(&mut mods)?;
    let op = match mods.take() {
        Some("up") => &ops::SHFL_UP,
        Some("down") => &ops::SHFL_DOWN,
        Some("bfly") => &ops::SHFL_BFLY,
        Some("idx") => &ops::SHFL_IDX,
        other => return Err(Reject(format!("the shuffle mode .{}", other.unwrap_or("?")))),
    };
    let ty = mods.ty()?;
    mods.done()?;
    if ty != Type::B32 {
        return Err(reject_type(ty));
    }
    let [to, a, b, c, members] = operands(stmt)?;
    let (d, x) = result(lower, to)?;
    let [a, b, c, m] = [lower.src(a, ty)?, lower.src(b, ty)?, lower.src(c, ty)?, lower.src(members, ty)?];
    Ok(Inst { d, x, a, b, c, m, kind: Kind::Sync, ..lower.inst(op, Class::Warp) })
}

fn vote(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    sync(&mut mods)?;
    let (op, ty) = match mods.take() {
        Some("all") => (&ops::VOTE_ALL, Type::Pred),
        Some("any") => (&ops::VOTE_ANY, Type::Pred),
        Some("uni") => (&ops::VOTE_UNI, Type::Pred),
        Some("ballot") => (&ops::VOTE_BALLOT, Type::B32),
        other => return Err(Reject(format!("the vote .{}", other.unwrap_or("?")))),
    };
    let given = mods.ty()?;
    mods.done()?;
    if given != ty {
        return Err(reject_type(given));
    }
    let [to, from, members] = operands(stmt)?;
    let d = if ty == Type::Pred { lower.dst_pred(to)? } else { lower.dst(to, ty)? };
    let (a, negated) = lower.src_pred(from)?;
    let m = lower.src(members, Type::B32)?;
    Ok(Inst { d, a, m, x: u32::from(negated), kind: Kind::Sync, ..lower.inst(op, Class::Warp) })
}

fn matching(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    let all = match mods.take() {
        Some("all") => true,
        Some("any") => false,
        other => return Err(Reject(format!("the match .{}", other.unwrap_or("?")))),
    };
    sync(&mut mods)?;
    let ty = mods.ty()?;
    mods.done()?;
    let op = match (all, ty) {
        (true, Type::B32) => &ops::MATCH_ALL_32,
        (true, Type::B64) => &ops::MATCH_ALL_64,
        (false, Type::B32) => &ops::MATCH_ANY_32,
        (false, Type::B64) => &ops::MATCH_ANY_64,
        _ => return Err(reject_type(ty)),
    };
    let [to, from, members] = operands(stmt)?;
    let (d, x) = result(lower, to)?;
    let (a, m) = (lower.src(from, ty)?, lower.src(members, Type::B32)?);
    Ok(Inst { d, x, a, m, kind: Kind::Sync, ..lower.inst(op, Class::Warp) })
}

fn redux(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    sync(&mut mods)?;
    let name = mods.take().unwrap_or("?");
    let ty = mods.ty()?;
    mods.done()?;
    let op = match (name, ty) {
        ("add", Type::U32 | Type::S32) => &ops::REDUX_ADD,
        ("min", Type::U32) => &ops::REDUX_MIN_U,
        ("max", Type::U32) => &ops::REDUX_MAX_U,
        ("min", Type::S32) => &ops::REDUX_MIN_S,
        ("max", Type::S32) => &ops::REDUX_MAX_S,
        ("and", Type::B32) => &ops::REDUX_AND,
        ("or", Type::B32) => &ops::REDUX_OR,
        ("xor", Type::B32) => &ops::REDUX_XOR,
        _ => return Err(Reject(format!("the reduction .{name}.{}", ty.name()))),
    };
    let [to, from, members] = operands(stmt)?;
    let (d, a, m) = (lower.dst(to, ty)?, lower.src(from, ty)?, lower.src(members, Type::B32)?);
    Ok(Inst { d, a, m, kind: Kind::Sync, ..lower.inst(op, Class::Warp) })
}

fn active_mask(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    let ty = mods.ty()?;
    mods.done()?;
    if ty != Type::B32 {
        return Err(reject_type(ty));
    }
    let [to] = operands(stmt)?;
    Ok(Inst { d: lower.dst(to, ty)?, ..lower.inst(&ops::ACTIVE_MASK, Class::Warp) })
}

fn elect(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    sync(&mut mods)?;
    mods.done()?;
    let [to, members] = operands(stmt)?;
    let (d, x) = result(lower, to)?;
    let m = lower.src(members, Type::B32)?;
    Ok(Inst { d, x, m, kind: Kind::Sync, ..lower.inst(&ops::ELECT, Class::Warp) })
}
