//! The softmax family as the tests see it: which operations there are, what the reference says they give, and what a
//! lazy kernel might give instead.

use std::fmt;

use sumexp::reference::row;

use super::arrange::Arrangement;
use super::cases::Case;
use super::compare::{CANCELLED, Exact, Format, Tolerance};

/// An operation of the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Softmax,
    LogSoftmax,
    LogSumExp,
    Softmin,
    SoftmaxBackward,
    LogSoftmaxBackward,
    LogSumExpBackward,
    SoftminBackward,
}

pub const OPS: [Op; 8] = [
    Op::Softmax,
    Op::LogSoftmax,
    Op::LogSumExp,
    Op::Softmin,
    Op::SoftmaxBackward,
    Op::LogSoftmaxBackward,
    Op::LogSumExpBackward,
    Op::SoftminBackward,
];

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Softmax => "softmax",
            Self::LogSoftmax => "log_softmax",
            Self::LogSumExp => "logsumexp",
            Self::Softmin => "softmin",
            Self::SoftmaxBackward => "softmax_backward",
            Self::LogSoftmaxBackward => "log_softmax_backward",
            Self::LogSumExpBackward => "logsumexp_backward",
            Self::SoftminBackward => "softmin_backward",
        })
    }
}

impl Op {
    pub fn is_backward(self) -> bool {
        matches!(
            self,
            Self::SoftmaxBackward | Self::LogSoftmaxBackward | Self::LogSumExpBackward | Self::SoftminBackward
        )
    }

    pub fn negates(self) -> bool {
        matches!(self, Self::Softmin | Self::SoftminBackward)
    }

    pub fn tolerance<T: Format>(self) -> Tolerance {
        if self.is_backward() { T::BACKWARD } else { T::FORWARD }
    }
}

/// The rows of a case in float64: hidden entries as -inf, negated for softmin.
pub fn exact_rows<T: Format>(case: &Case, negate: bool) -> Vec<Vec<f64>> {
    let (x, visible) = (case.logits::<T>(), case.visible());
    let sign = if negate { -1.0 } else { 1.0 };
    let entry = |i: &usize| if visible[*i] { sign * x[*i].to_f64() } else { f64::NEG_INFINITY };
    case.row_places().map(|places| places.iter().map(entry).collect()).collect()
}

/// The result of the forward operation, rounded to the type: what its backward operation is given.
pub fn forward_result<T: Format>(case: &Case, op: Op) -> Vec<T> {
    let tau = f64::from(case.tau);
    let rows = exact_rows::<T>(case, op.negates());
    let results = rows.iter().map(|x| match op {
        Op::LogSoftmaxBackward => row::log_softmax(x, tau),
        _ => row::softmax(x, tau),
    });
    scatter(case, results).into_iter().map(T::from_f64).collect()
}

/// The upstream gradient of a lse: one per row.
pub fn upstream_of_lse(case: &Case) -> Vec<f32> {
    let dy = case.upstream::<f32>();
    case.row_places().map(|places| places.first().map_or(0.0, |place| dy[*place])).collect()
}

/// What an operation must give: row-major over the shape, or one value per row for the lse.
pub fn want<T: Format>(case: &Case, op: Op) -> Vec<Exact> {
    let tau = f64::from(case.tau);
    let rows = || exact_rows::<T>(case, op.negates());
    match op {
        Op::Softmax | Op::Softmin => Exact::plain(scatter(case, rows().iter().map(|x| row::softmax(x, tau)))),
        Op::LogSoftmax => Exact::plain(scatter(case, rows().iter().map(|x| row::log_softmax(x, tau)))),
        Op::LogSumExp => rows().iter().map(|x| exact_lse::<T>(x, tau)).collect(),
        Op::SoftmaxBackward | Op::SoftminBackward => {
            let signed = if op.negates() { -tau } else { tau };
            backward::<T>(case, op, |y, dy| exact_softmax_backward::<T>(y, dy, signed))
        }
        Op::LogSoftmaxBackward => backward::<T>(case, op, |y, dy| exact_log_softmax_backward::<T>(y, dy, tau)),
        Op::LogSumExpBackward => {
            let dlse = upstream_of_lse(case);
            let results = rows().into_iter().zip(dlse).map(|(x, d)| row::logsumexp_backward(&x, f64::from(d), tau));
            Exact::plain(scatter(case, results))
        }
    }
}

/// `max / tau + ln(1 + others)`: two numbers that may cancel. The weights of 16-bit logits, and so the logarithm, are those of
/// the hardware's exp2, a few bits coarser than f32.
fn exact_lse<T: Format>(x: &[f64], tau: f64) -> Exact {
    let state = row::State::of(x, tau);
    let term = state.max.abs() / tau * if is_half::<T>() { 16.0 } else { 1.0 };
    Exact { value: state.lse(tau), term: finite(term) }
}

/// `y * (dy - sum(dy * y))`. The sum may cancel against `dy`, and its terms among themselves. In f32 no digit is lost by that;
/// sums of 16-bit gradients are good to 2^-50 of their largest term.
fn exact_softmax_backward<T: Format>(y: &[f64], dy: &[f64], tau: f64) -> Vec<Exact> {
    let largest = y.iter().zip(dy).map(|(y, dy)| (y * dy).abs()).fold(0.0, f64::max);
    let part = if is_half::<T>() { 2f64.powi(-50) / CANCELLED } else { 0.0 };
    let values = row::softmax_backward(y, dy, tau).into_iter().zip(y);
    values.map(|(value, y)| Exact { value, term: finite(y * largest * part / tau) }).collect()
}

/// `dy - exp(y) * sum(dy)`. For 16-bit elements the exponential is good to 2^-21, which shows where the two cancel; f32 loses nothing.
fn exact_log_softmax_backward<T: Format>(y: &[f64], dy: &[f64], tau: f64) -> Vec<Exact> {
    let visible = y.iter().zip(dy).filter(|(y, _)| **y != f64::NEG_INFINITY);
    let sum: f64 = visible.map(|(_, dy)| *dy).sum();
    let part = if is_half::<T>() { 2f64.powi(-21) / CANCELLED } else { 0.0 };
    let terms = y.iter().zip(dy).map(|(y, dy)| dy.abs().max((y.exp() * sum).abs()) * part / tau);
    let values = row::log_softmax_backward(y, dy, tau).into_iter().zip(terms);
    values.map(|(value, term)| Exact { value, term: if value == 0.0 { 0.0 } else { finite(term) } }).collect()
}

fn is_half<T: Format>() -> bool {
    T::DIGITS < <f32 as Format>::DIGITS
}

/// Special values are compared as such: they leave no room.
fn finite(term: f64) -> f64 {
    if term.is_finite() { term.abs() } else { 0.0 }
}

fn backward<T: Format>(case: &Case, op: Op, gradient: impl Fn(&[f64], &[f64]) -> Vec<Exact>) -> Vec<Exact> {
    let (y, dy) = (forward_result::<T>(case, op), upstream::<T>(case, op));
    let pick = |from: &[T], places: &[usize]| -> Vec<f64> { places.iter().map(|i| from[*i].to_f64()).collect() };
    scatter(case, case.row_places().map(|places| gradient(&pick(&y, &places), &pick(&dy, &places))))
}

/// The upstream gradient that a backward operation is given: NaN where the entry is hidden, which must not leak.
pub fn upstream<T: Format>(case: &Case, op: Op) -> Vec<T> {
    let mut dy = case.upstream::<T>();
    if !matches!(case.input, Arrangement::Repeated(_)) {
        let hidden = if op == Op::LogSoftmaxBackward { f64::NEG_INFINITY } else { 0.0 };
        let y = forward_result::<T>(case, op);
        let leaks = dy.iter_mut().zip(y).filter(|(_, y)| y.to_f64() == hidden);
        leaks.for_each(|(dy, _)| *dy = T::from_f64(f64::NAN));
    }
    dy
}

/// Answers that a broken kernel might give, by name.
pub fn lazy_answers<T: Format>(case: &Case, op: Op) -> Vec<(&'static str, Vec<T>)> {
    let want: Vec<T> = want::<T>(case, op).iter().map(|exact| T::from_f64(exact.value)).collect();
    let width = if op == Op::LogSumExp { 1 } else { case.len() };
    let last_row: Vec<usize> = match op {
        Op::LogSumExp => vec![case.rows() - 1],
        _ => case.row_places().last().unwrap_or_default(),
    };
    let mut missing = want.clone();
    last_row.iter().for_each(|i| missing[*i] = T::default());
    let unwritten = |n: usize| vec![T::from_f64(f64::NAN); n];
    let mut lazy = vec![
        ("zeros", vec![T::default(); want.len()]),
        ("untouched", unwritten(want.len())),
        ("last row missing", missing),
    ];
    let uniform = 1.0 / case.len() as f64;
    let log_uniform = -(case.len() as f64).ln();
    match op {
        Op::Softmax | Op::Softmin => {
            lazy.push(("uniform", vec![T::from_f64(uniform); want.len()]));
            lazy.push(("input copied", case.logits::<T>()));
        }
        Op::LogSoftmax => {
            lazy.push(("uniform", vec![T::from_f64(log_uniform); want.len()]));
            lazy.push(("input copied", case.logits::<T>()));
        }
        Op::LogSumExp => lazy.push(("uniform", vec![T::from_f64(-log_uniform); want.len()])),
        Op::SoftmaxBackward | Op::SoftminBackward => {
            let (y, dy) = (forward_result::<T>(case, op), upstream::<T>(case, op));
            let product =
                |(y, dy): (&T, &T)| T::from_f64(if y.to_f64() == 0.0 { 0.0 } else { y.to_f64() * dy.to_f64() });
            lazy.push(("y * dy", y.iter().zip(&dy).map(product).collect()));
            lazy.push(("dy copied", dy));
        }
        Op::LogSoftmaxBackward => lazy.push(("dy copied", upstream::<T>(case, op))),
        Op::LogSumExpBackward => {
            let dlse = upstream_of_lse(case);
            let spread = dlse.iter().map(|d| vec![T::from_f64(f64::from(*d) * uniform); width]);
            lazy.push(("dlse / len", scatter(case, spread)));
        }
    }
    if case.tau != 1.0 && !op.is_backward() {
        let ignored = want_of::<T>(&Case { tau: 1.0, ..case.clone() }, op);
        lazy.push(("temperature ignored", ignored));
    }
    if case.mask.is_some() && !op.is_backward() {
        lazy.push(("mask ignored", want_of::<T>(&Case { mask: None, ..case.clone() }, op)));
    }
    if case.dims.len() > 1 && op == Op::Softmax {
        let other = (case.dim + 1) % case.dims.len();
        let wrong = Case { dim: other, ..case.clone() };
        let x = case.logits::<T>();
        let rows = wrong.row_places().map(|places| {
            let row: Vec<f64> = places.iter().map(|i| x[*i].to_f64()).collect();
            row::softmax(&row, f64::from(case.tau)).into_iter().map(T::from_f64).collect()
        });
        lazy.push(("along the wrong dim", scatter(&wrong, rows)));
    }
    lazy
}

fn want_of<T: Format>(case: &Case, op: Op) -> Vec<T> {
    want::<T>(case, op).iter().map(|exact| T::from_f64(exact.value)).collect()
}

/// Puts row results in their places, row-major over the shape.
fn scatter<V: Clone + Default>(case: &Case, rows: impl Iterator<Item = Vec<V>>) -> Vec<V> {
    let mut out = vec![V::default(); case.rows() * case.len()];
    for (places, values) in case.row_places().zip(rows) {
        places.iter().zip(values).for_each(|(place, value)| out[*place] = value);
    }
    out
}
