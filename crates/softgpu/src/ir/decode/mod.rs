//! Statements to instructions.
//!
//! # Adding an instruction family
//! A family is a file with `pub fn decode(stmt: &Statement, lower: &mut Lower) -> Option<Decoded>`, named in
//! [`FAMILIES`]. It answers `None` for opcodes that are not its own, `Some(Err(reject))` for its own in a form it does
//! not implement, and else the instruction. It asks `lower` for the slot of each operand, once per operand, saying
//! whether it is read ([`Lower::src`]) or written ([`Lower::dst`]):
//! ```text
//! fn add(stmt: &Statement, lower: &mut Lower) -> Decoded {
//!     let mut mods = Mods::new(stmt);
//!     let ty = mods.ty()?;          // exactly one type
//!     mods.done()?;                 // nothing else: an unknown modifier means stop
//!     let op = match ty { Type::U32 | Type::S32 => &ADD_32, _ => return Err(reject_type(ty)) };
//!     let [d, a, b] = operands(stmt)?;
//!     Ok(Inst { d: lower.dst(d, ty)?, a: lower.src(a, ty)?, b: lower.src(b, ty)?, ..lower.inst(op, Class::Int) })
//! }
//! ```
//! Decoders run twice: first to learn which registers a statement reads and writes (slots have no meaning then), and again
//! when registers have slots. So they must be pure functions of the statement, and must not compare slots.

mod lower;
mod mods;
mod special;

pub mod call;
pub mod control;
pub mod convert;
pub mod copies;
pub mod dot;
pub mod extended;
pub mod float;
pub mod half;
pub mod hint;
pub mod hopper;
pub mod int;
pub mod matrix;
pub mod memory;
pub mod pred;
pub mod warp;

pub use lower::{Addr, FIRST_FREE, Lower, RegInfo, SINK_PRED, Scene, Space, Symbol, TRUE_PRED};
pub use mods::{Mods, operands, reject_type};

use crate::ptx::Statement;

/// Why a statement cannot be decoded; the caller adds the place and the statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject(pub String);

impl<S: Into<String>> From<S> for Reject {
    fn from(why: S) -> Reject {
        Reject(why.into())
    }
}

/// What a family makes of a statement of its own.
pub type Decoded = Result<super::Inst, Reject>;

/// The families, asked in this order.
pub const FAMILIES: &[fn(&Statement, &mut Lower<'_>) -> Option<Decoded>] = &[
    float::decode,
    call::decode,
    extended::decode,
    control::decode,
    dot::decode,
    int::decode,
    half::decode,
    convert::decode,
    pred::decode,
    memory::decode,
    hint::decode,
    warp::decode,
    matrix::decode,
    hopper::decode,
    copies::decode,
];
