//! Shared memory of one CTA.

use crate::ir::SharedLayout;
use std::fmt;

/// One array of shared memory.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Array {
    name: String,
    start: u32,
    bytes: u32,
}

/// Shared memory of one CTA: words, one valid bit per byte, and where each array begins and ends.
#[derive(Default)]
pub struct Shared {
    words: Vec<u32>,
    /// Four valid bits per word, in the low half of each byte.
    valid: Vec<u8>,
    /// Words of unfinished asynchronous copies: 1 for one that writes there, and 2 for each that reads. Empty as long as
    /// there was none.
    pending: Vec<u8>,
    /// How many of them are not 0.
    pending_words: usize,
    /// By ascending address. Gaps lie between them, so that running over the end of one is not running into the next.
    arrays: Vec<Array>,
    poison: u32,
}

/// An access to shared memory that no array holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutsideShared {
    text: String,
}

impl fmt::Display for OutsideShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Shared {
    /// Fresh shared memory: `layout` gives the static arrays, `dynamic` the bytes behind them.
    pub fn new(layout: &SharedLayout, dynamic: u32, poison: u8) -> Shared {
        let statics = layout.arrays.iter().filter(|array| array.size > 0);
        let mut arrays: Vec<Array> =
            statics.map(|array| Array { name: array.name.clone(), start: array.offset, bytes: array.size }).collect();
        if dynamic > 0 {
            let name = "the dynamic shared memory".into();
            arrays.push(Array { name, start: layout.dynamic_offset, bytes: dynamic });
        }
        arrays.sort_by_key(|array| array.start);
        let end = arrays.last().map_or(0, |array| array.start as usize + array.bytes as usize);
        let (words, poison) = (end.div_ceil(4), u32::from_ne_bytes([poison; 4]));
        Shared {
            words: vec![poison; words],
            valid: vec![0; words],
            pending: Vec::new(),
            pending_words: 0,
            arrays,
            poison,
        }
    }

    /// Makes it fresh again for the next CTA of the same launch.
    pub fn reset(&mut self) {
        self.words.fill(self.poison);
        self.valid.fill(0);
        self.pending.clear();
        self.pending_words = 0;
    }

    /// Whether any asynchronous copy is unfinished.
    #[inline(always)]
    pub(crate) fn any_pending(&self) -> bool {
        self.pending_words != 0
    }

    /// Whether one of `bytes` bytes from `at` belongs to an unfinished copy that writes there; or, for who `writes`, to
    /// one that reads.
    pub(crate) fn is_pending(&self, at: u32, bytes: u32, writes: bool) -> bool {
        let (first, end) = (at as usize / 4, (at + bytes).div_ceil(4) as usize);
        let bits = if writes { u8::MAX } else { 1 };
        self.pending.get(first..end).is_some_and(|words| words.iter().any(|word| word & bits != 0))
    }

    /// An unfinished copy writes these whole words from now on, or no longer.
    pub(crate) fn set_pending(&mut self, at: u32, bytes: u32, pending: bool) {
        self.change_pending(at, bytes, |word| if pending { word | 1 } else { word & !1 });
    }

    /// An unfinished copy reads these whole words from now on, or no longer.
    pub(crate) fn set_reading(&mut self, at: u32, bytes: u32, reading: bool) {
        self.change_pending(at, bytes, |word| if reading { word.saturating_add(2) } else { word.saturating_sub(2) });
    }

    fn change_pending(&mut self, at: u32, bytes: u32, change: impl Fn(u8) -> u8) {
        if self.pending.is_empty() {
            self.pending.resize(self.words.len(), 0);
        }
        for word in &mut self.pending[at as usize / 4..(at + bytes) as usize / 4] {
            let old = std::mem::replace(word, change(*word));
            self.pending_words += usize::from(old == 0 && *word != 0);
            self.pending_words -= usize::from(old != 0 && *word == 0);
        }
    }

    /// Says which bytes of the word at `at` were written.
    pub(crate) fn set_valid(&mut self, at: u32, bytes: u8) {
        self.valid[at as usize / 4] = bytes;
    }

    /// Words, the gaps between arrays included.
    pub(crate) fn len_words(&self) -> usize {
        self.words.len()
    }

    /// The word at byte `at`.
    #[inline(always)]
    pub(crate) fn load(&self, at: u32) -> u32 {
        self.words[at as usize / 4]
    }

    /// The words from byte `at` on.
    #[inline(always)]
    pub(crate) fn words_from(&self, at: u32, count: usize) -> &[u32] {
        &self.words[at as usize / 4..at as usize / 4 + count]
    }

    /// The valid bits of the word at byte `at`.
    #[inline(always)]
    pub(crate) fn valid(&self, at: u32) -> u8 {
        self.valid[at as usize / 4]
    }

    /// Whether every byte of `count` words from byte `at` on was written.
    #[inline(always)]
    pub(crate) fn all_valid(&self, at: u32, count: usize) -> bool {
        let valid = &self.valid[at as usize / 4..at as usize / 4 + count];
        valid.iter().fold(0xF, |all, bits| all & bits) == 0xF
    }

    /// Replaces the bytes that `bytes` selects and marks them written.
    #[inline(always)]
    pub(crate) fn store(&mut self, at: u32, value: u32, bytes: u32) {
        let index = at as usize / 4;
        let keep = !super::block::spread(bytes);
        self.words[index] = self.words[index] & keep | value & !keep;
        self.valid[index] |= bytes as u8;
    }

    /// Marks the bytes that `bytes` selects as never written.
    pub(crate) fn invalidate(&mut self, at: u32, bytes: u32) {
        self.valid[at as usize / 4] &= !(bytes as u8);
    }

    /// Whether one array holds the bytes from `min` up to `end`.
    #[inline(always)]
    pub(crate) fn one_array(&self, min: u32, end: u64) -> bool {
        self.arrays.iter().any(|array| {
            min >= array.start && end <= u64::from(array.start) + u64::from(array.bytes) && min as u64 <= end
        })
    }

    /// The array that holds byte `at`, and the offset in it: "slot[12 bytes in]".
    pub(crate) fn name(&self, at: u32) -> String {
        match self.arrays.iter().rev().find(|array| array.start <= at) {
            Some(array) if at - array.start < array.bytes => format!("byte {} of {}", at - array.start, array.name),
            _ => format!("shared offset {at}"),
        }
    }

    /// What is wrong with an access of `bytes` bytes at `at`.
    pub(crate) fn outside(&self, at: u32, bytes: u32) -> OutsideShared {
        let text = match self.arrays.iter().rev().find(|array| array.start <= at) {
            Some(Array { name, start, bytes: size }) => {
                let offset = at - start;
                if offset < *size {
                    let over = u64::from(offset) + u64::from(bytes) - u64::from(*size);
                    format!("{bytes} bytes at offset {offset} of {name} ({size} bytes), the last {over} outside")
                } else {
                    format!("{bytes} bytes, {} past the end of {name} ({size} bytes)", offset - size)
                }
            }
            None if self.arrays.is_empty() => format!("{bytes} bytes at {at:#x}, and the kernel has no shared memory"),
            None => format!("{bytes} bytes at {at:#x}, below every shared array"),
        };
        OutsideShared { text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::SharedVariable;

    fn two_arrays() -> Shared {
        let array = |name: &str, offset, size| SharedVariable { name: name.into(), offset, size, align: 4 };
        let arrays = vec![array("slot", 0, 32), array("other", 160, 8)];
        Shared::new(&SharedLayout { arrays, dynamic_offset: 304, static_bytes: 40 }, 12, 0xFF)
    }

    #[test]
    fn bounds_are_those_of_one_array() {
        let shared = two_arrays();
        assert!(shared.one_array(0, 32));
        assert!(!shared.one_array(28, 36));
        assert!(!shared.one_array(0, 164));
        assert!(shared.one_array(160, 168));
        assert!(shared.one_array(304, 316));
        assert!(!shared.one_array(304, 317));
        assert!(!shared.one_array(u32::MAX, u64::from(u32::MAX) + 4));
    }

    #[test]
    fn an_overrun_is_told_from_where_it_left() {
        let shared = two_arrays();
        assert_eq!(shared.outside(40, 4).to_string(), "4 bytes, 8 past the end of slot (32 bytes)");
        assert_eq!(shared.outside(24, 16).to_string(), "16 bytes at offset 24 of slot (32 bytes), the last 8 outside");
        assert_eq!(shared.name(164), "byte 4 of other");
        assert_eq!(
            Shared::new(&SharedLayout::default(), 0, 0).outside(0, 4).to_string(),
            "4 bytes at 0x0, and the kernel has no shared memory"
        );
    }

    #[test]
    fn stores_touch_and_validate_their_bytes_alone() {
        let mut shared = two_arrays();
        assert_eq!(shared.load(8), 0xFFFF_FFFF);
        shared.store(8, 0x1234_5678, 0b0110);
        assert_eq!((shared.load(8), shared.valid(8)), (0xFF34_56FF, 0b0110));
        assert!(!shared.all_valid(8, 1));
        shared.store(8, 0, 0b1001);
        shared.store(12, 7, 0b1111);
        assert!(shared.all_valid(8, 2));
        shared.reset();
        assert_eq!((shared.load(8), shared.valid(8)), (0xFFFF_FFFF, 0));
    }
}
