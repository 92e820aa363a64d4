//! Gradients in every case of the table on every device: right, and the same bits on three schedules and with hostile numbers in what
//! is hidden.

use crate::common::attention::cases::{Case, table};
use crate::common::attention::dense::sees;
use crate::common::attention::on_device::OnDevice;
use crate::common::attention::plant::plant;
use crate::common::attention::problem::{Gradient, Problem, upstream};
use crate::common::attention::same_dtype::attention;
use crate::common::compare::{Format, assert_same_bits};
use crate::common::device::{assert_no_findings, soft};
use crate::devices;
use crate::largest_error;
use crate::table::of_warpgroups;
use sumexp::{DType, bf16, f16};

/// Each gradient by its name; that of a bias is empty without one.
fn named<T>(gradient: &Gradient<T>) -> [(&'static str, &[T]); 4] {
    [("dq", &gradient.dq), ("dk", &gradient.dk), ("dv", &gradient.dv), ("dbias", &gradient.dbias)]
}

fn wide<T: Format>(x: &[T]) -> Vec<f64> {
    x.iter().map(|x| x.to_f64()).collect()
}

/// Errors of ours and of the naive computation, each by the largest number of its gradient and added up.
#[derive(Default)]
struct Errors {
    ours: f64,
    naive: f64,
    /// The largest of ours by that of the naive computation, and its case.
    worst: (f64, String),
}

/// What the rounding of out may cost in the gradient of a score that others cancel: delta = dot(dout, out) is off by half a unit in
/// the last place of each term, and goes into dq by k and into dk by q. Into the gradient of a bias it goes as it is, from every query that
/// a number of it is for.
fn rounding_of_delta<T: Format>(problem: &Problem, dout: &[f64]) -> [f64; 2] {
    let out = wide(&problem.forward::<f32>().0);
    let terms = dout.chunks(problem.value_size).zip(out.chunks(problem.value_size));
    let dots = terms.map(|(dout, out)| dout.iter().zip(out).map(|(x, y)| (x * y).abs()).sum::<f64>());
    let largest = |x: &[f64]| x.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
    let operand = largest(&problem.q).max(largest(&problem.k));
    let of_one = 0.5 * T::ulp(1.0) * dots.fold(0.0, f64::max);
    let shape = problem.bias.as_ref().map_or([1; 4], |(_, shape)| *shape);
    let queries = problem.batch * problem.query_heads * problem.queries / (shape[0] * shape[1] * shape[2]).max(1);
    [of_one * problem.scale * operand, of_one * (queries as f64).sqrt()]
}

/// Against the float64 reference, which agrees with finite differences. A single case may by so much as chance makes of few numbers, and by the rounding of out, from which a fused backward
/// pass takes delta; f32 also by 4e-6 of the largest number of the gradient.
fn assert_right<T: Format>(
    what: &str,
    case: &Case,
    (problem, upstream): (&Problem, &(Vec<f64>, Vec<f64>)),
    got: &Gradient<T>,
    errors: &mut Errors,
) {
    let want = problem.backward::<f32>(&upstream.0, Some(&upstream.1));
    let naive = attention::<T>(problem, Some(upstream), |b, h, i, j| sees(problem, b, h, i, j)).gradient;
    let [of_delta, of_bias] = rounding_of_delta::<T>(problem, &upstream.0);
    for (((name, got), (_, want)), (_, naive)) in named(got).into_iter().zip(named(&want)).zip(named(&naive)) {
        let want = wide(want);
        let (ours, theirs) = (largest_error(&wide(got), &want), largest_error(&wide(naive), &want));
        let size = want.iter().fold(0.0f64, |size, x| size.max(x.abs()));
        let report = || format!("{case}, {what}: {name} {ours:.3e} of {size:.3e}, naive {theirs:.3e}");
        let of_products = if T::DTYPE == DType::F32 { 4e-6 * size } else { 0.0 };
        let of_delta = if name == "dbias" { of_bias } else { of_delta };
        assert!(ours <= 2.0 * theirs + 0.5 * T::ulp(size) + of_delta + of_products, "{}", report());
        if size > 0.0 {
            errors.ours += ours / size;
            errors.naive += theirs / size;
            if ours > errors.worst.0 * theirs {
                errors.worst = (ours / theirs, report());
            }
        }
    }
}

fn run<T: Format>(case: &Case, errors: &mut [Errors; 2]) {
    for (device, errors) in devices().into_iter().zip(errors) {
        let on = OnDevice::<T>::new(&device, case.problems(), case.layout);
        let from_above: Vec<_> = (1..).zip(&on.problems).map(|(n, problem)| upstream(problem, case.seed + n)).collect();
        let results = on.backward(&from_above);
        assert_no_findings(case);
        for (n, (of_problem, got)) in on.problems.iter().zip(&from_above).zip(&results).enumerate() {
            assert_right(&format!("problem {n} on {}", device.description()), case, of_problem, got, errors);
        }
        // Once more, on another schedule, and then on a third one with hostile numbers in everything that no row sees.
        let hostile = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY][case.seed as usize % 3];
        let pairs = on.problems.iter().zip(&from_above);
        let (planted, of_planted): (Vec<_>, Vec<_>) = pairs.map(|(p, above)| plant(p, above, hostile)).unzip();
        let planted = OnDevice::<T>::new(&device, planted, case.layout);
        for (schedule, again, above) in [(1, &on, &from_above), (2, &planted, &of_planted)] {
            let soft = soft().filter(|_| !device.is_cpu());
            soft.inspect(|soft| soft.seed(case.seed << 8 | schedule));
            for (got, want) in again.backward(above).iter().zip(&results) {
                for ((name, got), (_, want)) in named(got).into_iter().zip(named(want)) {
                    assert_same_bits(&format!("{case}, run {schedule}: {name}"), got, want);
                }
            }
        }
        soft().inspect(|soft| soft.seed(0));
        assert_no_findings(case);
    }
}

/// Every fourth case of a type.
fn quarter<T: Format>(number: u64) {
    let cases: Vec<Case> = table().into_iter().filter(|case| case.dtype == T::DTYPE).collect();
    assert!(cases.len() > 200);
    let mut errors = [Errors::default(), Errors::default()];
    for case in cases.iter().filter(|case| case.seed % 4 == number) {
        run::<T>(case, &mut errors);
    }
    for Errors { ours, naive, worst: (ratio, worst) } in errors {
        println!("{}: {ours:.2e}, naive {naive:.2e} in all; at most {ratio:.2} times: {worst}", T::DTYPE);
        // In all, 16-bit gradients are not worse than naive ones. In f32 the naive products are exact here, of numbers with seven bits, so that
        // nothing but the weights is rounded before it cancels; where numbers use all bits, gradients of f32 are not worse either
        // (`magnitudes`).
        let factor = if T::DTYPE == DType::F32 { 4.0 } else { 1.0 };
        assert!(ours <= factor * naive, "{ours:e} against {naive:e}");
    }
}

/// Cases that warpgroups take.
pub fn by_warpgroups<T: Format>() {
    let mut errors = [Errors::default(), Errors::default()];
    of_warpgroups::<T>().iter().for_each(|case| run::<T>(case, &mut errors));
    for Errors { ours, naive, worst: (ratio, worst) } in errors {
        println!("{}: {ours:.2e}, naive {naive:.2e} in all; at most {ratio:.2} times: {worst}", T::DTYPE);
        assert!(ours <= naive, "{ours:e} against {naive:e}");
    }
}

macro_rules! quarters {
    ($($name:ident: $dtype:ty, $number:literal;)*) => {
        $(#[test] fn $name() { quarter::<$dtype>($number); })*
    };
}

quarters! {
    f16_0: f16, 0; f16_1: f16, 1; f16_2: f16, 2; f16_3: f16, 3;
    bf16_0: bf16, 0; bf16_1: bf16, 1; bf16_2: bf16, 2; bf16_3: bf16, 3;
    f32_0: f32, 0; f32_1: f32, 1; f32_2: f32, 2; f32_3: f32, 3;
}
