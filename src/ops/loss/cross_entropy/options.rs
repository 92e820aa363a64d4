//! What cross-entropy takes and gives beside logits and targets.

use super::super::reduction::Reduction;
use crate::device::Device;
use crate::error::Result;
use crate::kernels::loss::{Outputs, STATE, Statistics};
use crate::shape::Shape;
use crate::tensor::{Lse, Tensor, View, ViewMut};

/// Options of [`cross_entropy`](crate::cross_entropy).
///
/// Made with the struct update syntax, so that an option that is added later does not touch the calls that do not use it:
/// ```
/// use sumexp::{CrossEntropy, Reduction};
/// let options = CrossEntropy { reduction: Reduction::Sum, ..CrossEntropy::default() };
/// # assert_eq!(options.ignore_index, Some(-100));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropy<'a> {
    /// Rows with this target do not count: loss 0, gradient 0, and their logits are not looked at. It is compared before
    /// the target is taken for a class, and may be a class or not. `Some(-100)` by default. Targets that are probabilities all
    /// count, and a value that could be a class is refused.
    pub ignore_index: Option<i64>,
    /// What the negative logarithm of a class's probability is multiplied by: one number per class, shape `[classes]`, any strides. Where targets
    /// are classes, a mean divides by the sum of their weights over the rows that count. What weighs 0 costs nothing, whatever its
    /// logits are. 1 if not given.
    pub class_weights: Option<View<'a, f32>>,
    /// `z_loss * lse^2` is added to the loss of every row that counts, whatever its class weighs: it keeps the lse, which softmax
    /// does not determine, near 0. 0 or above, finite; 0 by default.
    pub z_loss: f32,
    /// So much of every target is taken from where it is and spread evenly over all classes: from 0 to 1, 0 by default. Every class
    /// has its own [`CrossEntropy::class_weights`] in this. A hidden class then costs infinitely much.
    pub label_smoothing: f32,
    /// Whether [`CrossEntropyOutput::statistics`] are asked for. Targets must be classes then: among probabilities there is none that a
    /// prediction could hit or rank behind ([`confidence`](crate::confidence) has the entropy, [`argmax`](crate::argmax) the prediction, and
    /// the loss itself is their nll). Not by default.
    pub statistics: bool,
    /// Logits are divided by it; finite and above 0. 1 by default.
    pub temperature: f32,
    /// What becomes of the losses; their mean by default.
    pub reduction: Reduction<'a>,
}

impl Default for CrossEntropy<'_> {
    fn default() -> Self {
        Self {
            ignore_index: Some(-100),
            class_weights: None,
            z_loss: 0.0,
            label_smoothing: 0.0,
            statistics: false,
            temperature: 1.0,
            reduction: Reduction::Mean,
        }
    }
}

/// What [`cross_entropy`](crate::cross_entropy) returns.
#[derive(Debug)]
pub struct CrossEntropyOutput {
    /// In `f32`, whatever the logits are: one number of shape `[]`, or for [`Reduction::None`] one per row in the shape of
    /// the logits without the class dim.
    pub loss: Tensor<f32>,
    /// `ln(sum(exp(x / temperature)))` of every row that counts, 0 of the others; the logits' shape without the class dim.
    pub lse: Lse,
    /// How many rows count, of shape `[]`. A mean over 0 rows is 0, and this tells it from a perfect one.
    pub count: Tensor<i64>,
    /// For [`cross_entropy_backward`](crate::cross_entropy_backward).
    pub saved: CrossEntropySaved,
    /// What is known of every row beside its loss, if [`CrossEntropy::statistics`] asks for it.
    pub statistics: Option<TokenStatistics>,
}

/// What is known of every row beside its loss, from the same look at its logits: one number per row, in the logits' shape without
/// the class dim.
///
/// A row that is ignored has nll 0 and entropy 0, so that their sums are those of the rows that count, and no argmax or rank: -1.
/// One with a bad target has NaN instead of the zeros.
#[derive(Debug)]
pub struct TokenStatistics {
    /// `-ln(p[target])`: the loss without weights, smoothing and z-loss.
    pub nll: Tensor<f32>,
    /// `-sum(p * ln(p))`, in nats, as `ln(1 + others) + sum(p * (max - x) / T)`, whose terms are never negative: within 8 units in
    /// the last place for f32 logits. 0 of a row with nothing visible; NaN of one with a NaN or +inf.
    pub entropy: Tensor<f32>,
    /// The largest logit, as [`argmax`](crate::argmax) finds it.
    pub argmax: Tensor<i64>,
    /// 1 where the target is that one, else 0.
    pub correct: Tensor<u8>,
    /// How many classes are ahead of the target: larger, or equal and before it. A NaN is larger than any number. A target is
    /// among the top k if its rank is below k.
    pub rank: Tensor<i64>,
}

impl TokenStatistics {
    /// Memory for rows of this shape.
    pub(super) fn unfilled(op: &'static str, device: &Device, sizes: Shape) -> Result<Self> {
        Ok(Self {
            nll: Tensor::unfilled(op, device, sizes)?,
            entropy: Tensor::unfilled(op, device, sizes)?,
            argmax: Tensor::unfilled(op, device, sizes)?,
            correct: Tensor::unfilled(op, device, sizes)?,
            rank: Tensor::unfilled(op, device, sizes)?,
        })
    }

    /// All of them, for [`cross_entropy_into`](crate::cross_entropy_into).
    pub fn views_mut(&mut self) -> TokenStatisticsInto<'_> {
        TokenStatisticsInto {
            nll: self.nll.view_mut(),
            entropy: self.entropy.view_mut(),
            argmax: self.argmax.view_mut(),
            correct: self.correct.view_mut(),
            rank: self.rank.view_mut(),
        }
    }
}

/// Where [`cross_entropy_into`](crate::cross_entropy_into) writes the [`TokenStatistics`], everything contiguous.
#[derive(Debug)]
pub struct TokenStatisticsInto<'a> {
    /// See [`TokenStatistics::nll`].
    pub nll: ViewMut<'a, f32>,
    /// See [`TokenStatistics::entropy`].
    pub entropy: ViewMut<'a, f32>,
    /// See [`TokenStatistics::argmax`].
    pub argmax: ViewMut<'a, i64>,
    /// See [`TokenStatistics::correct`].
    pub correct: ViewMut<'a, u8>,
    /// See [`TokenStatistics::rank`].
    pub rank: ViewMut<'a, i64>,
}

/// What the gradient needs beside the logits: four numbers per row, and one for the batch.
///
/// Two of the numbers are the row's largest logit and the sum of all other exponentials relative to it. With them the gradient at
/// a target is right at any margin, which it would not be with the lse alone: that one has rounded away what matters. The
/// other two are what the options make of the row's target and of its lse.
#[derive(Debug)]
pub struct CrossEntropySaved(pub(super) Tensor<f32>);

impl CrossEntropySaved {
    /// The number of elements for so many rows.
    pub const fn elements(rows: usize) -> usize {
        STATE * rows + 1
    }

    /// The numbers as they are: of shape `[4 * rows + 1]`.
    pub fn view(&self) -> View<'_, f32> {
        self.0.view()
    }
}

/// Where [`cross_entropy_into`](crate::cross_entropy_into) writes. Shapes are those of [`CrossEntropyOutput`], everything contiguous.
#[derive(Debug)]
pub struct CrossEntropyInto<'a> {
    /// See [`CrossEntropyOutput::loss`].
    pub loss: ViewMut<'a, f32>,
    /// See [`CrossEntropyOutput::lse`].
    pub lse: ViewMut<'a, f32>,
    /// See [`CrossEntropyOutput::count`].
    pub count: ViewMut<'a, i64>,
    /// [`CrossEntropySaved::elements`] numbers, for [`cross_entropy_backward_into`](crate::cross_entropy_backward_into).
    pub saved: ViewMut<'a, f32>,
    /// There exactly if [`CrossEntropy::statistics`] asks for them.
    pub statistics: Option<TokenStatisticsInto<'a>>,
}

impl TokenStatisticsInto<'_> {
    /// The same places for a shorter time.
    fn reborrow(&mut self) -> TokenStatisticsInto<'_> {
        TokenStatisticsInto {
            nll: self.nll.reborrow(),
            entropy: self.entropy.reborrow(),
            argmax: self.argmax.reborrow(),
            correct: self.correct.reborrow(),
            rank: self.rank.reborrow(),
        }
    }
}

impl<'a> From<CrossEntropyInto<'a>> for Outputs<'a> {
    fn from(CrossEntropyInto { loss, lse, count, saved, statistics }: CrossEntropyInto<'a>) -> Self {
        let statistics = statistics.map(|TokenStatisticsInto { nll, entropy, argmax, correct, rank }| Statistics {
            nll,
            entropy,
            argmax,
            correct,
            rank,
        });
        Self { loss, lse, count, saved, statistics }
    }
}

impl CrossEntropyInto<'_> {
    /// The same places for a shorter time.
    pub(super) fn reborrow(&mut self) -> CrossEntropyInto<'_> {
        CrossEntropyInto {
            loss: self.loss.reborrow(),
            lse: self.lse.reborrow(),
            count: self.count.reborrow(),
            saved: self.saved.reborrow(),
            statistics: self.statistics.as_mut().map(TokenStatisticsInto::reborrow),
        }
    }
}
