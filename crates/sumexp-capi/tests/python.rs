//! The Python module of `examples/pytorch` against the library that cargo built. With the standard library alone; where PyTorch is
//! installed, against PyTorch too.

mod library;

use library::{built, run};
use std::io::{self, Write};
use std::process::Command;

/// Python with the library that cargo built.
fn interpreter() -> Command {
    let mut command = Command::new("python3");
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("SUMEXP_LIBRARY", built("libsumexp_capi", "so"));
    command
}

fn python(script: &str) -> Command {
    let mut command = interpreter();
    command.arg(library::root().join("../../examples/pytorch").join(script));
    command
}

/// Whether there is something to compare with; says so if not.
fn pytorch() -> bool {
    let installed = Command::new("python3").args(["-c", "import torch"]).output().unwrap().status.success();
    if !installed {
        // Not by a macro: what those print of a test that passes is not shown.
        io::stderr().write_all(b"SKIPPED: PyTorch is not installed, so nothing is compared with it\n").unwrap();
    }
    installed
}

#[test]
fn ctypes_alone() {
    assert!(run(&mut python("test_sumexp.py")).contains("all is right"));
}

#[test]
fn against_pytorch() {
    if pytorch() {
        assert!(run(&mut python("compare.py")).contains("all is right"));
    }
}

/// The comparison with peers on the host: every case of sumexp is right, and so is every peer that could be timed. What Inductor
/// compiles takes minutes and is left out.
#[test]
fn beside_peers() {
    if pytorch() {
        let mut command = interpreter();
        command.args(["-m", "peers", "--device", "cpu", "--quick", "--without", "torch.compile"]);
        let printed = run(command.current_dir(library::root().join("../../benches")));
        assert!(printed.contains("everything is right") && printed.contains(" x torch"), "{printed}");
        assert!(!printed.contains("WRONG"), "{printed}");
    }
}
