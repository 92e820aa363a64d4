//! The launches of cross-entropy.

use super::super::operand::{Walk, absent, inverse_temperature, temperature, unit_log2};
use super::super::params::{
    CrossEntropyBackwardParams, CrossEntropyForwardParams, LossCollectParams, LossTerms, PROBABILITIES_BF16,
    PROBABILITIES_F16, PROBABILITIES_F32, ProbabilityTargets, SUMEXP_LOSS_COLUMN_PIECE, SUMEXP_LOSS_STATE, TARGETS_I32,
    TARGETS_I64, TARGETS_NONE, TARGETS_U32, Targets, TokenStatistics,
};
use super::super::{KernelId, launch};
use super::{Reduce, Sums, finish, partial_sums, shape};
use crate::device::Device;
use crate::dtype::{DType, Float};
use crate::error::Result;
use crate::plan::loss::{self as plan, Backward, Forward};
use crate::shape::{Layout, Rows, Shape};
use crate::tensor::{Tensor, View, ViewMut};
use std::ptr;

// What the kernels were compiled with is what the plans count with.
const _: () = assert!(SUMEXP_LOSS_COLUMN_PIECE as u64 == plan::COLUMN_PIECE);

/// Numbers per row that forward leaves for backward.
pub(crate) const STATE: usize = SUMEXP_LOSS_STATE as usize;

/// The targets of a call.
#[derive(Clone, Copy)]
pub(crate) struct CallTargets<'a> {
    /// Address of the first target.
    pub(crate) address: u64,
    /// Of the shape of the logits, for classes without their class dim.
    pub(crate) layout: &'a Layout,
    /// `I64`, `I32` or `U32` of classes; a float of probabilities.
    pub(crate) dtype: DType,
    /// Rows with this target do not count.
    pub(crate) ignore_index: Option<i64>,
}

impl CallTargets<'_> {
    /// The parameter block's description of classes, which are operand `number` of `walk`.
    pub(super) fn params(&self, walk: &Walk, number: usize, classes: u64) -> Targets {
        Targets {
            operand: if self.spread() { absent() } else { walk.operand(number, self.address, 0) },
            classes,
            ignore_index: self.ignore_index.unwrap_or(0),
            has_ignore_index: u32::from(self.ignore_index.is_some()),
            type_: match self.dtype {
                DType::I32 => TARGETS_I32.0,
                DType::U32 => TARGETS_U32.0,
                DType::F32 | DType::F16 | DType::BF16 => TARGETS_NONE.0,
                _ => TARGETS_I64.0,
            },
        }
    }

    /// Whether they are probabilities.
    fn spread(&self) -> bool {
        matches!(self.dtype, DType::F32 | DType::F16 | DType::BF16)
    }
}

/// Where forward writes the statistics of every row; all contiguous, one number per row.
pub(crate) struct Statistics<'a> {
    pub(crate) nll: ViewMut<'a, f32>,
    pub(crate) entropy: ViewMut<'a, f32>,
    pub(crate) argmax: ViewMut<'a, i64>,
    pub(crate) correct: ViewMut<'a, u8>,
    pub(crate) rank: ViewMut<'a, i64>,
}

impl Statistics<'_> {
    fn addresses(&mut self, op: &'static str) -> Result<TokenStatistics> {
        Ok(TokenStatistics {
            nll: self.nll.address(op, "nll")? as *mut f32,
            entropy: self.entropy.address(op, "entropy")? as *mut f32,
            argmax: self.argmax.address(op, "argmax")? as *mut i64,
            rank: self.rank.address(op, "rank")? as *mut i64,
            correct: self.correct.address(op, "correct")? as *mut u8,
        })
    }
}

/// Nobody asks for statistics.
const NO_STATISTICS: TokenStatistics = TokenStatistics {
    nll: ptr::null_mut(),
    entropy: ptr::null_mut(),
    argmax: ptr::null_mut(),
    rank: ptr::null_mut(),
    correct: ptr::null_mut(),
};

/// A call of cross-entropy, checked: where there are rows there are classes, shapes agree, everything is on one GPU.
pub(crate) struct Call<'a, T> {
    pub(crate) op: &'static str,
    pub(crate) logits: View<'a, T>,
    pub(crate) targets: CallTargets<'a>,
    /// The class dim of the logits.
    pub(crate) rows: Rows,
    /// One number per class.
    pub(crate) class_weights: Option<View<'a, f32>>,
    /// From 0 to 1.
    pub(crate) label_smoothing: f32,
    pub(crate) z_loss: f32,
    pub(crate) temperature: f32,
}

/// Where forward writes; all contiguous.
pub(crate) struct Outputs<'a> {
    /// One per row, or a single one.
    pub(crate) loss: ViewMut<'a, f32>,
    /// One per row.
    pub(crate) lse: ViewMut<'a, f32>,
    /// One in all.
    pub(crate) count: ViewMut<'a, i64>,
    /// [`STATE`] per row and one in all.
    pub(crate) saved: ViewMut<'a, f32>,
    pub(crate) statistics: Option<Statistics<'a>>,
}

impl<T: Float> Call<'_, T> {
    pub(super) fn device(&self) -> &Device {
        self.logits.device()
    }

    /// Strides of the logits without the class dim, and the one along it.
    pub(super) fn logit_strides(&self) -> (Vec<u64>, u64) {
        self.strides(self.logits.layout())
    }

    /// As [`Call::logit_strides`], of the targets; classes have no stride along the class dim.
    fn target_strides(&self) -> (Vec<u64>, u64) {
        if self.targets.spread() {
            self.strides(self.targets.layout)
        } else {
            (self.targets.layout.strides().to_vec(), 0)
        }
    }

    fn strides(&self, layout: &Layout) -> (Vec<u64>, u64) {
        let mut strides = layout.strides().to_vec();
        let stride = strides.remove(self.rows.position);
        // The stride of a dim of length 1 is stored as 0, but any will do: let it not stand in the way of vector loads.
        (strides, if self.rows.len == 1 { 1 } else { stride })
    }

    fn sizes(&self) -> Shape {
        self.logits.shape().without(self.rows.position)
    }

    /// Whether every class has a share of the loss.
    pub(super) fn dense(&self) -> bool {
        self.targets.spread() || self.label_smoothing != 0.0
    }

    /// The parameter block's description; targets are operand 1 of `walk`.
    fn targets(&self, walk: &Walk) -> Targets {
        self.targets.params(walk, 1, self.rows.len)
    }

    /// As [`Call::targets`], if they are probabilities.
    fn probabilities(&self, walk: &Walk, unit_log2: u32) -> ProbabilityTargets {
        let (_, stride) = self.target_strides();
        let CallTargets { address, dtype, .. } = self.targets;
        let units = stride == 1 && walk.aligned(1, address, dtype.size(), (dtype.size() as u64) << unit_log2);
        ProbabilityTargets {
            operand: if self.targets.spread() { walk.operand(1, address, stride) } else { absent() },
            type_: match dtype {
                DType::F16 => PROBABILITIES_F16.0,
                DType::BF16 => PROBABILITIES_BF16.0,
                _ => PROBABILITIES_F32.0,
            },
            as_logits: u32::from(dtype == T::DTYPE),
            units: u32::from(units),
            reserved: 0,
        }
    }

    /// The address of the class weights, or null, and the distance between two of them.
    fn class_weights(&self) -> (*const f32, u64) {
        match &self.class_weights {
            None => (ptr::null(), 0),
            Some(weights) => (weights.address() as *const f32, weights.layout().strides()[0]),
        }
    }

    fn terms(&self) -> LossTerms {
        let (class_weights, class_weight_stride) = self.class_weights();
        LossTerms {
            class_weights,
            class_weight_stride,
            z_loss: self.z_loss,
            on_target: (1.0 - f64::from(self.label_smoothing)) as f32,
            on_each: (f64::from(self.label_smoothing) / self.rows.len as f64) as f32,
            reserved: 0,
            temperature: temperature(self.temperature),
        }
    }

    /// Logits, targets and the upstream gradient, if there is one, as operands 0 to 2.
    pub(super) fn walk_with(&self, logit_strides: &[u64], upstream: Option<(u64, &Layout)>) -> Walk {
        let (target_strides, _) = self.target_strides();
        let mut operands = vec![logit_strides, &target_strides];
        operands.extend(upstream.map(|(_, layout)| layout.strides()));
        Walk::new(self.sizes().dims(), &operands)
    }

    /// The parameter block of the forward kernel; `stride` is that of the logits along a row.
    pub(super) fn forward_params(&self, walk: &Walk, stride: u64, per_row: PerRow) -> CrossEntropyForwardParams {
        let unit_log2 = unit_log2(self.rows.len, T::DTYPE.size());
        CrossEntropyForwardParams {
            positions: walk.positions,
            logits: walk.operand(0, self.logits.address(), stride),
            targets: self.targets(walk),
            terms: self.terms(),
            probabilities: self.probabilities(walk, unit_log2),
            statistics: per_row.statistics,
            losses: per_row.losses as *mut f32,
            lse: per_row.lse as *mut f32,
            states: per_row.saved as *mut f32,
            unit_log2,
            logit_units: self.logit_units(walk, stride, unit_log2),
        }
    }

    /// Whether units of the logits (operand 0 of `walk`) may be loaded whole.
    fn logit_units(&self, walk: &Walk, stride: u64, unit_log2: u32) -> u32 {
        let bytes = (T::DTYPE.size() as u64) << unit_log2;
        u32::from(stride == 1 && walk.aligned(0, self.logits.address(), T::DTYPE.size(), bytes))
    }
}

/// Where the numbers of the rows go, by address; what [`Outputs`] say of each.
#[derive(Clone, Copy)]
pub(super) struct PerRow {
    pub(super) losses: u64,
    pub(super) lse: u64,
    pub(super) saved: u64,
    pub(super) statistics: TokenStatistics,
}

impl PerRow {
    /// The address of the one number behind the states: what every upstream gradient is multiplied by.
    pub(super) fn weight(&self, rows: u64) -> u64 {
        self.saved + STATE as u64 * rows * size_of::<f32>() as u64
    }
}

/// Losses, lse, count and saved state. There may be no rows.
pub(crate) fn cross_entropy_forward<T: Float>(call: &Call<T>, reduce: Reduce, outputs: Outputs) -> Result<()> {
    reduced(call, reduce, outputs, |per_row| {
        let (logit_strides, stride) = call.logit_strides();
        let walk = call.walk_with(&logit_strides, None);
        let (dtype, dense) = (T::DTYPE, call.dense() || !per_row.statistics.nll.is_null());
        let (id, shape) = match plan::forward(call.rows.len, call.rows.count(), call.rows.inner, dtype, dense) {
            Forward::Rows { piece, blocks } if dense => {
                (KernelId::CrossEntropyDenseForward { dtype, piece }, shape(blocks, piece.threads()))
            }
            Forward::Rows { piece, blocks } => {
                (KernelId::CrossEntropyForward { dtype, piece }, shape(blocks, piece.threads()))
            }
            Forward::Columns { blocks } => {
                (KernelId::CrossEntropyColumns { dtype, dense, backward: false }, shape(blocks, plan::COLUMN_THREADS))
            }
        };
        let params = call.forward_params(&walk, stride, per_row);
        // SAFETY: the logits and targets are borrowed views whose strides the parameters repeat, a target is compared with the
        // number of classes before it is used as an index, and the class weights, if there are any, were checked to be as
        // many; the outputs were checked to hold one element per row (`STATE` of `saved`; statistics, if there are any, one each), which is what
        // the kernel writes.
        unsafe { launch(call.device(), id, &shape, &params) }
    })
}

/// Has `each_row` fill in the numbers of the rows, of which there is at least one, and adds them up.
pub(super) fn reduced<T: Float>(
    call: &Call<T>,
    reduce: Reduce,
    mut outputs: Outputs,
    each_row: impl FnOnce(PerRow) -> Result<()>,
) -> Result<()> {
    let (op, device, rows) = (call.op, call.device(), call.rows.count());
    let saved = outputs.saved.address(op, "saved")?;
    let loss = outputs.loss.address(op, "loss")?;
    let lse = outputs.lse.address(op, "lse")?;
    let count = outputs.count.address(op, "count")?;
    // The losses of the rows are needed to add them up, even where nobody asked for them.
    let own = if reduce == Reduce::None { 0 } else { rows as usize };
    let mut own = Tensor::<f32>::unfilled(op, device, Shape::new(op, &[own])?)?;
    let losses = if reduce == Reduce::None { loss } else { own.view_mut().address(op, "losses")? };
    let statistics = match &mut outputs.statistics {
        None => NO_STATISTICS,
        Some(statistics) => statistics.addresses(op)?,
    };
    let per_row = PerRow { losses, lse, saved, statistics };
    let chunks = plan::chunks(rows);
    let mut partials = partial_sums(op, device, chunks)?;
    let partials = partials.view_mut().address(op, "partial sums")?;
    if rows > 0 {
        each_row(per_row)?;
        // SAFETY: there is a loss per row, and `partials` holds one `LossPartial` per chunk of rows.
        unsafe { collect(call, losses, partials) }?;
    }
    let loss = if reduce == Reduce::None { 0 } else { loss };
    let weight = per_row.weight(rows);
    // SAFETY: `partials` holds one `LossPartial` per chunk of rows; `loss` (unless null), `count` and the last element of
    // `saved` are one element each, as the caller checked, and the divisor is a borrowed view of one.
    unsafe { finish(op, device, reduce, Sums { partials, chunks, classes: call.rows.len, loss, count, weight }) }
}

/// Adds up losses, or if their address is null only what the targets count as, by chunks of rows.
///
/// # Safety
/// There must be one f32 per row at `losses`, unless it is null, and one `LossPartial` per chunk at `partials`.
pub(super) unsafe fn collect<T: Float>(call: &Call<T>, losses: u64, partials: u64) -> Result<()> {
    let walk = call.walk_with(&call.logit_strides().0, None);
    // A mean over rows whose targets are probabilities divides by how many there are.
    let (class_weights, class_weight_stride) =
        if call.targets.spread() { (ptr::null(), 0) } else { call.class_weights() };
    let params = LossCollectParams {
        positions: walk.positions,
        targets: call.targets(&walk),
        losses: losses as *const f32,
        class_weights,
        class_weight_stride,
        partials: partials as *mut _,
    };
    let blocks = plan::chunks(call.rows.count());
    // SAFETY: targets and class weights as in the forward launch; the caller vouches for the rest.
    unsafe { launch(call.device(), KernelId::LossCollect, &shape(blocks, plan::COLLECT_THREADS), &params) }
}

/// Gradient of the logits. `saved` is what forward left for the same call; `upstream` has one element per row, if need be
/// by strides of 0, or is 1.
pub(crate) fn cross_entropy_backward<T: Float>(
    call: &Call<T>,
    saved: View<f32>,
    upstream: Option<(u64, &Layout)>,
    mut dlogits: ViewMut<T>,
) -> Result<()> {
    let (op, rows) = (call.op, call.rows.count());
    let (logit_strides, stride) = call.logit_strides();
    let walk = call.walk_with(&logit_strides, upstream);
    let unit_log2 = unit_log2(call.rows.len, T::DTYPE.size());
    let output = dlogits.address(op, "dlogits")?;
    let plan = plan::backward(call.rows.len, rows, call.rows.inner, T::DTYPE, call.dense());
    let (dtype, dense) = (T::DTYPE, call.dense());
    let (id, pieces, shape) = match plan {
        Backward::Rows { piece, pieces, blocks } if dense => {
            (KernelId::CrossEntropyDenseBackward { dtype, piece }, pieces, shape(blocks, piece.threads()))
        }
        Backward::Rows { piece, pieces, blocks } => {
            (KernelId::CrossEntropyBackward { dtype, piece }, pieces, shape(blocks, piece.threads()))
        }
        Backward::Columns { pieces, blocks } => {
            let id = KernelId::CrossEntropyColumns { dtype, dense, backward: true };
            (id, pieces, shape(blocks, plan::COLUMN_THREADS))
        }
    };
    let (scale, scale_rest) = inverse_temperature(call.temperature);
    let params = CrossEntropyBackwardParams {
        positions: walk.positions,
        logits: walk.operand(0, call.logits.address(), stride),
        targets: call.targets(&walk),
        states: saved.address() as *const f32,
        upstream: upstream.map_or_else(absent, |(address, _)| walk.operand(2, address, 0)),
        output: output as *mut _,
        inner: call.rows.inner,
        pieces,
        unit_log2,
        logit_units: call.logit_units(&walk, stride, unit_log2),
        // Units divide the length of a row, so all rows of a contiguous output are aligned if the first is.
        output_units: u32::from(output % ((dtype.size() as u64) << unit_log2) == 0),
        reserved: 0,
        terms: call.terms(),
        probabilities: call.probabilities(&walk, unit_log2),
        scale,
        scale_rest,
    };
    // SAFETY: logits and targets as in the forward launch; `saved` was checked to hold `STATE` elements per row and one more,
    // `upstream` has the layout that the parameters repeat, and `dlogits` was checked to be contiguous and of the shape of
    // the logits.
    unsafe { launch(call.device(), id, &shape, &params) }
}
