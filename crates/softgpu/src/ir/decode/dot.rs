//! Decoding of products of 24 bits, saturated sums of upper products, dot products of bytes, and `fns`.

use super::{Decoded, Lower, Mods, Reject, operands, reject_type};
use crate::exec::dot::{self, flag};
use crate::exec::{Op, int};
use crate::ir::{Class, Inst};
use crate::ptx::{Statement, Type};
use Type::{B32, S32, U32};

/// Decodes a statement of this family.
pub fn decode(stmt: &Statement, lower: &mut Lower<'_>) -> Option<Decoded> {
    Some(match stmt.op() {
        "mul24" | "mad24" => product(stmt, lower),
        "mad" if stmt.has("sat") && stmt.last_type() == Some(S32) => saturated(stmt, lower),
        "dp4a" | "dp2a" => dot(stmt, lower),
        "fns" => fns(stmt, lower),
        _ => return None,
    })
}

fn product(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    let high = match mods.one_of(&["lo", "hi"]) {
        Some(part) => part == "hi",
        None => return Err("one of .lo and .hi is expected".into()),
    };
    let saturates = mods.eat("sat");
    let ty = mods.ty()?;
    mods.done()?;
    let op = match (stmt.op(), high, ty, saturates) {
        ("mul24", false, U32, false) => &int::MUL24_LO_U32,
        ("mul24", false, S32, false) => &int::MUL24_LO_S32,
        ("mul24", true, U32, false) => &int::MUL24_HI_U32,
        ("mul24", true, S32, false) => &int::MUL24_HI_S32,
        ("mad24", false, U32, false) => &int::MAD24_LO_U32,
        ("mad24", false, S32, false) => &int::MAD24_LO_S32,
        ("mad24", true, U32, false) => &int::MAD24_HI_U32,
        ("mad24", true, S32, false) => &int::MAD24_HI_S32,
        ("mad24", true, S32, true) => &int::MAD24_HI_SAT_S32,
        _ => return Err(reject_type(ty)),
    };
    if stmt.op() == "mad24" {
        return three(stmt, lower, op, ty, [ty; 3], 0);
    }
    let [d, a, b] = operands(stmt)?;
    Ok(Inst { d: lower.dst(d, ty)?, a: lower.src(a, ty)?, b: lower.src(b, ty)?, ..lower.inst(op, Class::Int) })
}

/// `op d, a, b, c`.
fn three(stmt: &Statement, lower: &mut Lower<'_>, op: &Op, to: Type, from: [Type; 3], x: u32) -> Decoded {
    let [d, a, b, c] = operands(stmt)?;
    let (a, b, c) = (lower.src(a, from[0])?, lower.src(b, from[1])?, lower.src(c, from[2])?);
    Ok(Inst { d: lower.dst(d, to)?, a, b, c, x, ..lower.inst(op, Class::Int) })
}

/// `mad.hi.sat.s32`, the only one of its kind.
fn saturated(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    if !(mods.eat("hi") && mods.eat("sat")) {
        return Err("mad.hi.sat.s32 is expected".into());
    }
    let ty = mods.ty()?;
    mods.done()?;
    three(stmt, lower, &int::MAD_HI_SAT_S32, ty, [ty; 3], 0)
}

/// `dp4a.atype.btype`, `dp2a.mode.atype.btype`.
fn dot(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    let (op, part) = match (stmt.op(), mods.one_of(&["lo", "hi"])) {
        ("dp4a", None) => (&dot::DP4A, 0),
        ("dp2a", Some("lo")) => (&dot::DP2A, 0),
        ("dp2a", Some(_)) => (&dot::DP2A, flag::HIGH),
        _ => return Err("one of .lo and .hi is wrong or missing".into()),
    };
    let (a, b) = (mods.ty()?, mods.ty()?);
    mods.done()?;
    let signed = |ty: Type, flag: u32| match ty {
        S32 => Ok(flag),
        U32 => Ok(0),
        _ => Err(reject_type(ty)),
    };
    let x = part | signed(a, flag::SIGNED_A)? | signed(b, flag::SIGNED_B)?;
    three(stmt, lower, op, B32, [B32; 3], x)
}

fn fns(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    if mods.ty()? != B32 {
        return Err(Reject("type .b32 is expected".into()));
    }
    mods.done()?;
    three(stmt, lower, &dot::FNS, B32, [B32, B32, S32], 0)
}
