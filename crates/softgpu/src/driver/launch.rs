//! Kernel launches: what a launch must satisfy before it is enqueued, and how it runs.

use super::call::{Call, In, entry};
use super::capture;
use super::code::{Code, Result};
use super::function::{self, Function};
use super::occupancy;
use super::profile::{BLOCK_LIMITS, GRID_LIMITS, THREADS_PER_BLOCK};
use super::queue::{self, Operation};
use super::state::{self, DeviceId, State};
use crate::ctl::env;
use crate::ctl::types::{Detector, Finding, LaunchRecord};
use crate::ir::Kernel;
use crate::launch::{Launch, Limits, Settings, run};
use std::ffi::c_void;
use std::sync::Arc;

/// A launch that was accepted.
#[derive(Clone)]
pub struct KernelWork {
    function: Function,
    kernel: Arc<Kernel>,
    grid: [u32; 3],
    block: [u32; 3],
    cluster: [u32; 3],
    dynamic_shared: u32,
    params: Vec<u8>,
    /// As they were when it was submitted.
    settings: Settings,
}

impl KernelWork {
    /// The kernel's symbol.
    pub fn name(&self) -> &str {
        &self.function.name
    }

    /// Whether the module of the kernel is still loaded.
    pub fn is_loaded(&self, state: &State) -> bool {
        self.function.is_loaded(state)
    }

    /// The same launch with the settings of whoever launches it now.
    pub fn again(&self, settings: Settings) -> Box<KernelWork> {
        Box::new(KernelWork { settings, ..self.clone() })
    }

    /// Words of the parameters that could be pointers, and the variables of its module.
    pub fn addresses(&self) -> Vec<u64> {
        let words = self.params.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()));
        // Parameter blocks are full of small numbers; no allocation lies that low.
        let pointers = words.filter(|word| *word >= crate::mem::windows::FIRST_ALLOCATION);
        pointers.chain(self.function.module.globals.iter().copied()).collect()
    }

    /// Runs it, with the memory as it is now.
    pub fn run(&self, operation: &Operation, device: DeviceId) -> Result {
        let profile = self.function.module.profile;
        let launch = Launch {
            kernel: self.kernel.clone(),
            grid: self.grid,
            block: self.block,
            cluster: self.cluster,
            dynamic_shared: self.dynamic_shared,
            params: self.params.clone(),
            globals: self.function.module.globals.clone(),
            memory: state::space().snapshot_of(device.0),
            settings: self.settings.clone(),
            limits: Limits {
                shared_per_block: profile.shared_per_block_opt_in,
                shared_per_unit: profile.shared_per_multiprocessor,
                units: profile.multiprocessors,
            },
        };
        let outcome = run(&launch);
        let owner = &operation.owner;
        if !outcome.printed.is_empty() {
            owner.print(&outcome.printed);
        }
        let mut failed = false;
        for finding in &outcome.findings {
            let finding = Finding { submission: Some(operation.label.clone()), ..Finding::from(finding) };
            failed |= owner.report(finding);
        }
        let record = LaunchRecord {
            kernel: self.name().to_string(),
            grid: self.grid,
            block: self.block,
            dynamic_shared: self.dynamic_shared,
            seed: self.settings.seed,
            image: self.function.module.origin.clone(),
            code: outcome.fault.as_ref().map_or(0, |fault| fault.code),
        };
        if env::defaults().trace_kernels {
            eprintln!(
                "softgpu: {}: {record}: {} warp instructions",
                operation.label, outcome.counters.warp_instructions
            );
        }
        if env::defaults().counters {
            eprintln!("softgpu: counters of {}: {:?}", record.kernel, outcome.counters);
        }
        owner.record_launch(record, outcome.counters);
        let Some(fault) = outcome.fault else {
            return if failed { Err(Code::LAUNCH_FAILED) } else { Ok(()) };
        };
        // A finding that failed the launch is the reason for the fault, and has been reported.
        if outcome.findings.is_empty() {
            let text = match &fault.at {
                Some(at) => format!("{}\n  in {at}\n  seed {}", fault.text, self.settings.seed),
                None => fault.text.clone(),
            };
            let (submission, at) = (Some(operation.label.clone()), fault.at.clone());
            owner.report(Finding { detector: Detector::FAULT, text, at, submission });
        }
        Err(Code(fault.code))
    }
}

/// The shape of a launch as it is asked for.
struct Shape {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    cooperative: bool,
    /// CTAs of a cluster, where the launch says so.
    cluster: Option<[u32; 3]>,
}

/// Everything hardware refuses before a kernel starts.
fn check_shape(call: &Call, function: &Function, kernel: &Kernel, shape: &Shape) -> Result {
    let Shape { grid, block, shared, cooperative, .. } = shape;
    let name = &function.name;
    for (what, shape, limits) in [("grid", grid, GRID_LIMITS), ("block", block, BLOCK_LIMITS)] {
        if (0..3).any(|axis| shape[axis] == 0 || shape[axis] > limits[axis]) {
            return Err(call.invalid(&format!("{name}: a {what} of {shape:?}; each size is 1 to {limits:?}")));
        }
    }
    let threads: u64 = block.iter().map(|size| u64::from(*size)).product();
    if threads > u64::from(THREADS_PER_BLOCK) {
        return Err(call.invalid(&format!("{name}: {threads} threads per block, {THREADS_PER_BLOCK} is the most")));
    }
    let bounds = function.module.program.bounds(name);
    if bounds.required.is_some_and(|required| required != *block) {
        return Err(call.invalid(&format!("{name}: a block of {block:?}, .reqntid is {:?}", bounds.required)));
    }
    if threads > u64::from(function.thread_limit()) {
        let most = function.thread_limit();
        return Err(call.invalid(&format!("{name}: {threads} threads per block, its launch bounds allow {most}")));
    }
    check_cluster(call, function, bounds.cluster, shape)?;
    let allowed = function.dynamic_limit(kernel);
    if *shared > allowed {
        let text = format!(
            "{name}: {shared} bytes of dynamic shared memory, {allowed} are allowed \
             (CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES raises it)"
        );
        return Err(call.invalid(&text));
    }
    if *cooperative {
        let blocks: u64 = grid.iter().map(|size| u64::from(*size)).product();
        let profile = function.module.profile;
        let resident = occupancy::blocks_per_multiprocessor(profile, kernel, threads as u32, *shared);
        let room = u64::from(resident) * u64::from(profile.multiprocessors);
        if blocks > room {
            let text = format!("{name}: a cooperative grid of {blocks} blocks, {room} are resident at once");
            return Err(call.refuse(Code::COOPERATIVE_LAUNCH_TOO_LARGE, &text));
        }
    }
    Ok(())
}

/// The cluster of a launch: what the kernel's PTX asks for, or the launch.
fn cluster_of(declared: Option<[u32; 3]>, shape: &Shape) -> [u32; 3] {
    declared.filter(|sizes| *sizes != [0; 3]).or(shape.cluster).unwrap_or([1; 3])
}

/// The most CTAs of a cluster on every device that has clusters, and where the kernel allows more.
const CLUSTER: u32 = 8;
const LARGE_CLUSTER: u32 = 16;

fn check_cluster(call: &Call, function: &Function, declared: Option<[u32; 3]>, shape: &Shape) -> Result {
    let (name, cluster) = (&function.name, cluster_of(declared, shape));
    let size = cluster.iter().try_fold(1u32, |size, n| size.checked_mul(*n)).unwrap_or(u32::MAX);
    if declared == Some([0; 3]) && shape.cluster.is_none() {
        return Err(call.invalid(&format!("{name}: .explicitcluster, and the launch names no cluster")));
    }
    if shape.cluster.is_some_and(|asked| asked != cluster) {
        let text = format!("{name}: clusters of {:?}, and its PTX declares {cluster:?}", shape.cluster);
        return Err(call.refuse(Code::INVALID_CLUSTER_SIZE, &text));
    }
    if cluster == [1; 3] {
        return Ok(());
    }
    if function.module.profile.capability.major < 9 {
        return Err(call.invalid(&format!("{name}: clusters of {cluster:?} on a device that has none")));
    }
    let most = if function.large_clusters() { LARGE_CLUSTER } else { CLUSTER };
    if size == 0 || size > most {
        let text = format!("{name}: clusters of {cluster:?}, {most} CTAs are the most");
        return Err(call.refuse(Code::INVALID_CLUSTER_SIZE, &text));
    }
    if (0..3).any(|axis| !shape.grid[axis].is_multiple_of(cluster[axis])) {
        return Err(call.invalid(&format!("{name}: a grid of {:?} in clusters of {cluster:?}", shape.grid)));
    }
    Ok(())
}

/// Keys of the `extra` list.
const EXTRA_END: usize = 0;
const EXTRA_BUFFER: usize = 1;
const EXTRA_BYTES: usize = 2;

/// The parameter block: each argument copied to the place and with the size that the PTX declares.
fn parameters(call: &Call, function: &Function, arguments: &In<In<u8>>, extra: &In<usize>) -> Result<Vec<u8>> {
    let layout = function.module.program.parameters(&function.name);
    let size = layout.last().map_or(0, |last| (last.offset + last.size) as usize);
    let mut block = vec![0; size];
    if layout.is_empty() {
        return Ok(block);
    }
    if !arguments.raw().is_null() {
        for (index, parameter) in layout.iter().enumerate() {
            let argument = arguments.get_at(call, index)?;
            if argument.raw().is_null() {
                return Err(call.invalid(&format!("{}: argument {index} is null", function.name)));
            }
            let (at, size) = (parameter.offset as usize, parameter.size as usize);
            // SAFETY: the entry's contract says that argument `index` points to a value of the declared size.
            let value = unsafe { std::slice::from_raw_parts(argument.raw(), size) };
            block[at..at + size].copy_from_slice(value);
        }
        return Ok(block);
    }
    if extra.raw().is_null() {
        return Err(call.invalid(&format!("{}: no arguments, {} are declared", function.name, layout.len())));
    }
    let (mut buffer, mut bytes) = (0, None);
    for pair in 0.. {
        match extra.get_at(call, 2 * pair)? {
            EXTRA_END => break,
            EXTRA_BUFFER => buffer = extra.get_at(call, 2 * pair + 1)?,
            EXTRA_BYTES => {
                let size = extra.get_at(call, 2 * pair + 1)?;
                // SAFETY: the extra list says that a size is stored there.
                bytes = Some(unsafe { In::<usize>::at(size) }.get(call)?);
            }
            other => return Err(call.invalid(&format!("{}: key {other} in the extra list", function.name))),
        }
    }
    if buffer == 0 || bytes != Some(size) {
        let text = format!("{}: a parameter buffer of {bytes:?} bytes, {size} are declared", function.name);
        return Err(call.invalid(&text));
    }
    // SAFETY: the extra list says that `size` bytes are at `buffer`.
    block.copy_from_slice(unsafe { std::slice::from_raw_parts(buffer as *const u8, size) });
    Ok(block)
}

fn launch(call: &Call, handle: u64, shape: Shape, stream: u64, arguments: In<In<u8>>, extra: In<usize>) -> Result {
    let (mut state, device) = call.context()?;
    let stream = capture::stream_for_work(call, &mut state, device, stream)?;
    let function = function::lookup(call, &state, handle)?;
    // Lowering a kernel takes a while.
    drop(state);
    if function.device != device {
        let text = format!(
            "{} belongs to device {}, the current context to device {}",
            function.name, function.device.0, device.0
        );
        return Err(call.refuse(Code::INVALID_HANDLE, &text));
    }
    let mut kernel = function.kernel(call)?;
    let omitted = call.thread.inner().omitted.clone();
    if let Some((_, pc)) = omitted.filter(|(name, _)| **name == *function.name) {
        let text = || format!("instruction {pc} of {} cannot be left out", function.name);
        kernel = Arc::new(kernel.without(pc).ok_or_else(|| call.invalid(&text()))?);
    }
    check_shape(call, &function, &kernel, &shape)?;
    let params = parameters(call, &function, &arguments, &extra)?;
    let cluster = cluster_of(function.module.program.bounds(&function.name).cluster, &shape);
    let settings = call.thread.inner().settings.clone();
    let work = KernelWork {
        function,
        kernel,
        grid: shape.grid,
        block: shape.block,
        cluster,
        dynamic_shared: shape.shared,
        params,
        settings,
    };
    let (mut state, _) = call.context()?;
    if !state.streams.contains_key(&stream) {
        return Err(call.refuse(Code::INVALID_HANDLE, "another thread destroyed the stream meanwhile"));
    }
    let position = state.submit(call, stream, super::work::Work::Kernel(Box::new(work)));
    queue::settle(call, state, stream, position)
}

/// `CUlaunchConfig`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LaunchConfig {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: u64,
    attributes: *const LaunchAttribute,
    count: u32,
}

/// `CUlaunchAttribute`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LaunchAttribute {
    id: u32,
    padding: u32,
    value: [u32; 16],
}

/// `CU_LAUNCH_ATTRIBUTE_*`.
const COOPERATIVE: u32 = 2;
const CLUSTER_DIMENSION: u32 = 4;
/// Hints about caches, priority, overlap and synchronisation: a schedule that ignores them is a legal one.
const HINTS: [u32; 9] = [0, 1, 3, 5, 6, 8, 9, 10, 14];

entry! {
    fn cuLaunchKernel(
        call, function: u64, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
        shared: u32, stream: u64, arguments: In<In<u8>>, extra: In<usize>
    ) {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        launch(call, function, Shape { grid, block, shared, cooperative: false, cluster: None }, stream, arguments, extra)
    }

    fn cuLaunchCooperativeKernel(
        call, function: u64, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
        shared: u32, stream: u64, arguments: In<In<u8>>
    ) {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let shape = Shape { grid, block, shared, cooperative: true, cluster: None };
        // SAFETY: null is always allowed.
        launch(call, function, shape, stream, arguments, unsafe { In::at(0) })
    }

    fn cuLaunchKernelEx(
        call, config: In<LaunchConfig>, function: u64, arguments: In<In<u8>>, extra: In<usize>
    ) {
        let config = config.get(call)?;
        let LaunchConfig { grid, block, shared, .. } = config;
        let mut shape = Shape { grid, block, shared, cooperative: false, cluster: None };
        // SAFETY: the configuration says that `count` attributes are there.
        let attributes = unsafe { In::<LaunchAttribute>::at(config.attributes as usize) };
        for index in 0..config.count as usize {
            let attribute = attributes.get_at(call, index)?;
            match attribute.id {
                COOPERATIVE => shape.cooperative = attribute.value[0] != 0,
                CLUSTER_DIMENSION => {
                    let [x, y, z, ..] = attribute.value;
                    shape.cluster = Some([x, y, z]);
                }
                hint if HINTS.contains(&hint) => {}
                other => {
                    let text = format!("launch attribute {other} is not implemented");
                    return Err(call.unsupported(Code::NOT_SUPPORTED, &text));
                }
            }
        }
        launch(call, function, shape, config.stream, arguments, extra)
    }
}

/// The C layout that the driver API documents.
const _: () = {
    assert!(size_of::<LaunchConfig>() == 56);
    assert!(size_of::<LaunchAttribute>() == 72);
    assert!(size_of::<*const c_void>() == 8);
};
