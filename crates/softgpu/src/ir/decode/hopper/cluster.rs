//! Decoding of what clusters add: addresses in the memory of other CTAs, and their common barrier.

use super::super::{Decoded, Lower, Mods, Reject, operands};
use crate::exec::hopper::cluster::{self as ops, form};
use crate::ir::{Class, Inst, Kind};
use crate::ptx::{Operand, Statement, Type};

/// `mapa{.shared::cluster}.type d, a, rank` and `getctarank{.shared::cluster}.type d, a`: whether addresses are generic,
/// and their type.
fn space(stmt: &Statement, lower: &Lower<'_>) -> Result<(u32, Type), Reject> {
    lower.needs(90)?;
    let mut mods = Mods::new(stmt);
    let generic = u32::from(!mods.eat("shared::cluster"));
    let ty = mods.ty()?;
    mods.done()?;
    match (generic, ty) {
        (0, Type::U32) | (1, Type::U64) => Ok((generic, ty)),
        _ => Err(Reject(format!("addresses of type .{} here", ty.name()))),
    }
}

/// `mapa`
pub fn map(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let (y, ty) = space(stmt, lower)?;
    let [d, at, rank] = operands(stmt)?;
    let (a, b) = (lower.src(at, ty)?, lower.src(rank, Type::U32)?);
    Ok(Inst { d: lower.dst(d, ty)?, a, b, y, kind: Kind::Effect, ..lower.inst(&ops::MAP, Class::Int) })
}

/// `getctarank`: the rank has 32 bits, and the type is that of the address.
pub fn rank(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let (y, ty) = space(stmt, lower)?;
    let [d, at] = operands(stmt)?;
    let a = lower.src(at, ty)?;
    Ok(Inst { d: lower.dst(d, Type::U32)?, a, y, kind: Kind::Effect, ..lower.inst(&ops::RANK, Class::Int) })
}

/// `barrier.cluster.{arrive{.release|.relaxed}|wait{.acquire}}{.aligned}`, from `arrive` or `wait` on.
pub fn barrier(stmt: &Statement, mut mods: Mods<'_>, lower: &mut Lower<'_>) -> Decoded {
    lower.needs(90)?;
    let verb = mods.one_of(&["arrive", "wait"]).ok_or(".arrive or .wait is expected")?;
    let orders = if verb == "arrive" { ["release", "relaxed"] } else { ["acquire", "acquire"] };
    let relaxed = mods.one_of(&orders) == Some("relaxed");
    let aligned = mods.eat("aligned");
    mods.done()?;
    let [] = operands(stmt)?;
    let op = if verb == "arrive" { &ops::ARRIVE } else { &ops::WAIT };
    let y = if aligned { form::ALIGNED } else { 0 } | if relaxed { form::RELAXED } else { 0 };
    let inst = Inst { y, ..lower.inst(op, Class::Barrier) };
    if !aligned {
        // Each split of a warp comes on its own.
        return Ok(Inst { kind: Kind::Effect, ..inst });
    }
    let m = lower.src(&Operand::Int(-1), Type::B32)?;
    Ok(Inst { m, kind: Kind::Sync, ..inst })
}
