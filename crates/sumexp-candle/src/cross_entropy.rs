//! Cross-entropy, from logits.

use crate::memory::{Input, Operand, Output, Place, Side, with_float};
use crate::op::{Custom, Op};
use crate::reduction::{Reduction, optional};
use candle_core::shape::Dim;
use candle_core::{DType, Error, Result, Shape, Tensor};
use std::sync::{Arc, OnceLock};

/// Options of [`cross_entropy`], as [`sumexp::CrossEntropy`].
#[derive(Clone, Debug)]
pub struct CrossEntropy {
    /// Rows with this target do not count. `Some(-100)` by default. Targets that are probabilities all count.
    pub ignore_index: Option<i64>,
    /// What a class counts: f32, shape `[classes]`. A mean divides by the weights of the targets that count. 1 if not given.
    pub class_weights: Option<Tensor>,
    /// `z_loss * lse^2` is added to the loss of every row that counts; finite, at least 0. 0 by default.
    pub z_loss: f32,
    /// So much of every target is spread evenly over all classes: from 0 to 1, 0 by default.
    pub label_smoothing: f32,
    /// Whether [`CrossEntropyOutput::statistics`] are asked for. Targets must be classes then. Not by default.
    pub statistics: bool,
    /// Logits are divided by it; finite and above 0. 1 by default.
    pub temperature: f32,
    /// What becomes of the losses; their mean by default.
    pub reduction: Reduction,
}

impl Default for CrossEntropy {
    fn default() -> Self {
        Self {
            ignore_index: Some(-100),
            class_weights: None,
            z_loss: 0.0,
            label_smoothing: 0.0,
            statistics: false,
            temperature: 1.0,
            reduction: Reduction::Mean,
        }
    }
}

/// What a loss is measured against. A tensor by itself is taken for classes.
#[derive(Clone, Debug)]
pub enum Targets {
    /// The class of every row: i64, i32 or u32 of the shape of the logits without the class dim.
    Classes(Tensor),
    /// A probability for every class: f16, bf16 or f32 of the shape of the logits.
    Probabilities(Tensor),
}

impl From<&Tensor> for Targets {
    fn from(classes: &Tensor) -> Self {
        Self::Classes(classes.clone())
    }
}

/// What [`cross_entropy`] returns. Gradients go through the loss alone.
#[derive(Clone, Debug)]
pub struct CrossEntropyOutput {
    /// f32: one number of shape `[]`, or for [`Reduction::None`] one per row.
    pub loss: Tensor,
    /// f32, one per row: `ln(sum(exp(x / temperature)))` of rows that count, 0 of the others.
    pub lse: Tensor,
    /// i64 of shape `[]`: how many rows count.
    pub count: Tensor,
    /// What is known of every row beside its loss, if [`CrossEntropy::statistics`] asks for it.
    pub statistics: Option<TokenStatistics>,
}

/// One number per row of each, as [`sumexp::TokenStatistics`].
#[derive(Clone, Debug)]
pub struct TokenStatistics {
    /// f32: `-ln(p[target])`.
    pub nll: Tensor,
    /// f32, in nats.
    pub entropy: Tensor,
    /// i64: the largest logit.
    pub argmax: Tensor,
    /// u8: 1 where the target is that one, else 0.
    pub correct: Tensor,
    /// i64: how many classes are ahead of the target.
    pub rank: Tensor,
}

/// Cross-entropy of logits along `dim`, as [`sumexp::cross_entropy`]. Probabilities are never written.
///
/// `logits` are f16, bf16 or f32 of any shape and strides. The gradient goes to the logits alone: targets and weights are taken as
/// constants.
///
/// # Errors
/// Those of [`sumexp::cross_entropy`]; another type of an operand; operands on several devices. On a GPU a target that is no class
/// makes its loss NaN, and is an error of [`check`](crate::check).
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use sumexp_candle::{CrossEntropy, cross_entropy};
/// let logits = Var::zeros((2, 4), candle_core::DType::F32, &Device::Cpu)?;
/// let targets = Tensor::new(&[3u32, 0], &Device::Cpu)?;
/// let output = cross_entropy(&logits, 1, &targets, &CrossEntropy::default())?;
/// assert_eq!(output.loss.to_scalar::<f32>()?, 4f32.ln());
/// let gradients = output.loss.backward()?;
/// assert_eq!(gradients.get(&logits).unwrap().to_vec2::<f32>()?[0], [0.125, 0.125, 0.125, -0.375]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn cross_entropy(
    logits: &Tensor,
    dim: impl Dim,
    targets: impl Into<Targets>,
    options: &CrossEntropy,
) -> Result<CrossEntropyOutput> {
    let call = Arc::new(Call {
        dim: dim.to_index(logits.shape(), "cross_entropy")?,
        targets: match targets.into() {
            Targets::Classes(classes) => Targets::Classes(classes.detach()),
            Targets::Probabilities(probabilities) => Targets::Probabilities(probabilities.detach()),
        },
        options: CrossEntropy {
            class_weights: options.class_weights.as_ref().map(Tensor::detach),
            reduction: options.reduction.detached(),
            ..options.clone()
        },
        beside: OnceLock::new(),
    });
    let loss = logits.apply_op1(Custom(Forward(call.clone())))?;
    let Some(Beside { lse, count, statistics, .. }) = call.beside.get() else {
        candle_core::bail!("cross_entropy: candle did not run the operation");
    };
    Ok(CrossEntropyOutput { loss, lse: lse.clone(), count: count.clone(), statistics: statistics.clone() })
}

/// A call of cross-entropy: what it takes beside the logits, and what it gives beside the loss.
struct Call {
    dim: usize,
    targets: Targets,
    options: CrossEntropy,
    beside: OnceLock<Beside>,
}

struct Beside {
    lse: Tensor,
    count: Tensor,
    saved: Tensor,
    statistics: Option<TokenStatistics>,
}

impl Call {
    /// Runs a call with targets and options as sumexp takes them.
    fn with<P: Place, R>(
        &self,
        op: &'static str,
        place: &P,
        call: impl FnOnce(sumexp::Targets, &sumexp::CrossEntropy) -> Result<R>,
    ) -> Result<R> {
        let weights = Side::optional("class_weights", self.options.class_weights.as_ref());
        let divisor = self.options.reduction.side();
        let weights = optional::<f32, P>(op, place, &weights)?;
        let divisor = optional::<f32, P>(op, place, &divisor)?;
        let options = sumexp::CrossEntropy {
            ignore_index: self.options.ignore_index,
            class_weights: weights.as_ref().map(|input| input.view),
            z_loss: self.options.z_loss,
            label_smoothing: self.options.label_smoothing,
            statistics: self.options.statistics,
            temperature: self.options.temperature,
            reduction: self.options.reduction.of(divisor.as_ref()),
        };
        match &self.targets {
            Targets::Classes(classes) => {
                let side = Side::new("targets", classes);
                match side.dtype() {
                    DType::I64 => call(side.view::<i64, P>(op, place)?.view.into(), &options),
                    DType::I32 => call(side.view::<i32, P>(op, place)?.view.into(), &options),
                    DType::U32 => call(side.view::<u32, P>(op, place)?.view.into(), &options),
                    other => Err(Error::UnsupportedDTypeForOp(other, "classes of cross_entropy").bt()),
                }
            }
            Targets::Probabilities(probabilities) => {
                let side = Side::new("targets", probabilities);
                with_float!("probabilities of cross_entropy", side.dtype(), T => {
                    let targets: Input<T, P> = side.view(op, place)?;
                    call(sumexp::Targets::probabilities(targets.view), &options)
                })
            }
        }
    }
}

struct Forward(Arc<Call>);

impl Op<1> for Forward {
    const NAME: &'static str = "cross_entropy";

    fn forward<P: Place>(&self, place: &P, [x]: [Operand<'_, P>; 1]) -> Result<(P::Memory, Shape)> {
        let Call { dim, options, .. } = &*self.0;
        let mut rows = x.dims().to_vec();
        rows.remove(*dim);
        let count = rows.iter().product();
        let mut loss = Output::<P, f32>::new(place, &options.reduction.dims(&rows))?;
        let mut lse = Output::<P, f32>::new(place, &rows)?;
        let mut counted = Output::<P, i64>::new(place, &[])?;
        let mut saved = Output::<P, f32>::new(place, &[sumexp::CrossEntropySaved::elements(count)])?;
        let mut statistics = match options.statistics {
            true => Some(Statistics::new(place, &rows)?),
            false => None,
        };
        self.0.with(Self::NAME, place, |targets, options| {
            let outputs = sumexp::CrossEntropyInto {
                loss: loss.view_mut(place)?,
                lse: lse.view_mut(place)?,
                count: counted.view_mut(place)?,
                saved: saved.view_mut(place)?,
                statistics: statistics.as_mut().map(|statistics| statistics.views(place)).transpose()?,
            };
            with_float!(Self::NAME, x.dtype(), T => {
                let x = x.view::<T>(place)?;
                sumexp::cross_entropy_into(x.view, sumexp::Dim::front(*dim), targets, options, outputs).map_err(Error::wrap)
            })
        })?;
        let beside = Beside {
            lse: lse.tensor(place),
            count: counted.tensor(place),
            saved: saved.tensor(place),
            statistics: statistics.map(|statistics| statistics.finish(place)),
        };
        // A call runs once.
        let _ = self.0.beside.set(beside);
        Ok(loss.finish(place))
    }

    fn backward(&self, [x]: [&Tensor; 1], _: &Tensor, upstream: &Tensor) -> Result<[Option<Tensor>; 1]> {
        let Some(beside) = self.0.beside.get() else {
            candle_core::bail!("cross_entropy: the gradient comes before the loss");
        };
        Ok([Some(x.apply_op3_no_bwd(&beside.saved, upstream, &Custom(Backward(self.0.clone())))?)])
    }
}

/// From the logits, what forward saved, and the gradient of the loss.
struct Backward(Arc<Call>);

impl Op<3> for Backward {
    const NAME: &'static str = "cross_entropy_backward";

    fn forward<P: Place>(&self, place: &P, inputs: [Operand<'_, P>; 3]) -> Result<(P::Memory, Shape)> {
        let [x, saved, upstream] = inputs;
        let dim = sumexp::Dim::front(self.0.dim);
        let (saved, upstream) = (saved.view::<f32>(place)?, upstream.view::<f32>(place)?);
        self.0.with(Self::NAME, place, |targets, options| {
            with_float!(Self::NAME, x.dtype(), T => {
                let mut dx = Output::<P, T>::new(place, x.dims())?;
                let x = x.view::<T>(place)?;
                sumexp::cross_entropy_backward_into(
                    x.view, dim, targets, saved.view, upstream.view, options, dx.view_mut(place)?,
                ).map_err(Error::wrap)?;
                Ok(dx.finish(place))
            })
        })
    }
}

/// Memory for the statistics of rows.
struct Statistics<P: Place> {
    nll: Output<P, f32>,
    entropy: Output<P, f32>,
    argmax: Output<P, i64>,
    correct: Output<P, u8>,
    rank: Output<P, i64>,
}

impl<P: Place> Statistics<P> {
    fn new(place: &P, rows: &[usize]) -> Result<Self> {
        Ok(Self {
            nll: Output::new(place, rows)?,
            entropy: Output::new(place, rows)?,
            argmax: Output::new(place, rows)?,
            correct: Output::new(place, rows)?,
            rank: Output::new(place, rows)?,
        })
    }

    fn views<'a>(&'a mut self, place: &'a P) -> Result<sumexp::TokenStatisticsInto<'a>> {
        Ok(sumexp::TokenStatisticsInto {
            nll: self.nll.view_mut(place)?,
            entropy: self.entropy.view_mut(place)?,
            argmax: self.argmax.view_mut(place)?,
            correct: self.correct.view_mut(place)?,
            rank: self.rank.view_mut(place)?,
        })
    }

    fn finish(self, place: &P) -> TokenStatistics {
        TokenStatistics {
            nll: self.nll.tensor(place),
            entropy: self.entropy.tensor(place),
            argmax: self.argmax.tensor(place),
            correct: self.correct.tensor(place),
            rank: self.rank.tensor(place),
        }
    }
}
