//! f32 and f64 arithmetic: exact where it rounds, within the manual's error where it approximates.

use super::super::form::Form;
use super::Expect;
use super::round::{F32, Mode, round, round_sum, two_sum};

const NAN: u64 = 0x7fff_ffff;

fn mode(form: &Form) -> Mode {
    form.mods.iter().find_map(|name| Mode::parse(name)).unwrap_or(Mode::Nearest)
}

/// What the destination must hold.
pub fn expect(form: &Form, x: &[u64]) -> Option<Expect> {
    match form.mods.last()?.as_str() {
        "f32" => single(form, x),
        "f64" => double(form, x),
        _ => None,
    }
}

/// Flushing of an operand or result.
fn flush(form: &Form, value: f32) -> f32 {
    if form.has("ftz") && value.is_subnormal() { 0f32.copysign(value) } else { value }
}

/// A value that is an f32, as the instruction delivers it.
fn deliver(form: &Form, value: f64) -> Expect {
    if value.is_nan() {
        return Expect::Bits(if form.has("sat") { 0 } else { NAN });
    }
    let value = value as f32;
    if form.has("ftz") && value.abs() == f32::MIN_POSITIVE {
        // Whether a result just below is flushed before or after it is rounded up to this is left open.
        return Expect::Free;
    }
    let value = flush(form, value);
    let value = if form.has("sat") { if value > 0.0 { value.min(1.0) } else { 0.0 } } else { value };
    Expect::Bits(u64::from(value.to_bits()))
}

fn single(form: &Form, x: &[u64]) -> Option<Expect> {
    let v: Vec<f32> = x.iter().map(|bits| flush(form, f32::from_bits(*bits as u32))).collect();
    let w: Vec<f64> = v.iter().map(|value| f64::from(*value)).collect();
    let mode = mode(form);
    if form.has("approx") || form.has("full") {
        return approximate(form, &v, &w);
    }
    Some(match form.op.as_str() {
        "add" => deliver(form, round_sum(w[0], w[1], F32, mode)),
        "sub" => deliver(form, round_sum(w[0], -w[1], F32, mode)),
        // The product of two f32 is exact.
        "mul" => deliver(form, product(w[0] * w[1], mode)),
        "fma" | "mad" => {
            let product = w[0] * w[1];
            deliver(form, if w[2].is_finite() { round_sum(product, w[2], F32, mode) } else { product + w[2] })
        }
        "div" => deliver(form, quotient(v[0], v[1], mode)),
        "rcp" => deliver(form, quotient(1.0, v[0], mode)),
        "sqrt" => deliver(form, root(v[0], mode)),
        "min" | "max" => extremum(form, &v, &w),
        // The payload of a NaN may be kept or not.
        "neg" | "abs" if v[0].is_nan() => Expect::Free,
        "neg" => Expect::Bits(u64::from((-v[0]).to_bits())),
        "abs" => Expect::Bits(u64::from(v[0].abs().to_bits())),
        "copysign" => Expect::Bits(x[0] & 0x8000_0000 | x[1] & 0x7fff_ffff),
        _ => return None,
    })
}

fn product(value: f64, mode: Mode) -> f64 {
    if value == 0.0 || !value.is_finite() { value } else { round((value, 0.0), F32, mode) }
}

/// `a / b`: the nearest f32, with the sign of what is left over.
fn quotient(a: f32, b: f32, mode: Mode) -> f64 {
    let near = f64::from(a / b);
    if near.is_nan() || a == 0.0 || b == 0.0 || a.is_infinite() || b.is_infinite() {
        return near;
    }
    let sign = 1f64.copysign(near);
    if near.is_infinite() {
        return round((sign * 2f64.powi(128), sign), F32, mode);
    }
    if near == 0.0 {
        return round((sign * 2f64.powi(-200), 0.0), F32, mode);
    }
    // The remainder of a correctly rounded quotient is exact.
    let rest = (-near).mul_add(f64::from(b), f64::from(a)) * f64::from(b).signum();
    round((near, rest.signum() * if rest == 0.0 { 0.0 } else { f64::MIN_POSITIVE }), F32, mode)
}

fn root(a: f32, mode: Mode) -> f64 {
    let near = f64::from(a.sqrt());
    if a == 0.0 || !near.is_finite() {
        return near;
    }
    let rest = (-near).mul_add(near, f64::from(a));
    round((near, if rest == 0.0 { 0.0 } else { rest.signum() * f64::MIN_POSITIVE }), F32, mode)
}

fn extremum(form: &Form, v: &[f32], w: &[f64]) -> Expect {
    let nan = [v[0].is_nan(), v[1].is_nan()];
    if form.has("xorsign") && nan != [false, false] {
        return Expect::Free;
    }
    if nan == [true, true] || (form.has("NaN") && nan != [false, false]) {
        return Expect::Bits(NAN);
    }
    let sign = if form.has("xorsign") { (v[0].to_bits() ^ v[1].to_bits()) & 0x8000_0000 } else { 0 };
    let [a, b] = if form.has("xorsign") { [v[0].abs(), v[1].abs()] } else { [v[0], v[1]] };
    let chosen = match nan {
        [true, _] => b,
        [_, true] => a,
        _ => {
            // -0 lies below +0.
            let below = w[0] < w[1] || (w[0] == w[1] && v[0].is_sign_negative());
            let below = if form.has("xorsign") { a < b } else { below };
            if below == (form.op == "min") { a } else { b }
        }
    };
    Expect::Bits(u64::from(chosen.to_bits() | sign))
}

/// Errors that the PTX manual allows; what it says of special values; the rest is open.
fn approximate(form: &Form, v: &[f32], w: &[f64]) -> Option<Expect> {
    let ulp = |value: f64| {
        let exponent = value.abs().log2().floor().clamp(-126.0, 127.0) as i32;
        2f64.powi(exponent - 23)
    };
    let (value, error) = match form.op.as_str() {
        "div" => {
            let value = w[0] / w[1];
            let magnitude = w[1].abs();
            let range = 2f64.powi(-126)..=2f64.powi(126);
            if !range.contains(&magnitude) || !w[0].is_finite() || w[0] != 0.0 && !range.contains(&w[0].abs()) {
                return Some(Expect::Free);
            }
            (value, 2.0 * ulp(value))
        }
        "rcp" => (1.0 / w[0], ulp(1.0 / w[0])),
        "sqrt" => (w[0].sqrt(), ulp(w[0].sqrt())),
        "rsqrt" => (1.0 / w[0].sqrt(), w[0].sqrt().recip() * 2f64.powf(-22.9)),
        "ex2" => (w[0].exp2(), w[0].exp2() * 2f64.powi(-22)),
        "lg2" => {
            let value = w[0].log2();
            let relative = if (0.5..=2.0).contains(&w[0]) { 1.0 } else { value.abs() };
            (value, relative * 2f64.powi(-22))
        }
        // Beyond this range the manual gives no bound.
        "sin" | "cos" if w[0].abs() > std::f64::consts::PI && w[0].is_finite() => return Some(Expect::Free),
        "sin" => (w[0].sin(), 2f64.powf(-20.5)),
        "cos" => (w[0].cos(), 2f64.powf(-20.5)),
        "tanh" => (w[0].tanh(), w[0].tanh().abs() * 2f64.powi(-11)),
        _ => return None,
    };
    if value.is_nan() {
        return Some(Expect::Bits(NAN));
    }
    let subnormal = value != 0.0 && value.abs() < 1.0001 * f64::from(f32::MIN_POSITIVE);
    if subnormal || value.abs() > f64::from(f32::MAX) && value.is_finite() || v.iter().any(|a| a.is_subnormal()) {
        // At the ends of the range functions flush and overflow a little early or late.
        return Some(Expect::Free);
    }
    Some(Expect::Near { value, error })
}

/// The nearest f64 and what it lacks, in a rounding mode. Left open at the ends of the range, where what it lacks is
/// not exact.
fn directed(near: f64, rest: f64, mode: Mode) -> Expect {
    if near.is_nan() {
        return Expect::Free;
    }
    if mode == Mode::Nearest {
        return Expect::Bits(near.to_bits());
    }
    if near == 0.0 || near.abs() < 1e-250 || near.is_infinite() {
        return Expect::Free;
    }
    let away = if near > 0.0 { Mode::Up } else { Mode::Down };
    let value = match mode {
        Mode::Zero if (rest < 0.0) == (near > 0.0) && rest != 0.0 => {
            if near > 0.0 {
                near.next_down()
            } else {
                near.next_up()
            }
        }
        Mode::Down if rest < 0.0 => near.next_down(),
        Mode::Up if rest > 0.0 => near.next_up(),
        _ => near,
    };
    if value.is_infinite() && away != mode { Expect::Free } else { Expect::Bits(value.to_bits()) }
}

fn directed_quotient(a: f64, b: f64, mode: Mode) -> Expect {
    let near = a / b;
    let inexact = |value: f64| value != 0.0 && !(1e-250..1e250).contains(&value.abs());
    if mode != Mode::Nearest && (inexact(a) || inexact(b)) {
        return Expect::Free;
    }
    directed(near, (-near).mul_add(b, a) * b.signum(), mode)
}

/// `a b + c`: the nearest f64, and the sign of what it lacks (Boldo and Muller, "Some functions computable with a fused
/// mac", ARITH 2005), which needs products far from the ends of the range.
fn directed_fma(a: f64, b: f64, c: f64, mode: Mode) -> Expect {
    let near = a.mul_add(b, c);
    let product = a * b;
    let far = |value: f64| value != 0.0 && !(1e-250..1e250).contains(&value.abs());
    if far(product) || far(c) || product == 0.0 && a != 0.0 && b != 0.0 {
        return Expect::Free;
    }
    let low = a.mul_add(b, -product);
    let (tail, rest) = two_sum(c, low);
    let (high, middle) = two_sum(product, tail);
    directed(near, ((high - near) + middle) + rest, mode)
}

/// Approximations of f64. With `.ftz` the upper 32 bits of the operand, subnormal numbers taken for zeros, make the upper
/// 32 bits of the result, which has 20 bits of fraction. The manual bounds no error; what is allowed here is one unit of
/// the last of these bits for the operand that is cut off and one for the result.
fn coarse(form: &Form, x: f64) -> Expect {
    let cut = form.has("ftz");
    let x = if cut && x.is_subnormal() { 0f64.copysign(x) } else { x };
    let value = if form.op == "rcp" { 1.0 / x } else { 1.0 / x.sqrt() };
    if value.is_subnormal() || value.abs() < 2f64.powi(-1021) && value != 0.0 {
        return Expect::Free;
    }
    let error = if value.is_finite() { value.abs() * 2f64.powi(-19) } else { 0.0 };
    Expect::Coarse { value, error, cut: cut && !value.is_nan() }
}

fn double(form: &Form, x: &[u64]) -> Option<Expect> {
    let v: Vec<f64> = x.iter().map(|bits| f64::from_bits(*bits)).collect();
    let bits = |value: f64| if value.is_nan() { Expect::Free } else { Expect::Bits(value.to_bits()) };
    if form.has("approx") {
        return Some(coarse(form, v[0]));
    }
    let mode = mode(form);
    let nearest = mode == Mode::Nearest;
    Some(match form.op.as_str() {
        "add" => directed(v[0] + v[1], two_sum(v[0], v[1]).1, mode),
        "sub" => directed(v[0] - v[1], two_sum(v[0], -v[1]).1, mode),
        "mul" => directed(v[0] * v[1], v[0].mul_add(v[1], -(v[0] * v[1])), mode),
        "div" => directed_quotient(v[0], v[1], mode),
        "rcp" => directed_quotient(1.0, v[0], mode),
        "sqrt" if !nearest && v[0].abs() < 1e-250 => Expect::Free,
        "sqrt" => directed(v[0].sqrt(), (-v[0].sqrt()).mul_add(v[0].sqrt(), v[0]), mode),
        "fma" | "mad" if nearest => bits(v[0].mul_add(v[1], v[2])),
        "fma" | "mad" => directed_fma(v[0], v[1], v[2], mode),
        "min" | "max" => match (v[0].is_nan(), v[1].is_nan()) {
            (true, true) => Expect::Free,
            (true, false) => bits(v[1]),
            (false, true) => bits(v[0]),
            _ => {
                let below = v[0] < v[1] || (v[0] == v[1] && v[0].is_sign_negative());
                bits(if below == (form.op == "min") { v[0] } else { v[1] })
            }
        },
        "neg" => bits(-v[0]),
        "abs" => bits(v[0].abs()),
        "copysign" => Expect::Bits(x[0] & 1 << 63 | x[1] & (u64::MAX >> 1)),
        _ => return None,
    })
}
