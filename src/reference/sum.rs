//! Sums in float64 whose rounding error does not grow with the number of terms.

/// A running sum as a pair: `high` is the rounded sum, `low` what rounding took away from it (Neumaier's summation).
///
/// The pair is kept apart on purpose: `dy - sum(dy * y)` loses everything when one `y` is almost 1,
/// unless `high` is subtracted first, where it cancels exactly, and `low` afterwards.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    high: f64,
    low: f64,
}

impl Sum {
    /// The sum of `terms`. A NaN or an infinity among them comes out as in a plain sum.
    pub fn of(terms: impl IntoIterator<Item = f64>) -> Sum {
        terms.into_iter().fold(Sum::default(), |sum, term| sum.plus(term))
    }

    /// This sum and one more term.
    pub fn plus(self, term: f64) -> Sum {
        let high = self.high + term;
        if !high.is_finite() {
            return Sum { high, low: 0.0 };
        }
        let lost = if self.high.abs() >= term.abs() { (self.high - high) + term } else { (term - high) + self.high };
        Sum { high, low: self.low + lost }
    }

    /// The sum, rounded once.
    pub fn value(self) -> f64 {
        self.high + self.low
    }

    /// `x - sum`, exact to the last bits also where `x` almost equals the sum.
    pub fn subtracted_from(self, x: f64) -> f64 {
        (x - self.high) - self.low
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_a_plain_sum_loses() {
        let terms = [1.0, 1e-30, 1e-30, -1.0];
        assert_eq!(terms.iter().sum::<f64>(), 0.0, "a plain sum was expected to lose the small terms");
        assert_eq!(Sum::of(terms).value(), 2e-30);
        assert_eq!(Sum::of([1.0, 1e-40]).subtracted_from(1.0), -1e-40);
    }

    #[test]
    fn special_values_are_those_of_a_plain_sum() {
        assert_eq!(Sum::of([]).value(), 0.0);
        assert_eq!(Sum::of([f64::INFINITY, 1.0]).value(), f64::INFINITY);
        assert_eq!(Sum::of([1.0, f64::NEG_INFINITY]).value(), f64::NEG_INFINITY);
        assert!(Sum::of([f64::INFINITY, f64::NEG_INFINITY]).value().is_nan());
        assert!(Sum::of([1.0, f64::NAN, 2.0]).value().is_nan());
    }
}
