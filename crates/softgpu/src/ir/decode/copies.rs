//! Decoding of `cp.async`.

use super::{Decoded, Lower, Mods, Reject, operands};
use crate::exec::access::flags;
use crate::exec::copies;
use crate::ir::{Class, Inst, Kind};
use crate::ptx::{Operand, Statement, Type};

/// Decodes a statement of this family.
pub fn decode(stmt: &Statement, lower: &mut Lower<'_>) -> Option<Decoded> {
    if stmt.op() != "cp" {
        return None;
    }
    let mut mods = Mods::new(stmt);
    if !mods.eat("async") {
        return Some(Err(Reject(format!("cp.{} is not implemented", mods.peek().unwrap_or("?")))));
    }
    Some(match mods.take() {
        Some("ca") => copy(stmt, mods, lower, &[4, 8, 16]),
        Some("cg") => copy(stmt, mods, lower, &[16]),
        Some("commit_group") => group(stmt, mods, lower, None),
        Some("wait_all") => group(stmt, mods, lower, Some(&copies::WAIT_ALL)),
        Some("wait_group") => wait(stmt, mods, lower),
        other => Err(Reject(format!("cp.async.{} is not implemented", other.unwrap_or("?")))),
    })
}

fn group(stmt: &Statement, mods: Mods<'_>, lower: &mut Lower<'_>, op: Option<&crate::exec::Op>) -> Decoded {
    mods.done()?;
    let [] = operands(stmt)?;
    Ok(Inst { kind: Kind::Effect, ..lower.inst(op.unwrap_or(&copies::COMMIT), Class::Memory) })
}

fn wait(stmt: &Statement, mods: Mods<'_>, lower: &mut Lower<'_>) -> Decoded {
    mods.done()?;
    let [count] = operands(stmt)?;
    let Operand::Int(count) = count else { return Err("a number of groups that is not constant".into()) };
    let x = u32::try_from(*count).map_err(|_| Reject(format!("{count} groups")))?;
    Ok(Inst { x, kind: Kind::Effect, ..lower.inst(&copies::WAIT, Class::Memory) })
}

/// `cp.async.{ca,cg}.shared{::cta}.global{.hints} [dst], [src], cp-size{, src-size | ignore-src}{, cache-policy}`.
fn copy(stmt: &Statement, mut mods: Mods<'_>, lower: &mut Lower<'_>, sizes: &[i64]) -> Decoded {
    if mods.one_of(&["shared", "shared::cta"]).is_none() || !mods.eat("global") {
        return Err(".shared.global is expected".into());
    }
    let policy = mods.eat("L2::cache_hint");
    mods.one_of(&["L2::64B", "L2::128B", "L2::256B"]);
    mods.done()?;
    let mut operands = stmt.operands.as_slice();
    if policy {
        // Where data stay in the caches changes no value.
        let [rest @ .., hint] = operands else { return Err("a cache policy is missing".into()) };
        lower.src(hint, Type::B64)?;
        operands = rest;
    }
    let (to, from, size, rest) = match operands {
        [to, from, Operand::Int(size), rest @ ..] if rest.len() <= 1 && sizes.contains(size) => (to, from, *size, rest),
        [_, _, size, ..] => return Err(Reject(format!("a copy of {size:?} bytes"))),
        _ => return Err(Reject(format!("{} operands of a copy", operands.len()))),
    };
    let offset = |offset: i64| {
        i32::try_from(offset).map(|o| o as u32).map_err(|_| Reject(format!("the address offset {offset}")))
    };
    let (to, from) = (lower.address(to)?, lower.address(from)?);
    if !from.wide {
        return Err("a global address of 32 bits".into());
    }
    let nothing = Operand::Int(0);
    let (length, ignore) = match rest {
        [] => (&Operand::Int(size), &nothing),
        [predicate @ (Operand::Not(_) | Operand::Reg(_))] if is_predicate(lower, predicate) => {
            (&Operand::Int(size), predicate)
        }
        [length, ..] => (length, &nothing),
    };
    let m = lower.src(length, Type::U32)?;
    let (d, negated) = lower.src_pred(ignore)?;
    let c = if to.wide { flags::WIDE } else { 0 }
        | 1 << flags::COUNT_AT
        | (size as u16 & 0xF) << flags::BYTES_AT
        | if negated { copies::NEGATED } else { 0 };
    let (x, y) = (offset(to.offset)?, offset(from.offset)?);
    let inst = lower.inst(&copies::COPY, Class::Memory);
    Ok(Inst { a: to.slot, x, b: from.slot, y, m, d, c, kind: Kind::Effect, ..inst })
}

fn is_predicate(lower: &Lower<'_>, operand: &Operand) -> bool {
    lower.reg_type(operand) == Some(Type::Pred)
}
