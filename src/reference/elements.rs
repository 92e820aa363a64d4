//! Operations on single elements: the loop over strided operands.

use super::Operand;
use rayon::prelude::*;

/// Results that one task computes.
const CHUNK: usize = 4096;

/// The elements of a call, in row-major order of this shape. Every operand has it, if need be by strides of 0.
#[derive(Clone, Copy, Debug)]
pub struct Elements<'a> {
    /// The shape.
    pub shape: &'a [usize],
}

impl Elements<'_> {
    /// Computes `results` in parallel, which are all elements in order: `compute` is given an iterator over the indices of a part
    /// and that part. With [`Elements::of`] it finds the operands' elements.
    pub(super) fn write<T: Send>(&self, results: &mut [T], compute: impl Fn(usize, &mut [T]) + Sync) {
        let chunks = results.par_chunks_mut(CHUNK).enumerate();
        chunks.for_each(|(chunk, results)| compute(chunk * CHUNK, results));
    }

    /// The elements of an operand from number `first` on.
    pub(super) fn of<T: Copy>(&self, operand: Operand<'_, T>, first: usize) -> impl Iterator<Item = T> {
        let mut index = vec![0; self.shape.len()];
        let (mut rest, mut offset) = (first, 0);
        for (dim, &len) in self.shape.iter().enumerate().rev() {
            index[dim] = rest % len.max(1);
            rest /= len.max(1);
            offset += index[dim] * operand.strides[dim] as usize;
        }
        std::iter::repeat_with(move || {
            let here = operand.data[offset];
            for (dim, &len) in self.shape.iter().enumerate().rev() {
                let stride = operand.strides[dim] as usize;
                index[dim] += 1;
                offset += stride;
                if index[dim] < len {
                    break;
                }
                index[dim] = 0;
                offset -= stride * len;
            }
            here
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_of_strided_operands_from_anywhere() {
        let elements = Elements { shape: &[2, 3] };
        let data = [0, 1, 2, 3, 4, 5];
        let transposed = Operand { data: &data[..], strides: &[1, 2] };
        assert_eq!(elements.of(transposed, 0).take(6).collect::<Vec<_>>(), [0, 2, 4, 1, 3, 5]);
        assert_eq!(elements.of(transposed, 4).take(2).collect::<Vec<_>>(), [3, 5]);
        let repeated = Operand { data: &data[..], strides: &[0, 1] };
        assert_eq!(elements.of(repeated, 2).take(4).collect::<Vec<_>>(), [2, 0, 1, 2]);
        assert_eq!(Elements { shape: &[] }.of(repeated, 0).next(), Some(0));
    }

    #[test]
    fn parts_know_where_they_begin() {
        let mut results = vec![0; 2 * CHUNK + 5];
        Elements { shape: &[2 * CHUNK + 5] }
            .write(&mut results, |first, part| part.iter_mut().enumerate().for_each(|(i, r)| *r = first + i));
        assert!(results.iter().enumerate().all(|(i, r)| i == *r));
    }
}
