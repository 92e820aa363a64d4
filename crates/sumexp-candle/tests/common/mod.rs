//! Random tensors of many layouts, and comparison of gradients.

#![allow(dead_code)] // Every test file is a program of its own and uses a part of this.

use candle_core::{DType, Device, Result, Tensor, Var};

/// SplitMix64: a case is repeated by its number.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// From 0 to 1.
    pub fn part(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Numbers of a few units, the first of every eight an outlier.
    pub fn values(&mut self, count: usize) -> Vec<f64> {
        (0..count).map(|i| (self.part() * 6.0 - 3.0) * if i % 8 == 0 { 3.0 } else { 1.0 }).collect()
    }

    pub fn shape(&mut self) -> Vec<usize> {
        let rank = 1 + self.below(4);
        (0..rank).map(|_| [1, 2, 3, 5, 8][self.below(5)]).collect()
    }
}

/// A variable, and a tensor that is made of it without a copy and has these dims: contiguous, transposed, or a part of something
/// larger.
pub struct Input {
    pub var: Var,
    how: usize,
    dims: Vec<usize>,
}

impl Input {
    /// `values` in the order of the dims, rounded to `dtype`.
    pub fn new(random: &mut Random, dims: &[usize], values: &[f64], dtype: DType, device: &Device) -> Result<Self> {
        let (how, x) = (random.below(3), Tensor::from_slice(values, dims, &Device::Cpu)?.to_dtype(dtype)?);
        let held = match how {
            0 => x,
            1 => x.transpose(0, dims.len() - 1)?.contiguous()?,
            // NaN around what takes part.
            _ => {
                let wide: Vec<usize> = dims.iter().map(|dim| dim + 3).collect();
                let mut around = Tensor::full(f64::NAN, wide.as_slice(), &Device::Cpu)?.to_dtype(dtype)?;
                let ranges: Vec<std::ops::Range<usize>> = dims.iter().map(|dim| 1..dim + 1).collect();
                around = around.slice_assign(&ranges, &x)?;
                around
            }
        };
        Ok(Self { var: Var::from_tensor(&held.to_device(device)?)?, how, dims: dims.to_vec() })
    }

    pub fn tensor(&self) -> Result<Tensor> {
        self.laid_out(self.var.as_tensor())
    }

    /// What the variable's gradient is in the order of the tensor.
    pub fn laid_out(&self, held: &Tensor) -> Result<Tensor> {
        match self.how {
            0 => Ok(held.clone()),
            1 => held.transpose(0, self.dims.len() - 1),
            _ => {
                let mut part = held.clone();
                for (dim, len) in self.dims.iter().enumerate() {
                    part = part.narrow(dim, 1, *len)?;
                }
                Ok(part)
            }
        }
    }
}

/// All elements in row-major order.
pub fn numbers(tensor: &Tensor) -> Result<Vec<f64>> {
    tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

/// Fails unless every element is within `tolerance` times the largest magnitude that is wanted, and NaN and infinities are where they
/// are wanted.
#[track_caller]
pub fn same(case: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{case}");
    let largest = want.iter().filter(|want| want.is_finite()).fold(0f64, |largest, want| largest.max(want.abs()));
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        let right = match want.is_finite() {
            // The second is rounding of the f64 that is wanted: where everything cancels, the result is 0.
            true => (got - want).abs() <= tolerance * largest + 1e-15,
            false => got == want || (got.is_nan() && want.is_nan()),
        };
        assert!(right, "{case} [{index}]: got {got:e}, want {want:e}, the largest is {largest:e}");
    }
}

#[test]
fn the_comparison_sees_what_is_wrong() {
    for (got, want) in
        [(vec![0.0, 0.0], vec![0.0, 1.0]), (vec![f64::NAN, 1.0], vec![0.0, 1.0]), (vec![1.0], vec![f64::INFINITY])]
    {
        assert!(std::panic::catch_unwind(|| same("wrong", &got, &want, 1e-5)).is_err(), "{got:?} passed for {want:?}");
    }
    same("right", &[1.0, 1e-9, f64::NAN], &[1.0, 0.0, f64::NAN], 1e-5);
}
