//! Decoding of products with a carry: `mad.cc`, `madc{.cc}`.

use super::{Decoded, Lower, Mods, operands, reject_type};
use crate::exec::extended::*;
use crate::ir::{Class, Inst};
use crate::ptx::{Statement, Type};

/// Decodes a statement of this family.
pub fn decode(stmt: &Statement, lower: &mut Lower<'_>) -> Option<Decoded> {
    let mine = stmt.op() == "madc" || stmt.op() == "mad" && stmt.has("cc");
    mine.then(|| product(stmt, lower))
}

fn product(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    let high = mods.one_of(&["lo", "hi"]).ok_or(".lo or .hi is expected")? == "hi";
    let (takes, keeps) = (stmt.op() == "madc", mods.eat("cc"));
    let ty = mods.ty()?;
    mods.done()?;
    let op = match (ty, high) {
        // The lower half of a product is the same with and without signs.
        (Type::U32 | Type::S32, false) => &MAD_LO_CARRY_32,
        (Type::U64 | Type::S64, false) => &MAD_LO_CARRY_64,
        (Type::U32, true) => &MAD_HI_CARRY_32,
        (Type::U64, true) => &MAD_HI_CARRY_64,
        _ => return Err(reject_type(ty)),
    };
    let [d, a, b, c] = operands(stmt)?;
    let (a, b, c) = (lower.src(a, ty)?, lower.src(b, ty)?, lower.src(c, ty)?);
    let x = u32::from(takes) | u32::from(keeps) << 1;
    Ok(Inst { d: lower.dst(d, ty)?, a, b, c, x, ..lower.inst(op, Class::Int) })
}
