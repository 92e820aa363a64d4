//! Every case of the table on every device: right, and the same bits on three schedules and with hostile numbers in what is hidden.

use crate::common::attention::cases::{Case, Extra, Mask, table};
use crate::common::attention::dense::{dense, sees};
use crate::common::attention::on_device::OnDevice;
use crate::common::attention::plant::plant;
use crate::common::attention::problem::upstream;
use crate::common::attention::same_dtype::attention;
use crate::common::compare::{Format, assert_same_bits};
use crate::common::device::{assert_no_findings, soft};
use crate::devices;
use sumexp::{DType, bf16, f16};

/// What a device gave, problem by problem.
type Results<T> = Vec<(Vec<T>, Vec<f32>)>;

/// The largest difference; what is the same infinity does not differ. NaN if one is.
fn distance(got: impl Iterator<Item = f64>, want: &[f64]) -> f64 {
    let differences = got.zip(want).map(|(got, want)| if got == *want { 0.0 } else { (got - want).abs() });
    differences.fold(0.0, |largest, x| if x > largest || x.is_nan() { x } else { largest })
}

fn largest(x: &[f64]) -> f64 {
    x.iter().copied().filter(|x| x.is_finite()).fold(0.0, |largest, x| largest.max(x.abs()))
}

/// Errors of ours and of the naive computation, each by the largest output of its case and added up.
#[derive(Default)]
struct Errors {
    ours: f64,
    naive: f64,
    /// The largest of ours by that of the naive computation, and its case.
    worst: (f64, String),
}

/// Against dense float64 arithmetic. For ordinary scores f32 is within 2e-6 of the largest output; else a single case may be
/// worse than the naive computation by so much as chance makes of few numbers, and all of them together may not.
fn assert_right<T: Format>(case: &Case, on: &OnDevice<T>, results: &Results<T>, errors: &mut Errors) {
    for (n, (problem, (out, lse))) in on.problems.iter().zip(results).enumerate() {
        let want = dense(problem);
        let naive = attention::<T>(problem, None, |b, h, i, j| sees(problem, b, h, i, j));
        let ours = distance(out.iter().map(|x| x.to_f64()), &want.out);
        let theirs = distance(naive.out.iter().map(|x| x.to_f64()), &want.out);
        let of_lse = distance(lse.iter().map(|x| f64::from(*x)), &want.lse);
        let size = largest(&want.out);
        let report = || {
            let device = on.device.description();
            format!("{case}, problem {n} on {device}: {ours:.3e} of {size:.3e}, naive {theirs:.3e}, lse {of_lse:.3e}")
        };
        assert!(of_lse <= 2e-6 * (1.0 + largest(&want.lse)), "{}", report());
        if T::DTYPE == DType::F32 && case.ordinary() {
            assert!(ours <= 2e-6 * size, "{}", report());
        }
        assert!(ours <= 2.0 * theirs + 0.5 * T::ulp(size), "{}", report());
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
        let results = on.forward();
        assert_no_findings(case);
        assert_right(case, &on, &results, errors);
        // Once more, on another schedule, and then on a third one with hostile numbers in everything that no row sees.
        let hostile = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY][case.seed as usize % 3];
        let planted = on.problems.iter().map(|problem| plant(problem, &upstream(problem, 1), hostile).0).collect();
        let planted = OnDevice::<T>::new(&device, planted, case.layout);
        for (schedule, again) in [(1, &on), (2, &planted)] {
            let soft = soft().filter(|_| !device.is_cpu());
            soft.inspect(|soft| soft.seed(case.seed << 8 | schedule));
            for ((out, lse), (want, want_lse)) in again.forward().iter().zip(&results) {
                assert_same_bits(&format!("{case}, run {schedule}: out"), out, want);
                assert_same_bits(&format!("{case}, run {schedule}: lse"), lse, want_lse);
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
        assert!(ours <= naive, "{ours:e} against {naive:e}");
    }
}

/// The cases of a type with bands and lengths alone and heads that warpgroups take.
pub fn of_warpgroups<T: Format>() -> Vec<Case> {
    let plain = |case: &Case| {
        let mask = matches!(
            case.mask,
            Mask::None
                | Mask::CausalTopLeft
                | Mask::CausalBottomRight
                | Mask::Window
                | Mask::KeyLengths
                | Mask::CausalKeyLengths
        );
        mask && case.extra == Extra::None && matches!(case.sizes, [40 | 64, 40 | 64 | 128] | [128, 128])
    };
    let cases: Vec<Case> = table().into_iter().filter(|case| case.dtype == T::DTYPE && plain(case)).collect();
    println!("{} cases", cases.len());
    assert!(cases.len() > 4);
    cases
}

pub fn by_warpgroups<T: Format>() {
    let cases = of_warpgroups::<T>();
    let mut errors = [Errors::default(), Errors::default()];
    cases.iter().for_each(|case| run::<T>(case, &mut errors));
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
