//! Entries that are exported but not implemented: a program that calls one stops there, with its name on stderr.
//!
//! They are exported because common bindings panic on a missing symbol, which says less than an error code.

use super::call::enter;
use super::code::Code;

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
    cuStreamBeginCaptureToGraph cuStreamUpdateCaptureDependencies_v2 cuStreamAttachMemAsync cuStreamAddCallback
    cuGraphInstantiateWithParams cuGraphClone cuGraphDebugDotPrint
    cuGraphExecUpdate_v2 cuGraphAddKernelNode_v2 cuGraphAddMemcpyNode cuGraphAddMemsetNode
    cuTensorMapEncodeIm2col cuTensorMapReplaceAddress
    cuMemAllocManaged cuMemAdvise cuMemAdvise_v2 cuMemPrefetchAsync cuMemPrefetchAsync_v2
    cuMemHostRegister_v2 cuMemHostUnregister cuMemHostGetDevicePointer_v2
    cuMemAllocPitch_v2 cuMemcpy2D_v2 cuMemcpy2DAsync_v2 cuMemcpy3D_v2 cuMemcpy3DAsync_v2
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
