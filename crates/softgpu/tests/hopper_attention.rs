//! A whole kernel as they are written for sm_90a: a warp that brings tiles, warpgroups that multiply and take turns by
//! named barriers, registers given and taken, products that overlap, results that leave by way of a tensor copy. It is
//! clean and right, and whatever orders its parts is missed when it is not there.

mod support;

use softgpu::driver::tensor::{Tiled, encode};
use softgpu::launch::Checks;
use support::{Args, Gpu, Run, load, without};

const ATTENTION: &str = include_str!("hopper/attention.ptx");
const DEPTH: usize = 64;
const QUERIES: usize = 128;

fn bf16(value: f64) -> u16 {
    ((value as f32).to_bits() >> 16) as u16
}

fn wide(bits: u16) -> f64 {
    f64::from(f32::from_bits(u32::from(bits) << 16))
}

/// Rows of small numbers that bf16 has exactly.
fn matrix(rows: usize, seed: usize) -> Vec<u16> {
    (0..rows * DEPTH).map(|i| bf16(((i * 37 + i / DEPTH * 11 + seed) % 33) as f64 / 16.0 - 1.0)).collect()
}

/// What it did, and its output.
fn attention(text: &str, seed: u64, tiles: usize) -> (Run, Vec<u16>) {
    attention_on(&Gpu::new(seed), text, tiles)
}

fn attention_on(gpu: &Gpu, text: &str, tiles: usize) -> (Run, Vec<u16>) {
    let upload = |values: &[u16]| gpu.upload_bytes(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
    let rows = 64 * tiles;
    let out = gpu.alloc(2 * QUERIES * DEPTH);
    let map = |address, rows: usize| {
        let tiled = Tiled {
            kind: 9,
            address,
            sizes: vec![DEPTH as u64, rows as u64],
            strides: vec![2 * DEPTH as u64],
            extent: vec![DEPTH as u32, 64],
            steps: vec![1, 1],
            swizzle: 3,
            ..Tiled::default()
        };
        encode(&tiled).unwrap().iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>()
    };
    let args = Args::default()
        .bytes(&map(upload(&matrix(QUERIES, 1)), QUERIES), 128)
        .bytes(&map(upload(&matrix(rows, 5)), rows), 128)
        .bytes(&map(upload(&matrix(rows, 9)), rows), 128)
        .bytes(&map(out, QUERIES), 128)
        .i32(tiles as i32);
    let run = gpu.launch(&load(text), "attention", 1, 384, 0, args);
    let bytes = gpu.bytes(out, 2 * QUERIES * DEPTH);
    (run, bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect())
}

#[test]
fn it_computes_attention_under_every_schedule() {
    for (seed, tiles) in [(0, 1), (0, 5), (1, 4), (2, 3), (3, 2)] {
        let (run, out) = attention(ATTENTION, seed, tiles);
        run.assert_clean();
        assert_eq!(run.counters.matrix_flops, (4 * QUERIES * 64 * tiles * DEPTH) as u64);
        assert_eq!(run.counters.global_loads.bytes, (2 * DEPTH * (QUERIES + 2 * 64 * tiles)) as u64);
        let (q, k, v) = (matrix(QUERIES, 1), matrix(64 * tiles, 5), matrix(64 * tiles, 9));
        for query in 0..QUERIES {
            let dot = |key: usize| -> f64 {
                (0..DEPTH).map(|d| wide(q[query * DEPTH + d]) * wide(k[key * DEPTH + d])).sum::<f64>() / 8.0
            };
            let scores: Vec<f64> = (0..64 * tiles).map(dot).collect();
            let most = scores.iter().copied().fold(f64::MIN, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for d in 0..DEPTH {
                let wanted: f64 =
                    weights.iter().enumerate().map(|(key, w)| w * wide(v[key * DEPTH + d])).sum::<f64>() / sum;
                let got = wide(out[query * DEPTH + d]);
                // Weights and results are rounded to eight bits.
                assert!((got - wanted).abs() <= 0.008, "seed {seed}, query {query}, element {d}: {got}, not {wanted}");
            }
        }
    }
}

#[test]
fn it_gives_the_same_bits_with_and_without_checks_on_any_processor() {
    let (_, wanted) = attention(ATTENTION, 0, 3);
    for (checks, wide) in [(Checks::NONE, true), (Checks::ALL, false), (Checks::NONE, false)] {
        for seed in [0, 5] {
            let mut gpu = Gpu::new(seed);
            (gpu.settings.checks, gpu.settings.wide) = (checks, wide);
            let (run, out) = attention_on(&gpu, ATTENTION, 3);
            run.assert_clean();
            assert!(out == wanted, "checks {checks:?}, wide {wide}, seed {seed}");
        }
    }
}

/// What may be taken away: barriers at which the warpgroups wait for their turn, which is for speed alone; and the one before
/// the queries make room, since the wait for products has seen to that.
const REDUNDANT: [(&str, usize); 3] = [("bar.sync", 2), ("bar.sync", 3), ("bar.sync", 4)];

/// Every other instruction that orders the kernel's parts, taken away by itself, is reported.
#[test]
fn whatever_orders_its_parts_is_missed() {
    let (mut count, mut silent) = (0, Vec::new());
    for part in [
        "fence.mbarrier_init",
        "mbarrier.init",
        "mbarrier.arrive",
        "mbarrier.try_wait",
        "bar.sync",
        "barrier.sync",
        "bar.arrive",
        "barrier.arrive",
        "wgmma.fence",
        "wgmma.commit_group",
        "wgmma.wait_group",
        "fence.proxy.async",
        "cp.async.bulk.commit_group",
        "cp.async.bulk.wait_group",
        "setmaxnreg.dec",
    ] {
        for n in 0.. {
            let Some((text, removed)) = without(ATTENTION, "attention", part, n) else { break };
            count += 1;
            for seed in [0, 1] {
                let (run, _) = attention(&text, seed, 3);
                match run.findings.first() {
                    Some(finding) => assert!(finding.at.place.contains("attention.cu:"), "{removed}: {finding}"),
                    None if REDUNDANT.contains(&(part, n)) => run.assert_clean(),
                    None => silent.push(format!("seed {seed}, {part} {n}: {removed}")),
                }
            }
        }
    }
    assert!(count >= 30, "only {count} instructions were taken away");
    assert!(silent.is_empty(), "{}", silent.join("\n"));
}
