//! Decoding of loads, stores, atomics and address conversion.

use super::{Addr, Decoded, Lower, Mods, Reject, Space, operands, reject_type};
use crate::exec::access::flags;
use crate::exec::atom::{self, Action};
use crate::exec::ldst::{self, Target};
use crate::exec::local;
use crate::ir::{Class, Inst, Kind};
use crate::mem::windows;
use crate::ptx::{Base, Operand, Statement, Type};

/// Decodes a statement of this family.
pub fn decode(stmt: &Statement, lower: &mut Lower<'_>) -> Option<Decoded> {
    Some(match stmt.op() {
        "ld" | "ldu" => load(stmt, lower),
        "st" if stmt.has("async") => return None,
        "st" => store(stmt, lower),
        "atom" => atomic(stmt, lower, true),
        "red" => atomic(stmt, lower, false),
        "cvta" => cvta(stmt, lower),
        "isspacep" => isspacep(stmt, lower),
        _ => return None,
    })
}

/// Modifiers that say how long data should stay in which cache; they change no value.
fn is_hint(modifier: &str) -> bool {
    const HINTS: [&str; 19] = [
        "ca",
        "cg",
        "cs",
        "lu",
        "cv",
        "wb",
        "wt",
        "L1::evict_normal",
        "L1::evict_unchanged",
        "L1::evict_first",
        "L1::evict_last",
        "L1::no_allocate",
        "L2::evict_normal",
        "L2::evict_first",
        "L2::evict_last",
        POLICY,
        "L2::64B",
        "L2::128B",
        "L2::256B",
    ];
    HINTS.contains(&modifier)
}

/// The hint that brings one operand more, a policy made by `createpolicy`.
pub(super) const POLICY: &str = "L2::cache_hint";

/// The operands without the cache policy, which must be there where the hint is.
fn without_policy<'s>(stmt: &'s Statement, lower: &mut Lower<'_>) -> Result<&'s [Operand], Reject> {
    let all = stmt.operands.as_slice();
    if !stmt.has(POLICY) {
        return Ok(all);
    }
    let [rest @ .., policy] = all else { return Err("a cache policy is missing".into()) };
    lower.src(policy, Type::B64)?;
    Ok(rest)
}

/// What the modifiers before the type say.
struct Access {
    target: Target,
    flags: u16,
}

/// Takes memory order, scope, space and hints. The scope does not matter: one order holds for all.
fn space(mods: &mut Mods<'_>) -> Result<Access, Reject> {
    mods.drop_where(is_hint);
    let mut flags = 0;
    if mods.eat("weak") {
    } else if mods.eat("volatile") {
        flags |= flags::STRONG;
    } else if let Some(order) = mods.one_of(&["relaxed", "acquire", "release"]) {
        flags |= flags::STRONG;
        flags |= if order == "acquire" { flags::ACQUIRE } else { 0 };
        flags |= if order == "release" { flags::RELEASE } else { 0 };
        mods.one_of(&["cta", "cluster", "gpu", "sys"]).ok_or("an ordered access without a scope")?;
    } else if mods.eat("mmio") {
        return Err("memory-mapped input and output is not implemented".into());
    }
    let target = match mods.one_of(&["global", "shared", "local", "const", "param"]) {
        Some("global") => Target::Global,
        Some("const") => {
            flags |= flags::READ_ONLY;
            Target::Global
        }
        Some("shared") => Target::Shared,
        Some("local") => Target::Local,
        Some(_) => Target::Param,
        None => Target::Generic,
    };
    if mods.peek().is_some_and(|name| name.starts_with("shared::") || name.starts_with("param::")) {
        if mods.eat("shared::cta") {
            return Ok(Access { target: Target::Shared, flags });
        }
        if mods.eat("shared::cluster") {
            return Ok(Access { target: Target::Cluster, flags });
        }
        if mods.eat("param::entry") || mods.eat("param::func") {
            return Ok(Access { target: Target::Param, flags });
        }
        return Err(Reject(format!("the state space .{} is not implemented", mods.peek().unwrap_or_default())));
    }
    if mods.eat("nc") {
        flags |= flags::READ_ONLY;
    }
    Ok(Access { target, flags })
}

/// Number of elements and their type.
fn shape(mods: &mut Mods<'_>) -> Result<(usize, Type), Reject> {
    let count = match mods.one_of(&["v2", "v4", "v8"]) {
        Some("v2") => 2,
        Some("v4") => 4,
        Some(_) => 8,
        None => 1,
    };
    let ty = mods.ty()?;
    match ty {
        Type::Pred | Type::F16x2 | Type::Bf16x2 | Type::Tf32 | Type::B128 => Err(reject_type(ty)),
        _ => Ok((count, ty)),
    }
}

/// The type as which a register is asked for: the register may be wider than the data.
fn register_type(lower: &Lower<'_>, operand: &Operand, ty: Type) -> Result<Type, Reject> {
    let Some(declared) = lower.reg_type(operand) else { return Ok(ty) };
    if declared == Type::Pred || declared.bits() < ty.bits() || declared.bits() > 64 {
        let (declared, ty) = (declared.name(), ty.name());
        return Err(Reject(format!("a register of type .{declared} for data of type .{ty}")));
    }
    Ok(match declared.bits() {
        64 => Type::B64,
        32 => Type::B32,
        _ => Type::B16,
    })
}

/// The registers of an operand that is one register or a list; their common type.
fn common_type(lower: &Lower<'_>, operand: &Operand, count: usize, ty: Type) -> Result<Type, Reject> {
    let items = match operand {
        Operand::Vector(items) => items.as_slice(),
        single => std::slice::from_ref(single),
    };
    if items.len() != count {
        return Err(Reject(format!("{} registers where {count} are expected", items.len())));
    }
    let mut common = None;
    // A literal takes the width of the registers beside it.
    for item in items.iter().filter(|item| lower.reg_type(item).is_some()) {
        let this = register_type(lower, item, ty)?;
        if *common.get_or_insert(this) != this {
            return Err("registers of different widths in one list".into());
        }
    }
    // Nothing but sinks, or literals: the type of the data, in a whole slot.
    Ok(common.unwrap_or(ty))
}

/// The address field, the offset field and the flag that says how wide the address is.
fn address(lower: &mut Lower<'_>, operand: &Operand) -> Result<(Addr, u32, u16), Reject> {
    let addr = lower.address(operand)?;
    let offset = i32::try_from(addr.offset).map_err(|_| Reject(format!("the address offset {}", addr.offset)))?;
    Ok((addr, offset as u32, if addr.wide { flags::WIDE } else { 0 }))
}

fn fields(count: usize, ty: Type, register: Type) -> u16 {
    (count as u16) << flags::COUNT_AT
        | (ty.bytes() as u16) << flags::BYTES_AT
        | if register.bits() == 64 { flags::PAIR } else { 0 }
        | if register.bits() <= 16 { flags::HALF } else { 0 }
        | if ty.is_signed() && register.bits() > ty.bits() { flags::SIGNED } else { 0 }
}

fn load(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    let access = space(&mut mods)?;
    let (count, ty) = shape(&mut mods)?;
    mods.done()?;
    let [to, from] = without_policy(stmt, lower)? else {
        return Err(Reject(format!("{} operands where 2 are expected", stmt.operands.len())));
    };
    let register = common_type(lower, to, count, ty)?;
    if let Some(offset) = constant_parameter(lower, access.target, from) {
        return move_parameter(lower, offset, to, ty, register);
    }
    let bytes = count * ty.bytes() as usize;
    if let Some(x) = passed(lower, access.target, from, bytes)? {
        let c = fields(count, ty, register);
        let inst = Inst { kind: Kind::Effect, x, c, ..lower.inst(&local::LD_PASSED, Class::Memory) };
        if count == 1 {
            return Ok(Inst { d: lower.dst(single(to), register)?, ..inst });
        }
        let (y, _) = lower.dst_list(to, register)?;
        return Ok(Inst { y, ..inst });
    }
    let op = ldst::load_op(access.target, bytes).ok_or_else(|| Reject(format!("loads of {bytes} bytes")))?;
    let (addr, x, wide) = address(lower, from)?;
    let c = access.flags | wide | fields(count, ty, register);
    let inst = Inst { kind: Kind::Effect, a: addr.slot, x, c, ..lower.inst(op, Class::Memory) };
    if count == 1 {
        return Ok(Inst { d: lower.dst(single(to), register)?, ..inst });
    }
    let (y, _) = lower.dst_list(to, register)?;
    Ok(Inst { y, ..inst })
}

/// The one operand of a list of one.
fn single(operand: &Operand) -> &Operand {
    match operand {
        Operand::Vector(items) if items.len() == 1 => &items[0],
        other => other,
    }
}

/// The offset of `[parameter + constant]`.
fn constant_parameter(lower: &Lower<'_>, target: Target, from: &Operand) -> Option<u32> {
    let Operand::Address(address) = from else { return None };
    let Base::Symbol(name) = &address.base else { return None };
    let symbol = lower.symbol(name).filter(|symbol| symbol.space == Space::Param && target == Target::Param)?;
    let offset = u32::try_from(address.offset).ok()?;
    symbol.at.checked_add(offset)
}

/// The offset in the frame of `[variable + constant]` where the variable is a parameter or result of a device function, or
/// passed in a call.
fn passed(lower: &Lower<'_>, target: Target, operand: &Operand, bytes: usize) -> Result<Option<u32>, Reject> {
    let Operand::Address(address) = operand else { return Ok(None) };
    let Base::Symbol(name) = &address.base else { return Ok(None) };
    let Some(symbol) = lower.symbol(name).filter(|symbol| symbol.space == Space::Local && target == Target::Param)
    else {
        return Ok(None);
    };
    let inside = |at: &u32| u64::from(*at) + bytes as u64 <= u64::from(symbol.size);
    let offset = u32::try_from(address.offset).ok().filter(inside);
    let offset = offset.ok_or_else(|| {
        Reject(format!("{bytes} bytes at offset {} of {name}, which has {}", address.offset, symbol.size))
    })?;
    if !(symbol.at + offset).is_multiple_of(bytes as u32) || bytes > 16 {
        return Err(Reject(format!("{bytes} bytes at offset {offset} of {name}, which is not aligned to them")));
    }
    Ok(Some(symbol.at + offset))
}

/// Parameters fill slots before the warp starts: loading one is moving it.
fn move_parameter(lower: &mut Lower<'_>, offset: u32, to: &Operand, ty: Type, register: Type) -> Decoded {
    let pair = register.bits() == 64;
    let items = match to {
        Operand::Vector(items) => items.as_slice(),
        single => std::slice::from_ref(single),
    };
    let mut moves = Vec::with_capacity(2 * items.len());
    for (k, item) in items.iter().enumerate() {
        let from = lower.param(offset + k as u32 * ty.bytes(), ty, pair)?;
        moves.extend([lower.dst(item, register)?, from]);
    }
    if let [d, a] = moves[..] {
        let op = if pair { &ldst::MOVE_64 } else { &ldst::MOVE_32 };
        return Ok(Inst { d, a, ..lower.inst(op, Class::Memory) });
    }
    let (x, y) = (lower.put(&moves), items.len() as u32);
    let c = if pair { flags::PAIR } else { 0 };
    Ok(Inst { x, y, c, ..lower.inst(&ldst::MOVE_LIST, Class::Memory) })
}

fn store(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    let access = space(&mut mods)?;
    let (count, ty) = shape(&mut mods)?;
    mods.done()?;
    let [to, from] = without_policy(stmt, lower)? else {
        return Err(Reject(format!("{} operands where 2 are expected", stmt.operands.len())));
    };
    let register = common_type(lower, from, count, ty)?;
    let bytes = count * ty.bytes() as usize;
    if let Some(x) = passed(lower, access.target, to, bytes)? {
        let c = fields(count, ty, register);
        let inst = Inst { kind: Kind::Effect, x, c, ..lower.inst(&local::ST_PASSED, Class::Memory) };
        if count == 1 {
            return Ok(Inst { b: lower.src(single(from), register)?, ..inst });
        }
        let (y, _) = lower.src_list(from, register)?;
        return Ok(Inst { y, ..inst });
    }
    if access.target == Target::Param {
        return Err("stores to kernel parameters, which are read-only".into());
    }
    let op = ldst::store_op(access.target, bytes).ok_or_else(|| Reject(format!("stores of {bytes} bytes")))?;
    let (addr, x, wide) = address(lower, to)?;
    let c = access.flags | wide | fields(count, ty, register);
    let inst = Inst { kind: Kind::Effect, a: addr.slot, x, c, ..lower.inst(op, Class::Memory) };
    if count == 1 {
        return Ok(Inst { b: lower.src(single(from), register)?, ..inst });
    }
    let (y, _) = lower.src_list(from, register)?;
    Ok(Inst { y, ..inst })
}

/// The memory order of an atomic operation; the scope does not matter: one order holds for all.
fn memory_order(mods: &mut Mods<'_>) -> u16 {
    let order = match mods.one_of(&["relaxed", "acquire", "release", "acq_rel"]) {
        Some("acquire") => flags::ACQUIRE,
        Some("release") => flags::RELEASE,
        Some("acq_rel") => flags::ACQUIRE | flags::RELEASE,
        _ => 0,
    };
    mods.one_of(&["cta", "cluster", "gpu", "sys"]);
    flags::STRONG | order
}

/// `atom` and `red`; [`atom::ATOM`] says what each field means.
fn atomic(stmt: &Statement, lower: &mut Lower<'_>, returns: bool) -> Decoded {
    let mut mods = Mods::new(stmt);
    mods.drop_where(|modifier| modifier == POLICY);
    let mut order = memory_order(&mut mods);
    let target = match mods.one_of(&["global", "shared", "shared::cta", "shared::cluster"]) {
        Some("global") => Target::Global,
        Some("shared::cluster") => Target::Cluster,
        Some(_) => Target::Shared,
        None => Target::Generic,
    };
    let name = mods.take().ok_or("an atomic operation without a name")?;
    // The headers of the C++ library write order and scope behind the operation.
    order |= memory_order(&mut mods);
    mods.eat("noftz");
    let elements = match mods.one_of(&["v2", "v4", "v8"]) {
        Some("v2") => 2,
        Some("v4") => 4,
        Some(_) => 8,
        None => 1,
    };
    let ty = mods.ty()?;
    mods.done()?;
    let action =
        Action::parse(name, ty).ok_or_else(|| Reject(format!("the atomic operation .{name}.{}", ty.name())))?;
    let mut rest = without_policy(stmt, lower)?;
    if elements > 1 {
        return vector(lower, rest, returns, Vector { order, target, action, ty, elements });
    }
    let register = if ty.bits() == 64 { Type::B64 } else { Type::B32 };
    let declared = if ty.bits() == 16 { Type::B16 } else { register };
    let d = if returns {
        let [first, others @ ..] = rest else { return Err("an atomic operation without operands".into()) };
        rest = others;
        lower.dst(first, declared)?
    } else {
        super::lower::SINK_SLOT
    };
    let (at, value, second) = match rest {
        [at, value] if action != Action::Cas => (at, value, None),
        [at, value, second] if action == Action::Cas => (at, value, Some(second)),
        other => return Err(Reject(format!("{} operands of an atomic operation", other.len()))),
    };
    let (addr, x, wide) = address(lower, at)?;
    let b = lower.src(value, declared)?;
    let m = second.map(|second| lower.src(second, declared)).transpose()?.unwrap_or(0);
    let c = order | wide | fields(1, ty, register);
    let y = atom::encode(action, target, ty);
    Ok(Inst { kind: Kind::Effect, d, a: addr.slot, b, m, x, y, c, ..lower.inst(&atom::ATOM, Class::Atomic) })
}

/// An atomic operation on each of several elements that stand side by side.
struct Vector {
    order: u16,
    target: Target,
    action: Action,
    ty: Type,
    elements: usize,
}

/// `red.global.add.v4.f32 [a], {...}` and `atom`, which exist for sums of f32 and of halves.
fn vector(lower: &mut Lower<'_>, operands: &[Operand], returns: bool, form: Vector) -> Decoded {
    lower.needs(90)?;
    let Vector { order, target, action, ty, elements } = form;
    let bytes = elements * ty.bytes() as usize;
    let half = matches!(ty, Type::F16 | Type::Bf16);
    let exists = matches!(ty, Type::F32 | Type::F16 | Type::Bf16 | Type::F16x2 | Type::Bf16x2);
    if action != Action::Add || !exists || bytes > 16 || (elements == 8 && !half) || target != Target::Global {
        return Err(Reject(format!("atomic operations on {elements} elements of type .{}", ty.name())));
    }
    let (to, at, from) = match operands {
        [to, at, from] if returns => (Some(to), at, from),
        [at, from] if !returns => (None, at, from),
        other => return Err(Reject(format!("{} operands of an atomic operation", other.len()))),
    };
    let declared = if half { Type::B16 } else { Type::B32 };
    let list = |operand: &Operand| match operand {
        Operand::Vector(items) if items.len() == elements => Ok(items.clone()),
        _ => Err(Reject(format!("a list of {elements} registers is expected"))),
    };
    let mut slots = Vec::with_capacity(2 * elements);
    for (i, item) in list(from)?.iter().enumerate() {
        let d = match to {
            Some(to) => lower.dst(&list(to)?[i], declared)?,
            None => super::lower::SINK_SLOT,
        };
        slots.extend([d, lower.src(item, declared)?]);
    }
    // The element's operation and the number of elements stand in front of the registers.
    let y = atom::encode(action, target, ty);
    let (high, low) = ((y >> 16) as u16, y as u16);
    slots.splice(0..0, [low, high, elements as u16]);
    let y = lower.put(&slots);
    let (addr, x, wide) = address(lower, at)?;
    let c = order | wide | fields(1, ty, Type::B32);
    Ok(Inst { kind: Kind::Effect, a: addr.slot, x, y, c, ..lower.inst(&atom::VECTOR, Class::Atomic) })
}

/// The upper half of a window's base; global addresses are generic addresses as they are.
fn window(mods: &mut Mods<'_>) -> Result<u32, Reject> {
    let base = match mods.one_of(&["global", "const", "shared::cta", "shared", "local", "param::entry", "param"]) {
        Some("global" | "const") => 0,
        Some("shared" | "shared::cta") => windows::SHARED,
        Some("local") => windows::LOCAL,
        Some(_) => windows::PARAM,
        None => return Err(Reject(format!("the state space .{} is not implemented", mods.peek().unwrap_or("?")))),
    };
    Ok((base >> 32) as u32)
}

fn cvta(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    let op = if mods.eat("to") { &ldst::CVTA_TO } else { &ldst::CVTA };
    let x = window(&mut mods)?;
    let ty = mods.ty()?;
    mods.done()?;
    if ty != Type::U64 {
        return Err(reject_type(ty));
    }
    let [to, from] = operands(stmt)?;
    Ok(Inst { d: lower.dst(to, ty)?, a: lower.src(from, ty)?, x, ..lower.inst(op, Class::Int) })
}

fn isspacep(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    let x = window(&mut mods)?;
    mods.done()?;
    let [to, from] = operands(stmt)?;
    let d = lower.dst_pred(to)?;
    Ok(Inst { d, a: lower.src(from, Type::U64)?, x, ..lower.inst(&ldst::IN_WINDOW, Class::Int) })
}
