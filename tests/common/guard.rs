//! Outputs between guards: memory around an output must hold the same bytes afterwards.

use sumexp::{Device, Dim, Element, Tensor, ViewMut};

/// Guards in front of an output beside its offset, and behind it.
const FRONT: usize = 64;
const BACK: usize = 67;

/// An output inside a larger tensor that is full of a sentinel.
pub struct Guarded<T> {
    whole: Tensor<T>,
    dims: Vec<usize>,
    start: usize,
    sentinel: T,
}

impl<T: Element> Guarded<T> {
    /// An output of this shape, `offset` elements behind an aligned address.
    pub fn new(device: &Device, dims: &[usize], offset: usize, sentinel: T) -> Guarded<T> {
        let start = FRONT + offset;
        let filled = vec![sentinel; start + dims.iter().product::<usize>() + BACK];
        let whole = Tensor::from_slice(device, &[filled.len()], &filled).expect("an upload");
        Guarded { whole, dims: dims.to_vec(), start, sentinel }
    }

    fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// The output.
    pub fn view_mut(&mut self) -> ViewMut<'_, T> {
        let range = self.start..self.start + self.len();
        let sliced = self.whole.view_mut().slice(Dim::LAST, range).expect("a slice of the whole");
        sliced.reshape(&self.dims).expect("a contiguous slice")
    }

    /// The output's elements, after a look at the guards.
    #[track_caller]
    pub fn read(&self, case: &dyn std::fmt::Display) -> Vec<T> {
        let all = self.whole.to_vec().unwrap_or_else(|error| panic!("{case}: {error}"));
        let end = self.start + self.len();
        let untouched = |range: &[T]| range.iter().all(|x| *x == self.sentinel);
        assert!(untouched(&all[..self.start]), "{case}: elements in front of an output were overwritten");
        assert!(untouched(&all[end..]), "{case}: elements behind an output were overwritten");
        all[self.start..end].to_vec()
    }
}
