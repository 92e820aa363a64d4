//! Masks as operations take them.

use super::View;
use crate::mask::Polarity;

/// Which entries take part in a softmax or an attention.
///
/// Hidden entries never influence a result, whatever bits they hold: they get probability 0, log-probability -inf, and
/// gradient 0.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub enum Mask<'a> {
    /// Every entry takes part.
    #[default]
    None,
    /// A tensor of bytes says which entries take part, see [`keep`] and [`hide`].
    Visible(BoolTensor<'a>),
}

impl<'a> From<BoolTensor<'a>> for Mask<'a> {
    fn from(bools: BoolTensor<'a>) -> Self {
        Self::Visible(bools)
    }
}

/// A tensor of truth values, one byte each, together with what true means. Made by [`keep`] and [`hide`].
///
/// Any byte but 0 is true. The tensor may have any strides, and is broadcast to the tensor that it masks.
#[derive(Clone, Copy, Debug)]
pub struct BoolTensor<'a> {
    bytes: View<'a, u8>,
    polarity: Polarity,
}

impl<'a> BoolTensor<'a> {
    /// The bytes.
    pub fn bytes(&self) -> View<'a, u8> {
        self.bytes
    }

    /// What a true byte means.
    pub fn polarity(&self) -> Polarity {
        self.polarity
    }
}

/// A mask whose true entries take part and whose false entries are hidden.
///
/// ```
/// use sumexp::{Device, Mask, Polarity, Tensor, keep};
/// let bytes = Tensor::from_slice(&Device::cpu(), &[3], &[1u8, 1, 0])?;
/// let mask = Mask::Visible(keep(&bytes));
/// # assert_eq!(keep(&bytes).polarity(), Polarity::Keep);
/// # let _ = mask;
/// # Ok::<(), sumexp::Error>(())
/// ```
pub fn keep<'a>(bytes: impl Into<View<'a, u8>>) -> BoolTensor<'a> {
    BoolTensor { bytes: bytes.into(), polarity: Polarity::Keep }
}

/// A mask whose true entries are hidden and whose false entries take part.
///
/// ```
/// use sumexp::{Device, Polarity, Tensor, hide};
/// let padding = Tensor::from_slice(&Device::cpu(), &[3], &[0u8, 0, 1])?;
/// assert_eq!(hide(&padding).polarity(), Polarity::Hide);
/// # Ok::<(), sumexp::Error>(())
/// ```
pub fn hide<'a>(bytes: impl Into<View<'a, u8>>) -> BoolTensor<'a> {
    BoolTensor { bytes: bytes.into(), polarity: Polarity::Hide }
}
