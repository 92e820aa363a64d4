//! One-instruction programs, run through whatever libcuda is there, against expectations of their own and, where there
//! are any, against the recorded answers of real GPUs. README.md says how to run them on one.

// Bit fields read better without parentheses around every shift, and lanes index several arrays.
#![allow(clippy::needless_range_loop, clippy::precedence)]

mod beside;
mod carry;
mod cell;
mod copies;
mod expect;
mod form;
mod golden;
mod gpu;
mod inputs;
mod matrix;
mod memory;
mod order;
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

/// Results that are further from a recorded device's than both of their errors allow.
fn apart(form: &Form, rows: &[Vec<u64>], outputs: &[Vec<u64>], recorded: &[u64]) -> Vec<String> {
    let n = rows.len();
    if recorded.len() != n * outputs.len() {
        return vec![format!("{} results are recorded, not {}", recorded.len(), n * outputs.len())];
    }
    let mut apart = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        for (column, expected) in expect::expect(form, row).into_iter().flatten().enumerate() {
            let (ours, theirs) = (outputs[column][i], recorded[column * n + i]);
            if !expected.agree(ours, theirs) {
                apart.push(format!("of {row:#x?} it gives {ours:#x}, the device {theirs:#x}"));
            }
        }
    }
    apart
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
        {
            for text in table::forms_of("registers") {
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
                for golden in known {
                    match golden.values(&text).filter(|_| approximates(&form)) {
                        Some(recorded) => {
                            let apart = apart(&form, &rows, &outputs, &recorded);
                            let say =
                                |first: &String| format!("`{text}`, {} times, {}: {first}", apart.len(), golden.device);
                            failures.extend(apart.first().map(say));
                        }
                        None => failures.extend(golden.differs(&text, &answer)),
                    }
                }
                written.put(&text, answer);
            }
        }
        written.write("registers");
        println!("{}: {count} forms", gpu.name);
        println!("{unverified} of {count} forms are not verified against hardware");
        assert!(failures.is_empty(), "{} of {count} forms:\n{}", failures.len(), failures.join("\n"));
        assert!(count > 900, "only {count} forms were found");
        assert!(open.is_empty(), "without an expectation: {open:?}");
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

/// A golden is no ornament: what deviates from it further than both errors allow is found.
#[test]
fn deviations_from_a_golden_are_noticed() {
    let form = Form::parse("ex2.approx.f32 %f1, %f2;").expect("a form");
    let rows: Vec<Vec<u64>> = (0..100).map(|i| vec![u64::from((i as f32 * 0.37 - 18.0).to_bits())]).collect();
    let ours: Vec<u64> = rows.iter().map(|row| u64::from(f32::from_bits(row[0] as u32).exp2().to_bits())).collect();
    let text = format!("device some\n{}\t{}\n", form.text, golden::values(std::slice::from_ref(&ours)));
    let recorded = Goldens::parse(&text).values(&form.text).expect("values");
    let outputs = vec![ours];
    assert!(apart(&form, &rows, &outputs, &recorded).is_empty());
    for (units, found) in [(1, 0), (2, 0), (9, 1), (1 << 31, 1)] {
        let mut deviating = recorded.clone();
        deviating[70] = if units < 1 << 31 { deviating[70] + units } else { deviating[70] ^ units };
        assert_eq!(apart(&form, &rows, &outputs, &deviating).len(), found, "{units}");
    }
    assert_eq!(apart(&form, &rows, &outputs, &recorded[1..]).len(), 1, "a golden of other rows");
    // An exact form: every digest counts.
    let golden = Goldens::parse("device some\nadd\td 0000000100000002\n");
    assert_eq!(golden.differs("add", "d 0000000100000002"), None);
    assert!(golden.differs("add", "d 0000000100000003").is_some());
}

/// The table says which program runs a form, and each program runs every form of the lists that name it. Without one are
/// only statements that are no instruction of a value: branches, returns, and registers that hold a place or a time.
#[test]
fn every_form_has_a_program_or_a_reason() {
    const PROGRAMS: [&str; 9] =
        ["registers", "carries", "warp", "order", "memory", "matrix", "rows", "copies", "beside"];
    for list in table::lists().iter().filter(|list| list.heading != "Not implemented") {
        match list.program.as_deref() {
            Some(program) => assert!(PROGRAMS.contains(&program), "{program}"),
            None => {
                let control =
                    ["bra", "brx", "@", "ret", "exit", "nanosleep", "LIST", "mov.u32 %r5, %", "mov.u64 %rd5, %"];
                for form in list.forms.iter().flat_map(|form| table::expand(form)) {
                    assert!(control.iter().any(|start| form.starts_with(start)), "no program runs `{form}`");
                }
            }
        }
    }
}
