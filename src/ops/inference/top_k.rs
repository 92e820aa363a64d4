//! The largest elements, in order.

use super::Checked;
use crate::dtype::Float;
use crate::error::{Error, Result};
use crate::kernels::inference::top_k as launch;
use crate::plan::inference::TOP_K_MOST;
use crate::reference::{Output, top_k as cpu};
use crate::shape::{Dim, Shape};
use crate::tensor::{Tensor, View, ViewMut};

/// What [`top_k`] returns. Both have the shape of the input with `k` in the place of the length of its dim.
#[derive(Debug)]
pub struct TopK<T: Float> {
    /// The largest elements as they are, bit by bit; largest first along the dim.
    pub values: Tensor<T>,
    /// Where along the dim each of them is.
    pub indices: Tensor<i64>,
}

/// Where [`top_k_into`] writes. Shapes are those of [`TopK`], everything contiguous.
#[derive(Debug)]
pub struct TopKInto<'a, T: Float> {
    /// See [`TopK::values`].
    pub values: ViewMut<'a, T>,
    /// See [`TopK::indices`].
    pub indices: ViewMut<'a, i64>,
}

/// The `k` largest elements along `dim`, largest first, and their indices: of equal ones the first come first.
///
/// As in [`argmax`](crate::argmax) a NaN is larger than any number, all NaNs are equal, and -0 equals +0; `top_k` with `k = 1` gives
/// its index. Unlike PyTorch's, the order of equals is defined, and the same on every run.
///
/// # Shapes
/// | tensor | shape | type |
/// |---|---|---|
/// | `x` | any, any strides; up to 2^32 - 1 elements along `dim` | f16, bf16, f32 |
/// | values | that of `x` with `k` in the place of the length of `dim` | as `x` |
/// | indices | as values | i64 |
///
/// `k` may be 0, and the results are then empty. Elements are compared as they are: the result is exact. A row is read once if it
/// fits in the registers of a block (64 KiB), else twice; one whose largest elements lie too close together in it a few times more.
///
/// # Errors
/// [`Error::Dim`]; [`Error::TooMany`] if `k` is more than 1024 or than there are elements along `dim`, or if these are 2^32 or more;
/// [`Error::OutOfMemory`], [`Error::Driver`].
///
/// ```
/// use sumexp::{Device, Dim, Tensor, top_k};
/// let x = Tensor::from_slice(&Device::cpu(), &[5], &[1.0f32, 5.0, 3.0, 5.0, -2.0])?;
/// let best = top_k(&x, Dim::LAST, 3)?;
/// assert_eq!(best.values.to_vec()?, [5.0, 5.0, 3.0]);
/// assert_eq!(best.indices.to_vec()?, [1, 3, 2]);
/// # Ok::<(), sumexp::Error>(())
/// ```
pub fn top_k<'a, T: Float>(x: impl Into<View<'a, T>>, dim: Dim, k: usize) -> Result<TopK<T>> {
    let (checked, shape) = check(x.into(), dim, k)?;
    let device = checked.x.device();
    let mut best =
        TopK { values: Tensor::unfilled(TOP_K, device, shape)?, indices: Tensor::unfilled(TOP_K, device, shape)? };
    let outputs = TopKInto { values: best.values.view_mut(), indices: best.indices.view_mut() };
    run(&checked, k, outputs)?;
    Ok(best)
}

/// [`top_k`] into memory of the caller.
///
/// # Errors
/// As [`top_k`]; also [`Error::Shapes`], [`Error::NotContiguous`], [`Error::Overlap`], [`Error::Shared`] and
/// [`Error::DifferentDevices`] for an output.
pub fn top_k_into<'a, T: Float>(x: impl Into<View<'a, T>>, dim: Dim, k: usize, outputs: TopKInto<T>) -> Result<()> {
    let (checked, shape) = check(x.into(), dim, k)?;
    let like = ("x with k in the place of its dim", &shape);
    checked.check_output("values", &outputs.values, like)?;
    checked.check_output("indices", &outputs.indices, like)?;
    run(&checked, k, outputs)
}

const TOP_K: &str = "top_k";

/// The checked input, and the shape of the results.
fn check<T: Float>(x: View<'_, T>, dim: Dim, k: usize) -> Result<(Checked<'_, T>, Shape)> {
    let checked = Checked::new(TOP_K, x, dim)?;
    let too_many = |option, value, max| Err(Error::TooMany { op: TOP_K, option, value, max });
    let (len, most) = (checked.rows.len, checked.rows.len.min(TOP_K_MOST));
    if k as u64 > most {
        return too_many("k", k as u64, most);
    }
    // The index of an element is a part of its rank, see the kernel.
    if len > u64::from(u32::MAX) {
        return too_many("the length of the dim", len, u64::from(u32::MAX));
    }
    let shape = checked.x.shape().with(checked.rows.position, k);
    Ok((checked, shape))
}

fn run<T: Float>(checked: &Checked<T>, k: usize, outputs: TopKInto<T>) -> Result<()> {
    if k == 0 || checked.rows.count() == 0 {
        return Ok(());
    }
    let TopKInto { mut values, mut indices } = outputs;
    let Some((rows, x)) = checked.on_host() else { return launch(&checked.input(), k as u64, values, indices) };
    let (value_layout, index_layout) = (*values.layout(), *indices.layout());
    let here = "the outputs are where x is";
    let values = Output { data: values.on_host(TOP_K, "values")?.expect(here), strides: value_layout.strides() };
    let indices = Output { data: indices.on_host(TOP_K, "indices")?.expect(here), strides: index_layout.strides() };
    cpu::rows(&rows, x, k, values, indices);
    Ok(())
}
