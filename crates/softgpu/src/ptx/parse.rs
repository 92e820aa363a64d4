//! The module level: directives, variables and function headers.

use std::collections::HashMap;
use std::sync::Arc;

use super::lexer::{Kind, Lexer, Literal, Token, literal};
use super::scope::Scopes;
use super::{Error, Function, Location, Module, Type, Variable, VariableSpace};

/// Reads a module. Names are resolved and nothing is interpreted: an opcode that does not exist parses.
pub fn parse(text: &str) -> Result<Module, Error> {
    if text.len() >= u32::MAX as usize {
        return Err(Error::new(1, "more than 4 GiB of text"));
    }
    let mut lexer = Lexer::new(text);
    let ahead = [lexer.token(), lexer.token()];
    let mut parser =
        Parser { lexer, ahead, end: 0, scopes: Scopes::new(), named_places: HashMap::new(), opcodes: HashMap::new() };
    let mut module = Module {
        source: String::new(),
        version: (0, 0),
        target: String::new(),
        files: HashMap::new(),
        variables: Vec::new(),
        shared: Vec::new(),
        functions: Vec::new(),
    };
    let parsed = parser.module(&mut module);
    // What stopped the lexer explains better what is wrong than the end that the parser then saw.
    parser.lexer.error.take().map_or(parsed, Err)?;
    module.source = text.to_string();
    Ok(module)
}

pub(super) struct Parser<'t> {
    lexer: Lexer<'t>,
    /// The next two tokens.
    ahead: [Token<'t>; 2],
    /// Where the last token taken ends.
    pub end: usize,
    pub scopes: Scopes,
    /// The latest place of the function with this file, line and column: what `inlined_at` refers to.
    pub named_places: HashMap<(u32, u32, u32), super::Place>,
    /// Each opcode once: a module has hundreds of thousands of statements and some hundred opcodes.
    pub opcodes: HashMap<&'t str, Arc<str>>,
}

impl<'t> Parser<'t> {
    pub fn peek(&self) -> Token<'t> {
        self.ahead[0]
    }

    /// The token behind the next one.
    pub fn peek_second(&self) -> Token<'t> {
        self.ahead[1]
    }

    pub fn next(&mut self) -> Token<'t> {
        let token = self.ahead[0];
        self.end = token.at + token.text.len();
        self.ahead = [self.ahead[1], self.lexer.token()];
        token
    }

    /// Takes the next token if it is this mark or word.
    pub fn eat(&mut self, text: &str) -> bool {
        let hit = self.peek().text == text && self.peek().kind != Kind::End;
        if hit {
            self.next();
        }
        hit
    }

    pub fn expect(&mut self, text: &str) -> Result<(), Error> {
        if self.eat(text) { Ok(()) } else { Err(self.unexpected(text)) }
    }

    pub fn unexpected(&self, wanted: &str) -> Error {
        let token = self.peek();
        let got = if token.kind == Kind::End { "the end of the text" } else { token.text };
        Error::new(token.line, format!("{got} where {wanted} is expected"))
    }

    pub fn word(&mut self) -> Result<&'t str, Error> {
        if self.peek().kind == Kind::Word { Ok(self.next().text) } else { Err(self.unexpected("a name")) }
    }

    pub fn integer(&mut self) -> Result<u64, Error> {
        match literal(self.peek().text).filter(|_| self.peek().kind == Kind::Number) {
            Some(Literal::Int(v)) => {
                self.next();
                Ok(v)
            }
            _ => Err(self.unexpected("an integer")),
        }
    }

    fn small(&mut self) -> Result<u32, Error> {
        let line = self.peek().line;
        u32::try_from(self.integer()?).map_err(|_| Error::new(line, "a number beyond 32 bits"))
    }

    fn module(&mut self, module: &mut Module) -> Result<(), Error> {
        let (mut external, mut linked) = (false, false);
        loop {
            let token = self.next();
            let space = match token.text {
                _ if token.kind == Kind::End => break,
                ".version" => {
                    let number = self.next();
                    let parts = number.text.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
                    module.version = parts.ok_or_else(|| Error::new(number.line, "a version that is not like 9.0"))?;
                    continue;
                }
                ".target" => {
                    module.target = self.word()?.to_string();
                    while self.eat(",") {
                        self.word()?;
                    }
                    continue;
                }
                ".address_size" => {
                    if self.integer()? != 64 {
                        return Err(Error::new(token.line, "addresses are not of 64 bits"));
                    }
                    continue;
                }
                ".file" => {
                    let number = self.small()?;
                    let name = self.next();
                    module.files.insert(number, name.text.trim_matches('"').to_string());
                    while self.eat(",") {
                        self.integer()?;
                    }
                    continue;
                }
                ".section" => {
                    self.word()?;
                    self.skip_braces()?;
                    continue;
                }
                ".pragma" => {
                    self.skip_to_semicolon()?;
                    continue;
                }
                ".visible" | ".weak" | ".common" => {
                    linked = true;
                    continue;
                }
                ".extern" => {
                    (external, linked) = (true, true);
                    continue;
                }
                ".entry" | ".func" => {
                    let function = self.function(token.text == ".entry")?;
                    add(&mut module.functions, function, token.line)?;
                    (external, linked) = (false, false);
                    continue;
                }
                ".global" => VariableSpace::Global,
                ".const" => VariableSpace::Const,
                ".shared" => VariableSpace::Shared,
                other => return Err(Error::new(token.line, format!("{other} is not understood at module scope"))),
            };
            let variable = self.variable(space, external)?;
            let list = if space == VariableSpace::Shared { &mut module.shared } else { &mut module.variables };
            list.push(variable);
            self.expect(";")?;
            (external, linked) = (false, false);
        }
        if linked {
            return Err(self.unexpected("a declaration"));
        }
        if module.version == (0, 0) {
            return Err(Error::new(1, "no .version"));
        }
        Ok(())
    }

    /// Skips `{...}` with everything in it.
    fn skip_braces(&mut self) -> Result<(), Error> {
        self.expect("{")?;
        let mut depth = 1;
        while depth > 0 {
            let token = self.next();
            match token.text {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ if token.kind == Kind::End => return Err(self.unexpected("a }")),
                _ => {}
            }
        }
        Ok(())
    }

    pub fn skip_to_semicolon(&mut self) -> Result<(), Error> {
        while !self.eat(";") {
            if self.next().kind == Kind::End {
                return Err(self.unexpected("a ;"));
            }
        }
        Ok(())
    }

    fn function(&mut self, entry: bool) -> Result<Function, Error> {
        let mut f = Function {
            name: String::new(),
            entry,
            defined: false,
            params: Vec::new(),
            results: Vec::new(),
            register_params: false,
            prototypes: Vec::new(),
            regs: Vec::new(),
            statements: Vec::new(),
            places: vec![Location { file: 0, line: 0, column: 0, inlined_at: None }],
            variables: Vec::new(),
            tables: Vec::new(),
            max_threads: None,
            required_threads: None,
            min_blocks: None,
            max_registers: None,
            cluster: None,
        };
        self.scopes = Scopes::new();
        self.named_places.clear();
        if self.peek().text == "(" {
            (f.results, f.register_params) = self.params()?;
        }
        f.name = self.word()?.to_string();
        if self.peek().text == "(" {
            let (params, registers) = self.params()?;
            f.params = params;
            f.register_params |= registers;
        }
        for variable in f.params.iter().chain(&f.results) {
            self.scopes.name(&variable.name);
        }
        loop {
            let token = self.next();
            match token.text {
                ".maxntid" => f.max_threads = Some(self.triple()?),
                ".reqntid" => f.required_threads = Some(self.triple()?),
                ".reqnctapercluster" => f.cluster = Some(self.triple()?),
                ".explicitcluster" => f.cluster = f.cluster.or(Some([0; 3])),
                ".maxclusterrank" => {
                    self.integer()?;
                }
                ".minnctapersm" => f.min_blocks = Some(self.small()?),
                ".maxnreg" => f.max_registers = Some(self.small()?),
                ".pragma" => self.skip_to_semicolon()?,
                ".noreturn" => {}
                ";" => return Ok(f),
                "{" => break,
                other => return Err(Error::new(token.line, format!("{other} is not understood in a function header"))),
            }
        }
        f.defined = true;
        self.body(&mut f)?;
        Ok(f)
    }

    /// One to three numbers; those left out are 1.
    fn triple(&mut self) -> Result<[u32; 3], Error> {
        let mut n = [self.small()?, 1, 1];
        for part in &mut n[1..] {
            if !self.eat(",") {
                break;
            }
            *part = self.small()?;
        }
        Ok(n)
    }

    /// `(.param .u32 a, .param .align 8 .b8 b[16])`, or `.reg` parameters of device functions.
    /// The answer says whether there were any of the latter.
    pub(super) fn params(&mut self) -> Result<(Vec<Variable>, bool), Error> {
        self.expect("(")?;
        let (mut params, mut registers) = (Vec::new(), false);
        while !self.eat(")") {
            let line = self.peek().line;
            match self.word()? {
                ".param" => params.push(self.variable(VariableSpace::Param, false)?),
                ".reg" => {
                    let word = self.word()?;
                    let ty = word.strip_prefix('.').and_then(Type::parse);
                    let ty = ty.ok_or_else(|| Error::new(line, format!("a parameter of type {word}")))?;
                    let name = self.word()?;
                    self.scopes.declare(name, None, ty, line)?;
                    registers = true;
                }
                other => return Err(Error::new(line, format!("{other} is not understood in a parameter list"))),
            }
            if !self.eat(",") && self.peek().text != ")" {
                return Err(self.unexpected("a , or )"));
            }
        }
        Ok((params, registers))
    }
}

/// Adds a function: a definition replaces its own declaration, and nothing else.
fn add(functions: &mut Vec<Function>, function: Function, line: u32) -> Result<(), Error> {
    match functions.iter_mut().find(|f| f.name == function.name) {
        None => functions.push(function),
        Some(old) if !old.defined => *old = function,
        Some(_) if !function.defined => {}
        Some(_) => return Err(Error::new(line, format!("{} is defined twice", function.name))),
    }
    Ok(())
}
