//! The command as people run it, on the host and on the GPU that the tests use.

#[path = "../../sumexp-capi/tests/library/mod.rs"]
mod library;

use library::{built, folder, library_path};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::{env, fs, str};

/// A folder with the software GPU as the driver, unless the tests use a real one.
fn driver() -> &'static PathBuf {
    static DRIVER: OnceLock<PathBuf> = OnceLock::new();
    DRIVER.get_or_init(|| {
        let folder = folder("driver");
        if matches!(env::var("SUMEXP_TEST_DEVICE").as_deref(), Err(_) | Ok("soft")) {
            fs::copy(built("libsoftgpu", "so"), folder.join("libcuda.so")).unwrap();
        }
        folder
    })
}

/// Runs the command; words are separated by spaces.
fn call(words: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sumexp"));
    command.args(words.split(' ')).env("LD_LIBRARY_PATH", library_path(&[driver()])).output().unwrap()
}

/// What it prints where it succeeds.
#[track_caller]
fn prints(words: &str) -> String {
    let output = call(words);
    let said = str::from_utf8(&output.stderr).unwrap();
    assert!(output.status.success(), "{words}: {}: {said}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// The one line that it refuses with.
#[track_caller]
fn refuses(words: &str, code: i32) -> String {
    let output = call(words);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{words}: {said}");
    assert!(output.stdout.is_empty(), "{words}");
    said
}

const ROWS: [&str; 8] = [
    "softmax",
    "softmax-backward",
    "log-softmax",
    "log-softmax-backward",
    "logsumexp",
    "logsumexp-backward",
    "cross-entropy",
    "cross-entropy-backward",
];

#[test]
fn every_operation_is_right_on_both_devices() {
    for device in ["cpu", "cuda:0"] {
        for dtype in ["f16", "bf16", "f32"] {
            for operation in ROWS {
                for shape in ["13x300 --temperature 0.5", "3x17x10 --dim 1", "7", "0x4"] {
                    let text = prints(&format!("verify {operation} {shape} --dtype {dtype} --device {device}"));
                    // What it is, the head of the table, and a line per result.
                    let lines: Vec<&str> = text.lines().collect();
                    assert!(lines.len() == 3 && lines[2].ends_with(" ok"), "{text}");
                    assert!(lines[0].starts_with(&format!("{operation} [")) && lines[0].contains(dtype), "{text}");
                }
            }
            for (operation, results) in [("attention", 2), ("attention-backward", 3)] {
                let shape = "2x4x70x64 --kv-heads 2 --keys 130 --causal";
                let text = prints(&format!("verify {operation} {shape} --dtype {dtype} --device {device}"));
                assert_eq!(text.lines().filter(|line| line.ends_with(" ok")).count(), results, "{text}");
            }
        }
    }
}

/// The largest error of an honest result is above 0: the comparison compares.
#[test]
fn errors_are_measured() {
    let text = prints("verify log-softmax 50x1000 --device cuda:0 --seed 7");
    let numbers: Vec<f64> =
        text.lines().last().unwrap().split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [elements, largest, mean, bound] = numbers[..] else { panic!("{text}") };
    assert!(elements == 50_000.0 && 0.1 < mean && mean < largest && largest < bound, "{text}");
}

#[test]
fn times_are_printed_with_their_rates() {
    let text = prints("bench softmax 64x256 --device cpu --repeat 3");
    assert!(text.starts_with("softmax [64, 256] of f32 on CPU (copy "), "{text}");
    assert!(text.contains("0.131 MB moved at the least") && text.contains("% of the copy"), "{text}");
    assert!(text.contains("median ") && text.contains(" 3 measurements of "), "{text}");
    let text = prints("bench attention 1x2x64x32 --causal --device cpu --repeat 3 --dtype bf16");
    // 2 heads, 64 * 65 / 2 pairs, 2 products of 32 elements.
    let gflop = 4.0 * 2.0 * 2080.0 * 32.0 / 1e9;
    assert!(text.contains(&format!("{gflop:.3} GFLOP, ")) && text.contains(" TFLOP/s"), "{text}");
}

#[test]
fn plans_are_explained() {
    let text = prints("explain attention 1x32x1024x128 --kv-heads 8 --causal --dtype bf16 --device cpu");
    assert!(text.contains("attention_forward_bf16_128<<<") && text.contains("tiles computed"), "{text}");
    let text = prints("explain softmax 64x10000 --device cpu");
    assert_eq!(text, "64 rows of 10000 f32, 1 apart\na row fits in 1024 lanes x 8 vectors: 64 blocks\n");
    assert!(prints("explain softmax 4x300x64 --dim 1 --device cpu").contains("rows run across memory"));
    assert!(prints("explain softmax 0x5 --device cpu").contains("nothing to launch"));
}

#[test]
fn devices_are_listed() {
    let text = prints("devices");
    assert!(text.lines().any(|line| line.starts_with("cpu ")), "{text}");
    assert!(text.lines().any(|line| line.starts_with("cuda:0  ") && line.contains("compute capability")), "{text}");
}

#[test]
fn bad_calls_are_refused_in_one_line() {
    for (words, wanted) in [
        ("verify softmax 4x8 --dim 2 --device cpu", "--dim 2 is no dim of [4, 8]: want -2 to 1"),
        ("verify attention 4x8 --device cpu", "[4, 8] has 2 dims"),
        ("verify softmax 4x8 --causal --device cpu", "--causal is no option of softmax"),
        ("bench attention 1x2x3x4 --dim 1 --device cpu", "--dim is no option of attention"),
        ("explain cross-entropy 4x8 --device cpu", "has no plan to explain"),
        ("verify softmax 99999999999x99999999999 --device cpu", "more elements than any memory holds"),
    ] {
        let said = refuses(words, 2);
        assert!(said.contains(wanted) && said.lines().count() == 1, "{words}: {said}");
    }
    // What sumexp itself refuses.
    for (words, wanted) in [
        ("verify attention 1x6x4x8 --kv-heads 4 --device cpu", "6"),
        ("verify attention 1x1x4x300 --device cpu", "300"),
        ("verify softmax 4x8 --temperature 0 --device cpu", "temperature"),
        ("verify softmax 4x8 --device cuda:99", "99"),
    ] {
        let said = refuses(words, 1);
        assert!(said.contains(wanted) && said.lines().count() == 1, "{words}: {said}");
    }
    // The parser's own.
    for (words, wanted) in [
        ("verify softmax 4x", "lengths with x between them"),
        ("verify sotfmax 4x8", "softmax"),
        ("bench softmax 4 --repeat 0", "0"),
    ] {
        let said = refuses(words, 2);
        assert!(said.contains(wanted), "{words}: {said}");
    }
}

#[test]
fn help_has_every_operation_and_an_example() {
    let (general, verify) = (prints("--help"), prints("verify --help"));
    assert!(general.contains("sumexp bench log-softmax 16384x4096"), "{general}");
    for operation in ROWS.iter().chain(&["attention", "attention-backward"]) {
        assert!(verify.contains(&format!("- {operation}:")), "{operation}: {verify}");
    }
    assert!(
        [&general, &verify].iter().all(|text| text.lines().all(|line| line.chars().count() <= 130)),
        "{general}{verify}"
    );
}
