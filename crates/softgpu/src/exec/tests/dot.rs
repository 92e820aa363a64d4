//! 24-bit products, saturated sums, dot products and `fns` against their definitions.

use super::*;

/// The low bits of a value as a number.
fn number(value: u64, bits: u32, signed: bool) -> i128 {
    let low = i128::from(value) & ((1 << bits) - 1);
    if signed && low >> (bits - 1) == 1 { low - (1 << bits) } else { low }
}

fn word(value: i128) -> u64 {
    value as u64 & 0xffff_ffff
}

fn clamp(value: i128) -> u64 {
    word(value.clamp(i128::from(i32::MIN), i128::from(i32::MAX)))
}

#[test]
fn products_of_24_bits() {
    let edges: [&[u64]; 3] = [&[0, 1, 0x7f_ffff, 0x80_0000, 0xff_ffff, 0xff00_0001], INTEGERS, INTEGERS];
    for (ty, signed) in [("u32", false), ("s32", true)] {
        for (part, shift) in [("lo", 0), ("hi", 16)] {
            let product = |x: &[u64]| number(x[0], 24, signed) * number(x[1], 24, signed) >> shift;
            sweep(&format!("mul24.{part}.{ty} %d0, %a0, %a1;"), "w", "ww", &edges[..2], |x| word(product(x)));
            sweep(&format!("mad24.{part}.{ty} %d0, %a0, %a1, %a2;"), "w", "www", &edges, |x| {
                word(product(x) + i128::from(x[2]))
            });
        }
    }
    sweep("mad24.hi.sat.s32 %d0, %a0, %a1, %a2;", "w", "www", &edges, |x| {
        clamp((number(x[0], 24, true) * number(x[1], 24, true) >> 16) + number(x[2], 32, true))
    });
    sweep("mad.hi.sat.s32 %d0, %a0, %a1, %a2;", "w", "www", &[INTEGERS, INTEGERS, INTEGERS], |x| {
        clamp((number(x[0], 32, true) * number(x[1], 32, true) >> 32) + number(x[2], 32, true))
    });
}

#[test]
fn dot_products() {
    let edges: [&[u64]; 3] =
        [&[0, 0x8080_8080, 0x7f7f_7f7f, 0xffff_ffff, 0x0102_0304], &[0xff01_8000, 0x0405_0607, 0x8080_8080], INTEGERS];
    for (a, a_signed) in [("u32", false), ("s32", true)] {
        for (b, b_signed) in [("u32", false), ("s32", true)] {
            sweep(&format!("dp4a.{a}.{b} %d0, %a0, %a1, %a2;"), "w", "www", &edges, |x| {
                let sum: i128 =
                    (0..4).map(|i| number(x[0] >> (8 * i), 8, a_signed) * number(x[1] >> (8 * i), 8, b_signed)).sum();
                word(sum + i128::from(x[2]))
            });
            for (part, from) in [("lo", 0), ("hi", 16)] {
                sweep(&format!("dp2a.{part}.{a}.{b} %d0, %a0, %a1, %a2;"), "w", "www", &edges, |x| {
                    let one =
                        |i: u32| number(x[0] >> (16 * i), 16, a_signed) * number(x[1] >> (from + 8 * i), 8, b_signed);
                    word(one(0) + one(1) + i128::from(x[2]))
                });
            }
        }
    }
}

#[test]
fn the_nth_one_bit() {
    let counts: &[u64] = &[0, 1, 2, 3, 31, 32, 33, 0xffff_ffff, 0xffff_fffe, 0xffff_ffe0, 0x8000_0000, 0x7fff_ffff];
    let words: &[u64] = &[0, 1, 0x8000_0000, 0xffff_ffff, 0x5555_5555, 0x0001_8000];
    sweep("fns.b32 %d0, %a0, %a1, %a2;", "w", "www", &[words, &[0, 1, 15, 16, 30, 31, 32, 0xffff_ffff], counts], |x| {
        let (base, n) = (x[1], number(x[2], 32, true));
        if base > 31 {
            return 0xffff_ffff;
        }
        let set = |at: &u64| x[0] >> at & 1 == 1;
        let found = match n {
            0 => Some(base).filter(set),
            1.. => (base..32).filter(set).nth(usize::try_from(n - 1).unwrap()),
            _ => (0..=base).rev().filter(set).nth(usize::try_from(-n - 1).unwrap()),
        };
        found.unwrap_or(0xffff_ffff)
    });
    assert!(rejected("fns.b64 %d0, %a0, %a1, %a2;", "q", "qww").contains(".b32"));
    assert!(rejected("dp4a.u32.f32 %d0, %a0, %a1, %a2;", "w", "www").contains("f32"));
    assert!(rejected("mad24.lo.sat.s32 %d0, %a0, %a1, %a2;", "w", "www").contains("s32"));
}
