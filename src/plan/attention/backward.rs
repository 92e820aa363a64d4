//! Launch plans of the backward kernels.

use super::{Footprint, Kind, Kinds, SM90A_COPIERS, Size, warpgroups_take};
use crate::dtype::DType;
use crate::plan::piece::MAX_BLOCKS;
use std::fmt;

/// What a kernel computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// The gradient of q. Blocks own queries.
    Queries,
    /// Those of k and v. Blocks own keys.
    KeysAndValues,
    /// That of k alone.
    Keys,
    /// That of v alone.
    Values,
    /// That of the bias. Blocks own tiles of it.
    Bias,
}

/// What a block works on: rows, of queries or of keys, that it owns, and columns, of the other ones, that it meets. Row tiles decide
/// who shares a block; column tiles also decide the order of sums, so they depend on the element type and the head size alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BackwardTiles {
    /// Largest size of rows of q, k and v; shorter rows are padded with zeros.
    pub head: u32,
    /// Warps of a block.
    pub warps: u32,
    /// 16 rows each, per warp.
    pub row_tiles: u32,
    /// Columns of a tile.
    pub columns: u32,
    /// Column tiles in shared memory at a time.
    pub buffers: u32,
}

const fn tiles(head: u32, warps: u32, row_tiles: u32, columns: u32, buffers: u32) -> BackwardTiles {
    BackwardTiles { head, warps, row_tiles, columns, buffers }
}

impl BackwardTiles {
    /// Those of the kernel for masks and scores of any kind: the same tiles, but no warp has more than 16 rows.
    pub const fn general(self) -> Self {
        Self { warps: self.warps * self.row_tiles, row_tiles: 1, ..self }
    }

    /// Rows of a block.
    pub const fn rows(self) -> u32 {
        self.warps * self.row_tiles * 16
    }

    /// Rows and columns, for those who count them.
    pub const fn footprint(self) -> Footprint {
        Footprint { rows: self.rows() as u64, warp_rows: self.row_tiles as u64 * 16, columns: self.columns as u64 }
    }

    /// Threads of a block.
    pub const fn threads(self) -> u32 {
        self.warps * 32
    }

    /// Bytes of shared memory: two tiles of rows, two of columns per buffer, and 16 bytes for each column, which may be a query.
    pub const fn shared(self, dtype: DType) -> u64 {
        let columns = (self.buffers * self.columns) as u64;
        2 * (self.rows() as u64 + columns) * self.head as u64 * dtype.size() as u64 + 16 * columns
    }

    /// Bytes of barriers behind them, where tensor maps fill the tiles: one for the rows, and three for the columns of each buffer.
    const fn barriers(self) -> u64 {
        8 * (1 + 3 * self.buffers as u64)
    }
}

/// The tables of an element type: of kernels that own queries, of those that own keys, and of those that own pairs. As in the forward kernels, what a block keeps
/// in shared memory fits on every GPU from compute capability 8.0 on (99 KiB of a block on 8.6 and 8.9).
pub const fn backward_tiles(dtype: DType, part: Part) -> [BackwardTiles; 6] {
    match (dtype.size(), part) {
        (2, Part::Bias) => [
            tiles(32, 4, 1, 64, 1),
            tiles(64, 4, 1, 64, 1),
            tiles(96, 4, 1, 64, 1),
            tiles(128, 4, 1, 64, 1),
            tiles(192, 4, 1, 32, 1),
            tiles(256, 4, 1, 32, 1),
        ],
        (_, Part::Bias) => [
            tiles(32, 4, 1, 32, 1),
            tiles(64, 4, 1, 32, 1),
            tiles(96, 4, 1, 32, 1),
            tiles(128, 4, 1, 32, 1),
            tiles(192, 2, 1, 32, 1),
            tiles(256, 2, 1, 16, 1),
        ],
        (2, Part::Queries) => [
            tiles(32, 4, 2, 64, 2),
            tiles(64, 4, 2, 32, 2),
            tiles(96, 8, 1, 32, 2),
            tiles(128, 8, 1, 32, 2),
            tiles(192, 4, 1, 32, 2),
            tiles(256, 4, 1, 16, 2),
        ],
        (2, _) => [
            tiles(32, 4, 2, 32, 2),
            tiles(64, 4, 2, 16, 2),
            tiles(96, 8, 1, 32, 2),
            tiles(128, 8, 1, 32, 2),
            tiles(192, 4, 1, 32, 2),
            tiles(256, 4, 1, 16, 2),
        ],
        _ => [
            tiles(32, 4, 1, 32, 2),
            tiles(64, 4, 1, 32, 2),
            tiles(96, 4, 1, 16, 2),
            tiles(128, 4, 1, 16, 2),
            tiles(192, 2, 1, 16, 1),
            tiles(256, 2, 1, 16, 1),
        ],
    }
}

/// Kernels of compute capability 9.0 on 16-bit elements, that own queries and that own keys: two warpgroups that multiply, and a third that
/// copies. More columns of queries would take more registers than there are beside the sums of dk and dv.
pub const SM90A_QUERIES: [BackwardTiles; 2] = [tiles(64, 8, 1, 128, 4), tiles(128, 8, 1, 128, 2)];
const SM90A_KEYS: [BackwardTiles; 2] = [tiles(64, 8, 1, 64, 4), tiles(128, 8, 1, 64, 4)];

/// The tiles of a kernel of compute capability 9.0 for heads of up to `head` elements, or why there is none, likewise for all parts.
pub fn backward_warpgroups(head: u64, dtype: DType, general: bool, part: Part) -> Result<BackwardTiles, &'static str> {
    let own = warpgroups_take(head, dtype, general)?;
    match part {
        Part::Queries => Ok(SM90A_QUERIES[own]),
        Part::KeysAndValues => Ok(SM90A_KEYS[own]),
        Part::Keys | Part::Values | Part::Bias => Err("it makes the gradients of keys and values at once"),
    }
}

/// The kernels that make all gradients of rows of up to `head` elements. Above some size there are no registers for the sums of
/// dk and of dv at once.
pub fn parts(dtype: DType, head: u32) -> &'static [Part] {
    let together = if dtype.size() == 4 { 96 } else { 128 };
    if head <= together { &[Part::Queries, Part::KeysAndValues] } else { &[Part::Queries, Part::Keys, Part::Values] }
}

impl Part {
    /// Products of rows that a kernel computes for each pair: scores, gradients of weights, and one for each result.
    pub const fn products(self) -> u64 {
        match self {
            Part::Queries | Part::Keys => 3,
            Part::KeysAndValues => 4,
            Part::Values | Part::Bias => 2,
        }
    }
}

/// The launch of one kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// What it computes.
    pub part: Part,
    /// Which kernel of the part it is.
    pub kind: Kind,
    /// Its tiles.
    pub tiles: BackwardTiles,
    /// Tiles of rows of a batch entry and head, or of all packed sequences and a head at most; of the gradient of a bias, tiles of its
    /// own queries.
    pub row_tiles: u64,
    /// Blocks.
    pub blocks: u64,
    /// Bytes of dynamic shared memory.
    pub shared: u64,
}

impl Sweep {
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

/// How the backward operation is launched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backward {
    /// Blocks of the kernel that comes first, of [`ROWS_THREADS`] threads.
    pub rows_blocks: u64,
    /// One kernel after the other.
    pub sweeps: Vec<Sweep>,
}

/// Threads of the kernel that prepares what is known of each query; eight share one.
pub const ROWS_THREADS: u32 = 128;

impl fmt::Display for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (BackwardTiles { head, columns, warps, .. }, rows) = (self.tiles, self.tiles.rows());
        let Self { part, kind, blocks, .. } = self;
        write!(f, "{part:?}: {rows} x {columns} of up to {head} elements, {warps} warps, {kind}: {blocks} blocks")
    }
}

/// The plan of a backward operation. What has no blocks is not launched. The queries and keys of one batch entry may be those of so many
/// `sequences`, each with its own tiles. `bias` has the lengths of its gradient by batch, head, query and key, if that is wanted.
pub fn backward(
    size: &Size,
    keys: u64,
    key_heads: u64,
    sequences: Option<u64>,
    dtype: DType,
    Kinds { general, sm90a }: Kinds,
    bias: Option<[u64; 4]>,
) -> Backward {
    let rows_of = |length: u64, tile: u64| match sequences {
        None => length.div_ceil(tile),
        // Every sequence fills all its tiles but one; those without rows have none.
        Some(sequences) => length / tile + sequences.min(length),
    };
    let widest = size.head_size.max(size.value_size);
    let class = |part| {
        let table = backward_tiles(dtype, part);
        *table.iter().find(|tiles| u64::from(tiles.head) >= widest).unwrap_or(&table[table.len() - 1])
    };
    let sweep = |part: &Part| {
        let (kind, tiles) = match backward_warpgroups(widest, dtype, general, *part) {
            Ok(tiles) if sm90a => (Kind::Sm90a, tiles),
            _ if general => (Kind::General, class(*part).general()),
            _ => (Kind::Bands, class(*part)),
        };
        let (length, heads) = if *part == Part::Queries { (size.queries, size.heads) } else { (keys, key_heads) };
        let row_tiles = rows_of(length, tiles.rows().into());
        let blocks = size.batch.saturating_mul(heads).saturating_mul(row_tiles);
        let barriers = if kind == Kind::Sm90a { tiles.barriers() } else { 0 };
        Sweep { part: *part, kind, tiles, row_tiles, blocks, shared: tiles.shared(dtype) + barriers }
    };
    // One block per tile of the gradient, whatever adds to it.
    let of_bias = bias.map(|[batch, heads, queries, keys]| {
        let tiles = class(Part::Bias);
        let row_tiles = queries.div_ceil(tiles.rows().into());
        let of_head = row_tiles.saturating_mul(keys.div_ceil(tiles.columns.into()));
        let blocks = batch.saturating_mul(heads).saturating_mul(of_head);
        Sweep { part: Part::Bias, kind: Kind::General, tiles, row_tiles, blocks, shared: tiles.shared(dtype) }
    });
    let sweeps = parts(dtype, class(Part::Queries).head).iter().map(sweep).chain(of_bias).collect();
    let rows = size.batch.saturating_mul(size.heads).saturating_mul(size.queries);
    Backward { rows_blocks: rows.div_ceil(u64::from(ROWS_THREADS / 8)).min(MAX_BLOCKS), sweeps }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Kinds = Kinds { general: false, sm90a: false };
    const PARTS: [Part; 5] = [Part::Queries, Part::KeysAndValues, Part::Keys, Part::Values, Part::Bias];

    #[test]
    fn every_kernel_fits_in_a_block_of_every_gpu() {
        for (dtype, part) in [DType::F16, DType::F32].into_iter().flat_map(|dtype| PARTS.map(|part| (dtype, part))) {
            for tiles in backward_tiles(dtype, part) {
                assert!(tiles.shared(dtype) <= 99 * 1024, "{tiles:?}");
                assert_eq!(tiles.general().rows(), tiles.rows());
            }
        }
    }

    #[test]
    fn every_gradient_has_one_kernel() {
        let size = Size { batch: 2, heads: 6, queries: 129, head_size: 64, value_size: 128 };
        let of = |size: &Size, dtype| backward(size, 300, 3, None, dtype, PLAIN, None).sweeps;
        let sweeps = of(&size, DType::F16);
        assert_eq!(sweeps.iter().map(|sweep| sweep.part).collect::<Vec<_>>(), [Part::Queries, Part::KeysAndValues]);
        assert!(sweeps.iter().all(|sweep| sweep.tiles.head == 128));
        // 129 queries in 2 tiles of 128 for 12 heads, 300 keys in 3 for 6.
        assert_eq!(sweeps.iter().map(|sweep| sweep.blocks).collect::<Vec<_>>(), [24, 18]);
        let wide = Size { head_size: 129, ..size };
        let parts = of(&wide, DType::BF16).iter().map(|sweep| sweep.part).collect::<Vec<_>>();
        assert_eq!(parts, [Part::Queries, Part::Keys, Part::Values]);
        assert_eq!(of(&size, DType::F32).len(), 3);
        let packed = backward(&Size { batch: 1, ..size }, 300, 3, Some(5), DType::F16, PLAIN, None);
        assert_eq!((packed.sweeps[0].row_tiles, packed.sweeps[1].row_tiles), (6, 7));
        assert_eq!(packed.rows_blocks, 6 * 129 / 16 + 1);
        // 129 queries in 3 tiles of 64, 300 keys in 5 of 64; or one sum over all queries.
        let of_bias = |bias| {
            backward(&size, 300, 3, None, DType::F16, Kinds { general: true, sm90a: true }, Some(bias))
                .sweeps
                .pop()
                .unwrap()
        };
        assert_eq!((of_bias([1, 6, 129, 300]).part, of_bias([1, 6, 129, 300]).blocks), (Part::Bias, 6 * 3 * 5));
        assert_eq!(of_bias([2, 1, 1, 300]).blocks, 2 * 5);
    }

    #[test]
    fn warpgroups_take_what_they_are_made_for() {
        for tiles in [SM90A_QUERIES, SM90A_KEYS].concat() {
            assert!(tiles.shared(DType::F16) + tiles.barriers() <= 227 << 10, "{tiles:?}");
        }
        let size = Size { batch: 2, heads: 6, queries: 129, head_size: 64, value_size: 40 };
        let of = |size: &Size, dtype, general| {
            let sweeps = backward(size, 300, 3, None, dtype, Kinds { general, sm90a: true }, None).sweeps;
            sweeps.iter().map(|sweep| (sweep.kind, sweep.tiles.head, sweep.threads(), sweep.blocks)).collect::<Vec<_>>()
        };
        assert_eq!(of(&size, DType::BF16, false), [(Kind::Sm90a, 64, 384, 24), (Kind::Sm90a, 64, 384, 18)]);
        assert!(of(&size, DType::BF16, true).iter().all(|sweep| sweep.0 == Kind::General));
        assert!(of(&size, DType::F32, false).iter().all(|sweep| sweep.0 == Kind::Bands));
        assert!(of(&Size { value_size: 65, ..size }, DType::F16, false).iter().all(|sweep| sweep.0 == Kind::Bands));
    }
}
