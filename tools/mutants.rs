//! `make mutants`: breaks the kernels in one place at a time and shows which test notices.
//!
//! The mutants stand in `tests/mutants.txt`. Each is applied to a copy of the sources under `target/mutants`, which is
//! built for the architecture that it is about and tested on the software GPU until the first test fails. A mutant that no
//! test notices makes this program fail. `cargo run --example mutants -- NAME...` takes only mutants whose names contain one of the words.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

/// Longer than the tests take; what is still running then hangs.
const LIMIT: Duration = Duration::from_secs(900);

/// One change to one place of a kernel source.
struct Mutant {
    name: String,
    file: String,
    /// Text to replace, and which of its occurrences, from 1.
    from: String,
    occurrence: usize,
    to: String,
    /// Test targets, in the order in which they are run; `target:words` runs the tests of which a name contains `words`.
    tests: Vec<String>,
    /// `SUMEXP_CUDA_ARCHS` of its build.
    archs: String,
}

fn main() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let copy = root.join("target/mutants/source");
    let wanted: Vec<String> = env::args().skip(1).collect();
    let text = fs::read_to_string(root.join("tests/mutants.txt")).expect("tests/mutants.txt is part of the repository");
    let mutants: Vec<Mutant> = text.split("\n\n").filter_map(parse).collect();
    let chosen = |m: &&Mutant| wanted.is_empty() || wanted.iter().any(|word| m.name.contains(word));
    let mutants: Vec<&Mutant> = mutants.iter().filter(chosen).collect();
    copy_sources(&root, &copy);

    // A build or a test that fails by itself would notice everything.
    let tests = |archs: &str| -> BTreeSet<&String> {
        mutants.iter().filter(|mutant| mutant.archs == archs).flat_map(|mutant| &mutant.tests).collect()
    };
    for archs in mutants.iter().map(|mutant| &*mutant.archs).collect::<BTreeSet<_>>() {
        if let Some((test, how)) = judge(tests(archs), archs, &copy, &root) {
            panic!("without any mutant, {test} fails: {how}");
        }
    }
    let mut survivors = 0;
    println!("| mutant | noticed by | how |\n| --- | --- | --- |");
    for mutant in mutants {
        let path = copy.join(&mutant.file);
        let original = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        fs::write(&path, mutant.apply(&original)).expect("the copy is writable");
        let verdict = judge(&mutant.tests, &mutant.archs, &copy, &root);
        fs::write(&path, original).expect("the copy is writable");
        match verdict {
            Some((test, how)) => println!("| {} | `{test}` | {how} |", mutant.name),
            None => {
                survivors += 1;
                println!("| {} | **nothing** | |", mutant.name);
            }
        }
    }
    assert!(survivors == 0, "{survivors} mutants were not noticed");
}

impl Mutant {
    fn apply(&self, text: &str) -> String {
        let (at, _) = text.match_indices(&self.from).nth(self.occurrence - 1).unwrap_or_else(|| {
            panic!("{}: {} does not hold \"{}\" {} times", self.name, self.file, self.from, self.occurrence)
        });
        format!("{}{}{}", &text[..at], self.to, &text[at + self.from.len()..])
    }
}

/// Reads one block of `tests/mutants.txt`; `None` for a block of comments.
fn parse(block: &str) -> Option<Mutant> {
    let mut mutant = Mutant {
        name: String::new(),
        file: String::new(),
        from: String::new(),
        occurrence: 1,
        to: String::new(),
        tests: Vec::new(),
        archs: "80".to_string(),
    };
    for line in block.lines() {
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        match key {
            "" | "#" => {}
            "mutant" => mutant.name = value.to_string(),
            "in" => mutant.file = value.to_string(),
            "occurrence" => mutant.occurrence = value.parse().expect("a number from 1"),
            "-" => mutant.from = value.to_string(),
            "+" => mutant.to = value.to_string(),
            "for" => mutant.archs = value.to_string(),
            "tests" => mutant.tests = value.split(' ').map(str::to_string).collect(),
            _ => panic!("tests/mutants.txt: no such key: {line}"),
        }
    }
    (!mutant.name.is_empty()).then(|| {
        assert!(!mutant.from.is_empty() && !mutant.tests.is_empty(), "{}: incomplete", mutant.name);
        mutant
    })
}

/// Copies what git tracks, as it is in the working tree. Unchanged files keep their times, so little is built again.
fn copy_sources(root: &Path, copy: &Path) {
    let listed = Command::new("git").arg("ls-files").current_dir(root).output().expect("git is installed");
    remove_others(copy, copy, &String::from_utf8_lossy(&listed.stdout).lines().collect());
    for file in String::from_utf8_lossy(&listed.stdout).lines() {
        let (from, to) = (root.join(file), copy.join(file));
        let Ok(bytes) = fs::read(&from) else { continue };
        if fs::read(&to).is_ok_and(|old| old == bytes) {
            continue;
        }
        fs::create_dir_all(to.parent().expect("a file lies in a folder")).expect("target is writable");
        fs::copy(&from, &to).expect("target is writable");
    }
}

/// Removes the files of an earlier copy that are not `tracked` any more.
fn remove_others(folder: &Path, copy: &Path, tracked: &BTreeSet<&str>) {
    for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let name = path.strip_prefix(copy).expect("it lies in the copy").to_string_lossy();
        if path.is_dir() {
            remove_others(&path, copy, tracked);
        } else if !tracked.contains(&*name) {
            fs::remove_file(&path).expect("target is writable");
        }
    }
}

/// The first test that fails, and its message in one line. A mutant that does not compile is noticed by the compiler.
fn judge<'a>(
    tests: impl IntoIterator<Item = &'a String>,
    archs: &str,
    copy: &Path,
    root: &Path,
) -> Option<(String, String)> {
    for test in tests {
        let (target, words) = test.split_once(':').unwrap_or((test, ""));
        let built = Command::new("cargo")
            .args(["test", "--no-run", "--test", target, "--target-dir"])
            .arg(root.join("target/mutants/build"))
            .env("SUMEXP_CUDA_ARCHS", archs)
            .current_dir(copy)
            .output()
            .expect("cargo is installed");
        let said = String::from_utf8_lossy(&built.stderr).into_owned();
        // `  Executable tests/softmax/main.rs (/path/of/the/program)`
        let program =
            said.lines().find_map(|line| line.trim().strip_prefix("Executable ")?.split_once('(')?.1.strip_suffix(')'));
        let Some(program) = program.filter(|_| built.status.success()) else {
            let is_error = |line: &&str| line.contains("error") && !line.trim_start().starts_with("Compiling ");
            let error = said.lines().find(is_error).unwrap_or("the build failed");
            return Some(("build".to_string(), error.trim().to_string()));
        };
        let mut child = Command::new(program)
            .args(["--nocapture", words])
            .env("SUMEXP_TEST_DEVICE", "soft")
            .env("RUST_BACKTRACE", "0")
            .current_dir(copy)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("cargo just built it");
        let found = first_failure(&mut child);
        let _ = child.kill();
        let status = child.wait().expect("the child was started here");
        if found.is_some() {
            return found.map(|(test, how)| (format!("{target}: {test}"), how));
        }
        if !status.success() {
            return Some((target.to_string(), "failed without a message".to_string()));
        }
    }
    None
}

/// Reads what a test program prints until the first panic, whose message begins on the next line. A finding of the software
/// GPU tells more than the message about the launch that failed by it.
fn first_failure(child: &mut Child) -> Option<(String, String)> {
    let (send, lines) = mpsc::channel();
    for stream in [
        Box::new(child.stdout.take().expect("piped")) as Box<dyn std::io::Read + Send>,
        Box::new(child.stderr.take().expect("piped")),
    ] {
        let send = send.clone();
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
    }
    drop(send);
    let start = Instant::now();
    let mut failed: Option<(String, String)> = None;
    let mut finding: Option<String> = None;
    loop {
        let left = LIMIT.checked_sub(start.elapsed()).unwrap_or_default();
        let line = match lines.recv_timeout(left) {
            Ok(line) => line,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                return Some(("-".to_string(), "no end within 15 minutes".to_string()));
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return failed,
        };
        if finding.is_none()
            && let Some(text) = line.strip_prefix("softgpu: ")
        {
            finding = Some(text.replace('|', "\\|"));
        }
        match &mut failed {
            Some((test, _)) if finding.is_some() => return Some((test.clone(), finding.unwrap_or_default())),
            // The first line names the case, the second what was wrong with it.
            Some((test, how)) if !line.trim().is_empty() => {
                let line = line.trim().replace('|', "\\|");
                if !how.is_empty() || line.len() > 160 {
                    return Some((test.clone(), format!("{how} {line}").trim().to_string()));
                }
                *how = line;
            }
            Some(_) => {}
            None => {
                if let Some((thread, _)) = line.split_once("panicked at") {
                    failed = Some((thread.split('\'').nth(1).unwrap_or("?").to_string(), String::new()));
                }
            }
        }
    }
}
