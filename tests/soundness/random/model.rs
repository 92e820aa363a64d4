//! What tensors must hold, computed one step after the other in float64 and without devices.

/// Rows and columns of every tensor on which programs compute.
pub const ROWS: usize = 4;
pub const COLUMNS: usize = 6;
/// Elements of such a tensor.
pub const LEN: usize = ROWS * COLUMNS;

/// The elements of a tensor, and how far the roundings so far may have taken each of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Values {
    pub elements: Vec<f64>,
    pub slack: f64,
}

/// What a forward operation computes along its dim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    Softmax,
    Softmin,
    LogSoftmax,
    LogSumExp,
}

/// How an operation looks at a tensor of [`ROWS`] x [`COLUMNS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    Whole,
    /// Rows and columns exchanged.
    Transposed,
    /// One row, repeated to the whole shape.
    Row(usize),
    /// One column, repeated to the whole shape.
    Column(usize),
}

impl Look {
    /// The shape that is seen.
    pub fn dims(self) -> [usize; 2] {
        if self == Look::Transposed { [COLUMNS, ROWS] } else { [ROWS, COLUMNS] }
    }

    /// The elements that are seen, in row-major order.
    pub fn through(self, values: &Values) -> Values {
        let [rows, columns] = self.dims();
        let at = |row: usize, column: usize| match self {
            Look::Whole => row * COLUMNS + column,
            Look::Transposed => column * COLUMNS + row,
            Look::Row(only) => only * COLUMNS + column,
            Look::Column(only) => row * COLUMNS + only,
        };
        let positions = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
        let elements = positions.map(|(row, column)| values.elements[at(row, column)]).collect();
        Values { elements, slack: values.slack }
    }
}

/// The positions of every row of a matrix of `dims` along `dim`.
fn rows(dims: [usize; 2], dim: usize) -> Vec<Vec<usize>> {
    let [height, width] = dims;
    match dim {
        0 => (0..width).map(|column| (0..height).map(|row| row * width + column).collect()).collect(),
        _ => (0..height).map(|row| (0..width).map(|column| row * width + column).collect()).collect(),
    }
}

impl Values {
    pub fn exact(elements: &[f32]) -> Self {
        Self { elements: elements.iter().map(|&x| f64::from(x)).collect(), slack: 0.0 }
    }

    /// Whether operations on these stay predictable.
    pub fn is_tame(&self) -> bool {
        self.slack <= 1e-2 && self.elements.iter().all(|x| x.abs() <= 64.0)
    }

    /// Whether they can be probabilities, as far as bounds go.
    pub fn is_unit(&self) -> bool {
        self.slack <= 1e-2 && self.elements.iter().all(|x| (0.0..=1.001).contains(x))
    }

    /// Whether a device that holds these may show `found`.
    pub fn admit(&self, found: &[f32]) -> bool {
        let near = |(&want, &found): (&f64, &f32)| {
            let found = f64::from(found);
            want.is_nan() && found.is_nan() || want == found || (want - found).abs() <= self.slack
        };
        found.len() == self.elements.len() && self.elements.iter().zip(found).all(near)
    }

    /// A forward operation; `visible` says which entries take part.
    pub fn forward(&self, dims: [usize; 2], dim: usize, what: Forward, visible: &dyn Fn(usize) -> bool) -> Values {
        let sign = if what == Forward::Softmin { -1.0 } else { 1.0 };
        let x = |at: usize| if visible(at) { sign * self.elements[at] } else { f64::NEG_INFINITY };
        let mut elements = vec![0.0; self.elements.len()];
        let mut sums = Vec::new();
        for row in rows(dims, dim) {
            let max = row.iter().map(|&at| x(at)).fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = row.iter().map(|&at| if max.is_finite() { (x(at) - max).exp() } else { 0.0 }).sum();
            sums.push(max + sum.ln());
            for &at in &row {
                elements[at] = match what {
                    Forward::LogSoftmax if x(at).is_finite() => x(at) - max - sum.ln(),
                    Forward::LogSoftmax => f64::NEG_INFINITY,
                    _ if x(at).is_finite() => (x(at) - max).exp() / sum,
                    _ => 0.0,
                };
            }
        }
        match what {
            Forward::LogSumExp => Values { elements: sums, slack: self.slack + 1e-4 },
            Forward::LogSoftmax => Values { elements, slack: 2.0 * self.slack + 1e-4 },
            Forward::Softmax | Forward::Softmin => Values { elements, slack: self.slack + 1e-5 },
        }
    }

    /// The gradient of a softmax whose result these are.
    pub fn softmax_backward(&self, dims: [usize; 2], dim: usize, dy: &Values) -> Values {
        let mut elements = vec![0.0; self.elements.len()];
        for row in rows(dims, dim) {
            let sum: f64 = row.iter().map(|&at| self.elements[at] * dy.elements[at]).sum();
            row.iter().for_each(|&at| elements[at] = self.elements[at] * (dy.elements[at] - sum));
        }
        // How far off the sum can be, and with it the product.
        let largest = dy.elements.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
        let width = COLUMNS.max(ROWS) as f64;
        let sum_slack = width * (largest * self.slack + 1.01 * dy.slack + self.slack * dy.slack);
        let slack = self.slack * (1.0 + width) * (largest + dy.slack) + 1.01 * (dy.slack + sum_slack);
        Values { elements, slack: slack + 1e-4 * (1.0 + largest) }
    }

    /// Losses of the rows for class targets, and their gradient for an upstream gradient of 1.
    pub fn cross_entropy(&self, targets: &[i64]) -> (Values, Values) {
        let lse = self.forward([ROWS, COLUMNS], 1, Forward::LogSumExp, &|_| true);
        let mut gradient = self.forward([ROWS, COLUMNS], 1, Forward::Softmax, &|_| true);
        let mut losses = Values { elements: Vec::new(), slack: lse.slack + self.slack };
        for (row, &target) in targets.iter().enumerate() {
            let class = usize::try_from(target).ok().filter(|&class| class < COLUMNS);
            losses.elements.push(match class {
                Some(class) => lse.elements[row] - self.elements[row * COLUMNS + class],
                None if target == -100 => 0.0,
                None => f64::NAN,
            });
            match class {
                Some(class) => gradient.elements[row * COLUMNS + class] -= 1.0,
                None => gradient.elements[row * COLUMNS..][..COLUMNS].fill(0.0),
            }
        }
        (losses, gradient)
    }
}
