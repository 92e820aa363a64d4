//! `cp.async.bulk`, `cp.reduce.async.bulk` and their tensor forms, from the threads' side: checks, marks, starts.

use super::super::access::{Access, lanes_of};
use super::super::warp::LANES;
use super::super::{Env, Warp, ops, shared};
use super::cluster;
use super::flight::{self, Flight, Job, OPEN, Source};
use super::mbarrier;
use super::tensor;
use super::tile::{self, Place, Reduction, Swizzle, Tile};
use crate::check::bulk::Open;
use crate::check::race::{self, By, Lanes, Race};
use crate::check::{Detector, Finding};
use crate::exec::atom::Action;
use crate::ir::Inst;
use crate::launch::code;
use crate::mem::windows::{self, Window};
use crate::ptx::Type;

/// An address among the operands in the kernel's pool: slot, whether it is generic or of 64 bits, and its offset.
pub const ADDRESS: usize = 4;
/// Bits of the second word of an address.
pub mod address {
    /// The register has 64 bits.
    pub const WIDE: u16 = 1;
    /// It is a generic address that has to lie in shared memory.
    pub const GENERIC: u16 = 2;
}

/// Bits of the field `y`, besides the number of dimensions in the lowest three.
pub mod form {
    /// The copy is one of a tensor, whose dimensions the lowest bits count.
    pub const DIMENSIONS: u32 = 7;
    /// It goes to device memory.
    pub const STORE: u32 = 1 << 3;
    /// To shared memory: it comes from the CTA's own.
    pub const BETWEEN: u32 = 1 << 5;
    /// To several CTAs of the cluster: a mask of them is the last operand.
    pub const MULTICAST: u32 = 1 << 6;
    /// It combines: action and type follow from here, eight bits each.
    pub const REDUCE: u32 = 1 << 4;
    /// Where the action stands.
    pub const ACTION_AT: u32 = 8;
    /// Where the type stands.
    pub const TYPE_AT: u32 = 16;
}

ops! {
    /// A copy; the kernel's pool holds from `x` on: the address in shared memory; for loads that of the memory barrier;
    /// the address in device memory or of the tensor map; then the slot of the size, or of the coordinates.
    COPY = |warp, env, inst, mask| copy(warp, env, inst, mask);
    /// `st.async`; the kernel's pool holds from `x` on: the address, that of the memory barrier, then the registers of the
    /// values, `y & 15` of them, of `y >> 4` bytes each.
    STORE_ASYNC = |warp, env, inst, mask| store_async(warp, env, inst, mask);
    /// `cp.async.bulk.commit_group`
    COMMIT = |warp, env, _, mask| {
        flight::drift(env);
        for lane in lanes_of(mask) {
            env.beside.flights.commit(warp.index, lane as u32);
        }
    };
    /// `cp.async.bulk.wait_group`: all but the last `x`; with `y` only until they have been read.
    WAIT = |warp, env, inst, mask| {
        flight::drift(env);
        for lane in lanes_of(mask) {
            flight::wait(warp, env, lane as u32, inst.x, inst.y == 0);
        }
    };
    /// `prefetch.tensormap` and copies into the cache: nothing but the map or the address is looked at.
    PREFETCH = |warp, env, inst, mask| prefetch(warp, env, inst, mask);
}

/// One operand address for each lane.
fn addresses(warp: &Warp, operand: &[u16]) -> [u64; LANES] {
    let offset = i64::from((u32::from(operand[2]) | u32::from(operand[3]) << 16) as i32);
    match operand[1] & address::WIDE {
        0 => warp.r32(operand[0]).map(|base| u64::from(base.wrapping_add(offset as u32))),
        _ => warp.r64(operand[0]).map(|base| base.wrapping_add_signed(offset)),
    }
}

/// An operand address as an offset in shared memory.
fn in_shared(warp: &Warp, env: &mut Env<'_>, operand: &[u16], lane: usize) -> Option<u64> {
    let at = addresses(warp, operand)[lane];
    if operand[1] & address::GENERIC == 0 {
        return Some(at);
    }
    match windows::classify(at) {
        Window::Shared(at) => Some(u64::from(at)),
        _ => {
            env.fault(warp, lane as u32, code::ILLEGAL_ADDRESS, format!("{at:#x} is not an address in shared memory"));
            None
        }
    }
}

/// What a copy moves: where that lies in device memory, its bytes with those outside of a tensor, how shared memory
/// permutes them, and what is done with what they come to.
struct Part {
    place: Place,
    bytes: u32,
    swizzle: Swizzle,
    reduce: Option<Reduction>,
}

/// What a lane's copy moves. `None` after a fault.
fn part(warp: &Warp, env: &mut Env<'_>, operands: &[u16], y: u32, lane: usize) -> Option<Part> {
    let address = addresses(warp, operands)[lane];
    let dimensions = (y & form::DIMENSIONS) as usize;
    if dimensions > 0 {
        let coordinates = &operands[ADDRESS..ADDRESS + dimensions];
        let coordinates: Vec<i32> = coordinates.iter().map(|slot| warp.r32(*slot)[lane] as i32).collect();
        let map = tensor::read(warp, env, lane as u32, address, dimensions)?;
        let place = map.place(&coordinates);
        let action = ACTIONS[(y >> form::ACTION_AT & 0xFF) as usize % ACTIONS.len()];
        let bits = matches!(action.1, Action::And | Action::Or | Action::Xor);
        let reduce = match (y & form::REDUCE != 0, map.ty(bits)) {
            (false, _) => None,
            (true, Some(ty)) if Action::parse(action.0, ty).is_some() => Some(Reduction { action: action.1, ty }),
            (true, ty) => {
                let text = format!("the reduction .{} of a tensor of {ty:?} is not implemented", action.0);
                env.fault(warp, lane as u32, code::NOT_SUPPORTED, text);
                return None;
            }
        };
        let (bytes, swizzle) = (map.box_bytes(), map.swizzle);
        return place.check(warp, env, lane as u32).then_some(Part { place, bytes, swizzle, reduce });
    }
    let bytes = warp.r32(operands[ADDRESS])[lane];
    if !bytes.is_multiple_of(16) || !address.is_multiple_of(16) || bytes == 0 {
        let text = format!("misaligned: copy in bulk of {bytes} bytes at {address:#x}; both must be multiples of 16");
        env.fault(warp, lane as u32, code::MISALIGNED, text);
        return None;
    }
    let place = Place::linear(address, bytes);
    let reduce = (y & form::REDUCE != 0).then(|| reduction(y));
    place.check(warp, env, lane as u32).then_some(Part { place, bytes, swizzle: Swizzle::default(), reduce })
}

fn copy(warp: &mut Warp, env: &mut Env<'_>, inst: &Inst, mask: u32) {
    flight::drift(env);
    for lane in lanes_of(mask) {
        let operands = &env.kernel.pool[inst.x as usize..];
        let Some(at) = in_shared(warp, env, operands, lane) else { return };
        let (rank, at) = env.cluster.place(at);
        if inst.y & form::STORE != 0 {
            let Some(part) = part(warp, env, &operands[ADDRESS..], inst.y, lane) else { return };
            let align = if inst.y & form::DIMENSIONS != 0 { 128 } else { 16 };
            if rank != env.cluster.rank {
                return elsewhere(warp, env, lane, "copies to device memory start");
            }
            if inside(warp, env, lane, at, part.bytes, align, true) {
                start_store(warp, env, lane as u32, at as u32, part);
            }
        } else {
            load(warp, env, inst.y, operands, lane, (rank, at));
        }
        if env.fault.is_some() {
            return;
        }
    }
    flight::drift(env);
}

#[cold]
fn elsewhere(warp: &Warp, env: &mut Env<'_>, lane: usize, what: &str) {
    let text = format!("{what} in the CTA's own shared memory, and not in another's");
    env.fault(warp, lane as u32, code::ILLEGAL_ADDRESS, text);
}

/// A lane's copy to shared memory, of the CTA of a rank or, from the same offset on, of several.
fn load(warp: &Warp, env: &mut Env<'_>, y: u32, operands: &[u16], lane: usize, (rank, at): (u32, u64)) {
    let Some(barrier) = in_shared(warp, env, &operands[ADDRESS..], lane) else { return };
    let (completes, barrier) = env.cluster.place(barrier);
    if completes != rank {
        let text = format!("a copy to CTA {rank} of the cluster, completed by an mbarrier of CTA {completes}");
        return env.fault(warp, lane as u32, code::ILLEGAL_ADDRESS, text);
    }
    let rest = &operands[2 * ADDRESS..];
    if y & form::BETWEEN != 0 {
        return between(warp, env, rest, lane, (rank, at, barrier));
    }
    let Some(part) = part(warp, env, rest, y, lane) else { return };
    for segment in &part.place.segments {
        env.tally.bulk_load(env.pc, segment.address, segment.bytes);
    }
    let align = if y & form::DIMENSIONS != 0 { 128 } else { 16 };
    let mut ranks = 1 << rank;
    if y & form::MULTICAST != 0 {
        ranks = warp.r32(rest[ADDRESS + (y & form::DIMENSIONS).max(1) as usize])[lane] & 0xFFFF;
        if rank != env.cluster.rank || ranks >> env.cluster.size() != 0 || ranks == 0 {
            let text = format!("a copy to the CTAs {ranks:#b} of a cluster of {}", env.cluster.size());
            return env.fault(warp, lane as u32, code::ILLEGAL_INSTRUCTION, text);
        }
    }
    for rank in (0..16).filter(|rank| ranks >> rank & 1 != 0) {
        cluster::at(warp, env, lane as u32, rank, |env| {
            if inside(warp, env, lane, at, part.bytes, align, false) {
                start_load(warp, env, lane as u32, (at as u32, barrier), &part);
            }
        });
        if env.fault.is_some() {
            return;
        }
    }
}

/// A lane's copy from the CTA's own shared memory to that of a CTA of the cluster.
fn between(warp: &Warp, env: &mut Env<'_>, rest: &[u16], lane: usize, (rank, at, barrier): (u32, u64, u64)) {
    let Some(from) = in_shared(warp, env, rest, lane) else { return };
    let (source, from) = env.cluster.place(from);
    if source != env.cluster.rank {
        return elsewhere(warp, env, lane, "copies between CTAs start");
    }
    let bytes = warp.r32(rest[ADDRESS])[lane];
    if !bytes.is_multiple_of(16) || bytes == 0 {
        let text = format!("misaligned: copy in bulk of {bytes} bytes, no multiple of 16");
        return env.fault(warp, lane as u32, code::MISALIGNED, text);
    }
    if !inside(warp, env, lane, from, bytes, 16, true) {
        return;
    }
    let from = from as u32;
    if env.launch.settings.checks.init {
        check_written(warp, env, lane as u32, from, bytes);
    }
    if env.launch.settings.checks.race {
        env.order.cover_shared(env.shared.len_words());
        let by = By { warp: warp.index, lane: lane as u32, pc: env.pc, strong: false };
        check_readable(warp, env, by, from, bytes);
        note_read(env, by, from, bytes);
        env.shared.set_reading(from, bytes, true);
    }
    cluster::at(warp, env, lane as u32, rank, |env| {
        if inside(warp, env, lane, at, bytes, 16, false) {
            land_later(warp, env, lane as u32, (at as u32, bytes, barrier), Source::Shared(source, from));
        }
    });
}

fn store_async(warp: &mut Warp, env: &mut Env<'_>, inst: &Inst, mask: u32) {
    flight::drift(env);
    let operands = &env.kernel.pool[inst.x as usize..];
    let (count, size) = ((inst.y & 15) as usize, inst.y >> 4);
    let bytes = count as u32 * size;
    for lane in lanes_of(mask) {
        let Some(at) = in_shared(warp, env, operands, lane) else { return };
        let Some(barrier) = in_shared(warp, env, &operands[ADDRESS..], lane) else { return };
        let ((rank, at), (completes, barrier)) = (env.cluster.place(at), env.cluster.place(barrier));
        if completes != rank {
            let text = format!("a store to CTA {rank} of the cluster, completed by an mbarrier of CTA {completes}");
            return env.fault(warp, lane as u32, code::ILLEGAL_ADDRESS, text);
        }
        let value = |slot: &u16| match size {
            8 => warp.r64(*slot)[lane].to_le_bytes().to_vec(),
            _ => warp.r32(*slot)[lane].to_le_bytes().to_vec(),
        };
        let values = operands[2 * ADDRESS..][..count].iter().flat_map(value).collect();
        let done = cluster::at(warp, env, lane as u32, rank, |env| {
            if inside(warp, env, lane, at, bytes, u64::from(bytes), false) {
                let from = Source::Value(Tile::of_bytes(values));
                land_later(warp, env, lane as u32, (at as u32, bytes, barrier), from);
            }
        });
        if done.is_none() || env.fault.is_some() {
            return;
        }
    }
    flight::drift(env);
}

/// Faults unless one array holds all bytes at an aligned place, and reports those that belong to other copies.
pub(super) fn inside(
    warp: &Warp,
    env: &mut Env<'_>,
    lane: usize,
    at: u64,
    bytes: u32,
    align: u64,
    store: bool,
) -> bool {
    let end = at.saturating_add(u64::from(bytes));
    if !at.is_multiple_of(align) {
        let text = format!("misaligned: copy in bulk at shared address {at:#x}, not a multiple of {align}");
        env.fault(warp, lane as u32, code::MISALIGNED, text);
        return false;
    }
    if end > u64::from(u32::MAX) || !env.shared.one_array(at as u32, end) {
        let place = env.shared.outside(at as u32, bytes);
        env.stop(Detector::SharedBounds, warp, lane as u32, format!("copy in bulk of {place}"));
        return false;
    }
    if env.shared.any_pending() {
        // Two copies may read the same bytes.
        let verb = if store { "load of" } else { "copy in bulk of" };
        let first = (at as u32..end as u32).step_by(4).find(|word| env.shared.is_pending(*word, 4, !store));
        if let Some(word) = first {
            let access = Access::of::<4>([u64::from(word); LANES], 1 << lane);
            shared::pending(warp, env, &access, 1 << lane, 4, verb);
        }
    }
    true
}

fn start_load(warp: &Warp, env: &mut Env<'_>, lane: u32, (to, barrier): (u32, u64), part: &Part) {
    let from = &part.place;
    if env.launch.settings.checks.race {
        let by = By { warp: warp.index, lane, pc: env.pc, strong: false };
        tile::touch(warp, env, by, from, None);
    }
    let source = Source::Memory(from.clone(), Tile::of_memory(env, from, part.bytes));
    let to = (to, part.bytes, barrier);
    land_swizzled(warp, env, lane, to, source, part.swizzle);
}

/// Bytes are to come to the shared memory that is looked at: what is checked and marked when they start.
pub(super) fn land_later(warp: &Warp, env: &mut Env<'_>, lane: u32, to: (u32, u32, u64), from: Source) {
    land_swizzled(warp, env, lane, to, from, Swizzle::default());
}

fn land_swizzled(
    warp: &Warp,
    env: &mut Env<'_>,
    lane: u32,
    (to, bytes, barrier): (u32, u32, u64),
    from: Source,
    swizzle: Swizzle,
) {
    if mbarrier::for_copy(warp, env, lane, barrier).is_none() {
        return;
    }
    let given = if env.launch.settings.checks.race {
        let by = By { warp: warp.index, lane, pc: env.pc, strong: false };
        env.order.cover_shared(env.shared.len_words());
        if let Some((at, clash)) = env.order.claim_shared(by, to, bytes) {
            let race = Race { detector: Detector::SharedRace, address: u64::from(at), wrote: true, clash };
            race::report(env, warp, lane, race, |env| env.shared.name(at));
        }
        env.shared.set_pending(to, bytes, true);
        env.order.release(warp.index, 1 << lane, warp.live)
    } else {
        Default::default()
    };
    let job = Job::Load { to, bytes, swizzle, barrier: barrier as u32, from, given: Box::new(given) };
    env.beside.flights.start(Flight { cta: env.cta, warp: warp.index, lane, pc: env.pc, job });
}

fn start_store(warp: &Warp, env: &mut Env<'_>, lane: u32, from: u32, part: Part) {
    let Part { place: to, bytes, swizzle, reduce } = part;
    let by = By { warp: warp.index, lane, pc: env.pc, strong: reduce.is_some() };
    if env.launch.settings.checks.init {
        check_written(warp, env, lane, from, bytes);
    }
    tile::announce(warp, env, lane, &to, reduce.is_some());
    if env.launch.settings.checks.race {
        env.order.cover_shared(env.shared.len_words());
        let plain = By { strong: false, ..by };
        check_readable(warp, env, plain, from, bytes);
        note_read(env, plain, from, bytes);
        tile::touch(warp, env, by, &to, Some(false));
        env.shared.set_reading(from, bytes, true);
    }
    let job = Job::Store { from, bytes, swizzle, to, reduce, group: OPEN, read: None, waited: false, written: false };
    env.beside.flights.start(Flight { cta: env.cta, warp: warp.index, lane, pc: env.pc, job });
}

/// Reports bytes that go to device memory and that nobody wrote.
fn check_written(warp: &Warp, env: &mut Env<'_>, lane: u32, from: u32, bytes: u32) {
    let Some(at) = (from..from + bytes).step_by(4).find(|at| env.shared.valid(*at) != 0xF) else { return };
    if !env.seen(Detector::Uninitialised, None) {
        let text = format!("a copy in bulk to device memory of bytes that no thread wrote, {}", env.shared.name(at));
        let finding = Finding::new(Detector::Uninitialised, env.at(warp, lane), text);
        env.find(Finding { address: Some(u64::from(at)), ..finding });
    }
}

/// Reports bytes that an engine is to read for a thread and that are not ready for it.
pub(super) fn check_readable(warp: &Warp, env: &mut Env<'_>, by: By, from: u32, bytes: u32) {
    let open = env.order.readable_shared(by, from, bytes);
    report(warp, env, by, open);
}

/// The same for units of 16 bytes.
pub(super) fn check_readable_units(warp: &Warp, env: &mut Env<'_>, by: By, units: &[u32]) {
    let open = env.order.readable_units(by, units);
    report(warp, env, by, open);
}

fn report(warp: &Warp, env: &mut Env<'_>, by: By, open: Option<(u32, Open)>) {
    match open {
        None => {}
        Some((at, Open::Race(clash))) => {
            let race = Race { detector: Detector::SharedRace, address: u64::from(at), wrote: false, clash };
            race::report(env, warp, by.lane, race, |env| env.shared.name(at));
        }
        Some((at, Open::Unfenced(clash))) => {
            if env.seen(Detector::ProxyFence, Some(clash.pc)) {
                return;
            }
            let text = format!(
                "reads {} through the asynchronous proxy, which warp {} lane {} wrote with no fence.proxy.async between",
                env.shared.name(at),
                clash.warp,
                clash.lane
            );
            let other = Some(env.kernel.describe(clash.pc, env.cta, clash.warp, clash.lane));
            let finding = Finding::new(Detector::ProxyFence, env.at(warp, by.lane), text);
            env.find(Finding { address: Some(u64::from(at)), other, ..finding });
        }
    }
}

/// A thread's copy reads shared memory: whoever writes there has to come behind.
pub(super) fn note_read(env: &mut Env<'_>, by: By, from: u32, bytes: u32) {
    for at in (from..from + bytes).step_by(16) {
        if !env.order.row_shared(by, at, Lanes::One) {
            for word in 0..4 {
                // Writes that stand against it were reported when the copy started.
                env.order.touch_shared(by, at + 4 * word, 0xF, None);
            }
        }
    }
}

const ACTIONS: [(&str, Action); 8] = [
    ("add", Action::Add),
    ("min", Action::Min),
    ("max", Action::Max),
    ("inc", Action::Inc),
    ("dec", Action::Dec),
    ("and", Action::And),
    ("or", Action::Or),
    ("xor", Action::Xor),
];

const TYPES: [Type; 10] =
    [Type::F16, Type::Bf16, Type::F32, Type::F64, Type::U32, Type::S32, Type::U64, Type::S64, Type::B32, Type::B64];

/// The bits of the field `y` for a reduction; `None` if there is none of that name and type.
pub fn encode(name: &str, ty: Type) -> Option<u32> {
    let action = ACTIONS.iter().position(|(spelling, _)| *spelling == name)?;
    // Extrema of halves exist here and not among atomic operations of single threads.
    Action::parse(name, ty)?;
    let ty = TYPES.iter().position(|known| *known == ty)?;
    Some(form::REDUCE | (action as u32) << form::ACTION_AT | (ty as u32) << form::TYPE_AT)
}

/// The same for a reduction of a tensor, whose type its map has.
pub fn encode_tensor(name: &str) -> Option<u32> {
    let action = ACTIONS.iter().position(|(spelling, _)| *spelling == name)?;
    Some(form::REDUCE | (action as u32) << form::ACTION_AT)
}

fn reduction(y: u32) -> Reduction {
    let (action, ty) = (y >> form::ACTION_AT & 0xFF, y >> form::TYPE_AT & 0xFF);
    Reduction { action: ACTIONS[action as usize % ACTIONS.len()].1, ty: TYPES[ty as usize % TYPES.len()] }
}

fn prefetch(warp: &mut Warp, env: &mut Env<'_>, inst: &Inst, mask: u32) {
    let kernel = env.kernel;
    let operands = &kernel.pool[inst.x as usize..];
    for lane in lanes_of(mask) {
        let address = addresses(warp, operands)[lane];
        if inst.y & form::DIMENSIONS != 0 && tensor::read(warp, env, lane as u32, address, 0).is_none() {
            return;
        }
    }
}
