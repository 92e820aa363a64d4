//! Integer arithmetic in 128 bits.

use super::super::form::Form;
use super::{clamp, integer, number, wrap};

/// What the destination must hold.
pub fn expect(form: &Form, x: &[u64]) -> Option<u64> {
    let last = form.mods.last()?.as_str();
    if last == "u16x2" || last == "s16x2" {
        return packed(form, x, last == "s16x2");
    }
    let (bits, signed) = match form.op.as_str() {
        "mad" | "mul" | "mad24" | "mul24" | "add" | "sub" | "min" | "max" | "div" | "rem" | "neg" | "abs" | "sad" => {
            integer(last)?
        }
        "dp4a" | "dp2a" => return dot(form, x),
        _ => return None,
    };
    if form.has("cc") {
        return None;
    }
    let v: Vec<i128> = x.iter().map(|value| number(*value, bits, signed)).collect();
    let saturates = form.has("sat");
    let fit = |value: i128, bits: u32| wrap(if saturates { clamp(value, bits, signed) } else { value }, bits);
    Some(match form.op.as_str() {
        "add" => fit(v[0] + v[1], bits),
        "sub" => fit(v[0] - v[1], bits),
        "mul" | "mad" if form.has("wide") => {
            let c = if form.op == "mad" { number(x[2], 2 * bits, signed) } else { 0 };
            wrap(v[0] * v[1] + c, 2 * bits)
        }
        "mul" | "mad" => {
            let product = if bits == 64 && !signed {
                // 64 by 64 bits do not fit a signed 128: the upper half is taken apart.
                return Some(unsigned_64(form, x));
            } else {
                v[0] * v[1]
            };
            let part = if form.has("hi") { product >> bits } else { product };
            fit(part + v.get(2).copied().unwrap_or(0), bits)
        }
        "mul24" | "mad24" => {
            let product = number(x[0], 24, signed) * number(x[1], 24, signed);
            let part = if form.has("hi") { wrap(product >> 16, 32) } else { wrap(product, 32) };
            fit(number(part, 32, signed) + v.get(2).copied().unwrap_or(0), 32)
        }
        "min" => wrap(relu(form, v[0].min(v[1])), bits),
        "max" => wrap(relu(form, v[0].max(v[1])), bits),
        // What a division by zero gives is left open by the manual; hardware gives all ones and the dividend.
        "div" => wrap(if v[1] == 0 { -1 } else { v[0] / v[1] }, bits),
        "rem" => wrap(if v[1] == 0 { v[0] } else { v[0] % v[1] }, bits),
        "neg" => wrap(-v[0], bits),
        "abs" => wrap(v[0].abs(), bits),
        "sad" => wrap(v[2] + (v[0] - v[1]).abs(), bits),
        _ => return None,
    })
}

fn relu(form: &Form, value: i128) -> i128 {
    if form.has("relu") { value.max(0) } else { value }
}

fn unsigned_64(form: &Form, x: &[u64]) -> u64 {
    let product = u128::from(x[0]) * u128::from(x[1]);
    let part = if form.has("hi") { (product >> 64) as u64 } else { product as u64 };
    part.wrapping_add(x.get(2).copied().unwrap_or(0))
}

fn packed(form: &Form, x: &[u64], signed: bool) -> Option<u64> {
    let half = |at: u32| {
        let [a, b] = [0, 1].map(|i| number(x[i] >> at, 16, signed));
        let value = match form.op.as_str() {
            "add" => a + b,
            "min" => a.min(b),
            "max" => a.max(b),
            _ => return None,
        };
        Some(wrap(value, 16) << at)
    };
    Some(half(0)? | half(16)?)
}

fn dot(form: &Form, x: &[u64]) -> Option<u64> {
    let types: Vec<bool> = form.mods.iter().filter_map(|name| integer(name)).map(|(_, signed)| signed).collect();
    let [a_signed, b_signed] = types[..] else { return None };
    let from = if form.has("hi") { 16 } else { 0 };
    let sum: i128 = if form.op == "dp4a" {
        (0..4).map(|i| number(x[0] >> (8 * i), 8, a_signed) * number(x[1] >> (8 * i), 8, b_signed)).sum()
    } else {
        (0..2).map(|i| number(x[0] >> (16 * i), 16, a_signed) * number(x[1] >> (from + 8 * i), 8, b_signed)).sum()
    };
    Some(wrap(sum + i128::from(x[2]), 32))
}
