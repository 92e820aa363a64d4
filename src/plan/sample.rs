//! Launch plans of what is drawn at random.

use super::piece::{MAX_BLOCKS, Piece};
use crate::dtype::DType;

/// Pieces of the sampling kernels, smallest first. The largest takes longer rows piece by piece.
pub const SAMPLE: [Piece; 3] =
    [Piece { lanes: 32, vectors: 4 }, Piece { lanes: 256, vectors: 4 }, Piece { lanes: 1024, vectors: 2 }];

/// Longest row that is sampled from: the masses of so many entries still add up in 62 bits, 30 of them behind the point.
pub const LONGEST: u64 = 1 << 31;

/// How rows are shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What a group of lanes holds at a time.
    pub piece: Piece,
    /// Blocks.
    pub blocks: u64,
}

/// The plan for `rows` rows, at least one, of `length` elements along any dim. The number of rows chooses only how many blocks
/// there are.
pub fn sample(rows: u64, length: u64, dtype: DType) -> Plan {
    choose(&SAMPLE, rows, length, dtype)
}

fn choose(ladder: &[Piece], rows: u64, length: u64, dtype: DType) -> Plan {
    let fits = ladder.iter().find(|piece| piece.capacity(dtype) >= length);
    let piece = *fits.or(ladder.last()).expect("a ladder has rungs");
    Plan { piece, blocks: rows.div_ceil(piece.groups()).min(MAX_BLOCKS) }
}

/// log2 of the units of mass that the largest entry of a row weighs: with `length` times as many, sums stay below 2^62.
pub fn one_log2(length: u64) -> u32 {
    62 - (u64::BITS - length.leading_zeros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rungs_and_their_edges() {
        for (length, dtype, lanes) in [
            (1, DType::F32, 32),
            (512, DType::F32, 32),
            (513, DType::F32, 256),
            (1024, DType::BF16, 32),
            (4096, DType::F32, 256),
            (4097, DType::F32, 1024),
            (8193, DType::F16, 1024),
            (262_144, DType::F32, 1024),
        ] {
            assert_eq!(sample(3, length, dtype).piece.lanes, lanes, "{length} of {dtype}");
        }
        assert_eq!(sample(5, 10, DType::F32).blocks, 2);
        assert_eq!(sample(1 << 40, 10, DType::F32).blocks, MAX_BLOCKS);
    }

    #[test]
    fn masses_of_the_longest_rows_add_up() {
        for length in [1, 2, 3, 50_257, 1 << 18, (1 << 18) - 1, LONGEST] {
            let total = u128::from(length) << one_log2(length);
            assert!((1 << 60..1 << 62).contains(&total), "{length}: {total:e}");
        }
        assert_eq!((one_log2(1), one_log2(128_256), one_log2(LONGEST)), (61, 45, 30));
    }
}
