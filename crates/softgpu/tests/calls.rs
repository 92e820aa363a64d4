//! Device functions, and what the driver supplies to kernels, as nvcc compiles them.

mod common;

use common::Machine;
use softgpu::launch::{Fault, Outcome};

const CALLS: &str = include_str!("foreign/calls_sm80.ptx");
const SEEDS: [u64; 5] = [0, 1, 2, 3, 17];

fn line(text: &str) -> String {
    let source = include_str!("foreign/calls.cu");
    let at = source.lines().position(|line| line.contains(text)).unwrap();
    format!("calls.cu:{}", at + 1)
}

/// `count` threads, one word of input and `bytes` bytes of output for each.
fn run(machine: &Machine, kernel: &str, x: &[i32], bytes: usize) -> (Outcome, Vec<u8>) {
    let (input, output) = (machine.upload(x), machine.alloc((x.len() * bytes) as u64));
    let mut params = input.to_le_bytes().to_vec();
    params.extend(output.to_le_bytes());
    let outcome = machine.run(CALLS, kernel, 1, x.len() as u32, &params);
    let mut out = vec![0; x.len() * bytes];
    machine.space.read(output, &mut out).unwrap();
    (outcome, out)
}

/// Runs it under every seed; each must give what `expected` says of thread number and input, without a report.
#[track_caller]
fn agrees(kernel: &str, x: &[i32], expected: impl Fn(usize, i32) -> i32) {
    for seed in SEEDS {
        let (outcome, out) = run(&Machine::seeded(seed), kernel, x, 4);
        assert!(
            outcome.fault.is_none() && outcome.findings.is_empty(),
            "{kernel}, seed {seed}: {:?} {:?}",
            outcome.fault,
            outcome.findings
        );
        for (i, (bytes, x)) in out.chunks(4).zip(x).enumerate() {
            let got = i32::from_le_bytes(bytes.try_into().unwrap());
            assert_eq!(got, expected(i, *x), "{kernel}, seed {seed}, thread {i}");
        }
    }
}

#[track_caller]
fn fault(kernel: &str, x: &[i32], code: u32, words: &[&str]) -> Fault {
    let (outcome, _) = run(&Machine::new(), kernel, x, 4);
    let fault = outcome.fault.unwrap_or_else(|| panic!("{kernel} ends well"));
    assert_eq!(fault.code, code, "{fault:?}");
    for word in words {
        assert!(fault.text.contains(word), "{word:?} is missing in {fault:?}");
    }
    fault
}

fn ramp(count: usize) -> Vec<i32> {
    (0..count as i32).map(|i| (i * 37 + 5) % 41).collect()
}

#[test]
fn structures_pass_by_value_both_ways() {
    let x = ramp(70);
    for seed in SEEDS {
        let (outcome, out) = run(&Machine::seeded(seed), "structures", &x, 8);
        assert!(outcome.fault.is_none() && outcome.findings.is_empty(), "{:?} {:?}", outcome.fault, outcome.findings);
        for (i, bytes) in out.chunks(8).enumerate() {
            let mut v = (x[i], 0.5 * i as f64, [1.0f64, 2.0, 3.0], i as i8);
            let mut shuffled = |by: i32| {
                v.0 += by;
                v.1 *= 2.0;
                v.2[(by & 1) as usize] += 1.0;
                v.3 = (i32::from(v.3) - by) as i8;
            };
            shuffled(i as i32);
            if i % 3 == 0 {
                shuffled(2 * i as i32);
            }
            let sum = f64::from(v.0) + v.1 + v.2[0] + 10.0 * v.2[1] + 100.0 * v.2[2] + 1000.0 * f64::from(v.3);
            assert_eq!(f64::from_le_bytes(bytes.try_into().unwrap()), sum, "seed {seed}, thread {i}");
        }
    }
}

#[test]
fn recursion_keeps_what_each_activation_holds() {
    fn fibonacci(n: i32) -> i32 {
        if n < 2 { n } else { fibonacci(n - 1) + fibonacci(n - 2) }
    }
    fn even(n: i32, trace: &mut i32) -> i32 {
        *trace += [n, 2 * n][(n & 1) as usize];
        if n == 0 { 1 } else { odd(n - 1, trace) }
    }
    fn odd(n: i32, trace: &mut i32) -> i32 {
        let mut here = n;
        let result = if n == 0 { 0 } else { even(n - 1, &mut here) };
        *trace += here + 3;
        result
    }
    // Every lane goes to another depth.
    agrees("recursion", &ramp(50), |_, x| {
        let mut trace = 0;
        let parity = even(x, &mut trace);
        fibonacci(x % 12) + 1000 * parity + 10_000 * trace
    });
}

#[test]
fn recursion_without_end_overflows_the_stack() {
    let fault = fault("overflow", &[1; 32], 714, &["stack overflow", "deeper"]);
    let place = fault.at.unwrap().place;
    let called = format!("called at {} in _Z6deeperi", line("int deeper(int n)"));
    assert!(place.contains(&called) && place.ends_with("more calls"), "{place}");
}

#[test]
fn pointers_lead_to_functions_and_lanes_part_at_them() {
    let apply = |index: i32, x: i32| match index {
        0 => x + 7,
        1 => 3 * x,
        _ => x,
    };
    agrees("indirect", &ramp(64), |i, x| {
        let v = apply(x % 3, x);
        if i % 2 == 1 { v + apply(i as i32 % 3, v) } else { v }
    });
    agrees("virtuals", &ramp(64), |i, x| if i % 4 == 1 { x * x } else { x * i as i32 });
}

#[test]
fn a_pointer_to_no_function_is_an_invalid_program_counter() {
    fault("wild", &[3; 32], 718, &["call of 0x10c0", "not the address of a device function"]);
}

/// The members of a warp-wide operation come together inside a function that they entered from two places.
#[test]
fn lanes_meet_inside_a_function_whoever_called_them() {
    let x = ramp(32);
    let sum: i32 = x.iter().map(|x| if x % 2 == 1 { *x } else { 2 * x }).sum();
    agrees("divergent", &x, |_, x| if x % 2 == 1 { sum } else { -sum });
}

#[test]
fn barriers_and_exits_work_inside_functions() {
    let x = ramp(64);
    agrees("barriers", &x, |i, _| {
        let sum = |factor: i32| (0..32).map(|k| factor * x[(i + k) % 64]).sum::<i32>();
        if i % 5 == 4 { -1 } else { sum(1) + sum(2) + 1 }
    });
}

#[test]
fn printf_formats_as_c_does() {
    let x = ramp(40);
    for seed in SEEDS {
        let (outcome, out) = run(&Machine::seeded(seed), "prints", &x, 4);
        assert!(outcome.fault.is_none() && outcome.findings.is_empty(), "{:?} {:?}", outcome.fault, outcome.findings);
        let mut lines: Vec<_> = std::str::from_utf8(&outcome.printed).unwrap().lines().collect();
        lines.sort_unstable();
        let expected = |i: usize, place: &str, letter: char| {
            let quarter = f64::from(x[i]) * 0.25;
            format!("thread {i} of 40: {place} {quarter:5.2} 1.000000e-03 2.5 {letter} -{i} abcdef0123 %")
        };
        assert_eq!(
            lines,
            [expected(1, "low", 'B'), expected(17, "high", 'R'), expected(33, "high", 'b')],
            "seed {seed}"
        );
        let counts: Vec<i32> = out.chunks(4).map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect();
        assert!(counts.iter().enumerate().all(|(i, count)| *count == if i % 16 == 1 { 9 } else { 0 }), "{counts:?}");
    }
}

#[test]
fn a_failed_assertion_says_what_hardware_says() {
    let mut x = ramp(96);
    x.retain(|x| *x != 13);
    agrees("asserts", &x, |_, x| x);
    x[40] = 13;
    let words = ["calls.cu:", "block: [0,0,0], thread: [40,0,0] Assertion `x[i] != 13` failed.", "asserts(const int *"];
    let fault = fault("asserts", &x, 710, &words);
    let at = fault.at.unwrap();
    assert!(at.place.contains(&line("assert(x[i] != 13)")), "{at}");
    assert_eq!((at.warp, at.lane), (1, 8));
}

#[test]
fn traps_end_the_launch() {
    let mut x = ramp(64);
    x[33] = 13;
    for kernel in ["traps", "breaks"] {
        let fault = fault(kernel, &x, 719, &["trap in lanes 1, 7"]);
        assert_eq!(fault.at.unwrap().lane, 1);
    }
}
