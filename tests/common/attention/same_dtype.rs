//! Attention as a program without a fused kernel computes it: matrices of scores and weights in the element type, each
//! product and sum accumulated in f32 and rounded, every intermediate rounded again. What a fused kernel must not be worse than.

use super::problem::{Gradient, Problem};
use sumexp::Float;

/// Rounds to the type.
fn round<T: Float>(x: f32) -> f32 {
    T::from_f64(f64::from(x)).to_f32()
}

/// The sum of the products, accumulated in f32.
fn product(terms: impl Iterator<Item = (f32, f32)>) -> f32 {
    terms.fold(0.0, |sum, (x, y)| sum + x * y)
}

/// Results of the naive computation. All but the lse are values of the type. Without an upstream gradient the gradients are 0 or
/// empty.
pub struct Naive<T> {
    pub out: Vec<T>,
    pub lse: Vec<f32>,
    pub gradient: Gradient<T>,
}

/// One head: row-major matrices of values of the type.
struct Head {
    weights: Vec<f32>,
    /// Derivatives of the softcap.
    slopes: Vec<f32>,
}

/// Forward and, for gradients `(dout, dlse)` of the results, backward of a problem; `sees` is its mask.
pub fn attention<T: Float>(
    problem: &Problem,
    upstream: Option<&(Vec<f64>, Vec<f64>)>,
    sees: impl Fn(usize, usize, usize, usize) -> bool,
) -> Naive<T> {
    let Problem { batch, query_heads, key_heads, queries, keys, size, value_size, .. } = *problem;
    let narrow = |x: &[f64]| -> Vec<f32> { x.iter().map(|x| T::from_f64(*x).to_f32()).collect() };
    let (q, k, v) = (narrow(&problem.q), narrow(&problem.k), narrow(&problem.v));
    let upstream = upstream.map(|(dout, dlse)| (narrow(dout), dlse));
    let scale = problem.scale as f32;
    let bias = problem.bias.as_ref().map(|(values, shape)| (narrow(values), *shape));
    let bias_place = |shape: [usize; 4], index: [usize; 4]| {
        (0..4).fold(0, |place, n| place * shape[n] + if shape[n] == 1 { 0 } else { index[n] })
    };
    let mut naive = Naive {
        out: Vec::new(),
        lse: Vec::new(),
        gradient: Gradient { dq: Vec::new(), dk: Vec::new(), dv: Vec::new(), dbias: Vec::new() },
    };
    let (mut dk, mut dv) = (vec![0f32; k.len()], vec![0f32; v.len()]);
    let mut dbias = vec![0f32; bias.as_ref().map_or(0, |(values, _)| values.len())];
    for (b, h) in (0..batch).flat_map(|b| (0..query_heads).map(move |h| (b, h))) {
        let query_rows = (b * query_heads + h) * queries;
        let key_rows = (b * key_heads + h * key_heads / query_heads) * keys;
        let q = &q[query_rows * size..];
        let (k, v) = (&k[key_rows * size..], &v[key_rows * value_size..]);
        let mut head = Head { weights: vec![0.0; queries * keys], slopes: vec![1.0; queries * keys] };
        for i in 0..queries {
            let row = i * keys..(i + 1) * keys;
            let scores = &mut head.weights[row.clone()];
            for (j, score) in scores.iter_mut().enumerate() {
                let dot = product((0..size).map(|d| (q[i * size + d], k[j * size + d])));
                *score = round::<T>(round::<T>(dot) * scale);
                if let Some((values, shape)) = &bias {
                    *score = round::<T>(*score + values[bias_place(*shape, [b, h, i, j])]);
                }
                if let Some((slopes, align)) = &problem.alibi {
                    let stands = match align {
                        sumexp::mask::Align::TopLeft => i as i64,
                        sumexp::mask::Align::BottomRight => (i + keys) as i64 - queries as i64,
                    };
                    *score = round::<T>(*score - round::<T>(slopes[h] * (stands - j as i64).abs() as f32));
                }
                let hidden = !sees(b, h, i, j) || *score == f32::NEG_INFINITY;
                if let Some(cap) = problem.softcap {
                    let tanh = round::<T>(round::<T>(*score / cap as f32).tanh());
                    head.slopes[i * keys + j] = round::<T>(1.0 - round::<T>(tanh * tanh));
                    *score = round::<T>(tanh * cap as f32);
                }
                if hidden {
                    *score = f32::NEG_INFINITY;
                }
            }
            let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let power = |score: f32| if score == f32::NEG_INFINITY { 0.0 } else { (score - max).exp() };
            let sum: f32 = scores.iter().map(|score| power(*score)).sum();
            naive.lse.push(if sum == 0.0 { f32::NEG_INFINITY } else { max + sum.ln() });
            scores.iter_mut().for_each(|score| *score = if sum == 0.0 { 0.0 } else { round::<T>(power(*score) / sum) });
            for d in 0..value_size {
                let terms = (0..keys).map(|j| (head.weights[i * keys + j], v[j * value_size + d]));
                naive.out.push(T::from_f64(f64::from(product(terms))));
            }
        }
        let Some((dout, dlse)) = &upstream else { continue };
        let dout = &dout[query_rows * value_size..];
        let mut ds = vec![0f32; queries * keys];
        for i in 0..queries {
            let weight = |j: usize| head.weights[i * keys + j];
            let dweights: Vec<f32> = (0..keys)
                .map(|j| {
                    round::<T>(product((0..value_size).map(|d| (dout[i * value_size + d], v[j * value_size + d]))))
                })
                .collect();
            let delta = product((0..keys).map(|j| (weight(j), dweights[j])));
            for j in (0..keys).filter(|j| weight(*j) != 0.0) {
                let through_lse = dlse[query_rows + i] as f32;
                let du =
                    round::<T>(round::<T>(weight(j) * (dweights[j] - delta + through_lse)) * head.slopes[i * keys + j]);
                if let Some((_, shape)) = &bias {
                    dbias[bias_place(*shape, [b, h, i, j])] += du;
                }
                ds[i * keys + j] = round::<T>(du * scale);
            }
            for d in 0..size {
                let terms = (0..keys).map(|j| (ds[i * keys + j], k[j * size + d]));
                naive.gradient.dq.push(T::from_f64(f64::from(product(terms))));
            }
        }
        // Repeated key heads have gradients of their own, which are rounded before they are added up.
        for j in 0..keys {
            for d in 0..size {
                let terms = (0..queries).map(|i| (ds[i * keys + j], q[i * size + d]));
                dk[(key_rows + j) * size + d] += round::<T>(product(terms));
            }
            for d in 0..value_size {
                let terms = (0..queries).map(|i| (head.weights[i * keys + j], dout[i * value_size + d]));
                dv[(key_rows + j) * value_size + d] += round::<T>(product(terms));
            }
        }
    }
    let rounded = |x: Vec<f32>| -> Vec<T> { x.into_iter().map(|x| T::from_f64(f64::from(x))).collect() };
    (naive.gradient.dk, naive.gradient.dv, naive.gradient.dbias) = (rounded(dk), rounded(dv), rounded(dbias));
    naive
}
