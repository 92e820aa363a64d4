//! One-instruction programs, run through whatever libcuda is there, against expectations of their own and, where there
//! are any, against the recorded answers of real GPUs. README.md says how to run them on one.

// Bit fields read better without parentheses around every shift, and lanes index several arrays.
#![allow(clippy::needless_range_loop, clippy::precedence)]

mod expect;
mod form;
mod golden;
mod gpu;
mod inputs;
mod matrix;
mod sweep;
mod table;
mod warp;

use expect::Expect;
use form::Form;
use golden::Goldens;
use gpu::Gpu;
use std::sync::{LazyLock, Mutex};

/// The device, which all tests of the process share, one after the other.
pub static GPU: LazyLock<Mutex<Gpu>> = LazyLock::new(|| Mutex::new(Gpu::open()));

/// Runs something on the device.
pub fn with_gpu<T>(f: impl FnOnce(&Gpu) -> T) -> T {
    let gpu = GPU.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    // Contexts are current to a thread, and each test has its own.
    gpu.make_current();
    f(&gpu)
}

/// Families of FORMS.md whose forms are functions of registers.
const FAMILIES: [&str; 5] = ["Integers and bits", "f32 and f64", "Halves", "Conversions", "Predicates"];

/// Forms for which nothing but a golden can say what is right; the number may only shrink.
const WITHOUT_EXPECTATION: usize = 9;

/// Columns of rows.
fn columns(rows: &[Vec<u64>]) -> Vec<Vec<u64>> {
    let width = rows.first().map_or(0, Vec::len);
    (0..width).map(|i| rows.iter().map(|row| row[i]).collect()).collect()
}

/// The first rows of a form's results that are not what is expected, in words; `None` if nothing is expected of it.
fn wrong(form: &Form, rows: &[Vec<u64>], outputs: &[Vec<u64>]) -> Option<Vec<String>> {
    let (mut wrong, mut free) = (Vec::new(), 0);
    for (n, row) in rows.iter().enumerate() {
        let expected = expect::expect(form, row)?;
        for (column, expected) in outputs.iter().zip(expected) {
            free += usize::from(expected == Expect::Free);
            if !expected.holds(column[n]) {
                wrong.push(format!("of {row:#x?} it gives {:#x}, expected {expected:x?}", column[n]));
            }
        }
    }
    // What the manual leaves open must stay the exception, or this would check nothing.
    if 4 * free > 3 * rows.len() * outputs.len() {
        wrong.push(format!("{free} of {} results are left open", rows.len()));
    }
    Some(wrong)
}

/// Whether results of this form may differ from hardware in the last bits.
fn approximates(form: &Form) -> bool {
    form.has("approx") || form.has("full")
}

#[test]
fn registers_hold_what_the_manual_says() {
    with_gpu(|gpu| {
        let goldens = Goldens::recorded(gpu, "registers");
        let mut written = Goldens::new(&gpu.name);
        let (mut count, mut failures, mut open, mut unverified) = (0, Vec::new(), Vec::new(), 0);
        for list in table::lists().iter().filter(|list| FAMILIES.contains(&list.heading.as_str())) {
            // Carries live between statements: no program of one instruction shows them.
            let alone = |text: &String| {
                !text.contains(".cc.") && !["addc", "subc", "madc"].iter().any(|op| text.starts_with(op))
            };
            for text in list.forms.iter().flat_map(|form| table::expand(form)).filter(alone) {
                let form = Form::parse(&text).unwrap_or_else(|| panic!("`{text}` is no form of registers"));
                count += 1;
                let rows = form.rows();
                let outputs = match gpu.run(&form.ptx(), &columns(&rows), form.outs.len(), rows.len()) {
                    Ok(outputs) => outputs,
                    Err(why) => {
                        failures.push(format!("`{text}` does not load: {why}"));
                        continue;
                    }
                };
                match wrong(&form, &rows, &outputs) {
                    Some(wrong) if wrong.is_empty() => {}
                    Some(wrong) => failures.push(format!("`{text}`, {} times; {}", wrong.len(), wrong[0])),
                    None => open.push(text.clone()),
                }
                let answer = if approximates(&form) { golden::values(&outputs) } else { golden::digests(&outputs) };
                let known = goldens.iter().filter(|golden| golden.get(&text).is_some());
                unverified += usize::from(known.clone().count() == 0);
                for golden in known.filter(|_| !approximates(&form)) {
                    if golden.get(&text) != Some(answer.as_str()) {
                        failures.push(format!("`{text}` differs from {}", golden.device));
                    }
                }
                written.put(&text, answer);
            }
        }
        written.write("registers");
        println!("{}: {count} forms, {} without an expectation of their own:", gpu.name, open.len());
        println!("{}", open.join("\n"));
        println!("{unverified} of {count} forms are not verified against hardware");
        assert!(failures.is_empty(), "{} of {count} forms:\n{}", failures.len(), failures.join("\n"));
        assert!(count > 900, "only {count} forms were found");
        assert!(open.len() <= WITHOUT_EXPECTATION, "{} forms without an expectation", open.len());
    });
}

/// A check that accepts everything would be none: each kind of expectation refuses a neighbour.
#[test]
fn expectations_refuse_wrong_results() {
    for (text, row, right) in [
        ("add.u32 %r5, %r6, %r7;", vec![1, 2], 3),
        ("fma.rm.f32 %f1, %f2, %f3, %f4;", vec![0x3f80_0000, 0x3f80_0000, 0x3380_0000], 0x3f80_0000),
        ("add.rp.f32 %f1, %f2, %f3;", vec![0x3f80_0000, 0x3380_0000], 0x3f80_0001),
        ("cvt.rn.f16.f32 %h1, %f1;", vec![0x3f80_1000], 0x3c00),
        ("fma.rn.f16x2 %r5, %r6, %r7, %r8;", vec![0x3c01_3e00, 0x3c01_3c01, 0x0001_0001], 0x3c02_3e02),
        ("testp.normal.f32 %p1, %f1;", vec![0x8000_0000], 1),
        ("prmt.b32 %r5, %r6, %r7, %r8;", vec![0x8000, 0x0034_0000, 0x9876], 0xff00_0034),
    ] {
        let form = Form::parse(text).expect("a form");
        let expected = expect::expect(&form, &row).expect("an expectation")[0];
        assert!(expected.holds(right), "{text} {expected:x?}");
        assert!(!expected.holds(right ^ 1), "{text} {expected:x?}");
    }
    let form = Form::parse("ex2.approx.f32 %f1, %f2;").expect("a form");
    let expected = expect::expect(&form, &[0x3f00_0000]).expect("an expectation")[0];
    assert!(matches!(expected, Expect::Near { .. }), "ex2 is compared within its error");
    let root = u64::from(2f32.sqrt().to_bits());
    assert!(expected.holds(root) && expected.holds(root + 1) && !expected.holds(root + 8));
}
