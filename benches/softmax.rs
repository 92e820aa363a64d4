//! The softmax family: GB/s over element types, row lengths and dims, forward and backward.

mod common;

use common::{Case, DeviceTime, Machine, Operands, criterion, normal};
use criterion::Criterion;
use sumexp::{Dim, Float, SoftmaxOptions, bf16, f16};
use sumexp::{log_softmax, log_softmax_backward_into, log_softmax_into, logsumexp_into};
use sumexp::{softmax, softmax_backward_into, softmax_into};

/// Row lengths along the last dim: from attention over a few keys to vocabularies.
const LENGTHS: [usize; 14] = [32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144];
/// For a dim that is not the last: row lengths, and how many elements lie between two neighbours of a row. Where so many do not
/// fit the budget (on the CPU) there are fewer.
const COLUMNS: [(usize, [usize; 2]); 3] = [(32, [64, 4096]), (1024, [64, 4096]), (16384, [64, 4096])];

fn main() {
    let machine = Machine::open();
    let mut criterion = criterion();
    each_shape::<f16>(&mut criterion, &machine);
    each_shape::<bf16>(&mut criterion, &machine);
    each_shape::<f32>(&mut criterion, &machine);
    criterion.final_summary();
}

fn each_shape<T: Float>(criterion: &mut Criterion<DeviceTime>, machine: &Machine) {
    for length in LENGTHS {
        family::<T>(criterion, machine, &[machine.rows::<T>(length), length], Dim::LAST);
    }
    for (length, inner) in COLUMNS {
        let rows = machine.rows::<T>(length);
        let mut inner = inner.map(|inner| inner.min(rows)).to_vec();
        inner.dedup();
        for inner in inner {
            family::<T>(criterion, machine, &[rows / inner, length, inner], Dim::back(1));
        }
    }
}

/// The family on one shape.
fn family<T: Float>(criterion: &mut Criterion<DeviceTime>, machine: &Machine, dims: &[usize], dim: Dim) {
    let options = SoftmaxOptions::default();
    let along = dims.len() - if dim == Dim::LAST { 1 } else { 2 };
    let rows: Vec<usize> = dims.iter().enumerate().filter(|(k, _)| *k != along).map(|(_, len)| *len).collect();
    let case = |op| Case { machine, op, shape: format!("{dims:?} dim {along}") };
    let input = || normal::<T>(&machine.device, dims, 1);

    let logits = Operands::of(vec![input()]);
    case("softmax").measure(criterion, &logits, dims, |o, y| softmax_into(&o.x[0], dim, &options, y));
    case("log_softmax").measure(criterion, &logits, dims, |o, y| log_softmax_into(&o.x[0], dim, &options, y));
    case("logsumexp").measure(criterion, &logits, &rows, |o, lse| logsumexp_into(&o.x[0], dim, &options, lse));

    let gradient = || normal::<T>(&machine.device, dims, 2);
    let [y, dy] = [0, 1];
    let results = softmax(&logits.x[0], dim, &options).expect("the forward pass").into_tensor();
    let results = Operands::of(vec![results, gradient()]);
    case("softmax_backward")
        .measure(criterion, &results, dims, |o, dx| softmax_backward_into(&o.x[y], &o.x[dy], dim, &options, dx));
    let results = log_softmax(&logits.x[0], dim, &options).expect("the forward pass").into_tensor();
    let results = Operands::of(vec![results, gradient()]);
    case("log_softmax_backward")
        .measure(criterion, &results, dims, |o, dx| log_softmax_backward_into(&o.x[y], &o.x[dy], dim, &options, dx));
}
