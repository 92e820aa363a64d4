//! The command line.

use clap::builder::PossibleValue;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::str::FromStr;
use sumexp::Device;

const ABOUT: &str = "Softmax, cross-entropy and attention on a GPU: are they right here, how fast are they, what runs?";

const EXAMPLES: &str = "\
Examples:
  sumexp devices
  sumexp verify softmax 4096x32000 --dtype bf16
  sumexp verify cross-entropy-backward 512x50257
  sumexp verify attention 2x8x300x64 --kv-heads 2 --causal --dtype f16
  sumexp bench log-softmax 16384x4096 --dtype f16 --repeat 50
  sumexp bench attention 4x16x4096x128 --causal --dtype bf16
  sumexp explain attention 1x32x8192x128 --kv-heads 8 --causal --dtype bf16

Shapes are lengths with x between them. Every operation but attention takes any number of dims and reduces --dim; attention
takes BATCHxHEADSxQUERIESxHEAD. Inputs are random normal numbers, the same for the same --seed.";

#[derive(Parser)]
#[command(name = "sumexp", version, about = ABOUT, after_help = EXAMPLES, max_term_width = 110)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Lists the devices: what they are called, what they can do, how fast they copy
    Devices,
    /// Runs an operation and compares it with float64; exits with 1 if an error is above what is promised
    Verify(Call),
    /// Times an operation: median, quartiles, GB/s or TFLOP/s, percent of the device's own copy bandwidth
    Bench {
        #[command(flatten)]
        call: Call,
        /// Measurements; each runs the operation until a millisecond is over
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        repeat: u32,
    },
    /// Says which kernels an operation launches for a shape, and why; nothing runs, and no GPU is needed
    Explain(Call),
}

/// One operation at one shape.
#[derive(Args, Clone)]
pub struct Call {
    /// The operation
    #[arg(value_name = "OP")]
    pub operation: Operation,
    /// Lengths of the dims, as in 4096x32000
    #[arg(value_name = "SHAPE")]
    pub shape: Lengths,
    /// Element type of the operands; sums are f32, losses and lse too
    #[arg(long, default_value = "f32", value_name = "TYPE")]
    pub dtype: Type,
    /// Where it runs: cpu, cuda (GPU 0), cuda:N, or auto for a GPU if there is one
    #[arg(long, default_value = "auto")]
    pub device: Place,
    /// The dim that is reduced, -1 for the last; not for attention
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    pub dim: isize,
    /// What logits are divided by; not for attention
    #[arg(long, default_value_t = 1.0)]
    pub temperature: f32,
    /// Attention: heads of keys and values, which divide the heads of queries [default: as many]
    #[arg(long, value_name = "N")]
    pub kv_heads: Option<usize>,
    /// Attention: length of keys and values [default: as many as queries]
    #[arg(long, value_name = "N")]
    pub keys: Option<usize>,
    /// Attention: queries see no later keys; the last query stands at the last key
    #[arg(long)]
    pub causal: bool,
    /// Another seed, other inputs
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Operation {
    /// probabilities
    Softmax,
    /// their gradient
    SoftmaxBackward,
    /// log-probabilities
    LogSoftmax,
    /// their gradient
    LogSoftmaxBackward,
    /// ln(sum(exp(x)))
    Logsumexp,
    /// its gradient
    LogsumexpBackward,
    /// loss of every row, classes drawn at random
    CrossEntropy,
    /// its gradient
    CrossEntropyBackward,
    /// scaled dot-product attention: out and lse
    Attention,
    /// its gradients of q, k and v
    AttentionBackward,
}

impl Operation {
    pub fn is_attention(self) -> bool {
        matches!(self, Self::Attention | Self::AttentionBackward)
    }

    pub fn name(self) -> String {
        self.to_possible_value().as_ref().map(PossibleValue::get_name).unwrap_or_default().to_string()
    }
}

/// An element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Type {
    F16,
    Bf16,
    F32,
}

/// The lengths of a shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lengths(pub Vec<usize>);

impl FromStr for Lengths {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let length = |part: &str| {
            part.parse()
                .map_err(|_| format!("\"{part}\" is no length; a shape is lengths with x between them: 4096x32000"))
        };
        text.split('x').map(length).collect::<Result<_, _>>().map(Lengths)
    }
}

/// Where an operation runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Auto,
    Cpu,
    Cuda(usize),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "auto" => Ok(Self::Auto),
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", number)) => {
                number.parse().map(Self::Cuda).map_err(|_| format!("\"{number}\" is no number of a GPU"))
            }
            _ => Err("want auto, cpu, cuda or cuda:N".to_string()),
        }
    }
}

impl Place {
    /// The device. Where it is the host because there is no GPU, a line says so.
    pub fn open(self) -> sumexp::Result<Device> {
        match self {
            Self::Cpu => Ok(Device::cpu()),
            Self::Cuda(ordinal) => Device::cuda(ordinal),
            Self::Auto => Ok(Device::cuda(0).unwrap_or_else(|why| {
                eprintln!("on the CPU: {why}");
                Device::cpu()
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn shapes_and_places() {
        assert_eq!("4096x32000".parse(), Ok(Lengths(vec![4096, 32000])));
        assert_eq!("7".parse(), Ok(Lengths(vec![7])));
        for bad in ["", "x", "3x", "3xx4", "-1x2", "3,4", "1e3"] {
            assert!(bad.parse::<Lengths>().is_err(), "{bad}");
        }
        assert_eq!("cuda:3".parse(), Ok(Place::Cuda(3)));
        assert_eq!(["cuda", "cpu", "auto"].map(str::parse), [Ok(Place::Cuda(0)), Ok(Place::Cpu), Ok(Place::Auto)]);
        for bad in ["", "cuda:", "cuda:x", "cuda:-1", "gpu", "cpu:0"] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }
}
