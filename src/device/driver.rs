//! The CUDA driver: found at run time, every function bound with its result as a plain `u32`.
//!
//! Handles and constants are cudarc's, so they pass between this crate and any program that uses cudarc. The calls are
//! bound here, for three reasons. `CUresult` is a Rust `enum` in the bindings, while drivers newer than the bindings
//! return codes it does not list: reading such a value as the enum is undefined behaviour, reading a `u32` is not. A
//! missing library or function panics there and is an error here. And the names below are those of the driver's binary
//! interface, which stay, whatever toolkit the bindings were made for.

use crate::error::{Error, Result};
use cudarc::driver::sys::{
    CUcontext, CUdevice_attribute, CUdeviceptr, CUevent, CUfunction, CUgraph, CUgraphExec, CUmodule, CUstream,
};
use libloading::Library;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

/// `CUDA_ERROR_OUT_OF_MEMORY`.
const OUT_OF_MEMORY: u32 = 2;

/// A memory pool. Opaque, and never dereferenced here.
pub(crate) type Pool = *mut c_void;

macro_rules! driver_functions {
    ($($name:ident = $symbol:ident ( $($arg:ident : $type:ty),* );)*) => {
        /// The functions of a loaded driver.
        ///
        /// One that an older driver lacks is an error where it is called, not where the driver is loaded.
        pub(crate) struct Driver {
            // Keeps the functions below mapped.
            _library: Library,
            $($name: Option<unsafe extern "system" fn($($type),*) -> u32>,)*
        }

        impl Driver {
            fn bind(library: Library) -> Self {
                Self {
                    $(
                        // SAFETY: a library that exports this name is a CUDA driver, and the type is the one that the
                        // driver's binary interface gives the name; CUresult is a 32-bit integer there.
                        $name: unsafe { library.get(concat!(stringify!($symbol), "\0")) }.ok().map(|found| *found),
                    )*
                    _library: library,
                }
            }

            $(
                /// Calls the driver function of that name.
                ///
                /// # Safety
                /// The arguments must be what the CUDA documentation asks of the function.
                // Some functions take many arguments; their order is the driver's.
                #[allow(clippy::too_many_arguments)]
                pub(crate) unsafe fn $name(&self, $($arg: $type),*) -> Result<()> {
                    let call = stringify!($symbol);
                    let function = self.$name.ok_or(Error::DriverTooOld { function: call })?;
                    // SAFETY: the caller vouches for the arguments.
                    match unsafe { function($($arg),*) } {
                        0 => Ok(()),
                        code => Err(Error::Driver { call, code }),
                    }
                }
            )*
        }
    };
}

driver_functions! {
    init = cuInit(flags: c_uint);
    device_get_count = cuDeviceGetCount(count: *mut c_int);
    device_get = cuDeviceGet(device: *mut c_int, ordinal: c_int);
    device_get_name = cuDeviceGetName(name: *mut c_char, len: c_int, device: c_int);
    device_get_attribute = cuDeviceGetAttribute(value: *mut c_int, attribute: CUdevice_attribute, device: c_int);
    primary_ctx_retain = cuDevicePrimaryCtxRetain(context: *mut CUcontext, device: c_int);
    ctx_push_current = cuCtxPushCurrent_v2(context: CUcontext);
    ctx_pop_current = cuCtxPopCurrent_v2(context: *mut CUcontext);
    default_mem_pool = cuDeviceGetDefaultMemPool(pool: *mut Pool, device: c_int);
    mem_pool_set_attribute = cuMemPoolSetAttribute(pool: Pool, attribute: c_uint, value: *mut c_void);

    stream_create = cuStreamCreate(stream: *mut CUstream, flags: c_uint);
    stream_destroy = cuStreamDestroy_v2(stream: CUstream);
    stream_synchronize = cuStreamSynchronize(stream: CUstream);
    stream_wait_event = cuStreamWaitEvent(stream: CUstream, event: CUevent, flags: c_uint);
    stream_get_ctx = cuStreamGetCtx(stream: CUstream, context: *mut CUcontext);
    event_create = cuEventCreate(event: *mut CUevent, flags: c_uint);
    event_record = cuEventRecord(event: CUevent, stream: CUstream);
    event_synchronize = cuEventSynchronize(event: CUevent);
    event_elapsed_time = cuEventElapsedTime(milliseconds: *mut f32, start: CUevent, end: CUevent);
    event_query = cuEventQuery(event: CUevent);
    event_destroy = cuEventDestroy_v2(event: CUevent);

    mem_alloc_async = cuMemAllocAsync(address: *mut CUdeviceptr, bytes: usize, stream: CUstream);
    mem_free_async = cuMemFreeAsync(address: CUdeviceptr, stream: CUstream);
    mem_alloc = cuMemAlloc_v2(address: *mut CUdeviceptr, bytes: usize);
    mem_free = cuMemFree_v2(address: CUdeviceptr);
    memset_d8_async = cuMemsetD8Async(to: CUdeviceptr, byte: u8, bytes: usize, stream: CUstream);
    memcpy_htod_async = cuMemcpyHtoDAsync_v2(to: CUdeviceptr, from: *const c_void, bytes: usize, stream: CUstream);
    memcpy_dtoh_async = cuMemcpyDtoHAsync_v2(to: *mut c_void, from: CUdeviceptr, bytes: usize, stream: CUstream);
    memcpy_dtod_async = cuMemcpyDtoDAsync_v2(to: CUdeviceptr, from: CUdeviceptr, bytes: usize, stream: CUstream);
    memcpy_peer_async = cuMemcpyPeerAsync(
        to: CUdeviceptr, to_context: CUcontext, from: CUdeviceptr, from_context: CUcontext, bytes: usize, stream: CUstream
    );

    begin_capture = cuStreamBeginCapture_v2(stream: CUstream, mode: c_uint);
    end_capture = cuStreamEndCapture(stream: CUstream, graph: *mut CUgraph);
    is_capturing = cuStreamIsCapturing(stream: CUstream, status: *mut c_uint);
    graph_instantiate = cuGraphInstantiateWithFlags(exec: *mut CUgraphExec, graph: CUgraph, flags: u64);
    graph_launch = cuGraphLaunch(exec: CUgraphExec, stream: CUstream);
    graph_destroy = cuGraphDestroy(graph: CUgraph);
    graph_exec_destroy = cuGraphExecDestroy(exec: CUgraphExec);

    module_load_data = cuModuleLoadData(module: *mut CUmodule, image: *const c_void);
    module_get_function = cuModuleGetFunction(function: *mut CUfunction, module: CUmodule, name: *const c_char);
    func_get_attribute = cuFuncGetAttribute(value: *mut c_int, attribute: c_int, function: CUfunction);
    func_set_attribute = cuFuncSetAttribute(function: CUfunction, attribute: c_int, value: c_int);
    func_get_param_info = cuFuncGetParamInfo(function: CUfunction, index: usize, offset: *mut usize, size: *mut usize);
    tensor_map_encode_tiled = cuTensorMapEncodeTiled(
        map: *mut c_void, kind: c_uint, rank: c_uint, address: *mut c_void, lengths: *const u64, strides: *const u64,
        box_lengths: *const u32, steps: *const u32, interleave: c_uint, swizzle: c_uint, promotion: c_uint, fill: c_uint
    );
    launch_kernel = cuLaunchKernel(
        function: CUfunction, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint,
        block_z: c_uint, shared_bytes: c_uint, stream: CUstream, params: *mut *mut c_void, extra: *mut *mut c_void
    );
}

/// The library names that cudarc tries, in its order, so that both find the same driver in one process.
#[cfg(not(windows))]
const NAMES: [&str; 8] = [
    "libcuda.so",
    "libcuda64.so",
    "libcuda.so.13",
    "libcuda.so.12",
    "libcuda.so.11",
    "libcuda.so.10",
    "libcuda.so.9",
    "libcuda.so.1",
];
#[cfg(not(windows))]
const TRIED: &str = "libcuda.so, libcuda.so.1";
#[cfg(windows)]
const NAMES: [&str; 2] = ["cuda.dll", "nvcuda.dll"];
#[cfg(windows)]
const TRIED: &str = "cuda.dll, nvcuda.dll";

/// The driver, loaded at the first call that finds one. A failure is not kept: the next call looks again.
pub(crate) fn driver() -> Result<&'static Driver> {
    static DRIVER: OnceLock<Driver> = OnceLock::new();
    if let Some(driver) = DRIVER.get() {
        return Ok(driver);
    }
    // SAFETY: these names belong to the CUDA driver, whose initialisers have no preconditions.
    let library = NAMES.iter().find_map(|name| unsafe { Library::new(*name) }.ok());
    let library = library.ok_or(Error::NoDriver { tried: TRIED })?;
    Ok(DRIVER.get_or_init(|| Driver::bind(library)))
}

/// Whether an error says that memory ran out.
pub(crate) fn is_out_of_memory(error: &Error) -> bool {
    matches!(error, Error::Driver { code: OUT_OF_MEMORY, .. })
}
