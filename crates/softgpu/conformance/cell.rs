//! A statement that accesses memory, and what it must do to a few bytes: the manual's definitions on bytes and exact
//! numbers, sharing no code with the interpreter.

use super::expect::half::{bf16, bits_of, f16};
use super::expect::round::{BF16, F16, Mode, round_one};
use super::expect::{number, wrap};
use super::form::{Register, register};

/// Bytes of memory that each thread has.
pub const CELL: usize = 128;

/// Where the address of a statement points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    Global,
    Shared,
    Local,
    Const,
    Param,
}

/// A load, store, atomic operation or reduction.
pub struct Access {
    /// The statement.
    pub text: String,
    /// The opcode without its modifiers.
    pub op: String,
    /// The modifiers.
    pub mods: Vec<String>,
    /// The space of its address, and how far behind the start of the cell it lies.
    pub space: Space,
    pub offset: usize,
    /// Registers written, one for each element.
    pub dest: Vec<Register>,
    /// Operands read, each a register for each element.
    pub sources: Vec<Vec<Register>>,
}

/// An element of memory after the statement.
pub struct Element {
    pub at: usize,
    pub bytes: usize,
    pub bits: u64,
    /// Whether it is a NaN, of any payload.
    pub nan: bool,
}

/// Operands, which commas separate outside of brackets.
pub fn operands(text: &str) -> Vec<String> {
    let (mut depth, mut all) = (0, vec![String::new()]);
    for c in text.chars() {
        depth += i32::from("{[".contains(c)) - i32::from("}]".contains(c));
        match c {
            ',' if depth == 0 => all.push(String::new()),
            _ => all.last_mut().expect("one operand at least").push(c),
        }
    }
    all.iter().map(|operand| operand.trim().to_string()).collect()
}

impl Access {
    /// A statement with one address.
    pub fn parse(text: &str) -> Option<Access> {
        let (opcode, rest) = text.strip_suffix(';')?.split_once(' ')?;
        let mut mods: Vec<String> = opcode.split('.').map(str::to_string).collect();
        let op = mods.remove(0);
        if !["ld", "st", "atom", "red"].contains(&op.as_str()) {
            return None;
        }
        let (mut dest, mut sources, mut place) = (Vec::new(), Vec::new(), None);
        for operand in operands(rest) {
            if let Some(address) = operand.strip_prefix('[') {
                let address = address.strip_suffix(']')?;
                let (base, offset) = address.split_once('+').unwrap_or((address, "0"));
                let space = match base {
                    "%rd0" => Space::Global,
                    "%r1" | "%rd1" => Space::Shared,
                    "%rd3" | "%rd2" => Space::Local,
                    "fixed" => Space::Const,
                    "out" => Space::Param,
                    _ => return None,
                };
                place = Some((space, offset.parse().ok()?));
            } else if operand != "%rd9" {
                let list = operand.trim_matches(['{', '}']).split(',').map(|name| register(name.trim()));
                let list = list.collect::<Option<Vec<_>>>()?;
                if place.is_none() { dest = list } else { sources.push(list) }
            }
        }
        let (space, offset) = place?;
        Some(Access { text: text.into(), op, mods, space, offset, dest, sources })
    }

    /// Whether a modifier is there.
    pub fn has(&self, name: &str) -> bool {
        self.mods.iter().any(|m| m == name)
    }

    /// The type of its elements.
    pub fn ty(&self) -> &str {
        self.mods.last().map_or("", String::as_str)
    }

    /// Bytes of an element.
    pub fn bytes(&self) -> usize {
        match self.ty() {
            "f16x2" | "bf16x2" => 4,
            ty => ty.trim_start_matches(char::is_alphabetic).parse::<usize>().expect("a type") / 8,
        }
    }

    /// Elements.
    pub fn count(&self) -> usize {
        let vector = self.mods.iter().find_map(|m| m.strip_prefix('v')?.parse().ok());
        vector.unwrap_or(1)
    }

    /// What an atomic operation does.
    pub fn action(&self) -> &str {
        let actions = ["add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"];
        self.mods.iter().map(String::as_str).find(|m| actions.contains(m)).unwrap_or("")
    }

    /// Where the `i`-th element lies in the cell.
    pub fn at(&self, i: usize) -> usize {
        self.offset + i * self.bytes()
    }

    /// Sources in the order of their columns, each once.
    pub fn inputs(&self) -> Vec<&Register> {
        let mut all: Vec<&Register> = Vec::new();
        for register in self.sources.iter().flatten() {
            if !all.contains(&register) {
                all.push(register);
            }
        }
        all
    }

    /// What the registers written hold, and what memory holds then: of a cell and of the values of [`Access::inputs`].
    pub fn expect(&self, cell: &[u8], row: &[u64]) -> (Vec<u64>, Vec<Element>) {
        let inputs = self.inputs();
        let value = |register: &Register| {
            let i = inputs.iter().position(|input| *input == register).expect("an input");
            row[i] & (u64::MAX >> (64 - register.bits()))
        };
        let bytes = self.bytes();
        let (mut written, mut memory) = (Vec::new(), Vec::new());
        for i in 0..self.count() {
            let at = self.at(i);
            let old = bits_at(cell, at, bytes);
            if let Some(register) = self.dest.get(i) {
                let signed = self.op == "ld" && self.ty().starts_with('s');
                written.push(wrap(number(old, 8 * bytes as u32, signed), register.bits()));
            }
            let source = |operand: usize| value(&self.sources[operand][i]) & (u64::MAX >> (64 - 8 * bytes));
            match self.op.as_str() {
                "ld" => {}
                "st" => memory.push(Element { at, bytes, bits: source(0), nan: false }),
                _ => {
                    let second = if self.action() == "cas" { source(1) } else { 0 };
                    self.update(at, old, source(0), second, &mut memory);
                }
            }
        }
        (written, memory)
    }

    /// An atomic operation on one element; packed ones count as two.
    fn update(&self, at: usize, old: u64, b: u64, c: u64, memory: &mut Vec<Element>) {
        let bytes = self.bytes();
        if let Some(half) = self.ty().strip_suffix("x2") {
            for i in 0..2 {
                let part = |word: u64| word >> (16 * i) & 0xffff;
                let (bits, nan) = sum(half, part(old), part(b), false);
                memory.push(Element { at: at + 2 * i, bytes: 2, bits, nan });
            }
            return;
        }
        let float = self.ty().starts_with(['f', 'b']) && self.action() == "add";
        let (bits, nan) = if float {
            // The manual: adding f32 in device memory flushes, in shared memory it does not.
            sum(self.ty(), old, b, self.space == Space::Global)
        } else {
            let (width, signed) = (8 * bytes as u32, self.ty().starts_with('s'));
            let [x, y] = [old, b].map(|bits| number(bits, width, signed));
            let result = match self.action() {
                "add" => x + y,
                "min" => x.min(y),
                "max" => x.max(y),
                "and" => x & y,
                "or" => x | y,
                "xor" => x ^ y,
                "exch" => y,
                "cas" => i128::from(if old == b { c } else { old }),
                "inc" => {
                    if x >= y {
                        0
                    } else {
                        x + 1
                    }
                }
                "dec" => {
                    if x == 0 || x > y {
                        y
                    } else {
                        x - 1
                    }
                }
                other => panic!("no rule for {other}"),
            };
            (wrap(result, width), false)
        };
        memory.push(Element { at, bytes, bits, nan });
    }
}

/// A sum of two floating-point numbers, rounded to nearest, and whether it is a NaN.
fn sum(ty: &str, a: u64, b: u64, flush: bool) -> (u64, bool) {
    match ty {
        "f16" | "bf16" => {
            let (widen, format): (fn(u64) -> f64, _) = if ty == "f16" { (f16, F16) } else { (bf16, BF16) };
            let exact = widen(a) + widen(b);
            if exact.is_nan() { (0, true) } else { (bits_of(round_one(exact, format, Mode::Nearest), format), false) }
        }
        "f32" => {
            let flushed = |x: f32| if flush && x.is_subnormal() { 0f32.copysign(x) } else { x };
            let sum = flushed(flushed(f32::from_bits(a as u32)) + flushed(f32::from_bits(b as u32)));
            (u64::from(sum.to_bits()), sum.is_nan())
        }
        _ => {
            let sum = f64::from_bits(a) + f64::from_bits(b);
            (sum.to_bits(), sum.is_nan())
        }
    }
}

/// Some bytes of a cell.
pub fn bits_at(cell: &[u8], at: usize, bytes: usize) -> u64 {
    cell[at..at + bytes].iter().rev().fold(0, |bits, byte| bits << 8 | u64::from(*byte))
}

/// Whether an element's bits are a NaN of their type.
pub fn is_nan(ty: &str, bits: u64) -> bool {
    match ty.trim_end_matches("x2") {
        "f16" => f16(bits).is_nan(),
        "bf16" => bf16(bits).is_nan(),
        "f32" => f32::from_bits(bits as u32).is_nan(),
        "f64" => f64::from_bits(bits).is_nan(),
        _ => false,
    }
}

#[test]
fn what_is_expected_of_memory() {
    let access = |text: &str| Access::parse(text).unwrap_or_else(|| panic!("{text}"));
    let mut cell = [0u8; CELL];
    cell[16..24].copy_from_slice(&0x8000_0001_ffff_fffeu64.to_le_bytes());
    let (got, memory) = access("ld.global.v2.s8 {%h1, %h2}, [%rd0+16];").expect(&cell, &[]);
    assert_eq!((got, memory.len()), (vec![0xfffe, 0xffff], 0));
    let (got, memory) = access("atom.global.inc.u32 %r5, [%rd0+16], %r6;").expect(&cell, &[3]);
    assert_eq!((got[0], memory[0].bits), (0xffff_fffe, 0));
    // Two subnormals: flushed in device memory, added in shared memory.
    for (text, sum) in
        [("red.global.add.f32 [%rd0+20], %r6;", 0x8000_0000), ("red.shared.add.f32 [%r1+20], %r6;", 0x8000_0002)]
    {
        assert_eq!(access(text).expect(&cell, &[0x8000_0001]).1[0].bits, sum, "{text}");
    }
    let (_, memory) = access("red.global.add.noftz.f16x2 [%rd0], %r6;").expect(&cell, &[0x7c01_3c00]);
    assert_eq!((memory[0].bits, memory[0].nan, memory[1].nan), (0x3c00, false, true));
}
