//! Memory barriers, and copies in bulk between the thread's cells in device and in shared memory.

use super::golden::{self, Goldens};
use super::gpu::Gpu;
use super::inputs::Random;
use super::{table, with_gpu};

const THREADS: usize = 32;
/// Words of 64 bits in a cell.
const WORDS: usize = 16;
/// What a program gives besides its cells: predicate `%p1`, register `%r5`, whether the barrier's first phase is over.
const REST: usize = 3;

/// The kernel: device memory holds a cell for each thread at `%rd0`, shared memory the same words in reverse at `%r1`. In
/// the end both are given, without the word of a memory barrier, which is opaque.
fn kernel(statement: &str) -> String {
    let barrier = statement.contains("mbarrier.init");
    let lives = barrier && !statement.contains("inval");
    let test = if lives { "mbarrier.test_wait.parity.shared.b64 %p2, [%r1], 0;" } else { "" };
    let fill: String = (0..WORDS)
        .map(|w| format!("ld.global.u64 %rd5, [%rd0+{}]; st.shared.u64 [%r1+{}], %rd5;\n", 8 * w, 8 * (WORDS - 1 - w)))
        .collect();
    let give = |n: usize, value: &str| format!("st.global.u64 [%rd4+{}], {value};\n", 8 * n * THREADS);
    let cells: String = (0..WORDS)
        .flat_map(|w| {
            let hidden = if barrier && w == 0 { "mov.u64 %rd5, 0;" } else { "" };
            [
                format!("ld.global.u64 %rd5, [%rd0+{}];\n{}", 8 * w, give(w, "%rd5")),
                format!("ld.shared.u64 %rd5, [%r1+{}]; {hidden}\n{}", 8 * w, give(WORDS + w, "%rd5")),
            ]
        })
        .collect();
    format!(
        ".version 9.0
.target TARGET
.address_size 64
.visible .entry k(.param .u64 from, .param .u64 to, .param .u32 n)
{{
    .shared .align 128 .b8 tile[4096];
    .reg .pred %p<10>;
    .reg .b32 %r<20>;
    .reg .b64 %rd<12>;
    mov.u32 %r0, %tid.x;
    ld.param.u64 %rd0, [from];
    ld.param.u64 %rd4, [to];
    mad.wide.u32 %rd0, %r0, 128, %rd0;
    mad.wide.u32 %rd4, %r0, 8, %rd4;
    mov.u32 %r1, tile;
    mad.lo.u32 %r1, %r0, 128, %r1;
    cvt.u64.u32 %rd1, %r1;
    cvta.shared.u64 %rd1, %rd1;
    createpolicy.fractional.L2::evict_last.b64 %rd9, 0f3F000000;
    {fill}
    mov.u32 %r5, 0; setp.ne.u32 %p1, %r0, %r0; setp.ne.u32 %p2, %r0, %r0;
    bar.sync 0;
    {statement}
    {test}
    {cells}
    selp.u64 %rd5, 1, 0, %p1; {}
    cvt.u64.u32 %rd5, %r5; {}
    selp.u64 %rd5, 1, 0, %p2; {}
    ret;
}}
",
        give(2 * WORDS, "%rd5"),
        give(2 * WORDS + 1, "%rd5"),
        give(2 * WORDS + 2, "%rd5")
    )
}

/// The bits of a small number, of whatever kind the reduction adds; else any bits.
fn value(random: &mut Random, text: &str) -> u64 {
    let bits = random.next();
    let small = |n: u32| (bits >> (8 * n)) as i8 as f32;
    if text.contains("f64") {
        return f64::from(small(0)).to_bits();
    }
    let half = |n: u32| {
        let f = small(n).to_bits() >> 13;
        // The exponent is biased by 15 and not by 127; zero has none.
        if f & 0x3_FFFF == 0 { 0 } else { u64::from((f >> 3 & 0x8000) | ((f & 0x3_FFFF) - (112 << 10))) }
    };
    let all = |size: u32, one: &dyn Fn(u32) -> u64| (0..64 / size).map(|n| one(n) << (size * n)).fold(0, |a, b| a | b);
    match text {
        _ if text.contains("bf16") => all(16, &|n| u64::from(small(n).to_bits() >> 16)),
        _ if text.contains("f16") => all(16, &half),
        _ if text.contains("f32") => all(32, &|n| u64::from(small(n).to_bits())),
        _ => bits,
    }
}

/// What a reduction makes of two elements.
fn reduced(name: &str, ty: &str, old: u64, with: u64) -> u64 {
    let signed = |v: u64| if ty.contains("64") { v as i64 } else { i64::from(v as u32 as i32) };
    let half = |v: u64| {
        let (sign, exponent, rest) = (v >> 15, (v >> 10 & 31) as i32, (v & 1023) as f64);
        let size = if exponent == 0 { 0.0 } else { (1.0 + rest / 1024.0) * f64::from(exponent - 15).exp2() };
        if sign == 1 { -size } else { size }
    };
    let to_half = |f: f64| {
        if f == 0.0 {
            0
        } else {
            u64::from(
                ((f as f32).to_bits() >> 16 & 0x8000) | (((f as f32).to_bits() & 0x7FFF_FFFF) >> 13) - (112 << 10),
            )
        }
    };
    match (name, ty) {
        ("add", "f32") => u64::from((f32::from_bits(old as u32) + f32::from_bits(with as u32)).to_bits()),
        ("add", "f64") => (f64::from_bits(old) + f64::from_bits(with)).to_bits(),
        ("add", "f16") => to_half(half(old) + half(with)),
        ("add", "bf16") => {
            let [a, b] = [old, with].map(|v| f32::from_bits((v as u32) << 16));
            u64::from((a + b).to_bits() >> 16)
        }
        ("add", _) => old.wrapping_add(with),
        ("min", "s32" | "s64") => {
            if signed(with) < signed(old) {
                with
            } else {
                old
            }
        }
        ("max", "s32" | "s64") => {
            if signed(with) > signed(old) {
                with
            } else {
                old
            }
        }
        ("min", _) => old.min(with),
        ("max", _) => old.max(with),
        ("inc", _) => {
            if old >= with {
                0
            } else {
                old + 1
            }
        }
        ("dec", _) => {
            if old == 0 || old > with {
                with
            } else {
                old - 1
            }
        }
        ("and", _) => old & with,
        ("or", _) => old | with,
        _ => old ^ with,
    }
}

/// What a program must give, of the cell that a thread starts with.
fn expected(text: &str, cell: &[u64]) -> Vec<u64> {
    let (mut global, mut shared) = (cell.to_vec(), cell.iter().rev().copied().collect::<Vec<u64>>());
    let (mut p1, mut r5, mut over) = (0, 0, 0);
    if text.contains("mbarrier.init") {
        shared[0] = 0;
        p1 = u64::from(text.contains("_wait.parity") && text.contains("], 1;"));
        r5 = 2 * u64::from(text.contains("pending_count"));
        // Two arrivals at once, where two are expected.
        over =
            u64::from(text.contains("mbarrier.arrive") && text.ends_with(", 2;") && text.matches(", 2;").count() == 2);
    }
    if text.contains("complete_tx::bytes") {
        shared[2..4].copy_from_slice(&global[..2]);
        (p1, over) = (1, 1);
    } else if let Some(at) = text.find("cp.reduce.async.bulk.global.shared::cta.bulk_group.") {
        let opcode = text[at..].split(' ').next().unwrap_or_default();
        let mods: Vec<&str> = opcode.split('.').collect();
        let (name, ty) = (mods[7], mods[mods.len() - 1]);
        let size: u32 = ty.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().expect("a width");
        let mask = u64::MAX >> (64 - size);
        for (old, with) in global.iter_mut().zip(&shared).take(8) {
            let each = (0..64 / size).map(|n| reduced(name, ty, *old >> (n * size) & mask, with >> (n * size) & mask));
            *old = each.enumerate().fold(0, |all, (n, value)| all | (value & mask) << (n as u32 * size));
        }
    } else if text.contains("cp.async.bulk.global") {
        global[..8].copy_from_slice(&shared[..8]);
    }
    global.into_iter().chain(shared).chain([p1, r5, over]).collect()
}

/// Runs a program: what is wrong, and its answer for the goldens.
fn run(gpu: &Gpu, text: &str, ptx: &str) -> Result<(Vec<String>, String), String> {
    let mut random = Random(97);
    let cells: Vec<u64> = (0..WORDS * THREADS).map(|_| value(&mut random, text)).collect();
    let outputs = gpu.run_in_blocks(ptx, std::slice::from_ref(&cells), 2 * WORDS + REST, THREADS, 32)?;
    let mut wrong = Vec::new();
    for (i, cell) in cells.chunks(WORDS).enumerate() {
        let got: Vec<u64> = outputs.iter().map(|column| column[i]).collect();
        let wanted = expected(text, cell);
        if got != wanted {
            wrong.push(format!("`{text}`: thread {i} gives\n{got:x?}, not\n{wanted:x?}"));
        }
    }
    Ok((wrong, golden::digests(&outputs)))
}

#[test]
fn what_works_beside_the_threads_does_what_it_must() {
    with_gpu(|gpu| {
        let goldens = Goldens::recorded(gpu, "beside");
        let mut written = Goldens::new(&gpu.name);
        let (forms, mut failures) = (table::forms_of("beside"), Vec::new());
        for text in &forms {
            match run(gpu, text, &kernel(text)) {
                Err(why) if !gpu.software => println!("not on this device: `{text}`: {why}"),
                Err(why) => panic!("`{text}` does not load: {why}"),
                Ok((wrong, answer)) => {
                    failures.extend(wrong.into_iter().take(1));
                    failures.extend(goldens.iter().filter_map(|golden| golden.differs(text, &answer)));
                    written.put(text, answer);
                }
            }
        }
        written.write("beside");
        println!("{}: {} programs of what works beside the threads", gpu.name, forms.len());
        assert!(forms.len() > 80, "only {} forms", forms.len());
        assert!(failures.is_empty(), "{} failures, the first: {}", failures.len(), failures[0]);
    });
}

/// A neighbour in place of the statement is found out.
#[test]
fn another_copy_is_noticed() {
    with_gpu(|gpu| {
        let forms = table::forms_of("beside");
        for (part, from, to) in [
            ("bulk_group.add.u32", "add.u32", "max.u32"),
            ("complete_tx::bytes [%r1+16]", "bytes [%r1+16]", "bytes [%r1+32]"),
            ("pending_count", "[%r1], 2;", "[%r1], 3;"),
        ] {
            let text = forms.iter().find(|text| text.contains(part)).expect("the form is listed");
            let ptx = kernel(text);
            assert_eq!(run(gpu, text, &ptx).expect("it runs").0, Vec::<String>::new());
            assert!(ptx.contains(from));
            assert!(!run(gpu, text, &ptx.replacen(from, to, 1)).expect("it runs").0.is_empty(), "{to}");
        }
    });
}
