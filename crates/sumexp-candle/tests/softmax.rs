//! softmax and log-softmax against candle's own composition of basic operations in f64, and its gradients.

mod common;

use candle_core::{D, DType, Device, Result, Tensor, Var};
use common::{Input, Random, numbers, same};
use sumexp_candle::{Mask, SoftmaxOptions, log_softmax, softmax};

/// The same by candle's basic operations. `keep` is 1 where a logit takes part.
fn composed(x: &Tensor, dim: usize, keep: &Tensor, temperature: f64, log: bool) -> Result<Tensor> {
    let x = x.affine(1.0 / temperature, 0.0)?;
    let x = x.broadcast_sub(&x.max_keepdim(dim)?.detach())?;
    let exponentials = x.exp()?.mul(keep)?;
    let sum = exponentials.sum_keepdim(dim)?;
    if log { x.broadcast_sub(&sum.log()?) } else { exponentials.broadcast_div(&sum) }
}

fn case(number: u64, dtype: DType, tolerance: f64) -> Result<()> {
    let mut random = Random(number);
    let random = &mut random;
    let log = random.one_in(2);
    let dims = random.shape();
    let dim = random.below(dims.len());
    let count = dims.iter().product();
    let temperature = [1.0, 0.5, 2.5][random.below(3)];
    let values = random.values(count);
    let input = Input::new(random, &dims, &values, dtype, &Device::Cpu)?;

    // A mask over the last dims, one entry of each row always visible.
    let masked = random.one_in(2);
    let mut keep = vec![1u8; count];
    if masked {
        keep.iter_mut().for_each(|keep| *keep = u8::from(!random.one_in(3)) * 7);
    }
    let mut keep = Tensor::from_vec(keep, dims.as_slice(), &Device::Cpu)?;
    let mut first = dims.clone();
    first[dim] = 1;
    let (ones, rest) = (Tensor::ones(first, DType::U8, &Device::Cpu)?, keep.narrow(dim, 1, dims[dim] - 1)?);
    keep = Tensor::cat(&[&ones, &rest], dim)?;
    let hides = random.one_in(2);
    let bytes = if hides { keep.eq(0u8)? } else { keep.clone() };
    let mask = masked.then(|| if hides { Mask::Hide(bytes) } else { Mask::Keep(bytes) });
    let case =
        format!("case {number}: {dtype:?} {dims:?} dim {dim} temperature {temperature} log {log} masked {masked}");

    let x = input.tensor()?;
    let options = SoftmaxOptions { temperature: temperature as f32, mask };
    let y = if log { log_softmax(&x, dim, &options)? } else { softmax(&x, dim, &options)? };
    assert_eq!((y.dims(), y.dtype()), (x.dims(), dtype), "{case}");

    let visible = keep.ne(0u8)?;
    let x64 = Var::from_tensor(&x.detach().to_dtype(DType::F64)?.contiguous()?)?;
    let want = composed(&x64, dim, &visible.to_dtype(DType::F64)?, temperature, log)?;
    let weights = Tensor::from_vec(random.values(count), dims.as_slice(), &Device::Cpu)?.to_dtype(dtype)?;
    // Log-probabilities of what is hidden are -inf.
    let shown = |y: &Tensor| visible.where_cond(y, &y.zeros_like()?);
    let (y, want) = (shown(&y)?, shown(&want)?);
    same(&case, &numbers(&y)?, &numbers(&want)?, tolerance);

    let got = y.mul(&weights)?.sum_all()?.backward()?;
    let got = got.get(&input.var).expect("the graph reaches the variable");
    let want = want.mul(&weights.to_dtype(DType::F64)?)?.sum_all()?.backward()?;
    let want = want.get(&x64).expect("a gradient of the composition").clone();
    let got = input.laid_out(got)?;
    let scale = numbers(&weights)?.iter().fold(0f64, |largest, weight| largest.max(weight.abs()));
    close(&case, &numbers(&got)?, &numbers(&want)?, tolerance * scale / temperature);
    Ok(())
}

/// Within an absolute bound: where everything cancels, as in rows of one, the gradient that is wanted is 0.
#[track_caller]
fn close(case: &str, got: &[f64], want: &[f64], bound: f64) {
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= bound, "{case} gradient [{index}]: got {got:e}, want {want:e}");
    }
}

#[test]
fn gradients_are_those_of_candles_own_operations() -> Result<()> {
    (0..150).try_for_each(|number| case(number, DType::F32, 1e-5))
}

#[test]
fn sixteen_bits() -> Result<()> {
    (1000..1030).try_for_each(|number| case(number, DType::F16, 4e-3))?;
    (2000..2030).try_for_each(|number| case(number, DType::BF16, 3e-2))
}

/// The gradient of candle's own `softmax_last_dim` is missing (candle#3569); this one is that of finite differences.
#[test]
fn finite_differences() -> Result<()> {
    let values = [0.3f32, -1.2, 2.0, 0.7, 0.1, -0.4];
    let weights = Tensor::new(&[[1f32, -2.0, 0.5], [0.25, 3.0, -1.0]], &Device::Cpu)?;
    for log in [false, true] {
        let loss = |values: &[f32; 6]| -> Result<(Var, Tensor)> {
            let x = Var::from_slice(values, (2, 3), &Device::Cpu)?;
            let options = SoftmaxOptions { temperature: 0.8, mask: None };
            let y = if log { log_softmax(&x, D::Minus1, &options)? } else { softmax(&x, D::Minus1, &options)? };
            let loss = y.mul(&weights)?.sum_all()?;
            Ok((x, loss))
        };
        let (x, at) = loss(&values)?;
        let gradient = numbers(at.backward()?.get(&x).expect("a gradient"))?;
        for index in 0..6 {
            let moved = |by: f32| -> Result<f64> {
                let mut values = values;
                values[index] += by;
                Ok(f64::from(loss(&values)?.1.to_scalar::<f32>()?))
            };
            let slope = (moved(0.01)? - moved(-0.01)?) / 0.02;
            assert!((slope - gradient[index]).abs() < 1e-3, "log {log} [{index}]: {slope} and {}", gradient[index]);
        }
    }
    Ok(())
}

#[test]
fn what_is_hidden_is_0_and_stays_out() -> Result<()> {
    let x =
        Var::new(&[[f32::NAN, 1.0, 1.0], [5.0, f32::NEG_INFINITY, f32::NEG_INFINITY], [1.0, 2.0, 3.0]], &Device::Cpu)?;
    let hidden = Tensor::new(&[[1u8, 0, 0], [1, 0, 0], [0, 0, 0]], &Device::Cpu)?;
    let options = SoftmaxOptions { mask: Some(Mask::Hide(hidden)), ..Default::default() };
    let y = softmax(&x, 1, &options)?;
    assert_eq!(y.narrow(0, 0, 2)?.to_vec2::<f32>()?, [[0.0, 0.5, 0.5], [0.0; 3]]);
    let gradients = y.sqr()?.sum_all()?.backward()?;
    assert_eq!(gradients.get(&x).unwrap().narrow(0, 0, 2)?.to_vec2::<f32>()?, [[0.0; 3], [0.0; 3]]);
    Ok(())
}

#[test]
fn empty_tensors() -> Result<()> {
    let x = Var::zeros((2, 0, 3), DType::F32, &Device::Cpu)?;
    for dim in 0..3 {
        let y = softmax(&x, dim, &SoftmaxOptions::default())?;
        assert_eq!(y.dims(), [2, 0, 3]);
        assert_eq!(y.sum_all()?.backward()?.get(&x).unwrap().dims(), [2, 0, 3]);
    }
    Ok(())
}

#[test]
fn refusals() -> Result<()> {
    let x = Tensor::zeros((2, 3), DType::F32, &Device::Cpu)?;
    let said = |result: Result<Tensor>| result.unwrap_err().to_string();
    let with = |options: SoftmaxOptions| said(softmax(&x, 1, &options));
    let text = with(SoftmaxOptions { temperature: 0.0, ..Default::default() });
    assert!(text.contains("softmax") && text.contains("temperature"), "{text}");
    let wide = Tensor::ones((2, 4), DType::U8, &Device::Cpu)?;
    let text = with(SoftmaxOptions { mask: Some(Mask::Keep(wide)), ..Default::default() });
    assert!(text.contains("[2, 4]") && text.contains("[2, 3]"), "{text}");
    let floats = SoftmaxOptions { mask: Some(Mask::Keep(x.clone())), ..Default::default() };
    assert!(with(floats).contains("U8"));
    assert!(said(softmax(&x, 2, &SoftmaxOptions::default())).contains("out of range"));
    let double = x.to_dtype(DType::F64)?;
    assert!(said(log_softmax(&double, 1, &SoftmaxOptions::default())).contains("F64"));
    Ok(())
}
