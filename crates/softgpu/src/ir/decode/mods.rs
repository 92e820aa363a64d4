//! Reading the dotted modifiers and the operand list of a statement.

use super::Reject;
use crate::ptx::{Operand, Statement, Type};

/// The modifiers of a statement, taken one by one from the front.
pub struct Mods<'s> {
    rest: Vec<&'s str>,
}

impl<'s> Mods<'s> {
    /// All modifiers of `stmt`.
    pub fn new(stmt: &'s Statement) -> Mods<'s> {
        Mods { rest: stmt.modifiers().collect() }
    }

    /// No modifiers.
    pub fn none() -> Mods<'s> {
        Mods { rest: Vec::new() }
    }

    /// Takes the next modifier if it is `name`.
    pub fn eat(&mut self, name: &str) -> bool {
        let hit = self.rest.first() == Some(&name);
        if hit {
            self.rest.remove(0);
        }
        hit
    }

    /// Takes the next modifier if it is one of `names`.
    pub fn one_of(&mut self, names: &[&'static str]) -> Option<&'static str> {
        let hit = names.iter().find(|n| self.rest.first() == Some(*n)).copied()?;
        self.rest.remove(0);
        Some(hit)
    }

    /// Takes every modifier for which `f` holds, wherever it stands: cache and eviction hints.
    pub fn drop_where(&mut self, f: impl Fn(&str) -> bool) {
        self.rest.retain(|m| !f(m));
    }

    /// The next modifier, left in place.
    pub fn peek(&self) -> Option<&'s str> {
        self.rest.first().copied()
    }

    /// Takes the next modifier, whatever it is.
    pub fn take(&mut self) -> Option<&'s str> {
        if self.rest.is_empty() { None } else { Some(self.rest.remove(0)) }
    }

    /// Takes the next modifier, which must be a type.
    pub fn ty(&mut self) -> Result<Type, Reject> {
        let name = self.take().ok_or("a type is missing")?;
        Type::parse(name).ok_or_else(|| Reject(format!("unknown modifier .{name}")))
    }

    /// Nothing may be left.
    pub fn done(self) -> Result<(), Reject> {
        match self.rest.first() {
            None => Ok(()),
            Some(name) => Err(Reject(format!("unknown modifier .{name}"))),
        }
    }
}

/// Exactly `N` operands.
pub fn operands<const N: usize>(stmt: &Statement) -> Result<[&Operand; N], Reject> {
    let all: Vec<&Operand> = stmt.operands.iter().collect();
    all.try_into().map_err(|v: Vec<_>| Reject(format!("{} operands where {N} are expected", v.len())))
}

/// The refusal of a type.
pub fn reject_type(ty: Type) -> Reject {
    Reject(format!("type .{} is not implemented", ty.name()))
}
