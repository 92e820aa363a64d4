//! Tensors of many gigabytes of which few elements count: the software GPU makes memory only where it is written.

use softgpu::ctl::Gpu;
use sumexp::interop::raw_address_mut;
use sumexp::{Device, DeviceName, Dim, Element, Tensor, View, ViewMut};

/// Elements between two rows that lie far apart: every other row's offset is a multiple of 2^32.
pub const FAR: usize = 1 << 31;

/// Room for every test of a program at once.
const MEMORY: u64 = 1 << 42;

/// The number of a GPU.
fn ordinal(device: &Device) -> usize {
    let DeviceName::Cuda { ordinal, .. } = device.name() else { panic!("the host has no sparse memory") };
    ordinal
}

/// Zeros that take no memory.
pub fn zeros<T: Element>(soft: &Gpu, device: &Device, dims: &[usize]) -> Tensor<T> {
    soft.memory_limit(ordinal(device) as u32, MEMORY);
    Tensor::zeros(device, dims).expect("sparse memory")
}

/// Writes elements from index `first` on.
pub fn put<T: Element>(tensor: &mut Tensor<T>, first: usize, values: &[T]) {
    use cudarc::driver::result::{ctx, device, memcpy_htod_sync, primary_ctx};
    assert!((first + values.len()) as u64 <= tensor.elements());
    tensor.device().synchronize().expect("no finding");
    let address = raw_address_mut(&mut tensor.view_mut()).expect("nobody else holds the tensor");
    // SAFETY: the primary context is retained and released in pairs, and the library keeps it alive; the elements lie in
    // the tensor, by the assertion, and no work on it is queued.
    unsafe {
        let gpu = device::get(ordinal(tensor.device()) as i32).expect("the device of the tensor");
        ctx::set_current(primary_ctx::retain(gpu).expect("it is in use")).expect("a live context");
        memcpy_htod_sync(address + (first * size_of::<T>()) as u64, values).expect("a copy");
        primary_ctx::release(gpu).expect("retained above");
    }
}

/// An operand whose rows (its first dim) lie [`FAR`] apart.
pub struct Far<T> {
    whole: Tensor<T>,
    dims: Vec<usize>,
}

impl<T: Element> Far<T> {
    /// With these elements, in row-major order.
    pub fn new(soft: &Gpu, device: &Device, dims: &[usize], values: &[T]) -> Far<T> {
        let mut whole = zeros(soft, device, &[dims[0], FAR]);
        for (row, values) in values.chunks_exact(values.len() / dims[0]).enumerate() {
            put(&mut whole, row * FAR, values);
        }
        Far { whole, dims: dims.to_vec() }
    }

    /// Room for a result, of zeros.
    pub fn room(soft: &Gpu, device: &Device, dims: &[usize]) -> Far<T> {
        Far { whole: zeros(soft, device, &[dims[0], FAR]), dims: dims.to_vec() }
    }

    /// The result, to be written.
    pub fn view_mut(&mut self) -> ViewMut<'_, T> {
        let slab = self.dims[1..].iter().product();
        let rows = self.whole.view_mut().slice(Dim::front(1), 0..slab).expect("rows are short");
        rows.reshape(&self.dims).expect("a row is contiguous")
    }

    /// The operand.
    pub fn view(&self) -> View<'_, T> {
        let slab = self.dims[1..].iter().product();
        let rows = self.whole.view().slice(Dim::front(1), 0..slab).expect("rows are short");
        rows.reshape(&self.dims).expect("a row is contiguous")
    }
}
