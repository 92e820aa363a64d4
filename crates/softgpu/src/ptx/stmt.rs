//! One executable statement: guard, opcode, operands and where it came from.

use std::sync::Arc;

use super::Type;

/// A register of one function, numbered after scopes have been resolved: two inline-asm blocks that both declare
/// `%p` own two different numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reg(pub u32);

/// `@p` or `@!p` in front of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The predicate register.
    pub pred: Reg,
    /// Whether the statement runs where the predicate is false.
    pub negate: bool,
}

/// What an address expression starts from.
#[derive(Clone, Debug, PartialEq)]
pub enum Base {
    /// A register of 32 or 64 bits.
    Reg(Reg),
    /// A parameter or variable by name.
    Symbol(String),
    /// Nothing: the offset is the whole address.
    None,
}

/// `[base + offset]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Address {
    /// Register, symbol or nothing.
    pub base: Base,
    /// Constant byte offset.
    pub offset: i64,
}

/// An operand as written, names resolved.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A register.
    Reg(Reg),
    /// `!p`.
    Not(Reg),
    /// An integer literal; 64-bit unsigned literals keep their bits.
    Int(i64),
    /// `0f3F800000`, its bits.
    F32(u32),
    /// `0d3FF0000000000000`, or a decimal literal, its bits.
    F64(u64),
    /// A special register with its percent sign and component, for example `%tid.x`.
    Special(String),
    /// The address of a variable, parameter or function, plus a constant.
    Symbol(String, i64),
    /// `[...]`.
    Address(Address),
    /// `{a, b}`.
    Vector(Vec<Operand>),
    /// `d|p`.
    Pair(Box<Operand>, Box<Operand>),
    /// `_`: the result is not wanted.
    Sink,
    /// The statement index a label stands for.
    Label(u32),
    /// A `.branchtargets` list, by its number in the function.
    Table(u32),
    /// `(a, b)`: the argument and result lists of a call.
    List(Vec<Operand>),
}

/// A source position from `.loc`, as an index into the function's table of places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Place(pub u32);

/// One executable statement.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// `@p` in front, if any.
    pub guard: Option<Guard>,
    /// The whole dotted opcode, for example `ld.global.nc.v4.f32`; a directive that is not known keeps its dot.
    pub opcode: Arc<str>,
    /// Operands in the order written; destinations come first, as in PTX.
    pub operands: Vec<Operand>,
    /// Where in the CUDA source, through `.loc`.
    pub place: Place,
    /// Line of the PTX text, from 1.
    pub line: u32,
    /// Start and end in the module's text.
    pub(crate) span: (u32, u32),
}

impl Statement {
    /// The opcode up to its first dot: `ld`.
    pub fn op(&self) -> &str {
        self.opcode.split('.').next().unwrap_or("")
    }

    /// The dotted parts after the first: `global`, `nc`, `v4`, `f32`.
    pub fn modifiers(&self) -> impl Iterator<Item = &str> {
        self.opcode.split('.').skip(1)
    }

    /// Whether the opcode has the modifier `name`.
    pub fn has(&self, name: &str) -> bool {
        self.modifiers().any(|m| m == name)
    }

    /// The last modifier that is a type, which is the type of the sources of nearly every instruction.
    pub fn last_type(&self) -> Option<Type> {
        self.modifiers().filter_map(Type::parse).last()
    }
}
