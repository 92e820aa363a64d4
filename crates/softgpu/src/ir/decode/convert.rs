//! Decoding of `cvt`.

use super::{Decoded, Lower, Mods, Reject, operands, reject_type};
use crate::exec::Op;
use crate::exec::convert::*;
use crate::exec::float::{COPY_F32, COPY_F64, Form, INTEGRAL_F32, INTEGRAL_F64};
use crate::ir::{Class, Inst};
use crate::num::Rounding;
use crate::num::convert::{Conversion, Number};
use crate::ptx::{Operand, Statement, Type};

/// Decodes a statement of this family.
pub fn decode(stmt: &Statement, lower: &mut Lower<'_>) -> Option<Decoded> {
    if stmt.op() != "cvt" {
        return None;
    }
    Some(if stmt.has("pack") { pack_integers(stmt, lower) } else { cvt(stmt, lower) })
}

/// The arithmetic type of a modifier.
fn number(ty: Type) -> Result<Number, Reject> {
    Ok(match ty {
        Type::U8 => Number::U8,
        Type::S8 => Number::S8,
        Type::U16 => Number::U16,
        Type::S16 => Number::S16,
        Type::U32 => Number::U32,
        Type::S32 => Number::S32,
        Type::U64 => Number::U64,
        Type::S64 => Number::S64,
        Type::F16 => Number::F16,
        Type::Bf16 => Number::Bf16,
        Type::F32 => Number::F32,
        Type::F64 => Number::F64,
        _ => return Err(reject_type(ty)),
    })
}

/// The modifiers in front of the types.
struct Modifiers {
    /// `.rn`, `.rni` and their kin.
    rounding: Option<Rounding>,
    /// Whether it is one of the `i` forms.
    integral: bool,
    /// `.rna`.
    away: bool,
    ftz: bool,
    sat: bool,
    relu: bool,
    satfinite: bool,
}

fn modifiers(mods: &mut Mods<'_>) -> Modifiers {
    let name = mods.one_of(&["rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi", "rna"]);
    let rounding = name.map(|name| match name {
        "rz" | "rzi" => Rounding::Zero,
        "rm" | "rmi" => Rounding::Down,
        "rp" | "rpi" => Rounding::Up,
        _ => Rounding::Nearest,
    });
    let mut found = Modifiers {
        rounding,
        integral: name.is_some_and(|name| name.ends_with('i')),
        away: name == Some("rna"),
        ftz: false,
        sat: false,
        relu: false,
        satfinite: false,
    };
    while let Some(name) = mods.one_of(&["ftz", "sat", "relu", "satfinite"]) {
        match name {
            "ftz" => found.ftz = true,
            "sat" => found.sat = true,
            "relu" => found.relu = true,
            _ => found.satfinite = true,
        }
    }
    found
}

/// `cvt{modifiers}.dtype.atype`.
fn cvt(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    let found = modifiers(&mut mods);
    let (to, from) = (mods.ty()?, mods.ty()?);
    mods.done()?;
    if let Type::F16x2 | Type::Bf16x2 | Type::Tf32 = to {
        return from_f32(stmt, lower, &found, to, from);
    }
    let form = conversion(&found, number(from)?, number(to)?)?;
    let [d, a] = operands(stmt)?;
    // Registers may be wider than the types of the instruction.
    let register = lower.reg_type(d).unwrap_or(to);
    let register = if register.bits() < 16 { Type::B16 } else { register };
    let source = match lower.reg_type(a) {
        Some(ty) if ty.bits() == 64 => Type::B64,
        Some(_) if from.bits() < 64 => from,
        Some(ty) => {
            return Err(Reject(format!("a register of type .{} where .{} is expected", ty.name(), from.name())));
        }
        None => from,
    };
    if register.bits() < to.bits() {
        return Err(Reject(format!("a register of type .{} where .{} is expected", register.name(), to.name())));
    }
    let (a, d) = (lower.src(a, source)?, lower.dst(d, register)?);
    let (op, x, y) = choose(form, source.bits() == 64, register.bits());
    Ok(Inst { d, a, x, y, ..lower.inst(op, Class::Convert) })
}

/// Which rounding a conversion needs, and which modifiers it may have.
fn conversion(found: &Modifiers, from: Number, to: Number) -> Result<Conversion, Reject> {
    let (float_from, float_to) = (from.format().is_some(), to.format().is_some());
    let exact = float_from && float_to && (from == to || from.bits() < to.bits());
    let wants = match (float_from, float_to) {
        (true, false) => found.rounding.is_some() && found.integral,
        (false, false) => found.rounding.is_none(),
        _ if exact => found.rounding.is_none() || (found.integral && from == to),
        _ => found.rounding.is_some() && !found.integral,
    };
    if !wants || found.away {
        return Err(Reject("the rounding modifier is wrong or missing".into()));
    }
    if found.ftz && from != Number::F32 && to != Number::F32 {
        return Err(Reject("unknown modifier .ftz".into()));
    }
    if (found.relu || found.satfinite) && (from != Number::F32 || !matches!(to, Number::F16 | Number::Bf16)) {
        return Err(Reject(".relu and .satfinite exist only for halves made of .f32".into()));
    }
    Ok(Conversion {
        rounding: found.rounding.unwrap_or(Rounding::Nearest),
        integral: found.integral && float_to,
        ftz: found.ftz,
        sat: found.sat,
        relu: found.relu,
        satfinite: found.satfinite,
        ..Conversion::plain(from, to)
    })
}

/// The operation for a conversion, and its `x` and `y`.
fn choose(form: Conversion, wide_source: bool, register_bits: u32) -> (&'static Op, u32, u32) {
    use Number::{Bf16, F16, F32, F64, S32, S64, U32, U64};
    let (from, to) = (form.from, form.to);
    let own_width = wide_source == (from.bits() == 64) && register_bits == to.bits().max(16);
    let modified = form.ftz || form.sat || form.relu || form.satfinite || form.integral;
    let nearest = form.rounding == Rounding::Nearest;
    if from.format().is_none() && to.format().is_none() && !form.sat {
        let (x, y) = extension(from, to, register_bits);
        let op = match (from, to) {
            (S32, S64) if own_width => &S32_TO_S64,
            (U32, U64 | S64) if own_width => &U32_TO_U64,
            (U64 | S64, U32 | S32) if own_width => &U64_TO_U32,
            _ => match (wide_source, register_bits == 64) {
                (false, false) => &EXTEND_32,
                (false, true) => &EXTEND_32_TO_64,
                (true, false) => &EXTEND_64_TO_32,
                (true, true) => &EXTEND_64,
            },
        };
        return (op, x, y);
    }
    let whole = Form { rounding: form.rounding, ftz: form.ftz, sat: form.sat }.pack();
    let op = match (from, to) {
        (F32, F32) if own_width => return (if form.integral { &INTEGRAL_F32 } else { &COPY_F32 }, whole, 0),
        (F64, F64) => return (if form.integral { &INTEGRAL_F64 } else { &COPY_F64 }, whole, 0),
        // Clamping to the range is what these do in any case; flushing matters only where rounding is away from zero.
        (F32, S32) if own_width && !form.ftz => &F32_TO_S32,
        (F32, U32) if own_width && !form.ftz => &F32_TO_U32,
        _ if !own_width || modified || !nearest => &ANY,
        (S32, F32) => &S32_TO_F32,
        (U32, F32) => &U32_TO_F32,
        (S64, F32) => &S64_TO_F32,
        (U64, F32) => &U64_TO_F32,
        (S32, F64) => &S32_TO_F64,
        (U32, F64) => &U32_TO_F64,
        (F16, F32) => &F16_TO_F32,
        (Bf16, F32) => &BF16_TO_F32,
        (F32, F16) => &F32_TO_F16,
        (F32, Bf16) => &F32_TO_BF16,
        (F32, F64) => &F32_TO_F64,
        (F64, F32) => &F64_TO_F32,
        _ => &ANY,
    };
    (op, form.pack(), register_bits | if wide_source { flag::WIDE_SOURCE } else { 0 })
}

/// `cvt` of f32 to packed halves and to tf32.
fn from_f32(stmt: &Statement, lower: &mut Lower<'_>, found: &Modifiers, to: Type, from: Type) -> Decoded {
    if from != Type::F32 || found.ftz || found.sat {
        return Err(Reject(format!(
            "cvt of .{} to .{} with these modifiers is not implemented",
            from.name(),
            to.name()
        )));
    }
    let mode = found.rounding.filter(|_| !found.integral).ok_or("the rounding modifier is wrong or missing")?;
    let half = if to == Type::F16x2 { Number::F16 } else { Number::Bf16 };
    let form = Conversion {
        rounding: mode,
        relu: found.relu,
        satfinite: found.satfinite,
        ..Conversion::plain(Number::F32, half)
    };
    if to == Type::Tf32 {
        let [d, a] = operands(stmt)?;
        let y = if found.away { flag::AWAY } else { 0 };
        let (d, a) = (lower.dst(d, Type::B32)?, lower.src(a, from)?);
        return Ok(Inst { d, a, x: form.pack(), y, ..lower.inst(&F32_TO_TF32, Class::Convert) });
    }
    if found.away || matches!(mode, Rounding::Down | Rounding::Up) {
        return Err(Reject("the rounding modifier is wrong or missing".into()));
    }
    let plain = mode == Rounding::Nearest && !found.relu && !found.satfinite;
    let op = match (half, plain) {
        (Number::F16, true) => &F32_TO_F16X2,
        (_, true) => &F32_TO_BF16X2,
        _ => &PACK_ANY,
    };
    let [d, a, b] = operands(stmt)?;
    let (d, a, b) = (lower.dst(d, Type::B32)?, lower.src(a, from)?, lower.src(b, from)?);
    Ok(Inst { d, a, b, x: form.pack(), ..lower.inst(op, Class::Convert) })
}

/// `cvt.pack.sat.{u16,s16}.s32 d, a, b` and `cvt.pack.sat.{u8,s8}.s32.b32 d, a, b, c`.
fn pack_integers(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    if !(mods.eat("pack") && mods.eat("sat")) {
        return Err(Reject(".pack.sat is expected".into()));
    }
    let (to, from) = (mods.ty()?, mods.ty()?);
    let bytes = to.bits() == 8;
    if !matches!(to, Type::U8 | Type::S8 | Type::U16 | Type::S16)
        || from != Type::S32
        || (bytes && mods.ty()? != Type::B32)
    {
        return Err(reject_type(to));
    }
    mods.done()?;
    let zero = Operand::Int(0);
    let [d, a, b, c] = match stmt.operands.as_slice() {
        [d, a, b] if !bytes => [d, a, b, &zero],
        [d, a, b, c] if bytes => [d, a, b, c],
        others => return Err(Reject(format!("{} operands are not what this form takes", others.len()))),
    };
    Ok(Inst {
        d: lower.dst(d, Type::U32)?,
        a: lower.src(a, from)?,
        b: lower.src(b, from)?,
        c: lower.src(c, Type::B32)?,
        x: Conversion::plain(Number::S32, number(to)?).pack(),
        ..lower.inst(&PACK_INTEGERS, Class::Convert)
    })
}
