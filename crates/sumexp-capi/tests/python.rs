//! The Python module of `examples/pytorch` against the library that cargo built. With the standard library alone; where PyTorch is
//! installed, against PyTorch too.

mod library;

use library::{built, run};
use std::process::Command;

fn python(script: &str) -> Command {
    let mut command = Command::new("python3");
    command.arg(library::root().join("../../examples/pytorch").join(script)).env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("SUMEXP_LIBRARY", built("libsumexp_capi", "so"));
    command
}

#[test]
fn ctypes_alone() {
    assert!(run(&mut python("test_sumexp.py")).contains("all is right"));
}

#[test]
fn against_pytorch() {
    let installed = Command::new("python3").args(["-c", "import torch"]).output().unwrap().status.success();
    if !installed {
        eprintln!("PyTorch is not installed: nothing is compared with it");
        return;
    }
    assert!(run(&mut python("compare.py")).contains("all is right"));
}
