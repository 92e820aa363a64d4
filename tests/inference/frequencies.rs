//! What is drawn how often: frequencies against exact probabilities, and the laws that draws obey.

use sumexp::reference::gumbel::noise_at;
use sumexp::reference::philox::bits;
use sumexp::{
    Dim, GumbelOptions, Random, SampleOptions, SoftmaxOptions, Tensor, argmax, f16, gumbel_softmax, sample, softmax,
};

use crate::common::device::{assert_no_findings, devices, soft};
use crate::common::random::Random as Numbers;

const PLAIN: SampleOptions = SampleOptions { temperature: 1.0, top_k: None, top_p: 1.0, min_p: 0.0 };
const HIDDEN: f32 = f32::NEG_INFINITY;

/// Draws of a distribution: 10^5, or fewer where kernels are interpreted.
fn draws(device: &sumexp::Device) -> usize {
    if !device.is_cpu() && soft().is_some() { 2000 } else { 100_000 }
}

/// What chi-square with so many degrees of freedom exceeds once in 10^6 times (Wilson and Hilferty's approximation).
fn limit(degrees: usize) -> f64 {
    let (n, z) = (degrees as f64, 4.753);
    n * (1.0 - 2.0 / (9.0 * n) + z * (2.0 / (9.0 * n)).sqrt()).powi(3)
}

/// Counts against the probabilities they should have. Rare outcomes are counted together, impossible ones must not occur.
#[track_caller]
fn assert_frequencies(counts: &[usize], probabilities: &[f64], case: &str) {
    let total: usize = counts.iter().sum();
    let (mut square, mut bins) = (0.0, 0usize);
    let (mut rare, mut rare_expected) = (0, 0.0);
    let mut bin = |count: usize, expected: f64| {
        square += (count as f64 - expected).powi(2) / expected;
        bins += 1;
    };
    for (i, (&count, &probability)) in counts.iter().zip(probabilities).enumerate() {
        let expected = probability * total as f64;
        if probability == 0.0 {
            assert_eq!(count, 0, "{case}: {i} is impossible");
        } else if expected < 10.0 {
            (rare, rare_expected) = (rare + count, rare_expected + expected);
        } else {
            bin(count, expected);
        }
    }
    if rare_expected >= 5.0 {
        bin(rare, rare_expected);
    }
    assert!(bins >= 1, "{case}: nothing was counted");
    if bins > 1 {
        let limit = limit(bins - 1);
        assert!(square < limit, "{case}: chi-square {square:.1} of {total} in {bins} bins is above {limit:.1}");
    } else {
        // One bin that must have everything, up to what is rare.
        assert!(square < 30.0, "{case}: {counts:?}");
    }
}

/// Probabilities after cuts to the entries of `kept`.
fn exact(x: &[f32], tau: f64, kept: &[usize]) -> Vec<f64> {
    let weight = |i: usize| if kept.contains(&i) { (f64::from(x[i]) / tau).exp() } else { 0.0 };
    let total: f64 = (0..x.len()).map(weight).sum();
    (0..x.len()).map(|i| weight(i) / total).collect()
}

fn count(ids: &[i64], len: usize) -> Vec<usize> {
    let mut counts = vec![0; len];
    ids.iter().for_each(|id| counts[*id as usize] += 1);
    counts
}

/// Draws of one row repeated, with its kept entries worked out by hand.
fn check(x: &[f32], options: SampleOptions, kept: &[usize], seed: u64) {
    let probabilities = exact(x, f64::from(options.temperature), kept);
    let mut of_cpu = Vec::new();
    for device in devices() {
        let rows = draws(&device);
        let case = format!("{x:?} {options:?} on {}", device.name());
        let row = Tensor::from_slice(&device, &[1, x.len()], x).unwrap();
        let repeated = row.view().expand(&[rows, x.len()]).unwrap();
        let drawn = sample(repeated, Dim::LAST, &options, Random::Seed { seed, offset: 3 }).unwrap();
        let ids = drawn.ids.to_vec().unwrap();
        assert_frequencies(&count(&ids, x.len()), &probabilities, &case);
        for (id, log) in ids.iter().zip(drawn.log_probabilities.to_vec().unwrap()).take(1000) {
            let want = probabilities[*id as usize].ln();
            assert!((f64::from(log) - want).abs() <= 1e-6 * (1.0 + want.abs()), "{case}: {log} of {id}, want {want}");
        }
        if device.is_cpu() {
            of_cpu = ids;
        } else {
            // Seeds whose numbers lie far enough from every border.
            assert_eq!(ids, of_cpu[..rows], "{case}");
        }
        assert_no_findings(&case);
    }
}

/// Without cuts: equals, halves down to 2^-15, something hidden between ordinary logits, a long tail.
#[test]
fn without_cuts() {
    let all = |x: &[f32]| (0..x.len()).collect::<Vec<_>>();
    let halves: Vec<f32> = (0..16).map(|i| -(i as f32) * std::f32::consts::LN_2).collect();
    let tail: Vec<f32> = (1..=60).map(|i| -1.1 * (i as f32).ln()).collect();
    for (seed, x) in [(1, &[0.5; 10][..]), (2, &halves), (3, &[1.0, HIDDEN, -2.0, 3.0, HIDDEN, 2.5]), (4, &tail)] {
        check(x, PLAIN, &all(x), seed);
    }
    check(&halves, SampleOptions { temperature: 3.0, ..PLAIN }, &all(&halves), 5);
    check(&halves, SampleOptions { temperature: 0.4, ..PLAIN }, &all(&halves), 6);
}

/// Each cut, and all of them in their order.
#[test]
fn with_cuts() {
    // Probabilities of 8, 4, 2, 1, 1 sixteenths, out of order.
    let ln2 = std::f32::consts::LN_2;
    let x = [0.0, 3.0 * ln2, ln2, HIDDEN, 0.0, 2.0 * ln2];
    let cases: [(SampleOptions, &[usize]); 10] = [
        (SampleOptions { top_k: Some(2), ..PLAIN }, &[1, 5]),
        // Equal to the fourth.
        (SampleOptions { top_k: Some(4), ..PLAIN }, &[0, 1, 2, 4, 5]),
        (SampleOptions { top_p: 0.74, ..PLAIN }, &[1, 5]),
        (SampleOptions { top_p: 0.76, ..PLAIN }, &[1, 2, 5]),
        (SampleOptions { top_p: 0.89, ..PLAIN }, &[0, 1, 2, 4, 5]),
        (SampleOptions { min_p: 0.24, ..PLAIN }, &[1, 2, 5]),
        (SampleOptions { min_p: 0.26, ..PLAIN }, &[1, 5]),
        // 8, 4, 2 fourteenths: 0.66 of what top-k left takes two, 0.66 of everything would, too, but 0.84 would take three.
        (SampleOptions { top_k: Some(3), top_p: 0.84, ..PLAIN }, &[1, 5]),
        (SampleOptions { top_k: Some(3), top_p: 0.87, min_p: 0.3, ..PLAIN }, &[1, 5]),
        // Roots: 2.83, 2, 1.41, 1, 1 of 8.24.
        (SampleOptions { temperature: 2.0, top_k: Some(5), top_p: 0.75, min_p: 0.4 }, &[1, 2, 5]),
    ];
    // -0 equals +0, whichever comes first.
    check(&[0.0, -0.0, -1.0], SampleOptions { top_k: Some(1), ..PLAIN }, &[0, 1], 31);
    for (i, (options, kept)) in cases.into_iter().enumerate() {
        check(&x, options, kept, 10 + i as u64);
    }
}

/// An entry of probability 2^-16 at either end of a row is drawn by exactly the numbers that are its own.
#[test]
fn rare_entries_at_both_ends() {
    let log = -(65_534f64.ln()) as f32;
    for device in devices() {
        for (len, dense) in [(40, 7), (3000, 2000)] {
            let mut x = vec![HIDDEN; len];
            (x[1], x[dense], x[len - 2]) = (log, 0.0, log);
            let p = 1.0 / 65_536.0;
            let number = |seed: i64| bits(seed as u64, 0, 0) as f64 / 2f64.powi(64);
            // Clear of the borders, by a part of 10^-4 of the rare entries.
            let first = (0..).find(|seed| number(*seed) < 0.9999 * p).unwrap();
            let last = (0..).find(|seed| number(*seed) > 1.0 - 0.9999 * p).unwrap();
            let inner = (0..).find(|seed| (p * 1.0001..p * 2.0).contains(&number(*seed))).unwrap();
            let seeds = Tensor::from_slice(&device, &[3], &[first, inner, last]).unwrap();
            let row = Tensor::from_slice(&device, &[1, len], &x).unwrap();
            let rows = row.view().expand(&[3, len]).unwrap();
            let drawn = sample(rows, Dim::LAST, &PLAIN, Random::PerRow { seeds: seeds.view(), offset: 0 }).unwrap();
            assert_eq!(drawn.ids.to_vec().unwrap(), [1, dense as i64, len as i64 - 2], "on {}", device.name());
        }
    }
}

/// Draws with neighbouring offsets, and of neighbouring rows, know nothing of each other.
#[test]
fn draws_are_independent() {
    let p = [0.1f64, 0.2, 0.3, 0.4];
    let x = p.map(|p| p.ln() as f32);
    for device in devices() {
        let rows = draws(&device);
        let row = Tensor::from_slice(&device, &[1, 4], &x).unwrap();
        let repeated = row.view().expand(&[rows, 4]).unwrap();
        let ids = |random| sample(repeated, Dim::LAST, &PLAIN, random).unwrap().ids.to_vec().unwrap();
        let seeds: Vec<i64> = (0..rows as i64).collect();
        let seeds = Tensor::from_slice(&device, &[rows], &seeds).unwrap();
        let by_offset = |offset| ids(Random::Seed { seed: 99, offset });
        let by_row = |offset| ids(Random::PerRow { seeds: seeds.view(), offset });
        let pairs: Vec<f64> = p.iter().flat_map(|a| p.map(|b| a * b)).collect();
        let joint = |a: &[i64], b: &[i64]| -> Vec<i64> { a.iter().zip(b).map(|(a, b)| 4 * a + b).collect() };
        let (first, second, own) = (by_offset(0), by_offset(1), by_row(0));
        for (a, b, what) in [
            (&first[..], &second[..], "offsets"),
            (&first[1..], &first[..rows - 1], "rows"),
            (&own[1..], &own[..rows - 1], "seeds"),
            (&own[..], &by_row(1)[..], "offsets of seeds"),
        ] {
            let case = format!("{what} on {}", device.name());
            assert_frequencies(&count(&joint(a, b), 16), &pairs, &case);
        }
    }
}

/// Only the largest is left by the tightest cuts; cuts that cut nothing change no bit; nor does a shift of all logits.
#[test]
fn laws() {
    let mut numbers = Numbers::new(8);
    let x: Vec<f32> = (0..8 * 900).map(|_| (numbers.normal() * 64.0).round() / 16.0).map(|x| x as f32).collect();
    for device in devices() {
        let tensor = Tensor::from_slice(&device, &[8, 900], &x).unwrap();
        let mut apart = x.clone();
        apart.chunks_mut(900).enumerate().for_each(|(i, row)| row[100 * i + 3] = 30.0);
        let apart = Tensor::from_slice(&device, &[8, 900], &apart).unwrap();
        let seed = Random::Seed { seed: 5, offset: 0 };
        let largest = argmax(&apart, Dim::LAST).unwrap().to_vec().unwrap();
        for options in [
            SampleOptions { top_k: Some(1), temperature: 50.0, ..PLAIN },
            SampleOptions { top_p: f32::MIN_POSITIVE, temperature: 50.0, ..PLAIN },
            SampleOptions { top_p: f32::from_bits(1), temperature: 50.0, ..PLAIN },
            SampleOptions { min_p: 1.0, temperature: 50.0, ..PLAIN },
            SampleOptions { temperature: 1e-30, ..PLAIN },
        ] {
            let drawn = sample(&apart, Dim::LAST, &options, seed).unwrap();
            assert_eq!(drawn.ids.to_vec().unwrap(), largest, "{options:?} on {}", device.name());
            assert_eq!(drawn.log_probabilities.to_vec().unwrap(), [0.0; 8], "{options:?} on {}", device.name());
        }
        let text = |x: &Tensor<f32>, options: &SampleOptions| {
            let drawn = sample(x, Dim::LAST, options, seed).unwrap();
            let (ids, log) = (drawn.ids.to_vec().unwrap(), drawn.log_probabilities.to_vec().unwrap());
            format!("{ids:?} {log:?} {:?}", drawn.kept_mass.to_vec().unwrap())
        };
        let plain = text(&tensor, &PLAIN);
        assert_eq!(text(&tensor, &SampleOptions { top_k: Some(900), ..PLAIN }), plain, "on {}", device.name());
        let shifted: Vec<f32> = x.iter().map(|x| x + 512.0).collect();
        let shifted = Tensor::from_slice(&device, &[8, 900], &shifted).unwrap();
        assert_eq!(text(&shifted, &PLAIN), plain, "on {}", device.name());
        let cut = SampleOptions { top_k: Some(50), top_p: 0.7, min_p: 0.01, temperature: 1.3 };
        assert_eq!(text(&shifted, &cut), text(&tensor, &cut), "on {}", device.name());
        // With what the cuts left, the log-probability is that of the whole softmax.
        let drawn = sample(&tensor, Dim::LAST, &cut, seed).unwrap();
        let p = softmax(&tensor, Dim::LAST, &SoftmaxOptions { temperature: 1.3, ..SoftmaxOptions::default() }).unwrap();
        let p = p.to_vec().unwrap();
        let (ids, logs, kept) = (drawn.ids, drawn.log_probabilities, drawn.kept_mass.to_vec().unwrap());
        for (row, (id, log)) in ids.to_vec().unwrap().into_iter().zip(logs.to_vec().unwrap()).enumerate() {
            let whole = f64::from(log) + f64::from(kept[row]).ln();
            let want = f64::from(p[900 * row + id as usize]).ln();
            assert!((whole - want).abs() < 1e-5 * (1.0 + want.abs()), "{whole} {want} on {}", device.name());
        }
    }
}

/// The largest of logits with noise is at each index as often as the softmax says, whatever the temperature. candle d4bac37a6,
/// flashinfer 006fe19a4: noise in 16 bits, or with its ends cut off, draws improbable entries too often.
#[test]
fn gumbel_winners() {
    let ln2 = std::f32::consts::LN_2;
    let x = [0.0, 3.0 * ln2, ln2, HIDDEN, 0.0, 2.0 * ln2, -12.0 * ln2].map(f16::from_f32);
    let exact_x = x.map(f32::from);
    let probabilities = exact(&exact_x, 1.0, &[0, 1, 2, 4, 5, 6]);
    for device in devices() {
        for temperature in [1.0, 0.1] {
            let rows = draws(&device);
            let row = Tensor::from_slice(&device, &[1, 7], &x).unwrap();
            let repeated = row.view().expand(&[rows, 7]).unwrap();
            let options = GumbelOptions { temperature, hard: true };
            let drawn = gumbel_softmax(repeated, Dim::LAST, &options, Random::Seed { seed: 21, offset: 8 }).unwrap();
            let ids = argmax(&drawn.one_hot.unwrap(), Dim::LAST).unwrap().to_vec().unwrap();
            let case = format!("tau {temperature} on {}", device.name());
            assert_frequencies(&count(&ids, 7), &probabilities, &case);
        }
    }
    // The noise alone: its mean is Euler's constant and its variance pi^2 / 6, to what so many draws allow.
    let noise: Vec<f64> = (0..200_000).map(|i| noise_at(1, 2, 0, 200_000, i)).collect();
    let mean = noise.iter().sum::<f64>() / 2e5;
    let variance = noise.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / 2e5;
    assert!((mean - 0.577_215_66).abs() < 0.015 && (variance - 1.644_934).abs() < 0.05, "{mean} {variance}");
}

/// The comparison itself notices a probability that is off by a tenth, and an impossible draw.
#[test]
fn frequencies_that_are_wrong_are_noticed() {
    assert_frequencies(&[50_100, 49_900], &[0.5, 0.5], "right");
    let wrong = |counts: &'static [usize], p: &'static [f64]| {
        std::panic::catch_unwind(|| assert_frequencies(counts, p, "wrong")).is_err()
    };
    assert!(wrong(&[55_000, 45_000], &[0.5, 0.5]));
    assert!(wrong(&[99_999, 1], &[1.0, 0.0]));
    assert!(wrong(&[99_000, 1000], &[0.9999, 0.0001]));
}
