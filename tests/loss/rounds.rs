//! Batches so large that a block works through many rows and offsets pass 2^32 elements. The software GPU makes memory only
//! where it is written and runs a few blocks of the largest launches, so they cost little.

use softgpu::launch::Checks;
use sumexp::{
    BinaryCrossEntropy, CrossEntropy, CrossEntropySaved, Dim, Reduction, Tensor, View,
    binary_cross_entropy_with_logits, binary_cross_entropy_with_logits_backward, cross_entropy, cross_entropy_backward,
    cross_entropy_backward_into, f16,
};

use crate::common::device::{assert_no_findings, soft};
use crate::common::gpu::device;
use crate::common::random::Random;
use crate::common::sparse::{Far, put, zeros};

/// Blocks of the largest grid: later rows are further rounds of the same blocks.
const GRID: usize = 1 << 16;

fn options() -> CrossEntropy<'static> {
    CrossEntropy { reduction: Reduction::None, ..CrossEntropy::default() }
}

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
            let output = cross_entropy(x, dim, to, &options())?;
            let dx = cross_entropy_backward(x, dim, to, &output.saved, g, &options())?;
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
        let output = cross_entropy(&x, Dim::LAST, &target, &options()).expect("a legal call");
        let one = Tensor::from_slice(&device, &[1], &[1.0f32]).expect("a small tensor");
        let dx = cross_entropy_backward(&x, Dim::LAST, &target, &output.saved, &one, &options()).expect("a legal call");
        (row, output, dx)
    });

    // The kernels behind it add up losses that no block has computed. What they make of them is not looked at.
    soft.checks(Checks { init: false, ..Checks::ALL });
    soft.only_ctas(Some(&[0, 1]));
    let output = cross_entropy(&x, Dim::LAST, &targets, &options()).expect("sparse memory");
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
        let state = alone.saved.view().to_vec().expect("readable");
        (0..4).for_each(|plane| put(&mut saved, plane * rows + row, &[state[plane]]));
    }
    put(&mut saved, 4 * rows, &[1.0]);
    let ones = Tensor::from_slice(&device, &[1], &[1.0f32]).expect("a small tensor");
    let ones = ones.view().expand(&[rows]).expect("1 expands");
    let mut dx = zeros::<f16>(&soft, &device, &[rows, classes]);
    cross_entropy_backward_into(&x, Dim::LAST, &targets, &saved, ones, &options(), dx.view_mut())
        .expect("sparse memory");
    device.synchronize().expect("no finding");
    soft.only_ctas(None);
    for (row, _, alone) in &alone {
        let part = dx.view().slice(Dim::front(0), *row..*row + 1).expect("in range").to_vec().expect("readable");
        assert!(part == alone.to_vec().expect("readable"), "gradient of row {row}");
    }
    assert_no_findings(&"rows of a block");
}

/// Binary cross-entropy whose operands lie beyond 2^32 elements.
#[test]
fn events_far_apart() {
    let Some(soft) = soft() else { return };
    let (device, dims) = (device(), [3usize, 40]);
    let values = logits(2, 120);
    let targets: Vec<f16> = (0..120).map(|i| f16::from_f32((i % 3) as f32 / 2.0)).collect();
    let numbers = |salt: usize| -> Vec<f32> { (0..120).map(|i| ((i * 7 + salt) % 11) as f32 - 3.0).collect() };
    let near = |values: &[f32]| Tensor::from_slice(&device, &dims, values).expect("a small tensor");
    let far = |values: &[f32]| Far::new(&soft, &device, &dims, values);
    let half = |values: &[f16]| Tensor::from_slice(&device, &dims, values).expect("a small tensor");
    let gives = |x: View<'_, f16>, t: View<'_, f16>, w: View<'_, f32>, q: View<'_, f32>, g: View<'_, f32>| {
        let options = BinaryCrossEntropy { weight: Some(w), pos_weight: Some(q), reduction: Reduction::None };
        let loss = binary_cross_entropy_with_logits(x, t, &options)?.to_vec()?;
        let dx = binary_cross_entropy_with_logits_backward(x, t, g, &options)?.to_vec()?;
        Ok::<_, sumexp::Error>((loss, dx))
    };
    let (w, q, g) = (numbers(0), numbers(4), numbers(8));
    let want = gives(half(&values).view(), half(&targets).view(), near(&w).view(), near(&q).view(), near(&g).view());
    let (x, t) = (Far::new(&soft, &device, &dims, &values), Far::new(&soft, &device, &dims, &targets));
    let got = gives(x.view(), t.view(), far(&w).view(), far(&q).view(), far(&g).view());
    assert!(got.expect("a legal call") == want.expect("a legal call"));
    assert_no_findings(&"events far apart");
}

/// Block 0 has the first chunk of events and the one behind a whole grid of chunks: its slots and its results are used twice.
#[test]
fn events_of_a_block() {
    let Some(soft) = soft() else { return };
    let device = device();
    let elements = (GRID << 12) + 5;
    let mut x = zeros::<f16>(&soft, &device, &[elements]);
    let last = logits(3, 5);
    put(&mut x, elements - 5, &last);
    let targets = zeros::<f16>(&soft, &device, &[elements]);
    let alone = |values: &[f16]| {
        let x = Tensor::from_slice(&device, &[values.len()], values).expect("a small tensor");
        let t = Tensor::<f16>::zeros(&device, &[values.len()]).expect("a small tensor");
        let options = BinaryCrossEntropy { reduction: Reduction::None, ..BinaryCrossEntropy::default() };
        binary_cross_entropy_with_logits(&x, &t, &options).and_then(|loss| loss.to_vec()).expect("a legal call")
    };
    let want = alone(&last);
    soft.only_ctas(Some(&[0]));
    for reduction in [Reduction::None, Reduction::Sum] {
        let options = BinaryCrossEntropy { reduction, ..BinaryCrossEntropy::default() };
        // What adds the chunks up meets some that no block has computed, and its sum is not looked at.
        soft.checks(Checks { init: matches!(reduction, Reduction::None), ..Checks::ALL });
        let loss = binary_cross_entropy_with_logits(&x, &targets, &options).expect("sparse memory");
        device.synchronize().expect("no finding");
        if matches!(reduction, Reduction::None) {
            let part = |range| loss.view().slice(Dim::LAST, range).and_then(|part| part.to_vec()).expect("written");
            assert_eq!(part(elements - 5..elements), want);
            assert_eq!(part(0..4096), vec![std::f32::consts::LN_2; 4096]);
        }
    }
    soft.checks(Checks::ALL);
    soft.only_ctas(None);
    assert_no_findings(&"events of a block");
}
