//! The whole path of a program, through unmodified bindings: open, allocate, copy, load, launch, time, read back.

mod program;

use cudarc::driver::{result, sys};
use program::{ADD, FILL, check, load, only, open, open_recording};
use softgpu::ctl::{Detector, Profile};
use std::ffi::{CString, c_void};

fn stream() -> sys::CUstream {
    result::stream::create(result::stream::StreamKind::NonBlocking).unwrap()
}

#[test]
fn a_program_opens_copies_launches_and_reads_back() {
    let gpu = open();
    let stream = stream();
    let count = 1000u32;
    let kernel = load(FILL, "fill").unwrap();
    // SAFETY: the handles are live and the sizes those of the slices.
    unsafe {
        let memory = result::malloc_async(stream, 4 * count as usize).unwrap();
        let (mut out, mut n, mut value) = (memory, count, 2.5f32);
        let arguments: &mut [*mut c_void] = &mut [(&raw mut out).cast(), (&raw mut n).cast(), (&raw mut value).cast()];
        kernel.launch(8, 128, stream, arguments).unwrap();
        let mut host = vec![0f32; count as usize];
        result::memcpy_dtoh_async(&mut host, memory, stream).unwrap();
        result::stream::synchronize(stream).unwrap();
        assert!(host.iter().all(|value| *value == 2.5));
        result::free_async(memory, stream).unwrap();
        result::module::unload(kernel.module).unwrap();
        result::stream::destroy(stream).unwrap();
    }
    let launches = gpu.take_launches();
    assert_eq!((launches.len(), &*launches[0].kernel, launches[0].grid), (1, "fill", [8, 1, 1]));
    assert_eq!(launches[0].image, "PTX text for sm_80");
    assert_eq!(gpu.take_findings(), vec![]);
    assert_eq!(gpu.leaks(), vec![]);
}

/// A fatbin as nvcc writes it: 16 bytes of header, then entries of a header and a payload each.
fn fatbin(entries: &[(u16, u32, u64, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (kind, arch, flags, payload) in entries {
        let mut header = [0u8; 64];
        header[0..2].copy_from_slice(&kind.to_le_bytes());
        header[4..8].copy_from_slice(&64u32.to_le_bytes());
        header[8..16].copy_from_slice(&(payload.len() as u64).to_le_bytes());
        header[28..32].copy_from_slice(&arch.to_le_bytes());
        header[40..48].copy_from_slice(&flags.to_le_bytes());
        body.extend_from_slice(&header);
        body.extend_from_slice(payload);
    }
    let mut image = 0xBA55_ED50u32.to_le_bytes().to_vec();
    image.extend_from_slice(&[1, 0, 16, 0]);
    image.extend_from_slice(&(body.len() as u64).to_le_bytes());
    image.extend(body);
    image
}

#[test]
fn a_fatbin_loads_the_ptx_of_the_device() {
    let gpu = open();
    let newer = FILL.replace("sm_80", "sm_90a").replace("%f1;\nDONE", "0f40400000;\nDONE");
    let image = fatbin(&[(2, 80, 0x11, b"\x7fELF"), (1, 80, 0x11, FILL.as_bytes()), (1, 90, 0x11, newer.as_bytes())]);
    for (profile, capability, expected) in [(Profile::Sm80, 8, 1.0), (Profile::Sm90, 9, 3.0)] {
        gpu.profile(Some(profile));
        let major = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR;
        // SAFETY: the device exists; the image is whole; arguments and sizes are those of the kernel.
        unsafe {
            assert_eq!(result::device::get_attribute(0, major).unwrap(), capability);
            let module = result::module::load_data(image.as_ptr().cast()).unwrap();
            let function = result::module::get_function(module, CString::new("fill").unwrap()).unwrap();
            let kernel = program::Kernel { module, function };
            let memory = result::malloc_sync(4 * 32).unwrap();
            let (mut out, mut n, mut value) = (memory, 32u32, 1f32);
            let arguments: &mut [*mut c_void] =
                &mut [(&raw mut out).cast(), (&raw mut n).cast(), (&raw mut value).cast()];
            kernel.launch(1, 32, std::ptr::null_mut(), arguments).unwrap();
            let mut host = [0f32; 32];
            result::memcpy_dtoh_sync(&mut host, memory).unwrap();
            assert_eq!(host, [expected; 32]);
            result::free_sync(memory).unwrap();
            result::module::unload(module).unwrap();
        }
    }
    let images: Vec<String> = gpu.take_launches().into_iter().map(|launch| launch.image).collect();
    assert_eq!(images, ["PTX for sm_80 of a fatbin", "PTX for sm_90a of a fatbin"]);
}

#[test]
fn module_variables_have_their_values_and_addresses() {
    let gpu = open();
    let kernel = load(ADD, "add").unwrap();
    // SAFETY: the handles are live and the sizes those of the variables and slices.
    unsafe {
        let (bias, bytes) = result::module::get_global(kernel.module, CString::new("bias").unwrap()).unwrap();
        assert_eq!(bytes, 4);
        assert!(result::module::get_global(kernel.module, CString::new("bids").unwrap()).is_err());
        let input = result::malloc_sync(128).unwrap();
        result::memcpy_htod_sync(input, &[10f32; 32]).unwrap();
        let output = result::malloc_sync(128).unwrap();
        let mut host = [0f32; 32];
        for (value, expected) in [(1.5f32, [12.5f32, 13.5, 14.5, 15.5]), (100.0, [111.0, 112.0, 113.0, 114.0])] {
            result::memcpy_htod_sync(bias, &[value]).unwrap();
            let (mut out, mut from) = (output, input);
            kernel.launch(1, 32, std::ptr::null_mut(), &mut [(&raw mut out).cast(), (&raw mut from).cast()]).unwrap();
            result::memcpy_dtoh_sync(&mut host, output).unwrap();
            assert_eq!(host[4..8], expected);
        }
        result::free_sync(input).unwrap();
        result::free_sync(output).unwrap();
        result::module::unload(kernel.module).unwrap();
    }
    assert_eq!(gpu.leaks(), vec![]);
}

#[test]
fn events_time_and_order() {
    open();
    let stream = stream();
    let (timed, untimed) = (sys::CUevent_flags::CU_EVENT_DEFAULT, sys::CUevent_flags::CU_EVENT_DISABLE_TIMING);
    let [start, end, never] = [timed; 3].map(|flags| result::event::create(flags).unwrap());
    let silent = result::event::create(untimed).unwrap();
    // SAFETY: the handles are live.
    unsafe {
        for event in [start, end, silent] {
            result::event::record(event, stream).unwrap();
        }
        assert!(result::event::elapsed(start, end).unwrap() >= 0.0);
        assert!(result::event::elapsed(end, start).unwrap() <= 0.0);
        assert!(result::event::elapsed(start, never).is_err());
        assert!(result::event::elapsed(start, silent).is_err());
        // An event that was never recorded counts as reached.
        result::event::query(never).unwrap();
        for event in [start, end, never, silent] {
            result::event::destroy(event).unwrap();
        }
        assert!(result::event::query(start).is_err());
        result::stream::destroy(stream).unwrap();
        assert!(result::stream::synchronize(stream).is_err());
    }
}

#[test]
fn parameter_sizes_come_from_the_ptx() {
    open();
    let kernel = load(FILL, "fill").unwrap();
    let info = |index| {
        let (mut offset, mut size) = (0, 0);
        // SAFETY: the function is live, and both numbers may be written.
        let code = unsafe { sys::cuFuncGetParamInfo(kernel.function, index, &mut offset, &mut size) };
        check(code).map(|()| (offset, size))
    };
    assert_eq!([info(0), info(1), info(2)], [Ok((0, 8)), Ok((8, 4)), Ok((12, 4))]);
    assert_eq!(info(3), Err(sys::CUresult::CUDA_ERROR_INVALID_VALUE));
}

#[test]
fn launches_that_hardware_refuses_are_refused() {
    let gpu = open();
    let kernel = load(FILL, "fill").unwrap();
    let launch = |grid: (u32, u32, u32), block: (u32, u32, u32), shared: u32| {
        let (mut out, mut n, mut value) = (0u64, 0u32, 0f32);
        let arguments: &mut [*mut c_void] = &mut [(&raw mut out).cast(), (&raw mut n).cast(), (&raw mut value).cast()];
        // SAFETY: the function is live and has these arguments.
        let result =
            unsafe { result::launch_kernel(kernel.function, grid, block, shared, std::ptr::null_mut(), arguments) };
        result.map_err(|error| error.0 as u32)
    };
    assert_eq!(launch((1, 1, 1), (128, 1, 1), 0), Ok(()));
    for (grid, block, shared) in [
        ((0, 1, 1), (32, 1, 1), 0),
        ((1, 1, 1), (0, 1, 1), 0),
        ((1, 65_536, 1), (32, 1, 1), 0),
        ((1, 1, 65_536), (32, 1, 1), 0),
        ((1, 1, 1), (1025, 1, 1), 0),
        ((1, 1, 1), (1, 1, 65), 0),
        // Beyond .maxntid.
        ((1, 1, 1), (129, 1, 1), 0),
        // Beyond what may be had without asking.
        ((1, 1, 1), (32, 1, 1), 48 * 1024 + 1),
    ] {
        assert_eq!(launch(grid, block, shared), Err(1), "{grid:?} {block:?} {shared}");
    }
    assert!(gpu.last_error().contains("MAX_DYNAMIC_SHARED"), "{}", gpu.last_error());
    let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    gpu.profile(Some(Profile::Sm80));
    let small = load(FILL, "fill").unwrap();
    // SAFETY: the functions are live.
    unsafe {
        assert!(result::function::set_function_attribute(small.function, attribute, 166_913).is_err());
        result::function::set_function_attribute(small.function, attribute, 166_912).unwrap();
        result::function::set_function_attribute(kernel.function, attribute, 232_448).unwrap();
    }
    assert_eq!(launch((1, 1, 1), (32, 1, 1), 232_448), Ok(()));
}

#[test]
fn an_instruction_can_be_left_out() {
    let gpu = open();
    let kernel = load(FILL, "fill").unwrap();
    let launch = |count: u32, value: f32| {
        let (mut count, mut value) = (count, value);
        // SAFETY: the handles are live and the size is that of the array.
        unsafe {
            let mut out = result::malloc_sync(4 * 32).unwrap();
            let memory = out;
            result::memset_d8_sync(memory, 0, 4 * 32).unwrap();
            let arguments: &mut [*mut c_void] =
                &mut [(&raw mut out).cast(), (&raw mut count).cast(), (&raw mut value).cast()];
            let launched = kernel.launch(1, 32, std::ptr::null_mut(), arguments);
            let mut host = [0f32; 32];
            result::memcpy_dtoh_sync(&mut host, memory).unwrap();
            result::free_sync(memory).unwrap();
            launched.map(|()| host.to_vec()).map_err(|error| error.0 as u32)
        }
    };
    assert_eq!(launch(32, 2.5), Ok(vec![2.5; 32]));
    let lines = gpu.counters("fill").unwrap().lines;
    let pc = |opcode: &str| lines.iter().position(|line| line.statement.contains(opcode)).unwrap() as u32;

    gpu.omit(Some(("fill", pc("st.global"))));
    assert_eq!(launch(32, 2.5), Ok(vec![0.0; 32]));
    gpu.omit(Some(("another", pc("st.global"))));
    assert_eq!(launch(32, 3.5), Ok(vec![3.5; 32]));
    for flow in [pc("bra "), pc("ret;"), lines.len() as u32] {
        gpu.omit(Some(("fill", flow)));
        assert_eq!(launch(32, 2.5), Err(1));
        assert_eq!(
            gpu.last_error(),
            format!("cuLaunchKernel: instruction {flow} of fill cannot be left out (1 INVALID_VALUE)")
        );
    }
    gpu.omit(None);
    assert_eq!(launch(32, 4.5), Ok(vec![4.5; 32]));
}

#[test]
fn memory_answers_for_itself() {
    let gpu = open_recording();
    // SAFETY: the slices have the sizes of the copies.
    unsafe {
        assert_eq!(result::malloc_sync(0).unwrap_err().0 as u32, 1);
        let memory = result::malloc_sync(100).unwrap();
        assert_eq!(memory % 512, 256, "an odd multiple of the promised alignment");
        assert_eq!(result::memcpy_htod_sync(memory, &[0u8; 101]).unwrap_err().0 as u32, 1);
        assert_eq!(only(gpu.take_findings()).detector, Detector::OUT_OF_BOUNDS);
        result::memset_d8_sync(memory, 7, 100).unwrap();
        let mut host = [0u8; 100];
        result::memcpy_dtoh_sync(&mut host, memory).unwrap();
        assert_eq!(host, [7; 100]);
        result::free_sync(memory).unwrap();
        assert_eq!(result::free_sync(memory).unwrap_err().0 as u32, 1);
        let finding = only(gpu.take_findings());
        assert_eq!(finding.detector, Detector::USE_AFTER_FREE);
        assert!(finding.text.contains("freed by cuMemFree_v2"), "{finding}");
        assert_eq!(result::memcpy_dtoh_sync(&mut host, memory).unwrap_err().0 as u32, 1);
        assert_eq!(only(gpu.take_findings()).detector, Detector::USE_AFTER_FREE);
        // Stream-ordered and plain memory are given back in different ways.
        let plain = result::malloc_sync(4).unwrap();
        assert_eq!(result::free_async(plain, std::ptr::null_mut()).unwrap_err().0 as u32, 1);
        result::free_sync(plain).unwrap();
    }
}

#[test]
fn bytes_that_nobody_wrote_do_not_reach_the_host_unseen() {
    let gpu = open_recording();
    let kernel = load(FILL, "fill").unwrap();
    // SAFETY: the slices have the sizes of the copies, the arguments are those of the kernel.
    unsafe {
        let memory = result::malloc_sync(4 * 64).unwrap();
        let (mut out, mut n, mut value) = (memory, 63u32, 1f32);
        let arguments: &mut [*mut c_void] = &mut [(&raw mut out).cast(), (&raw mut n).cast(), (&raw mut value).cast()];
        kernel.launch(1, 64, std::ptr::null_mut(), arguments).unwrap();
        assert_eq!(gpu.first_unwritten(memory, 4 * 64), Some(memory + 4 * 63));
        assert_eq!(gpu.first_unwritten(memory, 4 * 63), None);
        let mut host = [0f32; 64];
        result::memcpy_dtoh_sync(&mut host, memory).unwrap();
        assert!(host[63].is_nan(), "poison");
        let finding = only(gpu.take_findings());
        assert_eq!(finding.detector, Detector::UNINITIALISED);
        assert!(finding.text.contains("offset 252"), "{finding}");
        gpu.forget(memory, 4 * 64);
        assert_eq!(gpu.first_unwritten(memory, 4 * 64), Some(memory));
        // A watched output has to be written entirely, by each launch.
        gpu.watch(&[(memory, 4 * 64)]);
        kernel.launch(1, 64, std::ptr::null_mut(), arguments).unwrap();
        assert_eq!(only(gpu.take_findings()).detector.0, "output not written exactly once");
        gpu.watch(&[(memory, 4 * 63)]);
        kernel.launch(1, 64, std::ptr::null_mut(), arguments).unwrap();
        gpu.watch(&[]);
        assert_eq!(gpu.take_findings(), vec![]);
        result::free_sync(memory).unwrap();
    }
}

#[test]
fn pools_keep_their_account() {
    open();
    let stream = stream();
    // SAFETY: the handles are live.
    unsafe {
        let pool = result::device::get_default_mem_pool(0).unwrap();
        let used = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT;
        let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        let mut keep = u64::MAX;
        check(sys::cuMemPoolSetAttribute(pool, threshold, (&raw mut keep).cast())).unwrap();
        let get = |attribute| {
            let mut value = 0u64;
            check(sys::cuMemPoolGetAttribute(pool, attribute, (&raw mut value).cast())).unwrap();
            value
        };
        assert_eq!(get(threshold), u64::MAX);
        let memory = result::malloc_async(stream, 12_345).unwrap();
        assert!(get(used) >= 12_345);
        result::free_async(memory, stream).unwrap();
        assert_eq!(get(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC), 1);
        result::stream::destroy(stream).unwrap();
    }
}

#[test]
fn occupancy_follows_threads_and_shared_memory() {
    let gpu = open();
    gpu.profile(Some(Profile::Sm90));
    let kernel = load(&FILL.replace(".maxntid 128, 1, 1", ""), "fill").unwrap();
    let blocks = |threads, shared| {
        let mut blocks = 0;
        // SAFETY: the function is live and the number may be written.
        let code = unsafe {
            sys::cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(&mut blocks, kernel.function, threads, shared, 0)
        };
        check(code).map(|()| blocks)
    };
    assert_eq!(blocks(1024, 0), Ok(2));
    assert_eq!(blocks(33, 0), Ok(32));
    assert_eq!(blocks(128, 40 * 1024), Ok(5));
    assert!(blocks(0, 0).is_err());
}

/// Variables of a module keep what launches stored until it is unloaded; a pointer among them leads to the other one.
#[test]
fn variables_of_a_module_live_as_long_as_it() {
    let gpu = open();
    for _ in 0..2 {
        let kernel = load(include_str!("foreign/memory_sm80.ptx"), "count").unwrap();
        let variable = |name: &str, count: usize| {
            let name = CString::new(name).unwrap();
            let (mut at, mut bytes, mut words) = (0, 0, vec![0i32; count]);
            // SAFETY: the name ends in NUL, the results may be written, and the variable has as many bytes as it says.
            unsafe {
                check(sys::cuModuleGetGlobal_v2(&mut at, &mut bytes, kernel.module, name.as_ptr())).unwrap();
                assert_eq!(bytes, 4 * count);
                result::memcpy_dtoh_sync(&mut words, at).unwrap();
            }
            words
        };
        assert_eq!((variable("counter", 1), variable("untouched", 4)), (vec![5], vec![0; 4]));
        // SAFETY: the buffers hold 32 numbers each and live until the launches are over.
        unsafe {
            let [mut x, mut y] = [(); 2].map(|()| result::malloc_sync(128).unwrap());
            result::memcpy_htod_sync(x, &(0..32).collect::<Vec<i32>>()).unwrap();
            for launch in 1..3 {
                let arguments: &mut [*mut c_void] = &mut [(&raw mut x).cast(), (&raw mut y).cast()];
                kernel.launch(1, 32, std::ptr::null_mut(), arguments).unwrap();
                assert_eq!((variable("counter", 1), variable("untouched", 4)), (vec![5 + launch * 496], vec![3; 4]));
            }
            result::free_sync(x).unwrap();
            result::free_sync(y).unwrap();
            result::module::unload(kernel.module).unwrap();
        }
    }
    assert_eq!(gpu.take_findings(), vec![]);
}

#[test]
fn each_host_thread_has_its_own_settings_and_findings() {
    let gpu = open_recording();
    gpu.seed(5);
    let before = gpu.calls("cuMemAlloc_v2");
    std::thread::spawn(move || {
        let gpu = open_recording();
        assert_eq!(gpu.calls("cuMemAlloc_v2"), 0);
        // SAFETY: no memory is touched.
        unsafe { result::free_sync(0x1234_5678) }.unwrap_err();
        assert_eq!(gpu.take_findings().len(), 1);
    })
    .join()
    .unwrap();
    assert_eq!(gpu.take_findings(), vec![]);
    assert_eq!(gpu.calls("cuMemAlloc_v2"), before);
}

#[test]
fn no_context_is_current_on_a_fresh_thread() {
    open();
    std::thread::spawn(|| {
        // SAFETY: the call is refused.
        let error = unsafe { result::malloc_sync(4) }.unwrap_err();
        assert_eq!(error.0, sys::CUresult::CUDA_ERROR_INVALID_CONTEXT);
    })
    .join()
    .unwrap();
}
