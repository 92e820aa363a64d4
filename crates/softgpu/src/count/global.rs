//! Sectors of device memory that one warp request touches.

use super::GlobalTraffic;
use crate::exec::access::Access;

/// Bytes of a sector: the unit in which the memory system moves data.
const SECTOR: u64 = 32;

/// Counts a request of `T` bytes per lane, each lane's address a multiple of `T`: a lane touches one sector.
#[inline(always)]
pub(super) fn request<const T: usize>(access: &Access) -> GlobalTraffic {
    let bytes = u64::from(access.mask.count_ones()) * T as u64;
    if access.consecutive {
        let sectors = access.max / SECTOR - access.min / SECTOR + 1;
        return GlobalTraffic { requests: 1, sectors, minimum: bytes.div_ceil(SECTOR), bytes };
    }
    let (sectors, elements) = distinct(access);
    GlobalTraffic { requests: 1, sectors, minimum: (elements * T as u64).div_ceil(SECTOR), bytes }
}

/// Counts bytes that one thread's copy moves together.
pub(super) fn run(address: u64, bytes: u32) -> GlobalTraffic {
    let bytes = u64::from(bytes);
    let sectors = if bytes == 0 { 0 } else { (address + bytes - 1) / SECTOR - address / SECTOR + 1 };
    GlobalTraffic { requests: 1, sectors, minimum: bytes.div_ceil(SECTOR), bytes }
}

/// The distinct sectors and the distinct addresses of a request.
#[inline(always)]
fn distinct(access: &Access) -> (u64, u64) {
    let (mut sectors, mut elements, mut last, mut sorted) = (0, 0, None, true);
    for lane in access.lanes() {
        let address = access.address[lane];
        match last {
            None => (sectors, elements) = (1, 1),
            Some(last) => {
                sorted &= address >= last;
                elements += u64::from(address != last);
                sectors += u64::from(address / SECTOR != last / SECTOR);
            }
        }
        last = Some(address);
    }
    if sorted { (sectors, elements) } else { distinct_unsorted(access) }
}

#[inline(never)]
fn distinct_unsorted(access: &Access) -> (u64, u64) {
    let mut sorted = access.address;
    // Lanes that are off repeat an address that is on: they add nothing.
    sorted.sort_unstable();
    let changes = |by: u64| sorted.windows(2).filter(|pair| pair[0] / by != pair[1] / by).count() as u64 + 1;
    (changes(SECTOR), changes(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request_of<const T: usize>(mask: u32, address: impl Fn(u64) -> u64) -> GlobalTraffic {
        let mut all = [0; 32];
        for (i, slot) in all.iter_mut().enumerate() {
            *slot = address(i as u64);
        }
        request::<T>(&Access::of::<T>(all, mask))
    }

    fn sectors<const T: usize>(mask: u32, address: impl Fn(u64) -> u64) -> (u64, u64) {
        let traffic = request_of::<T>(mask, address);
        assert_eq!(traffic.requests, 1);
        (traffic.sectors, traffic.minimum)
    }

    #[test]
    fn sectors_and_their_minimum() {
        let base = 0x10_0000;
        assert_eq!(sectors::<4>(u32::MAX, |i| base + 4 * i), (4, 4));
        assert_eq!(sectors::<4>(u32::MAX, |i| base + 4 + 4 * i), (5, 4), "shifted by one element");
        assert_eq!(sectors::<16>(u32::MAX, |i| base + 16 * i), (16, 16));
        assert_eq!(sectors::<2>(u32::MAX, |i| base + 2 * i), (2, 2));
        assert_eq!(sectors::<4>(u32::MAX, |i| base + 128 * i), (32, 4), "a column");
        assert_eq!(sectors::<4>(u32::MAX, |_| base), (1, 1), "one word for all");
        assert_eq!(sectors::<4>(0xFF, |i| base + 4 * i), (1, 1), "the lanes that are off do not count");
        assert_eq!(sectors::<4>(0x8000_0001, |i| base + 4 * i), (2, 1));
        assert_eq!(sectors::<4>(u32::MAX, |i| base + 4 * (31 - i)), (4, 4), "backwards");
        assert_eq!(sectors::<4>(u32::MAX, |i| base + 4 * (i ^ 1)), (4, 4));
        assert_eq!(sectors::<4>(u32::MAX, |i| base + 4 * (i / 2)), (2, 2), "pairs share a word");
        assert_eq!(request_of::<8>(0xFFFF, |i| base + 8 * i).bytes, 128);
    }
}
