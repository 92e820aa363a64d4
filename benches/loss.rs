//! The losses: GB/s over element types and numbers of classes, forward and backward.

mod common;

use common::tests::random::Random;
use common::{Case, DeviceTime, Machine, Operands, criterion, normal};
use criterion::Criterion;
use sumexp::{
    BinaryCrossEntropy, binary_cross_entropy_with_logits_backward_into, binary_cross_entropy_with_logits_into,
};
use sumexp::{
    CrossEntropy, CrossEntropyInto, CrossEntropySaved, Device, Dim, Float, LogProbabilities, NllLoss, Reduction,
    Result, SoftmaxOptions, Targets, Tensor, bf16, f16, log_softmax, nll_loss_backward_into, nll_loss_into, softmax,
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
        cross_entropy_of::<T>(criterion, machine, &[machine.rows::<T>(classes), classes]);
    }
    for classes in [21, 150] {
        let pixels = if machine.testing { 16 } else { 1 << 12 };
        columns_of::<T>(criterion, machine, &[machine.rows::<T>(classes * pixels), classes, pixels]);
    }
    nll_of::<T>(criterion, machine, &[machine.rows::<T>(50257), 50257]);
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
    fn on(device: &Device, per_row: &[usize]) -> Result<Beside> {
        let saved = Tensor::zeros(device, &[CrossEntropySaved::elements(per_row.iter().product())])?;
        Ok(Beside { lse: Tensor::zeros(device, per_row)?, count: Tensor::zeros(device, &[])?, saved })
    }
}

/// Cross-entropy of one kind of targets, forward and backward.
struct Passes<'a> {
    machine: &'a Machine,
    /// Names of the two passes.
    names: [&'static str; 2],
    dims: &'a [usize],
    /// The class dim.
    dim: usize,
    options: CrossEntropy<'static>,
}

impl Passes<'_> {
    /// `operands` are the logits and the targets, which `targets` takes out of them. Returns the operands and a number per row.
    fn measure<T: Float>(
        &self,
        criterion: &mut Criterion<DeviceTime>,
        mut operands: Operands<T>,
        targets: fn(&Operands<T>) -> Targets<'_>,
    ) -> Operands<T> {
        let Passes { machine, names, dims, options, .. } = self;
        let mut per_row = dims.to_vec();
        per_row.remove(self.dim);
        let rows: usize = per_row.iter().product();
        let shape =
            if self.dim + 1 == dims.len() { format!("{rows} x {}", dims[self.dim]) } else { format!("{dims:?}") };
        let case = |op| Case { machine, op, shape: shape.clone() };
        let dim = Dim::front(self.dim);

        let mut beside: Option<Beside> = None;
        case(names[0]).measure(criterion, &operands, &per_row, |o, loss| {
            let device = o.x[0].device();
            let beside = match &mut beside {
                Some(beside) if beside.lse.device() == device => beside,
                other => other.insert(Beside::on(device, &per_row)?),
            };
            let (lse, count, saved) = (beside.lse.view_mut(), beside.count.view_mut(), beside.saved.view_mut());
            let outputs = CrossEntropyInto { loss, lse, count, saved, statistics: None };
            cross_entropy_into(&o.x[0], dim, targets(o), options, outputs)
        });

        let mut loss = Tensor::zeros(&machine.device, &per_row).expect("memory for the losses");
        let mut forward = Beside::on(&machine.device, &per_row).expect("memory for the forward pass");
        let outputs = CrossEntropyInto {
            loss: loss.view_mut(),
            lse: forward.lse.view_mut(),
            count: forward.count.view_mut(),
            saved: forward.saved.view_mut(),
            statistics: None,
        };
        cross_entropy_into(&operands.x[0], dim, targets(&operands), options, outputs).expect("the forward pass");
        operands.f32 = vec![forward.saved, normal(&machine.device, &per_row, 4)];
        case(names[1]).measure(criterion, &operands, dims, |o, dlogits| {
            let (saved, upstream) = (&o.f32[0], &o.f32[1]);
            cross_entropy_backward_into(&o.x[0], dim, targets(o), saved, upstream, options, dlogits)
        });
        operands.f32.remove(0);
        operands
    }
}

/// Random classes, one per row.
fn classes_of_rows(device: &Device, per_row: &[usize], classes: usize) -> Tensor<i64> {
    let mut random = Random::new(3);
    let values: Vec<i64> = (0..per_row.iter().product()).map(|_| random.below(classes) as i64).collect();
    Tensor::from_slice(device, per_row, &values).expect("memory for the targets")
}

const EACH: CrossEntropy<'static> = CrossEntropy {
    reduction: Reduction::None,
    ignore_index: Some(-100),
    label_smoothing: 0.0,
    class_weights: None,
    z_loss: 0.0,
    statistics: false,
    temperature: 1.0,
};

fn cross_entropy_of<T: Float>(criterion: &mut Criterion<DeviceTime>, machine: &Machine, dims: &[usize; 2]) {
    let (device, [rows, classes]) = (&machine.device, *dims);
    let logits = |seed| normal::<T>(device, dims, seed);
    let targets = || classes_of_rows(device, &[rows], classes);
    let of = |names, options| Passes { machine, names, dims, dim: 1, options };

    let operands = Operands { x: vec![logits(1)], f32: Vec::new(), i64: vec![targets()] };
    let passes = of(["cross_entropy", "cross_entropy_backward"], EACH);
    let operands = passes.measure(criterion, operands, |o| (&o.i64[0]).into());
    // Nothing saved: loss and gradient from one look at the logits.
    let case = Case { machine, op: "cross_entropy_gradient", shape: format!("{rows} x {classes}") };
    case.measure(criterion, &operands, dims, |o, dlogits| {
        cross_entropy_gradient_into(&o.x[0], Dim::LAST, &o.i64[0], &o.f32[0], &EACH, dlogits)
    });

    // Where every class counts.
    let smoothed = CrossEntropy { label_smoothing: 0.1, ..EACH };
    let operands = Operands { x: vec![logits(1)], f32: Vec::new(), i64: vec![targets()] };
    of(["cross_entropy smoothed", "cross_entropy_backward smoothed"], smoothed)
        .measure(criterion, operands, |o| (&o.i64[0]).into());
    let others = softmax(&logits(2), Dim::LAST, &SoftmaxOptions::default()).expect("memory for the targets");
    let operands = Operands::of(vec![logits(1), others.into_tensor()]);
    of(["cross_entropy probabilities", "cross_entropy_backward probabilities"], EACH).measure(
        criterion,
        operands,
        |o| Targets::probabilities(&o.x[1]),
    );
}

/// Classes that lie a picture apart, as those of its pixels do.
fn columns_of<T: Float>(criterion: &mut Criterion<DeviceTime>, machine: &Machine, dims: &[usize; 3]) {
    let targets = classes_of_rows(&machine.device, &[dims[0], dims[2]], dims[1]);
    let operands = Operands { x: vec![normal::<T>(&machine.device, dims, 1)], f32: Vec::new(), i64: vec![targets] };
    let names = ["cross_entropy", "cross_entropy_backward"];
    Passes { machine, names, dims, dim: 1, options: EACH }.measure(criterion, operands, |o| (&o.i64[0]).into());
}

/// One log-probability per row is read, and none for the gradient. So they are no operands: what counts as moved are the targets,
/// and the losses or gradients.
fn nll_of<T: Float>(criterion: &mut Criterion<DeviceTime>, machine: &Machine, dims: &[usize; 2]) {
    fn on<'a, T: Float>(
        device: &Device,
        dims: &[usize],
        kept: &'a mut Option<LogProbabilities<T>>,
    ) -> Result<&'a LogProbabilities<T>> {
        if kept.as_ref().is_none_or(|log| log.device() != device) {
            *kept = Some(log_softmax(&normal::<T>(device, dims, 1), Dim::LAST, &SoftmaxOptions::default())?);
        }
        Ok(kept.as_ref().expect("it was just made"))
    }
    let device = &machine.device;
    let case = |op| Case { machine, op, shape: format!("{} x {}", dims[0], dims[1]) };
    let targets = classes_of_rows(device, &dims[..1], dims[1]);
    let mut operands = Operands::<T> { x: Vec::new(), f32: Vec::new(), i64: vec![targets] };
    let options = NllLoss { reduction: Reduction::None, ..NllLoss::default() };
    let mut log = None;
    case("nll_loss").measure(criterion, &operands, &dims[..1], |o, loss| {
        nll_loss_into(on::<T>(o.i64[0].device(), dims, &mut log)?, Dim::LAST, &o.i64[0], &options, loss)
    });
    operands.f32 = vec![normal(device, &dims[..1], 4)];
    case("nll_loss_backward").measure(criterion, &operands, dims, |o, dlog| {
        let log = on::<T>(o.i64[0].device(), dims, &mut log)?;
        nll_loss_backward_into(log, Dim::LAST, &o.i64[0], &o.f32[0], &options, dlog)
    });
}
