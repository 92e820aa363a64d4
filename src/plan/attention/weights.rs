//! Launch plan of the kernel that writes the weights of attention.

use super::{Tiles, tiles};
use crate::dtype::DType;

/// Key tiles of a block: enough to make up for loading the queries, few enough that one row of queries fills a GPU.
pub const WEIGHTS_TILES: u64 = 16;

/// Tiles of 64 columns for rows of any size.
const fn tiles_of(dtype: DType) -> Tiles {
    if dtype.size() == 4 { tiles(64, 4, 1, 32) } else { tiles(64, 4, 2, 64) }
}

/// How the kernel is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights {
    /// The kernel's tiles.
    pub tiles: Tiles,
    /// Query tiles of a head.
    pub query_tiles: u64,
    /// Blocks that share the keys of a query tile.
    pub key_spans: u64,
    /// Bytes of dynamic shared memory: the rows of the queries, two key tiles of 64 columns, and a tile of weights.
    pub shared: u64,
}

/// The plan for at least one query and key, of rows of `head_size` elements.
pub fn weights(queries: u64, keys: u64, head_size: u64, dtype: DType) -> Weights {
    let tiles = tiles_of(dtype);
    let (rows, columns, own) = (u64::from(tiles.queries()), u64::from(tiles.head), u64::from(tiles.keys));
    let elements = rows * columns * head_size.div_ceil(columns) + 2 * own * columns + rows * own;
    Weights {
        tiles,
        query_tiles: queries.div_ceil(rows),
        key_spans: keys.div_ceil(own * WEIGHTS_TILES),
        shared: elements * dtype.size() as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_fits_in_a_block_of_every_gpu() {
        for dtype in [DType::F16, DType::BF16, DType::F32] {
            assert!(weights(1, 1, 256, dtype).shared <= 99 * 1024, "{dtype}");
        }
        let plan = weights(129, 1025, 65, DType::F16);
        assert_eq!((plan.query_tiles, plan.key_spans, plan.shared), (2, 2, (128 * 128 + 128 * 64 + 128 * 64) * 2));
        let plan = weights(64, 512, 64, DType::F32);
        assert_eq!((plan.query_tiles, plan.key_spans, plan.shared), (1, 1, (64 * 64 + 64 * 64 + 64 * 32) * 4));
    }
}
