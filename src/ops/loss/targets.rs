//! What a loss is measured against.

use crate::device::Device;
use crate::dtype::DType;
use crate::shape::{Layout, Shape};
use crate::tensor::{Tensor, View};

/// The class of every row, as a tensor of an integer type with any strides: the shape of the logits without the class dim.
///
/// Tensors and views of `i64`, `i32` and `u32` convert into it, so a call takes `&targets` of either type.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Targets<'a> {
    /// Classes as `i64`.
    I64(View<'a, i64>),
    /// Classes as `i32`.
    I32(View<'a, i32>),
    /// Classes as `u32`.
    U32(View<'a, u32>),
}

macro_rules! from {
    ($($element:ty => $variant:ident),*) => {$(
        impl<'a> From<View<'a, $element>> for Targets<'a> {
            fn from(view: View<'a, $element>) -> Self {
                Self::$variant(view)
            }
        }

        impl<'a> From<&'a Tensor<$element>> for Targets<'a> {
            fn from(tensor: &'a Tensor<$element>) -> Self {
                Self::$variant(tensor.view())
            }
        }
    )*};
}

from!(i64 => I64, i32 => I32, u32 => U32);

/// Evaluates an expression with the view, whatever its element type.
macro_rules! each {
    ($targets:expr, $view:ident => $value:expr) => {
        match $targets {
            Targets::I64($view) => $value,
            Targets::I32($view) => $value,
            Targets::U32($view) => $value,
        }
    };
}

impl<'a> Targets<'a> {
    /// The shape.
    pub fn shape(&self) -> &Shape {
        self.layout().shape()
    }

    /// The device that holds the targets.
    pub fn device(&self) -> &'a Device {
        each!(self, view => view.device())
    }

    pub(super) fn layout(&self) -> &Layout {
        each!(self, view => view.layout())
    }

    pub(super) fn dtype(&self) -> DType {
        each!(self, view => view.dtype())
    }

    pub(super) fn address(&self) -> u64 {
        each!(self, view => view.address())
    }

    pub(super) fn addresses(&self) -> std::ops::Range<u64> {
        each!(self, view => view.addresses())
    }
}

pub(super) use each;
