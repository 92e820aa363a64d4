//! Loops over the 32 lanes, generic in the lane type, for operations that touch registers only.
//!
//! All of it is `#[inline(always)]`: a lane loop that is not inlined into the function with the vector features runs
//! one lane at a time and calls libm for a fused multiply-add.

use super::warp::{LANES, Warp};
use crate::ir::Inst;

/// A storage width: `u32` (one slot) or `u64` (two).
pub trait Raw: Copy + Default {
    /// All lanes of the slot.
    fn read(warp: &Warp, slot: u16) -> &[Self; LANES];
    /// Writes the lanes of `mask`.
    fn write(warp: &mut Warp, slot: u16, mask: u32, value: &[Self; LANES]);
}

impl Raw for u32 {
    #[inline(always)]
    fn read(warp: &Warp, slot: u16) -> &[u32; LANES] {
        warp.r32(slot)
    }
    #[inline(always)]
    fn write(warp: &mut Warp, slot: u16, mask: u32, value: &[u32; LANES]) {
        warp.w32(slot, mask, value);
    }
}

impl Raw for u64 {
    #[inline(always)]
    fn read(warp: &Warp, slot: u16) -> &[u64; LANES] {
        warp.r64(slot)
    }
    #[inline(always)]
    fn write(warp: &mut Warp, slot: u16, mask: u32, value: &[u64; LANES]) {
        warp.w64(slot, mask, value);
    }
}

/// A type that one lane's register can hold.
pub trait Lane: Copy {
    /// Storage.
    type Raw: Raw;
    /// From the register's bits; narrow types take the low bits.
    fn of(raw: Self::Raw) -> Self;
    /// To the register's bits; narrow types are zero-extended.
    fn raw(self) -> Self::Raw;
}

macro_rules! lane {
    ($($t:ty: $raw:ty, |$r:ident| $of:expr, |$v:ident| $to:expr;)*) => { $(
        impl Lane for $t {
            type Raw = $raw;
            #[inline(always)]
            fn of($r: $raw) -> $t { $of }
            #[inline(always)]
            fn raw(self) -> $raw { let $v = self; $to }
        }
    )* };
}

lane! {
    u8: u32, |r| r as u8, |v| u32::from(v);
    i8: u32, |r| r as i8, |v| u32::from(v as u8);
    u16: u32, |r| r as u16, |v| u32::from(v);
    i16: u32, |r| r as i16, |v| u32::from(v as u16);
    u32: u32, |r| r, |v| v;
    i32: u32, |r| r as i32, |v| v as u32;
    f32: u32, |r| f32::from_bits(r), |v| v.to_bits();
    u64: u64, |r| r, |v| v;
    i64: u64, |r| r as i64, |v| v as u64;
    f64: u64, |r| f64::from_bits(r), |v| v.to_bits();
}

/// `d = f(a)`.
#[inline(always)]
pub fn map1<A: Lane, D: Lane>(warp: &mut Warp, inst: &Inst, mask: u32, f: impl Fn(A) -> D) {
    let mut out = [D::Raw::default(); LANES];
    let a = A::Raw::read(warp, inst.a);
    for i in 0..LANES {
        out[i] = f(A::of(a[i])).raw();
    }
    D::Raw::write(warp, inst.d, mask, &out);
}

/// `d = f(a, b)`.
#[inline(always)]
pub fn map2<A: Lane, B: Lane, D: Lane>(warp: &mut Warp, inst: &Inst, mask: u32, f: impl Fn(A, B) -> D) {
    let mut out = [D::Raw::default(); LANES];
    let (a, b) = (A::Raw::read(warp, inst.a), B::Raw::read(warp, inst.b));
    for i in 0..LANES {
        out[i] = f(A::of(a[i]), B::of(b[i])).raw();
    }
    D::Raw::write(warp, inst.d, mask, &out);
}

/// `d = f(a, b, c)`.
#[inline(always)]
pub fn map3<A: Lane, B: Lane, C: Lane, D: Lane>(warp: &mut Warp, inst: &Inst, mask: u32, f: impl Fn(A, B, C) -> D) {
    let mut out = [D::Raw::default(); LANES];
    let (a, b, c) = (A::Raw::read(warp, inst.a), B::Raw::read(warp, inst.b), C::Raw::read(warp, inst.c));
    for i in 0..LANES {
        out[i] = f(A::of(a[i]), B::of(b[i]), C::of(c[i])).raw();
    }
    D::Raw::write(warp, inst.d, mask, &out);
}

/// The lanes where `f(a, b)` holds; the caller combines and writes the predicate.
#[inline(always)]
pub fn test2<A: Lane, B: Lane>(warp: &Warp, inst: &Inst, f: impl Fn(A, B) -> bool) -> u32 {
    let (a, b) = (A::Raw::read(warp, inst.a), B::Raw::read(warp, inst.b));
    let mut bits = 0u32;
    for i in 0..LANES {
        bits |= u32::from(f(A::of(a[i]), B::of(b[i]))) << i;
    }
    bits
}
