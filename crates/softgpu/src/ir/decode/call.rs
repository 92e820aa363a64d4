//! Calls of device functions and the returns from them.

use super::{Decoded, Lower, Mods, Reject, Space, operands};
use crate::exec::system;
use crate::ir::{Call, Class, Control, Inst, Kind, Piece};
use crate::ptx::{Operand, Statement, Type, Variable};

/// Decodes a statement of this family.
pub fn decode(stmt: &Statement, lower: &mut Lower<'_>) -> Option<Decoded> {
    Some(match stmt.op() {
        "call" => call(stmt, lower),
        "ret" => ret(stmt, lower),
        _ => return None,
    })
}

fn ret(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    mods.eat("uni");
    mods.done()?;
    let [] = operands(stmt)?;
    Ok(lower.end())
}

/// `call{.uni} {(results),} function {, (arguments)} {, prototype}`.
fn call(stmt: &Statement, lower: &mut Lower<'_>) -> Decoded {
    let mut mods = Mods::new(stmt);
    mods.eat("uni");
    mods.done()?;
    let mut rest = stmt.operands.as_slice();
    let list = |rest: &mut &[Operand]| match *rest {
        [Operand::List(items), others @ ..] => {
            *rest = others;
            pieces(items, lower)
        }
        _ => Ok(Vec::new()),
    };
    let results = list(&mut rest)?;
    let [target, others @ ..] = rest else { return Err("a call of nothing".into()) };
    rest = others;
    let arguments = list(&mut rest)?;
    match (target, rest) {
        (Operand::Symbol(name, 0), []) => direct(name, arguments, results, lower),
        (Operand::Reg(_), [Operand::Symbol(prototype, 0)]) => {
            let known = lower.scene.prototypes.iter().find(|p| p.name == *prototype);
            let known = known.ok_or_else(|| Reject(format!("the call prototype {prototype} is not known")))?;
            fits(&known.params, &arguments, "arguments")?;
            fits(&known.results, &results, "results")?;
            let a = lower.src(target, Type::B64)?;
            Ok(Inst { a, ..transfer(None, arguments, results, lower)? })
        }
        (Operand::Reg(_), []) => Err("an indirect call without a prototype".into()),
        _ => Err("a call of something that is neither a function nor a register, or with more operands".into()),
    }
}

/// Where the `.param` variables of an argument list lie in the caller's frame.
fn pieces(items: &[Operand], lower: &Lower<'_>) -> Result<Vec<Piece>, Reject> {
    let piece = |item: &Operand| match item {
        Operand::Symbol(name, 0) => match lower.symbol(name) {
            Some(symbol) if symbol.space == Space::Local => Ok(Piece { at: symbol.at, bytes: symbol.size }),
            _ => Err(Reject(format!("the argument {name}, which is not a .param variable of this function"))),
        },
        other => Err(Reject(format!("the argument {other:?}: only .param variables are implemented"))),
    };
    items.iter().map(piece).collect()
}

/// The declared sizes are those that the call passes.
fn fits(declared: &[Variable], passed: &[Piece], what: &str) -> Result<(), Reject> {
    let same = declared.len() == passed.len() && declared.iter().zip(passed).all(|(d, p)| d.size == u64::from(p.bytes));
    if same {
        return Ok(());
    }
    let sizes: Vec<u64> = declared.iter().map(|variable| variable.size).collect();
    let given: Vec<u32> = passed.iter().map(|piece| piece.bytes).collect();
    Err(Reject(format!("{what} of {given:?} bytes where {sizes:?} are declared")))
}

fn direct(name: &str, arguments: Vec<Piece>, results: Vec<Piece>, lower: &mut Lower<'_>) -> Decoded {
    let reach = lower.scene.reach.ok_or("a call outside of a kernel")?;
    let Some(&callee) = reach.numbers.get(name) else { return system(name, &arguments, &results, lower) };
    let function = reach.functions[callee as usize];
    if function.register_params {
        return Err(Reject(format!("{name} has parameters in registers, which are not implemented")));
    }
    fits(&function.params, &arguments, "arguments")?;
    fits(&function.results, &results, "results")?;
    transfer(Some(callee), arguments, results, lower)
}

fn transfer(callee: Option<u32>, arguments: Vec<Piece>, results: Vec<Piece>, lower: &mut Lower<'_>) -> Decoded {
    let caller = lower.scene.routine;
    let recurs = lower.scene.reach.is_some_and(|reach| reach.recurs(caller, callee));
    let call = Call { caller, callee, arguments, results, recurs };
    Ok(lower.control(Control::Call(call), Class::Control))
}

/// Functions that the driver supplies.
fn system(name: &str, arguments: &[Piece], results: &[Piece], lower: &mut Lower<'_>) -> Decoded {
    let (op, sizes, result): (_, &[u32], &[u32]) = match name {
        "vprintf" => (&system::VPRINTF, &[8, 8], &[4]),
        "__assertfail" => (&system::ASSERT_FAIL, &[8, 8, 4, 8, 8], &[]),
        "malloc" | "free" => {
            return Err(Reject(format!("the heap of the device is not implemented: {name}")));
        }
        _ => return Err(Reject(format!("the function {name} has no body in this module, and no other can supply it"))),
    };
    for (pieces, sizes, what) in [(arguments, sizes, "arguments"), (results, result, "results")] {
        let given: Vec<u32> = pieces.iter().map(|piece| piece.bytes).collect();
        if given != sizes {
            return Err(Reject(format!("{name} with {what} of {given:?} bytes where it has {sizes:?}")));
        }
    }
    // The pool takes 16 bits: frames whose parameters lie further out are refused.
    let offsets: Result<Vec<u16>, _> = arguments.iter().chain(results).map(|piece| u16::try_from(piece.at)).collect();
    let offsets = offsets.map_err(|_| Reject(format!("{name} called by a function with a frame beyond 64 KiB")))?;
    let y = offsets.len() as u32;
    let x = lower.put(&offsets);
    Ok(Inst { kind: Kind::Effect, x, y, ..lower.inst(op, Class::Control) })
}
