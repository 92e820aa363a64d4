//! gumbel_softmax: values against the definition, one-hot rows, gradients, what must not matter, what is refused.

use sumexp::reference::gumbel::{noise_at, one_hot, perturbed};
use sumexp::reference::row::softmax as exact_softmax;
use sumexp::{
    Device, Dim, Error, GumbelInto, GumbelOptions, Random, SoftmaxOptions, Tensor, View, bf16, f16, gumbel_softmax,
    gumbel_softmax_into, softmax_backward,
};

use crate::common::arrange::Operand;
use crate::common::cases::{Case, Fill, SPECIAL_ROWS};
use crate::common::compare::Format;
use crate::common::device::{assert_no_findings, devices, soft};
use crate::common::gpu::device;
use crate::common::guard::Guarded;
use crate::common::sparse::{Far, put, zeros};
use crate::layouts;

const SEED: u64 = 0xfeed_0000_1234_5678;
const OFFSET: u64 = 1 << 40 | 3;

/// Probabilities and one-hot rows of a case on one device, into guarded memory.
fn run<T: Format>(case: &Case, device: &Device) -> (Vec<T>, Vec<T>) {
    let named = format!("gumbel_softmax {} {case} on {}", T::DTYPE, device.name());
    let x = Operand::new(device, case.input, &case.dims, &case.logits::<T>(), T::from_f64(f64::NAN));
    let mut probabilities = Guarded::new(device, &case.dims, 1, T::from_f64(-7.0));
    let mut one_hot = Guarded::new(device, &case.dims, 0, T::from_f64(-7.0));
    let outputs = GumbelInto { probabilities: probabilities.view_mut(), one_hot: Some(one_hot.view_mut()) };
    let options = GumbelOptions { temperature: case.tau, hard: true };
    let random = Random::Seed { seed: SEED, offset: OFFSET };
    gumbel_softmax_into(x.view(), Dim::front(case.dim), &options, random, outputs)
        .unwrap_or_else(|error| panic!("{named}: {error}"));
    let got = (probabilities.read(&named), one_hot.read(&named));
    assert_no_findings(&named);
    got
}

fn check<T: Format>(case: &Case) {
    let x = case.logits::<T>();
    let tau = f64::from(case.tau);
    for device in devices() {
        let (soft, hard) = run::<T>(case, &device);
        for (row, places) in case.row_places().enumerate() {
            let values: Vec<f64> = places.iter().map(|place| x[*place].to_f64()).collect();
            let z = perturbed(&values, |i| noise_at(SEED, OFFSET, row as u64, values.len(), i));
            let (want, winner) = (exact_softmax(&z, tau), one_hot(&z));
            let largest = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let second = z.iter().copied().filter(|z| *z < largest).fold(f64::NEG_INFINITY, f64::max);
            for (i, place) in places.iter().enumerate() {
                let named = format!("{} {case} on {}: element {i} of row {row}", T::DTYPE, device.name());
                let (got, want) = (soft[*place].to_f64(), want[i]);
                if want.is_nan() {
                    assert!(got.is_nan() && hard[*place].to_f64().is_nan(), "{named}: {got} {:?}", hard[*place]);
                    continue;
                }
                // Rounding of the logits with noise, then to the type, down to its smallest numbers.
                let spread = if values[i] == f64::NEG_INFINITY { 0.0 } else { 25.0 - (z[i] - largest) };
                let of_type = 2f64.powi(1 - T::DIGITS);
                let bound = (2f64.powi(-22) * (1.0 + spread / tau) + of_type) * want + T::ulp(0.0);
                assert!((got - want).abs() <= bound, "{named}: {got:e}, want {want:e} within {bound:e}");
                assert!(values[i] > f64::NEG_INFINITY || got == 0.0, "{named}: hidden, but {got}");
                // Two that rounding makes equal may change places.
                if largest - second > 1e-5 * (1.0 + largest.abs()) || largest == f64::NEG_INFINITY {
                    assert_eq!(hard[*place].to_f64(), winner[i], "{named}: one-hot");
                }
            }
        }
    }
}

fn check_all_types(case: &Case) {
    check::<f32>(case);
    check::<f16>(case);
    check::<bf16>(case);
}

#[test]
fn special_rows() {
    for len in [1, 3, 40, 600] {
        check_all_types(&Case::new(&[SPECIAL_ROWS.len() + 2, len], Fill::Special));
    }
    check_all_types(&Case::new(&[4, 30, 4], Fill::Special).along(1).tau(0.5));
    check::<f16>(&Case::new(&[SPECIAL_ROWS.len(), 8200], Fill::Special));
}

#[test]
fn lengths_and_temperatures() {
    for len in (1..=17).chain([31, 32, 33, 511, 512, 513, 1030]) {
        check::<f32>(&Case::new(&[3, len], Fill::Ordinary));
        check::<bf16>(&Case::new(&[3, len], Fill::Ordinary).tau(2.0));
    }
    for len in [8191, 8192, 8193, 16_400] {
        check::<f32>(&Case::new(&[2, len], Fill::Ordinary).tau(0.7));
        check::<f16>(&Case::new(&[2, len], Fill::Ordinary));
    }
    for tau in [0.1, 10.0, 1e30] {
        check_all_types(&Case::new(&[3, 50], Fill::Mixed).tau(tau));
    }
}

#[test]
fn strides_alignment_and_dims() {
    layouts().iter().for_each(check_all_types);
}

/// The same bits on every schedule.
#[test]
fn every_schedule_gives_the_same_bits() {
    let Some(soft) = soft() else { return };
    let device = device();
    for case in [Case::new(&[5, 100], Fill::Special), Case::new(&[2, 1500], Fill::Ordinary)] {
        soft.seed(0);
        let first = format!("{:?}", run::<f16>(&case, &device));
        for seed in 1..=20 {
            soft.seed(seed);
            assert_eq!(format!("{:?}", run::<f16>(&case, &device)), first, "{case}, schedule {seed}");
        }
    }
    soft.seed(0);
}

/// Noise by row seeds: independent of the batch and of its order; of the device's state: that of the host's.
#[test]
fn where_noise_comes_from() {
    let x = Case::new(&[4, 30], Fill::Ordinary).logits::<f32>();
    for device in devices() {
        let soft = |x: &[f32], random| {
            let x = Tensor::from_slice(&device, &[x.len() / 30, 30], x).unwrap();
            let drawn = gumbel_softmax(&x, Dim::LAST, &GumbelOptions::default(), random).unwrap();
            assert!(drawn.one_hot.is_none());
            drawn.probabilities.to_vec().unwrap()
        };
        let seeds = Tensor::from_slice(&device, &[4], &[7i64, -1, 1 << 50, 0]).unwrap();
        let all = soft(&x, Random::PerRow { seeds: seeds.view(), offset: 6 });
        let third = seeds.view().slice(Dim::LAST, 2..3).unwrap();
        assert_eq!(soft(&x[60..90], Random::PerRow { seeds: third, offset: 6 }), all[60..90]);
        let state = Tensor::from_slice(&device, &[2], &[-5i64, i64::MIN]).unwrap();
        let host = Random::Seed { seed: -5i64 as u64, offset: 1 << 63 };
        assert_eq!(soft(&x, Random::Device(state.view())), soft(&x, host));
        assert_ne!(soft(&x, host), soft(&x, Random::Seed { seed: -5i64 as u64, offset: 0 }));
    }
}

/// With the noise held fixed, the gradient is that of a softmax: against a difference quotient.
#[test]
fn the_gradient_is_that_of_a_softmax() {
    let device = Device::cpu();
    let (x, tau) = ([0.3f32, -1.0, 2.0, 0.9], 0.7f32);
    let random = Random::Seed { seed: 4, offset: 4 };
    let options = GumbelOptions { temperature: tau, hard: false };
    let y = |x: &[f32]| {
        let x = Tensor::from_slice(&device, &[4], x).unwrap();
        gumbel_softmax(&x, Dim::LAST, &options, random).unwrap().probabilities
    };
    let upstream = [1.0f32, -2.0, 0.5, 3.0];
    let dy = Tensor::from_slice(&device, &[4], &upstream).unwrap();
    let same = SoftmaxOptions { temperature: tau, ..SoftmaxOptions::default() };
    let dx = softmax_backward(&y(&x), &dy, Dim::LAST, &same).unwrap().to_vec().unwrap();
    let value = |x: &[f32]| -> f64 {
        y(x).to_vec().unwrap().iter().zip(upstream).map(|(y, dy)| f64::from(*y) * f64::from(dy)).sum()
    };
    for i in 0..4 {
        let (mut above, mut below) = (x, x);
        (above[i], below[i]) = (x[i] + 0.01, x[i] - 0.01);
        let quotient = (value(&above) - value(&below)) / f64::from(above[i] - below[i]);
        assert!((quotient - f64::from(dx[i])).abs() < 1e-3, "{i}: {quotient} {}", dx[i]);
    }
}

/// Offsets beyond 2^32 elements in the input, and rows so far along that those of the output pass 2^32.
#[test]
fn far_apart() {
    let Some(soft) = soft() else { return };
    let device = device();
    let random = Random::Seed { seed: 3, offset: 0 };
    for dims in [&[3usize, 40][..], &[3, 700], &[3, 20, 3]] {
        let values = Case::new(dims, Fill::Ordinary).logits::<f16>();
        let near = Tensor::from_slice(&device, dims, &values).unwrap();
        let far = Far::new(&soft, &device, dims, &values);
        let draw = |x: View<'_, f16>| {
            let drawn = gumbel_softmax(x, Dim::front(1), &GumbelOptions::default(), random).unwrap();
            drawn.probabilities.to_vec().unwrap()
        };
        assert_eq!(draw(far.view()), draw(near.view()), "{dims:?}");
    }
    const GRID: usize = 1 << 16;
    let (rows, len) = (16 * GRID + 1, 4096);
    let mut x = zeros::<f16>(&soft, &device, &[rows, len]);
    let chosen = [0, GRID, rows - 1];
    chosen.iter().enumerate().for_each(|(i, row)| put(&mut x, row * len + 700 * i + 7, &[f16::from_f32(60.0)]));
    soft.only_ctas(Some(&[0]));
    let y = gumbel_softmax(&x, Dim::LAST, &GumbelOptions::default(), random).unwrap().probabilities;
    device.synchronize().unwrap();
    soft.only_ctas(None);
    for (i, row) in chosen.into_iter().enumerate() {
        let got = y.view_values().slice(Dim::front(0), row..row + 1).and_then(|row| row.to_vec()).unwrap();
        assert!(got[700 * i + 7].to_f32() > 0.999, "row {row}");
    }
    assert_no_findings(&"rows far apart");
}

#[test]
fn empty_tensors_and_what_is_refused() {
    for device in devices() {
        let random = Random::Seed { seed: 1, offset: 0 };
        for dims in [[0, 5], [5, 0]] {
            let x = Tensor::<f32>::zeros(&device, &dims).unwrap();
            let drawn = gumbel_softmax(&x, Dim::LAST, &GumbelOptions::default(), random).unwrap();
            assert_eq!(drawn.probabilities.to_vec().unwrap(), [0f32; 0]);
        }
        let x = Tensor::<f32>::zeros(&device, &[4, 6]).unwrap();
        for temperature in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            let error = gumbel_softmax(&x, Dim::LAST, &GumbelOptions { temperature, hard: false }, random).unwrap_err();
            let text = format!("gumbel_softmax: temperature is {temperature}, it must be finite and above 0");
            assert_eq!(error.to_string(), text);
        }
        let refused = |random: Random, dim: Dim, text: &str| {
            assert_eq!(gumbel_softmax(&x, dim, &GumbelOptions::default(), random).unwrap_err().to_string(), text);
        };
        refused(random, Dim::front(2), "gumbel_softmax: dim front(2) is out of range for shape [4, 6]");
        let three = Tensor::<i64>::zeros(&device, &[3]).unwrap();
        let text = "gumbel_softmax: shapes differ: [3] in the random state, [2] in a seed and an offset";
        refused(Random::Device(three.view()), Dim::LAST, text);
        let text = "gumbel_softmax: shapes differ: [3] in seeds, [4] in x without its dim";
        refused(Random::PerRow { seeds: three.view(), offset: 0 }, Dim::LAST, text);
        let mut y = Tensor::<f32>::zeros(&device, &[4, 6]).unwrap();
        let outputs = GumbelInto { probabilities: y.view_mut(), one_hot: None };
        let hard = GumbelOptions { temperature: 1.0, hard: true };
        let error = gumbel_softmax_into(&x, Dim::LAST, &hard, random, outputs).unwrap_err();
        let text = "gumbel_softmax: hard is 1, it must be 1 with an output for one_hot, and 0 without";
        assert_eq!(error.to_string(), text);
        let mut wrong = Tensor::<f32>::zeros(&device, &[4, 5]).unwrap();
        let outputs = GumbelInto { probabilities: wrong.view_mut(), one_hot: None };
        let error = gumbel_softmax_into(&x, Dim::LAST, &GumbelOptions::default(), random, outputs).unwrap_err();
        assert_eq!(error.to_string(), "gumbel_softmax: shapes differ: [4, 5] in probabilities, [4, 6] in x");
        let Error::TooMany { op: "gumbel_softmax", .. } = gumbel_softmax(
            Tensor::<f32>::zeros(&device, &[1, 1]).unwrap().view().expand(&[1, (1 << 31) + 1]).unwrap(),
            Dim::LAST,
            &GumbelOptions::default(),
            random,
        )
        .unwrap_err() else {
            panic!("a row of more than 2^31 elements was accepted");
        };
    }
}
