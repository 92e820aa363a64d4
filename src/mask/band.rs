//! Bands along a diagonal: causal masks and sliding windows.

use std::ops::Range;

/// Which key a query stands at when there are not as many queries as keys.
///
/// There is no default: libraries differ, and both are right for somebody. With as many queries as keys they are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Align {
    /// Query 0 stands at key 0: both begin together.
    TopLeft,
    /// The last query stands at the last key: both end together, as when the earlier queries' keys come from a cache.
    /// Of more queries than keys, the first ones stand before key 0.
    BottomRight,
}

impl Align {
    /// The key at which query 0 stands; below 0 where it stands before the keys.
    pub(crate) fn shift(self, queries: usize, keys: usize) -> i128 {
        match self {
            Self::TopLeft => 0,
            Self::BottomRight => keys as i128 - queries as i128,
        }
    }
}

/// Each query sees the keys from `left` before to `right` behind the one it stands at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Band {
    /// How many keys before its own a query sees; all of them if `None`.
    pub left: Option<u64>,
    /// How many keys behind its own a query sees; all of them if `None`.
    pub right: Option<u64>,
    /// Which key is its own.
    pub align: Align,
}

impl Band {
    /// Each query sees its own key and all before it.
    pub const fn causal(align: Align) -> Band {
        Band { left: None, right: Some(0), align }
    }

    /// The diagonals that are visible with so many queries and keys.
    pub(super) fn diagonals(&self, queries: usize, keys: usize) -> Diagonals {
        let own = self.align.shift(queries, keys);
        Diagonals {
            first: self.left.map_or(-FAR, |left| own - i128::from(left)),
            last: self.right.map_or(FAR, |right| own + i128::from(right)),
        }
    }
}

/// Farther than any two positions are from each other.
const FAR: i128 = 1 << 100;

/// The pairs with `first <= key - query <= last`. With 128 bits no sum of positions and widths overflows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Diagonals {
    first: i128,
    last: i128,
}

impl Diagonals {
    pub(super) const ALL: Diagonals = Diagonals { first: -FAR, last: FAR };

    /// The diagonals in both.
    pub(super) fn and(self, other: Diagonals) -> Diagonals {
        Diagonals { first: self.first.max(other.first), last: self.last.min(other.last) }
    }

    pub(super) fn contain(&self, query: usize, key: usize) -> bool {
        (self.first..=self.last).contains(&(key as i128 - query as i128))
    }

    /// Whether (some, all) of the pairs of two ranges with at least one position each are on the diagonals.
    pub(super) fn some_all(&self, queries: &Range<usize>, keys: &Range<usize>) -> (bool, bool) {
        // Every difference between the two occurs in the tile.
        let least = keys.start as i128 - (queries.end as i128 - 1);
        let most = keys.end as i128 - 1 - queries.start as i128;
        let some = least.max(self.first) <= most.min(self.last);
        (some, self.first <= least && most <= self.last)
    }

    /// The keys below `end` that a query of the range sees.
    pub(super) fn keys(&self, queries: &Range<usize>, end: usize) -> Range<usize> {
        if queries.is_empty() || self.first > self.last {
            return 0..0;
        }
        within(queries.start as i128 + self.first, queries.end as i128 - 1 + self.last, end)
    }

    /// The queries below `end` that see a key of the range.
    pub(super) fn queries(&self, keys: &Range<usize>, end: usize) -> Range<usize> {
        if keys.is_empty() || self.first > self.last {
            return 0..0;
        }
        within(keys.start as i128 - self.last, keys.end as i128 - 1 - self.first, end)
    }
}

/// The positions from `first` to `last` that lie in `0..end`; `0..0` if there are none.
fn within(first: i128, last: i128, end: usize) -> Range<usize> {
    let (first, behind) = (first.max(0), (last + 1).min(end as i128));
    if first < behind { first as usize..behind as usize } else { 0..0 }
}
