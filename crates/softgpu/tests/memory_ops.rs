//! Loads, stores, atomics and address conversion, one short PTX program each.

mod common;

use common::{Machine, kernel};
use softgpu::check::Detector;
use softgpu::launch::{Checks, Outcome};

/// Runs `body` with 32 threads and an output of `words` words of zero.
fn run(body: &str, words: usize) -> (Outcome, Vec<u32>) {
    let machine = Machine::new();
    let out = machine.upload(&vec![0u32; words]);
    let outcome = machine.run(&kernel(body), "k", 1, 32, &out.to_le_bytes());
    let words = machine.words(out, words);
    (outcome, words)
}

/// The same, and nothing may be wrong.
#[track_caller]
fn clean(body: &str, words: usize) -> Vec<u32> {
    let (outcome, words) = run(body, words);
    assert_eq!((outcome.fault, outcome.findings), (None, vec![]));
    words
}

#[track_caller]
fn fault(body: &str, code: u32, parts: &[&str]) {
    let (outcome, _) = run(body, 32);
    let fault = outcome.fault.expect("a fault");
    assert_eq!(fault.code, code, "{}", fault.text);
    for part in parts {
        assert!(fault.text.contains(part), "{part:?} is missing in {:?}", fault.text);
    }
}

#[test]
fn narrow_loads_extend_by_their_sign() {
    // Each thread stores 0x80F1 as two bytes in shared memory and reads it back in every width.
    let body = |load: &str, to: &str| {
        format!(
            ".shared .align 4 .b8 s[256];
    mov.u32 %r1, s; shl.b32 %r2, %r0, 2; add.u32 %r1, %r1, %r2;
    mov.u32 %r3, 0x000080F1; st.shared.u32 [%r1], %r3;
    mov.u32 %r5, 0; mov.b64 %rd1, 0;
    {load};
    {to};
    st.global.u32 [%rd0], %r5;"
        )
    };
    let table = [
        ("ld.shared.u8 %r5, [%r1]", "", 0xF1),
        ("ld.shared.s8 %r5, [%r1]", "", 0xFFFF_FFF1),
        ("ld.shared.u16 %r5, [%r1]", "", 0x80F1),
        ("ld.shared.s16 %r5, [%r1]", "", 0xFFFF_80F1),
        ("ld.shared.u8 %r5, [%r1+1]", "", 0x80),
        ("ld.shared.s8 %h1, [%r1]", "cvt.u32.u16 %r5, %h1", 0xFFF1),
        ("ld.shared.s16 %rd1, [%r1]", "shr.u64 %rd1, %rd1, 32; cvt.u32.u64 %r5, %rd1", 0xFFFF_FFFF),
        ("ld.shared.u16 %rd1, [%r1]", "shr.u64 %rd1, %rd1, 32; cvt.u32.u64 %r5, %rd1", 0),
        ("ld.volatile.shared.u32 %r5, [%r1]", "", 0x80F1),
        ("ld.relaxed.cta.shared.u32 %r5, [%r1]", "", 0x80F1),
    ];
    for (load, to, wanted) in table {
        assert_eq!(clean(&body(load, to), 32), [wanted; 32], "{load}");
    }
}

#[test]
fn vectors_keep_the_order_of_their_elements() {
    let table: [(&str, &str); 5] = [
        ("st.shared.v2.u32 [%r1], {%r2, %r3}", "ld.shared.v2.u32 {%r2, %r3}, [%r1]"),
        ("st.shared.v4.u32 [%r1], {%r2, %r3, %r4, %r5}", "ld.shared.v4.u32 {%r2, %r3, %r4, %r5}, [%r1]"),
        ("st.shared.v4.u32 [%r1], {%r2, %r3, %r4, %r5}", "ld.shared.v4.f32 {_, %r3, _, %r5}, [%r1]"),
        (
            "st.shared.v4.u32 [%r1], {%r2, %r3, %r4, %r5}",
            "ld.shared.v2.u64 {%rd1, %rd2}, [%r1]; mov.b64 {%r2, %r3}, %rd1",
        ),
        ("st.shared.v4.u16 [%r1], {%h1, %h2, %h1, %h2}", "ld.shared.v2.b32 {%r4, %r5}, [%r1]; shr.u32 %r3, %r5, 16"),
    ];
    for (store, load) in table {
        let body = format!(
            ".shared .align 16 .b8 s[512];
    mov.u32 %r1, s; shl.b32 %r2, %r0, 4; add.u32 %r1, %r1, %r2;
    mov.u32 %r2, 11; add.u32 %r3, %r0, 500; mov.u32 %r4, 13; mov.u32 %r5, 14;
    mov.u16 %h1, 7; cvt.u16.u32 %h2, %r3;
    {store};
    mov.u32 %r3, 0;
    {load};
    st.global.u32 [%rd0], %r3;"
        );
        let wanted: Vec<u32> = (500..532).collect();
        assert_eq!(clean(&body, 32), wanted, "{store}; {load}");
    }
}

#[test]
fn global_vectors_and_cache_hints() {
    let body = "ld.param.u64 %rd1, [out]; mul.wide.u32 %rd2, %r0, 16; add.u64 %rd1, %rd1, %rd2;
    mov.u32 %r1, %r0; add.u32 %r2, %r0, 100; add.u32 %r3, %r0, 200; add.u32 %r4, %r0, 300;
    st.global.L1::no_allocate.v4.u32 [%rd1], {%r1, %r2, %r3, %r4};
    ld.global.L2::128B.v2.u64 {%rd3, %rd4}, [%rd1];
    st.global.cs.v2.u64 [%rd1], {%rd4, %rd3};";
    let words = clean(body, 128);
    assert_eq!(words[4 * 5..4 * 6], [205, 305, 5, 105]);
}

#[test]
fn generic_addresses_name_their_window() {
    let body = ".shared .align 4 .b8 s[128]; .local .align 4 .b8 l[8];
    mov.u32 %r1, s; shl.b32 %r2, %r0, 2; add.u32 %r1, %r1, %r2; cvt.u64.u32 %rd1, %r1;
    cvta.shared.u64 %rd1, %rd1;
    st.u32 [%rd1], %r0;
    mov.u64 %rd2, l; cvta.local.u64 %rd3, %rd2;
    ld.u32 %r3, [%rd1]; add.u32 %r3, %r3, 1000; st.u32 [%rd3+4], %r3;
    ld.local.u32 %r4, [%rd2+4];
    cvta.to.local.u64 %rd4, %rd3; ld.local.u32 %r5, [%rd4+4]; sub.u32 %r5, %r5, %r4; add.u32 %r4, %r4, %r5;
    isspacep.shared %p1, %rd1; isspacep.global %p2, %rd0; isspacep.local %p3, %rd0;
    @%p1 add.u32 %r4, %r4, 10000; @%p2 add.u32 %r4, %r4, 20000; @%p3 add.u32 %r4, %r4, 40000;
    // Odd lanes go to global memory, even ones to local memory, by one instruction.
    and.b32 %r6, %r0, 1; setp.eq.u32 %p4, %r6, 1; selp.b64 %rd5, %rd0, %rd3, %p4;
    st.u32 [%rd5], %r4;
    ld.local.u32 %r7, [%rd2]; selp.b32 %r7, %r4, %r7, %p4; st.global.u32 [%rd0], %r7;";
    let wanted: Vec<u32> = (0..32).map(|lane| 31000 + lane).collect();
    assert_eq!(clean(body, 32), wanted);
}

#[test]
fn parameters_by_constant_and_by_address() {
    let text = ".version 9.0
.target sm_80
.address_size 64
.visible .entry k(.param .u64 out, .param .align 8 .b8 p[24])
{
    .reg .b32 %r<10>; .reg .b64 %rd<10>; .reg .b16 %h<4>;
    ld.param.u64 %rd0, [out];
    ld.param.v2.u32 {%r1, %r2}, [p+8];
    ld.param.s8 %r3, [p+16];
    mov.b64 %rd1, p; cvta.param.u64 %rd1, %rd1; mov.u32 %r5, %tid.x; mul.wide.u32 %rd2, %r5, 8;
    add.u64 %rd1, %rd1, %rd2; ld.u64 %rd3, [%rd1]; cvt.u32.u64 %r4, %rd3;
    mad.wide.u32 %rd0, %r5, 16, %rd0;
    st.global.v4.u32 [%rd0], {%r1, %r2, %r3, %r4};
}";
    let machine = Machine::new();
    let out = machine.upload(&[0u32; 8]);
    let mut params = out.to_le_bytes().to_vec();
    for word in [1u32, 2, 3, 4, 0xFE, 6] {
        params.extend(word.to_le_bytes());
    }
    let outcome = machine.run(text, "k", 1, 2, &params);
    assert_eq!((outcome.fault, outcome.findings), (None, vec![]));
    assert_eq!(machine.words(out, 8), [3, 4, 0xFFFF_FFFE, 1, 3, 4, 0xFFFF_FFFE, 3]);
    let outcome = machine.run(text, "k", 1, 4, &params);
    let fault = outcome.fault.unwrap();
    assert!(fault.text.contains("parameter offset 32 of 32 bytes"), "{}", fault.text);
}

#[test]
fn faults_name_access_and_owner() {
    let at = |change: &str| format!("{change} st.global.u32 [%rd0], %r0;");
    let past = ["out of bounds: store of 4 bytes at 0x", "0 bytes past the end of allocation 1 of 128", "(lane 31 of"];
    fault(&at("add.u64 %rd0, %rd0, 4;"), 700, &past);
    fault(&at("sub.u64 %rd0, %rd0, 64;"), 700, &["64 bytes before allocation 1", "(lanes 0-15 of the warp)"]);
    fault(&at("mov.b64 %rd0, 0;"), 700, &["null pointer: store of 4 bytes at 0x0"]);
    fault(&at("add.u64 %rd0, %rd0, 2;"), 716, &["misaligned", "not a multiple of 4"]);
    fault("ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd0];", 716, &["misaligned: load of 16 bytes", "a multiple of 16"]);
    fault("ld.global.v2.f32 {%f1, %f2}, [%rd0+124];", 716, &["misaligned: load of 8 bytes"]);
    fault("mov.u64 %rd1, 0x7fff00000000; ld.global.u32 %r1, [%rd1];", 700, &["looks like a host pointer"]);
    fault(
        "st.local.u32 [%rd0], %r0;",
        700,
        &["out of bounds: store of 4 bytes at local offset", "below every local array of the thread"],
    );
    fault("atom.global.add.u32 %r1, [%rd0+128], 1;", 700, &["atomic operation on 4 bytes at", "past the end"]);
    // Lanes that are off touch nothing.
    let body = "setp.lt.u32 %p1, %r0, 3; add.u64 %rd1, %rd0, 116; add.u32 %r1, %r0, 7; @%p1 st.global.u32 [%rd1], %r1;";
    assert_eq!(clean(body, 32)[28..], [0, 7, 8, 9]);
}

#[test]
fn a_launch_that_outlives_its_memory_is_told() {
    let machine = Machine::new();
    let out = machine.upload(&[0u32; 32]);
    machine.space.free(out, "cuMemFree_v2").unwrap();
    let outcome = machine.run(&kernel("ld.global.u32 %r1, [%rd0];"), "k", 1, 32, &out.to_le_bytes());
    let fault = outcome.fault.unwrap();
    assert_eq!(fault.code, 700);
    assert!(fault.text.starts_with("use after free: load of 4 bytes at"), "{}", fault.text);
    assert!(fault.text.contains("of allocation 1 of 128 bytes") && fault.text.contains("freed by cuMemFree_v2"));
}

#[test]
fn global_memory_that_nobody_wrote() {
    let mut machine = Machine::new();
    let out = machine.alloc(128);
    machine.space.fill(out, &[0; 4], 20).unwrap();
    machine.settings.strict_init = true;
    let outcome = machine.run(&kernel("ld.global.u32 %r1, [%rd0];"), "k", 1, 32, &out.to_le_bytes());
    assert_eq!(outcome.fault.unwrap().code, 719);
    let report = outcome.findings[0].to_string();
    assert_eq!(outcome.findings[0].detector, Detector::Uninitialised);
    assert!(report.contains("load of 4 bytes at") && report.contains("that nobody wrote, offset 80 of allocation 1"));
    assert!(report.contains("lanes 20-31 of the warp"), "{report}");
    // What a kernel stored may be read, byte by byte; the byte beside it may not.
    let body = "mov.u16 %h1, 5; st.global.u8 [%rd0+1], %h1; ld.global.u8 %h2, [%rd0+1]; ld.global.u16 %h3, [%rd0];";
    let fresh = machine.alloc(128);
    let outcome = machine.run(&kernel(body), "k", 1, 32, &fresh.to_le_bytes());
    assert_eq!(outcome.findings.len(), 1);
    assert!(outcome.findings[0].at.statement.contains("ld.global.u16"), "{}", outcome.findings[0]);
}

#[test]
fn unchecked_launches_report_nothing() {
    let mut machine = Machine::new();
    machine.settings.checks = Checks::NONE;
    let out = machine.alloc(128);
    let outcome =
        machine.run(&kernel("ld.global.u32 %r1, [%rd0]; st.global.u32 [%rd0], %r1;"), "k", 1, 32, &out.to_le_bytes());
    assert_eq!((outcome.fault, outcome.findings), (None, vec![]));
    assert_eq!(machine.words(out, 32), [u32::MAX; 32]);
}

#[test]
fn atomics_return_the_old_value_and_act_once_per_lane() {
    let table = [
        ("add.u32", "1", 0, 32),
        ("max.u32", "%r0", 7, 31),
        ("min.s32", "%r2", 7, (-31i32) as u32),
        ("or.b32", "%r0", 0x100, 0x11F),
        ("and.b32", "%r0", 0xFF, 0),
        ("xor.b32", "%r0", 5, 5),
        ("inc.u32", "9", 0, 2),
        ("dec.u32", "9", 0, 8),
        ("exch.b32", "%r0", 3, 31),
        ("add.f32", "0f3F800000", 0, 32f32.to_bits()),
        ("add.noftz.f16x2", "0x3C003C00", 0, 0x5000_5000),
        ("add.noftz.bf16x2", "0x3F803F80", 0, 0x4200_4200),
        ("cas.b32", "31, 9", 31, 9),
    ];
    for (action, operand, from, to) in table {
        for (space, address) in [("global", "%rd1"), ("shared", "%r1")] {
            let body = format!(
                ".shared .align 4 .b8 s[4];
    mov.u32 %r1, s; ld.param.u64 %rd1, [out]; add.u64 %rd1, %rd1, 256; neg.s32 %r2, %r0;
    setp.eq.u32 %p1, %r0, 0; @%p1 st.{space}.u32 [{address}], {from}; bar.warp.sync -1;
    atom.{space}.{action} %r3, [{address}], {operand}; bar.warp.sync -1;
    ld.{space}.u32 %r4, [{address}];
    st.global.u32 [%rd0], %r3; st.global.u32 [%rd0+128], %r4;"
            );
            let words = clean(&body, 65);
            assert_eq!(words[32..64], [to; 32], "{space} {action}");
            assert_eq!(words[0], from, "{space} {action}: lane 0 comes first");
        }
    }
}

#[test]
fn wide_and_generic_atomics() {
    let body = "ld.param.u64 %rd1, [out]; add.u64 %rd1, %rd1, 256; mov.b64 %rd2, 0x100000001;
    atom.global.add.u64 %rd3, [%rd1], %rd2; red.add.u64 [%rd1], %rd2; red.relaxed.gpu.global.add.u32 [%rd1+8], 2;
    cvt.u32.u64 %r1, %rd3; st.global.u32 [%rd0], %r1;";
    let words = clean(body, 67);
    assert_eq!(words[64..], [64, 64, 64]);
    assert_eq!(words[..32], (0..32).collect::<Vec<u32>>()[..]);
}

#[test]
fn watched_outputs_are_written_exactly_once() {
    let run = |body: &str| {
        let mut machine = Machine::new();
        let out = machine.alloc(128);
        machine.settings.watch = std::iter::once(out..out + 128).collect();
        let other = machine.upload(&[5u32; 32]);
        let body = body.replace("OTHER", &format!("{other:#x}"));
        machine.run(&kernel(&body), "k", 1, 32, &out.to_le_bytes())
    };
    let outcome = run("st.global.u32 [%rd0], %r0;");
    assert_eq!((outcome.fault, outcome.findings), (None, vec![]));
    let one = |body: &str| {
        let outcome = run(body);
        assert_eq!(outcome.fault.unwrap().code, 719);
        assert_eq!(outcome.findings[0].detector, Detector::WriteOnce);
        outcome.findings[0].to_string()
    };
    let report = one("setp.ne.u32 %p1, %r0, 7; @%p1 st.global.u32 [%rd0], %r0;");
    assert!(
        report.contains("4 of the 128 bytes of a watched output were never written, first offset 28 of allocation 1")
    );
    assert!(report.contains("in k at the end of the launch"), "{report}");
    let report = one("st.global.u32 [%rd0], %r0; setp.eq.u32 %p1, %r0, 3; @%p1 st.global.u32 [%rd0], %r0;");
    assert!(report.contains("written before in this launch: offset 12 of allocation 1"), "{report}");
    let report = one(
        "st.global.u32 [%rd0], %r0; mov.b64 %rd1, OTHER; mad.wide.u32 %rd1, %r0, 4, %rd1; st.global.u32 [%rd1], 1;",
    );
    assert!(report.contains("outside every watched output: offset 0 of allocation 2"), "{report}");
    // A store elsewhere that leaves every byte as it was is none: error records are written so. One lane that does is.
    let elsewhere = "st.global.u32 [%rd0], %r0; mov.b64 %rd1, OTHER; mad.wide.u32 %rd1, %r0, 4, %rd1;";
    let outcome = run(&format!("{elsewhere} st.global.u32 [%rd1], 5;"));
    assert_eq!((outcome.fault, outcome.findings), (None, vec![]));
    let report =
        one(&format!("{elsewhere} setp.eq.u32 %p1, %r0, 9; selp.u32 %r1, 6, 5, %p1; st.global.u32 [%rd1], %r1;"));
    assert!(report.contains("outside every watched output: offset 36 of allocation 2 of 128 bytes"), "{report}");
    assert!(report.contains("(lane 9 of the warp)"), "{report}");
}

#[test]
fn counters_of_memory() {
    let (outcome, _) = run("ld.global.u32 %r1, [%rd0]; st.global.u32 [%rd0], %r1;", 32);
    let counters = outcome.counters;
    assert_eq!(
        (counters.global_loads.requests, counters.global_loads.sectors, counters.global_loads.bytes),
        (1, 4, 128)
    );
    assert_eq!((counters.global_loads.ratio(), counters.global_stores.ratio()), (1.0, 1.0));
    // Every other word: twice the sectors.
    let body = "ld.param.u64 %rd1, [out]; mad.wide.u32 %rd1, %r0, 8, %rd1; ld.global.u32 %r1, [%rd1];";
    let (outcome, _) = run(body, 64);
    assert_eq!((outcome.counters.global_loads.sectors, outcome.counters.global_loads.minimum), (8, 4));
    // A column of a 32-wide tile: every lane in one bank.
    let body = ".shared .align 4 .b8 s[4096]; mov.u32 %r1, s; mad.lo.u32 %r1, %r0, 128, %r1; st.shared.u32 [%r1], %r0;";
    let (outcome, _) = run(body, 32);
    assert_eq!((outcome.counters.shared.wavefronts, outcome.counters.shared.bank_conflicts()), (32, 31));
    let body = ".local .align 4 .b8 l[8]; mov.u64 %rd1, l; st.local.u32 [%rd1], %r0; ld.local.u32 %r1, [%rd1];";
    let (outcome, _) = run(body, 32);
    assert_eq!(outcome.counters.local_bytes, 256);
    let line = outcome.counters.lines.iter().find(|line| line.statement.contains("st.local")).unwrap();
    assert_eq!((line.issued.warp, line.issued.thread), (1, 32));
}
