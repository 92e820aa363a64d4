//! Broken programs: whatever the text says, lowering and running it end in an outcome, never in a panic.

mod common;

use std::sync::Arc;

use softgpu::ir::Kernel;
use softgpu::launch::{Launch, Limits, Settings, run};
use softgpu::mem::{Poison, Space};
use softgpu::ptx::parse;

const SOFTMAX: &str = include_str!("ptx/softmax_sm80.ptx");

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

/// Exchanges operands, registers, modifiers and numbers of single lines, so that much of it still parses.
fn mutate(text: &str, random: &mut Random) -> String {
    let mut lines: Vec<String> = text.lines().map(String::from).collect();
    for _ in 0..1 + random.below(3) {
        let at = random.below(lines.len());
        match random.below(6) {
            0 => lines[at] = String::new(),
            1 => {
                let other = lines[random.below(lines.len())].clone();
                lines[at] = other;
            }
            2 => {
                let other = random.below(lines.len());
                lines.swap(at, other);
            }
            3 => lines[at] = lines[at].replace("%r1", "%rd1").replace("u32", "s64"),
            4 => lines[at] = lines[at].replace(char::from(b'0' + random.below(10) as u8), "4294967295"),
            _ => {
                lines[at] = lines[at].replacen(
                    ['%', ',', '.', '['],
                    ["-", "_", "%p1", "0x8000000000000000"][random.below(4)],
                    1,
                );
            }
        }
    }
    lines.join("\n")
}

#[test]
fn mutated_kernels_end_in_an_outcome() {
    let mut random = Random(88_172_645_463_325_252);
    let (mut parsed, mut lowered, mut failed) = (0, 0, 0);
    for round in 0..1200u64 {
        let text = mutate(SOFTMAX, &mut random);
        let Ok(module) = parse(&text) else { continue };
        parsed += 1;
        for name in ["warp_rows", "block_rows"] {
            let Ok(kernel) = Kernel::lower(&module, name, round % 2 == 0) else { continue };
            lowered += 1;
            let space = Space::new();
            let x = space.alloc(64 * 4, 0, Poison::Nan).unwrap();
            space.write(x, &[0; 256]).unwrap();
            let mut params = Vec::new();
            params.extend(x.to_le_bytes());
            params.extend(x.to_le_bytes());
            params.extend(1u64.to_le_bytes());
            params.extend(64u32.to_le_bytes());
            params.extend(1f32.to_le_bytes());
            params.resize(kernel.param_bytes as usize, 0);
            let settings = Settings { seed: round % 3, step_limit: 20_000, ..Settings::default() };
            let launch = Launch {
                kernel: Arc::new(kernel),
                grid: [1; 3],
                block: [64, 1, 1],
                cluster: [1; 3],
                dynamic_shared: 0,
                params,
                globals: [].into(),
                memory: space.snapshot(),
                settings,
                limits: Limits::default(),
            };
            failed += usize::from(run(&launch).fault.is_some());
        }
    }
    // The mutations must reach every stage, or this test shows nothing.
    assert!(parsed > 500 && lowered > 500 && failed > 50, "{parsed} parsed, {lowered} lowered, {failed} failed");
}
