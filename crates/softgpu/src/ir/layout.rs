//! Where parameters and variables of a kernel, and of the device functions that it may call, lie.

use std::collections::{HashMap, HashSet};

use super::decode::{Space, Symbol};
use super::reach::Reach;
use super::routine::{Frame, FrameVariable};
use super::{Param, SharedLayout, SharedVariable};
use crate::ptx::{Base, Function, Module, Operand, Statement, Variable, VariableSpace};

/// Names and addresses of everything a kernel may name.
pub struct Layout {
    /// Names of the module.
    pub symbols: HashMap<String, Symbol>,
    /// Names of each function that the kernel reaches.
    pub own: Vec<HashMap<String, Symbol>>,
    /// The frame of each function.
    pub frames: Vec<Frame>,
    pub signature: Signature,
}

/// What a launch must know of a kernel before its body is lowered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Parameters in order.
    pub params: Vec<Param>,
    /// Size of the parameter block.
    pub param_bytes: u32,
    /// Shared arrays.
    pub shared: SharedLayout,
    /// Bytes of local memory per thread that the kernel itself declares.
    pub local_bytes: u32,
}

impl Signature {
    /// Of a function of `module`, whether or not its body can be lowered. The error is one sentence.
    pub fn of(module: &Module, function: &Function) -> Result<Signature, String> {
        layout(module, &Reach::of(module, function)).map(|layout| layout.signature)
    }
}

/// Frames begin at multiples of this at least, as stacks do.
const FRAME_ALIGN: u64 = 16;
/// A gap behind every local array, so that what runs over its end meets nothing else.
const FRAME_GAP: u64 = 128;
/// Gaps between static shared arrays are multiples of this, so that each word stays in its bank.
const BANK_ROW: u64 = 128;
/// Bytes of parameters that a kernel may have.
const MOST_PARAMS: u64 = 32_764;
/// Bytes of local memory that a thread may have.
const MOST_LOCAL: u64 = 512 << 10;
/// More shared memory than any device has; keeps addresses within 32 bits whatever the gaps.
const MOST_SHARED: u64 = 16 << 20;

/// Lays out parameters, frames and shared variables. The error is one sentence.
pub fn layout(module: &Module, reach: &Reach<'_>) -> Result<Layout, String> {
    let mut symbols = HashMap::new();
    for (index, variable) in module.variables.iter().enumerate() {
        let size = u32::try_from(variable.size).unwrap_or(u32::MAX);
        symbols.insert(variable.name.clone(), Symbol { space: Space::Global, at: index as u32, size });
    }
    for (index, function) in module.functions.iter().enumerate().filter(|(_, f)| !f.entry && f.defined) {
        symbols.insert(function.name.clone(), Symbol { space: Space::Code, at: index as u32, size: 0 });
    }
    let mut own: Vec<HashMap<String, Symbol>> = vec![HashMap::new(); reach.functions.len()];
    let mut at = 0u64;
    let mut params = Vec::new();
    for variable in &reach.functions[0].params {
        at = place(&mut own[0], variable, at, Space::Param)?;
        let Symbol { at: offset, size, .. } = own[0][&variable.name];
        params.push(Param { name: variable.name.clone(), offset, size, align: variable.align });
    }
    let param_bytes = at as u32;
    let everything = |f: &&Function| f.variables.iter().map(|v| u64::from(v.align)).max();
    let align = reach.functions.iter().filter_map(everything).fold(FRAME_ALIGN, u64::max);
    let mut frames = Vec::with_capacity(reach.functions.len());
    for (number, function) in reach.functions.iter().enumerate() {
        frames.push(frame(function, number == 0, align, &mut own[number])?);
    }
    let local = |v: &&Variable| v.space == VariableSpace::Local;
    let local_bytes = reach.functions[0].variables.iter().filter(local).fold(0, |at, v| {
        // Without the gaps, as the compiler counts them; `frame` saw that it fits.
        u64::next_multiple_of(at, u64::from(v.align)) + v.size
    });
    let shared = shared(module, reach, &mut symbols, &mut own)?;
    let signature = Signature { params, param_bytes, shared, local_bytes: local_bytes as u32 };
    Ok(Layout { symbols, own, frames, signature })
}

/// Local arrays, then parameters and results, then what the function passes to others.
fn frame(
    function: &Function,
    kernel: bool,
    align: u64,
    symbols: &mut HashMap<String, Symbol>,
) -> Result<Frame, String> {
    let mut frame = Frame::default();
    let mut at = 0;
    let mut put = |variable: &Variable, gap: u64| {
        let end = place(symbols, variable, at, Space::Local)?;
        at = end + gap;
        let Symbol { at: offset, size, .. } = symbols[&variable.name];
        Ok::<_, String>(FrameVariable { name: variable.name.clone(), offset, size })
    };
    for variable in function.variables.iter().filter(|v| v.space == VariableSpace::Local) {
        let placed = put(variable, FRAME_GAP)?;
        frame.locals.push(placed);
    }
    if !kernel {
        for variable in &function.params {
            let placed = put(variable, 0)?;
            frame.params.push(placed);
        }
        for variable in &function.results {
            let placed = put(variable, 0)?;
            frame.results.push(placed);
        }
    }
    for variable in function.variables.iter().filter(|v| v.space == VariableSpace::Param) {
        put(variable, 0)?;
    }
    frame.bytes = at.next_multiple_of(align) as u32;
    Ok(frame)
}

/// The first place for a variable at or behind `at`; an error if it does not fit.
fn fit(variable: &Variable, at: u64, space: Space) -> Result<u64, String> {
    let start = at.next_multiple_of(u64::from(variable.align));
    let most = match space {
        Space::Param => MOST_PARAMS,
        Space::Local => MOST_LOCAL,
        Space::Shared | Space::Global | Space::Code => MOST_SHARED,
    };
    if start + variable.size > most {
        return Err(format!("{} of {} bytes does not fit: {most} bytes in all", variable.name, variable.size));
    }
    Ok(start)
}

/// Puts a variable there; the answer is where it ends.
fn place(symbols: &mut HashMap<String, Symbol>, variable: &Variable, at: u64, space: Space) -> Result<u64, String> {
    let start = fit(variable, at, space)?;
    symbols.insert(variable.name.clone(), Symbol { space, at: start as u32, size: variable.size as u32 });
    Ok(start + variable.size)
}

/// A kernel owns the arrays of the functions it reaches, and those at module scope that they name.
fn shared(
    module: &Module,
    reach: &Reach<'_>,
    symbols: &mut HashMap<String, Symbol>,
    own: &mut [HashMap<String, Symbol>],
) -> Result<SharedLayout, String> {
    let named: HashSet<&str> = reach.functions.iter().flat_map(|f| names(f, |_| true)).collect();
    let inside = reach.functions.iter().enumerate().flat_map(|(number, function)| {
        let arrays = function.variables.iter().filter(|v| v.space == VariableSpace::Shared);
        arrays.map(move |v| (Some(number), v))
    });
    let outside = module.shared.iter().filter(|v| named.contains(v.name.as_str())).map(|v| (None, v));
    let all: Vec<(Option<usize>, &Variable)> = inside.chain(outside).collect();
    let (dynamic, fixed): (Vec<_>, Vec<_>) = all.iter().partition(|(_, v)| v.size == 0);
    let mut scope = |owner: Option<usize>, name: &str, symbol: Symbol| {
        owner.map_or(&mut *symbols, |number| &mut own[number]).insert(name.to_string(), symbol);
    };
    // One gap behind every array, the same multiple of every alignment.
    let gap = all.iter().map(|(_, v)| u64::from(v.align)).fold(BANK_ROW, u64::max);
    let (mut at, mut gaps) = (0u64, 0u64);
    let mut arrays = Vec::new();
    for (owner, v) in fixed {
        if v.external {
            return Err(format!("shared variable {} is declared elsewhere", v.name));
        }
        let start = fit(v, at, Space::Shared)?;
        let symbol = Symbol { space: Space::Shared, at: (start + gaps) as u32, size: v.size as u32 };
        scope(owner, &v.name, symbol);
        arrays.push(SharedVariable { name: v.name.clone(), offset: symbol.at, size: symbol.size, align: v.align });
        at = start + v.size;
        gaps += gap;
        if at + gaps > 2 * MOST_SHARED {
            return Err(format!("{} shared arrays do not fit", arrays.len()));
        }
    }
    // Dynamic memory begins behind the statics at its declared alignment, and never at a better one.
    let align = dynamic.iter().map(|(_, v)| u64::from(v.align)).max().unwrap_or(16);
    let mut start = (at + gaps).next_multiple_of(align);
    if start % (2 * align) == 0 {
        start += align;
    }
    for (owner, v) in dynamic {
        scope(owner, &v.name, Symbol { space: Space::Shared, at: start as u32, size: 0 });
    }
    Ok(SharedLayout { arrays, dynamic_offset: start as u32, static_bytes: at as u32 })
}

/// The names in the operands of the statements that `wanted` picks.
pub fn names(function: &Function, wanted: impl Fn(&Statement) -> bool) -> HashSet<&str> {
    fn visit<'f>(operand: &'f Operand, names: &mut HashSet<&'f str>) {
        match operand {
            Operand::Symbol(name, _) => {
                names.insert(name);
            }
            Operand::Address(address) => {
                if let Base::Symbol(name) = &address.base {
                    names.insert(name);
                }
            }
            Operand::Vector(items) | Operand::List(items) => items.iter().for_each(|item| visit(item, names)),
            Operand::Pair(a, b) => {
                visit(a, names);
                visit(b, names);
            }
            _ => {}
        }
    }
    let mut names = HashSet::new();
    let statements = function.statements.iter().filter(|statement| wanted(statement));
    statements.flat_map(|s| &s.operands).for_each(|operand| visit(operand, &mut names));
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ptx::parse;

    fn signature(params: &str, body: &str) -> Result<Signature, String> {
        let text = format!(
            ".version 9.0\n.target sm_80\n.address_size 64\n.extern .shared .align 16 .b8 dyn[];\n\
             .shared .align 4 .b8 outside[12];\n.shared .align 4 .b8 unnamed[4096];\n\
             .visible .entry k({params})\n{{\n.reg .b32 %r<9>;\n{body}\n}}\n"
        );
        let module = parse(&text).unwrap();
        Signature::of(&module, module.kernel("k").unwrap())
    }

    #[test]
    fn trap_18_dynamic_shared_memory_begins_behind_the_statics_at_no_better_alignment() {
        let body =
            ".shared .align 8 .b8 a[20];\n.shared .align 256 .b8 b[4];\nmov.b32 %r1, outside;\nmov.b32 %r2, dyn;";
        let shared = signature("", body).unwrap().shared;
        // The kernel owns its own arrays and the one it names, 20 + 236 + 4 + 12 bytes as the compiler counts them.
        let offsets: Vec<_> = shared.arrays.iter().map(|v| (v.name.as_str(), v.offset, v.size)).collect();
        assert_eq!(offsets, [("a", 0, 20), ("b", 512, 4), ("outside", 772, 12)]);
        assert_eq!(shared.static_bytes, 272);
        // Each array keeps its banks: the gaps are whole rows of them.
        assert!(shared.arrays.iter().all(|v| v.offset % v.align == 0));
        assert_eq!((shared.dynamic_offset % 16, shared.dynamic_offset % 32), (0, 16));
        assert!(shared.dynamic_offset >= 772 + 12);
    }

    #[test]
    fn trap_19_parameters_lie_as_their_alignments_say() {
        let params = ".param .u8 a, .param .align 8 .b8 b[20], .param .u16 c, .param .align 64 .b8 d[3], .param .u64 e";
        let s = signature(params, "ret;").unwrap();
        let offsets: Vec<_> = s.params.iter().map(|p| (p.offset, p.size)).collect();
        assert_eq!(offsets, [(0, 1), (8, 20), (28, 2), (64, 3), (72, 8)]);
        assert_eq!(s.param_bytes, 80);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let large = signature(".param .align 4 .b8 p[40000]", "ret;").unwrap_err();
        assert_eq!(large, "p of 40000 bytes does not fit: 32764 bytes in all");
        assert!(signature("", ".local .align 4 .b8 stack[600000];").is_err());
        assert!(signature("", ".shared .align 4 .b8 s[99999999];").is_err());
    }
}
