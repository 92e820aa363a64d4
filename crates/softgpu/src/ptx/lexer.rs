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

/// Splits the text; comments and white space vanish.
pub(super) fn tokens(text: &str) -> Result<Vec<Token<'_>>, Error> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(text.len() / 4);
    let (mut i, mut line) = (0, 1u32);
    while i < bytes.len() {
        let (start, from) = (i, line);
        let kind = match bytes[i] {
            b'\n' => {
                line += 1;
                i += 1;
                continue;
            }
            // A driver reads PTX as a C string: what follows a NUL is not part of it.
            0 => break,
            b' ' | b'\t' | b'\r' | 0x0b | 0x0c => {
                i += 1;
                continue;
            }
            b'/' if bytes.get(i + 1) == Some(&b'/') => {
                i = bytes[i..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |n| i + n);
                continue;
            }
            b'/' if bytes.get(i + 1) == Some(&b'*') => {
                let end = text[i + 2..].find("*/").ok_or_else(|| Error::new(line, "a comment that does not end"))?;
                line += text[i..i + 2 + end].matches('\n').count() as u32;
                i += end + 4;
                continue;
            }
            b'"' => {
                let body = &bytes[i + 1..];
                let end = body.iter().position(|b| *b == b'"' || *b == b'\n').filter(|n| body[*n] == b'"');
                i += 2 + end.ok_or_else(|| Error::new(line, "a string that does not end"))?;
                Kind::Text
            }
            b'0'..=b'9' => {
                i = number_end(bytes, i);
                Kind::Number
            }
            b if is_word(b) || matches!(b, b'%' | b'.') => {
                i = word_end(bytes, i + 1);
                Kind::Word
            }
            b if b.is_ascii_punctuation() => {
                i += 1;
                Kind::Mark
            }
            _ => return Err(Error::new(line, "a character that is not ASCII text")),
        };
        out.push(Token { kind, text: &text[start..i], at: start, line: from });
    }
    out.push(Token { kind: Kind::End, text: "", at: text.len(), line });
    Ok(out)
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

    fn texts(source: &str) -> Vec<&str> {
        tokens(source).unwrap().iter().map(|t| t.text).filter(|t| !t.is_empty()).collect()
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
