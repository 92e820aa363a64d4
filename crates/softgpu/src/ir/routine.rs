//! Functions as they are laid out in a lowered kernel, and the frames of memory that their activations have.
//!
//! Each function has slots and predicates of its own, so that a call moves nothing: its lanes write to other slots than
//! its caller's. Only where a call may lead back to its caller are the caller's slots kept and restored. Parameters,
//! results and the `.param` variables of calls lie in the frame beside local arrays: PTX says that the address of a
//! device function's parameter is an address of local memory.

use std::ops::Range;

use super::Place;

/// An array of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameVariable {
    /// Name in the PTX.
    pub name: String,
    /// Offset in the frame.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
}

impl FrameVariable {
    /// Its offsets.
    pub fn range(&self) -> Range<u64> {
        u64::from(self.offset)..u64::from(self.offset) + u64::from(self.size)
    }
}

/// The memory of one activation of a function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Local arrays, by ascending offset, with gaps between them.
    pub locals: Vec<FrameVariable>,
    /// Parameters of a device function, in order.
    pub params: Vec<FrameVariable>,
    /// Results of a device function, in order.
    pub results: Vec<FrameVariable>,
    /// Bytes in all, a multiple of the alignment of every frame.
    pub bytes: u32,
}

/// Registers that some path reads before it writes them.
#[derive(Clone, Debug, Default)]
pub struct Undefined {
    /// Single slots.
    pub singles: Vec<u16>,
    /// The first of two slots each.
    pub pairs: Vec<u16>,
    /// Predicates.
    pub preds: Vec<u16>,
}

impl Undefined {
    /// All of them as they are followed.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        let slots = self.singles.iter().chain(&self.pairs).map(|slot| Place::Slot(*slot));
        slots.chain(self.preds.iter().map(|pred| Place::Pred(*pred)))
    }
}

/// A function of a lowered kernel. The kernel itself is number 0.
#[derive(Clone, Debug)]
pub struct Routine {
    /// Symbol.
    pub name: String,
    /// Its number among the functions of the module, of which its address is made.
    pub index: u32,
    /// Its first instruction.
    pub entry: u32,
    /// Its memory.
    pub frame: Frame,
    /// Its registers of 64 bits, two slots each.
    pub pairs: Range<u16>,
    /// Its other registers.
    pub singles: Range<u16>,
    /// Its predicates.
    pub preds: Range<u16>,
    /// Registers that some path reads before it writes them: poison in each activation.
    pub undefined: Undefined,
    /// Slots that hold an address in the frame: the slot, the offset, and whether it is a pair.
    pub addresses: Vec<(u16, u32, bool)>,
}

impl Routine {
    /// All registers as undefined values are followed.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        let slots = self.pairs.clone().step_by(2).chain(self.singles.clone()).map(Place::Slot);
        slots.chain(self.preds.clone().map(Place::Pred))
    }
}

/// What a call passes, or takes back: offset in the caller's frame, and bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Offset in the caller's frame.
    pub at: u32,
    /// Bytes.
    pub bytes: u32,
}

/// A call of a device function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Number of the calling function.
    pub caller: u32,
    /// Number of the function called; `None`: slot `a` of the instruction holds its address.
    pub callee: Option<u32>,
    /// Arguments in order.
    pub arguments: Vec<Piece>,
    /// Results in order.
    pub results: Vec<Piece>,
    /// Whether the callee may come back to the caller, whose registers must then be kept.
    pub recurs: bool,
}
