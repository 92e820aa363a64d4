//! The backward operation on batches and on packed sequences.

use super::bias::{self, BiasGradient};
use super::host::{self, FillGradients};
use super::packed::{self, PACKED, heads_first};
use super::{Attention, BiasInto, Offsets, Partial, check};
use crate::device::Device;
use crate::dtype::{Element, Float};
use crate::error::Result;
use crate::kernels::attention::{self as kernel, Forward, OperandGradients};
use crate::ops::check::same_shape;
use crate::shape::Shape;
use crate::tensor::{Tensor, View, ViewMut};

/// Gradients of the results of the forward operation; a tensor or view alone is that of out.
#[derive(Clone, Copy, Debug)]
pub struct Upstream<'a, T: Element> {
    /// Gradient of [`AttentionOutput::out`](super::AttentionOutput::out); the last dim contiguous.
    pub dout: View<'a, T>,
    /// Gradient of [`AttentionOutput::lse`](super::AttentionOutput::lse), of any strides; 0 if there is none.
    pub dlse: Option<View<'a, f32>>,
}

impl<'a, T: Element> From<View<'a, T>> for Upstream<'a, T> {
    fn from(dout: View<'a, T>) -> Self {
        Self { dout, dlse: None }
    }
}

impl<'a, T: Element> From<&'a Tensor<T>> for Upstream<'a, T> {
    fn from(dout: &'a Tensor<T>) -> Self {
        dout.view().into()
    }
}

/// What [`backward`] and [`backward_packed`] return. Shapes are those of the operands.
#[derive(Debug)]
pub struct AttentionGradients<T: Element> {
    /// Gradient of q.
    pub dq: Tensor<T>,
    /// Gradient of k, summed over the heads of q that share its heads.
    pub dk: Tensor<T>,
    /// Gradient of v, likewise.
    pub dv: Tensor<T>,
    /// Gradient of the bias, if the options [ask for it](Attention::bias_gradient).
    pub dbias: Option<BiasGradient>,
}

/// Where [`backward_into`] and [`backward_packed_into`] write: any strides that keep elements apart, as long as the last dim is
/// contiguous.
#[derive(Debug)]
pub struct GradientsInto<'o, T: Element> {
    /// See [`AttentionGradients::dq`].
    pub dq: ViewMut<'o, T>,
    /// See [`AttentionGradients::dk`].
    pub dk: ViewMut<'o, T>,
    /// See [`AttentionGradients::dv`].
    pub dv: ViewMut<'o, T>,
    /// See [`AttentionGradients::dbias`], contiguous. It is computed if there is a place for it, whatever the options say.
    pub dbias: Option<BiasInto<'o>>,
}

const OP: &str = "attention_backward";
const OP_PACKED: &str = "attention_packed_backward";

/// Gradients of [`forward`](super::forward), which got the same operands and options.
///
/// With the weights of the [options](Attention), `dp_ij = dot(dout_i, v_j)` and `delta_i = dot(dout_i, out_i) - dlse_i`:
///
/// ```text
/// du_ij = weight_ij * (dp_ij - delta_i) * (1 - (s_ij / softcap)^2)        the last factor only with a softcap
/// dq_i = scale * sum_j du_ij k_j        dk_j = scale * sum_i du_ij q_i        dv_j = sum_i weight_ij dout_i        dbias_ij = du_ij
/// ```
///
/// The gradient of a bias of shape `[.., 1, ..]` is the sum over all that it is added to, in f32 and in a fixed order. It takes a kernel
/// more, which computes the scores once more; where few numbers stand for many pairs, few blocks add them up.
///
/// Scores are computed again, from the operands and lse: memory beside the results is 16 bytes per query and head. Bits depend neither on the
/// schedule nor on the rest of the batch: nothing is added up by atomics. Hidden pairs have no part in any gradient, whatever they hold;
/// a query that sees nothing has gradient 0, and so has a key that nobody sees.
///
/// Gradients are, over many calls, closer to exact ones than those of a computation that rounds every intermediate result to the
/// element type and adds up in f32, for scores of any size (measured up to 1e9). A single one may be further off where what adds up to it
/// cancels, since `out` is rounded before `delta` is taken from it: by half a unit in the last place of `sum_d |dout_id out_id|`, times
/// scale and k or q. Gradients of f32 are within 4e-6 of the largest number of theirs for ordinary scores (measured on 216 calls of many
/// shapes and options).
///
/// An lse of f32 is off by up to `2^-24 |lse|`, and with it all weights `exp(score - lse)` of its query, by a common factor. The weights
/// of a query add up to 1, so the kernels divide by what theirs add up to, where roundings explain it. The host computes in float64, from
/// the operands alone, and is exempt from all of this.
///
/// # Errors
/// As [`forward`](super::forward); also [`Error::Shapes`](crate::Error::Shapes) for saved results or gradients of other shapes
/// than the forward operation gives.
///
/// ```
/// use sumexp::attention::{Attention, backward, forward};
/// use sumexp::{Device, Tensor};
/// let device = Device::cuda(0).unwrap_or(Device::cpu());
/// // One query that sees two keys alike.
/// let q = Tensor::from_slice(&device, &[1, 1, 1, 1], &[2.0f32])?;
/// let k = Tensor::from_slice(&device, &[1, 1, 2, 1], &[3.0f32, 3.0])?;
/// let v = Tensor::from_slice(&device, &[1, 1, 2, 1], &[1.0f32, 5.0])?;
/// let output = forward(&q, &k, &v, &Attention::default())?;
/// let dout = Tensor::from_slice(&device, &[1, 1, 1, 1], &[1.0f32])?;
/// let gradients = backward(&q, &k, &v, &output, &dout, &Attention::default())?;
/// assert_eq!(gradients.dv.to_vec()?, [0.5, 0.5]);
/// assert_eq!(gradients.dk.to_vec()?, [-2.0, 2.0]);
/// assert_eq!(gradients.dq.to_vec()?, [0.0]);
/// # Ok::<(), sumexp::Error>(())
/// ```
pub fn backward<'a, T: Float>(
    q: impl Into<View<'a, T>>,
    k: impl Into<View<'a, T>>,
    v: impl Into<View<'a, T>>,
    saved: impl Into<Partial<'a, T>>,
    upstream: impl Into<Upstream<'a, T>>,
    options: &Attention<'a>,
) -> Result<AttentionGradients<T>> {
    let operands = [q.into(), k.into(), v.into()];
    let pass = Pass::of_batch(OP, operands, saved.into(), upstream.into(), options)?;
    pass.allocate(operands, options)
}

/// [`backward`] into memory of the caller.
///
/// # Errors
/// As [`backward`]; also [`Error::NotContiguous`](crate::Error::NotContiguous), [`Error::Overlap`](crate::Error::Overlap) and
/// [`Error::Shared`](crate::Error::Shared) for the results.
pub fn backward_into<'a, T: Float>(
    q: impl Into<View<'a, T>>,
    k: impl Into<View<'a, T>>,
    v: impl Into<View<'a, T>>,
    saved: impl Into<Partial<'a, T>>,
    upstream: impl Into<Upstream<'a, T>>,
    options: &Attention<'a>,
    gradients: GradientsInto<T>,
) -> Result<()> {
    let operands = [q.into(), k.into(), v.into()];
    let pass = Pass::of_batch(OP, operands, saved.into(), upstream.into(), options)?;
    pass.write(operands, gradients, options)
}

/// Gradients of [`forward_packed`](super::forward_packed), which got the same operands, offsets and options. They have the bits that each
/// sequence has alone.
///
/// # Errors
/// As [`forward_packed`](super::forward_packed) and [`backward`].
#[allow(clippy::too_many_arguments)]
pub fn backward_packed<'a, T: Float>(
    q: impl Into<View<'a, T>>,
    k: impl Into<View<'a, T>>,
    v: impl Into<View<'a, T>>,
    q_offsets: impl Into<Offsets<'a>>,
    k_offsets: impl Into<Offsets<'a>>,
    saved: impl Into<Partial<'a, T>>,
    upstream: impl Into<Upstream<'a, T>>,
    options: &Attention<'a>,
) -> Result<AttentionGradients<T>> {
    let (operands, offsets) = ([q.into(), k.into(), v.into()], [q_offsets.into(), k_offsets.into()]);
    let pass = Pass::of_packed(OP_PACKED, operands, offsets, saved.into(), upstream.into(), options)?;
    pass.allocate(operands, options)
}

/// [`backward_packed`] into memory of the caller.
///
/// # Errors
/// As [`backward_packed`], and for the results as [`backward_into`].
#[allow(clippy::too_many_arguments)]
pub fn backward_packed_into<'a, T: Float>(
    q: impl Into<View<'a, T>>,
    k: impl Into<View<'a, T>>,
    v: impl Into<View<'a, T>>,
    q_offsets: impl Into<Offsets<'a>>,
    k_offsets: impl Into<Offsets<'a>>,
    saved: impl Into<Partial<'a, T>>,
    upstream: impl Into<Upstream<'a, T>>,
    options: &Attention<'a>,
    gradients: GradientsInto<T>,
) -> Result<()> {
    let (operands, offsets) = ([q.into(), k.into(), v.into()], [q_offsets.into(), k_offsets.into()]);
    let pass = Pass::of_packed(OP_PACKED, operands, offsets, saved.into(), upstream.into(), options)?;
    pass.write(operands, gradients, options)
}

/// A checked backward call.
struct Pass<'a, T> {
    op: &'static str,
    call: Forward<'a, T>,
    saved: kernel::Saved<'a, T>,
    upstream: kernel::Upstream<'a, T>,
    /// Dims of the batch, the heads and the rows in gradients.
    dims: [Option<usize>; 3],
}

impl<'a, T: Float> Pass<'a, T> {
    fn of_batch(
        op: &'static str,
        operands: [View<'a, T>; 3],
        saved: Partial<'a, T>,
        upstream: Upstream<'a, T>,
        options: &Attention<'a>,
    ) -> Result<Self> {
        let call = check::operands(op, operands, options, None)?;
        let (q, v) = (call.q.dims(), call.v.dims());
        let shapes = [Shape::new(op, &[q[0], q[1], q[2], v[3]])?, Shape::new(op, &q[..3])?];
        check_results(op, &call, &saved, &upstream, &shapes)?;
        Ok(Self {
            op,
            call,
            saved: kernel::Saved { out: saved.out, lse: saved.lse },
            upstream: kernel::Upstream { dout: upstream.dout, dlse: upstream.dlse },
            dims: [Some(0), Some(1), Some(2)],
        })
    }

    fn of_packed(
        op: &'static str,
        operands: [View<'a, T>; 3],
        offsets: [Offsets<'a>; 2],
        saved: Partial<'a, T>,
        upstream: Upstream<'a, T>,
        options: &Attention<'a>,
    ) -> Result<Self> {
        let call = packed::check(op, operands, offsets, options)?;
        let (q, v) = (call.q.dims(), call.v.dims());
        let shapes = [Shape::new(op, &[q[2], q[1], v[3]])?, Shape::new(op, &[q[2], q[1]])?];
        check_results(op, &call, &saved, &upstream, &shapes)?;
        let (heads, tokens) = (q[1], q[2]);
        let per_query = |view: View<'a, f32>| view.permute(&[1, 0])?.expand(&[1, heads, tokens]);
        Ok(Self {
            op,
            saved: kernel::Saved { out: heads_first(op, "out", saved.out)?, lse: per_query(saved.lse)? },
            upstream: kernel::Upstream {
                dout: heads_first(op, "dout", upstream.dout)?,
                dlse: upstream.dlse.map(per_query).transpose()?,
            },
            call,
            dims: PACKED,
        })
    }

    /// Shapes of the gradients, which are those of the operands.
    fn allocate(self, operands: [View<T>; 3], options: &Attention<'a>) -> Result<AttentionGradients<T>> {
        let bias = options.bias.filter(|_| options.bias_gradient);
        let new = |like: &View<T>| Tensor::unfilled(self.op, like.device(), *like.shape());
        let [mut dq, mut dk, mut dv] = [new(&operands[0])?, new(&operands[1])?, new(&operands[2])?];
        let mut dbias = bias.map(|bias| BiasGradient::unfilled(self.op, &bias)).transpose()?;
        let of_bias = dbias.as_mut().map(BiasGradient::view_mut);
        self.run(GradientsInto { dq: dq.view_mut(), dk: dk.view_mut(), dv: dv.view_mut(), dbias: of_bias })?;
        Ok(AttentionGradients { dq, dk, dv, dbias })
    }

    /// Runs into memory of the caller, which is checked here.
    fn write(mut self, operands: [View<T>; 3], gradients: GradientsInto<T>, options: &Attention<'a>) -> Result<()> {
        let mut taken = check::inputs(&self.call);
        taken.push(("out", self.saved.out.addresses()));
        taken.push(("lse", self.saved.lse.addresses()));
        taken.push(("dout", self.upstream.dout.addresses()));
        taken.extend(self.upstream.dlse.as_ref().map(|dlse| ("dlse", dlse.addresses())));
        let [q, k, v] = operands;
        for (names, like, gradient) in [
            (("dq", "the last dim of dq"), ("q", q.shape()), &gradients.dq),
            (("dk", "the last dim of dk"), ("k", k.shape()), &gradients.dk),
            (("dv", "the last dim of dv"), ("v", v.shape()), &gradients.dv),
        ] {
            gradient.check_rows(self.op, names, like, &taken)?;
            Device::same(self.op, ("q", q.device()), &[(names.0, gradient.device())])?;
            taken.push((names.0, gradient.as_view().addresses()));
        }
        self.call.bias_gradient = match &gradients.dbias {
            None => None,
            Some(dbias) => {
                let shape = bias::shape_of_gradient(self.op, options)?;
                let bias = options.bias.expect("a shape was found");
                bias::check(self.op, q.device(), &bias, dbias, &taken)?;
                Some(shape)
            }
        };
        self.run(gradients)
    }

    /// Runs where the operands are.
    fn run(self, GradientsInto { dq, dk, dv, dbias }: GradientsInto<T>) -> Result<()> {
        let Self { op, call, saved, upstream, dims } = self;
        let gradients = OperandGradients { dq, dk, dv, dbias, dims };
        match call.q.on_host() {
            Some(_) => host::run(
                op,
                &call,
                FillGradients { op, packed: call.offsets.is_some(), bias: call.bias_gradient, upstream, gradients },
            ),
            None => kernel::backward(op, &call, &saved, &upstream, gradients),
        }
    }
}

/// Checks what the forward operation left, and the gradients of it, against the shapes of out and lse.
fn check_results<T: Float>(
    op: &'static str,
    call: &Forward<T>,
    saved: &Partial<T>,
    upstream: &Upstream<T>,
    [of_out, of_lse]: &[Shape; 2],
) -> Result<()> {
    let device = call.q.device();
    for (name, rows, view) in
        [("out", "the last dim of out", &saved.out), ("dout", "the last dim of dout", &upstream.dout)]
    {
        same_shape(op, (name, view.shape()), ("the queries and values", of_out))?;
        check::rows(op, rows, view)?;
        Device::same(op, ("q", device), &[(name, view.device())])?;
    }
    for (name, view) in [("lse", Some(&saved.lse)), ("dlse", upstream.dlse.as_ref())] {
        let Some(view) = view else { continue };
        same_shape(op, (name, view.shape()), ("the queries", of_lse))?;
        Device::same(op, ("q", device), &[(name, view.device())])?;
    }
    Ok(())
}
