//! Decoding of copies in bulk, of tensors and of plain bytes.

use super::super::memory::POLICY;
use super::super::{Decoded, Lower, Mods, Reject, operands};
use super::push;
use crate::exec::hopper::bulk::{self as ops, form};
use crate::ir::{Class, Inst, Kind};
use crate::ptx::{Operand, Statement, Type};

/// The completion by a memory barrier.
const BARRIER: &str = "mbarrier::complete_tx::bytes";

/// `prefetch{.param|.const}.tensormap [a]`.
pub fn prefetch_map(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    lower.needs(90)?;
    let mut mods = Mods::new(stmt);
    if mods.peek() != Some("tensormap") {
        return Err("tensor maps are prefetched by generic addresses alone".into());
    }
    mods.eat("tensormap");
    mods.done()?;
    let [map] = operands(stmt)?;
    prefetch(lower, map, 1)
}

fn prefetch(lower: &mut Lower<'_>, at: &Operand, y: u32) -> Decoded {
    let mut list = Vec::new();
    let addr = lower.address(at)?;
    push(&mut list, addr, false)?;
    let x = lower.put(&list);
    Ok(Inst { x, y, kind: Kind::Effect, ..lower.inst(&ops::PREFETCH, Class::Memory) })
}

/// `cp{.reduce}.async.bulk.*`
pub fn copy(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    lower.needs(90)?;
    let mut mods = Mods::new(stmt);
    let reduce = mods.eat("reduce");
    if !(mods.eat("async") && mods.eat("bulk")) {
        return Err(Reject(format!("cp.{} is not implemented", mods.peek().unwrap_or("?"))));
    }
    match mods.peek() {
        Some("commit_group") if !reduce => return commit(stmt, mods, lower),
        Some("wait_group") if !reduce => return wait(stmt, mods, lower),
        Some("prefetch") if !reduce => return prefetch_cache(stmt, mods, lower),
        _ => {}
    }
    let dimensions = dimensions(&mut mods)?;
    let mut y = dimensions;
    let store = match (mods.take(), mods.take()) {
        (Some("global"), Some("shared::cta")) => true,
        (Some("shared::cluster" | "shared::cta"), Some("global")) if !reduce => false,
        (Some("shared::cluster"), Some("shared::cta")) if !reduce && dimensions == 0 => {
            y |= form::BETWEEN;
            false
        }
        (Some(to), Some(from)) => return Err(Reject(format!("copies from .{from} to .{to} are not implemented"))),
        _ => return Err("the spaces of a copy are missing".into()),
    };
    y |= if store { form::STORE } else { 0 };
    let mut action = None;
    if reduce && dimensions != 0 {
        action = mods.take();
    }
    if dimensions != 0 {
        mods.eat("tile");
    }
    let completion = if store { "bulk_group" } else { BARRIER };
    if !mods.eat(completion) {
        return Err(Reject(format!(".{completion} is expected, and not .{}", mods.peek().unwrap_or("nothing"))));
    }
    if !store && y & form::BETWEEN == 0 && mods.eat("multicast::cluster") {
        y |= form::MULTICAST;
    }
    let policy = mods.eat(POLICY);
    if reduce {
        if dimensions == 0 {
            action = mods.take();
        }
        mods.eat("noftz");
        // Of a tensor the map says the type; which one is known when the copy runs.
        let ty = if dimensions == 0 { mods.ty()? } else { Type::B8 };
        let action = action.unwrap_or("?");
        y |= match dimensions {
            0 => ops::encode(action, ty),
            _ => ops::encode_tensor(action),
        }
        .ok_or_else(|| Reject(format!("the reduction .{action} of .{}", ty.name())))?;
    }
    mods.done()?;
    let mut rest = stmt.operands.as_slice();
    if policy {
        // Where data stay in the caches changes no value.
        let [others @ .., hint] = rest else { return Err("a cache policy is missing".into()) };
        lower.src(hint, Type::B64)?;
        rest = others;
    }
    let mut ranks = None;
    if y & form::MULTICAST != 0 {
        let [others @ .., mask] = rest else { return Err("the CTAs of a multicast are missing".into()) };
        ranks = Some(mask);
        rest = others;
    }
    let (global, shared, size, barrier) = match (store, dimensions, rest) {
        (true, 0, [to, from, size]) => (to, from, Some(size), None),
        (true, 1.., [to, from]) => (to, from, None, None),
        (false, 0, [to, from, size, barrier]) => (from, to, Some(size), Some(barrier)),
        (false, 1.., [to, from, barrier]) => (from, to, None, Some(barrier)),
        _ => return Err(Reject(format!("{} operands of a copy", stmt.operands.len()))),
    };
    let mut list = Vec::new();
    for operand in [Some(shared), barrier].into_iter().flatten() {
        let addr = lower.address(operand)?;
        push(&mut list, addr, false)?;
    }
    match (size, global) {
        (Some(size), global) => {
            let addr = lower.address(global)?;
            push(&mut list, addr, false)?;
            list.push(lower.src(size, Type::U32)?);
        }
        (None, Operand::List(parts)) => {
            let [map, Operand::Vector(coordinates)] = parts.as_slice() else {
                return Err("a tensor map and coordinates are expected".into());
            };
            if coordinates.len() != dimensions as usize {
                return Err(Reject(format!("{} coordinates of {dimensions} dimensions", coordinates.len())));
            }
            let addr = lower.address(map)?;
            push(&mut list, addr, false)?;
            for coordinate in coordinates {
                list.push(lower.src(coordinate, Type::S32)?);
            }
        }
        (None, other) => return Err(Reject(format!("operand {other:?} where a tensor map is expected"))),
    }
    if let Some(ranks) = ranks {
        list.push(lower.src(ranks, Type::B16)?);
    }
    let x = lower.put(&list);
    Ok(Inst { x, y, kind: Kind::Effect, ..lower.inst(&ops::COPY, Class::Memory) })
}

/// `.tensor.Nd`, or nothing for plain bytes: 0.
fn dimensions(mods: &mut Mods<'_>) -> Result<u32, Reject> {
    if !mods.eat("tensor") {
        return Ok(0);
    }
    let names = ["1d", "2d", "3d", "4d", "5d"];
    let name = mods.one_of(&names).ok_or("the number of dimensions is missing")?;
    let number = names.iter().position(|known| *known == name).unwrap_or(0) as u32 + 1;
    if let Some(mode) = mods.peek().filter(|mode| mode.starts_with("im2col")) {
        return Err(Reject(format!("the mode .{mode} is not implemented")));
    }
    Ok(number)
}

fn commit(stmt: &Statement, mut mods: Mods<'_>, lower: &mut Lower<'_>) -> Decoded {
    mods.eat("commit_group");
    mods.done()?;
    let [] = operands(stmt)?;
    Ok(Inst { kind: Kind::Effect, ..lower.inst(&ops::COMMIT, Class::Memory) })
}

fn wait(stmt: &Statement, mut mods: Mods<'_>, lower: &mut Lower<'_>) -> Decoded {
    mods.eat("wait_group");
    let y = u32::from(mods.eat("read"));
    mods.done()?;
    let [Operand::Int(count)] = operands(stmt)? else {
        return Err("a number of groups that is not constant".into());
    };
    let x = u32::try_from(*count).map_err(|_| Reject(format!("{count} groups")))?;
    Ok(Inst { x, y, kind: Kind::Effect, ..lower.inst(&ops::WAIT, Class::Memory) })
}

/// `cp.async.bulk.prefetch{.tensor.Nd}.L2.global{.tile}`: a hint.
fn prefetch_cache(stmt: &Statement, mut mods: Mods<'_>, lower: &mut Lower<'_>) -> Decoded {
    mods.eat("prefetch");
    let dimensions = dimensions(&mut mods)?;
    if !(mods.eat("L2") && mods.eat("global")) {
        return Err(".L2.global is expected".into());
    }
    mods.eat("tile");
    let policy = mods.eat(POLICY);
    mods.done()?;
    let mut rest = stmt.operands.as_slice();
    if policy {
        let [others @ .., hint] = rest else { return Err("a cache policy is missing".into()) };
        lower.src(hint, Type::B64)?;
        rest = others;
    }
    match rest {
        [from, size] if dimensions == 0 => {
            lower.src(size, Type::U32)?;
            prefetch(lower, from, 0)
        }
        [Operand::List(parts)] if dimensions != 0 => {
            let [map, Operand::Vector(coordinates)] = parts.as_slice() else {
                return Err("a tensor map and coordinates are expected".into());
            };
            for coordinate in coordinates {
                lower.src(coordinate, Type::S32)?;
            }
            prefetch(lower, map, dimensions)
        }
        _ => Err(Reject(format!("{} operands of a prefetch", stmt.operands.len()))),
    }
}

/// `st.async{.weak}{.shared::cluster}.mbarrier::complete_tx::bytes{.v2|.v4}.type [a], b, [mbar]`.
pub fn store_async(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    lower.needs(90)?;
    let mut mods = Mods::new(stmt);
    mods.eat("async");
    mods.eat("weak");
    let generic = !mods.eat("shared::cluster");
    if !mods.eat(BARRIER) {
        return Err(Reject(format!(".{BARRIER} is expected, and not .{}", mods.peek().unwrap_or("nothing"))));
    }
    let count = match mods.one_of(&["v2", "v4"]) {
        Some("v2") => 2,
        Some(_) => 4,
        None => 1,
    };
    let ty = mods.ty()?;
    mods.done()?;
    if !matches!(ty.bytes(), 4 | 8) || ty.bytes() * count > 16 {
        return Err(super::super::reject_type(ty));
    }
    let [to, value, barrier] = operands(stmt)?;
    let mut list = Vec::new();
    for operand in [to, barrier] {
        let addr = lower.address(operand)?;
        push(&mut list, addr, generic)?;
    }
    let values = match value {
        Operand::Vector(values) => values.as_slice(),
        one => std::slice::from_ref(one),
    };
    if values.len() != count as usize {
        return Err(Reject(format!("{} registers where {count} are expected", values.len())));
    }
    for value in values {
        list.push(lower.src(value, ty)?);
    }
    let (x, y) = (lower.put(&list), count | ty.bytes() << 4);
    Ok(Inst { x, y, kind: Kind::Effect, ..lower.inst(&ops::STORE_ASYNC, Class::Memory) })
}
