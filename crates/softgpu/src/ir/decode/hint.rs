//! Decoding of what tells the caches or the launch queue something and changes no value; and of `discard`, which does.

use super::memory::POLICY;
use super::{Decoded, Lower, Mods, Reject, operands};
use crate::exec::access::flags;
use crate::exec::ldst;
use crate::ir::{Class, Inst, Kind};
use crate::ptx::{Operand, Statement, Type};

/// Decodes a statement of this family.
pub fn decode(stmt: &Statement, lower: &mut Lower<'_>) -> Option<Decoded> {
    Some(match stmt.op() {
        "prefetch" if stmt.has("tensormap") => return None,
        "prefetch" | "prefetchu" => prefetch(stmt, lower),
        "applypriority" => sized(stmt, lower, "L2::evict_normal"),
        "discard" => sized(stmt, lower, "L2"),
        "createpolicy" => policy(stmt, lower),
        "griddepcontrol" => dependents(stmt, lower),
        _ => return None,
    })
}

/// A hint: an address out of bounds is allowed.
fn hint(lower: &mut Lower<'_>, address: &Operand) -> Decoded {
    let a = lower.address(address)?.slot;
    Ok(Inst { a, ..lower.inst(&ldst::NOTHING, Class::Memory) })
}

/// `prefetch{.global|.local}.{L1,L2}`, `prefetch.global.L2::evict_*`, `prefetchu.L1`.
fn prefetch(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    let levels: &[&'static str] = match (stmt.op(), mods.one_of(&["global", "local"])) {
        ("prefetchu", None) => &["L1"],
        ("prefetch", Some("global")) => &["L1", "L2", "L2::evict_last", "L2::evict_normal"],
        ("prefetch", _) => &["L1", "L2"],
        _ => &[],
    };
    mods.one_of(levels).ok_or("an unknown level of cache")?;
    mods.done()?;
    let [from] = operands(stmt)?;
    hint(lower, from)
}

/// `applypriority{.global}.L2::evict_normal [a], 128` and `discard{.global}.L2 [a], 128`.
fn sized(stmt: &Statement, lower: &mut Lower<'_>, level: &'static str) -> Decoded {
    let mut mods = Mods::new(stmt);
    mods.eat("global");
    if !mods.eat(level) {
        return Err(Reject(format!(".{level} is expected")));
    }
    mods.done()?;
    let [from, Operand::Int(128)] = operands(stmt)? else { return Err("128 bytes are expected".into()) };
    if stmt.op() == "applypriority" {
        return hint(lower, from);
    }
    let addr = lower.address(from)?;
    let x = i32::try_from(addr.offset).map_err(|_| Reject(format!("the address offset {}", addr.offset)))? as u32;
    let c = if addr.wide { flags::WIDE } else { 0 };
    Ok(Inst { kind: Kind::Effect, a: addr.slot, x, c, ..lower.inst(&ldst::DISCARD, Class::Memory) })
}

/// `createpolicy`: a value that only a cache hint takes.
fn policy(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    let kind = mods.one_of(&["fractional", "range", "cvt"]).ok_or("an unknown kind of policy")?;
    if kind == "range" {
        mods.eat("global");
    }
    if kind == "cvt" {
        mods.eat("L2").then_some(()).ok_or(".L2 is expected")?;
    } else {
        let primary = ["L2::evict_last", "L2::evict_normal", "L2::evict_first", "L2::evict_unchanged"];
        mods.one_of(&primary).ok_or("an unknown priority")?;
        mods.one_of(&["L2::evict_first", "L2::evict_unchanged"]);
    }
    let ty = mods.ty()?;
    mods.done()?;
    if ty != Type::B64 {
        return Err(super::reject_type(ty));
    }
    let [to, rest @ ..] = stmt.operands.as_slice() else { return Err("no operands".into()) };
    match (kind, rest) {
        ("fractional", [] | [_]) => {
            for fraction in rest {
                lower.src(fraction, Type::F32)?;
            }
        }
        ("range", [address, primary, total]) => {
            lower.address(address)?;
            lower.src(primary, Type::U32)?;
            lower.src(total, Type::U32)?;
        }
        ("cvt", [property]) => {
            lower.src(property, Type::B64)?;
        }
        _ => return Err(Reject(format!("{} operands of {POLICY}'s policy", rest.len()))),
    }
    let d = lower.dst(to, ty)?;
    Ok(Inst { d, a: lower.src(&Operand::Int(0), ty)?, ..lower.inst(&ldst::MOVE_64, Class::Int) })
}

/// `griddepcontrol`: launches follow each other here, so there is nothing to wait for or to announce.
fn dependents(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    lower.needs(90)?;
    let mut mods = Mods::new(stmt);
    mods.one_of(&["launch_dependents", "wait"]).ok_or("an unknown action")?;
    mods.done()?;
    let [] = operands(stmt)?;
    Ok(lower.inst(&ldst::NOTHING, Class::Control))
}
