//! `kernels/params.h` and what it includes from `kernels/params/` as Rust structs: one source for what nvcc and Rust believe about a parameter block.

use super::{Failure, write};
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;

/// Reads `header` and writes the Rust file `output`.
pub fn generate(header: &Path, output: &Path) -> Result<(), Failure> {
    let builder = bindgen::Builder::default()
        .header(header.to_string_lossy())
        // As nvcc reads it.
        .clang_args(["-x", "c++", "-std=c++17"])
        .allowlist_file(".*/params(/[a-z_]+)?\\.h")
        // A value the Rust side does not know must not be undefined behaviour.
        .default_enum_style(bindgen::EnumVariation::NewType { is_bitfield: false, is_global: false })
        // No Default: a launcher names every field, so a new one breaks it at compile time.
        .derive_default(false)
        .derive_eq(true)
        .layout_tests(true)
        .use_core()
        .formatter(bindgen::Formatter::None);

    // bindgen reports a missing libclang by a panic; the hook keeps its backtrace out of the user's error.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let generated = panic::catch_unwind(AssertUnwindSafe(|| builder.generate()));
    panic::set_hook(hook);

    match generated {
        Ok(Ok(bindings)) => write(output, &bindings.to_string()),
        Ok(Err(error)) => Err(vec![format!("{}: {error}", header.display())]),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or_default();
            if !text.contains("libclang") {
                return Err(vec![format!("bindgen panicked over {}: {text}", header.display())]);
            }
            Err(vec![
                format!("libclang not found: {}", text.lines().next().unwrap_or_default()),
                "Fix: run tools/cuda.sh, or install libclang (Debian/Ubuntu: apt install libclang-dev), or set \
                 LIBCLANG_PATH to the folder of libclang.so."
                    .to_string(),
            ])
        }
    }
}
