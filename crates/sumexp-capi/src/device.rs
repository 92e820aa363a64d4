//! From the operands of a call to sumexp's device, which for a GPU is a stream as well.
//!
//! A device keeps what kernels recorded on its stream until somebody asks, so each stream has one device for all its calls. They
//! are kept here. A stream that its owner destroys tells nobody: so a kept device is never dropped by itself, because its drop
//! would free the record in the order of the stream. It is dropped when the owner says so, or given up unfreed when there are
//! too many.
//!
//! A handle that was destroyed may come back as another stream. Its device then serves that one: what it keeps is memory of the
//! GPU, not of the stream, and the driver refuses launches on a stream of another context.

use crate::header::*;
use crate::status::{Failure, enter};
use crate::tensor::{Operand, Place};
use std::collections::HashMap;
use std::ffi::c_void;
use std::mem;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use sumexp::Device;

/// Streams that are remembered. PyTorch has 32 of each priority and GPU.
const KEPT: usize = 1024;

/// The devices of the streams that were used, by number of the GPU and address of the stream, each with the time of its last use.
#[derive(Default)]
struct Devices {
    kept: HashMap<(usize, usize), (Device, u64)>,
    uses: u64,
}

impl Devices {
    fn lock() -> MutexGuard<'static, Self> {
        static DEVICES: LazyLock<Mutex<Devices>> = LazyLock::new(Mutex::default);
        // Entries are inserted and removed whole: a poisoned lock still guards a whole map.
        DEVICES.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device of a stream.
    ///
    /// # Safety
    /// `stream` must be a live handle, and stay one while the device is used.
    unsafe fn get(&mut self, ordinal: usize, stream: *mut c_void) -> Result<Device, Failure> {
        let key = (ordinal, stream.addr());
        self.uses += 1;
        if let Some((device, used)) = self.kept.get_mut(&key) {
            *used = self.uses;
            return Ok(device.clone());
        }
        // SAFETY: the caller vouches for the stream while the device is used, and it is not used after that: what is kept is
        // not even dropped.
        let device = unsafe { Device::from_stream(ordinal, stream.cast()) }?;
        if self.kept.len() >= KEPT
            && let Some(oldest) = self.kept.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key)
        {
            mem::forget(self.kept.remove(&oldest));
        }
        self.kept.insert(key, (device.clone(), self.uses));
        Ok(device)
    }
}

/// The device of the operands of a call.
///
/// # Safety
/// `stream` must be what the header says: for operands on a GPU, a live stream of it, until the call returns.
pub(crate) unsafe fn of(first: &Operand, rest: &[&Operand], stream: *mut c_void) -> Result<Device, Failure> {
    if let Some(other) = rest.iter().find(|other| other.place != first.place) {
        return Err(other.refused(
            SUMEXP_DEVICE,
            format_args!("is on {}, while {} is on {}", other.place, first.name(), first.place),
        ));
    }
    match first.place {
        Place::Cpu => Ok(Device::cpu()),
        // SAFETY: the caller makes the same promise.
        Place::Cuda(ordinal) => unsafe { Devices::lock().get(ordinal, stream) },
    }
}

/// Waits for a stream and returns what was recorded on it; see the header.
///
/// # Safety
/// `stream` must be a live stream of the device, or anything for the host.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sumexp_check(device: DLDevice, stream: *mut c_void) -> i32 {
    enter("sumexp_check", |op| {
        let device = match Place::new(op, "the device", device)? {
            Place::Cpu => return Ok(()),
            // SAFETY: the caller makes the same promise.
            Place::Cuda(ordinal) => unsafe { Devices::lock().get(ordinal, stream) }?,
        };
        Ok(device.synchronize()?)
    })
}

/// Drops what is kept of a stream; see the header.
///
/// # Safety
/// `stream` must be a live stream of the device, one that no call ever named, or anything for the host.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sumexp_forget_stream(device: DLDevice, stream: *mut c_void) -> i32 {
    enter("sumexp_forget_stream", |op| {
        if let Place::Cuda(ordinal) = Place::new(op, "the device", device)? {
            let kept = Devices::lock().kept.remove(&(ordinal, stream.addr()));
            // Its record is freed in the order of the stream, which the caller keeps alive.
            drop(kept);
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr;

    /// One test at a time: they fill the notes of the process.
    static TURN: Mutex<()> = Mutex::new(());

    /// More streams than are kept, each with a record on the GPU, and each destroyed before the next one comes: nothing is ever
    /// asked of a stream that is gone, and the notes do not grow.
    #[test]
    fn streams_may_be_destroyed_without_a_word() {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        softgpu::install().unwrap();
        let gpu = softgpu::ctl::connect().unwrap();
        let owner = Device::cuda(0).unwrap();
        let place = DLDevice { device_type: kDLCUDA, device_id: 0 };
        let mut first = ptr::null_mut();
        for number in 0..KEPT + 50 {
            let side = owner.with_new_stream().unwrap();
            let stream = side.raw_stream().unwrap().cast();
            if number == 0 {
                first = stream;
            }
            // SAFETY: the stream is alive.
            assert_eq!(unsafe { sumexp_check(place, stream) }, SUMEXP_OK.0 as i32);
            drop(side);
        }
        let findings = gpu.take_findings();
        assert!(findings.is_empty(), "{}", findings[0]);
        // Only the streams' own ends, by those who made them; each record is given up rather than freed on a stream that is gone.
        assert_eq!(gpu.calls("cuMemFreeAsync"), 0);
        let devices = Devices::lock();
        assert_eq!(devices.kept.len(), KEPT);
        assert!(!devices.kept.contains_key(&(0, first.addr())), "the one that was not used for longest is given up");
    }

    /// One device per stream, so that what is recorded by one call is found by the next; another one after it was forgotten.
    #[test]
    fn a_stream_has_one_device() {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        softgpu::install().unwrap();
        let side = Device::cuda(0).unwrap().with_new_stream().unwrap();
        let stream: *mut c_void = side.raw_stream().unwrap().cast();
        let place = DLDevice { device_type: kDLCUDA, device_id: 0 };
        // SAFETY: the stream is alive.
        let get = || unsafe { Devices::lock().get(0, stream) }.unwrap();
        let device = get();
        assert_eq!(device, get());
        // SAFETY: as above.
        assert_eq!(unsafe { sumexp_forget_stream(place, stream) }, SUMEXP_OK.0 as i32);
        assert_ne!(device, get());
    }
}
