//! GPUs: candle's memory, and work in the order of candle's stream.
//!
//! A device that candle makes with a stream of its own (`Device::new_cuda_with_stream`) gets its work enqueued on that stream.
//! `Device::new_cuda` uses the default stream of the calling thread, whose handle means another stream on every thread, so that
//! sumexp, whose devices may be sent to threads, does not take it. Work for it goes to a lane: a stream beside the thread's own,
//! which waits for what candle enqueued before, and for which candle's waits afterwards. That is one event per call and one per
//! result.

use crate::memory::{Place, Scalar};
use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DriverError, SyncOnDrop,
};
use candle_core::cuda_backend::{CudaDevice, CudaStorage};
use candle_core::{DType, DeviceLocation, Error, Result, Storage};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// `CU_STREAM_PER_THREAD`.
const PER_THREAD: usize = 2;

/// A stream as both libraries know it. `device` goes first: it must not outlive the stream.
#[derive(Clone)]
struct Stream {
    device: sumexp::Device,
    stream: Arc<CudaStream>,
}

/// The streams of candle that were used. Each keeps one device of sumexp, because that keeps what kernels report.
static STREAMS: Mutex<Vec<Stream>> = Mutex::new(Vec::new());

thread_local! {
    /// The lanes of this thread, by number of the GPU.
    static LANES: RefCell<HashMap<usize, Stream>> = RefCell::new(HashMap::new());
}

/// One call on a GPU.
pub(crate) struct Gpu {
    candle: CudaDevice,
    /// candle's stream: its operands were enqueued there, and its results are used and freed there.
    stream: Arc<CudaStream>,
    /// What the work is enqueued on: the same, or a lane.
    on: Stream,
    /// From the lane back to candle's stream. A call that failed on the way may have enqueued work too.
    back: Bridge,
}

impl Gpu {
    pub(crate) fn new(candle: &CudaDevice) -> Result<Self> {
        let stream = candle.cuda_stream();
        let (on, back) = if stream.cu_stream().addr() == PER_THREAD {
            let lane = lane(&stream)?;
            let back = Bridge::new(&lane.stream, &stream);
            (lane, back)
        } else {
            (own(stream.clone())?, Bridge(None))
        };
        Ok(Self { candle: candle.clone(), stream, on, back })
    }

    /// An error if a kernel met bad data since the last look.
    pub(crate) fn check(self) -> Result<()> {
        self.on.device.check().map_err(Error::wrap)
    }

    /// An error that candle's bindings met where they could not return it, such as a wait that was not enqueued.
    fn heed(&self) -> Result<()> {
        self.on.stream.context().check_err().map_err(driver)
    }
}

/// What the first stream is asked to do while this exists comes before what the second is asked afterwards. Between no streams,
/// there is nothing to do.
pub(crate) struct Bridge(Option<[Arc<CudaStream>; 2]>);

impl Bridge {
    fn new(from: &Arc<CudaStream>, to: &Arc<CudaStream>) -> Self {
        Self(Some([from.clone(), to.clone()]))
    }

    /// Ends it here.
    fn close(&mut self) -> Result<()> {
        let Some([from, to]) = self.0.take() else { return Ok(()) };
        // Where no event can be had, waiting has the same effect.
        to.join(&from).or_else(|_| from.synchronize()).map_err(driver)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        // If this fails the context is lost, and nothing runs any more.
        let _ = self.close();
    }
}

/// Memory for a result.
pub(crate) struct Fresh<T> {
    /// Closed first: memory that is dropped here is freed behind the work that uses it. candle's memory does so by itself if the
    /// work is on its own stream.
    back: Bridge,
    slice: CudaSlice<T>,
}

/// Held while work that reads memory is enqueued.
pub(crate) struct Reading<'a> {
    _marked: SyncOnDrop<'a>,
    /// Back to the stream that the memory belongs to, if it is not candle's of this call.
    _back: Bridge,
}

fn driver(error: DriverError) -> Error {
    Error::Cuda(Box::new(error)).bt()
}

/// A stream that candle made.
fn own(stream: Arc<CudaStream>) -> Result<Stream> {
    // Entries are pushed and removed whole: a poisoned lock still guards a whole list.
    let mut streams = STREAMS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = streams.iter().find(|known| Arc::ptr_eq(&known.stream, &stream)) {
        return Ok(known.clone());
    }
    // Nobody else holds these any more.
    streams.retain(|known| Arc::strong_count(&known.stream) > 1);
    // SAFETY: the handle is valid as long as `stream`, which is kept beside the device, and dropped after it. The tensors of a call
    // are candle's.
    let device = unsafe { sumexp::Device::from_stream(stream.context().ordinal(), stream.cu_stream().cast()) };
    let known = Stream { device: device.map_err(Error::wrap)?, stream };
    streams.push(known.clone());
    Ok(known)
}

/// The lane of this thread beside its default stream on the same GPU.
fn lane(default: &CudaStream) -> Result<Stream> {
    let ordinal = default.context().ordinal();
    LANES.with_borrow_mut(|lanes| {
        if let Some(lane) = lanes.get(&ordinal) {
            return Ok(lane.clone());
        }
        let device = sumexp::Device::cuda(ordinal).and_then(|device| device.with_new_stream()).map_err(Error::wrap)?;
        let raw = device.raw_stream().expect("a GPU has a stream");
        // SAFETY: the handle is of the GPU's primary context, which both libraries use, and is alive as long as `device`, which is
        // kept beside the wrapper, by clones too. `Gpu` orders the work of the lane against candle's.
        let stream = unsafe { default.context().wrap_borrowed_stream(raw.cast()) };
        let lane = Stream { device, stream };
        lanes.insert(ordinal, lane.clone());
        Ok(lane)
    })
}

impl Place for Gpu {
    type Memory = CudaStorage;
    type Fresh<T: Scalar> = Fresh<T>;
    type Guard<'a> = Reading<'a>;

    fn of(memory: &CudaStorage) -> Result<Self> {
        Self::new(memory.device())
    }

    fn device(&self) -> &sumexp::Device {
        &self.on.device
    }

    fn here<'a>(&self, storage: &'a Storage) -> Option<&'a CudaStorage> {
        // Devices of one GPU may mix, as in candle: `address` puts their streams in order.
        let of = |memory: &CudaStorage| memory.device().cuda_stream().context().ordinal();
        match storage {
            Storage::Cuda(memory) if of(memory) == self.stream.context().ordinal() => Some(memory),
            _ => None,
        }
    }

    fn location(&self) -> DeviceLocation {
        DeviceLocation::Cuda { gpu_id: self.stream.context().ordinal() }
    }

    fn dtype(memory: &CudaStorage) -> DType {
        memory.dtype()
    }

    fn address<'a, T: Scalar>(&'a self, memory: &'a CudaStorage) -> Result<(u64, usize, Reading<'a>)> {
        let slice = memory.as_cuda_slice::<T>()?;
        let (address, marked) = slice.device_ptr(&self.on.stream);
        let mut back = Bridge(None);
        if *slice.stream() != self.stream {
            // candle marks its own writes as reads, and of several reads the last: its marks are not enough between streams.
            self.on.stream.join(slice.stream()).map_err(driver)?;
            back = Bridge::new(&self.on.stream, slice.stream());
        }
        self.heed()?;
        Ok((address, slice.len(), Reading { _marked: marked, _back: back }))
    }

    fn alloc<T: Scalar>(&self, elements: usize) -> Result<Fresh<T>> {
        // SAFETY: an operation of sumexp writes every element before anything reads one, or returns an error, upon which the
        // memory is dropped unread. No allocation is empty.
        let slice = unsafe { self.candle.alloc::<T>(elements.max(1)) }?;
        let mut back = Bridge(None);
        if self.back.0.is_some() {
            // It is candle's stream that the memory is allocated on, and that the operands were made on. Every call has a result
            // before it enqueues anything.
            self.on.stream.join(&self.stream).map_err(driver)?;
            back = Bridge::new(&self.on.stream, &self.stream);
        }
        Ok(Fresh { back, slice })
    }

    fn address_mut<T: Scalar>(&self, fresh: &mut Fresh<T>) -> u64 {
        fresh.slice.device_ptr_mut(&self.on.stream).0
    }

    fn memory<T: Scalar>(&self, fresh: Fresh<T>) -> CudaStorage {
        let Fresh { mut back, mut slice } = fresh;
        // The call's own does it for all results.
        back.0 = None;
        // Marks this point, behind the work that writes it, for other streams that use the memory.
        let _ = slice.device_ptr_mut(&self.on.stream);
        CudaStorage::wrap_cuda_slice(slice, self.candle.clone())
    }

    fn storage(memory: CudaStorage) -> Storage {
        Storage::Cuda(memory)
    }

    fn finish(mut self) -> Result<()> {
        self.back.close()?;
        self.heed()
    }
}
