//! Integer arithmetic against 128-bit arithmetic.

use super::*;

/// The integer in the low bits of a register.
fn integer(bits: u32, signed: bool, register: u64) -> i128 {
    let unused = 128 - bits;
    if signed {
        (i128::from(register) << unused) >> unused
    } else {
        ((u128::from(register) << unused) >> unused) as i128
    }
}

fn cut(bits: u32, value: i128) -> u64 {
    (value as u128 & ((1 << bits) - 1)) as u64
}

/// Every type: its name, width, sign and register letter.
const TYPES: [(&str, u32, bool, &str); 6] = [
    ("u16", 16, false, "h"),
    ("s16", 16, true, "h"),
    ("u32", 32, false, "w"),
    ("s32", 32, true, "w"),
    ("u64", 64, false, "q"),
    ("s64", 64, true, "q"),
];

#[test]
fn two_operand_arithmetic() {
    type Oracle = fn(i128, i128, u32) -> i128;
    let ops: [(&str, Oracle); 9] = [
        ("add", |a, b, _| a + b),
        ("sub", |a, b, _| a - b),
        ("mul.lo", |a, b, _| a.wrapping_mul(b)),
        ("div", |a, b, _| if b == 0 { -1 } else { a / b }),
        ("rem", |a, b, _| if b == 0 { a } else { a % b }),
        ("min", |a, b, _| a.min(b)),
        ("max", |a, b, _| a.max(b)),
        // The product of two unsigned 64-bit numbers just fits when it is read as unsigned.
        (
            "mul.hi",
            |a, b, bits| if a < 0 || b < 0 { (a * b) >> bits } else { ((a as u128 * b as u128) >> bits) as i128 },
        ),
        ("sad", |a, b, _| (a - b).abs()),
    ];
    for (name, bits, signed, letter) in TYPES {
        for (op, oracle) in ops {
            let value = |x: u64| integer(bits, signed, x);
            if op == "sad" {
                let ins = letter.repeat(3);
                let edges: [&[u64]; 3] = [INTEGERS, INTEGERS, &[0, 1, u64::MAX]];
                sweep(&format!("sad.{name} %d0, %a0, %a1, %a2;"), letter, &ins, &edges, |x| {
                    cut(bits, oracle(value(x[0]), value(x[1]), bits) + value(x[2]))
                });
                continue;
            }
            sweep(&format!("{op}.{name} %d0, %a0, %a1;"), letter, &letter.repeat(2), &[INTEGERS; 2], |x| {
                cut(bits, oracle(value(x[0]), value(x[1]), bits))
            });
        }
    }
}

#[test]
fn products_into_the_double_width_and_multiply_add() {
    for (name, bits, signed, letter) in TYPES {
        let value = |x: u64| integer(bits, signed, x);
        let add: [&[u64]; 3] = [INTEGERS, INTEGERS, &[0, 5, 0x8000_0000, u64::MAX]];
        let same = letter.repeat(3);
        sweep(&format!("mad.lo.{name} %d0, %a0, %a1, %a2;"), letter, &same, &add, |x| {
            cut(bits, value(x[0]).wrapping_mul(value(x[1])).wrapping_add(value(x[2])))
        });
        if bits > 16 {
            sweep(&format!("mad.hi.{name} %d0, %a0, %a1, %a2;"), letter, &same, &add, |x| {
                let (a, b) = (value(x[0]), value(x[1]));
                let high = if signed { (a * b) >> bits } else { ((a as u128 * b as u128) >> bits) as i128 };
                cut(bits, high + value(x[2]))
            });
        }
        if bits < 64 {
            let wide = if bits == 16 { "w" } else { "q" };
            sweep(&format!("mul.wide.{name} %d0, %a0, %a1;"), wide, &letter.repeat(2), &[INTEGERS; 2], |x| {
                cut(2 * bits, value(x[0]) * value(x[1]))
            });
            sweep(
                &format!("mad.wide.{name} %d0, %a0, %a1, %a2;"),
                wide,
                &format!("{letter}{letter}{wide}"),
                &add,
                |x| cut(2 * bits, value(x[0]) * value(x[1]) + integer(2 * bits, signed, x[2])),
            );
        }
    }
}

#[test]
fn one_operand_arithmetic_and_logic() {
    for (bits, letter) in [(16, "h"), (32, "w"), (64, "q")] {
        let signed = |x: u64| integer(bits, true, x);
        sweep(&format!("neg.s{bits} %d0, %a0;"), letter, letter, &[INTEGERS], |x| cut(bits, -signed(x[0])));
        sweep(&format!("abs.s{bits} %d0, %a0;"), letter, letter, &[INTEGERS], |x| cut(bits, signed(x[0]).abs()));
        sweep(&format!("not.b{bits} %d0, %a0;"), letter, letter, &[INTEGERS], |x| cut(bits, !signed(x[0])));
        sweep(&format!("cnot.b{bits} %d0, %a0;"), letter, letter, &[INTEGERS], |x| u64::from(signed(x[0]) == 0));
        let two = letter.repeat(2);
        sweep(&format!("and.b{bits} %d0, %a0, %a1;"), letter, &two, &[INTEGERS; 2], |x| cut(bits, signed(x[0] & x[1])));
        sweep(&format!("or.b{bits} %d0, %a0, %a1;"), letter, &two, &[INTEGERS; 2], |x| cut(bits, signed(x[0] | x[1])));
        sweep(&format!("xor.b{bits} %d0, %a0, %a1;"), letter, &two, &[INTEGERS; 2], |x| cut(bits, signed(x[0] ^ x[1])));
    }
}

#[test]
fn saturating_and_packed_forms() {
    let clamp = |v: i128| cut(32, v.clamp(i128::from(i32::MIN), i128::from(i32::MAX)));
    let s = |x: u64| integer(32, true, x);
    sweep("add.sat.s32 %d0, %a0, %a1;", "w", "ww", &[INTEGERS; 2], |x| clamp(s(x[0]) + s(x[1])));
    sweep("sub.sat.s32 %d0, %a0, %a1;", "w", "ww", &[INTEGERS; 2], |x| clamp(s(x[0]) - s(x[1])));
    sweep("min.relu.s32 %d0, %a0, %a1;", "w", "ww", &[INTEGERS; 2], |x| cut(32, s(x[0]).min(s(x[1])).max(0)));
    sweep("max.s32.relu %d0, %a0, %a1;", "w", "ww", &[INTEGERS; 2], |x| cut(32, s(x[0]).max(s(x[1])).max(0)));
    sweep("max.relu.s32 %d0, %a0, %a1;", "w", "ww", &[INTEGERS; 2], |x| cut(32, s(x[0]).max(s(x[1])).max(0)));
    for (op, signed) in
        [("add.u16x2", false), ("min.u16x2", false), ("max.s16x2", true), ("min.s16x2", true), ("max.u16x2", false)]
    {
        sweep(&format!("{op} %d0, %a0, %a1;"), "w", "ww", &[INTEGERS; 2], |x| {
            let half = |shift: u32| {
                let (a, b) = (integer(16, signed, x[0] >> shift), integer(16, signed, x[1] >> shift));
                let value = if op.starts_with("add") {
                    a + b
                } else if op.starts_with("min") {
                    a.min(b)
                } else {
                    a.max(b)
                };
                cut(16, value) << shift
            };
            half(0) | half(16)
        });
    }
}

/// Sums of 128 bits, as two links of 64 and as four of 32: the carry runs from one instruction to the next.
#[test]
fn carries_link_longer_sums() {
    let numbers = [
        0,
        1,
        u128::MAX,
        1 << 64,
        (1 << 64) - 1,
        1 << 32,
        (1 << 32) - 1,
        1 << 127,
        0x0123_4567_89ab_cdef_fedc_ba98_7654_3210,
    ];
    for (op, bits, letter) in [("add", 32u32, "w"), ("add", 64, "q"), ("sub", 32, "w"), ("sub", 64, "q")] {
        for wide in [true, false] {
            let link = |text: String| Form::decode(&text, letter, &letter.repeat(2), wide).expect("decodes");
            let first = link(format!("{op}.cc.u{bits} %d0, %a0, %a1;"));
            let middle = link(format!("{op}c.cc.u{bits} %d0, %a0, %a1;"));
            let last = link(format!("{op}c.u{bits} %d0, %a0, %a1;"));
            for a in numbers {
                for b in numbers {
                    let mut warp = Warp::new(0, u32::MAX, first.slots, first.slots, 0, POISON);
                    let (mut result, links) = (0u128, 128 / bits);
                    for n in 0..links {
                        let form = if n == 0 {
                            &first
                        } else if n == links - 1 {
                            &last
                        } else {
                            &middle
                        };
                        for (value, (ty, slot)) in [a, b].into_iter().zip(&form.ins) {
                            fill(&mut warp, *slot, *ty, |_| (value >> (n * bits)) as u64);
                        }
                        // SAFETY: as in `Form::run`.
                        unsafe { (form.inst.run)(&mut warp, &mut Env::new(&form.launch), &form.inst, 0b10) };
                        let (ty, slot) = form.outs[0];
                        result |= u128::from(read(&warp, slot, ty, 1)) << (n * bits);
                    }
                    assert_eq!(warp.carry & !0b10, 0, "lanes that are off have no carry");
                    let expected = if op == "add" { a.wrapping_add(b) } else { a.wrapping_sub(b) };
                    assert_eq!(result, expected, "{a:#x} {op} {b:#x} by {bits} bits");
                }
            }
        }
    }
}

#[test]
fn moves_pack_and_unpack() {
    table("mov.u32 %d0, %a0;", "w", "w", &[(&[0x1234_5678], &[0x1234_5678])]);
    table("mov.f32 %d0, 0f3F800000;", "w", "", &[(&[], &[0x3f80_0000])]);
    table("mov.b64 %d0, %a0;", "q", "q", &[(&[u64::MAX - 1], &[u64::MAX - 1])]);
    table("mov.f64 %d0, 0d4000000000000000;", "q", "", &[(&[], &[2 << 61])]);
    table("mov.b16 %d0, 0x3C00;", "h", "", &[(&[], &[0x3c00])]);
    table("mov.u64 %d0, -1;", "q", "", &[(&[], &[u64::MAX])]);
    table("mov.b32 %d0, {%a0, %a1};", "w", "hh", &[(&[0x1111, 0xfffe], &[0xfffe_1111])]);
    table("mov.b32 {%d0, %d1}, %a0;", "hh", "w", &[(&[0xfffe_1111], &[0x1111, 0xfffe])]);
    table("mov.b32 {_, %d0}, %a0;", "h", "w", &[(&[0xfffe_1111], &[0xfffe])]);
    table("mov.b32 {%d0, _}, %a0;", "h", "w", &[(&[0xfffe_1111], &[0x1111])]);
    table("mov.b32 %d0, {0, %a0};", "w", "h", &[(&[0xbf80], &[0xbf80_0000])]);
    table("mov.b64 %d0, {%a0, %a1};", "q", "ww", &[(&[1, 0xffff_fffe], &[0xffff_fffe_0000_0001])]);
    table("mov.b64 {%d0, %d1}, %a0;", "ww", "q", &[(&[0xffff_fffe_0000_0001], &[1, 0xffff_fffe])]);
    table("mov.b64 %d0, {%a0, %a1, %a2, %a3};", "q", "hhhh", &[(&[1, 2, 3, 0xffff], &[0xffff_0003_0002_0001])]);
    table("mov.b64 {%d0, %d1, %d2, %d3}, %a0;", "hhhh", "q", &[(&[0xffff_0003_0002_0001], &[1, 2, 3, 0xffff])]);
    table("mov.b32 {%d0, %d1, %d2, %d3}, %a0;", "hhhh", "w", &[(&[0xff02_8001], &[1, 0x80, 2, 0xff])]);
    table("mov.b32 %d0, {%a0, %a1, %a2, %a3};", "w", "hhhh", &[(&[1, 0x80, 2, 0xff], &[0xff02_8001])]);
    table("mov.b16 %d0, {%a0, %a1};", "h", "hh", &[(&[0x34, 0x12], &[0x1234])]);
}

/// An unpacked register may be one of the registers it is unpacked into.
#[test]
fn sources_may_be_destinations() {
    let form = Form::decode("mov.b64 {%d0, %d1}, %a0;", "ww", "q", true).expect("decodes");
    let mut inst = form.inst;
    inst.d = inst.a;
    let mut warp = Warp::new(0, u32::MAX, form.slots, form.slots, 0, POISON);
    fill(&mut warp, inst.a, Type::B64, |lane| (lane as u64) << 32 | 100);
    // SAFETY: as in `Form::run`.
    unsafe { (inst.run)(&mut warp, &mut Env::new(&form.launch), &inst, u32::MAX) };
    for lane in 0..LANES {
        assert_eq!((warp.r32(inst.d)[lane], warp.r32(inst.m)[lane]), (100, lane as u32));
    }
}

#[test]
fn addresses_move_between_windows() {
    use crate::mem::windows::{LOCAL, PARAM, SHARED};
    for (space, window) in [("global", 0), ("shared", SHARED), ("local", LOCAL), ("param", PARAM), ("const", 0)] {
        table(&format!("cvta.{space}.u64 %d0, %a0;"), "q", "q", &[(&[64], &[window + 64])]);
        table(&format!("cvta.to.{space}.u64 %d0, %a0;"), "q", "q", &[(&[window + 64], &[64])]);
    }
}

#[test]
fn wrong_forms_are_refused() {
    for text in [
        "add.f16x3 %d0, %a0, %a1;",
        "add.wrap.s32 %d0, %a0, %a1;",
        "add.sat.u32 %d0, %a0, %a1;",
        "min.s8 %d0, %a0, %a1;",
        "mul.s32 %d0, %a0, %a1;",
        "add.s32 %d0, %a0;",
        "shl.s32 %d0, %a0, %a1;",
        "and.u32 %d0, %a0, %a1;",
        "lop3.b32 %d0, %a0, %a1, %a1, 256;",
        "prmt.b32.x4e %d0, %a0, %a1, %a1;",
        "shf.l.b32 %d0, %a0, %a1, %a1;",
        "bfe.b32 %d0, %a0, %a1, %a1;",
    ] {
        rejected(text, "w", "ww");
    }
    rejected("add.s64 %d0, %a0, %a1;", "w", "ww");
}
