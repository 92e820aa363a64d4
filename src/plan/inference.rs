//! Launch plans of what is read off logits without a gradient.

use super::piece::{MAX_BLOCKS, Piece};
use crate::dtype::DType;
use crate::shape::Rows;

/// Pieces of the row kernels, smallest first. The largest takes longer rows piece by piece, so a row has a block of 1024 lanes
/// to itself where there may be few rows.
pub const ROWS: [Piece; 4] = [
    Piece { lanes: 8, vectors: 1 },
    Piece { lanes: 32, vectors: 4 },
    Piece { lanes: 256, vectors: 4 },
    Piece { lanes: 1024, vectors: 4 },
];

/// (longest column, columns per block, threads per column). 32 neighbours fill whole sectors of any element type, and the last
/// form goes through longer columns in chunks.
const COLUMNS: [(u64, u32, u32); 3] = [(16, 128, 1), (256, 32, 8), (u64::MAX, 32, 32)];

/// Pieces of the top-k kernels, which give a block to every row, whatever its dim. The larger one takes longer rows piece by piece.
pub const TOP_K: [Piece; 2] = [Piece { lanes: 128, vectors: 1 }, Piece { lanes: 1024, vectors: 4 }];

/// Most elements that may be asked of a row: their ranks are sorted in shared memory.
pub const TOP_K_MOST: u64 = 1024;

/// How an operation that reduces rows is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// A group of lanes per row.
    Rows {
        /// What a group holds at a time.
        piece: Piece,
        /// Blocks.
        blocks: u64,
    },
    /// The reduced dim is not the last one: neighbouring threads at neighbouring columns.
    Columns {
        /// Columns side by side.
        width: u32,
        /// Threads that share a column.
        height: u32,
        /// Blocks.
        blocks: u64,
        /// Slots of a collective: one per thread and two per column; none where a column has one thread.
        slots: u64,
    },
}

/// The plan for `rows` of which at least one exists. What decides is the length of a row, its element type and whether the
/// reduced dim is the last one: the number of rows chooses only how many blocks there are.
pub fn plan(rows: &Rows, dtype: DType) -> Plan {
    let count = rows.count();
    if rows.inner > 1 {
        let form = COLUMNS.iter().find(|(longest, ..)| rows.len <= *longest);
        let (_, width, height) = *form.expect("the last form takes any column");
        let slots = if height == 1 { 0 } else { u64::from(width) * (u64::from(height) + 2) };
        return Plan::Columns { width, height, blocks: count.div_ceil(u64::from(width)).min(MAX_BLOCKS), slots };
    }
    let fits = ROWS.iter().find(|piece| piece.capacity(dtype) >= rows.len);
    let piece = *fits.or(ROWS.last()).expect("a ladder has rungs");
    Plan::Rows { piece, blocks: count.div_ceil(piece.groups()).min(MAX_BLOCKS) }
}

/// The top-k kernel for `rows` of which at least one exists, and its number of blocks.
pub fn top_k(rows: &Rows, dtype: DType) -> (Piece, u64) {
    let fits = TOP_K.iter().find(|piece| piece.capacity(dtype) >= rows.len);
    (*fits.or(TOP_K.last()).expect("a ladder has rungs"), rows.count().min(MAX_BLOCKS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(outer: u64, len: u64, inner: u64) -> Rows {
        Rows { position: 1, outer, len, inner }
    }

    #[test]
    fn every_rung_and_its_edges() {
        for (len, dtype, lanes) in [
            (1, DType::F32, 8),
            (32, DType::F32, 8),
            (33, DType::F32, 32),
            (64, DType::F16, 8),
            (65, DType::BF16, 32),
            (512, DType::F32, 32),
            (513, DType::F32, 256),
            (1025, DType::F16, 256),
            (4097, DType::F32, 1024),
            (262_144, DType::BF16, 1024),
        ] {
            for count in [1, 7, 100_000] {
                let Plan::Rows { piece, .. } = plan(&rows(count, len, 1), dtype) else {
                    panic!("{len} along the last dim")
                };
                assert_eq!(piece.lanes, lanes, "{len} of {dtype}");
            }
        }
    }

    #[test]
    fn columns_by_length() {
        for (len, width, height) in
            [(1, 128, 1), (16, 128, 1), (17, 32, 8), (256, 32, 8), (257, 32, 32), (1 << 40, 32, 32)]
        {
            for outer in [1, 1000] {
                let Plan::Columns { width: w, height: h, slots, .. } = plan(&rows(outer, len, 5), DType::F16) else {
                    panic!("rows run across memory");
                };
                assert_eq!((w, h), (width, height), "{len}");
                assert_eq!(slots, if h == 1 { 0 } else { u64::from(w * (h + 2)) });
            }
        }
        assert!(matches!(plan(&rows(3, 40, 1), DType::F32), Plan::Rows { .. }), "one column is a row");
    }

    #[test]
    fn blocks_cover_all_rows_and_stay_within_a_grid() {
        assert_eq!(plan(&rows(17, 10, 1), DType::F32), Plan::Rows { piece: ROWS[0], blocks: 2 });
        assert_eq!(plan(&rows(3, 50_257, 1), DType::F32), Plan::Rows { piece: ROWS[3], blocks: 3 });
        assert_eq!(plan(&rows(1 << 40, 10, 1), DType::F32), Plan::Rows { piece: ROWS[0], blocks: MAX_BLOCKS });
        let columns = Plan::Columns { width: 32, height: 8, blocks: 4, slots: 320 };
        assert_eq!(plan(&rows(2, 100, 64), DType::F32), columns);
        assert_eq!(top_k(&rows(17, 512, 1), DType::F32), (TOP_K[0], 17));
        assert_eq!(top_k(&rows(1 << 40, 513, 2), DType::F32), (TOP_K[1], MAX_BLOCKS));
        assert_eq!(top_k(&rows(3, 1024, 1), DType::F16), (TOP_K[0], 3));
    }
}
