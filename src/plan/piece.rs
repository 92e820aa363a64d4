//! How the lanes of a block share rows, which all row kernels have in common.

use crate::dtype::DType;

/// The part of a row that a group of lanes holds at once: `vectors` times 16 bytes for each of `lanes` lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Piece {
    /// Lanes that share a row: 8 or 32 lanes of a warp, or a whole block.
    pub lanes: u32,
    /// Vectors of 16 bytes per lane.
    pub vectors: u32,
}

impl Piece {
    /// Elements of a piece.
    pub const fn capacity(self, dtype: DType) -> u64 {
        self.lanes as u64 * self.vectors as u64 * 16 / dtype.size() as u64
    }

    /// Threads of a block. Blocks of less than 128 threads would leave warps of a multiprocessor unused.
    pub const fn threads(self) -> u32 {
        if self.lanes < 128 { 128 } else { self.lanes }
    }

    /// Groups of lanes in a block.
    pub const fn groups(self) -> u64 {
        (self.threads() / self.lanes) as u64
    }
}

/// Blocks along the x axis of a grid; kernels go on with a stride of the grid where these are not enough. So many keep any GPU
/// busy, and few enough that tests reach the further rounds.
pub(crate) const MAX_BLOCKS: u64 = 1 << 16;
