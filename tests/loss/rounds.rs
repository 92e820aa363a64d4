//! Batches so large that a block works through many rows and offsets pass 2^32 elements. The software GPU makes memory only
//! where it is written and runs a few blocks of the largest launches, so they cost little.

use softgpu::launch::Checks;
use sumexp::{
    CrossEntropy, CrossEntropySaved, Dim, Reduction, Tensor, View, cross_entropy, cross_entropy_backward,
    cross_entropy_backward_into, f16,
};

use crate::common::device::{assert_no_findings, soft};
use crate::common::gpu::device;
use crate::common::random::Random;
use crate::common::sparse::{Far, put, zeros};

/// Blocks of the largest grid: later rows are further rounds of the same blocks.
const GRID: usize = 1 << 16;

const OPTIONS: CrossEntropy = CrossEntropy { ignore_index: Some(-100), temperature: 1.0, reduction: Reduction::None };

fn logits(row: usize, elements: usize) -> Vec<f16> {
    let mut random = Random::new(row as u64);
    (0..elements).map(|_| f16::from_f64(3.0 * random.normal())).collect()
}

/// Row `at` of one number per row.
fn number(view: View<'_, f32>, at: usize) -> f32 {
    view.slice(Dim::front(0), at..at + 1).and_then(|row| row.to_vec()).expect("written")[0]
}

/// Offsets beyond 2^32 elements in every operand that is read: rows far apart give the bits of rows side by side.
#[test]
fn rows_far_apart() {
    let Some(soft) = soft() else { return };
    for (dims, dim) in [(&[3usize, 40][..], 1), (&[3, 4000], 1), (&[3, 40_000], 1), (&[3, 40, 9], 1)] {
        let device = device();
        let elements: usize = dims.iter().product();
        let mut per_row = dims.to_vec();
        let classes = per_row.remove(dim);
        let rows = elements / classes;
        let values = logits(1, elements);
        let targets: Vec<i64> = (0..rows).map(|row| (row * 17 % classes) as i64).collect();
        let upstream: Vec<f32> = (0..rows).map(|row| 1.0 + row as f32).collect();

        let x = Tensor::from_slice(&device, dims, &values).expect("a small tensor");
        let to = Tensor::from_slice(&device, &per_row, &targets).expect("a small tensor");
        let g = Tensor::from_slice(&device, &per_row, &upstream).expect("a small tensor");
        let far_x = Far::new(&soft, &device, dims, &values);
        let far_to = Far::new(&soft, &device, &per_row, &targets);
        let far_g = Far::new(&soft, &device, &per_row, &upstream);

        let dim = Dim::front(dim);
        let gives = |x: View<'_, f16>, to: View<'_, i64>, g: View<'_, f32>| {
            let output = cross_entropy(x, dim, to, &OPTIONS)?;
            let dx = cross_entropy_backward(x, dim, to, &output.saved, g, &OPTIONS)?;
            Ok::<_, sumexp::Error>((output.loss.to_vec()?, output.lse.to_vec()?, dx.to_vec()?))
        };
        let near = gives(x.view(), to.view(), g.view()).expect("a legal call");
        let far = gives(far_x.view(), far_to.view(), far_g.view()).expect("a legal call");
        assert!(near == far, "{dims:?}");
        assert_no_findings(&format!("{dims:?} far apart"));
    }
}

/// Block 0 has rows 0, 65536, 131072 ... and the last, whose offset is 0 in 32 bits.
#[test]
fn rows_of_a_block() {
    let Some(soft) = soft() else { return };
    let device = device();
    let (rows, classes) = (16 * GRID + 1, 4096);
    let chosen = [0, 1, GRID, 3 * GRID + 1, rows - 1];
    let mut x = zeros::<f16>(&soft, &device, &[rows, classes]);
    chosen.iter().for_each(|&row| put(&mut x, row * classes, &logits(row, classes)));
    let targets = zeros::<i64>(&soft, &device, &[rows]);
    let alone = chosen.map(|row| {
        let x = Tensor::from_slice(&device, &[1, classes], &logits(row, classes)).expect("a small tensor");
        let target = Tensor::from_slice(&device, &[1], &[0i64]).expect("a small tensor");
        let output = cross_entropy(&x, Dim::LAST, &target, &OPTIONS).expect("a legal call");
        let one = Tensor::from_slice(&device, &[1], &[1.0f32]).expect("a small tensor");
        let dx = cross_entropy_backward(&x, Dim::LAST, &target, &output.saved, &one, &OPTIONS).expect("a legal call");
        (row, output, dx)
    });

    // The kernels behind it add up losses that no block has computed. What they make of them is not looked at.
    soft.checks(Checks { init: false, ..Checks::ALL });
    soft.only_ctas(Some(&[0, 1]));
    let output = cross_entropy(&x, Dim::LAST, &targets, &OPTIONS).expect("sparse memory");
    device.synchronize().expect("no finding");
    soft.checks(Checks::ALL);
    for (row, alone, _) in &alone {
        let lse = alone.lse.to_vec().expect("readable")[0];
        assert_eq!(number(output.lse.view_values(), *row), lse, "lse of row {row}");
        assert_eq!(number(output.loss.view(), *row), alone.loss.to_vec().expect("readable")[0], "loss of row {row}");
    }

    // Gradients of all rows of the first blocks from the states of the chosen ones; the last number is the weight.
    let mut saved = zeros::<f32>(&soft, &device, &[CrossEntropySaved::elements(rows)]);
    for (row, alone, _) in &alone {
        put(&mut saved, 2 * row, &alone.saved.view().to_vec().expect("readable")[..2]);
    }
    put(&mut saved, 2 * rows, &[1.0]);
    let ones = Tensor::from_slice(&device, &[1], &[1.0f32]).expect("a small tensor");
    let ones = ones.view().expand(&[rows]).expect("1 expands");
    let mut dx = zeros::<f16>(&soft, &device, &[rows, classes]);
    cross_entropy_backward_into(&x, Dim::LAST, &targets, &saved, ones, &OPTIONS, dx.view_mut()).expect("sparse memory");
    device.synchronize().expect("no finding");
    soft.only_ctas(None);
    for (row, _, alone) in &alone {
        let part = dx.view().slice(Dim::front(0), *row..*row + 1).expect("in range").to_vec().expect("readable");
        assert!(part == alone.to_vec().expect("readable"), "gradient of row {row}");
    }
    assert_no_findings(&"rows of a block");
}
