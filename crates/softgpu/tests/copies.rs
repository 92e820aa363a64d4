//! `cp.async`: what is copied, when it may be read, and what is reported.

mod common;

use common::Machine;
use softgpu::check::Detector;
use softgpu::launch::{Checks, Outcome};

const SEEDS: [u64; 5] = [0, 1, 2, 3, 4];

/// A kernel over shared arrays `tile` and `other` of 1024 bytes. Thread `t` has: `%rd0` word `t` of the output, `%rd1`
/// the 16 bytes `t` of the input, `%r1` and `%r2` the 16 bytes `t` of the arrays.
fn kernel(body: &str) -> String {
    format!(
        ".version 9.0
.target sm_80
.address_size 64
.visible .entry k(.param .u64 out, .param .u64 in)
{{
    .shared .align 128 .b8 tile[1024];
    .shared .align 128 .b8 other[1024];
    .reg .pred %p<8>;
    .reg .b32 %r<16>;
    .reg .b64 %rd<8>;
    mov.u32 %r0, %tid.x;
    ld.param.u64 %rd0, [out];
    ld.param.u64 %rd1, [in];
    mad.wide.u32 %rd0, %r0, 4, %rd0;
    mad.wide.u32 %rd1, %r0, 16, %rd1;
    mov.u32 %r1, tile;
    mad.lo.u32 %r1, %r0, 16, %r1;
    mov.u32 %r2, other;
    mad.lo.u32 %r2, %r0, 16, %r2;
{body}
    ret;
}}
"
    )
}

const COPY: &str = "cp.async.cg.shared.global [%r1], [%rd1], 16;";
const COMMIT: &str = "cp.async.commit_group;";
const WAIT: &str = "cp.async.wait_group 0;";
/// Sums up the thread's own four words and stores the sum.
const SUM: &str = "ld.shared.v4.b32 {%r4, %r5, %r6, %r7}, [%r1]; add.u32 %r4, %r4, %r5; add.u32 %r6, %r6, %r7;
    add.u32 %r4, %r4, %r6; st.global.b32 [%rd0], %r4;";

/// 256 words of input: word `i` is `i + 1`.
fn input() -> Vec<u32> {
    (1..=256).collect()
}

fn run_seeded(body: &str, threads: u32, seed: u64) -> (Outcome, Vec<u32>) {
    let machine = Machine::seeded(seed);
    let (out, from) = (machine.upload(&[0u32; 256]), machine.upload(&input()));
    let params: Vec<u8> = [out, from].iter().flat_map(|at| at.to_le_bytes()).collect();
    let outcome = machine.run(&kernel(body), "k", 1, threads, &params);
    (outcome, machine.words(out, 256))
}

/// The output, which every schedule must give without a finding.
#[track_caller]
fn clean(body: &str, threads: u32) -> Vec<u32> {
    let mut all = SEEDS.map(|seed| {
        let (outcome, words) = run_seeded(body, threads, seed);
        assert_eq!((outcome.fault, outcome.findings), (None, vec![]), "seed {seed}: {body}");
        words
    });
    assert!(all.iter().all(|words| *words == all[0]), "schedules differ");
    std::mem::take(&mut all[0])
}

/// Every schedule reports it, and says so.
#[track_caller]
fn finds(body: &str, threads: u32, detector: Detector, parts: &[&str]) {
    for seed in SEEDS {
        let (outcome, _) = run_seeded(body, threads, seed);
        assert_eq!(outcome.fault.as_ref().map(|fault| fault.code), Some(719), "seed {seed}: {body}");
        let report = outcome.findings.iter().find(|f| f.detector == detector).map(ToString::to_string);
        let report = report.unwrap_or_else(|| panic!("seed {seed}: {:#?}", outcome.findings));
        for part in parts {
            assert!(report.contains(part), "{part:?} is missing in\n{report}");
        }
    }
}

fn sums(threads: u32) -> Vec<u32> {
    (0..256).map(|t| if t < threads { (0..4).map(|i| 4 * t + i + 1).sum() } else { 0 }).collect()
}

#[test]
fn a_copy_that_was_waited_for_is_there() {
    assert_eq!(clean(&format!("{COPY} {COMMIT} {WAIT} {SUM}"), 64), sums(64));
    assert_eq!(clean(&format!("{COPY} cp.async.wait_all; {SUM}"), 20), sums(20));
    for form in [
        "cp.async.ca.shared.global [%r1], [%rd1], 16;",
        "cp.async.cg.shared::cta.global.L2::128B [%r1], [%rd1], 16;",
        "cp.async.ca.shared.global.L2::256B [%r1], [%rd1], 16, 16;",
        "mov.b64 %rd7, 0; cp.async.cg.shared.global.L2::cache_hint [%r1], [%rd1], 16, %rd7;",
        "mov.b64 %rd7, 0; cp.async.cg.shared.global.L2::cache_hint.L2::64B [%r1], [%rd1], 16, 16, %rd7;",
        "cp.async.ca.shared.global [%r1], [%rd1], 8; cp.async.ca.shared.global [%r1+8], [%rd1+8], 8;",
        "cp.async.ca.shared.global [%r1], [%rd1], 4; cp.async.ca.shared.global [%r1+4], [%rd1+4], 4;
         cp.async.ca.shared.global [%r1+8], [%rd1+8], 8;",
    ] {
        assert_eq!(clean(&format!("{form} {COMMIT} {WAIT} {SUM}"), 32), sums(32), "{form}");
    }
}

/// Bytes beyond the source size are zeros; with none to read the source may point anywhere.
#[test]
fn trap_21_short_and_absent_sources() {
    let wild = "mov.b64 %rd1, 12345;";
    let nothing = "mov.u32 %r3, 0; cp.async.cg.shared.global [%r1], [%rd1], 16, %r3;";
    assert_eq!(clean(&format!("{wild} {nothing} {COMMIT} {WAIT} {SUM}"), 32), [0; 256]);
    let ignored = "setp.lt.u32 %p1, %r0, 8; @%p1 mov.b64 %rd1, 12345;
        cp.async.cg.shared.global [%r1], [%rd1], 16, %p1;";
    let wanted: Vec<u32> = sums(32).iter().enumerate().map(|(t, sum)| if t < 8 { 0 } else { *sum }).collect();
    assert_eq!(clean(&format!("{ignored} {COMMIT} {WAIT} {SUM}"), 32), wanted);
    let kept = ignored.replace("16, %p1", "16, !%p1").replace("@%p1", "@!%p1");
    let wanted: Vec<u32> = sums(32).iter().enumerate().map(|(t, sum)| if t < 8 { *sum } else { 0 }).collect();
    assert_eq!(clean(&format!("{kept} {COMMIT} {WAIT} {SUM}"), 32), wanted);
    // Six bytes: a word and half of the next.
    let six = format!("mov.u32 %r3, 6; cp.async.cg.shared.global [%r1], [%rd1], 16, %r3; {COMMIT} {WAIT} {SUM}");
    assert_eq!(clean(&six, 4)[..4], [3, 11, 19, 27]);
    // The last bytes of an allocation: what is not read need not exist.
    let end = "setp.eq.u32 %p1, %r0, 31; @%p1 add.u64 %rd1, %rd1, 512; selp.u32 %r3, 4, 16, %p1;
        cp.async.cg.shared.global [%r1], [%rd1], 16, %r3;";
    assert_eq!(clean(&format!("{end} {COMMIT} {WAIT} {SUM}"), 32)[31], 253);
}

#[test]
fn bytes_in_flight_belong_to_nobody() {
    let said = ["copies asynchronously and has not waited", "cp.async.cg", "tile"];
    finds(&format!("{COPY} {COMMIT} {SUM}"), 32, Detector::AsyncCopy, &said);
    finds(&format!("{COPY} {COMMIT} bar.sync 0; {SUM}"), 64, Detector::AsyncCopy, &said);
    let store = format!("{COPY} {COMMIT} st.shared.b32 [%r1+4], %r0; {WAIT}");
    finds(&store, 32, Detector::AsyncCopy, &["st.shared", said[0]]);
    let twice = format!("{COPY} {COPY} {COMMIT} {WAIT}");
    finds(&twice, 32, Detector::AsyncCopy, &["asynchronous copy of 16 bytes", said[0]]);
    let atomic = format!("{COPY} {COMMIT} red.shared.add.u32 [%r1], 1; {WAIT}");
    finds(&atomic, 32, Detector::AsyncCopy, &["red.shared", said[0]]);
    let matrix = format!("{COPY} {COMMIT} ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%r4}}, [%r1];");
    finds(&matrix, 32, Detector::AsyncCopy, &["ldmatrix", said[0]]);
    // Other bytes are free, and nobody has to wait before the end.
    clean(&format!("{COPY} {COMMIT} st.shared.b32 [%r2], %r0; ld.shared.b32 %r3, [%r2];"), 32);
    clean(COPY, 32);
}

#[test]
fn groups_are_waited_for_in_order() {
    let two = format!("{COPY} {COMMIT} cp.async.cg.shared.global [%r2], [%rd1], 16; {COMMIT} cp.async.wait_group 1;");
    assert_eq!(clean(&format!("{two} {SUM} {WAIT}"), 32), sums(32));
    finds(&format!("{two} ld.shared.b32 %r3, [%r2];"), 32, Detector::AsyncCopy, &["other", "ld.shared"]);
    // An empty group counts; a copy that is not committed is in no group.
    assert_eq!(clean(&format!("{COPY} {COMMIT} {COMMIT} cp.async.wait_group 1; {SUM}"), 32), sums(32));
    finds(&format!("{COPY} {WAIT} {SUM}"), 32, Detector::AsyncCopy, &["ld.shared"]);
    assert_eq!(clean(&format!("{COPY} {WAIT} cp.async.wait_all; {SUM}"), 32), sums(32));
}

/// Half of the warp commits twice: the same wait covers its first copy and not that of the others.
#[test]
fn trap_21_groups_belong_to_the_thread() {
    let body = format!(
        "setp.lt.u32 %p1, %r0, 16; {COPY} @%p1 {COMMIT}
        cp.async.cg.shared.global [%r2], [%rd1], 16; {COMMIT} cp.async.wait_group 1; {SUM}"
    );
    finds(&body, 32, Detector::AsyncCopy, &["lanes 16-31 of the warp"]);
    let guarded = body.replace("cp.async.wait_group 1; ", "cp.async.wait_group 1; @!%p1 cp.async.wait_group 0; ");
    assert_eq!(clean(&guarded, 32), sums(32));
}

/// The wait makes the bytes the waiting thread's own, and nobody else's.
#[test]
fn others_need_a_barrier_after_the_wait() {
    let neighbour = "xor.b32 %r3, %r0, 1; mov.u32 %r4, tile; mad.lo.u32 %r1, %r3, 16, %r4;";
    let start = format!("{COPY} {COMMIT} {WAIT}");
    let parts = ["ld.shared", "cp.async.cg", "no warp barrier"];
    finds(&format!("{start} {neighbour} {SUM}"), 32, Detector::SharedRace, &parts);
    let wanted: Vec<u32> = (0..256).map(|t: usize| sums(32)[t ^ 1]).collect();
    assert_eq!(clean(&format!("{start} bar.warp.sync -1; {neighbour} {SUM}"), 32), wanted);
    let far = neighbour.replace("%r0, 1;", "%r0, 32;");
    finds(&format!("{start} {far} {SUM}"), 64, Detector::SharedRace, &["ld.shared", "cp.async.cg"]);
    clean(&format!("{start} bar.sync 0; {far} {SUM}"), 64);
    // A barrier between start and wait orders nothing.
    finds(&format!("{COPY} {COMMIT} bar.sync 0; {WAIT} {far} {SUM}"), 64, Detector::SharedRace, &["cp.async.cg"]);
}

/// A copy that starts while another warp still reads the buffer, waited for behind a barrier.
#[test]
fn a_buffer_that_is_still_read_is_reported_at_the_start_of_the_copy() {
    let body = |barrier: &str| {
        format!(
            "st.shared.b32 [%r1], %r0; st.shared.b32 [%r2], %r0; bar.sync 0; xor.b32 %r3, %r0, 32; mov.u32 %r4, tile;
            mad.lo.u32 %r5, %r3, 16, %r4; ld.shared.b32 %r6, [%r5]; {barrier}
            {COPY} {COMMIT} bar.sync 0; {WAIT}"
        )
    };
    clean(&body("bar.sync 0;"), 64);
    finds(&body(""), 64, Detector::SharedRace, &["cp.async.cg", "ld.shared", "no barrier between"]);
}

#[test]
fn a_source_that_changes_is_reported_at_the_wait() {
    let change = "ld.global.b32 %r3, [%rd1]; ADD st.global.b32 [%rd1], %r3;";
    let body = |add: &str| format!("{COPY} {COMMIT} {} {WAIT} {SUM}", change.replace("ADD", add));
    finds(&body("add.u32 %r3, %r3, 1;"), 32, Detector::AsyncCopy, &["source of a copy changed", "wait_group"]);
    clean(&body(""), 32);
}

#[test]
fn addresses_are_checked_when_the_copy_starts() {
    for (change, code, words) in [
        ("add.u64 %rd1, %rd1, 1024;", 700, "out of bounds: asynchronous copy of 16 bytes"),
        ("mov.b64 %rd1, 0;", 700, "null pointer"),
        ("add.u64 %rd1, %rd1, 4;", 716, "misaligned: asynchronous copy"),
        ("add.u32 %r1, %r1, 8;", 716, "misaligned: asynchronous copy of 16 bytes"),
    ] {
        let fault = run_seeded(&format!("{change} {COPY}"), 32, 0).0.fault.unwrap();
        assert!(fault.code == code && fault.text.contains(words), "{change} {fault:?}");
    }
    let past = format!("add.u32 %r1, %r1, 768; {COPY} {COMMIT} {WAIT}");
    finds(&past, 32, Detector::SharedBounds, &["past the end of tile", "lanes 16-23"]);
    let long = "mov.u32 %r3, 17; cp.async.cg.shared.global [%r1], [%rd1], 16, %r3;";
    finds(long, 32, Detector::AsyncCopy, &["17 bytes to read for a copy of 16"]);
}

#[test]
fn undefined_bytes_may_be_copied_and_not_used() {
    let run = |body: &str| {
        let machine = Machine::new();
        let (out, from) = (machine.upload(&[0u32; 256]), machine.alloc(1024));
        let params: Vec<u8> = [out, from].iter().flat_map(|at| at.to_le_bytes()).collect();
        machine.run(&kernel(body), "k", 1, 32, &params)
    };
    assert_eq!(run(&format!("{COPY} {COMMIT} {WAIT}")).findings, vec![]);
    let used = run(&format!("{COPY} {COMMIT} {WAIT} {SUM}"));
    assert_eq!(used.findings[0].detector, Detector::Uninitialised);
}

/// Without checks a program sees what the schedule makes of it: under seed 0 nothing before the wait.
#[test]
fn copies_land_late_or_at_any_moment() {
    let body = format!("{COPY} {COMMIT} ld.shared.b32 %r3, [%r1]; st.global.b32 [%rd0], %r3; {WAIT}");
    let seen = |seed: u64| {
        let mut machine = Machine::seeded(seed);
        machine.settings.checks = Checks::NONE;
        let (out, from) = (machine.upload(&[0u32; 256]), machine.upload(&input()));
        let params: Vec<u8> = [out, from].iter().flat_map(|at| at.to_le_bytes()).collect();
        machine.run(&kernel(&body), "k", 1, 32, &params);
        (0..32).filter(|t| machine.words(out, 256)[*t as usize] == 4 * t + 1).count()
    };
    assert_eq!(seen(0), 0);
    let counts: Vec<usize> = (1..40).map(seen).collect();
    for (what, found) in [("none", counts.contains(&0)), ("all", counts.contains(&32))] {
        assert!(found, "{what}: {counts:?}");
    }
    assert!(counts.iter().any(|n| (1..32).contains(n)), "lanes are served apart: {counts:?}");
}

/// Two buffers, filled in turn while the other one is read, as matrix kernels do.
#[test]
fn a_pipeline_of_two_buffers_is_clean_and_right() {
    let body = "
    mov.u32 %r10, 0; mov.u32 %r11, 0;
    cp.async.ca.shared.global [%r1], [%rd1], 4; cp.async.commit_group;
LOOP:
    add.u32 %r12, %r10, 1;
    setp.lt.u32 %p1, %r12, 4;
    @!%p1 bra LAST;
    mul.wide.u32 %rd2, %r12, 4; add.u64 %rd2, %rd1, %rd2;
    and.b32 %r13, %r12, 1; setp.eq.u32 %p2, %r13, 1; selp.u32 %r14, %r2, %r1, %p2;
    cp.async.ca.shared.global [%r14], [%rd2], 4;
LAST:
    cp.async.commit_group;
    cp.async.wait_group 1;
    bar.sync 0;
    and.b32 %r13, %r10, 1; setp.eq.u32 %p2, %r13, 1; selp.u32 %r14, %r2, %r1, %p2;
    mov.u32 %r5, tile; sub.u32 %r6, %r14, %r1; setp.eq.u32 %p3, %r6, 0; mov.u32 %r7, other;
    selp.u32 %r8, %r5, %r7, %p3;
    xor.b32 %r9, %r0, 33; mad.lo.u32 %r8, %r9, 16, %r8;
    ld.shared.b32 %r15, [%r8]; add.u32 %r11, %r11, %r15;
    BARRIER
    mov.u32 %r10, %r12;
    @%p1 bra LOOP;
    st.global.b32 [%rd0], %r11;";
    let words = clean(&body.replace("BARRIER", "bar.sync 0;"), 64);
    let wanted = |t: u32| (0..4u32).map(|i| 4 * (t ^ 33) + i + 1).sum::<u32>();
    assert_eq!(words[..64], (0..64).map(wanted).collect::<Vec<_>>());
    finds(&body.replace("BARRIER", ""), 64, Detector::SharedRace, &["cp.async.ca"]);
    let early = body.replace("BARRIER", "bar.sync 0;").replace("wait_group 1", "wait_group 2");
    finds(&early, 64, Detector::AsyncCopy, &["ld.shared"]);
}

/// A warp copies again and again while it waits for a word of another warp: that is no hang, nor do its copies pile up.
/// When nobody stores the word, it is one.
#[test]
fn copies_in_a_loop_that_waits() {
    let body = |store: &str| {
        format!(
            "setp.ge.u32 %p1, %r0, 32; mov.u32 %r3, 0; st.shared.u32 [other], %r3; bar.sync 0;
    @%p1 bra SECOND;
WAIT:
    {COPY} {COMMIT} cp.async.wait_group 0;
    ld.volatile.shared.u32 %r3, [other];
    setp.eq.u32 %p2, %r3, 0;
    @%p2 bra WAIT;
    {SUM}
    ret;
SECOND:
    mov.u32 %r4, 0;
LATER:
    add.u32 %r4, %r4, 1; setp.lt.u32 %p2, %r4, 3000;
    @%p2 bra LATER;
    setp.eq.u32 %p3, %r0, 32;
    {store}"
        )
    };
    let words = clean(&body("@%p3 st.volatile.shared.u32 [other], 1;"), 64);
    assert_eq!(words[..32], (0..32u32).map(|t| 4 * (4 * t + 1) + 6).collect::<Vec<_>>()[..]);
    for seed in [0, 3] {
        let (outcome, _) = run_seeded(&body(""), 64, seed);
        assert_eq!(outcome.fault.map(|fault| fault.code), Some(702), "seed {seed}");
    }
}

#[test]
fn what_is_no_copy_stops_with_its_name() {
    for (statement, word) in [
        ("cp.async.bulk.commit_group;", "needs .target sm_90"),
        ("cp.async.cg.shared.global [%r1], [%rd1], 8;", "a copy of"),
        ("cp.async.ca.shared.global [%r1], [%rd1], 16, %r3, %r4;", "copy"),
        ("cp.async.wait_group %r3;", "not constant"),
    ] {
        let module = softgpu::ptx::parse(&kernel(statement)).unwrap();
        let refused = softgpu::ir::Kernel::lower(&module, "k", true).err().expect(statement).to_string();
        assert!(refused.contains(word), "{statement}: {refused}");
    }
}
