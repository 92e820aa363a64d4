//! What a loss is measured against.

use crate::device::Device;
use crate::dtype::{DType, Float, bf16, f16};
use crate::shape::{Layout, Shape};
use crate::tensor::{Probabilities, Tensor, View};

/// What a loss is measured against: the class of every row, or a probability for each class.
///
/// Classes are a tensor of an integer type: the shape of the logits without the class dim. Tensors and views of `i64`, `i32` and
/// `u32` convert into it, so a call takes `&targets` of either type.
///
/// Probabilities have the shape of the logits. [`Probabilities`] convert into it; a plain tensor of floating-point numbers is
/// declared to be that by [`Targets::probabilities`], because where classes are meant it would be a mistake.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Targets<'a> {
    /// Classes as `i64`.
    I64(View<'a, i64>),
    /// Classes as `i32`.
    I32(View<'a, i32>),
    /// Classes as `u32`.
    U32(View<'a, u32>),
    /// A probability for every class.
    Probabilities(ProbabilityTargets<'a>),
}

/// A probability for every class, of any type of floating-point numbers; see [`Targets::probabilities`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum ProbabilityTargets<'a> {
    /// As `f32`.
    F32(View<'a, f32>),
    /// As `f16`.
    F16(View<'a, f16>),
    /// As `bf16`.
    BF16(View<'a, bf16>),
}

macro_rules! from_classes {
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

from_classes!(i64 => I64, i32 => I32, u32 => U32);

impl<'a, T: Float> From<View<'a, T>> for ProbabilityTargets<'a> {
    fn from(view: View<'a, T>) -> Self {
        let f32 = view.of_type().map(Self::F32);
        let found = f32.or_else(|| view.of_type().map(Self::F16)).or_else(|| view.of_type().map(Self::BF16));
        found.expect("no other type is Float")
    }
}

impl<'a, T: Float> From<&'a Tensor<T>> for ProbabilityTargets<'a> {
    fn from(tensor: &'a Tensor<T>) -> Self {
        tensor.view().into()
    }
}

impl<'a, T: Float> From<&'a Probabilities<T>> for Targets<'a> {
    fn from(probabilities: &'a Probabilities<T>) -> Self {
        Self::probabilities(probabilities.view_values())
    }
}

/// Evaluates an expression with the view, whatever its element type.
macro_rules! each {
    ($targets:expr, $view:ident => $value:expr) => {
        match $targets {
            Targets::I64($view) => $value,
            Targets::I32($view) => $value,
            Targets::U32($view) => $value,
            Targets::Probabilities(ProbabilityTargets::F32($view)) => $value,
            Targets::Probabilities(ProbabilityTargets::F16($view)) => $value,
            Targets::Probabilities(ProbabilityTargets::BF16($view)) => $value,
        }
    };
}

impl<'a> Targets<'a> {
    /// Declares that a tensor or view holds a probability for every class. Nothing is checked: other numbers are taken as they
    /// are.
    ///
    /// ```
    /// use sumexp::{CrossEntropy, Device, Dim, Targets, Tensor, cross_entropy};
    /// let device = Device::cpu();
    /// let logits = Tensor::<f32>::zeros(&device, &[1, 4])?;
    /// let half_and_half = Tensor::from_slice(&device, &[1, 4], &[0.5f32, 0.5, 0.0, 0.0])?;
    /// let targets = Targets::probabilities(&half_and_half);
    /// let loss = cross_entropy(&logits, Dim::LAST, targets, &CrossEntropy::default())?.loss;
    /// assert_eq!(loss.to_vec()?, [4f32.ln()]);
    /// # Ok::<(), sumexp::Error>(())
    /// ```
    pub fn probabilities(of_classes: impl Into<ProbabilityTargets<'a>>) -> Self {
        Self::Probabilities(of_classes.into())
    }

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
