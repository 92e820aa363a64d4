//! What is hidden, in tensors of candle.

use crate::memory::{Place, Side};
use candle_core::{Result, Tensor};
pub use sumexp::mask::Align;

/// Which entries take part in a softmax, or which keys a query of an attention sees, as [`sumexp::Mask`].
///
/// Attention takes every kind; a softmax takes [`Mask::Keep`] and [`Mask::Hide`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Mask {
    /// u8, broadcast to what is masked: entries other than 0 take part.
    Keep(Tensor),
    /// u8, broadcast to what is masked: entries other than 0 are hidden.
    Hide(Tensor),
    /// A query sees its own key and all before it.
    Causal(Align),
    /// A query sees the keys from `left` before to `right` behind its own, both included.
    Window {
        /// How many keys before its own; all of them if `None`.
        left: Option<u64>,
        /// How many keys behind its own; all of them if `None`.
        right: Option<u64>,
        /// Which key is its own.
        align: Align,
    },
    /// i32 `[B]`, or what broadcasts to it: keys from this number on are hidden.
    KeyLengths(Tensor),
    /// A query sees the keys of its own segment.
    Segments {
        /// The queries' numbers: i32 `[B, Sq]`, or what broadcasts to it.
        q: Tensor,
        /// The keys' numbers: i32 `[B, Sk]`, or what broadcasts to it.
        k: Tensor,
    },
    /// What every one of the masks shows.
    All(Vec<Mask>),
}

impl Mask {
    /// The masks that this one is made of, none of them [`Mask::All`].
    fn parts(&self) -> Vec<&Mask> {
        match self {
            Self::All(masks) => masks.iter().flat_map(Self::parts).collect(),
            part => vec![part],
        }
    }

    /// The tensors of a part, held for reading.
    fn sides(&self) -> Vec<Side<'_>> {
        match self {
            Self::Keep(bytes) | Self::Hide(bytes) => vec![Side::new("the mask", bytes)],
            Self::KeyLengths(lengths) => vec![Side::new("key lengths", lengths)],
            Self::Segments { q, k } => vec![Side::new("segments of queries", q), Side::new("segments of keys", k)],
            Self::Causal(_) | Self::Window { .. } | Self::All(_) => Vec::new(),
        }
    }
}

/// Runs a call with a mask as sumexp takes it.
pub(crate) fn with_mask<P: Place, R>(
    op: &'static str,
    place: &P,
    mask: Option<&Mask>,
    call: impl FnOnce(sumexp::Mask) -> Result<R>,
) -> Result<R> {
    let parts = mask.map(Mask::parts).unwrap_or_default();
    let sides: Vec<Vec<Side>> = parts.iter().map(|part| part.sides()).collect();
    // They are held until the call is made.
    let mut guards = Vec::new();
    let mut masks = Vec::new();
    for (part, sides) in parts.iter().zip(&sides) {
        let mut numbers = |side: usize| -> Result<sumexp::View<i32>> {
            let (view, guard) = sides[side].view::<i32, P>(op, place)?.split();
            guards.push(guard);
            Ok(view)
        };
        masks.push(match part {
            Mask::Keep(_) | Mask::Hide(_) => {
                let (bytes, guard) = sides[0].view::<u8, P>(op, place)?.split();
                guards.push(guard);
                let keeps = matches!(part, Mask::Keep(_));
                if keeps { sumexp::keep(bytes).into() } else { sumexp::hide(bytes).into() }
            }
            Mask::Causal(align) => sumexp::Mask::Causal(*align),
            Mask::Window { left, right, align } => sumexp::Mask::Window { left: *left, right: *right, align: *align },
            Mask::KeyLengths(_) => sumexp::Mask::KeyLengths(numbers(0)?),
            Mask::Segments { .. } => sumexp::Mask::Segments { q: numbers(0)?, k: numbers(1)? },
            Mask::All(_) => sumexp::Mask::None,
        });
    }
    match masks[..] {
        [] => call(sumexp::Mask::None),
        [one] => call(one),
        _ => call(sumexp::Mask::All(&masks)),
    }
}
