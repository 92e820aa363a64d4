//! How results come about and are shown: the bundle's `run` with programs that pretend, `make report` on made-up results, and the
//! README's table against the results in this repository.

use std::path::Path;
use std::process::Command;

/// Runs a script of this repository and returns what it printed, which has to end well.
#[track_caller]
fn python(arguments: &[&str]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new("python3");
    command.args(arguments).current_dir(root).env("PYTHONDONTWRITEBYTECODE", "1");
    let output = command.output().expect("python3 starts");
    let words = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{arguments:?}: {}\n{words}", output.status);
    words
}

#[test]
fn pictures_page_and_table_hold_what_was_measured() {
    assert!(python(&["tests/report/test_report.py"]).contains("\nOK"));
}

#[test]
fn peers_count_judge_and_compare() {
    assert!(python(&["tests/peers/test_peers.py"]).contains("\nOK"));
}

#[test]
fn run_of_the_bundle_counts_what_failed() {
    assert!(python(&["tests/report/test_run.py"]).contains("\nOK"));
}

#[test]
fn table_of_the_readme_is_up_to_date() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/results");
    let entries = folder.read_dir().into_iter().flatten().map(|entry| entry.unwrap().path());
    let results: Vec<String> = entries
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| path.to_string_lossy().into_owned())
        .collect();
    let mut arguments = vec!["tools/report.py", "--readme", "README.md", "--check"];
    arguments.extend(results.iter().map(String::as_str));
    python(&arguments);
}
