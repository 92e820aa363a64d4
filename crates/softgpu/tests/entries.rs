//! Entries of the driver that programs use seldom: each does what it says.

mod program;

use cudarc::driver::{result, sys};
use program::{ADD, FILL, check, load, only, open, open_recording};
use softgpu::ctl::{Detector, Profile, Streams};
use std::ffi::{CString, c_void};
use std::ptr::null_mut;

fn code(result: sys::CUresult) -> u32 {
    result as u32
}

fn stream() -> sys::CUstream {
    result::stream::create(result::stream::StreamKind::NonBlocking).unwrap()
}

/// A launch by `cuLaunchKernelEx` of blocks of one warp of `fill`.
fn launch_ex(
    function: sys::CUfunction,
    out: u64,
    stream: sys::CUstream,
    blocks: u32,
    attributes: &mut [(u32, [u32; 3])],
) -> u32 {
    #[repr(C)]
    struct Attribute {
        id: u32,
        padding: u32,
        value: [u32; 16],
    }
    let mut list: Vec<Attribute> = attributes
        .iter()
        .map(|(id, words)| {
            let mut value = [0; 16];
            value[..3].copy_from_slice(words);
            Attribute { id: *id, padding: 0, value }
        })
        .collect();
    assert_eq!(size_of::<Attribute>(), size_of::<sys::CUlaunchAttribute>());
    let config = sys::CUlaunchConfig {
        gridDimX: blocks,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 32,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        hStream: stream,
        attrs: list.as_mut_ptr().cast(),
        numAttrs: list.len() as u32,
    };
    let (mut out, mut n, mut value) = (out, 32u32, 1f32);
    let mut arguments: [*mut c_void; 3] = [(&raw mut out).cast(), (&raw mut n).cast(), (&raw mut value).cast()];
    // SAFETY: the function is live, the configuration and the arguments are those of the kernel.
    code(unsafe { sys::cuLaunchKernelEx(&config, function, arguments.as_mut_ptr(), null_mut()) })
}

#[test]
fn launches_with_attributes() {
    let gpu = open_recording();
    let kernel = load(FILL, "fill").unwrap();
    let stream = stream();
    let cluster_dimension = |size| (4, [size, 1, 1]);
    // SAFETY: handles are live, the slice has the size of the copy.
    unsafe {
        let memory = result::malloc_sync(128).unwrap();
        let mut host = [0f32; 32];
        for attributes in
            [vec![], vec![cluster_dimension(1)], vec![(2, [1, 0, 0])], vec![(8, [3, 0, 0]), (6, [1, 0, 0])]]
        {
            check(sys::cuMemsetD8_v2(memory, 0, 128)).unwrap();
            assert_eq!(launch_ex(kernel.function, memory, stream, 1, &mut attributes.clone()), 0, "{attributes:?}");
            result::stream::synchronize(stream).unwrap();
            result::memcpy_dtoh_sync(&mut host, memory).unwrap();
            assert_eq!(host, [1.0; 32]);
        }
        assert_eq!(launch_ex(kernel.function, memory, stream, 1, &mut [cluster_dimension(2)]), 1);
        assert!(gpu.last_error().contains("a grid of [1, 1, 1] in clusters of [2, 1, 1]"), "{}", gpu.last_error());
        assert_eq!(launch_ex(kernel.function, memory, stream, 1, &mut [(99, [0; 3])]), 801);
        result::free_sync(memory).unwrap();
        result::stream::destroy(stream).unwrap();
    }
}

#[test]
fn clusters_are_those_of_the_device() {
    const CLUSTER: u32 = 4;
    const LARGE: sys::CUfunction_attribute =
        sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED;
    let gpu = open_recording();
    let stream = stream();
    for (profile, has_clusters) in [(Profile::Sm80, false), (Profile::Sm90, true)] {
        gpu.profile(Some(profile));
        let kernel = load(FILL, "fill").unwrap();
        // SAFETY: handles are live, the slice has the size of the copy.
        unsafe {
            let memory = result::malloc_sync(128).unwrap();
            check(sys::cuMemsetD8_v2(memory, 0, 128)).unwrap();
            let launch =
                |blocks, size| launch_ex(kernel.function, memory, stream, blocks, &mut [(CLUSTER, [size, 1, 1])]);
            assert_eq!(launch(8, 1), 0);
            if !has_clusters {
                assert_eq!(launch(8, 2), 1);
                assert!(gpu.last_error().contains("on a device that has none"), "{}", gpu.last_error());
                result::free_sync(memory).unwrap();
                continue;
            }
            assert_eq!((launch(8, 2), launch(8, 8), launch(8, 3), launch(8, 0)), (0, 0, 1, 912));
            assert_eq!(launch(16, 16), 912);
            check(sys::cuFuncSetAttribute(kernel.function, LARGE, 1)).unwrap();
            assert_eq!((launch(16, 16), launch(32, 32)), (0, 912));
            result::stream::synchronize(stream).unwrap();
            let mut host = [0f32; 32];
            result::memcpy_dtoh_sync(&mut host, memory).unwrap();
            assert_eq!(host, [1.0; 32]);
            result::free_sync(memory).unwrap();
        }
    }
    gpu.profile(None);
    // SAFETY: the stream is live, and its work is done.
    unsafe { result::stream::destroy(stream).unwrap() };
}

#[test]
fn a_cooperative_grid_is_resident_at_once() {
    let gpu = open_recording();
    gpu.profile(Some(Profile::Sm90));
    let kernel = load(FILL, "fill").unwrap();
    // SAFETY: the function is live, the arguments are those of the kernel.
    unsafe {
        let memory = result::malloc_sync(128).unwrap();
        let launch = |blocks| {
            let (mut out, mut n, mut value) = (memory, 32u32, 1f32);
            let mut arguments: [*mut c_void; 3] = [(&raw mut out).cast(), (&raw mut n).cast(), (&raw mut value).cast()];
            let arguments = arguments.as_mut_ptr();
            let function = kernel.function;
            code(sys::cuLaunchCooperativeKernel(function, blocks, 1, 1, 128, 1, 1, 0, null_mut(), arguments))
        };
        // 16 CTAs of 128 threads on each of 132 multiprocessors.
        assert_eq!((launch(1), launch(132 * 16), launch(132 * 16 + 1)), (0, 0, 720));
        result::free_sync(memory).unwrap();
    }
}

#[test]
fn variables_of_a_module_are_found_and_change_what_kernels_do() {
    open();
    let kernel = load(ADD, "add").unwrap();
    // SAFETY: handles are live, sizes are those of the variables and slices.
    unsafe {
        let name = |text| CString::new(text).unwrap();
        let (address, bytes) = result::module::get_global(kernel.module, name("bias")).unwrap();
        assert_eq!(bytes, 4);
        assert_eq!(result::module::get_global(kernel.module, name("table")).unwrap().1, 16);
        assert_eq!(result::module::get_global(kernel.module, name("none")).unwrap_err().0 as u32, 500);
        assert_eq!(code(sys::cuMemFree_v2(address)), 1, "not the program's");
        result::memcpy_htod_sync(address, &[10f32]).unwrap();
        let (x, y) = (result::malloc_sync(128).unwrap(), result::malloc_sync(128).unwrap());
        result::memset_d8_sync(x, 0, 128).unwrap();
        let (mut out, mut input) = (y, x);
        kernel.launch(1, 32, null_mut(), &mut [(&raw mut out).cast(), (&raw mut input).cast()]).unwrap();
        let mut host = [0f32; 32];
        result::memcpy_dtoh_sync(&mut host, y).unwrap();
        assert_eq!(host[..4], [11.0, 12.0, 13.0, 14.0]);
        result::free_sync(x).unwrap();
        result::free_sync(y).unwrap();
        let mut count = 0;
        check(sys::cuModuleGetFunctionCount(&mut count, kernel.module)).unwrap();
        assert_eq!(count, 1);
        result::module::unload(kernel.module).unwrap();
        let gone = result::module::get_global(kernel.module, name("bias"));
        assert_eq!(gone.unwrap_err().0 as u32, 400);
    }
    softgpu::ctl::connect().unwrap().take_findings();
}

#[test]
fn pools_can_be_made_and_chosen() {
    let gpu = open_recording();
    gpu.streams(Streams::Late);
    let stream = stream();
    // SAFETY: handles are live, the structure is what the driver expects.
    unsafe {
        let mut properties: sys::CUmemPoolProps = std::mem::zeroed();
        properties.allocType = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
        properties.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
        let mut pool = null_mut();
        check(sys::cuMemPoolCreate(&mut pool, &properties)).unwrap();
        let mut memory = 0;
        check(sys::cuMemAllocFromPoolAsync(&mut memory, 1000, pool, stream)).unwrap();
        let used = || {
            let mut used = 0u64;
            let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT;
            check(sys::cuMemPoolGetAttribute(pool, attribute, (&raw mut used).cast())).unwrap();
            used
        };
        assert_eq!(used(), 1000);
        check(sys::cuMemPoolTrimTo(pool, 0)).unwrap();
        check(sys::cuMemFreeAsync(memory, stream)).unwrap();
        assert_eq!(used(), 1000, "the stream has not got there");
        result::stream::synchronize(stream).unwrap();
        assert_eq!(used(), 0);
        let (mut current, mut default) = (null_mut(), null_mut());
        check(sys::cuDeviceGetDefaultMemPool(&mut default, 0)).unwrap();
        check(sys::cuDeviceSetMemPool(0, pool)).unwrap();
        check(sys::cuDeviceGetMemPool(&mut current, 0)).unwrap();
        assert_eq!(current, pool);
        // The pool that goes gives its place to the default one, which cannot go.
        check(sys::cuMemPoolDestroy(pool)).unwrap();
        check(sys::cuDeviceGetMemPool(&mut current, 0)).unwrap();
        assert_eq!(current, default);
        assert_eq!(code(sys::cuMemPoolDestroy(default)), 1);
        assert_eq!(code(sys::cuMemPoolDestroy(pool)), 1);
        result::stream::destroy(stream).unwrap();
    }
    assert_eq!(gpu.take_findings(), vec![]);
}

#[test]
fn contexts_streams_and_pointers_answer_questions() {
    open();
    // SAFETY: handles are live, the results may be written.
    unsafe {
        let (mut least, mut greatest, mut priority, mut flags) = (1, 1, 1, 9);
        check(sys::cuCtxGetStreamPriorityRange(&mut least, &mut greatest)).unwrap();
        let mut urgent = null_mut();
        check(sys::cuStreamCreateWithPriority(&mut urgent, 1, greatest - 10)).unwrap();
        check(sys::cuStreamGetPriority(urgent, &mut priority)).unwrap();
        check(sys::cuStreamGetFlags(urgent, &mut flags)).unwrap();
        assert_eq!((least, priority, flags), (0, greatest, 1));
        let (mut of_stream, mut current, mut of_pointer) = (null_mut(), null_mut(), null_mut::<c_void>());
        check(sys::cuStreamGetCtx(urgent, &mut of_stream)).unwrap();
        check(sys::cuCtxGetCurrent(&mut current)).unwrap();
        let memory = result::malloc_sync(100).unwrap();
        let context = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_CONTEXT;
        check(sys::cuPointerGetAttribute((&raw mut of_pointer).cast(), context, memory + 99)).unwrap();
        assert_eq!((of_stream, of_pointer.cast()), (current, current));
        let (mut base, mut bytes) = (0, 0);
        check(sys::cuMemGetAddressRange_v2(&mut base, &mut bytes, memory + 99)).unwrap();
        assert_eq!((base, bytes), (memory, 100));
        assert_eq!(code(sys::cuMemGetAddressRange_v2(&mut base, &mut bytes, memory + 100)), 500);
        let (free, total) = result::mem_get_info().unwrap();
        assert!(free < total && total == result::device::total_mem(0).unwrap());
        result::free_sync(memory).unwrap();
        let stack = sys::CUlimit::CU_LIMIT_STACK_SIZE;
        let mut limit = 0;
        check(sys::cuCtxSetLimit(stack, 4096)).unwrap();
        check(sys::cuCtxGetLimit(&mut limit, stack)).unwrap();
        assert_eq!(limit, 4096);
        let mut cache = sys::CUfunc_cache::CU_FUNC_CACHE_PREFER_NONE;
        check(sys::cuCtxSetCacheConfig(sys::CUfunc_cache::CU_FUNC_CACHE_PREFER_L1)).unwrap();
        check(sys::cuCtxGetCacheConfig(&mut cache)).unwrap();
        assert_eq!(cache, sys::CUfunc_cache::CU_FUNC_CACHE_PREFER_L1);
        let kernel = load(FILL, "fill").unwrap();
        check(sys::cuFuncSetCacheConfig(kernel.function, cache)).unwrap();
        result::stream::destroy(urgent).unwrap();
        // A kernel of bounds of 128 threads, and no shared memory of its own.
        let (mut grid, mut block) = (0, 0);
        let (function, none) = (kernel.function, None);
        check(sys::cuOccupancyMaxPotentialBlockSize(&mut grid, &mut block, function, none, 0, 0)).unwrap();
        assert_eq!((block, grid % 132), (128, 0));
    }
}

#[test]
fn memory_goes_from_one_device_to_another() {
    let gpu = open_recording();
    gpu.devices(&[Profile::Sm90, Profile::Sm80]);
    gpu.streams(Streams::Late);
    // SAFETY: handles are live, sizes are those of the slices.
    unsafe {
        let (first, second) = (result::primary_ctx::retain(0).unwrap(), result::primary_ctx::retain(1).unwrap());
        let here = result::malloc_sync(16).unwrap();
        result::memcpy_htod_sync(here, &[1u32, 2, 3, 4]).unwrap();
        result::ctx::set_current(second).unwrap();
        let there = result::malloc_sync(16).unwrap();
        let own = stream();
        assert_eq!(code(sys::cuMemcpyPeerAsync(there, first, here, second, 16, own)), 1, "the contexts are exchanged");
        check(sys::cuMemcpyPeer(there, second, here, first, 8)).unwrap();
        check(sys::cuMemcpyPeerAsync(there + 8, second, here + 8, first, 8, own)).unwrap();
        assert_eq!(code(sys::cuMemcpyPeerAsync(there + 8, second, here + 8, first, 9, own)), 1, "past the end");
        assert_eq!(only(gpu.take_findings()).detector, Detector::OUT_OF_BOUNDS);
        result::stream::synchronize(own).unwrap();
        let mut host = [0u32; 4];
        result::memcpy_dtoh_sync(&mut host, there).unwrap();
        assert_eq!(host, [1, 2, 3, 4]);
        result::free_sync(there).unwrap();
        result::stream::destroy(own).unwrap();
        result::ctx::set_current(first).unwrap();
        result::free_sync(here).unwrap();
        result::primary_ctx::release(1).unwrap();
        result::primary_ctx::release(0).unwrap();
    }
    assert_eq!(gpu.take_findings(), vec![]);
}

#[test]
fn a_failed_load_writes_its_reason_to_the_log_of_the_caller() {
    open();
    let text = CString::new(FILL.replace(".b32 %r<6>", ".b32 %r<")).unwrap();
    let mut log = vec![1u8; 256];
    let mut options =
        [sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER, sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    let mut values = [log.as_mut_ptr().cast::<c_void>(), std::ptr::without_provenance_mut(log.len())];
    let mut module = null_mut();
    let (options, values) = (options.as_mut_ptr(), values.as_mut_ptr());
    // SAFETY: the text is NUL-terminated, and the log has the length that the options say.
    let failed = unsafe { sys::cuModuleLoadDataEx(&mut module, text.as_ptr().cast(), 2, options, values) };
    let said = std::ffi::CStr::from_bytes_until_nul(&log).unwrap().to_string_lossy();
    assert!(failed as u32 == 218 && said.contains("PTX line"), "{said}");
}
