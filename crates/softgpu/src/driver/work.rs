//! What an operation of a stream does, once it runs.

use super::call::HostPointer;
use super::code::{Code, Result};
use super::host;
use super::launch::KernelWork;
use super::queue::Operation;
use super::state::{self, DeviceId};
use super::thread;
use crate::ctl::types::{Detector, Finding};
use crate::mem::{MemoryFault, MemoryFaultKind, Poison, ReviveError};
use std::ffi::c_void;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// The work of one operation.
#[derive(Clone)]
pub enum Work {
    /// A kernel.
    Kernel(Box<KernelWork>),
    /// Host to device.
    ToDevice {
        /// Device address.
        to: u64,
        /// Where the bytes are.
        from: Source,
    },
    /// Device to host.
    ToHost {
        /// Host address.
        to: HostPointer,
        /// Device address.
        from: u64,
        /// Length.
        bytes: u64,
    },
    /// Device to device.
    Copy {
        /// Device address written.
        to: u64,
        /// Device address read.
        from: u64,
        /// Length.
        bytes: u64,
    },
    /// A pattern of one, two or four bytes, repeated.
    Fill {
        /// Device address.
        to: u64,
        /// The pattern; its first `width` bytes count.
        pattern: [u8; 4],
        /// Bytes of the pattern.
        width: usize,
        /// Repetitions.
        count: u64,
    },
    /// Stream-ordered memory becomes usable here.
    Ready {
        /// Device address.
        address: u64,
    },
    /// A graph's own memory becomes live here.
    Revive {
        /// Device address.
        address: u64,
        /// What it holds.
        poison: Poison,
    },
    /// Stream-ordered memory is released here.
    Release {
        /// Device address.
        address: u64,
    },
    /// A function of the program.
    Host {
        /// The function.
        function: unsafe extern "C" fn(*mut c_void),
        /// Its argument.
        data: HostPointer,
    },
    /// An event is reached.
    Record {
        /// When that was.
        time: Arc<OnceLock<Instant>>,
    },
    /// Nothing: its position or what it waits for is all there is to it.
    Marker,
}

/// Where the bytes of a host-to-device copy are.
#[derive(Clone)]
pub enum Source {
    /// Pageable memory was staged when the copy was submitted.
    Staged(Vec<u8>),
    /// Pinned memory is read when the copy runs.
    Pinned(HostPointer, u64),
}

impl Source {
    fn bytes(&self) -> u64 {
        match self {
            Source::Staged(bytes) => bytes.len() as u64,
            Source::Pinned(_, bytes) => *bytes,
        }
    }
}

impl Work {
    /// Device addresses that the work certainly or, for a kernel's parameters, most likely uses.
    pub fn addresses(&self) -> Vec<u64> {
        match self {
            Work::Kernel(kernel) => kernel.addresses(),
            Work::ToDevice { to, .. } | Work::Fill { to, .. } => vec![*to],
            Work::ToHost { from, .. } => vec![*from],
            Work::Copy { to, from, .. } => vec![*to, *from],
            Work::Release { address } => vec![*address],
            Work::Ready { .. } | Work::Revive { .. } | Work::Host { .. } | Work::Record { .. } | Work::Marker => vec![],
        }
    }

    /// What the label of the operation says beside the entry: a kernel's name.
    pub fn subject(&self) -> String {
        match self {
            Work::Kernel(kernel) => format!(" of {}", kernel.name()),
            _ => String::new(),
        }
    }
}

/// Runs an operation. In a context that has failed already, only what concerns the program's own bookkeeping happens.
pub fn execute(operation: &Operation, device: DeviceId, failed: bool) -> Result {
    match &operation.work {
        Work::Record { time } => {
            time.get_or_init(Instant::now);
            return Ok(());
        }
        Work::Release { address } => return release(operation, *address),
        Work::Revive { address, poison } => return revive(operation, *address, *poison),
        Work::Ready { .. } | Work::Marker => return Ok(()),
        _ if failed => return Ok(()),
        _ => {}
    }
    let space = state::space();
    let result = match &operation.work {
        Work::Kernel(kernel) => return kernel.run(operation, device),
        Work::ToDevice { to, from: Source::Staged(bytes) } => space.write(*to, bytes),
        Work::ToDevice { to, from: source @ Source::Pinned(from, _) } => {
            let count = source.bytes() as usize;
            if let Some(problem) = host::freed_use(from.0 as usize, count) {
                return report(operation, Detector::PINNED_MEMORY, problem);
            }
            // SAFETY: a live pinned block of this driver holds these bytes; checked when submitted and again just now.
            let bytes = unsafe { std::slice::from_raw_parts(from.0.cast::<u8>(), count) };
            space.write(*to, bytes)
        }
        Work::ToHost { to, from, bytes } => {
            let count = *bytes as usize;
            if let Some(problem) = host::freed_use(to.0 as usize, count) {
                return report(operation, Detector::PINNED_MEMORY, problem);
            }
            check_written(operation, *from, *bytes)?;
            // SAFETY: pageable memory is written before the call returns, pinned memory was found to be live just now;
            // the program says that `bytes` bytes are there.
            let target = unsafe { std::slice::from_raw_parts_mut(to.0.cast::<u8>(), count) };
            space.read(*from, target)
        }
        Work::Copy { to, from, bytes } => space.copy(*to, *from, *bytes),
        Work::Fill { to, pattern, width, count } => space.fill(*to, &pattern[..*width], *count),
        Work::Host { function, data } => {
            // SAFETY: the program enqueued this function to be called with this argument, from any thread: once, or at
            // each launch of the graph that captured it.
            thread::in_host_function(|| unsafe { function(data.0) });
            Ok(())
        }
        Work::Ready { .. } | Work::Revive { .. } | Work::Release { .. } | Work::Record { .. } | Work::Marker => Ok(()),
    };
    result.or_else(|fault| fail(operation, &fault))
}

/// Frees stream-ordered memory.
fn release(operation: &Operation, address: u64) -> Result {
    {
        let mut state = state::lock();
        // A later launch of a graph may have taken the address again already.
        let origin = state.allocations.get(&address);
        if origin.is_some_and(|origin| origin.freeing.as_ref() == Some(&operation.label)) {
            state.remove_allocation(address);
        }
    }
    match state::space().free(address, "cuMemFreeAsync") {
        Ok(()) => Ok(()),
        Err(error) => report(operation, Detector::USE_AFTER_FREE, error.to_string()),
    }
}

/// Makes memory of a graph live.
fn revive(operation: &Operation, address: u64, poison: Poison) -> Result {
    match state::space().revive(address, poison) {
        Ok(()) => Ok(()),
        Err(ReviveError::OutOfMemory(full)) => {
            operation.owner.set_last_error(format!("{}: {full}", operation.label));
            Err(Code::OUT_OF_MEMORY)
        }
        Err(ReviveError::NotFreed) => {
            let text = format!("allocates {} again, which was not freed", state::describe(address));
            report(operation, Detector::USE_AFTER_FREE, text)
        }
    }
}

/// Reports a copy of bytes that nobody wrote: an output that a kernel left unwritten shows here at the latest.
fn check_written(operation: &Operation, from: u64, bytes: u64) -> Result {
    if !operation.owner.inner().settings.checks.init {
        return Ok(());
    }
    match state::space().first_uninitialised(from, bytes) {
        Ok(Some(first)) => {
            let place = state::space().describe(first);
            let text = format!("copies bytes to the host that nobody wrote: the first at {first:#x}, {place}");
            report(operation, Detector::UNINITIALISED, text)
        }
        // A range that does not exist is explained by the copy itself.
        _ => Ok(()),
    }
}

/// An operation met memory that is not there.
fn fail(operation: &Operation, fault: &MemoryFault) -> Result {
    if operation.reported {
        return Ok(());
    }
    let detector = match fault.kind {
        MemoryFaultKind::Freed => Detector::USE_AFTER_FREE,
        _ => Detector::OUT_OF_BOUNDS,
    };
    report(operation, detector, fault.to_string())
}

/// Records a finding about an operation; the error of the context unless findings are only recorded.
pub fn report(operation: &Operation, detector: Detector, text: String) -> Result {
    let finding = Finding { detector, text, at: None, submission: Some(operation.label.clone()) };
    if operation.owner.report(finding) { Err(Code::LAUNCH_FAILED) } else { Ok(()) }
}
