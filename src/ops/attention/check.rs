//! From what a caller passes to a checked call. Behind these checks nobody looks at shapes again.

use super::{Attention, Bias, MAX_HEAD, MAX_LENGTH, bias};
use crate::device::Device;
use crate::dtype::{Element, Float};
use crate::error::{Error, Result};
use crate::kernels::attention::{self as kernel, Forward, Masking};
use crate::mask::{Align, Band};
use crate::shape::Shape;
use crate::tensor::{Mask, View, ViewMut};
use std::ops::Range;

/// Checks the operands of a batch `[B, H, S, D]`, or, with a number of packed sequences, of `[1, H, T, D]`.
pub(super) fn operands<'a, T: Float>(
    op: &'static str,
    [q, k, v]: [View<'a, T>; 3],
    options: &Attention<'a>,
    sequences: Option<usize>,
) -> Result<Forward<'a, T>> {
    let [batch, heads, queries, head_size] = dims(op, "q", "[batch, heads, queries, head size]", &q)?;
    let [k_batch, key_heads, keys, k_size] = dims(op, "k", "[batch, heads, keys, head size]", &k)?;
    let [v_batch, v_heads, v_keys, value_size] = dims(op, "v", "[batch, heads, keys, head size]", &v)?;
    same(op, "batch sizes differ", ("q", batch), ("k", k_batch))?;
    same(op, "batch sizes differ", ("k", k_batch), ("v", v_batch))?;
    same(op, "heads differ", ("k", key_heads), ("v", v_heads))?;
    same(op, "lengths differ", ("k", keys), ("v", v_keys))?;
    same(op, "head sizes differ", ("q", head_size), ("k", k_size))?;
    if !heads.is_multiple_of(key_heads) {
        let rule = "heads of q must be a multiple of those of k";
        return Err(Error::Sizes { op, rule, left: "q", left_size: heads, right: "k", right_size: key_heads });
    }
    at_most(op, "the number of queries", queries, MAX_LENGTH)?;
    at_most(op, "the number of keys", keys, MAX_LENGTH)?;
    at_most(op, "the number of batch entries", sequences.unwrap_or(batch), MAX_LENGTH)?;
    at_most(op, "the number of heads", heads, MAX_LENGTH)?;
    for (option, value) in [("the head size of q", head_size), ("the head size of v", value_size)] {
        at_most(op, option, value, MAX_HEAD)?;
        if value == 0 {
            return Err(Error::Option { op, option, value: 0.0, wanted: "at least 1" });
        }
    }
    for (name, view) in [("the last dim of q", &q), ("the last dim of k", &k), ("the last dim of v", &v)] {
        rows(op, name, view)?;
    }
    Device::same(op, ("q", q.device()), &[("k", k.device()), ("v", v.device())])?;

    let scale = options.scale.unwrap_or_else(|| (1.0 / (head_size as f64).sqrt()) as f32);
    if !scale.is_finite() {
        return Err(Error::Option { op, option: "scale", value: scale.into(), wanted: "finite" });
    }
    if let Some(cap) = options.softcap.filter(|cap| !cap.is_finite() || *cap <= 0.0) {
        return Err(Error::Option { op, option: "softcap", value: cap.into(), wanted: "finite and above 0" });
    }
    let pairs = Pairs {
        op,
        device: q.device(),
        packed: sequences.is_some(),
        dims: [sequences.unwrap_or(batch), heads, queries, keys],
    };
    let masking = pairs.masking(&options.mask)?;
    let added = match options.bias {
        None => None,
        Some(Bias::F32(bias)) => Some(kernel::Bias::F32(pairs.broadcast("the bias", bias)?)),
        Some(Bias::F16(bias)) => Some(kernel::Bias::F16(pairs.broadcast("the bias", bias)?)),
        Some(Bias::BF16(bias)) => Some(kernel::Bias::BF16(pairs.broadcast("the bias", bias)?)),
    };
    let bias_gradient = options.bias_gradient.then(|| bias::shape_of_gradient(op, options)).transpose()?;
    let slopes = match options.alibi {
        None => None,
        Some(alibi) => {
            let slopes = pairs.expand("the ALiBi vector", alibi.slopes, &pairs.dims[..2])?;
            Some((slopes, alibi.align == Align::BottomRight))
        }
    };
    Ok(Forward { q, k, v, masking, bias: added, bias_gradient, slopes, scale, cap: options.softcap, offsets: None })
}

/// What masks and biases of so many pairs are checked against.
struct Pairs<'d> {
    op: &'static str,
    device: &'d Device,
    /// Masks and biases of packed sequences go by positions inside each, and are as long as they are.
    packed: bool,
    dims: [usize; 4],
}

impl Pairs<'_> {
    fn expand<'a, E: Element>(&self, name: &'static str, view: View<'a, E>, dims: &[usize]) -> Result<View<'a, E>> {
        Device::same(self.op, ("q", self.device), &[(name, view.device())])?;
        view.broadcast(self.op, name, dims)
    }

    /// The length of a dim counted from the back: that of all pairs, or in packed sequences the view's own.
    fn length<E>(&self, view: &View<E>, back: usize, all: usize) -> usize {
        let own = view.dims().iter().rev().nth(back).copied();
        own.filter(|own| self.packed && *own != 1).unwrap_or(all)
    }

    fn broadcast<'a, E: Element>(&self, name: &'static str, view: View<'a, E>) -> Result<View<'a, E>> {
        let [b, h, queries, keys] = self.dims;
        self.expand(name, view, &[b, h, self.length(&view, 1, queries), self.length(&view, 0, keys)])
    }

    fn positions<'a>(&self, name: &'static str, view: View<'a, i32>, all: usize) -> Result<View<'a, i32>> {
        self.expand(name, view, &[self.dims[0], self.length(&view, 0, all)])
    }

    fn masking<'a>(&self, mask: &Mask<'a>) -> Result<Masking<'a>> {
        let [batch, _, queries, keys] = self.dims;
        let twice = |reason| Err(Error::Mask { op: self.op, mask: "All", reason });
        let mut masking = Masking { bands: Vec::new(), key_lengths: None, segments: None, visible: None };
        for part in mask.parts() {
            match part {
                Mask::Causal(align) => masking.bands.push(Band::causal(align)),
                Mask::Window { left, right, align } => masking.bands.push(Band { left, right, align }),
                Mask::KeyLengths(_) if masking.key_lengths.is_some() => return twice("KeyLengths occurs twice"),
                Mask::KeyLengths(lengths) => {
                    masking.key_lengths = Some(self.expand("the KeyLengths mask", lengths, &[batch])?);
                }
                Mask::Segments { .. } if masking.segments.is_some() => return twice("Segments occurs twice"),
                Mask::Segments { q, k } => {
                    let q = self.positions("the Segments mask of q", q, queries)?;
                    masking.segments = Some((q, self.positions("the Segments mask of k", k, keys)?));
                }
                Mask::Visible(_) if masking.visible.is_some() => {
                    return twice("Visible occurs twice; combine the bytes");
                }
                Mask::Visible(bools) => {
                    let bytes = self.broadcast("the Visible mask", bools.bytes())?;
                    masking.visible = Some((bytes, bools.polarity()));
                }
                Mask::None | Mask::All(_) => unreachable!("a mask is not a part of itself"),
            }
        }
        Ok(masking)
    }
}

/// The four dims of an operand.
fn dims<T: Element>(op: &'static str, name: &'static str, wanted: &'static str, x: &View<T>) -> Result<[usize; 4]> {
    let dims = x.dims();
    dims.try_into().map_err(|_| Error::OperandRank { op, operand: name, wanted, shape: dims.to_vec() })
}

/// Refuses two sizes that differ.
pub(super) fn same(
    op: &'static str,
    rule: &'static str,
    (left, left_size): (&'static str, usize),
    (right, right_size): (&'static str, usize),
) -> Result<()> {
    if left_size == right_size {
        return Ok(());
    }
    Err(Error::Sizes { op, rule, left, left_size, right, right_size })
}

fn at_most(op: &'static str, option: &'static str, value: usize, max: usize) -> Result<()> {
    if value <= max {
        return Ok(());
    }
    Err(Error::TooMany { op, option, value: value as u64, max: max as u64 })
}

/// Rows are read whole, so their elements must be neighbours. `name` is that of the last dim.
pub(super) fn rows<T: Element>(op: &'static str, name: &'static str, view: &View<T>) -> Result<()> {
    let (Some(size), Some(stride)) = (view.dims().last(), view.layout().strides().last()) else { return Ok(()) };
    if *size == 1 || *stride == 1 || view.shape().is_empty() {
        return Ok(());
    }
    let (shape, strides) = (view.dims().to_vec(), view.layout().strides().to_vec());
    Err(Error::NotContiguous { op, output: name, shape, strides })
}

/// What results must not overlap.
pub(super) fn inputs<T: Float>(call: &Forward<T>) -> Vec<(&'static str, Range<u64>)> {
    let mut all = vec![("q", call.q.addresses()), ("k", call.k.addresses()), ("v", call.v.addresses())];
    let masking = &call.masking;
    all.extend(masking.key_lengths.as_ref().map(|lengths| ("the KeyLengths mask", lengths.addresses())));
    all.extend(masking.segments.as_ref().map(|(of_q, _)| ("the Segments mask of q", of_q.addresses())));
    all.extend(masking.segments.as_ref().map(|(_, of_k)| ("the Segments mask of k", of_k.addresses())));
    all.extend(masking.visible.as_ref().map(|(bytes, _)| ("the Visible mask", bytes.addresses())));
    all.extend(call.slopes.as_ref().map(|(slopes, _)| ("the ALiBi vector", slopes.addresses())));
    all.extend(call.bias.as_ref().map(|bias| match bias {
        kernel::Bias::F32(bias) => ("the bias", bias.addresses()),
        kernel::Bias::F16(bias) => ("the bias", bias.addresses()),
        kernel::Bias::BF16(bias) => ("the bias", bias.addresses()),
    }));
    all.extend(call.offsets.as_ref().map(|(of_q, _)| ("the offsets of q", of_q.addresses())));
    all.extend(call.offsets.as_ref().map(|(_, of_k)| ("the offsets of k", of_k.addresses())));
    all
}

/// Refuses an output that a call cannot fill. Rows must be whole; what lies between them is the caller's. The second name is that of
/// the last dim.
pub(super) fn rows_of_output<T: Float, E: Element>(
    op: &'static str,
    call: &Forward<T>,
    names: (&'static str, &'static str),
    view: &ViewMut<E>,
    like: (&'static str, &Shape),
) -> Result<()> {
    view.check_rows(op, names, like, &inputs(call))?;
    Device::same(op, ("q", call.q.device()), &[(names.0, view.device())])
}

/// Refuses a contiguous output that a call cannot fill beside another one.
pub(super) fn output<T: Float, E: Element>(
    op: &'static str,
    call: &Forward<T>,
    name: &'static str,
    view: &ViewMut<E>,
    like: (&'static str, &Shape),
    beside: (&'static str, Range<u64>),
) -> Result<()> {
    let inputs: Vec<_> = inputs(call).into_iter().chain([beside]).collect();
    view.check_output(op, name, like, &inputs)?;
    Device::same(op, ("q", call.q.device()), &[(name, view.device())])
}
