//! Launching PTX text straight through [`softgpu::launch::run`], without the driver.

use std::sync::Arc;

use softgpu::ir::Kernel;
use softgpu::launch::{Launch, Limits, Outcome, Settings, run};
use softgpu::mem::{Poison, Space};
use softgpu::module::image::Capability;
use softgpu::module::load::load;
use softgpu::ptx::parse;

/// A device address space and what launches need besides it.
pub struct Machine {
    /// Device memory.
    pub space: Space,
    /// How launches run.
    pub settings: Settings,
}

#[allow(dead_code)] // every test file uses its own part
impl Machine {
    /// With all checks, seed 0.
    pub fn new() -> Machine {
        Machine { space: Space::new(), settings: Settings::default() }
    }

    /// The same with a seed.
    pub fn seeded(seed: u64) -> Machine {
        Machine { space: Space::new(), settings: Settings { seed, ..Settings::default() } }
    }

    /// Device memory holding `data`.
    pub fn upload<T: Copy>(&self, data: &[T]) -> u64 {
        let at = self.alloc(size_of_val(data) as u64);
        // SAFETY: the slice's memory, read as bytes; T has no padding in these tests (numbers only).
        let bytes = unsafe { std::slice::from_raw_parts(data.as_ptr().cast::<u8>(), size_of_val(data)) };
        self.space.write(at, bytes).unwrap();
        at
    }

    /// Fresh device memory.
    pub fn alloc(&self, bytes: u64) -> u64 {
        self.space.alloc(bytes, 0, Poison::of_seed(self.settings.seed)).unwrap()
    }

    /// `count` values from device memory.
    pub fn words(&self, at: u64, count: usize) -> Vec<u32> {
        let mut bytes = vec![0; count * 4];
        self.space.read(at, &mut bytes).unwrap();
        bytes.chunks(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    /// `count` floats from device memory.
    pub fn floats(&self, at: u64, count: usize) -> Vec<f32> {
        self.words(at, count).into_iter().map(f32::from_bits).collect()
    }

    /// Runs kernel `name` of `ptx`.
    pub fn run(&self, ptx: &str, name: &str, grid: u32, block: u32, params: &[u8]) -> Outcome {
        self.run_with(ptx, name, [grid, 1, 1], [block, 1, 1], 0, params)
    }

    /// The same with everything that a launch has.
    pub fn run_with(
        &self,
        ptx: &str,
        name: &str,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared: u32,
        params: &[u8],
    ) -> Outcome {
        let (program, _) =
            load(ptx.as_bytes(), Capability { major: 9, minor: 0 }, false).unwrap_or_else(|e| panic!("{e}"));
        let globals: Arc<[u64]> = program.variables().iter().map(|v| self.alloc(v.size)).collect();
        program.initialise(&globals, &self.space).unwrap();
        let kernel = if self.settings.wide {
            program.kernel(name)
        } else {
            Kernel::lower(&parse(ptx).unwrap(), name, false).map(Arc::new)
        };
        run(&Launch {
            kernel: kernel.unwrap_or_else(|e| panic!("{e}")),
            grid,
            block,
            cluster: [1; 3],
            dynamic_shared,
            params: params.to_vec(),
            globals,
            memory: self.space.snapshot(),
            settings: self.settings.clone(),
            limits: Limits::default(),
        })
    }
}

/// A kernel `k(.param .u64 out)` with `body`, ten registers of each type, and the address of thread `tid`'s word of
/// `out` in `%rd0`, its `%tid.x` in `%r0`.
#[allow(dead_code)]
pub fn kernel(body: &str) -> String {
    format!(
        ".version 9.0
.target sm_80
.address_size 64
.visible .entry k(.param .u64 out)
{{
    .reg .pred %p<10>;
    .reg .b16 %h<10>;
    .reg .b32 %r<10>;
    .reg .f32 %f<10>;
    .reg .b64 %rd<10>;
    mov.u32 %r0, %tid.x;
    ld.param.u64 %rd0, [out];
    mad.wide.u32 %rd0, %r0, 4, %rd0;
{body}
}}
"
    )
}

/// Processor time of this thread in seconds: other processes on the machine do not count.
#[allow(dead_code)]
pub fn cpu_seconds() -> f64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a timespec that the call may write to.
    let rc = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    assert_eq!(rc, 0);
    now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9
}
