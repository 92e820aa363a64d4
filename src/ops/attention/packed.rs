//! Sequences of different lengths, one behind the other.

use super::forward::{allocate, write};
use super::{Attention, AttentionInto, AttentionOutput, check};
use crate::device::Device;
use crate::dtype::Float;
use crate::error::{Error, Result};
use crate::kernels::attention::Forward;
use crate::mask;
use crate::shape::Shape;
use crate::tensor::{Tensor, View};

/// Where packed sequences start and end: known on the host, where they were checked, and on a device, where kernels read them.
///
/// ```
/// use sumexp::Device;
/// use sumexp::attention::PackedOffsets;
/// let offsets = PackedOffsets::from_lengths(&Device::cpu(), &[3, 0, 5])?;
/// assert_eq!((offsets.sequences(), offsets.tokens(), offsets.longest()), (3, 8, 5));
/// assert!(PackedOffsets::from_offsets(&Device::cpu(), &[0, 3, 2]).is_err());
/// # Ok::<(), sumexp::Error>(())
/// ```
#[derive(Debug)]
pub struct PackedOffsets {
    host: Vec<i32>,
    device: Tensor<i32>,
}

impl PackedOffsets {
    /// Sequences of these lengths.
    ///
    /// # Errors
    /// [`Error::TooMany`] if there are more than 2^31 - 1 tokens; [`Error::OutOfMemory`], [`Error::Driver`].
    pub fn from_lengths(device: &Device, lengths: &[usize]) -> Result<Self> {
        let ends = lengths.iter().scan(0usize, |end, length| {
            *end = end.saturating_add(*length);
            Some(*end)
        });
        let offsets: Vec<usize> = [0].into_iter().chain(ends).collect();
        Self::from_offsets(device, &offsets)
    }

    /// Sequence i is tokens `offsets[i]` to `offsets[i + 1]`: one number more than there are sequences, the first of them 0.
    ///
    /// # Errors
    /// [`Error::Offsets`] if they do not start at 0 or decrease; [`Error::TooMany`] if one is above 2^31 - 1; [`Error::OutOfMemory`],
    /// [`Error::Driver`].
    pub fn from_offsets(device: &Device, offsets: &[usize]) -> Result<Self> {
        let op = "PackedOffsets";
        let fit = |offset: &usize| {
            let (option, max) = ("an offset", i32::MAX as u64);
            i32::try_from(*offset).map_err(|_| Error::TooMany { op, option, value: *offset as u64, max })
        };
        let host = offsets.iter().map(fit).collect::<Result<Vec<i32>>>()?;
        let tokens = host.last().map_or(0, |last| *last as usize);
        mask::Offsets::new(&host, tokens).map_err(|reason| Error::Offsets {
            op,
            operand: "the offsets",
            reason: reason.to_string(),
        })?;
        let device = Tensor::from_slice(device, &[host.len()], &host)?;
        Ok(Self { host, device })
    }

    /// How many sequences there are.
    pub fn sequences(&self) -> usize {
        self.host.len() - 1
    }

    /// How many tokens all of them have together.
    pub fn tokens(&self) -> usize {
        self.host[self.sequences()] as usize
    }

    /// How many tokens the longest of them has; 0 without sequences.
    pub fn longest(&self) -> usize {
        self.host.windows(2).map(|pair| (pair[1] - pair[0]) as usize).max().unwrap_or(0)
    }

    /// The offsets on the device: `[B + 1]`.
    pub fn view(&self) -> View<'_, i32> {
        self.device.view()
    }
}

/// Where packed sequences start and end, as operations take it: `[B + 1]`, i32, contiguous.
///
/// From a `&`[`PackedOffsets`] they are checked. From a view on the host they are checked by each operation. What a view on a GPU
/// holds nobody looks at on the host: offsets out of order or out of bounds are cut off by the kernels, and give wrong or unwritten rows
/// but no access out of bounds.
#[derive(Clone, Copy, Debug)]
pub struct Offsets<'a> {
    view: View<'a, i32>,
    host: Option<&'a [i32]>,
}

impl<'a> From<&'a PackedOffsets> for Offsets<'a> {
    fn from(offsets: &'a PackedOffsets) -> Self {
        Self { view: offsets.device.view(), host: Some(&offsets.host) }
    }
}

impl<'a> From<View<'a, i32>> for Offsets<'a> {
    fn from(view: View<'a, i32>) -> Self {
        let host = view.on_host().filter(|_| view.dims().len() == 1 && view.layout().is_contiguous());
        Self { view, host }
    }
}

impl<'a> From<&'a Tensor<i32>> for Offsets<'a> {
    fn from(tensor: &'a Tensor<i32>) -> Self {
        tensor.view().into()
    }
}

impl<'a> Offsets<'a> {
    /// The checked view, and how many sequences it has.
    fn check(&self, op: &'static str, operand: &'static str, tokens: usize) -> Result<(View<'a, i32>, usize)> {
        let view = self.view;
        let shape = view.dims().to_vec();
        let [entries] = shape[..] else {
            return Err(Error::OperandRank { op, operand, wanted: "[sequences + 1]", shape });
        };
        if !view.layout().is_contiguous() {
            let strides = view.layout().strides().to_vec();
            return Err(Error::NotContiguous { op, output: operand, shape, strides });
        }
        let bad = |reason: mask::BadOffsets| Error::Offsets { op, operand, reason: reason.to_string() };
        if let Some(host) = self.host {
            mask::Offsets::new(host, tokens).map_err(bad)?;
        }
        Ok((view, entries.checked_sub(1).ok_or_else(|| bad(mask::BadOffsets::Missing))?))
    }
}

const OP: &str = "attention_packed";

/// Attention within packed sequences, one behind the other without padding: q `[Tq, Hq, D]`, k `[Tk, Hkv, D]`, v `[Tk, Hkv, Dv]`.
///
/// The queries of sequence i are rows `q_offsets[i]` to `q_offsets[i + 1]` of q, its keys rows `k_offsets[i]` to `k_offsets[i + 1]` of k and v;
/// they see each other and nobody else. Results are out `[Tq, Hq, Dv]` and lse `[Tq, Hq]`, with the bits that each sequence has
/// alone. Masks, bias and slopes count sequences where others count batch entries, and go by positions inside each sequence: a
/// [`Mask::Causal`](crate::Mask::Causal) aligns by each one's own lengths, and a bias `[Hq, 512, 512]` serves all sequences of up to
/// 512 tokens; pairs beyond it are hidden.
///
/// # Errors
/// As [`forward`](super::forward); also [`Error::Offsets`] where the [`Offsets`] are known on the host and do not start at 0, decrease, or do not end
/// at Tq or Tk, and [`Error::Sizes`] if q and k have another number of sequences.
///
/// ```
/// use sumexp::attention::{Attention, PackedOffsets, forward_packed};
/// use sumexp::{Device, Tensor};
/// let device = Device::cpu();
/// // Two sequences, of one and of two tokens.
/// let offsets = PackedOffsets::from_lengths(&device, &[1, 2])?;
/// let v = Tensor::from_slice(&device, &[3, 1, 1], &[7.0f32, 2.0, 4.0])?;
/// let zeros = Tensor::<f32>::zeros(&device, &[3, 1, 1])?;
/// let output = forward_packed(&zeros, &zeros, &v, &offsets, &offsets, &Attention::default())?;
/// assert_eq!(output.out.to_vec()?, [7.0, 3.0, 3.0]);
/// # Ok::<(), sumexp::Error>(())
/// ```
pub fn forward_packed<'a, T: Float>(
    q: impl Into<View<'a, T>>,
    k: impl Into<View<'a, T>>,
    v: impl Into<View<'a, T>>,
    q_offsets: impl Into<Offsets<'a>>,
    k_offsets: impl Into<Offsets<'a>>,
    options: &Attention<'a>,
) -> Result<AttentionOutput<T>> {
    let call = check(OP, [q.into(), k.into(), v.into()], [q_offsets.into(), k_offsets.into()], options)?;
    allocate(OP, &call, shapes(&call)?, PACKED)
}

/// [`forward_packed`] into memory of the caller; the lse only if it is wanted.
///
/// # Errors
/// As [`forward_packed`], and for the results as [`forward_into`](super::forward_into).
pub fn forward_packed_into<'a, T: Float>(
    q: impl Into<View<'a, T>>,
    k: impl Into<View<'a, T>>,
    v: impl Into<View<'a, T>>,
    q_offsets: impl Into<Offsets<'a>>,
    k_offsets: impl Into<Offsets<'a>>,
    options: &Attention<'a>,
    results: AttentionInto<T>,
) -> Result<()> {
    let call = check(OP, [q.into(), k.into(), v.into()], [q_offsets.into(), k_offsets.into()], options)?;
    write(OP, &call, shapes(&call)?, PACKED, results)
}

/// The dims of results `[Tq, Hq, ..]`.
pub(super) const PACKED: [Option<usize>; 3] = [None, Some(1), Some(0)];

/// Checks packed operands; those of the call are `[1, H, T, D]`.
pub(super) fn check<'a, T: Float>(
    op: &'static str,
    operands: [View<'a, T>; 3],
    [q_offsets, k_offsets]: [Offsets<'a>; 2],
    options: &Attention<'a>,
) -> Result<Forward<'a, T>> {
    let [q, k, v] = operands;
    let (q, k, v) = (heads_first(op, "q", q)?, heads_first(op, "k", k)?, heads_first(op, "v", v)?);
    let (q_offsets, of_q) = q_offsets.check(op, "the offsets of q", q.dims()[2])?;
    let (k_offsets, of_k) = k_offsets.check(op, "the offsets of k", k.dims()[2])?;
    let rule = "numbers of sequences differ";
    check::same(op, rule, ("the offsets of q", of_q), ("the offsets of k", of_k))?;
    let devices = [("the offsets of q", q_offsets.device()), ("the offsets of k", k_offsets.device())];
    Device::same(op, ("q", q.device()), &devices)?;
    let mut call = check::operands(op, [q, k, v], options, Some(of_q))?;
    call.offsets = Some((q_offsets, k_offsets));
    Ok(call)
}

/// `[T, H, D]` as `[1, H, T, D]`.
pub(super) fn heads_first<'a, T: Float>(
    op: &'static str,
    operand: &'static str,
    x: View<'a, T>,
) -> Result<View<'a, T>> {
    let [tokens, heads, size] = *x.dims() else {
        return Err(Error::OperandRank { op, operand, wanted: "[tokens, heads, head size]", shape: x.dims().to_vec() });
    };
    x.permute(&[1, 0, 2])?.broadcast(op, operand, &[1, heads, tokens, size])
}

/// Shapes of out and lse.
fn shapes<T: Float>(call: &Forward<T>) -> Result<[Shape; 2]> {
    let (q, v) = (call.q.dims(), call.v.dims());
    Ok([Shape::new(OP, &[q[2], q[1], v[3]])?, Shape::new(OP, &[q[2], q[1]])?])
}
