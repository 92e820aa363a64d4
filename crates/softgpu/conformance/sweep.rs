//! Functions of one f32 over inputs spread evenly through all bit patterns, and of one half over all of them.

use super::expect::{self, Expect};
use super::form::Form;
use super::golden::{self, Goldens};
use super::{table, with_gpu, wrong};

/// Inputs of a sweep over f32, as a power of two: `SOFTGPU_CONFORMANCE_SWEEP=32` takes every pattern there is.
fn log2_inputs() -> u32 {
    let asked = std::env::var("SOFTGPU_CONFORMANCE_SWEEP").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(15).clamp(8, 32)
}

/// The largest error of f32 results, in units in the last place.
fn largest_error(form: &Form, rows: &[Vec<u64>], outputs: &[Vec<u64>]) -> f64 {
    let error = |(row, got): (&Vec<u64>, &u64)| match expect::expect(form, row).as_deref() {
        Some([Expect::Near { value, .. }]) => {
            let exponent = value.abs().log2().floor().clamp(-126.0, 127.0);
            let unit = (exponent - 23.0).exp2();
            (f64::from(f32::from_bits(*got as u32)) - value).abs() / unit
        }
        _ => 0.0,
    };
    rows.iter().zip(&outputs[0]).map(error).fold(0.0, f64::max)
}

/// Sweeps the forms among FORMS.md that `choose` takes, in pieces; `inputs` patterns, `step` apart.
fn sweep(family: &str, inputs: u64, step: u64, choose: impl Fn(&Form) -> bool) {
    const PIECE: u64 = 1 << 20;
    with_gpu(|gpu| {
        let goldens = Goldens::recorded(gpu, family);
        let mut written = Goldens::new(&gpu.name);
        let (mut failures, mut count) = (Vec::new(), 0);
        let forms = table::lists().into_iter().flat_map(|list| list.forms);
        for text in forms.flat_map(|form| table::expand(&form)) {
            let Some(form) = Form::parse(&text).filter(|form| form.ins.len() == 1 && choose(form)) else { continue };
            count += 1;
            let (mut largest, mut answer) = (0f64, String::new());
            for start in (0..inputs).step_by(PIECE as usize) {
                let rows: Vec<Vec<u64>> =
                    (start..inputs.min(start + PIECE)).map(|i| vec![(i * step) & 0xffff_ffff]).collect();
                let column: Vec<u64> = rows.iter().map(|row| row[0]).collect();
                let outputs = gpu.run(&form.ptx(), &[column], 1, rows.len()).expect(&text);
                let wrong = wrong(&form, &rows, &outputs).unwrap_or_else(|| panic!("`{text}` has no expectation"));
                if let Some(first) = wrong.first() {
                    failures.push(format!("`{text}`, {} times; {first}", wrong.len()));
                }
                largest = largest.max(largest_error(&form, &rows, &outputs));
                // A digest of all results, whatever their number.
                answer += &golden::digests(&outputs);
            }
            let line = format!("m {largest:.4} {inputs} {}", golden::digest_of(answer.as_bytes()));
            for golden in &goldens {
                let recorded = golden.get(&text).unwrap_or("none");
                println!("{line}, {} {recorded}: {text}", golden.device);
                failures.extend(worse(&line, recorded).map(|why| format!("`{text}`, {}: {why}", golden.device)));
            }
            println!("{largest:8.3} units at most: {text}");
            written.put(&text, line);
        }
        written.write(family);
        assert!(failures.is_empty(), "{}", failures.join("\n"));
        assert!(count > 0, "no form was swept");
    });
}

/// In words why a sweep is not as good as a device's: exact results differ, or the largest error is more than one unit
/// above the device's. Sweeps of other inputs are not compared.
fn worse(ours: &str, recorded: &str) -> Option<String> {
    let parse = |line: &str| -> Option<(f64, u64, String)> {
        let mut words = line.strip_prefix("m ")?.split(' ');
        Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?.to_string()))
    };
    let (ours, theirs) = (parse(ours)?, parse(recorded)?);
    if ours.1 != theirs.1 {
        return None;
    }
    let exact = ours.0 == 0.0 && theirs.0 == 0.0;
    let worse = if exact { ours.2 != theirs.2 } else { ours.0 > theirs.0 + 1.0 };
    worse.then(|| format!("{ours:?}, recorded {theirs:?}"))
}

#[test]
fn a_worse_sweep_is_noticed() {
    assert_eq!(worse("m 0.5010 32768 aa", "m 0.9000 32768 bb"), None);
    assert!(worse("m 2.1000 32768 aa", "m 0.9000 32768 bb").is_some());
    assert_eq!(worse("m 0.0000 65536 aa", "m 0.0000 65536 aa"), None);
    assert!(worse("m 0.0000 65536 aa", "m 0.0000 65536 ab").is_some());
    assert_eq!(worse("m 9.0000 65536 aa", "m 0.0000 32768 ab"), None);
    assert_eq!(worse("m 9.0000 65536 aa", "none"), None);
}

#[test]
fn approximate_functions_stay_within_the_manuals_error() {
    let log2 = log2_inputs();
    // An odd step reaches every sign and exponent, and mantissas of every kind.
    let step = if log2 == 32 { 1 } else { (1u64 << (32 - log2)) + 1 };
    let functions = ["ex2", "lg2", "rcp", "rsqrt", "sqrt", "tanh", "sin", "cos"];
    sweep("sweep-f32", 1 << log2, step, |form| {
        functions.contains(&form.op.as_str()) && form.has("approx") && form.mods.last().is_some_and(|ty| ty == "f32")
    });
}

#[test]
fn every_half_converts_and_transforms_as_it_must() {
    sweep("sweep-half", 1 << 16, 1, |form| {
        let half = |name: &String| name == "f16" || name == "bf16";
        form.mods.last().is_some_and(half) && form.ins[0].class == "h" && form.outs.len() == 1
    });
}

#[test]
fn conversions_to_halves_round_once() {
    let log2 = log2_inputs();
    sweep("sweep-narrow", 1 << log2, if log2 == 32 { 1 } else { (1u64 << (32 - log2)) + 1 }, |form| {
        let [.., to, from] = form.mods.as_slice() else { return false };
        form.op == "cvt" && from == "f32" && (to == "f16" || to == "bf16" || to == "tf32")
    });
}
