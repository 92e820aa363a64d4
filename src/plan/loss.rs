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

/// Pieces of the divergence kernels, which hold two of them, smallest first. The largest takes longer rows piece by piece.
pub const DIVERGENCE: [Piece; 4] = [
    Piece { lanes: 8, vectors: 1 },
    Piece { lanes: 32, vectors: 2 },
    Piece { lanes: 128, vectors: 4 },
    Piece { lanes: 512, vectors: 4 },
];

/// Pieces of the kernels in which every class has a share of the loss, smallest first. The largest takes longer rows piece by piece.
pub const DENSE: [Piece; 3] =
    [Piece { lanes: 8, vectors: 1 }, Piece { lanes: 32, vectors: 4 }, Piece { lanes: 512, vectors: 2 }];

/// Most classes along a dim other than the last whose forward pass takes the column kernel, with one thread per position. Longer
/// rows would keep a thread for too long, and there are threads enough if each row has many.
pub const COLUMN_CLASSES: u64 = 256;

/// Classes that one thread of the column kernel's backward pass walks through.
pub const COLUMN_PIECE: u64 = 16;

/// Threads of a block of the column kernel.
pub const COLUMN_THREADS: u32 = 256;

/// Rows that one block of the collecting kernel adds up.
pub const CHUNK: u64 = 4096;

/// Threads of a block of the two kernels that add the losses up.
pub const COLLECT_THREADS: u32 = 256;

/// Elements that one thread of the binary cross-entropy kernels holds at a time.
pub const BINARY_UNIT: u64 = 4;

/// How the forward pass is cut into threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// A group of lanes per row.
    Rows {
        /// What a group of lanes holds.
        piece: Piece,
        /// Blocks.
        blocks: u64,
    },
    /// The class dim is not the last, and short: a thread per position, neighbours at neighbouring positions.
    Columns {
        /// Blocks.
        blocks: u64,
    },
}

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

/// The forward kernel for `rows` rows, `inner` of which follow each other between two classes of contiguous logits.
pub fn forward(classes: u64, rows: u64, inner: u64, dtype: DType, dense: bool) -> Forward {
    if inner > 1 && classes <= COLUMN_CLASSES {
        return Forward::Columns { blocks: rows.div_ceil(u64::from(COLUMN_THREADS)).min(MAX_BLOCKS) };
    }
    let piece = smallest(if dense { &DENSE } else { &FORWARD }, classes, dtype);
    Forward::Rows { piece, blocks: rows.div_ceil(piece.groups()).min(MAX_BLOCKS) }
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
const FUSED_STATIC: u64 = 2048;

/// The kernel for loss and gradient of `rows` rows; `dense` as for [`forward`].
pub fn fused(classes: u64, rows: u64, dtype: DType, dense: bool, caps: &Caps) -> Fused {
    let piece = smallest(if dense { &DENSE } else { &FORWARD }, classes, dtype);
    let blocks = rows.div_ceil(piece.groups()).min(MAX_BLOCKS);
    let bytes = piece.capacity(dtype) * dtype.size() as u64;
    let room = u64::from(caps.max_shared_optin).saturating_sub(FUSED_STATIC) / bytes;
    let stashed = (classes.div_ceil(piece.capacity(dtype)) - 1).min(room);
    Fused { piece, stashed: stashed as u32, shared: stashed * bytes, blocks }
}

/// The backward kernel for `rows` rows, `inner` of which follow each other between two classes of the output.
pub fn backward(classes: u64, rows: u64, inner: u64, dtype: DType, dense: bool) -> Backward {
    if inner > 1 {
        let pieces = classes.div_ceil(COLUMN_PIECE);
        let blocks = (rows * pieces).div_ceil(u64::from(COLUMN_THREADS)).min(MAX_BLOCKS);
        return Backward::Columns { pieces, blocks };
    }
    let piece = smallest(if dense { &DENSE } else { &BACKWARD }, classes, dtype);
    let pieces = classes.div_ceil(piece.capacity(dtype));
    Backward::Rows { piece, pieces, blocks: (rows * pieces).div_ceil(piece.groups()).min(MAX_BLOCKS) }
}

/// The divergence kernel, either way, for `rows` rows of `length` elements, and its number of blocks.
pub fn divergence(length: u64, rows: u64, dtype: DType) -> (Piece, u64) {
    let piece = smallest(&DIVERGENCE, length, dtype);
    (piece, rows.div_ceil(piece.groups()).min(MAX_BLOCKS))
}

/// Blocks of a kernel of the loss of log-probabilities, with a thread for each row, or for 16 bytes.
pub fn nll(items: u64) -> u64 {
    items.div_ceil(u64::from(COLLECT_THREADS)).min(MAX_BLOCKS)
}

/// Blocks of a kernel that moves so many chosen elements, with a thread for each.
pub fn chosen(items: u64) -> u64 {
    items.div_ceil(u64::from(COLLECT_THREADS)).min(MAX_BLOCKS)
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
            let Forward::Rows { piece, blocks } = forward(classes, 5, 1, dtype, false) else { panic!("columns") };
            assert_eq!((piece.lanes, blocks), (lanes, 5u64.div_ceil(piece.groups())), "{classes} classes of {dtype}");
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
        for (classes, dtype, dense, caps, stashed) in [
            (1000, DType::BF16, false, hopper, 0),
            (32_768, DType::BF16, false, hopper, 0),
            (32_769, DType::BF16, false, hopper, 1),
            (128_256, DType::BF16, false, hopper, 3),
            (262_144, DType::BF16, false, hopper, 3),
            (128_256, DType::F16, false, ampere, 2),
            (50_257, DType::F32, false, hopper, 3),
            (1 << 40, DType::F32, false, ampere, 2),
            (1000, DType::BF16, true, hopper, 0),
            (8193, DType::BF16, true, hopper, 1),
            (128_256, DType::BF16, true, hopper, 14),
            (128_256, DType::BF16, true, ampere, 10),
        ] {
            let plan = fused(classes, 7, dtype, dense, &caps);
            let bytes = if dense { 1u64 << 14 } else { 1 << 16 };
            assert_eq!(
                (plan.stashed, plan.shared),
                (stashed, u64::from(stashed) * bytes),
                "{classes} classes of {dtype}"
            );
            let Fused { piece, blocks, .. } = plan;
            assert_eq!(Forward::Rows { piece, blocks }, forward(classes, 7, 1, dtype, dense));
        }
    }

    #[test]
    fn the_kernel_does_not_depend_on_the_number_of_rows() {
        for classes in [1, 100, 1000, 50_257, 262_144] {
            for (inner, dense) in [(1, false), (1, true), (7, false), (7, true)] {
                let kernel = |rows| match forward(classes, rows, inner, DType::BF16, dense) {
                    Forward::Rows { piece, .. } => Some(piece),
                    Forward::Columns { .. } => None,
                };
                assert!([2, 1000, u64::from(u32::MAX)].iter().all(|&rows| kernel(rows) == kernel(1)));
                assert_eq!(kernel(1).is_none(), inner > 1 && classes <= 100);
            }
        }
    }

    #[test]
    fn blocks_cover_all_rows_and_stay_within_a_grid() {
        let rows = |piece, blocks| Forward::Rows { piece, blocks };
        assert_eq!(forward(10, 17, 1, DType::F32, false), rows(FORWARD[0], 2));
        assert_eq!(forward(50_257, 3, 1, DType::F32, false), rows(FORWARD[3], 3));
        assert_eq!(forward(50_257, 3, 9, DType::F32, true), rows(DENSE[2], 3));
        assert_eq!(forward(10, u64::MAX / 64, 1, DType::F32, false), rows(FORWARD[0], MAX_BLOCKS));
        assert_eq!(forward(19, 1000, 10, DType::F16, true), Forward::Columns { blocks: 4 });
        let long = backward(50_257, 3, 1, DType::F32, false);
        assert_eq!(long, Backward::Rows { piece: BACKWARD[2], pieces: 13, blocks: 39 });
        assert_eq!(backward(19, 1000, 10, DType::F16, true), Backward::Columns { pieces: 2, blocks: 8 });
        assert_eq!(divergence(10, 17, DType::F32), (DIVERGENCE[0], 2));
        assert_eq!(divergence(257, 17, DType::F32), (DIVERGENCE[2], 17));
        assert_eq!(divergence(50_257, u64::MAX, DType::F32), (DIVERGENCE[3], MAX_BLOCKS));
        assert_eq!((nll(1), nll(257), nll(u64::MAX)), (1, 2, MAX_BLOCKS));
        assert_eq!((chosen(1), chosen(257), chosen(u64::MAX)), (1, 2, MAX_BLOCKS));
        assert_eq!((binary_chunks(4097), binary_chunks(u64::MAX / 8)), (2, MAX_BLOCKS));
        assert_eq!((binary_backward(1), binary_backward(1025), binary_backward(u64::MAX / 8)), (1, 2, MAX_BLOCKS));
        assert_eq!((chunks(0), chunks(1), chunks(4096), chunks(4097)), (0, 1, 1, 2));
    }
}
