//! The one place where a kernel is launched.

use super::KernelId;
use super::registry::function;
use crate::device::Device;
use crate::error::{Error, Result};
use std::ptr;

/// Most blocks along x.
const MAX_GRID_X: u64 = i32::MAX as u64;
/// Most blocks along y, and along z.
const MAX_GRID_YZ: u64 = u16::MAX as u64;

/// How many threads run a kernel, and with how much shared memory beyond what it declares itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LaunchShape {
    /// Blocks along x, y and z. Without any, nothing is launched.
    pub(crate) grid: [u64; 3],
    /// Threads of a block along x, y and z.
    pub(crate) block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub(crate) shared: u64,
}

/// Enqueues a kernel on the stream of `device`, which must be a GPU, behind everything enqueued there before.
///
/// Checked here: that the kernel exists, that its parameter block has the size of `P`, and that the device can run a
/// launch of this shape.
///
/// # Safety
/// The kernel may read and write through the addresses in `params`. Each must belong to a view that the caller borrows
/// during this call (outputs mutably, through [`crate::tensor::ViewMut::address`]), on this very `device`, and the kernel
/// must stay within it for the shapes and strides in `params`. The memory may be dropped as soon as the call returns: it
/// is given back in the order of the stream.
pub(crate) unsafe fn launch<P: Copy>(device: &Device, id: KernelId, shape: &LaunchShape, params: &P) -> Result<()> {
    let Some(stream) = device.stream() else {
        debug_assert!(false, "{id:?} was sent to the host");
        return Ok(());
    };
    let function = function(stream.context(), id, size_of::<P>())?;
    let limits = [
        ("grid.x", shape.grid[0], MAX_GRID_X),
        ("grid.y", shape.grid[1], MAX_GRID_YZ),
        ("grid.z", shape.grid[2], MAX_GRID_YZ),
        ("threads per block", shape.block.iter().map(|&n| u64::from(n)).product(), function.max_threads),
        ("dynamic shared memory in bytes", shape.shared, function.max_dynamic_shared),
    ];
    if let Some(&(what, value, max)) = limits.iter().find(|(_, value, max)| value > max) {
        return Err(Error::Launch { symbol: id.symbol(), what, value, max });
    }
    if shape.grid.contains(&0) {
        return Ok(());
    }
    let [grid_x, grid_y, grid_z] = shape.grid.map(|blocks| blocks as u32);
    let [block_x, block_y, block_z] = shape.block;
    let mut list = [ptr::from_ref(params).cast_mut().cast()];
    let (list, shared, extra) = (list.as_mut_ptr(), shape.shared as u32, ptr::null_mut());
    // SAFETY: a context is current and the function belongs to it; it takes one parameter, whose size was compared with
    // `P`, and the driver copies it before it returns; the shape was checked against the limits. The caller vouches for
    // what the kernel does with its parameters.
    unsafe {
        stream.enter()?.launch_kernel(
            function.raw,
            grid_x,
            grid_y,
            grid_z,
            block_x,
            block_y,
            block_z,
            shared,
            stream.raw(),
            list,
            extra,
        )
    }
}
