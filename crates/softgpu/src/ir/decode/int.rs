//! Decoding of integer arithmetic, logic, shifts, bit manipulation and moves.

use super::{Decoded, Lower, Mods, Reject, operands, reject_type};
use crate::exec::Op;
use crate::exec::bits::*;
use crate::exec::int::*;
use crate::ir::{Class, Inst};
use crate::ptx::{Operand, Statement, Type};
use Type::{B16, B32, B64, S16, S32, S64, U16, U32, U64};

/// Decodes a statement of this family.
pub fn decode(stmt: &Statement, lower: &mut Lower<'_>) -> Option<Decoded> {
    let ty = stmt.last_type();
    if ty.is_some_and(|t| t == Type::Pred || (t.is_float() && stmt.op() != "mov")) {
        return None;
    }
    Some(match stmt.op() {
        "add" | "sub" if stmt.has("cc") => carry(stmt, lower),
        "addc" | "subc" => carry(stmt, lower),
        "add" | "sub" => add(stmt, lower),
        "mul" | "mad" => product(stmt, lower),
        "div" | "rem" => quotient(stmt, lower),
        "neg" | "abs" | "not" | "cnot" | "brev" | "clz" | "popc" => unary(stmt, lower),
        "min" | "max" => extremum(stmt, lower),
        "and" | "or" | "xor" => logic(stmt, lower),
        "shl" | "shr" => shift(stmt, lower),
        "shf" => funnel(stmt, lower),
        "sad" => sad(stmt, lower),
        "bfe" | "bfi" | "bfind" | "bmsk" | "szext" => field(stmt, lower),
        "prmt" => prmt(stmt, lower),
        "lop3" => lop3(stmt, lower),
        "mov" => mov(stmt, lower),
        _ => return None,
    })
}

/// `op d, a, b` with all three of one type.
fn two(stmt: &Statement, lower: &mut Lower<'_>, op: &Op, ty: Type) -> Decoded {
    let [d, a, b] = operands(stmt)?;
    Ok(Inst { d: lower.dst(d, ty)?, a: lower.src(a, ty)?, b: lower.src(b, ty)?, ..lower.inst(op, Class::Int) })
}

/// `add`, `sub`.
fn add(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    if stmt.op() == "add" && mods.one_of(&["u16x2", "s16x2"]).is_some() {
        mods.done()?;
        return two(stmt, lower, &ADD_16X2, B32);
    }
    let saturate = mods.eat("sat");
    let ty = mods.ty()?;
    mods.done()?;
    let op = match (stmt.op(), ty, saturate) {
        ("add", S32, true) => &ADD_SAT_S32,
        ("sub", S32, true) => &SUB_SAT_S32,
        (_, _, true) => return Err(reject_type(ty)),
        ("add", S16 | U16, _) => &ADD_16,
        ("add", S32 | U32, _) => &ADD_32,
        ("add", S64 | U64, _) => &ADD_64,
        ("sub", S16 | U16, _) => &SUB_16,
        ("sub", S32 | U32, _) => &SUB_32,
        ("sub", S64 | U64, _) => &SUB_64,
        _ => return Err(reject_type(ty)),
    };
    two(stmt, lower, op, ty)
}

/// `add.cc`, `addc{.cc}`, `sub.cc`, `subc{.cc}`: the links of longer sums.
fn carry(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    let (takes, keeps) = (stmt.op().ends_with('c'), mods.eat("cc"));
    let ty = mods.ty()?;
    mods.done()?;
    let op = match (stmt.op(), ty) {
        ("add" | "addc", U32 | S32) => &ADD_CARRY_32,
        ("add" | "addc", U64 | S64) => &ADD_CARRY_64,
        (_, U32 | S32) => &SUB_BORROW_32,
        (_, U64 | S64) => &SUB_BORROW_64,
        _ => return Err(reject_type(ty)),
    };
    Ok(Inst { x: u32::from(takes) | u32::from(keeps) << 1, ..two(stmt, lower, op, ty)? })
}

/// `mul` and `mad` in `.lo`, `.hi` and `.wide`.
fn product(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    let part = mods.one_of(&["lo", "hi", "wide"]).ok_or("one of .lo, .hi and .wide is expected")?;
    let ty = mods.ty()?;
    mods.done()?;
    let (op, mad): (&Op, &Op) = match (part, ty) {
        ("lo", S16 | U16) => (&MUL_LO_16, &MAD_LO_16),
        ("lo", S32 | U32) => (&MUL_LO_32, &MAD_LO_32),
        ("lo", S64 | U64) => (&MUL_LO_64, &MAD_LO_64),
        ("hi", U16) if stmt.op() == "mul" => (&MUL_HI_U16, &MUL_HI_U16),
        ("hi", S16) if stmt.op() == "mul" => (&MUL_HI_S16, &MUL_HI_S16),
        ("hi", U32) => (&MUL_HI_U32, &MAD_HI_U32),
        ("hi", S32) => (&MUL_HI_S32, &MAD_HI_S32),
        ("hi", U64) => (&MUL_HI_U64, &MAD_HI_U64),
        ("hi", S64) => (&MUL_HI_S64, &MAD_HI_S64),
        ("wide", U16) => (&MUL_WIDE_U16, &MAD_WIDE_U16),
        ("wide", S16) => (&MUL_WIDE_S16, &MAD_WIDE_S16),
        ("wide", U32) => (&MUL_WIDE_U32, &MAD_WIDE_U32),
        ("wide", S32) => (&MUL_WIDE_S32, &MAD_WIDE_S32),
        _ => return Err(reject_type(ty)),
    };
    let result = match (part, ty) {
        ("wide", U16) => U32,
        ("wide", S16) => S32,
        ("wide", U32) => U64,
        ("wide", S32) => S64,
        _ => ty,
    };
    if stmt.op() == "mul" {
        let [d, a, b] = operands(stmt)?;
        return Ok(Inst {
            d: lower.dst(d, result)?,
            a: lower.src(a, ty)?,
            b: lower.src(b, ty)?,
            ..lower.inst(op, Class::Int)
        });
    }
    let [d, a, b, c] = operands(stmt)?;
    Ok(Inst {
        d: lower.dst(d, result)?,
        a: lower.src(a, ty)?,
        b: lower.src(b, ty)?,
        c: lower.src(c, result)?,
        ..lower.inst(mad, Class::Int)
    })
}

/// One modifier, a type.
fn only_type(stmt: &Statement) -> Result<Type, Reject> {
    let mut mods = Mods::new(stmt);
    let ty = mods.ty()?;
    mods.done()?;
    Ok(ty)
}

/// `div`, `rem`.
fn quotient(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let ty = only_type(stmt)?;
    let (div, rem): (&Op, &Op) = match ty {
        U16 => (&DIV_U16, &REM_U16),
        S16 => (&DIV_S16, &REM_S16),
        U32 => (&DIV_U32, &REM_U32),
        S32 => (&DIV_S32, &REM_S32),
        U64 => (&DIV_U64, &REM_U64),
        S64 => (&DIV_S64, &REM_S64),
        _ => return Err(reject_type(ty)),
    };
    two(stmt, lower, if stmt.op() == "div" { div } else { rem }, ty)
}

/// Operations with one operand.
fn unary(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let ty = only_type(stmt)?;
    let (op, result): (&Op, Type) = match (stmt.op(), ty) {
        ("neg", S16) => (&NEG_16, ty),
        ("neg", S32) => (&NEG_32, ty),
        ("neg", S64) => (&NEG_64, ty),
        ("abs", S16) => (&ABS_16, ty),
        ("abs", S32) => (&ABS_32, ty),
        ("abs", S64) => (&ABS_64, ty),
        ("not", B16) => (&NOT_16, ty),
        ("not", B32) => (&NOT_32, ty),
        ("not", B64) => (&NOT_64, ty),
        ("cnot", B16) => (&CNOT_16, ty),
        ("cnot", B32) => (&CNOT_32, ty),
        ("cnot", B64) => (&CNOT_64, ty),
        ("brev", B32) => (&BREV_32, ty),
        ("brev", B64) => (&BREV_64, ty),
        ("clz", B32) => (&CLZ_32, U32),
        ("clz", B64) => (&CLZ_64, U32),
        ("popc", B32) => (&POPC_32, U32),
        ("popc", B64) => (&POPC_64, U32),
        _ => return Err(reject_type(ty)),
    };
    let [d, a] = operands(stmt)?;
    Ok(Inst { d: lower.dst(d, result)?, a: lower.src(a, ty)?, ..lower.inst(op, Class::Int) })
}

/// `min`, `max`, also of packed 16-bit integers.
fn extremum(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    let smaller = stmt.op() == "min";
    let choose = |min: &'static Op, max: &'static Op| if smaller { min } else { max };
    if let Some(packed) = mods.one_of(&["u16x2", "s16x2"]) {
        mods.done()?;
        let op = if packed == "u16x2" { choose(&MIN_U16X2, &MAX_U16X2) } else { choose(&MIN_S16X2, &MAX_S16X2) };
        return two(stmt, lower, op, B32);
    }
    // CUDA's headers write `.relu` behind the type.
    let before = mods.eat("relu");
    let ty = mods.ty()?;
    let relu = before || mods.eat("relu");
    mods.done()?;
    let op = match (ty, relu) {
        (S32, true) => choose(&MIN_RELU_S32, &MAX_RELU_S32),
        (_, true) => return Err(reject_type(ty)),
        (U16, _) => choose(&MIN_U16, &MAX_U16),
        (S16, _) => choose(&MIN_S16, &MAX_S16),
        (U32, _) => choose(&MIN_U32, &MAX_U32),
        (S32, _) => choose(&MIN_S32, &MAX_S32),
        (U64, _) => choose(&MIN_U64, &MAX_U64),
        (S64, _) => choose(&MIN_S64, &MAX_S64),
        _ => return Err(reject_type(ty)),
    };
    two(stmt, lower, op, ty)
}

/// `and`, `or`, `xor` on registers. Values of 16 bits are zero-extended, and stay so.
fn logic(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let ty = only_type(stmt)?;
    let op = match (stmt.op(), ty) {
        ("and", B16 | B32) => &AND_32,
        ("and", B64) => &AND_64,
        ("or", B16 | B32) => &OR_32,
        ("or", B64) => &OR_64,
        ("xor", B16 | B32) => &XOR_32,
        ("xor", B64) => &XOR_64,
        _ => return Err(reject_type(ty)),
    };
    two(stmt, lower, op, ty)
}

/// `shl`, `shr`: the count is a 32-bit value for every type.
fn shift(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let ty = only_type(stmt)?;
    let op = match (stmt.op(), ty) {
        ("shl", B16) => &SHL_16,
        ("shl", B32) => &SHL_32,
        ("shl", B64) => &SHL_64,
        ("shr", B16 | U16) => &SHR_U16,
        ("shr", B32 | U32) => &SHR_U32,
        ("shr", B64 | U64) => &SHR_U64,
        ("shr", S16) => &SHR_S16,
        ("shr", S32) => &SHR_S32,
        ("shr", S64) => &SHR_S64,
        _ => return Err(reject_type(ty)),
    };
    let [d, a, n] = operands(stmt)?;
    Ok(Inst { d: lower.dst(d, ty)?, a: lower.src(a, ty)?, b: lower.src(n, U32)?, ..lower.inst(op, Class::Int) })
}

/// `op d, a, b, c` on 32-bit values.
fn three(stmt: &Statement, lower: &mut Lower<'_>, op: &Op, types: [Type; 3]) -> Decoded {
    let [d, a, b, c] = operands(stmt)?;
    let [first, second, third] = types;
    Ok(Inst {
        d: lower.dst(d, first)?,
        a: lower.src(a, first)?,
        b: lower.src(b, second)?,
        c: lower.src(c, third)?,
        ..lower.inst(op, Class::Int)
    })
}

/// `shf`.
fn funnel(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    let op = match (mods.take(), mods.take()) {
        (Some("l"), Some("wrap")) => &SHF_L_WRAP,
        (Some("l"), Some("clamp")) => &SHF_L_CLAMP,
        (Some("r"), Some("wrap")) => &SHF_R_WRAP,
        (Some("r"), Some("clamp")) => &SHF_R_CLAMP,
        _ => return Err(Reject("one of .l and .r, then one of .wrap and .clamp is expected".into())),
    };
    if mods.ty()? != B32 {
        return Err(Reject("type .b32 is expected".into()));
    }
    mods.done()?;
    three(stmt, lower, op, [B32, B32, U32])
}

/// `sad`.
fn sad(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let ty = only_type(stmt)?;
    let op = match ty {
        U16 => &SAD_U16,
        S16 => &SAD_S16,
        U32 => &SAD_U32,
        S32 => &SAD_S32,
        U64 => &SAD_U64,
        S64 => &SAD_S64,
        _ => return Err(reject_type(ty)),
    };
    three(stmt, lower, op, [ty; 3])
}

/// Bit fields.
fn field(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    let mode = mods.one_of(&["clamp", "wrap", "shiftamt"]);
    let ty = mods.ty()?;
    mods.done()?;
    match (stmt.op(), ty, mode) {
        ("bfe", U32, None) => three(stmt, lower, &BFE_U32, [ty, U32, U32]),
        ("bfe", S32, None) => three(stmt, lower, &BFE_S32, [ty, U32, U32]),
        ("bfe", U64, None) => three(stmt, lower, &BFE_U64, [ty, U32, U32]),
        ("bfe", S64, None) => three(stmt, lower, &BFE_S64, [ty, U32, U32]),
        ("bfi", B32 | B64, None) => {
            let [d, a, b, at, length] = operands(stmt)?;
            let op = if ty == B32 { &BFI_32 } else { &BFI_64 };
            Ok(Inst {
                d: lower.dst(d, ty)?,
                a: lower.src(a, ty)?,
                b: lower.src(b, ty)?,
                c: lower.src(at, U32)?,
                m: lower.src(length, U32)?,
                ..lower.inst(op, Class::Int)
            })
        }
        ("bfind", _, None | Some("shiftamt")) => {
            let op = match ty {
                U32 => &BFIND_U32,
                S32 => &BFIND_S32,
                U64 => &BFIND_U64,
                S64 => &BFIND_S64,
                _ => return Err(reject_type(ty)),
            };
            let [d, a] = operands(stmt)?;
            let x = if mode.is_some() { ty.bits() - 1 } else { 0 };
            Ok(Inst { d: lower.dst(d, U32)?, a: lower.src(a, ty)?, x, ..lower.inst(op, Class::Int) })
        }
        ("bmsk", B32, Some("clamp")) => two(stmt, lower, &BMSK_CLAMP, ty),
        ("bmsk", B32, Some("wrap")) => two(stmt, lower, &BMSK_WRAP, ty),
        ("szext", U32, Some("clamp")) => two(stmt, lower, &SZEXT_CLAMP_U32, ty),
        ("szext", S32, Some("clamp")) => two(stmt, lower, &SZEXT_CLAMP_S32, ty),
        ("szext", U32, Some("wrap")) => two(stmt, lower, &SZEXT_WRAP_U32, ty),
        ("szext", S32, Some("wrap")) => two(stmt, lower, &SZEXT_WRAP_S32, ty),
        _ => Err(reject_type(ty)),
    }
}

/// `prmt` in its general form and its six modes.
fn prmt(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    if mods.ty()? != B32 {
        return Err(Reject("type .b32 is expected".into()));
    }
    let op = match mods.take() {
        None => &PRMT,
        Some("f4e") => &PRMT_F4E,
        Some("b4e") => &PRMT_B4E,
        Some("rc8") => &PRMT_RC8,
        Some("ecl") => &PRMT_ECL,
        Some("ecr") => &PRMT_ECR,
        Some("rc16") => &PRMT_RC16,
        Some(other) => return Err(Reject(format!("unknown modifier .{other}"))),
    };
    mods.done()?;
    three(stmt, lower, op, [B32; 3])
}

/// `lop3` with its truth table as the last operand.
fn lop3(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let ty = only_type(stmt)?;
    if ty != B32 {
        return Err(reject_type(ty));
    }
    let [d, a, b, c, table] = operands(stmt)?;
    let Operand::Int(table @ 0..=255) = table else {
        return Err(Reject(format!("operand {table:?} where a table of 0 to 255 is expected")));
    };
    Ok(Inst {
        d: lower.dst(d, ty)?,
        a: lower.src(a, ty)?,
        b: lower.src(b, ty)?,
        c: lower.src(c, ty)?,
        x: *table as u32,
        ..lower.inst(&LOP3, Class::Int)
    })
}

/// `mov`: a copy, or the packing and unpacking of `{a, b, ...}`.
fn mov(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let ty = only_type(stmt)?;
    if !matches!(ty.bits(), 16 | 32 | 64) {
        return Err(reject_type(ty));
    }
    let [d, a] = operands(stmt)?;
    let part = |items: &[Operand]| match ty.bits() / items.len().max(1) as u32 {
        8 => Ok(Type::B8),
        16 => Ok(B16),
        32 => Ok(B32),
        bits => Err(Reject(format!("{} parts of {bits} bits", items.len()))),
    };
    let wide = ty.bits() == 64;
    match (d, a) {
        (_, Operand::Vector(items)) => {
            let part = part(items)?;
            let d = lower.dst(d, ty)?;
            if let [low, high] = items.as_slice()
                && ty.bits() >= 32
            {
                let op = if wide { &PACK_32X2 } else { &PACK_16X2 };
                return Ok(Inst {
                    d,
                    a: lower.src(low, part)?,
                    b: lower.src(high, part)?,
                    ..lower.inst(op, Class::Int)
                });
            }
            let (x, count) = lower.src_list(a, part)?;
            let op = if wide { &PACK_64 } else { &PACK_32 };
            Ok(Inst { d, x, y: list_shape(count, part.bits()), ..lower.inst(op, Class::Int) })
        }
        (Operand::Vector(items), _) => {
            let part = part(items)?;
            let a = lower.src(a, ty)?;
            if let [low, high] = items.as_slice()
                && ty.bits() >= 32
            {
                let op = if wide { &UNPACK_32X2 } else { &UNPACK_16X2 };
                return Ok(Inst {
                    a,
                    d: lower.dst(low, part)?,
                    m: lower.dst(high, part)?,
                    ..lower.inst(op, Class::Int)
                });
            }
            let (x, count) = lower.dst_list(d, part)?;
            let op = if wide { &UNPACK_64 } else { &UNPACK_32 };
            Ok(Inst { a, x, y: list_shape(count, part.bits()), ..lower.inst(op, Class::Int) })
        }
        _ => {
            let op = if wide { &MOV_64 } else { &MOV_32 };
            Ok(Inst { d: lower.dst(d, ty)?, a: lower.src(a, ty)?, ..lower.inst(op, Class::Int) })
        }
    }
}
