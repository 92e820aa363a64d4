//! The command line.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use sumexp::Device;

const USAGE: &str = "\
usage: train_characters [--text FILE] [--steps N] [--seed N] [--device auto|cpu|cuda|cuda:N] [--out FOLDER]
  --text    a UTF-8 text to learn (default: assets/alice29.txt)
  --steps   training steps (default: 3500)
  --seed    the same seed gives the same run (default: 1)
  --device  where the losses and probabilities are computed (default: a GPU if there is one, else the CPU)
  --out     where loss.svg goes (default: target/demo)";

pub struct Arguments {
    pub text: PathBuf,
    pub steps: usize,
    pub seed: u64,
    pub device: Choice,
    pub out: PathBuf,
}

/// Which device was asked for.
#[derive(Clone, Copy)]
pub enum Choice {
    Auto,
    Cpu,
    Cuda(usize),
}

impl Choice {
    /// Opens the device. `auto` takes the CPU when the first GPU cannot be opened, and says why.
    pub fn open(self) -> sumexp::Result<Device> {
        match self {
            Choice::Cpu => Ok(Device::cpu()),
            Choice::Cuda(ordinal) => Device::cuda(ordinal),
            Choice::Auto => Ok(Device::cuda(0).unwrap_or_else(|error| {
                eprintln!("no GPU is used: {error}");
                Device::cpu()
            })),
        }
    }
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Choice, String> {
        match text {
            "auto" => Ok(Choice::Auto),
            "cpu" => Ok(Choice::Cpu),
            "cuda" => Ok(Choice::Cuda(0)),
            _ => {
                let ordinal = text.strip_prefix("cuda:").and_then(|ordinal| ordinal.parse().ok());
                ordinal.map(Choice::Cuda).ok_or_else(|| format!("\"{text}\" is not one of auto, cpu, cuda, cuda:N"))
            }
        }
    }
}

impl Arguments {
    /// Reads the arguments behind the program's name; `--help` ends the program.
    pub fn parse(mut given: impl Iterator<Item = String>) -> Result<Arguments, String> {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let mut arguments = Arguments {
            text: root.join("assets/alice29.txt"),
            steps: 3500,
            seed: 1,
            device: Choice::Auto,
            out: root.join("target/demo"),
        };
        while let Some(name) = given.next() {
            if name == "--help" || name == "-h" {
                println!("{USAGE}");
                std::process::exit(0);
            }
            if !["--text", "--steps", "--seed", "--device", "--out"].contains(&name.as_str()) {
                return Err(format!("unknown argument {name}\n{USAGE}"));
            }
            let value = given.next().ok_or_else(|| format!("{name} needs a value\n{USAGE}"))?;
            match name.as_str() {
                "--text" => arguments.text = value.into(),
                "--out" => arguments.out = value.into(),
                "--steps" => arguments.steps = parse(&name, &value)?,
                "--seed" => arguments.seed = parse(&name, &value)?,
                _ => arguments.device = parse(&name, &value)?,
            }
        }
        if arguments.steps == 0 {
            return Err("--steps 0: at least one step is needed".to_string());
        }
        Ok(arguments)
    }
}

fn parse<T: FromStr<Err: fmt::Display>>(name: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|error| format!("{name} {value}: {error}"))
}
