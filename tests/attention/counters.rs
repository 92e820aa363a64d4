//! What the kernels ask of memory and of tensor cores, as the software GPU counts it.

use crate::common::device::soft;
use crate::{CAUSAL, device, problem, run, window};
use softgpu::count::Line;
use softgpu::ctl::Gpu;
use sumexp::attention::{Attention, backward, explain, forward};
use sumexp::{Float, Mask, Tensor, bf16, f16, keep};

/// What a launch on one head did.
struct Counted {
    /// Warp instructions that multiply.
    products: u64,
    /// How often a warp came to a tile whose mask it had to look at, and to one that is visible as it is. Tiles of f32 are all of the
    /// first kind, whose barrier also asks for infinities.
    mixed: u64,
    whole: u64,
    /// Bytes copied into shared memory.
    copied: u64,
}

/// Runs attention and counts. Fails if a sector of an operand is read or written in part, if anything is in local memory, or if lanes meet in a bank
/// of shared memory.
fn count<T: Float>(soft: &Gpu, queries: usize, keys: usize, head: usize, mask: Mask) -> Counted {
    let p = problem::<T>(1, [1, 1, 1, queries, keys, head, head], 1.0);
    soft.reset_counters();
    run::<T>(&p, &Attention { mask, ..Attention::default() });
    let general = matches!(mask, Mask::Visible(_) | Mask::Segments { .. });
    let kernel = format!("attention_forward_{}_{head}{}", T::DTYPE, if general { "_general" } else { "" });
    let counters = soft.counters(&kernel).expect("it was launched");
    let (loads, stores) = (&counters.global_loads, &counters.global_stores);
    assert_eq!(stores.sectors, stores.minimum, "{kernel}");
    // Of the bits of a mask a warp takes a few words from each of 16 rows.
    assert!(general || loads.sectors == loads.minimum, "{kernel}");
    assert_eq!(counters.local_bytes, 0, "{kernel}");
    // The rows of f32 that are put together at the end may meet; nothing in the loop over keys does.
    let at_the_end = |line: &&Line| T::DTYPE.size() == 4 && line.statement.starts_with("st.shared.v2.f32");
    let meets = counters.lines.iter().filter(|line| !at_the_end(line)).find(|line| line.shared.bank_conflicts() > 0);
    assert!(meets.is_none(), "{kernel}: {meets:?}");
    let sum = |start: &str, of: &dyn Fn(&Line) -> u64| -> u64 {
        counters.lines.iter().filter(|line| line.statement.starts_with(start)).map(of).sum()
    };
    Counted {
        products: sum("mma.sync", &|line| line.issued.warp),
        mixed: sum("bar.red.or.pred", &|line| line.issued.warp),
        whole: sum("bar.sync", &|line| line.issued.warp),
        copied: sum("cp.async.cg", &|line| line.loads.bytes),
    }
}

/// Whole sectors, no bank conflicts, and as many products as there are tiles to compute, in every kernel without a mask.
#[test]
fn products_are_those_of_the_tiles() {
    let Some(soft) = soft() else { return };
    // Two products of 16 x 8 x 16 for every 16 queries, 64 keys and 16 columns.
    for (head, columns) in [(32, 2), (64, 4), (96, 6), (128, 8), (192, 12), (256, 16)] {
        let products = columns * (256 / 16) * (256 / 64) * 2 * 8;
        assert_eq!(count::<f16>(&soft, 256, 256, head, Mask::None).products, products, "f16 {head}");
        assert_eq!(count::<bf16>(&soft, 256, 256, head, Mask::None).products, products, "bf16 {head}");
        // Three products of half the depth for each.
        assert_eq!(count::<f32>(&soft, 256, 256, head, Mask::None).products, 6 * products, "f32 {head}");
    }
}

/// 4096 queries: 3.1 % more than the visible pairs for head sizes of up to 128, 0.8 % more in tiles of 32 keys.
#[test]
fn a_causal_mask_costs_its_visible_pairs() {
    let Some(soft) = soft() else { return };
    let length = 4096u64;
    for (head, keys) in [(64, 64), (128, 32)] {
        let counted = count::<bf16>(&soft, length as usize, length as usize, head, CAUSAL);
        // A product is of 16 queries and 8 keys; every 16 columns take one for the scores and one for the output.
        let pairs = counted.products / (2 * head as u64 / 16) * 16 * 8;
        let visible = length * (length + 1) / 2;
        assert!(pairs >= visible && pairs * 100 <= visible * 104, "{pairs} of {visible}");
        // Only the tiles on the diagonal are looked at closer, by four warps.
        let (tiles, mixed) = (pairs / (128 * keys), length / keys);
        assert_eq!((counted.mixed, counted.whole), (4 * mixed, 4 * (tiles - mixed)), "{head}");
    }
}

/// For every kind of mask: tiles without a visible key are not copied, every other one is once for its tile of queries, and the mask of a
/// tile that is visible as it is costs nothing.
#[test]
fn hidden_tiles_are_not_read_and_whole_ones_not_looked_at() {
    let Some(soft) = soft() else { return };
    let (queries, keys, device) = (640, 1024, device());
    let lengths = Tensor::from_slice(&device, &[1], &[700]).unwrap();
    // By tiles of 128 queries and 64 keys: hidden, whole or mixed, and one row of tiles hidden.
    let shown = |i: usize, j: usize| match (i / 128, (i / 128 + j / 64) % 4) {
        (3, _) | (_, 0 | 1) => false,
        (_, 2) => true,
        _ => i % 3 != j % 5,
    };
    let bytes: Vec<u8> = (0..queries * keys).map(|at| u8::from(shown(at / keys, at % keys))).collect();
    let bytes = Tensor::from_slice(&device, &[queries, keys], &bytes).unwrap();
    let segments = [queries, keys].map(|length| (0..length).map(|i| (i / 200) as i32).collect::<Vec<_>>());
    let [of_q, of_k] = segments.each_ref().map(|ids| Tensor::from_slice(&device, &[ids.len()], ids).unwrap());
    let sees = |i: usize, j: usize| j as i64 - i as i64 - (keys - queries) as i64;
    type Visible<'a> = &'a dyn Fn(usize, usize) -> bool;
    let cases: [(Mask, Visible); 6] = [
        (Mask::None, &|_, _| true),
        (CAUSAL, &|i, j| sees(i, j) <= 0),
        (window(200, 10), &|i, j| (-200..=10).contains(&sees(i, j))),
        (Mask::KeyLengths(lengths.view()), &|_, j| j < 700),
        (Mask::Visible(keep(&bytes)), &shown),
        (Mask::Segments { q: of_q.view(), k: of_k.view() }, &|i, j| i / 200 == j / 200),
    ];
    for (number, (mask, visible)) in cases.into_iter().enumerate() {
        let (mut mixed, mut whole, mut rows) = (0, 0, 0);
        for first in (0..queries).step_by(128) {
            let before = mixed + whole;
            for key in (0..keys).step_by(64) {
                let seen = (first..first + 128).flat_map(|i| (key..key + 64).map(move |j| (i, j)));
                match seen.filter(|(i, j)| visible(*i, *j)).count() {
                    0 => {}
                    8192 => whole += 1,
                    _ => mixed += 1,
                }
            }
            // Queries that see nothing are not read either.
            rows += if mixed + whole > before { 128 } else { 0 };
        }
        let copied = (rows + 2 * 64 * (mixed + whole)) * 64 * 2;
        let counted = count::<f16>(&soft, queries, keys, 64, mask);
        // Kernels for any mask have eight warps of 16 queries, the others four of 32.
        let warps = if number < 4 { 4 } else { 8 };
        // Keys behind a length are zeros, which nobody reads.
        let unread = if number == 3 { (64 - 700 % 64) * (queries as u64 / 128) * 2 * 64 * 2 } else { 0 };
        assert_eq!((counted.mixed, counted.whole), (warps * mixed, warps * whole), "mask {number}");
        assert_eq!(counted.copied, copied - unread, "mask {number}");
        assert_eq!(counted.products, (mixed + whole) * (128 / 16) * (64 / 8) * (64 / 16) * 2, "mask {number}");
    }
}

/// Gradients: whole sectors, nothing in local memory, and lanes that do not meet in a bank of shared memory in the loops over tiles.
#[test]
fn gradients_are_made_of_whole_sectors() {
    let Some(soft) = soft() else { return };
    for head in [32, 64, 96, 128, 192, 256] {
        whole_sectors::<f16>(&soft, head, CAUSAL);
        whole_sectors::<bf16>(&soft, head, window(100, 30));
        whole_sectors::<f32>(&soft, head, CAUSAL);
    }
}

pub fn whole_sectors<T: Float>(soft: &Gpu, head: usize, mask: Mask) {
    let p = problem::<T>(1, [1, 1, 1, 256, 256, head, head], 1.0);
    let device = device();
    let tensor = |values: &[f64], dims: &[usize]| {
        let values: Vec<T> = values.iter().map(|x| T::from_f64(*x)).collect();
        Tensor::from_slice(&device, dims, &values).unwrap()
    };
    let dims = [1, 1, 256, head];
    let [q, k, v] = [&p.q, &p.k, &p.v].map(|x| tensor(x, &dims));
    let options = Attention { mask, ..Attention::default() };
    let output = forward(&q, &k, &v, &options).unwrap();
    soft.reset_counters();
    drop(backward(&q, &k, &v, &output, &output.out, &options).unwrap());
    for kernel in explain(&q, &k, &v, &options).unwrap().backward.kernels {
        let counters = soft.counters(&kernel.symbol).expect("it was launched");
        assert_eq!(counters.local_bytes, 0, "{kernel}");
        // A lane that owns queries reads two numbers of each by itself, and writes one.
        let by_itself = |line: &Line| {
            let statement = &line.statement;
            kernel.symbol.contains("_queries_")
                && ["ld.global.f32", "st.global.f32"].iter().any(|start| statement.starts_with(start))
        };
        let in_part =
            |line: &&Line| line.loads.sectors > line.loads.minimum || line.stores.sectors > line.stores.minimum;
        let in_part = counters.lines.iter().filter(in_part).find(|line| !by_itself(line));
        assert!(in_part.is_none(), "{kernel}: {in_part:?}");
        let meets = |line: &&Line| line.shared.bank_conflicts() > 0;
        // Sums of f32 on their way out, as above.
        let at_the_end = |line: &Line| T::DTYPE.size() == 4 && line.statement.starts_with("st.shared.v2.f32");
        let meets = counters.lines.iter().filter(meets).find(|line| !at_the_end(line));
        assert!(meets.is_none(), "{kernel}: {meets:?}");
    }
}
