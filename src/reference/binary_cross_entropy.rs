//! Binary cross-entropy from logits: the formulae on one element, and what the CPU device runs.

use super::sigmoid::{sigmoid, softplus};
use super::{Elements, Operand};
use crate::dtype::Float;

/// One element: its target (the probability that the event happens), its weight, and the weight of the event's happening.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Event {
    /// The target.
    pub target: f64,
    /// The weight of the element.
    pub weight: f64,
    /// The weight of the part of the loss in which the event happens.
    pub pos_weight: f64,
}

/// `factor * value`, or 0 if the factor is 0, whatever the value is.
fn term(factor: f64, value: f64) -> f64 {
    if factor == 0.0 { 0.0 } else { factor * value }
}

impl Event {
    /// `w * (t * q * softplus(-x) + (1 - t) * softplus(x))`.
    pub fn loss(self, x: f64) -> f64 {
        let Event { target, weight, pos_weight } = self;
        term(weight, term(target * pos_weight, softplus(-x)) + term(1.0 - target, softplus(x)))
    }

    /// The two terms whose difference is the derivative of [`Event::loss`] times `upstream`:
    /// `w * (1 - t) * sigmoid(x)` and `w * t * q * sigmoid(-x)`.
    pub fn slopes(self, x: f64, upstream: f64) -> (f64, f64) {
        let Event { target, weight, pos_weight } = self;
        if weight == 0.0 {
            return (0.0, 0.0);
        }
        let factor = weight * upstream;
        (term((1.0 - target) * factor, sigmoid(x)), term(target * pos_weight * factor, sigmoid(-x)))
    }
}

/// Logits, targets and weights of a call, all of one shape.
#[derive(Clone, Copy, Debug)]
pub struct Events<'a, T> {
    /// The logits.
    pub logits: Operand<'a, T>,
    /// The targets.
    pub targets: Operand<'a, T>,
    /// The weights; 1 without any.
    pub weight: Option<Operand<'a, f32>>,
    /// The weights of the events' happening; 1 without any.
    pub pos_weight: Option<Operand<'a, f32>>,
}

/// Weights from number `first` on: those given, or 1 forever.
fn ones_or(elements: &Elements, weights: Option<Operand<f32>>, first: usize) -> impl Iterator<Item = f64> {
    let mut given = weights.map(|weights| elements.of(weights, first));
    std::iter::repeat_with(move || given.as_mut().and_then(Iterator::next).map_or(1.0, f64::from))
}

impl<T: Float> Events<'_, T> {
    /// Logits and events from number `first` on.
    fn of(&self, elements: &Elements, first: usize) -> impl Iterator<Item = (f64, Event)> {
        let weights = ones_or(elements, self.weight, first).zip(ones_or(elements, self.pos_weight, first));
        let logits = elements.of(self.logits, first).zip(elements.of(self.targets, first));
        logits.zip(weights).map(|((x, target), (weight, pos_weight))| {
            (x.to_f64(), Event { target: target.to_f64(), weight, pos_weight })
        })
    }

    /// The loss of every element.
    pub fn losses(&self, elements: &Elements) -> Vec<f64> {
        let mut losses = vec![0.0; elements.shape.iter().product()];
        elements.write(&mut losses, |first, losses| {
            self.of(elements, first).zip(losses).for_each(|((x, event), loss)| *loss = event.loss(x));
        });
        losses
    }

    /// The gradient of the logits, given that of the losses, which is multiplied by `scale`.
    pub fn backward(&self, elements: &Elements, upstream: Operand<f32>, scale: f64, dlogits: &mut [T]) {
        elements.write(dlogits, |first, dlogits| {
            let events = self.of(elements, first).zip(elements.of(upstream, first));
            events.zip(dlogits).for_each(|(((x, event), upstream), gradient)| {
                let (up, down) = event.slopes(x, f64::from(upstream) * scale);
                *gradient = T::from_f64(up - down);
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(target: f64) -> Event {
        Event { target, weight: 1.0, pos_weight: 1.0 }
    }

    #[test]
    fn the_logarithm_of_the_probability_of_what_happened() {
        for x in [-9.0, -0.5, 0.0, 2.0, 30.0] {
            let (p, q) = (sigmoid(x), sigmoid(-x));
            for t in [0.0, 0.25, 1.0] {
                let naive = -(t * p.ln() + (1.0 - t) * q.ln());
                assert!((event(t).loss(x) - naive).abs() <= 1e-12 * naive.max(1e-3), "{x} {t}");
                let (up, down) = event(t).slopes(x, 1.0);
                assert!((up - down - (p - t)).abs() < 1e-15, "{x} {t}");
            }
        }
    }

    #[test]
    fn infinite_logits_and_weights_of_zero() {
        assert_eq!(event(1.0).loss(f64::INFINITY), 0.0);
        assert_eq!(event(0.0).loss(f64::NEG_INFINITY), 0.0);
        assert_eq!(event(0.0).loss(f64::INFINITY), f64::INFINITY);
        assert_eq!(event(0.5).loss(f64::NEG_INFINITY), f64::INFINITY);
        assert_eq!(event(1.0).slopes(f64::NEG_INFINITY, 1.0), (0.0, 1.0));
        let out = Event { target: f64::NAN, weight: 0.0, pos_weight: 1.0 };
        assert_eq!((out.loss(f64::NAN), out.slopes(f64::NAN, 1.0)), (0.0, (0.0, 0.0)));
        assert!(event(1.0).loss(f64::NAN).is_nan());
    }
}
