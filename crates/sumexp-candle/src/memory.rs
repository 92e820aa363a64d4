//! Memory of candle as operations of sumexp take it: views of what a tensor holds, and memory for results.

use candle_core::cpu_backend::CpuStorage;
use candle_core::{
    DType, Device, DeviceLocation, Error, Layout, Result, Shape, Storage, StorageRef, Tensor, WithDType,
};
use sumexp::interop::{view_from_raw, view_mut_from_raw};
use sumexp::{Element, View, ViewMut};

/// An element type of both libraries.
pub(crate) trait Scalar: Element + WithDType + Anywhere {}

impl<T: Element + WithDType + Anywhere> Scalar for T {}

/// What candle's backends ask of an element type beside [`WithDType`].
#[cfg(not(feature = "cuda"))]
pub(crate) trait Anywhere {}
#[cfg(not(feature = "cuda"))]
impl<T> Anywhere for T {}

#[cfg(feature = "cuda")]
pub(crate) trait Anywhere:
    candle_core::cuda_backend::CudaDType + candle_core::cuda_backend::cudarc::driver::DeviceRepr
{
}
#[cfg(feature = "cuda")]
impl<T> Anywhere for T where
    T: candle_core::cuda_backend::CudaDType + candle_core::cuda_backend::cudarc::driver::DeviceRepr
{
}

/// Where one call runs: the host, or a stream of a GPU. Its work is done in the order of candle's own.
pub(crate) trait Place: Sized {
    /// What candle's tensors hold there.
    type Memory: Send + Sync + 'static;
    /// Memory for a result. It may be dropped at any time.
    type Fresh<T: Scalar>;
    /// Held while work that reads memory is enqueued.
    type Guard<'a>
    where
        Self: 'a;

    /// Where this memory is.
    fn of(memory: &Self::Memory) -> Result<Self>;

    /// The same place as sumexp knows it.
    fn device(&self) -> &sumexp::Device;

    /// The memory of another operand of the call; none if it is somewhere else.
    fn here<'a>(&self, storage: &'a Storage) -> Option<&'a Self::Memory>;

    /// Where the place is, for messages.
    fn location(&self) -> DeviceLocation;

    /// The element type of memory.
    fn dtype(memory: &Self::Memory) -> DType;

    /// Address and number of elements of memory that is read next.
    fn address<'a, T: Scalar>(&'a self, memory: &'a Self::Memory) -> Result<(u64, usize, Self::Guard<'a>)>;

    /// Memory for so many elements, initialised on the host.
    fn alloc<T: Scalar>(&self, elements: usize) -> Result<Self::Fresh<T>>;

    /// The address of such memory, which is written next.
    fn address_mut<T: Scalar>(&self, fresh: &mut Self::Fresh<T>) -> u64;

    /// The memory as candle keeps it, after the work that fills it was enqueued. It must not be dropped before the call is finished.
    fn memory<T: Scalar>(&self, fresh: Self::Fresh<T>) -> Self::Memory;

    /// As a tensor's.
    fn storage(memory: Self::Memory) -> Storage;

    /// Lets what candle enqueues next run behind this call.
    fn finish(self) -> Result<()>;
}

/// One operand of a call.
pub(crate) struct Operand<'a, P: Place> {
    pub(crate) memory: &'a P::Memory,
    pub(crate) layout: &'a Layout,
}

impl<P: Place> Clone for Operand<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: Place> Copy for Operand<'_, P> {}

impl<'a, P: Place> Operand<'a, P> {
    pub(crate) fn dims(&self) -> &'a [usize] {
        self.layout.dims()
    }

    pub(crate) fn dtype(&self) -> DType {
        P::dtype(self.memory)
    }

    /// The elements, without a copy. What is returned with them must live until the work that reads them is enqueued.
    pub(crate) fn view<T: Scalar>(&self, place: &'a P) -> Result<Input<'a, T, P>> {
        let (address, elements, guard) = place.address::<T>(self.memory)?;
        let start = self.layout.start_offset().min(elements);
        let strides: Vec<i64> = self.layout.stride().iter().map(|&stride| stride as i64).collect();
        // SAFETY: candle's storage holds `elements` initialised elements from `address` on, of which `start` are skipped. It is
        // borrowed for 'a, and candle writes through no shared borrow. On a GPU candle gives memory back in the order of the
        // stream that the call's work is on, or of one that waits for it (see `cuda`).
        let view = unsafe {
            view_from_raw(
                place.device(),
                address + (start * size_of::<T>()) as u64,
                (elements - start) as u64,
                self.layout.dims(),
                &strides,
            )
        };
        Ok(Input { view: view.map_err(Error::wrap)?, _guard: guard })
    }
}

/// An operand that is read.
pub(crate) struct Input<'a, T, P: Place + 'a> {
    pub(crate) view: View<'a, T>,
    _guard: P::Guard<'a>,
}

impl<'a, T, P: Place> Input<'a, T, P> {
    /// The view, and what must live until the work that reads it is enqueued.
    pub(crate) fn split(self) -> (View<'a, T>, P::Guard<'a>) {
        (self.view, self._guard)
    }
}

/// A result before it is a tensor's.
pub(crate) struct Output<P: Place, T: Scalar> {
    fresh: P::Fresh<T>,
    dims: Vec<usize>,
}

impl<P: Place, T: Scalar> Output<P, T> {
    pub(crate) fn new(place: &P, dims: &[usize]) -> Result<Self> {
        Ok(Self { fresh: place.alloc(dims.iter().product())?, dims: dims.to_vec() })
    }

    pub(crate) fn view_mut<'a>(&'a mut self, place: &'a P) -> Result<ViewMut<'a, T>> {
        let address = place.address_mut(&mut self.fresh);
        let elements: usize = self.dims.iter().product();
        let strides: Vec<i64> =
            Layout::contiguous(self.dims.as_slice()).stride().iter().map(|&stride| stride as i64).collect();
        // SAFETY: `alloc` made room for that many elements, initialised on the host, and only `self` knows of them. What frees them
        // on a GPU does so in the order of the call's stream, or of one that waits for it.
        let view = unsafe { view_mut_from_raw(place.device(), address, elements as u64, &self.dims, &strides) };
        view.map_err(Error::wrap)
    }

    /// What a custom operation of candle returns.
    pub(crate) fn finish(self, place: &P) -> (P::Memory, Shape) {
        (place.memory(self.fresh), Shape::from(self.dims))
    }

    /// A tensor that no gradient goes through. It must not be dropped before the call is finished: what the call alone needs stays
    /// an `Output`.
    pub(crate) fn tensor(self, place: &P) -> Tensor {
        let (memory, shape) = self.finish(place);
        Tensor::from_storage(P::storage(memory), shape, candle_core::op::BackpropOp::none(), false)
    }
}

/// A tensor that an operation takes beside those whose gradients it has, held for reading.
pub(crate) struct Side<'a> {
    name: &'static str,
    storage: StorageRef<'a>,
    layout: &'a Layout,
    dtype: DType,
}

impl<'a> Side<'a> {
    pub(crate) fn new(name: &'static str, tensor: &'a Tensor) -> Self {
        let (storage, layout) = tensor.storage_and_layout();
        Self { name, storage, layout, dtype: tensor.dtype() }
    }

    pub(crate) fn optional(name: &'static str, tensor: Option<&'a Tensor>) -> Option<Self> {
        tensor.map(|tensor| Self::new(name, tensor))
    }

    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }

    /// The tensor as an operand of a call.
    pub(crate) fn operand<P: Place>(&self, op: &'static str, place: &P) -> Result<Operand<'_, P>> {
        match place.here(&self.storage) {
            Some(memory) => Ok(Operand { memory, layout: self.layout }),
            None => {
                let (lhs, rhs) = (place.location(), self.storage.device().location());
                Err(Error::DeviceMismatchBinaryOp { lhs, rhs, op }.context(format!("{} is elsewhere", self.name)))
            }
        }
    }

    /// The elements, if they have this type.
    pub(crate) fn view<'b, T: Scalar, P: Place>(&'b self, op: &'static str, place: &'b P) -> Result<Input<'b, T, P>> {
        self.operand(op, place)?.view(place)
    }
}

/// The host.
pub(crate) struct Host(sumexp::Device);

impl Place for Host {
    type Memory = CpuStorage;
    type Fresh<T: Scalar> = Vec<T>;
    type Guard<'a> = ();

    fn of(_: &CpuStorage) -> Result<Self> {
        Ok(Self(sumexp::Device::cpu()))
    }

    fn device(&self) -> &sumexp::Device {
        &self.0
    }

    fn here<'a>(&self, storage: &'a Storage) -> Option<&'a CpuStorage> {
        if let Storage::Cpu(memory) = storage { Some(memory) } else { None }
    }

    fn location(&self) -> DeviceLocation {
        Device::Cpu.location()
    }

    fn dtype(memory: &CpuStorage) -> DType {
        candle_core::backend::BackendStorage::dtype(memory)
    }

    fn address<'a, T: Scalar>(&'a self, memory: &'a CpuStorage) -> Result<(u64, usize, ())> {
        let elements = memory.as_slice::<T>()?;
        Ok((elements.as_ptr().expose_provenance() as u64, elements.len(), ()))
    }

    fn alloc<T: Scalar>(&self, elements: usize) -> Result<Vec<T>> {
        Ok(vec![T::default(); elements])
    }

    fn address_mut<T: Scalar>(&self, fresh: &mut Vec<T>) -> u64 {
        fresh.as_mut_ptr().expose_provenance() as u64
    }

    fn memory<T: Scalar>(&self, fresh: Vec<T>) -> CpuStorage {
        T::to_cpu_storage_owned(fresh)
    }

    fn storage(memory: CpuStorage) -> Storage {
        Storage::Cpu(memory)
    }

    fn finish(self) -> Result<()> {
        Ok(())
    }
}

/// Evaluates an expression with `$T` as the float type that an operand has.
macro_rules! with_float {
    ($op:expr, $dtype:expr, $T:ident => $value:expr) => {
        match $dtype {
            candle_core::DType::F16 => {
                type $T = sumexp::f16;
                $value
            }
            candle_core::DType::BF16 => {
                type $T = sumexp::bf16;
                $value
            }
            candle_core::DType::F32 => {
                type $T = f32;
                $value
            }
            other => Err(candle_core::Error::UnsupportedDTypeForOp(other, $op).bt()),
        }
    };
}
pub(crate) use with_float;
