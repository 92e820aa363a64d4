//! `wgmma`: products of 64 rows, for the warps of a warpgroup 16 each, by up to 256 columns.
//!
//! Sums are rounded to f32 one after the other, as in `mma`; hardware aligns several products and adds them at once.

use super::super::mma::{Bf16, Element, F16, Tf32, whole_warp};
use super::super::warp::LANES;
use super::super::{Env, Warp, ops, shared};
use super::bulk::check_readable_units;
use super::product::{self, GROUP, Issued};
use super::tile::Swizzle;
use crate::check::poll;
use crate::check::race::By;
use crate::check::taint::{self, Read};
use crate::check::{Detector, Finding};
use crate::exec::access::Access;
use crate::ir::Inst;
use crate::mem::windows::{self, Window};
use crate::num::half::{f16_from_f32, f16_to_f32};
use crate::num::round::canonical;

/// Rows of a product that one warp computes.
const ROWS: usize = 16;
/// The most columns.
const COLUMNS: usize = 256;
/// The most elements of a row of a factor: 32 bytes of 16 bits each.
const DEPTH: usize = 16;

/// What stands first among the operands in the kernel's pool; the descriptors' slots, the sums and the factor in registers
/// follow.
pub mod header {
    /// Columns.
    pub const COLUMNS: usize = 0;
    /// Bits of [`super::form`].
    pub const FORM: usize = 1;
    /// The predicate that says whether to add to the sums.
    pub const ADDS: usize = 2;
    /// The slot of the first factor's descriptor.
    pub const A: usize = 3;
    /// The slot of the second factor's.
    pub const B: usize = 4;
    /// Words in all.
    pub const WORDS: usize = 5;
}

/// Bits of the second word of the header.
pub mod form {
    /// The predicate is negated.
    pub const NOT: u16 = 1 << 0;
    /// The first factor is in registers.
    pub const REGISTERS: u16 = 1 << 1;
    /// Factors are multiplied by -1.
    pub const MINUS_A: u16 = 1 << 2;
    /// The second factor too.
    pub const MINUS_B: u16 = 1 << 3;
    /// The first factor lies with its columns together.
    pub const TRANSPOSED_A: u16 = 1 << 4;
    /// The second factor lies with its rows together.
    pub const TRANSPOSED_B: u16 = 1 << 5;
    /// Sums are halves, two in each register.
    pub const HALVES: u16 = 1 << 6;
}

ops! {
    /// `wgmma.mma_async` of f16: operands in the kernel's pool from `x` on, as [`header`] says.
    F16_K16 = |warp, env, inst, mask| product::<F16>(warp, env, inst, mask);
    /// The same of bf16.
    BF16_K16 = |warp, env, inst, mask| product::<Bf16>(warp, env, inst, mask);
    /// The same of tf32.
    TF32_K8 = |warp, env, inst, mask| product::<Tf32>(warp, env, inst, mask);
    /// `wgmma.fence`
    FENCE = |warp, env, _, mask| {
        whole_warp(warp, env, mask);
        product::fence(warp);
    };
    /// `wgmma.commit_group`
    COMMIT = |warp, env, _, mask| {
        whole_warp(warp, env, mask);
        product::commit(warp);
    };
    /// `wgmma.wait_group`: all but the last `x`.
    WAIT = |warp, env, inst, mask| {
        whole_warp(warp, env, mask);
        if !product::wait(warp, env, inst.x) {
            env.again = true;
            let access = Access::of::<4>([0; LANES], mask);
            poll::waited(warp, env, &access, windows::SHARED, 4);
        }
    };
}

/// A factor in shared memory.
struct Matrix {
    start: u32,
    leading: u32,
    stride: u32,
    swizzle: Swizzle,
    transposed: bool,
}

impl Matrix {
    /// What a descriptor says; the reason if it says nothing that there is.
    fn new(descriptor: u64, transposed: bool) -> Result<Matrix, String> {
        let field = |at: u32| (descriptor >> at & 0x3FFF) as u32 * 16;
        let known = 0x3FFF | 0x3FFF << 16 | 0x3FFF << 32 | 7 << 49 | 3 << 62;
        if descriptor & !known != 0 {
            return Err(format!("the descriptor {descriptor:#x} has bits that mean nothing"));
        }
        if descriptor >> 49 & 7 != 0 {
            return Err(format!("the descriptor {descriptor:#x} has a base offset, which is not implemented"));
        }
        let swizzle = Swizzle::of_span([0, 128, 64, 32][(descriptor >> 62) as usize]);
        let (start, leading, stride) = (field(0), field(16), field(32));
        Ok(Matrix { start, leading, stride, swizzle, transposed })
    }

    /// Where unit `unit` of 16 bytes of line `line` lies. Lines are rows of A and columns of B, and their units hold
    /// elements to be summed over; of a transposed factor it is the other way round.
    #[inline(always)]
    fn unit(&self, line: u32, unit: u32) -> u32 {
        let span = self.swizzle.span();
        let offset = match (self.transposed, span) {
            (false, 0) => line % 8 * 16 + line / 8 * self.stride + unit * self.leading,
            (false, _) => line % 8 * span + line / 8 * self.stride + unit * 16,
            (true, 0) => unit * self.stride + line % 8 * 16 + line / 8 * self.leading,
            (true, _) => {
                let units = span / 16;
                unit % units * 16 + unit / units * self.leading + line % 8 * span + line / 8 * self.stride
            }
        };
        self.swizzle.of(self.start + offset)
    }
}

/// The values of a factor: of each element to be summed over, that of each row or column.
type Values = [[f32; COLUMNS]; DEPTH];

fn product<E: Element>(warp: &mut Warp, env: &mut Env<'_>, inst: &Inst, mask: u32) {
    whole_warp(warp, env, mask);
    let kernel = env.kernel;
    let pool = &kernel.pool[inst.x as usize..];
    let (columns, form) = (usize::from(pool[header::COLUMNS]).min(COLUMNS), pool[header::FORM]);
    let has = |bit: u16| form & bit != 0;
    let depth = 8 * E::PER_REGISTER;
    let count = if has(form::HALVES) { columns / 4 } else { columns / 2 };
    let (sums, rest) = pool[header::WORDS..].split_at(count);
    let factor = &rest[..if has(form::REGISTERS) { 4 } else { 0 }];
    let adds = if has(form::NOT) { !warp.p(pool[header::ADDS]) } else { warp.p(pool[header::ADDS]) };
    let descriptor = |slot: u16| warp.r64(slot)[0];
    let factors = [if has(form::REGISTERS) { 0 } else { descriptor(pool[header::A]) }, descriptor(pool[header::B])];
    let apart = |slot: u16| warp.r64(slot).iter().any(|value| *value != warp.r64(slot)[0]);
    if (adds & mask != 0 && adds & mask != mask)
        || apart(pool[header::B])
        || !has(form::REGISTERS) && apart(pool[header::A])
    {
        return wrong(warp, env, "the lanes of a warp give a product different descriptors or predicates".into());
    }
    let issued = Issued { pc: env.pc, factors, adds: adds & mask != 0 };
    if (warp.index / GROUP + 1) * GROUP * LANES as u32 > env.launch.block.iter().product() {
        return wrong(warp, env, "a product of a warpgroup with fewer than four warps".into());
    }
    product::issue(warp, env, issued, sums, factor, columns as u16);
    let mut undefined = None;
    let mut a = [[0.0; ROWS]; DEPTH];
    if has(form::REGISTERS) {
        registers::<E>(warp, factor, &mut a);
    } else {
        let matrix = match Matrix::new(factors[0], has(form::TRANSPOSED_A)) {
            Ok(matrix) => matrix,
            Err(why) => return wrong(warp, env, why),
        };
        let first = warp.index % GROUP * ROWS as u32;
        if !load::<E, ROWS>(warp, env, &matrix, (first, ROWS), depth, &mut a, &mut undefined) {
            return;
        }
    }
    let mut b: Box<Values> = Box::new([[0.0; COLUMNS]; DEPTH]);
    let matrix = match Matrix::new(factors[1], has(form::TRANSPOSED_B)) {
        Ok(matrix) => matrix,
        Err(why) => return wrong(warp, env, why),
    };
    if !load::<E, COLUMNS>(warp, env, &matrix, (0, columns), depth, &mut b, &mut undefined) {
        return;
    }
    if has(form::MINUS_A) != has(form::MINUS_B) {
        a.iter_mut().flatten().for_each(|value| *value = -*value);
    }
    let mut d = Box::new([[0f32; COLUMNS]; ROWS]);
    if issued.adds {
        gather(warp, sums, has(form::HALVES), &mut d);
    }
    multiply(&a[..depth], &b[..depth], columns, &mut d);
    scatter(warp, env.launch.settings.poison(), sums, has(form::HALVES), &d);
    if let Some(at) = undefined {
        let read = Read { window: Window::Shared(at), address: u64::from(at), bytes: 16 };
        taint::met(warp, env, [0xFFFF; LANES], read);
    }
}

fn wrong(warp: &Warp, env: &mut Env<'_>, text: String) {
    env.stop(Detector::Product, warp, 0, text);
}

/// Brings lines of a factor from shared memory, with all that has to be checked for it. False after a fault.
#[inline(always)]
fn load<E: Element, const WIDTH: usize>(
    warp: &Warp,
    env: &mut Env<'_>,
    matrix: &Matrix,
    (first, lines): (u32, usize),
    depth: usize,
    values: &mut [[f32; WIDTH]; DEPTH],
    undefined: &mut Option<u32>,
) -> bool {
    // Lines and units of memory: of a transposed factor, lines are elements to be summed over.
    let per_unit = 4 * E::PER_REGISTER;
    let (from, count, units, skip) = match matrix.transposed {
        false => (first, lines, depth / per_unit, 0),
        true => (0, depth, lines / per_unit, first / per_unit as u32),
    };
    let mut all = [0u32; 2 * COLUMNS];
    let all = &mut all[..count * units];
    let (mut low, mut high) = (u32::MAX, 0);
    for line in 0..count {
        for unit in 0..units {
            let at = matrix.unit(from + line as u32, skip + unit as u32);
            all[line * units + unit] = at;
            (low, high) = (low.min(at), high.max(at));
        }
    }
    if !env.shared.one_array(low, u64::from(high) + 16) {
        let outside = all.iter().find(|at| !env.shared.one_array(**at, u64::from(**at) + 16)).copied().unwrap_or(high);
        let place = env.shared.outside(outside, 16);
        env.stop(Detector::SharedBounds, warp, 0, format!("a product reads {place}"));
        return false;
    }
    check(warp, env, all, undefined);
    for line in 0..count {
        for unit in 0..units {
            let words = env.shared.words_from(all[line * units + unit], 4);
            for (w, word) in words.iter().enumerate() {
                for i in 0..E::PER_REGISTER {
                    let value = E::widen(*word, i);
                    let element = unit * per_unit + w * E::PER_REGISTER + i;
                    if matrix.transposed {
                        values[line][element] = value;
                    } else {
                        values[element][line] = value;
                    }
                }
            }
        }
    }
    true
}

/// Looks at the units that a product reads, and remembers that it does.
fn check(warp: &Warp, env: &mut Env<'_>, units: &[u32], undefined: &mut Option<u32>) {
    let checks = env.launch.settings.checks;
    if checks.init && undefined.is_none() {
        *undefined = units.iter().find(|at| !env.shared.all_valid(**at, 4)).copied();
    }
    if env.shared.any_pending()
        && let Some(at) = units.iter().find(|at| env.shared.is_pending(**at, 16, false)).copied()
    {
        let access = Access::of::<16>([u64::from(at); LANES], 1);
        shared::pending(warp, env, &access, 1, 16, "load of");
    }
    if checks.race {
        env.order.cover_shared(env.shared.len_words());
        let by = By { warp: warp.index, lane: 0, pc: env.pc, strong: false };
        check_readable_units(warp, env, by, units);
        let group = warp.products.group();
        for at in units {
            env.order.product_shared(by, *at, group);
        }
    }
}

/// The first factor from registers.
#[inline(always)]
fn registers<E: Element>(warp: &Warp, slots: &[u16], a: &mut [[f32; ROWS]; DEPTH]) {
    for (r, slot) in slots.iter().enumerate() {
        let words = *warp.products.value(warp, *slot);
        for lane in 0..LANES {
            for i in 0..E::PER_REGISTER {
                let k = (r / 2 * 4 + lane % 4) * E::PER_REGISTER + i;
                a[k][8 * (r % 2) + lane / 4] = E::widen(words[lane], i);
            }
        }
    }
}

/// Which row and column element `i` of a lane's sums is.
#[inline(always)]
fn of_lane(lane: usize, i: usize) -> (usize, usize) {
    (lane / 4 + 8 * (i / 2 % 2), 8 * (i / 4) + 2 * (lane % 4) + i % 2)
}

#[inline(always)]
fn gather(warp: &Warp, slots: &[u16], halves: bool, d: &mut [[f32; COLUMNS]; ROWS]) {
    for (r, slot) in slots.iter().enumerate() {
        let words = *warp.products.value(warp, *slot);
        for lane in 0..LANES {
            if halves {
                for i in 0..2 {
                    let (row, column) = of_lane(lane, 2 * r + i);
                    d[row][column] = f16_to_f32((words[lane] >> (16 * i)) as u16);
                }
            } else {
                let (row, column) = of_lane(lane, r);
                d[row][column] = f32::from_bits(words[lane]);
            }
        }
    }
}

#[inline(always)]
fn scatter(warp: &mut Warp, poison: u8, slots: &[u16], halves: bool, d: &[[f32; COLUMNS]; ROWS]) {
    for (r, slot) in slots.iter().enumerate() {
        let mut words = [0; LANES];
        for lane in 0..LANES {
            words[lane] = if halves {
                let half = |i: usize| {
                    let (row, column) = of_lane(lane, 2 * r + i);
                    u32::from(f16_from_f32(d[row][column]))
                };
                half(0) | half(1) << 16
            } else {
                let (row, column) = of_lane(lane, r);
                canonical(d[row][column]).to_bits()
            };
        }
        product::keep(warp, *slot, words, poison);
    }
}

/// Adds the product to the sums, eight columns of four rows at a time: the sums of one row wait for each other.
#[inline(always)]
fn multiply(a: &[[f32; ROWS]], b: &[[f32; COLUMNS]], columns: usize, d: &mut [[f32; COLUMNS]; ROWS]) {
    for first in (0..columns).step_by(8) {
        for rows in (0..ROWS).step_by(4) {
            let mut four = [[0f32; 8]; 4];
            for (row, sums) in four.iter_mut().enumerate() {
                sums.copy_from_slice(&d[rows + row][first..first + 8]);
            }
            for (a, b) in a.iter().zip(b) {
                let b = &b[first..first + 8];
                for row in 0..4 {
                    for n in 0..8 {
                        four[row][n] = a[rows + row].mul_add(b[n], four[row][n]);
                    }
                }
            }
            for (row, sums) in four.iter().enumerate() {
                d[rows + row][first..first + 8].copy_from_slice(sums);
            }
        }
    }
}

/// All threads of the CTA have exited, or nobody goes on: products that not all warps of their warpgroup have issued.
pub(crate) fn end(env: &mut Env<'_>) {
    for (group, common) in std::mem::take(&mut env.beside.products).iter().enumerate() {
        let Some((pc, ahead)) = common.unequal() else { continue };
        let first = group as u32 * GROUP;
        let warps: Vec<String> = ahead.iter().map(|warp| (first + *warp as u32).to_string()).collect();
        let text = format!(
            "a product that warps {} of the warpgroup of warps {first} to {} issued, and the others never did",
            warps.join(", "),
            first + GROUP - 1
        );
        let at = env.kernel.describe(pc, env.cta, first + ahead[0] as u32, 0);
        env.find(Finding::new(Detector::Product, at, text));
    }
}

const _: () = assert!(ROWS * GROUP as usize == 64);
