//! The losses: GB/s over element types and numbers of classes, forward and backward.

mod common;

use common::tests::random::Random;
use common::{Case, DeviceTime, Machine, Operands, criterion, normal};
use criterion::Criterion;
use sumexp::{
    BinaryCrossEntropy, binary_cross_entropy_with_logits_backward_into, binary_cross_entropy_with_logits_into,
};
use sumexp::{
    CrossEntropy, CrossEntropyInto, CrossEntropySaved, Device, Dim, Float, Reduction, Result, Tensor, bf16, f16,
};
use sumexp::{Direction, KlDivergence, kl_div_backward_into, kl_div_into};
use sumexp::{cross_entropy_backward_into, cross_entropy_gradient_into, cross_entropy_into};

/// Numbers of classes: characters, images, the vocabularies of GPT-2, Llama 2 and 3, and Gemma.
const CLASSES: [usize; 7] = [128, 1000, 8192, 32000, 50257, 128256, 262144];

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
        cross_entropy_of::<T>(criterion, machine, machine.rows::<T>(classes), classes);
    }
    for classes in CLASSES {
        divergence_of::<T>(criterion, machine, &[machine.rows::<T>(classes), classes]);
    }
    binary_cross_entropy_of::<T>(criterion, machine, &[machine.rows::<T>(1024), 1024]);
}

/// A student's divergence from a teacher, either way and both ways, and the gradients.
fn divergence_of<T: Float>(criterion: &mut Criterion<DeviceTime>, machine: &Machine, dims: &[usize; 2]) {
    let device = &machine.device;
    let (student, teacher) = (normal::<T>(device, dims, 1), normal::<T>(device, dims, 2));
    let mut operands = Operands::of(vec![student, teacher]);
    for (name, direction) in [("kl_div", Direction::Forward), ("js_div", Direction::JensenShannon { beta: 0.5 })] {
        let options = KlDivergence { direction, reduction: Reduction::None, ..KlDivergence::default() };
        let case = |op: &'static str| Case { machine, op, shape: format!("{} x {}", dims[0], dims[1]) };
        operands.f32 = Vec::new();
        case(name).measure(criterion, &operands, &dims[..1], |o, loss| {
            kl_div_into(&o.x[0], &o.x[1], Dim::LAST, &options, loss)
        });
        operands.f32 = vec![normal(device, &dims[..1], 4)];
        let name = if name == "kl_div" { "kl_div_backward" } else { "js_div_backward" };
        case(name).measure(criterion, &operands, dims, |o, dstudent| {
            kl_div_backward_into(&o.x[0], &o.x[1], Dim::LAST, &o.f32[0], &options, dstudent)
        });
    }
    // Of the student only what the teacher's largest need is read: against the bytes of both, it may be faster than memory.
    let options = KlDivergence { top_k: Some(64), reduction: Reduction::None, ..KlDivergence::default() };
    let case = |op: &'static str| Case { machine, op, shape: format!("{} x {}, k 64", dims[0], dims[1]) };
    operands.f32 = Vec::new();
    case("kl_div")
        .measure(criterion, &operands, &dims[..1], |o, loss| kl_div_into(&o.x[0], &o.x[1], Dim::LAST, &options, loss));
    operands.f32 = vec![normal(device, &dims[..1], 4)];
    case("kl_div_backward").measure(criterion, &operands, dims, |o, dstudent| {
        kl_div_backward_into(&o.x[0], &o.x[1], Dim::LAST, &o.f32[0], &options, dstudent)
    });
}

/// The mean over all elements, and its gradient.
fn binary_cross_entropy_of<T: Float>(criterion: &mut Criterion<DeviceTime>, machine: &Machine, dims: &[usize; 2]) {
    let device = &machine.device;
    let case = |op| Case { machine, op, shape: format!("{dims:?}") };
    let mut random = Random::new(5);
    let happens: Vec<T> = (0..dims[0] * dims[1]).map(|_| T::from_f64(random.below(2) as f64)).collect();
    let targets = Tensor::from_slice(device, dims, &happens).expect("memory for the targets");
    let options = BinaryCrossEntropy::default();
    let mut operands = Operands::of(vec![normal::<T>(device, dims, 1), targets]);
    case("binary_cross_entropy").measure(criterion, &operands, &[], |o, loss| {
        binary_cross_entropy_with_logits_into(&o.x[0], &o.x[1], &options, loss)
    });
    operands.f32 = vec![normal(device, &[], 4)];
    case("binary_cross_entropy_backward").measure(criterion, &operands, dims, |o, dlogits| {
        binary_cross_entropy_with_logits_backward_into(&o.x[0], &o.x[1], &o.f32[0], &options, dlogits)
    });
}

/// What the forward pass writes beside the losses.
struct Beside {
    lse: Tensor<f32>,
    count: Tensor<i64>,
    saved: Tensor<f32>,
}

impl Beside {
    fn on(device: &Device, rows: usize) -> Result<Beside> {
        let saved = Tensor::zeros(device, &[CrossEntropySaved::elements(rows)])?;
        Ok(Beside { lse: Tensor::zeros(device, &[rows])?, count: Tensor::zeros(device, &[])?, saved })
    }
}

fn cross_entropy_of<T: Float>(criterion: &mut Criterion<DeviceTime>, machine: &Machine, rows: usize, classes: usize) {
    let device = &machine.device;
    let options = CrossEntropy { reduction: Reduction::None, ..CrossEntropy::default() };
    let case = |op| Case { machine, op, shape: format!("{rows} x {classes}") };
    let mut random = Random::new(3);
    let classes_of_rows: Vec<i64> = (0..rows).map(|_| random.below(classes) as i64).collect();
    let targets = Tensor::from_slice(device, &[rows], &classes_of_rows).expect("memory for the targets");
    let logits = normal::<T>(device, &[rows, classes], 1);
    let mut operands = Operands { x: vec![logits], f32: Vec::new(), i64: vec![targets] };

    let mut beside: Option<Beside> = None;
    case("cross_entropy").measure(criterion, &operands, &[rows], |o, loss| {
        let device = o.x[0].device();
        let beside = match &mut beside {
            Some(beside) if beside.lse.device() == device => beside,
            other => other.insert(Beside::on(device, rows)?),
        };
        let (lse, count, saved) = (beside.lse.view_mut(), beside.count.view_mut(), beside.saved.view_mut());
        cross_entropy_into(
            &o.x[0],
            Dim::LAST,
            &o.i64[0],
            &options,
            CrossEntropyInto { loss, lse, count, saved, statistics: None },
        )
    });

    let mut saved = Beside::on(device, rows).expect("memory for the forward pass");
    let mut loss = Tensor::zeros(device, &[rows]).expect("memory for the losses");
    let (lse, count) = (saved.lse.view_mut(), saved.count.view_mut());
    let outputs =
        CrossEntropyInto { loss: loss.view_mut(), lse, count, saved: saved.saved.view_mut(), statistics: None };
    cross_entropy_into(&operands.x[0], Dim::LAST, &operands.i64[0], &options, outputs).expect("the forward pass");
    operands.f32 = vec![saved.saved, normal(device, &[rows], 4)];
    case("cross_entropy_backward").measure(criterion, &operands, &[rows, classes], |o, dlogits| {
        let (saved, upstream) = (&o.f32[0], &o.f32[1]);
        cross_entropy_backward_into(&o.x[0], Dim::LAST, &o.i64[0], saved, upstream, &options, dlogits)
    });
    // Nothing saved: loss and gradient from one look at the logits.
    operands.f32 = vec![normal(device, &[rows], 4)];
    case("cross_entropy_gradient").measure(criterion, &operands, &[rows, classes], |o, dlogits| {
        cross_entropy_gradient_into(&o.x[0], Dim::LAST, &o.i64[0], &o.f32[0], &options, dlogits)
    });
}
