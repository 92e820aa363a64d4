//! A parsed module: variables, functions and the table of source places.

use std::collections::HashMap;

use super::{Place, Statement, Type};

/// PTX that cannot be read: where and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Line of the PTX text, from 1.
    pub line: u32,
    /// What is wrong with it.
    pub why: String,
}

impl Error {
    pub(super) fn new(line: u32, why: impl Into<String>) -> Error {
        Error { line, why: why.into() }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PTX line {}: {}", self.line, self.why)
    }
}

impl std::error::Error for Error {}

/// State spaces that variables are declared in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum VariableSpace {
    Global,
    Const,
    Shared,
    Local,
    Param,
}

/// A variable or parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Variable {
    /// Name, not unique across functions.
    pub name: String,
    /// Where it lives.
    pub space: VariableSpace,
    /// Element type.
    pub ty: Type,
    /// Alignment in bytes: as declared, else that of the element type.
    pub align: u32,
    /// Size in bytes; 0 for an array without a size (dynamic shared memory).
    pub size: u64,
    /// Initial bytes from the start; the rest is zero.
    pub init: Vec<u8>,
    /// Places in `init` that hold the address of another variable: byte offset, name, added constant, and whether
    /// the address is generic (`generic(name)`).
    pub addresses: Vec<(usize, String, i64, bool)>,
    /// Declared elsewhere (`.extern`).
    pub external: bool,
}

/// One `.loc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// Number of the `.file`; 0: none.
    pub file: u32,
    /// Line; 0: none (compiler generated).
    pub line: u32,
    /// Column.
    pub column: u32,
    /// The place of the call that was inlined here.
    pub inlined_at: Option<Place>,
}

/// The signature that an indirect call expects.
#[derive(Clone, Debug, PartialEq)]
pub struct Prototype {
    /// Its label.
    pub name: String,
    /// Results in order.
    pub results: Vec<Variable>,
    /// Parameters in order.
    pub params: Vec<Variable>,
}

/// A kernel (`.entry`) or device function (`.func`).
#[derive(Clone, Debug)]
pub struct Function {
    /// Symbol.
    pub name: String,
    /// Whether it can be launched.
    pub entry: bool,
    /// Whether it has a body.
    pub defined: bool,
    /// Parameters in order.
    pub params: Vec<Variable>,
    /// Results of a device function, in order.
    pub results: Vec<Variable>,
    /// Whether some parameters or results are registers (`.reg`), which only hand-written PTX has.
    pub register_params: bool,
    /// `.callprototype` by label.
    pub prototypes: Vec<Prototype>,
    /// Type of each register, by number.
    pub regs: Vec<Type>,
    /// Statements in text order.
    pub statements: Vec<Statement>,
    /// Source places; number 0 is "unknown".
    pub places: Vec<Location>,
    /// Shared, local and call-parameter variables declared in the body. Names that several scopes declare are told
    /// apart by a suffix.
    pub variables: Vec<Variable>,
    /// `.branchtargets` lists: statement indices.
    pub tables: Vec<Vec<u32>>,
    /// `.maxntid`.
    pub max_threads: Option<[u32; 3]>,
    /// `.reqntid`.
    pub required_threads: Option<[u32; 3]>,
    /// `.minnctapersm`.
    pub min_blocks: Option<u32>,
    /// `.maxnreg`.
    pub max_registers: Option<u32>,
    /// `.reqnctapercluster`, or all zero for `.explicitcluster` alone.
    pub cluster: Option<[u32; 3]>,
}

/// A module.
#[derive(Clone, Debug)]
pub struct Module {
    /// The text.
    pub(crate) source: String,
    /// `.version`.
    pub version: (u32, u32),
    /// `.target`, the architecture alone: `sm_80`.
    pub target: String,
    /// `.file` table.
    pub files: HashMap<u32, String>,
    /// `.global` and `.const` variables: what a launch needs addresses for, in this order.
    pub variables: Vec<Variable>,
    /// `.shared` variables at module scope; a kernel owns those that it names.
    pub shared: Vec<Variable>,
    /// Kernels and device functions.
    pub functions: Vec<Function>,
}

impl Module {
    /// The kernel of that name.
    pub fn kernel(&self, name: &str) -> Option<&Function> {
        self.functions.iter().find(|f| f.entry && f.name == name)
    }

    /// The text of a statement.
    pub fn text(&self, statement: &Statement) -> &str {
        let (start, end) = statement.span;
        self.source.get(start as usize..end as usize).unwrap_or("")
    }

    /// `file.cu:line` of a statement, with the chain of inlined calls from the inside out; the line of the PTX text
    /// where the compiler left no place.
    pub fn place(&self, function: &Function, statement: &Statement) -> String {
        let mut text = String::new();
        let mut next = Some(statement.place);
        // Chains are short; the bound keeps a circular one from growing for ever.
        for _ in 0..16 {
            let Some(location) = next.and_then(|p| function.places.get(p.0 as usize)) else { break };
            if let (Some(file), true) = (self.files.get(&location.file), location.line > 0) {
                let file = file.rsplit('/').next().unwrap_or(file);
                let join = if text.is_empty() { "" } else { ", inlined at " };
                text += &format!("{join}{file}:{}", location.line);
            }
            next = location.inlined_at;
        }
        if text.is_empty() { format!("PTX line {}", statement.line) } else { text }
    }
}
