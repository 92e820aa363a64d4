//! Bit manipulation against loops over single bits.

use super::*;

const WORDS: &[u64] =
    &[0, 1, 0xffff_ffff, 0x8000_0000, 0x7fff_ffff, 0x1234_5678, 0x89ab_cdef, 0xff00_0000, 0x8080_7f7f];

fn bit(value: u64, n: u32) -> u64 {
    if n < 64 { value >> n & 1 } else { 0 }
}

#[test]
fn shifts() {
    for (bits, letter) in [(16u32, "h"), (32, "w"), (64, "q")] {
        let ins = format!("{letter}w");
        let ones = u64::MAX >> (64 - bits);
        let edges: [&[u64]; 2] = [INTEGERS, COUNTS];
        for ty in ["b", "u", "s"] {
            sweep(&format!("shr.{ty}{bits} %d0, %a0, %a1;"), letter, &ins, &edges, |x| {
                (0..bits).fold(0, |out, n| {
                    let from = u64::from(n) + x[1];
                    let sign = if ty == "s" { bit(x[0], bits - 1) } else { 0 };
                    out | (if from < u64::from(bits) { bit(x[0], from as u32) } else { sign }) << n
                })
            });
        }
        sweep(&format!("shl.b{bits} %d0, %a0, %a1;"), letter, &ins, &edges, |x| {
            if x[1] < u64::from(bits) { x[0] << x[1] & ones } else { 0 }
        });
    }
}

#[test]
fn funnel_shifts() {
    let edges: [&[u64]; 3] = [WORDS, WORDS, COUNTS];
    for (mode, count) in [("wrap", (|n| n & 31) as fn(u64) -> u64), ("clamp", |n| n.min(32))] {
        sweep(&format!("shf.l.{mode}.b32 %d0, %a0, %a1, %a2;"), "w", "www", &edges, |x| {
            let both = u128::from(x[1]) << 32 | u128::from(x[0]);
            (both << count(x[2]) >> 32) as u64 & 0xffff_ffff
        });
        sweep(&format!("shf.r.{mode}.b32 %d0, %a0, %a1, %a2;"), "w", "www", &edges, |x| {
            let both = u128::from(x[1]) << 32 | u128::from(x[0]);
            (both >> count(x[2])) as u64 & 0xffff_ffff
        });
    }
}

#[test]
fn fields() {
    let edges: [&[u64]; 3] = [INTEGERS, COUNTS, COUNTS];
    for (bits, letter) in [(32u32, "w"), (64, "q")] {
        let ins = format!("{letter}ww");
        for signed in [false, true] {
            let ty = if signed { 's' } else { 'u' };
            sweep(&format!("bfe.{ty}{bits} %d0, %a0, %a1, %a2;"), letter, &ins, &edges, |x| {
                let (at, length) = (x[1] as u32 & 0xff, x[2] as u32 & 0xff);
                let fill = if signed && length > 0 { bit(x[0], (at + length - 1).min(bits - 1)) } else { 0 };
                (0..bits).fold(0, |out, n| {
                    let inside = n < length && at + n < bits;
                    out | (if inside { bit(x[0], at + n) } else { fill }) << n
                })
            });
        }
        let four: [&[u64]; 4] = [WORDS, WORDS, COUNTS, COUNTS];
        sweep(&format!("bfi.b{bits} %d0, %a0, %a1, %a2, %a3;"), letter, &format!("{letter}{letter}ww"), &four, |x| {
            let (at, length) = (x[2] as u32 & 0xff, x[3] as u32 & 0xff);
            (0..length.min(bits))
                .filter(|n| at + n < bits)
                .fold(x[1], |out, n| out & !(1 << (at + n)) | bit(x[0], n) << (at + n))
        });
        for (ty, signed) in [('u', false), ('s', true)] {
            for mode in ["", ".shiftamt"] {
                sweep(&format!("bfind{mode}.{ty}{bits} %d0, %a0;"), "w", letter, &[INTEGERS], |x| {
                    let value = if signed && bit(x[0], bits - 1) == 1 { !x[0] } else { x[0] };
                    match (0..bits).rev().find(|&n| bit(value, n) == 1) {
                        None => 0xffff_ffff,
                        Some(n) if mode.is_empty() => u64::from(n),
                        Some(n) => u64::from(bits - 1 - n),
                    }
                });
            }
        }
    }
    sweep("bmsk.clamp.b32 %d0, %a0, %a1;", "w", "ww", &[COUNTS; 2], |x| {
        (0..32).filter(|n| *n >= x[0] && *n < x[0] + x[1]).fold(0, |out, n| out | 1 << n)
    });
    sweep("bmsk.wrap.b32 %d0, %a0, %a1;", "w", "ww", &[COUNTS; 2], |x| {
        (0..32).filter(|n| *n >= x[0] % 32 && *n < x[0] % 32 + x[1] % 32).fold(0, |out, n| out | 1 << n)
    });
    for (mode, wrap) in [("clamp", false), ("wrap", true)] {
        for signed in [false, true] {
            let ty = if signed { 's' } else { 'u' };
            sweep(&format!("szext.{mode}.{ty}32 %d0, %a0, %a1;"), "w", "ww", &[WORDS, COUNTS], |x| {
                let length = if wrap { x[1] % 32 } else { x[1].min(32) } as u32;
                let fill = if signed && length > 0 { bit(x[0], length - 1) } else { 0 };
                (0..32).fold(0, |out, n| out | (if n < length { bit(x[0], n) } else { fill }) << n)
            });
        }
    }
}

#[test]
fn counts_and_reversal() {
    for (bits, letter) in [(32u32, "w"), (64, "q")] {
        sweep(&format!("popc.b{bits} %d0, %a0;"), "w", letter, &[INTEGERS], |x| (0..bits).map(|n| bit(x[0], n)).sum());
        sweep(&format!("clz.b{bits} %d0, %a0;"), "w", letter, &[INTEGERS], |x| {
            (0..bits).rev().take_while(|&n| bit(x[0], n) == 0).count() as u64
        });
        sweep(&format!("brev.b{bits} %d0, %a0;"), letter, letter, &[INTEGERS], |x| {
            (0..bits).fold(0, |out, n| out | bit(x[0], n) << (bits - 1 - n))
        });
    }
}

#[test]
fn three_input_logic_for_every_table() {
    for lut in 0..256u64 {
        let form = Form::decode(&format!("lop3.b32 %d0, %a0, %a1, %a2, {lut};"), "w", "www", true).expect("decodes");
        // These three words run through all eight combinations of bits, so the table itself comes out, four times.
        form.check(&[(vec![0xf0f0_f0f0, 0xcccc_cccc, 0xaaaa_aaaa], vec![lut * 0x0101_0101])]);
    }
}

#[test]
fn byte_permutation() {
    // Selectors 0..7 choose bytes of b:a, 8..15 spread the sign of the same byte.
    let (a, b) = (0x8303_0281, 0x07f6_05f4);
    table(
        "prmt.b32 %d0, %a0, %a1, %a2;",
        "w",
        "www",
        &[
            (&[a, b, 0x3210], &[a]),
            (&[a, b, 0x7654], &[b]),
            (&[a, b, 0x0123], &[0x8102_0383]),
            (&[a, b, 0x4040], &[0xf481_f481]),
            (&[a, b, 0xba98], &[0xff00_00ff]),
            (&[a, b, 0xfedc], &[0x00ff_00ff]),
            (&[a, b, 0xffff_7777], &[0x0707_0707]),
        ],
    );
    let byte = |n: u64| if n < 4 { a >> (8 * n) & 0xff } else { b >> (8 * (n - 4)) & 0xff };
    let word = |places: [u64; 4]| places.iter().fold(0, |out, &n| out << 8 | byte(n));
    // From the highest byte of the result to the lowest.
    let modes: [(&str, [[u64; 4]; 4]); 6] = [
        ("f4e", [[3, 2, 1, 0], [4, 3, 2, 1], [5, 4, 3, 2], [6, 5, 4, 3]]),
        ("b4e", [[5, 6, 7, 0], [6, 7, 0, 1], [7, 0, 1, 2], [0, 1, 2, 3]]),
        ("rc8", [[0; 4], [1; 4], [2; 4], [3; 4]]),
        ("ecl", [[3, 2, 1, 0], [3, 2, 1, 1], [3, 2, 2, 2], [3, 3, 3, 3]]),
        ("ecr", [[0, 0, 0, 0], [1, 1, 1, 0], [2, 2, 1, 0], [3, 2, 1, 0]]),
        ("rc16", [[1, 0, 1, 0], [3, 2, 3, 2], [1, 0, 1, 0], [3, 2, 3, 2]]),
    ];
    for (mode, rows) in modes {
        for (selector, places) in rows.into_iter().enumerate() {
            let expected: &[u64] = &[word(places)];
            table(&format!("prmt.b32.{mode} %d0, %a0, %a1, %a2;"), "w", "www", &[(&[a, b, selector as u64], expected)]);
        }
    }
}
