//! The command line.

use candle_core::Device;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

const USAGE: &str = "\
usage: train_gpt [--text FILE] [--steps N] [--seed N] [--device auto|cpu|cuda|cuda:N] [--save FILE] [--load FILE] [--out FOLDER]
  --text    a UTF-8 text to learn (default: assets/alice29.txt)
  --steps   training steps (default: 600)
  --seed    the same seed gives the same run on the same machine (default: 1)
  --device  where everything is computed (default: a GPU if there is one, else the CPU)
  --save    a safetensors file that is written again and again while training
  --load    such a file: training goes on where it was written, and ends as if it had never stopped
  --out     where loss.svg and attention.svg go (default: target/demo)";

pub struct Arguments {
    pub text: PathBuf,
    pub steps: Option<usize>,
    pub seed: Option<u64>,
    pub device: Choice,
    pub save: Option<PathBuf>,
    pub load: Option<PathBuf>,
    pub out: PathBuf,
}

/// Which device was asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Choice {
    Auto,
    Cpu,
    Cuda(usize),
}

impl Choice {
    /// Opens the device. Where a GPU cannot be opened it is the CPU, and says why.
    pub fn open(self) -> Device {
        let ordinal = match self {
            Choice::Cpu => return Device::Cpu,
            Choice::Auto => 0,
            Choice::Cuda(ordinal) => ordinal,
        };
        gpu(ordinal).unwrap_or_else(|why| {
            eprintln!("GPU {ordinal} is not used, the CPU is: {why}");
            Device::Cpu
        })
    }
}

#[cfg(feature = "cuda")]
fn gpu(ordinal: usize) -> Result<Device, String> {
    Device::new_cuda_with_stream(ordinal).map_err(|error| error.to_string())
}

#[cfg(not(feature = "cuda"))]
fn gpu(_: usize) -> Result<Device, String> {
    Err("this program is built without candle's CUDA (make demo FEATURES=cuda)".to_string())
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
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("two folders up").to_path_buf();
        let mut arguments = Arguments {
            text: root.join("assets/alice29.txt"),
            steps: None,
            seed: None,
            device: Choice::Auto,
            save: None,
            load: None,
            out: root.join("target/demo"),
        };
        while let Some(name) = given.next() {
            if name == "--help" || name == "-h" {
                println!("{USAGE}");
                std::process::exit(0);
            }
            if !["--text", "--steps", "--seed", "--device", "--save", "--load", "--out"].contains(&name.as_str()) {
                return Err(format!("unknown argument {name}\n{USAGE}"));
            }
            let value = given.next().ok_or_else(|| format!("{name} needs a value\n{USAGE}"))?;
            match name.as_str() {
                "--text" => arguments.text = value.into(),
                "--out" => arguments.out = value.into(),
                "--save" => arguments.save = Some(value.into()),
                "--load" => arguments.load = Some(value.into()),
                "--steps" => arguments.steps = Some(parse(&name, &value)?),
                "--seed" => arguments.seed = Some(parse(&name, &value)?),
                _ => arguments.device = parse(&name, &value)?,
            }
        }
        if arguments.steps == Some(0) {
            return Err("--steps 0: at least one step is needed".to_string());
        }
        if arguments.load.is_some() && arguments.seed.is_some() {
            return Err("--seed with --load: a run goes on with the seed that it began with".to_string());
        }
        Ok(arguments)
    }
}

fn parse<T: FromStr<Err: fmt::Display>>(name: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|error| format!("{name} {value}: {error}"))
}
