//! confidence: against the float64 reference, against numbers that are computed otherwise, and its laws.

use sumexp::reference::confidence::{RowConfidence, confidence as of_row};
use sumexp::{
    Confidence, ConfidenceInto, ConfidenceOptions, Device, Dim, Error, Result, SoftmaxOptions, Tensor, View, bf16,
    confidence, confidence_into, f16, softmax,
};

use crate::common::arrange::Arrangement::{Offset, Padded, Reversed};
use crate::common::arrange::Operand;
use crate::common::cases::{Case, Fill, SPECIAL_ROWS};
use crate::common::compare::{Exact, Format, Tolerance, assert_right, error};
use crate::common::device::{assert_no_findings, devices, soft};
use crate::common::gpu::device;
use crate::common::guard::Guarded;
use crate::common::random::Random;
use crate::common::sparse::{Far, put, zeros};
use crate::layouts;

/// What the documentation promises. Weights below the smallest normal number may be flushed, and an entropy has as many of them
/// as the row has entries, each times its distance from the maximum.
fn tolerance<T: Format>(case: &Case, which: usize) -> Tolerance {
    let floor = f64::from(f32::MIN_POSITIVE) * 128.0 * case.len() as f64;
    let of_half = if NAMES[which] == "entropy" { 200.0 } else { 64.0 };
    Tolerance { ulps: if T::DIGITS == 24 { 4.0 } else { of_half }, floor }
}

const NAMES: [&str; 3] = ["confidence", "margin", "entropy"];

fn three(row: RowConfidence) -> [f64; 3] {
    [row.confidence, row.margin, row.entropy]
}

/// The three numbers of every row, by name, in float64.
fn want<T: Format>(case: &Case) -> [Vec<f64>; 3] {
    let x = case.logits::<T>();
    let row = |places: Vec<usize>| places.iter().map(|place| x[*place].to_f64()).collect::<Vec<_>>();
    let rows: Vec<[f64; 3]> =
        case.row_places().map(|places| three(of_row(&row(places), f64::from(case.tau)))).collect();
    [0, 1, 2].map(|which| rows.iter().map(|row| row[which]).collect())
}

fn named<T: Format>(case: &Case, device: &Device) -> String {
    format!("confidence {} {case} on {}", T::DTYPE, device.name())
}

/// The three results, into guarded memory.
fn run<T: Format>(case: &Case, device: &Device) -> [Vec<f32>; 3] {
    let named = named::<T>(case, device);
    let x = Operand::new(device, case.input, &case.dims, &case.logits::<T>(), T::from_f64(f64::NAN));
    let mut sizes = case.dims.clone();
    sizes.remove(case.dim);
    let mut guarded = NAMES.map(|_| Guarded::new(device, &sizes, 1, 1234.5f32));
    let [confidence, margin, entropy] = &mut guarded;
    let outputs =
        ConfidenceInto { confidence: confidence.view_mut(), margin: margin.view_mut(), entropy: entropy.view_mut() };
    let options = ConfidenceOptions { temperature: case.tau };
    confidence_into(x.view(), Dim::front(case.dim), &options, outputs)
        .unwrap_or_else(|error| panic!("{named}: {error}"));
    let got = guarded.map(|guarded| guarded.read(&named));
    assert_no_findings(&named);
    got
}

fn bits(results: &[Vec<f32>; 3]) -> Vec<u32> {
    results.iter().flatten().map(|x| x.to_bits()).collect()
}

/// The largest difference of each of the three numbers, in units in the last place.
fn check<T: Format>(case: &Case) -> [f64; 3] {
    let want = want::<T>(case);
    let mut worst = [0f64; 3];
    for device in devices() {
        let got = run::<T>(case, &device);
        for (which, name) in NAMES.into_iter().enumerate() {
            let tolerance = tolerance::<T>(case, which);
            let named = format!("{name}: {}", named::<T>(case, &device));
            assert_right(&named, &got[which], &Exact::plain(want[which].iter().copied()), tolerance);
            let errors = got[which].iter().zip(&want[which]).map(|(got, want)| error(*got, *want, tolerance.floor));
            worst[which] = errors.fold(worst[which], f64::max);
        }
    }
    worst
}

fn check_all_types(case: &Case) {
    check::<f32>(case);
    check::<f16>(case);
    check::<bf16>(case);
}

/// NaN, infinities and hidden rows beside ordinary ones, in every kernel.
#[test]
fn special_rows() {
    for len in [1, 3, 17, 33, 150, 700, 2100, 20_000] {
        check_all_types(&Case::new(&[SPECIAL_ROWS.len() + 3, len], Fill::Special));
    }
    for (len, inner) in [(3, 5), (40, 2), (300, 2)] {
        let rows = SPECIAL_ROWS.len() / inner + 2;
        check_all_types(&Case::new(&[rows, len, inner], Fill::Special).along(1));
    }
    for value in [0.0, 6e4, f64::NEG_INFINITY, f64::INFINITY, f64::NAN] {
        check_all_types(&Case::new(&[3, 5000], Fill::Constant(value)));
        check_all_types(&Case::new(&[2, 300, 3], Fill::Constant(value)).along(1));
    }
    // As many terms as pass the largest f16.
    check::<f16>(&Case::new(&[1, 70_000], Fill::Constant(0.0)));
}

/// Every length of a unit, and every rung at its longest row and one element to either side; rows of several pieces.
#[test]
fn lengths() {
    for len in (1..=40).chain([63, 64, 65, 127, 128, 129, 511, 512, 513, 1023, 1024, 1025]) {
        check_all_types(&Case::new(&[5, len], Fill::Ordinary));
    }
    for len in [4095, 4096, 4097, 8191, 8192, 8193, 16_384, 16_385, 50_257, 70_001] {
        check_all_types(&Case::new(&[2, len], Fill::Mixed));
    }
    for len in [1, 2, 7, 8, 9, 16, 17, 64, 65, 255, 256, 257, 600, 3000] {
        for inner in [3, 40] {
            check_all_types(&Case::new(&[2, len, inner], Fill::Ordinary).along(1));
        }
    }
}

#[test]
fn strides_alignment_dims_and_temperatures() {
    layouts().iter().for_each(check_all_types);
    for tau in [1e-40, 1e-5, 0.07, 0.5, 2.0, 30.0, 1e20, f32::MAX] {
        check_all_types(&Case::new(&[6, 50], Fill::Ordinary).tau(tau));
        check_all_types(&Case::new(&[2, 12, 6], Fill::Mixed).along(1).tau(tau));
    }
}

/// Rows whose every piece brings a new maximum: the sums move over again and again.
#[test]
fn rising_rows() {
    for (dims, dim) in [(vec![1usize, 100_000], 1), (vec![1, 20_000, 2], 1)] {
        let len = dims[dim];
        for slope in [1e-5, 1e-3, 0.1] {
            let inner = dims.get(2).copied().unwrap_or(1);
            let x: Vec<f32> = (0..len * inner).map(|i| ((i / inner) as f64 * slope - 3.0) as f32).collect();
            let row: Vec<f64> = x.iter().step_by(inner).map(|x| f64::from(*x)).collect();
            let want = three(of_row(&row, 1.0));
            let device = device();
            let tensor = Tensor::from_slice(&device, &dims, &x).unwrap();
            let got = confidence(&tensor, Dim::front(dim), &ConfidenceOptions::default()).unwrap();
            for (name, (got, want)) in
                NAMES.into_iter().zip([&got.confidence, &got.margin, &got.entropy].into_iter().zip(want))
            {
                let got = got.to_vec().unwrap()[0];
                let ulps = error(got, want, 0.0);
                println!("{name} of {len} rising by {slope}: {ulps:.2} ULP");
                assert!(ulps <= 4.0, "{name} of {len} rising by {slope}: {got:e}, want {want:e}, {ulps} ULP");
            }
        }
    }
}

/// By another way: probabilities in float64 without a maximum, sorted, and -sum(p ln p).
#[test]
fn against_probabilities() {
    let mut random = Random::new(3);
    let (rows, len) = (40, 30);
    let x: Vec<f32> = (0..rows * len).map(|_| (3.0 * random.normal()) as f32).collect();
    for device in devices() {
        let tensor = Tensor::from_slice(&device, &[rows, len], &x).unwrap();
        let got = confidence(&tensor, Dim::LAST, &ConfidenceOptions { temperature: 0.5 }).unwrap();
        let got = [got.confidence, got.margin, got.entropy].map(|got| got.to_vec().unwrap());
        for (row, x) in x.chunks(len).enumerate() {
            let weights: Vec<f64> = x.iter().map(|x| (f64::from(*x) / 0.5).exp()).collect();
            let total: f64 = weights.iter().sum();
            let mut p: Vec<f64> = weights.iter().map(|w| w / total).collect();
            p.sort_by(|a, b| b.total_cmp(a));
            let want = [p[0], p[0] - p[1], -p.iter().map(|p| p * p.ln()).sum::<f64>()];
            for which in 0..3 {
                let got = f64::from(got[which][row]);
                assert!((got - want[which]).abs() < 1e-6 * want[which].max(1e-3), "{} of row {row}", NAMES[which]);
            }
        }
    }
}

/// The numbers that softmax writes say the same.
#[test]
fn against_the_softmax() {
    for device in devices() {
        let case = Case::new(&[9, 300], Fill::Ordinary);
        let x = Tensor::from_slice(&device, &case.dims, &case.logits::<f32>()).unwrap();
        let p = softmax(&x, Dim::LAST, &SoftmaxOptions::default()).unwrap().to_vec().unwrap();
        let got = confidence(&x, Dim::LAST, &ConfidenceOptions::default()).unwrap();
        assert_eq!(
            (got.confidence.dims(), got.margin.dims(), got.entropy.dims()),
            (&[9usize][..], &[9usize][..], &[9usize][..])
        );
        for (got, p) in got.confidence.to_vec().unwrap().into_iter().zip(p.chunks(300)) {
            let largest = p.iter().copied().fold(0.0, f32::max);
            assert!(error(got, f64::from(largest), 0.0) <= 2.0, "{got} and {largest}");
        }
    }
}

/// A shift of all logits changes nothing; a temperature is a factor; a tie leaves no margin; nothing is beyond its bounds.
#[test]
fn laws() {
    let mut random = Random::new(9);
    // Multiples of 1/16 stay what they are under the shift and the factor.
    let x: Vec<f32> = (0..50 * 20).map(|_| (random.normal() * 32.0).round() as f32 / 16.0).collect();
    let of = |device: &Device, x: &[f32], temperature: f32| {
        let tensor = Tensor::from_slice(device, &[50, 20], x).unwrap();
        let got = confidence(&tensor, Dim::LAST, &ConfidenceOptions { temperature }).unwrap();
        [got.confidence, got.margin, got.entropy].map(|got| got.to_vec().unwrap())
    };
    for device in devices() {
        let plain = of(&device, &x, 1.0);
        let shifted: Vec<f32> = x.iter().map(|x| x + 1000.0).collect();
        assert_eq!(bits(&of(&device, &shifted, 1.0)), bits(&plain));
        let doubled: Vec<f32> = x.iter().map(|x| x * 2.0).collect();
        assert_eq!(bits(&of(&device, &doubled, 2.0)), bits(&plain));
        let [confidence, margin, entropy] = &plain;
        for ((confidence, margin), entropy) in confidence.iter().zip(margin).zip(entropy) {
            assert!((0.05..=1.0).contains(confidence) && (0.0..=*confidence).contains(margin));
            assert!((0.0..=20f32.ln()).contains(entropy));
        }
        let mut tied = x.clone();
        tied.chunks_mut(20).for_each(|row| {
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let first = row.iter().position(|x| *x == max).unwrap();
            row[(first + 7) % 20] = max;
        });
        assert_eq!(of(&device, &tied, 1.0)[1], [0.0; 50]);
    }
}

/// Many random rows of mixed magnitude: margins from 0 to 80, logits to 1e30. With `--nocapture` the largest differences.
#[test]
fn accuracy() {
    fn measure<T: Format>() {
        let rows = std::env::var("SUMEXP_TEST_ROWS").map_or(12_000, |rows| rows.parse().expect("a number"));
        let (mut worst, mut done) = ([0f64; 3], 0);
        for seed in 0.. {
            let len = [2, 3, 5, 16, 50, 200][seed as usize % 6];
            let case = Case { seed, ..Case::new(&[2000, len], Fill::Mixed) };
            let here = check::<T>(&case);
            worst = [0, 1, 2].map(|which| worst[which].max(here[which]));
            done += 2000;
            if done >= rows {
                break;
            }
        }
        println!("confidence, margin, entropy of {done} rows of {}: {worst:.3?} ULP", T::DTYPE);
        assert!(worst.iter().all(|worst| *worst > 0.0), "every row was exact, so nothing was measured");
    }
    measure::<f32>();
    measure::<f16>();
    measure::<bf16>();
}

#[test]
fn empty_tensors_and_what_is_refused() {
    for device in devices() {
        let options = ConfidenceOptions::default();
        for (dims, dim) in [([0, 5], 1), ([0, 0], 0), ([5, 0], 0)] {
            let x = Tensor::<f32>::zeros(&device, &dims).unwrap();
            let got = confidence(&x, Dim::front(dim), &options).unwrap();
            assert_eq!(
                (got.confidence.elements(), got.margin.elements(), got.entropy.elements()),
                (0, 0, 0),
                "{dims:?}"
            );
        }
        let x = Tensor::<f32>::zeros(&device, &[5, 0]).unwrap();
        let wanted = Error::NoClasses { op: "confidence", shape: vec![5, 0], dim: 1 };
        assert_eq!(confidence(&x, Dim::LAST, &options).unwrap_err(), wanted);

        let x = Tensor::<f32>::zeros(&device, &[4, 3]).unwrap();
        for temperature in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            let error = confidence(&x, Dim::LAST, &ConfidenceOptions { temperature }).unwrap_err();
            let text = format!("confidence: temperature is {temperature}, it must be finite and above 0");
            assert_eq!(error.to_string(), text);
        }
        let error = confidence(&x, Dim::back(2), &options).unwrap_err();
        assert_eq!(error.to_string(), "confidence: dim back(2) is out of range for shape [4, 3]");
        // Each of the three outputs is looked at.
        for (wrong, name) in NAMES.into_iter().enumerate() {
            let lengths = [0, 1, 2].map(|which| if which == wrong { 3 } else { 4 });
            let [mut a, mut b, mut c] = lengths.map(|len| Tensor::<f32>::zeros(&device, &[len]).unwrap());
            let outputs = ConfidenceInto { confidence: a.view_mut(), margin: b.view_mut(), entropy: c.view_mut() };
            let error = confidence_into(&x, Dim::LAST, &options, outputs).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("confidence: shapes differ: [3] in {name}, [4] in x without its dim")
            );
        }
    }
}

fn row_of<T: Format>(seed: u64, elements: usize) -> Vec<T> {
    let mut random = Random::new(seed);
    (0..elements).map(|_| T::from_f64(3.0 * random.normal())).collect()
}

fn read(results: Result<Confidence>) -> [Vec<f32>; 3] {
    let results = results.expect("a legal call");
    [results.confidence, results.margin, results.entropy].map(|result| result.to_vec().expect("readable"))
}

/// A row has the bits that it has alone, and on every schedule.
#[test]
fn batches_and_schedules() {
    let device = device();
    let options = ConfidenceOptions { temperature: 0.7 };
    for len in [12, 100, 300, 1500, 5000, 40_000] {
        let x = row_of::<f32>(len as u64, 3 * len);
        let batch = read(confidence(&Tensor::from_slice(&device, &[3, len], &x).unwrap(), Dim::LAST, &options));
        for row in 0..3 {
            let alone = Tensor::from_slice(&device, &[len], &x[row * len..(row + 1) * len]).unwrap();
            let alone = read(confidence(&alone, Dim::LAST, &options));
            let of_batch = [0, 1, 2].map(|which| vec![batch[which][row]]);
            assert_eq!(bits(&alone), bits(&of_batch), "row {row} of 3 x {len}");
        }
    }
    let Some(soft) = soft() else { return };
    let rows = [12, 100, 1500, 5000, 40_000].map(|len| Case::new(&[3, len], Fill::Ordinary));
    let columns = [5, 100, 500].map(|len| Case::new(&[2, len, 9], Fill::Ordinary).along(1));
    for case in rows.into_iter().chain(columns) {
        soft.seed(0);
        let first = bits(&run::<f32>(&case, &device));
        for seed in 1..=20 {
            soft.seed(seed);
            assert_eq!(bits(&run::<f32>(&case, &device)), first, "{case}, schedule {seed}");
        }
        soft.seed(0);
        for input in [Offset(1), Reversed, Padded(1, 2), Padded(4, 4)] {
            let moved = case.clone().input(input);
            assert_eq!(bits(&run::<f32>(&moved, &device)), first, "{moved}");
        }
    }
}

/// Offsets beyond 2^32 elements, and blocks that go through many rows.
#[test]
fn far_apart_and_many_rows() {
    let Some(soft) = soft() else { return };
    let (device, options) = (device(), ConfidenceOptions::default());
    for dims in [&[3usize, 40][..], &[3, 4000], &[3, 40_000], &[3, 40, 9], &[3, 300, 5]] {
        let values = row_of::<f16>(5, dims.iter().product());
        let near = Tensor::from_slice(&device, dims, &values).unwrap();
        let far = Far::new(&soft, &device, dims, &values);
        let of = |x: View<'_, f16>, dim| bits(&read(confidence(x, Dim::front(dim), &options)));
        assert_eq!(of(far.view(), 1), of(near.view(), 1), "{dims:?}");
        assert_eq!(of(far.view(), 0), of(near.view(), 0), "{dims:?} along dim 0");
    }

    const GRID: usize = 1 << 16;
    let (rows, len) = (16 * GRID + 1, 4096);
    let chosen = [0, 1, GRID, 3 * GRID + 1, rows - 1];
    let mut x = zeros::<f16>(&soft, &device, &[rows, len]);
    chosen.iter().for_each(|row| put(&mut x, row * len, &row_of(*row as u64, len)));
    soft.only_ctas(Some(&[0, 1]));
    let got = confidence(&x, Dim::LAST, &options).unwrap();
    device.synchronize().unwrap();
    soft.only_ctas(None);
    for row in chosen {
        let alone = Tensor::from_slice(&device, &[len], &row_of::<f16>(row as u64, len)).unwrap();
        let alone = read(confidence(&alone, Dim::LAST, &options));
        let of = |x: &Tensor<f32>| x.view().slice(Dim::LAST, row..row + 1).and_then(|part| part.to_vec()).unwrap();
        assert_eq!(bits(&[of(&got.confidence), of(&got.margin), of(&got.entropy)]), bits(&alone), "row {row}");
    }
    assert_no_findings(&"rows of a block");
}

/// Every logit is read once, in whole sectors; nothing but three numbers per row is written.
#[test]
fn each_sector_is_read_once() {
    fn of<T: Format>() {
        let Some(soft) = soft() else { return };
        let device = device();
        for (dims, dim) in [
            (vec![32usize, 64], 1),
            (vec![8, 512], 1),
            (vec![8, 4096], 1),
            (vec![8, 131_072], 1),
            (vec![3, 8, 1024], 1),
            (vec![2, 100, 128], 1),
            (vec![1000, 64], 0),
        ] {
            let x = Tensor::from_slice(&device, &dims, &Case::new(&dims, Fill::Ordinary).logits::<T>()).unwrap();
            confidence(&x, Dim::front(dim), &ConfidenceOptions::default()).unwrap();
            device.synchronize().unwrap();
            let launches = soft.take_launches();
            let kernel = &launches.last().expect("a launch").kernel;
            let counters = soft.counters(kernel).expect("it was just launched");
            let case = format!("{kernel} on {dims:?}");
            let elements: usize = dims.iter().product();
            println!(
                "{case}: {:.1} PTX instructions per element",
                counters.thread_instructions as f64 / elements as f64
            );
            let (read, written) = (elements * size_of::<T>(), elements / dims[dim] * 12);
            assert_eq!(counters.global_loads.bytes, read as u64, "{case}: bytes loaded");
            assert_eq!(counters.global_loads.sectors, counters.global_loads.minimum, "{case}: sectors loaded");
            assert_eq!(counters.global_stores.bytes, written as u64, "{case}: bytes stored");
            let conflicts: Vec<_> = counters.lines.iter().filter(|line| line.shared.bank_conflicts() > 0).collect();
            assert!(conflicts.is_empty(), "{case}: bank conflicts at {conflicts:#?}");
            assert_eq!(counters.local_bytes, 0, "{case}: local memory");
            soft.reset_counters();
        }
    }
    of::<f32>();
    of::<f16>();
    of::<bf16>();
}
