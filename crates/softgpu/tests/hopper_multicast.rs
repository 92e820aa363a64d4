//! What blocks of a cluster send each other: copies to several blocks, arrivals at other blocks' memory barriers, stores
//! and copies that such a barrier completes; and that whatever orders them is missed when it is not there.

mod support;

use softgpu::check::Detector;
use softgpu::driver::tensor::{Tiled, encode};
use softgpu::launch::Checks;
use support::{Args, Gpu, Run, load, without};

const CLUSTER: &str = include_str!("hopper/cluster.ptx");
const SEEDS: [u64; 5] = [0, 1, 2, 3, 4];
const TILES: usize = 7;

fn value(i: usize) -> f32 {
    (i % 61) as f32 - 30.0
}

/// Tiles by way of two blocks: what that did, and the output.
fn relay(text: &str, seed: u64) -> (Run, Vec<f32>) {
    relay_on(&Gpu::new(seed), text)
}

fn relay_on(gpu: &Gpu, text: &str) -> (Run, Vec<f32>) {
    let x: Vec<f32> = (0..256 * TILES).map(value).collect();
    let (x, y) = (gpu.upload(&x), gpu.alloc(4 * 256 * TILES));
    let args = Args::default().u64(x).u64(y).i32(TILES as i32);
    let run = gpu.launch(&load(text), "relay", 2, 96, 0, args);
    (run, gpu.words(y, 256 * TILES).into_iter().map(f32::from_bits).collect())
}

#[test]
fn tiles_come_to_both_blocks() {
    for seed in SEEDS {
        let (run, y) = relay(CLUSTER, seed);
        run.assert_clean();
        for (i, y) in y.into_iter().enumerate() {
            let other = if i % 128 < 64 { value(i ^ 128) } else { 0.0 };
            assert_eq!(y, 2.0 * value(i) + other, "seed {seed}, element {i}");
        }
        assert_eq!(run.counters.global_loads.bytes, 4 * 256 * TILES as u64, "what goes to both is loaded once");
    }
}

#[test]
fn tiles_come_without_checks_too() {
    let (_, wanted) = relay(CLUSTER, 0);
    for seed in SEEDS {
        let mut gpu = Gpu::new(seed);
        gpu.settings.checks = Checks::NONE;
        let (run, y) = relay_on(&gpu, CLUSTER);
        run.assert_clean();
        assert_eq!(y, wanted, "seed {seed}");
    }
}

#[test]
fn every_missing_wait_fence_and_arrival_of_the_relay_is_reported() {
    let mut count = 0;
    for part in [
        "fence.mbarrier_init",
        "mbarrier.init",
        "mbarrier.arrive.expect_tx",
        "mbarrier.arrive.release.cluster",
        "mbarrier.try_wait",
        "bar.warp.sync",
        "barrier.cluster.arrive",
        "barrier.cluster.wait",
    ] {
        for n in 0.. {
            let Some((text, removed)) = without(CLUSTER, "relay", part, n) else {
                assert!(n > 0, "the kernel has no {part}");
                break;
            };
            let pair = match part {
                "barrier.cluster.arrive" => without(&text, "relay", "barrier.cluster.wait", n),
                _ => None,
            };
            for text in [Some(text), pair.map(|pair| pair.0)].into_iter().flatten() {
                count += 1;
                for seed in SEEDS {
                    let (run, _) = relay(&text, seed);
                    let finding =
                        run.findings.first().unwrap_or_else(|| panic!("seed {seed}, without {removed}: silent"));
                    assert!(finding.at.place.contains("cluster.cu:"), "{removed}: {finding}");
                    assert!(run.fault.is_some());
                }
            }
        }
    }
    assert!(count >= 14, "only {count} variants");
}

#[test]
fn words_and_pages_are_sent() {
    for seed in SEEDS {
        let gpu = Gpu::new(seed);
        let (words, pages) = (gpu.alloc(4 * 16), gpu.alloc(4 * 256));
        let args = || Args::default().u64(words).u64(pages);
        gpu.launch(&load(CLUSTER), "send", 4, 64, 0, args()).assert_clean();
        for (i, word) in gpu.words(words, 16).into_iter().enumerate() {
            assert_eq!(word as usize, (i / 4 + 3) % 4 + 10 * (i % 4), "seed {seed}");
        }
        for (i, page) in gpu.words(pages, 256).into_iter().enumerate() {
            assert_eq!(f32::from_bits(page), (100 * ((i / 64 + 1) % 4) + i % 64) as f32, "seed {seed}");
        }
        for part in ["mbarrier.try_wait", "fence.proxy.async", "mbarrier.arrive.expect_tx", "barrier.cluster.wait"] {
            let (text, _) = without(CLUSTER, "send", part, 0).unwrap();
            let run = gpu.launch(&load(&text), "send", 4, 64, 0, args());
            assert!(!run.findings.is_empty(), "seed {seed}, without {part}: silent");
        }
    }
}

#[test]
fn what_is_sent_must_not_change_before_it_has_come() {
    let at = CLUSTER.find("st.async").unwrap();
    let end = at + CLUSTER[at..].find("cp.async.bulk").unwrap();
    let line = end + CLUSTER[end..].find('\n').unwrap() + 1;
    let text = format!("{}st.shared.b32 [_ZZ4sendE4page], 0;\n{}", &CLUSTER[..line], &CLUSTER[line..]);
    let gpu = Gpu::new(0);
    let (words, pages) = (gpu.alloc(4 * 16), gpu.alloc(4 * 256));
    let run = gpu.launch(&load(&text), "send", 4, 64, 0, Args::default().u64(words).u64(pages));
    let finding = run.findings.iter().find(|finding| finding.detector == Detector::AsyncCopy).unwrap().to_string();
    assert!(finding.contains("from which warp 0 lane 0 copies asynchronously"), "{finding}");
}

#[test]
fn boxes_come_to_the_blocks_that_are_named() {
    for (seed, ranks) in [(0, 0b1111), (1, 0b0101), (2, 0b1000)] {
        let gpu = Gpu::new(seed);
        let data: Vec<f32> = (0..256).map(|i| i as f32).collect();
        let tiled = Tiled {
            kind: 7,
            address: gpu.upload(&data),
            sizes: vec![16, 16],
            strides: vec![64],
            extent: vec![16, 4],
            steps: vec![1, 1],
            ..Tiled::default()
        };
        let map: Vec<u8> = encode(&tiled).unwrap().iter().flat_map(|word| word.to_le_bytes()).collect();
        let out = gpu.upload(&[-1.0; 256]);
        let args = |ranks| Args::default().bytes(&map, 128).u64(out).i32(ranks);
        gpu.launch(&load(CLUSTER), "box", 4, 32, 0, args(ranks)).assert_clean();
        for (i, word) in gpu.words(out, 256).into_iter().enumerate() {
            let wanted = if ranks >> (i / 64) & 1 != 0 { (16 + i % 64) as f32 } else { -1.0 };
            assert_eq!(f32::from_bits(word), wanted, "ranks {ranks:#b}, word {i}");
        }
        let run = gpu.launch(&load(CLUSTER), "box", 4, 32, 0, args(ranks | 16));
        assert!(run.fault.unwrap().text.contains("of a cluster of 4"));
    }
}
