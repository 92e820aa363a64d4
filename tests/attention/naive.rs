//! Attention in f64, one query after the other, and the same with every intermediate rounded to the element type and sums in f32.

use sumexp::Float;

/// One call on dense operands.
#[derive(Clone)]
pub struct Problem {
    /// B, Hq, Hkv, Sq, Sk, D, Dv
    pub batch: usize,
    pub heads: usize,
    pub key_heads: usize,
    pub queries: usize,
    pub keys: usize,
    pub head: usize,
    pub value: usize,
    pub q: Vec<f64>,
    pub k: Vec<f64>,
    pub v: Vec<f64>,
    pub scale: f64,
    pub cap: Option<f64>,
}

pub struct Answer {
    pub out: Vec<f64>,
    pub lse: Vec<f64>,
}

impl Problem {
    /// `visible` and `bias` are asked with (batch, head, query, key).
    pub fn solve(
        &self,
        visible: &dyn Fn(usize, usize, usize, usize) -> bool,
        bias: &dyn Fn(usize, usize, usize, usize) -> f64,
        rounding: Option<&dyn Fn(f64) -> f64>,
    ) -> Answer {
        let round = |x: f64| rounding.map_or(x, |round| round(x));
        let add = |sum: f64, x: f64| if rounding.is_some() { f64::from((sum + x) as f32) } else { sum + x };
        let mut answer = Answer { out: vec![], lse: vec![] };
        let group = self.heads / self.key_heads;
        for b in 0..self.batch {
            for h in 0..self.heads {
                let of_key = (b * self.key_heads + h / group) * self.keys;
                for i in 0..self.queries {
                    let q = &self.q[((b * self.heads + h) * self.queries + i) * self.head..][..self.head];
                    let seen: Vec<usize> = (0..self.keys)
                        .filter(|&j| visible(b, h, i, j) && bias(b, h, i, j) != f64::NEG_INFINITY)
                        .collect();
                    let scores: Vec<f64> = seen
                        .iter()
                        .map(|&j| {
                            let k = &self.k[(of_key + j) * self.head..][..self.head];
                            let product: f64 = q.iter().zip(k).map(|(q, k)| q * k).fold(0.0, add);
                            let score = round(round(round(product) * self.scale) + bias(b, h, i, j));
                            self.cap.map_or(score, |cap| round(cap * (score / cap).tanh()))
                        })
                        .collect();
                    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let origin = if max == f64::NEG_INFINITY { 0.0 } else { max };
                    let weights: Vec<f64> = scores.iter().map(|s| (s - origin).exp()).collect();
                    let sum = weights.iter().copied().fold(0.0, add);
                    answer.lse.push(if seen.is_empty() { f64::NEG_INFINITY } else { max + sum.ln() });
                    for d in 0..self.value {
                        let row = seen.iter().zip(&weights);
                        let total = row
                            .map(|(&j, weight)| round(weight / sum) * self.v[(of_key + j) * self.value + d])
                            .fold(0.0, add);
                        answer.out.push(round(if seen.is_empty() { 0.0 } else { total }));
                    }
                }
            }
        }
        answer
    }
}

/// Rounding to an element type.
pub fn rounded<T: Float>(x: f64) -> f64 {
    T::from_f64(x).to_f64()
}
