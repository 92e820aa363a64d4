//! The command `sumexp`: devices, verification, timing and plans from a shell.

mod arguments;
mod bench;
mod devices;
mod explain;
mod problem;
mod verify;

use arguments::{Arguments, Call, Command, Type};
use clap::Parser;
use problem::Failure;
use std::io::Write;
use std::process::ExitCode;
use sumexp::{bf16, f16};

fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    let mut out = std::io::stdout().lock();
    let done = run(&command, &mut out);
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("sumexp: {failure}");
            // As clap does: 2 is a command that nobody can carry out.
            ExitCode::from(if matches!(failure, Failure::Usage(_)) { 2 } else { 1 })
        }
    }
}

/// Calls a function of an element type with the one that was asked for.
macro_rules! with_type {
    ($call:expr, $command:ident::run $(, $argument:expr)*) => {
        match $call.dtype {
            Type::F16 => $command::run::<f16>($call $(, $argument)*),
            Type::Bf16 => $command::run::<bf16>($call $(, $argument)*),
            Type::F32 => $command::run::<f32>($call $(, $argument)*),
        }
    };
}

fn run(command: &Command, out: &mut impl Write) -> Result<(), Failure> {
    let device = |call: &Call| call.check().and_then(|()| Ok(call.device.open()?));
    match command {
        Command::Devices => devices::run(out),
        Command::Verify(call) => with_type!(call, verify::run, &device(call)?, out),
        Command::Bench { call, repeat } => with_type!(call, bench::run, *repeat, &device(call)?, out),
        Command::Explain(call) => with_type!(call, explain::run, &device(call)?, out),
    }
}
