//! What cross-entropy knows of every row beside its loss.

use sumexp::reference::cross_entropy::Statistics;
use sumexp::{
    CrossEntropy, CrossEntropyInto, CrossEntropySaved, Device, Dim, Error, Probabilities, Reduction, Tensor,
    TokenStatistics, TokenStatisticsInto, argmax, bf16, cross_entropy, cross_entropy_into, cross_entropy_with_gradient,
    f16,
};

use crate::common::arrange::{Arrangement, Operand};
use crate::common::cases::{Case, Fill, SPECIAL_ROWS};
use crate::common::compare::{Exact, Format, Tolerance, assert_right, assert_same_bits};
use crate::common::device::{assert_no_findings, devices, soft};
use crate::common::family::exact_rows;
use crate::common::gpu::device as gpu;
use crate::common::guard::Guarded;
use crate::common::random::Random;

/// Targets of a case: every sixth row ignored.
fn targets(case: &Case) -> Vec<i64> {
    let mut random = Random::new(case.seed ^ 0x57);
    (0..case.rows()).map(|_| if random.one_in(6) { -100 } else { random.below(case.len()) as i64 }).collect()
}

/// All of them, read.
#[derive(Debug, PartialEq)]
struct Got {
    nll: Vec<f32>,
    entropy: Vec<f32>,
    argmax: Vec<i64>,
    correct: Vec<u8>,
    rank: Vec<i64>,
}

impl Got {
    fn of(statistics: &TokenStatistics) -> Got {
        Got {
            nll: statistics.nll.to_vec().unwrap(),
            entropy: statistics.entropy.to_vec().unwrap(),
            argmax: statistics.argmax.to_vec().unwrap(),
            correct: statistics.correct.to_vec().unwrap(),
            rank: statistics.rank.to_vec().unwrap(),
        }
    }
}

/// Between guards, with options that must not show in the statistics.
fn run<T: Format>(device: &Device, case: &Case) -> Got {
    let sizes: Vec<usize> =
        case.dims.iter().enumerate().filter(|(dim, _)| *dim != case.dim).map(|(_, len)| *len).collect();
    let x = Operand::new(device, case.input, &case.dims, &case.logits::<T>(), T::from_f64(f64::NAN));
    let to = Operand::new(device, Arrangement::Offset(1), &sizes, &targets(case), 1 << 40);
    let weights = Tensor::from_slice(device, &[case.len()], &vec![0.5f32; case.len()]).unwrap();
    let options = CrossEntropy {
        statistics: true,
        temperature: case.tau,
        label_smoothing: if case.seed.is_multiple_of(2) { 0.0 } else { 0.2 },
        class_weights: Some(weights.view()),
        z_loss: 0.5,
        ..CrossEntropy::default()
    };
    let mut loss = Guarded::new(device, &[], 1, -7.25);
    let mut lse = Guarded::new(device, &sizes, 3, -7.25);
    let mut count = Guarded::new(device, &[], 1, -7);
    let mut saved = Guarded::new(device, &[CrossEntropySaved::elements(case.rows())], 1, -7.25);
    let mut nll = Guarded::new(device, &sizes, 1, -7.25f32);
    let mut entropy = Guarded::new(device, &sizes, 2, -7.25f32);
    let mut argmax = Guarded::new(device, &sizes, 1, -7i64);
    let mut correct = Guarded::new(device, &sizes, 3, 7u8);
    let mut rank = Guarded::new(device, &sizes, 1, -7i64);
    let outputs = CrossEntropyInto {
        loss: loss.view_mut(),
        lse: lse.view_mut(),
        count: count.view_mut(),
        saved: saved.view_mut(),
        statistics: Some(TokenStatisticsInto {
            nll: nll.view_mut(),
            entropy: entropy.view_mut(),
            argmax: argmax.view_mut(),
            correct: correct.view_mut(),
            rank: rank.view_mut(),
        }),
    };
    cross_entropy_into(x.view(), Dim::front(case.dim), to.view(), &options, outputs).unwrap();
    let got = Got {
        nll: nll.read(case),
        entropy: entropy.read(case),
        argmax: argmax.read(case),
        correct: correct.read(case),
        rank: rank.read(case),
    };
    assert_no_findings(case);
    got
}

fn check<T: Format>(case: &Case) {
    let rows = exact_rows::<T>(case, false);
    let none = Statistics { nll: 0.0, entropy: 0.0, argmax: -1, rank: -1 };
    let of = |(x, target): (&Vec<f64>, i64)| match usize::try_from(target) {
        Ok(target) => Statistics::of(x, target, f64::from(case.tau)),
        Err(_) => none,
    };
    let want: Vec<Statistics> = rows.iter().zip(targets(case)).map(of).collect();
    let ulps = if T::DIGITS == 24 { 8.0 } else { 64.0 };
    let tolerance = Tolerance { ulps, floor: f32::FORWARD.floor * 90.0 * case.len() as f64 };
    for device in devices() {
        let got = run::<T>(&device, case);
        let named = |what: &str| format!("{} on {device:?}: {what} of {case}", std::any::type_name::<T>());
        assert_right(&named("nll"), &got.nll, &Exact::plain(want.iter().map(|row| row.nll)), tolerance);
        assert_right(&named("entropy"), &got.entropy, &Exact::plain(want.iter().map(|row| row.entropy)), tolerance);
        assert_eq!(got.argmax, want.iter().map(|row| row.argmax).collect::<Vec<_>>(), "{}", named("argmax"));
        assert_eq!(got.rank, want.iter().map(|row| row.rank).collect::<Vec<_>>(), "{}", named("rank"));
        assert_eq!(
            got.correct,
            want.iter().map(|row| u8::from(row.rank == 0)).collect::<Vec<_>>(),
            "{}",
            named("correct")
        );
    }
}

fn check_all_types(case: &Case) {
    check::<f32>(case);
    check::<f16>(case);
    check::<bf16>(case);
}

#[test]
fn lengths_dims_and_strides() {
    for classes in [1, 2, 31, 32, 33, 64, 65, 512, 513, 1025, 4096, 4097, 8193, 20_011] {
        check_all_types(&Case::new(&[3, classes], Fill::Ordinary));
    }
    for (dims, dim) in [(vec![2, 19, 6], 1), (vec![256, 3], 0), (vec![257, 3], 0), (vec![9, 2, 4], 0)] {
        check_all_types(&Case::new(&dims, Fill::Ordinary).along(dim).tau(0.6));
    }
    for input in [Arrangement::Offset(1), Arrangement::Reversed, Arrangement::Padded(1, 6), Arrangement::EveryOther] {
        for classes in [5, 64, 1040] {
            check_all_types(&Case::new(&[2, 3, classes], Fill::Ordinary).input(input));
        }
    }
}

/// Ties, NaN, infinities, rows with nothing visible; margins to 80 and logits to 1e30.
#[test]
fn special_rows_and_every_margin() {
    for classes in [3, 33, 600, 4100] {
        check_all_types(&Case::new(&[4 * SPECIAL_ROWS.len(), classes], Fill::Special));
        check_all_types(&Case::new(&[12, classes], Fill::Constant(0.0)));
    }
    for classes in [2, 3, 10, 100, 1000] {
        check_all_types(&Case::new(&[200, classes], Fill::Mixed));
    }
    for tau in [1e-40, 0.07, 30.0, f32::MAX] {
        check_all_types(&Case::new(&[12, 50], Fill::Ordinary).tau(tau));
    }
}

/// Numbers computed by hand: p = (1/2, 1/4, 1/4).
#[test]
fn by_hand() {
    for device in devices() {
        let two = 2f32.ln();
        let x = Tensor::from_slice(&device, &[3, 3], &[two, 0.0, 0.0, two, 0.0, 0.0, two, 0.0, 0.0]).unwrap();
        let to = Tensor::from_slice(&device, &[3], &[2i64, 0, -100]).unwrap();
        let options = CrossEntropy { statistics: true, ..CrossEntropy::default() };
        let got = Got::of(&cross_entropy(&x, Dim::LAST, &to, &options).unwrap().statistics.unwrap());
        let near = |got: &[f32], want: [f32; 3]| got.iter().zip(want).all(|(a, b)| (a - b).abs() < 3e-7);
        assert!(near(&got.nll, [2.0 * two, two, 0.0]) && near(&got.entropy, [1.5 * two, 1.5 * two, 0.0]), "{got:?}");
        assert_eq!((got.argmax, got.rank, got.correct), (vec![0, 0, -1], vec![2, 0, -1], vec![0, 1, 0]));
    }
}

/// The entropy of a sure row is nearly 0, and still has all its digits: 20 * exp(-20) beside ln(1 + exp(-20)).
#[test]
fn the_entropy_of_a_sure_row() {
    for device in devices() {
        let x = Tensor::from_slice(&device, &[1, 2], &[20.0f32, 0.0]).unwrap();
        let to = Tensor::from_slice(&device, &[1], &[0i64]).unwrap();
        let options = CrossEntropy { statistics: true, ..CrossEntropy::default() };
        let entropy = cross_entropy(&x, Dim::LAST, &to, &options).unwrap().statistics.unwrap().entropy;
        // exp(-20) = 2.0611536224385579e-9
        let want = 2.061_153_620_3e-9 + 20.0 * 2.061_153_618_2e-9;
        assert!((f64::from(entropy.to_vec().unwrap()[0]) / want - 1.0).abs() < 5e-7, "{entropy:?}");
    }
}

/// The argmax is that of the operation of this name, and the loss is what it is without statistics but for the last bits.
#[test]
fn agrees_with_argmax_and_with_the_plain_loss() {
    for device in devices() {
        let case = Case::new(&[40, 700], Fill::Special);
        let x = Tensor::from_slice(&device, &case.dims, &case.logits::<f32>()).unwrap();
        let to = Tensor::from_slice(&device, &[40], &vec![3i64; 40]).unwrap();
        let plain = CrossEntropy { reduction: Reduction::None, ..CrossEntropy::default() };
        let with = CrossEntropy { statistics: true, ..plain };
        let output = cross_entropy(&x, Dim::LAST, &to, &with).unwrap();
        let (statistics, dx) =
            (output.statistics.as_ref().unwrap(), cross_entropy_with_gradient(&x, Dim::LAST, &to, None, &with));
        assert_eq!(statistics.argmax.to_vec().unwrap(), argmax(&x, Dim::LAST).unwrap().to_vec().unwrap());
        let want = cross_entropy(&x, Dim::LAST, &to, &plain).unwrap();
        assert!(want.statistics.is_none());
        let want: Vec<f64> = want.loss.to_vec().unwrap().into_iter().map(f64::from).collect();
        let tolerance = Tolerance { ulps: 8.0, ..f32::FORWARD };
        assert_right(&case, &output.loss.to_vec().unwrap(), &Exact::plain(want), tolerance);
        // The nll of a row is its loss without options, bit by bit, also where loss and gradient come together.
        let numbers = |tensor: &Tensor<f32>| -> Vec<f32> {
            tensor.to_vec().unwrap().into_iter().map(|x| if x.is_nan() { f32::NAN } else { x }).collect()
        };
        assert_same_bits(&case, &numbers(&statistics.nll), &numbers(&output.loss));
        let (together, _) = dx.unwrap();
        let again = Got::of(&together.statistics.expect("asked for"));
        let once = Got::of(statistics);
        assert_same_bits(&case, &again.entropy, &once.entropy);
        assert_eq!((again.argmax, again.rank, again.correct), (once.argmax, once.rank, once.correct));
    }
}

#[test]
fn bad_targets_have_none() {
    let device = gpu();
    let x = Tensor::<f32>::zeros(&device, &[2, 3]).unwrap();
    let to = Tensor::from_slice(&device, &[2], &[7i64, 1]).unwrap();
    let options = CrossEntropy { statistics: true, ..CrossEntropy::default() };
    let output = cross_entropy(&x, Dim::LAST, &to, &options).unwrap();
    assert!(matches!(device.check(), Err(Error::Target { row: 0, value: 7, classes: 3, .. })));
    let got = Got::of(&output.statistics.unwrap());
    assert!(got.nll[0].is_nan() && got.entropy[0].is_nan());
    assert_eq!((got.argmax, got.rank, got.correct), (vec![-1, 0], vec![-1, 1], vec![0, 0]));
}

#[test]
fn what_is_refused() {
    for device in devices() {
        let x = Tensor::<f32>::zeros(&device, &[2, 3]).unwrap();
        let to = Tensor::<i64>::zeros(&device, &[2]).unwrap();
        let p = Probabilities::from_tensor(Tensor::<f32>::zeros(&device, &[2, 3]).unwrap());
        let asked = CrossEntropy { statistics: true, ..CrossEntropy::default() };
        let refused = |result: Result<(), Error>, text: &str| {
            assert_eq!(
                result.unwrap_err().to_string(),
                format!("cross_entropy: statistics is {text}"),
                "on {device:?}"
            );
        };
        let text = "1, it must be false (0) with targets that are probabilities";
        refused(cross_entropy(&x, Dim::LAST, &p, &asked).map(drop), text);

        let mut own = cross_entropy(&x, Dim::LAST, &to, &asked).unwrap();
        let mut loss = Tensor::<f32>::zeros(&device, &[]).unwrap();
        let mut lse = Tensor::<f32>::zeros(&device, &[2]).unwrap();
        let mut saved = Tensor::<f32>::zeros(&device, &[CrossEntropySaved::elements(2)]).unwrap();
        let mut give = |options: &CrossEntropy, statistics: Option<TokenStatisticsInto<'_>>| {
            let count = own.count.view_mut();
            let (loss, lse, saved) = (loss.view_mut(), lse.view_mut(), saved.view_mut());
            cross_entropy_into(&x, Dim::LAST, &to, options, CrossEntropyInto { loss, lse, count, saved, statistics })
        };
        refused(give(&asked, None), "1, it must be false (0) without outputs for them");
        let places = own.statistics.as_mut().unwrap();
        refused(
            give(&CrossEntropy::default(), Some(places.views_mut())),
            "0, it must be true (1) with outputs for them",
        );
        let mut short = Tensor::<i64>::zeros(&device, &[1]).unwrap();
        let places = TokenStatisticsInto { rank: short.view_mut(), ..places.views_mut() };
        let result = give(&asked, Some(places));
        assert!(matches!(result, Err(Error::Shapes { left: "rank", .. })), "{result:?}");
    }
}

#[test]
fn the_same_bits_on_every_schedule() {
    let Some(soft) = soft() else { return };
    for classes in [10, 700, 5000] {
        let case = Case::new(&[5, classes], Fill::Ordinary);
        let first = run::<f32>(&gpu(), &case);
        for seed in 1..=20 {
            soft.seed(seed);
            assert_eq!(run::<f32>(&gpu(), &case), first, "schedule {seed} of {case}");
        }
        soft.seed(0);
    }
}
