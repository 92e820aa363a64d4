//! Masks as operations take them.

use super::View;
use crate::mask::{Align, Polarity};

/// Which entries take part in a softmax, or which keys a query of an attention sees.
///
/// Hidden entries never influence a result, whatever bits they hold: they get probability 0, log-probability -inf, and
/// gradient 0. A row with nothing visible gives 0 (lse -inf) and gradient 0.
///
/// One type serves all operations. Attention takes every kind; a softmax knows rows, but not which of its dims counts queries,
/// so it takes [`Mask::None`] and [`Mask::Visible`] and refuses the others ([`Error::Mask`](crate::Error::Mask)).
///
/// ```
/// use sumexp::mask::Align;
/// use sumexp::{Device, Mask, Tensor, hide};
/// let device = Device::cpu();
/// let lengths = Tensor::from_slice(&device, &[2], &[7, 5])?;
/// let padding = Tensor::from_slice(&device, &[3], &[0u8, 0, 1])?;
/// // A sliding window of 128 keys up to the query's own, behind the padding of each batch entry, without what `padding` hides.
/// let window = Mask::Window { left: Some(127), right: Some(0), align: Align::BottomRight };
/// let all = [window, Mask::KeyLengths(lengths.view()), hide(&padding).into()];
/// let mask = Mask::All(&all);
/// # let _ = mask;
/// # Ok::<(), sumexp::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub enum Mask<'a> {
    /// Every entry takes part.
    #[default]
    None,
    /// A query sees its own key and all before it. [`Align`] says which key is its own; there is no default for it.
    Causal(Align),
    /// A query sees the keys from `left` before to `right` behind its own, both included.
    Window {
        /// How many keys before its own; all of them if `None`.
        left: Option<u64>,
        /// How many keys behind its own; all of them if `None`. 0 for a causal window.
        right: Option<u64>,
        /// Which key is its own.
        align: Align,
    },
    /// `[B]`, or what broadcasts to it: of batch entry b, keys from number `lengths[b]` on are hidden. A length below 0 counts as 0,
    /// and one beyond the keys hides nothing.
    KeyLengths(View<'a, i32>),
    /// A query sees the keys of its own segment: those with the same number. Several documents in one sequence.
    Segments {
        /// The queries' numbers: `[B, Sq]`, or what broadcasts to it.
        q: View<'a, i32>,
        /// The keys' numbers: `[B, Sk]`, or what broadcasts to it.
        k: View<'a, i32>,
    },
    /// A tensor of bytes says which entries take part, see [`keep`] and [`hide`]. In attention it broadcasts to `[B, Hq, Sq, Sk]`.
    Visible(BoolTensor<'a>),
    /// What every one of the masks shows.
    All(&'a [Mask<'a>]),
}

impl<'a> Mask<'a> {
    /// The masks that this one is made of, none of them [`Mask::None`] or [`Mask::All`], in their order.
    pub(crate) fn parts(self) -> Vec<Mask<'a>> {
        let (mut parts, mut rest) = (Vec::new(), vec![self]);
        while let Some(mask) = rest.pop() {
            match mask {
                Mask::None => {}
                Mask::All(all) => rest.extend(all.iter().rev()),
                part => parts.push(part),
            }
        }
        parts
    }

    /// The name of the kind.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Mask::None => "None",
            Mask::Causal(_) => "Causal",
            Mask::Window { .. } => "Window",
            Mask::KeyLengths(_) => "KeyLengths",
            Mask::Segments { .. } => "Segments",
            Mask::Visible(_) => "Visible",
            Mask::All(_) => "All",
        }
    }
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
