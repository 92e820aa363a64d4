//! The C side of control: structures that carry their own size, and one list of the exported functions.

use std::ffi::{c_char, c_void};

/// What [`softgpu_abi`](super::export::softgpu_abi) answers. It changes when a function changes its meaning.
pub const VERSION: u32 = 1;

/// Settings of the calling host thread. `size` is the size of the structure as the caller knows it: a shorter one
/// leaves the rest as it is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SettingsC {
    /// `sizeof` of this structure.
    pub size: u32,
    /// 0 sync, 1 late, 2 seeded.
    pub streams: u32,
    /// Seed of the schedule.
    pub seed: u64,
    /// Whether reads of bytes that nobody wrote are found.
    pub check_init: u32,
    /// Whether races are found.
    pub check_race: u32,
    /// Whether a finding fails the operation.
    pub findings_fail: u32,
    /// Whether reports are printed on stderr.
    pub echo: u32,
    /// Warp instructions after which a launch is ended.
    pub step_limit: u64,
    /// 80, 90, or 0 for what the device is.
    pub profile: u32,
    /// Whether the AVX2 build of the operations may be used.
    pub wide: u32,
    /// Whether reads of bytes that nobody wrote are reported where they stand, used or not.
    pub strict_init: u32,
    /// Zero.
    pub reserved: u32,
}

/// A finding. Texts are NUL-terminated and live during the callback; `kernel`, `place` and `statement` are null when it
/// is not about a kernel, `submission` when the text says all.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FindingC {
    /// `sizeof` of this structure.
    pub size: u32,
    /// Instruction in the kernel.
    pub pc: u32,
    /// CTA.
    pub cta: [u32; 3],
    /// Warp in the CTA.
    pub warp: u32,
    /// Lane in the warp.
    pub lane: u32,
    /// Zero.
    pub reserved: u32,
    /// Kind of the finding.
    pub detector: *const c_char,
    /// What happened.
    pub text: *const c_char,
    /// Kernel symbol.
    pub kernel: *const c_char,
    /// `file.cu:line`.
    pub place: *const c_char,
    /// PTX statement.
    pub statement: *const c_char,
    /// The operation.
    pub submission: *const c_char,
}

/// Something that was not given back.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LeakC {
    /// `sizeof` of this structure.
    pub size: u32,
    /// 0 memory, 1 pinned memory, 2 stream, 3 event, 4 module.
    pub kind: u32,
    /// Which one it is.
    pub order: u64,
    /// Its length, for memory.
    pub bytes: u64,
    /// The host thread that made it.
    pub made_by: *const c_char,
    /// The thing in words.
    pub what: *const c_char,
}

/// A launch that was executed.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LaunchC {
    /// `sizeof` of this structure.
    pub size: u32,
    /// The error it ended with.
    pub code: u32,
    /// CTAs.
    pub grid: [u32; 3],
    /// Threads per CTA.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
    /// Zero.
    pub reserved: u32,
    /// Seed of its schedule.
    pub seed: u64,
    /// Kernel symbol.
    pub kernel: *const c_char,
    /// Which PTX of the image ran.
    pub image: *const c_char,
}

/// One instruction of a kernel in its counters.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LineC {
    /// `sizeof` of this structure.
    pub size: u32,
    /// How many of `words` there are.
    pub count: u32,
    /// Numbers in the order of `softgpu_counters`' line part.
    pub words: *const u64,
    /// `file.cu:line`.
    pub place: *const c_char,
    /// PTX statement.
    pub statement: *const c_char,
}

/// Called once for each thing of a list.
pub type Each<T> = unsafe extern "C" fn(data: *mut c_void, item: *const T);

/// Lists the exported functions for a macro that declares, resolves or compares them.
macro_rules! control_functions {
    ($with:ident) => {
        $with! {
            softgpu_abi: fn() -> u32;
            softgpu_get_settings: fn(*mut SettingsC);
            softgpu_set_settings: fn(*const SettingsC) -> u32;
            softgpu_devices: fn(*const c_char) -> u32;
            softgpu_memory_limit: fn(u32, u64) -> u32;
            softgpu_fail: fn(*const c_char, u64, u32) -> u32;
            softgpu_fail_clear: fn();
            softgpu_fail_waiting: fn() -> u64;
            softgpu_calls: fn(*const c_char) -> u64;
            softgpu_only_ctas: fn(*const u64, usize);
            softgpu_omit: fn(*const c_char, u32);
            softgpu_watch: fn(*const u64, usize);
            softgpu_forget: fn(u64, u64) -> u32;
            softgpu_first_unwritten: fn(u64, u64, *mut u64) -> u32;
            softgpu_generate: fn(u64, u64, u64) -> u32;
            softgpu_read: fn(u64, *mut c_void, usize) -> u32;
            softgpu_write: fn(u64, *const c_void, usize) -> u32;
            softgpu_counters: fn(*const c_char, *mut u64, usize) -> usize;
            softgpu_counter_lines: fn(*const c_char, Each<LineC>, *mut c_void) -> usize;
            softgpu_reset_counters: fn();
            softgpu_take_findings: fn(Each<FindingC>, *mut c_void) -> usize;
            softgpu_leaks: fn(u32, Each<LeakC>, *mut c_void) -> usize;
            softgpu_take_leaks: fn(Each<LeakC>, *mut c_void) -> usize;
            softgpu_take_launches: fn(Each<LaunchC>, *mut c_void) -> usize;
            softgpu_take_printed: fn(*mut c_char, usize) -> usize;
            softgpu_last_error: fn(*mut c_char, usize) -> usize;
        }
    };
}
pub(crate) use control_functions;
