//! Clusters, as nvcc compiles them for sm_90a: what blocks find in each other's shared memory, and that every barrier
//! between them is missed when it is not there.

mod support;

use softgpu::check::Detector;
use support::{Args, Gpu, Run, load, without};

const CLUSTER: &str = include_str!("hopper/cluster.ptx");
const SEEDS: [u64; 5] = [0, 1, 2, 3, 4];

fn normalise(text: &str, seed: u64) -> (Run, Vec<f32>) {
    let gpu = Gpu::new(seed);
    let x: Vec<f32> = (0..512).map(|i| (i % 7 + 1 + i / 256) as f32).collect();
    let (x, y) = (gpu.upload(&x), gpu.alloc(2048));
    let run = gpu.launch(&load(text), "normalise", 8, 64, 0, Args::default().u64(x).u64(y));
    (run, gpu.words(y, 512).into_iter().map(f32::from_bits).collect())
}

#[test]
fn blocks_of_a_cluster_share_their_sums() {
    for seed in SEEDS {
        let (run, y) = normalise(CLUSTER, seed);
        run.assert_clean();
        for (i, y) in y.into_iter().enumerate() {
            let value = |i: usize| (i % 7 + 1 + i / 256) as f32;
            let sum: f32 = (i / 256 * 256..i / 256 * 256 + 256).map(value).sum();
            assert_eq!(y, value(i) / sum, "seed {seed}, element {i}");
        }
    }
}

#[test]
fn pointers_reach_other_blocks() {
    for seed in SEEDS {
        let gpu = Gpu::new(seed);
        let out = gpu.alloc(4 * 32 * 8);
        let grid = ([4, 2, 1], [32, 1, 1]);
        let run = gpu.launch_grid(&load(CLUSTER), "visit", grid, 0, Args::default().u64(out));
        run.assert_clean();
        let out = gpu.words(out, 32 * 8);
        for y in 0..2usize {
            for x in 0..4usize {
                let next = (x % 2 + 2 * y + 1) % 4;
                let (nx, ny) = (x / 2 * 2 + next % 2, next / 2);
                for thread in 0..32 {
                    let wanted = 10_000 * next + 3000 + 100 * ny + 10 * nx + thread;
                    assert_eq!(out[(4 * y + x) * 32 + thread] as usize, wanted, "seed {seed}, block ({x}, {y})");
                }
            }
        }
    }
}

/// Both halves of each barrier of the cluster, and the block's own, taken away together and apart.
#[test]
fn every_missing_barrier_is_reported() {
    let mut count = 0;
    for part in ["barrier.cluster.arrive", "barrier.cluster.wait", "bar.sync"] {
        for n in 0.. {
            let Some((text, removed)) = without(CLUSTER, "normalise", part, n) else {
                assert!(n > 0, "the kernel has no {part}");
                break;
            };
            let pair = match part {
                "barrier.cluster.arrive" => without(&text, "normalise", "barrier.cluster.wait", n),
                _ => None,
            };
            for text in [Some(text), pair.map(|pair| pair.0)].into_iter().flatten() {
                count += 1;
                for seed in SEEDS {
                    let (run, _) = normalise(&text, seed);
                    let finding =
                        run.findings.first().unwrap_or_else(|| panic!("seed {seed}, without {removed}: silent"));
                    assert!(finding.at.place.contains("cluster.cu:"), "{removed}: {finding}");
                    assert!(run.fault.is_some());
                }
            }
        }
    }
    assert!(count >= 7, "only {count} variants");
}

#[test]
fn reports_name_both_blocks() {
    // The blocks do not wait until all have told their sums: some tell those that are gone.
    let (text, _) = without(CLUSTER, "normalise", "barrier.cluster.arrive", 1).unwrap();
    let (text, _) = without(&text, "normalise", "barrier.cluster.wait", 1).unwrap();
    let (run, _) = normalise(&text, 0);
    let all: String = run.findings.iter().map(ToString::to_string).collect();
    for words in ["reads byte 12 of", "all of whose threads have exited", "st.shared::cluster"] {
        assert!(all.contains(words), "{words:?} is missing in\n{all}");
    }
    // They reach others before these are known to have begun.
    let (text, _) = without(CLUSTER, "normalise", "barrier.cluster.arrive", 0).unwrap();
    let (text, _) = without(&text, "normalise", "barrier.cluster.wait", 0).unwrap();
    let (run, _) = normalise(&text, 0);
    let all: String = run.findings.iter().map(ToString::to_string).collect();
    assert!(all.contains("nothing tells that it has begun"), "{all}");
    // An arrival without a wait, and a wait without an arrival.
    let (text, _) = without(CLUSTER, "normalise", "barrier.cluster.wait", 0).unwrap();
    let (run, _) = normalise(&text, 0);
    let last = run.findings.last().unwrap();
    assert_eq!(last.detector, Detector::BarrierDivergence, "{last}");
    assert!(last.to_string().contains("have not waited since"), "{last}");
}

#[test]
fn what_order_a_relaxed_arrival_gives_is_none() {
    let at = CLUSTER.find("st.shared::cluster").unwrap();
    let text = format!("{}{}", &CLUSTER[..at], CLUSTER[at..].replacen("arrive.release", "arrive.relaxed", 1));
    let (run, _) = normalise(&text, 0);
    let all: String = run.findings.iter().map(ToString::to_string).collect();
    for words in ["race on shared memory", "of CTA (", "with nothing between that orders the two CTAs"] {
        assert!(all.contains(words), "{words:?} is missing in\n{all}");
    }
    assert!(all.contains("nothing keeps that from exiting before"), "{all}");
}

#[test]
fn a_block_that_never_comes_ends_the_launch() {
    // A block spins for ever before the first barrier.
    let start = CLUSTER.find(".entry visit(").unwrap();
    let at = start + CLUSTER[start..].find("barrier.cluster.arrive").unwrap();
    let line = CLUSTER[..at].rfind('\n').unwrap() + 1;
    let skip = "{ .reg .pred q; .reg .b32 t; mov.u32 t, %ctaid.x; setp.eq.u32 q, t, 1;\nW: @q bra W; }\n";
    let text = format!("{}{skip}{}", &CLUSTER[..line], &CLUSTER[line..]);
    let mut gpu = Gpu::new(0);
    gpu.settings.step_limit = 1 << 22;
    let out = gpu.alloc(4 * 32 * 8);
    let run = gpu.launch_grid(&load(&text), "visit", ([4, 2, 1], [32, 1, 1]), 0, Args::default().u64(out));
    assert_eq!(run.fault.unwrap().code, 702);
}

#[test]
fn another_blocks_array_ends_where_it_ends() {
    // `theirs[threadIdx.x]` one element further on.
    let at = CLUSTER.find("visit(").unwrap();
    let load_at = at + CLUSTER[at..].find("ld.u32").unwrap();
    let close = load_at + CLUSTER[load_at..].find(']').unwrap();
    let text = format!("{}+4{}", &CLUSTER[..close], &CLUSTER[close..]);
    let gpu = Gpu::new(0);
    let out = gpu.alloc(4 * 32 * 8);
    let run = gpu.launch_grid(&load(&text), "visit", ([4, 2, 1], [32, 1, 1]), 0, Args::default().u64(out));
    assert_eq!(run.findings[0].detector, Detector::SharedBounds, "{}", run.findings[0]);
    assert!(run.findings[0].to_string().contains("_ZZ5visitE3own"), "{}", run.findings[0]);
}
