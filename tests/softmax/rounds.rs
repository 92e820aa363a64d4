//! Tensors so large that a block works through many rows and offsets pass 2^32 elements. The software GPU runs a few blocks of
//! each launch and makes memory only where it is written, so they cost nothing.

use sumexp::{Dim, Probabilities, SoftmaxOptions, Tensor, View, f16, softmax, softmax_backward};

use crate::common::device::{assert_no_findings, soft};
use crate::common::gpu::device;

/// Blocks of the largest grid: later rows are further rounds of the same blocks.
const GRID: usize = 1 << 16;

/// Softmax and its gradient of one row (or slab of columns) repeated `count` times, of which the first blocks do theirs. The
/// first and the last repetition must be what the repeated one gives alone.
fn first_and_last(slab: &[usize], dim: usize, count: usize, blocks: &[u64]) {
    let Some(soft) = soft() else { return };
    let device = device();
    let elements: usize = slab.iter().product();
    let values: Vec<f16> = (0..elements).map(|i| f16::from_f32(((i * 7919) % 113) as f32 / 16.0)).collect();
    let one = Tensor::from_slice(&device, &[&[1], slab].concat(), &values).expect("a small tensor");
    let many = [&[count], slab].concat();
    assert!(count * elements > 1 << 32, "offsets are to pass 2^32");
    let (dim, options) = (Dim::front(dim + 1), SoftmaxOptions::default());
    let repeated = one.view().expand(&many).expect("1 expands");

    let y_alone = softmax(&one, dim, &options).expect("a legal call");
    let dx_alone = softmax_backward(&y_alone, &one, dim, &options).expect("a legal call");
    // Both operations deal rows to blocks in the same way, so the gradient reads what is there.
    soft.only_ctas(Some(blocks));
    let y = softmax(repeated, dim, &options).expect("sparse memory");
    let dx = softmax_backward(&y, repeated, dim, &options).expect("sparse memory");
    device.synchronize().expect("no finding");
    soft.only_ctas(None);

    for at in [0, count - 1] {
        let part =
            |view: View<'_, f16>| view.slice(Dim::front(0), at..at + 1).expect("in range").to_vec().expect("written");
        assert!(part(y.view_values()) == y_alone.to_vec().expect("readable"), "softmax of {slab:?}, repetition {at}");
        assert!(part(dx.view()) == dx_alone.to_vec().expect("readable"), "gradient of {slab:?}, repetition {at}");
    }
    assert_no_findings(&format!("{slab:?} repeated {count} times"));
}

#[test]
fn rows_of_a_block() {
    // Block 0 has rows 0, 65536, 131072 ... and the last.
    first_and_last(&[4096], 0, 16 * GRID + 1, &[0, 1]);
}

/// Rows of 8 slices forward and 16 backward: so many neighbouring blocks have a whole row in every round.
#[test]
fn slices_of_rows() {
    let Some(soft) = soft() else { return };
    let device = device();
    let (count, len) = (GRID / 2 + 1, 131_072);
    let one = Tensor::from_slice(&device, &[1, len], &vec![f16::from_f32(0.25); len]).expect("a small tensor");
    let repeated = one.view().expand(&[count, len]).expect("1 expands");
    let options = SoftmaxOptions::default();
    soft.only_ctas(Some(&[0, 1, 2, 3, 4, 5, 6, 7]));
    let y = softmax(repeated, Dim::LAST, &options).expect("sparse memory");
    device.synchronize().expect("no finding");
    soft.only_ctas(Some(&(0..16).collect::<Vec<_>>()));
    // Hidden entries, whose gradient is 0: what counts here is who reads and writes what.
    let hidden = Probabilities::from_tensor(Tensor::zeros(&device, &[count, len]).expect("sparse memory"));
    let dx = softmax_backward(&hidden, repeated, Dim::LAST, &options).expect("sparse memory");
    device.synchronize().expect("no finding");
    soft.only_ctas(None);
    for at in [0, count - 1] {
        let part =
            |view: View<'_, f16>| view.slice(Dim::front(0), at..at + 1).expect("in range").to_vec().expect("written");
        assert!(part(y.view_values()).iter().all(|p| p.to_f32() == 1.0 / len as f32), "softmax, row {at}");
        assert!(part(dx.view()).iter().all(|d| d.to_f32() == 0.0), "gradient, row {at}");
    }
    assert_no_findings(&"split rows");
}

#[test]
fn columns_of_a_block() {
    // 16 columns of a block, so that the last of 128 columns of a slab is in block 7.
    first_and_last(&[64, 128], 0, 8 * GRID + 1, &[0, 1, 2, 3, 4, 5, 6, 7]);
}
