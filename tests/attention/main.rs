//! The forward kernels of attention on the software GPU, against f64 and against a computation in the element type.

mod bias_gradient;
mod bits;
mod captured;
#[path = "../common/mod.rs"]
mod common;
mod counters;
mod errors;
mod explain;
mod general;
mod gradients;
mod hopper;
mod hopper_gradients;
mod known_bugs;
mod magnitudes;
mod naive;
mod packed;
mod partial;
mod split;
mod table;
mod weights;

use std::cell::Cell;

use common::device::{assert_no_findings, soft};
use common::random::Random;
use naive::{Answer, Problem, rounded};
use sumexp::attention::{Attention, forward};
use sumexp::mask::Align;
use sumexp::{Device, Float, Mask, Tensor, View, bf16, f16};

thread_local! {
    static PORTABLE: Device = common::gpu::portable_device();
    static HOPPER: Device = common::gpu::device();
    /// Whether this thread's tests run on the kernels of compute capability 9.0, where there are some.
    static ON_HOPPER: Cell<bool> = const { Cell::new(false) };
}

/// The device of this test: masks and biases must be where the queries are.
fn device() -> Device {
    if ON_HOPPER.get() { HOPPER.with(Device::clone) } else { PORTABLE.with(Device::clone) }
}

/// The host, and the device of this test.
fn devices() -> [Device; 2] {
    [Device::cpu(), device()]
}

fn problem<T: Float>(
    seed: u64,
    [batch, heads, key_heads, queries, keys, head, value]: [usize; 7],
    spread: f64,
) -> Problem {
    let mut random = Random::new(seed);
    let mut of = |count: usize, spread: f64| (0..count).map(|_| rounded::<T>(random.normal() * spread)).collect();
    Problem {
        q: of(batch * heads * queries * head, spread),
        k: of(batch * key_heads * keys * head, 1.0),
        v: of(batch * key_heads * keys * value, 1.0),
        scale: f64::from((1.0 / (head as f64).sqrt()) as f32),
        cap: None,
        batch,
        heads,
        key_heads,
        queries,
        keys,
        head,
        value,
    }
}

fn run<T: Float>(p: &Problem, options: &Attention) -> (Vec<f64>, Vec<f64>) {
    let device = device();
    let upload = |dims: &[usize], x: &[f64]| {
        let x: Vec<T> = x.iter().map(|x| T::from_f64(*x)).collect();
        Tensor::from_slice(&device, dims, &x).unwrap()
    };
    let q = upload(&[p.batch, p.heads, p.queries, p.head], &p.q);
    let k = upload(&[p.batch, p.key_heads, p.keys, p.head], &p.k);
    let v = upload(&[p.batch, p.key_heads, p.keys, p.value], &p.v);
    results(&q.view(), &k.view(), &v.view(), options)
}

/// The same call on the host, which runs the reference.
fn on_host<T: Float>(p: &Problem, options: &Attention) -> (Vec<f64>, Vec<f64>) {
    let upload = |dims: &[usize], x: &[f64]| {
        let x: Vec<T> = x.iter().map(|x| T::from_f64(*x)).collect();
        Tensor::from_slice(&Device::cpu(), dims, &x).unwrap()
    };
    let q = upload(&[p.batch, p.heads, p.queries, p.head], &p.q);
    let k = upload(&[p.batch, p.key_heads, p.keys, p.head], &p.k);
    let v = upload(&[p.batch, p.key_heads, p.keys, p.value], &p.v);
    let output = forward(&q, &k, &v, options).unwrap();
    let out = output.out.to_vec().unwrap().into_iter().map(|x| x.to_f64()).collect();
    (out, output.lse.to_vec().unwrap().into_iter().map(f64::from).collect())
}

/// The reference agrees with the naive computation here, so neither is wrong in the same way as the kernels.
#[test]
fn the_host_gives_the_same_up_to_rounding() {
    for (queries, keys) in PAIRS {
        let p = problem::<f32>(8, [2, 2, 1, queries, keys, 40, 24], 1.0);
        let options = Attention { mask: CAUSAL, softcap: Some(5.0), ..Attention::default() };
        let ((out, lse), (host, of_host)) = (run::<f32>(&p, &options), on_host::<f32>(&p, &options));
        assert!(largest_error(&out, &host) < 4e-6, "{queries} {keys}: {}", largest_error(&out, &host));
        assert!(largest_error(&lse, &of_host) < 1e-5, "{queries} {keys}");
    }
}

/// Nothing depends on the order in which warps run.
#[test]
fn every_schedule_gives_the_same_bits() {
    let Some(soft) = soft() else { return };
    let p = problem::<f16>(9, [1, 2, 1, 150, 200, 64, 64], 1.0);
    let many = problem::<bf16>(9, [1, 1, 1, 2, 1500, 128, 128], 1.0);
    let options = Attention { mask: CAUSAL, ..Attention::default() };
    let general = Attention { softcap: Some(3.0), ..options };
    let all = || [run::<f16>(&p, &options), run::<f16>(&p, &general), run::<bf16>(&many, &options)];
    soft.seed(0);
    let first = all();
    for seed in 1..=20 {
        soft.seed(seed);
        assert!(all() == first, "schedule {seed}");
    }
    soft.seed(0);
}

fn results<T: Float>(q: &View<T>, k: &View<T>, v: &View<T>, options: &Attention) -> (Vec<f64>, Vec<f64>) {
    let output = forward(*q, *k, *v, options).unwrap();
    let out = output.out.to_vec().unwrap().into_iter().map(|x| x.to_f64()).collect();
    let lse = output.lse.to_vec().unwrap().into_iter().map(f64::from).collect();
    assert_no_findings(&format!("{q:?} {k:?}"));
    (out, lse)
}

fn largest_error(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let error = |(got, want): (&f64, &f64)| if got == want { 0.0 } else { (got - want).abs() };
    let errors: Vec<f64> = got.iter().zip(want).map(error).collect();
    errors.iter().copied().fold(0.0, |a, b| if b.is_nan() || a.is_nan() { f64::NAN } else { a.max(b) })
}

type Visible<'a> = &'a dyn Fn(usize, usize, usize, usize) -> bool;
type Bias<'a> = &'a dyn Fn(usize, usize, usize, usize) -> f64;

/// Errors of ours and of the computation in the element type.
fn compare<T: Float>(p: &Problem, options: &Attention, visible: Visible) {
    compare_biased::<T>(p, options, visible, &|_, _, _, _| 0.0);
}

fn compare_biased<T: Float>(p: &Problem, options: &Attention, visible: Visible, bias: Bias) {
    let exact: Answer = p.solve(visible, bias, None);
    let naive = p.solve(visible, bias, Some(&rounded::<T>));
    let start = std::time::Instant::now();
    let (out, lse) = run::<T>(p, options);
    let took = start.elapsed();
    let (ours, theirs) = (largest_error(&out, &exact.out), largest_error(&naive.out, &exact.out));
    let of_lse = largest_error(&lse, &exact.lse);
    let report =
        format!("out {ours:.2e}, naive {theirs:.2e}, ratio {:.2}, lse {of_lse:.2e}, {took:.1?}", ours / theirs);
    println!(
        "{} spread {:.0e} {:?}: {report}",
        T::DTYPE,
        p.q.iter().fold(0.0, |a: f64, b| a.max(b.abs())),
        [p.batch, p.heads, p.key_heads, p.queries, p.keys, p.head, p.value]
    );
    let largest = exact.out.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
    if T::DTYPE.size() == 2 {
        assert!(ours <= theirs, "{report}");
    } else {
        assert!(ours <= 2e-6 * largest || ours <= 1.5 * theirs, "{report} of {largest}");
    }
    assert!(
        of_lse < 1e-5 * (1.0 + exact.lse.iter().filter(|x| x.is_finite()).fold(0.0, |a, b| b.abs().max(a))),
        "{report}"
    );
}

fn everything(_: usize, _: usize, _: usize, _: usize) -> bool {
    true
}

const CAUSAL: Mask = Mask::Causal(Align::BottomRight);

/// A window that ends at the last query and key.
const fn window(left: u64, right: u64) -> Mask<'static> {
    Mask::Window { left: Some(left), right: Some(right), align: Align::BottomRight }
}

const PAIRS: [(usize, usize); 8] = [(1, 1), (1, 203), (3, 65), (65, 3), (128, 64), (129, 127), (113, 257), (257, 70)];

fn of_type<T: Float>() {
    for (queries, keys) in PAIRS {
        let p = problem::<T>(1, [1, 2, 1, queries, keys, 64, 64], 1.0);
        compare::<T>(&p, &Attention::default(), &everything);
        let diagonal = keys as i64 - queries as i64;
        let causal = Attention { mask: CAUSAL, ..Attention::default() };
        compare::<T>(&p, &causal, &|_, _, i, j| j as i64 <= i as i64 + diagonal);
        let windowed = Attention { mask: window(20, 7), ..Attention::default() };
        compare::<T>(&p, &windowed, &|_, _, i, j| (-20..=7).contains(&(j as i64 - i as i64 - diagonal)));
    }
    for spread in [0.0, 1e-3, 30.0, 1000.0] {
        let mut p = problem::<T>(9, [1, 1, 1, 64, 200, 64, 64], spread);
        compare::<T>(&p, &Attention::default(), &everything);
        p.k.iter_mut().for_each(|k| *k = rounded::<T>(-k.abs()));
        p.q.iter_mut().for_each(|q| *q = rounded::<T>(q.abs()));
        p.v.iter_mut().for_each(|v| *v = rounded::<T>(*v + 3.0));
        compare::<T>(&p, &Attention::default(), &everything);
    }
}

#[test]
fn f16_bands() {
    of_type::<f16>();
}

#[test]
fn bf16_bands() {
    of_type::<bf16>();
}

#[test]
fn f32_bands() {
    of_type::<f32>();
}

fn head_sizes<T: Float>() {
    for (head, value) in [
        (1, 1),
        (8, 8),
        (20, 12),
        (32, 32),
        (40, 64),
        (80, 80),
        (96, 96),
        (128, 128),
        (192, 128),
        (192, 192),
        (200, 256),
        (256, 256),
    ] {
        for (queries, keys) in [(130, 70), (17, 140)] {
            let p = problem::<T>(3, [1, 2, 2, queries, keys, head, value], 1.0);
            let diagonal = keys as i64 - queries as i64;
            let causal = Attention { mask: CAUSAL, ..Attention::default() };
            compare::<T>(&p, &causal, &|_, _, i, j| j as i64 <= i as i64 + diagonal);
        }
    }
}

#[test]
fn f16_heads() {
    head_sizes::<f16>();
}

#[test]
fn bf16_heads() {
    head_sizes::<bf16>();
}

#[test]
fn f32_heads() {
    head_sizes::<f32>();
}
