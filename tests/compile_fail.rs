//! Programs that must not compile, each for its own reason.
//!
//! The files in `compile_fail/` are compiled against this crate. A line that ends in `//~ E0505` must be refused with just
//! that error; all other lines must be accepted, so beside each mistake stands the right way, which shows that nothing
//! else is wrong with it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

const FILES: [&str; 6] = ["types", "borrows", "doors", "fields", "names", "attention"];
/// Mistakes in all files.
const AT_LEAST: usize = 100;

/// What the compiler must say about a file, or what it said: line and error code.
type Complaints = BTreeSet<(usize, String)>;

fn expected(text: &str) -> Complaints {
    let marked = text.lines().enumerate().filter_map(|(at, line)| Some((at + 1, line.split_once("//~ ")?.1)));
    marked.flat_map(|(line, codes)| codes.split_whitespace().map(move |code| (line, code.to_string()))).collect()
}

/// Lines of `rustc --error-format=short`: `tests/types.rs:12:9: error[E0308]: mismatched types`.
fn found(output: &str) -> Complaints {
    let error = |line: &str| {
        let (place, message) = line.split_once(": error")?;
        let number = place.rsplit(':').nth(1)?.parse().ok()?;
        let code = message.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or("?", |(code, _)| code);
        Some((number, code.to_string()))
    };
    output.lines().filter_map(error).collect()
}

#[test]
fn complaints_are_read_right() {
    let text = "fn f() {}\nlet x = 1; //~ E0001\n// a remark\ng(x) //~ E0002 E0003";
    let want: Complaints = [(2, "E0001"), (4, "E0002"), (4, "E0003")].map(|(line, code)| (line, code.into())).into();
    assert_eq!(expected(text), want);
    let output = "a.rs:2:9: error[E0001]: no\na.rs:4:1: error[E0002]: no\na.rs:4:3: error[E0003]: no\na.rs:1:1: warning: x\n\
                  error: aborting due to 3 previous errors";
    assert_eq!(found(output), want);
    assert_eq!(found("a.rs:7:1: error: expected one of"), [(7, "?".into())].into());
}

/// The library that this test is linked with, as cargo names it. Asked for just that, cargo has nothing to build.
fn library(cargo: &Path) -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let folder = program.ancestors().nth(2).and_then(Path::file_name).unwrap().to_str().unwrap();
    let profile = if folder == "debug" { "dev" } else { folder };
    let output = Command::new(cargo)
        .args([
            "test",
            "--no-run",
            "--test",
            "compile_fail",
            "--offline",
            "--message-format=json",
            "--profile",
            profile,
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let ours = |line: &&str| line.contains("\"reason\":\"compiler-artifact\"") && line.contains("\"name\":\"sumexp\"");
    let mut paths = text.lines().filter(ours).flat_map(|line| line.split('"')).filter(|path| path.ends_with(".rlib"));
    PathBuf::from(paths.next_back().expect("cargo names the library"))
}

#[test]
fn mistakes_do_not_compile_and_what_stands_beside_them_does() {
    // Cargo says which cargo runs the test; the compiler of the same toolchain lies beside it.
    let cargo = PathBuf::from(std::env::var_os("CARGO").expect("this test is run by cargo"));
    let rustc = std::env::var_os("RUSTC").map_or_else(|| cargo.with_file_name("rustc"), PathBuf::from);
    let library = library(&cargo);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compile_fail");
    let (mut mistakes, mut wrong) = (0, String::new());
    for name in FILES {
        let file = folder.join(name).with_extension("rs");
        let wanted = expected(&std::fs::read_to_string(&file).unwrap());
        mistakes += wanted.len();
        let output = Command::new(&rustc)
            .args(["--edition=2024", "--crate-type=lib", "--emit=metadata", "--error-format=short"])
            .arg("-o")
            .arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name).with_extension("rmeta"))
            .arg("--extern")
            .arg(format!("sumexp={}", library.display()))
            .arg("-L")
            .arg(format!("dependency={}", library.with_file_name("deps").display()))
            .arg("-L")
            .arg(format!("dependency={}", library.parent().unwrap().display()))
            .arg(&file)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let found = found(&text);
        if found != wanted {
            let (missed, more) = (wanted.difference(&found), found.difference(&wanted));
            let (missed, more): (Vec<_>, Vec<_>) = (missed.collect(), more.collect());
            wrong += &format!("{name}.rs: accepted {missed:?}, refused {more:?}\n{text}\n");
        }
        assert!(!output.status.success());
    }
    assert!(wrong.is_empty(), "{wrong}");
    println!("{mistakes} mistakes in {} files are refused, each for its own reason", FILES.len());
    assert!(mistakes >= AT_LEAST, "{mistakes}");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), FILES.len(), "a file is not listed above");
}
