//! What becomes of the losses of a batch.

use super::super::check;
use super::write;
use crate::device::Device;
use crate::error::Result;
use crate::kernels::loss::Reduce;
use crate::reference::Sum;
use crate::shape::Shape;
use crate::tensor::{View, ViewMut};
use std::ops::Range;

/// What becomes of the losses of a batch.
///
/// A batch that is cut into parts, whose gradients are added up, must divide every part by what all parts count together:
/// ```
/// use sumexp::{CrossEntropy, Device, Dim, Reduction, Tensor, cross_entropy};
/// let device = Device::cpu();
/// let logits = Tensor::<f32>::zeros(&device, &[4, 2])?;
/// let targets = Tensor::from_slice(&device, &[4], &[0i64, 1, -100, 1])?;
/// let counted = Tensor::from_slice(&device, &[], &[3.0f32])?;
/// let options = CrossEntropy { reduction: Reduction::MeanOver(counted.view()), ..CrossEntropy::default() };
/// let mut mean = 0.0;
/// for part in [0..2, 2..4] {
///     let x = logits.view().slice(Dim::front(0), part.clone())?;
///     let loss = cross_entropy(x, Dim::LAST, targets.view().slice(Dim::LAST, part)?, &options)?.loss;
///     mean += loss.to_vec()?[0];
/// }
/// assert!((mean - 2f32.ln()).abs() < 1e-6);
/// # Ok::<(), sumexp::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub enum Reduction<'a> {
    /// They stay apart: one per row, or per element.
    None,
    /// Their sum.
    Sum,
    /// Their sum, divided by how many count (each operation says what that is); 0 if that is 0.
    #[default]
    Mean,
    /// Their sum, divided by this number, of shape `[]`, which is read when the kernels run. Of 0 the result is 0, and so are
    /// all gradients.
    MeanOver(View<'a, f32>),
}

/// Name of the number that [`Reduction::MeanOver`] divides by.
const DIVISOR: &str = "the divisor";

impl<'a> Reduction<'a> {
    /// Refuses a divisor that is not one number on the device of the logits.
    pub(super) fn check(&self, op: &'static str, logits: (&'static str, &Device)) -> Result<()> {
        let Self::MeanOver(divisor) = self else { return Ok(()) };
        check::same_shape(op, (DIVISOR, divisor.shape()), ("one number", &Shape::new(op, &[])?))?;
        Device::same(op, logits, &[(DIVISOR, divisor.device())])
    }

    /// The shape of the result, if losses that stay apart have this one.
    pub(super) fn loss_shape(&self, op: &'static str, apart: &Shape) -> Result<Shape> {
        if matches!(self, Self::None) { Ok(*apart) } else { Shape::new(op, &[]) }
    }

    /// The divisor as one of the inputs of a call.
    pub(super) fn input(&self) -> Option<(&'static str, Range<u64>)> {
        if let Self::MeanOver(divisor) = self { Some((DIVISOR, divisor.addresses())) } else { None }
    }

    /// What losses that are on the host are divided by, if `counted` is what a mean divides by.
    fn divisor_on_host(&self, counted: f64) -> f64 {
        match self {
            Self::None | Self::Sum => 1.0,
            Self::Mean => counted,
            Self::MeanOver(divisor) => f64::from(divisor.on_host().expect("the divisor is where the logits are")[0]),
        }
    }

    /// What every upstream gradient is multiplied by, on the host.
    pub(super) fn scale_on_host(&self, counted: f64) -> f64 {
        let divisor = self.divisor_on_host(counted);
        if divisor == 0.0 { 0.0 } else { 1.0 / divisor }
    }

    /// Writes the losses, or what they are reduced to, on the host.
    pub(super) fn write_on_host(
        &self,
        op: &'static str,
        loss: &mut ViewMut<f32>,
        losses: &[f64],
        counted: f64,
    ) -> Result<()> {
        if matches!(self, Self::None) {
            return write(op, "loss", loss, losses.iter().map(|loss| *loss as f32));
        }
        let divisor = self.divisor_on_host(counted);
        let total = Sum::of(losses.iter().copied()).value();
        write(op, "loss", loss, [if divisor == 0.0 { 0.0 } else { (total / divisor) as f32 }])
    }
}

impl From<Reduction<'_>> for Reduce {
    fn from(reduction: Reduction) -> Self {
        match reduction {
            Reduction::None => Self::None,
            Reduction::Sum => Self::Sum,
            Reduction::Mean => Self::Mean,
            Reduction::MeanOver(divisor) => Self::MeanOver(divisor.address()),
        }
    }
}
