//! The call graph: which device functions a kernel may run, and which of them may run twice at once.

use std::collections::{HashMap, HashSet};

use super::layout::names;
use crate::ptx::{Function, Module, Operand, Statement};

/// A kernel and every device function that it may come to call; the kernel is number 0.
pub struct Reach<'m> {
    /// In the order in which their code is laid out.
    pub functions: Vec<&'m Function>,
    /// The number of each function by name.
    pub numbers: HashMap<&'m str, u32>,
    /// By function: the numbers of all functions that it may come to call, directly or not.
    reached: Vec<HashSet<u32>>,
}

/// What a call names.
pub enum Callee<'s> {
    /// A function.
    Name(&'s str),
    /// A register that holds the address of one.
    Register(&'s Operand),
}

/// What the statement calls; `None` if it is no call.
pub fn callee(statement: &Statement) -> Option<Callee<'_>> {
    if statement.op() != "call" {
        return None;
    }
    let first = statement.operands.iter().find(|operand| !matches!(operand, Operand::List(_)))?;
    match first {
        Operand::Symbol(name, 0) => Some(Callee::Name(name)),
        Operand::Reg(_) => Some(Callee::Register(first)),
        _ => None,
    }
}

impl<'m> Reach<'m> {
    /// Of a kernel.
    pub fn of(module: &'m Module, kernel: &'m Function) -> Reach<'m> {
        let device = |name: &str| module.functions.iter().find(|f| !f.entry && f.defined && f.name == name);
        let mut pointed: Option<Vec<&Function>> = None;
        let mut reach = Reach { functions: vec![kernel], numbers: HashMap::new(), reached: Vec::new() };
        let mut edges: Vec<Vec<u32>> = Vec::new();
        while let Some(function) = reach.functions.get(edges.len()).copied() {
            let mut next = Vec::new();
            for statement in &function.statements {
                match callee(statement) {
                    Some(Callee::Name(name)) => next.extend(device(name)),
                    // A pointer may lead to any function whose address is taken anywhere.
                    Some(Callee::Register(_)) => next.extend(pointed.get_or_insert_with(|| pointed_at(module)).iter()),
                    None => {}
                }
            }
            let numbers = next.into_iter().map(|callee| reach.number(callee)).collect();
            edges.push(numbers);
        }
        reach.reached = (0..edges.len()).map(|from| closure(&edges, from)).collect();
        reach
    }

    fn number(&mut self, function: &'m Function) -> u32 {
        let next = self.functions.len() as u32;
        let number = *self.numbers.entry(&function.name).or_insert(next);
        if number == next {
            self.functions.push(function);
        }
        number
    }

    /// Whether a call of `callee` (of any function, if `None`) by `caller` may lead back to `caller`, whose registers
    /// the call must then keep.
    pub fn recurs(&self, caller: u32, callee: Option<u32>) -> bool {
        match callee {
            Some(callee) => callee == caller || self.reached[callee as usize].contains(&caller),
            None => self.reached[caller as usize].contains(&caller),
        }
    }
}

fn closure(edges: &[Vec<u32>], from: usize) -> HashSet<u32> {
    let mut seen = HashSet::new();
    let mut open = edges[from].clone();
    while let Some(next) = open.pop() {
        if seen.insert(next) {
            open.extend(&edges[next as usize]);
        }
    }
    seen
}

/// The device functions whose address some function or variable of the module takes.
fn pointed_at(module: &Module) -> Vec<&Function> {
    let mut taken: HashSet<&str> = HashSet::new();
    for function in &module.functions {
        taken.extend(names(function, |statement| callee(statement).is_none()));
    }
    for variable in &module.variables {
        taken.extend(variable.addresses.iter().map(|(_, name, _, _)| name.as_str()));
    }
    module.functions.iter().filter(|f| !f.entry && f.defined && taken.contains(f.name.as_str())).collect()
}
