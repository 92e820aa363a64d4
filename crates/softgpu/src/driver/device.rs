//! Start-up and devices.

use super::call::{Call, Out, entry};
use super::code::{Code, Result};
use super::profile::Profile;
use super::state::{self, DeviceId, State};
use crate::ctl::env;
use std::ffi::c_char;

/// What `cuDriverGetVersion` answers: the release whose PTX is the newest that is read.
const DRIVER_VERSION: i32 = 13_000;

/// The device of an ordinal.
pub fn lookup(call: &Call, state: &State, ordinal: i32) -> Result<DeviceId> {
    let device = u32::try_from(ordinal).ok().map(DeviceId).filter(|device| state.has_device(*device));
    device.ok_or_else(|| {
        let count = state.device_count();
        call.refuse(Code::INVALID_DEVICE, &format!("device {ordinal} does not exist, there are {count}"))
    })
}

/// What a device is like for the calling thread.
pub fn profile(call: &Call, state: &State, device: DeviceId) -> &'static Profile {
    let chosen = call.thread.inner().profile;
    chosen.unwrap_or(state.device(device).profile)
}

fn uuid(call: &Call, out: &Out<[u8; 16]>, ordinal: i32) -> Result {
    let state = call.state()?;
    let device = lookup(call, &state, ordinal)?;
    let mut uuid = *b"softgpu device \0";
    uuid[15] = device.0 as u8;
    out.set(call, uuid)
}

entry! {
    fn cuInit(call, flags: u32) {
        if flags != 0 {
            return Err(call.invalid(&format!("flags are {flags}, must be 0")));
        }
        let mut state = state::lock();
        if !state.initialised {
            state.initialised = true;
            if let Some(bytes) = env::defaults().memory {
                for ordinal in 0..state.device_count() {
                    state::space().set_limit(ordinal as u32, bytes);
                }
            }
        }
        Ok(())
    }

    fn cuDriverGetVersion(call, out: Out<i32>) {
        out.set(call, DRIVER_VERSION)
    }

    fn cuDeviceGetCount(call, out: Out<i32>) {
        let state = call.state()?;
        out.set(call, state.device_count() as i32)
    }

    fn cuDeviceGet(call, out: Out<i32>, ordinal: i32) {
        let state = call.state()?;
        lookup(call, &state, ordinal)?;
        out.set(call, ordinal)
    }

    fn cuDeviceGetName(call, out: Out<c_char>, capacity: i32, ordinal: i32) {
        let state = call.state()?;
        let device = lookup(call, &state, ordinal)?;
        out.set_text(call, profile(call, &state, device).name, capacity)
    }

    fn cuDeviceGetAttribute(call, out: Out<i32>, attribute: i32, ordinal: i32) {
        let state = call.state()?;
        let device = lookup(call, &state, ordinal)?;
        match profile(call, &state, device).attribute(attribute, device.0) {
            Some(value) => out.set(call, value),
            None => Err(call.invalid(&format!("device attribute {attribute} is not known"))),
        }
    }

    fn cuDeviceGetUuid(call, out: Out<[u8; 16]>, ordinal: i32) {
        uuid(call, &out, ordinal)
    }

    fn cuDeviceGetUuid_v2(call, out: Out<[u8; 16]>, ordinal: i32) {
        uuid(call, &out, ordinal)
    }

    fn cuDeviceTotalMem_v2(call, out: Out<usize>, ordinal: i32) {
        let state = call.state()?;
        let device = lookup(call, &state, ordinal)?;
        out.set(call, state::space().usage(device.0).1 as usize)
    }

    fn cuDeviceComputeCapability(call, major: Out<i32>, minor: Out<i32>, ordinal: i32) {
        let state = call.state()?;
        let device = lookup(call, &state, ordinal)?;
        let capability = profile(call, &state, device).capability;
        major.set(call, capability.major as i32)?;
        minor.set(call, capability.minor as i32)
    }

    fn cuDeviceGetPCIBusId(call, out: Out<c_char>, capacity: i32, ordinal: i32) {
        let state = call.state()?;
        let device = lookup(call, &state, ordinal)?;
        out.set_text(call, &format!("0000:{:02x}:00.0", device.0 + 1), capacity)
    }

    /// Devices do not see each other's memory.
    fn cuDeviceCanAccessPeer(call, out: Out<i32>, ordinal: i32, peer: i32) {
        let state = call.state()?;
        lookup(call, &state, ordinal)?;
        lookup(call, &state, peer)?;
        out.set(call, 0)
    }
}
