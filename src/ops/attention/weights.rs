//! The weights themselves, for those who want to look at them.

use super::{Attention, check, host};
use crate::device::Device;
use crate::dtype::Float;
use crate::error::{Error, Result};
use crate::kernels::attention::{self as kernel, Forward};
use crate::shape::Shape;
use crate::tensor::{Lse, Tensor, View, ViewMut};
use std::ops::Range;

const OP: &str = "attention_weights";

/// The weights of the queries in `rows`: `weight_ij = exp(score_ij - lse_i)`, `[B, Hq, rows, Sk]`, from the lse of a
/// [`forward`](super::forward) call with the same q, k and options.
///
/// The forward operation never has them in memory. This one writes them, and reads no values: for a picture, take the rows of interest and not
/// all of `Sq * Sk`. With the lse of a [`merge`](super::merge) they are the weights of one part's keys among all keys. Hidden keys have weight 0,
/// also where the row is NaN.
///
/// # Shapes
/// | tensor | shape | type |
/// |---|---|---|
/// | q | `[B, Hq, Sq, D]` | f16, bf16, f32 |
/// | k | `[B, Hkv, Sk, D]` | as q |
/// | lse | `[B, Hq, Sq]` | f32 |
/// | result | `[B, Hq, rows, Sk]` | as q |
///
/// # Numerics
/// Scores have the bits that they have in the forward operation. What is left is the rounding of the lse and of the score to f32: a
/// weight's relative error is at most `2^-22 * (4 + |lse| + |score|)`, and it is never above 1. 16-bit weights are rounded once more. Weights
/// below `2^-126` may be 0.
///
/// # Packed sequences
/// Take one of them: a [`View::slice`] of its tokens and a [`View::permute`] to `[1, H, S, D]` cost nothing.
///
/// # Errors
/// As [`forward`](super::forward); [`Error::Range`] if there are no such queries; [`Error::Shapes`] for the lse.
///
/// ```
/// use sumexp::attention::{Attention, forward, weights};
/// use sumexp::{Device, Tensor};
/// let device = Device::cpu();
/// let q = Tensor::from_slice(&device, &[1, 1, 2, 1], &[0.0f32, 1.0])?;
/// let k = Tensor::from_slice(&device, &[1, 1, 2, 1], &[0.0, 3f32.ln()])?;
/// let options = Attention { scale: Some(1.0), ..Attention::default() };
/// let lse = forward(&q, &k, &k, &options)?.lse;
/// let last = weights(&q, &k, &lse, 1..2, &options)?;
/// assert_eq!(last.dims(), [1, 1, 1, 2]);
/// let last = last.to_vec()?;
/// assert!((last[0] - 0.25).abs() < 1e-6 && (last[1] - 0.75).abs() < 1e-6);
/// # Ok::<(), sumexp::Error>(())
/// ```
pub fn weights<'a, T: Float>(
    q: impl Into<View<'a, T>>,
    k: impl Into<View<'a, T>>,
    lse: &'a Lse,
    rows: Range<usize>,
    options: &Attention<'a>,
) -> Result<Tensor<T>> {
    let (call, lse, shape) = check(q.into(), k.into(), lse.view_values(), &rows, options)?;
    let mut out = Tensor::unfilled(OP, call.q.device(), shape)?;
    run(&call, &lse, rows, out.view_mut())?;
    Ok(out)
}

/// [`weights`] from any view of log-sum-exps into memory of the caller, of any strides that keep elements apart, as long as the last dim is
/// contiguous.
///
/// # Errors
/// As [`weights`]; also [`Error::Shapes`], [`Error::NotContiguous`], [`Error::Overlap`] and [`Error::Shared`] for the result.
pub fn weights_into<'a, 'o, T: Float>(
    q: impl Into<View<'a, T>>,
    k: impl Into<View<'a, T>>,
    lse: impl Into<View<'a, f32>>,
    rows: Range<usize>,
    options: &Attention<'a>,
    out: impl Into<ViewMut<'o, T>>,
) -> Result<()> {
    let out = out.into();
    let (call, lse, shape) = check(q.into(), k.into(), lse.into(), &rows, options)?;
    let names = ("the weights", "the last dim of the weights");
    check::rows_of_output(OP, &call, names, &out, ("the rows and keys", &shape))?;
    out.check_apart(OP, "the weights", &[("lse", lse.addresses())])?;
    run(&call, &lse, rows, out)
}

fn check<'a, T: Float>(
    q: View<'a, T>,
    k: View<'a, T>,
    lse: View<'a, f32>,
    rows: &Range<usize>,
    options: &Attention<'a>,
) -> Result<(Forward<'a, T>, View<'a, f32>, Shape)> {
    // Values are not read; keys stand in for them.
    let call = check::operands(OP, [q, k, k], options, None)?;
    let [batch, heads, queries, _] = *q.dims() else { unreachable!("checked to have four dims") };
    if lse.dims() != &q.dims()[..3] {
        let (left_shape, right_shape) = (lse.dims().to_vec(), q.dims()[..3].to_vec());
        return Err(Error::Shapes { op: OP, left: "lse", left_shape, right: "the queries", right_shape });
    }
    Device::same(OP, ("q", q.device()), &[("lse", lse.device())])?;
    if rows.start > rows.end || rows.end > queries {
        return Err(Error::Range { op: OP, dim: 2, start: rows.start, end: rows.end, len: queries });
    }
    let shape = Shape::new(OP, &[batch, heads, rows.len(), k.dims()[2]])?;
    Ok((call, lse, shape))
}

fn run<T: Float>(call: &Forward<T>, lse: &View<f32>, rows: Range<usize>, out: ViewMut<T>) -> Result<()> {
    if out.shape().is_empty() {
        return Ok(());
    }
    match call.q.on_host() {
        Some(_) => host::run(OP, call, host::FillWeights { op: OP, lse: *lse, rows, out }),
        None => kernel::weights(OP, call, lse, rows, out),
    }
}
