//! The gradient of the bias: a tensor of the bias's own type and shape.

use super::options::{Attention, Bias};
use crate::device::Device;
use crate::dtype::{Element, Float, bf16, f16};
use crate::error::{Error, Result};
use crate::kernels::attention::BiasInto;
use crate::tensor::{Tensor, View, ViewMut};
use std::ops::Range;

/// The gradient of an additive bias, of the bias's own type and shape: along dims of length 1 it is a sum.
#[derive(Debug)]
pub enum BiasGradient {
    /// In f32.
    F32(Tensor<f32>),
    /// In f16.
    F16(Tensor<f16>),
    /// In bf16.
    BF16(Tensor<bf16>),
}

impl BiasGradient {
    /// The gradient in f32, if that is its type.
    pub fn f32(&self) -> Option<&Tensor<f32>> {
        if let Self::F32(tensor) = self { Some(tensor) } else { None }
    }

    /// The gradient in f16, if that is its type.
    pub fn f16(&self) -> Option<&Tensor<f16>> {
        if let Self::F16(tensor) = self { Some(tensor) } else { None }
    }

    /// The gradient in bf16, if that is its type.
    pub fn bf16(&self) -> Option<&Tensor<bf16>> {
        if let Self::BF16(tensor) = self { Some(tensor) } else { None }
    }

    /// Memory for the gradient of `bias`.
    pub(super) fn unfilled(op: &'static str, bias: &Bias) -> Result<Self> {
        fn like<E: Element>(op: &'static str, view: &View<E>) -> Result<Tensor<E>> {
            Tensor::unfilled(op, view.device(), *view.shape())
        }
        Ok(match bias {
            Bias::F32(bias) => Self::F32(like(op, bias)?),
            Bias::F16(bias) => Self::F16(like(op, bias)?),
            Bias::BF16(bias) => Self::BF16(like(op, bias)?),
        })
    }

    pub(super) fn view_mut(&mut self) -> BiasInto<'_> {
        match self {
            Self::F32(tensor) => BiasInto::F32(tensor.view_mut()),
            Self::F16(tensor) => BiasInto::F16(tensor.view_mut()),
            Self::BF16(tensor) => BiasInto::BF16(tensor.view_mut()),
        }
    }
}

macro_rules! into_from {
    ($($variant:ident($element:ty)),*) => {$(
        impl<'o> From<ViewMut<'o, $element>> for BiasInto<'o> {
            fn from(view: ViewMut<'o, $element>) -> Self {
                Self::$variant(view)
            }
        }

        impl<'o> From<&'o mut Tensor<$element>> for BiasInto<'o> {
            fn from(tensor: &'o mut Tensor<$element>) -> Self {
                Self::$variant(tensor.view_mut())
            }
        }
    )*};
}

into_from!(F32(f32), F16(f16), BF16(bf16));

/// The shape of the options' bias as all four dims, which its gradient has.
pub(super) fn shape_of_gradient(op: &'static str, options: &Attention) -> Result<[usize; 4]> {
    let Some(bias) = &options.bias else {
        return Err(Error::Option { op, option: "bias_gradient", value: 1.0, wanted: "false without a bias" });
    };
    let own = bias.dims();
    Ok(std::array::from_fn(|dim| (dim + own.len()).checked_sub(4).map_or(1, |dim| own[dim])))
}

/// Refuses memory that cannot hold the gradient of `bias`: of another type or shape, not contiguous, or overlapping one of `taken`.
pub(super) fn check(
    op: &'static str,
    device: &Device,
    bias: &Bias,
    into: &BiasInto,
    taken: &[(&'static str, Range<u64>)],
) -> Result<()> {
    fn fits<E: Element>(
        op: &'static str,
        device: &Device,
        bias: &View<E>,
        into: &ViewMut<E>,
        taken: &[(&'static str, Range<u64>)],
    ) -> Result<()> {
        Device::same(op, ("q", device), &[("dbias", into.device())])?;
        into.check_output(op, "dbias", ("the bias", bias.shape()), taken)
    }
    match (bias, into) {
        (Bias::F32(bias), BiasInto::F32(into)) => fits(op, device, bias, into, taken),
        (Bias::F16(bias), BiasInto::F16(into)) => fits(op, device, bias, into, taken),
        (Bias::BF16(bias), BiasInto::BF16(into)) => fits(op, device, bias, into, taken),
        (bias, into) => {
            Err(Error::Types { op, operands: [("the bias", bias.dtype().name()), ("dbias", into.dtype().name())] })
        }
    }
}

/// Copies a gradient of any type, row-major, into memory of that type on the host.
pub(super) fn fill_on_host<U: Float>(op: &'static str, into: &mut BiasInto, values: &[U]) -> Result<()> {
    fn fill<E: Float, U: Float>(op: &'static str, into: &mut ViewMut<E>, values: &[U]) -> Result<()> {
        let to = into.on_host(op, "dbias")?.expect("dbias is where q is");
        // The types are the same, so nothing is rounded.
        to.iter_mut().zip(values).for_each(|(to, value)| *to = E::from_f64(value.to_f64()));
        Ok(())
    }
    match into {
        BiasInto::F32(view) => fill(op, view, values),
        BiasInto::F16(view) => fill(op, view, values),
        BiasInto::BF16(view) => fill(op, view, values),
    }
}
