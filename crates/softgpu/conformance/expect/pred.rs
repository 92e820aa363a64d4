//! Comparisons, tests and logic of predicates.

use super::super::form::Form;
use super::{Expect, half, integer, number};
use std::cmp::Ordering::{self, Equal, Greater, Less};

const COMPARISONS: [&str; 18] = [
    "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan",
];

/// What the destinations must hold.
pub fn expect(form: &Form, x: &[u64]) -> Option<Vec<Expect>> {
    let bits = |value: bool| Expect::Bits(u64::from(value));
    match form.op.as_str() {
        "and" | "or" | "xor" | "not" | "mov" if form.mods == ["pred"] => {
            let value = match form.op.as_str() {
                "and" => x[0] & x[1],
                "or" => x[0] | x[1],
                "xor" => x[0] ^ x[1],
                "not" => 1 - x[0],
                _ => x[0],
            };
            Some(vec![Expect::Bits(value)])
        }
        "testp" => Some(vec![bits(test(form, x[0]))]),
        "slct" => {
            let last = form.mods.last()?;
            // -0 and, flushed, the negative subnormals are not below zero; a NaN chooses the second.
            let first = match last.as_str() {
                "s32" => x[2] as u32 as i32 >= 0,
                _ => {
                    let value = f32::from_bits(x[2] as u32);
                    value >= 0.0 || form.has("ftz") && value.is_subnormal()
                }
            };
            Some(vec![Expect::Bits(if first { x[0] } else { x[1] })])
        }
        "mov" if form.outs.len() > 1 => {
            let part = 64 / form.outs.len() as u32 / if form.has("b32") { 2 } else { 1 };
            Some(
                (0..form.outs.len() as u32)
                    .map(|i| Expect::Bits(x[0] >> (part * i) & (u64::MAX >> (64 - part))))
                    .collect(),
            )
        }
        "setp" => {
            let (low, high) = compare(form, x)?;
            if form.outs.len() == 2 && packed(form) {
                return Some(vec![bits(low), bits(high)]);
            }
            let c = x.get(2).map(|c| *c == 1);
            let combine = |value: bool| match c {
                None => value,
                Some(c) if form.has("and") => value & c,
                Some(c) if form.has("or") => value | c,
                Some(c) => value ^ c,
            };
            // The second destination takes the opposite comparison, combined in the same way.
            let all = [bits(combine(low)), bits(combine(!low))];
            Some(all[..form.outs.len()].to_vec())
        }
        "set" => {
            let (low, high) = compare(form, x)?;
            let result = form.mods.iter().rev().nth(1)?;
            let value = match result.as_str() {
                "u32" | "s32" if packed(form) => u64::from(low) * 0xffff | u64::from(high) * 0xffff_0000,
                "f16x2" => u64::from(low) * 0x3c00 | u64::from(high) * 0x3c00_0000,
                "bf16x2" => u64::from(low) * 0x3f80 | u64::from(high) * 0x3f80_0000,
                "u32" | "s32" => u64::from(low) * 0xffff_ffff,
                "u16" | "s16" => u64::from(low) * 0xffff,
                "f32" => u64::from(low) * 0x3f80_0000,
                "f16" => u64::from(low) * 0x3c00,
                _ => return None,
            };
            Some(vec![Expect::Bits(value)])
        }
        _ => None,
    }
}

fn packed(form: &Form) -> bool {
    form.mods.last().is_some_and(|ty| ty == "f16x2" || ty == "bf16x2")
}

/// The comparison of the operands: of a packed type, of the lower and of the upper halves.
fn compare(form: &Form, x: &[u64]) -> Option<(bool, bool)> {
    let name = form.mods.iter().find(|name| COMPARISONS.contains(&name.as_str()))?;
    let ty = form.mods.last()?.as_str();
    let float = |bits: u64| -> Option<f64> {
        Some(match ty {
            "f32" => {
                let value = f32::from_bits(bits as u32);
                f64::from(if form.has("ftz") && value.is_subnormal() { 0.0 } else { value })
            }
            "f64" => f64::from_bits(bits),
            "f16" | "f16x2" => half::f16(bits & 0xffff),
            "bf16" | "bf16x2" => half::bf16(bits & 0xffff),
            _ => return None,
        })
    };
    let order = |a: u64, b: u64| match (float(a), float(b)) {
        (Some(a), Some(b)) => Some(a.partial_cmp(&b)),
        _ => {
            let (bits, signed) = integer(ty)?;
            Some(Some(number(a, bits, signed).cmp(&number(b, bits, signed))))
        }
    };
    let low = holds(name, order(x[0], x[1])?);
    let high = if packed(form) { holds(name, order(x[0] >> 16, x[1] >> 16)?) } else { low };
    Some((low, high))
}

/// Ordered comparisons fail for a NaN, those with `u` hold.
fn holds(name: &str, order: Option<Ordering>) -> bool {
    match (name, order) {
        ("num", _) => order.is_some(),
        ("nan", _) => order.is_none(),
        (_, None) => name.len() == 3,
        ("eq" | "equ", Some(order)) => order == Equal,
        ("ne" | "neu", Some(order)) => order != Equal,
        ("lt" | "ltu" | "lo", Some(order)) => order == Less,
        ("le" | "leu" | "ls", Some(order)) => order != Greater,
        ("gt" | "gtu" | "hi", Some(order)) => order == Greater,
        (_, Some(order)) => order != Less,
    }
}

fn test(form: &Form, bits: u64) -> bool {
    let class = if form.has("f32") { f32::from_bits(bits as u32).classify() } else { f64::from_bits(bits).classify() };
    use std::num::FpCategory::{Infinite, Nan, Normal, Subnormal, Zero};
    match form.mods[0].as_str() {
        "finite" => !matches!(class, Infinite | Nan),
        "infinite" => class == Infinite,
        "number" => class != Nan,
        "notanumber" => class == Nan,
        // The manual counts zeros as normal.
        "normal" => matches!(class, Normal | Zero),
        _ => class == Subnormal,
    }
}
