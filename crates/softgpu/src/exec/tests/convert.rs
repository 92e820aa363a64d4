//! Conversions: a table computed elsewhere in exact rational arithmetic, integer forms against 128-bit arithmetic, and
//! the packed forms.

use super::*;
use crate::num::Rounding;
use crate::num::soft::{self, BF16, F16, F32};

/// The register letter of a type's spelling.
fn letter(ty: &str) -> &'static str {
    match ty.trim_start_matches(|c: char| c.is_alphabetic()) {
        "8" | "16" => "h",
        "32" => "w",
        _ => "q",
    }
}

#[test]
fn every_conversion_with_a_float_agrees_with_rational_arithmetic() {
    let mut forms = 0;
    for line in include_str!("cvt.txt").lines().filter(|line| !line.starts_with('#')) {
        let (form, pairs) = line.split_once(' ').expect("a form and its pairs");
        let mut types = form.rsplit('.');
        let (from, to) = (types.next().expect("source"), types.next().expect("result"));
        let hexadecimal = |text: &str| u64::from_str_radix(text, 16).expect("hexadecimal");
        let rows: Vec<_> = pairs
            .split(' ')
            .filter_map(|pair| pair.split_once('='))
            .map(|(input, output)| (vec![hexadecimal(input)], vec![hexadecimal(output)]))
            .collect();
        assert!(rows.len() >= 5, "{form} has only {} rows", rows.len());
        for wide in [true, false] {
            let text = format!("{form} %d0, %a0;");
            Form::decode(&text, letter(to), letter(from), wide)
                .unwrap_or_else(|why| panic!("{text} {why}"))
                .check(&rows);
        }
        forms += 1;
    }
    assert_eq!(forms, 289);
}

const INTEGER_TYPES: [&str; 8] = ["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"];

fn width(ty: &str) -> u32 {
    ty[1..].parse().expect("a width")
}

/// The value that the low bits of a register hold.
fn value(ty: &str, register: u64) -> i128 {
    let unused = 128 - width(ty);
    if ty.starts_with('s') {
        (i128::from(register) << unused) >> unused
    } else {
        ((u128::from(register) << unused) >> unused) as i128
    }
}

/// A value cut to a type, and extended to its register by that type's sign.
fn register(ty: &str, value_: i128, letter: &str) -> u64 {
    let bits = match letter {
        "h" => 16,
        "w" => 32,
        _ => 64,
    };
    value(ty, value_ as u64) as u64 & (u64::MAX >> (64 - bits))
}

#[test]
fn integers_truncate_extend_and_saturate() {
    for from in INTEGER_TYPES {
        for to in INTEGER_TYPES {
            for destination in ["h", "w", "q"].into_iter().skip_while(|l| *l != letter(to)) {
                for source in ["h", "w", "q"].into_iter().skip_while(|l| *l != letter(from)) {
                    sweep(&format!("cvt.{to}.{from} %d0, %a0;"), destination, source, &[INTEGERS], |x| {
                        register(to, value(from, x[0]), destination)
                    });
                    sweep(&format!("cvt.sat.{to}.{from} %d0, %a0;"), destination, source, &[INTEGERS], |x| {
                        let signed = to.starts_with('s');
                        let high = (1i128 << (width(to) - u32::from(signed))) - 1;
                        let low = if signed { -high - 1 } else { 0 };
                        register(to, value(from, x[0]).clamp(low, high), destination)
                    });
                }
            }
        }
    }
}

#[test]
fn floats_stay_floats_with_modifiers() {
    // 2.5, -2.5, 0.4999, -0.3, 1e9, a subnormal, NaN, -inf
    let inputs =
        [0x4020_0000u64, 0xc020_0000, 0x3eff_f2e5, 0xbe99_999a, 0x4e6e_6b28, 0x8000_0001, 0xffc0_0001, 0xff80_0000];
    let rows = |outputs: [u64; 8]| inputs.iter().zip(outputs).map(|(&i, o)| (vec![i], vec![o])).collect::<Vec<_>>();
    for (form, outputs) in [
        (
            "cvt.f32.f32",
            [0x4020_0000, 0xc020_0000, 0x3eff_f2e5, 0xbe99_999a, 0x4e6e_6b28, 0x8000_0001, 0x7fff_ffff, 0xff80_0000],
        ),
        (
            "cvt.ftz.f32.f32",
            [0x4020_0000, 0xc020_0000, 0x3eff_f2e5, 0xbe99_999a, 0x4e6e_6b28, 0x8000_0000, 0x7fff_ffff, 0xff80_0000],
        ),
        ("cvt.sat.f32.f32", [0x3f80_0000, 0, 0x3eff_f2e5, 0, 0x3f80_0000, 0, 0, 0]),
        ("cvt.ftz.sat.f32.f32", [0x3f80_0000, 0, 0x3eff_f2e5, 0, 0x3f80_0000, 0, 0, 0]),
        (
            "cvt.rni.f32.f32",
            [0x4000_0000, 0xc000_0000, 0, 0x8000_0000, 0x4e6e_6b28, 0x8000_0000, 0x7fff_ffff, 0xff80_0000],
        ),
        (
            "cvt.rzi.f32.f32",
            [0x4000_0000, 0xc000_0000, 0, 0x8000_0000, 0x4e6e_6b28, 0x8000_0000, 0x7fff_ffff, 0xff80_0000],
        ),
        (
            "cvt.rmi.f32.f32",
            [0x4000_0000, 0xc040_0000, 0, 0xbf80_0000, 0x4e6e_6b28, 0xbf80_0000, 0x7fff_ffff, 0xff80_0000],
        ),
        (
            "cvt.rmi.ftz.f32.f32",
            [0x4000_0000, 0xc040_0000, 0, 0xbf80_0000, 0x4e6e_6b28, 0x8000_0000, 0x7fff_ffff, 0xff80_0000],
        ),
        (
            "cvt.rpi.f32.f32",
            [0x4040_0000, 0xc000_0000, 0x3f80_0000, 0x8000_0000, 0x4e6e_6b28, 0x8000_0000, 0x7fff_ffff, 0xff80_0000],
        ),
    ] {
        for wide in [true, false] {
            Form::decode(&format!("{form} %d0, %a0;"), "w", "w", wide).expect("decodes").check(&rows(outputs));
        }
    }
    let (half, three) = (0x3fe0 << 48, 0x4008 << 48);
    table(
        "cvt.rmi.f64.f64 %d0, %a0;",
        "q",
        "q",
        &[(&[half], &[0]), (&[half | 1 << 63], &[0xbff0 << 48]), (&[three], &[three])],
    );
    table(
        "cvt.sat.f64.f64 %d0, %a0;",
        "q",
        "q",
        &[(&[three], &[0x3ff0 << 48]), (&[0x7ff8 << 48], &[0]), (&[half], &[half])],
    );
    table(
        "cvt.rni.f16.f16 %d0, %a0;",
        "h",
        "h",
        &[(&[0x4100], &[0x4000]), (&[0xb800], &[0x8000]), (&[0xfe00], &[0x7fff])],
    );
    table(
        "cvt.rpi.bf16.bf16 %d0, %a0;",
        "h",
        "h",
        &[(&[0x4020], &[0x4040]), (&[0xbf00], &[0x8000]), (&[0xff80], &[0xff80])],
    );
    table(
        "cvt.rn.sat.f16.f32 %d0, %a0;",
        "h",
        "w",
        &[(&[0x4020_0000], &[0x3c00]), (&[0x7fc0_0000], &[0]), (&[0xbf80_0000], &[0])],
    );
    table("cvt.rn.sat.f32.s32 %d0, %a0;", "w", "w", &[(&[7], &[0x3f80_0000]), (&[0xffff_ffff], &[0])]);
    table(
        "cvt.rn.relu.bf16.f32 %d0, %a0;",
        "h",
        "w",
        &[(&[0xbf80_0000], &[0]), (&[0x7f80_0001], &[0x7fff]), (&[0x8000_0000], &[0])],
    );
    table("cvt.rn.satfinite.f16.f32 %d0, %a0;", "h", "w", &[(&[0xff80_0000], &[0xfbff]), (&[0x7fc0_0000], &[0x7fff])]);
    // f64 keeps the payload of a NaN, f32 does not.
    table("cvt.f64.f32 %d0, %a0;", "q", "w", &[(&[0xff80_0001], &[0xfff8_0000_2000_0000])]);
    table("cvt.rn.f32.f64 %d0, %a0;", "w", "q", &[(&[0xfff8_0000_2000_0000], &[0x7fff_ffff])]);
    table("cvt.rn.ftz.f32.f64 %d0, %a0;", "w", "q", &[(&[0xb690 << 48], &[0x8000_0000])]);
    table("cvt.ftz.f64.f32 %d0, %a0;", "q", "w", &[(&[0x8000_0001], &[1 << 63])]);
    table("cvt.rpi.ftz.s32.f32 %d0, %a0;", "w", "w", &[(&[1], &[0]), (&[0x3f00_0000], &[1])]);
    table("cvt.rpi.s32.f32 %d0, %a0;", "w", "w", &[(&[1], &[1])]);
    // A register wider than the type: only the low bits count, and the result is extended.
    table("cvt.rzi.s8.f32 %d0, %a0;", "w", "w", &[(&[0xc300_0000], &[0xffff_ff80]), (&[0x7fc0_0000], &[0])]);
    table("cvt.rn.f32.s8 %d0, %a0;", "w", "w", &[(&[0x1ff], &[0xbf80_0000])]);
    table("cvt.rn.f32.u16 %d0, %a0;", "w", "q", &[(&[0xffff_0001], &[0x3f80_0000])]);
}

#[test]
fn packed_halves_take_their_first_source_above() {
    for (ty, format) in [("f16", F16), ("bf16", BF16)] {
        for (suffix, mode) in [("rn", Rounding::Nearest), ("rz", Rounding::Zero)] {
            let one = |bits: u64| soft::convert(bits, F32, format, mode);
            sweep(&format!("cvt.{suffix}.{ty}x2.f32 %d0, %a0, %a1;"), "w", "ww", &[FLOATS; 2], |x| {
                one(x[0]) << 16 | one(x[1])
            });
            sweep(&format!("cvt.{suffix}.relu.{ty}x2.f32 %d0, %a0, %a1;"), "w", "ww", &[FLOATS; 2], |x| {
                let relu = |half: u64| if half >> 15 == 1 && half & 0x7fff <= format.infinity() { 0 } else { half };
                relu(one(x[0])) << 16 | relu(one(x[1]))
            });
            sweep(&format!("cvt.{suffix}.satfinite.{ty}x2.f32 %d0, %a0, %a1;"), "w", "ww", &[FLOATS; 2], |x| {
                let clamp = |half: u64| if half & 0x7fff == format.infinity() { half - 1 } else { half };
                clamp(one(x[0])) << 16 | clamp(one(x[1]))
            });
            sweep(&format!("cvt.{suffix}.{ty}.f32 %d0, %a0;"), "h", "w", &[FLOATS], |x| one(x[0]));
        }
    }
}

#[test]
fn integers_packed_with_saturation() {
    table(
        "cvt.pack.sat.s16.s32 %d0, %a0, %a1;",
        "w",
        "ww",
        &[(&[1, 2], &[0x0001_0002]), (&[0x7fff_ffff, 0x8000_0000], &[0x7fff_8000])],
    );
    table("cvt.pack.sat.u16.s32 %d0, %a0, %a1;", "w", "ww", &[(&[0x7fff_ffff, 0xffff_ffff], &[0xffff_0000])]);
    table("cvt.pack.sat.u8.s32.b32 %d0, %a0, %a1, %a2;", "w", "www", &[(&[300, 7, 0x1234_5678], &[0x5678_ff07])]);
    table("cvt.pack.sat.s8.s32.b32 %d0, %a0, %a1, %a2;", "w", "www", &[(&[0xffff_ff00, 200, 0xabcd], &[0xabcd_807f])]);
}

#[test]
fn tf32() {
    table(
        "cvt.rna.tf32.f32 %d0, %a0;",
        "w",
        "w",
        &[(&[0x3f80_1000], &[0x3f80_2000]), (&[0xffc0_0000], &[0x7fff_ffff])],
    );
    table("cvt.rn.tf32.f32 %d0, %a0;", "w", "w", &[(&[0x3f80_1000], &[0x3f80_0000]), (&[0x3f80_1001], &[0x3f80_2000])]);
    table("cvt.rz.relu.tf32.f32 %d0, %a0;", "w", "w", &[(&[0x3f80_1fff], &[0x3f80_0000]), (&[0xbf80_0000], &[0])]);
}

#[test]
fn wrong_forms_are_refused() {
    for text in [
        "cvt.f16.f32 %d0, %a0;",
        "cvt.rni.f16.f32 %d0, %a0;",
        "cvt.rn.s16.f32 %d0, %a0;",
        "cvt.s16.f32 %d0, %a0;",
        "cvt.rn.u16.u32 %d0, %a0;",
        "cvt.rna.f16.f32 %d0, %a0;",
        "cvt.ftz.u16.u32 %d0, %a0;",
        "cvt.rn.relu.f16.s32 %d0, %a0;",
        "cvt.rn.e4m3x2.f32 %d0, %a0, %a0;",
    ] {
        rejected(text, "h", "w");
    }
    rejected("cvt.rn.f32.f16 %d0, %a0;", "w", "h");
    rejected("cvt.rm.f16x2.f32 %d0, %a0, %a1;", "w", "ww");
    rejected("cvt.u32.u64 %d0, %a0;", "w", "w");
    rejected("cvt.u64.u32 %d0, %a0;", "w", "w");
}
