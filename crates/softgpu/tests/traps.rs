//! The traps that show only in whole kernels: one test for each, numbered as those of the arithmetic are.

mod common;

use common::{Machine, kernel};
use softgpu::check::Detector;
use softgpu::launch::Outcome;

fn run(body: &str, threads: u32) -> (Outcome, Vec<u32>) {
    let machine = Machine::new();
    let out = machine.upload(&vec![0u32; threads as usize]);
    let outcome = machine.run(&kernel(body), "k", 1, threads, &out.to_le_bytes());
    (outcome, machine.words(out, threads as usize))
}

#[track_caller]
fn clean(body: &str, threads: u32) -> Vec<u32> {
    let (outcome, words) = run(&format!("{body} st.global.b32 [%rd0], %r5;"), threads);
    assert_eq!((outcome.fault, outcome.findings), (None, vec![]), "{body}");
    words
}

/// The third operand of a shuffle holds the clamp and, from bit 8, the segments; the predicate says whether the lane
/// read lies in the segment, and a lane whose source does not keeps its own value.
#[test]
fn trap_10_shuffles_clamp_inside_their_segments() {
    let body = |c: &str| format!("shfl.sync.down.b32 %r1|%p1, %r0, 5, {c}, -1; selp.u32 %r5, %r1, 999, %p1;");
    let whole: Vec<u32> = (0..32).map(|l| if l + 5 < 32 { l + 5 } else { 999 }).collect();
    assert_eq!(clean(&body("31"), 32), whole);
    let eights: Vec<u32> = (0..32).map(|l| if l % 8 + 5 < 8 { l + 5 } else { 999 }).collect();
    assert_eq!(clean(&body("0x181f"), 32), eights);
    assert_eq!(clean("shfl.sync.down.b32 %r5, %r0, 5, 0x181f, -1;", 32)[7], 7);
    // Votes and matches see the lanes that are here, by the mask they name.
    let here = "setp.lt.u32 %p1, %r0, 7; mov.u32 %r5, 0; @!%p1 bra OUT; activemask.b32 %r1;
        vote.sync.ballot.b32 %r5, %p1, 0x7f; xor.b32 %r5, %r5, %r1; add.u32 %r5, %r5, 1; OUT:";
    assert_eq!(clean(here, 32), (0..32).map(|l| u32::from(l < 7)).collect::<Vec<_>>());
}

/// Shared, local and parameter addresses are offsets in their space; generic ones name the space by their window.
#[test]
fn trap_11_windows() {
    let text = "
.version 9.0
.target sm_80
.address_size 64
.visible .entry k(.param .u64 out, .param .u32 n)
{
    .shared .align 4 .b8 tile[256];
    .local .align 8 .b8 own[16];
    .reg .pred %p<9>;
    .reg .b32 %r<10>;
    .reg .b64 %rd<10>;
    mov.u32 %r0, %tid.x;
    ld.param.u64 %rd0, [out];
    mad.wide.u32 %rd0, %r0, 4, %rd0;
    mov.u32 %r1, tile; shl.b32 %r2, %r0, 2; add.u32 %r1, %r1, %r2;
    cvt.u64.u32 %rd1, %r1; cvta.shared.u64 %rd2, %rd1;
    st.u32 [%rd2], %r0;
    cvta.to.shared.u64 %rd3, %rd2; cvt.u32.u64 %r3, %rd3; ld.shared.u32 %r4, [%r3];
    mov.u64 %rd4, own; cvta.local.u64 %rd5, %rd4; st.u32 [%rd5+4], %r0; ld.local.u32 %r5, [%rd4+4];
    mov.b64 %rd6, n; cvta.param.u64 %rd7, %rd6; ld.u32 %r6, [%rd7];
    isspacep.shared %p1, %rd2; isspacep.local %p2, %rd5; isspacep.param %p3, %rd7; isspacep.global %p4, %rd0;
    isspacep.global %p5, %rd2; isspacep.shared %p6, %rd0;
    and.pred %p1, %p1, %p2; and.pred %p1, %p1, %p3; and.pred %p1, %p1, %p4; or.pred %p5, %p5, %p6;
    selp.u32 %r7, 1000, 0, %p1; selp.u32 %r8, 5000, 0, %p5;
    add.u32 %r4, %r4, %r5; add.u32 %r4, %r4, %r6; add.u32 %r4, %r4, %r7; add.u32 %r4, %r4, %r8;
    st.global.u32 [%rd0], %r4;
    ret;
}";
    let machine = Machine::new();
    let out = machine.upload(&[0u32; 32]);
    let mut params = out.to_le_bytes().to_vec();
    params.extend(77u32.to_le_bytes());
    let outcome = machine.run(text, "k", 1, 32, &params);
    assert_eq!((outcome.fault, outcome.findings), (None, vec![]));
    assert_eq!(machine.words(out, 32), (0..32).map(|t| 2 * t + 1077).collect::<Vec<_>>());
}

/// `bar.sync a, b` counts threads, in whole warps; a warp whose lanes stand at two barriers is an error.
#[test]
fn trap_12_aligned_barriers() {
    let two = "setp.lt.u32 %p1, %r0, 16; @%p1 bra A; bar.sync 1; bra B; A: bar.sync 2; B:";
    let (outcome, _) = run(two, 32);
    assert_eq!(outcome.findings[0].detector, Detector::BarrierDivergence, "{:?}", outcome.findings);
    let (outcome, _) = run("bar.sync 0, 48;", 64);
    assert!(outcome.fault.unwrap().text.contains("multiple of the warp size"));
    // Threads that have exited do not count.
    let early = "setp.ge.u32 %p1, %r0, 40; @%p1 exit; bar.sync 0; mov.u32 %r5, 3;";
    assert_eq!(clean(early, 96)[..40], [3; 40]);
}

/// Many lanes may store the same value to one word; another value by one of them is a race, and so is a reader.
#[test]
fn trap_16_equal_stores() {
    let text = |value: &str, more: &str| {
        kernel(&format!("{value} mov.u32 %r2, tile; st.shared.u32 [%r2], %r1; {more} mov.u32 %r5, %r1;"))
            .replace("{\n    .reg .pred", "{\n    .shared .align 16 .b8 tile[64];\n    .reg .pred")
    };
    let findings = |text: &str| {
        let machine = Machine::new();
        let out = machine.upload(&[0u32; 64]);
        machine.run(text, "k", 1, 64, &out.to_le_bytes()).findings
    };
    assert_eq!(findings(&text("mov.u32 %r1, 9;", "")), vec![]);
    assert_eq!(findings(&text("mov.u32 %r1, %tid.x;", ""))[0].detector, Detector::SharedRace);
    // The write is remembered: whoever reads without a barrier races with it.
    assert_eq!(findings(&text("mov.u32 %r1, 9;", "ld.shared.u32 %r3, [%r2];"))[0].detector, Detector::SharedRace);
}

/// Dynamic shared memory begins behind the statics, aligned as it is declared and no better.
#[test]
fn trap_18_dynamic_shared_memory() {
    for (align, statics) in [(4u32, 20u32), (16, 20), (128, 20), (16, 0)] {
        let array = if statics > 0 { format!(".shared .align 4 .b8 fixed[{statics}];") } else { String::new() };
        let name = if statics > 0 { "mov.u32 %r2, fixed; st.shared.u32 [%r2+16], 1;" } else { "" };
        let text = kernel(&format!(
            "{name} mov.u32 %r1, dynamic; st.shared.u32 [%r1+60], 5; ld.shared.u32 %r3, [%r1+60];
            st.global.u32 [%rd0], %r1;"
        ))
        .replace("{\n    .reg .pred", &format!("{{\n    {array}\n    .reg .pred"))
        .replace(".visible", &format!(".extern .shared .align {align} .b8 dynamic[];\n.visible"));
        let machine = Machine::new();
        let out = machine.upload(&[0u32; 1]);
        let outcome = machine.run_with(&text, "k", [1; 3], [1; 3], 64, &out.to_le_bytes());
        assert_eq!((outcome.fault, outcome.findings), (None, vec![]), "{align}");
        let at = machine.words(out, 1)[0];
        assert!(at.is_multiple_of(align) && at >= statics, "{align}: {at}");
        // An array declared at 4 bytes is not aligned to 8 by luck when something stands in front of it.
        assert!(statics == 0 || align > 4 || !at.is_multiple_of(8), "{at}");
        let outcome = machine.run_with(&text, "k", [1; 3], [1; 3], 60, &out.to_le_bytes());
        assert_eq!(outcome.findings[0].detector, Detector::SharedBounds, "60 bytes hold no word at 60");
    }
}

/// By-value structs are parameters with an offset and an alignment; the launch copies them.
#[test]
fn trap_19_struct_parameters() {
    let text = "
.version 9.0
.target sm_80
.address_size 64
.visible .entry k(.param .u8 flag, .param .align 8 .b8 p[24], .param .u16 last)
{
    .reg .b32 %r<10>;
    .reg .b64 %rd<10>;
    .reg .f32 %f<3>;
    ld.param.u64 %rd0, [p];
    ld.param.v2.u32 {%r1, %r2}, [p+8];
    ld.param.s8 %r3, [p+16];
    ld.param.f32 %f1, [p+20];
    ld.param.u8 %r4, [flag];
    ld.param.u16 %r5, [last];
    mov.b32 %r6, %f1;
    st.global.v4.u32 [%rd0], {%r1, %r2, %r3, %r6};
    st.global.v2.u32 [%rd0+16], {%r4, %r5};
    ret;
}";
    let machine = Machine::new();
    let out = machine.upload(&[0u32; 8]);
    let mut params = vec![200u8, 0, 0, 0, 0, 0, 0, 0];
    params.extend(out.to_le_bytes());
    params.extend([11u32.to_le_bytes(), 22u32.to_le_bytes()].concat());
    params.extend([0x80, 0, 0, 0]);
    params.extend(1.5f32.to_le_bytes());
    params.extend(65535u16.to_le_bytes());
    let outcome = machine.run(text, "k", 1, 1, &params);
    assert_eq!((outcome.fault, outcome.findings), (None, vec![]));
    assert_eq!(machine.words(out, 6), [11, 22, 0xffff_ff80, 1.5f32.to_bits(), 200, 65535]);
    let wrong = machine.run(text, "k", 1, 1, &params[..params.len() - 1]).fault.unwrap();
    assert!(wrong.code == 1 && wrong.text.contains("bytes of parameters"), "{wrong:?}");
}

/// The clock counts issued instructions and never goes back; sleeping lets others run.
#[test]
fn trap_23_clocks_and_sleep() {
    let body = "mov.u64 %rd1, %clock64; add.u32 %r1, %r0, 1; mov.u32 %r2, %clock; mov.u64 %rd2, %clock64;
        setp.lt.u64 %p1, %rd1, %rd2; selp.u32 %r5, 1, 0, %p1;";
    assert_eq!(clean(body, 32), [1; 32]);
    // Lane 0 polls for what lane 31 stores after it; without the sleep giving way it would poll for ever.
    let poll = kernel(
        "setp.eq.u32 %p1, %r0, 31; @%p1 bra GIVE;
    WAIT: nanosleep.u32 100; ld.volatile.global.u32 %r1, [%rd1]; setp.eq.u32 %p2, %r1, 0; @%p2 bra WAIT; bra DONE;
    GIVE: st.volatile.global.u32 [%rd1], 5; mov.u32 %r1, 5;
    DONE: st.global.u32 [%rd0], %r1;",
    )
    .replace("    mad.wide", "    add.u64 %rd1, %rd0, 128;\n    mad.wide");
    let machine = Machine::new();
    let out = machine.upload(&[0u32; 33]);
    let outcome = machine.run(&poll, "k", 1, 32, &out.to_le_bytes());
    assert_eq!((outcome.fault, outcome.findings), (None, vec![]));
    assert_eq!(machine.words(out, 33), [5; 33]);
}

/// A sum of more than 64 bits hands its carry from one statement to the next, in each lane its own.
#[test]
fn carries_go_from_statement_to_statement() {
    let body = |chain: &str| {
        format!(
            "mov.b32 %r1, -1; setp.lt.u32 %p1, %r0, 9; selp.u32 %r2, 1, 0, %p1; mov.u32 %r3, 5; mov.u32 %r4, 0;
            cvt.s64.s32 %rd1, %r1; cvt.u64.u32 %rd2, %r2; mov.u64 %rd3, 5; mov.u64 %rd4, 0; {chain}"
        )
    };
    let split = |low: u32, rest: u32| (0..32).map(|l| if l < 9 { low } else { rest }).collect::<Vec<_>>();
    let sum = body("add.cc.u32 %r6, %r1, %r2; addc.cc.u32 %r7, %r1, %r4; addc.u32 %r5, %r3, %r4;");
    assert_eq!(clean(&sum, 32), split(6, 5));
    let broken = body("add.cc.u32 %r6, %r1, %r2; addc.u32 %r7, %r1, %r4; add.u32 %r5, %r3, %r4;");
    assert_eq!(clean(&broken, 32), [5; 32]);
    let wide = body("add.cc.u64 %rd5, %rd1, %rd2; addc.u64 %rd6, %rd3, %rd4; cvt.u32.u64 %r5, %rd6;");
    assert_eq!(clean(&wide, 32), split(6, 5));
    // 0 - 1 borrows, 0 - 0 does not.
    let difference = body("sub.cc.u32 %r6, %r4, %r2; subc.cc.u32 %r7, %r4, %r4; subc.u32 %r5, %r3, %r4;");
    assert_eq!(clean(&difference, 32), split(4, 5));
    let wide = body("sub.cc.s64 %rd5, %rd4, %rd2; subc.s64 %rd6, %rd3, %rd4; cvt.u32.u64 %r5, %rd6;");
    assert_eq!(clean(&wide, 32), split(4, 5));
}
