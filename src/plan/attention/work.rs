//! What kernels do of all pairs of a query and a key: which tiles they compute, mask and skip, by the rules that they go by.
//!
//! Nothing here decides anything. It is for people who want to know beforehand what a mask saves; tests hold the numbers against what the
//! kernels did.

use crate::mask::{Band, Entries, Polarity};
use std::ops::{AddAssign, Mul, Range};

/// Queries and keys of a cell: what kernels know of the bytes of a mask before they look at single pairs.
pub const CELL: [u64; 2] = [32, 16];

/// Tiles of queries and keys, by what is done with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TileCounts {
    /// Computed without a look at the mask.
    pub whole: u64,
    /// Computed, and hidden pairs taken out.
    pub masked: u64,
    /// Neither read nor computed.
    pub skipped: u64,
}

impl TileCounts {
    /// Tiles that are computed.
    pub fn computed(&self) -> u64 {
        self.whole + self.masked
    }
}

/// What one kernel does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Its tiles.
    pub tiles: TileCounts,
    /// Pairs that are computed: those of all warps that have a row, hidden pairs of their tiles and padding included.
    pub pairs: u64,
    /// Rows that blocks own and read.
    pub rows: u64,
    /// Rows of the other side that are read, again for every block that meets them.
    pub columns: u64,
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.tiles.whole += other.tiles.whole;
        self.tiles.masked += other.tiles.masked;
        self.tiles.skipped += other.tiles.skipped;
        self.pairs += other.pairs;
        self.rows += other.rows;
        self.columns += other.columns;
    }
}

impl Mul<u64> for Work {
    type Output = Self;

    fn mul(self, times: u64) -> Self {
        let TileCounts { whole, masked, skipped } = self.tiles;
        Self {
            tiles: TileCounts { whole: whole * times, masked: masked * times, skipped: skipped * times },
            pairs: self.pairs * times,
            rows: self.rows * times,
            columns: self.columns * times,
        }
    }
}

/// The tiles of a kernel: rows that a block owns, of which a warp has some, and columns that it meets at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Rows of a block.
    pub rows: u64,
    /// Rows of a warp.
    pub warp_rows: u64,
    /// Columns of a tile.
    pub columns: u64,
}

/// A byte for every query and key of a head.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a> {
    /// By query and key.
    pub entries: Entries<'a, u8, 2>,
    /// What a byte other than 0 means.
    pub polarity: Polarity,
    /// Queries and keys that have one; others are hidden.
    pub dims: [u64; 2],
}

/// The segments of positions.
#[derive(Clone, Copy, Debug)]
pub struct Segments<'a> {
    /// By position.
    pub entries: Entries<'a, i32, 1>,
    /// Positions that have one; others are hidden.
    pub positions: u64,
}

impl Segments<'_> {
    /// The smallest and the largest segment of the cells that hold these positions.
    fn span(&self, positions: Range<i64>) -> (i32, i32) {
        let end = positions.end.min(self.positions as i64) as u64;
        let end = end.next_multiple_of(CELL[1]).min(self.positions) as usize;
        let all = (positions.start as usize..end).map(|position| self.entries.at([position]));
        all.fold((i32::MAX, i32::MIN), |(low, high), segment| (low.min(segment), high.max(segment)))
    }

    fn at(&self, position: i64) -> Option<i32> {
        (position < self.positions as i64).then(|| self.entries.at([position as usize]))
    }
}

/// The queries and keys of a sequence and head, and what the mask hides of them.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    /// Queries of the sequence.
    queries: i64,
    /// Keys of the sequence.
    keys: i64,
    /// Query i sees keys `i + first` to `i + last` by the bands.
    first: i64,
    last: i64,
    /// What is in front of these keys and behind them is hidden from all.
    seen: (i64, i64),
    bytes: Option<Bytes<'a>>,
    segments: Option<[Segments<'a>; 2]>,
}

/// The columns from `begin` to `end` of which some row of a block sees one, and those that all of its rows see.
struct Columns {
    begin: i64,
    end: i64,
    whole: Range<i64>,
}

impl<'a> Sight<'a> {
    /// Far from every position; limits are cut off there.
    const FAR: i128 = 1 << 30;

    /// So many queries and keys, of which bands show some. Keys outside of `keys_seen` are hidden.
    pub fn new(queries: u64, keys: u64, bands: &[Band], keys_seen: Range<u64>) -> Self {
        let shift = |band: &Band| band.align.shift(queries as usize, keys as usize);
        let first = bands.iter().filter_map(|band| Some(shift(band) - i128::from(band.left?))).max();
        let last = bands.iter().filter_map(|band| Some(shift(band) + i128::from(band.right?))).min();
        let far = Self::FAR;
        let first = first.map_or(-far, |first| first.clamp(-far, far)) as i64;
        let last = last.map_or(far - 1, |last| last.clamp(-far - 1, far - 1)) as i64;
        // Bands may leave nothing between them.
        let end = if first <= last { keys_seen.end.min(keys) } else { keys_seen.start };
        Self {
            queries: queries as i64,
            keys: keys as i64,
            first,
            last,
            seen: (keys_seen.start as i64, end as i64),
            bytes: None,
            segments: None,
        }
    }

    /// With what bytes and segments, of the queries and of the keys, hide beyond that.
    pub fn with(self, bytes: Option<Bytes<'a>>, segments: Option<[Segments<'a>; 2]>) -> Self {
        Self { bytes, segments, ..self }
    }

    /// The keys of a query, by bands and lengths.
    fn keys_of(&self, query: i64) -> Range<i64> {
        (query + self.first).max(self.seen.0)..(query + self.last + 1).min(self.seen.1)
    }

    /// The queries of a key, by bands.
    fn queries_of(&self, key: i64) -> Range<i64> {
        (key - self.last).clamp(0, self.queries)..(key - self.first + 1).clamp(0, self.queries)
    }

    /// The end of the keys that lengths leave.
    pub fn key_end(&self) -> u64 {
        self.seen.1 as u64
    }

    /// How many pairs there are.
    pub fn pairs(&self) -> u64 {
        (self.queries * self.keys) as u64
    }

    /// How many pairs are visible.
    pub fn visible(&self) -> u64 {
        let bands_only = self.bytes.is_none() && self.segments.is_none();
        let of_query = |query: i64| match self.keys_of(query) {
            keys if keys.is_empty() => 0,
            keys if bands_only => (keys.end - keys.start) as u64,
            keys => keys.filter(|key| self.shows(query, *key)).count() as u64,
        };
        (0..self.queries).map(of_query).sum()
    }

    /// Whether bytes and segments show a pair.
    fn shows(&self, query: i64, key: i64) -> bool {
        self.bytes.is_none_or(|Bytes { entries, polarity, dims }| {
            let there = query < dims[0] as i64 && key < dims[1] as i64;
            there && polarity.visible(entries.at([query as usize, key as usize]))
        }) && self.segments.is_none_or(|[of_q, of_k]| of_q.at(query).is_some_and(|own| of_k.at(key) == Some(own)))
    }

    /// Whether kernels take some, and all, of the pairs of a tile for visible by its bytes and segments.
    fn shown(&self, query: i64, key: i64, [queries, keys]: [u64; 2]) -> (bool, bool) {
        let (query_end, key_end) = ((query + queries as i64).min(self.queries), (key + keys as i64).min(self.keys));
        let (mut some, mut all) = (true, true);
        if let Some(Bytes { entries, polarity, dims }) = self.bytes {
            // Whole cells of what has bytes.
            let rows = query_end.min(dims[0] as i64) as u64;
            let rows = query as u64..rows.next_multiple_of(CELL[0]).min(dims[0]);
            let columns = key as u64..(key as u64 + keys).min(dims[1]);
            (some, all) = (false, query_end <= dims[0] as i64 && key_end <= dims[1] as i64);
            for (row, column) in rows.flat_map(|row| columns.clone().map(move |column| (row, column))) {
                let visible = polarity.visible(entries.at([row as usize, column as usize]));
                (some, all) = (some || visible, all && visible);
                if some && !all {
                    break;
                }
            }
        }
        if let Some([of_q, of_k]) = &self.segments {
            let (q, k) = (of_q.span(query..query_end), of_k.span(key..key_end));
            some &= q.0 <= k.1 && k.0 <= q.1;
            all &= q.0 == q.1 && k.0 == k.1 && q.0 == k.0;
            all &= query_end <= of_q.positions as i64 && key_end <= of_k.positions as i64;
        }
        (some, all)
    }

    /// What a kernel does whose blocks own queries and meet the keys among `keys`, a range that starts with a tile.
    pub fn by_queries(&self, footprint: Footprint, keys: Range<u64>) -> Work {
        let mut work = Work::default();
        for first in (0..self.queries).step_by(footprint.rows as usize) {
            work += self.of_queries(footprint, first, &keys);
        }
        work
    }

    /// What the kernel does whose blocks own tiles of pairs, those with a query and a key in front of `ends`, `alone` or all of a dim of
    /// keys together: alone they read their queries again.
    pub fn by_pairs(&self, footprint: Footprint, ends: [u64; 2], alone: bool) -> Work {
        let keys = 0..ends[1].next_multiple_of(footprint.columns);
        let mut work = Work::default();
        for first in (0..self.queries.min(ends[0] as i64)).step_by(footprint.rows as usize) {
            let mut of_block = self.of_queries(footprint, first, &keys);
            of_block.rows *= if alone { of_block.tiles.computed() } else { 1 };
            work += of_block;
        }
        work
    }

    /// What the block does that owns the queries from `first` on.
    fn of_queries(&self, footprint: Footprint, first: i64, keys: &Range<u64>) -> Work {
        let keys = keys.start as i64..keys.end.min(self.keys as u64) as i64;
        let rows = (self.queries - first).min(footprint.rows as i64);
        // The first query sees the first of all keys, the last one the last.
        let (early, late) = (self.keys_of(first), self.keys_of(first + rows - 1));
        let columns = footprint.columns as i64;
        let columns = Columns {
            begin: (early.start / columns * columns).max(keys.start),
            end: if early.start < late.end { late.end.min(keys.end) } else { 0 },
            whole: late.start..early.end,
        };
        let shown = |key| self.shown(first, key, [footprint.rows, footprint.columns]);
        let mut of_block = self.of_block(footprint, rows, &columns, self.seen.1, shown);
        of_block.tiles.skipped = tiles(&keys, footprint.columns) - of_block.tiles.computed();
        // Queries are read where there is a key for them.
        of_block.rows = if of_block.tiles.computed() > 0 { rows as u64 } else { 0 };
        of_block
    }

    /// What a kernel does for one head of the queries whose blocks own keys and meet queries.
    pub fn by_keys(&self, footprint: Footprint) -> Work {
        let mut work = Work::default();
        for first in (0..self.keys).step_by(footprint.rows as usize) {
            let rows = (self.keys - first).min(footprint.rows as i64);
            let behind = first + footprint.rows as i64;
            let (early, late) = (self.queries_of(first), self.queries_of(behind.min(self.seen.1) - 1));
            let none = first >= self.seen.1 || behind <= self.seen.0 || early.start >= late.end;
            let whole = first >= self.seen.0 && behind <= self.seen.1;
            let columns = footprint.columns as i64;
            let columns = Columns {
                begin: early.start / columns * columns,
                end: if none { 0 } else { late.end },
                whole: late.start..if whole { early.end } else { 0 },
            };
            // No fewer queries than a cell has.
            let least = footprint.columns.max(CELL[0]);
            let shown = |query: i64| self.shown(query / least as i64 * least as i64, first, [least, footprint.rows]);
            let mut of_block = self.of_block(footprint, rows, &columns, self.queries, shown);
            of_block.tiles.skipped = tiles(&(0..self.queries), footprint.columns) - of_block.tiles.computed();
            // Keys are read where the bands show them to a query.
            of_block.rows = if columns.begin < columns.end { (self.seen.1.min(behind) - first) as u64 } else { 0 };
            work += of_block;
        }
        work
    }

    /// Tiles and columns of a block with so many rows. Columns from `there` on are not read.
    fn of_block(
        &self,
        footprint: Footprint,
        rows: i64,
        columns: &Columns,
        there: i64,
        shown: impl Fn(i64) -> (bool, bool),
    ) -> Work {
        let (step, mut work) = (footprint.columns as i64, Work::default());
        if self.bytes.is_none() && self.segments.is_none() {
            let count = tiles(&(columns.begin..columns.end), footprint.columns) as i64;
            let behind = columns.begin + count * step;
            // Tiles start at multiples of their columns.
            let first = (columns.whole.start + step - 1).div_euclid(step) * step;
            let whole = columns.whole.end.div_euclid(step) * step;
            work.tiles.whole = ((whole.min(behind) - first.max(columns.begin)) / step).max(0) as u64;
            work.tiles.masked = count as u64 - work.tiles.whole;
            work.columns = (behind.min(there) - columns.begin).max(0) as u64;
        } else {
            for column in (columns.begin..columns.end).step_by(footprint.columns as usize) {
                let (some, all) = shown(column);
                if some {
                    let cut = column < columns.whole.start || column + step > columns.whole.end;
                    *(if cut || !all { &mut work.tiles.masked } else { &mut work.tiles.whole }) += 1;
                    work.columns += (there - column).clamp(0, step) as u64;
                }
            }
        }
        work.pairs = work.tiles.computed() * footprint.columns * (rows as u64).next_multiple_of(footprint.warp_rows);
        work
    }
}

/// The tiles that hold a range; it starts with one.
fn tiles(range: &Range<i64>, columns: u64) -> u64 {
    ((range.end - range.start).max(0) as u64).div_ceil(columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::{Align, Bits, Pattern, Rule};

    const LENGTHS: [(u64, u64); 7] = [(1, 1), (1, 300), (300, 1), (128, 64), (129, 257), (257, 129), (513, 700)];
    const FOOTPRINT: Footprint = Footprint { rows: 128, warp_rows: 32, columns: 64 };

    fn bands() -> Vec<Vec<Band>> {
        let band = |left, right, align| Band { left, right, align };
        vec![
            vec![],
            vec![Band::causal(Align::TopLeft)],
            vec![Band::causal(Align::BottomRight)],
            vec![band(Some(70), Some(0), Align::BottomRight)],
            vec![band(Some(3), Some(200), Align::TopLeft), Band::causal(Align::BottomRight)],
            vec![band(Some(u64::MAX), Some(u64::MAX), Align::TopLeft)],
        ]
    }

    /// Bands and lengths are classed exactly.
    #[test]
    fn tiles_are_those_of_the_pattern() {
        for ((queries, keys), bands) in
            LENGTHS.into_iter().flat_map(|lengths| bands().into_iter().map(move |b| (lengths, b)))
        {
            for length in [0, 1, 64, 100, 1000] {
                let lengths = [length];
                let mut rules: Vec<Rule> = bands.iter().map(|band| Rule::Band(*band)).collect();
                rules.push(Rule::KeyLengths(Entries { data: &lengths, strides: [0] }));
                let pattern = Pattern { queries: queries as usize, keys: keys as usize, rules: &rules };
                let end = (length as u64).min(keys);
                let sight = Sight::new(queries, keys, &bands, 0..end);
                let what = format!("{queries} {keys} {bands:?} {length}");
                let visible = |q, k| pattern.visible(0, 0, q, k);
                let count = (0..queries as usize).flat_map(|q| (0..keys as usize).map(move |k| (q, k)));
                assert_eq!(sight.visible(), count.filter(|(q, k)| visible(*q, *k)).count() as u64, "{what}");

                let work = sight.by_queries(FOOTPRINT, 0..u64::MAX);
                let tiles = pattern.tiles(0, 0, 128, 64);
                let want = TileCounts { whole: tiles.full, masked: tiles.mixed, skipped: tiles.hidden };
                assert_eq!(work.tiles, want, "{what}");
                // Split keys are the same tiles.
                let mut split = Work::default();
                (0..keys).step_by(256).for_each(|first| split += sight.by_queries(FOOTPRINT, first..first + 256));
                assert_eq!((split.tiles, split.pairs, split.columns), (work.tiles, work.pairs, work.columns), "{what}");
                assert!(work.pairs >= sight.visible(), "{what}");

                // As many as with the sides exchanged.
                let of_keys = sight.by_keys(FOOTPRINT).tiles;
                let some = |first: usize, query: usize| {
                    let rows = query..(query + 64).min(queries as usize);
                    rows.clone().any(|q| (first..(first + 128).min(keys as usize)).any(|k| visible(q, k)))
                };
                let firsts = (0..keys as usize).step_by(128);
                let all: Vec<bool> =
                    firsts.flat_map(|k| (0..queries as usize).step_by(64).map(move |q| some(k, q))).collect();
                let exact = all.iter().filter(|some| **some).count() as u64;
                assert_eq!(of_keys.computed(), exact, "{what}");
                assert_eq!(of_keys.computed() + of_keys.skipped, all.len() as u64, "{what}");
            }
        }
    }

    /// So are bytes, and segments in order, alone; and the way by single tiles agrees with the one by ranges.
    #[test]
    fn bytes_and_segments() {
        for (queries, keys) in LENGTHS {
            let bytes: Vec<u8> = (0..queries * keys).map(|n| u8::from(n / keys / 96 * 2 != n % keys / 80)).collect();
            let ids: Vec<i32> = (0..queries.max(keys)).map(|i| (i / 150) as i32).collect();
            let of_bytes = Entries { data: &bytes[..], strides: [0, 0, keys, 1] };
            let of_ids = Entries { data: &ids[..], strides: [0, 1] };
            let own_bytes = Bytes {
                entries: Entries { data: &bytes, strides: [keys, 1] },
                polarity: Polarity::Hide,
                dims: [queries, keys],
            };
            let own_ids = |positions| Segments { entries: Entries { data: &ids, strides: [1] }, positions };
            let both = [own_ids(queries), own_ids(keys)];
            let rules = [
                Rule::Visible(Bits { bytes: of_bytes, polarity: Polarity::Hide }),
                Rule::Segments { q: of_ids, k: of_ids },
            ];
            let sights = [(Some(own_bytes), None), (None, Some(both))];
            for (rule, (bytes, segments)) in rules.into_iter().zip(sights) {
                let pattern = Pattern { queries: queries as usize, keys: keys as usize, rules: &[rule] };
                let sight = Sight::new(queries, keys, &[], 0..keys).with(bytes, segments);
                let tiles = pattern.tiles(0, 0, 128, 64);
                let want = TileCounts { whole: tiles.full, masked: tiles.mixed, skipped: tiles.hidden };
                assert_eq!(sight.by_queries(FOOTPRINT, 0..keys).tiles, want, "{queries} {keys}");
                let pairs = (0..queries as usize).flat_map(|q| (0..keys as usize).map(move |k| (q, k)));
                let visible = pairs.filter(|(q, k)| pattern.visible(0, 0, *q, *k)).count() as u64;
                assert_eq!(sight.visible(), visible, "{queries} {keys}");
            }
            let all: Vec<u8> = vec![1; (queries * keys) as usize];
            let all = Bytes {
                entries: Entries { data: &all, strides: [keys, 1] },
                polarity: Polarity::Keep,
                dims: [queries, keys],
            };
            for bands in bands() {
                let sight = Sight::new(queries, keys, &bands, 0..keys.min(200));
                let by_tiles = sight.with(Some(all), None);
                assert_eq!(by_tiles.by_queries(FOOTPRINT, 0..keys), sight.by_queries(FOOTPRINT, 0..keys), "{bands:?}");
                assert_eq!(by_tiles.by_keys(FOOTPRINT), sight.by_keys(FOOTPRINT), "{queries} {keys} {bands:?}");
            }
        }
    }
}
