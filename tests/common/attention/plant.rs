//! Hostile numbers where nobody may look.

use super::dense::{bias, sees};
use super::problem::Problem;

/// Puts `hostile` wherever no visible pair looks: keys and values that no row sees, rows that see nothing, biases of hidden
/// pairs, upstream gradients of empty rows.
pub fn plant(problem: &Problem, upstream: &(Vec<f64>, Vec<f64>), hostile: f64) -> (Problem, (Vec<f64>, Vec<f64>)) {
    let Problem { batch, query_heads, key_heads, queries, keys, size, value_size, .. } = *problem;
    let (mut planted, (mut dout, mut dlse)) = (problem.clone(), upstream.clone());
    let group = query_heads / key_heads.max(1);
    let seen = |b, h, i, j| sees(problem, b, h, i, j) && bias(problem, b, h, i, j) != f64::NEG_INFINITY;
    for (b, h, i) in
        (0..batch * query_heads * queries).map(|r| (r / queries / query_heads, r / queries % query_heads, r % queries))
    {
        if (0..keys).any(|j| seen(b, h, i, j)) {
            continue;
        }
        let row = (b * query_heads + h) * queries + i;
        planted.q[row * size..][..size].fill(hostile);
        dout[row * value_size..][..value_size].fill(hostile);
        dlse[row] = hostile;
    }
    for (b, g, j) in (0..batch * key_heads * keys).map(|r| (r / keys / key_heads, r / keys % key_heads, r % keys)) {
        if (g * group..(g + 1) * group).any(|h| (0..queries).any(|i| seen(b, h, i, j))) {
            continue;
        }
        let row = (b * key_heads + g) * keys + j;
        planted.k[row * size..][..size].fill(hostile);
        planted.v[row * value_size..][..value_size].fill(hostile);
    }
    if let Some((bias, shape)) = &mut planted.bias {
        let mut used = vec![false; bias.len()];
        for n in 0..batch * query_heads * queries * keys {
            let index =
                [n / keys / queries / query_heads, n / keys / queries % query_heads, n / keys % queries, n % keys];
            let place = (0..4).fold(0, |place, d| place * shape[d] + if shape[d] == 1 { 0 } else { index[d] });
            used[place] |= sees(problem, index[0], index[1], index[2], index[3]);
        }
        bias.iter_mut().zip(used).filter(|(_, used)| !used).for_each(|(bias, _)| *bias = hostile);
    }
    (planted, (dout, dlse))
}
