//! One kernel launch: what goes in, what comes out.

use std::sync::Arc;

use crate::check::Finding;
use crate::count::Counters;
use crate::ir::Kernel;
use crate::mem::Snapshot;
pub use crate::sched::run;

/// CUDA error codes that a launch can end with.
pub mod code {
    /// `CUDA_ERROR_INVALID_VALUE`: the shape of the launch.
    pub const INVALID_VALUE: u32 = 1;
    /// `CUDA_ERROR_ILLEGAL_ADDRESS`.
    pub const ILLEGAL_ADDRESS: u32 = 700;
    /// `CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES`.
    pub const OUT_OF_RESOURCES: u32 = 701;
    /// `CUDA_ERROR_LAUNCH_TIMEOUT`: the step limit, or a hang.
    pub const TIMEOUT: u32 = 702;
    /// `CUDA_ERROR_ASSERT`.
    pub const ASSERT: u32 = 710;
    /// `CUDA_ERROR_HARDWARE_STACK_ERROR`: calls nested too deep.
    pub const STACK: u32 = 714;
    /// `CUDA_ERROR_ILLEGAL_INSTRUCTION`: an operand that the instruction cannot have.
    pub const ILLEGAL_INSTRUCTION: u32 = 715;
    /// `CUDA_ERROR_MISALIGNED_ADDRESS`.
    pub const MISALIGNED: u32 = 716;
    /// `CUDA_ERROR_INVALID_PC`: a call through a pointer to no function.
    pub const INVALID_PC: u32 = 718;
    /// `CUDA_ERROR_LAUNCH_FAILED`: a trap, or a finding of the checks.
    pub const LAUNCH_FAILED: u32 = 719;
    /// `CUDA_ERROR_NOT_SUPPORTED`.
    pub const NOT_SUPPORTED: u32 = 801;
}

/// Which checks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Reads of bytes that nobody wrote.
    pub init: bool,
    /// Shared-memory races.
    pub race: bool,
}

impl Checks {
    /// Everything.
    pub const ALL: Checks = Checks { init: true, race: true };
    /// Only what hardware would fault on.
    pub const NONE: Checks = Checks { init: false, race: false };
}

/// How a launch is run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// 0: the plain schedule. Others: warp order, quanta, splits, CTA order and poison drawn from it.
    pub seed: u64,
    /// Checks.
    pub checks: Checks,
    /// Whether a load of bytes that nobody wrote is reported where it stands, used or not; else only what decides an
    /// address, a branch or a barrier, or is stored to device memory.
    pub strict_init: bool,
    /// Whether a finding fails the launch (719) or is only recorded.
    pub findings_fail: bool,
    /// Run only these CTAs (linear index, x fastest); `None` runs all.
    pub only_ctas: Option<Arc<[u64]>>,
    /// Address ranges that the launch must write exactly once, byte by byte, and nothing else; empty: not checked.
    pub watch: Arc<[std::ops::Range<u64>]>,
    /// Warp instructions after which the launch ends with 702.
    pub step_limit: u64,
    /// Whether to use the AVX2 build of the operations where the processor has it.
    pub wide: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            seed: 0,
            checks: Checks::ALL,
            strict_init: false,
            findings_fail: true,
            only_ctas: None,
            watch: Arc::new([]),
            step_limit: 1 << 32,
            wide: true,
        }
    }
}

impl Settings {
    /// The byte that fresh memory and registers hold: NaN as a float under even seeds, a large finite number under odd.
    pub fn poison(&self) -> u8 {
        if self.seed.is_multiple_of(2) { 0xFF } else { 0x7F }
    }
}

/// Limits of the device that a launch is held to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of shared memory a CTA may have, static and dynamic together.
    pub shared_per_block: u32,
    /// Bytes of shared memory of one multiprocessor.
    pub shared_per_unit: u32,
    /// Multiprocessors.
    pub units: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { shared_per_block: 232_448, shared_per_unit: 233_472, units: 132 }
    }
}

/// One launch.
#[derive(Clone)]
pub struct Launch {
    /// The lowered kernel.
    pub kernel: Arc<Kernel>,
    /// CTAs in x, y, z.
    pub grid: [u32; 3],
    /// Threads per CTA in x, y, z.
    pub block: [u32; 3],
    /// CTAs of a cluster in x, y, z; one where there are none.
    pub cluster: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
    /// The parameter block, laid out as the kernel's `params` say.
    pub params: Vec<u8>,
    /// Device addresses of the module's `.global` and `.const` variables, in the order of `ptx::Module::variables`.
    pub globals: Arc<[u64]>,
    /// The memory it may touch.
    pub memory: Snapshot,
    /// How to run it.
    pub settings: Settings,
    /// Limits of the device.
    pub limits: Limits,
}

/// A place in a kernel's execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Where {
    /// Kernel symbol.
    pub kernel: String,
    /// `file.cu:line`, with the chain of inlined calls.
    pub place: String,
    /// The PTX statement.
    pub statement: String,
    /// Its index in the kernel.
    pub pc: u32,
    /// CTA.
    pub cta: [u32; 3],
    /// Warp in the CTA.
    pub warp: u32,
    /// Lane in the warp.
    pub lane: u32,
}

impl std::fmt::Display for Where {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [x, y, z] = self.cta;
        write!(
            f,
            "{} at {}: `{}` (pc {}), CTA ({x}, {y}, {z}), warp {}, lane {}",
            self.kernel, self.place, self.statement, self.pc, self.warp, self.lane
        )
    }
}

/// Why a launch ended early, or why it failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// CUDA error code.
    pub code: u32,
    /// What happened, in one sentence.
    pub text: String,
    /// Where; `None` when the launch never started.
    pub at: Option<Where>,
}

/// What a launch did.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// `None`: success.
    pub fault: Option<Fault>,
    /// What the checks found, in order.
    pub findings: Vec<Finding>,
    /// What `printf` printed.
    pub printed: Vec<u8>,
    /// What it executed.
    pub counters: Counters,
}
