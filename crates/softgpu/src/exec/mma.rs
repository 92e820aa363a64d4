//! `mma.sync`: 16 rows times 8 columns, spread over the registers of 32 lanes.
//!
//! Lane `4 * g + t` holds, of A, columns `t` (or `2t` and `2t + 1` where a register has two halves) of rows `g` and
//! `g + 8`; of B the same rows of column `g`; of C and D columns `2t` and `2t + 1` of rows `g` and `g + 8`.
//!
//! Products are exact and added one by one, in ascending order, each sum rounded to f32. Hardware aligns a group of
//! products to the largest of them, cuts off what falls below, and adds them at once: results differ in the last bits,
//! and more where large terms cancel.

use super::warp::LANES;
use super::{Env, Warp, ops};
use crate::check::{Detector, Finding, lanes};
use crate::ir::Inst;
use crate::num::half::{bf16_to_f32, f16_from_f32, f16_to_f32};
use crate::num::round::canonical;

/// The element type of A and B.
pub(super) trait Element {
    /// Elements in one register.
    const PER_REGISTER: usize;
    fn widen(word: u32, i: usize) -> f32;
}

pub(super) struct F16;
pub(super) struct Bf16;
pub(super) struct Tf32;

impl Element for F16 {
    const PER_REGISTER: usize = 2;
    #[inline(always)]
    fn widen(word: u32, i: usize) -> f32 {
        f16_to_f32((word >> (16 * i)) as u16)
    }
}

impl Element for Bf16 {
    const PER_REGISTER: usize = 2;
    #[inline(always)]
    fn widen(word: u32, i: usize) -> f32 {
        bf16_to_f32((word >> (16 * i)) as u16)
    }
}

impl Element for Tf32 {
    const PER_REGISTER: usize = 1;
    /// The unit looks at the upper 19 bits: a value that was not rounded before is truncated.
    #[inline(always)]
    fn widen(word: u32, _: usize) -> f32 {
        f32::from_bits(word & 0xffff_e000)
    }
}

/// C and D while they are computed. Column `2t + i` stands at `4i + t`, which is how registers hold them.
type Sums = [[f32; 8]; 16];

ops! {
    /// `mma.m16n8k16` of f16 with f32 sums: in the kernel's pool from `x` on stand D, A, B, C.
    F16_K16 = |warp, env, inst, mask| wide_sums::<F16, 16, 4, 2>(warp, env, inst, mask);
    /// `mma.m16n8k8` of f16 with f32 sums.
    F16_K8 = |warp, env, inst, mask| wide_sums::<F16, 8, 2, 1>(warp, env, inst, mask);
    /// `mma.m16n8k16` of bf16.
    BF16_K16 = |warp, env, inst, mask| wide_sums::<Bf16, 16, 4, 2>(warp, env, inst, mask);
    /// `mma.m16n8k8` of bf16.
    BF16_K8 = |warp, env, inst, mask| wide_sums::<Bf16, 8, 2, 1>(warp, env, inst, mask);
    /// `mma.m16n8k8` of tf32.
    TF32_K8 = |warp, env, inst, mask| wide_sums::<Tf32, 8, 4, 2>(warp, env, inst, mask);
    /// `mma.m16n8k4` of tf32.
    TF32_K4 = |warp, env, inst, mask| wide_sums::<Tf32, 4, 2, 1>(warp, env, inst, mask);
    /// `mma.m16n8k16` of f16 with f16 sums, which are rounded once, at the end.
    F16_SUMS_K16 = |warp, env, inst, mask| half_sums::<16, 4, 2>(warp, env, inst, mask);
    /// `mma.m16n8k8` of f16 with f16 sums.
    F16_SUMS_K8 = |warp, env, inst, mask| half_sums::<8, 2, 1>(warp, env, inst, mask);
}

/// Sums in f32: C and D have four registers.
#[inline(always)]
fn wide_sums<E: Element, const K: usize, const A: usize, const B: usize>(
    warp: &mut Warp,
    env: &mut Env<'_>,
    inst: &Inst,
    mask: u32,
) {
    whole_warp(warp, env, mask);
    let pool = &env.kernel.pool[inst.x as usize..][..8 + A + B];
    let (d, rest) = pool.split_at(4);
    let (factors, c) = rest.split_at(A + B);
    let mut sums: Sums = [[0.0; 8]; 16];
    for (r, slot) in c.iter().enumerate() {
        let c = warp.r32(*slot);
        for lane in 0..LANES {
            sums[8 * (r / 2) + lane / 4][4 * (r % 2) + lane % 4] = f32::from_bits(c[lane]);
        }
    }
    add_product::<E, K, A, B>(warp, factors, &mut sums);
    for (r, slot) in d.iter().enumerate() {
        let mut value = [0; LANES];
        for lane in 0..LANES {
            value[lane] = canonical(sums[8 * (r / 2) + lane / 4][4 * (r % 2) + lane % 4]).to_bits();
        }
        warp.w32(*slot, mask, &value);
    }
}

/// Sums in f16: C and D have two registers of two.
#[inline(always)]
fn half_sums<const K: usize, const A: usize, const B: usize>(
    warp: &mut Warp,
    env: &mut Env<'_>,
    inst: &Inst,
    mask: u32,
) {
    whole_warp(warp, env, mask);
    let pool = &env.kernel.pool[inst.x as usize..][..4 + A + B];
    let (d, rest) = pool.split_at(2);
    let (factors, c) = rest.split_at(A + B);
    let mut sums: Sums = [[0.0; 8]; 16];
    for (r, slot) in c.iter().enumerate() {
        let c = warp.r32(*slot);
        for lane in 0..LANES {
            for i in 0..2 {
                sums[8 * r + lane / 4][4 * i + lane % 4] = f16_to_f32((c[lane] >> (16 * i)) as u16);
            }
        }
    }
    add_product::<F16, K, A, B>(warp, factors, &mut sums);
    for (r, slot) in d.iter().enumerate() {
        let mut value = [0; LANES];
        for lane in 0..LANES {
            let [low, high] = [0, 4].map(|i| u32::from(f16_from_f32(sums[8 * r + lane / 4][i + lane % 4])));
            value[lane] = low | high << 16;
        }
        warp.w32(*slot, mask, &value);
    }
}

/// Element `i` of every lane's register, by itself: moved to its place at the same time it would be widened one by one.
#[inline(always)]
fn widen<E: Element>(words: &[u32; LANES], i: usize) -> [f32; LANES] {
    let mut values = [0.0; LANES];
    for lane in 0..LANES {
        values[lane] = E::widen(words[lane], i);
    }
    values
}

/// Adds the product of A (the first `A` slots) and B (the other `B`) to the sums.
#[inline(always)]
fn add_product<E: Element, const K: usize, const A: usize, const B: usize>(
    warp: &Warp,
    slots: &[u16],
    sums: &mut Sums,
) {
    let per = E::PER_REGISTER;
    let mut a = [[0f32; K]; 16];
    for r in 0..A {
        for i in 0..per {
            let values = widen::<E>(warp.r32(slots[r]), i);
            for lane in 0..LANES {
                a[8 * (r % 2) + lane / 4][(r / 2 * 4 + lane % 4) * per + i] = values[lane];
            }
        }
    }
    let mut b = [[0f32; 8]; K];
    for r in 0..B {
        for i in 0..per {
            let values = widen::<E>(warp.r32(slots[A + r]), i);
            for lane in 0..LANES {
                let column = lane / 4;
                b[(r * 4 + lane % 4) * per + i][4 * (column % 2) + column / 2] = values[lane];
            }
        }
    }
    // Four rows at a time: one row's sums wait for each other.
    for (sums, a) in sums.chunks_exact_mut(4).zip(a.chunks_exact(4)) {
        let mut four = [sums[0], sums[1], sums[2], sums[3]];
        for k in 0..K {
            for row in 0..4 {
                for n in 0..8 {
                    four[row][n] = a[row][k].mul_add(b[k][n], four[row][n]);
                }
            }
        }
        sums.copy_from_slice(&four);
    }
}

/// Reports lanes that do not take part: the result is undefined then.
#[inline(always)]
pub(super) fn whole_warp(warp: &Warp, env: &mut Env<'_>, mask: u32) {
    if mask != u32::MAX {
        missing(warp, env, mask);
    }
}

#[cold]
#[inline(never)]
fn missing(warp: &Warp, env: &mut Env<'_>, mask: u32) {
    if env.seen(Detector::InactiveLane, None) {
        return;
    }
    let text = format!("an operation of the whole warp without {}", lanes(!mask));
    env.find(Finding::new(Detector::InactiveLane, env.at(warp, mask.trailing_zeros()), text));
}
