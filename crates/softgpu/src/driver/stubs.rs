//! Entries that are exported but not implemented: a program that calls one stops there, with its name on stderr.
//!
//! They are exported because common bindings panic on a missing symbol, which says less than an error code.

use super::call::{Call, In, Out, enter, entry};
use super::code::{Code, Result};
use std::ffi::{CStr, CString, c_char, c_void};

macro_rules! unsupported {
    ($($name:ident)*) => {$(
        #[doc = concat!("The driver API entry `", stringify!($name), "`: not implemented, answers 801.")]
        #[doc = ""]
        #[doc = "# Safety"]
        #[doc = "None needed: the arguments are not looked at."]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name() -> u32 {
            enter(stringify!($name), |call| Err(call.unsupported(Code::NOT_SUPPORTED, "not implemented")))
        }
    )*};
}

// Arguments are passed in registers and on the caller's stack, so a callee that ignores them may declare none.
unsupported! {
    cuCtxCreate_v2 cuCtxCreate_v3 cuCtxCreate_v4 cuCtxDestroy_v2 cuCtxEnablePeerAccess cuCtxDisablePeerAccess
    cuStreamBeginCapture_v2 cuStreamEndCapture cuStreamGetCaptureInfo_v2 cuStreamGetCaptureInfo_v3
    cuThreadExchangeStreamCaptureMode cuStreamAttachMemAsync cuStreamAddCallback
    cuGraphCreate cuGraphDestroy cuGraphExecDestroy cuGraphInstantiate_v2 cuGraphInstantiateWithFlags
    cuGraphInstantiateWithParams cuGraphLaunch cuGraphUpload cuGraphGetNodes cuGraphDebugDotPrint
    cuGraphExecUpdate_v2 cuGraphAddKernelNode_v2 cuGraphAddMemcpyNode cuGraphAddMemsetNode
    cuTensorMapEncodeTiled cuTensorMapEncodeIm2col cuTensorMapReplaceAddress
    cuMemAllocManaged cuMemAdvise cuMemAdvise_v2 cuMemPrefetchAsync cuMemPrefetchAsync_v2
    cuMemHostRegister_v2 cuMemHostUnregister cuMemHostGetDevicePointer_v2
    cuMemAllocPitch_v2 cuMemcpy2D_v2 cuMemcpy2DAsync_v2 cuMemcpy3D_v2 cuMemcpy3DAsync_v2 cuMemcpyPeer
    cuMemsetD2D8_v2 cuMemsetD2D16_v2 cuMemsetD2D32_v2
    cuMemAddressReserve cuMemAddressFree cuMemCreate cuMemRelease cuMemMap cuMemUnmap cuMemSetAccess
    cuMemGetAllocationGranularity cuMemPoolSetAccess cuMemPoolGetAccess cuMemPoolExportToShareableHandle
    cuIpcGetMemHandle cuIpcOpenMemHandle_v2 cuIpcCloseMemHandle cuIpcGetEventHandle cuIpcOpenEventHandle
    cuImportExternalMemory cuDestroyExternalMemory cuExternalMemoryGetMappedBuffer
    cuImportExternalSemaphore cuDestroyExternalSemaphore
    cuLibraryLoadData cuLibraryLoadFromFile cuLibraryUnload cuLibraryGetKernel cuLibraryGetModule cuKernelGetFunction
    cuLinkCreate_v2 cuLinkAddData_v2 cuLinkComplete cuLinkDestroy
    cuModuleGetTexRef cuModuleGetSurfRef
    cuOccupancyMaxActiveClusters cuOccupancyMaxPotentialClusterSize
    cuPointerGetAttributes cuPointerSetAttribute
    cuProfilerStart cuProfilerStop cuProfilerInitialize
    cuStreamWaitValue32_v2 cuStreamWriteValue32_v2 cuStreamWaitValue64_v2 cuStreamWriteValue64_v2
}

fn answer_text(call: &Call, out: &Out<*const c_char>, text: Option<&'static CStr>) -> Result {
    match text {
        Some(text) => out.set(call, text.as_ptr()),
        None => {
            out.set_if_wanted(std::ptr::null());
            Err(call.invalid("the number is no error code"))
        }
    }
}

/// The address of an exported symbol of this library.
fn symbol(name: &str) -> Option<*mut c_void> {
    let name = CString::new(name).ok()?;
    // SAFETY: all zero is a valid Dl_info, for dladdr to fill.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    let own: unsafe extern "C" fn(u32) -> u32 = super::device::cuInit;
    // SAFETY: `info` is valid for writing, and any address may be asked about.
    if unsafe { libc::dladdr(own as *const c_void, &mut info) } == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: dladdr answered a NUL-terminated path; RTLD_NOLOAD only finds what is loaded.
    let library = unsafe { libc::dlopen(info.dli_fname, libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
    if library.is_null() {
        return None;
    }
    // SAFETY: the handle is live and the name NUL-terminated.
    let address = unsafe { libc::dlsym(library, name.as_ptr()) };
    // SAFETY: gives back the reference taken above; the library stays loaded, this code is in it.
    unsafe { libc::dlclose(library) };
    (!address.is_null()).then_some(address)
}

/// Entries that have been revised are exported under their newest name.
fn find_entry(name: &str) -> Option<*mut c_void> {
    ["_v4", "_v3", "_v2", ""].iter().find_map(|version| symbol(&format!("{name}{version}")))
}

entry! {
    fn cuGetErrorName(call, code: u32, out: Out<*const c_char>) {
        answer_text(call, &out, Code(code).name())
    }

    fn cuGetErrorString(call, code: u32, out: Out<*const c_char>) {
        answer_text(call, &out, Code(code).text())
    }

    fn cuGetProcAddress_v2(
        call, name: In<c_char>, out: Out<*mut c_void>, version: i32, flags: u64, status: Out<u32>
    ) {
        const FOUND: u32 = 0;
        const NOT_FOUND: u32 = 1;
        let _ = (version, flags);
        let name = name.text(call)?;
        match find_entry(&name) {
            Some(address) => {
                status.set_if_wanted(FOUND);
                out.set(call, address)
            }
            None => {
                status.set_if_wanted(NOT_FOUND);
                out.set_if_wanted(std::ptr::null_mut());
                Err(call.refuse(Code::NOT_FOUND, &format!("{name} is not exported")))
            }
        }
    }

    /// The tables are undocumented; the CUDA runtime library and everything built on it stops here.
    fn cuGetExportTable(call, out: Out<*const c_void>, id: In<[u8; 16]>) {
        let _ = id;
        out.set_if_wanted(std::ptr::null());
        let why = "undocumented driver tables do not exist here, so programs of the CUDA runtime library cannot run";
        Err(call.unsupported(Code::NOT_FOUND, why))
    }
}
