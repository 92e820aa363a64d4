//! Wavefronts of shared memory: how often one warp request has to go over the 32 banks.

use super::SharedTraffic;
use crate::exec::access::{Access, lanes_of};

/// Counts a request of `T` bytes for each lane of `mask`. Accesses of 8 bytes are served for half a warp at a time, of
/// 16 bytes for a quarter; within such a phase a wavefront takes one word from each bank, for any number of lanes.
#[inline(always)]
pub(super) fn request<const T: usize>(access: &Access, mask: u32) -> SharedTraffic {
    let lanes = match T {
        8 => 16,
        16 => 8,
        _ => 32,
    };
    let phases = 32 / lanes;
    if access.consecutive && mask == u32::MAX {
        // Distinct words, at most one for each bank of a phase.
        return SharedTraffic { requests: 1, wavefronts: phases, minimum: phases };
    }
    let mut all = SharedTraffic { requests: 1, wavefronts: 0, minimum: 0 };
    for phase in 0..phases {
        let group = (u32::MAX >> (32 - lanes)) << (phase * lanes);
        let (wavefronts, minimum) = phase_of::<T>(access, mask & group);
        all.wavefronts += wavefronts;
        all.minimum += minimum;
    }
    all
}

/// The most distinct words in one bank, and the fewest wavefronts that could carry as many words.
#[inline(always)]
fn phase_of<const T: usize>(access: &Access, mask: u32) -> (u64, u64) {
    let (mut word_in, mut taken) = ([0u32; 32], 0u32);
    for lane in lanes_of(mask) {
        let first = access.address[lane] as u32 / 4;
        for word in first..first + T.div_ceil(4) as u32 {
            let bank = word as usize % 32;
            if taken >> bank & 1 == 0 {
                taken |= 1 << bank;
                word_in[bank] = word;
            } else if word_in[bank] != word {
                return conflicts::<T>(access, mask);
            }
        }
    }
    (u64::from(taken != 0), u64::from(taken != 0))
}

#[inline(never)]
fn conflicts<const T: usize>(access: &Access, mask: u32) -> (u64, u64) {
    let mut words: Vec<u32> = Vec::with_capacity(128);
    for lane in lanes_of(mask) {
        let first = access.address[lane] as u32 / 4;
        words.extend(first..first + T.div_ceil(4) as u32);
    }
    words.sort_unstable();
    words.dedup();
    let mut in_bank = [0u64; 32];
    for word in &words {
        in_bank[*word as usize % 32] += 1;
    }
    (in_bank.into_iter().max().unwrap_or(0), words.len().div_ceil(32) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wavefronts<const T: usize>(mask: u32, address: impl Fn(u64) -> u64) -> (u64, u64) {
        let mut all = [0; 32];
        for (i, slot) in all.iter_mut().enumerate() {
            *slot = address(i as u64);
        }
        let traffic = request::<T>(&Access::of::<T>(all, mask), mask);
        assert_eq!(traffic.requests, 1);
        (traffic.wavefronts, traffic.minimum)
    }

    #[test]
    fn wavefronts_follow_banks_and_phases() {
        assert_eq!(wavefronts::<4>(u32::MAX, |i| 4 * i), (1, 1));
        assert_eq!(wavefronts::<4>(u32::MAX, |i| 4 * i + 64), (1, 1), "a rotation of the banks");
        assert_eq!(wavefronts::<4>(u32::MAX, |_| 40), (1, 1), "one word for all");
        assert_eq!(wavefronts::<4>(u32::MAX, |i| 128 * i), (32, 1), "a column of a 32-wide tile");
        assert_eq!(wavefronts::<4>(u32::MAX, |i| 132 * i), (1, 1), "a column of a padded tile");
        assert_eq!(wavefronts::<4>(u32::MAX, |i| 8 * i), (2, 1), "every other word");
        assert_eq!(wavefronts::<4>(0xF, |i| 128 * i), (4, 1), "four lanes");
        assert_eq!(wavefronts::<2>(u32::MAX, |i| 2 * i), (1, 1), "two halves share a word");
        assert_eq!(wavefronts::<8>(u32::MAX, |i| 8 * i), (2, 2));
        assert_eq!(wavefronts::<16>(u32::MAX, |i| 16 * i), (4, 4));
        assert_eq!(wavefronts::<16>(u32::MAX, |i| 128 * i), (32, 4));
        assert_eq!(wavefronts::<16>(0x3, |i| 16 * i), (1, 1), "phases without lanes cost nothing");
    }
}
