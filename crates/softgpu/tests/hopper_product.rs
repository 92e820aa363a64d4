//! Products of warpgroups: every number of columns, type, layout and transposition against sums of integers, which are
//! exact; and that every fence, commit and wait is missed when it is not there.

mod common;
mod support;

use common::Machine;
use softgpu::check::{Detector, Finding};
use softgpu::driver::tensor::{Tiled, encode};
use softgpu::launch::Outcome;
use support::{Args, Gpu, Run, load, without};

const PRODUCT: &str = include_str!("hopper/product.ptx");
const SEEDS: [u64; 3] = [0, 1, 2];

/// The type of the factors.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Type {
    F16,
    Bf16,
    Tf32,
}

impl Type {
    fn bytes(self) -> usize {
        if self == Type::Tf32 { 4 } else { 2 }
    }
    fn depth(self) -> usize {
        32 / self.bytes()
    }
    fn name(self) -> &'static str {
        ["f16", "bf16", "tf32"][self as usize]
    }
    /// The bits of a small integer.
    fn bits(self, value: i32) -> u32 {
        let f = (value as f32).to_bits();
        match self {
            Type::Tf32 => f,
            Type::Bf16 => f >> 16,
            // The exponent is biased by 15 and not by 127; zero has none.
            Type::F16 if value == 0 => 0,
            Type::F16 => (f >> 16 & 0x8000) | ((f >> 23 & 0xFF) - 112) << 10 | f >> 13 & 0x3FF,
        }
    }
}

/// One product.
#[derive(Clone, Copy, Debug)]
struct Case {
    ty: Type,
    halves: bool,
    n: usize,
    /// The span of the swizzle; 0 for none.
    span: usize,
    registers: bool,
    transposed: [bool; 2],
    adds: bool,
    scales: [i32; 2],
}

const PLAIN: Case = Case {
    ty: Type::Bf16,
    halves: false,
    n: 64,
    span: 128,
    registers: false,
    transposed: [false, false],
    adds: true,
    scales: [1, 1],
};

/// A factor of `lines` rows of A or columns of B: element (line, k).
fn element(seed: i32, line: usize, k: usize) -> i32 {
    (line as i32 * 7 + k as i32 * 5 + seed) % 9 - 4
}

/// Where byte 0 of element (line, k) lies; lines are 8 or a multiple.
fn place(case: Case, transposed: bool, lines: usize, line: usize, k: usize) -> usize {
    let bytes = case.ty.bytes();
    // Rows of the tile as it lies in memory, and columns that lie together.
    let (rows, r, c) = if transposed { (case.ty.depth(), k, line) } else { (lines, line, k) };
    match case.span {
        // Core matrices of eight rows of 16 bytes: all those of eight rows, then the next.
        0 => {
            let (unit, rest) = (c * bytes / 16, c * bytes % 16);
            let units = if transposed { lines / 8 } else { 2 };
            (r / 8 * units + unit) * 128 + r % 8 * 16 + rest
        }
        span => {
            let per = span / bytes;
            let change = (r % 8 * 16 / (128 / span)) & (span - 16);
            c / per * rows * span + r * span + ((c % per * bytes) ^ change)
        }
    }
}

/// The upper part of the descriptor: offsets and swizzle.
fn descriptor(case: Case, transposed: bool, lines: usize) -> u64 {
    let units = if transposed { lines / 8 } else { 2 };
    let (leading, stride) = match (case.span, transposed) {
        (0, false) => (128, 128 * units),
        // Of a transposed factor without swizzle, the stride is the one from unit to unit.
        (0, true) => (128 * units, 128),
        (span, false) => (16, 8 * span),
        (span, true) => (case.ty.depth() * span, 8 * span),
    };
    let mode = match case.span {
        0 => 0u64,
        128 => 1,
        64 => 2,
        _ => 3,
    };
    (leading as u64 / 16) << 16 | (stride as u64 / 16) << 32 | mode << 62
}

fn image(case: Case, transposed: bool, lines: usize, seed: i32) -> Vec<u8> {
    let bytes = case.ty.bytes();
    let mut image = vec![0; 32 * 1024];
    for line in 0..lines {
        for k in 0..case.ty.depth() {
            let at = place(case, transposed, lines, line, k);
            let bits = case.ty.bits(element(seed, line, k)).to_le_bytes();
            image[at..at + bytes].copy_from_slice(&bits[..bytes]);
        }
    }
    image
}

/// A kernel with this product: shared memory comes from `a` and `b`, sums from `c`, 128 words for each of a thread's.
fn kernel(case: Case) -> String {
    let sums = case.n / if case.halves { 4 } else { 2 };
    let list = (0..sums).map(|i| format!("%s{i}")).collect::<Vec<_>>().join(", ");
    let move_all = |verb: &str| {
        (0..sums)
            .map(|i| match verb {
                "ld" => format!("ld.global.b32 %s{i}, [%rd3+{}];\n", 512 * i),
                _ => format!("st.global.b32 [%rd3+{}], %s{i};\n", 512 * i),
            })
            .collect::<String>()
    };
    let d = if case.halves { "f16" } else { "f32" };
    let (ty, depth) = (case.ty.name(), case.ty.depth());
    let factor = if case.registers { "{%q0, %q1, %q2, %q3}" } else { "%rd8" };
    let flags = match (case.ty, case.registers) {
        (Type::Tf32, _) => String::new(),
        (_, true) => format!(", {}", u8::from(case.transposed[1])),
        _ => format!(", {}, {}", u8::from(case.transposed[0]), u8::from(case.transposed[1])),
    };
    let [sa, sb] = case.scales;
    let adds = u8::from(case.adds);
    format!(
        ".version 9.0
.target sm_90a
.address_size 64
.visible .entry k(.param .u64 a, .param .u64 b, .param .u64 c, .param .u64 f, .param .u64 da, .param .u64 db)
{{
    .shared .align 1024 .b8 ta[32768];
    .shared .align 1024 .b8 tb[32768];
    .reg .pred %p<3>;
    .reg .b32 %r<9>;
    .reg .b32 %s<129>;
    .reg .b32 %q<4>;
    .reg .b64 %rd<12>;
    mov.u32 %r0, %tid.x;
    ld.param.u64 %rd1, [a];
    ld.param.u64 %rd2, [b];
    ld.param.u64 %rd3, [c];
    ld.param.u64 %rd4, [f];
    mad.wide.u32 %rd3, %r0, 4, %rd3;
    mad.wide.u32 %rd4, %r0, 16, %rd4;
    mad.wide.u32 %rd1, %r0, 4, %rd1;
    mad.wide.u32 %rd2, %r0, 4, %rd2;
    mov.u32 %r1, ta;
    mov.u32 %r2, tb;
    shl.b32 %r3, %r0, 2;
    add.u32 %r4, %r1, %r3;
    add.u32 %r5, %r2, %r3;
COPY:
    ld.global.b32 %r6, [%rd1]; st.shared.b32 [%r4], %r6;
    ld.global.b32 %r6, [%rd2]; st.shared.b32 [%r5], %r6;
    add.u64 %rd1, %rd1, 512; add.u64 %rd2, %rd2, 512;
    add.u32 %r4, %r4, 512; add.u32 %r5, %r5, 512; add.u32 %r3, %r3, 512;
    setp.lt.u32 %p1, %r3, 32768;
    @%p1 bra COPY;
    fence.proxy.async.shared::cta;
    bar.sync 0;
    ld.global.v4.b32 {{%q0, %q1, %q2, %q3}}, [%rd4];
    ld.param.u64 %rd8, [da];
    ld.param.u64 %rd9, [db];
    shr.u32 %r1, %r1, 4; cvt.u64.u32 %rd5, %r1; or.b64 %rd8, %rd8, %rd5;
    shr.u32 %r2, %r2, 4; cvt.u64.u32 %rd5, %r2; or.b64 %rd9, %rd9, %rd5;
    {}
    setp.eq.u32 %p2, {adds}, 1;
    wgmma.fence.sync.aligned;
    wgmma.mma_async.sync.aligned.m64n{}k{depth}.{d}.{ty}.{ty} {{{list}}}, {factor}, %rd9, %p2, {sa}, {sb}{flags};
    wgmma.commit_group.sync.aligned;
    wgmma.wait_group.sync.aligned 0;
    {}
    ret;
}}
",
        move_all("ld"),
        case.n,
        move_all("st")
    )
}

/// Which row and column the manual gives to element `i` of a thread's sums.
fn of_thread(thread: usize, i: usize) -> (usize, usize) {
    let (warp, lane) = (thread / 32, thread % 32);
    (16 * warp + lane / 4 + if i & 2 != 0 { 8 } else { 0 }, i / 4 * 8 + lane % 4 * 2 + i % 2)
}

fn check(case: Case) {
    let machine = Machine::seeded((case.n as u64 / 8) % 3);
    let a = machine.upload(&image(case, case.transposed[0], 64, 1));
    let b = machine.upload(&image(case, case.transposed[1], case.n, 2));
    let start = |row: usize, column: usize| element(3, row, column);
    let ty = if case.halves { Type::F16 } else { Type::Tf32 };
    let per = if case.halves { 2 } else { 1 };
    let mut sums = vec![0u32; 128 * 128];
    for thread in 0..128 {
        for i in 0..case.n / 2 {
            let (row, column) = of_thread(thread, i);
            sums[128 * (i / per) + thread] |= ty.bits(start(row, column)) << (16 * (i % per));
        }
    }
    let c = machine.upload(&sums);
    // The first factor as fragments.
    let mut fragments = vec![0u32; 4 * 128];
    for thread in 0..128 {
        let (warp, lane) = (thread / 32, thread % 32);
        for register in 0..4 {
            let row = 16 * warp + lane / 4 + 8 * (register % 2);
            let values = 4 / case.ty.bytes();
            for i in 0..values {
                let k = (lane % 4 + 4 * (register / 2)) * values + i;
                fragments[4 * thread + register] |= case.ty.bits(element(1, row, k)) << (16 * i);
            }
        }
    }
    let f = machine.upload(&fragments);
    let (da, db) = (descriptor(case, case.transposed[0], 64), descriptor(case, case.transposed[1], case.n));
    let params: Vec<u8> = [a, b, c, f, da, db].iter().flat_map(|word| word.to_le_bytes()).collect();
    let Outcome { fault, findings, .. } = machine.run(&kernel(case), "k", 1, 128, &params);
    assert!(findings.is_empty() && fault.is_none(), "{case:?}: {fault:?}\n{findings:#?}");
    let got = machine.words(c, 128 * 128);
    for thread in 0..128 {
        for i in 0..case.n / 2 {
            let (row, column) = of_thread(thread, i);
            let sum: i32 = (0..case.ty.depth()).map(|k| element(1, row, k) * element(2, column, k)).sum();
            let wanted = sum * case.scales[0] * case.scales[1] + if case.adds { start(row, column) } else { 0 };
            let word = got[128 * (i / per) + thread] >> (16 * (i % per));
            let word = if case.halves { word & 0xFFFF } else { word };
            assert_eq!(word, ty.bits(wanted), "{case:?}: row {row}, column {column}, expected {wanted}");
        }
    }
}

#[test]
fn every_number_of_columns() {
    for n in (8..=256).step_by(8) {
        check(Case { n, ..PLAIN });
    }
}

#[test]
fn every_type_with_factors_in_memory_and_in_registers() {
    for ty in [Type::F16, Type::Bf16, Type::Tf32] {
        for registers in [false, true] {
            for (n, span, adds) in [(8, 0, true), (40, 32, false), (96, 64, true), (128, 128, true)] {
                check(Case { ty, registers, n, span, adds, ..PLAIN });
            }
        }
    }
    for (n, registers) in [(8, false), (64, true), (256, false)] {
        check(Case { ty: Type::F16, halves: true, n, registers, ..PLAIN });
    }
}

#[test]
fn every_layout_and_transposition() {
    for span in [0, 32, 64, 128] {
        for transposed in [[false, false], [true, false], [false, true], [true, true]] {
            for ty in [Type::F16, Type::Bf16] {
                check(Case { ty, span, transposed, n: 128, ..PLAIN });
            }
        }
        check(Case { span, registers: true, transposed: [false, true], n: 64, ..PLAIN });
    }
}

#[test]
fn factors_may_be_negated() {
    for scales in [[-1, 1], [1, -1], [-1, -1]] {
        check(Case { scales, n: 24, ..PLAIN });
        check(Case { scales, registers: true, ty: Type::Tf32, n: 16, ..PLAIN });
    }
}

/// Two products in a chain over several rounds: what it did, and the output.
fn chain(text: &str, seed: u64, rounds: usize) -> (Run, Vec<u32>) {
    let gpu = Gpu::new(seed);
    let matrix = |rows: usize, seed: i32| -> Vec<u8> {
        let bits = |i: usize| Type::Bf16.bits(element(seed, i / 64, i % 64)) as u16;
        (0..rows * rounds * 64).flat_map(|i| bits(i).to_le_bytes()).collect()
    };
    let (a, b) = (gpu.upload_bytes(&matrix(64, 1)), gpu.upload_bytes(&matrix(8, 2)));
    let map = |address, rows: usize| {
        let (sizes, extent) = (vec![64, (rows * rounds) as u64], vec![64, rows as u32]);
        let tiled = Tiled {
            kind: 9,
            address,
            sizes,
            strides: vec![128],
            extent,
            steps: vec![1, 1],
            swizzle: 3,
            ..Tiled::default()
        };
        encode(&tiled).unwrap().iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>()
    };
    let out = gpu.alloc(64 * 8 * 4);
    let args = Args::default().bytes(&map(a, 64), 128).bytes(&map(b, 8), 128).u64(out).i32(rounds as i32);
    let run = gpu.launch(&load(text), "chain", 1, 128, 0, args);
    (run, gpu.words(out, 64 * 8))
}

#[test]
fn a_chain_of_products_is_clean_under_every_schedule() {
    for seed in SEEDS {
        let (run, out) = chain(PRODUCT, seed, 3);
        run.assert_clean();
        for (i, bits) in out.into_iter().enumerate() {
            let (row, column) = (i / 8, i % 8);
            let dot = |round: usize| -> i32 {
                (0..32).map(|k| element(1, 64 * round + row, k) * element(2, 8 * round + column, k)).sum()
            };
            // The second factor of the second product is the identity, and the scores are exact in bf16 up to 256.
            let sum: i32 = (0..3).map(dot).sum();
            assert_eq!(f32::from_bits(bits), sum as f32, "row {row}, column {column}");
        }
    }
}

#[track_caller]
fn first(run: &Run, removed: &str) -> Finding {
    let finding = run.findings.first().unwrap_or_else(|| panic!("without {removed}: silent"));
    assert!(finding.at.place.contains("product.cu:"), "{removed}: {finding}");
    assert!(run.fault.is_some());
    finding.clone()
}

#[test]
fn every_missing_fence_commit_and_wait_of_the_chain_is_reported() {
    let mut count = 0;
    for part in [
        "wgmma.fence",
        "wgmma.commit_group",
        "wgmma.wait_group",
        "fence.proxy.async",
        "fence.mbarrier_init",
        "mbarrier.init",
        "mbarrier.arrive.expect_tx",
        "mbarrier.try_wait",
        "bar.sync",
    ] {
        for n in 0.. {
            let Some((text, removed)) = without(PRODUCT, "chain", part, n) else {
                assert!(n > 0, "the kernel has no {part}");
                break;
            };
            count += 1;
            for seed in SEEDS {
                let (run, _) = chain(&text, seed, 3);
                first(&run, &removed);
            }
        }
    }
    assert!(count >= 13, "only {count} instructions were taken away");
}

#[test]
fn reports_say_what_is_wrong_with_registers() {
    for (part, n, words) in [
        ("wgmma.wait_group", 0, "reads a register to which a product under way brings its sum"),
        ("wgmma.fence", 0, "the first product of a warp, with no wgmma.fence before it"),
        ("wgmma.fence", 1, "a factor in registers was used since the last wgmma.fence"),
        ("wgmma.commit_group", 0, "reads a register to which a product under way brings its sum"),
    ] {
        let (text, removed) = without(PRODUCT, "chain", part, n).unwrap();
        let (run, _) = chain(&text, 0, 2);
        let finding = first(&run, &removed);
        assert_eq!(finding.detector, Detector::Product, "{finding}");
        let report = run.findings.iter().map(ToString::to_string).collect::<String>();
        assert!(report.contains(words), "{words:?} is missing in\n{report}");
    }
}

#[test]
fn what_products_read_must_not_be_overwritten_before_the_wait() {
    // A thread clears a word of the second factor while a product may still read it.
    let at = PRODUCT.find("wgmma.commit_group").unwrap();
    let store = "st.shared.b32 [_ZZ5chainE1b], 0;\n";
    let text = format!("{}{store}{}", &PRODUCT[..at], &PRODUCT[at..]);
    let (run, _) = chain(&text, 0, 1);
    let races: Vec<_> =
        run.findings.iter().filter(|f| f.detector == Detector::SharedRace).map(ToString::to_string).collect();
    assert!(races.iter().any(|race| race.contains("wgmma.mma_async") && race.contains("asynchronously")), "{races:#?}");
}

#[test]
fn warps_of_a_warpgroup_multiply_together() {
    let at = PRODUCT.find("wgmma.mma_async").unwrap();
    let line = PRODUCT[..at].rfind('\n').unwrap() + 1;
    // One warp gives another descriptor.
    let text = format!(
        "{}{{ .reg .pred q; .reg .b32 t; .reg .b64 u; mov.u32 t, %tid.x; setp.ge.u32 q, t, 96; selp.b64 u, 2, 0, q;\nadd.u64 %rd8, %rd8, u; }}\n{}",
        &PRODUCT[..line],
        &PRODUCT[line..]
    );
    let (run, _) = chain(&text, 0, 1);
    let report = run.findings[0].to_string();
    assert!(report.contains("different descriptors"), "{report}");
}

#[test]
fn a_product_that_one_warp_leaves_out_is_reported() {
    let at = PRODUCT.find("wgmma.mma_async").unwrap();
    let line = PRODUCT[..at].rfind('\n').unwrap() + 1;
    let skip = "{ .reg .pred q; .reg .b32 t; mov.u32 t, %tid.x; setp.ge.u32 q, t, 96; @q bra SKIP; }\n";
    let end = line + PRODUCT[line..].find('\n').unwrap();
    // The line ends a scope of its own.
    let product = PRODUCT[line..end].trim_end_matches('}');
    let text = format!("{}{skip}{product}\nSKIP: }}{}", &PRODUCT[..line], &PRODUCT[end..]);
    let (run, _) = chain(&text, 0, 1);
    let report = run.findings.iter().map(ToString::to_string).collect::<String>();
    assert!(report.contains("different products") || report.contains("the others never did"), "{report}");
}

#[test]
fn registers_are_given_and_taken_within_the_block() {
    let gpu = Gpu::new(0);
    let out = gpu.alloc(1024);
    let launch = |text: &str| gpu.launch(&load(text), "registers", 1, 256, 0, Args::default().u64(out));
    launch(PRODUCT).assert_clean();
    for (from, to, words) in [
        ("dec.sync.aligned.u32 40", "dec.sync.aligned.u32 248", "waits for ever"),
        ("dec.sync.aligned.u32 40", "inc.sync.aligned.u32 40", "setmaxnreg up to 40"),
        ("inc.sync.aligned.u32 256", "dec.sync.aligned.u32 256", "setmaxnreg down to 256"),
    ] {
        let run = launch(&PRODUCT.replace(from, to));
        let report = run.findings.iter().map(ToString::to_string).collect::<String>();
        assert!(report.contains(words) && report.contains("product.cu:"), "{words:?} is missing in\n{report}");
    }
}
