//! Memory barriers and copies in bulk, as nvcc compiles them for sm_90a: what they compute, and that every instruction
//! that orders them is missed when it is not there.

mod support;

use softgpu::check::Detector;
use std::path::Path;
use support::{Args, Gpu, Run, load, without};

const RING: &str = include_str!("hopper/ring.ptx");
const SEEDS: [u64; 5] = [0, 1, 2, 3, 4];
const TILES: usize = 7;

fn ramp(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i % 61) as f32 - 30.0).collect()
}

fn bits(values: impl IntoIterator<Item = f32>) -> Vec<u32> {
    values.into_iter().map(f32::to_bits).collect()
}

/// The ring over seven tiles: what it did, and the output.
fn ring(text: &str, seed: u64) -> (Run, Vec<u32>) {
    let gpu = Gpu::new(seed);
    let (x, y) = (gpu.upload(&ramp(256 * TILES)), gpu.alloc(4 * 256 * TILES));
    let args = Args::default().u64(x).u64(y).i32(TILES as i32);
    let run = gpu.launch(&load(text), "ring", 1, 160, 0, args);
    (run, gpu.words(y, 256 * TILES))
}

#[test]
fn a_ring_of_tiles_is_clean_under_every_schedule() {
    for seed in SEEDS {
        let (run, y) = ring(RING, seed);
        run.assert_clean();
        assert_eq!(y, bits(ramp(256 * TILES).iter().map(|x| 2.0 * x)), "seed {seed}");
        assert_eq!(run.counters.global_loads.bytes, 4 * 256 * TILES as u64, "each element is loaded once");
        assert_eq!(run.counters.global_stores.sectors, run.counters.global_stores.minimum);
    }
}

/// Every instruction that orders the ring, taken away by itself, is reported under every schedule, with a line.
#[test]
fn every_missing_wait_fence_and_arrival_of_the_ring_is_reported() {
    let mut count = 0;
    for part in [
        "fence.mbarrier_init",
        "mbarrier.init",
        "mbarrier.arrive",
        "mbarrier.try_wait",
        "bar.warp.sync",
        "bar.sync",
        "fence.proxy.async",
        "cp.async.bulk.commit_group",
        "cp.async.bulk.wait_group",
    ] {
        for n in 0.. {
            let Some((text, removed)) = without(RING, "ring", part, n) else {
                assert!(n > 0, "the kernel has no {part}");
                break;
            };
            count += 1;
            for seed in SEEDS {
                let (run, _) = ring(&text, seed);
                let finding = run.findings.first().unwrap_or_else(|| panic!("seed {seed}, without {removed}: silent"));
                assert!(finding.at.place.contains("ring.cu:"), "{removed}: {finding}");
                assert!(run.fault.is_some());
            }
        }
    }
    assert!(count >= 12, "only {count} instructions were taken away");
}

#[test]
fn the_wrong_phase_is_reported() {
    // The consumers wait for the phase that was over before the first began.
    let at = RING.find("ring(").unwrap();
    let waits: Vec<usize> = RING[at..].match_indices("mbarrier.try_wait").map(|(found, _)| at + found).collect();
    for wait in &waits[..2] {
        let end = wait + RING[*wait..].find(';').unwrap();
        let parity = RING[..end].rfind(", ").unwrap() + 2;
        let register = &RING[parity..end];
        let line = RING[..*wait].rfind("{ .reg .pred p;").unwrap();
        let text = format!("{}xor.b32 {register}, {register}, 1;\n{}", &RING[..line], &RING[line..]);
        for seed in SEEDS {
            let (run, _) = ring(&text, seed);
            assert!(run.fault.is_some(), "seed {seed}: the phase of {register} is wrong and nobody notices");
            assert!(!run.findings.is_empty());
        }
    }
}

#[test]
fn reports_name_both_sides() {
    let (text, _) = without(RING, "ring", "mbarrier.try_wait", 0).unwrap();
    let (run, _) = ring(&text, 0);
    let report = run.findings[0].to_string();
    for part in ["unfinished asynchronous copy", "ld.shared", "cp.async.bulk", "byte 0 of", "ring.cu:", "warp 0 lane 0"]
    {
        assert!(report.contains(part), "{part:?} is missing in\n{report}");
    }
    let (text, _) = without(RING, "ring", "fence.proxy.async", 0).unwrap();
    let (run, _) = ring(&text, 0);
    assert_eq!(run.findings[0].detector, Detector::ProxyFence, "{}", run.findings[0]);
    let report = run.findings[0].to_string();
    for part in ["missing proxy fence", "st.shared", "cp.async.bulk.global", "no fence.proxy.async between"] {
        assert!(report.contains(part), "{part:?} is missing in\n{report}");
    }
}

#[test]
fn reductions_in_bulk_add_to_what_is_there() {
    for seed in SEEDS {
        let gpu = Gpu::new(seed);
        let (x, y, z) = (gpu.upload(&ramp(64)), gpu.upload(&[1.0; 64]), gpu.upload(&[0.0; 2]));
        let args = Args::default().u64(x).u64(y).u64(z);
        let run = gpu.launch(&load(RING), "sum", 1, 64, 0, args);
        run.assert_clean();
        assert_eq!(gpu.words(y, 64), bits(ramp(64).iter().map(|x| x + 1.0)));
        assert_eq!(gpu.words(z, 2), bits([ramp(64)[0] + 1.0, ramp(64)[63] + 1.0]));
    }
    // Waiting until the source was read is not waiting for the sums.
    for seed in SEEDS {
        let gpu = Gpu::new(seed);
        let (x, y, z) = (gpu.upload(&ramp(64)), gpu.upload(&[1.0; 64]), gpu.upload(&[0.0; 2]));
        let text = RING.replace("cp.async.bulk.wait_group 0", "cp.async.bulk.wait_group.read 0");
        let run = gpu.launch(&load(&text), "sum", 1, 64, 0, Args::default().u64(x).u64(y).u64(z));
        let report = run.findings[0].to_string();
        assert!(report.contains("has not waited for") && report.contains("ld.global"), "{report}");
    }
    // Sums on bytes that nobody wrote.
    let gpu = Gpu::new(0);
    let (x, y, z) = (gpu.upload(&ramp(64)), gpu.alloc(256), gpu.upload(&[0.0; 2]));
    let run = gpu.launch(&load(RING), "sum", 1, 64, 0, Args::default().u64(x).u64(y).u64(z));
    assert_eq!(run.findings[0].detector, Detector::Uninitialised, "{}", run.findings[0]);
}

#[test]
fn committed_ptx_is_what_nvcc_gives() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hopper");
    let local = folder.ancestors().map(|at| at.join(".cuda/nvidia/cu13/bin/nvcc")).find(|nvcc| nvcc.exists());
    let nvcc = std::env::var_os("NVCC").map(Into::into).or(local).unwrap_or_else(|| "nvcc".into());
    let version = std::process::Command::new(&nvcc).arg("--version").output();
    if !version.is_ok_and(|version| String::from_utf8_lossy(&version.stdout).contains("V13.0.88")) {
        eprintln!("no nvcc 13.0.88 here: the committed PTX is not compared");
        return;
    }
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hopper-ptx");
    std::fs::create_dir_all(&out).unwrap();
    let script = std::process::Command::new(folder.join("generate.sh")).arg("-o").arg(&out).env("NVCC", nvcc).status();
    assert!(script.is_ok_and(|status| status.success()));
    for file in std::fs::read_dir(&out).unwrap() {
        let file = file.unwrap().path();
        let committed = std::fs::read_to_string(folder.join(file.file_name().unwrap())).unwrap_or_default();
        assert!(committed == std::fs::read_to_string(&file).unwrap(), "{file:?} differs: run tests/hopper/generate.sh");
    }
}
