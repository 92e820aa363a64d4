//! Launch plans of the softmax family.
//!
//! Whatever changes the order of arithmetic follows from the length of a row, its element type and whether the reduced dim
//! is the last one. So a row has the same bits alone and in any batch, at any address and with any strides; the number of
//! rows and the alignment choose only how many blocks there are and how the same elements are moved.

use super::piece::{MAX_BLOCKS, Piece};
use crate::dtype::DType;
use crate::shape::Rows;
use std::fmt;

/// A row kernel: what a group of lanes holds of a row (all of it), and how many rows a group has in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rung {
    /// Lanes and vectors. The longest row is the capacity of this piece.
    pub piece: Piece,
    /// Rows in flight: with one vector per lane a single row would not keep the memory busy.
    pub in_flight: u64,
}

const fn rung(lanes: u32, vectors: u32, in_flight: u64) -> Rung {
    Rung { piece: Piece { lanes, vectors }, in_flight }
}

/// The row kernels of the forward operations, shortest rows first.
///
/// Limits follow from registers: four vectors per lane leave room for two blocks of 512 threads on a multiprocessor, and
/// 1024 lanes of eight are the most that a block can hold in 64 registers a thread.
pub const FORWARD: [Rung; 6] =
    [rung(8, 1, 4), rung(32, 1, 4), rung(32, 4, 1), rung(128, 4, 1), rung(512, 4, 1), rung(1024, 8, 1)];

/// The row kernels of the gradients. They hold two operands, so the longest rows are half as long.
pub const BACKWARD: [Rung; 6] =
    [rung(8, 1, 2), rung(32, 1, 2), rung(32, 4, 1), rung(128, 4, 1), rung(512, 4, 1), rung(1024, 4, 1)];

/// What a block of the split kernels holds at a time.
pub const FORWARD_CHUNK: Piece = Piece { lanes: 512, vectors: 4 };
/// As [`FORWARD_CHUNK`], of each of the two operands of a gradient.
pub const BACKWARD_CHUNK: Piece = Piece { lanes: 512, vectors: 2 };

/// Most slices of a row: one thread of a block merges one of them.
const MAX_SLICES: u64 = 512;

/// (longest column, threads per column, columns per block where each thread has one). A thread holds [`DEPTH`] elements of each
/// column; the last form goes through longer columns in chunks.
const COLUMNS: [(u64, u32, u32); 4] = [(8, 1, 128), (32, 4, 32), (128, 16, 16), (256, 32, 8)];

/// Threads of a block of wide columns: with 16 bytes per thread, four threads side by side already fill two sectors, and small
/// blocks leave each thread the registers for what it holds.
const WIDE_THREADS: u32 = 128;

/// Elements of a column that one thread holds at a time.
pub const DEPTH: u64 = 8;

/// How one operation of the softmax family is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// A group of lanes per row, the row in registers.
    Rows {
        /// Lanes and vectors.
        piece: Piece,
        /// Blocks.
        blocks: u64,
    },
    /// Rows too long for one block: a block per slice of a row, twice; the second kernel merges what the first left.
    Split {
        /// Slices of a row.
        slices: u32,
        /// Chunks of a slice.
        chunks_per_slice: u64,
        /// Blocks of either kernel.
        blocks: u64,
    },
    /// The reduced dim is not the last one: neighbouring lanes at neighbouring columns.
    Columns {
        /// Whether a lane holds as many columns as fill 16 bytes, else one.
        wide: bool,
        /// Lanes side by side.
        width: u32,
        /// Threads that share a column.
        height: u32,
        /// Blocks.
        blocks: u64,
        /// Bytes of dynamic shared memory.
        shared: u64,
    },
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows { piece: Piece { lanes, vectors }, blocks } => {
                write!(f, "a row fits in {lanes} lanes x {vectors} vectors: {blocks} blocks")
            }
            Self::Split { slices, chunks_per_slice, blocks } => write!(
                f,
                "a row fits in no block: {slices} slices of {chunks_per_slice} chunks per row, {blocks} blocks, twice"
            ),
            Self::Columns { wide, width, height, blocks, .. } => {
                let lane = if *wide { "16 aligned bytes of columns" } else { "one column" };
                write!(f, "rows run across memory: {lane} per lane, {width} x {height} threads, {blocks} blocks")
            }
        }
    }
}

/// The plan of a forward operation on `rows` of which at least one exists. `wide`: 16 bytes of neighbouring columns of every
/// operand are aligned (of use only where the reduced dim is not the last).
pub fn forward(rows: &Rows, dtype: DType, wide: bool) -> Plan {
    // Per column a float for the maximum and three for the sum.
    plan(rows, dtype, wide, &FORWARD, FORWARD_CHUNK, 16)
}

/// The plan of a gradient, as [`forward`].
pub fn backward(rows: &Rows, dtype: DType, wide: bool) -> Plan {
    plan(rows, dtype, wide, &BACKWARD, BACKWARD_CHUNK, 4 * backward_sum_floats(dtype))
}

/// Floats of a partial sum of a gradient: the sum and its rounding error, which in f32 takes two of them.
pub const fn backward_sum_floats(dtype: DType) -> u64 {
    if dtype.size() == 4 { 3 } else { 2 }
}

fn plan(rows: &Rows, dtype: DType, wide: bool, ladder: &[Rung], chunk: Piece, slot_bytes: u64) -> Plan {
    let count = rows.count();
    if rows.inner > 1 {
        let form = COLUMNS.iter().find(|(longest, ..)| rows.len <= *longest).unwrap_or(&COLUMNS[COLUMNS.len() - 1]);
        let (_, height, narrow_width) = *form;
        let width = if wide { WIDE_THREADS / height } else { narrow_width };
        let per_lane = if wide { 16 / dtype.size() as u64 } else { 1 };
        let columns = u64::from(width) * per_lane;
        // A slot per thread, one row of padding, and a slot per column; a column of one thread has nothing to merge.
        let slots = if height == 1 { 0 } else { columns * (u64::from(height) + 2) };
        let blocks = count.div_ceil(columns).min(MAX_BLOCKS);
        return Plan::Columns { wide, width, height, blocks, shared: slots * slot_bytes };
    }
    if let Some(Rung { piece, in_flight }) = ladder.iter().find(|rung| rung.piece.capacity(dtype) >= rows.len) {
        return Plan::Rows { piece: *piece, blocks: count.div_ceil(piece.groups() * in_flight).min(MAX_BLOCKS) };
    }
    let chunks = rows.len.div_ceil(chunk.capacity(dtype));
    let chunks_per_slice = chunks.div_ceil(MAX_SLICES);
    let slices = chunks.div_ceil(chunks_per_slice);
    // At most 512, by the choice of `chunks_per_slice`.
    Plan::Split { slices: slices as u32, chunks_per_slice, blocks: (count * slices).min(MAX_BLOCKS) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(count: u64, len: u64) -> Rows {
        Rows { position: 1, outer: count, len, inner: 1 }
    }

    fn lanes(plan: Plan) -> Option<(u32, u32)> {
        match plan {
            Plan::Rows { piece, .. } => Some((piece.lanes, piece.vectors)),
            _ => None,
        }
    }

    #[test]
    fn every_rung_and_its_edges() {
        for (dtype, scale) in [(DType::F32, 1), (DType::F16, 2), (DType::BF16, 2)] {
            for (ladder, plan) in [(FORWARD, forward as fn(&Rows, DType, bool) -> Plan), (BACKWARD, backward)] {
                let mut shortest = 1;
                for rung in ladder {
                    let want = Some((rung.piece.lanes, rung.piece.vectors));
                    let longest = u64::from(rung.piece.lanes * rung.piece.vectors) * 4 * scale;
                    assert_eq!(longest, rung.piece.capacity(dtype));
                    for len in [shortest, shortest + 1, longest - 1, longest] {
                        assert_eq!(lanes(plan(&last(3, len), dtype, false)), want, "{dtype} {len}");
                    }
                    shortest = longest + 1;
                }
                assert!(matches!(plan(&last(3, shortest), dtype, false), Plan::Split { .. }), "{dtype} {shortest}");
            }
        }
    }

    #[test]
    fn arithmetic_does_not_depend_on_the_number_of_rows() {
        for len in [1, 64, 65, 1000, 4097, 50_257, 65_537, 1 << 24] {
            let of_one = forward(&last(1, len), DType::BF16, false);
            for count in [2, 131, 132, 100_000, 1 << 33] {
                match (of_one, forward(&last(count, len), DType::BF16, true)) {
                    (Plan::Rows { piece, .. }, Plan::Rows { piece: other, .. }) => assert_eq!(piece, other),
                    (
                        Plan::Split { slices, chunks_per_slice, .. },
                        Plan::Split { slices: other_slices, chunks_per_slice: other_chunks, .. },
                    ) => assert_eq!((slices, chunks_per_slice), (other_slices, other_chunks)),
                    (one, other) => panic!("{one} for one row, {other} for {count}"),
                }
            }
        }
    }

    #[test]
    fn slices_cover_the_row_and_one_block_merges_them() {
        for len in [65_537, 1 << 20, 8_388_608, 8_388_609, 1 << 31, (1 << 40) + 12_345] {
            let Plan::Split { slices, chunks_per_slice, blocks } = forward(&last(2, len), DType::F16, false) else {
                panic!("{len} fits in a block");
            };
            let slice = chunks_per_slice * FORWARD_CHUNK.capacity(DType::F16);
            assert!(u64::from(slices) <= MAX_SLICES && blocks == 2 * u64::from(slices));
            assert!(u64::from(slices) * slice >= len && (u64::from(slices) - 1) * slice < len, "{len}");
        }
    }

    #[test]
    fn columns_by_length_and_alignment() {
        let columns = |len, inner| Rows { position: 1, outer: 5, len, inner };
        for (len, height, width) in
            [(1, 1, 128), (8, 1, 128), (9, 4, 32), (32, 4, 32), (33, 16, 16), (129, 32, 8), (9999, 32, 8)]
        {
            for wide in [false, true] {
                let Plan::Columns { wide: is_wide, width: w, height: h, shared, .. } =
                    forward(&columns(len, 64), DType::F16, wide)
                else {
                    panic!("rows run across memory");
                };
                assert_eq!((is_wide, h, w), (wide, height, if wide { 128 / height } else { width }), "{len}");
                assert!(shared <= 48 * 1024, "more needs an opt-in");
            }
        }
        let narrow = Plan::Columns { wide: false, width: 128, height: 1, blocks: 3, shared: 0 };
        assert_eq!(backward(&columns(4, 64), DType::F32, false), narrow);
        assert!(matches!(forward(&columns(4, 1), DType::F32, true), Plan::Rows { .. }), "one column is a row");
    }

    #[test]
    fn blocks_cover_all_rows_and_stay_within_a_grid() {
        assert_eq!(forward(&last(65, 10), DType::F32, false), Plan::Rows { piece: FORWARD[0].piece, blocks: 2 });
        assert_eq!(forward(&last(17, 100), DType::F32, false), Plan::Rows { piece: FORWARD[1].piece, blocks: 2 });
        assert_eq!(forward(&last(9, 10_000), DType::F32, false), Plan::Rows { piece: FORWARD[5].piece, blocks: 9 });
        assert_eq!(
            backward(&last(1 << 45, 3), DType::F16, false),
            Plan::Rows { piece: BACKWARD[0].piece, blocks: MAX_BLOCKS }
        );
    }

    #[test]
    fn a_plan_says_why() {
        let text = forward(&last(9, 10_000), DType::F32, false).to_string();
        assert_eq!(text, "a row fits in 1024 lanes x 8 vectors: 9 blocks");
        assert!(
            forward(&last(1, 1 << 20), DType::F32, false).to_string().starts_with("a row fits in no block: 128 slices")
        );
    }
}
