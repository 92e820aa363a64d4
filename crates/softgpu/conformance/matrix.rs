//! `mma` with sums that are exact, that cancel, and that span many exponents.
//!
//! Hardware aligns products before it adds them and cuts off what falls below; the manual gives no bound. The one used
//! here holds for both: one unit of an f32 for each summand, relative to the sum of the magnitudes.

use super::expect::half::{bf16, f16};
use super::expect::round::{BF16, F16, Mode, round_one};
use super::form::Form;
use super::golden::{self, Goldens};
use super::inputs::Random;
use super::{expect, table, with_gpu};

struct Shape {
    text: &'static str,
    k: usize,
    /// Elements in a register, and how to read one.
    per: usize,
    widen: fn(u64) -> f64,
    narrow: fn(f64) -> u64,
    /// Registers of A, of B, and of C.
    registers: [usize; 3],
}

fn tf32(bits: u64) -> f64 {
    f64::from(f32::from_bits(bits as u32 & 0xffff_e000))
}

fn to_f16(value: f64) -> u64 {
    expect::half::bits_of(round_one(value, F16, Mode::Nearest), F16)
}

fn to_bf16(value: f64) -> u64 {
    expect::half::bits_of(round_one(value, BF16, Mode::Nearest), BF16)
}

fn to_tf32(value: f64) -> u64 {
    u64::from((value as f32).to_bits())
}

const HALF: Shape = Shape { text: "", k: 16, per: 2, widen: f16, narrow: to_f16, registers: [4, 2, 4] };
const TF32: Shape = Shape { text: "", k: 8, per: 1, widen: tf32, narrow: to_tf32, registers: [4, 2, 4] };

const SHAPES: [Shape; 8] = [
    Shape {
        text: "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f1, %f2, %f3, %f4}, {%r1, %r2, %r3, %r4}, {%r5, %r6}, {%f5, %f6, %f7, %f8};",
        ..HALF
    },
    Shape {
        text: "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f1, %f2, %f3, %f4}, {%r1, %r2}, {%r5}, {%f5, %f6, %f7, %f8};",
        k: 8,
        registers: [2, 1, 4],
        ..HALF
    },
    Shape {
        text: "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1, %f2, %f3, %f4}, {%r1, %r2, %r3, %r4}, {%r5, %r6}, {%f5, %f6, %f7, %f8};",
        widen: bf16,
        narrow: to_bf16,
        ..HALF
    },
    Shape {
        text: "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%f1, %f2, %f3, %f4}, {%r1, %r2}, {%r5}, {%f5, %f6, %f7, %f8};",
        k: 8,
        registers: [2, 1, 4],
        widen: bf16,
        narrow: to_bf16,
        ..HALF
    },
    Shape {
        text: "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f1, %f2, %f3, %f4}, {%r1, %r2, %r3, %r4}, {%r5, %r6}, {%f5, %f6, %f7, %f8};",
        ..TF32
    },
    Shape {
        text: "mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32 {%f1, %f2, %f3, %f4}, {%r1, %r2}, {%r5}, {%f5, %f6, %f7, %f8};",
        k: 4,
        registers: [2, 1, 4],
        ..TF32
    },
    Shape {
        text: "mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%r8, %r9}, {%r1, %r2, %r3, %r4}, {%r5, %r6}, {%r10, %r11};",
        registers: [4, 2, 2],
        ..HALF
    },
    Shape {
        text: "mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%r8, %r9}, {%r1, %r2}, {%r5}, {%r10, %r11};",
        k: 8,
        registers: [2, 1, 2],
        ..HALF
    },
];

/// Kinds of elements: what is drawn for A or B, and for C.
const KINDS: [&str; 5] = ["small integers", "ordinary", "cancelling", "many exponents", "infinities"];

fn draw(kind: usize, random: &mut Random, row: usize, k: usize, factor: bool) -> f64 {
    let unit = (random.next() >> 11) as f64 * 2f64.powi(-53);
    let sign = if random.next() & 1 == 0 { 1.0 } else { -1.0 };
    match kind {
        0 => (unit * 15.0).floor() - 7.0,
        1 => sign * (0.5 + unit),
        // Every other product takes the one before it away, but for its last bits.
        2 if factor => {
            if k.is_multiple_of(2) {
                1000.0
            } else {
                -1000.0 - unit * 4.0
            }
        }
        2 => 0.125 * sign,
        3 => sign * (1.0 + unit) * 2f64.powi((random.next() % 24) as i32 - 20),
        _ if row == 3 && k == 1 && factor => f64::INFINITY,
        _ => (unit * 3.0).floor() - 1.0,
    }
}

impl Shape {
    /// Row (or column) and k of element `i` of register `r` of a lane.
    fn place(&self, lane: usize, r: usize, i: usize, a: bool) -> (usize, usize) {
        let (group, thread) = (lane / 4, lane % 4);
        let (row, step) = if a { (group + 8 * (r % 2), r / 2) } else { (group, r) };
        (row, 4 * self.per * step + thread * self.per + i)
    }

    fn bits(&self) -> usize {
        32 / self.per
    }

    /// Columns of inputs for warps of each kind: one row per lane.
    fn inputs(&self, warps: usize) -> Vec<Vec<u64>> {
        let mut random = Random(self.text.len() as u64);
        let [a, b, c] = self.registers;
        let mut columns = vec![Vec::new(); a + b + c];
        for warp in 0..warps {
            let kind = warp % KINDS.len();
            for lane in 0..32 {
                for register in 0..a + b + c {
                    let word = if register < a + b {
                        (0..self.per).fold(0, |word, i| {
                            let (is_a, r) = (register < a, if register < a { register } else { register - a });
                            let (row, k) = self.place(lane, r, i, is_a);
                            // B holds ones where products are to cancel.
                            let value = if kind == 2 && !is_a { 1.0 } else { draw(kind, &mut random, row, k, is_a) };
                            word | (self.narrow)(value) << (i * self.bits())
                        })
                    } else if c == 4 {
                        to_tf32(draw(kind, &mut random, 0, 0, false))
                    } else {
                        let mut half = || to_f16(draw(kind, &mut random, 0, 0, false));
                        half() | half() << 16
                    };
                    columns[register].push(word);
                }
            }
        }
        columns
    }

    /// What lanes of a warp must hold: for each element of C its exact sum and the sum of magnitudes.
    fn sums(&self, columns: &[Vec<u64>], first: usize) -> Vec<[(f64, f64); 4]> {
        let [na, nb, nc] = self.registers;
        let (mut a, mut b) = (vec![vec![0.0; self.k]; 16], vec![vec![0.0; self.k]; 8]);
        for lane in 0..32 {
            for r in 0..na + nb {
                for i in 0..self.per {
                    let bits = columns[r][first + lane] >> (i * self.bits());
                    let value = (self.widen)(if self.per == 2 { bits & 0xffff } else { bits });
                    let (row, k) = self.place(lane, if r < na { r } else { r - na }, i, r < na);
                    if r < na { a[row][k] = value } else { b[row][k] = value }
                }
            }
        }
        let element = |lane: usize, i: usize| {
            let (row, column) = (lane / 4 + 8 * (i / 2), lane % 4 * 2 + i % 2);
            let register = if nc == 4 { i } else { i / 2 };
            let word = columns[na + nb + register][first + lane];
            let c = if nc == 4 { f64::from(f32::from_bits(word as u32)) } else { f16(word >> (16 * (i % 2)) & 0xffff) };
            let products = (0..self.k).map(|k| a[row][k] * b[column][k]);
            products.fold((c, c.abs()), |(sum, size), product| (sum + product, size + product.abs()))
        };
        (0..32).map(|lane| [0, 1, 2, 3].map(|i| element(lane, i))).collect()
    }
}

/// What is wrong with results of a shape: beside the exact sums, and beside what devices answered (their results in full,
/// column by column), from which they may differ by both errors.
fn wrong(shape: &Shape, columns: &[Vec<u64>], outputs: &[Vec<u64>], devices: &[(String, Vec<u64>)]) -> Vec<String> {
    let (half, n) = (outputs.len() == 2, outputs[0].len());
    let mut failures = Vec::new();
    if let Some((device, recorded)) = devices.iter().find(|(_, recorded)| recorded.len() != n * outputs.len()) {
        return vec![format!("{device} has {} results of {}", recorded.len(), shape.text)];
    }
    let value = |word: u64, i: usize| {
        if half { f16(word >> (16 * (i % 2)) & 0xffff) } else { f64::from(f32::from_bits(word as u32)) }
    };
    for warp in 0..n / 32 {
        let kind = warp % KINDS.len();
        for (lane, sums) in shape.sums(columns, 32 * warp).iter().enumerate() {
            for (i, (sum, size)) in sums.iter().enumerate() {
                let (register, thread) = (if half { i / 2 } else { i }, 32 * warp + lane);
                let got = value(outputs[register][thread], i);
                let what = || format!("{} of {}, warp {warp} lane {lane} element {i}", KINDS[kind], shape.text);
                // Small integers and their sums are exact in every format.
                let exact = if half { round_one(*sum, F16, Mode::Nearest) } else { *sum };
                let unit = if half { 2f64.powi(-10) * exact.abs().max(2f64.powi(-14)) } else { 0.0 };
                let allowed = if kind == 0 { 0.0 } else { (shape.k + 1) as f64 * size * 2f64.powi(-23) + unit };
                let right = match sum {
                    _ if sum.is_nan() => got.is_nan(),
                    _ if sum.is_infinite() => got == *sum,
                    _ => (got - exact).abs() <= allowed,
                };
                if !right {
                    failures.push(format!("{}: {got:e} for {exact:e}", what()));
                }
                for (device, recorded) in devices {
                    let theirs = value(recorded[register * n + thread], i);
                    let agree =
                        got == theirs || got.is_nan() && theirs.is_nan() || (got - theirs).abs() <= 2.0 * allowed;
                    if !agree {
                        failures.push(format!("{}: {got:e}, {device} has {theirs:e}", what()));
                    }
                }
            }
        }
    }
    failures
}

/// A device that differs in one element by more than both errors is found.
#[test]
fn deviations_from_a_golden_product_are_noticed() {
    with_gpu(|gpu| {
        let shape = &SHAPES[0];
        let form = Form::parse(shape.text).expect("a form of registers");
        let columns = shape.inputs(KINDS.len());
        let outputs = gpu.run(&form.ptx(), &columns, form.outs.len(), 32 * KINDS.len()).expect(shape.text);
        let mut recorded = outputs.concat();
        assert!(wrong(shape, &columns, &outputs, &[("it".into(), recorded.clone())]).is_empty());
        // The first warp's sums are exact.
        recorded[7] ^= 1;
        assert_eq!(wrong(shape, &columns, &outputs, &[("it".into(), recorded.clone())]).len(), 1);
        assert_eq!(wrong(shape, &columns, &outputs, &[("it".into(), recorded[1..].to_vec())]).len(), 1);
    });
}

#[test]
fn products_of_matrices() {
    with_gpu(|gpu| {
        let goldens = Goldens::recorded(gpu, "matrix");
        let mut written = Goldens::new(&gpu.name);
        let mut failures = Vec::new();
        for shape in &SHAPES {
            let form = Form::parse(shape.text).expect("a form of registers");
            let warps = 4 * KINDS.len();
            let columns = shape.inputs(warps);
            let outputs = gpu.run(&form.ptx(), &columns, form.outs.len(), 32 * warps).expect(shape.text);
            let recorded = |golden: &Goldens| Some((golden.device.clone(), golden.values(shape.text)?));
            let devices: Vec<_> = goldens.iter().filter_map(recorded).collect();
            failures.extend(wrong(shape, &columns, &outputs, &devices));
            written.put(shape.text, golden::values(&outputs));
        }
        written.write("matrix");
        assert!(failures.is_empty(), "{} results, among them {}", failures.len(), failures[0]);
        for form in table::forms_of("matrix") {
            let opcode = form.split(' ').next().expect("an opcode");
            assert!(SHAPES.iter().any(|shape| shape.text.starts_with(opcode)), "no program runs {opcode}");
        }
    });
}
