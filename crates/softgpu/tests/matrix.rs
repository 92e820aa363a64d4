//! `ldmatrix` and `stmatrix`: which lane gets which word, what they cost in bank passes, and what is checked.

mod common;

use common::Machine;
use softgpu::check::Detector;
use softgpu::ir::Class;
use softgpu::launch::Outcome;

/// A kernel of one CTA over 1024 bytes of shared memory, of which half `i` holds `i`, written by all threads and seen
/// by all. `%r1` is `16 * lane`, the row address of the lane; word `%tid.x + 32 * i` of the output gets `%r5 + i`.
fn kernel(body: &str) -> String {
    format!(
        ".version 9.0
.target sm_90
.address_size 64
.visible .entry k(.param .u64 out)
{{
    .shared .align 128 .b8 tile[1024];
    .reg .pred %p<4>;
    .reg .b32 %r<16>;
    .reg .b64 %rd<4>;
    mov.u32 %r0, %tid.x;
    ld.param.u64 %rd0, [out];
    mad.wide.u32 %rd0, %r0, 4, %rd0;
    and.b32 %r10, %r0, 31;
    setp.ge.u32 %p0, %r0, 32;
    mov.u32 %r11, %r10;
    @%p0 bra READY;
FILL:
    shl.b32 %r12, %r11, 1;
    add.u32 %r13, %r12, 1;
    shl.b32 %r13, %r13, 16;
    or.b32 %r13, %r13, %r12;
    shl.b32 %r14, %r11, 2;
    mov.u32 %r15, tile;
    add.u32 %r14, %r14, %r15;
    st.shared.b32 [%r14], %r13;
    add.u32 %r11, %r11, 32;
    setp.lt.u32 %p1, %r11, 256;
    @%p1 bra FILL;
READY:
    bar.sync 0;
    mov.u32 %r15, tile;
    mad.lo.u32 %r1, %r10, 16, %r15;
    mov.u32 %r5, 0;
    mov.u32 %r6, 0;
    mov.u32 %r7, 0;
    mov.u32 %r8, 0;
{body}
    ret;
}}
"
    )
}

/// Stores the four result registers.
const STORE: &str = "st.global.b32 [%rd0], %r5; st.global.b32 [%rd0+128], %r6; st.global.b32 [%rd0+256], %r7;
    st.global.b32 [%rd0+384], %r8;";

fn run(body: &str, threads: u32) -> (Outcome, Vec<u32>) {
    let machine = Machine::new();
    let out = machine.upload(&[0u32; 128]);
    let outcome = machine.run(&kernel(body), "k", 1, threads, &out.to_le_bytes());
    (outcome, machine.words(out, 128))
}

#[track_caller]
fn clean(body: &str) -> (Outcome, Vec<u32>) {
    let (outcome, words) = run(body, 32);
    assert_eq!((&outcome.fault, &outcome.findings), (&None, &vec![]), "{body}");
    (outcome, words)
}

/// Word `t` of row `g` of matrix `m` as a lane has it: halves of 64 `m` + 8 `g` + ... of the tile.
fn word(m: u32, lane: u32, transposed: bool) -> u32 {
    let (g, t) = (lane / 4, lane % 4);
    let half = |row: u32, column: u32| 64 * m + 8 * row + column;
    if transposed { half(2 * t, g) | half(2 * t + 1, g) << 16 } else { half(g, 2 * t) | half(g, 2 * t + 1) << 16 }
}

#[test]
fn each_lane_gets_its_words() {
    for (count, list) in [(1, "{%r5}"), (2, "{%r5, %r6}"), (4, "{%r5, %r6, %r7, %r8}")] {
        for (trans, transposed) in [("", false), (".trans", true)] {
            for space in [".shared", ".shared::cta"] {
                let load = format!("ldmatrix.sync.aligned.m8n8.x{count}{trans}{space}.b16 {list}, [%r1];");
                let (_, words) = clean(&format!("{load} {STORE}"));
                for m in 0..4 {
                    for lane in 0..32 {
                        let wanted = if m < count { word(m, lane, transposed) } else { 0 };
                        assert_eq!(words[(32 * m + lane) as usize], wanted, "{load} matrix {m} lane {lane}");
                    }
                }
            }
        }
    }
}

#[test]
fn generic_addresses_and_offsets() {
    let load = "cvt.u64.u32 %rd1, %r1; cvta.shared.u64 %rd1, %rd1;
        ldmatrix.sync.aligned.m8n8.x1.b16 {%r5}, [%rd1+128];";
    let (_, words) = clean(&format!("{load} {STORE}"));
    assert_eq!(words[..32], (0..32).map(|lane| word(1, lane, false)).collect::<Vec<_>>());
    let (outcome, _) = run("ldmatrix.sync.aligned.m8n8.x1.b16 {%r5}, [%rd0];", 32);
    let fault = outcome.fault.unwrap();
    assert!(fault.code == 700 && fault.text.contains("not in shared memory"), "{fault:?}");
}

/// What `stmatrix` writes, `ldmatrix` reads back, transposed or not.
#[test]
fn stores_are_the_inverse_of_loads() {
    let load = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r5, %r6, %r7, %r8}, [%r1]; bar.warp.sync -1;";
    for (first, second) in [("", ""), (".trans", ".trans"), (".trans", ""), ("", ".trans")] {
        let body = format!(
            "{load}
            stmatrix.sync.aligned.m8n8.x4{first}.shared.b16 [%r1], {{%r5, %r6, %r7, %r8}};
            bar.warp.sync -1;
            ldmatrix.sync.aligned.m8n8.x4{second}.shared.b16 {{%r5, %r6, %r7, %r8}}, [%r1]; {STORE}"
        );
        let (_, words) = clean(&body);
        for lane in 0..128 {
            let wanted = word(lane / 32, lane % 32, first != second);
            assert_eq!(words[lane as usize], wanted, "{first} {second} {lane}");
        }
    }
    let one = "mov.u32 %r5, 7; bar.warp.sync -1; stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r1], {%r5};
        bar.warp.sync -1; ld.shared.b32 %r5, [%r1];";
    let (_, words) = clean(&format!("{one} {STORE}"));
    assert_eq!((words[7], words[8]), (7, word(0, 0, false) + (64 << 16 | 64)), "x1 writes eight rows");
}

/// Bank passes: rows of one matrix side by side need one; rows 128 bytes apart all fall on the same banks.
#[test]
fn each_matrix_is_one_phase() {
    let lines = |outcome: &Outcome, op: &str| {
        let line = outcome.counters.lines.iter().find(|line| line.statement.starts_with(op)).unwrap().clone();
        (line.shared.wavefronts, line.shared.minimum)
    };
    let (outcome, _) = clean("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r5, %r6, %r7, %r8}, [%r1];");
    assert_eq!(lines(&outcome, "ldmatrix"), (4, 4));
    let apart = "and.b32 %r2, %r10, 7; mad.lo.u32 %r1, %r2, 128, %r15;";
    let (outcome, _) = clean(&format!("{apart} ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%r5}}, [%r1];"));
    assert_eq!(lines(&outcome, "ldmatrix"), (8, 1));
    assert_eq!(outcome.counters.class(Class::Matrix).warp, 0);
}

#[track_caller]
fn finds(body: &str, threads: u32, detector: Detector, parts: &[&str]) {
    let (outcome, _) = run(body, threads);
    let finding = outcome.findings.first().unwrap_or_else(|| panic!("{body}: {:?}", outcome.fault));
    let report = finding.to_string();
    assert_eq!(finding.detector, detector, "{report}");
    for part in parts {
        assert!(report.contains(part), "{part:?} is missing in\n{report}");
    }
}

#[test]
fn rows_are_checked() {
    let load = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r5, %r6, %r7, %r8}, [%r1+528];";
    finds(load, 32, Detector::SharedBounds, &["past the end of tile", "lane 31"]);
    let (outcome, _) = run("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r5}, [%r1+8];", 32);
    let fault = outcome.fault.unwrap();
    assert!(fault.code == 716 && fault.text.contains("not a multiple of 16"), "{fault:?}");
    // Lanes that give no address may hold anything.
    clean("setp.gt.u32 %p2, %r10, 7; @%p2 mov.u32 %r1, 3; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r5}, [%r1];");
    let unwritten = kernel("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r5}, [%r1];")
        .replace("st.shared.b32", "prmt.b32 %r13, %r13, 0, 0; //");
    let mut machine = Machine::new();
    machine.settings.strict_init = true;
    let out = machine.upload(&[0u32; 128]);
    let outcome = machine.run(&unwritten, "k", 1, 32, &out.to_le_bytes());
    assert_eq!(outcome.findings[0].detector, Detector::Uninitialised, "{:?}", outcome.findings);
}

/// A row belongs to the four lanes that receive it, not to the one that gave its address.
#[test]
fn races_are_between_owners() {
    // Each lane rewrites the row whose address it gives.
    let rewrite = "mov.u32 %r2, 9; st.shared.b32 [%r1], %r2;";
    let load = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r5, %r6, %r7, %r8}, [%r1];";
    finds(&format!("{rewrite} {load}"), 32, Detector::SharedRace, &["ldmatrix", "st.shared", "no warp barrier"]);
    finds(&format!("{load} {rewrite}"), 32, Detector::SharedRace, &["st.shared", "ldmatrix"]);
    clean(&format!("{rewrite} bar.warp.sync -1; {load}"));
    let trans = load.replace(".shared", ".trans.shared");
    finds(&format!("{rewrite} {trans}"), 32, Detector::SharedRace, &["ldmatrix", "st.shared"]);
    finds(&format!("{trans} {rewrite}"), 32, Detector::SharedRace, &["st.shared", "ldmatrix"]);
    // Two warps read the same rows; then one of them writes.
    finds(
        &format!("{load} @!%p0 {rewrite}", rewrite = "st.shared.b32 [%r1], %r10;"),
        64,
        Detector::SharedRace,
        &["ldmatrix"],
    );
    let store = "mov.u32 %r5, %r0; stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r1], {%r5};";
    finds(store, 64, Detector::SharedRace, &["stmatrix", "writes"]);
    finds(&store.replace("x1", "x1.trans"), 64, Detector::SharedRace, &["stmatrix", "writes"]);
}

#[test]
fn every_lane_must_take_part() {
    finds(
        "@!%p0 ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r5}, [%r1];",
        20,
        Detector::InactiveLane,
        &["without lanes 20-31"],
    );
    let mma = "setp.lt.u32 %p2, %r10, 16; @%p2 exit; mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32
        {%r5, %r6, %r7, %r8}, {%r5, %r6}, {%r7}, {%r5, %r6, %r7, %r8};";
    finds(mma, 32, Detector::InactiveLane, &["mma.sync", "without lanes 0-15"]);
}

#[test]
fn stmatrix_needs_its_target() {
    let text = kernel("stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r1], {%r5};").replace("sm_90", "sm_80");
    let module = softgpu::ptx::parse(&text).unwrap();
    let refused = softgpu::ir::Kernel::lower(&module, "k", true).err().expect("it is refused");
    assert!(refused.to_string().contains("sm_90"), "{refused}");
}
