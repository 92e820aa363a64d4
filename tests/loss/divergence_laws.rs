//! What every divergence must obey, whatever its kernels look like; and what they ask of memory.

use softgpu::launch::Checks;
use sumexp::{
    Device, Dim, Direction, Error, KlDivergence, Reduction, Tensor, View, bf16, distillation_loss,
    distillation_loss_backward, f16, kl_div, kl_div_backward, kl_div_into,
};

use crate::common::cases::{Case, Fill};
use crate::common::compare::Format;
use crate::common::device::{assert_no_findings, devices, soft};
use crate::common::gpu::device as gpu;
use crate::common::random::Random;
use crate::common::sparse::{Far, put, zeros};

const HALF: Direction = Direction::JensenShannon { beta: 0.5 };
const DIRECTIONS: [Direction; 4] =
    [Direction::Forward, Direction::Reverse, HALF, Direction::JensenShannon { beta: 0.1 }];

fn options(direction: Direction) -> KlDivergence<'static> {
    KlDivergence { direction, reduction: Reduction::None, ..KlDivergence::default() }
}

fn rows<T: Format>(device: &Device, rows: usize, values: &[f64]) -> Tensor<T> {
    let values: Vec<T> = values.iter().map(|x| T::from_f64(*x)).collect();
    Tensor::from_slice(device, &[rows, values.len() / rows], &values).unwrap()
}

fn normal(seed: u64, count: usize) -> Vec<f64> {
    let mut random = Random::new(seed);
    (0..count).map(|_| f64::from((2.0 * random.normal()) as f32)).collect()
}

fn losses<T: Format>(s: &Tensor<T>, t: &Tensor<T>, options: &KlDivergence) -> Vec<f32> {
    kl_div(s, t, Dim::LAST, options).unwrap().to_vec().unwrap()
}

#[test]
fn equal_logits_have_no_divergence_and_no_gradient() {
    fn of<T: Format>(device: &Device) {
        for classes in [1, 7, 40, 300, 3000, 9000] {
            let x = rows::<T>(device, 2, &normal(classes as u64, 2 * classes));
            let ones = Tensor::from_slice(device, &[2], &[1f32, 1.0]).unwrap();
            for direction in DIRECTIONS {
                let loss = losses(&x, &x, &options(direction));
                assert!(
                    loss.iter().all(|loss| loss.to_bits() == 0),
                    "{direction:?} of {classes} on {device:?}: {loss:?}"
                );
                let slopes = kl_div_backward(&x, &x, Dim::LAST, &ones, &options(direction)).unwrap().to_vec().unwrap();
                assert!(slopes.iter().all(|slope| slope.to_f64() == 0.0), "{direction:?} of {classes} on {device:?}");
            }
        }
    }
    for device in devices() {
        of::<f32>(&device);
        of::<f16>(&device);
        of::<bf16>(&device);
    }
}

/// Powers of two, so that shifted logits are exact.
#[test]
fn a_constant_changes_nothing() {
    let steps = |seed| -> Vec<f64> { normal(seed, 200).iter().map(|x| (x * 64.0).round() / 64.0).collect() };
    let (s, t) = (steps(1), steps(2));
    let moved = |x: &[f64], by: f64| -> Vec<f64> { x.iter().map(|x| x + by).collect() };
    for device in devices() {
        let of = |s: &[f64], t: &[f64]| (rows::<f32>(&device, 2, s), rows::<f32>(&device, 2, t));
        let ((a, b), (c, d)) = (of(&s, &t), of(&moved(&s, 4096.0), &moved(&t, -1024.0)));
        for direction in DIRECTIONS {
            assert_eq!(losses(&a, &b, &options(direction)), losses(&c, &d, &options(direction)), "{direction:?}");
        }
    }
}

/// The error of the limit is of the order of the spread of the logits over the temperature.
#[test]
fn warm_distributions_differ_by_their_squares() {
    let (s, t, tau) = (normal(3, 50), normal(4, 50), 4096.0f32);
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let gap = |i: usize| (t[i] - mean(&t)) - (s[i] - mean(&s));
    let squares: f64 = (0..50).map(|i| gap(i).powi(2)).sum::<f64>() / 100.0;
    for device in devices() {
        let (student, teacher) = (rows::<f32>(&device, 1, &s), rows::<f32>(&device, 1, &t));
        for (direction, share) in [(Direction::Forward, 1.0), (Direction::Reverse, 1.0), (HALF, 0.25)] {
            let options = KlDivergence { temperature: tau, ..options(direction) };
            let loss = distillation_loss(&student, &teacher, Dim::LAST, &options).unwrap().to_vec().unwrap()[0];
            assert!((f64::from(loss) / (share * squares) - 1.0).abs() < 3e-3, "{direction:?}: {loss} and {squares}");
            // The gradient is that of the squares: it does not shrink with the temperature.
            let one = Tensor::from_slice(&device, &[1], &[1f32]).unwrap();
            let slopes = distillation_loss_backward(&student, &teacher, Dim::LAST, &one, &options).unwrap();
            for (i, slope) in slopes.to_vec().unwrap().into_iter().enumerate() {
                let want = -share * gap(i) / 50.0;
                assert!((f64::from(slope) - want).abs() < 2e-3, "{direction:?}: {slope} and {want}");
            }
        }
    }
}

#[test]
fn directions_and_their_limits() {
    for device in devices() {
        let (s, t) = (rows::<f32>(&device, 4, &normal(5, 120)), rows::<f32>(&device, 4, &normal(6, 120)));
        let reverse = Direction::Reverse;
        assert_eq!(losses(&s, &t, &options(reverse)), losses(&t, &s, &options(Direction::Forward)));
        assert_eq!(losses(&s, &t, &options(HALF)), losses(&t, &s, &options(HALF)));
        let beta = 1e-5;
        let near = |direction, limit, share: f32| {
            let (small, whole) = (losses(&s, &t, &options(direction)), losses(&s, &t, &options(limit)));
            for (small, whole) in small.into_iter().zip(whole) {
                assert!((small / share / whole - 1.0).abs() < 3e-3, "{direction:?} on {device:?}: {small} {whole}");
            }
        };
        near(Direction::JensenShannon { beta }, Direction::Forward, beta);
        near(Direction::JensenShannon { beta: 1.0 - beta }, reverse, beta);
        // At most the entropy of the choice between the two.
        assert!(losses(&s, &t, &options(HALF)).iter().all(|loss| *loss > 0.0 && *loss < std::f32::consts::LN_2));
    }
}

/// A mean of two probabilities that underflowed has no logarithm.
#[test]
fn logits_far_apart_stay_finite() {
    for device in devices() {
        for far in [100.0, 1e4, 1e30] {
            let (s, t) = (rows::<f32>(&device, 1, &[far, 0.0, -far]), rows::<f32>(&device, 1, &[-far, 0.0, far]));
            assert_eq!(losses(&s, &t, &options(HALF)), [std::f32::consts::LN_2], "{far}");
            assert_eq!(losses(&s, &t, &options(Direction::Forward)), [2.0 * far as f32], "{far}");
            assert_eq!(losses(&s, &t, &options(Direction::Reverse)), [2.0 * far as f32], "{far}");
        }
    }
}

/// Two classes: the divergence of two coins.
#[test]
fn closed_form_of_two_classes() {
    let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    for device in devices() {
        for (x, y) in [(0.0, 1.0), (3.0, -2.0), (-8.0, 8.0), (40.0, 0.5), (0.25, 0.375)] {
            let (s, t) = (rows::<f32>(&device, 1, &[x, 0.0]), rows::<f32>(&device, 1, &[y, 0.0]));
            let p = 1.0 / (1.0 + (-y).exp());
            let want = p * (y - x) - softplus(y) + softplus(x);
            let got = f64::from(losses(&s, &t, &options(Direction::Forward))[0]);
            assert!((got - want).abs() <= 1e-6 * want, "{x} {y}: {got} and {want}");
            let one = Tensor::from_slice(&device, &[1], &[1f32]).unwrap();
            let slopes = kl_div_backward(&s, &t, Dim::LAST, &one, &options(Direction::Forward)).unwrap();
            let slope = 1.0 / (1.0 + (-x).exp()) - p;
            let got = slopes.to_vec().unwrap();
            assert!(
                (f64::from(got[0]) - slope).abs() < 2e-7 && (got[0] + got[1]).abs() < 2e-7,
                "{x} {y}: {got:?} and {slope}"
            );
        }
    }
}

/// A central difference of the loss itself, in every direction.
#[test]
fn finite_differences() {
    let (s, t, step) = (normal(7, 6), normal(8, 6), 2f64.powi(-5));
    for device in devices() {
        let teacher = rows::<f32>(&device, 1, &t);
        let one = Tensor::from_slice(&device, &[1], &[1f32]).unwrap();
        for direction in DIRECTIONS {
            let options = KlDivergence { temperature: 2.0, ..options(direction) };
            let student = rows::<f32>(&device, 1, &s);
            let slopes = kl_div_backward(&student, &teacher, Dim::LAST, &one, &options).unwrap().to_vec().unwrap();
            for (i, slope) in slopes.into_iter().enumerate() {
                let [above, below] = [step, -step].map(|step| {
                    let mut moved = s.clone();
                    moved[i] += step;
                    f64::from(losses(&rows::<f32>(&device, 1, &moved), &teacher, &options)[0])
                });
                let difference = (above - below) / (2.0 * step);
                assert!((difference - f64::from(slope)).abs() < 2e-4, "{direction:?}: {difference} and {slope}");
            }
        }
    }
}

#[track_caller]
fn refused<V: std::fmt::Debug>(result: Result<V, Error>, text: &str) {
    assert_eq!(result.expect_err("bad input was accepted").to_string(), text);
}

#[test]
fn what_is_refused() {
    let plain = KlDivergence::default();
    for device in devices() {
        let zeros = |dims: &[usize]| Tensor::<f32>::zeros(&device, dims).unwrap();
        let (x, one) = (zeros(&[4, 3]), zeros(&[]));
        let differ = "kl_div: shapes differ: [3, 4] in teacher, [4, 3] in student";
        refused(kl_div(&x, &zeros(&[3, 4]), Dim::LAST, &plain), differ);
        refused(kl_div(&x, &x, Dim::front(2), &plain), "kl_div: dim front(2) is out of range for shape [4, 3]");
        let text = "distillation_loss: logits of shape [4, 0] have rows but no classes along dim 1";
        refused(distillation_loss(&zeros(&[4, 0]), &zeros(&[4, 0]), Dim::LAST, &plain), text);
        for temperature in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            let text = format!("kl_div: temperature is {temperature}, it must be finite and above 0");
            refused(kl_div(&x, &x, Dim::LAST, &KlDivergence { temperature, ..plain }), &text);
        }
        for beta in [0.0, 1.0, -0.5, f32::NAN] {
            let options = KlDivergence { direction: Direction::JensenShannon { beta }, ..plain };
            let text = format!("kl_div_backward: beta is {beta}, it must be above 0 and below 1");
            refused(kl_div_backward(&x, &x, Dim::LAST, &one, &options), &text);
        }
        let text = "kl_div_backward: shapes differ: [4] in upstream, [] in the loss";
        refused(kl_div_backward(&x, &x, Dim::LAST, &zeros(&[4]), &plain), text);
        let two = zeros(&[2]);
        let over = KlDivergence { reduction: Reduction::MeanOver(two.view()), ..plain };
        refused(kl_div(&x, &x, Dim::LAST, &over), "kl_div: shapes differ: [2] in the divisor, [] in one number");
        let text = "kl_div: shapes differ: [4] in loss, [] in the loss";
        refused(kl_div_into(&x, &x, Dim::LAST, &plain, &mut zeros(&[4])), text);
    }
    let (here, there) =
        (Tensor::<f32>::zeros(&Device::cpu(), &[2, 3]).unwrap(), Tensor::<f32>::zeros(&gpu(), &[2, 3]).unwrap());
    let result = kl_div(&here, &there, Dim::LAST, &plain);
    assert!(matches!(result, Err(Error::DifferentDevices { .. })), "{result:?}");
}

fn halves(seed: u64, elements: usize) -> Vec<f16> {
    normal(seed, elements).into_iter().map(f16::from_f64).collect()
}

/// Offsets beyond 2^32 elements in every operand: rows far apart give the bits of rows side by side.
#[test]
fn rows_far_apart() {
    let Some(soft) = soft() else { return };
    for (dims, dim) in [(&[3usize, 40][..], 1), (&[3, 1000], 1), (&[3, 20_000], 1), (&[3, 40, 9], 1)] {
        let (device, elements) = (gpu(), dims.iter().product::<usize>());
        let mut per_row = dims.to_vec();
        let upstream: Vec<f32> = (0..elements / per_row.remove(dim)).map(|row| 1.0 + row as f32).collect();
        let (s, t) = (halves(1, elements), halves(2, elements));
        let near = [&s, &t].map(|x| Tensor::from_slice(&device, dims, x).unwrap());
        let far = [&s, &t].map(|x| Far::new(&soft, &device, dims, x));
        let g = Tensor::from_slice(&device, &per_row, &upstream).unwrap();
        let far_g = Far::new(&soft, &device, &per_row, &upstream);
        let gives = |s: View<'_, f16>, t: View<'_, f16>, g: View<'_, f32>| {
            let loss = kl_div(s, t, Dim::front(dim), &options(HALF)).unwrap().to_vec().unwrap();
            let ds = kl_div_backward(s, t, Dim::front(dim), g, &options(Direction::Reverse)).unwrap();
            (loss, ds.to_vec().unwrap())
        };
        let want = gives(near[0].view(), near[1].view(), g.view());
        assert!(gives(far[0].view(), far[1].view(), far_g.view()) == want, "{dims:?}");
        assert_no_findings(&format!("{dims:?} far apart"));
    }
}

/// Block 0 has rows 0, 65536 ... and the last, whose offset is 0 in 32 bits; outputs lie beyond 2^32 too.
#[test]
fn rows_of_a_block() {
    let Some(soft) = soft() else { return };
    let (device, grid, classes) = (gpu(), 1usize << 16, 4096);
    let rows = 16 * grid + 1;
    let chosen = [0, grid, rows - 1];
    let [mut s, mut t] = [0, 1].map(|_| zeros::<f16>(&soft, &device, &[rows, classes]));
    for &row in &chosen {
        put(&mut s, row * classes, &halves(row as u64, classes));
        put(&mut t, row * classes, &halves(row as u64 + 7, classes));
    }
    let one = Tensor::from_slice(&device, &[1], &[1f32]).unwrap();
    soft.checks(Checks { init: false, ..Checks::ALL });
    soft.only_ctas(Some(&[0]));
    let loss = kl_div(&s, &t, Dim::LAST, &options(Direction::Forward)).unwrap();
    let ones = one.view().expand(&[rows]).unwrap();
    let ds = kl_div_backward(&s, &t, Dim::LAST, ones, &options(HALF)).unwrap();
    device.synchronize().unwrap();
    soft.only_ctas(None);
    soft.checks(Checks::ALL);
    for &row in &chosen {
        let alone = [halves(row as u64, classes), halves(row as u64 + 7, classes)];
        let [s, t] = alone.map(|x| Tensor::from_slice(&device, &[1, classes], &x).unwrap());
        let part = loss.view().slice(Dim::LAST, row..row + 1).unwrap().to_vec().unwrap();
        assert_eq!(part, losses(&s, &t, &options(Direction::Forward)), "row {row}");
        let part = ds.view().slice(Dim::front(0), row..row + 1).unwrap().to_vec().unwrap();
        let want = kl_div_backward(&s, &t, Dim::LAST, &one, &options(HALF)).unwrap();
        assert!(part == want.to_vec().unwrap(), "gradient of row {row}");
    }
    assert_no_findings(&"rows of a block");
}

/// Whole sectors, each once where a row fits in a piece; no bank conflicts, no local memory.
#[test]
fn what_the_kernels_ask_of_memory() {
    fn of<T: Format>(soft: &softgpu::ctl::Gpu) {
        let (device, most) = (gpu(), 32_768 / size_of::<T>());
        for (rows, classes, reads) in
            [(70, 32, [1, 1]), (9, 256, [1, 1]), (5, 2048, [1, 1]), (2, most, [1, 1]), (1, 2 * most, [2, 3])]
        {
            let case = Case::new(&[rows, classes], Fill::Ordinary);
            let student = Tensor::from_slice(&device, &case.dims, &case.logits::<T>()).unwrap();
            let other = Case { seed: 3, ..case.clone() }.logits::<T>();
            let teacher = Tensor::from_slice(&device, &case.dims, &other).unwrap();
            let upstream = Tensor::from_slice(&device, &[rows], &vec![1f32; rows]).unwrap();
            for direction in [Direction::Reverse, HALF] {
                kl_div(&student, &teacher, Dim::LAST, &options(direction)).unwrap();
                kl_div_backward(&student, &teacher, Dim::LAST, &upstream, &options(direction)).unwrap();
                device.synchronize().unwrap();
                let kernels: Vec<String> = soft.take_launches().into_iter().map(|launch| launch.kernel).collect();
                assert_eq!(kernels.len(), 2, "one launch each: {kernels:?}");
                for (kernel, reads) in kernels.iter().zip(reads) {
                    let counters = soft.counters(kernel).expect("it was just launched");
                    let case = format!("{kernel} of {rows} x {classes}");
                    let bytes = (2 * reads * rows * classes * size_of::<T>()) as u64;
                    println!(
                        "{case}: {:.1} PTX instructions per element, loads {:.3} of the operands, {} times",
                        counters.thread_instructions as f64 / (rows * classes) as f64,
                        counters.global_loads.bytes as f64 / bytes as f64,
                        reads,
                    );
                    assert_eq!(counters.global_loads.sectors, counters.global_loads.minimum, "{case}: sectors loaded");
                    assert!(
                        counters.global_loads.bytes < bytes + bytes / 3,
                        "{case}: {} bytes",
                        counters.global_loads.bytes
                    );
                    assert!(counters.global_loads.bytes >= bytes, "{case}: {} bytes", counters.global_loads.bytes);
                    let conflicts = counters.lines.iter().filter(|line| line.shared.bank_conflicts() > 0).count();
                    assert_eq!((conflicts, counters.local_bytes), (0, 0), "{case}: bank conflicts, local memory");
                }
                soft.reset_counters();
            }
        }
    }
    let Some(soft) = soft() else { return };
    of::<f32>(&soft);
    of::<bf16>(&soft);
}
