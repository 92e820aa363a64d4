//! What the driver supplies to kernels: `printf` and failed assertions.

use super::access::lanes_of;
use super::format::{self, Arguments};
use super::warp::LANES;
use super::{Env, Warp, ops};
use crate::check::lanes;
use crate::ir::Inst;
use crate::launch::code;
use crate::mem::windows::{self, Window};

/// Longest text that a kernel may print or name: what a pointer to something else may not exceed.
const LONGEST_TEXT: usize = 1 << 16;
/// Bytes that one launch may print.
const MOST_OUTPUT: usize = 16 << 20;

ops! {
    /// `vprintf`: the pool holds the offsets of format, arguments and result in the frame, from `x`.
    VPRINTF = |warp, env, inst, mask| print(warp, env, inst, mask);
    /// `__assertfail`: the pool holds the offsets of message, file, line, function and the width of characters.
    ASSERT_FAIL = |warp, env, inst, mask| assert_fail(warp, env, inst, mask);
}

/// The bytes of argument `n` of a call.
fn argument(warp: &Warp, env: &Env<'_>, inst: &Inst, lane: usize, n: usize, bytes: usize) -> u64 {
    let at = warp.frames.base(lane) as usize + usize::from(env.kernel.pool[inst.x as usize + n]);
    let mut raw = [0; 8];
    raw[..bytes].copy_from_slice(warp.local.get(lane, at, bytes));
    u64::from_le_bytes(raw)
}

/// Bytes at a generic address.
fn read(warp: &Warp, env: &Env<'_>, lane: usize, address: u64, out: &mut [u8]) -> Result<(), String> {
    let bytes = out.len() as u64;
    match windows::classify(address) {
        Window::Local(at) if super::local::inside(warp, env, lane, u64::from(at), bytes) => {
            out.copy_from_slice(warp.local.get(lane, at as usize, out.len()));
            Ok(())
        }
        Window::Local(at) => Err(format!("{bytes} bytes at local offset {at}, outside every local array")),
        Window::Shared(at) if env.shared.one_array(at, u64::from(at) + bytes) => {
            for (byte, at) in out.iter_mut().zip(at..) {
                *byte = env.shared.load(at).to_le_bytes()[at as usize % 4];
            }
            Ok(())
        }
        Window::Shared(at) => Err(env.shared.outside(at, bytes as u32).to_string()),
        Window::Param(_) => Err(format!("{bytes} bytes of kernel parameters")),
        Window::Global => {
            let found = env.launch.memory.at_or_before(address).map(|(_, allocation)| allocation);
            let found = found.filter(|allocation| allocation.contains(address, bytes) && !allocation.is_freed());
            let Some(allocation) = found else {
                return Err(format!("{bytes} bytes at {address:#x}, {}", env.launch.memory.describe(address)));
            };
            allocation.read(address - allocation.base(), out);
            Ok(())
        }
    }
}

/// The text at a generic address, up to its NUL.
fn text(warp: &Warp, env: &Env<'_>, lane: usize, address: u64) -> Result<Vec<u8>, String> {
    let mut text = Vec::new();
    loop {
        let mut byte = [0];
        read(warp, env, lane, address.wrapping_add(text.len() as u64), &mut byte)?;
        match byte[0] {
            0 => return Ok(text),
            _ if text.len() == LONGEST_TEXT => return Err(format!("a text of more than {LONGEST_TEXT} bytes")),
            byte => text.push(byte),
        }
    }
}

/// The arguments behind a pointer.
struct Listed<'a, 'l> {
    warp: &'a Warp,
    env: &'a Env<'l>,
    lane: usize,
    list: u64,
    at: u64,
}

impl Listed<'_, '_> {
    fn next<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let at = self.at.next_multiple_of(N as u64);
        self.at = at + N as u64;
        let mut out = [0; N];
        read(self.warp, self.env, self.lane, self.list.wrapping_add(at), &mut out)?;
        Ok(out)
    }
}

impl Arguments for Listed<'_, '_> {
    fn word(&mut self) -> Result<u32, String> {
        self.next().map(u32::from_le_bytes)
    }
    fn long(&mut self) -> Result<u64, String> {
        self.next().map(u64::from_le_bytes)
    }
    fn text(&mut self, address: u64) -> Result<Vec<u8>, String> {
        text(self.warp, self.env, self.lane, address)
    }
}

#[inline(never)]
fn print(warp: &mut Warp, env: &mut Env<'_>, inst: &Inst, mask: u32) {
    for lane in lanes_of(mask) {
        let mut out = Vec::new();
        let (format, list) = (argument(warp, env, inst, lane, 0, 8), argument(warp, env, inst, lane, 1, 8));
        let mut arguments = Listed { warp, env, lane, list, at: 0 };
        let format = text(warp, env, lane, format).map_err(|why| format!("printf: the format: {why}"));
        let taken = match format.and_then(|format| format::format(&format, &mut arguments, &mut out)) {
            Ok(taken) => taken,
            Err(why) => {
                let code = if why.contains("not implemented") { code::NOT_SUPPORTED } else { code::ILLEGAL_ADDRESS };
                return env.fault(warp, lane as u32, code, why);
            }
        };
        if env.printed.len() + out.len() > MOST_OUTPUT {
            let why = format!("printf: more than {MOST_OUTPUT} bytes of output in one launch");
            return env.fault(warp, lane as u32, code::NOT_SUPPORTED, why);
        }
        env.printed.extend(out);
        let at = warp.frames.base(lane) as usize + usize::from(env.kernel.pool[inst.x as usize + 2]);
        warp.local.set(lane, at, &taken.to_le_bytes());
    }
}

/// Ends the launch with the line that hardware prints; of several threads the first is named.
#[inline(never)]
fn assert_fail(warp: &mut Warp, env: &mut Env<'_>, inst: &Inst, mask: u32) {
    let lane = mask.trailing_zeros() as usize % LANES;
    let say = |n| {
        let text = text(warp, env, lane, argument(warp, env, inst, lane, n, 8));
        text.map_or_else(|why| format!("<{why}>"), |text| String::from_utf8_lossy(&text).into_owned())
    };
    let (message, file, function) = (say(0), say(1), say(3));
    let line = argument(warp, env, inst, lane, 2, 4);
    let thread = warp.index * LANES as u32 + lane as u32;
    let ([x, y, z], [bx, by, _]) = (env.cta, env.launch.block);
    let (tx, ty, tz) = (thread % bx, thread / bx % by, thread / (bx * by));
    let failed = lanes(mask);
    let text = format!(
        "{file}:{line}: {function}: block: [{x},{y},{z}], thread: [{tx},{ty},{tz}] Assertion `{message}` failed. \
         ({failed} of the warp)"
    );
    env.fault(warp, lane as u32, code::ASSERT, text);
}
