//! Decoding of `mma`, and of the loads and stores that bring matrices into its registers.

use super::{Decoded, Lower, Mods, Reject, operands};
use crate::exec::access::flags;
use crate::exec::{Op, ldmatrix, mma};
use crate::ir::{Class, Inst, Kind};
use crate::ptx::{Operand, Statement, Type};

/// Decodes a statement of this family.
pub fn decode(stmt: &Statement, lower: &mut Lower<'_>) -> Option<Decoded> {
    Some(match stmt.op() {
        "mma" => multiply(stmt, lower),
        "ldmatrix" => transfer(stmt, lower, true),
        "stmatrix" => transfer(stmt, lower, false),
        "movmatrix" => transpose(stmt, lower),
        _ => return None,
    })
}

/// `.sync.aligned`, which all of them have.
fn sync(mods: &mut Mods<'_>) -> Result<(), Reject> {
    if mods.eat("sync") && mods.eat("aligned") { Ok(()) } else { Err(".sync.aligned is expected".into()) }
}

/// The member mask of an operation that every lane of the warp must execute.
fn whole_warp(lower: &mut Lower<'_>) -> Result<u16, Reject> {
    lower.src(&Operand::Int(-1), Type::B32)
}

/// A list of exactly `count` registers.
fn list(operand: &Operand, count: usize) -> Result<&[Operand], Reject> {
    let items = match operand {
        Operand::Vector(items) => items.as_slice(),
        single => std::slice::from_ref(single),
    };
    if items.len() != count {
        return Err(Reject(format!("{} registers where {count} are expected", items.len())));
    }
    Ok(items)
}

/// `mma.sync.aligned.shape.row.col.dtype.atype.btype.ctype d, a, b, c`.
fn multiply(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    sync(&mut mods)?;
    let shape = mods.take().unwrap_or("?").to_string();
    if !(mods.eat("row") && mods.eat("col")) {
        return Err(".row.col is expected".into());
    }
    let [d, a, b, c] = [mods.ty()?, mods.ty()?, mods.ty()?, mods.ty()?];
    mods.done()?;
    use Type::{Bf16, F16, F32, Tf32};
    let (op, sums, factors): (&Op, usize, usize) = match (shape.as_str(), [d, a, b, c]) {
        ("m16n8k16", [F32, F16, F16, F32]) => (&mma::F16_K16, 4, 4),
        ("m16n8k8", [F32, F16, F16, F32]) => (&mma::F16_K8, 4, 2),
        ("m16n8k16", [F32, Bf16, Bf16, F32]) => (&mma::BF16_K16, 4, 4),
        ("m16n8k8", [F32, Bf16, Bf16, F32]) => (&mma::BF16_K8, 4, 2),
        ("m16n8k8", [F32, Tf32, Tf32, F32]) => (&mma::TF32_K8, 4, 4),
        ("m16n8k4", [F32, Tf32, Tf32, F32]) => (&mma::TF32_K4, 4, 2),
        ("m16n8k16", [F16, F16, F16, F16]) => (&mma::F16_SUMS_K16, 2, 4),
        ("m16n8k8", [F16, F16, F16, F16]) => (&mma::F16_SUMS_K8, 2, 2),
        _ => {
            let types = [d, a, b, c].map(Type::name).join(".");
            return Err(Reject(format!("mma of shape .{shape} and types .{types} is not implemented")));
        }
    };
    let [d, a, b, c] = operands(stmt)?;
    let lists = [(d, sums), (a, factors), (b, factors / 2), (c, sums)];
    let mut slots = Vec::with_capacity(14);
    for (i, (operand, count)) in lists.into_iter().enumerate() {
        for item in list(operand, count)? {
            slots.push(if i == 0 { lower.dst(item, Type::B32)? } else { source(lower, item)? });
        }
    }
    let x = lower.put(&slots);
    Ok(Inst { x, m: whole_warp(lower)?, kind: Kind::Sync, ..lower.inst(op, Class::Matrix) })
}

/// A factor or summand; literals of f32 appear where C is zero.
fn source(lower: &mut Lower<'_>, operand: &Operand) -> Result<u16, Reject> {
    let ty = if matches!(operand, Operand::F32(_) | Operand::F64(_)) { Type::F32 } else { Type::B32 };
    lower.src(operand, ty)
}

/// `ldmatrix.sync.aligned.m8n8.num{.trans}{.shared}.b16 r, [p]` and `stmatrix.… [p], r`.
fn transfer(stmt: &Statement, lower: &mut Lower<'_>, load: bool) -> Decoded {
    let mut mods = Mods::new(stmt);
    sync(&mut mods)?;
    if !load {
        lower.needs(90)?;
    }
    if !mods.eat("m8n8") {
        return Err(Reject(format!("matrices of shape .{} are not implemented", mods.peek().unwrap_or("?"))));
    }
    let count = match mods.take() {
        Some("x1") => 1,
        Some("x2") => 2,
        Some("x4") => 4,
        other => return Err(Reject(format!("unknown modifier .{}", other.unwrap_or("?")))),
    };
    let transposed = mods.eat("trans");
    let generic = mods.one_of(&["shared", "shared::cta"]).is_none();
    if mods.ty()? != Type::B16 {
        return Err("type .b16 is expected".into());
    }
    mods.done()?;
    let [first, second] = operands(stmt)?;
    let (registers, address) = if load { (first, second) } else { (second, first) };
    let mut slots = Vec::with_capacity(4);
    for item in list(registers, count)? {
        slots.push(if load { lower.dst(item, Type::B32)? } else { lower.src(item, Type::B32)? });
    }
    let y = lower.put(&slots);
    let addr = lower.address(address)?;
    let x = i32::try_from(addr.offset).map_err(|_| Reject(format!("the address offset {}", addr.offset)))? as u32;
    let c = if addr.wide { flags::WIDE } else { 0 }
        | (count as u16) << flags::COUNT_AT
        | if transposed { ldmatrix::TRANSPOSED } else { 0 }
        | if generic { ldmatrix::GENERIC } else { 0 };
    let op = if load { &ldmatrix::LOAD } else { &ldmatrix::STORE };
    let m = whole_warp(lower)?;
    Ok(Inst { a: addr.slot, x, y, c, m, kind: Kind::Sync, ..lower.inst(op, Class::Memory) })
}

/// `movmatrix.sync.aligned.m8n8.trans.b16 d, a`.
fn transpose(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    sync(&mut mods)?;
    if !(mods.eat("m8n8") && mods.eat("trans") && mods.ty()? == Type::B16) {
        return Err(".m8n8.trans.b16 is expected".into());
    }
    mods.done()?;
    let [d, a] = operands(stmt)?;
    let (d, a, m) = (lower.dst(d, Type::B32)?, lower.src(a, Type::B32)?, whole_warp(lower)?);
    Ok(Inst { d, a, m, kind: Kind::Sync, ..lower.inst(&ldmatrix::TRANSPOSE, Class::Warp) })
}
