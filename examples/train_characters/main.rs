//! Trains a next-character model on a text with sumexp's cross-entropy and its gradient, and lets it write.
//!
//! `cargo run --release --example train_characters -- --text FILE --steps 2000 --seed 1 --device cpu`.
//! The network itself is plain Rust in `model.rs`. Everything that is a log-sum-exp runs in sumexp, on the GPU if
//! there is one: the loss of each batch together with its gradient, and the characters that are drawn at the end.

mod arguments;
mod matrix;
mod model;
mod picture;
mod random;
mod text;

use arguments::Arguments;
use model::{CONTEXT, Model};
use picture::{Level, Progress, draw, write_whole};
use random::Random;
use std::error::Error;
use std::f64::consts::LN_2;
use std::path::Path;
use sumexp::{CrossEntropy, Device, Dim, SampleOptions, Tensor, cross_entropy, cross_entropy_in_place, sample};
use text::{Text, bigram_bits};

/// Characters per step.
const BATCH: usize = 256;
/// The learning rate at its highest: it rises over the first steps and falls to zero along a cosine.
const RATE: f32 = 2e-3;
const WARM_UP: usize = 50;
/// Characters written at the end of training, per temperature.
const SAMPLE: usize = 280;
/// While training, one of this many held-out characters is enough for the curve.
const CHECK: usize = 8;

fn main() {
    if let Err(error) = run() {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse(std::env::args().skip(1))?;
    let text = Text::read(&arguments.text)?;
    let device = arguments.device.open()?;
    let classes = text.alphabet.len();
    let (train, held_out) = text.split();
    let mut random = Random::new(arguments.seed);
    let mut model = Model::new(classes, &mut random);
    println!("text    {}: {} characters, {classes} different", arguments.text.display(), text.codes.len());
    println!("device  {}", device.description());
    println!("model   {} weights, {CONTEXT} characters of context", model.size());

    let bigram = bigram_bits(train, held_out, classes);
    let levels = [Level { bits: bigram, label: format!("bigram model, held out: {bigram:.2}") }];
    let picture = arguments.out.join("loss.svg");
    let failed = |what: &str, path: &Path, error| format!("{} cannot be {what}: {error}", path.display());
    std::fs::create_dir_all(&arguments.out).map_err(|error| failed("created", &arguments.out, error))?;
    let start = std::time::Instant::now();
    let (mut batches, mut checks) = (Vec::new(), Vec::new());
    let mut progress = Progress::new(arguments.steps);
    for step in 1..=arguments.steps {
        let starts: Vec<usize> = (0..BATCH).map(|_| random.below(train.len() - CONTEXT)).collect();
        let (contexts, targets) = examples(train, &starts);
        let forward = model.forward(contexts);
        let (bits, dlogits) = loss_and_gradient(&device, &forward.logits, &targets)?;
        model.backward(&forward, &dlogits);
        model.step(rate(step, arguments.steps));

        batches.push((step, bits));
        if step % (arguments.steps / 20).max(1) == 0 || step == arguments.steps {
            checks.push((step, bits_per_character(&device, &model, held_out, CHECK)?));
            // Again at each check: the curve can be watched, and a folder that is read-only is noticed before the end.
            let drawn = draw(&batches, &checks, &levels);
            write_whole(&picture, &drawn).map_err(|error| failed("written", &picture, error))?;
        }
        let held = checks.last().map_or(String::new(), |(_, held)| format!(", held out {held:.2}"));
        progress.show(step, &format!("{bits:.2} bits per character{held}"));
    }

    let held = bits_per_character(&device, &model, held_out, 1)?;
    println!("held-out text, bits per character: {held:.3} (bigram model: {bigram:.3}), after {:.0?}", start.elapsed());
    println!("loss curve: {}", picture.display());
    for temperature in [0.3, 0.7, 1.0] {
        let written = write(&device, &model, &text, temperature, &mut random)?;
        println!("\n--- temperature {temperature} ---\n{written}");
    }
    Ok(())
}

/// The contexts that begin at `starts`, one after the other, and the character that follows each.
fn examples(codes: &[u32], starts: &[usize]) -> (Vec<u32>, Vec<u32>) {
    let contexts = starts.iter().flat_map(|start| &codes[*start..start + CONTEXT]).copied().collect();
    (contexts, starts.iter().map(|start| codes[start + CONTEXT]).collect())
}

/// Mean loss of a batch in bits per character, and the gradient of the loss (in nats) with respect to the logits.
fn loss_and_gradient(device: &Device, logits: &[f32], targets: &[u32]) -> Result<(f64, Vec<f32>), Box<dyn Error>> {
    let logits = Tensor::from_slice(device, &[targets.len(), logits.len() / targets.len()], logits)?;
    let targets = Tensor::from_slice(device, &[targets.len()], targets)?;
    let (output, dlogits) = cross_entropy_in_place(logits, Dim::LAST, &targets, None, &CrossEntropy::default())?;
    Ok((f64::from(output.loss.to_vec()?[0]) / LN_2, dlogits.to_vec()?))
}

/// Bits per character of every `stride`-th position of `codes`.
fn bits_per_character(device: &Device, model: &Model, codes: &[u32], stride: usize) -> Result<f64, Box<dyn Error>> {
    let starts: Vec<usize> = (0..codes.len() - CONTEXT).step_by(stride).collect();
    let mut nats = 0.0;
    for starts in starts.chunks(2048) {
        let (contexts, targets) = examples(codes, starts);
        let logits = model.forward(contexts).logits;
        let logits = Tensor::from_slice(device, &[targets.len(), logits.len() / targets.len()], &logits)?;
        let targets = Tensor::from_slice(device, &[targets.len()], &targets)?;
        let output = cross_entropy(&logits, Dim::LAST, &targets, &CrossEntropy::default())?;
        nats += f64::from(output.loss.to_vec()?[0]) * starts.len() as f64;
    }
    Ok(nats / starts.len() as f64 / LN_2)
}

/// Lets the model continue the text's beginning, each character drawn from its probabilities at `temperature`.
fn write(
    device: &Device,
    model: &Model,
    text: &Text,
    temperature: f32,
    random: &mut Random,
) -> Result<String, Box<dyn Error>> {
    let options = SampleOptions { temperature, ..SampleOptions::default() };
    let start = random.below(text.codes.len() / 2);
    let seed = random.bits();
    let mut codes = text.codes[start..start + CONTEXT].to_vec();
    for offset in 0..SAMPLE as u64 {
        let logits = model.forward(codes[codes.len() - CONTEXT..].to_vec()).logits;
        let logits = Tensor::from_slice(device, &[logits.len()], &logits)?;
        let drawn = sample(&logits, Dim::LAST, &options, sumexp::Random::Seed { seed, offset })?;
        codes.push(drawn.ids.to_vec()?[0] as u32);
    }
    Ok(codes.iter().map(|code| text.alphabet[*code as usize]).collect())
}

/// The learning rate of a step.
fn rate(step: usize, steps: usize) -> f32 {
    let warm = (step as f32 / WARM_UP as f32).min(1.0);
    let done = step as f32 / steps as f32;
    RATE * warm * 0.5 * (1.0 + (std::f32::consts::PI * done).cos())
}
