//! The devices there are to be: tables of limits, not models of speed.

use crate::module::image::Capability;

/// What a device says about itself.
#[derive(Debug, PartialEq, Eq)]
pub struct Profile {
    /// How it is chosen, `sm_80` for one.
    pub key: &'static str,
    /// What `cuDeviceGetName` answers.
    pub name: &'static str,
    /// Compute capability.
    pub capability: Capability,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Threads that one multiprocessor holds at once.
    pub threads_per_multiprocessor: u32,
    /// CTAs that one multiprocessor holds at once.
    pub blocks_per_multiprocessor: u32,
    /// Bytes of shared memory of one multiprocessor.
    pub shared_per_multiprocessor: u32,
    /// Bytes of shared memory one CTA may have after opting in.
    pub shared_per_block_opt_in: u32,
    /// Bytes of shared memory that the system takes of every CTA.
    pub reserved_shared_per_block: u32,
    /// Bytes of L2 cache.
    pub l2_bytes: u32,
    /// Bytes of device memory.
    pub memory_bytes: u64,
    /// Clock of the multiprocessors in kHz.
    pub clock_khz: u32,
    /// Clock of the memory in kHz.
    pub memory_clock_khz: u32,
    /// Width of the memory bus in bits.
    pub bus_bits: u32,
}

/// Bytes of shared memory a CTA may have without opting in.
pub const SHARED_PER_BLOCK: u32 = 48 << 10;
/// Threads of a CTA.
pub const THREADS_PER_BLOCK: u32 = 1024;
/// Registers of a multiprocessor, and of a CTA.
pub const REGISTERS: u32 = 65_536;
/// Limits of a CTA's shape.
pub const BLOCK_LIMITS: [u32; 3] = [1024, 1024, 64];
/// Limits of a grid's shape.
pub const GRID_LIMITS: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];

/// Like an A100 with 40 GB.
pub static SM_80: Profile = Profile {
    key: "sm_80",
    name: "softgpu sm_80 (A100-like)",
    capability: Capability { major: 8, minor: 0 },
    multiprocessors: 108,
    threads_per_multiprocessor: 2048,
    blocks_per_multiprocessor: 32,
    shared_per_multiprocessor: 167_936,
    shared_per_block_opt_in: 166_912,
    reserved_shared_per_block: 1024,
    l2_bytes: 40 << 20,
    memory_bytes: 40 << 30,
    clock_khz: 1_410_000,
    memory_clock_khz: 1_215_000,
    bus_bits: 5120,
};

/// Like an H200.
pub static SM_90: Profile = Profile {
    key: "sm_90",
    name: "softgpu sm_90 (H200-like)",
    capability: Capability { major: 9, minor: 0 },
    multiprocessors: 132,
    threads_per_multiprocessor: 2048,
    blocks_per_multiprocessor: 32,
    shared_per_multiprocessor: 233_472,
    shared_per_block_opt_in: 232_448,
    reserved_shared_per_block: 1024,
    l2_bytes: 60 << 20,
    memory_bytes: 141 << 30,
    clock_khz: 1_980_000,
    memory_clock_khz: 3_201_000,
    bus_bits: 6144,
};

/// All profiles.
pub static ALL: [&Profile; 2] = [&SM_80, &SM_90];

/// The profile of a name such as `sm_80`.
pub fn by_key(key: &str) -> Option<&'static Profile> {
    ALL.into_iter().find(|profile| profile.key == key)
}

/// Reads a list such as `sm_90` or `sm_80,sm_90`: one device for each entry.
pub fn parse_devices(list: &str) -> Option<Vec<&'static Profile>> {
    let profiles: Option<Vec<_>> = list.split(',').map(|key| by_key(key.trim())).collect();
    profiles.filter(|profiles| !profiles.is_empty())
}

/// The devices that `SOFTGPU_DEVICE` asks for; without it one of the newer kind.
pub fn devices_of_environment() -> Vec<&'static Profile> {
    let Ok(list) = std::env::var("SOFTGPU_DEVICE") else { return vec![&SM_90] };
    parse_devices(&list).unwrap_or_else(|| {
        eprintln!("softgpu: SOFTGPU_DEVICE={list} is not a list of sm_80 and sm_90; using sm_90");
        vec![&SM_90]
    })
}

impl Profile {
    /// The answer of `cuDeviceGetAttribute`, or `None` for a number that is not known.
    ///
    /// Features that are not implemented are answered as absent, so that a program takes another way.
    pub fn attribute(&self, number: i32, ordinal: u32) -> Option<i32> {
        let value = match number {
            1 => THREADS_PER_BLOCK,
            2..=4 => BLOCK_LIMITS[number as usize - 2],
            5..=7 => GRID_LIMITS[number as usize - 5],
            8 => SHARED_PER_BLOCK,
            9 => 65_536,           // constant memory
            10 => 32,              // warp size
            11 => i32::MAX as u32, // pitch
            12 => REGISTERS,
            13 => self.clock_khz,
            14 => 512, // texture alignment
            15 => 1,   // copies overlap kernels
            16 => self.multiprocessors,
            17..=18 => 0,      // run-time limit; integrated
            19 => 0,           // mapped host memory
            20 => 0,           // compute mode: default
            21..=29 => 0,      // textures
            30 => 512,         // surface alignment
            31 => 1,           // concurrent kernels
            32 => 1,           // ECC
            33 => ordinal + 1, // PCI bus
            34 => 0,           // PCI device
            35 => 0,           // TCC
            36 => self.memory_clock_khz,
            37 => self.bus_bits,
            38 => self.l2_bytes,
            39 => self.threads_per_multiprocessor,
            40 => 3,      // copy engines
            41 => 1,      // unified addressing
            42..=50 => 0, // textures; PCI domain
            51 => 32,     // texture pitch alignment
            52..=74 => 0, // textures and surfaces
            75 => self.capability.major,
            76 => self.capability.minor,
            77 => 0,
            78 => 1,      // stream priorities
            79 | 80 => 1, // L1 for global and local memory
            81 => self.shared_per_multiprocessor,
            82 => REGISTERS,
            83..=86 => 0, // managed memory, boards, native host atomics
            87 => 2,      // single to double ratio
            88..=94 => 0, // pageable access, preemption, stream memory operations
            95 => 1,      // cooperative launch
            96 => 0,
            97 => self.shared_per_block_opt_in,
            98..=105 => 0, // host registration, virtual memory, handle types
            106 => self.blocks_per_multiprocessor,
            107..=110 => 0, // compression, L2 persistence
            111 => self.reserved_shared_per_block,
            112..=114 => 0,
            115 => 1,                                     // memory pools
            116..=118 => 0,                               // RDMA
            119 => 0,                                     // handle types of pools
            120 => u32::from(self.capability.major >= 9), // cluster launch
            127 => u32::from(self.capability.major >= 9), // tensor maps
            121..=161 => 0,
            _ => return None,
        };
        i32::try_from(value).ok()
    }
}
