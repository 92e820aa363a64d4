//! Copies that a thread waits for, and rows of matrices: between device memory, shared memory and registers.

use super::cell::{CELL, bits_at, operands};
use super::form::{Register, register};
use super::golden::{self, Goldens};
use super::gpu::Gpu;
use super::inputs::Random;
use super::memory::kernel;
use super::{table, with_gpu};

/// Threads of the programs: four warps.
const THREADS: usize = 128;
const WORDS: usize = CELL / 8;

fn cells() -> Vec<[u8; CELL]> {
    let mut random = Random(31);
    let mut cells = vec![[0; CELL]; THREADS];
    let words = cells.iter_mut().flat_map(|cell| cell.chunks_exact_mut(8));
    words.for_each(|word| word.copy_from_slice(&random.next().to_le_bytes()));
    cells
}

fn words(cell: &[u8; CELL]) -> Vec<u64> {
    (0..WORDS).map(|i| bits_at(cell, 8 * i, 8)).collect()
}

/// What a program must leave of the threads' cells and give in registers.
struct Case {
    name: String,
    ptx: String,
    columns: Vec<Vec<u64>>,
    memory: Vec<[u8; CELL]>,
    registers: Vec<Vec<u64>>,
}

/// Runs a program: what is wrong, and its answer for the goldens.
fn run(gpu: &Gpu, case: &Case) -> Result<(Vec<String>, String), String> {
    let mut inputs = vec![cells().iter().flat_map(words).collect::<Vec<u64>>()];
    inputs.extend_from_slice(&case.columns);
    let outputs = gpu.run(&case.ptx, &inputs, WORDS + case.registers[0].len(), THREADS)?;
    let mut wrong = Vec::new();
    for (i, got) in outputs[..WORDS].concat().chunks(WORDS).enumerate() {
        if got != words(&case.memory[i]) {
            wrong.push(format!("`{}`: thread {i} has\n{got:x?}, not\n{:x?}", case.name, words(&case.memory[i])));
        }
        let got: Vec<u64> = outputs[WORDS..].iter().map(|column| column[i]).collect();
        if got != case.registers[i] {
            wrong.push(format!("`{}`: thread {i} gets {got:x?}, not {:x?}", case.name, case.registers[i]));
        }
    }
    Ok((wrong, golden::digests(&outputs)))
}

/// Runs the programs of a family.
fn run_all(family: &str, cases: &[Case]) {
    with_gpu(|gpu| {
        let goldens = Goldens::recorded(gpu, family);
        let mut written = Goldens::new(&gpu.name);
        let mut failures = Vec::new();
        for case in cases {
            match run(gpu, case) {
                Err(why) if !gpu.software => println!("not on this device: `{}`: {why}", case.name),
                Err(why) => panic!("`{}` does not load: {why}", case.name),
                Ok((wrong, answer)) => {
                    failures.extend(wrong);
                    failures.extend(goldens.iter().filter_map(|golden| golden.differs(&case.name, &answer)));
                    written.put(&case.name, answer);
                }
            }
        }
        written.write(family);
        println!("{}: {} programs of {family}", gpu.name, cases.len());
        assert!(failures.is_empty(), "{} failures, the first: {}", failures.len(), failures[0]);
    });
}

/// The cells after their first `bytes` were copied from `shift` bytes further on, zeros behind the first `length`.
fn copied(
    cells: &[[u8; CELL]],
    from: usize,
    to: usize,
    bytes: usize,
    length: impl Fn(usize) -> usize,
) -> Vec<[u8; CELL]> {
    let copy = |(i, cell): (usize, &[u8; CELL])| {
        let mut after = *cell;
        for at in 0..bytes {
            after[to + at] = if at < length(i) { cell[from + at] } else { 0 };
        }
        after
    };
    cells.iter().enumerate().map(copy).collect()
}

/// `cp.async` from the middle of the thread's cell in device memory to the start of its cell in shared memory, and waits.
fn copy(text: &str) -> Case {
    let (opcode, rest) = text.trim_end_matches(';').split_once(' ').unwrap_or((text.trim_end_matches(';'), ""));
    let predicates: Vec<u64> = (0..THREADS as u64).map(|i| u64::from(i % 3 == 0)).collect();
    let cells = cells();
    let back = "shared.u64 %x0, [%own";
    let set_up = "    add.u64 %rd0, %from, 64;\n    createpolicy.fractional.L2::evict_last.b64 %rd9, 0f3F000000;\n";
    let read = register("%p1").expect("a register").read();
    let (statement, memory) = match opcode {
        "cp.async.commit_group" | "cp.async.wait_group" => {
            // Three groups of one copy each; what need not have come is not looked at before all is waited for.
            let group = |i: usize| {
                format!("cp.async.ca.shared.global [%r1+{}], [%rd0+{}], 8;\n    cp.async.commit_group;\n", 8 * i, 8 * i)
            };
            let come = 3usize.saturating_sub(rest.parse().unwrap_or(0));
            // What has come moves on to the end of the cell.
            let kept: String = (0..come)
                .map(|i| {
                    format!("    ld.shared.u64 %x1, [%r1+{}];\n    st.shared.u64 [%r1+{}], %x1;\n", 8 * i, 96 + 8 * i)
                })
                .collect();
            let wait = if opcode.ends_with("wait_group") { text } else { "cp.async.wait_group 0;" };
            let statement = format!("    {}{}{}    {wait}\n{kept}    cp.async.wait_all;", group(0), group(1), group(2));
            let mut memory = copied(&cells, 64, 0, 24, |_| 24);
            for (after, before) in memory.iter_mut().zip(&cells) {
                after[96..96 + 8 * come].copy_from_slice(&before[64..64 + 8 * come]);
            }
            (statement, memory)
        }
        "cp.async.wait_all" => {
            let statement = "    cp.async.cg.shared.global [%r1], [%rd0], 16;\n    cp.async.wait_all;".to_string();
            (statement, copied(&cells, 64, 0, 16, |_| 16))
        }
        _ => {
            let operands = operands(rest);
            let bytes: usize = operands[2].parse().expect("a number of bytes");
            let predicate = |i: usize, ignores: bool| if (predicates[i] == 1) == ignores { 0 } else { bytes };
            let length = |i: usize| match operands.get(3).map(String::as_str) {
                Some("%p1") => predicate(i, true),
                Some("!%p1") => predicate(i, false),
                Some("%rd9") | None => bytes,
                Some(length) => length.parse().expect("a number of bytes"),
            };
            (format!("    {text}\n    cp.async.wait_all;"), copied(&cells, 64, 0, bytes, length))
        }
    };
    Case {
        name: text.into(),
        ptx: kernel(&(set_up.to_string() + &read), &statement, back, &[]),
        columns: vec![predicates],
        memory,
        registers: vec![Vec::new(); THREADS],
    }
}

#[test]
fn copies_arrive_whole_and_where_they_must() {
    let cases: Vec<Case> = table::forms_of("copies").iter().map(|text| copy(text)).collect();
    assert!(cases.len() > 30, "only {} forms", cases.len());
    run_all("copies", &cases);
}

/// `ldmatrix` and `stmatrix`: row `r` of matrix `m` starts in the cell of lane `8m + r`.
fn rows(text: &str) -> Case {
    let (opcode, rest) = text.trim_end_matches(';').split_once(' ').expect("operands");
    let mods: Vec<&str> = opcode.split('.').collect();
    let (transposed, loads) = (mods.contains(&"trans"), mods[0] == "ldmatrix");
    let operands = operands(rest);
    let list = &operands[usize::from(!loads)];
    let registers: Vec<Register> =
        list.trim_matches(['{', '}']).split(',').map(|name| register(name.trim()).expect("a register")).collect();
    let offset = if rest.contains("+16") { 16 } else { 0 };
    let mut memory = cells();
    let mut random = Random(77);
    let columns: Vec<Vec<u64>> =
        registers.iter().map(|_| (0..THREADS).map(|_| random.next() & 0xffff_ffff).collect()).collect();
    let mut results = vec![Vec::new(); THREADS];
    for lane in 0..THREADS {
        let (first, t) = (lane & !31, lane % 32);
        for (m, column) in columns.iter().enumerate() {
            let mut word = 0;
            for half in 0..2 {
                // Lane t holds elements 2(t mod 4) and the next of row t / 4; transposed, of column t / 4.
                let (row, place) = if transposed { (2 * (t % 4) + half, t / 4) } else { (t / 4, 2 * (t % 4) + half) };
                let (owner, at) = (first + 8 * m + row, offset + 2 * place);
                if loads {
                    word |= bits_at(&memory[owner], at, 2) << (16 * half);
                } else {
                    let bits = (column[lane] >> (16 * half)) as u16;
                    memory[owner][at..at + 2].copy_from_slice(&bits.to_le_bytes());
                }
            }
            if loads {
                results[lane].push(word);
            }
        }
    }
    let set_up: String = if loads { String::new() } else { registers.iter().map(Register::read).collect() };
    let statement = format!("    bar.sync 0;\n    {text}\n    bar.sync 0;");
    let outs = if loads { registers.as_slice() } else { &[] };
    Case {
        name: text.into(),
        ptx: kernel(&set_up, &statement, "shared.u64 %x0, [%own", outs),
        columns: if loads { Vec::new() } else { columns },
        memory,
        registers: results,
    }
}

#[test]
fn rows_of_matrices_go_where_they_must() {
    let cases: Vec<Case> = table::forms_of("rows").iter().map(|text| rows(text)).collect();
    assert!(cases.len() > 12, "only {} forms", cases.len());
    run_all("rows", &cases);
}

/// A neighbour in place of the statement is found out.
#[test]
fn another_statement_is_noticed() {
    with_gpu(|gpu| {
        let plain = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r5, %r6, %r7, %r8}, [%r1];";
        let filled = "cp.async.ca.shared.global [%r1], [%rd0], 16, 6;";
        for (mut case, text, other) in [
            (rows(plain), "m8n8.x4", "m8n8.x4.trans"),
            (rows(plain), "{%r5, %r6", "{%r6, %r5"),
            (copy(filled), "16, 6;", "16, 7;"),
            (copy("cp.async.ca.shared.global [%r1], [%rd0], 8;"), "[%rd0], 8;", "[%rd0], 4;"),
        ] {
            assert_eq!(run(gpu, &case).expect("it runs").0, Vec::<String>::new());
            assert!(case.ptx.contains(text));
            case.ptx = case.ptx.replace(text, other);
            assert!(!run(gpu, &case).expect("it runs").0.is_empty(), "{other}");
        }
    });
}
