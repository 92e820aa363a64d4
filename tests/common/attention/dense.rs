//! Dense attention in float64, from the formulae, sharing nothing with the reference or the mask module.

use super::problem::{Gradient, Problem};
use sumexp::Polarity;
use sumexp::mask::Align;

/// Results of a [`Problem`], row-major.
pub struct Dense {
    pub out: Vec<f64>,
    pub lse: Vec<f64>,
    pub weights: Vec<f64>,
}

/// The key at which a query stands.
fn stands(problem: &Problem, align: Align, query: usize) -> i64 {
    match align {
        Align::TopLeft => query as i64,
        Align::BottomRight => query as i64 + problem.keys as i64 - problem.queries as i64,
    }
}

/// Where row-major data over `shape` has the entry for an index into what it is broadcast to.
fn place(shape: [usize; 4], index: [usize; 4]) -> usize {
    (0..4).fold(0, |place, n| place * shape[n] + if shape[n] == 1 { 0 } else { index[n] })
}

fn broadcast<T: Copy>(data: &[T], shape: [usize; 4], index: [usize; 4]) -> T {
    data[place(shape, index)]
}

/// Whether the mask lets a query see a key.
pub fn sees(problem: &Problem, b: usize, h: usize, query: usize, key: usize) -> bool {
    let masks = &problem.masks;
    let in_bands = masks.bands.iter().all(|band| {
        let distance = key as i64 - stands(problem, band.align, query);
        band.left.is_none_or(|left| distance >= -(left as i64))
            && band.right.is_none_or(|right| distance <= right as i64)
    });
    let in_length = masks.lengths.as_ref().is_none_or(|lengths| (key as i64) < i64::from(lengths[b]));
    let in_segment =
        masks.segments.as_ref().is_none_or(|(q, k)| q[b * problem.queries + query] == k[b * problem.keys + key]);
    let shown = masks.bytes.as_ref().is_none_or(|(data, shape, polarity)| {
        (broadcast(data, *shape, [b, h, query, key]) != 0) == (*polarity == Polarity::Keep)
    });
    in_bands && in_length && in_segment && shown
}

/// What is added to the score of a query and a key; -inf hides.
pub fn bias(problem: &Problem, b: usize, h: usize, query: usize, key: usize) -> f64 {
    problem.bias.as_ref().map_or(0.0, |(data, shape)| broadcast(data, *shape, [b, h, query, key]))
}

/// The row of k and v of a key, for a head of the queries.
fn key_row(problem: &Problem, [b, h]: [usize; 2], key: usize) -> usize {
    (b * problem.key_heads + h * problem.key_heads / problem.query_heads) * problem.keys + key
}

/// A score before and behind the softcap; `None` if it is hidden.
fn score(problem: &Problem, [b, h, query, key]: [usize; 4]) -> Option<(f64, f64)> {
    let bias = bias(problem, b, h, query, key);
    if !sees(problem, b, h, query, key) || bias == f64::NEG_INFINITY {
        return None;
    }
    let size = problem.size;
    let q = &problem.q[((b * problem.query_heads + h) * problem.queries + query) * size..][..size];
    let k = &problem.k[key_row(problem, [b, h], key) * size..][..size];
    let product: f64 = q.iter().zip(k).map(|(q, k)| q * k).sum();
    let alibi = problem.alibi.as_ref().map_or(0.0, |(slopes, align)| {
        f64::from(slopes[h]) * (key as i64 - stands(problem, *align, query)).abs() as f64
    });
    let raw = problem.scale * product + bias - alibi;
    Some((raw, problem.softcap.map_or(raw, |cap| cap * (raw / cap).tanh())))
}

/// Everything, with a matrix of weights for each head.
pub fn dense(problem: &Problem) -> Dense {
    let Problem { batch, query_heads, queries, keys, value_size, .. } = *problem;
    let mut result = Dense { out: Vec::new(), lse: Vec::new(), weights: Vec::new() };
    for (b, h) in (0..batch).flat_map(|b| (0..query_heads).map(move |h| (b, h))) {
        for query in 0..queries {
            let score = |key: usize| score(problem, [b, h, query, key]).map_or(f64::NEG_INFINITY, |(_, score)| score);
            let scores: Vec<f64> = (0..keys).map(score).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let powers: Vec<f64> =
                scores.iter().map(|s| if *s == f64::NEG_INFINITY { 0.0 } else { (s - max).exp() }).collect();
            let sum: f64 = powers.iter().sum();
            let weights: Vec<f64> = powers.iter().map(|p| if sum == 0.0 { 0.0 } else { p / sum }).collect();
            result.lse.push(if sum == 0.0 { f64::NEG_INFINITY } else { max + sum.ln() });
            for d in 0..value_size {
                let terms = (0..keys).filter(|key| powers[*key] != 0.0);
                let value = |key: usize| problem.v[key_row(problem, [b, h], key) * value_size + d];
                result.out.push(terms.map(|key| weights[key] * value(key)).sum());
            }
            result.weights.extend(weights);
        }
    }
    result
}

/// The gradients of everything for those of `out` and `lse`.
pub fn gradients(problem: &Problem, of: &Dense, (dout, dlse): &(Vec<f64>, Vec<f64>)) -> Gradient<f64> {
    let Problem { batch, query_heads, queries, keys, size, value_size, .. } = *problem;
    let zeros = |like: &[f64]| vec![0.0; like.len()];
    let (mut dq, mut dk, mut dv) = (zeros(&problem.q), zeros(&problem.k), zeros(&problem.v));
    let mut dbias = problem.bias.as_ref().map_or(Vec::new(), |(bias, _)| zeros(bias));
    for row in 0..batch * query_heads * queries {
        let (b, h, query) = (row / queries / query_heads, row / queries % query_heads, row % queries);
        let (q, dout) = (&problem.q[row * size..][..size], &dout[row * value_size..][..value_size]);
        let dot = |x: &[f64]| -> f64 { x.iter().zip(dout).map(|(x, dout)| x * dout).sum() };
        let delta = dot(&of.out[row * value_size..][..value_size]) - dlse[row];
        for key in 0..keys {
            let weight = of.weights[row * keys + key];
            let Some((_, score)) = score(problem, [b, h, query, key]) else { continue };
            let at = key_row(problem, [b, h], key);
            let v = &problem.v[at * value_size..][..value_size];
            let slope = problem.softcap.map_or(1.0, |cap| (1.0 - score / cap) * (1.0 + score / cap));
            let du = weight * (dot(v) - delta) * slope;
            if let Some((_, shape)) = &problem.bias {
                dbias[place(*shape, [b, h, query, key])] += du;
            }
            let k = &problem.k[at * size..][..size];
            dq[row * size..][..size].iter_mut().zip(k).for_each(|(sum, k)| *sum += problem.scale * du * k);
            dk[at * size..][..size].iter_mut().zip(q).for_each(|(sum, q)| *sum += problem.scale * du * q);
            let of_v = &mut dv[at * value_size..][..value_size];
            of_v.iter_mut().zip(dout).for_each(|(sum, dout)| *sum += weight * dout);
        }
    }
    Gradient { dq, dk, dv, dbias }
}

/// What each number of dq, dk and dv is a sum of: the size of the largest terms, which may cancel.
pub fn terms(problem: &Problem, (dout, dlse): &(Vec<f64>, Vec<f64>)) -> [f64; 3] {
    let largest =
        |x: &[f64]| x.iter().copied().filter(|x| x.is_finite()).fold(0.0, |largest: f64, x| largest.max(x.abs()));
    let ds = problem.scale.abs() * (largest(dout) * largest(&problem.v) + largest(dlse));
    [ds * largest(&problem.k), ds * largest(&problem.q), largest(dout)]
}
