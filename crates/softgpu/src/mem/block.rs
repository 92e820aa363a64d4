//! A block: a run of device words with one valid bit per byte.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Words of device memory and their valid bits.
///
/// Every access from the host goes through relaxed 32-bit atomics, and through nothing wider or narrower. Kernels of
/// different host threads may touch one word at the same time, just as on a GPU; that is a race of the kernels, and
/// must not become undefined behaviour of the interpreter.
pub struct Block {
    words: Box<[AtomicU32]>,
    /// Bit `i % 32` of word `i / 32` says whether byte `i` was ever written.
    valid: Box<[AtomicU32]>,
}

impl Block {
    /// A block of `bytes` bytes, each holding `fill`, all valid or all invalid.
    pub(crate) fn new(bytes: usize, fill: u32, valid: bool) -> Block {
        let words = (0..bytes.div_ceil(4)).map(|_| AtomicU32::new(fill)).collect();
        let bits = if valid { u32::MAX } else { 0 };
        Block { words, valid: (0..bytes.div_ceil(32)).map(|_| AtomicU32::new(bits)).collect() }
    }

    /// A block whose word at byte `4 * i` is `word(i)`, all of it valid.
    pub(crate) fn generated(bytes: usize, word: impl Fn(usize) -> u32) -> Block {
        let words = (0..bytes.div_ceil(4)).map(|i| AtomicU32::new(word(i))).collect();
        Block { words, valid: (0..bytes.div_ceil(32)).map(|_| AtomicU32::new(u32::MAX)).collect() }
    }

    /// The words, for the interpreter's inner loops.
    #[inline(always)]
    pub(crate) fn words(&self) -> &[AtomicU32] {
        &self.words
    }

    /// The word at byte offset `at`, which is a multiple of four.
    #[inline(always)]
    pub(crate) fn load(&self, at: usize) -> u32 {
        self.words[at / 4].load(Relaxed)
    }

    /// Replaces the bytes of the word at `at` that `bytes` selects (bit 0 = lowest address).
    #[inline(always)]
    pub(crate) fn store(&self, at: usize, value: u32, bytes: u32) {
        let word = &self.words[at / 4];
        if bytes & 0xF == 0xF {
            word.store(value, Relaxed);
        } else {
            let keep = !spread(bytes);
            // Bytes beside the stored ones may be written by another launch at this moment: replace ours alone.
            let _ = word.fetch_update(Relaxed, Relaxed, |old| Some(old & keep | value & !keep));
        }
    }

    /// Marks `count` bytes from `at` as written.
    pub(crate) fn set_valid(&self, at: usize, count: usize) {
        for_bits(at, count, |word, bits| {
            if bits == u32::MAX {
                self.valid[word].store(bits, Relaxed);
            } else {
                self.or_valid(word, bits);
            }
        });
    }

    /// Sets some bits of one word of the valid map.
    #[inline(always)]
    pub(crate) fn or_valid(&self, word: usize, bits: u32) {
        // The locked operation is five times dearer than the load, and most words are stored to again and again.
        if self.valid[word].load(Relaxed) & bits != bits {
            self.valid[word].fetch_or(bits, Relaxed);
        }
    }

    /// Marks `count` bytes from `at` as never written.
    pub(crate) fn set_invalid(&self, at: usize, count: usize) {
        for_bits(at, count, |word, bits| {
            self.valid[word].fetch_and(!bits, Relaxed);
        });
    }

    /// The 32 valid bits that cover byte `at`.
    #[inline(always)]
    pub(crate) fn valid_word(&self, at: usize) -> u32 {
        self.valid[at / 32].load(Relaxed)
    }

    /// Whether byte `at` was written.
    #[inline(always)]
    pub(crate) fn is_valid(&self, at: usize) -> bool {
        self.valid_word(at) >> (at % 32) & 1 != 0
    }

    /// Whether all of `count` bytes from `at` were written.
    #[inline(always)]
    pub(crate) fn all_valid(&self, at: usize, count: usize) -> bool {
        if count == 0 {
            return true;
        }
        let (first, last) = (at / 32, (at + count - 1) / 32);
        let head = u32::MAX << (at % 32);
        let tail = u32::MAX >> (31 - (at + count - 1) % 32);
        if first == last {
            let bits = head & tail;
            return self.valid[first].load(Relaxed) & bits == bits;
        }
        self.valid[first].load(Relaxed) & head == head
            && self.valid[last].load(Relaxed) & tail == tail
            && self.valid[first + 1..last].iter().all(|word| word.load(Relaxed) == u32::MAX)
    }

    /// The first byte in `at..at + count` that was never written.
    pub(crate) fn first_invalid(&self, at: usize, count: usize) -> Option<usize> {
        if self.all_valid(at, count) {
            return None;
        }
        (at..at + count).find(|&byte| !self.is_valid(byte))
    }

    /// Copies bytes out.
    pub(crate) fn read(&self, at: usize, out: &mut [u8]) {
        let mut done = 0;
        while done < out.len() {
            let (word, skip) = ((at + done) / 4 * 4, (at + done) % 4);
            let count = (4 - skip).min(out.len() - done);
            out[done..done + count].copy_from_slice(&self.load(word).to_le_bytes()[skip..skip + count]);
            done += count;
        }
    }

    /// Copies bytes in and marks them written.
    pub(crate) fn write(&self, at: usize, data: &[u8]) {
        let mut done = 0;
        while done < data.len() {
            let (word, skip) = ((at + done) / 4 * 4, (at + done) % 4);
            let count = (4 - skip).min(data.len() - done);
            let mut bytes = [0; 4];
            bytes[skip..skip + count].copy_from_slice(&data[done..done + count]);
            self.store(word, u32::from_le_bytes(bytes), ((1 << count) - 1) << skip);
            done += count;
        }
        self.set_valid(at, data.len());
    }
}

/// Widens a mask of four bits, one per byte, to a mask of 32 bits.
#[inline(always)]
pub(crate) fn spread(bytes: u32) -> u32 {
    let bits = bytes & 0xF;
    // Each bit lands at the bottom of its byte; times 255 fills the byte.
    ((bits | bits << 7 | bits << 14 | bits << 21) & 0x0101_0101) * 0xFF
}

/// Calls `f(word, bits)` for each word of a bit map that `count` bits from `at` touch.
fn for_bits(at: usize, count: usize, mut f: impl FnMut(usize, u32)) {
    let end = at + count;
    let mut from = at;
    while from < end {
        let to = (from / 32 + 1) * 32;
        let upto = to.min(end);
        let bits = (u32::MAX << (from % 32)) & (u32::MAX >> (to - upto));
        f(from / 32, bits);
        from = upto;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_widens_each_bit_to_a_byte() {
        assert_eq!(spread(0b0001), 0x0000_00FF);
        assert_eq!(spread(0b1010), 0xFF00_FF00);
        assert_eq!(spread(0b1111), 0xFFFF_FFFF);
        assert_eq!(spread(0), 0);
    }

    #[test]
    fn bytes_written_are_read_back_and_nothing_beside_them_changes() {
        let block = Block::new(64, 0xFFFF_FFFF, false);
        block.write(3, &[1, 2, 3, 4, 5, 6]);
        let mut out = [0; 12];
        block.read(0, &mut out);
        assert_eq!(out, [255, 255, 255, 1, 2, 3, 4, 5, 6, 255, 255, 255]);
        let valid: Vec<usize> = (0..64).filter(|&i| block.is_valid(i)).collect();
        assert_eq!(valid, [3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn valid_ranges_are_exact_at_every_edge() {
        for from in 0..70 {
            for count in 0..70 {
                let block = Block::new(160, 0, false);
                block.set_valid(from, count);
                assert!(block.all_valid(from, count), "{from}+{count}");
                assert_eq!((0..160).filter(|&i| block.is_valid(i)).count(), count);
                assert!(!block.all_valid(from, count + 1));
                assert_eq!(block.first_invalid(from, count + 1), Some(from + count));
                block.set_invalid(from, count);
                assert!((0..160).all(|i| !block.is_valid(i)));
            }
        }
    }
}
