//! Borrowed tensors with strides.

use super::Tensor;
use crate::device::Device;
use crate::dtype::{DType, Element};
use crate::error::{DeviceName, Error, Result};
use crate::memory::{Span, SpanMut};
use crate::shape::{Dim, Layout, Shape};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

/// Elements of a tensor, borrowed for reading: any part of it, in any order of dims, without a copy.
///
/// Every element that a view reaches lies in the memory it borrows: the methods that make views check that.
///
/// ```
/// use sumexp::{Device, Dim, Tensor};
/// let x = Tensor::from_slice(&Device::cpu(), &[2, 3], &[1, 2, 3, 4, 5, 6])?;
/// let columns = x.view().transpose(Dim::front(0), Dim::front(1))?.slice(Dim::front(0), 1..3)?;
/// assert_eq!(columns.dims(), [2, 2]);
/// assert_eq!(columns.to_vec()?, [2, 5, 3, 6]);
/// # Ok::<(), sumexp::Error>(())
/// ```
///
/// A view cannot outlive its tensor, and while it lives the tensor cannot be written:
/// ```compile_fail,E0505
/// # use sumexp::{Device, Tensor};
/// let x = Tensor::from_slice(&Device::cpu(), &[1], &[1.0f32])?;
/// let view = x.view();
/// drop(x);
/// view.to_vec()?;
/// # Ok::<(), sumexp::Error>(())
/// ```
/// ```compile_fail,E0502
/// # use sumexp::{Device, Tensor};
/// let mut x = Tensor::from_slice(&Device::cpu(), &[1], &[1.0f32])?;
/// let view = x.view();
/// x.copy_from_slice(&[2.0])?;
/// view.to_vec()?;
/// # Ok::<(), sumexp::Error>(())
/// ```
pub struct View<'a, T> {
    /// From the first element to the furthest one reached, both included.
    span: Span<'a>,
    layout: Layout,
    elements: PhantomData<&'a [T]>,
}

impl<T> Clone for View<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for View<'_, T> {}

impl<'a, T: Element> View<'a, T> {
    /// A view with `layout` whose first element is the first of `span`. Cuts off what the layout does not reach, and so
    /// proves that it reaches nothing else.
    pub(crate) fn from_parts(span: Span<'a>, layout: Layout) -> Self {
        Self { span: span.part(bytes::<T>(0, &layout)), layout, elements: PhantomData }
    }

    /// The same view, if `U` is the same type: how code for any type reaches what exists for each.
    pub(crate) fn of_type<U: Element>(self) -> Option<View<'a, U>> {
        (T::DTYPE == U::DTYPE).then_some(View { span: self.span, layout: self.layout, elements: PhantomData })
    }

    /// The part with indices `range` along `dim`.
    ///
    /// # Errors
    /// [`Error::Dim`], [`Error::Range`].
    pub fn slice(self, dim: Dim, range: Range<usize>) -> Result<Self> {
        let (offset, layout) = self.layout.slice("View::slice", dim, range)?;
        Ok(Self { span: self.span.part(bytes::<T>(offset, &layout)), layout, ..self })
    }

    /// The same elements with the dims in another order: dim `i` of the result is dim `order[i]` of this view.
    ///
    /// # Errors
    /// [`Error::Permutation`].
    pub fn permute(self, order: &[usize]) -> Result<Self> {
        Ok(Self { layout: self.layout.permute("View::permute", order)?, ..self })
    }

    /// The same elements with two dims exchanged.
    ///
    /// # Errors
    /// [`Error::Dim`].
    pub fn transpose(self, a: Dim, b: Dim) -> Result<Self> {
        Ok(Self { layout: self.layout.transpose("View::transpose", a, b)?, ..self })
    }

    /// The elements repeated to a larger shape: dims are matched from the back; those of length 1, and those missing in
    /// front, are repeated.
    ///
    /// # Errors
    /// [`Error::Broadcast`], [`Error::Rank`], [`Error::TooLarge`].
    pub fn expand(self, dims: &[usize]) -> Result<Self> {
        self.broadcast("View::expand", "the view", dims)
    }

    /// [`View::expand`] of an operand of `op`.
    pub(crate) fn broadcast(self, op: &'static str, operand: &'static str, dims: &[usize]) -> Result<Self> {
        let layout = self.layout.broadcast(op, operand, &Shape::new(op, dims)?)?;
        // An expansion to no elements reaches none.
        Ok(Self { span: self.span.part(bytes::<T>(0, &layout)), layout, elements: PhantomData })
    }

    /// The same elements in the same order under another shape.
    ///
    /// # Errors
    /// [`Error::Reshape`] if the number of elements differs, [`Error::ReshapeStrides`] if only a copy could do it;
    /// [`Error::Rank`], [`Error::TooLarge`].
    pub fn reshape(self, dims: &[usize]) -> Result<Self> {
        let op = "View::reshape";
        Ok(Self { layout: self.layout.reshape(op, Shape::new(op, dims)?)?, ..self })
    }

    /// Copies the elements to the host in row-major order, as [`Tensor::to_vec`].
    ///
    /// # Errors
    /// [`Error::Driver`], [`Error::Target`], [`Error::OutOfMemory`].
    pub fn to_vec(&self) -> Result<Vec<T>> {
        if self.layout.is_contiguous() {
            return self.span.read();
        }
        // What the view spans is copied whole and picked apart on the host. On the host itself nothing is copied first.
        match self.span.on_host() {
            Some(spanned) => self.pick(spanned),
            None => self.pick(&self.span.read()?),
        }
    }

    fn pick(&self, spanned: &[T]) -> Result<Vec<T>> {
        let op = "View::to_vec";
        let bytes = self.layout.shape().bytes(op, T::DTYPE)?;
        let mut elements = Vec::new();
        if elements.try_reserve_exact(bytes / size_of::<T>()).is_err() {
            return Err(Error::OutOfMemory { device: DeviceName::Cpu, bytes: bytes as u64 });
        }
        elements.extend(self.layout.offsets().map(|offset| spanned[offset as usize]));
        Ok(elements)
    }

    /// The elements from the first to the furthest one reached, if they are on the host; [`View::layout`] indexes them.
    pub(crate) fn on_host(&self) -> Option<&'a [T]> {
        self.span.on_host()
    }

    /// The address of the first element, for a kernel that reads.
    pub(crate) fn address(&self) -> u64 {
        self.span.address()
    }

    /// The addresses of all bytes from the first to the furthest element.
    pub(crate) fn addresses(&self) -> Range<u64> {
        self.span.addresses()
    }

    /// The device that holds the elements.
    pub fn device(&self) -> &'a Device {
        self.span.device()
    }

    /// The element type, as a value.
    pub const fn dtype(&self) -> DType {
        T::DTYPE
    }
}

impl<T> View<'_, T> {
    /// Shape and strides.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The shape.
    pub fn shape(&self) -> &Shape {
        self.layout.shape()
    }

    /// The lengths of the dims.
    pub fn dims(&self) -> &[usize] {
        self.layout.dims()
    }
}

/// The bytes, from `offset` elements on, that `layout` spans.
fn bytes<T>(offset: u64, layout: &Layout) -> Range<usize> {
    // Spans fit: they are at most the elements of an allocation or of checked foreign memory.
    let start = offset as usize * size_of::<T>();
    start..start + layout.span() as usize * size_of::<T>()
}

impl<'a, T: Element> From<&'a Tensor<T>> for View<'a, T> {
    fn from(tensor: &'a Tensor<T>) -> Self {
        tensor.view()
    }
}

impl<'a, T: Element> From<&View<'a, T>> for View<'a, T> {
    fn from(view: &View<'a, T>) -> Self {
        *view
    }
}

impl<T: Element> fmt::Debug for View<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "View<{}> {:?} on {}", T::DTYPE, self.layout, self.device())
    }
}

/// Elements of a tensor, borrowed for writing.
///
/// ```compile_fail,E0499
/// # use sumexp::{Device, Tensor};
/// let mut x = Tensor::<f32>::zeros(&Device::cpu(), &[1])?;
/// let (first, second) = (x.view_mut(), x.view_mut());
/// drop((first, second));
/// # Ok::<(), sumexp::Error>(())
/// ```
pub struct ViewMut<'a, T> {
    /// From the first element to the furthest one reached, both included.
    span: SpanMut<'a>,
    layout: Layout,
    elements: PhantomData<&'a mut [T]>,
}

impl<'a, T: Element> ViewMut<'a, T> {
    /// As [`View::from_parts`].
    pub(crate) fn from_parts(span: SpanMut<'a>, layout: Layout) -> Self {
        Self { span: span.part(bytes::<T>(0, &layout)), layout, elements: PhantomData }
    }

    /// The part with indices `range` along `dim`.
    ///
    /// # Errors
    /// [`Error::Dim`], [`Error::Range`].
    pub fn slice(self, dim: Dim, range: Range<usize>) -> Result<Self> {
        let (offset, layout) = self.layout.slice("ViewMut::slice", dim, range)?;
        Ok(Self { span: self.span.part(bytes::<T>(offset, &layout)), layout, elements: PhantomData })
    }

    /// The same elements with the dims in another order, as [`View::permute`].
    ///
    /// # Errors
    /// [`Error::Permutation`].
    pub fn permute(self, order: &[usize]) -> Result<Self> {
        Ok(Self { layout: self.layout.permute("ViewMut::permute", order)?, ..self })
    }

    /// The same elements in the same order under another shape.
    ///
    /// # Errors
    /// As [`View::reshape`].
    pub fn reshape(self, dims: &[usize]) -> Result<Self> {
        let op = "ViewMut::reshape";
        Ok(Self { layout: self.layout.reshape(op, Shape::new(op, dims)?)?, ..self })
    }

    /// The same view for a shorter time.
    pub fn reborrow(&mut self) -> ViewMut<'_, T> {
        ViewMut { span: self.span.reborrow(), layout: self.layout, elements: PhantomData }
    }

    /// The same elements for reading, while this view is not used.
    pub fn as_view(&self) -> View<'_, T> {
        View { span: self.span.as_span(), layout: self.layout, elements: PhantomData }
    }

    /// Shape and strides.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The shape.
    pub fn shape(&self) -> &Shape {
        self.layout.shape()
    }

    /// The lengths of the dims.
    pub fn dims(&self) -> &[usize] {
        self.layout.dims()
    }

    /// The device that holds the elements.
    pub fn device(&self) -> &'a Device {
        self.span.device()
    }

    /// The address of the first element, for a kernel that is enqueued next and writes. Refuses memory that a tensor on
    /// another stream holds too.
    pub(crate) fn address(&mut self, op: &'static str, output: &'static str) -> Result<u64> {
        self.span.address(op, output)
    }

    /// The elements from the first to the furthest one reached, if they are on the host. Refuses as
    /// [`ViewMut::address`].
    pub(crate) fn on_host(&mut self, op: &'static str, output: &'static str) -> Result<Option<&mut [T]>> {
        self.span.on_host(op, output)
    }

    /// Refuses a view that an operation cannot fill: another shape than `shape`, not contiguous, or overlapping one of
    /// the inputs, which are given by name and [`View::addresses`].
    pub(crate) fn check_output(
        &self,
        op: &'static str,
        output: &'static str,
        shape: (&'static str, &Shape),
        inputs: &[(&'static str, Range<u64>)],
    ) -> Result<()> {
        self.check_shape(op, output, shape)?;
        if !self.layout.is_contiguous() {
            return Err(self.not_contiguous(op, output));
        }
        self.check_apart(op, output, inputs)
    }

    /// As [`ViewMut::check_output`], but only the elements of a row, along the last dim, must be neighbours. The second name is
    /// that of this dim. Two elements in one place are refused.
    pub(crate) fn check_rows(
        &self,
        op: &'static str,
        (output, rows): (&'static str, &'static str),
        shape: (&'static str, &Shape),
        inputs: &[(&'static str, Range<u64>)],
    ) -> Result<()> {
        self.check_shape(op, output, shape)?;
        if !self.shape().is_empty() {
            if self.dims().last().is_some_and(|len| *len > 1) && self.layout.strides().last() != Some(&1) {
                return Err(self.not_contiguous(op, rows));
            }
            if !self.layout.is_nested() {
                return Err(self.not_contiguous(op, output));
            }
        }
        self.check_apart(op, output, inputs)
    }

    fn check_shape(&self, op: &'static str, output: &'static str, like: (&'static str, &Shape)) -> Result<()> {
        let (right, shape) = like;
        if self.shape() == shape {
            return Ok(());
        }
        let (left_shape, right_shape) = (self.dims().to_vec(), shape.dims().to_vec());
        Err(Error::Shapes { op, left: output, left_shape, right, right_shape })
    }

    fn not_contiguous(&self, op: &'static str, output: &'static str) -> Error {
        Error::NotContiguous { op, output, shape: self.dims().to_vec(), strides: self.layout.strides().to_vec() }
    }

    /// Refuses a view that overlaps one of the inputs.
    pub(crate) fn check_apart(
        &self,
        op: &'static str,
        output: &'static str,
        inputs: &[(&'static str, Range<u64>)],
    ) -> Result<()> {
        let own = self.span.as_span().addresses();
        match inputs.iter().find(|(_, input)| own.start < input.end && input.start < own.end) {
            None => Ok(()),
            Some((input, bytes)) => Err(Error::Overlap {
                op,
                output,
                input,
                output_start: own.start,
                output_end: own.end,
                input_start: bytes.start,
                input_end: bytes.end,
            }),
        }
    }
}

impl<'a, T: Element> From<&'a mut Tensor<T>> for ViewMut<'a, T> {
    fn from(tensor: &'a mut Tensor<T>) -> Self {
        tensor.view_mut()
    }
}

impl<T: Element> fmt::Debug for ViewMut<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ViewMut<{}> {:?} on {}", T::DTYPE, self.layout, self.device())
    }
}
