//! Values that nobody wrote: silent while they are carried about, reported where they matter.

mod common;

use common::{Machine, kernel};
use softgpu::check::{Detector, Finding};

/// Runs `body` with 32 threads; in `%rd1` it finds 32 words of which only the first eight were written (0 to 7).
fn findings(body: &str) -> Vec<Finding> {
    run(body, false)
}

fn run(body: &str, strict: bool) -> Vec<Finding> {
    let mut machine = Machine::new();
    machine.settings.strict_init = strict;
    // Lanes share words here on purpose.
    machine.settings.checks.race = false;
    let half = machine.alloc(128);
    machine.space.write(half, &(0..8u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>()).unwrap();
    let out = machine.upload(&[0u32; 64]);
    let text = kernel(&format!(
        ".shared .align 16 .b8 s[512]; .local .align 16 .b8 l[32];
    ld.param.u64 %rd1, [half]; mul.wide.u32 %rd2, %r0, 4; add.u64 %rd1, %rd1, %rd2;
    mov.u32 %r9, s; shl.b32 %r8, %r0, 2; add.u32 %r9, %r9, %r8; mov.u32 %r8, 0;
    {body}"
    ))
    .replace("(.param .u64 out)", "(.param .u64 out, .param .u64 half)")
    // stmatrix needs it.
    .replace(".target sm_80", ".target sm_90");
    let params = [out.to_le_bytes(), half.to_le_bytes()].concat();
    let outcome = machine.run(&text, "k", 1, 32, &params);
    assert!(outcome.findings.iter().all(|f| f.detector == Detector::Uninitialised), "{:?}", outcome.findings);
    assert_eq!(outcome.fault.is_some(), !outcome.findings.is_empty());
    outcome.findings
}

#[track_caller]
fn silent(body: &str) {
    let findings = findings(body);
    assert_eq!(findings, [], "{body}");
}

/// One report that begins at the load `from`, is about `lanes`, and ends where statement `to` does `what` with it.
#[track_caller]
fn reported(body: &str, from: &str, to: &str, what: &str) -> Finding {
    let findings = findings(body);
    assert_eq!(findings.len(), 1, "{body}: {findings:#?}");
    let finding = findings[0].clone();
    assert!(finding.at.statement.starts_with(from), "{body}: {finding}");
    let other = finding.other.as_ref().unwrap_or(&finding.at);
    assert!(other.statement.starts_with(to), "{body}: {finding}");
    assert!(finding.text.contains(what), "{body}: {finding}");
    finding
}

#[test]
fn a_value_that_is_not_used_is_not_reported() {
    silent("ld.global.u32 %r1, [%rd1];");
    silent(
        "ld.global.u32 %r1, [%rd1]; add.u32 %r1, %r1, 1; mul.lo.u32 %r2, %r1, %r1; mov.u32 %r1, 7; st.global.u32 [%rd0], %r1;",
    );
    // The written lanes may be used.
    silent("ld.global.u32 %r1, [%rd1]; setp.lt.u32 %p1, %r0, 8; @%p1 st.global.u32 [%rd0], %r1;");
    // A load of written bytes makes the register whole again, and so does a guarded one in its lanes.
    silent(
        "ld.global.u32 %r1, [%rd1]; setp.ge.u32 %p1, %r0, 8; @%p1 ld.global.u32 %r1, [%rd0]; st.global.u32 [%rd0], %r1;",
    );
}

#[test]
fn a_store_to_device_memory_is_reported_with_the_load() {
    let body = "ld.global.u32 %r1, [%rd1]; add.u32 %r2, %r1, 1; st.global.u32 [%rd0], %r2;";
    let finding = reported(body, "ld.global.u32 %r1", "st.global.u32", "is stored to device memory in lanes 8-31");
    assert!(finding.text.contains("load of 4 bytes at") && finding.text.contains("offset 32 of allocation 1"));
    assert!(finding.text.contains("(lanes 8-31 of the warp)"), "{finding}");
    assert_eq!(finding.at.lane, 8);
    reported("ld.global.u32 %r1, [%rd1]; st.u32 [%rd0], %r1;", "ld.global", "st.u32", "lanes 8-31");
    let body = "ld.global.u32 %r1, [%rd1]; red.global.add.u32 [%rd0], %r1;";
    reported(body, "ld.global", "red.global", "is stored to device memory");
    let body = "red.global.add.u32 [%rd1], 1;";
    reported(body, "red.global", "red.global", "is updated in device memory in lanes 8-31");
    // Replacing it is no use of it.
    silent("atom.global.exch.b32 %r1, [%rd1], 1;");
    let body = "atom.global.exch.b32 %r1, [%rd1], 1; st.global.u32 [%rd0], %r1;";
    reported(body, "atom.global.exch", "st.global", "is stored");
}

#[test]
fn decisions_are_reported() {
    let load = "ld.global.u32 %r1, [%rd1];";
    let address = "cvt.u64.u32 %rd3, %r1; and.b64 %rd3, %rd3, 4; add.u64 %rd3, %rd0, %rd3; ld.global.u32 %r2, [%rd3];";
    reported(
        &format!("{load} {address}"),
        "ld.global.u32 %r1",
        "ld.global.u32 %r2",
        "becomes an address in lanes 8-31",
    );
    let branch = "setp.eq.u32 %p1, %r1, 0; @%p1 bra END; mov.u32 %r2, 1; END: ret;";
    reported(&format!("{load} {branch}"), "ld.global.u32 %r1", "@%p1 bra", "decides whether an instruction runs");
    let guard = "setp.eq.u32 %p1, %r1, 0; @%p1 mov.u32 %r2, 1;";
    reported(&format!("{load} {guard}"), "ld.global.u32 %r1", "@%p1 mov", "decides whether an instruction runs");
    let table = "and.b32 %r1, %r1, 0; T: .branchtargets A, A; brx.idx %r1, T; A: ret;";
    reported(&format!("{load} {table}"), "ld.global.u32 %r1", "brx.idx", "decides a branch or a barrier");
    let vote = "setp.eq.u32 %p1, %r1, 0; bar.red.or.pred %p2, 0, %p1;";
    reported(&format!("{load} {vote}"), "ld.global.u32 %r1", "bar.red", "decides a branch or a barrier");
    let members = "or.b32 %r2, %r1, -1; bar.warp.sync %r2;";
    reported(&format!("{load} {members}"), "ld.global.u32 %r1", "bar.warp.sync", "becomes a member mask");
}

#[test]
fn selection_takes_the_chosen_side_alone() {
    let load = "ld.global.u32 %r1, [%rd1]; setp.lt.u32 %p1, %r0, 8; mov.u32 %r2, 5;";
    silent(&format!("{load} selp.b32 %r3, %r1, %r2, %p1; st.global.u32 [%rd0], %r3;"));
    reported(&format!("{load} selp.b32 %r3, %r2, %r1, %p1; st.global.u32 [%rd0], %r3;"), "ld", "st", "lanes 8-31");
    // A false operand settles an `and` of predicates, a true one an `or`.
    let known = "ld.global.u32 %r1, [%rd1]; setp.lt.u32 %p1, %r0, 8; setp.eq.u32 %p2, %r1, 3;";
    silent(&format!("{known} and.pred %p3, %p1, %p2; @%p3 st.global.u32 [%rd0], %r0;"));
    silent(&format!("{known} not.pred %p1, %p1; or.pred %p3, %p2, %p1; @%p3 st.global.u32 [%rd0], %r0;"));
    reported(&format!("{known} or.pred %p3, %p1, %p2; @%p3 st.global.u32 [%rd0], %r0;"), "ld", "@%p3 st", "lanes 8-31");
    let third = "ld.global.u32 %r1, [%rd1]; setp.lt.u32 %p1, %r0, 8;";
    silent(&format!("{third} setp.eq.and.u32 %p3, %r1, 3, %p1; @%p3 st.global.u32 [%rd0], %r0;"));
    reported(
        &format!("{third} setp.eq.or.u32 %p3, %r1, 3, %p1; @%p3 st.global.u32 [%rd0], %r0;"),
        "ld",
        "@%p3",
        "8-31",
    );
}

#[test]
fn shuffles_carry_it_between_lanes_and_votes_to_all() {
    // Lane i reads lane i + 4: lanes 4 to 27 get undefined values, the last four keep their own.
    let body = "ld.global.u32 %r1, [%rd1]; shfl.sync.down.b32 %r2, %r1, 4, 31, -1; st.global.u32 [%rd0], %r2;";
    reported(body, "ld.global", "st.global", "is stored to device memory in lanes 4-31");
    let body = "ld.global.u32 %r1, [%rd1]; shfl.sync.idx.b32 %r2, %r1, 7, 31, -1; st.global.u32 [%rd0], %r2;";
    silent(body);
    let body = "ld.global.u32 %r1, [%rd1]; setp.eq.u32 %p1, %r1, 1; vote.sync.ballot.b32 %r2, %p1, -1;
    st.global.u32 [%rd0], %r2;";
    reported(body, "ld.global", "st.global", "lanes 0-31");
}

#[test]
fn undefined_padding_may_be_copied() {
    let to_shared = "ld.global.u32 %r1, [%rd1]; st.shared.u32 [%r9], %r1;";
    silent(&format!("{to_shared} ld.shared.u32 %r2, [%r9]; st.shared.u32 [%r9], %r2;"));
    let finding = reported(
        &format!("{to_shared} ld.shared.u32 %r2, [%r9]; st.global.u32 [%rd0], %r2;"),
        "ld.shared.u32 %r2",
        "st.global",
        "byte 32 of s (lanes 8-31 of the warp)",
    );
    assert_eq!(finding.address, Some(32));
    // Written again, it is whole again.
    silent(&format!("{to_shared} st.shared.u32 [%r9], %r8; ld.shared.u32 %r2, [%r9]; st.global.u32 [%rd0], %r2;"));
    let to_local = "ld.global.u32 %r1, [%rd1]; st.local.u32 [l+4], %r1;";
    silent(&format!("{to_local} ld.local.u32 %r2, [l+4];"));
    let body = format!("{to_local} ld.local.u32 %r2, [l+4]; st.global.u32 [%rd0], %r2;");
    reported(&body, "ld.local", "st.global", "local memory that its thread never wrote, at offset 4 (lanes 8-31)");
    reported("ld.local.u32 %r2, [l]; st.global.u32 [%rd0], %r2;", "ld.local", "st.global", "offset 0 (lanes 0-31)");
    // An atomic operation on shared bytes that nobody wrote leaves them so.
    silent("red.shared.add.u32 [%r9], 1;");
    let body = "red.shared.add.u32 [%r9], 1; ld.shared.u32 %r1, [%r9]; st.global.u32 [%rd0], %r1;";
    reported(body, "ld.shared", "st.global", "byte 0 of s (lanes 0-31");
}

#[test]
fn elements_of_a_vector_are_apart() {
    let set = "st.shared.u32 [s], %r8; st.shared.u32 [s+8], %r8; ld.shared.v4.u32 {%r1, %r2, %r3, %r4}, [s];";
    silent(&format!("{set} st.global.u32 [%rd0], %r1; st.global.u32 [%rd0], %r3;"));
    reported(&format!("{set} st.global.u32 [%rd0], %r2;"), "ld.shared.v4", "st.global", "byte 4 of s");
    let store = "st.shared.u32 [s], %r8; ld.shared.v2.u32 {%r1, %r2}, [s]; st.shared.v2.u32 [s+16], {%r2, %r1};";
    silent(&format!("{store} ld.shared.u32 %r3, [s+20]; st.global.u32 [%rd0], %r3;"));
    reported(
        &format!("{store} ld.shared.u32 %r3, [s+16]; st.global.u32 [%rd0], %r3;"),
        "ld.shared.u32",
        "st",
        "byte 16",
    );
}

#[test]
fn registers_that_nobody_wrote_are_undefined() {
    let body = "setp.lt.u32 %p1, %r0, 8; @%p1 mov.u32 %r1, 5; add.u32 %r1, %r1, 1; @%p1 st.global.u32 [%rd0], %r1;";
    silent(body);
    let finding = reported(
        &body.replace("@%p1 st", "st"),
        "st.global",
        "st.global",
        "a register holds a value that no instruction wrote, and is stored to device memory in lanes 8-31",
    );
    assert_eq!((finding.other, finding.address), (None, None));
    reported("@%p7 mov.u32 %r1, 5;", "@%p7", "@%p7", "decides whether an instruction runs");
    reported(
        "addc.u32 %r1, %r0, 0; addc.cc.u32 %r2, %r3, 0; addc.u32 %r4, %r0, 0; st.global.u32 [%rd0], %r4;",
        "st",
        "st",
        "no instruction",
    );
}

#[test]
fn strict_reports_at_the_load() {
    for (body, at, what) in [
        ("ld.global.u32 %r1, [%rd1];", "ld.global", "lanes 8-31"),
        ("ld.shared.u32 %r1, [%r9];", "ld.shared", "byte 0 of s"),
        ("ld.local.u32 %r1, [l];", "ld.local", "offset 0"),
    ] {
        let findings = run(body, true);
        assert_eq!(findings.len(), 1, "{body}");
        assert!(findings[0].at.statement.starts_with(at) && findings[0].text.contains(what), "{}", findings[0]);
        assert_eq!(findings[0].other, None);
    }
}

/// Each CTA starts anew: what an earlier one left in registers, shared and local memory is not there.
#[test]
fn taint_ends_with_its_cta() {
    let machine = Machine::new();
    let out = machine.upload(&[0u32; 32]);
    let body = ".shared .align 4 .b32 s;
    mov.u32 %r1, %ctaid.x; setp.eq.u32 %p1, %r1, 0; @!%p1 bra LATER;
    ld.shared.u32 %r2, [s]; ret;
LATER: mov.u32 %r2, 1; st.global.u32 [%rd0], %r2;";
    let outcome = machine.run(&kernel(body), "k", 2, 32, &out.to_le_bytes());
    assert_eq!((outcome.fault, outcome.findings), (None, vec![]));
}

/// A product is undefined where a row or column that goes into it is: row `lane / 4` of A and C, column `lane / 4` of B.
#[test]
fn fragments_that_nobody_wrote() {
    let product = |a: &str, b: &str, c: &str, out: &str| {
        format!(
            "ld.global.u32 %r1, [%rd1]; mov.f32 %f5, 0f00000000; mov.b32 %f6, %r1;
    mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {{%f1, %f2, %f3, %f4}}, {{{a}, %r8, %r8, %r8}}, {{{b}, %r8}},
        {{{c}, %f5, %f5, %f5}};
    {out}"
        )
    };
    let all =
        "st.global.f32 [%rd0], %f1; st.global.f32 [%rd0], %f2; st.global.f32 [%rd0], %f3; st.global.f32 [%rd0], %f4;";
    silent(&product("%r1", "%r1", "%f6", ""));
    silent(&product("%r8", "%r8", "%f5", all));
    for (a, b, c) in [("%r1", "%r8", "%f5"), ("%r8", "%r1", "%f5"), ("%r8", "%r8", "%f6")] {
        let body = product(a, b, c, "st.global.f32 [%rd0], %f1;");
        reported(&body, "ld.global.u32 %r1", "st.global.f32", "is stored to device memory in lanes");
    }
}

#[test]
fn matrices_that_nobody_wrote_are_undefined_in_shared_memory() {
    let store = |trans: &str, register: &str| {
        format!(
            "ld.global.u32 %r1, [%rd1]; and.b32 %r2, %r0, 7; shl.b32 %r2, %r2, 4; mov.u32 %r3, s; add.u32 %r2, %r3, %r2;
    stmatrix.sync.aligned.m8n8.x1{trans}.shared.b16 [%r2], {{{register}}}; bar.warp.sync -1;"
        )
    };
    let load = "ld.shared.u32 %r4, [%r9]; st.global.u32 [%rd0], %r4;";
    silent(&store("", "%r1"));
    silent(&format!("{} {load}", store("", "%r8")));
    // Word `t` of row `g` is lane `4g + t`'s: the first two rows are whole.
    silent(&format!("{} setp.lt.u32 %p1, %r0, 8; @%p1 bra SOME; ret; SOME: {load}", store("", "%r1")));
    reported(&format!("{} {load}", store("", "%r1")), "ld.shared.u32", "st.global", "byte 32 of s (lanes 8-31");
    reported(&format!("{} {load}", store(".trans", "%r1")), "ld.shared.u32", "st.global", "of s (lanes");
    let row = "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r4}, [%r2]; st.global.u32 [%rd0], %r4;";
    reported(&format!("{} {row}", store("", "%r1")), "ldmatrix", "st.global", "byte 32 of s");
}
