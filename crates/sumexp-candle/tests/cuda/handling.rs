//! Memory and streams: tensors that go while work on them is queued, several streams and threads, calls that fail on the way.

use crate::driver;
use crate::world::{devices, on_thread, world};
use candle_core::cuda_backend::cudarc::driver::CudaStream;
use candle_core::{CpuStorage, CudaStorage, D, DType, Device, Error, InplaceOp1, Layout, Result, Storage, Tensor, Var};
use std::sync::Arc;
use std::thread;
use sumexp_candle::*;

const ROWS: [[f32; 4]; 3] = [[1.0, 2.0, 3.0, 4.0], [0.5, 0.5, -1.0, 8.0], [-3.0, 0.0, 0.25, 1.0]];

/// The rows, made by a kernel of candle that is late.
fn rows(device: &Device) -> Result<Tensor> {
    Tensor::new(&ROWS, device)?.affine(2.0, -1.0)
}

fn plain(x: &Tensor) -> Result<Tensor> {
    softmax(x, D::Minus1, &SoftmaxOptions::default())
}

fn masked(x: &Tensor, mask: Tensor) -> Result<Tensor> {
    softmax(x, D::Minus1, &SoftmaxOptions { mask: Some(Mask::Keep(mask)), ..Default::default() })
}

fn values(x: &Tensor) -> Result<Vec<f32>> {
    x.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

#[track_caller]
fn close(got: &Tensor, want: &Tensor) -> Result<()> {
    let (got, want) = (values(got)?, values(want)?);
    assert_eq!(got.len(), want.len());
    assert!(got.iter().zip(&want).all(|(got, want)| (got - want).abs() < 1e-5), "got {got:?}, want {want:?}");
    Ok(())
}

/// The operand is gone, and candle's next tensors are made, before the kernel has run.
#[test]
fn operands_may_go_while_the_work_is_queued() {
    world(|| {
        let mask = |device: &Device| Tensor::new(&[1u8, 0, 1, 1], device)?.broadcast_as((3, 4));
        let want = masked(&rows(&Device::Cpu)?, mask(&Device::Cpu)?)?;
        for device in devices()? {
            let y = masked(&rows(&device)?, mask(&device)?)?;
            let others: Vec<Tensor> =
                (0..8).map(|_| Tensor::ones((3, 4), DType::F32, &device)).collect::<Result<_>>()?;
            close(&y, &want)?;
            drop(others);
        }
        Ok(())
    });
}

/// candle reads a result in its own stream right away, and it may go while that is queued.
#[test]
fn results_are_ready_for_candle() {
    world(|| {
        let twice = |x: &Tensor| plain(&plain(x)?.affine(3.0, 0.5)?)?.affine(2.0, 0.0);
        let want = twice(&rows(&Device::Cpu)?)?;
        for device in devices()? {
            close(&twice(&rows(&device)?)?, &want)?;
            // Nobody reads these.
            twice(&rows(&device)?)?;
            attention_weights(&four(&rows(&device)?)?, &four(&rows(&device)?)?, &Attention::default())?;
        }
        Ok(())
    });
}

/// `[3, 4]` as operands of attention.
fn four(x: &Tensor) -> Result<Tensor> {
    x.reshape((1, 1, 3, 4))
}

/// Of what a call is promised to leave out, on a stream of candle's own.
#[test]
fn nothing_is_copied_and_nothing_waits() {
    world(|| {
        let device = Device::new_cuda_with_stream(0)?;
        let (x, mask) = (rows(&device)?.t()?, Tensor::ones((4, 3), DType::U8, &device)?);
        // The kernels are loaded.
        masked(&x, mask.clone())?;
        let counted = || {
            [
                "cuStreamSynchronize",
                "cuCtxSynchronize",
                "cuMemcpyDtoDAsync_v2",
                "cuMemcpyHtoDAsync_v2",
                "cuMemcpyDtoHAsync_v2",
            ]
            .map(driver::calls)
        };
        let (before, launches) = (counted(), driver::calls("cuLaunchKernel"));
        let y = masked(&x, mask)?;
        assert_eq!(counted(), before);
        assert_eq!(driver::calls("cuLaunchKernel"), launches + 1);
        close(&y, &plain(&rows(&Device::Cpu)?.t()?)?)
    });
}

/// Devices of one GPU in one call: what one stream was asked comes before, and what it is asked next behind.
#[test]
fn operands_of_several_streams() {
    world(|| {
        let bytes = |device: &Device| Tensor::new(&[[1f32, 0.0, 1.0, 1.0]; 3], device)?.to_dtype(DType::U8);
        let want = masked(&rows(&Device::Cpu)?, bytes(&Device::Cpu)?)?;
        let [own, default] = devices()?;
        let other = Device::new_cuda_with_stream(0)?;
        let kinds = [&own, &other, &default];
        for first in kinds {
            for second in kinds {
                // Gone at once.
                close(&masked(&rows(first)?, bytes(second)?)?, &want)?;
                // Used by its own stream again, and then gone: of the two reads that one is marked last.
                let mask = bytes(second)?;
                let y = masked(&rows(first)?, mask.clone())?;
                let again = mask.to_dtype(DType::F32)?;
                drop(mask);
                close(&y, &want)?;
                drop(again);
            }
        }
        Ok(())
    });
}

/// Streams that a program made by candle's bindings: they wait for the marks that a call leaves, and a call waits for theirs.
#[test]
fn streams_of_the_program() {
    world(|| {
        let want = plain(&rows(&Device::Cpu)?)?;
        let zeros = plain(&Tensor::zeros((3, 4), DType::F32, &Device::Cpu)?)?;
        for device in devices()? {
            let context = device.as_cuda_device()?.cuda_stream().context().clone();
            let beside = context.new_stream().map_err(Error::wrap)?;
            let x = rows(&device)?;
            let y = plain(&x)?;
            // Read beside, behind the work that writes it.
            let copy = {
                let (storage, _) = y.storage_and_layout();
                let Storage::Cuda(memory) = &*storage else { unreachable!("it is on the GPU") };
                beside.clone_dtoh(memory.as_cuda_slice::<f32>()?).map_err(Error::wrap)?
            };
            close(&Tensor::new(copy, &Device::Cpu)?, &want.flatten_all()?)?;
            // Written beside, behind the work that reads it, which is queued, and before that which reads it next.
            let again = plain(&x)?;
            x.inplace_op1(&Clear(beside.clone()))?;
            beside.synchronize().map_err(Error::wrap)?;
            let of_zeros = plain(&x)?;
            close(&again, &want)?;
            close(&of_zeros, &zeros)?;
        }
        Ok(())
    });
}

/// A wait or a mark that could not be had is an error of the call that needs it, not of the next one.
#[test]
fn what_fails_behind_the_back_is_an_error() {
    world(|| {
        let device = Device::new_cuda_with_stream(0)?;
        let beside = device.as_cuda_device()?.cuda_stream().context().new_stream().map_err(Error::wrap)?;
        let x = rows(&device)?;
        let want = plain(&x.zeros_like()?.to_device(&Device::Cpu)?)?;
        for function in ["cuStreamWaitEvent", "cuEventRecord"] {
            for nth in 1.. {
                // Not done yet: the call has something to wait for.
                x.inplace_op1(&Clear(beside.clone()))?;
                driver::fail(function, nth);
                let result = plain(&x);
                if !driver::has_failed() {
                    assert!(nth > 3, "{function}");
                    break;
                }
                assert!(result.is_err(), "{function} {nth}");
                close(&plain(&x)?, &want)?;
            }
        }
        Ok(())
    });
}

/// Fills a tensor of f32 with zeros, on this stream.
struct Clear(Arc<CudaStream>);

impl InplaceOp1 for Clear {
    fn name(&self) -> &'static str {
        "clear"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
        candle_core::bail!("not on the host")
    }

    fn cuda_fwd(&self, memory: &mut CudaStorage, _: &Layout) -> Result<()> {
        self.0.memset_zeros(memory.as_cuda_slice_mut::<f32>()?).map_err(Error::wrap)
    }
}

/// candle makes no empty tensor on a GPU, but parts of others may be.
#[test]
fn empty_tensors() {
    world(|| {
        for device in devices()? {
            let x = Var::from_tensor(&rows(&device)?)?;
            for dim in 0..2 {
                let none = x.narrow(dim, 0, 0)?;
                assert_eq!(plain(&none)?.dims(), none.dims());
            }
            let targets = Tensor::zeros(3, DType::U32, &device)?.narrow(0, 0, 0)?;
            let output = cross_entropy(&x.narrow(0, 0, 0)?, 1, &targets, &CrossEntropy::default())?;
            assert_eq!((output.loss.to_scalar::<f32>()?, output.count.to_scalar::<i64>()?), (0.0, 0));
            assert_eq!(output.lse.dims(), [0]);
        }
        Ok(())
    });
}

/// Every thread has a default stream, and a lane beside it; the device may be one that another thread made.
#[test]
fn threads() {
    world(|| {
        let want = plain(&rows(&Device::Cpu)?)?;
        let shared = devices()?;
        thread::scope(|scope| {
            let work = || {
                on_thread(|| {
                    let [own, default] = &shared;
                    for device in [own, default, &Device::new_cuda(0)?, &Device::new_cuda_with_stream(0)?] {
                        for _ in 0..3 {
                            close(&plain(&rows(device)?)?, &want)?;
                            plain(&rows(device)?)?;
                        }
                    }
                    Ok(())
                })
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
        })
    });
}

#[test]
fn operands_that_are_elsewhere_are_refused() {
    world(|| {
        driver::two_gpus();
        let [first, host] = [Device::new_cuda_with_stream(0)?, Device::Cpu];
        let second = Device::new_cuda_with_stream(1)?;
        let mask = |device: &Device| Tensor::ones((3, 4), DType::U8, device);
        for (here, there) in [(&first, &host), (&host, &first), (&first, &second), (&second, &first)] {
            let text = masked(&rows(here)?, mask(there)?).unwrap_err().to_string();
            assert!(text.contains("the mask is elsewhere"), "{text}");
            assert!(text.contains(&format!("{:?}", there.location())), "{text}");
            let targets = Tensor::zeros(3, DType::U32, there)?;
            let text = cross_entropy(&rows(here)?, 1, &targets, &CrossEntropy::default()).unwrap_err().to_string();
            assert!(text.contains("targets is elsewhere"), "{text}");
            let x = four(&rows(here)?)?;
            assert!(scaled_dot_product_attention(&x, &x, &four(&rows(there)?)?, &Attention::default()).is_err());
        }
        close(&plain(&rows(&second)?)?, &plain(&rows(&host)?)?)
    });
}

/// A bad target is an error of `check`, once, and of the device whose stream met it.
#[test]
fn bad_targets() {
    world(|| {
        for (device, other) in
            devices()?.into_iter().zip([Device::new_cuda_with_stream(0)?, Device::new_cuda_with_stream(0)?])
        {
            let targets = Tensor::new(&[0i64, 7, 1], &device)?;
            let options = CrossEntropy { reduction: Reduction::None, ..Default::default() };
            let loss = cross_entropy(&rows(&device)?, 1, &targets, &options)?.loss;
            assert_eq!(values(&loss)?.iter().map(|loss| loss.is_nan()).collect::<Vec<bool>>(), [false, true, false]);
            check(&other)?;
            let text = check(&device).unwrap_err().to_string();
            assert!(text.contains('7') && text.contains("cross_entropy") && text.contains('1'), "{text}");
            check(&device)?;
            close(&plain(&rows(&device)?)?, &plain(&rows(&Device::Cpu)?)?)?;
        }
        check(&Device::Cpu)
    });
}

/// The seed lies on the device and is moved on there, as in a loop that is never read back.
#[test]
fn seeds_that_a_kernel_has_just_written() {
    world(|| {
        let draws = |device: &Device| -> Result<Vec<Vec<i64>>> {
            let x = Tensor::zeros((6, 50), DType::F32, device)?;
            let (mut state, step) = (Tensor::new(&[11i64, 0], device)?, Tensor::new(&[0i64, 1], device)?);
            let mut drawn = Vec::new();
            for _ in 0..3 {
                drawn.push(sample(&x, 1, &SampleOptions::default(), &Random::Device(state.clone()))?.ids);
                state = state.add(&step)?;
            }
            drawn.iter().map(Tensor::to_vec1).collect()
        };
        let want = draws(&Device::Cpu)?;
        assert_ne!(want[0], want[1]);
        devices()?.iter().try_for_each(|device| {
            assert_eq!(draws(device)?, want);
            Ok(())
        })
    });
}

/// A loss over all operations with something to lose on the way: several kernels, several results, saved tensors.
fn everything(device: &Device) -> Result<Vec<f32>> {
    let x = Var::from_tensor(&rows(device)?)?;
    let options = CrossEntropy { statistics: true, ..Default::default() };
    let targets = Tensor::new(&[0u32, 1, 2], device)?.to_dtype(DType::I64)?;
    let loss = cross_entropy(&x, 1, &targets, &options)?.loss;
    let bias = Var::from_tensor(&Tensor::ones((3, 3), DType::F32, device)?.affine(0.5, 0.0)?)?;
    let options = Attention { bias: Some(bias.as_tensor().clone()), ..Default::default() };
    let out = scaled_dot_product_attention(&four(&x)?, &four(&x)?, &four(&x)?, &options)?;
    let weights = attention_weights(&four(&x)?, &four(&x)?, &options)?;
    let drawn = sample(&x, 1, &SampleOptions::default(), &Random::Seed { seed: 1, offset: 0 })?;
    let gradients = loss.add(&out.sum_all()?)?.backward()?;
    let mut all = values(gradients.get(&x).expect("a gradient"))?;
    all.extend(values(gradients.get(&bias).expect("a gradient"))?);
    all.extend(values(&weights)?);
    all.extend(values(&drawn.ids)?);
    Ok(all)
}

/// One call of a driver function fails, at every place where one is made. What was enqueued before is in order all the same, and the
/// next operations find everything as it was.
fn fail_on_the_way(functions: &[&str]) -> Result<()> {
    for device in devices()? {
        let want = everything(&device)?;
        for function in functions {
            for nth in 1.. {
                driver::fail(function, nth);
                let result = everything(&device);
                // Kept for the next call where it was met in a drop.
                let _ = device.as_cuda_device()?.cuda_stream().context().check_err();
                if !driver::has_failed() {
                    assert_eq!(result?, want, "{function} {nth}");
                    assert!(nth > 5, "{function}");
                    break;
                }
            }
        }
        assert_eq!(everything(&device)?, want);
    }
    Ok(())
}

#[test]
fn launches_and_allocations_fail() {
    world(|| fail_on_the_way(&["cuLaunchKernel", "cuMemAllocAsync"]));
}

/// What is left behind is not looked at: candle's bindings lose memory for which they get no event.
#[test]
fn events_fail() {
    let functions = ["cuEventCreate", "cuEventRecord", "cuStreamWaitEvent"];
    let thread = thread::spawn(move || on_thread(|| fail_on_the_way(&functions)));
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).unwrap();
}
