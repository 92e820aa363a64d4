//! Running one kernel on a memory of its own.
#![allow(dead_code)]

use softgpu::check::Finding;
use softgpu::count::Counters;
use softgpu::ir::Kernel;
use softgpu::launch::{Checks, Fault, Launch, Limits, Settings, run};
use softgpu::mem::{Poison, Space};
use softgpu::ptx::{Module, parse};
use std::sync::Arc;

/// Parses a module.
pub fn load(text: &str) -> Module {
    parse(text).unwrap_or_else(|error| panic!("{error:?}"))
}

/// The access that a test is about must have survived the compiler.
#[track_caller]
pub fn assert_has(module: &Module, kernel: &str, opcode: &str) {
    let function = module.kernel(kernel).unwrap();
    let found = function.statements.iter().any(|statement| statement.opcode.starts_with(opcode));
    assert!(found, "{kernel} has no {opcode}");
}

/// Kernel arguments, laid out as the parameter block is.
#[derive(Default)]
pub struct Args(Vec<u8>);

impl Args {
    /// Bytes with an alignment, as a struct is passed.
    pub fn bytes(mut self, bytes: &[u8], align: usize) -> Args {
        while !self.0.len().is_multiple_of(align) {
            self.0.push(0);
        }
        self.0.extend_from_slice(bytes);
        self
    }
    fn put(mut self, bytes: &[u8]) -> Args {
        while !self.0.len().is_multiple_of(bytes.len()) {
            self.0.push(0);
        }
        self.0.extend_from_slice(bytes);
        self
    }
    pub fn u64(self, value: u64) -> Args {
        self.put(&value.to_le_bytes())
    }
    pub fn i32(self, value: i32) -> Args {
        self.put(&value.to_le_bytes())
    }
}

/// A device memory and the settings of its launches.
pub struct Gpu {
    pub space: Space,
    pub settings: Settings,
    pub limits: Limits,
}

/// What a launch did.
#[derive(Debug)]
pub struct Run {
    pub fault: Option<Fault>,
    pub findings: Vec<Finding>,
    pub counters: Counters,
}

impl Run {
    #[track_caller]
    pub fn assert_clean(&self) {
        let reports: Vec<String> = self.findings.iter().map(ToString::to_string).collect();
        assert!(reports.is_empty(), "{}", reports.join("\n"));
        assert!(self.fault.is_none(), "{:?}", self.fault);
    }
}

impl Gpu {
    pub fn new(seed: u64) -> Gpu {
        Gpu {
            space: Space::new(),
            settings: Settings { seed, checks: Checks::ALL, ..Settings::default() },
            limits: Limits::default(),
        }
    }

    pub fn alloc(&self, bytes: usize) -> u64 {
        self.space.alloc(bytes as u64, 0, Poison::of_seed(self.settings.seed)).unwrap()
    }

    pub fn upload_bytes(&self, bytes: &[u8]) -> u64 {
        let address = self.alloc(bytes.len());
        self.space.write(address, bytes).unwrap();
        address
    }

    pub fn upload(&self, values: &[f32]) -> u64 {
        self.upload_bytes(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
    }

    pub fn bytes(&self, address: u64, count: usize) -> Vec<u8> {
        let mut out = vec![0; count];
        self.space.read(address, &mut out).unwrap();
        out
    }

    pub fn words(&self, address: u64, count: usize) -> Vec<u32> {
        self.bytes(address, 4 * count).chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    /// Launches `ctas` CTAs of `threads` threads in one dimension.
    #[track_caller]
    pub fn launch(&self, module: &Module, kernel: &str, ctas: u32, threads: u32, shared: u32, args: Args) -> Run {
        self.launch_grid(module, kernel, ([ctas, 1, 1], [threads, 1, 1]), shared, args)
    }

    /// Launches a grid of blocks of a shape, in the clusters that the kernel asks for.
    #[track_caller]
    pub fn launch_grid(
        &self,
        module: &Module,
        kernel: &str,
        (grid, block): ([u32; 3], [u32; 3]),
        shared: u32,
        args: Args,
    ) -> Run {
        let kernel = Kernel::lower(module, kernel, self.settings.wide).unwrap_or_else(|error| panic!("{error}"));
        let mut params = args.0;
        params.resize(kernel.param_bytes as usize, 0);
        let outcome = run(&Launch {
            cluster: kernel.cluster.unwrap_or([1; 3]),
            kernel: Arc::new(kernel),
            grid,
            block,
            dynamic_shared: shared,
            params,
            globals: Arc::new([]),
            memory: self.space.snapshot(),
            settings: self.settings.clone(),
            limits: self.limits.clone(),
        });
        Run { fault: outcome.fault, findings: outcome.findings, counters: outcome.counters }
    }
}

/// The text without its `n`-th line that contains `part` and stands in kernel `kernel`, and that line; a test of a memory
/// barrier says yes instead.
pub fn without(text: &str, kernel: &str, part: &str, n: usize) -> Option<(String, String)> {
    let start = text.find(&format!(".entry {kernel}("))?;
    let end = text[start..].find("\n}\n").map_or(text.len(), |end| start + end);
    let (at, _) = text[start..end].match_indices(part).nth(n)?;
    let line = text[..start + at].rfind('\n')? + 1;
    let stop = line + text[line..].find('\n')?;
    let removed = text[line..stop].to_string();
    let instead = if part.contains("try_wait") { "setp.eq.u32 p, 0, 0; @p bra D;" } else { "" };
    // The label of the loop stays.
    let label = removed.find(": ").map_or("", |colon| &removed[..colon + 2]);
    Some((format!("{}{label}{instead}{}", &text[..line], &text[stop..]), removed))
}
