//! `make resources`: what every kernel uses, as ptxas reported it during the build, and the occupancy that allows.

use std::fmt;

/// Written by the build script: one line per kernel and architecture.
const TABLE: &str = include_str!(concat!(env!("OUT_DIR"), "/resources.tsv"));

/// What one multiprocessor can hold (CUDA programming guide, compute capabilities).
struct Multiprocessor {
    warps: u32,
    blocks: u32,
    registers: u32,
    shared: u32,
}

/// Warp limit, block limit and register file are the same on both; only shared memory differs.
fn multiprocessor(arch: &str) -> Multiprocessor {
    let shared = if arch == "sm_80" { 164 << 10 } else { 228 << 10 };
    Multiprocessor { warps: 64, blocks: 32, registers: 65536, shared }
}

/// How many blocks fit, and what runs out first.
struct Occupancy {
    blocks: u32,
    warps: u32,
    of: u32,
    limit: &'static str,
}

impl Occupancy {
    /// Registers are handed out per warp in units of 256; each block costs 1 KiB of shared memory beside its own.
    fn of(sm: &Multiprocessor, threads: u32, registers: u32, shared: u32) -> Occupancy {
        let warps = threads.div_ceil(32);
        let file = (registers * 32).next_multiple_of(256) * warps;
        let limits = [
            (sm.warps / warps, "warps"),
            (sm.blocks, "blocks"),
            (sm.registers.checked_div(file).unwrap_or(u32::MAX), "registers"),
            (sm.shared / (shared + 1024).next_multiple_of(128), "shared memory"),
        ];
        let (blocks, limit) = limits.into_iter().min_by_key(|(blocks, _)| *blocks).expect("four limits");
        Occupancy { blocks, warps: blocks * warps, of: sm.warps, limit }
    }
}

impl fmt::Display for Occupancy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = 100 * self.warps / self.of;
        write!(f, "{percent:3} % ({} blocks, {} warps; {})", self.blocks, self.warps, self.limit)
    }
}

fn main() {
    println!(
        "{:<44} {:<7} {:>7} {:>9} {:>7} {:>8} {:>6} {:>6}  occupancy without dynamic shared memory (limited by)",
        "kernel", "arch", "threads", "registers", "shared", "barriers", "stack", "spills"
    );
    let mut spilling = 0;
    let mut kernels = 0;
    for line in TABLE.lines().skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        let numbers: Vec<u32> = fields[3..].iter().map(|field| field.parse().expect("a number")).collect();
        let &[threads, registers, shared, barriers, stack, stores, loads] = numbers.as_slice() else {
            panic!("resources.tsv has a line with {} columns: {line}", fields.len());
        };
        let occupancy = match threads {
            0 => "unknown: the kernel has no launch bounds".to_string(),
            _ => Occupancy::of(&multiprocessor(fields[2]), threads, registers, shared).to_string(),
        };
        println!(
            "{:<44} {:<7} {threads:>7} {registers:>9} {shared:>7} {barriers:>8} {stack:>6} {:>6}  {occupancy}",
            fields[1],
            fields[2],
            stores + loads
        );
        kernels += 1;
        spilling += u32::from(stores + loads > 0);
    }
    println!("{kernels} kernels, {spilling} of them spill registers to memory");
}
