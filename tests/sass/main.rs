//! `make sass`: what the main loops of the kernels consist of in machine code, and which unit of a multiprocessor limits them.
//!
//! The table stands in `benches/sass.md`. A loop that gets worse than there fails this test; `make sass ACCEPT=1` writes the new
//! table. cuobjdump and nvdisasm have to stand beside the nvcc of the build, as `tools/cuda.sh` and CUDA toolkits put them.

mod flow;
mod listing;
mod model;
mod table;

use flow::{Flow, Loop};
use listing::{Function, Instruction};
use model::{Class, Machine, Unit};
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, thread};
use sumexp::kernels::{KernelId, images};
use table::{Line, Table, print, read, worse};

/// Written by the build script: itself, its nvcc, and the folder of libclang.
const BUILT_BY: &str = include_str!(concat!(env!("OUT_DIR"), "/build_script.txt"));
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/sass.md");

/// Whether the table has this kernel. Those of bf16 differ from those of f16 in conversions alone.
fn wanted(kernel: &str) -> bool {
    let parts: Vec<&str> = kernel.split('_').collect();
    let has = |names: &[&str]| names.iter().any(|name| parts.contains(name));
    let attention = ["attention_forward_", "attention_backward_"].iter().any(|start| kernel.starts_with(start));
    let rows =
        ["softmax_forward_", "softmax_backward_", "cross_entropy_"].iter().any(|start| kernel.starts_with(start));
    let tiles = attention && !has(&["rows", "bias"]) && has(&["64", "128", "256"]);
    (tiles || rows && !has(&["dense"]) && !kernel.ends_with("columns")) && has(&["f16", "f32"])
}

/// The program beside the nvcc of the build.
fn tool(name: &str) -> Option<PathBuf> {
    let nvcc = Path::new(BUILT_BY.lines().nth(1)?);
    Some(nvcc.parent()?.join(name)).filter(|path| path.is_file())
}

#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("listings are text")
}

/// The machine code of an image: by architecture, its file.
fn machine_code(name: &str, image: &[u8], cuobjdump: &Path) -> Vec<(String, PathBuf)> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sass").join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder for machine code");
    fs::write(folder.join("image.fatbin"), image).expect("an image can be written");
    run(Command::new(cuobjdump).args(["-xelf", "all", "image.fatbin"]).current_dir(&folder));
    let files = fs::read_dir(&folder).expect("it was made").flatten().map(|entry| entry.path());
    // `image.2.sm_90a.cubin`
    let arch = |path: PathBuf| {
        Some((path.file_name()?.to_str()?.strip_suffix(".cubin")?.rsplit_once('.')?.1.to_string(), path))
    };
    files.filter_map(arch).collect()
}

/// The most products, then the most accesses of full width, then in kernels without products the most exponentials (in others they are
/// of options, as a softcap), then the fewest instructions: what a full tile or a full row without a mask takes.
fn weight(instruction: &Instruction, machine: &Machine, products: bool) -> [i64; 4] {
    let clocks = machine.clocks(instruction);
    let of = |unit: Unit| clocks.iter().filter(|(of, _)| *of == unit).map(|(_, clocks)| *clocks as i64).sum::<i64>();
    let width = if instruction.width() == 16 { of(Unit::Memory) } else { 0 };
    [of(Unit::Tensor), width, i64::from(!products && instruction.has("EX2")), -1]
}

/// The main loops of a kernel, outer ones first: those with products, or if it has none, those that move most of its rows.
fn main_loops<'a>(function: &'a Function<'a>, machine: &Machine) -> Vec<Vec<Instruction<'a>>> {
    let flow = Flow::of(function);
    let products = function.code.iter().any(|instruction| Class::of(instruction) == Some(Class::Tensor));
    let weight = |instruction: &Instruction| weight(instruction, machine, products);
    let way = |of: &Loop| flow.heaviest(of, weight);
    let ways: Vec<Vec<Instruction>> = flow.loops().iter().map(way).collect();
    // The correction of a result for infinities multiplies too, a little among much else and for rare tiles.
    let multiplies = |way: &Vec<Instruction>| {
        let tensor: i64 = way.iter().map(|instruction| weight(instruction)[0]).sum();
        tensor > 0 && 6 * tensor >= way.len() as i64
    };
    let moved = |way: &Vec<Instruction>| way.iter().map(|instruction| weight(instruction)[1]).sum::<i64>();
    let most = ways.iter().map(moved).max().unwrap_or(0);
    if products {
        ways.into_iter().filter(multiplies).collect()
    } else {
        ways.into_iter().filter(|way| most > 0 && 2 * moved(way) >= most).collect()
    }
}

/// The lines of all wanted kernels of a file of machine code.
fn lines(arch: &str, file: &Path, nvdisasm: &Path) -> Table {
    let listing = run(Command::new(nvdisasm).arg("-c").arg(file));
    let (mut table, machine) = (Table::new(), Machine::of(arch));
    for function in listing::functions(&listing).iter().filter(|function| wanted(function.name)) {
        let loops = main_loops(function, machine);
        assert!(!loops.is_empty(), "{} has no main loop on {arch}", function.name);
        for (number, way) in loops.iter().enumerate() {
            table.insert((arch.to_string(), function.name.to_string(), number + 1), Line::of(way, machine));
        }
    }
    table
}

/// The lines of all files, which are read side by side.
fn all_lines(files: &[(String, PathBuf)], nvdisasm: &Path) -> Table {
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let every = |first: usize| files.iter().skip(first).step_by(workers);
    thread::scope(|scope| {
        let start =
            |first| scope.spawn(move || every(first).flat_map(|(arch, file)| lines(arch, file, nvdisasm)).collect());
        let started: Vec<_> = (0..workers).map(start).collect();
        started.into_iter().flat_map(|worker| -> Table { worker.join().expect("a listing was understood") }).collect()
    })
}

/// The release of nvcc, which decides over instructions.
fn compiler() -> String {
    let nvcc = BUILT_BY.lines().nth(1).expect("its path");
    let version = run(Command::new(nvcc).arg("--version"));
    let release = version.lines().find_map(|line| line.rsplit_once(", V")).expect("a release of nvcc").1;
    format!("Compiled by nvcc {}.", release.trim())
}

fn page(table: &Table) -> String {
    format!(
        "# Machine code of the main loops\n\n\
         What one way round each main loop takes, counted in the machine code; `make sass` prints it, a test compares, and\n\
         `make sass ACCEPT=1` writes this page.\n\n\
         - **The way** is that of a full tile or row without a mask: of all ways round a loop the one with the most products, then\n  \
           accesses of 16 bytes, then without products exponentials, then the fewest instructions. A loop inside has a line of its own, with what one time round it takes.\n\
         - **tensor to uniform**: instructions of a warp, by what they do.\n\
         - **issue to memory**: clocks of a multiprocessor for four warps, one on each scheduler: a warpgroup. The longest is bold: more\n  \
           than four warps share the units, so nothing is faster than that. Rates are those of an A100 for sm_80 and of an H200 for\n  \
           others: HMMA m16n8k16 takes 8 and 4 clocks, HGMMA m64nNk16 N/2, a MUFU 8, integers, comparisons and conversions 2; shared\n  \
           memory, the L1 and shuffles share 128 bytes a clock; memory gives 13.4 and 20.8 bytes a clock, and the L2, from which operands of\n  \
           products come, 64. What the hardware copies into shared memory by itself is not seen.\n\
         - **Compared** are the longest, issue and shared memory, each over the clocks of tensor cores, or of memory where there are no products.\n\n\
         {}\n\n{}",
        compiler(),
        print(table)
    )
}

#[test]
fn main_loops_are_those_with_the_work() {
    let sizes = |text: &str| -> Vec<usize> {
        let function = listing::snippet(text);
        main_loops(&function, Machine::of("sm_90a")).iter().map(Vec::len).collect()
    };
    let turn = |label: &str, body: &str, others: usize| {
        format!("{label}:\n{body}\n{}@P0 BRA `({label})\n", "NOP\n".repeat(others))
    };
    // One HGMMA hides many instructions, an HMMA of one warp few; what only copies is no main loop.
    let (wide, narrow) = ("HGMMA.64x128x16.F32 R24, gdesc[UR8], R24", "HMMA.16816.F32 R4, R8, R12, R4");
    let copies = "LDGSTS.E.BYPASS.128 [R2], desc[UR4][R4.64]";
    let text = turn(".L_x_0", wide, 300)
        + &turn(".L_x_1", narrow, 50)
        + &turn(".L_x_2", copies, 5)
        + &turn(".L_x_3", narrow, 8);
    assert_eq!(sizes(&text), [302, 10]);
    // Without products: rows in full vectors, whatever else there is.
    let (row, piece) = ("LDG.E.128 R4, [R2.64]\nSTG.E.128 [R2.64], R4", "LDG.E R4, [R2.64]");
    let text =
        turn(".L_x_0", piece, 90) + &turn(".L_x_1", row, 30) + &turn(".L_x_2", "NOP", 3) + &turn(".L_x_3", row, 20);
    assert_eq!(sizes(&text), [33, 23]);
    assert!(sizes(&turn(".L_x_0", piece, 9)).is_empty());
}

/// Not by a macro: what those print of a test that passes is not shown.
fn say(words: &str) {
    io::stderr().write_all(format!("{words}\n").as_bytes()).expect("somebody listens");
}

#[test]
fn no_main_loop_is_worse() {
    let asked = env::var_os("SUMEXP_SASS_ACCEPT");
    let (Some(cuobjdump), Some(nvdisasm)) = (tool("cuobjdump"), tool("nvdisasm")) else {
        let fix = "cuobjdump or nvdisasm is not beside the nvcc of the build. Fix: build with tools/cuda.sh, or with all of a CUDA toolkit.";
        assert!(asked.is_none(), "{fix}");
        return say(&format!("SKIPPED: {fix}"));
    };
    let of_wanted: BTreeSet<&str> = KernelId::all().filter(|id| wanted(&id.symbol())).map(|id| id.image()).collect();
    let wanted = images().iter().filter(|(name, _)| of_wanted.contains(name));
    let files: Vec<_> = wanted.flat_map(|(name, image)| machine_code(name, image, &cuobjdump)).collect();
    let table = all_lines(&files, &nvdisasm);

    let page = page(&table);
    println!("{page}");
    if asked.is_some_and(|accept| accept == "1") {
        let has = |start: &str| table.keys().any(|(arch, ..)| arch.starts_with(start));
        assert!(has("sm_80") && has("sm_90"), "the page has all architectures: unset SUMEXP_CUDA_ARCHS");
        return fs::write(PAGE, page).expect("benches/sass.md can be written");
    }
    let known = fs::read_to_string(PAGE).unwrap_or_default();
    if !known.contains(&compiler()) {
        return say("SKIPPED: benches/sass.md is of another nvcc, so nothing is compared with it");
    }
    let worse = worse(&read(&known), &table);
    assert!(
        worse.is_empty(),
        "{} figures are worse than in benches/sass.md (`make sass ACCEPT=1` writes the new ones):\n{}",
        worse.len(),
        worse.join("\n")
    );
}
