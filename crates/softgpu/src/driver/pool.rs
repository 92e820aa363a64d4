//! Memory pools: whose account stream-ordered memory is on. Addresses are never reused, so a pool holds nothing back.

use super::call::{Call, In, Out, entry};
use super::code::{Code, Result};
use super::device;
use super::state::{DeviceId, HandleKind, Origin, State};
use std::ffi::c_void;

/// `CU_MEMPOOL_ATTR_*`.
const REUSE_FIRST: u32 = 1;
const REUSE_LAST: u32 = 3;
const RELEASE_THRESHOLD: u32 = 4;
const RESERVED_CURRENT: u32 = 5;
const RESERVED_HIGH: u32 = 6;
const USED_CURRENT: u32 = 7;
const USED_HIGH: u32 = 8;

/// `CU_MEM_LOCATION_TYPE_DEVICE`.
const ON_DEVICE: u32 = 1;
/// `CU_MEM_ALLOCATION_TYPE_PINNED`.
const PINNED: u32 = 1;

/// One pool.
pub struct Pool {
    /// The device its memory lies on.
    pub device: DeviceId,
    release_threshold: u64,
    reuse: [i32; 3],
    used: u64,
    high: u64,
}

impl Pool {
    /// A pool as a context finds it.
    pub fn new(device: DeviceId) -> Pool {
        Pool { device, release_threshold: 0, reuse: [1; 3], used: 0, high: 0 }
    }
}

/// The first fields of `CUmemPoolProps`; what follows them has differed between releases.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PoolProperties {
    allocation_type: u32,
    handle_types: u32,
    location_type: u32,
    location: i32,
}

/// The pool of a handle.
pub fn lookup<'s>(call: &Call, state: &'s State, handle: u64) -> Result<&'s Pool> {
    let unknown = || call.invalid(&format!("{handle:#x} is no memory pool, or was destroyed"));
    state.pools.get(&handle).ok_or_else(unknown)
}

impl State {
    /// Remembers how an allocation came to be, and puts it on its pool's account.
    pub fn add_allocation(&mut self, base: u64, origin: Origin) {
        if let Some(pool) = origin.ordered.and_then(|(_, _, pool)| self.pools.get_mut(&pool)) {
            pool.used += origin.bytes;
            pool.high = pool.high.max(pool.used);
        }
        self.allocations.insert(base, origin);
    }

    /// Forgets an allocation.
    pub fn remove_allocation(&mut self, base: u64) {
        let Some(origin) = self.allocations.remove(&base) else { return };
        if let Some(pool) = origin.ordered.and_then(|(_, _, pool)| self.pools.get_mut(&pool)) {
            pool.used -= origin.bytes;
        }
    }
}

/// Writes an attribute: the reuse flags are 32-bit, the sizes 64-bit.
fn answer(call: &Call, out: *mut c_void, attribute: u32, value: u64) -> Result {
    if out.is_null() {
        return Err(call.invalid("a pointer for the result is null"));
    }
    let size = if attribute <= REUSE_LAST { 4 } else { 8 };
    // SAFETY: not null, checked above; the entry's contract gives it the size of the attribute, which is `size`.
    unsafe { out.cast::<u8>().copy_from_nonoverlapping(value.to_le_bytes().as_ptr(), size) };
    Ok(())
}

entry! {
    fn cuDeviceGetDefaultMemPool(call, out: Out<u64>, ordinal: i32) {
        let state = call.state()?;
        let device = device::lookup(call, &state, ordinal)?;
        out.set(call, state.device(device).default_pool)
    }

    fn cuDeviceGetMemPool(call, out: Out<u64>, ordinal: i32) {
        let state = call.state()?;
        let device = device::lookup(call, &state, ordinal)?;
        out.set(call, state.device(device).current_pool)
    }

    fn cuDeviceSetMemPool(call, ordinal: i32, pool: u64) {
        let mut state = call.state()?;
        let device = device::lookup(call, &state, ordinal)?;
        if lookup(call, &state, pool)?.device != device {
            return Err(call.invalid("the pool belongs to another device"));
        }
        state.device_mut(device).current_pool = pool;
        Ok(())
    }

    fn cuMemPoolCreate(call, out: Out<u64>, properties: In<PoolProperties>) {
        let mut state = call.state()?;
        out.check(call)?;
        let properties = properties.get(call)?;
        if properties.allocation_type != PINNED || properties.location_type != ON_DEVICE {
            return Err(call.unsupported(Code::NOT_SUPPORTED, "only pools of device memory are implemented"));
        }
        if properties.handle_types != 0 {
            return Err(call.unsupported(Code::NOT_SUPPORTED, "pools are not shared between processes"));
        }
        let device = device::lookup(call, &state, properties.location)?;
        let handle = state.new_handle(HandleKind::Pool);
        state.pools.insert(handle, Pool::new(device));
        out.set(call, handle)
    }

    fn cuMemPoolDestroy(call, pool: u64) {
        let mut state = call.state()?;
        let device = lookup(call, &state, pool)?.device;
        if state.device(device).default_pool == pool {
            return Err(call.invalid("the default pool of a device cannot be destroyed"));
        }
        if state.device(device).current_pool == pool {
            let default = state.device(device).default_pool;
            state.device_mut(device).current_pool = default;
        }
        state.pools.remove(&pool);
        Ok(())
    }

    /// Nothing is held back, so there is nothing to give back.
    fn cuMemPoolTrimTo(call, pool: u64, keep: usize) {
        let state = call.state()?;
        let _ = keep;
        lookup(call, &state, pool).map(|_| ())
    }

    fn cuMemPoolGetAttribute(call, pool: u64, attribute: u32, out: *mut c_void) {
        let state = call.state()?;
        let pool = lookup(call, &state, pool)?;
        let value = match attribute {
            REUSE_FIRST..=REUSE_LAST => pool.reuse[(attribute - REUSE_FIRST) as usize] as u64,
            RELEASE_THRESHOLD => pool.release_threshold,
            RESERVED_CURRENT | USED_CURRENT => pool.used,
            RESERVED_HIGH | USED_HIGH => pool.high,
            other => return Err(call.invalid(&format!("pool attribute {other} is not known"))),
        };
        answer(call, out, attribute, value)
    }

    fn cuMemPoolSetAttribute(call, pool: u64, attribute: u32, value: In<c_void>) {
        let mut state = call.state()?;
        lookup(call, &state, pool)?;
        let value = match attribute {
            REUSE_FIRST..=REUSE_LAST => value.cast::<u32>().get(call)?.into(),
            _ => value.cast::<u64>().get(call)?,
        };
        let Some(pool) = state.pools.get_mut(&pool) else { return Err(Code::INVALID_VALUE) };
        match attribute {
            REUSE_FIRST..=REUSE_LAST => pool.reuse[(attribute - REUSE_FIRST) as usize] = value as i32,
            RELEASE_THRESHOLD => pool.release_threshold = value,
            // The marks can only be reset.
            RESERVED_HIGH | USED_HIGH if value == 0 => pool.high = pool.used,
            other => return Err(call.invalid(&format!("pool attribute {other} cannot be set to {value}"))),
        }
        Ok(())
    }
}
