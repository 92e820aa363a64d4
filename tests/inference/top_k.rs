//! top_k: exact, so every result is compared as it is.

use sumexp::{Device, Dim, Error, Tensor, TopKInto, View, argmax, bf16, f16, top_k, top_k_into};

use crate::common::arrange::Operand;
use crate::common::cases::{Case, Fill, SPECIAL_ROWS};
use crate::common::compare::Format;
use crate::common::device::{assert_no_findings, devices, soft};
use crate::common::gpu::device;
use crate::common::guard::Guarded;
use crate::common::random::Random;
use crate::common::sparse::{Far, put, zeros};
use crate::layouts;

/// The rule once more: the largest is taken out k times, by a walk with nothing but comparisons.
fn walk<T: Format>(row: &[T], k: usize) -> Vec<i64> {
    let mut left: Vec<(usize, f64)> = row.iter().map(|x| x.to_f64()).enumerate().collect();
    let mut taken = Vec::new();
    while taken.len() < k {
        let mut best = 0;
        for (at, (_, value)) in left.iter().enumerate().skip(1) {
            let held = left[best].1;
            if !held.is_nan() && (value.is_nan() || *value > held) {
                best = at;
            }
        }
        taken.push(left.remove(best).0 as i64);
    }
    taken
}

/// Values as bits, and indices.
type Results = (Vec<u32>, Vec<i64>);

fn bits<T: Format>(values: &[T]) -> Vec<u32> {
    values.iter().map(|x| x.to_f32().to_bits()).collect()
}

/// The results of a case on one device, in guarded memory.
fn run<T: Format>(case: &Case, k: usize, device: &Device) -> Results {
    let named = format!("top_k {k} {} {case} on {}", T::DTYPE, device.name());
    let x = Operand::new(device, case.input, &case.dims, &case.logits::<T>(), T::from_f64(f64::NAN));
    let mut dims = case.dims.clone();
    dims[case.dim] = k;
    let (mut values, mut indices) =
        (Guarded::new(device, &dims, 1, T::from_f64(777.0)), Guarded::new(device, &dims, 1, -7i64));
    let outputs = TopKInto { values: values.view_mut(), indices: indices.view_mut() };
    top_k_into(x.view(), Dim::front(case.dim), k, outputs).unwrap_or_else(|error| panic!("{named}: {error}"));
    let got = (bits(&values.read(&named)), indices.read(&named));
    assert_no_findings(&named);
    got
}

fn check<T: Format>(case: &Case, k: usize) {
    let x = case.logits::<T>();
    let inner: usize = case.dims[case.dim + 1..].iter().product();
    let mut want = (vec![0; case.rows() * k], vec![0; case.rows() * k]);
    for (row, places) in case.row_places().enumerate() {
        let values: Vec<T> = places.iter().map(|place| x[*place]).collect();
        for (i, index) in walk(&values, k).into_iter().enumerate() {
            let to = row / inner * inner * k + i * inner + row % inner;
            want.0[to] = values[index as usize].to_f32().to_bits();
            want.1[to] = index;
        }
    }
    for device in devices() {
        assert!(run::<T>(case, k, &device) == want, "top_k {k} {} {case} on {}", T::DTYPE, device.name());
    }
}

fn check_all_types(case: &Case, k: usize) {
    check::<f32>(case, k);
    check::<f16>(case, k);
    check::<bf16>(case, k);
}

/// NaN, infinities, ties and hidden rows beside ordinary ones, in every kernel.
#[test]
fn special_rows() {
    for (len, k) in [(1, 1), (3, 2), (17, 17), (150, 9), (700, 100), (2100, 40), (20_000, 3)] {
        check_all_types(&Case::new(&[SPECIAL_ROWS.len() + 3, len], Fill::Special), k);
    }
    check_all_types(&Case::new(&[SPECIAL_ROWS.len() / 2 + 2, 40, 2], Fill::Special).along(1), 5);
    // Where all are equal the first k are taken, whether they fit in shared memory or not.
    for value in [0.0, f64::NEG_INFINITY, f64::INFINITY, f64::NAN] {
        for (len, k) in [(10, 10), (600, 7), (1030, 1024), (5000, 33), (40_000, 2)] {
            check_all_types(&Case::new(&[2, len], Fill::Constant(value)), k);
        }
    }
}

/// Every k that a short row has; and rows of every kernel, their edges and several pieces.
#[test]
fn lengths_and_k() {
    for len in [1, 2, 5, 8, 16, 31, 64] {
        for k in 1..=len.min(20) {
            check_all_types(&Case::new(&[3, len], Fill::Ordinary), k);
        }
    }
    for (len, k) in [(511, 1), (512, 8), (513, 64), (1023, 511), (1024, 1024), (1025, 1024), (2047, 2), (2049, 1024)] {
        check_all_types(&Case::new(&[2, len], Fill::Ordinary), k);
    }
    for (len, k) in [(4096, 1024), (8193, 50), (16_384, 64), (16_385, 1), (32_769, 1024), (50_257, 50)] {
        check_all_types(&Case::new(&[2, len], Fill::Mixed), k);
    }
    check::<f32>(&Case::new(&[1, 262_144], Fill::Ordinary), 40);
    check::<f16>(&Case::new(&[1, 262_144], Fill::Ordinary), 40);
}

/// Ranks that are close together or close to the ends: the k-th lies at any byte, and in rows that rise or fall one lane or all of
/// them hold the winners.
#[test]
fn hard_rows() {
    let len = 9000;
    let near_one = |i: usize| f32::from_bits(1f32.to_bits() + i as u32);
    type Row = (&'static str, Box<dyn Fn(usize) -> f32>);
    let rows: [Row; 7] = [
        ("rising", Box::new(move |i| i as f32)),
        ("falling", Box::new(move |i| -(i as f32))),
        ("last bits rising", Box::new(near_one)),
        ("last bits falling", Box::new(move |i| near_one(len - i))),
        ("two values", Box::new(|i| if i % 3 == 0 { 1.0 } else { -1.0 })),
        ("subnormal of both signs", Box::new(|i| f32::from_bits((i as u32 % 7) | (i as u32 & 1) << 31))),
        ("one lane holds all", Box::new(|i| if i % 4096 < 4 { 5.0 + i as f32 } else { 0.0 })),
    ];
    for (name, value) in rows {
        let x: Vec<f32> = (0..len).map(value).collect();
        for k in [1, 2, 100, 1024] {
            let want = walk(&x, k);
            for device in devices() {
                let tensor = Tensor::from_slice(&device, &[len], &x).unwrap();
                let got = top_k(&tensor, Dim::LAST, k).unwrap();
                assert!(got.indices.to_vec().unwrap() == want, "{name}, k {k} on {}", device.name());
                let values: Vec<f32> = want.iter().map(|index| x[*index as usize]).collect();
                assert_eq!(bits(&got.values.to_vec().unwrap()), bits(&values), "{name}, k {k}");
            }
        }
    }
}

#[test]
fn strides_alignment_and_dims() {
    layouts().iter().for_each(|case| check_all_types(case, case.len().min(5)));
}

/// A bit pattern comes out as it went in.
#[test]
fn values_keep_their_bits() {
    for device in devices() {
        let patterns = [0x8000u16, 0x0000, 0x7e01, 0xfc00, 0xffff, 0x0001];
        let x: Vec<f16> = patterns.iter().map(|bits| f16::from_bits(*bits)).collect();
        let x = Tensor::from_slice(&device, &[6], &x).unwrap();
        let best = top_k(&x, Dim::LAST, 6).unwrap();
        assert_eq!(best.indices.to_vec().unwrap(), [2, 4, 5, 0, 1, 3]);
        let bits: Vec<u16> = best.values.to_vec().unwrap().iter().map(|x| x.to_bits()).collect();
        assert_eq!(bits, [0x7e01, 0xffff, 0x0001, 0x8000, 0x0000, 0xfc00]);
    }
}

/// The first of the k is what argmax finds; the values of k are the first of those of a larger k.
#[test]
fn laws() {
    for device in devices() {
        let case = Case::new(&[SPECIAL_ROWS.len() + 2, 300], Fill::Special);
        let x = Tensor::from_slice(&device, &case.dims, &case.logits::<bf16>()).unwrap();
        let of = |k| top_k(&x, Dim::LAST, k).unwrap().indices;
        assert_eq!(of(1).to_vec().unwrap(), argmax(&x, Dim::LAST).unwrap().to_vec().unwrap());
        let all = of(300);
        for k in [2, 50, 299] {
            let first = all.view().slice(Dim::LAST, 0..k).and_then(|part| part.to_vec()).unwrap();
            assert!(of(k).to_vec().unwrap() == first, "k = {k}");
        }
    }
}

#[test]
fn empty_and_refused() {
    for device in devices() {
        for (dims, k, want) in [([5, 0], 0, [5, 0]), ([0, 5], 3, [0, 3]), ([5, 7], 0, [5, 0]), ([0, 0], 0, [0, 0])] {
            let x = Tensor::<f32>::zeros(&device, &dims).unwrap();
            let best = top_k(&x, Dim::LAST, k).unwrap();
            assert_eq!((best.values.dims(), best.indices.dims()), (&want[..], &want[..]), "{dims:?}");
        }
        let refused = |dims: &[usize], dim, k, text: &str| {
            let x = Tensor::<f32>::zeros(&device, dims).unwrap();
            assert_eq!(top_k(&x, dim, k).unwrap_err().to_string(), text);
        };
        refused(&[4, 3], Dim::LAST, 4, "top_k: k is 4, at most 3 is possible");
        refused(&[4, 3000], Dim::LAST, 1025, "top_k: k is 1025, at most 1024 is possible");
        refused(&[4, 0], Dim::LAST, 1, "top_k: k is 1, at most 0 is possible");
        refused(&[4, 3], Dim::front(2), 1, "top_k: dim front(2) is out of range for shape [4, 3]");
        let one = Tensor::<f32>::zeros(&device, &[1]).unwrap();
        let long = one.view().expand(&[1 << 32]).unwrap();
        let error = top_k(long, Dim::LAST, 1).unwrap_err();
        assert_eq!(
            error,
            Error::TooMany { op: "top_k", option: "the length of the dim", value: 1 << 32, max: (1 << 32) - 1 }
        );
        for (values, indices, name) in [([4, 3], [4, 2], "values"), ([4, 2], [4, 3], "indices")] {
            let x = Tensor::<f32>::zeros(&device, &[4, 5]).unwrap();
            let mut v = Tensor::<f32>::zeros(&device, &values).unwrap();
            let mut i = Tensor::<i64>::zeros(&device, &indices).unwrap();
            let outputs = TopKInto { values: v.view_mut(), indices: i.view_mut() };
            let error = top_k_into(&x, Dim::LAST, 2, outputs).unwrap_err().to_string();
            let like = "[4, 2] in x with k in the place of its dim";
            assert_eq!(error, format!("top_k: shapes differ: [4, 3] in {name}, {like}"));
        }
    }
}

/// The ranks are gathered in whatever order lanes come; the results do not show it.
#[test]
fn every_schedule_gives_the_same_results() {
    let Some(soft) = soft() else { return };
    let device = device();
    for (case, k) in [
        (Case::new(&[3, 100], Fill::Special), 10),
        (Case::new(&[2, 5000], Fill::Ordinary), 50),
        (Case::new(&[2, 5000], Fill::Constant(1.0)), 100),
        (Case::new(&[1, 40_000], Fill::Mixed), 1024),
        (Case::new(&[2, 400, 3], Fill::Special).along(1), 20),
    ] {
        soft.seed(0);
        let first = run::<f16>(&case, k, &device);
        for seed in 1..=20 {
            soft.seed(seed);
            assert!(run::<f16>(&case, k, &device) == first, "{case}, schedule {seed}");
        }
    }
    soft.seed(0);
}

/// Offsets beyond 2^32 elements, and blocks that go through many rows.
#[test]
fn far_apart_and_many_rows() {
    let Some(soft) = soft() else { return };
    let device = device();
    let row = |seed: usize, elements: usize| -> Vec<f16> {
        let mut random = Random::new(seed as u64);
        (0..elements).map(|_| f16::from_f64(random.normal())).collect()
    };
    for dims in [&[3usize, 40][..], &[3, 4000], &[3, 40_000], &[3, 40, 9]] {
        let values = row(5, dims.iter().product());
        let near = Tensor::from_slice(&device, dims, &values).unwrap();
        let far = Far::new(&soft, &device, dims, &values);
        let of = |x: View<'_, f16>, dim, k| {
            let best = top_k(x, Dim::front(dim), k).unwrap();
            (best.values.to_vec().unwrap(), best.indices.to_vec().unwrap())
        };
        assert!(of(far.view(), 1, 11) == of(near.view(), 1, 11), "{dims:?}");
        if dims[1] < 100 {
            assert!(of(far.view(), 0, 2) == of(near.view(), 0, 2), "{dims:?} along dim 0");
        }
    }
    const GRID: usize = 1 << 16;
    let (rows, len) = (16 * GRID + 1, 4096);
    let chosen = [0, 1, GRID, rows - 1];
    let mut x = zeros::<f16>(&soft, &device, &[rows, len]);
    chosen.iter().for_each(|at| put(&mut x, at * len, &row(*at, len)));
    soft.only_ctas(Some(&[0, 1]));
    let best = top_k(&x, Dim::LAST, 5).unwrap();
    device.synchronize().unwrap();
    soft.only_ctas(None);
    for at in chosen {
        let got = best.indices.view().slice(Dim::front(0), at..at + 1).and_then(|part| part.to_vec()).unwrap();
        assert_eq!(got, walk(&row(at, len), 5), "row {at}");
    }
    assert_no_findings(&"rows of a block");
}

/// A row that fits in registers is read once, a longer one twice; its winners once more.
#[test]
fn how_often_a_row_is_read() {
    let Some(soft) = soft() else { return };
    let device = device();
    for (len, k, times) in [(512usize, 8, 1), (4096, 50, 1), (16_384, 50, 1), (131_072, 50, 2)] {
        let x = Case::new(&[2, len], Fill::Ordinary).logits::<f32>();
        let x = Tensor::from_slice(&device, &[2, len], &x).unwrap();
        top_k(&x, Dim::LAST, k).unwrap();
        device.synchronize().unwrap();
        let launches = soft.take_launches();
        let kernel = &launches.last().expect("a launch").kernel;
        let counters = soft.counters(kernel).expect("it was just launched");
        assert_eq!(counters.global_loads.bytes, (times * 2 * len * 4 + 2 * k * 4) as u64, "{kernel} on {len}");
        assert_eq!(counters.global_stores.bytes, 2 * k as u64 * 12, "{kernel} on {len}");
        assert_eq!(counters.local_bytes, 0, "{kernel}: local memory");
        println!(
            "{kernel} on 2 x {len}: {:.1} PTX instructions per element",
            counters.thread_instructions as f64 / (2 * len) as f64
        );
        soft.reset_counters();
    }
}
