//! `sumexp devices`.

use crate::bench::copy_bandwidth;
use crate::problem::Failure;
use std::io::Write;
use sumexp::{Device, Error};

/// Prints a line for the host and one for each GPU.
pub fn run(out: &mut impl Write) -> Result<(), Failure> {
    let io = |error: std::io::Error| Failure::Usage(format!("cannot print: {error}"));
    let cpu = Device::cpu();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let copy = copy_bandwidth(&cpu)? / 1e9;
    writeln!(out, "cpu     float64 reference on {cores} cores; one of them copies {copy:.1} GB/s").map_err(io)?;
    for ordinal in 0.. {
        match Device::cuda(ordinal) {
            Ok(device) => {
                let caps = device.capabilities().expect("a GPU has capabilities");
                let ((major, minor), copy) = (caps.compute_capability, copy_bandwidth(&device)? / 1e9);
                writeln!(
                    out,
                    "cuda:{ordinal}  {}: compute capability {major}.{minor}, {} multiprocessors, {} KB of shared memory each, \
                     {:.1} MB of L2; copies {copy:.1} GB/s",
                    device.description(),
                    caps.sm_count,
                    caps.shared_per_sm / 1024,
                    caps.l2_bytes as f64 / 1e6,
                )
                .map_err(io)?;
            }
            // The number behind the last one.
            Err(Error::NoSuchDevice { .. }) if ordinal > 0 => break,
            Err(why) => {
                writeln!(out, "cuda:{ordinal}  not there: {why}").map_err(io)?;
                // One GPU that is too old does not hide the next.
                if !matches!(why, Error::Capability { .. }) {
                    break;
                }
            }
        }
    }
    Ok(())
}
