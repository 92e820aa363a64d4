//! The border between host and kernels: names, parameter blocks, and the record of bad data.

mod common;

use common::gpu::{World, ptx};
use sumexp::kernels::{KernelId, images};
use sumexp::{CrossEntropy, Device, Dim, Error, Reduction, SoftmaxOptions, Tensor, cross_entropy, softmax};

/// Names of the entry points of PTX, in order.
fn entries(ptx: &str) -> Vec<String> {
    let names = ptx.split(".visible .entry ").skip(1).map(|rest| rest.split('(').next().unwrap().trim().to_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn every_name_is_compiled_and_everything_compiled_has_a_name() {
    assert_eq!(entries(".visible .entry b(\n.visible .entry a(\n.entry c("), ["a", "b"]);
    let mut named: Vec<(String, &str)> = KernelId::all().map(|id| (id.symbol(), id.image())).collect();
    named.sort();
    let mut compiled: Vec<(String, &str)> = Vec::new();
    for (name, image) in images() {
        compiled.extend(entries(&ptx(image)).into_iter().map(|symbol| (symbol, *name)));
    }
    compiled.sort();
    assert!(compiled.len() > 50, "{} entry points", compiled.len());
    assert_eq!(named, compiled);
}

/// A kernel with too many forms shows here before it makes a library that nobody wants to ship. These images have line
/// information; without it they are half as large.
#[test]
fn the_images_stay_small() {
    const MOST: usize = 48 << 20;
    let bytes: usize = images().iter().map(|(_, image)| image.len()).sum();
    let mut largest: Vec<(usize, &str)> = images().iter().map(|(name, image)| (image.len(), *name)).collect();
    largest.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
    println!("{bytes} bytes of images; the largest: {:?}", &largest[..5]);
    assert!(bytes <= MOST, "{bytes} bytes of images, at most {MOST}: {largest:?}");
}

fn loss(device: &Device, targets: &[i64]) -> Result<Tensor<f32>, Error> {
    let logits = Tensor::<f32>::zeros(device, &[targets.len(), 5])?;
    let targets = Tensor::from_slice(device, &[targets.len()], targets)?;
    let options = CrossEntropy { reduction: Reduction::None, ..CrossEntropy::default() };
    Ok(cross_entropy(&logits, Dim::LAST, &targets, &options)?.loss)
}

fn bad(row: u64, value: i64) -> Error {
    Error::Target { op: "cross_entropy", row, value, classes: 5 }
}

#[test]
fn bad_data_is_reported_once_at_the_next_look_and_the_device_goes_on() {
    let world = World::late();
    let device = world.device();
    for look in [Device::check, Device::synchronize, |device: &Device| loss(device, &[4])?.to_vec().map(drop)] {
        let loss = loss(&device, &[1, 2, 5, -1, i64::MIN]).unwrap();
        // The lowest row is named, whatever ran first.
        assert_eq!(look(&device).unwrap_err(), bad(2, 5));
        look(&device).unwrap();
        let loss = loss.to_vec().unwrap();
        assert!(loss[..2].iter().all(|loss| (loss - 5f32.ln()).abs() < 1e-6), "{loss:?}");
        assert!(loss[2..].iter().all(|loss| loss.is_nan()), "{loss:?}");
    }
    // Of several launches of one operation too, the lowest row is named.
    drop((loss(&device, &[0, 0, 0, 77]).unwrap(), loss(&device, &[88]).unwrap()));
    assert_eq!(device.check().unwrap_err(), bad(0, 88));
    device.check().unwrap();
    assert_eq!(loss(&device, &[-100, 3]).unwrap().to_vec().unwrap()[0], 0.0);
    drop(device);
    world.assert_clean();
}

#[test]
fn streams_do_not_report_for_each_other() {
    let world = World::late();
    let (first, second) = (world.device(), world.device());
    drop(loss(&first, &[9]).unwrap());
    assert_eq!(loss(&second, &[0]).unwrap().to_vec().unwrap().len(), 1);
    second.check().unwrap();
    assert_eq!(first.check().unwrap_err(), bad(0, 9));
    // A report that nobody asked for goes with its stream.
    drop(loss(&first, &[9]).unwrap());
    drop((first, second));
    world.assert_clean();
}

#[test]
fn a_look_that_fails_does_not_lose_the_report() {
    let world = World::late();
    let Some(gpu) = world.gpu() else { return println!("skipped: a real GPU does not fail on request") };
    let device = world.device();
    for call in ["cuMemcpyDtoHAsync_v2", "cuStreamSynchronize", "cuCtxPushCurrent_v2", "cuMemsetD8Async"] {
        drop(loss(&device, &[0, 6]).unwrap());
        gpu.fail(call, 1, 999);
        assert_eq!(device.check().unwrap_err(), Error::Driver { call, code: 999 });
        assert_eq!(device.check().unwrap_err(), bad(1, 6), "{call}");
        device.check().unwrap();
    }
    drop(device);
    world.assert_no_findings();
}

#[test]
fn nothing_is_read_where_no_kernel_can_report() {
    let world = World::late();
    let device = world.device();
    let x = Tensor::from_slice(&device, &[3], &[1.0f32, 2.0, 3.0]).unwrap();
    let before = world.calls("cuMemcpyDtoHAsync_v2");
    let y = softmax(&x, Dim::LAST, &SoftmaxOptions::default()).unwrap();
    device.check().unwrap();
    assert_eq!(world.calls("cuMemcpyDtoHAsync_v2"), before);
    let values = y.to_vec().unwrap();
    assert!((values.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{values:?}");
    drop((x, y, device));
    world.assert_clean();
}

/// The work of an operation outlives everything that it was called with.
#[test]
fn operands_may_be_dropped_under_a_queued_kernel() {
    let world = World::late();
    let device = world.device();
    let other = world.device();
    let y = {
        let x = Tensor::from_slice(&device, &[2, 3], &[1.0f32, 1.0, 1.0, 5.0, 5.0, 5.0]).unwrap();
        softmax(&x, Dim::LAST, &SoftmaxOptions::default()).unwrap()
    };
    let seen = y.to_device(&other).unwrap();
    drop((y, device));
    assert!(seen.to_vec().unwrap().iter().all(|p| (p - 1.0 / 3.0).abs() < 1e-6));
    drop((seen, other));
    world.assert_clean();
}
