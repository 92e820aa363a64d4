//! Speed: lane loops must be compiled for the vector unit, and checks must not cost more than they may.

mod common;

use common::{Machine, cpu_seconds, kernel};
use softgpu::ir::Kernel;
use softgpu::launch::{Checks, Launch, Limits, Settings, run};
use softgpu::mem::{Poison, Space};
use softgpu::ptx::parse;
use std::sync::Arc;

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

/// A register that nobody wrote is followed through every instruction; that may not make a launch crawl.
#[test]
fn undefined_values_cost_little() {
    let rate_of = |word: &str| {
        let text = program("fma.rn.f32 %f3, %f1, %f2, %f3;").replace("mov.f32 %f1, 0f3F800000;", word);
        let text = text.replace("st.global.f32 [%rd0], %f3;", "");
        (0..10).map(|_| rate(&text)).fold(0.0, f64::max)
    };
    let (defined, undefined) =
        (rate_of("mov.f32 %f1, 0f3F800000;"), rate_of("setp.lt.u32 %p1, %r0, 7; @%p1 mov.f32 %f1, 0f3F800000;"));
    let ratio = defined / undefined;
    println!("{:.2} G lane-inst/s, {:.2} while a value is undefined, ratio {ratio:.1}", defined / 1e9, undefined / 1e9);
    assert!(undefined > 0.1e9, "{undefined:.2e} lane instructions per second");
}

/// Lane instructions per second of a launch, the best of several.
fn best_rate(launch: &Launch) -> f64 {
    let once = || {
        let start = cpu_seconds();
        let outcome = run(launch);
        assert_eq!((outcome.fault, outcome.findings), (None, vec![]));
        outcome.counters.thread_instructions as f64 / (cpu_seconds() - start)
    };
    (0..12).map(|_| once()).fold(0.0, f64::max)
}

/// One block over one short row: what a launch costs beside its instructions, which is what most tests pay for.
#[test]
fn small_launches_cost_little() {
    let module = parse(include_str!("ptx/softmax_sm80.ptx")).unwrap();
    let kernel = Arc::new(Kernel::lower(&module, "warp_rows", true).unwrap());
    let space = Space::new();
    let x = space.alloc(256, 0, Poison::Nan).unwrap();
    space.write(x, &1f32.to_le_bytes().repeat(64)).unwrap();
    let mut params = [x, x + 128, 1].map(u64::to_le_bytes).concat();
    params.extend(32u32.to_le_bytes());
    params.extend(1f32.to_le_bytes());
    let launch = Launch {
        kernel,
        grid: [1, 1, 1],
        block: [32, 1, 1],
        cluster: [1; 3],
        dynamic_shared: 0,
        params,
        globals: Arc::new([]),
        memory: space.snapshot(),
        settings: Settings::default(),
        limits: Limits::default(),
    };
    let thousand = || {
        let start = cpu_seconds();
        for _ in 0..1000 {
            assert_eq!(run(&launch).fault, None);
        }
        (cpu_seconds() - start) * 1e3
    };
    let best = (0..5).map(|_| thousand()).fold(f64::INFINITY, f64::min);
    let outcome = run(&launch);
    println!("{best:.1} us for a launch of {} warp instructions", outcome.counters.warp_instructions);
    assert!(best < 200.0, "{best} us");
}

/// Converged softmax kernels, one row per warp and one row per block. The aims are 0.4 G
/// and 1.6; the bounds leave room for a loaded machine, and what it does is printed.
#[test]
fn converged_kernels_run_fast_and_checks_cost_little() {
    let module = parse(include_str!("ptx/softmax_sm80.ptx")).unwrap();
    for (name, rows, length, threads) in
        [("warp_rows", 256u64, 256u32, 128u32), ("warp_rows", 128, 1000, 128), ("block_rows", 16, 8192, 256)]
    {
        let kernel = Arc::new(Kernel::lower(&module, name, true).unwrap());
        let space = Space::new();
        let bytes = rows * u64::from(length) * 4;
        let [x, y] = [(); 2].map(|()| space.alloc(bytes, 0, Poison::Nan).unwrap());
        let values: Vec<u8> = (0..bytes / 4).flat_map(|i| ((i % 97) as f32 * 0.125).to_le_bytes()).collect();
        space.write(x, &values).unwrap();
        let mut params = [x, y, rows].map(u64::to_le_bytes).concat();
        params.extend(length.to_le_bytes());
        params.extend(1f32.to_le_bytes());
        let ctas = if name == "warp_rows" { rows.div_ceil(u64::from(threads) / 32) } else { rows };
        let rates = [Checks::ALL, Checks::NONE].map(|checks| {
            best_rate(&Launch {
                kernel: kernel.clone(),
                grid: [ctas as u32, 1, 1],
                block: [threads, 1, 1],
                cluster: [1; 3],
                dynamic_shared: 0,
                params: params.clone(),
                globals: Arc::new([]),
                memory: space.snapshot(),
                settings: Settings { checks, ..Settings::default() },
                limits: Limits::default(),
            })
        });
        let [all, none] = rates;
        println!(
            "{name} {rows} x {length}: {:.2} G lane-inst/s with all checks, {:.2} with none, ratio {:.2}",
            all / 1e9,
            none / 1e9,
            none / all
        );
        assert!(all > 0.4e9 / 1.5, "{name}: {all:.2e} lane instructions per second with all checks");
        assert!(none / all < 1.6 * 1.25, "{name}: all checks cost {:.2}x", none / all);
    }
}
