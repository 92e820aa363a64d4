//! Decoding of f32 and f64 arithmetic.

use super::{Decoded, Lower, Mods, Reject, operands, reject_type};
use crate::exec::Op;
use crate::exec::float::*;
use crate::ir::{Class, Inst};
use crate::num::Rounding;
use crate::ptx::{Operand, Statement, Type};
use Type::{F32, F64};

/// Decodes a statement of this family.
pub fn decode(stmt: &Statement, lower: &mut Lower<'_>) -> Option<Decoded> {
    let ty = stmt.last_type()?;
    if !matches!(ty, F32 | F64) {
        return None;
    }
    Some(match stmt.op() {
        "add" | "sub" | "mul" => arithmetic(stmt, lower, ty),
        "fma" | "mad" => fused(stmt, lower, ty),
        "div" => divide(stmt, lower, ty),
        "rcp" | "sqrt" => root(stmt, lower, ty),
        "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" => special(stmt, lower, ty),
        "min" | "max" => extremum(stmt, lower, ty),
        "abs" | "neg" => sign(stmt, lower, ty),
        "copysign" => copysign(stmt, lower, ty),
        _ => return None,
    })
}

/// A rounding modifier of floating-point results, if the next one is.
pub fn rounding(mods: &mut Mods<'_>) -> Option<Rounding> {
    Some(match mods.one_of(&["rn", "rz", "rm", "rp"])? {
        "rn" => Rounding::Nearest,
        "rz" => Rounding::Zero,
        "rm" => Rounding::Down,
        _ => Rounding::Up,
    })
}

/// `{.rnd}{.ftz}{.sat}.type` to the end.
fn form(mods: Mods<'_>, ty: Type) -> Result<(Option<Rounding>, Form), Reject> {
    let mut mods = mods;
    let mode = rounding(&mut mods);
    let ftz = ty == F32 && mods.eat("ftz");
    let sat = ty == F32 && mods.eat("sat");
    mods.ty()?;
    mods.done()?;
    Ok((mode, Form { rounding: mode.unwrap_or(Rounding::Nearest), ftz, sat }))
}

/// `add`, `sub`, `mul`.
fn arithmetic(stmt: &Statement, lower: &mut Lower<'_>, ty: Type) -> Decoded {
    let (_, form) = form(Mods::new(stmt), ty)?;
    let plain = form == Form::PLAIN;
    let op: &Op = match (stmt.op(), ty, plain) {
        ("add", F32, true) => &ADD_F32,
        ("sub", F32, true) => &SUB_F32,
        ("mul", F32, true) => &MUL_F32,
        ("add", F32, false) => &ADD_F32_ANY,
        ("sub", F32, false) => &SUB_F32_ANY,
        ("mul", F32, false) => &MUL_F32_ANY,
        ("add", _, true) => &ADD_F64,
        ("sub", _, true) => &SUB_F64,
        ("mul", _, true) => &MUL_F64,
        ("add", _, false) => &ADD_F64_ANY,
        ("sub", _, false) => &SUB_F64_ANY,
        _ => &MUL_F64_ANY,
    };
    let [d, a, b] = operands(stmt)?;
    Ok(Inst {
        d: lower.dst(d, ty)?,
        a: lower.src(a, ty)?,
        b: lower.src(b, ty)?,
        x: form.pack(),
        ..lower.inst(op, Class::Float)
    })
}

/// `fma`, and `mad`, which on every supported target is the same.
fn fused(stmt: &Statement, lower: &mut Lower<'_>, ty: Type) -> Decoded {
    let (mode, form) = form(Mods::new(stmt), ty)?;
    mode.ok_or("a rounding mode is missing")?;
    let op = match (ty, form == Form::PLAIN) {
        (F32, true) => &FMA_F32,
        (F32, false) => &FMA_F32_ANY,
        (_, true) => &FMA_F64,
        (_, false) => &FMA_F64_ANY,
    };
    let [d, a, b, c] = operands(stmt)?;
    Ok(Inst {
        d: lower.dst(d, ty)?,
        a: lower.src(a, ty)?,
        b: lower.src(b, ty)?,
        c: lower.src(c, ty)?,
        x: form.pack(),
        ..lower.inst(op, Class::Float)
    })
}

/// `div` in `.approx`, `.full` and the four rounding modes.
fn divide(stmt: &Statement, lower: &mut Lower<'_>, ty: Type) -> Decoded {
    let mut mods = Mods::new(stmt);
    let kind = if ty == F32 { mods.one_of(&["approx", "full"]) } else { None };
    let (mode, form) = form(mods, ty)?;
    if mode.is_some() == kind.is_some() || form.sat {
        return Err(Reject("one of .approx, .full and a rounding mode is expected".into()));
    }
    let (op, class): (&Op, Class) = match (kind, ty) {
        (Some("approx"), _) => (&DIV_APPROX, Class::Special),
        (Some(_), _) => (&DIV_FULL, Class::Special),
        (None, F32) => (&DIV_F32, Class::Float),
        (None, _) => (&DIV_F64, Class::Float),
    };
    let [d, a, b] = operands(stmt)?;
    Ok(Inst {
        d: lower.dst(d, ty)?,
        a: lower.src(a, ty)?,
        b: lower.src(b, ty)?,
        x: form.pack(),
        ..lower.inst(op, class)
    })
}

/// `op d, a`.
fn one(stmt: &Statement, lower: &mut Lower<'_>, op: &Op, class: Class, ty: Type, x: u32) -> Decoded {
    let [d, a] = operands(stmt)?;
    Ok(Inst { d: lower.dst(d, ty)?, a: lower.src(a, ty)?, x, ..lower.inst(op, class) })
}

/// `rcp`, `sqrt`: approximate, or in one of the four rounding modes.
fn root(stmt: &Statement, lower: &mut Lower<'_>, ty: Type) -> Decoded {
    let mut mods = Mods::new(stmt);
    let reciprocal = stmt.op() == "rcp";
    if mods.eat("approx") {
        if ty == F64 {
            let flushes = mods.eat("ftz");
            mods.ty()?;
            mods.done()?;
            if !reciprocal || !flushes {
                return Err(reject_type(ty));
            }
            return one(stmt, lower, &RCP_APPROX_F64, Class::Special, ty, 0);
        }
        let (mode, form) = form(mods, ty)?;
        if mode.is_some() || form.sat {
            return Err(Reject("unknown modifier beside .approx".into()));
        }
        let op = if reciprocal { &RCP_APPROX } else { &SQRT_APPROX };
        return one(stmt, lower, op, Class::Special, ty, form.pack());
    }
    let (mode, form) = form(mods, ty)?;
    if mode.is_none() || form.sat {
        return Err(Reject(".approx or a rounding mode is expected".into()));
    }
    let op = match (reciprocal, ty) {
        (true, F32) => &RCP_F32,
        (true, _) => &RCP_F64,
        (false, F32) => &SQRT_F32,
        (false, _) => &SQRT_F64,
    };
    one(stmt, lower, op, Class::Special, ty, form.pack())
}

/// The functions that exist only as approximations.
fn special(stmt: &Statement, lower: &mut Lower<'_>, ty: Type) -> Decoded {
    let mut mods = Mods::new(stmt);
    if !mods.eat("approx") {
        return Err(Reject(".approx is expected".into()));
    }
    let ftz = mods.eat("ftz");
    mods.ty()?;
    mods.done()?;
    let op = match (stmt.op(), ty, ftz) {
        ("rsqrt", F64, true) => &RSQRT_APPROX_F64,
        ("rsqrt", F64, false) => &RSQRT_F64,
        ("rsqrt", F32, _) => &RSQRT_APPROX,
        ("ex2", F32, _) => &EX2_APPROX,
        ("lg2", F32, _) => &LG2_APPROX,
        ("sin", F32, _) => &SIN_APPROX,
        ("cos", F32, _) => &COS_APPROX,
        ("tanh", F32, false) => &TANH_APPROX,
        _ => return Err(reject_type(ty)),
    };
    one(stmt, lower, op, Class::Special, ty, Form { ftz, ..Form::PLAIN }.pack())
}

/// `min`, `max`.
fn extremum(stmt: &Statement, lower: &mut Lower<'_>, ty: Type) -> Decoded {
    let mut mods = Mods::new(stmt);
    let ftz = ty == F32 && mods.eat("ftz");
    let keep_nan = ty == F32 && mods.eat("NaN");
    let xor_sign = ty == F32 && mods.eat("xorsign");
    if xor_sign && !mods.eat("abs") {
        return Err(Reject(".abs is expected after .xorsign".into()));
    }
    mods.ty()?;
    mods.done()?;
    let op = match (stmt.op(), ty, ftz || keep_nan || xor_sign) {
        ("min", F32, false) => &MIN_F32,
        ("max", F32, false) => &MAX_F32,
        ("min", F32, true) => &MIN_F32_ANY,
        ("max", F32, true) => &MAX_F32_ANY,
        ("min", ..) => &MIN_F64,
        _ => &MAX_F64,
    };
    let [d, a, b] = operands(stmt)?;
    Ok(Inst {
        d: lower.dst(d, ty)?,
        a: lower.src(a, ty)?,
        b: lower.src(b, ty)?,
        x: Form { ftz, ..Form::PLAIN }.pack(),
        y: u32::from(keep_nan) | u32::from(xor_sign) << 1,
        ..lower.inst(op, Class::Float)
    })
}

/// `abs`, `neg`.
fn sign(stmt: &Statement, lower: &mut Lower<'_>, ty: Type) -> Decoded {
    let mut mods = Mods::new(stmt);
    let ftz = ty == F32 && mods.eat("ftz");
    mods.ty()?;
    mods.done()?;
    let op = match (stmt.op(), ty, ftz) {
        ("abs", F32, false) => &ABS_F32,
        ("abs", F32, true) => &ABS_F32_FTZ,
        ("abs", ..) => &ABS_F64,
        ("neg", F32, false) => &NEG_F32,
        ("neg", F32, true) => &NEG_F32_FTZ,
        _ => &NEG_F64,
    };
    one(stmt, lower, op, Class::Float, ty, 0)
}

/// `copysign d, a, b`: the sign of `a` on the magnitude of `b`.
fn copysign(stmt: &Statement, lower: &mut Lower<'_>, ty: Type) -> Decoded {
    let mut mods = Mods::new(stmt);
    mods.ty()?;
    mods.done()?;
    let op = if ty == F32 { &COPYSIGN_F32 } else { &COPYSIGN_F64 };
    let [d, a, b]: [&Operand; 3] = operands(stmt)?;
    Ok(Inst { d: lower.dst(d, ty)?, a: lower.src(a, ty)?, b: lower.src(b, ty)?, ..lower.inst(op, Class::Float) })
}
