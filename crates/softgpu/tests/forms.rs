//! FORMS.md is true: every form it lists decodes and runs, what it says is missing stops with its name, and the files
//! it names test what they are said to test.

mod common;
#[path = "../conformance/table.rs"]
mod table;

use common::Machine;
use std::path::Path;
use table::{List, expand, lists};

/// Registers and memory that the forms use; every register has a value, every byte was written.
fn kernel(body: &str) -> String {
    format!(
        ".version 9.0
.target sm_90a
.address_size 64
.const .align 16 .b8 fixed[64] = {{1, 2, 3, 4}};
.visible .entry k(.param .u64 out)
{{
    .shared .align 128 .b8 tile[4096];
    .local .align 16 .b8 own[64];
    .reg .pred %p<10>;
    .reg .b16 %h<10>;
    .reg .b32 %r<20>;
    .reg .f32 %f<10>;
    .reg .b64 %rd<12>;
    .reg .f64 %d<10>;
    mov.u32 %r0, %tid.x;
    ld.param.u64 %rd0, [out];
    mad.wide.u32 %rd0, %r0, 256, %rd0;
    mov.u32 %r1, tile;
    mad.lo.u32 %r1, %r0, 128, %r1;
    cvt.u64.u32 %rd1, %r1;
    cvta.shared.u64 %rd1, %rd1;
    mov.u64 %rd3, own;
    cvta.local.u64 %rd2, %rd3;
    mov.b32 %r3, -1;
    mov.b32 %r4, 2;
    mov.b64 %rd9, 0;
    mov.u32 %r10, 0;
ZERO:
    add.u32 %r11, %r1, %r10;
    st.shared.b32 [%r11], %r10;
    add.u32 %r10, %r10, 4;
    setp.lt.u32 %p1, %r10, 128;
    @%p1 bra ZERO;
    st.local.v4.b32 [%rd3], {{%r3, %r3, %r3, %r3}};
    bar.sync 0;
    {}
    setp.lt.u32 %p1, %r0, 7; setp.lt.u32 %p2, %r0, 19; setp.lt.u32 %p3, %r0, 30;
    {body}
    ret;
}}
",
        // Ordinary numbers in every register.
        (1..10)
            .flat_map(|i| {
                let word = if i >= 5 { format!("add.u32 %r{i}, %r0, {};", 3 * i) } else { String::new() };
                let double = if (5..9).contains(&i) { format!("cvt.u64.u32 %rd{i}, %r{i};") } else { String::new() };
                let rest = format!(
                    "cvt.u16.u32 %h{i}, %r0; add.u16 %h{i}, %h{i}, 0x3C00; cvt.rn.f32.u32 %f{i}, %r0; \
                     cvt.rn.f64.u32 %d{i}, %r0;"
                );
                [word, double, rest]
            })
            .collect::<Vec<_>>()
            .join("\n    ")
    )
}

#[test]
fn every_listed_form_decodes_and_runs() {
    let (mut count, mut broken) = (0, Vec::new());
    for List { heading, forms, .. } in lists().iter().filter(|list| list.heading != "Not implemented") {
        for form in forms.iter().flat_map(|form| expand(form)) {
            count += 1;
            let text = kernel(&form);
            let module = match softgpu::ptx::parse(&text) {
                Ok(module) => module,
                Err(error) => {
                    broken.push(format!("{heading}: `{form}`: {error}"));
                    continue;
                }
            };
            if let Err(refused) = softgpu::ir::Kernel::lower(&module, "k", true) {
                broken.push(format!("{heading}: `{form}`: {}", refused.why));
                continue;
            }
            let machine = Machine::new();
            let out = machine.upload(&[0x3C00_3C00u32; 2048]);
            let outcome = machine.run(&text, "k", 1, 32, &out.to_le_bytes());
            if outcome.fault.is_some() || !outcome.findings.is_empty() {
                broken.push(format!("{heading}: `{form}`: {:?} {:?}", outcome.fault.map(|f| f.text), outcome.findings));
            }
        }
    }
    assert!(broken.is_empty(), "{} of {count} forms:\n{}", broken.len(), broken.join("\n"));
    println!("{count} forms");
    assert!(count > 1500, "only {count} forms are listed");
}

/// The statement is refused: the stop names its opcode or the part that is unknown.
#[test]
fn every_missing_form_stops_with_its_name() {
    let mut count = 0;
    for List { forms, .. } in lists().iter().filter(|list| list.heading == "Not implemented") {
        for form in forms.iter().flat_map(|form| expand(form)) {
            count += 1;
            let text = kernel(&format!(".loc 1 42 5\n{form}")) + "\n.file 1 \"kernels/some.cu\"\n";
            let module = softgpu::ptx::parse(&text).unwrap_or_else(|error| panic!("`{form}`: {error}"));
            let refused = softgpu::ir::Kernel::lower(&module, "k", true).err();
            let refused = refused.unwrap_or_else(|| panic!("`{form}` decodes, and the list says it does not"));
            assert!(refused.statement.contains(form.split_whitespace().next().unwrap()), "{refused}");
            assert!(refused.place.contains("some.cu:42"), "{refused}");
            assert!(!refused.why.is_empty(), "{refused}");
        }
    }
    assert!(count > 20, "only {count} forms are listed");
}

/// A file that is named holds the opcode of every form above which it stands.
#[test]
fn the_named_tests_exist() {
    let mut missing = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for List { heading, file, forms, .. } in lists().into_iter().filter(|list| list.heading != "Not implemented") {
        let file = file.unwrap_or_else(|| panic!("{heading}: no file is named"));
        let text = std::fs::read_to_string(root.join(&file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        for form in forms.iter().flat_map(|form| expand(form)) {
            let statement = form.rsplit(": ").find(|part| !part.trim().is_empty()).unwrap_or(&form);
            let start = statement.trim_start_matches(['@', '!', '%']);
            let opcode = start.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
            let opcode = if form.starts_with('@') {
                "bra"
            } else if form.contains("brx") {
                "brx"
            } else {
                opcode
            };
            let said = format!("{file} does not mention {opcode}");
            if !text.contains(opcode) && !missing.contains(&said) {
                missing.push(said);
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}
