//! f16 and bf16 arithmetic against the integer implementation, which rounds once in the format itself.

use super::*;
use crate::num::Rounding::Nearest;
use crate::num::soft::{self, BF16, F16, Format};

const NAN: u64 = 0x7fff;

/// Both formats: spelling, description, edge values.
const FORMATS: [(&str, Format, &[u64]); 2] = [("f16", F16, F16S), ("bf16", BF16, BF16S)];

fn nan(format: Format, half: u64) -> bool {
    half & 0x7fff > format.infinity()
}

fn flush(format: Format, half: u64) -> u64 {
    if half & format.infinity() == 0 { half & 0x8000 } else { half }
}

fn saturate(format: Format, half: u64) -> u64 {
    let one = if format == F16 { 0x3c00 } else { 0x3f80 };
    if half >> 15 == 1 || nan(format, half) { 0 } else { half.min(one) }
}

fn relu(format: Format, half: u64) -> u64 {
    if half >> 15 == 1 && !nan(format, half) { 0 } else { half }
}

/// Tests a form and its packed twin: `oracle` works on one half.
fn both_widths(op: &str, ty: &str, edges: &[u64], operands: usize, oracle: impl Fn(&[u64]) -> u64) {
    let list: Vec<String> = (0..operands).map(|i| format!("%a{i}")).collect();
    let list = list.join(", ");
    sweep(&format!("{op}.{ty} %d0, {list};"), "h", &"h".repeat(operands), &vec![edges; operands], &oracle);
    let words = packed(edges);
    sweep(&format!("{op}.{ty}x2 %d0, {list};"), "w", &"w".repeat(operands), &vec![&words[..]; operands], |x| {
        let half = |shift: u32| oracle(&x.iter().map(|word| word >> shift & 0xffff).collect::<Vec<_>>());
        half(0) | half(16) << 16
    });
}

#[test]
fn sums_and_products_are_rounded_once() {
    for (ty, format, edges) in FORMATS {
        for rn in ["", ".rn"] {
            both_widths(&format!("add{rn}"), ty, edges, 2, |x| soft::add(x[0], x[1], format, Nearest));
            both_widths(&format!("sub{rn}"), ty, edges, 2, |x| soft::add(x[0], x[1] ^ 0x8000, format, Nearest));
            both_widths(&format!("mul{rn}"), ty, edges, 2, |x| soft::mul(x[0], x[1], format, Nearest));
        }
    }
    let f = |x| flush(F16, x);
    both_widths("add.ftz", "f16", F16S, 2, |x| f(soft::add(f(x[0]), f(x[1]), F16, Nearest)));
    both_widths("mul.ftz", "f16", F16S, 2, |x| f(soft::mul(f(x[0]), f(x[1]), F16, Nearest)));
    both_widths("add.sat", "f16", F16S, 2, |x| saturate(F16, soft::add(x[0], x[1], F16, Nearest)));
    both_widths("mul.rn.ftz.sat", "f16", F16S, 2, |x| saturate(F16, f(soft::mul(f(x[0]), f(x[1]), F16, Nearest))));
}

#[test]
fn fused_multiply_add_is_rounded_once() {
    for (ty, format, edges) in FORMATS {
        both_widths("fma.rn", ty, edges, 3, |x| soft::fma(x[0], x[1], x[2], format, Nearest));
        both_widths("fma.rn.relu", ty, edges, 3, |x| relu(format, soft::fma(x[0], x[1], x[2], format, Nearest)));
    }
    let f = |x| flush(F16, x);
    both_widths("fma.rn.sat", "f16", F16S, 3, |x| saturate(F16, soft::fma(x[0], x[1], x[2], F16, Nearest)));
    both_widths("fma.rn.ftz", "f16", F16S, 3, |x| f(soft::fma(f(x[0]), f(x[1]), f(x[2]), F16, Nearest)));
    // A product half-way between two bf16, and an addend far below: rounded first to f32 the tie would go to even.
    // 0x3f81 * 0x3fc0 = 1.51171875, the middle of 1.5078125 and 1.515625; 2^-100 decides.
    table(
        "fma.rn.bf16 %d0, %a0, %a1, %a2;",
        "h",
        "hhh",
        &[
            (&[0x3f81, 0x3fc0, 0], &[0x3fc2]),
            (&[0x3f81, 0x3fc0, 0x0d80], &[0x3fc2]),
            (&[0x3f81, 0x3fc0, 0x8d80], &[0x3fc1]),
        ],
    );
}

/// Dense: random pairs whose exponents are close, so that every alignment of the addend occurs.
#[test]
fn fused_multiply_add_over_random_operands() {
    for (ty, format, _) in FORMATS {
        let mut random = Random(7);
        let rows: Vec<_> = (0..60_000)
            .map(|_| {
                let (r, s) = (random.next(), random.next());
                let (a, b) = (r & 0xffff, r >> 16 & 0xffff);
                let product = soft::mul(a, b, format, Nearest);
                let near = (product ^ 0x8000).wrapping_add((s % 64) << (format.fraction - 2)) & 0xffff;
                let c = if s >> 63 == 0 { near } else { s >> 16 & 0xffff };
                (vec![a, b, c], vec![soft::fma(a, b, c, format, Nearest)])
            })
            .collect();
        for wide in [true, false] {
            Form::decode(&format!("fma.rn.{ty} %d0, %a0, %a1, %a2;"), "h", "hhh", wide).expect("decodes").check(&rows);
        }
    }
}

/// A total order of patterns that puts -0 below +0.
fn rank(half: u64) -> i64 {
    let magnitude = (half & 0x7fff) as i64;
    if half >> 15 == 1 { -magnitude - 1 } else { magnitude }
}

#[test]
fn minimum_and_maximum() {
    for (ty, format, edges) in FORMATS {
        for op in ["min", "max"] {
            for keep in ["", ".NaN"] {
                both_widths(&format!("{op}{keep}"), ty, edges, 2, |x| match (nan(format, x[0]), nan(format, x[1])) {
                    (true, true) => NAN,
                    (true, false) | (false, true) if !keep.is_empty() => NAN,
                    (true, false) => x[1],
                    (false, true) => x[0],
                    _ if (rank(x[0]) <= rank(x[1])) == (op == "min") => x[0],
                    _ => x[1],
                });
            }
        }
    }
    table(
        "max.xorsign.abs.bf16 %d0, %a0, %a1;",
        "h",
        "hh",
        &[(&[0x3f80, 0xc000], &[0xc000]), (&[0xbf80, 0xc000], &[0x4000])],
    );
    table("min.ftz.f16 %d0, %a0, %a1;", "h", "hh", &[(&[0x8001, 0x0001], &[0x8000]), (&[0x7e00, 0x0001], &[0])]);
}

#[test]
fn signs_change_one_bit() {
    for (ty, _, edges) in FORMATS {
        both_widths("neg", ty, edges, 1, |x| x[0] ^ 0x8000);
        both_widths("abs", ty, edges, 1, |x| x[0] & 0x7fff);
    }
    both_widths("neg.ftz", "f16", F16S, 1, |x| flush(F16, x[0]) ^ 0x8000);
    both_widths("abs.ftz", "f16", F16S, 1, |x| flush(F16, x[0]) & 0x7fff);
}

#[test]
fn approximations() {
    // Exact results, and special values; every pattern is compared with f64 beside the functions themselves.
    for (op, ty, rows) in [
        (
            "ex2.approx",
            "f16",
            [(0x4000, 0x4400), (0xfc00, 0), (0x7c00, 0x7c00), (0x7e01, 0x7fff), (0x8000, 0x3c00), (0xce40, 0x0000)],
        ),
        (
            "ex2.approx.ftz",
            "bf16",
            [(0x4000, 0x4080), (0xff80, 0), (0x7f80, 0x7f80), (0x7fc1, 0x7fff), (0x8000, 0x3f80), (0xc2fe, 0)],
        ),
        (
            "tanh.approx",
            "f16",
            [(0x7c00, 0x3c00), (0xfc00, 0xbc00), (0x8000, 0x8000), (0, 0), (0x7e01, 0x7fff), (0x0001, 0x0001)],
        ),
        (
            "tanh.approx",
            "bf16",
            [(0x7f80, 0x3f80), (0xff80, 0xbf80), (0x8000, 0x8000), (0, 0), (0x7fc1, 0x7fff), (0x0001, 0x0001)],
        ),
    ] {
        for (input, expected) in rows {
            table(&format!("{op}.{ty} %d0, %a0;"), "h", "h", &[(&[input], &[expected])]);
            let one = if ty == "f16" { 0x3c00u64 } else { 0x3f80 };
            let other = if op.starts_with("ex2") { one } else { 0 };
            table(
                &format!("{op}.{ty}x2 %d0, %a0;"),
                "w",
                "w",
                &[(&[input], &[expected | other << 16]), (&[input << 16], &[expected << 16 | other])],
            );
        }
    }
}

#[test]
fn wrong_forms_are_refused() {
    for text in [
        "add.rz.f16 %d0, %a0, %a1;",
        "add.ftz.bf16 %d0, %a0, %a1;",
        "fma.f16 %d0, %a0, %a1, %a1;",
        "fma.rn.sat.bf16 %d0, %a0, %a1, %a1;",
        "ex2.approx.bf16 %d0, %a0;",
        "ex2.approx.ftz.f16 %d0, %a0;",
        "tanh.f16 %d0, %a0;",
        "max.xorsign.f16 %d0, %a0, %a1;",
        "div.f16 %d0, %a0, %a1;",
    ] {
        rejected(text, "h", "hh");
    }
}
