//! Draws words from made-up logits at three temperatures, from the nucleus of 90 % of the probability.
//!
//! `cargo run --example sample_tokens`: on the GPU if there is one. The same seed draws the same words on every run.

use sumexp::{Device, Dim, Random, SampleOptions, Tensor, sample};

/// What may follow "the cat ...", and how likely a model might think it: logits, not probabilities.
const WORDS: [(&str, f32); 10] = [
    ("sat", 6.0),
    ("slept", 5.4),
    ("purred", 5.0),
    ("ran", 4.1),
    ("jumped", 3.6),
    ("ate", 3.3),
    ("spoke", 1.2),
    ("evaporated", -1.5),
    ("compiled", -2.0),
    ("", f32::NEG_INFINITY),
];
/// Words drawn per temperature: rows of one call, each with random bits of its own.
const DRAWS: usize = 12;

fn main() -> sumexp::Result<()> {
    let device = Device::cuda(0).unwrap_or(Device::cpu());
    let logits = Tensor::from_slice(&device, &[1, WORDS.len()], &WORDS.map(|(_, logit)| logit))?;
    // One row in memory, seen as many.
    let rows = logits.view().expand(&[DRAWS, WORDS.len()])?;
    for (offset, temperature) in [0.5, 1.0, 2.0].into_iter().enumerate() {
        let options = SampleOptions { temperature, top_p: 0.9, ..SampleOptions::default() };
        let drawn = sample(rows, Dim::LAST, &options, Random::Seed { seed: 2, offset: offset as u64 })?;
        let kept = drawn.kept_mass.to_vec()?[0];
        println!("temperature {temperature}: the nucleus has {:.1} % of the probability", 100.0 * kept);
        for (id, log_probability) in drawn.ids.to_vec()?.into_iter().zip(drawn.log_probabilities.to_vec()?) {
            println!("  the cat {:<12} {:5.1} %", WORDS[id as usize].0, 100.0 * log_probability.exp());
        }
    }
    Ok(())
}
