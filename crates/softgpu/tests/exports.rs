//! The shared library exports every name that the bindings can ask for: they panic where one is missing.

mod program;

use std::collections::BTreeSet;
use std::ffi::CString;
use std::path::PathBuf;
use std::process::Command;

/// The source folder of the bindings that this test is built with, as cargo knows it.
fn bindings() -> PathBuf {
    let output = Command::new(std::env::var_os("CARGO").expect("run by cargo"))
        // Crates for other platforms are not there on a machine that has built this and nothing else.
        .args(["metadata", "--format-version", "1", "--offline"])
        .arg(format!("--filter-platform={}-unknown-linux-gnu", std::env::consts::ARCH))
        .arg("--manifest-path")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let manifests = text.split("\"manifest_path\":\"").skip(1).filter_map(|rest| rest.split('"').next());
    let manifest = manifests.into_iter().find(|path| path.contains("/cudarc-")).expect("cudarc is a dependency");
    PathBuf::from(manifest).with_file_name("src").join("driver")
}

/// Driver entries that a source file calls.
fn called(source: &str) -> BTreeSet<String> {
    let names = source.split("sys::cu").skip(1).filter(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase()));
    names.map(|rest| format!("cu{}", rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap())).collect()
}

#[test]
fn every_name_that_the_bindings_can_ask_for_is_exported() {
    program::open();
    let folder = bindings();
    let mut wanted = called(&std::fs::read_to_string(folder.join("result.rs")).unwrap());
    for file in std::fs::read_dir(folder.join("safe")).unwrap() {
        wanted.extend(called(&std::fs::read_to_string(file.unwrap().path()).unwrap()));
    }
    assert!(wanted.len() >= 90, "only {} names found in {}", wanted.len(), folder.display());
    // SAFETY: the names are NUL-terminated; the library is loaded already.
    let missing: Vec<&String> = unsafe {
        let library = libc::dlopen(c"libcuda.so".as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        assert!(!library.is_null());
        wanted
            .iter()
            .filter(|name| libc::dlsym(library, CString::new(name.as_str()).unwrap().as_ptr()).is_null())
            .collect()
    };
    assert_eq!(missing, Vec::<&String>::new());
}

#[test]
fn revised_entries_are_found_under_their_plain_names() {
    program::open();
    use cudarc::driver::sys;
    for (name, found) in [(c"cuMemAlloc", true), (c"cuCtxSynchronize", true), (c"cuNoSuchEntry", false)] {
        let mut address = std::ptr::null_mut();
        let mut status = sys::CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SUCCESS;
        // SAFETY: the name is NUL-terminated and the results may be written.
        let code = unsafe { sys::cuGetProcAddress_v2(name.as_ptr(), &mut address, 13_000, 0, &mut status) };
        assert_eq!((code as u32 == 0, address.is_null()), (found, !found), "{name:?}");
    }
}

#[test]
fn an_entry_that_changed_its_name_is_found_in_the_form_that_the_caller_knows() {
    program::open();
    use cudarc::driver::sys;
    let find = |name: &std::ffi::CStr, version| {
        let mut address = std::ptr::null_mut();
        let mut status = sys::CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SUCCESS;
        // SAFETY: the name is NUL-terminated and the results may be written.
        let code = unsafe { sys::cuGetProcAddress_v2(name.as_ptr(), &mut address, version, 0, &mut status) };
        assert_eq!(code as u32, 0);
        address
    };
    assert_eq!(find(c"cuGraphInstantiate", 13_000), find(c"cuGraphInstantiateWithFlags", 13_000));
    assert_eq!(find(c"cuGraphInstantiate", 11_000), find(c"cuGraphInstantiate_v2", 11_000));
}

/// Entries that a program of the driver API, with graphs and pools, is made of.
const WORKING: &str = "
    cuInit cuDriverGetVersion cuDeviceGet cuDeviceGetName cuDeviceGetAttribute cuDeviceGetCount cuDeviceGetUuid_v2
    cuDeviceTotalMem_v2 cuDevicePrimaryCtxRetain cuDevicePrimaryCtxRelease_v2 cuCtxGetCurrent cuCtxSetCurrent
    cuCtxSynchronize cuCtxGetDevice cuCtxSetFlags cuCtxGetLimit cuCtxSetLimit cuCtxGetCacheConfig cuCtxSetCacheConfig
    cuCtxGetStreamPriorityRange cuStreamCreate cuStreamCreateWithPriority cuStreamDestroy_v2 cuStreamWaitEvent
    cuStreamSynchronize cuStreamQuery cuStreamIsCapturing cuStreamBeginCapture_v2 cuStreamEndCapture
    cuStreamGetCaptureInfo cuStreamGetCaptureInfo_v2 cuStreamGetCaptureInfo_v3 cuThreadExchangeStreamCaptureMode
    cuEventCreate cuEventRecord cuEventRecordWithFlags cuEventSynchronize cuEventQuery cuEventElapsedTime
    cuEventElapsedTime_v2 cuEventDestroy_v2 cuMemAllocAsync cuMemFreeAsync cuMemAlloc_v2 cuMemFree_v2 cuMemGetInfo_v2
    cuMemHostAlloc cuMemFreeHost cuMemsetD8_v2 cuMemsetD8Async cuMemsetD16Async cuMemsetD32Async cuMemcpyHtoD_v2
    cuMemcpyDtoH_v2 cuMemcpyDtoD_v2 cuMemcpyHtoDAsync_v2 cuMemcpyDtoHAsync_v2 cuMemcpyDtoDAsync_v2 cuMemcpyPeer
    cuMemcpyPeerAsync cuModuleLoadData cuModuleLoadDataEx cuModuleLoad cuModuleGetFunction cuModuleGetGlobal_v2
    cuModuleUnload cuFuncSetAttribute cuFuncGetAttribute cuFuncGetParamInfo cuFuncSetCacheConfig cuLaunchKernel
    cuLaunchKernelEx cuLaunchCooperativeKernel cuLaunchHostFunc cuOccupancyMaxActiveBlocksPerMultiprocessor
    cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags cuOccupancyMaxPotentialBlockSize
    cuOccupancyMaxPotentialBlockSizeWithFlags cuOccupancyAvailableDynamicSMemPerBlock cuGetErrorName cuGetErrorString
    cuGetProcAddress_v2 cuGraphCreate cuGraphDestroy cuGraphGetNodes cuGraphNodeGetType cuGraphInstantiate
    cuGraphInstantiate_v2 cuGraphInstantiateWithFlags cuGraphLaunch cuGraphUpload cuGraphExecDestroy
    cuDeviceGetDefaultMemPool cuDeviceGetMemPool cuDeviceSetMemPool cuMemPoolCreate cuMemPoolDestroy cuMemPoolTrimTo
    cuMemPoolSetAttribute cuMemPoolGetAttribute cuMemAllocFromPoolAsync";

/// Calls an entry with nothing but zeros, on a thread of its own that has no context.
fn call_with_zeros(name: &str) -> (u32, String) {
    type Entry = unsafe extern "C" fn([usize; 5], usize, usize, usize, usize, usize, usize) -> u32;
    let name = CString::new(name).unwrap();
    // SAFETY: the library is loaded already, and the name NUL-terminated.
    let address = unsafe {
        let library = libc::dlopen(c"libcuda.so".as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        libc::dlsym(library, name.as_ptr())
    };
    assert!(!address.is_null(), "{name:?} is not exported");
    // SAFETY: an entry takes integers and pointers, at most six in registers and the others on the stack, and zeros are
    // there for all of them; each looks at its pointers before it follows them.
    let entry = unsafe { std::mem::transmute::<*mut libc::c_void, Entry>(address) };
    std::thread::spawn(move || {
        // SAFETY: as above.
        let code = unsafe { entry([0; 5], 0, 0, 0, 0, 0, 0) };
        let gpu = softgpu::ctl::connect().unwrap();
        gpu.take_findings();
        (code, gpu.last_error())
    })
    .join()
    .unwrap()
}

#[test]
fn entries_are_implemented_or_stop_with_their_name() {
    program::open();
    let source = include_str!("../src/driver/unsupported.rs");
    let list = source.split("unsupported! {").nth(1).and_then(|rest| rest.split('}').next()).unwrap();
    let missing: BTreeSet<&str> = list.split_whitespace().collect();
    assert!(missing.len() > 50, "{missing:?}");
    for name in &missing {
        let (code, why) = call_with_zeros(name);
        assert_eq!(code, 801, "{name}");
        assert!(why.contains(name) && why.contains("not implemented"), "{name}: {why}");
    }
    for name in WORKING.split_whitespace() {
        assert!(!missing.contains(name), "{name}");
        assert_ne!(call_with_zeros(name).0, 801, "{name}");
    }
}
