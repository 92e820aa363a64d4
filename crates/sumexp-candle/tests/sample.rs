//! Sampling: what sumexp itself draws from the same numbers.

mod common;

use candle_core::{DType, Device, Result, Tensor};
use common::{Input, Random};
use sumexp_candle::{Random as Bits, SampleOptions, sample};

#[test]
fn draws_are_those_of_sumexp() -> Result<()> {
    let here = sumexp::Device::cpu();
    for number in 0..100 {
        let mut random = Random(number);
        let (rows, classes) = (1 + random.below(5), 2 + random.below(30));
        let values = random.values(rows * classes);
        let x = Input::new(&mut random, &[rows, classes], &values, DType::F32, &Device::Cpu)?.tensor()?;
        let options = SampleOptions {
            temperature: [0.7, 1.0, 3.0][random.below(3)],
            top_k: [None, Some(1), Some(2)][random.below(3)],
            top_p: [1.0, 0.9, 0.3][random.below(3)],
            min_p: [0.0, 0.05][random.below(2)],
        };
        let seeds: Vec<i64> = (0..rows).map(|_| random.bits() as i64).collect();
        let (seed, offset) = (random.bits(), random.bits());
        let state = [seed as i64, offset as i64];
        let (state_there, seeds_there) = (
            sumexp::Tensor::from_slice(&here, &[2], &state).unwrap(),
            sumexp::Tensor::from_slice(&here, &[rows], &seeds).unwrap(),
        );
        let (bits, same) = match number % 3 {
            0 => (Bits::Seed { seed, offset }, sumexp::Random::Seed { seed, offset }),
            1 => (Bits::Device(Tensor::new(&state, &Device::Cpu)?), sumexp::Random::Device(state_there.view())),
            _ => (
                Bits::PerRow { seeds: Tensor::new(seeds.as_slice(), &Device::Cpu)?, offset },
                sumexp::Random::PerRow { seeds: seeds_there.view(), offset },
            ),
        };
        let got = sample(&x, 1, &options, &bits)?;
        let there = x.flatten_all()?.to_vec1::<f32>()?;
        let there = sumexp::Tensor::from_slice(&here, &[rows, classes], &there).unwrap();
        let want = sumexp::sample(&there, sumexp::Dim::LAST, &options, same).unwrap();
        assert_eq!(got.ids.to_vec1::<i64>()?, want.ids.to_vec().unwrap(), "case {number}");
        assert_eq!(got.valid.to_vec1::<u8>()?, want.valid.to_vec().unwrap(), "case {number}");
        assert_eq!(got.log_probabilities.to_vec1::<f32>()?, want.log_probabilities.to_vec().unwrap(), "case {number}");
        assert_eq!(got.kept_mass.to_vec1::<f32>()?, want.kept_mass.to_vec().unwrap(), "case {number}");
    }
    Ok(())
}

#[test]
fn refusals() -> Result<()> {
    let x = Tensor::zeros((2, 3), DType::F32, &Device::Cpu)?;
    let seed = Bits::Seed { seed: 0, offset: 0 };
    let said = |options: SampleOptions, bits: &Bits| sample(&x, 1, &options, bits).unwrap_err().to_string();
    assert!(said(SampleOptions { top_k: Some(4), ..Default::default() }, &seed).contains("top_k"));
    assert!(said(SampleOptions { top_p: 0.0, ..Default::default() }, &seed).contains("top_p"));
    let short = Bits::PerRow { seeds: Tensor::zeros(3, DType::I64, &Device::Cpu)?, offset: 0 };
    assert!(said(SampleOptions::default(), &short).contains("seeds"));
    let floats = Bits::Device(Tensor::zeros(2, DType::F32, &Device::Cpu)?);
    assert!(said(SampleOptions::default(), &floats).contains("I64"));
    assert!(sample(&x, 2, &SampleOptions::default(), &seed).is_err());
    Ok(())
}
