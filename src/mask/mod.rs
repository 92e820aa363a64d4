//! What a mask means, as numbers: no tensors, no device. [`Mask`](crate::Mask) holds a mask as views of tensors.
//!
//! A [`Pattern`] says which pairs of a query and a key see each other: all pairs, less those that one of its [`Rule`]s
//! hides. [`Pattern::visible`] is the definition; [`Pattern::class`], [`Pattern::key_range`] and [`Pattern::query_range`]
//! answer for whole tiles and are what lets a kernel skip.
//!
//! ```
//! use sumexp::mask::{Align, Band, Pattern, Rule, TileClass};
//!
//! let rules = [Rule::Band(Band::causal(Align::BottomRight))];
//! let pattern = Pattern { queries: 4, keys: 6, rules: &rules };
//! // Query 0 is the third from the beginning of the keys: it sees keys 0, 1 and 2.
//! assert_eq!(pattern.key_range(0, 0..1), 0..3);
//! assert!(pattern.visible(0, 0, 0, 2) && !pattern.visible(0, 0, 0, 3));
//! assert_eq!(pattern.class(0, 0, 0..2, 0..3), TileClass::Full);
//! assert_eq!(pattern.class(0, 0, 0..2, 4..6), TileClass::Hidden);
//! assert_eq!(pattern.class(0, 0, 0..2, 2..4), TileClass::Mixed);
//! ```

mod band;
mod offsets;
mod pattern;
mod rule;

pub use band::{Align, Band};
pub use offsets::{BadOffsets, Offsets};
pub use pattern::{Pattern, TileClass, Tiles};
pub use rule::{Bits, Entries, Rule};

/// What a true byte of a boolean mask says about its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Polarity {
    /// True entries take part, false entries are hidden.
    Keep,
    /// True entries are hidden, false entries take part.
    Hide,
}

impl Polarity {
    /// Whether the entry with this byte takes part. Any byte but 0 is true.
    pub const fn visible(self, byte: u8) -> bool {
        match self {
            Self::Keep => byte != 0,
            Self::Hide => byte == 0,
        }
    }
}
