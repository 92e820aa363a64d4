//! The device address space: exact bounds, no address used twice, and the history of every allocation.

use super::allocation::{Allocation, Background, Poison};
use super::history::{AllocationInfo, GAP, History, REMEMBERED};
use super::windows;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

/// The alignment promised, and never exceeded: bases are odd multiples of it.
const ALIGNMENT: u64 = 256;

/// The memory of all devices of a process. Cloning gives another handle to the same memory.
#[derive(Clone, Default)]
pub struct Space {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    history: Arc<RwLock<History>>,
}

struct State {
    live: BTreeMap<u64, Arc<Allocation>>,
    /// The live allocations in order of address; made again when one comes or goes.
    list: Option<Arc<[Arc<Allocation>]>>,
    next: u64,
    order: u64,
    devices: BTreeMap<u32, Usage>,
}

#[derive(Clone, Copy)]
struct Usage {
    used: u64,
    limit: u64,
}

impl Default for State {
    fn default() -> State {
        let next = windows::FIRST_ALLOCATION;
        State { live: BTreeMap::new(), list: None, next, order: 0, devices: BTreeMap::new() }
    }
}

/// A device has not that much memory left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory {
    /// Bytes asked for.
    pub requested: u64,
    /// Bytes in use on the device.
    pub used: u64,
    /// Bytes the device has.
    pub limit: u64,
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OutOfMemory { requested, used, limit } = self;
        write!(f, "out of memory: {requested} bytes requested, {used} of {limit} in use")
    }
}

impl std::error::Error for OutOfMemory {}

/// Why an address could not be freed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FreeError {
    /// It was freed before.
    AlreadyFreed(AllocationInfo),
    /// No allocation begins there; the text says what does lie there.
    NotAnAllocation(String),
}

impl fmt::Display for FreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FreeError::AlreadyFreed(info) => write!(f, "double free of {info}"),
            FreeError::NotAnAllocation(what) => write!(f, "free of an address where no allocation begins: {what}"),
        }
    }
}

impl std::error::Error for FreeError {}

/// Why a freed allocation could not live again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReviveError {
    /// Nothing that was freed begins there.
    NotFreed,
    /// The device has not that much memory left.
    OutOfMemory(OutOfMemory),
}

/// What is wrong with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemoryFaultKind {
    /// Null, or null plus an offset.
    Null,
    /// Memory that was freed.
    Freed,
    /// Begins inside a live allocation and ends outside, or begins in the gap around one.
    OutOfBounds,
    /// Nothing known lies there.
    Unmapped,
}

/// An access to memory that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryFault {
    /// The first address of the access.
    pub address: u64,
    /// Its bytes.
    pub bytes: u64,
    /// What is wrong.
    pub kind: MemoryFaultKind,
    /// The address in words: "48 bytes past the end of allocation 17 of 4096 bytes ...".
    pub place: String,
}

impl fmt::Display for MemoryFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {:#x}: {}", self.bytes, self.address, self.place)
    }
}

impl std::error::Error for MemoryFault {}

impl Space {
    /// An empty address space. A process needs one: addresses are unique within a space.
    pub fn new() -> Space {
        Space::default()
    }

    /// Sets how much memory a device has; without this it is without limit.
    pub fn set_limit(&self, device: u32, bytes: u64) {
        self.state().usage(device).limit = bytes;
    }

    /// Bytes in use and bytes in all on a device.
    pub fn usage(&self, device: u32) -> (u64, u64) {
        let usage = *self.state().usage(device);
        (usage.used, usage.limit)
    }

    /// Allocates exactly `bytes` bytes filled with poison. The limit counts bytes asked for.
    pub fn alloc(&self, bytes: u64, device: u32, poison: Poison) -> Result<u64, OutOfMemory> {
        let (base, order) = {
            let mut state = self.state();
            let next = state.next;
            let usage = state.usage(device);
            let full = OutOfMemory { requested: bytes, used: usage.used, limit: usage.limit };
            let used = usage.used.checked_add(bytes).filter(|&used| used <= usage.limit).ok_or(full)?;
            // An odd multiple of the alignment: nothing may come to rely on more.
            let base = next.next_multiple_of(2 * ALIGNMENT) + ALIGNMENT;
            let end = base.checked_add(bytes).filter(|&end| end < windows::LAST_ALLOCATION).ok_or(full)?;
            usage.used = used;
            state.next = end + GAP;
            state.order += 1;
            (base, state.order)
        };
        // Filling takes long and needs no lock: nobody knows the address yet.
        let allocation = Arc::new(Allocation::new(base, bytes, order, device, poison));
        let mut history = write(&self.shared.history);
        history.by_base.insert(base, AllocationInfo { base, bytes, order, device, freed_by: None });
        drop(history);
        let mut state = self.state();
        state.live.insert(base, allocation);
        state.list = None;
        Ok(base)
    }

    /// Frees the allocation that begins at `address`; `by` is named when somebody uses it later.
    pub fn free(&self, address: u64, by: &'static str) -> Result<(), FreeError> {
        let gone = {
            let mut state = self.state();
            let gone = state.live.remove(&address);
            if let Some(gone) = &gone {
                state.list = None;
                state.usage(gone.device()).used -= gone.bytes();
            }
            gone
        };
        let mut history = write(&self.shared.history);
        let Some(gone) = gone else {
            return Err(match history.by_base.get(&address) {
                Some(info) if info.freed_by.is_some() => FreeError::AlreadyFreed(info.clone()),
                _ => FreeError::NotAnAllocation(history.describe(address, 1).1),
            });
        };
        if let Some(info) = history.by_base.get_mut(&address) {
            info.freed_by = Some(by);
        }
        history.freed.push_back(address);
        if history.freed.len() > REMEMBERED
            && let Some(oldest) = history.freed.pop_front()
        {
            history.by_base.remove(&oldest);
        }
        drop(history);
        // Only a launch that still holds a snapshot can see this.
        if Arc::strong_count(&gone) > 1 {
            gone.free();
        }
        Ok(())
    }

    /// Lets a freed allocation live again at its address, filled with poison: what a graph allocates keeps its address over
    /// all launches. An address that was freed too long ago to be remembered is gone, as is one that is live.
    pub fn revive(&self, address: u64, poison: Poison) -> Result<(), ReviveError> {
        let mut history = write(&self.shared.history);
        let info = history.by_base.get_mut(&address).filter(|info| info.freed_by.is_some());
        let info = info.ok_or(ReviveError::NotFreed)?;
        let mut state = self.state();
        let usage = state.usage(info.device);
        let full = OutOfMemory { requested: info.bytes, used: usage.used, limit: usage.limit };
        let used = usage.used.checked_add(info.bytes).filter(|&used| used <= usage.limit);
        usage.used = used.ok_or(ReviveError::OutOfMemory(full))?;
        let allocation = Allocation::new(address, info.bytes, info.order, info.device, poison);
        info.freed_by = None;
        history.freed.retain(|freed| *freed != address);
        state.live.insert(address, Arc::new(allocation));
        state.list = None;
        Ok(())
    }

    /// Copies bytes from the device.
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<(), MemoryFault> {
        let allocation = self.find(address, out.len() as u64)?;
        allocation.read(address - allocation.base(), out);
        Ok(())
    }

    /// Copies bytes to the device.
    pub fn write(&self, address: u64, data: &[u8]) -> Result<(), MemoryFault> {
        let allocation = self.find(address, data.len() as u64)?;
        allocation.write(address - allocation.base(), data);
        Ok(())
    }

    /// Writes `count` copies of `pattern`, which has one, two or four bytes. `address` is a multiple of its length.
    pub fn fill(&self, address: u64, pattern: &[u8], count: u64) -> Result<(), MemoryFault> {
        let word = match *pattern {
            [a] => u32::from_le_bytes([a; 4]),
            [a, b] => u32::from_le_bytes([a, b, a, b]),
            [a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
            _ => panic!("a fill pattern has 1, 2 or 4 bytes, not {}", pattern.len()),
        };
        let Some(bytes) = count.checked_mul(pattern.len() as u64) else {
            return Err(self.fault(address, u64::MAX));
        };
        let allocation = self.find(address, bytes)?;
        allocation.fill(address - allocation.base(), word, bytes);
        Ok(())
    }

    /// Copies bytes within the device; what was never written stays so at the destination.
    pub fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<(), MemoryFault> {
        let source = self.find(from, bytes)?;
        let target = self.find(to, bytes)?;
        // Overlapping ranges copy as if through a buffer: downwards copies go up, upwards copies go down.
        const STEP: u64 = 1 << 16;
        let mut buffer = vec![0; STEP.min(bytes) as usize];
        let steps = bytes.div_ceil(STEP);
        for step in 0..steps {
            let step = if to > from { steps - 1 - step } else { step };
            let done = step * STEP;
            let part = &mut buffer[..STEP.min(bytes - done) as usize];
            let offset = from - source.base() + done;
            source.read(offset, part);
            let invalid = source.invalid_runs(offset, part.len() as u64);
            let offset = to - target.base() + done;
            target.write(offset, part);
            for run in invalid {
                target.set_invalid(offset + run.start, run.end - run.start);
            }
        }
        Ok(())
    }

    /// Puts an endless input behind a range: an untouched page of a sparse allocation computes it, and takes no memory.
    pub fn generate(&self, address: u64, bytes: u64, background: Background) -> Result<(), MemoryFault> {
        let allocation = self.find(address, bytes)?;
        allocation.generate(address - allocation.base(), bytes, background);
        Ok(())
    }

    /// Marks the range as never written; the bytes stay as they are.
    pub fn forget(&self, address: u64, bytes: u64) -> Result<(), MemoryFault> {
        let allocation = self.find(address, bytes)?;
        allocation.set_invalid(address - allocation.base(), bytes);
        Ok(())
    }

    /// The first address in the range that nobody ever wrote.
    pub fn first_uninitialised(&self, address: u64, bytes: u64) -> Result<Option<u64>, MemoryFault> {
        let allocation = self.find(address, bytes)?;
        let first = allocation.first_invalid(address - allocation.base(), bytes);
        Ok(first.map(|offset| allocation.base() + offset))
    }

    /// An address in words.
    pub fn describe(&self, address: u64) -> String {
        read(&self.shared.history).describe(address, 1).1
    }

    /// The allocation that holds an address.
    pub fn owner(&self, address: u64) -> Option<AllocationInfo> {
        let state = self.state();
        let (_, allocation) = state.live.range(..=address).next_back()?;
        allocation.contains(address, 1).then(|| info(allocation))
    }

    /// All live allocations, in order of address.
    pub fn live(&self) -> Vec<AllocationInfo> {
        self.state().live.values().map(|allocation| info(allocation)).collect()
    }

    /// What a launch runs on: all allocations that live now. It keeps their memory alive, and costs two counters.
    pub fn snapshot(&self) -> Snapshot {
        let mut state = self.state();
        let list = match &state.list {
            Some(list) => list.clone(),
            None => {
                let list: Arc<[Arc<Allocation>]> = state.live.values().cloned().collect();
                state.list = Some(list.clone());
                list
            }
        };
        Snapshot { list, history: self.shared.history.clone() }
    }

    /// The same with the allocations of one device: what a kernel on it can reach.
    pub fn snapshot_of(&self, device: u32) -> Snapshot {
        let whole = self.snapshot();
        if whole.list.iter().all(|allocation| allocation.device() == device) {
            return whole;
        }
        let list = whole.list.iter().filter(|allocation| allocation.device() == device).cloned().collect();
        Snapshot { list, history: whole.history }
    }

    /// The live allocation that holds the whole range. A range of no bytes may end at an end.
    fn find(&self, address: u64, bytes: u64) -> Result<Arc<Allocation>, MemoryFault> {
        let state = self.state();
        let found = state.live.range(..=address).next_back().map(|(_, allocation)| allocation);
        match found {
            Some(allocation) if allocation.contains(address, bytes) => Ok(allocation.clone()),
            _ => {
                drop(state);
                Err(self.fault(address, bytes))
            }
        }
    }

    fn fault(&self, address: u64, bytes: u64) -> MemoryFault {
        let (kind, place) = read(&self.shared.history).describe(address, bytes);
        MemoryFault { address, bytes, kind, place }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl State {
    fn usage(&mut self, device: u32) -> &mut Usage {
        self.devices.entry(device).or_insert(Usage { used: 0, limit: u64::MAX })
    }
}

fn info(allocation: &Allocation) -> AllocationInfo {
    AllocationInfo {
        base: allocation.base(),
        bytes: allocation.bytes(),
        order: allocation.order(),
        device: allocation.device(),
        freed_by: None,
    }
}

fn read(history: &RwLock<History>) -> std::sync::RwLockReadGuard<'_, History> {
    history.read().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn write(history: &RwLock<History>) -> std::sync::RwLockWriteGuard<'_, History> {
    history.write().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The memory a launch runs on.
#[derive(Clone)]
pub struct Snapshot {
    list: Arc<[Arc<Allocation>]>,
    history: Arc<RwLock<History>>,
}

impl Snapshot {
    /// The allocation that begins at or before `address` and its index; whether the address lies inside is for the caller.
    #[inline]
    pub(crate) fn at_or_before(&self, address: u64) -> Option<(usize, &Allocation)> {
        let after = self.list.partition_point(|allocation| allocation.base() <= address);
        let index = after.checked_sub(1)?;
        Some((index, &self.list[index]))
    }

    /// The allocation of an index that [`Snapshot::at_or_before`] gave.
    #[inline(always)]
    pub(crate) fn get(&self, index: usize) -> Option<&Allocation> {
        self.list.get(index).map(|allocation| &**allocation)
    }

    /// An address in words.
    pub fn describe(&self, address: u64) -> String {
        read(&self.history).describe(address, 1).1
    }

    /// What is wrong with an access.
    pub fn fault(&self, address: u64, bytes: u64) -> MemoryFault {
        let (kind, place) = read(&self.history).describe(address, bytes);
        MemoryFault { address, bytes, kind, place }
    }
}
