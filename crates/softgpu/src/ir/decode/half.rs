//! Decoding of f16 and bf16 arithmetic, single and packed.

use super::{Decoded, Lower, Mods, Reject, operands, reject_type};
use crate::exec::Op;
use crate::exec::half::*;
use crate::ir::{Class, Inst};
use crate::ptx::{Statement, Type};
use Type::{Bf16, Bf16x2, F16, F16x2};

/// Decodes a statement of this family.
pub fn decode(stmt: &Statement, lower: &mut Lower<'_>) -> Option<Decoded> {
    let ty = stmt.last_type()?;
    if !matches!(ty, F16 | F16x2 | Bf16 | Bf16x2) {
        return None;
    }
    Some(match stmt.op() {
        "add" | "sub" | "mul" => arithmetic(stmt, lower),
        "fma" => fused(stmt, lower),
        "min" | "max" => extremum(stmt, lower),
        "abs" | "neg" => sign(stmt, lower),
        "ex2" | "tanh" => special(stmt, lower),
        _ => return None,
    })
}

/// The last modifier, a type.
fn last(mut mods: Mods<'_>) -> Result<Type, Reject> {
    let ty = mods.ty()?;
    mods.done()?;
    Ok(ty)
}

/// The variant for f16, f16x2, bf16 and bf16x2, in this order.
fn by_type(ty: Type, ops: [&Op; 4]) -> Result<&Op, Reject> {
    match ty {
        F16 => Ok(ops[0]),
        F16x2 => Ok(ops[1]),
        Bf16 => Ok(ops[2]),
        Bf16x2 => Ok(ops[3]),
        _ => Err(reject_type(ty)),
    }
}

fn on(condition: bool, flag: u32) -> u32 {
    if condition { flag } else { 0 }
}

/// `.ftz` and `.sat` belong to f16 alone.
fn f16_only(ty: Type, x: u32) -> Result<(), Reject> {
    if matches!(ty, Bf16 | Bf16x2) && x & (flag::FTZ | flag::SAT) != 0 {
        return Err(Reject(format!(".ftz and .sat do not exist for .{}", ty.name())));
    }
    Ok(())
}

/// `add`, `sub`, `mul` `{.rn}{.ftz}{.sat}`.
fn arithmetic(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    mods.eat("rn");
    let x = on(mods.eat("ftz"), flag::FTZ) | on(mods.eat("sat"), flag::SAT);
    let ty = last(mods)?;
    f16_only(ty, x)?;
    let op = match stmt.op() {
        "add" => by_type(ty, [&ADD_F16, &ADD_F16X2, &ADD_BF16, &ADD_BF16X2]),
        "sub" => by_type(ty, [&SUB_F16, &SUB_F16X2, &SUB_BF16, &SUB_BF16X2]),
        _ => by_type(ty, [&MUL_F16, &MUL_F16X2, &MUL_BF16, &MUL_BF16X2]),
    }?;
    let [d, a, b] = operands(stmt)?;
    Ok(Inst { d: lower.dst(d, ty)?, a: lower.src(a, ty)?, b: lower.src(b, ty)?, x, ..lower.inst(op, Class::Half) })
}

/// `fma.rn{.ftz}{.sat|.relu}`.
fn fused(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    if !mods.eat("rn") {
        return Err(Reject(".rn is expected".into()));
    }
    let x = on(mods.eat("ftz"), flag::FTZ) | on(mods.eat("sat"), flag::SAT) | on(mods.eat("relu"), flag::RELU);
    let ty = last(mods)?;
    f16_only(ty, x)?;
    let op = by_type(ty, [&FMA_F16, &FMA_F16X2, &FMA_BF16, &FMA_BF16X2])?;
    let [d, a, b, c] = operands(stmt)?;
    Ok(Inst {
        d: lower.dst(d, ty)?,
        a: lower.src(a, ty)?,
        b: lower.src(b, ty)?,
        c: lower.src(c, ty)?,
        x,
        ..lower.inst(op, Class::Half)
    })
}

/// `min`, `max` `{.ftz}{.NaN}{.xorsign.abs}`.
fn extremum(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    let mut x = on(mods.eat("ftz"), flag::FTZ) | on(mods.eat("NaN"), flag::NAN);
    if mods.eat("xorsign") {
        if !mods.eat("abs") {
            return Err(Reject(".abs is expected after .xorsign".into()));
        }
        x |= flag::XOR_SIGN;
    }
    let ty = last(mods)?;
    f16_only(ty, x)?;
    let op = match stmt.op() {
        "min" => by_type(ty, [&MIN_F16, &MIN_F16X2, &MIN_BF16, &MIN_BF16X2]),
        _ => by_type(ty, [&MAX_F16, &MAX_F16X2, &MAX_BF16, &MAX_BF16X2]),
    }?;
    let [d, a, b] = operands(stmt)?;
    Ok(Inst { d: lower.dst(d, ty)?, a: lower.src(a, ty)?, b: lower.src(b, ty)?, x, ..lower.inst(op, Class::Half) })
}

/// `op d, a`.
fn one(stmt: &Statement, lower: &mut Lower<'_>, op: &Op, class: Class, ty: Type, x: u32) -> Decoded {
    let [d, a] = operands(stmt)?;
    Ok(Inst { d: lower.dst(d, ty)?, a: lower.src(a, ty)?, x, ..lower.inst(op, class) })
}

/// `abs`, `neg` `{.ftz}`.
fn sign(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    let x = on(mods.eat("ftz"), flag::FTZ);
    let ty = last(mods)?;
    f16_only(ty, x)?;
    let op = match stmt.op() {
        "abs" => &ABS_HALF,
        _ => by_type(ty, [&NEG_HALF, &NEG_HALF_X2, &NEG_HALF, &NEG_HALF_X2])?,
    };
    one(stmt, lower, op, Class::Half, ty, x)
}

/// `ex2.approx` and `tanh.approx`; ex2 of bf16 exists with `.ftz` only.
fn special(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    if !mods.eat("approx") {
        return Err(Reject(".approx is expected".into()));
    }
    let ftz = mods.eat("ftz");
    let ty = last(mods)?;
    let exponential = stmt.op() == "ex2";
    if ftz != (exponential && matches!(ty, Bf16 | Bf16x2)) {
        return Err(Reject(format!(".ftz is wrong or missing for {} of .{}", stmt.op(), ty.name())));
    }
    let op = if exponential {
        by_type(ty, [&EX2_F16, &EX2_F16X2, &EX2_BF16, &EX2_BF16X2])
    } else {
        by_type(ty, [&TANH_F16, &TANH_F16X2, &TANH_BF16, &TANH_BF16X2])
    }?;
    one(stmt, lower, op, Class::Special, ty, 0)
}
