//! The rules of the house, checked on its own sources: who may import whom, where `unsafe` may stand, how long a file
//! may be, and that an op has the same name on every floor. Each rule first proves on samples that it can see a
//! violation.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The floors of `src`, lowest first: a module may import those named beside it and nothing else of this crate.
/// `ops` is the only door to the CPU device's implementation; `reference` never sees tensors or kernels, so that it
/// cannot share their mistakes.
const FLOORS: [(&str, &[&str]); 11] = [
    ("error", &[]),
    ("dtype", &["error"]),
    ("shape", &["dtype", "error"]),
    ("mask", &["shape", "dtype", "error"]),
    ("plan", &["mask", "shape", "dtype", "error"]),
    ("reference", &["mask", "shape", "dtype"]),
    ("device", &["plan", "mask", "shape", "dtype", "error"]),
    ("memory", &["device", "plan", "mask", "shape", "dtype", "error"]),
    ("tensor", &["memory", "device", "plan", "mask", "shape", "dtype", "error"]),
    ("kernels", &["tensor", "memory", "device", "plan", "mask", "shape", "dtype", "error"]),
    ("ops", &["kernels", "reference", "tensor", "memory", "device", "plan", "mask", "shape", "dtype", "error"]),
];

/// The raw-pointer border stands beside the floors, on top of `tensor`.
const INTEROP: &[&str] = &["tensor", "memory", "device", "plan", "mask", "shape", "dtype", "error"];

/// Modules of `src` that may contain `unsafe` and name the driver's bindings.
const CELLAR: [&str; 4] = ["device", "memory", "kernels", "interop"];

const MAX_LINES: usize = 500;

/// Every hand-written file: its path from the root, and its text.
fn files() -> Vec<(String, String)> {
    fn walk(folder: &Path, root: &Path, files: &mut Vec<(String, String)>) {
        let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let extension = path.extension().map(|extension| extension.to_string_lossy().into_owned());
            if path.is_dir() {
                if name != "target" && (!name.starts_with('.') || name == ".ci") {
                    walk(&path, root, files);
                }
            } else if ["rs", "cu", "cuh", "h", "ptx", "sh"].contains(&extension.unwrap_or_default().as_str()) {
                let short = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
                files.push((short, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    walk(root, root, &mut files);
    files
}

/// Applies a rule to every file and fails with all its complaints at once.
#[track_caller]
fn enforce(rule: fn(&str, &str) -> Vec<String>) {
    let complaints: Vec<String> = files().iter().flat_map(|(path, text)| rule(path, text)).collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// The text of a Rust file without comments and without the contents of string literals: what the compiler reads.
/// Line breaks stay, so that line numbers do.
fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(inside) = rest.strip_prefix("r#\"") {
            inside.find("\"#").map_or(rest.len(), |end| end + 5)
        } else if c == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let closes = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                closes
            });
            end.map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with("'\"'") {
            3
        } else if rest.starts_with("'\\\"'") {
            4
        } else {
            code.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        code.extend(rest[..skip].chars().filter(|c| *c == '\n'));
        code.push(' ');
        rest = &rest[skip..];
    }
    code
}

/// The line number of a byte position.
fn line(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// Positions of `word` where it is not a part of a longer identifier.
fn words(code: &str, word: &str) -> Vec<usize> {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(|at| !part(code[..*at].chars().next_back()) && !part(code[at + word.len()..].chars().next()))
        .collect()
}

/// The floor a file stands on: `ops` for `src/ops/loss/mod.rs`, nothing for `src/lib.rs` and files elsewhere.
fn floor(path: &str) -> Option<&str> {
    let name = path.strip_prefix("src/")?.split(['/', '.']).next()?;
    (name != "lib").then_some(name)
}

/// The identifier at the start of `text`.
fn head(text: &str) -> &str {
    &text[..text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())]
}

/// The first names of the paths behind a `crate::`: `a::B` gives `a`, and `{a::{B, C}, d}` gives `a` and `d`.
fn heads(rest: &str) -> Vec<&str> {
    let Some(group) = rest.strip_prefix('{') else { return vec![head(rest)] };
    let (mut heads, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                heads.push(head(group[start..at].trim_start()));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    heads.retain(|head| !head.is_empty());
    heads
}

/// Imports point down.
fn imports(path: &str, text: &str) -> Vec<String> {
    let Some(floor) = floor(path) else { return Vec::new() };
    let below = match FLOORS.iter().find(|(name, _)| *name == floor) {
        Some((_, below)) => *below,
        None if floor == "interop" => INTEROP,
        None => return vec![format!("{path}: `{floor}` is no floor of the house: give it a place in tests/house.rs")],
    };
    let code = code(text);
    let mut named: Vec<(usize, &str)> = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        named.extend(heads(&code[at + "crate::".len()..]).into_iter().map(|head| (at, head)));
    }
    // A chain of `super` as long as the module is deep ends in the crate's root, where the floors are.
    let depth = path.split('/').count() - 1 - usize::from(path.ends_with("/mod.rs"));
    for (at, _) in code.match_indices("super::").filter(|(at, _)| !code[..*at].ends_with("super::")) {
        let rest = code[at..].trim_start_matches("super::");
        let supers = (code.len() - at - rest.len()) / "super::".len();
        if supers >= depth {
            let floors = heads(rest).into_iter().filter(|head| FLOORS.iter().any(|(name, _)| name == head));
            named.extend(floors.map(|head| (at, head)));
        }
    }
    let allowed = |head: &str| head == floor || below.contains(&head);
    let wrong = named.into_iter().filter(|(_, head)| !allowed(head));
    wrong.map(|(at, head)| format!("{path}:{}: `{floor}` must not import `{head}`", line(&code, at))).collect()
}

#[test]
fn imports_point_down() {
    for (path, text) in [
        ("src/tensor/mod.rs", "use crate::ops::softmax;"),
        ("src/tensor/mod.rs", "use crate::{shape::{Shape, Layout}, ops::softmax};"),
        ("src/tensor/mod.rs", "fn f() { crate::kernels::launch() }"),
        ("src/tensor/view.rs", "use super::super::ops;"),
        ("src/error.rs", "use super::dtype::DType;"),
        ("src/reference/softmax.rs", "use crate::tensor::Tensor;"),
        ("src/reference/softmax.rs", "use crate::kernels::softmax;"),
        ("src/plan/mod.rs", "use crate::device::Device;"),
        ("src/ops/softmax.rs", "use crate::Tensor;"),
        ("src/misc.rs", ""),
    ] {
        assert_eq!(imports(path, text).len(), 1, "{path}: {text}");
    }
    for (path, text) in [
        ("src/ops/softmax.rs", "use crate::kernels::softmax; use crate::{reference, plan::Plan};"),
        ("src/ops/loss/mod.rs", "use super::softmax; use crate::ops::check;"),
        ("src/tensor/mod.rs", "// use crate::ops::softmax;\nconst S: &str = \"crate::ops\";"),
        ("src/lib.rs", "pub use ops::softmax;"),
        ("tests/softmax.rs", "use sumexp::ops;"),
    ] {
        assert_eq!(imports(path, text), [""; 0], "{path}: {text}");
    }
    enforce(imports);
}

/// `unsafe`, the driver's bindings and a launch stand in the cellar only; no product code knows the software GPU.
fn cellar(path: &str, text: &str) -> Vec<String> {
    let product = path.starts_with("src/");
    if !product && !path.starts_with("examples/") && !path.starts_with("benches/") {
        return Vec::new();
    }
    let code = code(text);
    let mut complaints = Vec::new();
    let mut forbid = |word: &str, why: &str| {
        complaints.extend(words(&code, word).iter().map(|at| format!("{path}:{}: `{word}` {why}", line(&code, *at))));
    };
    if !floor(path).is_some_and(|floor| CELLAR.contains(&floor)) {
        forbid("unsafe", "belongs in device, memory, kernels or interop");
        forbid("cudarc", "belongs in device, memory, kernels or interop");
    }
    // The driver's functions are bound in one file, and those that launch are called in one other.
    if !["src/kernels/launch.rs", "src/device/driver.rs"].contains(&path) {
        forbid("cuLaunchKernel", "is called in src/kernels/launch.rs alone");
        forbid("cuLaunchKernelEx", "is called in src/kernels/launch.rs alone");
        forbid("launch_kernel", "is called in src/kernels/launch.rs alone");
    }
    if product {
        forbid("softgpu", "is unknown to product code: it stands behind the driver's own interface");
    }
    complaints
}

#[test]
fn unsafe_code_stays_in_the_cellar() {
    for (path, text) in [
        ("src/ops/softmax.rs", "unsafe { launch() }"),
        ("src/tensor/mod.rs", "use cudarc::driver::sys;"),
        ("src/ops/softmax.rs", "kernels::launch_kernel()"),
        ("src/kernels/softmax.rs", "sys::cuLaunchKernel(f)"),
        ("src/device.rs", "if softgpu {}"),
        ("examples/train.rs", "unsafe {}"),
    ] {
        assert_eq!(cellar(path, text).len(), 1, "{path}: {text}");
    }
    for (path, text) in [
        ("src/kernels/launch.rs", "unsafe { sys::cuLaunchKernel(f) }"),
        ("src/ops/softmax.rs", "// unsafe\n#![deny(unsafe_op_in_unsafe_fn)]"),
        ("src/device.rs", "let s = \"softgpu\"; unsafe { sys::cuInit(0) }"),
        ("tests/soundness.rs", "unsafe { Device::from_stream(raw) }"),
    ] {
        assert_eq!(cellar(path, text), [""; 0], "{path}: {text}");
    }
    enforce(cellar);
}

/// A page that is too long hides a second subject; a page without a first line hides its own.
fn pages(path: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let lines = text.lines().count();
    // PTX that nvcc wrote keeps the length that nvcc gave it.
    let generated = path.ends_with(".ptx") && text.contains("Compiler Build ID");
    if !generated && lines > MAX_LINES {
        complaints.push(format!("{path}: {lines} lines, at most {MAX_LINES} are allowed: look for the second subject"));
    }
    let first = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with("#!")).unwrap_or_default();
    let opening = match path.rsplit('.').next() {
        Some("rs") => "//!",
        Some("cu" | "cuh" | "h" | "ptx") => "//",
        Some("sh") => "#",
        _ => "",
    };
    if !first.starts_with(opening) && !first.starts_with("/*") {
        complaints.push(format!("{path}: the first line must say what the file is, as a `{opening}` line"));
    }
    complaints
}

#[test]
fn every_file_is_short_and_says_what_it_is() {
    assert_eq!(pages("src/a.rs", "use std::fs;").len(), 1);
    assert_eq!(pages("src/a.rs", "// not a module's documentation").len(), 1);
    assert_eq!(pages("kernels/a.cu", "#include <stdint.h>").len(), 1);
    assert_eq!(pages("src/a.rs", &format!("//! Long.{}", "\n".repeat(MAX_LINES))).len(), 0);
    assert_eq!(pages("src/a.rs", &format!("//! Long.{}", "\nx".repeat(MAX_LINES))).len(), 1);
    let ptx = format!("// Generated\n// Compiler Build ID: 1{}", "\nx".repeat(MAX_LINES));
    assert_eq!(pages("a.ptx", &ptx).len(), 0);
    assert_eq!(pages("a.ptx", &ptx.replace("Compiler", "By hand")).len(), 1);
    assert_eq!(pages("tools/a.sh", "#!/bin/sh\n# What it does.").len(), 0);
    enforce(pages);
}

/// Device code is device code: no launch, no runtime interface, no header of the host.
fn device_code(path: &str, text: &str) -> Vec<String> {
    if !path.starts_with("kernels/") {
        return Vec::new();
    }
    let code = code(text);
    let mut complaints = Vec::new();
    for word in ["__host__", "main", "cudaMalloc", "cudaMemcpy", "cudaStream_t", "cudaError_t", "printf", "assert"] {
        complaints.extend(words(&code, word).iter().map(|at| format!("{path}:{}: `{word}`", line(&code, *at))));
    }
    complaints.extend(code.match_indices("<<<").map(|(at, _)| format!("{path}:{}: a launch", line(&code, at))));
    const HEADERS: [&str; 4] = ["<stdint.h>", "<cuda_fp16.h>", "<cuda_bf16.h>", "<cuda.h>"];
    let includes = code.lines().filter_map(|line| line.trim_start().strip_prefix("#include <"));
    for include in includes.filter(|include| !HEADERS.contains(&format!("<{}", include.trim()).as_str())) {
        complaints.push(format!("{path}: <{} is not a header for device code", include.trim()));
    }
    complaints
}

#[test]
fn kernel_files_hold_device_code_only() {
    assert_eq!(device_code("kernels/a.cu", "void f() { k<<<1, 32>>>(); }").len(), 1);
    assert_eq!(device_code("kernels/a.cu", "__host__ __device__ int f();").len(), 1);
    assert_eq!(device_code("kernels/a.cu", "#include <vector>\n#include <cuda_runtime.h>").len(), 2);
    assert_eq!(device_code("kernels/a.cu", "// k<<<1, 32>>>\n#include <stdint.h>\n__device__ int f();").len(), 0);
    enforce(device_code);
}

/// Tests that are switched off and functions that were left for later.
fn leftovers(path: &str, text: &str) -> Vec<String> {
    if !path.ends_with(".rs") {
        return Vec::new();
    }
    let code = code(text);
    let mut complaints = Vec::new();
    for word in ["todo", "unimplemented", "dbg"] {
        let calls = words(&code, word).into_iter().filter(|at| code[at + word.len()..].starts_with("!("));
        complaints.extend(calls.map(|at| format!("{path}:{}: `{word}!`", line(&code, at))));
    }
    let ignored = code.match_indices("#[ignore").map(|(at, _)| at);
    complaints.extend(ignored.map(|at| format!("{path}:{}: a test that never runs", line(&code, at))));
    complaints
}

#[test]
fn nothing_is_left_for_later() {
    assert_eq!(leftovers("src/a.rs", "fn f() { todo!() }\n#[ignore]\nfn g() { unimplemented!(\"x\") }").len(), 3);
    assert_eq!(leftovers("src/a.rs", "// todo!()\nfn todo() {}").len(), 0);
    enforce(leftovers);
}

/// What is missing for `ops`: each op needs a file of its name on every other floor. `paths` are all files.
fn missing(paths: &[String]) -> Vec<String> {
    let names = |folder: &str, extension: &str| -> BTreeSet<String> {
        let inside = paths.iter().filter_map(|path| path.strip_prefix(folder));
        let names = inside.filter_map(|rest| match rest.split_once('/') {
            Some((folder, _)) => Some(folder),
            None => rest.strip_suffix(extension),
        });
        names.map(str::to_string).collect()
    };
    let mut ops = names("src/ops/", ".rs");
    // Not ops: the folder's own page and the checks that the ops share.
    for shared in ["mod", "check", "common"] {
        ops.remove(shared);
    }
    // A kernel file has the op's name, and may add what part of it: `softmax_backward.cu`.
    let kernels: BTreeSet<String> =
        names("kernels/", ".cu").into_iter().filter(|name| !["common", "params"].contains(&name.as_str())).collect();
    let of =
        |kernel: &str, op: &str| kernel.strip_prefix(op).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'));
    let mut complaints = Vec::new();
    for op in &ops {
        let floors = [
            ("kernels/*.cu", kernels.iter().any(|kernel| of(kernel, op))),
            ("src/kernels/", names("src/kernels/", ".rs").contains(op)),
            ("tests/", names("tests/", ".rs").contains(op)),
            ("benches/", names("benches/", ".rs").contains(op)),
        ];
        let absent = floors.iter().filter(|(_, present)| !present);
        complaints.extend(absent.map(|(floor, _)| format!("op `{op}` of src/ops has no file of its name in {floor}")));
    }
    let orphans = kernels.iter().filter(|kernel| !ops.iter().any(|op| of(kernel, op)));
    complaints.extend(orphans.map(|name| format!("kernels/{name}.cu belongs to no op of src/ops")));
    complaints
}

#[test]
fn an_op_has_one_name_on_every_floor() {
    let house = |paths: &[&str]| paths.iter().map(|path| path.to_string()).collect::<Vec<_>>();
    let full = [
        "kernels/a_forward.cu",
        "kernels/common/x.cuh",
        "kernels/params/a.h",
        "src/kernels/a.rs",
        "src/ops/mod.rs",
        "src/ops/a/mod.rs",
        "tests/a.rs",
        "benches/a.rs",
    ];
    assert_eq!(missing(&house(&full)), [""; 0]);
    for gap in [0, 3, 5, 6, 7] {
        let rest: Vec<&str> = full.iter().enumerate().filter(|(at, _)| *at != gap).map(|(_, path)| *path).collect();
        assert_eq!(missing(&house(&rest)).len(), 1, "without {}", full[gap]);
    }
    let paths: Vec<String> = files().into_iter().map(|(path, _)| path).collect();
    let complaints = missing(&paths);
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// The two crates do not know each other, except that sumexp's tests select the software GPU.
#[test]
fn the_software_gpu_is_a_stranger() {
    fn dependencies(manifest: &str, section: &str) -> BTreeSet<String> {
        let lines =
            manifest.lines().skip_while(|line| *line != section).skip(1).take_while(|line| !line.starts_with('['));
        lines.filter_map(|line| Some(line.split_once('=')?.0.trim().to_string())).collect()
    }
    let sample = "[dependencies]\nhalf = \"2\"\n\n[dev-dependencies]\nsoftgpu = { path = \"x\" }\n";
    assert!(dependencies(sample, "[dev-dependencies]").contains("softgpu"));
    assert!(!dependencies(sample, "[dependencies]").contains("softgpu"));

    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sumexp = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let softgpu = fs::read_to_string(root.join("crates/softgpu/Cargo.toml")).unwrap();
    assert!(dependencies(&sumexp, "[dev-dependencies]").contains("softgpu"));
    assert!(!dependencies(&sumexp, "[dependencies]").contains("softgpu"));
    for section in ["[dependencies]", "[dev-dependencies]", "[build-dependencies]"] {
        assert!(!dependencies(&softgpu, section).contains("sumexp"), "softgpu {section}");
    }
}

/// `make mutants` takes long, so nobody runs it after every change of a kernel: a change that takes a mutant's text away shows
/// here.
#[test]
fn every_mutant_finds_its_text() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mutants = fs::read_to_string(root.join("tests/mutants.txt")).unwrap();
    let mut found = 0;
    for block in mutants.split("\n\n") {
        let value = |key: &str| block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        let Some(name) = value("mutant") else { continue };
        let (file, text) = (value("in").expect(name), value("-").expect(name));
        let occurrence: usize = value("occurrence").unwrap_or("1").parse().expect(name);
        let there = fs::read_to_string(root.join(file)).expect(name).matches(text).count();
        assert!(there >= occurrence, "{name}: {file} holds \"{text}\" {there} times");
        found += 1;
    }
    assert!(found > 30, "{found} mutants");
}
