//! Cross-entropy: the formulae on one row, and the loop over strided operands.

use crate::dtype::Float;

use super::row::State;
use super::{Operand, Output, Rows, Sum};
use rayon::prelude::*;

/// What the target of a row says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The row's class.
    Class(usize),
    /// The row does not count: loss 0, gradient 0.
    Ignored,
    /// Neither a class nor the ignored value: loss NaN, gradient 0.
    Bad(i64),
}

impl Target {
    /// Reads a target. The ignored value is looked at first: it may lie inside or outside the classes.
    pub fn of(value: i64, classes: usize, ignore_index: Option<i64>) -> Target {
        match usize::try_from(value) {
            _ if Some(value) == ignore_index => Target::Ignored,
            Ok(class) if class < classes => Target::Class(class),
            _ => Target::Bad(value),
        }
    }
}

/// An integer type that targets may have.
pub trait Index: Copy + Send + Sync {
    /// The value, exactly.
    fn to_i64(self) -> i64;
}

impl Index for i64 {
    fn to_i64(self) -> i64 {
        self
    }
}

impl Index for i32 {
    fn to_i64(self) -> i64 {
        i64::from(self)
    }
}

impl Index for u32 {
    fn to_i64(self) -> i64 {
        i64::from(self)
    }
}

/// `-ln(p[target])` of one row: `(max - x[target]) / tau + ln(1 + others)`, a sum of two terms that are never negative.
///
/// +inf if the target is hidden; NaN if the row holds a NaN or +inf.
pub fn loss(x: &[f64], target: usize, tau: f64) -> f64 {
    -State::of(x, tau).log_probability(x[target], tau)
}

/// Gradient of [`loss`] by the logits: `(p - onehot) / tau`. A row with nothing visible has gradient 0.
///
/// At a target that is the largest entry, `p - 1` is `-others / (1 + others)`: right at any margin.
pub fn loss_backward(x: &[f64], target: usize, tau: f64) -> Vec<f64> {
    let state = State::of(x, tau);
    let gradient = |(i, v): (usize, &f64)| {
        let slope = if state.is_empty() {
            0.0
        } else if i != target {
            state.probability(*v, tau)
        } else if *v == state.max {
            -state.others / (1.0 + state.others)
        } else {
            state.probability(*v, tau) - 1.0
        };
        slope / tau
    };
    x.iter().enumerate().map(gradient).collect()
}

/// What a loss is made of beside logits and targets.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The temperature.
    pub tau: f64,
    /// The part of a target that is spread over all classes, from 0 to 1.
    pub label_smoothing: f64,
    /// One number per class; all 1 if not given.
    pub class_weights: Option<&'a [f64]>,
    /// What the square of the lse is multiplied by.
    pub z_loss: f64,
}

impl Terms<'_> {
    /// The weight of a class.
    pub fn weight(&self, class: usize) -> f64 {
        self.class_weights.map_or(1.0, |weights| weights[class])
    }

    /// What the negative logarithm of each class's probability is multiplied by if the target is a class.
    pub fn of_class(&self, target: usize, classes: usize) -> Vec<f64> {
        let share = |class| {
            let here = if class == target { 1.0 - self.label_smoothing } else { 0.0 };
            self.weight(class) * (here + self.label_smoothing / classes as f64)
        };
        (0..classes).map(share).collect()
    }

    /// What it is multiplied by if the target is a probability per class.
    pub fn of_probabilities(&self, targets: impl ExactSizeIterator<Item = f64>) -> Vec<f64> {
        let spread = self.label_smoothing / targets.len().max(1) as f64;
        let share = |(class, t): (usize, f64)| self.weight(class) * ((1.0 - self.label_smoothing) * t + spread);
        targets.enumerate().map(share).collect()
    }

    /// `sum(shares * -ln(p)) + z_loss * lse^2`. A share of 0 costs nothing, whatever its logit is, and with nothing but shares
    /// of 0 the first term is 0, whatever the row holds.
    pub fn loss(&self, x: &[f64], shares: &[f64]) -> f64 {
        let state = State::of(x, self.tau);
        let counted = || x.iter().zip(shares).filter(|(_, share)| **share != 0.0);
        let cross = if counted().next().is_none() {
            0.0
        } else if state.is_empty() {
            f64::INFINITY
        } else {
            let gaps = Sum::of(counted().map(|(x, share)| share * ((state.max - x) / self.tau)));
            gaps.value() + Sum::of(shares.iter().copied()).value() * state.others.ln_1p()
        };
        if self.z_loss == 0.0 { cross } else { cross + self.z_loss * state.lse(self.tau).powi(2) }
    }

    /// Gradient of [`Terms::loss`] by the logits: `(p * (sum(shares) + 2 * z_loss * lse) - shares) / tau`; 0 for a row with nothing
    /// visible, and for one whose loss is 0 whatever it holds.
    ///
    /// At the largest logit, where p is nearly 1, what the others' shares and probabilities leave of it.
    pub fn loss_backward(&self, x: &[f64], shares: &[f64]) -> Vec<f64> {
        let state = State::of(x, self.tau);
        let nothing = self.z_loss == 0.0 && shares.iter().all(|share| *share == 0.0);
        if state.is_empty() || nothing {
            return vec![0.0; x.len()];
        }
        let along_lse = if self.z_loss == 0.0 { 0.0 } else { 2.0 * self.z_loss * state.lse(self.tau) };
        let total = Sum::of(shares.iter().copied().chain([along_lse])).value();
        let winner = x.iter().position(|v| *v == state.max);
        let slope = |(i, v): (usize, &f64)| {
            if Some(i) == winner {
                let of_others = shares.iter().enumerate().filter(|(k, _)| *k != i).map(|(_, share)| *share);
                let less = state.others / (1.0 + state.others);
                Sum::of(of_others.chain([along_lse, -less * total])).value() / self.tau
            } else {
                (state.probability(*v, self.tau) * total - shares[i]) / self.tau
            }
        };
        x.iter().enumerate().map(slope).collect()
    }
}

/// What is known about a row whose target is a class, beside its loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Statistics {
    /// The negative logarithm of the target's probability.
    pub nll: f64,
    /// The entropy of the row's probabilities; 0 of a row with nothing visible.
    pub entropy: f64,
    /// The largest logit: of equal ones the first, of NaNs the first; -1 for a row that is not read.
    pub argmax: i64,
    /// How many classes are ahead of the target: larger, or equal and before it; a NaN is larger than any number. -1 for a row
    /// that is not read.
    pub rank: i64,
}

impl Statistics {
    /// Of one row.
    pub fn of(x: &[f64], target: usize, tau: f64) -> Statistics {
        let state = State::of(x, tau);
        let visible = || x.iter().filter(|x| **x != f64::NEG_INFINITY);
        let gaps = Sum::of(visible().map(|x| state.probability(*x, tau) * ((state.max - x) / tau))).value();
        let ahead = |a: usize, b: usize| {
            let (left, right) = (x[a], x[b]);
            if left.is_nan() || right.is_nan() {
                return left.is_nan() && (!right.is_nan() || a < b);
            }
            left > right || left == right && a < b
        };
        let rank = (0..x.len()).filter(|class| ahead(*class, target)).count();
        let argmax = (1..x.len()).fold(0, |best, class| if ahead(class, best) { class } else { best });
        Statistics {
            nll: loss(x, target, tau),
            entropy: if state.is_empty() { 0.0 } else { state.others.ln_1p() + gaps },
            argmax: argmax as i64,
            rank: rank as i64,
        }
    }

    /// Of a row that is not read; `value` is 0, or NaN for a bad target.
    fn of_none(value: f64) -> Statistics {
        Statistics { nll: value, entropy: value, argmax: -1, rank: -1 }
    }
}

/// What the forward operation gives for one row, in float64.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowLoss {
    /// The loss: 0 for a row that does not count, NaN for a bad target.
    pub loss: f64,
    /// `ln(sum(exp(x / tau)))`; 0 for a row that does not count, NaN for a bad target.
    pub lse: f64,
    /// The sum of the row's exponentials; zeros for rows that are not read.
    pub state: State,
    /// What the logarithm of the target's probability is multiplied by, beyond its part of what all classes share; 0 for targets
    /// that are probabilities.
    pub on_target: f64,
    /// What all shares and the slope of the z-loss add to the slope along lse, beyond `on_target`.
    pub spread: f64,
}

/// The targets of a call.
#[derive(Clone, Copy)]
pub enum Targets<'a> {
    /// A class for every row.
    Classes {
        /// In the order of the rows.
        values: &'a [i64],
        /// Rows with this target do not count.
        ignore_index: Option<i64>,
    },
    /// The probabilities of every row, by its number.
    Probabilities(&'a (dyn Fn(usize) -> Vec<f64> + Sync)),
}

/// Logits and targets of a call.
#[derive(Clone, Copy)]
pub struct Batch<'a, T> {
    /// The logits.
    pub logits: Operand<'a, T>,
    /// The targets.
    pub targets: Targets<'a>,
    /// What the losses are made of.
    pub terms: Terms<'a>,
}

impl<T: Float> Batch<'_, T> {
    /// The row's shares, and its class if it has one; or what its loss is without looking at its logits.
    fn shares(&self, rows: &Rows, row: usize) -> Result<(Vec<f64>, Option<usize>), f64> {
        match self.targets {
            Targets::Classes { values, ignore_index } => match Target::of(values[row], rows.len(), ignore_index) {
                Target::Class(class) => Ok((self.terms.of_class(class, rows.len()), Some(class))),
                Target::Ignored => Err(0.0),
                Target::Bad(_) => Err(f64::NAN),
            },
            Targets::Probabilities(of_row) => Ok((self.terms.of_probabilities(of_row(row).into_iter()), None)),
        }
    }

    fn row(&self, rows: &Rows, row: usize) -> Vec<f64> {
        self.logits.row(rows, row).map(Float::to_f64).collect()
    }

    /// The first row whose target is bad, and that target.
    pub fn first_bad(&self, rows: &Rows) -> Option<(usize, i64)> {
        let Targets::Classes { values, ignore_index } = self.targets else { return None };
        values.iter().enumerate().find_map(|(row, value)| match Target::of(*value, rows.len(), ignore_index) {
            Target::Bad(value) => Some((row, value)),
            _ => None,
        })
    }

    /// How many targets are not ignored.
    pub fn count(&self, rows: &Rows) -> usize {
        match self.targets {
            Targets::Classes { values, ignore_index } => values.iter().filter(|v| Some(**v) != ignore_index).count(),
            Targets::Probabilities(_) => rows.count(),
        }
    }

    /// What a mean divides by: the class weights of all targets that count, or how many rows there are.
    pub fn weight(&self, rows: &Rows) -> f64 {
        let Targets::Classes { values, ignore_index } = self.targets else { return rows.count() as f64 };
        let weight = |value: &i64| match Target::of(*value, rows.len(), ignore_index) {
            Target::Class(class) => self.terms.weight(class),
            _ => 0.0,
        };
        Sum::of(values.iter().map(weight)).value()
    }

    /// What forward gives for every row, in parallel.
    pub fn rows(&self, rows: &Rows) -> Vec<RowLoss> {
        (0..rows.count()).into_par_iter().with_min_len(16).map(|row| self.loss_of(rows, row)).collect()
    }

    fn loss_of(&self, rows: &Rows, row: usize) -> RowLoss {
        let (shares, class) = match self.shares(rows, row) {
            Ok(shares) => shares,
            Err(loss) => {
                let state = State { max: 0.0, others: 0.0 };
                return RowLoss { loss, lse: loss, state, on_target: 0.0, spread: 0.0 };
            }
        };
        let x = self.row(rows, row);
        let state = State::of(&x, self.terms.tau);
        let on_target = class.map_or(0.0, |class| (1.0 - self.terms.label_smoothing) * self.terms.weight(class));
        let lse = state.lse(self.terms.tau);
        let along_lse = if self.terms.z_loss == 0.0 { 0.0 } else { 2.0 * self.terms.z_loss * lse };
        let spread = Sum::of(shares.iter().copied().chain([-on_target, along_lse])).value();
        RowLoss { loss: self.terms.loss(&x, &shares), lse, state, on_target, spread }
    }

    /// The statistics of every row, in parallel. Targets that are probabilities have none.
    pub fn statistics(&self, rows: &Rows) -> Vec<Statistics> {
        let of_row = |row| match self.shares(rows, row) {
            Ok((_, Some(class))) => Statistics::of(&self.row(rows, row), class, self.terms.tau),
            Ok((_, None)) => Statistics::of_none(f64::NAN),
            Err(value) => Statistics::of_none(value),
        };
        (0..rows.count()).into_par_iter().with_min_len(16).map(of_row).collect()
    }

    /// Gradient by the logits, where `upstream(row)` is the gradient by that row's loss.
    /// Rows that do not count, and rows with a bad target, get 0 whatever `upstream` is there.
    pub fn backward(&self, rows: &Rows, upstream: impl Fn(usize) -> f64 + Sync, dlogits: Output<T>) {
        dlogits.write_rows(rows, |row, out| match self.shares(rows, row) {
            Ok((shares, _)) => {
                let upstream = upstream(row);
                let slopes = self.terms.loss_backward(&self.row(rows, row), &shares);
                let gradient = |slope: f64| if slope == 0.0 { 0.0 } else { slope * upstream };
                slopes.into_iter().zip(out).for_each(|(slope, out)| *out = T::from_f64(gradient(slope)));
            }
            Err(_) => out.fill(T::from_f64(0.0)),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ignored_value_wins_over_the_classes() {
        assert_eq!(Target::of(2, 3, None), Target::Class(2));
        assert_eq!(Target::of(2, 3, Some(2)), Target::Ignored);
        assert_eq!(Target::of(255, 3, Some(255)), Target::Ignored);
        assert_eq!(Target::of(-100, 3, Some(-100)), Target::Ignored);
        assert_eq!(Target::of(3, 3, Some(-100)), Target::Bad(3));
        assert_eq!(Target::of(-1, 3, None), Target::Bad(-1));
        assert_eq!(Target::of(i64::MIN, 3, None), Target::Bad(i64::MIN));
    }

    #[test]
    fn accurate_at_every_margin() {
        // exp(-20) = 2.0611536224385579e-9; ln(1 + exp(-20)) and exp(-20) / (1 + exp(-20)) agree with it to 9 digits.
        let relative = |got: f64, want: f64| ((got - want) / want).abs();
        assert!(relative(loss(&[20.0, 0.0], 0, 1.0), 2.0611536203143e-9) < 1e-13);
        let gradient = loss_backward(&[20.0, 0.0], 0, 1.0);
        assert!(relative(gradient[0], -2.061153618190204e-9) < 1e-13);
        assert!(relative(gradient[1], 2.061153618190204e-9) < 1e-13);
        assert!(relative(loss(&[80.0, 0.0], 0, 1.0), (-80f64).exp()) < 1e-13);
        assert_eq!(loss(&[0.0, 1e30], 0, 1.0), 1e30);
    }

    #[test]
    fn hidden_targets_and_hidden_rows() {
        let hidden = f64::NEG_INFINITY;
        assert_eq!(loss(&[hidden, 1.0], 0, 1.0), f64::INFINITY);
        assert_eq!(loss_backward(&[hidden, 1.0], 0, 1.0), [-1.0, 1.0]);
        assert_eq!(loss(&[hidden, hidden], 0, 1.0), f64::INFINITY);
        assert_eq!(loss_backward(&[hidden, hidden], 0, 1.0), [0.0, 0.0]);
        assert!(loss(&[1.0, f64::NAN], 0, 1.0).is_nan());
        assert!(loss_backward(&[f64::INFINITY, 1.0], 0, 1.0).iter().all(|g| g.is_nan()));
    }
}
