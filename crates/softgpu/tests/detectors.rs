//! The checks on whole kernels: six mistakes with their repaired twins, and correct code that must not be reported.
//!
//! Each kernel runs under several schedules. A check judges by barriers and not by what one schedule happened to show,
//! so every schedule must give the same verdict.

mod support;

use softgpu::check::{Detector, Finding};
use softgpu::ptx::Module;
use std::sync::LazyLock;
use support::{Gpu, load};

static BUGS: LazyLock<Module> = LazyLock::new(|| load(include_str!("detectors/bugs.ptx")));
static LEGAL: LazyLock<Module> = LazyLock::new(|| load(include_str!("detectors/legal.ptx")));

const SEEDS: [u64; 4] = [0, 1, 2, 3];

fn ramp(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i % 13) as f32 - 5.5).collect()
}

/// The line of a source file, from 1, that contains `text` for the first time behind `kernel`.
fn line(source: &str, kernel: &str, text: &str) -> usize {
    let start = source.lines().position(|l| l.contains(&format!("void {kernel}("))).unwrap();
    start + 1 + source.lines().skip(start).position(|l| l.contains(text)).unwrap()
}

fn in_bugs(kernel: &str, text: &str) -> String {
    format!("bugs.cu:{}", line(include_str!("detectors/bugs.cu"), kernel, text))
}

fn in_legal(kernel: &str, text: &str) -> String {
    format!("legal.cu:{}", line(include_str!("detectors/legal.cu"), kernel, text))
}

/// The one finding of a detector in a run, and its report.
#[track_caller]
fn only(findings: &[Finding], detector: Detector) -> (&Finding, String) {
    let found: Vec<&Finding> = findings.iter().filter(|f| f.detector == detector).collect();
    assert!(!found.is_empty(), "no {detector:?} among {findings:#?}");
    (found[0], found[0].to_string())
}

#[track_caller]
fn says(report: &str, parts: &[&str]) {
    for part in parts {
        assert!(report.contains(part), "{part:?} is missing in\n{report}");
    }
}

/// Runs a kernel that takes x and y and perhaps integers; every element of y is written if the kernel is correct.
fn run(module: &Module, kernel: &str, seed: u64, threads: u32, x: &[f32], y: usize, more: &[i32]) -> support::Run {
    let gpu = Gpu::new(seed);
    let (x, y) = (gpu.upload(x), gpu.alloc(4 * y));
    let mut args = support::Args::default().u64(x).u64(y);
    for value in more {
        args = args.i32(*value);
    }
    gpu.launch(module, kernel, 1, threads, 0, args)
}

#[track_caller]
fn silent(module: &Module, kernel: &str, threads: u32, x: &[f32], y: usize, more: &[i32]) {
    for seed in SEEDS {
        let run = run(module, kernel, seed, threads, x, y, more);
        run.assert_clean();
    }
}

#[test]
fn pattern_1_reduction_slots_reused_in_a_loop() {
    support::assert_has(&BUGS, "reduction_reused", "ld.shared");
    for seed in SEEDS {
        let run = run(&BUGS, "reduction_reused", seed, 128, &ramp(512), 512, &[4]);
        let (finding, report) = only(&run.findings, Detector::SharedRace);
        says(&report, &["race on shared memory", "reduction_reused at bugs.cu:", "slot", "with no barrier between"]);
        says(&report, &["st.shared", "ld.shared", &format!("seed {seed}"), "CTA (0, 0, 0)"]);
        says(&finding.at.place, &[&in_bugs("reduction_reused", "block_sum")]);
        let other = finding.other.as_ref().unwrap();
        assert_ne!(finding.at.warp, other.warp);
        assert!(finding.address.unwrap() < 16, "one of four slots");
        assert_eq!(run.fault.unwrap().code, 719);
    }
    silent(&BUGS, "reduction_alternating", 128, &ramp(512), 512, &[4]);
}

#[test]
fn pattern_2_cleared_while_filled() {
    support::assert_has(&BUGS, "cleared_while_filled", "st.shared");
    for seed in SEEDS {
        let run = run(&BUGS, "cleared_while_filled", seed, 128, &ramp(128), 128, &[]);
        let (finding, report) = only(&run.findings, Detector::SharedRace);
        says(&report, &["writes byte", "wrote with no barrier between", &in_bugs("cleared_while_filled", "= 0.0f")]);
        says(&report, &[&in_bugs("cleared_while_filled", "= v")]);
        let other = finding.other.as_ref().unwrap();
        assert_eq!(finding.at.warp.min(other.warp), 0, "warp 0 clears");
        assert_ne!(finding.at.warp, other.warp);
    }
    silent(&BUGS, "cleared_then_filled", 128, &ramp(128), 128, &[]);
}

#[test]
fn pattern_3_tail_loop_with_step_one() {
    for seed in SEEDS {
        let gpu = Gpu::new(seed);
        let g = gpu.upload(&ramp(100));
        let run = gpu.launch(&BUGS, "tail_step_one", 1, 32, 0, support::Args::default().u64(g).i32(96).i32(100));
        let (finding, report) = only(&run.findings, Detector::GlobalRace);
        says(&report, &["race on global memory", "warp 0 lane", "with no warp barrier between", "allocation 1 of 400"]);
        says(&report, &[&in_bugs("tail_step_one", "++i")]);
        let address = finding.address.unwrap();
        assert!((g + 4 * 96..g + 400).contains(&address));
        let other = finding.other.as_ref().unwrap();
        assert_eq!((finding.at.warp, other.warp), (0, 0), "two lanes of one warp");
        assert_ne!(finding.at.lane, other.lane);
        let args = support::Args::default().u64(g).i32(96).i32(100);
        gpu.launch(&BUGS, "tail_step_block", 1, 32, 0, args).assert_clean();
    }
}

#[test]
fn pattern_4_slots_overrun_alone_and_into_a_neighbour() {
    support::assert_has(&BUGS, "slots_overrun", "ld.shared");
    for (kernel, shown) in [("slots_overrun", "slot[lane]"), ("slots_overrun_into_neighbour", "slot[lane] + row")] {
        for seed in SEEDS {
            let run = run(&BUGS, kernel, seed, 256, &ramp(256), 256, &[]);
            let (finding, report) = only(&run.findings, Detector::SharedBounds);
            says(&report, &["load of 4 bytes, 0 past the end of", "slot (32 bytes)", "lanes 8-31 of the warp"]);
            says(&report, &[&in_bugs(kernel, shown)]);
            assert_eq!(finding.at.lane, 8);
        }
    }
    silent(&BUGS, "slots_guarded", 256, &ramp(256), 256, &[]);
}

#[test]
fn pattern_5_butterfly_over_missing_lanes() {
    support::assert_has(&BUGS, "butterfly", "shfl.sync.bfly");
    for seed in SEEDS {
        let run = run(&BUGS, "butterfly", seed, 16, &ramp(16), 16, &[]);
        let (finding, report) = only(&run.findings, Detector::InactiveLane);
        says(&report, &["warp 0 lane 0 reads lane 16, which has no thread", "member mask 0xffffffff", "lanes 0-15"]);
        says(&report, &["shfl.sync.bfly", "inlined at bugs.cu:"]);
        assert_eq!(finding.at.lane, 0);
    }
    silent(&BUGS, "butterfly", 32, &ramp(32), 32, &[]);
    silent(&BUGS, "butterfly_padded", 32, &ramp(16), 16, &[16]);
}

#[test]
fn pattern_6_tile_read_beyond_what_was_filled() {
    support::assert_has(&BUGS, "tile_unfilled", "ld.shared");
    for seed in SEEDS {
        let run = run(&BUGS, "tile_unfilled", seed, 128, &ramp(128), 128, &[100]);
        let (finding, report) = only(&run.findings, Detector::Uninitialised);
        says(&report, &["uninitialised read", "shared memory that no thread wrote", "tile", "lanes 4-31 of the warp"]);
        says(&report, &["byte 400 of", &in_bugs("tile_unfilled", "= tile[")]);
        assert_eq!((finding.at.warp, finding.at.lane, finding.address), (3, 4, Some(400)));
    }
    silent(&BUGS, "tile_filled", 128, &ramp(128), 128, &[100]);
}

#[test]
fn two_reductions_with_two_arrays_are_silent() {
    silent(&BUGS, "two_reductions", 128, &ramp(512), 512, &[4]);
    silent(&BUGS, "two_reductions", 1024, &ramp(3072), 3072, &[3]);
}

#[test]
fn same_values_do_not_race_and_others_do() {
    for seed in SEEDS {
        let gpu = Gpu::new(seed);
        let y = gpu.alloc(4 * 64);
        gpu.launch(&LEGAL, "same_value", 1, 64, 0, support::Args::default().u64(y)).assert_clean();
        assert_eq!(gpu.words(y, 64), [7; 64]);
        let run = gpu.launch(&LEGAL, "other_value", 1, 64, 0, support::Args::default().u64(y));
        let (_, report) = only(&run.findings, Detector::SharedRace);
        says(&report, &["flag", &in_legal("other_value", "flag = threadIdx")]);
    }
}

#[test]
fn bytes_of_one_word_are_apart() {
    for seed in SEEDS {
        let gpu = Gpu::new(seed);
        let x: Vec<u8> = (0..=255).collect();
        let (x, y) = (gpu.upload_bytes(&x), gpu.alloc(256));
        let args = || support::Args::default().u64(x).u64(y);
        gpu.launch(&LEGAL, "bytes_of_a_word", 1, 256, 0, args()).assert_clean();
        assert_eq!(gpu.bytes(y, 2), [255, 254]);
        let run = gpu.launch(&LEGAL, "bytes_without_barrier", 1, 256, 0, args());
        only(&run.findings, Detector::SharedRace);
    }
}

#[test]
fn named_barriers_pass_a_tile_back_and_forth() {
    silent(&LEGAL, "producer_consumer", 64, &ramp(128), 128, &[4]);
    for seed in SEEDS {
        let run = run(&LEGAL, "producer_too_early", seed, 64, &ramp(128), 128, &[4]);
        if run.fault.as_ref().is_some_and(|fault| fault.text.contains("barrier 1 for 64 threads has")) {
            // This schedule let the producer arrive twice before the consumer came: an error of its own.
            continue;
        }
        let (_, report) = only(&run.findings, Detector::SharedRace);
        says(&report, &["tile", &in_legal("producer_too_early", "tile[lane] = x")]);
    }
}

#[test]
fn warps_that_left_are_ordered_before_later_barriers() {
    silent(&LEGAL, "early_exit", 128, &ramp(128), 64, &[]);
}

#[test]
fn redundant_barriers_are_silent() {
    silent(&LEGAL, "redundant_barrier", 128, &ramp(128), 128, &[]);
}

#[test]
fn lockstep_orders_nothing() {
    silent(&LEGAL, "neighbours", 32, &ramp(32), 32, &[]);
    for seed in SEEDS {
        let run = run(&LEGAL, "neighbours_in_lockstep", seed, 32, &ramp(32), 32, &[]);
        let (_, report) = only(&run.findings, Detector::SharedRace);
        says(&report, &["with no warp barrier between", &in_legal("neighbours_in_lockstep", "tile[threadIdx.x ^ 1]")]);
    }
}

#[test]
fn the_last_block_may_read_what_fences_published() {
    for seed in SEEDS {
        let gpu = Gpu::new(seed);
        let (x, partial, counter, y) = (gpu.upload(&ramp(8)), gpu.alloc(32), gpu.upload(&[0.0]), gpu.alloc(4));
        let args = support::Args::default().u64(x).u64(partial).u64(counter).u64(y);
        gpu.launch(&LEGAL, "last_block", 8, 64, 0, args).assert_clean();
        assert_eq!(gpu.words(y, 1), [ramp(8).iter().sum::<f32>().to_bits()]);
    }
}

#[test]
fn a_flag_orders_only_with_fences() {
    for seed in SEEDS {
        let gpu = Gpu::new(seed);
        let buffers = || (gpu.upload(&[2.5]), gpu.alloc(4), gpu.alloc(4), gpu.upload(&[0.0]));
        let (x, data, y, flag) = buffers();
        let args = support::Args::default().u64(x).u64(data).u64(y).u64(flag);
        gpu.launch(&LEGAL, "flag_with_fences", 1, 64, 0, args).assert_clean();
        assert_eq!(gpu.words(y, 1), [2.5f32.to_bits()]);
        let (x, data, y, flag) = buffers();
        let args = support::Args::default().u64(x).u64(data).u64(y).u64(flag);
        let run = gpu.launch(&LEGAL, "flag_without_fences", 1, 64, 0, args);
        let (_, report) = only(&run.findings, Detector::GlobalRace);
        says(&report, &["with no barrier between", &in_legal("flag_without_fences", "*y = ")]);
    }
}

#[test]
fn a_full_mask_may_name_lanes_that_left() {
    silent(&LEGAL, "exited_but_unread", 32, &ramp(20), 20, &[20]);
    for seed in SEEDS {
        let run = run(&LEGAL, "exited_and_read", seed, 32, &ramp(20), 20, &[20]);
        let (_, report) = only(&run.findings, Detector::InactiveLane);
        says(&report, &["lane 4 reads lane 20, which has exited", "the same holds for lanes 4-7, 12-15"]);
    }
}

#[test]
fn atomics_are_ordered_among_themselves_alone() {
    for seed in SEEDS {
        let gpu = Gpu::new(seed);
        let x: Vec<u8> = (0..128u32).flat_map(|i| (i * 5).to_le_bytes()).collect();
        let (x, y) = (gpu.upload_bytes(&x), gpu.alloc(32));
        let args = || support::Args::default().u64(x).u64(y);
        gpu.launch(&LEGAL, "histogram", 1, 128, 0, args()).assert_clean();
        assert_eq!(gpu.words(y, 8), [16; 8]);
        let run = gpu.launch(&LEGAL, "histogram_uncleared", 1, 128, 0, args());
        let (_, report) = only(&run.findings, Detector::SharedRace);
        says(&report, &["bins", "atom"]);
    }
}
