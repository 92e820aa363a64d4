//! PTX text to statements: what the text says, with names resolved to numbers and nothing interpreted.

mod body;
mod decl;
mod lexer;
mod module;
mod parse;
mod scope;
mod stmt;
mod types;

pub use module::{Error, Function, Location, Module, Prototype, Variable, VariableSpace};
pub use parse::parse;
pub use stmt::{Address, Base, Guard, Operand, Place, Reg, Statement};
pub use types::Type;
