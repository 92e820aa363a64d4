//! Modules and the functions in them.

use super::call::{Call, In, Out, entry};
use super::capture;
use super::code::{Code, Result};
use super::device;
use super::profile::{self, Profile, SHARED_PER_BLOCK};
use super::state::{self, DeviceId, HandleKind, Origin, State};
use crate::ctl::env;
use crate::ir::Kernel;
use crate::mem::Poison;
use crate::module::image::{self, ImageError};
use crate::module::load::{self, LoadError, Program};
use std::ffi::{c_char, c_void};
use std::sync::Arc;

/// A module in a context.
pub struct LoadedModule {
    /// The device of the context.
    pub device: DeviceId,
    /// The profile whose PTX it runs.
    pub profile: &'static Profile,
    /// Its code.
    pub program: Arc<Program>,
    /// Which entry of the image that is, for reports.
    pub origin: String,
    /// Addresses of its variables, in the order of the program.
    pub globals: Arc<[u64]>,
    /// Which module it is, for reports.
    pub order: u64,
    /// The thread that loaded it, in words.
    pub thread: String,
}

/// A kernel of a loaded module.
#[derive(Clone)]
pub struct Function {
    /// The device of the context.
    pub device: DeviceId,
    /// The module.
    pub module: Arc<LoadedModule>,
    module_handle: u64,
    /// Its symbol.
    pub name: Arc<str>,
    /// Dynamic shared memory it may be launched with, if that was set.
    pub dynamic_shared: Option<u32>,
    carveout: i32,
    large_clusters: bool,
}

impl Function {
    /// The executable form, made now if need be. What cannot be executed is named, on stderr too.
    pub fn kernel(&self, call: &Call) -> Result<Arc<Kernel>> {
        let kernel = self.module.program.kernel(&self.name);
        kernel.map_err(|error| call.unsupported(Code::NOT_SUPPORTED, &error.to_string()))
    }

    /// Whether its module is still loaded. Work that was captured keeps the code of one that is not.
    pub fn is_loaded(&self, state: &State) -> bool {
        state.modules.contains_key(&self.module_handle)
    }

    /// The most dynamic shared memory it may be launched with now.
    pub fn dynamic_limit(&self, kernel: &Kernel) -> u32 {
        self.dynamic_shared.unwrap_or(SHARED_PER_BLOCK.saturating_sub(kernel.shared.static_bytes))
    }

    /// Whether it may be launched in clusters that not every device can hold.
    pub fn large_clusters(&self) -> bool {
        self.large_clusters
    }

    /// The most threads per CTA its launch bounds allow.
    pub fn thread_limit(&self) -> u32 {
        let bounds = self.module.program.bounds(&self.name);
        let product = |shape: [u32; 3]| shape.iter().fold(1u32, |product, n| product.saturating_mul(*n));
        bounds.required.or(bounds.most).map_or(profile::THREADS_PER_BLOCK, product).min(profile::THREADS_PER_BLOCK)
    }
}

/// The function of a handle.
pub fn lookup(call: &Call, state: &State, handle: u64) -> Result<Function> {
    let unknown =
        || call.refuse(Code::INVALID_HANDLE, &format!("{handle:#x} is no function, or its module was unloaded"));
    state.functions.get(&handle).cloned().ok_or_else(unknown)
}

fn module<'s>(call: &Call, state: &'s State, handle: u64) -> Result<&'s Arc<LoadedModule>> {
    let unknown = || call.refuse(Code::INVALID_HANDLE, &format!("{handle:#x} is no module, or was unloaded"));
    state.modules.get(&handle).ok_or_else(unknown)
}

fn code_of(error: &LoadError) -> Code {
    match error {
        LoadError::Image(ImageError::CubinOnly { .. } | ImageError::NothingFits { .. }) => Code::NO_BINARY_FOR_GPU,
        LoadError::Image(ImageError::PtxVersion { .. }) => Code::UNSUPPORTED_PTX_VERSION,
        LoadError::Image(ImageError::MissingDirective { .. }) | LoadError::Ptx(_) => Code::INVALID_PTX,
        LoadError::Image(ImageError::NotAnImage | ImageError::Malformed { .. }) => Code::INVALID_IMAGE,
        LoadError::Unsupported(_) => Code::NOT_SUPPORTED,
    }
}

/// Loads an image into the current context.
fn load_image(call: &Call, out: &Out<u64>, image: &[u8]) -> Result {
    let (mut state, device) = call.context()?;
    capture::check_unsafe(call, &mut state)?;
    out.check(call)?;
    let profile = device::profile(call, &state, device);
    drop(state);
    let strict = env::defaults().strict_load;
    let (program, image_origin) = load::load(image, profile.capability, strict)
        .map_err(|error| call.unsupported(code_of(&error), &error.to_string()))?;
    let poison = Poison::of_seed(call.thread.inner().settings.seed);
    let mut globals = Vec::new();
    for variable in program.variables() {
        match state::space().alloc(variable.size.max(1), device.0, poison) {
            Ok(base) => globals.push(base),
            Err(error) => {
                free_globals(&globals);
                return Err(call.refuse(Code::OUT_OF_MEMORY, &error.to_string()));
            }
        }
    }
    if let Err(error) = program.initialise(&globals, state::space()) {
        free_globals(&globals);
        return Err(call.unsupported(code_of(&error), &error.to_string()));
    }
    let mut state = state::lock();
    for (base, variable) in globals.iter().zip(program.variables()) {
        let origin = Origin {
            bytes: variable.size.max(1),
            by: call.name,
            thread: call.thread.name().to_string(),
            device,
            ordered: None,
            freeing: None,
            module: true,
            graph: false,
        };
        state.add_allocation(*base, origin);
    }
    let order = state.new_order();
    let thread = call.thread.name().to_string();
    let loaded =
        LoadedModule { device, profile, program, origin: image_origin, globals: globals.into(), order, thread };
    let handle = state.new_handle(HandleKind::Module);
    state.modules.insert(handle, Arc::new(loaded));
    out.set(call, handle)
}

fn free_globals(globals: &[u64]) {
    for base in globals {
        // They were allocated a moment ago and nobody else knows them.
        let _ = state::space().free(*base, "a failed module load");
    }
}

/// The bytes of an image that is passed without a length.
fn load_pointer(call: &Call, out: &Out<u64>, image: In<u8>) -> Result {
    if image.raw().is_null() {
        return Err(call.invalid("the image is null"));
    }
    let first = image.raw();
    // SAFETY: `measure` reads one byte after another and stops at the end that the image itself declares; the entry's
    // contract says that the image is whole.
    let length = image::measure(|at| unsafe { *first.add(at) });
    let length = length.map_err(|error| {
        let error = LoadError::Image(error);
        call.unsupported(code_of(&error), &error.to_string())
    })?;
    // SAFETY: `measure` has found the image to be this long.
    load_image(call, out, unsafe { std::slice::from_raw_parts(first, length) })
}

/// `CU_FUNC_ATTRIBUTE_*`.
const MAX_THREADS: u32 = 0;
const SHARED_BYTES: u32 = 1;
const CONST_BYTES: u32 = 2;
const LOCAL_BYTES: u32 = 3;
const REGISTERS: u32 = 4;
const PTX_VERSION: u32 = 5;
const BINARY_VERSION: u32 = 6;
const CACHE_MODE: u32 = 7;
const MAX_DYNAMIC_SHARED: u32 = 8;
const CARVEOUT: u32 = 9;
const CLUSTER_MUST_BE_SET: u32 = 10;
const CLUSTER_WIDTH: u32 = 11;
const CLUSTER_DEPTH: u32 = 13;
const LARGE_CLUSTERS: u32 = 14;
const CLUSTER_POLICY: u32 = 15;

fn attribute(call: &Call, function: &Function, number: u32) -> Result<i64> {
    let program = &function.module.program;
    let capability = function.module.profile.capability;
    let kernel = function.kernel(call)?;
    Ok(match number {
        MAX_THREADS => function.thread_limit().into(),
        SHARED_BYTES => kernel.shared.static_bytes.into(),
        CONST_BYTES => program.constant_bytes() as i64,
        LOCAL_BYTES => kernel.local_bytes.into(),
        // Registers are ptxas' business. This is the most that the launch bounds leave it.
        REGISTERS => {
            let most = (profile::REGISTERS / function.thread_limit().max(1)).min(255);
            program.bounds(&function.name).registers.unwrap_or(most).into()
        }
        PTX_VERSION => i64::from(program.version().0 * 10 + program.version().1),
        BINARY_VERSION => i64::from(capability.major * 10 + capability.minor),
        CACHE_MODE => 0,
        MAX_DYNAMIC_SHARED => function.dynamic_limit(&kernel).into(),
        CARVEOUT => function.carveout.into(),
        CLUSTER_MUST_BE_SET => i64::from(program.bounds(&function.name).cluster == Some([0; 3])),
        CLUSTER_WIDTH..=CLUSTER_DEPTH => {
            program.bounds(&function.name).cluster.map_or(0, |sizes| sizes[(number - CLUSTER_WIDTH) as usize]).into()
        }
        LARGE_CLUSTERS => function.large_clusters.into(),
        CLUSTER_POLICY => 0,
        other => return Err(call.invalid(&format!("function attribute {other} is not known"))),
    })
}

entry! {
    fn cuModuleLoadData(call, out: Out<u64>, image: In<u8>) {
        load_pointer(call, &out, image)
    }

    /// Of the options only the error log has a meaning here: it gets the reason of a failure.
    fn cuModuleLoadDataEx(call, out: Out<u64>, image: In<u8>, count: u32, options: In<u32>, values: In<*mut c_void>) {
        const ERROR_LOG: u32 = 5;
        const ERROR_LOG_BYTES: u32 = 6;
        let (mut log, mut room) = (std::ptr::null_mut(), 0);
        for index in 0..count as usize {
            match options.get_at(call, index)? {
                ERROR_LOG => log = values.get_at(call, index)?,
                // The size itself is passed where a pointer would be.
                ERROR_LOG_BYTES => room = values.get_at(call, index)? as usize,
                _ => {}
            }
        }
        let result = load_pointer(call, &out, image);
        if result.is_err() && !log.is_null() && room > 0 {
            let text = call.thread.last_error();
            let length = text.len().min(room - 1);
            // SAFETY: the options say that `room` bytes are at `log`.
            unsafe {
                log.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), length);
                log.cast::<u8>().add(length).write(0);
            }
        }
        result
    }

    fn cuModuleLoadFatBinary(call, out: Out<u64>, image: In<u8>) {
        load_pointer(call, &out, image)
    }

    fn cuModuleLoad(call, out: Out<u64>, path: In<c_char>) {
        let path = path.text(call)?;
        match std::fs::read(&path) {
            Ok(image) => load_image(call, &out, &image),
            Err(error) => Err(call.refuse(Code::FILE_NOT_FOUND, &format!("{path}: {error}"))),
        }
    }

    fn cuModuleUnload(call, handle: u64) {
        let (mut state, _, sticky) = call.faulted_context()?;
        capture::check_unsafe(call, &mut state)?;
        let module = module(call, &state, handle)?.clone();
        for base in module.globals.iter() {
            let bytes = state.allocations.get(base).map_or(1, |origin| origin.bytes);
            state.check_release(call, *base, bytes, None, call.name);
            state.remove_allocation(*base);
            // Known to be live: it was the module's.
            let _ = state::space().free(*base, call.name);
        }
        state.modules.remove(&handle);
        state.functions.retain(|_, function| function.module_handle != handle);
        sticky.map_or(Ok(()), Err)
    }

    fn cuModuleGetFunction(call, out: Out<u64>, handle: u64, name: In<c_char>) {
        let (mut state, _) = call.context()?;
        out.check(call)?;
        let name = name.text(call)?;
        let loaded = module(call, &state, handle)?.clone();
        if !loaded.program.has_kernel(&name) {
            return Err(call.refuse(Code::NOT_FOUND, &format!("the module has no kernel `{name}`")));
        }
        let known = state.functions.iter().find(|(_, known)| known.module_handle == handle && *known.name == *name);
        if let Some((known, _)) = known {
            return out.set(call, *known);
        }
        let function = Function {
            device: loaded.device,
            module: loaded,
            module_handle: handle,
            name: name.into(),
            dynamic_shared: None,
            carveout: -1,
            large_clusters: false,
        };
        let handle = state.new_handle(HandleKind::Function);
        state.functions.insert(handle, function);
        out.set(call, handle)
    }

    fn cuModuleGetGlobal_v2(call, address: Out<u64>, bytes: Out<usize>, handle: u64, name: In<c_char>) {
        let (state, _) = call.context()?;
        let name = name.text(call)?;
        let module = module(call, &state, handle)?;
        let Some(index) = module.program.variables().iter().position(|variable| variable.name == name) else {
            return Err(call.refuse(Code::NOT_FOUND, &format!("the module has no variable `{name}`")));
        };
        address.set_if_wanted(module.globals[index]);
        bytes.set_if_wanted(module.program.variables()[index].size as usize);
        Ok(())
    }

    fn cuModuleGetFunctionCount(call, out: Out<u32>, handle: u64) {
        let (state, _) = call.context()?;
        let count = module(call, &state, handle)?.program.kernel_names().count();
        out.set(call, count as u32)
    }

    fn cuModuleGetLoadingMode(call, out: Out<u32>) {
        // Lazy: a kernel is lowered at its first launch.
        out.set(call, 2)
    }

    fn cuFuncGetModule(call, out: Out<u64>, handle: u64) {
        let (state, _) = call.context()?;
        out.set(call, lookup(call, &state, handle)?.module_handle)
    }

    fn cuFuncGetAttribute(call, out: Out<i32>, number: u32, handle: u64) {
        let (state, _) = call.context()?;
        let function = lookup(call, &state, handle)?;
        drop(state);
        let value = attribute(call, &function, number)?;
        out.set(call, i32::try_from(value).unwrap_or(i32::MAX))
    }

    fn cuFuncSetAttribute(call, handle: u64, number: u32, value: i32) {
        let (state, _) = call.context()?;
        let function = lookup(call, &state, handle)?;
        drop(state);
        match number {
            MAX_DYNAMIC_SHARED => {
                let kernel = function.kernel(call)?;
                let most = function.module.profile.shared_per_block_opt_in.saturating_sub(kernel.shared.static_bytes);
                let value = u32::try_from(value).ok().filter(|value| *value <= most);
                let Some(value) = value else {
                    return Err(call.invalid(&format!("dynamic shared memory of at most {most} bytes can be set")));
                };
                if let Some(function) = state::lock().functions.get_mut(&handle) {
                    function.dynamic_shared = Some(value);
                }
                Ok(())
            }
            CARVEOUT if (-1..=100).contains(&value) => {
                if let Some(function) = state::lock().functions.get_mut(&handle) {
                    function.carveout = value;
                }
                Ok(())
            }
            LARGE_CLUSTERS if (0..=1).contains(&value) => {
                if let Some(function) = state::lock().functions.get_mut(&handle) {
                    function.large_clusters = value == 1;
                }
                Ok(())
            }
            other => Err(call.invalid(&format!("function attribute {other} cannot be set to {value}"))),
        }
    }

    /// A preference, without effect.
    fn cuFuncSetCacheConfig(call, handle: u64, config: u32) {
        let (state, _) = call.context()?;
        lookup(call, &state, handle)?;
        if config > 3 {
            return Err(call.invalid(&format!("cache preference {config} is not known")));
        }
        Ok(())
    }

    fn cuFuncGetParamInfo(call, handle: u64, index: usize, offset: Out<usize>, bytes: Out<usize>) {
        let (state, _) = call.context()?;
        let function = lookup(call, &state, handle)?;
        let layout = function.module.program.parameters(&function.name);
        let Some(parameter) = layout.get(index) else {
            return Err(call.invalid(&format!("{} has {} parameters, no number {index}", function.name, layout.len())));
        };
        offset.set(call, parameter.offset as usize)?;
        bytes.set_if_wanted(parameter.size as usize);
        Ok(())
    }

    fn cuFuncGetParamCount(call, handle: u64, count: Out<usize>) {
        let (state, _) = call.context()?;
        let function = lookup(call, &state, handle)?;
        count.set(call, function.module.program.parameters(&function.name).len())
    }
}
