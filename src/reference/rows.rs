//! Strided operands and the loop over rows.

use crate::mask::Polarity;
use rayon::prelude::*;

/// The rows of a call: all lines along `dim` of a tensor of this shape, numbered row-major over the other dims.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// The shape that every operand has, if need be by strides of 0.
    pub shape: &'a [usize],
    /// The dim along which the rows run.
    pub dim: usize,
}

impl Rows<'_> {
    /// The length of a row.
    pub fn len(&self) -> usize {
        self.shape[self.dim]
    }

    /// Whether rows have no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many rows there are.
    pub fn count(&self) -> usize {
        self.shape.iter().enumerate().filter(|(k, _)| *k != self.dim).map(|(_, n)| n).product()
    }

    /// Position of the first entry of a row in an operand with these strides.
    pub(super) fn start(&self, strides: &[u64], row: usize) -> usize {
        let (mut rest, mut start) = (row, 0);
        for k in (0..self.shape.len()).rev().filter(|k| *k != self.dim) {
            start += rest % self.shape[k] * strides[k] as usize;
            rest /= self.shape[k];
        }
        start
    }
}

/// An input: the entry at index `i` is `data[sum(i[k] * strides[k])]`.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a, T> {
    /// From the entry at index 0 on, as far as the strides reach.
    pub data: &'a [T],
    /// In entries, one per dim of the shape; 0 repeats an entry. An operand with one entry per row is read at index 0 of the dim.
    pub strides: &'a [u64],
}

impl<T: Copy> Operand<'_, T> {
    /// One row, entry by entry.
    pub(crate) fn row(&self, rows: &Rows, row: usize) -> impl Iterator<Item = T> {
        let (start, step) = (rows.start(self.strides, row), self.strides[rows.dim] as usize);
        (0..rows.len()).map(move |i| self.data[start + i * step])
    }

    /// The one entry of a row.
    pub fn at(&self, rows: &Rows, row: usize) -> T {
        self.data[rows.start(self.strides, row)]
    }
}

/// A boolean mask over the entries.
#[derive(Clone, Copy, Debug)]
pub struct Visible<'a> {
    /// The mask's bytes; any non-zero byte is true.
    pub bits: Operand<'a, u8>,
    /// What true means.
    pub polarity: Polarity,
}

/// An output; strides as in [`Operand`], none of them 0 where the dim is longer than 1.
#[derive(Debug)]
pub struct Output<'a, T> {
    /// From the entry at index 0 on, as far as the strides reach.
    pub data: &'a mut [T],
    /// In entries, one per dim of the shape.
    pub strides: &'a [u64],
}

/// At most so many results are held back before they are put in their places.
const SLAB: usize = 1 << 20;

impl<T: Copy + Default + Send + Sync> Output<'_, T> {
    /// Computes every row by `compute(row, results)`, in parallel, and writes it along the dim.
    pub(super) fn write_rows(self, rows: &Rows, compute: impl Fn(usize, &mut [T]) + Sync) {
        let step = self.strides[rows.dim] as usize;
        self.write(rows, rows.len(), step, compute);
    }

    /// Computes one result per row by `compute(row)`, in parallel.
    pub(super) fn write_one_per_row(self, rows: &Rows, compute: impl Fn(usize) -> T + Sync) {
        self.write(rows, 1, 0, |row, out| out[0] = compute(row));
    }

    fn write(self, rows: &Rows, width: usize, step: usize, compute: impl Fn(usize, &mut [T]) + Sync) {
        if width == 0 || rows.count() == 0 {
            return;
        }
        // Rows may interleave in memory, so they are computed side by side first and put in their places afterwards.
        let together = (SLAB / width).clamp(1, rows.count());
        let mut slab = vec![T::default(); together * width];
        for first in (0..rows.count()).step_by(together) {
            let slab = &mut slab[..together.min(rows.count() - first) * width];
            let at_least = (4096 / width).max(1);
            slab.par_chunks_mut(width).with_min_len(at_least).enumerate().for_each(|(i, out)| compute(first + i, out));
            for (i, results) in slab.chunks(width).enumerate() {
                let start = rows.start(self.strides, first + i);
                results.iter().enumerate().for_each(|(k, result)| self.data[start + k * step] = *result);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_middle_dim_and_permuted_strides() {
        // Shape [2, 3, 2], rows along dim 1; the operand is stored with dim 2 outermost.
        let data: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let rows = Rows { shape: &[2, 3, 2], dim: 1 };
        let x = Operand { data: &data, strides: &[3, 1, 6] };
        assert_eq!(rows.count(), 4);
        assert_eq!(x.row(&rows, 0).collect::<Vec<_>>(), [0.0, 1.0, 2.0]);
        assert_eq!(x.row(&rows, 1).collect::<Vec<_>>(), [6.0, 7.0, 8.0]);
        assert_eq!(x.row(&rows, 2).collect::<Vec<_>>(), [3.0, 4.0, 5.0]);
        let mut written = vec![0.0; 12];
        let out = Output { data: &mut written, strides: &[3, 1, 6] };
        out.write_rows(&rows, |row, out| x.row(&rows, row).zip(out).for_each(|(v, o)| *o = v));
        assert_eq!(written, data, "copying row by row through the same strides is the identity");
    }

    #[test]
    fn more_rows_than_a_slab_holds() {
        let rows = Rows { shape: &[SLAB + 3, 2], dim: 1 };
        let mut written = vec![0u32; SLAB + 3];
        Output { data: &mut written, strides: &[1, 0] }.write_one_per_row(&rows, |row| row as u32);
        assert!(written.iter().enumerate().all(|(i, w)| i == *w as usize));
    }

    #[test]
    fn no_rows_and_empty_rows_write_nothing() {
        for shape in [[0, 3], [3, 0]] {
            let rows = Rows { shape: &shape, dim: 1 };
            let out: Output<f32> = Output { data: &mut [], strides: &[3, 1] };
            out.write_rows(&rows, |_, _| panic!("nothing to compute"));
        }
    }
}
