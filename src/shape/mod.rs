//! Shapes, dims and layouts. All size arithmetic of the crate is here, it is checked, and it never touches a device.

mod layout;

pub use layout::{Layout, Runs};

use crate::dtype::DType;
use crate::error::{Error, Result};
use std::fmt;

/// The largest number of dims of a shape.
pub const MAX_RANK: usize = 8;

/// The most bytes a tensor may hold: what one Rust slice may cover.
pub(crate) const MAX_BYTES: u64 = isize::MAX as u64;

const _: () = assert!(usize::BITS == 64, "CUDA has 64-bit addresses; so has this crate");

/// One dim of a shape, counted from the front or from the back.
///
/// There is no conversion from an integer and no default: a call always says from which end it counts, so `-1` cannot
/// be off by one and no operation can run along a dim that nobody chose.
///
/// ```
/// use sumexp::Dim;
/// assert_eq!(Dim::LAST, Dim::back(0));
/// assert_eq!(Dim::front(1).to_string(), "front(1)");
/// ```
///
/// ```compile_fail,E0308
/// let dim: sumexp::Dim = 1;
/// ```
///
/// ```compile_fail,E0277
/// let dim: sumexp::Dim = 1.into();
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Dim {
    end: End,
    index: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum End {
    Front,
    Back,
}

impl Dim {
    /// The last dim, the one whose elements lie side by side in a contiguous tensor.
    pub const LAST: Self = Self::back(0);

    /// The dim `index` places behind the first one; `front(0)` is the first.
    pub const fn front(index: usize) -> Self {
        Self { end: End::Front, index }
    }

    /// The dim `index` places before the last one; `back(0)` is the last.
    pub const fn back(index: usize) -> Self {
        Self { end: End::Back, index }
    }

    const fn end(self) -> &'static str {
        match self.end {
            End::Front => "front",
            End::Back => "back",
        }
    }

    /// Position of this dim in `shape`, counted from the front.
    pub fn position(self, op: &'static str, shape: &Shape) -> Result<usize> {
        let rank = shape.rank();
        let position = match self.end {
            End::Front => Some(self.index).filter(|&index| index < rank),
            End::Back => rank.checked_sub(1).and_then(|last| last.checked_sub(self.index)),
        };
        position.ok_or_else(|| Error::Dim { op, end: self.end(), index: self.index, shape: shape.dims().to_vec() })
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.end(), self.index)
    }
}

/// The lengths of up to [`MAX_RANK`] dims.
///
/// A shape exists only if the product of its lengths, with 0 counted as 1, is at most `isize::MAX`. So its number of
/// elements, and every contiguous stride of it, fits in an `i64` wherever it is computed afterwards.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; MAX_RANK],
    rank: usize,
}

impl Shape {
    /// Checks the lengths and keeps them. `op` is named in the error.
    pub fn new(op: &'static str, dims: &[usize]) -> Result<Self> {
        if dims.len() > MAX_RANK {
            return Err(Error::Rank { op, rank: dims.len(), max: MAX_RANK });
        }
        let product = dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim.max(1) as u64));
        if product.is_none_or(|product| product > MAX_BYTES) {
            let dtype = DType::U8.name();
            return Err(Error::TooLarge { op, shape: dims.to_vec(), dtype, max: MAX_BYTES });
        }
        let mut shape = Self { dims: [1; MAX_RANK], rank: dims.len() };
        shape.dims[..dims.len()].copy_from_slice(dims);
        Ok(shape)
    }

    /// The lengths.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank]
    }

    /// Number of dims.
    pub const fn rank(&self) -> usize {
        self.rank
    }

    /// Number of elements; 1 for a shape without dims.
    pub fn elements(&self) -> u64 {
        self.dims().iter().map(|&dim| dim as u64).product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.dims().contains(&0)
    }

    /// Bytes of a contiguous tensor of this shape, refused above [`isize::MAX`].
    pub(crate) fn bytes(&self, op: &'static str, dtype: DType) -> Result<usize> {
        match self.elements().checked_mul(dtype.size() as u64) {
            Some(bytes) if bytes <= MAX_BYTES => Ok(bytes as usize),
            _ => Err(Error::TooLarge { op, shape: self.dims().to_vec(), dtype: dtype.name(), max: MAX_BYTES }),
        }
    }

    /// This shape with the length at `position` replaced.
    pub(crate) fn with(mut self, position: usize, len: usize) -> Self {
        debug_assert!(position < self.rank && len <= self.dims[position]);
        self.dims[position] = len;
        self
    }

    /// This shape without the dim at `position`: what a reduction along that dim leaves.
    pub fn without(&self, position: usize) -> Self {
        debug_assert!(position < self.rank);
        let mut shape = Self { dims: [1; MAX_RANK], rank: self.rank - 1 };
        shape.dims[..position].copy_from_slice(&self.dims[..position]);
        shape.dims[position..self.rank - 1].copy_from_slice(&self.dims[position + 1..self.rank]);
        shape
    }

    /// Splits the shape around one dim, see [`Rows`].
    pub fn rows(&self, op: &'static str, dim: Dim) -> Result<Rows> {
        let position = dim.position(op, self)?;
        let product = |dims: &[usize]| dims.iter().map(|&dim| dim as u64).product();
        Ok(Rows {
            position,
            outer: product(&self.dims()[..position]),
            len: self.dims[position] as u64,
            inner: product(&self.dims()[position + 1..]),
        })
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.dims().fmt(f)
    }
}

impl PartialEq<[usize]> for Shape {
    fn eq(&self, other: &[usize]) -> bool {
        self.dims() == other
    }
}

/// A shape seen from one of its dims: `outer` × `len` × `inner`, where the rows run along `len`.
///
/// In a contiguous tensor, row `(o, i)` starts at element `o * len * inner + i`, and its elements are `inner` apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rows {
    /// Position of the dim, counted from the front.
    pub position: usize,
    /// Product of the lengths before the dim.
    pub outer: u64,
    /// Length of the dim: elements per row.
    pub len: u64,
    /// Product of the lengths behind the dim.
    pub inner: u64,
}

impl Rows {
    /// Number of rows.
    pub const fn count(&self) -> u64 {
        self.outer * self.inner
    }
}
