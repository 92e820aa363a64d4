//! How a kernel reports bad data: one record per stream, written on the device, turned into an error on the host.
//!
//! A kernel that meets a value it must not use (a target that is no class) writes NaN where its result would be, notes
//! the value in the record, and goes on: nothing traps, so the context stays usable. The record lies in device memory and
//! exists from the first launch that may report. The host reads it at its next synchronisation, and only if such a
//! launch was made since the last look.

use super::stream::Stream;
use crate::error::{Error, Result};
use cudarc::driver::sys::CUdeviceptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The record as kernels see it (`ErrorRecord` in `kernels/params.h`). All zero means that nothing was reported.
///
/// One thread of a launch may write it, and launches on one stream follow each other.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ErrorRecord {
    /// Number of the operation that reported, from [`Recorder::slot`]; 0 if none did.
    pub(crate) op: u32,
    /// The row of the value.
    pub(crate) row: u64,
    /// The value itself.
    pub(crate) value: i64,
    /// What the value had to stay below.
    pub(crate) limit: u64,
}

/// What a kernel needs to report: where, and the number of its operation.
///
/// To be kept until the kernel is enqueued, see [`Turn`].
pub(crate) struct ErrorSlot<'a> {
    /// Device address of the [`ErrorRecord`].
    pub(crate) address: CUdeviceptr,
    /// What to write into [`ErrorRecord::op`].
    pub(crate) op: u32,
    _turn: Turn<'a>,
}

/// Nobody looks at the record while this exists, which has to be until a kernel that may report is enqueued: a look that
/// came between would count for a launch that it cannot have seen, and one that found an older report would wipe out the
/// newer one with it.
pub(super) struct Turn<'a>(#[expect(dead_code, reason = "held, never read")] MutexGuard<'a, State>);

/// The host's side of one stream's record.
#[derive(Default)]
pub(crate) struct Recorder {
    /// Whether a launch since the last look may have reported.
    armed: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Address of the record, once there is one.
    address: Option<CUdeviceptr>,
    /// Names of the operations that were given a slot; operation `n` is at `n - 1`.
    ops: Vec<&'static str>,
}

impl Recorder {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock panics between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the record if there is none yet.
    pub(super) fn prepare(&self, stream: &Stream) -> Result<()> {
        let mut state = self.state();
        if state.address.is_none() {
            state.address = Some(allocate(stream)?);
        }
        Ok(())
    }

    /// For a launch of kernels that were given their slots before.
    pub(super) fn turn(&self) -> Turn<'_> {
        Turn(self.state())
    }

    /// Notes that a kernel that may report is launched.
    pub(super) fn arm(&self) {
        self.armed.store(true, Ordering::Release);
    }

    /// Where a kernel of `op`, launched next on `stream`, shall report. Must be called before each such launch.
    pub(crate) fn slot(&self, stream: &Stream, op: &'static str) -> Result<ErrorSlot<'_>> {
        let mut state = self.state();
        let address = match state.address {
            Some(address) => address,
            None => {
                // What is allocated while somebody else captures a graph is the graph's, and gone after its launch.
                if stream.is_captured()? {
                    return Err(stream.closed("the first operation that may meet bad data"));
                }
                *state.address.insert(allocate(stream)?)
            }
        };
        let position = state.ops.iter().position(|&known| known == op).unwrap_or_else(|| {
            state.ops.push(op);
            state.ops.len() - 1
        });
        self.arm();
        stream.gate().note_reports();
        Ok(ErrorSlot { address, op: position as u32 + 1, _turn: Turn(state) })
    }

    /// Waits for the stream if a kernel may have reported, and returns the report as an error. It is then forgotten.
    pub(crate) fn check(&self, stream: &Stream) -> Result<()> {
        if !self.armed.load(Ordering::Acquire) {
            return Ok(());
        }
        let state = self.state();
        if !self.armed.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let Some(address) = state.address else { return Ok(()) };
        let record = read(stream, address).and_then(|record| {
            if record.op != 0 {
                clear(stream, address)?;
            }
            Ok(record)
        });
        // Not known to be clear: look again next time.
        let record = record.inspect_err(|_| self.arm())?;
        match (record.op as usize).checked_sub(1).and_then(|position| state.ops.get(position)) {
            Some(&op) => Err(Error::Target { op, row: record.row, value: record.value, classes: record.limit }),
            None => Ok(()),
        }
    }

    /// As [`Recorder::check`], for a stream that was waited for anyway. On a stream of somebody else it looks in any case: a graph
    /// that they captured launches kernels that nobody announced. Those need a record that exists before the capture.
    pub(crate) fn check_settled(&self, stream: &Stream) -> Result<()> {
        if !stream.is_ours() {
            self.prepare(stream)?;
            self.arm();
        }
        self.check(stream)
    }

    /// Gives the record back. Kernels in the queue may still write it, so the free takes its place behind them.
    pub(super) fn release(&self, stream: &Stream) {
        if let Some(address) = self.state().address.take() {
            stream.free(address);
        }
    }
}

fn allocate(stream: &Stream) -> Result<CUdeviceptr> {
    let address = stream.alloc(size_of::<ErrorRecord>())?;
    if let Err(error) = clear(stream, address) {
        stream.free(address);
        return Err(error);
    }
    Ok(address)
}

fn clear(stream: &Stream, address: CUdeviceptr) -> Result<()> {
    // SAFETY: a context is current, and `address` was allocated on this stream with this size.
    unsafe { stream.enter()?.memset_d8_async(address, 0, size_of::<ErrorRecord>(), stream.raw()) }
}

fn read(stream: &Stream, address: CUdeviceptr) -> Result<ErrorRecord> {
    let mut record = vec![ErrorRecord::default()];
    let _open = stream.hold("looking for bad data")?;
    let entered = stream.enter()?;
    let to = record.as_mut_ptr().cast();
    // SAFETY: source and destination have the size of a record, whose fields are valid for all bytes; the vector is
    // neither touched nor freed before `settle` has waited for the copy.
    let copied = unsafe { entered.memcpy_dtoh_async(to, address, size_of::<ErrorRecord>(), stream.raw()) };
    stream.settle(copied, record).map(|record| record[0])
}
