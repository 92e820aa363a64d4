//! CUDA graphs: work of a device, captured once and launched again and again.

use super::Device;
use super::capture::Used;
use super::memory::Holder;
use super::stream::Stream;
use crate::error::{Error, Result};
use cudarc::driver::sys::{CUgraph, CUgraphExec};
use std::fmt;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

/// `CU_STREAM_CAPTURE_MODE_RELAXED`: what else this thread and others ask of the driver is not our business. What concerns
/// the stream itself is kept away by its gate.
const RELAXED: u32 = 2;
/// `CU_STREAM_CAPTURE_STATUS_NONE`.
pub(super) const NOT_CAPTURING: u32 = 0;
/// `CUDA_ERROR_STREAM_CAPTURE_INVALIDATED`.
const INVALIDATED: u32 = 901;

/// Operations of one GPU that were captured once and run again at every launch, on the same memory, with whatever that
/// holds then. A launch costs the host one driver call, however many operations there are.
///
/// ```
/// use sumexp::{Device, Dim, Graph, SoftmaxOptions, Tensor, softmax};
/// # fn main() -> sumexp::Result<()> {
/// # let Ok(device) = Device::cuda(0) else { return Ok(()) };
/// let mut x = Tensor::from_slice(&device, &[1, 2], &[0.0f32, 0.0])?;
/// let (graph, y) = Graph::capture(&device, |_| softmax(&x, Dim::LAST, &SoftmaxOptions::default()))?;
/// for inputs in [[0.0, 0.0], [0.0, f32::NEG_INFINITY]] {
///     x.copy_from_slice(&inputs)?;
///     graph.launch()?;
///     println!("{:?}", y.to_vec()?);
/// }
/// # Ok(())
/// # }
/// ```
///
/// # What a graph holds
/// Everything that its operations use: memory, kernels, options and the stream. Tensors and devices may be dropped before
/// the graph, during its launches and after them; their memory is given back when the graph is gone too, behind its last
/// launch. Foreign memory (see [`interop`](crate::interop)) cannot be held: whoever vouched for it during the capture
/// vouches for it as long as the graph exists.
///
/// # Memory during a capture
/// Tensors that are made while a graph is captured are ordinary tensors. Their memory exists from then on and belongs to
/// the graph as well, so nothing is allocated at a launch. They hold zeros until the first launch, then what it left.
/// [`Tensor::zeros`](crate::Tensor::zeros) is captured as an operation: its tensor is zero again at the start of each
/// launch. Memory that an operation needs for itself is the graph's alone.
///
/// # Order
/// A launch is one more operation of its device: behind everything that the device was asked before, and before what it
/// is asked next. So a tensor that a graph writes may be read and written in between like any other; what a borrowed
/// [`View`](crate::View) shows after a launch is new. While [`to_device`](crate::Tensor::to_device) has such a tensor on
/// another stream too, launches are refused with [`Error::Shared`]. While a graph holds memory, only tensors on the graph's
/// own device may write it.
///
/// # Bad data
/// A kernel that meets a target that is no class reports it at every launch anew, to [`Device::check`] and the next read.
pub struct Graph {
    stream: Arc<Stream>,
    /// Null before it is made.
    raw: CUgraphExec,
    /// In order of address.
    used: Vec<Used>,
    reports: bool,
    /// The driver's graphs are not made to be launched by two threads at once.
    turn: Mutex<()>,
}

// SAFETY: the handle may be used from any thread, by one at a time, which `turn` sees to.
unsafe impl Send for Graph {}
// SAFETY: as above.
unsafe impl Sync for Graph {}

impl Graph {
    /// Captures what `work` asks of `device`; nothing of it runs before the first [`launch`](Self::launch). Gives what
    /// `work` returns beside the graph.
    ///
    /// During the capture the device belongs to this thread, and takes only what a graph can hold. Refused with
    /// [`Error::Capturing`] are copies from and to the host, waiting, timing, sharing with another stream, launching a
    /// graph or capturing another on this device, and whatever other threads ask of it. Operations on other devices are
    /// not captured: they run at once, once.
    ///
    /// # Errors
    /// What `work` returns; [`Error::NoGraphs`] on the host; [`Error::Capturing`] if the device captures already;
    /// [`Error::Driver`], also if `work` ignored an error that spoiled the capture. After an error, or a panic of `work`,
    /// nothing is left of the capture.
    pub fn capture<R>(device: &Device, work: impl FnOnce(&Device) -> Result<R>) -> Result<(Self, R)> {
        let Some(stream) = device.stream() else { return Err(Error::NoGraphs) };
        // Where kernels report must exist before: it is cleared when it is made, and not again at every launch.
        stream.recorder().prepare(stream)?;
        let mut capture = Capture::begin(stream)?;
        let result = work(device);
        let captured = capture.end();
        // Should both fail, the error of the work is the cause.
        let result = result?;
        let (captured, mut graph) = captured?;
        // SAFETY: a context is current, `graph.raw` is writable, and the graph is alive.
        unsafe { stream.context().enter()?.graph_instantiate(&mut graph.raw, captured.raw, 0) }?;
        Ok((graph, result))
    }

    /// Enqueues everything that was captured.
    ///
    /// # Errors
    /// [`Error::Shared`] if a tensor on another stream, or a graph of another stream, holds memory that this graph writes;
    /// [`Error::Capturing`] while the device captures a graph; [`Error::Driver`].
    pub fn launch(&self) -> Result<()> {
        let stream = &*self.stream;
        // The lock guards no data that a panic could have left half-changed.
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let _open = stream.hold("launching a graph")?;
        let written = self.used.iter().filter(|used| used.written);
        // Locked in order of address, as every launch does.
        let _claims = written.map(|used| used.memory.claim("Graph::launch", stream)).collect::<Result<Vec<_>>>()?;
        let _look = self.reports.then(|| {
            let turn = stream.recorder().turn();
            stream.recorder().arm();
            turn
        });
        // SAFETY: a context is current; graph and stream are alive; `used` keeps all memory of this crate that the nodes
        // use, and the claims put the launch behind all other uses of what they write; kernels are never unloaded.
        unsafe { stream.enter()?.graph_launch(self.raw, stream.raw()) }
    }

    /// The device that the graph runs on.
    pub fn device(&self) -> Device {
        Device::of_stream(Arc::clone(&self.stream))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if !self.raw.is_null()
            && let Ok(entered) = self.stream.context().enter()
        {
            // Launches under way finish. A failure leaks the driver's graph, which is never launched again.
            // SAFETY: this is the last use of the handle.
            let _ = unsafe { entered.graph_exec_destroy(self.raw) };
        }
        for used in self.used.drain(..) {
            used.memory.release(&self.stream, Holder::Graph(self.stream.number()));
        }
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Graph on {} with {} allocations", self.stream.name(), self.used.len())
    }
}

/// A graph of the driver that cannot be launched yet.
struct Captured<'a> {
    stream: &'a Stream,
    raw: CUgraph,
}

impl Drop for Captured<'_> {
    fn drop(&mut self) {
        if let Ok(entered) = self.stream.context().enter() {
            // SAFETY: this is the last use of the handle; what was made from the graph does not need it. A failure leaks it.
            let _ = unsafe { entered.graph_destroy(self.raw) };
        }
    }
}

/// A capture under way. Dropped while `work` panics, it ends the capture.
struct Capture<'a> {
    stream: &'a Arc<Stream>,
    ended: bool,
}

impl<'a> Capture<'a> {
    fn begin(stream: &'a Arc<Stream>) -> Result<Self> {
        stream.gate().close().map_err(|_| stream.closed("capturing a graph"))?;
        // SAFETY: a context is current and the stream is alive.
        let begun =
            stream.context().enter().and_then(|entered| unsafe { entered.begin_capture(stream.raw(), RELAXED) });
        match begun {
            Ok(()) => Ok(Self { stream, ended: false }),
            Err(error) => {
                drop(leave(stream));
                Err(error)
            }
        }
    }

    /// Ends the capture: the driver's graph, and one that holds what it uses but is not executable yet.
    fn end(&mut self) -> Result<(Captured<'a>, Graph)> {
        self.ended = true;
        let ended = end_capture(self.stream);
        if matches!(ended, Err(Ended { still_capturing: true, .. })) {
            self.stream.gate().lock_up();
        }
        match ended {
            Ok(captured) => Ok((captured, leave(self.stream))),
            Err(Ended { still_capturing: true, error }) => Err(error),
            Err(Ended { error, .. }) => {
                drop(leave(self.stream));
                Err(error)
            }
        }
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        if !self.ended {
            drop(self.end());
        }
    }
}

/// Opens the gate. The graph holds what was used, and gives it back when it is dropped.
fn leave(stream: &Arc<Stream>) -> Graph {
    let log = stream.gate().open();
    let used = log.used.into_values().collect();
    Graph { stream: Arc::clone(stream), raw: ptr::null_mut(), used, reports: log.reports, turn: Mutex::new(()) }
}

/// A capture that ended without a graph, or could not be ended.
struct Ended {
    error: Error,
    still_capturing: bool,
}

fn end_capture(stream: &Stream) -> Result<Captured<'_>, Ended> {
    let first = match try_to_end(stream) {
        Ok(captured) => return Ok(captured),
        Err(error) => error,
    };
    // Documented failures leave the stream out of capture. After any other it must be brought there.
    let mut capturing = NOT_CAPTURING;
    for attempt in 0..2 {
        // SAFETY: a context is current, the stream is alive, the status is writable.
        let asked =
            stream.context().enter().and_then(|entered| unsafe { entered.is_capturing(stream.raw(), &mut capturing) });
        match asked {
            Ok(()) if capturing == NOT_CAPTURING => return Err(Ended { error: first, still_capturing: false }),
            Ok(()) if attempt == 0 => drop(try_to_end(stream)),
            _ => break,
        }
    }
    Err(Ended { error: first, still_capturing: true })
}

/// The last chance for a stream whose capture could not be ended: what the capture used can be given back after all.
pub(super) fn end_if_locked_up(stream: &Stream) {
    if !stream.gate().is_locked_up() || matches!(end_capture(stream), Err(Ended { still_capturing: true, .. })) {
        return;
    }
    for used in stream.gate().open().used.into_values() {
        used.memory.release(stream, Holder::Graph(stream.number()));
    }
}

fn try_to_end(stream: &Stream) -> Result<Captured<'_>> {
    let mut raw: CUgraph = ptr::null_mut();
    // SAFETY: a context is current, the stream is alive, the handle is writable.
    unsafe { stream.context().enter()?.end_capture(stream.raw(), &mut raw) }?;
    if raw.is_null() {
        return Err(Error::Driver { call: "cuStreamEndCapture", code: INVALIDATED });
    }
    Ok(Captured { stream, raw })
}
