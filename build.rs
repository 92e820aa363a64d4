//! Compiles every `kernels/*.cu` to one image and reads `kernels/params.h` into Rust structs.
//!
//! Written to `OUT_DIR`: `images.rs` (each image's bytes), `params.rs` (the parameter blocks) and `resources.tsv`
//! (what each kernel uses, printed by `make resources`). No network, no Python, no question to a GPU: the same
//! sources, compiler and profile give the same machine code on every machine (line information holds the sources' paths).

#[path = "build/bindings.rs"]
mod bindings;
#[path = "build/compile.rs"]
mod compile;
#[path = "build/resources.rs"]
mod resources;
#[path = "build/shared.rs"]
mod shared;
#[path = "build/toolchain.rs"]
mod toolchain;

use std::path::{Path, PathBuf};
use std::{env, fs};

/// A reason to stop: the lines are shown to the user as they are, so the last ones name the fix.
type Failure = Vec<String>;

/// Variables that choose the toolchain or its output. `PATH` is left out on purpose: it differs between shells and
/// editors, and each difference would cost a rebuild.
const VARIABLES: [&str; 12] = [
    "CUDA_HOME",
    "CUDA_PATH",
    "CUDA_ROOT",
    "CUDA_TOOLKIT_ROOT_DIR",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "LIBCLANG_PATH",
    "NVCC_CCBIN",
    "NVCC_PREPEND_FLAGS",
    "NVCC_APPEND_FLAGS",
    "SUMEXP_CUDA_ARCHS",
    "DOCS_RS",
];

fn main() {
    if let Err(lines) = run() {
        for line in lines.iter().flat_map(|text| text.lines()) {
            println!("cargo::error={line}");
        }
        std::process::exit(1);
    }
}

fn run() -> Result<(), Failure> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for variable in VARIABLES {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    println!("cargo::rerun-if-changed=kernels");

    let places = toolchain::Places::new(&root, &out);
    // Bindings come first: libclang is chosen through a process-wide variable, which is safe to set only while this
    // is the only thread.
    let libclang = toolchain::choose_libclang(&places)?;
    bindings::generate(&root.join("kernels/params.h"), &out.join("params.rs"))?;

    let archs = compile::archs(env::var("SUMEXP_CUDA_ARCHS").ok().as_deref())?;
    let sources = compile::sources(&root.join("kernels"), &archs)?;
    let mut used = "docs.rs: no kernel was compiled".to_string();
    if env::var_os("DOCS_RS").is_some() {
        // docs.rs has libclang but no CUDA: the documentation is real, the images are empty.
        for source in &sources {
            // Without its key an image is compiled again by the next build that is not for docs.rs.
            let _ = fs::remove_file(out.join(format!("{}.key", source.stem)));
            write(&out.join(format!("{}.fatbin", source.stem)), "")?;
        }
        write(&out.join("resources.tsv"), resources::HEADER)?;
    } else {
        let nvcc = toolchain::find_nvcc(&places)?;
        println!("cargo::rerun-if-changed={}", nvcc.path.display());
        let kernels = compile::all(&nvcc, &archs, &root, &out, &sources)?;
        write(&out.join("resources.tsv"), &resources::table(&kernels))?;
        used = nvcc.path.display().to_string();
    }
    write(&out.join("images.rs"), &compile::index(&sources))?;

    // What the tests of this script need to run it again by hand: itself, the compiler and the folder of libclang.
    let script = env::current_exe().map_err(|e| vec![format!("cannot name the build script: {e}")])?;
    let libclang = libclang.map(|folder| folder.display().to_string()).unwrap_or_default();
    write(&out.join("build_script.txt"), &format!("{}\n{used}\n{libclang}\n", script.display()))
}

/// Writes `text`, or says which file could not be written.
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|error| vec![format!("cannot write {}: {error}", path.display())])
}
