//! The kernels of compute capability 9.0. Everywhere else this suite is about those for every GPU; other suites run what the plan chooses.

use crate::common::attention::cases::Layout;
use crate::common::attention::on_device::OnDevice;
use crate::common::attention::problem::{Masks, Problem};
use crate::common::compare::assert_same_bits;
use crate::common::device::{assert_no_findings, soft};
use crate::{CAUSAL, ON_HOPPER, compare, device, everything, packed, problem, run, table, window};
use sumexp::attention::{Attention, explain, forward};
use sumexp::kernels::images;
use sumexp::mask::{Align, Band};
use sumexp::{Dim, Float, Mask, Tensor, View, bf16, f16};

/// Runs a test with these kernels. Without them, in a build for other GPUs alone, there is nothing to test.
pub fn on_hopper(test: impl FnOnce()) {
    if !images().iter().any(|(name, _)| name.ends_with("_sm90a")) {
        return println!("skipped: not built for compute capability 9.0");
    }
    ON_HOPPER.set(true);
    test();
    ON_HOPPER.set(false);
}

/// The launches of what runs, by the names of their kernels.
fn launches(run: impl FnOnce()) -> Vec<String> {
    let Some(soft) = soft() else { return Vec::new() };
    soft.take_launches();
    run();
    soft.take_launches().into_iter().map(|launch| launch.kernel).collect()
}

/// Every kind of band, over more tiles of keys than the ring holds, several tiles of queries, and rows that fill no tile.
fn bands<T: Float>(head: usize, value: usize) {
    for (queries, keys) in [(1, 1), (70, 300), (300, 300), (257, 515), (130, 140)] {
        let p = problem::<T>(1, [1, 2, 1, queries, keys, head, value], 1.0);
        let diagonal = keys as i64 - queries as i64;
        let causal = Attention { mask: CAUSAL, ..Attention::default() };
        compare::<T>(&p, &causal, &|_, _, i, j| j as i64 <= i as i64 + diagonal);
        if queries == 257 {
            compare::<T>(&p, &Attention::default(), &everything);
            let windowed = Attention { mask: window(150, 7), ..Attention::default() };
            compare::<T>(&p, &windowed, &|_, _, i, j| (-150..=7).contains(&(j as i64 - i as i64 - diagonal)));
            let lengths = Tensor::from_slice(&device(), &[1], &[200]).unwrap();
            let options = Attention { mask: Mask::KeyLengths(lengths.view()), ..Attention::default() };
            compare::<T>(&p, &options, &|_, _, _, j| j < 200);
        }
    }
}

#[test]
fn f16_bands_on_hopper() {
    on_hopper(|| {
        bands::<f16>(64, 64);
        bands::<f16>(128, 128);
        bands::<f16>(40, 24);
    });
}

#[test]
fn bf16_bands_on_hopper() {
    on_hopper(|| {
        bands::<bf16>(64, 64);
        bands::<bf16>(128, 128);
        bands::<bf16>(64, 100);
    });
}

/// Cases of the table that these kernels take: layouts, masks and lengths.
#[test]
fn f16_cases_on_hopper() {
    on_hopper(table::by_warpgroups::<f16>);
}

#[test]
fn bf16_cases_on_hopper() {
    on_hopper(table::by_warpgroups::<bf16>);
}

#[test]
fn packed_sequences_on_hopper() {
    on_hopper(packed::of_some_lengths::<bf16>);
}

/// Scores and values of all sizes.
#[test]
fn large_and_small_scores_on_hopper() {
    on_hopper(|| {
        for spread in [0.0, 30.0, 1000.0] {
            compare::<f16>(&problem::<f16>(9, [1, 1, 1, 64, 200, 64, 64], spread), &Attention::default(), &everything);
            let p = problem::<bf16>(9, [1, 1, 1, 64, 200, 128, 128], spread);
            compare::<bf16>(&p, &Attention::default(), &everything);
        }
    });
}

/// The bits of a query are the same alone, in a batch, with other lengths beside it, and wherever its operands lie.
#[test]
fn bits_depend_on_the_row_alone_on_hopper() {
    fn of<T: Float>(size: usize) {
        let (queries, keys) = (70, 300);
        let mut one = Problem::new([1, 2, 1], [queries, keys], [size, size], 51);
        one.masks.bands = vec![Band::causal(Align::BottomRight)];
        let run = |problem: Problem, layout| OnDevice::<T>::new(&device(), vec![problem], layout).forward().remove(0);
        let (want, want_lse) = run(one.clone(), Layout::HeadsFirst);
        for layout in [Layout::PositionsFirst, Layout::Misaligned] {
            let (out, lse) = run(one.clone(), layout);
            assert_same_bits(&format!("{layout:?}: out"), &out, &want);
            assert_same_bits(&format!("{layout:?}: lse"), &lse, &want_lse);
        }
        // With a shorter one in front of it.
        let twice = |x: &[f64]| [&x.iter().rev().copied().collect::<Vec<_>>()[..], x].concat();
        let masks = Masks { lengths: Some(vec![131, keys as i32]), ..one.masks.clone() };
        let (q, k, v) = (twice(&one.q), twice(&one.k), twice(&one.v));
        let (out, lse) = run(Problem { batch: 2, q, k, v, masks, ..one.clone() }, Layout::HeadsFirst);
        assert_same_bits(&"in a batch: out", &out[want.len()..], &want);
        assert_same_bits(&"in a batch: lse", &lse[want_lse.len()..], &want_lse);
        // Fewer queries, the last ones, in another place of a tile.
        let rows = |count: usize| -> Vec<f64> {
            one.q.chunks(queries * size).flat_map(|head| head[(queries - count) * size..].to_vec()).collect()
        };
        let (out, _) = run(Problem { queries: 9, q: rows(9), ..one.clone() }, Layout::HeadsFirst);
        for head in 0..2 {
            let last = &want[((head + 1) * queries - 9) * size..][..9 * size];
            assert_same_bits(&"fewer queries: out", &out[head * 9 * size..][..9 * size], last);
        }
        assert_no_findings(&"bits");
    }
    on_hopper(|| {
        of::<f16>(64);
        of::<bf16>(128);
        // Rows that no map describes, whatever their layout.
        of::<f16>(61);
    });
}

/// Infinite and NaN values reach the queries that see them, and no other changes a bit.
#[test]
fn hidden_values_may_be_anything_on_hopper() {
    fn of<T: Float>(size: usize) {
        let p = problem::<T>(5, [1, 1, 1, 200, 200, size, size], 1.0);
        let options = Attention { mask: CAUSAL, ..Attention::default() };
        let (want, want_lse) = run::<T>(&p, &options);
        for (n, special) in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY].into_iter().enumerate() {
            let (mut planted, key) = (p.clone(), [150, 199, 70][n]);
            planted.v[key * size + 3] = special;
            planted.v[key * size + size - 1] = f64::INFINITY;
            let (out, lse) = run::<T>(&planted, &options);
            assert_eq!(lse, want_lse);
            for (at, (got, want)) in out.iter().zip(&want).enumerate() {
                let seen = match (at / size >= key, at % size) {
                    (true, 3) => special,
                    (true, column) if column == size - 1 => f64::INFINITY,
                    _ => *want,
                };
                assert!(
                    got.to_bits() == seen.to_bits() || (got.is_nan() && seen.is_nan()),
                    "{n}, {at}: {got}, not {seen}"
                );
            }
            // Opposite infinities.
            planted.v[(key - 60) * size + size - 1] = f64::NEG_INFINITY;
            let (out, _) = run::<T>(&planted, &options);
            for row in 0..200 {
                let got = out[row * size + size - 1];
                let right = match row {
                    row if row >= key => got.is_nan(),
                    row if row >= key - 60 => got == f64::NEG_INFINITY,
                    _ => got == want[row * size + size - 1],
                };
                assert!(right, "{n}, row {row}: {got}");
            }
        }
    }
    on_hopper(|| {
        of::<f16>(64);
        of::<bf16>(128);
    });
}

/// Nothing depends on when copies arrive and warps run.
#[test]
fn every_schedule_gives_the_same_bits_on_hopper() {
    let Some(soft) = soft() else { return };
    on_hopper(|| {
        let p = problem::<f16>(9, [1, 2, 1, 150, 420, 64, 64], 1.0);
        let wide = problem::<bf16>(9, [1, 1, 1, 129, 700, 128, 128], 1.0);
        let options = Attention { mask: CAUSAL, ..Attention::default() };
        let all = || [run::<f16>(&p, &options), run::<bf16>(&wide, &options)];
        soft.seed(0);
        let first = all();
        for seed in 1..=12 {
            soft.seed(seed);
            assert!(all() == first, "schedule {seed}");
        }
        soft.seed(0);
    });
}

/// What is explained is what runs; products are those of the tiles; lanes meet in no bank, and nothing is in local memory.
#[test]
fn counters_on_hopper() {
    fn of<T: Float>(size: usize, key_tiles: [u64; 3]) {
        let Some(soft) = soft() else { return };
        for (mask, tiles) in [Mask::None, CAUSAL, window(200, 10)].into_iter().zip(key_tiles) {
            let p = problem::<T>(2, [1, 2, 1, 512, 512, size, size], 1.0);
            let options = Attention { mask, ..Attention::default() };
            soft.reset_counters();
            run::<T>(&p, &options);
            let kernel = format!("attention_forward_{}_{size}_sm90a", T::DTYPE);
            let counters = soft.counters(&kernel).expect("it was launched");
            assert_eq!(counters.matrix_flops, 2 * tiles * 128 * 128 * 4 * size as u64, "{kernel}");
            assert_eq!(counters.local_bytes, 0, "{kernel}");
            assert_eq!(counters.shared.bank_conflicts(), 0, "{kernel}");
            let (loads, stores) = (&counters.global_loads, &counters.global_stores);
            assert_eq!((loads.sectors, stores.sectors), (loads.minimum, stores.minimum), "{kernel}");
            // Four tiles of queries of two heads, and a tile of keys and one of values for each that is computed.
            assert_eq!(loads.bytes, 2 * (4 + 2 * tiles) * 128 * 2 * size as u64, "{kernel}");
        }
    }
    on_hopper(|| {
        of::<f16>(64, [16, 10, 12]);
        of::<bf16>(128, [16, 10, 12]);
    });
}

/// Operands that maps describe are read where they are, others are packed first; the explanation says so and counts what happens.
#[test]
fn explanations_on_hopper() {
    on_hopper(|| {
        let device = device();
        let numbers = problem::<f16>(4, [2, 2, 2, 150, 1, 72, 1], 1.0).q;
        let numbers: Vec<f16> = numbers.into_iter().map(f16::from_f64).collect();
        let x = Tensor::from_slice(&device, &[2, 2, 150, 72], &numbers).unwrap();
        let even = x.view().slice(Dim::LAST, 8..72).unwrap();
        let odd = x.view().slice(Dim::LAST, 1..65).unwrap();
        let every = even.slice(Dim::front(1), 0..1).unwrap().slice(Dim::back(1), 0..1).unwrap();
        let same_rows = every.expand(&[2, 2, 150, 64]).unwrap();
        let one_head = even.slice(Dim::front(1), 1..2).unwrap().expand(&[2, 2, 150, 64]).unwrap();
        let one_batch = even.slice(Dim::front(0), 1..2).unwrap().expand(&[2, 2, 150, 64]).unwrap();
        let same_heads = odd.slice(Dim::front(1), 0..1).unwrap().expand(&[2, 2, 150, 64]).unwrap();
        for ([q, k, v], packs, bytes) in [
            ([even, even, even], 0, 0),
            ([even, odd, even], 1, 2 * 2 * 150 * 128),
            ([even, one_head, one_batch], 0, 0),
            ([odd, same_rows, same_heads], 3, (2 * 2 + 2 + 2) * 150 * 128),
        ] {
            let options = Attention { mask: CAUSAL, ..Attention::default() };
            let explanation = explain(q, k, v, &options).unwrap();
            let explained: Vec<String> =
                explanation.forward.kernels.iter().map(|kernel| kernel.symbol.clone()).collect();
            let mut want = vec!["attention_pack_sm90a".to_owned(); packs];
            want.push("attention_forward_f16_64_sm90a".to_owned());
            assert_eq!((&explained, explanation.forward.workspace), (&want, bytes));
            soft().inspect(|soft| soft.reset_counters());
            let mut out = Vec::new();
            let launched = launches(|| out = forward(q, k, v, &options).unwrap().out.to_vec().unwrap());
            if let Some(soft) = soft() {
                assert_eq!(launched, want);
                let counters = soft.counters("attention_forward_f16_64_sm90a").expect("it was launched");
                assert_eq!(counters.matrix_flops, explanation.forward.executed_flops());
            }
            // The same as without strides.
            let copy = |x: View<f16>| Tensor::from_slice(&device, &[2, 2, 150, 64], &x.to_vec().unwrap()).unwrap();
            let (q, k, v) = (copy(q), copy(k), copy(v));
            assert_same_bits(&"strides", &out, &forward(&q, &k, &v, &options).unwrap().out.to_vec().unwrap());
            assert_no_findings(&"explained");
        }
    });
}
