//! sigmoid and log-sigmoid: GB/s over element types and sizes, forward and backward.

mod common;

use common::{Case, DeviceTime, Machine, Operands, criterion, normal};
use criterion::Criterion;
use sumexp::{Float, bf16, f16};
use sumexp::{log_sigmoid_backward_into, log_sigmoid_into, sigmoid_backward_into, sigmoid_into};

/// Elements of a row: the shape does not matter to an operation on single elements, but rows that end within 16 bytes do.
const LENGTHS: [usize; 2] = [4096, 1021];

fn main() {
    let machine = Machine::open();
    let mut criterion = criterion();
    each_size::<f16>(&mut criterion, &machine);
    each_size::<bf16>(&mut criterion, &machine);
    each_size::<f32>(&mut criterion, &machine);
    criterion.final_summary();
}

fn each_size<T: Float>(criterion: &mut Criterion<DeviceTime>, machine: &Machine) {
    for length in LENGTHS {
        let dims = [machine.rows::<T>(length), length];
        let case = |op| Case { machine, op, shape: format!("{dims:?}") };
        let [x, dy] = [0, 1];
        let both = Operands::of(vec![normal::<T>(&machine.device, &dims, 1), normal::<T>(&machine.device, &dims, 2)]);
        case("sigmoid_backward").measure(criterion, &both, &dims, |o, dx| sigmoid_backward_into(&o.x[x], &o.x[dy], dx));
        case("log_sigmoid_backward")
            .measure(criterion, &both, &dims, |o, dx| log_sigmoid_backward_into(&o.x[x], &o.x[dy], dx));
        let one = Operands::of(both.x.into_iter().take(1).collect());
        case("sigmoid").measure(criterion, &one, &dims, |o, y| sigmoid_into(&o.x[x], y));
        case("log_sigmoid").measure(criterion, &one, &dims, |o, y| log_sigmoid_into(&o.x[x], y));
    }
}
