//! Launch plans of the losses.

use super::Caps;
use super::piece::{MAX_BLOCKS, Piece};
use crate::dtype::DType;

/// Pieces of the forward kernels, smallest first. The largest takes longer rows piece by piece.
pub const FORWARD: [Piece; 4] = [
    Piece { lanes: 8, vectors: 1 },
    Piece { lanes: 32, vectors: 4 },
    Piece { lanes: 256, vectors: 4 },
    Piece { lanes: 1024, vectors: 4 },
];

/// Pieces of the backward kernels, smallest first. Pieces of one row are independent of each other.
pub const BACKWARD: [Piece; 3] =
    [Piece { lanes: 8, vectors: 1 }, Piece { lanes: 32, vectors: 4 }, Piece { lanes: 256, vectors: 4 }];

/// Classes that one thread of the column kernel walks through.
pub const COLUMN_PIECE: u64 = 16;

/// Threads of a block of the column kernel.
pub const COLUMN_THREADS: u32 = 256;

/// Rows that one block of the collecting kernel adds up.
pub const CHUNK: u64 = 4096;

/// Threads of a block of the two kernels that add the losses up.
pub const COLLECT_THREADS: u32 = 256;

/// Elements that one thread of the binary cross-entropy kernels holds at a time.
pub const BINARY_UNIT: u64 = 4;

/// How the gradient is cut into threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backward {
    /// The class dim is the last one: a group of lanes per piece of a row.
    Rows {
        /// What a group of lanes holds.
        piece: Piece,
        /// Pieces per row.
        pieces: u64,
        /// Blocks.
        blocks: u64,
    },
    /// The class dim is another one: a thread per position and 16 classes, neighbours at neighbouring positions.
    Columns {
        /// Pieces per row.
        pieces: u64,
        /// Blocks.
        blocks: u64,
    },
}

/// The first piece that holds a whole row of `classes`, or the largest. Only the number of classes and the element type
/// decide, so the bits of a row never depend on how many rows there are or how they lie in memory.
fn smallest(pieces: &[Piece], classes: u64, dtype: DType) -> Piece {
    let fits = pieces.iter().find(|piece| piece.capacity(dtype) >= classes);
    *fits.or(pieces.last()).expect("a ladder has rungs")
}

/// The forward kernel for `rows` rows, and its number of blocks.
pub fn forward(classes: u64, rows: u64, dtype: DType) -> (Piece, u64) {
    let piece = smallest(&FORWARD, classes, dtype);
    (piece, rows.div_ceil(piece.groups()).min(MAX_BLOCKS))
}

/// How loss and gradient are computed together, classes along the last dim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fused {
    /// What a group of lanes holds: as forward, so that the bits of the losses are the same.
    pub piece: Piece,
    /// Pieces of a row that stay in shared memory. The last one stays in registers; what lies between is read twice.
    pub stashed: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u64,
    /// Blocks.
    pub blocks: u64,
}

/// Static shared memory of the fused kernels, and some to spare.
const FUSED_STATIC: u64 = 1024;

/// The kernel for loss and gradient of `rows` rows.
pub fn fused(classes: u64, rows: u64, dtype: DType, caps: &Caps) -> Fused {
    let (piece, blocks) = forward(classes, rows, dtype);
    let bytes = piece.capacity(dtype) * dtype.size() as u64;
    let room = u64::from(caps.max_shared_optin).saturating_sub(FUSED_STATIC) / bytes;
    let stashed = (classes.div_ceil(piece.capacity(dtype)) - 1).min(room);
    Fused { piece, stashed: stashed as u32, shared: stashed * bytes, blocks }
}

/// The backward kernel for `rows` rows, `inner` of which follow each other between two classes of the output.
pub fn backward(classes: u64, rows: u64, inner: u64, dtype: DType) -> Backward {
    if inner > 1 {
        let pieces = classes.div_ceil(COLUMN_PIECE);
        let blocks = (rows * pieces).div_ceil(u64::from(COLUMN_THREADS)).min(MAX_BLOCKS);
        return Backward::Columns { pieces, blocks };
    }
    let piece = smallest(&BACKWARD, classes, dtype);
    let pieces = classes.div_ceil(piece.capacity(dtype));
    Backward::Rows { piece, pieces, blocks: (rows * pieces).div_ceil(piece.groups()).min(MAX_BLOCKS) }
}

/// Blocks of the forward kernel of binary cross-entropy, each for one chunk of elements at a time.
pub fn binary_chunks(elements: u64) -> u64 {
    chunks(elements).min(MAX_BLOCKS)
}

/// Blocks of the backward kernel of binary cross-entropy.
pub fn binary_backward(elements: u64) -> u64 {
    elements.div_ceil(BINARY_UNIT).div_ceil(u64::from(COLLECT_THREADS)).min(MAX_BLOCKS)
}

/// Blocks of the collecting kernel, one per chunk of rows.
pub fn chunks(rows: u64) -> u64 {
    rows.div_ceil(CHUNK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rung_and_its_edges() {
        for (classes, dtype, lanes) in [
            (1, DType::F32, 8),
            (32, DType::F32, 8),
            (33, DType::F32, 32),
            (64, DType::F16, 8),
            (65, DType::BF16, 32),
            (512, DType::F32, 32),
            (513, DType::F32, 256),
            (1024, DType::F16, 32),
            (1025, DType::F16, 256),
            (4096, DType::F32, 256),
            (4097, DType::F32, 1024),
            (8193, DType::BF16, 1024),
            (262_144, DType::F32, 1024),
        ] {
            assert_eq!(forward(classes, 5, dtype).0.lanes, lanes, "{classes} classes of {dtype}");
        }
    }

    #[test]
    fn a_row_stays_on_the_multiprocessor_where_it_fits() {
        let caps = |max_shared_optin| Caps {
            compute_capability: (9, 0),
            sm_count: 132,
            max_threads_per_sm: 2048,
            shared_per_sm: 228 << 10,
            max_shared_optin,
            l2_bytes: 50 << 20,
        };
        let (ampere, hopper) = (caps(163 << 10), caps(227 << 10));
        for (classes, dtype, caps, stashed) in [
            (1000, DType::BF16, hopper, 0),
            (32_768, DType::BF16, hopper, 0),
            (32_769, DType::BF16, hopper, 1),
            (128_256, DType::BF16, hopper, 3),
            (262_144, DType::BF16, hopper, 3),
            (128_256, DType::F16, ampere, 2),
            (50_257, DType::F32, hopper, 3),
            (1 << 40, DType::F32, ampere, 2),
        ] {
            let plan = fused(classes, 7, dtype, &caps);
            assert_eq!(
                (plan.stashed, plan.shared),
                (stashed, u64::from(stashed) << 16),
                "{classes} classes of {dtype}"
            );
            assert_eq!((plan.piece, plan.blocks), forward(classes, 7, dtype));
        }
    }

    #[test]
    fn the_kernel_does_not_depend_on_the_number_of_rows() {
        for classes in [1, 100, 1000, 50_257, 262_144] {
            let piece = forward(classes, 1, DType::BF16).0;
            assert!([2, 1000, u64::from(u32::MAX)].iter().all(|&rows| forward(classes, rows, DType::BF16).0 == piece));
        }
    }

    #[test]
    fn blocks_cover_all_rows_and_stay_within_a_grid() {
        assert_eq!(forward(10, 17, DType::F32), (FORWARD[0], 2));
        assert_eq!(forward(50_257, 3, DType::F32), (FORWARD[3], 3));
        assert_eq!(forward(10, u64::MAX / 64, DType::F32).1, MAX_BLOCKS);
        let long = backward(50_257, 3, 1, DType::F32);
        assert_eq!(long, Backward::Rows { piece: BACKWARD[2], pieces: 13, blocks: 39 });
        assert_eq!(backward(19, 1000, 10, DType::F16), Backward::Columns { pieces: 2, blocks: 8 });
        assert_eq!((binary_chunks(4097), binary_chunks(u64::MAX / 8)), (2, MAX_BLOCKS));
        assert_eq!((binary_backward(1), binary_backward(1025), binary_backward(u64::MAX / 8)), (1, 2, MAX_BLOCKS));
        assert_eq!((chunks(0), chunks(1), chunks(4096), chunks(4097)), (0, 1, 1, 2));
    }
}
