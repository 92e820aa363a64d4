//! Atomic operations on device and shared memory.

use super::access::{Access, flags, lanes_of};
use super::hopper::cluster;
use super::ldst::{Target, split, window};
use super::warp::LANES;
use super::{Env, Warp, global, ops, shared};
use crate::check::poll;
use crate::check::race::By;
use crate::check::taint;
use crate::ir::Inst;
use crate::launch::{Launch, code};
use crate::mem::windows;
use crate::num::half::{bf16_from_f32, bf16_to_f32, f16_from_f32, f16_to_f32};
use crate::num::round::canonical;
use crate::ptx::Type;
use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;

/// What an atomic operation does to the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Adds.
    Add,
    /// Keeps the smaller.
    Min,
    /// Keeps the larger.
    Max,
    /// Bitwise and.
    And,
    /// Bitwise or.
    Or,
    /// Bitwise exclusive or.
    Xor,
    /// Replaces.
    Exch,
    /// Replaces if it holds the first operand, by the second.
    Cas,
    /// Adds one, to 0 past the operand.
    Inc,
    /// Takes one away, to the operand from 0 or from above it.
    Dec,
}

const ACTIONS: [(&str, Action); 10] = [
    ("add", Action::Add),
    ("min", Action::Min),
    ("max", Action::Max),
    ("and", Action::And),
    ("or", Action::Or),
    ("xor", Action::Xor),
    ("exch", Action::Exch),
    ("cas", Action::Cas),
    ("inc", Action::Inc),
    ("dec", Action::Dec),
];

const TARGETS: [Target; 4] = [Target::Global, Target::Shared, Target::Generic, Target::Cluster];

/// The types that some action takes.
const TYPES: [Type; 13] = [
    Type::U32,
    Type::S32,
    Type::B32,
    Type::U64,
    Type::S64,
    Type::B64,
    Type::F32,
    Type::F64,
    Type::F16,
    Type::Bf16,
    Type::F16x2,
    Type::Bf16x2,
    Type::B16,
];

impl Action {
    /// The action of a name, if it exists for the type.
    pub fn parse(name: &str, ty: Type) -> Option<Action> {
        use Type::*;
        let (_, action) = *ACTIONS.iter().find(|(spelling, _)| *spelling == name)?;
        let exists = match action {
            Action::Add => matches!(ty, U32 | S32 | U64 | S64 | F32 | F64 | F16 | Bf16 | F16x2 | Bf16x2),
            Action::Min | Action::Max => matches!(ty, U32 | S32 | U64 | S64),
            Action::And | Action::Or | Action::Xor | Action::Exch => matches!(ty, B32 | B64),
            Action::Cas => matches!(ty, B16 | B32 | B64),
            Action::Inc | Action::Dec => ty == U32,
        };
        exists.then_some(action)
    }
}

/// The field `y` of an atomic instruction.
pub fn encode(action: Action, target: Target, ty: Type) -> u32 {
    let place = |found: Option<usize>| found.unwrap_or(0) as u32;
    place(ACTIONS.iter().position(|(_, a)| *a == action))
        | place(TARGETS.iter().position(|t| *t == target)) << 8
        | place(TYPES.iter().position(|t| *t == ty)) << 16
}

ops! {
    /// `atom` and `red`: `a` address, `x` offset, `b` operand, `m` second operand of `cas`, `d` the old value, `y` from
    /// [`encode`].
    ATOM = |warp, env, inst, mask| atom(warp, env, inst, mask);
    /// The same on several elements: from `y` on the kernel's pool holds [`encode`]'s two halves, the number of elements,
    /// and for each of them the register of the old value and of the operand.
    VECTOR = |warp, env, inst, mask| vector(warp, env, inst, mask);
}

fn vector(warp: &mut Warp, env: &mut Env<'_>, inst: &Inst, mask: u32) {
    let kernel = env.kernel;
    let [low, high, elements, ref registers @ ..] = kernel.pool[inst.y as usize..] else { return };
    let y = u32::from(low) | u32::from(high) << 16;
    let bytes = TYPES[usize::from(high)].bytes();
    let access = Access::new::<1>(warp, inst, mask);
    let whole = u64::from(bytes) * u64::from(elements);
    if let Some(lane) = access.lanes().find(|&lane| !access.address[lane].is_multiple_of(whole)) {
        let (address, place) = (access.address[lane], env.launch.memory.describe(access.address[lane]));
        let text = format!("misaligned: atomic operation on {whole} bytes at {address:#x}, not a multiple ({place})");
        env.fault(warp, lane as u32, code::MISALIGNED, text);
        return;
    }
    // Each element is an operation of its own.
    for (i, pair) in registers.chunks_exact(2).take(usize::from(elements)).enumerate() {
        let x = inst.x.wrapping_add(i as u32 * bytes);
        atom(warp, env, &Inst { d: pair[0], b: pair[1], x, y, ..*inst }, mask);
        if env.fault.is_some() {
            return;
        }
    }
}

fn atom(warp: &mut Warp, env: &mut Env<'_>, inst: &Inst, mask: u32) {
    if mask == 0 {
        return;
    }
    let ty = TYPES[(inst.y >> 16) as usize];
    match ty.bytes() {
        2 => run::<2>(warp, env, inst, mask, ty),
        4 => run::<4>(warp, env, inst, mask, ty),
        _ => run::<8>(warp, env, inst, mask, ty),
    }
}

fn run<const T: usize>(warp: &mut Warp, env: &mut Env<'_>, inst: &Inst, mask: u32, ty: Type) {
    let action = ACTIONS[(inst.y & 0xFF) as usize].1;
    let target = TARGETS[(inst.y >> 8 & 0xFF) as usize];
    let wide = ty.bits() == 64;
    let values = |slot: u16| if wide { *warp.r64(slot) } else { warp.r32(slot).map(u64::from) };
    let operand = values(inst.b);
    let second = if action == Action::Cas { values(inst.m) } else { operand };
    let mut old = [0u64; LANES];
    let mut done = 0;
    for (target, access) in split::<T>(target, &Access::new::<T>(warp, inst, mask)) {
        // The manual: sums of f32 in device memory flush subnormal numbers, those in shared memory keep them.
        let shared = matches!(target, Target::Shared | Target::Peer(_));
        let flushes = !shared && ty == Type::F32 && action == Action::Add;
        let step = |lane: usize, old: u64| {
            if flushes {
                return flush(apply(action, ty, flush(old), flush(operand[lane]), 0));
            }
            apply(action, ty, old, operand[lane], second[lane])
        };
        let before = env.spins.changes;
        done |= match target {
            Target::Shared => in_shared::<T>(warp, env, inst, &access, &mut old, step),
            Target::Peer(rank) => {
                let lane = access.mask.trailing_zeros();
                let there = |env: &mut Env<'_>| in_shared::<T>(warp, env, inst, &access, &mut old, step);
                cluster::at(warp, env, lane, rank, there).unwrap_or(0)
            }
            _ => in_global::<T>(warp, env, inst, &access, &mut old, step),
        };
        if env.spins.changes == before {
            poll::polled(warp, env, &access, window(target), T);
        }
    }
    if wide {
        warp.w64(inst.d, done, &old);
    } else {
        warp.w32(inst.d, done, &old.map(|value| value as u32));
    }
}

/// Returns the lanes whose operation was done.
fn in_shared<const T: usize>(
    warp: &Warp,
    env: &mut Env<'_>,
    inst: &Inst,
    access: &Access,
    old: &mut [u64; LANES],
    step: impl Fn(usize, u64) -> u64,
) -> u32 {
    let Some(mask) = shared::inside::<T>(warp, env, access, "atomic operation on") else { return 0 };
    env.tally.shared::<T>(env.pc, access, mask);
    if env.launch.settings.checks.init {
        shared::check_init::<T>(warp, env, access, mask);
    }
    let undefined = taint::updated(warp, env, inst, replaces(inst));
    let mut changed = false;
    env.order.cover_shared(env.shared.len_words());
    for lane in lanes_of(mask) {
        let at = access.address[lane] as u32;
        let by = By { warp: warp.index, lane: lane as u32, pc: env.pc, strong: true };
        if env.launch.settings.checks.race {
            hand_over(env, warp, windows::SHARED + u64::from(at), inst);
            for word in 0..T.div_ceil(4) as u32 {
                shared::touch(warp, env, by, at + 4 * word, shared::bytes::<T>(at), Some(false));
            }
        }
        let low = env.shared.load(at);
        if T == 8 {
            old[lane] = u64::from(low) | u64::from(env.shared.load(at + 4)) << 32;
            let new = step(lane, old[lane]);
            changed |= new != old[lane];
            env.shared.store(at, new as u32, 0xF);
            env.shared.store(at + 4, (new >> 32) as u32, 0xF);
        } else {
            let (shift, bytes) = (if T == 2 { at % 4 * 8 } else { 0 }, shared::bytes::<T>(at));
            old[lane] = u64::from(global::narrow::<T>(low, at as usize));
            let new = step(lane, old[lane]);
            changed |= new as u32 != old[lane] as u32;
            env.shared.store(at, (new as u32) << shift, bytes);
        }
    }
    if changed {
        env.spins.change();
    }
    for lane in lanes_of(undefined & mask) {
        let at = access.address[lane] as u32;
        for word in 0..T.div_ceil(4) as u32 {
            env.shared.invalidate(at + 4 * word, shared::bytes::<T>(at));
        }
    }
    mask
}

/// Returns the lanes whose operation was done.
fn in_global<const T: usize>(
    warp: &Warp,
    env: &mut Env<'_>,
    inst: &Inst,
    access: &Access,
    old: &mut [u64; LANES],
    step: impl Fn(usize, u64) -> u64,
) -> u32 {
    if !global::check_lanes::<T>(warp, env, access, "atomic operation on") {
        return 0;
    }
    if env.launch.settings.checks.init {
        global::check_init::<T>(warp, env, access);
        let undefined = taint::updated(warp, env, inst, replaces(inst));
        if undefined & access.mask != 0 {
            taint::published(warp, env, access.mask);
        }
    }
    let mut changed = false;
    for lane in lanes_of(access.mask) {
        let address = access.address[lane];
        if env.launch.settings.checks.race {
            let by = By { warp: warp.index, lane: lane as u32, pc: env.pc, strong: true };
            hand_over(env, warp, address & !3, inst);
            for word in 0..T.div_ceil(4) as u64 {
                global::touch(warp, env, by, address + 4 * word, shared::bytes::<T>(address as u32), Some(false));
            }
        }
        let mut new = 0;
        old[lane] = update::<T>(env.launch, address, |old| {
            new = step(lane, old);
            new
        });
        changed |= new != old[lane];
    }
    if changed {
        env.spins.change();
    }
    access.mask
}

/// Whether an atomic operation leaves nothing of the old value.
fn replaces(inst: &Inst) -> bool {
    ACTIONS[(inst.y & 0xFF) as usize].1 == Action::Exch
}

/// What an atomic operation orders: it is a strong load and a strong store.
fn hand_over(env: &mut Env<'_>, warp: &Warp, word: u64, inst: &Inst) {
    env.order.strong_load(warp.index, word, inst.c & flags::ACQUIRE != 0);
    env.order.strong_store(warp.index, word, inst.c & flags::RELEASE != 0);
}

/// Device memory is kept in words of 32 bits; operations on 64 exclude each other.
static WIDE: Mutex<()> = Mutex::new(());

/// Replaces the element at an address, which was checked; returns the old one.
fn update<const T: usize>(launch: &Launch, address: u64, mut step: impl FnMut(u64) -> u64) -> u64 {
    let Some((_, allocation)) = launch.memory.at_or_before(address) else { return 0 };
    let (block, start) = allocation.block(address - allocation.base());
    let at = (address - allocation.base() - start) as usize;
    let word = &block.words()[at / 4];
    let old = if T == 8 {
        let _one = WIDE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let high = &block.words()[at / 4 + 1];
        let old = u64::from(word.load(Relaxed)) | u64::from(high.load(Relaxed)) << 32;
        let new = step(old);
        word.store(new as u32, Relaxed);
        high.store((new >> 32) as u32, Relaxed);
        old
    } else {
        let shift = if T == 2 { at % 4 * 8 } else { 0 };
        let keep = if T == 2 { !(0xFFFF << shift) } else { 0 };
        let mut new = |old: u32| {
            let part = u64::from(global::narrow::<T>(old, at));
            old & keep | (step(part) as u32) << shift & !keep
        };
        let (Ok(old) | Err(old)) = word.fetch_update(Relaxed, Relaxed, |old| Some(new(old)));
        u64::from(global::narrow::<T>(old, at))
    };
    block.set_valid(at, T);
    old
}

/// The new value of an element. Halves of a packed type are rounded on their own.
pub(super) fn apply(action: Action, ty: Type, old: u64, value: u64, second: u64) -> u64 {
    let less = |a: u64, b: u64| match ty {
        Type::S32 => (a as i32) < b as i32,
        Type::S64 => (a as i64) < b as i64,
        _ => a < b,
    };
    match action {
        Action::Add => add(ty, old, value),
        Action::Min => {
            if less(value, old) {
                value
            } else {
                old
            }
        }
        Action::Max => {
            if less(old, value) {
                value
            } else {
                old
            }
        }
        Action::And => old & value,
        Action::Or => old | value,
        Action::Xor => old ^ value,
        Action::Exch => value,
        Action::Cas => {
            if old == value {
                second
            } else {
                old
            }
        }
        Action::Inc => {
            if old >= value {
                0
            } else {
                old + 1
            }
        }
        Action::Dec => {
            if old == 0 || old > value {
                value
            } else {
                old - 1
            }
        }
    }
}

/// An f32, or the zero of its sign if it is subnormal.
fn flush(bits: u64) -> u64 {
    let value = f32::from_bits(bits as u32);
    if value.is_subnormal() { bits & 0x8000_0000 } else { bits }
}

fn add(ty: Type, old: u64, value: u64) -> u64 {
    // A sum of two halves, rounded to f32 and then to a half, is the rounded sum: 24 bits are at least twice 11 plus 2.
    let f16 = |a: u64, b: u64| u64::from(f16_from_f32(f16_to_f32(a as u16) + f16_to_f32(b as u16)));
    let bf16 = |a: u64, b: u64| u64::from(bf16_from_f32(bf16_to_f32(a as u16) + bf16_to_f32(b as u16)));
    match ty {
        Type::U64 | Type::S64 => old.wrapping_add(value),
        Type::F32 => {
            let sum = f32::from_bits(old as u32) + f32::from_bits(value as u32);
            u64::from(canonical(sum).to_bits())
        }
        Type::F64 => (f64::from_bits(old) + f64::from_bits(value)).to_bits(),
        Type::F16 => f16(old, value),
        Type::Bf16 => bf16(old, value),
        Type::F16x2 => f16(old, value) | f16(old >> 16, value >> 16) << 16,
        Type::Bf16x2 => bf16(old, value) | bf16(old >> 16, value >> 16) << 16,
        _ => u64::from((old as u32).wrapping_add(value as u32)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_action_by_its_definition() {
        use Action::*;
        let u = |action, old, value| apply(action, Type::U32, old, value, 0);
        assert_eq!(u(Add, 0xFFFF_FFFF, 2), 1);
        assert_eq!((u(Min, 3, 5), u(Max, 3, 5)), (3, 5));
        assert_eq!(apply(Min, Type::S32, 3, 0xFFFF_FFFF, 0), 0xFFFF_FFFF);
        assert_eq!(apply(Max, Type::S64, 3, u64::MAX, 0), 3);
        assert_eq!((u(Inc, 4, 4), u(Inc, 3, 4), u(Inc, 9, 4)), (0, 4, 0));
        assert_eq!((u(Dec, 0, 4), u(Dec, 3, 4), u(Dec, 9, 4)), (4, 2, 4));
        assert_eq!(apply(Cas, Type::B32, 7, 7, 9), 9);
        assert_eq!(apply(Cas, Type::B32, 7, 8, 9), 7);
        assert_eq!(apply(Exch, Type::B64, 7, 8, 0), 8);
        let f = |a: f32, b: f32| {
            let bits = |x: f32| u64::from(x.to_bits());
            f32::from_bits(apply(Add, Type::F32, bits(a), bits(b), 0) as u32)
        };
        assert_eq!(f(1.5, 2.25), 3.75);
        assert_eq!(f(f32::NAN, 1.0).to_bits(), 0x7FFF_FFFF);
        // 2048 + 1 is not an f16; the other half is not touched by the rounding.
        let packed = apply(Add, Type::F16x2, 0x6800_3C00, 0x3C00_3C00, 0);
        assert_eq!(packed, 0x6800_4000);
        assert_eq!(apply(Add, Type::Bf16x2, 0x3F80_4000, 0x3F80_3F80, 0), 0x4000_4040);
    }

    #[test]
    fn actions_exist_for_their_types_alone() {
        assert_eq!(Action::parse("add", Type::F32), Some(Action::Add));
        assert_eq!(Action::parse("min", Type::F32), None);
        assert_eq!(Action::parse("inc", Type::S32), None);
        assert_eq!(Action::parse("exch", Type::U32), None);
        assert_eq!(Action::parse("mul", Type::U32), None);
    }
}
