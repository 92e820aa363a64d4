//! How fast kernels run here: `cargo run -p softgpu --example rate`.
//!
//! Prints lane instructions per second of processor time on one core, with all checks and with none.

use softgpu::ir::Kernel;
use softgpu::launch::{Checks, Launch, Limits, Settings, run};
use softgpu::mem::{Poison, Space};
use softgpu::ptx::parse;
use std::sync::Arc;

const SOFTMAX: &str = include_str!("../tests/ptx/softmax_sm80.ptx");

fn processor_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec that lives through the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn main() {
    let module = parse(SOFTMAX).unwrap_or_else(|error| panic!("{error:?}"));
    println!(
        "{:<12} {:>6} {:>8} {:>8}  {:>12} {:>14} {:>14}",
        "kernel", "rows", "length", "checks", "ms", "G lane-inst/s", "ns/warp-inst"
    );
    for (name, rows, length, threads) in
        [("warp_rows", 256u64, 256u32, 128u32), ("warp_rows", 64, 1000, 128), ("block_rows", 16, 8192, 256)]
    {
        let kernel = Arc::new(Kernel::lower(&module, name, true).unwrap_or_else(|error| panic!("{error}")));
        for (label, checks) in [("all", Checks::ALL), ("none", Checks::NONE)] {
            let space = Space::new();
            let bytes = rows * u64::from(length) * 4;
            let buffer = || space.alloc(bytes, 0, Poison::Nan).unwrap_or_else(|error| panic!("{error}"));
            let (x, y) = (buffer(), buffer());
            let values: Vec<u8> = (0..bytes / 4).flat_map(|i| ((i % 97) as f32 * 0.125).to_le_bytes()).collect();
            space.write(x, &values).unwrap_or_else(|error| panic!("{error}"));
            let mut params = Vec::new();
            params.extend(x.to_le_bytes());
            params.extend(y.to_le_bytes());
            params.extend(rows.to_le_bytes());
            params.extend(length.to_le_bytes());
            params.extend(1f32.to_le_bytes());
            let ctas = if name == "warp_rows" { rows.div_ceil(u64::from(threads) / 32) } else { rows };
            let launch = Launch {
                kernel: kernel.clone(),
                grid: [ctas as u32, 1, 1],
                block: [threads, 1, 1],
                cluster: [1; 3],
                dynamic_shared: 0,
                params,
                globals: Arc::new([]),
                memory: space.snapshot(),
                settings: Settings { checks, ..Settings::default() },
                limits: Limits::default(),
            };
            let (mut best, mut counters) = (f64::MAX, None);
            for _ in 0..7 {
                let from = processor_seconds();
                let outcome = run(&launch);
                best = best.min(processor_seconds() - from);
                assert!(outcome.fault.is_none(), "{:?}", outcome.fault);
                counters = Some(outcome.counters);
            }
            let Some(counters) = counters else { continue };
            println!(
                "{name:<12} {rows:>6} {length:>8} {label:>8}  {:>12.2} {:>14.2} {:>14.1}",
                best * 1e3,
                counters.thread_instructions as f64 / best / 1e9,
                best * 1e9 / counters.warp_instructions as f64
            );
        }
    }
}
