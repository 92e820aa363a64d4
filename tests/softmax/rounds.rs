//! Tensors so large that a block works through many rows, a slice has several chunks, and offsets pass 2^32 elements. The
//! software GPU makes memory only where it is written and runs a few blocks of the largest launches, so they cost little.

use softgpu::ctl::Gpu;
use sumexp::reference::row::State;
use sumexp::{
    Device, Dim, Mask, Probabilities, Result, SoftmaxOptions, Tensor, View, f16, keep, log_softmax_backward_into,
    logsumexp, logsumexp_backward, softmax, softmax_backward, softmax_backward_into,
};

use crate::common::device::{assert_no_findings, soft};
use crate::common::gpu::device;
use crate::common::random::Random;
use crate::common::sparse::{Far, put, zeros};

/// Blocks of the largest grid: later rows are further rounds of the same blocks.
const GRID: usize = 1 << 16;

/// Logits of a slab. No two slabs have a row in common.
fn logits(slab: usize, elements: usize) -> Vec<f16> {
    let mut random = Random::new(slab as u64);
    (0..elements).map(|_| f16::from_f64(3.0 * random.normal())).collect()
}

/// Zeros but for some slabs, and those by themselves.
struct Large {
    whole: Tensor<f16>,
    alone: Vec<(usize, Tensor<f16>)>,
}

impl Large {
    fn new(soft: &Gpu, device: &Device, count: usize, slab: &[usize], chosen: &[usize]) -> Large {
        let mut whole = zeros(soft, device, &[&[count], slab].concat());
        let elements: usize = slab.iter().product();
        assert!((count - 1) * elements >= 1 << 32, "the offset of the last slab is to pass 2^32");
        let alone = chosen.iter().map(|&at| {
            let values = logits(at, elements);
            put(&mut whole, at * elements, &values);
            (at, Tensor::from_slice(device, &[&[1], slab].concat(), &values).expect("a small tensor"))
        });
        let alone = alone.collect();
        Large { whole, alone }
    }
}

/// The slab at `at` of a result. Elements that nobody wrote fail.
fn part(view: View<'_, f16>, at: usize) -> Result<Vec<f16>> {
    view.slice(Dim::front(0), at..at + 1)?.to_vec()
}

/// Softmax and its gradient of `count` slabs, of which the first blocks do theirs. What they give for some of the slabs, the
/// first and the last among them, must be what they give for each of these alone.
fn slabs_of_first_blocks(slab: &[usize], dim: usize, count: usize, blocks: &[u64], chosen: &[usize]) {
    let Some(soft) = soft() else { return };
    let device = device();
    let x = Large::new(&soft, &device, count, slab, chosen);
    let (dim, options) = (Dim::front(dim + 1), SoftmaxOptions::default());

    // Both operations deal rows to blocks in the same way, so the gradient reads what is there.
    soft.only_ctas(Some(blocks));
    let y = softmax(&x.whole, dim, &options).expect("sparse memory");
    let dx = softmax_backward(&y, &x.whole, dim, &options).expect("sparse memory");
    device.synchronize().expect("no finding");
    soft.only_ctas(None);

    for (at, alone) in &x.alone {
        let y_alone = softmax(alone, dim, &options).expect("a legal call");
        let dx_alone = softmax_backward(&y_alone, alone, dim, &options).expect("a legal call");
        assert!(part(y.view_values(), *at) == y_alone.to_vec(), "softmax of {slab:?}, slab {at} of {count}");
        assert!(part(dx.view(), *at) == dx_alone.to_vec(), "gradient of {slab:?}, slab {at} of {count}");
    }
    assert_no_findings(&format!("{count} slabs of {slab:?}"));
}

#[test]
fn rows_of_a_block() {
    // Block 0 has rows 0, 65536, 131072 ... and the last, whose offset is 0 in 32 bits.
    slabs_of_first_blocks(&[4096], 0, 16 * GRID + 1, &[0, 1], &[0, 1, GRID, GRID + 1, 16 * GRID]);
}

#[test]
fn columns_of_a_block() {
    // A slab of 128 columns takes two blocks of 64, or eight of 16 where columns are not aligned.
    let blocks = [0, 1, 2, 3, 4, 5, 6, 7];
    slabs_of_first_blocks(&[64, 128], 0, 8 * GRID + 1, &blocks, &[0, GRID / 2, 8 * GRID]);
}

/// Rows of 8 slices forward and 16 backward: so many neighbouring blocks have a whole row in every round.
#[test]
fn slices_of_rows() {
    let Some(soft) = soft() else { return };
    let device = device();
    let (count, len) = (GRID / 2 + 1, 131_072);
    let chosen = [0, GRID / 8, GRID / 2];
    let x = Large::new(&soft, &device, count, &[len], &chosen);
    let options = SoftmaxOptions::default();
    soft.only_ctas(Some(&(0..8).collect::<Vec<_>>()));
    let y = softmax(&x.whole, Dim::LAST, &options).expect("sparse memory");
    device.synchronize().expect("no finding");
    for (at, alone) in &x.alone {
        soft.only_ctas(None);
        let y_alone = softmax(alone, Dim::LAST, &options).expect("a legal call");
        assert!(part(y.view_values(), *at) == y_alone.to_vec(), "softmax, row {at}");
    }

    // The gradient has twice as many blocks, which go through rows that the first blocks of softmax have not written.
    let y = Probabilities::from_tensor(Large::new(&soft, &device, count, &[len], &chosen).whole);
    soft.only_ctas(Some(&(0..16).collect::<Vec<_>>()));
    let dx = softmax_backward(&y, &x.whole, Dim::LAST, &options).expect("sparse memory");
    device.synchronize().expect("no finding");
    soft.only_ctas(None);
    for (at, alone) in &x.alone {
        let y_alone = Tensor::from_slice(&device, &[1, len], &logits(*at, len)).expect("a small tensor");
        let dx_alone = softmax_backward(&Probabilities::from_tensor(y_alone), alone, Dim::LAST, &options);
        assert!(part(dx.view(), *at) == dx_alone.expect("a legal call").to_vec(), "gradient, row {at}");
    }
    assert_no_findings(&"split rows");
}

/// Offsets beyond 2^32 elements in every operand that is read: rows far apart give the bits of rows side by side.
#[test]
fn rows_far_apart() {
    let Some(soft) = soft() else { return };
    for (dims, dim) in
        [(&[3usize, 40][..], 1), (&[3, 4096], 1), (&[3, 70_000], 1), (&[3, 20, 9], 1), (&[3, 300, 16], 1)]
    {
        let device = device();
        let elements: usize = dims.iter().product();
        let mut per_row = dims.to_vec();
        let len = per_row.remove(dim);
        let (values, upstream) = (logits(1, elements), logits(2, elements));
        let dlse: Vec<f32> = upstream[..elements / len].iter().map(|x| x.to_f32()).collect();
        let visible: Vec<u8> = (0..elements).map(|i| u8::from(i * 7919 % 11 > 2)).collect();

        let near = |values: &[f16]| Tensor::from_slice(&device, dims, values).expect("a small tensor");
        let far = |values: &[f16]| Far::new(&soft, &device, dims, values);
        let (x, dy, far_x, far_dy) = (near(&values), near(&upstream), far(&values), far(&upstream));
        let mask = Tensor::from_slice(&device, dims, &visible).expect("a small tensor");
        let far_mask = Far::new(&soft, &device, dims, &visible);
        let lse = Tensor::from_slice(&device, &per_row, &dlse).expect("a small tensor");
        let far_lse = Far::new(&soft, &device, &per_row, &dlse);

        let dim = Dim::front(dim);
        let plain = SoftmaxOptions::default();
        let masked = SoftmaxOptions { mask: Mask::Visible(keep(&mask)), ..plain };
        let far_masked = SoftmaxOptions { mask: Mask::Visible(keep(far_mask.view())), ..plain };
        let same = |what: &str, far: Result<Vec<f16>>, near: Result<Vec<f16>>| {
            let (far, near) = (far.expect("a legal call"), near.expect("a legal call"));
            assert!(near.iter().any(|x| x.to_f32() != 0.0), "{what} of {dims:?} gives nothing to compare");
            assert!(far == near, "{what} of {dims:?}");
        };
        let softmax = |x, options: &_| softmax::<f16>(x, dim, options).and_then(|y| y.to_vec());
        same("softmax", softmax(far_x.view(), &far_masked), softmax(x.view(), &masked));
        let backward = |x, dlse| logsumexp_backward::<f16>(x, dlse, dim, &plain).and_then(|dx| dx.to_vec());
        same("logsumexp_backward", backward(far_x.view(), far_lse.view()), backward(x.view(), lse.view()));
        // Any numbers will do for results: what counts is which of them are read.
        let backward = |log: bool, y, dy| {
            let mut dx = Tensor::<f16>::zeros(&device, dims)?;
            match log {
                false => softmax_backward_into(y, dy, dim, &plain, dx.view_mut())?,
                true => log_softmax_backward_into(y, dy, dim, &plain, dx.view_mut())?,
            }
            dx.to_vec()
        };
        for (what, log) in [("softmax_backward", false), ("log_softmax_backward", true)] {
            same(what, backward(log, far_x.view(), far_dy.view()), backward(log, x.view(), dy.view()));
        }
        assert_no_findings(&format!("{dims:?} far apart"));
    }
}

/// More elements than 512 slices of one chunk hold. The maximum is found in the first chunk of some slices and in the second
/// of others.
#[test]
fn slices_of_two_chunks() {
    if soft().is_none() {
        return;
    }
    let device = device();
    let len = (1 << 23) + 12_345;
    let values: Vec<f16> = (0..len).map(|i| f16::from_f64((i * 7919 % 10_007) as f64 / 1024.0)).collect();
    let x = Tensor::from_slice(&device, &[len], &values).expect("16 MB");
    let lse = logsumexp(&x, Dim::LAST, &SoftmaxOptions::default()).and_then(|lse| lse.to_vec()).expect("a legal call");
    let want = State::of(&values.iter().map(|x| x.to_f64()).collect::<Vec<_>>(), 1.0).lse(1.0);
    assert!((f64::from(lse[0]) - want).abs() < 1e-5, "{} is not {want}", lse[0]);
    assert_no_findings(&"slices of two chunks");
}
