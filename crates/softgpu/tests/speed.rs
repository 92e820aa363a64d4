//! Build traps: lane loops must be compiled for the vector unit.

mod common;

use common::{Machine, kernel};

/// Processor time of this thread in seconds: other processes on the machine do not count.
fn cpu_seconds() -> f64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a timespec that the call may write to.
    let rc = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    assert_eq!(rc, 0);
    now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9
}

/// A loop of a hundred copies of `statement`.
fn program(statement: &str) -> String {
    let copies = format!("    {statement}\n").repeat(100);
    kernel(&format!(
        "mov.f32 %f1, 0f3F800000;
    mov.f32 %f2, 0f3F000000;
    mov.f32 %f3, 0f3E000000;
    mov.u32 %r1, 0;
LOOP:
{copies}
    add.u32 %r1, %r1, 1;
    setp.lt.u32 %p1, %r1, 500;
    @%p1 bra LOOP;
    st.global.f32 [%rd0], %f3;"
    ))
}

/// Lane instructions per second.
fn rate(text: &str) -> f64 {
    let machine = Machine::new();
    let out = machine.upload(&[0u32; 256]);
    let start = cpu_seconds();
    let outcome = machine.run(text, "k", 1, 256, &out.to_le_bytes());
    let seconds = cpu_seconds() - start;
    assert_eq!(outcome.fault, None);
    outcome.counters.thread_instructions as f64 / seconds
}

/// A fused multiply-add that is not inlined into the function with the vector features calls libm once per lane and
/// is ten times slower than an addition.
#[test]
fn a_fused_multiply_add_costs_about_what_an_addition_costs() {
    let programs = ["add.f32 %f3, %f1, %f2;", "fma.rn.f32 %f3, %f1, %f2, %f3;"].map(program);
    let mut best = [0f64; 2];
    for _ in 0..10 {
        for (best, text) in best.iter_mut().zip(&programs) {
            *best = best.max(rate(text));
        }
    }
    let [add, fma] = best;
    println!("add.f32 {:.2} G lane-inst/s, fma.rn.f32 {:.2} G lane-inst/s", add / 1e9, fma / 1e9);
    assert!(add < 3.0 * fma, "add.f32 {add:.2e}/s, fma.rn.f32 {fma:.2e}/s");
}
