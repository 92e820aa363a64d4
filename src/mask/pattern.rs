//! Which pairs of a query and a key see each other, one by one and in tiles.

use std::ops::Range;

use super::Rule;
use super::band::Diagonals;

/// What a tile of pairs holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TileClass {
    /// No visible pair: the tile may be skipped. Also a tile without pairs.
    Hidden,
    /// Visible pairs only: the tile needs no mask.
    Full,
    /// Both.
    Mixed,
}

impl TileClass {
    /// The class of a tile of which some pairs, and all pairs, are visible or not.
    pub(super) fn of(some: bool, all: bool) -> TileClass {
        match (some, all) {
            (false, _) => TileClass::Hidden,
            (true, true) => TileClass::Full,
            (true, false) => TileClass::Mixed,
        }
    }
}

/// How many tiles of each class a pattern has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tiles {
    /// Tiles to skip.
    pub hidden: u64,
    /// Tiles to compute without a mask.
    pub full: u64,
    /// Tiles to compute with a mask.
    pub mixed: u64,
}

/// The pairs of a query and a key that see each other: all of `queries` x `keys` that no rule hides.
///
/// The rules' entries reach as far as the batches, heads and positions that are asked for; functions panic where they do not.
#[derive(Clone, Copy, Debug)]
pub struct Pattern<'a> {
    /// Number of queries.
    pub queries: usize,
    /// Number of keys.
    pub keys: usize,
    /// Each hides some pairs.
    pub rules: &'a [Rule<'a>],
}

impl Pattern<'_> {
    /// Whether a query of this batch and head sees a key. Positions beyond the lengths are hidden.
    pub fn visible(&self, b: usize, h: usize, q: usize, k: usize) -> bool {
        q < self.queries
            && k < self.key_end(b)
            && self.diagonals().contain(q, k)
            && self.rules.iter().all(|rule| rule.shows(b, h, q, k))
    }

    /// The class of the tile `q` x `k`, exactly: hidden if and only if every pair of it is, full if and only if none is.
    ///
    /// Takes constant time for bands and key lengths, and reads the segments and bytes of the tile for the others. A tile
    /// that reaches beyond the keys is not full, because its loop has to look where they end; the same goes for queries,
    /// so a loop that does not write such rows asks with `q` clipped.
    pub fn class(&self, b: usize, h: usize, q: Range<usize>, k: Range<usize>) -> TileClass {
        let beyond = q.end > self.queries || k.end > self.keys;
        let (q, k) = (q.start..q.end.min(self.queries), k.start..k.end.min(self.keys));
        let seen = k.start..k.end.min(self.key_end(b));
        if q.is_empty() || seen.is_empty() {
            return TileClass::Hidden;
        }
        let (some, all) = self.diagonals().some_all(&q, &seen);
        if !some {
            return TileClass::Hidden;
        }
        let mut mixed = usize::from(!all || seen != k);
        for rule in self.rules {
            match rule.class(b, h, &q, &seen) {
                TileClass::Hidden => return TileClass::Hidden,
                TileClass::Full => {}
                TileClass::Mixed => mixed += 1,
            }
        }
        // Several rules may leave some pairs each and none together.
        let some = || q.clone().any(|q| seen.clone().any(|k| self.visible(b, h, q, k)));
        match mixed {
            0 if !beyond => TileClass::Full,
            0 | 1 => TileClass::Mixed,
            _ => TileClass::of(some(), false),
        }
    }

    /// A range that holds every key that a query of `q` sees; `0..0` if there is none.
    ///
    /// The smallest one for bands and key lengths, in constant time; segments and bytes are not looked at.
    pub fn key_range(&self, b: usize, q: Range<usize>) -> Range<usize> {
        self.diagonals().keys(&(q.start..q.end.min(self.queries)), self.key_end(b))
    }

    /// A range that holds every query that sees a key of `k`; `0..0` if there is none. As tight as [`Pattern::key_range`].
    pub fn query_range(&self, b: usize, k: Range<usize>) -> Range<usize> {
        self.diagonals().queries(&(k.start..k.end.min(self.key_end(b))), self.queries)
    }

    /// The classes of all tiles of this size, those at the end clipped to the queries.
    ///
    /// # Panics
    ///
    /// If a side of the tile is 0.
    pub fn tiles(&self, b: usize, h: usize, queries: usize, keys: usize) -> Tiles {
        let mut tiles = Tiles::default();
        for first in (0..self.queries).step_by(queries) {
            let q = first..self.queries.min(first.saturating_add(queries));
            let inside = self.key_range(b, q.clone());
            let looked_at = inside.start / keys..inside.end.div_ceil(keys);
            tiles.hidden += (self.keys.div_ceil(keys) - looked_at.len()) as u64;
            for tile in looked_at {
                match self.class(b, h, q.clone(), tile * keys..(tile * keys).saturating_add(keys)) {
                    TileClass::Hidden => tiles.hidden += 1,
                    TileClass::Full => tiles.full += 1,
                    TileClass::Mixed => tiles.mixed += 1,
                }
            }
        }
        tiles
    }

    /// What all bands leave.
    fn diagonals(&self) -> Diagonals {
        self.rules.iter().fold(Diagonals::ALL, |diagonals, rule| match rule {
            Rule::Band(band) => diagonals.and(band.diagonals(self.queries, self.keys)),
            _ => diagonals,
        })
    }

    /// The end of the keys that all lengths leave.
    fn key_end(&self, b: usize) -> usize {
        self.rules.iter().fold(self.keys, |end, rule| match rule {
            Rule::KeyLengths(lengths) => end.min(usize::try_from(lengths.at([b])).unwrap_or(0)),
            _ => end,
        })
    }
}
