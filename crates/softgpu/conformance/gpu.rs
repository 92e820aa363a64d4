//! Whatever libcuda the loader finds: the software GPU, or a real one.

use cudarc::driver::{result, sys};
use std::ffi::{CString, c_void};

/// What kernels get in their fourth parameter: 64 different bytes, every other one of them negative.
pub const BLOB: [u8; 64] = {
    let (mut blob, mut i) = ([0; 64], 0);
    while i < 64 {
        blob[i] = (i as u8).wrapping_mul(89) | ((i as u8 & 1) << 7);
        i += 1;
    }
    blob
};

/// A device behind the driver API.
pub struct Gpu {
    /// Its name, compute capability and driver.
    pub name: String,
    /// Whether it is the software GPU.
    pub software: bool,
    target: String,
    context: sys::CUcontext,
}

// SAFETY: a context may be made current on any thread; the driver's calls are safe to make from all of them.
unsafe impl Send for Gpu {}

impl Gpu {
    /// The software GPU, unless `SOFTGPU_CONFORMANCE_DEVICE=cuda` asks for the driver that is installed.
    pub fn open() -> Gpu {
        let software = std::env::var("SOFTGPU_CONFORMANCE_DEVICE").as_deref() != Ok("cuda");
        if software {
            softgpu::install().expect("softgpu can be installed");
        }
        result::init().expect("the driver starts");
        let device = result::device::get(0).expect("there is a device");
        // SAFETY: the device exists; its context is never released.
        let context = unsafe { result::primary_ctx::retain(device) }.expect("the context can be retained");
        // SAFETY: the context was retained just now.
        unsafe { result::ctx::set_current(context) }.expect("the context can be made current");
        let attribute = |attribute| {
            // SAFETY: the device exists.
            unsafe { result::device::get_attribute(device, attribute) }.expect("the attribute exists")
        };
        let major = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
        let minor = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
        let mut driver = 0;
        // SAFETY: the pointer may be written.
        let code = unsafe { sys::cuDriverGetVersion(&mut driver) };
        assert_eq!(code, sys::CUresult::CUDA_SUCCESS);
        let name = result::device::get_name(device).expect("the device has a name");
        Gpu {
            name: format!("{name}, sm_{major}{minor}, driver {driver}"),
            software,
            target: format!("sm_{major}{minor}"),
            context,
        }
    }

    /// Makes its context current on the calling thread.
    pub fn make_current(&self) {
        // SAFETY: the context is never released.
        unsafe { result::ctx::set_current(self.context) }.expect("the context can be made current");
    }

    /// Runs kernel `k(in, out, n)` of a PTX text for `n` threads over columns of inputs; returns columns of outputs.
    /// `Err` says why the module does not load: a form that this device does not have.
    pub fn run(&self, ptx: &str, inputs: &[Vec<u64>], outputs: usize, n: usize) -> Result<Vec<Vec<u64>>, String> {
        self.run_in_blocks(ptx, inputs, outputs, n, 128)
    }

    /// The same with blocks of a size. Kernels may have a fourth parameter, of the 64 bytes of [`BLOB`].
    pub fn run_in_blocks(
        &self,
        ptx: &str,
        inputs: &[Vec<u64>],
        outputs: usize,
        n: usize,
        block: u32,
    ) -> Result<Vec<Vec<u64>>, String> {
        let text = CString::new(ptx.replace("TARGET", &self.target)).expect("no NUL in PTX");
        // SAFETY: the text is NUL-terminated.
        let module =
            unsafe { result::module::load_data(text.as_ptr().cast()) }.map_err(|error| format!("{error:?}"))?;
        let name = CString::new("k").expect("no NUL");
        // SAFETY: the module is live; every program has a kernel of this name.
        let function = unsafe { result::module::get_function(module, name) }.expect("the kernel is there");
        let words: Vec<u64> = inputs.iter().flatten().copied().collect();
        let bytes = |words: usize| words.max(1) * 8;
        // SAFETY: sizes are those of the buffers, the arguments those of the parameters; the copies are ordered by the null stream, which waits.
        let out = unsafe {
            let mut from = result::malloc_sync(bytes(words.len())).expect("memory");
            let mut to = result::malloc_sync(bytes(outputs * n)).expect("memory");
            result::memset_d8_sync(to, 0, bytes(outputs * n)).expect("a fill");
            result::memcpy_htod_sync(from, &words).expect("a copy");
            let mut count = n as u32;
            let mut blob = BLOB;
            let arguments: &mut [*mut c_void] =
                &mut [(&raw mut from).cast(), (&raw mut to).cast(), (&raw mut count).cast(), (&raw mut blob).cast()];
            let (grid, block) = (((n as u32).div_ceil(block), 1, 1), (block, 1, 1));
            result::launch_kernel(function, grid, block, 0, std::ptr::null_mut(), arguments).expect("a launch");
            result::ctx::synchronize().unwrap_or_else(|error| panic!("{error:?} from\n{ptx}"));
            let mut out = vec![0u64; outputs * n];
            result::memcpy_dtoh_sync(&mut out, to).expect("a copy");
            result::free_sync(from).expect("memory is freed");
            result::free_sync(to).expect("memory is freed");
            result::module::unload(module).expect("the module is unloaded");
            out
        };
        Ok(out.chunks(n).map(<[u64]>::to_vec).collect())
    }
}
