//! Programs that were not written for this crate: collectives of CUB, cooperative groups, scans and mathematical functions
//! as nvcc compiles them. Results must be exact under every schedule, without a single report.

mod common;

use common::Machine;

const CUB: &[&str] = &[include_str!("foreign/cub_sm80.ptx"), include_str!("foreign/cub_sm90.ptx")];
const COOPERATIVE: &[&str] = &[include_str!("foreign/cooperative_sm80.ptx")];
const SCALAR: &[&str] = &[include_str!("foreign/scalar_sm80.ptx")];
const MEMORY: &[&str] = &[include_str!("foreign/memory_sm80.ptx")];
const SEEDS: [u64; 4] = [0, 1, 2, 9];

/// A launch: how many blocks of how many threads, and bytes of dynamic shared memory.
#[derive(Clone, Copy)]
struct Shape {
    blocks: u32,
    threads: u32,
    shared: u32,
}

/// Runs a kernel for every image and seed on `x`, an output of `outputs` words that begins as `initial`, and perhaps a
/// number; hands each output to `check`.
#[track_caller]
fn each(
    images: &[&str],
    kernel: &str,
    Shape { blocks, threads, shared }: Shape,
    x: &[u32],
    (outputs, initial): (usize, Option<u32>),
    count: Option<i32>,
    check: impl Fn(&str, &[u32]),
) {
    for (image, ptx) in images.iter().enumerate() {
        for seed in SEEDS {
            let machine = Machine::seeded(seed);
            let input = machine.upload(x);
            let output = match initial {
                Some(word) => machine.upload(&vec![word; outputs]),
                None => machine.alloc(4 * outputs as u64),
            };
            let mut params = input.to_le_bytes().to_vec();
            params.extend(output.to_le_bytes());
            params.extend(count.iter().flat_map(|count| count.to_le_bytes()));
            let outcome = machine.run_with(ptx, kernel, [blocks, 1, 1], [threads, 1, 1], shared, &params);
            let what = format!("{kernel}, image {image}, seed {seed}");
            let reports: Vec<String> = outcome.findings.iter().map(ToString::to_string).collect();
            assert!(
                outcome.fault.is_none() && reports.is_empty(),
                "{what}: {:?}\n{}",
                outcome.fault,
                reports.join("\n")
            );
            check(&what, &machine.words(output, outputs));
        }
    }
}

/// The same with whole numbers in and out, where every word of the output is known.
#[track_caller]
fn exact(images: &[&str], kernel: &str, shape: Shape, x: &[i32], count: Option<i32>, expected: &[i32]) {
    let words: Vec<u32> = x.iter().map(|x| *x as u32).collect();
    each(images, kernel, shape, &words, (expected.len(), None), count, |what, y| {
        let y: Vec<i32> = y.iter().map(|y| *y as i32).collect();
        let wrong = y.iter().zip(expected).position(|(y, e)| y != e);
        if let Some(at) = wrong {
            panic!("{what}: element {at} is {} and not {}", y[at], expected[at]);
        }
    });
}

fn numbers(count: usize) -> Vec<i32> {
    let mut state = 2024u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) as i32 % 100
    };
    (0..count).map(|_| next()).collect()
}

const THREADS: usize = 96;

fn blocks(blocks: u32) -> Shape {
    Shape { blocks, threads: THREADS as u32, shared: 0 }
}

#[test]
fn block_reductions_of_cub() {
    let x = numbers(3 * THREADS);
    let expected: Vec<i32> = x
        .chunks(THREADS)
        .flat_map(|x| [x.iter().sum(), *x.iter().max().unwrap(), x[..50].iter().sum::<i32>()])
        .collect();
    for kernel in ["reduce_raking_ordered", "reduce_raking", "reduce_warps"] {
        exact(CUB, kernel, blocks(3), &x, None, &expected);
    }
}

#[test]
fn reductions_of_structures_with_padding() {
    let x = numbers(2 * THREADS);
    let best = |x: &[i32]| {
        let most = *x.iter().max().unwrap();
        [most, x.iter().position(|x| *x == most).unwrap() as i32, x.iter().sum()]
    };
    exact(CUB, "reduce_padded", blocks(2), &x, None, &x.chunks(THREADS).flat_map(best).collect::<Vec<_>>());
}

#[test]
fn warp_reductions_of_cub() {
    let x = numbers(2 * THREADS);
    let expected = x.chunks(32).flat_map(|warp| {
        (0..32).map(|lane| {
            let sum: i32 = warp.iter().sum();
            let eight: i32 = warp[lane & !7..(lane & !7) + 8].iter().sum();
            let head = |lane: &usize| *lane == 0 || warp[*lane] % 3 == 0;
            let end = (lane + 1..32).find(head).unwrap_or(32);
            let segment: i32 = warp[lane..end].iter().sum();
            sum + 1000 * eight + if head(&lane) { 1_000_000 * (segment & 63) } else { 0 }
        })
    });
    exact(CUB, "warp_reduce", blocks(2), &x, None, &expected.collect::<Vec<_>>());
}

#[test]
fn scans_of_cub() {
    let x = numbers(2 * 4 * THREADS);
    let block = |x: &[i32]| {
        let total: i32 = x.iter().sum();
        let (mut before, mut most) = (0, i32::MIN);
        let scan = |(at, x): (usize, &i32)| {
            if at % 4 == 0 {
                most = most.max(*x);
            }
            let y = before + if at % 4 == 3 { total } else { 1000 * most };
            before += x;
            y
        };
        x.iter().enumerate().map(scan).collect::<Vec<_>>()
    };
    let expected: Vec<i32> = x.chunks(4 * THREADS).flat_map(block).collect();
    for kernel in ["scan_raking", "scan_memoized", "scan_warps"] {
        exact(CUB, kernel, blocks(2), &x, None, &expected);
    }
    let exclusive = |x: &[i32]| (0..x.len()).map(|i| x[..i].iter().sum()).collect::<Vec<i32>>();
    let x = &x[..2 * THREADS];
    exact(CUB, "warp_scan", blocks(2), x, None, &x.chunks(32).flat_map(exclusive).collect::<Vec<_>>());
}

#[test]
fn loads_and_stores_of_cub_stop_at_the_last_item() {
    let count = 4 * THREADS + 101;
    let x = numbers(count);
    let expected: Vec<i32> = x.iter().enumerate().map(|(at, x)| 2 * x + (at % 4) as i32).collect();
    for kernel in ["copy_direct", "copy_transpose", "copy_warps"] {
        exact(CUB, kernel, blocks(2), &x, Some(count as i32), &expected);
    }
}

#[test]
fn radix_sort_of_cub() {
    let x: Vec<i32> = numbers(2 * 4 * THREADS).iter().map(|x| (x - 50) * 31).collect();
    let sorted = |x: &[i32]| {
        let mut pairs: Vec<(i32, usize)> = x.iter().copied().zip(0..).collect();
        pairs.sort();
        pairs.into_iter().map(|(key, at)| key * 512 + at as i32).collect::<Vec<_>>()
    };
    exact(CUB, "radix_sort", blocks(2), &x, None, &x.chunks(4 * THREADS).flat_map(sorted).collect::<Vec<_>>());
}

const PAIR: Shape = Shape { blocks: 2, threads: 64, shared: 0 };

#[test]
fn reductions_of_cooperative_groups() {
    let x = numbers(128);
    let tiles = |(at, _): (usize, &i32)| {
        let (warp, eight) = (&x[at & !31..(at & !31) + 32], &x[at & !7..(at & !7) + 8]);
        let (least, bits) = (eight.iter().min().unwrap(), eight.iter().fold(0, |bits, x| bits ^ x));
        warp.iter().sum::<i32>() + 1000 * least + 100_000 * bits + warp.iter().max().unwrap()
    };
    exact(COOPERATIVE, "tiles", PAIR, &x, None, &x.iter().enumerate().map(tiles).collect::<Vec<_>>());
    let coalesced = |(at, v): (usize, &i32)| {
        if v % 3 == 1 {
            return -1;
        }
        let group: Vec<i32> = x[at & !31..(at & !31) + 32].iter().copied().filter(|x| x % 3 != 1).collect();
        let rank = x[at & !31..at].iter().filter(|x| *x % 3 != 1).count() as i32;
        let same = group.iter().filter(|x| *x % 5 == v % 5).count() as i32;
        group.iter().sum::<i32>() * 100 + rank + 10_000_000 * same
    };
    exact(COOPERATIVE, "coalesced", PAIR, &x, None, &x.iter().enumerate().map(coalesced).collect::<Vec<_>>());
    let scans = |(at, x_at): (usize, &i32)| {
        let before = &x[at & !31..at];
        before.iter().sum::<i32>() + x_at + 100_000 * before.iter().map(|x| x & 1).sum::<i32>()
    };
    exact(COOPERATIVE, "scans", PAIR, &x, None, &x.iter().enumerate().map(scans).collect::<Vec<_>>());
    let sums: Vec<i32> = (0..128).map(|at: usize| x[at & !31..(at & !31) + 32].iter().sum()).collect();
    exact(COOPERATIVE, "exchange", PAIR, &x, None, &sums);
    let many = numbers(1000);
    let block = Shape { blocks: 1, threads: 128, shared: 0 };
    exact(COOPERATIVE, "block_sum", block, &many, None, &[many.iter().sum()]);
}

#[test]
fn lanes_share_one_atomic_addition() {
    let x = numbers(128);
    let words: Vec<u32> = x.iter().map(|x| *x as u32).collect();
    let mut even: Vec<u32> = words.iter().copied().filter(|x| x % 2 == 0).collect();
    even.sort_unstable();
    each(COOPERATIVE, "aggregated", PAIR, &words, (1 + x.len(), Some(0)), None, |what, y| {
        assert_eq!(y[0] as usize, even.len(), "{what}");
        let mut found = y[1..=even.len()].to_vec();
        found.sort_unstable();
        assert_eq!(found, even, "{what}");
    });
}

#[test]
fn scans_by_hand() {
    let x = numbers(512);
    let inclusive = |x: &[i32]| (0..x.len()).map(|i| x[..=i].iter().sum()).collect::<Vec<i32>>();
    let shape = Shape { blocks: 2, threads: 256, shared: 0 };
    exact(SCALAR, "hand_scan", shape, &x, None, &x.chunks(256).flat_map(inclusive).collect::<Vec<_>>());
    let exclusive = |x: &[i32]| (0..x.len()).map(|i| x[..i].iter().sum()).collect::<Vec<i32>>();
    let shape = Shape { blocks: 2, threads: 128, shared: 1024 };
    exact(SCALAR, "tree_scan", shape, &x, None, &x.chunks(256).flat_map(exclusive).collect::<Vec<_>>());
}

#[test]
fn philox_gives_its_published_numbers() {
    fn rounds(mut c: [u32; 4], mut k: [u32; 2]) -> [u32; 4] {
        for _ in 0..10 {
            let (a, b) = (0xD251_1F53 * u64::from(c[0]), 0xCD9E_8D57 * u64::from(c[2]));
            c = [(b >> 32) as u32 ^ c[1] ^ k[0], b as u32, (a >> 32) as u32 ^ c[3] ^ k[1], a as u32];
            k = [k[0].wrapping_add(0x9E37_79B9), k[1].wrapping_add(0xBB67_AE85)];
        }
        c
    }
    // Known answers of Random123.
    assert_eq!(rounds([0; 4], [0; 2]), [0x6627_E8D5, 0xE169_C58D, 0xBC57_AC4C, 0x9B00_DBD8]);
    let key = [0xDEAD_BEEF, 42];
    let expected: Vec<u32> = (0..128).flat_map(|i| rounds([i, 7, 0, 0x1234_5678], key)).collect();
    each(SCALAR, "philox", PAIR, &key, (512, None), None, |what, y| assert_eq!(y, expected, "{what}"));
}

/// A product of two words by two, as long arithmetic writes it, and the same in one step: every carry moves on.
#[test]
fn products_of_many_words_carry() {
    let text = common::kernel(
        "ld.global.u32 %r1, [%rd0]; not.b32 %r2, %r1; xor.b32 %r3, %r1, 0x5A5A5A5A; mov.u32 %r4, 0xFFFFFFFE;
    mul.lo.u32 %r5, %r1, %r3; mul.hi.u32 %r6, %r1, %r3;
    mad.lo.cc.u32 %r6, %r2, %r3, %r6; madc.hi.u32 %r7, %r2, %r3, 0;
    mad.lo.cc.u32 %r6, %r1, %r4, %r6; madc.hi.cc.u32 %r7, %r1, %r4, %r7; addc.u32 %r8, 0, 0;
    mad.lo.cc.u32 %r7, %r2, %r4, %r7; madc.hi.u32 %r8, %r2, %r4, %r8;
    mov.b64 %rd1, {%r5, %r6}; mov.b64 %rd2, {%r7, %r8};
    mov.b64 %rd3, {%r1, %r2}; mov.b64 %rd4, {%r3, %r4};
    mul.lo.u64 %rd5, %rd3, %rd4; mov.u64 %rd7, 0;
    mad.lo.cc.u64 %rd8, %rd3, %rd4, -1; madc.hi.u64 %rd6, %rd3, %rd4, %rd7;
    setp.ne.s64 %p1, %rd5, 0; selp.u64 %rd3, 1, 0, %p1; sub.u64 %rd6, %rd6, %rd3;
    xor.b64 %rd1, %rd1, %rd5; xor.b64 %rd2, %rd2, %rd6; or.b64 %rd1, %rd1, %rd2;
    setp.ne.s64 %p2, %rd1, 0; selp.u32 %r9, 1, 0, %p2; st.global.u32 [%rd0], %r9;",
    );
    for wide in [true, false] {
        let mut machine = Machine::new();
        machine.settings.wide = wide;
        let x: Vec<u32> = numbers(32).iter().map(|x| (*x as u32).wrapping_mul(0x9E37_79B9)).collect();
        let out = machine.upload(&x);
        let outcome = machine.run(&text, "k", 1, 32, &out.to_le_bytes());
        assert!(outcome.fault.is_none() && outcome.findings.is_empty(), "{:?} {:?}", outcome.fault, outcome.findings);
        assert_eq!(machine.words(out, 32), [0; 32], "wide {wide}");
    }
}

unsafe extern "C" {
    safe fn erf(x: f64) -> f64;
    safe fn lgamma(x: f64) -> f64;
}

/// The distance from the right result, in units of its last place.
fn ulps32(got: f32, right: f64) -> f64 {
    if got.is_nan() || right.is_nan() || got.is_infinite() || (right as f32).is_infinite() {
        let same = got.is_nan() && right.is_nan() || got == right as f32;
        return if same { 0.0 } else { f64::INFINITY };
    }
    let exponent = (right as f32).abs().max(f32::MIN_POSITIVE).to_bits() >> 23;
    (f64::from(got) - right).abs() / 2f64.powi(exponent as i32 - 150)
}

fn ulps64(got: f64, right: f64) -> f64 {
    if got.is_nan() && right.is_nan() || got == right {
        return 0.0;
    }
    let exponent = right.abs().max(f64::MIN_POSITIVE).to_bits() >> 52;
    // Below 2^-970 the unit itself is subnormal.
    let unit = f64::from_bits(if exponent > 52 { (exponent - 52) << 52 } else { 1 << (exponent - 1) });
    (got - right).abs() / unit
}

/// The errors allowed are those that the CUDA guide gives for each function, and one more where two approximate ones meet.
#[test]
fn mathematical_functions_of_32_bits() {
    let mut x: Vec<f32> = (0..400).map(|i| (i as f32 - 200.0) * 0.137 + 0.01).collect();
    x.extend([0.0, -0.0, 1.0, 1e-30, 1e-42, 1e5, -3e7, 1e10, 88.7, -103.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN]);
    type Function = (&'static str, f64, fn(f64) -> f64);
    let functions: [Function; 12] = [
        ("expf", 2.0, f64::exp),
        ("logf", 2.0, f64::ln),
        ("sinf", 2.0, f64::sin),
        ("cosf", 2.0, f64::cos),
        ("tanhf", 3.0, f64::tanh),
        ("erff", 3.0, |x| erf(x)),
        ("powf", 8.0, |x| x.abs().powf(f64::from(1.7f32))),
        ("log1pf", 2.0, f64::ln_1p),
        ("expm1f", 2.0, f64::exp_m1),
        ("cbrtf", 2.0, f64::cbrt),
        ("atan2f", 4.0, |x| x.atan2(0.75)),
        // Near its zeros on the negative side it is as bad as documented.
        ("lgammaf", 8.0, |x| if x < 0.0 { f64::NAN } else { lgamma(x) }),
    ];
    let words: Vec<u32> = x.iter().map(|x| x.to_bits()).collect();
    let shape = Shape { blocks: 1, threads: 64, shared: 0 };
    each(SCALAR, "math32", shape, &words, (12 * x.len(), None), Some(x.len() as i32), |what, y| {
        for (x, y) in x.iter().zip(y.chunks(12)) {
            for ((name, most, function), y) in functions.iter().zip(y) {
                if *name == "lgammaf" && *x < 0.0 {
                    continue;
                }
                let (got, right) = (f32::from_bits(*y), function(f64::from(*x)));
                assert!(ulps32(got, right) <= *most, "{what}: {name}({x:e}) is {got:e} and not {right:e}");
            }
        }
    });
}

#[test]
fn mathematical_functions_of_64_bits() {
    let mut x: Vec<f64> = (0..200).map(|i| (f64::from(i) - 100.0) * 0.2713 + 0.003).collect();
    x.extend([0.0, 1.0, 1e-300, 1e5, -3e7, 1e15, 709.7, -745.0, f64::INFINITY, f64::NAN]);
    type Function = (&'static str, f64, fn(f64) -> f64);
    // Two units more than documented where the host's own function may be off by one.
    let functions: [Function; 10] = [
        ("exp", 2.0, f64::exp),
        ("log", 2.0, f64::ln),
        ("sin", 3.0, f64::sin),
        ("cos", 3.0, f64::cos),
        ("tanh", 3.0, f64::tanh),
        ("erf", 3.0, |x| erf(x)),
        ("pow", 3.0, |x| x.abs().powf(1.7)),
        ("sqrt", 0.0, f64::sqrt),
        ("1/x", 0.0, |x| 1.0 / x),
        ("atan2", 3.0, |x| x.atan2(0.75)),
    ];
    let words: Vec<u32> = x.iter().flat_map(|x| [x.to_bits() as u32, (x.to_bits() >> 32) as u32]).collect();
    let shape = Shape { blocks: 1, threads: 64, shared: 0 };
    each(SCALAR, "math64", shape, &words, (20 * x.len(), None), Some(x.len() as i32), |what, y| {
        for (x, y) in x.iter().zip(y.chunks(20)) {
            for ((name, most, function), y) in functions.iter().zip(y.chunks(2)) {
                let got = f64::from_bits(u64::from(y[0]) | u64::from(y[1]) << 32);
                let right = function(*x);
                assert!(ulps64(got, right) <= *most, "{what}: {name}({x:e}) is {got:e} and not {right:e}");
            }
        }
    });
}

#[test]
fn constants_and_variables_begin_as_declared() {
    let x = numbers(32).iter().map(|x| *x as u32).collect::<Vec<_>>();
    let (table, small) = ([0.5, -1.25, 3.0, f64::from(1e-20f32), -0.0], [-3.0, 300.0, 7.0]);
    let weights = [[1.0, 2.0, 3.0], [-4.0, 5.5, 6.0]];
    let shape = Shape { blocks: 1, threads: 32, shared: 0 };
    each(MEMORY, "statics", shape, &x, (64, None), None, |what, y| {
        for (i, y) in y.chunks(2).enumerate() {
            let v = table[i % 5] as f32 + small[i % 3] as f32;
            let v = f64::from(v) + weights[i & 1][i % 3] + 5.0 + 3.0 + 0.0;
            let right = v + (3.0 + f64::from(b'w') + (i % 3 + 1) as f64);
            let got = f64::from_bits(u64::from(y[0]) | u64::from(y[1]) << 32);
            assert!((got - right).abs() < 1e-9, "{what}, thread {i}: {got} and not {right}");
        }
    });
}

#[test]
fn local_arrays_are_private_and_reached_both_ways() {
    let x = numbers(64);
    let expected = (0..64).map(|i| {
        let mut a: Vec<i32> = (0..16).map(|j| x[(i + j) % 64]).collect();
        (0..8).for_each(|j| a[i % 4 + j] += j as i32);
        let b = |j: usize| (i * j) as u8;
        let v = x[i] as usize;
        let p = if i % 2 == 1 { a[v % 16] } else { x[(i + 1) % 64] };
        p + i32::from(b(v % 8)) + a[i % 16]
    });
    let shape = Shape { blocks: 1, threads: 64, shared: 0 };
    exact(MEMORY, "locals", shape, &x, None, &expected.collect::<Vec<_>>());
    let next = (0..64).map(|i| x[(i + 1) % 64] + x[i & !3]).collect::<Vec<_>>();
    exact(MEMORY, "dynamic_shared", Shape { shared: 256, ..shape }, &x, None, &next);
}

/// An index that leaves a local array: right while it stays inside, and named when it does not.
#[test]
fn an_index_past_a_local_array_is_found() {
    let shape = Shape { blocks: 1, threads: 32, shared: 0 };
    exact(MEMORY, "overrun", shape, &[1, 3], None, &[5 + 1; 32]);
    exact(MEMORY, "overrun", shape, &[-2, 0], None, &[5 + 5; 32]);
    for (x, at) in [([2, 0], "store of 4 bytes"), ([-3, 0], "store of 4 bytes"), ([0, 4], "load of 4 bytes")] {
        let machine = Machine::new();
        let (input, output) = (machine.upload(&x), machine.alloc(128));
        let params = [input.to_le_bytes(), output.to_le_bytes()].concat();
        let outcome = machine.run_with(MEMORY[0], "overrun", [1, 1, 1], [32, 1, 1], 0, &params);
        let fault = outcome.fault.expect("an access outside the array");
        assert_eq!(fault.code, 700);
        assert!(fault.text.contains(at) && fault.text.contains("local"), "{}", fault.text);
    }
}

/// Variables of a module: a pointer to one of them, and threads that store the same.
#[test]
fn variables_are_counted_up_and_stored() {
    let x: Vec<i32> = (0..32).collect();
    exact(MEMORY, "count", Shape { blocks: 2, threads: 32, shared: 0 }, &x, None, &[0; 32]);
}

/// The committed texts are what the compiler makes of the programs beside them.
#[test]
fn committed_ptx_is_what_nvcc_gives() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign");
    let local = folder.ancestors().map(|at| at.join(".cuda/nvidia/cu13/bin/nvcc")).find(|nvcc| nvcc.exists());
    let nvcc = std::env::var_os("NVCC").map(Into::into).or(local).unwrap_or_else(|| "nvcc".into());
    let version = std::process::Command::new(&nvcc).arg("--version").output();
    if !version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("V13.0.88")) {
        eprintln!("no nvcc 13.0.88 here: the committed PTX is not compared");
        return;
    }
    let out = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("foreign");
    std::fs::create_dir_all(&out).unwrap();
    let script = std::process::Command::new(folder.join("generate.sh")).arg("-o").arg(&out).env("NVCC", nvcc).status();
    assert!(script.unwrap().success());
    let texts = |at: &std::path::Path| {
        let files = std::fs::read_dir(at).unwrap().map(|entry| entry.unwrap().path());
        let ptx = files.filter(|path| path.extension().is_some_and(|extension| extension == "ptx"));
        let read =
            |path: std::path::PathBuf| (path.file_name().unwrap().to_owned(), std::fs::read_to_string(&path).unwrap());
        ptx.map(read).collect::<std::collections::BTreeMap<_, _>>()
    };
    let (committed, made) = (texts(&folder), texts(&out));
    assert_eq!(committed.keys().collect::<Vec<_>>(), made.keys().collect::<Vec<_>>());
    for (name, text) in &committed {
        assert!(*text == made[name], "{name:?} differs: run tests/foreign/generate.sh");
    }
}
