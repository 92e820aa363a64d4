//! Every operation on a GPU against the same call on the host, which other tests hold against candle's own operations.

use crate::common::{Random, numbers};
use crate::world::{devices, world};
use candle_core::{DType, Device, Result, Tensor, Var};
use sumexp_candle::*;

/// What a call gave: values and gradients, by name.
type Results = Vec<(String, Vec<f64>)>;

/// A random call. Made from one number on the host and on a GPU, it is the same call.
struct Draw<'d> {
    random: Random,
    device: &'d Device,
    results: Results,
}

/// A variable, and a tensor that is made of it without a copy.
struct Operand {
    var: Var,
    tensor: Tensor,
}

impl Draw<'_> {
    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.random.below(choices.len())]
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> Result<T>) -> Result<Option<T>> {
        if self.random.one_in(2) { make(self).map(Some) } else { Ok(None) }
    }

    /// A tensor of these dims: contiguous, transposed, a part of something larger, or the same along one dim.
    fn operand(&mut self, dims: &[usize], dtype: DType, mut value: impl FnMut(&mut Random) -> f64) -> Result<Operand> {
        let (layout, dim) = (self.random.below(4), self.random.below(dims.len().max(1)));
        let mut held = dims.to_vec();
        match layout {
            _ if dims.is_empty() => {}
            1 => held.swap(0, dims.len() - 1),
            2 => held.iter_mut().for_each(|len| *len += 3),
            3 => held[dim] = 1,
            _ => {}
        }
        let values: Vec<f64> = (0..held.iter().product()).map(|_| value(&mut self.random)).collect();
        let var =
            Var::from_tensor(&Tensor::from_vec(values, held, &Device::Cpu)?.to_dtype(dtype)?.to_device(self.device)?)?;
        let mut tensor = var.as_tensor().clone();
        match layout {
            _ if dims.is_empty() => {}
            1 => tensor = tensor.transpose(0, dims.len() - 1)?,
            2 => {
                for (dim, len) in dims.iter().enumerate() {
                    tensor = tensor.narrow(dim, 1, *len)?;
                }
            }
            3 => tensor = tensor.broadcast_as(dims)?,
            _ => {}
        }
        Ok(Operand { var, tensor })
    }

    fn floats(&mut self, dims: &[usize], dtype: DType) -> Result<Operand> {
        self.operand(dims, dtype, |random| (random.part() * 6.0 - 3.0) * if random.one_in(8) { 3.0 } else { 1.0 })
    }

    /// From 0 to 1.
    fn parts(&mut self, dims: &[usize], dtype: DType) -> Result<Tensor> {
        Ok(self.operand(dims, dtype, Random::part)?.tensor.detach())
    }

    fn integers(&mut self, dims: &[usize], dtype: DType, below: usize) -> Result<Tensor> {
        Ok(self.operand(dims, dtype, |random| random.below(below) as f64)?.tensor.detach())
    }

    fn bytes(&mut self, dims: &[usize]) -> Result<Mask> {
        let bytes = self.integers(dims, DType::U8, 3)?;
        Ok(if self.random.one_in(2) { Mask::Keep(bytes) } else { Mask::Hide(bytes) })
    }

    fn reduction(&mut self) -> Result<Reduction> {
        Ok(match self.random.below(4) {
            0 => Reduction::None,
            1 => Reduction::Sum,
            2 => Reduction::Mean,
            _ => Reduction::MeanOver(Tensor::new(3.5f32, self.device)?),
        })
    }

    fn give(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        self.results.push((name.to_string(), numbers(tensor)?));
        Ok(())
    }

    /// A result, and the gradients of the operands for a random gradient of it.
    fn give_with_gradients(&mut self, y: &Tensor, operands: &[(&str, &Var)]) -> Result<()> {
        self.give("the result", y)?;
        let upstream = self.floats(y.dims(), y.dtype())?.tensor;
        let product = y.mul(&upstream)?;
        // candle cannot sum a single number on a GPU.
        let gradients = if y.rank() == 0 { product } else { product.sum_all()? }.backward()?;
        for (name, operand) in operands {
            let gradient = gradients.get(operand).expect("the graph reaches every operand");
            assert_eq!((gradient.dims(), gradient.dtype()), (operand.dims(), operand.dtype()), "{name}");
            self.give(&format!("the gradient of {name}"), gradient)?;
        }
        Ok(())
    }
}

type Op = fn(&mut Draw, DType) -> Result<()>;

fn call(op: Op, number: u64, dtype: DType, device: &Device) -> Result<Results> {
    let mut draw = Draw { random: Random(number), device, results: Vec::new() };
    op(&mut draw, dtype)?;
    Ok(draw.results)
}

/// Within a tolerance of the largest magnitude, or of 1 where all are smaller.
#[track_caller]
fn close(case: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{case}");
    let largest = want.iter().filter(|want| want.is_finite()).fold(1f64, |largest, want| largest.max(want.abs()));
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        let right = match want.is_finite() {
            true => (got - want).abs() <= tolerance * largest,
            false => got == want || (got.is_nan() && want.is_nan()),
        };
        assert!(right, "{case} [{index}]: got {got:e}, want {want:e}");
    }
}

/// Random calls of an operation on both kinds of devices.
#[track_caller]
fn same_as_on_the_host(op: Op, numbers: std::ops::Range<u64>) {
    world(|| {
        for (kind, device) in ["own stream", "default stream"].into_iter().zip(devices()?) {
            for number in numbers.clone() {
                let (dtype, tolerance) =
                    [(DType::F32, 2e-5), (DType::F16, 1e-2), (DType::BF16, 8e-2)][(number % 3) as usize];
                let (got, want) = (call(op, number, dtype, &device)?, call(op, number, dtype, &Device::Cpu)?);
                assert_eq!(got.len(), want.len());
                for ((name, got), (_, want)) in got.iter().zip(&want) {
                    close(&format!("case {number}, {kind}, {dtype:?}: {name}"), got, want, tolerance);
                }
            }
        }
        Ok(())
    });
}

fn softmax_or_log(draw: &mut Draw, dtype: DType) -> Result<()> {
    let dims = draw.random.shape();
    let dim = draw.random.below(dims.len());
    let x = draw.floats(&dims, dtype)?;
    let options = SoftmaxOptions { temperature: draw.one_of(&[1.0, 0.5]), mask: draw.maybe(|draw| draw.bytes(&dims))? };
    let log = draw.random.one_in(2);
    let y = if log { log_softmax(&x.tensor, dim, &options) } else { softmax(&x.tensor, dim, &options) }?;
    draw.give_with_gradients(&y, &[("x", &x.var)])
}

fn losses(draw: &mut Draw, dtype: DType) -> Result<()> {
    let mut dims = draw.random.shape();
    let dim = draw.random.below(dims.len());
    dims[dim] = 2 + draw.random.below(9);
    let (classes, mut rows) = (dims[dim], dims.clone());
    rows.remove(dim);
    let x = draw.floats(&dims, dtype)?;
    let are_classes = !draw.random.one_in(3);
    let targets = match are_classes {
        true => {
            let dtype = draw.one_of(&[DType::I64, DType::I32, DType::U32]);
            Targets::Classes(draw.integers(&rows, dtype, classes)?)
        }
        false => {
            let dtype = draw.one_of(&[DType::F32, DType::F16, DType::BF16]);
            Targets::Probabilities(draw.parts(&dims, dtype)?)
        }
    };
    let options = CrossEntropy {
        ignore_index: if are_classes { draw.one_of(&[Some(-100), Some(1), None]) } else { None },
        class_weights: draw.maybe(|draw| draw.parts(&[classes], DType::F32))?,
        z_loss: draw.one_of(&[0.0, 0.05]),
        label_smoothing: draw.one_of(&[0.0, 0.1]),
        statistics: are_classes && draw.random.one_in(2),
        temperature: draw.one_of(&[1.0, 2.0]),
        reduction: draw.reduction()?,
    };
    let output = cross_entropy(&x.tensor, dim, targets, &options)?;
    draw.give("lse", &output.lse)?;
    draw.give("count", &output.count)?;
    if let Some(statistics) = output.statistics {
        draw.give("nll", &statistics.nll)?;
        draw.give("entropy", &statistics.entropy)?;
        draw.give("argmax", &statistics.argmax)?;
        draw.give("correct", &statistics.correct)?;
        draw.give("rank", &statistics.rank)?;
    }
    draw.give_with_gradients(&output.loss, &[("logits", &x.var)])
}

fn binary(draw: &mut Draw, dtype: DType) -> Result<()> {
    let dims = draw.random.shape();
    let x = draw.floats(&dims, dtype)?;
    let targets = draw.parts(&dims, dtype)?;
    let options = BinaryCrossEntropy {
        weight: draw.maybe(|draw| draw.parts(&dims, DType::F32))?,
        // Broadcast by the operation itself.
        pos_weight: draw.maybe(|draw| draw.parts(&dims[dims.len() - 1..], DType::F32))?,
        reduction: draw.reduction()?,
    };
    let loss = bce_with_logits(&x.tensor, &targets, &options)?;
    draw.give_with_gradients(&loss, &[("logits", &x.var)])
}

fn draws(draw: &mut Draw, dtype: DType) -> Result<()> {
    let mut dims = draw.random.shape();
    let dim = draw.random.below(dims.len());
    dims[dim] = 2 + draw.random.below(30);
    let mut rows = dims.clone();
    rows.remove(dim);
    let x = draw.floats(&dims, dtype)?.tensor;
    let options = SampleOptions {
        temperature: draw.one_of(&[0.7, 1.0, 3.0]),
        top_k: draw.one_of(&[None, Some(2)]),
        top_p: draw.one_of(&[1.0, 0.9]),
        min_p: draw.one_of(&[0.0, 0.05]),
    };
    let offset = draw.random.bits();
    let random = match draw.random.below(3) {
        0 => sumexp_candle::Random::Seed { seed: draw.random.bits(), offset },
        1 => sumexp_candle::Random::Device(draw.integers(&[2], DType::I64, 1 << 40)?),
        _ => sumexp_candle::Random::PerRow { seeds: draw.integers(&rows, DType::I64, 1 << 40)?, offset },
    };
    let drawn = sample(&x, dim, &options, &random)?;
    draw.give("ids", &drawn.ids)?;
    draw.give("valid", &drawn.valid)?;
    draw.give("log-probabilities", &drawn.log_probabilities)?;
    draw.give("kept mass", &drawn.kept_mass)
}

fn attends(draw: &mut Draw, dtype: DType) -> Result<()> {
    let (batch, key_heads) = (1 + draw.random.below(2), 1 + draw.random.below(2));
    let heads = key_heads * draw.one_of(&[1, 2]);
    let (queries, keys) = (draw.one_of(&[1, 5, 9]), draw.one_of(&[3, 6, 17]));
    let (size, value_size) = (draw.one_of(&[4, 7, 16]), draw.one_of(&[3, 8]));
    let q = draw.floats(&[batch, heads, queries, size], dtype)?;
    let k = draw.floats(&[batch, key_heads, keys, size], dtype)?;
    let v = draw.floats(&[batch, key_heads, keys, value_size], dtype)?;
    let align = draw.one_of(&[Align::TopLeft, Align::BottomRight]);
    let mask = |draw: &mut Draw, kind: usize| {
        Ok(match kind {
            0 => draw.bytes(&[batch, 1, queries, keys])?,
            1 => Mask::Causal(align),
            2 => Mask::Window { left: Some(2), right: draw.one_of(&[None, Some(1)]), align },
            3 => Mask::KeyLengths(draw.integers(&[batch], DType::I32, keys + 1)?),
            _ => Mask::Segments {
                q: draw.integers(&[batch, queries], DType::I32, 3)?,
                k: draw.integers(&[batch, keys], DType::I32, 3)?,
            },
        })
    };
    // Of two kinds, or of one, or none.
    let kinds = draw.one_of(&[[0, 1], [0, 3], [4, 2], [1, 4], [3, 4]]);
    let masks = [draw.maybe(|draw| mask(draw, kinds[0]))?, draw.maybe(|draw| mask(draw, kinds[1]))?];
    let of_bias = draw.one_of(&[DType::F32, DType::F16, DType::BF16]);
    let bias = draw.maybe(|draw| draw.floats(&[heads, queries, keys], of_bias))?;
    let slopes = draw.maybe(|draw| draw.parts(&[heads], DType::F32))?;
    let options = Attention {
        scale: draw.one_of(&[None, Some(0.3)]),
        mask: Some(Mask::All(masks.into_iter().flatten().collect())),
        bias: bias.as_ref().map(|bias| bias.tensor.clone()),
        alibi: slopes.map(|slopes| Alibi { slopes, align }),
        softcap: draw.one_of(&[None, Some(2.5)]),
    };
    draw.give("weights", &attention_weights(&q.tensor, &k.tensor, &options)?)?;
    let y = scaled_dot_product_attention(&q.tensor, &k.tensor, &v.tensor, &options)?;
    let mut operands = vec![("q", &q.var), ("k", &k.var), ("v", &v.var)];
    operands.extend(bias.as_ref().map(|bias| ("bias", &bias.var)));
    draw.give_with_gradients(&y, &operands)
}

#[test]
fn softmax_and_log_softmax() {
    same_as_on_the_host(softmax_or_log, 0..45);
}

#[test]
fn cross_entropy_of_classes_and_probabilities() {
    same_as_on_the_host(losses, 100..160);
}

#[test]
fn binary_cross_entropy() {
    same_as_on_the_host(binary, 200..236);
}

#[test]
fn sampling() {
    same_as_on_the_host(draws, 300..345);
}

#[test]
fn attention() {
    same_as_on_the_host(attends, 400..448);
}
