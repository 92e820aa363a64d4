//! Counters: facts about a launch that depend on program, inputs and seed alone.
//!
//! They count what a kernel asks for (instructions, sectors, wavefronts), never what hardware would make of it: there
//! are no cycles here, no caches and no occupancy.

mod global;
mod shared;

use crate::exec::access::Access;
use crate::ir::{Class, Kernel};
use std::ops::AddAssign;
use std::sync::Arc;

/// Counts by instruction while a launch runs.
#[derive(Default)]
pub struct Tally {
    /// Per instruction: how often a warp issued it, and for how many threads in all.
    pub issued: Vec<(u64, u64)>,
    /// Branches whose lanes went two ways.
    pub divergent_branches: u64,
    /// Per instruction: the index of the allocation it last touched. Not a count, but kept where counts are kept.
    pub(crate) hint: Vec<u32>,
    memory: Vec<Traffic>,
}

/// What one instruction moved.
#[derive(Clone, Copy, Default)]
struct Traffic {
    loads: GlobalTraffic,
    stores: GlobalTraffic,
    shared: SharedTraffic,
    local_bytes: u64,
}

impl Tally {
    /// All zero, for a kernel of `instructions`.
    pub fn new(instructions: usize) -> Tally {
        Tally {
            issued: vec![(0, 0); instructions],
            divergent_branches: 0,
            hint: vec![0; instructions],
            memory: vec![Traffic::default(); instructions],
        }
    }

    /// One warp issued the instruction at `pc` for the lanes of `mask`.
    #[inline(always)]
    pub fn issue(&mut self, pc: usize, mask: u32) {
        let cell = &mut self.issued[pc];
        cell.0 += 1;
        cell.1 += u64::from(mask.count_ones());
    }

    /// One warp loaded `T` bytes per lane from device memory.
    #[inline(always)]
    pub(crate) fn global_load<const T: usize>(&mut self, pc: u32, access: &Access) {
        self.memory[pc as usize].loads += global::request::<T>(access);
    }

    /// One warp stored `T` bytes per lane to device memory.
    #[inline(always)]
    pub(crate) fn global_store<const T: usize>(&mut self, pc: u32, access: &Access) {
        self.memory[pc as usize].stores += global::request::<T>(access);
    }

    /// A copy in bulk loaded bytes that lie together in device memory.
    pub(crate) fn bulk_load(&mut self, pc: u32, address: u64, bytes: u32) {
        self.memory[pc as usize].loads += global::run(address, bytes);
    }

    /// A copy in bulk stores them.
    pub(crate) fn bulk_store(&mut self, pc: u32, address: u64, bytes: u32) {
        self.memory[pc as usize].stores += global::run(address, bytes);
    }

    /// One warp loaded or stored `T` bytes of shared memory for each lane of `mask`.
    #[inline(always)]
    pub(crate) fn shared<const T: usize>(&mut self, pc: u32, access: &Access, mask: u32) {
        self.memory[pc as usize].shared += shared::request::<T>(access, mask);
    }

    /// One warp loaded or stored `bytes` bytes of local memory for each lane of `mask`.
    #[inline(always)]
    pub(crate) fn local(&mut self, pc: u32, mask: u32, bytes: usize) {
        self.memory[pc as usize].local_bytes += u64::from(mask.count_ones()) * bytes as u64;
    }
}

/// How often instructions ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Issued {
    /// Warp instructions.
    pub warp: u64,
    /// Thread instructions: lanes that were off do not count.
    pub thread: u64,
}

impl AddAssign for Issued {
    fn add_assign(&mut self, other: Issued) {
        self.warp += other.warp;
        self.thread += other.thread;
    }
}

/// Traffic with device memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GlobalTraffic {
    /// Warp requests.
    pub requests: u64,
    /// Distinct 32-byte sectors, summed over the requests.
    pub sectors: u64,
    /// The fewest sectors that could hold each request's distinct bytes, summed.
    pub minimum: u64,
    /// Bytes asked for by all threads.
    pub bytes: u64,
}

impl GlobalTraffic {
    /// Sectors requested over the fewest possible; 1 when nothing was requested.
    pub fn ratio(&self) -> f64 {
        if self.minimum == 0 { 1.0 } else { self.sectors as f64 / self.minimum as f64 }
    }
}

impl AddAssign for GlobalTraffic {
    #[inline(always)]
    fn add_assign(&mut self, other: GlobalTraffic) {
        self.requests += other.requests;
        self.sectors += other.sectors;
        self.minimum += other.minimum;
        self.bytes += other.bytes;
    }
}

/// Traffic with shared memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SharedTraffic {
    /// Warp requests.
    pub requests: u64,
    /// Passes over the 32 banks that the requests take.
    pub wavefronts: u64,
    /// Passes they would take without bank conflicts.
    pub minimum: u64,
}

impl SharedTraffic {
    /// Passes lost to bank conflicts.
    pub fn bank_conflicts(&self) -> u64 {
        self.wavefronts - self.minimum
    }
}

impl AddAssign for SharedTraffic {
    #[inline(always)]
    fn add_assign(&mut self, other: SharedTraffic) {
        self.requests += other.requests;
        self.wavefronts += other.wavefronts;
        self.minimum += other.minimum;
    }
}

/// One instruction of a kernel and what it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its place in the source.
    pub place: Arc<str>,
    /// The PTX statement.
    pub statement: Arc<str>,
    /// How often it ran.
    pub issued: Issued,
    /// What it loaded from device memory.
    pub loads: GlobalTraffic,
    /// What it stored to device memory.
    pub stores: GlobalTraffic,
    /// What it moved to or from shared memory.
    pub shared: SharedTraffic,
}

/// What a launch did, folded over its instructions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counters {
    /// Launches that these counters add up.
    pub launches: u64,
    /// All warp instructions.
    pub warp_instructions: u64,
    /// All thread instructions.
    pub thread_instructions: u64,
    /// Instructions by class, in the order of [`Class::ALL`].
    pub classes: [Issued; Class::ALL.len()],
    /// Loads from device memory.
    pub global_loads: GlobalTraffic,
    /// Stores to device memory.
    pub global_stores: GlobalTraffic,
    /// Loads and stores of shared memory.
    pub shared: SharedTraffic,
    /// Bytes of local memory loaded and stored.
    pub local_bytes: u64,
    /// Branches whose lanes went two ways.
    pub divergent_branches: u64,
    /// Additions and multiplications of matrix products: twice the product of the shape's three sides for each.
    pub matrix_flops: u64,
    /// Every instruction of the kernel; kept only while all launches added up are of one kernel.
    pub lines: Vec<Line>,
}

impl Counters {
    /// Folds the counts of one launch.
    pub fn fold(tally: &Tally, kernel: &Kernel) -> Counters {
        let mut all = Counters { launches: 1, divergent_branches: tally.divergent_branches, ..Counters::default() };
        for (pc, (inst, [place, statement])) in kernel.insts.iter().zip(kernel.lines()).enumerate() {
            let (warp, thread) = tally.issued[pc];
            let (issued, moved) = (Issued { warp, thread }, tally.memory[pc]);
            all.warp_instructions += warp;
            all.thread_instructions += thread;
            all.classes[inst.class as usize] += issued;
            if inst.class == Class::Matrix {
                all.matrix_flops += warp * flops_of(statement);
            }
            all.global_loads += moved.loads;
            all.global_stores += moved.stores;
            all.shared += moved.shared;
            all.local_bytes += moved.local_bytes;
            let Traffic { loads, stores, shared, .. } = moved;
            let (place, statement) = (place.clone(), statement.clone());
            all.lines.push(Line { place, statement, issued, loads, stores, shared });
        }
        all
    }

    /// Instructions of one class.
    pub fn class(&self, class: Class) -> Issued {
        self.classes[class as usize]
    }

    /// Special-function operations, by thread.
    pub fn special(&self) -> u64 {
        self.class(Class::Special).thread
    }

    /// Atomic operations, by thread.
    pub fn atomics(&self) -> u64 {
        self.class(Class::Atomic).thread
    }

    /// Barriers and fences, by warp.
    pub fn barriers(&self) -> u64 {
        self.class(Class::Barrier).warp
    }
}

impl AddAssign<&Counters> for Counters {
    fn add_assign(&mut self, other: &Counters) {
        // Launches of one kernel share the texts: no need to read them.
        let equal = |a: &Arc<str>, b: &Arc<str>| Arc::ptr_eq(a, b) || a == b;
        let same = |(a, b): (&Line, &Line)| equal(&a.statement, &b.statement) && equal(&a.place, &b.place);
        if self.launches == 0 {
            self.lines = other.lines.clone();
        } else if self.lines.len() == other.lines.len() && self.lines.iter().zip(&other.lines).all(same) {
            for (line, other) in self.lines.iter_mut().zip(&other.lines) {
                line.issued += other.issued;
                line.loads += other.loads;
                line.stores += other.stores;
                line.shared += other.shared;
            }
        } else {
            self.lines.clear();
        }
        self.launches += other.launches;
        self.warp_instructions += other.warp_instructions;
        self.thread_instructions += other.thread_instructions;
        for (class, other) in self.classes.iter_mut().zip(&other.classes) {
            *class += *other;
        }
        self.global_loads += other.global_loads;
        self.global_stores += other.global_stores;
        self.shared += other.shared;
        self.local_bytes += other.local_bytes;
        self.divergent_branches += other.divergent_branches;
        self.matrix_flops += other.matrix_flops;
    }
}

/// Additions and multiplications of one warp's matrix product, from the shape in its opcode: `m16n8k16`. The product of a
/// warpgroup is that of four warps.
fn flops_of(statement: &str) -> u64 {
    let sides = |shape: &str| -> Option<u64> {
        let (m, rest) = shape.strip_prefix('m')?.split_once('n')?;
        let (n, k) = rest.split_once('k')?;
        Some(m.parse::<u64>().ok()? * n.parse::<u64>().ok()? * k.parse::<u64>().ok()?)
    };
    let all = 2 * statement.split(['.', ' ']).find_map(sides).unwrap_or(0);
    if statement.contains("wgmma.") { all / 4 } else { all }
}
