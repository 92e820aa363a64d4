//! The two matrix operations that a small network needs, on the CPU, parallel over rows.
//!
//! sumexp has no matrix product on purpose; this one is plain Rust, kept simple enough to read at a glance.

use rayon::prelude::*;

/// Rows per task: enough work to share out, and the same split on every machine, so every run adds in the same order.
const TASK: usize = 32;
/// The tile whose sums stay in vector registers.
const ROWS: usize = 4;
const COLUMNS: usize = 8;

/// `y += x · w` for row-major `y` [n, columns], `x` [n, inner] and `w` [inner, columns].
pub fn add_product(y: &mut [f32], x: &[f32], w: &[f32], inner: usize, columns: usize) {
    assert_eq!(w.len(), inner * columns);
    assert_eq!(x.len() * columns, y.len() * inner);
    // `w` as panels of 8 columns, each row by row, the last one filled up with zeros.
    let mut panels = vec![[0.0_f32; COLUMNS]; columns.div_ceil(COLUMNS) * inner];
    for (i, row) in w.chunks_exact(columns).enumerate() {
        for (panel, part) in row.chunks(COLUMNS).enumerate() {
            panels[panel * inner + i][..part.len()].copy_from_slice(part);
        }
    }
    y.par_chunks_mut(TASK * columns).zip(x.par_chunks(TASK * inner)).for_each(|(y, x)| {
        let mut rows = vec![[0.0_f32; ROWS]; inner];
        for (y, x) in y.chunks_mut(ROWS * columns).zip(x.chunks(ROWS * inner)) {
            for (r, row) in x.chunks_exact(inner).enumerate() {
                rows.iter_mut().zip(row).for_each(|(rows, value)| rows[r] = *value);
            }
            for (panel, first) in panels.chunks_exact(inner).zip((0..columns).step_by(COLUMNS)) {
                let sums = tile(&rows, panel);
                for (y, sums) in y.chunks_exact_mut(columns).zip(&sums) {
                    y[first..].iter_mut().zip(sums).for_each(|(y, sum)| *y += sum);
                }
            }
        }
    });
}

/// 4 rows times 8 columns. Arrays of fixed size let the compiler use vector instructions.
fn tile(rows: &[[f32; ROWS]], panel: &[[f32; COLUMNS]]) -> [[f32; COLUMNS]; ROWS] {
    let mut sums = [[0.0; COLUMNS]; ROWS];
    for (x, w) in rows.iter().zip(panel) {
        for r in 0..ROWS {
            for c in 0..COLUMNS {
                sums[r][c] += x[r] * w[c];
            }
        }
    }
    sums
}

/// The transpose of row-major `x` [rows, columns].
pub fn transposed(x: &[f32], columns: usize) -> Vec<f32> {
    let rows = x.len() / columns;
    let mut out = vec![0.0; x.len()];
    for (r, row) in x.chunks_exact(columns).enumerate() {
        for (c, value) in row.iter().enumerate() {
            out[c * rows + r] = *value;
        }
    }
    out
}
