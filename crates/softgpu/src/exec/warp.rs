//! One warp: 32 lanes, their registers and predicates.
//!
//! A slot holds one 32-bit value per lane; a 64-bit value is two adjacent slots seen as `[u64; 32]`. Values of 8 and
//! 16 bits are kept zero-extended in their lane. A predicate is one mask, bit `i` for lane `i`. Every write is made
//! under the execution mask: lanes that are off keep what they had.

use super::frames::Frames;
use super::hopper::product::Products;
use super::local::Local;
use crate::check::Taint;
use crate::check::poll::Polls;
use crate::ir::Undefined;

/// Lanes of a warp.
pub const LANES: usize = 32;

/// The bit of each lane: a lane loop that compares with it is vectorised, one that shifts a mask is not.
pub const BITS: [u32; LANES] = {
    let mut bits = [0; LANES];
    let mut i = 0;
    while i < LANES {
        bits[i] = 1 << i;
        i += 1;
    }
    bits
};

/// One 32-bit value per lane. The alignment lets four 256-bit loads fetch it without crossing a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(128))]
pub struct Slot(pub [u32; LANES]);

/// The registers of 32 lanes and who they are.
pub struct Warp {
    /// Register slots. Constants, parameters and special registers come first and are never written by operations.
    slots: Vec<Slot>,
    /// Predicate masks; number 0 is all ones and is never written.
    preds: Vec<u32>,
    /// Position of the warp in its CTA.
    pub index: u32,
    /// Lanes that have a thread: the last warp of a CTA may have fewer than 32.
    pub lanes: u32,
    /// Lanes that have not exited.
    pub live: u32,
    /// The carry of `add.cc` and its kin, bit `i` for lane `i`.
    pub carry: u32,
    /// Local memory.
    pub local: Local,
    /// Calls that have not returned.
    pub frames: Frames,
    /// Which registers hold undefined values.
    pub taint: Taint,
    /// Products of its warpgroup under way.
    pub(crate) products: Products,
    /// What it polls.
    pub(crate) polls: Polls,
}

impl Warp {
    /// A warp with every slot at `poison` and every predicate false, before its constant slots are filled.
    pub fn new(index: u32, lanes: u32, slots: usize, preds: usize, local_bytes: usize, poison: u8) -> Warp {
        let word = u32::from_ne_bytes([poison; 4]);
        let mut warp = Warp {
            slots: vec![Slot([word; LANES]); slots],
            preds: vec![0; preds.max(1)],
            index,
            lanes,
            live: lanes,
            carry: 0,
            local: Local::new(local_bytes, poison),
            frames: Frames::default(),
            taint: Taint::default(),
            products: Products::default(),
            polls: Polls::default(),
        };
        warp.preds[0] = u32::MAX;
        warp
    }

    /// Fit for another CTA: the slots `undefined`, predicates and local memory hold `poison` again. Other registers
    /// are written before they are read.
    pub fn reset(&mut self, undefined: &[u16], poison: u8) {
        let word = u32::from_ne_bytes([poison; 4]);
        for slot in undefined {
            *self.r32_mut(*slot) = [word; LANES];
        }
        for pred in self.preds.iter_mut().skip(1) {
            *pred = word;
        }
        self.local.reset(poison);
        self.frames.reset();
        self.live = self.lanes;
        self.polls.restart();
    }

    /// Poison again, for the lanes of `mask`, in registers that a function may read before it writes them.
    pub fn undefine(&mut self, registers: &Undefined, mask: u32, poison: u8) {
        let (word, long) = (u32::from_ne_bytes([poison; 4]), u64::from_ne_bytes([poison; 8]));
        for slot in &registers.singles {
            self.w32(*slot, mask, &[word; LANES]);
        }
        for slot in &registers.pairs {
            self.w64(*slot, mask, &[long; LANES]);
        }
        for pred in &registers.preds {
            self.wp(*pred, mask, word);
        }
    }

    /// The 32 values of a slot.
    #[inline(always)]
    pub fn r32(&self, slot: u16) -> &[u32; LANES] {
        &self.slots[slot as usize].0
    }

    /// The 32 values of a slot, for writing without regard to any mask.
    #[inline(always)]
    pub fn r32_mut(&mut self, slot: u16) -> &mut [u32; LANES] {
        &mut self.slots[slot as usize].0
    }

    /// The 32 values of two adjacent slots.
    #[inline(always)]
    pub fn r64(&self, slot: u16) -> &[u64; LANES] {
        let pair = &self.slots[slot as usize..slot as usize + 2];
        // SAFETY: the slice index above proved that two slots of 128 bytes lie there; they are contiguous (repr(C),
        // size 128), aligned to 128, and every bit pattern is a u64.
        unsafe { &*pair.as_ptr().cast::<[u64; LANES]>() }
    }

    /// The 32 values of two adjacent slots, for writing without regard to any mask.
    #[inline(always)]
    pub fn r64_mut(&mut self, slot: u16) -> &mut [u64; LANES] {
        let pair = &mut self.slots[slot as usize..slot as usize + 2];
        // SAFETY: as in `r64`, and the borrow is exclusive.
        unsafe { &mut *pair.as_mut_ptr().cast::<[u64; LANES]>() }
    }

    /// Writes `value` to the lanes of `mask`.
    #[inline(always)]
    pub fn w32(&mut self, slot: u16, mask: u32, value: &[u32; LANES]) {
        let to = self.r32_mut(slot);
        if mask == u32::MAX {
            *to = *value;
        } else {
            let mut mixed = *to;
            for i in 0..LANES {
                mixed[i] = if mask & BITS[i] != 0 { value[i] } else { mixed[i] };
            }
            *to = mixed;
        }
    }

    /// Writes `value` to the lanes of `mask` of a 64-bit pair.
    #[inline(always)]
    pub fn w64(&mut self, slot: u16, mask: u32, value: &[u64; LANES]) {
        let to = self.r64_mut(slot);
        if mask == u32::MAX {
            *to = *value;
        } else {
            let mut mixed = *to;
            for i in 0..LANES {
                mixed[i] = if mask & BITS[i] != 0 { value[i] } else { mixed[i] };
            }
            *to = mixed;
        }
    }

    /// A predicate's mask.
    #[inline(always)]
    pub fn p(&self, pred: u16) -> u32 {
        self.preds[pred as usize]
    }

    /// Writes the bits of `value` to the lanes of `mask` of a predicate.
    #[inline(always)]
    pub fn wp(&mut self, pred: u16, mask: u32, value: u32) {
        let to = &mut self.preds[pred as usize];
        *to = (value & mask) | (*to & !mask);
    }
}
