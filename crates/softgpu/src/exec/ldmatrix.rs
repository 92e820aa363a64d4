//! `ldmatrix`, `stmatrix` and `movmatrix`: matrices of 8 by 8 halves, between shared memory and registers.
//!
//! The first eight lanes (of each further eight for each further matrix) give the addresses of rows of 16 bytes. Word
//! `t` of row `g` belongs to lane `4 * g + t`; transposed, that lane has rows `2t` and `2t + 1` of column `g`.
//! For races it counts who owns a word, not who gave its address.

use super::access::{Access, count, flags, lanes_of};
use super::mma::whole_warp;
use super::shared;
use super::warp::LANES;
use super::{Env, Warp, ops};
use crate::check::race::{By, Lanes};
use crate::ir::{Inst, Place};
use crate::launch::code;
use crate::mem::windows::{self, Window};

/// Bit of the field `c`: `.trans`.
pub const TRANSPOSED: u16 = flags::STRONG;
/// Bit of the field `c`: the address is generic.
pub const GENERIC: u16 = flags::READ_ONLY;

ops! {
    /// `ldmatrix`: registers in the kernel's pool from `y` on.
    LOAD = |warp, env, inst, mask| load(warp, env, inst, mask);
    /// `stmatrix`
    STORE = |warp, env, inst, mask| store(warp, env, inst, mask);
    /// `movmatrix`
    TRANSPOSE = |warp, env, inst, mask| {
        whole_warp(warp, env, mask);
        let words = transpose(warp.r32(inst.a));
        warp.w32(inst.d, mask, &words);
    };
}

/// A matrix with one word for each lane, transposed.
#[inline(always)]
fn transpose(words: &[u32; LANES]) -> [u32; LANES] {
    let mut out = [0; LANES];
    for lane in 0..LANES {
        let (column, row) = (lane / 4, 2 * (lane % 4));
        let half = |row: usize| words[4 * row + column / 2] >> (16 * (column % 2)) & 0xFFFF;
        out[lane] = half(row) | half(row + 1) << 16;
    }
    out
}

/// The addresses of all rows, and the lanes whose row lies in one array. `None` after a fault, or with nothing to do.
#[inline(always)]
fn rows(warp: &Warp, env: &mut Env<'_>, inst: &Inst, mask: u32, verb: &str) -> Option<(Access, u32)> {
    whole_warp(warp, env, mask);
    let givers = mask & u32::MAX >> (LANES - 8 * count(inst));
    if givers == 0 {
        return None;
    }
    let mut access = Access::new::<16>(warp, inst, givers);
    if inst.c & GENERIC != 0 {
        let mut address = access.address;
        for lane in lanes_of(givers) {
            let Window::Shared(at) = windows::classify(address[lane]) else {
                let text = format!("{verb} a matrix row at {:#x}, which is not in shared memory", address[lane]);
                env.fault(warp, lane as u32, code::ILLEGAL_ADDRESS, text);
                return None;
            };
            address[lane] = u64::from(at);
        }
        access = Access::of::<16>(address, givers);
    }
    let good = shared::inside::<16>(warp, env, &access, verb)?;
    env.tally.shared::<16>(env.pc, &access, good);
    Some((access, good))
}

#[inline(always)]
fn load(warp: &mut Warp, env: &mut Env<'_>, inst: &Inst, mask: u32) {
    let Some((access, good)) = rows(warp, env, inst, mask, "load of") else { return };
    let checks = env.launch.settings.checks;
    let mut words = [[u32::MAX; LANES]; 4];
    let mut written = true;
    for i in lanes_of(good) {
        let at = access.address[i] as u32;
        words[i / 8][4 * (i % 8)..4 * (i % 8) + 4].copy_from_slice(env.shared.words_from(at, 4));
        written &= env.shared.all_valid(at, 4);
    }
    if checks.init && !written {
        shared::check_init::<16>(warp, env, &access, good);
    }
    if checks.race {
        env.order.cover_shared(env.shared.len_words());
        for i in lanes_of(good) {
            read_row(warp, env, inst, access.address[i] as u32, i as u32 % 8);
        }
    }
    let slots = &env.kernel.pool[inst.y as usize..][..count(inst)];
    for (words, slot) in words.iter().zip(slots) {
        if inst.c & TRANSPOSED != 0 {
            warp.w32(*slot, mask, &transpose(words));
        } else {
            warp.w32(*slot, mask, words);
        }
    }
}

/// Looks for races of a row's four words, and remembers who read them.
#[inline(always)]
fn read_row(warp: &Warp, env: &mut Env<'_>, inst: &Inst, at: u32, row: u32) {
    let by = By { warp: warp.index, lane: 4 * row, pc: env.pc, strong: false };
    let transposed = inst.c & TRANSPOSED != 0;
    let (first, lanes) = if transposed { (By { lane: row / 2, ..by }, Lanes::Columns) } else { (by, Lanes::Four) };
    if env.order.row_shared(first, at, lanes) {
        return;
    }
    for word in 0..4 {
        let at = at + 4 * word;
        if transposed {
            // A word has two columns, and so belongs to two lanes.
            shared::touch(warp, env, By { lane: 8 * word + row / 2, ..by }, at, 0x3, None);
            shared::touch(warp, env, By { lane: 8 * word + 4 + row / 2, ..by }, at, 0xC, None);
        } else {
            shared::touch(warp, env, By { lane: 4 * row + word, ..by }, at, 0xF, None);
        }
    }
}

#[inline(always)]
fn store(warp: &mut Warp, env: &mut Env<'_>, inst: &Inst, mask: u32) {
    let Some((access, good)) = rows(warp, env, inst, mask, "store of") else { return };
    let race = env.launch.settings.checks.race;
    env.order.cover_shared(env.shared.len_words());
    let slots = &env.kernel.pool[inst.y as usize..][..count(inst)];
    let transposed = inst.c & TRANSPOSED != 0;
    for (matrix, slot) in slots.iter().enumerate() {
        // Transposing is its own inverse.
        let words = if transposed { transpose(warp.r32(*slot)) } else { *warp.r32(*slot) };
        for i in lanes_of(good & 0xFF << (8 * matrix)) {
            let row = i as u32 % 8;
            for word in 0..4u32 {
                let (at, value) = (access.address[i] as u32 + 4 * word, words[(4 * row + word) as usize]);
                let change = env.shared.load(at) ^ value;
                let by = By { warp: warp.index, lane: 4 * row + word, pc: env.pc, strong: false };
                if race && transposed {
                    let low = By { lane: 8 * word + row / 2, ..by };
                    shared::touch(warp, env, low, at, 0x3, Some(change & 0xFFFF == 0));
                    shared::touch(warp, env, By { lane: low.lane + 4, ..by }, at, 0xC, Some(change >> 16 == 0));
                } else if race {
                    shared::touch(warp, env, by, at, 0xF, Some(change == 0));
                }
                env.shared.store(at, value, 0xF);
            }
        }
        if warp.taint.any() {
            spoil(warp, env, &access, good & 0xFF << (8 * matrix), *slot, transposed);
        }
    }
}

/// Where a stored matrix is undefined its bytes are so again; a transposed one, whose words mix, as a whole.
#[cold]
#[inline(never)]
fn spoil(warp: &Warp, env: &mut Env<'_>, access: &Access, rows: u32, slot: u16, transposed: bool) {
    let mut bytes = warp.taint.bytes(Place::Slot(slot));
    if transposed && bytes != [0; LANES] {
        bytes = [0xFF; LANES];
    }
    for i in lanes_of(rows) {
        for word in 0..4 {
            env.shared
                .invalidate(access.address[i] as u32 + 4 * word as u32, u32::from(bytes[4 * (i % 8) + word]) & 0xF);
        }
    }
}
