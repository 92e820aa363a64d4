//! Build traps: lane loops must be compiled for the vector unit.

mod common;

use std::time::Instant;

use common::{Machine, kernel};

/// A loop of `count` copies of `statement`; returns lane instructions per second, the best of several runs.
fn rate(statement: &str, seed: u64) -> f64 {
    let text = kernel(&format!(
        "mov.f32 %f1, 0f3F800000;
    mov.f32 %f2, 0f3F000000;
    mov.f32 %f3, 0f3E000000;
    mov.u32 %r1, 0;
LOOP:
{}
    add.u32 %r1, %r1, 1;
    setp.lt.u32 %p1, %r1, 500;
    @%p1 bra LOOP;
    st.global.f32 [%rd0], %f3;",
        format!("    {statement}\n").repeat(100)
    ));
    let machine = Machine::seeded(seed);
    let out = machine.upload(&[0u32; 256]);
    let mut best = 0f64;
    for _ in 0..5 {
        let start = Instant::now();
        let outcome = machine.run(&text, "k", 1, 256, &out.to_le_bytes());
        let seconds = start.elapsed().as_secs_f64();
        assert_eq!(outcome.fault, None);
        best = best.max(outcome.counters.thread_instructions as f64 / seconds);
    }
    best
}

/// A fused multiply-add that is not inlined into the function with the vector features calls libm once per lane and
/// is ten times slower than an addition.
#[test]
fn a_fused_multiply_add_costs_about_what_an_addition_costs() {
    let add = rate("add.f32 %f3, %f1, %f2;", 0);
    let fma = rate("fma.rn.f32 %f3, %f1, %f2, %f3;", 0);
    println!("add.f32 {:.2} G lane-inst/s, fma.rn.f32 {:.2} G lane-inst/s", add / 1e9, fma / 1e9);
    assert!(add < 3.0 * fma, "add.f32 {add:.2e}/s, fma.rn.f32 {fma:.2e}/s");
}
