//! f32 and f64 arithmetic against the integer implementation and written-down bits.

use super::*;
use crate::num::soft::{self, F32, F64, Format};
use crate::num::{NAN_F32, Rounding};

const NAN: u64 = NAN_F32 as u64;
const MODES: [(&str, Rounding); 4] =
    [("rn", Rounding::Nearest), ("rz", Rounding::Zero), ("rm", Rounding::Down), ("rp", Rounding::Up)];

fn flush(bits: u64) -> u64 {
    if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits }
}

/// `.sat` by its definition: NaN and everything up to zero give +0, everything from one on gives one.
fn saturate(bits: u64) -> u64 {
    if bits >> 31 == 1 || bits > 0x7f80_0000 { 0 } else { bits.min(0x3f80_0000) }
}

type Two = fn(u64, u64, Format, Rounding) -> u64;

fn sub(a: u64, b: u64, format: Format, mode: Rounding) -> u64 {
    // Inverting a NaN's sign would do no harm, but the oracle stays on the safe side.
    soft::add(a, b ^ 1 << (format.bits - 1), format, mode)
}

#[test]
fn f32_arithmetic_in_every_form() {
    let ops: [(&str, Two); 3] = [("add", soft::add), ("sub", sub), ("mul", soft::mul)];
    for (name, oracle) in ops {
        sweep(&format!("{name}.f32 %d0, %a0, %a1;"), "w", "ww", &[FLOATS; 2], |x| {
            oracle(x[0], x[1], F32, Rounding::Nearest)
        });
        for (suffix, mode) in MODES {
            for (ftz, sat) in [("", ""), (".ftz", ""), ("", ".sat"), (".ftz", ".sat")] {
                sweep(&format!("{name}.{suffix}{ftz}{sat}.f32 %d0, %a0, %a1;"), "w", "ww", &[FLOATS; 2], |x| {
                    let flush = |bits| if ftz.is_empty() { bits } else { flush(bits) };
                    let result = flush(oracle(flush(x[0]), flush(x[1]), F32, mode));
                    if sat.is_empty() { result } else { saturate(result) }
                });
            }
        }
    }
    for (suffix, mode) in MODES {
        for (ftz, sat) in [("", ""), (".ftz", ""), ("", ".sat"), (".ftz", ".sat")] {
            for op in ["fma", "mad"] {
                let text = format!("{op}.{suffix}{ftz}{sat}.f32 %d0, %a0, %a1, %a2;");
                sweep(&text, "w", "www", &[&FLOATS[..16], &FLOATS[4..20], &FLOATS[8..]], |x| {
                    let flush = |bits| if ftz.is_empty() { bits } else { flush(bits) };
                    let result = flush(soft::fma(flush(x[0]), flush(x[1]), flush(x[2]), F32, mode));
                    if sat.is_empty() { result } else { saturate(result) }
                });
            }
        }
    }
}

#[test]
fn f32_division_and_roots_in_every_mode() {
    for (suffix, mode) in MODES {
        for ftz in ["", ".ftz"] {
            let flush = |bits| if ftz.is_empty() { bits } else { flush(bits) };
            sweep(&format!("div.{suffix}{ftz}.f32 %d0, %a0, %a1;"), "w", "ww", &[FLOATS; 2], |x| {
                flush(soft::div(flush(x[0]), flush(x[1]), F32, mode))
            });
            sweep(&format!("rcp.{suffix}{ftz}.f32 %d0, %a0;"), "w", "w", &[FLOATS], |x| {
                flush(soft::div(0x3f80_0000, flush(x[0]), F32, mode))
            });
            sweep(&format!("sqrt.{suffix}{ftz}.f32 %d0, %a0;"), "w", "w", &[FLOATS], |x| {
                flush(soft::sqrt(flush(x[0]), F32, mode))
            });
        }
    }
}

/// The first operand that is a NaN, made quiet.
fn with_payload(result: u64, operands: &[u64]) -> u64 {
    let nan = operands.iter().find(|&&x| x << 1 > 0x7ff0 << 49);
    nan.map_or(result, |x| x | 1 << 51)
}

#[test]
fn f64_arithmetic_in_every_mode() {
    let ops: [(&str, Two); 2] = [("add", soft::add), ("mul", soft::mul)];
    for (suffix, mode) in MODES {
        for (name, oracle) in ops {
            sweep(&format!("{name}.{suffix}.f64 %d0, %a0, %a1;"), "q", "qq", &[DOUBLES; 2], |x| {
                with_payload(oracle(x[0], x[1], F64, mode), x)
            });
        }
        // A subtrahend that is a NaN has its payload kept; its sign is not promised, so numbers alone are compared.
        let numbers = &DOUBLES[..19];
        for (text, ins, edges) in [("sub", "qq", [numbers; 2])] {
            let rows = edges[0].iter().flat_map(|&a| edges[1].iter().map(move |&b| (a, b)));
            let rows: Vec<_> = rows.map(|(a, b)| (vec![a, b], vec![sub(a, b, F64, mode)])).collect();
            for wide in [true, false] {
                Form::decode(&format!("{text}.{suffix}.f64 %d0, %a0, %a1;"), "q", ins, wide)
                    .expect("decodes")
                    .check(&rows);
            }
        }
        sweep(&format!("fma.{suffix}.f64 %d0, %a0, %a1, %a2;"), "q", "qqq", &[DOUBLES; 3], |x| {
            with_payload(soft::fma(x[0], x[1], x[2], F64, mode), x)
        });
        sweep(&format!("div.{suffix}.f64 %d0, %a0, %a1;"), "q", "qq", &[DOUBLES; 2], |x| {
            with_payload(soft::div(x[0], x[1], F64, mode), x)
        });
        sweep(&format!("rcp.{suffix}.f64 %d0, %a0;"), "q", "q", &[DOUBLES], |x| {
            with_payload(soft::div(0x3ff0 << 48, x[0], F64, mode), x)
        });
        sweep(&format!("sqrt.{suffix}.f64 %d0, %a0;"), "q", "q", &[DOUBLES], |x| {
            with_payload(soft::sqrt(x[0], F64, mode), x)
        });
    }
    table("add.f64 %d0, %a0, %a1;", "q", "qq", &[(&[0x3ff0 << 48, 0x4000 << 48], &[0x4008 << 48])]);
    table("sub.f64 %d0, %a0, %a1;", "q", "qq", &[(&[0x3ff0 << 48, 0x4000 << 48], &[0xbff0 << 48])]);
    table("mul.f64 %d0, %a0, %a1;", "q", "qq", &[(&[0x4008 << 48, 0x4000 << 48], &[0x4018 << 48])]);
}

/// A total order that puts -0 below +0.
fn rank(bits: u64, width: u32) -> i128 {
    let magnitude = i128::from(bits & (u64::MAX >> (65 - width)));
    if bits >> (width - 1) & 1 == 1 { -magnitude - 1 } else { magnitude }
}

#[test]
fn minimum_and_maximum() {
    let nan = |bits: u64| bits & 0x7fff_ffff > 0x7f80_0000;
    let choose = |op: &str, x: &[u64], width| {
        let first_smaller = rank(x[0], width) <= rank(x[1], width);
        if first_smaller == (op == "min") { x[0] } else { x[1] }
    };
    for op in ["min", "max"] {
        for ftz in ["", ".ftz"] {
            for keep in ["", ".NaN"] {
                sweep(&format!("{op}{ftz}{keep}.f32 %d0, %a0, %a1;"), "w", "ww", &[FLOATS; 2], |x| {
                    let x: Vec<u64> = x.iter().map(|&bits| if ftz.is_empty() { bits } else { flush(bits) }).collect();
                    match (nan(x[0]), nan(x[1])) {
                        (true, true) => NAN,
                        (true, false) | (false, true) if !keep.is_empty() => NAN,
                        (true, false) => x[1],
                        (false, true) => x[0],
                        _ => choose(op, &x, 32),
                    }
                });
            }
        }
        sweep(&format!("{op}.f64 %d0, %a0, %a1;"), "q", "qq", &[DOUBLES; 2], |x| {
            let nan = |bits: u64| bits << 1 > 0x7ff0 << 49;
            match (nan(x[0]), nan(x[1])) {
                (true, true) => 0xfff8 << 48,
                (true, false) => x[1],
                (false, true) => x[0],
                _ => choose(op, x, 64),
            }
        });
    }
    table(
        "max.xorsign.abs.f32 %d0, %a0, %a1;",
        "w",
        "ww",
        &[
            (&[0x3f80_0000, 0xc000_0000], &[0xc000_0000]),
            (&[0xbf80_0000, 0xc000_0000], &[0x4000_0000]),
            (&[0x7fc0_0000, 0xc000_0000], &[0xc000_0000]),
            (&[0x7fc0_0000, 0xffc0_0000], &[NAN]),
        ],
    );
    table(
        "min.NaN.xorsign.abs.f32 %d0, %a0, %a1;",
        "w",
        "ww",
        &[(&[0x3f80_0000, 0xc000_0000], &[0xbf80_0000]), (&[0x7fc0_0000, 0xc000_0000], &[NAN])],
    );
}

#[test]
fn signs() {
    let f32_sign = 0x8000_0000;
    sweep("abs.f32 %d0, %a0;", "w", "w", &[FLOATS], |x| x[0] & !f32_sign);
    sweep("neg.f32 %d0, %a0;", "w", "w", &[FLOATS], |x| x[0] ^ f32_sign);
    sweep("abs.ftz.f32 %d0, %a0;", "w", "w", &[FLOATS], |x| flush(x[0]) & !f32_sign);
    sweep("neg.ftz.f32 %d0, %a0;", "w", "w", &[FLOATS], |x| flush(x[0]) ^ f32_sign);
    sweep("abs.f64 %d0, %a0;", "q", "q", &[DOUBLES], |x| x[0] & !(1 << 63));
    sweep("neg.f64 %d0, %a0;", "q", "q", &[DOUBLES], |x| x[0] ^ 1 << 63);
    sweep("copysign.f32 %d0, %a0, %a1;", "w", "ww", &[FLOATS; 2], |x| x[0] & f32_sign | x[1] & !f32_sign);
    sweep("copysign.f64 %d0, %a0, %a1;", "q", "qq", &[DOUBLES; 2], |x| x[0] & 1 << 63 | x[1] & !(1 << 63));
}

/// Results that every correct implementation must hit: where they are exact, and at special values.
#[test]
fn approximations_are_wired_to_their_functions() {
    const ONE: u64 = 0x3f80_0000;
    const TWO: u64 = 0x4000_0000;
    const FOUR: u64 = 0x4080_0000;
    const INF: u64 = 0x7f80_0000;
    const TINY: u64 = 1 << 19; // 2^-130, a subnormal
    for ftz in ["", ".ftz"] {
        let plain = ftz.is_empty();
        let one =
            |op: &str, rows: &[(&[u64], &[u64])]| table(&format!("{op}.approx{ftz}.f32 %d0, %a0;"), "w", "w", rows);
        one(
            "ex2",
            &[
                (&[TWO], &[FOUR]),
                (&[0xff80_0000], &[0]),
                (&[0xc302_0000], &[if plain { TINY } else { 0 }]),
                (&[NAN], &[NAN]),
            ],
        );
        one(
            "lg2",
            &[(&[FOUR], &[TWO]), (&[TINY], &[if plain { 0xc302_0000 } else { 0xff80_0000 }]), (&[0xbf80_0000], &[NAN])],
        );
        one(
            "rcp",
            &[
                (&[FOUR], &[0x3e80_0000]),
                (&[0x8000_0000], &[0xff80_0000]),
                (&[0x7f00_0000], &[if plain { 1 << 22 } else { 0 }]),
            ],
        );
        one("sqrt", &[(&[FOUR], &[TWO]), (&[TINY], &[if plain { 0x1f00_0000 } else { 0 }]), (&[0xbf80_0000], &[NAN])]);
        one("rsqrt", &[(&[FOUR], &[0x3f00_0000]), (&[TINY], &[if plain { 0x6000_0000 } else { INF }])]);
        one("sin", &[(&[0], &[0]), (&[INF], &[NAN]), (&[0x3fc9_0fdb], &[ONE])]);
        one("cos", &[(&[0], &[ONE]), (&[INF], &[NAN])]);
        for op in ["div.approx", "div.full"] {
            let huge = 0x7e80_0001;
            let row: (&[u64], &[u64]) =
                if op == "div.approx" { (&[0x7f7f_ffff, huge], &[0]) } else { (&[huge, huge], &[ONE]) };
            let tiny: (&[u64], &[u64]) = (&[TINY, ONE], if plain { &[TINY] } else { &[0] });
            table(&format!("{op}{ftz}.f32 %d0, %a0, %a1;"), "w", "ww", &[(&[FOUR, TWO], &[TWO]), row, tiny]);
        }
    }
    table("tanh.approx.f32 %d0, %a0;", "w", "w", &[(&[INF], &[ONE]), (&[0x8000_0000], &[0x8000_0000])]);
    table("rcp.approx.ftz.f64 %d0, %a0;", "q", "q", &[(&[0x4000 << 48], &[0x3fe0 << 48])]);
    table(
        "rsqrt.approx.f64 %d0, %a0;",
        "q",
        "q",
        &[
            (&[0x4010 << 48], &[0x3fe0 << 48]),
            (&[1], &[0x6180 << 48]),
            (&[1 << 63], &[0xfff0 << 48]),
            (&[0xbff0 << 48], &[0xfff8 << 48]),
        ],
    );
    table("rsqrt.approx.ftz.f64 %d0, %a0;", "q", "q", &[(&[0x4010 << 48], &[0x3fe0 << 48])]);
}

#[test]
fn wrong_forms_are_refused() {
    for text in [
        "add.rx.f32 %d0, %a0, %a1;",
        "fma.f32 %d0, %a0, %a1, %a1;",
        "div.f32 %d0, %a0, %a1;",
        "div.approx.rn.f32 %d0, %a0, %a1;",
        "ex2.f32 %d0, %a0;",
        "tanh.approx.ftz.f32 %d0, %a0;",
        "rcp.f32 %d0, %a0;",
        "sqrt.approx.rn.f32 %d0, %a0;",
        "add.sat.ftz.f32 %d0, %a0, %a1;",
        "max.abs.f32 %d0, %a0, %a1;",
        "add.f32 %d0, %a0, 1;",
        "rcp.rn.sat.f32 %d0, %a0;",
        "max.f32 %d0, %a0, %a1, %a1;",
    ] {
        rejected(text, "w", "ww");
    }
    rejected("rcp.approx.f64 %d0, %a0;", "q", "q");
    rejected("add.sat.f64 %d0, %a0, %a0;", "q", "q");
}
