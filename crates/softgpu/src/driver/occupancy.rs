//! How many CTAs a multiprocessor holds. Registers are not counted: they are chosen by an assembler that does not run.

use super::call::{Call, Out, entry};
use super::code::{Code, Result};
use super::function::{self, Function};
use super::profile::{Profile, THREADS_PER_BLOCK};
use crate::ir::Kernel;

const WARP: u32 = 32;
/// Shared memory is handed out in units of this many bytes.
const SHARED_UNIT: u32 = 128;

/// CTAs of one multiprocessor, by threads, shared memory and the limit of CTAs.
pub fn blocks_per_multiprocessor(profile: &Profile, kernel: &Kernel, threads: u32, dynamic_shared: u32) -> u32 {
    if threads == 0 || threads > THREADS_PER_BLOCK {
        return 0;
    }
    let by_threads = profile.threads_per_multiprocessor / threads.next_multiple_of(WARP);
    let shared = kernel.shared.static_bytes.saturating_add(dynamic_shared);
    if shared > profile.shared_per_block_opt_in {
        return 0;
    }
    let shared = shared.next_multiple_of(SHARED_UNIT) + profile.reserved_shared_per_block;
    by_threads.min(profile.shared_per_multiprocessor / shared).min(profile.blocks_per_multiprocessor)
}

fn resident(call: &Call, out: &Out<i32>, handle: u64, threads: i32, dynamic_shared: usize) -> Result {
    let function = of(call, handle)?;
    let kernel = function.kernel(call)?;
    let Some(threads) = u32::try_from(threads).ok().filter(|threads| *threads > 0) else {
        return Err(call.invalid(&format!("a block of {threads} threads")));
    };
    let fits = threads <= function.thread_limit() && dynamic_shared <= function.dynamic_limit(&kernel) as usize;
    let count = match fits {
        true => blocks_per_multiprocessor(function.module.profile, &kernel, threads, dynamic_shared as u32),
        false => 0,
    };
    out.set(call, count as i32)
}

fn of(call: &Call, handle: u64) -> Result<Function> {
    let (state, _) = call.context()?;
    function::lookup(call, &state, handle)
}

type SharedOfBlock = Option<unsafe extern "C" fn(i32) -> usize>;

/// The largest block, in whole warps, with which most threads are resident.
fn best_block(
    call: &Call,
    (grid, block): (&Out<i32>, &Out<i32>),
    handle: u64,
    shared_of: SharedOfBlock,
    shared: usize,
    limit: i32,
) -> Result {
    let function = of(call, handle)?;
    let kernel = function.kernel(call)?;
    let limit = u32::try_from(limit).ok().filter(|limit| *limit > 0).unwrap_or(THREADS_PER_BLOCK);
    let most = limit.min(function.thread_limit());
    let (mut best, mut best_resident) = ((0, 0), 0);
    let mut threads = most.next_multiple_of(WARP).min(most);
    while threads > 0 {
        // SAFETY: the program passed this function to be called with block sizes.
        let shared = shared_of.map_or(shared, |shared_of| unsafe { shared_of(threads as i32) });
        let shared = u32::try_from(shared).unwrap_or(u32::MAX);
        let blocks = blocks_per_multiprocessor(function.module.profile, &kernel, threads, shared);
        if blocks * threads > best_resident {
            (best, best_resident) = ((blocks, threads), blocks * threads);
        }
        threads = (threads - 1) / WARP * WARP;
    }
    grid.set(call, (best.0 * function.module.profile.multiprocessors) as i32)?;
    block.set(call, best.1 as i32)
}

entry! {
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(call, out: Out<i32>, function: u64, threads: i32, shared: usize) {
        resident(call, &out, function, threads, shared)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        call, out: Out<i32>, function: u64, threads: i32, shared: usize, flags: u32
    ) {
        if flags > 1 {
            return Err(call.invalid(&format!("occupancy flags {flags:#x} are not known")));
        }
        resident(call, &out, function, threads, shared)
    }

    fn cuOccupancyMaxPotentialBlockSize(
        call, grid: Out<i32>, block: Out<i32>, function: u64, shared_of: SharedOfBlock, shared: usize, limit: i32
    ) {
        best_block(call, (&grid, &block), function, shared_of, shared, limit)
    }

    fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        call, grid: Out<i32>, block: Out<i32>, function: u64, shared_of: SharedOfBlock, shared: usize, limit: i32,
        flags: u32
    ) {
        if flags > 1 {
            return Err(call.invalid(&format!("occupancy flags {flags:#x} are not known")));
        }
        best_block(call, (&grid, &block), function, shared_of, shared, limit)
    }

    /// The dynamic shared memory a block may have if `blocks` of them are to be resident.
    fn cuOccupancyAvailableDynamicSMemPerBlock(
        call, out: Out<usize>, function: u64, blocks: i32, threads: i32
    ) {
        let function = of(call, function)?;
        let kernel = function.kernel(call)?;
        let profile = function.module.profile;
        let (Some(blocks), Some(threads)) = (positive(blocks), positive(threads)) else {
            return Err(call.invalid(&format!("{blocks} blocks of {threads} threads")));
        };
        if blocks_per_multiprocessor(profile, &kernel, threads, 0) < blocks {
            return Err(call.refuse(Code::INVALID_VALUE, &format!("{blocks} blocks of {threads} threads do not fit")));
        }
        let each = profile.shared_per_multiprocessor / blocks / SHARED_UNIT * SHARED_UNIT;
        let taken = profile.reserved_shared_per_block + kernel.shared.static_bytes;
        let room = profile.shared_per_block_opt_in - kernel.shared.static_bytes;
        out.set(call, each.saturating_sub(taken).min(room) as usize)
    }
}

fn positive(number: i32) -> Option<u32> {
    u32::try_from(number).ok().filter(|number| *number > 0)
}
