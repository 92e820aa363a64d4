//! The call stack of each lane of a warp.
//!
//! Lanes call from different places and stand in one function together; where each goes back to is its own.

use std::rc::Rc;

use super::warp::LANES;
use crate::check::taint;

/// Nested calls of a thread, at most. Hardware is stopped by the bytes of its stack, which the assembler lays out.
pub const MOST_CALLS: usize = 1024;

/// The registers of a caller, kept because the callee may be the caller itself.
pub struct Kept {
    /// All its pairs of slots, in order.
    pub pairs: Vec<[u64; LANES]>,
    /// All its single slots, in order.
    pub singles: Vec<[u32; LANES]>,
    /// All its predicates, in order.
    pub preds: Vec<u32>,
    /// Which of them are undefined.
    pub(crate) taint: Vec<taint::Kept>,
}

/// An activation of a device function by one lane.
#[derive(Clone)]
pub struct Activation {
    /// The number of the function.
    pub routine: u32,
    /// Where its frame begins in the lane's local memory.
    pub base: u32,
    /// The call.
    pub from: u32,
    /// Registers of the caller that the return restores.
    pub kept: Option<Rc<Kept>>,
}

/// The activations of each lane, outermost first. The kernel itself is not among them.
#[derive(Default)]
pub struct Frames {
    lanes: [Vec<Activation>; LANES],
    /// Whether any lane has made a call since the last reset.
    used: bool,
}

impl Frames {
    /// No calls.
    pub fn reset(&mut self) {
        if std::mem::take(&mut self.used) {
            self.lanes.iter_mut().for_each(Vec::clear);
        }
    }

    /// The activations of a lane, outermost first.
    pub fn of(&self, lane: usize) -> &[Activation] {
        &self.lanes[lane]
    }

    /// Where the frame of the lane's current function begins; the kernel's begins at 0.
    pub fn base(&self, lane: usize) -> u32 {
        self.lanes[lane].last().map_or(0, |activation| activation.base)
    }

    /// A call.
    pub fn push(&mut self, lane: usize, activation: Activation) {
        self.used = true;
        self.lanes[lane].push(activation);
    }

    /// A return; `None` in the kernel itself.
    pub fn pop(&mut self, lane: usize) -> Option<Activation> {
        self.lanes[lane].pop()
    }
}
