//! What an operation costs on 32 lanes, so that one that falls out of the vector unit is noticed.

use super::*;
use std::time::Instant;

/// Nanoseconds of one execution, the best of several short runs: other work on the machine only makes them longer.
fn cost(text: &str, outs: &str, ins: &str, mask: u32) -> f64 {
    let form = Form::decode(text, outs, ins, true).unwrap_or_else(|why| panic!("`{text}`: {why}"));
    let mut warp = Warp::new(0, u32::MAX, form.slots, form.slots, 0, POISON);
    for &(ty, slot) in &form.ins {
        // Small positive numbers in every format: no subnormals, which some processors compute slowly.
        fill(&mut warp, slot, ty, |lane| 0x3f40_3f40_3f40_3f40 + lane as u64);
    }
    let mut env = Env::new(&form.launch);
    let mut best = f64::INFINITY;
    for _ in 0..40 {
        let start = Instant::now();
        for _ in 0..500 {
            // SAFETY: as in `Form::run`.
            unsafe { (form.inst.run)(&mut warp, &mut env, &form.inst, mask) };
        }
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / 500.0);
    }
    best
}

const MMA_F16: &str = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 \
    {%d0, %d1, %d2, %d3}, {%a0, %a1, %a2, %a3}, {%a4, %a5}, {%a6, %a7, %a8, %a9};";
const MMA_BF16: &str = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 \
    {%d0, %d1, %d2, %d3}, {%a0, %a1, %a2, %a3}, {%a4, %a5}, {%a6, %a7, %a8, %a9};";
const MMA_TF32: &str = "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 \
    {%d0, %d1, %d2, %d3}, {%a0, %a1, %a2, %a3}, {%a4, %a5}, {%a6, %a7, %a8, %a9};";

/// The operations that softmax kernels are made of, with the most additions that each may cost.
/// A lane loop that runs one lane at a time, or calls a library function per lane, costs several times these.
const HOT: [(&str, &str, &str, f64); 29] = [
    ("fma.rn.f32 %d0, %a0, %a1, %a2;", "w", "www", 3.0),
    ("sub.f32 %d0, %a0, %a1;", "w", "ww", 3.0),
    ("mul.f32 %d0, %a0, %a1;", "w", "ww", 3.0),
    ("max.f32 %d0, %a0, %a1;", "w", "ww", 5.0),
    ("max.NaN.f32 %d0, %a0, %a1;", "w", "ww", 8.0),
    ("fma.rm.f32 %d0, %a0, %a1, %a2;", "w", "www", 30.0),
    ("cvt.sat.f32.f32 %d0, %a0;", "w", "w", 6.0),
    ("fma.rn.sat.f32 %d0, %a0, %a1, %a2;", "w", "www", 8.0),
    ("ex2.approx.ftz.f32 %d0, %a0;", "w", "w", 30.0),
    ("lg2.approx.f32 %d0, %a0;", "w", "w", 40.0),
    ("rcp.approx.ftz.f32 %d0, %a0;", "w", "w", 8.0),
    ("div.rn.f32 %d0, %a0, %a1;", "w", "ww", 8.0),
    ("sqrt.rn.f32 %d0, %a0;", "w", "w", 8.0),
    ("add.s32 %d0, %a0, %a1;", "w", "ww", 3.0),
    ("shl.b32 %d0, %a0, %a1;", "w", "ww", 4.0),
    ("mul.wide.u32 %d0, %a0, %a1;", "q", "ww", 8.0),
    ("setp.lt.s32 %d0, %a0, %a1;", "p", "ww", 10.0),
    ("setp.gt.f32 %d0, %a0, %a1;", "p", "ww", 10.0),
    ("selp.f32 %d0, %a0, %a1, %a2;", "w", "wwp", 8.0),
    ("mov.b32 {%d0, %d1}, %a0;", "hh", "w", 5.0),
    ("cvt.f32.f16 %d0, %a0;", "w", "h", 8.0),
    ("cvt.rn.f16x2.f32 %d0, %a0, %a1;", "w", "ww", 16.0),
    ("cvt.rn.bf16x2.f32 %d0, %a0, %a1;", "w", "ww", 8.0),
    ("cvt.rn.f16.f32 %d0, %a0;", "h", "w", 10.0),
    ("add.f16x2 %d0, %a0, %a1;", "w", "ww", 40.0),
    ("fma.rn.bf16x2 %d0, %a0, %a1, %a2;", "w", "www", 90.0),
    (MMA_F16, "wwww", "wwwwwwwwww", 130.0),
    (MMA_BF16, "wwww", "wwwwwwwwww", 120.0),
    (MMA_TF32, "wwww", "wwwwwwwwww", 70.0),
];

#[test]
fn hot_operations_run_on_vectors() {
    let add = cost("add.f32 %d0, %a0, %a1;", "w", "ww", u32::MAX);
    println!("{add:6.1} ns  add.f32");
    let masked = cost("add.f32 %d0, %a0, %a1;", "w", "ww", 0x00ff_f0f0);
    println!("{masked:6.1} ns  add.f32 under a partial mask");
    let masked64 = cost("add.s64 %d0, %a0, %a1;", "q", "qq", 0x00ff_f0f0);
    println!("{masked64:6.1} ns  add.s64 under a partial mask");
    let mut slow = Vec::new();
    for (text, outs, ins, limit) in HOT {
        let ns = cost(text, outs, ins, u32::MAX);
        println!("{ns:6.1} ns {:5.1} (limit {limit})  {text}", ns / add);
        if crate::exec::has_wide() && ns > limit * add {
            slow.push(format!("{text} {:.1} additions, limit {limit}", ns / add));
        }
    }
    assert!(slow.is_empty(), "{slow:#?}");
}
