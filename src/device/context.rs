//! The primary context of a GPU: shared with every other CUDA user of the process, and made current for each call.

use super::driver::{Driver, Pool, driver};
use crate::error::{Error, Result};
use crate::plan::Caps;
use cudarc::driver::sys::{CUcontext, CUdevice_attribute as Attribute};
use std::collections::BTreeMap;
use std::ffi::{CStr, c_int};
use std::marker::PhantomData;
use std::ptr;
use std::sync::{Mutex, PoisonError};

/// The oldest compute capability that the kernels are compiled for.
const OLDEST: (u32, u32) = (8, 0);

/// `CU_MEMPOOL_ATTR_RELEASE_THRESHOLD`.
const RELEASE_THRESHOLD: u32 = 4;

/// The primary context of one GPU.
///
/// It is retained once and kept for the life of the process, as the CUDA runtime does. So no stream, buffer or kernel
/// can outlive it, whatever order a program drops them in.
pub(crate) struct Context {
    driver: &'static Driver,
    ordinal: usize,
    raw: CUcontext,
    caps: Caps,
    has_pools: bool,
    name: String,
}

// SAFETY: a context handle may be made current on any thread; the driver locks what calls share.
unsafe impl Send for Context {}
// SAFETY: as above; all fields are read-only after construction.
unsafe impl Sync for Context {}

impl Context {
    /// The context of GPU `ordinal`, made at the first call that succeeds.
    pub(crate) fn of(ordinal: usize) -> Result<&'static Self> {
        static CONTEXTS: Mutex<BTreeMap<usize, &'static Context>> = Mutex::new(BTreeMap::new());
        // The map is only changed by the last line, which does not panic: a poisoned lock still guards a whole map.
        let mut contexts = CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(context) = contexts.get(&ordinal) {
            return Ok(context);
        }
        let context: &'static Self = Box::leak(Box::new(Self::open(ordinal)?));
        contexts.insert(ordinal, context);
        Ok(context)
    }

    fn open(ordinal: usize) -> Result<Self> {
        let driver = driver()?;
        let (mut count, mut device): (c_int, c_int) = (0, 0);
        // SAFETY: no precondition; a second call is harmless.
        unsafe { driver.init(0) }?;
        // SAFETY: `count` is writable; the driver is initialised.
        unsafe { driver.device_get_count(&mut count) }?;
        let count = usize::try_from(count).unwrap_or(0);
        if ordinal >= count {
            return Err(Error::NoSuchDevice { ordinal, count });
        }
        // SAFETY: `device` is writable, and `ordinal` was compared with the count.
        unsafe { driver.device_get(&mut device, ordinal as c_int) }?;
        let attribute = |attribute| -> Result<u32> {
            let mut value: c_int = 0;
            // SAFETY: `value` is writable and `device` came from the driver.
            unsafe { driver.device_get_attribute(&mut value, attribute, device) }?;
            Ok(u32::try_from(value).unwrap_or(0))
        };
        let caps = Caps {
            compute_capability: (
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            sm_count: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            max_threads_per_sm: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR)?,
            shared_per_sm: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)?,
            max_shared_optin: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            l2_bytes: u64::from(attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?),
        };
        if caps.compute_capability < OLDEST {
            return Err(Error::Capability { ordinal, found: caps.compute_capability, needed: OLDEST });
        }
        let has_pools = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED)? > 0;
        if has_pools {
            keep_freed_memory(driver, device)?;
        }
        let mut name = [0; 256];
        // SAFETY: the buffer is writable for the length given.
        unsafe { driver.device_get_name(name.as_mut_ptr().cast(), name.len() as c_int, device) }?;
        let name = CStr::from_bytes_until_nul(&name).unwrap_or_default().to_string_lossy().into_owned();
        // Last, so that no failure above leaves the context retained.
        let mut raw: CUcontext = ptr::null_mut();
        // SAFETY: `raw` is writable and `device` came from the driver.
        unsafe { driver.primary_ctx_retain(&mut raw, device) }?;
        Ok(Self { driver, ordinal, raw, caps, has_pools, name })
    }

    pub(crate) fn ordinal(&self) -> usize {
        self.ordinal
    }

    pub(crate) fn caps(&self) -> &Caps {
        &self.caps
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether stream-ordered allocation is available.
    pub(crate) fn has_pools(&self) -> bool {
        self.has_pools
    }

    pub(crate) fn raw(&self) -> CUcontext {
        self.raw
    }

    /// Makes the context current on this thread until the guard is dropped, which restores the one before.
    pub(crate) fn enter(&self) -> Result<Entered> {
        // SAFETY: `self.raw` is retained for the life of the process.
        unsafe { self.driver.ctx_push_current(self.raw) }?;
        Ok(Entered { driver: self.driver, _thread: PhantomData })
    }
}

/// By default a pool returns all free memory to the system at every synchronisation, and the next allocation is slow.
fn keep_freed_memory(driver: &Driver, device: c_int) -> Result<()> {
    let mut pool: Pool = ptr::null_mut();
    let mut threshold = u64::MAX;
    // SAFETY: `pool` is writable and `device` came from the driver.
    unsafe { driver.default_mem_pool(&mut pool, device) }?;
    // SAFETY: the pool came from the driver, and this attribute is read from a 64-bit integer.
    unsafe { driver.mem_pool_set_attribute(pool, RELEASE_THRESHOLD, (&raw mut threshold).cast()) }
}

/// A context is current on this thread.
///
/// The guard also gives access to the driver, so that a call that needs a context cannot be written without one.
pub(crate) struct Entered {
    driver: &'static Driver,
    // The current context belongs to the thread: the guard must not leave it.
    _thread: PhantomData<*const ()>,
}

impl std::ops::Deref for Entered {
    type Target = Driver;

    fn deref(&self) -> &Driver {
        self.driver
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut popped: CUcontext = ptr::null_mut();
        // A failure leaves our context current on this thread, which no call of this crate depends on.
        // SAFETY: `popped` is writable, and `enter` pushed a context on this thread.
        let _ = unsafe { self.driver.ctx_pop_current(&mut popped) };
    }
}
