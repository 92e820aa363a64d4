//! Tensors for other libraries.

use super::abi::{DLDevice, DLManagedTensor, DLManagedTensorVersioned, DLTensor, FLAG_READ_ONLY, VERSION, device_type};
use crate::dtype::{DType, Element};
use crate::error::{DeviceName, Error, Result};
use crate::tensor::Tensor;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};

/// A tensor that is about to be given to another library, in the struct that is used since DLPack 1.0. Dropped before it is given
/// away, it frees the tensor.
///
/// The memory is freed when the deleter is called: in the order of the tensor's stream, behind the work that this stream was asked
/// to do until then. The consumer's work must be on that stream, or one that it waits for.
pub struct Export(NonNull<DLManagedTensorVersioned>);

// SAFETY: it owns a tensor, which may be sent, and numbers.
unsafe impl Send for Export {}

/// What an exported struct leads to: the tensor, and the numbers that describe it.
struct Kept {
    shape: Vec<i64>,
    strides: Vec<i64>,
    /// Held, never read.
    _tensor: Box<dyn Send>,
}

/// A struct of the standard with a deleter.
trait Managed {
    fn context(&self) -> *mut c_void;
}

impl Managed for DLManagedTensor {
    fn context(&self) -> *mut c_void {
        self.manager_ctx
    }
}

impl Managed for DLManagedTensorVersioned {
    fn context(&self) -> *mut c_void {
        self.manager_ctx
    }
}

impl Export {
    /// Gives a tensor away.
    ///
    /// Memory that a tensor on another stream holds too (see [`Tensor::to_device`]) is marked read-only.
    ///
    /// # Errors
    /// [`Error::Driver`] if the stream cannot be made to wait for those who used the memory before.
    ///
    /// ```
    /// use sumexp::interop::dlpack::{Export, Import};
    /// use sumexp::{Device, Tensor};
    /// let device = Device::cpu();
    /// let export = Export::new(Tensor::from_slice(&device, &[2, 1], &[1i64, 2])?)?;
    /// // SAFETY: the struct comes from an export, and nobody else uses it.
    /// let import = unsafe { Import::versioned(export.into_raw(), &device) }?;
    /// assert_eq!(import.view::<i64>()?.to_vec()?, [1, 2]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new<T: Element>(tensor: Tensor<T>) -> Result<Self> {
        let described = describe(tensor)?;
        let flags = if described.shared { FLAG_READ_ONLY } else { 0 };
        let managed = keep(described, |dl_tensor, manager_ctx| DLManagedTensorVersioned {
            version: VERSION,
            manager_ctx,
            deleter: Some(delete::<DLManagedTensorVersioned>),
            flags,
            dl_tensor,
        });
        Ok(Self(managed))
    }

    /// The struct, for a consumer who will call its deleter once, on any thread.
    pub fn into_raw(self) -> *mut DLManagedTensorVersioned {
        let managed = self.0.as_ptr();
        std::mem::forget(self);
        managed
    }

    /// Gives a tensor away in the struct that was used before DLPack 1.0, for a consumer who will call its deleter once, on any
    /// thread.
    ///
    /// # Errors
    /// [`Error::Shared`] for memory that a tensor on another stream holds too, because this struct cannot say that it is read-only;
    /// else as [`Export::new`].
    pub fn unversioned<T: Element>(tensor: Tensor<T>) -> Result<*mut DLManagedTensor> {
        let described = describe(tensor)?;
        if described.shared {
            return Err(Error::Shared { op: OP, output: "the tensor", others: 1 });
        }
        let managed = keep(described, |dl_tensor, manager_ctx| DLManagedTensor {
            dl_tensor,
            manager_ctx,
            deleter: Some(delete::<DLManagedTensor>),
        });
        Ok(managed.as_ptr())
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        // SAFETY: `new` made the struct, and it was not given away.
        unsafe { delete(self.0.as_ptr()) };
    }
}

const OP: &str = "dlpack::Export";

/// A tensor, and what a `DLTensor` says of it.
struct Described {
    tensor: Box<dyn Send>,
    data: *mut c_void,
    device: DLDevice,
    dtype: DType,
    dims: Vec<i64>,
    shared: bool,
}

fn describe<T: Element>(mut tensor: Tensor<T>) -> Result<Described> {
    let device = match tensor.device().name() {
        DeviceName::Cpu => DLDevice { device_type: device_type::CPU, device_id: 0 },
        DeviceName::Cuda { ordinal, .. } => DLDevice { device_type: device_type::CUDA, device_id: ordinal as i32 },
    };
    let dims = tensor.dims().iter().map(|&dim| dim as i64).collect();
    let (address, shared) = match tensor.view_mut().address(OP, "the tensor") {
        Ok(address) => (address, false),
        Err(Error::Shared { .. }) => (tensor.view().address(), true),
        Err(error) => return Err(error),
    };
    // The pointer is made of the number: the memory's owner has exposed it, or it is a GPU's and never followed.
    let data = match tensor.elements() {
        0 => ptr::null_mut(),
        _ => ptr::with_exposed_provenance_mut(address as usize),
    };
    Ok(Described { tensor: Box::new(tensor), data, device, dtype: T::DTYPE, dims, shared })
}

/// Puts a struct where its deleter finds everything.
fn keep<M: Managed>(described: Described, managed: impl FnOnce(DLTensor, *mut c_void) -> M) -> NonNull<M> {
    let Described { tensor, data, device, dtype, dims, .. } = described;
    let mut strides = vec![1; dims.len()];
    for dim in (1..dims.len()).rev() {
        strides[dim - 1] = strides[dim] * dims[dim].max(1);
    }
    let ndim = dims.len() as i32;
    let mut kept = Box::new(Kept { shape: dims, strides, _tensor: tensor });
    let (shape, strides) = (kept.shape.as_mut_ptr(), kept.strides.as_mut_ptr());
    let dl_tensor = DLTensor { data, device, ndim, dtype: dtype.into(), shape, strides, byte_offset: 0 };
    let managed = Box::new(managed(dl_tensor, Box::into_raw(kept).cast()));
    NonNull::from(Box::leak(managed))
}

/// Frees what [`keep`] made.
///
/// # Safety
/// `managed` must be null or come from [`keep`], and is not used again.
unsafe extern "C" fn delete<M: Managed>(managed: *mut M) {
    if managed.is_null() {
        return;
    }
    // Nothing here panics; if something did, the caller's frames are not ours to unwind.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: `keep` leaked both boxes, and this is their only end.
        unsafe {
            let managed = Box::from_raw(managed);
            drop(Box::from_raw(managed.context().cast::<Kept>()));
        }
    }));
}
