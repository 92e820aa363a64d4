//! Tensors of other libraries.

use super::abi::{DLManagedTensor, DLManagedTensorVersioned, DLTensor, FLAG_IS_COPIED, FLAG_READ_ONLY, device_type};
use crate::device::Device;
use crate::dtype::{DType, Element};
use crate::error::{DeviceName, Error};
use crate::interop::{view_from_raw, view_mut_from_raw};
use crate::shape::{MAX_BYTES, MAX_RANK};
use crate::tensor::{View, ViewMut};
use std::ptr::NonNull;

/// Why a tensor of another library is not taken.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// A pointer that must not be null.
    #[error("DLPack: {what} is null")]
    Null {
        /// What the pointer should lead to.
        what: &'static str,
    },
    /// Structs of another version.
    #[error("DLPack: the tensor is of version {major}.{minor}; 1 is understood, whatever its minor number")]
    Version {
        /// The major version.
        major: u32,
        /// The minor version.
        minor: u32,
    },
    /// Memory that is not where it is to be used.
    #[error(
        "DLPack: the tensor is on a device of type {device_type} with number {device_id}, it is to be used on {device}"
    )]
    Device {
        /// The tensor's kind of device.
        device_type: i32,
        /// The tensor's number of the device.
        device_id: i32,
        /// Where it is to be used.
        device: DeviceName,
    },
    /// Elements that this crate does not have.
    #[error("DLPack: elements have type code {code}, {bits} bits and {lanes} lanes, which no tensor here has")]
    DType {
        /// The type code.
        code: u8,
        /// Bits of a number.
        bits: u8,
        /// Numbers of an element.
        lanes: u16,
    },
    /// Elements of another type than asked for.
    #[error("DLPack: the tensor holds {found}, not {wanted}")]
    Element {
        /// The tensor's.
        found: DType,
        /// What was asked for.
        wanted: DType,
    },
    /// A number of dims that a tensor cannot have.
    #[error("DLPack: the tensor has {ndim} dims, which must be from 0 to {max}")]
    Rank {
        /// What it says.
        ndim: i32,
        /// The largest number of dims.
        max: usize,
    },
    /// A negative length.
    #[error("DLPack: dim {dim} has length {length}")]
    Length {
        /// The dim.
        dim: usize,
        /// Its length.
        length: i64,
    },
    /// An offset beyond what can be addressed.
    #[error("DLPack: the tensor starts at {data:#x} with byte_offset {byte_offset}: no memory lies there")]
    Offset {
        /// The pointer.
        data: u64,
        /// The offset.
        byte_offset: u64,
    },
    /// A write to a tensor that its owner marked.
    #[error("DLPack: the tensor is marked as read-only")]
    ReadOnly,
    /// A layout that no view has.
    #[error(transparent)]
    Layout(#[from] Error),
}

/// What gives a tensor back.
enum Owner {
    Plain(NonNull<DLManagedTensor>),
    Versioned(NonNull<DLManagedTensorVersioned>),
}

impl Owner {
    fn release(&self) {
        // SAFETY: whoever made the import vouched for the struct and its deleter, which is called once: by the only owner, when
        // it is dropped.
        unsafe {
            match self {
                Self::Plain(managed) => {
                    if let Some(deleter) = managed.as_ref().deleter {
                        deleter(managed.as_ptr());
                    }
                }
                Self::Versioned(managed) => {
                    if let Some(deleter) = managed.as_ref().deleter {
                        deleter(managed.as_ptr());
                    }
                }
            }
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.release();
    }
}

/// A tensor of another library, taken over. Its deleter is called once, when it is dropped, after the work that was enqueued on it
/// is done; on a GPU the drop waits for that. If waiting fails, as it does while the stream is captured, the tensor is never given
/// back.
pub struct Import {
    /// None once it was given up.
    owner: Option<Owner>,
    device: Device,
    dtype: DType,
    /// Of the element with index 0.
    address: u64,
    dims: Vec<usize>,
    strides: Vec<i64>,
    flags: u64,
}

// SAFETY: the standard lets a consumer call the deleter on any thread, and the memory is used through views, which have their own
// rules.
unsafe impl Send for Import {}
// SAFETY: through a shared reference views are made for reading.
unsafe impl Sync for Import {}

impl Import {
    /// Takes over a tensor in the struct that is used since DLPack 1.0. One that is refused is given back.
    ///
    /// # Safety
    /// `managed` is null or points to a struct that a producer filled and that nobody else uses any more. If its major version
    /// is 1: `shape`, and `strides` if not null, point to `ndim` numbers; until the deleter is called, the memory holds every element
    /// that shape and strides reach, initialised, and nobody writes it; on a GPU by work that the stream of `device` waits for. The
    /// deleter may be called on any thread.
    ///
    /// # Errors
    /// See [`Refused`].
    pub unsafe fn versioned(managed: *mut DLManagedTensorVersioned, device: &Device) -> Result<Self, Refused> {
        let managed = NonNull::new(managed).ok_or(Refused::Null { what: "the managed tensor" })?;
        let owner = Owner::Versioned(managed);
        // SAFETY: the caller vouches for the struct; whatever its version is, this field and the deleter are where they are.
        let version = unsafe { (&raw const (*managed.as_ptr()).version).read() };
        if version.major != 1 {
            return Err(Refused::Version { major: version.major, minor: version.minor });
        }
        // SAFETY: the struct is of a version that is known.
        let (tensor, flags) = unsafe { ((*managed.as_ptr()).dl_tensor, (*managed.as_ptr()).flags) };
        // SAFETY: the caller vouches for shape and strides.
        unsafe { Self::new(owner, tensor, flags, device) }
    }

    /// Takes over a tensor in the struct that was used before DLPack 1.0. It cannot say that it is read-only.
    ///
    /// # Safety
    /// As [`Import::versioned`] for a struct of major version 1.
    ///
    /// # Errors
    /// See [`Refused`].
    pub unsafe fn unversioned(managed: *mut DLManagedTensor, device: &Device) -> Result<Self, Refused> {
        let managed = NonNull::new(managed).ok_or(Refused::Null { what: "the managed tensor" })?;
        let owner = Owner::Plain(managed);
        // SAFETY: the caller vouches for the struct, and for shape and strides.
        unsafe { Self::new(owner, (*managed.as_ptr()).dl_tensor, 0, device) }
    }

    /// # Safety
    /// As [`Import::versioned`] for the tensor.
    unsafe fn new(owner: Owner, tensor: DLTensor, flags: u64, device: &Device) -> Result<Self, Refused> {
        let here = match (device.name(), tensor.device.device_type) {
            (DeviceName::Cpu, device_type::CPU | device_type::CUDA_HOST) => true,
            (DeviceName::Cuda { ordinal, .. }, device_type::CUDA | device_type::CUDA_MANAGED) => {
                usize::try_from(tensor.device.device_id) == Ok(ordinal)
            }
            _ => false,
        };
        if !here {
            let (device_type, device_id) = (tensor.device.device_type, tensor.device.device_id);
            return Err(Refused::Device { device_type, device_id, device: device.name() });
        }
        let (code, bits, lanes) = (tensor.dtype.code, tensor.dtype.bits, tensor.dtype.lanes);
        let dtype = tensor.dtype.dtype().ok_or(Refused::DType { code, bits, lanes })?;
        let rank = usize::try_from(tensor.ndim).ok().filter(|&rank| rank <= MAX_RANK);
        let rank = rank.ok_or(Refused::Rank { ndim: tensor.ndim, max: MAX_RANK })?;
        if rank > 0 && tensor.shape.is_null() {
            return Err(Refused::Null { what: "the shape" });
        }
        // SAFETY: they point to `ndim` numbers, aligned or not.
        let numbers = |first: *const i64| (0..rank).map(move |dim| unsafe { first.add(dim).read_unaligned() });
        let mut dims = Vec::with_capacity(rank);
        for (dim, length) in numbers(tensor.shape).enumerate() {
            dims.push(usize::try_from(length).map_err(|_| Refused::Length { dim, length })?);
        }
        let strides = match tensor.strides.is_null() {
            true => contiguous(&dims),
            false => numbers(tensor.strides).collect(),
        };
        let empty = dims.contains(&0);
        if tensor.data.is_null() && !empty {
            return Err(Refused::Null { what: "the data" });
        }
        let (data, byte_offset) = (tensor.data.expose_provenance() as u64, tensor.byte_offset);
        let address = data.checked_add(byte_offset).filter(|&address| address <= MAX_BYTES);
        let address = address.ok_or(Refused::Offset { data, byte_offset })?;
        let address = if empty { 0 } else { address };
        let import = Self { owner: Some(owner), device: device.clone(), dtype, address, dims, strides, flags };
        import.check()?;
        Ok(import)
    }

    /// Refuses what no view can be made of.
    fn check(&self) -> Result<(), Refused> {
        /// # Safety
        /// As [`view_from_raw`].
        unsafe fn as_view<T: Element>(import: &Import) -> Result<(), Refused> {
            // SAFETY: the caller makes the same promise.
            unsafe { view_from_raw::<T>(&import.device, import.address, u64::MAX, &import.dims, &import.strides) }?;
            Ok(())
        }
        // SAFETY: whoever made the import vouches that all that shape and strides reach is there; types of one size have the same
        // layouts, and the view is not used.
        unsafe {
            match self.dtype.size() {
                1 => as_view::<u8>(self),
                2 => as_view::<crate::dtype::f16>(self),
                4 => as_view::<f32>(self),
                _ => as_view::<i64>(self),
            }
        }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The lengths of the dims.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// Whether the producer does not allow writing.
    pub fn is_read_only(&self) -> bool {
        self.flags & FLAG_READ_ONLY != 0
    }

    /// Whether the producer made a copy for this.
    pub fn is_copied(&self) -> bool {
        self.flags & FLAG_IS_COPIED != 0
    }

    fn holds<T: Element>(&self) -> Result<(), Refused> {
        if self.dtype == T::DTYPE { Ok(()) } else { Err(Refused::Element { found: self.dtype, wanted: T::DTYPE }) }
    }

    /// The elements, for reading.
    ///
    /// # Errors
    /// [`Refused::Element`] for another type than the tensor has.
    pub fn view<T: Element>(&self) -> Result<View<'_, T>, Refused> {
        self.holds::<T>()?;
        // SAFETY: whoever made the import vouched for the memory until the deleter is called; that is after this borrow, and after
        // the drop has waited for the device. A DLTensor does not say how much there is: it follows from shape and strides.
        Ok(unsafe { view_from_raw(&self.device, self.address, u64::MAX, &self.dims, &self.strides) }?)
    }

    /// The elements, for writing.
    ///
    /// # Safety
    /// Until the deleter is called nobody else may read or write the memory.
    ///
    /// # Errors
    /// [`Refused::ReadOnly`], [`Refused::Element`].
    pub unsafe fn view_mut<T: Element>(&mut self) -> Result<ViewMut<'_, T>, Refused> {
        self.holds::<T>()?;
        if self.is_read_only() {
            return Err(Refused::ReadOnly);
        }
        // SAFETY: as for `view`, and the caller vouches that nobody else uses the memory.
        Ok(unsafe { view_mut_from_raw(&self.device, self.address, u64::MAX, &self.dims, &self.strides) }?)
    }
}

impl Drop for Import {
    fn drop(&mut self) {
        // What bad data kernels met is not this tensor's business, and stays to be asked for.
        if self.device.stream().is_some_and(|stream| stream.synchronize().is_err()) {
            // Work may still use the memory, and nothing says when it ends: better kept than overwritten.
            std::mem::forget(self.owner.take());
        }
    }
}

fn contiguous(dims: &[usize]) -> Vec<i64> {
    let mut strides = vec![0; dims.len()];
    let mut next = 1i64;
    for (stride, &dim) in strides.iter_mut().zip(dims).rev() {
        *stride = next;
        // A product that does not fit belongs to a shape that is refused.
        next = next.saturating_mul(dim.max(1) as i64);
    }
    strides
}
