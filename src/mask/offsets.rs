//! Where the sequences of a packed batch begin and end.

use std::ops::Range;

/// Sequences one after another without padding: number `b` has the tokens from `offsets[b]` to `offsets[b + 1]`.
///
/// ```
/// use sumexp::mask::{BadOffsets, Offsets};
///
/// let offsets = Offsets::new(&[0, 3, 3, 7], 7).unwrap();
/// assert_eq!((offsets.sequences(), offsets.longest()), (3, 4));
/// assert!(offsets.range(1).is_empty());
/// assert_eq!(Offsets::new(&[0, 3, 2], 2), Err(BadOffsets::Decrease { sequence: 1, start: 3, end: 2 }));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets<'a> {
    offsets: &'a [i32],
}

/// Why offsets do not describe a packed batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadOffsets {
    /// There is not even the offset of the first sequence.
    #[error("no offsets: a batch of n sequences has n + 1")]
    Missing,
    /// The first sequence does not begin at the first token.
    #[error("the first offset is {value}, not 0")]
    First {
        /// The first offset.
        value: i32,
    },
    /// A sequence ends before it begins.
    #[error("sequence {sequence} ends at {end}, before its begin at {start}")]
    Decrease {
        /// The number of the sequence.
        sequence: usize,
        /// Its offset.
        start: i32,
        /// The offset of the next one.
        end: i32,
    },
    /// The last sequence does not end with the last token.
    #[error("the last offset is {value}, but there are {tokens} tokens")]
    Last {
        /// The last offset.
        value: i32,
        /// How many tokens there are.
        tokens: usize,
    },
}

impl<'a> Offsets<'a> {
    /// Checks that the offsets begin at 0, never decrease, and end at `tokens`.
    pub fn new(offsets: &'a [i32], tokens: usize) -> Result<Offsets<'a>, BadOffsets> {
        let (Some(first), Some(last)) = (offsets.first(), offsets.last()) else { return Err(BadOffsets::Missing) };
        if *first != 0 {
            return Err(BadOffsets::First { value: *first });
        }
        if let Some(sequence) = offsets.windows(2).position(|pair| pair[1] < pair[0]) {
            return Err(BadOffsets::Decrease { sequence, start: offsets[sequence], end: offsets[sequence + 1] });
        }
        if usize::try_from(*last) != Ok(tokens) {
            return Err(BadOffsets::Last { value: *last, tokens });
        }
        Ok(Offsets { offsets })
    }

    /// The number of sequences.
    pub fn sequences(&self) -> usize {
        self.offsets.len() - 1
    }

    /// The tokens of a sequence.
    ///
    /// # Panics
    ///
    /// If there is no such sequence.
    pub fn range(&self, sequence: usize) -> Range<usize> {
        // No offset is below 0: the first is 0, and they never decrease.
        self.offsets[sequence] as usize..self.offsets[sequence + 1] as usize
    }

    /// The number of tokens of the longest sequence; 0 without sequences.
    pub fn longest(&self) -> usize {
        (0..self.sequences()).map(|sequence| self.range(sequence).len()).max().unwrap_or(0)
    }

    /// The number of tokens.
    pub fn tokens(&self) -> usize {
        self.offsets[self.sequences()] as usize
    }
}
