//! Launch plans of attention.

mod backward;
mod forward;
mod weights;
mod work;

pub use backward::{
    Backward, BackwardTiles, Part, ROWS_THREADS, SM90A_QUERIES, Sweep, backward, backward_tiles, backward_warpgroups,
    parts,
};
pub use forward::{Forward, NARROW, SM90A, SPLIT_KEYS, WIDE, forward, heads, share, split, tiles_for, warpgroups};
pub use weights::{WEIGHTS_TILES, Weights, weights};
pub use work::{Bytes, CELL, Footprint, Segments, Sight, TileCounts, Work};

use super::piece::MAX_BLOCKS;
use crate::dtype::DType;
use std::fmt;

/// Which of the kernels for an element type and head size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// For bands and lengths of keys.
    Bands,
    /// For masks and scores of any kind.
    General,
    /// For bands and lengths of keys, on compute capability 9.0.
    Sm90a,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bands => "bands",
            Self::General => "any mask and score",
            Self::Sm90a => "bands by warpgroups",
        })
    }
}

/// What decides which kind of kernel takes a call, beside its lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kinds {
    /// Whether masks and scores ask for the kernels that take any.
    pub general: bool,
    /// Whether the kernels of compute capability 9.0 can run.
    pub sm90a: bool,
}

/// Threads of the warpgroup that copies, beside those that multiply.
const SM90A_COPIERS: u32 = 128;

/// Which of the kernels of compute capability 9.0 takes a call by its element type, the larger of its head sizes and its masks and scores,
/// as an index of their tables; or why none does.
fn warpgroups_take(head: u64, dtype: DType, general: bool) -> Result<usize, &'static str> {
    if dtype.size() != 2 {
        return Err("warpgroups multiply no f32");
    }
    if general {
        return Err("it hides by bands and lengths alone, and changes no scores");
    }
    match forward::tiles_for(head, dtype).head {
        64 => Ok(0),
        128 => Ok(1),
        _ => Err("it is made for heads of 33 to 64 and 97 to 128 elements"),
    }
}

/// What a block of a kernel works on. Query tiles decide who shares a block; key tiles also decide the order of sums, so they depend
/// on the element type and the head size alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tiles {
    /// Largest size of rows of q, k and v; shorter rows are padded with zeros.
    pub head: u32,
    /// Warps of a block.
    pub warps: u32,
    /// 16 queries each, per warp.
    pub row_tiles: u32,
    /// Keys of a tile.
    pub keys: u32,
}

const fn tiles(head: u32, warps: u32, row_tiles: u32, keys: u32) -> Tiles {
    Tiles { head, warps, row_tiles, keys }
}

impl Tiles {
    /// Those of the kernel for masks and scores of any kind: the same tiles, but no warp has more than 16 queries.
    pub const fn general(self) -> Self {
        Self { warps: self.warps * self.row_tiles, row_tiles: 1, ..self }
    }

    /// Queries of a tile.
    pub const fn queries(self) -> u32 {
        self.warps * self.row_tiles * 16
    }

    /// Threads of a block.
    pub const fn threads(self) -> u32 {
        self.warps * 32
    }

    /// Rows and columns, for those who count them.
    pub const fn footprint(self) -> Footprint {
        Footprint { rows: self.queries() as u64, warp_rows: self.row_tiles as u64 * 16, columns: self.keys as u64 }
    }

    /// Bytes of shared memory: the query tile, and twice a key tile and its value tile.
    pub const fn shared(self, dtype: DType) -> u64 {
        (self.queries() as u64 + 4 * self.keys as u64) * self.head as u64 * dtype.size() as u64
    }
}

/// What the plan depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Batch entries.
    pub batch: u64,
    /// Heads of the queries.
    pub heads: u64,
    /// Queries of a batch entry.
    pub queries: u64,
    /// Elements of a row of q and k.
    pub head_size: u64,
    /// Elements of a row of v.
    pub value_size: u64,
}

/// The largest head size.
pub const MAX_HEAD: u64 = 256;

/// Blocks and threads of the small kernels around attention, in which a warp has an item.
pub fn warps(items: u64) -> (u64, u32) {
    (items.div_ceil(4).min(MAX_BLOCKS), 128)
}

/// Blocks and threads of the kernel that packs operands, in which a thread has 16 bytes.
pub fn pack(items: u64) -> (u64, u32) {
    (items.div_ceil(128).min(MAX_BLOCKS), 128)
}

/// A grid of at least so many blocks, for kernels of which a block has one item and those behind the last item none. Along x there are
/// few enough that tests reach the next dim.
pub fn grid(blocks: u64) -> [u64; 3] {
    const X: u64 = 1 << 14;
    const Y: u64 = 1 << 15;
    [blocks.min(X), blocks.div_ceil(X).min(Y), blocks.div_ceil(X * Y)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_has_a_block_for_every_item() {
        assert_eq!((grid(1), grid(1 << 14)), ([1, 1, 1], [1 << 14, 1, 1]));
        for items in [(1 << 14) + 1, 1 << 29, (1 << 29) + 1, 1 << 40] {
            let [x, y, z] = grid(items);
            assert!(x * y * z >= items && x * y * z <= 2 * items && y <= 65_535 && z <= 65_535, "{items}");
        }
    }
}
