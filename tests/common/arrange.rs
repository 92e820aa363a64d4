//! How an operand lies in memory: inside a larger tensor, at an offset, permuted, strided or repeated.
//!
//! The memory around an operand is filled: around inputs with NaN (or a mask byte that hides the difference between
//! reading right and wrong least), around outputs with a value that must still be there afterwards.

use std::fmt;
use std::ops::Range;

use sumexp::{Device, Dim, Element, Layout, Shape, Tensor, View};

/// One step from the whole tensor to the operand.
#[derive(Clone, Debug)]
pub enum Step {
    Slice(usize, Range<usize>),
    Permute(Vec<usize>),
    Reshape(Vec<usize>),
    Expand(Vec<usize>),
}

/// The ways an operand may lie in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrangement {
    /// Contiguous, so many elements behind the beginning of an allocation, and with guards behind it.
    Offset(usize),
    /// Stored with its dims in reverse order.
    Reversed,
    /// A part of longer lines: so many unused elements before and behind each one along the last dim.
    Padded(usize, usize),
    /// Every other element along the last dim.
    EveryOther,
    /// One element repeated along this dim. Not for outputs.
    Repeated(usize),
}

impl fmt::Display for Arrangement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Offset(0) => write!(f, "contiguous"),
            Self::Offset(n) => write!(f, "at offset {n}"),
            Self::Reversed => write!(f, "stored in reverse dim order"),
            Self::Padded(left, right) => write!(f, "padded by {left} and {right}"),
            Self::EveryOther => write!(f, "every other element"),
            Self::Repeated(dim) => write!(f, "repeated along dim {dim}"),
        }
    }
}

impl Arrangement {
    /// The shape of the whole tensor and the steps to an operand of shape `dims` in it.
    pub fn steps(self, dims: &[usize]) -> (Vec<usize>, Vec<Step>) {
        let last = dims.len().saturating_sub(1);
        let with = |position: usize, len: usize| {
            let mut changed = dims.to_vec();
            changed[position] = len;
            changed
        };
        match self {
            Self::Offset(offset) => {
                let elements: usize = dims.iter().product();
                let whole = vec![offset + elements + 3];
                (whole, vec![Step::Slice(0, offset..offset + elements), Step::Reshape(dims.to_vec())])
            }
            Self::Reversed => {
                let order = (0..dims.len()).rev().collect();
                (dims.iter().rev().copied().collect(), vec![Step::Permute(order)])
            }
            Self::Padded(left, right) => {
                (with(last, left + dims[last] + right), vec![Step::Slice(last, left..left + dims[last])])
            }
            Self::EveryOther => {
                let mut whole = dims.to_vec();
                whole.push(2);
                (whole, vec![Step::Slice(last + 1, 1..2), Step::Reshape(dims.to_vec())])
            }
            Self::Repeated(dim) => (with(dim, dims[dim].min(1)), vec![Step::Expand(dims.to_vec())]),
        }
    }

    /// The shape of the whole tensor, and where in it the operand's elements are, in row-major order of the operand.
    pub fn places(self, dims: &[usize]) -> (Vec<usize>, Vec<usize>) {
        let (whole, steps) = self.steps(dims);
        let shape = |dims: &[usize]| Shape::new("test", dims).expect("test shapes are small");
        let mut layout = Layout::contiguous(shape(&whole));
        let mut first = 0;
        for step in &steps {
            layout = match step {
                Step::Slice(dim, range) => {
                    let (offset, sliced) =
                        layout.slice("test", Dim::front(*dim), range.clone()).expect("a valid slice");
                    first += offset;
                    sliced
                }
                Step::Permute(order) => layout.permute("test", order).expect("a valid order"),
                Step::Reshape(dims) => layout.reshape("test", shape(dims)).expect("strides that can express it"),
                Step::Expand(dims) => layout.broadcast("test", "operand", &shape(dims)).expect("lengths of 1"),
            };
        }
        (whole, layout.offsets().map(|offset| (first + offset) as usize).collect())
    }
}

/// Puts `values` (row-major over `dims`) into a whole tensor that is `filler` elsewhere. Returns its shape and elements.
///
/// With a repeated dim, the values at index 0 of it are the ones stored; `values` must hold them everywhere.
pub fn embed<T: Copy>(arrangement: Arrangement, dims: &[usize], values: &[T], filler: T) -> (Vec<usize>, Vec<T>) {
    let (whole, places) = arrangement.places(dims);
    let mut elements = vec![filler; whole.iter().product()];
    places.iter().zip(values).for_each(|(place, value)| elements[*place] = *value);
    (whole, elements)
}

/// An operand on a device, in its arrangement. The tensor lives as long as this.
pub struct Operand<T> {
    whole: Tensor<T>,
    steps: Vec<Step>,
}

impl<T: Element> Operand<T> {
    /// Uploads `values` (row-major over `dims`) with `filler` around them.
    pub fn new(device: &Device, arrangement: Arrangement, dims: &[usize], values: &[T], filler: T) -> Operand<T> {
        let (whole, elements) = embed(arrangement, dims, values, filler);
        let whole = Tensor::from_slice(device, &whole, &elements).expect("an upload");
        Operand { whole, steps: arrangement.steps(dims).1 }
    }

    /// The operand.
    pub fn view(&self) -> View<'_, T> {
        self.steps.iter().fold(self.whole.view(), |view, step| {
            let stepped = match step {
                Step::Slice(dim, range) => view.slice(Dim::front(*dim), range.clone()),
                Step::Permute(order) => view.permute(order),
                Step::Reshape(dims) => view.reshape(dims),
                Step::Expand(dims) => view.expand(dims),
            };
            stepped.expect("the same step worked on the layout")
        })
    }
}
