//! Local memory: the stack of each lane, with a frame for the kernel and for each call that has not returned.

use super::access::{Access, Raw, collect, count, element, lanes_of, scatter};
use super::ldst::put_bytes;
use super::warp::LANES;
use super::{Env, Warp, ops};
use crate::check::lanes;
use crate::check::taint::{self, Read};
use crate::ir::Inst;
use crate::launch::code;
use crate::mem::windows::Window;

/// Bytes of local memory that a thread may have.
pub const MOST_BYTES: usize = 512 << 10;

/// The local memory of a warp.
pub struct Local {
    /// One block of `stride` bytes per lane, lane 0 first.
    bytes: Vec<u8>,
    /// Whether each of them was written.
    valid: Vec<bool>,
    /// Bytes of one lane.
    stride: usize,
    /// What nobody has written yet.
    poison: u8,
}

impl Local {
    /// `stride` bytes for each lane.
    pub fn new(stride: usize, poison: u8) -> Local {
        Local { bytes: vec![poison; stride * LANES], valid: vec![false; stride * LANES], stride, poison }
    }

    /// Unwritten again.
    pub fn reset(&mut self, poison: u8) {
        self.poison = poison;
        self.bytes.fill(poison);
        self.valid.fill(false);
    }

    /// Makes `end` bytes of each lane usable; false beyond what a thread may have.
    pub fn reach(&mut self, end: usize) -> bool {
        if end > MOST_BYTES {
            return false;
        }
        if end > self.stride {
            let stride = end.next_power_of_two();
            let mut grown = Local::new(stride, self.poison);
            for lane in 0..LANES {
                let (from, to) = (lane * self.stride, lane * stride);
                grown.bytes[to..to + self.stride].copy_from_slice(&self.bytes[from..from + self.stride]);
                grown.valid[to..to + self.stride].copy_from_slice(&self.valid[from..from + self.stride]);
            }
            *self = grown;
        }
        true
    }

    /// Bytes of a lane, which must be reached.
    pub fn get(&self, lane: usize, at: usize, bytes: usize) -> &[u8] {
        &self.bytes[lane * self.stride..][..self.stride][at..at + bytes]
    }

    /// Whether each of them was written.
    pub fn written(&self, lane: usize, at: usize, bytes: usize) -> &[bool] {
        &self.valid[lane * self.stride..][..self.stride][at..at + bytes]
    }

    /// Writes bytes of a lane; where `valid` says no, they count as unwritten all the same.
    fn put(&mut self, lane: usize, at: usize, bytes: impl Iterator<Item = (u8, bool)>) {
        let at = lane * self.stride + at;
        for ((byte, valid), (to, mark)) in bytes.zip(self.bytes[at..].iter_mut().zip(&mut self.valid[at..])) {
            (*to, *mark) = (byte, valid);
        }
    }

    /// Writes bytes of a lane.
    pub fn set(&mut self, lane: usize, at: usize, bytes: &[u8]) {
        self.put(lane, at, bytes.iter().map(|byte| (*byte, true)));
    }

    /// Bytes of a lane that nobody has written yet.
    pub fn undefine(&mut self, lane: usize, at: u32, bytes: u32, poison: u8) {
        self.put(lane, at as usize, std::iter::repeat_n((poison, false), bytes as usize));
    }

    /// Copies bytes of a lane.
    pub fn copy(&mut self, lane: usize, from: u32, to: u32, bytes: u32) {
        let (base, range) = (lane * self.stride, from as usize..(from + bytes) as usize);
        let to = base + to as usize;
        self.bytes.copy_within(base + range.start..base + range.end, to);
        self.valid.copy_within(base + range.start..base + range.end, to);
    }
}

ops! {
    /// `ld.param` of a parameter of a device function or a result of a call: at offset `x` of the lane's frame.
    LD_PASSED = |warp, env, inst, mask| {
        let width = count(inst) * element(inst);
        let at = std::array::from_fn(|lane| u64::from(warp.frames.base(lane) + inst.x));
        let raw: Raw<4> = read(warp, env, mask, &at, width);
        scatter(warp, env.kernel, inst, mask, &raw)
    };
    /// `st.param` of an argument of a call or a result of a device function: at offset `x` of the lane's frame.
    ST_PASSED = |warp, env, inst, mask| {
        let width = count(inst) * element(inst);
        let at = std::array::from_fn(|lane| u64::from(warp.frames.base(lane) + inst.x));
        let raw: Raw<4> = collect(warp, env.kernel, inst);
        write(warp, env, inst, mask, &at, width, &raw);
    };
}

/// Reads bytes that are known to be there, and notes those that nobody wrote.
fn read<const W: usize>(warp: &Warp, env: &mut Env<'_>, mask: u32, at: &[u64; LANES], width: usize) -> Raw<W> {
    let mut raw = [[0; LANES]; W];
    let (mut missing, mut first) = ([0u32; LANES], None);
    for lane in lanes_of(mask) {
        let from = at[lane] as usize;
        put_bytes(&mut raw, lane, warp.local.get(lane, from, width));
        let written = warp.local.written(lane, from, width);
        if let Some(unwritten) = written.iter().position(|written| !written) {
            first.get_or_insert(at[lane] + unwritten as u64);
            missing[lane] = written.iter().rev().fold(0, |all, written| all << 1 | u32::from(!written));
        }
    }
    if let (true, Some(at)) = (env.launch.settings.checks.init, first) {
        taint::met(warp, env, missing, Read { window: Window::Local(at as u32), address: at, bytes: width });
    }
    raw
}

/// Writes bytes that are known to be there; undefined values leave them unwritten.
fn write<const W: usize>(
    warp: &mut Warp,
    env: &Env<'_>,
    inst: &Inst,
    mask: u32,
    at: &[u64; LANES],
    width: usize,
    raw: &Raw<W>,
) {
    let undefined = if warp.taint.any() { taint::stored(warp, env.kernel, inst) } else { [0; LANES] };
    for lane in lanes_of(mask) {
        let byte = |i: usize| (raw[i / 4][lane].to_le_bytes()[i % 4], undefined[lane] >> i & 1 == 0);
        warp.local.put(lane, at[lane] as usize, (0..width).map(byte));
    }
}

/// Whether bytes lie inside one array of a function that the lane is in.
pub(super) fn inside(warp: &Warp, env: &Env<'_>, lane: usize, at: u64, bytes: u64) -> bool {
    let within = |base: u32, routine: u32| {
        let frame = &env.kernel.routines[routine as usize].frame;
        let at = at.wrapping_sub(u64::from(base));
        let all = frame.locals.iter().chain(&frame.params);
        all.map(|v| v.range()).any(|range| range.start <= at && at < range.end && range.end - at >= bytes)
    };
    let calls = warp.frames.of(lane);
    calls.iter().rev().any(|call| within(call.base, call.routine)) || within(0, 0)
}

/// The array that an address is nearest behind, in words.
fn nearest(warp: &Warp, env: &Env<'_>, lane: usize, at: u64) -> String {
    let kernel = std::iter::once((0, 0));
    let frames = kernel.chain(warp.frames.of(lane).iter().map(|call| (call.base, call.routine)));
    let arrays = frames.flat_map(|(base, routine)| {
        let frame = &env.kernel.routines[routine as usize].frame;
        frame.locals.iter().chain(&frame.params).map(move |v| (u64::from(base) + v.range().start, v, routine))
    });
    let before = arrays.filter(|(start, ..)| *start <= at).max_by_key(|(start, ..)| *start);
    let Some((start, variable, routine)) = before else { return "below every local array of the thread".into() };
    let (size, name) = (u64::from(variable.size), &env.kernel.routines[routine as usize].name);
    let distance = at - start;
    if distance < size {
        format!("{distance} bytes into {} of {size} bytes in {name}", variable.name)
    } else {
        format!("{} past the end of {} of {size} bytes in {name}", distance - size, variable.name)
    }
}

/// Whether every lane stays inside an array; a fault otherwise.
fn check<const T: usize>(warp: &Warp, env: &mut Env<'_>, access: &Access, verb: &str) -> bool {
    for lane in access.lanes() {
        let address = access.address[lane];
        if !address.is_multiple_of(T as u64) {
            let text = format!("misaligned: {verb} {T} bytes at local offset {address}, not a multiple of {T}");
            env.fault(warp, lane as u32, code::MISALIGNED, text);
            return false;
        }
        if !inside(warp, env, lane, address, T as u64) {
            let bad = access.lanes().filter(|&lane| !inside(warp, env, lane, access.address[lane], T as u64));
            let bad = lanes(bad.fold(0, |mask, lane| mask | 1 << lane));
            let place = nearest(warp, env, lane, address);
            let text =
                format!("out of bounds: {verb} {T} bytes at local offset {address}, {place} ({bad} of the warp)");
            env.fault(warp, lane as u32, code::ILLEGAL_ADDRESS, text);
            return false;
        }
    }
    env.tally.local(env.pc, access.mask, T);
    true
}

/// Loads, or faults.
pub fn load<const T: usize, const W: usize>(warp: &Warp, env: &mut Env<'_>, access: &Access) -> Option<Raw<W>> {
    check::<T>(warp, env, access, "load of").then(|| read(warp, env, access.mask, &access.address, T))
}

/// Stores, or faults.
pub fn store<const T: usize, const W: usize>(
    warp: &mut Warp,
    env: &mut Env<'_>,
    inst: &Inst,
    access: &Access,
    raw: &Raw<W>,
) {
    if check::<T>(warp, env, access, "store of") {
        write(warp, env, inst, access.mask, &access.address, T, raw);
    }
}
