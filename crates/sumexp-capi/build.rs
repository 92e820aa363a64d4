//! Reads `include/sumexp.h` into Rust: the structs, the codes, and the functions' types that `src/signatures.rs` compares with
//! what is exported. The header is the one source of the interface.

#[path = "../../build/toolchain.rs"]
#[allow(dead_code)] // Only libclang is looked for here.
mod toolchain;

use std::path::PathBuf;
use std::{env, fs};

type Failure = Vec<String>;

fn main() {
    for path in ["build.rs", "include/sumexp.h"] {
        println!("cargo::rerun-if-changed={path}");
    }
    println!("cargo::rerun-if-env-changed=LIBCLANG_PATH");
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        // The name that programs look for at run time. `nodelete`: worker threads would be left without code by a dlclose.
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libsumexp.so");
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
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
    // Where there is none, bindgen stops with its own message; the build of sumexp itself, which also needs it, says how to
    // get it.
    toolchain::choose_libclang(&toolchain::Places::new(&root, &out))?;
    let bindings = bindgen::Builder::default()
        .header(root.join("include/sumexp.h").to_string_lossy())
        .clang_args(["-x", "c", "-std=c99"])
        .allowlist_file(".*/sumexp\\.h")
        // A value that the caller made up must not be undefined behaviour.
        .default_enum_style(bindgen::EnumVariation::NewType { is_bitfield: false, is_global: true })
        .prepend_enum_name(false)
        .layout_tests(true)
        .use_core()
        .formatter(bindgen::Formatter::None)
        .generate()
        .map_err(|error| vec![format!("include/sumexp.h: {error}")])?;
    fs::write(out.join("header.rs"), bindings.to_string())
        .map_err(|error| vec![format!("cannot write header.rs: {error}")])
}
