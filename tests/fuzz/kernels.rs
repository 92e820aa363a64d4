//! Bytes that a device is given as data: targets, masks, logits. Whatever they are, the GPU answers as the host does, stays
//! within its memory, and goes on.

use crate::common::gpu::World;
use crate::engine::{Bytes, outcome};
use sumexp::{
    CrossEntropy, Device, Dim, Element, Error, Float, Reduction, Result, SoftmaxOptions, Targets, Tensor, View,
    cross_entropy, cross_entropy_backward, f16, hide, keep, log_softmax, softmax,
};

/// Few rows, and usually few columns.
fn shape(bytes: &mut Bytes) -> [usize; 2] {
    let (rows, most) = (1 + bytes.below(6), if bytes.below(4) == 0 { 200 } else { 9 });
    [rows, 1 + bytes.below(most)]
}

/// Elements of any bits.
fn logits(bytes: &mut Bytes, len: usize) -> Vec<f32> {
    let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, f32::MIN_POSITIVE, -0.0, 1e-45];
    (0..len)
        .map(|_| match bytes.byte() {
            tag @ 0..8 => special[usize::from(tag)],
            8..16 => f32::from_bits(bytes.word() as u32),
            tag => (f32::from(tag) - 128.0) / 16.0,
        })
        .collect()
}

/// Whether two devices gave the same numbers: NaN at the same places, and the rest up to rounding.
fn agree<T: Float>(host: &[T], gpu: &[T], what: &dyn std::fmt::Debug) {
    let near = |(host, gpu): (&T, &T)| {
        let (host, gpu) = (host.to_f64(), gpu.to_f64());
        host.is_nan() && gpu.is_nan() || host == gpu || (host - gpu).abs() <= 2e-3 * (1e-2 + host.abs())
    };
    assert!(host.len() == gpu.len() && host.iter().zip(gpu).all(near), "{what:?}\nhost {host:?}\ngpu  {gpu:?}");
}

thread_local! {
    /// One per target, which runs on one thread.
    static HERE: (World, Device) = {
        let world = World::late();
        let device = world.device();
        (world, device)
    };
}

fn on_gpu<R>(act: impl FnOnce(&Device) -> R) -> R {
    HERE.with(|(world, device)| {
        let result = act(device);
        world.assert_no_findings();
        result
    })
}

/// A class for every row, as some integer type.
#[derive(Debug)]
enum Classes {
    I64(Vec<i64>),
    I32(Vec<i32>),
    U32(Vec<u32>),
}

impl Classes {
    fn read(bytes: &mut Bytes, rows: usize, classes: usize) -> Classes {
        let kind = bytes.below(3);
        let mut class = || match bytes.below(8) {
            0 => bytes.word(),
            1 => [0, classes as u64, classes as u64 - 1, u64::MAX, 1 << 31, 1 << 32, 1 << 63, (-100i64) as u64]
                [bytes.below(8)],
            _ => bytes.below(classes) as u64,
        };
        match kind {
            0 => Classes::I64((0..rows).map(|_| class() as i64).collect()),
            1 => Classes::I32((0..rows).map(|_| class() as i32).collect()),
            _ => Classes::U32((0..rows).map(|_| class() as u32).collect()),
        }
    }

    fn values(&self) -> Vec<i64> {
        match self {
            Classes::I64(all) => all.clone(),
            Classes::I32(all) => all.iter().map(|&class| class.into()).collect(),
            Classes::U32(all) => all.iter().map(|&class| class.into()).collect(),
        }
    }

    fn with<R>(&self, device: &Device, act: impl FnOnce(Targets) -> R) -> R {
        fn upload<T: Element>(device: &Device, all: &[T]) -> Tensor<T> {
            Tensor::from_slice(device, &[all.len()], all).unwrap()
        }
        match self {
            Classes::I64(all) => act(Targets::from(&upload(device, all))),
            Classes::I32(all) => act(Targets::from(&upload(device, all))),
            Classes::U32(all) => act(Targets::from(&upload(device, all))),
        }
    }
}

/// Losses and gradient, and what the device reports of them.
type Losses = (Vec<f32>, Vec<f32>, Result<()>);

fn losses_on(
    device: &Device,
    x: &[f32],
    dims: &[usize; 2],
    targets: Targets,
    options: &CrossEntropy,
) -> Result<Losses> {
    let x = Tensor::from_slice(device, dims, x)?;
    let output = cross_entropy(&x, Dim::LAST, targets, options)?;
    let one = Tensor::from_slice(device, &[1], &[1.0f32])?;
    let upstream = one.view().expand(output.loss.dims()).or_else(|_| one.view().reshape(output.loss.dims()))?;
    let gradient = cross_entropy_backward(&x, Dim::LAST, targets, &output.saved, upstream, options)?;
    let report = device.check();
    Ok((output.loss.to_vec()?, gradient.to_vec()?, report))
}

/// Cross-entropy of any targets: the host refuses what the GPU reports, in the same words, and otherwise both agree. A bad
/// row changes no other row.
pub fn losses(input: &[u8]) -> u64 {
    let mut bytes = Bytes(input);
    let dims = shape(&mut bytes);
    let [rows, columns] = dims;
    let classes = Classes::read(&mut bytes, rows, columns);
    let ignore_index = match bytes.below(4) {
        0 => None,
        1 => Some(classes.values()[0]),
        2 => Some(columns as i64),
        _ => Some(-100),
    };
    let which = bytes.below(3);
    let reduction = [Reduction::None, Reduction::Sum, Reduction::Mean][which];
    let options = CrossEntropy { ignore_index, reduction, ..CrossEntropy::default() };
    let x = logits(&mut bytes, rows * columns);
    let bad = |class: i64| Some(class) != ignore_index && !(0..columns as i64).contains(&class);
    let bad: Vec<bool> = classes.values().into_iter().map(bad).collect();

    let on_host = classes.with(&Device::cpu(), |targets| losses_on(&Device::cpu(), &x, &dims, targets, &options));
    let (loss, gradient, report) =
        on_gpu(|gpu| classes.with(gpu, |targets| losses_on(gpu, &x, &dims, targets, &options))).unwrap();
    let case = (&classes, &options, &x);
    if !bad.contains(&true) {
        let (want, want_gradient, _) = on_host.unwrap();
        assert_eq!(report, Ok(()), "{case:?}");
        agree(&want, &loss, &case);
        agree(&want_gradient, &gradient, &case);
        return outcome((0, rows, columns.min(9), which, loss[0].is_nan()));
    }
    let refused = on_host.unwrap_err();
    assert!(matches!(refused, Error::Target { .. }), "{refused}");
    let in_forward = |error: Error| match error {
        Error::Target { row, value, classes, .. } => (row, value, classes),
        other => panic!("{other}: {case:?}"),
    };
    assert_eq!(in_forward(report.unwrap_err()), in_forward(refused), "{case:?}");
    // As if the bad rows were ignored, except that they and what they are part of are NaN.
    let good: Vec<i64> =
        classes.values().iter().zip(&bad).map(|(&class, &bad)| if bad { i64::MIN } else { class }).collect();
    let ignored: Vec<bool> = good.iter().map(|&class| class == i64::MIN || Some(class) == ignore_index).collect();
    let good: Vec<i64> =
        good.iter().zip(&ignored).map(|(&class, &ignored)| if ignored { i64::MIN } else { class }).collect();
    let options = CrossEntropy { ignore_index: Some(i64::MIN), reduction: Reduction::None, ..options };
    let targets = Tensor::from_slice(&Device::cpu(), &[rows], &good).unwrap();
    let (mut want, want_gradient, _) = losses_on(&Device::cpu(), &x, &dims, (&targets).into(), &options).unwrap();
    if matches!(reduction, Reduction::None) {
        want.iter_mut().zip(&bad).filter(|(_, bad)| **bad).for_each(|(loss, _)| *loss = f32::NAN);
        agree(&want, &loss, &case);
        agree(&want_gradient, &gradient, &case);
    } else {
        assert!(loss[0].is_nan(), "{case:?}: {loss:?}");
    }
    outcome((1, rows, columns.min(9), which, bad.iter().filter(|&&bad| bad).count()))
}

fn masked<T: Float>(
    device: &Device,
    dims: &[usize; 2],
    x: &[T],
    mask: &[u8],
    row: bool,
    hides: bool,
    dim: Dim,
) -> [Vec<T>; 2] {
    let x = Tensor::from_slice(device, dims, x).unwrap();
    let mask = Tensor::from_slice(device, dims, mask).unwrap();
    let first: View<u8> = mask.view().slice(Dim::front(0), 0..1).unwrap();
    let seen = if row { first } else { mask.view() };
    let options =
        SoftmaxOptions { mask: if hides { hide(seen) } else { keep(seen) }.into(), ..SoftmaxOptions::default() };
    let p = softmax(&x, dim, &options).unwrap();
    let log = log_softmax(&x, dim, &options).unwrap();
    // Everything is still queued, and what it reads is gone when this returns.
    drop((x, mask));
    [p.to_vec().unwrap(), log.to_vec().unwrap()]
}

/// Softmax and log-softmax of any logits under any mask.
pub fn masks(input: &[u8]) -> u64 {
    let mut bytes = Bytes(input);
    let dims = shape(&mut bytes);
    let (row, hides, half) = (bytes.below(2) == 0, bytes.below(2) == 0, bytes.below(2) == 0);
    let dim = if bytes.below(2) == 0 { Dim::LAST } else { Dim::front(0) };
    let mask: Vec<u8> = (0..dims[0] * dims[1]).map(|_| bytes.byte() & bytes.byte()).collect();
    let x = logits(&mut bytes, dims[0] * dims[1]);
    let case = (&dims, row, hides, dim, &x, &mask);
    let nan = if half {
        let x: Vec<f16> = x.iter().map(|&x| f16::from_f32(x)).collect();
        let host = masked(&Device::cpu(), &dims, &x, &mask, row, hides, dim);
        let gpu = on_gpu(|gpu| masked(gpu, &dims, &x, &mask, row, hides, dim));
        host.iter().zip(&gpu).for_each(|(host, gpu)| agree(host, gpu, &case));
        host[0].iter().filter(|p| p.is_nan()).count()
    } else {
        let host = masked(&Device::cpu(), &dims, &x, &mask, row, hides, dim);
        let gpu = on_gpu(|gpu| masked(gpu, &dims, &x, &mask, row, hides, dim));
        host.iter().zip(&gpu).for_each(|(host, gpu)| agree(host, gpu, &case));
        host[0].iter().filter(|p| p.is_nan()).count()
    };
    outcome((dims, row, hides, half, nan.min(3)))
}
