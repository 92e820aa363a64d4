//! One attention as data, and its way through the reference.

use super::super::random::Random;
use sumexp::mask::{Align, Band, Bits, Entries, Rule};
use sumexp::reference::attention::{
    Alibi, Attention, BiasGradient, Geometry, Gradients, Sequences, backward, forward, weights,
};
use sumexp::reference::{Operand, Output};
use sumexp::{Float, Polarity};

/// The rules of a mask, with their data.
#[derive(Clone, Debug, Default)]
pub struct Masks {
    pub bands: Vec<Band>,
    /// By batch.
    pub lengths: Option<Vec<i32>>,
    /// Of queries and keys, row-major by batch and position.
    pub segments: Option<(Vec<i32>, Vec<i32>)>,
    /// Row-major over its own shape, which has 1 where it is broadcast.
    pub bytes: Option<(Vec<u8>, [usize; 4], Polarity)>,
}

/// An attention with contiguous operands; their values are exact in `f32`.
#[derive(Clone, Debug)]
pub struct Problem {
    pub batch: usize,
    pub query_heads: usize,
    pub key_heads: usize,
    pub queries: usize,
    pub keys: usize,
    pub size: usize,
    pub value_size: usize,
    pub q: Vec<f64>,
    pub k: Vec<f64>,
    pub v: Vec<f64>,
    pub scale: f64,
    /// Row-major over its own shape.
    pub bias: Option<(Vec<f64>, [usize; 4])>,
    /// One slope per query head.
    pub alibi: Option<(Vec<f32>, Align)>,
    pub softcap: Option<f64>,
    pub masks: Masks,
}

/// All gradients, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradient<T> {
    pub dq: Vec<T>,
    pub dk: Vec<T>,
    pub dv: Vec<T>,
    /// Of the bias's own shape; empty without one.
    pub dbias: Vec<T>,
}

/// Row-major strides, 0 where a dim is 1.
pub fn strides<const N: usize>(shape: [usize; N]) -> [u64; N] {
    let mut stride = 1;
    let mut strides = [0; N];
    for n in (0..N).rev() {
        strides[n] = if shape[n] == 1 { 0 } else { stride };
        stride *= shape[n] as u64;
    }
    strides
}

/// The numbers in a type.
pub fn narrow<T: Float>(values: &[f64]) -> Vec<T> {
    values.iter().map(|x| T::from_f64(*x)).collect()
}

/// Random numbers that every type holds exactly: multiples of 1/32 below 4.
pub fn numbers(random: &mut Random, len: usize) -> Vec<f64> {
    (0..len).map(|_| (random.normal() * 32.0).round().clamp(-127.0, 127.0) / 32.0).collect()
}

/// Random gradients for a problem's results.
pub fn upstream(problem: &Problem, seed: u64) -> (Vec<f64>, Vec<f64>) {
    let mut random = Random::new(seed);
    let dout = numbers(&mut random, problem.out_shape().iter().product());
    (dout, numbers(&mut random, problem.lse_shape().iter().product()))
}

/// [outer, inner, width] as [inner, outer, width].
pub fn turned<T: Copy>(x: &[T], outer: usize, inner: usize, width: usize) -> Vec<T> {
    let row = |inner_row: usize, outer_row: usize| &x[(outer_row * inner + inner_row) * width..][..width];
    (0..inner).flat_map(|i| (0..outer).flat_map(move |o| row(i, o).to_vec()).collect::<Vec<_>>()).collect()
}

impl Problem {
    /// One batch and one head without extras.
    pub fn single(queries: usize, keys: usize, size: usize, seed: u64) -> Problem {
        Problem::new([1, 1, 1], [queries, keys], [size, size], seed)
    }

    /// Random operands; `[batch, query heads, key heads]`, `[queries, keys]`, `[D, Dv]`.
    pub fn new(
        [batch, query_heads, key_heads]: [usize; 3],
        [queries, keys]: [usize; 2],
        [size, value_size]: [usize; 2],
        seed: u64,
    ) -> Problem {
        let mut random = Random::new(seed);
        Problem {
            batch,
            query_heads,
            key_heads,
            queries,
            keys,
            size,
            value_size,
            q: numbers(&mut random, batch * query_heads * queries * size),
            k: numbers(&mut random, batch * key_heads * keys * size),
            v: numbers(&mut random, batch * key_heads * keys * value_size),
            // As a kernel takes it.
            scale: f64::from((1.0 / (size as f64).sqrt()) as f32),
            bias: None,
            alibi: None,
            softcap: None,
            masks: Masks::default(),
        }
    }

    pub fn geometry(&self) -> Geometry<'static> {
        Geometry {
            sequences: Sequences::Batched { batch: self.batch, queries: self.queries, keys: self.keys },
            query_heads: self.query_heads,
            key_heads: self.key_heads,
            head_size: self.size,
            value_size: self.value_size,
        }
    }

    pub fn q_shape(&self) -> [usize; 4] {
        [self.batch, self.query_heads, self.queries, self.size]
    }

    pub fn k_shape(&self) -> [usize; 4] {
        [self.batch, self.key_heads, self.keys, self.size]
    }

    pub fn v_shape(&self) -> [usize; 4] {
        [self.batch, self.key_heads, self.keys, self.value_size]
    }

    pub fn out_shape(&self) -> [usize; 4] {
        [self.batch, self.query_heads, self.queries, self.value_size]
    }

    pub fn lse_shape(&self) -> [usize; 3] {
        [self.batch, self.query_heads, self.queries]
    }

    /// Hands over the mask's rules.
    pub fn with_rules<R>(&self, run: impl FnOnce(&[Rule]) -> R) -> R {
        let Masks { bands, lengths, segments, bytes } = &self.masks;
        let mut rules: Vec<Rule> = bands.iter().map(|band| Rule::Band(*band)).collect();
        rules.extend(lengths.as_ref().map(|data| Rule::KeyLengths(Entries { data, strides: [1] })));
        rules.extend(segments.as_ref().map(|(q, k)| Rule::Segments {
            q: Entries { data: q, strides: [self.queries as u64, 1] },
            k: Entries { data: k, strides: [self.keys as u64, 1] },
        }));
        rules.extend(bytes.as_ref().map(|(data, shape, polarity)| {
            Rule::Visible(Bits { bytes: Entries { data, strides: strides(*shape) }, polarity: *polarity })
        }));
        run(&rules)
    }

    /// Hands over everything for the reference, in this type.
    pub fn with_attention<T: Float, R>(&self, run: impl FnOnce(&Attention<T>) -> R) -> R {
        let (q, k, v) = (narrow(&self.q), narrow(&self.k), narrow(&self.v));
        let bias = self.bias.as_ref().map(|(values, shape)| (narrow(values), strides(*shape)));
        self.with_rules(|mask| {
            run(&Attention {
                geometry: self.geometry(),
                q: Operand { data: &q, strides: &strides(self.q_shape()) },
                k: Operand { data: &k, strides: &strides(self.k_shape()) },
                v: Operand { data: &v, strides: &strides(self.v_shape()) },
                scale: self.scale,
                bias: bias.as_ref().map(|(data, strides)| Operand { data, strides }),
                alibi: self
                    .alibi
                    .as_ref()
                    .map(|(slopes, align)| Alibi { slopes: Operand { data: slopes, strides: &[0, 1] }, align: *align }),
                softcap: self.softcap,
                mask,
            })
        })
    }

    /// Output and lse of the reference. What it does not write stays NaN.
    pub fn forward<T: Float>(&self) -> (Vec<T>, Vec<f32>) {
        let mut out = vec![T::from_f64(f64::NAN); self.out_shape().iter().product()];
        let mut lse = vec![f32::NAN; self.lse_shape().iter().product()];
        self.with_attention(|attention| {
            let (out_strides, lse_strides) = (strides(self.out_shape()), strides(self.lse_shape()));
            let out = Output { data: &mut out[..], strides: &out_strides };
            forward(attention, out, Output { data: &mut lse[..], strides: &lse_strides });
        });
        (out, lse)
    }

    /// The weights of all rows.
    pub fn weights<T: Float>(&self) -> Vec<T> {
        let shape = [self.batch, self.query_heads, self.queries, self.keys];
        let mut out = vec![T::from_f64(f64::NAN); shape.iter().product()];
        self.with_attention(|attention| {
            weights(attention, 0..self.queries, Output { data: &mut out, strides: &strides(shape) });
        });
        out
    }

    /// Gradients of the reference for these of its results.
    pub fn backward<T: Float>(&self, dout: &[f64], dlse: Option<&[f64]>) -> Gradient<T> {
        let unwritten = |len: usize| vec![T::from_f64(f64::NAN); len];
        let (mut dq, mut dk, mut dv) = (unwritten(self.q.len()), unwritten(self.k.len()), unwritten(self.v.len()));
        let shape = self.bias.as_ref().map_or([0; 4], |(_, shape)| *shape);
        let mut dbias = unwritten(shape.iter().product());
        let (dout, dlse) = (narrow::<T>(dout), dlse.map(narrow::<f32>));
        let (dout_strides, lse_strides, bias_strides) =
            (strides(self.out_shape()), strides(self.lse_shape()), strides(shape));
        let (q_strides, k_strides, v_strides) =
            (strides(self.q_shape()), strides(self.k_shape()), strides(self.v_shape()));
        self.with_attention(|attention| {
            let gradients = Gradients {
                dq: Output { data: &mut dq[..], strides: &q_strides },
                dk: Output { data: &mut dk[..], strides: &k_strides },
                dv: Output { data: &mut dv[..], strides: &v_strides },
                dbias: self
                    .bias
                    .is_some()
                    .then_some(BiasGradient { output: Output { data: &mut dbias, strides: &bias_strides }, shape }),
            };
            let dlse = dlse.as_ref().map(|data| Operand { data: &data[..], strides: &lse_strides });
            backward(attention, Operand { data: &dout, strides: &dout_strides }, dlse, gradients);
        });
        Gradient { dq, dk, dv, dbias }
    }
}
