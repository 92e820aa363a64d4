//! What the software GPU is given to run: PTX and containers of it. `crates/softgpu` runs broken programs too; here they
//! are only read.

use crate::engine::{gist, outcome};
use softgpu::ir::Kernel;
use softgpu::module::image::{Capability, choose, measure};
use softgpu::ptx::parse;

/// The text as it is, and every kernel in it made ready to run.
pub fn ptx(input: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(input);
    let module = match parse(&text) {
        Ok(module) => module,
        Err(error) => return outcome(gist(&error.to_string())),
    };
    let kernels = module.functions.iter().filter(|function| function.entry);
    let lowered = kernels.map(|function| match Kernel::lower(&module, &function.name, true) {
        Ok(kernel) => format!("{} statements", function.statements.len().min(9) + kernel.lines().len().min(1)),
        Err(error) => gist(&error.to_string()),
    });
    outcome(lowered.collect::<Vec<_>>())
}

/// An image of any kind, for two devices. Its length is found as a driver finds it: byte by byte, never past the end.
pub fn fatbin(input: &[u8]) -> u64 {
    let mut furthest = 0;
    let measured = measure(|at| {
        furthest = furthest.max(at);
        // A driver that reads past the end meets whatever is there.
        input.get(at).copied().unwrap_or(0)
    });
    assert!(furthest <= input.len().max(16), "byte {furthest} of {} was read", input.len());
    let devices = [Capability { major: 8, minor: 0 }, Capability { major: 9, minor: 0 }];
    let chosen = devices.map(|device| match choose(input, device) {
        Ok(chosen) => format!("{} {}", gist(&chosen.origin), parse(&chosen.ptx).is_ok()),
        Err(error) => gist(&error.to_string()),
    });
    outcome((chosen, measured.is_ok_and(|bytes| bytes <= input.len())))
}
