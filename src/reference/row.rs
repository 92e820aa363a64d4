//! The softmax family on one row of float64: the formulae, nothing else.
//!
//! An entry of `-inf` is hidden; a mask is applied by putting `-inf` in the place of what it hides, before these functions
//! see the row. `softmin` is the same with every visible entry negated. `tau` is the temperature, finite and above 0.

use super::Sum;

/// What a row's exponentials add up to, relative to its largest entry: `sum(exp((x - max) / tau)) = 1 + others`.
///
/// The 1 is the (first) largest entry itself. Leaving it out keeps the digits of a sum that is almost 1, and with them
/// the winner's log-probability and every gradient `p - 1` at any margin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct State {
    /// The largest entry; -inf if the row has nothing visible; NaN if the row holds a NaN or +inf.
    pub max: f64,
    /// The sum of all exponentials but that of the first largest entry; -1 if the row has nothing visible.
    pub others: f64,
}

impl State {
    /// The state of a row.
    pub fn of(x: &[f64], tau: f64) -> State {
        if x.iter().any(|v| v.is_nan() || *v == f64::INFINITY) {
            return State { max: f64::NAN, others: f64::NAN };
        }
        let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if max == f64::NEG_INFINITY {
            return State { max, others: -1.0 };
        }
        let winner = x.iter().position(|v| *v == max).unwrap_or(0);
        let others = x.iter().enumerate().filter(|(i, _)| *i != winner).map(|(_, v)| ((v - max) / tau).exp());
        State { max, others: Sum::of(others).value() }
    }

    /// Whether every entry of the row is hidden.
    pub fn is_empty(&self) -> bool {
        self.max == f64::NEG_INFINITY
    }

    /// `ln(sum(exp(x / tau)))`.
    pub fn lse(&self, tau: f64) -> f64 {
        if self.is_empty() { f64::NEG_INFINITY } else { self.max / tau + self.others.ln_1p() }
    }

    /// The log-probability of an entry `x` of the row.
    pub fn log_probability(&self, x: f64, tau: f64) -> f64 {
        if self.hides(x) { f64::NEG_INFINITY } else { (x - self.max) / tau - self.others.ln_1p() }
    }

    /// The probability of an entry `x` of the row.
    pub fn probability(&self, x: f64, tau: f64) -> f64 {
        if self.hides(x) { 0.0 } else { ((x - self.max) / tau).exp() / (1.0 + self.others) }
    }

    /// Hidden entries stay hidden whatever else the row holds, unless the row itself is NaN.
    fn hides(&self, x: f64) -> bool {
        x == f64::NEG_INFINITY && !self.max.is_nan()
    }
}

/// `exp((x - max) / tau) / sum`.
pub fn softmax(x: &[f64], tau: f64) -> Vec<f64> {
    let state = State::of(x, tau);
    x.iter().map(|v| state.probability(*v, tau)).collect()
}

/// `ln(softmax(x))`, without the detour through probabilities that underflow.
pub fn log_softmax(x: &[f64], tau: f64) -> Vec<f64> {
    let state = State::of(x, tau);
    x.iter().map(|v| state.log_probability(*v, tau)).collect()
}

/// `ln(sum(exp(x / tau)))`.
pub fn logsumexp(x: &[f64], tau: f64) -> f64 {
    State::of(x, tau).lse(tau)
}

/// Gradient of [`softmax`] from its result `y`: `y * (dy - sum(dy * y)) / tau`; exactly 0 where `y` is 0, whatever `dy` is.
pub fn softmax_backward(y: &[f64], dy: &[f64], tau: f64) -> Vec<f64> {
    let visible = || y.iter().zip(dy).filter(|(y, _)| **y != 0.0);
    let dot = Sum::of(visible().map(|(y, dy)| dy * y));
    y.iter().zip(dy).map(|(y, dy)| if *y == 0.0 { 0.0 } else { y * dot.subtracted_from(*dy) / tau }).collect()
}

/// Gradient of [`log_softmax`] from its result `y`: `(dy - exp(y) * sum(dy)) / tau`; exactly 0 where `y` is -inf.
pub fn log_softmax_backward(y: &[f64], dy: &[f64], tau: f64) -> Vec<f64> {
    let hidden = |y: f64| y == f64::NEG_INFINITY;
    let sum = Sum::of(y.iter().zip(dy).filter(|(y, _)| !hidden(**y)).map(|(_, dy)| *dy));
    let gradient = |y: f64, dy: f64| {
        if hidden(y) {
            0.0
        } else if y > -std::f64::consts::LN_2 {
            // exp(y) is nearly 1 and dy nearly the whole sum: take the two differences from 1 and from the sum apart.
            (sum.subtracted_from(dy) - y.exp_m1() * sum.value()) / tau
        } else {
            (dy - y.exp() * sum.value()) / tau
        }
    };
    y.iter().zip(dy).map(|(y, dy)| gradient(*y, *dy)).collect()
}

/// Gradient of [`logsumexp`]: `softmax(x) * dlse / tau`; exactly 0 where `x` is hidden, whatever `dlse` is.
pub fn logsumexp_backward(x: &[f64], dlse: f64, tau: f64) -> Vec<f64> {
    let state = State::of(x, tau);
    x.iter().map(|v| if state.hides(*v) { 0.0 } else { state.probability(*v, tau) * dlse / tau }).collect()
}
