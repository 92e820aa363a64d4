//! Attention: softmax(scale * q k^T + bias) v, without a matrix of scores in memory.

mod host;

use crate::device::Device;
use crate::dtype::{Element, Float, bf16, f16};
use crate::error::{Error, Result};
use crate::kernels::attention::{self as kernel, Forward, Masking, Results};
use crate::mask::Band;
use crate::shape::Shape;
use crate::tensor::{BoolTensor, Lse, Tensor, View, ViewMut};
use std::ops::Range;

/// Which keys take part: those that every part shows.
#[derive(Clone, Copy, Debug, Default)]
pub struct AttentionMask<'a> {
    /// Causal masks and windows.
    pub bands: &'a [Band],
    /// `[B]`: keys from this number on are hidden.
    pub key_lengths: Option<View<'a, i32>>,
    /// `[B, Sq]` and `[B, Sk]`: queries see keys of their own segment.
    pub segments: Option<(View<'a, i32>, View<'a, i32>)>,
    /// Broadcasts to `[B, Hq, Sq, Sk]`.
    pub visible: Option<BoolTensor<'a>>,
}

/// What is added to the scores; broadcasts to `[B, Hq, Sq, Sk]`.
#[derive(Clone, Copy, Debug)]
pub enum Bias<'a> {
    /// In f32.
    F32(View<'a, f32>),
    /// In f16.
    F16(View<'a, f16>),
    /// In bf16.
    BF16(View<'a, bf16>),
}

/// Options of attention.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attention<'a> {
    /// What products are multiplied with; 1 / sqrt(D) if not said otherwise.
    pub scale: Option<f32>,
    /// Which keys take part.
    pub mask: AttentionMask<'a>,
    /// Added to the scores. -inf hides.
    pub bias: Option<Bias<'a>>,
    /// Broadcasts to `[B, Hq]`: times the distance of a key from the diagonal that ends at the last query and key is subtracted from
    /// its score.
    pub alibi_slopes: Option<View<'a, f32>>,
    /// Scores become `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
}

/// Results of [`forward`].
#[derive(Debug)]
pub struct AttentionOutput<T: Element> {
    /// `[B, Hq, Sq, Dv]`
    pub out: Tensor<T>,
    /// `[B, Hq, Sq]`: natural logarithm of the sum of the exponentials of a query's scores.
    pub lse: Lse,
}

/// Runs a checked call where its operands are.
fn run<T: Float>(call: &Forward<T>, results: Results<T>) -> Result<()> {
    if results.out.shape().is_empty() {
        return Ok(());
    }
    match call.q.on_host() {
        Some(_) => host::run(call, results),
        None => kernel::forward(OP, call, results),
    }
}

const OP: &str = "attention";
/// Longest sequence.
const MAX_LENGTH: usize = 1 << 30;

/// Attention of q `[B, Hq, Sq, D]` to k `[B, Hkv, Sk, D]` and v `[B, Hkv, Sk, Dv]`.
///
/// # Errors
/// [`Error::Shapes`], [`Error::TooMany`], [`Error::Option`], [`Error::Broadcast`], [`Error::DifferentDevices`].
pub fn forward<'a, T: Float>(
    q: impl Into<View<'a, T>>,
    k: impl Into<View<'a, T>>,
    v: impl Into<View<'a, T>>,
    options: &Attention<'a>,
) -> Result<AttentionOutput<T>> {
    let (q, k, v) = (q.into(), k.into(), v.into());
    let call = check(q, k, v, options, None)?;
    let (out, lse) = result_shapes(&call)?;
    let mut out = Tensor::unfilled(OP, q.device(), out)?;
    let mut lse = Tensor::unfilled(OP, q.device(), lse)?;
    run(&call, Results { out: out.view_mut(), lse: Some(lse.view_mut()), dims: DENSE })?;
    Ok(AttentionOutput { out, lse: Lse::from_tensor(lse) })
}

/// [`forward`] into memory of the caller; the lse only if it is wanted.
///
/// # Errors
/// As [`forward`]; also [`Error::NotContiguous`], [`Error::Overlap`] and [`Error::Shared`] for the results.
pub fn forward_into<'a, 'o, T: Float>(
    q: impl Into<View<'a, T>>,
    k: impl Into<View<'a, T>>,
    v: impl Into<View<'a, T>>,
    options: &Attention<'a>,
    out: impl Into<ViewMut<'o, T>>,
    lse: Option<ViewMut<'o, f32>>,
) -> Result<()> {
    let (q, k, v, out) = (q.into(), k.into(), v.into(), out.into());
    let call = check(q, k, v, options, None)?;
    let (of_out, of_lse) = result_shapes(&call)?;
    let inputs = inputs(&call);
    out.check_output(OP, "out", ("the queries and values", &of_out), &inputs)?;
    let mut outputs = vec![("out", out.device())];
    if let Some(lse) = &lse {
        let with_out: Vec<_> = inputs.into_iter().chain([("out", out.as_view().addresses())]).collect();
        lse.check_output(OP, "lse", ("the queries", &of_lse), &with_out)?;
        outputs.push(("lse", lse.device()));
    }
    Device::same(OP, ("q", q.device()), &outputs)?;
    run(&call, Results { out, lse, dims: DENSE })
}

/// The dims of results `[B, Hq, Sq, ..]`.
const DENSE: [Option<usize>; 3] = [Some(0), Some(1), Some(2)];

/// Shapes of out and lse.
fn result_shapes<T: Float>(call: &Forward<T>) -> Result<(Shape, Shape)> {
    let (q, v) = (call.q.dims(), call.v.dims());
    Ok((Shape::new(OP, &[q[0], q[1], q[2], v[3]])?, Shape::new(OP, &q[..3])?))
}

/// What results must not overlap.
fn inputs<T: Float>(call: &Forward<T>) -> Vec<(&'static str, Range<u64>)> {
    let mut all = vec![("q", call.q.addresses()), ("k", call.k.addresses()), ("v", call.v.addresses())];
    let masking = &call.masking;
    all.extend(masking.key_lengths.as_ref().map(|lengths| ("the key lengths", lengths.addresses())));
    all.extend(masking.segments.as_ref().map(|(of_q, _)| ("the segments of q", of_q.addresses())));
    all.extend(masking.segments.as_ref().map(|(_, of_k)| ("the segments of k", of_k.addresses())));
    all.extend(masking.visible.as_ref().map(|(bytes, _)| ("the mask", bytes.addresses())));
    all.extend(call.slopes.as_ref().map(|(slopes, _)| ("the slopes", slopes.addresses())));
    all.extend(call.bias.as_ref().map(|bias| match bias {
        kernel::Bias::F32(bias) => ("the bias", bias.addresses()),
        kernel::Bias::F16(bias) => ("the bias", bias.addresses()),
        kernel::Bias::BF16(bias) => ("the bias", bias.addresses()),
    }));
    all
}

/// Attention of sequences of different lengths one behind the other: q `[Tq, Hq, D]` to k `[Tk, Hkv, D]` and v `[Tk, Hkv, Dv]`. Sequence i
/// is rows `offsets[i]` to `offsets[i + 1]`, of q by `q_offsets` `[B + 1]`, of k and v by `k_offsets`. Results are out `[Tq, Hq, Dv]` and lse
/// `[Tq, Hq]`. The offsets are not looked at on the host: they must start at 0, never decrease, and end at Tq or Tk. Others give
/// wrong or unwritten rows, and never an access out of bounds. Masks and biases go by the positions inside each sequence, and hide what is
/// longer than they are.
///
/// # Errors
/// As [`forward`].
pub fn forward_packed<'a, T: Float>(
    [q, k, v]: [View<'a, T>; 3],
    q_offsets: View<'a, i32>,
    k_offsets: View<'a, i32>,
    options: &Attention<'a>,
) -> Result<AttentionOutput<T>> {
    let whole = |name, view: View<'a, T>| match *view.dims() {
        [rows, heads, size] => view.permute(&[1, 0, 2])?.expand(&[1, heads, rows, size]),
        _ => Err(Error::Shapes {
            op: OP,
            left: name,
            left_shape: view.dims().to_vec(),
            right: "q",
            right_shape: q.dims().to_vec(),
        }),
    };
    let (q, k, v) = (whole("q", q)?, whole("k", k)?, whole("v", v)?);
    if q_offsets.dims().len() != 1 || q_offsets.dims() != k_offsets.dims() || q_offsets.dims()[0] == 0 {
        return Err(Error::Shapes {
            op: OP,
            left: "the offsets of q",
            left_shape: q_offsets.dims().to_vec(),
            right: "the offsets of k",
            right_shape: k_offsets.dims().to_vec(),
        });
    }
    Device::same(
        OP,
        ("q", q.device()),
        &[("the offsets of q", q_offsets.device()), ("the offsets of k", k_offsets.device())],
    )?;
    let mut call = check(q, k, v, options, Some(q_offsets.dims()[0] - 1))?;
    call.offsets = Some((q_offsets, k_offsets));
    let [h, t, d] = [q.dims()[1], q.dims()[2], v.dims()[3]];
    let mut out = Tensor::unfilled(OP, q.device(), Shape::new(OP, &[t, h, d])?)?;
    let mut lse = Tensor::unfilled(OP, q.device(), Shape::new(OP, &[t, h])?)?;
    let dims = [None, Some(1), Some(0)];
    run(&call, Results { out: out.view_mut(), lse: Some(lse.view_mut()), dims })?;
    Ok(AttentionOutput { out, lse: Lse::from_tensor(lse) })
}

fn check<'a, T: Float>(
    q: View<'a, T>,
    k: View<'a, T>,
    v: View<'a, T>,
    options: &Attention<'a>,
    sequences: Option<usize>,
) -> Result<Forward<'a, T>> {
    let differ = |left: (&'static str, &View<T>), right: (&'static str, &View<T>)| Error::Shapes {
        op: OP,
        left: left.0,
        left_shape: left.1.dims().to_vec(),
        right: right.0,
        right_shape: right.1.dims().to_vec(),
    };
    for (name, view) in [("k", &k), ("v", &v)] {
        if q.dims().len() != 4 || view.dims().len() != 4 || view.dims()[0] != q.dims()[0] {
            return Err(differ(("q", &q), (name, view)));
        }
    }
    if k.dims()[1..3] != v.dims()[1..3] {
        return Err(differ(("k", &k), ("v", &v)));
    }
    if q.dims()[3] != k.dims()[3] || k.dims()[1] == 0 || !q.dims()[1].is_multiple_of(k.dims()[1]) {
        return Err(differ(("q", &q), ("k", &k)));
    }
    let [b, h, s] = [q.dims()[0], q.dims()[1], q.dims()[2]];
    let keys = k.dims()[2];
    for (option, value, max) in [
        ("the number of queries", s, MAX_LENGTH),
        ("the number of keys", keys, MAX_LENGTH),
        ("the head size of q and k", q.dims()[3], 256),
        ("the head size of v", v.dims()[3], 256),
    ] {
        if value > max {
            return Err(Error::TooMany { op: OP, option, value: value as u64, max: max as u64 });
        }
    }
    for (name, view) in [("q", &q), ("k", &k), ("v", &v)] {
        let (size, stride) = (view.dims()[3], view.layout().strides()[3]);
        if size == 0 {
            return Err(Error::Option { op: OP, option: "the head size", value: 0.0, wanted: "at least 1" });
        }
        // Rows are read whole, so their elements must be neighbours.
        if size > 1 && stride != 1 && !view.shape().is_empty() {
            let (shape, strides) = (view.dims().to_vec(), view.layout().strides().to_vec());
            return Err(Error::NotContiguous { op: OP, output: name, shape, strides });
        }
    }
    Device::same(OP, ("q", q.device()), &[("k", k.device()), ("v", v.device())])?;
    let scale = options.scale.unwrap_or_else(|| (1.0 / (q.dims()[3].max(1) as f64).sqrt()) as f32);
    for (option, value) in [("scale", Some(scale)), ("softcap", options.softcap)] {
        let bad = value.filter(|value| !value.is_finite() || option == "softcap" && *value <= 0.0);
        if let Some(value) = bad {
            let wanted = if option == "scale" { "finite" } else { "finite and above 0" };
            return Err(Error::Option { op: OP, option, value: value.into(), wanted });
        }
    }
    // Masks of packed sequences are as long as they are; those of a batch are broadcast.
    let entries = sequences.unwrap_or(b);
    fn pairs<'a, E: Element>(view: View<'a, E>, [b, h, s, keys]: [usize; 4], packed: bool) -> Result<View<'a, E>> {
        let own = |back: usize, all: usize| {
            let dims = view.dims();
            let length = if dims.len() < back { 1 } else { dims[dims.len() - back] };
            if packed && length != 1 { length } else { all }
        };
        view.expand(&[b, h, own(2, s), own(1, keys)])
    }
    let packed = sequences.is_some();
    let all = [entries, h, s, keys];
    let mask = &options.mask;
    let positions = |view: View<'a, i32>, length: usize| {
        let own = view.dims().last().copied().filter(|own| packed && *own != 1);
        view.expand(&[entries, own.unwrap_or(length)])
    };
    let masking = Masking {
        bands: mask.bands,
        key_lengths: mask.key_lengths.map(|lengths| lengths.expand(&[entries])).transpose()?,
        segments: match mask.segments {
            None => None,
            Some((of_q, of_k)) => Some((positions(of_q, s)?, positions(of_k, keys)?)),
        },
        visible: match mask.visible {
            None => None,
            Some(bools) => Some((pairs(bools.bytes(), all, packed)?, bools.polarity())),
        },
    };
    let bias = match options.bias {
        None => None,
        Some(Bias::F32(bias)) => Some(kernel::Bias::F32(pairs(bias, all, packed)?)),
        Some(Bias::F16(bias)) => Some(kernel::Bias::F16(pairs(bias, all, packed)?)),
        Some(Bias::BF16(bias)) => Some(kernel::Bias::BF16(pairs(bias, all, packed)?)),
    };
    let slopes =
        options.alibi_slopes.map(|slopes| slopes.expand(&[entries, h]).map(|slopes| (slopes, true))).transpose()?;
    Ok(Forward { q, k, v, masking, bias, slopes, scale, cap: options.softcap, offsets: None })
}
