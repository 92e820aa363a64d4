//! What the test programs share: they use the driver through unmodified bindings, as any program does.
#![allow(dead_code)] // every test file uses its own part

use cudarc::driver::{result, sys};
use softgpu::ctl::{Finding, Gpu};
use std::ffi::{CString, c_void};

/// Puts the software GPU in place, makes the primary context of device 0 current on this thread, and connects to its
/// controls. The context is never released: the tests of a file run as threads of one process and share it.
pub fn open() -> Gpu {
    softgpu::install().expect("softgpu can be installed");
    result::init().expect("the driver starts");
    let device = result::device::get(0).expect("there is a device");
    // SAFETY: the device exists.
    let context = unsafe { result::primary_ctx::retain(device) }.expect("the context can be retained");
    // SAFETY: the context was retained just now.
    unsafe { result::ctx::set_current(context) }.expect("the context can be made current");
    softgpu::ctl::connect().expect("softgpu is the driver")
}

/// As [`open`], with findings recorded instead of failing the context that all tests share, and not printed.
pub fn open_recording() -> Gpu {
    let gpu = open();
    gpu.findings_fail(false);
    gpu.echo(false);
    gpu
}

/// `Ok(())` for code 0.
pub fn check(code: sys::CUresult) -> Result<(), sys::CUresult> {
    if code == sys::CUresult::CUDA_SUCCESS { Ok(()) } else { Err(code) }
}

/// The single finding there must be.
#[track_caller]
pub fn only(findings: Vec<Finding>) -> Finding {
    assert_eq!(findings.len(), 1, "{findings:#?}");
    findings.into_iter().next().unwrap()
}

/// A kernel of a PTX text.
pub struct Kernel {
    /// The module.
    pub module: sys::CUmodule,
    /// The function.
    pub function: sys::CUfunction,
}

/// Loads a kernel of a PTX text.
pub fn load(text: &str, name: &str) -> Result<Kernel, result::DriverError> {
    let (text, name) = (CString::new(text).unwrap(), CString::new(name).unwrap());
    // SAFETY: the text is NUL-terminated, the module is live.
    unsafe {
        let module = result::module::load_data(text.as_ptr().cast())?;
        Ok(Kernel { module, function: result::module::get_function(module, name)? })
    }
}

impl Kernel {
    /// Launches it with `arguments`, each a pointer to a value of the declared size.
    pub fn launch(
        &self,
        grid: u32,
        block: u32,
        stream: sys::CUstream,
        arguments: &mut [*mut c_void],
    ) -> Result<(), result::DriverError> {
        // SAFETY: the function is live, and each test passes as many arguments as its kernel declares.
        unsafe { result::launch_kernel(self.function, (grid, 1, 1), (block, 1, 1), 0, stream, arguments) }
    }
}

/// `fill(u64 out, u32 count, f32 value)`: writes `value` to `count` floats.
pub const FILL: &str = "
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

/// `add(u64 out, u64 in)`: adds two module variables, one of them constant, to 32 floats.
pub const ADD: &str = "
.version 9.0
.target sm_80
.address_size 64
.global .align 4 .f32 bias = 0f3FC00000;
.const .align 4 .b8 table[16] = {0, 0, 128, 63, 0, 0, 0, 64, 0, 0, 64, 64, 0, 0, 128, 64};
.visible .entry add(.param .u64 out, .param .u64 in)
{
    .reg .b32 %r<3>;
    .reg .f32 %f<6>;
    .reg .b64 %rd<10>;
    ld.param.u64 %rd1, [out];
    ld.param.u64 %rd2, [in];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd3, %r1, 4;
    add.s64 %rd4, %rd1, %rd3;
    add.s64 %rd5, %rd2, %rd3;
    ld.global.f32 %f1, [%rd5];
    ld.global.f32 %f2, [bias];
    and.b64 %rd6, %rd3, 12;
    mov.u64 %rd7, table;
    add.s64 %rd8, %rd7, %rd6;
    ld.const.f32 %f3, [%rd8];
    add.f32 %f4, %f1, %f2;
    add.f32 %f5, %f4, %f3;
    st.global.f32 [%rd4], %f5;
    ret;
}
";
