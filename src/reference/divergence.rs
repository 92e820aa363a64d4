//! Divergence of two rows of logits: the formulae on one pair of rows, and the loop over strided operands.

use super::row::State;
use super::top_k::top_k;
use super::{Operand, Output, Rows, Sum};
use crate::dtype::Float;
use rayon::prelude::*;

/// Which divergence of the probabilities `t` of the teacher and `s` of the student.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Direction {
    /// `KL(t || s)`.
    Forward,
    /// `KL(s || t)`.
    Reverse,
    /// `beta * KL(t || m) + (1 - beta) * KL(s || m)` with `m = beta * t + (1 - beta) * s`.
    JensenShannon {
        /// Between 0 and 1, both excluded.
        beta: f64,
    },
}

/// A row's probabilities and their logarithms.
struct Distribution {
    p: Vec<f64>,
    log: Vec<f64>,
    /// Whether nothing is visible.
    empty: bool,
    /// Whether the row holds a NaN or +inf.
    nan: bool,
}

impl Distribution {
    fn of(x: &[f64], tau: f64) -> Self {
        let state = State::of(x, tau);
        let p = x.iter().map(|x| state.probability(*x, tau)).collect();
        let log = x.iter().map(|x| state.log_probability(*x, tau)).collect();
        Self { p, log, empty: state.is_empty(), nan: state.max.is_nan() }
    }
}

/// `p * ln(p / q) - p + q`, never negative; the last two terms of a whole row cancel. `ratio` is `ln(p / q)`.
fn term(p: f64, q: f64, ratio: f64) -> f64 {
    if p == 0.0 {
        q
    } else if ratio.abs() < 1.0 {
        p * ((-ratio).exp_m1() + ratio)
    } else {
        p * ratio - p + q
    }
}

/// `KL(p || q)`: what p hides has no part in it, and it is +inf where q hides what p shows.
fn relative_entropy(p: &Distribution, q: &Distribution) -> f64 {
    if p.nan || q.nan {
        return f64::NAN;
    }
    if p.empty {
        return 0.0;
    }
    let hides = |(p, q): (&f64, &f64)| *p != f64::NEG_INFINITY && *q == f64::NEG_INFINITY;
    if p.log.iter().zip(&q.log).any(hides) {
        return f64::INFINITY;
    }
    Sum::of((0..p.p.len()).map(|i| term(p.p[i], q.p[i], p.log[i] - q.log[i]))).value()
}

/// `ln(beta * exp(t) + (1 - beta) * exp(s))`, a log-sum-exp of two.
fn log_mixture(t: f64, s: f64, beta: f64) -> f64 {
    if t == s {
        return t;
    }
    let (t, s) = (t + beta.ln(), s + (-beta).ln_1p());
    t.max(s) + (t.min(s) - t.max(s)).exp().ln_1p()
}

/// The divergence of one pair of rows.
pub fn divergence(student: &[f64], teacher: &[f64], tau: f64, direction: Direction) -> f64 {
    let (s, t) = (Distribution::of(student, tau), Distribution::of(teacher, tau));
    let beta = match direction {
        Direction::Forward => return relative_entropy(&t, &s),
        Direction::Reverse => return relative_entropy(&s, &t),
        Direction::JensenShannon { beta } => beta,
    };
    let of_entry = |i: usize| {
        let (m, log_m) = (beta * t.p[i] + (1.0 - beta) * s.p[i], log_mixture(t.log[i], s.log[i], beta));
        beta * term(t.p[i], m, t.log[i] - log_m) + (1.0 - beta) * term(s.p[i], m, s.log[i] - log_m)
    };
    if s.nan || t.nan { f64::NAN } else { Sum::of((0..s.p.len()).map(of_entry)).value() }
}

/// Gradient of [`divergence`] by the student's logits. What the student hides has gradient 0; where the divergence with the
/// student in front is infinite, what it shows has NaN.
pub fn divergence_backward(student: &[f64], teacher: &[f64], tau: f64, direction: Direction) -> Vec<f64> {
    let (s, t) = (Distribution::of(student, tau), Distribution::of(teacher, tau));
    let classes = student.len();
    if s.nan || t.nan {
        return vec![f64::NAN; classes];
    }
    let shown = |i: usize| s.log[i] != f64::NEG_INFINITY;
    let (logs, factor): (Vec<f64>, f64) = match direction {
        Direction::Forward => {
            let slope = |i: usize| if shown(i) && !t.empty { (s.p[i] - t.p[i]) / tau } else { 0.0 };
            return (0..classes).map(slope).collect();
        }
        Direction::Reverse => ((0..classes).map(|i| s.log[i] - t.log[i]).collect(), 1.0),
        Direction::JensenShannon { beta } => {
            let log = |i: usize| s.log[i] - log_mixture(t.log[i], s.log[i], beta);
            ((0..classes).map(log).collect(), 1.0 - beta)
        }
    };
    let counts = |i: &usize| shown(*i) && (s.p[*i] != 0.0 || logs[*i] == f64::INFINITY);
    let sum = Sum::of((0..classes).filter(counts).map(|i| if s.p[i] == 0.0 { logs[i] } else { s.p[i] * logs[i] }));
    let slope = |i: usize| {
        if !shown(i) {
            0.0
        } else if sum.value().is_infinite() {
            f64::NAN
        } else if s.p[i] == 0.0 {
            0.0
        } else {
            factor * s.p[i] * sum.subtracted_from(logs[i]) / tau
        }
    };
    (0..classes).map(slope).collect()
}

/// Logits of a student and a teacher, both of one shape.
#[derive(Clone, Copy, Debug)]
pub struct Lessons<'a, T> {
    /// The student's logits.
    pub student: Operand<'a, T>,
    /// The teacher's logits.
    pub teacher: Operand<'a, T>,
    /// Which divergence.
    pub direction: Direction,
    /// The temperature.
    pub tau: f64,
    /// What every divergence is multiplied by.
    pub factor: f64,
    /// How many of the teacher's largest logits count, or all.
    pub top_k: Option<usize>,
}

impl<T: Float> Lessons<'_, T> {
    /// The student's and the teacher's logits of the classes that count, and which these are.
    fn rows(&self, rows: &Rows, row: usize) -> ([Vec<f64>; 2], Vec<usize>) {
        let whole: [Vec<f64>; 2] =
            [self.student, self.teacher].map(|operand| operand.row(rows, row).map(Float::to_f64).collect());
        match self.top_k {
            None => (whole, (0..rows.len()).collect()),
            Some(k) => {
                let chosen = top_k(&whole[1], k);
                (whole.map(|x| chosen.iter().map(|class| x[*class]).collect()), chosen)
            }
        }
    }

    /// The loss of every row, in parallel.
    pub fn losses(&self, rows: &Rows) -> Vec<f64> {
        let loss = |row| {
            let ([student, teacher], _) = self.rows(rows, row);
            self.factor * divergence(&student, &teacher, self.tau, self.direction)
        };
        (0..rows.count()).into_par_iter().with_min_len(16).map(loss).collect()
    }

    /// Gradient by the student's logits, where `upstream(row)` is the gradient by that row's loss.
    pub fn backward(&self, rows: &Rows, upstream: impl Fn(usize) -> f64 + Sync, dstudent: Output<T>) {
        dstudent.write_rows(rows, |row, out| {
            let ([student, teacher], chosen) = self.rows(rows, row);
            let factor = self.factor * upstream(row);
            let slopes = divergence_backward(&student, &teacher, self.tau, self.direction);
            let gradient = |slope: f64| if slope == 0.0 { 0.0 } else { slope * factor };
            out.fill(T::from_f64(0.0));
            slopes.into_iter().zip(chosen).for_each(|(slope, class)| out[class] = T::from_f64(gradient(slope)));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Direction; 4] = [
        Direction::Forward,
        Direction::Reverse,
        Direction::JensenShannon { beta: 0.5 },
        Direction::JensenShannon { beta: 0.1 },
    ];

    #[test]
    fn the_sum_of_the_definition() {
        let (x, y) = ([0.3, -1.2, 2.0, 0.0], [1.0, 0.5, -0.7, 0.1]);
        let (s, t) = (Distribution::of(&x, 2.0), Distribution::of(&y, 2.0));
        let kl = |p: &[f64], q: &[f64]| -> f64 { p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum() };
        for direction in ALL {
            let naive = match direction {
                Direction::Forward => kl(&t.p, &s.p),
                Direction::Reverse => kl(&s.p, &t.p),
                Direction::JensenShannon { beta } => {
                    let m: Vec<f64> = t.p.iter().zip(&s.p).map(|(t, s)| beta * t + (1.0 - beta) * s).collect();
                    beta * kl(&t.p, &m) + (1.0 - beta) * kl(&s.p, &m)
                }
            };
            assert!((divergence(&x, &y, 2.0, direction) - naive).abs() < 1e-15, "{direction:?}");
        }
    }

    #[test]
    fn finite_differences() {
        let (x, y, tau, h) = ([0.3, -1.2, 2.0, 0.0], [1.0, 0.5, -0.7, 0.1], 1.5, 1e-5);
        for direction in ALL {
            let slopes = divergence_backward(&x, &y, tau, direction);
            for i in 0..4 {
                let [above, below] = [h, -h].map(|h| {
                    let mut moved = x;
                    moved[i] += h;
                    divergence(&moved, &y, tau, direction)
                });
                assert!(((above - below) / (2.0 * h) - slopes[i]).abs() < 1e-9, "{direction:?} by logit {i}");
            }
        }
    }

    #[test]
    fn what_is_hidden() {
        let hidden = f64::NEG_INFINITY;
        let half = Direction::JensenShannon { beta: 0.5 };
        let (less, more) = ([hidden, 1.0, 2.0], [0.0, 1.0, 2.0]);
        assert_eq!(divergence(&less, &more, 1.0, Direction::Forward), f64::INFINITY);
        assert!(divergence(&more, &less, 1.0, Direction::Forward) < 1.0);
        assert_eq!(divergence(&more, &less, 1.0, Direction::Reverse), f64::INFINITY);
        assert!(divergence_backward(&more, &less, 1.0, Direction::Reverse).iter().all(|slope| slope.is_nan()));
        assert!(divergence(&less, &more, 1.0, half) < 2f64.ln());
        let nothing = [hidden; 3];
        for direction in ALL {
            assert_eq!(divergence(&nothing, &nothing, 1.0, direction), 0.0);
            assert_eq!(divergence_backward(&nothing, &more, 1.0, direction), [0.0; 3]);
            assert!(divergence(&[f64::NAN, 0.0, 0.0], &nothing, 1.0, direction).is_nan());
        }
        assert_eq!(divergence(&more, &nothing, 1.0, Direction::Forward), 0.0);
        assert_eq!(divergence_backward(&more, &nothing, 1.0, Direction::Forward), [0.0; 3]);
        // Apart for good: ln(2).
        assert_eq!(divergence(&[hidden, 0.0], &[0.0, hidden], 1.0, half), 2f64.ln());
        assert_eq!(divergence(&[-1e30, 0.0], &[0.0, -1e30], 1.0, half), 2f64.ln());
    }
}
