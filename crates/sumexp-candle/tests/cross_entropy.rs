//! Cross-entropy against its definition in candle's basic operations in f64, over all options, and its gradients.

mod common;

use candle_core::{DType, Device, Result, Tensor, Var};
use common::{Input, Random, numbers, same};
use sumexp_candle::{CrossEntropy, Reduction, Targets, cross_entropy};

/// One random call: what goes in, and what its definition says of each class of each row, in the order of the logits.
struct Case {
    name: String,
    dims: Vec<usize>,
    dim: usize,
    options: CrossEntropy,
    targets: Targets,
    /// What the target says of a class, with weights and smoothing; 0 in rows that do not count.
    shares: Tensor,
    /// 1 for rows that count, with a class dim of length 1.
    counts: Tensor,
    divisor: f64,
}

impl Case {
    fn new(number: u64, random: &mut Random) -> Result<Self> {
        let device = &Device::Cpu;
        let mut dims = random.shape();
        let dim = random.below(dims.len());
        dims[dim] = 2 + random.below(9);
        let classes = dims[dim];
        let mut rows = dims.clone();
        rows.remove(dim);
        let count: usize = rows.iter().product();
        let smoothing = [0.0, 0.1, 1.0][random.below(3)];
        let z_loss = [0.0, 0.05][random.below(2)];
        let weights = random.one_in(2).then(|| (0..classes).map(|_| random.part() + 0.1).collect::<Vec<f64>>());
        let ignore_index = [Some(-100), Some(1), None][random.below(3)];
        let are_classes = !random.one_in(3);

        let weight = |class: usize| weights.as_ref().map_or(1.0, |weights| f64::from(weights[class] as f32));
        let (mut shares, mut counts, mut mean) = (Vec::new(), Vec::new(), 0.0);
        let (mut ids, mut probabilities) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let id = match ignore_index {
                Some(index) if are_classes && random.one_in(4) => index,
                _ => random.below(classes) as i64,
            };
            let counted = !are_classes || Some(id) != ignore_index;
            let said: Vec<f64> = match are_classes {
                true => (0..classes).map(|class| f64::from(u8::from(class as i64 == id))).collect(),
                false => (0..classes).map(|_| f64::from(random.part() as f32)).collect(),
            };
            let of = |class: usize| weight(class) * ((1.0 - smoothing) * said[class] + smoothing / classes as f64);
            shares.extend((0..classes).map(|class| if counted { of(class) } else { 0.0 }));
            counts.push(f64::from(u8::from(counted)));
            mean += match (counted, are_classes) {
                (true, true) => weight(id as usize),
                (true, false) => 1.0,
                (false, _) => 0.0,
            };
            ids.push(id);
            probabilities.extend(said);
        }
        // Rows were made with the class dim last.
        let mut with_classes = rows.clone();
        with_classes.push(classes);
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.insert(dim, rows.len());
        let moved =
            |values: Vec<f64>| Tensor::from_vec(values, with_classes.as_slice(), device)?.permute(order.as_slice());
        let id_type = [DType::I64, DType::I32, DType::U32][random.below(3)];
        // u32 holds no -100.
        let id_type = if ids.contains(&-100) && id_type == DType::U32 { DType::I64 } else { id_type };
        let targets = match are_classes {
            true => Targets::Classes(Tensor::from_vec(ids, rows.as_slice(), device)?.to_dtype(id_type)?),
            false => Targets::Probabilities(moved(probabilities)?.to_dtype(DType::F32)?),
        };
        let (reduction, divisor) = match random.below(4) {
            0 => (Reduction::None, 1.0),
            1 => (Reduction::Sum, 1.0),
            2 => (Reduction::Mean, mean),
            _ => (Reduction::MeanOver(Tensor::new(3.5f32, device)?), 3.5),
        };
        let temperature = [1.0f32, 0.5, 2.0][random.below(3)];
        let class_weights =
            weights.map(|weights| Tensor::from_vec(weights, classes, device)?.to_dtype(DType::F32)).transpose()?;
        let options = CrossEntropy {
            ignore_index: if are_classes { ignore_index } else { None },
            class_weights,
            z_loss,
            label_smoothing: smoothing as f32,
            statistics: are_classes && random.one_in(2),
            temperature,
            reduction,
        };
        let name = format!("case {number}: {dims:?} dim {dim} {options:?}");
        Ok(Self {
            name,
            options,
            targets,
            shares: moved(shares)?.contiguous()?,
            counts: Tensor::from_vec(counts, rows.as_slice(), device)?.unsqueeze(dim)?,
            divisor,
            dims,
            dim,
        })
    }

    /// The losses by the definition, reduced.
    fn composed(&self, logits: &Tensor) -> Result<Tensor> {
        let x = logits.affine(1.0 / f64::from(self.options.temperature), 0.0)?;
        let max = x.max_keepdim(self.dim)?.detach();
        let lse = x.broadcast_sub(&max)?.exp()?.sum_keepdim(self.dim)?.log()?.add(&max)?;
        let cost = lse.broadcast_sub(&x)?.mul(&self.shares)?.sum_keepdim(self.dim)?;
        let z = lse.sqr()?.mul(&self.counts)?.affine(f64::from(self.options.z_loss), 0.0)?;
        let losses = cost.add(&z)?.squeeze(self.dim)?;
        match self.options.reduction {
            Reduction::None => Ok(losses),
            _ if self.divisor == 0.0 => losses.sum_all()?.affine(0.0, 0.0),
            _ => losses.sum_all()?.affine(1.0 / self.divisor, 0.0),
        }
    }
}

fn case(number: u64, dtype: DType, tolerance: f64) -> Result<()> {
    let mut random = Random(number);
    let random = &mut random;
    let case = Case::new(number, random)?;
    let values = random.values(case.dims.iter().product());
    let input = Input::new(random, &case.dims, &values, dtype, &Device::Cpu)?;
    let x = input.tensor()?;
    let output = cross_entropy(&x, case.dim, case.targets.clone(), &case.options)?;
    assert_eq!(output.statistics.is_some(), case.options.statistics, "{}", case.name);
    assert_eq!(output.count.to_scalar::<i64>()? as f64, case.counts.sum_all()?.to_scalar::<f64>()?, "{}", case.name);

    let x64 = Var::from_tensor(&x.detach().to_dtype(DType::F64)?.contiguous()?)?;
    let want = case.composed(&x64)?;
    same(&case.name, &numbers(&output.loss)?, &numbers(&want)?, tolerance);

    let upstream = Tensor::from_vec(random.values(want.elem_count()), want.dims(), &Device::Cpu)?;
    let got = output.loss.mul(&upstream.to_dtype(DType::F32)?)?.sum_all()?.backward()?;
    let got = input.laid_out(got.get(&input.var).expect("the graph reaches the variable"))?;
    let gradients = want.mul(&upstream.to_dtype(DType::F32)?.to_dtype(DType::F64)?)?.sum_all()?.backward()?;
    let want = gradients.get(&x64).map_or_else(|| x64.zeros_like(), |want| Ok(want.clone()))?;
    same(&format!("gradient of {}", case.name), &numbers(&got)?, &numbers(&want)?, tolerance);
    Ok(())
}

#[test]
fn losses_and_gradients_are_those_of_the_definition() -> Result<()> {
    (0..250).try_for_each(|number| case(number, DType::F32, 1e-5))
}

#[test]
fn sixteen_bits() -> Result<()> {
    (1000..1040).try_for_each(|number| case(number, DType::F16, 4e-3))?;
    (2000..2040).try_for_each(|number| case(number, DType::BF16, 3e-2))
}

#[test]
fn finite_differences() -> Result<()> {
    let targets = Tensor::new(&[2i64, 0, -100], &Device::Cpu)?;
    let options = CrossEntropy { z_loss: 0.1, label_smoothing: 0.2, temperature: 1.5, ..Default::default() };
    let loss = |values: &[f32; 9]| -> Result<(Var, Tensor)> {
        let x = Var::from_slice(values, (3, 3), &Device::Cpu)?;
        let loss = cross_entropy(&x, 1, &targets, &options)?.loss;
        Ok((x, loss))
    };
    let values = [0.4f32, -1.0, 2.2, 0.0, 1.0, -0.5, 3.0, 1.0, 2.0];
    let (x, at) = loss(&values)?;
    let gradient = numbers(at.backward()?.get(&x).expect("a gradient"))?;
    for index in 0..9 {
        let moved = |by: f32| -> Result<f64> {
            let mut values = values;
            values[index] += by;
            Ok(f64::from(loss(&values)?.1.to_scalar::<f32>()?))
        };
        let slope = (moved(0.01)? - moved(-0.01)?) / 0.02;
        assert!((slope - gradient[index]).abs() < 1e-4, "[{index}]: {slope} and {}", gradient[index]);
    }
    assert_eq!(gradient[6..], [0.0; 3]);
    Ok(())
}

/// The statistics are sumexp's own, in tensors of candle.
#[test]
fn statistics() -> Result<()> {
    let x = Tensor::new(&[[1f32, 3.0, 2.0], [0.0, 0.0, 0.0]], &Device::Cpu)?;
    let targets = Tensor::new(&[2u32, 1], &Device::Cpu)?;
    let options = CrossEntropy { statistics: true, ..Default::default() };
    let statistics = cross_entropy(&x, 1, &targets, &options)?.statistics.expect("they were asked for");
    assert_eq!(statistics.argmax.to_vec1::<i64>()?, [1, 0]);
    assert_eq!(statistics.correct.to_vec1::<u8>()?, [0, 0]);
    assert_eq!(statistics.rank.to_vec1::<i64>()?, [1, 1]);
    assert_eq!(statistics.nll.to_vec1::<f32>()?[1], 3f32.ln());
    assert_eq!(statistics.entropy.to_vec1::<f32>()?[1], 3f32.ln());
    Ok(())
}

/// A call may be differentiated twice, and a graph may use targets that were computed from variables.
#[test]
fn graphs() -> Result<()> {
    let x = Var::new(&[[1f32, 3.0], [0.5, 0.0]], &Device::Cpu)?;
    let teacher = sumexp_candle::softmax(&x, 1, &Default::default())?;
    let options = CrossEntropy { ignore_index: None, ..Default::default() };
    let loss = cross_entropy(&x, 1, Targets::Probabilities(teacher), &options)?.loss;
    let (first, second) = (loss.backward()?, loss.backward()?);
    assert_eq!(numbers(first.get(&x).unwrap())?, numbers(second.get(&x).unwrap())?);
    // Against a constant copy of its own probabilities the gradient is 0.
    assert!(numbers(first.get(&x).unwrap())?.iter().all(|gradient| gradient.abs() < 1e-7));
    Ok(())
}

#[test]
fn refusals() -> Result<()> {
    let x = Tensor::zeros((2, 3), DType::F32, &Device::Cpu)?;
    let said =
        |targets: Targets, options: &CrossEntropy| cross_entropy(&x, 1, targets, options).unwrap_err().to_string();
    let classes = |ids: &[i64]| -> Result<Targets> { Ok(Targets::Classes(Tensor::new(ids, &Device::Cpu)?)) };
    let plain = CrossEntropy::default();
    let text = said(classes(&[0, 3])?, &plain);
    assert!(text.contains('3') && text.contains("cross_entropy"), "{text}");
    assert!(said(classes(&[0, 1, 2])?, &plain).contains("[3]"));
    assert!(said(Targets::Classes(x.clone()), &plain).contains("F32"));
    assert!(said(Targets::Probabilities(x.to_dtype(DType::F64)?), &plain).contains("F64"));
    assert!(
        said(classes(&[0, 1])?, &CrossEntropy { label_smoothing: 2.0, ..plain.clone() }).contains("label_smoothing")
    );
    assert!(
        said(Targets::Probabilities(x.clone()), &CrossEntropy { ignore_index: Some(1), ..plain.clone() }).contains('1')
    );
    let weights = CrossEntropy { class_weights: Some(Tensor::ones(4, DType::F32, &Device::Cpu)?), ..plain };
    assert!(said(classes(&[0, 1])?, &weights).contains("[4]"));
    Ok(())
}
