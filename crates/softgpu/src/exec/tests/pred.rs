//! Comparisons and selection against their definitions.

use super::*;
use std::cmp::Ordering::{self, Equal, Greater, Less};

/// Whether a comparison holds; `None` is an unordered pair. Ordered comparisons fail there, those with `u` hold.
fn holds(name: &str, order: Option<Ordering>) -> bool {
    match (name, order) {
        ("num", _) => order.is_some(),
        ("nan", _) => order.is_none(),
        (_, None) => name.len() == 3,
        (_, Some(order)) => match &name[..2] {
            "eq" => order == Equal,
            "ne" => order != Equal,
            "lt" | "lo" => order == Less,
            "le" | "ls" => order != Greater,
            "gt" | "hi" => order == Greater,
            "ge" | "hs" => order != Less,
            other => panic!("{other}"),
        },
    }
}

const ORDERED: [&str; 6] = ["eq", "ne", "lt", "le", "gt", "ge"];
const FLOAT: [&str; 14] = ["eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"];

fn f32_order(x: &[u64]) -> Option<Ordering> {
    f32::from_bits(x[0] as u32).partial_cmp(&f32::from_bits(x[1] as u32))
}

/// The exact value of a half, by its definition.
fn half_value(bits: u64, fraction: u32, bias: i32) -> f64 {
    let magnitude = bits & 0x7fff;
    let exponent = (magnitude >> fraction) as i32;
    let below = (magnitude & ((1 << fraction) - 1)) as f64 / f64::from(1 << fraction);
    let top = 0x7fff >> fraction;
    let value = match exponent {
        0 => below * f64::from(1 - bias).exp2(),
        _ if exponent == top && below == 0.0 => f64::INFINITY,
        _ if exponent == top => f64::NAN,
        _ => (1.0 + below) * f64::from(exponent - bias).exp2(),
    };
    if bits >> 15 == 1 { -value } else { value }
}

#[test]
fn integers_compare_at_their_width_and_sign() {
    for bits in [16u32, 32, 64] {
        let letter = ["h", "w", "q"][bits.ilog2() as usize - 4];
        let unused = 64 - bits;
        let unsigned = |x: &[u64]| Some((x[0] << unused).cmp(&(x[1] << unused)));
        let signed = |x: &[u64]| Some(((x[0] << unused) as i64).cmp(&((x[1] << unused) as i64)));
        for name in ORDERED {
            for ty in ["u", "s"] {
                sweep(&format!("setp.{name}.{ty}{bits} %d0, %a0, %a1;"), "p", &letter.repeat(2), &[INTEGERS; 2], |x| {
                    u64::from(holds(name, if ty == "u" { unsigned(x) } else { signed(x) }))
                });
            }
        }
        for name in ["lo", "ls", "hi", "hs"] {
            sweep(&format!("setp.{name}.u{bits} %d0, %a0, %a1;"), "p", &letter.repeat(2), &[INTEGERS; 2], |x| {
                u64::from(holds(name, unsigned(x)))
            });
        }
        for name in ["eq", "ne"] {
            sweep(&format!("setp.{name}.b{bits} %d0, %a0, %a1;"), "p", &letter.repeat(2), &[INTEGERS; 2], |x| {
                u64::from(holds(name, unsigned(x)))
            });
        }
    }
}

#[test]
fn floats_compare_ordered_and_unordered() {
    for name in FLOAT {
        sweep(&format!("setp.{name}.f32 %d0, %a0, %a1;"), "p", "ww", &[FLOATS; 2], |x| {
            u64::from(holds(name, f32_order(x)))
        });
        sweep(&format!("setp.{name}.ftz.f32 %d0, %a0, %a1;"), "p", "ww", &[FLOATS; 2], |x| {
            let flushed = |bits: u64| if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits };
            u64::from(holds(name, f32_order(&[flushed(x[0]), flushed(x[1])])))
        });
        sweep(&format!("setp.{name}.f64 %d0, %a0, %a1;"), "p", "qq", &[DOUBLES; 2], |x| {
            u64::from(holds(name, f64::from_bits(x[0]).partial_cmp(&f64::from_bits(x[1]))))
        });
        for (ty, edges, fraction, bias) in [("f16", F16S, 10, 15), ("bf16", BF16S, 7, 127)] {
            let order = |a: u64, b: u64| half_value(a, fraction, bias).partial_cmp(&half_value(b, fraction, bias));
            sweep(&format!("setp.{name}.{ty} %d0, %a0, %a1;"), "p", "hh", &[edges; 2], |x| {
                u64::from(holds(name, order(x[0], x[1])))
            });
            // Packed: low halves to the first predicate, high halves to the second.
            for (text, shift) in [("%d0|_", 0), ("_|%d0", 16)] {
                sweep(&format!("setp.{name}.{ty}x2 {text}, %a0, %a1;"), "p", "ww", &[&packed(edges)[..]; 2], |x| {
                    u64::from(holds(name, order(x[0] >> shift & 0xffff, x[1] >> shift & 0xffff)))
                });
            }
        }
    }
}

#[test]
fn results_combine_with_a_predicate() {
    for (op, f) in [("and", (|t, c| t & c) as fn(u64, u64) -> u64), ("or", |t, c| t | c), ("xor", |t, c| t ^ c)] {
        for not in ["", "!"] {
            for a in 0..2u64 {
                for c in 0..2u64 {
                    let given = if not.is_empty() { c } else { 1 - c };
                    // p is the test combined with c, q the inverted test combined with c.
                    table(
                        &format!("setp.eq.{op}.s32 %d0|%d1, %a0, 1, {not}%a1;"),
                        "pp",
                        "wp",
                        &[(&[a, c], &[f(a, given), f(1 - a, given)])],
                    );
                    table(&format!("{op}.pred %d0, %a0, {not}%a1;"), "p", "pp", &[(&[a, c], &[f(a, given)])]);
                    table(
                        &format!("set.eq.{op}.u32.s32 %d0, %a0, 1, {not}%a1;"),
                        "w",
                        "wp",
                        &[(&[a, c], &[f(a, given) * 0xffff_ffff])],
                    );
                }
            }
        }
    }
    table("not.pred %d0, %a0;", "p", "p", &[(&[0], &[1]), (&[1], &[0])]);
    table("mov.pred %d0, %a0;", "p", "p", &[(&[0], &[0]), (&[1], &[1])]);
    table("mov.pred %d0, !%a0;", "p", "p", &[(&[0], &[1]), (&[1], &[0])]);
    table("mov.pred %d0, 1;", "p", "", &[(&[], &[1])]);
    table("mov.pred %d0, 0;", "p", "", &[(&[], &[0])]);
    table("and.pred %d0, %a0, 1;", "p", "p", &[(&[0], &[0]), (&[1], &[1])]);
}

#[test]
fn set_writes_ones_or_one_point_zero() {
    for (ty, one) in [("u32", 0xffff_ffff), ("s32", 0xffff_ffff), ("f32", 0x3f80_0000u64)] {
        sweep(&format!("set.gt.{ty}.f32 %d0, %a0, %a1;"), "w", "ww", &[FLOATS; 2], |x| {
            u64::from(holds("gt", f32_order(x))) * one
        });
    }
    for (ty, edges, one, fraction, bias) in [("f16", F16S, 0x3c00u64, 10, 15), ("bf16", BF16S, 0x3f80, 7, 127)] {
        let test = |a: u64, b: u64| {
            u64::from(holds("leu", half_value(a, fraction, bias).partial_cmp(&half_value(b, fraction, bias))))
        };
        sweep(&format!("set.leu.{ty}.{ty} %d0, %a0, %a1;"), "h", "hh", &[edges; 2], |x| test(x[0], x[1]) * one);
        sweep(&format!("set.leu.u32.{ty} %d0, %a0, %a1;"), "w", "hh", &[edges; 2], |x| test(x[0], x[1]) * 0xffff_ffff);
        for (to, pattern) in [(format!("{ty}x2"), one), ("u32".into(), 0xffff)] {
            sweep(&format!("set.leu.{to}.{ty}x2 %d0, %a0, %a1;"), "w", "ww", &[&packed(edges)[..]; 2], |x| {
                test(x[0] & 0xffff, x[1] & 0xffff) * pattern | test(x[0] >> 16, x[1] >> 16) * pattern << 16
            });
        }
    }
}

#[test]
fn selection() {
    for (ty, letter) in
        [("b16", "h"), ("b32", "w"), ("s32", "w"), ("f32", "w"), ("b64", "q"), ("f64", "q"), ("u64", "q")]
    {
        let ins = format!("{letter}{letter}p");
        table(&format!("selp.{ty} %d0, %a0, %a1, %a2;"), letter, &ins, &[(&[11, 22, 1], &[11]), (&[11, 22, 0], &[22])]);
        table(
            &format!("selp.{ty} %d0, %a0, %a1, !%a2;"),
            letter,
            &ins,
            &[(&[11, 22, 1], &[22]), (&[11, 22, 0], &[11])],
        );
        let ins = format!("{letter}{letter}w");
        table(
            &format!("slct.{ty}.s32 %d0, %a0, %a1, %a2;"),
            letter,
            &ins,
            &[(&[11, 22, 0], &[11]), (&[11, 22, 0x7fff_ffff], &[11]), (&[11, 22, 0x8000_0000], &[22])],
        );
        for (ftz, subnormal) in [("", 22), (".ftz", 11)] {
            table(
                &format!("slct{ftz}.{ty}.f32 %d0, %a0, %a1, %a2;"),
                letter,
                &ins,
                &[
                    (&[11, 22, 0x8000_0000], &[11]),
                    (&[11, 22, 0x8000_0001], &[subnormal]),
                    (&[11, 22, 0x7fc0_0000], &[22]),
                    (&[11, 22, 0xbf80_0000], &[22]),
                    (&[11, 22, 0x7f80_0000], &[11]),
                ],
            );
        }
    }
    table("selp.f32 %d0, 0fFF800000, 0f3F800000, %a0;", "w", "p", &[(&[1], &[0xff80_0000]), (&[0], &[0x3f80_0000])]);
}

#[test]
fn classes_of_floats() {
    for (ty, letter, edges, fraction) in [("f32", "w", FLOATS, 23), ("f64", "q", DOUBLES, 52)] {
        let bits = if fraction == 23 { 32 } else { 64 };
        for class in ["finite", "infinite", "number", "notanumber", "normal", "subnormal"] {
            sweep(&format!("testp.{class}.{ty} %d0, %a0;"), "p", letter, &[edges], |x| {
                let below = x[0] & ((1 << fraction) - 1);
                let exponent = x[0] << (65 - bits) >> (65 - bits) >> fraction;
                let top = (1 << (bits - 1 - fraction)) - 1;
                u64::from(match class {
                    "finite" => exponent != top,
                    "infinite" => exponent == top && below == 0,
                    "number" => !(exponent == top && below != 0),
                    "notanumber" => exponent == top && below != 0,
                    "normal" => exponent != top && (exponent != 0 || below == 0),
                    _ => exponent == 0 && below != 0,
                })
            });
        }
    }
}

#[test]
fn wrong_forms_are_refused() {
    for text in [
        "setp.equ.s32 %d0, %a0, %a1;",
        "setp.lo.s32 %d0, %a0;",
        "setp.lt.b32 %d0, %a0, %a1;",
        "setp.xx.f32 %d0, %a0, %a1;",
        "setp.lt.ftz.s32 %d0, %a0, %a1;",
        "setp.lt.and.f32 %d0, %a0, %a1;",
        "testp.odd.f32 %d0, %a0;",
    ] {
        rejected(text, "p", "ww");
    }
    rejected("selp.b8 %d0, %a0, %a1, %a2;", "w", "wwp");
    rejected("set.eq.u64.s32 %d0, %a0, %a1;", "q", "ww");
}
