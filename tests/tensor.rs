//! Tensors and views against a brute-force model: every chain of view operations gives the elements that copying would.

use proptest::prelude::*;
use sumexp::interop::{raw_address, raw_address_mut, view_from_raw, view_mut_from_raw};
use sumexp::{Device, Dim, Error, Tensor, View, bf16, f16};

/// A view as the model sees it: the lengths of the dims and all elements in row-major order.
#[derive(Clone, Debug, PartialEq)]
struct Copied {
    dims: Vec<usize>,
    elements: Vec<u32>,
}

impl Copied {
    /// Every index of `dims`, in row-major order.
    fn indices(dims: &[usize]) -> Vec<Vec<usize>> {
        dims.iter().fold(vec![vec![]], |all, &dim| {
            all.iter().flat_map(|index| (0..dim).map(move |i| [index.as_slice(), &[i]].concat())).collect()
        })
    }

    fn at(&self, index: &[usize]) -> u32 {
        self.elements[index.iter().zip(&self.dims).fold(0, |at, (&i, &dim)| at * dim + i)]
    }

    /// The copy of shape `dims` whose element at an index is this one's at `from(index)`.
    fn gather(&self, dims: Vec<usize>, from: impl Fn(&[usize]) -> Vec<usize>) -> Self {
        let elements = Self::indices(&dims).iter().map(|index| self.at(&from(index))).collect();
        Self { dims, elements }
    }
}

/// One view operation, with numbers that are reduced to what the view allows.
#[derive(Clone, Debug)]
enum Step {
    Slice { dim: usize, start: usize, len: usize, back: bool },
    Permute(usize),
    Transpose(usize, usize),
    Expand { lead: usize, len: usize },
    Reshape(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..8usize, 0..8usize, 0..8usize, any::<bool>()).prop_map(|(dim, start, len, back)| Step::Slice {
            dim,
            start,
            len,
            back
        }),
        (0..5040usize).prop_map(Step::Permute),
        (0..8usize, 0..8usize).prop_map(|(a, b)| Step::Transpose(a, b)),
        (0..3usize, 1..4usize).prop_map(|(lead, len)| Step::Expand { lead, len }),
        (0..64usize).prop_map(Step::Reshape),
    ];
    prop::collection::vec(step, 0..6)
}

/// Permutation number `number` of `0..len`, in some fixed order.
fn permutation(len: usize, mut number: usize) -> Vec<usize> {
    let mut rest: Vec<usize> = (0..len).collect();
    let mut order = vec![];
    while !rest.is_empty() {
        order.push(rest.remove(number % rest.len()));
        number /= rest.len() + 1;
    }
    order
}

/// Shape number `number` with `elements` elements: the dims are divisors, peeled off one after the other.
fn factors(mut elements: usize, mut number: usize) -> Vec<usize> {
    if elements == 0 {
        return vec![number % 4, 0, number % 3];
    }
    let mut dims = vec![];
    while dims.len() < 5 && (elements > 1 || number % 2 == 1) {
        let divisors: Vec<usize> = (1..=elements).filter(|d| elements.is_multiple_of(*d)).collect();
        let dim = divisors[number % divisors.len()];
        number /= 2;
        elements /= dim;
        dims.push(dim);
    }
    dims.push(elements);
    dims
}

/// Whether some strides give these elements under this shape, when every element is its own offset in memory.
fn expressible(dims: &[usize], offsets: &[u32]) -> bool {
    let shaped = Copied { dims: dims.to_vec(), elements: offsets.to_vec() };
    let step = |dim: usize| {
        let unit: Vec<usize> = (0..dims.len()).map(|d| usize::from(d == dim)).collect();
        if dims[dim] > 1 { i64::from(shaped.at(&unit)) - i64::from(offsets[0]) } else { 0 }
    };
    let strides: Vec<i64> = (0..dims.len()).map(step).collect();
    Copied::indices(dims).iter().all(|index| {
        let offset: i64 = index.iter().zip(&strides).map(|(&i, stride)| i as i64 * stride).sum();
        i64::from(shaped.at(index)) == i64::from(offsets[0]) + offset
    })
}

/// Applies one step to both. `None` if the view refused it, rightly.
fn apply<'a>(view: View<'a, u32>, model: &Copied, step: &Step) -> Option<(View<'a, u32>, Copied)> {
    let rank = model.dims.len();
    match *step {
        Step::Slice { .. } | Step::Transpose(..) if rank == 0 => None,
        Step::Slice { dim, start, len, back } => {
            let dim = dim % rank;
            let start = start % (model.dims[dim] + 1);
            let end = (start + len).min(model.dims[dim]);
            let named = if back { Dim::back(rank - 1 - dim) } else { Dim::front(dim) };
            let mut dims = model.dims.clone();
            dims[dim] = end - start;
            let sliced = model.gather(dims, |index| {
                let mut index = index.to_vec();
                index[dim] += start;
                index
            });
            Some((view.slice(named, start..end).unwrap(), sliced))
        }
        Step::Permute(number) => {
            let order = permutation(rank, number);
            let dims = order.iter().map(|&d| model.dims[d]).collect();
            let permuted = model.gather(dims, |index| {
                let mut from = vec![0; rank];
                order.iter().zip(index).for_each(|(&d, &i)| from[d] = i);
                from
            });
            Some((view.permute(&order).unwrap(), permuted))
        }
        Step::Transpose(a, b) => {
            let (a, b) = (a % rank, b % rank);
            let mut dims = model.dims.clone();
            dims.swap(a, b);
            let transposed = model.gather(dims, |index| {
                let mut index = index.to_vec();
                index.swap(a, b);
                index
            });
            Some((view.transpose(Dim::front(a), Dim::back(rank - 1 - b)).unwrap(), transposed))
        }
        Step::Expand { lead, len } => {
            let lead = lead.min(7 - rank.min(7));
            let grown = model.dims.iter().map(|&dim| if dim == 1 { len } else { dim });
            let dims: Vec<usize> = std::iter::repeat_n(len, lead).chain(grown).collect();
            let expanded = model.gather(dims.clone(), |index| {
                index[lead..].iter().zip(&model.dims).map(|(&i, &dim)| if dim == 1 { 0 } else { i }).collect()
            });
            Some((view.expand(&dims).unwrap(), expanded))
        }
        Step::Reshape(number) => {
            let dims = factors(model.elements.len(), number);
            let possible = model.elements.is_empty() || expressible(&dims, &model.elements);
            match view.reshape(&dims) {
                Ok(view) => {
                    assert!(possible, "{view:?} cannot be {dims:?}");
                    Some((view, Copied { dims, elements: model.elements.clone() }))
                }
                Err(error) => {
                    assert!(matches!(error, Error::ReshapeStrides { .. }), "{error}");
                    assert!(!possible, "{error}");
                    None
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn chains_of_view_operations_match_copies(
        dims in prop::collection::vec(0..5usize, 0..5),
        steps in steps(),
    ) {
        // Each element is its own offset, so the elements of a view tell where it looks.
        let elements: Vec<u32> = (0..dims.iter().product::<usize>() as u32).collect();
        let tensor = Tensor::from_slice(&Device::cpu(), &dims, &elements).unwrap();
        let (mut view, mut model) = (tensor.view(), Copied { dims, elements });
        for step in &steps {
            if model.elements.len() > 2000 {
                break;
            }
            if let Some((next, copied)) = apply(view, &model, step) {
                (view, model) = (next, copied);
            }
            prop_assert_eq!(view.dims(), &model.dims);
            prop_assert_eq!(view.to_vec().unwrap(), model.elements.clone());
            let contiguous = model.elements.windows(2).all(|pair| pair[1] == pair[0] + 1);
            prop_assert_eq!(view.layout().is_contiguous(), contiguous, "{:?}", view);
        }
    }

    #[test]
    fn raw_strides_are_accepted_exactly_when_every_offset_is_inside(
        dims in prop::collection::vec(0..4usize, 0..4),
        strides in prop::collection::vec(-1..9i64, 4),
        available in 0..40u64,
    ) {
        let memory: Vec<u32> = (0..available as u32).collect();
        let strides = &strides[..dims.len()];
        // SAFETY: `memory` holds `available` elements and outlives the view.
        let view =
            unsafe { view_from_raw::<u32>(&DEVICE, memory.as_ptr().expose_provenance() as u64, available, &dims, strides) };
        let reached: Vec<i64> = Copied::indices(&dims)
            .iter()
            .map(|index| index.iter().zip(strides).map(|(&i, stride)| i as i64 * stride).sum())
            .collect();
        // A stride is used only where a dim has two elements, and then it must not run backwards.
        let backwards = !reached.is_empty() && dims.iter().zip(strides).any(|(&dim, &stride)| dim > 1 && stride < 0);
        if backwards {
            prop_assert!(matches!(view, Err(Error::NegativeStride { .. })), "{:?}", view);
        } else if reached.iter().any(|&offset| offset >= available as i64) {
            prop_assert!(matches!(view, Err(Error::OutOfBounds { .. })), "{:?}", view);
        } else {
            let want: Vec<u32> = reached.iter().map(|&offset| offset as u32).collect();
            prop_assert_eq!(view.unwrap().to_vec().unwrap(), want);
        }
    }
}

static DEVICE: Device = Device::cpu();

#[test]
fn strides_of_dims_of_length_one_are_ignored() {
    let memory = [1u32, 2, 3];
    let address = memory.as_ptr().expose_provenance() as u64;
    for corrupt in [0, -1, i64::MIN, i64::MAX, 3_331_333] {
        // SAFETY: `memory` holds three elements and outlives the view.
        let view = unsafe { view_from_raw::<u32>(&DEVICE, address, 3, &[1, 3, 1], &[corrupt, 1, corrupt]) }.unwrap();
        assert_eq!(view.layout().strides(), [0, 1, 0]);
        assert!(view.layout().is_contiguous());
        assert_eq!(view.to_vec().unwrap(), [1, 2, 3]);
        assert!(view.slice(Dim::front(0), 1..1).unwrap().to_vec().unwrap().is_empty());
    }
}

#[test]
fn a_huge_view_needs_no_memory() {
    let x = Tensor::from_slice(&DEVICE, &[1], &[f16::ONE]).unwrap();
    let view = x.view().expand(&[1 << 20, 1 << 31]).unwrap();
    assert_eq!(view.layout().elements(), 1 << 51);
    assert_eq!(view.layout().span(), 1);
    let corner = view.slice(Dim::LAST, (1 << 31) - 2..1 << 31).unwrap().slice(Dim::front(0), 7..8).unwrap();
    assert_eq!(corner.to_vec().unwrap(), [f16::ONE; 2]);
    // And a copy of it that does not fit is an error, not an abort.
    assert!(matches!(view.to_vec(), Err(Error::OutOfMemory { .. })));
}

#[test]
fn elements_come_back_bit_by_bit() {
    fn round_trip<T: sumexp::Element>(elements: &[T]) {
        let tensor = Tensor::from_slice(&DEVICE, &[elements.len()], elements).unwrap();
        let back = tensor.to_vec().unwrap();
        // NaNs differ from themselves, so the texts are compared, and with them every sign and payload that prints.
        assert_eq!(format!("{back:?}"), format!("{elements:?}"));
        assert_eq!(tensor.dtype(), T::DTYPE);
    }
    round_trip(&[f16::NAN, f16::INFINITY, f16::NEG_ZERO, f16::MIN_POSITIVE_SUBNORMAL]);
    round_trip(&[bf16::NAN, bf16::NEG_INFINITY, bf16::NEG_ZERO, bf16::MIN_POSITIVE_SUBNORMAL]);
    round_trip(&[f32::NAN, -0.0, f32::MAX, f32::MIN_POSITIVE / 2.0]);
    round_trip(&[f64::NAN, -0.0, f64::MAX]);
    round_trip(&[i32::MIN, -1, i32::MAX]);
    round_trip(&[i64::MIN, -1, i64::MAX]);
    round_trip(&[u32::MAX, 0]);
    round_trip(&[u8::MAX, 0]);
    round_trip::<f32>(&[]);
}

#[test]
fn tensors_are_written_whole_or_in_part() {
    let mut x = Tensor::<i32>::zeros(&DEVICE, &[2, 2]).unwrap();
    assert_eq!(x.to_vec().unwrap(), [0; 4]);
    x.copy_from_slice(&[1, 2, 3, 4]).unwrap();
    let part = x.view_mut().slice(Dim::front(0), 1..2).unwrap().reshape(&[2]).unwrap();
    assert_eq!((part.dims(), part.as_view().to_vec().unwrap()), ([2].as_slice(), vec![3, 4]));
    let x = x.reshape(&[4, 1]).unwrap();
    assert_eq!((x.dims(), x.elements(), x.to_vec().unwrap()), ([4, 1].as_slice(), 4, vec![1, 2, 3, 4]));
}

#[test]
fn a_tensor_without_dims_has_one_element() {
    let x = Tensor::from_slice(&DEVICE, &[], &[7u32]).unwrap();
    assert_eq!((x.shape().rank(), x.elements(), x.to_vec().unwrap()), (0, 1, vec![7]));
    assert_eq!(x.view().expand(&[2, 2]).unwrap().to_vec().unwrap(), [7; 4]);
    assert_eq!(x.view().permute(&[]).unwrap().to_vec().unwrap(), [7]);
}

#[test]
fn raw_memory_is_read_and_addressed_in_place() {
    let mut memory = [1.0f32, 2.0, 3.0, 4.0];
    let address = memory.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: `memory` holds four elements, and nothing else uses it while the view lives.
    let mut view = unsafe { view_mut_from_raw::<f32>(&DEVICE, address, 4, &[2, 2], &[1, 2]) }.unwrap();
    assert_eq!(view.as_view().to_vec().unwrap(), [1.0, 3.0, 2.0, 4.0]);
    assert_eq!(raw_address_mut(&mut view).unwrap(), address);
    let part = view.as_view().slice(Dim::LAST, 1..2).unwrap();
    assert_eq!(raw_address(&part), address + 8);
}

#[test]
fn handles_cross_threads() {
    fn sendable<T: Send + Sync>() {}
    sendable::<Device>();
    sendable::<Tensor<f32>>();
    sendable::<View<'_, f16>>();
    sendable::<sumexp::ViewMut<'_, bf16>>();
    sendable::<sumexp::Probabilities<f32>>();
    sendable::<sumexp::Lse>();
    sendable::<sumexp::Mask<'_>>();
    sendable::<Error>();
}
