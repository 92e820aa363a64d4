//! The fixed-size instruction that warps execute.
//!
//! Every register operand is a `u16`: the number of a slot (one value per lane) or of a predicate. Literals,
//! parameters, special registers and symbol addresses are slots too, filled before the warp starts, so an operation
//! never asks what kind of operand it has. Which field means what is the business of the family that decodes the
//! instruction and of the operation that runs it; the scheduler looks only at `kind`, `guard`, `negate` and, for
//! [`Kind::Sync`], at `m`.

use crate::exec::Run;

/// How the scheduler treats an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Touches registers only and cannot fail.
    Plain,
    /// May fault or record a finding: the scheduler looks at the environment afterwards.
    Effect,
    /// A warp-wide operation over the lanes in the member mask held in slot `m`. It runs once every live lane named
    /// there stands at this instruction, once per distinct member mask, with the execution mask cut down to it.
    Sync,
    /// Branches, exits and barriers: the scheduler does these itself; `x` is an index into the kernel's `controls`.
    Control,
}

/// One instruction, 32 bytes. Fields that an operation does not need are 0.
#[derive(Clone, Copy)]
pub struct Inst {
    /// The operation, chosen at decode for the machine's vector width.
    pub run: Run,
    /// Free for the operation: an immediate, flags, an offset, or the start of operands in the kernel's `pool`.
    pub x: u32,
    /// A second one.
    pub y: u32,
    /// Number of the predicate that guards the instruction; predicate 0 is always true.
    pub guard: u16,
    /// Destination.
    pub d: u16,
    /// First source.
    pub a: u16,
    /// Second source.
    pub b: u16,
    /// Third source.
    pub c: u16,
    /// Member mask of a [`Kind::Sync`], else a further operand.
    pub m: u16,
    /// How the scheduler treats it.
    pub kind: Kind,
    /// Whether the guard is negated.
    pub negate: bool,
    /// Whether it names registers of products of warpgroups, and is none.
    pub watched: bool,
    /// Instruction class, for the counters.
    pub class: Class,
}

/// Classes by which instructions are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// fp32 and fp64 arithmetic.
    Float,
    /// f16 and bf16 arithmetic, packed or not.
    Half,
    /// Integer arithmetic, logic, moves, selects and comparisons.
    Int,
    /// Conversions between types.
    Convert,
    /// Special functions: ex2, lg2, rcp, rsqrt, sqrt, sin, cos, tanh.
    Special,
    /// Loads and stores.
    Memory,
    /// Atomics and reductions on memory.
    Atomic,
    /// Shuffles, votes, matches, warp reductions.
    Warp,
    /// Branches, exits, calls.
    Control,
    /// Barriers and fences.
    Barrier,
    /// Products of matrices: `mma`.
    Matrix,
}

impl Class {
    /// All classes, in declaration order: `class as usize` is the position.
    pub const ALL: [Class; 11] = [
        Class::Float,
        Class::Half,
        Class::Int,
        Class::Convert,
        Class::Special,
        Class::Memory,
        Class::Atomic,
        Class::Warp,
        Class::Control,
        Class::Barrier,
        Class::Matrix,
    ];
}
