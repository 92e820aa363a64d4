//! Decoding of `wgmma` and `setmaxnreg`.

use super::super::{Decoded, Lower, Mods, Reject, operands};
use crate::exec::Op;
use crate::exec::hopper::registers;
use crate::exec::hopper::wgmma::{self as ops, form};
use crate::ir::{Class, Inst, Kind};
use crate::ptx::{Operand, Statement, Type};

/// The member mask of an operation that every lane of the warp must execute.
fn whole_warp(lower: &mut Lower<'_>) -> Result<u16, Reject> {
    lower.src(&Operand::Int(-1), Type::B32)
}

fn sync(mods: &mut Mods<'_>) -> Result<(), Reject> {
    if mods.eat("sync") && mods.eat("aligned") { Ok(()) } else { Err(".sync.aligned is expected".into()) }
}

/// `wgmma.*`
pub fn warpgroup(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    lower.needs(90)?;
    let mut mods = Mods::new(stmt);
    match mods.take() {
        Some("mma_async") => product(stmt, mods, lower),
        Some("fence") => plain(stmt, mods, lower, &ops::FENCE),
        Some("commit_group") => plain(stmt, mods, lower, &ops::COMMIT),
        Some("wait_group") => {
            sync(&mut mods)?;
            mods.done()?;
            let [Operand::Int(count)] = operands(stmt)? else {
                return Err("a number of groups that is not constant".into());
            };
            let x = u32::try_from(*count).ok().filter(|count| *count < 8);
            let x = x.ok_or_else(|| Reject(format!("{count} groups, where 0 to 7 are allowed")))?;
            let m = whole_warp(lower)?;
            Ok(Inst { x, m, kind: Kind::Sync, ..lower.inst(&ops::WAIT, Class::Barrier) })
        }
        other => Err(Reject(format!("wgmma.{} is not implemented", other.unwrap_or("?")))),
    }
}

fn plain(stmt: &Statement, mut mods: Mods<'_>, lower: &mut Lower<'_>, op: &Op) -> Decoded {
    sync(&mut mods)?;
    mods.done()?;
    let [] = operands(stmt)?;
    let m = whole_warp(lower)?;
    Ok(Inst { m, kind: Kind::Sync, ..lower.inst(op, Class::Barrier) })
}

/// `wgmma.mma_async.sync.aligned.m64nNkK.d.a.b {d..}, a, b-desc, scale-d, scale-a, scale-b{, trans-a}{, trans-b}`.
fn product(stmt: &Statement, mut mods: Mods<'_>, lower: &mut Lower<'_>) -> Decoded {
    sync(&mut mods)?;
    let shape = mods.take().unwrap_or("?");
    let [d, a, b] = [mods.ty()?, mods.ty()?, mods.ty()?];
    mods.done()?;
    use Type::*;
    let (op, depth) = match (d, a, b) {
        (F32 | F16, F16, F16) => (&ops::F16_K16, 16),
        (F32, Bf16, Bf16) => (&ops::BF16_K16, 16),
        (F32, Tf32, Tf32) => (&ops::TF32_K8, 8),
        _ => {
            let types = [d, a, b].map(Type::name).join(".");
            return Err(Reject(format!("wgmma of types .{types} is not implemented")));
        }
    };
    let columns = shape.strip_prefix("m64n").and_then(|rest| rest.strip_suffix(&format!("k{depth}")));
    let columns = columns.and_then(|n| n.parse::<u16>().ok()).filter(|n| n.is_multiple_of(8) && (8..=256).contains(n));
    let columns = columns.ok_or_else(|| Reject(format!("the shape .{shape} of a product of .{}", a.name())))?;
    let [Operand::Vector(sums), factor, second, adds, scale_a, scale_b, transposes @ ..] = stmt.operands.as_slice()
    else {
        return Err(Reject(format!("{} operands of a product", stmt.operands.len())));
    };
    let halves = d == F16;
    let count = usize::from(columns) / if halves { 4 } else { 2 };
    if sums.len() != count {
        return Err(Reject(format!("{} registers of sums where {count} are expected", sums.len())));
    }
    let mut bits = if halves { form::HALVES } else { 0 };
    for (scale, bit) in [(scale_a, form::MINUS_A), (scale_b, form::MINUS_B)] {
        bits |= match scale {
            Operand::Int(1) => 0,
            Operand::Int(-1) => bit,
            other => return Err(Reject(format!("a scale of {other:?}, where 1 or -1 is expected"))),
        };
    }
    let in_registers = matches!(factor, Operand::Vector(_));
    let names: &[u16] = match (a == Tf32, in_registers) {
        (true, _) => &[],
        (false, true) => &[form::TRANSPOSED_B],
        (false, false) => &[form::TRANSPOSED_A, form::TRANSPOSED_B],
    };
    if names.len() != transposes.len() {
        return Err(Reject(format!("{} transpositions where {} are expected", transposes.len(), names.len())));
    }
    for (operand, bit) in transposes.iter().zip(names) {
        bits |= match operand {
            Operand::Int(0) => 0,
            Operand::Int(1) => *bit,
            other => return Err(Reject(format!("a transposition of {other:?}, where 0 or 1 is expected"))),
        };
    }
    let (pred, negated) = lower.src_pred(adds)?;
    bits |= if negated { form::NOT } else { 0 } | if in_registers { form::REGISTERS } else { 0 };
    let mut list = vec![columns, bits, pred, 0, 0];
    list[ops::header::B] = lower.src(second, B64)?;
    let mut factors = Vec::new();
    match factor {
        Operand::Vector(items) if items.len() == 4 => {
            for item in items {
                factors.push(lower.src(item, B32)?);
            }
        }
        Operand::Vector(items) => return Err(Reject(format!("{} registers of a factor, not 4", items.len()))),
        descriptor => list[ops::header::A] = lower.src(descriptor, B64)?,
    }
    // Factors in registers are asked for behind all other sources, and sums last: whoever follows values relies on it.
    for item in sums {
        lower.src(item, B32)?;
    }
    for item in sums {
        list.push(lower.dst(item, B32)?);
    }
    list.extend(factors);
    let x = lower.put(&list);
    let m = whole_warp(lower)?;
    Ok(Inst { x, m, d: pred, c: u16::from(negated), kind: Kind::Sync, ..lower.inst(op, Class::Matrix) })
}

/// `setmaxnreg.{inc,dec}.sync.aligned.u32 n`.
pub fn registers(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    lower.needs(90)?;
    let mut mods = Mods::new(stmt);
    let up = mods.one_of(&["inc", "dec"]).ok_or(".inc or .dec is expected")? == "inc";
    sync(&mut mods)?;
    let ty = mods.ty()?;
    mods.done()?;
    let [Operand::Int(count)] = operands(stmt)? else {
        return Err("a number of registers that is not constant".into());
    };
    if ty != Type::U32 || !(24..=256).contains(count) || count % 8 != 0 {
        return Err(Reject(format!("{count} registers, where multiples of 8 from 24 to 256 are allowed")));
    }
    let m = whole_warp(lower)?;
    Ok(Inst { x: *count as u32, y: u32::from(up), m, kind: Kind::Sync, ..lower.inst(&registers::SET, Class::Control) })
}
