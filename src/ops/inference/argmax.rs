//! The index of the largest element.

use super::Checked;
use crate::dtype::Float;
use crate::error::Result;
use crate::kernels::inference::argmax as launch;
use crate::reference::{Output, argmax as cpu};
use crate::shape::Dim;
use crate::tensor::{Tensor, View, ViewMut};

/// The index of the largest element along `dim`: of equal ones the first.
///
/// The rules are PyTorch's: a NaN is larger than any number, so the first NaN of a row wins; -0 equals +0. A row of nothing but
/// -inf gives 0.
///
/// # Shapes
/// | tensor | shape | type |
/// |---|---|---|
/// | `x` | any, any strides | f16, bf16, f32 |
/// | result | that of `x` without `dim` | i64 |
///
/// Every element is read once and compared as it is: the result is exact.
///
/// # Errors
/// [`Error::Dim`](crate::Error::Dim); [`Error::NoClasses`](crate::Error::NoClasses) if there are rows but no elements along
/// `dim`; [`Error::OutOfMemory`](crate::Error::OutOfMemory), [`Error::Driver`](crate::Error::Driver).
///
/// ```
/// use sumexp::{Device, Dim, Tensor, argmax};
/// let x = Tensor::from_slice(&Device::cpu(), &[2, 3], &[1.0f32, 5.0, 5.0, f32::NAN, 9.0, f32::NAN])?;
/// assert_eq!(argmax(&x, Dim::LAST)?.to_vec()?, [1, 0]);
/// # Ok::<(), sumexp::Error>(())
/// ```
pub fn argmax<'a, T: Float>(x: impl Into<View<'a, T>>, dim: Dim) -> Result<Tensor<i64>> {
    let checked = Checked::new(ARGMAX, x.into(), dim)?.not_empty()?;
    let mut indices = Tensor::unfilled(ARGMAX, checked.x.device(), checked.sizes)?;
    run(&checked, indices.view_mut())?;
    Ok(indices)
}

/// [`argmax`] into memory of the caller.
///
/// # Errors
/// As [`argmax`]; also [`Error::Shapes`](crate::Error::Shapes), [`Error::NotContiguous`](crate::Error::NotContiguous),
/// [`Error::Overlap`](crate::Error::Overlap), [`Error::Shared`](crate::Error::Shared) and
/// [`Error::DifferentDevices`](crate::Error::DifferentDevices) for `indices`.
pub fn argmax_into<'a, 'i, T: Float>(
    x: impl Into<View<'a, T>>,
    dim: Dim,
    indices: impl Into<ViewMut<'i, i64>>,
) -> Result<()> {
    let (checked, indices) = (Checked::new(ARGMAX, x.into(), dim)?.not_empty()?, indices.into());
    checked.check_output("indices", &indices, ("x without its dim", &checked.sizes))?;
    run(&checked, indices)
}

const ARGMAX: &str = "argmax";

fn run<T: Float>(checked: &Checked<T>, mut indices: ViewMut<i64>) -> Result<()> {
    if checked.rows.count() == 0 {
        return Ok(());
    }
    let Some((rows, x)) = checked.on_host() else { return launch(&checked.input(), indices) };
    let strides = checked.per_row(indices.layout().strides());
    let data = indices.on_host(ARGMAX, "indices")?.expect("the output is where x is");
    cpu::rows(&rows, x, Output { data, strides: &strides });
    Ok(())
}
