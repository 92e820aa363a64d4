//! The software GPU for one test: queued work runs late, and what the test leaves behind is looked for.

use crate::driver;
use candle_core::cuda_backend::cudarc::driver::CudaContext;
use candle_core::{DType, Device, Result, Storage, Tensor};
use std::panic::resume_unwind;
use std::sync::mpsc;
use std::thread;

/// Both kinds of devices that candle makes of GPU 0: with a stream of its own, and with the default stream of each thread.
pub fn devices() -> Result<[Device; 2]> {
    Ok([Device::new_cuda_with_stream(0)?, Device::new_cuda(0)?])
}

/// Runs a test on a thread of its own, in the sense of [`on_thread`]. Afterwards everything must have been given back.
#[track_caller]
pub fn world(test: impl FnOnce() -> Result<()> + Send) {
    let (say, name) = mpsc::channel();
    let body = || {
        say.send(name_of_thread()).expect("there is a receiver");
        on_thread(test).unwrap_or_else(|error| panic!("{error}"));
    };
    let done = thread::scope(|scope| scope.spawn(body).join());
    done.unwrap_or_else(|panic| resume_unwind(panic));
    forget_streams();
    let name = name.recv().expect("the thread said it");
    let left: Vec<String> = driver::left_behind(true).into_iter().filter(|what| what.starts_with(&name)).collect();
    assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
}

/// The calling thread in reports, up to what it made: the driver gives an event its maker's name.
fn name_of_thread() -> String {
    let _event = CudaContext::new(0).and_then(|context| context.new_event(None)).expect("an event");
    let made = driver::left_behind(false);
    let (name, _) = made[0].split_once(": ").expect("a name and what it made");
    format!("{name}: ")
}

/// Runs a part of a test on the calling thread, where queued work runs as late as the rules of streams allow. Nothing that the
/// software GPU looks for may be found.
#[track_caller]
pub fn on_thread<R>(test: impl FnOnce() -> Result<R>) -> Result<R> {
    driver::late();
    let result = test();
    // For everything that is queued.
    let waited = CudaContext::new(0).and_then(|context| context.synchronize());
    let findings = driver::findings();
    assert!(findings.is_empty(), "{}", findings.join("\n"));
    waited.expect("the context is alive");
    result
}

/// A stream of candle that nobody holds any more is kept until the next one is met: it is met here.
fn forget_streams() {
    let met = thread::spawn(|| sumexp_candle::check(&Device::new_cuda_with_stream(0)?));
    met.join().expect("no panic").expect("nothing was reported");
}

/// Each of these must fail, or a test that passes says nothing.
#[test]
fn what_is_wrong_is_seen() {
    let fails = |test: fn() -> Result<()>| {
        let panic = std::panic::catch_unwind(|| world(test)).expect_err("it is wrong");
        panic.downcast::<String>().map_or_else(|_| String::new(), |text| *text)
    };
    let said = fails(|| {
        std::mem::forget(Tensor::ones(5, DType::F32, &Device::new_cuda_with_stream(0)?)?);
        Ok(())
    });
    assert!(said.contains("left behind") && said.contains("20 bytes"), "{said}");
    // Written on one stream and read on another, with nothing between.
    let said = fails(|| {
        let (one, other) = (Device::new_cuda_with_stream(0)?, Device::new_cuda_with_stream(0)?);
        let x = Tensor::ones(5, DType::F32, &one)?.affine(2.0, 0.0)?;
        let (x, _) = x.storage_and_layout();
        let Storage::Cuda(x) = &*x else { unreachable!("it was made on a GPU") };
        let (slice, stream) = (x.as_cuda_slice::<f32>()?, other.as_cuda_device()?.cuda_stream());
        let mut copy = stream.alloc_zeros::<f32>(5).map_err(candle_core::Error::wrap)?;
        stream.memcpy_dtod(slice, &mut copy).map_err(candle_core::Error::wrap)
    });
    assert!(said.contains("missing stream order"), "{said}");
}
