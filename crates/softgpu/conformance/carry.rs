//! Sums that carry: the flag lives between statements, so each program sets it, runs the form, and reads it back.

use super::expect::{integer, number, wrap};
use super::form::{Form, program, register};
use super::golden::{self, Goldens};
use super::{table, with_gpu};

/// The result of a form and the flag after it.
fn expect(form: &Form, row: &[u64], flag: u64) -> [u64; 2] {
    let ty = form.mods.last().expect("a type");
    let (bits, _) = integer(ty).expect("an integer type");
    let x: Vec<i128> = row.iter().map(|value| number(*value, bits, false)).collect();
    let carry = if form.op.ends_with('c') { i128::from(flag) } else { 0 };
    // Products of 64 bits need all of 128: the half is taken before anything is added.
    let product = || {
        let (a, b) = (x[0] as u128, x[1] as u128);
        let half = if form.has("hi") { a * b >> bits } else { a * b };
        i128::from(wrap(half as i128, bits))
    };
    let sum = match form.op.trim_end_matches('c') {
        "add" => x[0] + x[1] + carry,
        "sub" => x[0] - x[1] - carry,
        _ => product() + x[2] + carry,
    };
    let out = sum < 0 || sum >> bits != 0;
    [wrap(sum, bits), if form.has("cc") { u64::from(out) } else { flag }]
}

#[test]
fn carries_are_handed_on() {
    with_gpu(|gpu| {
        let goldens = Goldens::recorded(gpu, "carries");
        let mut written = Goldens::new(&gpu.name);
        let (forms, mut failures) = (table::forms_of("carries"), Vec::new());
        for text in &forms {
            let form = Form::parse(text).unwrap_or_else(|| panic!("{text}"));
            let rows = form.rows();
            let flags: Vec<u64> = (0..rows.len() as u64).map(|i| i / 3 & 1).collect();
            // Differences borrow: whether that is the same flag turned round is the device's affair.
            let (set, get) = if form.op.starts_with("sub") {
                ("sub.cc.u32 %r9, 0, %r9;", "subc.u32 %r9, 0, 0;\n    neg.s32 %r9, %r9;")
            } else {
                ("add.cc.u32 %r9, %r9, -1;", "addc.u32 %r9, 0, 0;")
            };
            let flag = register("%r9").expect("a register");
            let read: String = form.ins.iter().map(|register| register.read()).collect();
            let body = format!(
                "{read}{}    {set}\n    {text}\n    {get}\n{}{}",
                flag.read(),
                form.outs[0].written(),
                flag.written()
            );
            let mut columns = super::columns(&rows);
            columns.push(flags.clone());
            let outputs = gpu.run(&program(&body), &columns, 2, rows.len()).expect(text);
            for (i, row) in rows.iter().enumerate() {
                let (got, expected) = ([outputs[0][i], outputs[1][i]], expect(&form, row, flags[i]));
                if got != expected {
                    failures.push(format!("`{text}` of {row:#x?} and {} gives {got:x?}, not {expected:x?}", flags[i]));
                }
            }
            let answer = golden::digests(&outputs);
            failures.extend(goldens.iter().filter_map(|golden| golden.differs(text, &answer)));
            written.put(text, answer);
        }
        written.write("carries");
        println!("{}: {} forms that carry", gpu.name, forms.len());
        assert!(failures.is_empty(), "{} failures, the first: {}", failures.len(), failures[0]);
        assert!(forms.len() > 30, "only {} forms were found", forms.len());
    });
}
