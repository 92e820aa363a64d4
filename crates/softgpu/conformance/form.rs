//! A form as a program of one instruction: its registers, its inputs, its PTX.

use super::inputs;

/// A register of a form.
#[derive(Clone, Debug, PartialEq)]
pub struct Register {
    /// With its percent sign.
    pub name: String,
    /// `p`, `h`, `r`, `f`, `d` or `rd`.
    pub class: String,
}

/// A source operand.
#[derive(Clone, Debug)]
pub enum Source {
    /// The n-th input of a row, perhaps a negated predicate.
    Input(usize, bool),
    /// A literal.
    Literal(u64),
}

/// A statement, what it writes and what it reads.
pub struct Form {
    /// The statement.
    pub text: String,
    /// The opcode without its modifiers.
    pub op: String,
    /// The modifiers.
    pub mods: Vec<String>,
    /// Registers written.
    pub outs: Vec<Register>,
    /// Registers read.
    pub ins: Vec<Register>,
    /// Source operands in the order written.
    pub sources: Vec<Source>,
}

/// A register of the names that all programs declare.
pub fn register(name: &str) -> Option<Register> {
    let class: String = name.strip_prefix('%')?.chars().take_while(char::is_ascii_alphabetic).collect();
    ["p", "h", "r", "f", "d", "rd"].contains(&class.as_str()).then(|| Register { name: name.into(), class })
}

impl Form {
    /// A statement on registers and literals alone.
    pub fn parse(text: &str) -> Option<Form> {
        let statement = text.strip_suffix(';')?;
        let (opcode, operands) = statement.split_once(' ')?;
        let mut mods: Vec<String> = opcode.split('.').map(str::to_string).collect();
        let op = mods.remove(0);
        // The destination: one register, a pair, or a list.
        let (destination, rest) = if operands.starts_with('{') {
            let end = operands.find('}')? + 1;
            (&operands[..end], operands[end..].trim_start_matches(','))
        } else {
            operands.split_once(',')?
        };
        let split = |list: &str| -> Vec<String> {
            list.split([',', '|', '{', '}']).map(|item| item.trim().to_string()).filter(|i| !i.is_empty()).collect()
        };
        let outs = split(destination).iter().map(|name| register(name)).collect::<Option<Vec<_>>>()?;
        let (mut ins, mut sources): (Vec<Register>, Vec<Source>) = (Vec::new(), Vec::new());
        for item in split(rest) {
            let negated = item.starts_with('!');
            if let Some(register) = register(item.trim_start_matches('!')) {
                sources.push(Source::Input(ins.len(), negated));
                ins.push(register);
                continue;
            }
            let literal = match item.strip_prefix("0x") {
                Some(hex) => u64::from_str_radix(hex, 16).ok()?,
                None => item.parse::<i64>().ok()? as u64,
            };
            sources.push(Source::Literal(literal));
        }
        Some(Form { text: text.into(), op, mods, outs, ins, sources })
    }

    /// Whether a modifier is there.
    pub fn has(&self, name: &str) -> bool {
        self.mods.iter().any(|m| m == name)
    }

    /// The values of the source operands for a row of inputs.
    pub fn values(&self, row: &[u64]) -> Vec<u64> {
        let value = |source: &Source| match source {
            Source::Input(i, negated) => row[*i] ^ u64::from(*negated),
            Source::Literal(value) => *value,
        };
        self.sources.iter().map(value).collect()
    }

    /// Rows of inputs: every combination of edge values, then random ones.
    pub fn rows(&self) -> Vec<Vec<u64>> {
        inputs::rows(self)
    }

    /// The program: thread `i` reads column `i` of the inputs, 8 bytes each, and writes column `i` of the outputs.
    pub fn ptx(&self) -> String {
        let mut body = String::new();
        self.ins.iter().for_each(|register| body += &register.read());
        body += &format!("    {}\n", self.text);
        self.outs.iter().for_each(|register| body += &register.written());
        program(&body)
    }
}

impl Register {
    /// Statements that take it from the next column of inputs.
    pub fn read(&self) -> String {
        let Register { name, class } = self;
        let convert = match class.as_str() {
            "p" => format!("    setp.ne.u64 {name}, %x0, 0;\n"),
            "h" => format!("    cvt.u16.u64 {name}, %x0;\n"),
            "r" => format!("    cvt.u32.u64 {name}, %x0;\n"),
            "f" => format!("    cvt.u32.u64 %y0, %x0;\n    mov.b32 {name}, %y0;\n"),
            _ => format!("    mov.b64 {name}, %x0;\n"),
        };
        format!("    ld.global.u64 %x0, [%in];\n    add.u64 %in, %in, %step;\n{convert}")
    }

    /// Statements that write it to the next column of outputs.
    pub fn written(&self) -> String {
        let Register { name, class } = self;
        let convert = match class.as_str() {
            "p" => format!("    selp.u64 %x0, 1, 0, {name};\n"),
            "h" => format!("    cvt.u64.u16 %x0, {name};\n"),
            "r" => format!("    cvt.u64.u32 %x0, {name};\n"),
            "f" => format!("    mov.b32 %y0, {name};\n    cvt.u64.u32 %x0, %y0;\n"),
            _ => format!("    mov.b64 %x0, {name};\n"),
        };
        format!("{convert}    st.global.u64 [%out], %x0;\n    add.u64 %out, %out, %step;\n")
    }

    /// Its bits.
    pub fn bits(&self) -> u32 {
        match self.class.as_str() {
            "p" => 1,
            "h" => 16,
            "r" | "f" => 32,
            _ => 64,
        }
    }
}

/// A kernel `k(in, out, n)` around `body`, in which `%in` and `%out` point to the thread's first column and `%step` is
/// the distance of columns. Threads beyond `n` do nothing.
pub fn program(body: &str) -> String {
    format!(
        ".version 8.0
.target TARGET
.address_size 64
.visible .entry k(.param .u64 in, .param .u64 out, .param .u32 n)
{{
    .reg .pred %p<10>, %off;
    .reg .b16 %h<10>;
    .reg .b32 %r<12>, %y<2>, %i<4>, %n;
    .reg .f32 %f<10>;
    .reg .b64 %rd<12>, %x<2>, %in, %out, %step;
    .reg .f64 %d<10>;
    ld.param.u64 %in, [in];
    ld.param.u64 %out, [out];
    ld.param.u32 %n, [n];
    mov.u32 %i0, %ctaid.x;
    mov.u32 %i1, %ntid.x;
    mov.u32 %i2, %tid.x;
    mad.lo.u32 %i3, %i0, %i1, %i2;
    setp.ge.u32 %off, %i3, %n;
    @%off bra OUT;
    mul.wide.u32 %step, %n, 8;
    mad.wide.u32 %in, %i3, 8, %in;
    mad.wide.u32 %out, %i3, 8, %out;
{body}OUT:
    ret;
}}
"
    )
}
