//! One-instruction tests of the register operations.
//!
//! A form is the text of one statement and the widths of its registers. It is parsed and decoded as in a kernel, run on
//! one warp with a row of a table in each lane, in both builds, under a full and a partial mask; lanes that are off
//! must keep what they held. Expected bits are written down, or computed by an oracle that shares no code with the
//! operation.

mod bits;
mod convert;
mod cost;
mod dot;
mod emitted;
mod float;
mod half;
mod int;
mod matrix;
mod pred;
mod traps;

use std::collections::HashMap;
use std::sync::Arc;

use super::{Env, LANES, Warp};
use crate::ir::decode::{FAMILIES, Lower, RegInfo, Scene};
use crate::ir::{Inst, Kernel, Source};
use crate::launch::{Launch, Limits, Settings};
use crate::mem::Space;
use crate::ptx::{Type, parse};

/// What untouched registers hold.
const POISON: u8 = 0xa5;

/// A decoded statement with its registers: `%d0 %d1 ...` are written, `%a0 %a1 ...` are read.
pub struct Form {
    text: String,
    inst: Inst,
    launch: Launch,
    constants: Vec<(u16, bool, u64)>,
    outs: Vec<(Type, u16)>,
    ins: Vec<(Type, u16)>,
    slots: usize,
}

/// The register type of a letter: p(redicate), h(alf), w(ord), q(uad).
fn register_type(letter: char) -> Type {
    match letter {
        'p' => Type::Pred,
        'h' => Type::B16,
        'w' => Type::B32,
        'q' => Type::B64,
        other => panic!("no register type {other}"),
    }
}

impl Form {
    /// Decodes `text`, or says why not. `outs` and `ins` give one letter per register.
    pub fn decode(text: &str, outs: &str, ins: &str, wide: bool) -> Result<Form, String> {
        let types: Vec<Type> = outs.chars().chain(ins.chars()).map(register_type).collect();
        let mut ptx = String::from(".version 9.0\n.target sm_90a\n.address_size 64\n.visible .entry k()\n{\n");
        for (i, ty) in types.iter().enumerate() {
            let (letter, number) = if i < outs.len() { ('d', i) } else { ('a', i - outs.len()) };
            ptx += &format!(".reg .{} %{letter}{number};\n", ty.name());
        }
        let empty = format!("{ptx}ret;\n}}\n");
        ptx += &format!("{text}\nret;\n}}\n");
        let module = parse(&ptx).map_err(|e| e.to_string())?;
        let function = module.kernel("k").ok_or("no kernel")?;
        // Two slots for every register, behind those that take unwanted results.
        let number = |i: usize| 2 + 2 * i as u16;
        let regs: Vec<RegInfo> =
            function.regs.iter().enumerate().map(|(i, ty)| RegInfo { ty: *ty, slot: number(i) }).collect();
        assert_eq!(regs.iter().map(|r| r.ty).collect::<Vec<_>>(), types, "registers are numbered as declared");
        let names = HashMap::new();
        let scene = Scene { symbols: &names, own: &names, tables: &[], prototypes: &[], routine: 0, reach: None };
        let mut lower = Lower { regs, next_fill: usize::from(number(types.len())), ..Lower::new(scene, wide, 90) };
        let statement = &function.statements[0];
        let inst = FAMILIES
            .iter()
            .find_map(|family| family(statement, &mut lower))
            .ok_or("no family knows it")?
            .map_err(|reject| reject.0)?;
        let constants = lower.fills.iter().map(|(fill, slot)| match fill.source {
            Source::Const(value) => (*slot, fill.pair, value),
            other => panic!("{text}: a fill from {other:?}"),
        });
        let constants = constants.collect();
        let mut kernel =
            Kernel::lower(&parse(&empty).map_err(|e| e.to_string())?, "k", wide).map_err(|e| e.to_string())?;
        kernel.pool = lower.pool;
        let register = |i: usize| (types[i], number(i));
        Ok(Form {
            text: text.to_string(),
            inst,
            constants,
            outs: (0..outs.len()).map(register).collect(),
            ins: (outs.len()..types.len()).map(register).collect(),
            slots: lower.next_fill,
            launch: Launch {
                kernel: Arc::new(kernel),
                grid: [1; 3],
                block: [32, 1, 1],
                cluster: [1; 3],
                dynamic_shared: 0,
                params: Vec::new(),
                globals: Arc::from([]),
                memory: Space::new().snapshot(),
                settings: Settings { wide, ..Settings::default() },
                limits: Limits::default(),
            },
        })
    }

    /// Runs up to 32 rows, one per lane; lanes without a row repeat the last one.
    pub fn run(&self, rows: &[Vec<u64>], mask: u32) -> Vec<Vec<u64>> {
        let mut warp = Warp::new(0, u32::MAX, self.slots, self.slots, 0, POISON);
        for &(slot, pair, value) in &self.constants {
            fill(&mut warp, slot, if pair { Type::B64 } else { Type::B32 }, |_| value);
        }
        for (i, &(ty, slot)) in self.ins.iter().enumerate() {
            fill(&mut warp, slot, ty, |lane| rows[lane.min(rows.len() - 1)][i]);
        }
        let mut env = Env::new(&self.launch);
        // SAFETY: the function was picked by `Op::pick`, which looked at the processor's features.
        unsafe { (self.inst.run)(&mut warp, &mut env, &self.inst, mask) };
        (0..rows.len()).map(|lane| self.outs.iter().map(|&(ty, slot)| read(&warp, slot, ty, lane)).collect()).collect()
    }

    /// What an output register holds before it is written.
    fn untouched(ty: Type) -> u64 {
        let word = u32::from_ne_bytes([POISON; 4]);
        match ty {
            Type::Pred => 0,
            Type::B64 => u64::from(word) << 32 | u64::from(word),
            _ => u64::from(word),
        }
    }

    /// Runs rows of inputs and compares with the rows of outputs.
    pub fn check(&self, rows: &[(Vec<u64>, Vec<u64>)]) {
        for chunk in rows.chunks(LANES) {
            let inputs: Vec<Vec<u64>> = chunk.iter().map(|row| row.0.clone()).collect();
            for mask in [u32::MAX, 0x9669_a5c3] {
                for (lane, (got, row)) in self.run(&inputs, mask).iter().zip(chunk).enumerate() {
                    let kept: Vec<u64> = self.outs.iter().map(|o| Form::untouched(o.0)).collect();
                    let (expected, state) = if mask >> lane & 1 == 1 { (&row.1, "on") } else { (&kept, "off") };
                    assert_eq!(
                        format!("{got:#x?}"),
                        format!("{expected:#x?}"),
                        "`{}` of {:#x?}, lane {lane} {state}, wide: {}",
                        self.text,
                        row.0,
                        self.launch.settings.wide
                    );
                }
            }
        }
    }
}

fn fill(warp: &mut Warp, slot: u16, ty: Type, value: impl Fn(usize) -> u64) {
    for lane in 0..LANES {
        match ty {
            Type::Pred => warp.wp(slot, 1 << lane, (value(lane) as u32) << lane),
            Type::B64 => warp.r64_mut(slot)[lane] = value(lane),
            Type::B16 => warp.r32_mut(slot)[lane] = value(lane) as u32 & 0xffff,
            _ => warp.r32_mut(slot)[lane] = value(lane) as u32,
        }
    }
}

fn read(warp: &Warp, slot: u16, ty: Type, lane: usize) -> u64 {
    match ty {
        Type::Pred => u64::from(warp.p(slot) >> lane & 1),
        Type::B64 => warp.r64(slot)[lane],
        _ => u64::from(warp.r32(slot)[lane]),
    }
}

/// A table of one form: inputs and expected outputs.
pub fn table(text: &str, outs: &str, ins: &str, rows: &[(&[u64], &[u64])]) {
    let rows: Vec<_> = rows.iter().map(|(i, o)| (i.to_vec(), o.to_vec())).collect();
    for wide in [true, false] {
        Form::decode(text, outs, ins, wide).unwrap_or_else(|why| panic!("`{text}`: {why}")).check(&rows);
    }
}

/// All combinations of the inputs' edge values and then random ones, against an oracle for the one output.
pub fn sweep(text: &str, out: &str, ins: &str, edges: &[&[u64]], oracle: impl Fn(&[u64]) -> u64) {
    let width = |letter| match letter {
        'p' => 1,
        'h' => 0xffff,
        'w' => 0xffff_ffff,
        _ => u64::MAX,
    };
    let mut rows: Vec<Vec<u64>> = Vec::new();
    let combinations: usize = edges.iter().map(|e| e.len()).product();
    for mut n in 0..combinations {
        let mut row = Vec::new();
        for (values, letter) in edges.iter().zip(ins.chars()) {
            row.push(values[n % values.len()] & width(letter));
            n /= values.len();
        }
        rows.push(row);
    }
    let mut random = Random(text.bytes().fold(1, |h, b| h * 31 + u64::from(b)));
    for _ in 0..768 {
        rows.push(ins.chars().map(|letter| random.next() & width(letter)).collect());
    }
    let rows: Vec<_> = rows
        .into_iter()
        .map(|row| {
            let out = oracle(&row);
            (row, vec![out])
        })
        .collect();
    for wide in [true, false] {
        Form::decode(text, out, ins, wide).unwrap_or_else(|why| panic!("`{text}`: {why}")).check(&rows);
    }
}

/// Why `text` does not decode.
pub fn rejected(text: &str, outs: &str, ins: &str) -> String {
    match Form::decode(text, outs, ins, true) {
        Ok(_) => panic!("`{text}` decodes"),
        Err(why) => why,
    }
}

/// Words of two halves each: every edge value in the lower one, every one in the upper, paired in varying ways.
pub fn packed(halves: &[u64]) -> Vec<u64> {
    (0..halves.len()).map(|i| halves[i] | halves[(i * 7 + 3) % halves.len()] << 16).collect()
}

/// A small generator of test inputs.
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

/// Limits of the integer types and their neighbours; the low bits serve the narrower ones.
pub const INTEGERS: &[u64] = &[
    0,
    1,
    2,
    3,
    7,
    0x7e,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffe,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_fffe,
    u64::MAX,
];

/// Shift counts and field positions around every width.
pub const COUNTS: &[u64] = &[0, 1, 7, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 0xffff_ffff];

/// f32: zeros, subnormals, limits, ones, halves, infinities, NaNs.
pub const FLOATS: &[u64] = &[
    0,
    0x8000_0000,
    1,
    0x8000_0001,
    0x007f_ffff,
    0x807f_ffff,
    0x0080_0000,
    0x8080_0000,
    0x3f80_0000,
    0xbf80_0000,
    0x3f80_0001,
    0x3f7f_ffff,
    0x3f00_0000,
    0xbf00_0000,
    0x4020_0000,
    0xc020_0000,
    0x3380_0000,
    0x4b80_0000,
    0x4f00_0000,
    0xcf00_0001,
    0x7f7f_ffff,
    0xff7f_ffff,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
    0xff80_0001,
];

/// f16 likewise.
pub const F16S: &[u64] = &[
    0, 0x8000, 1, 0x8001, 0x03ff, 0x83ff, 0x0400, 0x8400, 0x3c00, 0xbc00, 0x3c01, 0x3bff, 0x3800, 0x4100, 0xc100,
    0x6400, 0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x7e00, 0xfc01,
];

/// bf16 likewise.
pub const BF16S: &[u64] = &[
    0, 0x8000, 1, 0x8001, 0x007f, 0x807f, 0x0080, 0x8080, 0x3f80, 0xbf80, 0x3f81, 0x3f7f, 0x3f00, 0x4020, 0xc020,
    0x2000, 0x7f7f, 0xff7f, 0x7f80, 0xff80, 0x7fc0, 0xff81,
];

/// f64 likewise.
pub const DOUBLES: &[u64] = &[
    0,
    1 << 63,
    1,
    1 << 63 | 1,
    0x000f_ffff_ffff_ffff,
    0x0010_0000_0000_0000,
    0x8010_0000_0000_0000,
    0x3ff0_0000_0000_0000,
    0xbff0_0000_0000_0000,
    0x3ff0_0000_0000_0001,
    0x3fef_ffff_ffff_ffff,
    0x3fe0_0000_0000_0000,
    0x4004_0000_0000_0000,
    0x41df_ffff_ffc0_0000,
    0x43e0_0000_0000_0000,
    0x7fef_ffff_ffff_ffff,
    0xffef_ffff_ffff_ffff,
    0x7ff0_0000_0000_0000,
    0xfff0_0000_0000_0000,
    0x7ff8_0000_0000_0000,
];
