//! Binary cross-entropy against its definition in candle's basic operations in f64, over all options, and its gradients.

mod common;

use candle_core::{DType, Device, Result, Tensor, Var};
use common::{Input, Random, numbers, same};
use sumexp_candle::{BinaryCrossEntropy, Reduction, bce_with_logits};

/// `ln(1 + exp(x))` for logits of a few units.
fn softplus(x: &Tensor) -> Result<Tensor> {
    (x.exp()? + 1.0)?.log()
}

fn case(number: u64, dtype: DType, tolerance: f64) -> Result<()> {
    let mut random = Random(number);
    let random = &mut random;
    let dims = random.shape();
    let count: usize = dims.iter().product();
    let values = random.values(count);
    let input = Input::new(random, &dims, &values, dtype, &Device::Cpu)?;
    let certain = random.one_in(2);
    let targets: Vec<f64> = (0..count).map(|_| if certain { random.below(2) as f64 } else { random.part() }).collect();
    let targets = Input::new(random, &dims, &targets, dtype, &Device::Cpu)?.tensor()?;
    // One number for all, one per place in the last dim, or one per element.
    let weight = |random: &mut Random| -> Result<Option<Tensor>> {
        let dims = match random.below(4) {
            0 => return Ok(None),
            1 => &[][..],
            2 => &dims[dims.len() - 1..],
            _ => &dims[..],
        };
        let values = (0..dims.iter().product()).map(|_| random.part() as f32 * 3.0).collect();
        Ok(Some(Tensor::from_vec(values, dims, &Device::Cpu)?))
    };
    let (weight, pos_weight) = (weight(random)?, weight(random)?);
    let (reduction, divisor) = match random.below(4) {
        0 => (Reduction::None, 1.0),
        1 => (Reduction::Sum, 1.0),
        2 => (Reduction::Mean, count as f64),
        _ => (Reduction::MeanOver(Tensor::new(3.5f32, &Device::Cpu)?), 3.5),
    };
    let options = BinaryCrossEntropy { weight, pos_weight, reduction };
    let case = format!("case {number}: {dtype:?} {dims:?} {options:?}");
    let x = input.tensor()?;
    let loss = bce_with_logits(&x, &targets, &options)?;

    let x64 = Var::from_tensor(&x.detach().to_dtype(DType::F64)?.contiguous()?)?;
    let t = targets.to_dtype(DType::F64)?;
    let wide = |weight: &Option<Tensor>| match weight {
        None => t.ones_like(),
        Some(weight) => weight.to_dtype(DType::F64)?.broadcast_as(dims.as_slice()),
    };
    let happens = t.mul(&wide(&options.pos_weight)?)?.mul(&softplus(&x64.neg()?)?)?;
    let does_not = t.affine(-1.0, 1.0)?.mul(&softplus(&x64)?)?;
    let want = happens.add(&does_not)?.mul(&wide(&options.weight)?)?;
    let want = match options.reduction {
        Reduction::None => want,
        _ => want.sum_all()?.affine(1.0 / divisor, 0.0)?,
    };
    same(&case, &numbers(&loss)?, &numbers(&want)?, tolerance);

    let upstream =
        Tensor::from_vec(random.values(want.elem_count()), want.dims(), &Device::Cpu)?.to_dtype(DType::F32)?;
    let got = loss.mul(&upstream)?.sum_all()?.backward()?;
    let got = input.laid_out(got.get(&input.var).expect("the graph reaches the variable"))?;
    let want = want.mul(&upstream.to_dtype(DType::F64)?)?.sum_all()?.backward()?;
    let want = want.get(&x64).expect("a gradient of the composition");
    same(&format!("gradient of {case}"), &numbers(&got)?, &numbers(want)?, tolerance);
    Ok(())
}

#[test]
fn losses_and_gradients_are_those_of_the_definition() -> Result<()> {
    (0..100).try_for_each(|number| case(number, DType::F32, 1e-5))
}

#[test]
fn sixteen_bits() -> Result<()> {
    (1000..1020).try_for_each(|number| case(number, DType::F16, 4e-3))?;
    (2000..2020).try_for_each(|number| case(number, DType::BF16, 3e-2))
}

/// Logits and targets may be parts of one tensor, and targets may come from a graph.
#[test]
fn targets_are_constants() -> Result<()> {
    let both = Var::new(&[[0f32, 2.0], [1.0, 0.0]], &Device::Cpu)?;
    let (x, targets) = (both.get(0)?, both.get(1)?.affine(1.0, 0.0)?);
    let gradients = bce_with_logits(&x, &targets, &BinaryCrossEntropy::default())?.backward()?;
    let gradient = gradients.get(&both).expect("a gradient").to_vec2::<f32>()?;
    assert_eq!(gradient[1], [0.0, 0.0]);
    assert_eq!(gradient[0][0], -0.25);
    let shared = bce_with_logits(&x, &both.get(1)?, &BinaryCrossEntropy::default())?;
    assert!(shared.to_scalar::<f32>()? > 0.0);
    Ok(())
}

#[test]
fn refusals() -> Result<()> {
    let x = Tensor::zeros((2, 3), DType::F32, &Device::Cpu)?;
    let said =
        |targets: &Tensor, options: &BinaryCrossEntropy| bce_with_logits(&x, targets, options).unwrap_err().to_string();
    let plain = BinaryCrossEntropy::default();
    assert!(said(&x.narrow(1, 0, 2)?, &plain).contains("[2, 2]"));
    assert!(said(&x.to_dtype(DType::F16)?, &plain).contains("F16"));
    let wide = BinaryCrossEntropy { weight: Some(Tensor::ones((2, 4), DType::F32, &Device::Cpu)?), ..plain.clone() };
    assert!(said(&x, &wide).contains("weight"));
    let half = BinaryCrossEntropy { pos_weight: Some(x.to_dtype(DType::F16)?), ..plain };
    assert!(said(&x, &half).contains("F16"));
    Ok(())
}
