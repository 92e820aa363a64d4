//! softmax, log-softmax, logsumexp and softmin: what their forward and backward operations check and share.
//!
//! One rule for what takes part: a mask hides, and so does a logit of -inf (of +inf for softmin). Hidden entries get 0 (log:
//! -inf) and gradient 0, whatever bits they hold. A row with nothing visible is 0 (log and lse: -inf) with gradient 0.

mod backward;
mod forward;

pub use backward::{
    log_softmax_backward, log_softmax_backward_into, logsumexp_backward, logsumexp_backward_into, softmax_backward,
    softmax_backward_into, softmin_backward, softmin_backward_into,
};
pub use forward::{
    log_softmax, log_softmax_into, logsumexp, logsumexp_into, softmax, softmax_into, softmin, softmin_into,
};

use super::check;
use super::common::{operand, repeated};
use crate::device::Device;
use crate::dtype::Float;
use crate::error::{Error, Result};
use crate::kernels::softmax::{Logits, VisibleBytes};
use crate::reference::{self, softmax as cpu};
use crate::shape::{Dim, Shape};
use crate::tensor::{Mask, View};
use std::ops::Range;

/// Options of the softmax family. A backward operation takes those of its forward operation.
///
/// ```
/// use sumexp::SoftmaxOptions;
/// let sharper = SoftmaxOptions { temperature: 0.5, ..SoftmaxOptions::default() };
/// assert_eq!(SoftmaxOptions::default().temperature, 1.0);
/// # let _ = sharper;
/// ```
#[derive(Clone, Copy, Debug)]
pub struct SoftmaxOptions<'a> {
    /// Logits are divided by it: below 1 sharpens, above 1 flattens. Finite and above 0; 1 if not said otherwise.
    pub temperature: f32,
    /// Which logits take part; all if not said otherwise. [`Mask::Visible`] broadcasts to the shape of the logits; the other masks
    /// are about queries and keys, which a softmax does not know: [`Error::Mask`].
    pub mask: Mask<'a>,
}

impl Default for SoftmaxOptions<'_> {
    fn default() -> Self {
        Self { temperature: 1.0, mask: Mask::None }
    }
}

/// The checked logits of a forward operation or of the gradient of logsumexp.
fn check_logits<'a, T: Float>(
    op: &'static str,
    x: View<'a, T>,
    dim: Dim,
    options: &SoftmaxOptions<'a>,
    negate: bool,
) -> Result<Logits<'a, T>> {
    let rows = x.shape().rows(op, dim)?;
    check::temperature(op, options.temperature)?;
    let mask = check_mask(op, ("x", x.device(), x.shape()), options)?;
    Ok(Logits { x, mask, negate, rows, temperature: options.temperature })
}

/// The mask of the options, broadcast to the operand it is used with.
fn check_mask<'a>(
    op: &'static str,
    (name, device, shape): (&'static str, &Device, &Shape),
    options: &SoftmaxOptions<'a>,
) -> Result<Option<VisibleBytes<'a>>> {
    let refused = |mask: &Mask, reason| Err(Error::Mask { op, mask: mask.kind(), reason });
    match options.mask.parts()[..] {
        [] => Ok(None),
        [Mask::Visible(bools)] => {
            let bytes = bools.bytes();
            let layout = bytes.layout().broadcast(op, "the mask", shape)?;
            Device::same(op, (name, device), &[("the mask", bytes.device())])?;
            Ok(Some(VisibleBytes { bytes, layout, polarity: bools.polarity() }))
        }
        [mask] => refused(&mask, "a row here is no query of an attention; use Mask::Visible"),
        [_, ..] => refused(&options.mask, "a row here takes one Mask::Visible; combine the bytes"),
    }
}

/// What an output must not overlap.
fn inputs<'a, T: Float>(logits: &Logits<'a, T>) -> Vec<(&'static str, Range<u64>)> {
    let mask = logits.mask.as_ref().map(|mask| ("the mask", mask.bytes.addresses()));
    [("x", logits.x.addresses())].into_iter().chain(mask).collect()
}

/// Checked logits on the host as the reference takes them.
fn host_logits<'a, T: Float>(logits: &'a Logits<'_, T>) -> Option<cpu::Logits<'a, T>> {
    let visible = match &logits.mask {
        None => None,
        Some(mask) => {
            let bits = repeated(&mask.bytes, &mask.layout)?;
            Some(reference::Visible { bits, polarity: mask.polarity })
        }
    };
    let tau = f64::from(logits.temperature);
    Some(cpu::Logits { x: operand(&logits.x)?, visible, negate: logits.negate, tau })
}
