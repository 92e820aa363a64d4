//! The launches of the softmax family.

use super::id::SoftmaxForm;
use super::operand::{Walk, absent, inverse_temperature, temperature, unit_log2};
use super::params::{
    Operand, SOFTMAX_LOG_PROBABILITIES, SOFTMAX_LSE, SOFTMAX_LSE_GRADIENT, SOFTMAX_PROBABILITIES,
    SoftmaxBackwardParams, SoftmaxForwardParams,
};
use super::{KernelId, LaunchShape, launch};
use crate::device::Device;
use crate::dtype::{DType, Element, Float};
use crate::error::Result;
use crate::mask::Polarity;
use crate::plan::softmax::{self as plan, Plan};
use crate::shape::{Layout, Rows, Shape};
use crate::tensor::{Tensor, View, ViewMut};

/// A boolean mask, broadcast to the shape of the logits.
#[derive(Clone, Copy)]
pub(crate) struct VisibleBytes<'a> {
    /// The bytes as they are stored.
    pub(crate) bytes: View<'a, u8>,
    /// The shape of the logits, with strides into the bytes.
    pub(crate) layout: Layout,
    /// What a true byte means.
    pub(crate) polarity: Polarity,
}

/// Logits and how they are read. Checked: there is at least one row, shapes agree, everything is on one GPU.
#[derive(Clone, Copy)]
pub(crate) struct Logits<'a, T> {
    /// The logits.
    pub(crate) x: View<'a, T>,
    /// Which of them take part; all without a mask.
    pub(crate) mask: Option<VisibleBytes<'a>>,
    /// Whether they are negated (softmin).
    pub(crate) negate: bool,
    /// The dim along which the rows run.
    pub(crate) rows: Rows,
    /// Finite and above 0.
    pub(crate) temperature: f32,
}

/// What a forward kernel writes.
#[derive(Clone, Copy)]
pub(crate) enum Forward<'a> {
    /// softmax
    Probabilities,
    /// log-softmax
    LogProbabilities,
    /// logsumexp, one f32 per row
    Lse,
    /// The gradient of the logits of a logsumexp, given that of its results: the shape of the logits without the dim.
    LseGradient(View<'a, f32>),
}

/// Results of a forward operation and their gradient; checked as [`Logits`].
#[derive(Clone, Copy)]
pub(crate) struct Results<'a, T> {
    /// Probabilities or log-probabilities.
    pub(crate) y: View<'a, T>,
    /// Their gradient.
    pub(crate) dy: View<'a, T>,
    /// Whether they are log-probabilities.
    pub(crate) log: bool,
    /// Whether the logits were negated (softmin).
    pub(crate) negate: bool,
    /// The dim along which the rows run.
    pub(crate) rows: Rows,
    /// Finite and above 0.
    pub(crate) temperature: f32,
}

/// Strides along the dims that stay, and the one along the rows.
fn split_strides(layout: &Layout, rows: &Rows) -> (Vec<u64>, u64) {
    let mut strides = layout.strides().to_vec();
    let stride = strides.remove(rows.position);
    // The stride of a dim of length 1 is stored as 0, but any will do: let it not stand in the way of vector loads.
    (strides, if rows.len == 1 { 1 } else { stride })
}

/// How elements of one operand are moved: `element` bytes each, from `address` on, operand `number` of `walk`.
struct Access<'a> {
    walk: &'a Walk,
    number: usize,
    address: u64,
    stride: u64,
    element: usize,
}

impl Access<'_> {
    /// Whether units of `1 << unit_log2` elements of any row may be loaded whole.
    fn in_units(&self, unit_log2: u32) -> bool {
        self.stride == 1
            && self.walk.aligned(self.number, self.address, self.element, (self.element as u64) << unit_log2)
    }

    /// Whether 16 bytes of neighbouring columns may be loaded whole, from every row and from every such group of columns on.
    fn in_wide_columns(&self) -> bool {
        let per_lane = 16 / self.element as u64;
        let (size, stride) = self.walk.last_dim(self.number);
        stride == 1
            && size % per_lane == 0
            && self.stride.is_multiple_of(per_lane)
            && self.walk.aligned_but_last(self.number, self.address, self.element, 16)
    }

    fn operand(&self) -> Operand {
        self.walk.operand(self.number, self.address, self.stride)
    }
}

fn shape_of(plan: &Plan) -> LaunchShape {
    let (blocks, block, shared) = match *plan {
        Plan::Rows { piece, blocks } => (blocks, [piece.threads(), 1, 1], 0),
        Plan::Split { blocks, .. } => (blocks, [plan::FORWARD_CHUNK.threads(), 1, 1], 0),
        Plan::Columns { width, height, blocks, shared, .. } => (blocks, [width, height, 1], shared),
    };
    LaunchShape { grid: [blocks, 1, 1], block, shared }
}

// Both split kernels are launched in the same shape.
const _: () = assert!(plan::FORWARD_CHUNK.lanes == plan::BACKWARD_CHUNK.lanes);

/// What the first of the split kernels leaves for the second: so many floats per row and slice.
fn workspace(op: &'static str, device: &Device, rows: &Rows, slices: u32, floats: u64) -> Result<Tensor<f32>> {
    Tensor::unfilled(op, device, Shape::new(op, &[rows.count() as usize, slices as usize, floats as usize])?)
}

fn slices_of(plan: &Plan) -> (u32, u64) {
    match *plan {
        Plan::Split { slices, chunks_per_slice, .. } => (slices, chunks_per_slice),
        Plan::Rows { .. } | Plan::Columns { .. } => (1, 1),
    }
}

/// The kernels of a plan, in the order of their launches.
fn forms_of(plan: &Plan) -> impl Iterator<Item = SoftmaxForm> {
    let (first, second) = match *plan {
        Plan::Rows { piece, .. } => (SoftmaxForm::Rows(piece), None),
        Plan::Columns { wide, .. } => (SoftmaxForm::Columns { wide }, None),
        Plan::Split { .. } => (SoftmaxForm::Partial, Some(SoftmaxForm::Results)),
    };
    [Some(first), second].into_iter().flatten()
}

fn sign_bits(dtype: DType) -> u32 {
    if dtype.size() == 2 { 0x8000_8000 } else { 0x8000_0000 }
}

/// Writes what `forward` says about the logits into `output`, which was checked to be contiguous and of the shape that goes
/// with it.
pub(crate) fn softmax_forward<T: Float, U: Element>(
    op: &'static str,
    logits: &Logits<T>,
    forward: Forward,
    mut output: ViewMut<U>,
) -> Result<()> {
    let (dtype, rows, device) = (T::DTYPE, &logits.rows, logits.x.device());
    let (strides, stride) = split_strides(logits.x.layout(), rows);
    let mut operands: Vec<&[u64]> = vec![&strides];
    let mask = logits.mask.as_ref().map(|mask| (mask, split_strides(&mask.layout, rows)));
    let mask_number = operands.len();
    operands.extend(mask.iter().map(|(_, (strides, _))| strides.as_slice()));
    let upstream = match &forward {
        Forward::LseGradient(dlse) => Some(dlse),
        Forward::Probabilities | Forward::LogProbabilities | Forward::Lse => None,
    };
    let upstream_number = operands.len();
    operands.extend(upstream.iter().map(|dlse| dlse.layout().strides()));
    let walk = Walk::new(logits.x.shape().without(rows.position).dims(), &operands);
    let input = Access { walk: &walk, number: 0, address: logits.x.address(), stride, element: dtype.size() };
    let mask = mask.map(|(mask, (_, stride))| {
        (mask, Access { walk: &walk, number: mask_number, address: mask.bytes.address(), stride, element: 1 })
    });

    let address = output.address(op, "the output")?;
    let unit_log2 = unit_log2(rows.len, dtype.size());
    let full_vector = dtype.size() << unit_log2 == 16;
    let aligned_output = |bytes: u64| address % bytes == 0;
    let wide = input.in_wide_columns() && aligned_output(16) && rows.inner % (16 / dtype.size() as u64) == 0;
    let plan = plan::forward(rows, dtype, wide);
    let (slices, chunks_per_slice) = slices_of(&plan);
    let mut states = match plan {
        Plan::Split { .. } => Some(workspace(op, device, rows, slices, 4)?),
        Plan::Rows { .. } | Plan::Columns { .. } => None,
    };
    let states = match &mut states {
        Some(states) => states.view_mut().address(op, "the workspace")?,
        None => 0,
    };
    let (scale, scale_rest) = signed_inverse(logits.temperature, logits.negate);
    let params = SoftmaxForwardParams {
        positions: walk.positions,
        input: input.operand(),
        mask: mask.as_ref().map_or_else(absent, |(_, access)| access.operand()),
        upstream: upstream.map_or_else(absent, |dlse| walk.operand(upstream_number, dlse.address(), 0)),
        output: address as *mut _,
        states: states as *mut _,
        length: rows.len,
        inner: rows.inner,
        chunks_per_slice,
        slices,
        kind: match forward {
            Forward::Probabilities => SOFTMAX_PROBABILITIES.0,
            Forward::LogProbabilities => SOFTMAX_LOG_PROBABILITIES.0,
            Forward::Lse => SOFTMAX_LSE.0,
            Forward::LseGradient(_) => SOFTMAX_LSE_GRADIENT.0,
        },
        unit_log2,
        input_units: u32::from(input.in_units(unit_log2)),
        mask_units: u32::from(mask.as_ref().is_some_and(|(_, access)| full_vector && access.in_units(unit_log2))),
        // Units divide the length of a row, so all rows of a contiguous output are aligned if the first is.
        output_units: u32::from(aligned_output((dtype.size() as u64) << unit_log2)),
        sign_flip: if logits.negate { sign_bits(dtype) } else { 0 },
        mask_hides: u32::from(mask.as_ref().is_some_and(|(mask, _)| mask.polarity == Polarity::Hide)),
        temperature: temperature(logits.temperature),
        upstream_scale: scale,
        upstream_scale_rest: scale_rest,
    };
    let shape = shape_of(&plan);
    let id = |form| KernelId::SoftmaxForward { dtype, form };
    for form in forms_of(&plan) {
        // SAFETY: logits, mask and upstream gradient are borrowed views whose shapes and strides the parameters repeat; the
        // output was checked to be contiguous with one element per logit (per row for the lse), and the workspace holds two
        // floats per row and slice: the kernels read and write nothing else.
        unsafe { launch(device, id(form), &shape, &params) }?;
    }
    Ok(())
}

/// Writes the gradient of the logits into `dx`, which was checked to be contiguous and of the shape of the results.
pub(crate) fn softmax_backward<T: Float>(op: &'static str, results: &Results<T>, mut dx: ViewMut<T>) -> Result<()> {
    let (dtype, rows, device) = (T::DTYPE, &results.rows, results.y.device());
    let (y_strides, y_stride) = split_strides(results.y.layout(), rows);
    let (dy_strides, dy_stride) = split_strides(results.dy.layout(), rows);
    let walk = Walk::new(results.y.shape().without(rows.position).dims(), &[&y_strides, &dy_strides]);
    let element = dtype.size();
    let y = Access { walk: &walk, number: 0, address: results.y.address(), stride: y_stride, element };
    let dy = Access { walk: &walk, number: 1, address: results.dy.address(), stride: dy_stride, element };

    let address = dx.address(op, "the gradient")?;
    let unit_log2 = unit_log2(rows.len, element);
    let aligned_output = |bytes: u64| address % bytes == 0;
    let wide_output = aligned_output(16) && rows.inner % (16 / element as u64) == 0;
    let plan = plan::backward(rows, dtype, y.in_wide_columns() && dy.in_wide_columns() && wide_output);
    let (slices, chunks_per_slice) = slices_of(&plan);
    let mut sums = match plan {
        // In the workspace three floats take the place of four, so that each sum moves in one access.
        Plan::Split { .. } => {
            Some(workspace(op, device, rows, slices, plan::backward_sum_floats(dtype).next_power_of_two())?)
        }
        Plan::Rows { .. } | Plan::Columns { .. } => None,
    };
    let sums = match &mut sums {
        Some(sums) => sums.view_mut().address(op, "the workspace")?,
        None => 0,
    };
    let (scale, scale_rest) = signed_inverse(results.temperature, results.negate);
    let params = SoftmaxBackwardParams {
        positions: walk.positions,
        result: y.operand(),
        upstream: dy.operand(),
        output: address as *mut _,
        sums: sums as *mut _,
        length: rows.len,
        inner: rows.inner,
        chunks_per_slice,
        slices,
        kind: if results.log { SOFTMAX_LOG_PROBABILITIES.0 } else { SOFTMAX_PROBABILITIES.0 },
        unit_log2,
        result_units: u32::from(y.in_units(unit_log2)),
        upstream_units: u32::from(dy.in_units(unit_log2)),
        output_units: u32::from(aligned_output((element as u64) << unit_log2)),
        scale,
        scale_rest,
    };
    let shape = shape_of(&plan);
    for form in forms_of(&plan) {
        let id = KernelId::SoftmaxBackward { dtype, form };
        // SAFETY: both operands are borrowed views whose shapes and strides the parameters repeat; `dx` was checked to be
        // contiguous and of their shape, and the workspace holds one sum per row and slice.
        unsafe { launch(device, id, &shape, &params) }?;
    }
    Ok(())
}

/// 1 / tau, negated for softmin, as a product of two floats.
fn signed_inverse(temperature: f32, negate: bool) -> (f32, f32) {
    let (scale, rest) = inverse_temperature(temperature);
    (if negate { -scale } else { scale }, rest)
}
