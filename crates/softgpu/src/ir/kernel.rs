//! A lowered kernel: instructions, the slots to fill before a warp starts, and what a launch must provide.

use std::sync::Arc;

use super::routine::Routine;
use super::text::Text;
use super::{Control, Flows, Inst, Kind, Place};
use crate::launch::Where;

/// A kernel parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Name in the PTX.
    pub name: String,
    /// Byte offset in the parameter block.
    pub offset: u32,
    /// Size in bytes.
    pub size: u32,
    /// Alignment in bytes.
    pub align: u32,
}

/// A shared array that the kernel names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedVariable {
    /// Name in the PTX.
    pub name: String,
    /// Address in the shared window. Gaps of a multiple of 128 bytes lie between arrays, so banks stay as they are.
    pub offset: u32,
    /// Size in bytes; 0 for the dynamic array.
    pub size: u32,
    /// Alignment in bytes.
    pub align: u32,
}

/// Where the shared arrays of a kernel lie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SharedLayout {
    /// Static arrays, by ascending address.
    pub arrays: Vec<SharedVariable>,
    /// Address of dynamic shared memory, behind the statics at its declared alignment.
    pub dynamic_offset: u32,
    /// Bytes of static shared memory without the gaps: what limits are compared with.
    pub static_bytes: u32,
}

/// Special registers whose value is fixed while a warp runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    ClusterId(u8),
    NclusterId(u8),
    ClusterCtaid(u8),
    ClusterNctaid(u8),
    ClusterCtaRank,
    ClusterNctaRank,
    LaneId,
    WarpId,
    NwarpId,
    LaneMaskEq,
    LaneMaskLt,
    LaneMaskLe,
    LaneMaskGt,
    LaneMaskGe,
    DynamicSharedSize,
    TotalSharedSize,
}

/// What a slot is filled with before the warp starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A literal.
    Const(u64),
    /// Bytes of the parameter block, zero-extended from `bytes`.
    Param {
        /// Byte offset.
        offset: u32,
        /// 1, 2, 4 or 8.
        bytes: u8,
        /// Whether to extend the sign to the register's width.
        signed: bool,
    },
    /// A special register.
    Special(Special),
    /// An address in the frame of a device function: filled by each call.
    Frame {
        /// Number of the function.
        routine: u32,
        /// Offset in its frame.
        offset: u32,
    },
    /// The address of a module variable, plus a constant.
    Global {
        /// Index into the module's variables.
        index: u32,
        /// Added to the address.
        offset: i64,
    },
}

/// A slot that is filled before the warp starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fill {
    /// The value.
    pub source: Source,
    /// Whether it takes two slots.
    pub pair: bool,
}

/// A statement that cannot be executed: an unknown opcode, modifier, type or operand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// Kernel symbol.
    pub kernel: String,
    /// `file.cu:line`, with the chain of inlined calls.
    pub place: String,
    /// The whole statement.
    pub statement: String,
    /// What about it.
    pub why: String,
}

impl std::fmt::Display for Unsupported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {}: `{}`: {}", self.kernel, self.place, self.statement, self.why)
    }
}

impl std::error::Error for Unsupported {}

/// A kernel ready to run.
#[derive(Clone)]
pub struct Kernel {
    /// Symbol.
    pub name: String,
    /// Parameters in order.
    pub params: Vec<Param>,
    /// Size of the parameter block.
    pub param_bytes: u32,
    /// Instructions; the index is the pc.
    pub insts: Vec<Inst>,
    /// Operand lists that do not fit into an instruction (vectors).
    pub pool: Vec<u16>,
    /// Branches, exits and barriers, named by the `x` of their instructions.
    pub controls: Vec<Control>,
    /// Slots of registers that some path reads before it writes them: they start as poison.
    pub poisoned: Vec<u16>,
    /// The same registers, predicates included, each pair once.
    pub undefined: Vec<Place>,
    /// Registers that products of warpgroups read as factors or bring sums to.
    pub products: Vec<u16>,
    /// Which registers each instruction reads and writes.
    pub flows: Flows,
    /// Slots and the values they are filled with.
    pub fills: Vec<(u16, Fill)>,
    /// Number of slots.
    pub slots: usize,
    /// Number of predicates.
    pub preds: usize,
    /// Shared arrays.
    pub shared: SharedLayout,
    /// Bytes of local memory that a thread needs, if no function calls itself.
    pub local_bytes: u32,
    /// The kernel, then the device functions that it may call.
    pub routines: Vec<Routine>,
    /// `.maxntid`, if given.
    pub max_threads: Option<[u32; 3]>,
    /// `.reqntid`, if given.
    pub required_threads: Option<[u32; 3]>,
    /// `.reqnctapercluster`, if given.
    pub cluster: Option<[u32; 3]>,
    /// What reports say about each instruction.
    pub(crate) text: Text,
}

impl Kernel {
    /// Describes a point of the execution for a report.
    pub fn describe(&self, pc: u32, cta: [u32; 3], warp: u32, lane: u32) -> Where {
        let (place, statement) = self.text.at(pc);
        Where { kernel: self.name.clone(), place, statement, pc, cta, warp, lane }
    }

    /// The same kernel in which the instruction `pc` does nothing; `None` if there is none, or if it is a branch or an exit.
    pub fn without(&self, pc: u32) -> Option<Kernel> {
        let inst = self.insts.get(pc as usize)?;
        let flow = inst.kind == Kind::Control && !matches!(self.controls[inst.x as usize], Control::Barrier(_));
        if flow {
            return None;
        }
        let mut kernel = self.clone();
        let inst = &mut kernel.insts[pc as usize];
        (inst.kind, inst.run) = (Kind::Plain, crate::exec::nothing);
        Some(kernel)
    }

    /// Place and statement of each instruction.
    pub fn lines(&self) -> &[[Arc<str>; 2]] {
        self.text.lines(self.insts.len())
    }
}
