//! What is read off logits without a gradient: the winner and how sure it is.

mod argmax;
mod confidence;
mod random;
mod sample;
mod top_k;

pub use argmax::{argmax, argmax_into};
pub use confidence::{Confidence, ConfidenceInto, ConfidenceOptions, confidence, confidence_into};
pub use random::Random;
pub use sample::{SampleInto, SampleOptions, Samples, sample, sample_into};
pub use top_k::{TopK, TopKInto, top_k, top_k_into};

use super::common::operand;
use crate::device::Device;
use crate::dtype::{Element, Float};
use crate::error::{Error, Result};
use crate::kernels::inference::Input;
use crate::reference;
use crate::shape::{Dim, Rows, Shape};
use crate::tensor::{View, ViewMut};

/// Logits whose dim was checked.
struct Checked<'a, T> {
    op: &'static str,
    x: View<'a, T>,
    rows: Rows,
    /// The shape of what there is one of per row.
    sizes: Shape,
}

impl<'a, T: Float> Checked<'a, T> {
    fn new(op: &'static str, x: View<'a, T>, dim: Dim) -> Result<Self> {
        let rows = x.shape().rows(op, dim)?;
        Ok(Self { op, x, rows, sizes: x.shape().without(rows.position) })
    }

    /// For an operation that needs an element of every row.
    fn not_empty(self) -> Result<Self> {
        if self.rows.len == 0 && self.rows.count() > 0 {
            return Err(Error::NoClasses { op: self.op, shape: self.x.dims().to_vec(), dim: self.rows.position });
        }
        Ok(self)
    }

    /// Refuses an output that cannot be filled with as many elements as `like` has.
    fn check_output<E: Element>(
        &self,
        name: &'static str,
        output: &ViewMut<E>,
        like: (&'static str, &Shape),
    ) -> Result<()> {
        output.check_output(self.op, name, like, &[("x", self.x.addresses())])?;
        Device::same(self.op, ("x", self.x.device()), &[(name, output.device())])
    }

    /// What the launches take.
    fn input(&self) -> Input<'_, T> {
        Input { op: self.op, x: self.x, rows: self.rows }
    }

    /// The logits on the host as the reference takes them; none if they are on a GPU.
    fn on_host(&self) -> Option<(reference::Rows<'_>, reference::Operand<'_, T>)> {
        Some((reference::Rows { shape: self.x.dims(), dim: self.rows.position }, operand(&self.x)?))
    }

    /// Strides over the shape of the logits of an output that has one element per row.
    fn per_row(&self, strides: &[u64]) -> Vec<u64> {
        let mut strides = strides.to_vec();
        strides.insert(self.rows.position, 0);
        strides
    }
}
