//! CTAs that touch the same device memory, and how they may tell each other; barriers and warp barriers that go wrong.

mod support;

use softgpu::check::{Detector, Finding};
use softgpu::launch::code;
use softgpu::ptx::Module;
use std::sync::LazyLock;
use support::{Args, Gpu, Run, load};

static GRID: LazyLock<Module> = LazyLock::new(|| load(include_str!("detectors/grid.ptx")));

const SEEDS: std::ops::Range<u64> = 0..6;

/// `grid.cu:line` of the first line behind `kernel` that contains `text`.
fn line(kernel: &str, text: &str) -> String {
    let source = include_str!("detectors/grid.cu");
    let start = source.lines().position(|l| l.contains(&format!("void {kernel}("))).unwrap();
    let at = start + 1 + source.lines().skip(start).position(|l| l.contains(text)).unwrap();
    format!("grid.cu:{at}")
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Runs a kernel whose arguments are buffers of words; returns what the last one holds.
fn run(seed: u64, kernel: &str, ctas: u32, threads: u32, buffers: &[&[u32]]) -> (Run, Vec<u32>) {
    let mut gpu = Gpu::new(seed);
    gpu.settings.step_limit = 1 << 24;
    let at: Vec<u64> = buffers.iter().map(|words| gpu.upload_bytes(&self::words(words))).collect();
    let args = at.iter().fold(Args::default(), |args, at| args.u64(*at));
    let run = gpu.launch(&GRID, kernel, ctas, threads, 0, args);
    let last = gpu.words(*at.last().unwrap(), buffers.last().unwrap().len());
    (run, last)
}

#[track_caller]
fn silent(kernel: &str, ctas: u32, threads: u32, buffers: &[&[u32]], last: &[u32]) {
    for seed in SEEDS {
        let (run, words) = run(seed, kernel, ctas, threads, buffers);
        run.assert_clean();
        assert_eq!(words, last, "{kernel}, seed {seed}");
    }
}

/// A race on device memory in every schedule, between instructions at the two lines (in either order) of different
/// CTAs, or of the same one where `apart` is false.
#[track_caller]
fn races(kernel: &str, ctas: u32, threads: u32, buffers: &[&[u32]], lines: [&str; 2], apart: bool) -> Vec<Finding> {
    let wanted = lines.map(|text| line(kernel, text));
    let check = |seed: u64| {
        let (run, _) = run(seed, kernel, ctas, threads, buffers);
        let is_race = |f: &&Finding| f.detector == Detector::GlobalRace;
        let found = run.findings.iter().find(|f| is_race(f)).unwrap_or_else(|| panic!("{kernel}: seed {seed}: none"));
        let other = found.other.as_ref().unwrap();
        let places = [&found.at.place, &other.place].map(|place| place.rsplit(' ').next().unwrap().to_string());
        assert!(
            places == wanted || places == [wanted[1].clone(), wanted[0].clone()],
            "{kernel}, seed {seed}: {wanted:?}: {found}"
        );
        assert_eq!(found.at.cta != other.cta, apart, "{found}");
        let report = found.to_string();
        assert!(report.contains("allocation") && report.contains(kernel) && report.contains("seed"), "{report}");
        assert!(found.address.is_some());
        found.clone()
    };
    SEEDS.map(check).collect()
}

#[test]
fn tiles() {
    silent("tiles_apart", 4, 32, &[&[9; 128]], &(0..128).map(|i| i / 32).collect::<Vec<_>>());
    let found = races("tiles_overlap", 4, 32, &[&[9; 129]], ["at] =", "at + 1] ="], true);
    assert!(found[0].text.contains("of CTA (0, 0, 0) wrote with nothing between that orders the two CTAs"));
    assert_eq!((found[0].at.cta, found[0].at.lane, found[0].other.as_ref().unwrap().lane), ([1, 0, 0], 0, 31));
    silent("same_value_by_all", 4, 32, &[&[0]], &[7]);
}

#[test]
fn reads_beside_writes() {
    for found in races("halo_in_place", 4, 32, &[&[1; 128]], ["int v =", "y[at] = v"], true) {
        assert!(found.text.contains("of CTA ("), "{found}");
    }
    let table: Vec<u32> = (0..32).collect();
    let sums: Vec<u32> = (0..4 * 32).map(|i| i % 32).collect();
    silent("table_for_all", 4, 32, &[&table, &[0; 128]], &sums);
}

#[test]
fn atomics() {
    silent("counter", 8, 64, &[&[0]], &[512]);
    races("counter_cleared", 3, 32, &[&[0]], ["*y = 0", "atomicAdd"], true);
}

#[test]
fn the_last_block() {
    let x: Vec<u32> = (1..=32).collect();
    silent("last_block", 8, 64, &[&x, &[0; 8], &[0], &[0]], &[36]);
    let sums: Vec<u32> = (1..=32).map(|x| 4 * x + 6).collect();
    silent("last_block_of_many", 4, 32, &[&x, &[0; 128], &[0], &[0; 32]], &sums);
    let buffers: [&[u32]; 4] = [&x, &[0; 8], &[0], &[0]];
    races("last_block_without_fence", 8, 64, &buffers, ["partial[blockIdx.x] =", "__ldcg"], true);
    races("last_block_with_narrow_fence", 8, 64, &buffers, ["partial[blockIdx.x] =", "__ldcg"], true);
}

/// Warp 0 speaks for warps that it has not met: a lane of another warp is never ordered.
#[test]
fn the_last_block_must_meet_before_one_speaks_for_all() {
    let x: Vec<u32> = (1..=64).collect();
    let buffers: [&[u32]; 4] = [&x, &[0; 256], &[0], &[0; 64]];
    for found in races("last_block_without_barrier", 4, 64, &buffers, ["partial[blockIdx.x *", "__ldcg"], true) {
        assert_eq!(found.other.unwrap().warp, 1, "what warp 0 itself wrote was fenced");
    }
}

#[test]
fn flags_between_ctas() {
    silent("hand_over", 2, 32, &[&[0], &[0; 4], &[0]], &[42]);
    silent("hand_over_twice", 3, 32, &[&[0], &[0; 4], &[0]], &[42]);
    silent("spin_lock", 8, 32, &[&[0], &[0]], &[8]);
    races("hand_over_relaxed", 2, 32, &[&[0], &[0; 4], &[0]], ["*data = 42", "*y = *data"], true);
}

#[test]
fn a_barrier_of_the_whole_grid() {
    for seed in SEEDS {
        let mut gpu = Gpu::new(seed);
        gpu.settings.step_limit = 1 << 24;
        let x = gpu.upload_bytes(&words(&(0..256u32).map(|i| i % 128).collect::<Vec<_>>()));
        let count = gpu.upload_bytes(&words(&[0]));
        let run = gpu.launch(&GRID, "rounds", 4, 32, 0, Args::default().u64(x).u64(count).i32(5));
        run.assert_clean();
        // Five rounds: five tiles further on, and five more.
        let wanted: Vec<u32> = (0..128).map(|i| (i + 5 * 32) % 128 + 5).collect();
        assert_eq!(gpu.words(x + 512, 128), wanted, "seed {seed}");
    }
}

#[test]
fn unchangeable_data() {
    let found = races("unchangeable", 2, 32, &[&[1; 32], &[0; 32]], ["__ldg", "= 5"], true);
    assert!(found[0].text.contains("as data that never change (.nc or .const)"), "{}", found[0]);
    let found = races("unchangeable_in_place", 1, 32, &[&[1; 32]], ["__ldg", "__ldg"], false);
    assert!(found[0].text.contains("as data that never change (.nc or .const)"), "{}", found[0]);
}

#[test]
fn warp_barriers_order_the_lanes_they_name() {
    for seed in SEEDS {
        for (across, races) in [(1, false), (15, false), (16, true)] {
            let gpu = Gpu::new(seed);
            let (x, y) = (gpu.upload_bytes(&words(&[3; 32])), gpu.alloc(128));
            let run = gpu.launch(&GRID, "half_warps", 1, 32, 0, Args::default().u64(x).u64(y).i32(across));
            let race = run.findings.iter().find(|f| f.detector == Detector::SharedRace);
            assert_eq!(race.is_some(), races, "seed {seed}, {across} apart: {race:?}");
            if let Some(race) = race {
                assert!(race.text.contains("with no warp barrier between"), "{race}");
                let lanes = [race.at.lane, race.other.as_ref().unwrap().lane];
                assert_eq!(lanes[0] ^ lanes[1], 16, "{race}");
            }
        }
    }
}

#[test]
fn barriers_that_go_wrong() {
    let place = |kernel: &str, text: &str| line(kernel, text);
    let (run, _) = self::run(0, "barrier_in_branch", 1, 32, &[&[0; 32]]);
    let found = &run.findings[0];
    assert_eq!((found.detector, run.fault.as_ref().unwrap().code), (Detector::BarrierDivergence, code::LAUNCH_FAILED));
    assert!(found.to_string().contains(&place("barrier_in_branch", "__syncthreads")), "{found}");
    for seed in SEEDS {
        let (run, _) = self::run(seed, "barrier_of_too_many", 1, 64, &[&[0; 64]]);
        let found = &run.findings[0];
        assert_eq!((found.detector, run.fault.as_ref().unwrap().code), (Detector::Deadlock, code::TIMEOUT));
        assert!(found.text.contains("barrier 1: 64 of 96 threads have arrived"), "{found}");
        assert!(found.at.place.contains(&place("barrier_of_too_many", "bar.sync 1, 96")), "{found}");

        let (run, _) = self::run(seed, "two_barriers_at_once", 1, 64, &[&[0; 64]]);
        let found = &run.findings[0];
        assert_eq!(found.detector, Detector::BarrierDivergence, "{found}");
        let report = found.to_string();
        assert!(report.contains(&place("two_barriers_at_once", "bar.sync 1")), "{report}");
        assert!(report.contains(&place("two_barriers_at_once", "bar.sync 2")), "{report}");

        let (run, _) = self::run(seed, "butterfly_of_seventeen", 1, 17, &[&[0; 17]]);
        let found = run.findings.iter().find(|f| f.detector == Detector::InactiveLane).unwrap();
        assert!(found.text.contains("warp 0 lane 1 reads lane 17, which has no thread"), "{found}");
        assert!(found.to_string().contains(&place("butterfly_of_seventeen", "__shfl_xor_sync")), "{found}");
    }
}

#[test]
fn undefined_padding_is_copied_in_silence() {
    for seed in SEEDS {
        let gpu = Gpu::new(seed);
        let (x, y) = (gpu.alloc(256), gpu.alloc(256));
        for i in 0..32u64 {
            gpu.space.write(x + 8 * i, &[i as u8]).unwrap();
            gpu.space.write(x + 8 * i + 4, &(i as u32 * 3).to_le_bytes()).unwrap();
        }
        gpu.launch(&GRID, "padding", 1, 32, 0, Args::default().u64(x).u64(y)).assert_clean();
        assert_eq!((gpu.bytes(y, 1), gpu.words(y + 4, 1)), (vec![31], vec![93]));
    }
}

#[test]
fn waiting_for_nobody() {
    for seed in SEEDS {
        // The device holds one block, and the second would set the flag.
        let mut gpu = Gpu::new(seed);
        gpu.settings.step_limit = 1 << 24;
        gpu.limits.units = 1;
        let at = [&[0u32][..], &[0; 4], &[0]].map(|buffer| gpu.upload_bytes(&words(buffer)));
        let args = at.iter().fold(Args::default(), |args, at| args.u64(*at));
        let wide = gpu.limits.shared_per_block;
        let run = gpu.launch(&GRID, "hand_over", 2, 32, wide, args);
        // Block 1 may come first.
        if let Some(fault) = run.fault {
            assert_eq!(fault.code, code::TIMEOUT);
            assert!(
                fault.text.contains("1 CTAs are resident, all that the device holds, and 1 wait"),
                "{}",
                fault.text
            );
        } else {
            assert_ne!(seed, 0);
        }
    }
    for seed in SEEDS {
        let (run, _) = run(seed, "waits_for_nobody", 2, 32, &[&[0], &[0]]);
        let fault = run.fault.unwrap();
        assert_eq!(fault.code, code::TIMEOUT);
        let found = run.findings.iter().find(|f| f.detector == Detector::Deadlock).unwrap();
        assert!(found.at.place.contains(&line("waits_for_nobody", "while")), "{found}");
        assert!(
            found.text.contains("polls 4 bytes at 0x") && found.text.contains("allocation 1 of 4 bytes"),
            "{found}"
        );
        assert!(found.text.contains("written before this launch"), "{found}");
    }
}
