//! Philox4x32-10: 128 random bits from a key of 64 bits and a counter of 128, and from nothing else.
//!
//! J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

/// The random words of a key and a counter, least significant word first.
///
/// ```
/// use sumexp::reference::philox::philox4x32;
/// assert_eq!(philox4x32([0, 0], [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
/// ```
pub fn philox4x32(key: [u32; 2], counter: [u32; 4]) -> [u32; 4] {
    (0..10u32).fold(counter, |[a, b, c, d], round| {
        let bump = |key: u32, weyl: u32| key.wrapping_add(weyl.wrapping_mul(round));
        let product = |multiplier: u32, word: u32| u64::from(multiplier) * u64::from(word);
        let (left, right) = (product(0xd251_1f53, a), product(0xcd9e_8d57, c));
        [
            (right >> 32) as u32 ^ b ^ bump(key[0], 0x9e37_79b9),
            right as u32,
            (left >> 32) as u32 ^ d ^ bump(key[1], 0xbb67_ae85),
            left as u32,
        ]
    })
}

/// The random words of a call: the key is `seed`, the counter is `offset` in its lower and `index` in its upper half.
pub fn words(seed: u64, offset: u64, index: u64) -> [u32; 4] {
    let halves = |x: u64| [x as u32, (x >> 32) as u32];
    let ([a, b], [c, d]) = (halves(offset), halves(index));
    philox4x32(halves(seed), [a, b, c, d])
}

/// The first 64 bits of [`words`].
pub fn bits(seed: u64, offset: u64, index: u64) -> u64 {
    let [low, high, ..] = words(seed, offset, index);
    u64::from(high) << 32 | u64::from(low)
}

/// Where the random bits of the rows of a call come from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// One seed, and each row's own number.
    Call {
        /// The key.
        seed: u64,
        /// The lower half of the counter.
        offset: u64,
    },
    /// A seed per row, in the order of the rows; their numbers do not count.
    PerRow {
        /// The keys.
        seeds: &'a [i64],
        /// The lower half of the counter.
        offset: u64,
    },
}

impl Source<'_> {
    /// Seed, offset and number of a row.
    pub fn of_row(&self, row: usize) -> (u64, u64, u64) {
        match *self {
            Self::Call { seed, offset } => (seed, offset, row as u64),
            Self::PerRow { seeds, offset } => (seeds[row] as u64, offset, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answers that the authors' library Random123 publishes for this generator.
    #[test]
    fn known_answers() {
        let ones = u32::MAX;
        let digits_of_pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        for (key, counter, answer) in [
            ([0, 0], [0; 4], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([ones, ones], [ones; 4], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            ([0xa409_3822, 0x299f_31d0], digits_of_pi, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]),
        ] {
            assert_eq!(philox4x32(key, counter), answer);
        }
    }

    #[test]
    fn words_lie_as_documented() {
        let key = 0x299f_31d0_a409_3822;
        let (low, high) = (0x85a3_08d3_243f_6a88, 0x0370_7344_1319_8a2e);
        assert_eq!(words(key, low, high), [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
        assert_eq!(bits(key, low, high), 0x94fd_cceb_d16c_fe09);
    }
}
