//! The rules that a pattern is made of.

use std::ops::Range;

use super::{Band, Polarity, TileClass};

/// Numbers at `N` indices: the one at `i` is `data[sum(i[n] * strides[n])]`. A stride of 0 repeats a number.
#[derive(Clone, Copy, Debug)]
pub struct Entries<'a, T, const N: usize> {
    /// From the entry at index 0 on, as far as the strides reach.
    pub data: &'a [T],
    /// In entries.
    pub strides: [u64; N],
}

impl<T: Copy, const N: usize> Entries<'_, T, N> {
    /// The number at an index.
    pub fn at(&self, index: [usize; N]) -> T {
        self.data[index.iter().zip(self.strides).map(|(i, stride)| i * stride as usize).sum::<usize>()]
    }

    /// A range of an index, or one position of it where the others repeat that one.
    fn distinct(&self, n: usize, range: Range<usize>) -> Range<usize> {
        if self.strides[n] == 0 { range.start..range.end.min(range.start + 1) } else { range }
    }
}

/// A byte for each pair.
#[derive(Clone, Copy, Debug)]
pub struct Bits<'a> {
    /// By batch, head, query and key.
    pub bytes: Entries<'a, u8, 4>,
    /// What a byte other than 0 means.
    pub polarity: Polarity,
}

/// One reason to hide pairs. A pair that no rule of a pattern hides is visible.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Rule<'a> {
    /// Pairs outside the band are hidden. Its alignment goes by the pattern's number of keys, whatever other rules hide.
    Band(Band),
    /// By batch: keys from this number on are hidden. Below 0 is 0, and a length beyond the keys hides nothing.
    KeyLengths(Entries<'a, i32, 1>),
    /// A query sees the keys with its own number: several sequences in one.
    Segments {
        /// The queries' numbers, by batch and query.
        q: Entries<'a, i32, 2>,
        /// The keys' numbers, by batch and key.
        k: Entries<'a, i32, 2>,
    },
    /// Pairs are hidden one by one.
    Visible(Bits<'a>),
    /// Pairs with a query or a key from these numbers on are hidden. In front of rules whose entries end there.
    Within {
        /// The first hidden query.
        queries: usize,
        /// The first hidden key.
        keys: usize,
    },
}

impl Rule<'_> {
    /// Whether the rule leaves a pair visible, for the rules that are not arithmetic on positions.
    pub(super) fn shows(&self, b: usize, h: usize, q: usize, k: usize) -> bool {
        match self {
            Rule::Band(_) | Rule::KeyLengths(_) => true,
            Rule::Segments { q: queries, k: keys } => queries.at([b, q]) == keys.at([b, k]),
            Rule::Visible(bits) => bits.polarity.visible(bits.bytes.at([b, h, q, k])),
            Rule::Within { queries, keys } => q < *queries && k < *keys,
        }
    }

    /// The class of a tile with at least one pair, for the same rules.
    pub(super) fn class(&self, b: usize, h: usize, q: &Range<usize>, k: &Range<usize>) -> TileClass {
        match self {
            Rule::Band(_) | Rule::KeyLengths(_) => TileClass::Full,
            Rule::Segments { q: queries, k: keys } => {
                let mut ids: Vec<i32> = q.clone().map(|q| queries.at([b, q])).collect();
                ids.sort_unstable();
                ids.dedup();
                let (mut some, mut all) = (false, ids.len() == 1);
                for k in k.clone() {
                    let seen = ids.binary_search(&keys.at([b, k])).is_ok();
                    (some, all) = (some || seen, all && seen);
                }
                TileClass::of(some, all)
            }
            Rule::Visible(bits) => {
                let (mut some, mut all) = (false, true);
                for q in bits.bytes.distinct(2, q.clone()) {
                    for k in bits.bytes.distinct(3, k.clone()) {
                        let visible = bits.polarity.visible(bits.bytes.at([b, h, q, k]));
                        (some, all) = (some || visible, all && visible);
                    }
                    if some && !all {
                        break;
                    }
                }
                TileClass::of(some, all)
            }
            Rule::Within { queries, keys } => {
                let some = q.start < *queries && k.start < *keys;
                TileClass::of(some, q.end <= *queries && k.end <= *keys)
            }
        }
    }
}
