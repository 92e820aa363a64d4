//! Divergence, barriers, order of warps and CTAs, and what is said when nothing moves.

mod common;

use common::{Machine, kernel};
use softgpu::check::Detector;
use softgpu::ir::Kernel;
use softgpu::launch::{Outcome, code};
use softgpu::ptx::parse;

const SEEDS: u64 = 24;

/// Runs `body` for one CTA of `threads` under many seeds; the words of `out` must be the same each time.
fn words(body: &str, threads: u32) -> Vec<u32> {
    let text = kernel(body);
    let mut first: Option<Vec<u32>> = None;
    for seed in 0..SEEDS {
        let machine = Machine::seeded(seed);
        let out = machine.upload(&vec![0u32; threads as usize]);
        let outcome = machine.run(&text, "k", 1, threads, &out.to_le_bytes());
        assert_eq!(outcome.fault, None, "seed {seed}");
        let words = machine.words(out, threads as usize);
        assert_eq!(first.get_or_insert_with(|| words.clone()), &words, "seed {seed}");
    }
    first.unwrap()
}

fn outcome(body: &str, threads: u32, seed: u64) -> Outcome {
    let machine = Machine::seeded(seed);
    let out = machine.upload(&vec![0u32; threads as usize]);
    machine.run(&kernel(body), "k", 1, threads, &out.to_le_bytes())
}

fn detectors(outcome: &Outcome) -> Vec<Detector> {
    outcome.findings.iter().map(|f| f.detector).collect()
}

#[test]
fn lanes_branch_apart_and_meet_again() {
    // Collatz steps: every lane loops a different number of times; then all shuffle together.
    let body = "
    add.u32 %r1, %r0, 1;
    mov.u32 %r2, 0;
LOOP:
    setp.eq.u32 %p1, %r1, 1;
    @%p1 bra DONE;
    and.b32 %r3, %r1, 1;
    setp.eq.u32 %p2, %r3, 0;
    @%p2 bra EVEN;
    mad.lo.u32 %r1, %r1, 3, 1;
    bra NEXT;
EVEN:
    shr.u32 %r1, %r1, 1;
NEXT:
    add.u32 %r2, %r2, 1;
    bra LOOP;
DONE:
    shfl.sync.idx.b32 %r4, %r2, 26, 31, -1;
    shl.b32 %r4, %r4, 16;
    or.b32 %r2, %r2, %r4;
    st.global.u32 [%rd0], %r2;
    ret;";
    let steps =
        |n: u32| (0..).scan(n, |n, _| (*n != 1).then(|| *n = if *n % 2 == 0 { *n / 2 } else { *n * 3 + 1 })).count();
    let expected: Vec<u32> = (1..=32).map(|n| steps(n) as u32 | (steps(27) as u32) << 16).collect();
    assert_eq!(words(body, 32), expected);
}

/// A register whose only definition stands in an `if` inside the loop that reads it every time round.
#[test]
fn trap_9_a_value_made_in_the_first_trip_lives_through_the_loop() {
    let body = "
    mov.u32 %r1, 0;
    mov.u32 %r5, 0;
LOOP:
    setp.ne.u32 %p1, %r1, 0;
    @%p1 bra LATER;
    add.u32 %r2, %r0, 100;
LATER:
    mul.lo.u32 %r3, %r1, 7;
    add.u32 %r4, %r3, %r2;
    add.u32 %r5, %r5, %r4;
    add.u32 %r1, %r1, 1;
    setp.lt.u32 %p2, %r1, 3;
    @%p2 bra LOOP;
    st.global.u32 [%rd0], %r5;";
    let expected: Vec<u32> = (0..32).map(|t| 3 * (t + 100) + 7 * 3).collect();
    assert_eq!(words(body, 32), expected);
}

/// Two asm blocks declare the same register and labels; the outer register of the same name keeps its value.
#[test]
fn trap_8_scopes() {
    let body = "
    mov.u32 %r1, 5;
    { .reg .b32 %r1; .reg .pred q; mov.u32 %r1, 70; setp.lt.u32 q, %r0, 16; @q bra W; bra D; W: add.u32 %r1, %r1, 1; D:
      st.global.u32 [%rd0], %r1; }
    { .reg .b32 t; .reg .pred q; ld.global.u32 t, [%rd0]; setp.ge.u32 q, %r0, 16; @q bra W; bra D; W: add.u32 t, t, 10;
      D: add.u32 t, t, %r1; st.global.u32 [%rd0], t; }";
    let expected: Vec<u32> = (0..32).map(|t| if t < 16 { 76 } else { 85 }).collect();
    assert_eq!(words(body, 32), expected);
}

#[test]
fn a_guarded_write_keeps_the_other_lanes() {
    let body = "
    mov.u32 %r1, 11;
    setp.lt.u32 %p1, %r0, 7;
    @%p1 mov.u32 %r1, 22;
    @!%p1 add.u32 %r1, %r1, 1;
    st.global.u32 [%rd0], %r1;";
    let expected: Vec<u32> = (0..20).map(|t| if t < 7 { 22 } else { 12 }).collect();
    assert_eq!(words(body, 20), expected);
}

/// Registers that nobody wrote hold poison in every CTA, also where an earlier CTA left a value.
#[test]
fn undefined_registers_are_poison() {
    let body = "
    mov.u32 %r1, %ctaid.x;
    setp.eq.u32 %p1, %r1, 1;
    @!%p1 mov.u32 %r2, 5;
    @!%p1 mov.u64 %rd2, 5;
    cvt.u32.u64 %r3, %rd2;
    add.u32 %r2, %r2, %r3;
    @%p1 st.global.u32 [%rd0], %r2;";
    for (seed, poison) in [(0, u32::MAX), (1, 0x7f7f_7f7f)] {
        let mut machine = Machine::seeded(seed);
        machine.settings.only_ctas = Some([0, 1, 2].into());
        machine.settings.findings_fail = false;
        let out = machine.upload(&[0u32; 32]);
        let outcome = machine.run(&kernel(body), "k", 3, 32, &out.to_le_bytes());
        assert_eq!((outcome.fault.clone(), detectors(&outcome)), (None, vec![Detector::Uninitialised]));
        assert!(outcome.findings[0].at.statement.starts_with("@%p1 st.global"));
        assert_eq!(machine.words(out, 32), [poison.wrapping_add(poison); 32]);
    }
}

#[test]
fn indexed_branches() {
    let body = "
    and.b32 %r1, %r0, 3;
T:  .branchtargets A, B, C, A;
    brx.idx %r1, T;
A:  mov.u32 %r2, 1;
    bra END;
B:  mov.u32 %r2, 2;
    bra END;
C:  mov.u32 %r2, 3;
END:
    st.global.u32 [%rd0], %r2;";
    assert_eq!(words(body, 8), [1, 2, 3, 1, 1, 2, 3, 1]);
    let wild = body.replace("%r0, 3", "%r0, 7");
    let fault = outcome(&wild, 8, 0).fault.unwrap();
    assert_eq!((fault.code, fault.text.as_str()), (code::LAUNCH_FAILED, "branch index 4 of a table of 4 targets"));
}

#[test]
fn barrier_reductions() {
    let body = "
    setp.lt.u32 %p1, %r0, 40;
    bar.red.popc.u32 %r1, 0, %p1;
    bar.red.popc.u32 %r2, 0, !%p1;
    bar.red.or.pred %p2, 0, %p1;
    bar.red.and.pred %p3, 0, %p1;
    shl.b32 %r2, %r2, 8;
    or.b32 %r1, %r1, %r2;
    @%p2 or.b32 %r1, %r1, 0x10000;
    @%p3 or.b32 %r1, %r1, 0x20000;
    st.global.u32 [%rd0], %r1;";
    assert_eq!(words(body, 90), [40 | 50 << 8 | 0x10000; 90]);
}

#[test]
fn exited_threads_do_not_hold_up_barriers_or_shuffles() {
    let body = "
    setp.ge.u32 %p1, %r0, 70;
    @%p1 ret;
    bar.sync 0;
    bar.warp.sync -1;
    mov.u32 %r1, 9;
    st.global.u32 [%rd0], %r1;";
    let expected: Vec<u32> = (0..128).map(|t| if t < 70 { 9 } else { 0 }).collect();
    assert_eq!(words(body, 128), expected);
}

/// Lanes that wait for others spin; they must not keep the others from running.
#[test]
fn a_spinning_lane_does_not_starve_its_warp_or_another() {
    let spin = "
    .shared .align 4 .b32 flag;
    setp.eq.u32 %p1, %r0, LAST;
    @%p1 bra SET;
WAIT:
    ld.volatile.shared.u32 %r1, [flag];
    setp.ne.u32 %p2, %r1, 7;
    @%p2 bra WAIT;
    bra END;
SET:
    mov.u32 %r2, 7;
    st.volatile.shared.u32 [flag], %r2;
END:
    st.global.u32 [%rd0], %r0;";
    for (threads, last) in [(32, "31"), (64, "63")] {
        for seed in 0..4 {
            let mut machine = Machine::seeded(seed);
            // A flag that nobody initialised and volatile accesses: only the schedule is tested here.
            machine.settings.checks = softgpu::launch::Checks::NONE;
            let out = machine.upload(&vec![0u32; 64]);
            let text = kernel(&spin.replace("LAST", last));
            let outcome = machine.run(&text, "k", 1, threads, &out.to_le_bytes());
            assert_eq!(outcome.fault, None, "{threads} threads, seed {seed}");
        }
    }
}

#[test]
fn a_barrier_in_one_branch_is_reported() {
    // The other lanes wait at a second barrier.
    let two = "
    setp.lt.u32 %p1, %r0, 16;
    @!%p1 bra ELSE;
    bar.sync 0;
ELSE:
    bar.sync 0;
    st.global.u32 [%rd0], %r0;";
    // The other lanes do something and exit. Only a schedule in which they come after shows it: the plain one does.
    let past = "
    setp.lt.u32 %p1, %r0, 16;
    @!%p1 bra ELSE;
    bar.sync 0;
ELSE:
    st.global.u32 [%rd0], %r0;";
    for (body, seeds) in [(two, SEEDS), (past, 1)] {
        for seed in 0..seeds {
            let outcome = outcome(body, 64, seed);
            assert_eq!(detectors(&outcome), [Detector::BarrierDivergence], "seed {seed}");
            let at = &outcome.findings[0].at;
            assert_eq!((outcome.fault.unwrap().code, at.warp), (code::LAUNCH_FAILED, 0));
            assert!(at.statement.starts_with("bar.sync"), "{at}");
        }
    }
}

#[test]
fn lanes_that_wait_for_each_other_are_reported_with_both_places() {
    let body = "
    setp.lt.u32 %p1, %r0, 16;
    @%p1 bra LOW;
    shfl.sync.idx.b32 %r1, %r0, 0, 31, -1;
    bra END;
LOW:
    bar.warp.sync -1;
END:
    st.global.u32 [%rd0], %r0;";
    let outcome = outcome(body, 32, 0);
    assert_eq!(detectors(&outcome), [Detector::Deadlock]);
    let fault = outcome.fault.unwrap();
    assert_eq!(fault.code, code::TIMEOUT);
    assert!(fault.text.contains("lanes 16-31 at PTX line 17 `shfl.sync"), "{}", fault.text);
    assert!(fault.text.contains("lanes 0-15 at PTX line 20 `bar.warp.sync"), "{}", fault.text);
}

#[test]
fn a_barrier_that_too_few_warps_reach_is_a_deadlock() {
    let body = "
    setp.ge.u32 %p1, %r0, 32;
    @%p1 bra END;
    bar.sync 1, 64;
END:
    bar.sync 0;
    st.global.u32 [%rd0], %r0;";
    let outcome = outcome(body, 64, 0);
    assert_eq!(detectors(&outcome), [Detector::Deadlock]);
    let text = outcome.fault.unwrap().text;
    assert!(text.contains("barrier 1: 32 of 64 threads have arrived"), "{text}");
    assert!(text.contains("barrier 0: 1 of 2 warps have not arrived"), "{text}");
}

#[test]
fn producers_arrive_and_consumers_wait() {
    let body = "
    setp.ge.u32 %p1, %r0, 32;
    @%p1 bra PRODUCE;
    bar.sync 1, 64;
    bra END;
PRODUCE:
    bar.arrive 1, 64;
END:
    st.global.u32 [%rd0], %r0;";
    assert_eq!(words(body, 64), (0..64).collect::<Vec<_>>());
}

#[test]
fn a_member_mask_without_its_own_lane_or_with_a_guarded_one_is_reported() {
    for body in ["bar.warp.sync 0xfffffffe;", "setp.ne.u32 %p1, %r0, 3; @%p1 bar.warp.sync -1;"] {
        let outcome = outcome(body, 32, 0);
        assert_eq!(detectors(&outcome), [Detector::InactiveLane], "{body}");
    }
    // Two groups at the same instruction, each with its own mask: allowed.
    let halves = "
    and.b32 %r1, %r0, 16;
    mov.u32 %r2, 0xffff;
    shl.b32 %r2, %r2, %r1;
    bar.warp.sync %r2;";
    assert_eq!(detectors(&outcome(halves, 32, 0)), []);
}

#[test]
fn endless_loops_end() {
    let mut machine = Machine::new();
    machine.settings.step_limit = 10_000;
    let outcome = machine.run(&kernel("L: bra L;"), "k", 1, 32, &[0; 8]);
    let fault = outcome.fault.unwrap();
    assert_eq!(fault.code, code::TIMEOUT);
    assert!(fault.text.starts_with("still running after 10000 warp instructions: lanes 0-31 at"), "{}", fault.text);
}

#[test]
fn traps_name_their_lanes() {
    let fault = outcome("setp.eq.u32 %p1, %r0, 5; @%p1 trap; ret;", 32, 0).fault.unwrap();
    assert_eq!((fault.code, fault.text.as_str()), (code::LAUNCH_FAILED, "trap in lane 5"));
    assert_eq!(fault.at.unwrap().place, "PTX line 14");
}

/// A CTA that polls for the next one: both must be resident.
#[test]
fn a_cta_that_waits_for_a_later_one_does_not_block_the_grid() {
    let body = "
    mov.u32 %r1, %ctaid.x;
    setp.ne.u32 %p1, %r1, 0;
    ld.param.u64 %rd1, [out];
    @%p1 bra SET;
WAIT:
    ld.volatile.global.u32 %r2, [%rd1];
    setp.ne.u32 %p2, %r2, 7;
    @%p2 bra WAIT;
    ret;
SET:
    mov.u32 %r3, 7;
    st.volatile.global.u32 [%rd1], %r3;";
    let mut machine = Machine::new();
    machine.settings.step_limit = 1 << 24;
    let out = machine.upload(&[0u32]);
    let outcome = machine.run(&kernel(body), "k", 2, 1, &out.to_le_bytes());
    assert_eq!(outcome.fault, None);
}

#[test]
fn special_registers() {
    let body = "
    mov.u32 %r1, %ctaid.z;
    mov.u32 %r2, %nctaid.y;
    mad.lo.u32 %r1, %r1, 100, %r2;
    mov.u32 %r2, %tid.y;
    mad.lo.u32 %r1, %r1, 100, %r2;
    mov.u32 %r2, %tid.z;
    mad.lo.u32 %r1, %r1, 100, %r2;
    mov.u32 %r2, %laneid;
    mad.lo.u32 %r1, %r1, 100, %r2;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.y;
    mad.lo.u32 %r0, %r4, %r3, %r0;
    mov.u32 %r3, %tid.z;
    mad.lo.u32 %r0, %r3, 6, %r0;
    ld.param.u64 %rd0, [out];
    mad.wide.u32 %rd0, %r0, 4, %rd0;
    st.global.u32 [%rd0], %r1;";
    let mut machine = Machine::new();
    machine.settings.only_ctas = Some([23].into());
    let out = machine.upload(&[0u32; 36]);
    let outcome = machine.run_with(&kernel(body), "k", [2, 4, 3], [3, 2, 6], 0, &out.to_le_bytes());
    assert_eq!(outcome.fault, None);
    let words = machine.words(out, 36);
    for (t, word) in (0u32..).zip(words) {
        assert_eq!(word, ((204 * 100 + t / 3 % 2) * 100 + t / 6) * 100 + t % 32, "thread {t}");
    }
}

/// A barrier counts once per warp however many times its lanes had to wait for each other, and branches that part
/// lanes are counted.
#[test]
fn waiting_is_not_counted_as_issuing() {
    let body = "
    setp.lt.u32 %p1, %r0, 5;
    @%p1 bra SLOW;
    bra JOIN;
SLOW:
    nanosleep.u32 100;
JOIN:
    bar.sync 0;";
    for seed in 0..SEEDS {
        let counters = outcome(body, 32, seed).counters;
        let barriers = counters.class(softgpu::ir::Class::Barrier);
        assert_eq!((barriers.warp, barriers.thread), (1, 32), "seed {seed}");
        assert_eq!(counters.divergent_branches, 1, "seed {seed}");
    }
}

#[test]
fn bad_launch_shapes_are_refused() {
    let machine = Machine::new();
    let text = kernel("ret;");
    for (grid, block, shared, params, why) in [
        ([0, 1, 1], [1, 1, 1], 0, 8, "k: a grid of (0, 1, 1)"),
        ([1, 65_536, 1], [1, 1, 1], 0, 8, "k: a grid of (1, 65536, 1)"),
        ([1, 1, 1], [1025, 1, 1], 0, 8, "k: a block of (1025, 1, 1)"),
        ([1, 1, 1], [1 << 31, 1 << 31, 4], 0, 8, "k: a block of (2147483648"),
        ([1, 1, 1], [1, 1, 65], 0, 8, "k: a block of (1, 1, 65)"),
        ([1, 1, 1], [1, 1, 1], 232_449, 8, "k: 232449 bytes of shared memory where 232448"),
        ([1, 1, 1], [1, 1, 1], 0, 4, "k: 4 bytes of parameters where 8"),
    ] {
        let fault = machine.run_with(&text, "k", grid, block, shared, &[0; 8][..params]).fault.unwrap();
        assert_eq!(fault.code, code::INVALID_VALUE);
        assert!(fault.text.starts_with(why), "{}", fault.text);
    }
    let bounded = text.replace("out)\n", "out)\n.maxntid 64, 1, 1\n");
    assert!(machine.run(&bounded, "k", 1, 65, &[0; 8]).fault.unwrap().text.contains(".maxntid allows 64"));
}

#[test]
fn what_is_not_implemented_stops_at_its_line() {
    let text = |statement: &str| {
        kernel(&format!("\t.loc 1 41 3\n\t.loc 2 7 1, function_name $x, inlined_at 1 41 3\n\t{statement}\n"))
            + ".file 1 \"/src/softmax.cu\"\n.file 2 \"/src/reduce.cuh\"\n"
    };
    for (statement, why) in [
        ("frobnicate.f32 %f1,\t%f2;", "unknown opcode frobnicate"),
        (".callprototype _ (.param .b32 _);", "unknown directive .callprototype"),
        ("bar.sync.often 0;", "unknown modifier .often"),
        ("fence.sc.universe;", "a fence of an unknown kind or scope"),
        ("call foo;", "the function foo has no body in this module"),
        ("mov.u32 %r1, %smid;", "special register %smid is not implemented"),
        ("add.sideways.u32 %r1, %r1, %r1;", "sideways"),
        ("ld.global.sideways.u32 %r1, [%rd0];", "sideways"),
    ] {
        let Err(refused) = Kernel::lower(&parse(&text(statement)).unwrap(), "k", true) else {
            panic!("{statement} was accepted")
        };
        assert_eq!(refused.place, "reduce.cuh:7, inlined at softmax.cu:41");
        assert_eq!(refused.statement, statement.replace('\t', " "));
        assert!(refused.why.contains(why), "{refused}");
    }
}
