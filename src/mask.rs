//! What a mask means, as numbers. Views of tensors that hold masks are in [`crate::tensor`].

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
