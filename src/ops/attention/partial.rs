//! Merging attentions of the same queries over different keys: split keys, shared prefixes, rings of devices.

use super::{AttentionInto, AttentionOutput};
use crate::device::Device;
use crate::dtype::{Element, Float};
use crate::error::{Error, Result};
use crate::kernels::attention::{self as kernel, Gradients, Merged, Part};
use crate::reference::attention as reference;
use crate::reference::{Operand, Output, Rows};
use crate::shape::Shape;
use crate::tensor::{Lse, Tensor, View, ViewMut};
use std::ops::Range;

/// One attention of many over different keys: rows `[.., Dv]`, and for each row the natural logarithm of the sum of the exponentials of its
/// scores, `[..]`.
///
/// `&`[`AttentionOutput`] is one. Rows with lse -inf saw no key, and what they hold is not looked at.
#[derive(Clone, Copy, Debug)]
pub struct Partial<'a, T: Element> {
    pub(super) out: View<'a, T>,
    pub(super) lse: View<'a, f32>,
}

impl<'a, T: Float> Partial<'a, T> {
    /// Rows and their lse; shapes are checked where it is used.
    pub fn new(out: impl Into<View<'a, T>>, lse: &'a Lse) -> Self {
        Self { out: out.into(), lse: lse.view_values() }
    }

    /// As [`Partial::new`] from any view of log-sum-exps, in natural logarithms.
    pub fn from_values(out: impl Into<View<'a, T>>, lse: View<'a, f32>) -> Self {
        Self { out: out.into(), lse }
    }
}

impl<'a, T: Float> From<&'a AttentionOutput<T>> for Partial<'a, T> {
    fn from(output: &'a AttentionOutput<T>) -> Self {
        Self::new(&output.out, &output.lse)
    }
}

impl<T: Float> AttentionOutput<T> {
    /// The attention over no keys, of rows with this shape `[.., Dv]`: out 0 and lse -inf. Merged with another one it gives that one.
    ///
    /// # Errors
    /// [`Error::OperandRank`] without a dim; [`Error::Rank`], [`Error::TooLarge`], [`Error::OutOfMemory`], [`Error::Driver`].
    pub fn empty(device: &Device, dims: &[usize]) -> Result<Self> {
        let out = Tensor::zeros(device, dims)?;
        let rows = rows_shape(OP, "out", out.shape())?;
        let nothing = vec![f32::NEG_INFINITY; rows.elements() as usize];
        Ok(Self { out, lse: Lse::from_tensor(Tensor::from_slice(device, rows.dims(), &nothing)?) })
    }
}

const OP: &str = "attention_merge";
const BACKWARD: &str = "attention_merge_backward";

/// The attention over the keys of both parts, which saw different keys:
/// `lse = ln(exp(lse_a) + exp(lse_b))`, `out = exp(lse_a - lse) * out_a + exp(lse_b - lse) * out_b`.
///
/// Commutative to the bit, associative up to rounding, and [`AttentionOutput::empty`] is its identity to the bit: so parts may be merged in
/// any order, as long as it is the same order each time.
///
/// # Shapes
/// | tensor | shape | type |
/// |---|---|---|
/// | out of each part, and of the result | any `[.., Dv]`, any strides | f16, bf16, f32 |
/// | lse of each part, and of the result | that without its last dim, any strides | f32 |
///
/// # Numerics
/// Weights and sums in f32: f32 rows within 2^-22 of the larger of the two weighted elements, 16-bit rows rounded once more; the lse within
/// 2^-22 of itself, or absolutely where it is below 1. An lse of NaN or +inf makes its row NaN, no other.
///
/// # Errors
/// [`Error::OperandRank`], [`Error::Shapes`], [`Error::DifferentDevices`], [`Error::OutOfMemory`], [`Error::Driver`].
///
/// ```
/// use sumexp::attention::{Attention, AttentionOutput, forward, merge};
/// use sumexp::{Device, Dim, Tensor};
/// let device = Device::cpu();
/// let x = Tensor::from_slice(&device, &[1, 1, 3, 1], &[0.5f32, -1.0, 2.0])?;
/// let part = |keys| x.view().slice(Dim::front(2), keys);
/// let options = Attention { scale: Some(1.0), ..Attention::default() };
/// let whole = forward(&x, &x, &x, &options)?;
/// let first = forward(&x, part(0..2)?, part(0..2)?, &options)?;
/// let last = forward(&x, part(2..3)?, part(2..3)?, &options)?;
/// let merged = merge(&first, &last)?;
/// assert!((merged.out.to_vec()?[1] - whole.out.to_vec()?[1]).abs() < 1e-6);
/// assert!((merged.lse.to_vec()?[1] - whole.lse.to_vec()?[1]).abs() < 1e-6);
///
/// let nothing = AttentionOutput::empty(&device, &[1, 1, 3, 1])?;
/// assert_eq!(merge(&nothing, &last)?.out.to_vec()?, last.out.to_vec()?);
/// # Ok::<(), sumexp::Error>(())
/// ```
pub fn merge<'a, T: Float>(a: impl Into<Partial<'a, T>>, b: impl Into<Partial<'a, T>>) -> Result<AttentionOutput<T>> {
    let parts = Parts::new(OP, a.into(), b.into())?;
    let device = parts.a.out.device();
    let mut out = Tensor::unfilled(OP, device, *parts.a.out.shape())?;
    let mut lse = Tensor::unfilled(OP, device, parts.rows)?;
    parts.merge(out.view_mut(), Some(lse.view_mut()))?;
    Ok(AttentionOutput { out, lse: Lse::from_tensor(lse) })
}

/// [`merge`] into memory of the caller, contiguous; the lse only if it is wanted.
///
/// # Errors
/// As [`merge`]; also [`Error::NotContiguous`], [`Error::Overlap`] and [`Error::Shared`] for the results.
pub fn merge_into<'a, T: Float>(
    a: impl Into<Partial<'a, T>>,
    b: impl Into<Partial<'a, T>>,
    results: AttentionInto<T>,
) -> Result<()> {
    let parts = Parts::new(OP, a.into(), b.into())?;
    let mut taken = parts.inputs();
    parts.check_rows("out", &results.out, &mut taken)?;
    if let Some(lse) = &results.lse {
        parts.check_numbers("lse", lse, &mut taken)?;
    }
    parts.merge(results.out, results.lse)
}

/// The gradients of one part: what its own backward operation takes.
#[derive(Debug)]
pub struct PartialGradient<T: Element> {
    /// Of its rows: `[.., Dv]`.
    pub dout: Tensor<T>,
    /// Of its lse: `[..]`.
    pub dlse: Tensor<f32>,
}

/// Where the gradients of one part go; contiguous, shapes as in [`PartialGradient`].
#[derive(Debug)]
pub struct PartialGradientInto<'o, T: Element> {
    /// See [`PartialGradient::dout`].
    pub dout: ViewMut<'o, T>,
    /// See [`PartialGradient::dlse`].
    pub dlse: ViewMut<'o, f32>,
}

/// Gradients of both parts of a [`merge`] for those of its result: `dout` as its rows, and `dlse` as its lse, if that was used.
///
/// `dout_a = w_a * dout` and `dlse_a = w_a * (dlse + w_b * dot(dout, out_a - out_b))` with the weights `w` of the merge, and the same for b.
/// A merged attention depends on the lse of its parts even where its own lse is not used: both gradients must go into the backward
/// operations of the parts. Those of a row without keys are 0.
///
/// # Errors
/// As [`merge`].
///
/// ```
/// use sumexp::attention::{AttentionOutput, merge_backward};
/// use sumexp::{Device, Lse, Tensor};
/// let device = Device::cpu();
/// let part = |out: f32| -> sumexp::Result<AttentionOutput<f32>> {
///     let lse = Lse::from_tensor(Tensor::from_slice(&device, &[1], &[0.0])?);
///     Ok(AttentionOutput { out: Tensor::from_slice(&device, &[1, 1], &[out])?, lse })
/// };
/// let dout = Tensor::from_slice(&device, &[1, 1], &[1.0f32])?;
/// let [a, b] = merge_backward(&part(3.0)?, &part(1.0)?, &dout, None)?;
/// assert_eq!((a.dout.to_vec()?, a.dlse.to_vec()?), (vec![0.5], vec![0.5]));
/// assert_eq!((b.dout.to_vec()?, b.dlse.to_vec()?), (vec![0.5], vec![-0.5]));
/// # Ok::<(), sumexp::Error>(())
/// ```
pub fn merge_backward<'a, T: Float>(
    a: impl Into<Partial<'a, T>>,
    b: impl Into<Partial<'a, T>>,
    dout: impl Into<View<'a, T>>,
    dlse: Option<View<'a, f32>>,
) -> Result<[PartialGradient<T>; 2]> {
    let parts = Parts::new(BACKWARD, a.into(), b.into())?;
    let upstream = parts.upstream(dout.into(), dlse)?;
    let gradient = || -> Result<PartialGradient<T>> {
        let device = parts.a.out.device();
        let dout = Tensor::unfilled(BACKWARD, device, *parts.a.out.shape())?;
        Ok(PartialGradient { dout, dlse: Tensor::unfilled(BACKWARD, device, parts.rows)? })
    };
    let mut gradients = [gradient()?, gradient()?];
    let views = gradients.each_mut().map(|g| Gradients { dout: g.dout.view_mut(), dlse: g.dlse.view_mut() });
    parts.merge_backward(upstream, dlse.is_some(), views)?;
    Ok(gradients)
}

/// [`merge_backward`] into memory of the caller.
///
/// # Errors
/// As [`merge_into`].
pub fn merge_backward_into<'a, T: Float>(
    a: impl Into<Partial<'a, T>>,
    b: impl Into<Partial<'a, T>>,
    dout: impl Into<View<'a, T>>,
    dlse: Option<View<'a, f32>>,
    [da, db]: [PartialGradientInto<T>; 2],
) -> Result<()> {
    let parts = Parts::new(BACKWARD, a.into(), b.into())?;
    let upstream = parts.upstream(dout.into(), dlse)?;
    let mut taken = parts.inputs();
    taken.extend([("dout", upstream.out.addresses())]);
    taken.extend(dlse.map(|dlse| ("dlse", dlse.addresses())));
    parts.check_rows("the gradient of a", &da.dout, &mut taken)?;
    parts.check_numbers("the gradient of the lse of a", &da.dlse, &mut taken)?;
    parts.check_rows("the gradient of b", &db.dout, &mut taken)?;
    parts.check_numbers("the gradient of the lse of b", &db.dlse, &mut taken)?;
    let views = [da, db].map(|into| Gradients { dout: into.dout, dlse: into.dlse });
    parts.merge_backward(upstream, dlse.is_some(), views)
}

/// The shape of one number per row of a tensor.
fn rows_shape(op: &'static str, operand: &'static str, shape: &Shape) -> Result<Shape> {
    match shape.rank().checked_sub(1) {
        Some(last) => Ok(shape.without(last)),
        None => Err(Error::OperandRank { op, operand, wanted: "[.., head size]", shape: Vec::new() }),
    }
}

/// Two parts, checked: equal shapes, one device.
struct Parts<'a, T> {
    op: &'static str,
    a: Part<'a, T>,
    b: Part<'a, T>,
    rows: Shape,
}

type Taken = Vec<(&'static str, Range<u64>)>;

impl<'a, T: Float> Parts<'a, T> {
    fn new(op: &'static str, a: Partial<'a, T>, b: Partial<'a, T>) -> Result<Self> {
        let rows = rows_shape(op, "out of a", a.out.shape())?;
        same(op, ("out of a", a.out.shape()), ("out of b", b.out.shape()))?;
        same(op, ("lse of a", a.lse.shape()), ("the rows of out of a", &rows))?;
        same(op, ("lse of b", b.lse.shape()), ("the rows of out of b", &rows))?;
        let others = [("lse of a", a.lse.device()), ("out of b", b.out.device()), ("lse of b", b.lse.device())];
        Device::same(op, ("out of a", a.out.device()), &others)?;
        let part = |part: Partial<'a, T>| Part { out: part.out, lse: part.lse };
        Ok(Self { op, a: part(a), b: part(b), rows })
    }

    /// The checked gradient of the merged part. Without one of the lse any numbers stand in for it.
    fn upstream(&self, dout: View<'a, T>, dlse: Option<View<'a, f32>>) -> Result<Part<'a, T>> {
        same(self.op, ("dout", dout.shape()), ("out of a", self.a.out.shape()))?;
        Device::same(self.op, ("out of a", self.a.out.device()), &[("dout", dout.device())])?;
        if let Some(dlse) = &dlse {
            same(self.op, ("dlse", dlse.shape()), ("lse of a", self.a.lse.shape()))?;
            Device::same(self.op, ("out of a", self.a.out.device()), &[("dlse", dlse.device())])?;
        }
        Ok(Part { out: dout, lse: dlse.unwrap_or(self.a.lse) })
    }

    fn inputs(&self) -> Taken {
        let Self { a, b, .. } = self;
        let (of_a, of_b) = (("out of a", a.out.addresses()), ("out of b", b.out.addresses()));
        vec![of_a, ("lse of a", a.lse.addresses()), of_b, ("lse of b", b.lse.addresses())]
    }

    /// Checks an output of rows; the next ones must not overlap it.
    fn check_rows(&self, name: &'static str, view: &ViewMut<T>, taken: &mut Taken) -> Result<()> {
        self.check(name, view, ("out of a", self.a.out.shape()), taken)
    }

    fn check_numbers(&self, name: &'static str, view: &ViewMut<f32>, taken: &mut Taken) -> Result<()> {
        self.check(name, view, ("lse of a", &self.rows), taken)
    }

    fn check<E: Element>(
        &self,
        name: &'static str,
        view: &ViewMut<E>,
        like: (&'static str, &Shape),
        taken: &mut Taken,
    ) -> Result<()> {
        view.check_output(self.op, name, like, taken)?;
        Device::same(self.op, ("out of a", self.a.out.device()), &[(name, view.device())])?;
        taken.push((name, view.as_view().addresses()));
        Ok(())
    }

    fn merge(&self, mut out: ViewMut<T>, lse: Option<ViewMut<f32>>) -> Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        if self.a.out.on_host().is_none() {
            return kernel::merge(self.op, self.a, self.b, Merged { out, lse });
        }
        let layout = *out.layout();
        let rows = rows(layout.dims());
        let numbers = one_per_row(&self.rows);
        let (a, b) = (HostPart::of(&self.a), HostPart::of(&self.b));
        // Nobody wants the lse: every row writes the same place.
        let (mut nowhere, everywhere) = ([0.0], vec![0; layout.dims().len()]);
        let mut lse = lse;
        let (lse, lse_strides) = match &mut lse {
            Some(lse) => (host(self.op, "lse", lse)?, &numbers),
            None => (&mut nowhere[..], &everywhere),
        };
        let merged = reference::Merged {
            out: Output { data: host(self.op, "out", &mut out)?, strides: layout.strides() },
            lse: Output { data: lse, strides: lse_strides },
        };
        reference::merge_rows(&rows, a.part(), b.part(), merged);
        Ok(())
    }

    fn merge_backward(&self, upstream: Part<T>, has_dlse: bool, gradients: [Gradients<T>; 2]) -> Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        if self.a.out.on_host().is_none() {
            return kernel::merge_backward(self.op, [self.a, self.b], (upstream, has_dlse), gradients);
        }
        let [mut da, mut db] = gradients;
        let layout = *da.dout.layout();
        let rows = rows(layout.dims());
        let numbers = one_per_row(&self.rows);
        let (a, b, upstream) = (HostPart::of(&self.a), HostPart::of(&self.b), HostPart::of(&upstream));
        let zero = Operand { data: &[0.0][..], strides: &vec![0; layout.dims().len()] };
        let mut upstream = upstream.part();
        if !has_dlse {
            upstream.lse = zero;
        }
        fn merged<'o, T: Float>(
            op: &'static str,
            into: &'o mut Gradients<T>,
            strides: [&'o [u64]; 2],
        ) -> Result<reference::Merged<'o, T>> {
            Ok(reference::Merged {
                out: Output { data: host(op, "a gradient", &mut into.dout)?, strides: strides[0] },
                lse: Output { data: host(op, "a gradient", &mut into.dlse)?, strides: strides[1] },
            })
        }
        let strides = [layout.strides(), &numbers[..]];
        let (da, db) = (merged(self.op, &mut da, strides)?, merged(self.op, &mut db, strides)?);
        reference::merge_rows_backward(&rows, a.part(), b.part(), upstream, da, db);
        Ok(())
    }
}

/// A part on the host as the reference takes it: numbers have strides of all dims of the rows.
struct HostPart<'a, T> {
    out: (&'a [T], Vec<u64>),
    lse: (&'a [f32], Vec<u64>),
}

impl<'a, T: Float> HostPart<'a, T> {
    fn of(part: &Part<'a, T>) -> Self {
        let here = "every operand is where the first one is";
        let mut strides = part.lse.layout().strides().to_vec();
        strides.push(0);
        Self {
            out: (part.out.on_host().expect(here), part.out.layout().strides().to_vec()),
            lse: (part.lse.on_host().expect(here), strides),
        }
    }

    fn part(&self) -> reference::Partial<'_, T> {
        reference::Partial {
            out: Operand { data: self.out.0, strides: &self.out.1 },
            lse: Operand { data: self.lse.0, strides: &self.lse.1 },
        }
    }
}

fn host<'o, E: Element>(op: &'static str, name: &'static str, view: &'o mut ViewMut<E>) -> Result<&'o mut [E]> {
    Ok(view.on_host(op, name)?.expect("outputs are where the inputs are"))
}

/// Rows along the last dim.
fn rows(dims: &[usize]) -> Rows<'_> {
    Rows { shape: dims, dim: dims.len() - 1 }
}

/// Strides of contiguous numbers, one per row, by the dims of the rows.
fn one_per_row(rows: &Shape) -> Vec<u64> {
    let mut strides = crate::shape::Layout::contiguous(*rows).strides().to_vec();
    strides.push(0);
    strides
}

fn same(op: &'static str, left: (&'static str, &Shape), right: (&'static str, &Shape)) -> Result<()> {
    super::super::check::same_shape(op, left, right)
}
