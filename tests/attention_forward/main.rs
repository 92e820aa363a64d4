//! The forward kernels of attention on the software GPU, against f64 and against a computation in the element type.

#[path = "../common/mod.rs"]
mod common;
mod naive;

use common::device::{assert_no_findings, soft};
use common::gpu::device;
use common::random::Random;
use naive::{Answer, Problem, rounded};
use sumexp::attention::{Attention, AttentionMask, Band, forward};
use sumexp::{Float, Tensor, View, f16};

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

/// Errors of ours and of the computation in the element type.
fn compare<T: Float>(p: &Problem, options: &Attention, visible: &dyn Fn(usize, usize, usize, usize) -> bool) -> String {
    let none = |_, _, _, _| 0.0;
    let exact: Answer = p.solve(visible, &none, &|x| x);
    let naive = p.solve(visible, &none, &rounded::<T>);
    let start = std::time::Instant::now();
    let (out, lse) = run::<T>(p, options);
    let took = start.elapsed();
    let (ours, theirs) = (largest_error(&out, &exact.out), largest_error(&naive.out, &exact.out));
    let of_lse = largest_error(&lse, &exact.lse);
    let report =
        format!("out {ours:.2e}, naive {theirs:.2e}, ratio {:.2}, lse {of_lse:.2e}, {took:.1?}", ours / theirs);
    println!("{} {:?}: {report}", T::DTYPE, [p.batch, p.heads, p.key_heads, p.queries, p.keys, p.head, p.value]);
    assert!(ours <= theirs, "{report}");
    assert!(
        of_lse < 1e-5 * (1.0 + exact.lse.iter().filter(|x| x.is_finite()).fold(0.0, |a, b| b.abs().max(a))),
        "{report}"
    );
    report
}

fn everything(_: usize, _: usize, _: usize, _: usize) -> bool {
    true
}

#[test]
fn without_a_mask() {
    for (queries, keys) in [(1, 1), (128, 64), (129, 203), (3, 65)] {
        compare::<f16>(&problem::<f16>(1, [1, 2, 1, queries, keys, 64, 64], 1.0), &Attention::default(), &everything);
    }
}

#[test]
fn causal() {
    for (queries, keys) in [(113, 113), (200, 257), (257, 70)] {
        let diagonal = keys as i64 - queries as i64;
        let mask = AttentionMask { bottom_right: Band { first: i64::MIN, last: 0 }, ..AttentionMask::default() };
        let options = Attention { mask, ..Attention::default() };
        let p = problem::<f16>(2, [1, 1, 1, queries, keys, 64, 64], 1.0);
        compare::<f16>(&p, &options, &|_, _, i, j| j as i64 <= i as i64 + diagonal);
    }
}

#[test]
fn counters() {
    let Some(soft) = soft() else { return };
    run::<f16>(&problem::<f16>(1, [1, 1, 1, 128, 256, 64, 64], 1.0), &Attention::default());
    for kernel in soft.take_launches().into_iter().map(|launch| launch.kernel) {
        let counters = soft.counters(&kernel).unwrap();
        let shared = &counters.shared;
        println!(
            "{kernel}: instructions {}, shared wavefronts {} (minimum {})",
            counters.thread_instructions, shared.wavefronts, shared.minimum
        );
        println!(
            "loads {:?}, stores {:?}, local bytes {}",
            counters.global_loads, counters.global_stores, counters.local_bytes
        );
        for line in counters.lines.iter().filter(|line| line.shared.bank_conflicts() > 0) {
            println!("{line:?}");
        }
    }
}
