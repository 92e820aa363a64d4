//! `mma` against sums in f64 over matrices spread out by the tables of the PTX manual, and `movmatrix`.

use super::*;
use crate::num::half::{bf16_from_f32, f16_from_f32, f16_to_f32};

/// Where element `i` of a lane's fragment stands, as (row, column).
type Place = fn(usize, usize) -> (usize, usize);

/// A shape and element type.
struct Shape {
    name: &'static str,
    types: &'static str,
    k: usize,
    /// Elements of A and of B in a lane.
    elements: [usize; 2],
    a: Place,
    b: Place,
    /// The register bits of an element.
    narrow: fn(f32) -> u32,
    bits: usize,
}

fn a16(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    let row = if i < 2 || (4..6).contains(&i) { group } else { group + 8 };
    (row, thread * 2 + (i & 1) + if i >= 4 { 8 } else { 0 })
}

fn b16(lane: usize, i: usize) -> (usize, usize) {
    (lane % 4 * 2 + (i & 1) + if i >= 2 { 8 } else { 0 }, lane >> 2)
}

fn a_tf32(lane: usize, i: usize) -> (usize, usize) {
    ((lane >> 2) + if i % 2 == 1 { 8 } else { 0 }, lane % 4 + if i >= 2 { 4 } else { 0 })
}

fn b_tf32(lane: usize, i: usize) -> (usize, usize) {
    (lane % 4 + if i == 1 { 4 } else { 0 }, lane >> 2)
}

fn c32(lane: usize, i: usize) -> (usize, usize) {
    ((lane >> 2) + if i >= 2 { 8 } else { 0 }, lane % 4 * 2 + (i & 1))
}

fn f16(value: f32) -> u32 {
    u32::from(f16_from_f32(value))
}

fn bf16(value: f32) -> u32 {
    u32::from(bf16_from_f32(value))
}

const HALF: Shape = Shape { name: "", types: "", k: 16, elements: [8, 4], a: a16, b: b16, narrow: f16, bits: 16 };

const SHAPES: [Shape; 8] = [
    Shape { name: "m16n8k16", types: "f32.f16.f16.f32", ..HALF },
    Shape { name: "m16n8k8", types: "f32.f16.f16.f32", k: 8, elements: [4, 2], ..HALF },
    Shape { name: "m16n8k16", types: "f32.bf16.bf16.f32", narrow: bf16, ..HALF },
    Shape { name: "m16n8k8", types: "f32.bf16.bf16.f32", k: 8, elements: [4, 2], narrow: bf16, ..HALF },
    Shape { name: "m16n8k16", types: "f16.f16.f16.f16", ..HALF },
    Shape { name: "m16n8k8", types: "f16.f16.f16.f16", k: 8, elements: [4, 2], ..HALF },
    Shape {
        name: "m16n8k8",
        types: "f32.tf32.tf32.f32",
        k: 8,
        elements: [4, 2],
        a: a_tf32,
        b: b_tf32,
        narrow: f32::to_bits,
        bits: 32,
    },
    Shape {
        name: "m16n8k4",
        types: "f32.tf32.tf32.f32",
        k: 4,
        elements: [2, 1],
        a: a_tf32,
        b: b_tf32,
        narrow: f32::to_bits,
        bits: 32,
    },
];

impl Shape {
    fn half_sums(&self) -> bool {
        self.types.starts_with("f16")
    }

    /// Registers of a lane: D, A, B.
    fn registers(&self) -> [usize; 3] {
        let [a, b] = self.elements.map(|n| n * self.bits / 32);
        [if self.half_sums() { 2 } else { 4 }, a, b]
    }

    fn form(&self, wide: bool) -> Form {
        let [d, a, b] = self.registers();
        let list = |letter: char, from: usize, n: usize| {
            let items: Vec<String> = (from..from + n).map(|i| format!("%{letter}{i}")).collect();
            format!("{{{}}}", items.join(", "))
        };
        let text = format!(
            "mma.sync.aligned.{}.row.col.{} {}, {}, {}, {};",
            self.name,
            self.types,
            list('d', 0, d),
            list('a', 0, a),
            list('a', a, b),
            list('a', a + b, d)
        );
        Form::decode(&text, &"w".repeat(d), &"w".repeat(a + b + d), wide).unwrap_or_else(|why| panic!("{text}: {why}"))
    }

    /// D for matrices given as functions of row and column.
    fn run(
        &self,
        wide: bool,
        a: impl Fn(usize, usize) -> f32,
        b: impl Fn(usize, usize) -> f32,
        c: impl Fn(usize, usize) -> f32,
    ) -> [[f32; 8]; 16] {
        let pack = |elements: Vec<u32>, bits: usize| -> Vec<u64> {
            let per = 32 / bits;
            elements
                .chunks(per)
                .map(|e| e.iter().rev().fold(0, |word, e| word << (bits % 32) | u64::from(*e)))
                .collect()
        };
        let rows: Vec<Vec<u64>> = (0..LANES)
            .map(|lane| {
                let element = |f: &dyn Fn(usize, usize) -> f32, place: Place, i: usize| {
                    let (row, column) = place(lane, i);
                    f(row, column)
                };
                let mut words =
                    pack((0..self.elements[0]).map(|i| (self.narrow)(element(&a, self.a, i))).collect(), self.bits);
                words.extend(pack(
                    (0..self.elements[1]).map(|i| (self.narrow)(element(&b, self.b, i))).collect(),
                    self.bits,
                ));
                let sums = (0..4).map(|i| element(&c, c32, i));
                words.extend(if self.half_sums() {
                    pack(sums.map(f16).collect(), 16)
                } else {
                    pack(sums.map(f32::to_bits).collect(), 32)
                });
                words
            })
            .collect();
        let mut d = [[0.0; 8]; 16];
        for (lane, words) in self.form(wide).run(&rows, u32::MAX).iter().enumerate() {
            for i in 0..4 {
                let (row, column) = c32(lane, i);
                d[row][column] = if self.half_sums() {
                    f16_to_f32((words[i / 2] >> (16 * (i % 2))) as u16)
                } else {
                    f32::from_bits(words[i] as u32)
                };
            }
        }
        d
    }
}

/// Small integers: every sum is exact, so a single element in the wrong place shows.
#[test]
fn fragments_lie_where_the_manual_says() {
    for shape in &SHAPES {
        let a = |row: usize, column: usize| ((row * 5 + column * 3) % 11) as f32 - 4.0;
        let b = |row: usize, column: usize| ((row * 7 + column * 2) % 13) as f32 - 6.0;
        let c = |row: usize, column: usize| (row * 8 + column) as f32 - 50.0;
        for wide in [true, false] {
            let d = shape.run(wide, a, b, c);
            for (row, values) in d.iter().enumerate() {
                for (column, value) in values.iter().enumerate() {
                    let sum: f32 = (0..shape.k).map(|k| a(row, k) * b(k, column)).sum();
                    assert_eq!(*value, sum + c(row, column), "{} {} ({row}, {column})", shape.name, shape.types);
                }
            }
        }
    }
}

/// Each product is exact and each sum rounded to f32, one after the other, by ascending k.
#[test]
fn sums_are_rounded_one_by_one() {
    for shape in SHAPES.iter().filter(|shape| !shape.half_sums()) {
        // 1 + 2^-24 + 2^-24: each summand alone is lost; large terms that cancel leave what came after them.
        let small = |row: usize, k: usize| if k < 2 && row == 0 { 2f32.powi(-12) } else { 0.0 };
        let same = |k: usize, _: usize| if k < 2 { 2f32.powi(-12) } else { 0.0 };
        assert_eq!(shape.run(true, small, same, |_, _| 1.0)[0], [1.0; 8]);
        let cancel = |_: usize, k: usize| [4096.0, 4096.0, -4096.0, 1.0].get(k).copied().unwrap_or(0.0);
        let with = |k: usize, _: usize| if k < 3 { 4096.0 } else { 2f32.powi(-2) };
        assert_eq!(shape.run(true, cancel, with, |_, _| -16_777_216.0)[7], [0.25; 8], "{}", shape.types);
    }
    // 65504 + 16 is above the largest f16; taken off again in the same product nothing is lost in between.
    let up_and_down = |_: usize, k: usize| [16.0, -16.0].get(k).copied().unwrap_or(0.0);
    assert_eq!(SHAPES[4].run(true, up_and_down, |_, _| 1.0, |_, _| 65504.0)[3], [65504.0; 8]);
    // And a sum half-way between two f16 is rounded to the even one.
    let one = |_: usize, k: usize| if k == 0 { 1.0 } else { 0.0 };
    assert_eq!(SHAPES[5].run(true, one, |_, _| 1.0, |_, _| 2048.0)[3], [2048.0; 8]);
}

#[test]
fn infinities_and_nan() {
    for shape in &SHAPES {
        let infinite = |_: usize, k: usize| if k == 1 { f32::INFINITY } else { 1.0 };
        let column = |k: usize, n: usize| if k == 1 && n == 2 { 0.0 } else { 1.0 };
        let d = shape.run(true, infinite, column, |_, n| if n == 3 { f32::NEG_INFINITY } else { 0.0 });
        assert_eq!(d[9][0], f32::INFINITY, "{}", shape.types);
        assert_eq!([d[9][2].to_bits(), d[9][3].to_bits()], [0x7fff_ffff; 2], "{}", shape.types);
    }
}

/// The unit takes the upper 19 bits of a tf32, also of a value that no `cvt` has rounded.
#[test]
fn tf32_factors_are_truncated() {
    let shape = &SHAPES[6];
    let a = |_: usize, k: usize| if k == 0 { f32::from_bits(0x3f80_1fff) } else { 0.0 };
    let d = shape.run(true, a, |_, _| 1.0, |_, _| 0.0);
    assert_eq!(d[5], [1.0; 8]);
}

#[test]
fn other_shapes_stop() {
    for (text, word) in [
        ("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%d0}, {%a0}, {%a1}, {%a2};", "m8n8k4"),
        ("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%d0}, {%a0}, {%a1}, {%a2};", "m16n8k32"),
        ("mma.sync.aligned.m16n8k16.row.row.f32.f16.f16.f32 {%d0}, {%a0}, {%a1}, {%a2};", ".row.col"),
        ("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%d0}, {%a0}, {%a1}, {%a2};", "4 are expected"),
    ] {
        let why = rejected(text, "w", "www");
        assert!(why.contains(word), "{text}: {why}");
    }
}

#[test]
fn movmatrix_transposes() {
    let rows: Vec<Vec<u64>> = (0..32u64).map(|lane| vec![(2 * lane) | (2 * lane + 1) << 16]).collect();
    let form = Form::decode("movmatrix.sync.aligned.m8n8.trans.b16 %d0, %a0;", "w", "w", true).expect("decodes");
    for (lane, words) in form.run(&rows, u32::MAX).iter().enumerate() {
        // Element (r, c) holds 8 * r + c; this lane has rows 2t and 2t + 1 of column g.
        let (column, row) = (lane as u64 / 4, lane as u64 % 4 * 2);
        assert_eq!(words[0], (8 * row + column) | (8 * (row + 1) + column) << 16, "lane {lane}");
    }
}
