//! Loads, stores and address conversion.

use super::access::{Access, Raw, collect, flags, lanes_of, scatter};
use super::hopper::cluster;
use super::warp::LANES;
use super::{Env, Warp, global, local, ops, shared};
use crate::check::poll;
use crate::ir::Inst;
use crate::launch::code;
use crate::mem::windows::{self, Window};

/// A state space that an access names, or `Generic` where the address tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Device memory, `.const` included.
    Global,
    /// The CTA's own shared memory.
    Shared,
    /// Shared memory of any CTA of the cluster.
    Cluster,
    /// That of the CTA of a rank.
    Peer(u32),
    /// The thread's own memory.
    Local,
    /// The parameter block.
    Param,
    /// Any of them, by window.
    Generic,
}

/// The operation of a load of `bytes` bytes per lane.
pub fn load_op(target: Target, bytes: usize) -> Option<&'static super::Op> {
    Some(match (target, bytes) {
        (Target::Global, 1) => &LD_GLOBAL_1,
        (Target::Global, 2) => &LD_GLOBAL_2,
        (Target::Global, 4) => &LD_GLOBAL_4,
        (Target::Global, 8) => &LD_GLOBAL_8,
        (Target::Global, 16) => &LD_GLOBAL_16,
        (Target::Global, 32) => &LD_GLOBAL_32,
        (Target::Shared, 1) => &LD_SHARED_1,
        (Target::Shared, 2) => &LD_SHARED_2,
        (Target::Shared, 4) => &LD_SHARED_4,
        (Target::Shared, 8) => &LD_SHARED_8,
        (Target::Shared, 16) => &LD_SHARED_16,
        (Target::Local, 1 | 2 | 4 | 8 | 16) => &LD_LOCAL,
        (Target::Param, 1 | 2 | 4 | 8 | 16) => &LD_PARAM,
        (Target::Cluster, 1 | 2 | 4 | 8 | 16) => &LD_CLUSTER,
        (Target::Generic, 1 | 2 | 4 | 8 | 16 | 32) => &LD_GENERIC,
        _ => return None,
    })
}

/// The operation of a store of `bytes` bytes per lane.
pub fn store_op(target: Target, bytes: usize) -> Option<&'static super::Op> {
    Some(match (target, bytes) {
        (Target::Global, 1) => &ST_GLOBAL_1,
        (Target::Global, 2) => &ST_GLOBAL_2,
        (Target::Global, 4) => &ST_GLOBAL_4,
        (Target::Global, 8) => &ST_GLOBAL_8,
        (Target::Global, 16) => &ST_GLOBAL_16,
        (Target::Global, 32) => &ST_GLOBAL_32,
        (Target::Shared, 1) => &ST_SHARED_1,
        (Target::Shared, 2) => &ST_SHARED_2,
        (Target::Shared, 4) => &ST_SHARED_4,
        (Target::Shared, 8) => &ST_SHARED_8,
        (Target::Shared, 16) => &ST_SHARED_16,
        (Target::Local, 1 | 2 | 4 | 8 | 16) => &ST_LOCAL,
        (Target::Cluster, 1 | 2 | 4 | 8 | 16) => &ST_CLUSTER,
        (Target::Generic, 1 | 2 | 4 | 8 | 16 | 32) => &ST_GENERIC,
        _ => return None,
    })
}

ops! {
    /// `ld.global` of one byte per lane.
    LD_GLOBAL_1 = |warp, env, inst, mask| load_global::<1, 1>(warp, env, inst, mask);
    /// `ld.global` of two bytes per lane.
    LD_GLOBAL_2 = |warp, env, inst, mask| load_global::<2, 1>(warp, env, inst, mask);
    /// `ld.global` of four bytes per lane.
    LD_GLOBAL_4 = |warp, env, inst, mask| load_global::<4, 1>(warp, env, inst, mask);
    /// `ld.global` of eight bytes per lane.
    LD_GLOBAL_8 = |warp, env, inst, mask| load_global::<8, 2>(warp, env, inst, mask);
    /// `ld.global` of sixteen bytes per lane.
    LD_GLOBAL_16 = |warp, env, inst, mask| load_global::<16, 4>(warp, env, inst, mask);
    /// `ld.global` of 32 bytes per lane.
    LD_GLOBAL_32 = |warp, env, inst, mask| load_global::<32, 8>(warp, env, inst, mask);
    /// `ld.shared` of one byte per lane.
    LD_SHARED_1 = |warp, env, inst, mask| load_shared::<1, 1>(warp, env, inst, mask);
    /// `ld.shared` of two bytes per lane.
    LD_SHARED_2 = |warp, env, inst, mask| load_shared::<2, 1>(warp, env, inst, mask);
    /// `ld.shared` of four bytes per lane.
    LD_SHARED_4 = |warp, env, inst, mask| load_shared::<4, 1>(warp, env, inst, mask);
    /// `ld.shared` of eight bytes per lane.
    LD_SHARED_8 = |warp, env, inst, mask| load_shared::<8, 2>(warp, env, inst, mask);
    /// `ld.shared` of sixteen bytes per lane.
    LD_SHARED_16 = |warp, env, inst, mask| load_shared::<16, 4>(warp, env, inst, mask);
    /// `st.global` of one byte per lane.
    ST_GLOBAL_1 = |warp, env, inst, mask| store_global::<1, 1>(warp, env, inst, mask);
    /// `st.global` of two bytes per lane.
    ST_GLOBAL_2 = |warp, env, inst, mask| store_global::<2, 1>(warp, env, inst, mask);
    /// `st.global` of four bytes per lane.
    ST_GLOBAL_4 = |warp, env, inst, mask| store_global::<4, 1>(warp, env, inst, mask);
    /// `st.global` of eight bytes per lane.
    ST_GLOBAL_8 = |warp, env, inst, mask| store_global::<8, 2>(warp, env, inst, mask);
    /// `st.global` of sixteen bytes per lane.
    ST_GLOBAL_16 = |warp, env, inst, mask| store_global::<16, 4>(warp, env, inst, mask);
    /// `st.global` of 32 bytes per lane.
    ST_GLOBAL_32 = |warp, env, inst, mask| store_global::<32, 8>(warp, env, inst, mask);
    /// `st.shared` of one byte per lane.
    ST_SHARED_1 = |warp, env, inst, mask| store_shared::<1, 1>(warp, env, inst, mask);
    /// `st.shared` of two bytes per lane.
    ST_SHARED_2 = |warp, env, inst, mask| store_shared::<2, 1>(warp, env, inst, mask);
    /// `st.shared` of four bytes per lane.
    ST_SHARED_4 = |warp, env, inst, mask| store_shared::<4, 1>(warp, env, inst, mask);
    /// `st.shared` of eight bytes per lane.
    ST_SHARED_8 = |warp, env, inst, mask| store_shared::<8, 2>(warp, env, inst, mask);
    /// `st.shared` of sixteen bytes per lane.
    ST_SHARED_16 = |warp, env, inst, mask| store_shared::<16, 4>(warp, env, inst, mask);
    /// `ld.local`
    LD_LOCAL = |warp, env, inst, mask| by_width(warp, env, inst, mask, Way::Load(Target::Local));
    /// `st.local`
    ST_LOCAL = |warp, env, inst, mask| by_width(warp, env, inst, mask, Way::Store(Target::Local));
    /// `ld.param` at an address that is not constant.
    LD_PARAM = |warp, env, inst, mask| by_width(warp, env, inst, mask, Way::Load(Target::Param));
    /// `ld.shared::cluster`
    LD_CLUSTER = |warp, env, inst, mask| by_width(warp, env, inst, mask, Way::Load(Target::Cluster));
    /// `st.shared::cluster`
    ST_CLUSTER = |warp, env, inst, mask| by_width(warp, env, inst, mask, Way::Store(Target::Cluster));
    /// `ld`
    LD_GENERIC = |warp, env, inst, mask| by_width(warp, env, inst, mask, Way::Load(Target::Generic));
    /// `st`
    ST_GENERIC = |warp, env, inst, mask| by_width(warp, env, inst, mask, Way::Store(Target::Generic));
    /// `ld.param` at a constant address, where the parameter fills slot `a`: 32 bits.
    MOVE_32 = |warp, _, inst, mask| { let value = *warp.r32(inst.a); warp.w32(inst.d, mask, &value) };
    /// The same with 64 bits.
    MOVE_64 = |warp, _, inst, mask| { let value = *warp.r64(inst.a); warp.w64(inst.d, mask, &value) };
    /// The same with several registers: `x` is where destinations and sources stand in the pool, alternating; `y` counts
    /// them. Pairs of slots where `c` says so.
    MOVE_LIST = |warp, env, inst, mask| {
        for pair in env.kernel.pool[inst.x as usize..][..2 * inst.y as usize].chunks_exact(2) {
            if inst.c & flags::PAIR != 0 {
                let value = *warp.r64(pair[1]);
                warp.w64(pair[0], mask, &value);
            } else {
                let value = *warp.r32(pair[1]);
                warp.w32(pair[0], mask, &value);
            }
        }
    };
    /// Hints to the caches.
    NOTHING = |_, _, _, _| ();
    /// `discard`: 128 bytes of device memory hold nothing that may be read.
    DISCARD = |warp, env, inst, mask| global::discard(warp, env, inst, mask);
    /// `cvta`: `d` is `a` plus the base of a window, whose upper half is `x`.
    CVTA = |warp, _, inst, mask| {
        let base = u64::from(inst.x) << 32;
        let value = warp.r64(inst.a).map(|address| address.wrapping_add(base));
        warp.w64(inst.d, mask, &value);
    };
    /// `cvta.to`: `d` is `a` less the base of a window, whose upper half is `x`.
    CVTA_TO = |warp, _, inst, mask| {
        let base = u64::from(inst.x) << 32;
        let value = warp.r64(inst.a).map(|address| address.wrapping_sub(base));
        warp.w64(inst.d, mask, &value);
    };
    /// `isspacep`: whether address `a` lies in the window whose upper half is `x`, or in none when `x` is 0.
    IN_WINDOW = |warp, _, inst, mask| {
        let mut inside = 0;
        for (i, &address) in warp.r64(inst.a).iter().enumerate() {
            let hit = match windows::classify(address) {
                Window::Global => inst.x == 0,
                _ => address >> 32 == u64::from(inst.x),
            };
            inside |= u32::from(hit) << i;
        }
        warp.wp(inst.d, mask, inside);
    };
}

#[inline(always)]
fn load_global<const T: usize, const W: usize>(warp: &mut Warp, env: &mut Env<'_>, inst: &Inst, mask: u32) {
    if mask == 0 {
        return;
    }
    let access = Access::new::<T>(warp, inst, mask);
    if let Some(raw) = global::load::<T, W>(warp, env, inst, &access) {
        scatter(warp, env.kernel, inst, mask, &raw);
        if inst.c & flags::STRONG != 0 {
            poll::polled(warp, env, &access, 0, T);
        }
    }
}

#[inline(always)]
fn store_global<const T: usize, const W: usize>(warp: &mut Warp, env: &mut Env<'_>, inst: &Inst, mask: u32) {
    if mask == 0 {
        return;
    }
    let access = Access::new::<T>(warp, inst, mask);
    let raw = collect::<W>(warp, env.kernel, inst);
    global::store::<T, W>(warp, env, inst, &access, &raw);
}

#[inline(always)]
fn load_shared<const T: usize, const W: usize>(warp: &mut Warp, env: &mut Env<'_>, inst: &Inst, mask: u32) {
    if mask == 0 {
        return;
    }
    let access = Access::new::<T>(warp, inst, mask);
    if let Some(raw) = shared::load::<T, W>(warp, env, inst, &access) {
        scatter(warp, env.kernel, inst, mask, &raw);
        if inst.c & flags::STRONG != 0 {
            poll::polled(warp, env, &access, windows::SHARED, T);
        }
    }
}

#[inline(always)]
fn store_shared<const T: usize, const W: usize>(warp: &mut Warp, env: &mut Env<'_>, inst: &Inst, mask: u32) {
    if mask == 0 {
        return;
    }
    let access = Access::new::<T>(warp, inst, mask);
    let raw = collect::<W>(warp, env.kernel, inst);
    shared::store::<T, W>(warp, env, inst, &access, &raw);
}

/// A direction and where to.
#[derive(Clone, Copy)]
enum Way {
    Load(Target),
    Store(Target),
}

/// The rarer spaces, whose operations look at the width when they run.
fn by_width(warp: &mut Warp, env: &mut Env<'_>, inst: &Inst, mask: u32, way: Way) {
    match super::access::count(inst) * super::access::element(inst) {
        1 => anywhere::<1, 1>(warp, env, inst, mask, way),
        2 => anywhere::<2, 1>(warp, env, inst, mask, way),
        4 => anywhere::<4, 1>(warp, env, inst, mask, way),
        8 => anywhere::<8, 2>(warp, env, inst, mask, way),
        16 => anywhere::<16, 4>(warp, env, inst, mask, way),
        _ => anywhere::<32, 8>(warp, env, inst, mask, way),
    }
}

#[inline(never)]
fn anywhere<const T: usize, const W: usize>(warp: &mut Warp, env: &mut Env<'_>, inst: &Inst, mask: u32, way: Way) {
    if mask == 0 {
        return;
    }
    let access = Access::new::<T>(warp, inst, mask);
    let (Way::Load(target) | Way::Store(target)) = way;
    for (target, access) in split::<T>(target, &access) {
        match way {
            Way::Load(_) => {
                let raw: Option<Raw<W>> = match target {
                    Target::Global | Target::Generic | Target::Cluster => {
                        global::load::<T, W>(warp, env, inst, &access)
                    }
                    Target::Shared => shared::load::<T, W>(warp, env, inst, &access),
                    Target::Peer(rank) => {
                        let lane = access.mask.trailing_zeros();
                        cluster::at(warp, env, lane, rank, |env| shared::load::<T, W>(warp, env, inst, &access))
                            .flatten()
                    }
                    Target::Local => local::load::<T, W>(warp, env, &access),
                    Target::Param => load_param::<T, W>(warp, env, &access),
                };
                let Some(raw) = raw else { return };
                scatter(warp, env.kernel, inst, access.mask, &raw);
                if inst.c & flags::STRONG != 0 {
                    poll::polled(warp, env, &access, window(target), T);
                }
            }
            Way::Store(_) => {
                let raw = collect::<W>(warp, env.kernel, inst);
                match target {
                    Target::Global | Target::Generic | Target::Cluster => {
                        global::store::<T, W>(warp, env, inst, &access, &raw);
                    }
                    Target::Shared => shared::store::<T, W>(warp, env, inst, &access, &raw),
                    Target::Peer(rank) => {
                        let lane = access.mask.trailing_zeros();
                        cluster::at(warp, env, lane, rank, |env| {
                            shared::store::<T, W>(warp, env, inst, &access, &raw);
                        });
                    }
                    Target::Local => local::store::<T, W>(warp, env, inst, &access, &raw),
                    Target::Param => {
                        let lane = access.mask.trailing_zeros();
                        let text = "store to a kernel parameter, which is read-only".into();
                        env.fault(warp, lane, code::ILLEGAL_ADDRESS, text);
                    }
                }
                if env.fault.is_some() {
                    return;
                }
            }
        }
    }
}

/// Where a target lies in the generic address space.
pub(super) fn window(target: Target) -> u64 {
    if matches!(target, Target::Shared | Target::Peer(_)) { windows::SHARED } else { 0 }
}

/// Splits a generic access by window, and one of a cluster by CTA; any other stays whole.
pub(super) fn split<const T: usize>(target: Target, access: &Access) -> Vec<(Target, Access)> {
    if !matches!(target, Target::Generic | Target::Cluster) {
        return vec![(target, Access::of::<T>(access.address, access.mask))];
    }
    let mut parts: Vec<(Target, [u64; LANES], u32)> = Vec::new();
    for lane in access.lanes() {
        let address = access.address[lane] + if target == Target::Cluster { windows::SHARED } else { 0 };
        let (target, address) = match windows::classify(address) {
            Window::Global => (Target::Global, address),
            Window::Shared(at) => match at >> cluster::RANK_AT {
                0 => (Target::Shared, u64::from(at)),
                rank => (Target::Peer(rank - 1), u64::from(at & ((1 << cluster::RANK_AT) - 1))),
            },
            Window::Local(at) => (Target::Local, u64::from(at)),
            Window::Param(at) => (Target::Param, u64::from(at)),
        };
        let part = match parts.iter_mut().find(|part| part.0 == target) {
            Some(part) => part,
            None => {
                parts.push((target, [0; LANES], 0));
                let last = parts.len() - 1;
                &mut parts[last]
            }
        };
        part.1[lane] = address;
        part.2 |= 1 << lane;
    }
    parts.into_iter().map(|(target, address, mask)| (target, Access::of::<T>(address, mask))).collect()
}

fn load_param<const T: usize, const W: usize>(warp: &Warp, env: &mut Env<'_>, access: &Access) -> Option<Raw<W>> {
    let params = &env.launch.params;
    let mut raw = [[0; LANES]; W];
    for lane in lanes_of(access.mask) {
        let address = access.address[lane];
        let bytes = usize::try_from(address).ok().and_then(|at| params.get(at..at.checked_add(T)?));
        match bytes {
            Some(bytes) if address.is_multiple_of(T as u64) => put_bytes(&mut raw, lane, bytes),
            Some(_) => {
                let text = format!("misaligned: load of {T} bytes at parameter offset {address}");
                env.fault(warp, lane as u32, code::MISALIGNED, text);
                return None;
            }
            None => {
                let size = params.len();
                let text = format!("out of bounds: load of {T} bytes at parameter offset {address} of {size} bytes");
                env.fault(warp, lane as u32, code::ILLEGAL_ADDRESS, text);
                return None;
            }
        }
    }
    Some(raw)
}

pub(super) fn put_bytes<const W: usize>(raw: &mut Raw<W>, lane: usize, bytes: &[u8]) {
    for (word, bytes) in raw.iter_mut().zip(bytes.chunks(4)) {
        let mut whole = [0; 4];
        whole[..bytes.len()].copy_from_slice(bytes);
        word[lane] = u32::from_le_bytes(whole);
    }
}
