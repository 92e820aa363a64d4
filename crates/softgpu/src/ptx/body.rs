//! Function bodies: statements, operands, labels, places.

use super::lexer::{Kind, Literal, literal};
use super::parse::Parser;
use super::scope::Target;
use super::{
    Address, Base, Error, Function, Guard, Location, Operand, Place, Prototype, Reg, Statement, VariableSpace,
};

/// Operands nest (`({a, b})`), broken text without end.
const MOST_NESTING: u32 = 8;

impl<'t> Parser<'t> {
    /// Everything behind the opening brace, with the closing one.
    pub(super) fn body(&mut self, f: &mut Function) -> Result<(), Error> {
        let mut place = Place(0);
        while self.scopes.depth() > 0 {
            let token = self.peek();
            match token.text {
                _ if token.kind == Kind::End => return Err(self.unexpected("a }")),
                "{" => {
                    self.next();
                    self.scopes.enter();
                }
                "}" => {
                    self.next();
                    self.scopes.leave(token.line)?;
                }
                ";" => {
                    self.next();
                }
                _ if token.kind == Kind::Word && self.peek_second().text == ":" => {
                    self.next();
                    self.next();
                    self.label(token.text, token.line, f)?;
                }
                ".loc" => {
                    self.next();
                    place = self.location(f)?;
                }
                _ if token.text.starts_with('.') => self.directive(f, place)?,
                _ => {
                    let statement = self.statement(place)?;
                    f.statements.push(statement);
                }
            }
        }
        f.regs = std::mem::take(&mut self.scopes.regs);
        self.resolve(f)
    }

    fn label(&mut self, name: &str, line: u32, f: &mut Function) -> Result<(), Error> {
        self.scopes.label(name, f.statements.len() as u32, line)?;
        if self.eat(".callprototype") {
            self.scopes.unlabel(name);
            return self.prototype(name, f);
        }
        if !self.eat(".branchtargets") {
            return Ok(());
        }
        let mut table = Vec::new();
        loop {
            let name = self.word()?;
            table.push(self.scopes.refer(name, line));
            if !self.eat(",") {
                break;
            }
        }
        self.expect(";")?;
        self.scopes.table(name, f.tables.len() as u32);
        f.tables.push(table);
        Ok(())
    }

    /// `(.param .b32 _) _ (.param .b32 _, .param .b64 _) .noreturn;` behind `.callprototype`.
    fn prototype(&mut self, name: &str, f: &mut Function) -> Result<(), Error> {
        let line = self.peek().line;
        let (results, a) = if self.peek().text == "(" { self.params()? } else { (Vec::new(), false) };
        self.word()?;
        let (params, b) = if self.peek().text == "(" { self.params()? } else { (Vec::new(), false) };
        if a || b {
            return Err(Error::new(line, "a call prototype with registers"));
        }
        self.eat(".noreturn");
        let name = self.scopes.name(name);
        f.prototypes.push(Prototype { name, results, params });
        self.expect(";")
    }

    /// `.loc 1 14 5, function_name $x, inlined_at 1 30 5` behind `.loc`.
    fn location(&mut self, f: &mut Function) -> Result<Place, Error> {
        let (file, line, column) = self.position()?;
        let mut inlined_at = None;
        while self.eat(",") {
            match self.word()? {
                "function_name" => {
                    self.word()?;
                    if self.eat("+") {
                        self.integer()?;
                    }
                }
                "inlined_at" => {
                    let caller = self.position()?;
                    // The caller's own `.loc` stands before, with its own `inlined_at`, if it is inlined itself.
                    inlined_at = Some(match self.named_places.get(&caller) {
                        Some(place) => *place,
                        None => self.add_place(f, caller, None),
                    });
                }
                _ => return Err(self.unexpected("function_name or inlined_at")),
            }
        }
        Ok(self.add_place(f, (file, line, column), inlined_at))
    }

    fn add_place(&mut self, f: &mut Function, at: (u32, u32, u32), inlined_at: Option<Place>) -> Place {
        let place = Place(f.places.len() as u32);
        f.places.push(Location { file: at.0, line: at.1, column: at.2, inlined_at });
        self.named_places.insert(at, place);
        place
    }

    fn position(&mut self) -> Result<(u32, u32, u32), Error> {
        let line = self.peek().line;
        let mut n = [0u32; 3];
        for part in &mut n {
            *part = u32::try_from(self.integer()?).map_err(|_| Error::new(line, "a .loc beyond 32 bits"))?;
        }
        Ok((n[0], n[1], n[2]))
    }

    fn directive(&mut self, f: &mut Function, place: Place) -> Result<(), Error> {
        let token = self.next();
        let space = match token.text {
            ".reg" => return self.registers(),
            ".pragma" => return self.skip_to_semicolon(),
            ".shared" => VariableSpace::Shared,
            ".local" => VariableSpace::Local,
            ".param" => VariableSpace::Param,
            // One that nobody knows is kept as a statement: it stops its own function, not the whole module.
            other => {
                self.skip_to_semicolon()?;
                let span = (token.at as u32, self.end as u32);
                let (line, opcode) = (token.line, other.into());
                f.statements.push(Statement { guard: None, opcode, operands: Vec::new(), place, line, span });
                return Ok(());
            }
        };
        let mut variable = self.variable(space, false)?;
        variable.name = self.scopes.name(&variable.name);
        f.variables.push(variable);
        self.expect(";")
    }

    fn statement(&mut self, place: Place) -> Result<Statement, Error> {
        let first = self.peek();
        let guard = if self.eat("@") {
            let negate = self.eat("!");
            let name = self.word()?;
            Some(Guard { pred: self.register(name)?, negate })
        } else {
            None
        };
        let opcode = self.word()?;
        let opcode = self.opcodes.entry(opcode).or_insert_with(|| opcode.into()).clone();
        let mut operands = Vec::new();
        if !self.eat(";") {
            let branch = matches!(opcode.split('.').next(), Some("bra" | "brx"));
            loop {
                operands.push(self.operand(branch, 0)?);
                if !self.eat(",") {
                    break;
                }
            }
            self.expect(";")?;
        }
        Ok(Statement { guard, opcode, operands, place, line: first.line, span: (first.at as u32, self.end as u32) })
    }

    fn register(&self, name: &str) -> Result<Reg, Error> {
        let line = self.peek().line;
        self.scopes.register(name).ok_or_else(|| Error::new(line, format!("{name} is not a register here")))
    }

    fn operand(&mut self, branch: bool, depth: u32) -> Result<Operand, Error> {
        let token = self.peek();
        if depth > MOST_NESTING {
            return Err(self.unexpected("a simpler operand"));
        }
        if self.eat("{") {
            return Ok(Operand::Vector(self.items("}", depth)?));
        }
        if self.eat("(") {
            return Ok(Operand::List(self.items(")", depth)?));
        }
        if self.eat("[") {
            return self.bracket(depth);
        }
        if self.eat("!") {
            let name = self.word()?;
            return Ok(Operand::Not(self.register(name)?));
        }
        if token.kind == Kind::Number || matches!(token.text, "-" | "+") {
            return self.number();
        }
        let name = self.word()?;
        if let Some(reg) = self.scopes.register(name) {
            if self.eat("|") {
                let second = self.operand(branch, depth + 1)?;
                return Ok(Operand::Pair(Box::new(Operand::Reg(reg)), Box::new(second)));
            }
            return Ok(Operand::Reg(reg));
        }
        match name {
            "_" if self.eat("|") => {
                let second = self.operand(branch, depth + 1)?;
                Ok(Operand::Pair(Box::new(Operand::Sink), Box::new(second)))
            }
            "_" => Ok(Operand::Sink),
            "WARP_SZ" => Ok(Operand::Int(32)),
            _ if name.starts_with('%') => Ok(Operand::Special(name.to_string())),
            _ if branch => Ok(Operand::Label(self.scopes.refer(name, token.line))),
            _ => {
                let offset = self.offset()?;
                Ok(Operand::Symbol(self.scopes.find(name), offset))
            }
        }
    }

    fn items(&mut self, end: &str, depth: u32) -> Result<Vec<Operand>, Error> {
        let mut items = Vec::new();
        while !self.eat(end) {
            items.push(self.operand(false, depth + 1)?);
            if !self.eat(",") && self.peek().text != end {
                return Err(self.unexpected("a , between operands"));
            }
        }
        Ok(items)
    }

    fn number(&mut self) -> Result<Operand, Error> {
        let negative = self.eat("-");
        if !negative {
            self.eat("+");
        }
        let token = self.next();
        let value = literal(token.text).filter(|_| token.kind == Kind::Number);
        let value = value.ok_or_else(|| Error::new(token.line, format!("{} is not a number", token.text)))?;
        Ok(match value {
            Literal::Int(v) => Operand::Int(if negative { v.wrapping_neg() } else { v } as i64),
            Literal::F32(bits) => Operand::F32(bits ^ (u32::from(negative) << 31)),
            Literal::F64(bits) => Operand::F64(bits ^ (u64::from(negative) << 63)),
        })
    }

    /// `+4`, `+-4`, `-4` or nothing.
    fn offset(&mut self) -> Result<i64, Error> {
        if !matches!(self.peek().text, "+" | "-") {
            return Ok(0);
        }
        self.eat("+");
        let line = self.peek().line;
        match self.number()? {
            Operand::Int(v) => Ok(v),
            _ => Err(Error::new(line, "an offset that is not an integer")),
        }
    }

    /// Behind `[`: an address, or the coordinate form `[address, {c0, c1}]` of tensor copies.
    fn bracket(&mut self, depth: u32) -> Result<Operand, Error> {
        let token = self.peek();
        let base = if token.kind == Kind::Word {
            self.next();
            match self.scopes.register(token.text) {
                Some(reg) => Base::Reg(reg),
                None => Base::Symbol(self.scopes.find(token.text)),
            }
        } else {
            Base::None
        };
        let offset = match (&base, token.kind) {
            (Base::None, Kind::Number) => match self.number()? {
                Operand::Int(v) => v,
                _ => return Err(Error::new(token.line, "an address that is not an integer")),
            },
            _ => self.offset()?,
        };
        let address = Operand::Address(Address { base, offset });
        if self.eat("]") {
            return Ok(address);
        }
        self.expect(",")?;
        let mut items = vec![address];
        items.extend(self.items("]", depth)?);
        Ok(Operand::List(items))
    }

    /// Replaces reference numbers by what the labels stand for.
    fn resolve(&mut self, f: &mut Function) -> Result<(), Error> {
        let targets = std::mem::take(&mut self.scopes.targets);
        let find = |reference: u32| targets.get(reference as usize).copied().flatten();
        for statement in &mut f.statements {
            for operand in &mut statement.operands {
                let Operand::Label(reference) = operand else { continue };
                *operand = match find(*reference) {
                    Some(Target::Statement(index)) => Operand::Label(index),
                    Some(Target::Table(index)) => Operand::Table(index),
                    None => return Err(Error::new(statement.line, "an unknown label")),
                };
            }
        }
        for target in f.tables.iter_mut().flatten() {
            match find(*target) {
                Some(Target::Statement(index)) => *target = index,
                _ => return Err(Error::new(0, "a branch target that is not a label")),
            }
        }
        Ok(())
    }
}
