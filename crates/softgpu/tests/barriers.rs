//! Barriers in every form, and fences as far as they order accesses.

mod common;

use common::{Machine, kernel};
use softgpu::check::Detector;
use softgpu::launch::Outcome;

const SEEDS: [u64; 6] = [0, 1, 2, 3, 4, 5];

fn run(body: &str, threads: u32, seed: u64) -> (Outcome, Vec<u32>) {
    let machine = Machine::seeded(seed);
    let out = machine.upload(&vec![0u32; threads as usize]);
    let text = kernel(body).replace("{\n    .reg .pred", "{\n    .shared .align 16 .b8 tile[512];\n    .reg .pred");
    let outcome = machine.run(&text.replace("sm_80", "sm_90"), "k", 1, threads, &out.to_le_bytes());
    (outcome, machine.words(out, threads as usize))
}

/// What the threads store of `%r5`, under every schedule the same and without a finding.
#[track_caller]
fn clean(body: &str, threads: u32) -> Vec<u32> {
    let mut first: Option<Vec<u32>> = None;
    for seed in SEEDS {
        let (outcome, words) = run(&format!("{body} st.global.b32 [%rd0], %r5;"), threads, seed);
        assert_eq!((outcome.fault, outcome.findings), (None, vec![]), "seed {seed}: {body}");
        assert_eq!(first.get_or_insert_with(|| words.clone()), &words, "seed {seed}: {body}");
    }
    first.unwrap()
}

#[track_caller]
fn finds(body: &str, threads: u32, detector: Detector) {
    for seed in SEEDS {
        let (outcome, _) = run(body, threads, seed);
        assert!(outcome.findings.iter().any(|f| f.detector == detector), "seed {seed}: {body} {:?}", outcome.findings);
    }
}

/// Every thread writes its word, all meet, every thread reads its opposite: each form orders that.
#[test]
fn all_threads_meet() {
    let exchange = |barrier: &str| {
        format!(
            "mov.u32 %r1, tile; shl.b32 %r2, %r0, 2; add.u32 %r1, %r1, %r2; st.shared.u32 [%r1], %r0; mov.u32 %r4, 3;
            setp.lt.u32 %p1, %r0, 5; {barrier}
            mov.u32 %r3, tile; xor.b32 %r2, %r2, 256; add.u32 %r3, %r3, %r2; ld.shared.u32 %r5, [%r3];"
        )
    };
    let wanted: Vec<u32> = (0..128).map(|t| t ^ 64).collect();
    for barrier in [
        "bar.sync 0;",
        "bar.cta.sync 0;",
        "bar.sync 15, 128;",
        "bar.sync %r4;",
        "barrier.sync 0;",
        "barrier.cta.sync.aligned 0;",
        "barrier.sync 1, 128;",
        "bar.red.popc.u32 %r6, 0, %p1;",
        "barrier.cta.red.or.pred %p2, 0, %p1;",
        "bar.sync 1; bar.sync 2;",
    ] {
        assert_eq!(clean(&exchange(barrier), 128), wanted, "{barrier}");
    }
    finds(&exchange(""), 128, Detector::SharedRace);
    finds(&exchange("bar.warp.sync -1;"), 128, Detector::SharedRace);
}

#[test]
fn reductions_count_every_thread_once() {
    let with = |statement: &str| {
        format!("setp.lt.u32 %p1, %r0, 40; mov.u32 %r5, 77; {statement}").replace("RESULT", "selp.u32 %r5, 1, 0, %p2;")
    };
    for name in ["bar", "bar.cta", "barrier", "barrier.cta"] {
        for aligned in if name.starts_with("barrier") { &["", ".aligned"][..] } else { &[""][..] } {
            for id in ["0", "1, 96"] {
                let popc = format!("{name}.red.popc{aligned}.u32 %r5, {id}, %p1;");
                assert_eq!(clean(&with(&popc), 96), [40; 96], "{popc}");
                for (action, operand, wanted) in
                    [("and", "%p1", 0), ("or", "%p1", 1), ("and", "!%p1", 0), ("or", "!%p1", 1)]
                {
                    let text = format!("{name}.red.{action}{aligned}.pred %p2, {id}, {operand}; RESULT");
                    assert_eq!(clean(&with(&text), 96), [wanted; 96], "{text}");
                }
            }
        }
    }
    let all = "setp.lt.u32 %p1, %r0, 1000; bar.red.and.pred %p2, 0, %p1; selp.u32 %r5, 1, 0, %p2;";
    assert_eq!(clean(all, 96), [1; 96]);
    assert_eq!(clean(&all.replace("red.and", "red.or").replace("%p1;", "!%p1;"), 96), [0; 96]);
}

/// Two warps meet at barrier 1 and two at barrier 2; the first pair does not wait for the second.
#[test]
fn named_barriers_count_their_own_threads() {
    let body = "setp.lt.u32 %p1, %r0, 64; setp.lt.u32 %p3, %r0, 70; mov.u32 %r4, 64; selp.u32 %r6, 1, 2, %p1;
        bar.red.popc.u32 %r5, %r6, %r4, %p3;";
    let wanted: Vec<u32> = (0..128).map(|t| if t < 64 { 64 } else { 6 }).collect();
    assert_eq!(clean(body, 128), wanted);
}

/// Warps that arrive go on at once; those that sync see what was written before the arrivals.
#[test]
fn arrivals_release_and_do_not_wait() {
    for (arrive, sync) in [
        ("bar.arrive 1, 64;", "bar.sync 1, 64;"),
        ("bar.cta.arrive 1, 64;", "bar.cta.sync 1, 64;"),
        ("barrier.arrive 1, 64;", "barrier.sync 1, 64;"),
        ("barrier.cta.arrive.aligned 1, 64;", "barrier.cta.sync.aligned 1, 64;"),
    ] {
        let body = format!(
            "mov.u32 %r1, tile; and.b32 %r2, %r0, 31; shl.b32 %r2, %r2, 2; add.u32 %r1, %r1, %r2; mov.u32 %r5, 1;
            setp.lt.u32 %p1, %r0, 32; @!%p1 bra CONSUMER;
            add.u32 %r3, %r0, 100; st.shared.u32 [%r1], %r3; {arrive} bra DONE;
        CONSUMER: {sync} ld.shared.u32 %r5, [%r1];
        DONE:"
        );
        let wanted: Vec<u32> = (0..64).map(|t| if t < 32 { 1 } else { t - 32 + 100 }).collect();
        assert_eq!(clean(&body, 64), wanted, "{arrive}");
        finds(&body.replace(sync, "").replace(arrive, ""), 64, Detector::SharedRace);
    }
}

/// `barrier.sync` may be reached from two places of one warp; `.aligned` and `bar` may not.
#[test]
fn only_unaligned_barriers_may_diverge() {
    let body = |barrier: &str| {
        format!(
            "setp.lt.u32 %p1, %r0, 16; @%p1 bra LOW; add.u32 %r5, %r0, 1; {barrier} bra DONE;
        LOW: {barrier} add.u32 %r5, %r0, 2;
        DONE:"
        )
    };
    let wanted: Vec<u32> = (0..32).map(|t| if t < 16 { t + 2 } else { t + 1 }).collect();
    assert_eq!(clean(&body("barrier.sync 0;"), 32), wanted);
    for barrier in ["bar.sync 0;", "barrier.sync.aligned 0;"] {
        finds(&body(barrier), 32, Detector::BarrierDivergence);
    }
}

/// A flag handed over by relaxed accesses orders nothing; with a fence on both sides it orders what came before.
#[test]
fn fences_order_around_a_flag() {
    let body = |before: &str, after: &str| {
        format!(
            "mov.u32 %r1, tile; mov.u32 %r5, 1; setp.lt.u32 %p1, %r0, 32; setp.ne.u32 %p2, %r0, 0;
            setp.eq.u32 %p3, %r0, 0; @%p3 st.shared.u32 [%r1+64], 0; bar.sync 0; @!%p1 bra WAIT; @%p2 bra DONE;
            st.shared.u32 [%r1], 42; {before} st.relaxed.cta.shared.u32 [%r1+64], 1; bra DONE;
        WAIT: ld.relaxed.cta.shared.u32 %r2, [%r1+64]; setp.eq.u32 %p3, %r2, 0; @%p3 bra WAIT; {after}
            ld.shared.u32 %r5, [%r1];
        DONE:"
        )
    };
    let wanted: Vec<u32> = (0..64).map(|t| if t < 32 { 1 } else { 42 }).collect();
    for fence in [
        "membar.cta;",
        "membar.gl;",
        "membar.sys;",
        "fence.cta;",
        "fence.sc.cta;",
        "fence.acq_rel.gpu;",
        "fence.acq_rel.cluster;",
        "fence.sc.sys;",
    ] {
        assert_eq!(clean(&body(fence, fence), 64), wanted, "{fence}");
    }
    assert_eq!(clean(&body("fence.release.cta;", "fence.acquire.cta;"), 64), wanted);
    finds(&body("", ""), 64, Detector::SharedRace);
    finds(&body("fence.acq_rel.cta;", ""), 64, Detector::SharedRace);
    finds(&body("", "fence.acq_rel.cta;"), 64, Detector::SharedRace);
}

/// Launches follow each other, so these have nothing to do; they are counted, and need their target.
#[test]
fn dependent_launches_have_nothing_to_wait_for() {
    let body = "griddepcontrol.launch_dependents; mov.u32 %r5, 4; griddepcontrol.wait;";
    assert_eq!(clean(body, 32), [4; 32]);
    let module = softgpu::ptx::parse(&kernel(body)).unwrap();
    let refused = softgpu::ir::Kernel::lower(&module, "k", true).err().unwrap();
    assert!(refused.why.contains("sm_90"), "{refused}");
}
