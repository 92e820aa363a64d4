//! Inputs: edge values of every type, all combinations of them, and random bits.

use super::form::Form;

/// A small generator of random inputs (SplitMix64).
pub struct Random(pub u64);

impl Random {
    /// 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Limits of the integer types, shift counts, and their neighbours; the low bits serve the narrower types.
const INTEGERS: &[u64] = &[
    0,
    1,
    2,
    7,
    31,
    32,
    33,
    63,
    64,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x7f_ffff,
    0x80_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffe,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

/// Zeros, subnormals, limits, ones, halves, halfway cases, infinities, NaNs.
const FLOATS: &[u64] = &[
    0,
    0x8000_0000,
    1,
    0x8000_0001,
    0x007f_ffff,
    0x807f_ffff,
    0x0080_0000,
    0x8080_0001,
    0x3380_0000,
    0x3f00_0000,
    0xbf00_0000,
    0x3f7f_ffff,
    0x3f80_0000,
    0xbf80_0000,
    0x3f80_0001,
    0x4020_0000,
    0xc020_0000,
    0x4b80_0001,
    0x4f00_0000,
    0xcf00_0001,
    0x7f7f_ffff,
    0xff7f_ffff,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
    0xffc0_0001,
];

const DOUBLES: &[u64] = &[
    0,
    1 << 63,
    1,
    1 << 63 | 1,
    0x000f_ffff_ffff_ffff,
    0x0010_0000_0000_0000,
    0x3690_0000_0000_0000,
    0x3810_0000_0000_0001,
    0x3fe0_0000_0000_0000,
    0xbfe0_0000_0000_0000,
    0x3fef_ffff_ffff_ffff,
    0x3ff0_0000_0000_0000,
    0xbff0_0000_0000_0000,
    0x3ff0_0000_1000_0000,
    0x4004_0000_0000_0000,
    0x41df_ffff_ffc0_0000,
    0x41e0_0000_0000_0000,
    0x43e0_0000_0000_0000,
    0x47ef_ffff_f000_0000,
    0x7fef_ffff_ffff_ffff,
    0xffef_ffff_ffff_ffff,
    0x7ff0_0000_0000_0000,
    0xfff0_0000_0000_0000,
    0x7ff8_0000_0000_0000,
];

const F16S: &[u64] = &[
    0, 0x8000, 1, 0x8001, 0x03ff, 0x83ff, 0x0400, 0x8400, 0x1400, 0x3800, 0xb800, 0x3bff, 0x3c00, 0xbc00, 0x3c01,
    0x4100, 0xc100, 0x6400, 0x6801, 0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x7e00, 0xfe01,
];

const BF16S: &[u64] = &[
    0, 0x8000, 1, 0x8001, 0x007f, 0x807f, 0x0080, 0x8081, 0x2000, 0x3f00, 0xbf00, 0x3f7f, 0x3f80, 0xbf80, 0x3f81,
    0x4020, 0xc020, 0x4b80, 0x5f00, 0x7f7f, 0xff7f, 0x7f80, 0xff80, 0x7fc0, 0xffc1,
];

/// The edge values of a type of memory.
pub fn edges_of(ty: &str) -> Vec<u64> {
    let twice =
        |values: &[u64]| (0..values.len()).map(|i| values[i] | values[(i * 7 + 3) % values.len()] << 16).collect();
    match ty {
        "f32" => FLOATS.to_vec(),
        "f64" => DOUBLES.to_vec(),
        "f16" => F16S.to_vec(),
        "bf16" => BF16S.to_vec(),
        "f16x2" => twice(F16S),
        "bf16x2" => twice(BF16S),
        _ => INTEGERS.to_vec(),
    }
}

/// The edge values of one register of a form.
fn edges(form: &Form, class: &str) -> Vec<u64> {
    let halves = |values: &[u64]| match class {
        "h" => values.to_vec(),
        // Every edge value in the lower half, every one in the upper, paired in varying ways.
        _ => (0..values.len()).map(|i| values[i] | values[(i * 7 + 3) % values.len()] << 16).collect(),
    };
    match class {
        "p" => vec![0, 1],
        "f" => FLOATS.to_vec(),
        "d" => DOUBLES.to_vec(),
        "h" | "r" if form.has("bf16") || form.has("bf16x2") => halves(BF16S),
        "h" | "r" if form.has("f16") || form.has("f16x2") => halves(F16S),
        _ if form.op == "slct" && form.has("f32") => FLOATS.to_vec(),
        _ => INTEGERS.to_vec(),
    }
}

/// Rows of inputs of a form; the same on every machine.
pub fn rows(form: &Form) -> Vec<Vec<u64>> {
    let columns: Vec<Vec<u64>> = form.ins.iter().map(|register| edges(form, &register.class)).collect();
    let mut random = Random(form.text.bytes().fold(7, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(b))));
    let all: usize = columns.iter().map(Vec::len).product();
    // Of more than two operands every combination would be too many: a random choice of them.
    let count = all.min(1024);
    let mut rows = Vec::with_capacity(count + 256);
    for n in 0..count {
        let mut n = if all == count { n } else { random.next() as usize % all };
        let mut row = Vec::with_capacity(columns.len());
        for column in &columns {
            row.push(column[n % column.len()]);
            n /= column.len();
        }
        rows.push(row);
    }
    for n in 0..512 {
        let mut any = |class: &str| {
            let bits = random.next();
            match class {
                // Every other row has numbers of ordinary size.
                "f" if n % 2 == 0 => bits & 0x807f_ffff | (117 + (bits >> 40) % 20) << 23,
                "d" if n % 2 == 0 => bits & 0x800f_ffff_ffff_ffff | (1003 + (random.next() >> 40) % 40) << 52,
                // Random bits, now and then cut short, so that small numbers and small counts occur.
                _ => bits >> (random.next() % 4 * 16),
            }
        };
        rows.push(form.ins.iter().map(|register| any(&register.class)).collect());
    }
    for row in &mut rows {
        for (value, register) in row.iter_mut().zip(&form.ins) {
            *value &= match register.class.as_str() {
                "p" => 1,
                "h" => 0xffff,
                "r" | "f" => 0xffff_ffff,
                _ => u64::MAX,
            };
        }
    }
    rows
}
