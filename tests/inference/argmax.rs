//! argmax: exact, so every result is compared as it is.

use sumexp::{Device, Dim, Error, Tensor, View, argmax, argmax_into, bf16, f16};

use crate::common::arrange::Operand;
use crate::common::cases::{Case, Fill, SPECIAL_ROWS};
use crate::common::compare::Format;
use crate::common::device::{assert_no_findings, devices, soft};
use crate::common::gpu::device;
use crate::common::guard::Guarded;
use crate::common::random::Random;
use crate::common::sparse::{Far, put, zeros};
use crate::layouts;

/// The rule once more, as a walk along the row with nothing but comparisons.
fn first_largest<T: Format>(row: impl Iterator<Item = T>) -> i64 {
    let (mut best, mut at) = (f64::NEG_INFINITY, 0);
    for (i, value) in row.map(|x| x.to_f64()).enumerate() {
        if best.is_nan() {
            break;
        }
        if value.is_nan() || value > best {
            (best, at) = (value, i as i64);
        }
    }
    at
}

/// The indices of a case on one device, into guarded memory.
fn run<T: Format>(case: &Case, device: &Device) -> Vec<i64> {
    let named = format!("argmax {} {case} on {}", T::DTYPE, device.name());
    let x = Operand::new(device, case.input, &case.dims, &case.logits::<T>(), T::from_f64(f64::NAN));
    let mut sizes = case.dims.clone();
    sizes.remove(case.dim);
    let mut indices = Guarded::new(device, &sizes, 1, -7i64);
    argmax_into(x.view(), Dim::front(case.dim), indices.view_mut()).unwrap_or_else(|error| panic!("{named}: {error}"));
    let got = indices.read(&named);
    assert_no_findings(&named);
    got
}

fn check<T: Format>(case: &Case) {
    let x = case.logits::<T>();
    let want: Vec<i64> = case.row_places().map(|places| first_largest(places.iter().map(|place| x[*place]))).collect();
    for device in devices() {
        assert_eq!(run::<T>(case, &device), want, "argmax {} {case} on {}", T::DTYPE, device.name());
    }
}

fn check_all_types(case: &Case) {
    check::<f32>(case);
    check::<f16>(case);
    check::<bf16>(case);
}

/// NaN, infinities, ties and hidden rows beside ordinary ones, in every kernel.
#[test]
fn special_rows() {
    for len in [1, 3, 17, 33, 150, 700, 2100, 20_000] {
        check_all_types(&Case::new(&[SPECIAL_ROWS.len() + 3, len], Fill::Special));
    }
    for (len, inner) in [(3, 5), (40, 2), (300, 2)] {
        let rows = SPECIAL_ROWS.len() / inner + 2;
        check_all_types(&Case::new(&[rows, len, inner], Fill::Special).along(1));
    }
    for value in [0.0, f64::NEG_INFINITY, f64::INFINITY, f64::NAN] {
        check_all_types(&Case::new(&[3, 5000], Fill::Constant(value)));
        check_all_types(&Case::new(&[2, 300, 3], Fill::Constant(value)).along(1));
    }
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
    for len in [1, 2, 7, 8, 9, 16, 17, 64, 65, 255, 256, 257, 600] {
        for inner in [3, 40] {
            check_all_types(&Case::new(&[2, len, inner], Fill::Ordinary).along(1));
        }
    }
}

#[test]
fn strides_alignment_and_dims() {
    layouts().iter().for_each(check_all_types);
}

/// Wherever the largest element lies, and however many equals it has behind it, the first is found.
#[test]
fn the_first_of_equals_anywhere() {
    let mut random = Random::new(11);
    for len in [9, 100, 3000, 40_000] {
        for round in 0..12 {
            let mut x = vec![f16::from_f32(-0.0); len];
            let first = if round == 0 { len - 1 } else { random.below(len) };
            let value = [1.0, f32::NAN, f32::INFINITY, 6e4][round % 4];
            x[first] = f16::from_f32(value);
            x[first..].iter_mut().filter(|_| random.one_in(5)).for_each(|x| *x = f16::from_f32(value));
            // NaNs of another sign and payload are NaNs.
            if value.is_nan() && first + 1 < len {
                x[first + 1] = f16::from_bits(0xffff);
            }
            for device in devices() {
                let x = Tensor::from_slice(&device, &[len], &x).unwrap();
                assert_eq!(argmax(&x, Dim::LAST).unwrap().to_vec().unwrap(), [first as i64], "{value} in {len}");
                let column = x.reshape(&[len, 1]).unwrap();
                let column = column.view().expand(&[len, 2]).unwrap();
                let got = argmax(column, Dim::front(0)).unwrap().to_vec().unwrap();
                assert_eq!(got, [first as i64; 2], "{value} in a column of {len}");
            }
        }
    }
}

/// -0 equals +0, in either order.
#[test]
fn zeros_are_equal() {
    for device in devices() {
        for zeros in [[-0.0f32, 0.0], [0.0, -0.0]] {
            let x = Tensor::from_slice(&device, &[3], &[-1.0, zeros[0], zeros[1]]).unwrap();
            assert_eq!(argmax(&x, Dim::LAST).unwrap().to_vec().unwrap(), [1]);
        }
    }
}

#[test]
fn empty_tensors() {
    for device in devices() {
        for (dims, dim) in [([0, 5], 1), ([0, 0], 0), ([0, 0], 1), ([5, 0], 0)] {
            let x = Tensor::<f32>::zeros(&device, &dims).unwrap();
            let result = argmax(&x, Dim::front(dim));
            assert_eq!(result.unwrap().to_vec().unwrap(), [0i64; 0], "{dims:?}");
        }
        let x = Tensor::<f32>::zeros(&device, &[5, 0]).unwrap();
        let wanted = Error::NoClasses { op: "argmax", shape: vec![5, 0], dim: 1 };
        assert_eq!(argmax(&x, Dim::LAST).unwrap_err(), wanted);
    }
}

#[test]
fn what_is_refused() {
    for device in devices() {
        let memory = Tensor::<f32>::zeros(&device, &[4, 6]).unwrap();
        let refused = |error: Error, text: &str| assert_eq!(error.to_string(), text);
        let (mut two, mut wide) =
            (Tensor::<i64>::zeros(&device, &[2]).unwrap(), Tensor::<i64>::zeros(&device, &[4, 2]).unwrap());
        refused(argmax(&memory, Dim::front(2)).unwrap_err(), "argmax: dim front(2) is out of range for shape [4, 6]");
        refused(
            argmax_into(&memory, Dim::LAST, &mut two).unwrap_err(),
            "argmax: shapes differ: [2] in indices, [4] in x without its dim",
        );
        let apart = wide.view_mut().slice(Dim::LAST, 0..1).unwrap().reshape(&[4]).unwrap();
        let Err(Error::NotContiguous { op: "argmax", output: "indices", .. }) = argmax_into(&memory, Dim::LAST, apart)
        else {
            panic!("an output with gaps was accepted");
        };
        let other = if device.is_cpu() { self::device() } else { Device::cpu() };
        let mut elsewhere = Tensor::<i64>::zeros(&other, &[4]).unwrap();
        let Err(Error::DifferentDevices { op: "argmax", left: "x", right: "indices", .. }) =
            argmax_into(&memory, Dim::LAST, &mut elsewhere)
        else {
            panic!("an output on another device was accepted");
        };
    }
}

/// Offsets beyond 2^32 elements: rows far apart give what rows side by side give, and so does a row that is itself longer.
#[test]
fn far_apart() {
    let Some(soft) = soft() else { return };
    for dims in [&[3usize, 40][..], &[3, 4000], &[3, 40_000], &[3, 40, 9], &[3, 300, 5]] {
        let device = device();
        let elements: usize = dims.iter().product();
        let mut random = Random::new(5);
        let values: Vec<f16> = (0..elements).map(|_| f16::from_f64(random.normal())).collect();
        let near = Tensor::from_slice(&device, dims, &values).unwrap();
        let far = Far::new(&soft, &device, dims, &values);
        let indices = |x: View<'_, f16>| argmax(x, Dim::front(1)).and_then(|indices| indices.to_vec()).unwrap();
        assert_eq!(indices(far.view()), indices(near.view()), "{dims:?}");
        // Along the dim whose elements lie far apart.
        let indices = |x: View<'_, f16>| argmax(x, Dim::front(0)).and_then(|indices| indices.to_vec()).unwrap();
        assert_eq!(indices(far.view()), indices(near.view()), "{dims:?} along dim 0");
    }
    assert_no_findings(&"rows far apart");
}

/// Block 0 has the first rows, those a whole grid further on, and the last, whose offset is 0 in 32 bits.
#[test]
fn rows_of_a_block() {
    let Some(soft) = soft() else { return };
    let device = device();
    const GRID: usize = 1 << 16;
    let (rows, len) = (16 * GRID + 1, 4096);
    let chosen = [0, 1, GRID, 3 * GRID + 1, rows - 1];
    let mut x = zeros::<f16>(&soft, &device, &[rows, len]);
    for (i, row) in chosen.iter().enumerate() {
        put(&mut x, row * len + 1000 * i + 7, &[f16::from_f32(1.0)]);
    }
    soft.only_ctas(Some(&[0, 1]));
    let indices = argmax(&x, Dim::LAST).unwrap();
    device.synchronize().unwrap();
    soft.only_ctas(None);
    for (i, row) in chosen.into_iter().enumerate() {
        let got = indices.view().slice(Dim::LAST, row..row + 1).and_then(|index| index.to_vec()).unwrap();
        assert_eq!(got, [1000 * i as i64 + 7], "row {row}");
    }
    assert_no_findings(&"rows of a block");
}

/// On every schedule the same index, also where lanes of different warps hold equals.
#[test]
fn every_schedule_gives_the_same_index() {
    let Some(soft) = soft() else { return };
    let device = device();
    for case in [
        Case::new(&[3, 100], Fill::Special),
        Case::new(&[3, 5000], Fill::Special),
        Case::new(&[3, 40_000], Fill::Constant(1.0)),
        Case::new(&[40, 100, 3], Fill::Special).along(1),
        Case::new(&[2, 400, 9], Fill::Special).along(1),
    ] {
        soft.seed(0);
        let first = run::<f16>(&case, &device);
        for seed in 1..=20 {
            soft.seed(seed);
            assert_eq!(run::<f16>(&case, &device), first, "{case}, schedule {seed}");
        }
    }
    soft.seed(0);
}

/// Every element is read once, in whole sectors.
#[test]
fn each_sector_is_read_once() {
    fn of<T: Format>() {
        let Some(soft) = soft() else { return };
        let device = device();
        for (dims, dim) in [
            (vec![33usize, 64], 1),
            (vec![9, 512], 1),
            (vec![5, 4096], 1),
            (vec![2, 131_072], 1),
            (vec![3, 8, 1024], 1),
            (vec![2, 100, 128], 1),
            (vec![1000, 64], 0),
        ] {
            let x = Tensor::from_slice(&device, &dims, &Case::new(&dims, Fill::Ordinary).logits::<T>()).unwrap();
            argmax(&x, Dim::front(dim)).unwrap();
            device.synchronize().unwrap();
            let launches = soft.take_launches();
            let kernel = &launches.last().expect("a launch").kernel;
            let counters = soft.counters(kernel).expect("it was just launched");
            let case = format!("{kernel} on {dims:?}");
            let bytes = (dims.iter().product::<usize>() * size_of::<T>()) as u64;
            assert_eq!(counters.global_loads.bytes, bytes, "{case}: bytes loaded");
            assert_eq!(counters.global_loads.sectors, counters.global_loads.minimum, "{case}: sectors loaded");
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

/// The owned form is what the other writes, and the class with the largest probability is that of the largest logit.
#[test]
fn of_logits_and_of_their_softmax() {
    for device in devices() {
        let case = Case::new(&[7, 50], Fill::Ordinary);
        let x = Tensor::from_slice(&device, &case.dims, &case.logits::<f32>()).unwrap();
        let p = sumexp::softmax(&x, Dim::LAST, &sumexp::SoftmaxOptions::default()).unwrap();
        let indices = argmax(&x, Dim::LAST).unwrap();
        assert_eq!(indices.dims(), [7]);
        assert_eq!(indices.to_vec().unwrap(), argmax(p.view_values(), Dim::LAST).unwrap().to_vec().unwrap());
    }
}
