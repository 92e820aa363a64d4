//! f16 and bf16, single and packed: each half from exact numbers, rounded once.

use super::super::form::Form;
use super::Expect;
use super::round::{BF16, F16, Format, Mode, round_one, round_sum};

/// The value of an f16.
pub fn f16(bits: u64) -> f64 {
    let (exponent, fraction) = ((bits >> 10 & 31) as i32, (bits & 0x3ff) as f64);
    let magnitude = match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => return f64::NAN,
        _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
    };
    if bits >> 15 & 1 == 1 { -magnitude } else { magnitude }
}

/// The value of a bf16.
pub fn bf16(bits: u64) -> f64 {
    f64::from(f32::from_bits((bits as u32) << 16))
}

/// The bits of a value that the format holds.
pub fn bits_of(value: f64, format: Format) -> u64 {
    if value.is_nan() {
        return 0x7fff;
    }
    if format == BF16 {
        return u64::from((value as f32).to_bits() >> 16);
    }
    let sign = u64::from(value.is_sign_negative()) << 15;
    let magnitude = value.abs();
    sign | if magnitude.is_infinite() {
        0x7c00
    } else if magnitude < F16.least() {
        (magnitude * 2f64.powi(24)) as u64
    } else {
        let exponent = (magnitude.to_bits() >> 52) as i32 - 1023;
        ((exponent + 15) as u64) << 10 | (magnitude.to_bits() >> 42 & 0x3ff)
    }
}

/// What the destination must hold.
pub fn expect(form: &Form, x: &[u64]) -> Option<Expect> {
    let (format, count) = match form.mods.last()?.as_str() {
        "f16" => (F16, 1),
        "f16x2" => (F16, 2),
        "bf16" => (BF16, 1),
        "bf16x2" => (BF16, 2),
        _ => return None,
    };
    if form.has("approx") {
        return approximate(form, x, format, count);
    }
    let (mut word, mut free) = (0, false);
    for i in 0..count {
        let halves: Vec<u64> = x.iter().map(|value| value >> (16 * i) & 0xffff).collect();
        match one(form, &halves, format)? {
            Expect::Bits(bits) => word |= bits << (16 * i),
            _ => free = true,
        }
    }
    Some(if free { Expect::Free } else { Expect::Bits(word) })
}

fn one(form: &Form, halves: &[u64], format: Format) -> Option<Expect> {
    let flush = |value: f64| if form.has("ftz") && value.abs() < format.least() { 0f64.copysign(value) } else { value };
    let widen = |bits: &u64| flush(if format == BF16 { bf16(*bits) } else { f16(*bits) });
    let v: Vec<f64> = halves.iter().map(widen).collect();
    let sum = |a: f64, b: f64| round_sum(a, b, format, Mode::Nearest);
    let value = match form.op.as_str() {
        "add" => sum(v[0], v[1]),
        "sub" => sum(v[0], -v[1]),
        "mul" => round_one(v[0] * v[1], format, Mode::Nearest),
        "fma" if v[2].is_finite() => sum(v[0] * v[1], v[2]),
        "fma" => v[0] * v[1] + v[2],
        "min" | "max" => return Some(extremum(form, &v, format)),
        // The payload of a NaN may be kept or not.
        "neg" | "abs" if v[0].is_nan() => return Some(Expect::Free),
        "neg" => return Some(Expect::Bits(bits_of(-v[0], format))),
        "abs" => return Some(Expect::Bits(bits_of(v[0].abs(), format))),
        _ => return None,
    };
    if form.has("ftz") && value.abs() == format.least() {
        return Some(Expect::Free);
    }
    let value = flush(value);
    let value = match () {
        () if form.has("sat") => {
            if value > 0.0 {
                value.min(1.0)
            } else {
                0.0
            }
        }
        () if form.has("relu") && !value.is_nan() => {
            if value > 0.0 {
                value
            } else {
                0.0
            }
        }
        () => value,
    };
    Some(Expect::Bits(bits_of(value, format)))
}

fn extremum(form: &Form, v: &[f64], format: Format) -> Expect {
    let nan = [v[0].is_nan(), v[1].is_nan()];
    if form.has("xorsign") && nan != [false, false] {
        return Expect::Free;
    }
    if nan == [true, true] || (form.has("NaN") && nan != [false, false]) {
        return Expect::Bits(0x7fff);
    }
    let negative = form.has("xorsign") && v[0].is_sign_negative() != v[1].is_sign_negative();
    let [a, b] = if form.has("xorsign") { [v[0].abs(), v[1].abs()] } else { [v[0], v[1]] };
    let below = a < b || (a == b && a.is_sign_negative());
    let chosen = match nan {
        [true, _] => b,
        [_, true] => a,
        _ => {
            if below == (form.op == "min") {
                a
            } else {
                b
            }
        }
    };
    Expect::Bits(bits_of(chosen, format) | if negative { 0x8000 } else { 0 })
}

/// `ex2` and `tanh` with the errors of the PTX manual.
fn approximate(form: &Form, x: &[u64], format: Format, count: usize) -> Option<Expect> {
    let (mut values, mut error) = ([0.0; 2], [0.0; 2]);
    for i in 0..count {
        let bits = x[0] >> (16 * i) & 0xffff;
        let input = if format == BF16 { bf16(bits) } else { f16(bits) };
        let input = if form.has("ftz") && input.abs() < format.least() { 0.0 } else { input };
        (values[i], error[i]) = match (form.op.as_str(), format) {
            ("ex2", F16) => (input.exp2(), (input.exp2() * 2f64.powf(-9.9)).max(2f64.powi(-24))),
            ("ex2", _) => (input.exp2(), (input.exp2() * 2f64.powi(-7)).max(format.least())),
            ("tanh", F16) => (input.tanh(), 2f64.powf(-10.987)),
            ("tanh", _) => (input.tanh(), 2f64.powi(-8)),
            _ => return None,
        };
        if values[i] > format.max() && values[i].is_finite() {
            values[i] = f64::INFINITY;
        }
        // Half a unit below the largest number it is open whether it overflows.
        if values[i].is_finite() && values[i] > format.max() * 0.995 {
            return Some(Expect::Free);
        }
    }
    Some(Expect::Halves { values, error, count, bf16: format == BF16 })
}
