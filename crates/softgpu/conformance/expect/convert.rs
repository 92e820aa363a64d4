//! Conversions.

use super::super::form::Form;
use super::round::{BF16, F16, F32, Format, Mode, TF32, round_one, two_sum};
use super::{Expect, clamp, half, integer, number, wrap};

fn format(name: &str) -> Option<Format> {
    Some(match name {
        "f16" | "f16x2" => F16,
        "bf16" | "bf16x2" => BF16,
        "tf32" => TF32,
        "f32" => F32,
        _ => return None,
    })
}

/// What the destination must hold.
pub fn expect(form: &Form, x: &[u64]) -> Option<Expect> {
    if form.op != "cvt" {
        return None;
    }
    if form.has("pack") {
        return pack(form, x).map(Expect::Bits);
    }
    let [.., to, from] = form.mods.as_slice() else { return None };
    let mode = form.mods.iter().find_map(|name| Mode::parse(name)).unwrap_or(Mode::Nearest);
    if to.ends_with("x2") {
        // The first source goes to the upper half.
        let (high, low) = (narrow(form, x[0], format(to)?, mode), narrow(form, x[1], format(to)?, mode));
        return Some(Expect::Bits(high << 16 | low));
    }
    match (integer(to), integer(from)) {
        (Some((to_bits, to_signed)), Some((from_bits, from_signed))) => {
            let value = number(x[0], from_bits, from_signed);
            let value = if form.has("sat") { clamp(value, to_bits, to_signed) } else { value };
            // A register wider than the type takes its sign.
            let register = register_bits(form);
            let value = number(wrap(value, to_bits), to_bits, to_signed);
            Some(Expect::Bits(wrap(value, register)))
        }
        (Some((bits, signed)), None) => Some(Expect::Bits(to_integer(form, x[0], from, bits, signed, mode))),
        (None, Some((bits, signed))) => from_integer(form, number(x[0], bits, signed), to, mode),
        (None, None) => between_floats(form, x[0], from, to, mode),
    }
}

fn register_bits(form: &Form) -> u32 {
    match form.outs[0].class.as_str() {
        "h" => 16,
        "r" | "f" => 32,
        _ => 64,
    }
}

fn value(form: &Form, bits: u64, ty: &str) -> f64 {
    match ty {
        "f16" => half::f16(bits),
        "bf16" => half::bf16(bits),
        "f64" => f64::from_bits(bits),
        _ => {
            let value = f32::from_bits(bits as u32);
            f64::from(if form.has("ftz") && value.is_subnormal() { 0f32.copysign(value) } else { value })
        }
    }
}

fn integral(value: f64, mode: Mode) -> f64 {
    match mode {
        Mode::Nearest | Mode::Away => value.round_ties_even(),
        Mode::Zero => value.trunc(),
        Mode::Down => value.floor(),
        Mode::Up => value.ceil(),
    }
}

fn to_integer(form: &Form, bits: u64, from: &str, to_bits: u32, signed: bool, mode: Mode) -> u64 {
    let value = integral(value(form, bits, from), mode);
    if value.is_nan() {
        // Zero, but the top bit where 64 bits take part.
        return if from == "f64" || to_bits == 64 { 1 << (to_bits - 1) } else { 0 };
    }
    // Casts to 128 bits saturate far beyond any type's range.
    let whole = clamp(value as i128, to_bits, signed);
    wrap(whole, to_bits)
}

fn from_integer(form: &Form, whole: i128, to: &str, mode: Mode) -> Option<Expect> {
    if whole == 0 {
        return Some(Expect::Bits(0));
    }
    let high = whole as f64;
    let exact = two_sum(high, (whole - high as i128) as f64);
    if to == "f64" {
        let rest = whole - high as i128;
        let value = match mode {
            Mode::Zero if rest != 0 && (rest < 0) == (whole > 0) => {
                if whole > 0 {
                    high.next_down()
                } else {
                    high.next_up()
                }
            }
            Mode::Down if rest < 0 => high.next_down(),
            Mode::Up if rest > 0 => high.next_up(),
            _ => high,
        };
        return Some(Expect::Bits(value.to_bits()));
    }
    let rounded = super::round::round(exact, format(to)?, mode);
    if form.has("sat") {
        return None;
    }
    Some(Expect::Bits(match to {
        "f32" => u64::from((rounded as f32).to_bits()),
        _ => half::bits_of(rounded, format(to)?),
    }))
}

/// An f32 to a shorter format.
fn narrow(form: &Form, bits: u64, format: Format, mode: Mode) -> u64 {
    let value = f64::from(f32::from_bits(bits as u32));
    let mut rounded = round_one(value, format, mode);
    if form.has("satfinite") && rounded.is_infinite() {
        rounded = format.max().copysign(rounded);
    }
    if form.has("relu") && !rounded.is_nan() {
        rounded = if rounded > 0.0 { rounded } else { 0.0 };
    }
    if format == TF32 { u64::from((rounded as f32).to_bits()) } else { half::bits_of(rounded, format) }
}

fn between_floats(form: &Form, bits: u64, from: &str, to: &str, mode: Mode) -> Option<Expect> {
    let value = value(form, bits, from);
    if to == "tf32" && value.is_nan() {
        return Some(Expect::Free);
    }
    if from == "f32" && (to == "f16" || to == "bf16" || to == "tf32") {
        return Some(Expect::Bits(narrow(form, bits, format(to)?, mode)));
    }
    let whole = form.mods.iter().any(|name| name.len() == 3 && name.ends_with('i') && Mode::parse(name).is_some());
    let value = if whole { integral(value, mode) } else { value };
    if to == "f64" {
        return Some(if value.is_nan() { Expect::Free } else { Expect::Bits(value.to_bits()) });
    }
    if to != "f32" {
        return Some(Expect::Bits(half::bits_of(value, format(to)?)));
    }
    if value.is_nan() {
        // A bf16 may keep its payload: it is the upper half of an f32.
        let open = if from == "bf16" { Expect::Free } else { Expect::Bits(0x7fff_ffff) };
        return Some(if form.has("sat") { Expect::Bits(0) } else { open });
    }
    let rounded = round_one(value, F32, mode) as f32;
    if form.has("ftz") && rounded.abs() == f32::MIN_POSITIVE {
        return Some(Expect::Free);
    }
    let rounded = if form.has("ftz") && rounded.is_subnormal() { 0f32.copysign(rounded) } else { rounded };
    let rounded = if form.has("sat") { if rounded > 0.0 { rounded.min(1.0) } else { 0.0 } } else { rounded };
    Some(Expect::Bits(u64::from(rounded.to_bits())))
}

fn pack(form: &Form, x: &[u64]) -> Option<u64> {
    let (bits, signed) = form.mods.iter().find_map(|name| integer(name))?;
    let one = |value: u64| wrap(clamp(number(value, 32, true), bits, signed), bits);
    let above = x.get(2).map_or(0, |c| c << (2 * bits));
    Some((one(x[1]) | one(x[0]) << bits | above) & 0xffff_ffff)
}
