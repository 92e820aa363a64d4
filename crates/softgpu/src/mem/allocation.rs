//! One allocation of device memory: dense words, or pages made at their first write.

use super::block::Block;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{OnceLock, RwLock};

/// Allocations above this many bytes are made of pages.
pub const SPARSE_ABOVE: u64 = 64 << 20;
/// Bytes of one page of a sparse allocation.
pub const PAGE_BYTES: u64 = 64 << 10;
/// Pages of one chunk of the page table: the table itself is made in chunks, at the first write into each.
const CHUNK_PAGES: u64 = 1024;

/// What an allocation holds before anybody writes to it. Results must not depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Poison {
    /// Bytes of 0xFF: NaN in every float type, -1 as an index, never a valid pointer.
    #[default]
    Nan,
    /// Bytes of 0x7F: large and finite in f32 and bf16, for instructions such as `max` that drop NaN.
    Huge,
}

impl Poison {
    /// The poison of a schedule seed: odd seeds use [`Poison::Huge`].
    pub fn of_seed(seed: u64) -> Poison {
        if seed % 2 == 1 { Poison::Huge } else { Poison::Nan }
    }

    /// The poison as a word.
    pub fn word(self) -> u32 {
        match self {
            Poison::Nan => 0xFFFF_FFFF,
            Poison::Huge => 0x7F7F_7F7F,
        }
    }
}

/// What freed memory holds.
pub(crate) const FREED_WORD: u32 = 0xDDDD_DDDD;

/// What an untouched page of a sparse allocation holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Background {
    /// Never written: poison, and invalid.
    Poison(u32),
    /// Filled with this word, and valid.
    Word(u32),
    /// The word at device address `a` is a hash of this seed and `a / 4`; valid. An endless input that takes no memory.
    Hash(u64),
}

impl Background {
    /// The word of the background at device address `address`, a multiple of four.
    pub fn word(self, address: u64) -> u32 {
        match self {
            Background::Poison(word) | Background::Word(word) => word,
            Background::Hash(seed) => {
                // The finaliser of SplitMix64: every bit of the address reaches every bit of the result.
                let mut z = (address / 4).wrapping_add(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
                z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
                z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
                (z ^ z >> 31) as u32
            }
        }
    }

    /// Whether reading it is reading something that was written.
    pub fn is_valid(self) -> bool {
        !matches!(self, Background::Poison(_))
    }
}

type Chunk = Box<[OnceLock<Block>]>;

/// Pages made at their first write, over a background.
struct Pages {
    chunks: Box<[OnceLock<Chunk>]>,
    /// Later entries cover earlier ones. Page numbers, half open.
    background: RwLock<Vec<(std::ops::Range<u64>, Background)>>,
}

enum Store {
    Dense(Block),
    Sparse(Pages),
}

/// One allocation. Offsets are from its base and below its length; whoever calls has checked them.
pub struct Allocation {
    base: u64,
    bytes: u64,
    order: u64,
    device: u32,
    freed: AtomicBool,
    store: Store,
}

/// What lies at an offset: a block that holds it, or the background of an untouched page.
pub(crate) enum Piece<'a> {
    /// `block` holds the allocation's bytes from offset `start` on.
    Block { block: &'a Block, start: u64 },
    /// Untouched up to offset `end`.
    Background { background: Background, end: u64 },
}

impl Allocation {
    pub(crate) fn new(base: u64, bytes: u64, order: u64, device: u32, poison: Poison) -> Allocation {
        let store = if bytes > SPARSE_ABOVE {
            let pages = bytes.div_ceil(PAGE_BYTES);
            Store::Sparse(Pages {
                chunks: (0..pages.div_ceil(CHUNK_PAGES)).map(|_| OnceLock::new()).collect(),
                background: RwLock::new(vec![(0..pages, Background::Poison(poison.word()))]),
            })
        } else {
            Store::Dense(Block::new(bytes as usize, poison.word(), false))
        };
        Allocation { base, bytes, order, device, freed: AtomicBool::new(false), store }
    }

    /// Its lowest address.
    #[inline(always)]
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Its length in bytes.
    #[inline(always)]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Its number among all allocations of the address space, from 1.
    pub fn order(&self) -> u64 {
        self.order
    }

    /// The device that owns it.
    pub fn device(&self) -> u32 {
        self.device
    }

    /// Whether it was freed. A launch that runs while its memory is freed still holds it, and must notice.
    #[inline(always)]
    pub fn is_freed(&self) -> bool {
        self.freed.load(Ordering::Relaxed)
    }

    /// Whether `count` bytes at `address` lie inside.
    #[inline(always)]
    pub fn contains(&self, address: u64, count: u64) -> bool {
        address >= self.base && count <= self.bytes && address - self.base <= self.bytes - count
    }

    /// The whole allocation as one block, unless it is sparse.
    #[inline(always)]
    pub(crate) fn dense(&self) -> Option<&Block> {
        match &self.store {
            Store::Dense(block) => Some(block),
            Store::Sparse(_) => None,
        }
    }

    /// What lies at `offset`, for reading.
    pub(crate) fn piece(&self, offset: u64) -> Piece<'_> {
        match &self.store {
            Store::Dense(block) => Piece::Block { block, start: 0 },
            Store::Sparse(pages) => {
                let page = offset / PAGE_BYTES;
                let chunk = pages.chunks[(page / CHUNK_PAGES) as usize].get();
                match chunk.and_then(|chunk| chunk[(page % CHUNK_PAGES) as usize].get()) {
                    Some(block) => Piece::Block { block, start: page * PAGE_BYTES },
                    None => Piece::Background {
                        background: pages.background(page),
                        end: ((page + 1) * PAGE_BYTES).min(self.bytes),
                    },
                }
            }
        }
    }

    /// The block that holds `offset` and the offset where it starts, for writing: made now if need be.
    pub(crate) fn block(&self, offset: u64) -> (&Block, u64) {
        match &self.store {
            Store::Dense(block) => (block, 0),
            Store::Sparse(pages) => {
                let page = offset / PAGE_BYTES;
                let chunk = pages.chunks[(page / CHUNK_PAGES) as usize]
                    .get_or_init(|| (0..CHUNK_PAGES).map(|_| OnceLock::new()).collect());
                let block = chunk[(page % CHUNK_PAGES) as usize].get_or_init(|| match pages.background(page) {
                    Background::Poison(word) => Block::new(PAGE_BYTES as usize, word, false),
                    Background::Word(word) => Block::new(PAGE_BYTES as usize, word, true),
                    hash => Block::generated(PAGE_BYTES as usize, |i| {
                        hash.word(self.base + page * PAGE_BYTES + 4 * i as u64)
                    }),
                });
                (block, page * PAGE_BYTES)
            }
        }
    }

    /// Copies bytes out.
    pub(crate) fn read(&self, offset: u64, out: &mut [u8]) {
        self.for_pieces(offset, out.len() as u64, |piece, at, done, count| {
            let out = &mut out[done as usize..(done + count) as usize];
            match piece {
                Piece::Block { block, start } => block.read((at - start) as usize, out),
                Piece::Background { background, .. } => {
                    for (i, byte) in out.iter_mut().enumerate() {
                        let address = self.base + at + i as u64;
                        *byte = background.word(address & !3).to_le_bytes()[(address % 4) as usize];
                    }
                }
            }
        });
    }

    /// Copies bytes in.
    pub(crate) fn write(&self, offset: u64, data: &[u8]) {
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let (block, start) = self.block(at);
            let count = ((block.words().len() as u64 * 4 - (at - start)) as usize).min(data.len() - done);
            block.write((at - start) as usize, &data[done..done + count]);
            done += count;
        }
    }

    /// Repeats `word` over `count` bytes from `offset`; byte `i` of the word goes to addresses that are `i` modulo 4.
    pub(crate) fn fill(&self, offset: u64, word: u32, count: u64) {
        let end = offset + count;
        let mut at = offset;
        while at < end {
            if let Some(pages) = self.untouched(at, end) {
                if let Store::Sparse(store) = &self.store {
                    store.set_background(pages.clone(), Background::Word(word));
                }
                at = (pages.end * PAGE_BYTES).min(end);
                continue;
            }
            let (block, start) = self.block(at);
            let local = (at - start) as usize;
            let stop = (end - start).min(block.words().len() as u64 * 4) as usize;
            for byte in (local / 4 * 4..stop).step_by(4) {
                let head = 0xF << local.saturating_sub(byte);
                let tail = 0xF >> (byte + 4).saturating_sub(stop);
                block.store(byte, word, head & tail & 0xF);
            }
            block.set_valid(local, stop - local);
            at = start + stop as u64;
        }
    }

    /// Puts a generator behind the untouched pages that lie wholly in the range. Only a sparse allocation has one.
    pub(crate) fn generate(&self, offset: u64, count: u64, background: Background) {
        let end = offset + count;
        let mut at = offset;
        while at < end {
            if let Some(pages) = self.untouched(at, end) {
                if let Store::Sparse(store) = &self.store {
                    store.set_background(pages.clone(), background);
                }
                at = (pages.end * PAGE_BYTES).min(end);
                continue;
            }
            let (block, start) = self.block(at);
            let stop = end.min(start + block.words().len() as u64 * 4);
            let bytes: Vec<u8> = (at..stop)
                .map(|i| background.word(self.base + i & !3).to_le_bytes()[((self.base + i) % 4) as usize])
                .collect();
            block.write((at - start) as usize, &bytes);
            at = stop;
        }
    }

    /// The first offset in the range that nobody wrote.
    pub(crate) fn first_invalid(&self, offset: u64, count: u64) -> Option<u64> {
        let mut first = None;
        self.for_pieces(offset, count, |piece, at, _, count| {
            if first.is_none() {
                first = match piece {
                    Piece::Block { block, start } => {
                        block.first_invalid((at - start) as usize, count as usize).map(|i| start + i as u64)
                    }
                    Piece::Background { background, .. } => (!background.is_valid()).then_some(at),
                };
            }
        });
        first
    }

    /// The runs of bytes in the range that nobody wrote, relative to its start.
    pub(crate) fn invalid_runs(&self, offset: u64, count: u64) -> Vec<std::ops::Range<u64>> {
        let mut runs: Vec<std::ops::Range<u64>> = Vec::new();
        let mut at = offset;
        while let Some(first) = self.first_invalid(at, offset + count - at) {
            let mut end = first + 1;
            while end < offset + count && self.first_invalid(end, 1).is_some() {
                end += 1;
            }
            runs.push(first - offset..end - offset);
            at = end;
        }
        runs
    }

    /// Marks the range as never written.
    pub(crate) fn set_invalid(&self, offset: u64, count: u64) {
        let mut at = offset;
        while at < offset + count {
            let (block, start) = self.block(at);
            let stop = (offset + count).min(start + block.words().len() as u64 * 4);
            block.set_invalid((at - start) as usize, (stop - at) as usize);
            at = stop;
        }
    }

    /// Overwrites everything for good: whoever still reads it shall notice.
    pub(crate) fn free(&self) {
        self.freed.store(true, Ordering::Relaxed);
        if let Store::Dense(block) = &self.store {
            for word in block.words() {
                word.store(FREED_WORD, Ordering::Relaxed);
            }
        }
    }

    /// The run of whole, untouched pages that starts at `at`, if one does.
    fn untouched(&self, at: u64, end: u64) -> Option<std::ops::Range<u64>> {
        if !matches!(self.store, Store::Sparse(_)) || !at.is_multiple_of(PAGE_BYTES) {
            return None;
        }
        let first = at / PAGE_BYTES;
        let mut last = first;
        while (last + 1) * PAGE_BYTES <= end || (end == self.bytes && last * PAGE_BYTES < end) {
            if !matches!(self.piece(last * PAGE_BYTES), Piece::Background { .. }) {
                break;
            }
            last += 1;
        }
        (last > first).then_some(first..last)
    }

    fn for_pieces(&self, offset: u64, count: u64, mut f: impl FnMut(Piece<'_>, u64, u64, u64)) {
        let mut done = 0;
        while done < count {
            let at = offset + done;
            let piece = self.piece(at);
            let end = match &piece {
                Piece::Block { block, start } => start + block.words().len() as u64 * 4,
                Piece::Background { end, .. } => *end,
            };
            let here = (end - at).min(count - done);
            f(piece, at, done, here);
            done += here;
        }
    }
}

impl Pages {
    fn background(&self, page: u64) -> Background {
        let list = self.background.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        // The first entry covers every page, so there always is one.
        list.iter().rev().find(|(pages, _)| pages.contains(&page)).map_or(Background::Poison(u32::MAX), |(_, b)| *b)
    }

    fn set_background(&self, pages: std::ops::Range<u64>, background: Background) {
        let mut list = self.background.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        list.retain(|(old, _)| old.start < pages.start || old.end > pages.end);
        list.push((pages, background));
    }
}
