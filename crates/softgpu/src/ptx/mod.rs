//! PTX text to statements: what the text says, with names resolved to numbers and nothing interpreted.

mod stmt;
mod types;

pub use stmt::{Address, Base, Guard, Operand, Place, Reg, Statement};
pub use types::Type;
