//! `sumexp verify`: results against float64.

use crate::arguments::{Call, Operation};
use crate::problem::{Failure, Inputs, Problem, Results};
use std::io::Write;
use sumexp::reference::{cross_entropy as losses, row};
use sumexp::{DType, Device, Float};

/// What one result should be, and how large the terms are that cancelled in it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Exact {
    value: f64,
    /// What may be lost beside the units in the last place, absolutely.
    lost: f64,
}

/// One tensor of results.
struct Part {
    name: &'static str,
    dtype: DType,
    got: Vec<f64>,
    want: Vec<Exact>,
    /// Largest error that is promised.
    bound: Bound,
}

#[derive(Clone, Copy)]
enum Bound {
    /// Units in the last place of each element.
    Ulps(f64),
    /// Of the largest magnitude of all elements: sums of products have no bound of their own.
    OfLargest(f64),
}

/// The distance of two neighbouring numbers of `dtype` at `x`.
fn ulp(dtype: DType, x: f64) -> f64 {
    let (digits, least) = match dtype {
        DType::F16 => (11, -14),
        DType::BF16 => (8, -126),
        _ => (24, -126),
    };
    let exponent = if x == 0.0 { least } else { (((x.to_bits() >> 52) & 0x7ff) as i32 - 1023).max(least) };
    2f64.powi(exponent - (digits - 1))
}

/// Numbers below are flushed to zero on the way, which is no error worth a count.
const FLOOR: f64 = f32::MIN_POSITIVE as f64;

/// The error of one element in units in the last place; infinite where one is NaN or infinite and the other is not that.
fn error(dtype: DType, got: f64, want: Exact) -> f64 {
    if got == want.value || got.is_nan() && want.value.is_nan() {
        return 0.0;
    }
    let beyond = (got - want.value).abs() - want.lost;
    match beyond.is_nan() || want.value.is_infinite() || got.is_infinite() {
        true => f64::INFINITY,
        false if beyond <= FLOOR => 0.0,
        false => beyond / ulp(dtype, want.value),
    }
}

impl Part {
    /// Prints a line of the table. Returns what is wrong with it.
    fn print(&self, out: &mut impl Write) -> std::io::Result<Option<String>> {
        let errors: Vec<f64> =
            self.got.iter().zip(&self.want).map(|(got, want)| error(self.dtype, *got, *want)).collect();
        let worst = (0..errors.len()).max_by(|a, b| errors[*a].total_cmp(&errors[*b]));
        let largest = worst.map_or(0.0, |worst| errors[worst]);
        let mean = errors.iter().sum::<f64>() / errors.len().max(1) as f64;
        let scale = self.want.iter().map(|want| want.value.abs()).filter(|x| x.is_finite()).fold(0.0, f64::max);
        let of_largest = |i: usize| (self.got[i] - self.want[i].value).abs() / scale;
        let (promise, too_much) = match self.bound {
            Bound::Ulps(bound) => (format!("{bound} ulp"), largest > bound),
            Bound::OfLargest(bound) => {
                let most = (0..errors.len()).filter(|i| errors[*i] > 0.0).map(of_largest).fold(0.0, f64::max);
                let special = errors.iter().any(|error| error.is_infinite());
                (format!("{most:.1e} of the largest, promised {bound:.1e}"), most > bound || special || most.is_nan())
            }
        };
        let verdict = if too_much { "WRONG" } else { "ok" };
        let (name, dtype, count) = (self.name, self.dtype.name(), errors.len());
        writeln!(out, "{name:>8} {dtype:>5} {count:>12} {largest:>12.3} {mean:>12.4}   {promise:<42} {verdict}")?;
        Ok(worst.filter(|_| too_much).map(|i| {
            format!(
                "{name}[{i}] is {:e}, exact is {:e}: {:.3} units in the last place",
                self.got[i], self.want[i].value, errors[i]
            )
        }))
    }
}

/// Runs the operation and prints how far its results are from float64.
pub fn run<T: Float>(call: &Call, device: &Device, out: &mut impl Write) -> Result<(), Failure> {
    let problem = Problem::<T>::new(call, device)?;
    let parts = parts(&problem)?;
    let io = |error: std::io::Error| Failure::Usage(format!("cannot print: {error}"));
    writeln!(out, "{} {:?} of {} on {}", call.operation.name(), call.shape.0, T::DTYPE, device.description())
        .map_err(io)?;
    let columns = ["result", "type", "elements", "max ulp", "mean ulp"];
    let [name, dtype, count, largest, mean] = columns;
    writeln!(out, "{name:>8} {dtype:>5} {count:>12} {largest:>12} {mean:>12}   promised").map_err(io)?;
    let mut wrong = None;
    for part in &parts {
        wrong = part.print(out).map_err(io)?.or(wrong);
    }
    wrong.map_or(Ok(()), |what| Err(Failure::Wrong(what)))
}

/// All results beside what they should be.
fn parts<T: Float>(problem: &Problem<T>) -> Result<Vec<Part>, Failure> {
    let numbers = |values: Vec<T>| values.into_iter().map(T::to_f64).collect::<Vec<f64>>();
    Ok(match (problem.run()?, exact(problem)?) {
        (Results::Elements(tensors), want) => tensors
            .into_iter()
            .zip(want)
            .map(|((name, tensor), want)| {
                Ok(Part {
                    name,
                    dtype: T::DTYPE,
                    got: numbers(tensor.to_vec()?),
                    want,
                    bound: bound::<T>(problem.call.operation),
                })
            })
            .collect::<Result<_, Failure>>()?,
        (Results::PerRow(name, tensor), want) => {
            let got = tensor.to_vec()?.into_iter().map(f64::from).collect();
            want.into_iter()
                .map(|want| Part { name, dtype: DType::F32, got: Vec::clone(&got), want, bound: Bound::Ulps(4.0) })
                .collect()
        }
        (Results::Both(output), want) => {
            let out = Part {
                name: "out",
                dtype: T::DTYPE,
                got: numbers(output.out.to_vec()?),
                want: want[0].clone(),
                bound: bound::<T>(Operation::Attention),
            };
            let got = output.lse.to_vec()?.into_iter().map(f64::from).collect();
            vec![
                out,
                Part { name: "lse", dtype: DType::F32, got, want: want[1].clone(), bound: Bound::OfLargest(2e-6) },
            ]
        }
    })
}

/// What the operation's documentation promises.
fn bound<T: Float>(operation: Operation) -> Bound {
    let wide = T::DTYPE == DType::F32;
    // Two roundings to the element type: of the weights, and of the result.
    let rounding = if T::DTYPE == DType::F16 { 2f64.powi(-10) } else { 2f64.powi(-7) };
    match operation {
        Operation::Attention => Bound::OfLargest(if wide { 2e-6 } else { rounding }),
        Operation::AttentionBackward => Bound::OfLargest(if wide { 1e-5 } else { rounding }),
        Operation::Softmax | Operation::LogSoftmax if wide => Bound::Ulps(4.0),
        _ if wide => Bound::Ulps(8.0),
        _ => Bound::Ulps(0.51),
    }
}

/// The results in float64, from the very inputs that the device has.
fn exact<T: Float>(problem: &Problem<T>) -> Result<Vec<Vec<Exact>>, Failure> {
    let tau = f64::from(problem.call.temperature);
    let half = T::DTYPE != DType::F32;
    let f64s = |values: Vec<T>| values.into_iter().map(T::to_f64).collect::<Vec<f64>>();
    let rows = problem.rows;
    // One result per element, from what each row has of the operands.
    type OfRow<'a> = &'a dyn Fn(usize, &[Vec<f64>]) -> Vec<Exact>;
    let spread = |operands: &[&[f64]], of_row: OfRow| {
        let mut all = vec![Exact { value: 0.0, lost: 0.0 }; operands[0].len()];
        for (number, places) in rows.places().enumerate() {
            let own: Vec<Vec<f64>> = operands.iter().map(|x| places.iter().map(|i| x[*i]).collect()).collect();
            places.iter().zip(of_row(number, &own)).for_each(|(place, exact)| all[*place] = exact);
        }
        vec![all]
    };
    let plain = |values: Vec<f64>| values.into_iter().map(|value| Exact { value, lost: 0.0 }).collect::<Vec<_>>();
    Ok(match &problem.inputs {
        Inputs::Logits(x) => {
            let x = f64s(x.to_vec()?);
            match problem.call.operation {
                Operation::Softmax => spread(&[&x], &|_, row| plain(row::softmax(&row[0], tau))),
                Operation::LogSoftmax => spread(&[&x], &|_, row| plain(row::log_softmax(&row[0], tau))),
                _ => {
                    let lse = |places: Vec<usize>| {
                        let row: Vec<f64> = places.into_iter().map(|i| x[i]).collect();
                        let state = row::State::of(&row, tau);
                        // The maximum and the logarithm may cancel; 16-bit logits have coarser weights.
                        let term = 2f64.powi(if half { -18 } else { -22 }) * state.max.abs() / tau;
                        Exact { value: state.lse(tau), lost: if term.is_finite() { term } else { 0.0 } }
                    };
                    vec![rows.places().map(lse).collect()]
                }
            }
        }
        Inputs::Probabilities(y, dy) => {
            let (y, dy) = (f64s(y.to_vec()?), f64s(dy.to_vec()?));
            spread(&[&y, &dy], &|_, row| plain(row::softmax_backward(&row[0], &row[1], tau)))
        }
        Inputs::LogProbabilities(y, dy) => {
            let (y, dy) = (f64s(y.to_vec()?), f64s(dy.to_vec()?));
            spread(&[&y, &dy], &|_, row| {
                // The exponential of 16-bit elements is good to 2^-21, which shows where the two terms cancel.
                let sum: f64 = row[1].iter().sum();
                let part = if half { 2f64.powi(-21) / tau } else { 0.0 };
                let values =
                    row::log_softmax_backward(&row[0], &row[1], tau).into_iter().zip(row[0].iter().zip(&row[1]));
                values
                    .map(|(value, (y, dy))| Exact { value, lost: part * dy.abs().max((y.exp() * sum).abs()) })
                    .collect()
            })
        }
        Inputs::LogitsAndRows(x, dlse) => {
            let (x, dlse) = (f64s(x.to_vec()?), dlse.to_vec()?);
            spread(&[&x], &|n, row| plain(row::logsumexp_backward(&row[0], f64::from(dlse[n]), tau)))
        }
        Inputs::Classes { logits, targets, saved } => {
            let (x, targets) = (f64s(logits.to_vec()?), targets.to_vec()?);
            match saved {
                None => {
                    let loss = |(places, target): (Vec<usize>, &i64)| {
                        let row: Vec<f64> = places.into_iter().map(|i| x[i]).collect();
                        Exact { value: losses::loss(&row, *target as usize, tau), lost: 0.0 }
                    };
                    vec![rows.places().zip(&targets).map(loss).collect()]
                }
                Some(saved) => {
                    let (_, dloss) = &**saved;
                    let dloss = dloss.to_vec()?;
                    spread(&[&x], &|n, row| {
                        let gradient = losses::loss_backward(&row[0], targets[n] as usize, tau);
                        plain(gradient.into_iter().map(|slope| slope * f64::from(dloss[n])).collect())
                    })
                }
            }
        }
        Inputs::Attention { .. } => of_attention(problem)?,
    })
}

/// Attention on the host, in float64 inside, from f32 copies of the same numbers.
fn of_attention<T: Float>(problem: &Problem<T>) -> Result<Vec<Vec<Exact>>, Failure> {
    let Inputs::Attention { qkv, upstream } = &problem.inputs else { unreachable!("called for attention") };
    let host = Device::cpu();
    let copy = |x: &sumexp::Tensor<T>| -> Result<sumexp::Tensor<f32>, Failure> {
        let values: Vec<f32> = x.to_vec()?.into_iter().map(T::to_f32).collect();
        Ok(sumexp::Tensor::from_slice(&host, x.dims(), &values)?)
    };
    let [q, k, v] = [copy(&qkv[0])?, copy(&qkv[1])?, copy(&qkv[2])?];
    let options = problem.call.attention();
    let output = sumexp::attention::forward(&q, &k, &v, &options)?;
    let plain = |values: Vec<f32>| values.into_iter().map(|x| Exact { value: x.into(), lost: 0.0 }).collect::<Vec<_>>();
    Ok(match upstream {
        None => vec![plain(output.out.to_vec()?), plain(output.lse.to_vec()?)],
        Some(saved) => {
            let (_, dout) = &**saved;
            let gradients = sumexp::attention::backward(&q, &k, &v, &output, &copy(dout)?, &options)?;
            let all = [gradients.dq, gradients.dk, gradients.dv];
            all.iter().map(|x| Ok(plain(x.to_vec()?))).collect::<Result<_, Failure>>()?
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_counted_in_units_of_the_last_place() {
        let exact = |value| Exact { value, lost: 0.0 };
        assert_eq!(error(DType::F32, 1.0 + f64::from(f32::EPSILON), exact(1.0)), 1.0);
        assert_eq!(error(DType::BF16, 1.0 + 2f64.powi(-8), exact(1.0)), 0.5);
        assert_eq!(error(DType::F16, 2.0, exact(2.0)), 0.0);
        assert_eq!(error(DType::F32, 1e-40, exact(0.0)), 0.0);
        assert_eq!(error(DType::F32, 1.5, Exact { value: 1.0, lost: 0.5 }), 0.0);
        assert_eq!(error(DType::F32, f64::NAN, exact(f64::NAN)), 0.0);
        for (got, want) in [(f64::NAN, 1.0), (1.0, f64::NAN), (f64::INFINITY, 1.0), (1.0, f64::INFINITY)] {
            assert_eq!(error(DType::F32, got, exact(want)), f64::INFINITY, "{got} {want}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let want = [1.0, -2.0, 0.5].map(|value| Exact { value, lost: 0.0 }).to_vec();
        for (got, bound, wrong) in [
            (vec![1.0, -2.0, 0.5], Bound::Ulps(0.51), false),
            (vec![1.0, -2.0, 0.6], Bound::Ulps(8.0), true),
            (vec![1.0, f64::NAN, 0.5], Bound::OfLargest(1e-2), true),
            (vec![1.0, -2.001, 0.5], Bound::OfLargest(1e-2), false),
            (vec![1.0, -2.1, 0.5], Bound::OfLargest(1e-2), true),
        ] {
            let part = Part { name: "y", dtype: DType::F32, got, want: want.clone(), bound };
            let mut text = Vec::new();
            let said = part.print(&mut text).unwrap();
            assert_eq!(said.is_some(), wrong, "{said:?}");
            assert_eq!(String::from_utf8(text).unwrap().contains("WRONG"), wrong);
        }
    }
}
