//! Decoding of comparisons, predicate logic and selection.

use super::{Decoded, Lower, Mods, Reject, operands, reject_type};
use crate::exec::Op;
use crate::exec::pred::*;
use crate::ir::{Class, Inst};
use crate::ptx::{Operand, Statement, Type};
use Type::{B16, B32, B64, Bf16, F16, F32, F64, S16, S32, S64, U16, U32, U64};

/// Decodes a statement of this family.
pub fn decode(stmt: &Statement, lower: &mut Lower<'_>) -> Option<Decoded> {
    let on_predicates = stmt.last_type() == Some(Type::Pred);
    Some(match stmt.op() {
        "setp" => setp(stmt, lower),
        "set" => set(stmt, lower),
        "testp" => testp(stmt, lower),
        "selp" => selp(stmt, lower),
        "slct" => slct(stmt, lower),
        "and" | "or" | "xor" | "not" | "mov" if on_predicates => logic(stmt, lower),
        _ => return None,
    })
}

/// How a comparison is made of the basic tests.
struct Compare {
    /// `eq`, `ne`, `lt`, `le` or `num`.
    base: &'static str,
    /// The operands change places.
    swap: bool,
    /// The result is inverted.
    not: bool,
}

/// The spelling of a comparison. Integers have no unordered forms, and `lo ls hi hs` of their own.
/// `ne` of floats holds only for two numbers, so it is a basic test; `neu` is the inverse of `eq`.
fn compare(name: &str, float: bool) -> Option<Compare> {
    let (base, swap, not) = match (name, float) {
        ("eq", _) => ("eq", false, false),
        ("ne", false) | ("neu", true) => ("eq", false, true),
        ("ne", true) => ("ne", false, false),
        ("equ", true) => ("ne", false, true),
        ("lt", _) | ("lo", false) => ("lt", false, false),
        ("gt", _) | ("hi", false) => ("lt", true, false),
        ("le", true) => ("le", false, false),
        ("ge", true) => ("le", true, false),
        ("le" | "ls", false) => ("lt", true, true),
        ("ge" | "hs", false) => ("lt", false, true),
        ("ltu", true) => ("le", true, true),
        ("leu", true) => ("lt", true, true),
        ("gtu", true) => ("le", false, true),
        ("geu", true) => ("lt", false, true),
        ("num", true) => ("num", false, false),
        ("nan", true) => ("num", false, true),
        _ => return None,
    };
    Some(Compare { base, swap, not })
}

/// The operation of a basic test. `lo` and its kin are unsigned; `.b` types know equality alone.
fn test(base: &str, ty: Type) -> Option<&'static Op> {
    Some(match (base, ty) {
        ("eq", U16 | S16 | B16) => &SETP_EQ_16,
        ("eq", U32 | S32 | B32) => &SETP_EQ_32,
        ("eq", U64 | S64 | B64) => &SETP_EQ_64,
        ("lt", U16) => &SETP_LT_U16,
        ("lt", S16) => &SETP_LT_S16,
        ("lt", U32) => &SETP_LT_U32,
        ("lt", S32) => &SETP_LT_S32,
        ("lt", U64) => &SETP_LT_U64,
        ("lt", S64) => &SETP_LT_S64,
        ("eq", F32) => &SETP_EQ_F32,
        ("ne", F32) => &SETP_NE_F32,
        ("lt", F32) => &SETP_LT_F32,
        ("le", F32) => &SETP_LE_F32,
        ("num", F32) => &SETP_NUM_F32,
        ("eq", F64) => &SETP_EQ_F64,
        ("ne", F64) => &SETP_NE_F64,
        ("lt", F64) => &SETP_LT_F64,
        ("le", F64) => &SETP_LE_F64,
        ("num", F64) => &SETP_NUM_F64,
        ("eq", F16) => &SETP_EQ_F16,
        ("ne", F16) => &SETP_NE_F16,
        ("lt", F16) => &SETP_LT_F16,
        ("le", F16) => &SETP_LE_F16,
        ("num", F16) => &SETP_NUM_F16,
        ("eq", Bf16) => &SETP_EQ_BF16,
        ("ne", Bf16) => &SETP_NE_BF16,
        ("lt", Bf16) => &SETP_LT_BF16,
        ("le", Bf16) => &SETP_LE_BF16,
        ("num", Bf16) => &SETP_NUM_BF16,
        (_, Type::F16x2) => &SETP_F16X2,
        (_, Type::Bf16x2) => &SETP_BF16X2,
        _ => return None,
    })
}

/// Everything of a comparison but its destination: `.cmp{.bool}{.ftz}`, the type, a, b and c.
fn comparison(
    mods: &mut Mods<'_>,
    result: Option<&mut Type>,
    sources: &[Operand],
    lower: &mut Lower<'_>,
) -> Result<(Inst, Type), Reject> {
    let name = mods.take().ok_or("a comparison is missing")?.to_string();
    let combine = mods.one_of(&["and", "or", "xor"]);
    let ftz = mods.eat("ftz");
    if let Some(result) = result {
        *result = mods.ty()?;
    }
    let ty = mods.ty()?;
    let how = compare(&name, ty.is_float()).ok_or_else(|| Reject(format!("unknown comparison .{name}")))?;
    let op = test(how.base, ty).ok_or_else(|| reject_type(ty))?;
    let wanted = if combine.is_some() { 3 } else { 2 };
    if sources.len() != wanted {
        return Err(Reject(format!("{} sources where {wanted} are expected", sources.len())));
    }
    if ftz && ty != F32 {
        return Err(Reject("unknown modifier .ftz".into()));
    }
    let (a, b) = if how.swap { (&sources[1], &sources[0]) } else { (&sources[0], &sources[1]) };
    let (c, not_c) = match combine {
        Some(_) => lower.src_pred(&sources[2])?,
        None => lower.src_pred(&Operand::Int(1))?,
    };
    let on = |condition: bool, flag: u32| if condition { flag } else { 0 };
    let y = on(how.not, flag::NOT)
        | on(not_c, flag::NOT_C)
        | on(combine == Some("or"), flag::OR)
        | on(combine == Some("xor"), flag::XOR)
        | on(ftz, flag::FTZ);
    let packed = PACKED.iter().position(|&p| p == how.base).unwrap_or(0) as u32;
    Ok((Inst { a: lower.src(a, ty)?, b: lower.src(b, ty)?, c, x: packed, y, ..lower.inst(op, Class::Int) }, ty))
}

/// `setp.cmp{.bool}{.ftz}.type p{|q}, a, b{, {!}c}`.
fn setp(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    let (destination, sources) = stmt.operands.split_first().ok_or("no operands")?;
    let (inst, _) = comparison(&mut mods, None, sources, lower)?;
    mods.done()?;
    let (d, m) = match destination {
        Operand::Pair(p, q) => (lower.dst_pred(p)?, lower.dst_pred(q)?),
        p => (lower.dst_pred(p)?, lower.dst_pred(&Operand::Sink)?),
    };
    Ok(Inst { d, m, ..inst })
}

/// `set.cmp{.bool}{.ftz}.dtype.stype d, a, b{, {!}c}`.
fn set(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    let (destination, sources) = stmt.operands.split_first().ok_or("no operands")?;
    let mut result = U32;
    let (mut inst, source) = comparison(&mut mods, Some(&mut result), sources, lower)?;
    mods.done()?;
    let packed = matches!(source, Type::F16x2 | Type::Bf16x2);
    // Packed results hold the 16-bit pattern of true in the upper half of `x`, beside the comparison.
    inst.x = match (result, packed) {
        (U32 | S32, false) => u32::MAX,
        (U16 | S16, false) => 0xffff,
        (F32, false) => 0x3f80_0000,
        (F16, false) => 0x3c00,
        (Bf16, false) => 0x3f80,
        (U32 | S32, true) => inst.x | 0xffff << 16,
        (Type::F16x2, true) => inst.x | 0x3c00 << 16,
        (Type::Bf16x2, true) => inst.x | 0x3f80 << 16,
        _ => return Err(reject_type(result)),
    };
    inst.y |= flag::SET;
    inst.d = lower.dst(destination, result)?;
    Ok(inst)
}

/// `testp.class.type p, a`.
fn testp(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    let class = mods.take().ok_or("a class is missing")?;
    let ty = mods.ty()?;
    mods.done()?;
    let (op, not): (&Op, bool) = match (class, ty) {
        ("finite", F32) => (&TESTP_FINITE_F32, false),
        ("infinite", F32) => (&TESTP_INFINITE_F32, false),
        ("number", F32) => (&TESTP_NAN_F32, true),
        ("notanumber", F32) => (&TESTP_NAN_F32, false),
        ("normal", F32) => (&TESTP_NORMAL_F32, false),
        ("subnormal", F32) => (&TESTP_SUBNORMAL_F32, false),
        ("finite", F64) => (&TESTP_FINITE_F64, false),
        ("infinite", F64) => (&TESTP_INFINITE_F64, false),
        ("number", F64) => (&TESTP_NAN_F64, true),
        ("notanumber", F64) => (&TESTP_NAN_F64, false),
        ("normal", F64) => (&TESTP_NORMAL_F64, false),
        ("subnormal", F64) => (&TESTP_SUBNORMAL_F64, false),
        (_, F32 | F64) => return Err(Reject(format!("unknown modifier .{class}"))),
        _ => return Err(reject_type(ty)),
    };
    let [p, a] = operands(stmt)?;
    let a = lower.src(a, ty)?;
    Ok(Inst {
        d: lower.dst_pred(p)?,
        m: lower.dst_pred(&Operand::Sink)?,
        a,
        b: a,
        c: lower.src_pred(&Operand::Int(1))?.0,
        y: if not { flag::NOT } else { 0 },
        ..lower.inst(op, Class::Int)
    })
}

/// `selp.type d, a, b, {!}p`: `a` where the predicate holds.
fn selp(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    let ty = mods.ty()?;
    mods.done()?;
    let op = match ty.bits() {
        16 | 32 => &SELP_32,
        64 => &SELP_64,
        _ => return Err(reject_type(ty)),
    };
    let [d, a, b, p] = operands(stmt)?;
    let (c, negated) = lower.src_pred(p)?;
    let x = if negated { u32::MAX } else { 0 };
    Ok(Inst { d: lower.dst(d, ty)?, a: lower.src(a, ty)?, b: lower.src(b, ty)?, c, x, ..lower.inst(op, Class::Int) })
}

/// `slct{.ftz}.dtype.ctype d, a, b, c`: `a` where c >= 0.
fn slct(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    let ftz = mods.eat("ftz");
    let (ty, condition) = (mods.ty()?, mods.ty()?);
    mods.done()?;
    let op = match (ty.bits(), condition) {
        (16 | 32, S32) => &SLCT_32_S32,
        (64, S32) => &SLCT_64_S32,
        (16 | 32, F32) => &SLCT_32_F32,
        (64, F32) => &SLCT_64_F32,
        _ => return Err(reject_type(condition)),
    };
    let [d, a, b, c] = operands(stmt)?;
    Ok(Inst {
        d: lower.dst(d, ty)?,
        a: lower.src(a, ty)?,
        b: lower.src(b, ty)?,
        c: lower.src(c, condition)?,
        y: if ftz { flag::FTZ } else { 0 },
        ..lower.inst(op, Class::Int)
    })
}

/// `and.pred`, `or.pred`, `xor.pred`, `not.pred`, `mov.pred`.
fn logic(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    mods.ty()?;
    mods.done()?;
    if matches!(stmt.op(), "not" | "mov") {
        let [d, a] = operands(stmt)?;
        let (a, negated) = lower.src_pred(a)?;
        let x = u32::from(negated != (stmt.op() == "not"));
        return Ok(Inst { d: lower.dst_pred(d)?, a, x, ..lower.inst(&PRED_MOV, Class::Int) });
    }
    let op = match stmt.op() {
        "and" => &PRED_AND,
        "or" => &PRED_OR,
        _ => &PRED_XOR,
    };
    let [d, a, b] = operands(stmt)?;
    let ((a, not_a), (b, not_b)) = (lower.src_pred(a)?, lower.src_pred(b)?);
    let x = u32::from(not_a) | u32::from(not_b) << 1;
    Ok(Inst { d: lower.dst_pred(d)?, a, b, x, ..lower.inst(op, Class::Int) })
}
