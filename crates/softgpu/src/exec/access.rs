//! What loads, stores and atomics share: lane addresses, the fields of a memory instruction, and moving bytes between
//! registers and raw words.
//!
//! A memory instruction uses its fields so: `a` address, `x` constant offset, `c` [`flags`], `d` destination or `b`
//! source of a scalar, `y` start of a vector's slots in the kernel's pool.

use super::warp::{LANES, Warp};
use crate::ir::{Inst, Kernel};

/// Bits of the field `c` of a memory instruction.
pub mod flags {
    /// The address register has 64 bits.
    pub const WIDE: u16 = 1 << 0;
    /// A volatile, relaxed, acquire or release access: two of these never race with each other.
    pub const STRONG: u16 = 1 << 1;
    /// The data are promised not to change while the kernel runs (`.nc`, `.const`, `.param`).
    pub const READ_ONLY: u16 = 1 << 2;
    /// The value is a signed integer: extend the sign to the register's width.
    pub const SIGNED: u16 = 1 << 3;
    /// Every register of the list has 64 bits.
    pub const PAIR: u16 = 1 << 4;
    /// Registers have 16 bits: a sign extends no further.
    pub const HALF: u16 = 1 << 5;
    /// Orders later accesses after it.
    pub const ACQUIRE: u16 = 1 << 6;
    /// Orders earlier accesses before it.
    pub const RELEASE: u16 = 1 << 7;
    /// Four bits from here: the number of elements.
    pub const COUNT_AT: u16 = 8;
    /// Four bits from here: the bytes of one element.
    pub const BYTES_AT: u16 = 12;
}

/// The number of elements of a memory instruction.
#[inline(always)]
pub fn count(inst: &Inst) -> usize {
    (inst.c >> flags::COUNT_AT & 0xF) as usize
}

/// The bytes of one element of a memory instruction.
#[inline(always)]
pub fn element(inst: &Inst) -> usize {
    (inst.c >> flags::BYTES_AT & 0xF) as usize
}

/// The raw words of up to 32 bytes for each lane. Narrow values sit in the low bits of word 0.
pub type Raw<const WORDS: usize> = [[u32; LANES]; WORDS];

/// The lane addresses of one warp access and what holds for all of them.
pub struct Access {
    /// One address per lane; lanes that are off repeat the first active lane's.
    pub address: [u64; LANES],
    /// The lanes that access memory; not empty.
    pub mask: u32,
    /// The lowest address.
    pub min: u64,
    /// The highest address; the access ends `T` bytes later.
    pub max: u64,
    /// All addresses or-ed together, for the alignment check.
    pub bits: u64,
    /// Lane `i` is `i` elements after lane 0, and all lanes are on.
    pub consecutive: bool,
}

impl Access {
    /// The addresses of `inst` for the lanes of `mask`, which is not empty.
    #[inline(always)]
    pub fn new<const T: usize>(warp: &Warp, inst: &Inst, mask: u32) -> Access {
        let mut address = [0; LANES];
        if inst.c & flags::WIDE != 0 {
            let offset = inst.x as i32 as i64 as u64;
            let base = warp.r64(inst.a);
            for i in 0..LANES {
                address[i] = base[i].wrapping_add(offset);
            }
        } else {
            let base = warp.r32(inst.a);
            for i in 0..LANES {
                address[i] = u64::from(base[i].wrapping_add(inst.x));
            }
        }
        Access::of::<T>(address, mask)
    }

    /// The same facts for given addresses.
    #[inline(always)]
    pub fn of<const T: usize>(mut address: [u64; LANES], mask: u32) -> Access {
        if mask == u32::MAX {
            let first = address[0];
            let mut differs = 0;
            for i in 0..LANES {
                differs |= address[i].wrapping_sub(first) ^ (i * T) as u64;
            }
            let last = address[LANES - 1];
            if differs == 0 && last >= first {
                // The step is a multiple of the width: the first address tells the alignment of all.
                return Access { address, mask, min: first, max: last, bits: first, consecutive: true };
            }
        } else {
            let first = address[mask.trailing_zeros() as usize % LANES];
            for i in 0..LANES {
                let on = 0u64.wrapping_sub(u64::from(mask >> i & 1));
                address[i] = (address[i] & on) | (first & !on);
            }
        }
        let (mut min, mut max, mut bits) = (address[0], address[0], 0);
        for i in 0..LANES {
            min = min.min(address[i]);
            max = max.max(address[i]);
            bits |= address[i];
        }
        Access { address, mask, min, max, bits, consecutive: false }
    }

    /// The bytes from the lowest address to the end of the highest element, or `None` past the end of all addresses.
    #[inline(always)]
    pub fn span<const T: usize>(&self) -> Option<u64> {
        (self.max - self.min).checked_add(T as u64)
    }

    /// The lanes that take part, ascending.
    #[inline(always)]
    pub fn lanes(&self) -> impl Iterator<Item = usize> + use<> {
        lanes_of(self.mask)
    }
}

/// The lanes of a mask, ascending.
#[inline(always)]
pub fn lanes_of(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        if mask == 0 {
            return None;
        }
        let lane = mask.trailing_zeros() as usize;
        mask &= mask - 1;
        // The remainder never acts; it spares the bounds check of every array of 32.
        Some(lane % LANES)
    })
}

/// The slot of element `k`.
#[inline(always)]
pub(crate) fn slot(kernel: &Kernel, inst: &Inst, scalar: u16, k: usize) -> u16 {
    if count(inst) == 1 { scalar } else { kernel.pool[inst.y as usize + k] }
}

/// Writes loaded words to the destination registers.
#[inline(always)]
pub fn scatter<const WORDS: usize>(warp: &mut Warp, kernel: &Kernel, inst: &Inst, mask: u32, raw: &Raw<WORDS>) {
    let (count, bytes) = (count(inst), element(inst));
    if bytes == 4 && inst.c & flags::PAIR == 0 {
        for k in 0..count.min(WORDS) {
            warp.w32(slot(kernel, inst, inst.d, k), mask, &raw[k]);
        }
        return;
    }
    for k in 0..count {
        let mut value = [0u64; LANES];
        let (word, shift) = (k * bytes / 4 % WORDS, k * bytes % 4 * 8);
        for i in 0..LANES {
            value[i] = match bytes {
                8 => u64::from(raw[word][i]) | u64::from(raw[(word + 1) % WORDS][i]) << 32,
                4 => u64::from(raw[word][i]),
                2 => u64::from(raw[word][i] >> shift & 0xFFFF),
                _ => u64::from(raw[word][i] >> shift & 0xFF),
            };
        }
        if inst.c & flags::SIGNED != 0 {
            let spare = 64 - 8 * bytes.clamp(1, 8) as u32;
            for value in &mut value {
                *value = (((*value << spare) as i64) >> spare) as u64;
            }
        }
        let to = slot(kernel, inst, inst.d, k);
        if inst.c & flags::PAIR != 0 {
            warp.w64(to, mask, &value);
        } else {
            let keep = if inst.c & flags::HALF != 0 { 0xFFFF } else { u32::MAX };
            warp.w32(to, mask, &value.map(|value| value as u32 & keep));
        }
    }
}

/// Reads the source registers of a store into words.
#[inline(always)]
pub fn collect<const WORDS: usize>(warp: &Warp, kernel: &Kernel, inst: &Inst) -> Raw<WORDS> {
    let (count, bytes) = (count(inst), element(inst));
    let mut raw = [[0; LANES]; WORDS];
    if bytes == 4 && inst.c & flags::PAIR == 0 {
        for k in 0..count.min(WORDS) {
            raw[k] = *warp.r32(slot(kernel, inst, inst.b, k));
        }
        return raw;
    }
    for k in 0..count {
        let from = slot(kernel, inst, inst.b, k);
        let (word, shift) = (k * bytes / 4 % WORDS, k * bytes % 4 * 8);
        let value: [u64; LANES] =
            if inst.c & flags::PAIR != 0 { *warp.r64(from) } else { warp.r32(from).map(u64::from) };
        for i in 0..LANES {
            match bytes {
                8 => {
                    raw[word][i] = value[i] as u32;
                    raw[(word + 1) % WORDS][i] = (value[i] >> 32) as u32;
                }
                4 => raw[word][i] = value[i] as u32,
                2 => raw[word][i] |= (value[i] as u32 & 0xFFFF) << shift,
                _ => raw[word][i] |= (value[i] as u32 & 0xFF) << shift,
            }
        }
    }
    raw
}
