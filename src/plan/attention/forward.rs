//! Launch plans of the forward kernels.

use super::{Footprint, Kind, Kinds, SM90A_COPIERS, Size, Tiles, tiles, warpgroups_take};
use crate::dtype::DType;
use std::fmt;
use std::ops::Range;

/// Kernels on 16-bit elements for every GPU. Two row tiles per warp halve what is read of shared memory per product; 96 KiB of shared memory fit on
/// every GPU from compute capability 8.0 on (99 KiB of a block on 8.6 and 8.9).
pub const NARROW: [Tiles; 6] = [
    tiles(32, 4, 2, 64),
    tiles(64, 4, 2, 64),
    tiles(96, 4, 2, 64),
    tiles(128, 4, 2, 32),
    tiles(192, 8, 1, 32),
    tiles(256, 4, 1, 32),
];

/// Kernels on f32, whose products take three steps and twice the memory.
pub const WIDE: [Tiles; 6] = [
    tiles(32, 4, 1, 64),
    tiles(64, 4, 1, 32),
    tiles(96, 4, 1, 32),
    tiles(128, 4, 1, 32),
    tiles(192, 4, 1, 16),
    tiles(256, 2, 1, 16),
];

/// Kernels of compute capability 9.0 on 16-bit elements: two warpgroups that multiply, and a third that copies.
pub const SM90A: [Tiles; 2] = [tiles(64, 8, 1, 128), tiles(128, 8, 1, 128)];
/// Bytes of barriers.
const SM90A_BARRIERS: u64 = 72;

/// Keys of a split. A call's own lengths decide whether and where its keys are split, never how much other work there is.
pub const SPLIT_KEYS: u64 = 1024;
/// The most queries for which keys are split; more of them keep a GPU busy by themselves.
const SPLIT_QUERIES: u64 = 128;

/// How the forward operation is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The kernel's tiles.
    pub tiles: Tiles,
    /// Which kernel it is.
    pub kind: Kind,
    /// Query tiles of a batch entry and head.
    pub query_tiles: u64,
    /// Parts of the keys that different blocks work on; then a second kernel merges them.
    pub splits: u64,
    /// Key at which the first of them starts.
    pub split_from: u64,
    /// Blocks, each with one query tile and split.
    pub blocks: u64,
    /// Bytes of dynamic shared memory.
    pub shared: u64,
}

impl Forward {
    /// Threads of a block.
    pub fn threads(&self) -> u32 {
        self.tiles.threads() + if self.kind == Kind::Sm90a { SM90A_COPIERS } else { 0 }
    }

    /// Rows and columns, for those who count them. Warpgroups multiply rows that are not there, too.
    pub fn footprint(&self) -> Footprint {
        let own = self.tiles.footprint();
        if self.kind == Kind::Sm90a { Footprint { warp_rows: own.rows, ..own } } else { own }
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tiles { head, keys, warps, .. } = self.tiles;
        let queries = self.tiles.queries();
        let (kind, blocks) = (self.kind, self.blocks);
        write!(f, "{queries} queries x {keys} keys of up to {head} elements, {warps} warps, {kind}: {blocks} blocks")
    }
}

/// The largest head sizes of the kernels of an element type.
pub fn heads(dtype: DType) -> [u32; 6] {
    (if dtype.size() == 4 { &WIDE } else { &NARROW }).map(|tiles| tiles.head)
}

/// The tiles of the smallest kernel that holds rows of `head` elements, at most [`super::MAX_HEAD`].
pub fn tiles_for(head: u64, dtype: DType) -> Tiles {
    let table = if dtype.size() == 4 { &WIDE } else { &NARROW };
    *table.iter().find(|tiles| u64::from(tiles.head) >= head).unwrap_or(&table[table.len() - 1])
}

/// The tiles of the kernel of compute capability 9.0, or why there is none. What decides are the element type and the call's own lengths
/// and options, as they decide about the bits of its results.
pub fn warpgroups(head: u64, dtype: DType, general: bool, splits: bool) -> Result<Tiles, &'static str> {
    let own = warpgroups_take(head, dtype, general)?;
    if splits {
        return Err("it has all keys of a query in one block");
    }
    Ok(SM90A[own])
}

/// The splits that different blocks work on, as numbers of [`SPLIT_KEYS`] keys each, or why a block has all keys of its queries.
pub fn split(queries: u64, keys: Range<u64>, packed: bool) -> Result<Range<u64>, &'static str> {
    let splits = keys.start / SPLIT_KEYS..keys.end.div_ceil(SPLIT_KEYS);
    if packed {
        return Err("lengths of packed sequences are not known to the host");
    }
    if queries > SPLIT_QUERIES {
        return Err("more than 128 queries keep a GPU busy by themselves");
    }
    if splits.end.saturating_sub(splits.start) <= 1 {
        return Err("the keys that are seen lie in one split of 1024");
    }
    Ok(splits)
}

/// How many heads of queries are taken for as many queries of one head, because they see the same of the keys that they share; or why
/// they are not.
pub fn share(heads: u64, key_heads: u64, queries: u64, packed: bool, general: bool) -> Result<u64, &'static str> {
    if heads == key_heads {
        return Err("every head has keys of its own");
    }
    if queries != 1 {
        return Err("only a single query sees the same keys in all heads");
    }
    if packed {
        return Err("lengths of packed sequences are not known to the host");
    }
    if general {
        return Err("masks of bytes and changed scores differ between heads");
    }
    Ok(heads / key_heads)
}

/// The plan of a forward operation with at least one query, and head sizes of at most [`super::MAX_HEAD`]. The queries of one batch entry
/// may be those of so many `sequences`, each with its own tiles. `keys` are those that any query sees by its bands.
pub fn forward(
    size: &Size,
    keys: Range<u64>,
    sequences: Option<u64>,
    dtype: DType,
    Kinds { general, sm90a }: Kinds,
) -> Forward {
    let (splits, split_from) = match split(size.queries, keys, sequences.is_some()) {
        Ok(splits) => (splits.end - splits.start, splits.start * SPLIT_KEYS),
        Err(_) => (1, 0),
    };
    let head = size.head_size.max(size.value_size);
    let portable = tiles_for(head, dtype);
    let (kind, tiles) = match warpgroups(head, dtype, general, splits > 1) {
        Ok(tiles) if sm90a => (Kind::Sm90a, tiles),
        _ if general => (Kind::General, portable.general()),
        _ => (Kind::Bands, portable),
    };
    let query_tiles = match sequences {
        None => size.queries.div_ceil(u64::from(tiles.queries())),
        // Every sequence fills all its tiles but one; those without queries have none.
        Some(sequences) => size.queries / u64::from(tiles.queries()) + sequences.min(size.queries),
    };
    let items = size.batch.saturating_mul(size.heads).saturating_mul(query_tiles).saturating_mul(splits);
    let shared = tiles.shared(dtype) + if kind == Kind::Sm90a { SM90A_BARRIERS } else { 0 };
    Forward { tiles, kind, query_tiles, splits, split_from, blocks: items, shared }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Kinds = Kinds { general: false, sm90a: false };

    #[test]
    fn every_kernel_fits_in_a_block_of_every_gpu() {
        for (table, dtype) in [(NARROW, DType::F16), (WIDE, DType::F32)] {
            for tiles in table {
                assert!(tiles.shared(dtype) <= 99 * 1024, "{tiles:?}");
                assert_eq!(tiles.general().queries(), tiles.queries());
                assert_eq!(tiles.general().shared(dtype), tiles.shared(dtype));
            }
        }
    }

    #[test]
    fn the_smallest_kernel_that_holds_a_row() {
        for (head, class) in
            [(1, 32), (32, 32), (33, 64), (64, 64), (80, 96), (128, 128), (129, 192), (193, 256), (256, 256)]
        {
            assert_eq!(tiles_for(head, DType::BF16).head, class);
            assert_eq!(tiles_for(head, DType::F32).head, class);
        }
        let size = Size { batch: 2, heads: 3, queries: 129, head_size: 64, value_size: 128 };
        let plan = forward(&size, 0..1000, None, DType::F16, PLAIN);
        assert_eq!((plan.tiles.head, plan.query_tiles, plan.blocks), (128, 2, 12));
        assert_eq!(plan.splits, 1);
        let short = Size { queries: 1, ..size };
        let splits = |keys: Range<u64>| {
            let plan = forward(&short, keys, None, DType::F16, PLAIN);
            (plan.splits, plan.split_from, plan.blocks)
        };
        assert_eq!((splits(0..1024), splits(0..1025)), ((1, 0, 6), (2, 0, 12)));
        assert_eq!((splits(5000..9000), splits(7..7)), ((5, 4096, 30), (1, 0, 6)));
        assert_eq!(forward(&size, 0..1000, Some(5), DType::F16, PLAIN).query_tiles, 6);
    }

    #[test]
    fn warpgroups_take_what_they_are_made_for() {
        for tiles in SM90A {
            assert!(tiles.shared(DType::F16) + SM90A_BARRIERS <= 227 << 10, "{tiles:?}");
            assert!(SPLIT_KEYS.is_multiple_of(u64::from(tiles.keys)), "{tiles:?}");
        }
        for (head, class) in [(32, None), (33, Some(64)), (64, Some(64)), (65, None), (97, Some(128)), (129, None)] {
            assert_eq!(warpgroups(head, DType::BF16, false, false).ok().map(|tiles| tiles.head), class);
        }
        let size = Size { batch: 2, heads: 3, queries: 129, head_size: 64, value_size: 64 };
        let plan = forward(&size, 0..1000, None, DType::F16, Kinds { general: false, sm90a: true });
        assert_eq!((plan.kind, plan.blocks, plan.threads()), (Kind::Sm90a, 12, 384));
        let kind =
            |size: &Size, dtype, general| forward(size, 0..5000, None, dtype, Kinds { general, sm90a: true }).kind;
        assert_eq!(kind(&size, DType::F32, false), Kind::Bands);
        assert_eq!(kind(&size, DType::F16, true), Kind::General);
        assert_eq!(kind(&Size { queries: 1, ..size }, DType::F16, false), Kind::Bands);
    }

    #[test]
    fn one_query_of_many_heads_is_many_queries_of_one() {
        assert_eq!(share(32, 8, 1, false, false), Ok(4));
        for (heads, queries, packed, general) in
            [(8, 1, false, false), (32, 2, false, false), (32, 1, true, false), (32, 1, false, true)]
        {
            assert!(share(heads, 8, queries, packed, general).is_err(), "{heads} {queries} {packed} {general}");
        }
    }
}
