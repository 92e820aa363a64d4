//! Shuffles, votes, matches and warp reductions, one short PTX program each.

mod common;

use common::{Machine, kernel};
use softgpu::check::Detector;
use softgpu::launch::Outcome;

fn run(body: &str, threads: u32) -> (Outcome, Vec<u32>) {
    let machine = Machine::new();
    let out = machine.upload(&[0u32; 32]);
    let outcome = machine.run(&kernel(body), "k", 1, threads, &out.to_le_bytes());
    let words = machine.words(out, 32);
    (outcome, words)
}

/// What 32 lanes store of `%r5` after `body`.
#[track_caller]
fn lanes(body: &str) -> Vec<u32> {
    let (outcome, words) = run(&format!("{body}\n st.global.u32 [%rd0], %r5;"), 32);
    assert_eq!((outcome.fault, outcome.findings), (None, vec![]), "{body}");
    words
}

#[test]
fn shuffles_in_every_mode_and_segment() {
    // Mode, distance or lane, clamp operand, the lane read, and whether it lies inside the segment.
    type Rule = fn(u32) -> (u32, bool);
    let table: [(&str, &str, &str, Rule); 9] = [
        ("bfly", "1", "0x1f", |l| (l ^ 1, true)),
        ("bfly", "16", "0x1f", |l| (l ^ 16, true)),
        ("down", "3", "0x1f", |l| if l + 3 <= 31 { (l + 3, true) } else { (l, false) }),
        ("up", "3", "0x0", |l| if l >= 3 { (l - 3, true) } else { (l, false) }),
        ("idx", "5", "0x1f", |_| (5, true)),
        // Segments of eight lanes.
        ("down", "3", "0x181f", |l| if l % 8 + 3 < 8 { (l + 3, true) } else { (l, false) }),
        ("up", "3", "0x1800", |l| if l % 8 >= 3 { (l - 3, true) } else { (l, false) }),
        ("idx", "13", "0x181f", |l| (l / 8 * 8 + 5, true)),
        // A clamp below the end of the warp.
        ("bfly", "16", "0x0f", |l| if l ^ 16 <= 15 { (l ^ 16, true) } else { (l, false) }),
    ];
    for (mode, b, c, rule) in table {
        let body = format!(
            "add.u32 %r1, %r0, 100; shfl.sync.{mode}.b32 %r2|%p1, %r1, {b}, {c}, -1; selp.u32 %r3, 1000, 0, %p1;
            add.u32 %r5, %r2, %r3;"
        );
        let wanted: Vec<u32> = (0..32).map(rule).map(|(from, ok)| 100 + from + 1000 * u32::from(ok)).collect();
        assert_eq!(lanes(&body), wanted, "shfl.{mode} {b}, {c}");
    }
}

#[test]
fn votes() {
    let with = |vote: &str| {
        format!(
            "and.b32 %r1, %r0, 1; setp.eq.u32 %p1, %r1, 1; setp.lt.u32 %p2, %r0, 99; {vote} selp.u32 %r5, 1, 0, %p3;"
        )
    };
    assert_eq!(lanes(&with("vote.sync.all.pred %p3, %p2, -1;")), [1; 32]);
    assert_eq!(lanes(&with("vote.sync.all.pred %p3, %p1, -1;")), [0; 32]);
    assert_eq!(lanes(&with("vote.sync.any.pred %p3, %p1, -1;")), [1; 32]);
    assert_eq!(lanes(&with("vote.sync.any.pred %p3, !%p2, -1;")), [0; 32]);
    assert_eq!(lanes(&with("vote.sync.uni.pred %p3, !%p2, -1;")), [1; 32]);
    assert_eq!(lanes(&with("vote.sync.uni.pred %p3, %p1, -1;")), [0; 32]);
    let ballot = "and.b32 %r1, %r0, 1; setp.eq.u32 %p1, %r1, 1; vote.sync.ballot.b32 %r5, %p1, -1;";
    assert_eq!(lanes(ballot), [0xAAAA_AAAA; 32]);
    assert_eq!(lanes(&ballot.replace("%p1, -1", "!%p1, -1")), [0x5555_5555; 32]);
}

#[test]
fn groups_of_one_warp_vote_apart() {
    let body = "setp.lt.u32 %p1, %r0, 16; selp.u32 %r1, 0x0000FFFF, 0xFFFF0000, %p1; setp.lt.u32 %p2, %r0, 20;
    vote.sync.ballot.b32 %r5, %p2, %r1;";
    let wanted: Vec<u32> = (0..32).map(|l| if l < 16 { 0xFFFF } else { 0x000F_0000 }).collect();
    assert_eq!(lanes(body), wanted);
}

#[test]
fn activemask_is_who_is_here() {
    let body = "mov.u32 %r5, 0; setp.lt.u32 %p1, %r0, 5; @%p1 activemask.b32 %r5;";
    assert_eq!(lanes(body), (0..32).map(|l| if l < 5 { 0x1F } else { 0 }).collect::<Vec<u32>>());
}

#[test]
fn matches() {
    let any = "and.b32 %r1, %r0, 3; match.any.sync.b32 %r5, %r1, -1;";
    assert_eq!(lanes(any), (0..32).map(|l| 0x1111_1111 << (l % 4)).collect::<Vec<u32>>());
    let any = "and.b32 %r1, %r0, 1; cvt.u64.u32 %rd1, %r1; shl.b64 %rd1, %rd1, 40; match.any.sync.b64 %r5, %rd1, -1;";
    assert_eq!(lanes(any), (0..32).map(|l| 0x5555_5555 << (l % 2)).collect::<Vec<u32>>());
    let all = "mov.u32 %r1, 7; match.all.sync.b32 %r5|%p1, %r1, -1; @!%p1 mov.u32 %r5, 1;";
    assert_eq!(lanes(all), [u32::MAX; 32]);
    let all = "match.all.sync.b32 %r5|%p1, %r0, -1; @!%p1 add.u32 %r5, %r5, 1;";
    assert_eq!(lanes(all), [1; 32]);
}

#[test]
fn reductions() {
    let table = [
        ("add.u32", "%r0", 496),
        ("max.u32", "%r0", 31),
        ("min.u32", "%r2", 0),
        ("min.s32", "%r2", (-31i32) as u32),
        ("max.s32", "%r2", 0),
        ("or.b32", "%r0", 31),
        ("and.b32", "%r3", 32),
        ("xor.b32", "%r0", 0),
    ];
    for (action, operand, wanted) in table {
        let body = format!("neg.s32 %r2, %r0; or.b32 %r3, %r0, 32; redux.sync.{action} %r5, {operand}, -1;");
        assert_eq!(lanes(&body), [wanted; 32], "{action}");
    }
}

#[test]
fn one_lane_is_elected() {
    let body = "elect.sync %r1|%p1, -1; selp.u32 %r2, 100, 0, %p1; add.u32 %r5, %r1, %r2;";
    let words = lanes(body);
    assert_eq!((words[0], &words[1..]), (100, &[0; 31][..]));
}

#[track_caller]
fn inactive(body: &str, threads: u32, parts: &[&str]) {
    let (outcome, _) = run(body, threads);
    assert_eq!(outcome.fault.unwrap().code, 719);
    let finding = &outcome.findings[0];
    assert_eq!(finding.detector, Detector::InactiveLane);
    let report = finding.to_string();
    for part in parts {
        assert!(report.contains(part), "{part:?} is missing in\n{report}");
    }
}

#[test]
fn lanes_that_cannot_answer_are_reported() {
    let shuffle = "shfl.sync.bfly.b32 %r1, %r0, 16, 0x1f, -1;";
    inactive(shuffle, 16, &["lane 0 reads lane 16, which has no thread", "lanes 0-15"]);
    let leave = "setp.ge.u32 %p1, %r0, 16; @%p1 exit;";
    inactive(&format!("{leave} {shuffle}"), 32, &["lane 0 reads lane 16, which has exited"]);
    let named = "setp.ge.u32 %p1, %r0, 16; selp.u32 %r2, 0xFFFF0000, 0x0000FFFF, %p1;
    shfl.sync.idx.b32 %r1, %r0, 3, 0x1f, %r2;";
    inactive(named, 32, &["lane 16 reads lane 3, which is not named in the member mask", "0xffff0000", "lanes 16-31"]);
    let guarded = "setp.lt.u32 %p1, %r0, 16; @%p1 shfl.sync.bfly.b32 %r1, %r0, 16, 0x1f, -1;";
    inactive(guarded, 32, &["lanes 16-31", "guard"]);
    // Names exited lanes, reads none of them.
    let (outcome, _) = run(&format!("{leave} shfl.sync.bfly.b32 %r1, %r0, 8, 0x1f, -1;"), 32);
    assert_eq!((outcome.fault, outcome.findings), (None, vec![]));
}
