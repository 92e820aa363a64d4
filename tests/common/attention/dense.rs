//! Dense attention in float64, from the formulae, sharing nothing with the reference or the mask module.

use super::problem::Problem;
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

/// The entry of row-major data over `shape` for an index into what it is broadcast to.
fn broadcast<T: Copy>(data: &[T], shape: [usize; 4], index: [usize; 4]) -> T {
    let place = (0..4).fold(0, |place, n| place * shape[n] + if shape[n] == 1 { 0 } else { index[n] });
    data[place]
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

/// Everything, with a matrix of weights for each head.
pub fn dense(problem: &Problem) -> Dense {
    let Problem { batch, query_heads, key_heads, queries, keys, size, value_size, .. } = *problem;
    let mut result = Dense { out: Vec::new(), lse: Vec::new(), weights: Vec::new() };
    for (b, h) in (0..batch).flat_map(|b| (0..query_heads).map(move |h| (b, h))) {
        let key_row = |key: usize| (b * key_heads + h * key_heads / query_heads) * keys + key;
        for query in 0..queries {
            let q = &problem.q[((b * query_heads + h) * queries + query) * size..][..size];
            let score = |key: usize| {
                let bias = bias(problem, b, h, query, key);
                if !sees(problem, b, h, query, key) || bias == f64::NEG_INFINITY {
                    return f64::NEG_INFINITY;
                }
                let k = &problem.k[key_row(key) * size..][..size];
                let product: f64 = (0..size).map(|d| q[d] * k[d]).sum();
                let alibi = problem.alibi.as_ref().map_or(0.0, |(slopes, align)| {
                    f64::from(slopes[h]) * (key as i64 - stands(problem, *align, query)).abs() as f64
                });
                let raw = problem.scale * product + bias - alibi;
                problem.softcap.map_or(raw, |cap| cap * (raw / cap).tanh())
            };
            let scores: Vec<f64> = (0..keys).map(score).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let powers: Vec<f64> =
                scores.iter().map(|s| if *s == f64::NEG_INFINITY { 0.0 } else { (s - max).exp() }).collect();
            let sum: f64 = powers.iter().sum();
            let weights: Vec<f64> = powers.iter().map(|p| if sum == 0.0 { 0.0 } else { p / sum }).collect();
            result.lse.push(if sum == 0.0 { f64::NEG_INFINITY } else { max + sum.ln() });
            for d in 0..value_size {
                let terms = (0..keys).filter(|key| powers[*key] != 0.0);
                result.out.push(terms.map(|key| weights[key] * problem.v[key_row(key) * value_size + d]).sum());
            }
            result.weights.extend(weights);
        }
    }
    result
}
