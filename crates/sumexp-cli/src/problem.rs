//! An operation with its inputs on a device.

use crate::arguments::{Call, Operation};
use std::fmt;
use sumexp::attention::{self, Attention, AttentionGradients, AttentionOutput};
use sumexp::mask::Align;
use sumexp::{
    CrossEntropy, CrossEntropySaved, Device, Dim, Float, LogProbabilities, Mask, Probabilities, Reduction,
    SoftmaxOptions, Tensor, cross_entropy, cross_entropy_backward, log_softmax, log_softmax_backward, logsumexp,
    logsumexp_backward, softmax, softmax_backward,
};

/// What went wrong, as one sentence.
#[derive(Debug)]
pub enum Failure {
    /// The arguments do not fit together.
    Usage(String),
    /// sumexp refused, or its device failed.
    Operation(sumexp::Error),
    /// The numbers are worse than promised.
    Wrong(String),
}

impl From<sumexp::Error> for Failure {
    fn from(error: sumexp::Error) -> Self {
        Self::Operation(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::Wrong(text) => f.write_str(text),
            Self::Operation(error) => error.fmt(f),
        }
    }
}

/// What an operation gave. Of everything that it returns: for what is timed, the values may stay where they are.
pub enum Results<T: Float> {
    Elements(Vec<(&'static str, Tensor<T>)>),
    PerRow(&'static str, Tensor<f32>),
    /// Attention.
    Both(AttentionOutput<T>),
}

/// The rows of a reduced dim: `len` elements, `inner` apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    pub outer: usize,
    pub len: usize,
    pub inner: usize,
}

impl Rows {
    /// Where the elements of each row lie in a contiguous tensor.
    pub fn places(self) -> impl Iterator<Item = Vec<usize>> {
        let starts = (0..self.outer).flat_map(move |o| (0..self.inner).map(move |i| o * self.len * self.inner + i));
        starts.map(move |start| (0..self.len).map(|k| start + k * self.inner).collect())
    }
}

/// Lengths of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub batch: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub queries: usize,
    pub keys: usize,
    pub head: usize,
}

/// What an operation reads.
pub enum Inputs<T: Float> {
    Logits(Tensor<T>),
    Probabilities(Probabilities<T>, Tensor<T>),
    LogProbabilities(LogProbabilities<T>, Tensor<T>),
    LogitsAndRows(Tensor<T>, Tensor<f32>),
    Classes { logits: Tensor<T>, targets: Tensor<i64>, saved: Option<Box<(CrossEntropySaved, Tensor<f32>)>> },
    Attention { qkv: Box<[Tensor<T>; 3]>, upstream: Option<Box<(AttentionOutput<T>, Tensor<T>)>> },
}

/// An operation, ready to run as often as wanted.
pub struct Problem<T: Float> {
    pub call: Call,
    pub rows: Rows,
    pub inputs: Inputs<T>,
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0, exclusive, to 1.
    fn part(&mut self) -> f64 {
        ((self.bits() >> 11) as f64 + 1.0) / (1u64 << 53) as f64
    }

    /// By Box and Muller.
    fn normal(&mut self) -> f64 {
        (-2.0 * self.part().ln()).sqrt() * (std::f64::consts::TAU * self.part()).cos()
    }
}

/// Normal numbers. Beyond a million they repeat, since drawing them would take longer than what they are for.
fn normal<T: Float>(device: &Device, dims: &[usize], random: &mut Random) -> Result<Tensor<T>, Failure> {
    let count = elements(dims)?;
    let block: Vec<T> = (0..count.min(1 << 20)).map(|_| T::from_f64(random.normal())).collect();
    let values: Vec<T> = block.iter().copied().cycle().take(count).collect();
    Ok(Tensor::from_slice(device, dims, &values)?)
}

/// The number of elements of a shape.
pub fn elements(dims: &[usize]) -> Result<usize, Failure> {
    let product = dims.iter().try_fold(1usize, |product, len| product.checked_mul(*len));
    product
        .filter(|count| *count <= isize::MAX as usize / 8)
        .ok_or_else(|| Failure::Usage(format!("{dims:?} has more elements than any memory holds")))
}

impl Call {
    /// The reduced dim and its rows.
    pub fn rows(&self) -> Result<(Dim, Rows), Failure> {
        let dims = &self.shape.0;
        let rank = dims.len() as isize;
        let front = if self.dim < 0 { self.dim + rank } else { self.dim };
        if !(0..rank).contains(&front) {
            let why = format!("--dim {} is no dim of {dims:?}: want {} to {}", self.dim, -rank, rank - 1);
            return Err(Failure::Usage(why));
        }
        let at = front as usize;
        elements(dims)?;
        let rows = Rows { outer: dims[..at].iter().product(), len: dims[at], inner: dims[at + 1..].iter().product() };
        Ok((Dim::front(at), rows))
    }

    /// The lengths of an attention.
    pub fn sizes(&self) -> Result<Sizes, Failure> {
        let [batch, heads, queries, head] = self.shape.0[..] else {
            let dims = &self.shape.0;
            let why = format!(
                "attention takes BATCHxHEADSxQUERIESxHEAD, as in 2x16x4096x128; {dims:?} has {} dims",
                dims.len()
            );
            return Err(Failure::Usage(why));
        };
        let (kv_heads, keys) = (self.kv_heads.unwrap_or(heads), self.keys.unwrap_or(queries));
        Ok(Sizes { batch, heads, kv_heads, queries, keys, head })
    }

    /// The options of an attention.
    pub fn attention(&self) -> Attention<'static> {
        let mask = if self.causal { Mask::Causal(Align::BottomRight) } else { Mask::None };
        Attention { mask, ..Attention::default() }
    }

    fn softmax(&self) -> SoftmaxOptions<'static> {
        SoftmaxOptions { temperature: self.temperature, ..SoftmaxOptions::default() }
    }

    fn cross_entropy(&self) -> CrossEntropy<'static> {
        CrossEntropy { temperature: self.temperature, reduction: Reduction::None, ..CrossEntropy::default() }
    }

    /// Options that mean nothing to the operation are refused: who gave them expects something of them.
    pub fn check(&self) -> Result<(), Failure> {
        let given = [
            ("--kv-heads", self.kv_heads.is_some(), true),
            ("--keys", self.keys.is_some(), true),
            ("--causal", self.causal, true),
            ("--dim", self.dim != -1, false),
            ("--temperature", self.temperature != 1.0, false),
        ];
        match given.iter().find(|(_, given, of_attention)| *given && *of_attention != self.operation.is_attention()) {
            None => Ok(()),
            Some((option, ..)) => Err(Failure::Usage(format!("{option} is no option of {}", self.operation.name()))),
        }
    }
}

impl<T: Float> Problem<T> {
    pub fn new(call: &Call, device: &Device) -> Result<Self, Failure> {
        call.check()?;
        let mut random = Random(call.seed);
        let dims = &call.shape.0[..];
        if call.operation.is_attention() {
            let sizes = call.sizes()?;
            let of_keys = [sizes.batch, sizes.kv_heads, sizes.keys, sizes.head];
            let qkv = Box::new([
                normal(device, dims, &mut random)?,
                normal(device, &of_keys, &mut random)?,
                normal(device, &of_keys, &mut random)?,
            ]);
            let upstream = match call.operation {
                Operation::AttentionBackward => {
                    let [q, k, v] = &*qkv;
                    let output = attention::forward(q, k, v, &call.attention())?;
                    Some(Box::new((output, normal(device, dims, &mut random)?)))
                }
                _ => None,
            };
            let rows = Rows { outer: 0, len: 0, inner: 0 };
            let inputs = Inputs::Attention { qkv, upstream };
            return Ok(Self { call: call.clone(), rows, inputs });
        }
        let (dim, rows) = call.rows()?;
        let options = call.softmax();
        let logits = normal(device, dims, &mut random)?;
        let mut upstream = || normal(device, dims, &mut random);
        let per_row: Vec<usize> =
            dims.iter().enumerate().filter(|(k, _)| dim != Dim::front(*k)).map(|(_, len)| *len).collect();
        let inputs = match call.operation {
            Operation::SoftmaxBackward => Inputs::Probabilities(softmax(&logits, dim, &options)?, upstream()?),
            Operation::LogSoftmaxBackward => {
                Inputs::LogProbabilities(log_softmax(&logits, dim, &options)?, upstream()?)
            }
            Operation::LogsumexpBackward => Inputs::LogitsAndRows(logits, normal(device, &per_row, &mut random)?),
            Operation::CrossEntropy | Operation::CrossEntropyBackward => {
                let classes = rows.len.max(1) as u64;
                let targets: Vec<i64> = (0..elements(&per_row)?).map(|_| (random.bits() % classes) as i64).collect();
                let targets = Tensor::from_slice(device, &per_row, &targets)?;
                let saved = match call.operation {
                    Operation::CrossEntropyBackward => {
                        let output = cross_entropy(&logits, dim, &targets, &call.cross_entropy())?;
                        Some(Box::new((output.saved, normal(device, &per_row, &mut random)?)))
                    }
                    _ => None,
                };
                Inputs::Classes { logits, targets, saved }
            }
            _ => Inputs::Logits(logits),
        };
        Ok(Self { call: call.clone(), rows, inputs })
    }

    /// Enqueues the operation.
    pub fn run(&self) -> Result<Results<T>, Failure> {
        let call = &self.call;
        if let Inputs::Attention { qkv, upstream } = &self.inputs {
            let [q, k, v] = &**qkv;
            let options = call.attention();
            return Ok(match upstream.as_deref() {
                None => Results::Both(attention::forward(q, k, v, &options)?),
                Some((output, dout)) => {
                    let AttentionGradients { dq, dk, dv, .. } = attention::backward(q, k, v, output, dout, &options)?;
                    Results::Elements(vec![("dq", dq), ("dk", dk), ("dv", dv)])
                }
            });
        }
        let ((dim, _), options) = (call.rows()?, call.softmax());
        let of = |name, tensor| Results::Elements(vec![(name, tensor)]);
        Ok(match (&self.inputs, call.operation) {
            (Inputs::Logits(x), Operation::Softmax) => of("y", softmax(x, dim, &options)?.into_tensor()),
            (Inputs::Logits(x), Operation::LogSoftmax) => of("y", log_softmax(x, dim, &options)?.into_tensor()),
            (Inputs::Logits(x), _) => Results::PerRow("lse", logsumexp(x, dim, &options)?.into_tensor()),
            (Inputs::Probabilities(y, dy), _) => of("dx", softmax_backward(y, dy, dim, &options)?),
            (Inputs::LogProbabilities(y, dy), _) => of("dx", log_softmax_backward(y, dy, dim, &options)?),
            (Inputs::LogitsAndRows(x, dlse), _) => of("dx", logsumexp_backward(x, dlse, dim, &options)?),
            (Inputs::Classes { logits, targets, saved }, _) => match saved.as_deref() {
                None => Results::PerRow("loss", cross_entropy(logits, dim, targets, &call.cross_entropy())?.loss),
                Some((saved, dloss)) => {
                    of("dlogits", cross_entropy_backward(logits, dim, targets, saved, dloss, &call.cross_entropy())?)
                }
            },
            (Inputs::Attention { .. }, _) => unreachable!("returned above"),
        })
    }
}
