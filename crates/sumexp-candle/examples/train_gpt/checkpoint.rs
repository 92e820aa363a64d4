//! A run as a safetensors file: parameters, the optimizer's averages, and how far it came. A run that was loaded goes on as if it had
//! never stopped: batches depend on the seed and the number of the step alone.

use crate::model::Gpt;
use crate::optimizer::AdamW;
use candle_core::{DType, Device, Tensor, safetensors};
use std::collections::HashMap;
use std::path::Path;

/// What a run is, beside its tensors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    pub seed: u64,
    /// Steps that are planned.
    pub steps: usize,
    /// Of the text: a run goes on with the text that it began with.
    pub text: u64,
    /// Bits per character of every batch so far: its length is the number of steps done.
    pub batches: Vec<f64>,
    /// Steps at which the validation loss was taken, and what it was, in bits per character.
    pub checks: Vec<(usize, f64)>,
}

const FORMAT: i64 = 1;

/// Writes a whole file or none: an interrupt never leaves half of one.
pub fn save(path: &Path, run: &Run, model: &Gpt, optimizer: &AdamW) -> Result<(), String> {
    let write = || -> candle_core::Result<()> {
        let mut tensors: HashMap<String, Tensor> = HashMap::new();
        for ((name, parameter), (mean, square)) in model.parameters().into_iter().zip(&optimizer.averages) {
            tensors.insert(format!("parameter.{name}"), parameter.as_detached_tensor());
            tensors.insert(format!("mean.{name}"), mean.clone());
            tensors.insert(format!("square.{name}"), square.clone());
        }
        let numbers = [FORMAT, run.seed as i64, run.steps as i64, run.text as i64];
        let (steps, checks): (Vec<i64>, Vec<f64>) = run.checks.iter().map(|(step, bits)| (*step as i64, *bits)).unzip();
        tensors.insert("run.numbers".into(), Tensor::new(&numbers, &Device::Cpu)?);
        tensors.insert("run.batches".into(), Tensor::new(run.batches.as_slice(), &Device::Cpu)?);
        tensors.insert("run.check_steps".into(), Tensor::new(steps.as_slice(), &Device::Cpu)?);
        tensors.insert("run.checks".into(), Tensor::new(checks.as_slice(), &Device::Cpu)?);
        let part = path.with_extension("part");
        safetensors::save(&tensors, &part)?;
        std::fs::rename(&part, path)?;
        Ok(())
    };
    write().map_err(|error| format!("{} cannot be written: {}", path.display(), without_backtrace(&error)))
}

/// Puts a run into a model and an optimizer. Nothing is changed if the file is not one of this model.
pub fn load(path: &Path, model: &Gpt, optimizer: &mut AdamW, device: &Device) -> Result<Run, String> {
    let file = path.display();
    let said = |error: candle_core::Error| format!("{file} cannot be loaded: {}", without_backtrace(&error));
    let mut tensors = safetensors::load(path, &Device::Cpu).map_err(said)?;
    let mut take = |name: &str, dtype: DType, dims: Option<&[usize]>| -> Result<Tensor, String> {
        let tensor = tensors.remove(name).ok_or_else(|| format!("{file} holds no {name}: it is not of this model"))?;
        if tensor.dtype() != dtype || dims.is_some_and(|dims| dims != tensor.dims()) || tensor.rank() == 0 {
            let (found, shape) = (tensor.dtype(), tensor.dims());
            let wanted = dims.map_or(String::new(), |dims| format!(" {dims:?}"));
            return Err(format!("{file}: {name} is {found:?} {shape:?}, this model wants {dtype:?}{wanted}"));
        }
        Ok(tensor)
    };
    let numbers = take("run.numbers", DType::I64, Some(&[4]))?.to_vec1::<i64>().map_err(said)?;
    if numbers[0] != FORMAT {
        return Err(format!("{file} has format {}, this program reads {FORMAT}", numbers[0]));
    }
    let mut vector = |name: &str| take(name, DType::F64, None)?.to_vec1::<f64>().map_err(said);
    let (batches, checks) = (vector("run.batches")?, vector("run.checks")?);
    let steps = take("run.check_steps", DType::I64, Some(&[checks.len()]))?.to_vec1::<i64>().map_err(said)?;
    let checks = steps.iter().map(|step| *step as usize).zip(checks).collect();
    let mut found = Vec::new();
    for (name, parameter) in model.parameters() {
        let mut part = |kind: &str| {
            let tensor = take(&format!("{kind}.{name}"), DType::F32, Some(parameter.dims()))?;
            tensor.to_device(device).map_err(said)
        };
        found.push((parameter, part("parameter")?, part("mean")?, part("square")?));
    }
    optimizer.averages.clear();
    for (parameter, value, mean, square) in found {
        parameter.set(&value).map_err(said)?;
        optimizer.averages.push((mean, square));
    }
    let [_, seed, planned, text] = numbers[..] else { return Err(format!("{file}: run.numbers are not four")) };
    Ok(Run { seed: seed as u64, steps: planned as usize, text: text as u64, batches, checks })
}

/// The first line of an error: candle puts where it came from behind it.
fn without_backtrace(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_string()
}
