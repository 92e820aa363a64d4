//! Tensor maps: what `cuTensorMapEncodeTiled` makes and tensor copies read.
//!
//! The 128 bytes are opaque to programs, so their layout here is this crate's own: a mark by which a map is known, the
//! fields, and a checksum, so that a map that was overwritten is noticed.

use super::super::{Env, Warp};
use super::tile::{Place, Segment, Swizzle};
use crate::launch::code;
use crate::mem::windows::{self, Window};
use crate::ptx::Type;

/// Bytes of a map.
pub const BYTES: usize = 128;
const MAGIC: u64 = 0x6D61_705F_7467_6670;

/// A tiled view of a tensor in device memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Map {
    /// Where its first element lies.
    pub address: u64,
    /// Dimensions, the contiguous one first.
    pub sizes: Vec<u64>,
    /// Bytes from one to the next in each dimension but the first.
    pub strides: Vec<u64>,
    /// Elements of a box, in each dimension.
    pub extent: Vec<u32>,
    /// Steps of a box, in each dimension but the first.
    pub steps: Vec<u32>,
    /// `CUtensorMapDataType`.
    pub kind: u8,
    /// Bytes of an element.
    pub element: u32,
    /// Bits that stand for elements outside.
    pub fill: u32,
    /// How a box lies in shared memory.
    pub swizzle: Swizzle,
}

impl Map {
    /// The bytes that programs pass around.
    pub fn encode(&self) -> [u64; BYTES / 8] {
        let mut words = [0; BYTES / 8];
        words[0] = MAGIC;
        words[1] = self.address;
        let rank = self.sizes.len() as u64;
        let form = u64::from(self.element) << 8 | u64::from(self.swizzle.span()) << 16 | u64::from(self.kind) << 24;
        words[2] = rank | form | u64::from(self.fill) << 32;
        for (i, size) in self.sizes.iter().enumerate() {
            // Sizes go up to 2^32.
            words[3 + i / 2] |= (size - 1) << (32 * (i % 2));
        }
        for (i, stride) in self.strides.iter().enumerate() {
            words[6 + i] = *stride;
        }
        for i in 0..self.sizes.len() {
            // Extents go up to 256, steps up to 8.
            let both = u64::from(self.extent[i] - 1) | u64::from(self.steps[i]) << 8;
            words[10 + i / 4] |= both << (16 * (i % 4));
        }
        words[15] = checksum(&words);
        words
    }

    /// The map of such bytes, if they are one.
    pub fn decode(words: &[u64; BYTES / 8]) -> Option<Map> {
        if words[0] != MAGIC || words[15] != checksum(words) {
            return None;
        }
        let rank = (words[2] & 0xFF) as usize;
        let part = |from: usize, i: usize, bits: usize| {
            let each = 64 / bits;
            words[from + i / each] >> (bits * (i % each)) & ((1 << bits) - 1)
        };
        Some(Map {
            address: words[1],
            sizes: (0..rank).map(|i| part(3, i, 32) + 1).collect(),
            strides: words[6..6 + rank.saturating_sub(1)].to_vec(),
            extent: (0..rank).map(|i| (part(10, i, 16) & 0xFF) as u32 + 1).collect(),
            steps: (0..rank).map(|i| (part(10, i, 16) >> 8) as u32).collect(),
            kind: (words[2] >> 24) as u8,
            element: (words[2] >> 8 & 0xFF) as u32,
            fill: (words[2] >> 32) as u32,
            swizzle: Swizzle::of_span((words[2] >> 16 & 0xFF) as u32),
        })
    }

    /// The type as which reductions see an element, those of bits apart.
    pub fn ty(&self, bits: bool) -> Option<Type> {
        Some(match self.kind {
            2 | 3 if bits => Type::B32,
            4 | 5 if bits => Type::B64,
            2 => Type::U32,
            3 => Type::S32,
            4 => Type::U64,
            5 => Type::S64,
            6 => Type::F16,
            7 | 10 => Type::F32,
            8 => Type::F64,
            9 => Type::Bf16,
            _ => return None,
        })
    }

    /// Elements of a box that are copied, in one dimension.
    fn count(&self, i: usize) -> u32 {
        if i == 0 { self.extent[0] } else { self.extent[i].div_ceil(self.steps[i]) }
    }

    /// Bytes of a box, those outside of the tensor with it.
    pub fn box_bytes(&self) -> u32 {
        (0..self.sizes.len()).map(|i| self.count(i)).product::<u32>() * self.element
    }

    /// Where a box at these coordinates lies.
    pub fn place(&self, at: &[i32]) -> Place {
        let row = self.extent[0] * self.element;
        let rows: u32 = (1..self.sizes.len()).map(|i| self.count(i)).product();
        let mut segments: Vec<Segment> = Vec::with_capacity(rows as usize);
        // The part of a row that lies inside.
        let first = i64::from(at[0]).clamp(0, self.sizes[0] as i64);
        let last = (i64::from(at[0]) + i64::from(self.extent[0])).clamp(0, self.sizes[0] as i64);
        for n in 0..rows {
            let (mut left, mut address, mut inside) = (n, self.address, first < last);
            for i in 1..self.sizes.len() {
                let index = i64::from(at[i]) + i64::from(left % self.count(i) * self.steps[i]);
                left /= self.count(i);
                inside &= index >= 0 && index < self.sizes[i] as i64;
                address = address.wrapping_add((index as u64).wrapping_mul(self.strides[i - 1]));
            }
            if !inside {
                continue;
            }
            let skip = (first - i64::from(at[0])) as u32 * self.element;
            let address = address + first as u64 * u64::from(self.element);
            let bytes = (last - first) as u32 * self.element;
            match segments.last_mut() {
                // Rows that follow each other on both sides.
                Some(s) if s.at + s.bytes == n * row + skip && s.address + u64::from(s.bytes) == address => {
                    s.bytes += bytes
                }
                _ => segments.push(Segment { at: n * row + skip, address, bytes }),
            }
        }
        Place { segments, fill: self.fill }
    }
}

fn checksum(words: &[u64; BYTES / 8]) -> u64 {
    let mix = |sum: u64, word: &u64| (sum ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    words[..BYTES / 8 - 1].iter().fold(1, mix)
}

/// The map at a generic address, for a copy of so many dimensions (0: of any). `None` after a fault.
pub(super) fn read(warp: &Warp, env: &mut Env<'_>, lane: u32, address: u64, dimensions: usize) -> Option<Map> {
    let mut bytes = [0u8; BYTES];
    let there = match windows::classify(address) {
        Window::Param(at) => {
            env.launch.params.get(at as usize..at as usize + BYTES).map(|from| bytes.copy_from_slice(from))
        }
        Window::Global => env.launch.memory.at_or_before(address).and_then(|(_, allocation)| {
            let whole = allocation.contains(address, BYTES as u64) && !allocation.is_freed();
            whole.then(|| allocation.read(address - allocation.base(), &mut bytes))
        }),
        _ => None,
    };
    if there.is_none() || !address.is_multiple_of(64) {
        let place = env.launch.memory.describe(address);
        let text = format!("a tensor map at {address:#x}, where there is none or no multiple of 64 ({place})");
        env.fault(warp, lane, code::ILLEGAL_ADDRESS, text);
        return None;
    }
    let mut words = [0; BYTES / 8];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
    }
    let map = Map::decode(&words);
    let wrong = match &map {
        None => "not a tensor map of cuTensorMapEncodeTiled, or one that was overwritten".to_string(),
        Some(map) if dimensions != 0 && map.sizes.len() != dimensions => {
            format!("a tensor map of {} dimensions, and the copy has {dimensions}", map.sizes.len())
        }
        Some(map) if map.swizzle.span() > map.extent[0] * map.element => {
            let (row, span) = (map.extent[0] * map.element, map.swizzle.span());
            format!("boxes with rows of {row} bytes in a swizzle of {span} are not implemented")
        }
        Some(_) => return map,
    };
    env.fault(warp, lane, code::ILLEGAL_INSTRUCTION, format!("what lies at {address:#x} is {wrong}"));
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> Map {
        Map {
            address: 0x1000,
            sizes: vec![40, 7, 1 << 32],
            strides: vec![96, 1 << 20],
            extent: vec![16, 256, 2],
            steps: vec![1, 2, 1],
            kind: 6,
            element: 2,
            fill: 0x7FFF_7FFF,
            swizzle: Swizzle::of_span(32),
        }
    }

    #[test]
    fn a_map_survives_its_bytes_and_nothing_else_does() {
        let words = map().encode();
        assert_eq!(Map::decode(&words), Some(map()));
        for at in 0..words.len() {
            let mut other = words;
            other[at] ^= 1 << 17;
            assert_eq!(Map::decode(&other), None, "word {at}");
        }
    }

    #[test]
    fn boxes_are_cut_at_the_edges() {
        let mut map = map();
        (map.extent, map.steps) = (vec![16, 4, 1], vec![1, 2, 1]);
        // Rows 5 and 7 of 7; columns 32 to 47 of 40.
        let place = map.place(&[32, 5, 3]);
        let address = 0x1000 + 5 * 96 + 3 * (1 << 20) + 64;
        assert_eq!(place.segments, [Segment { at: 0, address, bytes: 16 }]);
        assert_eq!(map.box_bytes(), 16 * 2 * 2);
        // Four columns in front of the first.
        let place = map.place(&[-4, 0, 0]);
        assert_eq!(place.segments[0], Segment { at: 8, address: 0x1000, bytes: 24 });
        assert_eq!(place.segments[1].at, 32 + 8);
        assert!(map.place(&[-16, 0, 0]).segments.is_empty());
        assert!(map.place(&[40, 0, 0]).segments.is_empty());
        assert!(map.place(&[0, 7, 0]).segments.is_empty());
    }

    #[test]
    fn units_change_places_in_their_span() {
        for span in [32, 64, 128] {
            let swizzle = Swizzle::of_span(span);
            assert_eq!(swizzle.span(), span);
            let mut seen: Vec<u32> = (0..64).map(|unit| swizzle.of(16 * unit)).collect();
            assert!(seen.iter().enumerate().all(|(unit, at)| at / 128 == unit as u32 / 8));
            seen.sort_unstable();
            assert_eq!(seen, (0..64).map(|unit| 16 * unit).collect::<Vec<_>>());
        }
        // Row 3, unit 5 of a tile of 128 bytes; of 64: the units of a row change every second row.
        assert_eq!(Swizzle::of_span(128).of(3 * 128 + 5 * 16), 3 * 128 + (5 ^ 3) * 16);
        assert_eq!(Swizzle::of_span(64).of(3 * 64 + 16), 3 * 64);
        assert_eq!(Swizzle::of_span(32).of(4 * 32), 4 * 32 + 16);
    }
}
