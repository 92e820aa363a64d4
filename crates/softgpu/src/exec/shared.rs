//! Loads and stores of shared memory, 32 lanes at a time.

use super::access::{Access, Raw, flags, lanes_of};
use super::global::narrow;
use super::warp::LANES;
use super::{Env, Warp};
use crate::check::race::{self, By, Lanes, Race};
use crate::check::taint::{self, Read};
use crate::check::{Detector, Finding, lanes};
use crate::ir::Inst;
use crate::launch::code;
use crate::mem::block::spread;
use crate::mem::windows::{self, Window};

/// Leaves the lanes whose whole element lies in one array, and reports the others. `None` when nothing is left to do.
#[inline(always)]
pub(super) fn inside<const T: usize>(warp: &Warp, env: &mut Env<'_>, access: &Access, verb: &str) -> Option<u32> {
    let whole = access.bits & (T as u64 - 1) == 0
        && access.max <= u64::from(u32::MAX)
        && env.shared.one_array(access.min as u32, access.max + T as u64);
    let mask = if whole { access.mask } else { inside_lanes::<T>(warp, env, access, verb)? };
    if env.shared.any_pending() {
        pending(warp, env, access, mask, T as u32, verb);
    }
    Some(mask)
}

/// Reports an access to bytes of a copy that nobody has waited for. The caller knows that some copy is open.
#[inline(never)]
pub(super) fn pending(warp: &Warp, env: &mut Env<'_>, access: &Access, mask: u32, bytes: u32, verb: &str) {
    let writes = verb != "load of";
    let hit = |lane: &usize| env.shared.is_pending(access.address[*lane] as u32, bytes, writes);
    let bad = lanes_of(mask).filter(hit).fold(0u32, |bad, lane| bad | 1 << lane);
    if bad == 0 {
        return;
    }
    let lane = bad.trailing_zeros();
    let address = access.address[lane as usize % LANES] as u32;
    let word = (address & !3..address + bytes).step_by(4).find(|&word| env.shared.is_pending(word, 4, writes));
    let owner = word.and_then(|word| {
        let older = env.copies.owner(word).map(|(warp, lane, pc)| (env.cta, warp, lane, pc, true));
        let here = older.or_else(|| env.beside.flights.owner(word, writes));
        here.or_else(|| env.cluster.reader(word).map(|(cta, warp, lane, pc)| (cta, warp, lane, pc, false)))
    });
    let Some((cta, by, by_lane, pc, into)) = owner else { return };
    if env.seen(Detector::AsyncCopy, Some(pc)) {
        return;
    }
    let preposition = if into { "into" } else { "from" };
    let text = format!(
        "{verb} {bytes} bytes at {}, {preposition} which warp {by} lane {by_lane} copies asynchronously and has not \
         waited for it ({} of the warp)",
        env.shared.name(address),
        lanes(bad)
    );
    let other = Some(env.kernel.describe(pc, cta, by, by_lane));
    let finding = Finding::new(Detector::AsyncCopy, env.at(warp, lane), text);
    env.find(Finding { address: Some(u64::from(address)), other, ..finding });
}

#[cold]
#[inline(never)]
fn inside_lanes<const T: usize>(warp: &Warp, env: &mut Env<'_>, access: &Access, verb: &str) -> Option<u32> {
    let mut good = 0u32;
    for lane in access.lanes() {
        let address = access.address[lane];
        if !address.is_multiple_of(T as u64) {
            let name = env.shared.name(address as u32);
            let text = format!("misaligned: {verb} {T} bytes at {address:#x}, not a multiple of {T} ({name})");
            env.fault(warp, lane as u32, code::MISALIGNED, text);
            return None;
        }
        if address <= u64::from(u32::MAX) && env.shared.one_array(address as u32, address + T as u64) {
            good |= 1 << lane;
        }
    }
    let bad = access.mask & !good;
    if bad != 0 && !env.seen(Detector::SharedBounds, None) {
        let lane = bad.trailing_zeros();
        let address = access.address[lane as usize % LANES];
        let place = match u32::try_from(address) {
            Ok(at) => env.shared.outside(at, T as u32).to_string(),
            Err(_) => format!("{T} bytes at {address:#x}, which is no shared address"),
        };
        let text = format!("{verb} {place} ({} of the warp)", lanes(bad));
        let finding =
            Finding { address: Some(address), ..Finding::new(Detector::SharedBounds, env.at(warp, lane), text) };
        env.find(finding);
    }
    (good != 0).then_some(good)
}

/// Loads `T` bytes per lane. A lane outside every array gets poison.
#[inline(always)]
pub(super) fn load<const T: usize, const W: usize>(
    warp: &Warp,
    env: &mut Env<'_>,
    inst: &Inst,
    access: &Access,
) -> Option<Raw<W>> {
    let mut raw = [[u32::MAX; LANES]; W];
    let Some(mask) = inside::<T>(warp, env, access, "load of") else {
        return env.fault.is_none().then_some(raw);
    };
    env.tally.shared::<T>(env.pc, access, mask);
    if access.consecutive && mask == u32::MAX && T >= 4 {
        let words = env.shared.words_from(access.min as u32, LANES * W);
        for i in 0..LANES {
            for k in 0..W {
                raw[k][i] = words[i * W + k];
            }
        }
        if env.launch.settings.checks.init && !env.shared.all_valid(access.min as u32, LANES * W) {
            check_init::<T>(warp, env, access, mask);
        }
    } else {
        let mut valid = 0xFF;
        for i in lanes_of(mask) {
            let at = access.address[i] as u32;
            for k in 0..W {
                raw[k][i] = narrow::<T>(env.shared.load(at + 4 * k as u32), at as usize);
                // A narrow element looks at its own bytes only.
                valid &= env.shared.valid(at + 4 * k as u32) | !(bytes::<T>(at) as u8);
            }
        }
        if env.launch.settings.checks.init && valid != 0xFF {
            check_init::<T>(warp, env, access, mask);
        }
    }
    if env.launch.settings.checks.race {
        read_marks::<T, W>(warp, env, inst, access, mask);
    }
    Some(raw)
}

/// Looks for races of a load, and remembers who read.
#[inline(always)]
fn read_marks<const T: usize, const W: usize>(warp: &Warp, env: &mut Env<'_>, inst: &Inst, access: &Access, mask: u32) {
    env.order.cover_shared(env.shared.len_words());
    let strong = inst.c & flags::STRONG != 0;
    let by = By { warp: warp.index, lane: 0, pc: env.pc, strong };
    if !strong && access.consecutive && mask == u32::MAX && env.order.run_shared::<T>(by, access.min as u32, false) {
        return;
    }
    // Of lanes that read one and the same word, two stand for all.
    let mask = if access.min == access.max { two_lanes(mask) } else { mask };
    for i in lanes_of(mask) {
        let at = access.address[i] as u32;
        if T == 16 && !strong && env.order.row_shared(By { lane: i as u32, ..by }, at, Lanes::One) {
            continue;
        }
        for k in 0..W as u32 {
            touch(warp, env, By { lane: i as u32, ..by }, at + 4 * k, bytes::<T>(at), None);
        }
        if strong {
            env.order.strong_load(warp.index, windows::SHARED + u64::from(at), inst.c & flags::ACQUIRE != 0);
        }
    }
}

/// The two lowest lanes of a mask.
#[inline(always)]
pub(super) fn two_lanes(mask: u32) -> u32 {
    let first = mask & mask.wrapping_neg();
    let rest = mask & !first;
    first | rest & rest.wrapping_neg()
}

/// One lane touches one word.
#[inline(always)]
pub(super) fn touch(warp: &Warp, env: &mut Env<'_>, by: By, at: u32, bytes: u32, write: Option<bool>) {
    if let Some(clash) = env.order.touch_shared(by, at, bytes, write) {
        let race = Race { detector: Detector::SharedRace, address: u64::from(at), wrote: write.is_some(), clash };
        race::report(env, warp, by.lane, race, |env| env.shared.name(at));
    }
}

/// The bytes of its word that an element at `at` covers; wide elements cover every word whole.
#[inline(always)]
pub(super) fn bytes<const T: usize>(at: u32) -> u32 {
    if T >= 4 { 0xF } else { ((1 << T) - 1) << (at % 4) }
}

/// Notes which lanes read bytes that no thread wrote.
#[cold]
#[inline(never)]
pub(super) fn check_init<const T: usize>(warp: &Warp, env: &mut Env<'_>, access: &Access, mask: u32) {
    let mut undefined = [0u32; LANES];
    let mut first = None;
    for lane in lanes_of(mask) {
        let at = access.address[lane] as u32;
        let shift = if T < 4 { at % 4 } else { 0 };
        for word in 0..T.div_ceil(4) as u32 {
            let missing = bytes::<T>(at) & !u32::from(env.shared.valid(at + 4 * word));
            if missing != 0 {
                first.get_or_insert((at + 4 * word) & !3 | missing.trailing_zeros());
                undefined[lane] |= missing >> shift << (4 * word);
            }
        }
    }
    if let Some(at) = first {
        let read = Read { window: Window::Shared(at), address: u64::from(at), bytes: T };
        taint::met(warp, env, undefined, read);
    }
}

/// Stores `T` bytes per lane, in the order of lanes. A lane outside every array stores nothing.
#[inline(always)]
pub(super) fn store<const T: usize, const W: usize>(
    warp: &Warp,
    env: &mut Env<'_>,
    inst: &Inst,
    access: &Access,
    raw: &Raw<W>,
) {
    let Some(mask) = inside::<T>(warp, env, access, "store of") else { return };
    env.tally.shared::<T>(env.pc, access, mask);
    let strong = inst.c & flags::STRONG != 0;
    let mut changed = !warp.polls.any();
    let mut race = env.launch.settings.checks.race;
    let release = inst.c & flags::RELEASE != 0;
    if race {
        env.order.cover_shared(env.shared.len_words());
        if strong {
            for i in lanes_of(mask) {
                env.order.strong_store(warp.index, windows::SHARED + access.address[i], release);
            }
        }
        let by = By { warp: warp.index, lane: 0, pc: env.pc, strong };
        let run = access.consecutive && mask == u32::MAX;
        race = !(run && env.order.run_shared::<T>(by, access.min as u32, true));
    }
    for i in lanes_of(mask) {
        let at = access.address[i] as u32;
        let shift = if T < 4 { at % 4 * 8 } else { 0 };
        for k in 0..W {
            let (at, value, bytes) = (at + 4 * k as u32, raw[k][i] << shift, bytes::<T>(at));
            if race {
                // Lanes of one instruction that store the same value into one word do not race: so look before each.
                let same = (env.shared.load(at) ^ value) & spread(bytes) == 0;
                let by = By { warp: warp.index, lane: i as u32, pc: env.pc, strong };
                touch(warp, env, by, at, bytes, Some(same));
            }
            changed = changed || (env.shared.load(at) ^ value) & spread(bytes) != 0;
            env.shared.store(at, value, bytes);
        }
    }
    if changed {
        env.spins.change();
    }
    if warp.taint.any() {
        spoil::<T>(warp, env, inst, access, mask);
    }
}

/// What was stored is undefined in some lanes: so are the bytes again.
#[cold]
#[inline(never)]
fn spoil<const T: usize>(warp: &Warp, env: &mut Env<'_>, inst: &Inst, access: &Access, mask: u32) {
    let undefined = taint::stored(warp, env.kernel, inst);
    for lane in lanes_of(mask) {
        let at = access.address[lane] as u32;
        let shift = if T < 4 { at % 4 } else { 0 };
        for word in 0..T.div_ceil(4) as u32 {
            env.shared.invalidate(at + 4 * word, undefined[lane] >> (4 * word) << shift & bytes::<T>(at));
        }
    }
}
