//! Bit manipulation, one bit at a time.

use super::super::form::Form;
use super::{integer, wrap};

fn bit(value: u64, n: u64) -> u64 {
    if n < 64 { value >> n & 1 } else { 0 }
}

/// The word whose bit `n` is `f(n)`.
fn make(bits: u32, f: impl Fn(u64) -> u64) -> u64 {
    (0..u64::from(bits)).fold(0, |word, n| word | f(n) << n)
}

/// What the destination must hold.
pub fn expect(form: &Form, x: &[u64]) -> Option<u64> {
    let float = |name: &String| match name.as_str() {
        "f32" => Some((32, false)),
        "f64" => Some((64, false)),
        _ => None,
    };
    let (bits, signed) = form.mods.iter().rev().find_map(|name| integer(name).or_else(|| float(name)))?;
    let width = u64::from(bits);
    let ones = wrap(-1, bits);
    let fits = form.mods.len() == 1;
    Some(match form.op.as_str() {
        "and" if fits => x[0] & x[1],
        "or" if fits => x[0] | x[1],
        "xor" if fits => x[0] ^ x[1],
        "not" => !x[0] & ones,
        "cnot" => u64::from(x[0] == 0),
        "brev" => make(bits, |n| bit(x[0], width - 1 - n)),
        "clz" => (0..width).rev().take_while(|n| bit(x[0], *n) == 0).count() as u64,
        "popc" => (0..width).filter(|n| bit(x[0], *n) == 1).count() as u64,
        "shl" => make(bits, |n| if n >= x[1] { bit(x[0], n - x[1]) } else { 0 }),
        "shr" => {
            let sign = if signed { bit(x[0], width - 1) } else { 0 };
            make(bits, |n| if n + x[1] < width { bit(x[0], n + x[1]) } else { sign })
        }
        "shf" => {
            let count = if form.has("wrap") { x[2] & 31 } else { x[2].min(32) };
            let both = u128::from(x[1]) << 32 | u128::from(x[0]);
            (if form.has("l") { both << count >> 32 } else { both >> count }) as u64 & 0xffff_ffff
        }
        "lop3" => make(32, |n| x[3] >> (4 * bit(x[0], n) + 2 * bit(x[1], n) + bit(x[2], n)) & 1),
        "bfe" => {
            let (at, length) = (x[1] & 0xff, x[2] & 0xff);
            let fill = if signed && length > 0 { bit(x[0], (at + length - 1).min(width - 1)) } else { 0 };
            make(bits, |n| if n < length && at + n < width { bit(x[0], at + n) } else { fill })
        }
        "bfi" => {
            let (at, length) = (x[2] & 0xff, x[3] & 0xff);
            make(bits, |n| if n >= at && n < at + length { bit(x[0], n - at) } else { bit(x[1], n) })
        }
        "bfind" => {
            let value = if signed && bit(x[0], width - 1) == 1 { !x[0] } else { x[0] };
            match (0..width).rev().find(|n| bit(value, *n) == 1) {
                None => 0xffff_ffff,
                Some(n) if form.has("shiftamt") => width - 1 - n,
                Some(n) => n,
            }
        }
        "bmsk" => {
            let [at, length] = if form.has("wrap") { [x[0] & 31, x[1] & 31] } else { [x[0].min(32), x[1].min(32)] };
            make(32, |n| u64::from(n >= at && n < at + length))
        }
        "szext" => {
            let n = if form.has("wrap") { x[1] & 31 } else { x[1] };
            let sign = if signed && (1..=32).contains(&n) { bit(x[0], n - 1) } else { 0 };
            make(32, |at| if at < n { bit(x[0], at) } else { sign })
        }
        "fns" => nth(x),
        "prmt" => permute(form, x),
        "mov" if form.outs.len() == 1 && x.len() == 1 => x[0],
        "mov" if form.outs.len() == 1 => {
            let part = bits / x.len() as u32;
            x.iter().rev().fold(0, |word, value| word << part | value & wrap(-1, part))
        }
        "selp" => {
            if x[2] == 1 {
                x[0]
            } else {
                x[1]
            }
        }
        _ => return None,
    })
}

fn nth(x: &[u64]) -> u64 {
    let (base, n) = (x[1], x[2] as u32 as i32);
    let set = |at: &u64| bit(x[0], *at) == 1;
    let found = match n {
        _ if base > 31 => None,
        0 => Some(base).filter(set),
        1.. => (base..32).filter(set).nth(n as usize - 1),
        _ => (0..=base).rev().filter(set).nth(n.unsigned_abs() as usize - 1),
    };
    found.unwrap_or(0xffff_ffff)
}

fn permute(form: &Form, x: &[u64]) -> u64 {
    let bytes = x[1] << 32 | x[0];
    let s = x[2] & 3;
    let choose = |place: u64| -> u64 {
        match form.mods.last().map(String::as_str) {
            Some("f4e") => s + place,
            Some("b4e") => (s + 8 - place) & 7,
            Some("rc8") => s,
            Some("ecl") => place.max(s),
            Some("ecr") => place.min(s),
            Some("rc16") => place & 1 | (s & 1) << 1,
            _ => x[2] >> (4 * place) & 15,
        }
    };
    (0..4).fold(0, |word, place| {
        let selector = choose(place);
        let byte = bytes >> (8 * (selector & 7)) & 0xff;
        word | (if selector & 8 != 0 { 0xff * (byte >> 7) } else { byte }) << (8 * place)
    })
}
