//! Tensors: owned memory with a shape, and borrowed views of it.

mod mask;
mod typed;
mod view;

pub use mask::{BoolTensor, Mask, hide, keep};
pub use typed::{LogProbabilities, Lse, Probabilities};
pub use view::{View, ViewMut};

use crate::device::Device;
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::memory::Buffer;
use crate::shape::{Layout, Shape};
use std::fmt;
use std::marker::PhantomData;

/// Elements of one type on one device, in row-major order without gaps.
///
/// A tensor owns its memory. It may be sent to another thread, and dropped while its device still works on it: the
/// memory is given back behind that work. Operations take [`View`]s, and `&Tensor` converts into one.
///
/// ```
/// use sumexp::{Device, Tensor};
/// let x = Tensor::from_slice(&Device::cpu(), &[2, 3], &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0])?;
/// assert_eq!(x.dims(), [2, 3]);
/// assert_eq!(x.to_vec()?, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
/// # Ok::<(), sumexp::Error>(())
/// ```
pub struct Tensor<T> {
    buffer: Buffer,
    shape: Shape,
    elements: PhantomData<T>,
}

impl<T: Element> Tensor<T> {
    /// A tensor with the given elements in row-major order, copied. The slice is free when the call returns.
    ///
    /// # Errors
    /// [`Error::Length`] if `elements` are not as many as the shape holds; [`Error::Rank`], [`Error::TooLarge`],
    /// [`Error::OutOfMemory`], [`Error::Driver`].
    pub fn from_slice(device: &Device, dims: &[usize], elements: &[T]) -> Result<Self> {
        let op = "Tensor::from_slice";
        let shape = Shape::new(op, dims)?;
        shape.bytes(op, T::DTYPE)?;
        same_length(op, &shape, elements)?;
        Ok(Self::from_parts(Buffer::of_slice(device, elements)?, shape))
    }

    /// A tensor of zeros.
    ///
    /// # Errors
    /// [`Error::Rank`], [`Error::TooLarge`], [`Error::OutOfMemory`], [`Error::Driver`].
    pub fn zeros(device: &Device, dims: &[usize]) -> Result<Self> {
        let op = "Tensor::zeros";
        let shape = Shape::new(op, dims)?;
        Ok(Self::from_parts(Buffer::zeroed(device, shape.bytes(op, T::DTYPE)?)?, shape))
    }

    /// A tensor that `op` is about to fill. On a GPU its elements are whatever the memory held.
    pub(crate) fn unfilled(op: &'static str, device: &Device, shape: Shape) -> Result<Self> {
        Ok(Self::from_parts(Buffer::unfilled(device, shape.bytes(op, T::DTYPE)?)?, shape))
    }

    fn from_parts(buffer: Buffer, shape: Shape) -> Self {
        Self { buffer, shape, elements: PhantomData }
    }

    /// Copies the elements to the host in row-major order, after waiting for everything that computes them.
    ///
    /// # Errors
    /// [`Error::Driver`] if that work failed; [`Error::Target`] if a kernel met bad data since the last look;
    /// [`Error::OutOfMemory`].
    pub fn to_vec(&self) -> Result<Vec<T>> {
        self.view().to_vec()
    }

    /// Overwrites all elements with host elements in row-major order. The slice is free when the call returns.
    ///
    /// # Errors
    /// [`Error::Length`] if they are not as many as the shape holds; [`Error::Shared`], [`Error::Driver`].
    pub fn copy_from_slice(&mut self, elements: &[T]) -> Result<()> {
        let op = "Tensor::copy_from_slice";
        same_length(op, &self.shape, elements)?;
        self.buffer.span_mut().upload(op, "the tensor", elements)
    }

    /// Overwrites all elements with those of a tensor of the same shape on the same device. On a GPU the copy is enqueued.
    ///
    /// # Errors
    /// [`Error::Shapes`], [`Error::DifferentDevices`], [`Error::Shared`], [`Error::Driver`].
    pub fn copy_from(&mut self, source: &Self) -> Result<()> {
        let op = "Tensor::copy_from";
        Device::same(op, ("the tensor", self.device()), &[("the source", source.device())])?;
        if self.shape != source.shape {
            return Err(Error::Shapes {
                op,
                left: "the tensor",
                left_shape: self.dims().to_vec(),
                right: "the source",
                right_shape: source.dims().to_vec(),
            });
        }
        self.buffer.span_mut().copy_from::<T>(op, "the tensor", &source.buffer.span())
    }

    /// The same elements for another device.
    ///
    /// Between two streams of one GPU nothing is copied: both tensors hold the same memory, `device` first waits for what
    /// this tensor's device was asked to do so far, and the memory is given back behind the work of both. While both
    /// exist neither can be written ([`Error::Shared`]). Between two GPUs, and between a GPU and the host, the elements
    /// are copied.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Driver`], [`Error::Target`].
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        Ok(Self::from_parts(self.buffer.share(device)?, self.shape))
    }

    /// The same elements in the same order under another shape. Nothing is copied.
    ///
    /// # Errors
    /// [`Error::Reshape`] if the number of elements differs; [`Error::Rank`], [`Error::TooLarge`].
    pub fn reshape(self, dims: &[usize]) -> Result<Self> {
        let op = "Tensor::reshape";
        let layout = Layout::contiguous(self.shape).reshape(op, Shape::new(op, dims)?)?;
        Ok(Self { shape: *layout.shape(), ..self })
    }

    /// A view of all elements, for reading.
    pub fn view(&self) -> View<'_, T> {
        View::from_parts(self.buffer.span(), Layout::contiguous(self.shape))
    }

    /// A view of all elements, for writing.
    pub fn view_mut(&mut self) -> ViewMut<'_, T> {
        ViewMut::from_parts(self.buffer.span_mut(), Layout::contiguous(self.shape))
    }
}

impl<T> Tensor<T> {
    /// The shape.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The lengths of the dims.
    pub fn dims(&self) -> &[usize] {
        self.shape.dims()
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.elements()
    }

    /// The device that holds the elements.
    pub fn device(&self) -> &Device {
        self.buffer.device()
    }
}

impl<T: Element> Tensor<T> {
    /// The element type, as a value.
    pub const fn dtype(&self) -> DType {
        T::DTYPE
    }
}

fn same_length<T>(op: &'static str, shape: &Shape, elements: &[T]) -> Result<()> {
    let (wanted, found) = (shape.elements(), elements.len() as u64);
    if wanted == found {
        return Ok(());
    }
    Err(Error::Length { op, shape: shape.dims().to_vec(), wanted, found })
}

impl<T: Element> fmt::Debug for Tensor<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor<{}> {:?} on {}", T::DTYPE, self.shape, self.device())
    }
}
