//! Scores of any magnitude, from operands that use all bits of their type: neither results nor gradients are further from exact ones than
//! those of a computation in the element type.

use crate::common::attention::cases::Layout;
use crate::common::attention::on_device::OnDevice;
use crate::common::attention::problem::Problem;
use crate::common::attention::same_dtype::attention;
use crate::common::compare::Format;
use crate::common::device::assert_no_findings;
use crate::common::random::Random;
use crate::{device, largest_error};
use sumexp::{Float, bf16, f16};

/// What scores are like.
#[derive(Clone, Copy, Debug)]
enum Scores {
    /// Within a few units.
    Ordinary,
    /// A few keys have nearly all the weight of a query.
    Peaked,
    /// Ordinary ones less 300.
    Negative,
    /// Near -1e4, by the operands.
    Low,
    /// Near 2e5, by the operands: units in the last place of lse are hundredths.
    Huge,
    /// Near -1e9, by the bias: units in the last place of lse are 64, and all keys weigh the same.
    Shifted,
}

const ALL: [Scores; 6] =
    [Scores::Ordinary, Scores::Peaked, Scores::Negative, Scores::Low, Scores::Huge, Scores::Shifted];

fn problem<T: Float>(scores: Scores, size: usize, seed: u64) -> (Problem, (Vec<f64>, Vec<f64>)) {
    let mut random = Random::new(seed);
    let mut of = |count: usize, spread: f64| -> Vec<f64> {
        (0..count).map(|_| T::from_f64(random.normal() * spread).to_f64()).collect()
    };
    let mut problem = Problem::new([1, 2, 1], [67, 150], [size, size], seed);
    let spread = if let Scores::Peaked = scores { 8.0 } else { 1.0 };
    problem.q = of(problem.q.len(), spread);
    problem.k = of(problem.k.len(), 1.0);
    problem.v = of(problem.v.len(), 1.0);
    let dout = of(problem.out_shape().iter().product(), 1.0);
    let dlse = of(problem.lse_shape().iter().product(), 1.0);
    // The first elements of all rows make the same product, up to the scale.
    let product = match scores {
        Scores::Ordinary | Scores::Peaked | Scores::Shifted => 0.0,
        Scores::Negative => -300.0,
        Scores::Low => -1e4,
        Scores::Huge => 2e5,
    };
    if product != 0.0 {
        let side = (f64::abs(product) / problem.scale).sqrt().log2().round().exp2();
        problem.q.chunks_mut(size).for_each(|row| row[0] = side * f64::signum(product));
        problem.k.chunks_mut(size).for_each(|row| row[0] = side);
    }
    if let Scores::Shifted = scores {
        // The largest that f16 has, and what f32 does not tell from a score added to it.
        let bias = T::from_f64(if T::DTYPE == sumexp::DType::F16 { -65504.0 } else { -1e9 }).to_f64();
        problem.bias = Some((vec![bias], [1, 1, 1, 1]));
    }
    (problem, (dout, dlse))
}

fn wide<T: Float>(x: &[T]) -> Vec<f64> {
    x.iter().map(|x| x.to_f64()).collect()
}

/// Adds up, over the results, the largest error by the largest number of the exact result: of ours and of the naive computation.
fn assert_no_worse_than_naive<T: Format>(scores: Scores, size: usize) {
    let (problem, upstream) = problem::<T>(scores, size, 7 + size as u64);
    let on = OnDevice::<T>::new(&device(), vec![problem.clone()], Layout::HeadsFirst);
    let got = on.both(std::slice::from_ref(&upstream)).pop().unwrap();
    let what = format!("{} {scores:?} D {size}", T::DTYPE);
    assert_no_findings(&what);
    let naive = attention::<T>(&problem, Some(&upstream), |_, _, _, _| true);
    let exact = problem.backward::<f32>(&upstream.0, Some(&upstream.1));
    let out = problem.forward::<f32>().0;
    let results = [
        ("out", wide(&got.out), wide(&naive.out), wide(&out)),
        ("dq", wide(&got.gradient.dq), wide(&naive.gradient.dq), wide(&exact.dq)),
        ("dk", wide(&got.gradient.dk), wide(&naive.gradient.dk), wide(&exact.dk)),
        ("dv", wide(&got.gradient.dv), wide(&naive.gradient.dv), wide(&exact.dv)),
    ];
    let [mut ours, mut theirs] = [0.0; 2];
    for (name, got, naive, want) in results {
        let largest = want.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
        let [of_ours, of_theirs] = [&got, &naive].map(|x| largest_error(x, &want) / largest);
        println!("{what}: {name} {of_ours:.2e}, naive {of_theirs:.2e}");
        ours += of_ours;
        theirs += of_theirs;
    }
    // A naive computation in f16 overflows where scores are huge.
    assert!(ours <= 1.0 && theirs.is_nan() || ours <= 1.001 * theirs, "{what}: {ours:.2e}, naive {theirs:.2e}");
}

fn all<T: Format>() {
    for (scores, size) in ALL.into_iter().flat_map(|scores| [32, 64, 128].map(|size| (scores, size))) {
        assert_no_worse_than_naive::<T>(scores, size);
    }
}

/// Scores that are made by products alone, of heads that warpgroups take.
pub fn by_warpgroups<T: Format>() {
    for (scores, size) in ALL[..5].iter().flat_map(|scores| [64, 128].map(|size| (*scores, size))) {
        assert_no_worse_than_naive::<T>(scores, size);
    }
}

#[test]
fn f16_results() {
    all::<f16>();
}

#[test]
fn bf16_results() {
    all::<bf16>();
}

#[test]
fn f32_results() {
    all::<f32>();
}
