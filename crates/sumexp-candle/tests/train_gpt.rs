//! The parts of the example `train_gpt`: its model learns, and a run that is loaded goes on to the bit.
#![allow(dead_code)] // The example uses all of them.

#[path = "../examples/train_gpt/checkpoint.rs"]
mod checkpoint;
#[path = "../examples/train_gpt/model.rs"]
mod model;
#[path = "../examples/train_gpt/optimizer.rs"]
mod optimizer;
#[path = "../examples/train_gpt/random.rs"]
mod random;

use candle_core::{D, Device, Result, Tensor};
use checkpoint::Run;
use model::Gpt;
use optimizer::AdamW;
use random::Random;
use std::path::PathBuf;
use sumexp_candle::{CrossEntropy, cross_entropy};

const CLASSES: usize = 5;
const LENGTH: usize = 12;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn begin() -> Result<(Gpt, AdamW)> {
    let model = Gpt::new(CLASSES, &mut Random::new(3), &Device::Cpu)?;
    let optimizer = AdamW::new(&model.parameters())?;
    Ok((model, optimizer))
}

/// One step on sequences in which every character is the one three places before it. The loss is that of the last ones.
fn step(number: usize, model: &Gpt, optimizer: &mut AdamW) -> Result<f32> {
    let mut random = Random::new(number as u64);
    let mut rows: Vec<u32> = Vec::new();
    for _ in 0..8 {
        let period: Vec<u32> = (0..3).map(|_| random.below(CLASSES) as u32).collect();
        rows.extend((0..LENGTH).map(|n| period[n % 3]));
    }
    let all = Tensor::from_vec(rows, (8, LENGTH), &Device::Cpu)?;
    let logits = model.forward(&all.narrow(1, 0, LENGTH - 1)?.contiguous()?)?.reshape((8, LENGTH - 1, CLASSES))?;
    let (logits, targets) = (logits.narrow(1, 3, LENGTH - 4)?, all.narrow(1, 4, LENGTH - 4)?);
    let loss = cross_entropy(&logits, D::Minus1, &targets, &CrossEntropy::default())?.loss;
    optimizer.step(&model.parameters(), &loss.backward()?, 3e-3, number)?;
    loss.to_scalar()
}

#[test]
fn the_model_learns_what_only_attention_can_see() -> Result<()> {
    let (model, mut optimizer) = begin()?;
    let losses = (1..=60).map(|number| step(number, &model, &mut optimizer)).collect::<Result<Vec<f32>>>()?;
    assert!(losses[0] > 1.2, "five characters at random cost ln 5: {}", losses[0]);
    assert!(losses[50..].iter().all(|loss| *loss < 0.3), "{:?}", &losses[50..]);
    Ok(())
}

#[test]
fn a_loaded_run_goes_on_to_the_bit() -> Result<()> {
    let (model, mut optimizer) = begin()?;
    for number in 1..=3 {
        step(number, &model, &mut optimizer)?;
    }
    let run = Run { seed: u64::MAX, steps: 9, text: 1 << 63, batches: vec![3.5, 0.1], checks: vec![(2, 4.25)] };
    let file = path("run.safetensors");
    checkpoint::save(&file, &run, &model, &optimizer).unwrap();

    let other = Gpt::new(CLASSES, &mut Random::new(99), &Device::Cpu)?;
    let mut loaded = AdamW::new(&other.parameters())?;
    assert_eq!(checkpoint::load(&file, &other, &mut loaded, &Device::Cpu).unwrap(), run);
    for number in 4..=6 {
        assert_eq!(step(number, &model, &mut optimizer)?.to_bits(), step(number, &other, &mut loaded)?.to_bits());
    }
    Ok(())
}

#[test]
fn files_that_are_no_run_are_refused() -> Result<()> {
    let (model, mut optimizer) = begin()?;
    let file = path("other.safetensors");
    let mut refused = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        checkpoint::load(&file, &model, &mut optimizer, &Device::Cpu).unwrap_err()
    };
    assert!(refused(b"").contains("cannot be loaded"));
    // A header that claims more than the file holds.
    assert!(refused(&[255; 64]).contains("cannot be loaded"));
    let whole = path("whole.safetensors");
    let (wide, averages) = (Gpt::new(CLASSES + 1, &mut Random::new(1), &Device::Cpu)?, begin()?.1);
    let averages = AdamW { averages: averages.averages };
    checkpoint::save(&whole, &Run::default(), &wide, &averages).unwrap();
    let bytes = std::fs::read(&whole).unwrap();
    assert!(refused(&bytes[..bytes.len() - 1]).contains("cannot be loaded"));
    let said = refused(&bytes);
    assert!(said.contains("parameter.embedding") && said.contains("[6, 96]") && said.contains("[5, 96]"), "{said}");
    let missing = checkpoint::load(&path("none"), &model, &mut optimizer, &Device::Cpu).unwrap_err();
    assert!(missing.contains("none cannot be loaded"), "{missing}");
    Ok(())
}
