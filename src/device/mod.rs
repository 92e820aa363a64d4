//! A [`Device`]: the host, or one GPU together with one in-order stream on it.

mod alloc;
mod capture;
mod context;
mod driver;
mod graph;
mod memory;
mod record;
mod stream;
mod timing;

pub(crate) use capture::Pass;
pub(crate) use context::Context;
pub use graph::Graph;
pub(crate) use memory::{CudaMemory, Holder};
pub(crate) use record::{ErrorRecord, ErrorSlot};
pub(crate) use stream::Stream;

use crate::error::{DeviceName, Error, Result};
use crate::plan::Caps;
use cudarc::driver::sys::CUstream;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Where tensors live and operations run: the host, or one GPU and one in-order stream on it.
///
/// A device is cheap to clone, may be used from any thread, and may be dropped before the tensors that live on it.
/// Everything it is asked to do runs in the order of the calls; operations return when their work is enqueued, and the
/// host waits only where it reads a result or calls [`synchronize`](Self::synchronize).
///
/// Two devices are equal if they are the same stream. An operation on tensors of two devices is refused with
/// [`Error::DifferentDevices`].
///
/// ```
/// use sumexp::Device;
/// let device = Device::cuda(0).unwrap_or(Device::cpu());
/// println!("computing on {}", device.description());
/// # Ok::<(), sumexp::Error>(())
/// ```
#[derive(Clone)]
pub struct Device(Kind);

#[derive(Clone)]
enum Kind {
    Cpu,
    Cuda(Arc<Stream>),
}

impl Device {
    /// The host. Operations run on all its cores and are finished when they return.
    pub const fn cpu() -> Self {
        Self(Kind::Cpu)
    }

    /// GPU number `ordinal` with its default stream: every call with the same number gives the same device.
    ///
    /// # Errors
    /// [`Error::NoDriver`], [`Error::NoSuchDevice`], [`Error::Capability`], [`Error::Driver`].
    pub fn cuda(ordinal: usize) -> Result<Self> {
        static DEFAULTS: Mutex<BTreeMap<usize, Weak<Stream>>> = Mutex::new(BTreeMap::new());
        let context = Context::of(ordinal)?;
        // Entries are replaced whole: a poisoned lock still guards a whole map.
        let mut defaults = DEFAULTS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stream) = defaults.get(&ordinal).and_then(Weak::upgrade) {
            return Ok(Self(Kind::Cuda(stream)));
        }
        let stream = Arc::new(Stream::new(context)?);
        defaults.insert(ordinal, Arc::downgrade(&stream));
        Ok(Self(Kind::Cuda(stream)))
    }

    /// The same GPU with a stream of its own, independent of this one. The host has no streams and gives itself.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn with_new_stream(&self) -> Result<Self> {
        match &self.0 {
            Kind::Cpu => Ok(Self::cpu()),
            Kind::Cuda(stream) => Ok(Self(Kind::Cuda(Arc::new(Stream::new(stream.context())?)))),
        }
    }

    /// GPU number `ordinal` with a stream that somebody else made on its primary context, such as PyTorch's or
    /// candle's current one. The stream is never destroyed here. A null handle is the legacy default stream.
    ///
    /// The owner of the stream may capture it into a graph of their own and enqueue operations meanwhile, on memory that the
    /// graph may use. Before the first such capture of operations that may meet bad data (see [`check`](Self::check)), call
    /// [`synchronize`](Self::synchronize) once: it makes what they report to, which cannot be part of a graph, and without it they
    /// are refused with [`Error::Capturing`]. What later launches of the graph report is returned by `synchronize` too.
    ///
    /// # Safety
    /// `stream` must be a valid handle, and must stay valid until this device, all its clones and all tensors made with
    /// it are dropped and the work enqueued through them is done. While a [`Graph`] is captured with this device, nobody
    /// else may use the stream.
    ///
    /// # Errors
    /// [`Error::PerThreadStream`] for handle 2, which names another stream on every thread; [`Error::ForeignContext`]
    /// for a stream of another context; else as [`Device::cuda`].
    pub unsafe fn from_stream(ordinal: usize, stream: CUstream) -> Result<Self> {
        // SAFETY: the caller makes the same promise.
        let stream = unsafe { Stream::adopt(Context::of(ordinal)?, stream) }?;
        Ok(Self(Kind::Cuda(Arc::new(stream))))
    }

    /// Waits until everything this device was asked to do is done.
    ///
    /// # Errors
    /// [`Error::Driver`] if work failed; [`Error::Target`] if a kernel met bad data since the last look.
    pub fn synchronize(&self) -> Result<()> {
        match &self.0 {
            Kind::Cpu => Ok(()),
            Kind::Cuda(stream) => {
                stream.synchronize()?;
                stream.recorder().check_settled(stream)
            }
        }
    }

    /// Whether a kernel met bad data since the last look, such as a target that is no class.
    ///
    /// Waits for the device only if a kernel that can report was launched in between. A report is returned once.
    /// Operations on the host report directly.
    ///
    /// # Errors
    /// [`Error::Target`] with the lowest such row; [`Error::Driver`].
    pub fn check(&self) -> Result<()> {
        match &self.0 {
            Kind::Cpu => Ok(()),
            Kind::Cuda(stream) => stream.recorder().check(stream),
        }
    }

    /// What launch plans know of the GPU; `None` for the host.
    pub fn capabilities(&self) -> Option<Caps> {
        self.stream().map(|stream| *stream.context().caps())
    }

    /// The device as messages name it.
    pub fn name(&self) -> DeviceName {
        self.stream().map_or(DeviceName::Cpu, |stream| stream.name())
    }

    /// The device for people: "CPU", or the name that the driver gives the GPU.
    pub fn description(&self) -> &str {
        self.stream().map_or("CPU", |stream| stream.context().name())
    }

    /// Whether this is the host.
    pub fn is_cpu(&self) -> bool {
        matches!(self.0, Kind::Cpu)
    }

    /// The raw handle of the stream, for work enqueued by other libraries; `None` for the host.
    ///
    /// It stays valid as long as this device or a tensor on it exists.
    pub fn raw_stream(&self) -> Option<CUstream> {
        self.stream().map(|stream| stream.raw())
    }

    /// The stream of a GPU; `None` for the host.
    pub(crate) fn stream(&self) -> Option<&Arc<Stream>> {
        match &self.0 {
            Kind::Cpu => None,
            Kind::Cuda(stream) => Some(stream),
        }
    }

    /// For what no graph can hold: while the guard lives, no capture begins. The host captures nothing.
    pub(crate) fn hold(&self, what: &'static str) -> Result<Option<Pass<'_>>> {
        self.stream().map(|stream| stream.hold(what)).transpose()
    }

    /// The device of a stream.
    fn of_stream(stream: Arc<Stream>) -> Self {
        Self(Kind::Cuda(stream))
    }

    /// Where a kernel of `op`, launched next, shall report bad data, and the number it shall report as. `None` on the
    /// host, where operations report directly. Must be called before each launch that may report, and kept until then.
    pub(crate) fn error_slot(&self, op: &'static str) -> Result<Option<ErrorSlot<'_>>> {
        self.stream().map(|stream| stream.recorder().slot(stream, op)).transpose()
    }

    /// Refuses operands of two devices. `first` and `rest` are names and devices of the operands.
    pub(crate) fn same(op: &'static str, first: (&'static str, &Self), rest: &[(&'static str, &Self)]) -> Result<()> {
        let (left, device) = first;
        match rest.iter().find(|(_, other)| *other != device) {
            None => Ok(()),
            Some(&(right, other)) => {
                Err(Error::DifferentDevices { op, left, left_device: device.name(), right, right_device: other.name() })
            }
        }
    }
}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Kind::Cpu, Kind::Cpu) => true,
            (Kind::Cuda(a), Kind::Cuda(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl Eq for Device {}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.name())
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name().fmt(f)
    }
}
