//! The whole path of a program, through unmodified bindings: open, allocate, copy, load, launch, time, read back.

use cudarc::driver::{result, sys};
use std::ffi::CString;

/// A device whose primary context is current on the calling thread.
fn open() -> sys::CUdevice {
    softgpu::install().expect("softgpu can be installed");
    result::init().unwrap();
    let device = result::device::get(0).unwrap();
    // SAFETY: the device exists.
    let context = unsafe { result::primary_ctx::retain(device) }.unwrap();
    // SAFETY: the context was retained just now.
    unsafe { result::ctx::set_current(context) }.unwrap();
    device
}

const FILL: &str = "
.version 9.0
.target sm_80
.address_size 64
.visible .entry fill(.param .u64 out, .param .u32 count, .param .f32 value)
.maxntid 128, 1, 1
{
    .reg .pred %p<2>;
    .reg .b32 %r<6>;
    .reg .f32 %f<2>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [out];
    ld.param.u32 %r1, [count];
    ld.param.f32 %f1, [value];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 bra DONE;
    mul.wide.u32 %rd2, %r5, 4;
    add.s64 %rd3, %rd1, %rd2;
    st.global.f32 [%rd3], %f1;
DONE:
    ret;
}
";

#[test]
fn a_program_opens_copies_launches_and_reads_back() {
    open();
    let stream = result::stream::create(result::stream::StreamKind::NonBlocking).unwrap();
    let count = 1000u32;
    // SAFETY: the handles are live and the sizes those of the slices.
    unsafe {
        let memory = result::malloc_async(stream, 4 * count as usize).unwrap();
        let text = CString::new(FILL).unwrap();
        let module = result::module::load_data(text.as_ptr().cast()).unwrap();
        let function = result::module::get_function(module, CString::new("fill").unwrap()).unwrap();
        let (mut out, mut n, mut value) = (memory, count, 2.5f32);
        let arguments: &mut [*mut std::ffi::c_void] =
            &mut [(&raw mut out).cast(), (&raw mut n).cast(), (&raw mut value).cast()];
        result::launch_kernel(function, (8, 1, 1), (128, 1, 1), 0, stream, arguments).unwrap();
        let mut host = vec![0f32; count as usize];
        result::memcpy_dtoh_async(&mut host, memory, stream).unwrap();
        result::stream::synchronize(stream).unwrap();
        assert!(host.iter().all(|value| *value == 2.5));
        result::free_async(memory, stream).unwrap();
        result::module::unload(module).unwrap();
        result::stream::destroy(stream).unwrap();
    }
}
