//! The text of `printf`: conversions as C has them, arguments as the compiler lays them out.

use std::ffi::{CString, c_int};

/// Widths and precisions beyond this are refused: a broken format must not fill the host's memory.
const WIDEST: usize = 4096;

/// Where a conversion gets its arguments: each lies at the next multiple of its size.
pub trait Arguments {
    /// The next four bytes.
    fn word(&mut self) -> Result<u32, String>;
    /// The next eight bytes.
    fn long(&mut self) -> Result<u64, String>;
    /// The text at an address, without its NUL.
    fn text(&mut self, address: u64) -> Result<Vec<u8>, String>;
}

/// The letters that a conversion ends with, by the argument it takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Word,
    Long,
    Double,
    Text,
}

/// Appends the formatted text; the answer is the number of arguments taken.
pub fn format(format: &[u8], arguments: &mut impl Arguments, out: &mut Vec<u8>) -> Result<u32, String> {
    let mut taken = 0;
    let mut rest = format;
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first != b'%' {
            out.push(first);
            continue;
        }
        if let [b'%', tail @ ..] = rest {
            out.push(b'%');
            rest = tail;
            continue;
        }
        let mut spec = vec![b'%'];
        while let [flag @ (b'-' | b'+' | b' ' | b'#' | b'0'), tail @ ..] = rest {
            spec.push(*flag);
            rest = tail;
        }
        number(&mut rest, arguments, &mut spec, &mut taken)?;
        if let [b'.', tail @ ..] = rest {
            spec.push(b'.');
            rest = tail;
            number(&mut rest, arguments, &mut spec, &mut taken)?;
        }
        let mut size = Vec::new();
        while let [letter @ (b'h' | b'l' | b'z' | b'j' | b't'), tail @ ..] = rest {
            size.push(*letter);
            rest = tail;
        }
        let [letter, tail @ ..] = rest else { return Err("printf: the format ends within a conversion".into()) };
        rest = tail;
        let takes = takes(&size, *letter);
        let takes = takes.ok_or_else(|| {
            let (size, letter) = (String::from_utf8_lossy(&size).into_owned(), char::from(*letter).escape_default());
            format!("printf: the conversion %{size}{letter} is not implemented")
        })?;
        spec.extend(size.iter().chain([letter]));
        taken += 1;
        convert(spec, takes, arguments, out)?;
    }
    Ok(taken)
}

/// A width or precision: digits, or a star for an argument.
fn number(rest: &mut &[u8], arguments: &mut impl Arguments, spec: &mut Vec<u8>, taken: &mut u32) -> Result<(), String> {
    if let [b'*', tail @ ..] = *rest {
        *rest = tail;
        *taken += 1;
        let value = arguments.word()? as i32;
        if value.unsigned_abs() as usize > WIDEST {
            return Err(format!("printf: a width of {value}"));
        }
        spec.extend(value.to_string().bytes());
        return Ok(());
    }
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (width, tail) = rest.split_at(digits);
    *rest = tail;
    let value = std::str::from_utf8(width).ok().filter(|text| !text.is_empty()).map(str::parse::<usize>);
    if value.is_some_and(|value| value.map_or(true, |value| value > WIDEST)) {
        return Err(format!("printf: a width of {}", String::from_utf8_lossy(width)));
    }
    spec.extend(width);
    Ok(())
}

fn takes(size: &[u8], letter: u8) -> Option<Takes> {
    Some(match (size, letter) {
        (b"" | b"h" | b"hh", b'd' | b'i' | b'u' | b'x' | b'X' | b'o') | (b"", b'c') => Takes::Word,
        (b"l" | b"ll" | b"z" | b"j" | b"t", b'd' | b'i' | b'u' | b'x' | b'X' | b'o') | (b"", b'p') => Takes::Long,
        (b"" | b"l", b'f' | b'F' | b'e' | b'E' | b'g' | b'G' | b'a' | b'A') => Takes::Double,
        (b"", b's') => Takes::Text,
        _ => return None,
    })
}

fn convert(spec: Vec<u8>, takes: Takes, arguments: &mut impl Arguments, out: &mut Vec<u8>) -> Result<(), String> {
    let spec = CString::new(spec).map_err(|_| "printf: a NUL in a conversion")?;
    // Large enough for every conversion: `WIDEST`, or the 309 digits of a double before its point, and the rest.
    let mut buffer = vec![0u8; 2 * WIDEST + 512];
    let (to, room) = (buffer.as_mut_ptr().cast(), buffer.len());
    let length = match takes {
        Takes::Word => {
            let value = arguments.word()?;
            // SAFETY: `room` bytes may be written; `takes` saw that the conversion takes one `int`.
            unsafe { libc::snprintf(to, room, spec.as_ptr(), value as c_int) }
        }
        Takes::Long => {
            let value = arguments.long()?;
            // SAFETY: as above, with a `long`, or a pointer of the same size that is only printed.
            unsafe { libc::snprintf(to, room, spec.as_ptr(), value) }
        }
        Takes::Double => {
            let value = f64::from_bits(arguments.long()?);
            // SAFETY: as above, with a `double`.
            unsafe { libc::snprintf(to, room, spec.as_ptr(), value) }
        }
        Takes::Text => {
            let address = arguments.long()?;
            let text = CString::new(arguments.text(address)?).map_err(|_| "printf: a NUL in a text")?;
            buffer.resize(buffer.len() + text.as_bytes().len(), 0);
            // SAFETY: as many bytes may be written as the buffer has; `takes` saw that the conversion takes a text,
            // which ends with a NUL.
            unsafe { libc::snprintf(buffer.as_mut_ptr().cast(), buffer.len(), spec.as_ptr(), text.as_ptr()) }
        }
    };
    let length = usize::try_from(length).map_err(|_| "printf: a conversion that the host cannot format")?;
    out.extend(&buffer[..length.min(buffer.len() - 1)]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values as bytes, each at the next multiple of its size.
    #[derive(Default)]
    struct Buffer {
        bytes: Vec<u8>,
        at: usize,
    }

    impl Buffer {
        fn with(mut self, value: &[u8]) -> Buffer {
            self.bytes.resize(self.bytes.len().next_multiple_of(value.len()), 0xEE);
            self.bytes.extend(value);
            self
        }
        fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
            let at = self.at.next_multiple_of(N);
            self.at = at + N;
            self.bytes.get(at..at + N).map(|bytes| bytes.try_into().unwrap()).ok_or("no more arguments".into())
        }
    }

    impl Arguments for Buffer {
        fn word(&mut self) -> Result<u32, String> {
            self.take().map(u32::from_le_bytes)
        }
        fn long(&mut self) -> Result<u64, String> {
            self.take().map(u64::from_le_bytes)
        }
        fn text(&mut self, address: u64) -> Result<Vec<u8>, String> {
            Ok(format!("<{address}>").into_bytes())
        }
    }

    fn formatted(text: &str, mut arguments: Buffer) -> Result<(String, u32), String> {
        let mut out = Vec::new();
        let taken = format(text.as_bytes(), &mut arguments, &mut out)?;
        Ok((String::from_utf8(out).unwrap(), taken))
    }

    #[test]
    fn conversions_are_those_of_c() {
        let arguments = Buffer::default()
            .with(&(-7i32).to_le_bytes())
            .with(&u64::MAX.to_le_bytes())
            .with(&65u32.to_le_bytes())
            .with(&1.5f64.to_le_bytes())
            .with(&1e-9f64.to_le_bytes())
            .with(&(-0.0f64).to_le_bytes())
            .with(&9u64.to_le_bytes())
            .with(&0xabcu64.to_le_bytes());
        let (text, taken) = formatted("%+05d|%llx|%c|%8.3f|%e|%g|%-5s|%p|100%%\n", arguments).unwrap();
        assert_eq!(text, "-0007|ffffffffffffffff|A|   1.500|1.000000e-09|-0|<9>  |0xabc|100%\n");
        assert_eq!(taken, 8);
    }

    #[test]
    fn widths_come_from_arguments_too() {
        let arguments =
            Buffer::default().with(&6i32.to_le_bytes()).with(&2i32.to_le_bytes()).with(&2.5f64.to_le_bytes());
        assert_eq!(formatted("%*.*f", arguments).unwrap(), ("  2.50".into(), 3));
    }

    #[test]
    fn broken_formats_are_named() {
        for (text, why) in [
            ("%n", "conversion %n is not implemented"),
            ("%Lf", "conversion %L is not implemented"),
            ("%99999d", "a width of 99999"),
            ("%5", "ends within a conversion"),
            ("%d", "no more arguments"),
        ] {
            let error = formatted(text, Buffer::default()).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
