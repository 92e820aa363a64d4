//! What cross-entropy takes and gives beside logits and targets.

use super::super::reduction::Reduction;
use crate::kernels::loss::STATE;
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
    /// the target is taken for a class, and may be a class or not. `Some(-100)` by default.
    pub ignore_index: Option<i64>,
    /// What the loss of a row is multiplied by, depending on its target: one number per class, shape `[classes]`, any strides. A mean
    /// divides by their sum over the targets that count. A row whose target weighs 0 costs nothing, whatever its logits are. 1 if
    /// not given.
    pub class_weights: Option<View<'a, f32>>,
    /// `z_loss * lse^2` is added to the loss of every row that counts, whatever its class weighs: it keeps the lse, which softmax
    /// does not determine, near 0. 0 or above, finite; 0 by default.
    pub z_loss: f32,
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
}

impl CrossEntropyInto<'_> {
    /// The same places for a shorter time.
    pub(super) fn reborrow(&mut self) -> CrossEntropyInto<'_> {
        CrossEntropyInto {
            loss: self.loss.reborrow(),
            lse: self.lse.reborrow(),
            count: self.count.reborrow(),
            saved: self.saved.reborrow(),
        }
    }
}
