//! The forward operation on batches.

use super::{Attention, check, host};
use crate::dtype::{Element, Float};
use crate::error::Result;
use crate::kernels::attention::{self as kernel, Forward, Results};
use crate::shape::Shape;
use crate::tensor::{Lse, Tensor, View, ViewMut};

/// What [`forward`] and [`forward_packed`](super::forward_packed) return.
#[derive(Debug)]
pub struct AttentionOutput<T: Element> {
    /// For each query the mean of the values it sees, by their weights: `[B, Hq, Sq, Dv]`, or `[Tq, Hq, Dv]` packed.
    pub out: Tensor<T>,
    /// Natural logarithm of the sum of the exponentials of a query's scores: `[B, Hq, Sq]`, or `[Tq, Hq]` packed. -inf where nothing is
    /// visible. The backward operation needs it, and so do exact [`weights`](super::weights) and [`Partial`](super::Partial)s.
    pub lse: Lse,
}

/// Where [`forward_into`] and [`forward_packed_into`](super::forward_packed_into) write. Shapes are those of [`AttentionOutput`].
#[derive(Debug)]
pub struct AttentionInto<'o, T: Element> {
    /// See [`AttentionOutput::out`]. Any strides that keep elements apart, as long as the last dim is contiguous.
    pub out: ViewMut<'o, T>,
    /// See [`AttentionOutput::lse`]; contiguous. Only if it is wanted.
    pub lse: Option<ViewMut<'o, f32>>,
}

const OP: &str = "attention";

/// Attention of the queries q `[B, Hq, Sq, D]` to the keys k `[B, Hkv, Sk, D]` and values v `[B, Hkv, Sk, Dv]`.
///
/// `out_i = sum_j weight_ij v_j`; the [options](Attention) say what the scores are and which keys are visible, the
/// [module](self::super) which shapes, strides and numerics are possible.
///
/// # Errors
/// [`Error::OperandRank`](crate::Error::OperandRank) and [`Error::Sizes`](crate::Error::Sizes) for shapes that do not go together;
/// [`Error::NotContiguous`](crate::Error::NotContiguous) for rows with gaps; [`Error::TooMany`](crate::Error::TooMany) for a head size over
/// 256 or a length over 2^30; [`Error::Option`](crate::Error::Option) for a head size of 0, a scale that is not finite, or a softcap that is not
/// finite and above 0; [`Error::Mask`](crate::Error::Mask) and [`Error::Broadcast`](crate::Error::Broadcast) for masks, biases and slopes;
/// [`Error::DifferentDevices`](crate::Error::DifferentDevices), [`Error::OutOfMemory`](crate::Error::OutOfMemory),
/// [`Error::Driver`](crate::Error::Driver).
///
/// ```
/// use sumexp::attention::{Attention, forward};
/// use sumexp::{Device, Tensor, f16};
/// let device = Device::cuda(0).unwrap_or(Device::cpu());
/// // Eight heads of queries share two of keys.
/// let q = Tensor::<f16>::zeros(&device, &[1, 8, 5, 64])?;
/// let k = Tensor::<f16>::zeros(&device, &[1, 2, 7, 64])?;
/// let output = forward(&q, &k, &k, &Attention::default())?;
/// assert_eq!(output.out.dims(), [1, 8, 5, 64]);
/// assert_eq!(output.lse.to_vec()?[0], 7f32.ln());
/// # Ok::<(), sumexp::Error>(())
/// ```
pub fn forward<'a, T: Float>(
    q: impl Into<View<'a, T>>,
    k: impl Into<View<'a, T>>,
    v: impl Into<View<'a, T>>,
    options: &Attention<'a>,
) -> Result<AttentionOutput<T>> {
    let call = check::operands(OP, [q.into(), k.into(), v.into()], options, None)?;
    allocate(OP, &call, shapes(&call)?, DENSE)
}

/// [`forward`] into memory of the caller; the lse only if it is wanted.
///
/// # Errors
/// As [`forward`]; also [`Error::Shapes`](crate::Error::Shapes), [`Error::NotContiguous`](crate::Error::NotContiguous),
/// [`Error::Overlap`](crate::Error::Overlap) and [`Error::Shared`](crate::Error::Shared) for the results.
///
/// ```
/// use sumexp::attention::{Attention, AttentionInto, forward_into};
/// use sumexp::{Device, Tensor};
/// let device = Device::cpu();
/// // Heads behind positions, as most models keep them: [B, S, H, D].
/// let x = Tensor::from_slice(&device, &[1, 2, 1, 1], &[5.0f32, 5.0])?;
/// let mut y = Tensor::<f32>::zeros(&device, &[1, 2, 1, 1])?;
/// let heads_first = x.view().permute(&[0, 2, 1, 3])?;
/// let out = y.view_mut().permute(&[0, 2, 1, 3])?;
/// let into = AttentionInto { out, lse: None };
/// forward_into(heads_first, heads_first, heads_first, &Attention::default(), into)?;
/// assert_eq!(y.to_vec()?, [5.0, 5.0]);
/// # Ok::<(), sumexp::Error>(())
/// ```
pub fn forward_into<'a, T: Float>(
    q: impl Into<View<'a, T>>,
    k: impl Into<View<'a, T>>,
    v: impl Into<View<'a, T>>,
    options: &Attention<'a>,
    results: AttentionInto<T>,
) -> Result<()> {
    let call = check::operands(OP, [q.into(), k.into(), v.into()], options, None)?;
    write(OP, &call, shapes(&call)?, DENSE, results)
}

/// The dims of results `[B, Hq, Sq, ..]`.
const DENSE: [Option<usize>; 3] = [Some(0), Some(1), Some(2)];

/// Shapes of out and lse.
fn shapes<T: Float>(call: &Forward<T>) -> Result<[Shape; 2]> {
    let (q, v) = (call.q.dims(), call.v.dims());
    Ok([Shape::new(OP, &[q[0], q[1], q[2], v[3]])?, Shape::new(OP, &q[..3])?])
}

/// Runs a checked call into new tensors. `dims` are those of the batch, the heads and the rows in the results.
pub(super) fn allocate<T: Float>(
    op: &'static str,
    call: &Forward<T>,
    [out, lse]: [Shape; 2],
    dims: [Option<usize>; 3],
) -> Result<AttentionOutput<T>> {
    let mut out = Tensor::unfilled(op, call.q.device(), out)?;
    let mut lse = Tensor::unfilled(op, call.q.device(), lse)?;
    run(op, call, Results { out: out.view_mut(), lse: Some(lse.view_mut()), dims })?;
    Ok(AttentionOutput { out, lse: Lse::from_tensor(lse) })
}

/// Runs a checked call into memory of the caller, which is checked here.
pub(super) fn write<T: Float>(
    op: &'static str,
    call: &Forward<T>,
    [of_out, of_lse]: [Shape; 2],
    dims: [Option<usize>; 3],
    AttentionInto { out, lse }: AttentionInto<T>,
) -> Result<()> {
    check::rows_of_output(op, call, ("out", "the last dim of out"), &out, ("the queries and values", &of_out))?;
    if let Some(lse) = &lse {
        let beside = ("out", out.as_view().addresses());
        check::output(op, call, "lse", lse, ("the queries", &of_lse), beside)?;
    }
    run(op, call, Results { out, lse, dims })
}

/// Runs a checked call where its operands are.
fn run<T: Float>(op: &'static str, call: &Forward<T>, results: Results<T>) -> Result<()> {
    if results.out.shape().is_empty() {
        return Ok(());
    }
    match call.q.on_host() {
        Some(_) => host::run(op, call, host::Fill { op, results }),
        None => kernel::forward(op, call, results),
    }
}
