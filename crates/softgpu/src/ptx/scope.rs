//! Names inside a function body. Every `{ }`, and so every inline-asm block, opens a scope that may declare the same
//! registers and labels again.

use std::collections::HashMap;

use super::{Error, Reg, Type};

/// More registers than any kernel has: what a broken declaration may not exceed.
const MOST_REGISTERS: u64 = 1 << 20;

#[derive(Default)]
struct Scope {
    /// Single names.
    regs: HashMap<String, Reg>,
    /// `%r<65>`: the prefix, the count and the first number.
    ranges: Vec<(String, u32, u32)>,
    labels: HashMap<String, u32>,
    /// Variables and prototypes: what each name is called in the whole function.
    names: HashMap<String, String>,
    /// `.branchtargets` tables by label.
    tables: HashMap<String, u32>,
    /// References to labels not seen so far: name, reference number, line.
    pending: Vec<(String, usize, u32)>,
}

/// What a label reference turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Statement(u32),
    Table(u32),
}

/// The open scopes of one function.
pub(super) struct Scopes {
    open: Vec<Scope>,
    pub regs: Vec<Type>,
    /// By reference number.
    pub targets: Vec<Option<Target>>,
    /// How many scopes have declared a variable or prototype of that name.
    declared: HashMap<String, u32>,
}

impl Scopes {
    pub fn new() -> Scopes {
        Scopes { open: vec![Scope::default()], regs: Vec::new(), targets: Vec::new(), declared: HashMap::new() }
    }

    pub fn depth(&self) -> usize {
        self.open.len()
    }

    pub fn enter(&mut self) {
        self.open.push(Scope::default());
    }

    /// Closes the innermost scope. What it refers to and does not define belongs to the scope around it.
    pub fn leave(&mut self, line: u32) -> Result<(), Error> {
        let scope = self.open.pop().ok_or_else(|| Error::new(line, "a } too many"))?;
        for (name, reference, at) in scope.pending {
            let target = match (scope.labels.get(&name), scope.tables.get(&name)) {
                (Some(index), _) => Target::Statement(*index),
                (None, Some(index)) => Target::Table(*index),
                (None, None) => match self.open.last_mut() {
                    Some(outer) => {
                        outer.pending.push((name, reference, at));
                        continue;
                    }
                    None => return Err(Error::new(at, format!("unknown label {name}"))),
                },
            };
            self.targets[reference] = Some(target);
        }
        Ok(())
    }

    /// Declares `name`, or `name0` to `name(count-1)`.
    pub fn declare(&mut self, name: &str, count: Option<u64>, ty: Type, line: u32) -> Result<(), Error> {
        let n = count.unwrap_or(1);
        let first = self.regs.len() as u64;
        if n > MOST_REGISTERS || first + n > MOST_REGISTERS {
            return Err(Error::new(line, format!("more than {MOST_REGISTERS} registers")));
        }
        self.regs.resize((first + n) as usize, ty);
        let Some(scope) = self.open.last_mut() else { return Err(Error::new(line, "a register outside of a body")) };
        match count {
            Some(_) => scope.ranges.push((name.to_string(), n as u32, first as u32)),
            None => {
                scope.regs.insert(name.to_string(), Reg(first as u32));
            }
        }
        Ok(())
    }

    /// The register of that name, innermost scope first.
    pub fn register(&self, name: &str) -> Option<Reg> {
        let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
        let (prefix, number) = name.split_at(name.len() - digits);
        // `%r007` is not `%r7`.
        let number = if number.len() > 1 && number.starts_with('0') { None } else { number.parse::<u32>().ok() };
        self.open.iter().rev().find_map(|scope| {
            scope.regs.get(name).copied().or_else(|| {
                let number = number?;
                let (_, _, first) = scope.ranges.iter().rev().find(|(p, n, _)| p == prefix && number < *n)?;
                Some(Reg(first + number))
            })
        })
    }

    /// Declares a variable or prototype; the answer is a name that no other scope of the function has. Every call has a
    /// scope of its own with a `param0`.
    pub fn name(&mut self, name: &str) -> String {
        let times = self.declared.entry(name.to_string()).or_default();
        // No identifier of PTX holds an @.
        let unique = if *times == 0 { name.to_string() } else { format!("{name}@{times}") };
        *times += 1;
        if let Some(scope) = self.open.last_mut() {
            scope.names.insert(name.to_string(), unique.clone());
        }
        unique
    }

    /// What the function calls the variable or prototype `name`; a name of the module is itself.
    pub fn find(&self, name: &str) -> String {
        let own = self.open.iter().rev().find_map(|scope| scope.names.get(name));
        own.map_or_else(|| name.to_string(), String::clone)
    }

    pub fn label(&mut self, name: &str, statement: u32, line: u32) -> Result<(), Error> {
        let scope = self.open.last_mut().ok_or_else(|| Error::new(line, "a label outside of a body"))?;
        match scope.labels.insert(name.to_string(), statement) {
            None => Ok(()),
            Some(_) => Err(Error::new(line, format!("label {name} stands twice in one scope"))),
        }
    }

    /// What looked like a label names something else.
    pub fn unlabel(&mut self, name: &str) {
        if let Some(scope) = self.open.last_mut() {
            scope.labels.remove(name);
        }
    }

    pub fn table(&mut self, name: &str, table: u32) {
        self.unlabel(name);
        if let Some(scope) = self.open.last_mut() {
            scope.tables.insert(name.to_string(), table);
        }
    }

    /// Notes that `name` is referred to; the number stands for it until the scopes are closed.
    pub fn refer(&mut self, name: &str, line: u32) -> u32 {
        self.targets.push(None);
        let reference = self.targets.len() - 1;
        if let Some(scope) = self.open.last_mut() {
            scope.pending.push((name.to_string(), reference, line));
        }
        reference as u32
    }
}
