//! Declarations: variables with their initial bytes, parameters, registers.

use super::lexer::{Kind, Literal, literal};
use super::parse::Parser;
use super::{Error, Type, Variable, VariableSpace};

/// More than any memory: what a broken declaration may not exceed.
const MOST_BYTES: u64 = 1 << 40;
/// Initial values are held in memory by the host.
const MOST_INITIAL_BYTES: usize = 1 << 28;

impl Parser<'_> {
    /// A declaration after its state space: `.align 4 .b8 name[16] = {...}`, up to the `;`, `,` or `)` behind it.
    pub(super) fn variable(&mut self, space: VariableSpace, external: bool) -> Result<Variable, Error> {
        let line = self.peek().line;
        let (mut align, mut ty, mut vector) = (None, None, 1);
        while self.peek().kind == Kind::Word && self.peek().text.starts_with('.') {
            let word = self.next().text;
            match word {
                ".align" => align = Some(self.integer()?),
                ".v2" => vector = 2,
                ".v4" => vector = 4,
                // Attributes of pointer parameters say what the pointer points to: nothing about the parameter.
                ".ptr" => {
                    while matches!(self.peek().text, ".global" | ".shared" | ".local" | ".const" | ".align") {
                        if self.next().text == ".align" {
                            self.integer()?;
                        }
                    }
                }
                _ => match Type::parse(&word[1..]) {
                    Some(t) if ty.is_none() => ty = Some(t),
                    _ => return Err(Error::new(line, format!("{word} is not understood in a declaration"))),
                },
            }
        }
        let ty = ty.filter(|t| t.bytes() > 0).ok_or_else(|| Error::new(line, "a declaration without a type"))?;
        let name = self.word()?.to_string();
        let mut size = u64::from(ty.bytes()) * vector;
        while self.eat("[") {
            let count = if self.peek().text == "]" { 0 } else { self.integer()? };
            self.expect("]")?;
            size = size.checked_mul(count).filter(|s| *s <= MOST_BYTES).ok_or_else(|| Error::new(line, "too large"))?;
        }
        let natural = u64::from(ty.bytes()) * vector;
        let align = align.unwrap_or(natural);
        if !align.is_power_of_two() || align > 1 << 16 {
            return Err(Error::new(line, format!("an alignment of {align}")));
        }
        let align = align as u32;
        let mut v = Variable { name, space, ty, align, size, init: Vec::new(), addresses: Vec::new(), external };
        if self.eat("=") {
            self.initial(&mut v, 0)?;
            // `char s[] = {...}` takes its size from its values.
            if v.size == 0 {
                v.size = v.init.len() as u64;
            }
            if v.init.len() as u64 > v.size {
                return Err(Error::new(line, format!("{} has more initial values than room", v.name)));
            }
        }
        Ok(v)
    }

    /// One value or `{...}` behind `=`.
    fn initial(&mut self, v: &mut Variable, depth: u32) -> Result<(), Error> {
        let line = self.peek().line;
        if depth > 8 || v.init.len() > MOST_INITIAL_BYTES {
            return Err(Error::new(line, format!("initial values of {} too deep or too many", v.name)));
        }
        if self.eat("{") {
            while !self.eat("}") {
                self.initial(v, depth + 1)?;
                if !self.eat(",") && self.peek().text != "}" {
                    return Err(self.unexpected("a , or } in initial values"));
                }
            }
            return Ok(());
        }
        let bytes = v.ty.bytes() as usize;
        let mut bits = 0;
        if self.peek().kind == Kind::Word {
            let word = self.next().text.to_string();
            let generic = word == "generic" && self.eat("(");
            let name = if generic { self.word()?.to_string() } else { word };
            if generic {
                self.expect(")")?;
            }
            let plus = if self.eat("+") { self.integer()? as i64 } else { 0 };
            v.addresses.push((v.init.len(), name, plus, generic));
        } else {
            bits = self.initial_bits(v.ty)?;
        }
        v.init.extend_from_slice(&bits.to_le_bytes()[..bytes.min(8)]);
        Ok(())
    }

    fn initial_bits(&mut self, ty: Type) -> Result<u64, Error> {
        let negative = self.eat("-");
        let token = self.next();
        let value = literal(token.text).filter(|_| token.kind == Kind::Number);
        let value = value.ok_or_else(|| Error::new(token.line, format!("{} is not a value", token.text)))?;
        Ok(match value {
            Literal::Int(v) => {
                if negative {
                    v.wrapping_neg()
                } else {
                    v
                }
            }
            Literal::F32(bits) if ty == Type::F64 => sign(f64::from(f32::from_bits(bits)), negative).to_bits(),
            Literal::F32(bits) => u64::from(bits ^ (u32::from(negative) << 31)),
            Literal::F64(bits) if ty == Type::F32 => u64::from((sign(f64::from_bits(bits), negative) as f32).to_bits()),
            Literal::F64(bits) => bits ^ (u64::from(negative) << 63),
        })
    }

    /// `.reg .b32 %r<65>, t;` after `.reg`, with its semicolon.
    pub(super) fn registers(&mut self) -> Result<(), Error> {
        let line = self.peek().line;
        let word = self.word()?;
        let ty = word.strip_prefix('.').and_then(Type::parse);
        let ty = ty.ok_or_else(|| Error::new(line, format!("registers of type {word} are not implemented")))?;
        loop {
            let name = self.word()?;
            let count = if self.eat("<") {
                let n = self.integer()?;
                self.expect(">")?;
                Some(n)
            } else {
                None
            };
            self.scopes.declare(name, count, ty, line)?;
            if !self.eat(",") {
                return self.expect(";");
            }
        }
    }
}

fn sign(value: f64, negative: bool) -> f64 {
    if negative { -value } else { value }
}
