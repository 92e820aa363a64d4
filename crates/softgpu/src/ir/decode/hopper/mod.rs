//! Decoding of what the newer targets add.

mod bulk;
mod cluster;
mod mbarrier;
mod wgmma;

pub(super) use cluster::barrier as cluster_barrier;

use super::{Addr, Decoded, Lower, Mods, Reject};
use crate::exec::hopper::bulk::address;
use crate::ptx::Statement;

/// Decodes a statement of this family.
pub fn decode(stmt: &Statement, lower: &mut Lower<'_>) -> Option<Decoded> {
    Some(match stmt.op() {
        "mbarrier" => mbarrier::barrier(stmt, lower),
        "fence" => mbarrier::fence(stmt, lower),
        "wgmma" => wgmma::warpgroup(stmt, lower),
        "setmaxnreg" => wgmma::registers(stmt, lower),
        "st" => bulk::store_async(stmt, lower),
        "mapa" => cluster::map(stmt, lower),
        "getctarank" => cluster::rank(stmt, lower),
        "prefetch" => bulk::prefetch_map(stmt, lower),
        "cp" if stmt.has("bulk") => bulk::copy(stmt, lower),
        "cp" if stmt.has("mbarrier") => mbarrier::arrive_of_copies(stmt, lower),
        _ => return None,
    })
}

/// `.shared`, `.shared::cta` or nothing, which means a generic address: whether it is one. `.shared::cluster` where the
/// object may be another CTA's.
fn generic(mods: &mut Mods<'_>, anywhere: bool) -> Result<bool, Reject> {
    if mods.peek() == Some("shared::cluster") && !anywhere {
        return Err("this is possible in the CTA's own shared memory alone".into());
    }
    Ok(mods.one_of(&["shared", "shared::cta", "shared::cluster"]).is_none())
}

/// A constant offset as an instruction has it.
fn offset(addr: Addr) -> Result<u32, Reject> {
    i32::try_from(addr.offset).map(|o| o as u32).map_err(|_| Reject(format!("the address offset {}", addr.offset)))
}

/// An address as an operand in the pool.
fn push(list: &mut Vec<u16>, addr: Addr, generic: bool) -> Result<(), Reject> {
    let offset = offset(addr)?;
    let form = if addr.wide { address::WIDE } else { 0 } | if generic { address::GENERIC } else { 0 };
    list.extend([addr.slot, form, offset as u16, (offset >> 16) as u16]);
    Ok(())
}
