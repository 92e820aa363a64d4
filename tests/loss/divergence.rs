//! Divergence of a student from a teacher: values against the reference, closed forms, bits, special rows, what is read.

use std::fmt;

use sumexp::reference::divergence as reference;
use sumexp::{
    Device, Dim, Direction, Error, KlDivergence, Reduction, Tensor, bf16, distillation_loss_backward_into,
    distillation_loss_into, f16, kl_div, kl_div_backward, kl_div_backward_into, kl_div_into,
};

use crate::common::arrange::{Arrangement, Operand};
use crate::common::cases::{Case, Fill, SPECIAL_ROWS};
use crate::common::compare::{CANCELLED, Exact, Format, Tolerance, assert_right, assert_same_bits, error, faults};
use crate::common::device::{assert_no_findings, devices, soft};
use crate::common::gpu::device as gpu;
use crate::common::guard::Guarded;
use crate::common::random::Random;

const DIRECTIONS: [Direction; 5] = [
    Direction::Forward,
    Direction::Reverse,
    Direction::JensenShannon { beta: 0.5 },
    Direction::JensenShannon { beta: 0.1 },
    Direction::JensenShannon { beta: 0.999 },
];

/// A call: the student's logits and their memory are those of `case`.
#[derive(Clone)]
pub(crate) struct Lesson {
    pub(crate) case: Case,
    pub(crate) student: Vec<f64>,
    pub(crate) teacher: Vec<f64>,
    /// How the teacher lies in memory.
    pub(crate) arrangement: Arrangement,
    pub(crate) direction: Direction,
    /// One of `Reduction`, by name; `MeanOver` divides by 7.
    pub(crate) reduction: &'static str,
    /// Whether the loss is multiplied by the square of the temperature.
    pub(crate) squared: bool,
    /// How many of the teacher's largest logits count, or all.
    pub(crate) top_k: Option<usize>,
}

impl fmt::Display for Lesson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lesson { case, arrangement, direction, reduction, squared, top_k, .. } = self;
        write!(f, "{direction:?} (squared: {squared}, top k: {top_k:?}) {case}, teacher {arrangement}, {reduction}")
    }
}

impl Lesson {
    /// Rows of the two that have nothing to do with each other.
    pub(crate) fn new(case: Case) -> Lesson {
        let other = Case { seed: case.seed ^ 0x5eed, ..case.clone() };
        let [student, teacher] =
            [&case, &other].map(|case| case.logits::<f32>().iter().map(|x| f64::from(*x)).collect());
        let (arrangement, direction) = (case.input, Direction::Forward);
        Lesson { case, student, teacher, arrangement, direction, reduction: "None", squared: false, top_k: None }
    }

    /// A teacher that is the student with some noise of this size.
    fn near(case: Case, noise: f64) -> Lesson {
        let mut random = Random::new(case.seed ^ 0xf00d);
        let lesson = Lesson::new(case);
        let teacher = lesson.student.iter().map(|x| x + noise * random.normal()).collect();
        Lesson { teacher, ..lesson }
    }

    /// Every special row of the student with every special row of the teacher.
    pub(crate) fn special(classes: usize) -> Lesson {
        let kinds = SPECIAL_ROWS.len() + 1;
        let rows = Case::new(&[kinds, classes], Fill::Special).logits::<f16>();
        let row = |k: usize| rows[k * classes..][..classes].iter().map(|x| f64::from(x.to_f32()));
        let pick = |of: &dyn Fn(usize) -> usize| (0..kinds * kinds).flat_map(|pair| row(of(pair))).collect();
        let lesson = Lesson::new(Case::new(&[kinds * kinds, classes], Fill::Constant(0.0)));
        Lesson { student: pick(&|pair| pair / kinds), teacher: pick(&|pair| pair % kinds), ..lesson }
    }

    pub(crate) fn along(self, direction: Direction) -> Lesson {
        Lesson { direction, ..self }
    }

    fn logits<T: Format>(&self) -> [Vec<T>; 2] {
        [&self.student, &self.teacher].map(|values| values.iter().map(|x| T::from_f64(*x)).collect())
    }

    fn options<'a>(&self, divisor: &'a Tensor<f32>) -> KlDivergence<'a> {
        let reduction = match self.reduction {
            "None" => Reduction::None,
            "Sum" => Reduction::Sum,
            "Mean" => Reduction::Mean,
            "MeanOver" => Reduction::MeanOver(divisor.view()),
            other => panic!("{other} is no reduction"),
        };
        KlDivergence { direction: self.direction, temperature: self.case.tau, top_k: self.top_k, reduction }
    }

    fn divisor(&self) -> f64 {
        match self.reduction {
            "Mean" => self.case.rows() as f64,
            "MeanOver" => 7.0,
            _ => 1.0,
        }
    }

    fn factor(&self) -> f64 {
        if self.squared { f64::from(self.case.tau).powi(2) } else { 1.0 }
    }

    /// The shape of the loss.
    fn loss_dims(&self) -> Vec<usize> {
        let mut sizes = self.case.dims.clone();
        sizes.remove(self.case.dim);
        if self.reduction == "None" { sizes } else { vec![] }
    }

    fn upstream(&self) -> Vec<f32> {
        let mut random = Random::new(self.case.seed ^ 0x99);
        (0..self.loss_dims().iter().product()).map(|_| random.normal() as f32).collect()
    }
}

/// The direction as the reference knows it.
fn exact(direction: Direction) -> reference::Direction {
    match direction {
        Direction::Forward => reference::Direction::Forward,
        Direction::Reverse => reference::Direction::Reverse,
        Direction::JensenShannon { beta } => reference::Direction::JensenShannon { beta: beta.into() },
        other => panic!("{other:?} has no reference"),
    }
}

pub(crate) struct Got<T> {
    pub(crate) loss: Vec<f32>,
    pub(crate) dstudent: Vec<T>,
}

/// Forward and backward between guards.
pub(crate) fn run<T: Format>(device: &Device, lesson: &Lesson) -> Got<T> {
    let case = &lesson.case;
    let (dim, [student, teacher]) = (Dim::front(case.dim), lesson.logits::<T>());
    let student = Operand::new(device, case.input, &case.dims, &student, T::from_f64(f64::NAN));
    let teacher = Operand::new(device, lesson.arrangement, &case.dims, &teacher, T::from_f64(f64::NAN));
    let divisor = Tensor::from_slice(device, &[], &[7.0f32]).expect("one number");
    let (options, loss_dims) = (lesson.options(&divisor), lesson.loss_dims());
    let mut loss = Guarded::new(device, &loss_dims, 1, -7.25);
    let offset = if let Arrangement::Offset(n) = case.output { n } else { 0 };
    let mut dstudent = Guarded::new(device, &case.dims, offset, T::from_f64(-7.25));
    let arrangement = if loss_dims.is_empty() { Arrangement::Offset(1) } else { Arrangement::EveryOther };
    let upstream = Operand::new(device, arrangement, &loss_dims, &lesson.upstream(), f32::NAN);
    let fail = |error: Error| -> ! { panic!("{lesson} on {device:?}: {error}") };
    let (student, teacher, upstream) = (student.view(), teacher.view(), upstream.view());
    if lesson.squared {
        distillation_loss_into(student, teacher, dim, &options, loss.view_mut()).unwrap_or_else(|e| fail(e));
        distillation_loss_backward_into(student, teacher, dim, upstream, &options, dstudent.view_mut())
            .unwrap_or_else(|e| fail(e));
    } else {
        kl_div_into(student, teacher, dim, &options, loss.view_mut()).unwrap_or_else(|e| fail(e));
        kl_div_backward_into(student, teacher, dim, upstream, &options, dstudent.view_mut())
            .unwrap_or_else(|e| fail(e));
    }
    let got = Got { loss: loss.read(lesson), dstudent: dstudent.read(lesson) };
    assert_no_findings(lesson);
    got
}

/// What a call must give.
struct Want {
    loss: Vec<Exact>,
    dstudent: Vec<Exact>,
}

/// The larger of the two terms of each gradient of a row, before `upstream / tau`.
fn terms(student: &[f64], teacher: &[f64], tau: f64, direction: Direction) -> Vec<f64> {
    use sumexp::reference::row;
    let [s, t] = [student, teacher].map(|x| row::softmax(x, tau));
    let [log_s, log_t] = [student, teacher].map(|x| row::log_softmax(x, tau));
    let logs: Vec<f64> = match direction {
        Direction::Forward => return s.iter().zip(&t).map(|(s, t)| s.max(*t)).collect(),
        Direction::JensenShannon { beta } => {
            let mixture = |i: usize| f64::from(beta) * t[i] + (1.0 - f64::from(beta)) * s[i];
            (0..s.len()).map(|i| if s[i] == 0.0 { 0.0 } else { (s[i] / mixture(i)).ln().abs() }).collect()
        }
        _ => (0..s.len()).map(|i| if s[i] == 0.0 { 0.0 } else { (log_s[i] - log_t[i]).abs() }).collect(),
    };
    let mean: f64 = s.iter().zip(&logs).map(|(s, log)| s * log).sum();
    // The logarithms of the reference itself are right to 2^-48 or so; subnormal probabilities have fewer digits.
    let (own, normal) = (2f64.powi(-48) / CANCELLED, f64::from(f32::MIN_POSITIVE));
    s.iter().zip(logs).map(|(s, log)| s.max(normal) * (log + mean + own)).collect()
}

/// The places of a row whose teacher no more than `k - 1` others are ahead of: larger, or equal and before it; a NaN is ahead of
/// every number.
fn first_of<T: Format>(teacher: &[T], places: Vec<usize>, k: usize) -> Vec<usize> {
    let key = |place: usize| match teacher[place].to_f64() {
        x if x.is_nan() => (true, 0.0),
        x => (false, x),
    };
    let ahead = |a: usize, b: usize| key(a) > key(b) || key(a) == key(b) && a < b;
    let counts = |place: &usize| places.iter().filter(|other| ahead(**other, *place)).count() < k;
    places.iter().copied().filter(counts).collect()
}

fn want<T: Format>(lesson: &Lesson) -> Want {
    let (case, direction, tau) = (&lesson.case, exact(lesson.direction), f64::from(lesson.case.tau));
    let [student, teacher] = lesson.logits::<T>();
    let upstream = lesson.upstream();
    let (mut losses, mut dstudent) = (Vec::new(), vec![Exact::default(); student.len()]);
    // What exponentials lose, as a multiple of the two units of float32 that the comparator grants.
    let part = if T::DIGITS == 24 { 2.0 } else { 2f64.powi(-19) / CANCELLED };
    for (row, places) in case.row_places().enumerate() {
        let mut places = places;
        if let Some(k) = lesson.top_k {
            places = first_of(&teacher, places, k);
        }
        let [s, t] = [&student, &teacher].map(|x| places.iter().map(|i| x[*i].to_f64()).collect::<Vec<f64>>());
        losses.push(lesson.factor() * reference::divergence(&s, &t, tau, direction));
        let g = f64::from(upstream[row % upstream.len()]) * lesson.factor() / lesson.divisor();
        let slopes = reference::divergence_backward(&s, &t, tau, direction);
        let terms = terms(&s, &t, tau, lesson.direction);
        for ((place, slope), term) in places.iter().zip(slopes).zip(terms) {
            let term = part * term * g.abs() / tau;
            dstudent[*place] = Exact { value: slope * g, term: if term.is_finite() { term } else { 0.0 } };
        }
    }
    let loss = match lesson.reduction {
        "None" => losses,
        _ => vec![losses.iter().sum::<f64>() / lesson.divisor()],
    };
    Want { loss: Exact::plain(loss), dstudent }
}

/// A loss is a sum of terms that are never negative. That of the errors which all logarithms of a row share is their square.
fn loss_tolerance<T: Format>(lesson: &Lesson) -> Tolerance {
    let (ulps, shared) = if T::DIGITS == 24 { (8.0, 2f64.powi(-46)) } else { (32.0, 2f64.powi(-42)) };
    let rows = if lesson.reduction == "Sum" { lesson.case.rows() as f64 } else { 1.0 };
    let underflow = f64::from(f32::MIN_POSITIVE) * lesson.case.len() as f64;
    Tolerance { ulps, floor: (shared + underflow) * lesson.factor() * rows }
}

fn gradient_tolerance<T: Format>(lesson: &Lesson) -> Tolerance {
    let largest = lesson.upstream().into_iter().fold(1.0, |max, g| f64::max(max, g.abs().into()));
    let scale = (largest * lesson.factor() / f64::from(lesson.case.tau)).max(1.0);
    Tolerance { floor: T::BACKWARD.floor.max(128.0 * f64::from(f32::MIN_POSITIVE) * scale), ..T::BACKWARD }
}

pub(crate) fn check<T: Format>(lesson: &Lesson) {
    let want = want::<T>(lesson);
    for device in devices() {
        let got = run::<T>(&device, lesson);
        let named = |what: &str| format!("{} on {device:?}: {what} of {lesson}", std::any::type_name::<T>());
        assert_right(&named("loss"), &got.loss, &want.loss, loss_tolerance::<T>(lesson));
        assert!(got.loss.iter().all(|loss| loss.is_nan() || *loss >= 0.0), "{}", named("negative loss"));
        assert_right(&named("dstudent"), &got.dstudent, &want.dstudent, gradient_tolerance::<T>(lesson));
    }
}

pub(crate) fn check_all(lesson: &Lesson) {
    DIRECTIONS.into_iter().for_each(|direction| check::<f32>(&lesson.clone().along(direction)));
    [0, 3].into_iter().for_each(|i| check::<f16>(&lesson.clone().along(DIRECTIONS[i])));
    [1, 2].into_iter().for_each(|i| check::<bf16>(&lesson.clone().along(DIRECTIONS[i])));
}

#[test]
fn special_rows() {
    check_all(&Lesson::special(3));
    check_all(&Lesson::special(33));
    check::<f32>(&Lesson::special(300).along(Direction::JensenShannon { beta: 0.3 }));
}

/// Every kernel at its longest row, one element to either side, and odd lengths in between.
#[test]
fn lengths() {
    for classes in [1, 2, 3, 8, 31, 32, 33, 64, 65, 100, 255, 256, 257, 512, 513] {
        check_all(&Lesson::new(Case::new(&[5, classes], Fill::Ordinary)));
    }
    for classes in [2047, 2048, 2049, 4096, 4097, 8192, 8196, 16_385] {
        let lesson = Lesson::new(Case::new(&[2, classes], Fill::Ordinary));
        for direction in [Direction::Forward, Direction::Reverse, Direction::JensenShannon { beta: 0.3 }] {
            check::<f32>(&lesson.clone().along(direction));
            check::<bf16>(&lesson.clone().along(direction));
        }
    }
}

#[test]
fn a_large_vocabulary() {
    let lesson = Lesson::near(Case::new(&[2, 50_257], Fill::Ordinary), 0.1);
    for direction in [Direction::Reverse, Direction::JensenShannon { beta: 0.5 }] {
        check::<f32>(&lesson.clone().along(direction));
        check::<f16>(&lesson.clone().along(direction));
    }
}

#[test]
fn alignment_and_strides() {
    for offset in 0..8 {
        let case = Case::new(&[3, 72], Fill::Ordinary).input(Arrangement::Offset(offset));
        let lesson = Lesson::new(case.output(Arrangement::Offset(offset * 3 % 8)));
        check_all(&Lesson { arrangement: Arrangement::Offset(offset * 5 % 8), ..lesson });
    }
    let arrangements =
        [Arrangement::Reversed, Arrangement::Padded(1, 6), Arrangement::Padded(8, 8), Arrangement::EveryOther];
    for (i, arrangement) in arrangements.into_iter().enumerate() {
        for classes in [5, 64, 1040] {
            let lesson = Lesson::new(Case::new(&[2, 3, classes], Fill::Ordinary).input(arrangement));
            check_all(&Lesson { arrangement: arrangements[(i + 1) % 4], ..lesson });
        }
    }
    check_all(&Lesson::new(Case::new(&[3, 1, 40], Fill::Ordinary).input(Arrangement::Repeated(0))));
    check_all(&Lesson::new(Case::new(&[3, 4], Fill::Ordinary).input(Arrangement::Repeated(1))));
}

#[test]
fn any_dim() {
    for dims in [vec![19, 6, 7], vec![2, 33, 5], vec![600, 3]] {
        for dim in 0..dims.len() {
            check_all(&Lesson::new(Case::new(&dims, Fill::Ordinary).along(dim)));
            let lesson = Lesson::new(Case::new(&dims, Fill::Mixed).along(dim).input(Arrangement::Reversed));
            check::<f32>(&Lesson { arrangement: Arrangement::Offset(1), ..lesson });
        }
    }
    check_all(&Lesson::new(Case::new(&[40], Fill::Ordinary)));
}

#[test]
fn reductions() {
    for reduction in ["None", "Sum", "Mean", "MeanOver"] {
        for squared in [false, true] {
            let lesson = Lesson::new(Case::new(&[4, 5, 9], Fill::Ordinary).tau(2.0));
            check_all(&Lesson { reduction, squared, ..lesson });
        }
        // More rows than a block of the collecting kernel adds up.
        check::<f16>(&Lesson { reduction, ..Lesson::new(Case::new(&[9000, 4], Fill::Ordinary)) });
    }
}

#[test]
fn temperatures() {
    check::<f32>(&Lesson::new(Case::new(&[4, 50], Fill::Ordinary).tau(1e-40)));
    for tau in [1e-30, 1e-5, 0.07, 0.5, 2.0, 30.0, 1e6] {
        for squared in [false, true] {
            let lesson = Lesson::new(Case::new(&[4, 50], Fill::Ordinary).tau(tau));
            check_all(&Lesson { squared, ..lesson });
        }
    }
}

/// Margins to 80 and logits to 1e30 (6e4 in f16). Liger a089cd59, 449f5cba: the logarithm of a mean of probabilities, for logits so
/// far apart, was that of 0.
#[test]
fn every_margin() {
    for classes in [2, 3, 10, 100, 700] {
        check_all(&Lesson::new(Case::new(&[60, classes], Fill::Mixed)));
    }
}

/// Noise down to the last digits of the logits: a difference of two logarithms would have nothing right.
#[test]
fn rows_that_nearly_agree() {
    for noise in [0.1, 1e-2, 1e-3, 1e-4, 1e-6] {
        for classes in [2, 10, 300] {
            let lesson = Lesson::near(Case::new(&[6, classes], Fill::Ordinary), noise);
            for direction in DIRECTIONS {
                check::<f32>(&lesson.clone().along(direction));
            }
            check::<f16>(&lesson);
        }
    }
}

/// The figures that the documentation states; `cargo test --test loss measured -- --nocapture` prints them.
#[test]
fn measured() {
    fn of<T: Format>(name: &str) {
        let device = gpu();
        for direction in DIRECTIONS {
            let (mut worst, mut shared, mut of_gradient) = (0f64, 0f64, 0f64);
            for noise in [3.0, 1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5] {
                for classes in [2, 30, 300] {
                    let lesson = Lesson::near(Case::new(&[8, classes], Fill::Ordinary), noise).along(direction);
                    let (got, want) = (run::<T>(&device, &lesson), want::<T>(&lesson));
                    for (got, want) in got.loss.iter().zip(&want.loss) {
                        if want.value > 1e-6 {
                            worst = worst.max(error(*got, want.value, 0.0));
                        } else {
                            let beyond = (f64::from(*got) - want.value).abs() - 8.0 * f32::ulp(want.value);
                            shared = shared.max(beyond);
                        }
                    }
                    for (got, want) in got.dstudent.iter().zip(&want.dstudent) {
                        let beyond = (got.to_f64() - want.value).abs() - 0.5 * T::ulp(want.value);
                        of_gradient = of_gradient.max(beyond / want.term.max(1e-30));
                    }
                }
            }
            println!(
                "{name} {direction:?}: loss {worst:.1} ULP, of those below 1e-6 beyond 8 of them 2^{:.1}; gradient 2^{:.1} of its term",
                shared.log2(),
                of_gradient.log2()
            );
            let tolerance = loss_tolerance::<T>(&Lesson::new(Case::new(&[1, 1], Fill::Ordinary)));
            assert!(worst < tolerance.ulps && shared < tolerance.floor);
        }
    }
    of::<f32>("f32");
    of::<f16>("f16");
    of::<bf16>("bf16");
}

#[test]
fn no_rows() {
    for device in devices() {
        let x = Tensor::<f32>::zeros(&device, &[0, 5]).unwrap();
        for reduction in [Reduction::None, Reduction::Sum, Reduction::Mean] {
            let options = KlDivergence { reduction, ..KlDivergence::default() };
            let loss = kl_div(&x, &x, Dim::LAST, &options).unwrap();
            assert!(loss.to_vec().unwrap().iter().all(|loss| *loss == 0.0));
            let upstream = Tensor::<f32>::zeros(&device, loss.dims()).unwrap();
            assert_eq!(kl_div_backward(&x, &x, Dim::LAST, &upstream, &options).unwrap().dims(), [0, 5]);
        }
    }
}

/// A kernel that swaps the two, forgets an option or skips the last row must fail the comparison.
#[test]
fn lazy_answers_are_rejected() {
    let mut rejected = 0;
    for dims in [[7, 3], [7, 33], [3, 1025]] {
        for direction in [Direction::Forward, Direction::Reverse, Direction::JensenShannon { beta: 0.1 }] {
            let lesson = Lesson { squared: true, ..Lesson::new(Case::new(&dims, Fill::Ordinary).tau(2.0)) };
            let lesson = lesson.along(direction);
            let want = want::<f32>(&lesson);
            let loss = |lesson: &Lesson| -> Vec<f32> {
                self::want::<f32>(lesson).loss.iter().map(|loss| loss.value as f32).collect()
            };
            let mut missing = loss(&lesson);
            *missing.last_mut().unwrap() = 0.0;
            let (student, teacher) = (lesson.teacher.clone(), lesson.student.clone());
            let other = if direction == Direction::Forward { DIRECTIONS[3] } else { Direction::Forward };
            for (name, lazy) in [
                ("zeros", vec![0.0; missing.len()]),
                ("last row missing", missing),
                ("swapped", loss(&Lesson { student, teacher, ..lesson.clone() })),
                ("not squared", loss(&Lesson { squared: false, ..lesson.clone() })),
                ("other direction", loss(&lesson.clone().along(other))),
                ("other temperature", loss(&Lesson { case: lesson.case.clone().tau(1.0), ..lesson.clone() })),
            ] {
                assert!(!faults(&lazy, &want.loss, loss_tolerance::<f32>(&lesson)).is_empty(), "{name}: {lesson}");
                rejected += 1;
            }
        }
    }
    assert_eq!(rejected, 54);
}

/// The bits of a row are its own: in any batch, at any place, in any memory, on any schedule.
#[test]
fn the_same_bits_alone_in_a_batch_and_on_every_schedule() {
    let device = gpu();
    for (i, classes) in [10, 100, 700, 5000, 20_000].into_iter().enumerate() {
        let lesson = Lesson::new(Case::new(&[3, classes], Fill::Ordinary)).along(DIRECTIONS[i % 3]);
        let whole = run::<f32>(&device, &lesson);
        for arrangement in [Arrangement::Offset(1), Arrangement::Reversed, Arrangement::Padded(3, 2)] {
            let moved = Lesson { case: lesson.case.clone().input(arrangement), ..lesson.clone() };
            let got = run::<f32>(&device, &moved);
            assert_same_bits(&moved, &got.loss, &whole.loss);
            assert_same_bits(&moved, &got.dstudent, &whole.dstudent);
        }
        let divisor = Tensor::from_slice(&device, &[], &[7.0f32]).unwrap();
        let [student, teacher] = lesson.logits::<f32>();
        for row in 0..3 {
            let part = |x: &[f32]| Tensor::from_slice(&device, &[classes], &x[row * classes..][..classes]).unwrap();
            let (student, teacher) = (part(&student), part(&teacher));
            let loss = kl_div(&student, &teacher, Dim::LAST, &lesson.options(&divisor)).unwrap();
            assert_same_bits(&lesson, &loss.to_vec().unwrap(), &whole.loss[row..=row]);
            let upstream = Tensor::from_slice(&device, &[], &lesson.upstream()[row..=row]).unwrap();
            let got = kl_div_backward(&student, &teacher, Dim::LAST, &upstream, &lesson.options(&divisor)).unwrap();
            assert_same_bits(&lesson, &got.to_vec().unwrap(), &whole.dstudent[row * classes..][..classes]);
        }
    }
    let Some(soft) = soft() else { return };
    for (classes, direction) in [(10, DIRECTIONS[1]), (700, DIRECTIONS[2]), (9000, DIRECTIONS[1])] {
        let lesson = Lesson::new(Case::new(&[3, classes], Fill::Ordinary)).along(direction);
        let lesson = Lesson { reduction: "Mean", ..lesson };
        let first = run::<f32>(&device, &lesson);
        for seed in 1..=20 {
            soft.seed(seed);
            let got = run::<f32>(&device, &lesson);
            assert_same_bits(&format!("schedule {seed} of {lesson}"), &got.loss, &first.loss);
            assert_same_bits(&format!("schedule {seed} of {lesson}"), &got.dstudent, &first.dstudent);
        }
        soft.seed(0);
    }
}
