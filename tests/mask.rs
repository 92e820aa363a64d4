//! The mask algebra: what is said of tiles and ranges, against the pairs themselves.

mod common;

use std::ops::Range;

use common::random::Random;
use proptest::prelude::*;
use sumexp::Polarity;
use sumexp::mask::{Align, BadOffsets, Band, Bits, Entries, Offsets, Pattern, Rule, TileClass, Tiles};

const ALIGNS: [Align; 2] = [Align::TopLeft, Align::BottomRight];

fn lengths<const N: usize>(data: &[i32], strides: [u64; N]) -> Entries<'_, i32, N> {
    Entries { data, strides }
}

/// Every band whose sides are open or at most 3 wide.
fn bands() -> impl Iterator<Item = Band> {
    let sides = || [None, Some(0), Some(1), Some(3)].into_iter();
    let aligned = move |align| sides().flat_map(move |left| sides().map(move |right| Band { left, right, align }));
    ALIGNS.into_iter().flat_map(aligned)
}

/// The ranges of positions below `end`, empty ones included.
fn ranges(end: usize) -> impl Iterator<Item = Range<usize>> {
    (0..=end).flat_map(move |from| (from..=end).map(move |to| from..to))
}

/// What a tile's class is by looking at every pair.
fn by_pairs(pattern: &Pattern, b: usize, h: usize, q: &Range<usize>, k: &Range<usize>) -> TileClass {
    let pairs = || q.clone().flat_map(|q| k.clone().map(move |k| (q, k)));
    let visible = pairs().filter(|(q, k)| pattern.visible(b, h, *q, *k)).count();
    match visible {
        0 => TileClass::Hidden,
        n if n == pairs().count() => TileClass::Full,
        _ => TileClass::Mixed,
    }
}

/// Checks the classes of all tiles, also of those that reach one position too far, and both ranges. `tight` says that the
/// ranges must be the smallest.
#[track_caller]
fn check(pattern: &Pattern, b: usize, h: usize, tight: bool) {
    let sees = |q: usize, k: usize| pattern.visible(b, h, q, k);
    for q in ranges(pattern.queries + 1) {
        for k in ranges(pattern.keys + 1) {
            assert_eq!(
                pattern.class(b, h, q.clone(), k.clone()),
                by_pairs(pattern, b, h, &q, &k),
                "{pattern:?}, tile {q:?} x {k:?} of batch {b}, head {h}"
            );
        }
        let seen: Vec<usize> = (0..pattern.keys).filter(|k| q.clone().any(|q| sees(q, *k))).collect();
        check_range(&format!("{pattern:?}: keys of {q:?}"), pattern.key_range(b, q), &seen, tight);
    }
    for k in ranges(pattern.keys + 1) {
        let seeing: Vec<usize> = (0..pattern.queries).filter(|q| k.clone().any(|k| sees(*q, k))).collect();
        check_range(&format!("{pattern:?}: queries of {k:?}"), pattern.query_range(b, k), &seeing, tight);
    }
}

#[track_caller]
fn check_range(case: &str, got: Range<usize>, members: &[usize], tight: bool) {
    assert!(members.iter().all(|m| got.contains(m)), "{case}: {got:?} lacks some of {members:?}");
    if tight {
        let want = members.first().map_or(0..0, |first| *first..members[members.len() - 1] + 1);
        assert_eq!(got, want, "{case}");
    }
}

#[test]
fn no_rules_hide_nothing() {
    for (queries, keys) in [(0, 0), (0, 3), (3, 0), (3, 4)] {
        check(&Pattern { queries, keys, rules: &[] }, 0, 0, true);
    }
}

/// The definition of bands once more, in words of the documentation.
#[test]
fn bands_are_what_their_sides_say() {
    for band in bands() {
        for (queries, keys) in (0..6).flat_map(|q| (0..6).map(move |k| (q, k))) {
            let rules = [Rule::Band(band)];
            let pattern = Pattern { queries, keys, rules: &rules };
            for q in 0..queries {
                let own = match band.align {
                    Align::TopLeft => q as i64,
                    Align::BottomRight => q as i64 + keys as i64 - queries as i64,
                };
                for k in 0..keys {
                    let before = band.left.is_none_or(|left| k as i64 >= own - left as i64);
                    let behind = band.right.is_none_or(|right| k as i64 <= own + right as i64);
                    assert_eq!(pattern.visible(0, 0, q, k), before && behind, "{band:?}, {q} and {k}");
                }
            }
        }
    }
}

#[test]
fn causal_by_hand() {
    let rows = |align, queries, keys| -> Vec<String> {
        let rules = [Rule::Band(Band::causal(align))];
        let pattern = Pattern { queries, keys, rules: &rules };
        let row = |q| (0..keys).map(|k| if pattern.visible(0, 0, q, k) { '1' } else { '.' }).collect();
        (0..queries).map(row).collect()
    };
    assert_eq!(rows(Align::TopLeft, 2, 4), ["1...", "11.."]);
    assert_eq!(rows(Align::BottomRight, 2, 4), ["111.", "1111"]);
    assert_eq!(rows(Align::TopLeft, 4, 2), ["1.", "11", "11", "11"]);
    assert_eq!(rows(Align::BottomRight, 4, 2), ["..", "..", "1.", "11"]);
    assert_eq!(rows(Align::TopLeft, 3, 3), rows(Align::BottomRight, 3, 3));
}

#[test]
fn tiles_of_bands() {
    for band in bands() {
        for (queries, keys) in [(0, 4), (4, 0), (1, 5), (5, 1), (4, 4), (3, 6), (6, 3)] {
            check(&Pattern { queries, keys, rules: &[Rule::Band(band)] }, 0, 0, true);
        }
    }
}

#[test]
fn two_bands_and_key_lengths() {
    let data = [0, 2, 5, -7, 9];
    for (i, first) in bands().enumerate() {
        // Every band with a few others.
        for second in bands().skip(i % 5).step_by(7) {
            let rules = [Rule::Band(first), Rule::KeyLengths(lengths(&data, [1])), Rule::Band(second)];
            for (b, (queries, keys)) in [(4, 5), (5, 4), (2, 6), (6, 5), (3, 3)].into_iter().enumerate() {
                check(&Pattern { queries, keys, rules: &rules }, b, 0, true);
            }
        }
    }
}

#[test]
fn key_lengths_by_hand() {
    let data = [3, 0, -1, i32::MIN, i32::MAX];
    let rules = [Rule::KeyLengths(lengths(&data, [1]))];
    let pattern = Pattern { queries: 1, keys: 4, rules: &rules };
    let visible = |b| (0..4).filter(|k| pattern.visible(b, 0, 0, *k)).count();
    assert_eq!((0..5).map(visible).collect::<Vec<_>>(), [3, 0, 0, 0, 4]);
    let every_other = [1, 9, 2, 9];
    let rules = [Rule::KeyLengths(lengths(&every_other, [2]))];
    let pattern = Pattern { queries: 1, keys: 4, rules: &rules };
    assert_eq!([pattern.key_range(0, 0..1), pattern.key_range(1, 0..1)], [0..1, 0..2]);
}

#[test]
fn tiles_of_segments() {
    let mut random = Random::new(5);
    for round in 0..60 {
        let (queries, keys) = (1 + random.below(5), 1 + random.below(5));
        let ids = |random: &mut Random, n: usize| -> Vec<i32> { (0..2 * n).map(|_| random.below(3) as i32).collect() };
        let (mut q, k) = (ids(&mut random, queries), ids(&mut random, keys));
        if round % 2 == 0 {
            q.sort_unstable();
        }
        // Queries' ids lie batch by batch, keys' ids interleaved.
        let segments = Rule::Segments { q: lengths(&q, [queries as u64, 1]), k: lengths(&k, [1, 2]) };
        let band = Rule::Band(bands().nth(random.below(32)).unwrap());
        for b in 0..2 {
            let pattern = Pattern { queries, keys, rules: &[segments] };
            assert_eq!(pattern.visible(b, 7, 0, 1 % keys), q[b * queries] == k[b + 2 * (1 % keys)]);
            check(&pattern, b, 7, false);
            check(&Pattern { queries, keys, rules: &[segments, band] }, b, 0, false);
        }
    }
}

#[test]
fn tiles_of_bytes_with_broadcast_dims() {
    let mut random = Random::new(6);
    for round in 0..60 {
        let (queries, keys) = (1 + random.below(4), 1 + random.below(5));
        let repeated = random.below(16) as u64;
        let full = [(2 * queries * keys) as u64, (queries * keys) as u64, keys as u64, 1];
        let strides = std::array::from_fn(|n| if repeated >> n & 1 == 1 { 0 } else { full[n] });
        let rare = 1 + round % 4;
        let data: Vec<u8> = (0..4 * queries * keys).map(|_| u8::from(random.one_in(rare)) * 0x80).collect();
        let polarity = if random.one_in(2) { Polarity::Keep } else { Polarity::Hide };
        let bits = Rule::Visible(Bits { bytes: Entries { data: &data, strides }, polarity });
        let band = Rule::Band(bands().nth(random.below(32)).unwrap());
        let short = [random.below(6) as i32, 3];
        for (b, h) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
            let pattern = Pattern { queries, keys, rules: &[bits] };
            let place =
                [b, h, queries - 1, 0].into_iter().zip(strides).map(|(i, stride)| i * stride as usize).sum::<usize>();
            assert_eq!(pattern.visible(b, h, queries - 1, 0), polarity.visible(data[place]));
            check(&pattern, b, h, false);
            let all = [bits, band, Rule::KeyLengths(lengths(&short, [1]))];
            check(&Pattern { queries, keys, rules: &all }, b, h, false);
        }
    }
}

/// Two rules that leave half of the pairs each, and nothing together: only the pairs can tell.
#[test]
fn rules_that_hide_a_tile_together() {
    let left = [1u8, 0, 0];
    let right = [1u8, 0, 0];
    let bits = |data, polarity| Rule::Visible(Bits { bytes: Entries { data, strides: [0, 0, 0, 1] }, polarity });
    let rules = [bits(&left[..], Polarity::Keep), bits(&right[..], Polarity::Hide)];
    let pattern = Pattern { queries: 2, keys: 3, rules: &rules };
    assert_eq!(pattern.class(0, 0, 0..2, 0..3), TileClass::Hidden);
    assert_eq!(Pattern { rules: &rules[..1], ..pattern }.class(0, 0, 0..2, 0..3), TileClass::Mixed);
}

/// The necessary tiles of a long causal mask, and how few more are computed.
#[test]
fn causal_tiles_are_counted() {
    let rules = [Rule::Band(Band::causal(Align::TopLeft))];
    let pattern = Pattern { queries: 4096, keys: 4096, rules: &rules };
    assert_eq!(pattern.tiles(0, 0, 128, 128), Tiles { hidden: 32 * 31 / 2, full: 32 * 31 / 2, mixed: 32 });
    let tiles = pattern.tiles(0, 0, 128, 64);
    assert_eq!((tiles.full, tiles.mixed), (32 * 31, 64));
    // Half of the pairs are visible; of 128 x 64 tiles hardly more are touched.
    let necessary = (4096.0 * 4097.0 / 2.0) / (128.0 * 64.0);
    assert!((tiles.full + tiles.mixed) as f64 <= 1.04 * necessary);
    let ragged = Pattern { queries: 130, keys: 100, rules: &[] };
    assert_eq!(ragged.tiles(0, 0, 128, 64), Tiles { hidden: 0, full: 2, mixed: 2 });
    assert_eq!(Pattern { queries: 0, keys: 5, rules: &[] }.tiles(0, 0, 128, 64), Tiles::default());
    assert_eq!(Pattern { queries: 5, keys: 0, rules: &[] }.tiles(0, 0, 128, 64), Tiles::default());
}

#[test]
fn offsets_are_checked() {
    let offsets = Offsets::new(&[0, 2, 2, 5], 5).unwrap();
    assert_eq!((offsets.sequences(), offsets.tokens(), offsets.longest()), (3, 5, 3));
    assert_eq!((0..3).map(|b| offsets.range(b)).collect::<Vec<_>>(), [0..2, 2..2, 2..5]);
    let nothing = Offsets::new(&[0], 0).unwrap();
    assert_eq!((nothing.sequences(), nothing.tokens(), nothing.longest()), (0, 0, 0));
    for (offsets, tokens, why, text) in [
        (&[][..], 0, BadOffsets::Missing, "no offsets: a batch of n sequences has n + 1"),
        (&[1, 2][..], 2, BadOffsets::First { value: 1 }, "the first offset is 1, not 0"),
        (&[-1, 2][..], 2, BadOffsets::First { value: -1 }, "the first offset is -1, not 0"),
        (
            &[0, 4, -2, 4][..],
            4,
            BadOffsets::Decrease { sequence: 1, start: 4, end: -2 },
            "sequence 1 ends at -2, before its begin at 4",
        ),
        (&[0, 4][..], 5, BadOffsets::Last { value: 4, tokens: 5 }, "the last offset is 4, but there are 5 tokens"),
        (&[0, 4][..], 3, BadOffsets::Last { value: 4, tokens: 3 }, "the last offset is 4, but there are 3 tokens"),
    ] {
        assert_eq!(Offsets::new(offsets, tokens), Err(why));
        assert_eq!(why.to_string(), text);
    }
}

proptest! {
    /// Moving a tile and the band along the diagonal changes nothing, however far: positions past 2^31 and 2^32.
    #[test]
    fn far_positions_are_as_near_ones(
        left in proptest::option::of(0u64..9), right in proptest::option::of(0u64..9), q in 0usize..9, k in 0usize..9,
        rows in 0usize..7, columns in 0usize..7, far in prop_oneof![Just(1usize << 31), Just((1 << 32) - 3), Just(1 << 62)],
    ) {
        let class = |queries, keys, align, q: usize, k: usize| {
            let rules = [Rule::Band(Band { left, right, align })];
            Pattern { queries, keys, rules: &rules }.class(0, 0, q..q + rows, k..k + columns)
        };
        let near = class(16, 16, Align::TopLeft, q, k);
        prop_assert_eq!(near, class(16 + far, 16 + far, Align::TopLeft, q + far, k + far));
        prop_assert_eq!(near, class(16, 16 + far, Align::BottomRight, q, k + far));
        prop_assert_eq!(near, class(16 + far, 16, Align::BottomRight, q + far, k));
    }

    /// The widest sides and the longest sequences: no sum overflows, and a side that reaches everything is an open one.
    #[test]
    fn widest_sides_are_open_ones(q in any::<usize>(), k in any::<usize>(), align in prop_oneof![Just(ALIGNS[0]), Just(ALIGNS[1])]) {
        let (q, k) = (q.min(usize::MAX - 1), k.min(usize::MAX - 1));
        let band = Band { left: Some(u64::MAX), right: Some(u64::MAX), align };
        let rules = [Rule::Band(band)];
        // All queries and all keys, so that every position is at most 2^64 - 1 from the one it stands at.
        let pattern = Pattern { queries: usize::MAX, keys: usize::MAX, rules: &rules };
        prop_assert!(pattern.visible(0, 0, q, k));
        prop_assert_eq!(pattern.class(0, 0, q..q + 1, 0..usize::MAX), TileClass::Full);
        prop_assert_eq!(pattern.key_range(0, q..q + 1), 0..usize::MAX);
        prop_assert_eq!(pattern.query_range(0, k..k + 1), 0..usize::MAX);
    }

    /// Random tiles of larger patterns with all rules at once.
    #[test]
    fn tiles_of_all_rules(seed in any::<u64>(), queries in 1usize..40, keys in 1usize..40, rows in 1usize..12, columns in 1usize..12) {
        let mut random = Random::new(seed);
        let ids = |random: &mut Random, n: usize| -> Vec<i32> {
            let per_segment = 1 + random.below(n);
            (0..n).map(|i| (i / per_segment) as i32).collect()
        };
        let (q, k) = (ids(&mut random, queries), ids(&mut random, keys));
        let bytes: Vec<u8> = (0..queries * keys).map(|_| u8::from(random.one_in(9))).collect();
        let end = [random.below(50) as i32];
        let rules = [
            Rule::Band(bands().nth(random.below(32)).unwrap()),
            Rule::Segments { q: lengths(&q, [0, 1]), k: lengths(&k, [0, 1]) },
            Rule::KeyLengths(lengths(&end, [0])),
            Rule::Visible(Bits { bytes: Entries { data: &bytes, strides: [0, 0, keys as u64, 1] }, polarity: Polarity::Hide }),
        ];
        let pattern = Pattern { queries, keys, rules: &rules[random.below(4)..] };
        let (first_q, first_k) = (random.below(queries), random.below(keys));
        let (q, k) = (first_q..first_q + rows, first_k..first_k + columns);
        prop_assert_eq!(pattern.class(1, 1, q.clone(), k.clone()), by_pairs(&pattern, 1, 1, &q, &k));
        let mut counted = Tiles::default();
        for from in (0..queries).step_by(rows) {
            for first in (0..keys).step_by(columns) {
                match by_pairs(&pattern, 1, 1, &(from..queries.min(from + rows)), &(first..first + columns)) {
                    TileClass::Hidden => counted.hidden += 1,
                    TileClass::Full => counted.full += 1,
                    TileClass::Mixed => counted.mixed += 1,
                }
            }
        }
        prop_assert_eq!(pattern.tiles(1, 1, rows, columns), counted);
    }
}
