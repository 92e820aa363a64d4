//! A shape with strides, and the arithmetic of views.

use super::{Dim, MAX_RANK, Shape};
use crate::error::{Error, Result};
use std::fmt;
use std::ops::Range;

/// Where the elements of a view lie: a shape, and per dim the distance between neighbours in elements.
///
/// A stride of 0 repeats one element along the dim. The stride of a dim of length 1 is never used; it is stored as 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Layout {
    shape: Shape,
    strides: [u64; MAX_RANK],
}

impl Layout {
    /// Row-major order without gaps.
    pub fn contiguous(shape: Shape) -> Self {
        let mut strides = [0; MAX_RANK];
        let mut stride = 1u64;
        for (position, &dim) in shape.dims().iter().enumerate().rev() {
            strides[position] = if dim == 1 { 0 } else { stride };
            // `Shape::new` proved that this product fits.
            stride *= dim.max(1) as u64;
        }
        Self { shape, strides }
    }

    /// Checks caller-given strides (in elements) against memory of `available` elements.
    pub fn strided(op: &'static str, shape: Shape, strides: &[i64], available: u64) -> Result<Self> {
        if strides.len() != shape.rank() {
            return Err(Error::StrideCount { op, strides: strides.len(), dims: shape.rank() });
        }
        if shape.is_empty() {
            return Ok(Self::contiguous(shape));
        }
        let mut layout = Self { shape, strides: [0; MAX_RANK] };
        for (position, (&stride, &dim)) in strides.iter().zip(shape.dims()).enumerate() {
            if dim == 1 {
                continue;
            }
            layout.strides[position] =
                u64::try_from(stride).map_err(|_| Error::NegativeStride { op, dim: position, stride })?;
        }
        match layout.checked_span() {
            Some(span) if span <= available => Ok(layout),
            span => Err(Error::OutOfBounds {
                op,
                shape: shape.dims().to_vec(),
                strides: layout.strides().to_vec(),
                last: span.map_or(u64::MAX, |span| span - 1),
                available,
            }),
        }
    }

    /// The shape.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The lengths of the dims.
    pub fn dims(&self) -> &[usize] {
        self.shape.dims()
    }

    /// Elements between neighbours, per dim; 0 for dims of length 1.
    pub fn strides(&self) -> &[u64] {
        &self.strides[..self.shape.rank()]
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.elements()
    }

    /// Whether the elements lie one behind the other in row-major order.
    pub fn is_contiguous(&self) -> bool {
        self.shape.is_empty() || *self == Self::contiguous(self.shape)
    }

    /// Whether each stride steps over everything that the smaller ones reach. Then no two elements lie in one place.
    pub fn is_nested(&self) -> bool {
        let mut dims: Vec<(u64, u64)> =
            self.strides().iter().copied().zip(self.dims().iter().map(|len| *len as u64)).collect();
        dims.retain(|(_, len)| *len > 1);
        dims.sort_unstable();
        let mut reached = 1;
        dims.into_iter().all(|(stride, len)| {
            let nested = stride >= reached;
            reached += (len - 1) * stride;
            nested
        })
    }

    /// Elements from the first to the furthest one reached, both included; 0 if there are none.
    pub fn span(&self) -> u64 {
        self.checked_span().expect("layouts are only made from checked strides")
    }

    fn checked_span(&self) -> Option<u64> {
        if self.shape.is_empty() {
            return Some(0);
        }
        let mut dims = self.dims().iter().zip(self.strides());
        dims.try_fold(1u64, |span, (&dim, &stride)| span.checked_add((dim as u64 - 1).checked_mul(stride)?))
    }

    /// The part of the layout with indices `range` along `dim`, and the offset of its first element.
    pub fn slice(&self, op: &'static str, dim: Dim, range: Range<usize>) -> Result<(u64, Self)> {
        let position = dim.position(op, &self.shape)?;
        let len = self.dims()[position];
        if range.start > range.end || range.end > len {
            return Err(Error::Range { op, dim: position, start: range.start, end: range.end, len });
        }
        let shape = self.shape.with(position, range.len());
        if shape.is_empty() {
            return Ok((0, Self::contiguous(shape)));
        }
        let mut sliced = Self { shape, strides: self.strides };
        if range.len() == 1 {
            sliced.strides[position] = 0;
        }
        Ok((range.start as u64 * self.strides[position], sliced))
    }

    /// The layout with its dims in another order: dim `i` of the result is dim `order[i]` of this one.
    pub fn permute(&self, op: &'static str, order: &[usize]) -> Result<Self> {
        let rank = self.shape.rank();
        let mut sorted = [usize::MAX; MAX_RANK];
        if order.len() == rank {
            sorted[..rank].copy_from_slice(order);
            sorted[..rank].sort_unstable();
        }
        if order.len() != rank || sorted[..rank].iter().enumerate().any(|(want, &found)| want != found) {
            return Err(Error::Permutation { op, dims: order.to_vec(), rank });
        }
        let mut permuted = *self;
        for (to, &from) in order.iter().enumerate() {
            permuted.shape.dims[to] = self.shape.dims[from];
            permuted.strides[to] = self.strides[from];
        }
        Ok(permuted)
    }

    /// The layout with two dims exchanged.
    pub fn transpose(&self, op: &'static str, a: Dim, b: Dim) -> Result<Self> {
        let (a, b) = (a.position(op, &self.shape)?, b.position(op, &self.shape)?);
        let mut transposed = *self;
        transposed.shape.dims.swap(a, b);
        transposed.strides.swap(a, b);
        Ok(transposed)
    }

    /// The layout repeated to a larger shape: dims are matched from the back, and dims of length 1 or missing ones are
    /// repeated with stride 0. `operand` is named in the error.
    pub fn broadcast(&self, op: &'static str, operand: &'static str, target: &Shape) -> Result<Self> {
        let refused = || {
            let (shape, target) = (self.dims().to_vec(), target.dims().to_vec());
            Error::Broadcast { op, operand, shape, target }
        };
        let missing = target.rank().checked_sub(self.shape.rank()).ok_or_else(refused)?;
        let mut expanded = Self { shape: *target, strides: [0; MAX_RANK] };
        for (position, (&dim, &stride)) in self.dims().iter().zip(self.strides()).enumerate() {
            let wanted = target.dims()[missing + position];
            if dim == wanted {
                expanded.strides[missing + position] = stride;
            } else if dim != 1 {
                return Err(refused());
            }
        }
        Ok(if target.is_empty() { Self::contiguous(*target) } else { expanded })
    }

    /// The same elements in the same order under another shape, if strides can express it.
    pub fn reshape(&self, op: &'static str, to: Shape) -> Result<Self> {
        let (from_elements, to_elements) = (self.elements(), to.elements());
        if from_elements != to_elements {
            let (from, to) = (self.dims().to_vec(), to.dims().to_vec());
            return Err(Error::Reshape { op, from, from_elements, to, to_elements });
        }
        if to.is_empty() {
            return Ok(Self::contiguous(to));
        }
        self.regroup(to).ok_or_else(|| Error::ReshapeStrides {
            op,
            from: self.dims().to_vec(),
            strides: self.strides().to_vec(),
            to: to.dims().to_vec(),
        })
    }

    /// Walks the old runs (dims merged where neighbours continue each other) and cuts each into new dims.
    fn regroup(&self, to: Shape) -> Option<Self> {
        let mut reshaped = Self { shape: to, strides: [0; MAX_RANK] };
        let mut next = to.rank();
        for &(len, stride) in self.runs().0.iter().rev() {
            // Cut this run, from its fast end, into new dims until it is used up.
            let mut rest = len;
            let mut step = stride;
            while rest > 1 {
                next = next.checked_sub(1)?;
                let dim = to.dims()[next] as u64;
                if rest % dim != 0 {
                    return None;
                }
                if dim != 1 {
                    reshaped.strides[next] = step;
                }
                rest /= dim;
                step *= dim;
            }
        }
        // Both shapes hold the same number of elements, so what is left has length 1.
        Some(reshaped)
    }

    /// The dims as (length, stride), slowest first, with neighbours merged where one continues the other and dims of
    /// length 1 dropped: the fewest loops that visit the elements in order.
    pub fn runs(&self) -> Runs {
        let mut runs = Runs(Vec::with_capacity(self.shape.rank()));
        for (&dim, &stride) in self.dims().iter().zip(self.strides()) {
            let dim = dim as u64;
            match runs.0.last_mut() {
                _ if dim == 1 => {}
                // `checked`: the product may pass u64 for the stride of an unrelated dim, which then does not match.
                Some((len, outer)) if stride.checked_mul(dim) == Some(*outer) => (*len, *outer) = (*len * dim, stride),
                _ => runs.0.push((dim, stride)),
            }
        }
        runs
    }

    /// The offset of every element, in row-major order.
    pub fn offsets(&self) -> impl Iterator<Item = u64> + use<> {
        let (layout, rank) = (*self, self.shape.rank());
        let mut index = [0usize; MAX_RANK];
        let mut offset = 0u64;
        (0..self.elements()).map(move |_| {
            let here = offset;
            for position in (0..rank).rev() {
                index[position] += 1;
                offset += layout.strides[position];
                if index[position] < layout.shape.dims[position] {
                    break;
                }
                offset -= layout.strides[position] * layout.shape.dims[position] as u64;
                index[position] = 0;
            }
            here
        })
    }
}

impl fmt::Debug for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} strides {:?}", self.dims(), self.strides())
    }
}

/// Merged dims of a [`Layout`] as (length, stride), slowest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runs(pub Vec<(u64, u64)>);
