//! What is read off logits without a gradient: GB/s over element types and numbers of classes.

mod common;

use common::{Case, DeviceTime, Machine, Operands, criterion, normal};
use criterion::Criterion;
use sumexp::{
    ConfidenceInto, ConfidenceOptions, Dim, Float, Tensor, TopKInto, argmax_into, bf16, confidence_into, f16,
    top_k_into,
};

/// Numbers of classes: experts, images, the vocabularies of GPT-2, Llama 3 and Gemma.
const CLASSES: [usize; 5] = [64, 1000, 50257, 128256, 262144];

fn main() {
    let machine = Machine::open();
    let mut criterion = criterion();
    each_size::<f16>(&mut criterion, &machine);
    each_size::<bf16>(&mut criterion, &machine);
    each_size::<f32>(&mut criterion, &machine);
    criterion.final_summary();
}

fn each_size<T: Float>(criterion: &mut Criterion<DeviceTime>, machine: &Machine) {
    for classes in CLASSES {
        // As many rows as fill the memory, and the few that a step of generation has.
        for rows in [machine.rows::<T>(classes), 2] {
            let case = |op| Case { machine, op, shape: format!("{rows} x {classes}") };
            let logits = Operands::of(vec![normal::<T>(&machine.device, &[rows, classes], 1)]);
            // The margins and entropies go beside the output, and are not counted: 8 bytes per row.
            let mut beside: Option<[Tensor<f32>; 2]> = None;
            case("confidence").measure(criterion, &logits, &[rows], |o, confidence| {
                let device = o.x[0].device();
                let [margin, entropy] = match &mut beside {
                    Some(beside) if beside[0].device() == device => beside,
                    other => other.insert([Tensor::zeros(device, &[rows])?, Tensor::zeros(device, &[rows])?]),
                };
                let outputs = ConfidenceInto { confidence, margin: margin.view_mut(), entropy: entropy.view_mut() };
                confidence_into(&o.x[0], Dim::LAST, &ConfidenceOptions::default(), outputs)
            });
            // The indices go beside the values, and are not counted.
            const K: usize = 50;
            let mut beside: Option<Tensor<i64>> = None;
            case("top_k").measure(criterion, &logits, &[rows, K], |o, values| {
                let device = o.x[0].device();
                let indices = match &mut beside {
                    Some(indices) if indices.device() == device => indices,
                    other => other.insert(Tensor::zeros(device, &[rows, K])?),
                };
                top_k_into(&o.x[0], Dim::LAST, K, TopKInto { values, indices: indices.view_mut() })
            });
            case("argmax").measure(criterion, &logits, &[rows], |o, y| argmax_into(&o.x[0], Dim::LAST, y));
        }
    }
}
