//! Launch plans of operations on single elements.

use super::piece::MAX_BLOCKS;
use crate::dtype::DType;

/// Threads of a block.
pub const THREADS: u32 = 256;

/// Elements that a thread holds at a time: 16 bytes.
pub const fn unit(dtype: DType) -> u64 {
    16 / dtype.size() as u64
}

/// Blocks for so many elements.
pub fn blocks(elements: u64, dtype: DType) -> u64 {
    elements.div_ceil(unit(dtype)).div_ceil(u64::from(THREADS)).min(MAX_BLOCKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_all_elements() {
        assert_eq!(blocks(1, DType::F32), 1);
        assert_eq!(blocks(1024, DType::F32), 1);
        assert_eq!(blocks(1025, DType::F32), 2);
        assert_eq!(blocks(2049, DType::BF16), 2);
        assert_eq!(blocks(u64::MAX / 16, DType::F16), MAX_BLOCKS);
    }
}
