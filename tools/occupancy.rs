//! How many blocks of a kernel a multiprocessor holds, from what ptxas reported.

use std::fmt;

/// What one multiprocessor can hold (CUDA programming guide, compute capabilities).
pub struct Multiprocessor {
    warps: u32,
    blocks: u32,
    registers: u32,
    shared: u32,
}

/// Warp limit, block limit and register file are the same on both; only shared memory differs.
pub fn multiprocessor(arch: &str) -> Multiprocessor {
    let shared = if arch == "sm_80" { 164 << 10 } else { 228 << 10 };
    Multiprocessor { warps: 64, blocks: 32, registers: 65536, shared }
}

/// How many blocks fit, and what runs out first.
pub struct Occupancy {
    pub blocks: u32,
    pub warps: u32,
    pub of: u32,
    pub limit: &'static str,
}

impl Occupancy {
    /// Registers are handed out per warp in units of 256; each block costs 1 KiB of shared memory beside its own.
    /// Blocks of so many threads, with registers per thread and bytes of shared memory per block.
    pub fn of(sm: &Multiprocessor, threads: u32, registers: u32, shared: u32) -> Occupancy {
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
