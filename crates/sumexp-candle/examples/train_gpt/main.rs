//! Trains a small GPT on a text with candle and sumexp, and lets it write.
//!
//! `make demo`, or `make demo ARGS="--text FILE --steps 2000 --save run.safetensors"`. candle has the matrix products; attention with its
//! gradient, the loss with its gradient, and the draws are sumexp's. A run that is killed goes on with `--load run.safetensors`, and ends
//! at the same loss as one that was not.

mod arguments;
mod checkpoint;
mod heat_map;
mod model;
mod optimizer;
mod picture;
mod random;
mod text;

use arguments::Arguments;
use candle_core::{D, Device, Tensor};
use checkpoint::Run;
use model::{CONTEXT, Gpt};
use optimizer::AdamW;
use picture::{Level, Progress, draw, write_whole};
use random::Random;
use std::error::Error;
use std::f64::consts::LN_2;
use std::path::Path;
use sumexp_candle::{CrossEntropy, SampleOptions, cross_entropy, sample};
use text::{Text, bigram_bits};

/// Sequences per step, of [`CONTEXT`] characters each.
const BATCH: usize = 16;
/// Steps, if nobody says how many.
const STEPS: usize = 600;
/// The learning rate at its highest: it rises over the first steps and falls to a tenth along a cosine.
const RATE: f64 = 3e-3;
const WARM_UP: usize = 40;
/// Validation losses while training are taken over so many sequences, that at the end over all.
const CHECK: usize = 32;
/// Characters that are written at each temperature, behind those that are given.
const SAMPLE: usize = 300;
const GIVEN: usize = 32;
const TEMPERATURES: [f32; 3] = [0.5, 0.8, 1.0];
/// What is left out of the draws: the least likely characters, together at most this.
const TOP_P: f32 = 0.95;

fn main() {
    if let Err(error) = run() {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse(std::env::args().skip(1))?;
    let text = Text::read(&arguments.text)?;
    let (train, held_out) = text.split();
    let device = arguments.device.open();
    let seed = arguments.seed.unwrap_or(1);
    let model = Gpt::new(text.alphabet.len(), &mut Random::new(seed), &device)?;
    let parameters = model.parameters();
    let mut optimizer = AdamW::new(&parameters)?;
    let run = match &arguments.load {
        None => Run { seed, steps: STEPS, text: text.fingerprint(), ..Run::default() },
        Some(path) => checkpoint::load(path, &model, &mut optimizer, &device)?,
    };
    let mut run = Run { steps: arguments.steps.unwrap_or(run.steps), ..run };
    if run.text != text.fingerprint() {
        return Err(format!("{} is not the text that the loaded run began with", arguments.text.display()).into());
    }
    let begun = run.batches.len();
    println!(
        "text    {}: {} characters, {} different",
        arguments.text.display(),
        text.codes.len(),
        text.alphabet.len()
    );
    println!("device  {:?}", device.location());
    println!("model   {} weights, {} blocks, {CONTEXT} characters of context", model.size(), model::LAYERS);
    if begun > 0 {
        println!("run     goes on behind step {begun} of {}", run.steps);
    }

    let bigram = bigram_bits(train, held_out, text.alphabet.len());
    let levels = [Level { bits: bigram, label: format!("bigram model, validation: {bigram:.2}") }];
    let curve = arguments.out.join("loss.svg");
    let failed = |what: &str, path: &Path, error| format!("{} cannot be {what}: {error}", path.display());
    std::fs::create_dir_all(&arguments.out).map_err(|error| failed("created", &arguments.out, error))?;
    let start = std::time::Instant::now();
    let mut progress = Progress::new(begun, run.steps);
    for step in begun + 1..=run.steps {
        let mut random = Random::new(run.seed ^ (step as u64).wrapping_mul(0xd134_2543_de82_ef95));
        let starts: Vec<usize> = (0..BATCH).map(|_| random.below(train.len() - CONTEXT)).collect();
        let (contexts, targets) = sequences(train, &starts, &device)?;
        let loss = cross_entropy(&model.forward(&contexts)?, D::Minus1, &targets, &CrossEntropy::default())?.loss;
        let gradients = loss.backward()?;
        optimizer.step(&parameters, &gradients, rate(step, run.steps), step)?;

        let bits = f64::from(loss.to_scalar::<f32>()?) / LN_2;
        run.batches.push(bits);
        if step % (run.steps / 20).max(1) == 0 || step == run.steps {
            run.checks.push((step, bits_per_character(&model, held_out, CHECK, &device)?));
            // Again at each check: the curve can be watched, and a folder that is read-only is noticed before the end.
            let batches: Vec<(usize, f64)> = (1..).zip(run.batches.iter().copied()).collect();
            let drawn = draw(&batches, &run.checks, &levels);
            write_whole(&curve, &drawn).map_err(|error| failed("written", &curve, error))?;
            if let Some(path) = &arguments.save {
                checkpoint::save(path, &run, &model, &optimizer)?;
            }
        }
        let held = run.checks.last().map_or(String::new(), |(_, held)| format!(", validation {held:.2}"));
        progress.show(step, BATCH * CONTEXT, &format!("{bits:.2} bits per character{held}"));
    }

    let held = bits_per_character(&model, held_out, usize::MAX, &device)?;
    let last = &run.batches[run.batches.len().saturating_sub(50)..];
    let trained = last.iter().sum::<f64>() / last.len() as f64;
    println!("bits per character: training {trained:.4}, validation {held:.4} (bigram model: {bigram:.4})");
    println!("time: {:.0?}; loss curve: {}", start.elapsed(), curve.display());

    let line: Vec<u32> = held_out[..CONTEXT.min(48)].to_vec();
    let picture = arguments.out.join("attention.svg");
    let weights = model.attention(&Tensor::new(line.as_slice(), &device)?.unsqueeze(0)?)?;
    let weights = weights.iter().map(|weights| weights.squeeze(0)?.to_vec3()).collect::<Result<Vec<_>, _>>()?;
    let characters: Vec<char> = line.iter().map(|code| text.alphabet[*code as usize]).collect();
    write_whole(&picture, &heat_map::draw(&characters, &weights))
        .map_err(|error| failed("written", &picture, error))?;
    println!("where the heads look: {}", picture.display());
    let written = write(&model, &held_out[..GIVEN], run.seed, &device)?;
    for (temperature, codes) in TEMPERATURES.iter().zip(written) {
        let written: String = codes.iter().map(|code| text.alphabet[*code as usize]).collect();
        println!("\n--- temperature {temperature}, top-p {TOP_P} ---\n{written}");
    }
    Ok(())
}

/// The characters `[starts, CONTEXT]` that begin at each of `starts`, and what follows each of them, `[starts * CONTEXT]`.
fn sequences(codes: &[u32], starts: &[usize], device: &Device) -> candle_core::Result<(Tensor, Tensor)> {
    let from = |shift: usize| -> Vec<u32> {
        starts.iter().flat_map(|start| &codes[start + shift..][..CONTEXT]).copied().collect()
    };
    let contexts = Tensor::from_vec(from(0), (starts.len(), CONTEXT), device)?;
    Ok((contexts, Tensor::from_vec(from(1), starts.len() * CONTEXT, device)?))
}

/// The loss over at most so many sequences of `codes`, evenly spread.
fn bits_per_character(model: &Gpt, codes: &[u32], most: usize, device: &Device) -> candle_core::Result<f64> {
    let all: Vec<usize> = (0..codes.len() - CONTEXT).step_by(CONTEXT).collect();
    let stride = all.len().div_ceil(most).max(1);
    let starts: Vec<usize> = all.into_iter().step_by(stride).collect();
    let mut nats = 0.0;
    for batch in starts.chunks(BATCH) {
        let (contexts, targets) = sequences(codes, batch, device)?;
        let logits = model.forward(&contexts)?.detach();
        let loss = cross_entropy(&logits, D::Minus1, &targets, &CrossEntropy::default())?.loss;
        nats += f64::from(loss.to_scalar::<f32>()?) * batch.len() as f64;
    }
    Ok(nats / starts.len() as f64 / LN_2)
}

/// Lets the model continue `given` at each temperature.
fn write(model: &Gpt, given: &[u32], seed: u64, device: &Device) -> candle_core::Result<Vec<Vec<u32>>> {
    let mut written = vec![given.to_vec(); TEMPERATURES.len()];
    for offset in 0..SAMPLE as u64 {
        let length = written[0].len().min(CONTEXT);
        let seen: Vec<u32> = written.iter().flat_map(|codes| &codes[codes.len() - length..]).copied().collect();
        let logits = model.forward(&Tensor::from_vec(seen, (TEMPERATURES.len(), length), device)?)?.detach();
        for (n, (codes, temperature)) in written.iter_mut().zip(TEMPERATURES).enumerate() {
            let options = SampleOptions { temperature, top_p: TOP_P, ..SampleOptions::default() };
            let last = logits.narrow(0, (n + 1) * length - 1, 1)?;
            let random = sumexp_candle::Random::Seed { seed: seed.wrapping_add(n as u64), offset };
            codes.push(sample(&last, D::Minus1, &options, &random)?.ids.to_vec1::<i64>()?[0] as u32);
        }
    }
    Ok(written)
}

/// The learning rate of a step.
fn rate(step: usize, steps: usize) -> f64 {
    let warm = (step as f64 / WARM_UP as f64).min(1.0);
    let done = step as f64 / steps as f64;
    RATE * warm * (0.1 + 0.45 * (1.0 + (std::f64::consts::PI * done).cos()))
}
