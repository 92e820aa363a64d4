//! A divergence over the teacher's largest logits: the case table of [`super::divergence`] with `top_k`, and what it must agree with.

use sumexp::{Dim, Direction, Error, KlDivergence, Reduction, Tensor, f16, kl_div, kl_div_backward, top_k};

use super::divergence::{Lesson, check, check_all, run};
use crate::common::arrange::Arrangement;
use crate::common::cases::{Case, Fill};
use crate::common::compare::assert_same_bits;
use crate::common::device::{assert_no_findings, devices, soft};
use crate::common::gpu::device as gpu;
use crate::common::random::Random;
use crate::common::sparse::Far;

const DIRECTIONS: [Direction; 3] = [Direction::Forward, Direction::Reverse, Direction::JensenShannon { beta: 0.25 }];

fn first(lesson: Lesson, k: usize) -> Lesson {
    Lesson { top_k: Some(k), ..lesson }
}

#[test]
fn special_rows() {
    check_all(&first(Lesson::special(3), 2));
    check_all(&first(Lesson::special(33), 7));
}

/// One class, a few, all but one, all; rows of each kernel that selects, and choices for each kernel that adds up.
#[test]
fn lengths_and_choices() {
    for (classes, k) in [(1, 1), (2, 1), (9, 8), (40, 40), (300, 33), (1030, 257)] {
        check_all(&first(Lesson::new(Case::new(&[5, classes], Fill::Ordinary)), k));
    }
    for (classes, k) in [(1030, 1024), (5000, 700), (20_011, 64)] {
        check::<f32>(&first(Lesson::new(Case::new(&[2, classes], Fill::Ordinary)), k));
        check::<f16>(&first(Lesson::new(Case::new(&[2, classes], Fill::Mixed)), k).along(Direction::Reverse));
    }
}

#[test]
fn dims_strides_reductions_and_temperatures() {
    for dim in 0..3 {
        check_all(&first(Lesson::new(Case::new(&[19, 6, 7], Fill::Ordinary).along(dim)), 5));
    }
    let arrangements =
        [Arrangement::Reversed, Arrangement::Padded(1, 6), Arrangement::EveryOther, Arrangement::Offset(1)];
    for (i, input) in arrangements.into_iter().enumerate() {
        let lesson = first(Lesson::new(Case::new(&[2, 3, 70], Fill::Ordinary).input(input).tau(2.0)), 9);
        check_all(&Lesson { arrangement: arrangements[(i + 1) % 4], squared: true, ..lesson });
    }
    for reduction in ["Sum", "Mean", "MeanOver"] {
        check_all(&Lesson { reduction, ..first(Lesson::new(Case::new(&[4, 5, 9], Fill::Ordinary)), 4) });
    }
}

fn normal(seed: u64, count: usize) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..count).map(|_| (2.0 * random.normal()) as f32).collect()
}

/// Everything else hidden from both by hand: the loss and the gradients without `top_k`, which sees the whole rows.
#[test]
fn the_others_are_as_good_as_hidden() {
    let (rows, classes, k) = (3, 700, 31);
    let (s, t) = (normal(1, rows * classes), normal(2, rows * classes));
    for device in devices() {
        let tensor = |x: &[f32]| Tensor::from_slice(&device, &[rows, classes], x).unwrap();
        let chosen = top_k(&tensor(&t), Dim::LAST, k).unwrap().indices.to_vec().unwrap();
        let hide = |x: &[f32]| {
            let mut hidden = vec![f32::NEG_INFINITY; x.len()];
            for (i, class) in chosen.iter().enumerate() {
                let at = i / k * classes + *class as usize;
                hidden[at] = x[at];
            }
            tensor(&hidden)
        };
        let one = Tensor::from_slice(&device, &[], &[1f32]).unwrap();
        for direction in DIRECTIONS {
            let all = KlDivergence { direction, reduction: Reduction::Sum, ..KlDivergence::default() };
            let few = KlDivergence { top_k: Some(k), ..all };
            let loss = |s: &Tensor<f32>, t: &Tensor<f32>, options: &KlDivergence| {
                kl_div(s, t, Dim::LAST, options).unwrap().to_vec().unwrap()[0]
            };
            let (got, want) = (loss(&tensor(&s), &tensor(&t), &few), loss(&hide(&s), &hide(&t), &all));
            assert!((got / want - 1.0).abs() < 1e-6, "{direction:?} on {device:?}: {got} and {want}");
            let slopes = |s: &Tensor<f32>, t: &Tensor<f32>, options: &KlDivergence| {
                kl_div_backward(s, t, Dim::LAST, &one, options).unwrap().to_vec().unwrap()
            };
            let (got, want) = (slopes(&tensor(&s), &tensor(&t), &few), slopes(&hide(&s), &hide(&t), &all));
            assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-6), "{direction:?} on {device:?}");
            assert_eq!(got.iter().filter(|slope| **slope != 0.0).count(), rows * k);
        }
    }
}

/// Of equal logits the first ones count; what the student says elsewhere has no influence, whatever bits it has.
#[test]
fn ties_and_what_lies_outside() {
    for device in devices() {
        let tensor = |x: &[f32]| Tensor::from_slice(&device, &[x.len()], x).unwrap();
        let one = Tensor::from_slice(&device, &[], &[1f32]).unwrap();
        let teacher = tensor(&[1.0, 3.0, 1.0, 1.0, -0.0, f32::NEG_INFINITY]);
        for direction in DIRECTIONS {
            let options = KlDivergence { direction, top_k: Some(2), ..KlDivergence::default() };
            let of = |outside: f32| {
                let student = tensor(&[0.5, -0.25, outside, outside, outside, outside]);
                let loss = kl_div(&student, &teacher, Dim::LAST, &options).unwrap().to_vec().unwrap();
                let slopes = kl_div_backward(&student, &teacher, Dim::LAST, &one, &options).unwrap();
                (loss, slopes.to_vec().unwrap())
            };
            let want = of(0.0);
            assert!(want.0[0] > 0.0 && want.1[..2].iter().all(|slope| *slope != 0.0) && want.1[2..] == [0.0; 4]);
            for outside in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30] {
                assert_eq!(of(outside), want, "{direction:?} with {outside} outside on {device:?}");
            }
        }
        // A NaN of the teacher is its largest.
        let teacher = tensor(&[1.0, 3.0, f32::NAN]);
        let options = KlDivergence { top_k: Some(1), ..KlDivergence::default() };
        assert!(kl_div(&teacher, &teacher, Dim::LAST, &options).unwrap().to_vec().unwrap()[0].is_nan());
    }
}

#[test]
fn what_is_refused() {
    for device in devices() {
        let x = Tensor::<f32>::zeros(&device, &[2, 3]).unwrap();
        let long = Tensor::<f32>::zeros(&device, &[1, 2000]).unwrap();
        let none = Tensor::<f32>::zeros(&device, &[0, 3]).unwrap();
        let of =
            |x: &Tensor<f32>, k| kl_div(x, x, Dim::LAST, &KlDivergence { top_k: Some(k), ..KlDivergence::default() });
        assert_eq!(of(&x, 0).unwrap_err().to_string(), "kl_div: top_k is 0, it must be at least 1");
        let too_many = |op, value, max| Error::TooMany { op, option: "top_k", value, max };
        assert_eq!(of(&x, 4).unwrap_err(), too_many("kl_div", 4, 3));
        assert_eq!(of(&long, 1025).unwrap_err(), too_many("kl_div", 1025, 1024));
        assert_eq!(of(&x, 3).unwrap().to_vec().unwrap(), [0.0]);
        assert_eq!(of(&none, 2).unwrap().to_vec().unwrap(), [0.0]);
        let options = KlDivergence { top_k: Some(5), ..KlDivergence::default() };
        let one = Tensor::<f32>::zeros(&device, &[]).unwrap();
        let refused = kl_div_backward(&x, &x, Dim::LAST, &one, &options).unwrap_err();
        assert_eq!(refused, too_many("kl_div_backward", 5, 3));
        let empty = KlDivergence { top_k: Some(2), ..KlDivergence::default() };
        assert_eq!(kl_div_backward(&none, &none, Dim::LAST, &one, &empty).unwrap().dims(), [0, 3]);
    }
}

/// The student is read where the choice is, and nowhere else; the bits are the row's own.
#[test]
fn what_is_read_and_the_same_bits() {
    let Some(soft) = soft() else { return };
    let (device, classes, k) = (gpu(), 20_000, 50);
    let lesson = first(Lesson { reduction: "Mean", ..Lesson::new(Case::new(&[3, classes], Fill::Ordinary)) }, k);
    let whole = run::<f32>(&device, &lesson);
    for seed in 1..=20 {
        soft.seed(seed);
        let got = run::<f32>(&device, &lesson);
        assert_same_bits(&format!("schedule {seed} of {lesson}"), &got.loss, &whole.loss);
        assert_same_bits(&format!("schedule {seed} of {lesson}"), &got.dstudent, &whole.dstudent);
    }
    soft.seed(0);
    let (s, t) = (normal(3, 3 * classes), normal(4, 3 * classes));
    let tensor = |x: &[f32], rows: usize| Tensor::from_slice(&device, &[rows, classes], x).unwrap();
    let options = KlDivergence { top_k: Some(k), reduction: Reduction::None, ..KlDivergence::default() };
    let (student, teacher) = (tensor(&s, 3), tensor(&t, 3));
    device.synchronize().unwrap();
    soft.take_launches();
    soft.reset_counters();
    let together = kl_div(&student, &teacher, Dim::LAST, &options).unwrap();
    device.synchronize().unwrap();
    let kernels: Vec<String> = soft.take_launches().into_iter().map(|launch| launch.kernel).collect();
    assert_eq!(kernels.len(), 3, "top-k, the student's, the divergence: {kernels:?}");
    for (kernel, most) in kernels.iter().zip([2 * 3 * classes * 4 + 3 * k * 4, 3 * k * 12, 2 * 3 * k * 4]) {
        let bytes = soft.counters(kernel).expect("it was just launched").global_loads.bytes;
        assert!(bytes <= most as u64, "{kernel} reads {bytes} bytes, at most {most}");
    }
    soft.reset_counters();
    for row in 0..3 {
        let part = |x: &[f32]| tensor(&x[row * classes..][..classes], 1);
        let alone = kl_div(&part(&s), &part(&t), Dim::LAST, &options).unwrap();
        assert_eq!(alone.to_vec().unwrap()[0], together.to_vec().unwrap()[row], "row {row}");
    }
}

/// Offsets beyond 2^32 elements in every operand.
#[test]
fn rows_far_apart() {
    let Some(soft) = soft() else { return };
    for (dims, dim) in [(&[3usize, 1000][..], 1), (&[3, 40, 9], 1)] {
        let (device, elements) = (gpu(), dims.iter().product::<usize>());
        let [s, t] = [5, 6].map(|seed| normal(seed, elements).into_iter().map(f16::from_f32).collect::<Vec<f16>>());
        let mut per_row = dims.to_vec();
        per_row.remove(dim);
        let upstream = normal(7, per_row.iter().product());
        let g = Tensor::from_slice(&device, &per_row, &upstream).unwrap();
        let near = [&s, &t].map(|x| Tensor::from_slice(&device, dims, x).unwrap());
        let far = [&s, &t].map(|x| Far::new(&soft, &device, dims, x));
        let options = KlDivergence { top_k: Some(11), reduction: Reduction::None, ..KlDivergence::default() };
        let gives = |s: sumexp::View<'_, f16>, t: sumexp::View<'_, f16>| {
            let loss = kl_div(s, t, Dim::front(dim), &options).unwrap().to_vec().unwrap();
            (loss, kl_div_backward(s, t, Dim::front(dim), &g, &options).unwrap().to_vec().unwrap())
        };
        assert!(gives(far[0].view(), far[1].view()) == gives(near[0].view(), near[1].view()), "{dims:?}");
        assert_no_findings(&format!("{dims:?} far apart"));
    }
}
