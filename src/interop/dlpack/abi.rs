//! The structs of DLPack 1.1, as its header declares them.

use crate::dtype::DType;
use std::ffi::c_void;

/// Kinds of devices: values of [`DLDevice::device_type`].
pub mod device_type {
    /// The host.
    pub const CPU: i32 = 1;
    /// A GPU.
    pub const CUDA: i32 = 2;
    /// Host memory that is pinned for CUDA.
    pub const CUDA_HOST: i32 = 3;
    /// Memory that the host and a GPU share.
    pub const CUDA_MANAGED: i32 = 13;
}

/// Kinds of elements: values of [`DLDataType::code`].
pub mod type_code {
    /// Signed integers.
    pub const INT: u8 = 0;
    /// Unsigned integers.
    pub const UINT: u8 = 1;
    /// IEEE 754 numbers.
    pub const FLOAT: u8 = 2;
    /// bfloat16.
    pub const BFLOAT: u8 = 4;
    /// Truth values, a byte each.
    pub const BOOL: u8 = 6;
}

/// Where memory is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DLDevice {
    /// One of [`device_type`].
    pub device_type: i32,
    /// Number of the GPU; 0 for the host.
    pub device_id: i32,
}

/// What an element is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DLDataType {
    /// One of [`type_code`].
    pub code: u8,
    /// Bits of a number.
    pub bits: u8,
    /// Numbers of an element.
    pub lanes: u16,
}

impl DLDataType {
    /// The type of this crate's elements; none for one that it does not have.
    pub fn dtype(self) -> Option<DType> {
        match (self.code, self.bits, self.lanes) {
            (type_code::FLOAT, 16, 1) => Some(DType::F16),
            (type_code::BFLOAT, 16, 1) => Some(DType::BF16),
            (type_code::FLOAT, 32, 1) => Some(DType::F32),
            (type_code::FLOAT, 64, 1) => Some(DType::F64),
            (type_code::INT, 32, 1) => Some(DType::I32),
            (type_code::INT, 64, 1) => Some(DType::I64),
            (type_code::UINT, 32, 1) => Some(DType::U32),
            (type_code::UINT | type_code::BOOL, 8, 1) => Some(DType::U8),
            _ => None,
        }
    }
}

impl From<DType> for DLDataType {
    fn from(dtype: DType) -> Self {
        let code = match dtype {
            DType::F16 | DType::F32 | DType::F64 => type_code::FLOAT,
            DType::BF16 => type_code::BFLOAT,
            DType::I32 | DType::I64 => type_code::INT,
            DType::U32 | DType::U8 => type_code::UINT,
        };
        Self { code, bits: dtype.size() as u8 * 8, lanes: 1 }
    }
}

/// A tensor that somebody else owns.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DLTensor {
    /// Of the allocation; the first element is `byte_offset` behind it.
    pub data: *mut c_void,
    /// Where the memory is.
    pub device: DLDevice,
    /// Number of dims.
    pub ndim: i32,
    /// What an element is.
    pub dtype: DLDataType,
    /// `ndim` lengths.
    pub shape: *mut i64,
    /// `ndim` strides in elements; null for row-major without gaps.
    pub strides: *mut i64,
    /// Bytes from `data` to the first element.
    pub byte_offset: u64,
}

/// A tensor and how to give it back, before DLPack 1.0.
#[repr(C)]
#[derive(Debug)]
pub struct DLManagedTensor {
    /// The tensor.
    pub dl_tensor: DLTensor,
    /// The producer's.
    pub manager_ctx: *mut c_void,
    /// Gives everything back, this struct included; null if there is nothing to give back.
    pub deleter: Option<unsafe extern "C" fn(*mut DLManagedTensor)>,
}

/// A version of the structs.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DLPackVersion {
    /// Another one: the structs are not those declared here.
    pub major: u32,
    /// A higher one: more kinds of devices and elements.
    pub minor: u32,
}

/// [`DLManagedTensorVersioned::flags`]: the consumer must not write.
pub const FLAG_READ_ONLY: u64 = 1;
/// [`DLManagedTensorVersioned::flags`]: the memory is a copy that the producer made.
pub const FLAG_IS_COPIED: u64 = 2;

/// A tensor and how to give it back, since DLPack 1.0.
#[repr(C)]
#[derive(Debug)]
pub struct DLManagedTensorVersioned {
    /// Of this struct.
    pub version: DLPackVersion,
    /// The producer's.
    pub manager_ctx: *mut c_void,
    /// Gives everything back, this struct included; null if there is nothing to give back.
    pub deleter: Option<unsafe extern "C" fn(*mut DLManagedTensorVersioned)>,
    /// [`FLAG_READ_ONLY`], [`FLAG_IS_COPIED`].
    pub flags: u64,
    /// The tensor.
    pub dl_tensor: DLTensor,
}

/// What this crate exports.
pub(super) const VERSION: DLPackVersion = DLPackVersion { major: 1, minor: 1 };

// As compilers of C lay them out on 64-bit machines.
const _: () = assert!(size_of::<DLTensor>() == 48 && size_of::<DLManagedTensor>() == 64);
const _: () = assert!(size_of::<DLManagedTensorVersioned>() == 80);
const _: () = assert!(std::mem::offset_of!(DLManagedTensorVersioned, dl_tensor) == 32);
