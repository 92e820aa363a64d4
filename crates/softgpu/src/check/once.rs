//! Watched outputs: every byte written exactly once, and nothing written elsewhere.

use super::{Detector, Finding, lanes};
use crate::exec::access::Access;
use crate::exec::{Env, Warp};
use crate::launch::Where;
use std::ops::Range;

/// What one launch wrote of its declared outputs.
pub(crate) struct WriteOnce {
    outputs: Vec<Output>,
}

struct Output {
    start: u64,
    bytes: u64,
    /// One bit per byte.
    written: Vec<u64>,
}

impl Output {
    fn contains(&self, address: u64, bytes: u64) -> bool {
        address >= self.start && address - self.start + bytes <= self.bytes
    }

    fn is_written(&self, byte: u64) -> bool {
        self.written[byte as usize / 64] >> (byte % 64) & 1 != 0
    }
}

/// What is wrong with a store.
enum Wrong {
    Outside,
    Twice,
}

impl WriteOnce {
    /// Watches these address ranges; `None` when there are none.
    pub(crate) fn new(ranges: &[Range<u64>]) -> Option<WriteOnce> {
        let output = |range: &Range<u64>| {
            let bytes = range.end.saturating_sub(range.start);
            Output { start: range.start, bytes, written: vec![0; bytes.div_ceil(64) as usize] }
        };
        (!ranges.is_empty()).then(|| WriteOnce { outputs: ranges.iter().map(output).collect() })
    }

    fn store(&mut self, address: u64, bytes: u64) -> Option<Wrong> {
        let Some(output) = self.outputs.iter_mut().find(|output| output.contains(address, bytes)) else {
            return Some(Wrong::Outside);
        };
        let first = address - output.start;
        let mut twice = false;
        for byte in first..first + bytes {
            twice |= output.is_written(byte);
            output.written[byte as usize / 64] |= 1 << (byte % 64);
        }
        twice.then_some(Wrong::Twice)
    }

    /// The bytes that were left unwritten, output by output: how many of how many, and the first.
    fn unwritten(&self) -> Vec<(u64, u64, u64)> {
        let gap = |output: &Output| {
            let missing = output.bytes - output.written.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
            let first = (0..output.bytes).find(|byte| !output.is_written(*byte))?;
            Some((missing, output.bytes, output.start + first))
        };
        self.outputs.iter().filter_map(gap).collect()
    }
}

/// Checks a store of `T` bytes per lane against the watched outputs.
#[cold]
#[inline(never)]
pub(crate) fn store<const T: usize>(
    warp: &Warp,
    env: &mut Env<'_>,
    access: &Access,
    changes: impl Fn(&Env<'_>, usize) -> bool,
) {
    let Some(mut watch) = env.watch.take() else { return };
    let (mut outside, mut twice) = (0u32, 0u32);
    for lane in access.lanes() {
        match watch.store(access.address[lane], T as u64) {
            None => {}
            Some(Wrong::Outside) => outside |= u32::from(changes(env, lane)) << lane,
            Some(Wrong::Twice) => twice |= 1 << lane,
        }
    }
    env.watch = Some(watch);
    for (bad, what) in [(outside, "outside every watched output"), (twice, "that were written before in this launch")] {
        if bad == 0 || env.seen(Detector::WriteOnce, None) {
            continue;
        }
        let lane = bad.trailing_zeros();
        let address = access.address[lane as usize];
        let place = env.launch.memory.describe(address);
        let text = format!("store of {T} bytes at {address:#x} {what}: {place} ({} of the warp)", lanes(bad));
        let at = env.at(warp, lane);
        env.find(Finding { address: Some(address), ..Finding::new(Detector::WriteOnce, at, text) });
    }
}

/// Checks a store of `bytes` bytes by a lane's copy against the watched outputs.
pub(crate) fn bulk(warp: &Warp, env: &mut Env<'_>, lane: u32, address: u64, bytes: u64) {
    let wrong = env.watch.as_mut().and_then(|watch| watch.store(address, bytes));
    let what = match wrong {
        None => return,
        Some(Wrong::Outside) => "outside every watched output",
        Some(Wrong::Twice) => "that were written before in this launch",
    };
    if !env.seen(Detector::WriteOnce, None) {
        let place = env.launch.memory.describe(address);
        let text = format!("copy in bulk of {bytes} bytes to {address:#x} {what}: {place}");
        let at = env.at(warp, lane);
        env.find(Finding { address: Some(address), ..Finding::new(Detector::WriteOnce, at, text) });
    }
}

/// At the end of a launch: reports what was left unwritten.
pub(crate) fn finish(env: &mut Env<'_>) {
    let Some(watch) = env.watch.take() else { return };
    for (missing, bytes, first) in watch.unwritten() {
        let place = env.launch.memory.describe(first);
        let text = format!("{missing} of the {bytes} bytes of a watched output were never written, first {place}");
        let at = Where { place: "the end of the launch".into(), ..env.kernel.describe(u32::MAX, [0; 3], 0, 0) };
        env.find(Finding { address: Some(first), ..Finding::new(Detector::WriteOnce, at, text) });
    }
}
