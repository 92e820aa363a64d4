//! The logistic function and its relatives: the formulae, and what the CPU device runs.

use super::{Elements, Operand};
use crate::dtype::Float;

/// `1 / (1 + exp(-x))`.
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `ln(1 + exp(x))`.
pub fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// `ln(sigmoid(x))`.
pub fn log_sigmoid(x: f64) -> f64 {
    -softplus(-x)
}

/// The derivative of [`sigmoid`].
pub fn sigmoid_slope(x: f64) -> f64 {
    sigmoid(x) * sigmoid(-x)
}

/// The derivative of [`log_sigmoid`].
pub fn log_sigmoid_slope(x: f64) -> f64 {
    sigmoid(-x)
}

/// A function of every element.
pub fn forward<T: Float>(elements: &Elements, x: Operand<T>, function: impl Fn(f64) -> f64 + Sync, y: &mut [T]) {
    elements.write(y, |first, y| {
        elements.of(x, first).zip(y).for_each(|(x, y)| *y = T::from_f64(function(x.to_f64())));
    });
}

/// The gradient of a function of every element, given its derivative and the gradient of its results.
pub fn backward<T: Float>(
    elements: &Elements,
    x: Operand<T>,
    dy: Operand<T>,
    slope: impl Fn(f64) -> f64 + Sync,
    dx: &mut [T],
) {
    elements.write(dx, |first, dx| {
        let operands = elements.of(x, first).zip(elements.of(dy, first));
        operands.zip(dx).for_each(|((x, dy), dx)| *dx = T::from_f64(slope(x.to_f64()) * dy.to_f64()));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values_and_limits() {
        // From the definitions in decimal arithmetic of 30 digits.
        let close = |got: f64, want: f64| assert!((got - want).abs() <= 4e-16 * want.abs(), "{got:e} {want:e}");
        close(sigmoid(1.0), 0.731_058_578_630_004_9);
        close(sigmoid(-40.0), 4.248_354_255_291_589e-18);
        close(log_sigmoid(-40.0), -40.0);
        close(log_sigmoid(40.0), -4.248_354_255_291_589e-18);
        close(sigmoid_slope(40.0), 4.248_354_255_291_589e-18);
        close(softplus(0.0), std::f64::consts::LN_2);
        assert_eq!((sigmoid(f64::NEG_INFINITY), sigmoid(f64::INFINITY)), (0.0, 1.0));
        assert_eq!((log_sigmoid(f64::NEG_INFINITY), log_sigmoid(f64::INFINITY)), (f64::NEG_INFINITY, 0.0));
        assert_eq!((sigmoid_slope(f64::INFINITY), log_sigmoid_slope(f64::NEG_INFINITY)), (0.0, 1.0));
        assert!(sigmoid(f64::NAN).is_nan() && log_sigmoid(f64::NAN).is_nan() && softplus(f64::NAN).is_nan());
    }

    #[test]
    fn slopes_are_those_of_finite_differences() {
        for x in [-7.0, -1.0, 0.0, 0.3, 5.0] {
            let difference = |f: fn(f64) -> f64| (f(x + 1e-5) - f(x - 1e-5)) / 2e-5;
            assert!((difference(sigmoid) - sigmoid_slope(x)).abs() < 1e-10);
            assert!((difference(log_sigmoid) - log_sigmoid_slope(x)).abs() < 1e-10);
        }
    }
}
