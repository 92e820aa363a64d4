//! Case tables: what the tests of the softmax family run, on every device and element type.

use std::fmt;

use sumexp::Polarity;

use super::arrange::Arrangement;
use super::compare::Format;
use super::random::Random;

/// A boolean mask of a case.
#[derive(Clone, Debug)]
pub struct MaskCase {
    /// What a true byte means.
    pub polarity: Polarity,
    /// Its own shape, which broadcasts to that of the case.
    pub dims: Vec<usize>,
    /// How it lies in memory.
    pub arrangement: Arrangement,
}

/// What the logits are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fill {
    /// Normal numbers with one clear maximum, a close second and one entry far below.
    Ordinary,
    /// The rows of [`SPECIAL_ROWS`] first, ordinary rows behind them.
    Special,
    /// The same number everywhere.
    Constant(f64),
    /// Margins from 0 to 80 between the two largest entries, and rows of values to 1e30 (6e4 in f16).
    Mixed,
}

/// One call.
#[derive(Clone, Debug)]
pub struct Case {
    pub dims: Vec<usize>,
    /// Position of the softmax dim.
    pub dim: usize,
    pub tau: f32,
    pub mask: Option<MaskCase>,
    /// How the logits (and upstream gradients) lie in memory.
    pub input: Arrangement,
    /// How the output lies in memory.
    pub output: Arrangement,
    pub fill: Fill,
    pub seed: u64,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} dim front({}) tau {} {:?}", self.dims, self.dim, self.tau, self.fill)?;
        if let Some(mask) = &self.mask {
            write!(f, ", {:?} mask {:?} {}", mask.polarity, mask.dims, mask.arrangement)?;
        }
        write!(f, ", input {}, output {}, seed {}", self.input, self.output, self.seed)
    }
}

impl Case {
    /// A contiguous call along the last dim.
    pub fn new(dims: &[usize], fill: Fill) -> Case {
        let offset = Arrangement::Offset(0);
        let seed = dims.iter().fold(17, |seed, len| seed * 31 + *len as u64);
        let (dims, dim) = (dims.to_vec(), dims.len() - 1);
        Case { dims, dim, tau: 1.0, mask: None, input: offset, output: offset, fill, seed }
    }

    pub fn along(self, dim: usize) -> Case {
        Case { dim, ..self }
    }

    pub fn tau(self, tau: f32) -> Case {
        Case { tau, ..self }
    }

    pub fn input(self, input: Arrangement) -> Case {
        Case { input, ..self }
    }

    pub fn output(self, output: Arrangement) -> Case {
        Case { output, ..self }
    }

    pub fn mask(self, polarity: Polarity, dims: &[usize], arrangement: Arrangement) -> Case {
        Case { mask: Some(MaskCase { polarity, dims: dims.to_vec(), arrangement }), ..self }
    }

    /// The length of a row.
    pub fn len(&self) -> usize {
        self.dims[self.dim]
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.dims.iter().enumerate().filter(|(k, _)| *k != self.dim).map(|(_, n)| n).product()
    }

    /// For every row, the positions of its entries in row-major order of the whole shape.
    pub fn row_places(&self) -> impl Iterator<Item = Vec<usize>> + '_ {
        let inner: usize = self.dims[self.dim + 1..].iter().product();
        let len = self.len();
        (0..self.rows()).map(move |row| {
            let start = row / inner * inner * len + row % inner;
            (0..len).map(|i| start + i * inner).collect()
        })
    }

    /// The logits in row-major order, as exact values of the type.
    pub fn logits<T: Format>(&self) -> Vec<T> {
        let mut random = Random::new(self.seed);
        let mut x = vec![T::default(); self.rows() * self.len()];
        for (row, places) in self.row_places().enumerate() {
            let values = match self.fill {
                Fill::Special if row < SPECIAL_ROWS.len() => special_row::<T>(row, self.len(), &mut random),
                Fill::Special | Fill::Ordinary => ordinary_row(self.len(), &mut random),
                Fill::Constant(value) => vec![value; self.len()],
                Fill::Mixed => mixed_row::<T>(self.len(), &mut random),
            };
            places.iter().zip(values).for_each(|(place, value)| x[*place] = T::from_f64(value));
        }
        self.repeat(x)
    }

    /// Upstream gradients: normal numbers, one large one per row.
    pub fn upstream<T: Format>(&self) -> Vec<T> {
        let mut random = Random::new(self.seed ^ 0xd1);
        let mut dy = vec![T::default(); self.rows() * self.len()];
        for places in self.row_places() {
            places.iter().for_each(|place| dy[*place] = T::from_f64(random.normal()));
            if let Some(place) = places.get(random.below(places.len().max(1))) {
                dy[*place] = T::from_f64(30.0 + random.unit());
            }
        }
        self.repeat(dy)
    }

    /// The mask's bytes in row-major order of its own shape. Visible bytes of a keep mask are any number but 0.
    pub fn mask_bytes(&self) -> Vec<u8> {
        let Some(mask) = &self.mask else { return Vec::new() };
        let mut random = Random::new(self.seed ^ 0x3a);
        let elements = mask.dims.iter().product();
        (0..elements).map(|_| if random.one_in(3) { 0 } else { 1 << random.below(8) }).collect()
    }

    /// Which entries take part as far as the mask says, in row-major order of the whole shape.
    pub fn visible(&self) -> Vec<bool> {
        let elements = self.dims.iter().product();
        let Some(mask) = &self.mask else { return vec![true; elements] };
        let bytes = self.mask_bytes();
        let missing = self.dims.len() - mask.dims.len();
        let at = |element: usize| {
            let (mut rest, mut place, mut stride) = (element, 0, 1);
            for k in (0..self.dims.len()).rev() {
                let index = rest % self.dims[k];
                rest /= self.dims[k];
                if k >= missing {
                    let len = mask.dims[k - missing];
                    place += index % len * stride;
                    stride *= len;
                }
            }
            bytes[place]
        };
        (0..elements).map(|element| mask.polarity.visible(at(element))).collect()
    }

    /// With a repeated dim in memory, the entries at its index 0 stand everywhere.
    fn repeat<T: Copy>(&self, values: Vec<T>) -> Vec<T> {
        let Arrangement::Repeated(dim) = self.input else { return values };
        let inner: usize = self.dims[dim + 1..].iter().product();
        let len = self.dims[dim];
        (0..values.len()).map(|i| values[i / (inner * len) * (inner * len) + i % inner]).collect()
    }
}

/// Rows that broken kernels get wrong. What each must give is the reference's business; see `tests/laws.rs`.
pub const SPECIAL_ROWS: [&str; 13] = [
    "NaN in the middle",
    "NaN first",
    "NaN last",
    "NaN beside -inf",
    "all -inf",
    "all -inf but one",
    "first half -inf",
    "last half -inf",
    "+inf and ordinary numbers",
    "+inf alone among -inf",
    "equal and huge",
    "equal and far below 0",
    "every other -inf",
];

fn special_row<T: Format>(row: usize, len: usize, random: &mut Random) -> Vec<f64> {
    let hidden = f64::NEG_INFINITY;
    let huge = if T::DIGITS == 11 { 6e4 } else { 88e3 };
    let mut x = ordinary_row(len, random);
    let last = len - 1;
    match SPECIAL_ROWS[row] {
        "NaN in the middle" => x[len / 2] = f64::NAN,
        "NaN first" => x[0] = f64::NAN,
        "NaN last" => x[last] = f64::NAN,
        "NaN beside -inf" => {
            x.fill(hidden);
            x[len / 2] = f64::NAN;
        }
        "all -inf" => x.fill(hidden),
        "all -inf but one" => {
            x.fill(hidden);
            x[random.below(len)] = 5.0;
        }
        "first half -inf" => x[..len / 2].fill(hidden),
        "last half -inf" => x[len / 2 + 1..].fill(hidden),
        "+inf and ordinary numbers" => x[last] = f64::INFINITY,
        "+inf alone among -inf" => {
            x.fill(hidden);
            x[0] = f64::INFINITY;
        }
        "equal and huge" => x.fill(huge),
        "equal and far below 0" => x.fill(huge - 1e4 - 2.0 * huge),
        _ => x.iter_mut().step_by(2).for_each(|x| *x = hidden),
    }
    x
}

/// One clear maximum, a close second, one far below: no answer of such a row is near 1/len or below a tolerance.
fn ordinary_row(len: usize, random: &mut Random) -> Vec<f64> {
    let mut x: Vec<f64> = (0..len).map(|_| random.normal()).collect();
    if len > 0 {
        x[random.below(len)] = -25.0;
        x[random.below(len)] = 6.0 + (len as f64).ln();
        x[random.below(len)] = 5.0 + (len as f64).ln();
    }
    x
}

/// One row of mixed magnitude.
pub fn mixed_row<T: Format>(len: usize, random: &mut Random) -> Vec<f64> {
    let scale = [0.01, 1.0, 10.0, 100.0][random.below(4)];
    let mut x: Vec<f64> = (0..len).map(|_| random.normal() * scale).collect();
    match random.below(4) {
        // A margin anywhere between 0 and 80 above everything else.
        0 => {
            let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            x[random.below(len)] = max + random.between(0.0, 80.0);
        }
        // Far away from 0.
        1 => {
            let shift = random.between(-1.0, 1.0) * if T::DIGITS == 11 { 6e4 } else { 1e6 };
            x.iter_mut().for_each(|x| *x += shift);
        }
        // Some entries of any magnitude and sign.
        2 => {
            let decades: f64 = if T::DIGITS == 11 { 4.7 } else { 30.0 };
            let sign = if random.one_in(2) { 1.0 } else { -1.0 };
            for _ in 0..1 + len / 8 {
                let sign = if random.one_in(8) { -sign } else { sign };
                x[random.below(len)] = sign * 10f64.powf(random.between(-decades.min(6.0), decades));
            }
        }
        _ => {}
    }
    x
}
