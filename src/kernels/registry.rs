//! From the name of a kernel to a function that can be launched: each image is loaded once per GPU, at its first use.

use super::{KernelId, images};
use crate::device::Context;
use crate::error::{Error, Result};
use cudarc::driver::sys::{CUfunction, CUmodule};
use std::collections::HashMap;
use std::ffi::{CString, c_int};
use std::ptr;
use std::sync::{Mutex, PoisonError, RwLock};

/// `CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK`.
const MAX_THREADS_PER_BLOCK: c_int = 0;
/// `CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES`: shared memory that the kernel declares itself.
const SHARED_SIZE_BYTES: c_int = 1;
/// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`.
const MAX_DYNAMIC_SHARED_SIZE_BYTES: c_int = 8;

/// A kernel, ready to be launched.
#[derive(Clone, Copy)]
pub(super) struct Function {
    pub(super) raw: CUfunction,
    /// Size of its parameter block.
    pub(super) params_bytes: usize,
    /// Most threads of a block.
    pub(super) max_threads: u64,
    /// Most bytes of shared memory that a launch may add.
    pub(super) max_dynamic_shared: u64,
}

// SAFETY: a function handle may be launched from any thread; its module is never unloaded.
unsafe impl Send for Function {}
// SAFETY: as above; the fields are read-only.
unsafe impl Sync for Function {}

#[derive(Clone, Copy)]
struct Module(CUmodule);

// SAFETY: a module handle may be used from any thread, and the module is never unloaded.
unsafe impl Send for Module {}

/// The function of `id` on the GPU of `context`, whose parameter block must have `params_bytes` bytes.
///
/// Contexts live as long as the process, so they are told apart by the number of their GPU.
pub(super) fn function(context: &'static Context, id: KernelId, params_bytes: usize) -> Result<Function> {
    static FUNCTIONS: RwLock<Option<HashMap<(usize, KernelId), Function>>> = RwLock::new(None);
    let key = (context.ordinal(), id);
    // Entries are inserted whole: a poisoned lock still guards a whole map.
    let known =
        FUNCTIONS.read().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(|map| map.get(&key).copied());
    let function = match known {
        Some(function) => function,
        None => {
            let function = find(context, id)?;
            let mut functions = FUNCTIONS.write().unwrap_or_else(PoisonError::into_inner);
            functions.get_or_insert_default().insert(key, function);
            function
        }
    };
    if function.params_bytes != params_bytes {
        let (wanted, found) = (params_bytes, function.params_bytes);
        return Err(Error::KernelParams { symbol: id.symbol(), wanted, found });
    }
    Ok(function)
}

fn find(context: &'static Context, id: KernelId) -> Result<Function> {
    let module = module(context, id)?;
    let driver = context.enter()?;
    let symbol = CString::new(id.symbol()).expect("symbols have no NUL");
    let mut raw: CUfunction = ptr::null_mut();
    // SAFETY: `raw` is writable, the module is loaded in the current context, the symbol is NUL-terminated.
    unsafe { driver.module_get_function(&mut raw, module.0, symbol.as_ptr()) }?;
    let attribute = |attribute| -> Result<u64> {
        let mut value: c_int = 0;
        // SAFETY: `value` is writable, and the function belongs to the current context.
        unsafe { driver.func_get_attribute(&mut value, attribute, raw) }?;
        Ok(u64::try_from(value).unwrap_or(0))
    };
    let max_dynamic = u64::from(context.caps().max_shared_optin).saturating_sub(attribute(SHARED_SIZE_BYTES)?);
    // SAFETY: the function belongs to the current context; the value is below the limit that the GPU states.
    unsafe { driver.func_set_attribute(raw, MAX_DYNAMIC_SHARED_SIZE_BYTES, max_dynamic as c_int) }?;
    let max_threads = attribute(MAX_THREADS_PER_BLOCK)?;
    let (mut offset, mut params_bytes) = (0usize, 0usize);
    // SAFETY: both results are writable.
    unsafe { driver.func_get_param_info(raw, 0, &mut offset, &mut params_bytes) }?;
    // A kernel takes one block by value. A second parameter would make the driver read past the list we pass.
    let (mut next_offset, mut next_bytes) = (0usize, 0usize);
    // SAFETY: as above; the call fails if there is no second parameter.
    if unsafe { driver.func_get_param_info(raw, 1, &mut next_offset, &mut next_bytes) }.is_ok() {
        return Err(Error::KernelParams { symbol: id.symbol(), wanted: params_bytes, found: next_offset + next_bytes });
    }
    Ok(Function { raw, params_bytes, max_threads, max_dynamic_shared: max_dynamic })
}

/// The loaded image that holds `id`.
fn module(context: &'static Context, id: KernelId) -> Result<Module> {
    static MODULES: Mutex<Option<HashMap<(usize, &'static str), Module>>> = Mutex::new(None);
    let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
    let modules = modules.get_or_insert_default();
    let key = (context.ordinal(), id.image());
    if let Some(module) = modules.get(&key) {
        return Ok(*module);
    }
    let image = images().iter().find(|(name, _)| *name == id.image()).map(|(_, image)| *image);
    let image = image.ok_or_else(|| Error::NoImage { symbol: id.symbol(), image: id.image() })?;
    let mut raw: CUmodule = ptr::null_mut();
    // SAFETY: a context is current, `raw` is writable, and the image is a whole fatbin, which states its own length.
    unsafe { context.enter()?.module_load_data(&mut raw, image.as_ptr().cast()) }?;
    modules.insert(key, Module(raw));
    Ok(Module(raw))
}
