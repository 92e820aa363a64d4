//! Views against a list of offsets.

use crate::engine::{Bytes, outcome};
use sumexp::{Device, Dim, Error, Tensor, View, interop};

/// More elements are not enumerated.
const MANY: usize = 4096;

/// Lengths around every limit.
const LENGTHS: [usize; 16] = [
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    12,
    1 << 16,
    1 << 31,
    1 << 32,
    1 << 33,
    isize::MAX as usize,
    1 << 63,
    usize::MAX - 1,
    usize::MAX,
];

/// Elements of a shape as the crate counts them when it decides whether the shape can be: `None` if it cannot.
fn possible(dims: &[usize]) -> Option<u128> {
    let product = dims.iter().try_fold(1u128, |product, &dim| product.checked_mul(dim.max(1) as u128))?;
    (dims.len() <= 8 && product <= isize::MAX as u128).then(|| dims.iter().map(|&dim| dim as u128).product())
}

fn indices(dims: &[usize]) -> Vec<Vec<usize>> {
    if dims.contains(&0) {
        return Vec::new();
    }
    dims.iter().fold(vec![vec![]], |all, &dim| {
        all.into_iter().flat_map(|index| (0..dim).map(move |at| [index.clone(), vec![at]].concat())).collect()
    })
}

/// What a view must be: a shape, and the offset of each element in row-major order.
#[derive(Clone, Debug)]
struct List {
    dims: Vec<usize>,
    offsets: Vec<usize>,
}

impl List {
    /// The elements that `pick` finds for every index of `dims`.
    fn gather(&self, dims: Vec<usize>, pick: impl Fn(&[usize]) -> Vec<usize>) -> List {
        let at = |index: Vec<usize>| {
            let from = pick(&index);
            self.dims.iter().zip(&from).fold(0, |at, (&dim, &index)| at * dim + index)
        };
        let offsets = indices(&dims).into_iter().map(|index| self.offsets[at(index)]).collect();
        List { dims, offsets }
    }

    /// Whether the same elements in the same order can be reached with one stride per dim.
    fn has_strides(&self, dims: &[usize]) -> bool {
        let Some(&first) = self.offsets.first() else { return true };
        let step = |dim: usize| dims[dim + 1..].iter().product::<usize>();
        let strides: Vec<i128> = (0..dims.len())
            .map(|dim| if dims[dim] > 1 { self.offsets[step(dim)] as i128 - first as i128 } else { 0 })
            .collect();
        let reached = |index: &Vec<usize>| {
            first as i128 + index.iter().zip(&strides).map(|(&at, stride)| at as i128 * stride).sum::<i128>()
        };
        indices(dims).iter().zip(&self.offsets).all(|(index, &offset)| reached(index) == offset as i128)
    }
}

/// A dim of the view, or one that it does not have.
fn dim(bytes: &mut Bytes, rank: usize) -> (Dim, Option<usize>) {
    let at = bytes.below(rank + 2);
    match bytes.below(2) {
        0 => (Dim::front(at), (at < rank).then_some(at)),
        _ => (Dim::back(at), rank.checked_sub(at + 1)),
    }
}

/// One step on both; the view's answer must be that of the list. `None` ends the program: too many elements, or an error.
fn step<'a>(bytes: &mut Bytes, view: View<'a, u32>, list: &List) -> (u64, Option<(View<'a, u32>, List)>) {
    let rank = list.dims.len();
    match bytes.below(5) {
        0 => {
            let (dim, position) = dim(bytes, rank);
            let (start, end) = (bytes.below(8), bytes.below(8));
            let (start, end) = if bytes.below(16) == 0 { (start, usize::MAX - end) } else { (start, end) };
            let sliced = view.slice(dim, start..end);
            let Some(position) = position else {
                assert!(matches!(sliced, Err(Error::Dim { .. })), "{sliced:?}");
                return (1, None);
            };
            if start > end || end > list.dims[position] {
                assert!(matches!(sliced, Err(Error::Range { .. })), "{sliced:?}");
                return (2, None);
            }
            let mut dims = list.dims.clone();
            dims[position] = end - start;
            let shifted = list.gather(dims, |index| {
                let mut from = index.to_vec();
                from[position] += start;
                from
            });
            (3, Some((sliced.unwrap(), shifted)))
        }
        1 => {
            let order: Vec<usize> =
                (0..rank + usize::from(bytes.below(16) == 0)).map(|_| bytes.below(rank.max(1) + 1)).collect();
            let permuted = view.permute(&order);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            if sorted != (0..rank).collect::<Vec<_>>() {
                assert!(matches!(permuted, Err(Error::Permutation { .. })), "{permuted:?}");
                return (4, None);
            }
            let dims = order.iter().map(|&from| list.dims[from]).collect();
            let moved = list.gather(dims, |index| {
                (0..rank).map(|from| index[order.iter().position(|&o| o == from).unwrap()]).collect()
            });
            (5, Some((permuted.unwrap(), moved)))
        }
        2 => {
            let ((a, at_a), (b, at_b)) = (dim(bytes, rank), dim(bytes, rank));
            let transposed = view.transpose(a, b);
            let (Some(a), Some(b)) = (at_a, at_b) else {
                assert!(matches!(transposed, Err(Error::Dim { .. })), "{transposed:?}");
                return (6, None);
            };
            let mut dims = list.dims.clone();
            dims.swap(a, b);
            let moved = list.gather(dims, |index| {
                let mut from = index.to_vec();
                from.swap(a, b);
                from
            });
            (7, Some((transposed.unwrap(), moved)))
        }
        3 => {
            let more = bytes.below(10usize.saturating_sub(rank).max(1));
            let mut dims: Vec<usize> = (0..more).map(|_| LENGTHS[bytes.below(LENGTHS.len())]).collect();
            let wish =
                |&dim: &usize| if dim == 1 || bytes.below(16) == 0 { LENGTHS[bytes.below(LENGTHS.len())] } else { dim };
            dims.extend(list.dims.iter().map(wish).collect::<Vec<_>>());
            let expanded = view.expand(&dims);
            let Some(elements) = possible(&dims) else {
                assert!(matches!(expanded, Err(Error::Rank { .. } | Error::TooLarge { .. })), "{dims:?}: {expanded:?}");
                return (8, None);
            };
            if dims[more..].iter().zip(&list.dims).any(|(wish, dim)| wish != dim && *dim != 1) {
                assert!(matches!(expanded, Err(Error::Broadcast { .. })), "{dims:?}: {expanded:?}");
                return (9, None);
            }
            let expanded = expanded.unwrap();
            assert_eq!(u128::from(expanded.shape().elements()), elements);
            if elements > MANY as u128 {
                return (10, None);
            }
            let repeated = list.gather(dims, |index| {
                index[more..].iter().zip(&list.dims).map(|(&at, &dim)| if dim == 1 { 0 } else { at }).collect()
            });
            (11, Some((expanded, repeated)))
        }
        _ => {
            let mut dims: Vec<usize> = (0..bytes.below(10)).map(|_| LENGTHS[bytes.below(8)]).collect();
            // The last one such that the number of elements may fit.
            let product: usize = dims.iter().product();
            if product > 0 && list.offsets.len().is_multiple_of(product) {
                dims.push(list.offsets.len() / product);
            }
            let reshaped = view.reshape(&dims);
            match possible(&dims) {
                None => assert!(matches!(reshaped, Err(Error::Rank { .. } | Error::TooLarge { .. })), "{reshaped:?}"),
                Some(elements) if elements != list.offsets.len() as u128 => {
                    assert!(matches!(reshaped, Err(Error::Reshape { .. })), "{reshaped:?}");
                }
                Some(_) if !list.has_strides(&dims) => {
                    assert!(
                        matches!(reshaped, Err(Error::ReshapeStrides { .. })),
                        "{list:?} as {dims:?}: {reshaped:?}"
                    );
                }
                Some(_) => {
                    let same = List { dims, offsets: list.offsets.clone() };
                    return (12, Some((reshaped.unwrap(), same)));
                }
            }
            (13, None)
        }
    }
}

/// A tensor, and steps from view to view.
pub fn steps(input: &[u8]) -> u64 {
    let mut bytes = Bytes(input);
    let dims: Vec<usize> = (0..bytes.below(5)).map(|_| bytes.below(6)).collect();
    let count = dims.iter().product::<usize>();
    let elements: Vec<u32> = (0..count as u32).map(|at| at * 7 + 3).collect();
    let tensor = Tensor::from_slice(&Device::cpu(), &dims, &elements).unwrap();
    let (mut view, mut list) = (tensor.view(), List { dims, offsets: (0..count).collect() });
    let mut outcomes = Vec::new();
    while !bytes.is_empty() && outcomes.len() < 16 {
        let (what, next) = step(&mut bytes, view, &list);
        outcomes.push(what);
        let Some(next) = next.filter(|(_, list)| list.offsets.len() <= MANY) else { break };
        (view, list) = next;
        assert_eq!(view.dims(), list.dims);
        let want: Vec<u32> = list.offsets.iter().map(|&offset| elements[offset]).collect();
        assert_eq!(view.to_vec().unwrap(), want, "{view:?}");
    }
    outcome((outcomes, list.dims.len()))
}

/// Dims and strides of somebody else's memory, which holds a known number of elements.
pub fn raw(input: &[u8]) -> u64 {
    let mut bytes = Bytes(input);
    let memory: Vec<u32> = (0..64).map(|at| at * 5 + 1).collect();
    let available = bytes.below(memory.len() + 1) as u64;
    let rank = bytes.below(10);
    let dims: Vec<usize> = (0..rank).map(|_| LENGTHS[bytes.below(LENGTHS.len())]).collect();
    let strides: Vec<i64> = (0..rank + usize::from(bytes.below(32) == 31))
        .map(|_| match bytes.below(4) {
            0 => bytes.word() as i64,
            1 => -(bytes.below(4) as i64),
            _ => bytes.below(20) as i64,
        })
        .collect();
    let unaligned = bytes.below(16) == 15;
    let address = memory.as_ptr().expose_provenance() as u64 + u64::from(unaligned);
    let device = Device::cpu();
    // SAFETY: the address is that of `available` elements or more; one that is not aligned is refused.
    let view = unsafe { interop::view_from_raw::<u32>(&device, address, available, &dims, &strides) };
    let Some(elements) = possible(&dims) else {
        assert!(matches!(view, Err(Error::Rank { .. } | Error::TooLarge { .. })), "{view:?}");
        return outcome(1);
    };
    if strides.len() != rank {
        assert!(matches!(view, Err(Error::StrideCount { .. })), "{view:?}");
        return outcome(2);
    }
    let used = || dims.iter().zip(&strides).filter(|(dim, _)| **dim > 1);
    if elements > 0 && used().any(|(_, &stride)| stride < 0) {
        assert!(matches!(view, Err(Error::NegativeStride { .. })), "{view:?}");
        return outcome(3);
    }
    let last = used().map(|(&dim, &stride)| (dim as u128 - 1).saturating_mul(stride as u128));
    let last = last.fold(0u128, u128::saturating_add);
    if elements > 0 && last >= u128::from(available) {
        assert!(matches!(view, Err(Error::OutOfBounds { .. })), "{view:?}");
        return outcome(4);
    }
    if elements > 0 && unaligned {
        assert!(matches!(view, Err(Error::Misaligned { .. })), "{view:?}");
        return outcome(5);
    }
    let view = view.unwrap();
    assert_eq!(view.layout().span(), if elements == 0 { 0 } else { last as u64 + 1 });
    if elements <= MANY as u128 {
        let at =
            |index: Vec<usize>| index.iter().zip(&strides).map(|(&at, &stride)| at * stride as usize).sum::<usize>();
        let stepped =
            |index: &Vec<usize>| index.iter().zip(&dims).map(|(&at, &dim)| if dim > 1 { at } else { 0 }).collect();
        let want: Vec<u32> = indices(&dims).iter().map(|index| memory[at(stepped(index))]).collect();
        assert_eq!(view.to_vec().unwrap(), want, "{view:?}");
    }
    outcome((6, elements.min(2), rank))
}
