//! Loads, stores, atomic operations and reductions of every space, order, type and width: each thread has 128 bytes, on
//! which the statement runs once; what registers and all 128 bytes hold then is compared. Atomic operations whose order
//! does not matter also run with all threads on the same bytes.

use super::cell::{self, Access, CELL, Space, is_nan};
use super::expect::half::bits_of;
use super::expect::round::{BF16, F16};
use super::form::{Register, register};
use super::golden::{self, Goldens};
use super::gpu::{BLOB, Gpu};
use super::inputs::{Random, edges_of};
use super::{table, with_gpu};

/// Words of a thread's memory.
const WORDS: usize = CELL / 8;
/// Threads of a block, which all meet on one cell where they contend.
const BLOCK: usize = 128;
/// Statements without a result: they must run and change nothing.
const HINTS: [&str; 4] = ["prefetch", "prefetchu", "applypriority", "discard"];

/// A kernel around a statement. It leaves the thread's cell in the first `WORDS` columns of outputs, then `outs`.
pub fn kernel(setup: &str, statement: &str, copy_back: &str, outs: &[Register]) -> String {
    let fixed = BLOB.map(|byte| byte.to_string()).join(", ");
    let each = |text: &str| (0..WORDS).map(|i| text.replace('#', &(8 * i).to_string())).collect::<String>();
    let copy_in = each(
        "    ld.global.u64 %x0, [%from+#];\n    st.global.u64 [%to+#], %x0;\n    st.shared.u64 [%own+#], %x0;\n    st.local.u64 [%rd3+#], %x0;\n",
    );
    let copy_back = match copy_back {
        "" => String::new(),
        from => each(&format!("    ld.{from}+#];\n    st.global.u64 [%to+#], %x0;\n")),
    };
    let written: String = outs.iter().map(Register::written).collect();
    format!(
        ".version 8.6
.target TARGET
.address_size 64
.const .align 16 .b8 fixed[64] = {{{fixed}}};
.visible .entry k(.param .u64 in, .param .u64 out, .param .u32 n, .param .align 16 .b8 blob[64])
{{
    .reg .pred %p<10>;
    .reg .b16 %h<10>;
    .reg .b32 %r<20>, %y<2>, %own, %n;
    .reg .f32 %f<10>;
    .reg .b64 %rd<12>, %x<2>, %in, %out, %step, %from, %to;
    .reg .f64 %d<10>;
    .shared .align 128 .b8 tile[{tile}];
    .local .align 128 .b8 own[{CELL}];
    ld.param.u64 %in, [in];
    ld.param.u64 %out, [out];
    ld.param.u32 %n, [n];
    mov.u32 %r10, %ctaid.x;
    mov.u32 %r11, %ntid.x;
    mov.u32 %r0, %tid.x;
    mad.lo.u32 %r10, %r10, %r11, %r0;
    mul.wide.u32 %step, %n, 8;
    mad.wide.u32 %from, %r10, {CELL}, %in;
    mad.wide.u32 %to, %r10, {CELL}, %out;
    mad.lo.u64 %in, %step, {WORDS}, %in;
    mad.lo.u64 %out, %step, {WORDS}, %out;
    mad.wide.u32 %in, %r10, 8, %in;
    mad.wide.u32 %out, %r10, 8, %out;
    mov.u32 %own, tile;
    mad.lo.u32 %own, %r0, {CELL}, %own;
    mov.u64 %rd3, own;
    cvta.local.u64 %rd2, %rd3;
    mov.u32 %r1, %own;
    mov.u64 %rd0, %to;
{copy_in}{setup}    cvt.u64.u32 %rd1, %r1;
    cvta.shared.u64 %rd1, %rd1;
{statement}
{written}{copy_back}    ret;
}}
",
        tile = BLOCK * CELL,
    )
}

/// Where what a statement did is read back from.
fn back(space: Space) -> &'static str {
    match space {
        Space::Shared => "shared.u64 %x0, [%own",
        Space::Local => "local.u64 %x0, [%rd3",
        _ => "",
    }
}

/// One program's inputs and what must come of them.
struct Case {
    ptx: String,
    cells: Vec<[u8; CELL]>,
    columns: Vec<Vec<u64>>,
    /// Registers for each thread.
    registers: Vec<Vec<u64>>,
    /// For each thread its bytes, and where they hold a NaN of some payload: its place and size.
    memory: Vec<[u8; CELL]>,
    nans: Vec<Vec<(usize, usize)>>,
    ty: String,
}

fn put(cell: &mut [u8; CELL], at: usize, bytes: usize, bits: u64) {
    cell[at..at + bytes].copy_from_slice(&bits.to_le_bytes()[..bytes]);
}

fn random_cell(random: &mut Random) -> [u8; CELL] {
    let mut cell = [0; CELL];
    cell.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&random.next().to_le_bytes()));
    cell
}

/// Every pair of an element in memory and an operand among the edge values, then random bits.
fn apart(access: &Access) -> Case {
    let (edges, mut random) = (edges_of(access.ty()), Random(access.text.len() as u64));
    let inputs = access.inputs();
    let pairs = if inputs.is_empty() || access.op == "st" { edges.len() } else { edges.len() * edges.len() };
    let n = pairs.next_multiple_of(BLOCK) + BLOCK;
    let (mut cells, mut rows) = (Vec::new(), Vec::new());
    for i in 0..n {
        let mut cell = random_cell(&mut random);
        let mut row: Vec<u64> = inputs.iter().map(|_| random.next()).collect();
        if i < pairs {
            for k in 0..access.count() {
                put(&mut cell, access.at(k), access.bytes(), edges[(i + 5 * k) % edges.len()]);
            }
            for (k, value) in row.iter_mut().enumerate() {
                *value = edges[(i / edges.len() + i + 3 * k) % edges.len()];
            }
        }
        if access.action() == "cas" && i % 2 == 0 {
            // Else hardly any would find what it compares with.
            row[0] = cell::bits_at(&cell, access.at(0), access.bytes());
        }
        cells.push(cell);
        rows.push(row);
    }
    let mut setup: String = inputs.iter().map(|register| register.read()).collect();
    if access.has("nc") {
        setup += "    mov.u64 %rd0, %from;\n";
    }
    if access.text.contains("%rd9") {
        setup += "    createpolicy.fractional.L2::evict_last.b64 %rd9, 0f3F000000;\n";
    }
    let statement = access.text.replace("[out", "[blob");
    let mut case = Case {
        ptx: kernel(&setup, &format!("    {statement}"), back(access.space), &access.dest),
        columns: super::columns(&rows),
        registers: Vec::new(),
        memory: cells.clone(),
        nans: vec![Vec::new(); n],
        ty: access.ty().into(),
        cells,
    };
    let blob = BLOB.iter().copied().chain([0; CELL - 64]).collect::<Vec<_>>();
    for i in 0..n {
        let constant = matches!(access.space, Space::Const | Space::Param);
        let (registers, elements) = access.expect(if constant { &blob } else { &case.cells[i] }, &rows[i]);
        case.registers.push(registers);
        for element in elements {
            put(&mut case.memory[i], element.at, element.bytes, element.bits);
            if element.nan {
                case.nans[i].push((element.at, element.bytes));
            }
        }
    }
    case
}

/// A number of a type.
fn small(ty: &str, value: i32) -> u64 {
    let half = |format| bits_of(f64::from(value), format);
    match ty {
        "f16" => half(F16),
        "bf16" => half(BF16),
        "f16x2" => half(F16) | bits_of(f64::from(1 - value), F16) << 16,
        "bf16x2" => half(BF16) | bits_of(f64::from(1 - value), BF16) << 16,
        "f32" => u64::from((value as f32).to_bits()),
        _ => f64::from(value).to_bits(),
    }
}

/// All threads of a block on the first one's bytes. `None` where the order of threads shows.
fn together(access: &Access) -> Option<Case> {
    if !["add", "min", "max", "and", "or", "xor"].contains(&access.action()) {
        return None;
    }
    let float = access.action() == "add" && access.ty().starts_with(['f', 'b']);
    let (edges, mut random) = (edges_of(access.ty()), Random(access.text.len() as u64));
    let mut cells: Vec<[u8; CELL]> = (0..BLOCK).map(|_| random_cell(&mut random)).collect();
    for k in (0..access.count()).filter(|_| float) {
        put(&mut cells[0], access.at(k), access.bytes(), small(access.ty(), 5));
    }
    let inputs = access.inputs();
    // Sums of small whole numbers are exact in any order.
    let value =
        |i: usize, k: usize| if float { small(access.ty(), (i + k) as i32 % 3 - 1) } else { edges[(i + 3 * k) % 25] };
    let rows: Vec<Vec<u64>> = (0..BLOCK).map(|i| (0..inputs.len()).map(|k| value(i, k)).collect()).collect();
    let mut memory = cells.clone();
    for row in &rows {
        for element in access.expect(&memory[0].clone(), row).1 {
            put(&mut memory[0], element.at, element.bytes, element.bits);
        }
    }
    let mut setup: String = inputs.iter().map(|register| register.read()).collect();
    setup += "    ld.param.u64 %rd0, [out];\n    mov.u32 %r1, tile;\n    bar.sync 0;\n";
    let statement = format!("    {}\n    bar.sync 0;", access.text);
    Some(Case {
        ptx: kernel(&setup, &statement, back(access.space), &[]),
        columns: super::columns(&rows),
        registers: vec![Vec::new(); BLOCK],
        nans: vec![Vec::new(); BLOCK],
        ty: access.ty().into(),
        memory,
        cells,
    })
}

/// Conversions of addresses: what lies there is read through the result. Questions after a space.
fn address(text: &str) -> Option<Case> {
    let (opcode, rest) = text.strip_suffix(';')?.split_once(' ')?;
    let mods: Vec<&str> = opcode.split('.').collect();
    let dest = register(cell::operands(rest).first()?)?;
    let space = mods.iter().copied().find(|m| ["global", "shared", "local", "const", "param"].contains(m))?;
    let place = match space {
        "global" => "mov.u64 %rd6, %to;",
        "shared" => "cvt.u64.u32 %rd6, %own;",
        "local" => "mov.u64 %rd6, %rd3;",
        "const" => "mov.u64 %rd6, fixed;",
        _ => "mov.u64 %rd6, blob;",
    };
    let mut random = Random(9);
    let cells: Vec<[u8; CELL]> = (0..BLOCK).map(|_| random_cell(&mut random)).collect();
    let first = |cell: &[u8; CELL]| {
        let constant = ["const", "param"].contains(&space);
        cell::bits_at(if constant { &BLOB } else { cell }, 0, 8)
    };
    let asks = mods[0] == "isspacep";
    let expected = |cell| if asks { u64::from(space == "shared") } else { first(cell) };
    let statement = match mods[0] {
        "isspacep" => format!("    {text}"),
        // The statement takes the generic address from %rd1.
        "cvta" if mods[1] == "to" => {
            format!("    {place}\n    cvta.{space}.u64 %rd1, %rd6;\n    {text}\n    ld.{space}.u64 %rd5, [%rd5];")
        }
        "cvta" => format!("    {place}\n    {text}\n    ld.u64 %rd5, [%rd5];"),
        _ => return None,
    };
    Some(Case {
        ptx: kernel("", &statement, "", &[dest]),
        columns: Vec::new(),
        registers: cells.iter().map(|cell| vec![expected(cell)]).collect(),
        memory: cells.clone(),
        nans: vec![Vec::new(); BLOCK],
        ty: String::new(),
        cells,
    })
}

/// Statements that say how data will be used: they run, and change nothing that can be read. What a policy is made of
/// is the device's own affair.
fn hint(text: &str) -> Option<Case> {
    let op = text.split(['.', ' ']).next()?;
    if !HINTS.contains(&op) && op != "createpolicy" {
        return None;
    }
    let mut random = Random(9);
    let cells: Vec<[u8; CELL]> = (0..BLOCK).map(|_| random_cell(&mut random)).collect();
    // What is discarded may be read again when it was written again.
    let again = if op == "discard" { "global.u64 %x0, [%from" } else { "" };
    Some(Case {
        ptx: kernel("    mov.u64 %rd6, 0;\n", &format!("    {text}"), again, &[]),
        columns: Vec::new(),
        registers: vec![Vec::new(); BLOCK],
        memory: cells.clone(),
        nans: vec![Vec::new(); BLOCK],
        ty: String::new(),
        cells,
    })
}

impl Case {
    /// Runs it; what is wrong, and an answer for the goldens.
    fn run(&self, gpu: &Gpu) -> Result<(Vec<String>, String), String> {
        let (n, registers) = (self.cells.len(), self.registers[0].len());
        let words = |bytes: &[u8]| -> Vec<u64> { bytes.chunks(8).map(|word| cell::bits_at(word, 0, 8)).collect() };
        let mut inputs = vec![self.cells.iter().flat_map(|cell| words(cell)).collect::<Vec<u64>>()];
        inputs.extend_from_slice(&self.columns);
        let outputs = gpu.run_in_blocks(&self.ptx, &inputs, WORDS + registers, n, BLOCK as u32)?;
        let flat: Vec<u8> = outputs[..WORDS].iter().flatten().flat_map(|word| word.to_le_bytes()).collect();
        let (mut wrong, mut columns) = (Vec::new(), vec![Vec::new(); WORDS + registers]);
        for (i, got) in flat.chunks(CELL).enumerate() {
            let mut got: [u8; CELL] = got.try_into().expect("a cell");
            for &(at, bytes) in &self.nans[i] {
                // NaNs are all alike here.
                if is_nan(&self.ty, cell::bits_at(&got, at, bytes)) {
                    put(&mut got, at, bytes, cell::bits_at(&self.memory[i], at, bytes));
                } else {
                    wrong.push(format!("thread {i} has no NaN at {at}"));
                }
            }
            if let Some(at) = (0..CELL).find(|&at| got[at] != self.memory[i][at]) {
                let [is, should] = [&got, &self.memory[i]].map(|cell| cell::bits_at(cell, at & !7, 8));
                wrong.push(format!("thread {i} has {is:#x} at {}, not {should:#x}", at & !7));
            }
            for (column, expected) in self.registers[i].iter().enumerate() {
                let is = outputs[WORDS + column][i];
                if is != *expected {
                    wrong.push(format!("thread {i} gets {is:#x}, not {expected:#x}"));
                }
                columns[WORDS + column].push(is);
            }
            for (column, word) in words(&got).into_iter().enumerate() {
                columns[column].push(word);
            }
        }
        Ok((wrong, golden::digests(&columns)))
    }
}

#[test]
fn memory_holds_what_the_manual_says() {
    with_gpu(|gpu| {
        let goldens = Goldens::recorded(gpu, "memory");
        let mut written = Goldens::new(&gpu.name);
        let (mut count, mut contended, mut failures, mut missing) = (0, 0, Vec::new(), Vec::new());
        for text in table::forms_of("memory") {
            count += 1;
            let access = Access::parse(&text);
            let case = access.as_ref().map(apart).or_else(|| address(&text)).or_else(|| hint(&text));
            let alone = case.unwrap_or_else(|| panic!("`{text}`: no program can be made of it"));
            let together = access.as_ref().and_then(together);
            contended += usize::from(together.is_some());
            for (case, name) in [(Some(alone), text.clone()), (together, format!("together {text}"))] {
                let Some(case) = case else { continue };
                match case.run(gpu) {
                    // A device of an older architecture lacks some forms.
                    Err(why) if !gpu.software => missing.push(format!("`{text}`: {why}")),
                    Err(why) => failures.push(format!("`{text}` does not load: {why}")),
                    Ok((wrong, answer)) => {
                        if let Some(first) = wrong.first() {
                            failures.push(format!("`{name}`, {} times; {first}", wrong.len()));
                        }
                        failures.extend(goldens.iter().filter_map(|golden| golden.differs(&name, &answer)));
                        written.put(&name, answer);
                    }
                }
            }
        }
        written.write("memory");
        println!("{}: {count} forms of memory, {contended} of them also contended", gpu.name);
        missing.iter().for_each(|why| println!("not on this device: {why}"));
        assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
        assert!(count > 250 && contended > 60, "only {count} forms were found, {contended} contended");
    });
}

/// A neighbour in place of the statement is found out.
#[test]
fn another_statement_is_noticed() {
    with_gpu(|gpu| {
        for (text, other) in [
            ("ld.global.s8 %r5, [%rd0];", "ld.global.u8 %r5, [%rd0];"),
            ("st.global.u16 [%rd0], %h1;", "st.global.u8 [%rd0], %h1;"),
            ("st.local.b32 [%rd3+4], %r5;", "st.local.b32 [%rd3+8], %r5;"),
            ("atom.global.min.s32 %r5, [%rd0], %r6;", "atom.global.min.u32 %r5, [%rd0], %r6;"),
            ("atom.shared.inc.u32 %r5, [%r1], %r6;", "atom.shared.dec.u32 %r5, [%r1], %r6;"),
            ("red.global.add.noftz.f16x2 [%rd0], %r6;", "red.global.add.noftz.bf16x2 [%rd0], %r6;"),
        ] {
            let mut case = apart(&Access::parse(text).expect("an access"));
            assert!(case.ptx.contains(text));
            assert_eq!(case.run(gpu).expect("it runs").0, Vec::<String>::new());
            case.ptx = case.ptx.replace(text, other);
            assert!(!case.run(gpu).expect("it runs").0.is_empty(), "{other}");
        }
    });
}
