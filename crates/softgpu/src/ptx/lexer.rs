//! Text to tokens. A token is a slice of the text and its line.

use super::Error;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A name, directive or dotted opcode: `%tid.x`, `.reg`, `ld.global.L2::128B.f32`.
    Word,
    /// A literal, without its sign.
    Number,
    /// `"..."`, quotes included.
    Text,
    /// One character of punctuation.
    Mark,
    /// After the last token.
    End,
}

/// One token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'t> {
    pub kind: Kind,
    pub text: &'t str,
    /// Byte offset of the token in the text.
    pub at: usize,
    /// Line, from 1.
    pub line: u32,
}

/// Splits text into tokens; comments and white space vanish.
pub(super) struct Lexer<'t> {
    text: &'t str,
    at: usize,
    line: u32,
    /// What stopped it before the end of the text.
    pub error: Option<Error>,
}

impl<'t> Lexer<'t> {
    pub fn new(text: &'t str) -> Lexer<'t> {
        Lexer { text, at: 0, line: 1, error: None }
    }

    /// The next token; [`Kind::End`] for ever after the last one or an error.
    pub fn token(&mut self) -> Token<'t> {
        match self.scan() {
            Ok(token) => token,
            Err(error) => {
                self.error.get_or_insert(error);
                self.at = self.text.len();
                self.end()
            }
        }
    }

    fn end(&self) -> Token<'t> {
        Token { kind: Kind::End, text: "", at: self.text.len(), line: self.line }
    }

    fn scan(&mut self) -> Result<Token<'t>, Error> {
        let bytes = self.text.as_bytes();
        let wrong = |line, why: &str| Error::new(line, why);
        while let Some(first) = bytes.get(self.at) {
            let (start, line) = (self.at, self.line);
            let (kind, end) = match *first {
                b'\n' => {
                    self.line += 1;
                    self.at += 1;
                    continue;
                }
                // A driver reads PTX as a C string: what follows a NUL is not part of it.
                0 => break,
                b' ' | b'\t' | b'\r' | 0x0b | 0x0c => {
                    self.at += 1;
                    continue;
                }
                b'/' if bytes.get(start + 1) == Some(&b'/') => {
                    self.at = bytes[start..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |n| start + n);
                    continue;
                }
                b'/' if bytes.get(start + 1) == Some(&b'*') => {
                    let end = self.text[start + 2..].find("*/").map(|n| start + n + 4);
                    self.at = end.ok_or_else(|| wrong(line, "a comment that does not end"))?;
                    self.line += bytes[start..self.at].iter().filter(|b| **b == b'\n').count() as u32;
                    continue;
                }
                b'"' => {
                    let body = &bytes[start + 1..];
                    let end = body.iter().position(|b| *b == b'"' || *b == b'\n').filter(|n| body[*n] == b'"');
                    let end = end.ok_or_else(|| wrong(line, "a string that does not end"))?;
                    (Kind::Text, start + end + 2)
                }
                b'0'..=b'9' => (Kind::Number, number_end(bytes, start)),
                // A directive ends at the next dot: inline asm writes `.reg.b32`.
                b'.' => (
                    Kind::Word,
                    bytes[start + 1..].iter().position(|b| !is_word(*b)).map_or(bytes.len(), |n| start + 1 + n),
                ),
                b if is_word(b) || b == b'%' => (Kind::Word, word_end(bytes, start + 1)),
                b if b.is_ascii_punctuation() => (Kind::Mark, start + 1),
                _ => return Err(wrong(line, "a character that is not ASCII text")),
            };
            self.at = end;
            return Ok(Token { kind, text: &self.text[start..end], at: start, line });
        }
        self.at = bytes.len();
        Ok(self.end())
    }
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$')
}

/// Words go on through dots (opcodes, `%tid.x`) and double colons (`L2::128B`), not through a label's single colon.
fn word_end(bytes: &[u8], mut i: usize) -> usize {
    loop {
        match bytes.get(i) {
            Some(b) if is_word(*b) || *b == b'.' => i += 1,
            Some(b':') if bytes.get(i + 1) == Some(&b':') && bytes.get(i + 2).is_some_and(|b| is_word(*b)) => i += 2,
            _ => return i,
        }
    }
}

/// Digits, hexadecimal, `0f` and `0d` bit patterns, decimal floats with an exponent.
fn number_end(bytes: &[u8], mut i: usize) -> usize {
    let start = i;
    loop {
        match bytes.get(i) {
            Some(b) if is_word(*b) || *b == b'.' => i += 1,
            // The sign of a decimal exponent: 1.5e-3, but neither 0x1e-3 nor 0f3F80000e-...
            Some(b'+' | b'-')
                if matches!(bytes[i - 1], b'e' | b'E')
                    && !matches!(bytes.get(start + 1), Some(b'x' | b'X' | b'f' | b'F' | b'd' | b'D')) =>
            {
                i += 1;
            }
            _ => return i,
        }
    }
}

/// The value of a literal, positive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Literal {
    Int(u64),
    F32(u32),
    F64(u64),
}

/// Reads a [`Kind::Number`].
pub(super) fn literal(text: &str) -> Option<Literal> {
    // Nearly all literals are short decimal numbers.
    if text.len() < 10 && !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().ok().map(Literal::Int);
    }
    let lower = text.to_ascii_lowercase();
    if let Some(hex) = lower.strip_prefix("0f") {
        return (hex.len() == 8).then(|| u32::from_str_radix(hex, 16).ok().map(Literal::F32)).flatten();
    }
    if let Some(hex) = lower.strip_prefix("0d") {
        return (hex.len() == 16).then(|| u64::from_str_radix(hex, 16).ok().map(Literal::F64)).flatten();
    }
    if !lower.starts_with("0x") && (lower.contains('.') || lower.contains('e')) {
        return lower.parse::<f64>().ok().map(|v| Literal::F64(v.to_bits()));
    }
    let digits = lower.strip_suffix('u').unwrap_or(&lower);
    let value = if let Some(hex) = digits.strip_prefix("0x") {
        u64::from_str_radix(hex, 16)
    } else if let Some(binary) = digits.strip_prefix("0b") {
        u64::from_str_radix(binary, 2)
    } else if digits.len() > 1 && digits.starts_with('0') {
        u64::from_str_radix(&digits[1..], 8)
    } else {
        digits.parse()
    };
    value.ok().map(Literal::Int)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(source: &str) -> Result<Vec<Token<'_>>, Error> {
        let mut lexer = Lexer::new(source);
        let tokens = std::iter::from_fn(|| Some(lexer.token()).filter(|t| t.kind != Kind::End)).collect();
        lexer.error.map_or(Ok(tokens), Err)
    }

    fn texts(source: &str) -> Vec<&str> {
        tokens(source).unwrap().iter().map(|t| t.text).collect()
    }

    #[test]
    fn words_marks_and_comments() {
        assert_eq!(
            texts("$L__BB0_3: // x\n@%p1 ld.global.L2::128B.f32 %f1, [%rd1+-4]; /* y\n*/ %tid.x"),
            [
                "$L__BB0_3",
                ":",
                "@",
                "%p1",
                "ld.global.L2::128B.f32",
                "%f1",
                ",",
                "[",
                "%rd1",
                "+",
                "-",
                "4",
                "]",
                ";",
                "%tid.x"
            ]
        );
        assert_eq!(tokens("a /* \n */\n b").unwrap()[1].line, 3);
        assert_eq!(texts("a\0b"), ["a"]);
    }

    #[test]
    fn literals() {
        assert_eq!(literal("0f3F800000"), Some(Literal::F32(0x3f80_0000)));
        assert_eq!(literal("0D3ff0000000000000"), Some(Literal::F64(1f64.to_bits())));
        assert_eq!(literal("0xFFFFFFFFFFFFFFFF"), Some(Literal::Int(u64::MAX)));
        assert_eq!(literal("0x1e"), Some(Literal::Int(30)));
        assert_eq!(literal("017"), Some(Literal::Int(15)));
        assert_eq!(literal("42U"), Some(Literal::Int(42)));
        assert_eq!(literal("1.5e-3"), Some(Literal::F64(0.0015f64.to_bits())));
        assert_eq!(literal("0f3F8"), None);
        assert_eq!(literal("99999999999999999999"), None);
        assert_eq!(literal("1z"), None);
    }

    #[test]
    fn broken_text_is_an_error() {
        for source in ["/* never", "\"never", "\"never\n\"", "\u{e9}"] {
            assert!(tokens(source).is_err(), "{source:?}");
        }
    }
}
