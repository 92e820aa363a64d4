//! A product of matrices as real kernels compute it: cp.async into two buffers, ldmatrix, mma. It is right and clean
//! under every schedule, costs what it should, and none of its waits and barriers can be left out unnoticed.

mod common;

use common::{Machine, cpu_seconds};
use softgpu::ir::Class;
use softgpu::launch::{Checks, Outcome};
use softgpu::num::half::{f16_from_f32, f16_to_f32};

const GEMM: &str = include_str!("ptx/gemm_sm80.ptx");
const M: usize = 128;
const N: usize = 64;
const K: usize = 96;

/// Multiples of 1/16, whose products and sums are exact.
fn element(i: usize) -> f32 {
    ((i * 7919 + i / 13) % 61) as f32 / 16.0 - 2.0
}

fn halves(n: usize, skip: usize) -> Vec<u16> {
    (0..n).map(|i| f16_from_f32(element(i + skip))).collect()
}

fn run(ptx: &str, machine: &Machine) -> (Outcome, Vec<f32>) {
    run_sized(ptx, machine, [M, N, K])
}

fn run_sized(ptx: &str, machine: &Machine, [m, n, k]: [usize; 3]) -> (Outcome, Vec<f32>) {
    let (a, b) = (machine.upload(&halves(m * k, 0)), machine.upload(&halves(k * n, 5)));
    let c = machine.alloc(4 * (m * n) as u64);
    let mut params: Vec<u8> = [a, b, c].iter().flat_map(|at| at.to_le_bytes()).collect();
    params.extend([(n as u32).to_le_bytes(), (k as u32).to_le_bytes()].concat());
    let grid = [(n / 64) as u32, (m / 64) as u32, 1];
    let outcome = machine.run_with(ptx, "gemm", grid, [128, 1, 1], 0, &params);
    (outcome, machine.floats(c, m * n))
}

fn expected() -> Vec<f32> {
    let (a, b) = (halves(M * K, 0), halves(K * N, 5));
    let product = |row: usize, column: usize| {
        (0..K).map(|k| f16_to_f32(a[row * K + k]) * f16_to_f32(b[k * N + column])).sum::<f32>()
    };
    (0..M * N).map(|i| product(i / N, i % N)).collect()
}

#[test]
fn every_schedule_gives_the_product() {
    let wanted = expected();
    for seed in 0..12 {
        let (outcome, c) = run(GEMM, &Machine::seeded(seed));
        assert_eq!((outcome.fault, outcome.findings), (None, vec![]), "seed {seed}");
        assert_eq!(c, wanted, "seed {seed}");
    }
}

/// Swizzled rows meet no bank twice; every element is fetched once for each tile that needs it.
#[test]
fn it_costs_what_it_should() {
    let (outcome, _) = run(GEMM, &Machine::new());
    let counters = &outcome.counters;
    let conflicts: Vec<String> = counters
        .lines
        .iter()
        .filter(|line| line.shared.bank_conflicts() > 0)
        .map(|line| format!("{} {}: {:?}", line.place, line.statement, line.shared))
        .collect();
    assert!(conflicts.is_empty(), "{conflicts:#?}");
    assert_eq!(counters.global_loads.bytes as usize, 2 * (M * K + M / 64 * K * N));
    assert_eq!(counters.global_loads.sectors, counters.global_loads.minimum);
    assert_eq!(counters.matrix_flops as usize, 2 * M * N * K);
    assert_eq!(counters.class(Class::Matrix).warp as usize, M / 16 * N / 8 * K / 16);
}

/// Leaves out one statement at a time: each must be reported, or change the result, under some schedule.
#[test]
fn no_wait_and_no_barrier_can_be_left_out() {
    let wanted = expected();
    let lines: Vec<&str> = GEMM.lines().collect();
    let mut removed = 0;
    for (n, line) in lines.iter().enumerate() {
        let synchronises = ["bar.sync", "cp.async.wait_group", "cp.async.commit_group"];
        if !synchronises.iter().any(|word| line.trim_start().starts_with(word)) {
            continue;
        }
        removed += 1;
        let mut text = lines.clone();
        text[n] = "";
        let text = text.join("\n");
        let noticed = (0..4).any(|seed| {
            let (outcome, c) = run(&text, &Machine::seeded(seed));
            outcome.fault.is_some() || !outcome.findings.is_empty() || c != wanted
        });
        assert!(noticed, "nothing notices that line {} is missing: {line}", n + 1);
    }
    assert!(removed >= 6, "{removed} statements were found");
}

/// What one `mma` costs with all around it (copies, loads, addresses), checks on and off: about 2.4 and 0.8 microseconds on an
/// idle machine. A loop that runs one lane at a time, or looks at every word of shared memory the slow way, costs several
/// times this; the limit is wide for busy machines.
#[test]
fn it_is_fast_enough_to_test_with() {
    let time = |checks: Checks| {
        let mut machine = Machine::new();
        machine.settings.checks = checks;
        let best = (0..3).map(|_| {
            let start = cpu_seconds();
            let (outcome, _) = run_sized(GEMM, &machine, [256, 256, 256]);
            (cpu_seconds() - start) * 1e9 / outcome.counters.class(Class::Matrix).warp as f64
        });
        best.fold(f64::INFINITY, f64::min)
    };
    let (checked, unchecked) = (time(Checks::ALL), time(Checks::NONE));
    println!("{checked:.0} ns for each mma with all checks, {unchecked:.0} without");
    assert!(checked < 40_000.0, "{checked} ns");
}
