//! A warp softmax and a block softmax, as nvcc compiles them for two architectures, against float64.

mod common;

use common::Machine;
use softgpu::launch::Outcome;

const IMAGES: [(&str, &str); 2] =
    [("sm_80", include_str!("ptx/softmax_sm80.ptx")), ("sm_90a", include_str!("ptx/softmax_sm90a.ptx"))];
const SCALE: f32 = 0.75;

/// Values of mixed size, with an outlier in every row: a kernel that writes zeros, uniform values or its input fails.
fn input(rows: usize, length: usize) -> Vec<f32> {
    let mut state = 12345u32;
    let mut x: Vec<f32> = (0..rows * length)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 20) as f32 - 8.0
        })
        .collect();
    for row in 0..rows {
        x[row * length + row * 7 % length] += 6.0;
    }
    x
}

fn expected(x: &[f32], length: usize) -> Vec<f64> {
    let mut y = Vec::with_capacity(x.len());
    for row in x.chunks(length) {
        let max = row.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
        let e: Vec<f64> = row.iter().map(|v| ((f64::from(*v) - f64::from(max)) * f64::from(SCALE)).exp()).collect();
        let sum: f64 = e.iter().sum();
        y.extend(e.iter().map(|v| v / sum));
    }
    y
}

/// `struct Params { const float* x; float* y; uint64_t rows; uint32_t length; float scale; }`
fn params(x: u64, y: u64, rows: usize, length: usize) -> Vec<u8> {
    let mut p = Vec::new();
    p.extend(x.to_le_bytes());
    p.extend(y.to_le_bytes());
    p.extend((rows as u64).to_le_bytes());
    p.extend((length as u32).to_le_bytes());
    p.extend(SCALE.to_le_bytes());
    p
}

struct Run {
    outcome: Outcome,
    y: Vec<f32>,
}

fn run(machine: &Machine, ptx: &str, kernel: &str, block: u32, x: &[f32], length: usize) -> Run {
    let rows = x.len() / length;
    let (input, output) = (machine.upload(x), machine.alloc(x.len() as u64 * 4));
    let grid = if kernel == "warp_rows" { rows.div_ceil(block as usize / 32) } else { rows };
    let outcome = machine.run(ptx, kernel, grid as u32, block, &params(input, output, rows, length));
    Run { y: machine.floats(output, x.len()), outcome }
}

const CASES: [(&str, u32, usize, usize); 8] = [
    ("warp_rows", 128, 10, 32),
    ("warp_rows", 128, 5, 1),
    ("warp_rows", 64, 3, 77),
    ("warp_rows", 32, 2, 1000),
    ("block_rows", 128, 3, 128),
    ("block_rows", 256, 2, 1000),
    ("block_rows", 1024, 1, 5000),
    ("block_rows", 64, 2, 3),
];

#[test]
fn values_agree_with_float64_on_both_architectures() {
    for (kernel, block, rows, length) in CASES {
        let x = input(rows, length);
        let expected = expected(&x, length);
        for (arch, ptx) in IMAGES {
            let machine = Machine::new();
            let Run { outcome, y } = run(&machine, ptx, kernel, block, &x, length);
            assert_eq!(outcome.fault, None, "{kernel} {arch} {rows}x{length}");
            for (i, (got, want)) in y.iter().zip(&expected).enumerate() {
                let error = (f64::from(*got) - want).abs() / want;
                assert!(error < 1e-6, "{kernel} {arch} {rows}x{length} at {i}: {got} against {want}");
            }
        }
    }
}

#[test]
fn every_schedule_and_both_builds_give_the_same_bits() {
    for (kernel, block, rows, length) in CASES {
        let x = input(rows, length);
        let plain = run(&Machine::new(), IMAGES[0].1, kernel, block, &x, length);
        let bits = |y: &[f32]| y.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        for seed in 1..20 {
            let mut machine = Machine::seeded(seed);
            machine.settings.wide = seed % 4 != 0;
            let other = run(&machine, IMAGES[0].1, kernel, block, &x, length);
            assert_eq!(other.outcome.fault, None, "{kernel} {rows}x{length} seed {seed}");
            assert!(bits(&plain.y) == bits(&other.y), "{kernel} {rows}x{length} seed {seed}: other bits");
        }
    }
}

/// The same launch twice: equal counters. A longer row: more instructions.
#[test]
fn counters_depend_on_program_and_input_alone() {
    let x = input(4, 256);
    let once = run(&Machine::new(), IMAGES[0].1, "block_rows", 128, &x, 256);
    let twice = run(&Machine::new(), IMAGES[0].1, "block_rows", 128, &x, 256);
    assert_eq!(once.outcome.counters, twice.outcome.counters);
    let longer = run(&Machine::new(), IMAGES[0].1, "block_rows", 128, &input(4, 512), 512);
    assert!(longer.outcome.counters.warp_instructions > once.outcome.counters.warp_instructions);
    assert!(once.outcome.counters.thread_instructions <= 32 * once.outcome.counters.warp_instructions);
}

/// A row length one too large reads past the allocation: the report names the line of the CUDA source.
#[test]
fn a_bound_off_by_one_names_the_line() {
    let machine = Machine::new();
    let x = input(1, 64);
    let (input, output) = (machine.upload(&x), machine.alloc(65 * 4));
    let outcome = machine.run(IMAGES[0].1, "block_rows", 1, 32, &params(input, output, 1, 65));
    let fault = outcome.fault.unwrap();
    assert_eq!(fault.code, softgpu::launch::code::ILLEGAL_ADDRESS);
    assert_eq!(fault.at.unwrap().place, "softmax.cu:44");
}

/// Every `bar.sync` of the block softmax removed in turn: a race, under the plain schedule.
#[test]
fn a_removed_barrier_is_reported() {
    let (_, ptx) = IMAGES[0];
    let barriers: Vec<usize> = ptx.match_indices("bar.sync \t0;").map(|(at, _)| at).collect();
    assert_eq!(barriers.len(), 2);
    for at in barriers {
        let mut mutant = ptx.to_string();
        mutant.replace_range(at..at + "bar.sync \t0;".len(), "");
        let found = run(&Machine::new(), &mutant, "block_rows", 128, &input(1, 500), 500).outcome;
        assert!(!found.findings.is_empty(), "barrier at byte {at}");
    }
}
