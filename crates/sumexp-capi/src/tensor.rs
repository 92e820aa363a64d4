//! A `DLTensor` as the caller wrote it, checked, and the views that are made of it.
#![allow(non_upper_case_globals)] // DLPack's names.

use crate::header::*;
use crate::status::Failure;
use std::fmt;
use sumexp::interop::{view_from_raw, view_mut_from_raw};
use sumexp::{DType, Device, Dim, Element, MAX_RANK, View, ViewMut};

/// The most bytes that a tensor may span: what the host can address, which bounds every offset in an `i64` too.
const MAX_BYTES: u64 = isize::MAX as u64;

/// Where the memory of a tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Cpu,
    /// The number of the GPU.
    Cuda(usize),
}

impl Place {
    /// `what` names, for the message, what is there.
    pub(crate) fn new(op: &str, what: &str, device: DLDevice) -> Result<Self, Failure> {
        let refused = |why: fmt::Arguments| Err(Failure::new(SUMEXP_DEVICE, format_args!("{op}: {what} {why}")));
        match device.device_type {
            kDLCPU => Ok(Self::Cpu),
            kDLCUDA | kDLCUDAManaged => match usize::try_from(device.device_id) {
                Ok(ordinal) => Ok(Self::Cuda(ordinal)),
                Err(_) => refused(format_args!("is on GPU {}: there is none with a negative number", device.device_id)),
            },
            kDLCUDAHost => refused(format_args!("is pinned host memory: pass it as kDLCPU")),
            DLDeviceType(other) => refused(format_args!(
                "has device type {other}; kDLCPU (1), kDLCUDA (2) and kDLCUDAManaged (13) are known"
            )),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("the host"),
            Self::Cuda(ordinal) => write!(f, "GPU {ordinal}"),
        }
    }
}

/// A tensor of the caller: its description is sane, and its address is aligned. Whether it is what the operation wants is
/// for the operation to say.
#[derive(Debug)]
pub(crate) struct Operand {
    op: &'static str,
    name: &'static str,
    pub(crate) place: Place,
    pub(crate) dtype: DType,
    /// Of the element with index 0.
    address: u64,
    /// Elements from the first to the furthest one reached.
    span: u64,
    pub(crate) dims: Vec<usize>,
    strides: Vec<i64>,
}

impl Operand {
    /// Reads a tensor that must be given.
    ///
    /// # Safety
    /// `tensor` must be null or point to a `DLTensor` whose `shape` and `strides` are null or point to `ndim` numbers.
    pub(crate) unsafe fn new(op: &'static str, name: &'static str, tensor: *const DLTensor) -> Result<Self, Failure> {
        // SAFETY: the caller makes the same promise.
        let operand = unsafe { Self::optional(op, name, tensor) }?;
        operand.ok_or_else(|| Failure::new(SUMEXP_NULL, format_args!("{op}: {name} is NULL")))
    }

    /// Reads a tensor that may be missing.
    ///
    /// # Safety
    /// As [`Operand::new`].
    pub(crate) unsafe fn optional(
        op: &'static str,
        name: &'static str,
        tensor: *const DLTensor,
    ) -> Result<Option<Self>, Failure> {
        if tensor.is_null() {
            return Ok(None);
        }
        let refused = |code, why: fmt::Arguments| Failure::new(code, format_args!("{op}: {name} {why}"));
        // SAFETY: not null, so it points to a tensor. Not necessarily to an aligned one.
        let tensor = unsafe { tensor.read_unaligned() };
        let place = Place::new(op, name, tensor.device)?;
        let dtype = dtype(tensor.dtype).map_err(|why| refused(SUMEXP_DTYPE, format_args!("{why}")))?;
        let rank = usize::try_from(tensor.ndim).ok().filter(|&rank| rank <= MAX_RANK);
        let rank = rank.ok_or_else(|| {
            refused(SUMEXP_SHAPE, format_args!("has ndim {}, which must be from 0 to {MAX_RANK}", tensor.ndim))
        })?;
        if rank > 0 && tensor.shape.is_null() {
            return Err(refused(SUMEXP_NULL, format_args!("has {rank} dims and a shape that is NULL")));
        }
        // SAFETY: it points to `ndim` numbers.
        let lengths = unsafe { numbers(tensor.shape, rank) };
        let dims = lengths.iter().map(|&length| usize::try_from(length)).collect::<Result<Vec<_>, _>>();
        let dims =
            dims.map_err(|_| refused(SUMEXP_SHAPE, format_args!("has shape {lengths:?}: a length is negative")))?;
        // A contiguous stride is a product of lengths, so it fits where this does.
        let product = dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim.max(1) as u64));
        if product.is_none_or(|product| product > MAX_BYTES / dtype.size() as u64) {
            return Err(refused(
                SUMEXP_SHAPE,
                format_args!("has shape {dims:?}, which needs more than {MAX_BYTES} bytes"),
            ));
        }
        let strides = match tensor.strides.is_null() {
            true => contiguous(&dims),
            // SAFETY: it points to `ndim` numbers.
            false => unsafe { numbers(tensor.strides, rank) },
        };
        let span = span(&dims, &strides).map_err(|why| {
            refused(SUMEXP_STRIDES, format_args!("has shape {dims:?} and strides {strides:?}: {why}"))
        })?;
        let (start, bytes) = (tensor.data.addr() as u64, span.checked_mul(dtype.size() as u64));
        let bytes = bytes.filter(|&bytes| bytes <= MAX_BYTES).ok_or_else(|| {
            let why = format_args!("has shape {dims:?} and strides {strides:?}: they span more than {MAX_BYTES} bytes");
            refused(SUMEXP_STRIDES, why)
        })?;
        if bytes == 0 {
            // Nothing is ever read or written there.
            return Ok(Some(Self { op, name, place, dtype, address: 0, span, dims, strides }));
        }
        if start == 0 {
            return Err(refused(SUMEXP_NULL, format_args!("has shape {dims:?} and data that are NULL")));
        }
        // No memory is larger than that, and none wraps around the end of the addresses.
        let end = tensor.byte_offset.checked_add(bytes).filter(|&end| end <= MAX_BYTES);
        let address = end.and_then(|end| start.checked_add(end)).map(|end| end - bytes);
        let address = address.ok_or_else(|| {
            let offset = tensor.byte_offset;
            refused(SUMEXP_SHAPE, format_args!("starts at {start:#x} with byte_offset {offset}: no memory lies there"))
        })?;
        if !address.is_multiple_of(dtype.size() as u64) {
            let size = dtype.size();
            return Err(refused(
                SUMEXP_ALIGNMENT,
                format_args!("starts at {address:#x}, which is not a multiple of {size}, the size of a {dtype}"),
            ));
        }
        // The view is made from the number.
        let _ = tensor.data.expose_provenance();
        Ok(Some(Self { op, name, place, dtype, address, span, dims, strides }))
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// A failure because of this operand.
    pub(crate) fn refused(&self, code: sumexp_status, why: fmt::Arguments) -> Failure {
        Failure::new(code, format_args!("{}: {} {why}", self.op, self.name))
    }

    /// The dim that PyTorch calls `dim`.
    pub(crate) fn dim(&self, dim: i32) -> Result<Dim, Failure> {
        let (rank, index) = (self.dims.len(), usize::try_from(dim));
        // -1 is the last: `!dim` is -1 - dim.
        let (position, dim_there) = match index {
            Ok(index) => (index, Dim::front(index)),
            Err(_) => (!dim as usize, Dim::back(!dim as usize)),
        };
        if position < rank {
            return Ok(dim_there);
        }
        let (op, name, dims) = (self.op, self.name, &self.dims);
        Err(Failure::new(SUMEXP_DIM, format_args!("{op}: dim {dim} is out of range for {name} of shape {dims:?}")))
    }

    fn has<T: Element>(&self) -> Result<(), Failure> {
        if self.dtype == T::DTYPE {
            return Ok(());
        }
        Err(self.refused(SUMEXP_DTYPE, format_args!("is {}, it must be {}", self.dtype, T::DTYPE)))
    }

    /// The tensor, for reading.
    ///
    /// # Safety
    /// `device` must be that of [`Operand::place`], and the memory what the header asks of an input: until the work that is
    /// enqueued on `device` with the view is done it must be there, as far as the strides reach, and not be written.
    pub(crate) unsafe fn view<'a, T: Element>(&self, device: &'a Device) -> Result<View<'a, T>, Failure> {
        self.has::<T>()?;
        // SAFETY: the caller makes the same promise; how much there is follows from the strides, for a DLTensor does not say.
        Ok(unsafe { view_from_raw(device, self.address, self.span, &self.dims, &self.strides) }?)
    }

    /// The tensor, for writing.
    ///
    /// # Safety
    /// As [`Operand::view`], but nobody else may read or write the memory.
    pub(crate) unsafe fn view_mut<'a, T: Element>(&self, device: &'a Device) -> Result<ViewMut<'a, T>, Failure> {
        self.has::<T>()?;
        // SAFETY: as above. Memory that crosses this border holds bytes of some kind: nothing in Rust knows that they were not
        // written.
        Ok(unsafe { view_mut_from_raw(device, self.address, self.span, &self.dims, &self.strides) }?)
    }

    /// The one number of a reduced loss, which is `[]` here and may be `[1]` with the caller.
    pub(crate) fn one_number(mut self) -> Self {
        if self.dims == [1] {
            (self.dims, self.strides) = (Vec::new(), Vec::new());
        }
        self
    }

    /// Refuses outputs that share memory with each other. With inputs the operations compare them.
    pub(crate) fn apart(outputs: &[&Operand]) -> Result<(), Failure> {
        let mut pairs =
            outputs.iter().enumerate().flat_map(|(n, one)| outputs[n + 1..].iter().map(move |other| (one, other)));
        pairs.try_for_each(|(one, other)| one.must_be_apart_from(other))
    }

    /// Refuses an output that shares memory with something else.
    pub(crate) fn must_be_apart_from(&self, other: &Operand) -> Result<(), Failure> {
        let end = |operand: &Operand| operand.address + operand.span * operand.dtype.size() as u64;
        if self.address < end(other) && other.address < end(self) {
            return Err(self.refused(SUMEXP_OVERLAP, format_args!("overlaps {}", other.name)));
        }
        Ok(())
    }

    /// Refuses another shape, and gaps. For outputs that an operation looks at when others are written.
    pub(crate) fn must_be(&self, dims: &[usize]) -> Result<(), Failure> {
        if self.dims != dims {
            return Err(self.refused(SUMEXP_SHAPE, format_args!("has shape {:?}, it must be {dims:?}", self.dims)));
        }
        let elements: usize = dims.iter().product();
        let gap = dims
            .iter()
            .zip(self.strides.iter().zip(contiguous(dims)))
            .any(|(dim, (stride, wanted))| *dim > 1 && *stride != wanted);
        if elements > 0 && gap {
            let strides = &self.strides;
            return Err(self.refused(
                SUMEXP_STRIDES,
                format_args!("has shape {dims:?} and strides {strides:?}, it must be contiguous"),
            ));
        }
        Ok(())
    }

    /// The shape of what there is one of per row along `dim`.
    pub(crate) fn shape_without(&self, dim: i32) -> Result<Vec<usize>, Failure> {
        self.dim(dim)?;
        let mut shape = self.dims.clone();
        shape.remove(if dim < 0 { shape.len() - 1 - !dim as usize } else { dim as usize });
        Ok(shape)
    }

    /// Refuses another shape than that of `like` without its `dim`. For operands that the operation itself does not look at.
    pub(crate) fn per_row_of(&self, like: &Operand, dim: i32) -> Result<(), Failure> {
        let wanted = like.shape_without(dim)?;
        if self.dims == wanted {
            return Ok(());
        }
        Err(self.refused(SUMEXP_SHAPE, format_args!("has shape {:?}, it must be {wanted:?}", self.dims)))
    }
}

/// # Safety
/// `first` must point to `count` numbers, unless that is 0. They need not be aligned.
unsafe fn numbers(first: *const i64, count: usize) -> Vec<i64> {
    // SAFETY: within what the caller vouches for.
    (0..count).map(|index| unsafe { first.add(index).read_unaligned() }).collect()
}

fn contiguous(dims: &[usize]) -> Vec<i64> {
    let mut strides: Vec<i64> = dims
        .iter()
        .rev()
        .scan(1i64, |next, &dim| {
            let stride = *next;
            *next *= dim.max(1) as i64;
            Some(stride)
        })
        .collect();
    strides.reverse();
    strides
}

/// Elements from the first to the furthest one reached; 0 if there are none.
fn span(dims: &[usize], strides: &[i64]) -> Result<u64, &'static str> {
    if dims.contains(&0) {
        return Ok(0);
    }
    dims.iter().zip(strides).filter(|(dim, _)| **dim > 1).try_fold(1u64, |span, (&dim, &stride)| {
        let stride = u64::try_from(stride).map_err(|_| "a stride is negative")?;
        let reach = stride.checked_mul(dim as u64 - 1).and_then(|reach| span.checked_add(reach));
        reach.ok_or("they reach further than 2^64 elements")
    })
}

/// The type that DLPack describes so.
fn dtype(dtype: DLDataType) -> Result<DType, String> {
    let DLDataType { code, bits, lanes } = dtype;
    if lanes != 1 {
        return Err(format!("has {lanes} lanes, it must have 1"));
    }
    let known = match (DLDataTypeCode(code.into()), bits) {
        (kDLFloat, 16) => Some(DType::F16),
        (kDLBfloat, 16) => Some(DType::BF16),
        (kDLFloat, 32) => Some(DType::F32),
        (kDLInt, 32) => Some(DType::I32),
        (kDLInt, 64) => Some(DType::I64),
        (kDLUInt, 32) => Some(DType::U32),
        (kDLUInt, 8) | (kDLBool, 8) => Some(DType::U8),
        _ => None,
    };
    known.ok_or_else(|| format!("has type code {code} with {bits} bits, which no operation takes"))
}

/// Evaluates an expression with `$T` as the float type of an operand.
macro_rules! with_float {
    ($operand:expr, $T:ident => $value:expr) => {
        match $operand.dtype {
            sumexp::DType::F16 => {
                type $T = sumexp::f16;
                $value
            }
            sumexp::DType::BF16 => {
                type $T = sumexp::bf16;
                $value
            }
            sumexp::DType::F32 => {
                type $T = f32;
                $value
            }
            other => {
                Err($operand
                    .refused(crate::header::SUMEXP_DTYPE, format_args!("is {other}, it must be f16, bf16 or f32")))
            }
        }
    };
}
pub(crate) use with_float;
