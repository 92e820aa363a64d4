//! Outputs that a call allocates.

use super::checked::Checked;
use super::options::{CrossEntropyInto, CrossEntropyOutput, CrossEntropySaved};
use crate::dtype::Float;
use crate::error::Result;
use crate::tensor::{Lse, Tensor};

/// The tensors of a [`CrossEntropyOutput`] before they are filled.
pub(super) struct Owned {
    loss: Tensor<f32>,
    lse: Tensor<f32>,
    count: Tensor<i64>,
    saved: Tensor<f32>,
}

impl Owned {
    pub(super) fn new<T: Float>(checked: &Checked<T>) -> Result<Self> {
        let (op, device) = (checked.op, checked.logits.device());
        Ok(Self {
            loss: Tensor::unfilled(op, device, checked.loss_shape()?)?,
            lse: Tensor::unfilled(op, device, checked.sizes)?,
            count: Tensor::unfilled(op, device, checked.one_number()?)?,
            saved: Tensor::unfilled(op, device, checked.saved_shape()?)?,
        })
    }

    pub(super) fn views(&mut self) -> CrossEntropyInto<'_> {
        CrossEntropyInto {
            loss: self.loss.view_mut(),
            lse: self.lse.view_mut(),
            count: self.count.view_mut(),
            saved: self.saved.view_mut(),
        }
    }

    /// Once they are filled.
    pub(super) fn finish(self) -> CrossEntropyOutput {
        let Self { loss, lse, count, saved } = self;
        CrossEntropyOutput { loss, lse: Lse::from_tensor(lse), count, saved: CrossEntropySaved(saved) }
    }
}
